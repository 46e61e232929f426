//! The mirrors of a store: their names, their rows, and how large they are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use strandline_model::{MirrorName, Timestamp, UpstreamUrl};

use crate::rows::{parsed, parsed_or_null, time};
use crate::{Store, StoreError};

/// A mirror of a store, to be read. Reading needs no lock, and says what was committed when it was read.
///
/// It knows its row by number. While the mirror is being removed it publishes nothing; afterwards it has no snapshot,
/// also if another mirror has its name by then.
#[derive(Debug, Clone)]
pub struct Mirror {
    pub(crate) store: Arc<Store>,
    pub(crate) name: MirrorName,
    pub(crate) number: i64,
}

/// How large things are, as a collection found them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// When.
    pub time: Timestamp,
    /// All blobs of the store, in bytes.
    pub bytes: u64,
    /// What the mirrors have of them.
    pub mirrors: BTreeMap<MirrorName, MirrorUsage>,
}

/// What a mirror's kept snapshots name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorUsage {
    /// All of it, each blob once, in bytes.
    pub bytes: u64,
    /// Of these, those that no other mirror names, in bytes.
    pub own: u64,
}

impl Store {
    /// All mirrors that were ever locked and were not removed since, sorted by name.
    pub fn mirrors(self: &Arc<Self>) -> Result<Vec<Mirror>, StoreError> {
        self.rows("SELECT name, id FROM mirror WHERE removing = 0 ORDER BY name", [], |row| {
            Ok(Mirror { store: Arc::clone(self), name: parsed(row, 0)?, number: row.get(1)? })
        })
    }

    /// The mirror of this name, if it was ever locked and was not removed since.
    pub fn mirror(self: &Arc<Self>, name: &MirrorName) -> Result<Option<Mirror>, StoreError> {
        let number = self.mirror_number(name)?;
        Ok(number.map(|number| Mirror { store: Arc::clone(self), name: name.clone(), number }))
    }

    fn mirror_number(&self, name: &MirrorName) -> Result<Option<i64>, StoreError> {
        self.row("SELECT id FROM mirror WHERE name = ?1 AND removing = 0", [name.as_str()], |row| row.get(0))
    }

    /// The number of a mirror's row, which is made if there is none.
    pub(crate) fn ensure_mirror(&self, name: &MirrorName) -> Result<i64, StoreError> {
        if let Some(number) = self.mirror_number(name)? {
            return Ok(number);
        }
        self.transaction(|transaction| {
            transaction
                .query_row("INSERT INTO mirror (name) VALUES (?1) RETURNING id", [name.as_str()], |row| row.get(0))
                .map_err(self.sql())
        })
    }

    /// What the last collection found of the size of things; `None` before the first.
    pub fn usage(&self) -> Result<Option<Usage>, StoreError> {
        let found = self.row("SELECT bytes, time FROM usage", [], |row| Ok((row.get(0)?, time(row, 1)?)))?;
        let Some((bytes, time)) = found else { return Ok(None) };
        let sizes = "SELECT name, bytes, own FROM mirror WHERE bytes IS NOT NULL AND removing = 0";
        let read =
            |row: &rusqlite::Row<'_>| Ok((parsed(row, 0)?, MirrorUsage { bytes: row.get(1)?, own: row.get(2)? }));
        let mirrors = self.rows(sizes, [], read)?.into_iter().collect();
        Ok(Some(Usage { time, bytes, mirrors }))
    }
}

impl Mirror {
    /// Its name.
    pub fn name(&self) -> &MirrorName {
        &self.name
    }

    /// The store that it is in.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What it is a copy of; `None` before its first snapshot.
    pub fn upstream(&self) -> Result<Option<UpstreamUrl>, StoreError> {
        let found =
            self.store.row("SELECT upstream FROM mirror WHERE id = ?1", [self.number], |row| parsed_or_null(row, 0))?;
        Ok(found.flatten())
    }

    /// Where its view stands.
    pub fn view_directory(&self) -> PathBuf {
        self.store.view_directory(&self.name)
    }
}
