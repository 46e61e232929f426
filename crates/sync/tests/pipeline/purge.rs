//! What a withdrawal does, in every place where a file could come from.
#![expect(clippy::disallowed_methods, reason = "the tests lose files of a store")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strandline_durable::Disk;
use strandline_faultkit::{World, invariants, known, lock, lose_body, mirror, now};
use strandline_model::{Blake3, Label, MirrorName, Timestamp};
use strandline_store::gc::{self, Keep};
use strandline_store::{
    Slot, Store, WithdrawnFile,
    verify::{self, Data},
};
use strandline_sync::cut::Action;
use strandline_sync::purge::Done;
use strandline_sync::repair::{BytesFrom, Repaired};
use strandline_sync::{Method, Settings, repair};
use strandline_view::Freeze;

use crate::support::script::{Script, add, event, name, two, url};
use crate::support::withdrawal::{EVIL, first, let_back, order, purge_of, second, sha256, third, withdraw};
use crate::support::{Syncs as _, context, damage, formats, publish, settings, sync_store};

const NAMES: &[&str] = &["Alpha", "beta"];

/// Two states that both have the file.
fn world() -> World {
    let world = World::new();
    world.sync(&first(), &settings(NAMES)).unwrap();
    world.sync(&second(), &settings(NAMES)).unwrap();
    world
}

