//! What goes wrong when it is told to.

use std::io::{self, Read as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use strandline_testkit::{Age, Endpoint, Fault, Label, On, Response, Rule, Upload, Upstream, World};

use crate::client::{JSON, call, get, numbers, page, send};

const SECOND: Duration = Duration::from_secs(1);

/// An index with a stopped clock and one project, `six` 1.0, that is a minute old; and its serial.
fn still() -> io::Result<(Upstream, u64)> {
    let mut world = World::new();
    let serial = world.release("six", "1.0");
    let start_ms = world.now_ms();
    let upstream = Upstream::start(world)?;
    upstream.set_manual_clock(start_ms + 60_000);
    Ok((upstream, serial))
}

/// The same with a file of ten bytes, and the file's path.
fn still_with_file() -> io::Result<(Upstream, String)> {
    let (upstream, _) = still()?;
    upstream.world().upload("six", &Upload::raw("six-2.0.tar.gz", "2.0", "0123456789"));
    let state = upstream.world().project("six").unwrap_or_else(|| unreachable!("it was uploaded"));
    Ok((upstream, state.files[1].url_path.clone()))
}

fn stale(age: Age) -> Fault {
    Fault::Stale { age, not_found: false, flapping: false }
}

fn versions(answer: Option<(u64, Vec<String>)>) -> Vec<String> {
    answer.map(|(_, versions)| versions).unwrap_or_default()
}

#[test]
fn a_stale_page_has_the_old_content_and_the_old_serial() {
    let (upstream, old) = still().unwrap();
    upstream.fault(Rule::new(On::Kind(Endpoint::Page), stale(Age::Exactly(5 * SECOND))));
    let new = upstream.world().release("six", "2.0");
    upstream.advance(Duration::from_millis(4999));
    assert_eq!(page(&upstream, "six").unwrap(), Some((old, vec!["1.0".into()])));
    let head = get(&upstream, "/simple/six/", &[]).unwrap();
    assert_eq!(head.header("x-pypi-last-serial"), Some(old.to_string().as_str()));
    // The log is not behind that cache.
    assert_eq!(numbers(&call(&upstream, "changelog_last_serial", None).unwrap()), [new]);
    upstream.advance(Duration::from_millis(1));
    assert_eq!(page(&upstream, "six").unwrap(), Some((new, vec!["1.0".into(), "2.0".into()])));
}

#[test]
fn an_edge_shows_each_change_within_its_age_and_never_goes_back() {
    let (upstream, _) = still().unwrap();
    let rule = upstream.fault(Rule::new(On::Prefix("/simple/".into()), stale(Age::UpTo(5 * SECOND))));
    let (mut last, mut lags) = (0, 0);
    for n in 0..40 {
        let written = upstream.world().release("six", &format!("2.{n}"));
        let (seen, _) = page(&upstream, "six").unwrap().unwrap();
        assert!(seen >= last);
        last = seen;
        lags += u32::from(seen < written);
        upstream.advance(SECOND);
    }
    assert!(lags > 20, "{lags}");
    upstream.advance(4 * SECOND);
    assert_eq!(page(&upstream, "six").unwrap().unwrap().0, upstream.world().serial());
    upstream.world().release("six", "3.0");
    upstream.remove_fault(rule);
    assert_eq!(page(&upstream, "six").unwrap().unwrap().0, upstream.world().serial());
}

#[test]
fn a_404_is_stale_only_on_request() {
    let (upstream, _) = still().unwrap();
    let age = Age::Exactly(5 * SECOND);
    let rule = upstream.fault(Rule::new(On::Everything, stale(age)));
    upstream.world().release("idna", "1.0");
    assert_eq!(versions(page(&upstream, "idna").unwrap()), ["1.0"]);
    upstream.remove_fault(rule);
    let with_404 = Fault::Stale { age, not_found: true, flapping: false };
    upstream.fault(Rule::new(On::Everything, with_404));
    assert_eq!(page(&upstream, "idna").unwrap(), None);
    // What was removed is still shown.
    upstream.advance(6 * SECOND);
    upstream.world().remove_project("idna");
    assert_eq!(versions(page(&upstream, "idna").unwrap()), ["1.0"]);
    upstream.advance(5 * SECOND);
    assert_eq!(page(&upstream, "idna").unwrap(), None);
}

#[test]
fn flapping_nodes_show_new_and_old_in_turns() {
    let (upstream, old) = still().unwrap();
    let fault = Fault::Stale { age: Age::Exactly(5 * SECOND), not_found: true, flapping: true };
    upstream.fault(Rule::new(On::Everything, fault));
    let new = upstream.world().release("six", "2.0");
    let seen: Vec<u64> = (0..40).map(|_| page(&upstream, "six").unwrap().unwrap().0).collect();
    assert!(seen.contains(&old) && seen.contains(&new));
    assert!(seen.windows(2).any(|pair| pair[0] > pair[1]));
}

#[test]
fn a_stuck_page_stays_until_the_rule_goes() {
    let (upstream, old) = still().unwrap();
    let now_ms = upstream.now_ms();
    upstream.advance(SECOND);
    let rule = upstream.fault(Rule::new(On::Path("/simple/six/".into()), stale(Age::StuckAt(now_ms))));
    let new = upstream.world().release("six", "2.0");
    upstream.advance(100_000 * SECOND);
    assert_eq!(page(&upstream, "six").unwrap().unwrap().0, old);
    upstream.remove_fault(rule);
    assert_eq!(page(&upstream, "six").unwrap().unwrap().0, new);
}

#[test]
fn a_label_may_be_below_the_content() {
    let (upstream, old) = still().unwrap();
    let rule = upstream.fault(Rule::new(On::Everything, Fault::Label(Label::Behind(SECOND))));
    let new = upstream.world().release("six", "2.0");
    let both = vec!["1.0".to_owned(), "2.0".to_owned()];
    assert_eq!(page(&upstream, "six").unwrap(), Some((old, both.clone())));
    let root = get(&upstream, "/simple/", &[JSON]).unwrap().json();
    assert_eq!((&root["meta"]["_last-serial"], &root["projects"][0]["_last-serial"]), (&old.into(), &new.into()));
    upstream.advance(SECOND);
    assert_eq!(page(&upstream, "six").unwrap(), Some((new, both.clone())));
    upstream.remove_fault(rule);
    upstream.fault(Rule::new(On::Everything, Fault::Label(Label::BehindEvents(1))));
    assert_eq!(page(&upstream, "six").unwrap(), Some((new - 1, both)));
}

#[test]
fn a_late_event_is_in_no_answer_while_a_higher_serial_is() {
    let (upstream, old) = still().unwrap();
    let (late, higher) = {
        let mut world = upstream.world();
        world.delay_next(3 * SECOND);
        (world.release("six", "2.0"), world.release("idna", "1.0"))
    };
    let rows = || -> Vec<u64> {
        let answer = call(&upstream, "changelog_since_serial", Some(old)).unwrap();
        numbers(&answer).into_iter().skip(1).step_by(2).collect()
    };
    assert_eq!(numbers(&call(&upstream, "changelog_last_serial", None).unwrap()), [higher]);
    assert!(rows().iter().all(|serial| *serial > late));
    assert_eq!(page(&upstream, "six").unwrap().unwrap().0, old);
    upstream.advance(3 * SECOND);
    assert!(rows().contains(&late) && rows().is_sorted());
    assert_eq!(page(&upstream, "six").unwrap().unwrap().0, late);
}

#[test]
fn statuses_come_with_retry_after_and_as_often_as_told() {
    let (upstream, _) = still().unwrap();
    let fault = Fault::Status { status: 429, retry_after: Some(7) };
    upstream.fault(Rule::new(On::Kind(Endpoint::Page), fault).skip(1).times(2));
    let answers: Vec<_> = (0..4).map(|_| get(&upstream, "/simple/six/", &[]).unwrap()).collect();
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 429, 429, 200]);
    assert_eq!(answers[1].header("retry-after"), Some("7"));
    assert_eq!(upstream.counts().page, 4);
}

