//! Looking whether the store is what its catalog says.
//!
//! The structure is always checked: every snapshot, node and unit is re-read and re-hashed once, and every blob that a
//! unit names has its row, and a file of its size. With the data, every blob is re-hashed on all cores.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io;

use rayon::prelude::*;
use strandline_model::{Blake3, Entry, Hasher, Label, MirrorName, Node, trie::Nodes as _};

use crate::bodies::Bodies;
use crate::{Store, StoreError};

/// What was checked, and what is wrong.
#[derive(Debug, Default)]
pub struct Report {
    /// How many snapshots.
    pub snapshots: u64,
    /// How many different units and nodes.
    pub bodies: u64,
    /// How many different blobs.
    pub blobs: u64,
    /// The bytes of those blobs.
    pub bytes: u64,
    /// What is wrong.
    pub damage: Vec<Damage>,
}

/// Something that is not as the catalog says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// A unit, node or snapshot cannot be read, so what is below it was not looked at.
    Body {
        /// Its id.
        id: Blake3,
        /// What is wrong with it.
        problem: String,
        /// The snapshots that were found to need it, as `MIRROR@LABEL`.
        needed_by: Vec<String>,
    },
    /// A blob is missing or has other bytes.
    Blob {
        /// Its name.
        blob: Blake3,
        /// What is wrong with it.
        problem: String,
        /// Where it is named, as `MIRROR@LABEL PATH`.
        named_by: Vec<String>,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (problem, names) = match self {
            Self::Body { id, problem, needed_by } => {
                write!(f, "body {id} ")?;
                (problem, needed_by)
            }
            Self::Blob { blob, problem, named_by } => {
                write!(f, "blob {blob} ")?;
                (problem, named_by)
            }
        };
        write!(f, "{problem}; named by {}", names.join(", "))
    }
}

/// What a walk over the snapshots has come by.
#[derive(Default)]
struct Walk {
    bodies: HashSet<Blake3>,
    blobs: HashMap<Blake3, Entry>,
    damage: Vec<Damage>,
}

/// Checks all retained snapshots of the mirrors. `checked` is told, from any thread, how many bytes were re-hashed.
pub fn verify(
    store: &Store,
    mirrors: &[MirrorName],
    data: bool,
    checked: &(dyn Fn(u64) + Sync),
) -> Result<Report, StoreError> {
    let mut walk = Walk::default();
    let mut report = Report::default();
    // What was withdrawn is a state and not damage: superseded snapshots are a record of what there was, and need no blobs.
    // They come last, so that what they share with others counts for those.
    let mut records = Vec::new();
    for mirror in mirrors {
        let superseded = store.superseded(mirror)?;
        for (label, id) in store.labels(mirror)? {
            report.snapshots += 1;
            let name = format!("{mirror}@{label}");
            if superseded.contains_key(&id) {
                records.push((name, id));
            } else {
                visit(store, &name, id, &mut walk)?;
            }
        }
    }
    let blobs = std::mem::take(&mut walk.blobs);
    for (name, id) in records {
        visit(store, &name, id, &mut walk)?;
    }
    walk.blobs = blobs;
    report.bodies = walk.bodies.len() as u64;
    report.blobs = walk.blobs.len() as u64;
    report.bytes = walk.blobs.values().map(|entry| entry.size).sum();

    let mut broken: BTreeMap<Blake3, String> = BTreeMap::new();
    for entry in walk.blobs.values() {
        if let Some(problem) = store.row_problem(entry)? {
            broken.insert(entry.blob, problem);
        }
    }
    let found: Vec<_> = walk
        .blobs
        .par_iter()
        .filter_map(|(blob, entry)| Some((*blob, file_problem(store, entry, data, checked)?)))
        .collect();
    broken.extend(found);
    report.damage = walk.damage;
    if !broken.is_empty() {
        // Only now is it worth finding out where they are named.
        let mut named = names(store, mirrors, &broken)?;
        report.damage.extend(broken.into_iter().map(|(blob, problem)| Damage::Blob {
            blob,
            problem,
            named_by: named.remove(&blob).unwrap_or_default(),
        }));
    }
    Ok(report)
}

