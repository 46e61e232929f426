//! A crash at every step of a withdrawal: what opens the store next finishes it, or repeating it does, and the end is that
//! of an undisturbed run. In between, readers see one whole state, of the serial that they saw; that a page may name the
//! file when its link is gone already is the one exception there is.

use std::sync::Arc;

use strandline_durable::Disk;
use strandline_faultkit::{Outcome, World, invariants, known, lock, mirror, now};
use strandline_model::{Blake3, MirrorName};
use strandline_store::{
    Store,
    verify::{self, Data},
};
use strandline_view::Freeze;

use crate::support::withdrawal::{EVIL, first, resume, second, third, withdraw};
use crate::support::{publish, settings, sync_store};

const NAMES: &[&str] = &["Alpha", "beta"];

fn other() -> MirrorName {
    "other".parse().unwrap()
}

/// Two mirrors that have the file in every state; one of them is rolled back, and has a pin.
fn old() -> World {
    let world = World::new();
    let store = world.open();
    for script in [first(), second(), third()] {
        sync_store(&store, &script, &settings(NAMES)).unwrap();
    }
    let locked = lock(&store).unwrap();
    let pinned = locked.select("5".parse().unwrap()).unwrap();
    locked.pin(pinned.id, now()).unwrap();
    let back = locked.verified(locked.select("7".parse().unwrap()).unwrap(), None).unwrap();
    publish(&locked, back, Freeze::Set, now());
    drop(locked);
    let others = strandline_sync::Settings { mirror: other(), ..settings(&["Alpha"]) };
    sync_store(&store, &first(), &others).unwrap();
    drop(store);
    world
}

fn act(store: &Arc<Store>) -> Outcome<()> {
    withdraw(store, None, EVIL).map(drop)
}

/// Every snapshot names what is there, but for what is withdrawn; every published page shows one of the serials that were
/// published before.
fn check(store: &Arc<Store>, step: u64) {
    let withdrawn = known(store, &mirror()).withdrawn().unwrap();
    for name in [mirror(), other()] {
        let mirror = known(store, &name);
        let report = verify::verify(store, std::slice::from_ref(&mirror), Some(&Data::default()), &|_| {}).unwrap();
        assert_eq!(report.damage, [], "step {step}");
        let state = mirror.view_state().unwrap().unwrap();
        let shown = store.recorded(state.snapshot).unwrap().snapshot;
        let serial = if name == other() { 3 } else { 7 };
        assert_eq!(shown.label.serial.get(), serial, "step {step}");
        assert_eq!(state.frozen, name != other(), "step {step}");
        // All that the view lacks is what is withdrawn.
        for broken in strandline_view::check(&mirror).unwrap() {
            let text = broken.to_string();
            let is_withdrawn = text.contains("alpha-2.tar.gz is missing") && !withdrawn.is_empty();
            assert!(is_withdrawn || text.contains("does not point to"), "step {step}: {text}");
        }
    }
}

#[test]
fn a_withdrawal() {
    let old = old();
    let counting = Disk::counting();
    let undisturbed = old.copy();
    act(&undisturbed.open_on(counting.clone()).unwrap()).unwrap();
    let steps = counting.steps();
    assert!(steps > 50, "there is something to disturb: {steps} steps");
    let store = undisturbed.open();
    check(&store, 0);
    assert!(!store.blob_path(Blake3::of(EVIL)).exists());
    drop(store);
    let should = essence(&undisturbed);

    for n in 1..=steps {
        for repeat in [true, false] {
            let world = old.copy();
            let failing = Disk::failing_at(n);
            let done = world.open_on(failing.clone()).and_then(|store| act(&store));
            assert!(done.is_err(), "step {n} of {steps} went by without a word");
            assert!(failing.steps() >= n);
            let store = world.open();
            check(&store, n);
            if repeat {
                act(&store).unwrap();
            } else {
                // Whoever opens the store finishes what was recorded; what was not has to be asked for.
                resume(&store).unwrap();
                if store.withdrawals().unwrap().is_empty() {
                    act(&store).unwrap();
                }
            }
            assert!(!store.is_purging().unwrap(), "step {n}");
            check(&store, n);
            for mirror in [mirror(), other()] {
                invariants::check_at_rest(&world.root(), &store, &mirror);
            }
            drop(store);
            invariants::assert_equal(&essence(&world), &should, &format!("step {n}"));
        }
    }
}

/// As two stores with the same are equal to their readers; where a crash came between a revision's commit and its
/// verification, one with another label may be there in its place.
fn essence(world: &World) -> std::collections::BTreeMap<String, String> {
    let mut found = invariants::essence(&world.root());
    // A directory in which a sync would put what comes in is there or not.
    found.retain(|path, _| !path.starts_with("incoming/"));
    let store = world.open();
    for mirror in [mirror(), other()] {
        let superseded = known(&store, &mirror).superseded().unwrap();
        for (old, new) in superseded {
            found.insert(format!("{old} of {mirror}"), new.to_string());
        }
    }
    found.insert("pins".to_owned(), format!("{:?}", store.pins().unwrap()));
    found.insert("record".to_owned(), format!("{:?}", store.withdrawals().unwrap()));
    found
}

/// A withdrawal that a crash interrupted, and a sync that comes first.
#[test]
fn a_sync_after_a_crash() {
    let old = World::new();
    let store = old.open();
    for script in [first(), second()] {
        sync_store(&store, &script, &settings(NAMES)).unwrap();
    }
    drop(store);
    let counting = Disk::counting();
    act(&old.copy().open_on(counting.clone()).unwrap()).unwrap();
    for n in (1..=counting.steps()).step_by(3) {
        let world = old.copy();
        assert!(world.open_on(Disk::failing_at(n)).and_then(|store| act(&store)).is_err());
        let store = world.open();
        let recorded = !store.withdrawals().unwrap().is_empty();
        sync_store(&store, &third(), &settings(NAMES)).unwrap();
        let listed = std::fs::read_to_string(world.root().join("views/pypi/live/simple/alpha/index.v1_json")).unwrap();
        assert_eq!(listed.contains("alpha-2"), !recorded, "step {n}");
        assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(9), "step {n}");
        assert!(!recorded || !store.blob_path(Blake3::of(EVIL)).exists(), "step {n}");
    }
}
