//! Showing at once what a withdrawal has left.
//!
//! What always holds, when [`follow_withdrawal`] has returned: neither tree has the pages of a snapshot that was superseded,
//! and which serial readers see has not changed. Readers who may be in the standby are not waited for: that it goes now is
//! worth more than that a request which is under way ends in the tree in which it began.

use strandline_model::{Format, Timestamp};
use strandline_store::{Locked, Twin, VerifyError};

use crate::ViewError;
use crate::publish::{Touched, bring_up, publish, repair};

/// The view was not brought to what a withdrawal has left; doing it again goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The view could not be changed.
    #[error(transparent)]
    View(#[from] ViewError),
    /// What takes the place of a snapshot is not what it should be.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

/// Switches the view to what took the place of the snapshot that it shows, if something did, frozen or not as it was, and
/// brings the other tree there too if it has pages that are not served any more.
pub fn follow_withdrawal(mirror: &Locked, format: &dyn Format, now: Timestamp) -> Result<(), FollowError> {
    repair(mirror)?;
    let store = mirror.store();
    let Some(state) = mirror.view_state().map_err(ViewError::from)? else { return Ok(()) };
    let served = store.served(state.snapshot).map_err(ViewError::from)?;
    let shown = store.recorded(state.snapshot).map_err(ViewError::from)?;
    let recorded = store.recorded(served).map_err(ViewError::from)?;
    let verified = mirror.verified(recorded, Some(&shown.snapshot))?;
    publish(mirror, &verified, format, state.frozen, now)?;

    let standby = mirror.view_state().map_err(ViewError::from)?.map_or(state.slot, |state| state.slot).other();
    let twin = mirror.twin(standby).map_err(ViewError::from)?;
    for held in [twin.base, twin.target].into_iter().flatten() {
        if store.served(held).map_err(ViewError::from)? != held {
            bring_up(mirror, &verified, standby, || Ok(Touched::default()), format)?;
            let whole = Twin { base: Some(verified.id()), target: None };
            mirror.record_twin(standby, whole).map_err(ViewError::from)?;
            break;
        }
    }
    Ok(())
}
