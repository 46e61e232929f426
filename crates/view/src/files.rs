//! Files and directories of a view: what tells files apart, what is in a directory, and which directories are to be synced.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use strandline_durable::DiskError;
use strandline_store::Store;

use crate::ViewError;

/// If more directories than this have changed, one sync of the whole file system is cheaper than one sync each.
const WORTH_A_SYNCFS: usize = 16;

/// The size of a file and its time of modification in seconds since 1970: no two blobs of a store have the same.
pub type Stamp = (u64, u64);

/// The directories that are to be synced. Where they are so many that the whole file system is synced, not all of them
/// are remembered.
#[derive(Debug, Default)]
pub(crate) struct Touched(BTreeSet<PathBuf>);

impl Touched {
    pub(crate) fn insert(&mut self, directory: PathBuf) {
        if self.0.len() <= WORTH_A_SYNCFS {
            self.0.insert(directory);
        }
    }

    /// Whether there are so many directories that the whole file system is to be synced.
    fn is_everything(&self) -> bool {
        self.0.len() > WORTH_A_SYNCFS
    }

    /// Adds the directories that another task touched meanwhile.
    pub(crate) fn absorb(&mut self, other: Self) {
        self.extend(other.0);
    }

    pub(crate) fn extend(&mut self, directories: impl IntoIterator<Item = PathBuf>) {
        directories.into_iter().for_each(|directory| self.insert(directory));
    }
}

pub(crate) fn sync_all(store: &Store, top: &Path, touched: Touched) -> Result<(), ViewError> {
    if touched.is_everything() {
        store.disk().sync_file_system(top)?;
    } else {
        for directory in touched.0 {
            store.disk().sync_directory(&directory)?;
        }
    }
    Ok(())
}

/// The stamp of a file; `None` if there is no file. Copies of a blob have the blob's stamp.
pub(crate) fn stamp(path: &Path) -> Result<Option<Stamp>, DiskError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some((metadata.len(), u64::try_from(metadata.mtime()).unwrap_or(0)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DiskError::new("look at", path, error)),
    }
}
