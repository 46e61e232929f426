//! What a project is at one moment, and how one change moves it on.
//!
//! [`Project`] keeps everything, also what quarantine hides; [`ProjectState`] is what a page shows of it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;

use bytes::Bytes;
use pep440_rs::Version;

/// A project's name in its normalised form (PEP 503): lower case, runs of `-`, `_` and `.` as one `-`.
pub fn normalise(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for character in name.chars() {
        if matches!(character, '-' | '_' | '.') {
            if !out.ends_with('-') {
                out.push('-');
            }
        } else {
            out.push(character.to_ascii_lowercase());
        }
    }
    out
}

/// A project's status (PEP 792).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// The usual one.
    #[default]
    Active,
    /// No more releases are expected.
    Archived,
    /// Suspected malware: not in the root, and a page without files.
    Quarantined,
    /// Replaced by something else.
    Deprecated,
}

impl Status {
    /// As pages write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Archived => "archived",
            Self::Quarantined => "quarantined",
            Self::Deprecated => "deprecated",
        }
    }
}

/// A file as a page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Its filename.
    pub filename: String,
    /// The release it belongs to. (Pages do not say this; clients read it from the filename.)
    pub version: String,
    /// Its digest, in hex.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was uploaded, as pages write it.
    pub upload_time: String,
    /// The Python versions it wants.
    pub requires_python: Option<String>,
    /// None if it is not yanked; else the reason, which may be empty.
    pub yanked: Option<String>,
    /// The digest of its `.metadata`, where it has one.
    pub core_metadata: Option<String>,
    /// Its path, `/packages/…`, not percent-encoded.
    pub url_path: String,
}

/// A project as its page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectState {
    /// The normalised name.
    pub name: String,
    /// The name as its owner wrote it.
    pub display_name: String,
    /// The serial of its last event of any kind.
    pub serial: u64,
    /// The serial that its page says: that of its last event when the page was last purged. Upstream purges a page for
    /// what changes it, and not for an event about people.
    pub page_serial: u64,
    /// Its status.
    pub status: Status,
    /// The versions of the files shown, in order.
    pub versions: Vec<String>,
    /// The files shown, by version, then filename.
    pub files: Vec<FileState>,
}

/// Bytes that the index stores, and what was known when they came.
#[derive(Debug)]
pub(crate) struct StoredFile {
    pub(crate) filename: String,
    pub(crate) version: String,
    pub(crate) sha256: String,
    pub(crate) bytes: Bytes,
    pub(crate) metadata: Option<(Bytes, String)>,
    pub(crate) requires_python: Option<String>,
    pub(crate) url_path: String,
    pub(crate) uploaded_ms: u64,
}

/// What a row of the log says, without Warehouse's words for it. Versions and file names are as the project has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// `create`.
    Create,
    /// `new release` of a version.
    NewRelease(String),
    /// `add … file …`: the version and the file.
    AddFile(String, String),
    /// `remove file …`.
    RemoveFile(String),
    /// `remove release` of a version.
    RemoveRelease(String),
    /// `remove project`.
    RemoveProject,
    /// `yank release` of a version.
    YankRelease(String),
    /// `unyank release` of a version.
    UnyankRelease(String),
    /// `project quarantined`.
    QuarantineProject,
    /// `project quarantine cleared`.
    ClearProject,
    /// `release quarantined`, of a version.
    QuarantineRelease(String),
    /// `release quarantine cleared`, of a version.
    ClearRelease(String),
    /// Something about people.
    Role,
    /// An action that nobody has heard of.
    Unknown,
}

/// What a row of the log does. [`Change::Status`], [`Change::Replace`] and [`Change::Respell`] are not journaled.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Create,
    NewRelease(String),
    AddFile(Arc<StoredFile>),
    RemoveFile(String),
    RemoveRelease(String),
    RemoveProject,
    Yank(String, String),
    Unyank(String),
    Quarantine,
    ClearQuarantine,
    QuarantineRelease(String),
    ClearReleaseQuarantine(String),
    /// A role event, or an unknown action: it moves the serial only.
    Nothing {
        role: bool,
    },
    Status(Status),
    Replace(Arc<StoredFile>),
    /// The display name is spelled so.
    Respell(String),
}

