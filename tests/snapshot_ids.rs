//! A snapshot's id depends on what upstream says and on the time, and on nothing else: a scripted history of 200 events,
//! synced seven times, gives the ids that stand here, in every version of the program that writes this format.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use strandline_durable::Disk;
use strandline_model::{DisplayName, ProjectName, Record, Serial, Timestamp, UpstreamUrl};
use strandline_pypi::{Index, Pypi, Settings as Asking};
use strandline_store::Store;
use strandline_sync::upstream::{self, Answer, Body, Event, Page, UpstreamError, Validator, Way};
use strandline_sync::{Context, Method, Outcome, Progress, Selection, Settings};
use strandline_testkit::{Fault, Generator, On, Rule, Upstream, Weights, history};

use crate::support::truth::equals_upstream;
use crate::support::world::{World, text};

/// The events of the whole history.
const EVENTS: usize = 200;

/// Where nothing stands in the way, a slow machine is no reason for another snapshot.
const UNHURRIED: Duration = Duration::from_secs(60);

/// Where the index and its files seem to be.
const NAMED: &str = "https://index.example";

/// An index that snapshots and records name by URLs without this machine's port.
#[derive(Debug)]
struct Renamed {
    index: Index,
    name: UpstreamUrl,
    /// Where it is: the scheme, and the address with its port.
    origin: String,
}

impl Renamed {
    fn renamed(&self, Page { record, serial }: Page) -> Page {
        let (told, mut seen) = record.into_parts();
        for file in seen.files.values_mut() {
            file.url = file.url.take().map(|url| url.replace(&self.origin, NAMED));
            file.provenance = file.provenance.take().map(|url| url.replace(&self.origin, NAMED));
        }
        Page { record: Record::new(told, seen).unwrap(), serial }
    }
}

impl upstream::Upstream for Renamed {
    fn url(&self) -> &UpstreamUrl {
        &self.name
    }

    fn page<'a>(
        &'a self,
        project: &'a ProjectName,
        validator: Option<&'a Validator>,
        way: Way,
    ) -> BoxFuture<'a, Result<Answer, UpstreamError>> {
        async move {
            Ok(match self.index.page(project, validator, way).await? {
                Answer::Page { page, validator } => Answer::Page { page: self.renamed(page), validator },
                other => other,
            })
        }
        .boxed()
    }

    fn file<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Body, UpstreamError>> {
        let url = url.replace(NAMED, &self.origin);
        async move { self.index.file(&url).await }.boxed()
    }

    fn last_serial(&self) -> BoxFuture<'_, Result<Serial, UpstreamError>> {
        self.index.last_serial()
    }

    fn events_since(&self, since: Serial) -> BoxFuture<'_, Result<Vec<Event>, UpstreamError>> {
        self.index.events_since(since)
    }

    fn projects(&self) -> BoxFuture<'_, Result<Vec<(DisplayName, Serial)>, UpstreamError>> {
        self.index.projects()
    }
}

/// Every kind of event, the rare ones more often than they come.
fn weights() -> Weights {
    Weights {
        release: 100,
        file: 80,
        create: 80,
        role: 20,
        yank: 40,
        unyank: 30,
        remove_file: 30,
        remove_release: 30,
        remove_project: 60,
        quarantine: 30,
        clear_quarantine: 30,
        quarantine_release: 20,
        clear_release_quarantine: 20,
        archive: 20,
        unarchive: 10,
        pair: 20,
        burst: 0,
        ..Weights::default()
    }
}

/// Lets the world move until it has this many events.
fn move_to(upstream: &Upstream, generator: &mut Generator, events: usize) {
    let mut world = upstream.world();
    while world.events().count() + 10 < events {
        generator.step(&mut world);
    }
    while world.events().count() < events {
        world.role("pair-base", "add Owner bob");
    }
}

