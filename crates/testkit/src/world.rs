//! The index itself: one log of events, and the state of every project at any serial or moment.
//!
//! A [`World`] does no I/O and reads no clock. Its rows are kept in the order they were written; the state of a project
//! is always those rows of it that count, applied in that order, so nothing can disagree with the log. What
//! [`World::state`] keeps up to date row by row is checked against [`World::state_at`] in `tests/world.rs`.
//!
//! Every method that changes something is one transaction: its rows become visible together. It returns the serial of
//! the last row written (for what is not journaled: the serial that stands).

mod changes;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::project::{Change, EventKind, Project, ProjectState, Status, StoredFile, apply, normalise};
use crate::rng::Rng;
use crate::wheel::Upload;

/// The moment a new world starts at, in milliseconds: 2023-11-14T22:13:20Z.
pub const START_MS: u64 = 1_700_000_000_000;

/// How long a page is shown before it is rendered anew, whether or not it was purged: as Warehouse's edge keeps it.
const PAGE_AGE_MS: u64 = 24 * 60 * 60 * 1000;

/// One journaled row, as the changelog gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its serial.
    pub serial: u64,
    /// The project's display name at that time.
    pub name: String,
    /// The release it is about, if it is about one.
    pub version: Option<String>,
    /// When it happened, in milliseconds of Unix time.
    pub at_ms: u64,
    /// When others could first see it, on pages and in the log.
    pub visible_ms: u64,
    /// What happened, in Warehouse's words.
    pub action: String,
    /// The same without words.
    pub kind: EventKind,
}

#[derive(Clone, Debug)]
struct Row {
    event: Event,
    /// The project's normalised name.
    project: String,
    journaled: bool,
    change: Change,
}

/// Whether a file replaced in place keeps its URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplacedUrl {
    /// The old URL now gives the new bytes.
    Same,
    /// The new bytes get a URL of their own, and the old one keeps the old bytes.
    New,
}

/// A release, and a second project's release that requires exactly it, uploaded directly after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The project that is required (normalised).
    pub base: String,
    /// The project that requires it (normalised).
    pub dependent: String,
    /// The version of both releases.
    pub version: String,
    /// The serial at which the required file is there.
    pub base_serial: u64,
    /// The serial at which the requiring file is there.
    pub dependent_serial: u64,
}

#[derive(Debug)]
struct Late {
    chance: f64,
    delay_ms: u64,
    rng: Rng,
}

/// An index and its history. See the module's documentation.
#[derive(Debug)]
pub struct World {
    rows: Vec<Row>,
    by_project: BTreeMap<String, Vec<usize>>,
    current: BTreeMap<String, Project>,
    /// Every file ever stored, by URL path; deleting a file does not delete it here.
    stored: HashMap<String, Arc<StoredFile>>,
    pairs: Vec<Pair>,
    serial: u64,
    now_ms: u64,
    tick_ms: u64,
    page_age_ms: u64,
    /// From this moment on all rows are visible.
    all_visible_ms: u64,
    holes: Option<(f64, Rng)>,
    late: Option<Late>,
    delay_next_ms: u64,
    /// Where the files moved to, and when.
    file_hosts: Vec<(u64, String)>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An empty index at serial 0. Its time starts at [`START_MS`] and moves by one second with each transaction, until
    /// an `Upstream` takes it over and gives it its clock.
    pub fn new() -> Self {
        Self {
            rows: Vec::new(),
            by_project: BTreeMap::new(),
            current: BTreeMap::new(),
            stored: HashMap::new(),
            pairs: Vec::new(),
            serial: 0,
            now_ms: START_MS,
            tick_ms: 1000,
            page_age_ms: PAGE_AGE_MS,
            all_visible_ms: 0,
            holes: None,
            late: None,
            delay_next_ms: 0,
            file_hosts: Vec::new(),
        }
    }

    // Time and serials.

