//! Retention and garbage collection: what is dropped, and what is deleted because of it.
//!
//! In this order, each step durable before the next: snapshots that retention drops lose their rows, with the bodies
//! that nothing else reaches; blobs that nothing names are condemned, and pool paths that nothing names are noted as
//! leaving; when the grace period is over, links go from the pool, then rows are marked `deleting`, then the files go,
//! then the rows. A file that is missing already counts as deleted. All commands use this one implementation, and one
//! collection runs at a time.
//!
//! [`plan`] says what would happen, and changes nothing; [`collect`] does that, except to what a sync has come to
//! rely on since.
//!
//! It runs beside syncs. Everything that they bring and rely on meanwhile is safe because:
//!
//! 1. Before anything is dropped or deleted, in the same transaction, everything that was committed since the marking
//!    is marked, too.
//! 2. A sync that finds a condemned blob pardons it ([`Intake::find`](crate::Intake::find)). One that has begun before
//!    the blob was condemned may have found it before: as long as it runs, the blob stays. Blobs that come in while it
//!    runs count as found by it.
//! 3. Files and links go while no process is putting any in their places ([`Store::hold_deletions`]).

mod keep;
mod mark;
pub(crate) mod packs;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use strandline_durable::Lock;
use strandline_model::{Blake3, Label, MirrorName, Timestamp, TreePath};

use crate::bodies::Bodies;
use crate::pool::POOL;
use crate::rows::{blake3, execute_each, parsed};
use crate::trees::{reach, units};
use crate::{Mirror, Recorded, Store, StoreError};

pub use keep::Keep;
use mark::{Marked, protected};

/// How many links or files are deleted while a process that puts some in their places has to wait.
const BATCH: usize = 1_000;

/// What leaves pools.
type Leaving = BTreeSet<(MirrorName, TreePath)>;

/// What a collection did, or what a plan would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collected {
    /// The snapshots that are dropped.
    pub snapshots: Vec<(MirrorName, Label)>,
    /// How many units, nodes and snapshots leave the catalog.
    pub bodies: u64,
    /// Blobs that nothing names from now on; deleted when the grace period is over.
    pub condemned: u64,
    /// Their bytes.
    pub condemned_bytes: u64,
    /// Blobs that are deleted now.
    pub deleted: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Blobs whose time is up, but that a running sync may have found: a later collection deletes them.
    pub in_use: u64,
    /// Pool links that are removed now.
    pub links: u64,
}

impl Collected {
    fn deleted_as(&mut self, blobs: &[(Blake3, u64)]) {
        self.deleted += blobs.len() as u64;
        self.deleted_bytes += blobs.iter().map(|(_, size)| size).sum::<u64>();
    }
}

/// Everything that is to be done, as far as the marks show.
pub struct Plan {
    now: Timestamp,
    /// Paths and blobs that have been leaving or without a name since then, or for longer, may go.
    until: i64,
    marked: Marked,
    dropped: BTreeMap<Blake3, (MirrorName, Label)>,
    bodies: packs::Bodies,
    condemned: Vec<(Blake3, u64)>,
    pardoned: Vec<Blake3>,
    /// The blobs that have been without a name for long enough.
    expired: Vec<(Blake3, u64)>,
    /// Paths of pools that no snapshot which stays names, and those that one names again.
    leaving: Leaving,
    returned: Leaving,
    /// How many paths of pools have been leaving for long enough.
    links: u64,
    /// Of each mirror, what its snapshots name, and what no other's do, in bytes.
    usage: Vec<(MirrorName, u64, u64)>,
    /// The bytes of all blobs that are not about to go.
    bytes: u64,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("outcome", &self.outcome()).finish_non_exhaustive()
    }
}

/// Drops the snapshots that retention does not keep, and deletes the blobs that nothing has named for longer than
/// `grace`.
///
/// An error leaves the store whole: the next collection does what is left.
pub fn collect(
    store: &Arc<Store>,
    keep: impl Fn(&MirrorName) -> Keep,
    grace: Duration,
    now: Timestamp,
) -> Result<Collected, StoreError> {
    let path = store.root.join("locks/gc");
    let _alone = Lock::take(&path, "the store's `strandline gc`", &now.to_string())?;
    store.settle_times(now)?;
    plan(store, keep, grace, now)?.execute(store)
}

