//! Any sequence of syncs, rollbacks, pins, collections, withdrawals and removals of three mirrors in one store, against a
//! model that is a map of sets: which snapshots are kept, what readers see, which links and which blobs there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use strandline_faultkit::{World, invariants, known, now};
use strandline_model::{Blake3, Format as _, MirrorName, Timestamp};
use strandline_store::gc::{self, Keep};
use strandline_store::{Locked, Slot, Store, Wait, verify};
use strandline_sync::Settings;
use strandline_view::Freeze;

use crate::support::script::{Script, mirrored, page};
use crate::support::withdrawal::{let_back, withdraw};
use crate::support::{FORMAT, publish, settings, sync_store_at};

/// All files that there can be: their bytes, the same in each project and mirror.
const BYTES: [&[u8]; 5] = [b"zero", b"one", b"two", b"three", b"four"];
const PROJECTS: [&str; 2] = ["alpha", "beta"];
const MIRRORS: [&str; 3] = ["first", "second", "third"];
const GRACE: Duration = Duration::from_secs(3600);

/// Which of the files a project has, one bit each.
type Files = u8;

#[derive(Debug, Clone)]
enum Act {
    /// Upstream changes to this, and is synced.
    Change(usize, [Files; 2]),
    /// Upstream is synced as it is.
    Sync(usize),
    Rollback(usize, prop::sample::Index),
    Resume(usize),
    Pin(usize, prop::sample::Index),
    Unpin(usize, prop::sample::Index),
    /// Retention of so many, after the grace period is over or at once.
    Collect(usize, bool),
    Purge(Option<usize>, usize),
    LetBack(Option<usize>, usize),
    Remove(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let mirror = || 0..MIRRORS.len();
    let index = any::<prop::sample::Index>;
    let scope = || prop::option::of(mirror());
    prop_oneof![
        6 => (mirror(), prop::array::uniform2(0..1_u8 << BYTES.len())).prop_map(|(at, files)| Act::Change(at, files)),
        2 => mirror().prop_map(Act::Sync),
        2 => (mirror(), index()).prop_map(|(at, which)| Act::Rollback(at, which)),
        1 => mirror().prop_map(Act::Resume),
        1 => (mirror(), index()).prop_map(|(at, which)| Act::Pin(at, which)),
        1 => (mirror(), index()).prop_map(|(at, which)| Act::Unpin(at, which)),
        4 => (1..4_usize, any::<bool>()).prop_map(|(last, over)| Act::Collect(last, over)),
        3 => (scope(), 0..BYTES.len()).prop_map(|(scope, file)| Act::Purge(scope, file)),
        2 => (scope(), 0..BYTES.len()).prop_map(|(scope, file)| Act::LetBack(scope, file)),
        1 => mirror().prop_map(Act::Remove),
    ]
}

/// Serial and revision.
type Place = (u64, u32);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Shot {
    /// For each project the serial of its page, and its files.
    projects: [(u64, Files); 2],
    pinned: bool,
    /// What took its place.
    replacement: Option<Place>,
}

#[derive(Debug, Clone, Default)]
struct Mirror {
    upstream: Option<(u64, [Files; 2])>,
    shots: BTreeMap<Place, Shot>,
    live: Option<Place>,
    previous: Option<Place>,
    frozen: bool,
    /// What the twins hold, and which of them is live.
    twins: [Option<Place>; 2],
    slot: usize,
    links: BTreeSet<String>,
    leaving: BTreeMap<String, i64>,
}

#[derive(Debug, Default)]
struct Model {
    mirrors: [Mirror; 3],
    /// Every blob, and since when nothing names it, as gc found.
    blobs: BTreeMap<Blake3, Option<i64>>,
    /// The record: of which mirror, which file, and whether it was let back.
    record: Vec<(Option<usize>, usize, bool)>,
    serial: u64,
}

fn file_name(project: usize, file: usize) -> String {
    format!("{}-{file}.tar.gz", PROJECTS[project])
}

fn each(files: Files) -> impl Iterator<Item = usize> {
    (0..BYTES.len()).filter(move |file| files & (1 << file) != 0)
}

fn path(project: usize, file: usize) -> String {
    format!("packages/aa/bb/cc/{}", file_name(project, file))
}

/// The pages of a project, by their paths.
fn pages(project: usize, (at, files): (u64, Files)) -> BTreeMap<String, Vec<u8>> {
    let names: Vec<_> = each(files).map(|file| (file_name(project, file), BYTES[file])).collect();
    let names: Vec<_> = names.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    let versions: Vec<_> = each(files).map(|file| file.to_string()).collect();
    let project = mirrored(&page(PROJECTS[project], Some(at), &versions.join(" "), &names), &names);
    FORMAT.render(&project).into_iter().map(|page| (page.path.to_string(), page.bytes.to_vec())).collect()
}

impl Shot {
    fn pages(&self) -> BTreeMap<String, Vec<u8>> {
        (0..2).flat_map(|project| pages(project, self.projects[project])).collect()
    }

