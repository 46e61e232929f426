//! The canonical bytes of units, nodes and snapshots in the catalog.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use rusqlite::{Connection, OptionalExtension as _};
use strandline_model::{Blake3, Leaf, Node, ProjectName, Snapshot, Unit, trie};

use crate::{Store, StoreError};

/// Reads bodies over a connection; every body is re-hashed, so what comes back is what was asked for.
pub(crate) struct Bodies<'a> {
    pub(crate) store: &'a Store,
    pub(crate) connection: &'a Connection,
}

impl Bodies<'_> {
    pub(crate) fn read(&self, id: Blake3) -> Result<Vec<u8>, StoreError> {
        let damaged = |problem: &str| StoreError::Damaged { id, problem: problem.to_owned() };
        let row = self
            .connection
            .prepare_cached("SELECT size, deflated FROM body WHERE id = ?1")
            .and_then(|mut statement| {
                statement
                    .query_row([id.as_bytes()], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, Vec<u8>>(1)?)))
                    .optional()
            })
            .map_err(self.store.sql())?;
        let (size, deflated) = row.ok_or_else(|| damaged("is missing"))?;
        let mut bytes = Vec::new();
        // One byte more than it should be: enough to see that it is too long, whatever the body claims to be.
        DeflateDecoder::new(&deflated[..])
            .take(size.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|_| damaged("is damaged: it does not inflate"))?;
        if bytes.len() as u64 != size || Blake3::of(&bytes) != id {
            return Err(damaged("is damaged: its bytes have another hash"));
        }
        Ok(bytes)
    }

    pub(crate) fn has(&self, id: Blake3) -> Result<bool, StoreError> {
        self.connection
            .prepare_cached("SELECT 1 FROM body WHERE id = ?1")
            .and_then(|mut statement| statement.exists([id.as_bytes()]))
            .map_err(self.store.sql())
    }

    /// Stores bytes under their id, unless they are there.
    pub(crate) fn write(&self, id: Blake3, bytes: &[u8]) -> Result<(), StoreError> {
        if self.has(id)? {
            return Ok(());
        }
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        let deflated = encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("a vector takes everything");
        self.connection
            .prepare_cached("INSERT INTO body (id, size, deflated) VALUES (?1, ?2, ?3)")
            .and_then(|mut statement| statement.execute((id.as_bytes(), bytes.len() as u64, deflated)))
            .map_err(self.store.sql())?;
        Ok(())
    }

    pub(crate) fn unit(&self, id: Blake3) -> Result<Unit, StoreError> {
        Unit::from_bytes(&self.read(id)?).map_err(|problem| StoreError::damaged(id, &problem))
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

impl Store {
    /// The canonical bytes with this id, checked against it.
    pub fn body(&self, id: Blake3) -> Result<Vec<u8>, StoreError> {
        self.with_bodies(|bodies| bodies.read(id))
    }

    /// The unit with this id.
    pub fn unit(&self, id: Blake3) -> Result<Unit, StoreError> {
        self.with_bodies(|bodies| bodies.unit(id))
    }

    /// How the tree of a snapshot lists a project.
    pub fn find(&self, snapshot: &Snapshot, project: &ProjectName) -> Result<Option<Leaf>, StoreError> {
        self.with_bodies(|bodies| trie::find(bodies, snapshot.tree, project))
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

    /// The projects that two snapshots list differently, sorted by name; `None` stands for an empty tree.
    pub fn diff(&self, before: Option<&Snapshot>, after: Option<&Snapshot>) -> Result<Vec<trie::Change>, StoreError> {
        let mut changes = Vec::new();
        let mut take = |change| {
            changes.push(change);
            Ok::<_, StoreError>(())
        };
        self.with_bodies(|bodies| match (before, after) {
            (None, None) => Ok(()),
            (Some(before), Some(after)) => trie::diff(bodies, before.tree, after.tree, &mut take),
            (None, Some(only)) => trie::walk(bodies, only.tree, &mut |leaf| {
                take(trie::Change { name: leaf.name.clone(), before: None, after: Some(leaf) })
            }),
            (Some(only), None) => trie::walk(bodies, only.tree, &mut |leaf| {
                take(trie::Change { name: leaf.name.clone(), before: Some(leaf), after: None })
            }),
        })?;
        changes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(changes)
    }

    fn with_bodies<T>(&self, work: impl FnOnce(&Bodies<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        work(&Bodies { store: self, connection: &self.connection() })
    }
}
