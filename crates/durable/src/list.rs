//! What is in a directory.

use std::fs::DirEntry;
use std::io;
use std::path::Path;

use crate::DiskError;

/// What is in a directory, in no order; nothing where there is none. Links are not followed.
///
/// No directory in it is opened. `walkdir` opens each one that it names, and the pages of a mirror are a directory for each of
/// its projects.
pub fn children(directory: &Path) -> Result<Vec<DirEntry>, DiskError> {
    match std::fs::read_dir(directory).and_then(Iterator::collect) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|error| DiskError::new("list", directory, error)),
    }
}
