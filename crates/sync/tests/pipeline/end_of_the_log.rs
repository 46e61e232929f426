//! Where upstream's log ends: an answer that may have been cut off, or that ends before upstream's last serial, is not the end.

use std::sync::Arc;
use std::time::Duration;

use strandline_faultkit::{World, now};
use strandline_model::Timestamp;
use strandline_sync::cut::Action;
use strandline_sync::{Method, Settings, SyncError};

use crate::support::script::{Script, event, two};
use crate::support::{Syncs as _, settings, sync_store_at};

fn following(names: &[&str]) -> Settings {
    Settings { method: Some(Method::Changelog), ..settings(names) }
}

/// A mirror at serial `last` of an index whose log has a row for each serial.
fn at_the_end_of(last: u64) -> (World, Arc<Script>) {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    script.publish("beta", Some(1), "1", &[]);
    script.log((1..=last).map(|number| event(number, "beta", (number == 1).then_some(Action::Create))));
    assert_eq!(world.sync(&script, &following(&["beta"])).unwrap().label.serial.get(), last);
    script.asked();
    (world, script)
}

#[test]
fn an_answer_that_was_cut_off_at_the_base_is_not_the_end_of_the_log() {
    for (last, at_once) in [(100, 100), (700, 100), (500, 500)] {
        let (world, script) = at_the_end_of(last);
        script.give_at_once(at_once);
        world.sync(&script, &following(&["beta"])).unwrap();
        script.publish("beta", Some(last + 1), "1 2", &[]);
        script.log([event(last + 1, "beta", two(Action::NewRelease))]);
        assert_eq!(world.sync(&script, &following(&["beta"])).unwrap().label.serial.get(), last + 1, "{last}");
    }
    // Elsewhere one request shows that nothing is new, as long as the base is young.
    let (world, script) = at_the_end_of(7);
    world.sync(&script, &following(&["beta"])).unwrap();
    assert_eq!(script.asked(), ["log"]);
    let store = world.open();
    let later = Timestamp::from_seconds(now().seconds() + 3_600).unwrap();
    sync_store_at(&store, &script, &following(&["beta"]), later).unwrap();
    assert_eq!(Script::count(&script.asked(), "log"), 2);
}

#[test]
fn a_log_that_ends_before_the_last_serial_is_not_nothing_new() {
    for kept in [0, 3, 7] {
        let (world, script) = at_the_end_of(7);
        script.claim_last(9);
        let log = script.take_log();
        script.log(log.into_iter().filter(|event| event.serial.get() <= kept));
        let later = Timestamp::from_seconds(now().seconds() + 3_600).unwrap();
        let refused = sync_store_at(&world.open(), &script, &following(&["beta"]), later);
        assert!(matches!(refused, Err(SyncError::LogEndsEarly { .. })), "{kept}: {refused:?}");
    }
}

#[test]
fn a_log_that_does_not_end_is_read_in_parts() {
    // Rows of people, of a project that is not selected, and of projects that upstream has no page of.
    for names in [&["beta"][..], &["gamma"], &["delta", "epsilon"]] {
        let (world, script) = at_the_end_of(7);
        let settings = Settings { cut_timeout: Duration::ZERO, ..following(&["beta", "delta", "epsilon"]) };
        world.sync(&script, &settings).unwrap();
        script.give_at_once(1);
        script.claim_last(1 << 40);
        let change = |number: u64| (names.len() == 2 && number == 8).then_some(Action::Create);
        let rows = (8..2_500).zip(names.iter().cycle());
        script.log(rows.map(|(number, name)| event(number, name, change(number))));
        let mut reached = vec![];
        for _ in 0..3 {
            script.asked();
            reached.push(world.sync(&script, &settings).unwrap().label.serial.get());
            assert!(script.asked().len() < 4_000);
        }
        assert!(reached[0] > 900 && reached[0] < 1_008 && reached[2] > 2_000, "{reached:?}");
        // A first sync has no serial that it could go on from.
        let first = World::new().sync(&script, &settings);
        assert!(matches!(first, Err(SyncError::EndlessLog { .. })), "{first:?}");
    }
}

#[test]
fn what_a_page_shows_beyond_the_part_that_is_read_is_not_believed() {
    let (world, script) = at_the_end_of(7);
    let settings = Settings { cut_timeout: Duration::ZERO, ..following(&["beta"]) };
    script.give_at_once(1);
    script.claim_last(1 << 40);
    script.publish("beta", Some(2_000), "1 2", &[("beta-2.tar.gz", b"beta 2")]);
    let add = || Action::AddFile("2".to_owned(), "beta-2.tar.gz".to_owned());
    let change = |number: u64| {
        [(9, Action::NewRelease("2".to_owned())), (2_000, add())].into_iter().find(|(at, _)| *at == number)
    };
    script.log((8..2_001).map(|number| event(number, "beta", change(number).map(|(_, action)| action))));
    // Up to there the log alone tells of the release, and no file of it.
    let done = world.sync(&script, &settings).unwrap();
    assert!(done.label.serial.get() < 1_008 && done.held.is_empty(), "{done:?}");
    assert_eq!(world.served("simple/beta/index.v1_json").unwrap().lines().count(), 3);
    assert_eq!(world.sync(&script, &settings).unwrap().label.serial.get(), 2_000);
    assert_eq!(world.served("simple/beta/index.v1_json").unwrap().lines().count(), 4);
}
