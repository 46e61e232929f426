//! The view's promises (`src/lib.rs`), and what any crash leaves of them.

#![cfg(test)]

mod check;
mod copy;
mod crash;
mod crash_gc;
mod crash_publish;
mod invariants;
mod publish;
mod world;