    /// The world's time, in milliseconds of Unix time.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Moves the time to `unix_ms`; it never goes back.
    pub fn set_time(&mut self, unix_ms: u64) {
        self.now_ms = self.now_ms.max(unix_ms);
    }

    /// Moves the time on.
    pub fn advance(&mut self, by: Duration) {
        self.now_ms += millis(by);
    }

    /// Stops the world from moving its own time. A caller that advances it by a clock does this first.
    pub fn stop_ticking(&mut self) {
        self.tick_ms = 0;
    }

    /// From now on a page is rendered anew after this long, although an event about people does not purge it. By default
    /// that is a day.
    pub fn set_page_age(&mut self, age: Duration) {
        self.page_age_ms = millis(age);
    }

    /// Leaves out `count` serials: no row will ever have them.
    pub fn skip_serials(&mut self, count: u64) {
        self.serial += count;
    }

    /// From now on leaves out one to three serials before a row, with probability `chance`.
    pub fn set_holes(&mut self, chance: f64, seed: u64) {
        self.holes = Some((chance, Rng::new(seed)));
    }

    /// From now on makes a transaction visible only after `delay`, with probability `chance`, while later ones are seen
    /// at once. One project's transactions stay in order, as the lock on its row has it upstream.
    pub fn set_late(&mut self, chance: f64, delay: Duration, seed: u64) {
        self.late = Some(Late { chance, delay_ms: millis(delay), rng: Rng::new(seed) });
    }

    /// Makes the next transaction, and only that, visible after `delay`.
    pub fn delay_next(&mut self, delay: Duration) {
        self.delay_next_ms = millis(delay);
    }

    // Reading.

    /// The serial of the last row, visible or not.
    pub fn serial(&self) -> u64 {
        self.rows.last().map_or(0, |row| row.event.serial)
    }

