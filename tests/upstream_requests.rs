//! What a sync asks upstream for, counted: no more than what there is to know.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use strandline_testkit::{Age, Counts, Endpoint, Fault, On, Rule, Upload, Weights, World as Index, history, normalise};

use crate::support::truth::{equals_upstream, live};
use crate::support::world::{World, wheel};

const WAREHOUSE: &str = "source = \"warehouse\"";

/// Syncs; what was asked for, and how often each path was.
#[track_caller]
fn counted(world: &World) -> (Counts, BTreeMap<String, u64>) {
    world.upstream.reset_counters();
    world.done(&["sync"]);
    (world.upstream.counts(), world.upstream.requested())
}

/// The projects whose pages were asked for.
fn pages(requested: &BTreeMap<String, u64>) -> BTreeSet<String> {
    let names = requested.keys().filter_map(|path| path.strip_prefix("/simple/")?.strip_suffix('/'));
    names.map(str::to_owned).collect()
}

#[test]
fn nothing_new_is_one_request() {
    let (index, _) = history(3, 40, 400, Weights::journaled());
    let world = World::new(index, WAREHOUSE);
    world.done(&["sync"]);
    equals_upstream(&world);
    for _ in 0..3 {
        let (counts, _) = counted(&world);
        assert_eq!(counts.xmlrpc, BTreeMap::from([("changelog_since_serial".to_owned(), 1)]));
        assert_eq!(counts.total(), 1);
    }
    assert_eq!(world.log().len(), 1);
}

#[test]
fn what_moved_is_fetched_and_nothing_else() {
    // A release is two events of one project, a burst many.
    let weights = Weights { file: 3_000, burst: 0, ..Weights::journaled() };
    let (index, mut generator) = history(4, 400, 0, weights);
    let world = World::new(index, WAREHOUSE);
    world.done(&["sync"]);
    let stored: BTreeSet<String> = {
        let state = world.upstream.world().state();
        state.values().flat_map(|state| &state.files).map(|file| file.url_path.clone()).collect()
    };
    let begin = world.upstream.world().serial();
    let moved: BTreeSet<String> = {
        let mut upstream = world.upstream.world();
        while upstream.events().filter(|event| event.serial > begin).count() < 200 {
            generator.step(&mut upstream);
        }
        upstream.events().filter(|event| event.serial > begin).map(|event| normalise(&event.name)).collect()
    };
    assert!((100..=160).contains(&moved.len()), "{} projects moved", moved.len());
    let (counts, requested) = counted(&world);
    equals_upstream(&world);
    assert!(pages(&requested).is_subset(&moved), "pages that did not move were asked for");
    assert!(counts.page <= moved.len() as u64, "{} pages for {} projects", counts.page, moved.len());
    assert_eq!((counts.root, counts.other), (0, 0));
    let files = requested.keys().filter(|path| path.starts_with("/packages/"));
    let again: Vec<_> = files.filter(|path| stored.contains(*path) || requested[*path] > 1).collect();
    assert_eq!(again, Vec::<&String>::new(), "files that are there, or twice");
    let calls: u64 = counts.xmlrpc.values().sum();
    assert!(calls <= 4, "{calls} calls");
}

