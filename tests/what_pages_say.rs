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
