//! What a sync remembers of a mirror between two snapshots, and from one sync to the next.
//!
//! The transaction from which on a snapshot counts as verified also concludes what the sync remembered on the way to it
//! ([`Conclusion`]). It is not the one that commits the snapshot, because a snapshot that does not pass, or that a process
//! which died had not verified, can be dropped: then all that was remembered is still needed. Where the next process
//! verifies it instead, the notes stay one sync longer, which costs nothing.

use std::collections::BTreeSet;

use rusqlite::Connection;
use strandline_model::{Blake3, ProjectName, RecordBodies, RecordId, Serial, Timestamp, Unit, UpstreamUrl};

use crate::bodies::Bodies;
use crate::packs::NewPack;
use crate::rows::{blake3, execute_each, parsed, rows, serial, time};
use crate::{DraftUnit, Locked, Mirror, StoreError, Subject};

/// How the last sync of a mirror ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastSync {
    /// When.
    pub time: Timestamp,
    /// Why it published nothing, if so.
    pub failure: Option<String>,
    /// How far the cut got, where there is a changelog.
    pub cut: Option<CutReport>,
}

/// How far a cut by changelog got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutReport {
    /// The head of the log.
    pub head: Serial,
    /// When the oldest event happened that is not in the snapshot, by upstream's clock.
    pub behind: Option<Timestamp>,
    /// How many rounds of pages and log it took.
    pub rounds: u32,
}

/// A page that was fetched and that no snapshot shows yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenPage {
    /// The project, as a unit like that of a snapshot.
    pub unit: Unit,
    /// The serial of the page that the unit shows.
    pub serial: Serial,
    /// With what to ask whether the page is still the same.
    pub tag: Option<String>,
}

/// A page that is remembered, without what it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRow {
    /// The project.
    pub project: ProjectName,
    /// The unit that shows it.
    pub unit: Blake3,
    /// The record that the unit shows.
    pub record: RecordId,
    /// Whether the root lists would name it.
    pub listed: bool,
    /// The serial of the page.
    pub serial: Serial,
}

/// With what to ask upstream whether a page is still the one that a unit shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validation {
    /// The project.
    pub project: ProjectName,
    /// The unit that was made from the page.
    pub unit: Blake3,
    /// The entity tag that came with the page.
    pub tag: String,
}

/// How the notes of a sync end, once there is a snapshot that shows what they say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conclusion {
    /// With what to ask for pages from now on.
    pub validations: Vec<Validation>,
    /// Whether every project was read anew, as by a first sync and as [`Locked::reset`] asks. Such a sync parks its pages, so the
    /// entity tags of the pages that are remembered count from now on, too.
    pub anew: bool,
    /// The projects whose remembered pages the next sync still needs. All others are forgotten.
    pub later: BTreeSet<ProjectName>,
    /// The projects whose adopted files still wait for a snapshot: those that are held. All others are forgotten.
    pub held: BTreeSet<ProjectName>,
    /// The projects that had to be read again and were.
    pub reread: BTreeSet<ProjectName>,
    /// What the mirror had seen for long enough, and has acted on: it is forgotten.
    pub acted_on: BTreeSet<Subject>,
}

impl Mirror {
    /// The serials up to that of the newest snapshot that upstream's log had not shown when it was made.
    pub fn missing_serials(&self) -> Result<BTreeSet<Serial>, StoreError> {
        let query = "SELECT serial FROM missing_serial WHERE mirror = ?1";
        Ok(self.store.rows(query, [self.number], |row| serial(row, 0))?.into_iter().collect())
    }

    /// The pages that are remembered, in the order in which they were.
    pub fn seen(&self) -> Result<Vec<SeenPage>, StoreError> {
        self.query_seen(None)
    }

    /// Those of one project.
    pub fn seen_of(&self, project: &ProjectName) -> Result<Vec<SeenPage>, StoreError> {
        self.query_seen(Some(project))
    }

