//! What a publication does and leaves alone: a test for each promise of `src/lib.rs`, and for what makes it cheap.
#![expect(clippy::disallowed_methods, reason = "tests move and damage stores behind the program's back")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use strandline_durable::Disk;
use strandline_faultkit::{World, invariants, known, lock, mirror};
use strandline_model::{Blake3, Format, Snapshot};
use strandline_store::{Slot, Store};
use strandline_testkit::Raised;
use strandline_view::{Freeze, Publisher, ViewError};

use crate::support::{
    FORMAT, State, catch_up, expected, path, project, publish, publisher, record, serial, served, state, sync, time,
    wait_for,
};

fn first() -> State {
    state(&[
        ("Alpha", "one", &[("alpha-1.tar.gz", "alpha 1")]),
        ("beta", "one", &[("beta-1.tar.gz", "beta 1")]),
        ("gamma", "one", &[]),
    ])
}

fn second() -> State {
    state(&[("Alpha", "two", &[("alpha-2.tar.gz", "alpha 2")]), ("gamma", "one", &[])])
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn twins_take_turns_and_only_what_differs_changes() {
    let world = World::new();
    let store = world.open();
    let lists = 3;
    assert_eq!(sync(&store, 1, &first()).unwrap(), (Slot::A, 3));
    let all_at_one = [("Alpha", 1), ("beta", 1), ("gamma", 1)];
    assert_eq!(served(&world), expected(1, &first(), &all_at_one));
    assert_eq!(served(&world).len(), 3 * 3 + lists);

    assert_eq!(sync(&store, 2, &second()).unwrap(), (Slot::B, 2));
    assert_eq!(served(&world), expected(2, &second(), &[("Alpha", 2), ("gamma", 1)]));
    assert!(!world.view().join("b/simple/beta").exists(), "a project that went leaves no directory");

    // The tree `a` has the first state still: from there to the third only beta differs.
    let back = first();
    assert_eq!(sync(&store, 3, &back).unwrap(), (Slot::A, 2));
    assert_eq!(served(&world), expected(3, &back, &[("Alpha", 3), ("beta", 3), ("gamma", 1)]));
    invariants::check(&world.root(), &store, &mirror());
    invariants::check_at_rest(&world.root(), &store, &mirror());
}

#[test]
fn pages_and_files_are_links_to_blobs() {
    let world = World::new();
    let store = world.open();
    sync(&store, 1, &first()).unwrap();
    let page = |tree: &str, project: &str| world.view().join(tree).join("simple").join(project).join("index.v1_json");
    sync(&store, 2, &second()).unwrap();
    assert_eq!(inode(&page("a", "gamma")), inode(&page("b", "gamma")), "what did not change is the same file");
    assert_eq!(inode(&page("b", "gamma")), inode(&store.blob_path(Blake3::of(b"json gamma one"))));
    let (name, content) = project("Alpha", "two", &[("alpha-2.tar.gz", "alpha 2")]);
    assert_eq!(name, "Alpha");
    let pooled = content.keys().find(|path| path.starts_with("packages/")).unwrap();
    assert_eq!(inode(&world.view().join(pooled)), inode(&store.blob_path(Blake3::of(b"alpha 2"))));
}

#[test]
fn publishing_what_is_published_changes_nothing() {
    let world = World::new();
    sync(&world.open(), 1, &first()).unwrap();
    let before = invariants::essence(&world.root());
    let disk = Disk::counting();
    let store = world.open_on(disk.clone()).unwrap();
    let (opened, live) = (disk.steps(), inode(&world.view().join("a/simple/index.html")));
    assert_eq!(publish(&store, 1, Freeze::Lift).unwrap(), (Slot::A, 0));
    assert_eq!(disk.steps(), opened + 1, "only that the switch to it is made durable, if it was not");
    assert_eq!(inode(&world.view().join("a/simple/index.html")), live);
    assert_eq!(invariants::essence(&world.root()), before);
}

#[test]
fn a_rollback_shows_the_old_state_and_stays_until_it_is_resumed() {
    let world = World::new();
    let store = world.open();
    sync(&store, 1, &first()).unwrap();
    sync(&store, 2, &second()).unwrap();
    publish(&store, 1, Freeze::Set).unwrap();
    assert_eq!(served(&world), expected(1, &first(), &[("Alpha", 1), ("beta", 1), ("gamma", 1)]));
    let state = known(&store, &mirror()).view_state().unwrap().unwrap();
    assert!(state.frozen);
    assert_eq!(state.previous, Some(known(&store, &mirror()).at_serial(serial(2)).unwrap().unwrap().id));
    // The files of what was shown before stay: a client may have its page.
    invariants::check(&world.root(), &store, &mirror());
    invariants::check_at_rest(&world.root(), &store, &mirror());

    publish(&store, 1, Freeze::Lift).unwrap();
    assert!(!known(&store, &mirror()).view_state().unwrap().unwrap().frozen, "the same snapshot, resumed");
    publish(&store, 2, Freeze::Lift).unwrap();
    assert_eq!(served(&world), expected(2, &second(), &[("Alpha", 2), ("gamma", 1)]));
}

#[test]
fn going_back_to_what_was_published_before_is_a_switch_alone() {
    let world = World::new();
    let store = world.open();
    let first_state = expected(1, &first(), &[("Alpha", 1), ("beta", 1), ("gamma", 1)]);
    sync(&store, 1, &first()).unwrap();
    let list = world.view().join("a/simple/index.html");
    let made = inode(&list);
    sync(&store, 2, &second()).unwrap();
    assert_eq!(publish(&store, 1, Freeze::Set).unwrap(), (Slot::A, 0));
    assert_eq!((served(&world), inode(&list)), (first_state.clone(), made), "with its lists");

    // Of a list, that is found out by its bytes.
    for damage in [Some("no list"), None] {
        publish(&store, 2, Freeze::Lift).unwrap();
        fs::remove_file(&list).unwrap();
        damage.map(|bytes| fs::write(&list, bytes)).transpose().unwrap();
        assert_eq!(publish(&store, 1, Freeze::Set).unwrap(), (Slot::A, 0));
        assert_eq!(served(&world), first_state, "{damage:?}");
    }
    invariants::check(&world.root(), &store, &mirror());
    invariants::check_at_rest(&world.root(), &store, &mirror());
}

/// The pages of the projects in a tree.
fn pages(world: &World, tree: &str) -> BTreeMap<String, String> {
    let mut pages = invariants::everything(&world.view().join(tree).join("simple"));
    pages.retain(|path, what| path.contains('/') && what != "/");
    pages
}

#[test]
fn a_standby_that_has_caught_up_lacks_only_what_is_new() {
    let world = World::new();
    let store = world.open();
    catch_up(&store).unwrap();
    assert_eq!(known(&store, &mirror()).view_state().unwrap(), None, "nothing is published, and nothing was done");
    sync(&store, 1, &first()).unwrap();
    sync(&store, 2, &second()).unwrap();
    assert_ne!(pages(&world, "a"), pages(&world, "b"));
    catch_up(&store).unwrap();
    assert_eq!(pages(&world, "a"), pages(&world, "b"));
    assert_eq!(served(&world), expected(2, &second(), &[("Alpha", 2), ("gamma", 1)]), "readers see what they saw");
    invariants::check(&world.root(), &store, &mirror());

    let disk = Disk::counting();
    let counted = world.open_on(disk.clone()).unwrap();
    let opened = disk.steps();
    catch_up(&counted).unwrap();
    assert_eq!(disk.steps(), opened, "once is enough");

    let mut third = second();
    third.extend([project("delta", "one", &[])]);
    assert_eq!(sync(&store, 3, &third).unwrap(), (Slot::A, 1));
    assert_eq!(served(&world), expected(3, &third, &[("Alpha", 2), ("delta", 3), ("gamma", 1)]));
    invariants::check(&world.root(), &store, &mirror());
    invariants::check_at_rest(&world.root(), &store, &mirror());
}

#[test]
fn after_a_rollback_the_standby_keeps_what_may_be_resumed() {
    let world = World::new();
    let store = world.open();
    sync(&store, 1, &first()).unwrap();
    sync(&store, 2, &second()).unwrap();
    publish(&store, 1, Freeze::Set).unwrap();
    let before = invariants::essence(&world.root());
    catch_up(&store).unwrap();
    assert_eq!(invariants::essence(&world.root()), before);
    assert_eq!(publish(&store, 2, Freeze::Lift).unwrap(), (Slot::B, 0));
}

#[test]
fn all_links_are_relative_so_a_store_can_be_moved() {
    let world = World::new();
    let store = world.open();
    sync(&store, 1, &first()).unwrap();
    sync(&store, 2, &second()).unwrap();
    drop(store);
    let links = invariants::everything(&world.root()).into_values().filter(|what| what.starts_with('→'));
    assert!(links.inspect(|link| assert!(!link.starts_with("→ /"), "{link}")).count() >= 3);

    let elsewhere = World::new();
    fs::rename(world.root(), elsewhere.root()).unwrap();
    let store = elsewhere.open();
    assert_eq!(invariants::check(&elsewhere.root(), &store, &mirror()), Some(2));
    invariants::check_at_rest(&elsewhere.root(), &store, &mirror());
    sync(&store, 3, &first()).unwrap();
    assert_eq!(invariants::check(&elsewhere.root(), &store, &mirror()), Some(3));
}

#[test]
fn the_lists_are_the_ones_that_the_snapshot_names() {
    let world = World::new();
    let store = world.open();
    let verified = record(&store, 1, &first()).unwrap();
    publish(&store, 1, Freeze::Lift).unwrap();
    let lists = &verified.snapshot().lists;
    assert_eq!(lists.len(), 3);
    for list in lists {
        let bytes = fs::read(world.view().join("live").join(list.path.as_str())).unwrap();
        assert_eq!((Blake3::of(&bytes), bytes.len() as u64), (list.blake3, list.size), "{}", list.path);
    }
    let place = |name: &str| world.view().join("live/simple").join(name);
    assert_eq!(inode(&place("index.html")), inode(&place("index.v1_html")), "equal lists are one file");
}

/// What readers see below `simple/` where the next renderer wrote the lists.
fn with_raised_lists(mut files: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    for (path, bytes) in &mut files {
        if path.matches('/').count() == 1 {
            bytes.push(b' ');
        }
    }
    files
}

#[test]
fn lists_of_another_renderer_stand_in_no_way() {
    let world = World::new();
    let store = world.open();
    let raised: Arc<dyn Format> = Arc::new(Raised(FORMAT));
    let publish = |label: &str, freeze: Freeze| {
        let locked = lock(&store).unwrap();
        let recorded = locked.select_served(label.parse().unwrap()).unwrap();
        let verified = locked.verified(recorded, None).unwrap();
        let publisher = publisher(Arc::clone(&raised), time(9));
        let published = wait_for(publisher.publish(&locked, &publisher.seal(verified), freeze)).unwrap().unwrap();
        assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(published.label().serial.get()));
        invariants::check_at_rest(&world.root(), &store, &mirror());
        published.label().to_string()
    };
    sync(&store, 1, &first()).unwrap();
    sync(&store, 2, &second()).unwrap();
    sync(&store, 3, &first()).unwrap();
    lock(&store).unwrap().pin(known(&store, &mirror()).at_serial(serial(1)).unwrap().unwrap().id, time(3)).unwrap();

    assert_eq!(publish("3", Freeze::Keep), "3", "it is published, so nothing is written");
    assert_eq!(publish("2", Freeze::Set), "2", "the standby has its lists");
    assert_eq!(publish("1", Freeze::Set), "1.2", "its lists are lost, and a revision takes its place");
    let all = [("Alpha", 1), ("beta", 1), ("gamma", 1)];
    assert_eq!(served(&world), with_raised_lists(expected(1, &first(), &all)));
    let [new, old] =
        ["1.2", "1.1"].map(|label| known(&store, &mirror()).at_label(label.parse().unwrap()).unwrap().unwrap());
    let same = |of: &Snapshot| (of.tree, of.state, of.follow, of.inputs, of.cutoff, of.time, of.listed);
    assert_eq!(same(&new.snapshot), same(&old.snapshot), "but for its lists");
    assert_eq!((new.snapshot.parent, store.pins().unwrap()), (Some(old.id), [new.id].into()));
    assert_eq!(known(&store, &mirror()).superseded().unwrap(), [(old.id, new.id)].into());
    assert_eq!(publish("1", Freeze::Set), "1.2", "once is enough");
    assert_eq!(publish("3", Freeze::Lift), "3.2");
    assert_eq!(publish("1.2", Freeze::Set), "1.2");
    // What one renderer wrote, the one before it publishes, too.
    let back = crate::support::publish(&store, 3, Freeze::Lift).unwrap();
    assert_eq!((back, world.labels()), ((Slot::B, 0), ["3.2", "3", "2", "1.2", "1"].map(str::to_owned).to_vec()));
    sync(&store, 4, &second()).unwrap();
    sync(&store, 5, &first()).unwrap();
    crate::support::publish(&store, 1, Freeze::Set).unwrap();
    assert_eq!(served(&world), expected(1, &first(), &all));
    assert_eq!(world.labels()[4..], ["2", "1.3", "1.2", "1"]);
    invariants::check_at_rest(&world.root(), &store, &mirror());
}

