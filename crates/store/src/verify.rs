//! Checking whether the store is what its catalog says.
//!
//! The structure is always checked: SQLite's own pages; every snapshot, node and unit, re-read and re-hashed once; every
//! entry of a unit against the catalog's row; and every file that a row stands for, by its size. With the data, blobs are
//! re-hashed too ([`Data`]).
//!
//! The report says of each damage where it is, and which paths of which mirrors and serials need it. Snapshots that are
//! dropped meanwhile are no damage. Of each blob that is named, only eight bytes are kept in memory.

mod data;
mod pages;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::rc::Rc;

use rayon::prelude::*;
use rusqlite::Connection;
use strandline_durable::wide;
use strandline_model::{
    Blake3, Entry, Label, Leaf, MirrorName, ProjectName, Sha256, Snapshot, Timestamp, TreePath, Unit,
};

use crate::bodies::{Bodies, Hashed};
use crate::rows::{blake3, row, sha256};
use crate::trees::{Search, reach};
use crate::{Mirror, Store, StoreError};

pub use data::Data;
pub use pages::damaged_pages;
pub(crate) use pages::is_corruption;

/// Which rows of `blob` stand for a file that has to be there: the one place that decides what may be missing.
const PRESENT: &str = "deleting = 0";
/// How many files are looked at together.
const BATCH: usize = 4096;
/// How many bodies are read together.
const BODIES: usize = 768;

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
    /// How many blobs were re-hashed.
    pub rehashed: u64,
    /// Their bytes.
    pub rehashed_bytes: u64,
    /// When the interrupted check began that this one went on with, if it did.
    pub resumed: Option<Timestamp>,
    /// What is wrong.
    pub damage: Vec<Damage>,
}

/// Something that is not as the catalog says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// SQLite's own file is damaged.
    Catalog {
        /// What SQLite says of it.
        problem: String,
    },
    /// A record, unit, node or snapshot cannot be read, so what is below it was not looked at.
    Body {
        /// Its id.
        id: Blake3,
        /// The project, if it is a record or a unit.
        project: Option<ProjectName>,
        /// What is wrong with it.
        problem: String,
        /// The snapshots that need it.
        needed_by: Vec<(MirrorName, Label)>,
    },
    /// A blob is missing or has other bytes.
    Blob {
        /// Its name.
        blob: Blake3,
        /// What its bytes should be.
        sha256: Sha256,
        /// How many there should be.
        size: u64,
        /// What is wrong with it.
        problem: String,
        /// Where it is named.
        named_by: Vec<Naming>,
    },
}

/// Where a blob is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    /// The mirror.
    pub mirror: MirrorName,
    /// Its snapshot.
    pub label: Label,
    /// The project.
    pub project: ProjectName,
    /// The project's unit.
    pub unit: Blake3,
    /// The path.
    pub path: TreePath,
}

impl fmt::Display for Naming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} {}", self.mirror, self.label, self.path)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = match self {
            Self::Catalog { problem } => return write!(f, "the catalog is damaged: {problem}"),
            Self::Body { id, project, problem, needed_by } => {
                write!(f, "body {id} {problem}")?;
                if let Some(project) = project {
                    write!(f, "; it is {project}")?;
                }
                needed_by.iter().map(|(mirror, label)| format!("{mirror}@{label}")).collect::<Vec<_>>()
            }
            Self::Blob { blob, problem, named_by, .. } => {
                write!(f, "blob {blob} {problem}")?;
                named_by.iter().map(ToString::to_string).collect()
            }
        };
        write!(f, "; named by {}", names.join(", "))
    }
}

/// A blob as a unit or its row in the catalog says it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Row {
    blake3: Blake3,
    sha256: Sha256,
    size: u64,
}

impl From<&Entry> for Row {
    fn from(entry: &Entry) -> Self {
        Self { blake3: entry.blob, sha256: entry.sha256, size: entry.size }
    }
}

/// The blobs that snapshots name, as their units say they are: of each an eight-byte hash, with a key that is new for each check,
/// sorted.
///
/// Among 14 million blobs, two have the same hash in one of 200,000 checks. If the row of one of the two is missing or another
/// one, the next check says so.
struct Named {
    keys: RandomState,
    short: Vec<u64>,
}

/// The same while they are gathered.
#[derive(Default)]
struct Gathered {
    keys: RandomState,
    short: Vec<u64>,
}

impl Gathered {
    fn add(&mut self, row: Row) {
        self.short.push(self.keys.hash_one(row));
    }

    fn sorted(self) -> Named {
        let Self { keys, mut short } = self;
        short.par_sort_unstable();
        short.dedup();
        Named { keys, short }
    }
}

