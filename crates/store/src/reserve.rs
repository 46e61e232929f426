//! Room that is kept back for the collection that a full disk needs.
//!
//! SQLite cannot even open its catalog where there is no room for a write-ahead log and its index, and no inode for
//! either. So some files without content stand in `STORE/reserve`; who collects removes them first where the disk is full,
//! and puts them back afterwards.

use std::path::{Path, PathBuf};

use strandline_durable::{Disk, DiskError};

/// How many files: as many inodes are free when they are gone. The log, its index, and locks need some.
const FILES: u64 = 8;
/// The bytes of all of them, where there is much room.
const MOST: u64 = 16 << 20;
/// The part of what is free that is taken at most.
const PART: u64 = 16;

fn files(root: &Path) -> impl Iterator<Item = PathBuf> {
    let directory = root.join("reserve");
    (0..FILES).map(move |number| directory.join(number.to_string()))
}

/// Sets the room aside, if it is not there already.
pub fn keep(root: &Path, disk: &Disk) -> Result<(), DiskError> {
    let missing: Vec<_> = files(root).filter(|file| !file.exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    disk.create_directory(&root.join("reserve"))?;
    let bytes = MOST.min(disk.free(root)?.bytes / PART) / FILES;
    if bytes == 0 {
        return Ok(());
    }
    missing.iter().try_for_each(|file| disk.allocate(file, bytes))
}

/// Gives the room back if the disk is so full that it is needed. Returns whether it was.
pub fn release_if_full(root: &Path, disk: &Disk) -> Result<bool, DiskError> {
    let free = disk.free(root)?;
    let full = free.bytes < MOST / 4 || free.inodes.is_some_and(|inodes| inodes < 2 * FILES);
    if full {
        for file in files(root) {
            disk.remove_file(&file)?;
        }
    }
    Ok(full)
}
