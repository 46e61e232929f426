//! A crash, or an error, at every step of an operation.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use strandline_durable::Disk;
use strandline_store::Store;

use crate::{Outcome, World, invariants, lock, mirror};

/// Does `act` on copies of `old`, once undisturbed, then with a crash at each of its steps, then with an error at each of
/// its steps that the process survives. A step is also what comes right after a COMMIT: then it failed and is durable.
///
/// After each, all invariants hold, and readers see one of the serials `seen`, of which the last is that of an undisturbed
/// run. Then `next` is done, which ends as it does without a crash before it, as far as `essence` tells.
pub fn at_every_step(
    old: &World,
    seen: &[Option<u64>],
    act: impl Fn(&Arc<Store>) -> Outcome<()>,
    next: impl Fn(&Arc<Store>) -> Outcome<()>,
    essence: impl Fn(&Path) -> BTreeMap<String, String>,
) {
    let counting = Disk::counting();
    let undisturbed = old.copy();
    act(&undisturbed.open_on(counting.clone()).unwrap()).unwrap();
    let steps = counting.steps();
    assert!(steps > 10, "there is something to disturb: {steps} steps");
    next(&undisturbed.open()).unwrap();
    let should = essence(&undisturbed.root());

    let crashes = (1..=steps).map(|n| (format!("a crash at step {n} of {steps}"), n, Disk::failing_at(n)));
    let errors = (1..=steps).map(|n| (format!("an error at step {n} of {steps}"), n, Disk::failing_once_at(n)));
    for (what, n, failing) in crashes.chain(errors) {
        let world = old.copy();
        let done = world.open_on(failing.clone()).and_then(|store| act(&store));
        assert!(failing.steps() >= n, "{what}");

        let store = world.open();
        let shown = invariants::check(&world.root(), &store, &mirror());
        assert!(seen.contains(&shown), "{what} shows {shown:?}");
        assert!(done.is_err() || seen.last() == Some(&shown), "{what} went by without a word");
        let locked = lock(&store).unwrap();
        let repaired = strandline_view::repair(&locked).unwrap();
        let after = invariants::check(&world.root(), &store, &mirror());
        assert_eq!(after, invariants::published(&store), "invariant 6: {what}: `live` is what the catalog says");
        assert_eq!(repaired, shown != after, "{what}");
        let place = |shown: &Option<u64>| seen.iter().position(|seen| seen == shown);
        assert!(place(&after) >= place(&shown), "{what}: what readers saw was taken back");
        assert!(!strandline_view::repair(&locked).unwrap(), "once is enough");
        drop(locked);

        next(&store).unwrap();
        invariants::check(&world.root(), &store, &mirror());
        invariants::check_at_rest(&world.root(), &store, &mirror());
        drop(store);
        invariants::assert_equal(&essence(&world.root()), &should, &what);
    }
}
