//! What `verify` finds, and what `gc` deletes and does not.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use strandline_testkit::World as Index;

use crate::server::{Serve, get};
use crate::world::{Run, World, files, text, wheel};

/// A mirror of one project with some serials.
pub(crate) fn mirror(serials: u64, top: &str, lines: &str) -> World {
    let mut index = Index::new();
    index.upload("six", &wheel("six", "0.0", 1));
    let world = World::new(index, "");
    world.configure(top, &format!("projects = [\"six\"]\n{lines}"));
    world.done(&["sync"]);
    for number in 1..serials {
        {
            let mut index = world.upstream.world();
            index.remove_release("six", &format!("{}.0", number - 1));
            index.upload("six", &wheel("six", &format!("{number}.0"), 1));
        }
        world.done(&["sync"]);
    }
    world
}

/// The path of the only wheel that the newest snapshot has, and its blob.
pub(crate) fn newest_wheel(world: &World) -> (String, PathBuf) {
    let shown = world.done(&["show", &format!("pypi@{}", world.newest()), "six"]);
    let line = shown.lines().find(|line| line.contains(".whl\t")).unwrap();
    let path = line.trim().split('\t').next().unwrap().to_owned();
    let pooled = world.path("store/views/pypi").join(&path);
    let bytes = fs::read(&pooled).unwrap();
    let blob = world.blobs().into_values().find(|blob| fs::read(blob).unwrap() == bytes).unwrap();
    (path, blob)
}

/// Changes the bytes of a file in place, which a program that respects its mode would not.
pub(crate) fn overwrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    change(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
    fs::File::options().append(true).open(path).unwrap().set_modified(modified).unwrap();
}

fn verify(world: &World, data: bool) -> Run {
    if data { world.run(&["verify", "pypi", "--data"]) } else { world.run(&["verify"]) }
}

/// Requires that what is wrong is found, by name.
#[track_caller]
fn finds(world: &World, data: bool, words: &[&str]) {
    let run = verify(world, data).ended(1).says(&["not as the catalog says"]);
    for word in words {
        assert!(run.out.contains(word), "stdout does not say `{word}`:\n{}", run.out);
    }
}

#[test]
fn a_flipped_bit_is_found_by_reading_all_data() {
    let world = mirror(2, "", "");
    verify(&world, true).ended(0).says(&["2 snapshots", "re-hashed"]);
    let (path, blob) = newest_wheel(&world);
    overwrite(&blob, |bytes| bytes[100] ^= 1);
    // The structure is as it was.
    verify(&world, false).ended(0);
    let name =
        format!("{}{}", blob.parent().unwrap().file_name().unwrap().display(), blob.file_name().unwrap().display());
    let newest = world.newest();
    finds(&world, true, &[&format!("blob {name} has other bytes"), &format!("named by pypi@{newest} {path}")]);
    let first = text(&world.log()[1]["serial"]);
    assert!(!verify(&world, true).out.contains(&format!("pypi@{first} ")), "the other serial does not name it");
}

#[test]
fn a_short_or_missing_blob_is_found_without_reading_data() {
    let world = mirror(1, "", "");
    let (path, blob) = newest_wheel(&world);
    let serial = world.newest();
    overwrite(&blob, |bytes| bytes.truncate(10));
    finds(&world, false, &["has 10 bytes instead of", &format!("pypi@{serial} {path}")]);
    fs::remove_file(&blob).unwrap();
    finds(&world, false, &["is missing", &format!("pypi@{serial} {path}")]);
    finds(&world, true, &["is missing", &format!("pypi@{serial} {path}")]);
}

#[test]
fn a_broken_view_is_found_and_the_link_is_put_right() {
    let world = mirror(2, "", "");
    let view = world.path("store/views/pypi");
    let live = view.join("live");
    let page = fs::canonicalize(&live).unwrap().join("simple/six/index.html");
    let shown = page.strip_prefix(fs::canonicalize(world.path("")).unwrap()).unwrap().display().to_string();
    let kept = fs::read(&page).unwrap();
    fs::remove_file(&page).unwrap();
    finds(&world, false, &[&format!("{shown} is missing")]);
    fs::write(&page, kept).unwrap();
    finds(&world, false, &[&format!("{shown} is not blob")]);

    let list = live.join("simple/index.v1_json");
    fs::remove_file(&list).unwrap();
    finds(&world, false, &["simple/index.v1_json is missing"]);

    let (path, _) = newest_wheel(&world);
    fs::remove_file(view.join(&path)).unwrap();
    finds(&world, false, &[&format!("{path} is missing")]);

    let target = fs::read_link(&live).unwrap();
    fs::remove_file(&live).unwrap();
    symlink(if target == Path::new("a") { "b" } else { "a" }, &live).unwrap();
    world.run(&["status"]).ended(0).says(&["pypi: `live` did not point to what the catalog says, and does now"]);
    assert_eq!(fs::read_link(&live).unwrap(), target);
    let again = world.run(&["status"]).ended(0);
    assert!(!again.err.contains("live"), "{}", again.err);
}

