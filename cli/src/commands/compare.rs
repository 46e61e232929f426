//! `diff` of two mirrors: whether upstream told them the same.

use std::sync::Arc;

use serde_json::json;
use strandline_model::trie::Change;
use strandline_model::{Follow, Leaf, Method, MirrorName, ProjectName, Snapshot};
use strandline_store::{Recorded, Store};

use super::inspect::{place, selected};
use super::{open, say};
use crate::config::Config;
use crate::exit::Exit;
use crate::report::Failure;

/// A snapshot that is compared.
struct Side {
    /// `MIRROR@SERIAL`.
    name: String,
    recorded: Recorded,
    follow: Follow,
}

impl Side {
    fn read(store: &Arc<Store>, (mirror, wanted): &(MirrorName, Option<&str>)) -> Result<Self, Failure> {
        let recorded = selected(store, mirror, *wanted)?;
        let follow = store.follow(&recorded.snapshot)?;
        Ok(Self { name: format!("{mirror}@{}", recorded.snapshot.label), recorded, follow })
    }

    fn snapshot(&self) -> &Snapshot {
        &self.recorded.snapshot
    }

    /// Whether the project is carried as an earlier page showed it.
    fn holds_page_of(&self, project: &ProjectName) -> bool {
        let held = self.snapshot().held.iter().find(|held| held.name == *project);
        held.is_some_and(|held| !held.reason.is_of_files())
    }

    /// Whether the project came to what it is, or went, without an event.
    fn is_without_event(&self, project: &ProjectName, leaf: Option<&Leaf>) -> bool {
        leaf.is_some_and(|leaf| !leaf.logged) || self.snapshot().gone.iter().any(|gone| gone.name == *project)
    }
}

/// How a project differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    /// Upstream told the two mirrors different things.
    Told,
    /// As `Told`, between snapshots of which nothing is promised.
    NotPromised,
    /// One of them carries it as an earlier page showed it.
    Held,
    /// It changed without an event, and one of them has read it since.
    WithoutEvent,
    /// Only what pages show and no event tells differs.
    Seen,
}

impl Difference {
    /// How a project that two snapshots list differently differs; `None` where upstream told both the same and both saw the
    /// same. `promised` says whether the snapshots have to be told the same.
    fn of(Change { name, before, after }: &Change, sides: &[Side; 2], promised: bool) -> Option<Self> {
        let told = |leaf: &Option<Leaf>| leaf.as_ref().map(|leaf| (leaf.record.map(|record| record.told), leaf.serial));
        let record = |leaf: &Option<Leaf>| leaf.as_ref().map(|leaf| leaf.record);
        let [first, second] = sides;
        if told(before) == told(after) {
            (record(before) != record(after)).then_some(Self::Seen)
        } else if first.holds_page_of(name) || second.holds_page_of(name) {
            Some(Self::Held)
        } else if first.is_without_event(name, before.as_ref()) || second.is_without_event(name, after.as_ref()) {
            Some(Self::WithoutEvent)
        } else if promised {
            Some(Self::Told)
        } else {
            Some(Self::NotPromised)
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Told => "told differently",
            Self::NotPromised => "different, and no alarm",
            Self::Held => "held by one at an earlier page",
            Self::WithoutEvent => "changed upstream without an event, seen by one",
            Self::Seen => "not yet seen by both",
        }
    }
}

/// Why nothing is promised of two snapshots.
fn reservations(sides: &[Side; 2]) -> Vec<String> {
    let [first, second] = sides.each_ref().map(Side::snapshot);
    let mut found = Vec::new();
    if first.label.serial != second.label.serial {
        found.push("states can only be compared at one serial, and these are two".to_owned());
    }
    if first.record != second.record {
        found.push(format!("their records have different forms, {} and {}", first.record, second.record));
    }
    for Side { name, recorded, .. } in sides {
        if recorded.snapshot.method == Method::Collect {
            found.push(format!("{name} was made without a changelog, so it is of no one serial"));
        }
        if recorded.missed {
            found.push(format!("{name} lacks an event that came to light late"));
        }
    }
    found
}

