//! From a verified snapshot to what readers see.
//!
//! The order, each step durable before the next:
//!
//! 1. The catalog says that the standby is being changed, from what to what.
//! 2. The standby is changed, by the difference only. Meanwhile the pool gets the files that the new snapshot names. Both are
//!    synced.
//! 3. The catalog says that the standby is the live tree now ([`Locked::record_switch`]).
//! 4. `live` is renamed; its directory is synced.
//!
//! Where the standby has the snapshot already, only the pool is left to be changed before 3.
//!
//! A crash after 3 leaves `live` one step behind the catalog; [`repair`] makes that step.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use rayon::prelude::*;
use strandline_durable::{DiskError, LockError, look_ahead, wide};
use strandline_model::{Blake3, Format, ListedProject, MirrorName, ProjectName, Snapshot, Timestamp, TreePath, Unit};
use strandline_store::{Locked, Mirror, Slot, Store, StoreError, Twin, Verified, ViewState, Wait};
use walkdir::WalkDir;

use crate::staging;

/// The directory of a tree that changes with the snapshot. Everything else is in the pool.
pub(crate) const PAGES: &str = "simple";
/// The directory of the pool.
pub(crate) const POOL: &str = "packages";
/// From how many changed directories on one sync of the whole file system is cheaper than one sync each.
const WORTH_A_SYNCFS: usize = 16;

/// What was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The tree that is live now.
    pub slot: Slot,
    /// How many projects the standby needed to have changed.
    pub projects: usize,
}

/// The view was not switched: readers see what they saw.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The file system said no. The standby may be half changed; the catalog knows.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The catalog said no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The pool has other bytes at a path that the snapshot names.
    #[error(
        "`{path}` of mirror `{mirror}` has other bytes already: either two projects of the upstream list different files under it, or the file in the pool is damaged (`strandline verify {mirror} --data` tells)"
    )]
    Taken {
        /// The mirror.
        mirror: MirrorName,
        /// The path.
        path: TreePath,
    },
    /// A list came out differently from how the snapshot says.
    #[error(
        "the list `{path}` of mirror `{mirror}` is not the one that its snapshot names: it was recorded by another version of this program; the next sync records it anew"
    )]
    List {
        /// The mirror.
        mirror: MirrorName,
        /// The list.
        path: TreePath,
    },
}

/// Makes `live` what the catalog says it is, if a crash came between the two. Returns whether it had to.
pub fn repair(mirror: &Locked) -> Result<bool, ViewError> {
    match misdirected(mirror)? {
        Some(slot) => switch(mirror, slot).map(|()| true),
        None => Ok(false),
    }
}

