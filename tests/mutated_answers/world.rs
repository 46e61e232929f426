//! An upstream that moves, an edge of it that lies, and a mirror behind each.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use strandline_durable::Disk;
use strandline_model::{DisplayName, Formats, Leaf, Method, ProjectName, Timestamp, Unit};
use strandline_pypi::{Index, Pypi};
use strandline_store::{Mirror as Recorded, Store};
use strandline_sync::{Context, Outcome, Progress, Selection, Settings, SyncError};
use strandline_testkit::{FileState, ProjectState, Response, START_MS, Upstream, World};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::judge::Round;
use crate::mutate::{self, dice};

/// Longer than `hold-after`, in seconds.
const HOLD: u64 = 601;
const DAY: u64 = 86_400;

/// What a run follows from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) projects: usize,
    /// How many of them have wrong answers in most rounds; the others never have.
    pub(crate) touched: usize,
    pub(crate) method: Method,
    /// Whether upstream has pages in JSON.
    pub(crate) json: bool,
    /// Whether the mirror is one of everything, and not of named projects.
    pub(crate) everything: bool,
}

/// What is wrong about a project in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    Page,
    /// The first answer for the page.
    FirstPage,
    Files,
}

/// What was served in a round, and how often in all it was wrong.
#[derive(Debug, Default)]
pub(crate) struct Served {
    pub(crate) pages: Mutex<HashMap<String, Vec<Bytes>>>,
    begun: AtomicU64,
    mutated: AtomicU64,
}

/// A mirror in a store of its own.
pub(crate) struct Mirror {
    context: Context,
    upstream: String,
}

impl Mirror {
    fn new(root: &Path, upstream: &Upstream, run: Run, names: &[String]) -> Self {
        let formats = Formats::usual(Arc::new(Pypi));
        let store = strandline_sync::open(root, Disk::new(), &formats, at(0)).unwrap();
        let names = names.iter().map(|name| name.parse::<DisplayName>().unwrap());
        let selection = if run.everything { Selection::Everything } else { Selection::of(names) };
        let settings = Settings {
            method: Some(run.method),
            cut_timeout: Duration::ZERO,
            drain: Duration::ZERO,
            // Ten of these are the time in which the page of a held project has to come.
            backoff: Duration::from_millis(50),
            ..Settings::new("pypi".parse().unwrap(), selection)
        };
        let context = Context {
            upstream: Arc::new(index(&upstream.simple_url())),
            store,
            format: Arc::new(Pypi),
            settings: Arc::new(settings),
            clock: Arc::new(|| at(0)),
            progress: Arc::new(Progress::default()),
        };
        Self { context, upstream: upstream.simple_url() }
    }

    /// One sync at a time.
    fn sync(&self, runtime: &Runtime, time: u64) -> Result<Outcome, SyncError> {
        let upstream = Arc::new(index(&self.upstream));
        let context = Context { upstream, clock: Arc::new(move || at(time)), ..self.context.clone() };
        runtime.block_on(strandline_sync::sync(&context))
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.context.store
    }

    pub(crate) fn recorded(&self) -> Recorded {
        self.store().mirror(&self.context.settings.mirror).unwrap().unwrap()
    }

    /// What it has of each project.
    pub(crate) fn units(&self) -> BTreeMap<ProjectName, (Leaf, Option<Unit>)> {
        let snapshot = self.recorded().latest_verified().unwrap().unwrap().snapshot;
        let leaves = self.store().leaves(&snapshot).unwrap();
        let ids: Vec<_> = leaves.iter().filter_map(|leaf| leaf.unit).collect();
        let mut units = self.store().units(&ids).unwrap().into_iter();
        let with = |leaf: Leaf| {
            let unit = leaf.unit.and_then(|_| units.next());
            (leaf.name.clone(), (leaf, unit))
        };
        leaves.into_iter().map(with).collect()
    }
}

fn index(url: &str) -> Index {
    let settings = strandline_pypi::Settings {
        // An answer that does not end is waited for as long.
        idle_timeout: Duration::from_millis(400),
        ..strandline_pypi::Settings::new(url.parse().unwrap())
    };
    Index::new(settings).unwrap()
}