impl Named {
    /// Which of them it is, if it is one.
    fn position(&self, row: Row) -> Option<usize> {
        self.short.binary_search(&self.keys.hash_one(row)).ok()
    }

    fn has(&self, row: Row) -> bool {
        self.position(row).is_some()
    }

    fn len(&self) -> u64 {
        self.short.len() as u64
    }
}

/// Blobs that are damaged, each with what it should be and what is wrong.
#[derive(Default)]
struct Broken(BTreeMap<Blake3, (Sha256, u64, String)>);

impl Broken {
    fn add(&mut self, blob: Blake3, sha256: Sha256, size: u64, problem: String) {
        self.0.entry(blob).or_insert((sha256, size, problem));
    }

    fn contains(&self, blob: Blake3) -> bool {
        self.0.contains_key(&blob)
    }
}

/// The units, nodes and snapshots that a walk over the snapshots has read, and what is wrong with some.
#[derive(Default)]
struct Walk {
    bodies: HashSet<Blake3>,
    damaged: HashMap<Blake3, String>,
}

/// Checks all retained snapshots of the mirrors; with `data`, also the bytes of blobs that it chooses. `read` is told, from any
/// thread, how many bytes were read. Nothing is changed but what is recorded of the check.
pub fn verify(
    store: &Store,
    mirrors: &[Mirror],
    data: Option<&Data<'_>>,
    read: &(dyn Fn(u64) + Sync),
) -> Result<Report, StoreError> {
    let mut report = Report::default();
    let pages = pages::check(&store.connection(), data.is_some()).map_err(store.sql())?;
    report.damage.extend(pages.into_iter().map(|problem| Damage::Catalog { problem }));
    match contents(store, mirrors, data, read, &mut report) {
        // The report has the damaged page already, and nothing behind that page can be checked.
        Err(error) if error.is_corruption() && !report.damage.is_empty() => {}
        Err(error) if error.is_corruption() => {
            let problem =
                format!("{error}: {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default());
            report.damage.push(Damage::Catalog { problem });
        }
        done => done?,
    }
    Ok(report)
}

fn contents(
    store: &Store,
    mirrors: &[Mirror],
    data: Option<&Data<'_>>,
    read: &(dyn Fn(u64) + Sync),
    report: &mut Report,
) -> Result<(), StoreError> {
    // A withdrawal is a state and not damage: superseded snapshots are a record of what there was, and need no blobs.
    let (mut current, mut records) = (Vec::new(), Vec::new());
    for mirror in mirrors {
        let superseded = mirror.superseded()?;
        for (_, id) in mirror.labels()? {
            report.snapshots += 1;
            if superseded.contains_key(&id) { records.push(id) } else { current.push(id) }
        }
    }
    let (mut walk, mut named) = (Walk::default(), Gathered::default());
    for id in &current {
        visit(store, *id, &mut walk, &mut |_, entry| {
            named.add(entry.into());
            Ok(())
        })?;
    }
    // They come last, so that what they share with others counts for those.
    for id in records {
        visit(store, id, &mut walk, &mut |_, _| Ok(()))?;
    }
    let Walk { bodies, damaged } = walk;
    report.bodies = bodies.len() as u64;
    let named = named.sorted();
    report.blobs = named.len();
    let mut broken = Broken::default();
    if !look_at_files(store, &named, &mut broken, report)? {
        // Some row is not what a unit says, or is missing. Only now is it worth looking each of them up.
        let mut again = Walk::default();
        for id in current {
            visit(store, id, &mut again, &mut |connection, entry| {
                if let Some(problem) = store.row_problem(connection, entry)? {
                    broken.add(entry.blob, entry.sha256, entry.size, problem);
                }
                Ok(())
            })?;
        }
    }
    if let Some(data) = data {
        data::check(store, mirrors, &named, data, read, report, &mut broken)?;
    }
    if !broken.0.is_empty() || !damaged.is_empty() {
        // Only now is it worth finding out where they are named.
        name(store, mirrors, &broken, &damaged, report)?;
    }
    Ok(())
}

/// Reads a snapshot and what is below it, as far as that was not read before, and passes each entry of a unit on.
fn visit(
    store: &Store,
    snapshot: Blake3,
    walk: &mut Walk,
    each: &mut dyn FnMut(&Connection, &Entry) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    store.reading(|bodies| {
        let Walk { bodies: seen, damaged } = walk;
        let mut note = |id, error: StoreError| match error {
            StoreError::Damaged { problem, .. } => {
                damaged.insert(id, problem);
                Ok(())
            }
            other => Err(other),
        };
        let Snapshot { tree, follow, inputs, .. } = match bodies.snapshot(snapshot) {
            Ok(snapshot) => snapshot,
            Err(error) => return note(snapshot, error),
        };
        let about: [(_, &dyn Fn() -> Result<(), StoreError>); 2] =
            [(follow, &|| bodies.follow(follow).map(drop)), (inputs, &|| bodies.inputs(inputs).map(drop))];
        for (id, check) in about {
            if seen.insert(id) {
                check().or_else(|error| note(id, error))?;
            }
        }
        let mut earlier = Vec::new();
        for some in reach(bodies, tree, seen, &mut note)?.chunks(BODIES) {
            for (body, hashed) in some.iter().zip(bodies.hashed(some)) {
                match hashed {
                    Ok(unit) => {
                        let shown = unit.iter().filter_map(Hashed::shown_by).flat_map(|(_, parts)| parts);
                        earlier.extend(shown.filter(|part| seen.insert((*part).into())));
                        let entries = unit.iter().flat_map(Unit::entries);
                        entries.into_iter().try_for_each(|entry| each(bodies.connection, entry))?;
                    }
                    Err(error) => note((*body).into(), error)?,
                }
            }
        }
        // What readers get of a held project may be an earlier record than the tree names.
        for some in earlier.chunks(BODIES) {
            for (part, hashed) in some.iter().zip(bodies.hashed(some)) {
                hashed.map(drop).or_else(|error| note((*part).into(), error))?;
            }
        }
        Ok(())
    })
}

/// Looks whether each blob among `named` that has a row has a file of its size, too; returns whether all of them have a row that is
/// as a unit says.
fn look_at_files(store: &Store, named: &Named, broken: &mut Broken, report: &mut Report) -> Result<bool, StoreError> {
    // Each blob is marked by itself, because SQLite may give a row of a damaged catalog twice.
    let (mut after, mut seen) = (Vec::new(), vec![false; named.short.len()]);
    loop {
        let read = |row: &rusqlite::Row<'_>| {
            Ok((Row { blake3: blake3(row, 0)?, sha256: sha256(row, 1)?, size: row.get(2)? }, row.get::<_, bool>(3)?))
        };
        let query =
            format!("SELECT blake3, sha256, size, {PRESENT} FROM blob WHERE blake3 > ?1 ORDER BY blake3 LIMIT {BATCH}");
        let rows: Vec<(Row, bool)> = store.rows(&query, [&after], read)?;
        let Some((last, _)) = rows.last() else { return Ok(seen.into_iter().all(|seen| seen)) };
        after = last.blake3.as_bytes().to_vec();
        let mut files = Vec::with_capacity(rows.len());
        for (row, present) in rows {
            let Some(position) = named.position(row) else { continue };
            seen[position] = true;
            if present {
                files.push(row);
            }
        }
        report.bytes += files.iter().map(|row| row.size).sum::<u64>();
        let look = |row: &Row| {
            let look = std::fs::symlink_metadata(store.blob_path(row.blake3));
            let look = look.map(|found| (found.len() != row.size).then(|| length(found.len(), row.size)));
            Some((*row, in_words(look)?))
        };
        let found: Vec<_> = wide(|| files.par_iter().filter_map(look).collect());
        for (Row { blake3, sha256, size }, problem) in found {
            broken.add(blake3, sha256, size, problem);
        }
    }
}

