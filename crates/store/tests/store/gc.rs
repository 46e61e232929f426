//! Invariants 3 and 5: what is deleted, when, and that nothing else is.
#![expect(clippy::disallowed_methods, reason = "the tests make the pool's links, and look behind the program's back")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use strandline_durable::{Disk, LockError};
use strandline_model::{Blake3, Sha256, Timestamp};
use strandline_store::gc::{Collected, Keep, collect, plan};
use strandline_store::verify::Data;
use strandline_store::{Access, Intake, Slot, Store, StoreError, Twin, ViewState, Wait};

use crate::support::{Content, Opened, content, mirror, time};

const LAST_ONE: Keep = Keep { last: 1, daily: 0, weekly: 0 };
const HOUR: Duration = Duration::from_secs(3600);

fn run(store: &Arc<Store>, grace: Duration, now: Timestamp) -> Collected {
    collect(store, |_| LAST_ONE, grace, now).unwrap()
}

/// Which of the days, counted back from Wednesday 2026-11-25, are kept; several snapshots may be of one day.
fn kept(keep: Keep, days_ago: &[i64]) -> Vec<i64> {
    let wednesday: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
    let times: Vec<_> =
        days_ago.iter().map(|days| Timestamp::from_seconds(wednesday.seconds() - days * 86_400).unwrap()).collect();
    days_ago.iter().zip(keep.select(&times)).filter_map(|(days, kept)| kept.then_some(*days)).collect()
}

#[test]
fn what_retention_keeps() {
    let keep = |last, daily, weekly| Keep { last, daily, weekly };
    let each: Vec<i64> = (0..20).collect();
    let table: [(Keep, &[i64], &[i64]); 10] = [
        (keep(0, 0, 0), &each, &[]),
        (keep(3, 0, 0), &each, &[0, 1, 2]),
        (keep(3, 0, 0), &[5], &[5]),
        (keep(0, 3, 0), &each, &[0, 1, 2]),
        // A day without a snapshot does not count.
        (keep(0, 3, 0), &[0, 4, 9, 30], &[0, 4, 9]),
        // Weeks begin on Monday: the newest of each is Wednesday the 25th, then the Sundays before.
        (keep(0, 0, 3), &each, &[0, 3, 10]),
        (keep(0, 0, 2), &[1, 2, 3, 4], &[1, 3]),
        (keep(2, 3, 3), &each, &[0, 1, 2, 3, 10]),
        (keep(0, 0, 9), &[0, 400, 401], &[0, 400]),
        (Keep::default(), &[], &[]),
    ];
    for (keep, days, expected) in table {
        assert_eq!(kept(keep, days), expected, "{keep:?} of {days:?}");
    }
    // The newest of a day: the first in the list.
    assert_eq!(keep(0, 1, 0).select(&[time(7), time(5), time(3)]), [true, false, false]);
    assert_eq!(keep(1, 2, 0).select(&[time(86_500), time(90), time(80)]), [true, true, false]);
}

#[test]
fn what_nothing_names_goes_when_the_grace_is_over() {
    let world = Opened::new();
    world.record("pypi", 1, &[("six", Some(content("six", "one", &["six-1.tar.gz"])))]);
    world.record("pypi", 2, &[("six", Some(content("six", "two", &["six-2.tar.gz"])))]);
    let size = (b"page of six: one".len() + b"bytes of six-1.tar.gz".len()) as u64;

    let dry = plan(&world.store, |_| LAST_ONE, HOUR, time(0)).unwrap().outcome();
    assert_eq!(world.labels("pypi").len(), 2, "dry is only said");
    let first = run(&world.store, HOUR, time(0));
    assert_eq!(first, dry);
    assert_eq!((first.condemned, first.condemned_bytes, first.deleted), (2, size, 0));
    assert_eq!(first.snapshots.iter().map(|(_, label)| label.to_string()).collect::<Vec<_>>(), ["1"]);
    assert_eq!(first.bodies, 5, "a snapshot, a node, a unit and the two parts of its record");
    assert_eq!(world.blobs().len(), 4);

    assert_eq!(run(&world.store, HOUR, time(3599)), Collected::default(), "not yet");
    let dry = plan(&world.store, |_| LAST_ONE, HOUR, time(3600)).unwrap().outcome();
    let last = run(&world.store, HOUR, time(3600));
    assert_eq!(last, dry);
    assert_eq!((last.condemned, last.deleted, last.deleted_bytes), (0, 2, size));
    assert_eq!(world.blobs().len(), 2);
    assert_eq!(run(&world.store, HOUR, time(9999)), Collected::default());
    assert_eq!(world.labels("pypi"), ["2"]);
}

