//! What the catalog says of mirrors and their snapshots.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::OptionalExtension as _;
use strandline_model::{Blake3, Label, MirrorName, ProjectName, Serial, Snapshot, Timestamp, Unit, UpstreamUrl};

use crate::bodies::Bodies;
use crate::{MirrorLock, Store, StoreError};

/// A mirror that has been synced at least once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorRow {
    /// Its name.
    pub name: MirrorName,
    /// What it is a copy of.
    pub upstream: UpstreamUrl,
}

/// A snapshot that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The BLAKE3 of its canonical bytes.
    pub id: Blake3,
    /// Its content.
    pub snapshot: Snapshot,
    /// Whether its new rows and blobs were read back after the commit.
    pub verified: bool,
    /// Whether an event at or before its serial came to light after it was made, so that it lacks that event.
    pub missed: bool,
}

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

/// How large things are, as a collection found them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// When.
    pub time: Timestamp,
    /// All blobs of the store, in bytes.
    pub bytes: u64,
    /// What the mirrors have of them.
    pub mirrors: BTreeMap<MirrorName, MirrorUsage>,
}

/// What a mirror's kept snapshots name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MirrorUsage {
    /// All of it, each blob once, in bytes.
    pub bytes: u64,
    /// What no other mirror names, in bytes.
    pub own: u64,
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

