//! Blobs: bytes that are stored once, named by their BLAKE3.
//!
//! A blob comes in as a stream ([`Incoming`]) that is hashed while it is written to a temporary file, is then
//! [`Staged`] under what it turned out to be, and becomes a blob with many others at once in
//! [`Intake::settle`], in this order: its name noted as arriving, bytes synced, renamed, directories synced, row
//! committed. Whatever a crash leaves is a temporary file or the file of a blob that is noted as arriving; opening the
//! store removes both.
//!
//! An intake is also the right to rely on blobs that are here already ([`Intake::find`]): as long as it is open, gc deletes
//! nothing that it may have found.

mod sharing;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rusqlite::{Connection, OptionalExtension as _};
use strandline_durable::{DiskError, Lock, NewFile};
use strandline_model::{Blake3, ClaimedSha256, DigestMismatch, Entry, Hasher, MirrorName, Sha256, TreePath};

pub use sharing::Manner;

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
    /// The file on this machine that they were to come from cannot be read.
    #[error(transparent)]
    Unreadable(DiskError),
}

/// Where a running sync of one mirror puts what it fetches, and finds what is here already. It stays open until the
/// snapshot that names those blobs is committed.
#[derive(Debug)]
pub struct Intake {
    store: Arc<Store>,
    mirror: MirrorName,
    /// Whether what comes in is for this mirror alone, until another one brings the same bytes itself.
    private: bool,
    directory: PathBuf,
    next: AtomicU64,
    /// Whether files can be cloned into the store, once it was tried.
    clones: OnceLock<bool>,
    /// Tells others that this process is alive.
    _alive: Lock,
}

impl Drop for Intake {
    fn drop(&mut self) {
        // After an error the files of blobs may be there that got no row: then this row stays, and whoever opens the store
        // next clears them as after a crash.
        let forgotten = self.store.transaction(|transaction| {
            transaction
                .execute(
                    "DELETE FROM intake WHERE mirror = ?1
                     AND NOT EXISTS (SELECT 1 FROM arriving WHERE arriving.mirror = intake.mirror)",
                    [self.mirror.as_str()],
                )
                .map_err(self.store.sql())
        });
        if let Err(error) = forgotten {
            // Whoever opens the store next sees that nobody is alive behind it.
            tracing::debug!(%error, "the intake's row stays");
        }
    }
}

/// A blob that is coming in. Dropping it removes what came.
#[derive(Debug)]
pub struct Incoming {
    open: NewFile,
    file: Temporary,
    hasher: Hasher,
    claim: Option<ClaimedSha256>,
    size: Option<u64>,
    most: u64,
}

/// A blob that came in whole and is what was claimed. It is not durable yet; dropping it removes it. Its file is not open:
/// thousands of them wait for their batch.
#[derive(Debug)]
#[must_use = "a staged blob is lost unless it is settled"]
pub struct Staged {
    file: Temporary,
    blake3: Blake3,
    sha256: Sha256,
    size: u64,
    /// Whether nobody can write to the file any more.
    protected: bool,
}

/// A temporary file that is removed unless it was renamed away.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    disk: strandline_durable::Disk,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed
            && let Err(error) = self.disk.remove_file(&self.path)
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
        Ok(self.open.write(bytes)?)
    }

    /// Ends the stream; an error when it is not what was claimed.
    pub fn finish(self) -> Result<Staged, ReceiveError> {
        let Self { mut open, file, hasher, claim, size: expected, .. } = self;
        let (blake3, sha256, size) = hasher.finish();
        if let Some(expected) = expected.filter(|expected| size < *expected) {
            return Err(ReceiveError::TooShort { expected, actual: size });
        }
        let sha256 = match claim {
            Some(claim) => claim.confirm(sha256)?,
            None => sha256,
        };
        open.protect()?;
        Ok(Staged { file, blake3, sha256, size, protected: true })
    }
}

impl Staged {
    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes as the content of a path, once they are settled.
    pub fn at(&self, path: TreePath) -> Entry {
        Entry { path, blob: self.blake3, sha256: self.sha256, size: self.size }
    }
}

impl Intake {
    /// Opens the mirror's intake.
    pub fn open(store: Arc<Store>, mirror: &MirrorName, lock: &MirrorLock) -> Result<Self, StoreError> {
        Self::begin(store, mirror, false, lock)
    }

    /// Opens the intake of a private mirror: what comes in is for this mirror alone.
    pub fn open_private(store: Arc<Store>, mirror: &MirrorName, lock: &MirrorLock) -> Result<Self, StoreError> {
        Self::begin(store, mirror, true, lock)
    }

