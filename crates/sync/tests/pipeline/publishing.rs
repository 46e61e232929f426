//! What becomes of a recorded snapshot, and who may sync what.

use std::path::{Component, Path};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strandline_durable::{Disk, LockError, Step, Watch};
use strandline_faultkit::{World, invariants, known, lock, mirror, now};
use strandline_store::{Slot, StoreError, Wait};
use strandline_sync::{OnBroken, Settings, SyncError};
use strandline_view::Freeze;

use crate::support::script::{Body, Script, serial, status, url};
use crate::support::{Syncs as _, publish, settings, sync_store};

fn synced() -> (World, Arc<Script>) {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    script.publish("Alpha", Some(5), "1", &[("alpha-1.tar.gz", b"alpha 1")]);
    world.sync(&script, &settings(&["Alpha"])).unwrap();
    script.publish("Alpha", Some(6), "2", &[("alpha-2.tar.gz", b"alpha 2")]);
    (world, script)
}

#[test]
fn a_frozen_mirror_records_and_does_not_publish() {
    let (world, script) = synced();
    world.sync(&script, &settings(&["Alpha"])).unwrap();
    let store = world.open();
    let locked = lock(&store).unwrap();
    let back = locked.at_serial(serial(5)).unwrap().unwrap();
    let back = locked.verified(back, None).unwrap();
    publish(&locked, back, Freeze::Set, now());
    drop(locked);

    script.publish("Alpha", Some(7), "3", &[("alpha-3.tar.gz", b"alpha 3")]);
    for _ in 0..2 {
        let done = sync_store(&store, &script, &settings(&["Alpha"])).unwrap();
        assert_eq!((done.label.to_string().as_str(), done.published), ("7", false));
        assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(5), "readers see what they saw");
    }
    assert_eq!(world.labels(), ["7", "6", "5"]);
    assert_eq!(world.served("packages/aa/bb/cc/alpha-3.tar.gz").unwrap(), "alpha 3", "its path is taken already");

    lock(&store).unwrap().freeze(false).unwrap();
    let done = sync_store(&store, &script, &settings(&["Alpha"])).unwrap();
    assert_eq!((done.changed, done.published), (0, true));
    assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(7));
    invariants::check_at_rest(&world.root(), &store, &mirror());
}

#[test]
fn a_mirror_is_of_one_upstream() {
    let (world, _) = synced();
    let before = invariants::essence(&world.root());
    let other = Arc::new(Script::elsewhere());
    other.publish("Alpha", Some(99), "9", &[]);
    let error = world.sync(&other, &settings(&["Alpha"])).unwrap_err();
    assert!(matches!(&error, SyncError::OtherUpstream { .. }), "{error}");
    for part in ["mirror `pypi`", "https://index.example/simple/", "https://other.example/simple/", "another name"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(other.asked(), [""; 0], "it was not even asked");
    assert_eq!(invariants::essence(&world.root()), before);
    // Under another name it is welcome.
    let named = Settings { mirror: "other".parse().unwrap(), ..settings(&["Alpha"]) };
    assert_eq!(world.sync(&other, &named).unwrap().label.to_string(), "99");
    assert_eq!(world.version("alpha").unwrap(), "1");
}

#[test]
fn a_second_sync_of_a_mirror_is_told_who_is_at_work() {
    let (world, script) = synced();
    script.asked();
    let store = world.open();
    let lock = store.lock(&mirror(), Wait::Never, "2026-01-01T10:00:00Z".parse().unwrap()).unwrap();
    let error = world.sync(&script, &settings(&["Alpha"])).unwrap_err();
    let held = matches!(&error, SyncError::Store(StoreError::Lock(LockError::Held { holder, .. }))
        if holder.since == "2026-01-01T10:00:00Z" && holder.process == std::process::id().to_string());
    assert!(held, "{error}");
    assert_eq!(script.asked(), [""; 0]);
    let other = Settings { mirror: "other".parse().unwrap(), ..settings(&["Alpha"]) };
    world.sync(&script, &other).unwrap();
    drop(lock);
    world.sync(&script, &settings(&["Alpha"])).unwrap();
}

#[test]
fn names_are_shown_as_their_owners_write_them() {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    script.publish("Zope.Interface", Some(1), "1", &[("zope_interface-1.tar.gz", b"zope")]);
    // This index shows normalised names only; the configuration knows better.
    script.publish("a-b", Some(2), "1", &[("a_b-1.tar.gz", b"ab")]);
    world.sync(&script, &settings(&["zope-interface", "A__B"])).unwrap();
    assert_eq!(world.list(), "2 A__B:2 Zope.Interface:1");
}

#[test]
fn a_crash_between_the_catalog_and_the_link_is_finished_first() {
    let (world, script) = synced();
    let live = world.root().join("views/pypi/live");
    assert_eq!(std::fs::read_link(&live).unwrap().to_str(), Some("a"));
    let store = world.open();
    let disk = strandline_durable::Disk::new();
    disk.switch_link(&live, std::path::Path::new("b")).unwrap();
    // Upstream does not answer, and still readers get what the catalog says.
    script.pages("Alpha", []);
    assert!(sync_store(&store, &script, &settings(&["Alpha"])).is_err());
    assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(5));
}

