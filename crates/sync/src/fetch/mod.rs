//! Pages and files from upstream into the store.
//!
//! A [`Fetcher`] serves one sync. The blobs that it fetches are in the store, but nothing names them, until
//! [`Fetcher::finish`] has made them durable and has made the units that name them. `patience.rs` asks upstream with
//! patience; `plan.rs` finds out which files of a page the store has already, `receive.rs` receives the rest (`turn.rs`: within a time),
//! `batch.rs` makes it durable in batches, and `units.rs` renders pages and makes units.

mod batch;
mod error;
mod patience;
mod plan;
mod receive;
mod turn;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use strandline_model::{
    ClaimedSha256, Form, Format, Held, HoldReason, Inputs, Leaf, Method, ProjectName, Record, Serial, Timestamp, Unit,
    with_causes,
};
use strandline_store::{Intake, Locked, Recorded, Remarks, Sights, Store, StoreError};
use tokio::sync::watch;
use tokio::task::{JoinSet, block_in_place};

pub use self::error::FetchError;
pub(crate) use self::error::unusable;
pub(crate) use self::patience::Patience;
pub(crate) use self::receive::metadata_url;
pub(crate) use self::units::Finished;

use self::batch::Batches;
use self::patience::Patient;
use self::receive::differs;
use self::turn::Turns;
use crate::cut::{Content, ReleasesOf};
use crate::progress::Progress;
use crate::stored::{self, Availability, RecordError, Stored};
use crate::upstream::{Answer, Page, Problem, UpstreamError, Validator, Way};
use crate::{Clock, Context, Settings, SyncError};

/// Fetches for one sync of one mirror.
pub struct Fetcher {
    pub(crate) store: Arc<Store>,
    pub(crate) format: Arc<dyn Format>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) clock: Clock,
    pub(crate) progress: Arc<Progress>,
    base: Option<Recorded>,
    /// Whether this sync is to begin as a first one does: what the base has says nothing of what upstream has to say.
    pub(crate) anew: bool,
    /// What decides what the base shows.
    pub(crate) base_inputs: Inputs,
    /// What was withdrawn when the base was made, or when the sync began.
    withdrawn: BTreeSet<ClaimedSha256>,
    /// Where it comes from.
    pub(crate) patient: Patient,
    turns: Turns,
    /// Where it goes.
    pub(crate) batches: Batches,
    /// Declared after `batches`, because the process that takes the lock next has an intake of its own.
    pub(crate) mirror: Arc<Locked>,
    /// What the pages that were read say and this program does not use, until it is noted.
    remarks: Mutex<BTreeMap<ProjectName, Remarks>>,
    /// What the mirror has seen and since when; recorded when it is known how the sync goes on.
    sights: Mutex<Sights>,
    /// Whether a file came in that the store did not have: then there is something new to publish.
    pub(crate) news: watch::Sender<bool>,
}

/// A page, and what came of its files.
pub(crate) struct Fetched {
    /// What the cut sees of it. A file that the base's inputs say is lacking and that still cannot be had stands in nothing's
    /// way: the sync does not wait for it again.
    pub(crate) content: Content<Stored>,
    /// Whether all files are here that are to be.
    pub(crate) whole: bool,
    /// Why the others cannot be had, in the order of the record, but for those that the base lacks.
    pub(crate) failures: Vec<FetchError>,
    /// These others, by name.
    pub(crate) lacking: LackingFiles,
}

impl Fetched {
    /// Lets the files that cannot be had stand in nothing's way.
    pub(crate) fn go_on_without_files(&mut self) {
        go_on_without(&mut self.content, &self.lacking);
    }
}

/// Lets files that cannot be had stand in nothing's way.
pub(crate) fn go_on_without(content: &mut Content<Stored>, lacking: &LackingFiles) {
    for (name, file) in &mut content.files {
        if file.content.as_ref().is_err_and(|reason| reason.is_of_files())
            && let Some((stored, _)) = lacking.get(name)
        {
            file.content = Ok(stored.clone());
        }
    }
}

