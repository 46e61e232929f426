//! The rules of the model that loses power ([`Power`]), one by one.
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "the tests look at what is left of a disk")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_durable::{Disk, DiskError};
use strandline_faultkit::{Power, temporary_directory};
use tempfile::TempDir;

/// A directory with a file and an empty directory in it, and a disk that is watched.
struct Watched {
    directory: TempDir,
    power: Arc<Power>,
    disk: Disk,
}

impl Watched {
    fn new() -> Self {
        let directory = temporary_directory();
        fs::create_dir_all(directory.path().join("one/two")).unwrap();
        fs::write(directory.path().join("old"), "old").unwrap();
        let power = Power::over(directory.path());
        Self { disk: Disk::new().watched_by(power.clone()), directory, power }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &str, synced: bool) -> Result<(), DiskError> {
        let mut file = self.disk.create_file(&self.at(name))?;
        file.write(bytes.as_bytes())?;
        file.seal(1_000_000_001)?;
        if synced { file.sync() } else { Ok(()) }
    }

    fn left_after(&self, steps: usize, seed: Option<u64>) -> BTreeMap<String, String> {
        let left = temporary_directory();
        self.power.left(steps, seed, &BTreeSet::new()).make(left.path());
        found(left.path())
    }

    /// What is left if everything is lost that was not synced.
    fn left(&self) -> BTreeMap<String, String> {
        self.left_after(self.power.steps(), None)
    }

    /// All that may be left, as far as many seeds tell.
    fn possible(&self) -> BTreeSet<BTreeMap<String, String>> {
        (0..200).map(|seed| self.left_after(self.power.steps(), Some(seed))).collect()
    }
}

/// What is below a directory: the bytes of files, with their times if they are sealed; where links point to.
fn found(top: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![top.to_owned()];
    while let Some(directory) = waiting.pop() {
        for child in fs::read_dir(directory).unwrap() {
            let path = child.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let sealed = metadata.permissions().mode() & 0o777 == 0o444;
            let what = if metadata.is_dir() {
                waiting.push(path.clone());
                "/".to_owned()
            } else if metadata.is_symlink() {
                format!("→ {}", fs::read_link(&path).unwrap().display())
            } else {
                let time = if sealed { format!(" {}", metadata.mtime()) } else { String::new() };
                format!("{}{time}", String::from_utf8(fs::read(&path).unwrap()).unwrap())
            };
            all.insert(path.strip_prefix(top).unwrap().to_str().unwrap().to_owned(), what);
        }
    }
    all
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let before = [("old", "old"), ("one", "/"), ("one/two", "/")].into_iter();
    before.chain(pairs.iter().copied()).map(|(name, what)| (name.to_owned(), what.to_owned())).collect()
}

#[test]
fn a_file_needs_its_own_sync_and_its_directorys() {
    let watched = Watched::new();
    watched.write("new", "new!", false).unwrap();
    assert_eq!(watched.left(), map(&[]));
    let possible = watched.possible();
    for what in ["", "ne", "ne\0\0", "new!", "new! 1000000001"] {
        assert!(possible.contains(&map(&[("new", what)])), "{what:?} of {possible:?}");
    }
    assert!(possible.contains(&map(&[])));

    watched.disk.sync_directory(&watched.at("")).unwrap();
    assert_eq!(watched.left(), map(&[("new", "")]), "the name is durable, the bytes are not");
    watched.write("whole", "whole", true).unwrap();
    assert_eq!(watched.left(), map(&[("new", "")]), "the bytes are durable, the name is not");
    watched.disk.sync_directory(&watched.at("")).unwrap();
    assert_eq!(watched.left(), map(&[("new", ""), ("whole", "whole 1000000001")]));
    watched.disk.sync_file_system(&watched.at("")).unwrap();
    assert_eq!(watched.left(), map(&[("new", "new! 1000000001"), ("whole", "whole 1000000001")]));
    assert_eq!(watched.possible().len(), 1, "nothing is open any more");
}

#[test]
fn a_directory_is_named_by_its_parent() {
    let watched = Watched::new();
    watched.disk.create_directory(&watched.at("new/deep")).unwrap();
    watched.write("new/deep/file", "file", true).unwrap();
    for directory in ["new/deep", "new"] {
        watched.disk.sync_directory(&watched.at(directory)).unwrap();
        assert_eq!(watched.left(), map(&[]));
    }
    watched.disk.sync_directory(&watched.at("")).unwrap();
    let whole = map(&[("new", "/"), ("new/deep", "/"), ("new/deep/file", "file 1000000001")]);
    assert_eq!(watched.left(), whole);
    watched.disk.remove_tree(&watched.at("new")).unwrap();
    assert_eq!(watched.left(), whole, "a removal is a change like others");
    assert!(watched.possible().contains(&map(&[("new", "/"), ("new/deep", "/")])));
    watched.disk.sync_directory(&watched.at("")).unwrap();
    assert_eq!(watched.left(), map(&[]));
}