/// Finds out what is to be dropped and deleted. Changes nothing.
pub fn plan(
    store: &Arc<Store>,
    keep: impl Fn(&MirrorName) -> Keep,
    grace: Duration,
    now: Timestamp,
) -> Result<Plan, StoreError> {
    let mut plan = Plan {
        now,
        until: now.seconds().saturating_sub(i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)),
        marked: Marked::default(),
        dropped: BTreeMap::new(),
        bodies: packs::Bodies::default(),
        condemned: Vec::new(),
        pardoned: Vec::new(),
        expired: Vec::new(),
        leaving: Leaving::new(),
        returned: Leaving::new(),
        links: 0,
        usage: Vec::new(),
        bytes: 0,
    };
    for mirror in store.mirrors()? {
        plan.mark_mirror(&mirror, keep(mirror.name()))?;
    }
    plan.marked.mark_new(store, &store.connection(), &mut plan.dropped, &mut |_, _| Ok(()))?;
    plan.find_blobs(store)?;
    plan.bodies = packs::Bodies::find(&store.connection(), |id| plan.marked.has_body(id)).map_err(store.sql())?;
    let already = expired_links(store, plan.until, usize::MAX)?.len();
    plan.links = (already + if grace.is_zero() { plan.leaving.len() } else { 0 }) as u64;
    Ok(plan)
}

impl Plan {
    /// What [`collect`] does if nothing that goes is relied on meanwhile.
    pub fn outcome(&self) -> Collected {
        let mut outcome = Collected {
            snapshots: in_order(&self.dropped),
            bodies: self.bodies.going.len() as u64,
            condemned: self.condemned.len() as u64,
            condemned_bytes: self.condemned.iter().map(|(_, size)| size).sum(),
            links: self.links,
            ..Collected::default()
        };
        outcome.deleted_as(&self.expired);
        outcome
    }

    /// Does what is planned, except to what a process has come to rely on since. The caller collects alone.
    fn execute(mut self, store: &Store) -> Result<Collected, StoreError> {
        let planned = self.outcome();
        self.commit(store)?;
        let mut done = Collected { snapshots: in_order(&self.dropped), deleted: 0, deleted_bytes: 0, ..planned };
        done.links = self.remove_links(store)?;
        self.delete_blobs(store, &mut done)?;
        Ok(done)
    }

    /// Divides the snapshots of a mirror, and marks what those that stay reach.
    fn mark_mirror(&mut self, mirror: &Mirror, keep: Keep) -> Result<(), StoreError> {
        let Divided { stay, records, go } = divide(mirror, keep)?;
        let lost = self.mark_staying(mirror, &stay, &go)?;
        self.leaving.extend(lost.into_iter().map(|path| (mirror.name().clone(), path)));
        let store = mirror.store();
        self.marked.mark_records(
            &Bodies { store, connection: &store.connection() },
            records.iter().map(|recorded| (recorded.id, recorded.snapshot.tree)),
        )?;
        let go = go.into_iter().map(|recorded| (recorded.id, (mirror.name().clone(), recorded.snapshot.label)));
        self.dropped.extend(go);
        Ok(())
    }

