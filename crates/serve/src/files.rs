//! Files: the projects that they may belong to, and how their bytes are opened.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use strandline_durable::DiskError;
use strandline_model::{Entry, MirrorName, ProjectName, TreePath};
use strandline_store::{Store, StoreError};

use crate::reply::{Content, Data, Freshness};

/// The projects that may have a file of this name: the name begins with the project's, in any spelling, and a separator.
/// Names that end at a `-` come first, because file names are written so nowadays.
pub(crate) fn owners(file_name: &str) -> impl Iterator<Item = ProjectName> {
    let cuts = file_name.match_indices('-').chain(file_name.match_indices(['_', '.']));
    cuts.filter_map(|(at, _)| ProjectName::normalise(&file_name[..at]).ok())
}

/// Core metadata is text, always UTF-8. Everything else is bytes: an archive's own type makes some clients unpack it.
pub(crate) fn media_type(path: &TreePath) -> &'static str {
    if path.as_str().ends_with(".metadata") { "text/plain; charset=utf-8" } else { "application/octet-stream" }
}

/// Opens a blob whose file has the size that it should have.
pub(crate) fn open_blob(store: &Store, entry: &Entry) -> Result<Data, StoreError> {
    let file = store.open_blob(entry.blob)?;
    let fail = |source| DiskError::new("use the blob", &store.blob_path(entry.blob), source);
    let size = file.metadata().map_err(fail)?.len();
    if size == entry.size {
        return Ok(Data::File(file, size));
    }
    let problem = format!("it should have {} bytes and has {size}", entry.size);
    Err(fail(io::Error::new(io::ErrorKind::InvalidData, problem)).into())
}

/// The file that the pool has at `path`. Its tag is made as nginx makes it, which is enough because no two files of a store
/// have the same time.
pub(crate) fn pooled(store: &Store, mirror: &MirrorName, path: &TreePath) -> Result<Option<Content>, StoreError> {
    let at = store.view_directory(mirror).join(path.as_str());
    let file = match File::open(&at) {
        Ok(file) => file,
        Err(error) if is_absence(&error) => return Ok(None),
        Err(error) => return Err(DiskError::new("read", &at, error).into()),
    };
    let metadata = file.metadata().map_err(|error| DiskError::new("look at", &at, error))?;
    if !metadata.is_file() {
        return Ok(None);
    }
    Ok(Some(Content {
        tag: format!("\"{:x}-{:x}\"", metadata.mtime(), metadata.len()),
        data: Data::File(file, metadata.len()),
        media_type: media_type(path),
        freshness: Freshness::Forever,
        marks: None,
    }))
}

/// Whether an error only says that there is no such file.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_of_files() {
        for (file, expected) in [
            ("six-1.16.0-py2.py3-none-any.whl", "six"),
            ("zope.interface-5.0.tar.gz", "zope-interface"),
            ("Zope_Interface-5.0.tar.gz", "zope-interface"),
            ("a__b-1.0-py3-none-any.whl.metadata", "a-b"),
            ("my-own-thing-1.0.zip", "my-own-thing"),
            ("old_1.0.zip", "old"),
            ("dotted.1.0.zip", "dotted"),
        ] {
            assert!(owners(file).any(|name| name.as_str() == expected), "{file}");
        }
        assert_eq!(owners("six-1.16.0-py2.py3-none-any.whl").next().unwrap().as_str(), "six");
        assert_eq!(owners("none").next(), None);
        assert_eq!(owners("-.-").next(), None);
    }
}