    fn begin(store: Arc<Store>, mirror: &MirrorName, private: bool, _lock: &MirrorLock) -> Result<Self, StoreError> {
        let alive = Lock::share(&store.intake_lock(mirror))?;
        // Whoever has the mirror's lock is the only one here: what is there was left by a crash.
        store.clear_intake(mirror)?;
        let directory = store.incoming(mirror);
        store.disk.create_directory(&directory)?;
        store.transaction(|transaction| {
            let began = store.next_in_sequence(transaction)?;
            transaction
                .execute("INSERT OR REPLACE INTO intake (mirror, began) VALUES (?1, ?2)", (mirror.as_str(), began))
                .map_err(store.sql())
        })?;
        Ok(Self {
            store,
            mirror: mirror.clone(),
            private,
            directory,
            next: AtomicU64::new(0),
            clones: OnceLock::new(),
            _alive: alive,
        })
    }

    /// Where what comes in goes.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The blob with this SHA-256, if the store has it and this mirror may use it: one that only private mirrors have
    /// brought is theirs. It stays as long as the intake is open.
    pub fn find(&self, sha256: ClaimedSha256) -> Result<Option<Blob>, StoreError> {
        Ok(self.find_all(&[sha256])?.pop().flatten())
    }

    /// As [`find`](Self::find), for many at once, in the same order.
    pub fn find_all(&self, wanted: &[ClaimedSha256]) -> Result<Vec<Option<Blob>>, StoreError> {
        let rows = self.rows(wanted)?;
        rows.into_iter().map(|row| row.map_or(Ok(None), |(blob, condemned)| self.usable(blob, condemned))).collect()
    }

    /// What the catalog says: each blob, and whether gc may take it. One transaction reads all, for each takes locks of files.
    fn rows(&self, wanted: &[ClaimedSha256]) -> Result<Vec<Option<(Blob, bool)>>, StoreError> {
        self.store.reading(|bodies| {
            let find = || {
                let mut statement = bodies.connection.prepare_cached(
                    "SELECT blake3, sha256, size, mtime, condemned IS NOT NULL FROM blob b WHERE sha256 = ?1 AND deleting = 0
                       AND (public OR EXISTS (SELECT 1 FROM private_blob p WHERE p.blake3 = b.blake3 AND p.mirror = ?2))",
                )?;
                let mut one = |sha256: &ClaimedSha256| {
                    let key = (sha256.as_bytes(), self.mirror.as_str());
                    statement.query_row(key, |row| Ok((blob(row)?, row.get(4)?))).optional()
                };
                wanted.iter().map(&mut one).collect::<rusqlite::Result<_>>()
            };
            find().map_err(self.store.sql())
        })
    }

    /// The blob, if its file is there and gc does not take it.
    fn usable(&self, blob: Blob, condemned: bool) -> Result<Option<Blob>, StoreError> {
        let store = &self.store;
        // What is lost comes in again.
        if modified(&store.blob_path(blob.blake3), blob.size).is_err() {
            return Ok(None);
        }
        if !condemned {
            return Ok(Some(blob));
        }
        // It may have been marked for deletion since it was looked at.
        let pardoned = store.transaction(|transaction| {
            transaction
                .execute(
                    "UPDATE blob SET condemned = NULL, condemned_in = NULL WHERE blake3 = ?1 AND deleting = 0",
                    [blob.blake3.as_bytes()],
                )
                .map_err(store.sql())
        })?;
        Ok((pardoned > 0).then_some(blob))
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
        let disk = self.store.disk.clone();
        let path = self.next_name();
        let open = disk.create_file(&path)?;
        let file = Temporary { path, disk, renamed: false };
        Ok(Incoming { open, file, hasher: Hasher::default(), claim, size, most })
    }

