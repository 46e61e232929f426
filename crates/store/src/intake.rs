//! How blobs come in.
//!
//! A blob comes in as a stream ([`Incoming`]) that is hashed while it is written to a temporary file, is then
//! [`Staged`] under what it turned out to be, and lands together with many others ([`Intake::land`]), in this order:
//! its name noted as arriving, bytes synced, renamed, directories synced, row committed. A crash leaves a temporary
//! file, or the file of a blob that is noted as arriving; opening the store removes both.
//!
//! An intake is also the right to rely on blobs that are here already ([`Intake::find`]): as long as it is open, gc deletes
//! nothing that it may have found.

mod sharing;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rusqlite::{Connection, OptionalExtension as _};
use strandline_durable::{DiskError, Lock, NewFile, children};
use strandline_model::{Blake3, ClaimedSha256, DigestMismatch, Entry, Hasher, MirrorName, Sha256, TreePath};

pub use sharing::Manner;

use crate::blobs::{blob, modified};
use crate::rows::{blake3, execute_each, parsed};
use crate::{Blob, Locked, Mirror, Store, StoreError};

/// How many staged blobs are worth one sync of the whole file system instead of one sync each.
const WORTH_A_SYNCFS: usize = 8;

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
    #[error("it is larger than the limit of {limit} bytes (`max-file-size`, or what is free beside `min-free`)")]
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
    mirror: Mirror,
    access: Access,
    directory: PathBuf,
    next: AtomicU64,
    /// Whether files can be cloned into the store, once it was tried.
    clones: OnceLock<bool>,
    /// Tells others that this process is alive.
    _alive: Lock,
    /// The mirror's lock: blobs come in for a mirror that no other process changes.
    _lock: Arc<Lock>,
}

/// Which mirrors may use the blobs that an intake brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// All of them.
    Public,
    /// Only the mirror that brings them, until another mirror brings the same bytes itself.
    Private,
}

