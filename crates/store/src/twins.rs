//! What the catalog says of a mirror's view: which twin is live, and what the twins hold.
//!
//! The row is the truth and the link follows: a switch is committed here first ([`Locked::record_switch`]), then
//! `live` is renamed, and the process that opens the view next finishes a switch whose rename a crash prevented. So a reader can
//! see the view go from one snapshot to the next only, and never back.

use std::fmt;

use rusqlite::Connection;
use strandline_model::{Blake3, Timestamp};

use crate::rows::{blake3, blake3_or_null, time};
use crate::{Locked, Mirror, StoreError};

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

impl Mirror {
    /// What the mirror publishes; `None` if nothing yet.
    pub fn view_state(&self) -> Result<Option<ViewState>, StoreError> {
        let query =
            "SELECT v.slot, v.snapshot, v.previous, v.switched, v.frozen FROM view v JOIN mirror m ON m.id = v.mirror
            WHERE v.mirror = ?1 AND m.removing = 0";
        self.store.row(query, [self.number], |row| {
            Ok(ViewState {
                slot: if row.get_ref(0)?.as_str()? == "a" { Slot::A } else { Slot::B },
                snapshot: blake3(row, 1)?,
                previous: blake3_or_null(row, 2)?,
                switched: time(row, 3)?,
                frozen: row.get(4)?,
            })
        })
    }

    /// What a twin holds.
    pub fn twin(&self, slot: Slot) -> Result<Twin, StoreError> {
        let query = "SELECT base, target FROM twin WHERE mirror = ?1 AND slot = ?2";
        let found = self.store.row(query, (self.number, slot.as_str()), |row| {
            Ok(Twin { base: blake3_or_null(row, 0)?, target: blake3_or_null(row, 1)? })
        })?;
        Ok(found.unwrap_or_default())
    }
}

impl Locked {
    /// Commits that a twin is about to be changed: it counts as anything between `twin.base` and `twin.target`.
    pub fn record_twin(&self, slot: Slot, twin: Twin) -> Result<(), StoreError> {
        self.store.transaction(|transaction| self.write_twin(transaction, slot, twin))
    }

    /// Commits that a twin holds `state.snapshot` whole and is what readers see from now on.
    pub fn record_switch(&self, state: ViewState) -> Result<(), StoreError> {
        self.store.transaction(|transaction| {
            self.write_twin(transaction, state.slot, Twin { base: Some(state.snapshot), target: None })?;
            let row = (
                self.number,
                state.slot.as_str(),
                state.snapshot.as_bytes(),
                state.previous.as_ref().map(Blake3::as_bytes),
                state.switched.seconds(),
                state.frozen,
            );
            let switch =
                "INSERT INTO view (mirror, slot, snapshot, previous, switched, frozen) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                ON CONFLICT (mirror) DO UPDATE SET slot = excluded.slot, snapshot = excluded.snapshot,
                  previous = excluded.previous, switched = excluded.switched, frozen = excluded.frozen";
            transaction.execute(switch, row).map(drop).map_err(self.store.sql())
        })
    }

    /// Says whether syncs publish (`false`) or only record (`true`).
    pub fn freeze(&self, frozen: bool) -> Result<(), StoreError> {
        self.store.execute("UPDATE view SET frozen = ?2 WHERE mirror = ?1", (self.number, frozen)).map(drop)
    }

    fn write_twin(&self, connection: &Connection, slot: Slot, twin: Twin) -> Result<(), StoreError> {
        let write = "INSERT INTO twin (mirror, slot, base, target) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (mirror, slot) DO UPDATE SET base = excluded.base, target = excluded.target";
        let [base, target] = [&twin.base, &twin.target].map(|id| id.as_ref().map(Blake3::as_bytes));
        connection.execute(write, (self.number, slot.as_str(), base, target)).map(drop).map_err(self.store.sql())
    }
}
