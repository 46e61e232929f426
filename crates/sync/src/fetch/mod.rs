//! Pages and files from upstream into the store.
//!
//! A [`Fetcher`] serves one sync. The blobs that it fetches are in the store, but nothing names them, until
//! [`Fetcher::finish`] has made them durable and has made the units that name them. `patience.rs` asks upstream with
//! patience; `plan.rs` finds out which files of a page the store has already, `receive.rs` receives the rest,
//! `batch.rs` makes it durable in batches, and `units.rs` renders pages and makes units.

mod batch;
mod error;
mod patience;
mod plan;
mod receive;
mod units;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt as _, stream};
use strandline_model::{Format, Inputs, Leaf, Method, ProjectName, Record, Unit, with_causes};
use strandline_store::{Intake, Locked, Recorded, Remarks, Store, StoreError};
use tokio::sync::watch;
use tokio::task::{JoinSet, block_in_place};

pub use self::error::FetchError;
pub(crate) use self::error::unusable;
pub(crate) use self::receive::metadata_url;
pub(crate) use self::units::Finished;

use self::batch::Batches;
use self::patience::Patient;
use crate::cut::{Content, ReleasesOf};
use crate::progress::Progress;
use crate::stored::{self, Availability, RecordError, Stored};
use crate::upstream::{Page, Validator};
use crate::{Clock, Context, Settings, SyncError};

/// Fetches for one sync of one mirror.
pub struct Fetcher {
    pub(crate) store: Arc<Store>,
    pub(crate) format: Arc<dyn Format>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) clock: Clock,
    pub(crate) progress: Arc<Progress>,
    base: Option<Recorded>,
    /// What decides what the base shows.
    base_inputs: Inputs,
    /// Where it comes from.
    pub(crate) patient: Patient,
    /// Where it goes.
    pub(crate) batches: Batches,
    /// Declared after `batches`, because the process that takes the lock next has an intake of its own.
    pub(crate) mirror: Arc<Locked>,
    /// What the pages that were read say and this program does not use, until it is noted.
    remarks: Mutex<BTreeMap<ProjectName, Remarks>>,
    /// Whether a file came in that the store did not have: then there is something new to publish.
    pub(crate) news: watch::Sender<bool>,
}

/// A page, and what came of its files.
pub(crate) struct Fetched {
    /// What the cut sees of it. A file that the base lacks and that still cannot be had is left out: the sync does not wait for
    /// it again.
    pub(crate) content: Content<Stored>,
    /// Whether all files are here that are to be.
    pub(crate) whole: bool,
    /// Why the others cannot be had, in the order of the record, but for those that the base lacks.
    pub(crate) failures: Vec<FetchError>,
    /// These others, left out, by name.
    pub(crate) lacking: BTreeMap<String, Stored>,
}

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
        Ok(Arc::new(Self {
            base_inputs: inputs.unwrap_or_default(),
            store: store.clone(),
            format: format.clone(),
            settings: settings.clone(),
            clock: clock.clone(),
            progress: progress.clone(),
            base,
            patient: Patient::new(upstream.clone(), settings),
            batches: Batches::new(Intake::open(mirror, settings.access)?),
            mirror: Arc::clone(mirror),
            remarks: Mutex::default(),
            news: watch::Sender::new(false),
        }))
    }

    /// Which files of a project belong to which release.
    pub fn releases_of<'a>(&'a self, project: &'a ProjectName) -> ReleasesOf<'a> {
        ReleasesOf { project, releases: &*self.format }
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
        if self.base.as_ref().is_none_or(|base| base.snapshot.method != method) {
            return Ok(None);
        }
        let Some(unit) = leaf.and_then(|leaf| leaf.unit) else { return Ok(None) };
        let tag = block_in_place(|| self.mirror.validator(project, unit))?;
        Ok(tag.map(Validator))
    }

    /// Brings the files of a page into the store; returns what the cut sees of the page then. Fails only where the store does.
    pub(crate) async fn content_of_page(&self, page: &Page) -> Result<Fetched, SyncError> {
        let (record, project) = (&page.record, page.record.name());
        let (unknown, skipped) = (record.seen().unknown_keys(), page.skipped.named().clone());
        self.remark(project, Remarks { unknown, skipped, skipped_count: page.skipped.count() });
        let (mut whole, mut failures, mut lacking) = (true, Vec::new(), BTreeMap::new());
        let files = self.files(page).await?;
        let contents = record.files().zip(files).map(|(file, fetched)| {
            fetched.or_else(|failure| {
                whole = false;
                let (name, reason) = (file.0, failure.hold_reason());
                let stored = Stored::new(file, Availability::LeftOut);
                if reason.is_of_files() && self.base_inputs.lacks(project, name, file.1.sha256) {
                    tracing::info!("still lacking: {}", with_causes(&failure));
                    return Ok(stored);
                }
                failures.push(failure);
                lacking.insert(name.as_str().to_owned(), stored);
                Err(reason)
            })
        });
        let content = stored::content(record, contents.collect::<Vec<_>>());
        Ok(Fetched { content, whole, failures, lacking })
    }

    fn remark(&self, project: &ProjectName, remarks: Remarks) {
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner).insert(project.clone(), remarks);
    }

    /// Brings the files of a page into the store; returns, for each in the order of the record, what is there now or why it
    /// cannot be had.
    async fn files(&self, page: &Page) -> Result<Vec<Result<Stored, FetchError>>, SyncError> {
        let (record, project) = (&page.record, page.record.name());
        let plans = block_in_place(|| self.plan(project, record))?;
        // A project of thousands of files has no more requests under way than the semaphore lets through; `ahead`
        // bounds how many files wait for it.
        let mut waiting = Vec::with_capacity(record.files().len());
        for (file, plan) in record.files().zip(plans) {
            waiting.push(self.file(page, file, plan));
        }
        let ahead = self.settings.connections * 2;
        let mut files = stream::iter(waiting).buffered(ahead);
        let mut all = Vec::with_capacity(record.files().len());
        while let Some(file) = files.next().await {
            all.push(match file {
                Err(SyncError::Fetch(error)) if error.is_upstreams() => Err(*error),
                other => Ok(other?),
            });
        }
        Ok(all)
    }

    /// A project as the base has it.
    pub fn base_content(&self, leaf: &Leaf) -> Result<Content<Stored>, SyncError> {
        block_in_place(|| {
            let unit = self.base_unit(leaf)?.ok_or_else(|| RecordError::None(leaf.name.clone()));
            self.content(&unit.map_err(|error| record_error(&leaf.name, error))?)
        })
    }

    /// What the base shows of a project, if it was ever good.
    pub(crate) fn base_unit(&self, leaf: &Leaf) -> Result<Option<Unit>, StoreError> {
        leaf.unit.map(|unit| self.store.unit(unit)).transpose()
    }

    /// A project as a unit has it.
    pub fn content(&self, unit: &Unit) -> Result<Content<Stored>, SyncError> {
        Ok(stored::content_of_unit(&self.record(unit)?, unit))
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
