//! Errors in words, and how the program ends because of them.
//!
//! A command ends with a [`Failure`]. `?` makes one of every error that is [`Judged`], so the compiler refuses an error
//! without an exit code and a hint, and the `match` of its type refuses a variant without them.

use std::fmt;
use std::io;

use strandline_durable::{DiskError, LockError};
use strandline_model::{HoldReason, InvalidAt, InvalidName};
use strandline_pypi::{NoDefault, NoTree, SettingsError};
use strandline_store::{ReceiveError, SelectError, StoreError, VerifyError};
use strandline_sync::adopt::AdoptError;
use strandline_sync::purge::PurgeError;
use strandline_sync::{FetchError, SyncError};
use strandline_view::ViewError;

use crate::exit::Exit;

/// Why a project is held, for an operator.
pub(crate) fn in_words(reason: HoldReason) -> &'static str {
    match reason {
        HoldReason::StalePage => "upstream shows a page that is older than its last change",
        HoldReason::PageMissing => "upstream has no page for it",
        HoldReason::BadPage => "its page cannot be used",
        HoldReason::PageShrunk => "its page lacks most of its files, and no event says why",
        HoldReason::FileMissing => "a file that its page lists cannot be had",
        HoldReason::FileWrong => "a file is not what its page says",
    }
}

/// How the program ends because of an error, and what an operator is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    exit: Exit,
    hint: Option<&'static str>,
    /// Whether it goes before the verdict on what the error stopped: a full disk is a full disk in every command.
    is_general: bool,
}

impl Verdict {
    const fn new(exit: Exit, hint: &'static str) -> Self {
        Self { exit, hint: Some(hint), is_general: false }
    }

    const fn general(exit: Exit, hint: &'static str) -> Self {
        Self { exit, hint: Some(hint), is_general: true }
    }

    /// The verdict on an error that is judged `outer` by itself, and was caused by one of this verdict.
    fn or(self, outer: Self) -> Self {
        if self.is_general { self } else { outer }
    }
}

/// Failed, and there is nothing to add.
const FAILED: Verdict = Verdict { exit: Exit::Failed, hint: None, is_general: false };
/// The operator asked for something that makes no sense, and the message says why.
pub(crate) const USAGE: Verdict = Verdict { exit: Exit::Usage, hint: None, is_general: false };
/// As [`USAGE`], where an operator could think that something was done.
pub(crate) const NOTHING_DONE: Verdict = Verdict::new(Exit::Usage, "Nothing was done.");
const NOTHING_CHANGED: Verdict = Verdict::new(Exit::Usage, "Nothing was changed.");
pub(crate) const NO_CONFIGURATION: Verdict =
    Verdict::new(Exit::Usage, "`strandline init` writes one, `strandline up PROJECT…` writes one and starts.");
const UNCHANGED: &str = "Readers see what they saw before; the next sync tries again.";
const NOT_SYNCED: Verdict = Verdict::new(Exit::Failed, UNCHANGED);
const NO_ROOM: Verdict = Verdict::new(
    Exit::Failed,
    "Readers see what they saw before; make room, or let `strandline gc` free what nothing names.",
);
const NOT_ADOPTED: Verdict = Verdict::new(
    Exit::Failed,
    "What was taken is here, the rest is as it was; `strandline adopt` again goes on from there.",
);
const NOT_PURGED: Verdict = Verdict::new(
    Exit::Failed,
    "It is recorded, and not done everywhere yet: do it again, or let any command or sync finish it.",
);
const FULL: Verdict = Verdict::general(
    Exit::Failed,
    "The disk is full. Readers see what they saw before; `strandline gc` frees what nothing names.",
);
const CORRUPT: Verdict = Verdict::general(
    Exit::Failed,
    "The catalog is damaged; `strandline verify` says where. Readers see what is published, as before. Restore the \
    catalog from its newest backup (docs/operations.md, \"Restoring\"); without one, `strandline rebuild` makes a new one of \
    what is published.",
);
const BUSY: Verdict = Verdict::general(Exit::Failed, "Nothing was done. Try again when it has ended.");

/// An error that can end a command.
pub(crate) trait Judged: std::error::Error {
    /// How the program ends because of it.
    fn verdict(&self) -> Verdict;
}

/// What ended a command.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What went wrong and its causes, the nearest first.
    causes: Vec<String>,
    verdict: Verdict,
}

impl<E: Judged> From<E> for Failure {
    fn from(error: E) -> Self {
        let verdict = error.verdict();
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        Self { causes: causes.map(ToString::to_string).collect(), verdict }
    }
}

impl Failure {
    /// A command came to its end, and found something that is wrong.
    pub(crate) fn found(what: impl Into<String>) -> Self {
        Self { causes: vec![what.into()], verdict: FAILED }
    }

    /// The same failure, with what the command was doing put before it.
    pub(crate) fn during(mut self, what: impl Into<String>) -> Self {
        self.causes.insert(0, what.into());
        self
    }

    /// Whether SQLite finds the catalog damaged.
    pub(crate) fn is_corruption(&self) -> bool {
        self.verdict == CORRUPT
    }

    /// Says what went wrong and what to do, and how the program ends because of it.
    pub(crate) fn report(self) -> Exit {
        let Verdict { exit, hint, .. } = self.verdict;
        if exit != Exit::Done {
            let hint = hint.map(|hint| format!("\n  {hint}")).unwrap_or_default();
            tracing::error!("{self}{hint}");
        }
        exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.causes.join("\n  because: "))
    }
}

/// Adds to an error what the command was doing.
pub(crate) trait During<T> {
    /// As [`Failure::during`].
    fn during<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T, Failure>;
}

impl<T, E: Into<Failure>> During<T> for Result<T, E> {
    fn during<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T, Failure> {
        self.map_err(|error| error.into().during(what()))
    }
}

