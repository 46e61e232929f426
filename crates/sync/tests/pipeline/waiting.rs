//! What is waited for, and what is not: a project that is held makes no sync longer, and an answer that waiting cannot mend ends
//! the wait.

use std::sync::Arc;
use std::time::Duration;

use strandline_faultkit::World;
use strandline_model::HoldReason;
use strandline_sync::cut::Action;
use strandline_sync::upstream::Problem;
use strandline_sync::{Method, Outcome, Settings};

use crate::support::script::{Body, Reply, Script, add, event, page, status, two, url};
use crate::support::{Syncs as _, in_the_way, settings};

const NAMES: &[&str] = &["alpha", "beta"];
const FILE: (&str, &[u8]) = ("alpha-2.tar.gz", b"alpha 2");

/// Waits for an hour, so that a test which waits in vain does not end. Events are older than `hold-after`.
fn following() -> Settings {
    Settings { method: Some(Method::Changelog), ..settings(NAMES) }
}

/// Waits for nothing.
fn at_once() -> Settings {
    Settings { cut_timeout: Duration::ZERO, ..following() }
}

fn upstream() -> Arc<Script> {
    let script = Script::new();
    script.publish("alpha", Some(5), "1", &[("alpha-1.tar.gz", b"alpha 1")]);
    script.publish("beta", Some(7), "1", &[("beta-1.tar.gz", b"beta 1")]);
    script.log([event(5, "alpha", add("alpha-1.tar.gz")), event(7, "beta", add("beta-1.tar.gz"))]);
    Arc::new(script)
}

/// The failures of a page or file that are repeated where the sync waits for it.
fn that_may_pass() -> [Problem; 4] {
    let retry_after = Some(Duration::from_secs(40));
    let slow_down = Problem::Status { status: 429, retry_after };
    [status(503), slow_down, Problem::Transport("reset".to_owned()), Problem::TooSlow("slow".to_owned())]
}

fn held(done: &Outcome) -> Vec<(&str, HoldReason)> {
    done.held.iter().map(|held| (held.name.as_str(), held.reason)).collect()
}

/// A mirror of an upstream on whose page of alpha the event of serial 8 is not shown in this way, and which then goes on with beta.
fn held_for_its_page(reply: Reply) -> (World, Arc<Script>) {
    let (world, script) = (World::new(), upstream());
    world.sync(&script, &at_once()).unwrap();
    script.log([event(8, "alpha", add(FILE.0))]);
    script.pages("alpha", [Reply::Fail(status(400))]);
    assert_eq!(held(&world.sync(&script, &at_once()).unwrap()), [("alpha", HoldReason::BadPage)]);
    script.pages("alpha", [reply]);
    script.publish("beta", Some(9), "2", &[("beta-1.tar.gz", b"beta 1")]);
    script.log([event(9, "beta", two(Action::NewRelease))]);
    script.asked();
    (world, script)
}

#[test]
fn a_held_project_is_asked_for_once_in_each_way() {
    for problem in that_may_pass() {
        let slow = matches!(problem, Problem::TooSlow(_));
        let (world, script) = held_for_its_page(Reply::Fail(problem));
        let done = world.sync(&script, &following()).unwrap();
        assert_eq!((done.label.to_string().as_str(), held(&done).len()), ("9", 1));
        let asked = script.asked();
        let ways = ["page alpha", "page alpha uncompressed", "page alpha at its origin"];
        let each = if slow { [1, 0, 0] } else { [1, 1, 1] };
        assert_eq!(ways.map(|way| Script::count(&asked, way)), each, "{asked:?}");
        assert_eq!(world.version("beta").as_deref(), Some("2"));
    }
}

#[test]
fn an_answer_that_never_comes_keeps_no_other_project_waiting() {
    let (world, script) = held_for_its_page(Reply::Never);
    assert_eq!(world.sync(&script, &following()).unwrap().label.to_string(), "9");
    assert_eq!(Script::count(&script.asked(), "page alpha"), 1);
    // It comes back with the page.
    script.publish("alpha", Some(8), "2", &[("alpha-1.tar.gz", b"alpha 1")]);
    assert_eq!(held(&world.sync(&script, &following()).unwrap()), []);
    assert_eq!(world.version("alpha").as_deref(), Some("2"));
}