#[test]
fn chance_is_decided_by_the_seed() {
    let run = |seed| -> Vec<u16> {
        let (upstream, _) = still().unwrap();
        upstream.set_fault_seed(seed);
        upstream.fault(Rule::new(On::Everything, Fault::Gone).chance(0.3));
        (0..60).map(|_| get(&upstream, "/simple/six/", &[]).unwrap().status).collect()
    };
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
    let gone = first.iter().filter(|status| **status == 404).count();
    assert!((8..30).contains(&gone), "{gone}");
}

#[test]
fn xmlrpc_can_be_hit_by_method() {
    let (upstream, old) = still().unwrap();
    upstream.fault(Rule::new(On::Method("list_packages_with_serial".into()), stale(Age::Exactly(60 * 60 * SECOND))));
    let outage = Fault::Status { status: 503, retry_after: None };
    upstream.fault(Rule::new(On::Method("changelog_since_serial".into()), outage));
    let listed = call(&upstream, "list_packages_with_serial", None).unwrap();
    assert!(numbers(&listed).is_empty());
    assert_eq!(call(&upstream, "changelog_since_serial", Some(0)).unwrap().status, 503);
    assert_eq!(numbers(&call(&upstream, "changelog_last_serial", None).unwrap()), [old]);
}

#[test]
fn a_truncated_body_is_shorter_than_announced() {
    let (upstream, path) = still_with_file().unwrap();
    upstream.fault(Rule::new(On::Kind(Endpoint::File), Fault::Truncate));
    let answer = get(&upstream, &path, &[]).unwrap();
    assert_eq!((answer.header("content-length"), answer.text().as_str()), (Some("10"), "01234"));
    assert!(!answer.whole());
    assert!(get(&upstream, "/simple/six/", &[]).unwrap().whole());
}

