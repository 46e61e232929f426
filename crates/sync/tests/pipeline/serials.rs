//! Serials that are absurd, go back, or are the mirror's own; and the two ways on that an operator has.

use std::sync::Arc;
use std::time::Duration;

use strandline_durable::Disk;
use strandline_faultkit::{World, mirror, now};
use strandline_model::{HoldReason, Label, Serial};
use strandline_store::{Store, Wait};
use strandline_sync::cut::Action;
use strandline_sync::{MaxDrop, Method, Selection, Settings, SyncError};

use crate::support::script::{Reply, Script, add, event, page, serial, status, two};
use crate::support::{Syncs as _, settings};

const NAMES: &[&str] = &["alpha", "beta"];

fn by(method: Method) -> Settings {
    Settings { method: Some(method), ..settings(NAMES) }
}

fn following() -> Settings {
    by(Method::Changelog)
}

/// An index of two projects with a log that ends at serial `last`.
fn upstream(last: u64) -> Arc<Script> {
    let script = Script::new();
    for (number, name) in [(last - 1, "alpha"), (last, "beta")] {
        script.publish(name, Some(number), "1", &[]);
        script.log([event(number, name, Action::Create)]);
    }
    Arc::new(script)
}

fn labels(world: &World) -> Vec<String> {
    world.labels()
}

fn reset(world: &World) {
    world.open().lock(&mirror(), Wait::Never, now()).unwrap().reset().unwrap();
}

#[test]
fn a_row_that_is_far_beyond_all_others_is_not_taken() {
    for far in [2_000_000, 1 << 40, (1 << 63) - 1] {
        let (world, script) = (World::new(), upstream(8));
        world.sync(&script, &following()).unwrap();
        script.log([event(far, "other", Action::Create)]);
        // It stays, and is said each time.
        for _ in 0..2 {
            let refused = world.sync(&script, &following());
            assert!(
                matches!(&refused, Err(SyncError::LogLeaps { before, after, .. })
                    if (before.get(), after.get()) == (8, far)),
                "{refused:?}"
            );
        }
        // It keeps nothing back.
        script.publish("beta", Some(9), "1 2", &[]);
        script.insert([event(9, "beta", two(Action::NewRelease))]);
        assert_eq!(world.sync(&script, &following()).unwrap().label.to_string(), "9");
        assert_eq!(world.version("beta").as_deref(), Some("1 2"));
        // And it was there once only.
        let log = script.take_log();
        script.log(log.into_iter().filter(|event| event.serial.get() < far));
        assert_eq!(world.sync(&script, &following()).unwrap().changed, 0);
    }
}

/// The same at a first sync, in a page, and in upstream's list.
#[test]
fn a_number_that_the_log_does_not_have_moves_no_first_sync() {
    let (world, script) = (World::new(), upstream(8));
    script.log([event(1 << 40, "other", Action::Create)]);
    script.list("beta", 1 << 50);
    script.pages("alpha", [Reply::Page(page("alpha", Some(1 << 60), "1", &[]), None)]);
    world.sync(&script, &Settings { selection: Selection::Everything, ..following() }).unwrap();
    assert_eq!(labels(&world), ["8"]);
    assert_eq!(world.list(), "8 alpha:7 beta:8");
}

/// The list, too, has the number of a row that cannot be.
#[test]
fn a_row_that_is_far_away_and_alone_moves_no_first_sync_and_no_reset() {
    for synced in [false, true] {
        let (world, script) = (World::new(), upstream(8));
        if synced {
            world.sync(&script, &following()).unwrap();
            reset(&world);
        }
        let far = 900_000_000;
        script.publish("odd", Some(far), "1", &[]);
        script.log([event(far, "odd", Action::Create)]);
        let everything = Settings { selection: Selection::Everything, ..following() };
        assert_eq!(world.sync(&script, &everything).unwrap().label.serial.get(), 8, "{synced}");
        script.publish("beta", Some(9), "1 2", &[]);
        script.insert([event(9, "beta", two(Action::NewRelease))]);
        assert_eq!(world.sync(&script, &everything).unwrap().label.serial.get(), 9, "{synced}");
    }
}

#[test]
fn an_index_that_goes_on_far_away_is_followed_there_after_a_reset() {
    let (world, script) = (World::new(), upstream(8));
    world.sync(&script, &following()).unwrap();
    let far = 20_000_000;
    script.publish("beta", Some(far), "1 2", &[]);
    script.log([event(far - 1, "other", Action::Create), event(far, "beta", two(Action::NewRelease))]);
    assert!(matches!(world.sync(&script, &following()), Err(SyncError::LogLeaps { .. })));
    reset(&world);
    assert_eq!(world.sync(&script, &following()).unwrap().label.serial.get(), far);
    assert_eq!(world.version("beta").as_deref(), Some("1 2"));
}

