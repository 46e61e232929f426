//! The bytes of an answer that a client wants: the Range header (RFC 9110, section 14).

use std::ops::Range;

/// The bytes to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything.
    Whole,
    /// These bytes, at least one.
    Part(Range<u64>),
    /// None: the client asks for bytes that are not there.
    Nothing,
}

/// Reads a Range header for `length` bytes.
///
/// More than one range is answered with everything: no installer asks for it, and the answer's parts would cost more
/// than they save. A header that is not well-formed is ignored, as the RFC says.
pub(crate) fn wanted(header: &str, length: u64) -> Wanted {
    let Some((unit, set)) = header.split_once('=') else { return Wanted::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return Wanted::Whole;
    }
    let Some((first, last)) = set.trim().split_once('-') else { return Wanted::Whole };
    let (first, last) = (first.trim(), last.trim());
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(length),
        (Some(first), None) if last.is_empty() => first..length,
        (None, Some(suffix)) if first.is_empty() => length.saturating_sub(suffix)..length,
        _ => return Wanted::Whole,
    };
    if range.is_empty() { Wanted::Nothing } else { Wanted::Part(range) }
}

/// A number in digits; one that is too large is the largest.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Wanted::{Nothing, Part, Whole};
    use super::*;

    #[test]
    fn table() {
        for (header, length, expected) in [
            ("bytes=0-0", 10, Part(0..1)),
            ("bytes=0-9", 10, Part(0..10)),
            ("bytes=0-99", 10, Part(0..10)),
            ("bytes=3-", 10, Part(3..10)),
            ("bytes=9-", 10, Part(9..10)),
            ("bytes=10-", 10, Nothing),
            ("bytes=10-12", 10, Nothing),
            ("bytes=-3", 10, Part(7..10)),
            ("bytes=-10", 10, Part(0..10)),
            ("bytes=-99", 10, Part(0..10)),
            ("bytes=-0", 10, Nothing),
            ("bytes=0-", 0, Nothing),
            ("bytes=-1", 0, Nothing),
            ("BYTES = 1 - 2 ", 10, Part(1..3)),
            ("bytes=0-18446744073709551615", 10, Part(0..10)),
            ("bytes=99999999999999999999999-", 10, Nothing),
            ("bytes=-99999999999999999999999", 10, Part(0..10)),
            ("bytes=0-1,3-4", 10, Whole),
            ("bytes=5-2", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=--1", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("bytes=", 10, Whole),
            ("bytes", 10, Whole),
            ("items=0-1", 10, Whole),
            ("", 10, Whole),
        ] {
            assert_eq!(wanted(header, length), expected, "{header} of {length}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_within(header in "(bytes=)?[0-9]{0,21}-?[0-9]{0,21}(,|\\PC)?", length: u64) {
            if let Part(range) = wanted(&header, length) {
                prop_assert!(range.start < range.end && range.end <= length);
            }
        }
    }
}
