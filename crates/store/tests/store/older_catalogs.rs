//! A catalog that a program before the first release wrote is refused: nothing of it is changed, and the error says what to do.
#![expect(clippy::disallowed_methods, reason = "the tests make a store as an earlier program left it")]

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use strandline_durable::Disk;
use strandline_model::Blake3;
use strandline_store::{Access, Rebuild, Store, StoreError};

use crate::support::{Opened, time};

/// The catalog of version 1, as SQL.
const VERSION_1: &str = include_str!("../fixtures/catalog-1.sql");

/// The bytes that its snapshots name.
const BLOBS: [&str; 5] = [
    "page of six: one",
    "page of six: two",
    "page of zope-interface: one",
    "bytes of six-1.tar.gz",
    "bytes of six-2.tar.gz",
];

/// A store as a program of this version left it; 1 to 9 were there.
fn left_by(version: i32) -> Opened {
    let world = Opened::new();
    fs::remove_dir_all(world.root()).unwrap();
    fs::create_dir_all(world.root()).unwrap();
    let catalog = Connection::open(world.root().join("catalog.db")).unwrap();
    catalog.execute_batch(VERSION_1).unwrap();
    catalog.pragma_update(None, "user_version", version).unwrap();
    for bytes in BLOBS {
        let name = Blake3::of(bytes.as_bytes()).to_string();
        let directory = world.root().join("blobs").join(&name[..2]);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(&name[2..]), bytes).unwrap();
    }
    world
}

#[test]
fn a_catalog_from_before_the_first_release_is_refused_and_left_alone() {
    for version in 1..=9 {
        let world = left_by(version);
        let path = world.root().join("catalog.db");
        let before = fs::read(&path).unwrap();
        let error = Store::open(&world.root(), Disk::new()).unwrap_err();
        assert!(matches!(error, StoreError::Older { version: found, oldest: 10, .. } if found == version), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("has version {version}")) && text.contains("strandline rebuild"), "{text}");
        assert_eq!(fs::read(&path).unwrap(), before, "not one byte of it was changed");
        for beside in ["catalog.db-wal", "catalog.db-shm"] {
            assert!(!world.root().join(beside).exists(), "{beside}");
        }
    }
}

/// A process was killed before SQLite had copied anything into the file itself.
#[test]
fn a_catalog_whose_version_is_in_its_log_alone_is_left_alone_too() {
    let world = left_by(7);
    let path = world.root().join("catalog.db");
    fs::remove_file(&path).unwrap();
    let writer = Connection::open(&path).unwrap();
    writer
        .execute_batch("PRAGMA foreign_keys = off; PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0; BEGIN")
        .unwrap();
    writer.execute_batch(&VERSION_1.replace("BEGIN TRANSACTION;", "").replace("COMMIT;", "")).unwrap();
    writer.execute_batch("PRAGMA user_version = 7; COMMIT;").unwrap();
    // What a killed process leaves: it does not close the catalog.
    let killed = Opened::new();
    fs::remove_dir_all(killed.root()).unwrap();
    fs::create_dir_all(killed.root().join("blobs")).unwrap();
    let read = |root: &Path| ["catalog.db", "catalog.db-wal"].map(|file| fs::read(root.join(file)).unwrap());
    let before = read(&world.root());
    for (file, bytes) in ["catalog.db", "catalog.db-wal"].iter().zip(&before) {
        fs::write(killed.root().join(file), bytes).unwrap();
    }
    drop(writer);

    let error = Store::open(&killed.root(), Disk::new()).unwrap_err();
    assert!(matches!(error, StoreError::Older { version: 7, oldest: 10, .. }), "{error}");
    assert_eq!(read(&killed.root()), before);
}

/// The way out that the error names.
#[test]
fn a_rebuild_moves_it_aside() {
    let world = left_by(1);
    let before = fs::read(world.root().join("catalog.db")).unwrap();
    let (rebuild, found) = Rebuild::begin(&world.root(), Disk::new(), Access::Public, time(0)).unwrap();
    assert_eq!((found.blobs, &found.aside[..]), (5, &[world.root().join("damaged/catalog.db")][..]));
    assert_eq!(fs::read(&found.aside[0]).unwrap(), before);
    rebuild.finish().unwrap();
    assert!(world.open().mirrors().unwrap().is_empty());
}
