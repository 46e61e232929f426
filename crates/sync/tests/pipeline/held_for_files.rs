//! A project of which files cannot be had: the tree has what upstream says of it, and readers get what they got before, until
//! `hold-after` is over, or for as long as no file at all can be had.

use std::sync::Arc;
use std::time::Duration;

use strandline_faultkit::{World, at_every_step, invariants, known, lose_body, mirror, now};
use strandline_model::{HoldReason, Timestamp};
use strandline_store::Store;
use strandline_store::gc::{self, Keep};
use strandline_sync::cut::Action;
use strandline_sync::{Context, Method, OnBroken, Outcome, Settings, SyncError};
use strandline_testkit::Raised;

use crate::support::script::{Body, Reply, Script, add, event, page, status, two, url};
use crate::support::whole_sync::essence;
use crate::support::withdrawal::withdraw;
use crate::support::{FORMAT, Syncs as _, context, damage, in_the_way, settings, sync_store, sync_store_at};

const NAMES: &[&str] = &["Alpha", "beta"];
const ONE: (&str, &[u8]) = ("alpha-1.tar.gz", b"alpha 1");
const TWO: (&str, &[u8]) = ("alpha-2.tar.gz", b"alpha 2");
const THREE: (&str, &[u8]) = ("alpha-3.tar.gz", b"alpha 3");

/// Asks once, and waits for `hold-after` for longer than the events are old.
fn patient() -> Settings {
    Settings { hold_after: Duration::from_secs(10 << 30), ..at_once() }
}

/// Asks once; what cannot be had is older than `hold-after`.
fn at_once() -> Settings {
    Settings { method: Some(Method::Changelog), cut_timeout: Duration::ZERO, ..settings(NAMES) }
}

/// An upstream at serial 7.
fn first() -> Script {
    let script = Script::new();
    script.publish("Alpha", Some(5), "1", &[ONE]);
    script.publish("beta", Some(7), "1", &[]);
    script.log([event(5, "Alpha", two(Action::NewRelease)), event(7, "beta", two(Action::NewRelease))]);
    script
}

