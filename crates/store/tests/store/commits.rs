//! Invariant 2: a committed snapshot is exactly what was drafted, on top of what was verified, and names only blobs that
//! are there.
#![expect(clippy::disallowed_methods, reason = "the tests lose blobs")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use proptest::prelude::*;
use strandline_durable::Disk;
use strandline_model::{Blake3, ListedProject, ProjectName, Snapshot, trie::Change};
use strandline_store::{Conclusion, Draft, Store, VerifyError, Wait};

use crate::support::{Content, Opened, content, mirror, project, serial, time};

/// What a tree should list: each project with the serial and the text of its last change.
type Model = BTreeMap<ProjectName, (u64, u8)>;

fn listed(store: &Arc<Store>, snapshot: &Snapshot) -> BTreeMap<ProjectName, (u64, Blake3)> {
    let leaves = store.leaves(snapshot).unwrap();
    assert!(leaves.is_sorted_by(|a, b| a.name < b.name), "each once, sorted by name");
    assert_eq!(
        store.mirror(&snapshot.mirror).unwrap().unwrap().listed(snapshot).unwrap(),
        leaves.iter().cloned().filter_map(ListedProject::of).collect::<Vec<_>>(),
        "the list beside the tree says the same"
    );
    leaves.into_iter().map(|leaf| (leaf.name, (leaf.serial.get(), leaf.unit.unwrap()))).collect()
}

fn version(name: &ProjectName, text: u8) -> Content {
    content(name.as_str(), &text.to_string(), &[&format!("{name}-{text}.tar.gz")])
}

/// A project's number and what becomes of it.
type Edit = (u8, Option<u8>);

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    prop::collection::vec((0_u8..60, prop::option::weighted(0.75, 0_u8..3)), 0..45)
}

/// What the root lists are made from is the tree's, whatever becomes of the rows beside it.
#[test]
fn a_list_that_is_not_the_trees_is_not_used() {
    for damage in [
        "UPDATE listed SET serial = serial + 1 WHERE name = 'beta'",
        "DELETE FROM listed WHERE name = 'beta'",
        "INSERT INTO listed SELECT mirror, 'gamma', serial, display FROM listed WHERE name = 'beta'",
        "DELETE FROM listing",
        "UPDATE listing SET tree = zeroblob(32)",
    ] {
        let world = Opened::new();
        let text = |text: &str| Some(content("x", text, &[]));
        world.record("pypi", 1, &[("alpha", text("a")), ("beta", text("b"))]);
        world.sql().execute(damage, []).unwrap();
        let newest = world.snapshots("pypi")[0].snapshot.clone();
        assert_eq!(listed(&world.store, &newest).len(), 2, "{damage}");
        let draft = world.draft("pypi", 2, &[("alpha", text("c"))]);
        let committed = world.lock("pypi").commit(draft, |_, leaves| {
            let serials: Vec<_> = leaves.iter().map(|leaf| (leaf.name.to_string(), leaf.serial.get())).collect();
            assert_eq!(serials, [("alpha".to_owned(), 2), ("beta".to_owned(), 1)], "{damage}");
            Vec::new()
        });
        drop(world.lock("pypi").verify(committed.unwrap()).unwrap());
        let all: i64 = world.sql().query_row("SELECT count(*) FROM listed", [], |row| row.get(0)).unwrap();
        assert_eq!(all, 2, "{damage}");
    }
}

