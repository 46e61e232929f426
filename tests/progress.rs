//! What is seen of a sync while it runs: a bar on a terminal, plain lines elsewhere, nothing with `-q`.

use std::fs::File;
use std::io::Read as _;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use strandline_testkit::{Fault, On, Rule, RuleId, World as Index};

use crate::support::world::{World, eventually, wheel};

/// What is there when one project is done, and the file of the other one does not come.
const HALF: &str = "1 of 2 projects, 2 of 3 files, ";

/// Two projects with one wheel each, of which one does not come.
fn half() -> (World, RuleId) {
    let mut index = Index::new();
    for project in ["six", "idna"] {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    let path = index.project("idna").unwrap().files[0].url_path.clone();
    let world = World::new(index, "projects = [\"six\", \"idna\"]");
    let rule = world.upstream.fault(Rule::new(On::Path(path), Fault::Latency(Duration::from_secs(600))));
    (world, rule)
}

/// The program with a terminal for its stderr.
struct OnTerminal {
    child: Child,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl OnTerminal {
    /// The terminal is 120 columns wide.
    fn start(world: &World, arguments: &[&str]) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        tcsetwinsize(&ours, Winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
        let theirs = File::options().read(true).write(true).open(name).unwrap();
        let mut command = world.command(arguments);
        let child = command.env("TERM", "xterm").stderr(theirs).spawn().unwrap();
        // Or this process would hold the terminal open, and its end would never be seen.
        drop(command);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut ours = File::from(ours);
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = ours.read(&mut buffer) {
                shown.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { child, screen }
    }

    /// Everything that was written to it so far.
    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    fn end(&mut self) -> Option<i32> {
        eventually("the end of the program", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        assert!(ended.is_ok() || std::thread::panicking(), "the program does not end");
    }
}

#[test]
fn on_a_terminal_there_is_a_bar() {
    let (world, rule) = half();
    let process = OnTerminal::start(&world, &["sync"]);
    let screen = eventually("a bar", || Some(process.screen()).filter(|screen| screen.contains(HALF)));
    let (before, after) = screen.split_once(HALF).unwrap();
    let bar = before.rsplit("pypi ").next().unwrap().trim();
    assert!(!screen.contains("[====================]"), "it is not full before it begins: {screen:?}");
    // Three of the five things that are wanted are there.
    assert_eq!(bar, "[============>-------]", "{screen:?}");
    assert!(after.starts_with(|c: char| c.is_ascii_digit()) && after.contains("B (") && after.contains("/s)"));
    assert!(!screen.contains("INFO"), "nothing but the bar: {screen:?}");
    world.upstream.remove_fault(rule);
    drop(process);

    // At the end, the log says what was done.
    let mut process = OnTerminal::start(&world, &["sync"]);
    assert_eq!(process.end(), Some(0));
    eventually("the last line", || process.screen().contains("first sync, at serial").then_some(()));
}

#[test]
fn without_a_terminal_there_are_lines() {
    let (world, _rule) = half();
    let mut process = world.start(&["sync", "--progress-every", "50ms"]);
    let said =
        process.until("a line", |process| process.err().lines().find(|line| line.contains(HALF)).map(str::to_owned));
    assert!(said.contains(" INFO pypi: 1 of 2") && said.contains("B (") && said.ends_with("/s)"), "{said}");
    assert!(!process.err().contains(['\r', '\u{1b}']), "{:?}", process.err());
    assert_eq!(process.out(), "");
    world.run(&["sync", "--progress-every", "0s"]).ended(2).says(&["--progress-every", "longer than 0s"]);
}

#[test]
fn quiet_is_quiet_on_a_terminal_too() {
    let (world, rule) = half();
    world.upstream.remove_fault(rule);
    world.upstream.fault(Rule::new(On::Prefix("/packages/".to_owned()), Fault::Latency(Duration::from_millis(500))));
    let mut process = OnTerminal::start(&world, &["sync", "-q"]);
    assert_eq!(process.end(), Some(0));
    assert_eq!(process.screen(), "");
}
