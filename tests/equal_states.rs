//! Two mirrors of one upstream have one state at one serial, whatever their histories
//! (`docs/design/020-what-a-state-id-promises.md`).
//!
//! `STRANDLINE_FOLLOWED_PROJECTS` says how many projects one mirror follows while others begin anew; with it, the mirror syncs 40
//! times, and between the syncs there is an event for every fortieth project. `scripts/test --full` lets it be 2,000.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use strandline_testkit::{Age, Fault, Generator, On, Response, Rule, Upload, Upstream, Weights, WheelSpec, history};

use crate::adopt::{PLAIN, Tree};
use crate::support::server::{Nginx, get};
use crate::support::world::{Run, World, text, wheel};

/// Projects that there are when the history begins, and events between two syncs.
const PROJECTS: usize = 40;
const EVENTS: usize = 40;

/// Configures one more mirror of the world's upstream.
fn add_mirror(world: &World, name: &str) {
    add_mirror_of(world, name, &world.upstream.simple_url(), "");
}

/// Configures one more mirror, with these lines.
fn add_mirror_of(world: &World, name: &str, upstream: &str, lines: &str) {
    let path = world.path("strandline.toml");
    let before = fs::read_to_string(&path).unwrap();
    let table = "source = \"warehouse\"\ndrain = \"0s\"\nsettle = \"0s\"";
    fs::write(path, format!("{before}\n[mirror.{name}]\nupstream = \"{upstream}\"\n{table}\n{lines}\n")).unwrap();
}

/// Syncs a mirror.
#[track_caller]
fn sync(world: &World, mirror: &str) -> Run {
    let mut command = world.command(&["sync", mirror]);
    World::run_command(command.env("SSL_CERT_FILE", world.path("ca.pem")))
}

/// The newest snapshot of a mirror, as `log` tells it.
fn newest(world: &World, mirror: &str) -> Value {
    world.run(&["log", mirror, "--json"]).ended(0).json_lines().remove(0)
}

/// Lets the index move by so many events of all kinds.
fn move_on(upstream: &Upstream, generator: &mut Generator, events: usize) {
    let mut world = upstream.world();
    let until = world.events().count() + events;
    while world.events().count() < until {
        generator.step(&mut world);
    }
}

/// Requires that these mirrors stand at the serial of the first and have its state, and that no difference is an alarm; returns the
/// projects that the first and each of the others saw differently.
#[track_caller]
fn are_equal(world: &World, mirrors: &[&str]) -> Vec<BTreeSet<String>> {
    let (first, others) = mirrors.split_first().unwrap();
    let wanted = newest(world, first);
    let compared = others.iter().map(|other| {
        let found = newest(world, other);
        let run = world.run(&["diff", first, other, "--json"]);
        for of in ["serial", "follow", "held", "state"] {
            assert_eq!(found[of], wanted[of], "{of} of {other}:\n{}{}", run.out, run.err);
        }
        let lines = run.ended(0).json_lines();
        assert_eq!((&lines[0]["equal"], &lines[0]["no_alarm_because"]), (&json!(true), &json!([])), "{other}");
        let seen = lines[1..].iter().map(|line| {
            assert_eq!(line["difference"], "not yet seen by both", "{other}: {line}");
            assert_eq!((&line["alarm"], &line["told"][0]), (&json!(false), &line["told"][1]), "{other}: {line}");
            assert_ne!(line["seen"][0], line["seen"][1], "{other}: {line}");
            text(&line["project"])
        });
        seen.collect()
    });
    compared.collect()
}

/// What a mirror follows before it follows everything.
const WIDENED: &str = "projects = [\"pair-base\", \"victim\", \"jailed\"]";

/// How much happens while one mirror follows.
struct Size {
    projects: usize,
    /// Between two syncs.
    events: usize,
    syncs: usize,
    /// After every how many syncs another mirror begins.
    begin_every: usize,
    seeds: u64,
}

impl Size {
    fn of_environment() -> Self {
        match std::env::var("STRANDLINE_FOLLOWED_PROJECTS") {
            Ok(projects) => {
                let projects = projects.parse().unwrap();
                Self { projects, events: projects.div_ceil(40), syncs: 40, begin_every: 10, seeds: 1 }
            }
            Err(_) => Self { projects: PROJECTS, events: EVENTS, syncs: 8, begin_every: 2, seeds: 2 },
        }
    }
}