/// Syncs; what stands in the way is waited for this long.
fn sync(world: &World, patience: Duration) -> Outcome {
    let upstream = &world.upstream;
    let index = Index::new(Asking::new(upstream.simple_url().parse().unwrap())).unwrap();
    let (name, origin) = (format!("{NAMED}/simple/").parse().unwrap(), format!("http://{}", upstream.address()));
    let renamed = Renamed { index, name, origin };
    let settings = Settings {
        method: Some(Method::Changelog),
        drain: Duration::ZERO,
        hold_after: Duration::ZERO,
        cut_timeout: patience,
        part_after: patience,
        ..Settings::new("pypi".parse().unwrap(), Selection::Everything)
    };
    let now = Timestamp::from_seconds(i64::try_from(upstream.now_ms() / 1000).unwrap()).unwrap();
    let context = Context {
        store: Store::open(&world.path("store"), Disk::new()).unwrap(),
        upstream: Arc::new(renamed),
        format: Arc::new(Pypi),
        settings: Arc::new(settings),
        clock: Arc::new(move || now),
        progress: Arc::new(Progress::default()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(strandline_sync::sync(&context)).unwrap()
}

/// The history: seven syncs, eight days apart, so that the sweep asks for every page again each time.
fn played() -> World {
    let (mut index, mut generator) = history(24, 8, 0, weights());
    index.set_holes(0.1, 16);
    let world = World::new(index, "");
    let upstream = &world.upstream;
    upstream.set_manual_clock(0);
    let pause = Duration::from_hours(8 * 24);
    for (number, events) in [60, 90, 110, 140, 160, EVENTS].into_iter().enumerate() {
        upstream.advance(pause);
        upstream.world().release("late.file", &format!("1.{number}"));
        move_to(upstream, &mut generator, events);
        // Longer than a sync waits for an event at a missing serial.
        upstream.advance(Duration::from_hours(1));
        let gone = (number == 3).then(|| {
            let newest = upstream.world().project("late.file").unwrap().files.last().unwrap().url_path.clone();
            upstream.fault(Rule::new(On::Path(newest), Fault::Gone))
        });
        let patience = if gone.is_some() { Duration::from_secs(5) } else { UNHURRIED };
        let done = sync(&world, patience);
        assert_eq!((done.held.len(), done.lacking.len()), (0, gone.iter().count()), "sync {number}");
        upstream.clear_faults();
    }
    // No event says so: the serial stays, and the snapshot is a further revision of it.
    upstream.world().archive("late.file");
    upstream.advance(pause);
    sync(&world, UNHURRIED);
    world
}

/// Requires that the history has everything that a snapshot can depend on.
fn is_rich(upstream: &Upstream) {
    let index = upstream.world();
    assert_eq!(index.events().count(), EVENTS);
    assert!(index.serial() > EVENTS as u64, "serials are missing");
    let actions: BTreeSet<_> = index.events().map(|event| event.action.as_str()).collect();
    for kind in [
        "add Owner",
        "add py3 file",
        "add source file",
        "create",
        "new release",
        "project quarantine cleared",
        "project quarantined",
        "release quarantine cleared",
        "release quarantined",
        "remove file",
        "remove project",
        "remove release",
        "unyank release",
        "yank release",
    ] {
        assert!(actions.iter().any(|action| action.starts_with(kind)), "nothing like `{kind}` happens");
    }
    let created = |name: &str| index.events_of(name).filter(|event| event.action == "create").count();
    assert!(index.state().keys().any(|name| created(name) > 1), "no project is created anew");
}

#[test]
fn a_scripted_history_gives_the_same_ids_as_ever() {
    let elsewhere = std::thread::spawn(played);
    let (world, elsewhere) = (played(), elsewhere.join().unwrap());
    assert_ne!(world.upstream.address(), elsewhere.upstream.address());
    is_rich(&world.upstream);
    equals_upstream(&world);
    assert_eq!(world.log(), elsewhere.log(), "where upstream is, and when the test runs, is in no snapshot");
    assert_eq!(world.done(&["show", "pypi"]), elsewhere.done(&["show", "pypi"]));

    let ids: Vec<_> = world.log().iter().map(|line| (text(&line["serial"]), text(&line["id"]))).collect();
    let expected = [
        ("237.2", "98b364801379d3c2e759a75530374c3bbc01224322e98d42bc2f1c44353211fe"),
        ("237", "7a8a8e5d818c8e98420cf69ea0b95170f7bfc6c9408e8f37c206e65ee4395bbd"),
        ("189", "8c890fe1e1cf94679e7d68bb6af06327272e22e6e31b58b1ada4334eaef9125d"),
        ("163", "20090619eecb9a013287a209363aee9dd6f926d9c604e3e239236923f34daa81"),
        ("125", "49e6c88ed6c0b207b4e69a3a07f0aa2086deff43e410e38448e22c64cb342fe1"),
        ("104", "d19333361a7c2d4bf14950a4d68fe8f1c4fd7f404cfdcae7a717cd1acb6dccf6"),
        ("68", "f5f73acf66ae60ae736b2b5f58ef0284458f0a70acdc233a4623fdd5fa1e9075"),
    ];
    assert_eq!(ids, expected.map(|(label, id)| (label.to_owned(), id.to_owned())));
    assert_eq!(world.tree(), "32e5f5299ab4cc61e7639f616ae095ed386ee1728eb9dff37178600065ad35c5");
}
