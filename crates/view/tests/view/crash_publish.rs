//! A crash at every step of a publication: invariants 1 to 6 hold, readers see the state of before or of after, and
//! the next publication, to the same snapshot or to another, puts everything right.

use std::sync::Arc;

use strandline_durable::Disk;
use strandline_faultkit::{Outcome, World, at_every_step, invariants, mirror};
use strandline_store::Store;

use strandline_view::Freeze;

use crate::support::{State, catch_up, publish, record, state, sync};

fn first() -> State {
    state(&[
        ("Alpha", "one", &[("alpha-1.tar.gz", "alpha 1")]),
        ("beta", "one", &[("beta-1.tar.gz", "beta 1"), ("beta-1.whl", "beta 1 wheel")]),
        ("gamma", "one", &[]),
    ])
}

/// Alpha changes and loses a file, beta goes, delta comes with a file of beta's bytes.
fn second() -> State {
    state(&[
        ("Alpha", "two", &[("alpha-2.tar.gz", "alpha 2")]),
        ("gamma", "one", &[]),
        ("Delta.x", "one", &[("delta_x-1.tar.gz", "beta 1")]),
    ])
}

/// Beta is back, with another file besides.
fn third() -> State {
    state(&[
        ("Alpha", "two", &[("alpha-2.tar.gz", "alpha 2"), ("alpha-3.tar.gz", "alpha 3")]),
        ("beta", "two", &[("beta-1.tar.gz", "beta 1"), ("beta-2.tar.gz", "beta 2")]),
        ("Delta.x", "two", &[("delta_x-1.tar.gz", "beta 1")]),
    ])
}

fn to(number: u64) -> impl Fn(&Arc<Store>) -> Outcome<()> {
    move |store| publish(store, number, Freeze::Lift).map(drop)
}

#[test]
fn the_first_publication() {
    let old = World::new();
    record(&old.open(), 1, &first()).unwrap();
    at_every_step(&old, &[None, Some(1)], to(1), to(1), invariants::essence);
}

fn published() -> World {
    let old = World::new();
    let store = old.open();
    sync(&store, 1, &first()).unwrap();
    sync(&store, 2, &second()).unwrap();
    record(&store, 3, &third()).unwrap();
    old
}

#[test]
fn an_incremental_publication() {
    at_every_step(&published(), &[Some(2), Some(3)], to(3), to(3), invariants::essence);
}

#[test]
fn a_standby_that_catches_up() {
    at_every_step(&published(), &[Some(2)], catch_up, to(3), invariants::essence);
}

#[test]
fn a_standby_that_catches_up_after_an_interrupted_publication() {
    let next = |store: &Arc<Store>| catch_up(store).and_then(|()| to(3)(store)).and_then(|()| catch_up(store));
    at_every_step(&published(), &[Some(2), Some(3)], to(3), next, invariants::essence);
}

#[test]
fn the_second_publication_makes_the_other_tree() {
    let old = World::new();
    let store = old.open();
    sync(&store, 1, &first()).unwrap();
    record(&store, 2, &second()).unwrap();
    drop(store);
    at_every_step(&old, &[Some(1), Some(2)], to(2), to(2), invariants::essence);
}

#[test]
fn a_rollback() {
    let old = published();
    publish(&old.open(), 3, Freeze::Lift).unwrap();
    // The standby has the second one.
    for number in [1, 2] {
        let back = |store: &Arc<Store>| publish(store, number, Freeze::Set).map(drop);
        at_every_step(&old, &[Some(3), Some(number)], back, back, invariants::essence);
    }
}

#[test]
fn an_interrupted_publication_may_be_followed_by_another() {
    let old = published();
    let counting = Disk::counting();
    to(3)(&old.copy().open_on(counting.clone()).unwrap()).unwrap();
    for n in 1..=counting.steps() {
        let world = old.copy();
        assert!(world.open_on(Disk::failing_at(n)).and_then(|store| to(3)(&store)).is_err());
        let store = world.open();
        for (next, freeze) in
            [(1, Freeze::Set), (3, Freeze::Lift), (2, Freeze::Set), (1, Freeze::Set), (3, Freeze::Lift)]
        {
            publish(&store, next, freeze).unwrap();
            assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(next), "step {n}");
            invariants::check_at_rest(&world.root(), &store, &mirror());
        }
    }
}

#[test]
fn a_second_crash_while_the_first_is_put_right() {
    let old = published();
    let steps = |world: &World, number| {
        let counting = Disk::counting();
        to(number)(&world.copy().open_on(counting.clone()).unwrap()).unwrap();
        counting.steps()
    };
    // A stride that is prime to most things: each run is a different pair of places.
    for n in (1..=steps(&old, 3)).step_by(3) {
        let once = old.copy();
        assert!(once.open_on(Disk::failing_at(n)).and_then(|store| to(3)(&store)).is_err());
        for m in (1..=steps(&once, 1)).step_by(5) {
            let world = once.copy();
            assert!(world.open_on(Disk::failing_at(m)).and_then(|store| to(1)(&store)).is_err());
            let store = world.open();
            let shown = invariants::check(&world.root(), &store, &mirror());
            assert!([Some(2), Some(3), Some(1)].contains(&shown), "steps {n} and {m} show {shown:?}");
            to(3)(&store).unwrap();
            assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(3), "steps {n} and {m}");
            invariants::check_at_rest(&world.root(), &store, &mirror());
        }
    }
}
