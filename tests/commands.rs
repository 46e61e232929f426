//! The commands one by one: what they write, what they say, how they end.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use strandline_testkit::{Fault, On, Rule, Upstream, World as Index};

use crate::support::world::{World, text, wheel};

/// A mirror of two projects that was synced twice.
fn twice() -> World {
    let mut index = Index::new();
    for project in ["six", "Zope.Interface"] {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    let world = World::new(index, "projects = [\"six\", \"Zope.Interface\"]");
    world.done(&["sync"]);
    world.upstream.world().upload("six", &wheel("six", "2.0", 1));
    world.done(&["sync"]);
    world
}

#[test]
fn init_writes_a_configuration_once() {
    let world = World::new(Index::new(), "");
    let path = world.path("strandline.toml");
    fs::remove_file(&path).unwrap();
    let upstream = world.upstream.simple_url();
    let arguments = ["init", "--mirror", "mine", "--upstream", &upstream, "--project", "six", "--project", "a__b"];
    let run = world.run(&arguments).ended(0).says(&["wrote strandline.toml", "strandline sync", "strandline up"]);
    assert_eq!(run.out, "");
    let written = fs::read_to_string(&path).unwrap();
    for line in ["[mirror.mine]", &format!("upstream = \"{upstream}\""), "projects = [\"six\", \"a__b\"]"] {
        assert!(written.lines().any(|written| written == line), "there is no line `{line}`:\n{written}");
    }
    // What it offers in comments is accepted where it is taken up.
    let example = |line: &str| line.contains(" = ") && !line.contains("INDEX") && !line.contains("projects");
    let all: Vec<_> =
        written.lines().map(|line| line.strip_prefix("# ").filter(|line| example(line)).unwrap_or(line)).collect();
    fs::write(world.path("all.toml"), all.join("\n")).unwrap();
    assert_ne!(all.join("\n"), written.trim_end());
    assert!(world.done(&["status", "--config", "all.toml"]).contains("never synced"));
    assert!(world.done(&["--config", "strandline.toml", "status"]).contains("mine"));

    world.run(&["init", "--project", "idna"]).ended(2).says(&["strandline.toml", "exists already"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), written);
    world.run(&["init", "--config", "new.toml"]).ended(0);
    assert!(fs::read_to_string(world.path("new.toml")).unwrap().contains("# projects ="));
    let query = format!("{upstream}?a");
    for wrong in [["--upstream", "six"], ["--upstream", &query], ["--project", "no good"], ["--mirror", "../x"]] {
        world.run(&["init", "--config", "none.toml", wrong[0], wrong[1]]).ended(2).says(&[wrong[0]]);
        assert!(!world.path("none.toml").exists());
    }
}

#[test]
fn a_bad_configuration_names_file_line_and_key() {
    let world = World::new(Index::new(), "");
    let good = "store = \"store\"\n[mirror.pypi]\n";
    let in_mirror = |line: &str| format!("{good}{line}\n");
    for (text, words) in [
        ("store = \n".to_owned(), &["line 1"][..]),
        ("[mirror.pypi]\n".to_owned(), &["store"]),
        ("store = \"store\"\n".to_owned(), &["mirror"]),
        ("store = \"store\"\n[mirror]\n".to_owned(), &["[mirror.NAME]"]),
        (format!("stor = \"x\"\n{good}"), &["line 1", "stor"]),
        (format!("grace = \"soon\"\n{good}"), &["line 1", "grace", "`soon`", "24h"]),
        (in_mirror("project = [\"six\"]"), &["line 3", "project", "projects"]),
        (in_mirror("projects = \"six\""), &["line 3", "projects"]),
        (in_mirror("projects = [\"six\", \"no good\"]"), &["line 3", "projects", "no good"]),
        (in_mirror("upstream = \"six\""), &["line 3", "upstream", "URL"]),
        (in_mirror("upstream = \"ftp://127.0.0.1/simple/\""), &["line 3", "upstream", "https://"]),
        (in_mirror("projects = []"), &["line 3", "projects", "everything"]),
        (in_mirror("upstream = \"https://127.0.0.1/?a\""), &["line 3", "upstream", "without `?`"]),
        (
            in_mirror(&format!("upstream = \"https://127.0.0.1/{}\"", "x".repeat(2048))),
            &["line 3", "upstream", "2,048"],
        ),
        (in_mirror("connect-to = \"nowhere\""), &["line 3", "connect-to", "`nowhere`", "HOST:PORT"]),
        (in_mirror("connect-to = \":1\""), &["line 3", "connect-to", "HOST:PORT"]),
        (
            in_mirror("upstream = \"https://127.0.0.1/\"\nconnect-to = \"127.0.0.2:1\""),
            &["line 4", "connect-to", "`127.0.0.2:1`", "an address already"],
        ),
        (
            in_mirror("connect-to = \"127.0.0.1:1\"\nupstream = \"https://index.example:2/\""),
            &["line 3", "connect-to", "its port"],
        ),
        (in_mirror("source = \"guess\""), &["line 3", "source", "guess", "warehouse"]),
        (in_mirror("connections = 0"), &["line 3", "connections"]),
        (in_mirror("max-file-size = \"large\""), &["line 3", "max-file-size", "`large`", "1GiB"]),
        (in_mirror("max-page-size = -1"), &["line 3", "max-page-size"]),
        (in_mirror("cut-timeout = \"-5s\""), &["line 3", "cut-timeout", "`-5s`"]),
        (in_mirror("drain = 5"), &["line 3", "drain"]),
        (in_mirror("keep = { last = 1, yearly = 3 }"), &["line 3", "keep", "yearly"]),
        ("store = \"store\"\n[mirror.\"no good\"]\n".to_owned(), &["line 2", "no good"]),
    ] {
        fs::write(world.path("strandline.toml"), &text).unwrap();
        let run = world.run(&["sync"]).ended(2).says(&["strandline.toml"]);
        for word in words {
            assert!(run.err.contains(word), "`{word}` is not said of\n{text}\n{}", run.err);
        }
        assert!(!world.path("store").exists(), "something was done for\n{text}");
    }
    world.run(&["sync", "--config", "none.toml"]).ended(2).says(&["none.toml"]);
}

#[test]
fn usage_is_explained() {
    let world = twice();
    for arguments in [&["frobnicate"][..], &[], &["sync", "-q", "-v"], &["rollback", "pypi"], &["show"]] {
        world.run(arguments).ended(2).says(&["Usage"]);
    }
    for arguments in [&["sync", "other"][..], &["log", "other"], &["show", "other"], &["rollback", "other", "1"]] {
        world.run(arguments).ended(2).says(&["strandline.toml", "no mirror `other`", "`pypi`"]);
    }
    for arguments in [&["rollback", "pypi", "99"][..], &["show", "pypi@99"], &["diff", "pypi", "99", "never"]] {
        world.run(arguments).ended(2).says(&["no snapshot 99", "strandline log pypi"]);
    }
    world.run(&["show", "no good@1"]).ended(2).says(&["no good"]);
    world.run(&["show", "pypi", "idna"]).ended(1).says(&["no project `idna`"]);
    let unknown = "0".repeat(64);
    world.run(&["show", "--raw", &unknown]).ended(1).says(&[&unknown]);
    for command in ["serve", "up"] {
        let help = world.done(&[command, "--help"]);
        assert!(help.contains("[default: 127.0.0.1:8780]"), "loopback unless told otherwise:\n{help}");
    }
    let help = world.done(&["--help"]);
    for command in
        ["up", "init", "sync", "serve", "status", "log", "diff", "show", "rollback", "verify", "render", "gc", "nginx"]
    {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} is not in\n{help}");
    }
}

