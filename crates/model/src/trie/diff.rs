//! What two trees list differently: all of it, or what upstream told alone.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::{Child, Leaf, Node, Nodes, walk};
use crate::{Blake3, ProjectName};

/// One project that two trees list differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The project.
    pub name: ProjectName,
    /// How the first tree lists it.
    pub before: Option<Leaf>,
    /// How the second tree lists it.
    pub after: Option<Leaf>,
}

/// Calls `each` for every project that the two trees list differently, in no order; `None` stands for an empty tree.
/// Reads only the nodes that differ, because equal subtrees have equal ids.
pub fn diff<N: Nodes, E: From<N::Error>>(
    nodes: &N,
    before: Option<Blake3>,
    after: Option<Blake3>,
    each: &mut impl FnMut(Change) -> Result<(), E>,
) -> Result<(), E> {
    let mut pairs = vec![(before, after)];
    let mut changes = Vec::new();
    while !pairs.is_empty() {
        compare(nodes, &mut pairs, &mut changes)?;
        changes.drain(..).try_for_each(&mut *each)?;
    }
    Ok(())
}

/// The ids of two nodes that are to be compared; `None` stands for nothing.
pub type Pair = (Option<Blake3>, Option<Blake3>);

/// How many pairs are compared at a time.
const PAIRS: usize = 256;

/// Takes some of the `pairs`, and adds the projects that their nodes list differently to `changes`. If both nodes are
/// branches, or one is and there is no other, adds the pairs of their children to `pairs` instead.
pub fn compare<N: Nodes>(nodes: &N, pairs: &mut Vec<Pair>, changes: &mut Vec<Change>) -> Result<(), N::Error> {
    let mut some = pairs.split_off(pairs.len().saturating_sub(PAIRS));
    some.retain(|(before, after)| before != after);
    let ids: Vec<_> = some.iter().flat_map(|(before, after)| [*before, *after]).flatten().collect();
    let mut read = nodes.nodes(&ids)?.into_iter();
    for (before, after) in some {
        let (before, after) = (before.and_then(|_| read.next()), after.and_then(|_| read.next()));
        let (before, after) = (before.as_deref(), after.as_deref());
        match paired(before, after) {
            Some(children) => pairs.extend(children.map(|(before, after)| (node_of(before), node_of(after)))),
            None => diff_units(nodes, before, after, changes)?,
        }
    }
    Ok(())
}

/// Calls `each` for every project of which the two trees say something else that upstream told: another told part or another
/// serial, or that only one tree has it; in no order. Reads only the nodes whose state ids differ.
pub fn diff_states<N: Nodes, E: From<N::Error>>(
    nodes: &N,
    before: Blake3,
    after: Blake3,
    each: &mut impl FnMut(Change) -> Result<(), E>,
) -> Result<(), E> {
    let told = |leaf: &Option<Leaf>| leaf.as_ref().map(|leaf| (leaf.record.map(|record| record.told), leaf.serial));
    let state = |child: Option<Child>| child.map(|child| child.state);
    let mut pairs = vec![(Some(before), Some(after))];
    let mut changes = Vec::new();
    while let Some((before, after)) = pairs.pop() {
        let read = |id: Option<Blake3>| id.map(|id| nodes.node(id)).transpose();
        let (before, after) = (read(before)?, read(after)?);
        match paired(before.as_ref(), after.as_ref()) {
            Some(children) => {
                let differ = children.filter(|(before, after)| state(*before) != state(*after));
                pairs.extend(differ.map(|(before, after)| (node_of(before), node_of(after))));
            }
            None => diff_units(nodes, before.as_ref(), after.as_ref(), &mut changes)?,
        }
        changes.drain(..).filter(|change| told(&change.before) != told(&change.after)).try_for_each(&mut *each)?;
    }
    Ok(())
}

fn node_of(child: Option<Child>) -> Option<Blake3> {
    child.map(|child| child.node)
}

/// The children of two nodes that stand at the same places; `None` where a node is a leaf, or there is neither.
fn paired<'a>(
    before: Option<&'a Node>,
    after: Option<&'a Node>,
) -> Option<impl Iterator<Item = (Option<Child>, Option<Child>)> + 'a> {
    let (before, after) = match (before, after) {
        (Some(Node::Branch(before)), Some(Node::Branch(after))) => (Some(before), Some(after)),
        (Some(Node::Branch(before)), None) => (Some(before), None),
        (None, Some(Node::Branch(after))) => (None, Some(after)),
        _ => return None,
    };
    let child = |children: Option<&Box<[Option<Child>; 16]>>, nibble: usize| children.and_then(|all| all[nibble]);
    Some((0..16).map(move |nibble| (child(before, nibble), child(after, nibble))))
}

/// The projects that two nodes list differently; one of the nodes is a leaf, or nothing.
fn diff_units<N: Nodes>(
    nodes: &N,
    before: Option<&Node>,
    after: Option<&Node>,
    changes: &mut Vec<Change>,
) -> Result<(), N::Error> {
    let (before, after) = (units_below(nodes, before)?, units_below(nodes, after)?);
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(before), Some(after)) => before.name.cmp(&after.name),
        };
        let before = before.next_if(|_| order.is_le());
        let after = after.next_if(|_| order.is_ge());
        if let Some(either) = after.or(before).filter(|_| before != after) {
            changes.push(Change { name: either.name.clone(), before: before.cloned(), after: after.cloned() });
        }
    }
}

/// The units below a node, sorted by name. A branch below which are many units is read so only where a tree is compared with
/// its beginning, when it was a leaf or empty.
fn units_below<'a, N: Nodes>(nodes: &N, node: Option<&'a Node>) -> Result<Cow<'a, [Leaf]>, N::Error> {
    match node {
        None => Ok(Cow::Borrowed(&[])),
        Some(Node::Leaf(leaves)) => Ok(Cow::Borrowed(leaves)),
        Some(Node::Branch(children)) => {
            let mut units = Vec::new();
            for child in children.iter().flatten() {
                walk(nodes, child.node, &mut |leaf| {
                    units.push(leaf);
                    Ok::<_, N::Error>(())
                })?;
            }
            units.sort_unstable();
            Ok(Cow::Owned(units))
        }
    }
}
