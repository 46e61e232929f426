//! Two mirrors of one upstream have one state at one serial, whatever their histories
//! (`docs/design/020-what-a-state-id-promises.md`).

use std::fs;

use serde_json::Value;
use strandline_testkit::{Upstream, Weights, history};

use crate::support::world::{World, text, wheel};

/// Projects that there are when the history begins, and events between two syncs.
const PROJECTS: usize = 40;
const EVENTS: usize = 40;
const SYNCS: usize = 8;

fn add_mirror(world: &World, name: &str) {
    let path = world.path("strandline.toml");
    let before = fs::read_to_string(&path).unwrap();
    let upstream = world.upstream.simple_url();
    let lines = "source = \"warehouse\"\ndrain = \"0s\"\nsettle = \"0s\"";
    fs::write(path, format!("{before}\n[mirror.{name}]\nupstream = \"{upstream}\"\n{lines}\n")).unwrap();
}

/// The newest snapshot of a mirror, as `log` tells it.
fn newest(world: &World, mirror: &str) -> Value {
    world.run(&["log", mirror, "--json"]).ended(0).json_lines().remove(0)
}

/// Lets the index move by so many events of all kinds.
fn move_on(upstream: &Upstream, generator: &mut strandline_testkit::Generator) {
    let mut world = upstream.world();
    let until = world.events().count() + EVENTS;
    while world.events().count() < until {
        generator.step(&mut world);
    }
}

/// One mirror follows from the beginning, and others begin anew at every second sync. At each serial that both have, the state
/// is one; it is another one as soon as something is told.
#[test]
fn a_mirror_that_follows_and_one_that_begins_at_the_end() {
    for seed in 0..2 {
        let (index, mut generator) = history(seed, PROJECTS, 0, Weights::default());
        let world = World::new(index, "");
        add_mirror(&world, "follower");
        let mut states = Vec::new();
        for sync in 0..SYNCS {
            move_on(&world.upstream, &mut generator);
            world.done(&["sync", "follower"]);
            let follower = newest(&world, "follower");
            let (serial, state) = (text(&follower["serial"]), text(&follower["state"]));
            assert!(!states.contains(&state), "seed {seed}: {EVENTS} events change nothing");
            states.push(state.clone());
            if sync % 2 == 0 {
                let fresh = format!("fresh-{sync}");
                add_mirror(&world, &fresh);
                world.done(&["sync", &fresh]);
                let fresh = newest(&world, &fresh);
                assert_eq!(text(&fresh["serial"]), serial, "upstream stands still");
                assert_eq!(text(&fresh["follow"]), text(&follower["follow"]));
                assert_eq!(text(&fresh["state"]), state, "seed {seed}, serial {serial}");
            }
        }
    }
}

/// What is withdrawn from a mirror, and where upstream's files are, is in no state.
#[test]
fn a_mirror_with_purged_files() {
    let mut index = strandline_testkit::World::new();
    for version in ["1.0", "2.0"] {
        index.upload("six", &wheel("six", version, 1));
    }
    index.upload("idna", &wheel("idna", "1.0", 2));
    let world = World::new(index, "");
    for mirror in ["one", "other"] {
        add_mirror(&world, mirror);
        world.done(&["sync", mirror]);
    }
    let (before, other) = (newest(&world, "one"), newest(&world, "other"));
    assert_eq!(text(&before["state"]), text(&other["state"]));
    assert_eq!(text(&before["inputs"]), text(&other["inputs"]));

    world.done(&["purge", "six==2.0", "--mirror", "one"]);
    let after = newest(&world, "one");
    assert_ne!(text(&after["id"]), text(&before["id"]));
    assert_ne!(text(&after["tree"]), text(&before["tree"]), "it shows less");
    assert_ne!(text(&after["inputs"]), text(&before["inputs"]));
    assert_eq!(text(&after["state"]), text(&before["state"]), "it was told the same");
    let shown = world.done(&["show", "one", "six"]);
    assert!(shown.contains("six-2.0-py3-none-any.whl\tnot shown: it is withdrawn from the mirror"), "{shown}");

    // So it is after the next sync of both.
    world.upstream.world().upload("six", &wheel("six", "3.0", 3));
    for mirror in ["one", "other"] {
        world.done(&["sync", mirror]);
    }
    let (one, other) = (newest(&world, "one"), newest(&world, "other"));
    assert_eq!(text(&one["serial"]), text(&other["serial"]));
    assert_eq!(text(&one["state"]), text(&other["state"]));
    assert_ne!(text(&one["tree"]), text(&other["tree"]));
}
