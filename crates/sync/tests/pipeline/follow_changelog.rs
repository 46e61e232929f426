//! Following a changelog: the loop around the rule of the cut, whose own tests are those of `crates/simulation`.

use std::sync::Arc;
use std::time::Duration;

use strandline_faultkit::{World, invariants, lock, mirror, now};
use strandline_model::{HoldReason, Timestamp};
use strandline_store::{Conclusion, Validation};
use strandline_sync::cut::Action;
use strandline_sync::upstream::Event;
use strandline_sync::{Method, OnBroken, Selection, Settings, SyncError};

use crate::support::script::{Reply, Script, add, event, name, page, status, two};
use crate::support::{Syncs as _, in_the_way, settings, sync_store_at};

const NAMES: &[&str] = &["Alpha", "beta"];

fn following(names: &[&str]) -> Settings {
    Settings { method: Some(Method::Changelog), ..settings(names) }
}

/// Asks once, and never believes that a project is broken.
fn once(names: &[&str]) -> Settings {
    Settings { cut_timeout: Duration::ZERO, hold_after: Duration::from_secs(10 << 30), ..following(names) }
}

/// A mirror at serial 7.
fn synced() -> (World, Arc<Script>) {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    script.publish("Alpha", Some(5), "1", &[ALPHA_1]);
    script.publish("beta", Some(7), "1", &[]);
    script.publish("other", Some(6), "1", &[]);
    script.log([
        event(5, "Alpha", two(Action::NewRelease)),
        event(6, "other", two(Action::NewRelease)),
        event(7, "beta", two(Action::NewRelease)),
    ]);
    let done = world.sync(&script, &following(NAMES)).unwrap();
    assert_eq!((done.label.to_string().as_str(), done.projects), ("7", 2));
    assert_eq!(world.list(), "7 Alpha:5 beta:7");
    let asked = script.asked();
    assert!(asked.iter().all(|asked| asked != "page other"), "{asked:?}");
    (world, script)
}

/// Of this event the log alone does not say enough: what the file is, only a page tells.
fn upload(number: u64, file: &str) -> Event {
    let project = file.split_once('-').unwrap().0;
    event(number, project, add(file))
}

const ALPHA_1: (&str, &[u8]) = ("alpha-1.tar.gz", b"alpha 1");
const ALPHA_2: (&str, &[u8]) = ("alpha-2.tar.gz", b"alpha 2");
const BETA_2: (&str, &[u8]) = ("beta-2.tar.gz", b"beta 2");

fn stands(world: &World, serial: u64) {
    let store = world.open();
    assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(serial));
    invariants::check_at_rest(&world.root(), &store, &mirror());
}

#[test]
fn nothing_new_is_one_look_into_the_log() {
    let (world, script) = synced();
    let before = invariants::essence(&world.root());
    for _ in 0..2 {
        let done = world.sync(&script, &following(NAMES)).unwrap();
        assert_eq!((done.changed, done.label), (0, done.before.unwrap()));
        assert!(script.asked().iter().all(|asked| asked == "log"));
        assert_eq!(invariants::essence(&world.root()), before);
    }
}

#[test]
fn only_what_has_events_is_fetched() {
    let (world, script) = synced();
    script.publish("Alpha", Some(9), "2", &[ALPHA_1, ALPHA_2]);
    script.log([upload(9, "alpha-2.tar.gz")]);
    assert_eq!(world.sync(&script, &following(NAMES)).unwrap().label.to_string(), "9");
    let asked = script.asked();
    let pages: Vec<_> = asked.iter().filter(|asked| asked.starts_with("page")).collect();
    assert_eq!(pages, ["page alpha"]);
    assert_eq!(world.list(), "9 Alpha:9 beta:7");
    stands(&world, 9);
}

