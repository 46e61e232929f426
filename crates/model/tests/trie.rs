//! The tree's root is a function of its content, a diff is the set difference, and a change touches one path.

#![cfg(test)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;

use proptest::prelude::*;
use strandline_model::trie::{self, Change, LEAF_MOST, Nodes};
use strandline_model::{Blake3, DisplayName, Leaf, Node, ProjectName, RecordId, Serial};

/// All nodes that were ever made, as the catalog keeps them.
#[derive(Default)]
struct Kept {
    nodes: HashMap<Blake3, Vec<u8>>,
    read: RefCell<Vec<Blake3>>,
}

impl Nodes for Kept {
    type Error = Infallible;
    fn node(&self, id: Blake3) -> Result<Node, Infallible> {
        self.read.borrow_mut().push(id);
        let bytes = &self.nodes[&id];
        assert_eq!(Blake3::of(bytes), id);
        Ok(Node::from_bytes(bytes).unwrap())
    }
}

impl Kept {
    fn update(&mut self, root: Option<Blake3>, changes: BTreeMap<ProjectName, Option<Leaf>>) -> trie::Updated {
        let updated = trie::update(self, root, changes).unwrap();
        self.nodes.extend(updated.nodes.iter().map(|(id, node)| (*id, node.bytes.clone())));
        updated
    }

    /// The projects that two trees were told otherwise of, with how they list them.
    fn told_otherwise(&self, a: Blake3, b: Blake3) -> BTreeMap<ProjectName, (Option<Leaf>, Option<Leaf>)> {
        let mut found = BTreeMap::new();
        trie::diff_states(self, a, b, &mut |Change { name, before, after }| {
            assert!(found.insert(name, (before, after)).is_none(), "a project is named once");
            Ok::<_, Infallible>(())
        })
        .unwrap();
        found
    }

    fn all(&self, root: Blake3) -> BTreeMap<ProjectName, Leaf> {
        let mut all = BTreeMap::new();
        trie::walk(self, root, &mut |leaf: Leaf| {
            assert!(all.insert(leaf.name.clone(), leaf).is_none(), "a unit is listed once");
            Ok::<_, Infallible>(())
        })
        .unwrap();
        all
    }
}

fn leaf(number: u16, version: u8) -> Leaf {
    let display: DisplayName = format!("Project.{number}").parse().unwrap();
    Leaf {
        name: display.normalise(),
        listed: version != 1,
        logged: true,
        unit: Some(Blake3::of(&[version])),
        // Two versions have the same told part, so they have the same state where they have the same serial.
        record: Some(RecordId { told: Blake3::of(&[version / 2]), seen: Blake3::of(&[version]) }),
        serial: Serial::try_from(u64::from(version / 2)).unwrap(),
        display,
    }
}

/// (number, Some(version) to put or None to remove)
fn edits() -> impl Strategy<Value = Vec<(u16, Option<u8>)>> {
    prop::collection::vec((0_u16..400, prop::option::weighted(0.7, 0_u8..4)), 0..600)
}

fn as_changes(edits: &[(u16, Option<u8>)]) -> BTreeMap<ProjectName, Option<Leaf>> {
    edits
        .iter()
        .map(|(number, version)| (leaf(*number, 0).name, version.map(|version| leaf(*number, version))))
        .collect()
}

