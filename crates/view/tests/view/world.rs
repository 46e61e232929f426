//! A small mirror whose states are written down by hand.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_durable::Disk;
use strandline_model::{Blake3, DisplayName, Entry, Format, MirrorName, Serial, Timestamp, TreePath, Unit};
use strandline_store::{Access, Draft, DraftUnit, Intake, Locked, Mirror, Recorded, Store, Verified, Wait};
use strandline_testkit::Plain;
use strandline_view::Published;
use tempfile::TempDir;

use crate::copy::copy_tree;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// A project's paths and their bytes.
pub(crate) type Content = BTreeMap<String, Vec<u8>>;

/// All projects of a mirror, by the names that their owners write.
pub(crate) type State = BTreeMap<String, Content>;

/// A store in a directory of its own.
#[derive(Debug)]
pub(crate) struct World {
    directory: TempDir,
}

/// How pages and lists are written.
pub(crate) const FORMAT: Plain = Plain::WHOLE;

pub(crate) fn path(text: &str) -> TreePath {
    text.parse().unwrap()
}

pub(crate) fn mirror() -> MirrorName {
    "pypi".parse().unwrap()
}

pub(crate) fn serial(number: u64) -> Serial {
    number.try_into().unwrap()
}

/// A time that is later for a greater serial.
pub(crate) fn time(serial: u64) -> Timestamp {
    Timestamp::from_seconds(1_767_268_800 + 3600 * i64::try_from(serial).unwrap()).unwrap()
}

/// A project's three pages, and its files at paths that their bytes decide. The page in HTML is there twice.
pub(crate) fn project(name: &str, text: &str, files: &[(&str, &str)]) -> (String, Content) {
    let display: DisplayName = name.parse().unwrap();
    let normal = display.normalise();
    let mut content = Content::new();
    for (ending, form) in [("v1_json", "json"), ("v1_html", "html"), ("html", "html")] {
        content.insert(format!("simple/{normal}/index.{ending}"), format!("{form} {name} {text}").into_bytes());
    }
    for (file, bytes) in files {
        let digest = Blake3::of(bytes.as_bytes()).to_string();
        let path = format!("packages/{}/{}/{}/{file}", &digest[..2], &digest[2..4], &digest[4..16]);
        content.insert(path, bytes.as_bytes().to_vec());
    }
    (name.to_owned(), content)
}

pub(crate) fn state(projects: &[(&str, &str, &[(&str, &str)])]) -> State {
    projects.iter().map(|(name, text, files)| project(name, text, files)).collect()
}

impl World {
    /// In memory where that can be had: the enumerations sync thousands of times, and no test loses power.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Self { directory }
    }

    /// The directory in which the store is, or will be.
    pub(crate) fn top(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    pub(crate) fn view(&self) -> PathBuf {
        self.root().join("views/pypi")
    }

    pub(crate) fn open(&self) -> Arc<Store> {
        self.open_on(Disk::new()).unwrap()
    }

    pub(crate) fn open_on(&self, disk: Disk) -> Outcome<Arc<Store>> {
        let store = Store::open(&self.root(), disk)?;
        store.finish()?;
        Ok(store)
    }

    /// The same store once more: hard links, symbolic links and times of modification as they are. Nobody has it open.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::new();
        if self.root().exists() {
            copy_tree(&self.root(), &copy.root(), &mut HashMap::new()).unwrap();
        }
        copy
    }
}

/// The mirror of a store, as it reads.
pub(crate) fn of(store: &Arc<Store>) -> Mirror {
    store.mirror(&mirror()).unwrap().unwrap()
}

/// The mirror of a store, to be changed.
pub(crate) fn lock(store: &Arc<Store>) -> Outcome<Locked> {
    Ok(store.lock(&mirror(), Wait::Never, time(0))?)
}

