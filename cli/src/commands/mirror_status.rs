//! How mirrors and the store stand, as values. Each form of output is made from these and asks the store nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use strandline_model::{FileName, Gone, Held, Hidden, Label, Method, MirrorName, ProjectName, Timestamp, UpstreamUrl};
use strandline_store::{SkippedOf, Store, Subject, Usage, Withdrawal};
use strandline_sync::collects_from;

use super::purge;
use crate::report::Failure;

/// How a mirror stands. As JSON, each field is a key of the same name; what is not known is null.
#[derive(Debug, Serialize)]
pub(crate) struct MirrorStatus {
    pub(crate) mirror: MirrorName,
    pub(crate) upstream: Option<UpstreamUrl>,
    /// Whether the next sync begins as a first one does, as `strandline mirror reset` asks.
    pub(crate) begins_anew: bool,
    /// How upstream's state was found for the newest snapshot.
    pub(crate) method: Option<Method>,
    /// Since when upstream has said that it has no changelog any more, where the mirror follows that.
    pub(crate) no_changelog_since: Option<Timestamp>,
    /// When the mirror does without from then on, if upstream goes on saying so and the configuration does not name a method.
    pub(crate) collects_from: Option<Timestamp>,
    /// The snapshot that readers see.
    pub(crate) published: Option<Label>,
    /// When `live` was switched to it.
    pub(crate) published_since: Option<Timestamp>,
    /// The newest verified snapshot; `None` where the mirror was never synced.
    pub(crate) recorded: Option<Label>,
    /// How many projects the newest snapshot has.
    pub(crate) projects: Option<u64>,
    /// How many snapshots are kept.
    pub(crate) snapshots: usize,
    /// How many of them lack an event that came to light late.
    pub(crate) missed_late_event: usize,
    /// Whether syncs record and do not publish.
    pub(crate) rolled_back: bool,
    /// What is withdrawn from the mirror now.
    #[serde(serialize_with = "as_json")]
    pub(crate) withdrawn: Vec<Withdrawal>,
    /// Whether a withdrawal is not done everywhere yet.
    pub(crate) withdrawal_unfinished: bool,
    pub(crate) last_sync: Option<LastSync>,
    /// How far the newest snapshot is behind upstream's log, as of the last sync: the log is not asked here.
    pub(crate) lag: Option<Lag>,
    pub(crate) held: Vec<Held>,
    /// The projects that went without an event of the changelog.
    pub(crate) gone: Vec<Gone>,
    /// The files that alone are not shown of their projects.
    pub(crate) lacking: Vec<LackingFile>,
    /// The keys of pages in JSON that this program does not know, as JSON pointers, each with the number of the projects whose page
    /// has it.
    pub(crate) unknown_keys: BTreeMap<String, u64>,
    /// What of pages could not be used when they were read last.
    pub(crate) skipped: Vec<SkippedElements>,
    /// As the last `gc` found it.
    pub(crate) size: Option<MirrorSize>,
}

/// A file that upstream names and that the mirror cannot have.
#[derive(Debug, Serialize)]
pub(crate) struct LackingFile {
    pub(crate) project: ProjectName,
    pub(crate) filename: FileName,
    /// Why it is not shown.
    pub(crate) reason: String,
}

/// What upstream's page of a project has that cannot be used.
#[derive(Debug, Serialize)]
pub(crate) struct SkippedElements {
    pub(crate) project: ProjectName,
    /// How much it is: fields of files, and files.
    pub(crate) count: u64,
    /// What it is, in words; of much, the first.
    pub(crate) named: Vec<String>,
}

/// How the last sync went.
#[derive(Debug, Serialize)]
pub(crate) struct LastSync {
    pub(crate) time: Timestamp,
    /// Why it published nothing, if so.
    pub(crate) failure: Option<String>,
    /// How many rounds of pages and log it took, where there is a log.
    pub(crate) rounds: Option<u32>,
}

/// How far a mirror is behind.
#[derive(Debug, Serialize)]
pub(crate) struct Lag {
    pub(crate) serials: u64,
    pub(crate) seconds: u64,
}

/// How much a mirror's snapshots name.
#[derive(Debug, Serialize)]
pub(crate) struct MirrorSize {
    pub(crate) bytes: u64,
    /// What no other mirror names.
    pub(crate) own_bytes: u64,
}

/// How the store as a whole stands.
#[derive(Debug, Serialize)]
pub(crate) struct StoreStatus {
    pub(crate) free_bytes: u64,
    pub(crate) free_inodes: Option<u64>,
    /// As the last `gc` found it.
    pub(crate) size: Option<StoreSize>,
}