    /// Marks what the snapshots that stay reach, and adds what they name of what was leaving the pool to `returned`; returns
    /// the pool's paths that only the snapshots that go name.
    fn mark_staying(
        &mut self,
        mirror: &Mirror,
        stay: &[Recorded],
        go: &[Recorded],
    ) -> Result<BTreeSet<TreePath>, StoreError> {
        let (store, name) = (mirror.store(), mirror.name());
        let waiting = expired_links(store, i64::MAX, usize::MAX)?.into_iter().filter(|(of, _)| of == name);
        let waiting: HashSet<_> = waiting.map(|(_, path)| path).collect();
        let connection = store.connection();
        let bodies = Bodies { store, connection: &connection };
        // First the units that stay, so that it is known which ones go; then the paths of those that go; then the paths
        // among these that stay after all.
        let mut seen = HashSet::new();
        for recorded in stay.iter().filter(|_| !go.is_empty()) {
            reach(&bodies, recorded.snapshot.tree, &mut seen, &mut |_, error| Err(error))?;
        }
        let mut lost = BTreeSet::new();
        for recorded in go {
            for unit in units(reach(&bodies, recorded.snapshot.tree, &mut seen, &mut |_, error| Err(error))?) {
                let unit = bodies.unit(unit)?;
                let pooled = unit.entries().iter().filter(|entry| entry.path.first_segment() == POOL);
                lost.extend(pooled.map(|entry| entry.path.clone()));
            }
        }
        let trees = stay.iter().map(|recorded| (recorded.id, recorded.snapshot.tree));
        let returned = &mut self.returned;
        self.marked.mark(&bodies, name, trees, &mut |_, path| {
            lost.remove(path);
            if waiting.contains(path) {
                returned.insert((name.clone(), path.clone()));
            }
            Ok(())
        })?;
        Ok(lost)
    }

    /// Finds the blobs that nothing names, and adds up those that something names.
    fn find_blobs(&mut self, store: &Store) -> Result<(), StoreError> {
        self.usage = self.marked.blobs.iter().map(|(mirror, _)| (mirror.clone(), 0, 0)).collect();
        let connection = store.connection();
        let mut blobs =
            connection.prepare("SELECT blake3, size, condemned FROM blob WHERE deleting = 0").map_err(store.sql())?;
        let mut named_by = Vec::with_capacity(self.marked.blobs.len());
        let mut rows = blobs.query([]).map_err(store.sql())?;
        while let Some(row) = rows.next().map_err(store.sql())? {
            let read = || Ok((blake3(row, 0)?, row.get::<_, u64>(1)?, row.get::<_, Option<i64>>(2)?));
            let (blob, size, since) = read().map_err(store.sql())?;
            self.bytes += size;
            named_by.clear();
            let named = self.marked.blobs.iter().enumerate().filter(|(_, (_, named))| named.contains(&blob));
            named_by.extend(named.map(|(position, _)| position));
            for position in &named_by {
                let (_, bytes, own) = &mut self.usage[*position];
                *bytes += size;
                *own += if named_by.len() == 1 { size } else { 0 };
            }
            if !named_by.is_empty() {
                self.pardoned.extend(since.map(|_| blob));
                continue;
            }
            if since.is_none() {
                self.condemned.push((blob, size));
            }
            if since.unwrap_or(self.now.seconds()) <= self.until {
                self.expired.push((blob, size));
                self.bytes -= size;
            }
        }
        Ok(())
    }

    /// Drops and condemns in the catalog, except what a process has come to rely on since it was planned.
    fn commit(&mut self, store: &Store) -> Result<(), StoreError> {
        store.transaction(|transaction| {
            let Self { marked, dropped, leaving, returned, .. } = self;
            marked.mark_new(store, transaction, dropped, &mut |mirror, path| {
                let path = (mirror.clone(), path.clone());
                leaving.remove(&path);
                returned.insert(path);
                Ok(())
            })?;
            self.bodies.keep_marked(transaction, |id| self.marked.has_body(id)).map_err(store.sql())?;
            self.condemned.retain(|(blob, _)| !self.marked.has_blob(blob));
            let number = store.next_in_sequence(transaction)?;
            self.write(transaction, number).map_err(store.sql())
        })
    }

