//! What a withdrawal does to the store: which snapshots name a file, what takes their place, and how links and bytes go.
//!
//! The order in which a withdrawal goes through a mirror, each step durable before the next: links of the pool
//! ([`Store::cut_links`]); revisions without the file, committed and verified like any snapshot; the note that they take the
//! place of the old ones ([`Store::supersede`]); the view; and after the last mirror the bytes
//! ([`Store::delete_withdrawn`]). A step that is repeated finds done what was done.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

use rusqlite::OptionalExtension as _;
use strandline_model::trie::Nodes as _;
use strandline_model::{Blake3, ClaimedSha256, Entry, Leaf, MirrorName, Node, Timestamp, TreePath, Unit};

use crate::bodies::Bodies;
use crate::{MirrorLock, Recorded, Store, StoreError};

/// A snapshot that lists a file that was looked for.
#[derive(Debug, Clone)]
pub struct Naming {
    /// The snapshot.
    pub recorded: Recorded,
    /// Its projects that list one, sorted by name.
    pub projects: Vec<Leaf>,
}

/// Whether an entry of a unit is a release file: neither a page nor the metadata of another file.
pub fn is_release_file(unit: &Unit, entry: &Entry) -> bool {
    let of_another = |path: &str| path.strip_suffix(".metadata").is_some_and(|file| unit.entry(file).is_some());
    entry.path.first_segment() == "packages" && !of_another(entry.path.as_str())
}

/// Looks through trees for units, each node and unit once.
struct Search<'a> {
    bodies: Bodies<'a>,
    wanted: &'a dyn Fn(&Unit) -> bool,
    nodes: HashMap<Blake3, Vec<Leaf>>,
    units: HashMap<Blake3, bool>,
}

impl Search<'_> {
    fn below(&mut self, id: Blake3) -> Result<Vec<Leaf>, StoreError> {
        if let Some(known) = self.nodes.get(&id) {
            return Ok(known.clone());
        }
        let mut found = Vec::new();
        match self.bodies.node(id)? {
            Node::Branch(children) => {
                for child in children.iter().flatten() {
                    found.append(&mut self.below(child.node)?);
                }
            }
            Node::Leaf(leaves) => {
                for leaf in leaves {
                    let is_wanted = match self.units.get(&leaf.unit) {
                        Some(known) => *known,
                        None => (self.wanted)(&self.bodies.unit(leaf.unit)?),
                    };
                    self.units.insert(leaf.unit, is_wanted);
                    if is_wanted {
                        found.push(leaf);
                    }
                }
            }
        }
        self.nodes.insert(id, found.clone());
        Ok(found)
    }
}

impl Store {
    /// The served snapshots of a mirror that list one of these release files, the oldest first. Reads every unit of the
    /// mirror once.
    pub fn naming(&self, mirror: &MirrorName, files: &BTreeSet<ClaimedSha256>) -> Result<Vec<Naming>, StoreError> {
        self.search(mirror, &|unit| {
            let listed = |entry: &Entry| files.contains(&entry.sha256.into()) && is_release_file(unit, entry);
            unit.entries().iter().any(listed)
        })
    }

    fn search(&self, mirror: &MirrorName, wanted: &dyn Fn(&Unit) -> bool) -> Result<Vec<Naming>, StoreError> {
        let superseded = self.superseded(mirror)?;
        let mut snapshots = self.snapshots(mirror)?;
        snapshots.retain(|recorded| !superseded.contains_key(&recorded.id));
        let connection = self.connection();
        let bodies = Bodies { store: self, connection: &connection };
        let mut search = Search { bodies, wanted, nodes: HashMap::new(), units: HashMap::new() };
        let mut naming = Vec::new();
        for recorded in snapshots.into_iter().rev() {
            let mut projects = search.below(recorded.snapshot.tree)?;
            if !projects.is_empty() {
                projects.sort_unstable();
                naming.push(Naming { recorded, projects });
            }
        }
        Ok(naming)
    }