#[test]
fn a_log_that_comes_in_parts_is_read_to_its_end() {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    script.publish("Alpha", Some(5), "1", &[]);
    script.publish("beta", Some(7), "1", &[]);
    script.log([event(5, "Alpha", Action::Create), event(7, "beta", Action::Create)]);
    world.sync(&script, &following(NAMES)).unwrap();
    script.give_at_once(3);
    // The first three events are one answer now, and the last one comes with another.
    script.log([
        event(8, "other", Action::Create),
        event(9, "other", Action::RemoveProject),
        event(10, "beta", Action::RemoveProject),
    ]);
    assert_eq!(world.sync(&script, &following(NAMES)).unwrap().label.to_string(), "10");
    assert_eq!(world.list(), "10 Alpha:5");
}

#[test]
fn events_about_people_and_other_projects_move_serials_alone() {
    let (world, script) = synced();
    script.log([event(8, "Alpha", None), event(9, "other", two(Action::NewRelease))]);
    let done = world.sync(&script, &following(NAMES)).unwrap();
    assert_eq!((done.label.to_string().as_str(), done.changed), ("9", 1));
    assert!(script.asked().iter().all(|asked| asked == "log"));
    assert_eq!(world.list(), "9 Alpha:8 beta:7");
    stands(&world, 9);
}

#[test]
fn a_removal_needs_no_page() {
    let (world, script) = synced();
    script.log([event(8, "beta", Action::RemoveProject)]);
    let done = world.sync(&script, &following(NAMES)).unwrap();
    assert_eq!((done.label.to_string().as_str(), done.changed), ("8", 1));
    assert!(script.asked().iter().all(|asked| asked == "log"), "its page may well be there still, in some cache");
    assert_eq!(world.list(), "8 Alpha:5");
    assert_eq!(world.version("beta"), None);
    stands(&world, 8);
}

#[test]
fn a_page_older_than_its_event_is_asked_for_again() {
    let (world, script) = synced();
    script.publish("Alpha", Some(9), "2", &[ALPHA_1, ALPHA_2]);
    let old = Reply::Page(page("Alpha", Some(5), "1", &[ALPHA_1]), None);
    let new = Reply::Page(page("Alpha", Some(9), "2", &[ALPHA_1, ALPHA_2]), None);
    script.pages("Alpha", [old.clone(), old, new]);
    script.log([upload(9, "alpha-2.tar.gz")]);
    assert_eq!(world.sync(&script, &following(NAMES)).unwrap().label.to_string(), "9");
    let asked = script.asked();
    let pages: Vec<_> = asked.iter().filter(|asked| asked.starts_with("page")).collect();
    assert_eq!(pages, ["page alpha", "page alpha uncompressed", "page alpha at its origin"]);
    assert_eq!(world.version("alpha").unwrap(), "2");
    assert_eq!(world.labels(), ["9", "7"]);
}

#[test]
fn what_the_log_tells_whole_needs_no_new_page() {
    let (world, script) = synced();
    script.log([event(8, "Alpha", Action::RemoveFile("alpha-1.tar.gz".to_owned()))]);
    let done = world.sync(&script, &once(NAMES)).unwrap();
    assert_eq!((done.label.to_string().as_str(), done.changed), ("8", 1), "although the page is old");
    assert!(!world.served("simple/alpha/index.v1_json").unwrap().contains("alpha-1.tar.gz"));
    stands(&world, 8);
}

#[test]
fn a_stale_page_delays_the_serials_from_its_own_event_on() {
    let (world, script) = synced();
    script.publish("beta", Some(8), "2", &[BETA_2]);
    script.log([upload(8, "beta-2.tar.gz"), upload(9, "alpha-2.tar.gz"), event(10, "other", two(Action::NewRelease))]);
    let done = world.sync(&script, &once(NAMES)).unwrap();
    assert_eq!((done.label.to_string().as_str(), done.changed), ("8", 1));
    assert_eq!(world.list(), "8 Alpha:5 beta:8");
    stands(&world, 8);

    // The next one gets nowhere, and names who stands in the way.
    let before = invariants::essence(&world.root());
    let names = in_the_way(world.sync(&script, &once(NAMES)));
    assert_eq!(names.keys().collect::<Vec<_>>(), [&name("alpha")]);
    assert_eq!(invariants::essence(&world.root()), before);
    assert!(world.mirror().last_sync().unwrap().unwrap().failure.unwrap().contains("alpha"));

    script.publish("Alpha", Some(9), "2", &[ALPHA_1, ALPHA_2]);
    assert_eq!(world.sync(&script, &once(NAMES)).unwrap().label.to_string(), "10");
    assert_eq!(world.list(), "10 Alpha:9 beta:8");
}