    fn paths(&self) -> BTreeSet<String> {
        let of = |project: usize| each(self.projects[project].1).map(move |file| path(project, file));
        (0..2).flat_map(of).collect()
    }

    fn blobs(&self) -> BTreeSet<Blake3> {
        let files = self.projects.iter().flat_map(|(_, files)| each(*files)).map(|file| Blake3::of(BYTES[file]));
        files.chain(self.pages().values().map(|page| Blake3::of(page))).collect()
    }

    fn has(&self, files: Files) -> bool {
        self.projects.iter().any(|(_, own)| own & files != 0)
    }

    fn without(&self, files: Files) -> Self {
        let mut shot = self.clone();
        shot.projects.iter_mut().for_each(|(_, own)| *own &= !files);
        shot
    }
}

impl Mirror {
    fn served(&self) -> Vec<Place> {
        self.shots.iter().filter(|(_, shot)| shot.replacement.is_none()).map(|(place, _)| *place).collect()
    }

    fn final_of(&self, mut place: Place) -> Place {
        while let Some(next) = self.shots[&place].replacement {
            place = next;
        }
        place
    }

    fn next(&self, serial: u64) -> Place {
        let last = self.shots.range((serial, 0)..=(serial, u32::MAX)).next_back();
        (serial, last.map_or(1, |((_, revision), _)| revision + 1))
    }

    fn publish(&mut self, place: Place, frozen: bool) {
        if self.live != Some(place) {
            self.links.append(&mut self.shots[&place].paths());
            let before = self.live.map(|before| self.final_of(before));
            if before != Some(place) {
                self.previous = before;
            }
            self.slot = if self.live.is_some() { 1 - self.slot } else { 0 };
            self.twins[self.slot] = Some(place);
            self.live = Some(place);
        }
        self.frozen = frozen;
    }

    fn protected(&self) -> BTreeSet<Place> {
        let pins = self.shots.iter().filter(|(_, shot)| shot.pinned).map(|(place, _)| *place);
        pins.chain([self.live, self.previous, self.twins[0], self.twins[1]].into_iter().flatten()).collect()
    }

    /// Takes files out of everything that is served.
    fn purge(&mut self, withdrawn: Files) {
        let affected: BTreeSet<u64> = self
            .served()
            .into_iter()
            .filter(|place| self.shots[place].has(withdrawn))
            .map(|(serial, _)| serial)
            .collect();
        for serial in affected {
            let old: Vec<_> = self.served().into_iter().filter(|place| place.0 == serial).collect();
            let first = old.iter().position(|place| self.shots[place].has(withdrawn)).unwrap();
            for (position, place) in old.iter().enumerate().skip(first) {
                let shot = self.shots[place].clone();
                if !shot.has(withdrawn) && position + 1 < old.len() {
                    continue;
                }
                let new = self.next(serial);
                self.shots.insert(new, shot.without(withdrawn));
                let old = self.shots.get_mut(place).unwrap();
                (old.replacement, old.pinned) = (Some(new), false);
                if self.previous == Some(*place) {
                    self.previous = Some(new);
                }
                let gone = shot.paths().into_iter().filter(|path| !self.shots[&new].paths().contains(path));
                let gone: Vec<_> = gone.collect();
                self.links.retain(|path| !gone.contains(path));
            }
        }
        let Some(live) = self.live else { return };
        self.publish(self.final_of(live), self.frozen);
        let standby = &self.twins[1 - self.slot];
        if standby.is_some_and(|held| self.final_of(held) != held) {
            self.twins[1 - self.slot] = self.live;
        }
    }
}

impl Model {
    fn withdrawn(&self, at: usize) -> Files {
        let newest = |file: usize| {
            self.record.iter().rev().find(|(scope, of, _)| *of == file && scope.is_none_or(|scope| scope == at))
        };
        (0..BYTES.len()).filter(|file| newest(*file).is_some_and(|(_, _, undone)| !undone)).map(|file| 1 << file).sum()
    }

