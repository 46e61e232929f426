//! A project's serial is that of its last event of any kind, and its page may say an older one: upstream purges no page for an
//! event about people.

use std::sync::Arc;
use std::time::Duration;

use strandline_faultkit::{World, invariants, lock, mirror, now};
use strandline_model::Timestamp;
use strandline_sync::cut::Action;
use strandline_sync::upstream::Event;
use strandline_sync::{Method, OnBroken, Selection, Settings};

use crate::support::script::{Reply, Script, add, changed, event, name, page, two};
use crate::support::{Syncs as _, in_the_way, settings, sync_store_at};

const NAMES: &[&str] = &["Alpha", "beta"];
const ALPHA_1: (&str, &[u8]) = ("alpha-1.tar.gz", b"alpha 1");
const ALPHA_2: (&str, &[u8]) = ("alpha-2.tar.gz", b"alpha 2");

/// Asks once.
fn once(names: &[&str]) -> Settings {
    Settings { method: Some(Method::Changelog), cut_timeout: Duration::ZERO, ..settings(names) }
}

/// The same, and never believes that a project is broken.
fn patient(names: &[&str]) -> Settings {
    Settings { hold_after: Duration::from_secs(10 << 30), ..once(names) }
}

fn people(number: u64, project: &str) -> Event {
    event(number, project, None)
}

/// An upstream at serial 7, whose pages come with entity tags.
fn script() -> Arc<Script> {
    let script = Arc::new(Script::new());
    script.publish("Alpha", Some(5), "1", &[ALPHA_1]);
    script.publish("beta", Some(7), "1", &[]);
    script.pages("Alpha", [Reply::Page(page("Alpha", Some(5), "1", &[ALPHA_1]), Some("\"5\""))]);
    script.log([event(5, "Alpha", two(Action::NewRelease)), event(7, "beta", two(Action::NewRelease))]);
    script
}

/// A mirror at serial 8, at which alpha's page says 5.
fn synced() -> (World, Arc<Script>) {
    let (world, script) = (World::new(), script());
    world.sync(&script, &patient(NAMES)).unwrap();
    script.log([people(8, "Alpha")]);
    world.sync(&script, &patient(NAMES)).unwrap();
    stands(&world, "8 Alpha:8 beta:7");
    script.asked();
    (world, script)
}

/// Requires that readers see this list, and that each project's page says what its line says.
#[track_caller]
fn stands(world: &World, list: &str) {
    assert_eq!(world.list(), list);
    let (serial, lines) = list.split_once(' ').unwrap();
    for line in lines.split(' ') {
        let (display, serial) = line.split_once(':').unwrap();
        let page = world.served(&format!("simple/{}/index.v1_json", name(display))).unwrap();
        assert_eq!(page.lines().nth(1), Some(serial), "{page}");
    }
    let store = world.open();
    assert_eq!(invariants::check(&world.root(), &store, &mirror()).unwrap().to_string(), serial);
    invariants::check_at_rest(&world.root(), &store, &mirror());
}

fn pages(script: &Script) -> Vec<String> {
    script.asked().into_iter().filter(|asked| asked.starts_with("page")).collect()
}

fn after(days: i64) -> Timestamp {
    Timestamp::from_seconds(now().seconds() + days * 86_400).unwrap()
}

#[test]
fn what_happens_after_an_event_about_people_is_followed() {
    let (world, script) = synced();
    // Together with a release, and after it; and in a project that the mirror does not show.
    script.publish("Alpha", Some(9), "2", &[ALPHA_1, ALPHA_2]);
    script.log([
        event(9, "Alpha", add("alpha-2.tar.gz")),
        people(10, "Alpha"),
        event(11, "beta", Action::RemoveProject),
    ]);
    script.log([people(12, "beta")]);
    world.sync(&script, &patient(NAMES)).unwrap();
    stands(&world, "12 Alpha:10");
    assert_eq!(pages(&script), ["page alpha if \"5\""]);
    world.sync(&script, &patient(NAMES)).unwrap();
    assert_eq!(world.labels(), ["12", "8", "7"]);
}

#[test]
fn a_serial_is_that_of_the_cut() {
    let (world, script) = synced();
    // Beta stands in the way of all that comes after 9.
    script.log([people(9, "Alpha"), event(10, "beta", add("beta-2.tar.gz")), people(11, "Alpha")]);
    world.sync(&script, &patient(NAMES)).unwrap();
    stands(&world, "9 Alpha:9 beta:7");
    script.log([event(12, "beta", Action::RemoveProject)]);
    world.sync(&script, &patient(NAMES)).unwrap();
    stands(&world, "12 Alpha:11");
    assert!(pages(&script).iter().all(|asked| asked.starts_with("page beta")));
}

