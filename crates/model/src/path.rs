//! Paths inside a mirror's tree.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// Text that may not be a path in a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` cannot be a path in a mirror: {rule}")]
pub struct InvalidPath {
    found: String,
    rule: &'static str,
}

/// A relative path inside a mirror's tree, such as `simple/six/index.html`.
///
/// It is UTF-8 segments of 1 to 255 bytes joined by `/`, 4,096 bytes at most. A segment is never `.` or
/// `..` and holds no control character and no `\`, so a path can neither leave its tree nor break a
/// line of canonical bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TreePath(String);

impl TreePath {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last `/`.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(self.0.as_str(), |(_, name)| name)
    }

    /// Where the metadata file of the release file at this path stands (PEP 658); an error where the path leaves no room.
    pub fn metadata(&self) -> Result<Self, InvalidPath> {
        format!("{}.metadata", self.0).parse()
    }

    /// The part before the first `/`; the whole path when there is none.
    pub fn first_segment(&self) -> &str {
        self.0.split_once('/').map_or(self.0.as_str(), |(first, _)| first)
    }
}

impl FromStr for TreePath {
    type Err = InvalidPath;
    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        let invalid = |rule| InvalidPath { found: text.chars().take(200).flat_map(char::escape_debug).collect(), rule };
        if text.len() > 4096 {
            return Err(invalid("it is longer than 4,096 bytes"));
        }
        // Most paths are ASCII, and there are millions of them.
        let refused = if text.is_ascii() {
            text.bytes().any(|byte| byte.is_ascii_control() || byte == b'\\')
        } else {
            text.chars().any(|char| char.is_control() || char == '\\')
        };
        if refused {
            return Err(invalid("it holds a control character or `\\`"));
        }
        for segment in text.split('/') {
            match segment {
                "" => return Err(invalid("it has an empty segment")),
                "." | ".." => return Err(invalid("it has a `.` or `..` segment")),
                long if long.len() > 255 => return Err(invalid("a segment is longer than 255 bytes")),
                _ => {}
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
