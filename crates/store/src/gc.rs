//! Retention and garbage collection: what is dropped, and what is deleted because of it.
//!
//! In this order, each step durable before the next: snapshots that retention drops lose their rows, with the bodies
//! that nothing else reaches; blobs that nothing names are condemned, and pool paths that nothing names are noted as
//! leaving; what has been so for longer than the grace period loses its link in the pool, then its row is marked
//! `deleting`, then its file goes, then the row. A file that is missing already counts as deleted. There is one
//! implementation, for whoever calls.
//!
//! It runs alone: no sync is under way ([`Store::lock_mirror`] shares the lock that this takes).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use strandline_durable::LockError;
use strandline_model::{Blake3, Label, MirrorName, Node, Timestamp, TreePath, trie::Nodes as _};

use crate::bodies::Bodies;
use crate::{Recorded, Slot, Store, StoreError};

/// Which snapshots of a mirror are kept, besides what is published, was published before, or is the newest.
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
    /// Pool links that are removed now.
    pub links: u64,
}

/// What is reachable from snapshots that stay.
#[derive(Default)]
struct Marked {
    bodies: HashSet<Blake3>,
    blobs: HashSet<Blake3>,
    /// Pool paths that were leaving and are named again.
    returned: Vec<(MirrorName, TreePath)>,
}

/// Drops what retention does not keep and deletes what has been without a name for longer than `grace`; with `dry`,
/// only says what it would do.
pub fn collect(
    store: &Store,
    keep: impl Fn(&MirrorName) -> Keep,
    grace: Duration,
    now: Timestamp,
    dry: bool,
) -> Result<Collected, StoreError> {
    let _alone = if dry { None } else { Some(store.lock_for_deletion()?) };
    let mut collected = Collected::default();
    let mirrors: Vec<_> = store.mirrors()?.into_iter().map(|mirror| mirror.name).collect();

    let mut marked = Marked::default();
    let mut dropped = Vec::new();
    let mut leaving: Vec<(MirrorName, TreePath)> = Vec::new();
    for mirror in &mirrors {
        let (stay, go) = divide(store, mirror, keep(mirror))?;
        collected.snapshots.extend(go.iter().map(|recorded| (mirror.clone(), recorded.snapshot.label)));
        dropped.extend(go.iter().map(|recorded| recorded.id));
        leaving.extend(
            mark_mirror(store, mirror, &stay, &go, &mut marked)?.into_iter().map(|path| (mirror.clone(), path)),
        );
    }
    mark_seen(store, &mut marked)?;

    let all: Vec<(Blake3, u64, Option<i64>)> = {
        let connection = store.connection();
        connection
            .prepare("SELECT blake3, size, condemned FROM blob WHERE deleting = 0")
            .and_then(|mut statement| {
                statement
                    .query_map([], |row| Ok((Blake3::from_stored(row.get(0)?), row.get(1)?, row.get(2)?)))?
                    .collect()
            })
            .map_err(store.sql())?
    };
    let expired = now.seconds().saturating_sub(i64::try_from(grace.as_secs()).unwrap_or(i64::MAX));
    let (mut condemned, mut pardoned, mut deleted) = (Vec::new(), Vec::new(), Vec::new());
    for (blob, size, since) in all {
        match (marked.blobs.contains(&blob), since) {
            (true, Some(_)) => pardoned.push(blob),
            (true, None) => {}
            (false, since) => {
                if since.is_none() {
                    condemned.push(blob);
                    collected.condemned += 1;
                    collected.condemned_bytes += size;
                }
                if since.unwrap_or(now.seconds()) <= expired {
                    deleted.push(blob);
                    collected.deleted += 1;
                    collected.deleted_bytes += size;
                }
            }
        }
    }
    let bodies: Vec<Blake3> = {
        let connection = store.connection();
        let ids: Vec<[u8; 32]> = connection
            .prepare("SELECT id FROM body")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .map_err(store.sql())?;
        ids.into_iter().map(Blake3::from_stored).filter(|id| !marked.bodies.contains(id)).collect()
    };
    collected.bodies = bodies.len() as u64;
    if dry {
        let already = expired_links(store, expired)?.values().map(Vec::len).sum::<usize>();
        collected.links = (already + if grace.is_zero() { leaving.len() } else { 0 }) as u64;
        return Ok(collected);
    }

    store.transaction(|transaction| {
        let each = |query: &str, ids: &[Blake3]| {
            let mut statement = transaction.prepare(query)?;
            ids.iter().try_for_each(|id| statement.execute([id.as_bytes()]).map(drop))
        };
        let work = || {
            each("DELETE FROM snapshot WHERE id = ?1", &dropped)?;
            each("DELETE FROM body WHERE id = ?1", &bodies)?;
            each("UPDATE blob SET condemned = NULL WHERE blake3 = ?1", &pardoned)?;
            let mut condemn = transaction.prepare("UPDATE blob SET condemned = ?2 WHERE blake3 = ?1")?;
            for blob in &condemned {
                condemn.execute((blob.as_bytes(), now.seconds()))?;
            }
            let mut note = transaction.prepare(
                "INSERT INTO pool_leaving (mirror, path, since) SELECT id, ?2, ?3 FROM mirror WHERE name = ?1
                 ON CONFLICT DO NOTHING",
            )?;
            for (mirror, path) in &leaving {
                note.execute((mirror.as_str(), path.as_str(), now.seconds()))?;
            }
            Ok(())
        };
        work().map_err(store.sql())
    })?;
    forget_links(store, &marked.returned)?;
    collected.links = remove_links(store, expired)?;
    store.transaction(|transaction| {
        let mut statement = transaction
            .prepare("UPDATE blob SET deleting = 1 WHERE blake3 = ?1 AND condemned IS NOT NULL")
            .map_err(store.sql())?;
        deleted.iter().try_for_each(|blob| statement.execute([blob.as_bytes()]).map(drop)).map_err(store.sql())
    })?;
    delete_marked(store)?;
    Ok(collected)
}

