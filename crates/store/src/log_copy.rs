//! When commits are copied from the catalog's write-ahead log into the catalog's own file.
//!
//! SQLite does it within the commit that makes the log longer than some pages (<https://sqlite.org/wal.html#ckpt>, which calls it
//! a checkpoint), and then that commit waits for the disk twice. At 700,000 projects the pages that a sync changes lie apart, and
//! its two large commits took three to four times as long because of it. So a sync that has fetched everything puts it off until
//! readers see what it made.

use crate::{Store, StoreError};

/// SQLite's own number of pages.
const USUAL: u32 = 1_000;
/// The number while the copy is put off: 64 MiB, because the log of a first sync must not grow with what there is.
const POSTPONED: u32 = 16_384;

/// As long as this is there, commits of this store leave what they write in the log, unless that is longer than some
/// bound. The first commit after it copies the log.
#[derive(Debug)]
#[must_use = "it lasts as long as this is kept"]
pub struct PostponedLogCopy<'a>(&'a Store);

impl Store {
    /// Puts off the copy, because a commit need not wait for it. An error changes nothing.
    pub fn postpone_log_copy(&self) -> Result<PostponedLogCopy<'_>, StoreError> {
        self.copy_log_from(POSTPONED)?;
        Ok(PostponedLogCopy(self))
    }

    fn copy_log_from(&self, pages: u32) -> Result<(), StoreError> {
        self.connection().pragma_update(None, "wal_autocheckpoint", pages).map_err(self.sql())
    }
}

impl Drop for PostponedLogCopy<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.copy_log_from(USUAL) {
            // The log stays longer, until the last process closes the catalog.
            tracing::debug!(%error, "the catalog's log is not copied back as usual");
        }
    }
}
