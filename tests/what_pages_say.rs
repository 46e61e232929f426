//! What upstream's pages say and a mirror does not know, or cannot use.

use serde_json::{Value, json};
use strandline_testkit::{Response, World as Index};

use crate::recomputed_ids::{SHOW, check};
use crate::support::server::get;
use crate::support::world::{World, text, wheel};

const JSON: &str = "application/vnd.pypi.simple.v1+json";

/// A mirror of two projects that was synced once.
fn mirrored() -> World {
    let mut index = Index::new();
    for project in ["six", "idna"] {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    let world = World::new(index, "projects = [\"six\", \"idna\"]\nsource = \"simple\"");
    world.done(&["sync"]);
    world
}

/// Upstream's page of a project from now on, with something changed.
fn change_page(world: &World, project: &str, change: impl FnOnce(&mut Value)) {
    let path = format!("/simple/{project}/");
    world.upstream.remove_override(&path);
    let page = get(world.upstream.address(), &path, &[&format!("Accept: {JSON}")]).body;
    let mut page: Value = serde_json::from_slice(&page).unwrap();
    change(&mut page);
    let response = Response::new(200).header("Content-Type", JSON).body(page.to_string());
    world.upstream.override_path(&path, response);
}

fn status(world: &World) -> Value {
    serde_json::from_str::<Value>(&world.run(&["status", "--json"]).out).unwrap()["mirrors"][0].take()
}

#[test]
fn unknown_keys_are_kept_and_named_once() {
    let world = mirrored();
    assert_eq!(status(&world)["unknown_keys"], json!({}));
    assert!(!world.done(&["status"]).contains("unknown"));
    for project in ["six", "idna"] {
        change_page(&world, project, |page| {
            page["meta"]["api-version"] = "1.99".into();
            page["alternate-locations"] = json!([]);
        });
    }
    change_page(&world, "six", |page| page["files"][0]["\u{1b}[31m"] = json!({ "a": [1] }));
    world.done(&["sync"]);
    let keys = json!({ "/alternate-locations": 1, "/files/*/\u{1b}[31m": 1 });
    assert_eq!(status(&world)["unknown_keys"], keys);
    let said = world.done(&["status"]);
    let line = "keys of pages, kept and not shown, each with the number of projects: \
        /alternate-locations (1), /files/*/\\u{1b}[31m (1)";
    assert_eq!(said.matches(line).count(), 1, "{said}");
    let page = String::from_utf8(world.live()["simple/six/index.v1_json"].clone()).unwrap();
    assert!(!page.contains("31m"), "{page}");
    let seen = world.done(&["show", "pypi", "six"]);
    let seen = seen.split("seen ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let seen: Value = serde_json::from_str(&world.done(&["show", "--raw", seen])).unwrap();
    assert_eq!(seen["files"][0]["unknown"], json!({ "/\u{1b}[31m": "{\"a\":[1]}" }));

    check(&world, &["--store", "store"], &text(&world.log()[0]["id"]), &SHOW).ended(0);
    change_page(&world, "six", |_| ());
    world.done(&["sync"]);
    assert_eq!(status(&world)["unknown_keys"], json!({ "/alternate-locations": 1 }));
}

#[test]
fn a_project_whose_page_lost_its_files_or_is_missing_is_held_and_named() {
    let world = mirrored();
    let pages = |world: &World| {
        let live = world.live().into_iter();
        live.filter(|(path, _)| path.starts_with("simple/six/") || path.starts_with("simple/idna/")).collect::<Vec<_>>()
    };
    let before = pages(&world);
    change_page(&world, "six", |page| page["files"] = json!([]));
    world.upstream.override_path("/simple/idna/", Response::new(404));
    for _ in 0..2 {
        let said = world.run(&["sync"]).ended(4).err;
        for words in ["its page lacks most of its files, and no event says why (page-shrunk)", "(page-missing)"] {
            assert!(said.contains(words), "{said}");
        }
        assert_eq!(pages(&world), before, "readers see what they saw");
    }
    assert_eq!(world.log().len(), 2, "nothing more was recorded the second time");
    check(&world, &["--store", "store"], &text(&world.log()[0]["id"]), &SHOW).ended(0);
    let held = status(&world)["held"].take();
    assert_eq!((&held[0]["reason"], &held[1]["reason"]), (&json!("page-missing"), &json!("page-shrunk")));
    let said = world.run(&["status"]).ended(4).out;
    assert!(said.contains("held       six: its page lacks most of its files"), "{said}");

    world.upstream.remove_override("/simple/idna/");
    world.run(&["sync", "--accept-drop"]).ended(0);
    assert!(!String::from_utf8_lossy(&world.live()["simple/six/index.html"]).contains(".whl"));
    assert_eq!(status(&world)["held"], json!([]));
}
