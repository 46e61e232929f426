//! What the newest tree of a mirror lists, in the order of names.
//!
//! The root lists name every project, and a tree of 700,000 takes seconds to read. So the catalog has its leaves once more,
//! as rows in the order of names, and a commit changes only the rows of what changed. The tree is the truth: these rows say of
//! which tree they are, and carry a sum over all of them; where either does not fit they are made anew from the tree. What
//! another tree lists is found as the difference from this one.

use std::collections::BTreeMap;

use rayon::prelude::*;
use rusqlite::{Connection, OptionalExtension as _};
use strandline_model::{Blake3, Leaf, MirrorName, ProjectName, Serial, Snapshot, trie};

use crate::bodies::{Bodies, Remembered};
use crate::{Store, StoreError};

/// The sum over the digests of rows: whatever the order in which they came and went, the same rows have the same sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum(u128);

impl Sum {
    fn of(leaf: &Leaf) -> u128 {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(leaf.unit.as_bytes());
        bytes.extend_from_slice(&leaf.serial.get().to_le_bytes());
        bytes.extend_from_slice(leaf.name.as_str().as_bytes());
        // No name has a space.
        bytes.push(b' ');
        bytes.extend_from_slice(leaf.display.as_str().as_bytes());
        let digest = Blake3::of(&bytes);
        digest.as_bytes().iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte))
    }

    fn add(&mut self, leaf: &Leaf) {
        self.0 = self.0.wrapping_add(Self::of(leaf));
    }

    fn remove(&mut self, leaf: &Leaf) {
        self.0 = self.0.wrapping_sub(Self::of(leaf));
    }
}

impl Store {
    /// All projects of a snapshot, sorted by name, for its root lists.
    pub fn listed(&self, snapshot: &Snapshot) -> Result<Vec<Leaf>, StoreError> {
        {
            let connection = self.connection();
            if let Some((tree, leaves)) = self.read_listing(&connection, &snapshot.mirror)? {
                if tree == snapshot.tree {
                    return Ok(leaves);
                }
                let bodies = Bodies { store: self, connection: &connection };
                let mut changes = BTreeMap::new();
                let compared = trie::diff(&Remembered(&bodies), Some(tree), Some(snapshot.tree), &mut |change| {
                    changes.insert(change.name, change.after);
                    Ok::<_, StoreError>(())
                });
                // The tree of these rows may be gone by now.
                if compared.is_ok() {
                    return Ok(overlaid(leaves, changes));
                }
            }
        }
        self.leaves(snapshot)
    }

    /// The rows of a mirror and the tree that they are of, if they are whole.
    fn read_listing(
        &self,
        connection: &Connection,
        mirror: &MirrorName,
    ) -> Result<Option<(Blake3, Vec<Leaf>)>, StoreError> {
        let Some((number, tree, sum, units)) = self.listing_of(connection, mirror)? else { return Ok(None) };
        let mut leaves = Vec::with_capacity(usize::try_from(units).unwrap_or(0).min(1 << 24));
        let mut statement = connection
            .prepare_cached("SELECT name, unit, serial, display FROM listed WHERE mirror = ?1 ORDER BY name")
            .map_err(self.sql())?;
        let mut rows = statement.query([number]).map_err(self.sql())?;
        while let Some(row) = rows.next().map_err(self.sql())? {
            leaves.push(self.listed_leaf(row)?);
        }
        let found = leaves.par_iter().map(Sum::of).reduce(|| 0, u128::wrapping_add);
        Ok((Sum(found) == sum && leaves.len() as u64 == units).then_some((tree, leaves)))
    }

    fn listed_leaf(&self, row: &rusqlite::Row<'_>) -> Result<Leaf, StoreError> {
        let read = || {
            let name = row.get_ref(0)?.as_str()?;
            let display = row.get_ref(3)?.as_str_or_null()?;
            Ok((name, row.get::<_, [u8; 32]>(1)?, row.get::<_, u64>(2)?, display.unwrap_or(name)))
        };
        let (name, unit, serial, display) = read().map_err(self.sql())?;
        Ok(Leaf {
            unit: Blake3::from_stored(unit),
            serial: Serial::try_from(serial).map_err(|error| self.foreign(&error))?,
            name: self.stored(name)?,
            display: self.stored(display)?,
        })
    }

    fn listing_of(
        &self,
        connection: &Connection,
        mirror: &MirrorName,
    ) -> Result<Option<(i64, Blake3, Sum, u64)>, StoreError> {
        connection
            .prepare_cached(
                "SELECT l.mirror, l.tree, l.sum, l.units FROM listing l JOIN mirror m ON m.id = l.mirror WHERE m.name = ?1",
            )
            .and_then(|mut statement| {
                statement
                    .query_row([mirror.as_str()], |row| {
                        let sum = Sum(u128::from_le_bytes(row.get(2)?));
                        Ok((row.get(0)?, Blake3::from_stored(row.get(1)?), sum, row.get(3)?))
                    })
                    .optional()
            })
            .map_err(self.sql())
    }

