//! The tree of all units of a mirror.
//!
//! Units hang in a 16-way trie over the nibbles of BLAKE3(unit name). A node with at most
//! [`LEAF_MOST`] units below it is a leaf that lists them; any other lists its children. That rule
//! looks at the content alone. So the same units have the same root, whatever the order in which they
//! came and whatever was there before (`tests/trie.rs`), and a change touches only the nodes on its path.
//!
//! A node has two ids. Its own is that of all that it says. Its state id is that of what upstream told alone: mirrors that agree
//! on that have equal state ids, whatever they show of it and whatever their pages look like.
//!
//! Nodes are read through a [`Nodes`] and never changed: [`update`] returns the new ones.

mod diff;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::text::{Lines, words};
use crate::unit::line;
use crate::{BadBody, Blake3, DisplayName, ProjectName, RecordId, Serial};

pub use diff::{Change, Pair, compare, diff, diff_states};

/// The most units that a leaf lists.
pub const LEAF_MOST: u64 = 32;

const LEAF: &str = "strandline-leaf 2";
const BRANCH: &str = "strandline-branch 2";
const STATE_LEAF: &str = "strandline-state-leaf 2";
const STATE_BRANCH: &str = "strandline-state-branch 2";
const KIND: &str = "node";

/// One project as the tree lists it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leaf {
    /// The normalised name, by which the project is found.
    pub name: ProjectName,
    /// Whether the root lists name it.
    pub listed: bool,
    /// Whether the log tells all that changed upstream; otherwise the record was read without it, and may differ from another
    /// mirror's.
    pub logged: bool,
    /// The id of the unit's bytes; `None` where the project has never been good: readers get 404.
    pub unit: Option<Blake3>,
    /// What upstream says of it; `None` where no page was ever believed.
    pub record: Option<RecordId>,
    /// The serial of the last row of upstream's log about it.
    pub serial: Serial,
    /// The name as its owner writes it.
    pub display: DisplayName,
}

/// A child of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// How many units are below it; at least 1.
    pub count: u64,
    /// The id of the node's bytes.
    pub node: Blake3,
    /// The node's state id.
    pub state: Blake3,
}

/// A node of the tree.
///
/// Canonical bytes of a leaf: `strandline-leaf 2`, then
/// `listed|unlisted logged|unlogged UNIT-ID TOLD-ID SEEN-ID SERIAL NAME DISPLAY-NAME` for each project, sorted by name; `-` stands
/// for an id that there is not. Of a branch: `strandline-branch 2`, then `NIBBLE COUNT NODE-ID STATE-ID` for each child, sorted by
/// nibble (one hexadecimal digit).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// At most [`LEAF_MOST`] units, sorted by name.
    Leaf(Vec<Leaf>),
    /// More units than that, by their next nibble.
    Branch(Box<[Option<Child>; 16]>),
}

impl Node {
    /// A tree without units.
    pub const EMPTY: Self = Self::Leaf(Vec::new());

    /// How many units are below.
    pub fn count(&self) -> u64 {
        match self {
            Self::Leaf(leaves) => leaves.len() as u64,
            Self::Branch(children) => children.iter().flatten().map(|child| child.count).sum(),
        }
    }

