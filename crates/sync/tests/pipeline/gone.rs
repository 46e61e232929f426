//! A project without a page is gone only where upstream says so a second time: by a row, by its list, or by saying nothing else for
//! three days.

use std::sync::Arc;

use strandline_faultkit::{World, invariants, mirror, now};
use strandline_model::{HoldReason, Timestamp};
use strandline_sync::cut::Action;
use strandline_sync::{Method, Outcome, Selection, Settings};

use crate::support::script::{Reply, Script, add, event, page, serial, status, two};
use crate::support::{Syncs as _, settings, sync_store_at};

const FILE: (&str, &[u8]) = ("alpha-1.tar.gz", b"alpha 1");
const MINUTE: i64 = 60;
const DAY: i64 = 86_400;
/// When the sweep has come round.
const SWEPT: i64 = 8 * DAY;

struct Mirror {
    world: World,
    script: Arc<Script>,
    settings: Settings,
}

impl Mirror {
    /// A mirror of alpha, at serial 5, and of beta, at serial 7.
    fn new(method: Method) -> Self {
        let (world, script) = (World::new(), Arc::new(Script::new()));
        let settings = Settings { method: Some(method), ..settings(&["Alpha", "beta"]) };
        script.publish("Alpha", Some(5), "1", &[FILE]);
        script.publish("beta", Some(7), "1", &[]);
        script.log([event(5, "Alpha", two(Action::NewRelease)), event(7, "beta", two(Action::NewRelease))]);
        let mirror = Self { world, script, settings };
        mirror.sync(0);
        mirror.sync(0);
        mirror
    }

    /// From now on alpha has no page; the list may still have it.
    fn loses_alpha(&self, listed: bool) {
        self.script.pages("Alpha", [Reply::Missing]);
        if listed {
            self.script.list("Alpha", 5);
        } else {
            self.script.unlist("Alpha");
        }
    }

    fn sync(&self, seconds: i64) -> Outcome {
        let time = Timestamp::from_seconds(now().seconds() + seconds).unwrap();
        let done = sync_store_at(&self.world.open(), &self.script, &self.settings, time).unwrap();
        invariants::check(&self.world.root(), &self.world.open(), &mirror()).unwrap();
        done
    }

    /// Whether readers get alpha, why it is held, and what the snapshot says of projects that went.
    fn stands(&self) -> (bool, Option<HoldReason>, Vec<String>) {
        let snapshot = self.world.latest().snapshot;
        let gone = snapshot.gone.iter().map(|gone| format!("{} {}", gone.name, gone.serial)).collect();
        (self.world.version("alpha").is_some(), snapshot.held.first().map(|held| held.reason), gone)
    }

    /// How often the list was asked for since the last time.
    fn lists(&self) -> usize {
        Script::count(&self.script.asked(), "projects")
    }
}

const HELD: Option<HoldReason> = Some(HoldReason::PageMissing);

#[test]
fn a_page_that_is_missing_for_three_days_and_not_listed_goes() {
    let mirror = Mirror::new(Method::Changelog);
    mirror.loses_alpha(false);
    // It is held once `hold-after` has passed, and asked for in each sync.
    for (seconds, held) in [(0, None), (9 * MINUTE, None), (10 * MINUTE, HELD), (3 * DAY - 1, HELD)] {
        mirror.script.asked();
        mirror.sync(SWEPT + seconds);
        assert_eq!(mirror.stands(), (true, held, vec![]), "after {seconds} s");
        let asked = mirror.script.asked();
        assert!(asked.iter().any(|asked| asked.starts_with("page alpha")) && Script::count(&asked, "projects") == 0);
    }
    assert_eq!(mirror.sync(SWEPT + 3 * DAY).held, []);
    assert_eq!(mirror.stands(), (false, None, vec!["alpha 5".to_owned()]));
    assert!(mirror.world.leaf("alpha").is_none());
    // The line stays, until a row tells of the project again.
    mirror.script.log([event(8, "beta", two(Action::YankRelease))]);
    mirror.script.publish("beta", Some(8), "1", &[]);
    mirror.sync(SWEPT + 4 * DAY);
    assert_eq!(mirror.stands(), (false, None, vec!["alpha 5".to_owned()]));
    mirror.script.publish("Alpha", Some(9), "1", &[FILE]);
    mirror.script.log([event(9, "Alpha", Action::Create), event(10, "beta", None)]);
    mirror.sync(SWEPT + 4 * DAY);
    assert_eq!(mirror.stands(), (true, None, vec![]));
}

