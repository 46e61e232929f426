//! Names of projects and mirrors.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// Text that is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a valid {what}: {rule}")]
pub struct InvalidName {
    found: String,
    what: &'static str,
    rule: &'static str,
}

fn invalid(found: &str, what: &'static str, rule: &'static str) -> InvalidName {
    InvalidName { found: found.chars().take(100).flat_map(char::escape_debug).collect(), what, rule }
}

/// Longest name in bytes: a project is a directory, and file systems end at 255.
const LONGEST: usize = 250;

/// A project's name as its owner writes it, such as `Zope.Interface`.
///
/// ASCII letters, digits, `.`, `-` and `_`, with a letter or digit at both ends
/// (the rule for names in the core metadata specification, once PEP 508).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DisplayName(String);

impl DisplayName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The normalised form (PEP 503).
    pub fn normalise(&self) -> ProjectName {
        // Most names are normal.
        if normal(&self.0).eq(self.0.bytes()) {
            return ProjectName(self.0.clone());
        }
        let mut out = String::with_capacity(self.0.len());
        out.extend(normal(&self.0).map(char::from));
        ProjectName(out)
    }

    /// Whether this is a way to write a project's name.
    pub fn is_of(&self, project: &ProjectName) -> bool {
        normal(&self.0).eq(project.0.bytes())
    }

    /// Whether it keeps the rule.
    fn is_valid(text: &str) -> bool {
        let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        bytes.len() <= LONGEST
            && ends(bytes.first())
            && ends(bytes.last())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(byte))
    }
}

/// The normalised form of a valid name, byte by byte, so that comparing it allocates no text.
fn normal(text: &str) -> impl Iterator<Item = u8> {
    let mut after_separator = false;
    text.bytes().filter_map(move |byte| {
        let separator = matches!(byte, b'.' | b'-' | b'_');
        let repeated = separator && after_separator;
        after_separator = separator;
        (!repeated).then(|| if separator { b'-' } else { byte.to_ascii_lowercase() })
    })
}

impl FromStr for DisplayName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for DisplayName {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        if Self::is_valid(&text) {
            Ok(Self(text))
        } else {
            Err(invalid(
                &text,
                "project name",
                "letters, digits, `.`, `-` and `_`, a letter or digit at both ends, 250 bytes at most",
            ))
        }
    }
}

impl fmt::Display for DisplayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A normalised project name (PEP 503), such as `zope-interface`.
///
/// `FromStr` takes only names that are normal already; a name from outside goes through
/// [`DisplayName::normalise`] or [`ProjectName::normalise`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ProjectName(String);

impl ProjectName {
    /// Normalises any valid name.
    pub fn normalise(text: &str) -> Result<Self, InvalidName> {
        text.parse::<DisplayName>().map(|name| name.normalise())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProjectName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if DisplayName::is_valid(text) && normal(text).eq(text.bytes()) {
            Ok(Self(text.to_owned()))
        } else {
            let not_normal = || invalid(text, "normalised project name", "lower case, with single `-` (PEP 503)");
            Err(Self::normalise(text).err().unwrap_or_else(not_normal))
        }
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for ProjectName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The name of a mirror: a directory and the first part of its URLs.
///
/// Lower-case ASCII letters, digits, `-` and `_`, beginning with a letter or digit, 64 at most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct MirrorName(String);

impl MirrorName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MirrorName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let valid = bytes.len() <= 64
            && bytes.first().is_some_and(plain)
            && bytes.iter().all(|byte| plain(byte) || b"-_".contains(byte));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(invalid(text, "mirror name", "lower-case letters, digits, `-` and `_`, 64 bytes at most"))
        }
    }
}

impl fmt::Display for MirrorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! deserialize_from_str {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
deserialize_from_str!(DisplayName, ProjectName, MirrorName);
