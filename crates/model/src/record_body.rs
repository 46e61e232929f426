//! The canonical bytes of a record's two parts: JSON by RFC 8785, files sorted by the bytes of their names.
//!
//! What upstream does not give is a key left out. A file that is no distribution by its name stands in the seen part with
//! everything that is said of it, because no log is asked about it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::text::BadBody;
use crate::{
    Blake3, CoreMetadata, FileName, Maintenance, ProjectName, Record, RecordId, Seen, SeenFile, Told, ToldFile, Yanked,
};

/// The number of the form of records that this program writes.
pub const RECORD: u32 = 2;

/// The endings of distributions: source archives, wheels, and what indexes took before there were wheels. The list belongs to the
/// number of the form, because it decides where a file stands.
const DISTRIBUTIONS: [&str; 15] = [
    ".whl", ".tar.gz", ".zip", ".egg", ".tar.bz2", ".tar.xz", ".tar.z", ".tgz", ".tbz", ".txz", ".tar", ".exe", ".msi",
    ".rpm", ".deb",
];

/// The largest number that JSON keeps exactly (RFC 8785, section 3.2.2.3).
const LARGEST: u64 = (1 << 53) - 1;

/// Whether a file is a distribution by its name.
pub fn is_distribution(name: &str) -> bool {
    DISTRIBUTIONS.iter().any(|ending| {
        let at = name.len().checked_sub(ending.len());
        at.and_then(|at| name.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(ending))
    })
}

type Text<'a> = Cow<'a, str>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToldBody<'a> {
    #[serde(borrow)]
    files: Vec<ToldLine<'a>>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(default, skip_serializing_if = "is_false")]
    quarantined: bool,
    told: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ToldLine<'a> {
    #[serde(borrow)]
    filename: Text<'a>,
    #[serde(borrow)]
    sha256: Text<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    upload_time: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    yanked: Option<TrueOr<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeenBody<'a> {
    #[serde(borrow)]
    display: Text<'a>,
    #[serde(borrow)]
    files: Vec<SeenLine<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reason: Option<Text<'a>>,
    seen: u32,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    status: Option<Text<'a>>,
    #[serde(borrow)]
    versions: Vec<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SeenLine<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    core_metadata: Option<TrueOr<'a>>,
    #[serde(borrow)]
    filename: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    provenance: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    requires_python: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    told: Option<ToldLine<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    url: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TrueOr<'a> {
    True(bool),
    #[serde(borrow)]
    Text(Text<'a>),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

fn maintenance_text(maintenance: Maintenance) -> Option<&'static str> {
    match maintenance {
        Maintenance::Active => None,
        Maintenance::Archived => Some("archived"),
        Maintenance::Deprecated => Some("deprecated"),
    }
}

fn told_line<'a>(name: &'a FileName, told: &'a ToldFile) -> ToldLine<'a> {
    ToldLine {
        filename: name.as_str().into(),
        sha256: told.sha256.to_string().into(),
        size: told.size.filter(|size| *size <= LARGEST),
        upload_time: told.upload_time.map(|time| time.to_string().into()),
        yanked: match &told.yanked {
            Yanked::No => None,
            Yanked::Yes(reason) if reason.is_empty() => Some(TrueOr::True(true)),
            Yanked::Yes(reason) => Some(TrueOr::Text(reason.into())),
        },
    }
}

fn seen_line<'a>(name: &'a FileName, told: &'a ToldFile, seen: &'a SeenFile) -> SeenLine<'a> {
    SeenLine {
        core_metadata: match seen.core_metadata {
            CoreMetadata::Absent => None,
            CoreMetadata::Unhashed => Some(TrueOr::True(true)),
            CoreMetadata::Hashed(claim) => Some(TrueOr::Text(claim.to_string().into())),
        },
        filename: name.as_str().into(),
        provenance: seen.provenance.as_deref().map(Into::into),
        requires_python: seen.requires_python.as_deref().map(Into::into),
        told: (!is_distribution(name.as_str())).then(|| told_line(name, told)),
        url: seen.url.as_deref().map(Into::into),
    }
}

/// The bodies of a record and their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBodies {
    id: RecordId,
    told: Vec<u8>,
    seen: Vec<u8>,
}

impl RecordBodies {
    /// Their ids.
    pub fn id(&self) -> RecordId {
        self.id
    }

    /// Each with its id, the told part first.
    pub fn into_parts(self) -> [(Blake3, Vec<u8>); 2] {
        [(self.id.told, self.told), (self.id.seen, self.seen)]
    }
}

impl Record {
    /// The canonical bytes of both parts; the BLAKE3 of each is its id.
    pub fn to_bodies(&self) -> RecordBodies {
        let (told, seen) = self.to_json();
        RecordBodies { id: RecordId { told: Blake3::of(&told), seen: Blake3::of(&seen) }, told, seen }
    }

