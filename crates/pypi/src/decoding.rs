//! What an answer says, out of its content codings (RFC 9110), and in UTF-8.
//!
//! What always holds: what comes out is never larger than the limit, and at no time is much more in memory; a body
//! that ends early or has other bytes than its checksum says is an error; no input panics. Tested below and in
//! `tests/client.rs`.

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use flate2::{Decompress, FlushDecompress, Status};
use html5gum::{Token, Tokenizer};
use reqwest::header::{CONTENT_ENCODING, HeaderMap};
use strandline_sync::upstream::Problem;

use crate::listing::malformed;
use crate::url_check::shown;

/// How many codings are undone, one after the other.
const MOST: usize = 2;
/// The largest window of gzip, as a power of two.
const WINDOW: u8 = 15;
/// How far a page is searched for the charset that it states, in bytes, as browsers do.
const SEARCHED: usize = 1024;

/// Takes a body piece by piece, and undoes its content codings.
#[derive(Debug)]
pub(crate) struct Unpacker {
    /// The outermost is the last.
    codings: Vec<Coding>,
    out: Vec<u8>,
    limit: u64,
}

/// One content coding.
#[derive(Debug)]
struct Coding {
    kind: Kind,
    /// The first bytes, as long as they do not say yet which of the two forms it has.
    start: Vec<u8>,
    stream: Option<Decompress>,
    /// Something came, and it did not come to its end.
    open: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// RFC 1952: one or several members, one after the other.
    Gzip,
    /// RFC 1950; or RFC 1951, which it should not be, and which some servers send.
    Deflate,
}

impl Unpacker {
    /// For a body with the codings that its headers name; an error names one that this program does not read.
    pub(crate) fn new(headers: &HeaderMap, limit: u64) -> Result<Self, Problem> {
        let mut codings = Vec::new();
        for value in headers.get_all(CONTENT_ENCODING) {
            for name in String::from_utf8_lossy(value.as_bytes()).split(',').map(str::trim) {
                let kind = match name.to_ascii_lowercase().as_str() {
                    "" | "identity" => continue,
                    "gzip" | "x-gzip" => Kind::Gzip,
                    "deflate" => Kind::Deflate,
                    _ => {
                        return Err(malformed(format!(
                            "the answer has the content coding `{}`, which was not asked for; this program reads gzip and deflate",
                            shown(name)
                        )));
                    }
                };
                codings.push(Coding { kind, start: Vec::new(), stream: None, open: false });
            }
        }
        if codings.len() > MOST {
            return Err(malformed(format!(
                "the answer has {} content codings; at most {MOST} are read",
                codings.len()
            )));
        }
        Ok(Self { codings, out: Vec::new(), limit })
    }

    /// Takes the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let Self { codings, out, limit } = self;
        unpack(codings, bytes, &mut |bytes| {
            if (out.len() + bytes.len()) as u64 > *limit {
                return Err(Problem::TooLarge { limit: *limit });
            }
            out.extend_from_slice(bytes);
            Ok(())
        })
    }

    /// How many bytes are unpacked.
    pub(crate) fn size(&self) -> usize {
        self.out.len()
    }

    /// The whole.
    pub(crate) fn finish(self) -> Result<Vec<u8>, Problem> {
        match self.codings.iter().find(|coding| coding.open) {
            Some(coding) => Err(damaged(coding.kind, "it ends early")),
            None => Ok(self.out),
        }
    }
}

fn damaged(kind: Kind, why: &str) -> Problem {
    Problem::Transport(format!("the answer is damaged below its content coding {}: {why}", kind.name()))
}

type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Problem>;

/// Undoes all of these, the last one first.
fn unpack(codings: &mut [Coding], bytes: &[u8], sink: Sink<'_>) -> Result<(), Problem> {
    match codings.split_last_mut() {
        None => sink(bytes),
        Some((outer, inner)) => outer.push(bytes, &mut |bytes| unpack(inner, bytes, sink)),
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }
}