    fn query_seen(&self, project: Option<&ProjectName>) -> Result<Vec<SeenPage>, StoreError> {
        let query = match project {
            None => "SELECT unit, serial, tag FROM seen WHERE mirror = ?1 AND ?2 IS NULL ORDER BY number",
            Some(_) => "SELECT unit, serial, tag FROM seen WHERE mirror = ?1 AND project = ?2 ORDER BY number",
        };
        let connection = self.store.connection();
        let found = rows(&connection, query, (self.number, project.map(ProjectName::as_str)), |row| {
            Ok((blake3(row, 0)?, serial(row, 1)?, row.get(2)?))
        });
        let bodies = Bodies { store: &self.store, connection: &connection };
        let found = found.map_err(self.store.sql())?.into_iter();
        found.map(|(unit, serial, tag)| Ok(SeenPage { unit: bodies.unit(unit)?, serial, tag })).collect()
    }

    /// The rows of the pages that are remembered, in the order in which they were, without what they show.
    pub fn seen_rows(&self) -> Result<Vec<SeenRow>, StoreError> {
        let query = "SELECT project, unit, serial, told, seen, listed FROM seen WHERE mirror = ?1 ORDER BY number";
        self.store.rows(query, [self.number], |row| {
            let record = RecordId { told: blake3(row, 3)?, seen: blake3(row, 4)? };
            let (project, unit, serial, listed) = (parsed(row, 0)?, blake3(row, 1)?, serial(row, 2)?, row.get(5)?);
            Ok(SeenRow { project, unit, record, listed, serial })
        })
    }

    /// How the last sync ended, if there was one.
    pub fn last_sync(&self) -> Result<Option<LastSync>, StoreError> {
        let query = "SELECT time, failure, head, behind, rounds FROM last_sync WHERE mirror = ?1";
        self.store.row(query, [self.number], |row| {
            let behind = row.get::<_, Option<i64>>(3)?.map(|_| time(row, 3)).transpose()?;
            let cut = match (row.get::<_, Option<u64>>(2)?, row.get(4)?) {
                (Some(_), Some(rounds)) => Some(CutReport { head: serial(row, 2)?, behind, rounds }),
                _ => None,
            };
            Ok(LastSync { time: time(row, 0)?, failure: row.get(1)?, cut })
        })
    }

    /// With what to ask upstream for a project's page, if that is known for the unit `unit`.
    pub fn validator(&self, project: &ProjectName, unit: Blake3) -> Result<Option<String>, StoreError> {
        let query = "SELECT tag FROM validator WHERE mirror = ?1 AND project = ?2 AND unit = ?3";
        self.store.row(query, (self.number, project.as_str(), unit.as_bytes()), |row| row.get(0))
    }

    /// The adopted projects that wait for a snapshot.
    pub fn adopted(&self) -> Result<BTreeSet<ProjectName>, StoreError> {
        self.projects_of("SELECT DISTINCT project FROM adopted WHERE mirror = ?1")
    }

    /// The projects whose pages the next sync has to read, even if the changelog has no event of them.
    pub fn to_reread(&self) -> Result<BTreeSet<ProjectName>, StoreError> {
        self.projects_of("SELECT project FROM reread WHERE mirror = ?1")
    }

    /// When a project that is unlogged last changed without an event; `None` where it is unlogged because a rebuild read it back.
    pub fn unlogged_since(&self, project: &ProjectName) -> Result<Option<Timestamp>, StoreError> {
        let query = "SELECT since FROM unlogged WHERE mirror = ?1 AND project = ?2";
        self.store.row(query, (self.number, project.as_str()), |row| time(row, 0))
    }

    fn projects_of(&self, query: &str) -> Result<BTreeSet<ProjectName>, StoreError> {
        Ok(self.store.rows(query, [self.number], |row| parsed(row, 0))?.into_iter().collect())
    }
}

