//! Opening a store, at the one height at which everything can be finished that was under way.

use std::path::Path;
use std::sync::Arc;

use strandline_durable::Disk;
use strandline_model::{Formats, Timestamp, with_causes};
use strandline_store::{Store, StoreError};

use crate::purge::{Busy, Purge, PurgeError};

/// Opens the store at `root`, makes it if there is none, and finishes what processes left half done that died: removals,
/// takings-in and deletions, switches of views, and withdrawals. A mirror that another process has locked is left to that
/// process.
///
/// A failure to finish is logged, and the work left to the next process, because a user who only looks may have no
/// right to write.
pub fn open(root: &Path, disk: Disk, formats: &Formats, now: Timestamp) -> Result<Arc<Store>, StoreError> {
    let store = Store::open(root, disk)?;
    if let Err(error) = finish(&store, formats, now) {
        tracing::warn!("the work that an interrupted process left half done is not finished: {}", with_causes(&error));
    }
    Ok(store)
}

fn finish(store: &Arc<Store>, formats: &Formats, now: Timestamp) -> Result<(), PurgeError> {
    store.finish()?;
    for mirror in strandline_view::recover(store, now)? {
        tracing::warn!("{mirror}: `live` did not point to what the catalog says, and does now");
    }
    for purged in (Purge { store, formats, now }).finish(Busy::Leave)?.mirrors {
        tracing::warn!("{}: finished a withdrawal that was interrupted", purged.mirror);
    }
    Ok(())
}
