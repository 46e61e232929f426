//! Blobs: bytes that are stored once, named by their BLAKE3. [`Intake`](crate::Intake) says how they come in.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _};
use strandline_durable::DiskError;
use strandline_model::{Blake3, Entry, Sha256, TreePath};

use crate::rows::{blake3, sha256};
use crate::{Store, StoreError};

/// A blob that is durable and in the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// Its name.
    pub blake3: Blake3,
    /// Its SHA-256, computed.
    pub sha256: Sha256,
    /// In bytes.
    pub size: u64,
    /// The time of modification of its file, in seconds since 1970: no other file of the store has it.
    pub mtime: u64,
}

impl Blob {
    /// The blob as the content of a path.
    pub fn at(&self, path: TreePath) -> Entry {
        Entry { path, blob: self.blake3, sha256: self.sha256, size: self.size }
    }
}

impl Store {
    /// Where the file of a blob is, if there is such a blob.
    pub fn blob_path(&self, blob: Blake3) -> PathBuf {
        let name = blob.to_string();
        self.root.join("blobs").join(&name[..2]).join(&name[2..])
    }

    /// Opens the bytes of a blob.
    pub fn open_blob(&self, blob: Blake3) -> Result<File, StoreError> {
        let path = self.blob_path(blob);
        Ok(File::open(&path).map_err(|source| DiskError::new("read", &path, source))?)
    }

    /// Reads the bytes of a blob, checked against its name.
    pub fn read_blob(&self, blob: Blake3) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(blob);
        let bytes = std::fs::read(&path).map_err(|source| DiskError::new("read", &path, source))?;
        if Blake3::of(&bytes) == blob {
            Ok(bytes)
        } else {
            let source = io::Error::new(io::ErrorKind::InvalidData, "its bytes have another hash");
            Err(DiskError::new("use the damaged blob", &path, source).into())
        }
    }

    /// The blob with this SHA-256, if the catalog has it, no matter which mirror brought it. It tells what was there;
    /// whether a mirror may use the blob, it does not say.
    pub fn blob_of(&self, sha256: Sha256) -> Result<Option<Blob>, StoreError> {
        let query = "SELECT blake3, sha256, size, mtime FROM blob WHERE sha256 = ?1 AND deleting = 0";
        self.row(query, [sha256.as_bytes()], blob)
    }

    /// The blob with this name, if the catalog has it.
    pub fn find_blob_row(&self, blake3: Blake3) -> Result<Option<Blob>, StoreError> {
        Ok(self.blob_rows(&[blake3])?.pop().flatten())
    }

    /// As [`find_blob_row`](Self::find_blob_row), for many at once, in the same order.
    pub(crate) fn blob_rows(&self, wanted: &[Blake3]) -> Result<Vec<Option<Blob>>, StoreError> {
        let query = "SELECT blake3, sha256, size, mtime FROM blob WHERE blake3 = ?1 AND deleting = 0";
        self.look_up(query, wanted, |statement, blake3| statement.query_row([blake3.as_bytes()], blob).optional())
    }

    /// Takes `count` times of modification that no file of this store has had; returns the first.
    pub fn allocate_mtimes(&self, count: u64) -> Result<u64, StoreError> {
        self.transaction(|transaction| self.take_mtimes(transaction, count))
    }

    pub(crate) fn take_mtimes(&self, connection: &Connection, count: u64) -> Result<u64, StoreError> {
        connection
            .query_row("UPDATE next_mtime SET value = value + ?1 RETURNING value - ?1", [count], |row| row.get(0))
            .map_err(self.sql())
    }

    /// The next number of the sequence.
    pub(crate) fn next_in_sequence(&self, connection: &Connection) -> Result<i64, StoreError> {
        connection
            .query_row("UPDATE sequence SET value = value + 1 RETURNING value", [], |row| row.get(0))
            .map_err(self.sql())
    }
}

/// The time of modification of a file that must have this size.
pub(crate) fn modified(path: &Path, size: u64) -> Result<u64, DiskError> {
    let fail = |source| DiskError::new("use the blob", path, source);
    let metadata = std::fs::metadata(path).map_err(fail)?;
    match u64::try_from(metadata.mtime()) {
        Ok(mtime) if metadata.len() == size => Ok(mtime),
        _ => Err(fail(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it should have {size} bytes and has {}", metadata.len()),
        ))),
    }
}

/// Reads the columns blake3, sha256, size, mtime.
pub(crate) fn blob(row: &rusqlite::Row<'_>) -> rusqlite::Result<Blob> {
    Ok(Blob { blake3: blake3(row, 0)?, sha256: sha256(row, 1)?, size: row.get(2)?, mtime: row.get(3)? })
}
