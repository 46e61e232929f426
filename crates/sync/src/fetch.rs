//! Pages and files from upstream into the store.
//!
//! A [`Fetcher`] serves one sync. What it fetches is in the store, but named by nothing, until
//! [`Fetcher::finish`] has made all of it durable and the units that name it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use rayon::prelude::*;
use strandline_model::{
    Blake3, ClaimedSha256, CoreMetadata, DisplayName, Entry, FileName, HoldReason, Leaf, Mirrored, ProjectName, Record,
    SeenFile, Serial, Sha256, ToldFile, TreePath, Unit,
};
use strandline_store::{
    DraftUnit, Intake, Locked, ReceiveError, Recorded, SeenPage, Staged, Store, StoreError, Validation,
};
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio::task::{JoinSet, block_in_place};

use crate::cut::Content;
use crate::progress::Progress;
use crate::require_room;
use crate::source::{Answer, BadRecord, Event, Rendered, Source, SourceError, Validator, Way};
use crate::stored::{self, Stored, Whole};
use crate::{Context, Settings, SyncError};

/// How many staged blobs are made durable together, and from how many bytes on fewer are.
const BATCH: usize = 2_048;
const BATCH_BYTES: u64 = 256 << 20;
/// How many bytes of a file are gathered before they are hashed and written.
const CHUNK: usize = 256 << 10;
/// How often a request is made before its failure counts.
const ATTEMPTS: usize = 5;
/// The longest pause that is made because upstream asks for it. Who asks for a longer one is not asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The largest metadata file that is taken, in bytes.
const METADATA_MOST: u64 = 64 << 20;

/// A project's page or file could not be had. Nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The page.
    #[error("cannot read the page of project `{project}`")]
    Page {
        /// The project.
        project: ProjectName,
        /// Why.
        source: SourceError,
    },
    /// A file: upstream did not give it.
    #[error("cannot fetch `{filename}` of project `{project}`")]
    File {
        /// The project.
        project: ProjectName,
        /// The file.
        filename: String,
        /// Why.
        source: SourceError,
    },
    /// A file: what came is not what the page says.
    #[error("`{filename}` of project `{project}` is not what its page says: {url}")]
    Wrong {
        /// The project.
        project: ProjectName,
        /// The file.
        filename: String,
        /// Where it came from.
        url: String,
        /// What was expected, and what came.
        source: ReceiveError,
    },
    /// The record that an earlier snapshot has of the project cannot be read.
    #[error("the stored record of project `{project}` is damaged: run `strandline verify`")]
    Record {
        /// The project.
        project: ProjectName,
        /// Why.
        source: BadRecord,
    },
    /// A blob could not be stored.
    #[error("cannot store `{filename}` of project `{project}`")]
    Store {
        /// The project.
        project: ProjectName,
        /// The file.
        filename: String,
        /// Why.
        source: ReceiveError,
    },
    /// Two of a project's files would stand at one path.
    #[error("upstream's page of `{project}` is not usable: {problem}")]
    Unusable {
        /// The project.
        project: ProjectName,
        /// Why.
        problem: String,
    },
}

/// The units that a draft changes; `None` for those that go.
type Units = BTreeMap<ProjectName, Option<DraftUnit>>;

impl FetchError {
    /// Whether it is upstream that failed, and not this machine.
    pub fn is_upstreams(&self) -> bool {
        match self {
            Self::Page { .. } | Self::File { .. } | Self::Wrong { .. } | Self::Unusable { .. } => true,
            Self::Record { .. } | Self::Store { .. } => false,
        }
    }

    /// For what a project with this failure would be held.
    pub fn hold_reason(&self) -> HoldReason {
        match self {
            Self::Page { .. } | Self::Unusable { .. } | Self::Record { .. } => HoldReason::BadPage,
            Self::File { .. } | Self::Store { .. } => HoldReason::FileMissing,
            Self::Wrong { .. } => HoldReason::FileWrong,
        }
    }
}