    /// The canonical bytes; their BLAKE3 is the node's id.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = String::new();
        match self {
            Self::Leaf(leaves) => {
                out.reserve(32 + 300 * leaves.len());
                line(&mut out, format_args!("{LEAF}"));
                for Leaf { name, listed, logged, unit, record, serial, display } in leaves {
                    let (listed, logged) = (if *listed { "" } else { "un" }, if *logged { "" } else { "un" });
                    let (unit, told) = (OrDash(*unit), OrDash(record.map(|record| record.told)));
                    let seen = OrDash(record.map(|record| record.seen));
                    let words =
                        format_args!("{listed}listed {logged}logged {unit} {told} {seen} {serial} {name} {display}");
                    line(&mut out, words);
                }
            }
            Self::Branch(children) => {
                line(&mut out, format_args!("{BRANCH}"));
                for (nibble, child) in children.iter().enumerate() {
                    if let Some(Child { count, node, state }) = child {
                        line(&mut out, format_args!("{nibble:x} {count} {node} {state}"));
                    }
                }
            }
        }
        out.into_bytes()
    }

    /// Reads canonical bytes; an error for any others.
    ///
    /// Every word is read in its one form, so nothing has to be written again to be compared.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadBody> {
        let mut lines = Lines::of(KIND, bytes)?;
        match lines.expect()? {
            LEAF => {
                let mut leaves: Vec<Leaf> = Vec::new();
                while let Some(line) = lines.next() {
                    let leaf = read_leaf(&lines, line)?;
                    if !leaf.display.is_of(&leaf.name) {
                        return Err(lines.bad("the display name is another project's"));
                    }
                    if leaves.last().is_some_and(|last| last.name >= leaf.name) {
                        return Err(lines.bad("not sorted by name"));
                    }
                    leaves.push(leaf);
                }
                if leaves.len() as u64 > LEAF_MOST {
                    return Err(lines.bad("a leaf with too many units"));
                }
                Ok(Self::Leaf(leaves))
            }
            BRANCH => {
                let mut children = Box::new([None; 16]);
                let mut free = 0;
                while let Some(line) = lines.next() {
                    let [nibble, count, node, state] =
                        words(line).ok_or_else(|| lines.bad("expected `NIBBLE COUNT NODE-ID STATE-ID`"))?;
                    let nibble = NIBBLES.iter().position(|known| *known == nibble);
                    let nibble = nibble.ok_or_else(|| lines.bad("not a nibble"))?;
                    if nibble < free {
                        return Err(lines.bad("not sorted by nibble, or a nibble twice"));
                    }
                    free = nibble + 1;
                    let (node, state) = (lines.digest(node)?, lines.digest(state)?);
                    children[nibble] = Some(Child { count: lines.number(count)?, node, state });
                }
                if children.iter().flatten().any(|child| child.count == 0) {
                    return Err(lines.bad("an empty child"));
                }
                let node = Self::Branch(children);
                if node.count() <= LEAF_MOST {
                    return Err(lines.bad("a branch that should be a leaf"));
                }
                Ok(node)
            }
            _ => Err(lines.bad("neither a leaf nor a branch of format 2")),
        }
    }

    /// The id of the node's bytes.
    pub fn id(&self) -> Blake3 {
        Blake3::of(&self.to_bytes())
    }

    /// The state id: the BLAKE3 of a body of its own. For a leaf, `strandline-state-leaf 2`, then `TOLD-ID SERIAL NAME` for each
    /// project; for a branch, `strandline-state-branch 2`, then `NIBBLE COUNT STATE-ID` for each child.
    pub fn state(&self) -> Blake3 {
        let mut out = String::new();
        match self {
            Self::Leaf(leaves) => {
                line(&mut out, format_args!("{STATE_LEAF}"));
                for Leaf { record, serial, name, .. } in leaves {
                    let told = OrDash(record.map(|record| record.told));
                    line(&mut out, format_args!("{told} {serial} {name}"));
                }
            }
            Self::Branch(children) => {
                line(&mut out, format_args!("{STATE_BRANCH}"));
                for (nibble, child) in children.iter().enumerate() {
                    if let Some(Child { count, state, .. }) = child {
                        line(&mut out, format_args!("{nibble:x} {count} {state}"));
                    }
                }
            }
        }
        Blake3::of(out.as_bytes())
    }
}

/// The nibbles as they are written, in order.
const NIBBLES: [&str; 16] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c", "d", "e", "f"];

/// An id, or `-` where there is none.
struct OrDash(Option<Blake3>);

impl fmt::Display for OrDash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => id.fmt(f),
            None => f.write_str("-"),
        }
    }
}