/// One mirror follows from the beginning, and others begin anew at every second sync. At each serial that both have, the state
/// is one; it is another one as soon as something is told.
#[test]
fn a_mirror_that_follows_and_one_that_begins_at_the_end() {
    let Size { projects, events, syncs, begin_every, seeds } = Size::of_environment();
    for seed in 0..seeds {
        let (index, mut generator) = history(seed, projects, 0, Weights::everything());
        let world = World::new(index, "");
        add_mirror(&world, "follower");
        world.done(&["sync", "follower"]);
        let mut states = Vec::new();
        for done in 1..=syncs {
            move_on(&world.upstream, &mut generator, events);
            world.done(&["sync", "follower"]);
            let state = text(&newest(&world, "follower")["state"]);
            assert!(!states.contains(&state), "seed {seed}: {events} events change nothing");
            states.push(state);
            if done % begin_every == 0 {
                let fresh = format!("fresh-{done}");
                add_mirror(&world, &fresh);
                world.done(&["sync", &fresh]);
                are_equal(&world, &["follower", &fresh]);
            }
        }
    }
}

/// What is withdrawn from a mirror, and where upstream's files are, is in no state.
#[test]
fn a_mirror_with_purged_files() {
    let mut index = strandline_testkit::World::new();
    for version in ["1.0", "2.0"] {
        index.upload("six", &wheel("six", version, 1));
    }
    index.upload("idna", &wheel("idna", "1.0", 2));
    let world = World::new(index, "");
    for mirror in ["one", "other"] {
        add_mirror(&world, mirror);
        world.done(&["sync", mirror]);
    }
    let (before, other) = (newest(&world, "one"), newest(&world, "other"));
    assert_eq!(text(&before["state"]), text(&other["state"]));
    assert_eq!(text(&before["inputs"]), text(&other["inputs"]));

    world.done(&["purge", "six==2.0", "--mirror", "one"]);
    let after = newest(&world, "one");
    assert_ne!(text(&after["id"]), text(&before["id"]));
    assert_ne!(text(&after["tree"]), text(&before["tree"]), "it shows less");
    assert_ne!(text(&after["inputs"]), text(&before["inputs"]));
    assert_eq!(text(&after["state"]), text(&before["state"]), "it was told the same");
    let shown = world.done(&["show", "one", "six"]);
    assert!(shown.contains("six-2.0-py3-none-any.whl\tnot shown: it is withdrawn from the mirror"), "{shown}");

    // So it is after the next sync of both.
    world.upstream.world().upload("six", &wheel("six", "3.0", 3));
    for mirror in ["one", "other"] {
        world.done(&["sync", mirror]);
    }
    let (one, other) = (newest(&world, "one"), newest(&world, "other"));
    assert_eq!(text(&one["serial"]), text(&other["serial"]));
    assert_eq!(text(&one["state"]), text(&other["state"]));
    assert_ne!(text(&one["tree"]), text(&other["tree"]));
}

/// Mirrors of one upstream with all histories that a mirror can have, while upstream does all that it can do, also what it says by
/// no event.
struct Histories {
    world: World,
    generator: Generator,
    /// What the mirrors `cached` and `begun` ask: its pages are up to some time old.
    _cache: Upstream,
    /// What the mirror `holding` asks.
    holding: Upstream,
    /// What the mirror `lacking` asks: it has not one of the files.
    lacking: Upstream,
    /// What the mirror `tls` asks, through a server with TLS.
    _tls: (Upstream, Nginx),
}

impl Histories {
    fn begin(seed: u64) -> Self {
        let (mut index, generator) = history(seed, PROJECTS, 0, Weights::everything());
        for project in ["victim", "seized", "jailed", "purged", "again", "bare", "half"] {
            index.upload(project, &wheel(project, "1.0", 1));
            index.upload(project, &Upload { metadata: None, ..wheel(project, "2.0", 1) });
        }
        index.set_holes(0.05, seed);
        index.set_late(0.05, Duration::from_millis(300), seed);
        let world = World::new(index, "");
        let edge = || world.upstream.edge().unwrap();
        let (cache, holding, lacking, behind) = (edge(), edge(), edge(), edge());
        let age = Age::UpTo(Duration::from_millis(700));
        let stale = |age| Fault::Stale { age, not_found: true, flapping: false };
        cache.fault(Rule::new(On::Prefix("/simple/".into()), stale(age)));
        let list = On::Method("list_packages_with_serial".to_owned());
        cache.fault(Rule::new(list, stale(Age::Exactly(Duration::from_secs(2)))));
        let nginx = Nginx::with_tls(&world, &behind.url());
        let (secure, local) = (format!("https://{}", nginx.at), world.upstream.url().replace("127.0.0.1", "localhost"));
        behind.file_base(&secure);
        for name in ["follower", "purging", "rolled", "adopted", "last"] {
            add_mirror(&world, name);
        }
        add_mirror_of(&world, "sweeping", &world.upstream.simple_url(), "recheck = \"1s\"");
        for name in ["cached", "begun"] {
            add_mirror_of(&world, name, &cache.simple_url(), "");
        }
        lacking.file_base(lacking.url().trim_end_matches('/'));
        for (name, edge) in [("holding", &holding), ("lacking", &lacking)] {
            add_mirror_of(&world, name, &edge.simple_url(), "hold-after = \"0s\"\ncut-timeout = \"1s\"");
        }
        add_mirror_of(&world, "widened", &world.upstream.simple_url(), WIDENED);
        add_mirror_of(&world, "tls", &format!("{secure}/simple/"), "");
        add_mirror_of(&world, "local", &format!("{local}simple/"), "");
        let histories = Self { world, generator, _cache: cache, holding, lacking, _tls: (behind, nginx) };
        for mirror in
            ["follower", "sweeping", "cached", "holding", "lacking", "purging", "rolled", "tls", "local", "widened"]
        {
            histories.sync(&[mirror]);
        }
        histories
    }

