//! Snapshots: a tree's root with its mirror, upstream and serial, the time, and the projects that are held.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::text::{Lines, require_canonical};
use crate::unit::line;
use crate::{BadBody, Blake3, Label, MirrorName, ProjectName, Serial, Sha256, Timestamp, TreePath};

const FORMAT: &str = "strandline-snapshot 2";
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
    /// The page lacks most of the project's files, and no event says that they went.
    PageShrunk,
    /// A file that the page names is not there.
    FileMissing,
    /// A file's bytes are not what the page says.
    FileWrong,
}

impl HoldReason {
    /// Whether it is files that cannot be had, and not what upstream says of the project: then the project's line in the tree is of
    /// the newest state, and only what readers get is of an earlier one.
    pub fn is_of_files(self) -> bool {
        matches!(self, Self::FileMissing | Self::FileWrong)
    }

    const ALL: [Self; 6] =
        [Self::StalePage, Self::PageMissing, Self::BadPage, Self::PageShrunk, Self::FileMissing, Self::FileWrong];
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StalePage => "stale-page",
            Self::PageMissing => "page-missing",
            Self::BadPage => "bad-page",
            Self::PageShrunk => "page-shrunk",
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
    /// The serial of what readers get, which stands on the pages; 0 where they get nothing, because there never was a good state.
    pub at: Serial,
    /// The serial that its page has to reach.
    pub needs: Serial,
    /// When the first event happened that readers do not see.
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

/// How the state of upstream is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Every page is read, and again until nothing changes.
    Collect,
    /// The changelog is read.
    Changelog,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Collect => "collect",
            Self::Changelog => "changelog",
        })
    }
}

impl FromStr for Method {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Collect, Self::Changelog].into_iter().find(|method| method.to_string() == text).ok_or("not a method")
    }
}

/// A project that went without a row of upstream's log, and the serial at which the mirror took it for gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gone {
    /// The project.
    pub name: ProjectName,
    /// The serial of its last state.
    pub serial: Serial,
}

/// A manifest's root with its mirror, serial and time, what it is made of, and the projects that are held.
///
/// Canonical bytes are lines of a key and its value, always in this order:
///
/// ```text
/// strandline-snapshot 2
/// mirror NAME
/// serial SERIAL
/// revision NUMBER
/// tree NODE-ID
/// state STATE-ID
/// follow BLAKE3
/// inputs BLAKE3
/// cutoff 2026-11-23T15:10:00Z
/// record NUMBER
/// method changelog              or collect
/// projects COUNT
/// listed COUNT
/// parent SNAPSHOT-ID            or -
/// time 2026-11-23T15:10:00Z
/// upstream URL
/// list BLAKE3 SHA256 SIZE PATH  any number, sorted by path
/// held NAME REASON AT NEEDS SINCE   any number, sorted by name
/// gone NAME SERIAL              any number, sorted by name
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The mirror.
    pub mirror: MirrorName,
    /// Serial and revision.
    pub label: Label,
    /// The id of the tree's root.
    pub tree: Blake3,
    /// The state id of the tree's root.
    pub state: Blake3,
    /// The id of the body that says which projects have a record: a [`Follow`](crate::Follow).
    pub follow: Blake3,
    /// The id of the body that says what of the records is shown: an [`Inputs`](crate::Inputs).
    pub inputs: Blake3,
    /// Up to when uploads are shown.
    pub cutoff: Timestamp,
    /// The number of the form of its records.
    pub record: u32,
    /// How upstream's state was found.
    pub method: Method,
    /// How many projects the tree has.
    pub projects: u64,
    /// How many of them the root lists name.
    pub listed: u64,
    /// The snapshot that this one was made from.
    pub parent: Option<Blake3>,
    /// When it was recorded.
    pub time: Timestamp,
    /// The index that it is a copy of.
    pub upstream: UpstreamUrl,
    /// The root lists, sorted by path.
    pub lists: Vec<RootList>,
    /// The projects that are held, sorted by name.
    pub held: Vec<Held>,
    /// The projects that went without a row of the log, sorted by name.
    pub gone: Vec<Gone>,
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
        line(&mut out, format_args!("state {}", self.state));
        line(&mut out, format_args!("follow {}", self.follow));
        line(&mut out, format_args!("inputs {}", self.inputs));
        line(&mut out, format_args!("cutoff {}", self.cutoff));
        line(&mut out, format_args!("record {}", self.record));
        line(&mut out, format_args!("method {}", self.method));
        line(&mut out, format_args!("projects {}", self.projects));
        line(&mut out, format_args!("listed {}", self.listed));
        match self.parent {
            Some(parent) => line(&mut out, format_args!("parent {parent}")),
            None => line(&mut out, format_args!("parent -")),
        }
        line(&mut out, format_args!("time {}", self.time));
        line(&mut out, format_args!("upstream {}", self.upstream));
        for RootList { path, blake3, sha256, size } in &self.lists {
            line(&mut out, format_args!("list {blake3} {sha256} {size} {path}"));
        }
        for Held { name, reason, at, needs, since } in &self.held {
            line(&mut out, format_args!("held {name} {reason} {at} {needs} {since}"));
        }
        for Gone { name, serial } in &self.gone {
            line(&mut out, format_args!("gone {name} {serial}"));
        }
        out.into_bytes()
    }

    /// Reads canonical bytes; an error for any others.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadBody> {
        let mut lines = Lines::of(KIND, bytes)?;
        if lines.expect()? != FORMAT {
            return Err(lines.bad("not a snapshot of format 2"));
        }
        macro_rules! value {
            ($key:literal) => {{
                let word = lines.value($key)?;
                lines.parse(word)?
            }};
        }
        let mirror = value!("mirror");
        let serial = value!("serial");
        let revision = small(&mut lines, "revision")?;
        let (tree, state, follow, inputs) = (value!("tree"), value!("state"), value!("follow"), value!("inputs"));
        let (cutoff, record, method) = (value!("cutoff"), small(&mut lines, "record")?, value!("method"));
        let (projects, listed) = (count(&mut lines, "projects")?, count(&mut lines, "listed")?);
        let parent = match lines.value("parent")? {
            "-" => None,
            id => Some(lines.parse(id)?),
        };
        let (time, upstream) = (value!("time"), value!("upstream"));
        let Repeated { lists, held, gone } = Repeated::read(&mut lines)?;
        let label = Label { serial, revision };
        let snapshot = Self {
            mirror,
            label,
            tree,
            state,
            follow,
            inputs,
            cutoff,
            record,
            method,
            projects,
            listed,
            parent,
            time,
            upstream,
            lists,
            held,
            gone,
        };
        require_canonical(KIND, bytes, &snapshot.to_bytes())?;
        Ok(snapshot)
    }
}