/// A cache has kept a page for longer than the log is read back, and upstream's list says so: at a first sync, and where a project
/// enters the selection.
#[test]
fn a_page_that_is_older_than_the_list_says_is_stale() {
    let old = || page("old", Some(5), "1", &[]);
    let index = || {
        let script = upstream(60_000);
        script.publish("old", Some(6), "1 2", &[]);
        script.list("old", 6);
        script
    };
    let with_old =
        |hold_after| Settings { method: Some(Method::Changelog), hold_after, ..settings(&["alpha", "beta", "old"]) };
    let (young, aged) = (Duration::from_secs(1 << 40), Duration::ZERO);
    for enters in [false, true] {
        // The way around the cache leads to it.
        let (world, script) = (World::new(), index());
        if enters {
            world.sync(&script, &following()).unwrap();
        }
        script.pages("old", [Reply::Page(old(), None), Reply::Page(page("old", Some(6), "1 2", &[]), None)]);
        world.sync(&script, &with_old(young)).unwrap();
        assert_eq!(world.version("old").as_deref(), Some("1 2"), "{enters}");
        // It does not: the project is held, and comes back by itself.
        let (world, script) = (World::new(), index());
        if enters {
            world.sync(&script, &following()).unwrap();
        }
        script.pages("old", [Reply::Page(old(), None)]);
        let impatient = Settings { cut_timeout: Duration::ZERO, ..with_old(aged) };
        let done = world.sync(&script, &impatient).unwrap();
        let held: Vec<_> = done.held.iter().map(|held| (held.name.as_str(), held.reason, held.needs.get())).collect();
        assert_eq!((held, done.published), (vec![("old", HoldReason::StalePage, 6)], true), "{enters}");
        script.publish("old", Some(6), "1 2", &[]);
        assert_eq!(world.sync(&script, &impatient).unwrap().held, []);
        assert_eq!(world.version("old").as_deref(), Some("1 2"));
    }
}

/// Two things may happen under one number.
#[test]
fn rows_with_one_serial_all_count() {
    const FILES: [(&str, &[u8]); 2] = [("beta-1.tar.gz", b"beta 1"), ("beta-2.tar.gz", b"beta 2")];
    let (world, script) = (World::new(), upstream(8));
    world.sync(&script, &following()).unwrap();
    script.publish("alpha", Some(9), "1 2", &[]);
    script.publish("beta", Some(9), "1", &FILES);
    script.log([
        event(9, "beta", add(FILES[0].0)),
        event(9, "alpha", two(Action::NewRelease)),
        event(9, "beta", add(FILES[1].0)),
    ]);
    let done = world.sync(&script, &following()).unwrap();
    assert_eq!((done.changed, done.label.to_string().as_str()), (2, "9"));
    assert_eq!(world.list(), "9 alpha:9 beta:9");
    assert_eq!(world.sync(&script, &following()).unwrap().changed, 0, "read again, they are the same rows");
}

#[test]
fn an_index_that_was_set_up_anew_is_followed_after_a_reset() {
    let (world, script) = (World::new(), upstream(500));
    world.sync(&script, &following()).unwrap();
    let kept = labels(&world);
    // Another day, the same projects and one more file, and serials from the beginning on.
    let script = upstream(8);
    script.publish("beta", Some(8), "1", &[("beta-2.tar.gz", b"beta 2")]);
    for _ in 0..2 {
        let refused = world.sync(&script, &following()).unwrap_err();
        assert!(matches!(refused, SyncError::SerialWentBack { .. }), "{refused:?}");
        assert!(refused.to_string().contains("strandline mirror reset"), "{refused}");
    }
    assert_eq!(world.list(), "500 alpha:499 beta:500");
    // Right again before anything was done: the mirror comes out by itself.
    world.sync(&upstream(500), &following()).unwrap();
    reset(&world);
    let done = world.sync(&script, &following()).unwrap();
    assert_eq!((done.label.to_string().as_str(), done.published), ("8", true));
    assert_eq!(world.list(), "8 alpha:7 beta:8");
    assert_eq!(labels(&world), [&["8".to_owned()], &kept[..]].concat(), "the newest is the one that was recorded last");
    // From there on it is followed as any other.
    script.publish("alpha", Some(9), "1 2", &[]);
    script.log([event(9, "alpha", two(Action::NewRelease))]);
    assert_eq!(world.sync(&script, &following()).unwrap().label.to_string(), "9");
    assert_eq!(labels(&world)[..2], ["9", "8"]);
    // And a serial that it had before gets another revision.
    script.log((10..=500).map(|number| event(number, "beta", None)));
    assert_eq!(world.sync(&script, &following()).unwrap().label, Label { serial: serial(500), revision: 2 });
    assert_eq!(world.latest().snapshot.label, Label { serial: serial(500), revision: 2 });
}

