//! What the newest tree of a mirror lists, in the order of names.
//!
//! The root lists name every project, and a tree of 700,000 takes seconds to read. So the catalog has its leaves once
//! more, as rows in the order of names, and a commit changes only the rows of what changed. The tree is the truth:
//! these rows say of which tree they are, and carry a sum over all of them; where either does not fit they are made
//! anew from the tree. The list of another tree is found as its difference from this one.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rayon::prelude::*;
use rusqlite::Connection;
use strandline_model::{Blake3, Leaf, ProjectName, Snapshot, trie};

use crate::bodies::{Bodies, Remembered};
use crate::rows::{blake3, parsed, parsed_or_null, row, rows, serial};
use crate::{Locked, Mirror, StoreError};

/// The sum over the digests of rows: the same rows have the same sum, in whatever order they came and went.
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

impl Mirror {
    /// All projects of a snapshot of the mirror, sorted by name, for its root lists.
    pub fn listed(&self, snapshot: &Snapshot) -> Result<Vec<Leaf>, StoreError> {
        {
            let connection = self.store.connection();
            if let Some((tree, leaves)) = self.read_listing(&connection)? {
                if tree == snapshot.tree {
                    return Ok(leaves);
                }
                // The tree of these rows may be gone by now.
                if let Ok(changes) = self.relisted(&connection, tree, snapshot.tree) {
                    return Ok(overlaid(leaves, changes));
                }
            }
        }
        self.store.leaves(snapshot)
    }

    /// What a tree lists differently from the tree `of`.
    fn relisted(
        &self,
        connection: &Connection,
        of: Blake3,
        tree: Blake3,
    ) -> Result<BTreeMap<ProjectName, Option<Leaf>>, StoreError> {
        let mut changes = BTreeMap::new();
        let bodies = Bodies { store: &self.store, connection };
        trie::diff(&Remembered(&bodies), Some(of), Some(tree), &mut |change| {
            changes.insert(change.name, change.after);
            Ok::<_, StoreError>(())
        })?;
        Ok(changes)
    }

    /// The rows of the mirror and the tree that they are of, if they are whole.
    fn read_listing(&self, connection: &Connection) -> Result<Option<(Blake3, Vec<Leaf>)>, StoreError> {
        let Some((tree, sum, units)) = self.listing(connection)? else { return Ok(None) };
        let mut leaves = Vec::with_capacity(usize::try_from(units).unwrap_or(0).min(1 << 24));
        let mut read = || {
            let query = "SELECT name, unit, serial, display FROM listed WHERE mirror = ?1 ORDER BY name";
            let mut statement = connection.prepare_cached(query)?;
            let mut rows = statement.query([self.number])?;
            while let Some(row) = rows.next()? {
                leaves.push(listed_leaf(row)?);
            }
            Ok(())
        };
        read().map_err(self.store.sql())?;
        let found = leaves.par_iter().map(Sum::of).reduce(|| 0, u128::wrapping_add);
        Ok((Sum(found) == sum && leaves.len() as u64 == units).then_some((tree, leaves)))
    }

    /// The unit that the rows of the mirror have for a project, if they have it: one that later units of the project resemble.
    pub(crate) fn listed_unit(
        &self,
        connection: &Connection,
        project: &ProjectName,
    ) -> Result<Option<Blake3>, StoreError> {
        let query = "SELECT unit FROM listed WHERE mirror = ?1 AND name = ?2";
        row(connection, query, (self.number, project.as_str()), |row| blake3(row, 0)).map_err(self.store.sql())
    }

    fn listing(&self, connection: &Connection) -> Result<Option<(Blake3, Sum, u64)>, StoreError> {
        let query = "SELECT tree, sum, units FROM listing WHERE mirror = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok((blake3(row, 0)?, Sum(u128::from_le_bytes(row.get(1)?)), row.get(2)?));
        row(connection, query, [self.number], read).map_err(self.store.sql())
    }
}

