//! Times that were remembered while this machine's clock was ahead.
//!
//! The catalog remembers since when something is so, and acts on it when enough time has passed. Where the clock was years ahead once
//! and is right again, that would be in years. So such a time counts as now, and is written anew, before it is relied on: here, and in
//! no query. What is only shown, such as when a snapshot was made, stays as it is.
//!
//! Which of two clocks is right, the one of then or the one of now, is not known. Where even the oldest snapshot seems to be of the
//! future, the clock is behind now, as after a start without a battery: then everything stays, because ages would be years once
//! it is right again.

use rusqlite::Connection;
use strandline_model::Timestamp;

use crate::{Store, StoreError};

/// A time that is not further ahead than this is that of another process, which has asked the clock later, or that of a clock that was
/// set right by a little.
const TOLERATED: i64 = 60;

/// What is remembered, in tables that are small or have an index for it. The first ones show whether the clock was ahead.
const REMEMBERED: [(&str, &str); 9] = [
    ("last_sync", "time"),
    ("sweep", "time"),
    ("view", "switched"),
    ("sight", "last"),
    ("blob", "condemned"),
    ("usage", "time"),
    ("sight", "first"),
    ("pool_leaving", "since"),
    ("unlogged", "since"),
];

impl Store {
    /// Lets times in the future count as now. A sync and a collection begin with this, because they act on ages.
    pub fn settle_times(&self, now: Timestamp) -> Result<(), StoreError> {
        let (now, latest) = (now.seconds(), now.seconds().saturating_add(TOLERATED));
        let ahead =
            "SELECT EXISTS (SELECT 1 FROM last_sync WHERE time > ?1) OR EXISTS (SELECT 1 FROM sweep WHERE time > ?1)
            OR EXISTS (SELECT 1 FROM view WHERE switched > ?1) OR EXISTS (SELECT 1 FROM sight WHERE last > ?1)
            OR EXISTS (SELECT 1 FROM blob WHERE condemned > ?1) OR EXISTS (SELECT 1 FROM usage WHERE time > ?1)";
        let behind = "SELECT coalesce((SELECT min(time) FROM snapshot) > ?1, 0)";
        if !self.says(ahead, [latest])? || self.says(behind, [latest])? {
            return Ok(());
        }
        tracing::warn!("the clock was ahead once: times that the catalog has from then count as now");
        self.transaction(|transaction| {
            let settle = |connection: &Connection| {
                for (table, column) in REMEMBERED {
                    let settle = format!("UPDATE {table} SET {column} = ?1 WHERE {column} > ?1");
                    connection.execute(&settle, [now])?;
                }
                Ok(())
            };
            settle(transaction).map_err(self.sql())
        })
    }

    /// Lets checks of data that have a time in the future count as never done: when they were is not known.
    pub(crate) fn settle_checks(&self, now: Timestamp) -> Result<(), StoreError> {
        let latest = now.seconds().saturating_add(TOLERATED);
        self.execute("UPDATE checked SET time = 0 WHERE time > ?1", [latest]).map(drop)
    }
}
