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
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use strandline_testkit::{Age, Endpoint, Fault, Generator, Label, On, Rule, Upstream, Weights, history};

use crate::support::readers::{Field, Lag, Reader, Seen, Sweep, Swept, live_serial, locked};
use crate::support::server::{Nginx, Serve};
use crate::support::world::{World, text};

const PROJECTS: usize = 400;
const EVENTS_PER_SECOND: f64 = 20.0;

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
    let seconds = std::env::var("STRANDLINE_HAMMER_SECONDS").map_or(8, |text| text.parse().unwrap());
    Duration::from_secs(seconds)
}

/// Settings one after the other: two at once would only measure the machine.
static TURN: Mutex<()> = Mutex::new(());

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
    let (world, generator) = synced(setting);
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
    locked(&field.published).push(live_serial(&mut Reader::new(nginx.at)));

    (setting.begin)(&world.upstream);
    world.upstream.run_at(EVENTS_PER_SECOND, generator).unwrap();
    let watched = while_it_moves(setting, &field);
    let serials = locked(&field.published).clone();
    // Whatever a late event is: upstream's log ends with the last serial.
    assert_eq!(serials.last(), Some(&world.upstream.world().serial()), "the head was not reached with one sync");
    world.run(&["sync"]).ended(0).says(&["nothing new"]);

    let missed = serials_are_upstreams(setting, &field, &serials);
    sweeps_show_published_serials(&field, &serials, &watched.sweeps);
    world.done(&["verify"]);

    let published = serials.len() - 1;
    tell(setting, &watched, published, missed);
    // Ten in a minute.
    let enough = usize::try_from(length().as_secs() / 6).unwrap().max(1);
    assert!(published >= enough, "{published} serials were published in {} s: {enough} are wanted", length().as_secs());
}

/// A mirror that was synced once, and what will move its upstream.
fn synced(setting: &Setting) -> (World, Generator) {
    let (index, generator) = history(7, PROJECTS, PROJECTS, Weights::journaled());
    let world = World::new(index, "");
    // A second line of the same key would not be accepted.
    let configuration = format!(
        "store = \"store\"\n[mirror.pypi]\nupstream = \"{}\"\ndrain = \"1s\"\nsource = \"warehouse\"\n{}\n",
        world.upstream.simple_url(),
        setting.lines
    );
    std::fs::write(world.path("strandline.toml"), configuration).unwrap();
    world.done(&["sync"]);
    (world, generator)
}

/// What was done and seen while upstream moved.
struct Watched {
    /// How the syncs ended: how many with each exit code.
    ends: BTreeMap<i32, usize>,
    /// The sweeps of the live view.
    sweeps: Vec<Swept>,
    /// How many sweeps of pinned serials there were.
    pinned: usize,
    /// How often the dependent pair was read.
    pairs: usize,
    lag: Lag,
}

/// Syncs in a loop, with all readers at work, for as long as upstream moves; and once more when it rests.
fn while_it_moves(setting: &Setting, field: &Field<'_>) -> Watched {
    let mut reader = Reader::new(field.nginx);
    let mut ends = BTreeMap::new();
    std::thread::scope(|scope| {
        let live = scope.spawn(|| field.sweep_live());
        let pinned = scope.spawn(|| field.sweep_pinned());
        let pairs = scope.spawn(|| field.read_pairs(setting.misses));
        let lag = scope.spawn(|| field.watch());
        // Whatever goes wrong here, the readers have to end.
        let looped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let end = Instant::now() + length();
            while Instant::now() < end {
                sync(field, &mut reader, &mut ends);
            }
        }));
        field.stopped.store(true, Ordering::Relaxed);
        let (live, pinned, pairs) = (live.join(), pinned.join(), pairs.join());
        // Upstream rests: one sync after its lies have ended brings everything.
        let rested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            drop(field.world.upstream.stop_moving());
            std::thread::sleep(setting.stale);
            sync(field, &mut reader, &mut ends);
        }));
        field.ended.store(true, Ordering::Relaxed);
        let lag = lag.join();
        looped.and(rested).unwrap();
        let (sweeps, pinned, pairs, lag) = (live.unwrap(), pinned.unwrap(), pairs.unwrap(), lag.unwrap());
        Watched { ends, sweeps, pinned, pairs, lag }
    })
}

/// Requires that every serial is upstream's state at that serial, and returns how many are marked as lacking an event.
fn serials_are_upstreams(setting: &Setting, field: &Field<'_>, serials: &[u64]) -> usize {
    for serial in serials {
        if !locked(&field.pinned).contains_key(serial) {
            field.sweep(*serial, &mut Reader::new(field.serve));
        }
    }
    let log = field.world.log();
    assert!(log.iter().all(|line| line["held"] == Value::Array(vec![])), "something is held");
    assert_eq!(locked(&field.live).1 + 1, serials.len() as u64, "each serial was published by a switch of its own");
    let missed = log.iter().filter(|line| line["missed_late_event"] == true).map(|line| text(&line["serial"]));
    let missed: BTreeSet<u64> = missed.map(|serial| serial.parse().unwrap()).collect();
    assert_eq!(!missed.is_empty(), setting.misses, "{missed:?} are marked as lacking an event");
    let wrong = locked(&field.wrong);
    let mut wrong = wrong.iter().filter(|(serial, _)| !missed.contains(serial));
    let first = wrong.next().map(|(serial, problem)| format!("serial {serial} is not upstream's: {problem}"));
    assert_eq!(first, None, "and {} more", wrong.count());
    missed.len()
}

/// Requires that no sweep shows more serials than switches explain, or one before another that was seen already.
fn sweeps_show_published_serials(field: &Field<'_>, serials: &[u64], sweeps: &[Swept]) {
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

/// One row of the table in `docs/liveness.md`.
#[expect(clippy::print_stdout, reason = "the figures are what scripts/hammer is run for")]
fn tell(setting: &Setting, watched: &Watched, published: usize, missed: usize) {
    let Watched { ends, sweeps, pinned, pairs, lag } = watched;
    let sweeps = sweeps.len();
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
