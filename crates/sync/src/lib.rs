//! One sync, from what upstream says to the switch.
//!
//! [`sync`] is the front page: each step takes only what the step before made, so nothing reaches readers that was
//! not cut, committed and read back.
//!
//! What always holds:
//!
//! 1. What is committed is one state of upstream: [`collect`] and [`changelog`] say for which meaning of that.
//! 2. A sync that fails has changed nothing that readers see, and leaves no temporary file.
//! 3. A sync repeated changes nothing.

pub mod adopt;
pub mod changelog;
pub mod collect;
pub mod cut;
mod fetch;
mod progress;
pub mod purge;
pub mod rebuild;
pub mod repair;
mod settings;
pub mod source;
mod stored;
mod withdrawn;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use strandline_model::{Held, Label, Leaf, MirrorName, ProjectName, Serial, Timestamp, UpstreamUrl, with_causes};
use strandline_store::{Conclusion, CutReport, Draft, LastSync, Locked, Recorded, Store, StoreError, VerifyError};
use strandline_view::{RootLists, ViewError};
use tokio::task::{JoinSet, block_in_place};

pub use fetch::{FetchError, Fetcher};
pub use progress::Progress;
pub use settings::{Method, OnBroken, Selection, Settings};
pub use stored::{Stored, Whole};

use crate::source::{Problem, Source, SourceError};

/// Says what time it is. Tests decide it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What a sync did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The snapshot that the mirror stands at now.
    pub label: Label,
    /// The one it stood at before, if there was one; the same one if nothing changed.
    pub before: Option<Label>,
    /// How many projects changed, appeared or went.
    pub changed: usize,
    /// How many projects the mirror has.
    pub projects: u64,
    /// Whether readers see the snapshot: not if an operator rolled the mirror back.
    pub published: bool,
    /// The projects that are held.
    pub held: Vec<Held>,
    /// The selected projects that upstream does not have.
    pub absent: Vec<ProjectName>,
    /// How far the cut got, where there is a changelog.
    pub cut: Option<CutReport>,
}