fn read_leaf(lines: &Lines<'_>, line: &str) -> Result<Leaf, BadBody> {
    let expected = "expected `LISTED LOGGED UNIT-ID TOLD-ID SEEN-ID SERIAL NAME DISPLAY-NAME`";
    let [listed, logged, unit, told, seen, serial, name, display] = words(line).ok_or_else(|| lines.bad(expected))?;
    let flag = |word: &str, flag: &str| match word.strip_suffix(flag) {
        Some("") => Ok(true),
        Some("un") => Ok(false),
        _ => Err(lines.bad(&format!("expected `{flag}` or `un{flag}`"))),
    };
    let id = |word: &str| if word == "-" { Ok(None) } else { lines.digest(word).map(Some) };
    let record = match (id(told)?, id(seen)?) {
        (Some(told), Some(seen)) => Some(RecordId { told, seen }),
        (None, None) => None,
        _ => return Err(lines.bad("a record has both parts or none")),
    };
    let (listed, logged, unit) = (flag(listed, "listed")?, flag(logged, "logged")?, id(unit)?);
    if record.is_none() && (unit.is_some() || listed) || unit.is_none() && listed {
        return Err(lines.bad("what was never good has no unit and is not listed"));
    }
    let (serial, name, display) = (lines.parse(serial)?, lines.parse(name)?, lines.parse(display)?);
    Ok(Leaf { name, listed, logged, unit, record, serial, display })
}

/// Where nodes are read from. An implementation checks ids: the node that it returns has the id that it was asked for.
pub trait Nodes {
    /// Why a node could not be read.
    type Error;
    /// The node with this id.
    fn node(&self, id: Blake3) -> Result<Node, Self::Error>;
    /// The nodes with these ids, in the same order.
    fn nodes(&self, ids: &[Blake3]) -> Result<Vec<Arc<Node>>, Self::Error> {
        ids.iter().map(|id| self.node(*id).map(Arc::new)).collect()
    }
}

/// The leaf's line for a project, if the tree has the project.
pub fn find<N: Nodes>(nodes: &N, root: Blake3, name: &ProjectName) -> Result<Option<Leaf>, N::Error> {
    let key = Blake3::of(name.as_str().as_bytes());
    let mut id = root;
    for depth in 0.. {
        match nodes.node(id)? {
            Node::Leaf(leaves) => return Ok(leaves.into_iter().find(|leaf| leaf.name == *name)),
            Node::Branch(children) => match children[key.nibble(depth)] {
                Some(child) => id = child.node,
                None => return Ok(None),
            },
        }
    }
    Ok(None)
}

/// The next `count` units after `name` in the order of the keys (from the first one if there is no name), going on from the
/// first after the last; each at most once.
pub fn after<N: Nodes>(nodes: &N, root: Blake3, name: &str, count: usize) -> Result<Vec<Leaf>, N::Error> {
    let key = (!name.is_empty()).then(|| Blake3::of(name.as_bytes()));
    let most = count.min(usize::try_from(nodes.node(root)?.count()).unwrap_or(usize::MAX));
    let mut found = Vec::with_capacity(most);
    take_after(nodes, root, 0, key, most, &mut found)?;
    take_after(nodes, root, 0, None, most, &mut found)?;
    Ok(found)
}

/// Adds units below a node at `depth` whose keys are greater than `key`, as long as there are fewer than `most`.
fn take_after<N: Nodes>(
    nodes: &N,
    id: Blake3,
    depth: usize,
    key: Option<Blake3>,
    most: usize,
    found: &mut Vec<Leaf>,
) -> Result<(), N::Error> {
    if found.len() >= most {
        return Ok(());
    }
    match nodes.node(id)? {
        Node::Leaf(leaves) => {
            let mut keyed: Vec<_> =
                leaves.into_iter().map(|leaf| (Blake3::of(leaf.name.as_str().as_bytes()), leaf)).collect();
            keyed.sort_unstable_by_key(|(key, _)| *key);
            let room = most - found.len();
            let beyond = keyed.into_iter().filter(|(own, _)| key.is_none_or(|key| *own > key));
            found.extend(beyond.map(|(_, leaf)| leaf).take(room));
        }
        Node::Branch(children) => {
            let first = key.map_or(0, |key| key.nibble(depth));
            for (nibble, child) in children.iter().enumerate().skip(first) {
                if let Some(child) = child {
                    let key = key.filter(|_| nibble == first);
                    take_after(nodes, child.node, depth + 1, key, most, found)?;
                }
            }
        }
    }
    Ok(())
}