#[test]
fn what_is_determined_is_published_while_the_rest_is_waited_for() {
    let (world, script) = synced();
    script.publish("beta", Some(8), "2", &[BETA_2]);
    let old = Reply::Page(page("Alpha", Some(5), "1", &[ALPHA_1]), None);
    let new = Reply::Page(page("Alpha", Some(9), "2", &[ALPHA_1, ALPHA_2]), None);
    script.publish("Alpha", Some(9), "2", &[ALPHA_1, ALPHA_2]);
    script.pages("Alpha", [old.clone(), old, new]);
    script.log([upload(8, "beta-2.tar.gz"), upload(9, "alpha-2.tar.gz")]);
    let in_parts = Settings { part_after: Duration::ZERO, ..following(NAMES) };
    let done = world.sync(&script, &in_parts).unwrap();
    assert_eq!((done.before.unwrap().to_string(), done.label.to_string(), done.changed), ("7".into(), "9".into(), 2));
    assert_eq!(world.labels(), ["9", "8", "7"]);
    assert_eq!(world.list(), "9 Alpha:9 beta:8");
    stands(&world, 9);

    // What came of it stays when the rest does not come in time.
    script.publish("beta", Some(10), "3", &[BETA_2]);
    script.log([event(10, "beta", two(Action::NewRelease)), upload(11, "alpha-3.tar.gz")]);
    let once_in_parts = Settings { part_after: Duration::ZERO, ..once(NAMES) };
    assert_eq!(world.sync(&script, &once_in_parts).unwrap().label.to_string(), "10");
    let briefly = Settings { cut_timeout: Duration::from_millis(1), ..in_parts };
    script.publish("beta", Some(12), "3", &[BETA_2]);
    script.log([event(12, "beta", two(Action::NewRelease))]);
    in_the_way(world.sync(&script, &Settings { hold_after: Duration::from_secs(10 << 30), ..briefly }));
    assert_eq!(world.labels()[0], "10");
}

#[test]
fn what_a_page_showed_is_remembered_until_a_snapshot_does() {
    let (world, script) = synced();
    script.publish("Alpha", Some(9), "2", &[ALPHA_1, ALPHA_2]);
    script.log([upload(8, "beta-2.tar.gz"), upload(9, "alpha-2.tar.gz")]);
    let names = in_the_way(world.sync(&script, &once(NAMES)));
    assert_eq!(names.keys().collect::<Vec<_>>(), [&name("beta")]);

    // Nobody can see the file any more, and beta stands in the way of the serial at which it was gone.
    script.publish("Alpha", Some(11), "1", &[ALPHA_1]);
    script.publish("beta", Some(8), "2", &[BETA_2]);
    script.log([upload(10, "beta-3.tar.gz"), event(11, "Alpha", Action::RemoveFile("alpha-2.tar.gz".to_owned()))]);
    assert_eq!(world.sync(&script, &once(NAMES)).unwrap().label.to_string(), "9");
    assert!(world.served("simple/alpha/index.v1_json").unwrap().contains("alpha-2.tar.gz"));
    stands(&world, 9);

    script.log([event(12, "beta", Action::RemoveProject)]);
    assert_eq!(world.sync(&script, &once(NAMES)).unwrap().label.to_string(), "12");
    assert_eq!(world.version("alpha").as_deref(), Some("1"));
    assert_eq!(world.mirror().seen().unwrap(), []);
    stands(&world, 12);
}