/// The snapshots that must stay whatever retention says: what readers see, saw before, or a twin holds.
fn protected(store: &Store, mirror: &MirrorName) -> Result<HashSet<Blake3>, StoreError> {
    let mut protected = HashSet::new();
    if let Some(state) = store.view_state(mirror)? {
        protected.insert(state.snapshot);
        protected.extend(state.previous);
    }
    for slot in [Slot::A, Slot::B] {
        let twin = store.twin(mirror, slot)?;
        protected.extend(twin.base.into_iter().chain(twin.target));
    }
    Ok(protected)
}

/// The snapshots of a mirror that stay, and those that go.
fn divide(store: &Store, mirror: &MirrorName, keep: Keep) -> Result<(Vec<Recorded>, Vec<Recorded>), StoreError> {
    let protected = protected(store, mirror)?;
    let snapshots = store.snapshots(mirror)?;
    let verified: Vec<_> = snapshots.iter().filter(|recorded| recorded.verified).collect();
    let times: Vec<_> = verified.iter().map(|recorded| recorded.snapshot.time).collect();
    let chosen: HashSet<_> = verified
        .iter()
        .zip(keep.select(&times))
        .enumerate()
        .filter(|(position, (_, kept))| *kept || *position == 0)
        .map(|(_, (recorded, _))| recorded.id)
        .collect();
    // What was never verified is not the base of anything: a sync that died between the two left it.
    Ok(snapshots.into_iter().partition(|recorded| chosen.contains(&recorded.id) || protected.contains(&recorded.id)))
}

/// Marks what the snapshots that stay reach; returns the pool's paths that only those that go name.
fn mark_mirror(
    store: &Store,
    mirror: &MirrorName,
    stay: &[Recorded],
    go: &[Recorded],
    marked: &mut Marked,
) -> Result<BTreeSet<TreePath>, StoreError> {
    let waiting = expired_links(store, i64::MAX)?.remove(mirror).unwrap_or_default();
    let connection = store.connection();
    let bodies = Bodies { store, connection: &connection };
    let mut seen = HashSet::new();
    let kept = reach(&bodies, stay, &mut seen)?;
    marked.bodies.extend(&seen);
    let lost = reach(&bodies, go, &mut seen)?;

    let mut leaving = BTreeSet::new();
    for unit in lost {
        let unit = bodies.unit(unit)?;
        let pooled = unit.entries().iter().filter(|entry| entry.path.first_segment() == "packages");
        leaving.extend(pooled.map(|entry| entry.path.clone()));
    }
    for unit in kept {
        for entry in bodies.unit(unit)?.entries() {
            marked.blobs.insert(entry.blob);
            leaving.remove(&entry.path);
            if waiting.binary_search(&entry.path).is_ok() {
                marked.returned.push((mirror.clone(), entry.path.clone()));
            }
        }
    }
    Ok(leaving)
}

