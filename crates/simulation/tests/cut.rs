//! The rule of the cut against a moving upstream, simulated: no I/O, a clock of its own, everything from a seed.
//!
//! Whatever is recorded has to equal upstream's state at that serial, field by field; and each part of the rule that is
//! left out has to show in a state that does not.

#![cfg(test)]

use std::time::Duration;

use proptest::prelude::*;
use strandline_simulation::{Weather, run, run_all, run_to_rest};
use strandline_sync::cut::Rule;

prop_compose! {
    /// Half a minute of any weather.
    fn any_weather()(
        projects in 5_usize..60,
        events_per_second in 0.2_f64..20.0,
        stale in 0_u64..20,
        label_below in 0.0_f64..0.5,
        late_chance in 0.0_f64..0.2,
        late in 0_u64..4,
        pages_per_second in 10_u32..200,
        hold in prop_oneof![Just(0.0), 0.0_f64..0.2],
    ) -> Weather {
        Weather {
            projects, events_per_second, label_below, pages_per_second, hold,
            stale: Duration::from_secs(stale),
            late: (late_chance, Duration::from_secs(late)),
            seconds: 30,
            ..Weather::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_recorded_is_upstreams_state_at_that_serial(
        seed in any::<u64>(),
        weather in any_weather(),
    ) {
        let ran = run(seed, weather);
        prop_assert!(ran.wrong.is_empty(), "{} wrong, the first: {}", ran.wrong.len(), ran.wrong[0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// A mirror that followed, and one that begins at the end and reads every page, were told the same: also where upstream
    /// changes pages without an event.
    #[test]
    fn what_is_told_is_the_same_for_one_that_followed_and_one_that_reads_the_last_pages(
        seed in any::<u64>(),
        weather in any_weather(),
    ) {
        let ran = run_to_rest(seed, Weather { everything: true, ..weather });
        prop_assert!(ran.wrong.is_empty(), "{} wrong, the first: {}", ran.wrong.len(), ran.wrong[0]);
    }
}

#[test]
fn it_publishes_behind_a_stale_cache() {
    let busy = Weather { events_per_second: 20.0, projects: 400, pages_per_second: 200, ..Weather::default() };
    let (published, wrong) = run_all(busy, 3);
    assert!(wrong.is_empty(), "{} wrong, the first: {}", wrong.len(), wrong[0]);
    assert!(published >= 30, "{published} in 3 minutes");
}

/// Cells of the table of `docs/liveness.md`, of which `scripts/liveness` makes the whole.
#[test]
fn the_lag_is_near_the_caches_age_and_does_not_grow_with_the_rate() {
    for stale in [0, 5] {
        let medians = [1.0, 10.0].map(|events_per_second| {
            let weather = Weather {
                events_per_second,
                stale: Duration::from_secs(stale),
                one_cache: true,
                projects: 2_000,
                past: 1,
                pages_per_second: 200,
                patience: Duration::from_secs(60),
                check_every: 10,
                seconds: 240,
                ..Weather::default()
            };
            let ran = run(1, weather);
            assert!(ran.wrong.is_empty(), "{} wrong, the first: {}", ran.wrong.len(), ran.wrong[0]);
            assert!(ran.published >= 30, "{} serials in 4 minutes, behind a cache of {stale} s", ran.published);
            let mut lags = ran.lags;
            lags.sort_by(f64::total_cmp);
            lags[lags.len() / 2]
        });
        let most = Duration::from_secs(2 * stale + 5).as_secs_f64();
        assert!(medians.iter().all(|median| *median <= most), "{medians:?} s behind a cache of {stale} s");
    }
}

#[test]
fn without_the_bodys_serial_it_goes_wrong() {
    let rule = Rule { body_serial: false, ..Rule::WHOLE };
    let (_, wrong) = run_all(Weather { rule, ..Weather::default() }, 5);
    assert!(!wrong.is_empty());
}

#[test]
fn without_the_quiet_condition_it_goes_wrong() {
    let rule = Rule { quiet: false, ..Rule::WHOLE };
    let (_, wrong) = run_all(Weather { rule, ..Weather::default() }, 5);
    assert!(!wrong.is_empty());
}

#[test]
fn without_the_later_read_of_the_log_it_goes_wrong() {
    let weather = Weather {
        stale: Duration::from_millis(200),
        projects: 20,
        events_per_second: 20.0,
        pages_per_second: 20,
        ..Weather::default()
    };
    let (_, wrong) = run_all(weather, 5);
    assert!(wrong.is_empty(), "{} wrong, the first: {}", wrong.len(), wrong[0]);
    let (_, wrong) = run_all(Weather { later_read: false, ..weather }, 5);
    assert!(!wrong.is_empty());
}

#[test]
fn without_what_a_held_project_needs_it_goes_wrong() {
    let weather = Weather { hold: 0.3, stale: Duration::from_secs(15), label_below: 0.0, ..Weather::default() };
    assert!(run(1, weather).holds > 0, "nothing was held, so the test shows nothing");
    let (_, wrong) = run_all(weather, 5);
    assert!(wrong.is_empty(), "{} wrong, the first: {}", wrong.len(), wrong[0]);
    let rule = Rule { known_need: false, ..Rule::WHOLE };
    let (_, wrong) = run_all(Weather { rule, ..weather }, 5);
    assert!(!wrong.is_empty());
}
