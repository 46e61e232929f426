//! The double collect: what is recorded was true of all pages at one moment between two passes, as far as upstream's own
//! answers tell.

use std::sync::Arc;

use strandline_faultkit::{World, invariants, mirror};
use strandline_model::Label;
use strandline_sync::{OnBroken, Settings, SyncError};

use crate::support::script::{Reply, Script, changed, name, page, serial};
use crate::support::{Syncs as _, impatient, in_the_way, settings};

const ALPHA: (&str, &[u8]) = ("alpha-1.tar.gz", b"the bytes of alpha 1");

fn script() -> Arc<Script> {
    let script = Script::new();
    script.publish("Alpha", Some(5), "1", &[ALPHA]);
    script.publish("beta", Some(7), "1", &[("beta-1.tar.gz", b"the bytes of beta 1")]);
    Arc::new(script)
}

/// Where a broken project is to stop everything.
fn freezing() -> Settings {
    Settings { on_broken: OnBroken::Freeze, ..impatient(&["Alpha", "beta"]) }
}

fn at(number: u64) -> Label {
    Label { serial: serial(number), revision: 1 }
}

#[test]
fn a_quiet_upstream_takes_two_passes() {
    let (world, script) = (World::new(), script());
    let done = world.sync(&script, &impatient(&["Alpha", "beta"])).unwrap();
    assert_eq!((done.label, done.before, done.changed, done.projects), (at(7), None, 2, 2));
    assert!(done.published && done.held.is_empty() && done.absent.is_empty());
    let asked = script.asked();
    assert_eq!(asked.len(), 6, "{asked:?}");
    for what in ["page alpha", "page beta"] {
        assert_eq!(Script::count(&asked, what), 2, "{asked:?}");
    }
    assert_eq!(world.list(), "7 Alpha:5 beta:7");
    assert_eq!(world.served("packages/aa/bb/cc/alpha-1.tar.gz").unwrap(), "the bytes of alpha 1");
    let store = world.open();
    assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(7));
    invariants::check_at_rest(&world.root(), &store, &mirror());
}

#[test]
fn a_sync_repeated_changes_nothing() {
    let (world, script) = (World::new(), script());
    world.sync(&script, &settings(&["Alpha", "beta"])).unwrap();
    script.asked();
    let before = invariants::essence(&world.root());
    for _ in 0..2 {
        let done = world.sync(&script, &settings(&["Alpha", "beta"])).unwrap();
        assert_eq!((done.label, done.before, done.changed), (at(7), Some(at(7)), 0));
        assert_eq!(invariants::essence(&world.root()), before);
    }
    assert!(script.asked().iter().all(|asked| asked.starts_with("page ")), "no file is fetched twice");
}

#[test]
fn upstream_may_say_that_nothing_changed() {
    let (world, script) = (World::new(), script());
    script.pages("Alpha", [Reply::Page(page("Alpha", Some(5), "1", &[ALPHA]), Some("\"a\""))]);
    world.sync(&script, &settings(&["Alpha", "beta"])).unwrap();
    assert_eq!(script.asked().iter().filter(|asked| asked.as_str() == "page alpha if \"a\"").count(), 1);
    let before = invariants::essence(&world.root());
    world.sync(&script, &settings(&["Alpha", "beta"])).unwrap();
    let asked = script.asked();
    assert_eq!(Script::count(&asked, "page alpha if \"a\""), 2, "{asked:?}");
    assert_eq!(Script::count(&asked, "page alpha"), 0, "{asked:?}");
    assert_eq!(invariants::essence(&world.root()), before);

    // Another page under another tag is seen, and the new tag is the one that is used from then on.
    script.pages("Alpha", [Reply::Page(page("Alpha", Some(8), "2", &[ALPHA]), Some("\"b\""))]);
    assert_eq!(world.sync(&script, &settings(&["Alpha", "beta"])).unwrap().label, at(8));
    let asked = script.asked();
    assert_eq!(Script::count(&asked, "page alpha if \"a\""), 1, "{asked:?}");
    assert_eq!(Script::count(&asked, "page alpha if \"b\""), 1, "{asked:?}");
    assert_eq!(world.version("alpha").unwrap(), "2");
}

#[test]
fn a_page_that_changes_between_the_passes_takes_another() {
    let (world, script) = (World::new(), script());
    let then = |number, version| Reply::Page(page("Alpha", Some(number), version, &[ALPHA]), None);
    script.pages("Alpha", [then(5, "1"), then(8, "2"), then(9, "3")]);
    let done = world.sync(&script, &settings(&["Alpha", "beta"])).unwrap();
    assert_eq!(done.label, at(9));
    let asked = script.asked();
    assert_eq!((Script::count(&asked, "page alpha"), Script::count(&asked, "page beta")), (4, 4), "{asked:?}");
    assert_eq!(world.version("alpha").unwrap(), "3");
    assert_eq!(world.labels(), ["9"], "nothing in between was recorded");
}

