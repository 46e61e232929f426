//! A mirror is what its manifest says: `scripts/check-manifest`, written from docs/format.md alone, recomputes its ids with
//! nothing but b3sum and `show --raw`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use strandline_testkit::{Fault, On, Rule, World as Index};

use crate::support::tools::{b3sum, isolate, program, upload_real};
use crate::support::world::{Run, World, text, tree_of, wheel};

const STRANDLINE: &str = env!("CARGO_BIN_EXE_strandline");
pub(crate) const SHOW: [&str; 3] = [STRANDLINE, "show", "--raw"];

/// What was recomputed of a snapshot.
#[derive(Debug, Default)]
struct Recomputed {
    /// Ids and counts by what they are of.
    said: BTreeMap<String, String>,
    /// BLAKE3, SHA-256, size and path of each path that readers get.
    shown: Vec<[String; 4]>,
}

impl Recomputed {
    #[track_caller]
    fn count(&self, of: &str) -> usize {
        self.said[of].parse().unwrap()
    }

    /// The blobs that the snapshot names. Root lists are none.
    fn blobs(&self) -> BTreeSet<String> {
        let units = self.shown.iter().filter(|[.., path]| !path.starts_with("simple/index."));
        units.map(|[blake3, ..]| blake3.clone()).collect()
    }
}

/// Runs `scripts/check-manifest` on a snapshot; `shower` prints a body.
pub(crate) fn check(world: &World, options: &[&str], id: &str, shower: &[&str]) -> Run {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/check-manifest");
    let mut command = Command::new(program("python3"));
    command.arg(script).args(options).arg(id).arg("--").args(shower);
    isolate(&mut command, world);
    World::run_command(&mut command)
}

/// Recomputes a snapshot, and requires that it is what a line of the log says.
#[track_caller]
fn recomputed(world: &World, options: &[&str], line: &Value) -> Recomputed {
    let run = check(world, &[options, &["--shown"]].concat(), &text(&line["id"]), &SHOW).ended(0);
    let mut recomputed = Recomputed::default();
    for line in run.out.lines() {
        let (what, rest) = line.split_once(' ').unwrap();
        if what == "shown" {
            let words: Vec<_> = rest.splitn(4, ' ').map(str::to_owned).collect();
            recomputed.shown.push(words.try_into().unwrap());
        } else {
            recomputed.said.insert(what.to_owned(), rest.to_owned());
        }
    }
    for id in ["tree", "state"] {
        assert_eq!(recomputed.said[id], text(&line[id]), "{id}");
    }
    for count in ["projects", "listed"] {
        assert_eq!(recomputed.said[count], line[count].to_string(), "{count}");
    }
    recomputed
}

/// The view has every file of a snapshot and, where the snapshot is published, every page.
#[track_caller]
fn is_in_the_view(world: &World, recomputed: &Recomputed, published: bool) {
    let view = world.path("store/views/pypi");
    for [blake3, sha256, size, path] in &recomputed.shown {
        if path.starts_with("packages/") {
            check_file(&view.join(path), blake3, sha256, size);
        } else if published {
            check_file(&view.join("live").join(path), blake3, sha256, size);
        }
    }
}

#[track_caller]
fn check_file(path: &Path, blake3: &str, sha256: &str, size: &str) {
    let bytes = fs::read(path).unwrap();
    assert_eq!(b3sum(path), blake3, "{}", path.display());
    assert_eq!((digest(&bytes).as_str(), bytes.len().to_string().as_str()), (sha256, size), "{}", path.display());
}

/// The SHA-256 of bytes, in hexadecimal digits.
fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
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
        index.yank("project9", "1.0", Some("too \"old\" \u{e9}"));
        index.archive("project10");
        index.quarantine_release("project11", "1.0");
    }
    world.done(&["sync"]);

    let log = world.log();
    assert_eq!(text(&log[0]["parent"]), text(&log[1]["id"]));
    let [second, first] = [&log[0], &log[1]].map(|line| recomputed(&world, &["--store", "store"], line));
    is_in_the_view(&world, &first, false);
    is_in_the_view(&world, &second, true);
    assert_eq!(first.count("units"), few.len() + real.len() + 1);
    assert_eq!(second.count("units"), first.count("units") - 1);
    assert!(first.count("branches") > 0 && first.count("leaves") > 1, "{:?}", first.said);
    // The two snapshots name every blob of the store, and nothing else is in it.
    let named: BTreeSet<_> = first.blobs().union(&second.blobs()).cloned().collect();
    assert_eq!(named, world.blobs().into_keys().collect());
}

