//! The world that is made up: a sync of it is the same every time, and what is measured in it holds at any size.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strandline_bench::{ScaleWorld, bare, catalog};
use strandline_durable::{Disk, Step, Watch};
use strandline_model::{Blake3, ListedProject, MirrorName, Timestamp};
use strandline_pypi::Pypi;
use strandline_store::verify::verify;
use strandline_store::{Mirror, Store, gc};
use strandline_sync::{Context, Method, Outcome, Progress, Selection, Settings};

const PROJECTS: u64 = 60;

type Done<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Syncs the store to the world after `events` events; returns what it did, and how many files were fetched.
fn sync(directory: &Path, events: u64, park_every: usize) -> Done<(Outcome, u64)> {
    sync_store(Store::open(directory, Disk::new())?, events, park_every)
}

/// The same for a store that is open.
fn sync_store(store: Arc<Store>, events: u64, park_every: usize) -> Done<(Outcome, u64)> {
    let mirror: MirrorName = "pypi".parse()?;
    let settings = Settings {
        method: Some(Method::Changelog),
        drain: Duration::ZERO,
        park_every,
        ..Settings::new(mirror, Selection::Everything)
    };
    let world = ScaleWorld::new("http://127.0.0.1:9/simple/".parse()?, PROJECTS, 2, 100, events)?;
    let progress = Arc::new(Progress::default());
    let now = Timestamp::from_seconds(1_777_777_777)?;
    let context = Context {
        store,
        upstream: Arc::new(world),
        format: Arc::new(Pypi),
        settings: Arc::new(settings),
        clock: Arc::new(move || now),
        progress: progress.clone(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(strandline_sync::sync(&context))?;
    Ok((outcome, progress.files_done.load(Ordering::Relaxed)))
}

/// The mirror of a store that was synced.
fn pypi(store: &Arc<Store>) -> Done<Mirror> {
    Ok(store.mirror(&"pypi".parse()?)?.ok_or("no mirror")?)
}

fn tree(directory: &Path) -> Done<Blake3> {
    let store = Store::open(directory, Disk::new())?;
    Ok(pypi(&store)?.latest_verified()?.ok_or("no snapshot")?.snapshot.tree)
}

fn served(directory: &Path, path: &str) -> Done<String> {
    Ok(std::fs::read_to_string(directory.join("views/pypi/live").join(path))?)
}

#[test]
fn projects_that_are_set_aside_are_as_if_they_had_not_been() -> Done<()> {
    let (parts, whole) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let (outcome, files) = sync(parts.path(), 7, 4)?;
    assert_eq!((outcome.projects, outcome.changed, files), (PROJECTS, 60, 2 * PROJECTS + 7));
    sync(whole.path(), 7, 1_000)?;
    assert_eq!(tree(parts.path())?, tree(whole.path())?);
    for path in ["simple/index.html", "simple/index.v1_json", "simple/project-0000059/index.v1_json"] {
        assert_eq!(served(parts.path(), path)?, served(whole.path(), path)?);
    }
    Ok(())
}

#[test]
fn a_sync_writes_for_what_changed() -> Done<()> {
    let directory = tempfile::tempdir()?;
    sync(directory.path(), 0, 16)?;
    let (outcome, files) = sync(directory.path(), 3, 16)?;
    // Two of the three events are of one project.
    assert_eq!((outcome.changed, files), (2, 3));
    // The lists are those of the tree, which a store that has lost its index of them reads anew.
    let store = Store::open(directory.path(), Disk::new())?;
    let mirror = pypi(&store)?;
    let snapshot = mirror.latest_verified()?.ok_or("no snapshot")?.snapshot;
    let leaves = store.leaves(&snapshot)?;
    assert_eq!(mirror.listed(&snapshot)?, leaves.into_iter().filter_map(ListedProject::of).collect::<Vec<_>>());
    let (again, files) = sync(directory.path(), 3, 16)?;
    assert_eq!((again.changed, files, again.before), (0, 0, Some(again.label)));
    Ok(())
}

/// Another program that writes much into the catalog's log when the first blob gets its name, and how long the catalog's own file
/// is then and when the view is switched.
#[derive(Debug)]
struct Log {
    catalog: PathBuf,
    lengths: Mutex<Vec<u64>>,
}

impl Watch for Log {
    fn done(&self, step: Step<'_>) {
        let mut lengths = self.lengths.lock().expect("nobody panics with it");
        let length = || fs::metadata(&self.catalog).expect("the catalog is there").len();
        match step {
            Step::RenameNew { .. } if lengths.is_empty() => {
                let sql = rusqlite::Connection::open(&self.catalog).expect("it is a catalog");
                let much = "PRAGMA wal_autocheckpoint = 0; CREATE TABLE much (bytes BLOB);
                            INSERT INTO much VALUES (zeroblob(8000000))";
                sql.execute_batch(much).expect("nobody else writes now");
                lengths.push(length());
            }
            Step::Rename { to, .. } if to.ends_with("live") => lengths.push(length()),
            _ => {}
        }
    }
}

#[test]
fn what_a_sync_commits_is_copied_out_of_the_log_after_its_switch() -> Done<()> {
    let directory = tempfile::tempdir()?;
    sync(directory.path(), 0, 16)?;
    let catalog = directory.path().join("catalog.db");
    let log = Arc::new(Log { catalog: catalog.clone(), lengths: Mutex::default() });
    let store = Store::open(directory.path(), Disk::new().watched_by(log.clone()))?;
    sync_store(Arc::clone(&store), 3, 16)?;
    let lengths = log.lengths.lock().expect("nobody panics with it").clone();
    let [fetched, switching] = lengths[..] else { return Err(format!("{lengths:?}").into()) };
    assert_eq!(switching, fetched, "no commit before the switch copies it");
    assert!(fs::metadata(catalog)?.len() > switching, "one after it does");
    // Whoever closes the catalog last copies it, too.
    drop(store);
    Ok(())
}

#[test]
fn a_catalog_alone_is_enough_for_gc() -> Done<()> {
    let directory = tempfile::tempdir()?;
    catalog::fill(directory.path(), 50, 4)?;
    let store = Store::open(directory.path(), Disk::new())?;
    let now = Timestamp::from_seconds(1_777_777_777)?;
    let plan = gc::plan(&store, |_| gc::Keep::default(), Duration::ZERO, now)?;
    assert_eq!(plan.outcome(), gc::Collected::default());
    Ok(())
}

#[test]
fn a_catalog_alone_is_enough_for_a_check_that_expects_no_files() -> Done<()> {
    let directory = tempfile::tempdir()?;
    catalog::fill(directory.path(), 50, 4)?;
    let damage = || -> Done<usize> {
        let store = Store::open(directory.path(), Disk::new())?;
        Ok(verify(&store, &[pypi(&store)?], None, &|_| {})?.damage.len())
    };
    assert_eq!(damage()?, 200, "each file is missed");
    catalog::expect_no_files(directory.path())?;
    assert_eq!(damage()?, 0);
    Ok(())
}

#[test]
fn the_bare_program_leaves_nothing() -> Done<()> {
    let directory = tempfile::tempdir()?;
    let place = directory.path().join("bare");
    bare::publish(&place, 3, 100)?;
    assert!(!place.exists());
    Ok(())
}
