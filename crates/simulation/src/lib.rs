//! A mirror of a moving upstream without I/O: the cut alone, in rounds, on a simulated clock; everything follows from a
//! seed.
//!
//! The program of this crate makes the table of `docs/liveness.md`; `scripts/liveness` runs it.
#![expect(clippy::unwrap_used, reason = "a simulation ends where something is not as expected")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use strandline_model::{DisplayName, Form, Preamble, ProjectName, Releases, Serial, Status, Timestamp, Yanked};
use strandline_sync::cut::{self, Action, Base, Content, File, Log, Project, ReleasesOf, Rule, Seen, State, Why};
use strandline_sync::upstream::Event;
use strandline_testkit::{EventKind, Generator, ProjectState, Rng, Weights, World, history};

/// How upstream and its caches behave, and what of the rule is in force.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// How many projects upstream has at the beginning.
    pub projects: usize,
    /// How many events upstream logs in a second, on average.
    pub events_per_second: f64,
    /// How old a page may be.
    pub stale: Duration,
    /// Whether there is one cache, which fetches each page once in that time, even if it changes; else there are many,
    /// and every answer has an age of its own.
    pub one_cache: bool,
    /// How often a page holds more than its serial says.
    pub label_below: f64,
    /// How often, and for how long, an event stays out of sight while later ones are seen.
    pub late: (f64, Duration),
    /// How many pages the mirror fetches in a second.
    pub pages_per_second: u32,
    /// How often a project that stands in the way is held.
    pub hold: f64,
    /// How long the mirror is watched, in seconds.
    pub seconds: u32,
    /// For how long pages that stand in the way are asked for again before the best serial is taken.
    pub patience: Duration,
    /// Whether what pages showed is remembered until the next sync.
    pub remembers: bool,
    /// How often an owner begins to upload sixty files to one project, beside a thousand other steps.
    pub bursts: u32,
    /// How many steps there were for each project before the mirror begins.
    pub past: usize,
    /// Whether upstream does all that it can do, also what no event tells. Then only what is told is compared.
    pub everything: bool,
    /// Every how many snapshots are compared with upstream.
    pub check_every: usize,
    /// Which parts of the rule are in force.
    pub rule: Rule,
    /// Whether the log is read after the pages, as it has to be, or before.
    pub later_read: bool,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            projects: 40,
            events_per_second: 5.0,
            stale: Duration::from_secs(5),
            one_cache: false,
            label_below: 0.1,
            late: (0.0, Duration::ZERO),
            pages_per_second: 50,
            hold: 0.0,
            seconds: 60,
            patience: Duration::ZERO,
            remembers: true,
            bursts: 2,
            past: 6,
            everything: false,
            check_every: 1,
            rule: Rule::WHOLE,
            later_read: true,
        }
    }
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Ran {
    /// How many serials were published.
    pub published: usize,
    /// Where a published state was not upstream's, in words.
    pub wrong: Vec<String>,
    /// How long ago the oldest event was that the newest snapshot lacked, each second; 0 where it lacked none.
    pub lags: Vec<f64>,
    /// How many pages were asked for.
    pub fetched: u64,
    /// How often a project was held.
    pub holds: usize,
}

fn serial(number: u64) -> Serial {
    Serial::try_from(number).unwrap()
}

/// What a page says of a file beside its yank: what never changes, and what may change without an event.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    sha256: String,
    size: u64,
    upload_time: String,
    core_metadata: Option<String>,
}

/// Versions are sorted: their order is the renderer's.
fn content(state: &ProjectState) -> Content<Arc<Facts>> {
    let yanked = |reason: &Option<String>| reason.clone().map_or(Yanked::No, Yanked::Yes);
    let files = state.files.iter().map(|file| {
        let (sha256, upload_time) = (file.sha256.clone(), file.upload_time.clone());
        let facts = Facts { sha256, size: file.size, upload_time, core_metadata: file.core_metadata.clone() };
        (file.filename.clone(), File { yanked: yanked(&file.yanked), content: Ok(Arc::new(facts)) })
    });
    let versions: BTreeSet<_> = state.versions.iter().cloned().collect();
    Content {
        status: match state.status.as_str() {
            "quarantined" => Status::Quarantined,
            "archived" => Status::Archived,
            "deprecated" => Status::Deprecated,
            _ => Status::Active,
        },
        status_reason: None,
        preamble: Preamble::of(Form::Json),
        versions: versions.into_iter().collect(),
        files: files.collect(),
    }
}

