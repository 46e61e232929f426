//! When what was committed is copied from the write-ahead log into the catalog's own file.
//!
//! SQLite does it within the commit that makes the log longer than some pages (<https://sqlite.org/wal.html#ckpt>), and then
//! that commit waits for the disk twice. At 700,000 projects the pages that a sync changes lie apart, and its two large commits
//! took three to four times as long for it. So a sync that has fetched everything puts it off until readers see what it made.

use crate::{Store, StoreError};

/// SQLite's own number of pages.
const USUAL: u32 = 1_000;
/// And while it is put off: 64 MiB, for the log of a first sync must not grow with what there is.
const POSTPONED: u32 = 16_384;

/// As long as this is there, commits of this store leave what they write in the log, unless that is longer than some bound. The
/// first commit after it copies what is there.
#[derive(Debug)]
#[must_use = "it lasts as long as this is kept"]
pub struct PostponedCheckpoint<'a>(&'a Store);

impl Store {
    /// Puts off what a commit need not wait for. An error changes nothing.
    pub fn postpone_checkpoint(&self) -> Result<PostponedCheckpoint<'_>, StoreError> {
        self.checkpoint_from(POSTPONED)?;
        Ok(PostponedCheckpoint(self))
    }

    fn checkpoint_from(&self, pages: u32) -> Result<(), StoreError> {
        self.connection().pragma_update(None, "wal_autocheckpoint", pages).map_err(self.sql())
    }
}

impl Drop for PostponedCheckpoint<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.checkpoint_from(USUAL) {
            // The log stays longer, until the last process closes the catalog.
            tracing::debug!(%error, "the catalog's log is not copied back as usual");
        }
    }
}