    /// Lets upstream move and then stand still.
    fn move_on(&mut self) {
        move_on(&self.world.upstream, &mut self.generator, EVENTS);
        Self::settle();
    }

    /// The log's times are whole seconds: for so long, a missing serial may be one that comes late.
    fn settle() {
        std::thread::sleep(Duration::from_millis(1100));
    }

    #[track_caller]
    fn sync(&self, mirrors: &[&str]) {
        for mirror in mirrors {
            sync(&self.world, mirror).ended(0);
        }
    }

    /// A quarantine that only some see, and a page that one mirror holds.
    fn quarantine_and_hold(&mut self) {
        let Self { world, holding, lacking, .. } = self;
        let age = Age::StuckAt(world.upstream.now_ms());
        std::thread::sleep(Duration::from_millis(2));
        let stuck = Fault::Stale { age, not_found: true, flapping: false };
        holding.fault(Rule::new(On::Path("/simple/victim/".to_owned()), stuck));
        {
            let mut upstream = world.upstream.world();
            for project in ["seized", "jailed"] {
                upstream.quarantine(project);
                upstream.upload(project, &wheel(project, "3.0", 1));
            }
            upstream.upload("victim", &wheel("victim", "3.0", 1));
            upstream.upload("half", &wheel("half", "3.0", 1));
        }
        let file = world.upstream.world().project("half").unwrap().files.pop().unwrap();
        lacking.fault(Rule::new(On::Prefix(file.url_path), Fault::Gone));
        Self::settle();
        sync(world, "lacking").ended(4).says(&["half-3.0-py3-none-any.whl"]);
        self.move_on();
        self.sync(&["follower", "sweeping"]);
        sync(&self.world, "holding").ended(4).says(&["`victim` is held"]);
        let before = text(&newest(&self.world, "rolled")["serial"]);
        self.sync(&["purging", "rolled"]);
        self.world.done(&["rollback", "rolled", &before]);
        self.world.done(&["purge", "purged==1.0", "--mirror", "purging"]);
        let said = self.world.done(&["diff", "follower", "holding"]);
        assert!(said.contains("victim\theld by one at an earlier page\t"), "{said}");
        assert!(!said.contains("told differently"), "{said}");
    }

    /// The quarantine is lifted, files move, a project is made again under another spelling and with other files; and upstream moves
    /// on while mirrors behind a cache ask it, of which one begins.
    fn lift_and_move(&mut self) {
        let upstream = &self.world.upstream;
        {
            let mut index = upstream.world();
            index.clear_quarantine("seized");
            let local = upstream.url().replace("127.0.0.1", "localhost");
            index.move_files(local.trim_end_matches('/'));
            index.remove_project("again");
            index.create_project("Again");
            index.upload("Again", &wheel("again", "1.0.0", 2));
            index.role("purged", "add Owner carol");
        }
        upstream.run_at(5.0, self.generator.clone()).unwrap();
        self.sync(&["cached", "begun", "sweeping", "cached", "begun"]);
        self.generator = self.world.upstream.stop_moving().unwrap();
        Self::settle();
        self.sync(&["follower", "purging", "rolled"]);
        assert_eq!(newest(&self.world, "rolled")["published"], false, "it is rolled back");
    }

    /// All is well again.
    fn clear(&mut self) {
        self.world.upstream.world().clear_quarantine("jailed");
        self.holding.clear_faults();
        self.move_on();
        self.world.done(&["rollback", "rolled", "--resume"]);
        self.sync(&["follower", "sweeping", "cached", "begun", "holding", "purging", "rolled"]);
        // What happened so far is longer ago than any mirror reads the log back.
        self.world.upstream.world().set_late(0.0, Duration::ZERO, 0);
        std::thread::sleep(Duration::from_millis(350));
        self.world.upstream.world().skip_serials(60_000);
        // That is some days, and no page stays as it is for longer than a day.
        self.world.upstream.world().set_page_age(Duration::from_millis(300));
        self.world.done(&["purge", "purged==1.0", "--mirror", "purging", "--undo"]);
        let path = self.world.path("strandline.toml");
        let configured = fs::read_to_string(&path).unwrap();
        fs::write(path, configured.replace(WIDENED, "")).unwrap();
    }
}

