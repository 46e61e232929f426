//! Several mirrors in one store: what they share, what they do not, and what stays when one goes. Also what an operator
//! decides about kept serials.

use std::fs;

use serde_json::Value;
use strandline_testkit::{Upstream, World as Index};

use crate::support::server::{Serve, get};
use crate::support::world::{World, files, text, wheel};

const BOTH: &str = "projects = [\"six\", \"idna\"]\n";

/// A mirror `pypi` of two projects.
fn world(lines: &str) -> World {
    let mut index = Index::new();
    index.upload("six", &wheel("six", "1.0", 1));
    index.upload("idna", &wheel("idna", "1.0", 2));
    let world = World::new(index, "");
    world.configure("", &format!("{BOTH}{lines}"));
    world
}

/// The table of a mirror of `upstream`.
fn table(name: &str, upstream: &Upstream, lines: &str) -> String {
    format!("[mirror.{name}]\nupstream = \"{}\"\ndrain = \"0s\"\n{lines}\n", upstream.simple_url())
}

fn append(world: &World, text: &str) {
    let path = world.path("strandline.toml");
    let before = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{before}\n{text}")).unwrap();
}

/// How many requests for files an upstream has had.
fn asked_for(upstream: &Upstream) -> u64 {
    upstream.counts().file
}

fn status(world: &World) -> Value {
    serde_json::from_str(&world.done(&["status", "--json"])).unwrap()
}

fn published(world: &World) -> String {
    text(&status(world)["mirrors"][0]["published"])
}

#[test]
fn two_mirrors_of_the_same_bytes_fetch_and_keep_them_once() {
    let world = world("");
    world.done(&["sync"]);
    let (blobs, asked) = (world.blobs().len(), asked_for(&world.upstream));
    append(&world, &table("part", &world.upstream, "projects = [\"six\"]"));
    world.done(&["sync", "part"]);
    assert_eq!(asked_for(&world.upstream), asked, "nothing is fetched twice");
    assert_eq!(world.blobs().len(), blobs, "nor kept twice: the page is the same, too");

    // A mirror serves what it has, and nothing of its neighbour's.
    let serve = Serve::start(&world);
    let answers = |path: &str| get(serve.at, path, &[]).status;
    assert_eq!(["/part/simple/six/", "/part/simple/idna/"].map(answers), [200, 404]);
    let has = |mirror: &str, project: &str| {
        let pool = files(&world.path(&format!("store/views/{mirror}/packages")));
        let paths: Vec<_> = pool.into_keys().filter(|path| path.contains(&format!("/{project}-1.0-"))).collect();
        paths.into_iter().find(|path| !path.ends_with(".metadata"))
    };
    let idna = has("pypi", "idna").unwrap();
    assert!(has("part", "six").is_some() && has("part", "idna").is_none());
    assert_eq!(["pypi", "part"].map(|name| answers(&format!("/{name}/packages/{idna}"))), [200, 404]);

    world.done(&["gc"]);
    let status = status(&world);
    let [part, pypi] = ["part", "pypi"].map(|name| {
        let mirrors = status["mirrors"].as_array().unwrap();
        mirrors.iter().find(|mirror| mirror["mirror"] == name).unwrap()["size"].clone()
    });
    assert_eq!(part["own_bytes"], 0);
    assert_eq!(status["store"]["size"]["bytes"], pypi["bytes"]);
    assert_eq!(status["store"]["size"]["saved_bytes"], part["bytes"]);
    assert!(pypi["own_bytes"].as_u64() > Some(0));

    // One goes, and the other loses nothing.
    world.done(&["mirror", "remove", "pypi"]);
    assert!(!world.path("store/views/pypi").exists());
    world.configure("grace = \"0s\"", BOTH);
    append(&world, &table("part", &world.upstream, "projects = [\"six\"]"));
    world.done(&["gc"]);
    assert_eq!(answers("/part/simple/six/"), 200);
    world.done(&["verify", "part", "--data"]);
    assert!(world.blobs().len() < blobs, "what only the removed mirror had is gone");
    world.run(&["mirror", "remove", "pypi"]).ended(2).says(&["no snapshot"]);
    // It is in the configuration still, so the next sync begins it anew.
    world.done(&["sync", "pypi"]);
    world.done(&["verify", "--data"]);
}

