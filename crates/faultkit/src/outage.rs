//! A power failure at every step of an operation, by the model of [`Power`]: what was not synced is lost, or any part of it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::{Arc, Once};

use strandline_durable::Disk;
use strandline_store::Store;

use crate::power::{Left, Power};
use crate::{Outcome, World, invariants, mirror, now};

/// How many parts of what was not synced are tried at each step.
const SEEDS: u64 = 2;

/// An operation whose steps were watched, and how it is to end.
pub struct Outage<'a> {
    power: Arc<Power>,
    /// What came before, in words.
    before: String,
    /// What readers may see afterwards; the last is what they see when the operation has ended.
    seen: &'a [Option<u64>],
    next: &'a dyn Fn(&Arc<Store>) -> Outcome<()>,
    essence: &'a dyn Fn(&Path) -> BTreeMap<String, String>,
    should: BTreeMap<String, String>,
    /// What was left on the disk where everything held, and whether the operation had ended: the same once more would
    /// show nothing new.
    tried: RefCell<BTreeSet<(bool, Left)>>,
}

impl fmt::Debug for Outage<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { power, before, seen, tried, .. } = self;
        let mut shown = formatter.debug_struct("Outage");
        shown.field("before", before).field("steps", &power.steps()).field("seen", seen);
        shown.field("tried", &tried.borrow().len()).finish_non_exhaustive()
    }
}

impl<'a> Outage<'a> {
    /// Does `act` on a copy of `old` and watches it. After a power failure `next` has to end as it does without one, as
    /// far as `essence` tells.
    pub fn of(
        old: &World,
        seen: &'a [Option<u64>],
        act: &dyn Fn(&Arc<Store>) -> Outcome<()>,
        next: &'a dyn Fn(&Arc<Store>) -> Outcome<()>,
        essence: &'a dyn Fn(&Path) -> BTreeMap<String, String>,
    ) -> Self {
        let world = old.copy();
        let power = Power::over(world.top());
        act(&world.open_on(Disk::new().watched_by(power.clone())).unwrap()).unwrap();
        let model = World::new();
        power.on().make(model.top());
        let all = |world: &World| {
            let mut all = invariants::everything(&world.root());
            all.retain(|path, what| what == "/" || !(path.starts_with("catalog.db") || path.starts_with("locks/")));
            all
        };
        invariants::assert_equal(&all(&model), &all(&world), "while the power is on");
        next(&world.open()).unwrap();
        Self {
            power,
            before: String::new(),
            seen,
            next,
            essence,
            should: essence(&world.root()),
            tried: RefCell::default(),
        }
    }

    /// The same, where a process died at the `n`-th step of `act` before another did it.
    pub fn after_a_crash(
        old: &World,
        n: u64,
        seen: &'a [Option<u64>],
        act: &'a dyn Fn(&Arc<Store>) -> Outcome<()>,
        essence: &'a dyn Fn(&Path) -> BTreeMap<String, String>,
    ) -> Self {
        let world = old.copy();
        let power = Power::over(world.top());
        let died = world.open_on(Disk::failing_at(n).watched_by(power.clone())).and_then(|store| act(&store));
        drop(died);
        power.catch_up(&world.root().join("catalog.db"));
        act(&world.open_on(Disk::new().watched_by(power.clone())).unwrap()).unwrap();
        Self {
            power,
            before: format!("a process died at step {n}, then "),
            seen,
            next: act,
            essence,
            should: essence(&world.root()),
            tried: RefCell::default(),
        }
    }

    /// The power fails at every step, and every time with some of what was not synced.
    pub fn everywhere(&self) {
        for steps in self.power.durable_steps() {
            self.fail(steps, None, &BTreeSet::new());
        }
        for steps in 0..=self.power.steps() {
            for seed in 0..SEEDS {
                self.fail(steps, Some(seed), &BTreeSet::new());
            }
        }
    }

    /// The power fails when the operation has ended.
    pub fn at_the_end(&self) {
        for seed in [None, Some(0)] {
            self.fail(self.power.steps(), seed, &BTreeSet::new());
        }
    }

    /// Leaves out each sync in turn; adds to `noticed`, for each word on a sync, whether that was noticed anywhere.
    pub fn without_each_sync(&self, noticed: &mut BTreeMap<String, bool>) {
        for (sync, place) in self.power.syncs() {
            let found = noticed.entry(place).or_insert(false);
            *found = *found || self.is_noticed(sync);
        }
    }

    /// Whether it is noticed that a sync does nothing: right after it, or when the operation has ended.
    fn is_noticed(&self, sync: usize) -> bool {
        let end = self.power.steps();
        [end].into_iter().chain((sync + 1)..=(sync + 40).min(end)).any(|steps| {
            let seeds = std::iter::once(None).chain((0..4).map(Some));
            seeds.into_iter().any(|seed| is_refused(|| self.fail(steps, seed, &BTreeSet::from([sync]))))
        })
    }

    fn fail(&self, steps: usize, seed: Option<u64>, ignored: &BTreeSet<usize>) {
        let ended = steps == self.power.steps();
        let tried = (ended, self.power.left(steps, seed, ignored));
        if self.tried.borrow().contains(&tried) {
            return;
        }
        let what = format!("{}power fails after step {steps} of {}, seed {seed:?}", self.before, self.power.steps());
        let world = World::new();
        tried.1.make(world.top());
        if world.root().exists() {
            // Before the store is opened: that would remove what was on its way.
            invariants::blobs_are_their_names(&world.root(), &invariants::everything(&world.root()));
        }

        let store = world.open();
        let shown = invariants::check(&world.root(), &store, &mirror());
        assert!(self.seen.contains(&shown), "{what}: shows {shown:?}");
        assert!(!ended || self.seen.last() == Some(&shown), "{what}: shows {shown:?}, and the operation had ended");
        let recovered = strandline_view::recover(&store, now()).unwrap();
        assert!(!ended || recovered.is_empty(), "{what}: the operation had ended");
        let after = invariants::check(&world.root(), &store, &mirror());
        assert_eq!(after, invariants::published(&store), "invariant 6: {what}: `live` is what the catalog says");

        (self.next)(&store).unwrap();
        invariants::check(&world.root(), &store, &mirror());
        invariants::check_at_rest(&world.root(), &store, &mirror());
        drop(store);
        invariants::assert_equal(&(self.essence)(&world.root()), &self.should, &what);
        self.tried.borrow_mut().insert(tried);
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Whether a check ends with an assertion that does not hold. Says nothing of it.
fn is_refused(check: impl FnOnce()) -> bool {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    QUIET.set(true);
    let refused = catch_unwind(AssertUnwindSafe(check)).is_err();
    QUIET.set(false);
    refused
}
