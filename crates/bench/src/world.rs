//! An index that is made up as it is asked for.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{Stream, stream};
use strandline_model::{
    Blake3, ClaimedSha256, CoreMetadata, DisplayName, FileName, Maintenance, Mirrored, ProjectName, Record, Seen,
    SeenFile, Serial, Sha256, Timestamp, Told, ToldFile, TreePath, UpstreamUrl, Yanked,
};
use strandline_pypi::{Index, SettingsError};
use strandline_sync::cut::Action;
use strandline_sync::source::{Answer, BadRecord, Event, Page, Problem, Rendered, Source, SourceError, Validator, Way};
use url::Url;

/// When everything happened, in seconds since 1970: long ago, so that nothing is waited for.
const LONG_AGO: i64 = 1_767_268_800;
/// How many rows the log gives at once, like a Warehouse.
const LOG_PAGE: usize = 50_000;

/// P projects of F files: the last of project `i` was added with serial `i + 1`. Each event after those adds a file to a project that
/// is drawn by the event's number. Pages are rendered as those of a real index are.
#[derive(Debug)]
pub struct ScaleWorld {
    index: Index,
    upstream: UpstreamUrl,
    projects: u64,
    files: u64,
    size: usize,
    /// The projects of the events after the first P, in their order.
    later: Vec<u64>,
    last_byte: Mutex<Instant>,
}

