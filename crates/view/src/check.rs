//! Checking whether a view is what the catalog says.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use strandline_durable::{DiskError, children, wide};
use strandline_model::{Blake3, Entry, Snapshot, TreePath, Unit};
use strandline_store::{Mirror, Slot, Store, StoreError, ViewState};

use crate::ViewError;
use crate::files::stamp;
use crate::pool::POOL;
use crate::tree::PAGES;

/// How many units are looked at together.
const UNITS: usize = 256;

/// A link of a view that is not as the catalog says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// What it should be.
    pub(crate) should_be: What,
}

/// What stands at a path of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The link to the live tree.
    Live,
    /// A tree's link to the pool.
    Pool,
    /// A list of all projects.
    List,
    /// A page or a file.
    Blob(Blake3),
    /// Nothing: pages of a project that the snapshot does not have.
    Nothing,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path.display(), self.problem)
    }
}

/// Looks at `live`, every page of the live tree, every root list, and the pool's file for every path that is
/// published. Changes nothing.
pub fn check(mirror: &Mirror) -> Result<Vec<Broken>, ViewError> {
    look(mirror, false)
}

/// The same; with `data`, files that are copies of blobs and not links to them are read, too.
pub fn look(mirror: &Mirror, data: bool) -> Result<Vec<Broken>, ViewError> {
    let mut broken = Vec::new();
    let Some(state) = mirror.view_state()? else { return Ok(broken) };
    let view = mirror.view_directory();
    let live = view.join("live");
    if !std::fs::read_link(&live).is_ok_and(|target| target == Path::new(state.slot.as_str())) {
        let problem = format!("does not point to `{}`; the next sync puts it right", state.slot);
        broken.push(Broken { path: live, problem, should_be: What::Live });
    }
    let Some(snapshot) = published(mirror.store(), state)? else { return Ok(broken) };
    look_at_tree(mirror, state.slot, &snapshot, data, &mut |found| broken.push(found))?;
    Ok(broken)
}

/// The snapshot that is published; `None` if it cannot be read, which the store's own check reports.
pub(crate) fn published(store: &Store, state: ViewState) -> Result<Option<Snapshot>, StoreError> {
    match store.recorded(state.snapshot) {
        Err(StoreError::Damaged { .. }) => Ok(None),
        found => Ok(Some(found?.snapshot)),
    }
}

/// Tells `broken` of everything in a tree, and in the pool behind it, that is not as a snapshot says.
pub(crate) fn look_at_tree(
    mirror: &Mirror,
    slot: Slot,
    snapshot: &Snapshot,
    data: bool,
    broken: &mut dyn FnMut(Broken),
) -> Result<(), ViewError> {
    let (store, view) = (mirror.store(), mirror.view_directory());
    let tree = view.join(slot.as_str());
    let place = |path: &TreePath| {
        if path.first_segment() == POOL { view.join(path.as_str()) } else { tree.join(path.as_str()) }
    };
    let pool = tree.join(POOL);
    if !std::fs::read_link(&pool).is_ok_and(|target| target == Path::new("..").join(POOL)) {
        broken(Broken { path: pool, problem: format!("does not point to `../{POOL}`"), should_be: What::Pool });
    }
    for list in &snapshot.lists {
        let path = place(&list.path);
        let problem = match stamp(&path)? {
            Some((size, _)) if size != list.size => format!("has {size} bytes instead of {}", list.size),
            Some(_) if digest(&path)? != list.blake3 => "has other bytes than its snapshot says".to_owned(),
            Some(_) => continue,
            None => "is missing".to_owned(),
        };
        broken(Broken { path, problem, should_be: What::List });
    }
    let leaves = match store.leaves(snapshot) {
        // The store's own check names damaged bodies.
        Err(StoreError::Damaged { .. }) => return Ok(()),
        leaves => leaves?,
    };
    // A project that was never good has no pages.
    let shown: Vec<_> = leaves.into_iter().filter_map(|leaf| Some((leaf.name, leaf.unit?))).collect();
    // Pages that are left of a project which the snapshot does not have would still be served.
    let pages = tree.join(PAGES);
    for child in children(&pages)? {
        let path = child.path();
        if !child.file_type().map_err(|error| DiskError::new("look at", &path, error))?.is_dir() {
            continue;
        }
        let name = child.file_name().to_string_lossy().into_owned();
        if shown.binary_search_by(|(shown, _)| shown.as_str().cmp(&name)).is_err() {
            let problem = "is of a project that the snapshot does not have".to_owned();
            broken(Broken { path, problem, should_be: What::Nothing });
        }
    }
    for shown in shown.chunks(UNITS) {
        let ids: Vec<_> = shown.iter().map(|(_, unit)| *unit).collect();
        let units = store.undamaged_units(&ids)?;
        let entries: Vec<_> = units.iter().flatten().flat_map(Unit::entries).collect();
        let look = |entry: &Entry| {
            let path = place(&entry.path);
            let problem = wrong(store, &path, entry, data).transpose()?;
            Some(problem.map(|problem| Broken { path, problem, should_be: What::Blob(entry.blob) }))
        };
        let found = wide(|| entries.into_par_iter().filter_map(look).collect::<Result<Vec<_>, _>>())?;
        found.into_iter().for_each(&mut *broken);
    }
    Ok(())
}

/// What is wrong with the link to a blob, if anything.
fn wrong(store: &Store, path: &Path, entry: &Entry, data: bool) -> Result<Option<String>, DiskError> {
    let look = |path: &Path| match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some).map_err(|error| DiskError::new("look at", path, error)),
    };
    let Some(found) = look(path)? else { return Ok(Some("is missing".to_owned())) };
    // Without the blob there is nothing to compare with; the store's own check names it.
    let Some(blob) = look(&store.blob_path(entry.blob))? else { return Ok(None) };
    if (found.dev(), found.ino()) == (blob.dev(), blob.ino()) {
        return Ok(None);
    }
    let copy = (found.len(), found.mtime()) == (blob.len(), blob.mtime()) && (!data || digest(path)? == entry.blob);
    Ok((!copy).then(|| format!("is not blob {}", entry.blob)))
}

fn digest(path: &Path) -> Result<Blake3, DiskError> {
    let read = || Blake3::of_reader(std::fs::File::open(path)?, &mut vec![0; 256 << 10]);
    read().map_err(|source| DiskError::new("read", path, source))
}
