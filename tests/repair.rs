//! Everything that `verify` finds, `verify --repair` puts right where the bytes can be had; and a store without its catalog
//! gets a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use strandline_testkit::{Fault, On, Rule, World as Index};

use crate::support::one_project::{mirror, newest_wheel, overwrite};
use crate::support::world::{Run, World, files, wheel};

/// Requires that the damage is found, named in these words, and nothing changed; and that it is repaired, in these words,
/// so that nothing is left of it.
#[track_caller]
fn repairs(world: &World, data: bool, found: &[&str], repaired: &[&str]) {
    let data: &[&str] = if data { &["--data"] } else { &[] };
    let before = store(world);
    let run = world.run(&[&["verify"], data].concat()).ended(1).says(&["nothing was changed", "verify --repair"]);
    says(&run, found);
    assert!(store(world) == before, "who only looks changes nothing");
    let run = world.run(&[&["verify", "--repair"], data].concat());
    let run = run.ended(0).says(&["everything that was damaged is repaired"]);
    says(&run, repaired);
    world.run(&["verify", "--data"]).ended(0);
}

#[track_caller]
fn says(run: &Run, words: &[&str]) {
    for word in words {
        assert!(run.out.contains(word), "stdout does not say `{word}`:\n{}", run.out);
    }
}

/// All files of the store but the catalog and the locks.
fn store(world: &World) -> BTreeMap<String, Vec<u8>> {
    let all = files(&world.path("store")).into_iter();
    let all = all.filter(|(name, _)| !name.starts_with("catalog.db") && !name.starts_with("locks/"));
    all.map(|(name, path)| (name, fs::read(path).unwrap())).collect()
}

fn pages(world: &World) -> BTreeMap<String, Vec<u8>> {
    let mut live = world.live();
    live.remove("live");
    live
}

