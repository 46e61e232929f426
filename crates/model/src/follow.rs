//! Which projects of upstream have a record.

use std::collections::BTreeSet;

use crate::text::{Lines, require_canonical};
use crate::unit::line;
use crate::{BadBody, Blake3, ProjectName};

const FORMAT: &str = "strandline-follow 2";
const KIND: &str = "follow body";
const EVERYTHING: &str = "everything";

/// What a mirror follows. A snapshot names it by the BLAKE3 of its canonical bytes: the line `strandline-follow 2`, then the line
/// `everything`, or each name in its normalised form, sorted by bytes.
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
            // A project may have this name, too; its line has a space in front, as no name can have.
            Self::Projects(names) => names.iter().for_each(|name| line(&mut out, format_args!(" {name}"))),
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
            match line.strip_prefix(' ') {
                Some(name) => everything |= !names.insert(lines.parse(name)?),
                None => everything = line == EVERYTHING,
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
