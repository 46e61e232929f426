//! The double collect: a page that cannot be had, is too old or does not stand still holds its project, and the others go on.

use std::sync::Arc;
use std::time::Duration;

use strandline_faultkit::World;
use strandline_model::HoldReason;
use strandline_sync::upstream::Problem;
use strandline_sync::{Outcome, Selection, Settings, SyncError};

use crate::support::script::{Reply, Script, page, status};
use crate::support::{Syncs as _, settings};

/// Patience that ends with the first pass.
fn impatient() -> Settings {
    Settings { cut_timeout: Duration::ZERO, ..settings(&["alpha", "beta"]) }
}

fn everything() -> Settings {
    Settings { selection: Selection::Everything, ..impatient() }
}

fn index() -> Arc<Script> {
    let script = Script::new();
    script.publish("alpha", Some(5), "1", &[]);
    script.publish("beta", Some(7), "1", &[]);
    Arc::new(script)
}

/// The held projects, each with the serial that it is shown at and the one that it needs.
fn held(done: &Outcome) -> Vec<(&str, HoldReason, u64, u64)> {
    done.held.iter().map(|held| (held.name.as_str(), held.reason, held.at.get(), held.needs.get())).collect()
}

fn failures() -> [Reply; 4] {
    [
        Reply::Fail(status(503)),
        Reply::Fail(status(403)),
        Reply::Fail(Problem::Malformed("a maintenance page".to_owned())),
        Reply::Fail(Problem::TooLarge { limit: 7 }),
    ]
}

#[test]
fn a_page_that_cannot_be_had_holds_its_project_alone() {
    for failure in failures() {
        let (world, script) = (World::new(), index());
        world.sync(&script, &impatient()).unwrap();
        script.pages("alpha", [failure]);
        script.publish("beta", Some(8), "1 2", &[]);
        for _ in 0..2 {
            let done = world.sync(&script, &impatient()).unwrap();
            assert_eq!((held(&done), done.published), (vec![("alpha", HoldReason::BadPage, 5, 5)], true));
        }
        assert_eq!(world.list(), "8 alpha:5 beta:8");
        // It comes back by itself.
        script.publish("alpha", Some(9), "1 2", &[]);
        assert_eq!(held(&world.sync(&script, &impatient()).unwrap()), []);
        assert_eq!(world.list(), "9 alpha:9 beta:8");
    }
}

#[test]
fn a_first_sync_publishes_the_others_at_once() {
    for failure in failures() {
        let (world, script) = (World::new(), index());
        script.pages("alpha", [failure]);
        let done = world.sync(&script, &impatient()).unwrap();
        assert_eq!((held(&done), done.published), (vec![("alpha", HoldReason::BadPage, 0, 0)], true));
        assert_eq!(world.list(), "7 beta:7");
        script.publish("alpha", Some(5), "1", &[]);
        assert_eq!(held(&world.sync(&script, &impatient()).unwrap()), []);
        assert_eq!(world.list(), "7 alpha:5 beta:7");
    }
}

/// Where there is no page at all, it is upstream that is broken, and no project.
#[test]
fn an_upstream_without_any_page_is_a_failure() {
    for synced in [false, true] {
        let (world, script) = (World::new(), index());
        if synced {
            world.sync(&script, &impatient()).unwrap();
        }
        let before = synced.then(|| world.list());
        for name in ["alpha", "beta"] {
            script.pages(name, [Reply::Fail(status(503))]);
        }
        assert!(matches!(world.sync(&script, &impatient()), Err(SyncError::Fetch(_))));
        assert_eq!(synced.then(|| world.list()), before);
        // Nor does one that is gone beside one that is broken make an empty mirror.
        script.pages("beta", [Reply::Missing]);
        assert!(world.sync(&script, &impatient()).is_err());
        assert_eq!(synced.then(|| world.list()), before);
    }
}

#[test]
fn a_page_that_stays_old_or_keeps_changing_holds_its_project_alone() {
    let then = |number, version| Reply::Page(page("alpha", Some(number), version, &[]), None);
    let (world, script) = (World::new(), index());
    world.sync(&script, &impatient()).unwrap();
    script.publish("beta", Some(9), "1 2", &[]);
    script.pages("alpha", [then(4, "0")]);
    let done = world.sync(&script, &impatient()).unwrap();
    assert_eq!(held(&done), [("alpha", HoldReason::StalePage, 5, 5)]);
    assert_eq!((world.list().as_str(), world.version("alpha").as_deref()), ("9 alpha:5 beta:9", Some("1")));
    script.pages("alpha", (10..40).map(|number| then(number, if number % 2 == 0 { "1" } else { "1 2" })));
    let done = world.sync(&script, &impatient()).unwrap();
    assert_eq!(held(&done), [("alpha", HoldReason::StalePage, 5, 5)]);
    assert_eq!(world.version("alpha").as_deref(), Some("1"));
    // Where all do, upstream is what is wrong.
    for name in ["alpha", "beta"] {
        let changing = (40..90).map(|number| Reply::Page(page(name, Some(number), &format!("1 {number}"), &[]), None));
        script.pages(name, changing);
    }
    assert_eq!(crate::support::in_the_way(world.sync(&script, &impatient())).len(), 2);
}

/// The list has the serials of the projects, and a cache has kept a page for longer.
#[test]
fn a_page_that_is_older_than_the_list_says_is_asked_for_in_every_way() {
    let old = || Reply::Page(page("alpha", Some(5), "1", &[]), None);
    for synced in [false, true] {
        let (world, script) = (World::new(), index());
        if synced {
            world.sync(&script, &everything()).unwrap();
        }
        script.publish("alpha", Some(8), "1 2", &[]);
        script.list("alpha", 8);
        script.pages("alpha", [old()]);
        script.asked();
        let done = world.sync(&script, &everything()).unwrap();
        let at = if synced { 5 } else { 0 };
        assert_eq!((held(&done), done.published), (vec![("alpha", HoldReason::StalePage, at, 8)], true));
        let asked = script.asked();
        let ways = ["page alpha", "page alpha uncompressed", "page alpha at its origin"];
        assert!(ways.iter().all(|way| asked.iter().any(|asked| asked.starts_with(way))), "{asked:?}");
        // One of the ways leads to it.
        let new = || Reply::Page(page("alpha", Some(8), "1 2", &[]), None);
        script.pages("alpha", [old(), new()]);
        assert_eq!(held(&world.sync(&script, &everything()).unwrap()), []);
        assert_eq!(world.version("alpha").as_deref(), Some("1 2"), "{synced}");
    }
}
