//! A whole sync as an operation that is disturbed, and what it comes to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use strandline_durable::Disk;
use strandline_faultkit::{Outcome, invariants, known, mirror};
use strandline_store::Store;

use super::script::Script;
use super::{settings, sync_store};

pub(crate) const NAMES: &[&str] = &["Alpha", "beta", "gamma"];

/// One sync of all of them from what the script makes.
pub(crate) fn from(script: impl Fn() -> Arc<Script>) -> impl Fn(&Arc<Store>) -> Outcome<()> {
    move |store| Ok(sync_store(store, &script(), &settings(NAMES)).map(drop)?)
}

/// What readers see and what the next sync starts from. A crash between a snapshot's commit and its verification leaves a
/// snapshot that no process uses, and takes its label; therefore it is not counted which twin is live, nor its label.
pub(crate) fn essence(root: &Path) -> BTreeMap<String, String> {
    let mut found = invariants::everything(&root.join("blobs"));
    let live = root.join("views/pypi/live").canonicalize().unwrap();
    found.extend(invariants::everything(&live));
    found.extend(invariants::everything(&root.join("views/pypi/packages")));
    let store = Store::open(root, Disk::new()).unwrap();
    let mirror = known(&store, &mirror());
    let latest = mirror.latest_verified().unwrap().unwrap();
    let published = mirror.view_state().unwrap().unwrap();
    assert_eq!(published.snapshot, latest.id);
    found.insert("tree".to_owned(), latest.snapshot.tree.to_string());
    found.insert("serial".to_owned(), latest.snapshot.label.serial.to_string());
    let before = published.previous.map(|before| store.recorded(before).unwrap().snapshot.label.to_string());
    found.insert("before".to_owned(), format!("{before:?}"));
    found
}
