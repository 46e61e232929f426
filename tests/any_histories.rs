//! Mirrors of one upstream have one state, whatever their histories: whole syncs with their stores, of an index that is asked
//! without HTTP, on a clock of its own; everything from what proptest draws.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use proptest::prelude::*;
use serde_json::json;
use strandline_durable::Disk;
use strandline_model::{Blake3, DisplayName, Format as _, Leaf, ProjectName, Record, Serial, Timestamp, UpstreamUrl};
use strandline_pypi::Pypi;
use strandline_simulation::event;
use strandline_store::{Recorded, Store};
use strandline_sync::upstream::{Answer, Body, Event, Page, Problem, Skipped, Upstream, UpstreamError, Validator, Way};
use strandline_sync::{Context, Method, Outcome, Progress, Selection, Settings, SyncError};
use strandline_testkit::{FileState, Generator, ProjectState, Rng, Weights, World, history};
use tempfile::TempDir;

/// Where the index and its files seem to be.
const INDEX: &str = "https://index.example/simple/";
const FILES: &str = "https://files.example";

/// How many rows of the log there are in one answer: as many as a Warehouse gives.
const LOG_PAGE: usize = 50_000;

/// What a mirror follows that does not follow everything.
const SELECTED: [&str; 4] = ["zope.interface", "pair-base", "mixed3", "dash-dash-4"];

/// How upstream and the caches before it behave in one sync.
#[derive(Debug, Clone, Copy, Default)]
struct Weather {
    /// How old a page, or the list, may be, in milliseconds.
    stale: u64,
    /// How often upstream moves while it is asked for a page.
    moves: f64,
    /// How often a file is not given.
    lacks: f64,
    /// Whether the log cannot be read any more after the pages.
    breaks: bool,
}

/// An index without a server.
#[derive(Debug)]
struct Index {
    url: UpstreamUrl,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    world: World,
    generator: Generator,
    rng: Rng,
    weather: Weather,
    pages_asked: usize,
}

impl State {
    /// A moment that a cache may show.
    fn moment(&mut self) -> u64 {
        let age = self.rng.below(usize::try_from(self.weather.stale).unwrap() + 1);
        self.world.now_ms() - u64::try_from(age).unwrap()
    }

    fn move_on(&mut self) {
        self.generator.step(&mut self.world);
        self.world.advance(Duration::from_millis(200));
    }
}

impl Index {
    fn new(seed: u64) -> Self {
        let (mut world, generator) = history(seed, 12, 60, Weights::everything());
        world.stop_ticking();
        world.set_holes(0.05, seed);
        world.set_late(0.05, Duration::from_millis(500), seed);
        let (weather, pages_asked) = Default::default();
        let state = State { world, generator, rng: Rng::new(seed), weather, pages_asked };
        Self { url: INDEX.parse().unwrap(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What a mirror reads from a page, through the form of a mirror's own pages.
    fn page(project: &ProjectState) -> Page {
        let file = |file: &FileState| {
            let mut said = json!({
                "filename": file.filename, "url": format!("../..{}", file.url_path), "size": file.size,
                "hashes": { "sha256": file.sha256 }, "upload-time": file.upload_time,
                "yanked": file.yanked.as_deref().map_or(json!(false), |yanked| match yanked {
                    "" => json!(true),
                    reason => json!(reason),
                }),
            });
            if let Some(sha256) = &file.core_metadata {
                said["core-metadata"] = json!({ "sha256": sha256 });
            }
            said
        };
        let page = json!({
            "meta": { "api-version": "1.4", "_last-serial": project.page_serial }, "name": project.name,
            "project-status": { "status": project.status.as_str() }, "versions": project.versions,
            "files": project.files.iter().map(file).collect::<Vec<_>>(),
        });
        let read = Pypi.read(page.to_string().as_bytes()).unwrap();
        let (told, mut seen) = read.record().clone().into_parts();
        for (name, file) in &mut seen.files {
            file.url = Some(format!("{FILES}/{}", name.as_str()));
        }
        let (queries, skipped) = (BTreeMap::new(), Skipped::default());
        Page { record: Record::new(told, seen).unwrap(), serial: Some(read.serial()), queries, skipped }
    }
}

fn answer<T: Send + 'static>(answer: Result<T, Problem>) -> BoxFuture<'static, Result<T, UpstreamError>> {
    ready(answer.map_err(|problem| UpstreamError::new(INDEX, problem))).boxed()
}

fn serial(number: u64) -> Serial {
    number.try_into().unwrap()
}

impl Upstream for Index {
    fn url(&self) -> &UpstreamUrl {
        &self.url
    }

    fn page<'a>(
        &'a self,
        project: &'a ProjectName,
        validator: Option<&'a Validator>,
        _: Way,
    ) -> BoxFuture<'a, Result<Answer, UpstreamError>> {
        let mut state = self.state();
        state.pages_asked += 1;
        let moves = state.weather.moves;
        if state.rng.chance(moves) {
            state.move_on();
        }
        let at = state.moment();
        let Some(seen) = state.world.project_seen(project.as_str(), at) else { return answer(Ok(Answer::Missing)) };
        let tag = Validator(format!("\"{}\"", Blake3::of(format!("{seen:?}").as_bytes())));
        answer(Ok(if validator == Some(&tag) {
            Answer::NotModified
        } else {
            Answer::Page { page: Box::new(Self::page(&seen)), validator: Some(tag) }
        }))
    }

    fn file<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Body, UpstreamError>> {
        let mut state = self.state();
        let lacks = state.weather.lacks;
        if state.rng.chance(lacks) {
            return answer(Err(Problem::Status { status: 404, retry_after: None }));
        }
        let bytes = state.world.stored_named(url.rsplit('/').next().unwrap()).unwrap();
        answer(Ok(stream::iter([Ok(bytes)]).boxed()))
    }

    fn last_serial(&self) -> BoxFuture<'_, Result<Serial, UpstreamError>> {
        let State { world, .. } = &*self.state();
        answer(Ok(serial(world.serial_seen(world.now_ms()))))
    }