    /// The snapshots of a mirror that are not served any more, each with the one that took its place.
    pub fn superseded(&self, mirror: &MirrorName) -> Result<BTreeMap<Blake3, Blake3>, StoreError> {
        let rows: Vec<([u8; 32], [u8; 32])> = self
            .connection()
            .prepare_cached(
                "SELECT o.snapshot, o.replacement FROM superseded o JOIN snapshot s ON s.id = o.snapshot
                 JOIN mirror m ON m.id = s.mirror WHERE m.name = ?1",
            )
            .and_then(|mut statement| {
                statement.query_map([mirror.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
            })
            .map_err(self.sql())?;
        Ok(rows.into_iter().map(|(old, new)| (Blake3::from_stored(old), Blake3::from_stored(new))).collect())
    }

    /// What is served in the place of a snapshot: itself, unless something was withdrawn from it.
    pub fn served(&self, mut snapshot: Blake3) -> Result<Blake3, StoreError> {
        // A replacement is newer than what it replaces, so this ends.
        while let Some(replacement) = self.replacement(snapshot)? {
            snapshot = replacement;
        }
        Ok(snapshot)
    }

    fn replacement(&self, snapshot: Blake3) -> Result<Option<Blake3>, StoreError> {
        let found: Option<[u8; 32]> = self
            .connection()
            .prepare_cached("SELECT replacement FROM superseded WHERE snapshot = ?1")
            .and_then(|mut statement| statement.query_row([snapshot.as_bytes()], |row| row.get(0)).optional())
            .map_err(self.sql())?;
        Ok(found.map(Blake3::from_stored))
    }

    /// Records which verified snapshots take the place of others from now on. Pins, the mark of having missed an event, and
    /// what was published before go over to them; the view itself is switched by whoever calls.
    pub fn supersede(&self, pairs: &[(Blake3, Blake3)], _lock: &MirrorLock) -> Result<(), StoreError> {
        self.transaction(|transaction| {
            for (old, new) in pairs {
                for query in [
                    "INSERT OR IGNORE INTO superseded (snapshot, replacement) VALUES (?1, ?2)",
                    "INSERT OR IGNORE INTO pin (snapshot, time) SELECT ?2, time FROM pin WHERE snapshot = ?1",
                    "DELETE FROM pin WHERE snapshot = ?1 AND ?2 NOT NULL",
                    "UPDATE snapshot SET missed = (SELECT missed FROM snapshot WHERE id = ?1) WHERE id = ?2",
                    "UPDATE view SET previous = ?2 WHERE previous = ?1",
                ] {
                    transaction.execute(query, (old.as_bytes(), new.as_bytes())).map_err(self.sql())?;
                }
            }
            Ok(())
        })
    }

    /// Removes paths of a mirror's pool, and the directories that are empty then. Waits until nobody is putting any there.
    pub fn cut_links(&self, mirror: &MirrorName, paths: &BTreeSet<TreePath>) -> Result<(), StoreError> {
        let view = self.view_directory(mirror);
        let _deleting = self.lock_deletions()?;
        let mut touched = BTreeSet::new();
        for path in paths {
            let link = view.join(path.as_str());
            // Also where it is gone already: a crash may have come before that was durable.
            self.disk.remove_file(&link)?;
            let mut directory = link.parent();
            while let Some(empty) = directory
                && empty != view.join("packages")
                && self.disk.remove_empty_directory(empty)?
            {
                directory = empty.parent();
            }
            touched.extend(directory.map(PathBuf::from));
        }
        for directory in touched.iter().filter(|directory| directory.is_dir()) {
            self.disk.sync_directory(directory)?;
        }
        Ok(())
    }

    /// Deletes the bytes of what is withdrawn, as far as nothing else needs them: no snapshot that is served, no page that
    /// waits for one, no sync that is running of a mirror from which it is not withdrawn. Does nothing as long as a mirror
    /// is still to be gone through. What has to stay now is gc's to delete later. Returns how many blobs went.
    pub fn delete_withdrawn(&self, now: Timestamp) -> Result<usize, StoreError> {
        if !self.is_purging()? || !self.purging()?.is_empty() {
            return Ok(0);
        }
        let before = self.sequence()?;
        let mirrors: Vec<_> = self.mirrors()?.into_iter().map(|row| row.name).collect();
        let mut going = HashSet::new();
        for (blob, sha256) in self.withdrawn_blobs()? {
            let mut is_free = true;
            // A sync that is running may have found it, and comes before a snapshot.
            for mirror in self.intakes()?.into_keys() {
                is_free &= self.is_withdrawn(&mirror, sha256)?;
            }
            if is_free {
                going.insert(blob);
            }
        }
        for mirror in &mirrors {
            if going.is_empty() {
                break;
            }
            let found = self.search(mirror, &|unit| unit.entries().iter().any(|entry| going.contains(&entry.blob)))?;
            for leaf in found.iter().flat_map(|naming| &naming.projects) {
                for entry in self.unit(leaf.unit)?.entries() {
                    going.remove(&entry.blob);
                }
            }
        }
        for mirror in self.intaking_mirrors()? {
            for page in self.seen(&mirror)? {
                for entry in page.unit.entries() {
                    going.remove(&entry.blob);
                }
            }
        }
        let gone = {
            let _deleting = self.lock_deletions()?;
            let marked = self.transaction(|transaction| {
                // A sync that has begun meanwhile may have found what was looked at: then gc decides.
                let number: i64 =
                    transaction.query_row("SELECT value FROM sequence", [], |row| row.get(0)).map_err(self.sql())?;
                if number != before {
                    return Ok::<_, StoreError>(0);
                }
                let number = self.next_in_sequence(transaction)?;
                let mut mark = transaction
                    .prepare_cached("UPDATE blob SET condemned = ?2, condemned_in = ?3, deleting = 1 WHERE blake3 = ?1")
                    .map_err(self.sql())?;
                for blob in &going {
                    mark.execute((blob.as_bytes(), now.seconds(), number)).map_err(self.sql())?;
                }
                Ok(going.len())
            })?;
            crate::gc::delete_marked(self)?;
            marked
        };
        self.finish_purging("")?;
        Ok(gone)
    }

    /// The blobs that are withdrawn from some mirror.
    fn withdrawn_blobs(&self) -> Result<Vec<(Blake3, strandline_model::Sha256)>, StoreError> {
        let rows: Vec<([u8; 32], [u8; 32])> = self
            .connection()
            .prepare_cached(
                "SELECT DISTINCT b.blake3, b.sha256 FROM withdrawal w JOIN blob b ON b.sha256 = w.sha256
                 WHERE w.undone = 0 AND b.deleting = 0
                   AND NOT EXISTS (SELECT 1 FROM withdrawal later WHERE later.sha256 = w.sha256
                     AND later.number > w.number AND (later.mirror IS NULL OR later.mirror = w.mirror))",
            )
            .and_then(|mut statement| statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .map_err(self.sql())?;
        let read = |(blob, sha256)| (Blake3::from_stored(blob), strandline_model::Sha256::from_stored(sha256));
        Ok(rows.into_iter().map(read).collect())
    }

    fn sequence(&self) -> Result<i64, StoreError> {
        self.connection().query_row("SELECT value FROM sequence", [], |row| row.get(0)).map_err(self.sql())
    }

    /// The mirrors that have pages which wait for a snapshot.
    fn intaking_mirrors(&self) -> Result<Vec<MirrorName>, StoreError> {
        let names: Vec<String> = self
            .connection()
            .prepare_cached("SELECT DISTINCT mirror FROM seen")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .map_err(self.sql())?;
        names.iter().map(|name| self.stored(name)).collect()
    }
}
