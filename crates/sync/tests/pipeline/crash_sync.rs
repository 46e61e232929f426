//! A crash at every step of a whole sync, from the first temporary file to the switch: invariants 1 to 6 hold, and the
//! sync repeated ends as if nothing had been.

use std::sync::Arc;

use strandline_faultkit::{Outcome, World, at_every_step};
use strandline_store::Store;
use strandline_sync::cut::Action;
use strandline_sync::{Method, Settings};

use crate::support::script::{Script, add, event};
use crate::support::whole_sync::{NAMES, essence, from};
use crate::support::{settings, sync_store};

fn first() -> Arc<Script> {
    let script = Script::new();
    script.publish("Alpha", Some(3), "1", &[("alpha-1.tar.gz", b"alpha 1"), ("alpha-1.zip", b"alpha 1 zip")]);
    script.publish("beta", Some(5), "1", &[("beta-1.tar.gz", b"beta 1")]);
    Arc::new(script)
}

/// Alpha gets a file, beta goes, gamma comes with the bytes that beta had.
fn second() -> Arc<Script> {
    let script = Script::new();
    script.publish("Alpha", Some(8), "2", &[("alpha-1.tar.gz", b"alpha 1"), ("alpha-2.tar.gz", b"alpha 2")]);
    script.publish("gamma", Some(9), "1", &[("gamma-1.tar.gz", b"beta 1")]);
    Arc::new(script)
}

/// A whole sync by the changelog.
fn following(script: impl Fn() -> Arc<Script>) -> impl Fn(&Arc<Store>) -> Outcome<()> {
    let settings = Settings { method: Some(Method::Changelog), ..settings(NAMES) };
    move |store| Ok(sync_store(store, &script(), &settings).map(drop)?)
}

fn first_logged() -> Arc<Script> {
    let script = first();
    script.log([event(3, "Alpha", Action::Create), event(5, "beta", Action::Create)]);
    script
}

fn second_logged() -> Arc<Script> {
    let script = second();
    script.log([
        event(3, "Alpha", Action::Create),
        event(5, "beta", Action::Create),
        event(7, "beta", Action::RemoveProject),
    ]);
    script.log([event(8, "Alpha", add("alpha-2.tar.gz")), event(9, "gamma", Action::Create)]);
    script
}

#[test]
fn a_first_sync() {
    at_every_step(&World::new(), &[None, Some(5)], from(first), from(first), essence);
}

#[test]
fn an_incremental_sync() {
    let old = World::new();
    from(first)(&old.open()).unwrap();
    at_every_step(&old, &[Some(5), Some(9)], from(second), from(second), essence);
}

#[test]
fn a_third_sync_which_changes_the_tree_of_the_first() {
    let old = World::new();
    from(first)(&old.open()).unwrap();
    from(second)(&old.open()).unwrap();
    let third = || {
        let script = second();
        script.publish("beta", Some(11), "2", &[("beta-1.tar.gz", b"beta 1"), ("beta-2.tar.gz", b"beta 2")]);
        script
    };
    at_every_step(&old, &[Some(9), Some(11)], from(third), from(third), essence);
}

#[test]
fn a_first_sync_by_the_changelog() {
    at_every_step(&World::new(), &[None, Some(5)], following(first_logged), following(first_logged), essence);
}

#[test]
fn an_incremental_sync_by_the_changelog() {
    let old = World::new();
    following(first_logged)(&old.open()).unwrap();
    at_every_step(&old, &[Some(5), Some(9)], following(second_logged), following(second_logged), essence);
}