impl ScaleWorld {
    /// A world of `projects` with `files` of `size` bytes each, after `events` more events. `upstream` is what it says it is.
    pub fn new(upstream: Url, projects: u64, files: u64, size: usize, events: u64) -> Result<Self, SettingsError> {
        let index = Index::new(strandline_pypi::Settings::new(upstream))?;
        let draw = |number: u64| {
            let drawn = Blake3::of(&number.to_le_bytes());
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&drawn.as_bytes()[..8]);
            u64::from_le_bytes(bytes) % projects.max(1)
        };
        Ok(Self {
            upstream: index.upstream().clone(),
            index,
            projects,
            files,
            size,
            later: (0..events).map(draw).collect(),
            last_byte: Mutex::new(Instant::now()),
        })
    }

    /// When it last gave something that was asked for.
    pub fn last_byte(&self) -> Instant {
        *self.last_byte.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gave(&self) {
        *self.last_byte.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// The greatest serial.
    pub fn head(&self) -> u64 {
        self.projects + self.later.len() as u64
    }

    fn display(number: u64) -> String {
        format!("Project_{number:07}")
    }

    fn event(&self, serial: u64) -> Event {
        let beyond = serial.checked_sub(self.projects + 1).and_then(|later| usize::try_from(later).ok());
        let (number, minor) = match beyond.and_then(|later| self.later.get(later)) {
            Some(number) => (*number, self.files + serial - self.projects),
            None => (serial - 1, self.files.saturating_sub(1)),
        };
        let version = format!("1.{minor}");
        let file = Self::file_name(number, &version);
        Event {
            serial: serial_of(serial),
            project: name_of(number),
            display: Self::display(number).parse().expect("a name"),
            time: Timestamp::from_seconds(LONG_AGO).expect("a time"),
            change: Some(Action::AddFile(version, file)),
        }
    }

    /// The log after a serial, as [`Source::events_since`] gives it.
    pub fn log(&self, since: u64) -> Vec<Event> {
        (since + 1..=self.head()).take(LOG_PAGE).map(|serial| self.event(serial)).collect()
    }

    fn file_name(number: u64, version: &str) -> String {
        format!("project_{number:07}-{version}-py3-none-any.whl")
    }

    /// The bytes of a file: its name, as often as there is room, at least once.
    fn content(&self, name: &str) -> Bytes {
        let times = self.size.div_ceil(name.len()).max(1);
        let mut text = name.repeat(times);
        text.truncate(self.size.max(name.len()));
        Bytes::from(text)
    }

    fn listed(&self, number: u64, version: &str) -> (FileName, ToldFile, SeenFile) {
        let name = Self::file_name(number, version);
        let project = name_of(number);
        let content = self.content(&name);
        let path = Blake3::of(name.as_bytes()).to_string();
        let (a, rest) = path.split_at(2);
        let (b, rest) = rest.split_at(2);
        let told = ToldFile {
            sha256: Sha256::of(&content).into(),
            size: Some(content.len() as u64),
            upload_time: Some("2026-01-01T12:00:00.000000Z".to_owned()),
            yanked: Yanked::No,
        };
        let top = self.upstream.as_str().trim_end_matches("simple/");
        let seen = SeenFile {
            url: Some(format!("{top}packages/{a}/{b}/{rest}/{name}")),
            requires_python: Some(">=3.8".to_owned()),
            core_metadata: CoreMetadata::Absent,
            provenance: None,
        };
        (FileName::of(&project, &name).expect("a file of the project"), told, seen)
    }
}

fn serial_of(number: u64) -> Serial {
    Serial::try_from(number).expect("a serial")
}

fn name_of(number: u64) -> ProjectName {
    format!("project-{number:07}").parse().expect("a name")
}

impl Source for ScaleWorld {
    fn upstream(&self) -> &UpstreamUrl {
        &self.upstream
    }

    async fn page(&self, project: &ProjectName, validator: Option<&Validator>, _: Way) -> Result<Answer, SourceError> {
        let number = project.as_str().trim_start_matches("project-").parse::<u64>().ok();
        let Some(number) = number.filter(|number| *number < self.projects) else { return Ok(Answer::Missing) };
        let events = self.later.iter().zip(self.projects + 1..).filter(|(of, _)| **of == number);
        let events: Vec<u64> = events.map(|(_, serial)| serial).collect();
        let tag = Validator(format!("\"{number}-{}\"", events.len()));
        self.gave();
        if validator == Some(&tag) {
            return Ok(Answer::NotModified);
        }
        let later = events.iter().map(|serial| self.files + serial - self.projects);
        let versions: Vec<_> = (0..self.files).chain(later).map(|minor| format!("1.{minor}")).collect();
        let mut told = Told { name: project.clone(), quarantined: false, files: BTreeMap::new() };
        let display = Self::display(number).parse().expect("a name");
        let (maintenance, files) = (Maintenance::Active, BTreeMap::new());
        let mut seen = Seen { display, maintenance, status_reason: None, versions: Vec::new(), files };
        for version in &versions {
            let (name, told_file, seen_file) = self.listed(number, version);
            told.files.insert(name.clone(), told_file);
            seen.files.insert(name, seen_file);
        }
        seen.versions = versions;
        let serial = Some(serial_of(events.last().copied().unwrap_or(number + 1)));
        let page = Page { record: Record::new(told, seen).expect("its parts go together"), serial };
        Ok(Answer::Page { page, validator: Some(tag) })
    }

    async fn file(
        &self,
        url: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, SourceError>> + Send + Unpin, SourceError> {
        self.gave();
        let Some((_, name)) = url.rsplit_once('/') else {
            return Err(SourceError::new(url, Problem::Status { status: 404, retry_after: None }));
        };
        Ok(stream::iter([Ok(self.content(name))]))
    }

    async fn last_serial(&self) -> Result<Serial, SourceError> {
        Ok(serial_of(self.head()))
    }

    async fn events_since(&self, since: Serial) -> Result<Vec<Event>, SourceError> {
        Ok(self.log(since.get()))
    }

    async fn projects(&self) -> Result<Vec<(DisplayName, Serial)>, SourceError> {
        let mut last: Vec<u64> = (1..=self.projects).collect();
        for (number, serial) in self.later.iter().zip(self.projects + 1..) {
            if let Some(last) = usize::try_from(*number).ok().and_then(|number| last.get_mut(number)) {
                *last = serial;
            }
        }
        let listed =
            (0..).zip(last).map(|(number, serial)| (Self::display(number).parse().expect("a name"), serial_of(serial)));
        Ok(listed.collect())
    }

    fn file_paths(&self, name: &FileName, sha256: ClaimedSha256, url: &str) -> [TreePath; 2] {
        self.index.file_paths(name, sha256, url)
    }

    fn is_of_release(&self, project: &ProjectName, filename: &str, version: &str) -> Option<bool> {
        self.index.is_of_release(project, filename, version)
    }

    fn render(&self, project: &Mirrored) -> Vec<Rendered> {
        self.index.render(project)
    }

    fn read_record(&self, bytes: &[u8]) -> Result<Mirrored, BadRecord> {
        self.index.read_record(bytes)
    }
}
