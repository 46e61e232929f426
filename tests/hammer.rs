//! The promise of the project, while everything moves: upstream writes 20 events a second and lies in one way at a time,
//! `sync` runs in a loop, and readers sweep the live view through nginx and pinned serials through `strandline serve`.
//!
//! What each setting shows:
//!
//! 1. Every pinned serial is upstream's state at that serial, field by field.
//! 2. A sweep of the live view shows at most one serial more than the switches that fell into it, each page of it is to
//!    the byte that of a recorded serial, and no serial comes before one that was seen already.
//! 3. Where the dependent is, the release that it requires is, with its file.
//! 4. Enough serials are published, and when upstream rests, one sync brings the mirror to its head.
//!
//! `STRANDLINE_HAMMER_SECONDS` says for how long upstream moves in each setting; `scripts/hammer` lets it be 60 s.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use strandline_testkit::{Age, Endpoint, Fault, Label, On, PAIR, Rule, Status, Upstream, Weights, history, normalise};

use crate::server::{Nginx, Serve};
use crate::truth::{shown_fields, wanted_fields};
use crate::world::{World, text};

const PROJECTS: usize = 400;
const EVENTS_PER_SECOND: f64 = 20.0;
const JSON: &str = "application/vnd.pypi.simple.v1+json";

/// One way in which upstream lies.
struct Setting {
    name: &'static str,
    /// What is configured for it, beside what all have.
    lines: &'static str,
    /// Makes upstream lie, from before its first move.
    begin: fn(&Upstream),
    /// How long after the last event the lie may still be seen.
    stale: Duration,
    /// Whether events come to light later than anybody waits for them, so that snapshots lack some and are marked.
    misses: bool,
}

fn stale(upstream: &Upstream, not_found: bool, flapping: bool) {
    let fault = Fault::Stale { age: Age::UpTo(Duration::from_secs(5)), not_found, flapping };
    upstream.fault(Rule::new(On::Kind(Endpoint::Page), fault));
}

#[test]
fn no_fault() {
    hammer(&Setting { name: "no fault", lines: "", begin: |_| {}, stale: Duration::ZERO, misses: false });
}

#[test]
fn stale_pages() {
    let stale_for = Duration::from_secs(5);
    hammer(&Setting {
        name: "pages up to 5 s old",
        lines: "",
        begin: |upstream| stale(upstream, false, false),
        stale: stale_for,
        misses: false,
    });
}

#[test]
fn stale_pages_and_404s() {
    let stale_for = Duration::from_secs(5);
    hammer(&Setting {
        name: "pages and 404s up to 5 s old",
        lines: "",
        begin: |upstream| stale(upstream, true, false),
        stale: stale_for,
        misses: false,
    });
}

#[test]
fn flapping_nodes() {
    let stale_for = Duration::from_secs(5);
    hammer(&Setting {
        name: "every other answer up to 5 s old",
        lines: "",
        begin: |upstream| stale(upstream, true, true),
        stale: stale_for,
        misses: false,
    });
}

#[test]
fn events_out_of_order() {
    hammer(&Setting {
        name: "1 of 20 events seen 3 s late, holes",
        lines: "settle = \"4s\"",
        begin: |upstream| {
            let mut world = upstream.world();
            world.set_late(0.05, Duration::from_secs(3), 11);
            world.set_holes(0.02, 12);
        },
        // The last event may be a late one, or stand behind a hole.
        stale: Duration::from_secs(5),
        misses: false,
    });
}

#[test]
fn events_later_than_anybody_waits() {
    hammer(&Setting {
        name: "1 of 20 events seen 3 s late, nobody waits",
        lines: "settle = \"0s\"",
        begin: |upstream| upstream.world().set_late(0.05, Duration::from_secs(3), 11),
        stale: Duration::from_secs(4),
        misses: true,
    });
}

#[test]
fn labels_below_content() {
    hammer(&Setting {
        name: "labels 3 s behind the content",
        lines: "",
        begin: |upstream| {
            let label = Fault::Label(Label::Behind(Duration::from_secs(3)));
            upstream.fault(Rule::new(On::Kind(Endpoint::Page), label));
        },
        stale: Duration::from_secs(3),
        misses: false,
    });
}