#[test]
fn a_missing_page_is_not_believed() {
    let (world, script) = synced();
    script.pages("Alpha", [Reply::Missing]);
    script.log([upload(8, "alpha-2.tar.gz")]);
    let names = in_the_way(world.sync(&script, &once(NAMES)));
    assert_eq!(names.keys().collect::<Vec<_>>(), [&name("alpha")]);
    assert_eq!(world.version("alpha").unwrap(), "1");
}

/// A page may hold more than its serial says: it counts only if the log, read after it, has nothing newer.
#[test]
fn what_happens_while_pages_are_read_is_seen() {
    let (world, script) = synced();
    script.publish("Alpha", Some(8), "2", &[ALPHA_1, ALPHA_2]);
    script.log([event(8, "Alpha", Action::Unknown)]);
    script.meanwhile([event(9, "Alpha", Action::Unknown)]);
    let names = in_the_way(world.sync(&script, &once(NAMES)));
    assert_eq!(names.keys().collect::<Vec<_>>(), [&name("alpha")]);
    assert_eq!(world.labels(), ["7"]);

    script.publish("Alpha", Some(9), "3", &[ALPHA_1, ALPHA_2]);
    assert_eq!(world.sync(&script, &once(NAMES)).unwrap().label.to_string(), "9");
    assert_eq!(world.version("alpha").unwrap(), "3");
    stands(&world, 9);
}

/// A project that has gone meanwhile has no page any more: nobody waits for one.
#[test]
fn what_goes_before_its_page_is_seen_is_not_waited_for() {
    for action in [Action::QuarantineProject, Action::RemoveProject] {
        let (world, script) = synced();
        script.publish("beta", Some(9), "2", &[BETA_2]);
        script.log([event(8, "Alpha", two(Action::ClearRelease)), upload(9, "beta-2.tar.gz")]);
        script.meanwhile([event(10, "Alpha", action.clone())]);
        let patient = Settings { cut_timeout: Duration::from_secs(10), ..once(NAMES) };
        assert_eq!(world.sync(&script, &patient).unwrap().label.to_string(), "10", "{action:?}");
        assert_eq!(world.list(), "10 beta:9");
        assert_eq!(Script::count(&script.asked(), "page alpha"), 1);
        stands(&world, 10);
    }
}

/// The target moves on once, and the parts of the sync after that do not run after upstream's head.
#[test]
fn a_target_that_moved_on_is_that_of_all_later_parts() {
    let (world, script) = synced();
    script.log([event(8, "Alpha", two(Action::ClearRelease))]);
    script.meanwhile([event(9, "Alpha", Action::QuarantineProject), upload(10, "beta-2.tar.gz")]);
    script.meanwhile([]);
    script.meanwhile([event(11, "other", two(Action::NewRelease))]);
    let old = Reply::Page(page("beta", Some(7), "1", &[]), None);
    let new = Reply::Page(page("beta", Some(10), "2", &[BETA_2]), None);
    script.publish("beta", Some(10), "2", &[BETA_2]);
    script.pages("beta", [old, new]);
    let in_parts = Settings { part_after: Duration::ZERO, ..following(NAMES) };
    assert_eq!(world.sync(&script, &in_parts).unwrap().label.to_string(), "10");
    assert_eq!(world.labels(), ["10", "9", "7"]);
    stands(&world, 10);
}