/// What becomes of the store's names, in order.
#[derive(Debug, Default)]
struct Names(Mutex<Vec<String>>);

impl Watch for Names {
    fn done(&self, step: Step<'_>) {
        let (what, path) = match step {
            Step::Link { to, .. } => ("page", to),
            Step::RenameNew { to, .. } => ("blob", to),
            _ => return,
        };
        let parts: Vec<_> = path.components().map(Component::as_os_str).filter_map(std::ffi::OsStr::to_str).collect();
        if let [.., tree @ ("a" | "b"), "simple", project, _] = parts[..] {
            self.0.lock().unwrap().push(format!("{what} {tree} {project}"));
        } else if parts.contains(&"blobs") {
            self.0.lock().unwrap().push(what.to_owned());
        }
    }
}

/// A mirror whose standby, `a`, lacks what its second sync changed.
fn behind() -> (World, Arc<Script>) {
    let (world, script) = synced();
    script.publish("beta", Some(5), "1", &[("beta-1.tar.gz", b"beta 1")]);
    world.sync(&script, &settings(&["Alpha", "beta"])).unwrap();
    assert_eq!(std::fs::read_link(world.root().join("views/pypi/live")).unwrap(), Path::new("b"));
    (world, script)
}

#[test]
fn the_standby_catches_up_before_what_is_new_gets_its_name() {
    let (world, script) = behind();
    script.publish("beta", Some(7), "2", &[("beta-2.tar.gz", b"beta 2")]);
    let names = Arc::new(Names::default());
    let store = world.open_on(Disk::new().watched_by(names.clone())).unwrap();
    sync_store(&store, &script, &settings(&["Alpha", "beta"])).unwrap();
    let mut names = names.0.lock().unwrap().clone();
    names.dedup();
    let first = names.iter().position(|name| name == "blob").unwrap();
    // Both came in with the second sync.
    let mut before = names[..first].to_vec();
    before.sort();
    before.dedup();
    assert_eq!(before, ["page a alpha", "page a beta"]);
    assert_eq!(names[first..], ["blob", "page a beta"]);
    assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(7));
    invariants::check_at_rest(&world.root(), &store, &mirror());
}

#[test]
fn a_standby_is_left_alone_where_nothing_is_new_or_readers_may_be_in_it() {
    let (world, script) = behind();
    let store = world.open();
    let has = || store.recorded(known(&store, &mirror()).twin(Slot::A).unwrap().base.unwrap()).unwrap().snapshot.label;
    let before = has();
    assert_eq!(before.serial, serial(5));
    // A file that cannot be had stops the sync before it publishes.
    let selected = Settings { on_broken: OnBroken::Freeze, ..settings(&["Alpha", "beta"]) };
    sync_store(&store, &script, &selected).unwrap();
    assert_eq!(has(), before, "nothing is new");
    script.publish("beta", Some(7), "2", &[("beta-2.tar.gz", b"beta 2"), ("beta-2.zip", b"beta 2 zip")]);
    script.files(&url("beta-2.zip"), [Body::Fail(status(404))]);
    let drain = Duration::from_secs(3600);
    assert!(sync_store(&store, &script, &Settings { drain, ..selected.clone() }).is_err());
    assert_eq!(has(), before, "readers may be in it");
    assert!(sync_store(&store, &script, &selected).is_err());
    assert_eq!(has().serial, serial(6), "there is something new, though not all of it can be had");
    assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(6));
}