    /// A name for a temporary file that no other has.
    fn next_name(&self) -> PathBuf {
        self.directory.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Stages bytes that are in memory already.
    pub fn stage(&self, bytes: &[u8]) -> Result<Staged, ReceiveError> {
        let mut incoming = self.receive(None, None, u64::MAX)?;
        incoming.write(bytes)?;
        incoming.finish()
    }

    /// Has the places and rows of blobs looked up side by side, so that settling them need not wait for each. In a store that
    /// has next to nothing yet, there is nothing to wait for.
    pub fn look_ahead(&self, staged: &[Staged]) {
        let places: Vec<_> = staged.iter().map(|staged| self.store.blob_path(staged.blake3)).collect();
        strandline_durable::look_ahead(&places);
        let digests: Vec<_> = staged.iter().map(|staged| (staged.blake3, staged.sha256)).collect();
        self.store.look_ahead_at_blobs(&digests);
    }

    /// Makes all of them durable and records them; returns the blobs in the same order.
    pub fn settle(&self, mut staged: Vec<Staged>) -> Result<Vec<Blob>, StoreError> {
        let disk = &self.store.disk;
        if staged.is_empty() {
            return Ok(Vec::new());
        }
        let first_mtime = self.store.transaction(|transaction| {
            let mut note = transaction
                .prepare_cached("INSERT OR IGNORE INTO arriving (mirror, blake3) VALUES (?1, ?2)")
                .map_err(self.store.sql())?;
            for Staged { blake3, .. } in &staged {
                note.execute((self.mirror.as_str(), blake3.as_bytes())).map_err(self.store.sql())?;
            }
            self.store.take_mtimes(transaction, staged.len() as u64)
        })?;

        for (mtime, staged) in (first_mtime..).zip(&staged) {
            if !staged.protected {
                disk.protect(&staged.file.path)?;
            }
            disk.set_time(&staged.file.path, mtime)?;
        }
        let all_at_once = staged.len() > WORTH_A_SYNCFS;
        if all_at_once {
            disk.sync_file_system(&self.store.root)?;
        } else {
            for staged in &staged {
                disk.sync_file(&staged.file.path)?;
            }
        }

        // From the name to the row: gc does not look at either in between.
        let _placing = self.store.hold_deletions()?;
        // A directory that is there may have been made a moment ago, by a process that has not synced it yet.
        let mut directories = BTreeSet::from([self.store.root.join("blobs")]);
        for Staged { file, blake3, .. } in &mut staged {
            let path = self.store.blob_path(*blake3);
            let directory = path.parent().expect("a blob's path has a parent").to_owned();
            if !directories.contains(&directory) {
                disk.create_directory(&directory)?;
            }
            // A name that is taken is a blob with the same bytes, already durable: that one stays, since views may
            // have links to it.
            file.renamed = disk.rename_new(&file.path, &path)?;
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
            let mut arrived = transaction
                .prepare_cached("DELETE FROM arriving WHERE mirror = ?1 AND blake3 = ?2")
                .map_err(self.store.sql())?;
            let record = |(mtime, staged): (u64, &Staged)| {
                arrived.execute((self.mirror.as_str(), staged.blake3.as_bytes())).map_err(self.store.sql())?;
                self.record(transaction, staged, mtime)
            };
            (first_mtime..).zip(&staged).map(record).collect()
        })
    }