#[test]
fn broken_answers() {
    hammer(&Setting {
        name: "5 % 5xx, 2 % resets, 1 % short, 1 % corrupt files",
        lines: "",
        begin: |upstream| {
            let unavailable = Fault::Status { status: 503, retry_after: Some(0) };
            for (on, fault, chance) in [
                (On::Everything, unavailable, 0.05),
                (On::Everything, Fault::Reset, 0.02),
                (On::Everything, Fault::Truncate, 0.01),
                (On::Kind(Endpoint::File), Fault::Corrupt, 0.01),
                (On::Kind(Endpoint::Metadata), Fault::Corrupt, 0.01),
            ] {
                upstream.fault(Rule::new(on, fault).chance(chance));
            }
        },
        stale: Duration::ZERO,
        misses: false,
    });
}

/// For how long upstream moves.
fn length() -> Duration {
    let seconds = std::env::var("STRANDLINE_HAMMER_SECONDS").map_or(12, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

/// Settings one after the other: two at once would only measure the machine.
static TURN: Mutex<()> = Mutex::new(());

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A page as a reader saw it: 0 for one that is not there, else a digest of its bytes.
type Seen = u64;

/// A connection that is kept, for a reader asks a thousand times.
struct Reader {
    at: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Reader {
    fn new(at: SocketAddr) -> Self {
        Self { at, stream: None }
    }

    /// The page at a path; `None` if there is none.
    fn get(&mut self, path: &str) -> Option<Vec<u8>> {
        // A server may close a connection that was kept, between two requests; a fresh one has to answer.
        let kept = self.stream.take().and_then(|stream| self.try_get(stream, path));
        let (status, body) = kept.unwrap_or_else(|| {
            let stream = TcpStream::connect(self.at).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let answer = self.try_get(BufReader::new(stream), path);
            assert!(answer.is_some(), "{path}: no answer");
            answer.unwrap_or_default()
        });
        assert!(status == 200 || status == 404, "{path}: {status}");
        (status == 200).then_some(body)
    }

    fn try_get(&mut self, mut stream: BufReader<TcpStream>, path: &str) -> Option<(u16, Vec<u8>)> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: {JSON}\r\n\r\n", self.at);
        stream.get_mut().write_all(request.as_bytes()).ok()?;
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let (mut length, mut keep) = (0, true);
        loop {
            line.clear();
            stream.read_line(&mut line).ok()?;
            let header = line.trim_end().to_ascii_lowercase();
            match header.split_once(':') {
                None => break,
                Some(("content-length", value)) => length = value.trim().parse().ok()?,
                Some(("connection", value)) => keep = value.trim() != "close",
                Some(_) => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        self.stream = keep.then_some(stream);
        Some((status, body))
    }
}

fn seen(page: Option<&Vec<u8>>) -> Seen {
    page.map_or(0, |body| {
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        hasher.finish().max(1)
    })
}

/// Everything that a snapshot, or a sweep of the live view, shows; the list of all projects under the empty name.
type Sweep = BTreeMap<String, Seen>;

/// One sweep of the live view.
struct Swept {
    /// In the order in which it was read.
    pages: Vec<(String, Seen)>,
    /// How many switches there had been at its beginning and its end.
    switches: (u64, u64),
}

/// What the readers and the loop share.
struct Field<'a> {
    world: &'a World,
    nginx: SocketAddr,
    serve: SocketAddr,
    /// Whether the readers have ended.
    stopped: AtomicBool,
    /// Whether all syncs have ended.
    ended: AtomicBool,
    /// Where `live` pointed when it was last looked at, and how often that had changed.
    live: Mutex<(PathBuf, u64)>,
    /// The serials that were published, in order.
    published: Mutex<Vec<u64>>,
    pinned: Mutex<BTreeMap<u64, Sweep>>,
    /// How pinned serials differ from upstream's state.
    wrong: Mutex<BTreeMap<u64, String>>,
}

/// How far behind upstream the live view is, in events and seconds, at some moments.
#[derive(Default)]
struct Lag {
    events: Vec<u32>,
    seconds: Vec<f64>,
}

impl Field<'_> {
    fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    /// How often the view has been switched. Two switches are never taken for one: `drain` is between them, and
    /// [`watch`](Self::watch) looks far more often.
    fn switches(&self) -> u64 {
        let mut live = locked(&self.live);
        let target = std::fs::read_link(self.world.path("store/views/pypi/live")).unwrap();
        if target != live.0 {
            *live = (target, live.1 + 1);
        }
        live.1
    }

    /// The names of all projects that ever were.
    fn names(&self) -> Vec<String> {
        let names: BTreeSet<_> =
            self.world.upstream.world().events().map(|event| event.name.clone()).collect::<BTreeSet<_>>();
        let names: BTreeSet<_> = names.iter().map(|name| normalise(name)).collect();
        std::iter::once(String::new()).chain(names).collect()
    }

    /// Sweeps the live view again and again.
    fn sweep_live(&self) -> Vec<Swept> {
        let mut reader = Reader::new(self.nginx);
        let mut sweeps = Vec::new();
        while self.goes_on() {
            let names = self.names();
            let begin = self.switches();
            let pages = names.into_iter().map(|name| {
                let page = reader.get(&path("", &name));
                (name, seen(page.as_ref()))
            });
            let pages = pages.collect();
            sweeps.push(Swept { pages, switches: (begin, self.switches()) });
        }
        sweeps
    }

    /// Sweeps pinned serials: the newest that was not, or one that was, which has to be the same.
    fn sweep_pinned(&self) -> usize {
        let mut reader = Reader::new(self.serve);
        let mut count = 0;
        while self.goes_on() {
            let known = locked(&self.published).clone();
            let new = known.iter().rev().find(|serial| !locked(&self.pinned).contains_key(serial));
            match new.or_else(|| known.get(count % known.len().max(1))) {
                Some(serial) => self.sweep(*serial, &mut reader),
                None => std::thread::sleep(Duration::from_millis(50)),
            }
            count += 1;
        }
        count
    }

    /// Sweeps one pinned serial and compares it with upstream's state.
    fn sweep(&self, serial: u64, reader: &mut Reader) {
        let at = format!("/@{serial}");
        let truth: BTreeMap<_, _> = self.world.upstream.world().state_at(serial);
        let truth: BTreeMap<_, _> =
            truth.into_iter().filter(|(_, state)| state.status != Status::Quarantined).collect();
        let mut problems = Vec::new();
        let listed = reader.get(&path(&at, "")).unwrap();
        let list: Value = serde_json::from_slice(&listed).unwrap();
        let line = |project: &Value| (text(&project["name"]), project["_last-serial"].as_u64());
        let listed: BTreeSet<_> = list["projects"].as_array().unwrap().iter().map(line).collect();
        let wanted = truth.values().map(|state| (state.display_name.clone(), Some(state.content_serial))).collect();
        if listed != wanted || list["meta"]["_last-serial"] != serial {
            let differ: Vec<_> = listed.symmetric_difference(&wanted).collect();
            problems.push(format!("the list of projects: {differ:?}"));
        }
        let mut sweep = Sweep::new();
        for name in self.names() {
            let page = reader.get(&path(&at, &name));
            sweep.insert(name.clone(), seen(page.as_ref()));
            if name.is_empty() {
                continue;
            }
            let shown = page.map(|body| serde_json::from_slice::<Value>(&body).unwrap());
            let (shown, wanted) = (shown.as_ref().map(shown_fields), truth.get(&name).map(wanted_fields));
            if shown != wanted {
                problems.push(format!("{name}: upstream {wanted:#?}, recorded {shown:#?}"));
            }
        }
        if !problems.is_empty() {
            locked(&self.wrong).insert(serial, problems.join("\n"));
        }
        let before = locked(&self.pinned).insert(serial, sweep.clone());
        if let Some(before) = before {
            let other = before.iter().find(|(name, seen)| sweep.get(*name) != Some(seen));
            assert_eq!(other, None, "serial {serial} is not what it was");
        }
    }

    /// Reads a dependent and what it requires, in the order in which an installer does.
    fn read_pairs(&self, misses: bool) -> usize {
        let mut reader = Reader::new(self.nginx);
        let (base, dependent) = (normalise(PAIR.0), normalise(PAIR.1));
        let mut count = 0;
        while self.goes_on() {
            let page = |body: Vec<u8>| serde_json::from_slice::<Value>(&body).unwrap();
            let dependent = page(reader.get(&path("", &dependent)).unwrap());
            let base = page(reader.get(&path("", &base)).unwrap());
            let versions =
                |page: &Value| page["versions"].as_array().unwrap().iter().map(text).collect::<BTreeSet<_>>();
            let (has, needs) = (versions(&base), versions(&dependent));
            let missing: Vec<_> = needs.difference(&has).collect();
            let whole = missing.is_empty() || misses;
            assert!(whole, "read {count}: {missing:?} of {} are required and not there", PAIR.0);
            for page in [&base, &dependent] {
                let file = page["files"].as_array().unwrap().last().unwrap();
                let url = text(&file["url"]).replacen("../..", "/pypi", 1);
                let body = reader.get(&url);
                let length = body.as_ref().map(Vec::len);
                assert_eq!(length.map(|length| Value::from(length as u64)).as_ref(), Some(&file["size"]), "{url}");
            }
            count += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        count
    }

    /// Watches how far behind the live view is, and that it never goes back.
    fn watch(&self) -> Lag {
        let mut reader = Reader::new(self.nginx);
        let (mut lag, mut newest, mut next) = (Lag::default(), 0, Instant::now());
        while !self.ended.load(Ordering::Relaxed) {
            self.switches();
            if self.goes_on() && Instant::now() >= next {
                next += Duration::from_millis(250);
                let serial = live_serial(&mut reader);
                assert!(serial >= newest, "serial {serial} comes after {newest}");
                newest = serial;
                let upstream = self.world.upstream.world();
                let missing: Vec<_> = upstream.events().filter(|event| event.serial > serial).collect();
                lag.events.push(u32::try_from(missing.len()).unwrap());
                let since = missing.first().map_or(0, |event| upstream.now_ms().saturating_sub(event.at_ms));
                lag.seconds.push(Duration::from_millis(since).as_secs_f64());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        lag
    }
}

/// The serial of the list of all projects that readers see.
fn live_serial(reader: &mut Reader) -> u64 {
    let list: Value = serde_json::from_slice(&reader.get(&path("", "")).unwrap()).unwrap();
    list["meta"]["_last-serial"].as_u64().unwrap()
}

fn path(at: &str, name: &str) -> String {
    if name.is_empty() { format!("/pypi{at}/simple/") } else { format!("/pypi{at}/simple/{name}/") }
}

/// How many serials a sweep shows at least, when no serial may come before `earliest` (an index of `published`) or before
/// another that was seen; and the index of the last one.
fn serials_in(swept: &Swept, published: &[Sweep], mut earliest: usize) -> Result<(u64, usize), String> {
    // What a snapshot's sweep does not have was not there yet.
    let fits = |index: usize, (name, seen): &(String, Seen)| published[index].get(name).copied().unwrap_or(0) == *seen;
    let mut count = 1;
    let mut candidates: Vec<usize> = (earliest..published.len()).collect();
    for page in &swept.pages {
        let still: Vec<_> = candidates.iter().copied().filter(|index| fits(*index, page)).collect();
        if still.is_empty() {
            // The earliest that would have done leaves most room for what comes.
            earliest = candidates[0];
            count += 1;
            candidates = (earliest..published.len()).filter(|index| fits(*index, page)).collect();
            if candidates.is_empty() {
                return Err(format!("`{}` is not of any serial that may come there", page.0));
            }
        } else {
            candidates = still;
        }
    }
    Ok((count, candidates[0]))
}

fn hammer(setting: &Setting) {
    let _turn = locked(&TURN);
    let (index, generator) = history(7, PROJECTS, PROJECTS, Weights::journaled());
    let lines = format!("source = \"warehouse\"\n{}", setting.lines);
    let world = World::new(index, "");
    // A second line of the same key would not be accepted.
    let upstream = world.upstream.simple_url();
    let configuration =
        format!("store = \"store\"\n[mirror.pypi]\nupstream = \"{upstream}\"\ndrain = \"1s\"\n{lines}\n");
    std::fs::write(world.path("strandline.toml"), configuration).unwrap();
    world.done(&["sync"]);
    let (nginx, serve) = (Nginx::start(&world), Serve::start(&world));
    let field = Field {
        world: &world,
        nginx: nginx.at,
        serve: serve.at,
        stopped: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        live: Mutex::new((std::fs::read_link(world.path("store/views/pypi/live")).unwrap(), 0)),
        published: Mutex::default(),
        pinned: Mutex::default(),
        wrong: Mutex::default(),
    };
    let mut reader = Reader::new(nginx.at);
    locked(&field.published).push(live_serial(&mut reader));

    (setting.begin)(&world.upstream);
    world.upstream.run_at(EVENTS_PER_SECOND, generator).unwrap();
    let mut ends: BTreeMap<i32, usize> = BTreeMap::new();
    let (sweeps, pinned, pairs, lag) = std::thread::scope(|scope| {
        let live = scope.spawn(|| field.sweep_live());
        let pinned = scope.spawn(|| field.sweep_pinned());
        let pairs = scope.spawn(|| field.read_pairs(setting.misses));
        let lag = scope.spawn(|| field.watch());
        // Whatever goes wrong here, the readers have to end.
        let looped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let end = Instant::now() + length();
            while Instant::now() < end {
                sync(&field, &mut reader, &mut ends);
            }
        }));
        field.stopped.store(true, Ordering::Relaxed);
        let ended = (live.join(), pinned.join(), pairs.join());
        // Upstream rests: one sync after its lies have ended brings everything.
        let rested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            drop(world.upstream.stop_moving());
            std::thread::sleep(setting.stale);
            sync(&field, &mut reader, &mut ends);
        }));
        field.ended.store(true, Ordering::Relaxed);
        let lag = lag.join();
        looped.and(rested).unwrap();
        (ended.0.unwrap(), ended.1.unwrap(), ended.2.unwrap(), lag.unwrap())
    });
    let serials = locked(&field.published).clone();
    let published = serials.len() - 1;
    // Whatever a late event is: upstream's log ends with the last serial.
    assert_eq!(serials.last(), Some(&world.upstream.world().serial()), "the head was not reached with one sync");
    world.run(&["sync"]).ended(0).says(&["nothing new"]);
    for serial in &serials {
        if !locked(&field.pinned).contains_key(serial) {
            field.sweep(*serial, &mut Reader::new(serve.at));
        }
    }

    let log = world.log();
    assert!(log.iter().all(|line| line["held"] == Value::Array(vec![])), "something is held");
    assert_eq!(locked(&field.live).1 + 1, serials.len() as u64, "each serial was published by a switch of its own");
    let missed = log.iter().filter(|line| line["missed_late_event"] == true).map(|line| text(&line["serial"]));
    let missed: BTreeSet<u64> = missed.map(|serial| serial.parse().unwrap()).collect();
    assert_eq!(!missed.is_empty(), setting.misses, "{missed:?} are marked as lacking an event");
    let wrong = locked(&field.wrong);
    let mut wrong = wrong.iter().filter(|(serial, _)| !missed.contains(serial));
    let first = wrong.next().map(|(serial, problem)| format!("serial {serial} is not upstream's: {problem}"));
    assert_eq!(first, None, "and {} more", wrong.count());

    let pages: Vec<Sweep> = serials.iter().map(|serial| locked(&field.pinned)[serial].clone()).collect();
    let mut earliest = 0;
    for (number, swept) in sweeps.iter().enumerate() {
        let (shown, last) = serials_in(swept, &pages, earliest).unwrap_or_else(|problem| {
            assert_eq!(problem, "", "sweep {number} of {}", sweeps.len());
            (0, 0)
        });
        let (begin, end) = swept.switches;
        assert!(shown <= 1 + end - begin, "sweep {number} shows {shown} serials, with {begin} to {end} switches");
        earliest = last;
    }
    world.done(&["verify"]);

    tell(
        setting,
        &Told { ends: &ends, published, lag: &lag, sweeps: sweeps.len(), pinned, pairs, missed: missed.len() },
    );
    // Ten in a minute.
    let enough = usize::try_from(length().as_secs() / 6).unwrap().max(1);
    assert!(published >= enough, "{published} serials were published in {} s: {enough} are wanted", length().as_secs());
}

