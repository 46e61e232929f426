//! What is withdrawn: by whom, when and why, and what is still to be done because of it.
//!
//! What always holds:
//!
//! 1. The record is only added to: triggers refuse anything else. The newest row about a file decides whether it is
//!    withdrawn from a mirror.
//! 2. Together with the record, the catalog says which mirrors are to be gone through ([`Store::purging`]); a mirror is
//!    taken off that list when it is done, so that what a crash interrupts is finished.
//! 3. The catalog notes which pages lack a withdrawn file, so that letting it back makes the next sync read these pages
//!    again.
//!
//! The order in which a withdrawal goes through a mirror, each step durable before the next: links of the pool
//! ([`Mirror::remove_links`]); revisions without the file, committed and verified like any snapshot; the note that they
//! take the place of the old ones ([`Locked::supersede`]); the view; and after the last mirror the bytes
//! ([`Store::delete_withdrawn`]). A step that is repeated does nothing a second time.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use rusqlite::{Connection, Row};
use strandline_model::{Blake3, ClaimedSha256, MirrorName, ProjectName, Sha256, Timestamp};

use crate::bodies::Bodies;
use crate::rows::{blake3, execute_each, parsed, parsed_or_null, row, rows, sha256, time};
use crate::{Locked, Mirror, Store, StoreError};

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

impl Store {
    /// The record of everything that was ever withdrawn and let back, the oldest first.
    pub fn withdrawals(&self) -> Result<Vec<Withdrawal>, StoreError> {
        let query =
            "SELECT mirror, sha256, undone, project, filename, time, who, reason FROM withdrawal ORDER BY number";
        self.rows(query, [], |row| {
            let name = match (parsed_or_null(row, 3)?, row.get(4)?) {
                (Some(project), Some(filename)) => Some((project, filename)),
                _ => None,
            };
            Ok(Withdrawal {
                order: Order {
                    scope: parsed_or_null(row, 0)?,
                    time: time(row, 5)?,
                    who: row.get(6)?,
                    reason: row.get(7)?,
                },
                file: WithdrawnFile { sha256: claimed(row, 1)?, name },
                undone: row.get(2)?,
            })
        })
    }

    /// What is withdrawn now from a mirror of this name, whether or not there is one yet.
    pub fn withdrawn_from(&self, mirror: &MirrorName) -> Result<BTreeSet<ClaimedSha256>, StoreError> {
        let query = "SELECT sha256 FROM withdrawal w WHERE undone = 0 AND (mirror IS NULL OR mirror = ?1)
              AND NOT EXISTS (SELECT 1 FROM withdrawal later WHERE later.sha256 = w.sha256
                AND later.number > w.number AND (later.mirror IS NULL OR later.mirror = ?1))";
        Ok(self.rows(query, [mirror.as_str()], |row| claimed(row, 0))?.into_iter().collect())
    }

    /// Records that files are withdrawn, and that the mirrors of the order's scope are to be gone through. Files that
    /// are withdrawn already get no second row. Returns how many were not. This does not wait for a process that has a
    /// mirror locked: that process goes through the mirror itself.
    pub fn withdraw(&self, order: &Order, files: &[WithdrawnFile]) -> Result<usize, StoreError> {
        self.transaction(|transaction| {
            let run = || {
                let mut new = 0;
                for file in files {
                    new += usize::from(record_withdrawal(transaction, order, file, false)?);
                }
                let scope = order.scope.as_ref().map(MirrorName::as_str);
                let mirrors = "INSERT OR IGNORE INTO purging (mirror)
                    SELECT id FROM mirror WHERE removing = 0 AND (?1 IS NULL OR name = ?1)";
                transaction.execute(mirrors, [scope])?;
                transaction.execute("INSERT OR IGNORE INTO purging_bytes (one) VALUES (1)", [])?;
                Ok(new)
            };
            run().map_err(self.sql())
        })
    }

    /// Records that files are let back, and that the next syncs of these mirrors, which are those of the order's scope, read the
    /// pages again that lack them. Returns how many were withdrawn.
    pub fn let_back(&self, order: &Order, files: &[WithdrawnFile], mirrors: &[Locked]) -> Result<usize, StoreError> {
        self.transaction(|transaction| {
            let run = || {
                let mut changed = 0;
                for file in files {
                    if !record_withdrawal(transaction, order, file, true)? {
                        continue;
                    }
                    changed += 1;
                    for query in [
                        "INSERT OR IGNORE INTO reread (mirror, project)
                         SELECT mirror, project FROM left_out WHERE sha256 = ?1 AND mirror = ?2",
                        // Upstream would say that the page is still the same.
                        "DELETE FROM validator WHERE mirror = ?2 AND project IN
                           (SELECT project FROM left_out WHERE sha256 = ?1 AND mirror = ?2)",
                        "DELETE FROM left_out WHERE sha256 = ?1 AND mirror = ?2",
                    ] {
                        execute_each(transaction, query, mirrors, |mirror| (*file.sha256.as_bytes(), mirror.number))?;
                    }
                }
                Ok(changed)
            };
            run().map_err(self.sql())
        })
    }

