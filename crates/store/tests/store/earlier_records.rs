//! A project of which files cannot be had: its line in the tree is of the newest record, and its unit shows an earlier one.

use std::time::Duration;

use strandline_faultkit::draft_unit;
use strandline_model::{Held, HoldReason, Leaf, ListedProject, RecordId, Unit};
use strandline_store::gc::{Keep, collect};
use strandline_store::{Draft, DraftUnit, Verified};

use crate::support::{Opened, content, mirror, project, serial, time};

/// How six is held at its first state.
fn held(at: u64) -> Held {
    let reason = HoldReason::FileMissing;
    Held { name: project("six"), reason, at: serial(at), needs: serial(2), since: time(2) }
}

/// Records `six` and `idna` at serial 1; then, at 2, a new record of six, of which readers get what `unit` makes of the first unit.
fn recorded(unit: impl Fn(Unit) -> Option<Unit>) -> (Opened, Verified, RecordId) {
    let world = Opened::new();
    let first = |name: &'static str, file: &'static str| (name, Some(content(name, "one", &[file])));
    let before = world.record("pypi", 1, &[first("six", "six-1.tar.gz"), first("idna", "idna-1.tar.gz")]);
    let leaf = world.store.find(before.snapshot(), &project("six")).unwrap().unwrap();
    let shown = unit(world.store.unit(leaf.unit.unwrap()).unwrap());
    let at = u64::from(shown.is_some());

    let entry = world.ingest(b"the file of serial 2").at("packages/00/11/six-2.tar.gz".parse().unwrap());
    let newest = draft_unit("Six".parse().unwrap(), serial(2), vec![entry]);
    let six = DraftUnit { listed: shown.is_some(), unit: shown, ..newest };
    let changes = [(project("six"), Some(six))].into();
    let draft = Draft { changes, held: vec![held(at)], ..world.draft("pypi", 2, &[]) };
    let committed = world.lock("pypi").commit(draft, |_, listed| {
        let serials: Vec<_> = listed.iter().map(|project| (project.name.as_str(), project.serial.get())).collect();
        let expected: &[_] = if at == 1 { &[("idna", 1), ("six", 1)] } else { &[("idna", 1)] };
        assert_eq!(serials, expected, "the serials that stand on the pages");
        Vec::new()
    });
    let verified = world.lock("pypi").verify(committed.unwrap()).unwrap();
    (world, verified, leaf.record.unwrap())
}

fn six(world: &Opened, verified: &Verified) -> Leaf {
    world.store.find(verified.snapshot(), &project("six")).unwrap().unwrap()
}

fn listed(world: &Opened, verified: &Verified) -> Vec<ListedProject> {
    world.store.mirror(&mirror("pypi")).unwrap().unwrap().listed(verified.snapshot()).unwrap()
}

fn verified(world: &Opened, draft: Draft) -> Verified {
    let committed = world.commit("pypi", draft);
    world.lock("pypi").verify(committed).unwrap()
}

/// Keeps the newest snapshot and deletes all else at once.
fn collect_all(world: &Opened) {
    let keep = Keep { last: 1, daily: 0, weekly: 0 };
    collect(&world.store, |_| keep, Duration::ZERO, time(10)).unwrap();
    collect(&world.store, |_| keep, Duration::ZERO, time(20)).unwrap();
    assert_eq!(world.verify(None).damage, []);
}

#[test]
fn the_line_has_the_newest_record_and_the_list_the_serial_of_the_page() {
    let (world, second, earlier) = recorded(Some);
    let leaf = six(&world, &second);
    assert_eq!((leaf.serial, leaf.display.as_str()), (serial(2), "Six"));
    let unit = world.store.unit(leaf.unit.unwrap()).unwrap();
    let source = unit.source().unwrap();
    assert_eq!((source.record, source.serial), (earlier, serial(1)));
    assert_ne!(leaf.record, Some(earlier));
    let serials = |listed: Vec<ListedProject>| listed.iter().map(|project| project.serial.get()).collect::<Vec<_>>();
    assert_eq!(serials(listed(&world, &second)), [1, 1]);
    // It stays so while only others change, and is the line's serial once it is not held any more.
    let draft = Draft { held: vec![held(1)], ..world.draft("pypi", 3, &[("idna", None)]) };
    let third = verified(&world, draft);
    assert_eq!(serials(listed(&world, &third)), [1]);
    let draft = Draft { held: Vec::new(), ..world.draft("pypi", 4, &[]) };
    let fourth = verified(&world, draft);
    assert_eq!((serials(listed(&world, &fourth)), serials(listed(&world, &third))), (vec![2], vec![1]));
}

#[test]
fn the_earlier_record_stays_as_long_as_a_unit_names_it() {
    let (world, second, earlier) = recorded(Some);
    collect_all(&world);
    assert_eq!(world.labels("pypi"), ["2"]);
    let record = world.store.record(earlier).unwrap();
    assert_eq!(record.files().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["six-1.tar.gz"]);
    // Also where the snapshot is kept as a record only.
    let draft = Draft { held: vec![held(1)], ..world.draft("pypi", 2, &[("idna", None)]) };
    let revision = verified(&world, draft);
    world.lock("pypi").supersede(&[(second.id(), revision.id())]).unwrap();
    collect_all(&world);
    world.store.record(earlier).unwrap();
    // Nothing needs it once a later snapshot shows the newest record.
    world.record("pypi", 3, &[("six", Some(content("six", "three", &["six-3.tar.gz"])))]);
    collect_all(&world);
    assert_eq!(world.labels("pypi"), ["3"]);
    world.store.record(earlier).unwrap_err();
}

#[test]
fn a_damaged_earlier_record_is_named() {
    let (world, _, earlier) = recorded(Some);
    collect_all(&world);
    for part in [earlier.told, earlier.seen] {
        world.sql().execute("DELETE FROM body WHERE id = ?1", [part.as_bytes()]).unwrap();
    }
    let damage: Vec<_> = world.verify(None).damage.iter().map(ToString::to_string).collect();
    assert_eq!(damage.len(), 2, "{damage:?}");
    for part in [earlier.told, earlier.seen] {
        let is_named = |damage: &String| {
            damage.starts_with(&format!("body {part} is ")) && damage.ends_with("it is six; named by pypi@2")
        };
        assert!(damage.iter().any(is_named), "{part}: {damage:?}");
    }
}

#[test]
fn a_project_that_was_never_good_has_a_record_and_no_unit() {
    let (world, verified, _) = recorded(|_| None);
    let leaf = six(&world, &verified);
    assert_eq!((leaf.unit, leaf.listed, leaf.serial), (None, false, serial(2)));
    assert_eq!(listed(&world, &verified).len(), 1);
    collect_all(&world);
    let record = world.store.record(leaf.record.unwrap()).unwrap();
    assert_eq!(record.files().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["six-2.tar.gz"]);
}
