//! What is said of a project: by upstream ([`Page`], claims) and by this mirror ([`Record`], facts).

use serde::Serialize;
use strandline_model::{ClaimedSha256, DisplayName, ProjectName, Serial, Sha256, TreePath};

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
    /// Takes the name if it is one path segment of at most 240 bytes (room for `.metadata`) without
    /// control characters, and begins with the project's name, however that is spelled.
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

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `text` begins with some spelling of the project's name and goes on with a separator.
fn begins_with_name(text: &str, project: &ProjectName) -> bool {
    let mut rest = text;
    for part in project.as_str().split('-').enumerate().map(|(index, part)| (index > 0, part)) {
        let (separated, part) = part;
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

/// What is said of a file and needs no checking against bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// Its name.
    pub filename: FileName,
    /// Which Pythons it is for (PEP 345), as upstream writes it.
    pub requires_python: Option<String>,
    /// When it was uploaded (PEP 700), as upstream writes it: RFC 3339.
    pub upload_time: Option<String>,
    /// Whether it was yanked, and why.
    pub yanked: Yanked,
    /// Where its attestations are (PEP 740): an absolute URL on upstream.
    pub provenance: Option<String>,
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

/// A file on upstream's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// What is said of it.
    pub details: Details,
    /// Where it is: an absolute http(s) URL without a fragment, whose last segment is the filename.
    pub url: String,
    /// What it should be.
    pub sha256: ClaimedSha256,
    /// How large it should be, in bytes, if the page says so.
    pub size: Option<u64>,
    /// Its metadata file, at `url` + `.metadata`.
    pub core_metadata: CoreMetadata,
}

/// A project as upstream's page shows it: claims, each checked for its form only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The project's name as the page writes it.
    pub name: DisplayName,
    /// The page's serial, if the index has serials.
    pub serial: Option<Serial>,
    /// Its status.
    pub status: Status,
    /// Why it has that status, if the page says so.
    pub status_reason: Option<String>,
    /// All versions that the page names.
    pub versions: Vec<String>,
    /// All files that the page names, each filename once.
    pub files: Vec<ListedFile>,
}

/// A file of this mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirroredFile {
    /// What is said of it.
    pub details: Details,
    /// Where it is in the mirror: `packages/…/FILENAME`.
    pub path: TreePath,
    /// What it is.
    pub sha256: Sha256,
    /// How large it is, in bytes.
    pub size: u64,
    /// What its metadata file is, at `path` + `.metadata`.
    pub core_metadata: Option<Sha256>,
}

/// A project as this mirror shows it; its pages are a function of this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name, normalised.
    pub name: ProjectName,
    /// Its serial.
    pub serial: Serial,
    /// Its status.
    pub status: Status,
    /// Why it has that status.
    pub status_reason: Option<String>,
    /// Its versions.
    pub versions: Vec<String>,
    /// Its files, each filename once.
    pub files: Vec<MirroredFile>,
}