impl Locked {
    /// Brings the rows of the mirror from the tree `base` to the tree `tree`, which lists `changes` differently; returns all that
    /// it lists, sorted by name.
    pub(crate) fn update_listing(
        &self,
        connection: &Connection,
        base: Option<Blake3>,
        tree: Blake3,
        changes: &BTreeMap<ProjectName, Option<Leaf>>,
    ) -> Result<Vec<Leaf>, StoreError> {
        let found = match self.listing(connection)? {
            Some((of, sum, units)) if Some(of) == base => Some((sum, units, Cow::Borrowed(changes))),
            // A revision of an earlier snapshot, or the first snapshot after one. The tree of these rows may be gone by now.
            Some((of, sum, units)) => {
                self.relisted(connection, of, tree).ok().map(|found| (sum, units, Cow::Owned(found)))
            }
            None => None,
        };
        if let Some((sum, units, changes)) = found {
            self.change_listing(connection, tree, (sum, units), &changes).map_err(self.store.sql())?;
            if let Some((_, leaves)) = self.read_listing(connection)? {
                return Ok(leaves);
            }
            tracing::warn!(
                mirror = %self.name,
                "the catalog's list of projects was not that of its tree, and is made anew"
            );
        }
        let bodies = Bodies { store: &self.store, connection };
        let mut leaves = Vec::new();
        trie::walk(&bodies, tree, &mut |leaf| {
            leaves.push(leaf);
            Ok::<_, StoreError>(())
        })?;
        leaves.sort_unstable();
        self.replace_listing(connection, tree, &leaves).map_err(self.store.sql())?;
        Ok(leaves)
    }

    /// Changes some rows, and what is said of all of them.
    fn change_listing(
        &self,
        connection: &Connection,
        tree: Blake3,
        (mut sum, mut units): (Sum, u64),
        changes: &BTreeMap<ProjectName, Option<Leaf>>,
    ) -> rusqlite::Result<()> {
        for (name, leaf) in changes {
            if let Some(before) = self.take_listed(connection, name)? {
                sum.remove(&before);
                units = units.saturating_sub(1);
            }
            if let Some(leaf) = leaf {
                self.insert_listed(connection, leaf)?;
                sum.add(leaf);
                units += 1;
            }
        }
        self.record_listing(connection, tree, sum, units)
    }

    /// Replaces all rows.
    fn replace_listing(&self, connection: &Connection, tree: Blake3, leaves: &[Leaf]) -> rusqlite::Result<()> {
        connection.execute("DELETE FROM listed WHERE mirror = ?1", [self.number])?;
        let mut sum = Sum::default();
        for leaf in leaves {
            self.insert_listed(connection, leaf)?;
            sum.add(leaf);
        }
        self.record_listing(connection, tree, sum, leaves.len() as u64)
    }

    fn take_listed(&self, connection: &Connection, name: &ProjectName) -> rusqlite::Result<Option<Leaf>> {
        let take = "DELETE FROM listed WHERE mirror = ?1 AND name = ?2 RETURNING name, unit, serial, display";
        // To the end: a statement that is left before it has deleted nothing.
        Ok(rows(connection, take, (self.number, name.as_str()), listed_leaf)?.pop())
    }

    fn insert_listed(&self, connection: &Connection, leaf: &Leaf) -> rusqlite::Result<()> {
        let display = Some(leaf.display.as_str()).filter(|display| *display != leaf.name.as_str());
        let insert = "INSERT INTO listed (mirror, name, unit, serial, display) VALUES (?1, ?2, ?3, ?4, ?5)";
        let row = (self.number, leaf.name.as_str(), leaf.unit.as_bytes(), leaf.serial.get(), display);
        connection.prepare_cached(insert)?.execute(row).map(drop)
    }

    fn record_listing(&self, connection: &Connection, tree: Blake3, sum: Sum, units: u64) -> rusqlite::Result<()> {
        let record = "INSERT INTO listing (mirror, tree, sum, units) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (mirror) DO UPDATE SET tree = excluded.tree, sum = excluded.sum, units = excluded.units";
        connection.execute(record, (self.number, tree.as_bytes(), sum.0.to_le_bytes(), units)).map(drop)
    }
}

/// Reads the columns name, unit, serial, display.
fn listed_leaf(row: &rusqlite::Row<'_>) -> rusqlite::Result<Leaf> {
    let name = parsed(row, 0)?;
    let display = parsed_or_null(row, 3)?.map_or_else(|| parsed(row, 0), Ok)?;
    Ok(Leaf { unit: blake3(row, 1)?, serial: serial(row, 2)?, name, display })
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
