//! Blobs, the catalog, commit, verify, retention and garbage collection.
//!
//! These hold whichever line the power fails on:
//!
//! 1. A blob's name is the BLAKE3 of its bytes, and nothing is renamed to that name before its bytes are
//!    durable.
//! 2. A committed snapshot names only durable blobs, and never changes: triggers in the catalog refuse it.
//! 3. A blob is deleted only after no retained snapshot, no running sync and no view names it.
//! 4. The catalog is the truth: opening the store finishes or undoes what was under way.
//!
//! So writers go blob, row, manifest, view, and [`gc`] goes the other way. `tests/` has a test for each number.

mod blobs;
mod bodies;
mod catalog;
mod commit;
pub mod gc;
mod listing;
mod mirrors;
mod removal;
mod twins;
pub mod verify;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use strandline_durable::{Disk, DiskError, Lock, LockError};
use strandline_model::trie::Branches;
use strandline_model::{BadBody, Blake3, MirrorName};

pub use blobs::{Blob, Incoming, Intake, ReceiveError, Staged};
pub use bodies::Differences;
pub use commit::{Committed, Draft, DraftUnit, Verified, VerifyError};
pub use mirrors::{CutReport, LastSync, MirrorRow, MirrorUsage, Recorded, SeenPage, SelectError, Usage, Validation};
pub use twins::{Slot, Twin, ViewState};

/// A store: a directory with the catalog, all blobs, and the views of its mirrors.
///
/// Cheap to open; each instance has one connection to the catalog, which its methods take turns to use.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    disk: Disk,
    catalog: Mutex<Connection>,
    /// Nodes of trees that were read a moment ago.
    branches: Mutex<Branches>,
}

/// Something could not be read from or written to the store. What was committed before still is.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite said no.
    #[error("cannot use the catalog `{}`", path.display())]
    Catalog {
        /// The catalog.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The catalog was written by a later version of this program, or is not one of its catalogs.
    #[error("the catalog `{}` {problem}", path.display())]
    Foreign {
        /// The catalog.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The catalog lacks a body that it should have, or has other bytes under its id.
    #[error("the catalog's body {id} {problem}; run `strandline verify`")]
    Damaged {
        /// The id.
        id: Blake3,
        /// What is wrong with it.
        problem: String,
    },
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Somebody else is at work.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl StoreError {
    fn damaged(id: Blake3, problem: &BadBody) -> Self {
        Self::Damaged { id, problem: format!("is damaged: {problem}") }
    }
}

/// The right to change a mirror: one process has it.
#[derive(Debug)]
pub struct MirrorLock {
    _mirror: Lock,
}

impl Store {
    /// Opens the store at `root`; creates it if it is not there, and finishes what a crash left half done.
    pub fn open(root: &Path, disk: Disk) -> Result<Self, StoreError> {
        for directory in ["blobs", "incoming", "locks", "views"] {
            disk.create_directory(&root.join(directory))?;
        }
        let catalog = catalog::open(&root.join(CATALOG), &disk)?;
        let store = Self { root: root.to_owned(), disk, catalog: Mutex::new(catalog), branches: Mutex::default() };
        gc::finish(&store)?;
        Ok(store)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The disk it writes to.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Where the views of a mirror stand.
    pub fn view_directory(&self, mirror: &MirrorName) -> PathBuf {
        self.root.join("views").join(mirror.as_str())
    }

    /// Takes the right to change a mirror, and finishes what whoever had it before left half done. `since` is the time now,
    /// for others' error messages.
    pub fn lock_mirror(&self, mirror: &MirrorName, since: &str) -> Result<MirrorLock, StoreError> {
        let lock = Lock::take(&self.mirror_lock(mirror), &format!("mirror `{mirror}`"), since)?;
        self.take_over(mirror, lock)
    }

    /// As [`lock_mirror`](Self::lock_mirror), but waits until the right can be had.
    pub fn wait_for_mirror(&self, mirror: &MirrorName, since: &str) -> Result<MirrorLock, StoreError> {
        let lock = Lock::wait(&self.mirror_lock(mirror), since)?;
        self.take_over(mirror, lock)
    }

    fn mirror_lock(&self, mirror: &MirrorName) -> PathBuf {
        self.root.join("locks").join(format!("mirror-{mirror}"))
    }

    fn take_over(&self, mirror: &MirrorName, lock: Lock) -> Result<MirrorLock, StoreError> {
        let lock = MirrorLock { _mirror: lock };
        self.finish_removal(mirror, &lock)?;
        self.finish_commits(mirror, &lock)?;
        Ok(lock)
    }

    /// As long as this is held, nothing is deleted: for whoever looks at what is there and goes by it.
    pub fn hold_deletions(&self) -> Result<Lock, LockError> {
        Lock::share(&self.root.join("locks/deletion"))
    }

    /// The right to delete for a moment.
    fn lock_deletions(&self) -> Result<Lock, LockError> {
        Lock::alone(&self.root.join("locks/deletion"))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic in another thread leaves no transaction open: dropping it rolls it back.
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sql(&self) -> impl Fn(rusqlite::Error) -> StoreError + '_ {
        |source| StoreError::Catalog { path: self.root.join(CATALOG), source }
    }

    /// Runs `work` in one transaction that becomes durable as a whole, or not at all.
    fn transaction<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = self.connection();
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(self.sql())?;
        let done = work(&transaction)?;
        self.disk.commit_point(&self.root.join(CATALOG)).map_err(StoreError::from)?;
        transaction.commit().map_err(self.sql())?;
        Ok(done)
    }
}

/// The catalog's name in the store.
const CATALOG: &str = "catalog.db";