/// What a private mirror has brought is not given to whoever claims to have a file of that hash.
#[test]
fn a_private_mirrors_bytes_are_not_taken_as_already_here() {
    let world = world("private = true");
    world.done(&["sync"]);
    let blobs = world.blobs().len();
    let mut claims = Index::new();
    claims.upload("six", &wheel("six", "1.0", 1));
    let other = Upstream::start(claims).unwrap();
    append(&world, &table("public", &other, "projects = [\"six\"]"));
    append(&world, &table("secret", &other, "projects = [\"six\"]\nprivate = true"));

    world.done(&["sync", "secret"]);
    let asked = asked_for(&other);
    assert!(asked > 0, "another private mirror has to bring it itself");
    world.done(&["sync", "secret"]);
    assert_eq!(asked_for(&other), asked, "once it has, it is its own, too");
    world.done(&["sync", "public"]);
    assert!(asked_for(&other) > asked, "and a public one");
    let pages = world.blobs().len() - blobs;
    assert!(pages <= 4, "the file is kept once all the same: {pages} more blobs");

    // Once a public mirror has brought it, it is everybody's.
    let asked = asked_for(&other);
    append(&world, &table("third", &other, "projects = [\"six\"]"));
    world.done(&["sync", "third"]);
    assert_eq!(asked_for(&other), asked);
    // A mirror that goes takes its claim with it.
    world.done(&["mirror", "remove", "secret"]);
    world.done(&["sync", "secret"]);
    assert_eq!(asked_for(&other), asked, "it is public now");
}

#[test]
fn pins_and_previous() {
    let world = world("");
    world.configure("grace = \"0s\"", &format!("{BOTH}keep = {{ last = 1, daily = 0, weekly = 0 }}"));
    let mut labels = Vec::new();
    for number in 2..7 {
        world.upstream.world().upload("six", &wheel("six", &format!("{number}.0"), number));
        world.done(&["sync"]);
        labels.push(world.newest());
    }
    world.done(&["pin", "pypi", &labels[1]]);
    world.run(&["pin", "pypi", &labels[1]]).ended(0).says(&["pinned already"]);
    world.run(&["pin", "pypi", "999999999"]).ended(2).says(&["no snapshot"]);
    world.done(&["gc"]);
    let kept = || world.log().iter().map(|line| text(&line["serial"])).collect::<Vec<_>>();
    assert_eq!(kept(), [&labels[4], &labels[3], &labels[1]].map(String::clone), "newest, previous, pinned");
    let pinned = |line: &serde_json::Value| line["pinned"] == true;
    assert_eq!(world.log().iter().map(pinned).collect::<Vec<_>>(), [false, false, true]);

    world.done(&["rollback", "pypi", "previous"]);
    assert_eq!(published(&world), labels[3]);
    world.done(&["rollback", "pypi", "previous"]);
    assert_eq!(published(&world), labels[4], "and back");
    world.done(&["rollback", "pypi", &labels[1]]);
    world.done(&["rollback", "pypi", "--resume"]);
    world.done(&["unpin", "pypi", &labels[1]]);
    world.run(&["unpin", "pypi", &labels[1]]).ended(0).says(&["not pinned"]);
    world.done(&["sync"]);
    world.done(&["verify", "--data"]);
}

/// A sync that would fill the disk says so before it fetches.
#[test]
fn what_has_to_stay_free_stays_free() {
    let world = world("");
    world.done(&["sync"]);
    world.upstream.world().upload("six", &wheel("six", "2.0", 3));
    let asked = asked_for(&world.upstream);
    world.configure("min-free = \"1EB\"", BOTH);
    let live = world.live();
    world.run(&["sync"]).ended(1).says(&["free", "`min-free`", "Readers see what they saw before", "strandline gc"]);
    assert_eq!((asked_for(&world.upstream), world.live()), (asked, live));
    // What is removed upstream goes all the same: that needs no room.
    world.upstream.world().remove_release("six", "2.0");
    world.upstream.world().remove_release("idna", "1.0");
    // No row says that all files of a project went.
    world.done(&["sync", "--accept-drop"]);
    world.configure("", BOTH);
    world.upstream.world().upload("six", &wheel("six", "3.0", 3));
    world.done(&["sync"]);
}
