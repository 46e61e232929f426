//! Which snapshots list a given file.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use strandline_model::{Blake3, ClaimedSha256, Entry, Leaf, Unit};

use crate::bodies::Bodies;
use crate::pool::POOL;
use crate::trees::Search;
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
        // Another node may list the same unit.
        let units: RefCell<HashMap<Blake3, bool>> = RefCell::default();
        let of_leaf = |bodies: &Bodies<'_>, leaf: Leaf| {
            let Some(unit) = leaf.unit else { return Ok(Vec::new()) };
            let known = units.borrow().get(&unit).copied();
            let is_wanted = match known {
                Some(known) => known,
                None => wanted(&bodies.unit(unit)?),
            };
            units.borrow_mut().insert(unit, is_wanted);
            Ok(if is_wanted { vec![leaf] } else { Vec::new() })
        };
        let mut search = Search::new(bodies, &|_, error| Err(error), &of_leaf);
        let mut naming = Vec::new();
        for recorded in snapshots.into_iter().rev() {
            let mut projects = Vec::clone(&*search.below(recorded.snapshot.tree)?);
            if !projects.is_empty() {
                projects.sort_unstable();
                naming.push(Naming { recorded, projects });
            }
        }
        Ok(naming)
    }
}
