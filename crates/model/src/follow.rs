//! Which projects of upstream have a record.

use std::collections::BTreeSet;

use crate::text::{Lines, require_canonical};
use crate::unit::line;
use crate::{BadBody, Blake3, ProjectName};

const FORMAT: &str = "strandline-follow 2";
const KIND: &str = "follow body";
const EVERYTHING: &str = "everything";
const PROJECT: &str = "project ";

/// What a mirror follows. A snapshot names it by the BLAKE3 of its canonical bytes: the line `strandline-follow 2`, then the line
/// `everything`, or `project NAME` for each, sorted by bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Follow {
    /// All projects.
    Everything,
    /// These.
    Projects(BTreeSet<ProjectName>),
}

impl Follow {
    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = String::new();
        line(&mut out, format_args!("{FORMAT}"));
        match self {
            Self::Everything => line(&mut out, format_args!("{EVERYTHING}")),
            Self::Projects(names) => names.iter().for_each(|name| line(&mut out, format_args!("{PROJECT}{name}"))),
        }
        out.into_bytes()
    }

    /// Reads canonical bytes; an error for any others.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadBody> {
        let mut lines = Lines::of(KIND, bytes)?;
        if lines.expect()? != FORMAT {
            return Err(lines.bad("not what a mirror follows, of format 2"));
        }
        let mut names = BTreeSet::new();
        let mut everything = false;
        while let Some(line) = lines.next() {
            match line.strip_prefix(PROJECT) {
                Some(name) => drop(names.insert(lines.parse(name)?)),
                None => everything = true,
            }
        }
        let follow = if everything { Self::Everything } else { Self::Projects(names) };
        require_canonical(KIND, bytes, &follow.to_bytes())?;
        Ok(follow)
    }

    /// The id of the canonical bytes.
    pub fn id(&self) -> Blake3 {
        Blake3::of(&self.to_bytes())
    }

    /// Whether a project has a record.
    pub fn has(&self, project: &ProjectName) -> bool {
        match self {
            Self::Everything => true,
            Self::Projects(names) => names.contains(project),
        }
    }
}
