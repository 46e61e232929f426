//! What a sync does about withdrawals that are recorded and not yet carried out.

use strandline_model::Formats;
use strandline_store::Locked;
use tokio::task::block_in_place;

use crate::purge::Purge;
use crate::{Context, SyncError};

/// Carries out the withdrawals from the mirror that were not carried out yet. Returns whether there were any.
pub(crate) fn finish(context: &Context, mirror: &Locked) -> Result<bool, SyncError> {
    let Context { store, format, .. } = context;
    if !store.purging()?.contains(mirror.name()) {
        // The process that went through the last mirror may have died before the bytes went.
        if store.is_purging()? {
            block_in_place(|| store.delete_withdrawn(context.now()))?;
        }
        return Ok(false);
    }
    let formats = Formats::usual(format.clone());
    let purge = Purge { store, formats: &formats, now: context.now() };
    block_in_place(|| {
        purge.mirror(mirror)?;
        store.delete_withdrawn(context.now())?;
        tracing::warn!(mirror = %mirror.name(), "carried out a withdrawal that was recorded and not done yet");
        Ok(true)
    })
}