#[test]
fn a_page_that_was_missing_for_less_was_never_gone() {
    let mirror = Mirror::new(Method::Changelog);
    for (seconds, missing, held) in [
        (0, true, None),
        (2 * DAY, true, HELD),
        (2 * DAY + 1, false, None),
        (9 * DAY + 2, true, None),
        (11 * DAY, true, HELD),
        (12 * DAY, true, HELD),
    ] {
        if missing {
            mirror.loses_alpha(false);
        } else {
            mirror.script.publish("Alpha", Some(5), "1", &[FILE]);
        }
        mirror.sync(SWEPT + seconds);
        assert_eq!(mirror.stands(), (true, held, vec![]), "after {seconds} s");
    }
    mirror.sync(SWEPT + 12 * DAY + 2);
    assert!(!mirror.stands().0);
}

/// An answer that is none says nothing either way.
#[test]
fn a_page_that_cannot_be_asked_for_is_not_missing() {
    let mirror = Mirror::new(Method::Changelog);
    for (seconds, reply) in [
        (0, Reply::Missing),
        (DAY, Reply::Fail(status(403))),
        (2 * DAY, Reply::Missing),
        (4 * DAY, Reply::Fail(status(403))),
    ] {
        mirror.loses_alpha(false);
        mirror.script.pages("Alpha", [reply]);
        mirror.sync(SWEPT + seconds);
        assert!(mirror.stands().0, "after {seconds} s");
    }
}

#[test]
fn what_the_list_has_is_not_gone_however_long() {
    for method in [Method::Changelog, Method::Collect] {
        let mirror = Mirror::new(method);
        mirror.loses_alpha(true);
        for seconds in [0, DAY, 2 * DAY] {
            mirror.sync(SWEPT + seconds);
        }
        mirror.lists();
        for (seconds, asked) in [(3 * DAY, 1), (3 * DAY + MINUTE, 0), (7 * DAY, 1)] {
            mirror.sync(SWEPT + seconds);
            assert_eq!(mirror.stands(), (true, HELD, vec![]), "{method} after {seconds} s");
            assert_eq!(mirror.lists(), asked, "{method} after {seconds} s");
        }
        // It comes back as it was.
        mirror.script.publish("Alpha", Some(5), "1", &[FILE]);
        mirror.sync(SWEPT + 8 * DAY);
        assert_eq!(mirror.stands(), (true, None, vec![]), "{method}");
    }
}

#[test]
fn a_row_that_is_not_understood_and_a_list_without_the_project_are_believed_at_once() {
    let mirror = Mirror::new(Method::Changelog);
    mirror.loses_alpha(false);
    mirror.script.log([event(8, "Alpha", Action::Unknown)]);
    assert_eq!(mirror.sync(MINUTE).label.to_string(), "8");
    // The row says it, so it is not gone without one.
    assert_eq!(mirror.stands(), (false, None, vec![]));
}

#[test]
fn a_row_that_is_not_understood_leads_to_the_page() {
    let mirror = Mirror::new(Method::Changelog);
    mirror.script.log([event(8, "Alpha", Action::Unknown)]);
    mirror.script.pages("Alpha", [Reply::Page(page("Alpha", Some(8), "2", &[FILE]), None)]);
    mirror.sync(MINUTE);
    assert_eq!(mirror.world.version("alpha").unwrap(), "2");

    // Where the list has the project, it is waited for, and the list is asked again after `hold-after`.
    mirror.script.log([event(9, "Alpha", Action::Unknown)]);
    mirror.loses_alpha(true);
    mirror.lists();
    for (seconds, asked) in [(DAY, 1), (DAY + MINUTE, 0), (DAY + 11 * MINUTE, 1)] {
        assert_eq!(mirror.sync(seconds).held[0].needs, serial(9));
        assert_eq!((mirror.stands(), mirror.lists()), ((true, HELD, vec![]), asked), "after {seconds} s");
    }
    mirror.script.unlist("Alpha");
    mirror.sync(DAY + 22 * MINUTE);
    assert_eq!(mirror.stands(), (false, None, vec![]));
}