fn length(found: u64, expected: u64) -> String {
    format!("has {found} bytes instead of {expected}")
}

/// The fault of a file that was looked at.
fn in_words(found: io::Result<Option<String>>) -> Option<String> {
    match found {
        Ok(problem) => problem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some("is missing".to_owned()),
        Err(error) => Some(format!("cannot be read: {error}")),
    }
}

/// Something broken that a tree names.
#[derive(Clone)]
enum Hit {
    Body(Blake3, Option<ProjectName>),
    Blob(Blake3, Rc<(ProjectName, Blake3)>, TreePath),
}

/// A body that was whole a moment ago; `None` if a collection has dropped it since.
fn present<T>(body: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match body {
        Err(StoreError::Damaged { .. }) => Ok(None),
        body => body.map(Some),
    }
}

/// What is broken of a project.
fn hits_of_leaf(
    bodies: &Bodies<'_>,
    leaf: Leaf,
    broken: &Broken,
    damaged: &HashMap<Blake3, String>,
) -> Result<Vec<Hit>, StoreError> {
    let Leaf { name, unit: id, record, .. } = leaf;
    let whole = id.filter(|id| !damaged.contains_key(id));
    let unit = whole.map(|id| present(bodies.unit(id))).transpose()?.flatten();
    let shown = unit.as_ref().and_then(Unit::source).map(|source| source.record).filter(|shown| Some(*shown) != record);
    let parts: BTreeSet<_> = record.into_iter().chain(shown).flat_map(|record| [record.told, record.seen]).collect();
    let broken_bodies = parts.into_iter().chain(id).filter(|id| damaged.contains_key(id));
    let mut hits: Vec<_> = broken_bodies.map(|id| Hit::Body(id, Some(name.clone()))).collect();
    if let Some((unit, id)) = unit.zip(id) {
        let whose = Rc::new((name, id));
        let hit = |entry: &Entry| Hit::Blob(entry.blob, Rc::clone(&whose), entry.path.clone());
        hits.extend(unit.entries().iter().filter(|entry| broken.contains(entry.blob)).map(hit));
    }
    Ok(hits)
}