#[test]
fn what_is_found_again_is_not_deleted() {
    let world = Opened::new();
    let file = "six-1.tar.gz";
    world.record("pypi", 1, &[("six", Some(content("six", "one", &[file])))]);
    world.record("pypi", 2, &[("six", Some(content("six", "two", &[])))]);
    assert_eq!(run(&world.store, HOUR, time(0)).condemned, 2);
    // A sync finds the file by its hash, and relies on it from now on.
    let sha256 = Sha256::of(format!("bytes of {file}").as_bytes());
    let found = world.intake("pypi").find(sha256.into()).unwrap().unwrap();
    let later = run(&world.store, HOUR, time(3600));
    assert_eq!((later.deleted, later.condemned), (1, 1), "the page goes; the file's time begins anew");
    assert!(world.store.blob_path(found.blake3).exists());
    // Named by a snapshot again before that time is over, it stays for good.
    world.record("pypi", 3, &[("six", Some(content("six", "three", &[file])))]);
    assert_eq!(run(&world.store, HOUR, time(99_999)).deleted, 0);
    assert_eq!(world.intake("pypi").find(sha256.into()).unwrap(), Some(found));
}

#[test]
fn what_a_running_sync_has_found_or_brought_stays() {
    let world = Opened::new();
    let file = "six-1.tar.gz";
    world.record("pypi", 1, &[("six", Some(content("six", "one", &[file])))]);
    world.record("pypi", 2, &[("six", Some(content("six", "two", &[])))]);
    let sha256 = Sha256::of(format!("bytes of {file}").as_bytes());

    let locked = world.lock("another");
    let intake = Intake::open(&locked, Access::Public).unwrap();
    let found = intake.find(sha256.into()).unwrap().unwrap();
    let staged = intake.stage(b"brought").unwrap();
    let brought = intake.land(vec![staged]).unwrap()[0];
    let beside = run(&world.store, Duration::ZERO, time(0));
    assert_eq!((beside.snapshots.len(), beside.condemned, beside.deleted, beside.in_use), (1, 3, 0, 3));
    let entries = vec![
        found.at("packages/00/11/other-1.tar.gz".parse().unwrap()),
        brought.at("simple/other/index.html".parse().unwrap()),
    ];
    let mut draft = world.draft_of("another", 1, "other", entries);
    draft.base = None;
    let committed = locked.commit(draft, |_, _| Vec::new()).unwrap();
    let verified = locked.verify(committed).unwrap();
    drop((intake, locked));

    let after = run(&world.store, Duration::ZERO, time(0));
    assert_eq!((after.deleted, after.in_use), (1, 0), "the page of the first snapshot, which nobody has found");
    assert!(world.store.blob_path(found.blake3).exists() && world.store.blob_path(brought.blake3).exists());
    world.lock("another").verified(world.store.recorded(verified.id()).unwrap(), None).unwrap();
}

#[test]
fn what_a_sync_that_died_has_brought_goes() {
    let world = Opened::new();
    let intake = world.intake("pypi");
    let staged = intake.stage(b"brought").unwrap();
    let brought = intake.land(vec![staged]).unwrap()[0];
    assert_eq!(run(&world.store, Duration::ZERO, time(0)).in_use, 1);
    drop(intake);
    // As if it had died: the row is there, and nobody has the lock.
    world.sql().execute("INSERT INTO intake (mirror, began) SELECT id, 1 FROM mirror WHERE name = 'pypi'", []).unwrap();
    assert_eq!(run(&world.store, Duration::ZERO, time(0)).in_use, 1, "a process that has the store open does not look");
    let store = world.open();
    assert_eq!(run(&store, Duration::ZERO, time(0)).deleted, 1);
    assert!(!world.store.blob_path(brought.blake3).exists());
}