    fn write(&self, connection: &Connection, number: i64) -> rusqlite::Result<()> {
        let now = self.now.seconds();
        let bytes = |id: &Blake3| [*id.as_bytes()];
        execute_each(connection, "DELETE FROM snapshot WHERE id = ?1", self.dropped.keys(), bytes)?;
        self.bodies.delete(connection)?;
        let pardon = "UPDATE blob SET condemned = NULL, condemned_in = NULL WHERE blake3 = ?1";
        execute_each(connection, pardon, &self.pardoned, bytes)?;
        let condemn = "UPDATE blob SET condemned = ?2, condemned_in = ?3 WHERE blake3 = ?1 AND condemned IS NULL";
        execute_each(connection, condemn, &self.condemned, |(blob, _)| (*blob.as_bytes(), now, number))?;
        let note = "INSERT INTO pool_leaving (mirror, path, since) SELECT id, ?2, ?3 FROM mirror WHERE name = ?1
            ON CONFLICT DO NOTHING";
        execute_each(connection, note, &self.leaving, |(mirror, path)| {
            (mirror.as_str().to_owned(), path.as_str().to_owned(), now)
        })?;
        forget_links(connection, &self.returned)?;
        let size = "UPDATE mirror SET bytes = ?2, own = ?3 WHERE name = ?1";
        execute_each(connection, size, &self.usage, |(mirror, bytes, own)| (mirror.as_str().to_owned(), *bytes, *own))?;
        connection.execute("INSERT OR REPLACE INTO usage VALUES (1, ?1, ?2)", (self.bytes, now)).map(drop)
    }

    /// Removes the links of pools that have been leaving for long enough.
    fn remove_links(&mut self, store: &Store) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let _deleting = store.lock_deletions()?;
            self.mark_committed(store)?;
            let links = expired_links(store, self.until, BATCH)?;
            if links.is_empty() {
                return Ok(removed);
            }
            store.remove_links(links.iter().map(|(mirror, path)| (mirror, path)))?;
            store.transaction(|transaction| forget_links(transaction, &links).map_err(store.sql()))?;
            removed += links.len() as u64;
        }
    }

    /// Takes note of what was committed since, in a transaction of its own: paths of the pool that it names do not leave.
    fn mark_committed(&mut self, store: &Store) -> Result<(), StoreError> {
        store.transaction(|transaction| {
            let mut returned = Leaving::new();
            self.marked.mark_new(store, transaction, &mut BTreeMap::new(), &mut |mirror, path| {
                returned.insert((mirror.clone(), path.clone()));
                Ok(())
            })?;
            forget_links(transaction, &returned).map_err(store.sql())
        })
    }

    /// Deletes blobs whose time is up, except those that a process has come to rely on.
    fn delete_blobs(&mut self, store: &Store, done: &mut Collected) -> Result<(), StoreError> {
        for batch in self.expired.chunks(BATCH) {
            let _deleting = store.lock_deletions()?;
            let (gone, in_use) = store.transaction(|transaction| {
                self.marked.mark_new(store, transaction, &mut BTreeMap::new(), &mut |_, _| Ok(()))?;
                let oldest = store.oldest_intake(transaction)?;
                let mark = "UPDATE blob SET deleting = 1
                    WHERE blake3 = ?1 AND condemned IS NOT NULL AND deleting = 0 AND (?2 IS NULL OR condemned_in < ?2)";
                let mut statement = transaction.prepare_cached(mark).map_err(store.sql())?;
                let (mut gone, mut in_use) = (Vec::new(), 0);
                for (blob, size) in batch.iter().filter(|(blob, _)| !self.marked.has_blob(blob)) {
                    match statement.execute((blob.as_bytes(), oldest)).map_err(store.sql())? {
                        0 => in_use += 1,
                        _ => gone.push((*blob, *size)),
                    }
                }
                Ok::<_, StoreError>((gone, in_use))
            })?;
            delete_marked(store)?;
            done.deleted_as(&gone);
            done.in_use += in_use;
        }
        Ok(())
    }
}

fn in_order(dropped: &BTreeMap<Blake3, (MirrorName, Label)>) -> Vec<(MirrorName, Label)> {
    let mut dropped: Vec<_> = dropped.values().cloned().collect();
    dropped.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    dropped
}

/// The snapshots of a mirror.
struct Divided {
    stay: Vec<Recorded>,
    /// Those that stay as a record of what there was: superseded, and kept as long as what took their place.
    records: Vec<Recorded>,
    go: Vec<Recorded>,
}

