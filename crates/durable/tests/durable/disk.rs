//! Each call is one step; a disk that is set to fail does nothing from that step on; and what replaces something does
//! so at once or not at all.
#![expect(clippy::disallowed_methods, reason = "the tests look at what the disk does")]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use strandline_durable::{Disk, DiskError, NewFile};
use tempfile::{TempDir, tempdir};

type Step<'a> = Box<dyn Fn(&Disk) -> Result<(), DiskError> + 'a>;

/// Every kind of step once, each of which succeeds on the real disk.
fn steps(directory: &Path) -> Vec<Step<'_>> {
    let at = |name: &str| directory.join(name);
    let file = move |disk: &Disk| disk.create_file(&directory.join("file"));
    vec![
        Box::new(move |disk| disk.create_directory(&at("new/deep"))),
        Box::new(move |disk| file(disk).map(drop)),
        Box::new(move |disk| disk.rename(&at("file"), &at("renamed"))),
        Box::new(move |disk| disk.link_or_copy(&at("renamed"), &at("link"))),
        Box::new(move |disk| disk.rename_new(&at("link"), &at("other")).map(drop)),
        Box::new(move |disk| disk.remove_file(&at("other")).map(drop)),
        Box::new(move |disk| disk.remove_empty_directory(&at("new/deep")).map(drop)),
        Box::new(move |disk| disk.remove_tree(&at("new"))),
        Box::new(move |disk| disk.sync_directory(directory)),
        Box::new(move |disk| disk.sync_file_system(directory)),
        Box::new(move |disk| disk.commit_point(&at("catalog.db"))),
        Box::new(move |disk| disk.commit_done(&at("catalog.db"))),
    ]
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|child| {
            let child = child.unwrap();
            format!("{} {}", child.file_name().display(), child.metadata().unwrap().len())
        })
        .collect();
    names.sort();
    names
}

#[test]
fn the_real_disk_does_not_count() {
    let directory = tempdir().unwrap();
    let disk = Disk::new();
    for step in steps(directory.path()) {
        step(&disk).unwrap();
    }
    assert_eq!(disk.steps(), 0);
}

#[test]
fn each_call_is_one_step() {
    let directory = tempdir().unwrap();
    let disk = Disk::counting();
    let clone = disk.clone();
    for (before, step) in (0..).zip(steps(directory.path())) {
        assert_eq!(disk.steps(), before);
        step(if before % 2 == 0 { &disk } else { &clone }).unwrap();
    }
    assert_eq!((disk.steps(), clone.steps()), (12, 12), "clones share their count");
    disk.create_directory(directory.path()).unwrap();
    assert_eq!(disk.steps(), 12, "a directory that is there is not made");
}

#[test]
fn a_disk_that_fails_does_nothing_from_there_on() {
    for n in 1..=12_usize {
        let (directory, reference) = (tempdir().unwrap(), tempdir().unwrap());
        for step in steps(reference.path()).iter().take(n - 1) {
            step(&Disk::new()).unwrap();
        }
        let disk = Disk::failing_at(n as u64);
        for (index, step) in steps(directory.path()).iter().enumerate() {
            let done = step(&disk);
            assert_eq!(done.is_ok(), index + 1 < n, "step {} of a disk that fails at {n}", index + 1);
            if let Err(error) = done {
                assert_eq!(error.source.to_string(), "the disk is set to fail here");
                assert!(!error.is_full());
            }
        }
        assert_eq!(names(directory.path()), names(reference.path()), "failing at {n}");
    }
}

#[test]
fn an_error_that_passes_is_of_one_step_alone() {
    for n in 1..=3_u64 {
        let directory = tempdir().unwrap();
        let disk = Disk::failing_once_at(n);
        let names = ["one", "two", "three", "four"];
        for (number, name) in (1..).zip(names) {
            assert_eq!(disk.create_file(&directory.path().join(name)).is_ok(), number != n);
        }
        assert_eq!((disk.steps(), fs::read_dir(directory.path()).unwrap().count()), (4, 3));
    }
}

