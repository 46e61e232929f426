//! The canonical bytes of units, nodes and snapshots in the catalog.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, PoisonError};

use rusqlite::Connection;
use strandline_model::{Blake3, Follow, Inputs, Leaf, Node, ProjectName, Record, RecordId, Snapshot, Unit, trie};

use crate::{Store, StoreError};

/// A body that is to be re-hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hashed {
    /// A part of a record.
    Part(Blake3),
    /// A unit, which is read, too.
    Unit(Blake3),
}

impl Hashed {
    /// The bodies that a leaf names.
    pub(crate) fn of(leaf: &Leaf) -> impl Iterator<Item = Self> {
        let parts = leaf.record.into_iter().flat_map(|RecordId { told, seen }| [told, seen]);
        parts.map(Self::Part).chain(leaf.unit.map(Self::Unit))
    }

    /// The record that a unit shows, and its parts: of a held project, that may be an earlier one than the leaf names.
    pub(crate) fn shown_by(unit: &Unit) -> Option<(RecordId, [Self; 2])> {
        let record = unit.source()?.record;
        Some((record, [Self::Part(record.told), Self::Part(record.seen)]))
    }
}

impl From<Hashed> for Blake3 {
    fn from(hashed: Hashed) -> Self {
        match hashed {
            Hashed::Part(id) | Hashed::Unit(id) => id,
        }
    }
}

/// Reads bodies over a connection; every body is re-hashed, so what comes back is what was asked for.
pub(crate) struct Bodies<'a> {
    pub(crate) store: &'a Store,
    pub(crate) connection: &'a Connection,
}

impl Bodies<'_> {
    /// Units; each may be damaged for itself.
    pub(crate) fn units(&self, ids: &[Blake3]) -> Vec<Result<Unit, StoreError>> {
        self.each(ids, |id, bytes| Unit::from_bytes(bytes).map_err(|problem| StoreError::damaged(id, &problem)))
    }

    /// Nodes; each may be damaged for itself.
    pub(crate) fn read_nodes(&self, ids: &[Blake3]) -> Vec<Result<Node, StoreError>> {
        self.each(ids, |id, bytes| Node::from_bytes(bytes).map_err(|problem| StoreError::damaged(id, &problem)))
    }

    /// Re-hashes bodies, and reads those that are units; each may be damaged for itself.
    ///
    /// What has its id is what was stored, so a part of a record need not be read to be known whole. A project's bodies are best
    /// asked for side by side: mostly they are in one pack.
    pub(crate) fn hashed(&self, ids: &[Hashed]) -> Vec<Result<Option<Unit>, StoreError>> {
        self.each(ids, |of, bytes| match of {
            Hashed::Part(_) => Ok(None),
            Hashed::Unit(id) => Unit::from_bytes(bytes).map(Some).map_err(|problem| StoreError::damaged(id, &problem)),
        })
    }

    /// Records; each may be damaged for itself. The error names the part that is.
    pub(crate) fn records(&self, ids: &[RecordId]) -> Vec<Result<Record, StoreError>> {
        let parts: Vec<_> = ids.iter().flat_map(|id| [id.told, id.seen]).collect();
        let mut parts = self.each(&parts, |_, bytes| Ok(bytes.to_vec())).into_iter();
        let mut next = || parts.next().expect("each record has two parts");
        let read = |id: &RecordId| {
            let (told, seen) = (next(), next());
            Record::from_bodies(&told?, &seen?).map_err(|problem| StoreError::damaged(id.seen, &problem))
        };
        ids.iter().map(read).collect()
    }

    pub(crate) fn unit(&self, id: Blake3) -> Result<Unit, StoreError> {
        Unit::from_bytes(&self.read(id)?).map_err(|problem| StoreError::damaged(id, &problem))
    }

    pub(crate) fn follow(&self, id: Blake3) -> Result<Follow, StoreError> {
        Follow::from_bytes(&self.read(id)?).map_err(|problem| StoreError::damaged(id, &problem))
    }

    pub(crate) fn inputs(&self, id: Blake3) -> Result<Inputs, StoreError> {
        Inputs::from_bytes(&self.read(id)?).map_err(|problem| StoreError::damaged(id, &problem))
    }

    pub(crate) fn snapshot(&self, id: Blake3) -> Result<Snapshot, StoreError> {
        Snapshot::from_bytes(&self.read(id)?).map_err(|problem| StoreError::damaged(id, &problem))
    }
}

impl trie::Nodes for Bodies<'_> {
    type Error = StoreError;
    fn node(&self, id: Blake3) -> Result<Node, StoreError> {
        Node::from_bytes(&self.read(id)?).map_err(|problem| StoreError::damaged(id, &problem))
    }
}