#[test]
fn a_reset_asks_for_every_page_and_keeps_what_is_broken_as_it_was() {
    let (world, script) = (World::new(), upstream(8));
    // The log alone does not tell the project.
    script.log([event(9, "beta", Action::Unknown)]);
    script.publish("beta", Some(9), "1", &[("beta-1.tar.gz", b"beta 1")]);
    world.sync(&script, &following()).unwrap();
    reset(&world);
    script.pages("beta", [Reply::Missing]);
    script.asked();
    let done = world.sync(&script, &following()).unwrap();
    assert!(script.asked().contains(&"page alpha".to_owned()), "without a validator");
    let held: Vec<_> = done.held.iter().map(|held| held.name.as_str()).collect();
    assert_eq!((held, done.published), (vec!["beta"], true));
    assert_eq!(world.version("beta").as_deref(), Some("1"));
    // Once it is whole again, it is not held any more.
    script.publish("beta", Some(9), "1", &[("beta-1.tar.gz", b"beta 1")]);
    assert_eq!(world.sync(&script, &following()).unwrap().held, []);
    // What was begun anew once is followed by the log again.
    script.asked();
    world.sync(&script, &following()).unwrap();
    assert_eq!(Script::count(&script.asked(), "page alpha"), 0);
}

/// An index that lost projects is not believed more because the mirror begins anew.
#[test]
fn a_reset_takes_away_no_more_than_max_drop() {
    let (world, script) = (World::new(), upstream(8));
    world.sync(&script, &following()).unwrap();
    script.unlist("alpha");
    script.pages("alpha", [Reply::Missing]);
    let log = script.take_log();
    script.log(log.into_iter().filter(|event| event.project.as_str() != "alpha"));
    reset(&world);
    let strict = Settings { max_drop: MaxDrop::Projects(0), ..following() };
    let refused = world.sync(&script, &strict);
    assert!(matches!(refused, Err(SyncError::Drop { vanished: 1, .. })), "{refused:?}");
    assert_eq!(world.list(), "8 alpha:7 beta:8");
    world.sync(&script, &Settings { accept_drop: true, ..strict }).unwrap();
    assert_eq!(world.list(), "8 beta:8");
}

/// An index without serials, which then has some: lower ones, and higher ones.
#[test]
fn a_mirror_that_leaves_its_own_count_takes_upstreams_serials() {
    for (last, method) in [(8, Method::Changelog), (5_000_000, Method::Changelog), (8, Method::Collect)] {
        let (world, script) = (World::new(), Script::new());
        let script = Arc::new(script);
        for round in 0..20 {
            script.publish("alpha", None, &format!("1 {round}"), &[]);
            script.publish("beta", None, "1", &[]);
            world.sync(&script, &by(Method::Collect)).unwrap();
        }
        assert_eq!(labels(&world)[0], "20");
        let script = upstream(last);
        script.publish("alpha", Some(last - 1), "1 19", &[]);
        let done = world.sync(&script, &by(method)).unwrap();
        assert_eq!((done.label.serial.get(), done.published), (last, true), "{method}");
        assert_eq!(world.list(), format!("{last} alpha:{} beta:{last}", last - 1));
        assert_eq!(labels(&world).len(), 21, "every kept serial stays");
        let again = world.sync(&script, &by(method)).unwrap();
        assert_eq!((again.changed, again.label.serial.get()), (0, last));
    }
}

#[test]
fn a_mirror_that_counts_goes_on_counting_after_a_reset() {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    for version in ["1", "1 2", "1 2 3"] {
        script.publish("alpha", None, version, &[]);
        script.publish("beta", None, "1", &[]);
        world.sync(&script, &by(Method::Collect)).unwrap();
    }
    reset(&world);
    script.publish("alpha", None, "1 2 3 4", &[]);
    world.sync(&script, &by(Method::Collect)).unwrap();
    assert_eq!(labels(&world), ["4", "3", "2", "1"]);
}

