//! An index that is made up as it is asked for.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use strandline_model::{
    Blake3, DisplayName, FileName, Form, ProjectName, Record, Seen, SeenFile, Serial, Sha256, Timestamp, Told,
    ToldFile, UpstreamUrl, Yanked,
};
use strandline_pypi::{Index, SettingsError};
use strandline_sync::cut::Action;
use strandline_sync::upstream::{Answer, Body, Event, Page, Problem, Upstream, UpstreamError, Validator, Way};
use url::Url;

/// When everything happened, in seconds since 1970: long ago, so that nothing is waited for.
const LONG_AGO: i64 = 1_767_268_800;
/// How many rows the log gives at once, like a Warehouse.
const LOG_PAGE: usize = 50_000;

/// P projects of F files: the last of project `i` was added with serial `i + 1`. Each event after those adds a file to a project that
/// is drawn by the event's number. Pages are rendered as those of a real index are.
#[derive(Debug)]
pub struct ScaleWorld {
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
            upstream: index.url().clone(),
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

    /// The log after a serial, as [`Upstream::events_since`] gives it.
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
            sha256: Some(Sha256::of(&content).into()),
            size: Some(content.len() as u64),
            upload_time: "2026-01-01T12:00:00.000000Z".parse().ok(),
            yanked: Yanked::No,
        };
        let top = self.upstream.as_str().trim_end_matches("simple/");
        let seen = SeenFile {
            url: Some(format!("{top}packages/{a}/{b}/{rest}/{name}")),
            requires_python: Some(">=3.8".to_owned()),
            ..SeenFile::at(None)
        };
        (FileName::of(&project, &name).expect("a file of the project"), told, seen)
    }

    fn page_now(&self, project: &ProjectName, validator: Option<&Validator>) -> Answer {
        let number = project.as_str().trim_start_matches("project-").parse::<u64>().ok();
        let Some(number) = number.filter(|number| *number < self.projects) else { return Answer::Missing };
        let events = self.later.iter().zip(self.projects + 1..).filter(|(of, _)| **of == number);
        let events: Vec<u64> = events.map(|(_, serial)| serial).collect();
        let tag = Validator(format!("\"{number}-{}\"", events.len()));
        self.gave();
        if validator == Some(&tag) {
            return Answer::NotModified;
        }
        let later = events.iter().map(|serial| self.files + serial - self.projects);
        let versions: Vec<_> = (0..self.files).chain(later).map(|minor| format!("1.{minor}")).collect();
        let mut told = Told { name: project.clone(), quarantined: false, files: BTreeMap::new() };
        let display = Self::display(number).parse().expect("a name");
        let mut seen = Seen::of(display, Form::Json);
        for version in &versions {
            let (name, told_file, seen_file) = self.listed(number, version);
            told.files.insert(name.clone(), told_file);
            seen.files.insert(name, seen_file);
        }
        seen.versions = versions;
        let serial = Some(serial_of(events.last().copied().unwrap_or(number + 1)));
        let page = Page::of(Record::new(told, seen).expect("its parts go together"), serial);
        Answer::Page { page: Box::new(page), validator: Some(tag) }
    }
}

fn serial_of(number: u64) -> Serial {
    Serial::try_from(number).expect("a serial")
}

fn name_of(number: u64) -> ProjectName {
    format!("project-{number:07}").parse().expect("a name")
}

impl Upstream for ScaleWorld {
    fn url(&self) -> &UpstreamUrl {
        &self.upstream
    }

    fn page<'a>(
        &'a self,
        project: &'a ProjectName,
        validator: Option<&'a Validator>,
        _: Way,
    ) -> BoxFuture<'a, Result<Answer, UpstreamError>> {
        ready(Ok(self.page_now(project, validator))).boxed()
    }

    fn file<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Body, UpstreamError>> {
        self.gave();
        let content = url.rsplit_once('/').map(|(_, name)| self.content(name));
        let body = content
            .map(|content| stream::iter([Ok(content)]).boxed())
            .ok_or_else(|| UpstreamError::new(url, Problem::Status { status: 404, retry_after: None }));
        ready(body).boxed()
    }

    fn last_serial(&self) -> BoxFuture<'_, Result<Serial, UpstreamError>> {
        ready(Ok(serial_of(self.head()))).boxed()
    }

    fn events_since(&self, since: Serial) -> BoxFuture<'_, Result<Vec<Event>, UpstreamError>> {
        ready(Ok(self.log(since.get()))).boxed()
    }

    fn projects(&self) -> BoxFuture<'_, Result<Vec<(DisplayName, Serial)>, UpstreamError>> {
        let mut last: Vec<u64> = (1..=self.projects).collect();
        for (number, serial) in self.later.iter().zip(self.projects + 1..) {
            if let Some(last) = usize::try_from(*number).ok().and_then(|number| last.get_mut(number)) {
                *last = serial;
            }
        }
        let listed =
            (0..).zip(last).map(|(number, serial)| (Self::display(number).parse().expect("a name"), serial_of(serial)));
        ready(Ok(listed.collect())).boxed()
    }
}
