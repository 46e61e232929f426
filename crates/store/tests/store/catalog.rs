//! Invariant 2, in the catalog itself: what was committed cannot be changed even by hand. And which files are taken
//! for a catalog.
#![expect(clippy::disallowed_methods, reason = "the tests make files that are no catalogs")]

use std::fs;

use rusqlite::Connection;
use strandline_durable::{Disk, LockError};
use strandline_faultkit::World;
use strandline_model::{At, Blake3, Label};
use strandline_store::verify::Data;
use strandline_store::{Draft, SelectError, Store, StoreError, Wait};

use crate::support::{Opened, content, mirror, project, serial, time};

fn recorded() -> Opened {
    let world = Opened::new();
    world.record("pypi", 1, &[("six", Some(content("six", "one", &["six-1.tar.gz"])))]);
    world
}

#[test]
fn what_is_immutable_cannot_be_changed() {
    let world = recorded();
    let sql = world.sql();
    for statement in [
        "UPDATE blob SET size = size + 1",
        "UPDATE blob SET mtime = 7",
        "UPDATE blob SET sha256 = blake3",
        "UPDATE blob SET blake3 = sha256",
        "INSERT OR REPLACE INTO blob (blake3, sha256, size, mtime, public) SELECT blake3, sha256, 7, 7, 1 FROM blob",
        "INSERT INTO blob (blake3, sha256, size, mtime, public) SELECT blake3, sha256, 7, 7, 1 FROM blob",
        "INSERT INTO blob SELECT * FROM blob WHERE 1 ON CONFLICT DO UPDATE SET size = 7",
        "UPDATE body SET position = position",
        "UPDATE body SET pack = 1",
        "UPDATE body SET id = zeroblob(32)",
        "INSERT OR REPLACE INTO body (id, pack, position) SELECT id, 1, 0 FROM body",
        "REPLACE INTO body (id, pack, position) SELECT id, 1, 0 FROM body",
        "INSERT INTO body SELECT * FROM body",
        "UPDATE pack SET reference = reference",
        "UPDATE pack SET sizes = x'00'",
        "UPDATE pack SET packed = x'00'",
        "INSERT OR REPLACE INTO pack (number, sizes, packed) SELECT number, x'01', x'00' FROM pack",
        "REPLACE INTO pack SELECT number, NULL, x'01', x'00' FROM pack",
        "INSERT INTO pack SELECT * FROM pack",
        "UPDATE snapshot SET serial = 7",
        "UPDATE snapshot SET time = 7, verified = 0",
        "UPDATE OR REPLACE snapshot SET revision = 7",
        "INSERT OR REPLACE INTO snapshot (id, mirror, serial, revision, time) SELECT id, mirror, 7, 7, 7 FROM snapshot",
        "INSERT OR REPLACE INTO snapshot (id, mirror, serial, revision, time)
           SELECT (SELECT id FROM body EXCEPT SELECT id FROM snapshot), mirror, serial, revision, 7 FROM snapshot",
    ] {
        let error = sql.execute(statement, []).expect_err(statement).to_string();
        assert!(error.contains("never changes"), "{statement}: {error}");
    }
    // What is not part of them can be: it is how retention and verify work.
    sql.execute("UPDATE blob SET condemned = 7", []).unwrap();
    sql.execute("UPDATE blob SET condemned = NULL", []).unwrap();
    sql.execute("UPDATE snapshot SET verified = 1", []).unwrap();
    drop(sql);
    let report = world.verify(Some(&Data::default()));
    assert_eq!(report.damage, []);
}

#[test]
fn digests_have_their_length() {
    let sql = recorded().sql();
    for statement in [
        "INSERT INTO blob (blake3, sha256, size, mtime, public) VALUES (x'00', zeroblob(32), 0, 7, 1)",
        "INSERT INTO blob (blake3, sha256, size, mtime, public) VALUES (zeroblob(32), zeroblob(31), 0, 7, 1)",
        "INSERT INTO blob (blake3, sha256, size, mtime, public) VALUES (zeroblob(32), zeroblob(32), -1, 7, 1)",
        "INSERT INTO body VALUES (x'00', 1, 0)",
        "INSERT INTO body VALUES (zeroblob(32), 'one', 0)",
    ] {
        sql.execute(statement, []).expect_err(statement);
    }
}

#[test]
fn a_body_is_in_a_pack_and_a_reference_is_a_pack_without_one() {
    let world = recorded();
    let sql = world.sql();
    let last: i64 = sql.query_row("SELECT max(number) FROM pack", [], |row| row.get(0)).unwrap();
    let pack = |number: i64, reference: i64| {
        sql.execute("INSERT INTO pack VALUES (?1, ?2, x'', x'')", (number, reference))
            .map_err(|error| error.to_string())
    };
    for (number, reference) in [(last + 1, last + 1), (last + 1, last + 2)] {
        assert!(pack(number, reference).unwrap_err().contains("a reference is a pack without one"));
    }
    sql.execute("INSERT INTO pack VALUES (?1, NULL, x'', x'')", [last + 1]).unwrap();
    pack(last + 2, last + 1).unwrap();
    assert!(pack(last + 3, last + 2).unwrap_err().contains("a reference is a pack without one"));
    let body = "INSERT INTO body VALUES (zeroblob(32), ?1, 0)";
    assert!(sql.execute(body, [last + 3]).unwrap_err().to_string().contains("a body is in a pack"));
    sql.execute(body, [last + 2]).unwrap();
}

fn foreign(world: &Opened) -> String {
    let error = Store::open(&world.root(), Disk::new()).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    error.to_string()
}

