//! Snapshots: a tree's root with its mirror, upstream and serial, the time, and the projects that are held.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::text::{Lines, require_canonical};
use crate::unit::line;
use crate::{BadBody, Blake3, Label, MirrorName, ProjectName, Serial, Sha256, Timestamp, TreePath};

const FORMAT: &str = "strandline-snapshot 1";
const KIND: &str = "snapshot";

/// An upstream's URL as a snapshot names it: printable ASCII without spaces, credentials left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct UpstreamUrl(String);

impl UpstreamUrl {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text that cannot stand for an upstream in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a URL of printable ASCII without credentials")]
pub struct InvalidUpstreamUrl;

impl FromStr for UpstreamUrl {
    type Err = InvalidUpstreamUrl;
    fn from_str(text: &str) -> Result<Self, InvalidUpstreamUrl> {
        let authority = text.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(""));
        let valid = text.len() <= 2048
            && text.bytes().all(|byte| byte.is_ascii_graphic())
            && authority.is_some_and(|authority| !authority.is_empty() && !authority.contains('@'));
        if valid { Ok(Self(text.to_owned())) } else { Err(InvalidUpstreamUrl) }
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a project is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldReason {
    /// Upstream keeps answering with a page older than the project's last event.
    StalePage,
    /// Upstream keeps answering 404, although the changelog does not say that the project was removed.
    PageMissing,
    /// The page could not be understood.
    BadPage,
    /// A file that the page names is not there.
    FileMissing,
    /// A file's bytes are not what the page says.
    FileWrong,
}

impl HoldReason {
    const ALL: [Self; 5] = [Self::StalePage, Self::PageMissing, Self::BadPage, Self::FileMissing, Self::FileWrong];
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StalePage => "stale-page",
            Self::PageMissing => "page-missing",
            Self::BadPage => "bad-page",
            Self::FileMissing => "file-missing",
            Self::FileWrong => "file-wrong",
        })
    }
}

impl FromStr for HoldReason {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|reason| reason.to_string() == text).ok_or("not a reason for a hold")
    }
}

/// A project that is carried at its last good state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The project.
    pub name: ProjectName,
    /// Why it is held.
    pub reason: HoldReason,
    /// The serial of the state that is carried; 0 when there never was a good one.
    pub at: Serial,
    /// The serial that its page has to reach.
    pub needs: Serial,
    /// When the first event happened that the carried state does not show.
    pub since: Timestamp,
}

/// A list of all projects. It is made from the tree alone, written into the view, and never kept as a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootList {
    /// Where it stands in the tree.
    pub path: TreePath,
    /// The BLAKE3 of its bytes.
    pub blake3: Blake3,
    /// The SHA-256 of its bytes.
    pub sha256: Sha256,
    /// In bytes.
    pub size: u64,
}

/// A manifest's root with its mirror, serial, time, upstream, selection and held projects.
///
/// Canonical bytes are lines of a key and its value, always in this order:
///
/// ```text
/// strandline-snapshot 1
/// mirror NAME
/// serial SERIAL
/// revision NUMBER
/// tree NODE-ID
/// units COUNT
/// parent SNAPSHOT-ID            or -
/// time 2026-11-23T15:10:00Z
/// upstream URL
/// selection BLAKE3
/// list BLAKE3 SHA256 SIZE PATH  any number, sorted by path
/// held NAME REASON AT NEEDS SINCE   any number, sorted by name
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The mirror.
    pub mirror: MirrorName,
    /// Serial and revision.
    pub label: Label,
    /// The id of the tree's root.
    pub tree: Blake3,
    /// How many units the tree has.
    pub units: u64,
    /// The snapshot that this one was made from.
    pub parent: Option<Blake3>,
    /// When it was recorded.
    pub time: Timestamp,
    /// The index that it is a copy of.
    pub upstream: UpstreamUrl,
    /// The digest of what the configuration asked for.
    pub selection: Blake3,
    /// The root lists, sorted by path.
    pub lists: Vec<RootList>,
    /// The projects that are held, sorted by name.
    pub held: Vec<Held>,
}

impl Snapshot {
    /// The canonical bytes; their BLAKE3 is the snapshot's id.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = String::new();
        line(&mut out, format_args!("{FORMAT}"));
        line(&mut out, format_args!("mirror {}", self.mirror));
        line(&mut out, format_args!("serial {}", self.label.serial));
        line(&mut out, format_args!("revision {}", self.label.revision));
        line(&mut out, format_args!("tree {}", self.tree));
        line(&mut out, format_args!("units {}", self.units));
        match self.parent {
            Some(parent) => line(&mut out, format_args!("parent {parent}")),
            None => line(&mut out, format_args!("parent -")),
        }
        line(&mut out, format_args!("time {}", self.time));
        line(&mut out, format_args!("upstream {}", self.upstream));
        line(&mut out, format_args!("selection {}", self.selection));
        for RootList { path, blake3, sha256, size } in &self.lists {
            line(&mut out, format_args!("list {blake3} {sha256} {size} {path}"));
        }
        for Held { name, reason, at, needs, since } in &self.held {
            line(&mut out, format_args!("held {name} {reason} {at} {needs} {since}"));
        }
        out.into_bytes()
    }

    /// Reads canonical bytes; an error for any others.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadBody> {
        let mut lines = Lines::of(KIND, bytes)?;
        if lines.expect()? != FORMAT {
            return Err(lines.bad("not a snapshot of format 1"));
        }
        macro_rules! value {
            ($key:literal) => {{
                let word = lines.value($key)?;
                lines.parse(word)?
            }};
        }
        let mirror = value!("mirror");
        let serial = value!("serial");
        let revision = lines.value("revision")?;
        let revision = lines.number(revision)?.try_into().map_err(|_| lines.bad("the revision is out of range"))?;
        let tree = value!("tree");
        let units = lines.value("units")?;
        let units = lines.number(units)?;
        let parent = match lines.value("parent")? {
            "-" => None,
            id => Some(lines.parse(id)?),
        };
        let (time, upstream, selection) = (value!("time"), value!("upstream"), value!("selection"));
        let (mut lists, mut held) = (Vec::<RootList>::new(), Vec::<Held>::new());
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("list ") {
                let words: Vec<_> = rest.splitn(4, ' ').collect();
                let [blake3, sha256, size, path] = words[..] else {
                    return Err(lines.bad("expected `list BLAKE3 SHA256 SIZE PATH`"));
                };
                lists.push(RootList {
                    path: lines.parse(path)?,
                    blake3: lines.parse(blake3)?,
                    sha256: lines.parse(sha256)?,
                    size: lines.number(size)?,
                });
            } else {
                let words: Vec<_> = line.split(' ').collect();
                let ["held", name, reason, at, needs, since] = words[..] else {
                    return Err(lines.bad("expected `list …` or `held NAME REASON AT NEEDS SINCE`"));
                };
                held.push(Held {
                    name: lines.parse(name)?,
                    reason: lines.parse(reason)?,
                    at: lines.parse(at)?,
                    needs: lines.parse(needs)?,
                    since: lines.parse(since)?,
                });
            }
        }
        if !lists.is_sorted_by(|a, b| a.path < b.path) || !held.is_sorted_by(|a, b| a.name < b.name) {
            return Err(lines.bad("lists or held projects are not sorted"));
        }
        let label = Label { serial, revision };
        let snapshot = Self { mirror, label, tree, units, parent, time, upstream, selection, lists, held };
        require_canonical(KIND, bytes, &snapshot.to_bytes())?;
        Ok(snapshot)
    }
}