/// A sync did not come to its end. Readers see what they saw before.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Upstream did not answer as it should.
    #[error("upstream failed")]
    Upstream(#[from] SourceError),
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
        "mirror `{mirror}` is a copy of {recorded}, and the configuration says {configured}: give a mirror of another upstream another name"
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
        "upstream's serial went back: it says {found}, and mirror `{mirror}` stands at {recorded}. Is it still the same index?"
    )]
    SerialWentBack {
        /// The mirror.
        mirror: MirrorName,
        /// Where it stands.
        recorded: Serial,
        /// What upstream says.
        found: Serial,
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
    /// What was withdrawn could not be taken out of what was recorded.
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

/// All pages of one state of upstream, with their files in the store: what a snapshot is made from.
#[derive(Debug)]
pub struct Cut {
    /// The serial of that state.
    pub serial: Serial,
    /// Whether the serial is the mirror's own count, for an index without serials: it counts what changed.
    pub counted: bool,
    /// The projects that may differ from the base; `None` for those that are not there any more.
    pub changes: BTreeMap<ProjectName, Option<Arc<Whole>>>,
    /// The projects of a first sync whose units are in the catalog already.
    pub stored: Vec<Leaf>,
    /// The projects that are carried at an earlier state, sorted by name.
    pub held: Vec<Held>,
    /// The selected projects that upstream does not have.
    pub absent: Vec<ProjectName>,
    /// How far it got, where there is a changelog.
    pub report: Option<CutReport>,
    /// The projects whose pages are remembered for the next sync, because they have events after the serial.
    pub later: BTreeSet<ProjectName>,
    /// Serials up to `serial` that the log has not shown.
    pub missing: Vec<Serial>,
}

/// What a sync works with.
#[derive(Debug)]
pub struct Context<S> {
    /// Where it goes.
    pub store: Arc<Store>,
    /// Where it comes from.
    pub source: Arc<S>,
    /// Which mirror, and how.
    pub settings: Arc<Settings>,
    /// How far it is.
    pub progress: Arc<Progress>,
}

/// Brings a mirror to upstream's state and publishes it. Needs a multi-threaded runtime: disk work is done in place.
pub async fn sync<S: Source>(context: &Context<S>, lists: &dyn RootLists, clock: &Clock) -> Result<Outcome, SyncError> {
    let Context { store, settings, .. } = context;
    let mirror = Arc::new(store.lock(&settings.mirror, settings.wait, clock())?);
    let done = locked(context, lists, clock, &mirror).await;
    let failure = done.as_ref().err().map(|error| with_causes(error));
    // What stopped the sync is worth more to the operator than that this could not be noted down.
    let cut = match &done {
        Ok(outcome) => outcome.cut,
        Err(SyncError::Inconsistent { cut, .. }) => *cut,
        Err(_) => None,
    };
    if let Err(error) = mirror.record_sync(&LastSync { time: clock(), failure, cut }) {
        tracing::warn!(%error, "the outcome of the sync is not recorded");
    }
    done
}

/// A sync, in as many parts as it takes until it is where upstream was when it began.
async fn locked<S: Source>(
    context: &Context<S>,
    lists: &dyn RootLists,
    clock: &Clock,
    mirror: &Arc<Locked>,
) -> Result<Outcome, SyncError> {
    let mut aim = changelog::Aim::default();
    let mut done = part(context, lists, clock, mirror, &mut aim).await?;
    while aim.unfinished {
        match part(context, lists, clock, mirror, &mut aim).await {
            Ok(next) => done = Outcome { before: done.before, changed: done.changed + next.changed, ..next },
            Err(rest @ SyncError::Inconsistent { .. }) => {
                tracing::warn!("serial {} is as far as it got: {rest}", done.label);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

async fn part<S: Source>(
    context: &Context<S>,
    lists: &dyn RootLists,
    clock: &Clock,
    mirror: &Arc<Locked>,
    aim: &mut changelog::Aim,
) -> Result<Outcome, SyncError> {
    let Context { store, source, settings, .. } = context;
    if strandline_view::repair(mirror)? {
        tracing::warn!(mirror = %mirror.name(), "finished a switch of the view that was interrupted");
    }
    withdrawn::finish(context, lists, clock, mirror)?;
    let base = mirror.latest_verified()?;
    require_same_upstream(context, mirror)?;
    let reread = mirror.to_reread()?;

    let fetcher = Fetcher::open(context, mirror, base.clone())?;
    let beside = catch_up_beside(&fetcher, clock)?;
    let cut = match settings.method() {
        Method::Collect => collect::collect(&fetcher, base.as_ref()).await,
        Method::Changelog => match changelog::follow(&fetcher, base.as_ref(), clock, aim).await {
            Err(SyncError::Upstream(error)) if settings.method.is_none() && error.problem == Problem::NoChangelog => {
                collect::collect(&fetcher, base.as_ref()).await
            }
            cut => cut,
        },
    };
    // Where no file came in, the task is still waiting; dropping the set cancels it.
    if *fetcher.news.borrow() {
        beside.join_all().await;
    }
    let Cut { serial, counted, changes, stored, held, absent, report, later, missing } = cut?;
    let _until_published = store.postpone_log_copy()?;
    let (changes, validations) = fetcher.finish(serial, changes)?;

    let changed = changes.len() + stored.len();
    let staging = strandline_view::Staging::new(mirror);
    let serial = match &base {
        Some(base) if counted && changes.is_empty() => base.snapshot.label.serial,
        _ => serial,
    };
    let conclusion = Conclusion {
        validations,
        keep_tags: base.is_none(),
        later,
        held: held.iter().map(|held| held.name.clone()).collect(),
        reread,
    };
    let verified = match base.clone() {
        Some(base) if changed == 0 && is_same(&base, serial, &held, settings) => {
            let verified = mirror.verified(base.clone(), Some(&base.snapshot))?;
            mirror.conclude(&conclusion)?;
            verified
        }
        base => {
            let draft = Draft {
                base,
                serial,
                time: clock(),
                upstream: source.upstream().clone(),
                selection: settings.selection.digest(),
                changes,
                stored,
                held,
                missing: Some(missing),
                conclusion: Some(conclusion),
            };
            let committed = mirror.commit(draft, |serial, leaves| staging.root_lists(lists, serial, leaves))?;
            mirror.verify(committed)?
        }
    };
    drop(fetcher);
    // Something may have been withdrawn since its file was fetched.
    let verified = if withdrawn::finish(context, lists, clock, mirror)? {
        mirror.verified(store.recorded(store.served(verified.id())?)?, Some(verified.snapshot()))?
    } else {
        verified
    };

    let state = mirror.view_state()?;
    let published = !state.is_some_and(|state| state.frozen);
    if published {
        if state.is_none_or(|state| state.snapshot != verified.id()) {
            tokio::time::sleep(strandline_view::undrained(state, settings.drain, clock())).await;
        }
        strandline_view::publish(mirror, &verified, lists, false, clock())?;
    } else {
        strandline_view::stock_pool(mirror, &verified)?;
    }
    let snapshot = verified.snapshot();
    Ok(Outcome {
        label: snapshot.label,
        before: base.map(|base| base.snapshot.label),
        changed,
        projects: snapshot.units,
        published,
        held: snapshot.held.clone(),
        absent,
        cut: report,
    })
}

/// Brings the standby to what readers see, as soon as a file has come in: the switch then waits for what this sync changes alone.
/// Publishing does whatever is left of it, so a failure is of no consequence here.
fn catch_up_beside<S: Source>(fetcher: &Fetcher<S>, clock: &Clock) -> Result<JoinSet<()>, StoreError> {
    let Fetcher { mirror, settings, news, .. } = fetcher;
    let mut beside = JoinSet::new();
    // Readers who are in it yet are not waited for.
    if strandline_view::undrained(mirror.view_state()?, settings.drain, clock()).is_zero() {
        let (mirror, mut news) = (mirror.clone(), news.subscribe());
        beside.spawn(async move {
            if news.wait_for(|news| *news).await.is_err() {
                return;
            }
            if let Err(error) = block_in_place(|| strandline_view::catch_up(&mirror)) {
                tracing::debug!(%error, "the standby is not brought up before it has to be");
            }
        });
    }
    Ok(beside)
}

fn is_same(base: &Recorded, serial: Serial, held: &[Held], settings: &Settings) -> bool {
    let base = &base.snapshot;
    base.label.serial == serial && base.held == held && base.selection == settings.selection.digest()
}

/// How many files and directories have to be free beside those that are to come: what a batch and the view need.
const INODES: u64 = 1_000;

/// Refuses to fetch so many bytes in so many files if that would fill the disk. Where there is nothing to fetch, next to
/// nothing is needed.
fn require_room(store: &Store, settings: &Settings, needed: u64, files: u64) -> Result<(), SyncError> {
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

fn require_same_upstream<S: Source>(context: &Context<S>, mirror: &Locked) -> Result<(), SyncError> {
    let configured = context.source.upstream();
    match mirror.upstream()? {
        Some(recorded) if recorded != *configured => {
            Err(SyncError::OtherUpstream { mirror: mirror.name().clone(), recorded, configured: configured.clone() })
        }
        _ => Ok(()),
    }
}
