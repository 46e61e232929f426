//! Files from upstream into the store.

use std::sync::OnceLock;

use futures_util::StreamExt as _;
use strandline_model::{ClaimedSha256, Entry, FileName, ProjectName, SeenFile, Sha256, ToldFile, with_causes};
use strandline_store::{ReceiveError, Staged, StoreError};
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::error::Failure;
use super::patience::{Passing as _, soon};
use super::plan::{Lacking, Part, Plan};
use super::turn::Kind;
use super::{FetchError, Fetcher, Patience};
use crate::progress::Progress;
use crate::room::{free, require_room};
use crate::stored::{Availability, Stored};
use crate::upstream::{Page, without_query};
use crate::{OnBroken, SyncError};

/// How many bytes of a file are gathered before they are hashed and written.
const CHUNK: usize = 256 << 10;
/// How much of a file that is not waited for has to come at once, in bytes.
const BEGINNING: usize = 5 << 10;
/// The largest metadata file that is taken, in bytes.
const METADATA_MOST: u64 = 64 << 20;

/// What to fetch as a blob.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) project: &'a ProjectName,
    pub(super) name: &'a str,
    pub(super) url: &'a str,
    claim: Option<ClaimedSha256>,
    size: Option<u64>,
    most: u64,
    patience: Patience,
    pub(super) kind: Kind,
}