#[test]
fn a_file_for_which_a_project_is_held_or_which_is_lacking_is_asked_for_once() {
    for body in that_may_pass().map(Body::Fail).into_iter().chain([Body::Torn(b"alp"), Body::Never]) {
        for hold_after in [Duration::from_secs(10 << 30), Duration::ZERO] {
            let settings = Settings { hold_after, ..at_once() };
            let (world, script) = (World::new(), upstream());
            world.sync(&script, &settings).unwrap();
            script.publish("alpha", Some(8), "1 2", &[("alpha-1.tar.gz", b"alpha 1"), FILE]);
            script.files(&url(FILE.0), [Body::Fail(status(404))]);
            script.log([event(8, "alpha", add(FILE.0))]);
            let done = world.sync(&script, &settings).unwrap();
            assert_eq!(done.held.len() + done.lacking.len(), 1);
            script.files(&url(FILE.0), [body.clone()]);
            script.log([event(9, "alpha", two(Action::NewRelease))]);
            script.publish("beta", Some(10), "2", &[("beta-1.tar.gz", b"beta 1")]);
            script.pages(
                "alpha",
                [Reply::Page(page("alpha", Some(9), "1 2", &[("alpha-1.tar.gz", b"alpha 1"), FILE]), None)],
            );
            script.log([event(10, "beta", two(Action::NewRelease))]);
            script.asked();
            let done = world.sync(&script, &settings).unwrap();
            assert_eq!((done.label.to_string().as_str(), done.held.len() + done.lacking.len()), ("10", 1));
            assert_eq!(Script::count(&script.asked(), &format!("file {}", url(FILE.0))), 1, "{body:?}");
        }
    }
}

/// The answers that are wrong in a way that asking again does not mend, with why the project is held then.
fn definite() -> Vec<(Reply, HoldReason)> {
    let bad = |problem| (Reply::Fail(problem), HoldReason::BadPage);
    vec![
        bad(Problem::Malformed("a page of another project".to_owned())),
        bad(Problem::Forbidden("it leads to a private address".to_owned())),
        bad(Problem::TooLarge { limit: 7 }),
        bad(status(403)),
        (Reply::Missing, HoldReason::PageMissing),
    ]
}

#[test]
fn a_first_sync_does_not_wait_for_what_waiting_cannot_mend() {
    for (reply, reason) in definite() {
        let (world, script) = (World::new(), upstream());
        script.pages("alpha", [reply]);
        let done = world.sync(&script, &following()).unwrap();
        assert_eq!((held(&done), done.published), (vec![("alpha", reason)], true));
        assert!(world.version("beta").is_some());
        // It was asked for in every way before that.
        let asked = script.asked();
        let ways = ["page alpha", "page alpha uncompressed", "page alpha at its origin"];
        assert_eq!(ways.map(|way| Script::count(&asked, way)), [1, 1, 1], "{asked:?}");
    }
    // The same with a file.
    for body in [Body::Fail(status(404)), Body::Bytes(b"others!"), Body::Bytes(b"alpha 22")] {
        let (world, script) = (World::new(), upstream());
        script.publish("alpha", Some(5), "1 2", &[("alpha-1.tar.gz", b"alpha 1"), FILE]);
        script.files(&url(FILE.0), [body]);
        let done = world.sync(&script, &following()).unwrap();
        assert_eq!((held(&done).len(), done.lacking.len()), (0, 1));
    }
}

#[test]
fn a_young_project_is_waited_for_where_its_page_may_still_come() {
    let young = Settings { hold_after: Duration::from_secs(10 << 30), ..following() };
    // What is wrong and young is held by a first sync: no reader misses it. Where nothing else is there, upstream is broken.
    let (world, script) = (World::new(), upstream());
    script.pages("alpha", [Reply::Fail(Problem::Malformed("no page".to_owned()))]);
    let done = world.sync(&script, &young).unwrap();
    assert_eq!((held(&done), done.published), (vec![("alpha", HoldReason::BadPage)], true));
    let (world, script) = (World::new(), upstream());
    for name in ["alpha", "beta"] {
        script.pages(name, [Reply::Fail(Problem::Malformed("no page".to_owned()))]);
    }
    assert_eq!(in_the_way(world.sync(&script, &young)).len(), 2);
    let (world, script) = (World::new(), upstream());
    // What is not there yet is waited for.
    let came = page("alpha", Some(5), "1", &[("alpha-1.tar.gz", b"alpha 1")]);
    let later = [Reply::Missing, Reply::Missing, Reply::Missing, Reply::Missing, Reply::Page(came, None)];
    script.pages("alpha", later);
    assert_eq!(held(&world.sync(&script, &young).unwrap()), []);
    assert!(world.version("alpha").is_some());
}

