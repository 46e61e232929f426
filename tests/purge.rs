//! A file that has to go now: from the static view, from every serial, from installers, and from every sync to come.

use serde_json::Value;
use strandline_testkit::World as Index;

use crate::support::server::{Nginx, Serve, get};
use crate::support::tools::{Client, install};
use crate::support::world::{World, files, text, wheel};

const JSON: &str = "Accept: application/vnd.pypi.simple.v1+json";

/// Three serials that all have `evil` 2.0, and a second mirror with the same project.
fn world(lines: &str) -> World {
    let mut index = Index::new();
    index.upload("evil", &wheel("evil", "1.0", 1));
    index.upload("evil", &wheel("evil", "2.0", 2));
    index.upload("good", &wheel("good", "1.0", 3));
    let world = World::new(index, "");
    let upstream = world.upstream.simple_url();
    let other = format!(
        "projects = [\"evil\", \"good\"]\n{lines}\n[mirror.other]\nupstream = \"{upstream}\"\ndrain = \"0s\"\nprojects = [\"evil\"]"
    );
    world.configure("", &other);
    world.done(&["sync"]);
    for version in ["2.0", "3.0"] {
        world.upstream.world().upload("good", &wheel("good", version, 4));
        world.done(&["sync"]);
    }
    world
}

/// The path of a file of `evil` in a mirror, and its SHA-256.
fn file(world: &World, mirror: &str, version: &str) -> (String, String) {
    let shown = world.done(&["show", mirror, "evil"]);
    let line = shown.lines().find(|line| line.contains(&format!("evil-{version}-")) && !line.contains(".metadata"));
    let words: Vec<_> = line.unwrap().split('\t').collect();
    (words[0].trim().to_owned(), words[2].trim_start_matches("sha256:").to_owned())
}

fn lists(page: &str, version: &str) -> bool {
    let page: Value = serde_json::from_str(page).unwrap();
    let files = page["files"].as_array().unwrap();
    files.iter().any(|file| text(&file["filename"]).starts_with(&format!("evil-{version}-")))
}

#[test]
fn a_withdrawn_file_is_gone_from_everything_at_once() {
    let world = world("");
    let (path, sha256) = file(&world, "pypi", "2.0");
    let serials: Vec<_> = world.log().iter().map(|line| text(&line["serial"])).collect();
    world.done(&["pin", "pypi", &serials[2]]);
    let (serve, nginx) = (Serve::start(&world), Nginx::start(&world));
    let mut places = vec![String::new()];
    places.extend(serials.iter().map(|serial| format!("/@{serial}")));
    let paths = [path.clone(), format!("{path}.metadata")];
    for place in &places {
        for path in &paths {
            assert_eq!(get(serve.at, &format!("/pypi{place}/{path}"), &[]).status, 200, "{place}");
        }
        assert!(lists(get(serve.at, &format!("/pypi{place}/simple/evil/"), &[JSON]).text(), "2.0"));
    }
    assert_eq!(get(nginx.at, &format!("/pypi/{path}"), &[]).status, 200);

    // Neither `drain` nor `grace` is waited for.
    let configured = std::fs::read_to_string(world.path("strandline.toml")).unwrap();
    std::fs::write(world.path("strandline.toml"), configured.replace("drain = \"0s\"", "drain = \"1h\"")).unwrap();
    let run = world.run(&["purge", &sha256, "--reason", "it mines\ncoins"]).ended(0);
    assert_eq!(run.out.lines().filter(|line| line.starts_with("pypi@")).count(), 3, "{}", run.out);
    for place in &places {
        for path in &paths {
            assert_eq!(get(serve.at, &format!("/pypi{place}/{path}"), &[]).status, 404, "{place}/{path}");
        }
        let page = get(serve.at, &format!("/pypi{place}/simple/evil/"), &[JSON]);
        assert!(!lists(page.text(), "2.0") && lists(page.text(), "1.0"), "{place}");
    }
    for path in &paths {
        assert_eq!(get(nginx.at, &format!("/pypi/{path}"), &[]).status, 404);
        assert_eq!(get(nginx.at, &format!("/other/{path}"), &[]).status, 404);
    }
    assert!(!lists(get(nginx.at, "/pypi/simple/evil/", &[JSON]).text(), "2.0"));
    for form in ["text/html", "application/vnd.pypi.simple.v1+html"] {
        let page = get(nginx.at, "/pypi/simple/evil/", &[&format!("Accept: {form}")]);
        assert!(page.status == 200 && !page.text().contains("evil-2.0"), "{form}");
    }
    // Neither of the two trees has it.
    for (name, path) in files(&world.path("store/views/pypi")) {
        let page = std::fs::read(path).unwrap();
        assert!(!String::from_utf8_lossy(&page).contains("evil-2.0"), "{name}");
    }
    are_superseded(&world, &serve, &serials, &path);
    assert!(!world.blobs().values().any(|path| wheel("evil", "2.0", 2).bytes == std::fs::read(path).unwrap()));
    world.done(&["verify", "--data"]);

    for at in [serve.at, nginx.at] {
        for client in Client::ALL {
            let index = format!("http://{at}/pypi/simple/");
            let refused = install(&world, client, &index, &["evil==2.0"]);
            assert!(!refused.succeeded, "{client:?}: {}", refused.said);
            let installed = install(&world, client, &index, &["evil"]);
            assert_eq!(installed.versions()["evil"], "1.0", "{client:?}");
        }
    }

    is_on_record(&world, &serials, &sha256);
}