#[test]
fn what_was_asked_for_is_on_stdout() {
    let world = twice();
    let log = world.log();
    let [second, first] = [&log[0], &log[1]];
    assert_eq!(log.len(), 2);
    assert_eq!((&second["parent"], &first["parent"]), (&first["id"], &Value::Null));
    assert_eq!((&second["published"], &first["published"]), (&json!(true), &json!(false)));
    for line in &log {
        assert_eq!((&line["projects"], &line["verified"], &line["held"]), (&json!(2), &json!(true), &json!([])));
        assert!(text(&line["time"]).ends_with('Z') && text(&line["id"]).len() == 64);
    }
    let (before, after) = (text(&first["serial"]), text(&second["serial"]));
    let plain = world.done(&["log", "pypi"]);
    assert!(plain.lines().next().unwrap().starts_with(&format!("{after}\t")), "{plain}");
    assert!(plain.lines().next().unwrap().ends_with(" published"), "{plain}");

    let status: Value = serde_json::from_str(&world.done(&["status", "--json"])).unwrap();
    let mirror = &status["mirrors"][0];
    for (key, value) in [
        ("mirror", json!("pypi")),
        ("upstream", json!(world.upstream.simple_url())),
        ("published", json!(after)),
        ("recorded", json!(after)),
        ("projects", json!(2)),
        ("snapshots", json!(2)),
        ("rolled_back", json!(false)),
        ("held", json!([])),
    ] {
        assert_eq!(mirror[key], value, "{key}");
    }
    assert!(mirror["last_sync"]["time"].is_string() && mirror["last_sync"]["failure"].is_null(), "{mirror}");
    let plain = world.done(&["status"]);
    assert!(plain.contains(&format!("published  serial {after} since ")) && plain.contains("in order"), "{plain}");

    let diff = world.run(&["diff", "pypi", &before, &after, "--json"]).ended(0).json_lines();
    assert_eq!(diff.len(), 1);
    assert_eq!((&diff[0]["project"], &diff[0]["change"]), (&json!("six"), &json!("changed")));
    assert_eq!(diff[0]["files_removed"], json!([]));
    let added: Vec<_> = diff[0]["files_added"].as_array().unwrap().iter().map(text).collect();
    assert!(added[0].starts_with("packages/") && added[0].ends_with("/six-2.0-py3-none-any.whl"), "{added:?}");
    assert_eq!(added[1], format!("{}.metadata", added[0]));
    let plain = world.done(&["diff", "pypi", &after, &before]);
    assert!(plain.contains("changed six") && plain.contains(&format!("  - {}", added[0])), "{plain}");
    assert_eq!(world.done(&["diff", "pypi", &after, &after]), "");

    let shown = world.done(&["show", "pypi", "ZOPE_interface"]);
    assert!(shown.starts_with(&format!("Zope.Interface at serial {after} ")), "{shown}");
    assert!(shown.contains("/zope_interface-1.0-py3-none-any.whl\t") && shown.contains("sha256:"), "{shown}");
    assert!(!world.done(&["show", &format!("pypi@{before}"), "six"]).contains("six-2.0"));
    let snapshot = world.done(&["show", &format!("pypi@{before}")]);
    assert!(snapshot.starts_with(&format!("id {}\nstrandline-snapshot 2\n", text(&first["id"]))), "{snapshot}");
}