impl Fetcher {
    /// Brings one file and its metadata file into the store, unless they are there.
    pub(super) async fn file(
        &self,
        page: &Page,
        file: (&FileName, &ToldFile, &SeenFile),
        plan: Result<Plan, SyncError>,
    ) -> Result<Stored, SyncError> {
        let Plan::Have { own, metadata, in_base } = plan? else { return Ok(Stored::new(file, Availability::LeftOut)) };
        let (name, told, _) = file;
        let (project, url) = (page.record.name(), page.url(name).unwrap_or_default());
        // What readers do without already is not waited for.
        let lacks = self.base_inputs.lacks(project, name, told.sha256);
        let patience = if lacks { Patience::Once } else { self.patience(project) };
        let url = &*url;
        let (entry, inside, patience) = match own {
            // Its metadata may be in it.
            Part::Here(entry) => (entry, None, Patience::Once),
            Part::Lacking(lacking) => {
                let (size, most, claim) = (told.size, self.settings.max_file_size, lacking.claim);
                let kind = Kind::File;
                let wanted = Wanted { project, name: name.as_str(), url, claim, size, most, patience, kind };
                let (entry, inside) = self.fetched(wanted, lacking, Some(name)).await?;
                (entry, inside, patience)
            }
        };
        let metadata = match metadata {
            None => self.metadata_inside(name, &entry, inside)?,
            Some(Part::Here(metadata)) => Some(metadata),
            Some(Part::Lacking(lacking)) => {
                let (of_metadata, url) = (format!("{}.metadata", name.as_str()), metadata_url(url));
                let (name_of, url, claim) = (&*of_metadata, &*url, lacking.claim);
                // Nothing is lost with it where the file has the same inside.
                let patience = if inside.is_some() { Patience::Once } else { patience };
                let (size, most, kind) = (None, METADATA_MOST, Kind::Metadata);
                let wanted = Wanted { project, name: name_of, url, claim, size, most, patience, kind };
                match self.fetched(wanted, lacking, None).await {
                    Ok((metadata, _)) => {
                        self.compare_metadata(project, name, &metadata, inside.as_deref());
                        Some(metadata)
                    }
                    Err(SyncError::Fetch(error)) if error.is_upstreams() => {
                        if self.settings.on_broken == OnBroken::Freeze {
                            return Err(SyncError::Fetch(error));
                        }
                        self.remark_skipped(project, with_causes(&*error));
                        self.metadata_inside(name, &entry, inside)?
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let (entry, metadata) = match metadata {
            Some(metadata) if !in_base => self.placed_beside(project, file, entry, metadata)?,
            metadata => (entry, metadata),
        };
        Ok(Stored::new(file, Availability::Here(entry, metadata)))
    }

    /// Where a file and its metadata stand beside each other: at the file's other path, if the pool has other bytes where the
    /// metadata would stand; without the metadata, if it has there, too.
    fn placed_beside(
        &self,
        project: &ProjectName,
        file: (&FileName, &ToldFile, &SeenFile),
        entry: Entry,
        metadata: Entry,
    ) -> Result<(Entry, Option<Entry>), SyncError> {
        let is_free = |entry: &Entry| {
            let there = strandline_view::pool_file(&self.mirror, &entry.path).map_err(StoreError::from)?;
            let Some(there) = there else { return Ok(true) };
            let blob = self.batches.intake.find(entry.sha256.into())?;
            Ok::<_, SyncError>(blob.is_some_and(|blob| (blob.size, blob.mtime) == there))
        };
        block_in_place(|| {
            if is_free(&metadata)? {
                return Ok((entry, Some(metadata)));
            }
            for path in self.paths_of(file, entry.sha256.into()) {
                let Ok(of_metadata) = path.metadata() else { continue };
                let (moved, beside) =
                    (Entry { path, ..entry.clone() }, Entry { path: of_metadata, ..metadata.clone() });
                if is_free(&moved)? && is_free(&beside)? {
                    return Ok((moved, Some(beside)));
                }
            }
            let name = file.0.as_str();
            self.remark_skipped(
                project,
                format!("the metadata of `{name}` stands nowhere: other bytes are in its place"),
            );
            Ok((entry, None))
        })
    }

    /// Puts the metadata that stands inside a file into the store, if there is any; `bytes` are those, where the file has just come.
    fn metadata_inside(
        &self,
        name: &FileName,
        file: &Entry,
        bytes: Option<Vec<u8>>,
    ) -> Result<Option<Entry>, SyncError> {
        block_in_place(|| {
            let here = || {
                let mut file = self.store.open_blob(file.blob).ok()?;
                self.format.metadata_inside(name, &mut file)
            };
            let (Ok(path), Some(bytes)) = (file.path.metadata(), bytes.or_else(here)) else { return Ok(None) };
            if let Some(blob) = self.batches.intake.find(Sha256::of(&bytes).into())? {
                return Ok(Some(blob.at(path)));
            }
            let staged = self.batches.intake.stage(&bytes).map_err(StoreError::from)?;
            let entry = staged.at(path);
            self.batches.add(staged)?;
            Ok(Some(entry))
        })
    }

    /// Names metadata of upstream that is not what stands inside the file.
    fn compare_metadata(&self, project: &ProjectName, name: &FileName, metadata: &Entry, inside: Option<&[u8]>) {
        let Some(inside) = inside.map(Sha256::of).filter(|inside| *inside != metadata.sha256) else { return };
        let differs = differs(name, metadata.sha256);
        self.remark_skipped(project, format!("{differs} what stands in the file (sha256 {inside})"));
    }

    /// Fetches what is lacking from a URL, unless the same came from another one meanwhile; returns also the metadata that stands
    /// inside what came, if it is the release file `file`.
    async fn fetched(
        &self,
        wanted: Wanted<'_>,
        lacking: Lacking,
        file: Option<&FileName>,
    ) -> Result<(Entry, Option<Vec<u8>>), SyncError> {
        let Lacking { path, entry, .. } = lacking;
        let inside = OnceLock::new();
        let fetch = || async {
            require_room(&self.store, &self.settings, wanted.size.unwrap_or(0), 1)?;
            // What says no size may have no end.
            let most = match wanted.size {
                Some(_) => wanted.most,
                None => wanted.most.min(free(&self.store, &self.settings)?),
            };
            let wanted = Wanted { most, ..wanted };
            Progress::add(&self.progress.files, 1);
            let staged = self.received(wanted).await?;
            Progress::add(&self.progress.files_done, 1);
            self.news.send_replace(true);
            let entry = staged.at(path.clone());
            if let Some(file) = file {
                let mut bytes = staged.open().map_err(StoreError::from)?;
                let found = block_in_place(|| self.format.metadata_inside(file, &mut bytes));
                inside.get_or_init(|| found);
            }
            self.batches.add(staged)?;
            Ok::<_, SyncError>(entry)
        };
        let fetched = entry.get_or_try_init(fetch).await?;
        Ok((Entry { path, ..fetched.clone() }, inside.into_inner().flatten()))
    }

    /// Fetches what should be at a URL, whether the store says that it has it or not.
    pub(crate) async fn refetch(
        &self,
        project: &ProjectName,
        name: &str,
        url: &str,
        (sha256, size): (Sha256, u64),
    ) -> Result<Staged, FetchError> {
        let (claim, size, most) = (Some(sha256.into()), Some(size), u64::MAX);
        let (patience, kind) = (Patience::Again, Kind::File);
        let wanted = Wanted { project, name, url, claim, size, most, patience, kind };
        self.received(wanted).await
    }

    async fn received(&self, wanted: Wanted<'_>) -> Result<Staged, FetchError> {
        let what = without_query(wanted.url);
        let received = self.patient.patiently(what, wanted.patience, || self.receive(wanted)).await;
        received.map_err(|failure| {
            if failure.is_slow() {
                self.turns.was_slow(wanted);
            }
            failure.of(wanted)
        })
    }

    /// One attempt.
    async fn receive(&self, wanted: Wanted<'_>) -> Result<Staged, Failure> {
        let _permit = self.patient.permit().await;
        self.turns.begin(wanted)?;
        let begun = Instant::now();
        let (url, deadline) = (|| without_query(wanted.url).to_owned(), self.patient.deadline(wanted.patience));
        let mut stream = soon(deadline, self.patient.upstream().file(wanted.url), url).await?;
        let begin = || self.batches.intake.receive(wanted.claim, wanted.size, wanted.most);
        let mut incoming = None;
        let mut gathered = Vec::new();
        let mut came = 0;
        loop {
            let chunk =
                soon(deadline.filter(|_| came < BEGINNING), async { stream.next().await.transpose() }, url).await?;
            let Some(chunk) = chunk else { break };
            came += chunk.len();
            self.turns.check(begun, came as u64, wanted)?;
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
        // Most files are smaller than that, and hashing and writing so little takes less time than handing this
        // thread's work over.
        let end = || {
            let mut open = incoming.map_or_else(begin, Ok)?;
            open.write(&gathered)?;
            open.finish()
        };
        Ok(end()?)
    }
}

/// How the remark begins that says that the metadata of upstream is not that of the file.
pub(super) fn differs(name: &FileName, metadata: Sha256) -> String {
    format!("the metadata of `{}`, which has sha256 {metadata}, is not", name.as_str())
}

/// Where a file's metadata file is (PEP 658): `.metadata` after the path of the URL.
pub(crate) fn metadata_url(url: &str) -> String {
    match url.split_once('?') {
        Some((path, query)) => format!("{path}.metadata?{query}"),
        None => format!("{url}.metadata"),
    }
}
