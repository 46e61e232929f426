//! A small mirror whose states are written down by hand, and the view's functions on it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use strandline_faultkit::{Outcome, World, draft, draft_unit, lock};
use strandline_model::{Blake3, DisplayName, Entry, Format, Serial, Timestamp, TreePath};
use strandline_store::{Access, Intake, Locked, Recorded, Slot, Store, Verified};
use strandline_testkit::Plain;
use strandline_view::{Freeze, Publisher};

/// A project's paths and their bytes.
pub(crate) type Content = BTreeMap<String, Vec<u8>>;

/// All projects of a mirror, by the names that their owners write.
pub(crate) type State = BTreeMap<String, Content>;

/// How pages and lists are written.
pub(crate) const FORMAT: Plain = Plain::WHOLE;

pub(crate) fn path(text: &str) -> TreePath {
    text.parse().unwrap()
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
        let unit = draft_unit(display.clone(), serial(number), entries);
        let shown = unit.unit.as_ref().expect("it shows entries");
        let before = base.as_ref().map(|base| store.find(&base.snapshot, &display.normalise())).transpose()?.flatten();
        match before {
            // The same pages and files: it stays at its serial.
            Some(leaf)
                if leaf.unit.is_some_and(|id| store.unit(id).is_ok_and(|old| old.entries() == shown.entries())) =>
            {
                changes.remove(&leaf.name);
            }
            _ => {
                changes.insert(display.normalise(), Some(unit));
            }
        }
    }
    let draft = draft(base, serial(number), time(number), changes);
    Ok(mirror.commit(draft, |serial, projects| strandline_view::root_lists(format, serial, projects))?)
}

/// Records a state as a verified snapshot.
pub(crate) fn record(store: &Arc<Store>, number: u64, state: &State) -> Outcome<Verified> {
    let mirror = lock(store)?;
    Ok(mirror.verify(commit(&mirror, &FORMAT, number, state)?)?)
}

/// A publisher of mirrors of this format that never waits for readers, at a time.
pub(crate) fn publisher(format: Arc<dyn Format>, now: Timestamp) -> Publisher {
    Publisher::new(format, Duration::ZERO, Arc::new(move || now))
}

/// Waits for what is done, on a clock that moves whenever there is nothing else to do.
pub(crate) fn wait_for<T>(done: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(done)
}

/// Publishes the newest retained snapshot of a serial, as a sync does ([`Freeze::Lift`]: as one does where no operator
/// went back) or a rollback ([`Freeze::Set`]).
pub(crate) fn publish(store: &Arc<Store>, number: u64, freeze: Freeze) -> Outcome<(Slot, usize)> {
    let mirror = lock(store)?;
    let recorded = mirror.at_serial(serial(number))?.ok_or("no such snapshot")?;
    let verified = mirror.verified(recorded, None)?;
    publish_with(&mirror, verified, Arc::new(FORMAT), freeze, time(number))
}

/// Publishes a snapshot whose lists are written so; returns the tree that is live now, and how many projects it needed to have
/// changed.
pub(crate) fn publish_with(
    mirror: &Locked,
    verified: Verified,
    format: Arc<dyn Format>,
    freeze: Freeze,
    now: Timestamp,
) -> Outcome<(Slot, usize)> {
    let publisher = publisher(format, now);
    let sealed = publisher.seal(verified);
    let published = wait_for(publisher.publish(mirror, &sealed, freeze))?;
    Ok(published.map(|published| (published.slot(), published.projects())).ok_or("an operator went back")?)
}

/// Records and publishes.
pub(crate) fn sync(store: &Arc<Store>, number: u64, state: &State) -> Outcome<(Slot, usize)> {
    record(store, number, state)?;
    publish(store, number, Freeze::Lift)
}

/// Brings the standby to what readers see, as a sync does while it fetches.
pub(crate) fn catch_up(store: &Arc<Store>) -> Outcome<()> {
    Ok(publisher(Arc::new(FORMAT), time(0)).catch_up(&lock(store)?)?)
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