/// Nodes that were read, by their ids: a bounded memory, which forgets all leaves when it has too many of them, and all
/// branches likewise.
#[derive(Debug, Default)]
pub struct Memory {
    branches: HashMap<Blake3, Arc<Node>>,
    leaves: HashMap<Blake3, Arc<Node>>,
}

impl Memory {
    /// How many branches and how many leaves are kept: all branches that a million projects have, of less than a kilobyte each,
    /// and the leaves of some thousand changes, of some three kilobytes each.
    const MOST: usize = 8_192;

    /// The node with this id, if it is kept.
    pub fn get(&self, id: Blake3) -> Option<Arc<Node>> {
        self.branches.get(&id).or_else(|| self.leaves.get(&id)).cloned()
    }

    /// Keeps a node.
    pub fn keep(&mut self, id: Blake3, node: &Arc<Node>) {
        let nodes = match **node {
            Node::Branch(_) => &mut self.branches,
            Node::Leaf(_) => &mut self.leaves,
        };
        if nodes.len() >= Self::MOST {
            nodes.clear();
        }
        nodes.insert(id, Arc::clone(node));
    }
}

/// Calls `each` for every unit below `root`, in the order of the tree (which is not that of names).
pub fn walk<N: Nodes, E: From<N::Error>>(
    nodes: &N,
    root: Blake3,
    each: &mut impl FnMut(Leaf) -> Result<(), E>,
) -> Result<(), E> {
    match nodes.node(root)? {
        Node::Leaf(leaves) => leaves.into_iter().try_for_each(each),
        Node::Branch(children) => children.into_iter().flatten().try_for_each(|child| walk(nodes, child.node, each)),
    }
}

/// A changed tree: its root, and the nodes that it has and the old one did not need.
#[derive(Debug)]
pub struct Updated {
    /// The id of the root.
    pub root: Blake3,
    /// The state id of the root.
    pub state: Blake3,
    /// How many projects the tree has.
    pub count: u64,
    /// The nodes on the changed paths, by id.
    pub nodes: BTreeMap<Blake3, NewNode>,
    /// How the old tree listed the projects that were changed or removed.
    pub replaced: BTreeMap<ProjectName, Leaf>,
}

/// A node on a changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNode {
    /// Its canonical bytes.
    pub bytes: Vec<u8>,
    /// The node that stood at the same place in the old tree, if one did.
    pub replaces: Option<Blake3>,
}

/// Puts (`Some`) and removes (`None`) units of the tree below `root`, which is `None` for an empty tree.
///
/// The leaf of a change has the change's own name. Removing a unit that is not there changes nothing.
pub fn update<N: Nodes>(
    nodes: &N,
    root: Option<Blake3>,
    changes: BTreeMap<ProjectName, Option<Leaf>>,
) -> Result<Updated, N::Error> {
    let mut changes: Vec<_> =
        changes.into_iter().map(|(name, leaf)| (Blake3::of(name.as_str().as_bytes()), name, leaf)).collect();
    changes.sort_unstable_by_key(|change| change.0);
    let node = match root {
        Some(root) => nodes.node(root)?,
        None => Node::EMPTY,
    };
    let mut fresh = Fresh::default();
    let node = apply(nodes, node, 0, &mut changes, &mut fresh)?;
    let count = node.count();
    let state = node.state();
    let root = fresh.keep(&node, root);
    let Fresh { nodes, replaced } = fresh;
    Ok(Updated { root, state, count, nodes, replaced })
}

type Keyed = (Blake3, ProjectName, Option<Leaf>);