impl Judged for io::Error {
    fn verdict(&self) -> Verdict {
        match self.kind() {
            // The reader of stdout has seen enough, as in `strandline log pypi | head -1`.
            io::ErrorKind::BrokenPipe => Verdict { exit: Exit::Done, hint: None, is_general: false },
            _ => FAILED,
        }
    }
}

impl Judged for DiskError {
    fn verdict(&self) -> Verdict {
        if self.is_full() { FULL } else { FAILED }
    }
}

impl Judged for LockError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Held { .. } => BUSY,
            Self::Disk(inner) => inner.verdict(),
        }
    }
}

impl Judged for StoreError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Catalog { .. } if self.is_full() => FULL,
            Self::Catalog { .. } if self.is_corruption() => CORRUPT,
            Self::Catalog { .. }
            | Self::Foreign { .. }
            | Self::NoCatalog { .. }
            | Self::Whole { .. }
            | Self::Damaged { .. } => FAILED,
            Self::Older { .. } => NOTHING_CHANGED,
            Self::Disk(inner) => inner.verdict(),
            Self::Lock(inner) => inner.verdict(),
        }
    }
}

impl Judged for ReceiveError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::TooLong { .. } | Self::OverLimit { .. } | Self::TooShort { .. } | Self::Digest(_) => FAILED,
            Self::Disk(inner) | Self::Unreadable(inner) => inner.verdict(),
        }
    }
}

impl Judged for VerifyError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Blob { .. } => FAILED,
            Self::Store(inner) => inner.verdict(),
        }
    }
}

impl Judged for SelectError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Unknown { .. }
            | Self::NoSnapshot { .. }
            | Self::NothingPublished { .. }
            | Self::NothingBefore { .. }
            | Self::Superseded { .. } => USAGE,
            Self::Store(inner) => inner.verdict(),
        }
    }
}

impl Judged for InvalidAt {
    fn verdict(&self) -> Verdict {
        USAGE
    }
}

impl Judged for ViewError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Disk(inner) => inner.verdict(),
            Self::Store(inner) => inner.verdict(),
            Self::Verify(inner) => inner.verdict(),
            Self::Taken { .. } | Self::List { .. } => FAILED,
        }
    }
}

impl Judged for FetchError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Wrong { source, .. } | Self::Store { source, .. } => source.verdict().or(NOT_SYNCED),
            Self::Page { .. } | Self::File { .. } | Self::Record { .. } | Self::Unusable { .. } => NOT_SYNCED,
        }
    }
}

impl Judged for SyncError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Inconsistent { .. } | Self::Drop { .. } | Self::LogEndsEarly { .. } | Self::LogLeaps { .. } => {
                Verdict::new(Exit::Inconsistent, UNCHANGED)
            }
            Self::NoRoom { .. } | Self::NoInodes { .. } => NO_ROOM,
            Self::OtherUpstream { .. } => NOTHING_DONE,
            Self::Upstream(_)
            | Self::ChangelogGone { .. }
            | Self::SerialWentBack { .. }
            | Self::EndlessLog { .. }
            | Self::NothingFound { .. } => NOT_SYNCED,
            Self::Fetch(inner) => inner.verdict().or(NOT_SYNCED),
            Self::Store(inner) => inner.verdict().or(NOT_SYNCED),
            Self::Verify(inner) => inner.verdict().or(NOT_SYNCED),
            Self::View(inner) => inner.verdict().or(NOT_SYNCED),
            Self::Purge(inner) => inner.verdict().or(NOT_SYNCED),
        }
    }
}

impl Judged for PurgeError {
    fn verdict(&self) -> Verdict {
        let inner = match self {
            Self::Store(inner) => inner.verdict(),
            Self::Verify(inner) => inner.verdict(),
            Self::View(inner) => inner.verdict(),
        };
        inner.or(NOT_PURGED)
    }
}

impl Judged for AdoptError {
    fn verdict(&self) -> Verdict {
        let inner = match self {
            Self::Tree(inner) => inner.verdict(),
            Self::Take { source, .. } => source.verdict(),
            Self::Room { source, .. } => source.verdict(),
            Self::Store(inner) => inner.verdict(),
        };
        inner.or(NOT_ADOPTED)
    }
}

impl Judged for NoTree {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Unknown { .. } | Self::Link { .. } => NOTHING_DONE,
            Self::Disk(inner) => inner.verdict(),
        }
    }
}

impl Judged for SettingsError {
    fn verdict(&self) -> Verdict {
        match self {
            // What it asks may be away for now.
            Self::CredentialCommand(_) => FAILED,
            Self::Upstream(_) | Self::ConnectTo { .. } | Self::NoVariable(_) | Self::Client(_) => USAGE,
        }
    }
}

impl Judged for NoDefault {
    fn verdict(&self) -> Verdict {
        USAGE
    }
}

impl Judged for InvalidName {
    fn verdict(&self) -> Verdict {
        USAGE
    }
}

impl Judged for serde_json::Error {
    fn verdict(&self) -> Verdict {
        FAILED
    }
}

impl Judged for tokio::task::JoinError {
    fn verdict(&self) -> Verdict {
        FAILED
    }
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
        let errors: [Failure; 4] = [
            SyncError::Store(full().into()).into(),
            SyncError::View(ViewError::Store(full().into())).into(),
            Failure::from(SyncError::from(file)).during("mirror `pypi` was not synced"),
            SelectError::Store(full().into()).into(),
        ];
        for error in errors {
            let Verdict { exit, hint, .. } = error.verdict;
            assert_eq!((exit, hint.is_some_and(|hint| hint.contains("full"))), (Exit::Failed, true), "{error:?}");
        }
    }
}
