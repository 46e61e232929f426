//! The snapshots of a mirror: which there are, which one a caller means, and which ones stay although retention would
//! drop them.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, Params};
use strandline_model::{At, Blake3, Label, MirrorName, Serial, Snapshot, Timestamp};

use crate::bodies::Bodies;
use crate::rows::{blake3, rows, serial};
use crate::{Locked, Mirror, Store, StoreError};

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
    /// Whether its serial is the mirror's own count of what changed, and no number of upstream's.
    pub counted: bool,
}

/// No snapshot is meant by a serial, label or date.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// None is retained there.
    #[error("mirror `{mirror}` has no snapshot {at}; `strandline log {mirror}` lists those that are kept")]
    Unknown {
        /// The mirror.
        mirror: MirrorName,
        /// What was asked for.
        at: At,
    },
    /// There is none yet.
    #[error("mirror `{mirror}` has no snapshot yet; `strandline sync {mirror}` makes one")]
    NoSnapshot {
        /// The mirror.
        mirror: MirrorName,
    },
    /// Nothing is published.
    #[error("mirror `{mirror}` has published nothing yet; `strandline sync {mirror}` does")]
    NothingPublished {
        /// The mirror.
        mirror: MirrorName,
    },
    /// Nothing was published before what is published now.
    #[error(
        "mirror `{mirror}` has published nothing before what it publishes now; `strandline log {mirror}` lists the snapshots that are kept"
    )]
    NothingBefore {
        /// The mirror.
        mirror: MirrorName,
    },
    /// It is not served any more: a file was withdrawn from it, or its pages or lists were made anew.
    #[error(
        "serial {label} of mirror `{mirror}` is not served any more, because something was withdrawn from it, or its pages or lists were made anew; {instead} is served in its place"
    )]
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

/// The newest first: the one that was recorded last, whatever its serial is.
const NEWEST_FIRST: &str = "ORDER BY number DESC, revision DESC";

impl Mirror {
    /// All retained snapshots, the newest first.
    pub fn snapshots(&self) -> Result<Vec<Recorded>, StoreError> {
        self.query_snapshots(&format!("WHERE mirror = ?1 {NEWEST_FIRST}"), [self.number])
    }

    /// The newest snapshot, if there is one.
    pub fn latest(&self) -> Result<Option<Recorded>, StoreError> {
        let newest = format!("WHERE mirror = ?1 {NEWEST_FIRST} LIMIT 1");
        Ok(self.query_snapshots(&newest, [self.number])?.pop())
    }

    /// The newest verified snapshot: what the next sync starts from.
    pub fn latest_verified(&self) -> Result<Option<Recorded>, StoreError> {
        let newest = format!("WHERE mirror = ?1 AND verified = 1 {NEWEST_FIRST} LIMIT 1");
        Ok(self.query_snapshots(&newest, [self.number])?.pop())
    }

    /// The newest retained snapshot of exactly this serial.
    pub fn at_serial(&self, serial: Serial) -> Result<Option<Recorded>, StoreError> {
        let newest = format!("WHERE mirror = ?1 AND serial = ?2 {NEWEST_FIRST} LIMIT 1");
        Ok(self.query_snapshots(&newest, (self.number, serial.get()))?.pop())
    }

    /// The retained snapshot with this label.
    pub fn at_label(&self, label: Label) -> Result<Option<Recorded>, StoreError> {
        let exact = "WHERE mirror = ?1 AND serial = ?2 AND revision = ?3";
        Ok(self.query_snapshots(exact, (self.number, label.serial.get(), label.revision))?.pop())
    }

    /// The newest retained snapshot that was recorded at or before `time`.
    pub fn at_time(&self, time: Timestamp) -> Result<Option<Recorded>, StoreError> {
        let newest = "WHERE mirror = ?1 AND time <= ?2 ORDER BY time DESC, number DESC, revision DESC LIMIT 1";
        Ok(self.query_snapshots(newest, (self.number, time.seconds()))?.pop())
    }

    /// The retained snapshot that is meant.
    pub fn select(&self, at: At) -> Result<Recorded, SelectError> {
        let found = match at {
            At::Serial(serial) => self.at_serial(serial),
            At::Label(label) => self.at_label(label),
            At::Time(time) | At::Day(time) => self.at_time(time),
        };
        found?.ok_or_else(|| SelectError::Unknown { mirror: self.name.clone(), at })
    }

    /// As [`select`](Self::select), for a caller that serves or publishes it: a superseded snapshot is refused.
    pub fn select_served(&self, at: At) -> Result<Recorded, SelectError> {
        let found = self.select(at)?;
        let served = self.store.served(found.id)?;
        if served == found.id {
            return Ok(found);
        }
        let instead = self.store.recorded(served)?.snapshot.label;
        Err(SelectError::Superseded { mirror: self.name.clone(), label: found.snapshot.label, instead })
    }

    /// The labels and ids of all snapshots, the oldest first, read from their rows alone, so that a damaged body is no obstacle.
    pub fn labels(&self) -> Result<Vec<(Label, Blake3)>, StoreError> {
        let query = "SELECT serial, revision, id FROM snapshot WHERE mirror = ?1 ORDER BY number, revision";
        self.store.rows(query, [self.number], |row| {
            Ok((Label { serial: serial(row, 0)?, revision: row.get(1)? }, blake3(row, 2)?))
        })
    }

