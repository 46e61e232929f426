//! A power failure at every step of recording, publishing, going back and collecting; and with each sync left out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use strandline_durable::Disk;
use strandline_faultkit::{Outage, Outcome, World, invariants, lock};
use strandline_store::Store;
use strandline_store::gc::{self, Keep};

use strandline_view::Freeze;

use crate::support::{State, catch_up, project, publish, state, sync, time};

fn states() -> [State; 3] {
    [
        state(&[
            ("Alpha", "one", &[("alpha-1.tar.gz", "alpha 1")]),
            ("beta", "one", &[("beta-1.tar.gz", "beta 1"), ("beta-1.whl", "beta 1 wheel")]),
        ]),
        state(&[
            ("Alpha", "two", &[("alpha-2.tar.gz", "alpha 2")]),
            ("Delta.x", "one", &[("delta_x-1.tar.gz", "beta 1")]),
        ]),
        state(&[("Alpha", "two", &[("alpha-2.tar.gz", "alpha 2")]), ("beta", "three", &[])]),
    ]
}

/// A mirror with so many of the states.
fn with(count: usize) -> World {
    let world = World::new();
    for (number, state) in (1..).zip(&states()[..count]) {
        sync(&world.open(), number, state).unwrap();
    }
    world
}

/// Records and publishes one of the states, if it was not.
fn bring(number: u64) -> impl Fn(&Arc<Store>) -> Outcome<()> {
    let state = states()[usize::try_from(number).unwrap() - 1].clone();
    move |store| {
        let there = lock(store)?.latest_verified()?;
        if there.is_none_or(|there| there.snapshot.label.serial.get() < number) {
            crate::support::record(store, number, &state)?;
        }
        publish(store, number, Freeze::Lift).map(drop)
    }
}

/// What a store is to its readers. An empty directory for what comes in is made when it is needed.
fn essence(root: &Path) -> BTreeMap<String, String> {
    let mut found = invariants::essence(root);
    found.retain(|path, what| !(path.starts_with("incoming/") && what == "/"));
    found
}

fn back_to(number: u64) -> impl Fn(&Arc<Store>) -> Outcome<()> {
    move |store| publish(store, number, Freeze::Set).map(drop)
}

/// Records and publishes the second state with another project: what else the second one brought has to be there already.
fn go_on(store: &Arc<Store>) -> Outcome<()> {
    let mut state = states()[1].clone();
    state.extend([project("gamma", "one", &[])]);
    sync(store, 3, &state).map(drop)
}

fn collect(store: &Arc<Store>) -> Outcome<()> {
    let keep = Keep { last: 1, daily: 0, weekly: 0 };
    Ok(gc::collect(store, |_| keep, Duration::ZERO, time(10)).map(drop)?)
}

#[test]
fn a_first_publication() {
    let act = bring(1);
    Outage::of(&World::new(), &[None, Some(1)], &act, &act, &essence).everywhere();
}

#[test]
fn an_incremental_publication() {
    let act = bring(3);
    Outage::of(&with(2), &[Some(2), Some(3)], &act, &act, &essence).everywhere();
}

#[test]
fn a_rollback() {
    // The standby has the second one.
    for number in [1, 2] {
        let act = back_to(number);
        Outage::of(&with(3), &[Some(3), Some(number)], &act, &act, &essence).everywhere();
    }
}

#[test]
fn a_standby_that_catches_up() {
    Outage::of(&with(2), &[Some(2)], &catch_up, &go_on, &essence).everywhere();
}

#[test]
fn a_collection() {
    Outage::of(&with(3), &[Some(3)], &collect, &collect, &essence).everywhere();
}

/// A process dies at some step, another one does it all: what that one relies on is durable, too.
#[test]
fn after_a_crash() {
    let act = bring(2);
    let counting = Disk::counting();
    act(&with(1).open_on(counting.clone()).unwrap()).unwrap();
    // A stride that is prime to most things.
    for n in (1..=counting.steps()).step_by(3) {
        Outage::after_a_crash(&with(1), n, &[Some(1), Some(2)], &act, &essence).at_the_end();
    }
}

/// Each sync is needed: where any one of them does nothing, a power failure shows it.
#[test]
fn no_sync_may_be_left_out() {
    let mut noticed = BTreeMap::new();
    let act = bring(1);
    Outage::of(&World::new(), &[None, Some(1)], &act, &act, &essence).without_each_sync(&mut noticed);
    let act = bring(2);
    Outage::of(&with(1), &[Some(1), Some(2)], &act, &act, &essence).without_each_sync(&mut noticed);
    let act = bring(3);
    Outage::of(&with(2), &[Some(2), Some(3)], &act, &act, &essence).without_each_sync(&mut noticed);
    Outage::of(&with(2), &[Some(2)], &catch_up, &go_on, &essence).without_each_sync(&mut noticed);
    for number in [1, 2] {
        let act = back_to(number);
        Outage::of(&with(3), &[Some(3), Some(number)], &act, &act, &essence).without_each_sync(&mut noticed);
    }
    Outage::of(&with(3), &[Some(3)], &collect, &collect, &essence).without_each_sync(&mut noticed);
    let superfluous: Vec<_> = noticed.iter().filter(|(_, noticed)| !**noticed).collect();
    assert!(superfluous.is_empty(), "nobody notices that these do nothing: {superfluous:#?} of {noticed:#?}");
}
