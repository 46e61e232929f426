//! The directory that a web server serves: two trees, of which one is live.
//!
//! ```text
//! VIEW/live                → a or b, switched by rename
//! VIEW/{a,b}/simple/…      pages: hard links to blobs; root lists: files of their own
//! VIEW/{a,b}/packages      → ../packages
//! VIEW/packages/…          the pool: hard links to blobs, added before a switch that names them
//! ```
//!
//! What always holds, also after a crash:
//!
//! 1. `live` points to a complete tree of a verified snapshot, and changes by one rename.
//! 2. The tree that is not live (the standby) is changed only after the catalog says between which two snapshots it is,
//!    so that the next update knows what to put right.
//! 3. Every file that a published page names is in the pool before the switch.
//! 4. No two files in here have the same time of modification unless they have the same bytes.
//!
//! `tests/view/` has a test for each, and a crash at every step.

mod check;
mod files;
mod mend;
mod pool;
mod publisher;
mod staging;
mod tree;

pub use check::{Broken, check, look};
pub use files::Stamp;
pub use mend::{Mended, copies, restock};
pub use pool::pool_file;
pub use publisher::{Clock, Freeze, Published, Publisher, Sealed, ViewError, recover, repair};
pub use staging::{Staging, root_lists};
