//! Where upstream's log ends: an answer that may have been cut off, or that ends before upstream's last serial, is not the end.

use std::sync::Arc;

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
