//! What the root lists of a mirror's newest tree name, in the order of names, as if none of the projects was held: with the
//! serials of the tree's lines.
//!
//! A tree of 700,000 projects takes seconds to read. So the catalog has what the root lists say of them once more, as rows in
//! the order of names, and a commit changes only the rows of what changed. The tree is the truth:
//! these rows say of which tree they are, and carry a sum over all of them; where either does not fit they are made
//! anew from the tree. The list of another tree is found as its difference from this one.

use std::collections::BTreeMap;

use rayon::prelude::*;
use rusqlite::Connection;
use strandline_model::{Blake3, Leaf, ListedProject, ProjectName, Snapshot, trie};

use crate::bodies::{Bodies, Remembered};
use crate::rows::{blake3, parsed, parsed_or_null, row, rows, serial};
use crate::{Locked, Mirror, StoreError};

/// The sum over the digests of rows: the same rows have the same sum, in whatever order they came and went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum(u128);

impl Sum {
    fn of(project: &ListedProject) -> u128 {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&project.serial.get().to_le_bytes());
        bytes.extend_from_slice(project.name.as_str().as_bytes());
        // No name has a space.
        bytes.push(b' ');
        bytes.extend_from_slice(project.display.as_str().as_bytes());
        let digest = Blake3::of(&bytes);
        digest.as_bytes().iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte))
    }

    fn add(&mut self, project: &ListedProject) {
        self.0 = self.0.wrapping_add(Self::of(project));
    }

    fn remove(&mut self, project: &ListedProject) {
        self.0 = self.0.wrapping_sub(Self::of(project));
    }
}

impl Mirror {
    /// What the root lists of a snapshot of the mirror name, sorted by name.
    pub fn listed(&self, snapshot: &Snapshot) -> Result<Vec<ListedProject>, StoreError> {
        let mut listed = self.leaves_listed(snapshot)?;
        ListedProject::hold(&mut listed, &snapshot.held);
        Ok(listed)
    }

    /// The same by the tree alone, as if none of them was held.
    fn leaves_listed(&self, snapshot: &Snapshot) -> Result<Vec<ListedProject>, StoreError> {
        {
            let connection = self.store.connection();
            if let Some((tree, listed)) = self.read_listing(&connection)? {
                if tree == snapshot.tree {
                    return Ok(listed);
                }
                // The tree of these rows may be gone by now.
                if let Ok(changes) = self.relisted(&connection, tree, snapshot.tree) {
                    return Ok(overlaid(listed, changes));
                }
            }
        }
        Ok(self.store.leaves(snapshot)?.into_iter().filter_map(ListedProject::of).collect())
    }

    /// What a tree lists differently from the tree `of`.
    fn relisted(
        &self,
        connection: &Connection,
        of: Blake3,
        tree: Blake3,
    ) -> Result<BTreeMap<ProjectName, Option<ListedProject>>, StoreError> {
        let mut changes = BTreeMap::new();
        let bodies = Bodies { store: &self.store, connection };
        trie::diff(&Remembered(&bodies), Some(of), Some(tree), &mut |change| {
            changes.insert(change.name, change.after.and_then(ListedProject::of));
            Ok::<_, StoreError>(())
        })?;
        Ok(changes)
    }

    /// The rows of the mirror and the tree that they are of, if they are whole.
    fn read_listing(&self, connection: &Connection) -> Result<Option<(Blake3, Vec<ListedProject>)>, StoreError> {
        let Some((tree, sum, units)) = self.listing(connection)? else { return Ok(None) };
        let mut listed = Vec::with_capacity(usize::try_from(units).unwrap_or(0).min(1 << 24));
        let mut read = || {
            let query = "SELECT name, serial, display FROM listed WHERE mirror = ?1 ORDER BY name";
            let mut statement = connection.prepare_cached(query)?;
            let mut rows = statement.query([self.number])?;
            while let Some(row) = rows.next()? {
                listed.push(listed_project(row)?);
            }
            Ok(())
        };
        read().map_err(self.store.sql())?;
        let found = listed.par_iter().map(Sum::of).reduce(|| 0, u128::wrapping_add);
        Ok((Sum(found) == sum && listed.len() as u64 == units).then_some((tree, listed)))
    }

    /// The unit that the newest tree has for a project, if it has one: later units of the project resemble it.
    pub(crate) fn listed_unit(
        &self,
        connection: &Connection,
        project: &ProjectName,
    ) -> Result<Option<Blake3>, StoreError> {
        let Some((tree, ..)) = self.listing(connection)? else { return Ok(None) };
        let bodies = Bodies { store: &self.store, connection };
        // It only saves room, so a tree that is damaged or gone is no reason not to remember the page.
        let leaf = trie::find(&Remembered(&bodies), tree, project).ok().flatten();
        Ok(leaf.and_then(|leaf| leaf.unit))
    }

    fn listing(&self, connection: &Connection) -> Result<Option<(Blake3, Sum, u64)>, StoreError> {
        let query = "SELECT tree, sum, units FROM listing WHERE mirror = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok((blake3(row, 0)?, Sum(u128::from_le_bytes(row.get(1)?)), row.get(2)?));
        row(connection, query, [self.number], read).map_err(self.store.sql())
    }
}