/// Requires that readers see what they saw before.
#[track_caller]
fn same(world: &World, before: &BTreeMap<String, Vec<u8>>) {
    let now = pages(world);
    let names = now.keys().chain(before.keys());
    let others: BTreeSet<_> = names.filter(|name| now.get(*name) != before.get(*name)).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// What was moved aside.
fn aside(world: &World) -> Vec<PathBuf> {
    files(&world.path("store/damaged")).into_values().collect()
}

fn view(world: &World) -> PathBuf {
    world.path("store/views/pypi")
}

/// The blob with the bytes of a file of the view.
fn blob_of(world: &World, path: &Path) -> PathBuf {
    let bytes = fs::read(path).unwrap();
    world.blobs().into_values().find(|blob| fs::read(blob).unwrap() == bytes).unwrap()
}

#[test]
fn a_flipped_bit_is_fetched_again() {
    let world = mirror(2, "", "");
    let before = pages(&world);
    let (path, blob) = newest_wheel(&world);
    let right = fs::read(&blob).unwrap();
    overwrite(&blob, |bytes| bytes[100] ^= 1);
    // The pool's link is the same file.
    assert_ne!(fs::read(view(&world).join(&path)).unwrap(), right);
    let asked = world.upstream.counts().file;
    repairs(&world, true, &["has other bytes", &path], &["fetched again from", "what was there is"]);
    assert_eq!(world.upstream.counts().file, asked + 1);
    same(&world, &before);
    assert_eq!(fs::read(view(&world).join(&path)).unwrap(), right);
    assert_eq!(fs::read(&blob).unwrap(), right);
    // What was broken is not lost.
    let [aside] = &aside(&world)[..] else { unreachable!("one file") };
    let broken = fs::read(aside).unwrap();
    assert_eq!((broken.len(), broken[100]), (right.len(), right[100] ^ 1));
    // The mirror goes on.
    world.upstream.world().upload("six", &wheel("six", "9.0", 1));
    world.done(&["sync"]);
    world.done(&["verify", "--data"]);
}

#[test]
fn a_truncated_and_a_missing_blob_come_back() {
    let world = mirror(2, "", "");
    let before = pages(&world);
    let (path, blob) = newest_wheel(&world);
    overwrite(&blob, |bytes| bytes.truncate(10));
    repairs(&world, false, &["has 10 bytes instead of", &path], &["fetched again from"]);
    same(&world, &before);

    // The link in the pool is the last name of the bytes.
    let asked = world.upstream.counts().file;
    fs::remove_file(&blob).unwrap();
    repairs(&world, false, &["is missing", &path], &["taken from"]);
    assert_eq!(world.upstream.counts().file, asked);
    fs::remove_file(&blob).unwrap();
    fs::remove_file(view(&world).join(&path)).unwrap();
    repairs(&world, false, &["is missing", &path], &["fetched again from"]);
    same(&world, &before);

    // So does a metadata file.
    let metadata = view(&world).join(format!("{path}.metadata"));
    let blob = blob_of(&world, &metadata);
    fs::remove_file(&blob).unwrap();
    fs::remove_file(&metadata).unwrap();
    repairs(&world, false, &["is missing", ".whl.metadata"], &["fetched again from"]);
    same(&world, &before);
}

/// What an old serial names and upstream does not list any more is where it was, if upstream has it yet.
#[test]
fn a_file_that_is_not_listed_any_more() {
    let world = mirror(2, "", "");
    let pooled = files(&view(&world).join("packages"));
    let (name, pool) = pooled.iter().find(|(name, _)| name.ends_with("six-0.0-py3-none-any.whl")).unwrap();
    let blob = blob_of(&world, pool);
    fs::remove_file(&blob).unwrap();
    fs::remove_file(pool).unwrap();
    repairs(&world, false, &["is missing", name], &["fetched again from"]);
    assert!(pool.exists(), "its link in the pool is there again");
}

#[test]
fn a_page_is_made_again_from_its_record() {
    let world = mirror(2, "", "");
    let before = pages(&world);
    let live = fs::canonicalize(view(&world).join("live")).unwrap();
    let page = live.join("simple/six/index.html");
    let blob = blob_of(&world, &page);
    overwrite(&blob, |bytes| bytes[20] ^= 1);
    repairs(&world, true, &["has other bytes", "simple/six/index.html"], &["made again from the record of six"]);
    same(&world, &before);

    let json = live.join("simple/six/index.v1_json");
    for lost in [&page, &json] {
        fs::remove_file(blob_of(&world, lost)).unwrap();
    }
    fs::remove_dir_all(live.join("simple/six")).unwrap();
    let again = ["made again from the record of six", "simple/six/index.html is missing: put right"];
    repairs(&world, false, &["is missing", "simple/six/index.v1_json"], &again);
    same(&world, &before);
}

#[test]
fn a_broken_view_is_put_right() {
    let world = mirror(2, "", "");
    let before = pages(&world);
    let live = fs::canonicalize(view(&world).join("live")).unwrap();
    let (path, _) = newest_wheel(&world);
    fs::remove_file(live.join("simple/six/index.html")).unwrap();
    repairs(&world, false, &["simple/six/index.html is missing"], &["put right"]);

    let page = live.join("simple/six/index.v1_json");
    let bytes = fs::read(&page).unwrap();
    fs::remove_file(&page).unwrap();
    fs::write(&page, &bytes[1..]).unwrap();
    repairs(&world, false, &["simple/six/index.v1_json is not blob"], &["put right"]);

    let pool = view(&world).join(&path);
    fs::remove_file(&pool).unwrap();
    symlink("nowhere", &pool).unwrap();
    repairs(&world, false, &[&format!("{path} is not blob")], &["put right"]);
    fs::remove_dir_all(view(&world).join("packages")).unwrap();
    repairs(&world, false, &[&format!("{path} is missing")], &["put right"]);

    fs::remove_file(live.join("packages")).unwrap();
    repairs(&world, false, &["packages does not point to"], &["put right"]);

    // A list of the right length that says something else, and one that is gone.
    overwrite(&live.join("simple/index.v1_json"), |bytes| bytes[5] ^= 1);
    fs::remove_file(live.join("simple/index.html")).unwrap();
    repairs(&world, false, &["simple/index.v1_json has other bytes", "simple/index.html is missing"], &["put right"]);
    same(&world, &before);
    assert!(!files(&view(&world)).keys().any(|name| name.contains("mending")), "nothing is left of the work");
}

/// The tree that is not live is changed by differences: what is lost in it would be missing after the next switch.
#[test]
fn a_page_lost_in_the_standby() {
    let mut index = Index::new();
    index.upload("six", &wheel("six", "1.0", 1));
    index.upload("idna", &wheel("idna", "1.0", 1));
    let world = World::new(index, "projects = [\"six\", \"idna\"]");
    world.done(&["sync"]);
    world.upstream.world().upload("six", &wheel("six", "2.0", 1));
    world.done(&["sync"]);
    fs::remove_file(view(&world).join("a/simple/idna/index.html")).unwrap();
    fs::remove_file(view(&world).join("b/simple/idna/index.html")).unwrap();
    repairs(&world, false, &["simple/idna/index.html is missing"], &["the tree that is not live was damaged"]);
    world.upstream.world().upload("six", &wheel("six", "3.0", 1));
    world.done(&["sync"]);
    world.done(&["verify", "--data"]);
}

#[test]
fn what_cannot_be_had_is_said_and_left() {
    let world = mirror(1, "", "");
    let (path, blob) = newest_wheel(&world);
    overwrite(&blob, |bytes| bytes[0] ^= 1);
    let broken = fs::read(&blob).unwrap();
    let rule = world.upstream.fault(Rule::new(On::Path(format!("/{path}")), Fault::Gone));
    let run = world.run(&["verify", "--data", "--repair"]).ended(1).says(&["1 things are damaged yet"]);
    says(&run, &["not repaired: blob", "cannot fetch", &path]);
    assert_eq!(fs::read(&blob).unwrap(), broken, "the last copy stays, whatever it is");
    assert!(aside(&world).is_empty());
    world.upstream.remove_fault(rule);
    world.run(&["verify", "--data", "--repair"]).ended(0);
    world.done(&["verify", "--data"]);
}

/// Where in the catalog's file the newest unit of a project is, with the record that it shows: they are one pack. No process has
/// the file open, so all of it is in there.
fn unit(world: &World, project: &str) -> (PathBuf, usize, usize) {
    let node = world.done(&["show", "--raw", &world.tree()]);
    let line = node.lines().find(|line| line.split(' ').nth(6) == Some(project)).unwrap();
    let unit = line.split(' ').nth(2).unwrap();
    let path = world.path("store/catalog.db");
    let read = "import sqlite3, sys\n\
        query = 'SELECT packed FROM pack JOIN body ON pack = number WHERE id = ?'\n\
        rows = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True).execute(query, [bytes.fromhex(sys.argv[2])])\n\
        sys.stdout.buffer.write(rows.fetchone()[0])";
    let packed = Command::new("python3").args(["-c", read]).arg(&path).arg(unit).output().unwrap();
    let packed = packed.status.success().then_some(packed.stdout).unwrap();
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(packed.len()).position(|window| window == packed).unwrap();
    (path, at, packed.len())
}

#[test]
fn a_damaged_unit_is_made_again_from_the_view_and_its_record_from_upstream() {
    let world = mirror(1, "", "");
    let (path, at, length) = unit(&world, "six");
    let mut bytes = fs::read(&path).unwrap();
    bytes[at + length / 2] ^= 1;
    fs::write(&path, bytes).unwrap();
    let serial = world.newest();
    // What it names is known again only after that: a lost page, too.
    let page = view(&world).join("live/simple/six/index.html");
    let lost = fs::read(&page).unwrap();
    let all = files(&world.path("store")).into_values();
    let names: Vec<_> = all.filter(|path| fs::read(path).unwrap() == lost).collect();
    // Through `live`, some of them are met twice.
    for path in names {
        if path.exists() {
            fs::remove_file(path).unwrap();
        }
    }
    let found = ["is damaged", "it is six", &format!("named by pypi@{serial}")];
    repairs(&world, false, &found, &["of six: made again", "index.html"]);
    assert_eq!(fs::read(&page).unwrap(), lost);
}

#[test]
fn a_damaged_page_of_the_catalog_is_named_and_the_catalog_rebuilt() {
    let world = mirror(2, "", "");
    let before = pages(&world);
    let (path, at, _) = unit(&world, "six");
    let mut bytes = fs::read(&path).unwrap();
    bytes[at / 4096 * 4096..][..4096].fill(0x55);
    fs::write(&path, &bytes).unwrap();
    let run = world.run(&["verify"]).ended(1);
    says(&run, &["the catalog is damaged: "]);
    // Its bytes can be had from a backup only, or made anew of what is published.
    let run = world.run(&["verify", "--repair"]).ended(1);
    says(&run, &["the catalog is damaged: "]);
    assert!(format!("{}{}", run.out, run.err).contains("strandline rebuild"), "{}{}", run.out, run.err);
    let run = world.run(&["sync"]);
    assert_ne!(run.code, Some(0));
    same(&world, &before);

    let run = world.run(&["rebuild"]).ended(0).says(&["Lost are: all earlier serials"]);
    says(&run, &["moved aside to", "damaged/catalog.db"]);
    let aside = fs::read(world.path("store/damaged/catalog.db")).unwrap();
    assert_eq!(aside[at / 4096 * 4096..][..4096], [0x55; 4096], "it is the damaged one");
    is_rebuilt(&world, &before);
}

/// Where it is the table of the mirrors itself, no command knows any.
#[test]
fn a_damaged_page_of_the_mirrors_is_named() {
    let world = mirror(2, "", "");
    let (path, upstream) = (world.path("store/catalog.db"), world.upstream.simple_url());
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(upstream.len()).position(|found| found == upstream.as_bytes()).unwrap();
    bytes[at / 4096 * 4096..][..4096].fill(0x55);
    fs::write(&path, &bytes).unwrap();
    for arguments in [&["verify"][..], &["verify", "pypi"]] {
        says(&world.run(arguments), &["the catalog is damaged: "]);
    }
}

/// A store that was rebuilt is whole, shows what it showed, and goes on without fetching anything again.
#[track_caller]
fn is_rebuilt(world: &World, before: &BTreeMap<String, Vec<u8>>) {
    same(world, before);
    world.done(&["verify", "--data"]);
    assert_eq!(world.log().len(), 1);
    let asked = world.upstream.counts().file;
    world.done(&["sync"]);
    assert_eq!(world.upstream.counts().file, asked);
    world.upstream.world().upload("six", &wheel("six", "77.0", 1));
    world.done(&["sync"]);
    assert!(world.live().keys().any(|name| name.ends_with("/six-77.0-py3-none-any.whl")));
    world.done(&["verify", "--data"]);
    world.done(&["gc"]);
    world.done(&["verify", "--data"]);
}

fn lose_catalog(world: &World) {
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let path = world.path("store").join(name);
        if path.exists() {
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn a_deleted_catalog_is_never_taken_for_an_empty_store() {
    let world = mirror(3, "", "");
    let before = pages(&world);
    lose_catalog(&world);
    for lost in [None, Some(""), Some("not a database, and longer than a page of one\n")] {
        if let Some(text) = lost {
            fs::write(world.path("store/catalog.db"), text.repeat(200)).unwrap();
        }
        for command in [&["sync"][..], &["status"], &["verify"], &["gc"], &["log", "pypi"]] {
            world.run(command).ended(1).says(&["strandline rebuild", "Restoring"]);
        }
        same(&world, &before);
    }
    world.done(&["rebuild"]);
    is_rebuilt(&world, &before);
    let run = world.run(&["rebuild"]).ended(1).says(&["is whole: there is nothing to rebuild"]);
    assert_eq!(run.out, "");
}

/// A catalog that comes without its log, as `cp` may leave it, is empty: that is noticed, too.
#[test]
fn a_catalog_without_its_tables() {
    let world = mirror(1, "", "");
    let before = pages(&world);
    lose_catalog(&world);
    // The header of an empty database in WAL mode: one page without tables.
    let mut page = vec![0; 4096];
    page[..16].copy_from_slice(b"SQLite format 3\0");
    page[16..24].copy_from_slice(&[16, 0, 2, 2, 0, 64, 32, 32]);
    page[24..32].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
    page[92..96].copy_from_slice(&[0, 0, 0, 1]);
    page[100..108].copy_from_slice(&[13, 0, 0, 0, 0, 16, 0, 0]);
    fs::write(world.path("store/catalog.db"), page).unwrap();
    world.run(&["status"]).ended(1).says(&["is empty, and the store has blobs or views"]);
    world.done(&["rebuild"]);
    is_rebuilt(&world, &before);
}

#[test]
fn a_rebuild_says_what_it_cannot_make_out_and_the_next_sync_brings_it() {
    let mut index = Index::new();
    for project in ["six", "idna", "pytz"] {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    let world = World::new(index, "projects = [\"six\", \"idna\", \"pytz\"]");
    world.done(&["sync"]);
    let before = pages(&world);
    lose_catalog(&world);
    // One project without a record, one whose file is nowhere; a blob that is not what its name says.
    fs::remove_file(view(&world).join("live/simple/six/index.v1_json")).unwrap();
    let pooled = files(&view(&world).join("packages"));
    let wheel = &pooled.iter().find(|(name, _)| name.ends_with("/idna-1.0-py3-none-any.whl")).unwrap().1;
    overwrite(wheel, |bytes| bytes[7] ^= 1);
    let run = world.run(&["rebuild"]).ended(0).says(&["the next sync fetches the projects that are lost"]);
    says(
        &run,
        &[
            "lost six: the view has no record",
            "lost idna: `packages/",
            "is damaged, and moved aside to",
            "moved aside to",
        ],
    );
    world.done(&["verify", "--data"]);
    world.done(&["sync"]);
    same(&world, &before);
    world.done(&["verify", "--data"]);
}

/// A catalog from a backup says what was published then, whatever the trees hold.
#[test]
fn an_older_catalog_is_restored() {
    let mut index = Index::new();
    for project in ["six", "idna", "pytz"] {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    let world = World::new(index, "");
    world.done(&["sync"]);
    world.upstream.world().upload("six", &wheel("six", "2.0", 1));
    world.done(&["sync"]);
    let (catalog, before) = (fs::read(world.path("store/catalog.db")).unwrap(), pages(&world));
    world.upstream.world().upload("six", &wheel("six", "3.0", 1));
    world.upstream.world().upload("new", &wheel("new", "1.0", 1));
    world.done(&["sync"]);
    world.upstream.world().remove_release("idna", "1.0");
    world.upstream.world().upload("idna", &wheel("idna", "2.0", 1));
    world.done(&["sync"]);

    lose_catalog(&world);
    fs::write(world.path("store/catalog.db"), catalog).unwrap();
    let run = world.run(&["verify"]).ended(1);
    says(&run, &["is of a project that the snapshot does not have", "is not blob"]);
    world.run(&["verify", "--repair"]).ended(0);
    // The pool may have more than the catalog knows of; nothing leads there.
    let shown = |mut all: BTreeMap<String, Vec<u8>>| {
        all.retain(|name, _| name.starts_with("simple/"));
        all
    };
    assert!(shown(pages(&world)) == shown(before));
    let times = |world: &World| {
        let all = files(&view(world)).into_values().map(|path| fs::metadata(path).unwrap().mtime());
        all.max().unwrap()
    };
    let latest = times(&world);
    world.upstream.world().upload("six", &wheel("six", "4.0", 1));
    world.done(&["sync"]);
    world.done(&["verify", "--data"]);
    assert!(world.live().keys().any(|name| name.ends_with("/six-4.0-py3-none-any.whl")));
    let page = fs::metadata(view(&world).join("live/simple/six/index.v1_json")).unwrap().mtime();
    assert!(page > latest, "{page} {latest}: no file has a time that another had");
}

/// What only the view has becomes blobs again.
#[test]
fn a_rebuild_of_the_view_alone() {
    let world = mirror(1, "", "");
    let before = pages(&world);
    lose_catalog(&world);
    fs::remove_dir_all(world.path("store/blobs")).unwrap();
    world.run(&["sync"]).ended(1).says(&["strandline rebuild"]);
    world.done(&["rebuild"]);
    is_rebuilt(&world, &before);
}

#[test]
fn a_rebuild_of_an_unknown_mirror_is_refused() {
    let world = mirror(1, "", "");
    lose_catalog(&world);
    fs::create_dir(world.path("store/views/other")).unwrap();
    let before = store(&world);
    world.run(&["rebuild"]).ended(1).says(&["view of mirror `other`", "nothing was changed"]);
    assert!(store(&world) == before);
}
