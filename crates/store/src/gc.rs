//! Retention and garbage collection: what is dropped, and what is deleted because of it.
//!
//! In this order, each step durable before the next: snapshots that retention drops lose their rows, with the bodies
//! that nothing else reaches; blobs that nothing names are condemned, and pool paths that nothing names are noted as
//! leaving; what has been so for longer than the grace period loses its link in the pool, then its row is marked
//! `deleting`, then its file goes, then the row. A file that is missing already counts as deleted. There is one
//! implementation, for whoever calls, and one collection at a time.
//!
//! It runs beside syncs. What they bring and rely on meanwhile is safe because:
//!
//! 1. Before anything is dropped or deleted, in the same transaction, what was committed since the marking is marked too.
//! 2. A sync that finds a condemned blob pardons it ([`Intake::find`](crate::Intake::find)). One that has begun before the
//!    blob was condemned may have found it before: as long as it runs, the blob stays. What comes in while it runs counts as
//!    found by it.
//! 3. Files and links go while nobody is putting any in their places ([`Store::hold_deletions`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use strandline_durable::Lock;
use strandline_model::{Blake3, Label, MirrorName, Node, Timestamp, TreePath, trie::Nodes as _};

use crate::bodies::Bodies;
use crate::{Recorded, Store, StoreError};

/// How many links or files are deleted while whoever puts some in their places has to wait.
const BATCH: usize = 1_000;

/// Which snapshots of a mirror are kept, besides what is pinned, is published, was published before, or is the newest.
/// Those that are superseded count with what took their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many.
    pub last: usize,
    /// The newest of each of the last so many days (UTC) that have any.
    pub daily: usize,
    /// The newest of each of the last so many weeks (from Monday, UTC) that have any.
    pub weekly: usize,
}

impl Default for Keep {
    fn default() -> Self {
        Self { last: 48, daily: 30, weekly: 12 }
    }
}

const DAY: i64 = 86_400;
/// 1970-01-01 was a Thursday: weeks from Monday begin three days later.
const MONDAY: i64 = 3 * DAY;

impl Keep {
    /// Which of the snapshots are kept by the rule alone. `times` are theirs, the newest first.
    pub fn select(&self, times: &[Timestamp]) -> Vec<bool> {
        let mut kept: Vec<_> = (0..times.len()).map(|index| index < self.last).collect();
        let periods: [(usize, fn(i64) -> i64); 2] =
            [(self.daily, |second| second / DAY), (self.weekly, |second| (second + MONDAY) / (7 * DAY))];
        for (most, period) in periods {
            let mut seen = BTreeSet::new();
            for (time, kept) in times.iter().zip(&mut kept) {
                if seen.len() < most && seen.insert(period(time.seconds())) {
                    *kept = true;
                }
            }
        }
        kept
    }
}

/// What a collection did or, dry, would do.
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
    /// Blobs whose time is up and that a sync which is running may have found: a later collection deletes them.
    pub in_use: u64,
    /// Pool links that are removed now.
    pub links: u64,
}

/// What is reachable from snapshots that stay, and from pages that wait for one.
#[derive(Default)]
struct Marked {
    /// The snapshots that were looked at.
    snapshots: HashSet<Blake3>,
    /// What they reach, by mirror: the pool is a mirror's own.
    bodies: HashMap<MirrorName, HashSet<Blake3>>,
    /// What superseded snapshots reach, which are kept as a record only: they hold no blobs and no paths.
    records: HashSet<Blake3>,
    /// The units of pages that wait, and of projects that were adopted and wait.
    seen: HashSet<Blake3>,
    /// The blobs that each of the mirrors names.
    blobs: Vec<(MirrorName, Named)>,
}

/// A set of blobs, by the first eight bytes of their names: at 14 million, whole names would take a gigabyte. Two blobs that
/// have those in common count as named if one of them is, so that nothing goes that should stay.
#[derive(Default)]
struct Named {
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

    fn contains(&self, blob: &Blake3) -> bool {
        let beginning = Self::beginning(blob);
        self.sorted.binary_search(&beginning).is_ok() || self.fresh.contains(&beginning)
    }
}

/// How many blobs are gathered before they are sorted in.
const ENOUGH: usize = 1 << 20;
/// How many units are unpacked at a time, on all cores.
const UNITS: usize = 1_024;

/// What leaves a mirror's pool.
type Leaving = BTreeSet<(MirrorName, TreePath)>;