/// Fetches for one sync of one mirror.
pub struct Fetcher<S> {
    pub(crate) store: Arc<Store>,
    pub(crate) source: Arc<S>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) progress: Arc<Progress>,
    base: Option<Recorded>,
    /// What waits for its batch, and how many bytes that is. Declared before `intake`, because fields are dropped in order, and
    /// dropping the intake checks that no staged blob is left.
    staged: Mutex<(Vec<Staged>, u64)>,
    pub(crate) intake: Intake,
    /// Declared after `intake`, because the process that takes the lock next has an intake of its own.
    pub(crate) mirror: Arc<Locked>,
    requests: Semaphore,
    /// Whether a file came in that was not here: then there is something new to publish.
    pub(crate) news: watch::Sender<bool>,
}

impl<S> fmt::Debug for Fetcher<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("mirror", &self.settings.mirror).finish_non_exhaustive()
    }
}

impl<S: Source> Fetcher<S> {
    /// Prepares to fetch what `base` does not have.
    pub fn open(context: &Context<S>, mirror: &Arc<Locked>, base: Option<Recorded>) -> Result<Arc<Self>, StoreError> {
        let Context { store, source, settings, progress } = context;
        Ok(Arc::new(Self {
            intake: Intake::open(mirror, settings.access)?,
            mirror: Arc::clone(mirror),
            store: store.clone(),
            source: source.clone(),
            settings: settings.clone(),
            progress: progress.clone(),
            base,
            staged: Mutex::default(),
            requests: Semaphore::new(settings.connections),
            news: watch::Sender::new(false),
        }))
    }

    /// How the base lists a project.
    pub fn base_leaf(&self, project: &ProjectName) -> Result<Option<Leaf>, StoreError> {
        match &self.base {
            Some(base) => block_in_place(|| self.store.find(&base.snapshot, project)),
            None => Ok(None),
        }
    }

    /// With what to ask for a project's page, so that upstream may say that it is still the base's.
    pub fn base_validator(&self, project: &ProjectName, leaf: Option<&Leaf>) -> Result<Option<Validator>, StoreError> {
        let Some(leaf) = leaf else { return Ok(None) };
        let tag = block_in_place(|| self.mirror.validator(project, leaf.unit))?;
        Ok(tag.map(Validator))
    }

    /// A project's page as upstream shows it now.
    pub async fn page(
        &self,
        project: &ProjectName,
        validator: Option<&Validator>,
        way: Way,
    ) -> Result<Answer, FetchError> {
        let ask = || async {
            let _permit = self.requests.acquire().await;
            self.source.page(project, validator, way).await
        };
        self.patiently(project, ask, SourceError::is_transient, SourceError::retry_after)
            .await
            .map_err(|source| FetchError::Page { project: project.clone(), source })
    }

    /// The oldest events after `since`, as [`Source::events_since`] gives them.
    pub async fn events_since(&self, since: Serial) -> Result<Vec<Event>, SourceError> {
        self.patiently(
            "the changelog",
            || self.source.events_since(since),
            SourceError::is_transient,
            SourceError::retry_after,
        )
        .await
    }

    /// The greatest serial of the log.
    pub async fn last_serial(&self) -> Result<Serial, SourceError> {
        let ask = || self.source.last_serial();
        self.patiently("the last serial", ask, SourceError::is_transient, SourceError::retry_after).await
    }

    /// All projects of upstream.
    pub async fn projects(&self) -> Result<Vec<(DisplayName, Serial)>, SourceError> {
        self.patiently(
            "the list of projects",
            || self.source.projects(),
            SourceError::is_transient,
            SourceError::retry_after,
        )
        .await
    }

    /// Brings the files of a page into the store; returns what the cut sees of the page then, and why files cannot be had, in
    /// the order of the record. Fails only where the store does.
    pub async fn content_of_page(
        &self,
        project: &ProjectName,
        record: &Record,
    ) -> Result<(Content<Stored>, Vec<FetchError>), SyncError> {
        let mut failures = Vec::new();
        let files = self.files(project, record).await?.into_iter().map(|file| {
            file.map_err(|failure| {
                let reason = failure.hold_reason();
                failures.push(failure);
                reason
            })
        });
        Ok((stored::content(record, files.collect::<Vec<_>>()), failures))
    }

