//! The lists of all projects, made from the leaves of the tree alone.

use std::io;

use strandline_model::{DisplayName, Leaf, ProjectName, Serial, TreePath};

/// A project as a root list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedProject {
    /// Its normalised name: the directory of its pages.
    pub name: ProjectName,
    /// Its name as its owner writes it.
    pub display: DisplayName,
    /// The serial of its last change.
    pub serial: Serial,
}

impl From<Leaf> for ListedProject {
    fn from(leaf: Leaf) -> Self {
        Self { name: leaf.name, display: leaf.display, serial: leaf.serial }
    }
}

/// How the lists of all projects are written: a pure function of the tree and its serial. Implemented where
/// the format of pages is known.
pub trait RootLists: Send + Sync {
    /// Where the lists stand in the tree, sorted.
    fn paths(&self) -> Vec<TreePath>;

    /// Which list before it has the same bytes, where one has.
    fn same_as(&self, path: &TreePath) -> Option<TreePath> {
        let _ = path;
        None
    }

    /// Writes the list that stands at `path`; `projects` are sorted by name.
    fn write(
        &self,
        path: &TreePath,
        serial: Serial,
        projects: &[ListedProject],
        out: &mut dyn io::Write,
    ) -> io::Result<()>;

    /// Reads a list that [`write`](Self::write) wrote: the serial and the projects; an error for a form that does not say
    /// all of it.
    fn read(&self, bytes: &[u8]) -> io::Result<(Serial, Vec<ListedProject>)> {
        Err(io::Error::other(format!("a list of {} bytes of a form that cannot be read back", bytes.len())))
    }
}