/// The revisions from before a withdrawal say so when they are named, and serve nothing.
fn are_superseded(world: &World, serve: &Serve, serials: &[String], path: &str) {
    for serial in serials {
        for path in ["simple/evil/", "simple/", path] {
            let answer = get(serve.at, &format!("/pypi/@{serial}.1/{path}"), &[]);
            assert_eq!(answer.status, 404, "@{serial}.1/{path}");
        }
        assert_eq!(get(serve.at, &format!("/pypi/@{serial}.2/simple/evil/"), &[JSON]).status, 200);
        world.run(&["rollback", "pypi", &format!("{serial}.1")]).ended(2).says(&["something was withdrawn"]);
        world.run(&["pin", "pypi", &format!("{serial}.1")]).ended(2);
    }
}

/// Who withdrew the file, when and why, is told; and the old manifest keeps saying that it existed.
fn is_on_record(world: &World, serials: &[String], sha256: &str) {
    let log = world.log();
    let label = |line: &Value, key: &str| line[key].as_str().map(str::to_owned);
    let newest = &log[0];
    assert_eq!(label(newest, "serial"), Some(format!("{}.2", serials[0])));
    assert_eq!(newest["published"], true);
    assert_eq!(label(&log[1], "superseded_by"), Some(format!("{}.2", serials[0])));
    let pinned: Vec<_> = log.iter().filter(|line| line["pinned"] == true).collect();
    assert_eq!(label(pinned[0], "serial"), Some(format!("{}.2", serials[2])), "the pin has gone over");
    let status: Value = serde_json::from_str(&world.done(&["status", "--json"])).unwrap();
    for mirror in status["mirrors"].as_array().unwrap() {
        let withdrawn = &mirror["withdrawn"][0];
        assert_eq!(
            (text(&withdrawn["sha256"]), text(&withdrawn["reason"])),
            (sha256.to_owned(), "it mines\ncoins".to_owned())
        );
        assert!(text(&withdrawn["who"]).contains("uid"), "{withdrawn}");
        assert_eq!(withdrawn["project"], "evil");
    }
    for said in [world.done(&["status"]), world.done(&["log", "pypi"]), world.done(&["purge", "--list"])] {
        assert!(said.contains(sha256) && said.contains("it mines\\ncoins"), "{said}");
    }
    assert!(world.done(&["show", &format!("pypi@{}.1", serials[0]), "evil"]).contains("evil-2.0"));
}

#[test]
fn the_log_of_a_mirror_that_was_never_synced_tells_it_too() {
    let world = World::new(Index::new(), "projects = [\"six\"]");
    let sha256 = "0f".repeat(32);
    world.done(&["purge", &sha256, "--mirror", "pypi"]);
    let said = world.done(&["log", "pypi"]);
    assert!(said.starts_with("withdrawn\t") && said.contains(&sha256), "{said}");
}

