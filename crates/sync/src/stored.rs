//! Projects whose files are in the store: on the way from a page or a unit through the cut to the next snapshot.

use std::collections::{BTreeMap, BTreeSet};

use strandline_model::{
    ClaimedSha256, DisplayName, Entry, FileName, HoldReason, InvalidRecord, Mirrored, Placed, ProjectName, Record,
    Releases, Seen, SeenFile, Serial, Sha256, Told, ToldFile, TreePath, Unit, Yanked, is_skipped, versions_left,
};
use strandline_store::{Store, StoreError};

use crate::SyncError;
use crate::cut::{Content, File};
use crate::fetch::unusable;
use crate::upstream::Validator;

/// A file that upstream names, and what this mirror has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    name: FileName,
    told: ToldFile,
    seen: SeenFile,
    availability: Availability,
}

/// What this mirror has of a file. The cut sees the names of all, so what the log says can be applied whatever is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// The file, and its metadata file if it has one.
    Here(Entry, Option<Entry>),
    /// Nothing, because upstream does not give it.
    Lacking,
    /// Nothing, because it is withdrawn.
    LeftOut,
}

impl Stored {
    pub(crate) fn new((name, told, seen): (&FileName, &ToldFile, &SeenFile), availability: Availability) -> Self {
        Self { name: name.clone(), told: told.clone(), seen: seen.clone(), availability }
    }

    pub(crate) fn name(&self) -> &FileName {
        &self.name
    }

    pub(crate) fn told(&self) -> &ToldFile {
        &self.told
    }

    pub(crate) fn is_skipped(&self) -> bool {
        is_skipped(&self.told, &self.seen)
    }

    /// The file, and its metadata file if it has one.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        let (own, metadata) = match &self.availability {
            Availability::Here(own, metadata) => (Some(own), metadata.as_ref()),
            Availability::Lacking | Availability::LeftOut => (None, None),
        };
        own.into_iter().chain(metadata)
    }

    /// What its metadata file is, if it has one.
    pub(crate) fn metadata(&self) -> Option<Sha256> {
        self.placed().and_then(|placed| placed.metadata)
    }

    /// Where it stands, if it is here.
    pub(crate) fn placed(&self) -> Option<Placed> {
        match &self.availability {
            Availability::Here(own, metadata) => Some(placed(own, metadata.as_ref())),
            Availability::Lacking | Availability::LeftOut => None,
        }
    }

    /// Whether upstream does not give it.
    pub(crate) fn is_lacking(&self) -> bool {
        self.availability == Availability::Lacking
    }
}

fn placed(own: &Entry, metadata: Option<&Entry>) -> Placed {
    let Entry { path, sha256, size, .. } = own.clone();
    Placed { path, sha256, size, metadata: metadata.map(|entry| entry.sha256) }
}

/// What a project is to be in the next snapshot: all its files are in the store that are not left out.
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
    /// Whether the log tells how it came to be so.
    pub logged: Logged,
    /// What readers get as long as it is held for its files; `None` where they get the content.
    pub earlier: Option<Earlier>,
}

/// Whether the log tells how a project came to be what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logged {
    /// It does, or the page was read as a first sync reads it.
    Yes,
    /// Only a page does: it is logged if it was so far, and its told part is the base's.
    IfSame,
    /// It was unlogged, and no event has come that ends that.
    No,
}

/// What readers get of a project whose newest files cannot be had.
#[derive(Debug, Clone)]
pub enum Earlier {
    /// 404: it was never good.
    Nothing,
    /// What it was when this serial was its last, with its name as it was written then.
    State(DisplayName, Serial, Content<Stored>),
}

impl Earlier {
    /// The serial that stands on the pages; 0 where there are none.
    pub(crate) fn serial(&self) -> Serial {
        match self {
            Self::Nothing => Serial::ZERO,
            Self::State(_, serial, _) => *serial,
        }
    }
}

/// What a snapshot shows of a project cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The unit shows no record.
    #[error("the unit of {0} shows no record")]
    None(ProjectName),
    /// The unit shows what its record does not claim.
    #[error(transparent)]
    Invalid(#[from] InvalidRecord),
}

/// What a unit shows of its project.
pub(crate) fn record_of(store: &Store, unit: &Unit) -> Result<Record, RecordError> {
    let source = unit.source().ok_or_else(|| RecordError::None(unit.name().clone()))?;
    Ok(store.record(source.record)?)
}