    fn note(&mut self, scope: Option<usize>, file: usize, undone: bool) {
        let newest = self
            .record
            .iter()
            .rev()
            .find(|(of_scope, of, _)| *of == file && (scope.is_none() || of_scope.is_none() || *of_scope == scope));
        let same = match newest {
            None => undone,
            Some((of, _, found)) => *found == undone && (scope.is_some() || of.is_none()),
        };
        if !same {
            self.record.push((scope, file, undone));
        }
    }

    fn sync(&mut self, at: usize) {
        let withdrawn = self.withdrawn(at);
        let mirror = &mut self.mirrors[at];
        let Some((serial, files)) = mirror.upstream else { return };
        let shot = Shot { projects: files.map(|files| (serial, files & !withdrawn)), pinned: false, replacement: None };
        let base = mirror.served().pop();
        let same = base.filter(|base| base.0 == serial && mirror.shots[base].projects == shot.projects);
        let place = same.unwrap_or_else(|| {
            let place = mirror.next(serial);
            mirror.shots.insert(place, shot.clone());
            place
        });
        self.blobs.extend(shot.blobs().into_iter().map(|blob| (blob, None)));
        if mirror.frozen {
            mirror.links.append(&mut shot.paths());
        } else {
            mirror.publish(place, false);
        }
    }

    fn collect(&mut self, last: usize, now: i64) {
        let until = now - i64::try_from(GRACE.as_secs()).unwrap();
        let mut named = BTreeSet::new();
        for mirror in &mut self.mirrors {
            let mut kept = mirror.protected();
            kept.extend(mirror.served().into_iter().rev().take(last));
            let records: Vec<_> =
                mirror.shots.keys().filter(|place| kept.contains(&mirror.final_of(**place))).copied().collect();
            let stay: BTreeSet<_> = kept.iter().flat_map(|place| mirror.shots[place].paths()).collect();
            named.extend(kept.iter().flat_map(|place| mirror.shots[place].blobs()));
            for (place, shot) in &mirror.shots {
                if !kept.contains(place) && !records.contains(place) {
                    for path in shot.paths() {
                        mirror.leaving.entry(path).or_insert(now);
                    }
                }
            }
            mirror.leaving.retain(|path, _| !stay.contains(path));
            let gone: Vec<_> =
                mirror.leaving.iter().filter(|(_, since)| **since <= until).map(|(path, _)| path.clone()).collect();
            for path in gone {
                mirror.leaving.remove(&path);
                mirror.links.remove(&path);
            }
            mirror.shots.retain(|place, _| kept.contains(place) || records.contains(place));
        }
        for (blob, since) in &mut self.blobs {
            *since = if named.contains(blob) { None } else { Some(since.unwrap_or(now)) };
        }
        self.blobs.retain(|_, since| since.is_none_or(|since| since > until));
    }

    fn purge(&mut self, scope: Option<usize>, file: usize) {
        self.note(scope, file, false);
        for at in 0..MIRRORS.len() {
            if scope.is_none_or(|scope| scope == at) {
                let withdrawn = self.withdrawn(at);
                self.mirrors[at].purge(withdrawn);
            }
        }
        let served: Vec<_> = self
            .mirrors
            .iter()
            .flat_map(|mirror| mirror.served().into_iter().map(|place| &mirror.shots[&place]))
            .collect();
        let named: BTreeSet<_> = served.iter().flat_map(|shot| shot.blobs()).collect();
        for blob in &named {
            self.blobs.entry(*blob).or_insert(None);
        }
        for (file, bytes) in BYTES.iter().enumerate() {
            let rows = || self.record.iter().enumerate().filter(|(_, (_, of, _))| *of == file);
            let in_force = rows().any(|(number, (scope, _, undone))| {
                let later = |(other, (of, _, _)): (usize, &(Option<usize>, usize, bool))| {
                    other > number && (of.is_none() || (scope.is_some() && of == scope))
                };
                !undone && !rows().any(later)
            });
            if in_force && !named.contains(&Blake3::of(bytes)) {
                self.blobs.remove(&Blake3::of(bytes));
            }
        }
    }
}

/// The store, and what it should be.
struct Run {
    world: World,
    store: Arc<Store>,
    model: Model,
    now: i64,
    /// Every blob that there ever was.
    seen: BTreeSet<Blake3>,
}

fn mirror(at: usize) -> MirrorName {
    MIRRORS[at].parse().unwrap()
}

fn label((serial, revision): Place) -> String {
    format!("{serial}.{revision}")
}

impl Run {
    fn time(&self) -> Timestamp {
        Timestamp::from_seconds(self.now).unwrap()
    }