impl Change {
    /// What a row of the log with this change says.
    pub(crate) fn kind(&self) -> EventKind {
        match self {
            Self::Create => EventKind::Create,
            Self::NewRelease(version) => EventKind::NewRelease(version.clone()),
            Self::AddFile(file) => EventKind::AddFile(file.version.clone(), file.filename.clone()),
            Self::RemoveFile(file) => EventKind::RemoveFile(file.clone()),
            Self::RemoveRelease(version) => EventKind::RemoveRelease(version.clone()),
            Self::RemoveProject => EventKind::RemoveProject,
            Self::Yank(version, _) => EventKind::YankRelease(version.clone()),
            Self::Unyank(version) => EventKind::UnyankRelease(version.clone()),
            Self::Quarantine => EventKind::QuarantineProject,
            Self::ClearQuarantine => EventKind::ClearProject,
            Self::QuarantineRelease(version) => EventKind::QuarantineRelease(version.clone()),
            Self::ClearReleaseQuarantine(version) => EventKind::ClearRelease(version.clone()),
            Self::Nothing { role: true } => EventKind::Role,
            Self::Nothing { role: false } | Self::Status(_) | Self::Replace(_) | Self::Respell(_) => EventKind::Unknown,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Release {
    yanked: Option<String>,
    quarantined: bool,
}

/// A project with all it holds, shown or not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Project {
    pub(crate) display_name: String,
    pub(crate) serial: u64,
    pub(crate) page_serial: u64,
    pub(crate) status: Status,
    releases: BTreeMap<String, Release>,
    files: BTreeMap<String, Arc<StoredFile>>,
}

/// Applies one row of the log to a project, which may not exist before or after.
///
/// It takes rows in any order: one about a release or file that is not there changes as much as it can.
pub(crate) fn apply(slot: &mut Option<Project>, display_name: &str, serial: u64, change: &Change) {
    if matches!(change, Change::RemoveProject) {
        *slot = None;
        return;
    }
    if slot.is_none() && matches!(change, Change::Nothing { .. } | Change::Status(_) | Change::Respell(_)) {
        return;
    }
    let project = slot.get_or_insert_with(|| Project { display_name: display_name.to_owned(), ..Project::default() });
    match change {
        Change::Create | Change::RemoveProject | Change::Nothing { .. } => {}
        Change::NewRelease(version) => {
            project.releases.entry(version.clone()).or_default();
        }
        Change::AddFile(file) | Change::Replace(file) => {
            project.releases.entry(file.version.clone()).or_default();
            project.files.insert(file.filename.clone(), Arc::clone(file));
        }
        Change::RemoveFile(filename) => {
            project.files.remove(filename);
        }
        Change::RemoveRelease(version) => {
            project.releases.remove(version);
            project.files.retain(|_, file| file.version != *version);
        }
        Change::Yank(version, reason) => {
            project.releases.entry(version.clone()).or_default().yanked = Some(reason.clone());
        }
        Change::Unyank(version) => {
            project.releases.entry(version.clone()).or_default().yanked = None;
        }
        Change::Quarantine => project.status = Status::Quarantined,
        Change::ClearQuarantine => project.status = Status::Active,
        Change::QuarantineRelease(version) => {
            project.releases.entry(version.clone()).or_default().quarantined = true;
        }
        Change::ClearReleaseQuarantine(version) => {
            project.releases.entry(version.clone()).or_default().quarantined = false;
        }
        Change::Status(status) => project.status = *status,
        Change::Respell(display_name) => project.display_name.clone_from(display_name),
    }
    if !matches!(change, Change::Status(_) | Change::Replace(_) | Change::Respell(_)) {
        project.serial = serial;
    }
    if !matches!(change, Change::Nothing { role: true }) {
        project.page_serial = project.serial;
    }
}

impl Project {
    /// What its page shows.
    pub(crate) fn state(&self, name: &str) -> ProjectState {
        let mut files: Vec<FileState> = self
            .files
            .values()
            .filter(|_| self.status != Status::Quarantined)
            .filter_map(|file| {
                let release = self.releases.get(&file.version)?;
                (!release.quarantined).then(|| FileState {
                    filename: file.filename.clone(),
                    version: file.version.clone(),
                    sha256: file.sha256.clone(),
                    size: file.bytes.len() as u64,
                    upload_time: iso_time(file.uploaded_ms),
                    requires_python: file.requires_python.clone(),
                    yanked: release.yanked.clone(),
                    core_metadata: file.metadata.as_ref().map(|(_, digest)| digest.clone()),
                    url_path: file.url_path.clone(),
                })
            })
            .collect();
        // Equal versions spelled differently stay apart by their spelling, so that the order is total.
        files.sort_by_cached_key(|file| (VersionKey::new(&file.version), file.filename.clone()));
        let mut versions: Vec<String> = files.iter().map(|file| file.version.clone()).collect();
        versions.dedup();
        ProjectState {
            name: name.to_owned(),
            display_name: self.display_name.clone(),
            serial: self.serial,
            page_serial: self.page_serial,
            status: self.status,
            versions,
            files,
        }
    }

    /// Its releases, whether shown or not, in no particular order of version.
    pub(crate) fn releases(&self) -> impl Iterator<Item = (&str, bool, bool)> {
        self.releases.iter().map(|(version, release)| (version.as_str(), release.yanked.is_some(), release.quarantined))
    }

    /// Its files, whether shown or not.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Arc<StoredFile>> {
        self.files.values()
    }

    /// One of its files.
    pub(crate) fn file(&self, filename: &str) -> Option<&Arc<StoredFile>> {
        self.files.get(filename)
    }

    /// Whether it has the release.
    pub(crate) fn has_release(&self, version: &str) -> bool {
        self.releases.contains_key(version)
    }
}

/// Versions in PEP 440's order; what is not a version at all comes first.
#[derive(Debug, PartialEq, Eq)]
struct VersionKey(Option<Version>, String);

impl VersionKey {
    fn new(version: &str) -> Self {
        Self(Version::from_str(version).ok(), version.to_owned())
    }
}

impl Ord for VersionKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0).then_with(|| self.1.cmp(&other.1))
    }
}

impl PartialOrd for VersionKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A moment as Python's `isoformat` writes it, with a `Z`: no fraction where there is none, else six digits.
pub(crate) fn iso_time(unix_ms: u64) -> String {
    let (seconds, millis) = (unix_ms / 1000, unix_ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years of 365.2425 days counted from 1 March of year 0, so that the leap day is a year's last day.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}000Z")
}
