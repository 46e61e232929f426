//! Room that is kept back for a full disk: how much, for which catalog. That it is enough is shown on a disk that is full
//! (`tests/full_disk.rs`).
#![expect(clippy::disallowed_methods, reason = "the tests make a catalog of any length")]

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use strandline_durable::Disk;
use strandline_store::reserve;

const MIB: u64 = 1 << 20;

/// How many files there are, and how many bytes they take on the disk.
fn kept(root: &Path) -> (usize, u64) {
    let files: Vec<_> =
        fs::read_dir(root.join("reserve")).unwrap().map(|file| file.unwrap().metadata().unwrap()).collect();
    (files.len(), files.iter().map(|file| file.blocks() * 512).sum())
}

#[test]
fn half_of_the_catalog_is_kept_back_and_grows_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let (root, disk) = (directory.path(), Disk::new());
    assert!(disk.free(root).unwrap().bytes / 16 > 12 * MIB, "the disk has room for this test");
    reserve::keep(root, &disk).unwrap();
    assert_eq!(kept(root), (8, 4 * MIB), "of a catalog that is not there yet");

    let catalog = File::create(root.join("catalog.db")).unwrap();
    for (length, bytes) in [(8, 4), (15, 4), (24, 12), (40, 12), (4, 12)] {
        catalog.set_len(length * MIB).unwrap();
        reserve::keep(root, &disk).unwrap();
        assert_eq!(kept(root), (8, bytes * MIB), "of a catalog of {length} MiB");
    }
    fs::remove_file(root.join("reserve/3")).unwrap();
    reserve::keep(root, &disk).unwrap();
    assert_eq!(kept(root).0, 8);
}

#[test]
fn it_is_given_back_only_where_it_is_needed() {
    let directory = tempfile::tempdir().unwrap();
    let (root, disk) = (directory.path(), Disk::new());
    reserve::keep(root, &disk).unwrap();
    assert!(!reserve::release_if_full(root, &disk).unwrap());
    assert_eq!(kept(root).0, 8);
}