#[test]
fn a_change_without_a_serial_is_seen_too() {
    let (world, script) = (World::new(), script());
    let same_serial = |version| Reply::Page(page("Alpha", Some(5), version, &[ALPHA]), None);
    script.pages("Alpha", [same_serial("1"), same_serial("2")]);
    world.sync(&script, &settings(&["Alpha", "beta"])).unwrap();
    assert_eq!(world.version("alpha").unwrap(), "2");
    // Recorded again under the same serial, it is a revision.
    script.pages("Alpha", [same_serial("3")]);
    let done = world.sync(&script, &settings(&["Alpha", "beta"])).unwrap();
    assert_eq!(done.label.to_string(), "7.2");
    assert_eq!(world.version("alpha").unwrap(), "3");
}

#[test]
fn a_page_that_keeps_changing_is_named_and_nothing_is_published_where_that_is_asked_for() {
    let (world, script) = (World::new(), script());
    world.sync(&script, &settings(&["Alpha", "beta"])).unwrap();
    let before = invariants::essence(&world.root());
    let then = |number: u64| Reply::Page(page("Alpha", Some(number), &number.to_string(), &[ALPHA]), None);
    script.pages("Alpha", (8..100).map(then));
    let names = in_the_way(world.sync(&script, &freezing()));
    assert_eq!(names.into_iter().collect::<Vec<_>>(), [(name("alpha"), "its page keeps changing".to_owned())]);
    assert_eq!(invariants::essence(&world.root()), before);
    let last = world.mirror().last_sync().unwrap().unwrap();
    assert_eq!(last.failure.unwrap(), "upstream was not consistent: alpha: its page keeps changing");

    script.pages("Alpha", [then(100)]);
    assert_eq!(world.sync(&script, &impatient(&["Alpha", "beta"])).unwrap().label, at(100));
    assert_eq!(world.mirror().last_sync().unwrap().unwrap().failure, None);
}

/// Patience is for what changes: bringing a mirror its first files may take as long as it takes.
#[test]
fn the_first_pass_does_not_use_up_the_patience() {
    let (world, script) = (World::new(), script());
    assert_eq!(world.sync(&script, &impatient(&["Alpha", "beta"])).unwrap().label, at(7));
    script.publish("Alpha", Some(8), "2", &[("alpha-2.tar.gz", b"alpha 2, as large as it is")]);
    assert_eq!(world.sync(&script, &impatient(&["Alpha", "beta"])).unwrap().label, at(8));
}

#[test]
fn a_page_that_went_back_is_a_stale_cache() {
    let (world, script) = (World::new(), script());
    world.sync(&script, &settings(&["Alpha", "beta"])).unwrap();
    let then = |number, version| Reply::Page(page("Alpha", Some(number), version, &[ALPHA]), None);
    script.pages("Alpha", [then(4, "0")]);
    let names = in_the_way(world.sync(&script, &freezing()));
    let why = "its page has serial 4, and 5 was seen before: a cache may be stale. ";
    assert_eq!(names.keys().collect::<Vec<_>>(), [&name("alpha")]);
    assert!(names[&name("alpha")].starts_with(why), "{names:?}");
    assert_eq!(world.version("alpha").unwrap(), "1");

    // Within one sync as well, and it is asked for again until it is what was seen.
    script.pages("Alpha", [then(4, "0"), then(9, "2"), then(5, "1"), then(4, "0"), then(9, "2")]);
    assert_eq!(world.sync(&script, &settings(&["Alpha", "beta"])).unwrap().label, at(9));
    assert_eq!(world.version("alpha").unwrap(), "2");
}

#[test]
fn what_upstream_does_not_have_is_absent() {
    let (world, script) = (World::new(), script());
    let done = world.sync(&script, &settings(&["Alpha", "nowhere", "beta"])).unwrap();
    assert_eq!((done.absent, done.projects), (vec![name("nowhere")], 2));

    // A project that goes, goes; one that comes, comes.
    script.pages("beta", [Reply::Missing]);
    let done = world.sync(&script, &settings(&["Alpha", "nowhere", "beta"])).unwrap();
    assert_eq!((done.absent, done.changed), (vec![name("beta"), name("nowhere")], 1));
    assert_eq!(world.list(), "7 Alpha:5");
    assert_eq!(world.version("beta"), None);
    script.publish("nowhere", Some(9), "1", &[]);
    world.sync(&script, &settings(&["Alpha", "nowhere", "beta"])).unwrap();
    assert_eq!(world.list(), "9 Alpha:5 nowhere:9");
}