/// What a row of the log does to its project's page.
fn change(kind: EventKind) -> Option<Action> {
    Some(match kind {
        EventKind::Create => Action::Create,
        EventKind::NewRelease(version) => Action::NewRelease(version),
        EventKind::AddFile(version, file) => Action::AddFile(version, file),
        EventKind::RemoveFile(file) => Action::RemoveFile(file),
        EventKind::RemoveRelease(version) => Action::RemoveRelease(version),
        EventKind::RemoveProject => Action::RemoveProject,
        EventKind::YankRelease(version) => Action::YankRelease(version),
        EventKind::UnyankRelease(version) => Action::UnyankRelease(version),
        EventKind::QuarantineProject => Action::QuarantineProject,
        EventKind::ClearProject => Action::ClearProject,
        EventKind::QuarantineRelease(version) => Action::QuarantineRelease(version),
        EventKind::ClearRelease(version) => Action::ClearRelease(version),
        EventKind::Role => return None,
        EventKind::Unknown => Action::Unknown,
    })
}

/// A row of the log as a mirror reads it.
pub fn event(row: strandline_testkit::Event) -> Event {
    let display: DisplayName = row.name.parse().unwrap();
    Event {
        serial: serial(row.serial),
        project: display.normalise(),
        display,
        time: Timestamp::from_seconds(i64::try_from(row.at_ms / 1000).unwrap()).unwrap(),
        change: change(row.kind),
    }
}

/// A project as a snapshot has it: its serial, and what is shown of it, which is nothing while it is quarantined.
type Shown = (Serial, Option<Content<Arc<Facts>>>);

/// What a mirror should have of a project.
fn wanted(state: &ProjectState) -> Shown {
    let quarantined = state.status.as_str() == "quarantined";
    (serial(state.serial), (!quarantined).then(|| content(state)))
}

/// The same without what no event tells.
fn told((serial, content): Shown) -> Shown {
    let content = content.map(|mut content| {
        (content.status, content.versions) = (Status::Active, Vec::new());
        for file in content.files.values_mut() {
            if let Ok(facts) = &mut file.content {
                *facts = Arc::new(Facts { core_metadata: None, ..Facts::clone(facts) });
            }
        }
        content
    });
    (serial, content)
}

/// What stands behind the project's name, up to the next separator of a wheel, is a file's version, with other separators than
/// the log has, and perhaps with other zeros at its end.
struct Named;

impl Releases for Named {
    fn is_of_release(&self, project: &ProjectName, filename: &str, version: &str) -> Option<bool> {
        let parts = |text: &str| -> Vec<String> {
            text.to_lowercase().split(['-', '_', '.']).filter(|part| !part.is_empty()).map(str::to_owned).collect()
        };
        let mut own = match filename.strip_suffix(".whl") {
            Some(wheel) => parts(wheel.split('-').nth(1)?),
            None => {
                let stem = filename.strip_suffix(".tar.gz").or(filename.strip_suffix(".zip"))?;
                parts(stem).split_off(parts(project.as_str()).len())
            }
        };
        let mut version = parts(version);
        for parts in [&mut own, &mut version] {
            while parts.len() > 1 && parts.last().is_some_and(|part| part == "0") {
                parts.pop();
            }
        }
        Some(own == version)
    }
}

fn milliseconds(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds.max(0.0)).as_millis()).unwrap()
}

struct Mirror {
    world: World,
    generator: Generator,
    rng: Rng,
    weather: Weather,
    now: f64,
    next_event: f64,
    next_look: f64,
    ran: Ran,
    /// Whether upstream stands still, and no project is held any more than those that are.
    at_rest: bool,
    base: Serial,
    /// What the newest snapshot has.
    shown: BTreeMap<ProjectName, Shown>,
    /// What projects are held for.
    held: BTreeMap<ProjectName, Serial>,
    pages: BTreeMap<ProjectName, Vec<Seen<Arc<Facts>>>>,
    log: Log,
}

