//! How far a sync is.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts that go up while a sync runs; another thread may read and show them.
#[derive(Debug, Default)]
pub struct Progress {
    /// Projects whose pages are wanted.
    pub projects: AtomicU64,
    /// Projects whose page and files are there.
    pub projects_done: AtomicU64,
    /// Files that have to be fetched, as far as pages have said so.
    pub files: AtomicU64,
    /// Files that were fetched.
    pub files_done: AtomicU64,
    /// Bytes of files that came.
    pub bytes: AtomicU64,
}

impl Progress {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}