/// A moment, in seconds after the beginning.
fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(i64::try_from(START_MS / 1000 + DAY + seconds).unwrap()).unwrap()
}

/// An upstream and its two mirrors.
pub(crate) struct Two {
    run: Run,
    names: Vec<String>,
    pub(crate) upstream: Upstream,
    /// The same upstream, with answers that may be wrong.
    edge: Upstream,
    pub(crate) mirror: Mirror,
    pub(crate) twin: Mirror,
    pub(crate) served: Arc<Served>,
    /// The SHA-256 of every file and metadata file that ever was, by name.
    pub(crate) files: HashMap<String, String>,
    /// The files that were published because a page gave them this name and SHA-256.
    pub(crate) believed: Mutex<HashSet<(String, String)>>,
    runtime: Runtime,
    time: u64,
    _directory: TempDir,
}

impl Two {
    fn new(run: Run) -> Self {
        let mut index = World::new();
        let names: Vec<String> = (0..run.projects).map(|number| format!("p{number}")).collect();
        for name in &names {
            index.release(name, "0.1");
            index.release(name, "0.2");
        }
        let upstream = Upstream::start(index).unwrap();
        upstream.set_manual_clock(START_MS + DAY * 1000);
        let edge = upstream.edge().unwrap();
        for server in [&upstream, &edge] {
            server.json(run.json);
            server.gzip(false);
            // So that each server's pages lead to its own files.
            server.file_base("../..");
        }
        let directory = tempfile::tempdir().unwrap();
        let mirror = Mirror::new(&directory.path().join("mirror"), &edge, run, &names);
        let twin = Mirror::new(&directory.path().join("twin"), &upstream, run, &names[run.touched..]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (served, files, believed) = Default::default();
        let mut two = Self {
            run,
            names,
            upstream,
            edge,
            mirror,
            twin,
            served,
            files,
            believed,
            runtime,
            time: 0,
            _directory: directory,
        };
        two.learn_files();
        two
    }

    /// Lets time pass.
    fn pass(&mut self, seconds: u64) {
        self.time += seconds;
        self.upstream.advance(Duration::from_secs(seconds));
    }

    fn learn_files(&mut self) {
        self.files.extend(self.upstream.world().state().values().flat_map(|state| files_of(Some(state))));
    }

    fn sync(&self) -> Result<Outcome, SyncError> {
        self.mirror.sync(&self.runtime, self.time)
    }

    fn sync_twin(&self) {
        let outcome = self.twin.sync(&self.runtime, self.time).unwrap();
        assert_eq!((outcome.held.len(), outcome.lacking.len()), (0, 0), "the twin has no wrong answer");
    }

    /// Lets something happen to each project that is more than one about people.
    fn move_all(&mut self, round: u64) {
        let mut world = self.upstream.world();
        for name in &self.names {
            let mut rng = dice(self.run.seed, name, round << 8);
            let files = world.project(name).map(|state| state.files).unwrap_or_default();
            let first = files.first().filter(|_| files.len() > 2);
            match (rng.below(8), first) {
                (0, Some(file)) => world.yank(name, &file.version, Some("broken")),
                (1, Some(file)) => world.remove_file(name, &file.filename),
                (2 | 3, Some(file)) => world.remove_release(name, &file.version),
                _ => world.release(name, &format!("{round}.{}", rng.below(3))),
            };
        }
        drop(world);
        self.learn_files();
    }

    /// What is wrong about a project in a round.
    fn lie(run: Run, name: &str, round: u64) -> Option<Lie> {
        let number: usize = name.strip_prefix('p').and_then(|number| number.parse().ok())?;
        let kinds = [None, Some(Lie::FirstPage), Some(Lie::FirstPage), Some(Lie::Files), Some(Lie::Files)];
        let kind = kinds.get(dice(run.seed, name, round).below(9)).copied().unwrap_or(Some(Lie::Page));
        kind.filter(|_| number < run.touched)
    }

    /// From now on the edge's answers for pages and files are wrong as the seed says.
    fn mutate_pages(&self, round: u64) {
        let (run, served) = (self.run, Arc::clone(&self.served));
        let asked: Mutex<HashMap<String, u64>> = Mutex::default();
        served.pages.lock().unwrap().clear();
        self.edge.change_answers(move |path, method, answer| {
            let project = match path.strip_prefix("/simple/") {
                Some(rest) => rest.trim_matches('/').to_owned(),
                // `p7-1.0-py3-none-any.whl`
                None => path.rsplit('/').next().and_then(|file| file.split('-').next()).unwrap_or_default().to_owned(),
            };
            let is_file = path.starts_with("/packages/");
            let nth = {
                let mut asked = asked.lock().unwrap();
                let nth = asked.entry(path.to_owned()).or_default();
                *nth += 1;
                *nth
            };
            let lies = match Self::lie(run, &project, round) {
                Some(Lie::Page) => !is_file,
                Some(Lie::FirstPage) => !is_file && nth == 1,
                Some(Lie::Files) => is_file,
                None => false,
            };
            if !method.is_empty() || project.is_empty() {
                return answer;
            }
            let mut rng = dice(run.seed ^ 7, path, round);
            let mutate = if is_file { mutate::file } else { mutate::answer };
            let lies = lies && matches!(answer.status, 200 | 206);
            let answer = if lies { served.mutated(|| mutate(&mut rng, path, answer)) } else { answer };
            if !is_file {
                // Of another answer only the status is read: "not modified" lists nothing new.
                let read = if answer.status == 200 { answer.body.clone() } else { Bytes::new() };
                served.pages.lock().unwrap().entry(project).or_default().push(read);
            }
            answer
        });
    }
}

impl Served {
    fn mutated(&self, mutate: impl FnOnce() -> Response) -> Response {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let answer = mutate();
        self.mutated.fetch_add(1, Ordering::Relaxed);
        answer
    }

