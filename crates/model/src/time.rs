//! Points in time, in whole seconds.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Seconds since 1970-01-01T00:00:00Z, from then to the end of 9999-12-29.
///
/// Its text is RFC 3339 in UTC with whole seconds: `2026-11-23T15:10:00Z`. This crate has no clock:
/// callers say what time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Text or a number that is not a point in time in range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time of the form 2026-11-23T15:10:00Z")]
pub struct InvalidTimestamp(String);

/// 9999-12-30T00:00:00Z: later than any mirror needs, and a time that `jiff` can print.
const END: i64 = 253_402_128_000;

impl Timestamp {
    /// The last one.
    pub const LAST: Self = Self(END - 1);

    /// Takes seconds since 1970; an error for any outside the range.
    pub fn from_seconds(seconds: i64) -> Result<Self, InvalidTimestamp> {
        if (0..END).contains(&seconds) { Ok(Self(seconds)) } else { Err(InvalidTimestamp(seconds.to_string())) }
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> i64 {
        self.0
    }

    /// The time so much later, in whole seconds; the last there is where that is out of range.
    #[must_use]
    pub fn later(self, by: std::time::Duration) -> Self {
        i64::try_from(by.as_secs()).map_or(Self::LAST, |by| Self(self.0.saturating_add(by)).min(Self::LAST))
    }

    /// Whole seconds from `earlier` to this; zero when `earlier` is later (clocks do step back).
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_secs(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        jiff::Timestamp::from_second(self.0).map_err(|_| fmt::Error)?.fmt(f)
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;
    /// Takes any RFC 3339 time; fractions of a second are cut off.
    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let invalid = || InvalidTimestamp(text.chars().take(80).flat_map(char::escape_debug).collect());
        let time: jiff::Timestamp = text.parse().map_err(|_| invalid())?;
        Self::from_seconds(time.as_second())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// When a file was uploaded, in whole microseconds. Its text is RFC 3339 in UTC with six digits, always:
/// `2026-11-23T15:10:00.000000Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadTime(jiff::Timestamp);

impl fmt::Display for UploadTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.0)
    }
}

impl FromStr for UploadTime {
    type Err = InvalidTimestamp;
    /// Takes any RFC 3339 time in the range of a [`Timestamp`]; what is smaller than a microsecond is cut off.
    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let invalid = || InvalidTimestamp(text.chars().take(80).flat_map(char::escape_debug).collect());
        let time: jiff::Timestamp = text.parse().map_err(|_| invalid())?;
        Timestamp::from_seconds(time.as_second())?;
        jiff::Timestamp::from_microsecond(time.as_microsecond()).map(Self).map_err(|_| invalid())
    }
}

impl Serialize for UploadTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