impl Mirror {
    /// Whether the next sync begins as a first one does ([`Locked::reset`]).
    pub fn begins_anew(&self) -> Result<bool, StoreError> {
        self.store.says("SELECT anew FROM mirror WHERE id = ?1", [self.number])
    }
}

impl Locked {
    /// Says that what the mirror is a copy of has another URL from now on. Snapshots keep the one that they were made from.
    pub fn move_to(&self, upstream: &UpstreamUrl) -> Result<(), StoreError> {
        self.store.execute("UPDATE mirror SET upstream = ?2 WHERE id = ?1", (self.number, upstream.as_str())).map(drop)
    }

    /// Remembers pages until a snapshot shows what they do, each with its entity tag. The blobs that the units name have landed.
    pub fn record_seen(&self, pages: Vec<(DraftUnit, Option<String>)>) -> Result<(), StoreError> {
        if pages.is_empty() {
            return Ok(());
        }
        self.store.transaction(|transaction| {
            let bodies = Bodies { store: &self.store, connection: transaction };
            let remember = "INSERT INTO seen (mirror, project, unit, told, seen, listed, serial, tag)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                ON CONFLICT (mirror, project, unit) DO UPDATE SET serial = excluded.serial, tag = excluded.tag";
            let (mut rows, mut new) = (Vec::with_capacity(pages.len()), Vec::with_capacity(pages.len()));
            for (DraftUnit { unit, record, bodies: records, serial, listed, .. }, tag) in pages {
                let Some(unit) = unit else { continue };
                let bytes = unit.to_bytes();
                let (id, like) = (Blake3::of(&bytes), self.listed_unit(transaction, unit.name())?);
                let mut own: Vec<_> = records.into_iter().flat_map(RecordBodies::into_parts).collect();
                own.push((id, bytes));
                new.push(NewPack { bodies: own, like });
                let [id, told, seen] = [id, record.told, record.seen].map(|id| *id.as_bytes());
                rows.push((self.number, unit.name().to_string(), id, told, seen, listed, serial.get(), tag));
            }
            bodies.write_packs(new)?;
            execute_each(transaction, remember, rows, |row| row).map(drop).map_err(self.store.sql())
        })
    }