#[test]
fn the_writes_to_a_file_are_steps() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("file");
    let disk = Disk::failing_at(5);
    let mut file = disk.create_file(&path).unwrap();
    file.write(b"one ").unwrap();
    file.write(b"two").unwrap();
    file.seal(1_000_000_007).unwrap();
    assert_eq!((disk.steps(), file.path()), (4, path.as_path()));
    let error = file.sync().unwrap_err();
    assert_eq!(error.to_string(), format!("cannot sync `{}`", path.display()));
    file.write(b"three").unwrap_err();
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"one two", "dropping it leaves it");
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_000_000_007, 0));
    assert_eq!(metadata.permissions().mode() & 0o777, 0o444);
    assert!(disk.clone().create_file(&path).is_err());
    assert_eq!(Disk::new().create_file(&path).unwrap_err().source.kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn a_link_is_switched_in_one_step() {
    let directory = tempdir().unwrap();
    let link = directory.path().join("live");
    Disk::new().switch_link(&link, Path::new("a")).unwrap();
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("a"));

    let counting = Disk::counting();
    counting.switch_link(&link, Path::new("b")).unwrap();
    for n in 1..=counting.steps() {
        Disk::new().switch_link(&link, Path::new("a")).unwrap();
        Disk::failing_at(n).switch_link(&link, Path::new("b")).unwrap_err();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("a"), "failing at {n}");
        // What is left of it is in nobody's way.
        Disk::new().switch_link(&link, Path::new("b")).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("b"), "failing at {n}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_new_name_does_not_replace_what_has_it() {
    let directory = tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| directory.path().join(name));
    fs::write(&from, "new").unwrap();
    fs::write(&to, "old").unwrap();
    let disk = Disk::new();
    assert!(!disk.rename_new(&from, &to).unwrap());
    assert_eq!((fs::read_to_string(&from).unwrap(), fs::read_to_string(&to).unwrap()), ("new".into(), "old".into()));
    fs::remove_file(&to).unwrap();
    symlink("nowhere", &to).unwrap();
    assert!(!disk.rename_new(&from, &to).unwrap(), "a link to nothing is something");
    fs::remove_file(&to).unwrap();
    assert!(disk.rename_new(&from, &to).unwrap());
    assert_eq!((fs::read_to_string(&to).unwrap().as_str(), from.exists()), ("new", false));
    disk.rename_new(&from, &to).unwrap_err();

    fs::write(&from, "newer").unwrap();
    disk.rename(&from, &to).unwrap();
    assert_eq!(fs::read_to_string(&to).unwrap(), "newer", "a plain rename replaces");
}

#[test]
fn a_file_gets_another_name() {
    let directory = tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| directory.path().join(name));
    fs::write(&from, "bytes").unwrap();
    Disk::new().link_or_copy(&from, &to).unwrap();
    assert_eq!(fs::metadata(&from).unwrap().ino(), fs::metadata(&to).unwrap().ino());
    let error = Disk::new().link_or_copy(&from, &to).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists, "never over another");
}

/// The kernel's own files are on another device than any file that a test can make.
#[test]
fn a_file_of_another_device_is_copied_with_its_time() {
    let from = Path::new("/proc/sys/kernel/ostype");
    // While it is open, the kernel does not forget its time.
    let original = File::open(from).unwrap();
    let metadata = original.metadata().unwrap();
    let directory = tempdir().unwrap();
    let to = directory.path().join("copy");
    assert_eq!(fs::hard_link(from, &to).unwrap_err().kind(), io::ErrorKind::CrossesDevices);

    let disk = Disk::counting();
    disk.link_or_copy(from, &to).unwrap();
    assert_eq!(disk.steps(), 2, "the link that cannot be, and the copy");
    assert_eq!(fs::read(&to).unwrap(), fs::read(from).unwrap());
    let copy = fs::metadata(&to).unwrap();
    assert_eq!((copy.mtime(), copy.mtime_nsec()), (metadata.mtime(), metadata.mtime_nsec()));
    assert_eq!(copy.permissions().mode() & 0o777, metadata.permissions().mode() & 0o777);

    assert_eq!(disk.link_or_copy(from, &to).unwrap_err().source.kind(), io::ErrorKind::AlreadyExists);
    let elsewhere = directory.path().join("not");
    Disk::failing_at(2).link_or_copy(from, &elsewhere).unwrap_err();
    assert!(!elsewhere.exists());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary copy is left");
}

/// What is there and what is not, and what a removal says of it.
#[test]
fn removing_what_is_not_there_is_fine() {
    let directory: TempDir = tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let disk = Disk::new();
    fs::write(at("file"), "").unwrap();
    fs::create_dir_all(at("full/empty")).unwrap();
    assert_eq!([disk.remove_file(&at("file")).unwrap(), disk.remove_file(&at("file")).unwrap()], [true, false]);
    assert!(disk.remove_file(&at("full")).is_err(), "a directory is no file");
    assert!(!disk.remove_empty_directory(&at("full")).unwrap());
    assert!(disk.remove_empty_directory(&at("full/empty")).unwrap());
    assert!(disk.remove_empty_directory(&at("full/empty")).unwrap(), "it is gone, whoever removed it");
    fs::write(at("full/file"), "").unwrap();
    disk.remove_tree(&at("full")).unwrap();
    disk.remove_tree(&at("full")).unwrap();
    assert_eq!(names(directory.path()), [""; 0]);
}