    /// Brings the rows of a mirror from the tree `base` to the tree `tree`, which lists `changes` differently; returns all that
    /// it lists, sorted by name.
    pub(crate) fn update_listing(
        &self,
        connection: &Connection,
        mirror: &MirrorName,
        base: Option<Blake3>,
        tree: Blake3,
        changes: &BTreeMap<ProjectName, Option<Leaf>>,
    ) -> Result<Vec<Leaf>, StoreError> {
        let number = self.mirror_id(connection, mirror)?;
        let mut found = BTreeMap::new();
        let rows = match self.listing_of(connection, mirror)? {
            Some((_, of, sum, units)) if Some(of) == base => Some((sum, units, changes)),
            // A revision of an earlier snapshot, or the first snapshot after one.
            Some((_, of, sum, units)) => {
                let bodies = Bodies { store: self, connection };
                let compared = trie::diff(&Remembered(&bodies), Some(of), Some(tree), &mut |change| {
                    found.insert(change.name, change.after);
                    Ok::<_, StoreError>(())
                });
                // The tree of these rows may be gone by now.
                compared.is_ok().then_some((sum, units, &found))
            }
            None => None,
        };
        if let Some((mut sum, mut units, changes)) = rows {
            for (name, leaf) in changes {
                if let Some(before) = self.take_listed(connection, number, name)? {
                    sum.remove(&before);
                    units = units.saturating_sub(1);
                }
                if let Some(leaf) = leaf {
                    self.insert_listed(connection, number, leaf)?;
                    sum.add(leaf);
                    units += 1;
                }
            }
            self.record_listing(connection, number, tree, sum, units)?;
            if let Some((_, leaves)) = self.read_listing(connection, mirror)? {
                return Ok(leaves);
            }
            tracing::warn!(%mirror, "the catalog's list of projects was not that of its tree, and is made anew");
        }
        let bodies = Bodies { store: self, connection };
        let mut leaves = Vec::new();
        trie::walk(&bodies, tree, &mut |leaf| {
            leaves.push(leaf);
            Ok::<_, StoreError>(())
        })?;
        leaves.sort_unstable();
        connection.execute("DELETE FROM listed WHERE mirror = ?1", [number]).map_err(self.sql())?;
        let mut sum = Sum::default();
        for leaf in &leaves {
            self.insert_listed(connection, number, leaf)?;
            sum.add(leaf);
        }
        self.record_listing(connection, number, tree, sum, leaves.len() as u64)?;
        Ok(leaves)
    }

    fn take_listed(
        &self,
        connection: &Connection,
        mirror: i64,
        name: &ProjectName,
    ) -> Result<Option<Leaf>, StoreError> {
        let mut statement = connection
            .prepare_cached("DELETE FROM listed WHERE mirror = ?1 AND name = ?2 RETURNING name, unit, serial, display")
            .map_err(self.sql())?;
        let mut rows = statement.query((mirror, name.as_str())).map_err(self.sql())?;
        let mut found = None;
        // To the end: a statement that is left before it has deleted nothing.
        while let Some(row) = rows.next().map_err(self.sql())? {
            found = Some(self.listed_leaf(row)?);
        }
        Ok(found)
    }

    fn insert_listed(&self, connection: &Connection, mirror: i64, leaf: &Leaf) -> Result<(), StoreError> {
        let display = Some(leaf.display.as_str()).filter(|display| *display != leaf.name.as_str());
        connection
            .prepare_cached("INSERT INTO listed (mirror, name, unit, serial, display) VALUES (?1, ?2, ?3, ?4, ?5)")
            .and_then(|mut statement| {
                statement.execute((mirror, leaf.name.as_str(), leaf.unit.as_bytes(), leaf.serial.get(), display))
            })
            .map(drop)
            .map_err(self.sql())
    }

    fn record_listing(
        &self,
        connection: &Connection,
        mirror: i64,
        tree: Blake3,
        sum: Sum,
        units: u64,
    ) -> Result<(), StoreError> {
        connection
            .execute(
                "INSERT INTO listing (mirror, tree, sum, units) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (mirror) DO UPDATE SET tree = excluded.tree, sum = excluded.sum, units = excluded.units",
                (mirror, tree.as_bytes(), sum.0.to_le_bytes(), units),
            )
            .map(drop)
            .map_err(self.sql())
    }
}

/// A sorted list with some of its lines changed.
fn overlaid(leaves: Vec<Leaf>, changes: BTreeMap<ProjectName, Option<Leaf>>) -> Vec<Leaf> {
    let mut all = Vec::with_capacity(leaves.len() + changes.len());
    let mut changes = changes.into_iter().peekable();
    for leaf in leaves {
        while let Some((_, change)) = changes.next_if(|(name, _)| *name < leaf.name) {
            all.extend(change);
        }
        match changes.next_if(|(name, _)| *name == leaf.name) {
            Some((_, change)) => all.extend(change),
            None => all.push(leaf),
        }
    }
    all.extend(changes.filter_map(|(_, change)| change));
    all
}