#[test]
fn a_damaged_list_of_another_renderer_is_mended() {
    let world = World::new();
    let store = world.open();
    sync(&store, 1, &first()).unwrap();
    sync(&store, 2, &second()).unwrap();
    publish(&store, 2, Freeze::Set).unwrap();
    let list = world.view().join("live/simple/index.v1_json");
    fs::remove_file(&list).unwrap();
    let locked = lock(&store).unwrap();
    let mended = wait_for(publisher(Arc::new(Raised(FORMAT)), time(2)).mend(&locked, false)).unwrap();
    assert_eq!((mended.mended.len(), mended.left.len(), mended.standby), (1, 0, false), "{mended:?}");
    drop(locked);
    assert_eq!(served(&world), with_raised_lists(expected(2, &second(), &[("Alpha", 2), ("gamma", 1)])));
    assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(2));
    invariants::check_at_rest(&world.root(), &store, &mirror());
    assert!(known(&store, &mirror()).view_state().unwrap().unwrap().frozen, "as before");
    assert_eq!(world.labels(), ["2.2", "2", "1"]);
}

#[test]
fn a_path_of_the_pool_never_changes_its_meaning() {
    let world = World::new();
    let store = world.open();
    let at = "packages/aa/bb/cc/alpha-1.tar.gz";
    let mut state = first();
    state.get_mut("Alpha").unwrap().insert(at.to_owned(), b"as it was".to_vec());
    sync(&store, 1, &state).unwrap();
    state.get_mut("Alpha").unwrap().insert(at.to_owned(), b"other".to_vec());
    let error = sync(&store, 2, &state).unwrap_err();
    let taken = error.downcast_ref::<ViewError>();
    assert!(matches!(taken, Some(ViewError::Taken { path: taken, .. }) if *taken == path(at)), "{error}");
    assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(1), "readers see what they saw");
    assert_eq!(fs::read(world.view().join(at)).unwrap(), b"as it was");

    let stamp = strandline_view::pool_file(&known(&store, &mirror()), &path(at)).unwrap();
    let blob = store.find_blob_row(Blake3::of(b"as it was")).unwrap().unwrap();
    assert_eq!(stamp, Some((blob.size, blob.mtime)), "by which a sync tells what is there");
    assert_eq!(strandline_view::pool_file(&known(&store, &mirror()), &path("packages/none")).unwrap(), None);
}