/// A process died between a commit and its verification, or the snapshot does not pass: what the sync remembered is there
/// until a snapshot counts that shows it.
#[test]
fn what_a_sync_remembered_is_concluded_with_the_verification() {
    let world = Opened::new();
    let six = |text: &str| Some(content("six", text, &[]));
    world.record("pypi", 1, &[("six", six("one"))]);
    let reread = BTreeSet::from([project("six")]);
    world.lock("pypi").note_reread(&[project("six")]).unwrap();
    let noted = || world.mirror("pypi").to_reread().unwrap();
    let draft = |number, text: &str| {
        let conclusion = Some(Conclusion { reread: noted(), ..Conclusion::default() });
        Draft { conclusion, ..world.draft("pypi", number, &[("six", six(text))]) }
    };

    drop(world.commit("pypi", draft(2, "two")));
    assert_eq!(noted(), reread, "a collection may drop the snapshot yet");
    drop(world.lock("pypi"));
    assert_eq!((world.labels("pypi"), noted()), (vec!["2".to_owned(), "1".to_owned()], reread.clone()));

    let committed = world.commit("pypi", draft(3, "three"));
    fs::remove_file(world.store.blob_path(Blake3::of(b"page of six: three"))).unwrap();
    world.lock("pypi").verify(committed).unwrap_err();
    assert_eq!((world.labels("pypi").len(), noted()), (2, reread), "dropped");

    let committed = world.commit("pypi", draft(4, "four"));
    drop(world.lock("pypi").verify(committed).unwrap());
    assert_eq!(noted(), BTreeSet::new());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any sequence of drafts is a sequence of maps, also where a crash came between a commit and its verification. Long
    /// because one history is built, and then read in each way in which it can be read.
    #[test]
    fn snapshots_are_maps(drafts in prop::collection::vec((edits(), 0_u64..2, prop::bool::weighted(0.8)), 1..8)) {
        let world = Opened::new();
        let store = &world.store;
        let mut model = Model::new();
        let mut history: Vec<(Snapshot, Model)> = Vec::new();
        let mut revisions: BTreeMap<u64, u32> = BTreeMap::new();
        let mut number = 1;
        for (edits, forward, verify) in drafts {
            number += forward;
            let mut next = model.clone();
            let mut changes: BTreeMap<String, Option<Content>> = BTreeMap::new();
            for (which, text) in edits {
                let name = project(&format!("project-{which}"));
                match text {
                    Some(text) => next.insert(name.clone(), (number, text)),
                    None => next.remove(&name),
                };
                changes.insert(name.to_string(), text.map(|text| version(&name, text)));
            }
            let changes: Vec<_> = changes.iter().map(|(name, content)| (name.as_str(), content.clone())).collect();
            let draft = world.draft("pypi", number, &changes);
            let parent = draft.base.as_ref().map(|base| base.id);
            let committed = world.commit("pypi", draft);
            *revisions.entry(number).or_default() += 1;
            if verify {
                world.lock("pypi").verify(committed).unwrap();
            } else {
                drop(committed);
                drop(world.lock("pypi"));
            }
            let verified = store.mirror(&mirror("pypi")).unwrap().unwrap().latest_verified().unwrap().unwrap();
            let snapshot = &verified.snapshot;
            prop_assert_eq!(snapshot.label.revision, revisions[&number], "revisions count up");
            prop_assert_eq!(snapshot.parent, parent);
            prop_assert_eq!(verified.id, Blake3::of(&snapshot.to_bytes()));
            prop_assert_eq!(snapshot.projects, next.len() as u64);
            model = next;
            history.push((snapshot.clone(), model.clone()));
        }
        for (snapshot, model) in &history {
            let listed = listed(store, snapshot);
            prop_assert!(listed.keys().eq(model.keys()));
            for (name, (serial, text)) in model {
                let (found, unit) = listed[name];
                prop_assert_eq!(found, *serial);
                let leaf = store.find(snapshot, name).unwrap().unwrap();
                prop_assert_eq!(leaf.unit, Some(unit));
                let unit = store.unit(unit).unwrap();
                let files: Content = unit
                    .entries()
                    .iter()
                    .map(|entry| (entry.path.to_string(), store.read_blob(entry.blob).unwrap()))
                    .collect();
                prop_assert_eq!(files, version(name, *text));
            }
            prop_assert!(store.find(snapshot, &project("project-99")).unwrap().is_none());
        }
        for (before, _) in &history {
            for (after, _) in &history {
                let changes = store.diff(Some(before), Some(after)).unwrap();
                prop_assert!(changes.is_sorted_by(|a, b| a.name < b.name));
                let (from, to) = (listed(store, before), listed(store, after));
                let differ: Vec<_> = from
                    .keys()
                    .chain(to.keys())
                    .filter(|name| from.get(*name) != to.get(*name))
                    .collect::<std::collections::BTreeSet<_>>()
                    .into_iter()
                    .collect();
                prop_assert!(changes.iter().map(|change| &change.name).eq(differ));
                for Change { name, before, after } in changes {
                    prop_assert_eq!(before.map(|leaf| (leaf.serial.get(), leaf.unit.unwrap())), from.get(&name).copied());
                    prop_assert_eq!(after.map(|leaf| (leaf.serial.get(), leaf.unit.unwrap())), to.get(&name).copied());
                }
            }
        }
        if let Some((last, model)) = history.last() {
            prop_assert_eq!(store.diff(None, Some(last)).unwrap().len(), model.len());
            prop_assert_eq!(store.diff(Some(last), None).unwrap().len(), model.len());
            // However it came about, the same content has the same root.
            let fresh = Opened::new();
            let mut serials: BTreeMap<u64, Vec<(String, Option<Content>)>> = BTreeMap::new();
            for (name, (serial, text)) in model {
                serials.entry(*serial).or_default().push((name.to_string(), Some(version(name, *text))));
            }
            let mut tree = None;
            for (serial, changes) in &serials {
                let changes: Vec<_> = changes.iter().map(|(name, content)| (name.as_str(), content.clone())).collect();
                tree = Some(fresh.record("pypi", *serial, &changes).snapshot().tree);
            }
            if let Some(tree) = tree {
                prop_assert_eq!(tree, last.tree);
            }
        }
    }
}