impl Locked {
    /// Brings the rows of the mirror from the tree `base` to the tree `tree`, which has `changes` differently; returns all that its
    /// root lists name, sorted by name.
    pub(crate) fn update_listing(
        &self,
        connection: &Connection,
        base: Option<Blake3>,
        tree: Blake3,
        changes: BTreeMap<ProjectName, Option<Leaf>>,
    ) -> Result<Vec<ListedProject>, StoreError> {
        let found = match self.listing(connection)? {
            Some((of, sum, units)) if Some(of) == base => {
                let changes = changes.into_iter().map(|(name, leaf)| (name, leaf.and_then(ListedProject::of)));
                Some((sum, units, changes.collect()))
            }
            // A revision of an earlier snapshot, or the first snapshot after one. The tree of these rows may be gone by now.
            Some((of, sum, units)) => self.relisted(connection, of, tree).ok().map(|found| (sum, units, found)),
            None => None,
        };
        if let Some((sum, units, changes)) = found {
            self.change_listing(connection, tree, (sum, units), &changes).map_err(self.store.sql())?;
            if let Some((_, listed)) = self.read_listing(connection)? {
                return Ok(listed);
            }
            tracing::warn!(
                mirror = %self.name,
                "the catalog's list of projects was not that of its tree, and is made anew"
            );
        }
        let bodies = Bodies { store: &self.store, connection };
        let mut all = Vec::new();
        trie::walk(&bodies, tree, &mut |leaf| {
            all.extend(ListedProject::of(leaf));
            Ok::<_, StoreError>(())
        })?;
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.replace_listing(connection, tree, &all).map_err(self.store.sql())?;
        Ok(all)
    }

    /// Changes some rows, and what is said of all of them.
    fn change_listing(
        &self,
        connection: &Connection,
        tree: Blake3,
        (mut sum, mut units): (Sum, u64),
        changes: &BTreeMap<ProjectName, Option<ListedProject>>,
    ) -> rusqlite::Result<()> {
        for (name, project) in changes {
            if let Some(before) = self.take_listed(connection, name)? {
                sum.remove(&before);
                units = units.saturating_sub(1);
            }
            if let Some(project) = project {
                self.insert_listed(connection, project)?;
                sum.add(project);
                units += 1;
            }
        }
        self.record_listing(connection, tree, sum, units)
    }

    /// Replaces all rows.
    fn replace_listing(&self, connection: &Connection, tree: Blake3, all: &[ListedProject]) -> rusqlite::Result<()> {
        connection.execute("DELETE FROM listed WHERE mirror = ?1", [self.number])?;
        let mut sum = Sum::default();
        for project in all {
            self.insert_listed(connection, project)?;
            sum.add(project);
        }
        self.record_listing(connection, tree, sum, all.len() as u64)
    }

    fn take_listed(&self, connection: &Connection, name: &ProjectName) -> rusqlite::Result<Option<ListedProject>> {
        let take = "DELETE FROM listed WHERE mirror = ?1 AND name = ?2 RETURNING name, serial, display";
        // To the end: a statement that is left before it has deleted nothing.
        Ok(rows(connection, take, (self.number, name.as_str()), listed_project)?.pop())
    }

    fn insert_listed(&self, connection: &Connection, project: &ListedProject) -> rusqlite::Result<()> {
        let ListedProject { name, display, serial } = project;
        let display = Some(display.as_str()).filter(|display| *display != name.as_str());
        let insert = "INSERT INTO listed (mirror, name, serial, display) VALUES (?1, ?2, ?3, ?4)";
        let row = (self.number, name.as_str(), serial.get(), display);
        connection.prepare_cached(insert)?.execute(row).map(drop)
    }

    fn record_listing(&self, connection: &Connection, tree: Blake3, sum: Sum, units: u64) -> rusqlite::Result<()> {
        let record = "INSERT INTO listing (mirror, tree, sum, units) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (mirror) DO UPDATE SET tree = excluded.tree, sum = excluded.sum, units = excluded.units";
        connection.execute(record, (self.number, tree.as_bytes(), sum.0.to_le_bytes(), units)).map(drop)
    }
}

/// Reads the columns name, serial, display.
fn listed_project(row: &rusqlite::Row<'_>) -> rusqlite::Result<ListedProject> {
    let name = parsed(row, 0)?;
    let display = parsed_or_null(row, 2)?.map_or_else(|| parsed(row, 0), Ok)?;
    Ok(ListedProject { name, display, serial: serial(row, 1)? })
}

/// A sorted list with some of its lines changed.
fn overlaid(all: Vec<ListedProject>, changes: BTreeMap<ProjectName, Option<ListedProject>>) -> Vec<ListedProject> {
    let mut overlaid = Vec::with_capacity(all.len() + changes.len());
    let mut changes = changes.into_iter().peekable();
    for project in all {
        while let Some((_, change)) = changes.next_if(|(name, _)| *name < project.name) {
            overlaid.extend(change);
        }
        match changes.next_if(|(name, _)| *name == project.name) {
            Some((_, change)) => overlaid.extend(change),
            None => overlaid.push(project),
        }
    }
    overlaid.extend(changes.filter_map(|(_, change)| change));
    overlaid
}