/// From now on upstream names these files at a serial, and does not give those of `lost`.
fn moves_on(script: &Script, number: u64, files: &[(&str, &'static [u8])], lost: &[&str]) {
    let versions: Vec<_> = files.iter().filter_map(|(file, _)| file.get(6..7)).collect();
    script.publish("Alpha", Some(number), &versions.join(" "), files);
    for file in lost {
        script.files(&url(file), [Body::Fail(status(404))]);
    }
}

/// A mirror at serial 7, and an upstream at 8 that names a file which it does not give.
fn synced() -> (World, Arc<Script>) {
    let (world, script) = (World::new(), Arc::new(first()));
    world.sync(&script, &patient()).unwrap();
    moves_on(&script, 8, &[ONE, TWO], &[TWO.0]);
    script.log([event(8, "Alpha", add(TWO.0))]);
    (world, script)
}

/// How alpha is held: reason, and the serials AT and NEEDS.
fn held(done: &Outcome) -> Vec<(HoldReason, u64, u64)> {
    done.held.iter().map(|held| (held.reason, held.at.get(), held.needs.get())).collect()
}

/// Requires that readers see this list, that alpha's page lists these files, and that its line in the tree has this serial and a
/// record of so many files; and what always holds.
#[track_caller]
fn shows(world: &World, list: &str, files: Option<&[&str]>, (serial, named): (u64, usize)) {
    assert_eq!(world.list(), list);
    let store = world.open();
    let page = world.served("simple/alpha/index.v1_json");
    let names =
        |page: &String| page.lines().skip(3).map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>();
    let wanted = files.map(|files| files.iter().map(|file| (*file).to_owned()).collect::<Vec<_>>());
    assert_eq!(page.as_ref().map(names), wanted, "{page:?}");
    if let Some(page) = page.filter(|_| list.contains("Alpha:")) {
        let of_page = format!("Alpha:{}", page.lines().nth(1).unwrap());
        assert!(list.split(' ').any(|project| project == of_page), "the list says {list}, and the page {of_page}");
    }
    let leaf = world.leaf("alpha").unwrap();
    let record = store.record(leaf.record.unwrap()).unwrap();
    assert_eq!((leaf.serial.get(), record.files().len(), leaf.logged), (serial, named, true));
    invariants::check(&world.root(), &store, &mirror()).unwrap();
    invariants::check_at_rest(&world.root(), &store, &mirror());
}

#[test]
fn the_tree_goes_on_and_readers_get_what_they_got() {
    let (world, script) = synced();
    script.log([event(9, "beta", None)]);
    let done = world.sync(&script, &patient()).unwrap();
    assert_eq!((done.label.to_string().as_str(), done.lacking.len()), ("9", 0));
    assert_eq!(held(&done), [(HoldReason::FileMissing, 5, 8)]);
    shows(&world, "9 Alpha:5 beta:9", Some(&[ONE.0]), (8, 2));
    // Again, nothing changes but what upstream is asked for.
    script.asked();
    let done = world.sync(&script, &patient()).unwrap();
    assert_eq!((done.changed, world.labels().len(), held(&done).len()), (0, 2, 1));
    assert_eq!(Script::count(&script.asked(), &format!("file {}", url(TWO.0))), 1);
    // What a mirror was told that has all files is the same.
    let (other, whole) = (World::new(), Arc::new(first()));
    moves_on(&whole, 8, &[ONE, TWO], &[]);
    whole.log([event(8, "Alpha", add(TWO.0)), event(9, "beta", None)]);
    other.sync(&whole, &patient()).unwrap();
    assert_eq!(other.latest().snapshot.state, world.latest().snapshot.state);
    // From `hold-after` on the file alone is not shown.
    let done = world.sync(&script, &at_once()).unwrap();
    assert_eq!((held(&done), done.lacking.len(), done.label.to_string().as_str()), (vec![], 1, "9.2"));
    shows(&world, "9 Alpha:8 beta:9", Some(&[ONE.0]), (8, 2));
    assert_eq!(other.latest().snapshot.state, world.latest().snapshot.state);
    script.asked();
}

#[test]
fn it_ends_when_the_file_comes() {
    let (world, script) = synced();
    world.sync(&script, &patient()).unwrap();
    script.files(&url(TWO.0), [Body::Bytes(b"omega 2")]);
    assert_eq!(held(&world.sync(&script, &patient()).unwrap()), [(HoldReason::FileWrong, 5, 8)]);
    script.files(&url(TWO.0), [Body::Bytes(TWO.1)]);
    let done = world.sync(&script, &patient()).unwrap();
    assert_eq!((held(&done), done.label.to_string().as_str()), (vec![], "8.3"));
    shows(&world, "8 Alpha:8 beta:7", Some(&[ONE.0, TWO.0]), (8, 2));
    // Also with a later event.
    moves_on(&script, 9, &[ONE, TWO, THREE], &[THREE.0]);
    script.log([event(9, "Alpha", add(THREE.0))]);
    assert_eq!(held(&world.sync(&script, &patient()).unwrap()), [(HoldReason::FileMissing, 8, 9)]);
    shows(&world, "9 Alpha:8 beta:7", Some(&[ONE.0, TWO.0]), (9, 3));
    moves_on(&script, 10, &[ONE, TWO], &[]);
    script.log([event(10, "Alpha", Action::RemoveFile(THREE.0.to_owned()))]);
    assert_eq!(held(&world.sync(&script, &patient()).unwrap()), []);
    shows(&world, "10 Alpha:10 beta:7", Some(&[ONE.0, TWO.0]), (10, 2));
}

#[test]
fn it_has_a_state_of_its_own_only_as_long_as_hold_after_says() {
    let (world, script) = synced();
    let event = |seconds: i64, number, file| {
        let time = Timestamp::from_seconds(now().seconds() + seconds).unwrap();
        strandline_sync::upstream::Event { time, ..event(number, "Alpha", add(file)) }
    };
    let sync = |seconds: i64| {
        let time = Timestamp::from_seconds(now().seconds() + seconds).unwrap();
        let settings = Settings { hold_after: Duration::from_secs(600), settle: Duration::ZERO, ..at_once() };
        sync_store_at(&world.open(), &script, &settings, time).unwrap()
    };
    moves_on(&script, 9, &[ONE, TWO, THREE], &[TWO.0, THREE.0]);
    script.log([event(0, 9, THREE.0)]);
    let done = sync(10);
    assert_eq!(held(&done), [(HoldReason::FileMissing, 5, 9)]);
    // A later change, of which a file is missing too, does not begin it anew.
    moves_on(&script, 10, &[ONE, TWO, THREE], &[TWO.0, THREE.0]);
    script.log([event(500, 10, THREE.0)]);
    assert_eq!(sync(590).held[0].since, done.held[0].since);
    let done = sync(610);
    assert_eq!((held(&done), done.lacking.len()), (vec![], 2));
    shows(&world, "10 Alpha:10 beta:7", Some(&[ONE.0]), (10, 3));
}

#[test]
fn the_log_goes_on_without_the_page() {
    let (world, script) = synced();
    world.sync(&script, &patient()).unwrap();
    // An event about people moves the serial of the tree's line, and not that of the page.
    script.log([event(9, "Alpha", None)]);
    assert_eq!(held(&world.sync(&script, &patient()).unwrap()), [(HoldReason::FileMissing, 5, 8)]);
    shows(&world, "9 Alpha:5 beta:7", Some(&[ONE.0]), (9, 2));
    // What upstream says is replayed from the record, also where the page is older or there is none.
    script.pages("Alpha", [Reply::Missing]);
    script.log([event(10, "Alpha", two(Action::UnyankRelease))]);
    assert_eq!(held(&world.sync(&script, &patient()).unwrap()), [(HoldReason::FileMissing, 5, 10)]);
    shows(&world, "10 Alpha:5 beta:7", Some(&[ONE.0]), (10, 2));
    script.log([event(11, "beta", None)]);
    assert_eq!(held(&world.sync(&script, &patient()).unwrap()), [(HoldReason::FileMissing, 5, 10)]);
    shows(&world, "11 Alpha:5 beta:11", Some(&[ONE.0]), (10, 2));
    // What it takes away goes from what readers get, too.
    script.log([event(12, "Alpha", Action::RemoveFile(ONE.0.to_owned()))]);
    assert_eq!(held(&world.sync(&script, &patient()).unwrap()), [(HoldReason::FileMissing, 5, 12)]);
    shows(&world, "12 Alpha:5 beta:11", Some(&[]), (12, 1));
    script.log([event(13, "Alpha", Action::RemoveFile(TWO.0.to_owned()))]);
    assert_eq!(held(&world.sync(&script, &patient()).unwrap()), []);
    shows(&world, "13 Alpha:13 beta:11", Some(&[]), (13, 0));
}

#[test]
fn what_needs_a_page_waits_for_it_and_is_held_for_it() {
    let (world, script) = synced();
    world.sync(&script, &patient()).unwrap();
    script.log([event(9, "Alpha", Action::Unknown)]);
    let names = in_the_way(world.sync(&script, &patient()));
    assert!(
        names[&crate::support::script::name("alpha")]
            .contains("a page of serial 9 is wanted, one of serial 8 was seen"),
        "{names:?}"
    );
    assert_eq!(world.labels(), ["8", "7"]);
    // Held for its page now: the tree stands where it stood, and readers get what they got.
    let done = world.sync(&script, &at_once()).unwrap();
    assert_eq!(held(&done), [(HoldReason::StalePage, 5, 9)]);
    shows(&world, "9 Alpha:5 beta:7", Some(&[ONE.0]), (8, 2));
    moves_on(&script, 9, &[ONE, TWO], &[TWO.0]);
    let done = world.sync(&script, &at_once()).unwrap();
    assert_eq!((held(&done), done.lacking.len()), (vec![], 1));
    shows(&world, "9 Alpha:9 beta:7", Some(&[ONE.0]), (9, 2));
}

#[test]
fn it_ends_with_the_project_and_with_its_quarantine() {
    for (action, listed) in [(Action::RemoveProject, false), (Action::QuarantineProject, true)] {
        let (world, script) = synced();
        world.sync(&script, &patient()).unwrap();
        script.log([event(9, "Alpha", action)]);
        let done = world.sync(&script, &patient()).unwrap();
        assert_eq!((held(&done), world.list().as_str()), (vec![], "9 beta:7"));
        assert_eq!(world.leaf("alpha").map(|leaf| leaf.serial.get()), listed.then_some(9));
    }
}

#[test]
fn a_project_that_was_never_good_is_not_there_for_readers() {
    for settings in [patient(), at_once()] {
        let (world, script) = (World::new(), Arc::new(first()));
        script.files(&url(ONE.0), [Body::Fail(status(404))]);
        for _ in 0..2 {
            let done = world.sync(&script, &settings).unwrap();
            assert_eq!(held(&done), [(HoldReason::FileMissing, 0, 5)]);
            assert_eq!((done.label.to_string().as_str(), done.projects), ("7", 1));
            shows(&world, "7 beta:7", None, (5, 1));
            assert_eq!(world.leaf("alpha").map(|leaf| (leaf.unit, leaf.listed)), Some((None, false)));
        }
        let store = world.open();
        assert_eq!(damage(&store), []);
        let (whole, keep) = (Arc::new(first()), Keep { last: 1, daily: 0, weekly: 0 });
        gc::collect(&store, |_| keep, Duration::ZERO, now()).unwrap();
        drop(store);
        let done = world.sync(&whole, &settings).unwrap();
        assert_eq!((held(&done), done.label.to_string().as_str()), (vec![], "7.2"));
        shows(&world, "7 Alpha:5 beta:7", Some(&[ONE.0]), (5, 1));
    }
}

#[test]
fn pages_are_made_anew_and_files_withdrawn_of_what_readers_get() {
    let (world, script) = synced();
    world.sync(&script, &patient()).unwrap();
    let store = world.open();
    let raised = Context { format: Arc::new(Raised(FORMAT)), ..context(&store, &script, &patient(), now()) };
    let run = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let made = run.block_on(strandline_sync::render::render(&raised)).unwrap().unwrap();
    assert_eq!((made.projects, made.published), (2, true));
    let leaf = world.leaf("alpha").unwrap();
    let source = store.unit(leaf.unit.unwrap()).unwrap().source().unwrap();
    assert_eq!((leaf.serial.get(), source.serial.get(), source.renderer), (8, 5, 2));
    invariants::check(&world.root(), &store, &mirror()).unwrap();

    withdraw(&store, None, ONE.1).unwrap();
    shows(&world, "8 beta:7", Some(&[]), (8, 2));
    let keep = Keep { last: 1, daily: 0, weekly: 0 };
    gc::collect(&store, |_| keep, Duration::ZERO, now()).unwrap();
    assert_eq!(damage(&store), []);
    let done = sync_store(&store, &script, &patient()).unwrap();
    assert_eq!(held(&done), [(HoldReason::FileMissing, 5, 8)]);
    shows(&world, "8 beta:7", Some(&[]), (8, 2));
}

#[test]
fn a_lost_unit_is_made_again_of_the_record_that_it_shows() {
    let (world, script) = synced();
    world.sync(&script, &patient()).unwrap();
    let unit = world.leaf("alpha").unwrap().unit.unwrap();
    lose_body(&world.root(), unit).unwrap();
    let store = world.open();
    let contexts = [context(&store, &script, &patient(), now())];
    let run = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let done = run.block_on(strandline_sync::repair::repair(&contexts, damage(&store), false)).unwrap();
    assert!(done.left.is_empty(), "{done:?}");
    shows(&world, "8 Alpha:5 beta:7", Some(&[ONE.0]), (8, 2));
}

#[test]
fn a_rollback_shows_the_serials_of_its_own_pages() {
    let (world, script) = synced();
    world.sync(&script, &patient()).unwrap();
    let list = |label: &str| {
        let store = world.open();
        let mirror = known(&store, &mirror());
        let recorded = mirror.select(label.parse().unwrap()).unwrap();
        let listed = mirror.listed(&recorded.snapshot).unwrap();
        listed.iter().map(|project| format!("{}:{}", project.display, project.serial)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!((list("7").as_str(), list("8").as_str()), ("Alpha:5 beta:7", "Alpha:5 beta:7"));
    script.files(&url(TWO.0), [Body::Bytes(TWO.1)]);
    world.sync(&script, &patient()).unwrap();
    assert_eq!((list("8").as_str(), list("8.1").as_str()), ("Alpha:8 beta:7", "Alpha:5 beta:7"));
}

/// Without a changelog.
fn collecting(settings: Settings) -> Settings {
    Settings { method: Some(Method::Collect), ..settings }
}

#[test]
fn a_double_collect_holds_and_goes_on_in_the_same_way() {
    let (world, script) = (World::new(), Arc::new(first()));
    world.sync(&script, &collecting(patient())).unwrap();
    moves_on(&script, 8, &[ONE, TWO], &[TWO.0]);
    for _ in 0..2 {
        let done = world.sync(&script, &collecting(patient())).unwrap();
        assert_eq!((held(&done), done.label.to_string().as_str()), (vec![(HoldReason::FileMissing, 5, 8)], "8"));
        shows(&world, "8 Alpha:5 beta:7", Some(&[ONE.0]), (8, 2));
    }
    // An older page of a cache is the base's.
    script.pages("Alpha", [Reply::Page(page("Alpha", Some(5), "1", &[ONE]), None)]);
    let done = world.sync(&script, &collecting(patient())).unwrap();
    assert_eq!(held(&done), [(HoldReason::FileMissing, 5, 8)]);
    let freeze = Settings { on_broken: OnBroken::Freeze, ..collecting(patient()) };
    let stale = in_the_way(world.sync(&script, &freeze));
    assert!(stale[&crate::support::script::name("alpha")].contains("a cache may be stale"), "{stale:?}");
    moves_on(&script, 8, &[ONE, TWO], &[TWO.0]);
    let over = Settings { hold_after: Duration::ZERO, ..collecting(patient()) };
    let done = world.sync(&script, &over).unwrap();
    assert_eq!((held(&done), done.lacking.len()), (vec![], 1));
    shows(&world, "8 Alpha:8 beta:7", Some(&[ONE.0]), (8, 2));
    // Of what it names from now on, none can be had.
    moves_on(&script, 9, &[TWO, THREE], &[TWO.0, THREE.0]);
    let done = world.sync(&script, &over).unwrap();
    assert_eq!((held(&done), done.lacking.len()), (vec![(HoldReason::FileMissing, 8, 9)], 1));
    shows(&world, "9 Alpha:8 beta:7", Some(&[ONE.0]), (9, 2));
    script.files(&url(THREE.0), [Body::Bytes(THREE.1)]);
    let done = world.sync(&script, &over).unwrap();
    assert_eq!((held(&done), done.lacking.len()), (vec![], 1));
    shows(&world, "9 Alpha:9 beta:7", Some(&[THREE.0]), (9, 2));
    let freeze = Settings { on_broken: OnBroken::Freeze, ..over };
    moves_on(&script, 10, &[ONE, TWO, THREE], &[ONE.0, TWO.0]);
    assert!(world.sync(&script, &freeze).is_ok(), "the store has the bytes, and the other is known to be lacking");
    moves_on(&script, 11, &[ONE, ("alpha-4.tar.gz", b"alpha 4")], &["alpha-4.tar.gz"]);
    assert!(matches!(world.sync(&script, &freeze), Err(SyncError::Fetch(_))));
}

#[test]
fn a_double_collect_without_serials_counts_what_upstream_says() {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    script.publish("Alpha", None, "1", &[ONE]);
    script.publish("beta", None, "1", &[]);
    world.sync(&script, &collecting(patient())).unwrap();
    script.publish("Alpha", None, "1 2", &[ONE, TWO]);
    script.files(&url(TWO.0), [Body::Fail(status(404))]);
    for _ in 0..2 {
        let done = world.sync(&script, &collecting(patient())).unwrap();
        assert_eq!((held(&done), done.label.to_string().as_str()), (vec![(HoldReason::FileMissing, 1, 0)], "2"));
        shows(&world, "2 Alpha:1 beta:1", Some(&[ONE.0]), (2, 2));
    }
    script.files(&url(TWO.0), [Body::Bytes(TWO.1)]);
    let done = world.sync(&script, &collecting(patient())).unwrap();
    assert_eq!(held(&done), []);
    assert_eq!(world.leaf("alpha").map(|leaf| leaf.serial.get()), Some(2));
    invariants::check(&world.root(), &world.open(), &mirror()).unwrap();
}

#[test]
fn a_crash_at_every_step_of_a_hold_and_of_its_end() {
    let sync = |serve: bool| {
        move |store: &Arc<Store>| {
            let script = Arc::new(first());
            moves_on(&script, 8, &[ONE, TWO], if serve { &[] } else { &[TWO.0] });
            script.log([event(8, "Alpha", add(TWO.0))]);
            script.log(serve.then(|| event(9, "beta", None)));
            Ok(sync_store(store, &script, &patient()).map(drop)?)
        }
    };
    let old = World::new();
    old.sync(&Arc::new(first()), &patient()).unwrap();
    at_every_step(&old, &[Some(7), Some(8)], sync(false), sync(false), essence);
    sync(false)(&old.open()).unwrap();
    at_every_step(&old, &[Some(8), Some(9)], sync(true), sync(true), essence);
}
