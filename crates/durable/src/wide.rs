//! Waiting for a disk in many places at once.
//!
//! At the size of PyPI the directories and inodes that a sync touches lie apart and are seldom in memory. If they are asked for
//! one after the other, the program waits for each; a disk answers many such requests in the time of a few.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// How many requests are made of a disk at once. Twice as many were not faster (docs/design/014).
const REQUESTS: usize = 16;

static POOL: LazyLock<Result<ThreadPool, ThreadPoolBuildError>> = LazyLock::new(|| {
    ThreadPoolBuilder::new().num_threads(REQUESTS).thread_name(|number| format!("disk-{number}")).build()
});

/// Does work whose parallel iterators (rayon's) wait for the disk more than they compute: on as many threads as a disk answers
/// requests, instead of as many as there are cores. Such work must not wait for a lock that its caller may have.
pub fn wide<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match &*POOL {
        Ok(pool) => pool.install(work),
        Err(error) => {
            // The system limits threads, so the work takes longer.
            tracing::debug!(%error, "no threads of its own for the disk");
            work()
        }
    }
}

/// Looks at many paths side by side, so that their directories and inodes are in memory when the caller then works on the
/// paths one after the other, in an order that matters. Does not say what is there.
pub fn look_ahead(paths: &[PathBuf]) {
    let look = |path: &PathBuf| drop::<io::Result<_>>(Path::symlink_metadata(path));
    wide(|| paths.par_iter().for_each(look));
}
