//! The index over HTTP, as a client sees it.

mod client;
mod faults;
mod index;
