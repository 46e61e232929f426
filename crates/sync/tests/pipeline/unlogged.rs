//! What upstream tells of a project can change without an event: then the project is unlogged, until an event comes that is late
//! enough for all mirrors to have seen the change.

use std::sync::Arc;

use strandline_faultkit::{World, invariants, mirror, now};
use strandline_model::Timestamp;
use strandline_sync::cut::Action;
use strandline_sync::upstream::Event;
use strandline_sync::{Method, Outcome, Settings};

use crate::support::script::{Reply, Script, add, changed, event, page, two};
use crate::support::{Syncs as _, settings, sync_store_at};

const NAMES: &[&str] = &["Alpha", "beta"];
const ONE: (&str, &[u8]) = ("alpha-1.tar.gz", b"alpha 1");
const TWO: (&str, &[u8]) = ("alpha-2.tar.gz", b"alpha 2");

fn day(days: i64) -> Timestamp {
    Timestamp::from_seconds(now().seconds() + days * 86_400).unwrap()
}

/// A sync on a day. All pages are swept within a week.
fn sync(world: &World, script: &Arc<Script>, days: i64) -> Outcome {
    let settings = Settings { method: Some(Method::Changelog), ..settings(NAMES) };
    sync_store_at(&world.open(), script, &settings, day(days)).unwrap()
}

/// An event of alpha on a day.
fn on(days: i64, number: u64, change: impl Into<Option<Action>>) -> Event {
    Event { time: day(days), ..event(number, "Alpha", change) }
}

fn logged(world: &World, project: &str) -> bool {
    invariants::check(&world.root(), &world.open(), &mirror()).unwrap();
    world.leaf(project).unwrap().logged
}

/// A mirror at serial 7, whose sweep begins on day 0.
fn synced() -> (World, Arc<Script>) {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    script.publish("Alpha", Some(5), "1", &[ONE]);
    script.publish("beta", Some(7), "1", &[]);
    script.log([event(5, "Alpha", two(Action::NewRelease)), event(7, "beta", two(Action::NewRelease))]);
    sync(&world, &script, 0);
    sync(&world, &script, 0);
    assert!(logged(&world, "alpha") && logged(&world, "beta"));
    (world, script)
}

#[test]
fn a_file_that_the_sweep_finds_makes_its_project_unlogged_for_a_month() {
    let (world, script) = synced();
    script.publish("Alpha", Some(5), "1 2", &[ONE, TWO]);
    assert_eq!(sync(&world, &script, 7).label.to_string(), "7.2");
    assert_eq!((logged(&world, "alpha"), logged(&world, "beta")), (false, true));
    // An event about people ends nothing, nor does one that comes too early, nor a sweep that finds it the same.
    script.log([on(40, 8, None)]);
    sync(&world, &script, 40);
    assert!(!logged(&world, "alpha"));
    script.publish("Alpha", Some(9), "1 2", &[ONE, TWO]);
    script.log([on(36, 9, add(TWO.0))]);
    sync(&world, &script, 40);
    assert!(!logged(&world, "alpha"));
    sync(&world, &script, 60);
    assert!(!logged(&world, "alpha"));
    script.publish("Alpha", Some(10), "1 2", &[ONE, TWO]);
    script.log([on(60, 10, two(Action::UnyankRelease))]);
    sync(&world, &script, 60);
    assert!(logged(&world, "alpha"));
}

#[test]
fn what_only_pages_show_makes_no_project_unlogged() {
    let (world, script) = synced();
    let page = changed(page("Alpha", Some(5), "1", &[ONE]), |_, seen| seen.status_reason = Some("old".to_owned()));
    script.pages("Alpha", [Reply::Page(page, None)]);
    assert_eq!(sync(&world, &script, 7).label.to_string(), "7.2");
    assert!(logged(&world, "alpha"));
}

#[test]
fn an_event_that_comes_while_the_sweep_looks_tells_of_its_own_change() {
    let (world, script) = synced();
    script.publish("Alpha", Some(8), "1 2", &[ONE, TWO]);
    script.log([on(7, 8, add(TWO.0))]);
    sync(&world, &script, 7);
    assert!(logged(&world, "alpha"));
}
