//! Removing a mirror.
//!
//! First the mirror's row is marked as going: from then on the catalog says that there is no mirror of that name. Then
//! its view and the temporary files of its intakes are removed from the disk; then the row goes, and with it everything
//! that the catalog has of the mirror. After a crash, the process that next takes the mirror's lock or opens the store
//! finishes this. `gc` deletes the blobs that only this mirror named.

use std::sync::Arc;

use strandline_durable::Lock;
use strandline_model::MirrorName;

use crate::rows::parsed;
use crate::{Locked, Mirror, Store, StoreError};

impl Locked {
    /// Removes the mirror with all its snapshots and its view. An error leaves it half removed: opening the store finishes that.
    pub fn remove(self) -> Result<(), StoreError> {
        self.store.execute("UPDATE mirror SET removing = 1 WHERE id = ?1", [self.number])?;
        self.store.finish_removal(self.name())
    }
}

impl Store {
    /// Finishes the removal of a mirror, if one was begun. The caller has its lock.
    pub(crate) fn finish_removal(self: &Arc<Self>, name: &MirrorName) -> Result<(), StoreError> {
        let removing = "SELECT id FROM mirror WHERE name = ?1 AND removing = 1";
        let Some(number) = self.row(removing, [name.as_str()], |row| row.get(0))? else { return Ok(()) };
        self.clear_intake(&Mirror { store: Arc::clone(self), name: name.clone(), number })?;
        let views = self.root.join("views");
        // Readers lose it at once, and not file by file.
        self.disk.remove_file(&views.join(name.as_str()).join("live"))?;
        self.disk.remove_tree(&views.join(name.as_str()))?;
        self.disk.sync_directory(&views)?;
        self.execute("DELETE FROM mirror WHERE id = ?1", [number])?;
        Ok(())
    }

    /// Finishes what processes left half done that died while they removed a mirror or took blobs in for one.
    pub(crate) fn finish_mirrors(self: &Arc<Self>) -> Result<(), StoreError> {
        let removing: Vec<MirrorName> =
            self.rows("SELECT name FROM mirror WHERE removing = 1", [], |row| parsed(row, 0))?;
        for name in removing {
            if let Some(_lock) = Lock::free(&self.mirror_lock(&name))? {
                self.finish_removal(&name)?;
            }
        }
        let mut incoming = self.with_incoming()?;
        incoming.extend(self.intakes()?.into_keys());
        for name in incoming {
            // A process that is alive shares this lock; one that begins waits until it is free.
            if let Some(_dead) = Lock::free(&self.intake_lock(&name))? {
                match self.mirror(&name)? {
                    Some(mirror) => {
                        self.clear_intake(&mirror)?;
                        self.execute("DELETE FROM intake WHERE mirror = ?1", [mirror.number])?;
                    }
                    // Of a mirror that the catalog does not know: an older catalog was restored.
                    None => self.disk.remove_tree(&self.incoming(&name))?,
                }
            }
        }
        Ok(())
    }
}
