//! What upstream's pages say and this program does not use, for `status` and `show`.
//!
//! It is noted when a page is read, whether a snapshot comes to show the page or not; the next reading takes its place.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Row;
use strandline_model::ProjectName;

use crate::rows::{execute_each, parsed};
use crate::{Locked, Mirror, StoreError};

/// How many keys are noted of a project.
const KEYS_MOST: usize = 32;

/// What the page of a project says and this program does not use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remarks {
    /// The keys that are not known, as JSON pointers; of many, the first ones.
    pub unknown: BTreeSet<String>,
    /// What of it cannot be used, in words; of much, the first.
    pub skipped: BTreeSet<String>,
    /// How much that is.
    pub skipped_count: u64,
}

impl Remarks {
    /// Adds something that cannot be used, in words; of much, only that it is there.
    pub fn add_skipped(&mut self, what: String) {
        if self.skipped.contains(&what) {
            return;
        }
        self.skipped_count += 1;
        if self.skipped.len() < KEYS_MOST {
            self.skipped.insert(what);
        }
    }

    /// The rows that say so: a kind and a text each.
    fn rows(&self) -> BTreeSet<(i64, Cow<'_, str>)> {
        let unknown = self.unknown.iter().take(KEYS_MOST).map(|key| (UNKNOWN, key.into()));
        let skipped = self.skipped.iter().map(|what| (SKIPPED, what.into()));
        let count = (self.skipped_count > 0).then(|| (COUNT, self.skipped_count.to_string().into()));
        unknown.chain(skipped).chain(count).collect()
    }
}

/// The kinds of rows: a key that is not known, what is skipped, and how much is skipped.
const UNKNOWN: i64 = 0;
const SKIPPED: i64 = 1;
const COUNT: i64 = 2;

/// What is skipped of a project's page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SkippedOf {
    /// How much is.
    pub count: u64,
    /// What it is, in words; of much, the first.
    pub named: Vec<String>,
}

impl Mirror {
    /// The keys of pages that are not known, as JSON pointers, each with the number of the projects whose page has it.
    pub fn unknown_keys(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let query = "SELECT text, count(*) FROM remark WHERE mirror = ?1 AND kind = ?2 GROUP BY text";
        let found = self.store.rows(query, (self.number, UNKNOWN), |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(found.into_iter().collect())
    }

    /// What is skipped of the pages that were read last, by project.
    pub fn skipped(&self) -> Result<BTreeMap<ProjectName, SkippedOf>, StoreError> {
        self.query_skipped("SELECT project, kind, text FROM remark WHERE mirror = ?1 AND kind > 0 AND ?2 IS NULL", None)
    }

    /// What is skipped of a project's page.
    pub fn skipped_of(&self, project: &ProjectName) -> Result<SkippedOf, StoreError> {
        let query = "SELECT project, kind, text FROM remark WHERE mirror = ?1 AND project = ?2 AND kind > 0";
        Ok(self.query_skipped(query, Some(project))?.remove(project).unwrap_or_default())
    }

    fn query_skipped(
        &self,
        query: &str,
        project: Option<&ProjectName>,
    ) -> Result<BTreeMap<ProjectName, SkippedOf>, StoreError> {
        let read = |row: &Row<'_>| Ok((parsed(row, 0)?, row.get(1)?, row.get::<_, String>(2)?));
        let mut skipped: BTreeMap<ProjectName, SkippedOf> = BTreeMap::new();
        for (project, kind, text) in self.store.rows(query, (self.number, project.map(ProjectName::as_str)), read)? {
            let of = skipped.entry(project).or_default();
            match kind {
                COUNT => of.count = text.parse().unwrap_or(0),
                _ => of.named.push(text),
            }
        }
        Ok(skipped)
    }
}

impl Locked {
    /// Notes what the pages of these projects say and this program does not use, in place of what was noted of them before.
    pub fn note_remarks(&self, pages: &BTreeMap<ProjectName, Remarks>) -> Result<(), StoreError> {
        let nothing = Remarks::default();
        // Mostly there is nothing to say, and was nothing.
        let any = "SELECT EXISTS (SELECT 1 FROM remark WHERE mirror = ?1)";
        if pages.values().all(|remarks| *remarks == nothing) && !self.store.says(any, [self.number])? {
            return Ok(());
        }
        let mut other = Vec::new();
        for (project, remarks) in pages {
            let query = "SELECT kind, text FROM remark WHERE mirror = ?1 AND project = ?2";
            let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?));
            let noted: BTreeSet<_> =
                self.store.rows(query, (self.number, project.as_str()), read)?.into_iter().collect();
            if !noted
                .iter()
                .map(|(kind, text)| (*kind, text.as_str()))
                .eq(remarks.rows().iter().map(|(kind, text)| (*kind, &**text)))
            {
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
