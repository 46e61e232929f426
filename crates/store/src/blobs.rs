//! Blobs: bytes that are stored once, named by their BLAKE3.
//!
//! A blob comes in as a stream ([`Incoming`]) that is hashed while it is written to a temporary file, is then
//! [`Staged`] under what it turned out to be, and becomes a blob with many others at once in
//! [`Intake::settle`], in this order: bytes synced, renamed, directories synced, rows committed. Whatever a
//! crash leaves is a temporary file, which the next [`Intake`] removes, or a durable blob without a row, which
//! the next one with the same bytes adopts.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, OptionalExtension as _};
use strandline_durable::{DiskError, NewFile};
use strandline_model::{Blake3, ClaimedSha256, DigestMismatch, Entry, Hasher, MirrorName, Sha256, TreePath};

use crate::{MirrorLock, Store, StoreError};

/// How many staged blobs are worth one sync of the whole file system instead of one sync each.
const WORTH_A_SYNCFS: usize = 8;

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

/// Bytes were not taken. Nothing is kept of them.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// More came than should.
    #[error("expected {expected} bytes, got more")]
    TooLong {
        /// The claimed size.
        expected: u64,
    },
    /// It is larger than what is taken at all.
    #[error("it is larger than the limit of {limit} bytes (`max-file-size`)")]
    OverLimit {
        /// In bytes.
        limit: u64,
    },
    /// Less came than should.
    #[error("expected {expected} bytes, got {actual}")]
    TooShort {
        /// The claimed size.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// Other bytes came than should.
    #[error(transparent)]
    Digest(#[from] DigestMismatch),
    /// They could not be written.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Where a running sync of one mirror puts what it fetches.
#[derive(Debug)]
pub struct Intake {
    store: Arc<Store>,
    directory: PathBuf,
    next: AtomicU64,
}

/// A blob that is coming in. Dropping it removes what came.
#[derive(Debug)]
pub struct Incoming {
    file: Temporary,
    hasher: Hasher,
    claim: Option<ClaimedSha256>,
    size: Option<u64>,
    most: u64,
}

/// A blob that came in whole and is what was claimed. It is not durable yet; dropping it removes it.
#[derive(Debug)]
#[must_use = "a staged blob is lost unless it is settled"]
pub struct Staged {
    file: Temporary,
    blake3: Blake3,
    sha256: Sha256,
    size: u64,
}

/// A temporary file that is removed unless it was renamed away.
#[derive(Debug)]
struct Temporary {
    file: NewFile,
    disk: strandline_durable::Disk,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed
            && let Err(error) = self.disk.remove_file(self.file.path())
        {
            // It is removed at the latest when the next sync of the mirror begins.
            tracing::debug!(%error, "a temporary file stays");
        }
    }
}

impl Incoming {
    /// Takes the next bytes; an error as soon as there are more than there should be.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ReceiveError> {
        let size = self.hasher.size() + bytes.len() as u64;
        if size > self.most {
            return Err(ReceiveError::OverLimit { limit: self.most });
        }
        if let Some(expected) = self.size.filter(|expected| size > *expected) {
            return Err(ReceiveError::TooLong { expected });
        }
        self.hasher.update(bytes);
        Ok(self.file.file.write(bytes)?)
    }

    /// Ends the stream; an error when it is not what was claimed.
    pub fn finish(self) -> Result<Staged, ReceiveError> {
        let Self { file, hasher, claim, size: expected, .. } = self;
        let (blake3, sha256, size) = hasher.finish();
        if let Some(expected) = expected.filter(|expected| size < *expected) {
            return Err(ReceiveError::TooShort { expected, actual: size });
        }
        let sha256 = match claim {
            Some(claim) => claim.confirm(sha256)?,
            None => sha256,
        };
        Ok(Staged { file, blake3, sha256, size })
    }
}

impl Staged {
    /// The bytes as the content of a path, once they are settled.
    pub fn at(&self, path: TreePath) -> Entry {
        Entry { path, blob: self.blake3, sha256: self.sha256, size: self.size }
    }
}

impl Intake {
    /// Opens the mirror's intake and removes what an earlier sync left there.
    pub fn open(store: Arc<Store>, mirror: &MirrorName, _lock: &MirrorLock) -> Result<Self, StoreError> {
        let directory = store.root.join("incoming").join(mirror.as_str());
        store.disk.remove_tree(&directory)?;
        store.disk.create_directory(&directory)?;
        Ok(Self { store, directory, next: AtomicU64::new(0) })
    }