#[test]
fn a_project_that_stays_broken_is_held_and_comes_back() {
    let (world, script) = synced();
    script.publish("beta", Some(9), "2", &[BETA_2]);
    script.log([upload(8, "alpha-2.tar.gz"), upload(9, "beta-2.tar.gz")]);
    // The event is older than `hold-after`.
    let hold = Settings { cut_timeout: Duration::ZERO, ..following(NAMES) };
    let freeze = Settings { on_broken: OnBroken::Freeze, ..hold.clone() };
    assert!(matches!(world.sync(&script, &freeze), Err(SyncError::Inconsistent { .. })));
    assert_eq!(world.labels(), ["7"]);

    let done = world.sync(&script, &hold).unwrap();
    assert_eq!(done.label.to_string(), "9");
    let held: Vec<_> = done.held.iter().map(|held| (held.name.as_str(), held.reason, held.at.get())).collect();
    assert_eq!(held, [("alpha", HoldReason::StalePage, 5)]);
    assert_eq!(done.held[0].needs.get(), 8);
    assert_eq!(world.list(), "9 Alpha:5 beta:9");
    stands(&world, 9);

    // Where a broken project stops everything, a held one does.
    assert!(matches!(world.sync(&script, &freeze), Err(SyncError::Inconsistent { .. })));

    // Held projects are asked for in every way, for nobody waits for them.
    let old = Reply::Page(page("Alpha", Some(5), "1", &[ALPHA_1]), None);
    let new = Reply::Page(page("Alpha", Some(8), "2", &[ALPHA_1, ALPHA_2]), None);
    script.publish("Alpha", Some(8), "2", &[ALPHA_1, ALPHA_2]);
    script.pages("Alpha", [old.clone(), old, new]);
    let done = world.sync(&script, &hold).unwrap();
    assert_eq!((done.label.to_string().as_str(), done.held.len()), ("9.2", 0));
    assert_eq!(world.list(), "9 Alpha:8 beta:9");
}

#[test]
fn a_broken_project_that_stops_everything_stops_a_part_too() {
    let (world, script) = synced();
    script.publish("beta", Some(8), "2", &[BETA_2]);
    script.log([upload(8, "beta-2.tar.gz"), upload(9, "alpha-2.tar.gz")]);
    let freeze = Settings { on_broken: OnBroken::Freeze, part_after: Duration::ZERO, ..following(NAMES) };
    let names = in_the_way(world.sync(&script, &freeze));
    assert_eq!(names.keys().collect::<Vec<_>>(), [&name("alpha")]);
    assert_eq!(world.labels(), ["7"]);
}

#[test]
fn patience_with_a_project_is_remembered_between_syncs() {
    let (world, script) = synced();
    script.pages("Alpha", [Reply::Missing]);
    script.publish("beta", Some(9), "2", &[BETA_2]);
    let at = |minutes: i64| Timestamp::from_seconds(now().seconds() + 60 * minutes).unwrap();
    let young = |number, file| Event { time: at(0), ..upload(number, file) };
    script.log([young(8, "alpha-2.tar.gz"), young(9, "beta-2.tar.gz")]);
    let minutes = Settings { cut_timeout: Duration::ZERO, settle: Duration::ZERO, ..following(NAMES) };
    assert_eq!(minutes.hold_after, Duration::from_secs(600));
    let sync = |minute| sync_store_at(&world.open(), &script, &minutes, at(minute));
    for minute in [1, 5, 9] {
        in_the_way(sync(minute));
    }
    let done = sync(10).unwrap();
    assert_eq!((done.label.to_string().as_str(), done.held.len()), ("9", 1));
    assert_eq!(done.held[0].since, at(0));
}

#[test]
fn how_far_behind_a_mirror_is_that_gets_nowhere_is_recorded() {
    let (world, script) = synced();
    script.log([upload(8, "alpha-2.tar.gz"), event(12, "other", two(Action::NewRelease))]);
    in_the_way(world.sync(&script, &once(NAMES)));
    let cut = world.mirror().last_sync().unwrap().unwrap().cut.unwrap();
    assert_eq!((cut.head.get(), cut.rounds), (12, 1));
    assert_eq!(cut.behind, Some(event(8, "Alpha", None).time));
}

