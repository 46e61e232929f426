//! A faithful fake of a package index (Warehouse and the CDN before it), with faults, for tests on loopback.
//!
//! [`World`] is the index: one log of events and the state of every project at any serial, without I/O or clock.
//! [`Upstream`] serves a world over HTTP and can break every answer. [`history()`] and [`Generator`] make worlds move.
//!
//! ```no_run
//! use strandline_testkit::{Fault, On, Rule, Upstream, World};
//!
//! # fn main() -> std::io::Result<()> {
//! let mut world = World::new();
//! world.release("Zope.Interface", "1.0");
//! let upstream = Upstream::start(world)?;
//! let flaky = Fault::Status { status: 503, retry_after: None };
//! upstream.fault(Rule::new(On::Prefix("/simple/".into()), flaky).chance(0.05));
//! println!("{}", upstream.url());
//! # Ok(())
//! # }
//! ```
//!
//! # Routes
//!
//! | request | answer |
//! |---|---|
//! | `POST /pypi` | XML-RPC: `changelog_last_serial`, `changelog_since_serial`, `list_packages_with_serial`; else a fault |
//! | `GET /simple/` | the root, without quarantined projects |
//! | `GET /simple/PROJECT/` | the project's page; quarantined: without files; removed: 404 |
//! | `GET /simple`, `/simple/PROJECT`, `/simple/Pro_Ject/` | 301 to the normalised name with a slash |
//! | `GET /packages/…` | the file, also after its removal, with ranges |
//! | `GET /packages/….metadata` | the METADATA of a wheel |
//!
//! Pages come as JSON v1, HTML v1 or `text/html`, by `Accept`; with an `ETag` that is a digest of the body (before
//! compression), 304, `Vary`, `Cache-Control` and `X-PyPI-Last-Serial`. HEAD is answered wherever GET is. There is no
//! legacy JSON, no provenance, and no TLS.
//!
//! # Knobs
//!
//! | what | where |
//! |---|---|
//! | serials with holes; events that are seen late | [`World::set_holes`], [`World::skip_serials`], [`World::set_late`], [`World::delay_next`] |
//! | pages that say an older serial than the list, after an event about people | [`World::role`], [`World::set_page_age`] |
//! | changes without an event | [`World::archive`], [`World::set_status`], [`World::replace_file`], [`World::backfill_metadata`], [`World::respell_project`], [`World::move_files`] |
//! | an index without JSON, serials, XML-RPC, compression | [`Upstream::json`], [`Upstream::serials`], [`Upstream::xmlrpc`], [`Upstream::gzip`] |
//! | where files are | [`Upstream::file_base`] |
//! | small pages of the changelog, rate limits | [`Upstream::changelog_limit`], [`Upstream::rate_limit`] |
//! | one more cache, with faults of its own | [`Upstream::edge`] |
//! | any other answer | [`Upstream::override_path`], [`Upstream::change_answers`] |
//! | stale pages and 404s, flapping nodes | [`Fault::Stale`] |
//! | a label below the content | [`Fault::Label`] |
//! | 5xx, 429 | [`Fault::Status`] |
//! | short, corrupt, slow and missing bodies | [`Fault::Truncate`], [`Fault::Corrupt`], [`Fault::Drip`], [`Fault::Latency`], [`Fault::Reset`], [`Fault::Hang`] |
//! | files that are late or gone | [`Fault::Late`], [`Fault::Gone`] |
//! | time | [`Upstream::set_manual_clock`], [`Upstream::advance`] |
//! | movement | [`Upstream::run_at`], [`Weights`] |
//! | what was asked for | [`Upstream::counts`], [`Upstream::requests`], [`Upstream::last_header`], [`Upstream::most_waiting`] |

#![expect(
    clippy::format_push_string,
    clippy::format_collect,
    reason = "a fake is read more often than it is slow: `write!` to a String brings an error that cannot happen"
)]

mod faults;
mod format;
mod history;
mod http;
mod project;
mod render;
mod rng;
mod routes;
mod server;
mod wheel;
mod world;

pub use faults::{Age, Endpoint, Fault, Label, On, Rule, RuleId};
pub use format::{Plain, Raised};
pub use history::{Generator, PAIR, Weights, history};
pub use http::Response;
pub use project::{EventKind, FileState, ProjectState, Status, normalise};
pub use rng::Rng;
pub use server::{Counts, RateLimit, Upstream};
pub use wheel::{Upload, WheelSpec, metadata_of};
pub use world::{Event, Pair, ReplacedUrl, START_MS, World};