/// The content that a tree should have after edits.
fn model(edits: &[(u16, Option<u8>)]) -> BTreeMap<ProjectName, Leaf> {
    as_changes(edits).into_iter().filter_map(|(name, leaf)| Some((name, leaf?))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_insertions_and_removals_gives_the_same_root(edits in edits(), cuts in prop::collection::vec(0_usize..600, 0..8)) {
        let mut kept = Kept::default();
        // The edits in several batches …
        let (mut root, mut state) = (kept.update(None, BTreeMap::new()).root, Node::EMPTY.state());
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(edits.len())).collect();
        cuts.extend([0, edits.len()]);
        cuts.sort_unstable();
        for ends in cuts.windows(2) {
            let updated = kept.update(Some(root), as_changes(&edits[ends[0]..ends[1]]));
            (root, state) = (updated.root, updated.state);
        }
        // … and what is left of them at once.
        let content = model(&edits);
        let fresh = kept.update(None, content.clone().into_iter().map(|(name, leaf)| (name, Some(leaf))).collect());
        prop_assert_eq!(root, fresh.root);
        prop_assert_eq!(state, fresh.state);
        prop_assert_eq!(state, kept.node(root).unwrap().state());
        prop_assert_eq!(fresh.count, content.len() as u64);
        prop_assert_eq!(kept.all(root), content.clone());
        for (name, leaf) in &content {
            prop_assert_eq!(trie::find(&kept, root, name).unwrap(), Some(leaf.clone()));
        }
        prop_assert_eq!(trie::find(&kept, root, &"not-there".parse().unwrap()).unwrap(), None);
    }

    #[test]
    fn a_state_is_what_is_told_and_when(edits in edits(), number in 0_u16..400) {
        let mut kept = Kept::default();
        let one = kept.update(None, as_changes(&edits));
        // The same told parts and serials; what only pages show, and what is shown of it, differs.
        let others: Vec<_> = edits.iter().map(|(number, version)| (*number, version.map(|version| version ^ 1))).collect();
        let other = kept.update(None, as_changes(&others));
        prop_assert_eq!(one.state, other.state);
        prop_assert_eq!(one.root == other.root, model(&edits).is_empty());
        // Another told part, another serial, one project more or one less: the state is another one.
        let has = model(&edits).get(&leaf(number, 0).name).cloned();
        for version in [None, Some(0), Some(2), Some(4)] {
            let changed = kept.update(Some(one.root), as_changes(&[(number, version)]));
            let is = version.map(|version| leaf(number, version));
            let told = |leaf: &Option<Leaf>| leaf.as_ref().map(|leaf| (leaf.record.unwrap().told, leaf.serial));
            prop_assert_eq!(changed.state == one.state, told(&is) == told(&has));
        }
    }

    #[test]
    fn a_diff_is_the_set_difference(before in edits(), after in edits()) {
        let mut kept = Kept::default();
        let (a, b) = (kept.update(None, as_changes(&before)).root, kept.update(None, as_changes(&after)).root);
        let (before, after) = (model(&before), model(&after));
        let mut found = BTreeMap::new();
        trie::diff(&kept, Some(a), Some(b), &mut |change: Change| {
            assert!(found.insert(change.name.clone(), (change.before, change.after)).is_none());
            Ok::<_, Infallible>(())
        }).unwrap();
        let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let expected: BTreeMap<_, _> = names
            .into_iter()
            .map(|name| (name.clone(), (before.get(name).cloned(), after.get(name).cloned())))
            .filter(|(_, (before, after))| before != after)
            .collect();
        prop_assert_eq!(&found, &expected);

        // From nothing, everything is new, and to nothing, it goes.
        let (mut come, mut gone) = (BTreeMap::new(), BTreeMap::new());
        trie::diff(&kept, None, Some(b), &mut |change: Change| {
            assert_eq!(change.before, None);
            come.extend(change.after.map(|leaf| (change.name, leaf)));
            Ok::<_, Infallible>(())
        }).unwrap();
        trie::diff(&kept, Some(a), None, &mut |change: Change| {
            assert_eq!(change.after, None);
            gone.extend(change.before.map(|leaf| (change.name, leaf)));
            Ok::<_, Infallible>(())
        }).unwrap();
        prop_assert_eq!((gone, come), (before, after));
    }

    #[test]
    fn a_diff_of_states_is_what_was_told_otherwise(before in edits(), after in edits()) {
        let mut kept = Kept::default();
        let (a, b) = (kept.update(None, as_changes(&before)), kept.update(None, as_changes(&after)));
        let found = kept.told_otherwise(a.root, b.root);
        let (before, after) = (model(&before), model(&after));
        let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let told = |leaf: &Leaf| (leaf.record.unwrap().told, leaf.serial);
        let expected: BTreeMap<_, _> = names
            .into_iter()
            .map(|name| (name.clone(), (before.get(name).cloned(), after.get(name).cloned())))
            .filter(|(_, (before, after))| before.as_ref().map(told) != after.as_ref().map(told))
            .collect();
        prop_assert_eq!(a.state == b.state, expected.is_empty());
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn an_update_says_what_each_node_and_line_takes_the_place_of(before in edits(), after in edits()) {
        let mut kept = Kept::default();
        let old = kept.update(None, as_changes(&before));
        prop_assert_eq!(old.nodes.values().find(|node| node.replaces.is_some()), None, "there was nothing before");
        let changes = as_changes(&after);
        let listed = kept.all(old.root);
        let expected: BTreeMap<_, _> =
            changes.keys().filter_map(|name| Some((name.clone(), listed.get(name)?.clone()))).collect();
        let new = kept.update(Some(old.root), changes);
        prop_assert_eq!(new.replaced, expected);
        let (stood, stand) = (places(&kept, old.root), places(&kept, new.root));
        prop_assert!(new.nodes.keys().all(|id| stand.values().any(|stands| stands == id)));
        for (place, id) in stand {
            if let Some(node) = new.nodes.get(&id) {
                prop_assert_eq!(node.replaces, stood.get(&place).copied(), "at {:?}", place);
            }
        }
    }

    #[test]
    fn going_on_after_the_last_meets_each_in_its_turn(content in edits(), counts in prop::collection::vec(1_usize..90, 1..12)) {
        let mut kept = Kept::default();
        let root = kept.update(None, as_changes(&content)).root;
        let all = kept.all(root);
        let everything = trie::after(&kept, root, "", usize::MAX).unwrap();
        prop_assert_eq!(everything.len(), all.len());
        let (mut last, mut position) = (String::new(), 0);
        for count in counts {
            let turn = trie::after(&kept, root, &last, count).unwrap();
            prop_assert_eq!(turn.len(), count.min(all.len()));
            for leaf in turn {
                prop_assert_eq!(&leaf, &everything[position % all.len()]);
                (last, position) = (leaf.name.to_string(), position + 1);
            }
        }
    }

    #[test]
    fn bytes_that_are_not_a_node_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "(strandline-(leaf|branch) 2\n)?[0-9a-f \n]{0,200}") {
        for bytes in [bytes, text.into_bytes()] {
            if let Ok(node) = Node::from_bytes(&bytes) {
                prop_assert_eq!(node.to_bytes(), bytes);
            }
        }
    }
}