impl Drop for Intake {
    fn drop(&mut self) {
        // After an error the files of blobs may be there that got no row: then this row stays, and the process that opens the
        // store next clears them as after a crash.
        let forget = "DELETE FROM intake WHERE mirror = ?1
            AND NOT EXISTS (SELECT 1 FROM arriving WHERE arriving.mirror = intake.mirror)";
        if let Err(error) = self.mirror.store.execute(forget, [self.mirror.number]) {
            // The process that opens the store next sees that no process is alive behind it.
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
#[must_use = "a staged blob is lost unless it lands"]
pub struct Staged {
    file: Temporary,
    blake3: Blake3,
    sha256: Sha256,
    size: u64,
    /// Whether no process can write to the file any more.
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

    /// Whether these bytes have both of these digests.
    pub fn is(&self, blob: Blake3, sha256: Sha256) -> bool {
        self.blake3 == blob && self.sha256 == sha256
    }

    /// Opens the bytes, to be read.
    pub fn open(&self) -> Result<File, DiskError> {
        File::open(&self.file.path).map_err(|source| DiskError::new("read", &self.file.path, source))
    }

    /// The SHA-256 of the bytes.
    pub fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// The name that the blob will have.
    pub(crate) fn blake3(&self) -> Blake3 {
        self.blake3
    }

    /// The bytes as the content of a path, once they have landed.
    pub fn at(&self, path: TreePath) -> Entry {
        Entry { path, blob: self.blake3, sha256: self.sha256, size: self.size }
    }
}

impl Intake {
    /// Opens the mirror's intake. The mirror stays locked as long as it is open.
    pub fn open(mirror: &Locked, access: Access) -> Result<Self, StoreError> {
        let (lock, mirror, store) = (Arc::clone(&mirror.lock), Mirror::clone(mirror), mirror.store());
        let alive = Lock::share(&store.intake_lock(mirror.name()))?;
        // This process has the mirror's lock, so no other process writes here: files that are there were left by a
        // crash.
        store.clear_intake(&mirror)?;
        let directory = store.incoming(mirror.name());
        store.disk.create_directory(&directory)?;
        store.transaction(|transaction| {
            let began = store.next_in_sequence(transaction)?;
            transaction
                .execute("INSERT OR REPLACE INTO intake (mirror, began) VALUES (?1, ?2)", (mirror.number, began))
                .map_err(store.sql())
        })?;
        let (next, clones) = (AtomicU64::new(0), OnceLock::new());
        Ok(Self { mirror, access, directory, next, clones, _alive: alive, _lock: lock })
    }

    /// The store that blobs come into.
    pub fn store(&self) -> &Arc<Store> {
        &self.mirror.store
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

    /// What the catalog says: each blob, and whether gc may take it. One transaction reads all, because each takes locks of files.
    fn rows(&self, wanted: &[ClaimedSha256]) -> Result<Vec<Option<(Blob, bool)>>, StoreError> {
        self.store().reading(|bodies| {
            let find = || {
                let mut statement = bodies.connection.prepare_cached(
                    "SELECT blake3, sha256, size, mtime, condemned IS NOT NULL FROM blob b WHERE sha256 = ?1 AND deleting = 0
                       AND (public OR EXISTS (SELECT 1 FROM private_blob p WHERE p.blake3 = b.blake3 AND p.mirror = ?2))",
                )?;
                let mut one = |sha256: &ClaimedSha256| {
                    let key = (sha256.as_bytes(), self.mirror.number);
                    statement.query_row(key, |row| Ok((blob(row)?, row.get(4)?))).optional()
                };
                wanted.iter().map(&mut one).collect::<rusqlite::Result<_>>()
            };
            find().map_err(self.store().sql())
        })
    }

    /// The blob, if its file is there and gc does not take it.
    fn usable(&self, blob: Blob, condemned: bool) -> Result<Option<Blob>, StoreError> {
        let store = self.store();
        // A sync fetches a lost file again.
        if modified(&store.blob_path(blob.blake3), blob.size).is_err() {
            return Ok(None);
        }
        if !condemned {
            return Ok(Some(blob));
        }
        // It may have been marked for deletion since it was looked at.
        let pardon = "UPDATE blob SET condemned = NULL, condemned_in = NULL WHERE blake3 = ?1 AND deleting = 0";
        let pardoned = store.execute(pardon, [blob.blake3.as_bytes()])?;
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
        let disk = self.store().disk.clone();
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
    pub fn stage(&self, bytes: &[u8]) -> Result<Staged, DiskError> {
        let disk = self.store().disk.clone();
        let path = self.next_name();
        let mut open = disk.create_file(&path)?;
        let file = Temporary { path, disk, renamed: false };
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        open.write(bytes)?;
        open.protect()?;
        let (blake3, sha256, size) = hasher.finish();
        Ok(Staged { file, blake3, sha256, size, protected: true })
    }

    /// Has the places and rows of blobs looked up side by side, so that landing them need not wait for each. In a store that
    /// has next to nothing yet, there is nothing to wait for.
    pub fn look_ahead(&self, staged: &[Staged]) {
        let places: Vec<_> = staged.iter().map(|staged| self.store().blob_path(staged.blake3)).collect();
        strandline_durable::look_ahead(&places);
        let digests: Vec<_> = staged.iter().map(|staged| (staged.blake3, staged.sha256)).collect();
        self.store().look_ahead_at_blobs(&digests);
    }

    /// Makes all of them durable and records them; returns the blobs in the same order. An error leaves at most files that the
    /// process which opens the store next removes.
    pub fn land(&self, mut staged: Vec<Staged>) -> Result<Vec<Blob>, StoreError> {
        if staged.is_empty() {
            return Ok(Vec::new());
        }
        let store = self.store();
        let first_mtime = store.transaction(|transaction| {
            let note = "INSERT OR IGNORE INTO arriving (mirror, blake3) VALUES (?1, ?2)";
            execute_each(transaction, note, &staged, |staged| (self.mirror.number, *staged.blake3.as_bytes()))
                .map_err(store.sql())?;
            store.take_mtimes(transaction, staged.len() as u64)
        })?;
        let together = staged.len() > WORTH_A_SYNCFS;
        self.sync_bytes(&staged, first_mtime, together)?;

        // Held from the name to the row, so that gc looks at neither in between.
        let _placing = store.hold_deletions()?;
        self.rename(&mut staged, together)?;
        store.transaction(|transaction| {
            let arrived = "DELETE FROM arriving WHERE mirror = ?1 AND blake3 = ?2";
            execute_each(transaction, arrived, &staged, |staged| (self.mirror.number, *staged.blake3.as_bytes()))
                .map_err(store.sql())?;
            (first_mtime..).zip(&staged).map(|(mtime, staged)| self.record(transaction, staged, mtime)).collect()
        })
    }

    /// Gives temporary files the modes and times of blobs, and makes their bytes durable.
    fn sync_bytes(&self, staged: &[Staged], first_mtime: u64, together: bool) -> Result<(), DiskError> {
        let Store { disk, root, .. } = &**self.store();
        for (mtime, staged) in (first_mtime..).zip(staged) {
            if !staged.protected {
                disk.protect(&staged.file.path)?;
            }
            disk.set_time(&staged.file.path, mtime)?;
        }
        if together {
            disk.sync_file_system(root)
        } else {
            staged.iter().try_for_each(|staged| disk.sync_file(&staged.file.path))
        }
    }

    /// Gives temporary files the names of blobs, and makes the names durable.
    fn rename(&self, staged: &mut [Staged], together: bool) -> Result<(), DiskError> {
        let store = self.store();
        // A directory that is there may have been made a moment ago, by a process that has not synced it yet.
        let mut directories = BTreeSet::from([store.root.join("blobs")]);
        for Staged { file, blake3, .. } in staged {
            let path = store.blob_path(*blake3);
            let directory = path.parent().expect("a blob's path has a parent").to_owned();
            if !directories.contains(&directory) {
                store.disk.create_directory(&directory)?;
            }
            // A name that is taken is a blob with the same bytes, already durable: that one stays, because views may
            // have links to it.
            file.renamed = store.disk.rename_new(&file.path, &path)?;
            directories.insert(directory);
        }
        if together {
            store.disk.sync_file_system(&store.root)
        } else {
            directories.iter().try_for_each(|directory| store.disk.sync_directory(directory))
        }
    }

    /// The row of a blob whose file is in its place.
    fn record(&self, connection: &Connection, staged: &Staged, mtime: u64) -> Result<Blob, StoreError> {
        let Staged { file, blake3, sha256, size, .. } = staged;
        let (store, private) = (self.store(), self.access == Access::Private);
        let run = |query: &str| {
            connection
                .prepare_cached(query)
                .and_then(|mut statement| statement.execute([blake3.as_bytes()]))
                .map_err(store.sql())
        };
        if private {
            connection
                .prepare_cached("INSERT OR IGNORE INTO private_blob (blake3, mirror) VALUES (?1, ?2)")
                .and_then(|mut statement| statement.execute((blake3.as_bytes(), self.mirror.number)))
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
        if insert(!private)? == 1 {
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
                if !private && !public {
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
        insert(public || !private)?;
        Ok(new)
    }
}

impl Mirror {
    /// Where root lists of the mirror wait until they are published. Opening the mirror's intake removes them.
    pub fn staged_lists(&self) -> PathBuf {
        self.store.incoming(&self.name).join("lists")
    }
}

impl Store {
    /// The mirrors for which temporary files are there: of syncs that run, or that a crash, a power failure or an error
    /// left, whether or not the catalog knows of them.
    pub(crate) fn with_incoming(&self) -> Result<BTreeSet<MirrorName>, StoreError> {
        let mut found = BTreeSet::new();
        for directory in children(&self.root.join("incoming"))? {
            // A directory that is not named as a mirror is not the store's.
            let mirror = directory.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(mirror) = mirror
                && directory.file_type().is_ok_and(|kind| kind.is_dir())
                && !children(&directory.path())?.is_empty()
            {
                found.insert(mirror);
            }
        }
        Ok(found)
    }

    /// Where what comes in for a mirror is, until it has landed.
    pub(crate) fn incoming(&self, mirror: &MirrorName) -> PathBuf {
        self.root.join("incoming").join(mirror.as_str())
    }

    /// The lock that a process shares which takes blobs in for a mirror.
    pub(crate) fn intake_lock(&self, mirror: &MirrorName) -> PathBuf {
        self.root.join("locks").join(format!("intake-{mirror}"))
    }

    /// Removes what a process has left that died while it took blobs in for a mirror. No process does so now.
    pub(crate) fn clear_intake(&self, mirror: &Mirror) -> Result<(), StoreError> {
        self.disk.remove_tree(&self.incoming(mirror.name()))?;
        let left = "SELECT blake3 FROM arriving WHERE mirror = ?1";
        let left = self.rows(left, [mirror.number], |row| blake3(row, 0))?;
        if left.is_empty() {
            return Ok(());
        }
        let _deleting = self.lock_deletions()?;
        for blob in left {
            let wanted = "SELECT EXISTS (SELECT 1 FROM blob WHERE blake3 = ?1)
                OR EXISTS (SELECT 1 FROM arriving WHERE blake3 = ?1 AND mirror <> ?2)";
            if !self.says(wanted, (blob.as_bytes(), mirror.number))? {
                self.disk.remove_file(&self.blob_path(blob))?;
            }
        }
        self.disk.sync_file_system(&self.root)?;
        self.execute("DELETE FROM arriving WHERE mirror = ?1", [mirror.number]).map(drop)
    }

    /// The mirrors for which a process takes blobs in, or took when it died, each with the number of the sequence with which it began.
    pub(crate) fn intakes(&self) -> Result<BTreeMap<MirrorName, i64>, StoreError> {
        let query = "SELECT m.name, i.began FROM intake i JOIN mirror m ON m.id = i.mirror";
        Ok(self.rows(query, [], |row| Ok((parsed(row, 0)?, row.get(1)?)))?.into_iter().collect())
    }

    /// The number of the sequence with which the oldest of them began.
    pub(crate) fn oldest_intake(&self, connection: &Connection) -> Result<Option<i64>, StoreError> {
        connection.query_row("SELECT min(began) FROM intake", [], |row| row.get(0)).map_err(self.sql())
    }
}