fn divide(mirror: &Mirror, keep: Keep) -> Result<Divided, StoreError> {
    let store = mirror.store();
    let protected = protected(store, &store.connection())?;
    let busy = store.intakes()?.contains_key(mirror.name());
    let superseded = mirror.superseded()?;
    let snapshots = mirror.snapshots()?;
    let verified: Vec<_> =
        snapshots.iter().filter(|recorded| recorded.verified && !superseded.contains_key(&recorded.id)).collect();
    let times: Vec<_> = verified.iter().map(|recorded| recorded.snapshot.time).collect();
    let chosen: HashSet<_> = verified
        .iter()
        .zip(keep.select(&times))
        .enumerate()
        .filter(|(position, (_, kept))| *kept || *position == 0)
        .map(|(_, (recorded, _))| recorded.id)
        .collect();
    let mut divided = Divided { stay: Vec::new(), records: Vec::new(), go: Vec::new() };
    for recorded in snapshots {
        // An unverified snapshot is not the base of anything: it is of a sync that died before it had verified it, or
        // of one that still runs.
        let stays = chosen.contains(&recorded.id) || protected.contains(&recorded.id) || (busy && !recorded.verified);
        let served = std::iter::successors(Some(recorded.id), |id| superseded.get(id).copied()).last();
        if stays {
            divided.stay.push(recorded);
        } else if served.is_some_and(|served| chosen.contains(&served) || protected.contains(&served)) {
            divided.records.push(recorded);
        } else {
            divided.go.push(recorded);
        }
    }
    Ok(divided)
}

fn forget_links<'a>(
    connection: &Connection,
    links: impl IntoIterator<Item = &'a (MirrorName, TreePath)>,
) -> rusqlite::Result<()> {
    let forget = "DELETE FROM pool_leaving WHERE mirror = (SELECT id FROM mirror WHERE name = ?1) AND path = ?2";
    execute_each(connection, forget, links, |(mirror, path)| (mirror.as_str(), path.as_str())).map(drop)
}

/// At most so many of the pool paths that have been leaving since `until` or earlier.
fn expired_links(store: &Store, until: i64, most: usize) -> Result<Vec<(MirrorName, TreePath)>, StoreError> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let query = "SELECT m.name, p.path FROM pool_leaving p JOIN mirror m ON m.id = p.mirror
        WHERE p.since <= ?1 ORDER BY m.name, p.path LIMIT ?2";
    store.rows(query, [until, most], |row| Ok((parsed(row, 0)?, parsed(row, 1)?)))
}

/// Finishes the deletions of processes that died in the middle of them. A collection that runs now finishes its own.
pub(crate) fn finish(store: &Store) -> Result<(), StoreError> {
    let marked = "SELECT EXISTS (SELECT 1 FROM blob WHERE condemned IS NOT NULL AND deleting = 1)";
    if !store.says(marked, [])? {
        return Ok(());
    }
    let Some(_alone) = Lock::free(&store.root.join("locks/gc"))? else { return Ok(()) };
    let _deleting = store.lock_deletions()?;
    delete_marked(store)
}

/// Deletes the files of blobs that are marked so, then their rows. No process is putting files in their places.
pub(crate) fn delete_marked(store: &Store) -> Result<(), StoreError> {
    let query = "SELECT blake3 FROM blob WHERE condemned IS NOT NULL AND deleting = 1";
    let blobs = store.rows(query, [], |row| blake3(row, 0))?;
    if blobs.is_empty() {
        return Ok(());
    }
    for blob in &blobs {
        store.disk.remove_file(&store.blob_path(*blob))?;
    }
    // The names are gone for good before the rows are: a row without a file would be damage, a file without a row
    // would never be found again.
    store.disk.sync_file_system(&store.root)?;
    store.transaction(|transaction| {
        for query in
            ["DELETE FROM blob WHERE blake3 = ?1 AND deleting = 1", "DELETE FROM private_blob WHERE blake3 = ?1"]
        {
            execute_each(transaction, query, &blobs, |blob| [*blob.as_bytes()]).map_err(store.sql())?;
        }
        Ok(())
    })
}
