//! What is withdrawn: by whom, when and why, and what is still to be done because of it.
//!
//! What always holds:
//!
//! 1. The record is only added to: triggers refuse anything else. The newest row about a file decides whether it is
//!    withdrawn from a mirror.
//! 2. Together with the record, the catalog says which mirrors are to be gone through ([`Store::purging`]); a mirror is
//!    taken off that list when it is done, so that what a crash interrupts is finished.
//! 3. What is left out of a page because of it is noted, so that letting it back makes the next sync read that page again.

use std::collections::BTreeSet;

use rusqlite::OptionalExtension as _;
use strandline_model::{ClaimedSha256, MirrorName, ProjectName, Sha256, Timestamp};

use crate::bodies::Bodies;
use crate::{MirrorLock, Store, StoreError};

/// Who wants it, when and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The mirror that it is about; all if it is `None`, those that come later too.
    pub scope: Option<MirrorName>,
    /// When.
    pub time: Timestamp,
    /// Who.
    pub who: String,
    /// Why, if they said so.
    pub reason: Option<String>,
}

/// A file to withdraw or to let back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WithdrawnFile {
    /// What it is.
    pub sha256: ClaimedSha256,
    /// The project and the name that it had where it was found; `None` where it was found nowhere.
    pub name: Option<(ProjectName, String)>,
}

/// A row of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawal {
    /// Who, when and why, and of which mirror.
    pub order: Order,
    /// Of what.
    pub file: WithdrawnFile,
    /// Whether it was let back.
    pub undone: bool,
}

/// The row that decides about a file of a mirror: `?1` is the mirror's name, `?2` the SHA-256.
const DECIDES: &str = "SELECT undone FROM withdrawal WHERE sha256 = ?2 AND (mirror IS NULL OR mirror = ?1)
                       ORDER BY number DESC LIMIT 1";