/// What an update has made so far.
#[derive(Default)]
struct Fresh {
    nodes: BTreeMap<Blake3, NewNode>,
    replaced: BTreeMap<ProjectName, Leaf>,
}

impl Fresh {
    fn keep(&mut self, node: &Node, replaces: Option<Blake3>) -> Blake3 {
        let bytes = node.to_bytes();
        let id = Blake3::of(&bytes);
        self.nodes.insert(id, NewNode { bytes, replaces });
        id
    }
}

/// Applies changes, sorted by key and all below this node, to a node at `depth`.
fn apply<N: Nodes>(
    nodes: &N,
    node: Node,
    depth: usize,
    changes: &mut [Keyed],
    fresh: &mut Fresh,
) -> Result<Node, N::Error> {
    match node {
        Node::Leaf(leaves) => {
            let mut units: BTreeMap<_, _> = leaves.into_iter().map(|leaf| (leaf.name.clone(), leaf)).collect();
            for (_, name, leaf) in changes {
                let old = match leaf.take() {
                    Some(leaf) => units.insert(name.clone(), leaf),
                    None => units.remove(name),
                };
                fresh.replaced.extend(old.map(|old| (name.clone(), old)));
            }
            Ok(grow(units.into_values().collect(), depth, fresh))
        }
        Node::Branch(mut children) => {
            let mut rest = changes;
            while let Some((key, ..)) = rest.first() {
                let nibble = key.nibble(depth);
                let below = rest.partition_point(|(key, ..)| key.nibble(depth) <= nibble);
                let (these, others) = rest.split_at_mut(below);
                rest = others;
                let replaces = children[nibble].map(|child| child.node);
                let old = replaces.map_or(Ok(Node::EMPTY), |id| nodes.node(id))?;
                let new = apply(nodes, old, depth + 1, these, fresh)?;
                children[nibble] = match new.count() {
                    0 => None,
                    count => Some(Child { count, node: fresh.keep(&new, replaces), state: new.state() }),
                };
            }
            let branch = Node::Branch(children);
            if branch.count() > LEAF_MOST {
                return Ok(branch);
            }
            // It shrank: the units that are left belong into one leaf.
            let mut leaves = Vec::new();
            gather(nodes, branch, fresh, &mut leaves)?;
            leaves.sort_unstable_by(|a: &Leaf, b| a.name.cmp(&b.name));
            Ok(Node::Leaf(leaves))
        }
    }
}

/// Makes a leaf, or a branch with as many nodes below it as are needed. `leaves` are sorted by name.
fn grow(leaves: Vec<Leaf>, depth: usize, fresh: &mut Fresh) -> Node {
    if leaves.len() as u64 <= LEAF_MOST {
        return Node::Leaf(leaves);
    }
    let mut below: [Vec<Leaf>; 16] = Default::default();
    for leaf in leaves {
        below[Blake3::of(leaf.name.as_str().as_bytes()).nibble(depth)].push(leaf);
    }
    Node::Branch(Box::new(below.map(|leaves| match leaves.len() as u64 {
        0 => None,
        count => {
            let node = grow(leaves, depth + 1, fresh);
            Some(Child { count, node: fresh.keep(&node, None), state: node.state() })
        }
    })))
}

/// Collects the units below a branch that becomes a leaf, and forgets the new nodes that this makes needless.
fn gather<N: Nodes>(nodes: &N, node: Node, fresh: &mut Fresh, out: &mut Vec<Leaf>) -> Result<(), N::Error> {
    match node {
        Node::Leaf(mut leaves) => out.append(&mut leaves),
        Node::Branch(children) => {
            for child in children.into_iter().flatten() {
                let node = match fresh.nodes.remove(&child.node).map(|new| Node::from_bytes(&new.bytes)) {
                    Some(node) => node.expect("these bytes were made from a node just now"),
                    None => nodes.node(child.node)?,
                };
                gather(nodes, node, fresh, out)?;
            }
        }
    }
    Ok(())
}
