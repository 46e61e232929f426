//! Serials and the labels of snapshots.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Upstream's change number, 0 to 2^63 − 1 (what SQLite can hold).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub struct Serial(u64);

/// A number or text that is not a serial or a snapshot's label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a serial (`31234567`, or with a revision `31234567.2`)")]
pub struct InvalidSerial(String);

impl Serial {
    /// Before everything.
    pub const ZERO: Self = Self(0);

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The serial after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1).min(i64::MAX as u64))
    }
}

impl TryFrom<u64> for Serial {
    type Error = InvalidSerial;
    fn try_from(number: u64) -> Result<Self, InvalidSerial> {
        if i64::try_from(number).is_ok() { Ok(Self(number)) } else { Err(InvalidSerial(number.to_string())) }
    }
}

impl FromStr for Serial {
    type Err = InvalidSerial;
    /// Takes the canonical decimal form only: no sign, no leading zero.
    fn from_str(text: &str) -> Result<Self, InvalidSerial> {
        canonical_number(text)
            .and_then(|number| Self::try_from(number).ok())
            .ok_or_else(|| InvalidSerial(text.chars().take(80).flat_map(char::escape_debug).collect()))
    }
}

/// A number without a sign and without leading zeros.
pub(crate) fn canonical_number(text: &str) -> Option<u64> {
    let canonical = text == "0" || matches!(text.as_bytes(), [b'1'..=b'9', ..]);
    canonical.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a snapshot is called within its mirror: a serial and, from the second snapshot of the same
/// serial on, a revision: `31234567`, `31234567.2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// Upstream's serial.
    pub serial: Serial,
    /// 1 for the first snapshot of this serial.
    pub revision: u32,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.revision == 1 { self.serial.fmt(f) } else { write!(f, "{}.{}", self.serial, self.revision) }
    }
}

impl FromStr for Label {
    type Err = InvalidSerial;
    fn from_str(text: &str) -> Result<Self, InvalidSerial> {
        let Some((serial, revision)) = text.split_once('.') else {
            return Ok(Self { serial: text.parse()?, revision: 1 });
        };
        let revision = canonical_number(revision)
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| *number >= 1)
            .ok_or_else(|| InvalidSerial(text.chars().take(80).flat_map(char::escape_debug).collect()))?;
        Ok(Self { serial: serial.parse()?, revision })
    }
}

impl Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
