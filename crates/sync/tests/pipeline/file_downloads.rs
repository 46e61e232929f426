//! Files: what is not what the page says is not kept, what may pass is tried again, and what is there is not fetched.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use strandline_faultkit::{World, invariants, mirror};
use strandline_model::{CoreMetadata, Sha256, Yanked};
use strandline_store::{ReceiveError, Store};
use strandline_sync::upstream::Problem;
use strandline_sync::{FetchError, OnBroken, Settings, SyncError};

use crate::support::script::{Body, Reply, Script, changed, name, page, status, url};
use crate::support::{Syncs as _, settings};

const FILE: &str = "alpha-1.tar.gz";
const BYTES: &[u8] = b"the bytes of alpha 1";

/// A mirror that stands at serial 5, and an upstream that has gone on to 6 with a file that is still to come.
fn moved_on() -> (World, Arc<Script>) {
    let (world, script) = (World::new(), Arc::new(Script::new()));
    script.publish("Alpha", Some(5), "0", &[]);
    world.sync(&script, &settings(&["Alpha"])).unwrap();
    script.publish("Alpha", Some(6), "1", &[(FILE, BYTES)]);
    script.asked();
    (world, script)
}

/// Where a broken project stops everything, a file that cannot be had does.
fn strict() -> Settings {
    Settings { on_broken: OnBroken::Freeze, ..settings(&["Alpha"]) }
}

/// A sync that fails: nothing of it is to be seen afterwards, and it succeeds once upstream is right. Returns why.
fn fails(world: &World, script: &Arc<Script>, settings: &Settings) -> FetchError {
    let before = invariants::essence(&world.root());
    let error = world.sync(script, settings).unwrap_err();
    assert_eq!(invariants::essence(&world.root()), before, "the store and the view stand where they stood");
    assert_eq!(world.incoming(), 0, "no temporary file is left");
    let last = world.mirror().last_sync().unwrap().unwrap();
    let why = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    assert_eq!(last.failure, Some(format!("{error}{why}")));
    let SyncError::Fetch(error) = error else { unreachable!("{error}") };
    *error
}

fn heals(world: &World, script: &Arc<Script>) {
    script.files(&url(FILE), [Body::Bytes(BYTES)]);
    script.pages("Alpha", [Reply::Page(page("Alpha", Some(6), "1", &[(FILE, BYTES)]), None)]);
    assert_eq!(world.sync(script, &settings(&["Alpha"])).unwrap().label.to_string(), "6");
    assert_eq!(world.served(&format!("packages/aa/bb/cc/{FILE}")).unwrap().as_bytes(), BYTES);
}

#[test]
fn wrong_bytes_fail_after_some_attempts() {
    let (world, script) = moved_on();
    script.files(&url(FILE), [Body::Bytes(b"THE BYTES OF ALPHA 1")]);
    let error = fails(&world, &script, &strict());
    assert!(error.to_string().contains(FILE), "{error}");
    let FetchError::Wrong { project, filename, url: from, source: ReceiveError::Digest(mismatch) } = error else {
        unreachable!("{error}")
    };
    assert_eq!((project, filename.as_str(), from), (name("alpha"), FILE, url(FILE)));
    assert_eq!(mismatch.expected, Sha256::of(BYTES).into());
    assert_eq!(mismatch.actual, Sha256::of(b"THE BYTES OF ALPHA 1"));
    assert_eq!(Script::count(&script.asked(), &format!("file {}", url(FILE))), 5);
    heals(&world, &script);
}

#[test]
fn short_bytes_fail_after_some_attempts() {
    let (world, script) = moved_on();
    script.files(&url(FILE), [Body::Bytes(b"the bytes")]);
    let error = fails(&world, &script, &strict());
    let short = matches!(&error, FetchError::Wrong { source: ReceiveError::TooShort { expected: 20, actual: 9 }, .. });
    assert!(short, "{error}");
    heals(&world, &script);
}

