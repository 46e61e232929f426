//! Looking whether a view is what the catalog says.

use std::fmt;
use std::path::{Path, PathBuf};

use strandline_model::{MirrorName, TreePath};
use strandline_store::{Store, StoreError};

use crate::publish::{POOL, ViewError, stamp};

/// A link of a view that is not as the catalog says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path.display(), self.problem)
    }
}

/// Looks at `live`, every page of the live tree, every root list, and the pool's file for every path that is
/// published. Changes nothing.
pub fn check(store: &Store, mirror: &MirrorName) -> Result<Vec<Broken>, ViewError> {
    let mut broken = Vec::new();
    let Some(state) = store.view_state(mirror)? else { return Ok(broken) };
    let view = store.view_directory(mirror);
    let live = view.join("live");
    if !std::fs::read_link(&live).is_ok_and(|target| target == Path::new(state.slot.as_str())) {
        let problem = format!("does not point to `{}`; the next sync puts it right", state.slot);
        broken.push(Broken { path: live, problem });
    }
    let tree = view.join(state.slot.as_str());
    let snapshot = store.recorded(state.snapshot)?.snapshot;
    let place = |path: &TreePath| {
        if path.first_segment() == POOL { view.join(path.as_str()) } else { tree.join(path.as_str()) }
    };
    for list in &snapshot.lists {
        let path = place(&list.path);
        match stamp(&path)? {
            Some((size, _)) if size == list.size => {}
            Some((size, _)) => {
                broken.push(Broken { path, problem: format!("has {size} bytes instead of {}", list.size) });
            }
            None => broken.push(Broken { path, problem: "is missing".to_owned() }),
        }
    }
    for leaf in store.leaves(&snapshot)? {
        let unit = match store.unit(leaf.unit) {
            Ok(unit) => unit,
            // The store's own check names damaged bodies.
            Err(StoreError::Damaged { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        for entry in unit.entries() {
            let path = place(&entry.path);
            let blob = stamp(&store.blob_path(entry.blob))?;
            match stamp(&path)? {
                // Without the blob there is nothing to compare with; the store's own check names it.
                Some(found) if blob.is_none_or(|blob| blob == found) => {}
                Some(_) => broken.push(Broken { path, problem: format!("is not blob {}", entry.blob) }),
                None => broken.push(Broken { path, problem: "is missing".to_owned() }),
            }
        }
    }
    Ok(broken)
}
