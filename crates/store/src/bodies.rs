//! The canonical bytes of units, nodes and snapshots in the catalog.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use rayon::prelude::*;
use rusqlite::{CachedStatement, Connection, OptionalExtension as _};
use strandline_model::{Blake3, Follow, Inputs, Leaf, Node, ProjectName, Record, RecordId, Snapshot, Unit, trie};

use crate::readers::TOGETHER;
use crate::{Store, StoreError};

/// Reads bodies over a connection; every body is re-hashed, so what comes back is what was asked for.
pub(crate) struct Bodies<'a> {
    pub(crate) store: &'a Store,
    pub(crate) connection: &'a Connection,
}

impl Bodies<'_> {
    pub(crate) fn read(&self, id: Blake3) -> Result<Vec<u8>, StoreError> {
        opened(id, &self.stored(id)?)
    }

    /// A body as the catalog has it.
    fn stored(&self, id: Blake3) -> Result<Deflated, StoreError> {
        self.connection
            .prepare_cached(STORED)
            .and_then(|mut statement| statement.query_row([id.as_bytes()], deflated).optional())
            .map_err(self.store.sql())?
            .ok_or_else(|| StoreError::Damaged { id, problem: "is missing".to_owned() })
    }

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

    /// Reads, unpacks, checks and parses bodies, many of them at once.
    pub(crate) fn each<T: Send>(
        &self,
        ids: &[Blake3],
        parse: impl Fn(Blake3, &[u8]) -> Result<T, StoreError> + Sync,
    ) -> Vec<Result<T, StoreError>> {
        let whole = |id: Blake3, stored: &Deflated| opened(id, stored).and_then(|bytes| parse(id, &bytes));
        let aside = |statement: &mut CachedStatement<'_>, id: &Blake3| {
            Ok(statement.query_row([id.as_bytes()], deflated).optional()?.map(|stored| whole(*id, &stored)))
        };
        let found = (ids.len() > TOGETHER).then(|| self.store.look_up_aside(STORED, ids, aside).ok()).flatten();
        let found = found.unwrap_or_else(|| ids.iter().map(|_| None).collect());
        // A body that was not found that way may be of this transaction, or gone since it began; and one damaged body
        // must not spoil the others.
        let own = |id: Blake3| self.stored(id).and_then(|stored| whole(id, &stored));
        ids.iter().zip(found).map(|(id, found)| found.unwrap_or_else(|| own(*id))).collect()
    }

    pub(crate) fn has(&self, id: Blake3) -> Result<bool, StoreError> {
        self.connection
            .prepare_cached("SELECT 1 FROM body WHERE id = ?1")
            .and_then(|mut statement| statement.exists([id.as_bytes()]))
            .map_err(self.store.sql())
    }

    /// Stores bytes under their id, unless they are there.
    pub(crate) fn write(&self, id: Blake3, bytes: &[u8]) -> Result<(), StoreError> {
        if !self.has(id)? {
            self.insert(id, bytes.len(), &deflate(bytes))?;
        }
        Ok(())
    }

    /// The same for many, which are packed on all cores, some hundred at a time.
    pub(crate) fn write_all(&self, bodies: &[(Blake3, Vec<u8>)]) -> Result<(), StoreError> {
        for some in bodies.chunks(256) {
            let new = some.iter().map(|body| Ok((!self.has(body.0)?).then_some(body)));
            let new = new.filter_map(Result::transpose).collect::<Result<Vec<_>, StoreError>>()?;
            let deflated: Vec<_> = new.par_iter().map(|(_, bytes)| deflate(bytes)).collect();
            new.iter()
                .zip(deflated)
                .try_for_each(|((id, bytes), deflated)| self.insert(*id, bytes.len(), &deflated))?;
        }
        Ok(())
    }

    fn insert(&self, id: Blake3, size: usize, deflated: &[u8]) -> Result<(), StoreError> {
        self.connection
            .prepare_cached("INSERT INTO body (id, size, deflated) VALUES (?1, ?2, ?3)")
            .and_then(|mut statement| statement.execute((id.as_bytes(), size as u64, deflated)))
            .map(drop)
            .map_err(self.store.sql())
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

const STORED: &str = "SELECT size, deflated FROM body WHERE id = ?1";

fn deflated(row: &rusqlite::Row<'_>) -> rusqlite::Result<Deflated> {
    Ok(Deflated { size: row.get(0)?, bytes: row.get(1)? })
}

/// A body as the catalog has it.
struct Deflated {
    size: u64,
    bytes: Vec<u8>,
}

/// The body itself, if it is the one that has this id.
fn opened(id: Blake3, stored: &Deflated) -> Result<Vec<u8>, StoreError> {
    let damaged = |problem: &str| StoreError::Damaged { id, problem: problem.to_owned() };
    let bytes = inflate(&stored.bytes, stored.size).ok_or_else(|| damaged("is damaged: it does not inflate"))?;
    if bytes.len() as u64 != stored.size || Blake3::of(&bytes) != id {
        return Err(damaged("is damaged: its bytes have another hash"));
    }
    Ok(bytes)
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

thread_local! {
    // Each has tables of hundreds of kilobytes: setting them up takes longer than a body does.
    static DEFLATE: RefCell<Compress> = RefCell::new(Compress::new(Compression::new(3), false));
    static INFLATE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    DEFLATE.with_borrow_mut(|deflate| {
        deflate.reset();
        let mut deflated = Vec::with_capacity(bytes.len() / 2 + 64);
        loop {
            let taken = usize::try_from(deflate.total_in()).unwrap_or(bytes.len());
            let done = deflate.compress_vec(&bytes[taken..], &mut deflated, FlushCompress::Finish);
            if done.expect("deflating cannot fail") == Status::StreamEnd {
                return deflated;
            }
            deflated.reserve(deflated.capacity().max(64));
        }
    })
}

/// The bytes, `size` at the most and one more if there are more; `None` if they do not inflate.
fn inflate(deflated: &[u8], size: u64) -> Option<Vec<u8>> {
    /// No bytes deflate to a smaller part of themselves.
    const DENSEST: usize = 1_032;
    INFLATE.with_borrow_mut(|inflate| {
        inflate.reset(false);
        // One byte more than it should be: enough to see that it is too long, even if the body claims another size.
        let most = usize::try_from(size).ok()?.saturating_add(1).min(deflated.len().saturating_mul(DENSEST) + 64);
        let mut bytes = Vec::with_capacity(most);
        let done = inflate.decompress_vec(deflated, &mut bytes, FlushDecompress::Finish);
        matches!(done, Ok(Status::StreamEnd | Status::Ok | Status::BufError)).then_some(bytes)
    })
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
            let unit = |change: trie::Change| {
                let unit = change.after.and_then(|leaf| leaf.unit).and_then(|_| units.next());
                Ok((change.name, unit.transpose()?))
            };
            part.into_iter().map(unit).collect()
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