    /// Begins a blob that should have this digest and size, if they are known, and at most `most` bytes.
    pub fn receive(
        &self,
        claim: Option<ClaimedSha256>,
        size: Option<u64>,
        most: u64,
    ) -> Result<Incoming, ReceiveError> {
        if size.is_some_and(|size| size > most) {
            return Err(ReceiveError::OverLimit { limit: most });
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let disk = self.store.disk.clone();
        let file = disk.create_file(&self.directory.join(number.to_string()))?;
        let file = Temporary { file, disk, renamed: false };
        Ok(Incoming { file, hasher: Hasher::default(), claim, size, most })
    }

    /// Stages bytes that are in memory already.
    pub fn stage(&self, bytes: &[u8]) -> Result<Staged, ReceiveError> {
        let mut incoming = self.receive(None, None, u64::MAX)?;
        incoming.write(bytes)?;
        incoming.finish()
    }

    /// Makes all of them durable and records them; returns the blobs in the same order.
    pub fn settle(&self, mut staged: Vec<Staged>) -> Result<Vec<Blob>, StoreError> {
        let disk = &self.store.disk;
        if staged.is_empty() {
            return Ok(Vec::new());
        }
        let first_mtime = self.store.allocate_mtimes(staged.len() as u64)?;

        for (mtime, staged) in (first_mtime..).zip(&mut staged) {
            staged.file.file.seal(mtime)?;
        }
        let all_at_once = staged.len() > WORTH_A_SYNCFS;
        if all_at_once {
            disk.sync_file_system(&self.store.root)?;
        } else {
            for staged in &mut staged {
                staged.file.file.sync()?;
            }
        }

        // A directory that is there may have been made a moment ago, by a process that has not synced it yet.
        let mut directories = BTreeSet::from([self.store.root.join("blobs")]);
        for Staged { file, blake3, .. } in &mut staged {
            let path = self.store.blob_path(*blake3);
            let directory = path.parent().expect("a blob's path has a parent").to_owned();
            disk.create_directory(&directory)?;
            // A name that is taken is a blob with the same bytes, already durable: that one stays, since views may
            // have links to it.
            file.renamed = disk.rename_new(file.file.path(), &path)?;
            directories.insert(directory);
        }
        if all_at_once {
            disk.sync_file_system(&self.store.root)?;
        } else {
            for directory in directories {
                disk.sync_directory(&directory)?;
            }
        }

        self.store.transaction(|transaction| {
            staged.iter().map(|staged| self.store.record_blob(transaction, staged)).collect()
        })
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

    /// The blob with this SHA-256, if the store has it. One that gc had condemned is wanted again from now on, so
    /// the caller holds a [`MirrorLock`].
    pub fn find_by_sha256(&self, sha256: ClaimedSha256) -> Result<Option<Blob>, StoreError> {
        self.find_blob("sha256", sha256.as_bytes())
    }

    /// The blob with this name, if the catalog has it; as [`find_by_sha256`](Self::find_by_sha256).
    pub fn find_blob_row(&self, blob: Blake3) -> Result<Option<Blob>, StoreError> {
        self.find_blob("blake3", blob.as_bytes())
    }

    fn find_blob(&self, column: &str, digest: &[u8; 32]) -> Result<Option<Blob>, StoreError> {
        let found = {
            let connection = self.connection();
            connection
                .prepare_cached(&format!(
                    "SELECT blake3, sha256, size, mtime, condemned FROM blob WHERE {column} = ?1 AND deleting = 0"
                ))
                .and_then(|mut statement| {
                    statement.query_row([digest], |row| Ok((blob(row)?, row.get::<_, Option<i64>>(4)?))).optional()
                })
                .map_err(self.sql())?
        };
        let Some((blob, condemned)) = found else { return Ok(None) };
        if condemned.is_some() {
            self.transaction(|transaction| {
                transaction
                    .execute("UPDATE blob SET condemned = NULL WHERE blake3 = ?1", [blob.blake3.as_bytes()])
                    .map_err(self.sql())
            })?;
        }
        Ok(Some(blob))
    }

    /// Takes `count` times of modification that no file of this store has had; returns the first.
    pub fn allocate_mtimes(&self, count: u64) -> Result<u64, StoreError> {
        self.transaction(|transaction| {
            transaction
                .query_row("UPDATE next_mtime SET value = value + ?1 RETURNING value - ?1", [count], |row| row.get(0))
                .map_err(self.sql())
        })
    }

    fn record_blob(&self, connection: &Connection, staged: &Staged) -> Result<Blob, StoreError> {
        let Staged { blake3, sha256, size, .. } = staged;
        // A row that an interrupted collection left says nothing of the file that is there now.
        connection
            .prepare_cached("DELETE FROM blob WHERE blake3 = ?1 AND deleting = 1")
            .and_then(|mut statement| statement.execute([blake3.as_bytes()]))
            .map_err(self.sql())?;
        if let Some(found) = connection
            .prepare_cached("SELECT blake3, sha256, size, mtime FROM blob WHERE blake3 = ?1")
            .and_then(|mut statement| statement.query_row([blake3.as_bytes()], blob).optional())
            .map_err(self.sql())?
        {
            connection
                .prepare_cached("UPDATE blob SET condemned = NULL WHERE blake3 = ?1")
                .and_then(|mut statement| statement.execute([blake3.as_bytes()]))
                .map_err(self.sql())?;
            return Ok(found);
        }
        // The time is read back from the file: it is another one if the name was taken.
        let mtime = modified(&self.blob_path(*blake3), *size)?;
        let new = Blob { blake3: *blake3, sha256: *sha256, size: *size, mtime };
        connection
            .prepare_cached("INSERT INTO blob (blake3, sha256, size, mtime) VALUES (?1, ?2, ?3, ?4)")
            .and_then(|mut statement| {
                statement.execute((new.blake3.as_bytes(), new.sha256.as_bytes(), new.size, new.mtime))
            })
            .map_err(self.sql())?;
        Ok(new)
    }
}

/// The time of modification of a file that must have this size.
fn modified(path: &Path, size: u64) -> Result<u64, DiskError> {
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
    let digest = |column: usize| {
        let stored = row.get::<_, [u8; 32]>(column)?;
        Ok::<_, rusqlite::Error>(stored)
    };
    Ok(Blob {
        blake3: Blake3::from_stored(digest(0)?),
        sha256: Sha256::from_stored(digest(1)?),
        size: row.get(2)?,
        mtime: row.get(3)?,
    })
}
