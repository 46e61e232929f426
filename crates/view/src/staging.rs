//! Root lists on their way from the commit that names them to the tree that has them.
//!
//! At 700,000 projects a list is tens of megabytes, so it is rendered once: hashed for the snapshot while it is written to a
//! file in the store's `incoming`, under its digest. Publishing takes that file, after it has read it again, or renders the
//! list itself where there is none.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use strandline_durable::{DiskError, NewFile};
use strandline_model::{Blake3, Format, Hasher, ListedProject, RootList, Serial, Sha256, TreePath};
use strandline_store::{Locked, Mirror, Store};

use crate::ViewError;

/// The directory in which the lists of a snapshot wait while the snapshot is made. Dropping this removes the lists that
/// are left.
#[derive(Debug)]
pub struct Staging<'a> {
    store: &'a Store,
    directory: PathBuf,
}

impl<'a> Staging<'a> {
    /// Prepares to stage the lists of a mirror.
    pub fn new(mirror: &'a Locked) -> Self {
        Self { store: mirror.store(), directory: mirror.staged_lists() }
    }

    /// The digests of all root lists of a tree, each of which is written to a file that publishing will find. `projects`
    /// are sorted by name. Where the disk refuses a file there is only the digest.
    pub fn root_lists(&self, format: &dyn Format, serial: Serial, projects: &[ListedProject]) -> Vec<RootList> {
        let disk = self.store.disk();
        let prepared = disk.remove_tree(&self.directory).and_then(|()| disk.create_directory(&self.directory));
        let file = |path: &TreePath| {
            let staged = self.directory.join(path.file_name());
            prepared.is_ok().then(|| disk.create_file(&staged).ok()).flatten()
        };
        let keep = |list: &RootList| {
            let from = self.directory.join(list.path.file_name());
            if let Err(error) = disk.rename(&from, &self.directory.join(list.blake3.to_string())) {
                tracing::debug!(%error, "a list is rendered again when it is published");
            }
        };
        render(format, serial, projects, &file, &keep)
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.store.disk().remove_tree(&self.directory) {
            // The next sync of the mirror begins with removing it.
            tracing::debug!(%error, "staged lists stay");
        }
    }
}

/// The digests of all root lists of a tree. `projects` are sorted by name.
pub fn root_lists(format: &dyn Format, serial: Serial, projects: &[ListedProject]) -> Vec<RootList> {
    render(format, serial, projects, &|_| None, &|_| {})
}

/// Renders all lists, each on a thread of its own: there are two or three.
fn render(
    format: &dyn Format,
    serial: Serial,
    projects: &[ListedProject],
    file: &(dyn Fn(&TreePath) -> Option<NewFile> + Sync),
    keep: &(dyn Fn(&RootList) + Sync),
) -> Vec<RootList> {
    let one = |path: TreePath| {
        let written = write(format, &path, serial, projects, file(&path));
        let was_kept = matches!(&written, Ok((_, Some(_))));
        let (blake3, sha256, size) = match written {
            Ok((digests, _)) => digests,
            // Without a file there is nothing that can fail.
            Err(_) => write(format, &path, serial, projects, None).expect("hashing takes everything").0,
        };
        let list = RootList { path, blake3, sha256, size };
        if was_kept {
            keep(&list);
        }
        list
    };
    let paths = format.list_paths();
    let different = paths.iter().filter(|path| format.same_as(path).is_none());
    let done: Vec<RootList> = std::thread::scope(|scope| {
        let running: Vec<_> = different.map(|path| scope.spawn(|| one(path.clone()))).collect();
        let results = running.into_iter().map(std::thread::ScopedJoinHandle::join);
        results.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let of = |path: TreePath| {
        let original = format.same_as(&path).unwrap_or_else(|| path.clone());
        let list = done.iter().find(|list| list.path == original).expect("a list has the bytes of one that is no copy");
        RootList { path, ..list.clone() }
    };
    paths.into_iter().map(of).collect()
}

/// Renders a list, hashed and, if there is a file, into that.
pub(crate) fn write(
    format: &dyn Format,
    path: &TreePath,
    serial: Serial,
    projects: &[ListedProject],
    file: Option<NewFile>,
) -> Result<((Blake3, Sha256, u64), Option<NewFile>), ViewError> {
    let place = file.as_ref().map_or_else(PathBuf::new, |file| file.path().to_owned());
    let mut hashing = Hashing { hasher: Hasher::default(), file, failed: None };
    let done = {
        let mut buffered = io::BufWriter::with_capacity(1 << 20, &mut hashing);
        format.write_list(path, serial, projects, &mut buffered).and_then(|()| buffered.flush())
    };
    let Hashing { hasher, file, failed } = hashing;
    if let Some(error) = failed {
        return Err(error.into());
    }
    done.map_err(|source| DiskError::new("write the list", &place, source))?;
    Ok((hasher.finish(), file))
}

/// Moves a list that was staged to its place in a tree, if there is one and it is what it should be.
pub(crate) fn take(mirror: &Mirror, list: &RootList, path: &Path) -> Result<Option<NewFile>, ViewError> {
    let (disk, staged) = (mirror.store().disk(), mirror.staged_lists().join(list.blake3.to_string()));
    let Ok(file) = File::open(&staged) else { return Ok(None) };
    let found =
        Blake3::of_reader(file, &mut vec![0; 64 << 10]).map_err(|source| DiskError::new("read", &staged, source))?;
    if found != list.blake3 {
        return Ok(None);
    }
    disk.rename(&staged, path)?;
    Ok(Some(disk.reopen(path)?))
}

/// Hashes what is written, and passes it on to a file if there is one.
struct Hashing {
    hasher: Hasher,
    file: Option<NewFile>,
    failed: Option<DiskError>,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        if let Some(file) = &mut self.file
            && let Err(error) = file.write(bytes)
        {
            // The error with its path is kept for the caller; the renderer only has to stop.
            self.failed = Some(error);
            return Err(io::Error::other("the disk refused it"));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