#[test]
fn a_page_that_did_not_change_is_not_sent_again() {
    let mut index = Index::new();
    for project in ["good", "victim"] {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    let world = World::patient(index, "2s", &format!("{WAREHOUSE}\nhold-after = \"0s\""));
    // What was fetched in the first sync is what the cache goes on showing.
    world.done(&["sync"]);
    let stale = Fault::Stale { age: Age::StuckAt(world.upstream.now_ms()), not_found: true, flapping: false };
    world.upstream.fault(Rule::new(On::Path("/simple/victim/".to_owned()), stale));
    std::thread::sleep(std::time::Duration::from_millis(2));
    world.upstream.world().upload("victim", &wheel("victim", "2.0", 1));
    // While it is waited for, and when it is held.
    for at_least in [2, 1] {
        world.upstream.reset_counters();
        world.run(&["sync"]).ended(4);
        let counts = world.upstream.counts();
        assert!(counts.page >= at_least, "{} pages", counts.page);
        assert_eq!(counts.page_304, counts.page);
        assert_eq!((counts.file, counts.metadata), (0, 0));
    }
    world.upstream.clear_faults();
    world.done(&["sync"]);
    equals_upstream(&world);
}

#[test]
fn a_selection_that_changes_fetches_and_drops_exactly_that() {
    let mut index = Index::new();
    for project in ["one", "two", "three", "four"] {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    let select = |projects: &str| format!("{WAREHOUSE}\nprojects = [{projects}]");
    let world = World::new(index, &select("\"one\", \"Two\""));
    world.done(&["sync"]);
    let serial = world.upstream.world().serial();
    let state = |project: &str| world.upstream.world().project(project).unwrap();
    assert_eq!(world.newest(), serial.to_string());

    world.configure("", &select("\"one\", \"Two\", \"three\""));
    let (counts, requested) = counted(&world);
    assert_eq!(pages(&requested), BTreeSet::from(["three".to_owned()]));
    assert_eq!((counts.page, counts.file, counts.metadata), (1, 1, 1));
    assert_eq!(requested[&state("three").files[0].url_path], 1);
    assert_eq!(world.newest(), format!("{serial}.2"));
    assert!(live(&world, "three").is_some());

    world.configure("", &select("\"Two\", \"three\""));
    let (counts, _) = counted(&world);
    assert_eq!((counts.page, counts.file, counts.metadata), (0, 0, 0));
    assert_eq!(world.newest(), format!("{serial}.3"));
    assert_eq!(live(&world, "one"), None);
    assert!(live(&world, "two").is_some() && live(&world, "three").is_some());

    // The file of what comes back is there; its page may have moved.
    world.configure("", WAREHOUSE);
    let (counts, requested) = counted(&world);
    assert_eq!(pages(&requested), ["one", "four"].map(str::to_owned).into());
    assert_eq!((counts.page, counts.file, counts.metadata), (2, 1, 1));
    assert_eq!(world.newest(), format!("{serial}.4"));
    equals_upstream(&world);
    let (counts, _) = counted(&world);
    assert_eq!(counts.total(), 1);

    // With the selection, something else may move.
    world.upstream.world().upload("two", &wheel("two", "2.0", 1));
    world.configure("", &select("\"two\", \"four\""));
    let (_, requested) = counted(&world);
    assert_eq!(pages(&requested), BTreeSet::from(["two".to_owned()]));
    let log = world.log();
    assert_eq!(log[0]["projects"], json!(2));
    assert_eq!(log.len(), 5);
    assert_eq!(live(&world, "two").unwrap().3.len(), 2);
}

#[test]
fn broken_answers_are_asked_for_again_and_no_more() {
    let (index, mut generator) = history(5, 60, 60, Weights::journaled());
    let world = World::new(index, WAREHOUSE);
    world.done(&["sync"]);
    for _ in 0..40 {
        generator.step(&mut world.upstream.world());
    }
    let unavailable = Fault::Status { status: 503, retry_after: Some(0) };
    world.upstream.fault(Rule::new(On::Kind(Endpoint::Page), unavailable).times(3));
    let (_, requested) = counted(&world);
    equals_upstream(&world);
    let repeated = requested.iter().filter(|(path, _)| path.starts_with("/simple/"));
    let repeated: u64 = repeated.map(|(_, count)| count - 1).sum();
    assert_eq!(repeated, 3);
}

/// `source = "auto"`: up to 100 named projects are read twice, more and everything by the log, if there is one.
#[test]
fn how_the_source_is_chosen() {
    let mut index = Index::new();
    for number in 0..102 {
        index.upload(&format!("project-{number}"), &Upload::raw(&format!("project-{number}-1.tar.gz"), "1", "x"));
    }
    let world = World::new(index, "");
    let named = |count: usize| {
        let names: Vec<_> = (0..count).map(|number| format!("\"project-{number}\"")).collect();
        format!("projects = [{}]", names.join(", "))
    };
    for (lines, by_log) in [
        (String::new(), true),
        (named(101), true),
        (named(100), false),
        (format!("source = \"auto\"\n{}", named(101)), true),
        (format!("source = \"simple\"\n{}", named(101)), false),
        (format!("source = \"warehouse\"\n{}", named(2)), true),
    ] {
        world.configure("", &lines);
        world.upstream.reset_counters();
        world.done(&["sync", "--store", "store-of-this"]);
        std::fs::remove_dir_all(world.path("store-of-this")).unwrap();
        let counts = world.upstream.counts();
        let head = counts.xmlrpc.get("changelog_since_serial").copied().unwrap_or(0);
        assert_eq!(head > 0, by_log, "{lines}: {counts:?}");
        let projects = if lines.is_empty() { 102 } else { lines.matches("project-").count() as u64 };
        assert_eq!(counts.page, if by_log { projects } else { 2 * projects }, "{lines}: {counts:?}");
    }

    // Where there is no log, everything is read twice, unless the log was asked for.
    world.upstream.xmlrpc(false);
    world.configure("", &named(101));
    world.upstream.reset_counters();
    world.done(&["sync"]);
    assert_eq!(world.upstream.counts().page, 202);
    world.configure("", "source = \"warehouse\"");
    world.run(&["sync"]).ended(1).says(&["no changelog"]);
}
