//! Walks over the trees of snapshots, of which most is shared: each node is read once, however many trees have it.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use strandline_model::{Blake3, Leaf, Node, RecordId, trie::Nodes as _};

use crate::StoreError;
use crate::bodies::Bodies;

/// What a walk over a tree found that was not seen before.
#[derive(Default)]
pub(crate) struct Reached {
    pub(crate) units: Vec<Blake3>,
    /// Records of which a part was not seen before.
    pub(crate) records: Vec<RecordId>,
}

/// Adds everything below a node to `seen`; returns what was not in it before. Of a node that cannot be read, `damaged` decides
/// whether the walk goes on without it.
pub(crate) fn reach(
    bodies: &Bodies<'_>,
    tree: Blake3,
    seen: &mut HashSet<Blake3>,
    damaged: &mut dyn FnMut(Blake3, StoreError) -> Result<(), StoreError>,
) -> Result<Reached, StoreError> {
    let (mut reached, mut nodes) = (Reached::default(), vec![tree]);
    while let Some(id) = nodes.pop() {
        if !seen.insert(id) {
            continue;
        }
        match bodies.node(id) {
            Ok(Node::Branch(children)) => nodes.extend(children.iter().flatten().map(|child| child.node)),
            Ok(Node::Leaf(leaves)) => {
                for leaf in &leaves {
                    reached.units.extend(leaf.unit.filter(|unit| seen.insert(*unit)));
                    // Both parts are seen from now on, whichever was not.
                    let is_new =
                        |RecordId { told, seen: of_pages }: &RecordId| seen.insert(*told) | seen.insert(*of_pages);
                    reached.records.extend(leaf.record.filter(is_new));
                }
            }
            Err(error) => damaged(id, error)?,
        }
    }
    Ok(reached)
}

/// Finds things below nodes, and remembers for each node what there is.
pub(crate) struct Search<'a, T> {
    pub(crate) bodies: Bodies<'a>,
    /// Finds the things that one project has.
    of_leaf: &'a dyn Fn(&Bodies<'_>, Leaf) -> Result<Vec<T>, StoreError>,
    /// Gives the things that stand for a node that cannot be read.
    of_damaged: &'a dyn Fn(Blake3, StoreError) -> Result<Vec<T>, StoreError>,
    known: HashMap<Blake3, Rc<Vec<T>>>,
}

impl<'a, T: Clone> Search<'a, T> {
    pub(crate) fn new(
        bodies: Bodies<'a>,
        of_damaged: &'a dyn Fn(Blake3, StoreError) -> Result<Vec<T>, StoreError>,
        of_leaf: &'a dyn Fn(&Bodies<'_>, Leaf) -> Result<Vec<T>, StoreError>,
    ) -> Self {
        Self { bodies, of_leaf, of_damaged, known: HashMap::new() }
    }

    /// The things below a node, in the order of the tree.
    pub(crate) fn below(&mut self, node: Blake3) -> Result<Rc<Vec<T>>, StoreError> {
        if let Some(known) = self.known.get(&node) {
            return Ok(Rc::clone(known));
        }
        let found = Rc::new(self.read(node)?);
        self.known.insert(node, Rc::clone(&found));
        Ok(found)
    }

    fn read(&mut self, node: Blake3) -> Result<Vec<T>, StoreError> {
        let mut found = Vec::new();
        match self.bodies.node(node) {
            Err(error) => return (self.of_damaged)(node, error),
            Ok(Node::Branch(children)) => {
                for child in children.iter().flatten() {
                    found.extend(self.below(child.node)?.iter().cloned());
                }
            }
            Ok(Node::Leaf(leaves)) => {
                for leaf in leaves {
                    found.append(&mut (self.of_leaf)(&self.bodies, leaf)?);
                }
            }
        }
        Ok(found)
    }
}
