//! Why a sync did not come to its end.

use std::path::PathBuf;

use strandline_model::{MirrorName, ProjectName, Serial, Timestamp, UpstreamUrl};
use strandline_store::{CutReport, StoreError, VerifyError};
use strandline_view::ViewError;

use crate::fetch::FetchError;
use crate::max_drop::{MaxDrop, names};
use crate::purge;
use crate::upstream::UpstreamError;

/// A sync did not come to its end. Readers see what they saw before.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Upstream did not answer as it should.
    #[error("upstream failed")]
    Upstream(#[from] UpstreamError),
    /// The mirror follows a changelog that is not there today.
    #[error(
        "mirror `{mirror}` follows upstream's changelog, which is not there now{}. The next sync asks again. {}",
        since.map_or_else(String::new, |since| format!(", nor was it since {since}")),
        match collects_from {
            Some(from) => format!("If it is still not there at {from}, every page is read twice instead from then on; `source = \"warehouse\"` prevents that"),
            None => "If the index has none any more, `source = \"simple\"` reads every page twice instead".to_owned(),
        }
    )]
    ChangelogGone {
        /// The mirror.
        mirror: MirrorName,
        /// Since when upstream has said so; `None` where it did not say it beside a list that is one.
        since: Option<Timestamp>,
        /// From when on the mirror does not follow it any more, should upstream go on saying so.
        collects_from: Option<Timestamp>,
        /// What upstream answered.
        source: UpstreamError,
    },
    /// A project's page or file could not be had.
    #[error(transparent)]
    Fetch(Box<FetchError>),
    /// The pages did not come to belong to one state in time.
    #[error("upstream was not consistent: {}", in_the_way.iter().map(|(project, why)| format!("{project}: {why}")).collect::<Vec<_>>().join("; "))]
    Inconsistent {
        /// The projects that stood in the way, each with the reason.
        in_the_way: Vec<(ProjectName, String)>,
        /// How far the cut got, where there is a changelog.
        cut: Option<CutReport>,
    },
    /// The mirror is of another upstream.
    #[error(
        "mirror `{mirror}` is a copy of {recorded}, and the configuration says {configured}: if that is another address of the same index, `strandline mirror move {mirror} {configured}` says so; a mirror of another index needs another name"
    )]
    OtherUpstream {
        /// The mirror.
        mirror: MirrorName,
        /// What its snapshots say.
        recorded: UpstreamUrl,
        /// What it is configured to be.
        configured: UpstreamUrl,
    },
    /// Upstream's serials went back.
    #[error(
        "upstream's serial went back: it says {found}, and mirror `{mirror}` stands at {recorded}. The next sync asks again; if the index was set up anew or restored, `strandline mirror reset {mirror}` follows it anew, with all serials and files in place"
    )]
    SerialWentBack {
        /// The mirror.
        mirror: MirrorName,
        /// Where it stands.
        recorded: Serial,
        /// What upstream says.
        found: Serial,
    },
    /// The log ends before the serial that upstream says is its last.
    #[error(
        "upstream's changelog has no row after serial {end}, although upstream says that its last serial is {found}; mirror `{mirror}` stands at {recorded}, and the next sync asks again"
    )]
    LogEndsEarly {
        /// The mirror.
        mirror: MirrorName,
        /// Where it stands.
        recorded: Serial,
        /// The last serial of which the log has a row.
        end: Serial,
        /// What upstream says.
        found: Serial,
    },
    /// The log goes on too far away.
    #[error(
        "upstream's changelog of mirror `{mirror}` goes from serial {before} right to {after}, and no index counts so far at once: rows from there on are not taken. The next sync asks again; if the index does go on there, `strandline mirror reset {mirror}` follows it anew, with all serials and files in place"
    )]
    LogLeaps {
        /// The mirror.
        mirror: MirrorName,
        /// The last serial before.
        before: Serial,
        /// The serial of the first row that is not taken.
        after: Serial,
    },
    /// The log does not end, and there is no snapshot from which to go on.
    #[error("mirror `{mirror}`: upstream's changelog does not end: it was read for {rows} rows or 1,000 requests")]
    EndlessLog {
        /// The mirror.
        mirror: MirrorName,
        /// How many rows one sync reads.
        rows: usize,
    },
    /// Upstream has none of the projects.
    #[error(
        "upstream {upstream} has none of the selected projects ({projects}): is that the URL of a package index, and are the names right?"
    )]
    NothingFound {
        /// The upstream.
        upstream: UpstreamUrl,
        /// The names.
        projects: String,
    },
    /// More projects would go than one sync may take away.
    #[error(
        "{vanished} of the {listed} projects of mirror `{mirror}` would go, and no row of a changelog says so: {}. Upstream's list, its pages or the configuration do not have them any more. One sync takes away at most `max-drop` ({max_drop}) and never all; if these are to go, `strandline sync {mirror} --accept-drop` lets them",
        names(some, *vanished)
    )]
    Drop {
        /// The mirror.
        mirror: MirrorName,
        /// How many would go.
        vanished: u64,
        /// How many the mirror lists.
        listed: u64,
        /// The first of those that would go, by name.
        some: Vec<ProjectName>,
        /// The bound.
        max_drop: MaxDrop,
    },
    /// There is not enough room for what is to be fetched.
    #[error(
        "the disk of the store `{}` has {} free, and {} more would leave less than {} (`min-free`)",
        store.display(), in_words(*free), in_words(*needed), in_words(*min_free)
    )]
    NoRoom {
        /// Where the store is.
        store: PathBuf,
        /// What is free, in bytes.
        free: u64,
        /// What is to be stored, in bytes.
        needed: u64,
        /// What has to stay free, in bytes.
        min_free: u64,
    },
    /// There are not enough inodes for what is to be fetched.
    #[error("the file system of the store `{}` has only {free} inodes left, and a sync needs {needed}", store.display())]
    NoInodes {
        /// Where the store is.
        store: PathBuf,
        /// How many are left.
        free: u64,
        /// How many there have to be.
        needed: u64,
    },
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The new manifest was not what it should be when it was read back.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The view could not be brought up to date.
    #[error(transparent)]
    View(#[from] ViewError),
    /// Withdrawn files could not be taken out of the snapshots that were recorded.
    #[error(transparent)]
    Purge(Box<purge::PurgeError>),
}

#[expect(clippy::cast_precision_loss, reason = "for a person")]
fn in_words(bytes: u64) -> String {
    let megabytes = bytes as f64 / 1e6;
    if megabytes < 1000.0 { format!("{megabytes:.1} MB") } else { format!("{:.1} GB", megabytes / 1000.0) }
}

impl From<purge::PurgeError> for SyncError {
    fn from(error: purge::PurgeError) -> Self {
        Self::Purge(Box::new(error))
    }
}

impl From<FetchError> for SyncError {
    fn from(error: FetchError) -> Self {
        Self::Fetch(Box::new(error))
    }
}