/// A mirror, and an upstream that has uploaded many files of alpha and one of beta since.
fn with_many_files(method: Method) -> (World, Arc<Script>, Vec<String>) {
    let (world, script) = (World::new(), upstream());
    world.sync(&script, &Settings { method: Some(method), ..at_once() }).unwrap();
    let names: Vec<_> = (2..40).map(|version| format!("alpha-{version}.tar.gz")).collect();
    let mut files: Vec<(&str, &'static [u8])> = vec![("alpha-1.tar.gz", b"alpha 1")];
    files.extend(names.iter().map(|name| (name.as_str(), FILE.1)));
    // Each has bytes of its own, so that each is to be fetched.
    for (file, number) in files.iter_mut().zip(0_u32..).skip(1) {
        file.1 = Box::leak(format!("file {number}").into_boxed_str()).as_bytes();
    }
    script.log(names.iter().zip(8..).map(|(file, number)| event(number, "alpha", add(file))));
    script.publish("alpha", Some(105), "1 2", &files);
    script.publish("beta", Some(110), "2", &[("beta-1.tar.gz", b"beta 1")]);
    script.log([event(110, "beta", two(Action::NewRelease))]);
    script.asked();
    (world, script, names)
}

fn files_asked(script: &Script) -> usize {
    script.asked().iter().filter(|asked| asked.starts_with("file ")).count()
}

#[test]
fn a_project_whose_files_take_long_is_held_and_goes_on_with_the_next_sync() {
    for method in [Method::Changelog, Method::Collect] {
        let (world, script, names) = with_many_files(method);
        let settings = Settings { longest: Duration::ZERO, method: Some(method), ..at_once() };
        let (mut asked, mut syncs) = (0, 0);
        loop {
            syncs += 1;
            let done = world.sync(&script, &settings).unwrap();
            assert_eq!((done.label.serial.get(), done.lacking.len()), (110, 0));
            assert_eq!(world.version("beta").as_deref(), Some("2"));
            asked += files_asked(&script);
            if done.held.is_empty() || syncs > 100 {
                break;
            }
            assert_eq!(held(&done), [("alpha", HoldReason::FileMissing)]);
            assert_eq!(world.version("alpha").as_deref(), Some("1"));
        }
        // No file was fetched twice, and readers get all of them.
        assert_eq!(asked, names.len());
        assert_eq!(world.served("simple/alpha/index.v1_json").unwrap().lines().count(), 4 + names.len());
        // Each sync gives the project several turns, of one file each here.
        assert!(syncs > 1 && syncs <= names.len().div_ceil(5), "{syncs}");
        // A first sync takes the time that it takes.
        let first = World::new();
        assert_eq!(held(&first.sync(&script, &settings).unwrap()), []);
    }
}

#[test]
fn after_some_files_that_were_too_slow_no_other_of_the_project_is_begun() {
    for body in [Body::Fail(Problem::TooSlow("slow".to_owned())), Body::Fail(status(404))] {
        let (world, script, names) = with_many_files(Method::Changelog);
        for name in &names {
            script.files(&url(name), [body.clone()]);
        }
        let done = world.sync(&script, &at_once()).unwrap();
        assert_eq!((done.label.serial.get(), done.held.len() + done.lacking.len() > 0), (110, true));
        let asked = files_asked(&script);
        match body {
            Body::Fail(Problem::TooSlow(_)) => assert!((3..20).contains(&asked), "{asked}"),
            _ => assert!(asked >= names.len(), "{asked}"),
        }
    }
}
