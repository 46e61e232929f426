//! What upstream's pages say and this program does not use, for `status` and `show`.
//!
//! It is noted when a page is read, whether a snapshot comes to show the page or not; the next reading takes its place.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Row;
use strandline_model::ProjectName;

use crate::rows::execute_each;
use crate::{Locked, Mirror, StoreError};

/// How many keys are noted of a project.
const MOST: usize = 32;

/// What the page of a project says and this program does not use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remarks {
    /// The keys that are not known, as JSON pointers; of many, the first ones.
    pub unknown: BTreeSet<String>,
}

impl Remarks {
    /// The rows that say so: a kind and a text each.
    fn rows(&self) -> BTreeSet<(i64, &str)> {
        self.unknown.iter().take(MOST).map(|key| (UNKNOWN, key.as_str())).collect()
    }
}

const UNKNOWN: i64 = 0;

impl Mirror {
    /// The keys of pages that are not known, as JSON pointers, each with the number of the projects whose page has it.
    pub fn unknown_keys(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let query = "SELECT text, count(*) FROM remark WHERE mirror = ?1 AND kind = ?2 GROUP BY text";
        let found = self.store.rows(query, (self.number, UNKNOWN), |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(found.into_iter().collect())
    }
}

impl Locked {
    /// Notes what the pages of these projects say and this program does not use, in place of what was noted of them before.
    pub fn note_remarks(&self, pages: &BTreeMap<ProjectName, Remarks>) -> Result<(), StoreError> {
        let mut other = Vec::new();
        for (project, remarks) in pages {
            let query = "SELECT kind, text FROM remark WHERE mirror = ?1 AND project = ?2";
            let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?));
            let noted: BTreeSet<_> =
                self.store.rows(query, (self.number, project.as_str()), read)?.into_iter().collect();
            if !noted.iter().map(|(kind, text)| (*kind, text.as_str())).eq(remarks.rows()) {
                other.push((project, remarks));
            }
        }
        if other.is_empty() {
            return Ok(());
        }
        self.store.transaction(|transaction| {
            let run = || {
                let forget = "DELETE FROM remark WHERE mirror = ?1 AND project = ?2";
                execute_each(transaction, forget, &other, |(project, _)| (self.number, project.as_str()))?;
                let note = "INSERT INTO remark (mirror, project, kind, text) VALUES (?1, ?2, ?3, ?4)";
                let rows = |(project, remarks): &(&ProjectName, &Remarks)| {
                    execute_each(transaction, note, remarks.rows(), |(kind, text)| {
                        (self.number, project.as_str(), kind, text)
                    })
                };
                other.iter().map(rows).sum::<rusqlite::Result<usize>>()
            };
            run().map(drop).map_err(self.store.sql())
        })
    }
}
