//! A store without its catalog is not taken for a new one; a rebuild gives it one that has all blobs, whatever interrupts it.
#![expect(clippy::disallowed_methods, reason = "the tests damage stores")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use strandline_durable::Disk;
use strandline_faultkit::World;
use strandline_model::{Blake3, Sha256};
use strandline_store::{Access, Rebuild, Store, StoreError, Wait};

use crate::support::{Opened, content, mirror, time};

fn world() -> Opened {
    let world = Opened::new();
    world.record("pypi", 1, &[("six", Some(content("six", "one", &["six-1.tar.gz"])))]);
    fs::create_dir(world.root().join("views/pypi")).unwrap();
    world
}

/// A store without its catalog, which no process has open any more.
fn lost(world: Opened) -> World {
    let world = world.close();
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let path = world.root().join(name);
        if path.exists() {
            fs::remove_file(path).unwrap();
        }
    }
    world
}

#[track_caller]
fn refused(root: &Path, as_what: &str) {
    match Store::open(root, Disk::new()) {
        Err(StoreError::NoCatalog { found, .. }) => assert_eq!(found, as_what),
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn a_lost_catalog_is_not_taken_for_an_empty_store() {
    let world = lost(world());
    let root = world.root();
    refused(&root, "missing");
    assert!(!root.join("catalog.db").exists(), "nothing was begun");
    fs::write(root.join("catalog.db"), "").unwrap();
    refused(&root, "empty");
    let sql = rusqlite::Connection::open(root.join("catalog.db")).unwrap();
    sql.execute_batch("PRAGMA journal_mode = wal; VACUUM").unwrap();
    drop(sql);
    refused(&root, "empty");
}

#[test]
fn all_blobs_get_their_rows_and_what_is_none_is_moved_aside() {
    let world = world();
    let (right, broken) = (world.ingest(b"right"), world.ingest(b"broken"));
    let twin = world.store.blob_path(world.ingest(b"at the same time").blake3);
    let blobs = world.blobs();
    let path = world.store.blob_path(broken.blake3);
    let world = lost(world);
    let root = world.root();
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"brokem").unwrap();
    // As after a copy that did not keep the times.
    fs::File::open(&twin)
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(right.mtime))
        .unwrap();

    let (rebuild, found) = Rebuild::begin(&root, Disk::new(), Access::Private, time(0)).unwrap();
    assert_eq!(found.blobs, blobs.len() as u64 - 1);
    let aside = root.join("damaged").join(broken.blake3.to_string());
    assert_eq!((found.aside, fs::read(&aside).unwrap()), (vec![aside], b"brokem".to_vec()));
    let store = &rebuild.store;
    let row = store.find_blob_row(right.blake3).unwrap().unwrap();
    assert_eq!((row.sha256, row.size), (Sha256::of(b"right"), 5));
    assert_eq!(store.find_blob_row(broken.blake3).unwrap(), None);
    // Each has a time of its own, as its row says, and new ones have others.
    let mut times = BTreeSet::from([store.allocate_mtimes(1).unwrap()]);
    for name in blobs.iter().filter(|name| **name != broken.blake3.to_string()) {
        let blob: Blake3 = blake3_of(store, name);
        let mtime = fs::metadata(store.blob_path(blob)).unwrap().mtime();
        assert_eq!(store.find_blob_row(blob).unwrap().unwrap().mtime, u64::try_from(mtime).unwrap());
        assert!(times.insert(u64::try_from(mtime).unwrap()), "{name}");
    }
    assert_eq!(rebuild.mirrors().iter().map(|mirror| mirror.name().clone()).collect::<Vec<_>>(), [mirror("pypi")]);
    // Nobody may use what nobody claims.
    let find = || {
        let intake = strandline_store::Intake::open(&rebuild.mirrors()[0], Access::Public).unwrap();
        intake.find(right.sha256.into()).unwrap().is_some()
    };
    assert!(!find());
    let other = store.lock(&mirror("other"), Wait::Never, time(0)).unwrap();
    rebuild.claim(&other, Access::Private, [right.blake3]).unwrap();
    assert!(!find(), "what another mirror has for itself");
    rebuild.claim(&other, Access::Public, [right.blake3]).unwrap();
    assert!(find());
}

fn blake3_of(store: &Store, name: &str) -> Blake3 {
    Blake3::of(&fs::read(store.root().join("blobs").join(&name[..2]).join(&name[2..])).unwrap())
}

#[test]
fn a_whole_catalog_is_left_alone() {
    let world = world();
    let world = world.close();
    let error = Rebuild::begin(&world.root(), Disk::new(), Access::Public, time(0)).unwrap_err();
    assert!(matches!(error, StoreError::Whole { .. }), "{error}");
    assert_eq!(world.open().mirror(&mirror("pypi")).unwrap().unwrap().snapshots().unwrap().len(), 1);
}

#[test]
fn who_is_at_work_is_not_disturbed() {
    let world = world();
    let _lock = world.lock("pypi");
    let error = Rebuild::begin(&world.root(), Disk::new(), Access::Public, time(0)).unwrap_err();
    assert!(matches!(error, StoreError::Lock(_)), "{error}");
}

#[test]
fn a_rebuild_that_fails_at_any_step_is_begun_anew() {
    let run = |root: &Path, disk: Disk| -> Result<u64, StoreError> {
        let (rebuild, found) = Rebuild::begin(root, disk, Access::Public, time(0))?;
        rebuild.finish()?;
        Ok(found.blobs)
    };
    let counting = Disk::counting();
    assert_eq!(run(&lost(world()).root(), counting.clone()).unwrap(), 2);
    assert!(counting.steps() > 5);
    for n in 1..=counting.steps() {
        let world = lost(world());
        let root = world.root();
        run(&root, Disk::failing_at(n)).unwrap_err();
        match Store::open(&root, Disk::new()) {
            Err(StoreError::NoCatalog { .. }) => assert_eq!(run(&root, Disk::new()).unwrap(), 2, "step {n}"),
            // The mark was gone, and only that was not synced yet.
            Ok(_) => assert_eq!(n, counting.steps()),
            Err(other) => unreachable!("step {n}: {other}"),
        }
        let mirrors = world.open().mirrors().unwrap();
        assert!(mirrors.iter().all(|mirror| mirror.latest().unwrap().is_none()), "step {n}");
    }
}

#[test]
fn a_restored_blob_is_as_new_and_the_broken_one_is_kept() {
    let world = Opened::new();
    let blob = world.ingest(b"what it should be");
    let path = world.store.blob_path(blob.blake3);
    let intake = world.intake("pypi");
    for number in 1..=2 {
        fs::remove_file(&path).unwrap();
        fs::write(&path, format!("broken {number}")).unwrap();
        assert!(intake.stage_copy(&path, blob.blake3, blob.sha256).unwrap().is_none());
        let (restored, aside) = intake.restore(intake.stage(b"what it should be").unwrap()).unwrap();
        assert_eq!(fs::read(aside.unwrap()).unwrap(), format!("broken {number}").into_bytes());
        assert_eq!(fs::read(&path).unwrap(), b"what it should be");
        assert_eq!(world.store.find_blob_row(blob.blake3).unwrap(), Some(restored));
        assert!(restored.mtime > blob.mtime, "another entity tag than the broken one had");
    }
    assert_eq!(fs::read_dir(world.root().join("damaged")).unwrap().count(), 2);
    // What is whole stays where it is.
    let (again, aside) = intake.restore(intake.stage(b"what it should be").unwrap()).unwrap();
    assert_eq!((Some(again), aside), (world.store.find_blob_row(blob.blake3).unwrap(), None));
}
