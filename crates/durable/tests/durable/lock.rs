//! A lock has one holder or many sharers, says who they are not, and ends with its process (invariant 8 of the design).
#![expect(clippy::disallowed_methods, reason = "the tests look at lock files")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use strandline_durable::{Holder, Lock, LockError};
use tempfile::tempdir;

fn holder(refused: Result<Lock, LockError>) -> Holder {
    match refused {
        Err(LockError::Held { holder, .. }) => holder,
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn the_second_is_told_who_has_it_since_when() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("lock");
    let lock = Lock::take(&path, "mirror `pypi`", "2026-11-23T15:10:00Z").unwrap();
    let me = std::process::id();
    let error = Lock::take(&path, "mirror `pypi`", "later").unwrap_err();
    assert_eq!(error.to_string(), format!("mirror `pypi` is held by process {me} since 2026-11-23T15:10:00Z"));
    assert!(matches!(error, LockError::Held { path: held, .. } if held == path));
    assert!(Lock::free(&path).unwrap().is_none());
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{me} 2026-11-23T15:10:00Z\n"), "the refused wrote nothing");
    drop(lock);
    let again = Lock::take(&path, "mirror `pypi`", "now").unwrap();
    assert_eq!(holder(Lock::take(&path, "", "")).since, "now", "a shorter text replaces the longer one whole");
    drop(again);
    assert!(path.exists(), "the file stays: removing it would let two have it");
}

#[test]
fn sharers_keep_the_one_out_and_the_one_keeps_sharers_out() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("lock");
    let (first, second) = (Lock::share(&path).unwrap(), Lock::share(&path).unwrap());
    assert!(Lock::free(&path).unwrap().is_none());
    drop(first);
    assert!(Lock::free(&path).unwrap().is_none());
    drop(second);
    let alone = Lock::alone(&path).unwrap();
    assert!(Lock::free(&path).unwrap().is_none());
    drop(alone);
    drop(Lock::share(&path).unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"", "nobody signs a lock that is shared");
}

#[test]
fn a_lock_file_that_cannot_be_is_another_error() {
    let error = Lock::take(Path::new("/nowhere/lock"), "it", "now").unwrap_err();
    assert!(matches!(error, LockError::Disk(_)));
    assert_eq!(error.to_string(), "cannot lock `/nowhere/lock`");
}

#[test]
fn what_is_in_the_file_is_believed_only_as_far_as_it_goes() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("lock");
    let _lock = Lock::take(&path, "it", "now").unwrap();
    for (text, process, since) in [
        ("", "(unknown)", "just now"),
        ("17", "(unknown)", "just now"),
        ("17 yesterday\n", "17", "yesterday"),
        ("\u{0}\u{0}\u{0}", "(unknown)", "just now"),
    ] {
        fs::write(&path, text).unwrap();
        let expected = Holder { process: process.to_owned(), since: since.to_owned() };
        assert_eq!(holder(Lock::take(&path, "it", "later")), expected, "{text:?}");
    }
    fs::write(&path, [0xff; 10]).unwrap();
    assert_eq!(holder(Lock::take(&path, "it", "later")).process, "(unknown)");
}

const HELD_AT: &str = "STRANDLINE_TEST_LOCK";

/// What the other process of the next test does; by itself, nothing.
#[test]
fn hold() {
    let Some(path) = std::env::var_os(HELD_AT) else { return };
    let _lock = Lock::take(Path::new(&path), "it", "its beginning").unwrap();
    eprint_line("held");
    std::io::stdin().lines().for_each(drop);
}

#[expect(clippy::print_stderr, reason = "it is how two processes of the test talk")]
fn eprint_line(line: &str) {
    eprintln!("{line}");
}

/// Another process that has the lock by the time that this returns.
fn other_process(path: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lock::hold", "--nocapture", "--test-threads=1"])
        .env(HELD_AT, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("held")), "it ended without the lock");
    child
}

/// Who waits has the lock as soon as it is free, and not before.
#[test]
fn who_waits_gets_it_next() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("lock");
    let waits: [fn(&Path) -> Result<Lock, LockError>; 3] = [Lock::share, Lock::alone, |path| Lock::wait(path, "then")];
    for wait in waits {
        let first = Lock::take(&path, "it", "now").unwrap();
        let order = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let lock = wait(&path).unwrap();
                order.lock().unwrap().push("second");
                lock
            });
            order.lock().unwrap().push("first");
            drop(first);
            drop(waiting.join().unwrap());
        });
        assert_eq!(*order.lock().unwrap(), ["first", "second"]);
    }
}

#[test]
fn another_process_keeps_it_until_it_ends_however_it_ends() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("lock");
    for kill in [false, true] {
        let mut child = other_process(&path);
        let expected = Holder { process: child.id().to_string(), since: "its beginning".to_owned() };
        assert_eq!(holder(Lock::take(&path, "it", "now")), expected);
        assert!(Lock::free(&path).unwrap().is_none());
        if kill {
            child.kill().unwrap();
        } else {
            drop(child.stdin.take());
        }
        assert_eq!(child.wait().unwrap().success(), !kill);
        drop(Lock::take(&path, "it", "now").unwrap());
    }
}