/// The keys of a JSON object.
#[track_caller]
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn status_has_every_key_whatever_is_known() {
    let mut index = Index::new();
    index.upload("six", &wheel("six", "1.0", 1));
    let world = World::new(index, "source = \"warehouse\"");
    let status = || serde_json::from_str::<Value>(&world.done(&["status", "--json"])).unwrap();
    let of_a_mirror = [
        "begins_anew",
        "collects_from",
        "gone",
        "held",
        "lacking",
        "lag",
        "last_sync",
        "method",
        "mirror",
        "missed_late_event",
        "no_changelog_since",
        "projects",
        "published",
        "published_since",
        "recorded",
        "rolled_back",
        "size",
        "skipped",
        "snapshots",
        "unknown_keys",
        "upstream",
        "withdrawal_unfinished",
        "withdrawn",
    ];

    let before = status();
    let (mirror, store) = (&before["mirrors"][0], &before["store"]);
    assert_eq!((keys(&before), keys(mirror)), (vec!["mirrors", "store"], of_a_mirror.to_vec()));
    assert_eq!(keys(store), ["free_bytes", "free_inodes", "size"]);
    for key in
        ["lag", "last_sync", "method", "projects", "published", "published_since", "recorded", "size", "upstream"]
    {
        assert_eq!(mirror[key], Value::Null, "{key}");
    }
    assert_eq!(store["size"], Value::Null);

    world.done(&["sync"]);
    world.done(&["gc"]);
    let after = status();
    let (mirror, store) = (&after["mirrors"][0], &after["store"]);
    assert_eq!(keys(mirror), of_a_mirror);
    assert_eq!(keys(&mirror["last_sync"]), ["failure", "rounds", "time"]);
    assert_eq!(mirror["lag"], json!({ "seconds": 0, "serials": 0 }));
    assert_eq!(keys(&mirror["size"]), ["bytes", "own_bytes"]);
    assert_eq!(keys(&store["size"]), ["as_of", "bytes", "saved_bytes"]);
}

#[test]
fn quiet_says_only_what_went_wrong() {
    let mut index = Index::new();
    index.release("six", "1.0");
    let world = World::new(index, "projects = [\"six\"]");
    let run = world.run(&["sync", "-q"]).ended(0);
    assert_eq!((run.out.as_str(), run.err.as_str()), ("", ""));
    let verbose = world.run(&["-vv", "sync"]).ended(0);
    assert!(verbose.err.lines().count() > 2, "{}", verbose.err);
    world
        .upstream
        .fault(Rule::new(On::Prefix("/simple/".to_owned()), Fault::Status { status: 403, retry_after: None }));
    let run = world.run(&["--quiet", "sync"]).ended(1).says(&["answered 403", "Readers see what they saw before"]);
    assert!(!run.err.contains("INFO") && !run.err.contains("WARN"), "{}", run.err);
}

#[test]
fn render_says_where_there_is_nothing_to_do() {
    let world = World::new(Index::new(), "");
    world.run(&["render", "pypi"]).ended(2).says(&["mirror `pypi` has no snapshot yet", "strandline sync pypi"]);
    world.run(&["render", "other"]).ended(2).says(&["no mirror `other`"]);
    let world = twice();
    let (live, log) = (world.live(), world.log());
    let said = world.done(&["render", "pypi"]);
    assert_eq!(
        said,
        format!("pypi: nothing to do: this version of the program made all pages of serial {}\n", world.newest())
    );
    assert_eq!((world.live(), world.log()), (live, log));
}