#[test]
fn what_is_only_recorded_is_in_the_pool_too() {
    let world = World::new();
    let store = world.open();
    sync(&store, 1, &first()).unwrap();
    publish(&store, 1, Freeze::Set).unwrap();
    let verified = record(&store, 2, &second()).unwrap();
    let locked = lock(&store).unwrap();
    let publisher = publisher(Arc::new(FORMAT), time(2));
    let published = wait_for(publisher.publish(&locked, &publisher.seal(verified), Freeze::Keep)).unwrap();
    assert_eq!(published, None, "an operator went back");
    assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(1));
    let pooled = invariants::everything(&world.view().join("packages"));
    for file in ["alpha-1.tar.gz", "alpha-2.tar.gz", "beta-1.tar.gz"] {
        assert!(pooled.keys().any(|path| path.ends_with(file)), "{file}");
    }
}

#[test]
fn a_tree_that_was_live_a_moment_ago_is_left_alone_for_a_while() {
    let world = World::new();
    let store = world.open();
    let drain = Duration::from_secs(7200);
    let at = |now: u64, drain| Publisher::new(Arc::new(FORMAT), drain, Arc::new(move || time(now)));
    let locked = lock(&store).unwrap();
    assert!(at(1, drain).is_drained(&locked).unwrap(), "nothing was live");
    drop(locked);
    sync(&store, 1, &first()).unwrap();
    // Times are cut to whole seconds: a moment that reads the same can be one second earlier.
    let whole = drain + Duration::from_secs(1);
    for (now, drain, waited) in [
        (1, drain, whole),
        (2, drain, drain / 2 + Duration::from_secs(1)),
        (9, drain, Duration::ZERO),
        (0, drain, whole), // A clock that was set back.
        (1, Duration::ZERO, Duration::ZERO),
    ] {
        let copy = world.copy();
        let store = copy.open();
        let verified = record(&store, 2, &second()).unwrap();
        let (locked, publisher) = (lock(&store).unwrap(), at(now, drain));
        assert_eq!(publisher.is_drained(&locked).unwrap(), waited.is_zero());
        let sealed = publisher.seal(verified);
        let (published, took) = wait_for(async {
            let began = tokio::time::Instant::now();
            (publisher.publish(&locked, &sealed, Freeze::Keep).await, began.elapsed())
        });
        assert_eq!((published.unwrap().unwrap().slot(), took), (Slot::B, waited), "at hour {now} with {drain:?}");
        // What readers see already touches no tree.
        let again = wait_for(async {
            let began = tokio::time::Instant::now();
            (publisher.publish(&locked, &sealed, Freeze::Keep).await.unwrap().unwrap().projects(), began.elapsed())
        });
        assert_eq!(again, (0, Duration::ZERO));
    }
}

