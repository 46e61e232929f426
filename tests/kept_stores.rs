//! Stores as earlier programs left them: today's program goes on with each (`docs/design/022-the-format-is-frozen.md`).
//!
//! `tests/fixtures/` has one archive for each set of numbers that was ever landed since the format was frozen; its name says
//! them. A fixture that was landed is never made anew.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use strandline_model::{Format as _, Node, RECORD, Unit};
use strandline_pypi::Pypi;
use strandline_store::{Order, Subject, Wait};
use strandline_sync::{Context, purge};
use strandline_testkit::{Fault, On, Response, Rule, World as Index};

use crate::recomputed_ids::{SHOW, check};
use crate::snapshot_ids::{NAMED, context};
use crate::support::server::get;
use crate::support::world::{World, text, wheel};

const JSON: &str = "application/vnd.pypi.simple.v1+json";

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// The numbers that the program writes, as the name of a fixture says them.
fn numbers() -> String {
    let number = |body: Vec<u8>| {
        let text = String::from_utf8(body).unwrap();
        text.split([' ', '\n']).nth(1).unwrap().to_owned()
    };
    let unit = number(Unit::of_files("six".parse().unwrap(), Vec::new()).unwrap().to_bytes());
    let node = number(Node::EMPTY.to_bytes());
    let world = World::new(Index::new(), "");
    world.upstream.world().release("six", "1.0");
    world.done(&["sync"]);
    let snapshot = number(world.done(&["show", "--raw", &text(&world.log()[0]["id"])]).into_bytes());
    // <https://sqlite.org/fileformat.html>, section 1.3.
    let header = fs::read(world.path("store/catalog.db")).unwrap();
    let catalog = u32::from_be_bytes(header[60..64].try_into().unwrap());
    let renderer = Pypi.number();
    format!("catalog-{catalog}.record-{RECORD}.unit-{unit}.node-{node}.snapshot-{snapshot}.renderer-{renderer}.tar.gz")
}

#[test]
fn each_number_that_the_program_has_has_a_fixture() {
    let name = numbers();
    let hint = "make it with `cargo test --test end_to_end -- --ignored a_fixture_is_made`, once for these numbers";
    assert!(fixtures().join(&name).is_file(), "tests/fixtures/{name} is missing: {hint}");
}

