//! Errors in words, and how the program ends because of them.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::iter::successors;

use strandline_durable::{DiskError, LockError};
use strandline_model::{HoldReason, InvalidAt, InvalidName};
use strandline_pypi::{NoDefault, NoTree, SettingsError};
use strandline_store::{ReceiveError, SelectError, StoreError, VerifyError};
use strandline_sync::adopt::AdoptError;
use strandline_sync::purge::PurgeError;
use strandline_sync::{FetchError, SyncError};
use strandline_view::ViewError;

use crate::commands::purge::NothingToWithdraw;
use crate::config::ConfigError;
use crate::exit::Exit;

/// Why a project is held, for an operator.
pub(crate) fn in_words(reason: HoldReason) -> &'static str {
    match reason {
        HoldReason::StalePage => "upstream shows a page that is older than its last change",
        HoldReason::PageMissing => "upstream has no page for it",
        HoldReason::BadPage => "its page cannot be used",
        HoldReason::FileMissing => "a file that its page lists cannot be had",
        HoldReason::FileWrong => "a file is not what its page says",
    }
}

/// Says what went wrong and what to do, and how the program ends because of it.
pub(crate) fn failure(error: &anyhow::Error) -> Exit {
    // Whoever read stdout has seen enough, as in `strandline log pypi | head -1`.
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return Exit::Done;
    }
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        write!(text, "\n  because: {cause}").expect("a string takes everything");
    }
    let (exit, hint) = judge(error);
    if let Some(hint) = hint {
        write!(text, "\n  {hint}").expect("a string takes everything");
    }
    tracing::error!("{text}");
    exit
}

const UNCHANGED: &str = "Readers see what they saw before; the next sync tries again.";

const CORRUPT: &str = "The catalog is damaged; `strandline verify` says where. Readers see what is published, as before. Restore the \
    catalog from its newest backup (docs/operations.md, \"Restoring\"); without one, `strandline rebuild` makes a new one of \
    what is published.";

fn judge(error: &anyhow::Error) -> (Exit, Option<&'static str>) {
    let causes: Vec<_> = error.chain().flat_map(|cause| successors(Some(cause), |outer| inner(*outer))).collect();
    let is_full = |cause: &&(dyn Error + 'static)| {
        cause.downcast_ref::<DiskError>().is_some_and(DiskError::is_full)
            || cause.downcast_ref::<StoreError>().is_some_and(StoreError::is_full)
    };
    if causes.iter().any(is_full) {
        let hint = "The disk is full. Readers see what they saw before; `strandline gc` frees what nothing names.";
        return (Exit::Failed, Some(hint));
    }
    if causes.iter().any(|cause| cause.downcast_ref().is_some_and(StoreError::is_corruption)) {
        return (Exit::Failed, Some(CORRUPT));
    }
    if causes.iter().any(|cause| matches!(cause.downcast_ref(), Some(LockError::Held { .. }))) {
        return (Exit::Failed, Some("Nothing was done. Try again when it has ended."));
    }
    for cause in causes {
        if let Some(error) = cause.downcast_ref::<ConfigError>() {
            let hint = matches!(error, ConfigError::Missing)
                .then_some("`strandline init` writes one, `strandline up PROJECT…` writes one and starts.");
            return (Exit::Usage, hint);
        }
        if cause.is::<NoDefault>() || cause.is::<SettingsError>() || cause.is::<InvalidName>() {
            return (Exit::Usage, None);
        }
        if let Some(NoTree::Unknown { .. } | NoTree::Link { .. }) = cause.downcast_ref() {
            return (Exit::Usage, Some("Nothing was done."));
        }
        if cause.is::<AdoptError>() {
            let hint = "What was taken is here, the rest is as it was; `strandline adopt` again goes on from there.";
            return (Exit::Failed, Some(hint));
        }
        if cause.downcast_ref().is_some_and(|error| !matches!(error, SelectError::Store(_))) || cause.is::<InvalidAt>()
        {
            return (Exit::Usage, None);
        }
        if let Some(StoreError::Older { .. }) = cause.downcast_ref() {
            return (Exit::Usage, Some("Nothing was changed."));
        }
        if cause.is::<NothingToWithdraw>() {
            return (Exit::Usage, Some("Nothing was done."));
        }
        if cause.is::<PurgeError>() {
            let hint =
                "It is recorded, and not done everywhere yet: do it again, or let any command or sync finish it.";
            return (Exit::Failed, Some(hint));
        }
        match cause.downcast_ref::<SyncError>() {
            Some(SyncError::Inconsistent { .. }) => return (Exit::Inconsistent, Some(UNCHANGED)),
            Some(SyncError::NoRoom { .. } | SyncError::NoInodes { .. }) => {
                let hint =
                    "Readers see what they saw before; make room, or let `strandline gc` free what nothing names.";
                return (Exit::Failed, Some(hint));
            }
            Some(SyncError::OtherUpstream { .. }) => return (Exit::Usage, Some("Nothing was done.")),
            Some(_) => return (Exit::Failed, Some(UNCHANGED)),
            None => {}
        }
        if cause.is::<FetchError>() {
            return (Exit::Failed, Some(UNCHANGED));
        }
    }
    (Exit::Failed, None)
}

/// The error that speaks through another one: `source` of an error that is transparent skips it.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(error) = error.downcast_ref() {
        return match error {
            SyncError::Fetch(inner) => Some(&**inner),
            SyncError::Store(inner) => Some(inner),
            SyncError::Verify(inner) => Some(inner),
            SyncError::View(inner) => Some(inner),
            SyncError::Purge(inner) => Some(&**inner),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref() {
        return Some(match error {
            PurgeError::Store(inner) => inner,
            PurgeError::Verify(inner) => inner,
            PurgeError::View(inner) => inner,
        });
    }
    match error.downcast_ref() {
        Some(ViewError::Disk(inner)) => return Some(inner),
        Some(ViewError::Store(inner)) => return Some(inner),
        _ => {}
    }
    match error.downcast_ref() {
        Some(StoreError::Disk(inner)) => return Some(inner),
        Some(StoreError::Lock(inner)) => return Some(inner),
        _ => {}
    }
    if let Some(AdoptError::Store(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    if let Some(NoTree::Disk(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    if let Some(LockError::Disk(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    if let Some(ReceiveError::Disk(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    if let Some(VerifyError::Store(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    if let Some(SelectError::Store(inner)) = error.downcast_ref() {
        return Some(inner);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_full_disk_is_named_however_deep_it_is() {
        let full = || DiskError::new("write to", Path::new("x"), io::ErrorKind::StorageFull.into());
        let file = FetchError::Store {
            project: "six".parse().unwrap(),
            filename: "six-1.0.tar.gz".to_owned(),
            source: ReceiveError::Disk(full()),
        };
        let errors: [anyhow::Error; 4] = [
            SyncError::Store(full().into()).into(),
            SyncError::View(ViewError::Store(full().into())).into(),
            anyhow::Error::from(SyncError::from(file)).context("mirror `pypi` was not synced"),
            SelectError::Store(full().into()).into(),
        ];
        for error in errors {
            let (exit, hint) = judge(&error);
            assert_eq!((exit, hint.is_some_and(|hint| hint.contains("full"))), (Exit::Failed, true), "{error:?}");
        }
    }
}
