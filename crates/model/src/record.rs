//! What upstream says of a project, and what a mirror has of it.
//!
//! A [`Record`] is what upstream says, whole and in upstream's words: claims, each checked for its form only. Its two parts
//! change in different ways. [`Told`] is what the changelog tells or what never changes, so two mirrors that stand at one serial
//! agree on it. [`Seen`] is what only pages show: upstream may change it without an event. [`Mirrored`] is a record together with
//! the files that a mirror has of it.
//!
//! What always holds:
//!
//! 1. A record names each file once, both of its parts name the same files, and each file belongs to the project by its name.
//! 2. A quarantined project has no files (PEP 792).
//! 3. Each file of a [`Mirrored`] is in place, and its SHA-256 is the one that its record claims, where it claims one.
//!
//! `tests/record.rs` has a test for each.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{Blake3, ClaimedSha256, DisplayName, Json, ProjectName, Serial, Sha256, TreePath, UploadTime};

/// The name of a release file: one path segment, checked to belong to its project.
///
/// Made only by [`FileName::of`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct FileName(String);

/// A name that a release file of the project cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` cannot be a file of {project}: {rule}")]
pub struct InvalidFileName {
    found: String,
    project: ProjectName,
    rule: &'static str,
}

impl FileName {
    /// Takes the name if it is one path segment of at most 240 bytes (room for `.metadata`) without control characters, and
    /// begins with the project's name, however that is spelled.
    pub fn of(project: &ProjectName, text: &str) -> Result<Self, InvalidFileName> {
        let invalid = |rule| InvalidFileName {
            found: text.chars().take(200).flat_map(char::escape_debug).collect(),
            project: project.clone(),
            rule,
        };
        if text.len() > 240 {
            return Err(invalid("it is longer than 240 bytes"));
        }
        if text.starts_with('.') || text.contains('/') || text.parse::<TreePath>().is_err() {
            return Err(invalid("it is not a plain file name"));
        }
        if !begins_with_name(text, project) {
            return Err(invalid("its name is another project's"));
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether a file of this project can have the name.
    pub fn is_of(&self, project: &ProjectName) -> bool {
        begins_with_name(&self.0, project)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for FileName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Whether `text` begins with some spelling of the project's name and goes on with a separator.
fn begins_with_name(text: &str, project: &ProjectName) -> bool {
    let mut rest = text;
    for (separated, part) in project.as_str().split('-').enumerate().map(|(index, part)| (index > 0, part)) {
        if separated {
            let after = rest.trim_start_matches(['-', '_', '.']);
            if after.len() == rest.len() {
                return false;
            }
            rest = after;
        }
        match (rest.get(..part.len()), rest.get(part.len()..)) {
            (Some(head), Some(tail)) if head.eq_ignore_ascii_case(part) => rest = tail,
            _ => return false,
        }
    }
    rest.starts_with(['-', '_', '.'])
}

/// Whether a file was yanked (PEP 592).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Yanked {
    /// It was not.
    #[default]
    No,
    /// It was, with the reason given, which may be empty.
    Yes(String),
}

/// A project's status (PEP 792).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    /// The normal one.
    #[default]
    Active,
    /// No updates are expected.
    Archived,
    /// Not safe: it offers no files.
    Quarantined,
    /// Obsolete.
    Deprecated,
}

impl Status {
    /// The status as a record has it: whether the project is quarantined, which the log tells, and what only pages show.
    pub fn parts(self) -> (bool, Maintenance) {
        match self {
            Self::Active => (false, Maintenance::Active),
            Self::Archived => (false, Maintenance::Archived),
            Self::Quarantined => (true, Maintenance::Active),
            Self::Deprecated => (false, Maintenance::Deprecated),
        }
    }
}

/// The part of a project's status that no log tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Maintenance {
    /// The normal one.
    #[default]
    Active,
    /// No updates are expected.
    Archived,
    /// Obsolete.
    Deprecated,
}

/// Whether a file's core metadata can be fetched beside it (PEP 714).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoreMetadata {
    /// No.
    Absent,
    /// Yes, and nothing is said of what it is.
    Unhashed,
    /// Yes, and this is what it should be.
    Hashed(ClaimedSha256),
}