/// The file of a unit that has this name, and its metadata file if it has one.
fn file_of<'a>(
    unit: &'a Unit,
    files: &BTreeMap<&str, &'a Entry>,
    name: &FileName,
) -> Option<(&'a Entry, Option<&'a Entry>)> {
    let own = *files.get(name.as_str())?;
    Some((own, unit.metadata_of(&own.path)))
}

/// The release files and metadata files of a unit, by their names.
fn files_of(unit: &Unit) -> BTreeMap<&str, &Entry> {
    let files = unit.entries().iter().filter(|entry| entry.path.first_segment() != PAGES);
    files.map(|entry| (entry.path.file_name(), entry)).collect()
}

/// Where the pages of a unit stand.
pub(crate) const PAGES: &str = "simple";

/// Whether a path of a unit is that of a page.
pub(crate) fn is_page(path: &TreePath) -> bool {
    path.first_segment() == PAGES
}

/// A record as a unit shows it: without the files that the unit does not have.
pub(crate) fn shown_by(unit: &Unit, record: Record, releases: &dyn Releases) -> Result<Mirrored, RecordError> {
    let serial = unit.source().ok_or_else(|| RecordError::None(unit.name().clone()))?.serial;
    let files = files_of(unit);
    let (mut here, mut others) = (BTreeMap::new(), BTreeSet::new());
    for (name, ..) in record.files() {
        match file_of(unit, &files, name) {
            Some((own, metadata)) => drop(here.insert(name.clone(), placed(own, metadata))),
            None => drop(others.insert(name.clone())),
        }
    }
    let shown = if others.is_empty() {
        record
    } else {
        let versions = versions_left(&record, &others, releases);
        record.without(&others, versions)
    };
    Ok(Mirrored::new(shown, serial, here)?)
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
        preamble: record.seen().preamble.clone(),
        versions: record.seen().versions.clone(),
        files: files.collect(),
    }
}

/// A project as a snapshot has it, as the cut sees it. What its unit does not have is left out where it is `withdrawn`, else
/// lacking. The unit may be of an earlier record, or missing.
pub(crate) fn content_of_unit(
    record: &Record,
    unit: Option<&Unit>,
    withdrawn: &BTreeSet<ClaimedSha256>,
) -> Content<Stored> {
    let files = unit.map(files_of).unwrap_or_default();
    let stored = record.files().map(|file| {
        let (name, told, _) = file;
        let own = unit.and_then(|unit| file_of(unit, &files, name));
        let availability = match own.filter(|(own, _)| told.sha256 == Some(own.sha256.into())) {
            Some((own, metadata)) => Availability::Here(own.clone(), metadata.cloned()),
            None if told.sha256.is_some_and(|sha256| withdrawn.contains(&sha256)) => Availability::LeftOut,
            None => Availability::Lacking,
        };
        Ok(Stored::new(file, availability))
    });
    content(record, stored.collect::<Vec<_>>())
}

/// What upstream says of a project at the cut.
pub(crate) fn record(
    project: &ProjectName,
    display: &DisplayName,
    content: &Content<Stored>,
) -> Result<Record, SyncError> {
    let (mut told, mut seen) = (BTreeMap::new(), BTreeMap::new());
    for (name, file) in &content.files {
        let stored = file.content.as_ref().map_err(|_| unusable(project, format!("`{name}` was not fetched")))?;
        // Of a file that is skipped, the log tells no more than the page does.
        let yanked = if stored.is_skipped() { Yanked::No } else { file.yanked.clone() };
        told.insert(stored.name.clone(), ToldFile { yanked, ..stored.told.clone() });
        seen.insert(stored.name.clone(), stored.seen.clone());
    }
    let (quarantined, maintenance) = content.status.parts();
    let told = Told { name: project.clone(), quarantined, files: told };
    let seen = Seen {
        display: display.clone(),
        preamble: content.preamble.clone(),
        maintenance,
        status_reason: content.status_reason.clone(),
        versions: content.versions.clone(),
        files: seen,
    };
    // Its files can be of several pages.
    let seen = seen.bounded();
    Ok(Record::new(told, seen).map_err(|error| unusable(project, error.to_string()))?)
}
