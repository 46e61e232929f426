//! Every write, rename, link, sync and lock of the program.
//!
//! What always holds:
//!
//! 1. Nothing else in the workspace calls the write side of `std::fs` (`clippy.toml` refuses it); SQLite
//!    writes its own file, and its commits pass through [`Disk::commit_point`].
//! 2. Each call that changes the disk is one step of a [`Disk`], which tests count and fail: a disk made by
//!    [`Disk::failing_at`] does the first n − 1 steps and then nothing any more, like a process that died.
//! 3. Durable means synced: a file's bytes before it is renamed to where others look for it, and the
//!    directory after the rename. The order is the caller's; `crates/store/src/blobs.rs` and
//!    `crates/view/src/publish.rs` say theirs.

mod disk;
mod lock;
mod wide;

pub use disk::{Disk, DiskError, Free, NewFile, Step, Watch};
pub use lock::{Holder, Lock, LockError};
pub use wide::{look_ahead, wide};
