//! The table of cases in the documentation of `cut`, row by row: M is 10, N is 20.

#![cfg(test)]

use std::collections::BTreeMap;

use strandline_model::{Form, Preamble, ProjectName, Releases, Serial, Status, Timestamp, Yanked};
use strandline_sync::cut::{self, Action, Base, Content, File, Log, Project, Rule, Seen, State, Why};
use strandline_sync::upstream::Event;

type Page = (u64, &'static [&'static str]);

fn serial(number: u64) -> Serial {
    Serial::try_from(number).unwrap()
}

/// A project with these files, each named `VERSION/NAME`; `!` in front of one that is yanked for a reason.
fn content(files: &[&str]) -> Content<()> {
    let file = |file: &&str| match file.strip_prefix('!') {
        Some(name) => (name.to_owned(), File { yanked: Yanked::Yes("broken".into()), content: Ok(()) }),
        None => ((*file).to_owned(), File { yanked: Yanked::No, content: Ok(()) }),
    };
    Content {
        status: Status::Active,
        status_reason: None,
        preamble: Preamble::of(Form::Json),
        versions: Vec::new(),
        files: files.iter().map(file).collect(),
    }
}

/// Each file is named `VERSION/NAME`. Versions may be spelt with more zeros at the end.
struct Named;

impl Releases for Named {
    fn is_of_release(&self, _: &ProjectName, file: &str, version: &str) -> Option<bool> {
        file.split_once('/').map(|(of, _)| of.trim_end_matches(".0") == version.trim_end_matches(".0"))
    }
}

/// How a project that M has with the file `1/a` stands at 20, after these events and with these pages.
fn at_20(events: &[(u64, Action)], pages: &[Page]) -> Result<State<()>, Why> {
    let pages = pages.iter().map(|(number, files)| Seen { serial: serial(*number), content: content(files) }).collect();
    from_10(Base::Known(content(&["1/a"])), events, pages)
}

