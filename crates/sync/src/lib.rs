//! One sync, from what upstream says to the switch.
//!
//! [`sync`] shows the steps in their order: each takes only what the step before made, so readers see only what was
//! cut, committed and read back.
//!
//! What always holds:
//!
//! 1. A committed snapshot is one state of upstream; [`collect`] and [`changelog`] say what "one state" means for each
//!    method.
//! 2. A sync that fails has changed nothing that readers see, and leaves no temporary file.
//! 3. A sync repeated changes nothing.

pub mod adopt;
pub mod changelog;
pub mod collect;
pub mod cut;
mod error;
mod fetch;
mod lacking;
mod max_drop;
mod no_changelog;
mod open;
mod progress;
pub mod purge;
pub mod rebuild;
pub mod render;
pub mod repair;
mod room;
mod settings;
mod shrunk;
mod stored;
pub mod upstream;
mod withdrawn;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use strandline_model::{FileName, Format, Gone, Held, Label, Leaf, ProjectName, Serial, Timestamp, with_causes};
use strandline_store::{
    Conclusion, CutReport, Draft, LastSync, Locked, Recorded, Store, StoreError, Subject, Verified,
};
use strandline_view::{Freeze, Publisher, Staging};
use tokio::task::{JoinSet, block_in_place};

pub use error::SyncError;
pub use fetch::{FetchError, Fetcher};
pub use max_drop::MaxDrop;
pub use no_changelog::collects_from;
pub use open::open;
pub use progress::Progress;
pub use settings::{OnBroken, Selection, Settings};
pub use stored::{Availability, Earlier, Logged, Stored, Whole};
pub use strandline_model::Method;

pub use strandline_view::Clock;

use crate::fetch::Finished;
use crate::upstream::{Problem, Upstream};

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
    /// The files that upstream does not give, which alone are not shown of their projects.
    pub lacking: Vec<(ProjectName, FileName)>,
    /// The selected projects that upstream does not have.
    pub absent: Vec<ProjectName>,
    /// How far the cut got, where there is a changelog.
    pub cut: Option<CutReport>,
}

/// All pages of one state of upstream, with their files in the store: what a snapshot is made from.
#[derive(Debug)]
pub struct Proposal {
    /// How it was found.
    pub method: Method,
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
    /// Whether this was found as by a first sync, from what upstream says now alone: a project of the base that is neither in it nor
    /// held is not there any more.
    pub begun_anew: bool,
    /// The projects of the base that go although no row of the log says so.
    pub vanished: BTreeSet<ProjectName>,
    /// How far it got, where there is a changelog.
    pub report: Option<CutReport>,
    /// The projects whose pages are remembered for the next sync, because they have events after the serial.
    pub later: BTreeSet<ProjectName>,
    /// Serials up to `serial` that the log has not shown.
    pub missing: Vec<Serial>,
    /// The projects that went without a row of the log, sorted by name.
    pub gone: Vec<Gone>,
    /// What the mirror has seen for long enough, and what is acted on with this.
    pub acted_on: BTreeSet<Subject>,
}

/// All that a command on a mirror needs: where the mirror comes from, how it is written, and where it goes. Mirrors of
/// different kinds stand side by side.
#[derive(Clone)]
pub struct Context {
    /// Where it goes.
    pub store: Arc<Store>,
    /// Where it comes from.
    pub upstream: Arc<dyn Upstream>,
    /// How its pages and lists are written.
    pub format: Arc<dyn Format>,
    /// Which mirror, and how.
    pub settings: Arc<Settings>,
    /// Says what time it is.
    pub clock: Clock,
    /// How far it is.
    pub progress: Arc<Progress>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, upstream, format, settings, clock: _, progress } = self;
        f.debug_struct("Context")
            .field("store", store)
            .field("upstream", upstream)
            .field("format", format)
            .field("settings", settings)
            .field("progress", progress)
            .finish_non_exhaustive()
    }
}

impl Context {
    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// What shows the mirror's snapshots to readers.
    fn publisher(&self) -> Publisher {
        Publisher::new(Arc::clone(&self.format), self.settings.drain, Arc::clone(&self.clock))
    }
}

/// Brings a mirror to upstream's state and publishes it. Needs a multi-threaded runtime: disk work is done in place.
pub async fn sync(context: &Context) -> Result<Outcome, SyncError> {
    let Context { store, settings, .. } = context;
    let mirror = Arc::new(store.lock(&settings.mirror, settings.wait, context.now())?);
    store.settle_times(context.now())?;
    let done = in_parts(context, &mirror).await;
    let failure = done.as_ref().err().map(|error| with_causes(error));
    // The operator needs the error that stopped the sync more than one that says that it could not be recorded.
    let cut = match &done {
        Ok(outcome) => outcome.cut,
        Err(SyncError::Inconsistent { cut, .. }) => *cut,
        Err(_) => None,
    };
    if let Err(error) = mirror.record_sync(&LastSync { time: context.now(), failure, cut }) {
        tracing::warn!(%error, "the outcome of the sync is not recorded");
    }
    done
}

