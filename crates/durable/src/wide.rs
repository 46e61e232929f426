//! Waiting for a disk in many places at once.
//!
//! At the size of PyPI the directories and inodes that a sync touches lie apart and are seldom in memory. One after the other,
//! each is waited for; a disk answers many such requests in the time of a few.

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
/// requests, instead of as many as there are cores. The work must not wait for a lock that the caller may have.
pub fn wide<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match &*POOL {
        Ok(pool) => pool.install(work),
        Err(error) => {
            // The system limits threads: the work takes longer.
            tracing::debug!(%error, "no threads of its own for the disk");
            work()
        }
    }
}

/// Looks at many paths side by side, so that the caller, who then works on them one after the other because the order
/// matters, need not wait for the disk at each. Returns nothing: what is there, or not, is found out then.
pub fn look_ahead(paths: &[PathBuf]) {
    let look = |path: &PathBuf| drop::<io::Result<_>>(Path::symlink_metadata(path));
    wide(|| paths.par_iter().for_each(look));
}
