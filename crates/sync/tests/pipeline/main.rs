//! Syncs from an upstream that says what the test has written down: the promises of `src/lib.rs`, of the double collect
//! and of following a changelog, and a crash at every step.

#![cfg(test)]

mod adopting;
mod collect;
#[path = "../../../view/tests/view/copy.rs"]
mod copy;
#[path = "../../../view/tests/view/crash.rs"]
mod crash;
mod crash_purge;
mod crash_sync;
mod files;
mod follow;
#[path = "../../../view/tests/view/invariants.rs"]
mod invariants;
mod kinds;
mod model;
#[path = "../../../view/tests/view/outage.rs"]
mod outage;
#[path = "../../../durable/tests/durable/power.rs"]
mod power;
mod power_sync;
mod publishing;
mod purge;
mod script;
mod world;
