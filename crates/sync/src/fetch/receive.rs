//! Files from upstream into the store.

use futures_util::StreamExt as _;
use strandline_model::{ClaimedSha256, Entry, FileName, ProjectName, SeenFile, Sha256, ToldFile};
use strandline_store::{ReceiveError, Staged};
use tokio::task::block_in_place;

use super::error::Failure;
use super::plan::{Lacking, Part, Plan};
use super::{FetchError, Fetcher, Patience};
use crate::SyncError;
use crate::progress::Progress;
use crate::room::require_room;
use crate::stored::{Availability, Stored};
use crate::upstream::{Page, without_query};

/// How many bytes of a file are gathered before they are hashed and written.
const CHUNK: usize = 256 << 10;
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
}

impl Fetcher {
    /// Brings one file and its metadata file into the store, unless they are there.
    pub(super) async fn file(
        &self,
        page: &Page,
        file: (&FileName, &ToldFile, &SeenFile),
        plan: Result<Plan, SyncError>,
    ) -> Result<Stored, SyncError> {
        let Plan::Have { own, metadata } = plan? else { return Ok(Stored::new(file, Availability::LeftOut)) };
        let (name, told, _) = file;
        let (project, url) = (page.record.name(), page.url(name).unwrap_or_default());
        // What readers do without already is not waited for.
        let lacks = self.base_inputs.lacks(project, name, told.sha256);
        let patience = if lacks { Patience::Once } else { self.patience(project) };
        let (name, url) = (name.as_str(), &*url);
        let entry = match own {
            Part::Here(entry) => entry,
            Part::Lacking(lacking) => {
                let (size, most) = (told.size, self.settings.max_file_size);
                self.fetched(Wanted { project, name, url, claim: lacking.claim, size, most, patience }, lacking).await?
            }
        };
        let metadata = match metadata {
            None => None,
            Some(Part::Here(entry)) => Some(entry),
            Some(Part::Lacking(lacking)) => {
                let (name, url) = (format!("{name}.metadata"), metadata_url(url));
                let (name, url, claim) = (&*name, &*url, lacking.claim);
                let wanted = Wanted { project, name, url, claim, size: None, most: METADATA_MOST, patience };
                Some(self.fetched(wanted, lacking).await?)
            }
        };
        Ok(Stored::new(file, Availability::Here(entry, metadata)))
    }

    /// Fetches what is lacking from a URL, unless the same came from another one meanwhile.
    async fn fetched(&self, wanted: Wanted<'_>, lacking: Lacking) -> Result<Entry, SyncError> {
        let Lacking { path, entry, .. } = lacking;
        let fetch = || async {
            require_room(&self.store, &self.settings, wanted.size.unwrap_or(0), 1)?;
            Progress::add(&self.progress.files, 1);
            let staged = self.received(wanted).await?;
            Progress::add(&self.progress.files_done, 1);
            self.news.send_replace(true);
            let entry = staged.at(path.clone());
            self.batches.add(staged)?;
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
        let (claim, size, most) = (Some(sha256.into()), Some(size), u64::MAX);
        let wanted = Wanted { project, name, url, claim, size, most, patience: Patience::Again };
        self.received(wanted).await
    }

    async fn received(&self, wanted: Wanted<'_>) -> Result<Staged, FetchError> {
        let what = without_query(wanted.url);
        let received = self.patient.patiently(what, wanted.patience, || self.receive(wanted)).await;
        received.map_err(|failure| failure.of(wanted))
    }

    /// One attempt.
    async fn receive(&self, wanted: Wanted<'_>) -> Result<Staged, Failure> {
        let _permit = self.patient.permit().await;
        let answer = self.patient.upstream().file(wanted.url);
        let mut stream = self.patient.soon(wanted.patience, answer, || without_query(wanted.url).to_owned()).await?;
        let begin = || self.batches.intake.receive(wanted.claim, wanted.size, wanted.most);
        let mut incoming = None;
        let mut gathered = Vec::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
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

/// Where a file's metadata file is (PEP 658): `.metadata` after the path of the URL.
pub(crate) fn metadata_url(url: &str) -> String {
    match url.split_once('?') {
        Some((path, query)) => format!("{path}.metadata?{query}"),
        None => format!("{url}.metadata"),
    }
}