/// A snapshot that is committed between the marking and the deletion is not forgotten; here, one that a sync commits
/// while the collection has nothing but its lock.
#[test]
fn collections_and_syncs_beside_each_other_lose_nothing() {
    let world = Opened::new();
    std::thread::scope(|scope| {
        let syncing: Vec<_> = ["pypi", "other"]
            .map(|name| {
                let world = &world;
                scope.spawn(move || {
                    let store = world.open();
                    for number in 1..=40_u64 {
                        let text = (number % 3).to_string();
                        let files = [format!("six-{}.tar.gz", number % 5)];
                        let changes = [("six", Some(content("six", &text, &[&files[0]])))];
                        let lock = store.lock(&mirror(name), Wait::Never, time(0)).unwrap();
                        let intake = Intake::open(&lock, Access::Public).unwrap();
                        let draft = world.draft_on(&intake, name, number, &changes);
                        let committed = lock.commit(draft, |_, _| Vec::new()).unwrap();
                        lock.verify(committed).unwrap();
                    }
                })
            })
            .into();
        while syncing.iter().any(|syncing| !syncing.is_finished()) {
            run(&world.store, Duration::ZERO, time(0));
        }
    });
    run(&world.store, Duration::ZERO, time(0));
    let report = world.verify(Some(&Data::default()));
    assert_eq!((report.damage, report.snapshots), (vec![], 2));
    assert_eq!(world.blobs().len() as u64, report.blobs);
}

#[test]
fn a_second_collection_is_told_who_is_at_it() {
    let world = Opened::new();
    let _lock = strandline_durable::Lock::take(&world.root().join("locks/gc"), "it", "now").unwrap();
    let refused = collect(&world.store, |_| LAST_ONE, HOUR, time(0));
    assert!(matches!(refused, Err(StoreError::Lock(LockError::Held { .. }))), "{refused:?}");
    plan(&world.store, |_| LAST_ONE, HOUR, time(0)).unwrap().outcome();
}

#[test]
fn what_readers_see_is_kept_whatever_retention_says() {
    let world = Opened::new();
    let ids: Vec<_> = (1..=6)
        .map(|number| world.record("pypi", number, &[("six", Some(content("six", &number.to_string(), &[])))]).id())
        .collect();
    let lock = world.lock("pypi");
    let state = ViewState { slot: Slot::A, snapshot: ids[1], previous: Some(ids[0]), switched: time(0), frozen: true };
    lock.record_switch(state).unwrap();
    let twin = Twin { base: Some(ids[2]), target: Some(ids[3]) };
    lock.record_twin(Slot::B, twin).unwrap();
    drop(lock);
    run(&world.store, Duration::ZERO, time(0));
    assert_eq!(world.labels("pypi"), ["6", "4", "3", "2", "1"], "live, previous, both ends of the standby, the newest");
    assert_eq!(world.blobs().len(), 5);
}

#[test]
fn a_snapshot_that_was_never_verified_goes() {
    let world = Opened::new();
    world.record("pypi", 1, &[("six", Some(content("six", "one", &[])))]);
    let draft = world.draft("pypi", 2, &[("six", Some(content("six", "two", &[])))]);
    drop(world.commit("pypi", draft));
    let all = Keep { last: 99, daily: 99, weekly: 99 };
    let collected = collect(&world.store, |_| all, Duration::ZERO, time(0)).unwrap();
    assert_eq!(collected.snapshots.len(), 1);
    assert_eq!(world.labels("pypi"), ["1"]);
    assert_eq!(world.blobs().len(), 1);
}

#[test]
fn links_of_the_pool_leave_with_the_last_snapshot_that_names_them_and_the_grace() {
    let world = Opened::new();
    let pool = world.store.view_directory(&mirror("pypi"));
    let link = |file: &str, bytes: &str| {
        let path = pool.join("packages/00/11").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::hard_link(world.store.blob_path(Blake3::of(bytes.as_bytes())), &path).unwrap();
        path
    };
    let [stays, goes, returns] = ["six-2.tar.gz", "six-1.tar.gz", "six-0.tar.gz"];
    world.record("pypi", 1, &[("six", Some(content("six", "one", &[stays, goes, returns])))]);
    let [stays_at, goes_at, returns_at] = [stays, goes, returns].map(|file| link(file, &format!("bytes of {file}")));
    world.record("pypi", 2, &[("six", Some(content("six", "two", &[stays])))]);
    assert_eq!(run(&world.store, HOUR, time(0)).links, 0);
    world.record("pypi", 3, &[("six", Some(content("six", "three", &[stays, returns])))]);
    assert_eq!(run(&world.store, HOUR, time(3600)).links, 1);
    assert!(stays_at.exists() && returns_at.exists() && !goes_at.exists());

    world.record("pypi", 4, &[("six", None)]);
    let dry = plan(&world.store, |_| LAST_ONE, Duration::ZERO, time(4000)).unwrap().outcome();
    assert_eq!((dry.links, run(&world.store, Duration::ZERO, time(4000)).links), (2, 2));
    assert_eq!(fs::read_dir(pool.join("packages")).unwrap().count(), 0, "empty directories go, the pool's own stays");
    assert_eq!(world.blobs(), BTreeSet::new());
}

