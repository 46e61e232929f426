//! Wheels: synthetic ones that pip can install, and the reading of real ones.
//!
//! A synthetic wheel is a zip of stored (uncompressed) entries, a pure function of its [`WheelSpec`]: the same spec
//! gives the same bytes on every machine.

use std::io::{self, Read as _};
use std::path::Path;

use bytes::Bytes;
use flate2::Crc;
use flate2::read::DeflateDecoder;
use sha2::{Digest as _, Sha256};

use crate::project::normalise;
use crate::rng::Rng;

/// What a synthetic wheel is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WheelSpec {
    /// The project's display name, as METADATA will say it.
    pub project: String,
    /// The release.
    pub version: String,
    /// Requirements, such as `six>=1.16`.
    pub requires_dist: Vec<String>,
    /// The Python versions it wants, such as `>=3.8`.
    pub requires_python: Option<String>,
    /// A build number: makes several wheels of one release.
    pub build: Option<u32>,
    /// Bytes of incompressible payload. The wheel is a few hundred bytes larger.
    pub payload: usize,
    /// Decides the payload.
    pub seed: u64,
}

impl WheelSpec {
    /// A wheel of 64 bytes of payload that needs nothing.
    pub fn new(project: &str, version: &str) -> Self {
        Self {
            project: project.to_owned(),
            version: version.to_owned(),
            requires_dist: Vec::new(),
            requires_python: None,
            build: None,
            payload: 64,
            seed: 0,
        }
    }

    /// Adds a requirement.
    #[must_use]
    pub fn requires(mut self, requirement: &str) -> Self {
        self.requires_dist.push(requirement.to_owned());
        self
    }

    /// Sets the Python versions it wants.
    #[must_use]
    pub fn requires_python(mut self, specifier: &str) -> Self {
        self.requires_python = Some(specifier.to_owned());
        self
    }

    /// Sets the build number.
    #[must_use]
    pub fn build(mut self, build: u32) -> Self {
        self.build = Some(build);
        self
    }

    /// Sets the size of the payload and what decides it.
    #[must_use]
    pub fn payload(mut self, bytes: usize, seed: u64) -> Self {
        self.payload = bytes;
        self.seed = seed;
        self
    }

    /// The wheel's filename.
    pub fn filename(&self) -> String {
        let build = self.build.map(|n| format!("-{n}")).unwrap_or_default();
        format!("{}-{}{build}-py3-none-any.whl", self.module(), self.version.replace('-', "_"))
    }

    /// What its METADATA says.
    pub fn metadata(&self) -> Vec<u8> {
        let mut text =
            format!("Metadata-Version: 2.1\nName: {}\nVersion: {}\nSummary: synthetic\n", self.project, self.version);
        if let Some(specifier) = &self.requires_python {
            text.push_str(&format!("Requires-Python: {specifier}\n"));
        }
        for requirement in &self.requires_dist {
            text.push_str(&format!("Requires-Dist: {requirement}\n"));
        }
        text.into_bytes()
    }

    /// The wheel itself.
    pub fn bytes(&self) -> Vec<u8> {
        let module = self.module();
        let info = format!("{module}-{}.dist-info", self.version.replace('-', "_"));
        let mut entries = vec![
            (format!("{module}/__init__.py"), format!("__version__ = \"{}\"\n", self.version).into_bytes()),
            (
                format!("{module}/payload.bin"),
                Rng::new(crate::rng::hash(self.seed, &self.filename(), 0)).bytes(self.payload),
            ),
            (format!("{info}/METADATA"), self.metadata()),
            (
                format!("{info}/WHEEL"),
                b"Wheel-Version: 1.0\nGenerator: testkit\nRoot-Is-Purelib: true\nTag: py3-none-any\n".to_vec(),
            ),
        ];
        let mut record = String::new();
        for (name, data) in &entries {
            let digest = base64_url(&Sha256::digest(data));
            record.push_str(&format!("{name},sha256={digest},{}\n", data.len()));
        }
        record.push_str(&format!("{info}/RECORD,,\n"));
        entries.push((format!("{info}/RECORD"), record.into_bytes()));
        zip(&entries)
    }

    /// The project's name as filenames and imports write it.
    fn module(&self) -> String {
        normalise(&self.project).replace('-', "_")
    }
}

/// A file as it is handed to the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Its filename.
    pub filename: String,
    /// The release it belongs to.
    pub version: String,
    /// Its bytes.
    pub bytes: Bytes,
    /// The METADATA inside, served beside it as `.metadata`; none for an sdist.
    pub metadata: Option<Bytes>,
    /// The Python versions it wants.
    pub requires_python: Option<String>,
}

impl Upload {
    /// A synthetic wheel.
    pub fn wheel(spec: &WheelSpec) -> Self {
        Self {
            filename: spec.filename(),
            version: spec.version.clone(),
            bytes: spec.bytes().into(),
            metadata: Some(spec.metadata().into()),
            requires_python: spec.requires_python.clone(),
        }
    }

    /// Any bytes under any filename, without METADATA.
    pub fn raw(filename: &str, version: &str, bytes: impl Into<Bytes>) -> Self {
        Self {
            filename: filename.to_owned(),
            version: version.to_owned(),
            bytes: bytes.into(),
            metadata: None,
            requires_python: None,
        }
    }