/// Does the same for all mirrors that no process is at work on; returns those where it had to.
pub fn recover(store: &Arc<Store>, now: Timestamp) -> Result<Vec<MirrorName>, ViewError> {
    let mut recovered = Vec::new();
    for mirror in store.mirrors()? {
        if misdirected(&mirror)?.is_none() {
            continue;
        }
        match store.lock(mirror.name(), Wait::Never, now) {
            Ok(locked) if repair(&locked)? => recovered.push(mirror.name().clone()),
            // The process that has it is about to make that step.
            Ok(_) | Err(StoreError::Lock(LockError::Held { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(recovered)
}

/// The tree that `live` should point to and does not.
fn misdirected(mirror: &Mirror) -> Result<Option<Slot>, ViewError> {
    let Some(state) = mirror.view_state()? else { return Ok(None) };
    let live = mirror.view_directory().join("live");
    let points = std::fs::read_link(&live).is_ok_and(|target| target == Path::new(state.slot.as_str()));
    Ok((!points).then_some(state.slot))
}

/// Makes a verified snapshot of the mirror what readers see. `frozen` says whether syncs leave it so.
///
/// The standby was live until the last switch, and readers may still be in it: the caller waits until
/// `drain` has passed since then ([`undrained`] tells).
pub fn publish(
    mirror: &Locked,
    verified: &Verified,
    format: &dyn Format,
    frozen: bool,
    now: Timestamp,
) -> Result<Published, ViewError> {
    repair(mirror)?;
    let before = mirror.view_state()?;
    let view = mirror.view_directory();
    if let Some(before) = before.filter(|before| before.snapshot == verified.id()) {
        if before.frozen != frozen {
            mirror.freeze(frozen)?;
        }
        // The process that switched to it may have died right after the rename.
        mirror.store().disk().sync_directory(&view)?;
        return Ok(Published { slot: before.slot, projects: 0 });
    }
    let standby = match before {
        Some(state) => state.slot.other(),
        // After a rebuild of the catalog, readers are in a tree that it knows nothing of.
        None if std::fs::read_link(view.join("live")).is_ok_and(|target| target == Path::new("a")) => Slot::B,
        None => Slot::A,
    };

    let projects = bring_up(mirror, verified, standby, || link_files(mirror, verified), format)?;

    let state = ViewState {
        slot: standby,
        snapshot: verified.id(),
        previous: before.map(|before| gone_back_to(mirror, before, verified.id())).transpose()?.flatten(),
        switched: now,
        frozen,
    };
    mirror.record_switch(state)?;
    switch(mirror, standby)?;
    Ok(Published { slot: standby, projects })
}

/// What an operator goes back to who wants what was published before: not what a withdrawal has just replaced.
fn gone_back_to(mirror: &Mirror, before: ViewState, now: Blake3) -> Result<Option<Blake3>, ViewError> {
    let served = mirror.store().served(before.snapshot)?;
    Ok(if served == now { before.previous } else { Some(served) })
}

/// Brings a tree that is not live to a snapshot, all but the record that it is there, and syncs it with the directories that
/// `beside` touches, which is done meanwhile; returns how many projects it needed to have changed.
pub(crate) fn bring_up(
    mirror: &Locked,
    verified: &Verified,
    slot: Slot,
    beside: impl FnOnce() -> Result<Touched, ViewError> + Send,
    format: &dyn Format,
) -> Result<usize, ViewError> {
    let (snapshot, view) = (verified.snapshot(), mirror.view_directory());
    let twin = mirror.twin(slot)?;
    if twin == (Twin { base: Some(verified.id()), target: None }) && has_lists(&view.join(slot.as_str()), snapshot) {
        // As it mostly has what an operator goes back to: what was published before.
        sync_all(mirror.store(), &view, beside()?)?;
        return Ok(0);
    }
    let base = finish_pages(mirror, slot, twin)?;
    mirror.record_twin(slot, Twin { base, target: Some(verified.id()) })?;
    update(mirror, &view.join(slot.as_str()), base, snapshot, beside, format)
}

/// Brings the pages of the standby to what readers see, but not its lists, so that the next publication has less to change: the
/// standby lacks what the last one changed. Does nothing where nothing is published, or an operator went back: what is published
/// next may be what the standby has.
///
/// As for [`publish`], the caller waits until readers have left the standby. After an error it may be half changed; the
/// catalog knows.
pub fn catch_up(mirror: &Locked) -> Result<(), ViewError> {
    let Some(state) = mirror.view_state()?.filter(|state| !state.frozen) else { return Ok(()) };
    let slot = state.slot.other();
    let (twin, caught_up) = (mirror.twin(slot)?, Twin { base: Some(state.snapshot), target: None });
    if twin == caught_up {
        return Ok(());
    }
    let live = mirror.store().recorded(state.snapshot)?;
    let base = finish_pages(mirror, slot, twin)?;
    mirror.record_twin(slot, Twin { base, target: Some(live.id) })?;
    bring_pages(mirror, slot, base, &live.snapshot)?;
    Ok(mirror.record_twin(slot, caught_up)?)
}

/// Finishes the update of a tree that was interrupted, if one was: then its pages are those of one snapshot again, which is
/// returned. Its lists are not needed, and may be what the update could not write.
fn finish_pages(mirror: &Locked, slot: Slot, twin: Twin) -> Result<Option<Blake3>, ViewError> {
    let Some(halfway) = twin.target else { return Ok(twin.base) };
    bring_pages(mirror, slot, twin.base, &mirror.store().recorded(halfway)?.snapshot)?;
    Ok(Some(halfway))
}

/// Brings the pages of a tree from `base` to `target`, and syncs them.
fn bring_pages(mirror: &Locked, slot: Slot, base: Option<Blake3>, target: &Snapshot) -> Result<(), ViewError> {
    let (store, view) = (mirror.store(), mirror.view_directory());
    let tree = view.join(slot.as_str());
    let mut touched = Touched::default();
    begin_tree(store, &tree, base, &mut touched)?;
    update_pages(store, &tree, base, target, &mut touched)?;
    sync_all(store, &view, touched)
}

/// How much longer no process may touch the standby, if `drain` is how long a request may take.
pub fn undrained(state: Option<ViewState>, drain: Duration, now: Timestamp) -> Duration {
    if drain.is_zero() {
        return drain;
    }
    // Both times are whole seconds: the switch can have come up to one second later than it says.
    let whole = drain + Duration::from_secs(1);
    state.map_or(Duration::ZERO, |state| whole.saturating_sub(now.since(state.switched)))
}

fn switch(mirror: &Locked, slot: Slot) -> Result<(), ViewError> {
    let (store, view) = (mirror.store(), mirror.view_directory());
    store.disk().switch_link(&view.join("live"), Path::new(slot.as_str()))?;
    Ok(store.disk().sync_directory(&view)?)
}

/// Links every file that a verified snapshot names, and the published one does not, into the pool, and makes the
/// links durable. Publishing does this, too; a snapshot that is only recorded gets it too, so that what is at a path
/// of the pool tells which bytes that path means in every retained snapshot.
pub fn stock_pool(mirror: &Locked, verified: &Verified) -> Result<(), ViewError> {
    let touched = link_files(mirror, verified)?;
    sync_all(mirror.store(), &mirror.view_directory(), touched)
}

/// The part of [`stock_pool`] before the sync; returns which directories are to be synced.
fn link_files(mirror: &Locked, verified: &Verified) -> Result<Touched, ViewError> {
    let (store, snapshot) = (mirror.store(), verified.snapshot());
    let disk = store.disk();
    // A link that is found here would otherwise be one that gc is about to remove.
    let _placing = store.hold_deletions().map_err(StoreError::from)?;
    let view = mirror.view_directory();
    let live = mirror.view_state()?.map(|state| store.recorded(state.snapshot)).transpose()?;
    let pool = view.join(POOL);
    disk.create_directory(&pool)?;
    let mut touched = Touched::default();
    touched.insert(pool.clone());
    if live.is_none() {
        touched.extend([view.clone(), store.root().join("views")]);
    }
    let mut differences = store.differences(live.as_ref().map(|live| &live.snapshot), Some(snapshot));
    loop {
        let part = differences.next_part()?;
        if part.is_empty() {
            return Ok(touched);
        }
        let entries = part.iter().filter_map(|(_, unit)| unit.as_ref()).flat_map(Unit::entries);
        let files = entries.filter(|entry| entry.path.first_segment() == POOL);
        let (files, links): (Vec<_>, Vec<_>) = files.map(|entry| (entry, view.join(entry.path.as_str()))).unzip();
        // They share directories, and so are made one after the other. Of a first snapshot nothing is there yet,
        // unless its publication was interrupted.
        if live.is_some() {
            look_ahead(&links);
        }
        for (entry, link) in files.into_iter().zip(links) {
            let blob = store.blob_path(entry.blob);
            let directory = link.parent().unwrap_or(&pool);
            // Also what is there already: a process that died may have made it, and not come to sync it.
            touched.extend(directory.ancestors().take_while(|above| *above != pool).map(Path::to_owned));
            match stamp(&link)? {
                Some(found) if Some(found) == stamp(&blob)? => continue,
                // A sync gives a file another path where the pool has other bytes (`pool_file`).
                Some(_) => {
                    return Err(ViewError::Taken { mirror: snapshot.mirror.clone(), path: entry.path.clone() });
                }
                None => {}
            }
            disk.create_directory(directory)?;
            disk.link_or_copy(&blob, &link)?;
        }
    }
}

/// The size and the time of modification of what the pool of a mirror has at a path, if it has anything: together they
/// tell which blob it is.
pub fn pool_file(mirror: &Mirror, path: &TreePath) -> Result<Option<Stamp>, DiskError> {
    stamp(&mirror.view_directory().join(path.as_str()))
}

/// The size of a file and its time of modification in seconds since 1970: no two blobs of a store have the same.
pub type Stamp = (u64, u64);

/// Brings a tree from `base` to `target` by the difference, and syncs it; returns how many projects differ. What is
/// there may be anything between the two, so this may be repeated after a crash at any point of it.
fn update(
    mirror: &Locked,
    tree: &Path,
    base: Option<Blake3>,
    target: &Snapshot,
    beside: impl FnOnce() -> Result<Touched, ViewError> + Send,
    format: &dyn Format,
) -> Result<usize, ViewError> {
    let (store, mut touched) = (mirror.store(), Touched::default());
    begin_tree(store, tree, base, &mut touched)?;
    // In a large mirror the lists are tens of megabytes, which have to come to the disk whole, and the pool's directories lie as
    // far apart as the pages': all that is waited for together.
    let changed = std::thread::scope(|scope| {
        let (listing, beside) = (scope.spawn(|| write_lists(mirror, tree, target, format)), scope.spawn(beside));
        let changed = update_pages(store, tree, base, target, &mut touched);
        touched.extend(joined(beside)?.0);
        joined(listing)?;
        changed
    })?;
    sync_all(store, tree, touched)?;
    Ok(changed)
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Makes sure that a tree is there, an empty one if it has no `base`; adds to `touched` which directories are to be synced.
fn begin_tree(store: &Store, tree: &Path, base: Option<Blake3>, touched: &mut Touched) -> Result<(), ViewError> {
    let disk = store.disk();
    let pages = tree.join(PAGES);
    touched.insert(pages.clone());
    if base.is_none() {
        // Nothing is known of what is there: nothing should be.
        disk.remove_tree(tree)?;
        disk.create_directory(&pages)?;
        disk.switch_link(&tree.join(POOL), &Path::new("..").join(POOL))?;
        // The tree's own name, and those in it, have to be durable before `live` points to it.
        touched.extend([Some(tree), tree.parent()].into_iter().flatten().map(Path::to_owned));
    }
    Ok(())
}

/// The part of [`update`] that is about projects; returns how many differ, and adds to `touched` which directories are to be
/// synced.
fn update_pages(
    store: &Store,
    tree: &Path,
    base: Option<Blake3>,
    target: &Snapshot,
    touched: &mut Touched,
) -> Result<usize, ViewError> {
    let base = base.map(|base| store.recorded(base)).transpose()?;
    let mut differences = store.differences(base.as_ref().map(|base| &base.snapshot), Some(target));
    let mut changed = 0;
    loop {
        let part = differences.next_part()?;
        if part.is_empty() {
            return Ok(changed);
        }
        changed += part.len();
        // Each has a directory of its own.
        let update =
            |(project, unit): (ProjectName, Option<Unit>)| update_project(store, tree, &project, unit.as_ref());
        let directories = wide(|| part.into_par_iter().map(update).collect::<Result<Vec<_>, _>>())?;
        touched.extend(directories.into_iter().flatten());
    }
}

/// Makes a project's pages in a tree those of a unit, or removes them; returns the directory that they are in.
fn update_project(
    store: &Store,
    tree: &Path,
    project: &ProjectName,
    unit: Option<&Unit>,
) -> Result<Option<PathBuf>, DiskError> {
    let disk = store.disk();
    let directory = tree.join(PAGES).join(project.as_str());
    let wanted: BTreeMap<String, PathBuf> = unit
        .into_iter()
        .flat_map(Unit::entries)
        .filter(|entry| entry.path.first_segment() == PAGES)
        .map(|entry| (entry.path.to_string(), store.blob_path(entry.blob)))
        .collect();
    let there: BTreeMap<_, _> = children(&directory, Kind::Anything)?
        .into_iter()
        .map(|(name, path)| (format!("{PAGES}/{project}/{name}"), path))
        .collect();
    for (_, path) in there.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
        disk.remove_file(path)?;
    }
    if wanted.is_empty() {
        disk.remove_empty_directory(&directory)?;
        return Ok(None);
    }
    if there.is_empty() {
        disk.create_directory(&directory)?;
    }
    // To find out which link is right already takes longer than to make it again: mostly none is.
    for (path, blob) in wanted {
        if let Some(link) = there.get(&path) {
            disk.remove_file(link)?;
        }
        disk.link_or_copy(&blob, &tree.join(path))?;
    }
    Ok(Some(directory))
}

/// Whether the root lists of a tree are those of a snapshot, by their bytes. What cannot be read is not.
fn has_lists(tree: &Path, snapshot: &Snapshot) -> bool {
    let mut buffer = vec![0; 64 << 10];
    snapshot.lists.iter().all(|list| {
        let file = File::open(tree.join(list.path.as_str()));
        file.and_then(|file| Blake3::of_reader(file, &mut buffer)).is_ok_and(|found| found == list.blake3)
    })
}

/// Writes the root lists of `target`, and syncs them, all but their names. The files are new ones, with times of their own.
pub(crate) fn write_lists(
    mirror: &Mirror,
    tree: &Path,
    target: &Snapshot,
    format: &dyn Format,
) -> Result<(), ViewError> {
    let store = mirror.store();
    let disk = store.disk();
    let first_mtime = store.allocate_mtimes(target.lists.len() as u64)?;
    let mut projects: Option<Vec<ListedProject>> = None;
    let mut written: Vec<(Blake3, PathBuf)> = Vec::new();
    for (mtime, list) in (first_mtime..).zip(&target.lists) {
        let path = tree.join(list.path.as_str());
        disk.remove_file(&path)?;
        if let Some((_, same)) = written.iter().find(|(digest, _)| *digest == list.blake3) {
            disk.link_or_copy(same, &path)?;
            continue;
        }
        let mut file = match staging::take(mirror, list, &path)? {
            Some(file) => file,
            None => {
                let projects = match &mut projects {
                    Some(projects) => projects,
                    none => none.insert(mirror.listed(target)?.into_iter().map(ListedProject::from).collect()),
                };
                let file = disk.create_file(&path)?;
                let (digests, file) = staging::write(format, &list.path, target.label.serial, projects, Some(file))?;
                if digests.0 != list.blake3 {
                    return Err(ViewError::List { mirror: target.mirror.clone(), path: list.path.clone() });
                }
                file.expect("it was given one")
            }
        };
        file.seal(mtime)?;
        file.sync()?;
        written.push((list.blake3, path));
    }
    Ok(())
}

/// The directories that are to be synced; which ones is forgotten where there are so many that everything is.
#[derive(Debug, Default)]
pub(crate) struct Touched(BTreeSet<PathBuf>);

impl Touched {
    pub(crate) fn insert(&mut self, directory: PathBuf) {
        if self.0.len() <= WORTH_A_SYNCFS {
            self.0.insert(directory);
        }
    }

    /// Whether so much is to be synced that the file system is, as a whole.
    fn is_everything(&self) -> bool {
        self.0.len() > WORTH_A_SYNCFS
    }

    pub(crate) fn extend(&mut self, directories: impl IntoIterator<Item = PathBuf>) {
        directories.into_iter().for_each(|directory| self.insert(directory));
    }
}

pub(crate) fn sync_all(store: &Store, top: &Path, touched: Touched) -> Result<(), ViewError> {
    if touched.is_everything() {
        store.disk().sync_file_system(top)?;
    } else {
        for directory in touched.0 {
            store.disk().sync_directory(&directory)?;
        }
    }
    Ok(())
}

/// What tells files apart; `None` if there is none. Copies of a blob have the same as the blob.
pub(crate) fn stamp(path: &Path) -> Result<Option<Stamp>, DiskError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some((metadata.len(), u64::try_from(metadata.mtime()).unwrap_or(0)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DiskError::new("look at", path, error)),
    }
}

/// What is looked for in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Anything,
    Directory,
}

/// The names and paths of what is in a directory; none if it is not there. Links are not followed.
pub(crate) fn children(directory: &Path, kind: Kind) -> Result<Vec<(String, PathBuf)>, DiskError> {
    let mut found = Vec::new();
    for entry in WalkDir::new(directory).min_depth(1).max_depth(1) {
        match entry {
            Ok(entry) if kind == Kind::Directory && !entry.file_type().is_dir() => {}
            Ok(entry) => found.push((entry.file_name().to_string_lossy().into_owned(), entry.into_path())),
            Err(error) if error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => {}
            Err(error) => return Err(DiskError::new("list", directory, error.into())),
        }
    }
    Ok(found)
}
