//! Opening a store, at the one height at which everything can be finished that was under way.

use std::path::Path;
use std::sync::Arc;

use strandline_durable::Disk;
use strandline_model::{Formats, Timestamp, with_causes};
use strandline_store::{Store, StoreError};
use strandline_view::ViewError;

use crate::purge::{Busy, Purge, PurgeError};

/// Opens the store at `root`, makes it if there is none, and finishes what processes left half done that died: removals,
/// takings-in and deletions, switches of views, and withdrawals. A mirror that another process has locked is left to that
/// process.
///
/// A failure to finish is logged, and the work left to the next process, because a user who only looks may have no
/// right to write. A damaged catalog is an error.
pub fn open(root: &Path, disk: Disk, formats: &Formats, now: Timestamp) -> Result<Arc<Store>, StoreError> {
    let store = Store::open(root, disk)?;
    // Each by itself, because a mirror that cannot be put right does not keep malware in another.
    told(store.finish())?;
    for mirror in told(strandline_view::recover(&store, now))?.unwrap_or_default() {
        tracing::warn!("{mirror}: `live` did not point to what the catalog says, and does now");
    }
    let done = told((Purge { store: &store, formats, now }).finish(Busy::Leave))?;
    for purged in done.map(|done| done.mirrors).unwrap_or_default() {
        tracing::warn!("{}: finished a withdrawal that was interrupted", purged.mirror);
    }
    Ok(store)
}

/// What was finished; `None`, with a warning, where it was not.
fn told<T, E: Into<PurgeError>>(finished: Result<T, E>) -> Result<Option<T>, StoreError> {
    match finished.map_err(Into::into) {
        Ok(finished) => Ok(Some(finished)),
        Err(PurgeError::Store(error) | PurgeError::View(ViewError::Store(error))) if error.is_corruption() => {
            Err(error)
        }
        Err(error) => {
            let error = with_causes(&error);
            tracing::warn!("the work that an interrupted process left half done is not finished: {error}");
            Ok(None)
        }
    }
}
