//! One sync takes away no more projects than `max-drop` allows, if no row of a log says that they went.

use std::sync::Arc;

use strandline_faultkit::{World, invariants};
use strandline_sync::cut::Action;
use strandline_sync::{MaxDrop, Method, Outcome, Selection, Settings, SyncError};

use crate::support::script::{Reply, Script, event};
use crate::support::{Syncs as _, settings};

/// An index of so many projects, each with a file, and settings that select them all.
fn index_of(count: usize) -> (Arc<Script>, Settings) {
    let script = Script::new();
    for number in 0..count {
        script.publish(&format!("p{number:02}"), Some(number as u64 + 1), "1", &[]);
    }
    (Arc::new(script), Settings { selection: Selection::Everything, ..settings(&[]) })
}

/// What the sync would not take away.
fn refused(result: Result<Outcome, SyncError>) -> (u64, u64, Vec<String>) {
    let Err(SyncError::Drop { vanished, listed, some, .. }) = result else {
        unreachable!("the drop was not refused: {result:?}")
    };
    (vanished, listed, some.iter().map(ToString::to_string).collect())
}

#[test]
fn a_sync_takes_away_no_more_than_the_bound() {
    let (world, (script, settings)) = (World::new(), index_of(40));
    world.sync(&script, &settings).unwrap();
    let before = invariants::essence(&world.root());
    for number in 0..11 {
        script.unlist(&format!("p{number:02}"));
        script.pages(&format!("p{number:02}"), [Reply::Missing]);
    }
    for _ in 0..2 {
        let (vanished, listed, some) = refused(world.sync(&script, &settings));
        assert_eq!((vanished, listed, some.len(), some[0].as_str()), (11, 40, 10, "p00"));
        assert_eq!(invariants::essence(&world.root()), before);
    }
    // Ten may always go; so may those which the operator lets go, or for whom there is room in the configuration.
    let larger = Settings { max_drop: MaxDrop::Percent(28), ..settings.clone() };
    assert_eq!(world.sync(&script, &larger).unwrap().projects, 29);
    for number in 11..21 {
        script.unlist(&format!("p{number:02}"));
        script.pages(&format!("p{number:02}"), [Reply::Missing]);
    }
    assert_eq!(world.sync(&script, &settings).unwrap().projects, 19);
    let none = Settings { max_drop: MaxDrop::Projects(0), ..settings.clone() };
    script.unlist("p30");
    script.pages("p30", [Reply::Missing]);
    assert_eq!(refused(world.sync(&script, &none)), (1, 19, vec!["p30".to_owned()]));
    let accepted = Settings { accept_drop: true, ..none };
    assert_eq!(world.sync(&script, &accepted).unwrap().projects, 18);
}

#[test]
fn a_configuration_that_drops_a_third_is_asked_about() {
    let (world, script) = (World::new(), Script::new());
    let names: Vec<_> = (0..33).map(|number| format!("p{number:02}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for (number, name) in names.iter().enumerate() {
        script.publish(name, Some(number as u64 + 1), "1", &[]);
    }
    let script = Arc::new(script);
    world.sync(&script, &settings(&names)).unwrap();
    let fewer = settings(&names[..22]);
    assert_eq!(refused(world.sync(&script, &fewer)).0, 11);
    assert_eq!(world.sync(&script, &Settings { accept_drop: true, ..fewer }).unwrap().projects, 22);
    // All others may take the place of all that there were, as long as these are few.
    script.publish("other", Some(90), "1", &[]);
    let others: Vec<_> = names[13..22].iter().copied().chain(["other"]).collect();
    assert_eq!(refused(world.sync(&script, &settings(&["other"]))).0, 22);
    refused(world.sync(&script, &Settings { max_drop: MaxDrop::Projects(12), ..settings(&others) }));
    let done = world.sync(&script, &Settings { max_drop: MaxDrop::Projects(13), ..settings(&others) });
    assert_eq!(done.unwrap().projects, 10);
}

#[test]
fn what_the_log_says_is_gone_goes_however_much_it_is() {
    let (world, script) = (World::new(), Script::new());
    let names: Vec<_> = (0..30).map(|number| format!("p{number:02}")).collect();
    for (number, name) in (1..).zip(&names) {
        script.publish(name, Some(number), "1", &[]);
        script.log([event(number, name, Action::Create)]);
    }
    let script = Arc::new(script);
    let everything = Settings { selection: Selection::Everything, method: Some(Method::Changelog), ..settings(&[]) };
    assert_eq!(world.sync(&script, &everything).unwrap().projects, 30);
    for (number, name) in (31..).zip(&names[..29]) {
        script.pages(name, [Reply::Missing]);
        script.log([event(number, name, Action::RemoveProject)]);
    }
    assert_eq!(world.sync(&script, &everything).unwrap().projects, 1);

    // What is not selected any more vanishes without a row, as in the double collect.
    let (world, selected) = (World::new(), |names: &[String]| {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        Settings { method: Some(Method::Changelog), ..settings(&names) }
    });
    for (number, name) in (60..).zip(&names) {
        script.publish(name, Some(number), "1", &[]);
        script.log([event(number, name, Action::Create)]);
    }
    world.sync(&script, &selected(&names)).unwrap();
    let refused = world.sync(&script, &selected(&names[..19]));
    assert!(matches!(refused, Err(SyncError::Drop { vanished: 11, listed: 30, .. })), "{refused:?}");
    assert_eq!(world.sync(&script, &selected(&names[..20])).unwrap().projects, 20);
}
