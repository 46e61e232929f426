//! The embedded HTTP server, and the [`nginx`] configuration that does the same from the static view.
//!
//! | path | what |
//! |---|---|
//! | `/` | a page for people: the mirrors, and how to use them |
//! | `/MIRROR/simple/`, `/MIRROR/simple/PROJECT/` | the published snapshot's lists and pages |
//! | `/MIRROR/packages/…` | files, as long as the mirror has them |
//! | `/MIRROR/@SERIAL/…`, `/MIRROR/@DATE/…` | the same at any snapshot that is kept |
//!
//! What always holds:
//!
//! 1. An answer has the bytes that one snapshot names: the server asks the catalog once per request which snapshot that is,
//!    and takes pages and files from blobs, not from the view.
//! 2. An entity tag is strong: two answers at one URL that differ in a byte or in their type differ in their tag.
//! 3. No request reaches outside the store: the server decodes a path once, and does not look up a path with a segment that
//!    could leave the store.
//! 4. A client that read a page before a switch still gets the files that it names.
//!
//! `tests/conformance` asks this server and a real nginx the same questions.

mod accept;
mod cache;
mod conditional;
mod files;
mod home;
pub mod nginx;
mod range;
mod reply;
mod route;
mod server;
mod site;

pub use server::serve;
pub use site::Site;