/// Everything in the store but what a process that only looks may touch.
fn everything(world: &World) -> BTreeMap<String, Vec<u8>> {
    let all = files(&world.path("store")).into_iter();
    let all = all.filter(|(name, _)| !name.starts_with("catalog.db") && !name.starts_with("locks/"));
    all.map(|(name, path)| (name, fs::read(path).unwrap())).collect()
}

const KEEP_ONE: &str = "keep = { last = 1, daily = 0, weekly = 0 }";

#[test]
fn gc_deletes_what_retention_drops_and_nothing_else() {
    let world = mirror(5, "grace = \"0s\"", KEEP_ONE);
    let (before, log) = (everything(&world), world.log());
    let serials: Vec<_> = log.iter().map(|line| text(&line["serial"])).collect();
    let dry = world.done(&["gc", "--dry-run"]);
    assert_eq!((everything(&world), world.log()), (before.clone(), log), "a dry run changes nothing");
    for dropped in &serials[2..] {
        assert!(dry.contains(&format!("would drop pypi@{dropped}\n")), "{dry}");
    }

    let collected = world.done(&["gc"]);
    assert_eq!(collected.replace("dropped", "would drop").replace("deleted", "would delete"), dry);
    // What is published, what was published before it, and what retention keeps.
    let kept: Vec<_> = world.log().iter().map(|line| text(&line["serial"])).collect();
    assert_eq!(kept, serials[..2]);
    let after = everything(&world);
    assert!(after.len() < before.len());
    assert!(after.iter().all(|(name, bytes)| before[name] == *bytes), "what stays is what it was");
    let wheels: Vec<_> = files(&world.path("store/views/pypi/packages")).into_keys().collect();
    for (version, there) in [("0.0", false), ("2.0", false), ("3.0", true), ("4.0", true)] {
        assert_eq!(wheels.iter().any(|name| name.ends_with(&format!("/six-{version}-py3-none-any.whl"))), there);
    }
    world.done(&["verify", "--data"]);
    let serve = Serve::start(&world);
    for (serial, status) in [(&serials[0], 200), (&serials[1], 200), (&serials[2], 404)] {
        assert_eq!(get(serve.at, &format!("/pypi/@{serial}/simple/six/"), &[]).status, status);
    }
    assert!(world.done(&["gc"]).contains("dropped 0 snapshots and 0 bodies"));

    // The mirror goes on, and back to what it still has.
    world.upstream.world().upload("six", &wheel("six", "9.0", 1));
    world.done(&["sync"]);
    world.done(&["rollback", "pypi", &serials[1]]);
    world.done(&["verify", "--data"]);
}

/// Who has just read a page may still fetch its files: they stay for the time of grace.
#[test]
fn gc_leaves_files_for_the_time_of_grace() {
    let world = mirror(5, "grace = \"1h\"", KEEP_ONE);
    let before = everything(&world);
    assert!(world.done(&["gc"]).contains("deleted 0 blobs"));
    assert_eq!(world.log().len(), 2);
    assert_eq!(everything(&world), before);
    // Bytes that are wanted again in that time are not fetched again, and stay.
    let asked = world.upstream.counts().file;
    world.upstream.world().upload("six", &wheel("six", "0.0", 1));
    world.done(&["sync"]);
    assert_eq!(world.upstream.counts().file, asked);
    world.configure("grace = \"0s\"", &format!("projects = [\"six\"]\n{KEEP_ONE}"));
    world.done(&["gc"]);
    world.done(&["verify", "--data"]);
    assert!(world.live().keys().any(|name| name.ends_with("/six-0.0-py3-none-any.whl")));
}

/// A rolled back mirror keeps what it publishes, however old that is.
#[test]
fn gc_never_takes_what_is_published() {
    let world = mirror(5, "grace = \"0s\"", KEEP_ONE);
    let oldest = text(&world.log()[4]["serial"]);
    world.done(&["rollback", "pypi", &oldest]);
    let live = world.live();
    world.done(&["gc"]);
    assert_eq!(world.live().get("simple/six/index.html"), live.get("simple/six/index.html"));
    world.done(&["verify", "--data"]);
    assert!(world.log().iter().any(|line| text(&line["serial"]) == oldest));
}