/// After a withdrawal, the inputs say why a file of a record is not shown; and what was superseded is still a manifest.
#[test]
fn the_ids_can_be_recomputed_after_a_purge() {
    let mut index = Index::new();
    for project in ["evil", "good"] {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    index.upload("good", &wheel("good", "2.0", 2));
    let world = World::new(index, "projects = [\"evil\", \"good\"]");
    world.done(&["sync"]);
    for (project, version, seed) in [("good", "2.0", 2), ("evil", "1.0", 1)] {
        world.done(&["purge", &digest(&wheel(project, version, seed).bytes)]);
    }
    let log = world.log();
    let newest = recomputed(&world, &["--store", "store"], &log[0]);
    is_in_the_view(&world, &newest, true);
    let counts = ["projects", "listed", "files"].map(|of| newest.count(of));
    // `evil` has a page without files, and no list names it.
    assert_eq!(counts, [2, 1, 1]);
    // The blobs that only older revisions name are gone.
    let files: Vec<_> = log.iter().map(|line| recomputed(&world, &[], line).count("files")).collect();
    assert_eq!(files, [1, 2, 3]);
    // Upstream told the same all the time.
    assert!(log.iter().all(|line| line["state"] == log[0]["state"]), "{log:?}");
}

/// Of a project whose files cannot be had, the tree has the newest record, and the unit an earlier one or there is none.
#[test]
fn the_ids_can_be_recomputed_while_projects_are_held_for_their_files() {
    let mut index = Index::new();
    for project in ["good", "old"] {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    let world = World::patient(index, "1s", "source = \"warehouse\"");
    world.done(&["sync"]);
    for (project, version) in [("old", "2.0"), ("new", "1.0")] {
        world.upstream.world().upload(project, &wheel(project, version, 1));
        let path = world.upstream.world().project(project).unwrap().files.last().unwrap().url_path.clone();
        world.upstream.fault(Rule::new(On::Path(path), Fault::Gone));
    }
    world.run(&["sync"]).ended(4);
    let held = recomputed(&world, &["--store", "store"], &world.log()[0]);
    is_in_the_view(&world, &held, true);
    let counts = ["projects", "listed", "records", "units", "files"].map(|of| held.count(of));
    assert_eq!(counts, [3, 2, 4, 2, 2], "both records of `old` are there, and `new` has no unit");
    // The line `held` is what allows that.
    let id = text(&world.log()[0]["id"]);
    let snapshot = world.done(&["show", "--raw", &id]);
    let line = snapshot.lines().find(|line| line.starts_with("held old ")).unwrap();
    let at = line.split(' ').nth(3).unwrap();
    let without = format!("{line}\n");
    let elsewhere = line.replacen(&format!(" {at} "), " 0 ", 1);
    for (truth, lie, said) in [(without.as_str(), "", "it is made from "), (line, elsewhere.as_str(), "held at 0")] {
        let path = world.path("forged");
        fs::write(&path, snapshot.replacen(truth, lie, 1)).unwrap();
        let forged = b3sum(&path);
        let shell = "if [ \"$2\" = \"$0\" ]; then cat forged; else \"$1\" show --raw \"$2\"; fi";
        let run = check(&world, &[], &forged, &["sh", "-c", shell, &forged, STRANDLINE]).ended(1);
        assert!(run.out.contains(said), "{}", run.out);
    }
}

/// A mirror of one project.
fn small() -> (World, Value) {
    let mut index = Index::new();
    index.upload("six", &wheel("six", "1.0", 1));
    let world = World::new(index, "projects = [\"six\"]");
    world.done(&["sync"]);
    let line = world.log().remove(0);
    recomputed(&world, &["--store", "store"], &line);
    (world, line)
}

/// One byte of any body is another.
#[test]
fn a_damaged_body_is_found() {
    let (world, line) = small();
    let tree = text(&line["tree"]);
    let leaf = world.done(&["show", "--raw", &tree]);
    let words: Vec<_> = leaf.lines().nth(1).unwrap().split(' ').collect();
    let mut ids: Vec<_> = ["id", "tree", "follow", "inputs"].iter().map(|key| text(&line[key])).collect();
    ids.extend(words[2..5].iter().map(|&id| id.to_owned()));
    // The first `s` of the body whose id is $0 becomes another letter; $1 is the program, $2 the id that is asked for.
    let shell =
        "if [ \"$2\" = \"$0\" ]; then \"$1\" show --raw \"$2\" | sed '1s/s/z/'; else \"$1\" show --raw \"$2\"; fi";
    for id in ids {
        let run = check(&world, &[], &text(&line["id"]), &["sh", "-c", shell, &id, STRANDLINE]).ended(1);
        assert!(run.out.contains(&format!("{id}: the BLAKE3 of its bytes is ")), "{}", run.out);
    }
}

/// A body that has the id that its bytes have, and says what is not so.
#[test]
fn a_false_body_is_found() {
    let (world, line) = small();
    let snapshot = world.done(&["show", "--raw", &text(&line["id"])]);
    let path = world.path("forged");
    let zeros = "0".repeat(64);
    let lies = [
        (format!("state {}", text(&line["state"])), format!("state {zeros}"), "state is "),
        ("\nprojects 1\n".to_owned(), "\nprojects 2\n".to_owned(), "projects is 2, recomputed 1"),
        ("\nlisted 1\n".to_owned(), "\nlisted 0\n".to_owned(), "listed is 0, recomputed 1"),
        ("\nrevision 1\n".to_owned(), "\nrevision 01\n".to_owned(), "not a line of its form"),
    ];
    for (truth, lie, said) in lies {
        let forged = snapshot.replacen(&truth, &lie, 1);
        assert_ne!(forged, snapshot);
        fs::write(&path, forged).unwrap();
        let id = b3sum(&path);
        let shell = "if [ \"$2\" = \"$0\" ]; then cat forged; else \"$1\" show --raw \"$2\"; fi";
        let run = check(&world, &[], &id, &["sh", "-c", shell, &id, STRANDLINE]).ended(1);
        assert!(run.out.contains(&format!("{id}: {said}")), "{}", run.out);
    }
}

#[test]
fn a_damaged_blob_is_found() {
    let (world, line) = small();
    let (blob, path) = world.blobs().pop_first().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    let run = check(&world, &["--store", "store"], &text(&line["id"]), &SHOW).ended(1);
    for wrong in ["SHA-256", "BLAKE3"] {
        assert!(run.out.contains(&format!("{blob}: the blob has {wrong} ")), "{}", run.out);
    }
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
        assert_eq!(tree_of(&shown), world.tree(), "after change {change}");
    }
}