/// Stores what is new of `state` and commits it as the next snapshot after `base`, unverified.
pub(crate) fn commit(
    mirror: &Locked,
    format: &dyn Format,
    number: u64,
    state: &State,
) -> Outcome<strandline_store::Committed> {
    let (store, intake) = (mirror.store(), Intake::open(mirror, Access::Public)?);
    let base: Option<Recorded> = mirror.latest_verified()?;
    let mut changes = BTreeMap::new();
    for leaf in base.iter().map(|base| store.leaves(&base.snapshot)).collect::<Result<Vec<_>, _>>()?.concat() {
        changes.insert(leaf.name, None);
    }
    for (name, content) in state {
        let display: DisplayName = name.parse()?;
        let staged = content.values().map(|bytes| intake.stage(bytes)).collect::<Result<_, _>>()?;
        let entries: Vec<Entry> =
            intake.land(staged)?.iter().zip(content.keys()).map(|(blob, at)| blob.at(path(at))).collect();
        let unit = Unit::new(display.normalise(), entries)?;
        let before = base.as_ref().map(|base| store.find(&base.snapshot, &display.normalise())).transpose()?.flatten();
        match before {
            Some(leaf) if leaf.unit == Blake3::of(&unit.to_bytes()) => {
                changes.remove(&leaf.name);
            }
            _ => {
                changes.insert(display.normalise(), Some(DraftUnit { unit, serial: serial(number), display }));
            }
        }
    }
    let draft = Draft {
        base,
        serial: serial(number),
        time: time(number),
        upstream: "https://index.example/simple/".parse()?,
        selection: Blake3::of(b"selection"),
        changes,
        held: Vec::new(),
        missing: None,
        conclusion: None,
        stored: Vec::new(),
    };
    Ok(mirror.commit(draft, |serial, leaves| strandline_view::root_lists(format, serial, leaves))?)
}

/// Records a state as a verified snapshot.
pub(crate) fn record(store: &Arc<Store>, number: u64, state: &State) -> Outcome<Verified> {
    let mirror = lock(store)?;
    Ok(mirror.verify(commit(&mirror, &FORMAT, number, state)?)?)
}

/// Publishes the newest retained snapshot of a serial, as a sync does (`frozen` false) or a rollback (true).
pub(crate) fn publish(store: &Arc<Store>, number: u64, frozen: bool) -> Outcome<Published> {
    let mirror = lock(store)?;
    let recorded = mirror.at_serial(serial(number))?.ok_or("no such snapshot")?;
    let verified = mirror.verified(recorded, None)?;
    Ok(strandline_view::publish(&mirror, &verified, &FORMAT, frozen, time(number))?)
}

/// Records and publishes.
pub(crate) fn sync(store: &Arc<Store>, number: u64, state: &State) -> Outcome<Published> {
    record(store, number, state)?;
    publish(store, number, false)
}

/// Brings the standby to what readers see, as a sync does while it fetches.
pub(crate) fn catch_up(store: &Arc<Store>) -> Outcome<()> {
    Ok(strandline_view::catch_up(&lock(store)?)?)
}

/// The files that readers see below `simple/`, with their bytes.
pub(crate) fn served(world: &World) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    gather(&world.view().join("live/simple"), "simple", &mut found).unwrap();
    found
}

fn gather(directory: &Path, name: &str, found: &mut BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    for child in fs::read_dir(directory)? {
        let child = child?;
        let name = format!("{name}/{}", child.file_name().to_string_lossy());
        if child.file_type()?.is_dir() {
            gather(&child.path(), &name, found)?;
        } else {
            found.insert(name, fs::read(child.path())?);
        }
    }
    Ok(())
}

/// What readers should see below `simple/`, if the projects changed at these serials.
pub(crate) fn expected(number: u64, state: &State, serials: &[(&str, u64)]) -> BTreeMap<String, Vec<u8>> {
    let serials: BTreeMap<_, _> = serials.iter().copied().collect();
    let mut names: Vec<(strandline_model::ProjectName, &String)> =
        state.keys().map(|name| (name.parse::<DisplayName>().unwrap().normalise(), name)).collect();
    names.sort();
    let all: Vec<_> = names.iter().map(|(_, name)| format!(" {name}:{}", serials[name.as_str()])).collect();
    let all = all.concat();
    let lists = [("index.html", "html"), ("index.v1_html", "html"), ("index.v1_json", "json")];
    let lists = lists.map(|(file, form)| (format!("simple/{file}"), format!("{form} {number}{all}").into_bytes()));
    let pages = state.values().flatten().filter(|(path, _)| path.starts_with("simple/"));
    pages.map(|(path, bytes)| (path.clone(), bytes.clone())).chain(lists).collect()
}
