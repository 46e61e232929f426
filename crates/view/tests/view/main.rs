//! The view's promises (`src/lib.rs`), and what any crash leaves of them.

#![cfg(test)]

mod check;
mod copy;
mod crash;
mod crash_gc;
mod crash_publish;
mod invariants;
mod outage;
#[path = "../../../durable/tests/durable/power.rs"]
mod power;
mod power_view;
mod publish;
mod world;