    /// Remembers projects as another program's tree had them, so that gc leaves the blobs alone that they name. Those have landed.
    pub fn record_adopted(&self, units: &[Unit]) -> Result<(), StoreError> {
        // Done again, there is nothing new to say.
        let mut new = Vec::new();
        for unit in units {
            let bytes = unit.to_bytes();
            let id = Blake3::of(&bytes);
            let known = "SELECT EXISTS (SELECT 1 FROM adopted WHERE mirror = ?1 AND project = ?2 AND unit = ?3)";
            if !self.store.says(known, (self.number, unit.name().as_str(), id.as_bytes()))? {
                new.push((unit.name(), id, bytes));
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        self.store.transaction(|transaction| {
            let bodies = Bodies { store: &self.store, connection: transaction };
            bodies.write_packs(new.iter_mut().map(|(_, id, bytes)| NewPack::of(*id, std::mem::take(bytes), None)))?;
            let remember = "INSERT OR IGNORE INTO adopted (mirror, project, unit) VALUES (?1, ?2, ?3)";
            let row = |(name, id, _): &(&ProjectName, Blake3, Vec<u8>)| {
                (self.number, name.as_str().to_owned(), *id.as_bytes())
            };
            execute_each(transaction, remember, &new, row).map(drop).map_err(self.store.sql())
        })
    }

    /// How far the sweep over the mirror's pages is: the last project (empty for none) and since when. Where there was no
    /// sweep yet, one begins `now`.
    pub fn sweep(&self, now: Timestamp) -> Result<(String, Timestamp), StoreError> {
        let query = "SELECT project, time FROM sweep WHERE mirror = ?1";
        match self.store.row(query, [self.number], |row| Ok((row.get(0)?, time(row, 1)?)))? {
            Some(found) => Ok(found),
            None => {
                self.record_sweep("", now)?;
                Ok((String::new(), now))
            }
        }
    }

    /// Remembers how far the sweep is.
    pub fn record_sweep(&self, project: &str, now: Timestamp) -> Result<(), StoreError> {
        let remember = "INSERT INTO sweep (mirror, project, time) VALUES (?1, ?2, ?3)
            ON CONFLICT (mirror) DO UPDATE SET project = excluded.project, time = excluded.time";
        self.store.execute(remember, (self.number, project, now.seconds())).map(drop)
    }

    /// Records how a sync ended.
    pub fn record_sync(&self, last: &LastSync) -> Result<(), StoreError> {
        let remember =
            "INSERT INTO last_sync (mirror, time, failure, head, behind, rounds) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT (mirror) DO UPDATE SET time = excluded.time, failure = excluded.failure,
              head = excluded.head, behind = excluded.behind, rounds = excluded.rounds";
        let LastSync { time, failure, cut } = last;
        let head = cut.map(|cut| cut.head.get());
        let behind = cut.and_then(|cut| cut.behind).map(Timestamp::seconds);
        let rounds = cut.map(|cut| cut.rounds);
        self.store.execute(remember, (self.number, time.seconds(), failure, head, behind, rounds)).map(drop)
    }

    /// Notes that the next sync has to read these projects' pages, even if the changelog has no event of them.
    pub fn note_reread(&self, projects: &[ProjectName]) -> Result<(), StoreError> {
        let note = "INSERT OR IGNORE INTO reread (mirror, project) VALUES (?1, ?2)";
        self.store.transaction(|transaction| {
            let row = |project: &ProjectName| (self.number, project.as_str().to_owned());
            execute_each(transaction, note, projects, row).map(drop).map_err(self.store.sql())
        })
    }

    /// Notes that these projects changed without an event: the next snapshot says that they are unlogged. A note about a project
    /// that no snapshot calls so has no consequence.
    pub fn note_unlogged(&self, projects: &BTreeSet<ProjectName>, now: Timestamp) -> Result<(), StoreError> {
        if projects.is_empty() {
            return Ok(());
        }
        let note = "INSERT INTO unlogged (mirror, project, since) VALUES (?1, ?2, ?3)
            ON CONFLICT (mirror, project) DO UPDATE SET since = excluded.since";
        self.store.transaction(|transaction| {
            let row = |project: &ProjectName| (self.number, project.as_str().to_owned(), now.seconds());
            execute_each(transaction, note, projects, row).map(drop).map_err(self.store.sql())
        })
    }

    /// Takes what upstream is asked with for the page of a project from one unit to another, of the same record: by project, with
    /// both.
    pub fn carry_validators(&self, units: &[(ProjectName, Blake3, Blake3)]) -> Result<(), StoreError> {
        let carry = "UPDATE validator SET unit = ?4 WHERE mirror = ?1 AND project = ?2 AND unit = ?3";
        self.store.transaction(|transaction| {
            let row = |(project, old, new): &(ProjectName, Blake3, Blake3)| {
                (self.number, project.as_str().to_owned(), *old.as_bytes(), *new.as_bytes())
            };
            execute_each(transaction, carry, units, row).map(drop).map_err(self.store.sql())
        })
    }

    /// Has the next sync begin as a first one does, with every blob and snapshot in place: it asks for every project's page whole, and
    /// takes upstream's serials, also lower ones. What was remembered of upstream's earlier answers is forgotten.
    pub fn reset(&self) -> Result<(), StoreError> {
        self.store.transaction(|transaction| {
            let run = || {
                for table in ["seen", "validator", "sight", "sweep", "missing_serial"] {
                    transaction.execute(&format!("DELETE FROM {table} WHERE mirror = ?1"), [self.number])?;
                }
                transaction.execute("UPDATE mirror SET anew = 1 WHERE id = ?1", [self.number])
            };
            run().map(drop).map_err(self.store.sql())
        })
    }

    /// Concludes what a sync remembered where no new snapshot was needed: the newest one shows it already.
    pub fn conclude(&self, conclusion: &Conclusion) -> Result<(), StoreError> {
        // Mostly there is nothing to conclude, and to see that takes no write.
        let Conclusion { validations, reread, anew, acted_on, .. } = conclusion;
        if validations.is_empty() && reread.is_empty() && acted_on.is_empty() && !anew {
            let waiting = "SELECT EXISTS (SELECT 1 FROM seen WHERE mirror = ?1)
                OR EXISTS (SELECT 1 FROM adopted WHERE mirror = ?1)";
            if !self.store.says(waiting, [self.number])? {
                return Ok(());
            }
        }
        self.store.transaction(|transaction| self.write_conclusion(transaction, conclusion))
    }

    /// The part of a transaction that concludes what a sync remembered.
    pub(crate) fn write_conclusion(&self, connection: &Connection, conclusion: &Conclusion) -> Result<(), StoreError> {
        let Conclusion { validations, anew, later, held, reread, acted_on } = conclusion;
        self.forget_sights(connection, acted_on)?;
        let run = || {
            if *anew {
                connection.prepare_cached("UPDATE mirror SET anew = 0 WHERE id = ?1")?.execute([self.number])?;
                let keep = "INSERT INTO validator (mirror, project, unit, tag)
                    SELECT mirror, project, unit, tag FROM seen WHERE mirror = ?1 AND tag IS NOT NULL ORDER BY number
                    ON CONFLICT (mirror, project) DO UPDATE SET unit = excluded.unit, tag = excluded.tag";
                connection.prepare_cached(keep)?.execute([self.number])?;
            }
            let validate = "INSERT INTO validator (mirror, project, unit, tag) VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT (mirror, project) DO UPDATE SET unit = excluded.unit, tag = excluded.tag";
            execute_each(connection, validate, validations, |Validation { project, unit, tag }| {
                (self.number, project.as_str().to_owned(), *unit.as_bytes(), tag.clone())
            })?;
            self.forget(connection, "seen", later)?;
            self.forget(connection, "adopted", held)?;
            let was_read = "DELETE FROM reread WHERE mirror = ?1 AND project = ?2";
            execute_each(connection, was_read, reread, |project| (self.number, project.as_str().to_owned()))
        };
        run().map(drop).map_err(self.store.sql())
    }

    /// Forgets what a table remembers of the mirror's projects, except some.
    fn forget(&self, connection: &Connection, table: &str, except: &BTreeSet<ProjectName>) -> rusqlite::Result<()> {
        if except.is_empty() {
            let all = format!("DELETE FROM {table} WHERE mirror = ?1");
            return connection.prepare_cached(&all)?.execute([self.number]).map(drop);
        }
        let known = format!("SELECT DISTINCT project FROM {table} WHERE mirror = ?1");
        let known: Vec<ProjectName> = rows(connection, &known, [self.number], |row| parsed(row, 0))?;
        let one = format!("DELETE FROM {table} WHERE mirror = ?1 AND project = ?2");
        let done = known.iter().filter(|project| !except.contains(*project));
        execute_each(connection, &one, done, |project| (self.number, project.as_str())).map(drop)
    }

    /// Replaces what is known of the serials that upstream's log has not shown.
    pub(crate) fn replace_missing(&self, connection: &Connection, missing: &[Serial]) -> Result<(), StoreError> {
        let run = || {
            connection.prepare_cached("DELETE FROM missing_serial WHERE mirror = ?1")?.execute([self.number])?;
            let note = "INSERT INTO missing_serial (mirror, serial) VALUES (?1, ?2)";
            execute_each(connection, note, missing, |serial| (self.number, serial.get()))
        };
        run().map(drop).map_err(self.store.sql())
    }
}