/// Syncs once, and takes down what is published then.
fn sync(field: &Field<'_>, reader: &mut Reader, ends: &mut BTreeMap<i32, usize>) {
    let begin = Instant::now();
    let run = field.world.run(&["sync"]);
    field.switches();
    // What its pauses and its patience add up to is far less.
    assert!(begin.elapsed() < Duration::from_secs(30), "a sync took {} s: {}", begin.elapsed().as_secs(), run.err);
    let code = run.code.unwrap();
    assert!(code == 0 || code == 3, "{code}: {}", run.err);
    *ends.entry(code).or_default() += 1;
    let serial = live_serial(reader);
    let recorded = recorded(field.world);
    assert_eq!(recorded.last(), Some(&serial), "what is recorded is published");
    let mut published = locked(&field.published);
    // A sync publishes on the way, too. What is recorded never changes, so what was published stands at the beginning.
    assert!(recorded.starts_with(&published), "{recorded:?} goes on from {published:?}");
    *published = recorded;
}

/// The serials that the mirror has recorded, in order.
fn recorded(world: &World) -> Vec<u64> {
    let serials: Vec<u64> = world.log().iter().rev().map(|line| text(&line["serial"]).parse().unwrap()).collect();
    assert!(serials.is_sorted_by(|a, b| a < b), "serials go on: {serials:?}");
    serials
}