/// How much the store holds.
#[derive(Debug, Serialize)]
pub(crate) struct StoreSize {
    pub(crate) bytes: u64,
    /// How much more it would be if mirrors shared nothing.
    pub(crate) saved_bytes: u64,
    pub(crate) as_of: Timestamp,
}

impl MirrorStatus {
    /// Asks the store how a mirror stands.
    /// `automatic`: the configuration does not name a method.
    pub(crate) fn of(
        store: &Arc<Store>,
        mirror: &MirrorName,
        automatic: bool,
        usage: Option<&Usage>,
    ) -> Result<Self, Failure> {
        let (mut latest, mut state, mut last, mut kept) = (None, None, None, Vec::new());
        let (mut upstream, mut begins_anew) = (None, false);
        let (mut unknown_keys, mut skipped, mut no_changelog_since) = (BTreeMap::new(), BTreeMap::new(), None);
        // The store has no row of a mirror that no process has ever locked.
        if let Some(mirror) = store.mirror(mirror)? {
            latest = mirror.latest_verified()?.map(|latest| latest.snapshot);
            (upstream, begins_anew) = (mirror.upstream()?, mirror.begins_anew()?);
            (state, last, kept) = (mirror.view_state()?, mirror.last_sync()?, mirror.snapshots()?);
            (unknown_keys, skipped) = (mirror.unknown_keys()?, mirror.skipped()?);
            no_changelog_since = mirror.sights()?.of(&Subject::MissingChangelog).map(|sight| sight.first);
        }
        let inputs = latest.as_ref().map(|latest| store.inputs(latest)).transpose()?.unwrap_or_default();
        let lacking = inputs.lacking.into_keys().map(|(project, filename)| {
            let reason = Hidden::Lacking.to_string();
            LackingFile { project, filename, reason }
        });
        let published = state.map(|state| store.recorded(state.snapshot)).transpose()?;
        let lag = last.as_ref().zip(latest.as_ref()).and_then(|(last, latest)| {
            let cut = last.cut?;
            Some(Lag {
                serials: cut.head.get().saturating_sub(latest.label.serial.get()),
                seconds: cut.behind.map_or(0, |behind| last.time.since(behind).as_secs()),
            })
        });
        Ok(Self {
            mirror: mirror.clone(),
            upstream,
            begins_anew,
            method: latest.as_ref().map(|latest| latest.method),
            no_changelog_since,
            collects_from: no_changelog_since.filter(|_| automatic).map(collects_from),
            published: published.map(|published| published.snapshot.label),
            published_since: state.map(|state| state.switched),
            recorded: latest.as_ref().map(|latest| latest.label),
            projects: latest.as_ref().map(|latest| latest.listed),
            snapshots: kept.len(),
            missed_late_event: kept.iter().filter(|kept| kept.missed).count(),
            rolled_back: state.is_some_and(|state| state.frozen),
            withdrawn: purge::in_force(store, mirror)?,
            withdrawal_unfinished: store.purging()?.contains(mirror),
            last_sync: last.map(|last| LastSync {
                time: last.time,
                failure: last.failure,
                rounds: last.cut.map(|cut| cut.rounds),
            }),
            lag,
            gone: latest.as_ref().map(|latest| latest.gone.clone()).unwrap_or_default(),
            held: latest.map(|latest| latest.held).unwrap_or_default(),
            lacking: lacking.collect(),
            unknown_keys,
            skipped: skipped
                .into_iter()
                .map(|(project, SkippedOf { count, named })| SkippedElements { project, count, named })
                .collect(),
            size: usage
                .and_then(|usage| usage.mirrors.get(mirror))
                .map(|size| MirrorSize { bytes: size.bytes, own_bytes: size.own }),
        })
    }
}

impl StoreStatus {
    /// Asks the store, and its file system, how it stands.
    pub(crate) fn of(store: &Store, usage: Option<&Usage>) -> Result<Self, Failure> {
        let free = store.disk().free(store.root())?;
        let size = usage.map(|usage| {
            let named: u64 = usage.mirrors.values().map(|mirror| mirror.bytes).sum();
            StoreSize { bytes: usage.bytes, saved_bytes: named.saturating_sub(usage.bytes), as_of: usage.time }
        });
        Ok(Self { free_bytes: free.bytes, free_inodes: free.inodes, size })
    }
}

fn as_json<S: Serializer>(withdrawn: &[Withdrawal], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(withdrawn.iter().map(purge::as_json))
}
