//! Blobs, the catalog, commit, verify, retention and garbage collection.
//!
//! These hold even if the power fails, on any line of the program:
//!
//! 1. A blob's name is the BLAKE3 of its bytes, and nothing is renamed to that name before its bytes are
//!    durable.
//! 2. A committed snapshot names only durable blobs, and never changes: triggers in the catalog refuse it.
//! 3. A blob is deleted only after no retained snapshot, no running sync and no view names it.
//! 4. The catalog is the truth: opening the store finishes or undoes what was under way.
//!
//! So writers go blob, row, manifest, view, and [`gc`] goes the other way. `tests/` has a test for each number.

mod aside;
mod blobs;
mod bodies;
mod catalog;
mod clock;
mod commit;
pub mod gc;
mod intake;
mod limit;
mod listing;
mod locked;
mod log_copy;
mod mirror;
mod naming;
mod notes;
mod packing;
mod packs;
mod pool;
mod readers;
mod rebuild;
mod remarks;
mod removal;
pub mod reserve;
mod restore;
mod rows;
mod sights;
mod snapshots;
mod trees;
mod twins;
pub mod verify;
mod withdrawals;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use strandline_durable::{Disk, DiskError, Lock, LockError};
use strandline_model::trie::Memory;
use strandline_model::{BadBody, Blake3, MirrorName};

use crate::readers::Readers;

pub use blobs::Blob;
pub use bodies::Differences;
pub use commit::{Committed, Draft, DraftUnit, Verified, VerifyError};
pub use intake::{Access, Incoming, Intake, Manner, ReceiveError, Staged};
pub use limit::{Limiter, Pace};
pub use locked::{Locked, Wait};
pub use log_copy::PostponedLogCopy;
pub use mirror::{Mirror, MirrorUsage, Usage};
pub use naming::{Naming, is_release_file};
pub use notes::{Conclusion, CutReport, LastSync, SeenPage, SeenRow, Validation};
pub use rebuild::{Rebuild, Rebuilt};
pub use remarks::{Remarks, SkippedOf};
pub use sights::{Sight, Sights, Subject};
pub use snapshots::{Recorded, SelectError};
pub use twins::{Slot, Twin, ViewState};
pub use withdrawals::{Order, Withdrawal, WithdrawnFile};

/// A store: a directory with the catalog, all blobs, and the views of its mirrors.
///
/// Cheap to open; each instance has one connection to the catalog, which its methods take turns to use.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    disk: Disk,
    /// Declared before `catalog`, because fields are dropped in order: the last connection to close copies the log back, and a
    /// connection that only reads cannot.
    readers: Readers,
    catalog: Mutex<Connection>,
    /// Nodes of trees that were read a moment ago.
    memory: Mutex<Memory>,
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
    /// The catalog was written by a program that was never released. Nothing was changed.
    #[error(
        "the catalog `{}` has version {version}, and this program reads versions from {oldest} on: go on with the program that wrote it, or let `strandline rebuild` move it aside and make a new one of what is published, which loses earlier serials, pins, and the record of what was withdrawn (withdraw it again before the next sync)",
        path.display()
    )]
    Older {
        /// The catalog.
        path: PathBuf,
        /// Its version.
        version: i32,
        /// The oldest version that is read.
        oldest: i32,
    },
    /// There is no catalog, or one without a table, and there are blobs or views. Nothing was changed.
    #[error(
        "the catalog `{}` is {found}, and the store has blobs or views: restore the catalog from its newest backup (docs/operations.md, \"Restoring\"), or let `strandline rebuild` make one of what is published",
        path.display()
    )]
    NoCatalog {
        /// Where it should be.
        path: PathBuf,
        /// What is there instead: `missing`, `empty`, or `half rebuilt`.
        found: &'static str,
    },
    /// There is nothing to rebuild. Nothing was changed.
    #[error("the catalog `{}` is whole: there is nothing to rebuild", path.display())]
    Whole {
        /// The catalog.
        path: PathBuf,
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
    /// Another process has the lock.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl StoreError {
    /// Whether SQLite could not make sense of its own file.
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::Catalog { source, .. } if verify::is_corruption(source))
    }

    /// Whether there is no room left for the catalog.
    pub fn is_full(&self) -> bool {
        let Self::Catalog { path, source } = self else { return false };
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => true,
            // Without room for the write-ahead log's index, or an inode, SQLite only says that it cannot.
            Some(rusqlite::ErrorCode::CannotOpen | rusqlite::ErrorCode::SystemIoFailure) => {
                let free = Disk::new().free(path.parent().unwrap_or(path));
                free.is_ok_and(|free| free.bytes < 1 << 20 || free.inodes.is_some_and(|inodes| inodes < 8))
            }
            _ => false,
        }
    }

    fn damaged(id: Blake3, problem: &BadBody) -> Self {
        Self::Damaged { id, problem: format!("is damaged: {problem}") }
    }
}

impl Store {
    /// Opens the store at `root`; creates it if it is not there. Work that a crash left half done stays so until it is
    /// [finished](Self::finish).
    pub fn open(root: &Path, disk: Disk) -> Result<Arc<Self>, StoreError> {
        for directory in ["blobs", "incoming", "locks", "views"] {
            disk.create_directory(&root.join(directory))?;
        }
        let path = root.join(CATALOG);
        // With an empty catalog, the blobs and views that are there would count as unknown.
        let found = match std::fs::metadata(&path) {
            _ if root.join(rebuild::MARK).exists() => Some("half rebuilt"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some("missing"),
            Ok(metadata) if metadata.len() == 0 => Some("empty"),
            _ => None,
        };
        let occupied = rebuild::is_occupied(root)?;
        match found {
            Some(found) if occupied => Err(StoreError::NoCatalog { path, found }),
            _ => Self::open_catalog(root, disk, occupied),
        }
    }

    /// Opens a store whose catalog is made if there is none; not where the store is `occupied`.
    fn open_catalog(root: &Path, disk: Disk, occupied: bool) -> Result<Arc<Self>, StoreError> {
        let catalog = catalog::open(&root.join(CATALOG), &disk, occupied)?;
        Ok(Arc::new(Self {
            root: root.to_owned(),
            disk,
            readers: Readers::default(),
            catalog: Mutex::new(catalog),
            memory: Mutex::default(),
        }))
    }

    /// Finishes the work of processes that died while they removed a mirror, took blobs in or deleted some. Work on one
    /// mirror alone is finished by the process that locks the mirror next.
    pub fn finish(self: &Arc<Self>) -> Result<(), StoreError> {
        self.finish_mirrors()?;
        gc::finish(self)
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

    /// As long as this is held, no process deletes a file, so a caller can look which files are there and rely on it.
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
        |source| {
            let path = self.root.join(CATALOG);
            match source {
                rusqlite::Error::FromSqlConversionFailure(_, _, error) => {
                    StoreError::Foreign { path, problem: format!("holds what it should not: {error}") }
                }
                source => StoreError::Catalog { path, source },
            }
        }
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
        self.disk.commit_done(&self.root.join(CATALOG)).map_err(StoreError::from)?;
        Ok(done)
    }
}

/// The catalog's name in the store.
const CATALOG: &str = "catalog.db";