    /// All journaled rows, visible or not.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.rows.iter().filter(|row| row.journaled).map(|row| &row.event)
    }

    /// The journaled rows of one project.
    pub fn events_of(&self, project: &str) -> impl Iterator<Item = &Event> {
        self.by_project
            .get(&normalise(project))
            .into_iter()
            .flatten()
            .map(|&at| &self.rows[at])
            .filter(|row| row.journaled)
            .map(|row| &row.event)
    }

    /// Every project as it stands, by normalised name; kept up to date with each row.
    pub fn state(&self) -> BTreeMap<String, ProjectState> {
        self.current.iter().map(|(name, project)| (name.clone(), project.state(name))).collect()
    }

    /// Every project as it was at `serial`, by normalised name, computed from the log.
    ///
    /// A change that is not journaled counts from the serial that stood when it happened.
    pub fn state_at(&self, serial: u64) -> BTreeMap<String, ProjectState> {
        self.by_project.keys().filter_map(|name| Some((name.clone(), self.project_at(name, serial)?))).collect()
    }

    /// One project as it was at `serial`.
    pub fn project_at(&self, project: &str, serial: u64) -> Option<ProjectState> {
        let name = normalise(project);
        self.fold(&name, |row| row.event.serial <= serial).map(|project| project.state(&name))
    }

    /// One project as it stands.
    pub fn project(&self, project: &str) -> Option<ProjectState> {
        let name = normalise(project);
        self.current.get(&name).map(|project| project.state(&name))
    }

    /// One project as anyone could see it at a moment, with the serial that its page said then.
    pub fn project_seen(&self, project: &str, at_ms: u64) -> Option<ProjectState> {
        let name = normalise(project);
        let mut state = if self.all_visible_ms <= at_ms {
            self.project(&name)
        } else {
            self.fold(&name, |row| row.event.visible_ms <= at_ms).map(|project| project.state(&name))
        }?;
        if state.page_serial < state.serial
            && let Some(at_ms) = at_ms.checked_sub(self.page_age_ms)
            && let Some(rendered) = self.fold(&name, |row| row.event.visible_ms <= at_ms)
        {
            state.page_serial = state.page_serial.max(rendered.serial);
        }
        Some(state)
    }

    /// Display name, serial and status of every project, quarantined ones too, as anyone could see them at a moment,
    /// by normalised name.
    pub fn list_seen(&self, at_ms: u64) -> BTreeMap<String, (String, u64, Status)> {
        let line = |project: &Project| (project.display_name.clone(), project.serial, project.status);
        if self.all_visible_ms <= at_ms {
            return self.current.iter().map(|(name, project)| (name.clone(), line(project))).collect();
        }
        self.by_project
            .keys()
            .filter_map(|name| {
                let project = self.fold(name, |row| row.event.visible_ms <= at_ms)?;
                Some((name.clone(), line(&project)))
            })
            .collect()
    }

    /// The greatest serial that anyone could see at a moment; 0 where there was none.
    pub fn serial_seen(&self, at_ms: u64) -> u64 {
        self.events().rev().find(|event| event.visible_ms <= at_ms).map_or(0, |event| event.serial)
    }

    /// The rows after `serial` that anyone could see at a moment, lowest first, at most `limit`.
    pub fn changelog(&self, serial: u64, limit: usize, at_ms: u64) -> Vec<Event> {
        let from = self.rows.partition_point(|row| row.event.serial <= serial);
        self.rows[from..]
            .iter()
            .filter(|row| row.journaled && row.event.visible_ms <= at_ms)
            .take(limit)
            .map(|row| row.event.clone())
            .collect()
    }

    /// The bytes stored at a path, `/packages/…` or that with `.metadata` behind it.
    pub fn stored(&self, url_path: &str) -> Option<Bytes> {
        self.stored_with_digest(url_path).map(|(bytes, _)| bytes)
    }

    /// The bytes of the file that has, or had, this name; of its METADATA if `.metadata` stands behind the name.
    pub fn stored_named(&self, filename: &str) -> Option<Bytes> {
        let own = filename.strip_suffix(".metadata").unwrap_or(filename);
        let path = self.stored.values().find(|file| file.filename == own)?.url_path.clone();
        self.stored(&format!("{path}{}", &filename[own.len()..]))
    }

    pub(crate) fn stored_with_digest(&self, url_path: &str) -> Option<(Bytes, String)> {
        if let Some(file) = self.stored.get(url_path) {
            return Some((file.bytes.clone(), file.sha256.clone()));
        }
        let file = self.stored.get(url_path.strip_suffix(".metadata")?)?;
        file.metadata.clone()
    }

    /// When the file at a path, or that beside it, was uploaded.
    pub(crate) fn stored_since(&self, url_path: &str) -> Option<u64> {
        let file = self.stored.get(url_path);
        let file = file.or_else(|| self.stored.get(url_path.strip_suffix(".metadata")?))?;
        Some(file.uploaded_ms)
    }

    /// What stands before `/packages/…` on a page made at a moment, if the files have moved by then.
    pub(crate) fn file_host(&self, at_ms: u64) -> Option<&str> {
        let moved = self.file_hosts.iter().rev().find(|(since_ms, _)| *since_ms <= at_ms);
        moved.map(|(_, base)| base.as_str())
    }

    /// The dependent pairs uploaded so far.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// What the project holds now, shown or not.
    pub(crate) fn current(&self, project: &str) -> Option<&Project> {
        self.current.get(&normalise(project))
    }

    /// Whether the project ever had a file of this name.
    pub(crate) fn knows_file(&self, project: &str, filename: &str) -> bool {
        let rows = self.by_project.get(&normalise(project)).into_iter().flatten();
        rows.map(|&at| &self.rows[at].change)
            .any(|change| matches!(change, Change::AddFile(file) if file.filename == filename))
    }

    /// Whether the project ever was.
    pub(crate) fn was_ever(&self, project: &str) -> bool {
        self.by_project.contains_key(&normalise(project))
    }

    // Writing rows. What calls these is in `changes.rs`.

    fn store(&mut self, upload: &Upload, url_path: Option<String>, uploaded_ms: u64) -> Arc<StoredFile> {
        let url_path = url_path.unwrap_or_else(|| {
            let hex = blake3::hash(&upload.bytes).to_hex();
            let path = |hex: &str| format!("/packages/{}/{}/{}/{}", &hex[..2], &hex[2..4], &hex[4..], upload.filename);
            path(hex.as_str())
        });
        let file = Arc::new(StoredFile {
            filename: upload.filename.clone(),
            version: upload.version.clone(),
            sha256: sha256(&upload.bytes),
            bytes: upload.bytes.clone(),
            metadata: upload.metadata.clone().map(|bytes| {
                let digest = sha256(&bytes);
                (bytes, digest)
            }),
            requires_python: upload.requires_python.clone(),
            url_path: url_path.clone(),
            uploaded_ms,
        });
        self.stored.insert(url_path, Arc::clone(&file));
        file
    }

    /// Writes journaled rows of one project that become visible together.
    fn transact(&mut self, project: &str, rows: Vec<(Option<String>, String, Change)>) -> u64 {
        let visible_ms = self.visible_ms(project, true);
        for (version, action, change) in rows {
            if let Some((chance, rng)) = &mut self.holes
                && rng.chance(*chance)
            {
                self.serial += 1 + rng.below(3) as u64;
            }
            self.serial += 1;
            self.append(project, self.serial, version, action, visible_ms, true, change);
        }
        self.now_ms += self.tick_ms;
        self.serial
    }

    /// Writes a row that is not in the journal.
    fn quietly(&mut self, project: &str, change: Change) -> u64 {
        let visible_ms = self.visible_ms(project, false);
        let serial = self.serial();
        self.append(project, serial, None, String::new(), visible_ms, false, change);
        self.now_ms += self.tick_ms;
        serial
    }

    /// When a transaction on the project, begun now, can be seen.
    fn visible_ms(&mut self, project: &str, journaled: bool) -> u64 {
        let mut delay_ms = 0;
        if journaled {
            delay_ms = std::mem::take(&mut self.delay_next_ms);
            if let Some(late) = &mut self.late
                && late.rng.chance(late.chance)
            {
                delay_ms = delay_ms.max(late.delay_ms);
            }
        }
        let before = self.by_project.get(&normalise(project)).and_then(|rows| rows.last());
        let before = before.map_or(0, |&at| self.rows[at].event.visible_ms);
        before.max(self.now_ms + delay_ms)
    }

    #[expect(clippy::too_many_arguments, reason = "a row has this many columns, and only two callers make one")]
    fn append(
        &mut self,
        project: &str,
        serial: u64,
        version: Option<String>,
        action: String,
        visible_ms: u64,
        journaled: bool,
        change: Change,
    ) {
        let name = normalise(project);
        let display_name = match self.current.get(&name) {
            Some(known) => known.display_name.clone(),
            None => project.to_owned(),
        };
        let mut slot = self.current.remove(&name);
        apply(&mut slot, &display_name, serial, &change);
        if let Some(project) = slot {
            self.current.insert(name.clone(), project);
        }
        self.all_visible_ms = self.all_visible_ms.max(visible_ms);
        self.by_project.entry(name.clone()).or_default().push(self.rows.len());
        self.rows.push(Row {
            event: Event {
                serial,
                name: display_name,
                version,
                at_ms: self.now_ms,
                visible_ms,
                action,
                kind: change.kind(),
            },
            project: name,
            journaled,
            change,
        });
    }

    /// Applies the rows of one project that count.
    fn fold(&self, name: &str, counts: impl Fn(&Row) -> bool) -> Option<Project> {
        let mut slot = None;
        for &at in self.by_project.get(name)? {
            let row = &self.rows[at];
            debug_assert_eq!(row.project, name, "the index by project names the right rows");
            if counts(row) {
                apply(&mut slot, &row.event.name, row.event.serial, &row.change);
            }
        }
        slot
    }
}

/// The digest in hex.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A duration in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