    /// A real wheel or sdist from disk, with the name of its project. The METADATA of a wheel is taken from inside it.
    pub fn from_path(path: &Path) -> io::Result<(String, Self)> {
        let filename =
            path.file_name().and_then(|name| name.to_str()).ok_or_else(|| invalid(path, "its name is not text"))?;
        let bytes = std::fs::read(path)?;
        let (project, version, metadata) = if let Some(stem) = filename.strip_suffix(".whl") {
            let mut parts = stem.split('-');
            let project = parts.next().unwrap_or_default();
            let version = parts.next().ok_or_else(|| invalid(path, "it is not named as a wheel"))?;
            let metadata = metadata_of(&bytes).ok_or_else(|| invalid(path, "it holds no METADATA"))?;
            (project, version, Some(metadata))
        } else {
            let stem = filename
                .strip_suffix(".tar.gz")
                .or_else(|| filename.strip_suffix(".zip"))
                .ok_or_else(|| invalid(path, "it is neither a wheel nor an sdist"))?;
            let (project, version) =
                stem.rsplit_once('-').ok_or_else(|| invalid(path, "it is not named as an sdist"))?;
            (project, version, None)
        };
        let header = |wanted: &str| {
            let text = metadata.as_deref().map(String::from_utf8_lossy)?;
            text.lines()
                .take_while(|line| !line.is_empty())
                .find_map(|line| line.strip_prefix(wanted).map(|value| value.trim().to_owned()))
        };
        let project = header("Name:").unwrap_or_else(|| project.to_owned());
        let upload = Self {
            filename: filename.to_owned(),
            version: version.to_owned(),
            requires_python: header("Requires-Python:"),
            bytes: bytes.into(),
            metadata: metadata.map(Bytes::from),
        };
        Ok((project, upload))
    }

    /// The `<pyver>` of the journal's action for this file.
    pub(crate) fn python_version(&self) -> &str {
        match self.filename.strip_suffix(".whl") {
            Some(stem) => stem.rsplit('-').nth(2).unwrap_or("py3"),
            None => "source",
        }
    }
}

fn invalid(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("cannot upload `{}`: {why}", path.display()))
}

/// Packs `entries` without compression.
fn zip(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    // 1980-01-01, the earliest date a zip can hold: no clock, so equal specs give equal bytes.
    const DATE: u32 = 0x0021_0000;
    let size = |length: usize| u32::try_from(length).expect("synthetic wheels are small");
    let short = |length: usize| u16::try_from(length).expect("synthetic wheels have few entries with short names");
    let mut out = Vec::new();
    let mut directory = Vec::new();
    for (name, data) in entries {
        let offset = size(out.len());
        let mut crc = Crc::new();
        crc.update(data);
        // What the local header and the directory entry have in common: version needed to the length of the extra field.
        let mut common = Vec::new();
        common.extend_from_slice(&[20, 0, 0, 0, 0, 0]);
        for word in [DATE, crc.sum(), size(data.len()), size(data.len())] {
            common.extend_from_slice(&word.to_le_bytes());
        }
        common.extend_from_slice(&short(name.len()).to_le_bytes());
        common.extend_from_slice(&[0, 0]);

        out.extend_from_slice(b"PK\x03\x04");
        out.extend_from_slice(&common);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(data);

        directory.extend_from_slice(b"PK\x01\x02\x14\x03");
        directory.extend_from_slice(&common);
        // No comment, first disk, no internal attributes; a regular file that all may read.
        directory.extend_from_slice(&[0; 6]);
        directory.extend_from_slice(&(0o100_644_u32 << 16).to_le_bytes());
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
    }
    let start = size(out.len());
    out.extend_from_slice(&directory);
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    for _ in 0..2 {
        out.extend_from_slice(&short(entries.len()).to_le_bytes());
    }
    out.extend_from_slice(&size(directory.len()).to_le_bytes());
    out.extend_from_slice(&start.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out
}

/// The METADATA inside a wheel, or none where the wheel cannot be read.
pub fn metadata_of(wheel: &[u8]) -> Option<Vec<u8>> {
    let end = (0..=wheel.len().checked_sub(22)?).rev().find(|&at| wheel[at..].starts_with(b"PK\x05\x06"))?;
    let count = number(wheel, end + 10, 2)?;
    let mut at = number(wheel, end + 16, 4)?;
    for _ in 0..count {
        let (method, packed) = (number(wheel, at + 10, 2)?, number(wheel, at + 20, 4)?);
        let (name, extra, comment) =
            (number(wheel, at + 28, 2)?, number(wheel, at + 30, 2)?, number(wheel, at + 32, 2)?);
        let local = number(wheel, at + 42, 4)?;
        let path = std::str::from_utf8(wheel.get(at + 46..at + 46 + name)?).ok()?;
        at += 46 + name + extra + comment;
        if !path.ends_with(".dist-info/METADATA") || path.matches('/').count() != 1 {
            continue;
        }
        let data = local + 30 + number(wheel, local + 26, 2)? + number(wheel, local + 28, 2)?;
        let data = wheel.get(data..data.checked_add(packed)?)?;
        if method == 0 {
            return Some(data.to_vec());
        }
        let mut text = Vec::new();
        DeflateDecoder::new(data).read_to_end(&mut text).ok()?;
        return Some(text);
    }
    None
}

/// The little-endian number of `length` bytes at `at`.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    Some(bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte)))
}

/// The URL-safe alphabet without padding, as RECORD wants it.
fn base64_url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |sum, n| sum << 8 | usize::from(*group.get(n).unwrap_or(&0)));
        for n in 0..=group.len() {
            text.push(char::from(ALPHABET[bits >> (18 - 6 * n) & 63]));
        }
    }
    text
}