/// An index that counts anew is, in the double collect, a cache that may be stale, until an operator says otherwise.
#[test]
fn a_double_collect_takes_lower_serials_after_a_reset() {
    let (world, script) = (World::new(), upstream(500));
    world.sync(&script, &by(Method::Collect)).unwrap();
    let script = upstream(8);
    script.publish("alpha", Some(7), "1 2", &[]);
    script.publish("beta", Some(8), "1 2", &[]);
    let impatient = Settings { cut_timeout: Duration::ZERO, ..by(Method::Collect) };
    let refused = world.sync(&script, &impatient).unwrap_err();
    assert!(refused.to_string().contains("strandline mirror reset"), "{refused}");
    reset(&world);
    assert_eq!(world.sync(&script, &impatient).unwrap().label.to_string(), "8");
}

/// What the mirror has of a project that is held while the count changes has a number of the old one.
#[test]
fn a_project_that_is_held_while_the_count_changes_comes_back() {
    let impatient = Settings { cut_timeout: Duration::ZERO, ..by(Method::Collect) };
    for resets in [false, true] {
        let (world, script) = (World::new(), Arc::new(Script::new()));
        let number = |number: u64| resets.then_some(100_000 + number);
        for round in 0..40 {
            script.publish("alpha", number(round), &format!("1 {round}"), &[]);
            script.publish("beta", number(round), &format!("1 {round}"), &[]);
            world.sync(&script, &impatient).unwrap();
        }
        let script = upstream(8);
        if resets {
            reset(&world);
        }
        script.pages("alpha", [Reply::Fail(status(503))]);
        let label = world.sync(&script, &impatient).unwrap().label;
        assert_eq!(label.serial, serial(8), "{resets}");
        let done = world.sync(&script, &impatient).unwrap();
        assert_eq!((done.held.len(), done.label), (1, label), "{resets}");
        script.publish("alpha", Some(7), "1 2 3", &[]);
        assert_eq!(world.sync(&script, &impatient).unwrap().held, [], "{resets}");
        assert_eq!(world.version("alpha").as_deref(), Some("1 2 3"));
    }
}

/// An index that lost its files shows whole pages, and a mirror that begins anew does not believe them more than another.
#[test]
fn a_reset_believes_no_page_that_lost_its_files() {
    for method in [Method::Changelog, Method::Collect] {
        let (world, script) = (World::new(), upstream(8));
        script.log([event(9, "beta", Action::Unknown)]);
        script.publish("beta", Some(9), "1", &[("beta-1.tar.gz", b"beta 1")]);
        world.sync(&script, &by(method)).unwrap();
        reset(&world);
        script.publish("beta", Some(9), "1", &[]);
        let done = world.sync(&script, &by(method)).unwrap();
        let held: Vec<_> = done.held.iter().map(|held| held.reason).collect();
        assert_eq!(held, [HoldReason::PageShrunk], "{method}");
        script.publish("beta", Some(9), "1", &[("beta-1.tar.gz", b"beta 1")]);
        assert_eq!(world.sync(&script, &by(method)).unwrap().held, [], "{method}");
    }
}

/// Snapshots of another count lack nothing that happens in this one.
#[test]
fn a_late_event_marks_no_snapshot_from_before_a_reset() {
    let (world, script) = (World::new(), upstream(500));
    world.sync(&script, &following()).unwrap();
    let script = upstream(8);
    script.log([event(10, "beta", None)]);
    reset(&world);
    world.sync(&script, &following()).unwrap();
    script.insert([event(9, "beta", None)]);
    world.sync(&script, &following()).unwrap();
    let marked: Vec<_> = world.mirror().snapshots().unwrap().iter().map(|recorded| recorded.missed).collect();
    assert_eq!((labels(&world).len(), marked.last()), (marked.len(), Some(&false)));
    assert!(marked.contains(&true));
}

/// A revision of an earlier serial, as a withdrawal makes one, is not what the next sync begins from.
#[test]
fn a_revision_of_an_earlier_serial_is_not_the_newest() {
    const FILE: (&str, &[u8]) = ("beta-1.tar.gz", b"beta 1");
    let (world, script) = (World::new(), upstream(8));
    script.publish("beta", Some(8), "1", &[FILE]);
    world.sync(&script, &following()).unwrap();
    script.publish("beta", Some(9), "1", &[]);
    script.log([event(9, "beta", Action::RemoveFile(FILE.0.to_owned()))]);
    world.sync(&script, &following()).unwrap();
    let store = Store::open(&world.root(), Disk::new()).unwrap();
    crate::support::withdrawal::withdraw(&store, None, FILE.1).unwrap();
    drop(store);
    assert_eq!(labels(&world), ["9", "8.2", "8"]);
    assert_eq!(world.latest().snapshot.label.serial, Serial::try_from(9).unwrap());
}
