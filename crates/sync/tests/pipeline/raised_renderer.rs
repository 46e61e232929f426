//! A store of one renderer goes on with the next, whose pages and lists have one byte more each.
#![expect(clippy::disallowed_methods, reason = "the tests lose files of a store")]

use std::fs;
use std::sync::Arc;

use strandline_durable::Disk;
use strandline_faultkit::{World, invariants, known, lock, lose_body, mirror, now};
use strandline_model::{Blake3, Formats, Snapshot};
use strandline_store::{Access, Order, Rebuild, Store};
use strandline_sync::purge::{Busy, Purge};
use strandline_sync::render::Made;
use strandline_sync::repair::{self, Left, Repair, Repaired};
use strandline_sync::{Context, Outcome, Settings, rebuild};
use strandline_testkit::Raised;
use strandline_view::Freeze;

use crate::support::script::{Body, Reply, Script, add, event, page, serial, url};
use crate::support::withdrawal::{EVIL, first, order, second, sha256, third};
use crate::support::{FORMAT, Syncs as _, context, damage, settings, sync_store};

const NAMES: &[&str] = &["Alpha", "beta"];

/// A mirror of two serials, both by the earlier renderer.
fn world() -> World {
    let world = World::new();
    for script in [first(), second()] {
        world.sync(&script, &settings(NAMES)).unwrap();
    }
    world
}

fn raised(store: &Arc<Store>, script: &Arc<Script>) -> Context {
    Context { format: Arc::new(Raised(FORMAT)), ..context(store, script, &settings(NAMES), now()) }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(work)
}

fn sync(store: &Arc<Store>, script: &Arc<Script>) -> Outcome {
    run(strandline_sync::sync(&raised(store, script))).unwrap()
}

/// The renderer of each project's page in the newest snapshot.
fn renderers(store: &Arc<Store>) -> Vec<(String, u32)> {
    let newest = known(store, &mirror()).latest_verified().unwrap().unwrap();
    let of = |unit| store.unit(unit).unwrap().source().unwrap().renderer;
    let leaves = store.leaves(&newest.snapshot).unwrap().into_iter();
    leaves.map(|leaf| (leaf.name.to_string(), of(leaf.unit.unwrap()))).collect()
}

#[track_caller]
fn is_whole(world: &World, store: &Arc<Store>, shown: u64) {
    assert_eq!(invariants::check(&world.root(), store, &mirror()), Some(shown));
    invariants::check_at_rest(&world.root(), store, &mirror());
}

#[test]
fn syncs_go_on() {
    let world = world();
    let store = world.open();
    let before = world.latest();
    let done = sync(&store, &second());
    assert_eq!((done.published, world.latest().snapshot.state), (true, before.snapshot.state), "upstream is as it was");
    is_whole(&world, &store, 7);
    let done = sync(&store, &third());
    assert_eq!((done.label.to_string().as_str(), done.published), ("9", true));
    assert!(world.served("simple/beta/index.v1_json").unwrap().ends_with("-\n "), "by today's renderer");
    assert_eq!(world.served("simple/index.html").unwrap(), "html 9 Alpha:3 beta:9 ");
    is_whole(&world, &store, 9);
    assert_eq!(sync(&store, &third()).changed, 0, "again, nothing");
}

#[test]
fn a_sync_by_the_log_leaves_alone_what_no_event_is_about() {
    let world = World::new();
    let script = Arc::new(Script::new());
    script.publish("Alpha", Some(3), "1", &[("alpha-1.tar.gz", b"alpha 1")]);
    script.publish("beta", Some(5), "1", &[("beta-1.tar.gz", b"beta 1")]);
    script.log([event(3, "Alpha", add("alpha-1.tar.gz")), event(5, "beta", add("beta-1.tar.gz"))]);
    let settings = strandline_sync::Settings { method: Some(strandline_sync::Method::Changelog), ..settings(NAMES) };
    let store = world.open();
    sync_store(&store, &script, &settings).unwrap();
    let raised = Context { format: Arc::new(Raised(FORMAT)), ..context(&store, &script, &settings, now()) };
    let done = run(strandline_sync::sync(&raised)).unwrap();
    assert_eq!((done.changed, world.labels()), (0, vec!["5".to_owned()]));

    script.publish("beta", Some(7), "1 2", &[("beta-1.tar.gz", b"beta 1"), ("beta-2.tar.gz", b"beta 2")]);
    script.log([event(7, "beta", add("beta-2.tar.gz"))]);
    let done = run(strandline_sync::sync(&raised)).unwrap();
    assert_eq!((done.label.to_string().as_str(), done.changed, done.published), ("7", 1, true));
    assert_eq!(renderers(&store), [("alpha".to_owned(), 1), ("beta".to_owned(), 2)]);
    is_whole(&world, &store, 7);
}

