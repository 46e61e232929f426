//! A quarantined project as readers meet it: a page that says so and has no files, in every form and from every server, and
//! no list that names it.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};
use strandline_testkit::World as Index;

use crate::support::server::{Nginx, Serve, get};
use crate::support::tools::{Client, install, isolate, tool};
use crate::support::truth::equals_upstream;
use crate::support::world::{World, text, wheel};

const FORMS: [&str; 3] = ["application/vnd.pypi.simple.v1+json", "application/vnd.pypi.simple.v1+html", "text/html"];

/// The project's page in each form: whether it says that the project is quarantined, and whether it names the wheel.
#[track_caller]
fn pages(at: SocketAddr) -> [(bool, bool); 3] {
    FORMS.map(|form| {
        let answer = get(at, "/pypi/simple/victim/", &[&format!("Accept: {form}")]);
        assert_eq!(answer.status, 200);
        assert!(answer.headers["content-type"].starts_with(form), "{:?}", answer.headers);
        let page = answer.text();
        let says = if form.ends_with("json") {
            let page: Value = serde_json::from_str(page).unwrap();
            page["project-status"] == json!({ "status": "quarantined" })
        } else {
            page.contains(r#"<meta name="pypi:project-status" content="quarantined">"#)
        };
        (says, page.contains("victim-1.0"))
    })
}

/// Whether the list names the project, in each form.
#[track_caller]
fn lists(at: SocketAddr) -> [bool; 3] {
    FORMS.map(|form| {
        let answer = get(at, "/pypi/simple/", &[&format!("Accept: {form}")]);
        assert!(answer.text().contains("good"));
        answer.text().contains("victim")
    })
}

/// Whether `pip download` finds the project, and what it says.
fn downloads(world: &World, index: &str) -> (bool, String) {
    let mut command = Command::new(tool("venv/bin/pip"));
    command.args(["download", "--no-cache-dir", "--no-input", "--no-deps", "--dest", "got", "--index-url", index]);
    isolate(&mut command, world);
    let output = command.arg("victim").output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn its_page_says_so_and_nothing_of_it_is_found_until_it_is_cleared() {
    let mut index = Index::new();
    for project in ["good", "victim"] {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    let world = World::new(index, "source = \"warehouse\"");
    world.done(&["sync"]);
    let (nginx, serve) = (Nginx::start(&world), Serve::start(&world));
    let servers = [nginx.at, serve.at];
    let url = |at: SocketAddr| format!("http://{at}/pypi/simple/");
    let before = world.newest();

    world.upstream.world().quarantine("victim");
    world.done(&["sync"]);
    equals_upstream(&world);
    for at in servers {
        assert_eq!((pages(at), lists(at)), ([(true, false); 3], [false; 3]), "{at}");
        let (found, said) = downloads(&world, &url(at));
        assert!(!found && said.contains("No matching distribution found for victim"), "{said}");
        for client in Client::ALL {
            let installed = install(&world, client, &url(at), &["victim"]);
            assert!(!installed.succeeded, "{client:?} from {at}: {}", installed.said);
        }
        // At a page that is there, uv goes on to no other index, such as this serial at which the project was whole.
        let other = format!("http://{}/pypi/@{before}/simple/", serve.at);
        assert!(install(&world, Client::Uv, &other, &["victim"]).succeeded);
        let installed = install(&world, Client::Uv, &other, &["--index", &url(at), "victim"]);
        assert!(!installed.succeeded, "{}", installed.said);
    }
    let newest = world.log().remove(0);
    assert_eq!(newest["held"], json!([]), "{newest}");
    let shown = world.done(&["show", &format!("pypi@{}", text(&newest["serial"])), "victim"]);
    assert!(!shown.contains("packages/"), "{shown}");
    world.done(&["verify", "--data"]);

    world.upstream.world().clear_quarantine("victim");
    world.done(&["sync"]);
    equals_upstream(&world);
    for at in servers {
        assert_eq!((pages(at), lists(at)), ([(false, true); 3], [true; 3]), "{at}");
        assert!(downloads(&world, &url(at)).0);
        for client in Client::ALL {
            let installed = install(&world, client, &url(at), &["victim"]);
            assert!(installed.succeeded, "{client:?} from {at}: {}", installed.said);
        }
    }
}

/// No list names it, so its page alone tells of it where the catalog is lost.
#[test]
fn it_is_there_after_a_rebuild() {
    let mut index = Index::new();
    for project in ["good", "victim"] {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    let world = World::new(index, "source = \"warehouse\"");
    world.done(&["sync"]);
    world.upstream.world().quarantine("victim");
    world.done(&["sync"]);
    let mut before = world.live();
    before.remove("live");
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let path = world.path("store").join(name);
        assert!(!path.exists() || std::fs::remove_file(path).is_ok());
    }
    world.done(&["rebuild"]);
    let mut after = world.live();
    after.remove("live");
    assert!(after == before, "{:?} instead of {:?}", after.keys(), before.keys());
    world.done(&["sync"]);
    equals_upstream(&world);
    world.done(&["verify", "--data"]);
}
