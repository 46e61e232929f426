//! Files that upstream names and does not give: from `hold-after` on they alone are not shown.

use std::sync::Arc;
use std::time::Duration;

use strandline_faultkit::{World, invariants, mirror, now};
use strandline_model::{HoldReason, Timestamp};
use strandline_sync::cut::Action;
use strandline_sync::{Method, OnBroken, Outcome, Settings, SyncError};

use crate::support::script::{Body, Script, add, event, name, status, two, url};
use crate::support::{Syncs as _, in_the_way, settings, sync_store_at};

const NAMES: &[&str] = &["Alpha", "beta"];
const ALPHA_1: (&str, &[u8]) = ("alpha-1.tar.gz", b"alpha 1");
const ALPHA_2: (&str, &[u8]) = ("alpha-2.tar.gz", b"alpha 2");
const ALPHA_3: (&str, &[u8]) = ("alpha-3.tar.gz", b"alpha 3");

/// Asks once; what stands in the way is older than `hold-after`.
fn hold() -> Settings {
    Settings { method: Some(Method::Changelog), cut_timeout: Duration::ZERO, ..settings(NAMES) }
}

/// A mirror at serial 7, and an upstream at 8 that names a file which it does not give.
fn synced() -> (World, Arc<Script>) {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    script.publish("Alpha", Some(5), "1", &[ALPHA_1]);
    script.publish("beta", Some(7), "1", &[]);
    script.log([event(5, "Alpha", two(Action::NewRelease)), event(7, "beta", two(Action::NewRelease))]);
    world.sync(&script, &hold()).unwrap();
    script.publish("Alpha", Some(8), "1 2", &[ALPHA_1, ALPHA_2]);
    script.files(&url(ALPHA_2.0), [Body::Fail(status(404))]);
    script.log([event(8, "Alpha", add(ALPHA_2.0))]);
    script.asked();
    (world, script)
}

fn lacking(done: &Outcome) -> Vec<&str> {
    assert_eq!(done.held, []);
    done.lacking.iter().map(|(project, file)| (project.as_str(), file.as_str()).1).collect()
}

/// Requires that the list is this one and alpha's page shows a version and so many files; that its record names so many.
#[track_caller]
fn shows(world: &World, list: &str, version: &str, (shown, named): (usize, usize)) {
    assert_eq!((world.list().as_str(), world.version("alpha").as_deref()), (list, Some(version)));
    let store = world.open();
    let page = world.served("simple/alpha/index.v1_json").unwrap();
    let record = store.record(world.leaf("alpha").unwrap().record.unwrap()).unwrap();
    assert_eq!((page.lines().skip(3).count(), record.files().len()), (shown, named), "{page}");
    invariants::check(&world.root(), &store, &mirror()).unwrap();
    invariants::check_at_rest(&world.root(), &store, &mirror());
}

fn asked_for(script: &Script, file: &str) -> usize {
    Script::count(&script.asked(), &format!("file {}", url(file)))
}

#[test]
fn it_alone_is_not_shown_and_comes_with_a_later_event() {
    let (world, script) = synced();
    let done = world.sync(&script, &hold()).unwrap();
    assert_eq!((done.label.to_string().as_str(), lacking(&done)), ("8", vec![ALPHA_2.0]));
    shows(&world, "8 Alpha:8 beta:7", "1", (1, 2));
    assert_eq!(asked_for(&script, ALPHA_2.0), 1);
    // It is not asked for again as long as nothing happens, and does not stand in the way of what does.
    let done = world.sync(&script, &hold()).unwrap();
    assert_eq!((done.changed, lacking(&done)), (0, vec![ALPHA_2.0]));
    assert_eq!(asked_for(&script, ALPHA_2.0), 0);
    script.publish("Alpha", Some(9), "1 2 3", &[ALPHA_1, ALPHA_2, ALPHA_3]);
    script.files(&url(ALPHA_2.0), [Body::Fail(status(404))]);
    script.log([event(9, "Alpha", add(ALPHA_3.0))]);
    let patient = Settings { hold_after: Duration::from_secs(10 << 30), ..hold() };
    let done = world.sync(&script, &patient).unwrap();
    assert_eq!((done.label.to_string().as_str(), lacking(&done)), ("9", vec![ALPHA_2.0]));
    shows(&world, "9 Alpha:9 beta:7", "1 3", (2, 3));
    assert_eq!(asked_for(&script, ALPHA_2.0), 1);

    // Wrong bytes are no better than none.
    script.files(&url(ALPHA_2.0), [Body::Bytes(b"omega 2")]);
    script.log([event(10, "Alpha", Action::Unknown)]);
    script.pages("Alpha", [reply(10, &[ALPHA_1, ALPHA_2, ALPHA_3])]);
    assert_eq!(lacking(&world.sync(&script, &patient).unwrap()), [ALPHA_2.0]);
    script.files(&url(ALPHA_2.0), [Body::Bytes(ALPHA_2.1)]);
    script.log([event(11, "Alpha", Action::Unknown)]);
    script.pages("Alpha", [reply(11, &[ALPHA_1, ALPHA_2, ALPHA_3])]);
    assert_eq!(lacking(&world.sync(&script, &patient).unwrap()), [""; 0]);
    shows(&world, "11 Alpha:11 beta:7", "1 2 3", (3, 3));
}

