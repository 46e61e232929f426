//! The store's promises (`src/lib.rs`): a module for each job.

#![cfg(test)]

mod adopted_files;
mod catalog;
mod clock;
mod commits;
mod earlier_records;
mod gc;
mod landing;
mod older_catalogs;
mod rebuild;
mod rehashing;
mod removed_mirrors;
mod reserve;
mod sights;
mod support;
mod verify_damage;
