//! A file that is withdrawn, and three states of an upstream that has it.

use std::sync::Arc;

use strandline_faultkit::{Outcome, now};
use strandline_model::{ClaimedSha256, Formats, MirrorName, Sha256};
use strandline_store::{Mirror, Order, Store, Wait, WithdrawnFile};
use strandline_sync::purge::{Busy, Done, Purge};

use super::formats;
use super::script::Script;

pub(crate) const EVIL: &[u8] = b"evil";

pub(crate) fn sha256(bytes: &[u8]) -> ClaimedSha256 {
    Sha256::of(bytes).into()
}

pub(crate) fn order(scope: Option<&MirrorName>) -> Order {
    Order { scope: scope.cloned(), time: now(), who: "the test".to_owned(), reason: Some("malware".to_owned()) }
}

pub(crate) fn purge_of<'a>(store: &'a Arc<Store>, formats: &'a Formats) -> Purge<'a> {
    Purge { store, formats, now: now() }
}

/// Withdraws bytes from one mirror or from all.
pub(crate) fn withdraw(store: &Arc<Store>, scope: Option<&MirrorName>, bytes: &[u8]) -> Outcome<Done> {
    let formats = formats();
    let purge = purge_of(store, &formats);
    let mut mirrors = store.mirrors()?;
    mirrors.retain(|mirror| scope.is_none_or(|scope| scope == mirror.name()));
    let mut plan = purge.plan_file(&mirrors, sha256(bytes))?;
    plan.files.entry(sha256(bytes)).or_insert(WithdrawnFile { sha256: sha256(bytes), name: None });
    purge.execute(&plan, &order(scope))?;
    Ok(purge.finish(Busy::Leave)?)
}

/// Finishes what was interrupted, as a process does that opens the store.
pub(crate) fn resume(store: &Arc<Store>) -> Outcome<Done> {
    Ok(purge_of(store, &formats()).finish(Busy::Leave)?)
}

pub(crate) fn let_back(store: &Arc<Store>, scope: Option<&MirrorName>, bytes: &[u8]) -> Outcome<usize> {
    let lock = |mirror: Mirror| store.lock(mirror.name(), Wait::Never, now());
    let locked = store.mirrors()?.into_iter().map(lock).collect::<Result<Vec<_>, _>>()?;
    let file = WithdrawnFile { sha256: sha256(bytes), name: None };
    Ok(store.let_back(&order(scope), &[file], &locked)?)
}

pub(crate) fn first() -> Arc<Script> {
    let script = Script::new();
    script.publish("Alpha", Some(3), "1 2", &[("alpha-1.tar.gz", b"alpha 1"), ("alpha-2.tar.gz", EVIL)]);
    script.publish("beta", Some(5), "1", &[("beta-1.tar.gz", b"beta 1")]);
    Arc::new(script)
}

pub(crate) fn second() -> Arc<Script> {
    let script = first();
    script.publish("beta", Some(7), "2", &[("beta-2.tar.gz", b"beta 2")]);
    script
}

/// A third state, in which another file is withdrawn upstream too.
pub(crate) fn third() -> Arc<Script> {
    let script = second();
    script.publish("beta", Some(9), "3", &[("beta-3.tar.gz", b"beta 3")]);
    script
}
