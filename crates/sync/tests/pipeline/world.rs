//! A mirror of a scripted upstream.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use strandline_durable::Disk;
use strandline_model::{DisplayName, Formats, Leaf, MirrorName, ProjectName, Timestamp};
use strandline_store::{Locked, Mirror, Recorded, Store, Wait};
use strandline_sync::{Context, Method, Outcome as Synced, Progress, Selection, Settings, SyncError};
use strandline_testkit::Plain;
use tempfile::TempDir;

use crate::copy::copy_tree;
use crate::script::{Script, name};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// A store in a directory of its own.
#[derive(Debug)]
pub(crate) struct World {
    directory: TempDir,
}

/// How pages and lists are written.
pub(crate) const FORMAT: Plain = Plain::ONE_LIST;

/// The same for all mirrors of a store.
pub(crate) fn formats() -> Formats {
    Formats::usual(Arc::new(FORMAT))
}

pub(crate) fn mirror() -> MirrorName {
    "pypi".parse().unwrap()
}

/// The time of every sync, unless a test says otherwise.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_seconds(1_767_268_800).unwrap()
}

/// A mirror of a store, which was locked before.
pub(crate) fn known(store: &Arc<Store>, name: &MirrorName) -> Mirror {
    store.mirror(name).unwrap().unwrap()
}

/// The mirror of a store, with the right to change it.
pub(crate) fn lock(store: &Arc<Store>) -> Locked {
    store.lock(&mirror(), Wait::Never, now()).unwrap()
}

/// One request at a time, so that everything has its order; pauses that nobody notices; patience that does not end.
pub(crate) fn settings(projects: &[&str]) -> Settings {
    let names = projects.iter().map(|name| name.parse::<DisplayName>().unwrap());
    Settings {
        connections: 1,
        drain: Duration::ZERO,
        backoff: Duration::from_micros(10),
        cut_timeout: Duration::from_secs(3600),
        part_after: Duration::from_secs(3600),
        method: Some(Method::Collect),
        ..Settings::new(mirror(), Selection::of(names))
    }
}

/// The same without any patience.
pub(crate) fn impatient(projects: &[&str]) -> Settings {
    Settings { cut_timeout: Duration::ZERO, ..settings(projects) }
}

pub(crate) fn context(store: &Arc<Store>, script: &Arc<Script>, settings: &Settings, time: Timestamp) -> Context {
    Context {
        store: Arc::clone(store),
        upstream: script.clone(),
        format: Arc::new(FORMAT),
        settings: Arc::new(settings.clone()),
        clock: Arc::new(move || time),
        progress: Arc::new(Progress::default()),
    }
}

/// One sync of a store that is open.
pub(crate) fn sync_store(store: &Arc<Store>, script: &Arc<Script>, settings: &Settings) -> Result<Synced, SyncError> {
    sync_store_at(store, script, settings, now())
}

/// The same at a certain time.
pub(crate) fn sync_store_at(
    store: &Arc<Store>,
    script: &Arc<Script>,
    settings: &Settings,
    time: Timestamp,
) -> Result<Synced, SyncError> {
    let context = context(store, script, settings, time);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(strandline_sync::sync(&context))
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

    pub(crate) fn open(&self) -> Arc<Store> {
        self.open_on(Disk::new()).unwrap()
    }

    /// Opens the store and finishes what a crash left, as the program does.
    pub(crate) fn open_on(&self, disk: Disk) -> Outcome<Arc<Store>> {
        let store = Store::open(&self.root(), disk)?;
        store.finish()?;
        Ok(store)
    }

    /// The mirror, which was locked before.
    pub(crate) fn mirror(&self) -> Mirror {
        known(&self.open(), &mirror())
    }

    /// The same store once more. Nobody has it open.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::new();
        if self.root().exists() {
            copy_tree(&self.root(), &copy.root(), &mut HashMap::new()).unwrap();
        }
        copy
    }

    pub(crate) fn sync(&self, script: &Arc<Script>, settings: &Settings) -> Result<Synced, SyncError> {
        sync_store(&self.open(), script, settings)
    }

    /// All snapshots, the newest first, as their labels.
    pub(crate) fn labels(&self) -> Vec<String> {
        self.mirror().snapshots().unwrap().iter().map(|recorded| recorded.snapshot.label.to_string()).collect()
    }

    pub(crate) fn latest(&self) -> Recorded {
        self.mirror().latest_verified().unwrap().unwrap()
    }

    pub(crate) fn leaf(&self, project: &str) -> Option<Leaf> {
        self.open().find(&self.latest().snapshot, &name(project)).unwrap()
    }

    /// What readers see at a path, if there is something.
    pub(crate) fn served(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.root().join("views/pypi/live").join(path)).ok()?;
        Some(String::from_utf8(bytes).unwrap())
    }

    /// The list of all projects that readers see.
    pub(crate) fn list(&self) -> String {
        let list = self.served("simple/index.html").unwrap_or_default();
        list.strip_prefix("html ").unwrap_or_default().to_owned()
    }

    /// The version that readers see of a project.
    pub(crate) fn version(&self, project: &str) -> Option<String> {
        Some(self.served(&format!("simple/{project}/index.v1_json"))?.lines().nth(2)?.to_owned())
    }

    /// How many temporary files there are.
    pub(crate) fn incoming(&self) -> usize {
        let files = |directory: PathBuf| fs::read_dir(directory).map_or(0, Iterator::count);
        files(self.root().join("incoming/pypi"))
    }
}

/// The projects that stood in the way, with why.
pub(crate) fn in_the_way(result: Result<Synced, SyncError>) -> BTreeMap<ProjectName, String> {
    match result {
        Err(SyncError::Inconsistent { in_the_way, .. }) => in_the_way.into_iter().collect(),
        other => unreachable!("{other:?}"),
    }
}
