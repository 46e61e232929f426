//! Mirrors that an earlier program was stuck with: today's goes on by itself, or by the one command that its message names.
//!
//! `tests/fixtures/stuck/` has a store for each state. They were made once, by the program with which the format was frozen
//! (catalog 10), in 2023 by its clock; [`STATES`] says how, and an ignored test makes those that are missing. A store that was
//! landed is never made anew. The index seems to be at a host without a port, because snapshots name it: a proxy, which the
//! fake index plays, too, leads there.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use strandline_testkit::{Age, Endpoint, Fault, On, Response, Rule, START_MS, Upstream, World as Index};

use crate::kept_stores::{fixtures, sync, tar};
use crate::snapshot_ids::NAMED;
use crate::support::tools::program;
use crate::support::truth::{equals_upstream, live, upstreams};
use crate::support::world::{Run, World, eventually, wheel};

/// The letter of the index's host, and what else the configuration says of the mirror.
type Configuration = (char, &'static str);

/// The changelog is followed, and waiting is short.
const LOG: Configuration = ('x', "source = \"warehouse\"\nsettle = \"0s\"\nhold-after = \"1s\"");
/// The same index at another address.
const MOVED: Configuration = ('y', LOG.1);
/// Every page is asked for once a second, because some changes are in no changelog.
const RECHECKED: Configuration = ('x', "source = \"warehouse\"\nrecheck = \"1s\"");
/// Every page is read twice.
const COLLECT: Configuration = ('x', "source = \"simple\"\nhold-after = \"1s\"");

/// A state in which the earlier program stayed, although the index was right again or one project alone was broken.
struct State {
    /// Of its store.
    name: &'static str,
    /// With which it was made.
    configuration: Configuration,
    /// Lets the earlier program get there.
    made: fn(&Before<'_>),
    /// Brings an empty index to where it is by now.
    now: fn(&Upstream),
    configuration_now: Configuration,
    /// A project that upstream has in another state than the mirror for as long as that is stuck.
    project: &'static str,
    /// Requires that today's program comes out.
    out: fn(&Mirror),
}

const STATES: &[State] = &[
    // One row of the changelog had an absurd serial, and is not there any more.
    State {
        name: "absurd-serial",
        configuration: LOG,
        made: |before| {
            release(before.index(), "six", "1.0");
            before.sync();
            before.index().world().skip_serials(1 << 40);
            release(before.index(), "idna", "1.0");
            before.sync();
        },
        now: |index| {
            release(index, "six", "1.0");
            release(index, "six", "2.0");
        },
        configuration_now: LOG,
        project: "six",
        out: by_reset,
    },
    // An index without serials was counted beyond the serials that it has now, and the changelog is followed.
    State {
        name: "own-count-then-changelog",
        configuration: COLLECT,
        made: |before| {
            before.index().serials(false);
            before.index().xmlrpc(false);
            release(before.index(), "six", "1.0");
            before.sync();
            change_without_serials(before);
        },
        now: |index| {
            release(index, "six", "1.0");
            release(index, "six", "2.0");
        },
        configuration_now: LOG,
        project: "six",
        out: by_itself,
    },
    // The same index, still read twice.
    State {
        name: "own-count-then-serials",
        configuration: COLLECT,
        made: |before| {
            release(before.index(), "six", "1.0");
            before.sync();
            before.index().serials(false);
            change_without_serials(before);
        },
        now: |index| {
            release(index, "six", "1.0");
            release(index, "six", "2.0");
        },
        configuration_now: COLLECT,
        project: "six",
        out: by_reset,
    },
    // The index was set up anew.
    State {
        name: "set-up-anew",
        configuration: LOG,
        made: |before| {
            before.index().world().skip_serials(500);
            release(before.index(), "six", "1.0");
            before.sync();
        },
        now: |index| {
            release(index, "six", "1.0");
            release(index, "six", "3.0");
        },
        configuration_now: LOG,
        project: "six",
        out: by_reset,
    },
    // The index was restored from a backup, and its serials have other events since.
    State {
        name: "restored",
        configuration: LOG,
        made: |before| {
            release(before.index(), "six", "1.0");
            release(before.index(), "idna", "1.0");
            before.sync();
            release(before.index(), "idna", "2.0");
            release(before.index(), "six", "2.0");
            before.sync();
        },
        now: |index| {
            release(index, "six", "1.0");
            release(index, "idna", "1.0");
            release(index, "six", "3.0");
        },
        configuration_now: LOG,
        project: "six",
        out: by_reset,
    },
    // A serial was missing, and the rows after it are dated a hundred years ahead.
    State {
        name: "future-hole",
        configuration: LOG,
        made: |before| {
            release(before.index(), "six", "1.0");
            before.sync();
            in_a_hundred_years(before.index());
            before.index().world().skip_serials(1);
            release(before.index(), "six", "2.0");
            before.sync();
        },
        now: |index| {
            release(index, "six", "1.0");
            in_a_hundred_years(index);
            index.world().skip_serials(1);
            release(index, "six", "2.0");
        },
        configuration_now: LOG,
        project: "six",
        out: by_itself,
    },
    // The row that a broken project waits for is dated a hundred years ahead.
    State {
        name: "future-hold",
        configuration: LOG,
        made: |before| {
            release(before.index(), "six", "1.0");
            release(before.index(), "idna", "1.0");
            before.sync();
            in_a_hundred_years(before.index());
            release(before.index(), "idna", "2.0");
            release(before.index(), "six", "2.0");
            break_page(before.index(), "idna");
            before.sync();
        },
        now: |index| {
            release(index, "six", "1.0");
            release(index, "idna", "1.0");
            in_a_hundred_years(index);
            release(index, "idna", "2.0");
            release(index, "six", "2.0");
            break_page(index, "idna");
        },
        configuration_now: LOG,
        project: "six",
        out: |mirror| {
            eventually("a hold", || (mirror.run(&["sync"]).code == Some(4)).then_some(()));
            but_for_idna(mirror);
        },
    },
    // One of two pages is broken for good, and there is no changelog.
    State {
        name: "collect-with-a-broken-page",
        configuration: COLLECT,
        made: |before| {
            release(before.index(), "six", "1.0");
            release(before.index(), "idna", "1.0");
            before.sync();
            release(before.index(), "six", "2.0");
            break_page(before.index(), "idna");
            before.sync();
        },
        now: |index| {
            release(index, "six", "1.0");
            release(index, "idna", "1.0");
            release(index, "six", "2.0");
            break_page(index, "idna");
        },
        configuration_now: COLLECT,
        project: "six",
        out: but_for_idna,
    },
    // One of two pages went back, and a cache keeps it so.
    State {
        name: "collect-with-a-stale-page",
        configuration: COLLECT,
        made: |before| {
            release(before.index(), "idna", "1.0");
            before.index().advance(Duration::from_secs(1));
            release(before.index(), "six", "1.0");
            release(before.index(), "idna", "2.0");
            before.sync();
            release(before.index(), "six", "2.0");
            before.index().fault(stale_page("idna"));
            before.sync();
        },
        now: |index| {
            release(index, "idna", "1.0");
            index.advance(Duration::from_secs(1));
            release(index, "six", "1.0");
            release(index, "idna", "2.0");
            release(index, "six", "2.0");
            index.fault(stale_page("idna"));
        },
        configuration_now: COLLECT,
        project: "six",
        out: but_for_idna,
    },
    // A first sync had all but one page, whose row is dated a hundred years ahead: nothing was published.
    State {
        name: "first-sync-with-a-broken-page",
        configuration: LOG,
        made: |before| {
            in_a_hundred_years(before.index());
            release(before.index(), "six", "1.0");
            release(before.index(), "idna", "1.0");
            break_page(before.index(), "idna");
            before.sync();
        },
        now: |index| {
            in_a_hundred_years(index);
            release(index, "six", "1.0");
            release(index, "idna", "1.0");
            break_page(index, "idna");
        },
        configuration_now: LOG,
        project: "six",
        out: but_for_idna,
    },
    // The same without a changelog and without any row that is wrong.
    State {
        name: "first-collect-with-a-broken-page",
        configuration: COLLECT,
        made: |before| {
            release(before.index(), "six", "1.0");
            release(before.index(), "idna", "1.0");
            break_page(before.index(), "idna");
            before.sync();
        },
        now: |index| {
            release(index, "six", "1.0");
            release(index, "idna", "1.0");
            break_page(index, "idna");
        },
        configuration_now: COLLECT,
        project: "six",
        out: but_for_idna,
    },
    // A row `remove`, as old logs have it: the page is gone, and the list does not have the project any more.
    State {
        name: "removed-by-an-old-row",
        configuration: LOG,
        made: |before| {
            release(before.index(), "idna", "1.0");
            release(before.index(), "six", "1.0");
            before.sync();
            before.index().world().unknown_action("idna", None, "remove");
            before.index().fault(Rule::new(On::Path(page_path("idna")), Fault::Gone));
            before.sync();
        },
        now: |index| {
            index.world().skip_serials(3);
            release(index, "six", "1.0");
            index.world().unknown_action("idna", None, "remove");
        },
        configuration_now: LOG,
        project: "idna",
        out: by_itself,
    },
    // A wheel is there, and the metadata that its page claims is not.
    State {
        name: "metadata-that-is-not-there",
        configuration: LOG,
        made: |before| {
            release(before.index(), "idna", "1.0");
            before.sync();
            release(before.index(), "six", "1.0");
            before.index().fault(Rule::new(On::Kind(Endpoint::Metadata), Fault::Gone));
            before.sync();
        },
        now: |index| {
            release(index, "idna", "1.0");
            release(index, "six", "1.0");
            index.fault(Rule::new(On::Kind(Endpoint::Metadata), Fault::Gone));
        },
        configuration_now: LOG,
        project: "six",
        out: by_itself,
    },
    // It is there, and is another.
    State {
        name: "metadata-that-is-wrong",
        configuration: COLLECT,
        made: |before| {
            release(before.index(), "six", "1.0");
            before.index().fault(Rule::new(On::Kind(Endpoint::Metadata), Fault::Corrupt));
            before.sync();
        },
        now: |index| {
            release(index, "six", "1.0");
            index.fault(Rule::new(On::Kind(Endpoint::Metadata), Fault::Corrupt));
        },
        configuration_now: COLLECT,
        project: "six",
        out: by_itself,
    },
    // A project went without a row: its page is gone, and the list does not have it any more.
    State {
        name: "gone-without-a-row",
        configuration: LOG,
        made: |before| {
            release(before.index(), "idna", "1.0");
            release(before.index(), "six", "1.0");
            before.sync();
            before.index().fault(Rule::new(On::Path(page_path("idna")), Fault::Gone));
            before.sync_at("2023-12-20 00:00:00");
        },
        now: |index| {
            index.world().skip_serials(3);
            release(index, "six", "1.0");
        },
        configuration_now: LOG,
        project: "idna",
        out: after_three_days,
    },
    // The machine's clock was a hundred years ahead in one sync, so the sweep seems to be done until then.
    State {
        name: "clock-was-ahead",
        configuration: RECHECKED,
        made: |before| {
            release(before.index(), "six", "1.0");
            before.sync();
            before.sync_at("2123-11-20 00:00:00");
        },
        now: |index| {
            release(index, "six", "1.0");
            index.world().archive("six");
        },
        configuration_now: RECHECKED,
        project: "six",
        out: |mirror| {
            eventually("the sweep", || {
                mirror.run(&["sync"]).ended(0);
                mirror.shows("six").then_some(())
            });
            by_itself(mirror);
        },
    },
    // The index has another address.
    State {
        name: "moved",
        configuration: LOG,
        made: |before| {
            release(before.index(), "six", "1.0");
            before.sync();
        },
        now: |index| {
            release(index, "six", "1.0");
            release(index, "six", "2.0");
        },
        configuration_now: MOVED,
        project: "six",
        out: by_move,
    },
];

fn release(index: &Upstream, project: &str, version: &str) {
    index.world().upload(project, &wheel(project, version, 1));
}

/// Lets the earlier program count beyond upstream's serials.
fn change_without_serials(before: &Before<'_>) {
    for _ in 0..3 {
        before.index().world().archive("six");
        before.sync();
        before.index().world().unarchive("six");
        before.sync();
    }
}

fn in_a_hundred_years(index: &Upstream) {
    index.advance(Duration::from_hours(100 * 365 * 24));
}

/// From now on a page for people stands in place of a project's.
fn break_page(index: &Upstream, project: &str) {
    let response = Response::new(200).header("Content-Type", "text/html").body("<html><body>Sign in</body></html>");
    index.override_path(&page_path(project), response);
}

/// A page as it was when the index began.
fn stale_page(project: &str) -> Rule {
    let fault = Fault::Stale { age: Age::StuckAt(START_MS), not_found: true, flapping: false };
    Rule::new(On::Path(page_path(project)), fault)
}

fn page_path(project: &str) -> String {
    format!("/simple/{project}/")
}

/// The one command is `mirror reset`.
fn by_reset(mirror: &Mirror) {
    mirror.run(&["sync"]).says(&["`strandline mirror reset pypi`"]);
    mirror.run(&["mirror", "reset", "pypi"]).ended(0);
    by_itself(mirror);
}

/// The one command is `mirror move`.
fn by_move(mirror: &Mirror) {
    let url = format!("http://{}/simple/", host(MOVED.0));
    mirror.run(&["sync"]).ended(2).says(&[&format!("`strandline mirror move pypi {url}`")]);
    mirror.run(&["mirror", "move", "pypi", &url]).ended(0);
    by_itself(mirror);
}

/// The next sync, and no command.
fn by_itself(mirror: &Mirror) {
    mirror.run(&["sync"]).ended(0);
    equals_upstream(&mirror.0);
}

/// The broken project is held alone, and comes back with its page.
fn but_for_idna(mirror: &Mirror) {
    let world = &mirror.0;
    mirror.run(&["sync"]).ended(4).says(&["`idna`"]);
    assert_eq!(live(world, "six"), upstreams(world, "six"));
    world.upstream.clear_faults();
    world.upstream.remove_override(&page_path("idna"));
    by_itself(mirror);
}

/// The next syncs, by a clock that is the index's, where the index seems to be at another URL.
fn after_three_days(mirror: &Mirror) {
    let world = &mirror.0;
    mirror.run(&["mirror", "move", "pypi", &format!("{NAMED}/simple/")]).ended(0);
    world.upstream.advance(Duration::from_hours(60 * 24));
    for _ in 0..3 {
        world.upstream.advance(Duration::from_hours(2 * 24));
        sync(world, 1);
    }
    equals_upstream(world);
}

/// A host that no name server is asked for: its label is longer than DNS has.
fn host(letter: char) -> String {
    format!("{}.example", letter.to_string().repeat(64))
}

/// A mirror of an index that is reached through a proxy.
struct Mirror(World);

impl Mirror {
    /// Its index is empty.
    fn new(configuration: Configuration) -> Self {
        let mirror = Self(World::new(Index::new(), ""));
        mirror.0.upstream.set_manual_clock(START_MS);
        mirror.configure(configuration);
        mirror
    }

    /// The mirror of a state, with the store that the earlier program left.
    fn unpacked(state: &State) -> Self {
        let mirror = Self::new(state.configuration_now);
        (state.now)(&mirror.0.upstream);
        let archive = archive(state.name);
        tar(&["-C", mirror.0.path("").to_str().unwrap(), "-xpzf", archive.to_str().unwrap()]);
        mirror
    }

    fn configure(&self, (letter, lines): Configuration) {
        let host = host(letter);
        let top = "store = \"store\"\nmin-free = \"0B\"\n[mirror.pypi]\ndrain = \"0s\"\ncut-timeout = \"1s\"";
        let text = format!("{top}\nupstream = \"http://{host}/simple/\"\n{lines}\n");
        fs::write(self.0.path("strandline.toml"), text).unwrap();
        self.0.upstream.file_base(&format!("http://{host}"));
    }

    fn run(&self, arguments: &[&str]) -> Run {
        World::run_command(self.0.command(arguments).env("http_proxy", self.0.upstream.url()))
    }

    fn shows(&self, project: &str) -> bool {
        live(&self.0, project) == upstreams(&self.0, project)
    }
}

fn archive(name: &str) -> PathBuf {
    fixtures().join(format!("stuck/{name}.tar.gz"))
}

/// All at once; a thread has its state's name, and says so where it panics.
#[test]
fn a_mirror_that_was_stuck_comes_out() {
    let comes_out = |state: &State| {
        let mirror = Mirror::unpacked(state);
        assert!(!mirror.shows(state.project));
        (state.out)(&mirror);
        mirror.run(&["verify", "--data"]).ended(0);
    };
    thread::scope(|scope| {
        let begun = STATES.iter().map(|state| {
            let named = thread::Builder::new().name(state.name.to_owned());
            named.spawn_scoped(scope, || comes_out(state)).unwrap()
        });
        let begun: Vec<_> = begun.collect();
        let ended = begun.into_iter().map(|thread| (thread.thread().name().map(str::to_owned), thread.join().is_ok()));
        let stuck: Vec<_> = ended.filter(|(_, out)| !out).map(|(name, _)| name).collect();
        assert!(stuck.is_empty(), "{stuck:?}");
    });
}

/// The earlier program, as it comes from `STRANDLINE_BEFORE`, with a mirror.
struct Before<'a>(&'a Mirror);

impl Before<'_> {
    fn index(&self) -> &Upstream {
        &self.0.0.upstream
    }

    fn sync(&self) {
        self.sync_at("2023-11-20 00:00:00");
    }

    /// Syncs; the program's clock begins with this.
    fn sync_at(&self, time: &str) {
        let mut command = Command::new(program("faketime"));
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("http_proxy", self.index().url());
        let arguments = [time, &std::env::var("STRANDLINE_BEFORE").unwrap(), "sync"];
        World::run_command(command.args(arguments).current_dir(self.0.0.path("")));
    }
}

#[test]
#[ignore = "a store is made once, by an earlier program"]
fn stuck_stores_are_made() {
    fs::create_dir_all(fixtures().join("stuck")).unwrap();
    for state in STATES.iter().filter(|state| !archive(state.name).exists()) {
        let mirror = Mirror::new(state.configuration);
        (state.made)(&Before(&mirror));
        for without_content in ["incoming", "reserve"] {
            fs::remove_dir_all(mirror.0.path("store").join(without_content)).unwrap();
        }
        let (root, path) = (mirror.0.path(""), archive(state.name));
        let owners = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=posix"];
        let what = ["-C", root.to_str().unwrap(), "-czf", path.to_str().unwrap(), "store"];
        tar(&[&owners[..], &what].concat());
    }
}

/// What the stores are good for: the earlier program does not come out by itself.
#[test]
#[ignore = "needs an earlier program"]
fn the_earlier_program_stays_stuck() {
    for state in STATES {
        let mirror = Mirror::unpacked(state);
        for _ in 0..3 {
            Before(&mirror).sync_at("2023-11-21 00:00:00");
        }
        assert!(!mirror.shows(state.project), "{}", state.name);
    }
}
