//! What `gc` deletes: what retention drops, after the time of grace, and nothing that is published.

use std::collections::BTreeMap;
use std::fs;

use crate::support::one_project::mirror;
use crate::support::server::{Serve, get};
use crate::support::world::{World, files, text, wheel};

/// Everything in the store but what a process that only looks may touch.
fn everything(world: &World) -> BTreeMap<String, Vec<u8>> {
    let all = files(&world.path("store")).into_iter();
    let all = all.filter(|(name, _)| !name.starts_with("catalog.db") && !name.starts_with("locks/"));
    all.map(|(name, path)| (name, fs::read(path).unwrap())).collect()
}

const KEEP_ONE: &str = "keep = { last = 1, daily = 0, weekly = 0 }";

#[test]
fn gc_deletes_what_retention_drops_and_nothing_else() {
    let world = mirror(5, "grace = \"0s\"", KEEP_ONE);
    let (before, log) = (everything(&world), world.log());
    let serials: Vec<_> = log.iter().map(|line| text(&line["serial"])).collect();
    let dry = world.done(&["gc", "--dry-run"]);
    assert_eq!((everything(&world), world.log()), (before.clone(), log), "a dry run changes nothing");
    for dropped in &serials[2..] {
        assert!(dry.contains(&format!("would drop pypi@{dropped}\n")), "{dry}");
    }

    let collected = world.done(&["gc"]);
    assert_eq!(collected.replace("dropped", "would drop").replace("deleted", "would delete"), dry);
    // What is published, what was published before it, and what retention keeps.
    let kept: Vec<_> = world.log().iter().map(|line| text(&line["serial"])).collect();
    assert_eq!(kept, serials[..2]);
    let after = everything(&world);
    assert!(after.len() < before.len());
    assert!(after.iter().all(|(name, bytes)| before[name] == *bytes), "what stays is what it was");
    let wheels: Vec<_> = files(&world.path("store/views/pypi/packages")).into_keys().collect();
    for (version, there) in [("0.0", false), ("2.0", false), ("3.0", true), ("4.0", true)] {
        assert_eq!(wheels.iter().any(|name| name.ends_with(&format!("/six-{version}-py3-none-any.whl"))), there);
    }
    world.done(&["verify", "--data"]);
    let serve = Serve::start(&world);
    for (serial, status) in [(&serials[0], 200), (&serials[1], 200), (&serials[2], 404)] {
        assert_eq!(get(serve.at, &format!("/pypi/@{serial}/simple/six/"), &[]).status, status);
    }
    assert!(world.done(&["gc"]).contains("dropped 0 snapshots and 0 bodies"));

    // The mirror goes on, and back to what it still has.
    world.upstream.world().upload("six", &wheel("six", "9.0", 1));
    world.done(&["sync"]);
    world.done(&["rollback", "pypi", &serials[1]]);
    world.done(&["verify", "--data"]);
}

/// Who has just read a page may still fetch its files: they stay for the time of grace.
#[test]
fn gc_leaves_files_for_the_time_of_grace() {
    let world = mirror(5, "grace = \"1h\"", KEEP_ONE);
    let before = everything(&world);
    assert!(world.done(&["gc"]).contains("deleted 0 blobs"));
    assert_eq!(world.log().len(), 2);
    assert_eq!(everything(&world), before);
    // Bytes that are wanted again in that time are not fetched again, and stay.
    let asked = world.upstream.counts().file;
    world.upstream.world().upload("six", &wheel("six", "0.0", 1));
    world.done(&["sync"]);
    assert_eq!(world.upstream.counts().file, asked);
    world.configure("grace = \"0s\"", &format!("projects = [\"six\"]\n{KEEP_ONE}"));
    world.done(&["gc"]);
    world.done(&["verify", "--data"]);
    assert!(world.live().keys().any(|name| name.ends_with("/six-0.0-py3-none-any.whl")));
}

/// A rolled back mirror keeps what it publishes, however old that is.
#[test]
fn gc_never_takes_what_is_published() {
    let world = mirror(5, "grace = \"0s\"", KEEP_ONE);
    let oldest = text(&world.log()[4]["serial"]);
    world.done(&["rollback", "pypi", &oldest]);
    let live = world.live();
    world.done(&["gc"]);
    assert_eq!(world.live().get("simple/six/index.html"), live.get("simple/six/index.html"));
    world.done(&["verify", "--data"]);
    assert!(world.log().iter().any(|line| text(&line["serial"]) == oldest));
}