/// How many turns of `longest` one sync gives to projects whose files take long: the next mirror waits for it.
const TURNS: u32 = 5;

/// A sync, in as many parts as it takes until it is where upstream was when it began.
async fn in_parts(context: &Context, mirror: &Arc<Locked>) -> Result<Outcome, SyncError> {
    let mut aim = changelog::Aim::default();
    let mut done = part(context, mirror, &mut aim).await?;
    let mut turns = 1;
    while aim.unfinished || (aim.goes_on && turns < TURNS) {
        if !aim.unfinished {
            // The others may have moved on meanwhile.
            (aim, turns) = (changelog::Aim::default(), turns + 1);
        }
        match part(context, mirror, &mut aim).await {
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

/// One part of a sync: as far as one cut goes.
async fn part(context: &Context, mirror: &Arc<Locked>, aim: &mut changelog::Aim) -> Result<Outcome, SyncError> {
    let (store, publisher) = (&context.store, context.publisher());
    if strandline_view::repair(mirror)? {
        tracing::warn!(mirror = %mirror.name(), "finished a switch of the view that was interrupted");
    }
    withdrawn::finish(context, mirror)?;
    if let Some(state) = mirror.view_state()?
        && store.served(state.snapshot)? != state.snapshot
    {
        // The process that made a revision of what is published died before it switched to it.
        block_in_place(|| publisher.follow_revisions(mirror))?;
    }
    let base = mirror.latest_verified()?;
    require_same_upstream(context, mirror)?;
    let reread = mirror.to_reread()?;

    let fetcher = Fetcher::open(context, mirror, base.clone())?;
    let proposed = propose(&fetcher, &publisher, base.as_ref(), aim).await;
    // What was seen counts, however the sync ends.
    let recorded = mirror.record_sights(&mut fetcher.sights());
    let mut proposal = proposed?;
    recorded?;
    if let Some(base) = &base
        && proposal.begun_anew
    {
        drop_the_rest(store, base, &mut proposal)?;
    }
    max_drop::check(&context.settings, base.as_ref(), &proposal)?;
    let _until_published = store.postpone_log_copy()?;
    let mut finished = fetcher.finish(proposal.serial, std::mem::take(&mut proposal.changes))?;
    mirror.note_unlogged(&finished.unlogged, context.now())?;
    let changed = finished.units.len() + proposal.stored.len();
    let (absent, report) = (std::mem::take(&mut proposal.absent), proposal.report);
    let conclusion = Conclusion {
        validations: std::mem::take(&mut finished.validations),
        anew: proposal.begun_anew,
        later: std::mem::take(&mut proposal.later),
        held: proposal.held.iter().map(|held| held.name.clone()).collect(),
        reread,
        acted_on: std::mem::take(&mut proposal.acted_on),
    };
    // Dropping this removes the staged lists, so it is kept until they are published.
    let staging = Staging::new(mirror);
    let verified = record(context, mirror, base.as_ref(), proposal, finished, conclusion, &staging)?;
    aim.goes_on = fetcher.goes_on();
    drop(fetcher);

    // Something may have been withdrawn since its file was fetched.
    let verified = if withdrawn::finish(context, mirror)? {
        mirror.verified(store.recorded(store.served(verified.id())?)?, Some(verified.snapshot()))?
    } else {
        verified
    };
    let sealed = publisher.seal(verified);
    let published = publisher.publish(mirror, &sealed, Freeze::Keep).await?;
    let snapshot = sealed.snapshot();
    Ok(Outcome {
        label: published.map_or(snapshot.label, |published| published.label()),
        before: base.map(|base| base.snapshot.label),
        changed,
        projects: snapshot.listed,
        published: published.is_some(),
        held: snapshot.held.clone(),
        lacking: store.inputs(snapshot)?.lacking.into_keys().collect(),
        absent,
        cut: report,
    })
}

/// Finds out how upstream stands, and brings its files into the store; meanwhile a task brings the standby up to date.
async fn propose(
    fetcher: &Arc<Fetcher>,
    publisher: &Publisher,
    base: Option<&Recorded>,
    aim: &mut changelog::Aim,
) -> Result<Proposal, SyncError> {
    let beside = catch_up_beside(fetcher, publisher)?;
    let settings = &fetcher.settings;
    let followed = match base {
        // How a lost catalog's mirror was followed is lost, too: it is found out as at a first sync.
        Some(base) if fetcher.anew || rebuild::was_rebuilt(&fetcher.store, base)? => None,
        base => base.map(|base| &base.snapshot),
    };
    // What a cache hid from a double collect is in the log, perhaps before the base's serial; and a serial that the mirror has
    // counted itself says nothing of the log.
    let logged = |base: &&Recorded| !fetcher.anew && base.snapshot.method == Method::Changelog;
    let collected = base.filter(|_| !fetcher.anew);
    let proposal = match settings.method(followed) {
        Method::Collect => collect::collect(fetcher, collected).await,
        Method::Changelog => match changelog::follow(fetcher, base.filter(logged), aim).await {
            Err(SyncError::Upstream(error)) if error.problem == Problem::NoChangelog => {
                if followed.is_some_and(|base| base.method == Method::Changelog) {
                    no_changelog::believe(fetcher, error).await?;
                } else if settings.may_collect(followed) {
                    // Only beside a list that is one does the answer say something about the index.
                    fetcher.patient.projects().await?;
                } else {
                    return Err(error.into());
                }
                collect::collect(fetcher, collected).await
            }
            proposal => proposal,
        },
    };
    let proposal = proposal.map(|proposal| settle_changelog(fetcher, proposal));
    // Where no file came in, the task is still waiting; dropping the set cancels it.
    if *fetcher.news.borrow() {
        beside.join_all().await;
    }
    proposal
}

/// A changelog that was read is not missing. One that is done without is forgotten with the snapshot.
fn settle_changelog(fetcher: &Fetcher, mut proposal: Proposal) -> Proposal {
    let (missing, mut sights) = (Subject::MissingChangelog, fetcher.sights());
    match proposal.method {
        Method::Changelog => sights.forget(&missing),
        Method::Collect => proposal.acted_on.extend(sights.of(&missing).map(|_| missing)),
    }
    proposal
}

/// Lets the projects of the base go that a proposal which began anew does not have.
fn drop_the_rest(store: &Store, base: &Recorded, proposal: &mut Proposal) -> Result<(), StoreError> {
    let stored = proposal.stored.iter().map(|leaf| &leaf.name);
    let known: BTreeSet<_> = proposal.held.iter().map(|held| &held.name).chain(stored).cloned().collect();
    for leaf in store.leaves(&base.snapshot)? {
        if !known.contains(&leaf.name) && !proposal.changes.contains_key(&leaf.name) {
            // A project that was quarantined or shown without files is missed by no reader.
            if leaf.listed {
                proposal.vanished.insert(leaf.name.clone());
            }
            proposal.changes.insert(leaf.name, None);
        }
    }
    Ok(())
}

/// Makes a snapshot of a proposal, and reads it back; where the proposal is what the base is, the snapshot is the base.
fn record(
    context: &Context,
    mirror: &Locked,
    base: Option<&Recorded>,
    proposal: Proposal,
    finished: Finished,
    conclusion: Conclusion,
    staging: &Staging<'_>,
) -> Result<Verified, SyncError> {
    let Context { upstream, format, settings, .. } = context;
    let Proposal { method, serial, counted, stored, held, gone, missing, .. } = proposal;
    let Finished { units, inputs, .. } = finished;
    let serial = match base {
        Some(base) if counted && units.is_empty() => base.snapshot.label.serial,
        _ => serial,
    };
    if let Some(base) = base
        && units.is_empty()
        && stored.is_empty()
        && is_same(base, method, serial, &held, &gone, settings)
    {
        let verified = mirror.verified(base.clone(), Some(&base.snapshot))?;
        mirror.conclude(&conclusion)?;
        return Ok(verified);
    }
    let now = context.now();
    let draft = Draft {
        base: base.cloned(),
        serial,
        counted,
        time: now,
        upstream: upstream.url().clone(),
        follow: settings.selection.follow(),
        inputs,
        cutoff: base.map_or(now, |base| base.snapshot.cutoff.max(now)),
        method,
        changes: units,
        stored,
        held,
        gone,
        missing: Some(missing),
        conclusion: Some(conclusion),
    };
    let committed = mirror.commit(draft, |serial, projects| staging.root_lists(&**format, serial, projects))?;
    Ok(mirror.verify(committed)?)
}

/// Brings the standby to what readers see, as soon as a file has come in: before the switch, only this sync's changes
/// are left to be made. Publishing makes up for what this task has not done, so a failure of the task has no
/// consequence.
fn catch_up_beside(fetcher: &Fetcher, publisher: &Publisher) -> Result<JoinSet<()>, StoreError> {
    let Fetcher { mirror, news, .. } = fetcher;
    let mut beside = JoinSet::new();
    // The task does not wait for readers who are still in the standby: it leaves the standby alone then.
    if publisher.is_drained(mirror)? {
        let (publisher, mirror, mut news) = (publisher.clone(), mirror.clone(), news.subscribe());
        beside.spawn(async move {
            if news.wait_for(|news| *news).await.is_err() {
                return;
            }
            if let Err(error) = block_in_place(|| publisher.catch_up(&mirror)) {
                tracing::debug!(%error, "the standby is not brought up before it has to be");
            }
        });
    }
    Ok(beside)
}

fn is_same(base: &Recorded, method: Method, serial: Serial, held: &[Held], gone: &[Gone], settings: &Settings) -> bool {
    let base = &base.snapshot;
    let follow = settings.selection.follow().id();
    (base.method, base.label.serial, &base.held[..], &base.gone[..], base.follow)
        == (method, serial, held, gone, follow)
}

fn require_same_upstream(context: &Context, mirror: &Locked) -> Result<(), SyncError> {
    let configured = context.upstream.url();
    match mirror.upstream()? {
        Some(recorded) if recorded != *configured => {
            Err(SyncError::OtherUpstream { mirror: mirror.name().clone(), recorded, configured: configured.clone() })
        }
        _ => Ok(()),
    }
}