impl Marked {
    /// What a mirror names.
    fn named_by<'a>(blobs: &'a mut Vec<(MirrorName, Named)>, mirror: &MirrorName) -> &'a mut Named {
        let position = blobs.iter().position(|(known, _)| known == mirror).unwrap_or_else(|| {
            blobs.push((mirror.clone(), Named::default()));
            blobs.len() - 1
        });
        &mut blobs[position].1
    }

    fn has_blob(&self, blob: &Blake3) -> bool {
        self.blobs.iter().any(|(_, named)| named.contains(blob))
    }

    fn has_body(&self, id: &Blake3) -> bool {
        let reached = self.bodies.values().any(|bodies| bodies.contains(id));
        reached || self.seen.contains(id) || self.records.contains(id)
    }

    /// Marks what snapshots reach that are kept as a record only.
    fn mark_records(
        &mut self,
        bodies: &Bodies<'_>,
        snapshots: impl IntoIterator<Item = (Blake3, Blake3)>,
    ) -> Result<(), StoreError> {
        for (id, tree) in snapshots {
            self.snapshots.insert(id);
            self.records.insert(id);
            reach(bodies, tree, &mut self.records)?;
        }
        Ok(())
    }

    /// Marks what snapshots of a mirror reach. What of it leaves the pool does not leave it now.
    fn mark(
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
            for ids in reach(bodies, tree, reached)?.chunks(UNITS) {
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
    /// wait. `dropped` are the snapshots that go unless somebody relies on them again; those are taken out.
    fn mark_new(
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
        let query = "SELECT s.id, m.name FROM snapshot s JOIN mirror m ON m.id = s.mirror";
        let rows: Vec<([u8; 32], String)> = connection
            .prepare_cached(query)
            .and_then(|mut statement| statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .map_err(store.sql())?;
        for (id, mirror) in rows {
            let id = Blake3::from_stored(id);
            if !self.snapshots.contains(&id) && !dropped.contains_key(&id) {
                let tree = bodies.snapshot(id)?.tree;
                self.mark(&bodies, &store.stored(&mirror)?, [(id, tree)], stay)?;
            }
        }
        let waiting: Vec<([u8; 32], String)> = connection
            .prepare_cached("SELECT unit, mirror FROM seen UNION ALL SELECT unit, mirror FROM adopted")
            .and_then(|mut statement| statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .map_err(store.sql())?;
        for (unit, mirror) in waiting {
            let unit = Blake3::from_stored(unit);
            if self.seen.insert(unit) {
                let named = Self::named_by(&mut self.blobs, &store.stored(&mirror)?);
                for entry in bodies.unit(unit)?.entries() {
                    named.insert(&entry.blob);
                }
            }
        }
        Ok(())
    }
}

/// Adds everything below a node to `seen`; returns the units that were not in it before.
fn reach(bodies: &Bodies<'_>, tree: Blake3, seen: &mut HashSet<Blake3>) -> Result<Vec<Blake3>, StoreError> {
    let mut units = Vec::new();
    let mut nodes = vec![tree];
    while let Some(id) = nodes.pop() {
        if !seen.insert(id) {
            continue;
        }
        match bodies.node(id)? {
            Node::Branch(children) => nodes.extend(children.iter().flatten().map(|child| child.node)),
            Node::Leaf(leaves) => {
                units.extend(leaves.iter().map(|leaf| leaf.unit).filter(|unit| seen.insert(*unit)));
            }
        }
    }
    Ok(units)
}

/// The snapshots that must stay whatever retention says: what is pinned, what readers see or saw before, what a twin holds.
fn protected(store: &Store, connection: &Connection) -> Result<HashSet<Blake3>, StoreError> {
    let ids: Vec<Option<[u8; 32]>> = connection
        .prepare_cached(
            "SELECT snapshot FROM pin UNION SELECT snapshot FROM view UNION SELECT previous FROM view
             UNION SELECT base FROM twin UNION SELECT target FROM twin",
        )
        .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
        .map_err(store.sql())?;
    Ok(ids.into_iter().flatten().map(Blake3::from_stored).collect())
}

/// Drops what retention does not keep and deletes what has been without a name for longer than `grace`; with `dry`,
/// only says what it would do.
///
/// An error leaves the store whole: what was not done yet, the next collection does.
pub fn collect(
    store: &Store,
    keep: impl Fn(&MirrorName) -> Keep,
    grace: Duration,
    now: Timestamp,
    dry: bool,
) -> Result<Collected, StoreError> {
    let path = store.root.join("locks/gc");
    let _alone = if dry { None } else { Some(Lock::take(&path, "the store's `strandline gc`", &now.to_string())?) };

    let mut marked = Marked::default();
    let (mut leaving, mut returned) = (Leaving::new(), Leaving::new());
    let mut dropped = BTreeMap::new();
    for mirror in store.mirrors()? {
        let mirror = mirror.name;
        let Divided { stay, records, go } = divide(store, &mirror, keep(&mirror))?;
        for path in mark_mirror(store, &mirror, &stay, &go, &mut marked, &mut returned)? {
            leaving.insert((mirror.clone(), path));
        }
        marked.mark_records(
            &Bodies { store, connection: &store.connection() },
            records.iter().map(|recorded| (recorded.id, recorded.snapshot.tree)),
        )?;
        dropped.extend(go.into_iter().map(|recorded| (recorded.id, (mirror.clone(), recorded.snapshot.label))));
    }
    marked.mark_new(store, &store.connection(), &mut dropped, &mut |_, _| Ok(()))?;
    let mut plan = Plan::of(store, &marked, grace, now)?;
    if dry {
        plan.collected.snapshots = in_order(dropped);
        plan.collected.deleted_as(&plan.expired);
        let already = expired_links(store, plan.until, usize::MAX)?.len();
        plan.collected.links = (already + if grace.is_zero() { leaving.len() } else { 0 }) as u64;
        return Ok(plan.collected);
    }
    let mut collected = plan.commit(store, &mut marked, dropped, (leaving, returned), now)?;
    collected.links = remove_links(store, &mut marked, plan.until)?;
    delete_blobs(store, &mut marked, &plan.expired, &mut collected)?;
    Ok(collected)
}

fn in_order(dropped: BTreeMap<Blake3, (MirrorName, Label)>) -> Vec<(MirrorName, Label)> {
    let mut dropped: Vec<_> = dropped.into_values().collect();
    dropped.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    dropped
}

/// What is to be done, as it looks from what is marked.
struct Plan {
    collected: Collected,
    bodies: Vec<Blake3>,
    condemned: Vec<(Blake3, u64)>,
    pardoned: Vec<Blake3>,
    /// The blobs that have been without a name for long enough.
    expired: Vec<(Blake3, u64)>,
    /// Whatever has left until then may go.
    until: i64,
    /// Of each mirror, what its snapshots name, and what no other's do, in bytes.
    usage: Vec<(MirrorName, u64, u64)>,
    /// The bytes of all blobs that are not about to go.
    bytes: u64,
}

impl Plan {
    fn of(store: &Store, marked: &Marked, grace: Duration, now: Timestamp) -> Result<Self, StoreError> {
        let until = now.seconds().saturating_sub(i64::try_from(grace.as_secs()).unwrap_or(i64::MAX));
        let mut plan = Self {
            collected: Collected::default(),
            bodies: Vec::new(),
            condemned: Vec::new(),
            pardoned: Vec::new(),
            expired: Vec::new(),
            until,
            usage: marked.blobs.iter().map(|(mirror, _)| (mirror.clone(), 0, 0)).collect(),
            bytes: 0,
        };
        let connection = store.connection();
        let mut blobs =
            connection.prepare("SELECT blake3, size, condemned FROM blob WHERE deleting = 0").map_err(store.sql())?;
        let mut named_by = Vec::with_capacity(marked.blobs.len());
        let mut rows = blobs.query([]).map_err(store.sql())?;
        while let Some(row) = rows.next().map_err(store.sql())? {
            let read = || Ok((Blake3::from_stored(row.get(0)?), row.get::<_, u64>(1)?, row.get::<_, Option<i64>>(2)?));
            let (blob, size, since) = read().map_err(store.sql())?;
            plan.bytes += size;
            named_by.clear();
            named_by.extend(marked.blobs.iter().enumerate().filter(|(_, (_, named))| named.contains(&blob)));
            for (position, _) in &named_by {
                let (_, bytes, own) = &mut plan.usage[*position];
                *bytes += size;
                *own += if named_by.len() == 1 { size } else { 0 };
            }
            if !named_by.is_empty() {
                plan.pardoned.extend(since.map(|_| blob));
                continue;
            }
            if since.is_none() {
                plan.condemned.push((blob, size));
            }
            if since.unwrap_or(now.seconds()) <= until {
                plan.expired.push((blob, size));
                plan.bytes -= size;
            }
        }
        plan.collected.condemned = plan.condemned.len() as u64;
        plan.collected.condemned_bytes = plan.condemned.iter().map(|(_, size)| size).sum();
        let mut bodies = connection.prepare("SELECT id FROM body").map_err(store.sql())?;
        let mut rows = bodies.query([]).map_err(store.sql())?;
        while let Some(row) = rows.next().map_err(store.sql())? {
            let id = Blake3::from_stored(row.get(0).map_err(store.sql())?);
            if !marked.has_body(&id) {
                plan.bodies.push(id);
            }
        }
        plan.collected.bodies = plan.bodies.len() as u64;
        Ok(plan)
    }

    /// Drops and condemns in the catalog, but for what somebody has come to rely on since it was planned.
    fn commit(
        &mut self,
        store: &Store,
        marked: &mut Marked,
        mut dropped: BTreeMap<Blake3, (MirrorName, Label)>,
        (mut leaving, mut returned): (Leaving, Leaving),
        now: Timestamp,
    ) -> Result<Collected, StoreError> {
        store.transaction(|transaction| {
            marked.mark_new(store, transaction, &mut dropped, &mut |mirror, path| {
                let path = (mirror.clone(), path.clone());
                leaving.remove(&path);
                returned.insert(path);
                Ok(())
            })?;
            self.bodies.retain(|id| !marked.has_body(id));
            self.condemned.retain(|(blob, _)| !marked.has_blob(blob));
            let number = store.next_in_sequence(transaction)?;
            let run = || {
                let mut drop = transaction.prepare("DELETE FROM snapshot WHERE id = ?1")?;
                dropped.keys().try_for_each(|id| drop.execute([id.as_bytes()]).map(std::mem::drop))?;
                let mut delete = transaction.prepare("DELETE FROM body WHERE id = ?1")?;
                self.bodies.iter().try_for_each(|id| delete.execute([id.as_bytes()]).map(std::mem::drop))?;
                let mut pardon =
                    transaction.prepare("UPDATE blob SET condemned = NULL, condemned_in = NULL WHERE blake3 = ?1")?;
                self.pardoned.iter().try_for_each(|id| pardon.execute([id.as_bytes()]).map(std::mem::drop))?;
                let mut condemn = transaction.prepare(
                    "UPDATE blob SET condemned = ?2, condemned_in = ?3 WHERE blake3 = ?1 AND condemned IS NULL",
                )?;
                for (blob, _) in &self.condemned {
                    condemn.execute((blob.as_bytes(), now.seconds(), number))?;
                }
                let mut note = transaction.prepare(
                    "INSERT INTO pool_leaving (mirror, path, since) SELECT id, ?2, ?3 FROM mirror WHERE name = ?1
                     ON CONFLICT DO NOTHING",
                )?;
                for (mirror, path) in &leaving {
                    note.execute((mirror.as_str(), path.as_str(), now.seconds()))?;
                }
                forget_links(transaction, &returned)?;
                for (mirror, bytes, own) in &self.usage {
                    transaction.execute(
                        "UPDATE mirror SET bytes = ?2, own = ?3 WHERE name = ?1",
                        (mirror.as_str(), bytes, own),
                    )?;
                }
                transaction
                    .execute("INSERT OR REPLACE INTO usage VALUES (1, ?1, ?2)", (self.bytes, now.seconds()))
                    .map(std::mem::drop)
            };
            run().map_err(store.sql())
        })?;
        let mut collected = std::mem::take(&mut self.collected);
        collected.snapshots = in_order(dropped);
        Ok(collected)
    }
}

impl Collected {
    fn deleted_as(&mut self, blobs: &[(Blake3, u64)]) {
        self.deleted += blobs.len() as u64;
        self.deleted_bytes += blobs.iter().map(|(_, size)| size).sum::<u64>();
    }
}

/// The snapshots of a mirror.
struct Divided {
    stay: Vec<Recorded>,
    /// Those that stay as a record of what there was: superseded, and kept as long as what took their place.
    records: Vec<Recorded>,
    go: Vec<Recorded>,
}

fn divide(store: &Store, mirror: &MirrorName, keep: Keep) -> Result<Divided, StoreError> {
    let protected = protected(store, &store.connection())?;
    let busy = store.intakes()?.contains_key(mirror);
    let superseded = store.superseded(mirror)?;
    let snapshots = store.snapshots(mirror)?;
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
        // What was never verified is not the base of anything: a sync that died between the two left it, or one is there yet.
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

/// Marks what the snapshots that stay reach, and adds what they name of what was leaving the pool to `returned`; returns
/// the pool's paths that only the snapshots that go name.
fn mark_mirror(
    store: &Store,
    mirror: &MirrorName,
    stay: &[Recorded],
    go: &[Recorded],
    marked: &mut Marked,
    returned: &mut Leaving,
) -> Result<BTreeSet<TreePath>, StoreError> {
    let waiting = expired_links(store, i64::MAX, usize::MAX)?.into_iter().filter(|(of, _)| of == mirror);
    let waiting: HashSet<_> = waiting.map(|(_, path)| path).collect();
    let connection = store.connection();
    let bodies = Bodies { store, connection: &connection };
    // First what stays, so that it is known which units go; then those units' paths; then what of them stays after all.
    let mut seen = HashSet::new();
    for recorded in stay.iter().filter(|_| !go.is_empty()) {
        reach(&bodies, recorded.snapshot.tree, &mut seen)?;
    }
    let mut lost = BTreeSet::new();
    for recorded in go {
        for unit in reach(&bodies, recorded.snapshot.tree, &mut seen)? {
            let unit = bodies.unit(unit)?;
            let pooled = unit.entries().iter().filter(|entry| entry.path.first_segment() == "packages");
            lost.extend(pooled.map(|entry| entry.path.clone()));
        }
    }
    let trees = stay.iter().map(|recorded| (recorded.id, recorded.snapshot.tree));
    marked.mark(&bodies, mirror, trees, &mut |_, path| {
        lost.remove(path);
        if waiting.contains(path) {
            returned.insert((mirror.clone(), path.clone()));
        }
        Ok(())
    })?;
    Ok(lost)
}

fn forget_links<'a>(
    connection: &Connection,
    links: impl IntoIterator<Item = &'a (MirrorName, TreePath)>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "DELETE FROM pool_leaving WHERE mirror = (SELECT id FROM mirror WHERE name = ?1) AND path = ?2",
    )?;
    links.into_iter().try_for_each(|(mirror, path)| statement.execute((mirror.as_str(), path.as_str())).map(drop))
}

/// At most so many of the pool paths that have been leaving since `until` or earlier.
fn expired_links(store: &Store, until: i64, most: usize) -> Result<Vec<(MirrorName, TreePath)>, StoreError> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let rows: Vec<(String, String)> = store
        .connection()
        .prepare_cached(
            "SELECT m.name, p.path FROM pool_leaving p JOIN mirror m ON m.id = p.mirror
             WHERE p.since <= ?1 ORDER BY m.name, p.path LIMIT ?2",
        )
        .and_then(|mut statement| statement.query_map([until, most], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .map_err(store.sql())?;
    rows.iter().map(|(mirror, path)| Ok((store.stored(mirror)?, store.stored(path)?))).collect()
}

/// Takes note of what was committed since, in a transaction of its own: paths of the pool that it names do not leave.
fn mark_committed(store: &Store, marked: &mut Marked) -> Result<(), StoreError> {
    store.transaction(|transaction| {
        let mut returned = Leaving::new();
        marked.mark_new(store, transaction, &mut BTreeMap::new(), &mut |mirror, path| {
            returned.insert((mirror.clone(), path.clone()));
            Ok(())
        })?;
        forget_links(transaction, &returned).map_err(store.sql())
    })
}

/// Removes the links of the pool that have been leaving for long enough.
fn remove_links(store: &Store, marked: &mut Marked, until: i64) -> Result<u64, StoreError> {
    let mut removed = 0;
    loop {
        let _deleting = store.lock_deletions()?;
        mark_committed(store, marked)?;
        let links = expired_links(store, until, BATCH)?;
        if links.is_empty() {
            return Ok(removed);
        }
        let mut touched = BTreeSet::new();
        for (mirror, path) in &links {
            let view = store.view_directory(mirror);
            let link = view.join(path.as_str());
            store.disk.remove_file(&link)?;
            // The directories above, up to the pool's own, go when they are empty.
            let mut directory = link.parent();
            while let Some(empty) = directory
                && empty != view.join("packages")
                && store.disk.remove_empty_directory(empty)?
            {
                directory = empty.parent();
            }
            touched.extend(directory.map(PathBuf::from));
        }
        for directory in touched.iter().filter(|directory| directory.is_dir()) {
            store.disk.sync_directory(directory)?;
        }
        store.transaction(|transaction| forget_links(transaction, &links).map_err(store.sql()))?;
        removed += links.len() as u64;
    }
}

/// Deletes blobs whose time is up, but for those that somebody has come to rely on.
fn delete_blobs(
    store: &Store,
    marked: &mut Marked,
    expired: &[(Blake3, u64)],
    collected: &mut Collected,
) -> Result<(), StoreError> {
    for batch in expired.chunks(BATCH) {
        let _deleting = store.lock_deletions()?;
        let (gone, in_use) = store.transaction(|transaction| {
            marked.mark_new(store, transaction, &mut BTreeMap::new(), &mut |_, _| Ok(()))?;
            let oldest = store.oldest_intake(transaction)?;
            let mut statement = transaction
                .prepare_cached(
                    "UPDATE blob SET deleting = 1
                     WHERE blake3 = ?1 AND condemned IS NOT NULL AND deleting = 0 AND (?2 IS NULL OR condemned_in < ?2)",
                )
                .map_err(store.sql())?;
            let (mut gone, mut in_use) = (Vec::new(), 0);
            for (blob, size) in batch.iter().filter(|(blob, _)| !marked.has_blob(blob)) {
                match statement.execute((blob.as_bytes(), oldest)).map_err(store.sql())? {
                    0 => in_use += 1,
                    _ => gone.push((*blob, *size)),
                }
            }
            Ok::<_, StoreError>((gone, in_use))
        })?;
        delete_marked(store)?;
        collected.deleted_as(&gone);
        collected.in_use += in_use;
    }
    Ok(())
}

impl Store {
    /// Who is taking blobs in, and since which number of the sequence; also who has died meanwhile.
    pub(crate) fn intakes(&self) -> Result<BTreeMap<MirrorName, i64>, StoreError> {
        let rows: Vec<(String, i64)> = self
            .connection()
            .prepare_cached("SELECT mirror, began FROM intake")
            .and_then(|mut statement| statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .map_err(self.sql())?;
        rows.iter().map(|(mirror, began)| Ok((self.stored(mirror)?, *began))).collect()
    }

    fn oldest_intake(&self, connection: &Connection) -> Result<Option<i64>, StoreError> {
        connection.query_row("SELECT min(began) FROM intake", [], |row| row.get(0)).map_err(self.sql())
    }
}

/// Finishes what processes left half done that have died. What others are at now, they see to.
pub(crate) fn finish(store: &Store) -> Result<(), StoreError> {
    store.finish_mirrors()?;
    if !has_marked(store)? {
        return Ok(());
    }
    let Some(_alone) = Lock::free(&store.root.join("locks/gc"))? else { return Ok(()) };
    let _deleting = store.lock_deletions()?;
    delete_marked(store)
}

fn has_marked(store: &Store) -> Result<bool, StoreError> {
    let query = "SELECT EXISTS (SELECT 1 FROM blob WHERE condemned IS NOT NULL AND deleting = 1)";
    store.connection().query_row(query, [], |row| row.get(0)).map_err(store.sql())
}

/// Deletes the files of blobs that are marked so, then their rows. Nobody is putting files in their places.
pub(crate) fn delete_marked(store: &Store) -> Result<(), StoreError> {
    let blobs: Vec<[u8; 32]> = {
        let connection = store.connection();
        connection
            .prepare("SELECT blake3 FROM blob WHERE condemned IS NOT NULL AND deleting = 1")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .map_err(store.sql())?
    };
    if blobs.is_empty() {
        return Ok(());
    }
    for blob in &blobs {
        store.disk.remove_file(&store.blob_path(Blake3::from_stored(*blob)))?;
    }
    // The names are gone for good before the rows are: a row without a file would be damage, a file without a row
    // would never be found again.
    store.disk.sync_file_system(&store.root)?;
    store.transaction(|transaction| {
        for query in
            ["DELETE FROM blob WHERE blake3 = ?1 AND deleting = 1", "DELETE FROM private_blob WHERE blake3 = ?1"]
        {
            let mut statement = transaction.prepare(query).map_err(store.sql())?;
            blobs.iter().try_for_each(|blob| statement.execute([blob]).map(drop)).map_err(store.sql())?;
        }
        Ok(())
    })
}
