//! A power failure at every step of a whole sync, in which so many blobs come that the file system is synced at once; and
//! with each sync of the disk left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use strandline_durable::Disk;
use strandline_faultkit::{Outage, World};

use crate::support::script::Script;
use crate::support::whole_sync::{essence, from};

fn first() -> Arc<Script> {
    let script = Script::new();
    script.publish("Alpha", Some(3), "1", &[("alpha-1.tar.gz", b"alpha 1"), ("alpha-1.zip", b"alpha 1 zip")]);
    let files: [(&str, &[u8]); 4] =
        [("beta-1.tar.gz", b"beta 1"), ("beta-1.zip", b"zip 1"), ("beta-2.zip", b"zip 2"), ("beta-3.zip", b"zip 3")];
    script.publish("beta", Some(5), "1", &files);
    script.publish("gamma", Some(5), "1", &[("gamma-1.tar.gz", b"gamma 1"), ("gamma-2.tar.gz", b"gamma 2")]);
    Arc::new(script)
}

fn second() -> Arc<Script> {
    let script = first();
    script.publish("gamma", Some(9), "2", &[("gamma-1.tar.gz", b"gamma 1"), ("gamma-3.tar.gz", b"gamma 3")]);
    script
}

#[test]
fn a_first_sync() {
    let act = from(first);
    let outage = Outage::of(&World::new(), &[None, Some(5)], &act, &act, &essence);
    outage.everywhere();
    let mut noticed = BTreeMap::new();
    outage.without_each_sync(&mut noticed);
    // Each of the two is needed: before the blobs get their names, and after.
    assert_eq!((noticed.get("file system after new bytes"), noticed.get("file system")), (Some(&true), Some(&true)));
    let superfluous: Vec<_> = noticed.iter().filter(|(_, noticed)| !**noticed).collect();
    assert!(superfluous.is_empty(), "nobody notices that these do nothing: {superfluous:#?} of {noticed:#?}");
}

#[test]
fn an_incremental_sync() {
    let old = World::new();
    from(first)(&old.open()).unwrap();
    let act = from(second);
    Outage::of(&old, &[Some(5), Some(9)], &act, &act, &essence).everywhere();
}

/// A process dies at some step, another one does it all: what that one relies on is durable, too.
#[test]
fn a_first_sync_after_a_crash() {
    let act = from(first);
    let counting = Disk::counting();
    act(&World::new().open_on(counting.clone()).unwrap()).unwrap();
    // A stride that is prime to most things.
    for n in (1..=counting.steps()).step_by(7) {
        Outage::after_a_crash(&World::new(), n, &[None, Some(5)], &act, &essence).at_the_end();
    }
}
