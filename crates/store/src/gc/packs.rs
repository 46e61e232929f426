//! Which packs go together with bodies.

use std::collections::{HashMap, HashSet};

use rusqlite::Connection;
use strandline_model::Blake3;

use crate::rows::{blake3, execute_each};

/// What leaves the catalog: bodies that nothing reaches, and the packs that then have none and are no reference of any that
/// stays.
#[derive(Default)]
pub(crate) struct Bodies {
    /// Each with the number of its pack.
    pub(crate) going: Vec<(Blake3, i64)>,
    /// The packs that go, with the number of their reference.
    packs: HashMap<i64, Option<i64>>,
    /// The greatest number that a pack had when these were found.
    last: i64,
}

impl Bodies {
    /// `marked` says which bodies stay.
    pub(crate) fn find(connection: &Connection, marked: impl Fn(&Blake3) -> bool) -> rusqlite::Result<Self> {
        // One transaction, so that it sees each body in the pack that it sees.
        let transaction = connection.unchecked_transaction()?;
        let (mut going, mut staying) = (Vec::new(), Vec::new());
        let mut bodies = transaction.prepare("SELECT id, pack FROM body")?;
        let mut rows = bodies.query([])?;
        while let Some(row) = rows.next()? {
            let (id, pack) = (blake3(row, 0)?, row.get(1)?);
            if marked(&id) {
                staying.push(pack);
            } else {
                going.push((id, pack));
            }
        }
        staying.sort_unstable();
        staying.dedup();
        let (mut packs, mut needed, mut last) = (HashMap::new(), HashSet::new(), 0);
        let mut references = transaction.prepare("SELECT number, reference FROM pack ORDER BY number")?;
        let mut rows = references.query([])?;
        while let Some(row) = rows.next()? {
            let (number, reference) = (row.get(0)?, row.get(1)?);
            last = number;
            if staying.binary_search(&number).is_ok() {
                needed.extend(reference);
            } else {
                packs.insert(number, reference);
            }
        }
        packs.retain(|number, _| !needed.contains(number));
        Ok(Self { going, packs, last })
    }

    /// Takes out what has come to be needed since: bodies that are marked now with their packs, and the references of these and
    /// of packs that were written since.
    pub(crate) fn keep_marked(
        &mut self,
        connection: &Connection,
        marked: impl Fn(&Blake3) -> bool,
    ) -> rusqlite::Result<()> {
        let Self { going, packs, last } = self;
        going.retain(|(id, pack)| {
            let stays = marked(id);
            if stays && let Some(Some(reference)) = packs.remove(pack) {
                packs.remove(&reference);
            }
            !stays
        });
        // Only gc deletes packs, so what was written since has greater numbers.
        let mut written =
            connection.prepare("SELECT reference FROM pack WHERE number > ?1 AND reference IS NOT NULL")?;
        let mut rows = written.query([*last])?;
        while let Some(row) = rows.next()? {
            packs.remove(&row.get(0)?);
        }
        Ok(())
    }

    pub(crate) fn delete(&self, connection: &Connection) -> rusqlite::Result<()> {
        execute_each(connection, "DELETE FROM body WHERE id = ?1", &self.going, |(id, _)| [*id.as_bytes()])?;
        execute_each(connection, "DELETE FROM pack WHERE number = ?1", self.packs.keys(), |number| [*number]).map(drop)
    }
}