    /// Brings the files of a page into the store; returns, for each in the order of the record, what is there now or why it
    /// cannot be had.
    async fn files(
        &self,
        project: &ProjectName,
        record: &Record,
    ) -> Result<Vec<Result<Stored, FetchError>>, SyncError> {
        let plans = block_in_place(|| self.plan(project, record))?;
        // A project of thousands of files has no more requests under way than the semaphore lets through; the bound
        // here is on what waits for it.
        let mut waiting = Vec::with_capacity(record.files().len());
        for (file, plan) in record.files().zip(plans) {
            waiting.push(self.file(project, file, plan));
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

    /// What of a page's files is here, and where the rest goes, or why a file cannot stand anywhere. Refuses a page whose files
    /// would fill the disk before any of them is fetched.
    fn plan(&self, project: &ProjectName, record: &Record) -> Result<Vec<Result<Plan, SyncError>>, SyncError> {
        let base = self.base_leaf(project)?.map(|leaf| self.store.unit(leaf.unit)).transpose()?;
        let paths_of = |(name, told, seen): (&FileName, &ToldFile, &SeenFile)| {
            self.source.file_paths(name, told.sha256, seen.url.as_deref().unwrap_or_default())
        };
        let known = |file: (&FileName, &ToldFile, &SeenFile)| {
            let paths = paths_of(file);
            let mut entries = paths.iter().filter_map(|path| base.as_ref()?.entry(path.as_str()));
            entries.find(|entry| file.1.sha256 == entry.sha256.into())
        };
        let known: Vec<_> = record.files().map(known).collect();
        // The store may have it under another path, or of another mirror.
        let claims = record.files().zip(&known).flat_map(|((_, told, seen), known)| {
            let file_itself = known.is_none().then_some(told.sha256);
            let CoreMetadata::Hashed(metadata) = seen.core_metadata else { return [file_itself, None] };
            [file_itself, Some(metadata)]
        });
        let claims: Vec<_> = claims.flatten().collect();
        let blobs: BTreeMap<_, _> = claims.iter().copied().zip(self.intake.find_all(&claims)?).collect();
        let find = |claim: ClaimedSha256| blobs.get(&claim).copied().flatten();
        // The wheels of a release mostly have one and the same metadata file.
        let mut same = BTreeMap::new();
        let mut lacking = |path: TreePath, claim: Option<ClaimedSha256>, size: Option<u64>| {
            let entry = claim.map(|claim| Arc::clone(same.entry((claim, size)).or_default())).unwrap_or_default();
            Part::Lacking(Lacking { path, claim, entry })
        };

        let mut plans = Vec::with_capacity(record.files().len());
        for (file, known) in record.files().zip(known) {
            let (_, told, seen) = file;
            let own = match known {
                Some(entry) => Part::Here(entry.clone()),
                None => {
                    let blob = find(told.sha256).filter(|blob| told.size.is_none_or(|size| size == blob.size));
                    let [preferred, other] = paths_of(file);
                    let there = strandline_view::pool_file(&self.mirror, &preferred).map_err(StoreError::from)?;
                    let free = there.is_none_or(|there| blob.is_some_and(|blob| (blob.size, blob.mtime) == there));
                    let path = if free { preferred } else { other };
                    match blob {
                        Some(blob) => Part::Here(blob.at(path)),
                        None => lacking(path, Some(told.sha256), told.size),
                    }
                }
            };
            let claim = match seen.core_metadata {
                CoreMetadata::Absent => None,
                CoreMetadata::Unhashed => Some(None),
                CoreMetadata::Hashed(claim) => Some(Some(claim)),
            };
            let metadata = claim.map(|claim| {
                let path = own.path().metadata().map_err(|_| {
                    unusable(project, format!("the path `{}` leaves no room for `.metadata`", own.path()))
                })?;
                let known = known.and_then(|_| base.as_ref()?.entry(path.as_str()));
                Ok::<_, SyncError>(match (claim, known) {
                    (None, Some(entry)) => Part::Here(entry.clone()),
                    (Some(claim), Some(entry)) if claim == entry.sha256.into() => Part::Here(entry.clone()),
                    (claim, _) => match claim.and_then(find) {
                        Some(blob) => Part::Here(blob.at(path)),
                        None => lacking(path, claim, None),
                    },
                })
            });
            plans.push(metadata.transpose().map(|metadata| Plan { own, metadata }));
        }
        let is_lacking = |plan: &Result<Plan, _>| matches!(plan, Ok(Plan { own: Part::Lacking(..), .. }));
        let to_come = record.files().zip(&plans).filter(|(_, plan)| is_lacking(plan));
        let (count, bytes) = to_come.fold((0, 0_u64), |(count, bytes), ((_, told, _), _)| {
            (count + 1, bytes.saturating_add(told.size.unwrap_or(0)))
        });
        // Where nothing is to come, nothing is needed, however little is free.
        if count > 0 {
            require_room(&self.store, &self.settings, bytes, count)?;
        }
        Ok(plans)
    }

    /// A project as the base has it.
    pub fn base_content(&self, leaf: &Leaf) -> Result<Content<Stored>, SyncError> {
        block_in_place(|| self.content(&self.store.unit(leaf.unit)?))
    }

    /// A project as a unit has it.
    pub fn content(&self, unit: &Unit) -> Result<Content<Stored>, SyncError> {
        let project = unit.name();
        let missing = || FetchError::Record {
            project: project.clone(),
            source: BadRecord("its unit and its record name different files".to_owned()),
        };
        let mirrored = self.record(unit)?.ok_or_else(missing)?;
        Ok(stored::content_of_unit(&mirrored, unit).ok_or_else(missing)?)
    }

    /// Makes what was fetched durable and remembers it for a later sync; returns how a snapshot would list it.
    pub fn remember(&self, fetched: Vec<(ProjectName, Whole)>) -> Result<Vec<Leaf>, SyncError> {
        if fetched.is_empty() {
            return Ok(Vec::new());
        }
        block_in_place(|| {
            let (mut pages, mut leaves) = (Vec::new(), Vec::new());
            for (project, whole) in fetched {
                let serial = whole.serial.unwrap_or(Serial::ZERO);
                let DraftUnit { unit, serial, display } = match self.unit(&project, serial, &whole, None) {
                    Ok(draft) => draft,
                    // What cannot be used stands in the way when its turn comes.
                    Err(SyncError::Fetch(error)) if error.is_upstreams() => continue,
                    Err(error) => return Err(error),
                };
                let id = strandline_model::Blake3::of(&unit.to_bytes());
                leaves.push(Leaf { unit: id, serial, name: project, display });
                pages.push(SeenPage { unit, serial, tag: whole.validator.map(|Validator(tag)| tag) });
            }
            self.land()?;
            self.mirror.record_seen(&pages)?;
            Ok(leaves)
        })
    }

    /// Brings one file and its metadata file into the store, unless they are there.
    async fn file(
        &self,
        project: &ProjectName,
        file: (&FileName, &ToldFile, &SeenFile),
        plan: Result<Plan, SyncError>,
    ) -> Result<Stored, SyncError> {
        let Plan { own, metadata } = plan?;
        let (name, told, seen) = file;
        let (name, url) = (name.as_str(), seen.url.as_deref().unwrap_or_default());
        let entry = match own {
            Part::Here(entry) => entry,
            Part::Lacking(lacking) => {
                let (size, most) = (told.size, self.settings.max_file_size);
                self.fetched(Wanted { project, name, url, claim: lacking.claim, size, most }, lacking).await?
            }
        };
        let metadata = match metadata {
            None => None,
            Some(Part::Here(entry)) => Some(entry),
            Some(Part::Lacking(lacking)) => {
                let (name, url) = (format!("{name}.metadata"), metadata_url(url));
                let (name, url, claim) = (&*name, &*url, lacking.claim);
                Some(
                    self.fetched(Wanted { project, name, url, claim, size: None, most: METADATA_MOST }, lacking)
                        .await?,
                )
            }
        };
        Ok(Stored::new(file, entry, metadata))
    }

    /// Fetches what is lacking from a URL, unless the same came from another one meanwhile.
    async fn fetched(&self, wanted: Wanted<'_>, lacking: Lacking) -> Result<Entry, SyncError> {
        let Lacking { path, entry, .. } = lacking;
        let fetch = || async {
            require_room(&self.store, &self.settings, wanted.size.unwrap_or(0), 1)?;
            Progress::add(&self.progress.files, 1);
            let staged = self
                .patiently(wanted.url, || self.receive(wanted), Failure::is_transient, Failure::retry_after)
                .await
                .map_err(|failure| failure.of(wanted))?;
            Progress::add(&self.progress.files_done, 1);
            self.news.send_replace(true);
            let entry = staged.at(path.clone());
            self.stage(staged)?;
            Ok::<_, SyncError>(entry)
        };
        let fetched = entry.get_or_try_init(fetch).await?;
        Ok(Entry { path, ..fetched.clone() })
    }

    /// Fetches what should be at a URL, whether the store says that it has it or not.
    pub(crate) async fn refetch(
        &self,
        project: &ProjectName,
        name: &str,
        url: &str,
        (sha256, size): (Sha256, u64),
    ) -> Result<Staged, FetchError> {
        let wanted = Wanted { project, name, url, claim: Some(sha256.into()), size: Some(size), most: u64::MAX };
        self.patiently(url, || self.receive(wanted), Failure::is_transient, Failure::retry_after)
            .await
            .map_err(|failure| failure.of(wanted))
    }

    async fn receive(&self, wanted: Wanted<'_>) -> Result<Staged, Failure> {
        let _permit = self.requests.acquire().await;
        let mut stream = self.source.file(wanted.url).await?;
        let begin = || self.intake.receive(wanted.claim, wanted.size, wanted.most);
        let mut incoming = None;
        let mut gathered = Vec::new();
        while let Some(chunk) = stream.next().await {
            let chunk: Bytes = chunk?;
            Progress::add(&self.progress.bytes, chunk.len() as u64);
            gathered.extend_from_slice(&chunk);
            if gathered.len() >= CHUNK {
                let open = incoming.take();
                incoming = Some(block_in_place(|| {
                    let mut open = open.map_or_else(begin, Ok)?;
                    open.write(&gathered)?;
                    Ok::<_, ReceiveError>(open)
                })?);
                gathered.clear();
            }
        }
        // Most files are smaller than that, and to hash and write so little takes less than to hand this thread's work over.
        let end = || {
            let mut open = incoming.map_or_else(begin, Ok)?;
            open.write(&gathered)?;
            open.finish()
        };
        Ok(end()?)
    }

    /// Keeps a staged blob for the next batch; makes the batch durable when it is full.
    fn stage(&self, staged: Staged) -> Result<(), StoreError> {
        let full = {
            let mut waiting = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
            let (staged_now, bytes) = &mut *waiting;
            *bytes += staged.size();
            staged_now.push(staged);
            if staged_now.len() < BATCH && *bytes < BATCH_BYTES {
                return Ok(());
            }
            std::mem::take(&mut *waiting).0
        };
        block_in_place(|| self.intake.land(full))?;
        Ok(())
    }

    /// Renders the pages of what was fetched, makes everything durable, and returns the units that are not the base's.
    /// `serial` is the cut's: the serial of projects whose pages have none.
    pub fn finish(
        &self,
        serial: Serial,
        changes: BTreeMap<ProjectName, Option<Arc<Whole>>>,
    ) -> Result<(Units, Vec<Validation>), SyncError> {
        let one = |(project, change): (ProjectName, Option<Arc<Whole>>)| {
            let base = self.base_leaf(&project)?;
            let Some(whole) = change else { return Ok((base.map(|_| (project, None)), None)) };
            let unit = self.unit(&project, serial, &whole, base.as_ref())?;
            let id = Blake3::of(&unit.unit.to_bytes());
            let validation =
                whole.validator.clone().map(|Validator(tag)| Validation { project: project.clone(), unit: id, tag });
            let same = base.is_some_and(|base| base.unit == id && base.serial == unit.serial);
            Ok::<_, SyncError>(((!same).then_some((project, Some(unit))), validation))
        };
        block_in_place(|| {
            let (mut units, mut validations) = (BTreeMap::new(), Vec::new());
            for (unit, validation) in changes.into_par_iter().map(one).collect::<Result<Vec<_>, _>>()? {
                units.extend(unit);
                validations.extend(validation);
            }
            self.land()?;
            Ok((units, validations))
        })
    }

    /// Makes everything durable that was staged.
    fn land(&self) -> Result<(), StoreError> {
        let (rest, _) = std::mem::take(&mut *self.staged.lock().unwrap_or_else(PoisonError::into_inner));
        if self.base.is_some() {
            self.intake.look_ahead(&rest);
        }
        self.intake.land(rest).map(drop)
    }

    /// Renders a project's pages into the store and lists everything it has.
    fn unit(
        &self,
        project: &ProjectName,
        cut: Serial,
        whole: &Whole,
        base: Option<&Leaf>,
    ) -> Result<DraftUnit, SyncError> {
        let display = self.display_name(project, &whole.display);
        let mut new = stored::mirrored(project, &display, whole.serial.unwrap_or(cut), &whole.content)?;
        new = self.unwithdrawn(new)?;
        // Without serials of its own, a project that did not change keeps the count at which it last did.
        if let (None, Some(base)) = (whole.serial, base)
            && let Some(old) = self.record(&self.store.unit(base.unit)?)?
        {
            let same = new.clone().at(old.serial());
            if self.source.render(&same) == self.source.render(&old) {
                new = same;
            }
        }
        let stored = whole.content.files.values().filter_map(|file| file.content.as_ref().ok());
        let stays = |stored: &&Stored| new.record().told().files.contains_key(stored.name());
        let mut entries: Vec<Entry> = stored.filter(stays).flat_map(Stored::entries).cloned().collect();
        let rendered = self.source.render(&new);
        let digests: Vec<_> = rendered.iter().map(|rendered| Sha256::of(&rendered.bytes)).collect();
        let claims: Vec<_> = digests.iter().map(|sha256| ClaimedSha256::from(*sha256)).collect();
        let mut stored: BTreeMap<Sha256, Entry> = BTreeMap::new();
        for ((Rendered { path, bytes }, sha256), found) in
            rendered.into_iter().zip(digests).zip(self.intake.find_all(&claims)?)
        {
            let entry = match (stored.get(&sha256), found) {
                (Some(entry), _) => Entry { path, ..entry.clone() },
                (None, Some(blob)) => blob.at(path),
                (None, None) => {
                    let staged = self.intake.stage(&bytes).map_err(|source| FetchError::Store {
                        project: project.clone(),
                        filename: path.to_string(),
                        source: source.into(),
                    })?;
                    let entry = staged.at(path);
                    self.stage(staged)?;
                    entry
                }
            };
            entries.push(entry.clone());
            stored.insert(sha256, entry);
        }
        let unit = Unit::new(project.clone(), entries).map_err(|error| unusable(project, error.to_string()))?;
        Ok(DraftUnit { unit, serial: new.serial(), display })
    }

    /// The record of a project: its JSON page.
    pub(crate) fn record(&self, unit: &Unit) -> Result<Option<Mirrored>, SyncError> {
        let project = unit.name();
        let Some(entry) = unit.entry(&format!("simple/{project}/index.v1_json")) else { return Ok(None) };
        let bytes = self.store.read_blob(entry.blob)?;
        let record = self.source.read_record(&bytes);
        Ok(Some(record.map_err(|source| FetchError::Record { project: project.clone(), source })?))
    }

    /// How the owner writes the name: as upstream says, unless that is the normalised form only and the configuration
    /// knows better.
    fn display_name(&self, project: &ProjectName, display: &DisplayName) -> DisplayName {
        match &self.settings.selection {
            crate::Selection::Projects(names) if display.as_str() == project.as_str() => {
                names.get(project).unwrap_or(display).clone()
            }
            _ => display.clone(),
        }
    }

    /// Does something again, with growing pauses, while it fails in a way that may pass.
    async fn patiently<T, E, F: Future<Output = Result<T, E>>>(
        &self,
        what: impl fmt::Display,
        act: impl FnMut() -> F,
        may_pass: impl Fn(&E) -> bool,
        asked_pause: impl Fn(&E) -> Option<Duration>,
    ) -> Result<T, E>
    where
        E: fmt::Display,
    {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(self.settings.backoff)
            .with_max_delay(LONGEST_PAUSE)
            .with_max_times(ATTEMPTS - 1)
            .with_jitter();
        act.retry(pauses)
            .when(|error| may_pass(error) && asked_pause(error).is_none_or(|asked| asked <= LONGEST_PAUSE))
            .adjust(|error, pause| pause.map(|pause| asked_pause(error).unwrap_or(pause)))
            .notify(|error, pause| tracing::info!("trying again in {} ms: {what}: {error}", pause.as_millis()))
            .await
    }
}

/// Does all of `work`, at most `limit` at a time, on all threads. On an error the rest is stopped, and it has ended when
/// this returns: nothing goes on writing after the sync.
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

/// What to fetch as a blob.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    project: &'a ProjectName,
    name: &'a str,
    url: &'a str,
    claim: Option<ClaimedSha256>,
    size: Option<u64>,
    most: u64,
}

/// What is to be done for a file of a page, and for its metadata file if it has one.
struct Plan {
    own: Part,
    metadata: Option<Part>,
}

/// Something of a project's that has a path in the tree.
enum Part {
    Here(Entry),
    Lacking(Lacking),
}

/// Something that is to be fetched to a path, and to be what is claimed.
struct Lacking {
    path: TreePath,
    claim: Option<ClaimedSha256>,
    /// What came, at any of the paths that are to have the same: the first to be asked for fetches it. If that fails, the next
    /// one does, from its own URL.
    entry: Arc<OnceCell<Entry>>,
}

impl Part {
    fn path(&self) -> &TreePath {
        match self {
            Self::Here(Entry { path, .. }) | Self::Lacking(Lacking { path, .. }) => path,
        }
    }
}

/// Why one attempt to fetch a blob failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{0}")]
    Receive(#[from] ReceiveError),
}

impl Failure {
    /// Wrong bytes may pass too: a broken cache often has a whole neighbour.
    fn is_transient(&self) -> bool {
        match self {
            Self::Source(error) => error.is_transient(),
            Self::Receive(ReceiveError::Digest(_) | ReceiveError::TooShort { .. }) => true,
            Self::Receive(_) => false,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Source(error) => error.retry_after(),
            Self::Receive(_) => None,
        }
    }

    fn of(self, wanted: Wanted<'_>) -> FetchError {
        let (project, filename) = (wanted.project.clone(), wanted.name.to_owned());
        match self {
            Self::Source(source) => FetchError::File { project, filename, source },
            Self::Receive(source @ ReceiveError::Disk(_)) => FetchError::Store { project, filename, source },
            Self::Receive(source) => FetchError::Wrong { project, filename, url: wanted.url.to_owned(), source },
        }
    }
}

pub(crate) fn unusable(project: &ProjectName, problem: String) -> FetchError {
    FetchError::Unusable { project: project.clone(), problem }
}

/// Where a file's metadata file is (PEP 658): `.metadata` after the path of the URL.
pub(crate) fn metadata_url(url: &str) -> String {
    match url.split_once('?') {
        Some((path, query)) => format!("{path}.metadata?{query}"),
        None => format!("{url}.metadata"),
    }
}
