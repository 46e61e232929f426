//! A page that lacks most of its project's files, although no row of the log says that they went, is believed only when looks
//! `hold-after` apart agree.

use std::sync::Arc;
use std::time::Duration;

use strandline_faultkit::{World, invariants, mirror, now};
use strandline_model::{HoldReason, Timestamp};
use strandline_sync::cut::Action;
use strandline_sync::{Method, OnBroken, Outcome, Settings, SyncError};

use crate::support::script::{Reply, Script, add, changed, event, page, serial, status, two};
use crate::support::{Syncs as _, settings, sync_store_at};

const FILES: [(&str, &[u8]); 4] = [
    ("alpha-1.tar.gz", b"alpha 1"),
    ("alpha-2.tar.gz", b"alpha 2"),
    ("alpha-3.tar.gz", b"alpha 3"),
    ("alpha-4.tar.gz", b"alpha 4"),
];

/// Seconds: longer than `hold-after`, which is ten minutes.
const LONG: i64 = 601;
/// Seconds: a day, in which a seventh of all pages is swept.
const DAY: i64 = 86_400;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(now().seconds() + seconds).unwrap()
}

struct Mirror {
    world: World,
    script: Arc<Script>,
    settings: Settings,
}

impl Mirror {
    /// A mirror of alpha, with three files, and of beta. It is at serial 7.
    fn new(method: Method) -> Self {
        let (world, script) = (World::new(), Arc::new(Script::new()));
        let settings = Settings { method: Some(method), ..settings(&["Alpha", "beta"]) };
        let mirror = Self { world, script, settings };
        mirror.shows(5, &[0, 1, 2]);
        mirror.script.publish("beta", Some(7), "1", &[]);
        mirror.script.log([event(5, "Alpha", add(FILES[0].0)), event(7, "beta", two(Action::NewRelease))]);
        mirror.sync(0);
        mirror.sync(0);
        mirror
    }

    /// From now on the page of alpha has these files.
    fn shows(&self, number: u64, files: &[usize]) {
        let files: Vec<_> = files.iter().map(|file| FILES[*file]).collect();
        self.script.publish("Alpha", Some(number), "1", &files);
    }

    fn try_sync(&self, seconds: i64) -> Result<Outcome, SyncError> {
        sync_store_at(&self.world.open(), &self.script, &self.settings, at(seconds))
    }

    fn sync(&self, seconds: i64) -> Outcome {
        let done = self.try_sync(seconds).unwrap();
        invariants::check(&self.world.root(), &self.world.open(), &mirror()).unwrap();
        done
    }

    /// Why alpha is held, and which of its files readers get.
    fn stands(&self) -> (Option<HoldReason>, Vec<usize>) {
        let page = self.world.served("simple/alpha/index.v1_json").unwrap();
        let shown = (0..FILES.len()).filter(|file| page.contains(FILES[*file].0)).collect();
        (self.world.latest().snapshot.held.first().map(|held| held.reason), shown)
    }
}

const HELD: Option<HoldReason> = Some(HoldReason::PageShrunk);

#[test]
fn a_page_with_one_of_three_files_is_held_and_then_taken() {
    for method in [Method::Collect, Method::Changelog] {
        let mirror = Mirror::new(method);
        mirror.shows(5, &[0]);
        for seconds in [8 * DAY, 8 * DAY + 60, 8 * DAY + 599] {
            let done = mirror.sync(seconds);
            assert_eq!((done.held[0].at, done.held[0].since), (serial(5), at(8 * DAY)), "{method}");
            assert_eq!(mirror.stands(), (HELD, vec![0, 1, 2]), "{method} after {seconds} s");
        }
        mirror.sync(8 * DAY + LONG);
        assert_eq!(mirror.stands(), (None, vec![0]), "{method}");
        assert_eq!(mirror.world.leaf("alpha").unwrap().logged, method == Method::Collect);
        assert_eq!(mirror.sync(8 * DAY + LONG + 1).changed, 0);
        let open = mirror.world.open().mirror(&strandline_faultkit::mirror()).unwrap().unwrap();
        assert_eq!(open.sights().unwrap().iter().count(), 0, "nothing is looked at any more");
    }
}

#[test]
fn a_page_that_is_whole_again_was_never_believed() {
    for method in [Method::Collect, Method::Changelog] {
        let mirror = Mirror::new(method);
        // Each look but the last disagrees with the one before.
        for (seconds, files, held, shown) in [
            (8 * DAY, &[0][..], HELD, vec![0, 1, 2]),
            (9 * DAY, &[1], HELD, vec![0, 1, 2]),
            (10 * DAY, &[], HELD, vec![0, 1, 2]),
            (11 * DAY, &[0, 1, 2], None, vec![0, 1, 2]),
            (19 * DAY, &[], HELD, vec![0, 1, 2]),
            (20 * DAY, &[], None, vec![]),
        ] {
            mirror.shows(5, files);
            mirror.sync(seconds);
            assert_eq!(mirror.stands(), (held, shown), "{method} after {seconds} s");
        }
    }
}