/// Adds to the report the places at which remaining snapshots name something broken. A broken thing that no snapshot
/// names is no damage.
fn name(
    store: &Store,
    mirrors: &[Mirror],
    broken: &Broken,
    damaged: &HashMap<Blake3, String>,
    report: &mut Report,
) -> Result<(), StoreError> {
    let mut labels = Vec::new();
    // Asked again, because a file that was withdrawn meanwhile is no damage.
    let mut superseded = BTreeMap::new();
    for mirror in mirrors {
        superseded.extend(mirror.superseded()?);
        labels.extend(mirror.labels()?.into_iter().map(|(label, id)| (mirror.name(), label, id)));
    }
    let connection = store.connection();
    let bodies = Bodies { store, connection: &connection };
    let of_damaged = |id, error| match error {
        StoreError::Damaged { .. } if damaged.contains_key(&id) => Ok(vec![Hit::Body(id, None)]),
        // It was whole a moment ago: a collection has dropped it since.
        StoreError::Damaged { .. } => Ok(Vec::new()),
        other => Err(other),
    };
    let of_leaf = |bodies: &Bodies<'_>, leaf: Leaf| hits_of_leaf(bodies, leaf, broken, damaged);
    let mut search = Search::new(bodies, &of_damaged, &of_leaf);
    let mut blobs: BTreeMap<Blake3, Vec<Naming>> = BTreeMap::new();
    let mut needed: BTreeMap<Blake3, (Option<ProjectName>, Vec<(MirrorName, Label)>)> = BTreeMap::new();
    for (mirror, label, id) in labels {
        let hits = if damaged.contains_key(&id) {
            Rc::new(vec![Hit::Body(id, None)])
        } else {
            let Some(snapshot) = present(search.bodies.snapshot(id))? else { continue };
            for id in [snapshot.follow, snapshot.inputs].into_iter().filter(|id| damaged.contains_key(id)) {
                needed.entry(id).or_insert((None, Vec::new())).1.push((mirror.clone(), label));
            }
            search.below(snapshot.tree)?
        };
        for hit in hits.iter().cloned() {
            match hit {
                Hit::Body(id, project) => {
                    needed.entry(id).or_insert((project, Vec::new())).1.push((mirror.clone(), label));
                }
                Hit::Blob(..) if superseded.contains_key(&id) => {}
                Hit::Blob(blob, whose, path) => {
                    let (project, unit) = (*whose).clone();
                    let naming = Naming { mirror: mirror.clone(), label, project, unit, path };
                    blobs.entry(blob).or_default().push(naming);
                }
            }
        }
    }
    report.damage.extend(needed.into_iter().map(|(id, (project, needed_by))| Damage::Body {
        id,
        project,
        problem: damaged.get(&id).cloned().unwrap_or_default(),
        needed_by,
    }));
    report.damage.extend(blobs.into_iter().filter_map(|(blob, named_by)| {
        let (sha256, size, problem) = broken.0.get(&blob)?.clone();
        Some(Damage::Blob { blob, sha256, size, problem, named_by })
    }));
    Ok(())
}

impl Store {
    /// What is wrong with the row of a blob, if anything.
    fn row_problem(&self, connection: &Connection, entry: &Entry) -> Result<Option<String>, StoreError> {
        let query = "SELECT sha256, size FROM blob WHERE blake3 = ?1";
        let row: Option<(Sha256, u64)> =
            row(connection, query, [entry.blob.as_bytes()], |row| Ok((sha256(row, 0)?, row.get(1)?)))
                .map_err(self.sql())?;
        Ok(match row {
            None => Some("is not in the catalog".to_owned()),
            Some((sha256, size)) if sha256 != entry.sha256 || size != entry.size => {
                Some("has another SHA-256 or size in the catalog".to_owned())
            }
            Some(_) => None,
        })
    }
}