impl Store {
    /// The record of everything that was ever withdrawn and let back, the oldest first.
    pub fn withdrawals(&self) -> Result<Vec<Withdrawal>, StoreError> {
        struct Row {
            mirror: Option<String>,
            sha256: [u8; 32],
            undone: bool,
            project: Option<String>,
            filename: Option<String>,
            time: i64,
            who: String,
            reason: Option<String>,
        }
        let rows: Vec<Row> = self
            .connection()
            .prepare_cached(
                "SELECT mirror, sha256, undone, project, filename, time, who, reason FROM withdrawal ORDER BY number",
            )
            .and_then(|mut statement| {
                let row = |row: &rusqlite::Row<'_>| {
                    Ok(Row {
                        mirror: row.get(0)?,
                        sha256: row.get(1)?,
                        undone: row.get(2)?,
                        project: row.get(3)?,
                        filename: row.get(4)?,
                        time: row.get(5)?,
                        who: row.get(6)?,
                        reason: row.get(7)?,
                    })
                };
                statement.query_map([], row)?.collect()
            })
            .map_err(self.sql())?;
        rows.into_iter()
            .map(|row| {
                let name = match (row.project, row.filename) {
                    (Some(project), Some(filename)) => Some((self.stored(&project)?, filename)),
                    _ => None,
                };
                Ok(Withdrawal {
                    order: Order {
                        scope: row.mirror.map(|mirror| self.stored(&mirror)).transpose()?,
                        time: self.stored_time(row.time)?,
                        who: row.who,
                        reason: row.reason,
                    },
                    file: WithdrawnFile { sha256: claimed(row.sha256), name },
                    undone: row.undone,
                })
            })
            .collect()
    }

    /// What is withdrawn from a mirror now.
    pub fn withdrawn(&self, mirror: &MirrorName) -> Result<BTreeSet<ClaimedSha256>, StoreError> {
        let rows: Vec<[u8; 32]> = self
            .connection()
            .prepare_cached(
                "SELECT sha256 FROM withdrawal w WHERE undone = 0 AND (mirror IS NULL OR mirror = ?1)
                   AND NOT EXISTS (SELECT 1 FROM withdrawal later WHERE later.sha256 = w.sha256
                     AND later.number > w.number AND (later.mirror IS NULL OR later.mirror = ?1))",
            )
            .and_then(|mut statement| statement.query_map([mirror.as_str()], |row| row.get(0))?.collect())
            .map_err(self.sql())?;
        Ok(rows.into_iter().map(claimed).collect())
    }

    /// Whether a file is withdrawn from a mirror now.
    pub fn is_withdrawn(&self, mirror: &MirrorName, sha256: Sha256) -> Result<bool, StoreError> {
        let undone: Option<bool> = self
            .connection()
            .prepare_cached(DECIDES)
            .and_then(|mut statement| {
                statement.query_row((mirror.as_str(), sha256.as_bytes()), |row| row.get(0)).optional()
            })
            .map_err(self.sql())?;
        Ok(undone == Some(false))
    }

    /// Records that files are withdrawn, and that the mirrors of the order's scope are to be gone through. Files that are
    /// withdrawn already get no second row. Returns how many were not.
    pub fn withdraw(&self, order: &Order, files: &[WithdrawnFile]) -> Result<usize, StoreError> {
        self.transaction(|transaction| {
            let mut new = 0;
            for file in files {
                new += usize::from(self.record_withdrawal(transaction, order, file, false)?);
            }
            let run = || {
                let mut note = transaction.prepare("INSERT OR IGNORE INTO purging (mirror) VALUES (?1)")?;
                // A mirror whose first sync is running has no row yet.
                let names: Vec<String> = transaction
                    .prepare("SELECT name FROM mirror WHERE removing = 0 UNION SELECT mirror FROM intake")?
                    .query_map([], |row| row.get(0))?
                    .collect::<Result<_, _>>()?;
                let in_scope =
                    |name: &&String| order.scope.as_ref().is_none_or(|scope| scope.as_str() == name.as_str());
                for name in names.iter().filter(in_scope) {
                    note.execute([name])?;
                }
                note.execute([""]).map(drop)
            };
            run().map_err(self.sql())?;
            Ok(new)
        })
    }

    /// Records that files are let back, and that the next syncs read the pages again that lack them. Nobody withdraws from
    /// or syncs the mirrors of the order's scope meanwhile. Returns how many were withdrawn.
    pub fn let_back(&self, order: &Order, files: &[WithdrawnFile], _locks: &[MirrorLock]) -> Result<usize, StoreError> {
        self.transaction(|transaction| {
            let mut changed = 0;
            for file in files {
                if !self.record_withdrawal(transaction, order, file, true)? {
                    continue;
                }
                changed += 1;
                let scope = order.scope.as_ref().map(MirrorName::as_str);
                for query in [
                    "INSERT OR IGNORE INTO reread (mirror, project) SELECT mirror, project FROM left_out
                     WHERE sha256 = ?1 AND (?2 IS NULL OR mirror = ?2)",
                    // Upstream would say that the page is still the same.
                    "DELETE FROM validator WHERE (mirror, project) IN (SELECT m.id, l.project FROM left_out l
                       JOIN mirror m ON m.name = l.mirror WHERE l.sha256 = ?1 AND (?2 IS NULL OR l.mirror = ?2))",
                    "DELETE FROM left_out WHERE sha256 = ?1 AND (?2 IS NULL OR mirror = ?2)",
                ] {
                    transaction.execute(query, (file.sha256.as_bytes(), scope)).map_err(self.sql())?;
                }
            }
            Ok(changed)
        })
    }

    /// Adds a row, unless the record says the same already. Returns whether it did not.
    fn record_withdrawal(
        &self,
        connection: &rusqlite::Connection,
        order: &Order,
        file: &WithdrawnFile,
        undone: bool,
    ) -> Result<bool, StoreError> {
        let scope = order.scope.as_ref().map(MirrorName::as_str);
        let newest = |query: &str| {
            connection
                .prepare_cached(query)
                .and_then(|mut statement| {
                    statement
                        .query_row((scope, file.sha256.as_bytes()), |row| {
                            Ok((row.get::<_, bool>(0)?, row.get::<_, bool>(1)?))
                        })
                        .optional()
                })
                .map_err(self.sql())
        };
        let same = if scope.is_some() {
            let found = newest(
                "SELECT undone, 1 FROM withdrawal WHERE sha256 = ?2 AND (mirror IS NULL OR mirror = ?1)
                 ORDER BY number DESC LIMIT 1",
            )?;
            found.map_or(undone, |(found, _)| found == undone)
        } else {
            // For all mirrors: a row about one of them may say something else than the one about all before it.
            let found = newest(
                "SELECT undone, mirror IS NULL FROM withdrawal WHERE sha256 = ?2 AND ?1 IS NULL
                 ORDER BY number DESC LIMIT 1",
            )?;
            found.map_or(undone, |(found, of_all)| found == undone && of_all)
        };
        if same {
            return Ok(false);
        }
        let (project, filename) = match &file.name {
            Some((project, filename)) => (Some(project.as_str()), Some(filename.as_str())),
            None => (None, None),
        };
        connection
            .prepare_cached(
                "INSERT INTO withdrawal (mirror, sha256, undone, project, filename, time, who, reason)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )
            .and_then(|mut statement| {
                let Order { time, who, reason, .. } = order;
                statement.execute((
                    scope,
                    file.sha256.as_bytes(),
                    undone,
                    project,
                    filename,
                    time.seconds(),
                    who,
                    reason,
                ))
            })
            .map_err(self.sql())?;
        Ok(true)
    }

    /// The mirrors that are still to be gone through, sorted by name.
    pub fn purging(&self) -> Result<Vec<MirrorName>, StoreError> {
        let names: Vec<String> = self
            .connection()
            .prepare_cached("SELECT mirror FROM purging WHERE mirror <> '' ORDER BY mirror")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .map_err(self.sql())?;
        names.iter().map(|name| self.stored(name)).collect()
    }

    /// Whether anything is still to be done because of a withdrawal.
    pub fn is_purging(&self) -> Result<bool, StoreError> {
        let query = "SELECT EXISTS (SELECT 1 FROM purging)";
        self.connection().query_row(query, [], |row| row.get(0)).map_err(self.sql())
    }

    /// Records that nothing that is withdrawn from a mirror is served from it any more.
    pub fn purged(&self, mirror: &MirrorName, _lock: &MirrorLock) -> Result<(), StoreError> {
        self.finish_purging(mirror.as_str())
    }

    pub(crate) fn finish_purging(&self, name: &str) -> Result<(), StoreError> {
        self.transaction(|transaction| {
            transaction.execute("DELETE FROM purging WHERE mirror = ?1", [name]).map_err(self.sql())
        })?;
        Ok(())
    }

    /// Notes that a project's page lacks files because they are withdrawn.
    pub fn note_left_out(
        &self,
        mirror: &MirrorName,
        project: &ProjectName,
        files: &BTreeSet<ClaimedSha256>,
    ) -> Result<(), StoreError> {
        let known: Vec<[u8; 32]> = self
            .connection()
            .prepare_cached("SELECT sha256 FROM left_out WHERE mirror = ?1 AND project = ?2")
            .and_then(|mut statement| {
                statement.query_map([mirror.as_str(), project.as_str()], |row| row.get(0))?.collect()
            })
            .map_err(self.sql())?;
        if files.iter().all(|sha256| known.contains(sha256.as_bytes())) {
            return Ok(());
        }
        self.transaction(|transaction| {
            let mut note = transaction
                .prepare_cached("INSERT OR IGNORE INTO left_out (mirror, project, sha256) VALUES (?1, ?2, ?3)")
                .map_err(self.sql())?;
            files
                .iter()
                .try_for_each(|sha256| note.execute((mirror.as_str(), project.as_str(), sha256.as_bytes())).map(drop))
                .map_err(self.sql())
        })
    }

    /// Notes that the next sync of a mirror has to read a project's page, whatever the changelog says.
    pub fn note_reread(&self, mirror: &MirrorName, project: &ProjectName) -> Result<(), StoreError> {
        self.transaction(|transaction| {
            transaction
                .execute(
                    "INSERT OR IGNORE INTO reread (mirror, project) VALUES (?1, ?2)",
                    [mirror.as_str(), project.as_str()],
                )
                .map_err(self.sql())
        })?;
        Ok(())
    }

    /// The projects whose pages the next sync of a mirror has to read, whatever the changelog says.
    pub fn to_reread(&self, mirror: &MirrorName) -> Result<BTreeSet<ProjectName>, StoreError> {
        let names: Vec<String> = self
            .connection()
            .prepare_cached("SELECT project FROM reread WHERE mirror = ?1")
            .and_then(|mut statement| statement.query_map([mirror.as_str()], |row| row.get(0))?.collect())
            .map_err(self.sql())?;
        names.iter().map(|name| self.stored(name)).collect()
    }

    /// Notes that these pages were read.
    pub fn was_reread(
        &self,
        mirror: &MirrorName,
        projects: &BTreeSet<ProjectName>,
        _lock: &MirrorLock,
    ) -> Result<(), StoreError> {
        if projects.is_empty() {
            return Ok(());
        }
        self.transaction(|transaction| {
            let mut forget = transaction
                .prepare_cached("DELETE FROM reread WHERE mirror = ?1 AND project = ?2")
                .map_err(self.sql())?;
            projects
                .iter()
                .try_for_each(|project| forget.execute([mirror.as_str(), project.as_str()]).map(drop))
                .map_err(self.sql())
        })
    }

    /// Forgets the pages that wait for a snapshot and name what is withdrawn from their mirror: they are read again.
    pub fn forget_withdrawn_pages(&self) -> Result<(), StoreError> {
        let waiting: Vec<(i64, String, [u8; 32])> = self
            .connection()
            .prepare_cached("SELECT number, mirror, unit FROM seen ORDER BY mirror")
            .and_then(|mut statement| {
                statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
            })
            .map_err(self.sql())?;
        let mut files = (String::new(), BTreeSet::new());
        let mut forgotten = Vec::new();
        for (number, mirror, unit) in waiting {
            if files.0 != mirror {
                files = (mirror.clone(), self.withdrawn(&self.stored(&mirror)?)?);
            }
            let unit = {
                let connection = self.connection();
                Bodies { store: self, connection: &connection }.unit(strandline_model::Blake3::from_stored(unit))?
            };
            if unit.entries().iter().any(|entry| files.1.contains(&entry.sha256.into())) {
                forgotten.push(number);
            }
        }
        if forgotten.is_empty() {
            return Ok(());
        }
        self.transaction(|transaction| {
            let mut forget = transaction.prepare("DELETE FROM seen WHERE number = ?1").map_err(self.sql())?;
            forgotten.iter().try_for_each(|number| forget.execute([number]).map(drop)).map_err(self.sql())
        })
    }
}

fn claimed(stored: [u8; 32]) -> ClaimedSha256 {
    // What the catalog has under that name came from a claim or from a computed digest, which may be claimed.
    Sha256::from_stored(stored).into()
}