    fn lock(&self, at: usize) -> Locked {
        self.store.lock(&mirror(at), Wait::Never, self.time()).unwrap()
    }

    fn sync(&mut self, at: usize) {
        let Some((serial, files)) = self.model.mirrors[at].upstream else { return };
        let script = Script::new();
        for (project, files) in files.into_iter().enumerate() {
            let names: Vec<_> = each(files).map(|file| (file_name(project, file), BYTES[file])).collect();
            let names: Vec<_> = names.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
            let versions: Vec<_> = each(files).map(|file| file.to_string()).collect();
            script.publish(PROJECTS[project], Some(serial), &versions.join(" "), &names);
        }
        // A page may lose all of its files here, and is believed.
        let settings = Settings { mirror: mirror(at), accept_drop: true, ..settings(&PROJECTS) };
        sync_store_at(&self.store, &Arc::new(script), &settings, self.time()).unwrap();
        self.model.sync(at);
    }

    fn publish(&mut self, at: usize, place: Place, frozen: bool) {
        let locked = self.lock(at);
        let recorded = locked.select_served(label(place).parse().unwrap()).unwrap();
        let verified = locked.verified(recorded, None).unwrap();
        let freeze = if frozen { Freeze::Set } else { Freeze::Lift };
        publish(&locked, verified, freeze, self.time());
        self.model.mirrors[at].publish(place, frozen);
    }

    fn act(&mut self, act: &Act) {
        self.now += 60;
        let which = |model: &Model, at: usize, index: &prop::sample::Index| {
            let served = model.mirrors[at].served();
            (!served.is_empty()).then(|| served[index.index(served.len())])
        };
        match act {
            Act::Change(at, files) => {
                self.model.serial += 1;
                self.model.mirrors[*at].upstream = Some((self.model.serial, *files));
                self.sync(*at);
            }
            Act::Sync(at) => self.sync(*at),
            Act::Rollback(at, index) => {
                if let Some(place) = which(&self.model, *at, index) {
                    self.publish(*at, place, true);
                }
            }
            Act::Resume(at) => {
                if let Some(newest) = self.model.mirrors[*at].served().pop() {
                    self.publish(*at, newest, false);
                }
            }
            Act::Pin(at, index) | Act::Unpin(at, index) => {
                if let Some(place) = which(&self.model, *at, index) {
                    let pin = matches!(act, Act::Pin(..));
                    let mirror = known(&self.store, &mirror(*at));
                    let id = mirror.select_served(label(place).parse().unwrap()).unwrap().id;
                    let changed = if pin { mirror.pin(id, self.time()) } else { mirror.unpin(id) }.unwrap();
                    let shot = self.model.mirrors[*at].shots.get_mut(&place).unwrap();
                    assert_eq!(changed, shot.pinned != pin);
                    shot.pinned = pin;
                }
            }
            Act::Collect(last, over) => {
                self.now += if *over { 7200 } else { 0 };
                let keep = Keep { last: *last, daily: 0, weekly: 0 };
                gc::collect(&self.store, |_| keep, GRACE, self.time()).unwrap();
                self.model.collect(*last, self.now);
            }
            Act::Purge(scope, file) => {
                withdraw(&self.store, scope.map(mirror).as_ref(), BYTES[*file]).unwrap();
                self.model.purge(*scope, *file);
            }
            Act::LetBack(scope, file) => {
                let_back(&self.store, scope.map(mirror).as_ref(), BYTES[*file]).unwrap();
                self.model.note(*scope, *file, true);
            }
            Act::Remove(at) => {
                let found = self.store.mirror(&mirror(*at)).unwrap().is_some();
                self.lock(*at).remove().unwrap();
                assert!(self.store.mirror(&mirror(*at)).unwrap().is_none());
                let old = std::mem::take(&mut self.model.mirrors[*at]);
                assert_eq!(found, !old.shots.is_empty());
                self.model.mirrors[*at].upstream = old.upstream;
            }
        }
    }