#[test]
fn an_event_that_came_late_is_noticed_whatever_its_project_is() {
    // Neither project nor a later event of one that is shown already tells: only the serial does.
    let (world, script) = synced();
    script.log([event(10, "other", None)]);
    assert_eq!(world.sync(&script, &following(NAMES)).unwrap().label.to_string(), "10");
    let everything = Settings { selection: Selection::Everything, ..following(NAMES) };
    assert_eq!(world.sync(&script, &everything).unwrap().label.to_string(), "10.2");
    assert!(world.mirror().snapshots().unwrap().iter().all(|snapshot| !snapshot.missed));

    script.publish("late", Some(8), "1", &[]);
    script.publish("beta", Some(11), "3", &[BETA_2]);
    script.insert([event(8, "late", Action::Create), event(9, "beta", Action::Unknown)]);
    script.log([event(11, "beta", two(Action::NewRelease))]);
    let done = world.sync(&script, &everything).unwrap();
    assert_eq!((done.label.to_string().as_str(), done.changed), ("11", 2));
    assert_eq!(world.list(), "11 Alpha:5 beta:11 late:8 other:10");
    let missed: Vec<_> = world.mirror().snapshots().unwrap().iter().map(|snapshot| snapshot.missed).collect();
    assert_eq!(missed, [false, true, true, false]);

    // Once.
    script.log([event(12, "beta", Action::RemoveProject)]);
    script.asked();
    world.sync(&script, &everything).unwrap();
    assert!(script.asked().iter().all(|asked| asked == "log"));
}

#[test]
fn a_project_that_the_list_does_not_have_yet_is_found_in_the_log() {
    let (world, script) = synced();
    script.publish("new", Some(8), "1", &[]);
    script.log([event(8, "new", Action::Create)]);
    script.unlist("new");
    // Nobody asks for it yet.
    assert_eq!(world.sync(&script, &following(NAMES)).unwrap().label.to_string(), "8");
    let done = world.sync(&script, &following(&["Alpha", "beta", "new"])).unwrap();
    assert_eq!((done.changed, done.absent), (1, vec![]));
    assert_eq!(world.list(), "8 Alpha:5 beta:7 new:8");
}

#[test]
fn a_page_of_an_interrupted_first_sync_is_read_again_if_the_log_does_not_go_back_to_it() {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    script.publish("Alpha", Some(5), "1", &[ALPHA_1]);
    script.publish("beta", Some(6), "2", &[BETA_2]);
    script.pages("beta", [Reply::Page(page("beta", Some(6), "2", &[BETA_2]), None)]);
    script.files(&crate::support::script::url(BETA_2.0), [crate::support::script::Body::Fail(status(404))]);
    script.log([event(5, "Alpha", two(Action::NewRelease)), event(6, "beta", two(Action::NewRelease))]);
    let stops = Settings { park_every: 1, on_broken: OnBroken::Freeze, ..once(NAMES) };
    let names = in_the_way(world.sync(&script, &stops));
    assert_eq!(names.keys().collect::<Vec<_>>(), [&name("beta")]);

    script.publish("Alpha", Some(9), "2", &[ALPHA_1, ALPHA_2]);
    script.publish("beta", Some(60_009), "3", &[BETA_2]);
    script.log([upload(9, "alpha-2.tar.gz"), event(60_009, "beta", two(Action::NewRelease))]);
    assert_eq!(world.sync(&script, &stops).unwrap().label.to_string(), "60009");
    assert_eq!(world.version("alpha").as_deref(), Some("2"));
    stands(&world, 60_009);
}

#[test]
fn what_the_sweep_looks_at_is_followed_by_the_log_when_it_moves() {
    let (world, script) = synced();
    let day = |days: i64| Timestamp::from_seconds(now().seconds() + days * 86_400).unwrap();
    let sync = |days| sync_store_at(&world.open(), &script, &once(NAMES), day(days));
    assert_eq!(sync(0).unwrap().label.to_string(), "7", "the sweep begins");
    script.publish("Alpha", Some(5), "1.post1", &[ALPHA_1]);
    script.publish("beta", Some(8), "2", &[BETA_2]);
    script.log([upload(8, "beta-2.tar.gz")]);
    // While the sweep looks at alpha, it gets a file; and its page is not asked for again.
    script.meanwhile([upload(9, "alpha-2.tar.gz")]);
    let done = sync(7).unwrap();
    assert_eq!(done.label.to_string(), "8", "alpha stands in nobody's way");
    assert_eq!(world.list(), "8 Alpha:5 beta:8");
    stands(&world, 8);
}

