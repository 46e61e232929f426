//! A store that stays open, and snapshots made from maps.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use rusqlite::Connection;
use strandline_faultkit::{World, draft, draft_unit};
use strandline_model::{DisplayName, Entry, MirrorName, ProjectName, Serial, Timestamp};
use strandline_store::verify::{Data, Report};
use strandline_store::{Access, Blob, Committed, Draft, Intake, Locked, Mirror, Recorded, Store, Verified, Wait};

/// A project's paths and their bytes.
pub(crate) type Content = BTreeMap<String, Vec<u8>>;

/// A world whose store stays open until [`close`](Self::close).
pub(crate) struct Opened {
    world: World,
    pub(crate) store: Arc<Store>,
}

impl Deref for Opened {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

pub(crate) fn mirror(name: &str) -> MirrorName {
    name.parse().unwrap()
}

pub(crate) fn project(name: &str) -> ProjectName {
    name.parse().unwrap()
}

pub(crate) fn serial(number: u64) -> Serial {
    number.try_into().unwrap()
}

pub(crate) fn time(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(1_767_268_800 + seconds).unwrap()
}

/// Pages of a text, and files at paths of their own.
pub(crate) fn content(name: &str, text: &str, files: &[&str]) -> Content {
    let page = (format!("simple/{name}/index.html"), format!("page of {name}: {text}").into_bytes());
    let files = files.iter().map(|file| (format!("packages/00/11/{file}"), format!("bytes of {file}").into_bytes()));
    files.chain([page]).collect()
}

impl Opened {
    pub(crate) fn new() -> Self {
        let world = World::new();
        let store = world.open();
        Self { world, store }
    }

    /// Closes the store.
    pub(crate) fn close(self) -> World {
        self.world
    }

    /// The catalog, past everything that the program promises.
    pub(crate) fn sql(&self) -> Connection {
        Connection::open(self.root().join("catalog.db")).unwrap()
    }

    pub(crate) fn lock(&self, name: &str) -> Locked {
        self.store.lock(&mirror(name), Wait::Never, time(0)).unwrap()
    }

    /// A mirror that was locked before.
    pub(crate) fn mirror(&self, name: &str) -> Mirror {
        self.store.mirror(&mirror(name)).unwrap().unwrap()
    }

    pub(crate) fn intake(&self, name: &str) -> Intake {
        Intake::open(&self.lock(name), Access::Public).unwrap()
    }

    pub(crate) fn ingest(&self, bytes: &[u8]) -> Blob {
        let intake = self.intake("pypi");
        let staged = intake.stage(bytes).unwrap();
        intake.land(vec![staged]).unwrap()[0]
    }

    /// A draft on the newest verified snapshot. Each project's serial is the draft's.
    pub(crate) fn draft(&self, name: &str, number: u64, changes: &[(&str, Option<Content>)]) -> Draft {
        self.draft_on(&self.intake(name), name, number, changes)
    }

    /// The same, of what comes in through an intake that is open.
    pub(crate) fn draft_on(
        &self,
        intake: &Intake,
        name: &str,
        number: u64,
        changes: &[(&str, Option<Content>)],
    ) -> Draft {
        let mut units = BTreeMap::new();
        for (display, content) in changes {
            let display: DisplayName = display.parse().unwrap();
            let unit = content.as_ref().map(|content| {
                let staged = content.values().map(|bytes| intake.stage(bytes).unwrap()).collect();
                let blobs = intake.land(staged).unwrap();
                let entries = blobs.iter().zip(content.keys()).map(|(blob, path)| blob.at(path.parse().unwrap()));
                draft_unit(display.clone(), serial(number), entries.collect())
            });
            units.insert(display.normalise(), unit);
        }
        let base = self.mirror(name).latest_verified().unwrap();
        draft(base, serial(number), time(i64::try_from(number).unwrap()), units)
    }

    /// A draft of one project that is made already.
    pub(crate) fn draft_of(&self, name: &str, number: u64, display: &str, entries: Vec<Entry>) -> Draft {
        let display: DisplayName = display.parse().unwrap();
        let unit = draft_unit(display.clone(), serial(number), entries);
        let changes = BTreeMap::from([(display.normalise(), Some(unit))]);
        Draft { changes, ..self.draft_on(&self.intake("nobody"), name, number, &[]) }
    }

    pub(crate) fn commit(&self, name: &str, draft: Draft) -> Committed {
        self.lock(name).commit(draft, |_, _| Vec::new()).unwrap()
    }

    /// Commits and verifies.
    pub(crate) fn record(&self, name: &str, number: u64, changes: &[(&str, Option<Content>)]) -> Verified {
        let committed = self.commit(name, self.draft(name, number, changes));
        self.lock(name).verify(committed).unwrap()
    }

    pub(crate) fn labels(&self, name: &str) -> Vec<String> {
        self.snapshots(name).iter().map(|recorded| recorded.snapshot.label.to_string()).collect()
    }

    pub(crate) fn snapshots(&self, name: &str) -> Vec<Recorded> {
        self.store.mirror(&mirror(name)).unwrap().map_or_else(Vec::new, |mirror| mirror.snapshots().unwrap())
    }

    /// Checks all mirrors, and the data of all blobs if it is asked for.
    pub(crate) fn verify(&self, data: Option<&Data<'_>>) -> Report {
        strandline_store::verify::verify(&self.store, &self.store.mirrors().unwrap(), data, &|_| {}).unwrap()
    }
}
