//! Digests: the store names content by BLAKE3; indexes publish SHA-256.

use std::str::FromStr;
use std::{fmt, io};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// Text that is not a 256-bit digest in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not 64 hexadecimal digits")]
pub struct InvalidDigest {
    found: String,
}

fn parse_hex(text: &str) -> Result<[u8; 32], InvalidDigest> {
    let invalid = || InvalidDigest { found: text.chars().take(80).flat_map(char::escape_debug).collect() };
    let bytes = text.as_bytes();
    if bytes.len() != 64 {
        return Err(invalid());
    }
    let nibble = |byte: u8| Some(NIBBLES[usize::from(byte)]).filter(|nibble| *nibble < 16);
    let mut out = [0; 32];
    for (to, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else { return Err(invalid()) };
        *to = high << 4 | low;
    }
    Ok(out)
}

/// The value of each digit of a digest; 16 for a byte that is no digit. It is a table, because no processor can predict the
/// next digit's branch.
const NIBBLES: [u8; 256] = {
    let mut table = [16; 256];
    let mut nibble = 0;
    while nibble < 16 {
        table[b"0123456789abcdef"[nibble as usize] as usize] = nibble;
        table[b"0123456789ABCDEF"[nibble as usize] as usize] = nibble;
        nibble += 1;
    }
    table
};

fn write_hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
}

macro_rules! digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The 32 bytes, as the catalog stores them.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidDigest;
            fn from_str(text: &str) -> Result<Self, InvalidDigest> {
                parse_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

digest! {
    /// The BLAKE3 of some bytes: the name of a blob, or the id of a unit, node or snapshot.
    ///
    /// Computed here or read back from a body whose own id was checked.
    Blake3
}

digest! {
    /// A SHA-256 that was computed from bytes in hand.
    ///
    /// A claim is not a fact; the types differ:
    ///
    /// ```compile_fail
    /// use strandline_model::{ClaimedSha256, Sha256};
    /// let claimed: ClaimedSha256 = "00".repeat(32).parse().unwrap();
    /// let computed: Sha256 = claimed;
    /// ```
    ///
    /// ```
    /// use strandline_model::{ClaimedSha256, Sha256};
    /// let computed = Sha256::of(b"abc");
    /// let claimed: ClaimedSha256 = computed.to_string().parse().unwrap();
    /// assert_eq!(claimed.confirm(computed), Ok(computed));
    /// ```
    Sha256
}

digest! {
    /// A SHA-256 that upstream states and that has not been compared with the bytes yet.
    ClaimedSha256
}

impl Blake3 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of everything that a reader gives. It is read through `buffer`, so that a caller with many small files
    /// needs only one.
    pub fn of_reader(reader: impl io::Read, buffer: &mut [u8]) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        read_chunks(reader, buffer, |bytes| {
            hasher.update(bytes);
            Ok::<_, io::Error>(())
        })?;
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// Takes what the catalog stored as a BLAKE3.
    pub fn from_stored(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The `index`-th nibble of the digest, 0 to 15; `index` is 0 to 63.
    pub fn nibble(&self, index: usize) -> usize {
        let byte = self.0[index / 2];
        usize::from(if index.is_multiple_of(2) { byte >> 4 } else { byte & 15 })
    }
}

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Takes what the catalog stored as a computed SHA-256.
    pub fn from_stored(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

/// The bytes are not the ones that were claimed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected sha256 {expected}, got {actual}")]
pub struct DigestMismatch {
    /// What was claimed.
    pub expected: ClaimedSha256,
    /// What the bytes are.
    pub actual: Sha256,
}

impl ClaimedSha256 {
    /// Returns the digest as fact if `actual` is what was claimed.
    pub fn confirm(self, actual: Sha256) -> Result<Sha256, DigestMismatch> {
        if self.0 == actual.0 { Ok(actual) } else { Err(DigestMismatch { expected: self, actual }) }
    }
}

impl From<Sha256> for ClaimedSha256 {
    /// A fact may be claimed.
    fn from(computed: Sha256) -> Self {
        Self(computed.0)
    }
}

impl<'de> Deserialize<'de> for ClaimedSha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Passes everything that a reader gives on, a buffer at a time; a read that a signal interrupted is made again.
pub fn read_chunks<E: From<io::Error>>(
    mut reader: impl io::Read,
    buffer: &mut [u8],
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    loop {
        match reader.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => each(buffer.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Computes BLAKE3, SHA-256 and the size in one pass over a stream.
#[derive(Debug, Clone, Default)]
pub struct Hasher {
    blake3: Box<blake3::Hasher>,
    sha256: sha2::Sha256,
    size: u64,
}

impl Hasher {
    /// The digests and the size of everything that a reader gives.
    pub fn of_reader(reader: impl io::Read) -> io::Result<(Blake3, Sha256, u64)> {
        let mut hasher = Self::default();
        read_chunks(reader, &mut vec![0; 256 << 10], |bytes| {
            hasher.update(bytes);
            Ok::<_, io::Error>(())
        })?;
        Ok(hasher.finish())
    }

    /// Takes the next bytes of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        self.sha256.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// How many bytes came so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digests and the size of everything that came.
    pub fn finish(self) -> (Blake3, Sha256, u64) {
        (Blake3(*self.blake3.finalize().as_bytes()), Sha256(self.sha256.finalize().into()), self.size)
    }
}