#[test]
fn whatever_their_histories() {
    let mut histories = Histories::begin(7);
    histories.quarantine_and_hold();
    histories.lift_and_move();
    histories.clear();

    // What happens last is said by no event, and happens after the first of them has synced.
    histories.move_on();
    histories.sync(&["follower"]);
    {
        let mut upstream = histories.world.upstream.world();
        upstream.archive("victim");
        upstream.backfill_metadata("bare");
        upstream.respell_project("SEIZED");
    }
    let world = &histories.world;
    let tree = Tree::make(world, PLAIN);
    world.done(&["adopt", "adopted", tree.directory.to_str().unwrap()]);
    let others =
        ["sweeping", "cached", "begun", "holding", "purging", "rolled", "tls", "local", "widened", "adopted", "last"];
    histories.sync(&others);
    sync(world, "lacking").ended(4);
    let others = [&others[..], &["lacking"]].concat();
    let seen = are_equal(world, &[&["follower"][..], &others].concat());
    for (other, seen) in others.iter().zip(seen) {
        let unseen = ["victim", "bare"].map(|project| seen.contains(project));
        // A mirror that reads every page sees it, and one that follows does not.
        match *other {
            "sweeping" | "adopted" | "last" => assert_eq!(unseen, [true, true], "{other}: {seen:?}"),
            "purging" | "rolled" => assert_eq!(unseen, [false, false], "{other}: {seen:?}"),
            _ => {}
        }
    }
}

/// What no event tells is named and no alarm; what upstream tells one mirror otherwise is an alarm beside it.
#[test]
fn what_no_event_tells_and_what_is_told_otherwise() {
    let mut index = strandline_testkit::World::new();
    for project in ["archived", "backfilled", "deceived", "Same.Name", "again"] {
        index.upload(project, &Upload { metadata: None, ..wheel(project, "1.0", 1) });
    }
    let world = World::new(index, "");
    let edge = world.upstream.edge().unwrap();
    add_mirror(&world, "follower");
    world.done(&["sync", "follower"]);
    {
        let mut upstream = world.upstream.world();
        // A file of the same name cannot come again, so it is of another build.
        upstream.remove_project("again");
        upstream.upload("Again", &Upload::wheel(&WheelSpec::new("again", "1.0.0").build(2)));
        upstream.quarantine("same-name");
        upstream.clear_quarantine("same-name");
        upstream.role("deceived", "add Owner bob");
    }
    world.done(&["sync", "follower"]);
    world.upstream.world().archive("archived");
    world.upstream.world().backfill_metadata("backfilled");
    add_mirror(&world, "fresh");
    world.done(&["sync", "fresh"]);
    let quiet = || BTreeSet::from(["archived".to_owned(), "backfilled".to_owned()]);
    assert_eq!(are_equal(&world, &["follower", "fresh"]), [quiet()]);

    let page = get(edge.address(), "/simple/deceived/", &["Accept: application/vnd.pypi.simple.v1+json"]);
    let mut page: Value = serde_json::from_slice(&page.body).unwrap();
    page["files"][0]["upload-time"] = json!("2020-01-01T00:00:00.000000Z");
    let answer = Response::new(200).header("Content-Type", "application/vnd.pypi.simple.v1+json");
    edge.override_path("/simple/deceived/", answer.body(page.to_string()));
    add_mirror_of(&world, "deceived", &edge.simple_url(), "");
    world.done(&["sync", "deceived"]);
    let run = world.run(&["diff", "follower", "deceived", "--json"]).ended(1).says(&["told differently of 1 projects"]);
    let lines = run.json_lines();
    assert_eq!((&lines[0]["equal"], lines.len()), (&json!(false), 4), "{}", run.out);
    let alarms = lines[1..].iter().filter(|line| line["alarm"] == json!(true));
    let alarms: Vec<_> = alarms.map(|line| (text(&line["project"]), text(&line["difference"]))).collect();
    assert_eq!(alarms, [("deceived".to_owned(), "told differently".to_owned())]);

    // As soon as all files are somewhere else, no page is the same any more, and the state is.
    world.upstream.world().move_files(world.upstream.url().replace("127.0.0.1", "localhost").trim_end_matches('/'));
    add_mirror(&world, "moved");
    world.done(&["sync", "moved"]);
    let all = ["again", "archived", "backfilled", "deceived", "same-name"].map(str::to_owned);
    assert_eq!(are_equal(&world, &["fresh", "moved"]), [BTreeSet::from(all)]);
}