/// How a project that M has so stands at 20.
fn from_10(base: Base<()>, events: &[(u64, Action)], pages: Vec<Seen<()>>) -> Result<State<()>, Why> {
    let name: ProjectName = "six".parse().unwrap();
    let mut log = Log::default();
    for (number, action) in events {
        log.add(&Event {
            serial: serial(*number),
            project: name.clone(),
            display: "six".parse().unwrap(),
            time: Timestamp::from_seconds(0).unwrap(),
            change: Some(action.clone()),
        });
    }
    let project = Project { base, serial: serial(5), since: serial(10), pages, shrunk: false };
    let projects = BTreeMap::from([(&name, &project)]);
    let found = cut::cut(Rule::WHOLE, serial(10), serial(20), &log, &projects, &Named);
    match found.in_the_way.get(&name) {
        Some(obstacle) => {
            assert!(found.serial < Some(serial(20)), "it stands in the way of {:?}", found.serial);
            Err(obstacle.why)
        }
        None => {
            assert_eq!(found.serial, Some(serial(20)));
            Ok(found.states[&name].clone())
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it stands beside what a cut returns")]
fn shown(number: u64, files: &[&str]) -> Result<State<()>, Why> {
    Ok(State::At(serial(number), content(files)))
}

/// A file of version 1 is added.
fn add(file: &str) -> Action {
    Action::AddFile("1".to_owned(), file.to_owned())
}

/// As [`content`], and the page lists these versions.
fn listing(versions: &[&str], files: &[&str]) -> Content<()> {
    Content { versions: versions.iter().map(|version| (*version).to_owned()).collect(), ..content(files) }
}

/// A file is removed.
fn remove(file: &str) -> Action {
    Action::RemoveFile(file.to_owned())
}

/// Version 1, with what happens to it.
fn one(make: fn(String) -> Action) -> Action {
    make("1".to_owned())
}

#[test]
fn untouched() {
    assert_eq!(at_20(&[], &[]), Ok(State::Untouched));
    assert_eq!(at_20(&[(25, add("1/b"))], &[(25, &["1/a", "1/b"])]), Ok(State::Untouched));
}

#[test]
fn quiet() {
    assert_eq!(at_20(&[(15, add("1/b"))], &[(15, &["1/a", "1/b"])]), shown(15, &["1/a", "1/b"]));
    let removed = [(15, add("1/b")), (18, remove("1/b"))];
    assert_eq!(at_20(&removed, &[(18, &["1/a"])]), shown(18, &["1/a"]));
    assert_eq!(at_20(&[(15, Action::Unknown)], &[(15, &["1/z"])]), shown(15, &["1/z"]));
}

#[test]
fn stale() {
    assert_eq!(at_20(&[(15, add("1/b"))], &[(12, &["1/a"])]), Err(Why::Stale));
    assert_eq!(at_20(&[(15, Action::Unknown)], &[(12, &["1/a"])]), Err(Why::Stale));
    assert_eq!(at_20(&[(15, add("1/b"))], &[]), Err(Why::NoPage));
}

#[test]
fn replayed() {
    let whole = shown(15, &["1/a", "1/b"]);
    assert_eq!(
        at_20(&[(15, add("1/b"))], &[(12, &["1/a", "1/b"]), (12, &["1/a"])]),
        whole,
        "an older page showed the file"
    );
    let later = [(15, add("1/b")), (25, add("1/c"))];
    assert_eq!(at_20(&later, &[(15, &["1/a", "1/b"])]), whole);
    assert_eq!(at_20(&later, &[(15, &["1/a", "1/b", "1/c"])]), whole);
    assert_eq!(at_20(&[(15, add("1/b")), (18, remove("1/b"))], &[]), shown(18, &["1/a"]));
}

#[test]
fn a_reason_that_no_page_shows() {
    let yanked = [(15, one(Action::YankRelease)), (25, one(Action::UnyankRelease))];
    assert_eq!(at_20(&yanked, &[(25, &["1/a"])]), Err(Why::Moving));
    assert_eq!(at_20(&yanked, &[(15, &["!1/a"]), (25, &["1/a"])]), shown(15, &["!1/a"]));
}

#[test]
fn a_release_that_was_hidden() {
    let cleared = [(15, add("1/b")), (25, one(Action::ClearRelease))];
    assert_eq!(at_20(&cleared, &[(25, &["1/a", "1/b"])]), Err(Why::Moving));
    let quarantined = [(15, add("1/b")), (25, one(Action::QuarantineRelease)), (26, one(Action::ClearRelease))];
    assert_eq!(at_20(&quarantined, &[(26, &["1/a", "1/b"])]), shown(15, &["1/a", "1/b"]));
}

#[test]
fn gone() {
    for (action, state) in
        [(Action::RemoveProject, State::Gone), (Action::QuarantineProject, State::Quarantined(serial(15)))]
    {
        assert_eq!(at_20(&[(15, action.clone())], &[]), Ok(state.clone()));
        assert_eq!(at_20(&[(15, action)], &[(12, &["1/a"])]), Ok(state));
    }
}

#[test]
fn quarantined() {
    let quarantined = (15, Action::QuarantineProject);
    let then = |action, pages| at_20(&[quarantined.clone(), (18, action)], pages);
    // Whatever happens to what it hides, and also where the log does not say what that does.
    for action in [add("1/b"), remove("1/z"), one(Action::YankRelease), one(Action::ClearRelease), Action::Unknown] {
        assert_eq!(then(action, &[]), Ok(State::Quarantined(serial(18))));
    }
    // M says what it hides, if that is still clear.
    assert_eq!(then(Action::ClearProject, &[]), shown(18, &["1/a"]));
    let unclear = [quarantined.clone(), (16, Action::Unknown), (18, Action::ClearProject)];
    assert_eq!(at_20(&unclear, &[(12, &["1/a"])]), Err(Why::Stale));
    assert_eq!(at_20(&unclear, &[(18, &["1/b"])]), shown(18, &["1/b"]));
    assert_eq!(then(Action::RemoveProject, &[]), Ok(State::Gone));
    assert_eq!(then(Action::Create, &[]), shown(18, &[]));
}

#[test]
fn quarantined_before() {
    let at_20 = |events: &[(u64, Action)], pages: &[Page]| {
        let pages = pages.iter().map(|(number, files)| Seen { serial: serial(*number), content: content(files) });
        from_10(Base::Quarantined, events, pages.collect())
    };
    assert_eq!(at_20(&[(25, Action::ClearProject)], &[]), Ok(State::Quarantined(serial(5))));
    assert_eq!(at_20(&[(15, add("1/b"))], &[]), Ok(State::Quarantined(serial(15))));
    assert_eq!(at_20(&[(15, Action::RemoveProject)], &[]), Ok(State::Gone));
    let cleared = [(15, Action::ClearProject)];
    assert_eq!(at_20(&cleared, &[]), Err(Why::NoPage));
    assert_eq!(at_20(&cleared, &[(12, &["1/a"])]), Err(Why::Stale));
    assert_eq!(at_20(&cleared, &[(15, &["1/a"])]), shown(15, &["1/a"]));
    let again = [(15, Action::RemoveProject), (16, Action::Create), (17, add("1/b")), (25, add("1/c"))];
    assert_eq!(at_20(&again, &[(25, &["1/b", "1/c"])]), shown(17, &["1/b"]));
}

#[test]
fn a_page_that_says_quarantined() {
    let page = Seen { serial: serial(15), content: Content { status: Status::Quarantined, ..content(&[]) } };
    let found = from_10(Base::Unknown(serial(0)), &[], vec![page]);
    assert_eq!(found, Ok(State::Quarantined(serial(15))));
}

#[test]
fn gone_before_a_page_told_how_it_stood() {
    let cleared = (15, one(Action::ClearRelease));
    for action in [Action::RemoveProject, Action::QuarantineProject] {
        for pages in [&[][..], &[(12, &["1/a"][..])]] {
            assert_eq!(at_20(&[cleared.clone(), (25, action.clone())], pages), Err(Why::Moving));
        }
    }
    let back = [cleared, (25, Action::QuarantineProject), (26, Action::ClearProject)];
    assert_eq!(at_20(&back, &[(12, &["1/a"])]), Err(Why::Stale), "there will be a page again");
}

#[test]
fn a_page_that_contradicts_the_log_is_believed_when_it_says_so_twice() {
    let removed = [(15, remove("1/a"))];
    assert_eq!(at_20(&removed, &[(15, &["1/a"])]), Err(Why::Disagrees));
    assert_eq!(at_20(&removed, &[(15, &["1/a"]), (15, &["1/a"])]), shown(15, &["1/a"]));
}

#[test]
fn versions_are_those_of_the_files_as_log_and_pages_spell_them() {
    let add = |version: &str, file: &str| Action::AddFile(version.to_owned(), file.to_owned());
    let shows =
        |number, versions: &[&str], files: &[&str]| Seen { serial: serial(number), content: listing(versions, files) };
    let base = || Base::Known(listing(&["1", "2"], &["1/a", "2/a"]));
    // A release that was removed and made again in another spelling.
    let again =
        [(15, one(Action::RemoveRelease)), (16, Action::NewRelease("1.0".to_owned())), (17, add("1.0", "1.0/b"))];
    let later = (25, add("2", "2/b"));
    let page = || shows(25, &["1.0", "2"], &["1.0/b", "2/a", "2/b"]);
    let wanted = || Ok(State::At(serial(17), listing(&["1.0", "2"], &["1.0/b", "2/a"])));
    assert_eq!(from_10(base(), &[&again[..], std::slice::from_ref(&later)].concat(), vec![page()]), wanted());
    assert_eq!(from_10(base(), &again, vec![shows(12, &["1.0"], &["1.0/b"])]), wanted(), "from an older page");
    assert_eq!(from_10(base(), &again, vec![shows(17, &["1.0", "2"], &["1.0/b", "2/a"])]), wanted(), "from the page");

    // A version goes with its last file, and not before; a file that M shows has the spelling of M's page.
    let removed = [(15, remove("1/a")), later.clone()];
    assert_eq!(from_10(base(), &removed, vec![page()]), Ok(State::At(serial(15), listing(&["2"], &["2/a"]))));
    let added = [(15, add("2", "2/b")), (25, one(Action::YankRelease))];
    let other = shows(25, &["1.0", "2.0"], &["!1/a", "2/a", "2/b"]);
    let wanted = listing(&["1", "2"], &["1/a", "2/a", "2/b"]);
    assert_eq!(from_10(base(), &added, vec![other]), Ok(State::At(serial(15), wanted)));
    // The log's spelling of a new release goes before a page's.
    let new = [(15, Action::NewRelease("3".to_owned())), (16, add("3", "3/a")), later];
    let page = shows(25, &["1", "2", "3.0"], &["1/a", "2/a", "2/b", "3/a"]);
    let wanted = listing(&["1", "2", "3"], &["1/a", "2/a", "3/a"]);
    assert_eq!(from_10(base(), &new, vec![page]), Ok(State::At(serial(16), wanted)));
}