/// Reads nodes, and keeps them for a while: successive look-ups go through the same branches, and a sync finds,
/// changes, checks and publishes what is listed in the same leaves.
///
/// A node that is written is not kept, so a node that is read for the first time comes from the catalog and is
/// re-hashed.
pub(crate) struct Remembered<'a, 'b>(pub(crate) &'a Bodies<'b>);

impl trie::Nodes for Remembered<'_, '_> {
    type Error = StoreError;
    fn node(&self, id: Blake3) -> Result<Node, StoreError> {
        let memory = || self.0.store.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = memory().get(id);
        if let Some(node) = kept {
            return Ok(Arc::unwrap_or_clone(node));
        }
        let node = Arc::new(trie::Nodes::node(self.0, id)?);
        memory().keep(id, &node);
        Ok(Arc::unwrap_or_clone(node))
    }

    fn nodes(&self, ids: &[Blake3]) -> Result<Vec<Arc<Node>>, StoreError> {
        let Self(bodies) = self;
        let memory = || bodies.store.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: Vec<_> = ids.iter().map(|id| memory().get(*id)).collect();
        let lacking: Vec<_> = ids.iter().zip(&kept).filter(|(_, kept)| kept.is_none()).map(|(id, _)| *id).collect();
        let read = bodies.read_nodes(&lacking);
        let mut read = lacking.iter().zip(read).map(|(id, node)| {
            let node = Arc::new(node?);
            memory().keep(*id, &node);
            Ok(node)
        });
        kept.into_iter().map(|kept| kept.map_or_else(|| read.next().expect("it was lacking"), Ok)).collect()
    }
}

/// What two trees list differently, found as far as it is asked for: a first snapshot differs in everything.
#[derive(Debug)]
pub struct Differences<'a> {
    store: &'a Store,
    /// The nodes that are still to be compared.
    pairs: Vec<trie::Pair>,
    /// What was found and not yet given.
    found: VecDeque<trie::Change>,
}

impl Differences<'_> {
    /// How many changes are found at a time, about.
    const FOUND: usize = 2_048;
    /// How many are given at a time: their units are in memory.
    const PART: usize = 64;

    /// The next projects that differ, in no order, each with the later tree's unit if it has one; none after the last.
    pub fn next_part(&mut self) -> Result<Vec<(ProjectName, Option<Unit>)>, StoreError> {
        self.store.reading(|bodies| {
            let part = self.find(bodies)?;
            let ids: Vec<_> = part.iter().filter_map(|change| change.after.as_ref()?.unit).collect();
            let mut units = bodies.units(&ids).into_iter();
            let unit = |change: trie::Change| {
                let unit = change.after.and_then(|leaf| leaf.unit).and_then(|_| units.next());
                Ok((change.name, unit.transpose()?))
            };
            part.into_iter().map(unit).collect()
        })
    }

    /// The later tree's units of the next projects that differ; all that the tree names of these projects is re-hashed. `None`
    /// after the last.
    pub(crate) fn next_hashed(&mut self) -> Result<Option<Vec<Unit>>, StoreError> {
        self.store.reading(|bodies| {
            let part = self.find(bodies)?;
            let leaves = || part.iter().filter_map(|change| change.after.as_ref());
            let hashed = bodies.hashed(&leaves().flat_map(Hashed::of).collect::<Vec<_>>());
            let units: Vec<_> = hashed.into_iter().filter_map(Result::transpose).collect::<Result<_, _>>()?;
            let named: HashSet<_> = leaves().filter_map(|leaf| leaf.record).collect();
            let earlier = units.iter().filter_map(Hashed::shown_by).filter(|(record, _)| !named.contains(record));
            bodies
                .hashed(&earlier.flat_map(|(_, parts)| parts).collect::<Vec<_>>())
                .into_iter()
                .collect::<Result<Vec<_>, _>>()?;
            Ok((!part.is_empty()).then_some(units))
        })
    }

    /// The next projects that differ.
    fn find(&mut self, bodies: &Bodies<'_>) -> Result<Vec<trie::Change>, StoreError> {
        let Self { pairs, found, .. } = self;
        if found.is_empty() {
            let mut changes = Vec::new();
            while changes.len() < Self::FOUND && !pairs.is_empty() {
                trie::compare(&Remembered(bodies), pairs, &mut changes)?;
            }
            found.extend(changes);
        }
        Ok(found.drain(..found.len().min(Self::PART)).collect())
    }
}

impl Store {
    /// The canonical bytes with this id, checked against it.
    pub fn body(&self, id: Blake3) -> Result<Vec<u8>, StoreError> {
        self.with_bodies(|bodies| bodies.read(id))
    }

    /// The unit with this id.
    pub fn unit(&self, id: Blake3) -> Result<Unit, StoreError> {
        self.with_bodies(|bodies| bodies.unit(id))
    }

