//! Syncs from an upstream that says what the test has written down: the promises of `src/lib.rs`, of the double collect
//! and of following a changelog, and a crash and a power failure at every step.

#![cfg(test)]

mod adopting;
mod any_sequence;
mod broken_pages;
mod clocks;
mod crash_purge;
mod crash_sync;
mod double_collect;
mod end_of_the_log;
mod file_downloads;
mod follow_changelog;
mod gone;
mod held_for_files;
mod how_it_is_followed;
mod lacking_files;
mod metadata_inside;
mod mirrors_of_two_kinds;
mod power_failure;
mod project_serials;
mod publishing;
mod purge;
mod quarantine;
mod raised_renderer;
mod serials;
mod shrunk_pages;
mod signed_urls;
mod support;
mod unlogged;
mod waiting;
mod what_vanishes;
