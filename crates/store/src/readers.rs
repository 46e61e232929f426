//! Looking up many rows of the catalog at once.
//!
//! Rows are found by digests, so those that are looked up together lie apart. At the size of PyPI few of their pages are in
//! memory, and SQLite waits for one after the other. Over many connections they are waited for together.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rayon::prelude::*;
use rusqlite::{CachedStatement, Connection, OpenFlags};
use strandline_durable::wide;
use strandline_model::{Blake3, Sha256};

use crate::{CATALOG, Store, StoreError};

/// How many keys are at least looked up over one connection in one turn, which takes locks of files. For so many keys or fewer,
/// one connection is enough.
pub(crate) const TOGETHER: usize = 16;

/// How many turns there are at most for one list of keys: each wakes a thread.
const TURNS: usize = 16;

/// Connections that only read and are not in use. They are opened when they are needed.
#[derive(Debug, Default)]
pub(crate) struct Readers(Mutex<Vec<Connection>>);

/// What a query says of each key, in their order.
fn each<K, T>(
    connection: &Connection,
    query: &str,
    keys: &[K],
    one: impl Fn(&mut CachedStatement<'_>, &K) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = connection.prepare_cached(query)?;
    keys.iter().map(|key| one(&mut statement, key)).collect()
}

impl Store {
    /// What a query says of each key, in the order of the keys.
    pub(crate) fn look_up<K: Sync, T: Send>(
        &self,
        query: &str,
        keys: &[K],
        one: impl Fn(&mut CachedStatement<'_>, &K) -> rusqlite::Result<T> + Sync,
    ) -> Result<Vec<T>, StoreError> {
        let found = if keys.len() > TOGETHER {
            self.look_up_aside(query, keys, one)
        } else {
            self.connection().transaction().and_then(|transaction| each(&transaction, query, keys, one))
        };
        found.map_err(self.sql())
    }

    /// The same over connections that only read, also in a transaction. Sees what is committed.
    pub(crate) fn look_up_aside<K: Sync, T: Send>(
        &self,
        query: &str,
        keys: &[K],
        one: impl Fn(&mut CachedStatement<'_>, &K) -> rusqlite::Result<T> + Sync,
    ) -> rusqlite::Result<Vec<T>> {
        self.look_aside(keys, |reader, keys| each(reader, query, keys, &one))
    }

    /// What `some` finds over such a connection, in a transaction, for each of some keys side by side; in the order of the keys.
    pub(crate) fn look_aside<K: Sync, T: Send>(
        &self,
        keys: &[K],
        some: impl Fn(&Connection, &[K]) -> rusqlite::Result<Vec<T>> + Sync,
    ) -> rusqlite::Result<Vec<T>> {
        let some = |keys| self.with_reader(|reader| reader.transaction().and_then(|reader| some(&reader, keys)));
        let turn = keys.len().div_ceil(TURNS).max(TOGETHER);
        let found: rusqlite::Result<Vec<_>> = wide(|| keys.par_chunks(turn).map(some).collect());
        Ok(found?.into_iter().flatten().collect())
    }

    /// Has the rows of bodies looked up, so that a caller that writes them need not wait for each; also in a transaction.
    pub(crate) fn look_ahead_at_bodies(&self, ids: &[Blake3]) {
        self.look_ahead("SELECT 1 FROM body WHERE id = ?1", ids, Blake3::as_bytes);
    }

    /// The same for blobs, by both of their digests.
    pub(crate) fn look_ahead_at_blobs(&self, blobs: &[(Blake3, Sha256)]) {
        self.look_ahead("SELECT 1 FROM blob WHERE blake3 = ?1", blobs, |(blake3, _)| blake3.as_bytes());
        self.look_ahead("SELECT 1 FROM blob WHERE sha256 = ?1", blobs, |(_, sha256)| sha256.as_bytes());
    }

    fn look_ahead<K: Sync>(&self, query: &str, keys: &[K], digest: impl Fn(&K) -> &[u8; 32] + Sync) {
        if keys.len() > TOGETHER
            && let Err(error) = self.look_up_aside(query, keys, |statement, key| statement.exists([digest(key)]))
        {
            tracing::debug!(%error, "rows are not looked up ahead");
        }
    }

    fn with_reader<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let idle = || self.readers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = idle().pop();
        let mut reader = free.map_or_else(|| self.open_reader(), Ok)?;
        let done = work(&mut reader);
        idle().push(reader);
        done
    }

    fn open_reader(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(self.root.join(CATALOG), flags)?;
        reader.busy_timeout(Duration::from_secs(60))?;
        // In KiB: the pages are in the kernel's memory, and there are many connections.
        reader.pragma_update(None, "cache_size", -512)?;
        Ok(reader)
    }
}

#[cfg(test)]
mod tests {
    use strandline_durable::Disk;

    use super::*;
    use crate::bodies::Bodies;
    use crate::packs::NewPack;

    #[test]
    fn answers_come_in_the_order_of_the_keys() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Disk::new()).unwrap();
        for count in [0, 1, 16, 17, 1_000] {
            let keys: Vec<i64> = (0..count).rev().collect();
            let found = store.look_up("SELECT ?1 * 2", &keys, |statement, key| {
                statement.query_row([key], |row| row.get::<_, i64>(0))
            });
            assert_eq!(found.unwrap(), keys.iter().map(|key| key * 2).collect::<Vec<_>>());
        }
        let none = store.look_up("SELECT 1 FROM nowhere", &[1; 40], |statement, _| statement.exists([]));
        assert!(matches!(none, Err(StoreError::Catalog { .. })), "{none:?}");
        drop(store);
        assert!(!directory.path().join("catalog.db-wal").exists(), "the last to close it copies the log back");
    }

    #[test]
    fn a_transaction_may_look_ahead_and_sees_what_it_wrote_itself() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Disk::new()).unwrap();
        let all: Vec<_> = (0_u8..40).map(|number| (Blake3::of(&[number]), vec![number])).collect();
        let ids: Vec<_> = all.iter().map(|(id, _)| *id).collect();
        let there = || {
            let query = "SELECT 1 FROM body WHERE id = ?1";
            let found = store.look_up(query, &ids, |statement, id| statement.exists([id.as_bytes()]));
            found.unwrap().into_iter().filter(|there| *there).count()
        };
        store
            .transaction(|transaction| {
                let bodies = Bodies { store: &store, connection: transaction };
                store.look_ahead_at_bodies(&ids);
                bodies.write_packs(all.iter().map(|(id, bytes)| NewPack::of(*id, bytes.clone(), None)))?;
                assert_eq!(there(), 0, "nothing is committed yet");
                let own = bodies.each(&ids, |_, bytes| Ok(bytes.to_vec())).into_iter().map(Result::unwrap);
                assert!(own.eq(all.iter().map(|(_, bytes)| bytes.clone())), "the transaction sees its own");
                Ok::<_, StoreError>(())
            })
            .unwrap();
        assert_eq!(there(), 40);
    }
}