/// Files that cannot be had, and why, by name.
pub(crate) type LackingFiles = BTreeMap<String, (Stored, HoldReason)>;

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("mirror", &self.settings.mirror).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Prepares to fetch what `base` does not have.
    pub fn open(context: &Context, mirror: &Arc<Locked>, base: Option<Recorded>) -> Result<Arc<Self>, StoreError> {
        let Context { store, upstream, format, settings, clock, progress } = context;
        let inputs = base.as_ref().map(|base| store.inputs(&base.snapshot)).transpose()?;
        let base_inputs = inputs.unwrap_or_default();
        Ok(Arc::new(Self {
            withdrawn: base_inputs.withdrawn.union(&mirror.withdrawn()?).copied().collect(),
            base_inputs,
            store: store.clone(),
            format: format.clone(),
            settings: settings.clone(),
            clock: clock.clone(),
            progress: progress.clone(),
            turns: Turns::new(base.as_ref().map(|_| settings.longest)),
            base,
            anew: mirror.begins_anew()?,
            patient: Patient::new(upstream.clone(), settings),
            batches: Batches::new(Intake::open(mirror, settings.access)?),
            mirror: Arc::clone(mirror),
            remarks: Mutex::default(),
            sights: Mutex::new(mirror.sights()?),
            news: watch::Sender::new(false),
        }))
    }

    /// When something happened, by upstream's clock or as it was remembered. One of the clocks was ahead where that lies in the
    /// future: it counts as now.
    pub(crate) fn past(&self, time: Timestamp) -> Timestamp {
        time.min((self.clock)())
    }

    /// What the mirror has seen and since when, to look at and to add to.
    pub(crate) fn sights(&self) -> MutexGuard<'_, Sights> {
        self.sights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which files of a project belong to which release.
    pub fn releases_of<'a>(&'a self, project: &'a ProjectName) -> ReleasesOf<'a> {
        ReleasesOf { project, releases: &*self.format }
    }

    /// How the base holds a project, if it does.
    pub(crate) fn base_held(&self, project: &ProjectName) -> Option<&Held> {
        let held = &self.base.as_ref()?.snapshot.held;
        held.binary_search_by(|held| held.name.cmp(project)).ok().map(|position| &held[position])
    }

    /// How often the page and the files of a project are asked for.
    fn patience(&self, project: &ProjectName) -> Patience {
        if self.base_held(project).is_some() { Patience::Once } else { Patience::Again }
    }

    /// How far the mirror has counted by itself, if the base's serials are its own count.
    pub(crate) fn base_count(&self) -> Option<Serial> {
        self.base.as_ref().filter(|base| base.counted).map(|base| base.snapshot.label.serial)
    }

    /// All projects as the base lists them.
    pub(crate) fn base_leaves(&self) -> Result<Vec<Leaf>, StoreError> {
        match &self.base {
            Some(base) => block_in_place(|| self.store.leaves(&base.snapshot)),
            None => Ok(Vec::new()),
        }
    }

    /// How the base lists a project.
    pub fn base_leaf(&self, project: &ProjectName) -> Result<Option<Leaf>, StoreError> {
        match &self.base {
            Some(base) => block_in_place(|| self.store.find(&base.snapshot, project)),
            None => Ok(None),
        }
    }

    /// With what to ask for a project's page, so that upstream may say that it is still the base's. Nothing, where the base was
    /// found in another way: then all is read anew, so that nothing stays hidden that a cache hid from that one.
    pub fn base_validator(
        &self,
        project: &ProjectName,
        leaf: Option<&Leaf>,
        method: Method,
    ) -> Result<Option<Validator>, StoreError> {
        if self.anew || self.base.as_ref().is_none_or(|base| base.snapshot.method != method) {
            return Ok(None);
        }
        let Some((leaf, unit)) = leaf.and_then(|leaf| Some((leaf, leaf.unit?))) else { return Ok(None) };
        // Of a project that is held for its files, the page of the unit is not what the leaf says.
        if self.base_held(project).is_some_and(|held| held.reason.is_of_files() || held.at != leaf.serial) {
            return Ok(None);
        }
        let tag = block_in_place(|| self.mirror.validator(project, unit))?;
        Ok(tag.map(Validator))
    }

    /// A project's page as upstream shows it now.
    ///
    /// A page in HTML says less than one in JSON. So it is no answer where the base has the project from JSON, or where the
    /// index has a changelog, because such an index has JSON: something on the way has changed it. Elsewhere an index may have
    /// some projects in the one form and some in the other, as one that passes on what it has not itself.
    pub(crate) async fn page(
        &self,
        project: &ProjectName,
        validator: Option<&Validator>,
        way: Way,
        method: Method,
    ) -> Result<Answer, SyncError> {
        let answer = self.patient.page(project, validator, way, self.patience(project)).await?;
        if !matches!(&answer, Answer::Page { page, .. } if page.record.seen().preamble.form == Form::Html) {
            return Ok(answer);
        }
        let known = self.base_leaf(project)?.and_then(|leaf| leaf.record);
        let known = known.map(|id| block_in_place(|| self.store.record(id))).transpose()?;
        let is_json = !self.anew && known.is_some_and(|record| record.seen().preamble.form == Form::Json);
        if method != Method::Changelog && !is_json {
            return Ok(answer);
        }
        let url = format!("{}{project}/", self.patient.upstream().url());
        let problem =
            "the page is HTML, and the index has it in JSON, which says more: something on the way has changed it";
        let source = UpstreamError::new(url, Problem::Malformed(problem.to_owned()));
        Err(FetchError::Page { project: project.clone(), source }.into())
    }

    /// Brings the files of a page into the store; returns what the cut sees of the page then. Fails only where the store does.
    pub(crate) async fn content_of_page(&self, page: &Page) -> Result<Fetched, SyncError> {
        let (record, project) = (&page.record, page.record.name());
        let (unknown, skipped) = (record.seen().unknown_keys(), page.skipped.named().clone());
        let before = self.remark(project, Remarks { unknown, skipped, skipped_count: page.skipped.count() });
        let (mut whole, mut failures, mut lacking) = (true, Vec::new(), BTreeMap::new());
        let files = self.files(page).await?;
        self.remark_compared(project, &files, before)?;
        let contents = record.files().zip(files).map(|(file, fetched)| {
            fetched.or_else(|failure| {
                whole = false;
                let (name, reason) = (file.0, failure.hold_reason());
                let stored = Stored::new(file, Availability::Lacking);
                if reason.is_of_files() && self.base_inputs.lacks(project, name, file.1.sha256) {
                    tracing::info!("still lacking: {}", with_causes(&failure));
                    return Ok(stored);
                }
                failures.push(failure);
                if reason.is_of_files() {
                    lacking.insert(name.as_str().to_owned(), (stored, reason));
                }
                Err(reason)
            })
        });
        let content = stored::content(record, contents.collect::<Vec<_>>());
        Ok(Fetched { content, whole, failures, lacking })
    }

    /// Notes this of a project; returns what this sync has noted before.
    fn remark(&self, project: &ProjectName, remarks: Remarks) -> Remarks {
        let before = self.remarks.lock().unwrap_or_else(PoisonError::into_inner).insert(project.clone(), remarks);
        before.unwrap_or_default()
    }

    /// Whether files of a project were left for the next sync, because they take too long.
    pub(crate) fn has_left_files(&self, project: &ProjectName) -> bool {
        self.turns.has_left(project)
    }

    /// Whether files of some project were left, and others came.
    pub(crate) fn goes_on(&self) -> bool {
        *self.news.borrow() && self.turns.have_left()
    }

    /// Adds to what is noted of a project.
    fn remark_skipped(&self, project: &ProjectName, what: String) {
        let mut remarks = self.remarks.lock().unwrap_or_else(PoisonError::into_inner);
        remarks.entry(project.clone()).or_default().add_skipped(what);
    }

    /// Notes again of which files the metadata was found to be another than what stands in them: that is looked at once, when the
    /// file comes.
    fn remark_compared(
        &self,
        project: &ProjectName,
        files: &[Result<Stored, FetchError>],
        before: Remarks,
    ) -> Result<(), SyncError> {
        let mut named = before.skipped;
        if self.base.is_some() {
            named.extend(block_in_place(|| self.mirror.skipped_of(project))?.named);
        }
        for noted in named {
            let is_of = |stored: &Stored| {
                stored.metadata().is_some_and(|metadata| noted.starts_with(&differs(stored.name(), metadata)))
            };
            if files.iter().flatten().any(is_of) {
                self.remark_skipped(project, noted);
            }
        }
        Ok(())
    }

    /// Brings the files of a page into the store; returns, for each in the order of the record, what is there now or why it
    /// cannot be had.
    async fn files(&self, page: &Page) -> Result<Vec<Result<Stored, FetchError>>, SyncError> {
        let (record, project) = (&page.record, page.record.name());
        let plans = block_in_place(|| self.plan(project, record))?;
        // A project of thousands of files has no more requests under way than the semaphore lets through; `ahead`
        // bounds how many files wait for it.
        let ahead = self.settings.connections * 2;
        let mut waiting = record.files().zip(plans);
        let (mut running, mut all) = (FuturesOrdered::new(), Vec::with_capacity(record.files().len()));
        loop {
            while running.len() < ahead
                && let Some((file, plan)) = waiting.next()
            {
                running.push_back(self.file(page, file, plan));
            }
            all.push(match running.next().await {
                None => break,
                Some(Err(SyncError::Fetch(error))) if error.is_upstreams() => Err(*error),
                Some(other) => Ok(other?),
            });
        }
        Ok(all)
    }

    /// What upstream says of a project as a leaf of the base has it, with the files that its unit has.
    pub fn base_content(&self, leaf: &Leaf) -> Result<Content<Stored>, SyncError> {
        block_in_place(|| {
            let none = || record_error(&leaf.name, RecordError::None(leaf.name.clone()));
            let record = self.store.record(leaf.record.ok_or_else(none)?)?;
            Ok(stored::content_of_unit(&record, self.base_unit(leaf)?.as_ref(), &self.withdrawn))
        })
    }

    /// What the base shows of a project, if it was ever good.
    pub(crate) fn base_unit(&self, leaf: &Leaf) -> Result<Option<Unit>, StoreError> {
        leaf.unit.map(|unit| self.store.unit(unit)).transpose()
    }

    /// A project as a unit has it.
    pub fn content(&self, unit: &Unit) -> Result<Content<Stored>, SyncError> {
        Ok(stored::content_of_unit(&self.record(unit)?, Some(unit), &self.withdrawn))
    }

    /// What upstream says of a project that a unit shows.
    pub(crate) fn record(&self, unit: &Unit) -> Result<Record, SyncError> {
        stored::record_of(&self.store, unit).map_err(|error| record_error(unit.name(), error))
    }
}

fn record_error(project: &ProjectName, error: RecordError) -> SyncError {
    match error {
        RecordError::Store(error) => error.into(),
        error => unusable(project, error.to_string()).into(),
    }
}

/// Does all of `work`, at most `limit` at a time, on all threads. On an error the rest is stopped, and it has ended
/// when this returns: no task goes on writing after the sync.
pub(crate) async fn each<T: Send + 'static>(
    limit: usize,
    work: impl IntoIterator<Item = impl Future<Output = Result<T, SyncError>> + Send + 'static>,
) -> Result<Vec<T>, SyncError> {
    let mut running = JoinSet::new();
    let mut done = Vec::new();
    let mut work = work.into_iter();
    loop {
        while running.len() < limit
            && let Some(next) = work.next()
        {
            running.spawn(next);
        }
        match running.join_next().await {
            None => return Ok(done),
            Some(Ok(Ok(result))) => done.push(result),
            Some(Ok(Err(error))) => {
                running.shutdown().await;
                return Err(error);
            }
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
