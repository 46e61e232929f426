//! What is inside a wheel: the core metadata, in `NAME-VERSION.dist-info/METADATA`.
//!
//! What always holds: no archive panics; not much more is read of one than [`DIRECTORY_MOST`] and [`METADATA_MOST`]; what is encrypted
//! or packed in a way that is not known is not taken out. Tested below.

use std::cell::Cell;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use strandline_model::ReadSeek;
use zip::ZipArchive;

/// How many bytes are read to find out what an archive has: its entries take some ten times as much memory.
const DIRECTORY_MOST: u64 = 8 << 20;
/// The largest metadata file that is taken out, in bytes.
const METADATA_MOST: u64 = 16 << 20;

/// The core metadata of a wheel; `None` where it is no wheel, has none, or has none that can be taken out.
pub(crate) fn metadata(filename: &str, file: &mut dyn ReadSeek) -> Option<Vec<u8>> {
    let stem = filename.strip_suffix(".whl")?;
    let of_file = |directory: &str| {
        let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '.', '+'], "_");
        // NAME-VERSION of NAME-VERSION-PYTHON-ABI-PLATFORM, which may spell them in another way.
        let mut parts = stem.split('-');
        let own = [parts.next()?, parts.next()?].map(plain).join("_");
        Some(plain(directory.strip_suffix(".dist-info")?) == own)
    };
    let left = Cell::new(DIRECTORY_MOST);
    let mut archive = ZipArchive::new(BufReader::new(Bounded { file, left: &left })).ok()?;
    let found = |name: &str| {
        let directory = name.strip_suffix("/METADATA")?;
        (directory.ends_with(".dist-info") && !directory.contains('/')).then(|| (directory.to_owned(), name.to_owned()))
    };
    let found: Vec<_> = archive.file_names().filter_map(found).collect();
    // An archive with several is none of a wheel, unless one of them is plainly meant.
    let mut own = found.iter().filter(|(directory, _)| found.len() == 1 || of_file(directory) == Some(true));
    let (Some((_, name)), None) = (own.next(), own.next()) else { return None };
    let name = name.clone();
    left.set(METADATA_MOST);
    let mut bytes = Vec::new();
    archive.by_name(&name).ok()?.take(METADATA_MOST + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= METADATA_MOST && std::str::from_utf8(&bytes).is_ok()).then_some(bytes)
}

/// Something of which only so many bytes are read.
struct Bounded<'a> {
    file: &'a mut dyn ReadSeek,
    left: &'a Cell<u64>,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        let left = self.left.get().checked_sub(count as u64);
        self.left.set(left.ok_or_else(|| io::Error::other("too much is read of it"))?);
        Ok(count)
    }
}

impl Seek for Bounded<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use proptest::prelude::*;
    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    use super::*;

    const NAME: &str = "six-1.0-py3-none-any.whl";
    const INSIDE: &str = "six-1.0.dist-info/METADATA";

    /// An archive of these members, packed or not.
    fn archive(members: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in members {
            writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn read(name: &str, bytes: &[u8]) -> Option<String> {
        metadata(name, &mut Cursor::new(bytes)).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    fn of(members: &[(&str, &[u8])]) -> Option<String> {
        read(NAME, &archive(members, CompressionMethod::Deflated))
    }

    #[test]
    fn metadata_stands_in_the_one_directory_of_the_wheel() {
        let long = "x".repeat(100_000);
        for text in ["", "Name: six\n", &long] {
            for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
                let members: [(&str, &[u8]); 2] = [("six.py", b"pass"), (INSIDE, text.as_bytes())];
                assert_eq!(read(NAME, &archive(&members, method)).as_deref(), Some(text));
            }
        }
        // Its name may be spelt in another way; of several, the one that is the wheel's counts.
        assert_eq!(of(&[("Six-1.0.0.dist-info/METADATA", b"a")]).as_deref(), Some("a"));
        assert_eq!(of(&[("a-1.dist-info/METADATA", b"a"), (INSIDE, b"b")]).as_deref(), Some("b"));
        let local = archive(&[("a.b-1.0_c.dist-info/METADATA", b"a"), (INSIDE, b"b")], CompressionMethod::Stored);
        assert_eq!(read("A_B-1.0+c-py3-none-any.whl", &local).as_deref(), Some("a"));
    }

    #[test]
    fn what_has_none() {
        for members in [
            &[("six.py", &b"pass"[..])][..],
            &[("x/six-1.0.dist-info/METADATA", b"a")],
            &[("METADATA", b"a"), (".dist-info", b"b"), ("six-1.0.dist-info/METADATA/x", b"c")],
            &[("a-1.dist-info/METADATA", b"a"), ("b-1.dist-info/METADATA", b"b")],
            &[(INSIDE, b"\xff")],
        ] {
            assert_eq!(of(members), None, "{members:?}");
        }
        let wheel = archive(&[(INSIDE, b"Name: six")], CompressionMethod::Stored);
        assert!(read(NAME, &wheel).is_some());
        for (name, bytes) in
            [("six-1.0.zip", &wheel[..]), (NAME, b"no archive"), (NAME, b""), (NAME, &wheel[..wheel.len() / 2])]
        {
            assert_eq!(read(name, bytes), None);
        }
    }

    /// The wheel with a number of two bytes changed in both places that describe its one member.
    fn described_as(at: usize, number: u16) -> Vec<u8> {
        let mut wheel = archive(&[(INSIDE, b"Name: six")], CompressionMethod::Stored);
        let directory = wheel.windows(4).position(|found| found == b"PK\x01\x02").unwrap();
        for start in [at, directory + 2 + at] {
            wheel[start..start + 2].copy_from_slice(&number.to_le_bytes());
        }
        wheel
    }

    #[test]
    fn what_cannot_be_taken_out_is_none() {
        let (flags, method) = (6, 8);
        assert!(read(NAME, &described_as(method, 0)).is_some());
        assert_eq!(read(NAME, &described_as(flags, 1)), None, "it is encrypted");
        for unknown in [9, 12, 14, 93, 99] {
            assert_eq!(read(NAME, &described_as(method, unknown)), None, "{unknown}");
        }
        // Bytes that are not what its checksum says.
        let mut wheel = archive(&[(INSIDE, b"Name: six")], CompressionMethod::Stored);
        let at = wheel.windows(4).position(|found| found == b"Name").unwrap();
        wheel[at] = b'n';
        assert_eq!(read(NAME, &wheel), None);
    }

    #[test]
    fn what_is_too_large_is_none() {
        let most = usize::try_from(METADATA_MOST).unwrap();
        assert!(of(&[(INSIDE, &vec![b'x'; most])]).is_some());
        assert_eq!(of(&[(INSIDE, &vec![b'x'; most + 1])]), None);
        // A directory that is nothing but names.
        let name = "x".repeat(60_000);
        let names: Vec<_> = (0..150).map(|number| format!("{name}{number}")).collect();
        let mut members: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        members.push((INSIDE, b"Name: six"));
        assert_eq!(of(&members), None);
        assert!(of(&members[100..]).is_some());
    }

    proptest! {
        #[test]
        fn no_archive_panics(at in 0_usize..300, bytes in proptest::collection::vec(any::<u8>(), 1..8)) {
            let mut wheel = archive(&[(INSIDE, b"Name: six"), ("six.py", b"pass")], CompressionMethod::Deflated);
            let at = at.min(wheel.len() - bytes.len());
            wheel[at..at + bytes.len()].copy_from_slice(&bytes);
            drop(metadata(NAME, &mut Cursor::new(&wheel)));
            drop(metadata(NAME, &mut Cursor::new(&bytes)));
        }
    }
}