#[test]
fn a_rename_is_whole_only_within_a_directory() {
    let watched = Watched::new();
    watched.write("new", "new", true).unwrap();
    watched.disk.sync_directory(&watched.at("")).unwrap();
    watched.disk.rename(&watched.at("new"), &watched.at("newer")).unwrap();
    let [before, after] = ["new", "newer"].map(|name| map(&[(name, "new 1000000001")]));
    assert_eq!(watched.possible(), BTreeSet::from([before, after.clone()]));

    watched.disk.sync_directory(&watched.at("")).unwrap();
    watched.disk.rename(&watched.at("newer"), &watched.at("one/new")).unwrap();
    let there = map(&[("one/new", "new 1000000001")]);
    let both = map(&[("newer", "new 1000000001"), ("one/new", "new 1000000001")]);
    assert_eq!(watched.possible(), BTreeSet::from([after, there.clone(), both, map(&[])]));
    watched.disk.sync_directory(&watched.at("one")).unwrap();
    assert_eq!(watched.possible(), BTreeSet::from([there]));
}

#[test]
fn links_are_switched_and_files_have_many_names() {
    let watched = Watched::new();
    for target in ["a", "b"] {
        watched.disk.switch_link(&watched.at("live"), Path::new(target)).unwrap();
        if target == "a" {
            watched.disk.sync_directory(&watched.at("")).unwrap();
        }
    }
    let [a, b] = ["→ a", "→ b"].map(|target| map(&[("live", target)]));
    assert_eq!(watched.left(), a);
    assert!(watched.possible().contains(&b));
    assert!(watched.possible().iter().all(|left| left.contains_key("live")), "it is always there");

    watched.disk.link_or_copy(&watched.at("old"), &watched.at("one/link")).unwrap();
    watched.disk.sync_file_system(&watched.at("")).unwrap();
    assert_eq!(watched.left(), map(&[("live", "→ b"), ("one/link", "old")]));
    let left = temporary_directory();
    watched.power.left(watched.power.steps(), None, &BTreeSet::new()).make(left.path());
    let inode = |name: &str| fs::metadata(left.path().join(name)).unwrap().ino();
    assert_eq!(inode("old"), inode("one/link"));
}

#[test]
fn a_sync_that_did_nothing() {
    let watched = Watched::new();
    watched.write("new", "new", true).unwrap();
    watched.disk.sync_directory(&watched.at("")).unwrap();
    watched.disk.sync_file_system(&watched.at("")).unwrap();
    let syncs = watched.power.syncs();
    assert_eq!(watched.power.durable_steps(), syncs.iter().map(|(index, _)| index + 1).collect::<Vec<_>>());
    let words: Vec<_> = syncs.iter().map(|(_, word)| word.as_str()).collect();
    assert_eq!(words, ["file new", "directory  after new bytes", "file system after new bytes"]);
    for (number, what) in [(0, Some("")), (1, None)] {
        let left = temporary_directory();
        watched.power.left(syncs[1].0 + 1, None, &BTreeSet::from([syncs[number].0])).make(left.path());
        assert_eq!(found(left.path()).get("new").map(String::as_str), what);
    }
}

/// Beside it is what SQLite wrote until its last commit, if its directory is there.
#[test]
fn the_catalog_is_what_was_committed() {
    let watched = Watched::new();
    let catalog = watched.at("new/catalog.db");
    watched.disk.create_directory(&watched.at("new")).unwrap();
    fs::write(&catalog, "committed").unwrap();
    watched.disk.commit_point(&catalog).unwrap();
    watched.disk.commit_done(&catalog).unwrap();
    fs::write(&catalog, "not yet").unwrap();
    assert_eq!(watched.left(), map(&[]));
    watched.disk.sync_directory(&watched.at("")).unwrap();
    assert_eq!(watched.left(), map(&[("new", "/"), ("new/catalog.db", "committed")]));
    watched.power.catch_up(&catalog);
    assert_eq!(watched.left(), map(&[("new", "/"), ("new/catalog.db", "not yet")]));
}

/// With the power on, the model is the disk.
#[test]
fn the_model_is_the_disk() {
    let watched = Watched::new();
    let disk = &watched.disk;
    for (name, bytes) in [("a", "one"), ("b", "two"), ("c", "three")] {
        watched.write(name, bytes, false).unwrap();
    }
    disk.rename(&watched.at("a"), &watched.at("b")).unwrap();
    assert!(!disk.rename_new(&watched.at("c"), &watched.at("b")).unwrap());
    assert!(disk.rename_new(&watched.at("c"), &watched.at("one/c")).unwrap());
    disk.link_or_copy(&watched.at("b"), &watched.at("one/b")).unwrap();
    disk.switch_link(&watched.at("one/live"), Path::new("c")).unwrap();
    assert!(!disk.remove_empty_directory(&watched.at("one")).unwrap());
    assert!(disk.remove_empty_directory(&watched.at("one/two")).unwrap());
    assert!(disk.remove_file(&watched.at("old")).unwrap());
    assert!(!disk.remove_file(&watched.at("old")).unwrap());
    let left = temporary_directory();
    watched.power.on().make(left.path());
    assert_eq!(found(left.path()), found(watched.directory.path()));
}
