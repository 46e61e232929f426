//! The scripted upstream.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::future::{BoxFuture, pending, ready};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use strandline_model::{
    DisplayName, FileName, Form, Mirrored, Placed, ProjectName, Record, Seen, SeenFile, Serial, Sha256, Timestamp,
    Told, ToldFile, UpstreamUrl,
};
use strandline_sync::cut::Action;
use strandline_sync::upstream::{self, Answer, Event, Page, Problem, Upstream, UpstreamError, Validator, Way};

/// How upstream answers when it is asked for a page.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a script has few of them")]
pub(crate) enum Reply {
    /// With this page, and with a tag if it has one; `NotModified` if the one who asks has the tag.
    Page(Page, Option<&'static str>),
    Missing,
    Fail(Problem),
    /// With nothing, for as long as it is waited for.
    Never,
}

/// How upstream answers when it is asked for a file.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Bytes(&'static [u8]),
    /// These bytes, and then the connection breaks.
    Torn(&'static [u8]),
    Fail(Problem),
    /// Nothing, for as long as it is waited for.
    Never,
}

/// What upstream has, and what it was asked for. Answers are taken from the queue of what was asked for; the last one
/// stays.
#[derive(Debug, Default)]
pub(crate) struct State {
    pages: BTreeMap<ProjectName, VecDeque<Reply>>,
    files: BTreeMap<String, VecDeque<Body>>,
    log: Option<Vec<Event>>,
    /// What comes into the log right after the next page is answered, and so on.
    meanwhile: VecDeque<Vec<Event>>,
    asked: Vec<String>,
    /// How many events the log gives at once; all if it is not set.
    at_once: Option<usize>,
    /// What upstream says is the log's last serial, whatever the log has.
    last: Option<Serial>,
    unlisted: BTreeSet<ProjectName>,
    /// Why the list cannot be had, if so.
    listless: Option<Problem>,
    /// What the list says of a project in another way than its page does.
    listed: BTreeMap<ProjectName, (DisplayName, Serial)>,
}

/// An upstream that does what the script says.
#[derive(Debug)]
pub(crate) struct Script {
    upstream: UpstreamUrl,
    state: Mutex<State>,
}

pub(crate) fn serial(number: u64) -> Serial {
    number.try_into().unwrap()
}

pub(crate) fn name(text: &str) -> ProjectName {
    text.parse::<DisplayName>().unwrap().normalise()
}

/// A page of a project. Each file is its name with its bytes; `versions` are of the page itself, with spaces in between.
pub(crate) fn page(display: &str, number: Option<u64>, versions: &str, files: &[(&str, &[u8])]) -> Page {
    let of = |file: &str| FileName::of(&name(display), file).unwrap();
    let told = Told {
        name: name(display),
        quarantined: false,
        files: files.iter().map(|(file, bytes)| (of(file), told(bytes))).collect(),
    };
    let seen = Seen {
        versions: versions.split(' ').map(str::to_owned).collect(),
        files: files.iter().map(|(file, _)| (of(file), SeenFile::at(Some(url(file))))).collect(),
        ..Seen::of(display.parse().unwrap(), Form::Json)
    };
    Page::of(Record::new(told, seen).unwrap(), number.map(serial))
}

/// The same page with something changed.
pub(crate) fn changed(page: Page, change: impl FnOnce(&mut Told, &mut Seen)) -> Page {
    let (mut told, mut seen) = page.record.into_parts();
    change(&mut told, &mut seen);
    Page { record: Record::new(told, seen).unwrap(), ..page }
}

pub(crate) fn url(file: &str) -> String {
    format!("https://files.example/packages/aa/bb/cc/{file}")
}

fn told(bytes: &[u8]) -> ToldFile {
    let (sha256, size) = (Sha256::of(bytes).into(), Some(bytes.len() as u64));
    ToldFile { size, ..ToldFile::of(sha256) }
}

/// What a mirror has of a project: what a page says, and each file at a path below `packages/aa/bb/cc`.
pub(crate) fn mirrored(page: &Page, files: &[(&str, &[u8])]) -> Mirrored {
    let placed = |(file, bytes): &(&str, &[u8])| {
        let path = format!("packages/aa/bb/cc/{file}").parse().unwrap();
        let placed = Placed { path, sha256: Sha256::of(bytes), size: bytes.len() as u64, metadata: None };
        (FileName::of(page.record.name(), file).unwrap(), placed)
    };
    Mirrored::new(page.record.clone(), page.serial.unwrap(), files.iter().map(placed).collect()).unwrap()
}

pub(crate) fn status(status: u16) -> Problem {
    Problem::Status { status, retry_after: None }
}

/// An event of a project; `None` for one about people.
pub(crate) fn event(number: u64, project: &str, change: impl Into<Option<Action>>) -> Event {
    Event {
        serial: serial(number),
        project: name(project),
        display: project.parse().unwrap(),
        // So long ago that a missing serial before it is believed to be a hole.
        time: Timestamp::from_seconds(1_700_000_000).unwrap(),
        change: change.into(),
    }
}

/// Version 2, with what happens to it.
pub(crate) fn two(make: fn(String) -> Action) -> Action {
    make("2".to_owned())
}

/// A file of version 2 is added.
pub(crate) fn add(file: &str) -> Action {
    Action::AddFile("2".to_owned(), file.to_owned())
}

impl Script {
    pub(crate) fn new() -> Self {
        Self { upstream: "https://index.example/simple/".parse().unwrap(), state: Mutex::default() }
    }