    fn compare(&mut self) {
        let Self { world, store, model, .. } = self;
        let files = invariants::everything(&world.root().join("blobs"));
        let files: BTreeSet<Blake3> = files
            .iter()
            .filter(|(_, what)| *what != "/")
            .map(|(path, _)| path.replace('/', "").parse().unwrap())
            .collect();
        let expected: BTreeSet<_> = model.blobs.keys().copied().collect();
        let [extra, lacking] =
            [files.difference(&expected), expected.difference(&files)].map(Iterator::collect::<Vec<_>>);
        assert!(extra.is_empty() && lacking.is_empty(), "blobs: {extra:?} too many, {lacking:?} too few");
        self.seen.extend(expected);
        for blob in &self.seen {
            assert_eq!(store.find_blob_row(*blob).unwrap().is_some(), model.blobs.contains_key(blob), "row of {blob}");
        }
        let pins = store.pins().unwrap();
        for (at, expected) in model.mirrors.iter().enumerate() {
            let name = mirror(at);
            let Some(known) = store.mirror(&name).unwrap() else {
                assert!(expected.shots.is_empty(), "snapshots of {name}");
                assert!(!world.root().join("views").join(MIRRORS[at]).exists(), "{name}");
                continue;
            };
            let superseded = known.superseded().unwrap();
            let mut kept = BTreeMap::new();
            let mut places = BTreeMap::new();
            for recorded in known.snapshots().unwrap() {
                let place = (recorded.snapshot.label.serial.get(), recorded.snapshot.label.revision);
                places.insert(recorded.id, place);
                kept.insert(place, (pins.contains(&recorded.id), superseded.get(&recorded.id).copied()));
            }
            let kept: BTreeMap<_, _> =
                kept.into_iter().map(|(at, (pinned, new))| (at, (pinned, new.map(|new| places[&new])))).collect();
            let should: BTreeMap<_, _> =
                expected.shots.iter().map(|(place, shot)| (*place, (shot.pinned, shot.replacement))).collect();
            assert_eq!(kept, should, "snapshots of {name}");

            let state = known.view_state().unwrap();
            let view = world.root().join("views").join(MIRRORS[at]);
            assert_eq!(state.map(|state| places[&state.snapshot]), expected.live, "{name}");
            assert_eq!(state.and_then(|state| state.previous).map(|id| places[&id]), expected.previous, "{name}");
            assert_eq!(state.is_some_and(|state| state.frozen), expected.frozen, "{name}");
            let twins = [Slot::A, Slot::B].map(|slot| known.twin(slot).unwrap().base.map(|id| places[&id]));
            assert_eq!(twins, expected.twins, "{name}");
            let Some(live) = expected.live else {
                assert!(!view.exists(), "{name}");
                continue;
            };
            let served: BTreeMap<_, _> = invariants::everything(&view.join("live/simple"))
                .into_iter()
                .filter(|(path, what)| what != "/" && path != "index.html")
                .map(|(path, _)| (format!("simple/{path}"), fs::read(view.join("live/simple").join(&path)).unwrap()))
                .collect();
            assert_eq!(served, expected.shots[&live].pages(), "what readers see of {name}");
            let links = invariants::everything(&view.join("packages"));
            let links: BTreeSet<_> =
                links.into_iter().filter(|(_, what)| what != "/").map(|(path, _)| format!("packages/{path}")).collect();
            assert_eq!(links, expected.links, "links of {name}");
            let report = verify::verify(store, std::slice::from_ref(&known), None, &|_| {}).unwrap();
            assert_eq!(report.damage, [], "{name}");
            assert_eq!(strandline_view::check(&known).unwrap(), [], "{name}");
        }
    }
}

#[test]
fn any_sequence_leaves_exactly_what_the_model_has() {
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let acts = prop::collection::vec(act(), 1..40);
    let done = runner.run(&acts, |acts| {
        let world = World::new();
        let store = world.open();
        let model = Model::default();
        let mut run = Run { world, store, model, now: now().seconds(), seen: BTreeSet::new() };
        for act in &acts {
            run.act(act);
            run.compare();
        }
        // When the time of everything is up, nothing is left but what is named.
        for _ in 0..2 {
            run.act(&Act::Collect(1, true));
            run.compare();
        }
        Ok(())
    });
    if let Err(error) = done {
        unreachable!("{error}");
    }
}