    /// The snapshots that are not served any more, each with the one that took its place.
    pub fn superseded(&self) -> Result<BTreeMap<Blake3, Blake3>, StoreError> {
        let query = "SELECT o.snapshot, o.replacement FROM superseded o JOIN snapshot s ON s.id = o.snapshot
                     WHERE s.mirror = ?1";
        let pairs = self.store.rows(query, [self.number], |row| Ok((blake3(row, 0)?, blake3(row, 1)?)))?;
        Ok(pairs.into_iter().collect())
    }

    fn query_snapshots(&self, condition: &str, parameters: impl Params) -> Result<Vec<Recorded>, StoreError> {
        let connection = self.store.connection();
        recorded(&self.store, &connection, condition, parameters)
    }

    /// Keeps a snapshot, even if retention would drop it. Returns whether it was not pinned yet. A pin is one row that
    /// retention alone reads, so it needs no lock: an operator can pin while a sync runs for days.
    pub fn pin(&self, snapshot: Blake3, now: Timestamp) -> Result<bool, StoreError> {
        let insert =
            "INSERT OR IGNORE INTO pin (snapshot, time) SELECT id, ?3 FROM snapshot WHERE id = ?1 AND mirror = ?2";
        Ok(self.store.execute(insert, (snapshot.as_bytes(), self.number, now.seconds()))? > 0)
    }

    /// Leaves a snapshot to retention again. Returns whether it was pinned.
    pub fn unpin(&self, snapshot: Blake3) -> Result<bool, StoreError> {
        let delete = "DELETE FROM pin WHERE snapshot = ?1 AND snapshot IN (SELECT id FROM snapshot WHERE mirror = ?2)";
        Ok(self.store.execute(delete, (snapshot.as_bytes(), self.number))? > 0)
    }
}

impl Locked {
    /// Marks the snapshots from a serial on as having missed an event of that serial. Returns how many were not marked yet.
    pub fn mark_missed(&self, from: Serial) -> Result<usize, StoreError> {
        // Those from before upstream counted otherwise are of another log.
        let mark = "UPDATE snapshot SET missed = 1 WHERE mirror = ?1 AND serial >= ?2 AND missed = 0 AND counted = 0
            AND NOT EXISTS (SELECT 1 FROM snapshot later WHERE later.mirror = snapshot.mirror
                AND later.number > snapshot.number AND later.serial < snapshot.serial)";
        self.store.execute(mark, (self.number, from.get()))
    }

    /// Records which verified snapshots take the place of others from now on. Pins, the mark of having missed an event, and
    /// what was published before go over to them; the caller switches the view itself.
    pub fn supersede(&self, pairs: &[(Blake3, Blake3)]) -> Result<(), StoreError> {
        self.store.transaction(|transaction| {
            for (old, new) in pairs {
                for query in [
                    "INSERT OR IGNORE INTO superseded (snapshot, replacement) VALUES (?1, ?2)",
                    "INSERT OR IGNORE INTO pin (snapshot, time) SELECT ?2, time FROM pin WHERE snapshot = ?1",
                    "DELETE FROM pin WHERE snapshot = ?1 AND ?2 NOT NULL",
                    "UPDATE snapshot SET missed = (SELECT missed FROM snapshot WHERE id = ?1) WHERE id = ?2",
                    "UPDATE view SET previous = ?2 WHERE previous = ?1",
                ] {
                    transaction.execute(query, (old.as_bytes(), new.as_bytes())).map_err(self.store.sql())?;
                }
            }
            Ok(())
        })
    }
}

impl Store {
    /// The snapshot with this id.
    pub fn recorded(&self, id: Blake3) -> Result<Recorded, StoreError> {
        let found = recorded(self, &self.connection(), "WHERE id = ?1", [id.as_bytes()])?.pop();
        found.ok_or_else(|| StoreError::Damaged { id, problem: "is not that of a snapshot that is kept".to_owned() })
    }

    /// The snapshot that is served in the place of this one: itself, unless it is superseded.
    pub fn served(&self, mut snapshot: Blake3) -> Result<Blake3, StoreError> {
        // A replacement is newer than what it replaces, so this ends.
        let query = "SELECT replacement FROM superseded WHERE snapshot = ?1";
        while let Some(replacement) = self.row(query, [snapshot.as_bytes()], |row| blake3(row, 0))? {
            snapshot = replacement;
        }
        Ok(snapshot)
    }

    /// The snapshots that are pinned, of all mirrors.
    pub fn pins(&self) -> Result<BTreeSet<Blake3>, StoreError> {
        Ok(self.rows("SELECT snapshot FROM pin", [], |row| blake3(row, 0))?.into_iter().collect())
    }
}

/// The snapshots that a condition selects, in its order.
fn recorded(
    store: &Store,
    connection: &Connection,
    condition: &str,
    parameters: impl Params,
) -> Result<Vec<Recorded>, StoreError> {
    let query = format!("SELECT id, verified, missed, counted FROM snapshot {condition}");
    let found =
        rows(connection, &query, parameters, |row| Ok((blake3(row, 0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
    let bodies = Bodies { store, connection };
    let found = found.map_err(store.sql())?.into_iter();
    let read = |(id, verified, missed, counted)| {
        let snapshot = bodies.snapshot(id)?;
        Ok(Recorded { id, snapshot, verified, missed, counted })
    };
    found.map(read).collect()
}
