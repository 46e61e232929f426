//! Projects that stand in the way: waited for, held, carried, gone all the same when the log says so, and back when their
//! page is.

use std::time::Duration;

use serde_json::{Value, json};
use strandline_model::Timestamp;
use strandline_testkit::{Age, Fault, On, Rule, RuleId, Status, Upstream, World as Index};

use crate::support::truth::{Fields, equals_upstream, live, upstreams, wanted_fields};
use crate::support::world::{Run, World, text, wheel};

/// Nobody is waited for longer than a sync waits anyway.
const HOLD: &str = "source = \"warehouse\"\nhold-after = \"0s\"";

/// A mirror of these projects with one release each, `connections` and all else by default.
fn synced(projects: &[&str], lines: &str) -> World {
    let mut index = Index::new();
    for project in projects {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    let world = World::patient(index, "1s", lines);
    world.done(&["sync"]);
    equals_upstream(&world);
    world
}

fn release(world: &World, project: &str, version: &str) -> u64 {
    world.upstream.world().upload(project, &wheel(project, version, 1))
}

/// Lets a project's page stay as it is now. What is written from here on is later than that.
fn stick(upstream: &Upstream, project: &str) -> RuleId {
    std::thread::sleep(Duration::from_millis(2));
    let age = Age::StuckAt(upstream.now_ms());
    std::thread::sleep(Duration::from_millis(2));
    let fault = Fault::Stale { age, not_found: true, flapping: false };
    upstream.fault(Rule::new(On::Path(format!("/simple/{project}/")), fault))
}

fn gone(upstream: &Upstream, path: &str) -> RuleId {
    upstream.fault(Rule::new(On::Path(path.to_owned()), Fault::Gone))
}

/// Where the file of a project's newest release is.
fn newest_file(world: &World, project: &str) -> String {
    world.upstream.world().project(project).unwrap().files.last().unwrap().url_path.clone()
}

/// Syncs, and requires that exactly this is held; that the run, the snapshot, `status` and `log` say so.
#[track_caller]
fn holds(world: &World, project: &str, reason: &str, at: u64, needs: u64) -> Run {
    let run = world.run(&["sync"]).ended(4);
    let run = run.says(&[&format!("`{project}` is held at serial {at} and needs {needs}"), &format!("({reason})")]);
    let newest = world.log().remove(0);
    assert_eq!(newest["published"], true, "{newest}");
    let held = newest["held"].as_array().unwrap();
    assert_eq!(held.len(), 1, "{newest}");
    let since = text(&held[0]["since"]);
    assert_eq!(held[0], json!({ "name": project, "reason": reason, "at": at, "needs": needs, "since": since }));
    let event = world.upstream.world().events_of(project).find(|event| event.serial > at).map(|event| event.at_ms);
    let event = Timestamp::from_seconds(i64::try_from(event.unwrap() / 1000).unwrap()).unwrap();
    assert_eq!(since, event.to_string());

    let line = format!("held {project} {reason} {at} {needs} {since}");
    let shown = world.done(&["show", "pypi"]);
    assert!(shown.lines().any(|shown| shown == line), "there is no `{line}`:\n{shown}");
    let status = world.run(&["status"]).ended(4);
    let words = match reason {
        "stale-page" => "upstream shows a page that is older than its last change",
        "page-missing" => "upstream has no page for it",
        "file-missing" => "a file that its page lists cannot be had",
        _ => "a file is not what its page says",
    };
    let line = format!("{project}: {words} ({reason}), at serial {at}, needs {needs}, since {since}");
    assert!(status.out.contains(&line), "there is no `{line}`:\n{}", status.out);
    let status: Value = serde_json::from_str(&world.run(&["status", "--json"]).ended(4).out).unwrap();
    assert_eq!(status["mirrors"][0]["held"], newest["held"]);
    assert!(world.done(&["log", "pypi"]).lines().next().unwrap().contains("1 held"));
    run
}

/// Syncs, and requires that nothing is held and the view is upstream's.
#[track_caller]
fn is_whole(world: &World) {
    world.run(&["sync"]).ended(0);
    assert_eq!(world.log()[0]["held"], json!([]));
    world.done(&["status"]);
    equals_upstream(world);
    world.done(&["verify", "--data"]);
}

#[test]
fn a_stale_page_is_held_until_it_has_what_is_needed() {
    let world = synced(&["good", "victim"], HOLD);
    let before = live(&world, "victim").unwrap();
    let at = before.0;
    stick(&world.upstream, "victim");
    let second = release(&world, "victim", "2.0");
    release(&world, "good", "2.0");
    holds(&world, "victim", "stale-page", at, second);
    assert_eq!(live(&world, "victim").as_ref(), Some(&before));
    assert_eq!(live(&world, "good"), upstreams(&world, "good"));

    // However often, and whatever else happens: it stays, and needs its last event.
    holds(&world, "victim", "stale-page", at, second);
    release(&world, "good", "3.0");
    holds(&world, "victim", "stale-page", at, second);
    assert_eq!(live(&world, "good"), upstreams(&world, "good"));
    // The page has come to a state that was good enough once, and is not any more.
    world.upstream.clear_faults();
    stick(&world.upstream, "victim");
    let third = release(&world, "victim", "3.0");
    for version in ["4.0", "5.0"] {
        holds(&world, "victim", "stale-page", at, third);
        assert_eq!(live(&world, "victim").as_ref(), Some(&before));
        release(&world, "good", version);
    }
    assert_eq!(world.log()[0]["held"][0]["needs"], third);

    world.upstream.clear_faults();
    is_whole(&world);
}

#[test]
fn a_hold_never_clears_onto_an_older_page_when_the_log_has_forgotten() {
    // With an overlap of one serial, the event that it is held for is soon out of the log that is read.
    let world = synced(&["good", "victim"], &format!("{HOLD}\noverlap = 1"));
    let at = live(&world, "victim").unwrap().0;
    stick(&world.upstream, "victim");
    let needs = release(&world, "victim", "2.0");
    for version in ["2.0", "3.0", "4.0", "5.0"] {
        release(&world, "good", version);
        holds(&world, "victim", "stale-page", at, needs);
    }
    world.upstream.clear_faults();
    is_whole(&world);
}

#[test]
fn what_never_had_a_good_state_is_absent_and_held() {
    let world = synced(&["good"], HOLD);
    gone(&world.upstream, "/simple/fresh/");
    let needs = release(&world, "fresh", "1.0");
    release(&world, "good", "2.0");
    for _ in 0..2 {
        holds(&world, "fresh", "page-missing", 0, needs);
        assert_eq!(live(&world, "fresh"), None);
        assert_eq!(live(&world, "good"), upstreams(&world, "good"));
    }
    world.upstream.clear_faults();
    is_whole(&world);
}

#[test]
fn what_the_log_takes_away_goes_from_a_held_project() {
    let world = synced(&["good", "victim", "removed", "quarantined"], HOLD);
    let first = live(&world, "victim").unwrap();
    release(&world, "victim", "1.1");
    is_whole(&world);
    let at = live(&world, "victim").unwrap().0;
    stick(&world.upstream, "victim");
    release(&world, "victim", "2.0");
    let run = world.run(&["sync"]).ended(4);
    assert!(run.err.contains("`victim` is held"), "{}", run.err);
    assert_eq!(live(&world, "victim").unwrap().3.len(), 2);

    // A file.
    let needs = world.upstream.world().remove_file("victim", &wheel("victim", "1.1", 1).filename);
    holds(&world, "victim", "stale-page", at, needs);
    let carried = live(&world, "victim").unwrap();
    assert_eq!((carried.1, carried.2, carried.3), (first.1, first.2, first.3), "1.0 alone is left");
    // A release.
    let needs = world.upstream.world().remove_release("victim", "1.0");
    holds(&world, "victim", "stale-page", at, needs);
    assert!(live(&world, "victim").unwrap().3.is_empty());
    world.upstream.clear_faults();
    is_whole(&world);

    // The project.
    for project in ["removed", "quarantined"] {
        stick(&world.upstream, project);
        release(&world, project, "2.0");
    }
    assert_eq!(world.run(&["sync"]).ended(4).err.matches("is held").count(), 2);
    world.upstream.world().remove_project("removed");
    world.upstream.world().quarantine("quarantined");
    is_whole(&world);
    assert_eq!((live(&world, "removed"), live(&world, "quarantined").unwrap().3.len()), (None, 0));
    world.upstream.clear_faults();
    is_whole(&world);
}

#[test]
fn one_broken_project_stops_everything_where_that_is_wanted() {
    let world = synced(&["good", "victim"], &format!("{HOLD}\non-broken = \"freeze\""));
    let before = live(&world, "victim").unwrap();
    let (live, log) = (world.live(), world.log());
    stick(&world.upstream, "victim");
    release(&world, "good", "2.0");
    let needs = release(&world, "victim", "2.0");
    for _ in 0..2 {
        let wanted = format!("a page of serial {needs} is wanted, one of serial {} was seen", before.0);
        world.run(&["sync"]).ended(3).says(&["not consistent", "victim", &wanted, "Readers see what they saw before"]);
        assert_eq!((world.live(), world.log()), (live.clone(), log.clone()));
    }
    world.upstream.clear_faults();
    is_whole(&world);
}

#[test]
fn a_file_that_is_missing_or_wrong_is_the_only_thing_not_shown() {
    for fault in [Fault::Gone, Fault::Corrupt] {
        let world = synced(&["good", "victim"], HOLD);
        release(&world, "victim", "2.0");
        release(&world, "good", "2.0");
        let (path, file) = (newest_file(&world, "victim"), wheel("victim", "2.0", 1).filename);
        world.upstream.fault(Rule::new(On::Path(path), fault));
        let lacks = |version: &str| {
            release(&world, "victim", version);
            world
                .run(&["sync"])
                .ended(4)
                .says(&[&format!("`{file}` of `victim` is not shown: upstream does not give it")]);
            assert_eq!(lacking_at(&world), upstreams(&world, "victim"));
            assert_eq!(live(&world, "good"), upstreams(&world, "good"));
            let newest = world.log().remove(0);
            assert_eq!((&newest["held"], &newest["lacking"]), (&json!([]), &json!(1)));
            assert!(world.done(&["log", "pypi"]).lines().next().unwrap().ends_with(" 1 lacking"));
            let status = world.run(&["status"]).ended(4);
            let line = format!("lacking    victim: {file}: upstream does not give it");
            assert!(status.out.contains(&line), "there is no `{line}`:\n{}", status.out);
            let status: Value = serde_json::from_str(&world.run(&["status", "--json"]).ended(4).out).unwrap();
            let lacking = json!([{ "project": "victim", "filename": file, "reason": "upstream does not give it" }]);
            assert_eq!(status["mirrors"][0]["lacking"], lacking);
            let shown = world.done(&["show", &format!("pypi@{}", world.newest()), "victim"]);
            assert!(shown.contains("not shown: upstream does not give it"), "{shown}");
        };
        lacks("3.0");
        lacks("4.0");
        world.done(&["verify", "--data"]);
        world.upstream.clear_faults();
        release(&world, "victim", "5.0");
        is_whole(&world);
    }
}

/// The live page of `victim`, with what upstream says of its second release, which the mirror lacks and does not show.
fn lacking_at(world: &World) -> Option<Fields> {
    let (mut shown, upstream) = (live(world, "victim")?, upstreams(world, "victim")?);
    let file = wheel("victim", "2.0", 1).filename;
    let fields = upstream.3.get(&file)?.clone();
    assert!(shown.2.insert("2.0".to_owned()) && shown.3.insert(file, fields).is_none(), "{shown:?}");
    Some(shown)
}

#[test]
fn a_project_of_which_no_file_can_be_had_is_held() {
    for (fault, reason) in [(Fault::Gone, "file-missing"), (Fault::Corrupt, "file-wrong")] {
        let world = synced(&["good"], HOLD);
        let needs = release(&world, "fresh", "1.0");
        release(&world, "good", "2.0");
        let path = newest_file(&world, "fresh");
        world.upstream.fault(Rule::new(On::Path(path), fault));
        for _ in 0..2 {
            holds(&world, "fresh", reason, 0, needs);
            assert_eq!(live(&world, "fresh"), None);
            assert_eq!(live(&world, "good"), upstreams(&world, "good"));
        }
        world.upstream.clear_faults();
        is_whole(&world);
    }
}

#[test]
fn until_hold_after_readers_get_what_they_got_and_the_tree_goes_on() {
    let world = synced(&["good", "victim"], "source = \"warehouse\"");
    let before = live(&world, "victim").unwrap();
    let needs = release(&world, "victim", "2.0");
    let fresh = release(&world, "fresh", "1.0");
    let file = wheel("victim", "2.0", 1).filename;
    for path in [newest_file(&world, "victim"), newest_file(&world, "fresh")] {
        gone(&world.upstream, &path);
    }
    let at = before.0;
    for _ in 0..2 {
        world.run(&["sync"]).ended(4).says(&[
            &format!("`victim` is held at serial {at} and needs {needs}"),
            &format!("`fresh` is held at serial 0 and needs {fresh}"),
            "(file-missing)",
        ]);
        assert_eq!((live(&world, "victim").as_ref(), live(&world, "fresh")), (Some(&before), None));
        let newest = world.log().remove(0);
        assert_eq!((text(&newest["serial"]), &newest["lacking"]), (fresh.to_string(), &json!(0)));
    }
    let shown = world.done(&["show", "pypi", "victim"]);
    for line in [
        format!("(its own last change: {needs})"),
        format!("held (file-missing): readers get what it was at serial {at}"),
        format!("{file}\tnot shown: its project is held"),
    ] {
        assert!(shown.contains(&line), "there is no `{line}`:\n{shown}");
    }
    let shown = world.done(&["show", "pypi", "fresh"]);
    assert!(shown.contains("unit -") && shown.contains("no list names it"), "{shown}");
    world.done(&["verify", "--data"]);
    world.done(&["gc"]);
    world.upstream.clear_faults();
    is_whole(&world);
    world.done(&["diff", "pypi", &at.to_string(), &world.newest()]);
}

#[test]
fn a_file_that_is_gone_with_its_event_holds_nothing() {
    let world = synced(&["good", "victim"], HOLD);
    release(&world, "victim", "2.0");
    let path = newest_file(&world, "victim");
    gone(&world.upstream, &path);
    // The page that names it is stale; the log knows better.
    stick(&world.upstream, "victim");
    world.upstream.world().remove_file("victim", &wheel("victim", "2.0", 1).filename);
    is_whole(&world);
}

#[test]
fn a_new_project_is_waited_for_and_not_forgotten() {
    let world = synced(&["good"], "source = \"warehouse\"");
    gone(&world.upstream, "/simple/fresh/");
    let last = release(&world, "good", "2.0");
    let needs = release(&world, "fresh", "1.0");
    release(&world, "good", "3.0");
    let words = format!("fresh: upstream has no page for it yet; a page of serial {needs} is wanted, none was seen");
    // What came before it is published, once.
    world.run(&["sync"]).ended(0).says(&[&words]);
    for _ in 0..2 {
        world.run(&["sync"]).ended(3).says(&[&words]);
    }
    let newest: u64 = world.newest().parse().unwrap();
    assert!((last..needs).contains(&newest), "{newest} is not between {last} and {needs}");
    // The log alone tells that it began, empty.
    let then = world.upstream.world().project_at("fresh", newest);
    assert_eq!(live(&world, "fresh"), then.as_ref().map(wanted_fields));
    let status: Value = serde_json::from_str(&world.done(&["status", "--json"])).unwrap();
    assert!(text(&status["mirrors"][0]["last_sync"]["failure"]).contains(&words), "{status}");
    world.upstream.clear_faults();
    is_whole(&world);
}

#[test]
fn removal_and_quarantine_need_no_page() {
    let projects = ["removed", "quarantined", "emptied", "shrunk", "hidden"];
    let world = synced(&projects, "source = \"warehouse\"");
    for project in ["shrunk", "hidden", "emptied"] {
        release(&world, project, "2.0");
    }
    is_whole(&world);
    for project in projects {
        stick(&world.upstream, project);
    }
    {
        let mut upstream = world.upstream.world();
        upstream.remove_project("removed");
        upstream.quarantine("quarantined");
        upstream.remove_release("emptied", "1.0");
        upstream.remove_file("emptied", &wheel("emptied", "2.0", 1).filename);
        upstream.remove_file("shrunk", &wheel("shrunk", "1.0", 1).filename);
        upstream.quarantine_release("hidden", "2.0");
    }
    is_whole(&world);
    assert_eq!(live(&world, "hidden").unwrap().3.len(), 1);
    assert!(live(&world, "emptied").unwrap().3.is_empty());
}

#[test]
fn the_view_says_what_upstream_says() {
    let projects = ["removed", "quarantined", "emptied", "anew", "cleared", "yanked", "unyanked", "hidden", "shown"];
    let world = synced(&projects, "source = \"warehouse\"");
    for project in projects {
        release(&world, project, "2.0");
    }
    {
        let mut upstream = world.upstream.world();
        upstream.quarantine("cleared");
        upstream.yank("unyanked", "2.0", Some("not any more"));
        upstream.quarantine_release("shown", "1.0");
        upstream.remove_project("anew");
    }
    is_whole(&world);
    assert_eq!((live(&world, "anew"), live(&world, "cleared").unwrap().3.len()), (None, 0));
    {
        let mut upstream = world.upstream.world();
        upstream.remove_project("removed");
        upstream.quarantine("quarantined");
        upstream.remove_release("emptied", "1.0");
        upstream.remove_release("emptied", "2.0");
        upstream.upload("ANEW", &wheel("ANEW", "3.0", 2));
        upstream.clear_quarantine("cleared");
        upstream.yank("yanked", "1.0", Some("it <breaks> & more"));
        upstream.yank("yanked", "2.0", None);
        upstream.unyank("unyanked", "2.0");
        upstream.quarantine_release("hidden", "1.0");
        upstream.clear_release_quarantine("shown", "1.0");
        upstream.unknown_action("emptied", None, "turn upside down");
        upstream.role("shown", "add Owner bob");
    }
    is_whole(&world);
    let yanked = live(&world, "yanked").unwrap();
    let reasons: Vec<_> = yanked.3.values().map(|fields| fields[4].clone()).collect();
    assert_eq!(reasons, [json!("it <breaks> & more"), json!(true)]);
    // Archived, without an event: with the next one it shows.
    world.upstream.world().set_status("shown", Status::Archived);
    release(&world, "shown", "3.0");
    is_whole(&world);
    assert_eq!(live(&world, "shown").unwrap().1, "archived");
}

#[test]
fn an_event_later_than_settle_is_noticed_and_marked() {
    let world = synced(&["good", "late"], "source = \"warehouse\"\nsettle = \"1s\"");
    world.upstream.world().delay_next(Duration::from_secs(8));
    let late = release(&world, "late", "2.0");
    release(&world, "good", "2.0");
    std::thread::sleep(Duration::from_millis(2_500));
    // The missing serials are taken for a hole.
    world.done(&["sync"]);
    let early: u64 = world.newest().parse().unwrap();
    assert!(early > late, "{early} is not after {late}");
    assert_eq!(live(&world, "late").unwrap().3.len(), 1);
    assert!(world.log().iter().all(|line| line["missed_late_event"] == false));

    std::thread::sleep(Duration::from_secs(8));
    release(&world, "good", "3.0");
    let run = world.run(&["sync"]).ended(0).says(&["an event of `late` came to light late", &late.to_string()]);
    assert!(run.err.contains("marked"), "{}", run.err);
    equals_upstream(&world);
    let log = world.log();
    let marked: Vec<_> = log.iter().map(|line| (text(&line["serial"]), line["missed_late_event"] == true)).collect();
    assert_eq!(marked[1], (early.to_string(), true));
    assert!(marked.iter().filter(|(serial, _)| *serial != early.to_string()).all(|(_, marked)| !marked), "{marked:?}");
    let lines = world.done(&["log", "pypi"]);
    assert!(lines.lines().nth(1).unwrap().contains("lacks an event that came to light late"), "{lines}");
    let status = world.done(&["status"]);
    assert!(status.contains("1 of them lacks an event that came to light late"), "{status}");
    let status: Value = serde_json::from_str(&world.done(&["status", "--json"])).unwrap();
    assert_eq!(status["mirrors"][0]["missed_late_event"], 1);
    // Once.
    release(&world, "good", "4.0");
    is_whole(&world);
    assert_eq!(world.log().iter().filter(|line| line["missed_late_event"] == true).count(), 1);
}

#[test]
fn an_event_within_settle_is_waited_for() {
    let world = World::patient(Index::new(), "8s", "source = \"warehouse\"\nsettle = \"4s\"");
    for project in ["good", "late"] {
        release(&world, project, "1.0");
    }
    world.done(&["sync"]);
    world.upstream.world().delay_next(Duration::from_millis(1_500));
    release(&world, "late", "2.0");
    release(&world, "good", "2.0");
    // It comes to light while the sync waits for it, below what the log showed at first.
    is_whole(&world);
    assert!(world.log().iter().all(|line| line["missed_late_event"] == false));
}

#[test]
fn a_page_that_shows_an_event_before_the_log_did_is_not_taken_for_older() {
    let world = synced(&["good", "late"], "source = \"warehouse\"\nsettle = \"4s\"");
    let first = release(&world, "late", "2.0");
    world.upstream.world().delay_next(Duration::from_millis(1_000));
    release(&world, "late", "3.0");
    release(&world, "good", "2.0");
    // The page comes when the late event can be seen, after the first look into the log.
    let busy = Fault::Status { status: 503, retry_after: Some(2) };
    world.upstream.fault(Rule::new(On::Path("/simple/late/".to_owned()), busy).times(1));
    world.done(&["sync"]);
    let newest: u64 = world.newest().parse().unwrap();
    assert!(newest >= first, "{newest} is before {first}");
    let shown = live(&world, "late");
    let truth = world.upstream.world().project_at("late", newest).unwrap();
    assert_eq!(shown, Some(wanted_fields(&truth)), "at serial {newest}");
    world.upstream.clear_faults();
    is_whole(&world);
}

#[test]
fn a_serial_that_goes_backwards_is_refused() {
    let world = synced(&["good", "other"], "source = \"warehouse\"");
    std::thread::sleep(Duration::from_millis(2));
    let earlier = (world.upstream.now_ms(), world.newest());
    std::thread::sleep(Duration::from_millis(2));
    release(&world, "good", "2.0");
    is_whole(&world);
    let (live, log) = (world.live(), world.log());
    let fault = Fault::Stale { age: Age::StuckAt(earlier.0), not_found: true, flapping: false };
    world.upstream.fault(Rule::new(On::Path("/pypi".to_owned()), fault));
    let (now, then) = (world.newest(), earlier.1);
    world.run(&["sync"]).ended(1).says(&["serial went back", &now, &then, "strandline mirror reset pypi"]);
    assert_eq!((world.live(), world.log()), (live, log));
    world.upstream.clear_faults();
    is_whole(&world);
}