/// `strandline log pypi | head -1` is no error.
#[test]
fn a_reader_that_goes_away_is_no_error() {
    let world = twice();
    for arguments in [&["log", "pypi"][..], &["status", "--json"], &["show", "pypi"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = world.command(arguments);
        let output = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    }
}

/// Two processes on one mirror: the second says who holds it. Looking is always possible.
#[test]
fn while_a_sync_runs_others_wait_or_say_so() {
    let world = twice();
    world.upstream.world().upload("six", &wheel("six", "3.0", 1));
    let latency = Fault::Latency(Duration::from_secs(600));
    let rule = world.upstream.fault(Rule::new(On::Prefix("/packages/".to_owned()), latency));
    let asked = world.upstream.counts().file;
    let mut process = world.start(&["sync"]);
    process.until("a request for a file", |_| (world.upstream.counts().file > asked).then_some(()));
    let id = process.id().to_string();
    let first = text(&world.log()[1]["serial"]);
    for arguments in [&["sync"][..], &["rollback", "pypi", &first], &["rollback", "pypi", "--resume"]] {
        world.run(arguments).ended(1).says(&["mirror `pypi` is held by", &format!("process {id} since"), "Try again"]);
    }
    let mut waiting = world.start(&["sync", "--wait"]);
    for arguments in [&["status"][..], &["verify"], &["gc", "--dry-run"], &["gc"], &["show", "pypi", "six"], &["nginx"]]
    {
        world.done(arguments);
    }
    world.upstream.remove_fault(rule);
    drop(process);
    waiting.end().ended(0);
    assert_eq!(world.log().len(), 3, "the one that waited has synced");
}

#[test]
fn another_upstream_under_the_same_name_is_refused() {
    let world = twice();
    let (live, log) = (world.live(), world.log());
    let mut index = Index::new();
    index.release("six", "9.0");
    let other = Upstream::start(index).unwrap();
    let text = fs::read_to_string(world.path("strandline.toml")).unwrap();
    let changed = text.replace(&world.upstream.simple_url(), &other.simple_url());
    fs::write(world.path("strandline.toml"), changed).unwrap();
    let (here, there) = (world.upstream.simple_url(), other.simple_url());
    world.run(&["sync"]).ended(2).says(&["mirror `pypi` is a copy of", &here, &there, "another name"]);
    assert_eq!((world.live(), world.log()), (live, log));
    assert_eq!(other.counts().total(), 0, "it was not even asked");
}

/// Nothing that is not an index, or that has nothing of what is wanted, makes an empty mirror.
#[test]
fn an_upstream_that_is_no_index_is_refused() {
    let world = World::new(Index::new(), "projects = [\"six\"]");
    world.run(&["sync"]).ended(1).says(&["none of the selected projects (six)", "names right"]);
    assert_eq!(world.live().len(), 0);
    world.upstream.world().release("six", "1.0");
    world.done(&["sync"]);
    // A selected project that is not there is said, and stops nothing.
    world.configure("", "projects = [\"six\", \"sixx\"]");
    world.run(&["sync"]).ended(0).says(&["no project `sixx`"]);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let world = twice();
    let address = world.upstream.address().to_string();
    for command in ["serve", "up"] {
        world.run(&[command, "--listen", &address]).ended(1).says(&["cannot listen on", &address, "--listen"]);
    }
}

/// What is not selected any more goes, what is selected newly comes.
#[test]
fn a_changed_selection_is_followed() {
    for source in ["simple", "warehouse"] {
        let mut index = Index::new();
        for project in ["six", "idna", "packaging"] {
            index.release(project, "1.0");
        }
        let world = World::new(index, &format!("source = \"{source}\"\nprojects = [\"six\", \"idna\"]"));
        world.done(&["sync"]);
        let serial = world.newest();
        world.configure("", &format!("source = \"{source}\"\nprojects = [\"six\", \"packaging\"]"));
        world.done(&["sync"]);
        // Where nothing has happened upstream, it is the same serial again.
        let labels = if source == "warehouse" {
            [format!("{serial}.1"), format!("{serial}.2")]
        } else {
            [serial, world.newest()]
        };
        let [before, after] = &labels;
        let diff = world.run(&["diff", "pypi", before, after, "--json"]).ended(0).json_lines();
        let changes: BTreeSet<_> = diff.iter().map(|line| (text(&line["project"]), text(&line["change"]))).collect();
        let expected = [("idna", "removed"), ("packaging", "added")];
        let expected = expected.map(|(project, change)| (project.to_owned(), change.to_owned()));
        assert_eq!(changes, BTreeSet::from(expected), "{source} {labels:?}");
    }
}
