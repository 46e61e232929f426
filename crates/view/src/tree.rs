//! The twins: two trees of pages and lists, of which one is live. This module brings the other one from one snapshot to
//! another.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;

use rayon::prelude::*;
use strandline_durable::{DiskError, children, wide};
use strandline_model::{Blake3, Format, ListedProject, ProjectName, Snapshot, Unit};
use strandline_store::{Locked, Mirror, Slot, Store, Twin, Verified, ViewState};

use crate::files::{Touched, sync_all};
use crate::pool::POOL;
use crate::{ViewError, staging};

/// The directory of a tree that changes with the snapshot. Everything else is in the pool.
pub(crate) const PAGES: &str = "simple";

/// Brings a tree that is not live to a snapshot, all but the record that it is there, and syncs it with the directories
/// that `beside` touches, which runs meanwhile; returns how many projects had to be changed.
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
        // The usual case when an operator goes back: the standby still has the snapshot that was published before.
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
/// The caller has waited until readers have left the standby. After an error it may be half changed; the catalog knows.
pub(crate) fn catch_up(mirror: &Locked) -> Result<(), ViewError> {
    match mirror.view_state()?.filter(|state| !state.frozen) {
        Some(state) => follow(mirror, state),
        None => Ok(()),
    }
}

/// Brings the pages of the standby to what readers see, but not its lists. After an error as in [`catch_up`].
pub(crate) fn follow(mirror: &Locked, state: ViewState) -> Result<(), ViewError> {
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

/// Finishes the update of a tree that was interrupted, if one was: then its pages are those of one snapshot again,
/// which is returned. Its lists are not brought up: they are not needed, and may be the very files that the update
/// could not write.
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

/// Brings a tree from `base` to `target` by the difference, and syncs it; returns how many projects differ. The tree
/// may be anything between the two, so this may be repeated after a crash at any point of it.
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
    // In a large mirror the lists are tens of megabytes, which have to come to the disk whole, and the pool's
    // directories lie as far apart as the pages': so the program waits for all of it together.
    let changed = std::thread::scope(|scope| {
        let (listing, beside) = (scope.spawn(|| write_lists(mirror, tree, target, format)), scope.spawn(beside));
        let changed = update_pages(store, tree, base, target, &mut touched);
        touched.absorb(joined(beside)?);
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
        // The catalog knows nothing of files in this tree, so there should be none.
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
    let there: BTreeMap<_, _> = children(&directory)?
        .into_iter()
        .map(|child| (format!("{PAGES}/{project}/{}", child.file_name().to_string_lossy()), child.path()))
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
    // Finding out which links are right already would take longer than making them again: mostly none is.
    for (path, blob) in wanted {
        if let Some(link) = there.get(&path) {
            disk.remove_file(link)?;
        }
        disk.link_or_copy(&blob, &tree.join(path))?;
    }
    Ok(Some(directory))
}

/// Whether the root lists of a tree are those of a snapshot, by their bytes. A list that cannot be read is not.
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
                    none => none.insert(mirror.listed(target)?),
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
