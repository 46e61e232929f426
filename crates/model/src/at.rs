//! Which snapshot of a mirror a person or a URL means.

use std::fmt;
use std::str::FromStr;

use crate::{Label, Serial, Timestamp};

/// A way to name a snapshot: `31234567`, `31234567.2`, `2026-11-23T15:10:00Z` or `2026-11-23`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The newest revision of a serial.
    Serial(Serial),
    /// Exactly this revision of a serial.
    Label(Label),
    /// The newest at or before a time.
    Time(Timestamp),
    /// The newest at or before the end of a day (UTC), given as its last second.
    Day(Timestamp),
}

/// Text that names no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a serial (`31234567`, or with a revision `31234567.2`), a date (`2026-11-23`) or a time (`2026-11-23T15:10:00Z`)"
)]
pub struct InvalidAt(String);

impl FromStr for At {
    type Err = InvalidAt;
    fn from_str(text: &str) -> Result<Self, InvalidAt> {
        if let Ok(serial) = text.parse() {
            return Ok(Self::Serial(serial));
        }
        if let Ok(label) = text.parse() {
            return Ok(Self::Label(label));
        }
        if let Ok(time) = text.parse() {
            return Ok(Self::Time(time));
        }
        let end = format!("{text}T23:59:59Z").parse().map(Self::Day);
        end.map_err(|_| InvalidAt(text.chars().take(80).flat_map(char::escape_debug).collect()))
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(serial) => serial.fmt(f),
            Self::Label(label) => label.fmt(f),
            Self::Time(time) => time.fmt(f),
            Self::Day(end) => f.write_str(end.to_string().split('T').next().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_and_written() {
        let forms: [(&str, fn(&At) -> bool); 4] = [
            ("31234567", |at| matches!(at, At::Serial(_))),
            ("31234567.2", |at| matches!(at, At::Label(_))),
            ("2026-11-23T15:10:00Z", |at| matches!(at, At::Time(_))),
            ("2026-11-23", |at| matches!(at, At::Day(_))),
        ];
        for (text, is_of_form) in forms {
            let at: At = text.parse().unwrap();
            assert!(is_of_form(&at), "{text}: {at:?}");
            assert_eq!(at.to_string(), text);
        }
        for text in ["", "six", "031", "31.0", "2026-13-01", "2026-11-23T", "2026-11-23 15:10"] {
            assert!(text.parse::<At>().is_err(), "{text}");
        }
    }
}