fn pool(world: &World, mirror: &str) -> Vec<String> {
    let files = invariants::everything(&world.root().join("views").join(mirror).join("packages"));
    let files = files.into_iter().filter(|(_, what)| what != "/");
    let mut names: Vec<_> = files.map(|(path, _)| path.rsplit('/').next().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// All files below both trees of a mirror that hold the text.
fn holding(world: &World, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for slot in ["a", "b"] {
        let tree = world.root().join("views/pypi").join(slot).join("simple");
        for (path, what) in invariants::everything(&tree) {
            if what != "/" && String::from_utf8_lossy(&std::fs::read(tree.join(&path)).unwrap()).contains(text) {
                found.push(tree.join(path));
            }
        }
    }
    found
}

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

#[test]
fn what_is_withdrawn_beside_a_check_is_no_damage() {
    let world = world();
    let store = world.open();
    fs::remove_file(store.blob_path(Blake3::of(EVIL))).unwrap();
    let once = AtomicBool::new(false);
    // The files were looked at, and now one is read.
    let read = |_| {
        if !once.swap(true, Ordering::SeqCst) {
            withdraw(&world.open(), None, EVIL).unwrap();
        }
    };
    let report = verify::verify(&store, &[known(&store, &mirror())], Some(&Data::default()), &read).unwrap();
    assert!(once.into_inner());
    assert_eq!(report.damage, []);
}

#[test]
fn a_repair_does_not_bring_back_what_was_withdrawn_after_the_check() {
    let world = world();
    let store = world.open();
    for bytes in [EVIL, b"alpha 1"] {
        fs::remove_file(store.blob_path(Blake3::of(bytes))).unwrap();
        let name = if bytes == EVIL { "alpha-2.tar.gz" } else { "alpha-1.tar.gz" };
        let pool = world.root().join("views/pypi/packages");
        let path = invariants::everything(&pool).into_keys().find(|path| path.ends_with(name)).unwrap();
        fs::remove_file(pool.join(path)).unwrap();
    }
    let found = damage(&store);
    assert_eq!(found.len(), 2);
    withdraw(&store, None, EVIL).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let contexts = [context(&store, &second(), &settings(NAMES), now())];
    let done = runtime.block_on(repair::repair(&contexts, found, false)).unwrap();
    let withdrawn = |repaired: &Repaired| matches!(repaired, Repaired::Blob { from: BytesFrom::Withdrawn, .. });
    assert!(done.repaired.iter().any(withdrawn), "{done:?}");
    assert!(!store.blob_path(Blake3::of(EVIL)).exists());
    assert_eq!(pool(&world, "pypi"), ["alpha-1.tar.gz", "beta-1.tar.gz", "beta-2.tar.gz"]);
    assert_eq!(damage(&store), []);
}

#[test]
fn it_is_gone_from_everything_that_is_served() {
    let world = world();
    let store = world.open();
    let old = known(&store, &mirror()).at_label(label("7")).unwrap().unwrap();
    let done = withdraw(&store, None, EVIL).unwrap();
    assert_eq!(done.deleted, 1);
    assert_eq!(done.mirrors[0].revisions, [(label("5"), label("5.2")), (label("7"), label("7.2"))]);
    assert_eq!(world.labels(), ["7.2", "7", "5.2", "5"]);
    assert!(!store.blob_path(Blake3::of(EVIL)).exists(), "the bytes are deleted");
    assert_eq!(pool(&world, "pypi"), ["alpha-1.tar.gz", "beta-1.tar.gz", "beta-2.tar.gz"]);
    assert_eq!(holding(&world, "alpha-2"), [] as [PathBuf; 0], "neither tree lists it");
    assert_eq!(world.version("alpha").as_deref(), Some("1"), "a release without files is not listed either");

    let state = known(&store, &mirror()).view_state().unwrap().unwrap();
    let published = store.recorded(state.snapshot).unwrap();
    assert_eq!(published.snapshot.label, label("7.2"));
    assert_eq!(published.snapshot.parent, Some(old.id));
    assert_eq!((published.snapshot.time, &published.snapshot.held), (old.snapshot.time, &old.snapshot.held));
    assert_eq!(store.recorded(state.previous.unwrap()).unwrap().snapshot.label, label("5.2"));
    for slot in [Slot::A, Slot::B] {
        assert_eq!(known(&store, &mirror()).twin(slot).unwrap().base, Some(published.id));
    }
    // The old manifest says what there was, and is not served.
    let alpha = store.find(&old.snapshot, &name("alpha")).unwrap().unwrap();
    assert!(store.unit(alpha.unit.unwrap()).unwrap().entries().iter().any(|entry| entry.blob == Blake3::of(EVIL)));
    assert_eq!(known(&store, &mirror()).select_served("7".parse().unwrap()).unwrap().id, published.id);
    assert_eq!(known(&store, &mirror()).select_served("2026-12-31".parse().unwrap()).unwrap().id, published.id);
    let error = known(&store, &mirror()).select_served("7.1".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("7.2 is served in its place"), "{error}");
    assert_eq!(damage(&store), []);
    invariants::check_at_rest(&world.root(), &store, &mirror());

    // Once more: nothing is left to do.
    let again = withdraw(&store, None, EVIL).unwrap();
    assert_eq!((again.deleted, again.mirrors[0].revisions.len()), (0, 0));
    assert_eq!(store.withdrawals().unwrap().len(), 1);
}

#[test]
fn no_sync_brings_it_back_until_it_is_let_back() {
    for method in [Method::Collect, Method::Changelog] {
        let settings = Settings { method: Some(method), ..settings(NAMES) };
        let log = || [event(3, "Alpha", Action::Create), event(5, "beta", Action::Create)];
        let world = World::new();
        let script = first();
        script.log(log());
        world.sync(&script, &settings).unwrap();
        let store = world.open();
        withdraw(&store, None, EVIL).unwrap();
        let purged = world.latest();
        script.asked();
        for _ in 0..2 {
            world.sync(&script, &settings).unwrap();
            assert_eq!(world.latest(), purged, "{method:?}: what upstream lists besides is what there is");
        }
        script.publish("beta", Some(7), "2", &[("beta-2.tar.gz", b"beta 2")]);
        script.publish(
            "Alpha",
            Some(8),
            "1 2 3",
            &[("alpha-1.tar.gz", b"alpha 1"), ("alpha-2.tar.gz", EVIL), ("alpha-3.tar.gz", b"alpha 3")],
        );
        script.log([event(7, "beta", two(Action::NewRelease)), event(8, "Alpha", add("alpha-3.tar.gz"))]);
        world.sync(&script, &settings).unwrap();
        assert_eq!(world.latest().snapshot.label, label("8"), "{method:?}");
        assert_eq!(world.version("alpha").as_deref(), Some("1 3"), "{method:?}");
        assert_eq!(Script::count(&script.asked(), &format!("file {}", url("alpha-2.tar.gz"))), 0);
        assert_eq!(damage(&store), []);

        assert_eq!(let_back(&store, None, EVIL).unwrap(), 1);
        assert_eq!(let_back(&store, None, EVIL).unwrap(), 0);
        world.sync(&script, &settings).unwrap();
        assert_eq!(world.latest().snapshot.label, label("8.2"), "{method:?}: no serial has moved");
        assert_eq!(world.version("alpha").as_deref(), Some("1 2 3"), "{method:?}");
        assert!(pool(&world, "pypi").contains(&"alpha-2.tar.gz".to_owned()));
        assert_eq!(damage(&store), [], "what was withdrawn once is no damage later");
        let before = world.latest();
        world.sync(&script, &settings).unwrap();
        assert_eq!(world.latest(), before);
        invariants::check_at_rest(&world.root(), &store, &mirror());

        // Old manifests that name the same unit hold nothing, and take nothing from the new one.
        collect(&store);
        assert_eq!(damage(&store), []);
        assert!(store.blob_path(Blake3::of(EVIL)).exists());
        assert_eq!(withdraw(&store, None, EVIL).unwrap().deleted, 1);
        assert_eq!(damage(&store), []);
    }
}

fn collect(store: &Arc<Store>) {
    let later = Timestamp::from_seconds(now().seconds() + 100).unwrap();
    gc::collect(store, |_| Keep::default(), Duration::ZERO, later).unwrap();
}

#[test]
fn a_view_that_cannot_be_put_right_does_not_keep_the_file_in_another() {
    let world = world();
    let others = Settings { mirror: "other".parse().unwrap(), ..settings(&["Alpha"]) };
    let store = world.open();
    sync_store(&store, &first(), &others).unwrap();
    // A process recorded the withdrawal and died, and another destroyed a view.
    store.withdraw(&order(None), &[WithdrawnFile { sha256: sha256(EVIL), name: None }]).unwrap();
    drop(store);
    assert_eq!(pool(&world, "other"), ["alpha-1.tar.gz", "alpha-2.tar.gz"]);
    fs::remove_dir_all(world.view()).unwrap();
    strandline_sync::open(&world.root(), Disk::new(), &formats(), now()).unwrap();
    assert_eq!(pool(&world, "other"), ["alpha-1.tar.gz"]);
}

#[test]
fn another_mirror_keeps_what_was_withdrawn_from_one() {
    let world = world();
    let store = world.open();
    let other: MirrorName = "other".parse().unwrap();
    let others = Settings { mirror: other.clone(), ..settings(&["Alpha"]) };
    sync_store(&store, &first(), &others).unwrap();

    assert_eq!(withdraw(&store, Some(&mirror()), EVIL).unwrap().deleted, 0);
    assert_eq!(pool(&world, "pypi"), ["alpha-1.tar.gz", "beta-1.tar.gz", "beta-2.tar.gz"]);
    assert_eq!(pool(&world, "other"), ["alpha-1.tar.gz", "alpha-2.tar.gz"]);
    assert!(store.blob_path(Blake3::of(EVIL)).exists());
    sync_store(&store, &first(), &others).unwrap();
    assert_eq!(known(&store, &other).latest().unwrap().unwrap().snapshot.label, label("3"));
    assert_eq!(damage(&store), []);

    let done = withdraw(&store, None, EVIL).unwrap();
    assert_eq!(done.deleted, 1);
    assert_eq!(pool(&world, "other"), ["alpha-1.tar.gz"]);
    // Let back to one of them.
    let_back(&store, Some(&other), EVIL).unwrap();
    sync_store(&store, &first(), &others).unwrap();
    world.sync(&second(), &settings(NAMES)).unwrap();
    assert_eq!(pool(&world, "other"), ["alpha-1.tar.gz", "alpha-2.tar.gz"]);
    assert_eq!(pool(&world, "pypi"), ["alpha-1.tar.gz", "beta-1.tar.gz", "beta-2.tar.gz"]);
    assert_eq!(damage(&store), []);
}

#[test]
fn a_pin_and_a_view_that_was_rolled_back_go_over_to_the_revision() {
    let world = world();
    let store = world.open();
    let old = known(&store, &mirror()).at_serial(label("5").serial).unwrap().unwrap();
    let locked = lock(&store).unwrap();
    locked.pin(old.id, now()).unwrap();
    let verified = locked.verified(old.clone(), None).unwrap();
    publish(&locked, verified, Freeze::Set, now());
    drop(locked);

    withdraw(&store, None, EVIL).unwrap();
    let state = known(&store, &mirror()).view_state().unwrap().unwrap();
    let new = known(&store, &mirror()).at_label(label("5.2")).unwrap().unwrap();
    assert_eq!((state.snapshot, state.frozen), (new.id, true));
    assert_eq!(store.recorded(state.previous.unwrap()).unwrap().snapshot.label, label("7.2"));
    assert_eq!(store.pins().unwrap(), BTreeSet::from([new.id]));
    assert_eq!(holding(&world, "alpha-2"), [] as [PathBuf; 0]);

    // Retention keeps the record with what took its place, and drops both together.
    let keep = Keep { last: 1, daily: 0, weekly: 0 };
    gc::collect(&store, |_| keep, Duration::ZERO, now()).unwrap();
    assert_eq!(world.labels(), ["7.2", "7", "5.2", "5"]);
    assert!(!store.blob_path(Blake3::of(EVIL)).exists());
    assert_eq!(damage(&store), []);
    known(&store, &mirror()).unpin(new.id).unwrap();
    world.sync(&third(), &settings(NAMES)).unwrap();
    let locked = lock(&store).unwrap();
    for _ in 0..2 {
        for serial in ["7", "9"] {
            let recorded = locked.select_served(serial.parse().unwrap()).unwrap();
            let verified = locked.verified(recorded, None).unwrap();
            publish(&locked, verified, Freeze::Lift, now());
        }
    }
    drop(locked);
    gc::collect(&store, |_| keep, Duration::ZERO, now()).unwrap();
    assert_eq!(world.labels(), ["9", "7.2", "7"]);
    assert_eq!(damage(&store), []);
}

/// The selection changed at one serial: the newest state of it has no such file, and stays the newest.
#[test]
fn the_newest_revision_of_a_serial_stays_the_newest() {
    let world = World::new();
    world.sync(&second(), &settings(NAMES)).unwrap();
    world.sync(&second(), &settings(&["beta"])).unwrap();
    assert_eq!(world.labels(), ["7.2", "7"]);
    let store = world.open();
    let tree = world.latest().snapshot.tree;
    withdraw(&store, None, EVIL).unwrap();
    assert_eq!(world.labels(), ["7.4", "7.3", "7.2", "7"]);
    assert_eq!(world.latest().snapshot.tree, tree);
    let state = known(&store, &mirror()).view_state().unwrap().unwrap();
    assert_eq!(state.snapshot, world.latest().id);
    assert_eq!(damage(&store), []);
    world.sync(&second(), &settings(&["beta"])).unwrap();
    assert_eq!(world.labels(), ["7.4", "7.3", "7.2", "7"]);
}

#[test]
fn a_page_that_is_lost_is_made_anew_without_it() {
    let world = world();
    let store = world.open();
    let alpha = store.unit(world.leaf("alpha").unwrap().unit.unwrap()).unwrap();
    let page = alpha.entry("simple/alpha/index.v1_json").unwrap().blob;
    store.disk().remove_file(&store.blob_path(page)).unwrap();
    withdraw(&store, None, EVIL).unwrap();
    assert_eq!(holding(&world, "alpha-2"), [] as [PathBuf; 0]);
    assert_eq!(pool(&world, "pypi"), ["alpha-1.tar.gz", "beta-1.tar.gz", "beta-2.tar.gz"]);
    assert_eq!(world.version("alpha").as_deref(), Some("1"));
    assert_eq!(damage(&store), []);
    world.sync(&second(), &settings(NAMES)).unwrap();
    invariants::check_at_rest(&world.root(), &store, &mirror());
}

#[test]
fn a_record_that_is_lost_does_not_keep_it_alive() {
    let world = world();
    let record = world.leaf("alpha").unwrap().record.unwrap();
    lose_body(&world.root(), record.seen).unwrap();
    let store = world.open();
    withdraw(&store, None, EVIL).unwrap();
    assert_eq!(holding(&world, "alpha-2"), [] as [PathBuf; 0]);
    assert_eq!(pool(&world, "pypi"), ["alpha-1.tar.gz", "beta-1.tar.gz", "beta-2.tar.gz"]);
    assert!(world.leaf("alpha").is_none(), "better no project than this file");
    // It comes back with the next sync, without the file.
    world.sync(&second(), &settings(NAMES)).unwrap();
    assert_eq!(world.version("alpha").as_deref(), Some("1"));
    invariants::check_at_rest(&world.root(), &store, &mirror());
}

#[test]
fn what_is_not_here_yet_can_be_withdrawn_too() {
    let world = World::new();
    let store = world.open();
    let done = withdraw(&store, None, EVIL).unwrap();
    assert_eq!(done, Done::default());
    let script = second();
    world.sync(&script, &settings(NAMES)).unwrap();
    assert_eq!(world.version("alpha").as_deref(), Some("1"));
    assert_eq!(Script::count(&script.asked(), &format!("file {}", url("alpha-2.tar.gz"))), 0);
    let_back(&store, None, EVIL).unwrap();
    world.sync(&script, &settings(NAMES)).unwrap();
    assert_eq!(world.version("alpha").as_deref(), Some("1 2"));
}

/// Whoever was at work on the mirror when it was recorded carries it out.
#[test]
fn a_sync_finishes_what_it_stood_in_the_way_of() {
    let world = world();
    let store = world.open();
    let locked = lock(&store).unwrap();
    let done = withdraw(&store, None, EVIL).unwrap();
    assert_eq!((done.busy, done.deleted), (vec![mirror()], 0));
    drop(locked);
    world.sync(&second(), &settings(NAMES)).unwrap();
    assert_eq!(world.labels(), ["7.2", "7", "5.2", "5"]);
    assert!(!store.blob_path(Blake3::of(EVIL)).exists());
    assert!(!store.is_purging().unwrap());
    assert_eq!(pool(&world, "pypi"), ["alpha-1.tar.gz", "beta-1.tar.gz", "beta-2.tar.gz"]);
}

#[test]
fn the_files_of_a_release() {
    let world = world();
    let store = world.open();
    let formats = formats();
    let purge = purge_of(&store, &formats);
    let mirrors = [known(&store, &mirror())];
    let of_release = |project, version| purge.plan_release(&mirrors, &name(project), version).unwrap();
    let file = WithdrawnFile { sha256: sha256(EVIL), name: Some((name("alpha"), "alpha-2.tar.gz".to_owned())) };
    let found = of_release("alpha", "2");
    assert_eq!((found.files.into_values().collect::<Vec<_>>(), found.unclear.len()), (vec![file], 0));
    assert!(of_release("alpha", "9").files.is_empty() && of_release("gamma", "1").files.is_empty());
}