/// Says whether upstream told two mirrors the same, and of which projects not.
pub(crate) fn compare(config: &Config, first: &str, second: &str, json: bool) -> Result<Exit, Failure> {
    let places = [place(config, first)?, place(config, second)?];
    let store = open(&config.store)?;
    let sides = [Side::read(&store, &places[0])?, Side::read(&store, &places[1])?];
    let [one, other] = &sides;
    let (same_names, reservations) = (one.follow == other.follow, reservations(&sides));
    let equal = same_names && one.snapshot().state == other.snapshot().state;
    if json {
        let states = same_names.then_some([one.snapshot().state, other.snapshot().state]);
        say!(
            "{}",
            json!({
                "snapshots": [one.name, other.name], "states": states, "equal": equal,
                "same_projects_followed": same_names, "no_alarm_because": reservations,
            })
        );
    } else if equal {
        say!("{} and {} have one state: upstream told both the same ({})", one.name, other.name, one.snapshot().state);
    } else {
        let differ = if same_names {
            "have different states"
        } else {
            "follow different projects, so the names that both follow are compared"
        };
        say!("{} and {} {differ}", one.name, other.name);
        for reservation in &reservations {
            say!("no difference is an alarm: {reservation}");
        }
    }
    let alarms = tell(&store, &sides, reservations.is_empty(), json)?;
    if alarms > 0 {
        return Err(Failure::found(format!(
            "{} and {} were told differently of {alarms} projects, and should not have been",
            one.name, other.name
        )));
    }
    Ok(Exit::Done)
}

/// Names the projects that differ, first those of which upstream told something else; returns how many are an alarm.
fn tell(store: &Store, sides: &[Side; 2], promised: bool, json: bool) -> Result<usize, Failure> {
    let [one, other] = sides;
    let mut alarms = 0;
    let told = store.told_otherwise(one.snapshot(), other.snapshot())?;
    let mut seen = store.diff(Some(one.snapshot()), Some(other.snapshot()))?;
    seen.retain(|change| Difference::of(change, sides, promised) == Some(Difference::Seen));
    for change in
        told.iter().chain(&seen).filter(|change| one.follow.has(&change.name) && other.follow.has(&change.name))
    {
        let Some(difference) = Difference::of(change, sides, promised) else { continue };
        let is_alarm = difference == Difference::Told;
        alarms += usize::from(is_alarm);
        let (name, words) = (&change.name, difference.in_words());
        let leaves = [&change.before, &change.after].map(Option::as_ref);
        if json {
            let record = |leaf: Option<&Leaf>| leaf.and_then(|leaf| leaf.record);
            say!(
                "{}",
                json!({
                    "project": name, "difference": words, "alarm": is_alarm,
                    "serials": leaves.map(|leaf| leaf.map(|leaf| leaf.serial)),
                    "told": leaves.map(|leaf| record(leaf).map(|record| record.told)),
                    "seen": leaves.map(|leaf| record(leaf).map(|record| record.seen)),
                })
            );
        } else {
            let at =
                |leaf: Option<&Leaf>| leaf.map_or_else(|| "no such project".to_owned(), |leaf| leaf.serial.to_string());
            say!("{name}\t{words}\t{}\t{}", at(leaves[0]), at(leaves[1]));
        }
    }
    Ok(alarms)
}

#[cfg(test)]
mod tests {
    use strandline_model::{Blake3, Gone, Held, HoldReason, Inputs, Label, RecordId, Serial, Timestamp};

    use super::*;

