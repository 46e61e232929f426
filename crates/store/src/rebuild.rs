//! A new catalog for a store whose own is gone or unusable.
//!
//! What was there of the old one is moved aside, never deleted. All blobs are re-hashed; those that are what their names say
//! get rows, the others are moved aside too. Which snapshots there were is not known any more: whoever calls makes one of
//! what each mirror publishes, and then says that the catalog is whole ([`Rebuild::finish`]). Until then a mark in the
//! store keeps everybody from opening it; a rebuild that was interrupted is begun anew.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use strandline_durable::{Disk, DiskError, Lock};
use strandline_model::{Blake3, Hasher, MirrorName};

use crate::blobs::Blob;
use crate::verify::damaged_pages;
use crate::{CATALOG, MirrorLock, Store, StoreError};

/// The file that says that the catalog is half rebuilt.
pub(crate) const MARK: &str = "rebuilding";
/// How many blobs get their rows in one transaction.
const BATCH: usize = 4096;

/// A rebuild that is under way: nobody else can use the store.
#[derive(Debug)]
pub struct Rebuild {
    /// The store with its new catalog: all blobs, and no mirror yet.
    pub store: Arc<Store>,
    public: bool,
    locks: BTreeMap<MirrorName, MirrorLock>,
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

/// The names in a directory; none where there is none. Those that are not text are nobody's of ours.
fn names(directory: &Path) -> Result<impl Iterator<Item = String>, DiskError> {
    let found = match std::fs::read_dir(directory) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let found = found.map_err(|source| DiskError::new("list", directory, source))?;
    Ok(found.into_iter().filter_map(|entry| entry.file_name().into_string().ok()))
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

    /// Makes a new catalog that has all blobs; refuses where the old one is whole. `public`: whether every mirror may use
    /// every blob; otherwise [`claim`](Self::claim) says who may. `since` is the time now, for others' error messages.
    pub fn begin(root: &Path, disk: Disk, public: bool, since: &str) -> Result<(Self, Rebuilt), StoreError> {
        for directory in ["blobs", "incoming", "locks", "views"] {
            disk.create_directory(&root.join(directory))?;
        }
        let lock = |name: &str, what: &str| Lock::take(&root.join("locks").join(name), what, since);
        let collecting = lock("gc", "the store's `strandline gc`")?;
        let mut locks = BTreeMap::new();
        for mirror in Self::views(root)? {
            let mirror_lock = lock(&format!("mirror-{mirror}"), &format!("mirror `{mirror}`"))?;
            locks.insert(mirror, MirrorLock { _mirror: mirror_lock });
        }

        let mut rebuilt = Rebuilt::default();
        let path = root.join(CATALOG);
        let files = ["", "-wal", "-shm"].map(|ending| root.join(format!("{CATALOG}{ending}")));
        if root.join(MARK).exists() {
            // What is there was made by a rebuild that did not come to its end.
            for file in &files {
                disk.remove_file(file)?;
            }
        } else {
            let length = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
            if length > 0 && is_whole(root)? {
                return Err(StoreError::Whole { path });
            }
            for file in files.iter().filter(|file| file.exists()) {
                rebuilt.aside.push(move_aside(root, &disk, file)?);
            }
            disk.sync_directory(root)?;
            disk.create_file(&root.join(MARK))?.sync()?;
        }
        disk.sync_directory(root)?;

        let store = Arc::new(Store::open_catalog(root, disk, false)?);
        take_blobs(&store, public, &mut rebuilt)?;
        Ok((Self { store, public, locks, _collecting: collecting }, rebuilt))
    }

    /// The mirrors that have a view, each with the right to change it.
    pub fn mirrors(&self) -> impl Iterator<Item = (&MirrorName, &MirrorLock)> {
        self.locks.iter()
    }

    /// Whether every mirror may use every blob.
    pub fn is_public(&self) -> bool {
        self.public
    }

    /// Says that a mirror has brought these blobs: for itself alone if it is `private`, else for every mirror.
    pub fn claim(
        &self,
        mirror: &MirrorName,
        private: bool,
        blobs: impl IntoIterator<Item = Blake3>,
    ) -> Result<(), StoreError> {
        self.store.transaction(|transaction| {
            let query = if private {
                "INSERT OR IGNORE INTO private_blob (blake3, mirror) VALUES (?1, ?2)"
            } else {
                "UPDATE blob SET public = 1 WHERE blake3 = ?1 AND public = 0 AND ?2 IS NOT NULL"
            };
            let mut statement = transaction.prepare(query).map_err(self.store.sql())?;
            blobs
                .into_iter()
                .try_for_each(|blob| statement.execute((blob.as_bytes(), mirror.as_str())).map(drop))
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

/// Whether the catalog is one, of ours, without a damaged page.
fn is_whole(root: &Path) -> Result<bool, StoreError> {
    if !damaged_pages(root)?.is_empty() {
        return Ok(false);
    }
    match crate::catalog::open(&root.join(CATALOG), &Disk::new(), true) {
        Ok(_) => Ok(true),
        Err(StoreError::NoCatalog { .. }) => Ok(false),
        Err(error) if error.is_corruption() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives every file in `blobs/` that is what its name says its row, and a time that no other has; moves the others aside.
fn take_blobs(store: &Store, public: bool, rebuilt: &mut Rebuilt) -> Result<(), StoreError> {
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
        insert(store, &rows, public)?;
    }
    store.transaction(|transaction| {
        transaction
            .execute("UPDATE next_mtime SET value = max(value, ?1)", [latest.saturating_add(1)])
            .map_err(store.sql())
    })?;
    let first = store.allocate_mtimes(doubles.len() as u64)?;
    let mut rows = Vec::new();
    for (mtime, blob) in (first..).zip(doubles) {
        disk.set_time(&store.blob_path(blob.blake3), mtime)?;
        rows.push(Blob { mtime, ..blob });
    }
    insert(store, &rows, public)
}

fn insert(store: &Store, blobs: &[Blob], public: bool) -> Result<(), StoreError> {
    store.transaction(|transaction| {
        let mut statement = transaction
            .prepare_cached("INSERT INTO blob (blake3, sha256, size, mtime, public) VALUES (?1, ?2, ?3, ?4, ?5)")
            .map_err(store.sql())?;
        blobs
            .iter()
            .try_for_each(|Blob { blake3, sha256, size, mtime }| {
                statement.execute((blake3.as_bytes(), sha256.as_bytes(), size, mtime, public)).map(drop)
            })
            .map_err(store.sql())
    })
}

/// Reads a file that should be the blob of this name.
fn read(path: &Path, name: &str) -> Result<Found, DiskError> {
    let look = || -> io::Result<Found> {
        let metadata = std::fs::symlink_metadata(path)?;
        if !metadata.is_file() {
            return Ok(Found::Other(path.to_owned()));
        }
        let mut hasher = Hasher::default();
        hash(path, &mut hasher)?;
        let (blake3, sha256, size) = hasher.finish();
        let mtime = u64::try_from(metadata.mtime()).unwrap_or(0);
        Ok(if blake3.to_string() == name {
            Found::Blob(Blob { blake3, sha256, size, mtime })
        } else {
            Found::Other(path.to_owned())
        })
    };
    look().map_err(|source| DiskError::new("read", path, source))
}

/// Hashes a file.
pub(crate) fn hash(path: &Path, hasher: &mut Hasher) -> io::Result<()> {
    use std::io::Read as _;
    let mut file = std::fs::File::open(path)?;
    let mut chunk = vec![0; 256 << 10];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(()),
            count => hasher.update(&chunk[..count]),
        }
    }
}

/// The latest time of modification of the files right in the trees of views: lists.
pub(crate) fn latest_list(views: &Path) -> Result<u64, DiskError> {
    let mut latest = 0;
    for mirror in names(views)? {
        for tree in ["a", "b"] {
            let pages = views.join(&mirror).join(tree).join("simple");
            for name in names(&pages)? {
                if let Ok(metadata) = std::fs::symlink_metadata(pages.join(name))
                    && metadata.is_file()
                {
                    latest = latest.max(u64::try_from(metadata.mtime()).unwrap_or(0));
                }
            }
        }
    }
    Ok(latest)
}

/// Moves a file to where nobody takes it for what it is not; returns where it is. The caller syncs where it was.
pub(crate) fn move_aside(root: &Path, disk: &Disk, path: &Path) -> Result<PathBuf, DiskError> {
    let directory = root.join(crate::repair::ASIDE);
    disk.create_directory(&directory)?;
    let below = path.strip_prefix(root.join("blobs")).unwrap_or(path);
    let name = match below.parent().and_then(Path::file_name).filter(|_| below != path) {
        // A blob's name is cut in two on the disk.
        Some(first) => format!("{}{}", first.display(), below.file_name().unwrap_or_default().display()),
        None => path.file_name().unwrap_or_default().display().to_string(),
    };
    for number in 1_u32.. {
        let to = directory.join(if number == 1 { name.clone() } else { format!("{name}.{number}") });
        if disk.rename_new(path, &to)? {
            disk.sync_directory(&directory)?;
            disk.sync_directory(root)?;
            return Ok(to);
        }
    }
    unreachable!("there is always another number")
}
