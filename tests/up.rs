//! `strandline up`: everything in one process, from an empty directory, until Ctrl-C.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use strandline_testkit::{Fault, On, Rule, World as Index};

use crate::support::server::{address_in, get};
use crate::support::tools::{environment_with_pip, isolate, upload_real};
use crate::support::world::{Process, World, wheel};

/// A world whose directory has no configuration, as a new user's.
fn bare(index: Index) -> World {
    let world = World::new(index, "");
    fs::remove_file(world.path("strandline.toml")).unwrap();
    world
}

/// Starts `up` for these projects, on a port of its own, with pip configured for the fake upstream.
fn up(world: &World, projects: &[&str]) -> Process {
    let mut arguments = vec!["up"];
    arguments.extend(projects);
    arguments.extend(["--listen", "127.0.0.1:0"]);
    let upstream = world.upstream.simple_url();
    world.start_with(&arguments, &[("PIP_INDEX_URL", &upstream)])
}

/// The line that pip is to be called with, once it is there.
#[track_caller]
fn pip_line(process: &mut Process) -> String {
    process.until("the line to try", |process| process.out().split_once('\n').map(|(line, _)| line.to_owned()))
}

#[test]
fn one_command_mirrors_serves_and_says_what_to_try() {
    let mut index = Index::new();
    let real = upload_real(&mut index);
    let world = bare(index);
    let mut process = up(&world, &["six", "idna"]);
    let line = pip_line(&mut process);
    assert!(line.starts_with("pip install --index-url http://127.0.0.1:"), "{line}");

    // The line as it is printed, in an environment that somebody made a moment ago.
    let environment = environment_with_pip(&world, "venv");
    let mut shell = Command::new("sh");
    isolate(&mut shell, &world);
    let output = shell.args(["-c", &format!(". {}/bin/activate && {line}", environment.display())]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(&format!("Successfully installed six-{}", real["six"])), "{said}");

    let configuration = fs::read_to_string(world.path("strandline.toml")).unwrap();
    assert!(configuration.contains("projects = [\"six\", \"idna\"]"), "{configuration}");
    assert!(configuration.lines().filter(|line| line.starts_with('#')).count() > 5, "it should explain itself");
    assert!(!configuration.contains("127.0.0.1"), "the index is pip's, whatever that will be:\n{configuration}");

    process.signal(Signal::INT);
    let ended = process.end().ended(0).says(&["wrote strandline.toml", "Ctrl-C"]);
    assert_eq!(ended.out.lines().count(), 1, "stdout has the line to try and nothing else: {}", ended.out);
    assert_eq!(world.incoming(), <[String; 0]>::default());

    // Again, with the same projects, in another order and spelling, and with none.
    for projects in [&["six", "idna"][..], &["Idna", "six"], &[]] {
        let mut process = up(&world, projects);
        pip_line(&mut process);
        process.signal(Signal::TERM);
        process.end().ended(0);
    }
    // With others it would have to change what somebody wrote.
    let mut process = up(&world, &["six", "packaging"]);
    process.end().ended(2).says(&["strandline.toml", "packaging", "`projects`"]);
    assert_eq!(fs::read_to_string(world.path("strandline.toml")).unwrap(), configuration);
}

#[test]
fn without_projects_and_configuration_it_says_what_to_write() {
    let world = bare(Index::new());
    up(&world, &[]).end().ended(2).says(&["strandline up six idna"]);
    assert!(!world.path("strandline.toml").exists());
    world.run(&["sync"]).ended(2).says(&["no configuration", "strandline init", "strandline up"]);
}

#[test]
fn it_keeps_syncing() {
    let mut index = Index::new();
    index.release("six", "1.0");
    let world = World::new(index, "projects = [\"six\"]");
    // Without a pause it would ask upstream as fast as that answers.
    world.run(&["up", "--listen", "127.0.0.1:0", "--every", "0s"]).ended(2).says(&["--every", "longer than 0s"]);
    let mut process = world.start(&["up", "--listen", "127.0.0.1:0", "--every", "1s"]);
    pip_line(&mut process);
    let at = process.until("the server", |process| address_in(&process.err()));
    world.upstream.world().release("six", "2.0");
    process.until("the new release", |_| {
        get(at, "/pypi/simple/six/", &[]).text().contains("six-2.0-py3-none-any.whl").then_some(())
    });
    // Upstream fails for a while, and the mirror goes on.
    let fault = world.upstream.fault(Rule::new(On::Prefix("/simple/".to_owned()), Fault::Gone));
    process.until("the failure", |process| process.err().contains("was not synced").then_some(()));
    assert_eq!(get(at, "/pypi/simple/six/", &[]).status, 200);
    world.upstream.remove_fault(fault);
    world.upstream.world().release("six", "3.0");
    process.until("the newest release", |_| {
        get(at, "/pypi/simple/six/", &[]).text().contains("six-3.0-py3-none-any.whl").then_some(())
    });
    process.signal(Signal::INT);
    process.end().ended(0);
}

/// Interrupted in the middle of a first sync, in different places, nothing is half done.
#[test]
fn ctrl_c_in_the_first_sync_leaves_nothing_half_done() {
    let slow = Fault::Drip { bytes: 8, pause: Duration::from_millis(200) };
    let late = Fault::Latency(Duration::from_secs(600));
    for fault in [slow, late] {
        let mut index = Index::new();
        for project in ["six", "idna", "packaging"] {
            index.upload(project, &wheel(project, "1.0", 1));
        }
        let world = World::new(index, "projects = [\"six\", \"idna\", \"packaging\"]");
        let rule = world.upstream.fault(Rule::new(On::Prefix("/packages/".to_owned()), fault));
        let mut process = world.start(&["up", "--listen", "127.0.0.1:0"]);
        process.until("requests for files", |_| (world.upstream.counts().file > 0).then_some(()));
        if fault == slow {
            process.until("a file that is coming in", |_| (!world.incoming().is_empty()).then_some(()));
        }
        process.signal(Signal::INT);
        process.end().ended(0).says(&["stopped"]);
        assert_eq!(world.incoming(), <[String; 0]>::default(), "{fault:?}");
        assert_eq!((world.log().len(), world.live().len()), (0, 0), "{fault:?}");

        world.upstream.remove_fault(rule);
        world.done(&["sync"]);
        world.done(&["verify", "--data"]);
        assert!(world.live().contains_key("simple/packaging/index.html"));
    }
}

/// A sync that is killed leaves what it was at, and the next one clears it away.
#[test]
fn what_a_killed_sync_leaves_is_cleared_away() {
    let mut index = Index::new();
    for project in ["six", "idna"] {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    let world = World::new(index, "projects = [\"six\", \"idna\"]");
    let slow = Fault::Drip { bytes: 8, pause: Duration::from_millis(200) };
    let rule = world.upstream.fault(Rule::new(On::Prefix("/packages/".to_owned()), slow));
    let mut process = world.start(&["sync"]);
    process.until("a file that is coming in", |_| (!world.incoming().is_empty()).then_some(()));
    process.signal(Signal::KILL);
    assert_eq!(process.end().code, None);
    world.upstream.remove_fault(rule);
    world.done(&["sync"]);
    assert_eq!(world.incoming(), <[String; 0]>::default());
    world.done(&["verify", "--data"]);
}