    /// How many answers were wrong. A test whose own function panicked has shown nothing.
    fn count(&self) -> u64 {
        let count = self.mutated.load(Ordering::SeqCst);
        assert_eq!(self.begun.load(Ordering::SeqCst), count, "changing an answer panicked: see above");
        count
    }
}

impl Run {
    /// Mutates the answers for pages and files until so many were wrong, and judges.
    pub(crate) fn pages(self, answers: u64) {
        let mut two = Two::new(self);
        two.sync().unwrap();
        two.sync_twin();
        let (mut rounds, mut published, mut lies) = (0, 0, 0);
        while two.served.count() < answers {
            rounds += 1;
            two.pass(60);
            two.move_all(rounds);
            two.mutate_pages(rounds);
            two.pass(60);
            let first = two.sync();
            two.pass(HOLD);
            let second = two.sync();
            two.sync_twin();
            let touched = |name: &str| Two::lie(self, name, rounds);
            let judged = Round { run: self, number: rounds, two: &two, touched: &touched }.judge(&first, &second);
            published += u64::from(judged.published);
            lies += judged.believed;
        }
        assert!(published * 10 >= rounds * 9, "{self:?}: {published} of {rounds} syncs published something");
        let served = two.served.count();
        assert!(lies * 100 <= served, "{self:?}: {lies} wrong digests were believed in {served} wrong answers");
        two.recovers();
    }

    /// Mutates answers of the log, or for the list, until so many were wrong; most requests get one that is wrong.
    fn answers(self, answers: u64, is_meant: fn(&str, &str) -> bool) {
        let mut two = Two::new(self);
        two.sync().unwrap();
        let mut rounds = 0;
        while two.served.count() < answers {
            rounds += 1;
            two.pass(60);
            two.move_some(rounds);
            two.mutate(rounds, is_meant);
            let before = two.listed();
            let outcome = two.sync();
            let listed = two.listed();
            assert!(listed + 10 >= before, "{self:?}, round {rounds}: {listed} of {before} are listed, {outcome:?}");
            for (name, project) in two.mirror.units() {
                for (file, sha256) in files(Some(&project)) {
                    assert_eq!(Some(&sha256), two.files.get(&file), "{self:?}, round {rounds}: {file} of {name}");
                }
            }
            if rounds % 40 == 0 {
                two.recovers();
            }
        }
        two.recovers();
    }

    /// Mutates the changelog.
    pub(crate) fn log(self, answers: u64) {
        self.answers(answers, |_, method| method.starts_with("changelog"));
    }

