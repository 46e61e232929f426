//! The canonical bytes of units, nodes and snapshots in the catalog.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use rusqlite::Connection;
use strandline_model::{Blake3, Follow, Inputs, Leaf, Node, ProjectName, Record, RecordId, Snapshot, Unit, trie};

use crate::{Store, StoreError};

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
        let mut read = bodies
            .each(&lacking, |id, bytes| {
                let node = Node::from_bytes(bytes).map_err(|problem| StoreError::damaged(id, &problem))?;
                let node = Arc::new(node);
                memory().keep(id, &node);
                Ok(node)
            })
            .into_iter();
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

/// A project that two trees list differently, as the later one has it.
#[derive(Debug)]
pub struct Difference {
    /// The project.
    pub name: ProjectName,
    /// What upstream says of it; `None` where the later tree does not have the project.
    pub record: Option<RecordId>,
    /// What readers get of it, if anything.
    pub unit: Option<Unit>,
}

impl Difference {
    /// The records that the later tree needs for it: what readers get may be of an earlier one.
    pub(crate) fn records(&self) -> impl Iterator<Item = RecordId> {
        let shown = self.unit.as_ref().and_then(Unit::source).map(|source| source.record);
        self.record.into_iter().chain(shown.filter(|shown| Some(*shown) != self.record))
    }
}

impl Differences<'_> {
    /// How many changes are found at a time, about.
    const FOUND: usize = 2_048;
    /// How many are given at a time: their units are in memory.
    const PART: usize = 64;

    /// The next projects that differ, in no order; none after the last.
    pub fn next_part(&mut self) -> Result<Vec<Difference>, StoreError> {
        let Self { store, pairs, found } = self;
        store.reading(|bodies| {
            if found.is_empty() {
                let mut changes = Vec::new();
                while changes.len() < Self::FOUND && !pairs.is_empty() {
                    trie::compare(&Remembered(bodies), pairs, &mut changes)?;
                }
                found.extend(changes);
            }
            let part: Vec<_> = found.drain(..found.len().min(Self::PART)).collect();
            let ids: Vec<_> = part.iter().filter_map(|change| change.after.as_ref()?.unit).collect();
            let mut units = bodies.units(&ids).into_iter();
            let project = |trie::Change { name, after, .. }: trie::Change| {
                let (unit, record) = after.map_or((None, None), |leaf| (leaf.unit, leaf.record));
                Ok(Difference { name, record, unit: unit.and_then(|_| units.next()).transpose()? })
            };
            part.into_iter().map(project).collect()
        })
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
