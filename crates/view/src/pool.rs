//! The pool: the mirror's release files at their paths, beside the twins.

use std::path::Path;

use strandline_durable::{DiskError, look_ahead};
use strandline_model::{TreePath, Unit};
use strandline_store::{Locked, Mirror, StoreError, Verified};

use crate::ViewError;
use crate::files::{Stamp, Touched, stamp};

/// The directory of the pool.
pub(crate) const POOL: &str = "packages";

/// Links every file that a verified snapshot names, and the published one does not, into the pool; returns which directories are
/// to be synced.
pub(crate) fn link_files(mirror: &Locked, verified: &Verified) -> Result<Touched, ViewError> {
    let (store, snapshot) = (mirror.store(), verified.snapshot());
    let disk = store.disk();
    // Without this, a link that is found in the pool might be one that gc is about to remove.
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
        // The links share directories, and so are made one after the other. At a first snapshot the pool has none of
        // them yet, unless its publication was interrupted, so there is nothing to look at ahead.
        if live.is_some() {
            look_ahead(&links);
        }
        for (entry, link) in files.into_iter().zip(links) {
            let blob = store.blob_path(entry.blob);
            let directory = link.parent().unwrap_or(&pool);
            // Also a directory that is there already: a process that died may have made it and not have synced it.
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
