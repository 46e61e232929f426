//! What is reachable, and so stays.

use std::collections::{BTreeMap, HashMap, HashSet};

use rusqlite::Connection;
use strandline_model::{Blake3, Label, MirrorName, Snapshot, TreePath, trie};

use crate::bodies::Bodies;
use crate::rows::{blake3, blake3_or_null, parsed, rows};
use crate::trees::{reach, units};
use crate::{Store, StoreError};

/// What is reachable from snapshots that stay, and from pages that wait for one.
#[derive(Default)]
pub(super) struct Marked {
    /// The snapshots that were looked at.
    pub(super) snapshots: HashSet<Blake3>,
    /// What they reach, by mirror: the pool is a mirror's own.
    bodies: HashMap<MirrorName, HashSet<Blake3>>,
    /// Everything that superseded snapshots reach: they are kept as a record only, and hold no blobs and no paths.
    records: HashSet<Blake3>,
    /// The units and records of pages that wait, and the units of projects that were adopted and wait.
    seen: HashSet<Blake3>,
    /// The blobs that each of the mirrors names.
    pub(super) blobs: Vec<(MirrorName, Named)>,
}

/// A set of blobs, by the first eight bytes of their names: at 14 million, whole names would take a gigabyte. Two blobs that
/// have those in common count as named if one of them is, so that nothing goes that should stay.
#[derive(Default)]
pub(super) struct Named {
    /// Sorted, without repetition.
    sorted: Vec<u64>,
    /// What came since.
    fresh: HashSet<u64>,
}

