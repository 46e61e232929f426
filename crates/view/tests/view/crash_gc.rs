//! A crash at every step of a garbage collection: nothing that is kept loses anything (invariants 2 to 5), and the next
//! open and collection finish what was under way.

use std::sync::Arc;
use std::time::Duration;

use strandline_faultkit::{Outcome, World, at_every_step, invariants, mirror};
use strandline_model::{Blake3, Timestamp};
use strandline_store::gc::{self, Collected, Keep};
use strandline_store::{Store, StoreError, Wait};

use crate::support::{FORMAT, commit, state, sync, time};

const HOUR: Duration = Duration::from_secs(3600);

/// Four published snapshots: the fourth is live, the third was, and nothing needs the first two. Another mirror has one
/// of their files.
fn old() -> World {
    let world = World::new();
    let store = world.open();
    sync(
        &store,
        1,
        &state(&[
            ("Alpha", "one", &[("alpha-1.tar.gz", "alpha 1"), ("alpha-shared.tar.gz", "shared")]),
            ("beta", "one", &[("beta-1.tar.gz", "beta 1")]),
        ]),
    )
    .unwrap();
    sync(&store, 2, &state(&[("Alpha", "two", &[("alpha-2.tar.gz", "alpha 2")]), ("Gamma", "one", &[])])).unwrap();
    let kept = state(&[("Alpha", "three", &[("alpha-2.tar.gz", "alpha 2"), ("alpha-3.tar.gz", "alpha 3")])]);
    sync(&store, 3, &kept).unwrap();
    sync(&store, 4, &state(&[("Alpha", "four", &[("alpha-3.tar.gz", "alpha 3")])])).unwrap();

    let other = "other".parse().unwrap();
    let lock = store.lock(&other, Wait::Never, time(0)).unwrap();
    let shared = state(&[("Else", "one", &[("else-1.tar.gz", "shared")])]);
    let committed = commit(&lock, &FORMAT, 1, &shared).unwrap();
    lock.verify(committed).unwrap();
    drop(lock);
    drop(store);
    world
}

fn collect(store: &Arc<Store>, grace: Duration, now: Timestamp) -> Result<Collected, StoreError> {
    gc::collect(store, |_| Keep { last: 1, daily: 0, weekly: 0 }, grace, now)
}

fn at_once(store: &Arc<Store>) -> Outcome<()> {
    Ok(collect(store, Duration::ZERO, time(10)).map(drop)?)
}

fn labels(store: &Arc<Store>) -> Vec<u64> {
    store
        .mirror(&mirror())
        .unwrap()
        .unwrap()
        .snapshots()
        .unwrap()
        .iter()
        .map(|recorded| recorded.snapshot.label.serial.get())
        .collect()
}

fn pool(world: &World) -> Vec<String> {
    let files = invariants::everything(&world.view().join("packages")).into_iter().filter(|(_, what)| what != "/");
    files.map(|(path, _)| path.rsplit_once('/').unwrap().1.to_owned()).collect()
}

#[test]
fn a_collection_without_grace() {
    let old = old();
    at_every_step(&old, &[Some(4)], at_once, at_once, invariants::essence);

    at_once(&old.open()).unwrap();
    let store = old.open();
    assert_eq!(labels(&store), [4, 3]);
    let mut left = pool(&old);
    left.sort();
    assert_eq!(left, ["alpha-2.tar.gz", "alpha-3.tar.gz"]);
    assert!(!store.blob_path(Blake3::of(b"beta 1")).exists());
    assert!(store.blob_path(Blake3::of(b"shared")).exists(), "the other mirror has it");
}

#[test]
fn a_collection_after_the_grace_period() {
    let old = old();
    let first = collect(&old.open(), HOUR, time(10)).unwrap();
    assert!(first.condemned > 0 && first.deleted == 0 && first.links == 0, "{first:?}");
    assert_eq!(pool(&old).len(), 5, "a client that has read a page can still fetch what it names");
    let later = |store: &Arc<Store>| Ok(collect(store, HOUR, time(11)).map(drop)?);
    at_every_step(&old, &[Some(4)], later, later, invariants::essence);
    later(&old.open()).unwrap();
    assert_eq!(pool(&old).len(), 2);
}

/// What was condemned is wanted again: whatever a crash left of the collection, the sync after it gets everything.
#[test]
fn a_sync_after_an_interrupted_collection_brings_things_back() {
    let again = state(&[
        ("Alpha", "one", &[("alpha-1.tar.gz", "alpha 1"), ("alpha-shared.tar.gz", "shared")]),
        ("beta", "one", &[("beta-1.tar.gz", "beta 1")]),
    ]);
    let old = old();
    let counting = strandline_durable::Disk::counting();
    at_once(&old.copy().open_on(counting.clone()).unwrap()).unwrap();
    for n in 1..=counting.steps() {
        for opened_before in [false, true] {
            let world = old.copy();
            let long_running = opened_before.then(|| world.open());
            let failing = strandline_durable::Disk::failing_at(n);
            assert!(world.open_on(failing).and_then(|store| at_once(&store)).is_err());
            let store = long_running.unwrap_or_else(|| world.open());
            sync(&store, 5, &again).unwrap();
            // What the crash left and the sync had no business with, the next who opens the store sees to.
            drop(world.open());
            assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(5), "step {n}");
            invariants::check_at_rest(&world.root(), &store, &mirror());
            at_once(&store).unwrap();
            assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(5), "step {n}");
            invariants::check_at_rest(&world.root(), &store, &mirror());
        }
    }
}
