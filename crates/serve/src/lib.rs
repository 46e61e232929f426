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
//! 1. An answer is what one snapshot names: the catalog is asked once per request which one, and pages and files come
//!    from blobs, not from the view.
//! 2. An entity tag is strong: two answers at one URL that differ in a byte or in their type differ in their tag.
//! 3. No request reaches outside the store: paths are decoded once, and one with a segment that could leave is not
//!    looked up at all.
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