#[test]
fn rollbacks_go_on() {
    let world = world();
    let store = world.open();
    sync(&store, &third());
    let context = raised(&store, &third());
    let back = |label: &str, freeze: Freeze| {
        let locked = lock(&store).unwrap();
        let recorded = locked.select_served(label.parse().unwrap()).unwrap();
        let present = store.recorded(locked.view_state().unwrap().unwrap().snapshot).unwrap();
        let verified = locked.verified(recorded, Some(&present.snapshot)).unwrap();
        let publisher =
            strandline_view::Publisher::new(context.format.clone(), std::time::Duration::ZERO, context.clock.clone());
        run(publisher.publish(&locked, &publisher.seal(verified), freeze)).unwrap().unwrap().label().to_string()
    };
    assert_eq!(back("5", Freeze::Set), "5.2", "its lists were lost");
    is_whole(&world, &store, 5);
    assert_eq!(world.served("simple/index.html").unwrap(), "html 5 Alpha:3 beta:5 ");
    let done = sync(&store, &third());
    assert_eq!((done.label.to_string().as_str(), done.published), ("9", false), "an operator went back");
    assert_eq!(back("9", Freeze::Lift), "9");
    is_whole(&world, &store, 9);
}

#[test]
fn a_withdrawal_goes_through() {
    let world = world();
    let store = world.open();
    let formats = Formats::usual(Arc::new(Raised(FORMAT)));
    let purge = Purge { store: &store, formats: &formats, now: now() };
    let mirrors = [known(&store, &mirror())];
    let order: Order = order(None);
    purge.execute(&purge.plan_file(&mirrors, sha256(EVIL)).unwrap(), &order).unwrap();
    assert_eq!(purge.finish(Busy::Leave).unwrap().deleted, 1);
    assert_eq!(
        (world.labels(), world.version("alpha")),
        (["7.2", "7", "5.2", "5"].map(str::to_owned).to_vec(), Some("1".to_owned()))
    );
    is_whole(&world, &store, 7);
}

/// Repairs everything that is found.
fn repaired(store: &Arc<Store>, script: &Arc<Script>) -> Repair {
    run(repair::repair(&[raised(store, script)], damage(store), false)).unwrap()
}

#[test]
fn repair_goes_on() {
    let world = world();
    let store = world.open();
    let done = repaired(&store, &second());
    assert!(done.repaired.is_empty() && done.left.is_empty() && done.views.is_empty(), "{done:?}");

    // A list, a page that has a copy, and a unit.
    let page = world.view().join("live/simple/alpha/index.v1_json");
    let blob = store.blob_path(Blake3::of(&fs::read(&page).unwrap()));
    let unit = world.leaf("beta").unwrap().unit.unwrap();
    fs::remove_file(world.view().join("live/simple/index.html")).unwrap();
    fs::remove_file(&blob).unwrap();
    drop(store);
    lose_body(&world.root(), unit).unwrap();
    let store = world.open();
    let done = repaired(&store, &second());
    assert!(done.left.is_empty(), "{done:?}");
    assert!(done.repaired.iter().any(|it| matches!(it, Repaired::Body { id, .. } if *id == unit)), "{done:?}");
    assert_eq!(world.labels()[0], "7.2", "for the list");
    is_whole(&world, &store, 7);
    assert_eq!(renderers(&store), [("alpha".to_owned(), 1), ("beta".to_owned(), 1)]);
}

#[test]
fn a_catalog_is_rebuilt_of_what_the_earlier_renderer_made() {
    let world = world();
    let before: Snapshot = world.latest().snapshot;
    fs::remove_file(world.root().join("catalog.db")).unwrap();
    let (new, _) = Rebuild::begin(&world.root(), Disk::new(), Access::Public, now()).unwrap();
    for locked in new.mirrors() {
        let context = raised(locked.store(), &second());
        let done = run(rebuild::rebuild(&new, &context, locked)).unwrap().unwrap();
        assert_eq!((done.label.serial, done.projects, done.lost), (serial(7), 2, Vec::new()));
    }
    new.finish().unwrap();
    let store = world.open();
    is_whole(&world, &store, 7);
    assert_eq!(renderers(&store), [("alpha".to_owned(), 2), ("beta".to_owned(), 2)]);
    let now = sync(&store, &second());
    assert_eq!((now.label.serial, world.latest().snapshot.state), (serial(7), before.state));
}

/// Makes all pages anew, so many projects at once.
fn render(store: &Arc<Store>, at_once: usize) -> Option<Made> {
    let settings = Arc::new(Settings { render_at_once: at_once, ..settings(NAMES) });
    run(strandline_sync::render::render(&Context { settings, ..raised(store, &Arc::new(Script::new())) })).unwrap()
}

fn publish(store: &Arc<Store>, label: &str, freeze: Freeze) {
    let locked = lock(store).unwrap();
    let recorded = locked.select_served(label.parse().unwrap()).unwrap();
    crate::support::publish(&locked, locked.verified(recorded, None).unwrap(), freeze, now());
}

