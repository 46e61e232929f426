//! The program as its users meet it: the binary, a real nginx, real pip and uv, and a fake upstream on loopback.
//!
//! What the tests need beside Rust is brought by `scripts/test`. What is missing makes a test fail, never pass.

#![expect(clippy::unwrap_used, reason = "a test, and what it is made from, ends where something is not as expected")]
#![expect(clippy::disallowed_methods, reason = "the tests look at, and damage, what the program wrote")]

mod adopt;
mod any_histories;
mod bad_answers;
mod caches_and_quotas;
mod commands;
mod compare;
mod concurrent_syncs_and_gc;
mod credentials;
mod equal_states;
mod full_disk;
mod gc_deletes;
mod hammer;
mod held_projects;
mod install;
mod kept_stores;
mod mirrors_in_one_store;
mod progress;
mod proxies_and_tls;
mod purge;
mod quarantine;
mod recomputed_ids;
mod repair;
mod resource_limits;
mod snapshot_ids;
mod spellings;
mod stuck_stores;
mod support;
mod up;
mod upstream_moves;
mod upstream_requests;
mod verify_finds;
mod what_pages_say;