    fn events_since(&self, since: Serial) -> BoxFuture<'_, Result<Vec<Event>, UpstreamError>> {
        let State { world, weather, pages_asked, .. } = &*self.state();
        if weather.breaks && *pages_asked > 0 {
            return answer(Err(Problem::Malformed("it is broken".to_owned())));
        }
        answer(Ok(world.changelog(since.get(), LOG_PAGE, world.now_ms()).into_iter().map(event).collect()))
    }

    fn projects(&self) -> BoxFuture<'_, Result<Vec<(DisplayName, Serial)>, UpstreamError>> {
        let mut state = self.state();
        let at = state.moment();
        let list = state.world.list_seen(at).into_values();
        answer(Ok(list.map(|(name, number, _)| (name.parse().unwrap(), serial(number))).collect()))
    }
}

/// What a mirror is, and how it is followed.
struct Mirror {
    directory: TempDir,
    settings: Settings,
}

impl Mirror {
    fn new(change: impl FnOnce(Settings) -> Settings) -> Self {
        let usual = Settings {
            connections: 1,
            drain: Duration::ZERO,
            backoff: Duration::from_micros(10),
            cut_timeout: Duration::ZERO,
            settle: Duration::from_secs(1),
            method: Some(Method::Changelog),
            park_every: 3,
            ..Settings::new("pypi".parse().unwrap(), Selection::Everything)
        };
        // In memory where that can be had: there are hundreds of such stores.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Self { directory, settings: change(usual) }
    }

    fn store(&self) -> Arc<Store> {
        let store = Store::open(&self.directory.path().join("store"), Disk::new()).unwrap();
        store.finish().unwrap();
        store
    }

    /// The newest snapshot.
    fn newest(&self) -> Recorded {
        self.store().mirror(&self.settings.mirror).unwrap().unwrap().latest_verified().unwrap().unwrap()
    }

    fn select(&mut self, everything: bool) {
        let selected = SELECTED.map(|name| name.parse().unwrap());
        self.settings.selection = if everything { Selection::Everything } else { Selection::of(selected) };
    }