#[test]
fn a_serial_moves_although_its_project_will_be_held_for_a_later_event() {
    let (world, script) = (World::new(), script());
    world.sync(&script, &once(NAMES)).unwrap();
    // Alpha has stood in the way for long, and beta only now: nothing from 9 on can be taken.
    let young = Event { time: now(), ..event(9, "beta", add("beta-2.tar.gz")) };
    script.log([people(8, "Alpha"), young, event(10, "Alpha", add("alpha-2.tar.gz"))]);
    let done = world.sync(&script, &once(NAMES)).unwrap();
    assert_eq!((done.label.to_string().as_str(), done.held), ("8", vec![]));
    stands(&world, "8 Alpha:8 beta:7");
}

#[test]
fn an_entity_tag_counts_although_the_serial_moves() {
    let (world, script) = synced();
    let sync = |days| sync_store_at(&world.open(), &script, &patient(NAMES), after(days)).unwrap();
    sync(0);
    assert_eq!(sync(7).label.to_string(), "8");
    assert_eq!(pages(&script), ["page alpha if \"5\"", "page beta"]);
}

#[test]
fn the_sweep_takes_no_page_that_is_older_than_the_base() {
    let (world, script) = synced();
    let sync = |days| sync_store_at(&world.open(), &script, &patient(NAMES), after(days)).unwrap();
    sync(0);
    let says = |number, version| script.publish("Alpha", Some(number), version, &[ALPHA_1]);
    // It may be as old as it says, or not; when it says the base's serial, it is as new as the base.
    says(5, "1.post1");
    assert_eq!(sync(7).label.to_string(), "8");
    says(8, "1.post1");
    assert_eq!(sync(14).label.to_string(), "8.2");
    assert_eq!(world.version("alpha").as_deref(), Some("1.post1"));
    stands(&world, "8 Alpha:8 beta:7");
    // A turn in which nothing but people move.
    script.log([people(9, "Alpha")]);
    assert_eq!(sync(21).label.to_string(), "9");
    stands(&world, "9 Alpha:9 beta:7");
    script.log([people(10, "Alpha")]);
    says(10, "1.post2");
    assert_eq!(sync(28).label.to_string(), "10");
    stands(&world, "10 Alpha:10 beta:7");
    assert_eq!(world.version("alpha").as_deref(), Some("1.post2"));
}

#[test]
fn a_project_that_is_read_again_does_not_need_the_serial_of_an_event_about_people() {
    let (world, script) = synced();
    lock(&world.open()).unwrap().note_reread(&[name("alpha")]).unwrap();
    script.publish("Alpha", Some(5), "1.post1", &[ALPHA_1]);
    assert_eq!(world.sync(&script, &patient(NAMES)).unwrap().label.to_string(), "8.2");
    assert_eq!(pages(&script), ["page alpha"]);
    stands(&world, "8 Alpha:8 beta:7");
    assert_eq!(world.version("alpha").as_deref(), Some("1.post1"));

    // It needs its last event that changes pages.
    lock(&world.open()).unwrap().note_reread(&[name("alpha")]).unwrap();
    script.publish("Alpha", Some(4), "1", &[ALPHA_1]);
    let names = in_the_way(world.sync(&script, &patient(NAMES)));
    assert_eq!(
        names[&name("alpha")],
        "upstream shows an older page; a page of serial 5 is wanted, one of serial 4 was seen"
    );
}

#[test]
fn a_first_sync_takes_serials_from_the_list_where_the_log_does_not_go_back() {
    let (world, script) = (World::new(), script());
    // All of this is long before what is read of the log.
    script.publish("old", Some(6), "1", &[]);
    script.publish("older", Some(6), "1", &[]);
    script.list("OLD", 6);
    script.list("older", 5);
    script.log([people(60_000, "Alpha"), event(60_001, "beta", Action::Create), people(60_002, "beta")]);
    script.publish("beta", Some(60_001), "1", &[]);
    script.list("beta", 60_002);
    let everything = Settings { selection: Selection::Everything, ..patient(&[]) };
    world.sync(&script, &everything).unwrap();
    stands(&world, "60002 Alpha:60000 beta:60002 OLD:6 older:6");
    // The tag of a page that is made anew counts.
    let sync = |days| sync_store_at(&world.open(), &script, &everything, after(days)).unwrap();
    sync(0);
    script.asked();
    sync(7);
    assert!(pages(&script).contains(&"page alpha if \"5\"".to_owned()));
}

#[test]
fn a_project_that_enters_the_selection_is_as_upstream_lists_it() {
    let (world, script) = synced();
    script.publish("gamma", Some(4), "1", &[]);
    script.list("GAMMA", 4);
    world.sync(&script, &patient(&["Alpha", "beta", "gamma"])).unwrap();
    stands(&world, "8 Alpha:8 beta:7 GAMMA:4");
}