/// In which form a page was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON (PEP 691).
    Json,
    /// HTML (PEP 503), which does not say sizes and times of upload.
    Html,
}

/// What a page says of its project that no event changes and that a sync hands on as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preamble {
    /// In which form the page was read.
    pub form: Form,
    /// The reserved namespaces that the project is in (PEP 752): `null` or a list of objects, each with `name` and `owned`. `None`
    /// where the index does not say.
    pub namespaces: Option<Json>,
    /// What the page says in keys that are not known.
    pub unknown: UnknownKeys,
    /// How many such keys of the page and its files were dropped, because what they say was too much.
    pub dropped: u64,
}

/// Keys of a page that are not known, with their values as they came. A key is named by a JSON pointer (RFC 6901), which begins at
/// the page or, for a key of a file, at the file.
pub type UnknownKeys = BTreeMap<String, Json>;

/// How much of a page's unknown keys a record keeps: pointers and values, in bytes.
const UNKNOWN_MOST: usize = 64 << 10;

impl Preamble {
    /// That of a page of this form which says nothing more.
    pub fn of(form: Form) -> Self {
        Self { form, namespaces: None, unknown: UnknownKeys::new(), dropped: 0 }
    }
}

/// What the log tells of a project, or what never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The project's name, normalised.
    pub name: ProjectName,
    /// Whether it is quarantined: then it has no files.
    pub quarantined: bool,
    /// Its files.
    pub files: BTreeMap<FileName, ToldFile>,
}

/// What the log tells of a file, or what never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldFile {
    /// What it should be. `None` where upstream does not say it, or says what cannot be used.
    pub sha256: Option<ClaimedSha256>,
    /// How large it should be, in bytes, if upstream says so.
    pub size: Option<u64>,
    /// When it was uploaded (PEP 700).
    pub upload_time: Option<UploadTime>,
    /// Whether it was yanked, and why.
    pub yanked: Yanked,
}

/// What pages show of a project and no log tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The project's name as the page writes it.
    pub display: DisplayName,
    /// What the page says besides, as it came.
    pub preamble: Preamble,
    /// Whether it is archived or deprecated.
    pub maintenance: Maintenance,
    /// Why it has its status, if upstream says so.
    pub status_reason: Option<String>,
    /// All versions that the page names.
    pub versions: Vec<String>,
    /// Its files.
    pub files: BTreeMap<FileName, SeenFile>,
}

impl Seen {
    /// Of an active project without files, of which nothing else is said.
    pub fn of(display: DisplayName, form: Form) -> Self {
        let (status_reason, versions, files) = Default::default();
        let (preamble, maintenance) = (Preamble::of(form), Maintenance::Active);
        Self { display, preamble, maintenance, status_reason, versions, files }
    }

    /// The same with at most 64 KiB of what is not known: namespaces come first, then the keys of the page, then those of its files,
    /// each sorted by bytes. What does not fit into what is left is dropped and counted.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let (mut room, mut dropped) = (UNKNOWN_MOST, 0);
        let mut fits = |key: &str, value: &Json| {
            let left = room.checked_sub(key.len() + value.as_str().len());
            room = left.unwrap_or(room);
            dropped += u64::from(left.is_none());
            left.is_some()
        };
        self.preamble.namespaces.take_if(|namespaces| !fits("/namespaces", namespaces));
        self.preamble.unknown.retain(|key, value| fits(key, value));
        for file in self.files.values_mut() {
            file.unknown.retain(|key, value| fits(key, value));
        }
        self.preamble.dropped += dropped;
        self
    }

    /// The keys of the page and of its files that are not known, each once; those of files begin with `files/*`.
    pub fn unknown_keys(&self) -> BTreeSet<String> {
        let of_page = self.preamble.unknown.keys().cloned();
        let of_files = self.files.values().flat_map(|file| file.unknown.keys());
        of_page.chain(of_files.map(|key| format!("/files/*{key}"))).collect()
    }
}

