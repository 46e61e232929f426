//! The program as its users meet it: the binary, a real nginx, real pip and uv, and a fake upstream on loopback.
//!
//! What the tests need beside Rust is brought by `scripts/test`. What is missing makes a test fail, never pass.

#![expect(clippy::unwrap_used, reason = "a test, and what it is made from, ends where something is not as expected")]
#![expect(clippy::disallowed_methods, reason = "the tests look at, and damage, what the program wrote")]

mod adopt;
mod bounds;
mod commands;
mod damage;
mod economy;
mod full;
mod hammer;
mod holds;
mod hostile;
mod install;
mod manifest;
mod network;
mod progress;
mod purge;
mod race;
mod repair;
mod server;
mod sharing;
mod snapshot_ids;
mod tools;
mod truth;
mod up;
mod ways;
mod world;
