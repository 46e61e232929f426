//! How a mirror is followed is decided at its first sync, and changes only by configuration or where a selection outgrows the
//! double collect. After a change nothing stays hidden that a cache hid before.

use std::sync::Arc;
use std::time::Duration;

use strandline_faultkit::{World, invariants, now};
use strandline_model::{Form, Method, Timestamp};
use strandline_sync::cut::Action;
use strandline_sync::{OnBroken, Outcome, Settings, SyncError};

use crate::support::script::{Reply, Script, add, changed, event, page, status, two};
use crate::support::{Syncs as _, settings, sync_store_at};

/// An index of so many projects, with a log.
fn index_of(count: u64) -> (Arc<Script>, Vec<String>) {
    let script = Script::new();
    let names: Vec<_> = (0..count).map(|number| format!("p{number:03}")).collect();
    for (number, name) in (1..).zip(&names) {
        script.publish(name, Some(number), "1", &[]);
        script.log([event(number, name, Action::Create)]);
    }
    (Arc::new(script), names)
}

/// The first so many of the projects, followed as the program thinks best.
fn auto(names: &[String]) -> Settings {
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    Settings { method: None, ..settings(&names) }
}

fn method(world: &World) -> Method {
    let mirror = world.open().mirror(&strandline_faultkit::mirror()).unwrap().unwrap();
    mirror.latest_verified().unwrap().unwrap().snapshot.method
}

#[test]
fn a_log_that_is_not_there_for_a_moment_changes_nothing() {
    let (world, (script, names)) = (World::new(), index_of(101));
    world.sync(&script, &auto(&names)).unwrap();
    assert_eq!(method(&world), Method::Changelog);
    let before = invariants::essence(&world.root());
    // A cache still shows the page of the first event, and only the log says that it is too old.
    let mut log = script.take_log();
    log.extend([event(102, "p000", two(Action::NewRelease)), event(103, "p001", two(Action::NewRelease))]);
    script.publish("p001", Some(103), "1 2", &[]);
    for _ in 0..2 {
        let refused = world.sync(&script, &auto(&names));
        assert!(matches!(refused, Err(SyncError::ChangelogGone { .. })), "{refused:?}");
        assert_eq!(invariants::essence(&world.root()), before);
    }
    // The operator may say that there is none any more.
    script.log(log);
    script.publish("p000", Some(102), "1 2", &[]);
    assert_eq!(world.sync(&script, &auto(&names)).unwrap().label.to_string(), "103");
    assert_eq!((world.version("p000"), world.version("p001")), (Some("1 2".to_owned()), Some("1 2".to_owned())));
    drop(script.take_log());
    let collected = Settings { method: Some(Method::Collect), ..auto(&names) };
    world.sync(&script, &collected).unwrap();
    assert_eq!(method(&world), Method::Collect);
    assert_eq!(world.sync(&script, &auto(&names)).unwrap().changed, 0);
    assert_eq!(method(&world), Method::Collect);
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(now().seconds() + seconds).unwrap()
}

/// Since when upstream says that it has no log, and from when on the mirror does without, as the failure says; in seconds.
fn gone_since(result: &Result<Outcome, SyncError>) -> (Option<i64>, Option<i64>) {
    let Err(SyncError::ChangelogGone { since, collects_from, .. }) = result else { unreachable!("{result:?}") };
    let seconds = |time: Timestamp| time.seconds() - now().seconds();
    (since.map(seconds), collects_from.map(seconds))
}

const HOUR: i64 = 3600;
const DAYS: i64 = 86_400;

#[test]
fn a_log_that_upstream_says_for_three_days_that_it_has_not_is_done_without() {
    let (world, (script, names)) = (World::new(), index_of(101));
    let sync = |seconds| sync_store_at(&world.open(), &script, &auto(&names), at(seconds));
    sync(0).unwrap();
    let log = script.take_log();
    // What a cache hid while the log was followed does not stay hidden: all pages are read anew.
    script.pages("p000", [Reply::Page(page("p000", Some(1), "1", &[]), Some("\"tag\""))]);
    script.asked();
    for (seconds, lists) in [(HOUR, 1), (HOUR + 60, 0), (2 * HOUR, 1), (3 * DAYS + HOUR - 1, 1)] {
        assert_eq!(gone_since(&sync(seconds)), (Some(HOUR), Some(3 * DAYS + HOUR)), "after {seconds} s");
        assert_eq!(Script::count(&script.asked(), "projects"), lists, "the list is long: after {seconds} s");
    }
    script.publish("p001", Some(102), "1 2", &[]);
    let done = sync(3 * DAYS + HOUR).unwrap();
    assert_eq!((done.label.to_string(), method(&world)), ("102".to_owned(), Method::Collect));
    assert_eq!(world.version("p001").unwrap(), "1 2");
    assert!(script.asked().contains(&"page p000".to_owned()), "without a tag");
    // It stays so.
    script.log(log);
    sync(4 * DAYS).unwrap();
    assert_eq!(method(&world), Method::Collect);
    assert!(!script.asked().contains(&"log".to_owned()));
}

#[test]
fn a_log_that_is_there_in_between_is_not_done_without() {
    let (world, (script, names)) = (World::new(), index_of(101));
    let sync = |seconds| sync_store_at(&world.open(), &script, &auto(&names), at(seconds));
    sync(0).unwrap();
    let log = script.take_log();
    assert_eq!(gone_since(&sync(DAYS)).0, Some(DAYS));
    script.log(log);
    sync(2 * DAYS).unwrap();
    let log = script.take_log();
    // An answer that is none, or one without a list beside it, says nothing either way.
    assert_eq!(gone_since(&sync(3 * DAYS)).0, Some(3 * DAYS));
    script.fail_lists(Some(status(503)));
    for seconds in [4 * DAYS, 6 * DAYS, 7 * DAYS] {
        assert_eq!(gone_since(&sync(seconds)), (Some(3 * DAYS), None));
    }
    script.fail_lists(None);
    script.log(log);
    sync(8 * DAYS).unwrap();
    assert_eq!(method(&world), Method::Changelog);
}