#[test]
fn a_project_that_never_had_a_page_goes_as_well() {
    let mirror = Mirror::new(Method::Changelog);
    let settings = Settings { selection: Selection::Everything, ..mirror.settings.clone() };
    let mirror = Mirror { settings, ..mirror };
    mirror.sync(0);
    mirror.script.log([event(8, "gamma", add("gamma-2.tar.gz"))]);
    let day = 10 * DAY;
    assert_eq!(mirror.sync(day).held[0].reason, HoldReason::PageMissing);
    mirror.sync(day + 2 * DAY);
    assert_eq!(mirror.sync(day + 3 * DAY).held, []);
    assert_eq!(mirror.stands(), (true, None, vec!["gamma 8".to_owned()]));
}

/// An index that answers 404 to everything says something about itself.
#[test]
fn where_most_pages_are_missing_at_once_no_project_is_in_doubt() {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    for number in 1..=20 {
        let name = format!("p{number:02}");
        script.publish(&name, Some(number), "1", &[]);
        script.log([event(number, &name, Action::Create)]);
    }
    let (selection, method) = (Selection::Everything, Some(Method::Changelog));
    let mirror = Mirror { world, script, settings: Settings { selection, method, ..settings(&[]) } };
    mirror.sync(0);
    mirror.sync(0);
    for (seconds, missing, held) in [(SWEPT, 1..=20, 0), (2 * SWEPT, 1..=11, 0), (3 * SWEPT, 1..=10, 10)] {
        for number in 1..=20 {
            let name = format!("p{number:02}");
            script_page(&mirror.script, &name, number, missing.contains(&number));
        }
        mirror.sync(seconds);
        assert_eq!(mirror.sync(seconds + 20 * MINUTE).held.len(), held, "after {seconds} s");
    }
}

/// From now on a project has its page, or has none.
fn script_page(script: &Script, name: &str, number: u64, missing: bool) {
    if missing {
        script.pages(name, [Reply::Missing]);
    } else {
        script.publish(name, Some(number), "1", &[]);
    }
}

/// An index may show nothing at all of what it has quarantined.
#[test]
fn a_quarantined_project_without_a_page_is_not_gone() {
    let mirror = Mirror::new(Method::Changelog);
    mirror.loses_alpha(false);
    mirror.script.log([event(8, "Alpha", Action::QuarantineProject)]);
    for seconds in [0, SWEPT, SWEPT + DAY, SWEPT + 8 * DAY, SWEPT + 16 * DAY] {
        assert_eq!(mirror.sync(seconds).held, []);
        assert_eq!(mirror.world.leaf("alpha").unwrap().serial, serial(8), "after {seconds} s");
    }
}

#[test]
fn the_double_collect_asks_the_list_before_it_takes_a_project_away() {
    for everything in [false, true] {
        let mut mirror = Mirror::new(Method::Collect);
        if everything {
            mirror.settings.selection = Selection::Everything;
            mirror.sync(0);
        }
        mirror.loses_alpha(true);
        mirror.sync(MINUTE);
        assert_eq!(mirror.stands(), (true, HELD, vec![]));
        mirror.script.unlist("Alpha");
        assert_eq!(mirror.sync(20 * MINUTE).held, []);
        assert_eq!(mirror.stands(), (false, None, vec![]));
        // What the mirror does not have is not asked about.
        mirror.lists();
        mirror.sync(30 * MINUTE);
        assert_eq!(mirror.lists(), usize::from(everything));
    }
}