/// All nodes of a tree by their places: the nibbles on the way to them.
fn places(kept: &Kept, root: Blake3) -> BTreeMap<Vec<usize>, Blake3> {
    let (mut found, mut ahead) = (BTreeMap::new(), vec![(Vec::new(), root)]);
    while let Some((place, id)) = ahead.pop() {
        if let Node::Branch(children) = kept.node(id).unwrap() {
            let below = children.iter().enumerate().filter_map(|(nibble, child)| Some((nibble, child.as_ref()?.node)));
            ahead.extend(below.map(|(nibble, node)| ([&place[..], &[nibble]].concat(), node)));
        }
        found.insert(place, id);
    }
    found
}

/// How many nodes there are from the root to the leaf in which a unit belongs.
fn levels(kept: &Kept, root: Blake3, name: &ProjectName) -> usize {
    kept.read.borrow_mut().clear();
    trie::find(kept, root, name).unwrap();
    kept.read.borrow().len()
}

#[test]
fn a_change_of_one_unit_touches_its_path_alone() {
    let mut kept = Kept::default();
    let all: Vec<_> = (0..10_000).map(|number| (number, Some(0))).collect();
    let mut root = kept.update(None, as_changes(&all)).root;
    // All nodes of the tree are some four hundred, those of a path three or four.
    assert!(kept.nodes.len() > 400, "{} nodes", kept.nodes.len());
    for number in 0..600_u16 {
        let number = number * 17;
        // There are units up to 9,999: the last ones are new. Every third of the others goes.
        let change = (number, if number % 3 == 0 && number < 10_000 { None } else { Some(1) });
        let name = leaf(number, 0).name;
        let before = levels(&kept, root, &name);
        kept.read.borrow_mut().clear();
        let updated = kept.update(Some(root), as_changes(&[change]));
        let (read, written) = (kept.read.borrow().len(), updated.nodes.len());
        root = updated.root;
        let after = levels(&kept, root, &name);
        assert!((2..=4).contains(&after), "{after} levels");
        if before == after {
            assert!(read <= before + 16 && written == after, "{name}: {read} read, {written} written of {after}");
        } else {
            // A leaf has split, or a branch has become one leaf.
            assert!(read <= before + 16 && written <= after + 16, "{name}: {read} read, {written} written of {after}");
        }
        if change.1.is_some() && before == after {
            assert_eq!(read, before, "{name}: what does not shrink reads its path alone");
        }
    }
}

#[test]
fn a_diff_of_states_descends_only_where_they_differ() {
    let mut kept = Kept::default();
    // Nothing of what is shown is the same, and one project of ten thousand was told otherwise.
    let all = |version| (0..10_000).map(|number| (number, Some(version))).collect::<Vec<_>>();
    let one = kept.update(None, as_changes(&all(0))).root;
    let other = kept.update(None, as_changes(&all(1))).root;
    let changed = kept.update(Some(other), as_changes(&[(77, Some(2))])).root;
    for (root, found, most) in [(other, 0, 2), (changed, 1, 8)] {
        kept.read.borrow_mut().clear();
        assert_eq!(kept.told_otherwise(one, root).len(), found);
        let read = kept.read.borrow().len();
        assert!(read <= most, "{read} nodes read");
    }
}

#[test]
fn a_leaf_splits_when_it_has_more_than_its_most() {
    let mut kept = Kept::default();
    let full: Vec<_> = (0..u16::try_from(LEAF_MOST).unwrap()).map(|number| (number, Some(0))).collect();
    let root = kept.update(None, as_changes(&full)).root;
    assert!(matches!(kept.node(root).unwrap(), Node::Leaf(leaves) if leaves.len() as u64 == LEAF_MOST));
    let over = kept.update(Some(root), as_changes(&[(999, Some(0))])).root;
    assert!(matches!(kept.node(over).unwrap(), Node::Branch(_)));
    let back = kept.update(Some(over), as_changes(&[(999, None)])).root;
    assert_eq!(back, root);
}
