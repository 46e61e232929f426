//! A package index of any size that needs no network, and what a sync of it is measured against.
//!
//! [`ScaleWorld`] is a [`Upstream`](strandline_sync::upstream::Upstream) of P projects with F files each, made up as they are asked
//! for: the same numbers always give the same bytes. [`catalog`] fills a catalog alone. [`bare`] does what publishing has to do to the disk, and nothing else.
//! Nothing but `scripts/bench` and the tests here use this crate.

pub mod bare;
pub mod catalog;
mod world;

pub use world::ScaleWorld;
