//! A store in a temporary directory.
#![expect(clippy::disallowed_methods, reason = "a copy is made behind the program's back")]

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_durable::Disk;
use strandline_model::{MirrorName, Timestamp};
use strandline_store::{Locked, Mirror, Recorded, Store, Wait};
use tempfile::TempDir;

/// What an operation on a store comes to: where a disk fails, the error may be one of any crate.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// A store in a directory of its own, which goes with the value.
#[derive(Debug)]
pub struct World {
    directory: TempDir,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A directory without a store; the first [`open`](Self::open) makes one.
    pub fn new() -> Self {
        Self { directory: temporary_directory() }
    }

    /// The directory in which the store is, or will be.
    pub fn top(&self) -> &Path {
        self.directory.path()
    }

    /// The store's own directory.
    pub fn root(&self) -> PathBuf {
        self.top().join("store")
    }

    /// The directory of the view of [`mirror()`].
    pub fn view(&self) -> PathBuf {
        self.root().join("views").join(mirror().as_str())
    }

    /// Opens the store and finishes what a crash left, as the program does.
    pub fn open(&self) -> Arc<Store> {
        self.open_on(Disk::new()).unwrap()
    }

    /// The same on a disk that may fail.
    pub fn open_on(&self, disk: Disk) -> Outcome<Arc<Store>> {
        let store = Store::open(&self.root(), disk)?;
        store.finish()?;
        Ok(store)
    }

    /// The same store once more: hard links, symbolic links and times of modification as they are. No process may have it
    /// open.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        if self.root().exists() {
            copy_tree(&self.root(), &copy.root(), &mut HashMap::new()).unwrap();
        }
        copy
    }

    /// [`mirror()`], which was locked before, of the store opened anew.
    pub fn mirror(&self) -> Mirror {
        known(&self.open(), &mirror())
    }

    /// All snapshots of [`mirror()`], the newest first, as their labels.
    pub fn labels(&self) -> Vec<String> {
        self.mirror().snapshots().unwrap().iter().map(|recorded| recorded.snapshot.label.to_string()).collect()
    }

    /// The newest verified snapshot of [`mirror()`], which has one.
    pub fn latest(&self) -> Recorded {
        self.mirror().latest_verified().unwrap().unwrap()
    }

    /// The text that readers see at a path, if there is something.
    pub fn served(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.view().join("live").join(path)).ok()?;
        Some(String::from_utf8(bytes).unwrap())
    }

    /// The names of all files below `blobs/`.
    pub fn blobs(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for directory in fs::read_dir(self.root().join("blobs")).unwrap() {
            let directory = directory.unwrap();
            for file in fs::read_dir(directory.path()).unwrap() {
                let [first, rest] = [directory.file_name(), file.unwrap().file_name()];
                found.insert(format!("{}{}", first.to_str().unwrap(), rest.to_str().unwrap()));
            }
        }
        found
    }

    /// How many temporary files the intakes of all mirrors have.
    pub fn incoming(&self) -> usize {
        let directories = fs::read_dir(self.root().join("incoming")).unwrap();
        directories.map(|directory| fs::read_dir(directory.unwrap().path()).unwrap().count()).sum()
    }
}

/// The mirror that the tests are about.
pub fn mirror() -> MirrorName {
    "pypi".parse().unwrap()
}

/// The time at which stores are locked and put right.
pub fn now() -> Timestamp {
    Timestamp::from_seconds(1_767_268_800).unwrap()
}

/// A mirror of a store, as it reads. It was locked before.
pub fn known(store: &Arc<Store>, name: &MirrorName) -> Mirror {
    store.mirror(name).unwrap().unwrap()
}

/// [`mirror()`] of a store, to be changed. It is an error if another has it, or if the disk fails.
pub fn lock(store: &Arc<Store>) -> Outcome<Locked> {
    Ok(store.lock(&mirror(), Wait::Never, now())?)
}

/// An empty directory, which goes with the value. It is in memory where that can be had: stores are made thousands of
/// times, and the power fails only in the model.
pub fn temporary_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Copies everything below a directory. `copied` is what was copied so far, by inode.
fn copy_tree(from: &Path, to: &Path, copied: &mut HashMap<u64, PathBuf>) -> io::Result<()> {
    fs::create_dir(to)?;
    for child in fs::read_dir(from)? {
        let child = child?;
        let (kind, to) = (child.file_type()?, to.join(child.file_name()));
        if kind.is_dir() {
            copy_tree(&child.path(), &to, copied)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(child.path())?, to)?;
        } else if let Some(first) = copied.get(&child.metadata()?.ino()) {
            fs::hard_link(first, to)?;
        } else {
            let metadata = child.metadata()?;
            fs::copy(child.path(), &to)?;
            // Opened for reading: who may write does not matter for setting a time, and blobs are read-only.
            File::open(&to)?.set_modified(metadata.modified()?)?;
            copied.insert(metadata.ino(), to);
        }
    }
    Ok(())
}
