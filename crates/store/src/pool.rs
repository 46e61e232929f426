//! The links of a mirror's pool, as they go.

use std::collections::BTreeSet;
use std::path::PathBuf;

use strandline_model::{MirrorName, TreePath};

use crate::{Mirror, Store, StoreError};

/// The directory of a view that has the release files.
pub(crate) const POOL: &str = "packages";

impl Mirror {
    /// Removes paths of the mirror's pool, and the directories that are empty then. Waits until no process puts links
    /// there, and for nothing else: withdrawn files go at once, even while another process has the mirror locked.
    pub fn remove_links(&self, paths: &BTreeSet<TreePath>) -> Result<(), StoreError> {
        let _deleting = self.store.lock_deletions()?;
        self.store.remove_links(paths.iter().map(|path| (&self.name, path)))
    }
}

impl Store {
    /// Removes paths of pools, and the directories that are empty then; when this returns, that is durable. The caller has the
    /// right to delete.
    pub(crate) fn remove_links<'a>(
        &self,
        links: impl IntoIterator<Item = (&'a MirrorName, &'a TreePath)>,
    ) -> Result<(), StoreError> {
        let mut touched = BTreeSet::new();
        for (mirror, path) in links {
            let view = self.view_directory(mirror);
            let link = view.join(path.as_str());
            // Also where it is gone already: a crash may have come before that was durable.
            self.disk.remove_file(&link)?;
            // The directories above, up to the pool's own, go when they are empty.
            let mut directory = link.parent();
            while let Some(empty) = directory
                && empty != view.join(POOL)
                && self.disk.remove_empty_directory(empty)?
            {
                directory = empty.parent();
            }
            touched.extend(directory.map(PathBuf::from));
        }
        for directory in touched.iter().filter(|directory| directory.is_dir()) {
            self.disk.sync_directory(directory)?;
        }
        Ok(())
    }
}
