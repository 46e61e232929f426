//! Reading canonical bytes: lines of space-separated words.

use crate::InvalidDigest;

/// Bytes that are not the canonical form of the body that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a canonical {kind}: line {line}: {problem}")]
pub struct BadBody {
    kind: &'static str,
    line: usize,
    problem: String,
}

impl BadBody {
    /// About a body that has no lines.
    pub(crate) fn whole(kind: &'static str, problem: String) -> Self {
        Self { kind, line: 1, problem }
    }
}

/// The lines of a body, numbered for errors.
pub(crate) struct Lines<'a> {
    kind: &'static str,
    rest: std::str::Split<'a, char>,
    line: usize,
}

impl<'a> Lines<'a> {
    /// Checks that `bytes` are UTF-8 lines, each ended by a newline.
    pub(crate) fn of(kind: &'static str, bytes: &'a [u8]) -> Result<Self, BadBody> {
        let bad = |problem: &str| BadBody { kind, line: 0, problem: problem.to_owned() };
        let text = std::str::from_utf8(bytes).map_err(|_| bad("not UTF-8"))?;
        let text = text.strip_suffix('\n').ok_or_else(|| bad("the last newline is missing"))?;
        Ok(Self { kind, rest: text.split('\n'), line: 0 })
    }

    /// The next line, or `None` after the last.
    pub(crate) fn next(&mut self) -> Option<&'a str> {
        self.line += 1;
        self.rest.next()
    }

    /// The next line, which has to be there.
    pub(crate) fn expect(&mut self) -> Result<&'a str, BadBody> {
        self.next().ok_or_else(|| self.bad("the body ends too early"))
    }

    /// The rest of the next line after `key` and a space.
    pub(crate) fn value(&mut self, key: &str) -> Result<&'a str, BadBody> {
        let line = self.expect()?;
        line.strip_prefix(key)
            .and_then(|rest| rest.strip_prefix(' '))
            .ok_or_else(|| self.bad(&format!("expected `{key} …`")))
    }

    /// An error about the line that was read last.
    pub(crate) fn bad(&self, problem: &str) -> BadBody {
        BadBody { kind: self.kind, line: self.line, problem: problem.to_owned() }
    }

    /// Parses one word of the line that was read last.
    pub(crate) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&self, word: &str) -> Result<T, BadBody> {
        word.parse().map_err(|error: T::Err| self.bad(&error.to_string()))
    }

    /// Parses a digest in its canonical form, which has lower-case digits only.
    pub(crate) fn digest<T: std::str::FromStr<Err = InvalidDigest>>(&self, word: &str) -> Result<T, BadBody> {
        if word.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(self.bad("a digest has lower-case digits"));
        }
        self.parse(word)
    }

    /// Parses a number in its canonical decimal form.
    pub(crate) fn number(&self, word: &str) -> Result<u64, BadBody> {
        crate::serial::canonical_number(word).ok_or_else(|| self.bad("not a number in canonical form"))
    }
}

/// The words of a line that has exactly so many.
pub(crate) fn words<const COUNT: usize>(line: &str) -> Option<[&str; COUNT]> {
    let mut words = line.split(' ');
    let mut found = [""; COUNT];
    for word in &mut found {
        *word = words.next()?;
    }
    words.next().is_none().then_some(found)
}

/// Checks that parsing lost nothing: the value's own bytes are the ones it was read from.
pub(crate) fn require_canonical(kind: &'static str, read: &[u8], written: &[u8]) -> Result<(), BadBody> {
    if read == written {
        Ok(())
    } else {
        let line = read.split(|b| *b == b'\n').zip(written.split(|b| *b == b'\n')).take_while(|(a, b)| a == b).count();
        Err(BadBody { kind, line: line + 1, problem: "not in canonical form or order".to_owned() })
    }
}