    fn side(follow: Follow) -> Side {
        let (time, id) = (Timestamp::from_seconds(1_767_268_800).unwrap(), Blake3::of(b""));
        let snapshot = Snapshot {
            mirror: "pypi".parse().unwrap(),
            label: Label { serial: Serial::try_from(9).unwrap(), revision: 1 },
            tree: id,
            state: id,
            follow: follow.id(),
            inputs: Inputs::default().id(),
            cutoff: time,
            record: 2,
            method: Method::Changelog,
            projects: 1,
            listed: 1,
            parent: None,
            time,
            upstream: "https://index.example/simple/".parse().unwrap(),
            lists: Vec::new(),
            held: Vec::new(),
            gone: Vec::new(),
        };
        Side {
            name: "pypi@9".to_owned(),
            recorded: Recorded { id, snapshot, verified: true, missed: false, counted: false },
            follow,
        }
    }

    fn leaf(told: u8, seen: u8) -> Leaf {
        Leaf {
            name: "six".parse().unwrap(),
            listed: true,
            logged: true,
            unit: Some(Blake3::of(&[seen])),
            record: Some(RecordId { told: Blake3::of(&[told]), seen: Blake3::of(&[seen]) }),
            serial: Serial::try_from(5).unwrap(),
            display: "six".parse().unwrap(),
        }
    }

    fn differs(before: Option<Leaf>, after: Option<Leaf>, change: impl Fn(&mut [Side; 2])) -> Option<Difference> {
        let mut sides = [side(Follow::Everything), side(Follow::Everything)];
        change(&mut sides);
        let promised = reservations(&sides).is_empty();
        Difference::of(&Change { name: "six".parse().unwrap(), before, after }, &sides, promised)
    }

    #[test]
    fn only_what_was_told_differently_against_the_promise_is_an_alarm() {
        let (one, other) = (|| Some(leaf(1, 1)), || Some(leaf(2, 2)));
        let held = |reason| {
            let (at, needs) = (Serial::try_from(5).unwrap(), Serial::try_from(7).unwrap());
            let since = Timestamp::from_seconds(1_767_268_800).unwrap();
            move |sides: &mut [Side; 2]| {
                let held = Held { name: "six".parse().unwrap(), reason, at, needs, since };
                sides[1].recorded.snapshot.held = vec![held];
            }
        };
        let gone = |sides: &mut [Side; 2]| {
            sides[1].recorded.snapshot.gone =
                vec![Gone { name: "six".parse().unwrap(), serial: Serial::try_from(5).unwrap() }];
        };
        let as_they_are = |_: &mut [Side; 2]| ();
        let unlogged = || Some(Leaf { logged: false, ..leaf(2, 2) });
        let later = Leaf { serial: Serial::try_from(6).unwrap(), ..leaf(1, 1) };
        let shown = Leaf { unit: None, listed: false, ..leaf(1, 1) };
        assert_eq!(differs(one(), Some(shown), as_they_are), None, "what is shown is each mirror's own");
        assert_eq!(differs(one(), Some(leaf(1, 2)), as_they_are), Some(Difference::Seen));
        assert_eq!(differs(one(), other(), as_they_are), Some(Difference::Told));
        assert_eq!(differs(one(), Some(later), as_they_are), Some(Difference::Told), "the serials differ");
        assert_eq!(differs(one(), None, as_they_are), Some(Difference::Told));
        assert_eq!(differs(one(), unlogged(), as_they_are), Some(Difference::WithoutEvent));
        assert_eq!(differs(unlogged(), one(), as_they_are), Some(Difference::WithoutEvent));
        assert_eq!(differs(one(), None, gone), Some(Difference::WithoutEvent));
        assert_eq!(differs(one(), other(), held(HoldReason::StalePage)), Some(Difference::Held));
        assert_eq!(differs(one(), other(), held(HoldReason::FileMissing)), Some(Difference::Told));
        let changes: [fn(&mut [Side; 2]); 4] = [
            |sides| sides[0].recorded.snapshot.label.serial = Serial::try_from(8).unwrap(),
            |sides| sides[0].recorded.snapshot.method = Method::Collect,
            |sides| sides[1].recorded.snapshot.record = 3,
            |sides| sides[1].recorded.missed = true,
        ];
        for change in changes {
            assert_eq!(differs(one(), other(), change), Some(Difference::NotPromised));
        }
    }
}
