//! A new catalog for a store whose own is gone or unusable.
//!
//! The files of the old catalog are moved aside, never deleted. All blobs are re-hashed; those that are what their
//! names say get rows, the others are moved aside, too. The list of snapshots is lost: the caller makes one snapshot of
//! what each mirror publishes, and then says that the catalog is whole ([`Rebuild::finish`]). Until then a mark in the
//! store keeps every process from opening it; a rebuild that was interrupted is begun anew.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use strandline_durable::{Disk, DiskError, Lock};
use strandline_model::{Blake3, Hasher, MirrorName, Timestamp};

use crate::aside::{latest_list, move_aside, names};
use crate::rows::execute_each;
use crate::verify::damaged_pages;
use crate::{Access, Blob, CATALOG, Locked, Store, StoreError};

/// The file that says that the catalog is half rebuilt.
pub(crate) const MARK: &str = "rebuilding";
/// How many blobs get their rows in one transaction.
const BATCH: usize = 4096;

/// A rebuild that is under way: no other process can use the store.
#[derive(Debug)]
pub struct Rebuild {
    /// The store with its new catalog: all blobs, and no mirror yet.
    pub store: Arc<Store>,
    access: Access,
    mirrors: Vec<Locked>,
    _collecting: Lock,
}

/// What was found and done on the way to a new catalog.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// How many blobs there are.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was moved aside: the old catalog, and files that are not what their names say. Where they are now.
    pub aside: Vec<PathBuf>,
}

