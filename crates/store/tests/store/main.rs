//! The store's promises (`src/lib.rs`): a module for each job.

#![cfg(test)]

mod catalog;
mod damage;
mod gc;
mod ingest;
mod manifest;
mod migrations;
mod rebuild;
mod recheck;
mod reserve;
mod sharing;
mod tables;
mod world;
