//! The view's promises (`src/lib.rs`), and what a crash or a power failure leaves of them.

#![cfg(test)]

mod check;
mod crash_gc;
mod crash_publish;
mod power_failure;
mod publish;
mod support;