#[test]
fn a_catalog_of_a_later_version_is_refused_and_left_alone() {
    let world = recorded();
    let version: i32 = world.sql().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert!(version >= 1);
    world.sql().pragma_update(None, "user_version", version + 1).unwrap();
    let error = foreign(&world);
    assert!(error.contains(&format!("has version {}, and this program knows versions up to {version}", version + 1)));
    world.sql().pragma_update(None, "user_version", -1).unwrap();
    assert!(foreign(&world).contains("has the unknown version -1"));
    world.sql().pragma_update(None, "user_version", version).unwrap();
    assert_eq!(world.open().mirror(&mirror("pypi")).unwrap().unwrap().snapshots().unwrap().len(), 1);
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog.db");
    let sql = Connection::open(&path).unwrap();
    sql.execute_batch("CREATE TABLE diary (entry TEXT); INSERT INTO diary VALUES ('dear me')").unwrap();
    drop(sql);
    let before = fs::read(&path).unwrap();
    let error = Store::open(directory.path(), Disk::new()).unwrap_err();
    assert!(matches!(&error, StoreError::Foreign { .. }), "{error}");
    assert!(error.to_string().ends_with("is another program's database"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before, "not one byte of it was changed");

    fs::write(&path, "no database at all, but long enough for a header that would be one").unwrap();
    let error = Store::open(directory.path(), Disk::new()).unwrap_err();
    assert!(matches!(error, StoreError::Catalog { .. }), "{error}");
}

#[test]
fn a_crash_while_the_store_is_made() {
    let counting = Disk::counting();
    drop(Store::open(&World::new().root(), counting.clone()).unwrap());
    assert!(counting.steps() >= 5, "four directories and a commit");
    for n in 1..=counting.steps() {
        let world = World::new();
        assert!(Store::open(&world.root(), Disk::failing_at(n)).is_err());
        assert!(world.open().mirrors().unwrap().is_empty());
    }
}

#[test]
fn a_mirror_has_one_writer() {
    let world = recorded();
    let held = |error: StoreError| match error {
        StoreError::Lock(LockError::Held { what, holder, .. }) => (what, holder.process, holder.since),
        other => unreachable!("{other}"),
    };
    let lock = world.store.lock(&mirror("pypi"), Wait::Never, "2026-11-23T15:10:00Z".parse().unwrap()).unwrap();
    let other = world.open();
    let (what, process, since) = held(other.lock(&mirror("pypi"), Wait::Never, time(0)).unwrap_err());
    assert_eq!((what.as_str(), since.as_str()), ("mirror `pypi`", "2026-11-23T15:10:00Z"));
    assert_eq!(process, std::process::id().to_string());
    drop(other.lock(&mirror("another"), Wait::Never, time(0)).unwrap());
    drop(lock);
    drop(other.lock(&mirror("pypi"), Wait::Never, time(0)).unwrap());
}

#[test]
fn a_snapshot_is_found_by_serial_label_and_date() {
    let world = Opened::new();
    let six = |text: &str| content("six", text, &[]);
    for (number, text) in [(5, "a"), (5, "b"), (86_400, "c")] {
        world.record("pypi", number, &[("six", Some(six(text)))]);
    }
    assert_eq!(world.labels("pypi"), ["86400", "5.2", "5"]);
    let select = |wanted: &str| {
        world.mirror("pypi").select(wanted.parse().unwrap()).map(|found| found.snapshot.label.to_string())
    };
    assert_eq!(select("5").unwrap(), "5.2", "the newest revision");
    assert_eq!(select("5.1").unwrap(), "5");
    assert_eq!(select(&time(5).to_string()).unwrap(), "5.2");
    assert_eq!(select(&time(86_399).to_string()).unwrap(), "5.2");
    assert_eq!(select(&time(86_400).to_string()[..10]).unwrap(), "86400", "a date is its end");
    for unknown in ["6", "5.3", &time(4).to_string()] {
        assert!(matches!(select(unknown), Err(SelectError::Unknown { .. })), "{unknown}");
    }
    for nothing in ["5.0", "yesterday", "", "-1"] {
        assert!(nothing.parse::<At>().is_err(), "{nothing}");
    }
    let label = Label { serial: serial(5), revision: 1 };
    let found = world.mirror("pypi").at_label(label).unwrap().unwrap();
    assert_eq!(world.store.recorded(found.id).unwrap(), found);
    assert_eq!(Blake3::of(&world.store.body(found.id).unwrap()), found.id, "anyone can check it");
    assert!(world.store.find(&found.snapshot, &project("none")).unwrap().is_none());
    assert!(world.store.mirror(&mirror("none")).unwrap().is_none());
}

/// Commits more than the log holds before it is copied back.
fn commit_much(world: &Opened, name: &str) {
    let missing = Some((0..700_000).map(serial).collect());
    let committed = world.commit(name, Draft { missing, ..world.draft(name, 1_000_000, &[]) });
    world.lock(name).verify(committed).unwrap();
}

#[test]
fn what_is_committed_is_copied_out_of_the_log_when_nobody_waits_for_it() {
    let world = recorded();
    let length = || fs::metadata(world.root().join("catalog.db")).unwrap().len();
    let before = length();
    let until_published = world.store.postpone_log_copy().unwrap();
    commit_much(&world, "one");
    assert_eq!(length(), before, "it is in the log alone");
    drop(until_published);
    assert_eq!(length(), before, "nothing is waited for yet");
    world.record("pypi", 2, &[("six", Some(content("six", "two", &[])))]);
    let after = length();
    assert!(after > before, "the next commit copies it");

    // As usual: within the commit.
    commit_much(&world, "two");
    assert!(length() > after);
}