impl Coding {
    fn push(&mut self, bytes: &[u8], sink: Sink<'_>) -> Result<(), Problem> {
        if bytes.is_empty() || self.stream.is_some() || self.kind == Kind::Gzip {
            return self.run(bytes, sink);
        }
        if !self.open && !self.start.is_empty() {
            return Err(damaged(self.kind, "there is more after its end"));
        }
        self.open = true;
        self.start.extend_from_slice(bytes);
        if self.start.len() < 2 {
            return Ok(());
        }
        self.stream = Some(Decompress::new(is_zlib(self.start[0], self.start[1])));
        let start = std::mem::replace(&mut self.start, vec![0]);
        self.run(&start, sink)
    }

    fn run(&mut self, mut bytes: &[u8], sink: Sink<'_>) -> Result<(), Problem> {
        let mut buffer = [0; 16 << 10];
        loop {
            let stream = match (&mut self.stream, self.kind) {
                (Some(stream), _) => stream,
                (None, Kind::Gzip) => {
                    // Some programs fill up with zeros behind the last member.
                    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
                    bytes = &bytes[zeros..];
                    if bytes.is_empty() {
                        return Ok(());
                    }
                    self.open = true;
                    self.stream.insert(Decompress::new_gzip(WINDOW))
                }
                (None, Kind::Deflate) if bytes.is_empty() => return Ok(()),
                (None, Kind::Deflate) => return Err(damaged(self.kind, "there is more after its end")),
            };
            let (read, written) = (stream.total_in(), stream.total_out());
            let status = stream
                .decompress(bytes, &mut buffer, FlushDecompress::None)
                .map_err(|error| damaged(self.kind, &error.to_string()))?;
            let count = |now: u64, before: u64| usize::try_from(now - before).unwrap_or_default();
            let (read, written) = (count(stream.total_in(), read), count(stream.total_out(), written));
            bytes = &bytes[read..];
            sink(&buffer[..written])?;
            if status == Status::StreamEnd {
                (self.stream, self.open) = (None, false);
            } else if written < buffer.len() && bytes.is_empty() {
                return Ok(());
            } else if (read, written) == (0, 0) {
                return Err(damaged(self.kind, "it does not go on"));
            }
        }
    }
}

/// Whether two bytes begin what RFC 1950 describes.
fn is_zlib(first: u8, second: u8) -> bool {
    first & 0x0f == 8 && u16::from_be_bytes([first, second]).is_multiple_of(31)
}

/// A body in UTF-8, without a byte order mark: of the encoding of its mark; if it is HTML, of the charset that its type
/// states, else that it states itself. An unknown charset is taken as UTF-8, in which most of them agree on ASCII.
pub(crate) fn utf8(mut body: Vec<u8>, content_type: &str, limit: u64) -> Result<Vec<u8>, Problem> {
    let encoding = match Encoding::for_bom(&body) {
        Some((encoding, mark)) => {
            body.drain(..mark);
            encoding
        }
        None if is_html(content_type) => {
            charset_of(content_type).or_else(|| stated(&body[..body.len().min(SEARCHED)])).unwrap_or(UTF_8)
        }
        None => UTF_8,
    };
    if encoding == UTF_8 {
        return Ok(body);
    }
    let text = encoding.decode_without_bom_handling_and_without_replacement(&body).ok_or_else(|| {
        malformed(format!("the page is not of the charset that it states, which is {}", encoding.name()))
    })?;
    if text.len() as u64 > limit {
        return Err(Problem::TooLarge { limit });
    }
    Ok(text.into_owned().into_bytes())
}

fn is_html(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "text/html" || media_type.ends_with("+html")
}

/// The charset of `text/html; charset=x`.
fn charset_of(content_type: &str) -> Option<&'static Encoding> {
    let parameters = content_type.split(';').skip(1);
    let named = parameters.filter_map(|parameter| parameter.split_once('='));
    let mut charsets = named.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    charsets.next().and_then(|(_, value)| label(value.trim().trim_matches(['"', '\''])))
}

