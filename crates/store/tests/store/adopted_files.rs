//! Files of another program's tree as blobs: linked where that harms nobody, hashed through the name that they have here,
//! and left alone by gc until a snapshot was made.
#![expect(clippy::disallowed_methods, reason = "the tests are the other program")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use strandline_model::{Blake3, Unit};
use strandline_store::gc::{Keep, collect};
use strandline_store::{Access, Blob, Conclusion, Manner};

use crate::support::{Opened, project, time};

/// A file beside the store, in the same file system.
fn foreign(world: &Opened, name: &str, bytes: &[u8]) -> PathBuf {
    let path = world.root().with_file_name(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn stamp(path: &PathBuf) -> (u64, i64, u32) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.ino(), metadata.mtime(), metadata.permissions().mode() & 0o777)
}

#[test]
fn a_linked_file_becomes_the_blob_and_one_that_is_not_wanted_stays_as_it_was() {
    let world = Opened::new();
    let path = foreign(&world, "file", b"some bytes");
    let before = stamp(&path);
    let intake = world.intake("pypi");
    let (staged, manner) = intake.share(&File::open(&path).unwrap(), &path, true).unwrap().unwrap();
    // A file system that clones does not have to link.
    assert_eq!(staged.at("x".parse().unwrap()).blob, Blake3::of(b"some bytes"));
    drop(staged);
    assert_eq!((stamp(&path), world.incoming()), (before, 0), "dropped, it is as it was");

    let (staged, _) = intake.share(&File::open(&path).unwrap(), &path, true).unwrap().unwrap();
    let blob = intake.land(vec![staged]).unwrap()[0];
    let placed = world.store.blob_path(blob.blake3);
    if manner == Manner::Linked {
        assert_eq!(stamp(&path), stamp(&placed));
        assert_eq!((stamp(&path).0, stamp(&path).2), (before.0, 0o444));
    } else {
        assert_eq!(stamp(&path), before);
    }
    assert_eq!(u64::try_from(stamp(&placed).1).unwrap(), blob.mtime);
    fs::remove_file(&path).unwrap();
    assert_eq!(world.store.read_blob(blob.blake3).unwrap(), b"some bytes", "the tree can go");
}

#[test]
fn what_somebody_else_may_rely_on_is_not_linked() {
    let world = Opened::new();
    let path = foreign(&world, "file", b"some bytes");
    let before = stamp(&path);
    let intake = world.intake("pypi");
    let manner = |link| {
        let shared = intake.share(&File::open(&path).unwrap(), &path, link).unwrap();
        shared.map(|(_, manner)| manner)
    };
    assert_ne!(manner(false), Some(Manner::Linked), "nobody said that it may be");
    fs::hard_link(&path, world.root().with_file_name("another name")).unwrap();
    assert_ne!(manner(true), Some(Manner::Linked), "it has another name already");
    assert_eq!((stamp(&path), world.incoming()), (before, 0));
}

/// A project with one file, as a tree had it.
fn adopt(world: &Opened, mirror_name: &str, name: &str) -> Blob {
    let path = foreign(world, &format!("file of {name}"), name.as_bytes());
    let lock = world.lock(mirror_name);
    let intake = strandline_store::Intake::open(&lock, Access::Public).unwrap();
    let (staged, _) = intake.share(&File::open(&path).unwrap(), &path, true).unwrap().unwrap();
    let blob = intake.land(vec![staged]).unwrap()[0];
    let entry = blob.at(format!("packages/00/11/{name}-1.0.tar.gz").parse().unwrap());
    let unit = Unit::of_files(project(name), vec![entry]).unwrap();
    for _ in 0..2 {
        lock.record_adopted(std::slice::from_ref(&unit)).unwrap();
    }
    blob
}

#[test]
fn what_was_adopted_stays_until_it_is_forgotten() {
    let world = Opened::new();
    let [six, idna, other] = [("pypi", "six"), ("pypi", "idna"), ("other", "attrs")].map(|(m, p)| adopt(&world, m, p));
    let gc = || collect(&world.store, |_| Keep::default(), Duration::ZERO, time(0)).unwrap().deleted;
    assert_eq!(gc(), 0);
    let names = |name: &str| world.mirror(name).adopted().unwrap();
    assert_eq!(names("pypi"), BTreeSet::from([project("six"), project("idna")]));

    let forget = |except: &[&str]| {
        let held = except.iter().map(|name| project(name)).collect();
        world.lock("pypi").conclude(&Conclusion { held, ..Conclusion::default() }).unwrap();
    };
    forget(&["idna", "unrelated"]);
    assert_eq!((gc(), world.blobs()), (1, BTreeSet::from([idna, other].map(|blob| blob.blake3.to_string()))));
    assert!(world.store.find_blob_row(six.blake3).unwrap().is_none());
    forget(&[]);
    assert_eq!((gc(), names("pypi")), (1, BTreeSet::new()));
    world.lock("other").remove().unwrap();
    assert_eq!((gc(), world.blobs()), (1, BTreeSet::new()), "a mirror that goes takes it along");
}
