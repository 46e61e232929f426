//! What was taken over from another program's tree and waits for a snapshot to name it.

use std::collections::BTreeSet;

use strandline_model::{Blake3, MirrorName, ProjectName, Unit};

use crate::bodies::Bodies;
use crate::{MirrorLock, Store, StoreError};

impl Store {
    /// Remembers projects as a tree had them, so that gc leaves the blobs alone that they name. Those are settled.
    pub fn record_adopted(&self, mirror: &MirrorName, units: &[Unit], _lock: &MirrorLock) -> Result<(), StoreError> {
        // Done again, there is nothing new to say.
        let mut new = Vec::new();
        for unit in units {
            let bytes = unit.to_bytes();
            let id = Blake3::of(&bytes);
            let known: bool = self
                .connection()
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM adopted WHERE mirror = ?1 AND project = ?2 AND unit = ?3)",
                )
                .and_then(|mut statement| {
                    statement.query_row((mirror.as_str(), unit.name().as_str(), id.as_bytes()), |row| row.get(0))
                })
                .map_err(self.sql())?;
            if !known {
                new.push((unit.name(), id, bytes));
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        self.transaction(|transaction| {
            let bodies = Bodies { store: self, connection: transaction };
            for unit in units {
                let bytes = unit.to_bytes();
                let id = Blake3::of(&bytes);
                bodies.write(id, &bytes)?;
                transaction
                    .prepare_cached("INSERT OR IGNORE INTO adopted (mirror, project, unit) VALUES (?1, ?2, ?3)")
                    .and_then(|mut statement| statement.execute((mirror.as_str(), unit.name().as_str(), id.as_bytes())))
                    .map_err(self.sql())?;
            }
            Ok(())
        })
    }

    /// The adopted projects of a mirror that wait for a snapshot.
    pub fn adopted(&self, mirror: &MirrorName) -> Result<BTreeSet<ProjectName>, StoreError> {
        let names: Vec<String> = self
            .connection()
            .prepare_cached("SELECT DISTINCT project FROM adopted WHERE mirror = ?1")
            .and_then(|mut statement| statement.query_map([mirror.as_str()], |row| row.get(0))?.collect())
            .map_err(self.sql())?;
        names.iter().map(|name| self.stored(name)).collect()
    }

    /// Forgets the adopted projects of a mirror, but for those `except`: from now on its snapshots say what it needs.
    pub fn forget_adopted(
        &self,
        mirror: &MirrorName,
        except: &BTreeSet<ProjectName>,
        _lock: &MirrorLock,
    ) -> Result<(), StoreError> {
        let waiting = self.adopted(mirror)?;
        if waiting.is_subset(except) {
            return Ok(());
        }
        self.transaction(|transaction| {
            let mut statement = transaction
                .prepare_cached("DELETE FROM adopted WHERE mirror = ?1 AND project = ?2")
                .map_err(self.sql())?;
            waiting
                .difference(except)
                .try_for_each(|project| statement.execute([mirror.as_str(), project.as_str()]).map(drop))
                .map_err(self.sql())
        })
    }
}
