//! Where users and passwords come from, where they go, and that no line shows them.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::process::Signal;
use strandline_testkit::{Response, Upstream, World as Index};

use crate::support::world::{World, wheel};

/// What `user:password` looks like in a request.
const SAID: [(&str, &str); 5] = [
    ("one:s3cr3t", "Basic b25lOnMzY3IzdA=="),
    ("two:s3cr3t", "Basic dHdvOnMzY3IzdA=="),
    ("two:rotated", "Basic dHdvOnJvdGF0ZWQ="),
    ("files:s3cr3t", "Basic ZmlsZXM6czNjcjN0"),
    ("router:s3cr3t", "Basic cm91dGVyOnMzY3IzdA=="),
];

/// Who upstream was told that it is asked by, for a path.
fn told(upstream: &Upstream, path: &str) -> String {
    let Some(header) = upstream.last_header(path, "authorization") else { return "no login".to_owned() };
    SAID.iter().find(|(_, basic)| *basic == header).map_or(header, |(who, _)| (*who).to_owned())
}

/// A mirror of `six` whose upstream is asked as `user`, which stands in the URL, with more lines in the table.
fn world(user: &str, lines: &str) -> World {
    let mut index = Index::new();
    index.upload("six", &wheel("six", "1.0", 1));
    let world = World::new(index, "");
    let upstream = world.upstream.simple_url().replace("//", &format!("//{user}"));
    let text = format!(
        "store = \"store\"\n[mirror.pypi]\nupstream = \"{upstream}\"\nprojects = [\"six\"]\ndrain = \"0s\"\n{lines}\n"
    );
    fs::write(world.path("strandline.toml"), text).unwrap();
    world
}

const PAGE: &str = "/simple/six/";

#[test]
fn of_netrc_the_environment_or_a_command() {
    let netrc = "machine 127.0.0.1 login one password s3cr3t\nmachine 127.0.0.1 login two password s3cr3t\n";
    for (user, lines, netrc, expected) in [
        ("", "", netrc, "one:s3cr3t"),
        ("two@", "", netrc, "two:s3cr3t"),
        ("two@", "", "machine 127.0.0.1 password s3cr3t", "two:s3cr3t"),
        ("", "", "machine localhost login one password s3cr3t", "no login"),
        ("two:${TOKEN}@", "", netrc, "two:s3cr3t"),
        ("${WHO}:${TOKEN}@", "", "", "two:s3cr3t"),
        ("one@", "credential-command = \"echo $WHO; echo $TOKEN\"", netrc, "two:s3cr3t"),
    ] {
        let world = world(user, lines);
        fs::write(world.path(".netrc"), netrc).unwrap();
        let mut command = world.command(&["-vv", "sync"]);
        let run = World::run_command(command.env("TOKEN", "s3cr3t").env("WHO", "two")).ended(0);
        assert_eq!(told(&world.upstream, PAGE), expected, "{user} {lines} {netrc}");
        assert!(!run.err.contains("s3cr3t") && run.err.contains("GET http://127.0.0.1"), "{}", run.err);
        for words in
            ["status", "show", "log"].map(|name| if name == "status" { vec![name] } else { vec![name, "pypi"] })
        {
            assert!(!world.done(&words).contains("s3cr3t"), "{words:?}");
        }
    }
}

#[test]
fn where_there_are_none() {
    let run = world("two:${TOKEN}@", "").run(&["sync"]).ended(2);
    run.says(&["upstream: the environment has no variable `TOKEN`"]);
    let failing = world("", "credential-command = \"echo two; echo s3cr3t; false\"");
    let run = failing.run(&["-vv", "sync"]).ended(1).says(&["credential-command: it failed"]);
    assert!(!run.err.contains("s3cr3t"), "{}", run.err);
    assert_eq!(failing.upstream.counts().total(), 0);
    let wrong = world("", "");
    let text = fs::read_to_string(wrong.path("strandline.toml")).unwrap().replace("http://", "ftp://me:s3cr3t@");
    fs::write(wrong.path("strandline.toml"), text).unwrap();
    let run = wrong.run(&["sync"]).ended(2).says(&["line 3", "ftp://127.0.0.1"]);
    assert!(!run.err.contains("s3cr3t"), "{}", run.err);
}

/// Each by the name that netrc has for it, on every file and every redirect, and none of them in a line.
#[test]
fn another_host_gets_its_own() {
    let world = world("two:s3cr3t@", "");
    let mut files = Index::new();
    files.upload("six", &wheel("six", "1.0", 1));
    let path = files.project("six").unwrap().files[0].url_path.clone();
    let files = Upstream::start(files).unwrap();
    let on_files = |host: &str| files.url().replace("127.0.0.1", host).trim_end_matches('/').to_owned();
    let (default, named) = ("default login d password s3cr3t", "machine localhost login files password s3cr3t");
    for (netrc, host, query, expected) in [
        (default, "localhost", "", "no login"),
        (named, "localhost", "?X-Signature=s3cr3t", "files:s3cr3t"),
        (named, "router:s3cr3t@localhost", "?X-Signature=s3cr3t", "router:s3cr3t"),
    ] {
        fs::write(world.path(".netrc"), netrc).unwrap();
        let location = format!("{}{path}{query}", on_files(host));
        world.upstream.override_path(&path, Response::new(302).header("Location", &location));
        let run = world.run(&["-vv", "sync"]).ended(0);
        assert_eq!((told(&world.upstream, &path), told(&files, &path)), ("two:s3cr3t".to_owned(), expected.to_owned()));
        assert!(!run.err.contains("s3cr3t"), "{}", run.err);
        fs::remove_dir_all(world.path("store")).unwrap();
        files.reset_counters();
    }
    // A redirect that leads to nothing is named without its secrets, too.
    let location = format!("{}/nothing?X-Signature=s3cr3t", on_files("router:s3cr3t@localhost"));
    world.upstream.override_path(PAGE, Response::new(302).header("Location", &location));
    let run = world.run(&["-vv", "sync"]);
    assert!(run.code != Some(2) && !run.err.contains("s3cr3t"), "{}", run.err);
}

#[test]
fn up_reads_them_anew_at_each_sync() {
    let world = world("two@", "");
    fs::write(world.path("first"), "machine 127.0.0.1 password s3cr3t").unwrap();
    fs::write(world.path("second"), "machine 127.0.0.1 password rotated").unwrap();
    symlink("first", world.path(".netrc")).unwrap();
    let mut process = world.start(&["up", "--listen", "127.0.0.1:0", "--every", "1s"]);
    process.until("the first", |_| (told(&world.upstream, PAGE) == "two:s3cr3t").then_some(()));
    fs::remove_file(world.path(".netrc")).unwrap();
    symlink("second", world.path(".netrc")).unwrap();
    process.until("the second", |_| (told(&world.upstream, PAGE) == "two:rotated").then_some(()));
    process.signal(Signal::INT);
    process.end().ended(0);
}