/// A collection that died after it decided is finished by whoever opens the store next; a missing file is no obstacle.
#[test]
fn an_interrupted_deletion_is_finished_at_open() {
    let world = Opened::new();
    let (gone, there) = (world.ingest(b"gone already"), world.ingest(b"there still"));
    world.ingest(b"condemned only");
    let mark = "UPDATE blob SET condemned = 7, deleting = 1 WHERE blake3 = ?1";
    for blob in [gone, there] {
        world.sql().execute(mark, [blob.blake3.as_bytes()]).unwrap();
    }
    fs::remove_file(world.store.blob_path(gone.blake3)).unwrap();
    assert_eq!(world.store.find_blob_row(there.blake3).unwrap(), None, "what is being deleted is not there any more");

    let lock = strandline_durable::Lock::take(&world.root().join("locks/gc"), "it", "now").unwrap();
    drop(world.open());
    assert_eq!(world.blobs().len(), 2, "not beside another collection");
    drop(lock);
    drop(world.open());
    assert_eq!(world.blobs().into_iter().collect::<Vec<_>>(), [Blake3::of(b"condemned only").to_string()]);
    let rows: i64 = world.sql().query_row("SELECT count(*) FROM blob", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
}

/// A process that has the store open for long does not pass by `open`: it gets the bytes anew, with a time of their own.
#[test]
fn what_is_marked_for_deletion_can_come_in_again() {
    for file_is_gone in [false, true] {
        let world = Opened::new();
        let before = world.ingest(b"wanted again");
        let mark = "UPDATE blob SET condemned = 7, deleting = 1";
        world.sql().execute(mark, []).unwrap();
        if file_is_gone {
            fs::remove_file(world.store.blob_path(before.blake3)).unwrap();
        }
        let after = world.ingest(b"wanted again");
        let modified = fs::metadata(world.store.blob_path(after.blake3)).unwrap().modified().unwrap();
        assert_eq!(modified, std::time::UNIX_EPOCH + Duration::from_secs(after.mtime));
        assert_eq!(after.mtime == before.mtime, !file_is_gone);
        assert_eq!(world.store.find_blob_row(after.blake3).unwrap(), Some(after));
        drop(world.open());
        assert_eq!(world.blobs().len(), 1);
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A sync of a mirror: each project's text, or none.
    Sync { mirror: bool, texts: [Option<u8>; 3] },
    /// A collection that keeps so many, after so many minutes.
    Collect { last: usize, minutes: i64, dry: bool },
    /// Readers of a mirror get its newest snapshot.
    Publish { mirror: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let texts = prop::array::uniform3(prop::option::weighted(0.7, 0_u8..4));
    let step = prop_oneof![
        4 => (any::<bool>(), texts).prop_map(|(mirror, texts)| Step::Sync { mirror, texts }),
        2 => (1_usize..4, 0_i64..90, prop::bool::weighted(0.2))
            .prop_map(|(last, minutes, dry)| Step::Collect { last, minutes, dry }),
        1 => any::<bool>().prop_map(|mirror| Step::Publish { mirror }),
    ];
    prop::collection::vec(step, 1..14)
}

/// A mirror as a list of sets: what each kept snapshot names.
#[derive(Debug, Default)]
struct Model {
    snapshots: BTreeMap<u64, BTreeSet<String>>,
    live: Option<u64>,
    previous: Option<u64>,
}

impl Model {
    fn retain(&mut self, last: usize) {
        let newest: BTreeSet<u64> = self.snapshots.keys().rev().take(last.max(1)).copied().collect();
        let (live, previous) = (self.live, self.previous);
        self.snapshots.retain(|number, _| newest.contains(number) || [live, previous].contains(&Some(*number)));
    }
}

fn named(models: &BTreeMap<bool, Model>) -> BTreeSet<String> {
    models.values().flat_map(|model| model.snapshots.values().flatten().cloned()).collect()
}

fn mirror_name(which: bool) -> &'static str {
    if which { "pypi" } else { "other" }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any sequence of syncs, switches and collections: no kept snapshot ever lacks a blob, and after a collection
    /// without grace the blobs are exactly those that kept snapshots name. Long because each kind of step has its arm.
    #[test]
    fn the_blobs_are_those_that_kept_snapshots_name(steps in steps()) {
        let world = Opened::new();
        let mut models: BTreeMap<bool, Model> = BTreeMap::new();
        let mut now = 0;
        for (number, step) in (1_u64..).zip(steps) {
            match step {
                Step::Sync { mirror, texts } => {
                    let state: Vec<(&str, Option<Content>)> = ["a", "b", "c"]
                        .into_iter()
                        .zip(texts)
                        .map(|(name, text)| (name, text.map(|text| content(name, &text.to_string(), &[]))))
                        .collect();
                    world.record(mirror_name(mirror), number, &state);
                    let blobs = state.iter().flat_map(|(_, content)| content.iter().flatten());
                    let blobs = blobs.map(|(_, bytes)| Blake3::of(bytes).to_string()).collect();
                    models.entry(mirror).or_default().snapshots.insert(number, blobs);
                }
                Step::Publish { mirror: which } => {
                    let Some(model) = models.get_mut(&which) else { continue };
                    let newest = *model.snapshots.last_key_value().unwrap().0;
                    if model.live == Some(newest) {
                        continue;
                    }
                    (model.previous, model.live) = (model.live, Some(newest));
                    let published = world.lock(mirror_name(which));
                    let id = published.latest_verified().unwrap().unwrap().id;
                    let before = published.view_state().unwrap().map(|state| state.snapshot);
                    let state = ViewState { slot: Slot::A, snapshot: id, previous: before, switched: time(now), frozen: false };
                    published.record_switch(state).unwrap();
                }
                Step::Collect { last, minutes, dry } => {
                    now += minutes * 60;
                    let keep = Keep { last, daily: 0, weekly: 0 };
                    let before = world.blobs();
                    let planned = plan(&world.store, |_| keep, HOUR, time(now)).unwrap().outcome();
                    prop_assert_eq!(&world.blobs(), &before);
                    if !dry {
                        let done = collect(&world.store, |_| keep, HOUR, time(now)).unwrap();
                        prop_assert_eq!(&done, &planned, "nothing was relied on meanwhile");
                        for model in models.values_mut() {
 model.retain(last);
 }
                        prop_assert_eq!(before.len() as u64 - done.deleted, world.blobs().len() as u64);
                    }
                }
            }
            let blobs = world.blobs();
            prop_assert!(named(&models).is_subset(&blobs), "step {}: a kept snapshot lacks a blob", number);
        }
        for (which, model) in &models {
            let kept = model.snapshots.keys().rev().map(ToString::to_string).collect::<Vec<_>>();
            prop_assert_eq!(world.labels(mirror_name(*which)), kept);
        }
        run(&world.store, Duration::ZERO, time(now));
        for model in models.values_mut() {
 model.retain(1);
 }
        prop_assert_eq!(world.blobs(), named(&models));
        prop_assert_eq!(run(&world.store, Duration::ZERO, time(now)), Collected::default(), "once is enough");
        let report = world.verify(Some(&Data::default()));
        prop_assert_eq!(report.damage, []);
        let (rows, bodies): (usize, u64) = {
            let sql = world.sql();
            let count = |table: &str| {
                sql.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, u64>(0)).unwrap()
            };
            (usize::try_from(count("blob")).unwrap(), count("body") - count("snapshot"))
        };
        prop_assert_eq!(rows, world.blobs().len());
        prop_assert_eq!(bodies, report.bodies, "no body is left that nothing reaches");
    }
}

/// Whatever step a collection dies at, a store that is opened again is whole, and the next collection ends where an
/// undisturbed one does.
#[test]
fn a_crash_at_every_step_of_a_collection() {
    let build = || {
        let world = Opened::new();
        world.record("pypi", 1, &[("six", Some(content("six", "one", &["six-1.tar.gz", "six-0.tar.gz"])))]);
        world.record("pypi", 2, &[("six", Some(content("six", "two", &["six-1.tar.gz"])))]);
        world
    };
    let counting = Disk::counting();
    let world = build();
    run(&world.open_on(counting.clone()).unwrap(), Duration::ZERO, time(0));
    let after = world.blobs();
    assert_eq!(after.len(), 2);
    for n in 1..=counting.steps() {
        let world = build();
        let crashed = world.open_on(Disk::failing_at(n));
        let crashed = crashed.and_then(|store| Ok(collect(&store, |_| LAST_ONE, Duration::ZERO, time(0))?));
        assert!(crashed.is_err(), "step {n}");
        let store = world.open();
        let whole = || {
            let mirrors = store.mirrors().unwrap();
            let report = strandline_store::verify::verify(&store, &mirrors, Some(&Data::default()), &|_| {}).unwrap();
            assert_eq!(report.damage, [], "step {n}");
        };
        whole();
        run(&store, Duration::ZERO, time(0));
        whole();
        assert_eq!(world.blobs(), after, "step {n}");
        assert_eq!(world.labels("pypi"), ["2"]);
    }
}
