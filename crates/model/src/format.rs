//! How a mirror's pages and lists are written and read back.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::{ClaimedSha256, DisplayName, FileName, Held, Leaf, MirrorName, Mirrored, ProjectName, Serial, TreePath};

/// Tells which files belong to which release.
pub trait Releases {
    /// Whether a file of a project, by its name, belongs to the release of this version, as the changelog writes it; `None`
    /// where the name does not tell.
    fn is_of_release(&self, project: &ProjectName, filename: &str, version: &str) -> Option<bool>;
}

/// The bytes of a release file, in any order.
pub trait ReadSeek: io::Read + io::Seek {}

impl<T: io::Read + io::Seek> ReadSeek for T {}

/// How the pages of projects and the lists of all projects are written and read back. Everything is a pure function of what is
/// given: the same project has the same pages on every machine.
pub trait Format: Releases + Debug + Send + Sync {
    /// The number of the renderer. A change of what is written gets a new one, one more.
    fn number(&self) -> u32;

    /// Where the page of a project stands that [`read`](Self::read) reads.
    fn record_path(&self, project: &ProjectName) -> TreePath;

    /// The pages of a project.
    fn render(&self, project: &Mirrored) -> Vec<Rendered>;

    /// Reads a page that [`render`](Self::render) made, of this or an earlier number, and that stands at
    /// [`record_path`](Self::record_path): what it was made of, as far as the page keeps it.
    fn read(&self, bytes: &[u8]) -> Result<Mirrored, BadRecord>;

    /// Where in a mirror's tree a file with this name, digest and URL belongs.
    ///
    /// The first choice may be upstream's own path, so that lock files go on to hold; the second, for when other bytes are
    /// there already, is made from the digest and the name.
    fn file_paths(&self, name: &FileName, sha256: ClaimedSha256, url: &str) -> [TreePath; 2];

    /// The metadata file that stands inside a release file; `None` where it has none, or none that can be taken out.
    fn metadata_inside(&self, name: &FileName, file: &mut dyn ReadSeek) -> Option<Vec<u8>> {
        let _ = (name, file);
        None
    }

    /// Where the lists of all projects stand, sorted.
    fn list_paths(&self) -> Vec<TreePath>;

    /// Which list before it has the same bytes, where one has.
    fn same_as(&self, path: &TreePath) -> Option<TreePath> {
        let _ = path;
        None
    }

    /// Writes the list that stands at `path`; `projects` are sorted by name. An error where `out` has one, or where no list
    /// stands there.
    fn write_list(
        &self,
        path: &TreePath,
        serial: Serial,
        projects: &[ListedProject],
        out: &mut dyn io::Write,
    ) -> io::Result<()>;

    /// Reads a list that [`write_list`](Self::write_list) wrote, of this or an earlier number: the serial and the projects; an
    /// error for one that does not say all of it.
    fn read_list(&self, bytes: &[u8]) -> io::Result<(Serial, Vec<ListedProject>)> {
        Err(io::Error::other(format!("a list of {} bytes of a form that cannot be read back", bytes.len())))
    }
}

/// A page to be stored: where it stands in the tree, and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// `simple/PROJECT/…`.
    pub path: TreePath,
    /// Its content.
    pub bytes: Bytes,
}

/// A stored page is not one that the format writes.
#[derive(Debug, thiserror::Error)]
#[error("not a record: {0}")]
pub struct BadRecord(pub String);

/// A project as a root list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedProject {
    /// Its normalised name: the directory of its pages.
    pub name: ProjectName,
    /// Its name as its owner writes it.
    pub display: DisplayName,
    /// The serial that stands on its pages: mostly that of its last change.
    pub serial: Serial,
}

impl ListedProject {
    /// What the root lists say of a project that is not held; `None` where they do not name it.
    pub fn of(leaf: Leaf) -> Option<Self> {
        leaf.listed.then_some(Self { name: leaf.name, display: leaf.display, serial: leaf.serial })
    }

    /// Gives the projects of a list, sorted by name, that are held the serials of the pages that readers get: a page and its line
    /// of a list never disagree.
    pub fn hold(listed: &mut [Self], held: &[Held]) {
        for Held { name, at, .. } in held {
            if let Ok(position) = listed.binary_search_by(|project| project.name.cmp(name)) {
                listed[position].serial = *at;
            }
        }
    }
}

/// Which format each mirror of a store has.
#[derive(Debug, Clone)]
pub struct Formats {
    usual: Arc<dyn Format>,
    others: BTreeMap<MirrorName, Arc<dyn Format>>,
}

impl Formats {
    /// All mirrors have this one, unless [`with`](Self::with) says otherwise.
    pub fn usual(format: Arc<dyn Format>) -> Self {
        Self { usual: format, others: BTreeMap::new() }
    }

    /// The same, but that a mirror has this one.
    #[must_use]
    pub fn with(mut self, mirror: MirrorName, format: Arc<dyn Format>) -> Self {
        self.others.insert(mirror, format);
        self
    }

    /// The format of a mirror.
    pub fn of(&self, mirror: &MirrorName) -> &Arc<dyn Format> {
        self.others.get(mirror).unwrap_or(&self.usual)
    }
}
