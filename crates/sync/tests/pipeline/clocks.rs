//! Clocks that are ahead, upstream's or this machine's: nothing waits for a date in the future.

use std::sync::Arc;
use std::time::Duration;

use strandline_faultkit::{World, invariants, mirror, now};
use strandline_model::{HoldReason, Timestamp};
use strandline_sync::cut::Action;
use strandline_sync::upstream::Event;
use strandline_sync::{Method, Outcome, Settings};

use crate::support::script::{Body, Reply, Script, add, changed, event, page, serial, status, two, url};
use crate::support::{Syncs as _, settings, sync_store_at};

const ONE: (&str, &[u8]) = ("alpha-1.tar.gz", b"alpha 1");
const TWO: (&str, &[u8]) = ("alpha-2.tar.gz", b"alpha 2");
const MINUTE: i64 = 60;
const DAY: i64 = 86_400;
const YEAR: i64 = 365 * DAY;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(now().seconds() + seconds).unwrap()
}

struct Mirror {
    world: World,
    script: Arc<Script>,
    settings: Settings,
}

impl Mirror {
    /// A mirror of alpha, with a file, and of beta, at serial 7. Its syncs wait for nothing.
    fn new(method: Method) -> Self {
        let (world, script) = (World::new(), Arc::new(Script::new()));
        let settings = Settings { method: Some(method), cut_timeout: Duration::ZERO, ..settings(&["Alpha", "beta"]) };
        script.publish("Alpha", Some(5), "1", &[ONE]);
        script.publish("beta", Some(7), "1", &[]);
        script.log([event(5, "Alpha", add(ONE.0)), event(7, "beta", two(Action::NewRelease))]);
        let mirror = Self { world, script, settings };
        mirror.sync(0);
        mirror.sync(0);
        mirror
    }

    /// A sync when this machine's clock is so far from where it began.
    fn sync(&self, seconds: i64) -> Outcome {
        let done = sync_store_at(&self.world.open(), &self.script, &self.settings, at(seconds)).unwrap();
        invariants::check(&self.world.root(), &self.world.open(), &mirror()).unwrap();
        done
    }

    fn label(&self, seconds: i64) -> String {
        self.sync(seconds).label.to_string()
    }
}

/// An event at some time of upstream's clock.
fn on(seconds: i64, number: u64, project: &str, change: impl Into<Option<Action>>) -> Event {
    Event { time: at(seconds), ..event(number, project, change) }
}

#[test]
fn holes_before_rows_that_are_dated_ahead_are_believed_by_our_own_clock() {
    for ahead in [MINUTE, DAY, 100 * YEAR] {
        let mirror = Mirror::new(Method::Changelog);
        // 8, 10 and 12 are missing.
        let rows = [9, 11, 13].map(|number| on(ahead, number, "beta", two(Action::NewRelease)));
        mirror.script.log(rows);
        mirror.script.publish("beta", Some(13), "1 2", &[]);
        assert_eq!((mirror.label(0), mirror.label(10)), ("7".to_owned(), "7".to_owned()), "{ahead} s ahead");
        assert_eq!(mirror.label(11), "13", "{ahead} s ahead");
    }
}

#[test]
fn a_row_that_comes_to_light_in_such_a_hole_is_taken() {
    let mirror = Mirror::new(Method::Changelog);
    mirror.script.log([on(DAY, 10, "beta", two(Action::NewRelease))]);
    mirror.script.publish("beta", Some(10), "1 2", &[]);
    assert_eq!(mirror.label(0), "7");
    mirror.script.insert([on(DAY, 8, "Alpha", add(TWO.0))]);
    mirror.script.publish("Alpha", Some(8), "1 2", &[ONE, TWO]);
    // 9 was missing beside 8, and is the first that is missing only now.
    assert_eq!(mirror.label(9), "8");
    assert_eq!(mirror.world.version("alpha").unwrap(), "1 2");
    assert_eq!((mirror.label(19), mirror.label(20)), ("8".to_owned(), "10".to_owned()));
}