/// The lines of which there can be any number.
#[derive(Default)]
struct Repeated {
    lists: Vec<RootList>,
    held: Vec<Held>,
    gone: Vec<Gone>,
}

impl Repeated {
    fn read(lines: &mut Lines<'_>) -> Result<Self, BadBody> {
        let mut all = Self::default();
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("list ") {
                let words: Vec<_> = rest.splitn(4, ' ').collect();
                let [blake3, sha256, size, path] = words[..] else {
                    return Err(lines.bad("expected `list BLAKE3 SHA256 SIZE PATH`"));
                };
                all.lists.push(RootList {
                    path: lines.parse(path)?,
                    blake3: lines.parse(blake3)?,
                    sha256: lines.parse(sha256)?,
                    size: lines.number(size)?,
                });
            } else if let Some(rest) = line.strip_prefix("gone ") {
                let (name, serial) = rest.split_once(' ').ok_or_else(|| lines.bad("expected `gone NAME SERIAL`"))?;
                all.gone.push(Gone { name: lines.parse(name)?, serial: lines.parse(serial)? });
            } else {
                let words: Vec<_> = line.split(' ').collect();
                let ["held", name, reason, at, needs, since] = words[..] else {
                    return Err(lines.bad("expected `list …`, `held NAME REASON AT NEEDS SINCE` or `gone …`"));
                };
                all.held.push(Held {
                    name: lines.parse(name)?,
                    reason: lines.parse(reason)?,
                    at: lines.parse(at)?,
                    needs: lines.parse(needs)?,
                    since: lines.parse(since)?,
                });
            }
        }
        let sorted = all.lists.is_sorted_by(|a, b| a.path < b.path)
            && all.held.is_sorted_by(|a, b| a.name < b.name)
            && all.gone.is_sorted_by(|a, b| a.name < b.name);
        if sorted { Ok(all) } else { Err(lines.bad("lists, held projects or those that went are not sorted")) }
    }
}

fn count(lines: &mut Lines<'_>, key: &str) -> Result<u64, BadBody> {
    let word = lines.value(key)?;
    lines.number(word)
}

fn small(lines: &mut Lines<'_>, key: &str) -> Result<u32, BadBody> {
    count(lines, key)?.try_into().map_err(|_| lines.bad(&format!("the {key} is out of range")))
}