#[test]
fn a_one_project_change_writes_a_few_bodies() {
    let world = Opened::new();
    let many: Vec<_> = (0..600).map(|number| (format!("p{number}"), Some(content("p", "same", &[])))).collect();
    let many: Vec<_> = many.iter().map(|(name, content)| (name.as_str(), content.clone())).collect();
    world.record("pypi", 1, &many);
    let count = || world.sql().query_row("SELECT count(*) FROM body", [], |row| row.get::<_, i64>(0)).unwrap();
    let before = count();
    world.record("pypi", 2, &[("p7", Some(content("p", "other", &[])))]);
    let written = count() - before;
    assert!(written <= 6, "a unit, a snapshot, and a node for each level: {written}");
    world.record("pypi", 3, &[]);
    assert_eq!(count() - before - written, 1, "the same tree again is only a snapshot");
}

/// A unit, the nodes above it and the snapshot are packed against those whose place they take, also a unit that waits for its
/// snapshot.
#[test]
fn a_change_is_packed_against_what_it_replaces() {
    let world = Opened::new();
    let files: Vec<_> = (0..40).map(|number| format!("p-{number}.tar.gz")).collect();
    let version = |text: &str| Some(content("p", text, &files.iter().map(String::as_str).collect::<Vec<_>>()));
    let many: Vec<_> = (0..600).map(|number| (format!("p{number}"), Some(content("p", "same", &[])))).collect();
    let many = many.iter().map(|(name, content)| (name.as_str(), content.clone()));
    world.record("pypi", 1, &many.chain([("p", version("one"))]).collect::<Vec<_>>());
    let written = |since: i64| {
        let sql = world.sql();
        let query = "SELECT count(*), count(reference), sum(length(packed)), max(number) FROM pack WHERE number > ?1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        sql.query_row(query, [since], read).unwrap()
    };
    let (_, against, _, last): (i64, i64, i64, i64) = written(0);
    assert_eq!(against, 0, "there was nothing before");
    let second = world.record("pypi", 2, &[("p", version("two"))]);
    let (count, against, size, last) = written(last);
    assert!((4..=5).contains(&count) && against == count, "{against} of {count}");
    assert!(size < 1_000, "{size} bytes instead of about 6,000");

    // The third version waits for its snapshot, and is there when that comes.
    let draft = world.draft("pypi", 3, &[("p", version("three"))]);
    let third = draft.changes[&project("p")].clone().unwrap();
    world.lock("pypi").record_seen(vec![(third, None)]).unwrap();
    assert!(matches!(written(last), (1, 1, ..)), "{:?}", written(last));
    let third = world.record("pypi", 3, &[("p", version("three"))]);
    // What has changed twice since the reference may be packed alone.
    let (third_count, against, _, last) = written(last);
    assert!((4..=5).contains(&third_count) && against >= 3, "{against} of {third_count}");
    for recorded in [&second, &third] {
        assert_eq!(world.store.leaves(recorded.snapshot()).unwrap().len(), 601);
    }
    let units = "SELECT count(*) FROM body";
    let count = || world.sql().query_row(units, [], |row| row.get::<_, i64>(0)).unwrap();
    let before = count();
    world.record("pypi", 4, &[("p", version("two"))]);
    // As many as at the third, whose record and unit were one: nodes, the snapshot, and a unit of a record that is there.
    assert_eq!((count() - before, written(last).0), (third_count, third_count), "the record is there");
}

