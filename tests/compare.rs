//! Two mirrors beside each other: whether upstream told them the same.

use std::fs;

use serde_json::{Value, json};
use strandline_testkit::{Upstream, World as Index};

use crate::support::world::{World, wheel};

const LOG: &str = "source = \"warehouse\"";

/// An index of two projects; `seed` decides the bytes of the second one's file.
fn index(seed: u64) -> Index {
    let mut index = Index::new();
    index.upload("six", &wheel("six", "1.0", 1));
    index.upload("idna", &wheel("idna", "1.0", seed));
    index
}

/// A mirror `pypi`, and a mirror `other` of another upstream, both synced.
fn beside(other: &Upstream, lines: &str) -> World {
    let world = World::new(index(2), LOG);
    let path = world.path("strandline.toml");
    let text = fs::read_to_string(&path).unwrap();
    let table = format!("[mirror.other]\nupstream = \"{}\"\ndrain = \"0s\"\n{lines}\n", other.simple_url());
    fs::write(path, format!("{text}\n{table}")).unwrap();
    world.done(&["sync"]);
    world
}

#[test]
fn mirrors_that_were_told_the_same_have_one_state() {
    let other = Upstream::start(index(2)).unwrap();
    let world = beside(&other, LOG);
    let serial = world.newest();
    let said = world.done(&["diff", "pypi", "other"]);
    let first = format!("pypi@{serial} and other@{serial} have one state: upstream told both the same (");
    assert!(said.starts_with(&first), "{said}");
    // Their files have other URLs, which no event tells.
    assert_eq!(said.lines().filter(|line| line.contains("\tnot yet seen by both\t")).count(), 2, "{said}");
    let lines = world.run(&["diff", "pypi", "other", "--json"]).ended(0).json_lines();
    assert_eq!((&lines[0]["equal"], &lines[0]["no_alarm_because"]), (&json!(true), &json!([])));
    assert_eq!(lines[0]["states"][0], lines[0]["states"][1]);
    assert!(lines[1..].iter().all(|line| line["alarm"] == json!(false) && line["told"][0] == line["told"][1]));
}

#[test]
fn what_was_told_differently_is_an_alarm() {
    let other = Upstream::start(index(3)).unwrap();
    let world = beside(&other, LOG);
    let serial = world.newest();
    let (one, two) = (format!("pypi@{serial}"), format!("other@{serial}"));
    let run = world.run(&["diff", &one, &two]).ended(1).says(&["told differently of 1 projects"]);
    assert!(run.out.starts_with(&format!("{one} and {two} have different states\n")), "{}", run.out);
    assert!(run.out.contains(&format!("idna\ttold differently\t{serial}\t{serial}\n")), "{}", run.out);
    assert!(!run.out.contains("six\ttold"), "{}", run.out);
    let lines = world.run(&["diff", &one, &two, "--json"]).ended(1).json_lines();
    let told: Vec<_> = lines[1..].iter().filter(|line| line["alarm"] == json!(true)).collect();
    assert_eq!(
        (told.len(), &told[0]["project"], &told[0]["difference"]),
        (1, &json!("idna"), &json!("told differently"))
    );
    assert_ne!(told[0]["told"][0], told[0]["told"][1]);

    // At two serials, nothing can be said.
    other.world().upload("six", &wheel("six", "2.0", 1));
    world.done(&["sync", "other"]);
    let said = world.done(&["diff", &one, "other"]);
    assert!(said.contains("no difference is an alarm: states can only be compared at one serial"), "{said}");
    assert!(said.contains("six\tdifferent, and no alarm\t"), "{said}");
}

#[test]
fn of_other_projects_the_names_in_both_are_compared() {
    let other = Upstream::start(index(3)).unwrap();
    let world = beside(&other, &format!("{LOG}\nprojects = [\"six\"]"));
    let said = world.done(&["diff", "pypi", "other"]);
    assert!(said.contains("follow different projects, so the names that both follow are compared"), "{said}");
    assert!(!said.contains("idna"), "{said}");
    let lines = world.run(&["diff", "pypi", "other", "--json"]).ended(0).json_lines();
    assert_eq!((&lines[0]["same_projects_followed"], &lines[0]["states"]), (&json!(false), &Value::Null));
}