#[test]
fn what_is_too_long_is_not_asked_for_again() {
    let (world, script) = moved_on();
    script.files(&url(FILE), [Body::Bytes(b"the bytes of alpha 1 and more of them")]);
    let error = fails(&world, &script, &strict());
    let long = matches!(&error, FetchError::Wrong { source: ReceiveError::TooLong { expected: 20 }, .. });
    assert!(long, "{error}");
    assert_eq!(Script::count(&script.asked(), &format!("file {}", url(FILE))), 1);
    heals(&world, &script);
}

#[test]
fn a_file_over_the_limit_is_refused() {
    let (world, script) = moved_on();
    let limit = Settings { max_file_size: 19, ..strict() };
    let error = fails(&world, &script, &limit);
    assert!(matches!(&error, FetchError::Wrong { source: ReceiveError::OverLimit { limit: 19 }, .. }), "{error}");
    heals(&world, &script);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let (world, script) = moved_on();
    script.files(&url(FILE), [Body::Fail(status(404))]);
    let error = fails(&world, &script, &strict());
    let FetchError::File { project, filename, source } = error else { unreachable!("{error}") };
    assert_eq!((project, filename.as_str()), (name("alpha"), FILE));
    assert_eq!(source.to_string(), format!("{}: upstream answered 404", url(FILE)));
    assert_eq!(Script::count(&script.asked(), &format!("file {}", url(FILE))), 1, "404 does not pass");
    heals(&world, &script);
}

#[test]
fn what_may_pass_is_tried_again() {
    let (world, script) = moved_on();
    let busy = Problem::Status { status: 429, retry_after: None };
    let trouble = [
        Body::Fail(status(503)),
        Body::Torn(b"the bytes of"),
        Body::Bytes(b"a page that says: busy"),
        Body::Bytes(BYTES),
    ];
    script.files(&url(FILE), [Body::Fail(busy.clone()), Body::Bytes(b"not these, of 20 by."), Body::Bytes(BYTES)]);
    let good = Reply::Page(page("Alpha", Some(6), "1", &[(FILE, BYTES)]), None);
    script.pages("Alpha", [Reply::Fail(busy), Reply::Fail(Problem::Transport("reset".to_owned())), good.clone()]);
    world.sync(&script, &settings(&["Alpha"])).unwrap();
    assert_eq!(world.version("alpha").unwrap(), "1");

    let (world, script) = moved_on();
    script
        .files(&url(FILE), trouble.into_iter().filter(|body| !matches!(body, Body::Bytes(bytes) if bytes.len() > 20)));
    script.pages("Alpha", [good]);
    world.sync(&script, &settings(&["Alpha"])).unwrap();
    assert_eq!(Script::count(&script.asked(), &format!("file {}", url(FILE))), 3);
}

#[test]
fn a_page_that_cannot_be_had_is_named() {
    for (problem, attempts) in [
        (status(500), 5),
        (Problem::Transport("no connection".to_owned()), 5),
        (status(403), 1),
        (Problem::Malformed("not JSON".to_owned()), 1),
        (Problem::TooLarge { limit: 7 }, 1),
    ] {
        let (world, script) = moved_on();
        script.pages("Alpha", [Reply::Fail(problem.clone())]);
        let error = fails(&world, &script, &settings(&["Alpha"]));
        let FetchError::Page { project, source } = error else { unreachable!("{error}") };
        assert_eq!((project, &source.problem), (name("alpha"), &problem));
        assert_eq!(script.asked().len(), attempts, "{problem}");
        heals(&world, &script);
    }
}

/// Upstream's wish is followed, and not our own pause: this test would take an hour.
#[test]
fn retry_after_decides_the_pause() {
    let (world, script) = moved_on();
    let at_once = Problem::Status { status: 503, retry_after: Some(Duration::ZERO) };
    script.files(&url(FILE), [Body::Fail(at_once.clone()), Body::Fail(at_once.clone()), Body::Bytes(BYTES)]);
    let good = Reply::Page(page("Alpha", Some(6), "1", &[(FILE, BYTES)]), None);
    script.pages("Alpha", [Reply::Fail(at_once), good]);
    let patient = Settings { backoff: Duration::from_secs(3600), ..settings(&["Alpha"]) };
    world.sync(&script, &patient).unwrap();
    assert_eq!(world.version("alpha").unwrap(), "1");
}