impl Mirror {
    fn new(seed: u64, weather: Weather) -> Self {
        let weights = if weather.everything { Weights::everything() } else { Weights::journaled() };
        let weights = Weights { burst: weather.bursts, respell: 20, ..weights };
        let (mut world, generator) = history(seed, weather.projects, weather.projects * weather.past, weights);
        world.set_holes(0.05, seed ^ 1);
        world.stop_ticking();
        let base = serial(world.serial());
        let shown = world.state();
        let shown = shown.iter().map(|(name, state)| (name.parse().unwrap(), wanted(state))).collect();
        let (chance, delay) = weather.late;
        world.set_late(chance, delay, seed ^ 2);
        let rng = Rng::new(seed ^ 3);
        let (held, pages, log) = Default::default();
        let (now, next_event, next_look, ran, at_rest) = Default::default();
        Self { world, generator, rng, weather, now, next_event, next_look, ran, at_rest, base, shown, held, pages, log }
    }

    fn uniform(&mut self) -> f64 {
        f64::from(u32::try_from(self.rng.bits() >> 32).unwrap()) / f64::from(u32::MAX)
    }

    /// Lets time pass, and upstream move.
    fn pass(&mut self, seconds: f64) {
        let end = self.now + seconds;
        while self.next_event.min(self.next_look) <= end {
            if self.next_look < self.next_event {
                self.step_to(self.next_look);
                self.look();
                self.next_look += 1.0;
            } else {
                self.step_to(self.next_event);
                let events = self.generator.step(&mut self.world).len().max(1);
                let pause = -self.uniform().max(1e-9).ln() / self.weather.events_per_second;
                self.next_event += pause * f64::from(u32::try_from(events).unwrap());
            }
        }
        self.step_to(end);
    }

    /// Takes down how far behind the newest snapshot is.
    fn look(&mut self) {
        let now = self.world.now_ms();
        let oldest = self.world.changelog(self.base.get(), 1, now);
        let lag = oldest.first().map_or(0, |event| now - event.at_ms);
        self.ran.lags.push(Duration::from_millis(lag).as_secs_f64());
    }

    fn step_to(&mut self, time: f64) {
        self.world.advance(Duration::from_secs_f64((time - self.now).max(0.0)));
        self.now = self.now.max(time);
    }