#[test]
fn a_project_that_leaves_the_selection_goes_also_when_it_is_its_turn_in_the_sweep() {
    let (world, script) = synced();
    let week = Timestamp::from_seconds(now().seconds() + 7 * 86_400).unwrap();
    world.sync(&script, &once(NAMES)).unwrap();
    // No event says it, so the page would be followed for the sweep alone.
    script.publish("Alpha", Some(5), "1.post1", &[ALPHA_1]);
    let done = sync_store_at(&world.open(), &script, &once(&["beta"]), week).unwrap();
    assert_eq!((done.changed, done.projects), (1, 1));
    assert_eq!(world.list(), "7 beta:7");
    stands(&world, 7);
}

#[test]
fn who_asks_for_a_long_pause_is_not_asked_again() {
    let (world, script) = synced();
    let pause = |seconds| strandline_sync::upstream::Problem::Status {
        status: 429,
        retry_after: Some(Duration::from_secs(seconds)),
    };
    script.log([upload(8, "alpha-2.tar.gz")]);
    script.asked();
    script.pages("Alpha", [Reply::Fail(pause(3_600))]);
    in_the_way(world.sync(&script, &once(NAMES)));
    assert_eq!(Script::count(&script.asked(), "page alpha"), 1);
    script.pages("Alpha", [Reply::Fail(pause(0))]);
    in_the_way(world.sync(&script, &once(NAMES)));
    assert_eq!(Script::count(&script.asked(), "page alpha"), 5);
}

#[test]
fn entity_tags_may_be_lost() {
    let (world, script) = synced();
    script.pages("Alpha", [Reply::Page(page("Alpha", Some(8), "2", &[ALPHA_1]), Some("\"8\""))]);
    script.log([event(8, "Alpha", two(Action::NewRelease))]);
    assert_eq!(world.sync(&script, &following(NAMES)).unwrap().label.to_string(), "8");
    let unit = strandline_model::Blake3::of(b"of another page");
    let lost = Validation { project: name("alpha"), unit, tag: "\"7\"".to_owned() };
    let lost = Conclusion { validations: vec![lost], ..Conclusion::default() };
    lock(&world.open()).unwrap().conclude(&lost).unwrap();
    script.pages("Alpha", [Reply::Page(page("Alpha", Some(9), "3", &[ALPHA_1]), Some("\"9\""))]);
    script.log([event(9, "Alpha", two(Action::NewRelease))]);
    script.asked();
    assert_eq!(world.sync(&script, &following(NAMES)).unwrap().label.to_string(), "9");
    assert_eq!(Script::count(&script.asked(), "page alpha"), 1);
    stands(&world, 9);
}

#[test]
fn a_selection_that_changes_adds_and_drops_exactly_that() {
    let (world, script) = synced();
    let beta = world.leaf("beta");
    let done = world.sync(&script, &following(&["beta", "other", "nowhere"])).unwrap();
    assert_eq!((done.changed, done.absent), (2, vec![name("nowhere")]));
    assert_eq!(world.list(), "7 beta:7 other:6");
    assert_eq!(world.leaf("beta"), beta);
    assert_eq!(world.labels(), ["7.2", "7"]);
    assert_eq!(world.version("alpha"), None);
    stands(&world, 7);
}

#[test]
fn a_log_that_went_back_is_refused() {
    let (world, _) = synced();
    let shorter = Arc::new(Script::new());
    shorter.publish("Alpha", Some(3), "0", &[]);
    shorter.log([event(3, "Alpha", two(Action::NewRelease))]);
    let before = invariants::essence(&world.root());
    let error = world.sync(&shorter, &following(NAMES)).unwrap_err();
    assert!(
        matches!(error, SyncError::SerialWentBack { recorded, found, .. } if (recorded.get(), found.get()) == (7, 3))
    );
    assert_eq!(invariants::essence(&world.root()), before);
}

