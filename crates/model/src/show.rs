//! What readers get of a record.
//!
//! [`show`] is a pure function of the record, the serial and the [`Inputs`], so anyone who has these can repeat it. The cutoff of
//! a snapshot decides nothing yet: it will hide a file that was uploaded later, as soon as there are rules that let files wait.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::text::{Lines, require_canonical};
use crate::unit::line;
use crate::{
    BadBody, Blake3, ClaimedSha256, FileName, ProjectName, Record, Releases, SeenFile, Serial, ToldFile, is_skipped,
};

const FORMAT: &str = "strandline-inputs 2";
const KIND: &str = "inputs";

/// Everything that decides what of a record is shown, besides the record. A snapshot names it by the BLAKE3 of its canonical
/// bytes: the line `strandline-inputs 2`, then `lacking PROJECT FILENAME SHA256` for each file that upstream does not give (SHA256 is
/// `-` where upstream does not say it), then `withdrawn SHA256` for each file that an operator has withdrawn; each kind is sorted
/// by bytes.
///
/// No person, path or address stands in it: it is public where a mirror is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inputs {
    /// Files that cannot be had and are shown no more, by project and name, with what upstream says that they are.
    pub lacking: BTreeMap<(ProjectName, FileName), Option<ClaimedSha256>>,
    /// Files that an operator has withdrawn, whatever their names.
    pub withdrawn: BTreeSet<ClaimedSha256>,
}

impl Inputs {
    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = String::new();
        line(&mut out, format_args!("{FORMAT}"));
        for ((project, filename), sha256) in &self.lacking {
            let filename = filename.as_str();
            match sha256 {
                Some(sha256) => line(&mut out, format_args!("lacking {project} {filename} {sha256}")),
                None => line(&mut out, format_args!("lacking {project} {filename} -")),
            }
        }
        for sha256 in &self.withdrawn {
            line(&mut out, format_args!("withdrawn {sha256}"));
        }
        out.into_bytes()
    }

    /// Reads canonical bytes; an error for any others.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadBody> {
        let mut lines = Lines::of(KIND, bytes)?;
        if lines.expect()? != FORMAT {
            return Err(lines.bad("not inputs of format 2"));
        }
        let mut inputs = Self::default();
        while let Some(line) = lines.next() {
            if let Some(sha256) = line.strip_prefix("withdrawn ") {
                inputs.withdrawn.insert(lines.parse(sha256)?);
                continue;
            }
            let rest = line.strip_prefix("lacking ").and_then(|rest| rest.split_once(' '));
            let three =
                rest.and_then(|(project, rest)| rest.rsplit_once(' ').map(|(name, sha256)| (project, name, sha256)));
            let (project, name, sha256) = three.ok_or_else(|| lines.bad("expected `lacking …` or `withdrawn …`"))?;
            let project: ProjectName = lines.parse(project)?;
            let name = FileName::of(&project, name).map_err(|error| lines.bad(&error.to_string()))?;
            let sha256 = if sha256 == "-" { None } else { Some(lines.parse(sha256)?) };
            inputs.lacking.insert((project, name), sha256);
        }
        require_canonical(KIND, bytes, &inputs.to_bytes())?;
        Ok(inputs)
    }

    /// The id of the canonical bytes.
    pub fn id(&self) -> Blake3 {
        Blake3::of(&self.to_bytes())
    }

    /// Why a file of a project is not shown; `None` where it is.
    pub fn hides(
        &self,
        project: &ProjectName,
        (name, told, seen): (&FileName, &ToldFile, &SeenFile),
    ) -> Option<Hidden> {
        if told.sha256.is_some_and(|sha256| self.withdrawn.contains(&sha256)) {
            return Some(Hidden::Withdrawn);
        }
        if is_skipped(told, seen) {
            return Some(Hidden::Skipped);
        }
        self.lacks(project, name, told.sha256).then_some(Hidden::Lacking)
    }

    /// Whether a file of a project is one that upstream does not give: this very file, because upstream may have put another one
    /// in its place.
    pub fn lacks(&self, project: &ProjectName, name: &FileName, sha256: Option<ClaimedSha256>) -> bool {
        // Mostly none is, and then nothing is copied.
        !self.lacking.is_empty() && self.lacking.get(&(project.clone(), name.clone())) == Some(&sha256)
    }
}

/// Why a file of a record is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hidden {
    /// An operator has withdrawn it.
    Withdrawn,
    /// Upstream does not give it.
    Lacking,
    /// Its name alone stands in the record.
    Skipped,
}

impl fmt::Display for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Withdrawn => "it is withdrawn from the mirror",
            Self::Lacking => "upstream does not give it",
            Self::Skipped => "its digest or its URL cannot be used",
        })
    }
}

/// What readers get of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The record without what is hidden.
    pub record: Record,
    /// The serial that stands on the pages.
    pub serial: Serial,
    /// What is hidden, and why.
    pub hidden: BTreeMap<FileName, Hidden>,
    /// Whether the root lists name the project: not one that is quarantined, or of whose files none is shown. A project that has
    /// no files is listed, as upstream lists it.
    pub listed: bool,
}

/// What readers get of a record that is of this serial.
pub fn show(record: &Record, serial: Serial, inputs: &Inputs, releases: &dyn Releases) -> Shown {
    let hidden: BTreeMap<_, _> =
        record.files().filter_map(|file| Some((file.0.clone(), inputs.hides(record.name(), file)?))).collect();
    let listed = !record.told().quarantined && (hidden.is_empty() || hidden.len() < record.files().len());
    let record = if hidden.is_empty() {
        record.clone()
    } else {
        let removed = hidden.keys().cloned().collect();
        record.clone().without(&removed, versions_left(record, &removed, releases))
    };
    Shown { record, serial, hidden, listed }
}

/// The versions that a page still lists without the files `removed`: a release of which no other file is left goes.
pub fn versions_left(record: &Record, removed: &BTreeSet<FileName>, releases: &dyn Releases) -> Vec<String> {
    let of = |name: &FileName, version: &str| releases.is_of_release(record.name(), name.as_str(), version);
    let goes = |version: &String| {
        let mut left = record.files().map(|(name, ..)| name).filter(|name| !removed.contains(*name));
        removed.iter().any(|file| of(file, version) == Some(true)) && !left.any(|file| of(file, version) != Some(false))
    };
    record.seen().versions.iter().filter(|version| !goes(version)).cloned().collect()
}