#[test]
fn an_error_says_what_was_to_be_done_to_what() {
    let path = Path::new("/nowhere/at/all");
    let error = Disk::new().sync_directory(path).unwrap_err();
    assert_eq!(error.to_string(), "cannot sync the directory `/nowhere/at/all`");
    assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
    for (kind, full) in [
        (io::ErrorKind::StorageFull, true),
        (io::ErrorKind::QuotaExceeded, true),
        (io::ErrorKind::PermissionDenied, false),
    ] {
        assert_eq!(DiskError::new("write to", path, kind.into()).is_full(), full, "{kind}");
    }
}

/// What `link_file` and `clone_file` make of the file at `from`, and what is at `to` then.
fn shared(disk: &Disk, from: &Path, to: &Path) -> (Option<NewFile>, Option<NewFile>) {
    let original = File::open(from).unwrap();
    let linked = disk.link_file(&original, from, to).unwrap();
    assert_eq!(linked.is_some(), to.exists());
    if linked.is_some() {
        assert_eq!(fs::metadata(from).unwrap().ino(), fs::metadata(to).unwrap().ino());
        fs::remove_file(to).unwrap();
    }
    let cloned = disk.clone_file(&original, to).unwrap();
    assert_eq!(cloned.is_some(), to.exists(), "a clone that cannot be had leaves nothing");
    if cloned.is_some() {
        assert_ne!(fs::metadata(from).unwrap().ino(), fs::metadata(to).unwrap().ino());
        assert_eq!(fs::read(from).unwrap(), fs::read(to).unwrap());
        fs::remove_file(to).unwrap();
    }
    (linked, cloned)
}

#[test]
fn a_file_of_another_program_is_shared_where_that_can_be() {
    let directory = tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| directory.path().join(name));
    fs::write(&from, "some bytes").unwrap();
    let disk = Disk::counting();
    let (linked, _) = shared(&disk, &from, &to);
    assert_eq!(disk.steps(), 2, "each is one step");
    let mut linked = linked.expect("within a directory, files can be linked");
    let mut buffer = [0; 6];
    let read: Vec<_> = [0, 6, 10].map(|at| linked.read_at(&mut buffer, at).unwrap()).into();
    assert_eq!((read, disk.steps()), (vec![6, 4, 0], 2), "reading is none");
    assert_eq!(fs::metadata(&from).unwrap().permissions().mode() & 0o222, 0o200, "it is as it was");
    linked.seal(1_000_000_007).unwrap();
    linked.sync().unwrap();
    assert_eq!(fs::metadata(&from).unwrap().mtime(), 1_000_000_007, "it is the same file");

    // A path that means something else by now, or nothing, is not linked; nor is a link itself.
    let original = File::open(&from).unwrap();
    let other = directory.path().join("other");
    fs::write(&other, "other bytes").unwrap();
    let link = directory.path().join("link");
    symlink(&from, &link).unwrap();
    for path in [&other, &link, &directory.path().join("none")] {
        assert!(disk.link_file(&original, path, &to).unwrap().is_none(), "{}", path.display());
        assert!(fs::symlink_metadata(&to).is_err());
    }
    fs::write(&to, "taken").unwrap();
    assert!(disk.link_file(&original, &from, &to).is_err() && disk.clone_file(&original, &to).is_err());
    assert_eq!(fs::read(&to).unwrap(), b"taken");
    fs::remove_file(&to).unwrap();

    let failing = Disk::failing_at(1);
    assert!(failing.link_file(&original, &from, &to).is_err() && failing.clone_file(&original, &to).is_err());
    assert!(!to.exists());
}

#[test]
fn what_is_on_another_file_system_is_neither_linked_nor_cloned() {
    let (here, there) = (tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let [from, to] = [here.path().join("from"), there.path().join("to")];
    fs::write(&from, "some bytes").unwrap();
    if fs::metadata(here.path()).unwrap().dev() != fs::metadata(there.path()).unwrap().dev() {
        let (linked, cloned) = shared(&Disk::new(), &from, &to);
        assert!(linked.is_none() && cloned.is_none());
    }
}
