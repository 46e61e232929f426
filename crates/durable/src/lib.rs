//! Every write, rename, link, fsync and lock of the program.
//!
//! What always holds:
//!
//! 1. Nothing else in the workspace calls the write side of `std::fs` (`clippy.toml` refuses it); SQLite
//!    writes its own file, and its commits pass through [`Disk::commit_point`].
//! 2. Each call that changes the disk is one step of a [`Disk`], which tests count and fail: a disk made by
//!    [`Disk::failing_at`] does the first n − 1 steps and no further one, like a process that died.
//! 3. Bytes are durable after an fsync of the file, a name after an fsync of its directory. A caller makes a file's
//!    bytes durable before it renames the file to where other processes look for it, and the directory after that;
//!    `crates/store/src/intake.rs` and `crates/view/src/publisher.rs` say their order.

mod disk;
mod list;
mod lock;
mod wide;

pub use disk::{Disk, DiskError, Free, NewFile, Step, Watch};
pub use list::children;
pub use lock::{Holder, Lock, LockError};
pub use wide::{look_ahead, wide};