    /// Mutates the list of projects.
    pub(crate) fn list(self, answers: u64) {
        self.answers(answers, |path, method| path == "/simple/" || method.starts_with("list"));
    }
}

impl Two {
    /// How many projects the root lists name.
    fn listed(&self) -> u64 {
        self.mirror.recorded().latest_verified().unwrap().unwrap().snapshot.listed
    }

    /// Lets something happen to some projects.
    fn move_some(&mut self, round: u64) {
        let mut rng = dice(self.run.seed, "some", round);
        let names = self.names.clone();
        self.names.retain(|_| rng.chance(0.1));
        self.move_all(round);
        self.names = names;
    }

    /// From now on most of the edge's answers that are meant are wrong as the seed says.
    fn mutate(&self, round: u64, is_meant: fn(&str, &str) -> bool) {
        let (run, served) = (self.run, Arc::clone(&self.served));
        let asked = AtomicU64::new(0);
        self.edge.change_answers(move |path, method, answer| {
            if !is_meant(path, method) || answer.status != 200 {
                return answer;
            }
            let mut rng = dice(run.seed, method, round << 16 | asked.fetch_add(1, Ordering::Relaxed));
            if rng.chance(0.7) { served.mutated(|| mutate::answer(&mut rng, path, answer)) } else { answer }
        });
    }

    /// When upstream's answers are right again, the mirror comes to have what upstream has.
    fn recovers(&mut self) {
        self.edge.keep_answers();
        let mut last = None;
        for seconds in [60, HOLD, 4 * DAY, 4 * DAY, DAY] {
            self.pass(seconds);
            last = Some(self.sync());
        }
        let (ours, right) = (self.mirror.units(), self.upstream.world().state());
        let names: BTreeSet<_> = ours.keys().map(ProjectName::as_str).chain(right.keys().map(String::as_str)).collect();
        let differs = |name: &&str| files(ours.get(*name)) != files_of(right.get(*name));
        let told = |name| format!("{name} has {:?}\nand not {:?}", files(ours.get(name)), files_of(right.get(name)));
        let others: Vec<_> = names.into_iter().filter(differs).map(told).collect();
        assert!(others.is_empty(), "{:?}: after all is right again:\n{}\n{last:?}", self.run, others.join("\n"));
        let mirrors = self.mirror.store().mirrors().unwrap();
        let data = strandline_store::verify::Data::default();
        let found = strandline_store::verify::verify(self.mirror.store(), &mirrors, Some(&data), &|_| {}).unwrap();
        assert!(found.damage.is_empty(), "{:?}", found.damage);
    }
}

/// What readers get of a project: whether it is listed, and its pages and files.
pub(crate) fn shown(project: Option<&(Leaf, Option<Unit>)>) -> Option<(bool, Vec<(String, String)>)> {
    let (leaf, unit) = project?;
    let entries = unit.iter().flat_map(Unit::entries);
    Some((leaf.listed, entries.map(|entry| (entry.path.to_string(), entry.sha256.to_string())).collect()))
}

/// The files and metadata files that readers get of a project, by name, with their SHA-256. Their paths say how they were found: of
/// a file whose URL was wrong once, it stays the one that was made for it.
pub(crate) fn files(project: Option<&(Leaf, Option<Unit>)>) -> BTreeSet<(String, String)> {
    let entries = shown(project).map(|(_, entries)| entries).unwrap_or_default();
    let files = entries.into_iter().filter(|(path, _)| path.starts_with("packages/"));
    files.map(|(path, sha256)| (path.rsplit('/').next().unwrap().to_owned(), sha256)).collect()
}

/// The same, as upstream has them.
pub(crate) fn files_of(project: Option<&ProjectState>) -> BTreeSet<(String, String)> {
    let files = project.map(|project| project.files.as_slice()).unwrap_or_default().iter();
    let both = |file: &FileState| {
        let metadata = file.core_metadata.clone().map(|sha256| (format!("{}.metadata", file.filename), sha256));
        metadata.into_iter().chain([(file.filename.clone(), file.sha256.clone())])
    };
    files.flat_map(both).collect()
}