    /// The units with these ids, in the same order.
    pub fn units(&self, ids: &[Blake3]) -> Result<Vec<Unit>, StoreError> {
        self.reading(|bodies| Ok(bodies.units(ids)))?.into_iter().collect()
    }

    /// A record.
    pub fn record(&self, id: RecordId) -> Result<Record, StoreError> {
        self.records(&[id]).map(|mut records| records.remove(0))
    }

    /// Records, in the same order.
    pub fn records(&self, ids: &[RecordId]) -> Result<Vec<Record>, StoreError> {
        self.reading(|bodies| Ok(bodies.records(ids)))?.into_iter().collect()
    }

    /// What a snapshot follows.
    pub fn follow(&self, snapshot: &Snapshot) -> Result<Follow, StoreError> {
        self.with_bodies(|bodies| bodies.follow(snapshot.follow))
    }

    /// What decides what of the records a snapshot shows.
    pub fn inputs(&self, snapshot: &Snapshot) -> Result<Inputs, StoreError> {
        self.with_bodies(|bodies| bodies.inputs(snapshot.inputs))
    }

    /// The units with these ids; `None` for one that is damaged, which [`verify`](crate::verify) names.
    pub fn undamaged_units(&self, ids: &[Blake3]) -> Result<Vec<Option<Unit>>, StoreError> {
        let units = self.reading(|bodies| Ok(bodies.units(ids)))?;
        let undamaged = |unit| match unit {
            Err(StoreError::Damaged { .. }) => Ok(None),
            unit => Ok(Some(unit?)),
        };
        units.into_iter().map(undamaged).collect()
    }

    /// How the tree of a snapshot lists a project.
    pub fn find(&self, snapshot: &Snapshot, project: &ProjectName) -> Result<Option<Leaf>, StoreError> {
        self.with_bodies(|bodies| trie::find(&Remembered(bodies), snapshot.tree, project))
    }

    /// The next `count` projects of a snapshot after `name`, round and round in the order of the tree; each at most once.
    pub fn leaves_after(&self, snapshot: &Snapshot, name: &str, count: usize) -> Result<Vec<Leaf>, StoreError> {
        self.reading(|bodies| trie::after(&Remembered(bodies), snapshot.tree, name, count))
    }

    /// All projects of a snapshot, sorted by name.
    pub fn leaves(&self, snapshot: &Snapshot) -> Result<Vec<Leaf>, StoreError> {
        let mut leaves = Vec::new();
        self.with_bodies(|bodies| {
            trie::walk(bodies, snapshot.tree, &mut |leaf| {
                leaves.push(leaf);
                Ok::<_, StoreError>(())
            })
        })?;
        leaves.sort_unstable();
        Ok(leaves)
    }

    /// The projects that two snapshots list differently, with their units as far as they have one, a few at a time; `None` stands for an empty tree.
    pub fn differences(&self, before: Option<&Snapshot>, after: Option<&Snapshot>) -> Differences<'_> {
        let (before, after) = (before.map(|before| before.tree), after.map(|after| after.tree));
        Differences { store: self, pairs: vec![(before, after)], found: VecDeque::new() }
    }

    /// The projects that two snapshots list differently, sorted by name; `None` stands for an empty tree.
    pub fn diff(&self, before: Option<&Snapshot>, after: Option<&Snapshot>) -> Result<Vec<trie::Change>, StoreError> {
        let mut changes = Vec::new();
        let (before, after) = (before.map(|before| before.tree), after.map(|after| after.tree));
        self.reading(|bodies| {
            trie::diff(&Remembered(bodies), before, after, &mut |change| {
                changes.push(change);
                Ok::<_, StoreError>(())
            })
        })?;
        changes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(changes)
    }

    /// The projects of which two snapshots were told otherwise, sorted by name: their told parts or serials differ, or only one
    /// snapshot has them.
    pub fn told_otherwise(&self, before: &Snapshot, after: &Snapshot) -> Result<Vec<trie::Change>, StoreError> {
        let mut changes = Vec::new();
        if before.state == after.state {
            return Ok(changes);
        }
        self.reading(|bodies| {
            trie::diff_states(&Remembered(bodies), before.tree, after.tree, &mut |change| {
                changes.push(change);
                Ok::<_, StoreError>(())
            })
        })?;
        changes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(changes)
    }

    /// As [`with_bodies`](Self::with_bodies), in one transaction: taking a lock for each body takes longer than reading it.
    pub(crate) fn reading<T>(&self, work: impl FnOnce(&Bodies<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction().map_err(self.sql())?;
        work(&Bodies { store: self, connection: &transaction })
    }

    fn with_bodies<T>(&self, work: impl FnOnce(&Bodies<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        work(&Bodies { store: self, connection: &self.connection() })
    }
}