fn label(text: &str) -> Option<&'static Encoding> {
    Encoding::for_label_no_replacement(text.as_bytes())
}

/// The charset that a page states in a `meta`. It was read as ASCII, so it is not UTF-16, whatever it says.
fn stated(start: &[u8]) -> Option<&'static Encoding> {
    let start = String::from_utf8_lossy(start);
    for token in Tokenizer::new(&*start) {
        let Ok(token) = token;
        if let Token::StartTag(tag) = token
            && tag.name.as_slice() == b"meta"
        {
            let attribute = |name: &[u8]| tag.attributes.get(name).map(|value| String::from_utf8_lossy(value));
            let is_type = attribute(b"http-equiv").is_some_and(|name| name.eq_ignore_ascii_case("content-type"));
            let found = match (attribute(b"charset"), attribute(b"content").filter(|_| is_type)) {
                (Some(charset), _) => label(charset.trim()),
                (None, content) => content.and_then(|content| charset_of(&content)),
            };
            if let Some(encoding) = found {
                return Some(if encoding == UTF_16LE || encoding == UTF_16BE { UTF_8 } else { encoding });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn raw(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Takes a body in pieces of a size, up to 100,000 bytes.
    fn unpacked(names: &[&str], body: &[u8], piece: usize) -> Result<Vec<u8>, Problem> {
        let mut headers = HeaderMap::new();
        for name in names {
            headers.append(CONTENT_ENCODING, HeaderValue::from_str(name).unwrap());
        }
        let mut unpacker = Unpacker::new(&headers, 100_000)?;
        for piece in body.chunks(piece) {
            unpacker.push(piece)?;
        }
        unpacker.finish()
    }

    #[test]
    fn codings_that_are_read() {
        let text = "<a href=six>six</a>".repeat(5000).into_bytes();
        let members = [gzip(&text[..7]), gzip(b""), gzip(&text[7..])].concat();
        for (names, body) in [
            (&["gzip"][..], members.clone()),
            (&["X-GZip"], [members, vec![0; 20]].concat()),
            (&["deflate"], zlib(&text)),
            (&["deflate"], raw(&text)),
            (&["deflate, gzip"], gzip(&zlib(&text))),
            (&["gzip", "gzip"], gzip(&gzip(&text))),
            (&["identity"], text.clone()),
            (&[], text.clone()),
        ] {
            for piece in [1, 1000, body.len()] {
                assert!(unpacked(names, &body, piece).unwrap() == text, "{names:?} {piece}");
            }
        }
        assert_eq!(unpacked(&["gzip"], b"", 1).unwrap(), b"");
        assert_eq!(unpacked(&["deflate"], b"", 1).unwrap(), b"");
    }

    #[test]
    fn codings_that_are_not() {
        let said = [&["br"][..], &["gzip, zstd"], &["compress"], &["gzip,gzip", "gzip"]]
            .map(|names| unpacked(names, b"x", 1).unwrap_err().to_string());
        insta::assert_snapshot!(said.join("\n"), @"
        the answer has the content coding `br`, which was not asked for; this program reads gzip and deflate
        the answer has the content coding `zstd`, which was not asked for; this program reads gzip and deflate
        the answer has the content coding `compress`, which was not asked for; this program reads gzip and deflate
        the answer has 3 content codings; at most 2 are read
        ");
    }

    #[test]
    fn damage_is_found() {
        let text = b"some text that is packed, some text that is packed".as_slice();
        for (name, body) in [("gzip", gzip(text)), ("deflate", zlib(text)), ("deflate", raw(text))] {
            for length in 1..body.len() {
                let error = unpacked(&[name], &body[..length], 7).unwrap_err();
                assert!(matches!(error, Problem::Transport(_)), "{error}");
            }
        }
        let mut other = gzip(text);
        *other.last_mut().unwrap() ^= 1;
        for (name, body) in [
            ("gzip", other),
            ("gzip", [gzip(text), b"x".to_vec()].concat()),
            ("deflate", [zlib(text), b"x".to_vec()].concat()),
            ("gzip", text.to_vec()),
        ] {
            for piece in [1, 1000] {
                assert!(matches!(unpacked(&[name], &body, piece), Err(Problem::Transport(_))), "{name} {piece}");
            }
        }
    }

    #[test]
    fn the_limit_is_that_of_what_comes_out() {
        for (names, body) in [
            (&["gzip"][..], gzip(&vec![0; 100_001])),
            (&["gzip"], [gzip(&vec![0; 60_000]), gzip(&vec![0; 60_000])].concat()),
            (&["deflate"], raw(&vec![0; 10_000_000])),
            (&["gzip, gzip"], gzip(&gzip(&vec![0; 10_000_000]))),
        ] {
            assert_eq!(unpacked(names, &body, 512), Err(Problem::TooLarge { limit: 100_000 }));
        }
        assert_eq!(unpacked(&["gzip"], &gzip(&vec![0; 100_000]), 512).unwrap().len(), 100_000);
    }

    fn text(body: &[u8], content_type: &str) -> String {
        match utf8(body.to_vec(), content_type, 100) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(problem) => problem.to_string(),
        }
    }

    #[test]
    fn charsets_and_marks() {
        let utf16: Vec<u8> = "\u{feff}é".encode_utf16().flat_map(u16::to_be_bytes).collect();
        for (body, content_type, expected) in [
            (&b"caf\xe9"[..], "text/html; charset=ISO-8859-1", "café"),
            (b"caf\xe9", "Text/HTML; x=y; Charset=\"windows-1252\"", "café"),
            (b"\xa4", "application/vnd.pypi.simple.v1+html;charset='iso-8859-15'", "€"),
            (b"\x82\xa0", "text/html; charset=Shift_JIS", "あ"),
            (b"<meta charset=latin1>\xe9", "text/html", "<meta charset=latin1>é"),
            ("é".as_bytes(), "text/html", "é"),
            ("é".as_bytes(), "text/html; charset=x-unknown", "é"),
            ("<meta charset=utf-16>é".as_bytes(), "text/html", "<meta charset=utf-16>é"),
            ("<meta charset=latin1>é".as_bytes(), "text/html; charset=utf-8", "<meta charset=latin1>é"),
            ("\u{feff}é".as_bytes(), "text/html; charset=latin1", "é"),
            ("\u{feff}{}".as_bytes(), "application/json", "{}"),
            (&utf16, "text/html", "é"),
            (&utf16, "application/vnd.pypi.simple.v1+json", "é"),
            ("é".as_bytes(), "application/json; charset=latin1", "é"),
            (
                b"\x82",
                "text/html; charset=Shift_JIS",
                "the page is not of the charset that it states, which is Shift_JIS",
            ),
            (&[0xe9; 51], "text/html; charset=latin1", "the answer is larger than the limit of 100 bytes"),
        ] {
            assert_eq!(text(body, content_type), expected, "{content_type}");
        }
        let old = "<META http-equiv=Content-Type content='text/html; charset=windows-1251'>";
        assert_eq!(text(&[old.as_bytes(), b"\xe9"].concat(), "text/html"), format!("{old}й"));
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..300, at in 0_usize..100) {
            for (names, packed) in [(["gzip"], gzip(&body)), (["deflate"], zlib(&body)), (["deflate"], raw(&body))] {
                prop_assert_eq!(unpacked(&names, &packed, cut + 1), Ok(body.clone()));
                let mut broken = packed.clone();
                if let Some(byte) = broken.get_mut(at) {
                    *byte ^= 0x55;
                }
                drop(unpacked(&names, &broken, cut + 1));
                drop(unpacked(&names, &body, cut + 1));
            }
            drop(utf8(body.clone(), "text/html; charset=gbk", 100));
            drop(utf8(body, "text/html", 100));
        }
    }
}
