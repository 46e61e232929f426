//! Removing a mirror.
//!
//! First the catalog says that it goes, and forgets its snapshots; then its view and what came in for it are removed; then
//! its row. Whoever takes its lock next, or opens the store, finishes that. What only it named is gc's to delete.

use strandline_durable::Lock;
use strandline_model::MirrorName;

use crate::{MirrorLock, Store, StoreError};

/// What the catalog has of a mirror, by its number.
const BY_NUMBER: [&str; 9] = [
    "DELETE FROM view WHERE mirror = ?1",
    "DELETE FROM twin WHERE mirror = ?1",
    "DELETE FROM pool_leaving WHERE mirror = ?1",
    "DELETE FROM validator WHERE mirror = ?1",
    "DELETE FROM recheck WHERE mirror = ?1",
    "DELETE FROM last_sync WHERE mirror = ?1",
    "DELETE FROM listing WHERE mirror = ?1",
    "DELETE FROM listed WHERE mirror = ?1",
    "DELETE FROM pin WHERE snapshot IN (SELECT id FROM snapshot WHERE mirror = ?1)",
];
/// And by its name.
const BY_NAME: [&str; 8] = [
    "DELETE FROM trouble WHERE mirror = ?1",
    "DELETE FROM seen WHERE mirror = ?1",
    "DELETE FROM missing_serial WHERE mirror = ?1",
    "DELETE FROM adopted WHERE mirror = ?1",
    "DELETE FROM private_blob WHERE mirror = ?1",
    // What was withdrawn from it stays withdrawn, should it come back.
    "DELETE FROM purging WHERE mirror = ?1",
    "DELETE FROM left_out WHERE mirror = ?1",
    "DELETE FROM reread WHERE mirror = ?1",
];

impl Store {
    /// Removes a mirror with all its snapshots and its view. Returns whether there was one.
    pub fn remove_mirror(&self, mirror: &MirrorName, lock: &MirrorLock) -> Result<bool, StoreError> {
        let found = self.transaction(|transaction| {
            let run = || {
                for query in BY_NAME {
                    transaction.execute(query, [mirror.as_str()])?;
                }
                let marked = "UPDATE mirror SET removing = 1 WHERE name = ?1 RETURNING id";
                let mut rows = transaction
                    .prepare(marked)?
                    .query_map([mirror.as_str()], |row| row.get(0))?
                    .collect::<Result<Vec<i64>, _>>()?;
                let Some(number) = rows.pop() else { return Ok(false) };
                for query in BY_NUMBER {
                    transaction.execute(query, [number])?;
                }
                transaction.execute("DELETE FROM snapshot WHERE mirror = ?1", [number])?;
                Ok(true)
            };
            run().map_err(self.sql())
        })?;
        self.finish_removal(mirror, lock)?;
        Ok(found)
    }

    /// Finishes the removal of a mirror, if one was begun.
    pub(crate) fn finish_removal(&self, mirror: &MirrorName, _lock: &MirrorLock) -> Result<(), StoreError> {
        if !self.removals()?.contains(mirror) {
            return Ok(());
        }
        self.clear_intake(mirror)?;
        let views = self.root.join("views");
        // Readers lose it at once, and not file by file.
        self.disk.remove_file(&views.join(mirror.as_str()).join("live"))?;
        self.disk.remove_tree(&views.join(mirror.as_str()))?;
        self.disk.sync_directory(&views)?;
        self.transaction(|transaction| {
            transaction
                .execute("DELETE FROM mirror WHERE name = ?1 AND removing = 1", [mirror.as_str()])
                .map_err(self.sql())
        })?;
        Ok(())
    }

    /// The mirrors whose removal has begun.
    pub(crate) fn removals(&self) -> Result<Vec<MirrorName>, StoreError> {
        let names: Vec<String> = self
            .connection()
            .prepare_cached("SELECT name FROM mirror WHERE removing = 1")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .map_err(self.sql())?;
        names.iter().map(|name| self.stored(name)).collect()
    }

    /// Finishes what processes left half done that died while they removed a mirror or took blobs in for one.
    pub(crate) fn finish_mirrors(&self) -> Result<(), StoreError> {
        for mirror in self.removals()? {
            let lock = Lock::free(&self.mirror_lock(&mirror))?;
            if let Some(lock) = lock {
                self.finish_removal(&mirror, &MirrorLock { _mirror: lock })?;
            }
        }
        let mut incoming = self.with_incoming()?;
        incoming.extend(self.intakes()?.into_keys());
        for mirror in incoming {
            // Whoever is alive shares this lock; whoever begins waits until it is free.
            if let Some(_dead) = Lock::free(&self.intake_lock(&mirror))? {
                self.clear_intake(&mirror)?;
                self.transaction(|transaction| {
                    transaction.execute("DELETE FROM intake WHERE mirror = ?1", [mirror.as_str()]).map_err(self.sql())
                })?;
            }
        }
        Ok(())
    }
}