    /// The told part and the seen part.
    fn to_json(&self) -> (Vec<u8>, Vec<u8>) {
        let files = || self.files();
        let distributions = files().filter(|(name, ..)| is_distribution(name.as_str()));
        let told = ToldBody {
            files: distributions.map(|(name, told, _)| told_line(name, told)).collect(),
            name: self.name().as_str().into(),
            quarantined: self.told().quarantined,
            told: RECORD,
        };
        let of_pages = self.seen();
        let mut versions: Vec<Text<'_>> = of_pages.versions.iter().map(Into::into).collect();
        versions.sort_unstable();
        versions.dedup();
        let seen = SeenBody {
            display: of_pages.display.as_str().into(),
            files: files().map(|(name, told, seen)| seen_line(name, told, seen)).collect(),
            reason: of_pages.status_reason.as_deref().map(Into::into),
            seen: RECORD,
            status: maintenance_text(of_pages.maintenance).map(Into::into),
            versions,
        };
        (json(&told), json(&seen))
    }

    /// Reads the canonical bytes of both parts; an error for any others, and where the two are not of one project.
    pub fn from_bodies(told: &[u8], seen: &[u8]) -> Result<Self, BadBody> {
        let (parsed_told, parsed_seen) = (parse("told part", told)?, parse("seen part", seen)?);
        let record = read(parsed_told, parsed_seen).map_err(|problem| BadBody::whole("record", problem))?;
        // Reading lost nothing: the record's own bytes are the ones that it was read from.
        let own = record.to_json();
        if (&own.0[..], &own.1[..]) == (told, seen) {
            Ok(record)
        } else {
            Err(BadBody::whole("record", "not in canonical form".to_owned()))
        }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("texts and numbers with text keys are always JSON")
}

fn parse<'a, T: Deserialize<'a>>(kind: &'static str, bytes: &'a [u8]) -> Result<T, BadBody> {
    serde_json::from_slice(bytes).map_err(|error| BadBody::whole(kind, error.to_string()))
}

fn read(told: ToldBody<'_>, seen: SeenBody<'_>) -> Result<Record, String> {
    fn words(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    if (told.told, seen.seen) != (RECORD, RECORD) {
        return Err(format!("its parts are of the forms {} and {}, not {RECORD}", told.told, seen.seen));
    }
    let name: ProjectName = told.name.parse().map_err(words)?;
    let mut told_files = BTreeMap::new();
    for line in told.files {
        told_files.extend([read_told(&name, line)?]);
    }
    let mut seen_files = BTreeMap::new();
    for SeenLine { core_metadata, filename, provenance, requires_python, told, url } in seen.files {
        let filename = FileName::of(&name, &filename).map_err(words)?;
        told_files.extend(told.map(|line| read_told(&name, line)).transpose()?);
        let core_metadata = match core_metadata {
            None => CoreMetadata::Absent,
            Some(TrueOr::True(true)) => CoreMetadata::Unhashed,
            Some(TrueOr::True(false)) => return Err("core-metadata is false".to_owned()),
            Some(TrueOr::Text(claim)) => CoreMetadata::Hashed(claim.parse().map_err(words)?),
        };
        let seen = SeenFile {
            url: url.map(Into::into),
            requires_python: requires_python.map(Into::into),
            core_metadata,
            provenance: provenance.map(Into::into),
        };
        seen_files.insert(filename, seen);
    }
    let maintenance = [Maintenance::Active, Maintenance::Archived, Maintenance::Deprecated];
    let maintenance = maintenance.into_iter().find(|of| maintenance_text(*of) == seen.status.as_deref());
    let seen = Seen {
        display: seen.display.parse().map_err(words)?,
        maintenance: maintenance.ok_or("its status is unknown")?,
        status_reason: seen.reason.map(Into::into),
        versions: seen.versions.into_iter().map(Into::into).collect(),
        files: seen_files,
    };
    let told = Told { name, quarantined: told.quarantined, files: told_files };
    Record::new(told, seen).map_err(words)
}

fn read_told(project: &ProjectName, line: ToldLine<'_>) -> Result<(FileName, ToldFile), String> {
    let name = FileName::of(project, &line.filename).map_err(|error| error.to_string())?;
    let told = ToldFile {
        sha256: line.sha256.parse().map_err(|error: crate::InvalidDigest| error.to_string())?,
        size: line.size,
        upload_time: line.upload_time.map(|time| time.parse()).transpose().map_err(|_| "a time is none".to_owned())?,
        yanked: match line.yanked {
            None => Yanked::No,
            Some(TrueOr::True(true)) => Yanked::Yes(String::new()),
            Some(TrueOr::True(false)) => return Err("yanked is false".to_owned()),
            Some(TrueOr::Text(reason)) if reason.is_empty() => return Err("a reason is empty".to_owned()),
            Some(TrueOr::Text(reason)) => Yanked::Yes(reason.into()),
        },
    };
    Ok((name, told))
}