#[test]
fn it_comes_back_only_when_it_is_let_back() {
    for source in ["simple", "warehouse"] {
        let world = world(&format!("source = \"{source}\""));
        let (path, sha256) = file(&world, "pypi", "2.0");
        let serve = Serve::start(&world);
        let status = || get(serve.at, &format!("/pypi/{path}"), &[]).status;
        let shown = || lists(get(serve.at, "/pypi/simple/evil/", &[JSON]).text(), "2.0");
        world.done(&["purge", "evil==2.0"]);
        let newest = world.newest();
        for _ in 0..2 {
            world.done(&["sync"]);
            assert_eq!((status(), shown(), world.newest()), (404, false, newest.clone()), "{source}");
        }
        world.upstream.world().upload("evil", &wheel("evil", "3.0", 5));
        let asked = world.upstream.counts().file;
        world.done(&["sync"]);
        assert_eq!((status(), shown()), (404, false), "{source}");
        assert!(world.upstream.counts().file > asked, "its other files come");
        assert!(lists(get(serve.at, "/pypi/simple/evil/", &[JSON]).text(), "3.0"));
        world.done(&["verify", "--data"]);
        // Again: done already.
        world.run(&["purge", "evil==2.0"]).ended(0).says(&["withdrawn already"]);
        world.run(&["purge", &sha256.to_uppercase()]).ended(0).says(&["withdrawn already"]);
        assert_eq!(world.done(&["purge", "--list"]).lines().count(), 1);

        world.done(&["purge", "evil==2.0", "--undo", "--reason", "a false alarm"]);
        assert_eq!(status(), 404, "{source}: it is upstream's to give");
        world.done(&["sync"]);
        assert_eq!((status(), shown()), (200, true), "{source}");
        world.done(&["verify", "--data"]);
        let before = world.log();
        world.done(&["sync"]);
        assert_eq!(world.log(), before, "{source}: once");
        let listed = world.run(&["purge", "--list", "--json"]).ended(0).json_lines();
        assert_eq!(listed.iter().map(|line| line["undone"] == true).collect::<Vec<_>>(), [false, true]);
        world.run(&["purge", "evil==2.0", "--undo"]).ended(2).says(&["is not withdrawn", "Nothing was done"]);
    }
}

#[test]
fn one_mirror_may_withdraw_what_another_keeps() {
    let world = world("");
    let (path, sha256) = file(&world, "other", "2.0");
    world.done(&["purge", &sha256, "--mirror", "pypi"]);
    let nginx = Nginx::start(&world);
    let status = |mirror: &str| get(nginx.at, &format!("/{mirror}/{path}"), &[]).status;
    assert_eq!((status("pypi"), status("other")), (404, 200));
    world.upstream.world().upload("evil", &wheel("evil", "3.0", 5));
    world.done(&["sync"]);
    assert_eq!((status("pypi"), status("other")), (404, 200));
    world.done(&["verify", "--data"]);
    // A view that was rolled back is switched too, and stays rolled back.
    world.done(&["rollback", "other", "previous"]);
    world.done(&["purge", &sha256]);
    assert_eq!((status("pypi"), status("other")), (404, 404));
    let now: Value = serde_json::from_str(&world.done(&["status", "--json"])).unwrap();
    let other = now["mirrors"].as_array().unwrap().iter().find(|mirror| mirror["mirror"] == "other").unwrap();
    assert_eq!(other["rolled_back"], true);
    assert!(text(&other["published"]).ends_with(".2"), "{other}");
    world.done(&["purge", &sha256, "--undo", "--mirror", "other"]);
    world.done(&["rollback", "other", "--resume"]);
    world.done(&["sync"]);
    assert_eq!((status("pypi"), status("other")), (404, 200));
    world.done(&["verify", "--data"]);
}

#[test]
fn what_cannot_be_meant() {
    let world = world("");
    world.run(&["purge", "evil"]).ended(2).says(&["PROJECT==VERSION"]);
    world.run(&["purge"]).ended(2);
    world.run(&["purge", "evil==9"]).ended(2).says(&["no kept snapshot lists a file of `evil==9`", "Nothing was done"]);
    world.run(&["purge", "evil==2.0", "--mirror", "nobody"]).ended(2).says(&["no mirror `nobody`"]);
    world.run(&["purge", "evil==2.0", "--undo"]).ended(2).says(&["is not withdrawn"]);
    assert_eq!(world.done(&["purge", "--list"]), "");
    // A digest of nothing that is here is taken all the same: no sync will bring it.
    world.run(&["purge", &"0f".repeat(32)]).ended(0).says(&["no kept snapshot lists", "no sync brings it"]);
    world.done(&["verify", "--data"]);
}