    /// A page as a cache shows it: of some age, and sometimes holding more than its serial says.
    fn fetch(&mut self, name: &ProjectName) {
        self.pass(1.0 / f64::from(self.weather.pages_per_second));
        self.ran.fetched += 1;
        let (stale, now) = (milliseconds(self.weather.stale.as_secs_f64()), self.world.now_ms());
        let at = if self.weather.one_cache {
            // Each page is fetched at a moment of its own.
            let phase = name.as_str().bytes().fold(7, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte));
            now - (now + phase % stale.max(1)) % stale.max(1)
        } else {
            now - milliseconds(self.uniform() * self.weather.stale.as_secs_f64())
        };
        let Some(label) = self.world.project_seen(name.as_str(), at) else { return };
        let below = self.uniform() < self.weather.label_below;
        let shown = if below { self.world.project_seen(name.as_str(), self.world.now_ms()) } else { None };
        let content = content(shown.as_ref().unwrap_or(&label));
        let page = Seen { serial: serial(label.page_serial), content };
        let pages = self.pages.entry(name.clone()).or_default();
        // What says the same a third time says nothing new.
        if !pages.ends_with(&[page.clone(), page.clone()]) {
            pages.push(page);
        }
    }

    fn read_log(&mut self) {
        // What comes to light late is below what was seen already.
        let seen = self.log.head().filter(|_| self.weather.late.0 == 0.0);
        let since = seen.unwrap_or(self.base).max(self.base);
        for row in self.world.changelog(since.get(), usize::MAX, self.world.now_ms()) {
            self.log.add(&event(row));
        }
    }

    fn moving(&self) -> BTreeSet<ProjectName> {
        self.log.projects().chain(self.held.keys()).cloned().collect()
    }

    /// One sync: rounds of pages, log and cut, until the target is reached, projects have moved past it, or patience ends.
    fn sync(&mut self) {
        self.read_log();
        let mut head = self.log.head().unwrap_or(self.base);
        if !self.weather.remembers {
            self.pages.clear();
        }
        let mut wanted = self.moving();
        let (mut deadline, mut pause) = (None, 0.5_f64);
        loop {
            // Late events are waited for as long as they may be late; the log's times are whole seconds.
            let late = i64::try_from(self.weather.late.1.as_secs()).unwrap() + 2;
            let now = i64::try_from(self.world.now_ms() / 1000).unwrap();
            let settled = Timestamp::from_seconds(now - late).unwrap();
            if !self.weather.later_read {
                self.read_log();
            }
            let asked = std::mem::take(&mut wanted);
            for name in &asked {
                let last = self.log.of(name).last();
                let people_alone = last.is_none() && !self.held.contains_key(name);
                if !people_alone && !last.is_some_and(|change| change.action.needs_no_page()) {
                    self.fetch(name);
                }
            }
            if self.weather.later_read {
                self.read_log();
            }
            let deadline = *deadline.get_or_insert(self.now + self.weather.patience.as_secs_f64());
            let target = self.log.without_holes(self.base, |_, time| time < settled).min(head);
            let (found, holding) = self.cut(target);
            let found_more = found.serial.is_some_and(|serial| serial > self.base);
            let moved_on = found.in_the_way.values().all(|obstacle| obstacle.why == Why::Moving);
            if found.in_the_way.is_empty() || self.now >= deadline || (moved_on && found_more) {
                // At rest, a project that comes back from being held is a snapshot of the same serial.
                let comes_back = self.at_rest && !self.held.is_empty();
                if let Some(at) = found.serial.filter(|at| *at > self.base || comes_back) {
                    self.record(at, found.states, &holding);
                }
                return;
            }
            if moved_on {
                head = self.log.head().unwrap_or(self.base);
                wanted.extend(self.moving().difference(&asked).cloned());
            }
            wanted.extend(found.in_the_way.into_keys());
            self.pass(pause.min(deadline - self.now));
            pause = (pause * 2.0).min(5.0);
        }
    }

    /// A project's serial at the base: of one that was held the log, read back far enough, tells it.
    fn serial_at_base(&self, name: &ProjectName) -> Serial {
        let shown = self.shown.get(name).map_or(Serial::ZERO, |(serial, _)| *serial);
        if !self.held.contains_key(name) {
            return shown;
        }
        let now = self.world.now_ms();
        let events = self.world.events_of(name.as_str()).filter(|event| event.visible_ms <= now);
        events.map(|event| serial(event.serial)).filter(|at| *at <= self.base).max().unwrap_or(shown)
    }

    /// All that is known of the projects that may have changed.
    fn projects(&self) -> BTreeMap<ProjectName, Project<Arc<Facts>>> {
        let mut projects = BTreeMap::new();
        for name in self.moving() {
            let base = match (self.held.get(&name), self.shown.get(&name)) {
                (Some(needs), _) => Base::Unknown(*needs),
                (None, Some((_, Some(content)))) => Base::Known(content.clone()),
                (None, Some((_, None))) => Base::Quarantined,
                (None, None) => Base::Absent,
            };
            let pages = self.pages.get(&name).cloned().unwrap_or_default();
            let since = if matches!(base, Base::Unknown(_)) { Serial::ZERO } else { self.base };
            let serial = self.serial_at_base(&name);
            projects.insert(name, Project { base, serial, since, pages, shrunk: false });
        }
        projects
    }

    /// The cut of what is known, and what is held for it.
    fn cut(&mut self, target: Serial) -> (cut::Cut<Arc<Facts>>, BTreeMap<ProjectName, Serial>) {
        let projects = self.projects();
        let all = projects.iter().collect();
        let mut found = cut::cut(self.weather.rule, self.base, target, &self.log, &all, &Named);
        // Now and then an operator's patience ends: what stands in the way is held.
        let mut holding = BTreeMap::new();
        for (name, obstacle) in &found.in_the_way {
            if self.held.contains_key(name) || self.uniform() < self.weather.hold {
                holding.insert(name.clone(), obstacle.needs);
            }
        }
        if !holding.is_empty() {
            let rest = projects.iter().filter(|(name, _)| !holding.contains_key(*name)).collect();
            found = cut::cut(self.weather.rule, self.base, target, &self.log, &rest, &Named);
        }
        (found, holding)
    }

    fn record(
        &mut self,
        at: Serial,
        mut states: BTreeMap<ProjectName, State<Arc<Facts>>>,
        holding: &BTreeMap<ProjectName, Serial>,
    ) {
        let projects = self.projects();
        let mut due = Vec::new();
        for (name, needs) in holding {
            let early = !self.held.contains_key(name) && *needs > at;
            match cut::state_at(&projects[name], &self.log, at, ReleasesOf { project: name, releases: &Named }) {
                Ok(state) if early || matches!(state, State::Gone | State::Quarantined(_)) => {
                    states.insert(name.clone(), state);
                }
                _ => due.push(name),
            }
        }
        for (name, state) in states {
            match state {
                State::Untouched => continue,
                State::Gone => self.shown.remove(&name),
                State::Quarantined(serial) => self.shown.insert(name.clone(), (serial, None)),
                State::At(serial, content) => self.shown.insert(name.clone(), (serial, Some(content))),
            };
            self.held.remove(&name);
        }
        for name in due {
            if let Some(last) = self.log.of(name).iter().rfind(|change| change.serial <= at) {
                self.ran.holds += 1;
                self.held.insert(name.clone(), last.serial);
            }
        }
        self.base = at;
        self.ran.published += 1;
        self.log = Log::default();
        self.read_log();
        // What the next snapshot needs is kept, the rest forgotten.
        let moving = self.moving();
        self.pages.retain(|name, _| moving.contains(name));

        if !self.ran.published.is_multiple_of(self.weather.check_every) {
            return;
        }
        self.compare(&self.world.state_at(at.get()));
    }

    /// Takes down which projects are not as upstream had them at the newest snapshot's serial.
    fn compare(&mut self, truth: &BTreeMap<String, ProjectState>) {
        let compared = |shown| if self.weather.everything { told(shown) } else { shown };
        let names: BTreeSet<_> =
            truth.keys().map(|name| name.parse().unwrap()).chain(self.shown.keys().cloned()).collect();
        for name in names.iter().filter(|name: &&ProjectName| !self.held.contains_key(*name)) {
            let wanted = truth.get(name.as_str()).map(|state| compared(wanted(state)));
            let shown = self.shown.get(name).map(|shown| compared(shown.clone()));
            if wanted != shown {
                self.ran.wrong.push(format!("{name} at {}: upstream {wanted:?}, recorded {shown:?}", self.base));
            }
        }
    }

    /// Lets upstream stand still, follows it to its end, and compares the mirror with what every page says then, as one that begins
    /// there reads them. It is wrong, too, where the mirror does not come to that end.
    fn rest(&mut self) {
        (self.next_event, self.at_rest, self.weather.hold) = (f64::INFINITY, true, 0.0);
        let end = serial(self.world.serial());
        for _ in 0..60 {
            self.sync();
            if self.base == end && self.held.is_empty() {
                break;
            }
            self.pass(1.0);
        }
        if self.base != end || !self.held.is_empty() {
            let held: Vec<_> = self.held.keys().collect();
            self.ran.wrong.push(format!("it ends at {} and not at {end}, with {held:?} held", self.base));
        }
        self.compare(&self.world.state());
    }
}

/// Runs a mirror for as long as the weather says.
pub fn run(seed: u64, weather: Weather) -> Ran {
    watched(seed, weather).ran
}

/// As [`run`], and goes on until the mirror has reached an upstream that stands still.
pub fn run_to_rest(seed: u64, weather: Weather) -> Ran {
    let mut mirror = watched(seed, weather);
    mirror.rest();
    mirror.ran
}

fn watched(seed: u64, weather: Weather) -> Mirror {
    let mut mirror = Mirror::new(seed, weather);
    while mirror.now < f64::from(weather.seconds) {
        mirror.sync();
        mirror.pass(0.5);
    }
    mirror
}

/// Runs several seeds; returns how often something was published, and what was wrong.
pub fn run_all(weather: Weather, seeds: u64) -> (usize, Vec<String>) {
    let mut published = 0;
    let mut wrong = Vec::new();
    for seed in 0..seeds {
        let ran = run(seed, weather);
        published += ran.published;
        wrong.extend(ran.wrong);
    }
    (published, wrong)
}