/// Reads a snapshot and what is below it, as far as that was not read before.
fn visit(store: &Store, name: &str, snapshot: Blake3, walk: &mut Walk) -> Result<(), StoreError> {
    let connection = store.connection();
    let bodies = Bodies { store, connection: &connection };
    let note = |id, error: StoreError, damage: &mut Vec<Damage>| match error {
        StoreError::Damaged { problem, .. } => {
            damage.push(Damage::Body { id, problem, needed_by: vec![name.to_owned()] });
            Ok(())
        }
        other => Err(other),
    };
    let mut nodes = match bodies.snapshot(snapshot) {
        Ok(snapshot) => vec![snapshot.tree],
        Err(error) => return note(snapshot, error, &mut walk.damage),
    };
    while let Some(id) = nodes.pop() {
        if !walk.bodies.insert(id) {
            continue;
        }
        match bodies.node(id) {
            Ok(Node::Branch(children)) => nodes.extend(children.iter().flatten().map(|child| child.node)),
            Ok(Node::Leaf(leaves)) => {
                for leaf in leaves {
                    if !walk.bodies.insert(leaf.unit) {
                        continue;
                    }
                    match bodies.unit(leaf.unit) {
                        Ok(unit) => {
                            walk.blobs.extend(unit.entries().iter().map(|entry| (entry.blob, entry.clone())));
                        }
                        Err(error) => note(leaf.unit, error, &mut walk.damage)?,
                    }
                }
            }
            Err(error) => note(id, error, &mut walk.damage)?,
        }
    }
    Ok(())
}

/// What is wrong with the file of a blob, if anything.
fn file_problem(store: &Store, entry: &Entry, data: bool, checked: &(dyn Fn(u64) + Sync)) -> Option<String> {
    let path = store.blob_path(entry.blob);
    let look = || -> io::Result<Option<String>> {
        let size = std::fs::metadata(&path)?.len();
        if size != entry.size {
            return Ok(Some(format!("has {size} bytes instead of {}", entry.size)));
        }
        if !data {
            return Ok(None);
        }
        let mut hashing = Hashing { hasher: Hasher::default(), unreported: 0, checked };
        io::copy(&mut std::fs::File::open(&path)?, &mut hashing)?;
        checked(hashing.unreported);
        let (blake3, sha256, _) = hashing.hasher.finish();
        Ok((blake3 != entry.blob || sha256 != entry.sha256).then(|| "has other bytes than its name says".to_owned()))
    };
    match look() {
        Ok(problem) => problem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some("is missing".to_owned()),
        Err(error) => Some(format!("cannot be read: {error}")),
    }
}

struct Hashing<'a> {
    hasher: Hasher,
    unreported: u64,
    checked: &'a (dyn Fn(u64) + Sync),
}

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const REPORT_EVERY: u64 = 16 << 20;
        self.hasher.update(bytes);
        let unreported = &mut self.unreported;
        *unreported += bytes.len() as u64;
        if *unreported >= REPORT_EVERY {
            (self.checked)(std::mem::take(unreported));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where blobs are named.
fn names(
    store: &Store,
    mirrors: &[MirrorName],
    blobs: &BTreeMap<Blake3, String>,
) -> Result<HashMap<Blake3, Vec<String>>, StoreError> {
    let mut named: HashMap<Blake3, Vec<String>> = HashMap::new();
    for mirror in mirrors {
        for (label, id) in store.labels(mirror)? {
            // Trees with damage were reported above; here they only add nothing.
            let Ok(recorded) = store.recorded(id) else { continue };
            let Ok(leaves) = store.leaves(&recorded.snapshot) else { continue };
            for leaf in leaves {
                let Ok(unit) = store.unit(leaf.unit) else { continue };
                for entry in unit.entries().iter().filter(|entry| blobs.contains_key(&entry.blob)) {
                    named.entry(entry.blob).or_default().push(format!("{mirror}@{label} {}", entry.path));
                }
            }
        }
    }
    Ok(named)
}

impl Store {
    /// The labels and ids of a mirror's snapshots, read from their rows alone, so that a damaged body is no obstacle.
    fn labels(&self, mirror: &MirrorName) -> Result<Vec<(Label, Blake3)>, StoreError> {
        let rows: Vec<(u64, u32, [u8; 32])> = self
            .connection()
            .prepare_cached(
                "SELECT s.serial, s.revision, s.id FROM snapshot s JOIN mirror m ON m.id = s.mirror
                 WHERE m.name = ?1 ORDER BY s.serial, s.revision",
            )
            .and_then(|mut statement| {
                statement.query_map([mirror.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
            })
            .map_err(self.sql())?;
        rows.into_iter()
            .map(|(serial, revision, id)| {
                Ok((Label { serial: self.stored(&serial.to_string())?, revision }, Blake3::from_stored(id)))
            })
            .collect()
    }

    /// What is wrong with the row of a blob, if anything.
    fn row_problem(&self, entry: &Entry) -> Result<Option<String>, StoreError> {
        use rusqlite::OptionalExtension as _;
        let row = self
            .connection()
            .prepare_cached("SELECT blake3, sha256, size, mtime FROM blob WHERE blake3 = ?1")
            .and_then(|mut statement| statement.query_row([entry.blob.as_bytes()], crate::blobs::blob).optional())
            .map_err(self.sql())?;
        Ok(match row {
            None => Some("is not in the catalog".to_owned()),
            Some(blob) if blob.sha256 != entry.sha256 || blob.size != entry.size => {
                Some("has another SHA-256 or size in the catalog".to_owned())
            }
            Some(_) => None,
        })
    }
}