#[test]
fn a_log_that_the_configuration_names_is_never_done_without() {
    let (world, (script, names)) = (World::new(), index_of(5));
    let named = Settings { method: Some(Method::Changelog), ..auto(&names) };
    let sync = |seconds| sync_store_at(&world.open(), &script, &named, at(seconds));
    sync(0).unwrap();
    drop(script.take_log());
    for seconds in [DAYS, 4 * DAYS, 9 * DAYS] {
        assert_eq!(gone_since(&sync(seconds)), (Some(DAYS), None));
    }
}

#[test]
fn an_index_without_a_log_is_collected_from_the_first_sync_on() {
    let (world, (script, names)) = (World::new(), index_of(101));
    let log = script.take_log();
    world.sync(&script, &auto(&names)).unwrap();
    assert_eq!(method(&world), Method::Collect);
    script.asked();
    // A log that is there later is not even asked for.
    script.log(log);
    world.sync(&script, &auto(&names)).unwrap();
    assert_eq!(method(&world), Method::Collect);
    assert!(!script.asked().contains(&"log".to_owned()));
}

#[test]
fn a_selection_that_outgrows_the_double_collect_is_followed_by_the_log() {
    let (world, (script, names)) = (World::new(), index_of(202));
    for (count, expected) in
        [(90, Method::Collect), (150, Method::Collect), (201, Method::Changelog), (150, Method::Changelog)]
    {
        let asked = Settings { accept_drop: true, ..auto(&names[..count]) };
        assert_eq!(world.sync(&script, &asked).unwrap().projects, count as u64);
        assert_eq!(method(&world), expected, "{count} projects");
    }
}

#[test]
fn what_a_cache_hid_from_the_collect_is_found_by_the_log() {
    let (world, (script, names)) = (World::new(), index_of(5));
    let as_collected = Settings { method: Some(Method::Collect), ..auto(&names) };
    let by_the_log = Settings { method: Some(Method::Changelog), ..auto(&names) };
    let tagged = |number, versions| Reply::Page(page("p000", Some(number), versions, &[]), Some("\"tag\""));
    script.pages("p000", [tagged(1, "1")]);
    world.sync(&script, &as_collected).unwrap();
    // The cache goes on answering with the old page and its tag, while another project's event has a greater serial.
    script.log([event(6, "p000", add("p000-2.tar.gz")), event(7, "p001", two(Action::NewRelease))]);
    script.publish("p001", Some(7), "1 2", &[]);
    assert_eq!(world.sync(&script, &as_collected).unwrap().label.to_string(), "7");
    assert_eq!(world.version("p000").unwrap(), "1");
    script.publish("p000", Some(6), "1 2", &[("p000-2.tar.gz", b"two")]);
    world.sync(&script, &by_the_log).unwrap();
    assert_eq!(world.version("p000").unwrap(), "1 2");

    // And the other way round: the log's page is not believed for its tag.
    script.pages("p000", [Reply::Page(page("p000", Some(6), "1 2", &[("p000-2.tar.gz", b"two")]), Some("\"new\""))]);
    world.sync(&script, &by_the_log).unwrap();
    script.asked();
    world.sync(&script, &as_collected).unwrap();
    assert!(script.asked().contains(&"page p000".to_owned()));
}

/// The page of a project in HTML, which has no serial.
fn in_html(project: &str, versions: &str) -> Reply {
    let page = changed(page(project, None, versions, &[]), |_, seen| seen.preamble.form = Form::Html);
    Reply::Page(page, None)
}

#[test]
fn an_index_may_have_some_projects_in_html_and_some_in_json() {
    let (world, (script, mut names)) = (World::new(), index_of(2));
    script.pages("inner", [in_html("inner", "1")]);
    names.push("inner".to_owned());
    let collected = Settings { method: Some(Method::Collect), ..auto(&names) };
    assert_eq!(world.sync(&script, &collected).unwrap().projects, 3);
    script.pages("inner", [in_html("inner", "1 2")]);
    world.sync(&script, &collected).unwrap();
    assert_eq!(world.version("inner").unwrap(), "1 2");
}

#[test]
fn a_page_in_html_is_no_answer_where_the_project_was_read_in_json() {
    for method in [Method::Collect, Method::Changelog] {
        let (world, (script, names)) = (World::new(), index_of(2));
        let (cut_timeout, on_broken) = (Duration::ZERO, OnBroken::Freeze);
        let asked = Settings { method: Some(method), cut_timeout, on_broken, ..auto(&names) };
        world.sync(&script, &asked).unwrap();
        let before = invariants::essence(&world.root());
        script.pages("p000", [in_html("p000", "0")]);
        script.log([event(3, "p000", add("p000-2.tar.gz"))]);
        let error = world.sync(&script, &asked).unwrap_err();
        let said = strandline_model::with_causes(&error);
        assert!(said.contains("the page is HTML, and the index has it in JSON"), "{said}");
        assert_eq!(invariants::essence(&world.root()), before);
        script.publish("p000", Some(3), "1 2", &[("p000-2.tar.gz", b"two")]);
        assert_eq!(world.sync(&script, &asked).unwrap().label.to_string(), "3");
        assert_eq!(world.version("p000").unwrap(), "1 2");
    }
}