/// Every version of every path that readers ever saw, by its path, time of modification and size.
type Seen = HashMap<(String, i64, u64), Blake3>;

fn look(world: &World, store: &Arc<Store>, seen: &mut Seen) -> Result<(), TestCaseError> {
    invariants::check(&world.root(), store, &mirror());
    for (page, bytes) in served(world) {
        let metadata = fs::metadata(world.view().join("live").join(&page)).unwrap();
        // Both forms of a page have one URL, so the ending does not tell them apart to a client.
        let url = page.trim_end_matches("v1_json").trim_end_matches("html").to_owned();
        let digest = Blake3::of(&bytes);
        let before = *seen.entry((url, metadata.mtime(), metadata.len())).or_insert(digest);
        prop_assert_eq!(before, digest, "{} has the entity tag of other bytes", page);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any sequence of syncs and rollbacks shows exactly what was recorded, and no two versions of a URL have the same
    /// time of modification and size, although the pages all have the same length.
    #[test]
    fn no_two_versions_of_a_page_share_an_entity_tag(
        steps in prop::collection::vec(prop::array::uniform4(prop::option::weighted(0.8, 0_u8..4)), 1..8),
        back in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let world = World::new();
        let store = world.open();
        let mut seen = Seen::new();
        let mut recorded = Vec::new();
        for (number, versions) in (1..).zip(&steps) {
            let projects = ["Alpha", "beta", "gamma", "Delta"].into_iter().zip(versions);
            let state: State = projects
                .filter_map(|(name, version)| Some(project(name, &format!("{}", (*version)?), &[])))
                .collect();
            sync(&store, number, &state).unwrap();
            look(&world, &store, &mut seen)?;
            recorded.push(number);
        }
        for index in back {
            let number = recorded[index.index(recorded.len())];
            publish(&store, number, Freeze::Set).unwrap();
            look(&world, &store, &mut seen)?;
            let shown = known(&store, &mirror()).view_state().unwrap().unwrap().snapshot;
            prop_assert_eq!(store.recorded(shown).unwrap().snapshot.label.serial, serial(number));
        }
    }
}

#[test]
fn many_projects_may_list_the_same_file_at_the_same_path() {
    let world = World::new();
    let store = world.open();
    let mut state = first();
    let at = "packages/aa/bb/cc/shared-1.tar.gz";
    for number in 0..100 {
        let (name, mut content) = project(&format!("p{number}"), "shares", &[]);
        content.insert(at.to_owned(), b"shared".to_vec());
        state.insert(name, content);
    }
    sync(&store, 1, &state).unwrap();
    assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(1));
    assert_eq!(fs::read(world.view().join(at)).unwrap(), b"shared");
    invariants::check_at_rest(&world.root(), &store, &mirror());
}