struct Told<'a> {
    ends: &'a BTreeMap<i32, usize>,
    published: usize,
    lag: &'a Lag,
    sweeps: usize,
    pinned: usize,
    pairs: usize,
    missed: usize,
}

/// One row of the table in `docs/liveness.md`.
#[expect(clippy::print_stdout, reason = "the figures are what scripts/hammer is run for")]
fn tell(setting: &Setting, told: &Told<'_>) {
    let Told { ends, published, lag, sweeps, pinned, pairs, missed } = told;
    let (mut events, mut seconds) = (lag.events.clone(), lag.seconds.clone());
    events.sort_unstable();
    seconds.sort_by(f64::total_cmp);
    let (median, last) = (events.len() / 2, events.len() - 1);
    let syncs: usize = ends.values().sum();
    println!(
        "| {} | {published} of {syncs} | {} / {} | {:.1} / {:.1} | {sweeps} | {pinned} | {pairs} | {missed} |",
        setting.name, events[median], events[last], seconds[median], seconds[last]
    );
}

#[test]
fn serials_in_a_sweep_are_counted() {
    let sweep = |seen: [Seen; 3]| -> Sweep { ["a", "b", "c"].map(str::to_owned).into_iter().zip(seen).collect() };
    let published = [sweep([1, 1, 1]), sweep([2, 1, 1]), sweep([2, 2, 1]), sweep([2, 2, 2])];
    let swept = |seen: [Seen; 3]| Swept { pages: sweep(seen).into_iter().collect(), switches: (0, 0) };
    for (seen, earliest, expected) in [
        ([1, 1, 1], 0, Some((1, 0))),
        ([2, 2, 1], 0, Some((1, 2))),
        ([1, 2, 1], 0, Some((2, 2))),
        ([1, 1, 2], 0, Some((2, 3))),
        // Halfway: the newer of two pages that changed one after the other, without the older.
        ([2, 1, 2], 0, Some((2, 3))),
        ([2, 1, 1], 2, None),
        ([3, 1, 1], 0, None),
    ] {
        assert_eq!(serials_in(&swept(seen), &published, earliest).ok(), expected, "{seen:?} from {earliest}");
    }
}