/// What pages show of a file and no log tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFile {
    /// Where upstream has it: an absolute http(s) URL without query and fragment, whose last segment is the filename. `None` where
    /// the record was made of a page of this mirror, which does not keep it.
    pub url: Option<String>,
    /// Whether that URL has a query on upstream's page. A signed URL has another query at every request, and it is a secret: so it is
    /// no part of the record, and the file is had by asking for the page anew.
    pub query: bool,
    /// Which Pythons it is for (PEP 345), as upstream writes it.
    pub requires_python: Option<String>,
    /// Its metadata file, beside it at `.metadata` (PEP 658).
    pub core_metadata: CoreMetadata,
    /// Where its attestations are (PEP 740): an absolute URL on upstream, without a query.
    pub provenance: Option<String>,
    /// What the page says of it in keys that are not known.
    pub unknown: UnknownKeys,
}

/// The ids of the two bodies that a record is kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// Of what the log tells.
    pub told: Blake3,
    /// Of what only pages show.
    pub seen: Blake3,
}

/// The parts of a record, or a record and its files, do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{project}: {problem}")]
pub struct InvalidRecord {
    project: ProjectName,
    problem: String,
}

/// What upstream says of a project, at some serial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    told: Told,
    seen: Seen,
}

impl ToldFile {
    /// A file of which nothing but its digest is said.
    pub fn of(sha256: ClaimedSha256) -> Self {
        Self { sha256: Some(sha256), ..Self::named() }
    }

    /// A file of which nothing but its name is said.
    pub fn named() -> Self {
        Self { sha256: None, size: None, upload_time: None, yanked: Yanked::No }
    }
}

impl SeenFile {
    /// A file of which nothing but its URL is said, if that.
    pub fn at(url: Option<String>) -> Self {
        let (core_metadata, unknown) = (CoreMetadata::Absent, UnknownKeys::new());
        Self { url, query: false, requires_python: None, core_metadata, provenance: None, unknown }
    }
}

/// Whether a file is skipped: its name is good, and its URL or its digest is not, so that it stands in the record by its name
/// alone and is never shown.
pub fn is_skipped(told: &ToldFile, seen: &SeenFile) -> bool {
    told.sha256.is_none() && seen.url.is_none()
}

impl Record {
    /// Puts both parts together; an error where they are not of one project, do not name the same files or name one that cannot
    /// be the project's, where more than the name is said of a file that is skipped, or where a quarantined project has files.
    pub fn new(told: Told, seen: Seen) -> Result<Self, InvalidRecord> {
        let invalid = |problem| Err(InvalidRecord { project: told.name.clone(), problem });
        if !seen.display.is_of(&told.name) {
            return invalid(format!("its display name is `{}`", seen.display));
        }
        if !told.files.keys().eq(seen.files.keys()) {
            return invalid("its parts name different files".to_owned());
        }
        if let Some(foreign) = told.files.keys().find(|file| !file.is_of(&told.name)) {
            return invalid(format!("`{}` is another project's", foreign.as_str()));
        }
        let skipped = told.files.iter().zip(seen.files.values()).filter(|((_, told), seen)| is_skipped(told, seen));
        let mut more = skipped.filter(|((_, told), seen)| **told != ToldFile::named() || **seen != SeenFile::at(None));
        if let Some(((file, _), _)) = more.next() {
            return invalid(format!(
                "`{}` has neither digest nor URL, and more than its name is said of it",
                file.as_str()
            ));
        }
        if told.quarantined && !told.files.is_empty() {
            return invalid("it is quarantined and has files".to_owned());
        }
        Ok(Self { told, seen })
    }

