//! A quarantined project: its page says so, shows no files, and no list names it.

use std::sync::Arc;
use std::time::Duration;

use strandline_faultkit::{World, invariants, mirror, now};
use strandline_model::{Record, Status, Timestamp};
use strandline_sync::cut::Action;
use strandline_sync::upstream::Page;
use strandline_sync::{Method, Settings};

use crate::support::script::{Reply, Script, add, changed, event, name, page, two};
use crate::support::{Syncs as _, in_the_way, settings, sync_store_at};

const NAMES: &[&str] = &["Alpha", "beta"];
const ALPHA_1: (&str, &[u8]) = ("alpha-1.tar.gz", b"alpha 1");
const ALPHA_2: (&str, &[u8]) = ("alpha-2.tar.gz", b"alpha 2");

/// Asks once.
fn hold() -> Settings {
    Settings { method: Some(Method::Changelog), cut_timeout: Duration::ZERO, ..settings(NAMES) }
}

/// The same, and never believes that a project is broken.
fn once() -> Settings {
    Settings { hold_after: Duration::from_secs(10 << 30), ..hold() }
}

/// An upstream at serial 7.
fn script() -> Arc<Script> {
    let script = Arc::new(Script::new());
    script.publish("Alpha", Some(5), "1", &[ALPHA_1]);
    script.publish("beta", Some(7), "1", &[]);
    script.log([event(5, "Alpha", two(Action::NewRelease)), event(7, "beta", two(Action::NewRelease))]);
    script
}

/// A mirror of it.
fn synced() -> (World, Arc<Script>) {
    let (world, script) = (World::new(), script());
    world.sync(&script, &once()).unwrap();
    assert_eq!(world.list(), "7 Alpha:5 beta:7");
    script.asked();
    (world, script)
}

/// Alpha's page while it is quarantined.
fn quarantined(number: u64) -> Page {
    changed(page("alpha", Some(number), "", &[]), |told, seen| {
        told.quarantined = true;
        seen.status_reason = Some("malware".to_owned());
    })
}

fn record(world: &World) -> Record {
    let leaf = world.leaf("alpha").unwrap();
    world.open().record(leaf.record.unwrap()).unwrap()
}

/// Requires that alpha is quarantined since a serial, for that reason, and that beta alone is listed.
#[track_caller]
fn is_quarantined(world: &World, list: &str, since: u64, reason: Option<&str>) {
    assert_eq!(world.list(), list);
    let (leaf, record) = (world.leaf("alpha").unwrap(), record(world));
    assert_eq!((leaf.listed, leaf.serial.get(), leaf.display.as_str()), (false, since, "Alpha"));
    assert_eq!((record.status(), record.files().len()), (Status::Quarantined, 0));
    assert_eq!(record.seen().status_reason.as_deref(), reason);
    let page = world.served("simple/alpha/index.v1_json").unwrap();
    let mut lines = page.lines();
    assert_eq!((lines.nth(1), lines.nth(1)), (Some(&*since.to_string()), None), "{page}");
    stands(world);
}

/// Requires that alpha's page says a version and shows so many files, and that the list is this one.
#[track_caller]
fn is_shown(world: &World, list: &str, version: &str, files: usize) {
    assert_eq!((world.list().as_str(), world.version("alpha").as_deref()), (list, Some(version)));
    assert_eq!((record(world).status(), record(world).files().len()), (Status::Active, files));
    stands(world);
}

#[track_caller]
fn stands(world: &World) {
    let store = world.open();
    invariants::check(&world.root(), &store, &mirror()).unwrap();
    invariants::check_at_rest(&world.root(), &store, &mirror());
}

fn pages(script: &Script) -> Vec<String> {
    script.asked().into_iter().filter(|asked| asked.starts_with("page alpha")).collect()
}