#[test]
fn bytes_that_the_store_has_are_not_fetched() {
    let (world, script) = moved_on();
    world.sync(&script, &settings(&["Alpha"])).unwrap();
    script.asked();
    // Another project has a file of the same bytes, and another mirror all of it.
    script.publish("beta", Some(7), "1", &[("beta-1.tar.gz", BYTES)]);
    world.sync(&script, &settings(&["Alpha", "beta"])).unwrap();
    let other = Settings { mirror: "other".parse().unwrap(), ..settings(&["Alpha", "beta"]) };
    world.sync(&script, &other).unwrap();
    assert!(script.asked().iter().all(|asked| !asked.starts_with("file ")));
    assert_eq!(world.served("packages/aa/bb/cc/beta-1.tar.gz").unwrap().as_bytes(), BYTES);
    let file = world.root().join("views/other/live/packages/aa/bb/cc").join(FILE);
    assert_eq!(std::fs::read(file).unwrap(), BYTES);
}

#[test]
fn a_file_that_was_replaced_gets_another_path() {
    let (world, script) = moved_on();
    world.sync(&script, &settings(&["Alpha"])).unwrap();
    script.publish("Alpha", Some(7), "1", &[(FILE, b"other bytes, same name")]);
    world.sync(&script, &settings(&["Alpha"])).unwrap();
    assert_eq!(world.served(&format!("packages/aa/bb/cc/{FILE}")).unwrap().as_bytes(), BYTES, "an old page names it");
    let page = world.served("simple/alpha/index.v1_json").unwrap();
    let path = page.lines().nth(3).unwrap().split(' ').nth(1).unwrap();
    assert_eq!(path, format!("packages/00/00/{}/{FILE}", Sha256::of(b"other bytes, same name")));
    assert_eq!(world.served(path).unwrap(), "other bytes, same name");
    let store: Arc<Store> = world.open();
    invariants::check(&world.root(), &store, &mirror());
    invariants::check_at_rest(&world.root(), &store, &mirror());
    drop(store);

    // And back: the first path has these bytes still.
    script.publish("Alpha", Some(8), "1", &[(FILE, BYTES)]);
    world.sync(&script, &settings(&["Alpha"])).unwrap();
    let page = world.served("simple/alpha/index.v1_json").unwrap();
    assert_eq!(page.lines().nth(3).unwrap().split(' ').nth(1).unwrap(), format!("packages/aa/bb/cc/{FILE}"));
}

#[test]
fn metadata_files_come_with_their_own_hash() {
    const METADATA: &[u8] = b"Name: alpha";
    let (world, script) = moved_on();
    let with = |number, core_metadata| {
        let page = page("Alpha", Some(number), "1", &[(FILE, BYTES)]);
        let page = changed(page, |_, seen| seen.files.get_mut(FILE).unwrap().core_metadata = core_metadata);
        [Reply::Page(page, None)]
    };
    let at = format!("packages/aa/bb/cc/{FILE}.metadata");
    let metadata_url = format!("{}.metadata", url(FILE));
    script.files(&metadata_url, [Body::Bytes(b"Name: another")]);
    script.pages("Alpha", with(6, CoreMetadata::Hashed(Sha256::of(METADATA).into())));
    let error = fails_but_for_blobs(&world, &script);
    assert!(matches!(&error, FetchError::Wrong { filename, .. } if *filename == format!("{FILE}.metadata")), "{error}");

    script.files(&metadata_url, [Body::Bytes(METADATA)]);
    world.sync(&script, &settings(&["Alpha"])).unwrap();
    assert_eq!(world.served(&at).unwrap().as_bytes(), METADATA);
    let page = world.served("simple/alpha/index.v1_json").unwrap();
    assert!(page.lines().nth(3).unwrap().ends_with(&Sha256::of(METADATA).to_string()));

    // Without a hash on the page, what is there is taken; a page that has none any more drops it.
    script.pages("Alpha", with(7, CoreMetadata::Unhashed));
    world.sync(&script, &settings(&["Alpha"])).unwrap();
    assert_eq!(world.served(&at).unwrap().as_bytes(), METADATA);
    script.pages("Alpha", with(8, CoreMetadata::Absent));
    world.sync(&script, &settings(&["Alpha"])).unwrap();
    assert!(world.served("simple/alpha/index.v1_json").unwrap().lines().nth(3).unwrap().ends_with(" -"));
}

