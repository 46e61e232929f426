//! Walks over the trees of snapshots, of which most is shared: each node is read once, however many trees have it.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use strandline_model::{Blake3, Leaf, Node, trie::Nodes as _};

use crate::StoreError;
use crate::bodies::{Bodies, Hashed};

/// How many nodes are read together.
const NODES: usize = 512;

/// Adds everything below a node to `seen`; returns what of it leaves name and was not in it before, each project's side by side.
/// Of a node that cannot be read, `damaged` decides whether the walk goes on without it.
pub(crate) fn reach(
    bodies: &Bodies<'_>,
    tree: Blake3,
    seen: &mut HashSet<Blake3>,
    damaged: &mut dyn FnMut(Blake3, StoreError) -> Result<(), StoreError>,
) -> Result<Vec<Hashed>, StoreError> {
    let (mut reached, mut ahead) = (Vec::new(), vec![tree]);
    while !ahead.is_empty() {
        let mut some = ahead.split_off(ahead.len().saturating_sub(NODES));
        some.retain(|id| seen.insert(*id));
        for (id, node) in some.iter().zip(bodies.read_nodes(&some)) {
            match node {
                Ok(Node::Branch(children)) => ahead.extend(children.iter().flatten().map(|child| child.node)),
                Ok(Node::Leaf(leaves)) => {
                    reached.extend(leaves.iter().flat_map(Hashed::of).filter(|body| seen.insert((*body).into())));
                }
                Err(error) => damaged(*id, error)?,
            }
        }
    }
    Ok(reached)
}

/// The units among them.
pub(crate) fn units(reached: Vec<Hashed>) -> Vec<Blake3> {
    let unit = |body| match body {
        Hashed::Unit(id) => Some(id),
        Hashed::Part(_) => None,
    };
    reached.into_iter().filter_map(unit).collect()
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