#[test]
fn a_project_whose_event_is_dated_ahead_is_held_after_as_long_as_any_other() {
    let mirror = Mirror::new(Method::Changelog);
    mirror.script.log([on(DAY, 8, "Alpha", add(TWO.0)), on(DAY, 9, "beta", two(Action::NewRelease))]);
    mirror.script.pages("Alpha", [Reply::Missing]);
    mirror.script.publish("beta", Some(9), "1 2", &[]);
    for seconds in [0, 5 * MINUTE, 10 * MINUTE - 1] {
        let refused = sync_store_at(&mirror.world.open(), &mirror.script, &mirror.settings, at(seconds));
        assert!(refused.is_err(), "{refused:?}");
    }
    let done = mirror.sync(10 * MINUTE);
    assert_eq!((done.label.to_string(), done.held[0].since, done.held[0].needs), ("9".to_owned(), at(0), serial(8)));
    assert_eq!(mirror.world.version("beta").unwrap(), "1 2");
}

#[test]
fn a_file_that_cannot_be_had_holds_its_project_no_longer_because_its_event_is_dated_ahead() {
    let mirror = Mirror::new(Method::Changelog);
    mirror.script.log([on(YEAR, 8, "Alpha", add(TWO.0))]);
    mirror.script.publish("Alpha", Some(8), "1 2", &[ONE, TWO]);
    mirror.script.files(&url(TWO.0), [Body::Fail(status(404))]);
    assert_eq!(mirror.sync(0).held[0].reason, HoldReason::FileMissing);
    assert_eq!(mirror.sync(5 * MINUTE).held[0].since, at(0));
    let done = mirror.sync(10 * MINUTE);
    assert_eq!((done.held.len(), done.lacking.len()), (0, 1));
}

#[test]
fn a_hold_that_began_when_our_clock_was_ahead_ends() {
    let mirror = Mirror::new(Method::Collect);
    mirror.script.publish("Alpha", Some(8), "1 2", &[ONE, TWO]);
    mirror.script.files(&url(TWO.0), [Body::Fail(status(404))]);
    assert_eq!(mirror.sync(YEAR).held[0].since, at(YEAR));
    assert_eq!(mirror.sync(0).held[0].since, at(0));
    assert_eq!(mirror.sync(10 * MINUTE - 1).held.len(), 1);
    assert_eq!(mirror.sync(10 * MINUTE).held.len(), 0);
}

#[test]
fn the_sweep_goes_on_after_our_clock_was_ahead() {
    let mirror = Mirror::new(Method::Changelog);
    mirror.sync(YEAR);
    let archived = changed(page("Alpha", Some(5), "1", &[ONE]), |_, seen| seen.status_reason = Some("old".to_owned()));
    mirror.script.pages("Alpha", [Reply::Page(archived, None)]);
    assert_eq!((mirror.label(0), mirror.label(MINUTE)), ("7".to_owned(), "7".to_owned()));
    assert_eq!(mirror.label(7 * DAY), "7.2");
}

/// Until the clock is right again, a sync goes on as well.
#[test]
fn a_sync_with_a_clock_that_is_behind_follows_all_the_same() {
    for behind in [MINUTE, YEAR] {
        let mirror = Mirror::new(Method::Changelog);
        mirror.script.log([on(0, 8, "Alpha", add(TWO.0))]);
        mirror.script.publish("Alpha", Some(8), "1 2", &[ONE, TWO]);
        assert_eq!(mirror.label(-behind), "8", "{behind} s behind");
        mirror.script.log([on(0, 9, "beta", two(Action::NewRelease))]);
        mirror.script.publish("beta", Some(9), "1 2", &[]);
        assert_eq!(mirror.label(0), "9", "{behind} s behind");
    }
}