#[test]
fn the_same_metadata_of_many_wheels_is_fetched_once() {
    const METADATA: &[u8] = b"Name: alpha";
    let wheels: Vec<_> = (1..=40).map(|number| format!("alpha-1-{number}-py3-none-any.whl")).collect();
    let metadata_of = |wheel: &String| format!("{}.metadata", url(wheel));
    let (world, script) = moved_on();
    let files: Vec<(&str, &[u8])> = wheels.iter().map(|wheel| (wheel.as_str(), BYTES)).collect();
    let hashed = CoreMetadata::Hashed(Sha256::of(METADATA).into());
    let page = changed(page("Alpha", Some(6), "1", &files), |_, seen| {
        seen.files.values_mut().for_each(|file| file.core_metadata = hashed);
    });
    script.pages("Alpha", [Reply::Page(page, None)]);
    // The first that is asked for is not there: the next one gives it.
    for wheel in &wheels {
        script.files(&url(wheel), [Body::Bytes(BYTES)]);
        let there = if *wheel == wheels[0] { Body::Fail(status(404)) } else { Body::Bytes(METADATA) };
        script.files(&metadata_of(wheel), [there]);
    }
    let error = world.sync(&script, &strict()).unwrap_err();
    assert!(error.to_string().contains(&wheels[0]), "{error}");

    let asked = script.asked();
    let of_all = |what: &dyn Fn(&String) -> String| {
        wheels.iter().map(|wheel| Script::count(&asked, &format!("file {}", what(wheel)))).sum::<usize>()
    };
    assert_eq!((of_all(&|wheel| url(wheel)), of_all(&metadata_of)), (1, 2));

    script.files(&metadata_of(&wheels[0]), [Body::Bytes(METADATA)]);
    world.sync(&script, &settings(&["Alpha"])).unwrap();
    for wheel in &wheels {
        assert_eq!(world.served(&format!("packages/aa/bb/cc/{wheel}")).unwrap().as_bytes(), BYTES);
        assert_eq!(world.served(&format!("packages/aa/bb/cc/{wheel}.metadata")).unwrap().as_bytes(), METADATA);
    }
}

/// As [`fails`], where a file came whole before another failed.
fn fails_but_for_blobs(world: &World, script: &Arc<Script>) -> FetchError {
    let served = world.served("simple/alpha/index.v1_json");
    let SyncError::Fetch(error) = world.sync(script, &strict()).unwrap_err() else { unreachable!() };
    assert_eq!((world.served("simple/alpha/index.v1_json"), world.incoming()), (served, 0));
    *error
}

#[test]
fn a_yank_is_a_change_of_the_page_alone() {
    let (world, script) = moved_on();
    world.sync(&script, &settings(&["Alpha"])).unwrap();
    script.asked();
    let yanked = changed(page("Alpha", Some(7), "1", &[(FILE, BYTES)]), |told, _| {
        told.files.get_mut(FILE).unwrap().yanked = Yanked::Yes("broken".to_owned());
    });
    script.pages("Alpha", [Reply::Page(yanked, None)]);
    assert_eq!(world.sync(&script, &settings(&["Alpha"])).unwrap().changed, 1);
    assert!(script.asked().iter().all(|asked| asked == "page alpha"));
    assert!(world.served("simple/alpha/index.v1_json").unwrap().contains(" true "));
}