    fn sync(&self, index: &Arc<Index>, weather: Weather) -> Result<Outcome, SyncError> {
        let now = {
            let mut state = index.state();
            (state.weather, state.pages_asked) = (weather, 0);
            Timestamp::from_seconds(i64::try_from(state.world.now_ms() / 1000).unwrap()).unwrap()
        };
        let context = Context {
            store: self.store(),
            upstream: index.clone(),
            format: Arc::new(Pypi),
            settings: Arc::new(self.settings.clone()),
            clock: Arc::new(move || now),
            progress: Arc::new(Progress::default()),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(strandline_sync::sync(&context))
    }

    /// Syncs with an upstream that stands still until the mirror has all that upstream has.
    fn rest(&self, index: &Arc<Index>) -> Result<(), String> {
        let head = serial(index.state().world.serial());
        let mut last = String::new();
        for _ in 0..6 {
            index.state().world.advance(Duration::from_secs(3));
            match self.sync(index, Weather::default()) {
                Ok(done) if done.label.serial == head && done.held.is_empty() => return Ok(()),
                other => last = format!("{other:?}"),
            }
        }
        Err(format!("the mirror does not come to {head}: {last}"))
    }

    /// The projects of the newest snapshot, to be compared in a failed test.
    fn projects(&self) -> BTreeSet<String> {
        let leaves = self.store().leaves(&self.newest().snapshot).unwrap();
        let told = |leaf: &Leaf| leaf.record.map(|record| record.told.to_string());
        leaves.iter().map(|leaf| format!("{} {} {:?}", leaf.name, leaf.serial, told(leaf))).collect()
    }
}

#[derive(Debug, Clone)]
enum Act {
    /// Upstream takes so many steps.
    Move(usize),
    /// So many seconds pass.
    Pass(u64),
    /// Days pass, in which more happens elsewhere than any mirror reads the log back.
    Skip,
    Sync(usize, Weather),
    /// The last mirror follows everything, or some projects.
    Select(bool),
}

fn act() -> impl Strategy<Value = Act> {
    let often = || prop_oneof![2 => Just(0.0), 1 => 0.0..0.3];
    let weather = (prop_oneof![Just(0), 1..4_000_u64], often(), often(), prop::bool::weighted(0.1));
    let weather = weather.prop_map(|(stale, moves, lacks, breaks)| Weather { stale, moves, lacks, breaks });
    prop_oneof![
        4 => (1..25_usize).prop_map(Act::Move),
        2 => (1..10_u64).prop_map(Act::Pass),
        1 => Just(Act::Skip),
        8 => (0..MIRRORS, weather).prop_map(|(mirror, weather)| Act::Sync(mirror, weather)),
        1 => any::<bool>().prop_map(Act::Select),
    ]
}

const MIRRORS: usize = 3;

/// One that holds at once, one that never holds and sweeps everything, and one whose selection changes.
fn mirrors() -> [Mirror; MIRRORS] {
    [
        Mirror::new(|usual| Settings { hold_after: Duration::ZERO, settle: Duration::ZERO, ..usual }),
        Mirror::new(|usual| Settings {
            hold_after: Duration::from_hours(1_000_000),
            recheck: Duration::from_secs(1),
            ..usual
        }),
        Mirror::new(|usual| usual),
    ]
}

fn play(seed: u64, acts: &[Act]) -> Result<(), String> {
    let index = Arc::new(Index::new(seed));
    let mut mirrors = mirrors();
    for act in acts {
        match act {
            Act::Move(steps) => (0..*steps).for_each(|_| index.state().move_on()),
            Act::Pass(seconds) => index.state().world.advance(Duration::from_secs(*seconds)),
            Act::Skip => {
                let world = &mut index.state().world;
                world.skip_serials(60_000);
                world.advance(Duration::from_hours(72));
            }
            // That a sync cannot do everything in bad weather, or anything, is its right.
            Act::Sync(mirror, weather) => drop(mirrors[*mirror].sync(&index, *weather)),
            Act::Select(everything) => mirrors[MIRRORS - 1].select(*everything),
        }
    }
    mirrors[MIRRORS - 1].select(true);
    index.state().move_on();
    let last = Mirror::new(|usual| usual);
    for mirror in mirrors.iter().chain([&last]) {
        mirror.rest(&index)?;
    }
    let wanted = last.newest();
    for (number, mirror) in mirrors.iter().enumerate() {
        let found = mirror.newest();
        if (found.snapshot.follow, found.missed) != (wanted.snapshot.follow, false) {
            return Err(format!("nothing is promised of mirror {number}"));
        }
        if found.snapshot.state != wanted.snapshot.state {
            let (found, wanted) = (mirror.projects(), last.projects());
            let differ: Vec<_> = found.symmetric_difference(&wanted).collect();
            return Err(format!("mirror {number} was told otherwise: {differ:#?}"));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mirrors_with_any_histories_have_one_state(
        seed in any::<u64>(),
        acts in prop::collection::vec(act(), 1..30),
    ) {
        let played = play(seed, &acts);
        prop_assert!(played.is_ok(), "{}", played.unwrap_err());
    }
}