/// No snapshot is meant by a serial.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// None is retained under that label.
    #[error("mirror `{mirror}` has no snapshot {wanted}; `strandline log {mirror}` lists those that are kept")]
    Unknown {
        /// The mirror.
        mirror: MirrorName,
        /// What was asked for.
        wanted: String,
    },
    /// It is not served any more, because a file was withdrawn from it.
    #[error("something was withdrawn from serial {label} of mirror `{mirror}`; {instead} is what is left of it")]
    Superseded {
        /// The mirror.
        mirror: MirrorName,
        /// What was asked for.
        label: Label,
        /// What took its place.
        instead: Label,
    },
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// All mirrors that have been synced, sorted by name.
    pub fn mirrors(&self) -> Result<Vec<MirrorRow>, StoreError> {
        let rows: Vec<(String, String)> = self
            .connection()
            .prepare_cached("SELECT name, upstream FROM mirror ORDER BY name")
            .and_then(|mut statement| statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .map_err(self.sql())?;
        rows.into_iter()
            .map(|(name, upstream)| Ok(MirrorRow { name: self.stored(&name)?, upstream: self.stored(&upstream)? }))
            .collect()
    }

    /// The mirror of this name, if it has been synced.
    pub fn mirror(&self, name: &MirrorName) -> Result<Option<MirrorRow>, StoreError> {
        Ok(self.mirrors()?.into_iter().find(|mirror| mirror.name == *name))
    }

    /// All retained snapshots of a mirror, the newest first.
    pub fn snapshots(&self, mirror: &MirrorName) -> Result<Vec<Recorded>, StoreError> {
        self.query_snapshots("1", mirror, &[])
    }

    /// The newest snapshot of a mirror, if there is one.
    pub fn latest(&self, mirror: &MirrorName) -> Result<Option<Recorded>, StoreError> {
        Ok(self.query_snapshots("1 ORDER BY s.serial DESC, s.revision DESC LIMIT 1", mirror, &[])?.pop())
    }

    /// The newest verified snapshot of a mirror: what the next sync starts from.
    pub fn latest_verified(&self, mirror: &MirrorName) -> Result<Option<Recorded>, StoreError> {
        let newest = "s.verified = 1 ORDER BY s.serial DESC, s.revision DESC LIMIT 1";
        Ok(self.query_snapshots(newest, mirror, &[])?.pop())
    }

    /// The newest retained snapshot of exactly this serial.
    pub fn at_serial(&self, mirror: &MirrorName, serial: Serial) -> Result<Option<Recorded>, StoreError> {
        let newest = "s.serial = ?2 ORDER BY s.revision DESC LIMIT 1";
        Ok(self.query_snapshots(newest, mirror, &[i64::try_from(serial.get()).unwrap_or(i64::MAX)])?.pop())
    }

    /// The retained snapshot with this label.
    pub fn at_label(&self, mirror: &MirrorName, label: Label) -> Result<Option<Recorded>, StoreError> {
        let serial = i64::try_from(label.serial.get()).unwrap_or(i64::MAX);
        let exact = "s.serial = ?2 AND s.revision = ?3";
        Ok(self.query_snapshots(exact, mirror, &[serial, i64::from(label.revision)])?.pop())
    }

    /// The newest retained snapshot that was recorded at or before `time`.
    pub fn at_time(&self, mirror: &MirrorName, time: Timestamp) -> Result<Option<Recorded>, StoreError> {
        let newest = "s.time <= ?2 ORDER BY s.time DESC, s.serial DESC, s.revision DESC LIMIT 1";
        Ok(self.query_snapshots(newest, mirror, &[time.seconds()])?.pop())
    }

    /// The retained snapshot that a person means: a serial (its newest revision), a label `31234567.2`, or a date
    /// or time (the newest at or before its end).
    pub fn select(&self, mirror: &MirrorName, wanted: &str) -> Result<Recorded, SelectError> {
        let found = if let Ok(serial) = wanted.parse::<Serial>() {
            self.at_serial(mirror, serial)?
        } else if let Ok(label) = wanted.parse::<Label>() {
            self.at_label(mirror, label)?
        } else if let Ok(time) = wanted.parse::<Timestamp>() {
            self.at_time(mirror, time)?
        } else if let Ok(end) = format!("{wanted}T23:59:59Z").parse::<Timestamp>() {
            self.at_time(mirror, end)?
        } else {
            None
        };
        found.ok_or_else(|| SelectError::Unknown { mirror: mirror.clone(), wanted: wanted.to_owned() })
    }

    /// As [`select`](Self::select), for whoever serves or publishes it: what was withdrawn from is refused.
    pub fn select_served(&self, mirror: &MirrorName, wanted: &str) -> Result<Recorded, SelectError> {
        let found = self.select(mirror, wanted)?;
        let served = self.served(found.id)?;
        if served == found.id {
            return Ok(found);
        }
        let instead = self.recorded(served)?.snapshot.label;
        Err(SelectError::Superseded { mirror: mirror.clone(), label: found.snapshot.label, instead })
    }

    /// The snapshot with this id.
    pub fn recorded(&self, id: Blake3) -> Result<Recorded, StoreError> {
        let connection = self.connection();
        let row: Option<(bool, bool)> = connection
            .query_row("SELECT verified, missed FROM snapshot WHERE id = ?1", [id.as_bytes()], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()
            .map_err(self.sql())?;
        let (verified, missed) = row
            .ok_or_else(|| StoreError::Damaged { id, problem: "is not that of a snapshot that is kept".to_owned() })?;
        let bodies = Bodies { store: self, connection: &connection };
        Ok(Recorded { id, snapshot: bodies.snapshot(id)?, verified, missed })
    }

    fn query_snapshots(
        &self,
        condition: &str,
        mirror: &MirrorName,
        values: &[i64],
    ) -> Result<Vec<Recorded>, StoreError> {
        let order = if condition.contains("ORDER BY") { "" } else { "ORDER BY s.serial DESC, s.revision DESC" };
        let query = format!(
            "SELECT s.id, s.verified, s.missed FROM snapshot s JOIN mirror m ON m.id = s.mirror
             WHERE m.name = ?1 AND {condition} {order}"
        );
        let connection = self.connection();
        let rows: Vec<([u8; 32], bool, bool)> = connection
            .prepare_cached(&query)
            .and_then(|mut statement| {
                statement.raw_bind_parameter(1, mirror.as_str())?;
                for (index, value) in values.iter().enumerate() {
                    statement.raw_bind_parameter(index + 2, value)?;
                }
                let mut rows = statement.raw_query();
                let mut found = Vec::new();
                while let Some(row) = rows.next()? {
                    found.push((row.get(0)?, row.get(1)?, row.get(2)?));
                }
                Ok(found)
            })
            .map_err(self.sql())?;
        let bodies = Bodies { store: self, connection: &connection };
        rows.into_iter()
            .map(|(id, verified, missed)| {
                let id = Blake3::from_stored(id);
                Ok(Recorded { id, snapshot: bodies.snapshot(id)?, verified, missed })
            })
            .collect()
    }

    /// Keeps a snapshot, whatever retention says. Returns whether it was not pinned yet.
    pub fn pin(&self, snapshot: Blake3, now: Timestamp) -> Result<bool, StoreError> {
        let pinned = self.transaction(|transaction| {
            transaction
                .execute(
                    "INSERT OR IGNORE INTO pin (snapshot, time) VALUES (?1, ?2)",
                    (snapshot.as_bytes(), now.seconds()),
                )
                .map_err(self.sql())
        })?;
        Ok(pinned > 0)
    }

    /// Leaves a snapshot to retention again. Returns whether it was pinned.
    pub fn unpin(&self, snapshot: Blake3) -> Result<bool, StoreError> {
        let unpinned = self.transaction(|transaction| {
            transaction.execute("DELETE FROM pin WHERE snapshot = ?1", [snapshot.as_bytes()]).map_err(self.sql())
        })?;
        Ok(unpinned > 0)
    }

    /// The snapshots that are pinned, of all mirrors.
    pub fn pins(&self) -> Result<BTreeSet<Blake3>, StoreError> {
        let ids: Vec<[u8; 32]> = self
            .connection()
            .prepare_cached("SELECT snapshot FROM pin")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .map_err(self.sql())?;
        Ok(ids.into_iter().map(Blake3::from_stored).collect())
    }

    /// What the last collection found of the size of things; `None` before the first.
    pub fn usage(&self) -> Result<Option<Usage>, StoreError> {
        let row: Option<(u64, i64)> = self
            .connection()
            .query_row("SELECT bytes, time FROM usage", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(self.sql())?;
        let Some((bytes, time)) = row else { return Ok(None) };
        let rows: Vec<(String, u64, u64)> = self
            .connection()
            .prepare_cached("SELECT name, bytes, own FROM mirror WHERE bytes IS NOT NULL ORDER BY name")
            .and_then(|mut statement| {
                statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
            })
            .map_err(self.sql())?;
        let mirrors = rows
            .into_iter()
            .map(|(name, bytes, own)| Ok((self.stored(&name)?, MirrorUsage { bytes, own })))
            .collect::<Result<_, StoreError>>()?;
        Ok(Some(Usage { time: self.stored_time(time)?, bytes, mirrors }))
    }

    /// Marks the snapshots from a serial on as having missed an event of that serial. Returns how many were not marked yet.
    pub fn mark_missed(&self, mirror: &MirrorName, from: Serial, _lock: &MirrorLock) -> Result<usize, StoreError> {
        self.transaction(|transaction| {
            transaction
                .execute(
                    "UPDATE snapshot SET missed = 1
                     WHERE mirror = (SELECT id FROM mirror WHERE name = ?1) AND serial >= ?2 AND missed = 0",
                    (mirror.as_str(), from.get()),
                )
                .map_err(self.sql())
        })
    }

    /// The serials up to that of the mirror's newest snapshot that upstream's log had not shown when it was made.
    pub fn missing_serials(&self, mirror: &MirrorName) -> Result<BTreeSet<Serial>, StoreError> {
        let serials: Vec<u64> = self
            .connection()
            .prepare_cached("SELECT serial FROM missing_serial WHERE mirror = ?1")
            .and_then(|mut statement| statement.query_map([mirror.as_str()], |row| row.get(0))?.collect())
            .map_err(self.sql())?;
        serials.into_iter().map(|serial| self.stored(&serial.to_string())).collect()
    }

    pub(crate) fn replace_missing(
        &self,
        transaction: &rusqlite::Transaction<'_>,
        mirror: &MirrorName,
        missing: &[Serial],
    ) -> Result<(), StoreError> {
        let run = || {
            transaction.execute("DELETE FROM missing_serial WHERE mirror = ?1", [mirror.as_str()])?;
            let mut insert =
                transaction.prepare_cached("INSERT INTO missing_serial (mirror, serial) VALUES (?1, ?2)")?;
            missing.iter().try_for_each(|serial| insert.execute((mirror.as_str(), serial.get())).map(drop))
        };
        run().map_err(self.sql())
    }

    /// Remembers which projects stand in the way of a mirror's sync, and forgets those that do not any more. Returns since
    /// when each of them does.
    pub fn note_trouble(
        &self,
        mirror: &MirrorName,
        projects: &BTreeSet<ProjectName>,
        now: Timestamp,
        _lock: &MirrorLock,
    ) -> Result<BTreeMap<ProjectName, Timestamp>, StoreError> {
        let before: Vec<(String, i64)> = self
            .connection()
            .prepare_cached("SELECT project, since FROM trouble WHERE mirror = ?1")
            .and_then(|mut statement| {
                statement.query_map([mirror.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
            })
            .map_err(self.sql())?;
        let mut since = BTreeMap::new();
        for (project, seconds) in before {
            since.insert(self.stored::<ProjectName>(&project)?, self.stored_time(seconds)?);
        }
        if since.keys().ne(projects) {
            self.transaction(|transaction| {
                for project in since.keys().filter(|project| !projects.contains(*project)) {
                    transaction
                        .execute(
                            "DELETE FROM trouble WHERE mirror = ?1 AND project = ?2",
                            [mirror.as_str(), project.as_str()],
                        )
                        .map_err(self.sql())?;
                }
                for project in projects.iter().filter(|project| !since.contains_key(*project)) {
                    transaction
                        .execute(
                            "INSERT INTO trouble (mirror, project, since) VALUES (?1, ?2, ?3)",
                            (mirror.as_str(), project.as_str(), now.seconds()),
                        )
                        .map_err(self.sql())?;
                }
                Ok::<_, StoreError>(())
            })?;
        }
        Ok(projects.iter().map(|project| (project.clone(), since.get(project).copied().unwrap_or(now))).collect())
    }

    /// Remembers pages until a snapshot shows what they do. The blobs that the units name are settled.
    pub fn record_seen(&self, mirror: &MirrorName, pages: &[SeenPage], _lock: &MirrorLock) -> Result<(), StoreError> {
        if pages.is_empty() {
            return Ok(());
        }
        self.transaction(|transaction| {
            let bodies = Bodies { store: self, connection: transaction };
            for SeenPage { unit, serial, tag } in pages {
                let bytes = unit.to_bytes();
                let id = Blake3::of(&bytes);
                bodies.write(id, &bytes)?;
                transaction
                    .prepare_cached(
                        "INSERT INTO seen (mirror, project, unit, serial, tag) VALUES (?1, ?2, ?3, ?4, ?5)
                         ON CONFLICT (mirror, project, unit) DO UPDATE SET serial = excluded.serial, tag = excluded.tag",
                    )
                    .and_then(|mut statement| {
                        statement.execute((mirror.as_str(), unit.name().as_str(), id.as_bytes(), serial.get(), tag))
                    })
                    .map_err(self.sql())?;
            }
            Ok(())
        })
    }

    /// The pages of a mirror that are remembered, in the order in which they were.
    pub fn seen(&self, mirror: &MirrorName) -> Result<Vec<SeenPage>, StoreError> {
        self.query_seen(mirror, None)
    }

    /// Those of one project.
    pub fn seen_of(&self, mirror: &MirrorName, project: &ProjectName) -> Result<Vec<SeenPage>, StoreError> {
        self.query_seen(mirror, Some(project))
    }

    fn query_seen(&self, mirror: &MirrorName, project: Option<&ProjectName>) -> Result<Vec<SeenPage>, StoreError> {
        let connection = self.connection();
        let query = match project {
            None => "SELECT unit, serial, tag FROM seen WHERE mirror = ?1 AND ?2 IS NULL ORDER BY number",
            Some(_) => "SELECT unit, serial, tag FROM seen WHERE mirror = ?1 AND project = ?2 ORDER BY number",
        };
        let rows: Vec<([u8; 32], u64, Option<String>)> = connection
            .prepare_cached(query)
            .and_then(|mut statement| {
                let project = project.map(ProjectName::as_str);
                let rows = statement
                    .query_map((mirror.as_str(), project), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
                rows.collect()
            })
            .map_err(self.sql())?;
        let bodies = Bodies { store: self, connection: &connection };
        rows.into_iter()
            .map(|(unit, serial, tag)| {
                let unit = bodies.unit(Blake3::from_stored(unit))?;
                Ok(SeenPage { unit, serial: self.stored(&serial.to_string())?, tag })
            })
            .collect()
    }

    /// The rows of the pages of a mirror that are remembered, in the order in which they were, without what they show.
    pub fn seen_rows(&self, mirror: &MirrorName) -> Result<Vec<SeenRow>, StoreError> {
        let rows: Vec<(String, [u8; 32], u64)> = self
            .connection()
            .prepare_cached("SELECT project, unit, serial FROM seen WHERE mirror = ?1 ORDER BY number")
            .and_then(|mut statement| {
                statement.query_map([mirror.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
            })
            .map_err(self.sql())?;
        let read = |(project, unit, serial): (String, [u8; 32], u64)| {
            let (project, serial) = (self.stored(&project)?, self.stored(&serial.to_string())?);
            Ok(SeenRow { project, unit: Blake3::from_stored(unit), serial })
        };
        rows.into_iter().map(read).collect()
    }

    /// Remembers with what to ask for the pages that are remembered, once a snapshot shows them.
    pub fn keep_validators(&self, mirror: &MirrorName) -> Result<(), StoreError> {
        self.transaction(|transaction| {
            transaction
                .execute(
                    "INSERT INTO validator (mirror, project, unit, tag)
                     SELECT m.id, s.project, s.unit, s.tag FROM seen s JOIN mirror m ON m.name = s.mirror
                     WHERE s.mirror = ?1 AND s.tag IS NOT NULL ORDER BY s.number
                     ON CONFLICT (mirror, project) DO UPDATE SET unit = excluded.unit, tag = excluded.tag",
                    [mirror.as_str()],
                )
                .map_err(self.sql())?;
            Ok(())
        })
    }

    /// Forgets the pages of a mirror, but for those of the projects `except`.
    pub fn forget_seen(
        &self,
        mirror: &MirrorName,
        except: &BTreeSet<ProjectName>,
        _lock: &MirrorLock,
    ) -> Result<(), StoreError> {
        let none: bool = self
            .connection()
            .prepare_cached("SELECT NOT EXISTS (SELECT 1 FROM seen WHERE mirror = ?1)")
            .and_then(|mut statement| statement.query_row([mirror.as_str()], |row| row.get(0)))
            .map_err(self.sql())?;
        if none {
            return Ok(());
        }
        if except.is_empty() {
            return self.transaction(|transaction| {
                transaction
                    .execute("DELETE FROM seen WHERE mirror = ?1", [mirror.as_str()])
                    .map(drop)
                    .map_err(self.sql())
            });
        }
        let seen: Vec<String> = self
            .connection()
            .prepare_cached("SELECT DISTINCT project FROM seen WHERE mirror = ?1")
            .and_then(|mut statement| statement.query_map([mirror.as_str()], |row| row.get(0))?.collect())
            .map_err(self.sql())?;
        let kept: BTreeSet<_> = except.iter().map(ProjectName::as_str).collect();
        let done: Vec<_> = seen.iter().filter(|project| !kept.contains(project.as_str())).collect();
        if done.is_empty() {
            return Ok(());
        }
        self.transaction(|transaction| {
            let mut statement = transaction
                .prepare_cached("DELETE FROM seen WHERE mirror = ?1 AND project = ?2")
                .map_err(self.sql())?;
            done.iter()
                .try_for_each(|project| statement.execute([mirror.as_str(), project.as_str()]).map(drop))
                .map_err(self.sql())
        })
    }

    /// How far the sweep over a mirror's pages is: the last project (empty for none) and since when. Where there was no
    /// sweep yet, one begins `now`.
    pub fn recheck(&self, mirror: &MirrorName, now: Timestamp) -> Result<(String, Timestamp), StoreError> {
        let row: Option<(String, i64)> = self
            .connection()
            .query_row(
                "SELECT r.project, r.time FROM recheck r JOIN mirror m ON m.id = r.mirror WHERE m.name = ?1",
                [mirror.as_str()],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()
            .map_err(self.sql())?;
        match row {
            Some((project, time)) => Ok((project, self.stored_time(time)?)),
            None => {
                self.record_recheck(mirror, "", now)?;
                Ok((String::new(), now))
            }
        }
    }

    /// Remembers how far the sweep is.
    pub fn record_recheck(&self, mirror: &MirrorName, project: &str, now: Timestamp) -> Result<(), StoreError> {
        self.transaction(|transaction| {
            transaction
                .execute(
                    "INSERT INTO recheck (mirror, project, time) SELECT id, ?2, ?3 FROM mirror WHERE name = ?1
                     ON CONFLICT (mirror) DO UPDATE SET project = excluded.project, time = excluded.time",
                    (mirror.as_str(), project, now.seconds()),
                )
                .map_err(self.sql())
        })?;
        Ok(())
    }

    /// How the last sync of a mirror ended, if there was one.
    pub fn last_sync(&self, mirror: &MirrorName) -> Result<Option<LastSync>, StoreError> {
        type Row = (i64, Option<String>, Option<u64>, Option<i64>, Option<u32>);
        let row: Option<Row> = self
            .connection()
            .query_row(
                "SELECT l.time, l.failure, l.head, l.behind, l.rounds
                 FROM last_sync l JOIN mirror m ON m.id = l.mirror WHERE m.name = ?1",
                [mirror.as_str()],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
            )
            .optional()
            .map_err(self.sql())?;
        let Some((time, failure, head, behind, rounds)) = row else { return Ok(None) };
        let cut = match (head, rounds) {
            (Some(head), Some(rounds)) => Some(CutReport {
                head: self.stored(&head.to_string())?,
                behind: behind.map(|seconds| self.stored_time(seconds)).transpose()?,
                rounds,
            }),
            _ => None,
        };
        Ok(Some(LastSync { time: self.stored_time(time)?, failure, cut }))
    }

    /// Records how a sync of a mirror ended. A mirror that was never committed has no row, and nothing is recorded.
    pub fn record_sync(&self, mirror: &MirrorName, last: &LastSync) -> Result<(), StoreError> {
        self.transaction(|transaction| {
            transaction
                .execute(
                    "INSERT INTO last_sync (mirror, time, failure, head, behind, rounds)
                     SELECT id, ?2, ?3, ?4, ?5, ?6 FROM mirror WHERE name = ?1
                     ON CONFLICT (mirror) DO UPDATE SET time = excluded.time, failure = excluded.failure,
                       head = excluded.head, behind = excluded.behind, rounds = excluded.rounds",
                    (
                        mirror.as_str(),
                        last.time.seconds(),
                        &last.failure,
                        last.cut.map(|cut| cut.head.get()),
                        last.cut.and_then(|cut| cut.behind).map(Timestamp::seconds),
                        last.cut.map(|cut| cut.rounds),
                    ),
                )
                .map_err(self.sql())
        })?;
        Ok(())
    }

    /// With what to ask upstream for a project's page, if that is known for the unit `unit`.
    pub fn validator(
        &self,
        mirror: &MirrorName,
        project: &ProjectName,
        unit: Blake3,
    ) -> Result<Option<String>, StoreError> {
        self.connection()
            .prepare_cached(
                "SELECT v.tag FROM validator v JOIN mirror m ON m.id = v.mirror
                 WHERE m.name = ?1 AND v.project = ?2 AND v.unit = ?3",
            )
            .and_then(|mut statement| {
                statement.query_row((mirror.as_str(), project.as_str(), unit.as_bytes()), |row| row.get(0)).optional()
            })
            .map_err(self.sql())
    }

    /// Remembers with what to ask for pages. A mirror that was never committed remembers nothing.
    pub fn record_validators(&self, mirror: &MirrorName, validations: &[Validation]) -> Result<(), StoreError> {
        self.transaction(|transaction| {
            let mut statement = transaction
                .prepare_cached(
                    "INSERT INTO validator (mirror, project, unit, tag)
                     SELECT id, ?2, ?3, ?4 FROM mirror WHERE name = ?1
                     ON CONFLICT (mirror, project) DO UPDATE SET unit = excluded.unit, tag = excluded.tag",
                )
                .map_err(self.sql())?;
            for Validation { project, unit, tag } in validations {
                statement.execute((mirror.as_str(), project.as_str(), unit.as_bytes(), tag)).map_err(self.sql())?;
            }
            Ok(())
        })
    }

    pub(crate) fn stored<T: std::str::FromStr<Err: std::fmt::Display>>(&self, text: &str) -> Result<T, StoreError> {
        text.parse().map_err(|error: T::Err| StoreError::Foreign {
            path: self.root.join(crate::CATALOG),
            problem: format!("holds `{}`: {error}", text.escape_debug()),
        })
    }

    /// The catalog holds what this program would not have written.
    pub(crate) fn foreign(&self, error: &dyn std::fmt::Display) -> StoreError {
        StoreError::Foreign {
            path: self.root.join(crate::CATALOG),
            problem: format!("holds what it should not: {error}"),
        }
    }

    pub(crate) fn stored_time(&self, seconds: i64) -> Result<Timestamp, StoreError> {
        Timestamp::from_seconds(seconds).map_err(|error| StoreError::Foreign {
            path: self.root.join(crate::CATALOG),
            problem: format!("holds a time that is none: {error}"),
        })
    }
}
