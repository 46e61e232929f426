//! JSON that is kept as it came.

use std::fmt;

use serde_json::value::RawValue;

/// A JSON value as the text that came. So no number, order of keys or nesting needs a canonical form: the text is compared, and
/// nothing reads it but a renderer that knows what it means.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(String);

impl Json {
    /// Takes the text of one value without white space around it; `None` for any other text.
    pub fn of(text: &str) -> Option<Self> {
        let raw: &RawValue = serde_json::from_str(text).ok()?;
        (raw.get() == text).then(|| raw.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value, to be written into other JSON.
    pub fn raw(&self) -> &RawValue {
        serde_json::from_str(&self.0).expect("the text was read as JSON before")
    }
}

impl From<&RawValue> for Json {
    fn from(raw: &RawValue) -> Self {
        Self(raw.get().to_owned())
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
