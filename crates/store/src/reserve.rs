//! Room that is kept back for the collection that a full disk needs.
//!
//! SQLite cannot even open its catalog where there is no room for a write-ahead log and its index, and no inode for
//! either. So some files without content stand in `STORE/reserve`; where the disk is full, a collection removes them
//! first, and puts them back afterwards. Together they are half as large as the catalog, within bounds, because a
//! collection that dropped nearly everything wrote a log of that length.

use std::path::{Path, PathBuf};

use strandline_durable::{Disk, DiskError};

use crate::CATALOG;

/// How many files: as many inodes are free when they are gone. The log, its index, and locks need some.
const FILES: u64 = 8;
/// The bytes of all of them, in a small store and in a large one.
const LEAST: u64 = 4 << 20;
const MOST: u64 = 256 << 20;
/// The part of what is free that is taken at most.
const PART: u64 = 16;

fn files(root: &Path) -> impl Iterator<Item = PathBuf> {
    let directory = root.join("reserve");
    (0..FILES).map(move |number| directory.join(number.to_string()))
}

/// How much a collection may need, in bytes.
fn needed(root: &Path) -> u64 {
    let catalog = root.join(CATALOG).metadata().map_or(0, |catalog| catalog.len());
    (catalog / 2).clamp(LEAST, MOST)
}

/// Sets the room aside, if it is not there already. When the catalog has grown to twice its size, the room is set aside
/// anew.
pub fn keep(root: &Path, disk: &Disk) -> Result<(), DiskError> {
    let bytes = needed(root).min(disk.free(root)?.bytes / PART) / FILES;
    let is_small = |file: &PathBuf| file.metadata().is_ok_and(|found| found.len() < bytes / 2);
    let lacking: Vec<_> = files(root).filter(|file| !file.exists() || is_small(file)).collect();
    if lacking.is_empty() || bytes == 0 {
        return Ok(());
    }
    disk.create_directory(&root.join("reserve"))?;
    for file in lacking {
        disk.remove_file(&file)?;
        disk.allocate(&file, bytes)?;
    }
    Ok(())
}

/// Gives the room back if the disk is so full that it is needed. Returns whether it was.
pub fn release_if_full(root: &Path, disk: &Disk) -> Result<bool, DiskError> {
    let free = disk.free(root)?;
    let full = free.bytes < needed(root) || free.inodes.is_some_and(|inodes| inodes < 2 * FILES);
    if full {
        for file in files(root) {
            disk.remove_file(&file)?;
        }
    }
    Ok(full)
}
