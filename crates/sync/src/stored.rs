//! Projects whose files are in the store: on the way from a page or a unit through the cut to the next snapshot.

use std::collections::BTreeMap;

use strandline_model::{
    BadRecord, CoreMetadata, DisplayName, Entry, FileName, Format, HoldReason, Mirrored, Placed, ProjectName, Record,
    Seen, SeenFile, Serial, Told, ToldFile, Unit,
};
use strandline_store::{Store, StoreError};

use crate::SyncError;
use crate::cut::{Content, File};
use crate::fetch::unusable;
use crate::upstream::Validator;

/// A file of this mirror, with what stands at its paths: itself, and its metadata file if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    name: FileName,
    told: ToldFile,
    seen: SeenFile,
    own: Entry,
    metadata: Option<Entry>,
}

impl Stored {
    /// A file that is in the store. Of what upstream says it keeps what a page of this mirror says: size and digest of the
    /// metadata as they were measured, and no URL. Pages are the only store of records yet, so what was read back from one has
    /// to equal what was fetched.
    pub(crate) fn new(
        (name, told, seen): (&FileName, &ToldFile, &SeenFile),
        own: Entry,
        metadata: Option<Entry>,
    ) -> Self {
        let core_metadata = match &metadata {
            Some(entry) => CoreMetadata::Hashed(entry.sha256.into()),
            None => CoreMetadata::Absent,
        };
        Self {
            name: name.clone(),
            told: ToldFile { size: Some(own.size), ..told.clone() },
            seen: SeenFile { url: None, core_metadata, ..seen.clone() },
            own,
            metadata,
        }
    }

    pub(crate) fn name(&self) -> &FileName {
        &self.name
    }

    /// The file, and its metadata file if it has one.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        std::iter::once(&self.own).chain(&self.metadata)
    }

    fn placed(&self) -> Placed {
        let Entry { path, sha256, size, .. } = self.own.clone();
        Placed { path, sha256, size, metadata: self.metadata.as_ref().map(|entry| entry.sha256) }
    }
}

/// What a project is to be in the next snapshot: all its files are in the store.
#[derive(Debug, Clone)]
pub struct Whole {
    /// Its name as its owner writes it, as far as is known.
    pub display: DisplayName,
    /// Its serial, if the index has serials.
    pub serial: Option<Serial>,
    /// Its status, versions and files.
    pub content: Content<Stored>,
    /// With what to ask whether its page is still the same.
    pub validator: Option<Validator>,
}

/// The record that a snapshot has of a project cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The page that is read back is not one of the format.
    #[error(transparent)]
    Bad(#[from] BadRecord),
}

/// What a unit has of its project, read back from the page that the format names; `None` where it has no such page.
pub(crate) fn record_of(store: &Store, format: &dyn Format, unit: &Unit) -> Result<Option<Mirrored>, RecordError> {
    let Some(entry) = unit.entry(format.record_path(unit.name()).as_str()) else { return Ok(None) };
    Ok(Some(format.read(&store.read_blob(entry.blob)?)?))
}

/// A record as the cut sees it; `files` are, in the record's order, what is there of each or why it cannot be had.
pub(crate) fn content(record: &Record, files: impl IntoIterator<Item = Result<Stored, HoldReason>>) -> Content<Stored> {
    let files = record.files().zip(files).map(|((name, told, _), content)| {
        let yanked = told.yanked.clone();
        (name.as_str().to_owned(), File { yanked, content })
    });
    Content {
        status: record.status(),
        status_reason: record.seen().status_reason.clone(),
        versions: record.seen().versions.clone(),
        files: files.collect(),
    }
}

/// A project as a snapshot has it, as the cut sees it; `None` where its unit lacks a file that its record names.
pub(crate) fn content_of_unit(mirrored: &Mirrored, unit: &Unit) -> Option<Content<Stored>> {
    let stored = mirrored.files().map(|(name, told, seen, placed)| {
        let own = unit.entry(placed.path.as_str())?.clone();
        Some(Ok(Stored::new((name, told, seen), own, unit.metadata_of(&placed.path).cloned())))
    });
    let stored: Vec<_> = stored.collect::<Option<_>>()?;
    Some(content(mirrored.record(), stored))
}

/// A project as the next snapshot is to have it, after the cut.
pub(crate) fn mirrored(
    project: &ProjectName,
    display: &DisplayName,
    serial: Serial,
    content: &Content<Stored>,
) -> Result<Mirrored, SyncError> {
    let (mut told, mut seen, mut placed) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (name, file) in &content.files {
        let stored = file.content.as_ref().map_err(|_| unusable(project, format!("`{name}` was not fetched")))?;
        told.insert(stored.name.clone(), ToldFile { yanked: file.yanked.clone(), ..stored.told.clone() });
        seen.insert(stored.name.clone(), stored.seen.clone());
        placed.insert(stored.name.clone(), stored.placed());
    }
    let (quarantined, maintenance) = content.status.parts();
    let told = Told { name: project.clone(), quarantined, files: told };
    let (status_reason, versions) = (content.status_reason.clone(), content.versions.clone());
    let seen = Seen { display: display.clone(), maintenance, status_reason, versions, files: seen };
    let mirrored = Record::new(told, seen).and_then(|record| Mirrored::new(record, serial, placed));
    Ok(mirrored.map_err(|error| unusable(project, error.to_string()))?)
}