/// Between looks that agree, an answer that is none says nothing either way.
#[test]
fn a_page_that_cannot_be_had_in_between_changes_nothing() {
    for method in [Method::Collect, Method::Changelog] {
        let mirror = Mirror::new(method);
        mirror.shows(5, &[0]);
        mirror.sync(8 * DAY);
        mirror.script.pages("Alpha", [Reply::Fail(status(403))]);
        let done = mirror.sync(8 * DAY + 60);
        assert_eq!((done.held.len(), mirror.stands().1), (1, vec![0, 1, 2]), "{method}");
        mirror.shows(5, &[0]);
        mirror.sync(8 * DAY + LONG);
        assert_eq!(mirror.stands(), (None, vec![0]), "{method}");
    }
}

#[test]
fn the_loss_of_half_is_no_reason_to_hold() {
    for method in [Method::Collect, Method::Changelog] {
        let mirror = Mirror::new(method);
        mirror.shows(5, &[0, 2]);
        mirror.sync(8 * DAY);
        assert_eq!(mirror.stands(), (None, vec![0, 2]), "{method}");
        mirror.shows(5, &[2]);
        mirror.sync(16 * DAY);
        assert_eq!(mirror.stands(), (None, vec![2]), "{method}");
    }
}

/// An index may keep only its newest files.
#[test]
fn as_many_other_files_are_no_loss() {
    let mirror = Mirror::new(Method::Collect);
    for files in [&[1, 3][..], &[0], &[2]] {
        mirror.shows(5, files);
        mirror.sync(60);
        assert_eq!(mirror.stands(), (None, files.to_vec()));
    }
}

#[test]
fn an_event_that_explains_nothing_does_not_let_the_loss_pass() {
    let mirror = Mirror::new(Method::Changelog);
    mirror.script.log([event(8, "Alpha", add(FILES[3].0)), event(9, "beta", two(Action::UnyankRelease))]);
    mirror.shows(8, &[3]);
    mirror.script.publish("beta", Some(9), "1 2", &[]);
    // The page is asked for twice, because a cache may have answered, and then it keeps nothing from the others.
    let done = mirror.sync(60);
    assert_eq!((done.label.to_string(), done.held[0].needs), ("9".to_owned(), serial(8)));
    assert_eq!(mirror.stands(), (HELD, vec![0, 1, 2]));
    assert_eq!(mirror.world.version("beta").unwrap(), "1 2");
    mirror.sync(60 + LONG);
    assert_eq!(mirror.stands(), (None, vec![3]));
    assert!(!mirror.world.leaf("alpha").unwrap().logged);
}

#[test]
fn one_bad_answer_beside_a_good_one_costs_nothing() {
    let mirror = Mirror::new(Method::Changelog);
    mirror.script.log([event(8, "Alpha", add(FILES[3].0))]);
    mirror.shows(8, &[0, 1, 2, 3]);
    let whole = page("Alpha", Some(8), "1", &FILES);
    let torn = page("Alpha", Some(8), "1", &FILES[3..]);
    mirror.script.pages("Alpha", [Reply::Page(torn, None), Reply::Page(whole, None)]);
    mirror.sync(60);
    assert_eq!(mirror.stands(), (None, vec![0, 1, 2, 3]));
}

#[test]
fn what_the_log_reports_is_not_waited_for() {
    let removed = |number, file: usize| event(number, "Alpha", Action::RemoveFile(FILES[file].0.to_owned()));
    for (rows, shown) in [
        (vec![removed(8, 1), removed(9, 2)], vec![0]),
        (vec![event(8, "Alpha", Action::RemoveRelease("2".to_owned())), removed(9, 2)], vec![0]),
        (vec![event(9, "Alpha", Action::Unknown)], vec![2]),
    ] {
        let mirror = Mirror::new(Method::Changelog);
        mirror.script.log(rows.clone());
        mirror.shows(9, &shown);
        mirror.sync(60);
        assert_eq!(mirror.stands(), (None, shown), "{rows:?}");
        assert!(mirror.world.leaf("alpha").unwrap().logged);
    }
}

#[test]
fn a_quarantine_is_not_waited_for() {
    for method in [Method::Collect, Method::Changelog] {
        let mirror = Mirror::new(method);
        let page = changed(page("Alpha", Some(8), "1", &[]), |told, _| told.quarantined = true);
        mirror.script.pages("Alpha", [Reply::Page(page, None)]);
        mirror.script.log([event(8, "Alpha", Action::QuarantineProject)]);
        assert_eq!(mirror.sync(60).held, []);
        assert_eq!(mirror.stands(), (None, vec![]), "{method}");
    }
}

#[test]
fn an_operator_may_believe_it_at_once_or_freeze_the_mirror() {
    for method in [Method::Collect, Method::Changelog] {
        let mut mirror = Mirror::new(method);
        mirror.script.log([event(8, "Alpha", add(FILES[3].0))]);
        mirror.shows(8, &[3]);
        (mirror.settings.on_broken, mirror.settings.cut_timeout) = (OnBroken::Freeze, Duration::ZERO);
        for seconds in [60, 61] {
            let refused = mirror.try_sync(seconds);
            assert!(matches!(refused, Err(SyncError::Inconsistent { .. })), "{refused:?}");
            assert_eq!(mirror.stands(), (None, vec![0, 1, 2]), "{method}");
        }
        mirror.settings.accept_drop = true;
        mirror.sync(62);
        assert_eq!(mirror.stands(), (None, vec![3]), "{method}");
    }
}