#[test]
fn a_clearing_waits_for_a_page_where_the_quarantine_began_before_the_base() {
    let (world, script) = synced();
    script.log([event(8, "Alpha", Action::QuarantineProject)]);
    world.sync(&script, &once()).unwrap();
    is_quarantined(&world, "8 beta:7", 8, None);
    // Also for events about people, and for what happens to what it hides.
    script.log([event(9, "Alpha", None), event(10, "beta", None)]);
    world.sync(&script, &once()).unwrap();
    is_quarantined(&world, "10 beta:10", 9, None);
    assert_eq!(pages(&script), [""; 0]);
    script.log([event(11, "Alpha", add("alpha-2.tar.gz"))]);
    world.sync(&script, &once()).unwrap();
    is_quarantined(&world, "11 beta:10", 11, None);

    script.log([event(12, "Alpha", Action::ClearProject)]);
    assert!(in_the_way(world.sync(&script, &once())).contains_key(&name("alpha")));
    script.publish("Alpha", Some(12), "2", &[ALPHA_1, ALPHA_2]);
    script.asked();
    world.sync(&script, &once()).unwrap();
    is_shown(&world, "12 Alpha:12 beta:10", "2", 2);
    let files: Vec<_> = script.asked().into_iter().filter(|asked| asked.starts_with("file")).collect();
    assert_eq!(files, ["file https://files.example/packages/aa/bb/cc/alpha-2.tar.gz"], "the other one is there");
}

#[test]
fn a_clearing_is_replayed_where_the_quarantine_began_after_the_base() {
    let (world, script) = synced();
    script.log([event(8, "Alpha", Action::QuarantineProject), event(9, "Alpha", Action::ClearProject)]);
    world.sync(&script, &once()).unwrap();
    is_shown(&world, "9 Alpha:9 beta:7", "1", 1);
}

#[test]
fn a_quarantined_project_that_is_removed_is_gone() {
    let (world, script) = synced();
    script.log([event(8, "Alpha", Action::QuarantineProject)]);
    world.sync(&script, &once()).unwrap();
    script.log([event(9, "Alpha", Action::RemoveProject)]);
    world.sync(&script, &once()).unwrap();
    assert_eq!((world.leaf("alpha"), world.version("alpha"), world.list()), (None, None, "9 beta:7".to_owned()));
    stands(&world);
    script.publish("Alpha", Some(11), "2", &[ALPHA_2]);
    script.log([event(10, "Alpha", Action::Create), event(11, "Alpha", add("alpha-2.tar.gz"))]);
    world.sync(&script, &once()).unwrap();
    is_shown(&world, "11 Alpha:11 beta:7", "2", 1);
}

#[test]
fn all_first_syncs_tell_the_same_of_a_quarantine() {
    // By the log, which is all that is asked; by its page, where the log does not go back so far, in parts and in one; by its
    // page alone, where there is no log.
    let followed = synced();
    followed.1.log([event(8, "Alpha", Action::QuarantineProject)]);
    followed.0.sync(&followed.1, &once()).unwrap();
    let told = followed.0.leaf("alpha").unwrap().record.unwrap().told;

    let log_tells = script();
    log_tells.log([event(8, "Alpha", Action::QuarantineProject)]);
    let page_tells = || {
        let script = Arc::new(Script::new());
        script.publish("beta", Some(7), "1", &[]);
        script.pages("Alpha", [Reply::Page(quarantined(8), None)]);
        script.list("Alpha", 8);
        script.log([event(7, "beta", two(Action::NewRelease)), event(8, "other", Action::Create)]);
        script
    };
    let in_parts = Settings { park_every: 1, ..once() };
    let collect = settings(NAMES);
    for (script, settings, reason) in [
        (log_tells, once(), None),
        (page_tells(), once(), Some("malware")),
        (page_tells(), in_parts, Some("malware")),
        (page_tells(), collect, Some("malware")),
    ] {
        let world = World::new();
        world.sync(&script, &settings).unwrap();
        is_quarantined(&world, "8 beta:7", 8, reason);
        assert_eq!(world.leaf("alpha").unwrap().record.unwrap().told, told);
        assert_eq!(world.sync(&script, &settings).unwrap().changed, 0);
        assert_eq!(world.labels(), ["8"]);
    }
}

