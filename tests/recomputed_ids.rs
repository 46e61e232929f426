//! A mirror is what its manifest says, and anyone can see that with b3sum, sha256sum and `show --raw`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use strandline_testkit::World as Index;

use crate::support::tools::{b3sum, upload_real};
use crate::support::world::{World, text, wheel};

/// What a walk over a snapshot came by.
#[derive(Debug, Default)]
struct Seen {
    branches: usize,
    leaves: usize,
    units: usize,
    blobs: BTreeSet<String>,
}

/// The canonical bytes of an id, checked against it.
#[track_caller]
fn body(world: &World, id: &str) -> String {
    let bytes = world.done(&["show", "--raw", id]);
    let path = world.path("body");
    fs::write(&path, &bytes).unwrap();
    assert_eq!(b3sum(&path), id, "{bytes}");
    bytes
}

#[track_caller]
fn check_file(path: &Path, blake3: &str, sha256: &str, size: &str) {
    let bytes = fs::read(path).unwrap();
    assert_eq!(b3sum(path), blake3, "{}", path.display());
    let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    assert_eq!((digest.as_str(), bytes.len().to_string().as_str()), (sha256, size), "{}", path.display());
}

/// Walks a snapshot: every id is the BLAKE3 of its bytes, every blob is there. `live` says whether it is published.
#[track_caller]
fn walk(world: &World, id: &str, live: bool) -> Seen {
    let mut seen = Seen::default();
    let snapshot = body(world, id);
    let mut lines = snapshot.lines();
    assert_eq!(lines.next(), Some("strandline-snapshot 1"));
    let view = world.path("store/views/pypi");
    let mut nodes = Vec::new();
    let mut units = 0;
    for line in lines {
        match line.split_once(' ').unwrap() {
            ("tree", tree) => nodes.push(tree.to_owned()),
            ("units", count) => units = count.parse().unwrap(),
            ("list", rest) if live => {
                let [blake3, sha256, size, path] = words(rest);
                check_file(&view.join("live").join(path), blake3, sha256, size);
            }
            _ => {}
        }
    }
    while let Some(node) = nodes.pop() {
        let node = body(world, &node);
        let mut lines = node.lines();
        match lines.next().unwrap() {
            "strandline-branch 1" => {
                seen.branches += 1;
                nodes.extend(lines.map(|line| line.rsplit_once(' ').unwrap().1.to_owned()));
            }
            "strandline-leaf 1" => {
                seen.leaves += 1;
                for line in lines {
                    let [unit, _serial, name, _display] = words(line);
                    check_unit(world, unit, name, live, &mut seen);
                }
            }
            other => unreachable!("no node begins so: {other}"),
        }
    }
    assert_eq!(seen.units, units, "the snapshot counts its units");
    seen
}

#[track_caller]
fn check_unit(world: &World, unit: &str, name: &str, live: bool, seen: &mut Seen) {
    seen.units += 1;
    let unit = body(world, unit);
    let mut lines = unit.lines();
    assert_eq!(lines.next(), Some(format!("strandline-unit 1 {name}").as_str()));
    let view = world.path("store/views/pypi");
    let mut paths = Vec::new();
    for line in lines {
        let [blake3, sha256, size, path] = words(line);
        check_file(&world.path("store/blobs").join(&blake3[..2]).join(&blake3[2..]), blake3, sha256, size);
        if path.starts_with("packages/") {
            check_file(&view.join(path), blake3, sha256, size);
        } else if live {
            check_file(&view.join("live").join(path), blake3, sha256, size);
        }
        seen.blobs.insert(blake3.to_owned());
        paths.push(path);
    }
    assert!(paths.is_sorted_by(|a, b| a < b), "{paths:?}");
}

/// The four words of a line; the last may hold spaces.
#[track_caller]
fn words(line: &str) -> [&str; 4] {
    line.splitn(4, ' ').collect::<Vec<_>>().try_into().unwrap()
}

/// More projects than a leaf of the tree holds, so that there are branches too.
#[test]
fn every_id_of_a_mirror_can_be_recomputed() {
    let mut index = Index::new();
    let real = upload_real(&mut index);
    let few: Vec<_> = (0..30).map(|number| format!("project{number}")).collect();
    for project in &few {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    index.upload("Zope.Interface", &wheel("Zope.Interface", "1.0", 1));
    let world = World::new(index, "source = \"warehouse\"");
    world.done(&["sync"]);
    {
        let mut index = world.upstream.world();
        index.upload("project7", &wheel("project7", "2.0", 1));
        index.remove_project("project8");
    }
    world.done(&["sync"]);

    let log = world.log();
    let [second, first] = [&log[0], &log[1]].map(|line| text(&line["id"]));
    assert_eq!(text(&log[0]["parent"]), first);
    let first = walk(&world, &first, false);
    let second = walk(&world, &second, true);
    assert_eq!(first.units, few.len() + real.len() + 1);
    assert_eq!(second.units, first.units - 1);
    assert!(first.branches > 0 && first.leaves > 1, "{first:?}");
    // The two snapshots name every blob of the store, and nothing else is in it.
    let named: BTreeSet<_> = first.blobs.union(&second.blobs).cloned().collect();
    assert_eq!(named, world.blobs().into_keys().collect());
}

/// Whatever way a mirror came to a state, it is the same tree.
#[test]
fn the_tree_does_not_depend_on_the_way() {
    let mut index = Index::new();
    index.release("six", "1.0");
    index.release("idna", "1.0");
    index.release("moved", "1.0");
    let world = World::new(index, "projects = [\"six\", \"idna\", \"moved\"]");
    world.done(&["sync"]);
    for change in 0..4 {
        {
            let mut index = world.upstream.world();
            match change {
                0 => index.release("six", "2.0"),
                1 => index.yank("six", "1.0", Some("too old")),
                2 => index.remove_project("moved"),
                _ => index.archive("idna"),
            };
        }
        world.done(&["sync"]);
        let fresh = format!("fresh{change}");
        world.done(&["sync", "--store", &fresh]);
        let shown = world.done(&["show", "pypi", "--store", &fresh]);
        assert_eq!(crate::support::world::tree_of(&shown), world.tree(), "after change {change}");
    }
}
