//! Entity tags in requests (RFC 9110, sections 13.1.2 and 13.1.5).
//!
//! Tags of this server hold neither commas nor quotes, so lists of them are split at commas.

/// Whether an If-None-Match header names `tag`: then the client has the answer already. The comparison is the weak
/// one, because a cache on the way may have weakened the tag.
pub(crate) fn names(if_none_match: &str, tag: &str) -> bool {
    if_none_match
        .split(',')
        .map(str::trim)
        .any(|other| other == "*" || other.strip_prefix("W/").unwrap_or(other) == tag)
}

/// Whether an If-Range header lets a part be sent: only if the client has a part of exactly this answer. A date never lets
/// it, because these answers have no date.
pub(crate) fn allows_part(if_range: &str, tag: &str) -> bool {
    if_range.trim() == tag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (header, listed, part) in [
            (r#""a""#, true, true),
            (r#" "a" "#, true, true),
            (r#"W/"a""#, true, false),
            (r#""b", "a""#, true, false),
            (r#""b",W/"a""#, true, false),
            ("*", true, false),
            (r#""b""#, false, false),
            ("a", false, false),
            (r#"w/"a""#, false, false),
            ("Sun, 09 Sep 2001 01:46:40 GMT", false, false),
            ("", false, false),
        ] {
            assert_eq!(names(header, r#""a""#), listed, "{header}");
            assert_eq!(allows_part(header, r#""a""#), part, "{header}");
        }
    }
}