    /// The project.
    pub fn name(&self) -> &ProjectName {
        &self.told.name
    }

    /// What the log tells.
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// What pages show.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Both parts, to be changed and put together again.
    pub fn into_parts(self) -> (Told, Seen) {
        (self.told, self.seen)
    }

    /// The status as pages write it.
    pub fn status(&self) -> Status {
        match (self.told.quarantined, self.seen.maintenance) {
            (true, _) => Status::Quarantined,
            (false, Maintenance::Active) => Status::Active,
            (false, Maintenance::Archived) => Status::Archived,
            (false, Maintenance::Deprecated) => Status::Deprecated,
        }
    }

    /// Each file with both parts, by name.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&FileName, &ToldFile, &SeenFile)> {
        let both = self.told.files.iter().zip(self.seen.files.values());
        both.map(|((name, told), seen)| (name, told, seen))
    }

    /// The same without some of its files, and with these versions.
    #[must_use]
    pub fn without(mut self, files: &BTreeSet<FileName>, versions: Vec<String>) -> Self {
        self.told.files.retain(|name, _| !files.contains(name));
        self.seen.files.retain(|name, _| !files.contains(name));
        self.seen.versions = versions;
        self
    }
}

/// Where a file stands in a mirror, and what was measured of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Where it is: `packages/…/FILENAME`.
    pub path: TreePath,
    /// What it is.
    pub sha256: Sha256,
    /// How large it is, in bytes.
    pub size: u64,
    /// What its metadata file is, which stands beside it ([`TreePath::metadata`]), if it has one.
    pub metadata: Option<Sha256>,
}

impl Placed {
    /// The paths of the file and of its metadata file, each with what is there.
    pub fn paths(&self) -> Vec<(TreePath, Sha256)> {
        let metadata = self.metadata.and_then(|sha256| Some((self.path.metadata().ok()?, sha256)));
        std::iter::once((self.path.clone(), self.sha256)).chain(metadata).collect()
    }
}

/// A project as a mirror has it: its pages are a function of this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrored {
    record: Record,
    serial: Serial,
    files: BTreeMap<FileName, Placed>,
}

impl Mirrored {
    /// Puts a record and its files together; an error where they are not the same files, or a file is not what the record claims.
    pub fn new(record: Record, serial: Serial, files: BTreeMap<FileName, Placed>) -> Result<Self, InvalidRecord> {
        let invalid = |problem| Err(InvalidRecord { project: record.name().clone(), problem });
        if !record.told.files.keys().eq(files.keys()) {
            return invalid("its record and its files are not the same".to_owned());
        }
        for ((name, told), placed) in record.told.files.iter().zip(files.values()) {
            if let Some(Err(mismatch)) = told.sha256.map(|claim| claim.confirm(placed.sha256)) {
                return invalid(format!("`{}`: {mismatch}", name.as_str()));
            }
        }
        Ok(Self { record, serial, files })
    }

    /// What upstream says of the project.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The serial that it is of.
    pub fn serial(&self) -> Serial {
        self.serial
    }

    /// The same at another serial.
    #[must_use]
    pub fn at(self, serial: Serial) -> Self {
        Self { serial, ..self }
    }

    /// Each file with what is said of it and where it is, by name.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&FileName, &ToldFile, &SeenFile, &Placed)> {
        self.record.files().zip(self.files.values()).map(|((name, told, seen), placed)| (name, told, seen, placed))
    }

    /// The same without some of its files, and with these versions.
    #[must_use]
    pub fn without(self, files: &BTreeSet<FileName>, versions: Vec<String>) -> Self {
        let Self { record, serial, files: mut placed } = self;
        placed.retain(|name, _| !files.contains(name));
        Self { record: record.without(files, versions), serial, files: placed }
    }
}
