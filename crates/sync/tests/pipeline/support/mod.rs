//! A mirror of a scripted upstream.

pub(crate) mod script;
pub(crate) mod whole_sync;
pub(crate) mod withdrawal;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use strandline_faultkit::{World, mirror, now};
use strandline_model::{DisplayName, Formats, Leaf, ProjectName, Timestamp};
use strandline_store::verify::{self, Data};
use strandline_store::{Locked, Store, Verified};
use strandline_sync::{Context, Method, Outcome as Synced, Progress, Selection, Settings, SyncError};
use strandline_testkit::Plain;
use strandline_view::{Freeze, Publisher};

use self::script::{Script, name};

/// How pages and lists are written.
pub(crate) const FORMAT: Plain = Plain::ONE_LIST;

/// The same for all mirrors of a store.
pub(crate) fn formats() -> Formats {
    Formats::usual(Arc::new(FORMAT))
}

/// One request at a time, so that everything has its order; pauses of almost no time; patience that does not end.
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

/// A world as it is synced and read.
pub(crate) trait Syncs {
    /// Opens the store and syncs it once.
    fn sync(&self, script: &Arc<Script>, settings: &Settings) -> Result<Synced, SyncError>;

    /// What the newest verified snapshot says of a project.
    fn leaf(&self, project: &str) -> Option<Leaf>;

    /// The list of all projects that readers see.
    fn list(&self) -> String;

    /// The version that readers see of a project.
    fn version(&self, project: &str) -> Option<String>;
}

impl Syncs for World {
    fn sync(&self, script: &Arc<Script>, settings: &Settings) -> Result<Synced, SyncError> {
        sync_store(&self.open(), script, settings)
    }

    fn leaf(&self, project: &str) -> Option<Leaf> {
        self.open().find(&self.latest().snapshot, &name(project)).unwrap()
    }

    fn list(&self) -> String {
        let list = self.served("simple/index.html").unwrap_or_default();
        list.strip_prefix("html ").unwrap_or_default().to_owned()
    }

    fn version(&self, project: &str) -> Option<String> {
        Some(self.served(&format!("simple/{project}/index.v1_json"))?.lines().nth(2)?.to_owned())
    }
}

/// The projects that stood in the way, with why.
pub(crate) fn in_the_way(result: Result<Synced, SyncError>) -> BTreeMap<ProjectName, String> {
    match result {
        Err(SyncError::Inconsistent { in_the_way, .. }) => in_the_way.into_iter().collect(),
        other => unreachable!("{other:?}"),
    }
}

/// Shows readers a snapshot, as a rollback does ([`Freeze::Set`]) or as its end does.
pub(crate) fn publish(locked: &Locked, verified: Verified, freeze: Freeze, time: Timestamp) {
    let publisher = Publisher::new(Arc::new(FORMAT), Duration::ZERO, Arc::new(move || time));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(publisher.publish(locked, &publisher.seal(verified), freeze)).unwrap();
}

/// What is damaged of all mirrors of a store, with all data read.
pub(crate) fn damage(store: &Arc<Store>) -> Vec<verify::Damage> {
    verify::verify(store, &store.mirrors().unwrap(), Some(&Data::default()), &|_| {}).unwrap().damage
}