#[test]
fn a_crash_at_every_step_of_commit_and_verify() {
    let build = || {
        let world = Opened::new();
        world.record("pypi", 1, &[("six", Some(content("six", "one", &[])))]);
        let draft = world.draft("pypi", 2, &[("six", Some(content("six", "two", &[]))), ("idna", None)]);
        (world, draft)
    };
    // Each COMMIT is two steps: before it, and after it.
    for n in 1..=5 {
        let (world, draft) = build();
        let disk = Disk::counting();
        let opened = world.open_on(disk.clone()).unwrap();
        let at = disk.steps() + n;
        drop(opened);
        let store = world.open_on(Disk::failing_at(at)).unwrap();
        let lock = store.lock(&mirror("pypi"), Wait::Never, time(0)).unwrap();
        let committed = lock.commit(draft, |_, _| Vec::new());
        let verified = committed.map_err(VerifyError::from).and_then(|committed| lock.verify(committed));
        drop(lock);
        let snapshots = world.snapshots("pypi");
        let stands = |recorded: &strandline_store::Recorded| (recorded.snapshot.label.serial.get(), recorded.verified);
        let stands: Vec<_> = snapshots.iter().map(stands).collect();
        match n {
            1 => assert_eq!(stands, [(1, true)], "nothing of it"),
            2 | 3 => assert_eq!(stands, [(2, false), (1, true)], "all of it, and not verified"),
            _ => assert_eq!(stands, [(2, true), (1, true)]),
        }
        assert_eq!(verified.is_ok(), n == 5);
        let base = world.mirror("pypi").latest_verified().unwrap().unwrap();
        assert_eq!(base.snapshot.label.serial, serial(if n > 3 { 2 } else { 1 }));
        world.record("pypi", 2, &[("six", Some(content("six", "two", &[])))]);
        assert_eq!(world.labels("pypi").len(), if n == 1 { 2 } else { 3 });
    }
}

#[test]
fn what_names_a_missing_or_short_blob_is_not_verified() {
    let damages: [(&str, fn(&std::path::Path)); 2] = [
        ("is missing", |blob| fs::remove_file(blob).unwrap()),
        ("has 2 bytes instead of 21", |blob| {
            fs::remove_file(blob).unwrap();
            fs::write(blob, "by").unwrap();
        }),
    ];
    for (problem, damage) in damages {
        let world = Opened::new();
        world.record("pypi", 1, &[("idna", Some(content("idna", "one", &[])))]);
        let committed =
            world.commit("pypi", world.draft("pypi", 2, &[("six", Some(content("six", "one", &["six-1.tar.gz"])))]));
        damage(&world.store.blob_path(Blake3::of(b"bytes of six-1.tar.gz")));
        let error = world.lock("pypi").verify(committed).unwrap_err().to_string();
        assert!(error.starts_with("snapshot 2 of mirror `pypi` names `packages/00/11/six-1.tar.gz`"), "{error}");
        assert!(error.ends_with(problem), "{error}");
        let base = world.mirror("pypi").latest_verified().unwrap().unwrap();
        assert_eq!(base.snapshot.label.serial, serial(1), "it is never a base");

        // A verified one whose blob was lost since is not published again either, unless what is there has it.
        let world = Opened::new();
        world.record("pypi", 1, &[("six", Some(content("six", "one", &["six-1.tar.gz"])))]);
        damage(&world.store.blob_path(Blake3::of(b"bytes of six-1.tar.gz")));
        let recorded = world.mirror("pypi").latest_verified().unwrap().unwrap();
        assert!(world.lock("pypi").verified(recorded.clone(), None).is_err());
        assert!(world.lock("pypi").verified(recorded.clone(), Some(&recorded.snapshot)).is_ok());
    }
}

#[test]
fn mirrors_do_not_mix() {
    let world = Opened::new();
    let same = content("six", "one", &["six-1.tar.gz"]);
    let first = world.record("pypi", 1, &[("six", Some(same.clone()))]);
    let second = world.record("other", 9, &[("six", Some(same))]);
    assert_ne!(first.id(), second.id());
    assert_eq!(world.labels("pypi"), ["1"]);
    assert_eq!(world.labels("other"), ["9"]);
    let names: Vec<_> = world.store.mirrors().unwrap().into_iter().map(|mirror| mirror.name().to_string()).collect();
    assert_eq!(names, ["other", "pypi"]);
    assert_eq!(world.blobs().len(), 2, "equal bytes are stored once");
}