    /// The names of the mirrors that are still to be gone through, sorted.
    pub fn purging(&self) -> Result<Vec<MirrorName>, StoreError> {
        let query = "SELECT m.name FROM purging p JOIN mirror m ON m.id = p.mirror ORDER BY m.name";
        self.rows(query, [], |row| parsed(row, 0))
    }

    /// Whether anything is still to be done because of a withdrawal.
    pub fn is_purging(&self) -> Result<bool, StoreError> {
        self.says("SELECT EXISTS (SELECT 1 FROM purging) OR EXISTS (SELECT 1 FROM purging_bytes)", [])
    }

    /// Deletes the bytes of withdrawn files, as far as nothing else needs them: no snapshot that is served, no page
    /// that waits for one, no sync that is running of a mirror from which it is not withdrawn. Does nothing as long as
    /// a mirror is still to be gone through. `gc` later deletes the bytes that have to stay now. Returns how many blobs
    /// went.
    pub fn delete_withdrawn(self: &Arc<Self>, now: Timestamp) -> Result<usize, StoreError> {
        if !self.is_purging()? || !self.purging()?.is_empty() {
            return Ok(0);
        }
        let before = self.sequence()?;
        let going = self.unneeded_of_withdrawn()?;
        let gone = {
            let _deleting = self.lock_deletions()?;
            let marked = self.transaction(|transaction| {
                // A sync that has begun meanwhile may have found one of these blobs: then they are left to gc.
                let number: i64 =
                    transaction.query_row("SELECT value FROM sequence", [], |row| row.get(0)).map_err(self.sql())?;
                if number != before {
                    return Ok::<_, StoreError>(0);
                }
                let number = self.next_in_sequence(transaction)?;
                let mark = "UPDATE blob SET condemned = ?2, condemned_in = ?3, deleting = 1 WHERE blake3 = ?1";
                execute_each(transaction, mark, &going, |blob| (*blob.as_bytes(), now.seconds(), number))
                    .map_err(self.sql())?;
                Ok(going.len())
            })?;
            crate::gc::delete_marked(self)?;
            marked
        };
        self.execute("DELETE FROM purging_bytes", [])?;
        Ok(gone)
    }

    /// The blobs that are withdrawn from some mirror, and that nothing needs.
    fn unneeded_of_withdrawn(self: &Arc<Self>) -> Result<HashSet<Blake3>, StoreError> {
        let query = "SELECT DISTINCT b.blake3, b.sha256 FROM withdrawal w JOIN blob b ON b.sha256 = w.sha256
            WHERE w.undone = 0 AND b.deleting = 0
              AND NOT EXISTS (SELECT 1 FROM withdrawal later WHERE later.sha256 = w.sha256
                AND later.number > w.number AND (later.mirror IS NULL OR later.mirror = w.mirror))";
        let mut going = HashSet::new();
        // A sync that is running may have found it, and comes before a snapshot.
        let running = self.intakes()?;
        for (blob, sha256) in self.rows(query, [], |row| Ok((blake3(row, 0)?, sha256(row, 1)?)))? {
            let mut is_free = true;
            for mirror in running.keys() {
                is_free &= self.is_withdrawn_from(mirror, sha256)?;
            }
            if is_free {
                going.insert(blob);
            }
        }
        for mirror in self.mirrors()? {
            if going.is_empty() {
                break;
            }
            let naming = mirror.naming_units(&|unit| unit.entries().iter().any(|entry| going.contains(&entry.blob)))?;
            for unit in naming.iter().flat_map(|naming| &naming.projects).filter_map(|leaf| leaf.unit) {
                for entry in self.unit(unit)?.entries() {
                    going.remove(&entry.blob);
                }
            }
            for page in mirror.seen()? {
                for entry in page.unit.entries() {
                    going.remove(&entry.blob);
                }
            }
        }
        Ok(going)
    }

    fn sequence(&self) -> Result<i64, StoreError> {
        self.connection().query_row("SELECT value FROM sequence", [], |row| row.get(0)).map_err(self.sql())
    }

    /// Whether a file is withdrawn now from a mirror of this name, whether or not there is one yet.
    pub fn is_withdrawn_from(&self, mirror: &MirrorName, sha256: Sha256) -> Result<bool, StoreError> {
        let decides = "SELECT undone FROM withdrawal WHERE sha256 = ?2 AND (mirror IS NULL OR mirror = ?1)
            ORDER BY number DESC LIMIT 1";
        let undone = self.row(decides, (mirror.as_str(), sha256.as_bytes()), |row| row.get(0))?;
        Ok(undone == Some(false))
    }
}