/// The log does not say the reason, and an event about people does not make it forgotten.
#[test]
fn the_sweep_finds_the_reason() {
    let (world, script) = synced();
    let sync = |days: i64| {
        let time = Timestamp::from_seconds(now().seconds() + days * 86_400).unwrap();
        sync_store_at(&world.open(), &script, &once(), time).unwrap()
    };
    script.log([event(8, "Alpha", Action::QuarantineProject)]);
    sync(0);
    script.pages("Alpha", [Reply::Page(quarantined(8), None)]);
    assert_eq!(sync(7).label.to_string(), "8.2");
    is_quarantined(&world, "8 beta:7", 8, Some("malware"));
    script.log([event(9, "Alpha", None)]);
    sync(7);
    is_quarantined(&world, "9 beta:7", 9, Some("malware"));
    assert_eq!(sync(14).label.to_string(), "9");
}

#[test]
fn a_held_project_that_is_quarantined_is_not_held_any_more() {
    let (world, script) = synced();
    script.log([event(8, "Alpha", add("alpha-2.tar.gz"))]);
    assert_eq!(world.sync(&script, &hold()).unwrap().held.len(), 1);
    script.log([event(9, "Alpha", Action::QuarantineProject)]);
    assert_eq!(world.sync(&script, &hold()).unwrap().held, []);
    is_quarantined(&world, "9 beta:7", 9, None);
    // And is held again where it is cleared and no page shows what the quarantine hid: its last good state is empty.
    script.log([event(10, "Alpha", Action::ClearProject)]);
    let held = world.sync(&script, &hold()).unwrap().held;
    assert_eq!(held.iter().map(|held| (held.at.get(), held.needs.get())).collect::<Vec<_>>(), [(9, 10)]);
    is_quarantined(&world, "10 beta:7", 9, None);
    script.publish("Alpha", Some(10), "2", &[ALPHA_1, ALPHA_2]);
    assert_eq!(world.sync(&script, &hold()).unwrap().held, []);
    is_shown(&world, "10 Alpha:10 beta:7", "2", 2);
}

#[test]
fn a_held_project_shows_its_last_good_state_when_a_quarantine_has_come_and_gone() {
    let (world, script) = synced();
    script.log([
        event(8, "Alpha", add("alpha-2.tar.gz")),
        event(9, "Alpha", Action::QuarantineProject),
        event(10, "Alpha", Action::ClearProject),
    ]);
    assert_eq!(world.sync(&script, &hold()).unwrap().held.len(), 1);
    is_shown(&world, "10 Alpha:5 beta:7", "1", 1);
    // What happens in a quarantine shows nothing.
    script.log([event(11, "Alpha", Action::QuarantineProject), event(12, "Alpha", Action::Unknown)]);
    world.sync(&script, &hold()).unwrap();
    assert_eq!((world.list().as_str(), record(&world).status()), ("12 beta:7", Status::Quarantined));
    stands(&world);
}

#[test]
fn files_of_a_quarantined_release_are_not_told() {
    let (world, script) = synced();
    script.publish("Alpha", Some(8), "1 2", &[ALPHA_1, ALPHA_2]);
    script.log([event(8, "Alpha", add("alpha-2.tar.gz"))]);
    world.sync(&script, &once()).unwrap();
    script.log([event(9, "Alpha", two(Action::QuarantineRelease))]);
    world.sync(&script, &once()).unwrap();
    is_shown(&world, "9 Alpha:9 beta:7", "1", 1);
    // A mirror that began later, whose page shows no more than that, was told the same.
    let later = World::new();
    script.publish("Alpha", Some(9), "1", &[ALPHA_1]);
    later.sync(&script, &once()).unwrap();
    let told = |world: &World| world.leaf("alpha").unwrap().record.unwrap().told;
    assert_eq!(told(&later), told(&world));
}