/// Marks what pages name that wait for a snapshot.
fn mark_seen(store: &Store, marked: &mut Marked) -> Result<(), StoreError> {
    let connection = store.connection();
    let units: Vec<[u8; 32]> = connection
        .prepare("SELECT unit FROM seen")
        .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
        .map_err(store.sql())?;
    let bodies = Bodies { store, connection: &connection };
    for unit in units.into_iter().map(Blake3::from_stored) {
        marked.bodies.insert(unit);
        marked.blobs.extend(bodies.unit(unit)?.entries().iter().map(|entry| entry.blob));
    }
    Ok(())
}

/// Adds everything that the snapshots reach to `seen`; returns the units that were not in it before.
fn reach(bodies: &Bodies<'_>, snapshots: &[Recorded], seen: &mut HashSet<Blake3>) -> Result<Vec<Blake3>, StoreError> {
    let mut units = Vec::new();
    for recorded in snapshots {
        seen.insert(recorded.id);
        let mut nodes = vec![recorded.snapshot.tree];
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
    }
    Ok(units)
}

fn forget_links(store: &Store, links: &[(MirrorName, TreePath)]) -> Result<(), StoreError> {
    store.transaction(|transaction| {
        let mut statement = transaction
            .prepare("DELETE FROM pool_leaving WHERE mirror = (SELECT id FROM mirror WHERE name = ?1) AND path = ?2")
            .map_err(store.sql())?;
        links
            .iter()
            .try_for_each(|(mirror, path)| statement.execute((mirror.as_str(), path.as_str())).map(drop))
            .map_err(store.sql())
    })
}

/// The pool paths that have been leaving since `until` or earlier, sorted, by mirror.
fn expired_links(store: &Store, until: i64) -> Result<BTreeMap<MirrorName, Vec<TreePath>>, StoreError> {
    let rows: Vec<(String, String)> = store
        .connection()
        .prepare_cached(
            "SELECT m.name, p.path FROM pool_leaving p JOIN mirror m ON m.id = p.mirror
             WHERE p.since <= ?1 ORDER BY m.name, p.path",
        )
        .and_then(|mut statement| statement.query_map([until], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .map_err(store.sql())?;
    let mut links: BTreeMap<MirrorName, Vec<TreePath>> = BTreeMap::new();
    for (mirror, path) in rows {
        links.entry(store.stored(&mirror)?).or_default().push(store.stored(&path)?);
    }
    Ok(links)
}

/// Removes the links of the pool that have been leaving for long enough.
fn remove_links(store: &Store, until: i64) -> Result<u64, StoreError> {
    let mut removed = Vec::new();
    let mut touched = BTreeSet::new();
    for (mirror, paths) in expired_links(store, until)? {
        let view = store.view_directory(&mirror);
        for path in paths {
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
            removed.push((mirror.clone(), path));
        }
    }
    for directory in touched.iter().filter(|directory| directory.is_dir()) {
        store.disk.sync_directory(directory)?;
    }
    forget_links(store, &removed)?;
    Ok(removed.len() as u64)
}

/// Finishes a collection that a crash interrupted. Where a sync or another collection runs, there is nothing to do:
/// whoever runs has seen to it.
pub(crate) fn finish(store: &Store) -> Result<(), StoreError> {
    let interrupted: bool = store
        .connection()
        .query_row("SELECT EXISTS (SELECT 1 FROM blob WHERE condemned IS NOT NULL AND deleting = 1)", [], |row| {
            row.get(0)
        })
        .map_err(store.sql())?;
    if !interrupted {
        return Ok(());
    }
    match store.lock_for_deletion() {
        Ok(_alone) => delete_marked(store),
        Err(LockError::Held { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Deletes the files of blobs that are marked so, then their rows.
fn delete_marked(store: &Store) -> Result<(), StoreError> {
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
        let mut statement =
            transaction.prepare("DELETE FROM blob WHERE blake3 = ?1 AND deleting = 1").map_err(store.sql())?;
        blobs.iter().try_for_each(|blob| statement.execute([blob]).map(drop)).map_err(store.sql())
    })
}
