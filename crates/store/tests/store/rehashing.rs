//! Re-hashing goes on where it was interrupted, takes what was checked the longest ago first, and says what of SQLite's own
//! file is damaged.
#![expect(clippy::disallowed_methods, reason = "the tests damage stores")]

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use strandline_store::verify::{Damage, Data, Report, damaged_pages, verify};
use strandline_store::{Limiter, Store};

use crate::support::{Opened, content, mirror, time};

/// One snapshot of twenty projects: forty blobs of different lengths.
fn world() -> Opened {
    let world = Opened::new();
    let names: Vec<_> = (0..20).map(|number| format!("p{number}")).collect();
    let contents: Vec<_> = names.iter().map(|name| content(name, "x", &[&format!("{name}-1.tar.gz")])).collect();
    let changes: Vec<_> = names.iter().map(String::as_str).zip(contents.into_iter().map(Some)).collect();
    world.record("pypi", 1, &changes);
    world
}

fn at(seconds: i64) -> Data<'static> {
    Data { now: Some(time(seconds)), batch: 8, ..Data::default() }
}

fn check(world: &Opened, data: &Data<'_>) -> Report {
    verify(&world.store, &[world.mirror("pypi")], Some(data), &|_| {}).unwrap()
}

/// What was recorded of each blob: which check read it.
fn numbers(world: &Opened) -> Vec<i64> {
    let sql = world.sql();
    let mut statement = sql.prepare("SELECT number FROM checked ORDER BY number").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Ends a check as a signal would, in the middle of a batch, after so many reads.
fn interrupt(world: &Opened, data: &Data<'_>, after: u64) {
    let reads = AtomicU64::new(0);
    let read = |_| assert!(reads.fetch_add(1, Ordering::SeqCst) < after, "interrupted");
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let ended = catch_unwind(AssertUnwindSafe(|| verify(&world.store, &[world.mirror("pypi")], Some(data), &read)));
    std::panic::set_hook(hook);
    assert!(ended.is_err(), "it was to be interrupted");
}

#[test]
fn an_interrupted_check_is_resumed() {
    let world = world();
    interrupt(&world, &at(0), 20);
    let done = numbers(&world).len() as u64;
    // Two batches of eight are recorded; the third was under way.
    assert_eq!(done, 16);
    let report = check(&world, &at(100));
    assert_eq!((report.rehashed, report.blobs, report.resumed), (24, 40, Some(time(0))));
    assert_eq!(report.damage, []);
    // It has come to its end: the next one reads everything again.
    let report = check(&world, &at(100));
    assert_eq!((report.rehashed, report.resumed), (40, None));
    // And so does one that is told not to go on.
    interrupt(&world, &at(200), 20);
    let report = check(&world, &Data { restart: true, ..at(300) });
    assert_eq!((report.rehashed, report.resumed), (40, None));
}

/// What an interrupted check has found is found again by the one that goes on.
#[test]
fn damage_that_was_found_is_found_again() {
    let world = world();
    let blobs = world.blobs();
    let first = blobs.first().unwrap();
    let path = world.root().join("blobs").join(&first[..2]).join(&first[2..]);
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    interrupt(&world, &at(0), 20);
    assert_eq!(numbers(&world).len(), 15, "the damaged one is not recorded as checked");
    let report = check(&world, &at(100));
    assert_eq!(report.rehashed, 25);
    assert!(matches!(&report.damage[..], [Damage::Blob { blob, .. }] if blob.to_string() == *first));
}

#[test]
fn what_was_checked_the_longest_ago_is_read_first() {
    let world = world();
    let tenth = |seconds| Data { share: Some(0.1), ..at(seconds) };
    for step in 0..10 {
        let report = check(&world, &tenth(step));
        assert_eq!(report.rehashed, 4, "a tenth of forty");
        let checks: BTreeSet<_> = numbers(&world).into_iter().collect();
        assert_eq!(checks.len(), usize::try_from(step).unwrap() + 1, "each check takes others");
    }
    // Now each was read once; the next tenth is the first one's.
    let (before, oldest) = (numbers(&world), numbers(&world)[0]);
    check(&world, &tenth(20));
    let after = numbers(&world);
    assert_eq!(before.iter().filter(|number| **number == oldest).count(), 4);
    assert!(!after.contains(&oldest));
    // A share is rounded up: something is read at every time.
    assert_eq!(check(&world, &Data { share: Some(0.0001), ..at(30) }).rehashed, 1);
}

#[test]
fn what_was_checked_lately_is_passed_by() {
    let world = world();
    check(&world, &at(0));
    let aged = |seconds, age| Data { max_age: Some(Duration::from_secs(age)), ..at(seconds) };
    assert_eq!(check(&world, &aged(99, 100)).rehashed, 0);
    assert_eq!(check(&world, &aged(100, 100)).rehashed, 40);
    // What has come in since was never checked.
    world.record("pypi", 2, &[("new", Some(content("new", "x", &["new-1.tar.gz"])))]);
    assert_eq!(check(&world, &aged(150, 100)).rehashed, 2);
}

#[test]
fn what_comes_in_again_counts_as_never_checked() {
    let world = world();
    check(&world, &at(0));
    let bytes = content("p0", "x", &["p0-1.tar.gz"]).remove("packages/00/11/p0-1.tar.gz").unwrap();
    let blob = world.ingest(&bytes);
    fs::remove_file(world.store.blob_path(blob.blake3)).unwrap();
    world.ingest(&bytes);
    assert_eq!(numbers(&world).len(), 39);
}

/// What no snapshot of the mirror names is not read.
#[test]
fn only_what_the_mirror_names_is_read() {
    let world = world();
    world.record("other", 1, &[("q", Some(content("q", "x", &["q-1.tar.gz"])))]);
    world.ingest(b"named by nothing");
    assert_eq!(check(&world, &at(0)).rehashed, 40);
    let both = world.verify(Some(&at(0)));
    assert_eq!(both.rehashed, 42);
}

#[test]
fn a_limit_changes_nothing_but_the_time() {
    let world = world();
    let limiter = Limiter::new(u64::MAX);
    let report = check(&world, &Data { limiter: Some(&limiter), ..at(0) });
    assert_eq!((report.rehashed, report.rehashed_bytes), (40, report.bytes));
}

/// Overwrites a page of the catalog, as a broken disk might; everything that was written is in the file itself.
fn spoil_page(world: &Opened, table: &str) {
    let sql = world.sql();
    sql.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    let page: usize = sql.query_row(root, [table], |row| row.get(0)).unwrap();
    drop(sql);
    let path = world.root().join("catalog.db");
    let mut bytes = fs::read(&path).unwrap();
    bytes[(page - 1) * 4096..page * 4096].fill(0x55);
    fs::write(&path, bytes).unwrap();
}

#[test]
fn a_damaged_page_of_the_catalog() {
    for table in ["blob", "body", "snapshot", "checked"] {
        let world = world();
        spoil_page(&world, table);
        // A process that opens the store anew has no page of it in memory.
        let found = match Store::open(&world.root(), strandline_durable::Disk::new()) {
            Ok(store) => {
                let report = verify(&store, &[store.mirror(&mirror("pypi")).unwrap().unwrap()], None, &|_| {}).unwrap();
                report.damage.iter().map(ToString::to_string).collect()
            }
            Err(error) => {
                assert!(error.is_corruption(), "{table}: {error:?}");
                damaged_pages(&world.root()).unwrap()
            }
        };
        assert!(!found.is_empty(), "{table}");
        assert!(found.iter().all(|line| !line.is_empty()), "{table}: {found:?}");
    }
}

#[test]
fn a_catalog_that_is_none() {
    let world = world();
    let root = world.root();
    for name in ["catalog.db-wal", "catalog.db-shm"] {
        fs::remove_file(root.join(name)).unwrap();
    }
    fs::write(root.join("catalog.db"), "x".repeat(8192)).unwrap();
    assert!(Store::open(&root, strandline_durable::Disk::new()).unwrap_err().is_corruption());
    assert_eq!(damaged_pages(&root).unwrap(), ["file is not a database"]);
}
