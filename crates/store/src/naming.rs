//! Which snapshots list a file.

use std::collections::{BTreeSet, HashMap};

use strandline_model::trie::Nodes as _;
use strandline_model::{Blake3, ClaimedSha256, Entry, Leaf, Node, Unit};

use crate::bodies::Bodies;
use crate::pool::POOL;
use crate::{Mirror, Recorded, StoreError};

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
    entry.path.first_segment() == POOL && !of_another(entry.path.as_str())
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

impl Mirror {
    /// The served snapshots that list one of these release files, the oldest first. Reads every unit of the mirror once.
    pub fn naming(&self, files: &BTreeSet<ClaimedSha256>) -> Result<Vec<Naming>, StoreError> {
        self.naming_units(&|unit| {
            let listed = |entry: &Entry| files.contains(&entry.sha256.into()) && is_release_file(unit, entry);
            unit.entries().iter().any(listed)
        })
    }

    /// The served snapshots that list a unit which is wanted, the oldest first.
    pub(crate) fn naming_units(&self, wanted: &dyn Fn(&Unit) -> bool) -> Result<Vec<Naming>, StoreError> {
        let superseded = self.superseded()?;
        let mut snapshots = self.snapshots()?;
        snapshots.retain(|recorded| !superseded.contains_key(&recorded.id));
        let connection = self.store.connection();
        let bodies = Bodies { store: &self.store, connection: &connection };
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
}
