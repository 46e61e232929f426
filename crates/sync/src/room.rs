//! Room on the disk of the store.

use strandline_store::{Store, StoreError};

use crate::{Settings, SyncError};

/// How many files and directories have to be free beside those that are to come: what a batch and the view need.
const INODES: u64 = 1_000;

/// How many bytes can be fetched without filling the disk.
pub(crate) fn free(store: &Store, settings: &Settings) -> Result<u64, SyncError> {
    let free = store.disk().free(store.root()).map_err(StoreError::from)?;
    Ok(free.bytes.saturating_sub(settings.min_free))
}

/// Refuses to fetch so many bytes in so many files if that would fill the disk. Where there is nothing to fetch, next to
/// nothing is needed.
pub(crate) fn require_room(store: &Store, settings: &Settings, needed: u64, files: u64) -> Result<(), SyncError> {
    let Settings { min_free, .. } = *settings;
    let free = store.disk().free(store.root()).map_err(StoreError::from)?;
    let root = || store.root().to_owned();
    if free.bytes < min_free.saturating_add(needed) {
        return Err(SyncError::NoRoom { store: root(), free: free.bytes, needed, min_free });
    }
    // A blob, and a directory of the pool.
    let inodes = INODES.saturating_add(files.saturating_mul(2));
    match free.inodes {
        Some(free) if free < inodes && min_free > 0 => Err(SyncError::NoInodes { store: root(), free, needed: inodes }),
        _ => Ok(()),
    }
}
