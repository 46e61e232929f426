//! A catalog that an earlier version of the program wrote is opened, and says what it said then.
#![expect(clippy::disallowed_methods, reason = "the tests make a store as an earlier program left it")]

use std::fs;

use rusqlite::Connection;
use strandline_durable::Disk;
use strandline_model::{Blake3, Serial};
use strandline_store::{Slot, Store};

use crate::world::{World, content, mirror, project, serial, time};

/// The catalog of version 1, as SQL.
const VERSION_1: &str = include_str!("../fixtures/catalog-1.sql");

/// The bytes that its snapshots name.
const BLOBS: [&str; 5] = [
    "page of six: one",
    "page of six: two",
    "page of zope-interface: one",
    "bytes of six-1.tar.gz",
    "bytes of six-2.tar.gz",
];

fn version(world: &World) -> i32 {
    world.sql().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

/// The store of version 1, as it is before anybody opens it.
fn leave_version_1(world: &World) {
    fs::remove_dir_all(world.root()).unwrap();
    fs::create_dir_all(world.root()).unwrap();
    let catalog = Connection::open(world.root().join("catalog.db")).unwrap();
    catalog.execute_batch(VERSION_1).unwrap();
    for bytes in BLOBS {
        let name = Blake3::of(bytes.as_bytes()).to_string();
        let directory = world.root().join("blobs").join(&name[..2]);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(&name[2..]), bytes).unwrap();
    }
}

#[test]
fn a_catalog_of_version_1_keeps_its_snapshots() {
    let latest = version(&World::new());
    let mut world = World::new();
    leave_version_1(&world);
    assert_eq!(version(&world), 1);
    world.store = Store::open(&world.root(), Disk::new()).unwrap().into();
    assert_eq!(version(&world), latest);

    let (name, store) = (mirror("pypi"), &world.store);
    assert_eq!((world.labels("pypi"), world.labels("other")), (vec!["2".into(), "1".into()], vec!["7".into()]));
    let [two, one] = &world.snapshots("pypi")[..] else { unreachable!("two labels") };
    // The ids are those that version 1 gave, so nothing of what they name is another.
    assert_eq!(two.id.to_string(), "9775b9dc3bc7302f93ee0c9136dd1ec4fd696ff90f449d70083d283e467ead68");
    assert_eq!(one.id.to_string(), "e5ffa74e84cda71b72da9a0fea1d8923199e1abd7ccc734724087eb087dda298");
    assert_eq!((one.verified, two.verified, one.missed, two.missed), (true, true, false, true));
    assert!(store.find(&one.snapshot, &project("zope-interface")).unwrap().is_some());

    let state = store.view_state(&name).unwrap().unwrap();
    assert_eq!((state.slot, state.snapshot, state.previous), (Slot::A, two.id, Some(one.id)));
    assert_eq!((state.switched, state.frozen), (time(3), true));
    assert_eq!(store.twin(&name, Slot::A).unwrap().base, Some(two.id));
    assert_eq!(store.pins().unwrap(), [one.id].into());
    assert_eq!(store.recheck(&name, time(9)).unwrap(), ("six".to_owned(), time(6)));
    let last = store.last_sync(&name).unwrap().unwrap();
    assert_eq!((last.time, last.failure.as_deref()), (time(7), Some("upstream failed")));
    let seen = store.seen(&name).unwrap();
    assert_eq!(seen.iter().map(|page| page.serial).map(Serial::get).collect::<Vec<_>>(), [3]);
    let unit = Blake3::of(&seen[0].unit.to_bytes());
    assert_eq!(store.validator(&name, &project("six"), unit).unwrap().as_deref(), Some("\"two\""));
    let since = store.note_trouble(&name, &[project("idna")].into(), time(9), &world.lock("pypi")).unwrap();
    assert_eq!(since[&project("idna")], time(5));

    // It goes on from there.
    world.record("pypi", 3, &[("six", Some(content("six", "three", &["six-1.tar.gz"])))]);
    assert_eq!(world.labels("pypi"), ["3", "2", "1"]);
    assert_eq!(world.snapshots("pypi")[0].snapshot.parent, Some(two.id));
    let names = [name, mirror("other")];
    let report = strandline_store::verify::verify(&world.store, &names, true, &|_| {}).unwrap();
    assert_eq!((report.damage, report.snapshots), (Vec::new(), 4));
    assert_eq!(world.store.at_serial(&names[0], serial(1)).unwrap().unwrap().id, one.id);
}

/// Whatever fails on the way, the catalog is that of version 1 or the latest.
#[test]
fn a_crash_while_a_catalog_is_migrated() {
    let latest = version(&World::new());
    let counting = Disk::counting();
    let world = World::new();
    leave_version_1(&world);
    drop(Store::open(&world.root(), counting.clone()).unwrap());
    for n in 1..=counting.steps() {
        leave_version_1(&world);
        assert!(Store::open(&world.root(), Disk::failing_at(n)).is_err(), "step {n}");
        assert!([1, latest].contains(&version(&world)), "step {n}");
        let store = Store::open(&world.root(), Disk::new()).unwrap();
        assert_eq!(store.snapshots(&mirror("pypi")).unwrap().len(), 2, "step {n}");
    }
}