fn reply(number: u64, files: &[(&str, &[u8])]) -> crate::support::script::Reply {
    let page = crate::support::script::page("Alpha", Some(number), "1 2 3", files);
    crate::support::script::Reply::Page(page, None)
}

#[test]
fn the_sweep_brings_it_in_a_revision() {
    let (world, script) = synced();
    let sync = |days: i64| {
        let time = Timestamp::from_seconds(now().seconds() + days * 86_400).unwrap();
        sync_store_at(&world.open(), &script, &hold(), time).unwrap()
    };
    sync(0);
    assert_eq!(sync(7).label.to_string(), "8", "it is not there yet");
    assert_eq!(asked_for(&script, ALPHA_2.0), 2);
    script.files(&url(ALPHA_2.0), [Body::Bytes(ALPHA_2.1)]);
    let done = sync(14);
    assert_eq!((done.label.to_string().as_str(), lacking(&done)), ("8.2", vec![]));
    shows(&world, "8 Alpha:8 beta:7", "1 2", (2, 2));
}

#[test]
fn where_a_broken_project_stops_everything_it_is_waited_for() {
    let (world, script) = synced();
    script.log([event(9, "beta", None)]);
    let patient = Settings { hold_after: Duration::from_secs(10 << 30), on_broken: OnBroken::Freeze, ..hold() };
    let names = in_the_way(world.sync(&script, &patient));
    assert!(names[&name("alpha")].contains("alpha-2.tar.gz"), "{names:?}");
    assert_eq!(world.labels(), ["7"]);
    let freeze = Settings { on_broken: OnBroken::Freeze, ..hold() };
    assert!(matches!(world.sync(&script, &freeze), Err(SyncError::Inconsistent { .. })));
    assert_eq!(world.labels(), ["7"]);
    assert_eq!(lacking(&world.sync(&script, &hold()).unwrap()), [ALPHA_2.0]);
    shows(&world, "9 Alpha:8 beta:9", "1", (1, 2));
}

#[test]
fn a_file_that_the_log_takes_away_is_lacking_no_more() {
    let (world, script) = synced();
    world.sync(&script, &hold()).unwrap();
    // Also where no page says so.
    script.log([event(9, "Alpha", Action::RemoveFile(ALPHA_2.0.to_owned()))]);
    assert_eq!(lacking(&world.sync(&script, &hold()).unwrap()), [""; 0]);
    shows(&world, "9 Alpha:9 beta:7", "1", (1, 1));
}

#[test]
fn a_project_of_which_no_file_can_be_had_is_held() {
    let (world, script) = synced();
    script.files(&url(ALPHA_3.0), [Body::Fail(status(404))]);
    script.pages("Alpha", [reply(9, &[ALPHA_2, ALPHA_3])]);
    script.log([event(9, "Alpha", Action::Unknown)]);
    for _ in 0..2 {
        let done = world.sync(&script, &hold()).unwrap();
        assert_eq!(
            done.held.iter().map(|held| (held.reason, held.at.get())).collect::<Vec<_>>(),
            [(HoldReason::FileMissing, 5)]
        );
        assert_eq!((done.lacking, world.list().as_str()), (vec![], "9 Alpha:5 beta:7"));
    }
    // One of them is enough.
    script.files(&url(ALPHA_3.0), [Body::Bytes(ALPHA_3.1)]);
    assert_eq!(lacking(&world.sync(&script, &hold()).unwrap()), [ALPHA_2.0]);
    shows(&world, "9 Alpha:9 beta:7", "1 3", (1, 2));
}

#[test]
fn a_first_sync_and_a_page_that_is_remembered_go_without_it() {
    let (_, script) = synced();
    let world = World::new();
    assert_eq!(lacking(&world.sync(&script, &hold()).unwrap()), [ALPHA_2.0]);
    shows(&world, "8 Alpha:8 beta:7", "1", (1, 2));
    // Alpha moves on past the serial that beta lets the sync reach, so its page is remembered.
    script.pages("Alpha", [reply(10, &[ALPHA_1, ALPHA_2, ALPHA_3])]);
    script.files(&url(ALPHA_3.0), [Body::Bytes(ALPHA_3.1)]);
    let young = strandline_sync::upstream::Event { time: now(), ..event(9, "beta", add("beta-2.tar.gz")) };
    script.log([young, event(10, "Alpha", add(ALPHA_3.0))]);
    in_the_way(world.sync(&script, &hold()));
    script.log([event(11, "beta", Action::RemoveProject)]);
    assert_eq!(lacking(&world.sync(&script, &hold()).unwrap()), [ALPHA_2.0]);
    assert_eq!(world.list(), "11 Alpha:10");
}