impl Mirror {
    /// What is withdrawn from the mirror now.
    pub fn withdrawn(&self) -> Result<BTreeSet<ClaimedSha256>, StoreError> {
        self.store.withdrawn_from(&self.name)
    }

    /// Whether a file is withdrawn from the mirror now.
    pub fn is_withdrawn(&self, sha256: Sha256) -> Result<bool, StoreError> {
        self.store.is_withdrawn_from(&self.name, sha256)
    }
}

impl Locked {
    /// Records that nothing that is withdrawn from the mirror is served from it any more.
    pub fn purged(&self) -> Result<(), StoreError> {
        self.store.execute("DELETE FROM purging WHERE mirror = ?1", [self.number]).map(drop)
    }

    /// Notes that a project's page lacks files because they are withdrawn.
    pub fn note_left_out(&self, project: &ProjectName, files: &BTreeSet<ClaimedSha256>) -> Result<(), StoreError> {
        let known = "SELECT sha256 FROM left_out WHERE mirror = ?1 AND project = ?2";
        let known = self.store.rows(known, (self.number, project.as_str()), |row| claimed(row, 0))?;
        if files.iter().all(|sha256| known.contains(sha256)) {
            return Ok(());
        }
        self.store.transaction(|transaction| {
            let note = "INSERT OR IGNORE INTO left_out (mirror, project, sha256) VALUES (?1, ?2, ?3)";
            execute_each(transaction, note, files, |sha256| (self.number, project.as_str(), *sha256.as_bytes()))
                .map(drop)
                .map_err(self.store.sql())
        })
    }

    /// Forgets the pages that wait for a snapshot and name what is withdrawn from the mirror: they are read again.
    pub fn forget_withdrawn_pages(&self) -> Result<(), StoreError> {
        let withdrawn = self.withdrawn()?;
        let forgotten: Vec<i64> = {
            let connection = self.store.connection();
            let waiting = "SELECT number, unit FROM seen WHERE mirror = ?1";
            let waiting = rows(&connection, waiting, [self.number], |row| Ok((row.get(0)?, blake3(row, 1)?)));
            let bodies = Bodies { store: &self.store, connection: &connection };
            let mut forgotten = Vec::new();
            for (number, unit) in waiting.map_err(self.store.sql())? {
                if bodies.unit(unit)?.entries().iter().any(|entry| withdrawn.contains(&entry.sha256.into())) {
                    forgotten.push(number);
                }
            }
            forgotten
        };
        if forgotten.is_empty() {
            return Ok(());
        }
        self.store.transaction(|transaction| {
            execute_each(transaction, "DELETE FROM seen WHERE number = ?1", forgotten, |number| [number])
                .map(drop)
                .map_err(self.store.sql())
        })
    }
}

/// Adds a row, unless the record says the same already. Returns whether it did not.
fn record_withdrawal(
    connection: &Connection,
    order: &Order,
    file: &WithdrawnFile,
    undone: bool,
) -> rusqlite::Result<bool> {
    let Order { scope, time, who, reason } = order;
    let scope = scope.as_ref().map(MirrorName::as_str);
    // For all mirrors: a row about one of them may say something else than the one about all before it.
    let newest = if scope.is_some() {
        "SELECT undone, 1 FROM withdrawal WHERE sha256 = ?2 AND (mirror IS NULL OR mirror = ?1)
         ORDER BY number DESC LIMIT 1"
    } else {
        "SELECT undone, mirror IS NULL FROM withdrawal WHERE sha256 = ?2 AND ?1 IS NULL
         ORDER BY number DESC LIMIT 1"
    };
    let found: Option<(bool, bool)> =
        row(connection, newest, (scope, file.sha256.as_bytes()), |row| Ok((row.get(0)?, row.get(1)?)))?;
    if found.map_or(undone, |(found, of_scope)| found == undone && of_scope) {
        return Ok(false);
    }
    let project = file.name.as_ref().map(|(project, _)| project.as_str());
    let filename = file.name.as_ref().map(|(_, filename)| filename);
    let insert = "INSERT INTO withdrawal (mirror, sha256, undone, project, filename, time, who, reason)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let row = (scope, file.sha256.as_bytes(), undone, project, filename, time.seconds(), who, reason);
    connection.prepare_cached(insert)?.execute(row)?;
    Ok(true)
}

/// The digest in this column came from a claim, or from computed bytes, and a computed digest may count as a claim.
fn claimed(row: &Row<'_>, column: usize) -> rusqlite::Result<ClaimedSha256> {
    sha256(row, column).map(Into::into)
}