#[test]
fn an_index_without_a_log_is_collected_where_the_method_is_open() {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    script.publish("Alpha", Some(5), "1", &[]);
    let everything = Settings { selection: Selection::Everything, method: None, ..settings(&[]) };
    assert_eq!(world.sync(&script, &everything).unwrap().label.to_string(), "5");
    let only = Settings { method: Some(Method::Changelog), ..everything };
    let error = world.sync(&script, &only).unwrap_err();
    assert!(matches!(error, SyncError::Upstream(_)), "{error}");

    let few = Settings { method: None, ..settings(&["Alpha"]) };
    script.log([event(5, "Alpha", two(Action::NewRelease))]);
    script.asked();
    assert_eq!(world.sync(&script, &few).unwrap().projects, 1);
    assert_eq!(Script::count(&script.asked(), "log"), 0, "a few pages are less than a log");
}

#[test]
fn a_first_sync_that_was_interrupted_goes_on_where_it_was() {
    const THREE: &[&str] = &["Alpha", "beta", "gamma"];
    let (world, script) = (World::new(), Arc::new(Script::new()));
    script.publish("Alpha", Some(5), "1", &[ALPHA_1]);
    script.publish("beta", Some(6), "2", &[BETA_2]);
    script.publish("gamma", Some(7), "1", &[]);
    let begins = |number, project| event(number, project, two(Action::NewRelease));
    script.log([begins(5, "Alpha"), begins(6, "beta"), begins(7, "gamma")]);
    let stops = Settings { park_every: 2, ..following(THREE) };
    let steps = {
        let copy = world.copy();
        let disk = strandline_durable::Disk::counting();
        crate::support::sync_store(&copy.open_on(disk.clone()).unwrap(), &script, &stops).unwrap();
        disk.steps()
    };
    let mut resumed = 0;
    for step in 1..=steps {
        let copy = world.copy();
        let Ok(store) = copy.open_on(strandline_durable::Disk::failing_at(step)) else { continue };
        if crate::support::sync_store(&store, &script, &stops).is_ok() {
            continue;
        }
        drop(store);
        script.asked();
        let done = copy.sync(&script, &stops).unwrap();
        // A snapshot that was committed and not verified keeps its label: the next one is another revision.
        assert_eq!((done.label.serial.get(), done.projects), (7, 3));
        stands(&copy, 7);
        let asked = script.asked();
        let pages = asked.iter().filter(|asked| asked.starts_with("page")).count();
        resumed += usize::from(pages == 1);
        assert!([0, 1, 3].contains(&pages), "after step {step}: {asked:?}");
    }
    assert!(resumed > 0, "no interrupted sync has left a checkpoint in {steps} steps");
}

#[test]
fn a_change_that_is_in_no_changelog_is_found_in_its_turn() {
    let (world, script) = synced();
    script.publish("Alpha", Some(5), "1.post1", &[ALPHA_1]);
    let week = |days: i64| Timestamp::from_seconds(now().seconds() + days * 86_400).unwrap();
    let sync = |days| sync_store_at(&world.open(), &script, &following(NAMES), week(days)).unwrap();
    assert_eq!(sync(0).label.to_string(), "7", "the sweep begins");
    script.asked();
    assert_eq!(sync(1).label.to_string(), "7", "of two projects, none has its turn in a day");
    assert!(script.asked().iter().all(|asked| asked == "log"));
    let done = sync(4);
    assert_eq!(done.label.to_string(), "7.2", "one has in half a week: {done:?} {:?}", script.asked());
    assert_eq!(world.version("alpha").as_deref(), Some("1.post1"));
    assert_eq!(script.asked().iter().filter(|asked| asked.starts_with("page")).count(), 1);
    // What fails in the sweep stands in nobody's way.
    script.pages("beta", [Reply::Fail(status(404)), Reply::Missing]);
    assert_eq!(sync(8).label.to_string(), "7.2");
    assert_eq!(world.list(), "7 Alpha:5 beta:7");
    stands(&world, 7);
}