#[test]
fn an_upstream_that_has_nothing_is_an_error() {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    let error = world.sync(&script, &settings(&["Alpha", "beta"])).unwrap_err();
    assert!(matches!(&error, SyncError::NothingFound { projects, .. } if projects == "alpha, beta"), "{error}");
    assert_eq!(world.labels(), [""; 0]);
    assert_eq!(world.list(), "");
}

#[test]
fn a_selection_that_changes_adds_and_drops_exactly_that() {
    let (world, script) = (World::new(), script());
    script.publish("gamma", Some(3), "1", &[]);
    world.sync(&script, &settings(&["Alpha", "beta"])).unwrap();
    let beta = world.leaf("beta").unwrap();
    script.asked();
    let done = world.sync(&script, &settings(&["beta", "gamma"])).unwrap();
    assert_eq!((done.changed, done.label.to_string().as_str()), (2, "7.2"));
    assert_eq!(world.list(), "7 beta:7 gamma:3");
    assert_eq!(world.leaf("beta").unwrap(), beta);
    assert!(script.asked().iter().all(|asked| !asked.contains("alpha")));
    assert_eq!(world.version("alpha"), None);

    // The same names in another spelling and order are the same selection.
    assert_eq!(world.sync(&script, &settings(&["Gamma", "BETA"])).unwrap().changed, 0);
    assert_eq!(world.labels(), ["7.2", "7"]);
}

#[test]
fn everything_is_what_the_index_lists() {
    let (world, script) = (World::new(), script());
    let everything =
        || strandline_sync::Settings { selection: strandline_sync::Selection::Everything, ..settings(&[]) };
    world.sync(&script, &everything()).unwrap();
    assert_eq!(world.list(), "7 Alpha:5 beta:7");
    script.publish("gamma", Some(8), "1", &[]);
    script.pages("beta", [Reply::Missing]);
    world.sync(&script, &everything()).unwrap();
    assert_eq!(world.list(), "8 Alpha:5 gamma:8");
}

/// An index does not list what is quarantined, and a list may come from a cache.
#[test]
fn a_page_is_asked_for_before_its_project_is_believed_to_be_gone() {
    let (world, script) = (World::new(), script());
    let everything =
        || strandline_sync::Settings { selection: strandline_sync::Selection::Everything, ..settings(&[]) };
    world.sync(&script, &everything()).unwrap();
    script.unlist("beta");
    script.asked();
    let done = world.sync(&script, &everything()).unwrap();
    assert_eq!((done.changed, done.absent), (0, vec![]));
    assert_eq!(Script::count(&script.asked(), "page beta"), 2);
    assert_eq!(world.list(), "7 Alpha:5 beta:7");

    let quarantined = changed(page("beta", Some(8), "", &[]), |told, _| told.quarantined = true);
    script.pages("beta", [Reply::Page(quarantined, None)]);
    let done = world.sync(&script, &everything()).unwrap();
    assert_eq!((done.changed, done.label, done.absent), (1, at(8), vec![]));
    assert_eq!(world.list(), "8 Alpha:5");
    // It is there, unlisted, and asked for again, and nothing changes.
    assert_eq!(world.leaf("beta").map(|leaf| (leaf.listed, leaf.serial.get())), Some((false, 8)));
    assert!(world.version("beta").is_some());
    assert_eq!(world.sync(&script, &everything()).unwrap().changed, 0);

    script.publish("beta", Some(9), "1", &[]);
    script.relist("beta");
    world.sync(&script, &everything()).unwrap();
    script.pages("beta", [Reply::Missing]);
    let done = world.sync(&script, &everything()).unwrap();
    assert_eq!((done.changed, done.absent), (1, vec![]));
    assert_eq!(world.list(), "9 Alpha:5");
}

#[test]
fn an_index_without_serials_is_counted() {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    let names = settings(&["Alpha", "beta"]);
    script.publish("Alpha", None, "1", &[ALPHA]);
    script.publish("beta", None, "1", &[]);
    assert_eq!(world.sync(&script, &names).unwrap().label, at(1));
    assert_eq!(world.list(), "1 Alpha:1 beta:1");
    assert_eq!(world.sync(&script, &names).unwrap().label, at(1), "nothing changed, nothing is counted");
    assert_eq!(world.labels(), ["1"]);

    script.publish("beta", None, "2", &[]);
    assert_eq!(world.sync(&script, &names).unwrap().label, at(2));
    assert_eq!(world.list(), "2 Alpha:1 beta:2", "each keeps the count at which it last changed");
    script.publish("Alpha", None, "2", &[ALPHA]);
    assert_eq!(world.sync(&script, &names).unwrap().label, at(3));
    assert_eq!(world.list(), "3 Alpha:3 beta:2");
    assert_eq!(world.labels(), ["3", "2", "1"]);
}