#[test]
fn all_pages_are_made_anew() {
    let world = world();
    crate::support::withdrawal::withdraw(&world.open(), None, EVIL).unwrap();
    let store = world.open();
    let before = world.latest();
    store.mirror(&mirror()).unwrap().unwrap().pin(before.id, now()).unwrap();
    let made = render(&store, 100).unwrap();
    let label = |text: &str| text.parse().unwrap();
    assert_eq!(made, Made { before: label("7.2"), label: label("7.3"), projects: 2, published: true });
    let after = world.latest();
    let same = |of: &Snapshot| (of.state, of.follow, of.inputs, of.cutoff, of.time, of.held.clone(), of.listed);
    assert_eq!(same(&after.snapshot), same(&before.snapshot));
    assert_eq!((after.snapshot.parent, store.pins().unwrap()), (Some(before.id), [after.id].into()));
    assert_eq!(renderers(&store), [("alpha".to_owned(), 2), ("beta".to_owned(), 2)]);
    assert_eq!(world.version("alpha").as_deref(), Some("1"), "what is withdrawn stays so");
    assert_eq!(world.served("simple/index.html").unwrap(), "html 7 Alpha:3 beta:7 ");
    is_whole(&world, &store, 7);
    assert_eq!(render(&store, 100), None, "there is nothing to do");
    assert_eq!(sync(&store, &second()).label, label("7.3"));
}

#[test]
fn a_large_mirror_takes_several_revisions() {
    let world = world();
    let store = world.open();
    let made = render(&store, 1).unwrap();
    assert_eq!((made.label.to_string().as_str(), made.projects), ("7.3", 2));
    assert_eq!(world.labels(), ["7.3", "7.2", "7", "5"]);
    assert_eq!(known(&store, &mirror()).superseded().unwrap().len(), 2);
    is_whole(&world, &store, 7);
    assert_eq!(render(&store, 1), None);
}

#[test]
fn where_an_operator_went_back_readers_see_their_serial() {
    let world = world();
    let store = world.open();
    publish(&store, "5", Freeze::Set);
    let made = render(&store, 100).unwrap();
    assert_eq!((made.label.to_string().as_str(), made.published), ("7.2", false));
    is_whole(&world, &store, 5);

    let world = crate::raised_renderer::world();
    let store = world.open();
    publish(&store, "7", Freeze::Set);
    assert!(render(&store, 100).unwrap().published, "this very serial");
    let state = known(&store, &mirror()).view_state().unwrap().unwrap();
    assert_eq!((state.snapshot, state.frozen), (world.latest().id, true));
    is_whole(&world, &store, 7);
}

#[test]
fn a_lost_page_of_an_earlier_renderer_is_made_anew() {
    let world = world();
    let store = world.open();
    let page = world.view().join("live/simple/beta/index.v1_json");
    let blob = Blake3::of(&fs::read(&page).unwrap());
    fs::remove_file(store.blob_path(blob)).unwrap();
    fs::remove_file(&page).unwrap();
    let done = repaired(&store, &second());
    assert!(matches!(&done.left[..], [Left::Page { blob: left, .. }] if *left == blob), "{done:?}");
    assert_eq!(render(&store, 100).unwrap().projects, 2);
    assert_eq!(damage(&store), []);
    is_whole(&world, &store, 7);
}

/// A crash between a revision and the switch to it.
#[test]
fn the_next_sync_switches_to_what_took_the_place_of_what_is_published() {
    let world = world();
    let disk = Disk::counting();
    let whole = world.copy();
    render(&whole.open_on(disk.clone()).unwrap(), 1).unwrap();
    for step in 1..=disk.steps() {
        let world = world.copy();
        let store = world.open_on(Disk::failing_at(step));
        let context = store.as_ref().map(|store| raised(store, &second()));
        let Ok(context) = context else { continue };
        let done = run(strandline_sync::render::render(&context));
        drop((context, store));
        let store = world.open();
        if done.is_ok() {
            continue;
        }
        sync(&store, &second());
        assert_eq!(invariants::check(&world.root(), &store, &mirror()), Some(7), "step {step}");
        render(&store, 1);
        is_whole(&world, &store, 7);
        assert_eq!(renderers(&store), [("alpha".to_owned(), 2), ("beta".to_owned(), 2)], "step {step}");
    }
}

#[test]
fn after_pages_were_made_anew_upstream_still_says_that_nothing_changed() {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    script.publish("beta", Some(5), "1", &[]);
    let tagged = page("Alpha", Some(3), "1", &[("alpha-1.tar.gz", b"alpha 1")]);
    script.pages("Alpha", [Reply::Page(tagged, Some("\"tag\""))]);
    script.files(&url("alpha-1.tar.gz"), [Body::Bytes(b"alpha 1")]);
    world.sync(&script, &settings(NAMES)).unwrap();
    let store = world.open();
    assert_eq!(render(&store, 1).unwrap().projects, 2);
    script.asked();
    assert_eq!(sync(&store, &script).changed, 0);
    let asked = script.asked();
    assert_eq!(Script::count(&asked, "page alpha"), 0, "{asked:?}");
    // The other page has no tag, so that it takes a second pass to see that nothing changed.
    assert_eq!(Script::count(&asked, "page alpha if \"tag\""), 2, "{asked:?}");
}