#[test]
fn a_number_that_upstreams_log_does_not_have_is_not_used() {
    let (world, script) = (World::new(), script());
    script.publish("high", Some(900_000), "1", &[]);
    script.list("high", 3);
    script.publish("listed", Some(4), "1", &[]);
    script.list("listed", 800_000);
    let everything = Settings { selection: Selection::Everything, ..patient(&[]) };
    world.sync(&script, &everything).unwrap();
    stands(&world, "7 Alpha:5 beta:7 high:3 listed:4");
}

#[test]
fn a_first_sync_goes_on_with_a_page_that_says_an_older_serial_than_the_list() {
    let (world, script) = (World::new(), script());
    script.pages("beta", [Reply::Missing]);
    script.log([event(8, "beta", add("beta-2.tar.gz"))]);
    let stops = Settings { park_every: 1, on_broken: OnBroken::Freeze, ..patient(NAMES) };
    in_the_way(world.sync(&script, &stops));
    script.log([people(9, "Alpha"), event(10, "beta", Action::RemoveProject)]);
    script.list("Alpha", 9);
    script.asked();
    world.sync(&script, &stops).unwrap();
    assert_eq!(pages(&script), [""; 0]);
    stands(&world, "10 Alpha:9");
}

#[test]
fn a_project_that_comes_back_has_the_serial_that_it_has_upstream() {
    let (world, script) = synced();
    let forgetful = Settings { overlap: 1, ..once(NAMES) };
    script.publish("beta", Some(13), "2", &[]);
    script.log([event(9, "Alpha", add("alpha-2.tar.gz")), people(10, "Alpha"), event(13, "beta", Action::Create)]);
    assert_eq!(world.sync(&script, &forgetful).unwrap().held[0].needs.get(), 9);
    assert_eq!(world.list(), "13 Alpha:8 beta:13");
    script.log([event(14, "other", Action::Create), event(15, "other", Action::Create)]);
    assert_eq!(world.sync(&script, &forgetful).unwrap().held[0].needs.get(), 9);
    assert_eq!(world.list(), "15 Alpha:8 beta:13");
    // Its page was made before the event about people.
    script.publish("Alpha", Some(9), "2", &[ALPHA_1, ALPHA_2]);
    assert_eq!(world.sync(&script, &forgetful).unwrap().held, []);
    stands(&world, "15 Alpha:10 beta:13");
}

#[test]
fn a_late_event_about_people_moves_the_serial_and_marks_the_snapshots_that_lack_it() {
    let (world, script) = synced();
    script.log([event(12, "other", Action::Create)]);
    world.sync(&script, &patient(NAMES)).unwrap();
    assert_eq!(world.labels()[0], "12");
    script.asked();
    script.insert([people(10, "Alpha")]);
    world.sync(&script, &patient(NAMES)).unwrap();
    assert_eq!(pages(&script), [""; 0]);
    stands(&world, "12 Alpha:10 beta:7");
    let missed: Vec<_> = world.mirror().snapshots().unwrap().iter().map(|snapshot| snapshot.missed).collect();
    assert_eq!((world.labels()[..2].join(" "), &missed[..]), ("12.2 12".to_owned(), &[false, true, false, false][..]));
}

/// The page that is the same as the base's may have been made before the late event.
#[test]
fn a_late_event_is_not_taken_for_shown_because_the_page_is_that_of_the_base() {
    let (world, script) = (World::new(), script());
    script.log([people(9, "Alpha")]);
    world.sync(&script, &patient(NAMES)).unwrap();
    stands(&world, "9 Alpha:9 beta:7");
    script.insert([event(8, "Alpha", add("alpha-2.tar.gz"))]);
    in_the_way(world.sync(&script, &patient(NAMES)));
    script.publish("Alpha", Some(8), "2", &[ALPHA_1, ALPHA_2]);
    world.sync(&script, &patient(NAMES)).unwrap();
    stands(&world, "9 Alpha:9 beta:7");
    assert_eq!(world.version("alpha").as_deref(), Some("2"));
}

#[test]
fn a_double_collect_takes_an_older_page_for_the_bases_if_it_shows_the_same() {
    let (world, script) = synced();
    let done = world.sync(&script, &settings(NAMES)).unwrap();
    // The snapshot says how upstream was followed, so another way is another snapshot.
    assert_eq!((done.label.to_string().as_str(), done.changed), ("8.2", 0));
    let other = changed(page("Alpha", Some(5), "1", &[ALPHA_1]), |_, seen| seen.versions = vec!["0".to_owned()]);
    script.pages("Alpha", [Reply::Page(other, None)]);
    let freeze = Settings { on_broken: OnBroken::Freeze, ..crate::support::impatient(NAMES) };
    let names = in_the_way(world.sync(&script, &freeze));
    assert!(names[&name("alpha")].starts_with("its page has serial 5, and 8 was seen before"), "{names:?}");
    stands(&world, "8 Alpha:8 beta:7");
}