    /// The same at another URL.
    pub(crate) fn elsewhere() -> Self {
        Self { upstream: "https://other.example/simple/".parse().unwrap(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on a page is answered in these ways, one after another, and then always in the last.
    pub(crate) fn pages(&self, project: &str, replies: impl IntoIterator<Item = Reply>) {
        self.state().pages.insert(name(project), replies.into_iter().collect());
    }

    /// From now on there is this page, and its files are what it says.
    pub(crate) fn publish(&self, project: &str, number: Option<u64>, version: &str, files: &[(&str, &'static [u8])]) {
        self.pages(project, [Reply::Page(page(project, number, version, files), None)]);
        for (file, bytes) in files {
            self.files(&url(file), [Body::Bytes(bytes)]);
        }
    }

    /// From now on a file is answered in these ways.
    pub(crate) fn files(&self, url: &str, bodies: impl IntoIterator<Item = Body>) {
        self.state().files.insert(url.to_owned(), bodies.into_iter().collect());
    }

    /// There is a log, and from now on these events are in it.
    pub(crate) fn log(&self, events: impl IntoIterator<Item = Event>) {
        self.state().log.get_or_insert_default().extend(events);
    }

    /// From now on there is no log; returns what was in it.
    pub(crate) fn take_log(&self) -> Vec<Event> {
        self.state().log.take().unwrap_or_default()
    }

    /// These events, which are older than what the log has shown, come to light.
    pub(crate) fn insert(&self, events: impl IntoIterator<Item = Event>) {
        self.log(events);
        self.state().log.get_or_insert_default().sort_by_key(|event| event.serial);
    }

    /// From now on the log gives so many events at once.
    pub(crate) fn give_at_once(&self, events: usize) {
        self.state().at_once = Some(events);
    }

    /// From now on upstream says that this is the log's last serial.
    pub(crate) fn claim_last(&self, number: u64) {
        self.state().last = Some(serial(number));
    }

    /// From now on upstream's list of projects does not have this one.
    pub(crate) fn unlist(&self, project: &str) {
        self.state().unlisted.insert(name(project));
    }

    /// From now on it has this one again.
    pub(crate) fn relist(&self, project: &str) {
        self.state().unlisted.remove(&name(project));
    }

    /// From now on the list of projects cannot be had, or can again.
    pub(crate) fn fail_lists(&self, problem: Option<Problem>) {
        self.state().listless = problem;
    }

    /// From now on upstream's list has a project so, whatever its page says.
    pub(crate) fn list(&self, display: &str, number: u64) {
        self.state().listed.insert(name(display), (display.parse().unwrap(), serial(number)));
    }

    /// These events come into the log right after the next page is answered.
    pub(crate) fn meanwhile(&self, events: impl IntoIterator<Item = Event>) {
        self.state().meanwhile.push_back(events.into_iter().collect());
    }

    /// What was asked for since the last time: `page NAME`, `page NAME if TAG`, each perhaps with the way,
    /// `file URL`, `log`, `projects`.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state().asked)
    }

    /// How often exactly this was asked for, of what [`asked`](Self::asked) returns.
    pub(crate) fn count(asked: &[String], what: &str) -> usize {
        asked.iter().filter(|asked| *asked == what).count()
    }
}

fn next<T: Clone>(queue: Option<&mut VecDeque<T>>) -> Option<T> {
    let queue = queue?;
    if queue.len() > 1 { queue.pop_front() } else { queue.front().cloned() }
}

impl Upstream for Script {
    fn url(&self) -> &UpstreamUrl {
        &self.upstream
    }

    fn page<'a>(
        &'a self,
        project: &'a ProjectName,
        validator: Option<&'a Validator>,
        way: Way,
    ) -> BoxFuture<'a, Result<Answer, UpstreamError>> {
        let mut state = self.state();
        let condition = validator.map(|Validator(tag)| format!(" if {tag}")).unwrap_or_default();
        let way = match way {
            Way::Usual => "",
            Way::Uncompressed => " uncompressed",
            Way::Origin => " at its origin",
        };
        state.asked.push(format!("page {project}{condition}{way}"));
        if let Some(events) = state.meanwhile.pop_front() {
            state.log.get_or_insert_default().extend(events);
        }
        let answer = match next(state.pages.get_mut(project)) {
            Some(Reply::Page(page, tag)) => {
                let current = tag.map(|tag| Validator(tag.to_owned()));
                match validator {
                    Some(has) if current.as_ref() == Some(has) => Ok(Answer::NotModified),
                    _ => Ok(Answer::Page { page: Box::new(page), validator: current }),
                }
            }
            Some(Reply::Never) => return pending().boxed(),
            Some(Reply::Missing) | None => Ok(Answer::Missing),
            Some(Reply::Fail(problem)) => Err(UpstreamError::new(format!("{}{project}/", self.upstream), problem)),
        };
        ready(answer).boxed()
    }

    fn file<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<upstream::Body, UpstreamError>> {
        let mut state = self.state();
        state.asked.push(format!("file {url}"));
        let broken = Problem::Transport("the connection was reset".to_owned());
        let body = match next(state.files.get_mut(url)) {
            Some(Body::Bytes(bytes)) => Ok((bytes, None)),
            Some(Body::Torn(bytes)) => Ok((bytes, Some(Err(UpstreamError::new(url, broken))))),
            Some(Body::Fail(problem)) => Err(UpstreamError::new(url, problem)),
            Some(Body::Never) => return pending().boxed(),
            None => Err(UpstreamError::new(url, status(404))),
        };
        // In pieces, as a network gives them.
        let in_pieces = |(bytes, end): (&'static [u8], Option<_>)| {
            let pieces = bytes.chunks(5).map(|piece| Ok(Bytes::from_static(piece)));
            stream::iter(pieces.chain(end).collect::<Vec<_>>()).boxed()
        };
        ready(body.map(in_pieces)).boxed()
    }

    fn last_serial(&self) -> BoxFuture<'_, Result<Serial, UpstreamError>> {
        let mut state = self.state();
        state.asked.push("log".to_owned());
        let log = state.log.as_ref().ok_or_else(|| UpstreamError::new(&self.upstream, Problem::NoChangelog));
        let last = log.map(|log| log.last().map_or(Serial::ZERO, |event| event.serial));
        ready(last.map(|last| state.last.unwrap_or(last))).boxed()
    }

    fn events_since(&self, since: Serial) -> BoxFuture<'_, Result<Vec<Event>, UpstreamError>> {
        let mut state = self.state();
        state.asked.push("log".to_owned());
        let at_once = state.at_once.unwrap_or(usize::MAX);
        let log = state.log.as_ref().ok_or_else(|| UpstreamError::new(&self.upstream, Problem::NoChangelog));
        let events = log.map(|log| log.iter().filter(|event| event.serial > since).take(at_once).cloned().collect());
        ready(events).boxed()
    }

    fn projects(&self) -> BoxFuture<'_, Result<Vec<(DisplayName, Serial)>, UpstreamError>> {
        let mut state = self.state();
        state.asked.push("projects".to_owned());
        if let Some(problem) = state.listless.clone() {
            return ready(Err(UpstreamError::new(&self.upstream, problem))).boxed();
        }
        let pages = state.pages.iter().filter(|(name, _)| !state.unlisted.contains(*name)).map(|(_, replies)| replies);
        let listed = pages.filter_map(|replies| match replies.front() {
            Some(Reply::Page(page, _)) => {
                let own = || (page.record.seen().display.clone(), page.serial.unwrap_or(Serial::ZERO));
                Some(state.listed.get(page.record.name()).cloned().unwrap_or_else(own))
            }
            _ => None,
        });
        // What is listed by hand is so without a page, too.
        let is_page =
            |name: &ProjectName| matches!(state.pages.get(name).and_then(VecDeque::front), Some(Reply::Page(..)));
        let by_hand = state.listed.iter().filter(|(name, _)| !is_page(name) && !state.unlisted.contains(*name));
        ready(Ok(listed.chain(by_hand.map(|(_, listed)| listed.clone())).collect())).boxed()
    }
}