/// Whether a store has anything that a catalog should know of.
pub(crate) fn is_occupied(root: &Path) -> Result<bool, StoreError> {
    if root.join(MARK).exists() {
        return Ok(true);
    }
    for name in ["blobs", "views"] {
        if names(&root.join(name))?.next().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is in the place of a blob.
enum Found {
    Blob(Blob),
    Other(PathBuf),
}

impl Rebuild {
    /// The mirrors that have a view in the store at `root`.
    pub fn views(root: &Path) -> Result<Vec<MirrorName>, StoreError> {
        Ok(names(&root.join("views"))?.filter_map(|name| name.parse().ok()).collect())
    }

    /// Makes a new catalog that has all blobs; refuses where the old one is whole. `access` says whether every mirror
    /// may use every blob; if not, [`claim`](Self::claim) says which may. `now` is what other processes are told
    /// meanwhile.
    pub fn begin(root: &Path, disk: Disk, access: Access, now: Timestamp) -> Result<(Self, Rebuilt), StoreError> {
        for directory in ["blobs", "incoming", "locks", "views"] {
            disk.create_directory(&root.join(directory))?;
        }
        let since = now.to_string();
        let lock = |name: &str, what: &str| Lock::take(&root.join("locks").join(name), what, &since);
        let collecting = lock("gc", "the store's `strandline gc`")?;
        let mut locks = Vec::new();
        for mirror in Self::views(root)? {
            let mirror_lock = lock(&format!("mirror-{mirror}"), &format!("mirror `{mirror}`"))?;
            locks.push((mirror, mirror_lock));
        }
        let mut rebuilt = Rebuilt { aside: move_catalog_aside(root, &disk)?, ..Rebuilt::default() };
        let store = Store::open_catalog(root, disk, false)?;
        take_blobs(&store, access, &mut rebuilt)?;
        let mirrors = locks.into_iter().map(|(name, lock)| store.locked(&name, lock)).collect::<Result<_, _>>()?;
        Ok((Self { store, access, mirrors, _collecting: collecting }, rebuilt))
    }

    /// The mirrors that have a view, each with the right to change it.
    pub fn mirrors(&self) -> &[Locked] {
        &self.mirrors
    }

    /// Whether every mirror may use every blob.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Says that a mirror has brought these blobs: for itself alone or for every mirror.
    pub fn claim(
        &self,
        mirror: &Locked,
        access: Access,
        blobs: impl IntoIterator<Item = Blake3>,
    ) -> Result<(), StoreError> {
        self.store.transaction(|transaction| {
            let query = match access {
                Access::Private => "INSERT OR IGNORE INTO private_blob (blake3, mirror) VALUES (?1, ?2)",
                Access::Public => "UPDATE blob SET public = 1 WHERE blake3 = ?1 AND public = 0 AND ?2 IS NOT NULL",
            };
            execute_each(transaction, query, blobs, |blob| (*blob.as_bytes(), mirror.number))
                .map(drop)
                .map_err(self.store.sql())
        })
    }

    /// The catalog is whole now: the store can be opened again.
    pub fn finish(self) -> Result<(), StoreError> {
        let Store { root, disk, .. } = &*self.store;
        disk.remove_file(&root.join(MARK))?;
        Ok(disk.sync_directory(root)?)
    }
}

/// Moves the files of a catalog that is not whole aside, and marks the store as half rebuilt; returns where they are.
/// The catalog of a rebuild that did not come to its end is removed instead.
fn move_catalog_aside(root: &Path, disk: &Disk) -> Result<Vec<PathBuf>, StoreError> {
    let path = root.join(CATALOG);
    let files = ["", "-wal", "-shm"].map(|ending| root.join(format!("{CATALOG}{ending}")));
    let mut aside = Vec::new();
    if root.join(MARK).exists() {
        for file in &files {
            disk.remove_file(file)?;
        }
    } else {
        let length = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if length > 0 && is_whole(root)? {
            return Err(StoreError::Whole { path });
        }
        for file in files.iter().filter(|file| file.exists()) {
            aside.push(move_aside(root, disk, file)?);
        }
        disk.sync_directory(root)?;
        disk.create_file(&root.join(MARK))?.sync()?;
    }
    disk.sync_directory(root)?;
    Ok(aside)
}

/// Whether the catalog is one, of ours and of a version that is read, without a damaged page.
fn is_whole(root: &Path) -> Result<bool, StoreError> {
    if crate::catalog::refuse_older(&root.join(CATALOG)).is_err() || !damaged_pages(root)?.is_empty() {
        return Ok(false);
    }
    match crate::catalog::open(&root.join(CATALOG), &Disk::new(), true) {
        Ok(_) => Ok(true),
        Err(StoreError::NoCatalog { .. } | StoreError::Older { .. }) => Ok(false),
        Err(error) if error.is_corruption() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives every file in `blobs/` that is what its name says its row, and a time that no other has; moves the others aside.
fn take_blobs(store: &Store, access: Access, rebuilt: &mut Rebuilt) -> Result<(), StoreError> {
    let Store { root, disk, .. } = store;
    let blobs = root.join("blobs");
    let mut files = Vec::new();
    for directory in names(&blobs)? {
        files.extend(names(&blobs.join(&directory))?.map(|name| (directory.clone(), name)));
    }
    // Files of the views that are not blobs have times of their own: new ones come after all of them.
    let mut latest = latest_list(&root.join("views"))?;
    let mut times = HashSet::new();
    let mut doubles = Vec::new();
    for batch in files.chunks(BATCH) {
        let found: Vec<Found> = batch
            .par_iter()
            .map(|(directory, name)| read(&blobs.join(directory).join(name), &format!("{directory}{name}")))
            .collect::<Result<_, DiskError>>()?;
        let mut rows = Vec::new();
        for found in found {
            match found {
                Found::Other(path) => rebuilt.aside.push(move_aside(root, disk, &path)?),
                Found::Blob(blob) => {
                    latest = latest.max(blob.mtime);
                    rebuilt.blobs += 1;
                    rebuilt.bytes += blob.size;
                    // As after a copy that did not keep the times.
                    if times.insert(blob.mtime) { rows.push(blob) } else { doubles.push(blob) }
                }
            }
        }
        insert(store, &rows, access)?;
    }
    let later = latest.saturating_add(1);
    store.execute("UPDATE next_mtime SET value = max(value, ?1)", [later])?;
    let first = store.allocate_mtimes(doubles.len() as u64)?;
    let mut rows = Vec::new();
    for (mtime, blob) in (first..).zip(doubles) {
        disk.set_time(&store.blob_path(blob.blake3), mtime)?;
        rows.push(Blob { mtime, ..blob });
    }
    insert(store, &rows, access)
}

fn insert(store: &Store, blobs: &[Blob], access: Access) -> Result<(), StoreError> {
    store.transaction(|transaction| {
        let insert = "INSERT INTO blob (blake3, sha256, size, mtime, public) VALUES (?1, ?2, ?3, ?4, ?5)";
        let row = |Blob { blake3, sha256, size, mtime }: &Blob| {
            (*blake3.as_bytes(), *sha256.as_bytes(), *size, *mtime, access == Access::Public)
        };
        execute_each(transaction, insert, blobs, row).map(drop).map_err(store.sql())
    })
}

/// Reads a file that should be the blob of this name.
fn read(path: &Path, name: &str) -> Result<Found, DiskError> {
    let look = || -> io::Result<Found> {
        let metadata = std::fs::symlink_metadata(path)?;
        if !metadata.is_file() {
            return Ok(Found::Other(path.to_owned()));
        }
        let (blake3, sha256, size) = Hasher::of_reader(File::open(path)?)?;
        let mtime = u64::try_from(metadata.mtime()).unwrap_or(0);
        Ok(if blake3.to_string() == name {
            Found::Blob(Blob { blake3, sha256, size, mtime })
        } else {
            Found::Other(path.to_owned())
        })
    };
    look().map_err(|source| DiskError::new("read", path, source))
}
