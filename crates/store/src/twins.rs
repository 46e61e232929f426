//! What the catalog says of a mirror's view: which twin is live, and what the twins hold.
//!
//! The row is the truth and the link follows: a switch is committed here first ([`Store::record_switch`]), then
//! `live` is renamed, and whoever opens the view finishes a switch whose rename a crash prevented. So a reader can
//! see the view go from one snapshot to the next only, and never back.

use std::fmt;

use rusqlite::OptionalExtension as _;
use strandline_model::{Blake3, MirrorName, Timestamp};

use crate::{MirrorLock, Store, StoreError};

/// One of the two trees of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The tree `a`.
    A,
    /// The tree `b`.
    B,
}

impl Slot {
    /// The directory's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a twin holds: `base`, or while it is being changed, anything between `base` and `target`. `None` is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Twin {
    /// The snapshot that it held whole.
    pub base: Option<Blake3>,
    /// The snapshot that it is being changed to, if it is.
    pub target: Option<Blake3>,
}

/// What readers of a mirror see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewState {
    /// The tree that `live` points to.
    pub slot: Slot,
    /// The snapshot that it holds.
    pub snapshot: Blake3,
    /// The one that was published before it.
    pub previous: Option<Blake3>,
    /// When it was switched to.
    pub switched: Timestamp,
    /// Whether an operator rolled back, so that syncs record but do not publish.
    pub frozen: bool,
}

impl Store {
    /// What a mirror publishes; `None` if nothing yet.
    pub fn view_state(&self, mirror: &MirrorName) -> Result<Option<ViewState>, StoreError> {
        let row: Option<(String, [u8; 32], Option<[u8; 32]>, i64, bool)> = self
            .connection()
            .prepare_cached(
                "SELECT v.slot, v.snapshot, v.previous, v.switched, v.frozen
                 FROM view v JOIN mirror m ON m.id = v.mirror WHERE m.name = ?1",
            )
            .and_then(|mut statement| {
                statement
                    .query_row([mirror.as_str()], |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
                    })
                    .optional()
            })
            .map_err(self.sql())?;
        row.map(|(slot, snapshot, previous, switched, frozen)| {
            Ok(ViewState {
                slot: if slot == "a" { Slot::A } else { Slot::B },
                snapshot: Blake3::from_stored(snapshot),
                previous: previous.map(Blake3::from_stored),
                switched: self.stored_time(switched)?,
                frozen,
            })
        })
        .transpose()
    }

    /// What a twin holds.
    pub fn twin(&self, mirror: &MirrorName, slot: Slot) -> Result<Twin, StoreError> {
        let row: Option<(Option<[u8; 32]>, Option<[u8; 32]>)> = self
            .connection()
            .prepare_cached(
                "SELECT t.base, t.target FROM twin t JOIN mirror m ON m.id = t.mirror
                 WHERE m.name = ?1 AND t.slot = ?2",
            )
            .and_then(|mut statement| {
                statement.query_row((mirror.as_str(), slot.as_str()), |row| Ok((row.get(0)?, row.get(1)?))).optional()
            })
            .map_err(self.sql())?;
        Ok(row.map_or_else(Twin::default, |(base, target)| Twin {
            base: base.map(Blake3::from_stored),
            target: target.map(Blake3::from_stored),
        }))
    }

    /// Commits that a twin is about to be changed: it counts as anything between `twin.base` and `twin.target`.
    pub fn record_twin(
        &self,
        mirror: &MirrorName,
        slot: Slot,
        twin: Twin,
        _lock: &MirrorLock,
    ) -> Result<(), StoreError> {
        self.transaction(|transaction| self.write_twin(transaction, mirror, slot, twin))
    }

    /// Commits that a twin holds `state.snapshot` whole and is what readers see from now on.
    pub fn record_switch(&self, mirror: &MirrorName, state: ViewState, _lock: &MirrorLock) -> Result<(), StoreError> {
        self.transaction(|transaction| {
            self.write_twin(transaction, mirror, state.slot, Twin { base: Some(state.snapshot), target: None })?;
            transaction
                .execute(
                    "INSERT INTO view (mirror, slot, snapshot, previous, switched, frozen) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT (mirror) DO UPDATE SET slot = excluded.slot, snapshot = excluded.snapshot,
                       previous = excluded.previous, switched = excluded.switched, frozen = excluded.frozen",
                    (
                        self.mirror_id(transaction, mirror)?,
                        state.slot.as_str(),
                        state.snapshot.as_bytes(),
                        state.previous.as_ref().map(Blake3::as_bytes),
                        state.switched.seconds(),
                        state.frozen,
                    ),
                )
                .map_err(self.sql())?;
            Ok(())
        })
    }

    /// Says whether syncs publish (`false`) or only record (`true`).
    pub fn freeze(&self, mirror: &MirrorName, frozen: bool, _lock: &MirrorLock) -> Result<(), StoreError> {
        self.transaction(|transaction| {
            let mirror = self.mirror_id(transaction, mirror)?;
            transaction
                .execute("UPDATE view SET frozen = ?2 WHERE mirror = ?1", (mirror, frozen))
                .map_err(self.sql())?;
            Ok(())
        })
    }

    fn write_twin(
        &self,
        transaction: &rusqlite::Transaction<'_>,
        mirror: &MirrorName,
        slot: Slot,
        twin: Twin,
    ) -> Result<(), StoreError> {
        transaction
            .execute(
                "INSERT INTO twin (mirror, slot, base, target) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (mirror, slot) DO UPDATE SET base = excluded.base, target = excluded.target",
                (
                    self.mirror_id(transaction, mirror)?,
                    slot.as_str(),
                    twin.base.as_ref().map(Blake3::as_bytes),
                    twin.target.as_ref().map(Blake3::as_bytes),
                ),
            )
            .map_err(self.sql())?;
        Ok(())
    }
}