pub(crate) fn tar(arguments: &[&str]) {
    let run = Command::new("tar").args(arguments).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

/// An index of its own: what it says does not depend on what other tests need.
fn index() -> Index {
    let mut index = Index::new();
    for project in ["six", "idna", "Zope.Interface", "lacking", "held", "odd", "quarantined"] {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    index
}

/// The configuration of the mirror that the fixture has; the index seems to be at a URL without a port.
fn configure(world: &World) {
    let lines = "drain = \"0s\"\nsource = \"warehouse\"";
    let text = format!("store = \"store\"\n[mirror.pypi]\nupstream = \"{NAMED}/simple/\"\n{lines}\n");
    fs::write(world.path("strandline.toml"), text).unwrap();
}

/// Syncs; what stands in the way is waited for this many seconds.
pub(crate) fn sync(world: &World, patience: u64) -> strandline_sync::Outcome {
    let context = context(world, Duration::from_secs(patience));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(strandline_sync::sync(&context)).unwrap()
}

/// Changes a page from now on.
fn change_page(world: &World, project: &str, change: impl FnOnce(&mut Value)) {
    let path = format!("/simple/{project}/");
    let page = get(world.upstream.address(), &path, &[&format!("Accept: {JSON}")]).body;
    let mut page: Value = serde_json::from_slice(&page).unwrap();
    change(&mut page);
    world.upstream.override_path(&path, Response::new(200).header("Content-Type", JSON).body(page.to_string()));
}

/// Withdraws the files of a release.
fn withdraw(Context { store, format, clock, .. }: &Context, project: &str, version: &str) {
    let now = clock();
    let formats = strandline_model::Formats::usual(format.clone());
    let purge = purge::Purge { store, formats: &formats, now };
    let mirrors = [store.mirror(&"pypi".parse().unwrap()).unwrap().unwrap()];
    let plan = purge.plan_release(&mirrors, &project.parse().unwrap(), version).unwrap();
    let order = Order { scope: None, time: now, who: "an operator".to_owned(), reason: Some("a test".to_owned()) };
    purge.execute(&plan, &order).unwrap();
    purge.finish(purge::Busy::Leave).unwrap();
}

/// A store of everything that a migration may meet: snapshots with a pin, a hold, a lacking file, a withdrawal, a quarantine,
/// unknown keys and what is skipped; the second of them is published, and newer ones are recorded.
fn made() -> World {
    let world = World::new(index(), "");
    configure(&world);
    let upstream = &world.upstream;
    upstream.set_manual_clock(0);
    let later = || upstream.advance(Duration::from_hours(24));
    later();
    sync(&world, 5);
    {
        let Context { store, settings, clock, .. } = context(&world, Duration::ZERO);
        let mirror = store.lock(&settings.mirror, Wait::Never, clock()).unwrap();
        let pinned = mirror.latest_verified().unwrap().unwrap();
        mirror.pin(pinned.id, clock()).unwrap();
        let mut sights = mirror.sights().unwrap();
        sights.look_whether(Subject::ShrunkPage("six".parse().unwrap()), clock());
        mirror.record_sights(&mut sights).unwrap();
    }

    for project in ["six", "lacking", "held", "odd", "Zope.Interface"] {
        upstream.world().upload(project, &wheel(project, "2.0", 2));
    }
    upstream.world().yank("Zope.Interface", "1.0", Some("too old"));
    upstream.world().quarantine("quarantined");
    let lost = upstream.world().project("lacking").unwrap().files.last().unwrap().url_path.clone();
    upstream.fault(Rule::new(On::Path(lost), Fault::Gone));
    change_page(&world, "held", |page| page["files"] = json!(7));
    change_page(&world, "odd", |page| {
        page["namespaces"] = json!([{ "name": "odd", "owned": true }]);
        page["alternate-locations"] = json!([]);
        page["files"][1]["upload-time"] = "yesterday".into();
        let url = text(&page["files"][0]["url"]);
        page["files"][0]["url"] = format!("{url}?signature=1").into();
    });
    later();
    let done = sync(&world, 5);
    assert_eq!((done.held.len(), done.lacking.len()), (1, 1));

    withdraw(&context(&world, Duration::ZERO), "idna", "1.0");
    upstream.world().archive("Zope.Interface");
    upstream.world().upload("six", &wheel("six", "3.0", 3));
    later();
    sync(&world, 5);
    world
}

#[test]
#[ignore = "a fixture is made once for its numbers"]
fn a_fixture_is_made() {
    let path = fixtures().join(numbers());
    assert!(!path.exists(), "{} was landed, and is not made anew", path.display());
    let world = made();
    assert_eq!(made().log(), world.log(), "it is the same whenever and wherever it is made");
    fs::create_dir_all(fixtures()).unwrap();
    fs::remove_dir_all(world.path("store/incoming")).unwrap();
    let root = world.path("");
    let owners = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=posix"];
    let what = ["-C", root.to_str().unwrap(), "-czf", path.to_str().unwrap(), "store"];
    tar(&[&owners[..], &what].concat());
    assert!(fs::metadata(&path).unwrap().len() < 300_000, "it is kept for ever");
}

/// A world whose store is that of an archive, with its links and times.
fn unpacked(archive: &Path) -> World {
    let world = World::new(index(), "");
    configure(&world);
    tar(&["-C", world.path("").to_str().unwrap(), "-xpzf", archive.to_str().unwrap()]);
    world
}

#[test]
fn the_program_goes_on_with_each_store() {
    let entries = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
    let archives: Vec<_> = entries.filter(|path| path.is_file()).collect();
    assert!(!archives.is_empty());
    for archive in archives {
        goes_on(&unpacked(&archive));
    }
}

fn goes_on(world: &World) {
    let blobs: Vec<_> = world.blobs().into_values().map(|path| fs::metadata(path).unwrap()).collect();
    assert!(blobs.iter().any(|blob| blob.nlink() > 1), "links are links again");
    assert!(blobs.iter().all(|blob| blob.mtime() < 1_100_000_000), "times are times again");
    let upstream = &world.upstream;
    // The index has gone on since, and what was broken is right again.
    upstream.set_manual_clock(0);
    upstream.advance(Duration::from_hours(30 * 24));

    let status = world.run(&["status"]).ended(4).out;
    for said in
        ["held       held: ", "lacking    lacking: ", "skipped    odd: ", "withdrawn  ", "/alternate-locations (1)"]
    {
        assert!(status.contains(said), "{said}: {status}");
    }
    let before = world.log();
    assert!(before.len() >= 4, "{before:?}");
    assert!(
        before.iter().any(|line| line["pinned"] == true) && before.iter().any(|line| !line["superseded_by"].is_null())
    );
    world.done(&["verify", "--data"]);
    for line in &before {
        if line["superseded_by"].is_null() {
            check(world, &["--store", "store"], &text(&line["id"]), &SHOW).ended(0);
        }
    }

    let serial = text(&before.last().unwrap()["serial"]);
    let pinned = before.iter().find(|line| line["pinned"] == true && line["superseded_by"].is_null());
    let earlier = pinned.map_or(serial, |line| text(&line["serial"]));
    let newest = world.tree();
    world.done(&["rollback", "pypi", &earlier]);
    assert_ne!(world.tree(), newest);
    world.done(&["rollback", "pypi", "--resume"]);
    assert_eq!(world.tree(), newest);
    world.done(&["render", "pypi"]);
    world.done(&["verify", "--data"]);
    assert_eq!(world.log().iter().filter(|line| line["pinned"] == true).count(), 1);
    goes_on_to_follow(world);
}

/// An index with the events that the store has seen, and more.
fn goes_on_to_follow(world: &World) {
    {
        let mut index = world.upstream.world();
        for project in ["six", "lacking", "held", "odd", "Zope.Interface"] {
            index.upload(project, &wheel(project, "2.0", 2));
        }
        index.yank("Zope.Interface", "1.0", Some("too old"));
        index.quarantine("quarantined");
        index.upload("six", &wheel("six", "3.0", 3));
        index.clear_quarantine("quarantined");
        for project in ["held", "lacking", "odd"] {
            index.upload(project, &wheel(project, "3.0", 3));
        }
    }
    world.upstream.advance(Duration::from_hours(24));
    let done = sync(world, 60);
    assert_eq!((done.held.len(), done.lacking.len()), (0, 0), "upstream is right again");
    let status = world.run(&["status"]).ended(0).out;
    assert!(status.contains("withdrawn  ") && !status.contains("skipped") && !status.contains("unknown"), "{status}");
    let list = String::from_utf8(world.live()["simple/index.v1_json"].clone()).unwrap();
    for project in ["six", "Zope.Interface", "lacking", "held", "odd", "quarantined"] {
        assert!(list.contains(&format!("\"{project}\"")), "{list}");
    }
    world.done(&["gc"]);
    world.done(&["verify", "--data"]);
    check(world, &["--store", "store"], &text(&world.log()[0]["id"]), &SHOW).ended(0);
}