    /// The row of a blob whose file is in its place.
    fn record(&self, connection: &Connection, staged: &Staged, mtime: u64) -> Result<Blob, StoreError> {
        let Staged { file, blake3, sha256, size, .. } = staged;
        let store = &self.store;
        let run = |query: &str| {
            connection
                .prepare_cached(query)
                .and_then(|mut statement| statement.execute([blake3.as_bytes()]))
                .map_err(store.sql())
        };
        if self.private {
            connection
                .prepare_cached("INSERT OR IGNORE INTO private_blob (blake3, mirror) VALUES (?1, ?2)")
                .and_then(|mut statement| statement.execute((blake3.as_bytes(), self.mirror.as_str())))
                .map_err(store.sql())?;
        }
        // If the name was taken, the file is another one, with its own time.
        let mtime = if file.renamed { mtime } else { modified(&store.blob_path(*blake3), *size)? };
        let new = Blob { blake3: *blake3, sha256: *sha256, size: *size, mtime };
        let insert = |public: bool| {
            connection
                .prepare_cached(
                    "INSERT INTO blob (blake3, sha256, size, mtime, public) SELECT ?1, ?2, ?3, ?4, ?5
                     WHERE NOT EXISTS (SELECT 1 FROM blob WHERE blake3 = ?1)",
                )
                .and_then(|mut statement| {
                    let Blob { blake3, sha256, size, mtime } = &new;
                    statement.execute((blake3.as_bytes(), sha256.as_bytes(), size, mtime, public))
                })
                .map_err(store.sql())
        };
        if insert(!self.private)? == 1 {
            return Ok(new);
        }
        // A row that an interrupted collection left says nothing of the file that is there now.
        run("DELETE FROM blob WHERE blake3 = ?1 AND deleting = 1")?;
        let found = connection
            .prepare_cached("SELECT blake3, sha256, size, mtime, public FROM blob WHERE blake3 = ?1")
            .and_then(|mut statement| {
                statement.query_row([blake3.as_bytes()], |row| Ok((blob(row)?, row.get::<_, bool>(4)?))).optional()
            })
            .map_err(store.sql())?;
        let public = match found {
            Some((found, public)) if found == new => {
                run(
                    "UPDATE blob SET condemned = NULL, condemned_in = NULL WHERE blake3 = ?1 AND condemned IS NOT NULL",
                )?;
                if !self.private && !public {
                    run("UPDATE blob SET public = 1 WHERE blake3 = ?1")?;
                }
                return Ok(new);
            }
            // Its file was lost, and has come in again.
            Some((_, public)) => {
                run("DELETE FROM blob WHERE blake3 = ?1")?;
                public
            }
            None => false,
        };
        insert(public || !self.private)?;
        Ok(new)
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

    /// The blob with this name, if the catalog has it.
    pub fn find_blob_row(&self, blake3: Blake3) -> Result<Option<Blob>, StoreError> {
        Ok(self.blob_rows(&[blake3])?.pop().flatten())
    }

    /// As [`find_blob_row`](Self::find_blob_row), for many at once, in the same order.
    pub(crate) fn blob_rows(&self, wanted: &[Blake3]) -> Result<Vec<Option<Blob>>, StoreError> {
        let query = "SELECT blake3, sha256, size, mtime FROM blob WHERE blake3 = ?1 AND deleting = 0";
        self.look_up(query, wanted, |statement, blake3| statement.query_row([blake3.as_bytes()], blob).optional())
    }

    /// The mirrors for which temporary files are there: of syncs that run, or that a crash, a power failure or an error
    /// left, whether or not the catalog knows of them.
    pub(crate) fn with_incoming(&self) -> Result<BTreeSet<MirrorName>, StoreError> {
        let directory = self.root.join("incoming");
        let list = || {
            let mut found = BTreeSet::new();
            for child in std::fs::read_dir(&directory)? {
                let child = child?;
                let something = std::fs::read_dir(child.path()).is_ok_and(|mut files| files.next().is_some());
                // What is called otherwise is not ours.
                found.extend(child.file_name().to_str().filter(|_| something).and_then(|name| name.parse().ok()));
            }
            Ok(found)
        };
        Ok(list().map_err(|source| DiskError::new("list", &directory, source))?)
    }

    /// Where root lists of a mirror wait until they are published. Whoever opens the mirror's intake removes them.
    pub fn staged_lists(&self, mirror: &MirrorName) -> PathBuf {
        self.incoming(mirror).join("lists")
    }

    /// Where what comes in for a mirror is, until it is settled.
    pub(crate) fn incoming(&self, mirror: &MirrorName) -> PathBuf {
        self.root.join("incoming").join(mirror.as_str())
    }

    /// The lock that whoever takes blobs in for a mirror shares.
    pub(crate) fn intake_lock(&self, mirror: &MirrorName) -> PathBuf {
        self.root.join("locks").join(format!("intake-{mirror}"))
    }

    /// Removes what a process has left that died while it took blobs in for a mirror. Nobody does so now.
    pub(crate) fn clear_intake(&self, mirror: &MirrorName) -> Result<(), StoreError> {
        self.disk.remove_tree(&self.incoming(mirror))?;
        let left: Vec<[u8; 32]> = self
            .connection()
            .prepare_cached("SELECT blake3 FROM arriving WHERE mirror = ?1")
            .and_then(|mut statement| statement.query_map([mirror.as_str()], |row| row.get(0))?.collect())
            .map_err(self.sql())?;
        if left.is_empty() {
            return Ok(());
        }
        let _deleting = self.lock_deletions()?;
        for blake3 in left {
            let wanted: bool = self
                .connection()
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM blob WHERE blake3 = ?1)
                       OR EXISTS (SELECT 1 FROM arriving WHERE blake3 = ?1 AND mirror <> ?2)",
                )
                .and_then(|mut statement| statement.query_row((blake3, mirror.as_str()), |row| row.get(0)))
                .map_err(self.sql())?;
            if !wanted {
                self.disk.remove_file(&self.blob_path(Blake3::from_stored(blake3)))?;
            }
        }
        self.disk.sync_file_system(&self.root)?;
        self.transaction(|transaction| {
            transaction.execute("DELETE FROM arriving WHERE mirror = ?1", [mirror.as_str()]).map_err(self.sql())
        })?;
        Ok(())
    }

    /// Takes `count` times of modification that no file of this store has had; returns the first.
    pub fn allocate_mtimes(&self, count: u64) -> Result<u64, StoreError> {
        self.transaction(|transaction| self.take_mtimes(transaction, count))
    }

    fn take_mtimes(&self, connection: &Connection, count: u64) -> Result<u64, StoreError> {
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
