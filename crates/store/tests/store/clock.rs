//! The clock was ahead once and is right again: what was remembered then is not waited for until that time comes.

use std::time::Duration;

use strandline_model::Timestamp;
use strandline_store::gc::{Keep, collect};
use strandline_store::verify::{Data, verify};
use strandline_store::{LastSync, Wait};

use crate::support::{Opened, content, mirror, time};

const LAST_ONE: Keep = Keep { last: 1, daily: 0, weekly: 0 };
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: i64 = 365 * 86_400;

/// Two snapshots, of which the second alone is to be kept.
fn recorded() -> Opened {
    let world = Opened::new();
    for (serial, text) in [(1, "one"), (2, "two")] {
        world.record("pypi", serial, &[("six", Some(content("six", text, &[])))]);
    }
    world
}

#[test]
fn what_was_condemned_goes_when_the_grace_is_over_by_the_clock_that_is_right() {
    for ahead in [HOUR.as_secs().cast_signed(), YEAR, 1_000 * YEAR] {
        let world = recorded();
        let deleted = |seconds| collect(&world.store, |_| LAST_ONE, HOUR, time(seconds)).unwrap().deleted;
        assert_eq!([deleted(ahead), deleted(0), deleted(3599), deleted(3600)], [0, 0, 0, 1], "{ahead} s ahead");
    }
}

#[test]
fn what_was_checked_then_counts_as_not_checked() {
    let world = recorded();
    let rehashed = |seconds| {
        let data = Data { now: Some(time(seconds)), max_age: Some(HOUR), ..Data::default() };
        verify(&world.store, &[world.mirror("pypi")], Some(&data), &|_| {}).unwrap().rehashed
    };
    assert_eq!([rehashed(YEAR), rehashed(0), rehashed(60), rehashed(3600)], [2, 2, 0, 2]);
}

#[test]
fn what_a_mirror_remembers_is_put_right() {
    let world = recorded();
    let lock = |seconds| {
        world.store.settle_times(time(seconds)).unwrap();
        world.store.lock(&mirror("pypi"), Wait::Never, time(seconds)).unwrap()
    };
    let six = [("six".parse().unwrap())].into();
    {
        let locked = lock(YEAR);
        locked.record_sweep("six", time(YEAR)).unwrap();
        locked.note_unlogged(&six, time(YEAR)).unwrap();
        locked.record_sync(&LastSync { time: time(YEAR), failure: None, cut: None }).unwrap();
    }
    // A process that has asked the clock a moment later is not ahead.
    let times = |at: i64| {
        let locked = lock(at);
        let unlogged = locked.unlogged_since(&"six".parse().unwrap()).unwrap();
        [locked.last_sync().unwrap().map(|last| last.time), unlogged, Some(locked.sweep(time(at)).unwrap().1)]
    };
    assert_eq!(times(YEAR - 60), [Some(time(YEAR)); 3]);
    assert_eq!(times(100), [Some(time(100)); 3]);
    assert_eq!(times(200), [Some(time(100)); 3], "they are remembered so");
    // Before the first snapshot, it is the clock of now that is wrong.
    assert_eq!(times(-YEAR), [Some(time(100)); 3]);
}

#[test]
fn the_last_second_that_can_be_written_is_no_panic() {
    let world = recorded();
    world.store.settle_times(Timestamp::LAST).unwrap();
    assert_eq!(collect(&world.store, |_| LAST_ONE, HOUR, Timestamp::LAST).unwrap().condemned, 1);
}
