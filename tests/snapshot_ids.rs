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
pub(crate) const NAMED: &str = "https://index.example";

/// An index that snapshots and records name by URLs without this machine's port.
#[derive(Debug)]
struct Renamed {
    index: Index,
    name: UpstreamUrl,
    /// Where it is: the scheme, and the address with its port.
    origin: String,
}

impl Renamed {
    fn renamed(&self, page: Page) -> Page {
        let (told, mut seen) = page.record.into_parts();
        for file in seen.files.values_mut() {
            file.url = file.url.take().map(|url| url.replace(&self.origin, NAMED));
            file.provenance = file.provenance.take().map(|url| url.replace(&self.origin, NAMED));
        }
        Page { record: Record::new(told, seen).unwrap(), ..page }
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
                Answer::Page { page, validator } => Answer::Page { page: Box::new(self.renamed(*page)), validator },
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
    let context = context(world, patience);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(strandline_sync::sync(&context)).unwrap()
}

/// A mirror of everything that the world's index has, at a URL without a port and by the index's clock.
pub(crate) fn context(world: &World, patience: Duration) -> Context {
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
    Context {
        store: Store::open(&world.path("store"), Disk::new()).unwrap(),
        upstream: Arc::new(renamed),
        format: Arc::new(Pypi),
        settings: Arc::new(settings),
        clock: Arc::new(move || now),
        progress: Arc::new(Progress::default()),
    }
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
        ("237.2", "8763ab9e641c51e1023402c4438ddb0676057c825504972be237329d98054d04"),
        ("237", "fdfc8537e2352bcf4cd9085c5e9ba557068978c9d45cbe9668bdc20fdebe744e"),
        ("189", "b4d64945b33a639fdea87cbedd22601f2e45578809c31aa575d0d67226dfcb5e"),
        ("163", "09db9bb5919a59693352e39f5ee0daa7fb538d6be41e321a34ee19bc2df6548f"),
        ("125", "0848bf08505d2da2a49c5fe8cb7f244ea2f52001163467f4f7a07433028941df"),
        ("104", "457013b6b07e118bae0336f39251c420704e3bd9905e12c3a35352cda63cff63"),
        ("68", "0e96a9025a9f4d2035515a6e583624d5a72716fc9a0a75bedcd44f58c923987c"),
    ];
    assert_eq!(ids, expected.map(|(label, id)| (label.to_owned(), id.to_owned())));
    assert_eq!(world.tree(), "20adb5598be6c2f26836e0272835919e9921e7e59dee29d53ed6c9e94fb04e4f");
}