impl Named {
    fn beginning(blob: &Blake3) -> u64 {
        blob.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn insert(&mut self, blob: &Blake3) {
        self.fresh.insert(Self::beginning(blob));
        if self.fresh.len() >= ENOUGH {
            // Repeated names go before they take room; what is left is sorted in one go.
            self.sorted.extend(self.fresh.drain());
            self.sorted.sort_unstable();
            self.sorted.dedup();
        }
    }

    pub(super) fn contains(&self, blob: &Blake3) -> bool {
        let beginning = Self::beginning(blob);
        self.sorted.binary_search(&beginning).is_ok() || self.fresh.contains(&beginning)
    }
}

/// How many blobs are gathered before they are sorted in.
const ENOUGH: usize = 1 << 20;
/// How many units are unpacked at a time, on all cores.
const UNITS: usize = 1_024;

impl Marked {
    /// What a mirror names.
    fn named_by<'a>(blobs: &'a mut Vec<(MirrorName, Named)>, mirror: &MirrorName) -> &'a mut Named {
        let position = blobs.iter().position(|(known, _)| known == mirror).unwrap_or_else(|| {
            blobs.push((mirror.clone(), Named::default()));
            blobs.len() - 1
        });
        &mut blobs[position].1
    }

    pub(super) fn has_blob(&self, blob: &Blake3) -> bool {
        self.blobs.iter().any(|(_, named)| named.contains(blob))
    }

    pub(super) fn has_body(&self, id: &Blake3) -> bool {
        let reached = self.bodies.values().any(|bodies| bodies.contains(id));
        reached || self.seen.contains(id) || self.records.contains(id)
    }

    /// Marks what snapshots reach that are kept as a record only.
    pub(super) fn mark_records(
        &mut self,
        bodies: &Bodies<'_>,
        snapshots: impl IntoIterator<Item = (Blake3, Blake3)>,
    ) -> Result<(), StoreError> {
        for (id, tree) in snapshots {
            self.snapshots.insert(id);
            let snapshot = bodies.snapshot(id)?;
            self.records.extend([id, snapshot.follow, snapshot.inputs]);
            reach(bodies, tree, &mut self.records, &mut |_, error| Err(error))?;
            self.records.extend(shown_records(bodies, &snapshot)?);
        }
        Ok(())
    }

    /// Marks everything that snapshots of a mirror reach. Paths among it that were leaving the pool now stay in it.
    pub(super) fn mark(
        &mut self,
        bodies: &Bodies<'_>,
        mirror: &MirrorName,
        snapshots: impl IntoIterator<Item = (Blake3, Blake3)>,
        stay: &mut dyn FnMut(&MirrorName, &TreePath) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let named = Self::named_by(&mut self.blobs, mirror);
        let reached = self.bodies.entry(mirror.clone()).or_default();
        for (id, tree) in snapshots {
            self.snapshots.insert(id);
            reached.insert(id);
            let snapshot = bodies.snapshot(id)?;
            reached.extend([snapshot.follow, snapshot.inputs]);
            reached.extend(shown_records(bodies, &snapshot)?);
            for ids in units(reach(bodies, tree, reached, &mut |_, error| Err(error))?).chunks(UNITS) {
                for unit in bodies.units(ids) {
                    for entry in unit?.entries() {
                        named.insert(&entry.blob);
                        stay(mirror, &entry.path)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Marks what there is now and was not there before: snapshots that were committed or published since, and pages that
    /// wait. `dropped` are the snapshots that go unless they are relied on again; those are taken out.
    pub(super) fn mark_new(
        &mut self,
        store: &Store,
        connection: &Connection,
        dropped: &mut BTreeMap<Blake3, (MirrorName, Label)>,
        stay: &mut dyn FnMut(&MirrorName, &TreePath) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let bodies = Bodies { store, connection };
        for id in protected(store, connection)? {
            dropped.remove(&id);
        }
        let read = |row: &rusqlite::Row<'_>| Ok((blake3(row, 0)?, parsed(row, 1)?));
        let query = "SELECT s.id, m.name FROM snapshot s JOIN mirror m ON m.id = s.mirror";
        for (id, mirror) in rows(connection, query, [], read).map_err(store.sql())? {
            if !self.snapshots.contains(&id) && !dropped.contains_key(&id) {
                let tree = bodies.snapshot(id)?.tree;
                self.mark(&bodies, &mirror, [(id, tree)], stay)?;
            }
        }
        let query =
            "SELECT w.unit, m.name FROM (SELECT unit, mirror FROM seen UNION ALL SELECT unit, mirror FROM adopted) w
            JOIN mirror m ON m.id = w.mirror";
        for (unit, mirror) in rows(connection, query, [], read).map_err(store.sql())? {
            if self.seen.insert(unit) {
                let named = Self::named_by(&mut self.blobs, &mirror);
                let unit = bodies.unit(unit)?;
                self.seen.extend(unit.source().into_iter().flat_map(|source| [source.record.told, source.record.seen]));
                for entry in unit.entries() {
                    named.insert(&entry.blob);
                }
            }
        }
        Ok(())
    }
}

/// The parts of the records that the units of the held projects show: these may be earlier ones than the tree names, and no other
/// project's are.
fn shown_records(bodies: &Bodies<'_>, snapshot: &Snapshot) -> Result<Vec<Blake3>, StoreError> {
    let mut parts = Vec::new();
    for held in &snapshot.held {
        let unit = trie::find(bodies, snapshot.tree, &held.name)?.and_then(|leaf| leaf.unit);
        let source = unit.map(|unit| bodies.unit(unit)).transpose()?.and_then(|unit| unit.source());
        parts.extend(source.into_iter().flat_map(|source| [source.record.told, source.record.seen]));
    }
    Ok(parts)
}

/// The snapshots that must stay even if retention would drop them: those that are pinned, that readers see or saw
/// before, or that a twin holds.
pub(super) fn protected(store: &Store, connection: &Connection) -> Result<HashSet<Blake3>, StoreError> {
    let query = "SELECT snapshot FROM pin UNION SELECT snapshot FROM view UNION SELECT previous FROM view
        UNION SELECT base FROM twin UNION SELECT target FROM twin";
    let ids = rows(connection, query, [], |row| blake3_or_null(row, 0)).map_err(store.sql())?;
    Ok(ids.into_iter().flatten().collect())
}