#[test]
fn a_corrupt_body_differs_in_one_byte() {
    let (upstream, path) = still_with_file().unwrap();
    upstream.fault(Rule::new(On::Prefix("/packages/".into()), Fault::Corrupt));
    let answer = get(&upstream, &path, &[]).unwrap();
    assert!(answer.whole());
    assert_eq!(answer.text(), "0123446789");
}

#[test]
fn a_reset_breaks_the_connection() {
    let (upstream, path) = still_with_file().unwrap();
    upstream.fault(Rule::new(On::Path(path.clone()), Fault::Reset));
    let error = get(&upstream, &path, &[]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_hanging_request_is_never_answered_and_does_not_keep_the_index_from_stopping() {
    let (upstream, path) = still_with_file().unwrap();
    upstream.fault(Rule::new(On::Path(path.clone()), Fault::Hang));
    let mut stream = TcpStream::connect(upstream.address()).unwrap();
    send(&mut stream, "GET", &path, &[], "").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let kind = stream.read(&mut [0; 1]).unwrap_err().kind();
    assert!(matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{kind}");
    assert_eq!(get(&upstream, "/simple/six/", &[]).unwrap().status, 200);
    drop(upstream);
    stream.set_read_timeout(None).unwrap();
    assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
}

#[test]
fn a_dripping_body_and_a_late_answer_take_their_time() {
    let (upstream, path) = still_with_file().unwrap();
    let pause = Duration::from_millis(10);
    let rule = upstream.fault(Rule::new(On::Path(path.clone()), Fault::Drip { bytes: 3, pause }));
    let start = Instant::now();
    let answer = get(&upstream, &path, &[]).unwrap();
    assert_eq!(answer.text(), "0123456789");
    assert!(start.elapsed() >= 4 * pause);
    upstream.remove_fault(rule);
    upstream.fault(Rule::new(On::Path(path.clone()), Fault::Latency(5 * pause)));
    let start = Instant::now();
    assert_eq!(get(&upstream, &path, &[]).unwrap().text(), "0123456789");
    assert!(start.elapsed() >= 5 * pause);
}

#[test]
fn a_file_may_be_late_or_gone_while_its_page_is_there() {
    let (upstream, path) = still_with_file().unwrap();
    upstream.fault(Rule::new(On::Prefix("/packages/".into()), Fault::Late(10 * SECOND)));
    assert_eq!(get(&upstream, &path, &[]).unwrap().status, 404);
    assert_eq!(versions(page(&upstream, "six").unwrap()), ["1.0", "2.0"]);
    upstream.advance(10 * SECOND);
    assert_eq!(get(&upstream, &path, &[]).unwrap().status, 200);
    upstream.fault(Rule::new(On::Path(path.clone()), Fault::Gone));
    assert_eq!(get(&upstream, &path, &[]).unwrap().status, 404);
    upstream.clear_faults();
    assert_eq!(get(&upstream, &path, &[]).unwrap().status, 200);
}

#[test]
fn an_answer_is_what_it_is_made_into() -> io::Result<()> {
    let (upstream, serial) = still()?;
    upstream.change_answers(|path, method, answer| match (path, method) {
        ("/simple/six/", "") => Response { status: 203, ..answer },
        ("/pypi", "changelog_last_serial") => Response::new(200).body("seven"),
        _ => answer,
    });
    assert_eq!(get(&upstream, "/simple/six/", &[])?.status, 203);
    assert_eq!(get(&upstream, "/simple/", &[])?.status, 200);
    assert_eq!(call(&upstream, "changelog_last_serial", None)?.text(), "seven");
    assert_eq!(numbers(&call(&upstream, "list_packages_with_serial", None)?), [serial]);
    upstream.keep_answers();
    assert_eq!(get(&upstream, "/simple/six/", &[])?.status, 200);
    Ok(())
}
