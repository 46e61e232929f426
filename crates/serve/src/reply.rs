//! Answers: the content that was found, cut down to the bytes that the request's conditions and range ask for.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH,
    IF_RANGE, LOCATION, RANGE, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use bytes::Bytes;
use futures_util::{Stream, stream};
use rustix::io::{ReadWriteFlags, preadv2};
use strandline_model::{Label, Serial};

use crate::conditional;
use crate::range::{self, Wanted};

/// How many bytes of a file are read at once, which is also the memory that a download takes. With half of it, the server
/// serves a third less.
const CHUNK: usize = 256 * 1024;

const PLAIN: &str = "text/plain; charset=utf-8";

/// How long an answer may be used without asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Always ask: the published snapshot changes at any time, and clients that keep pages would install from an old one.
    /// Asking is cheap, because the entity tag says whether anything changed.
    Ask,
    /// A snapshot's page: it never changes, but a withdrawal may put a new revision in its place.
    Minute,
    /// A file: its path never gets other bytes.
    Forever,
}

impl Freshness {
    fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Ask => "no-cache",
            Self::Minute => "public, max-age=60",
            Self::Forever => "public, max-age=31536000, immutable",
        })
    }
}

/// The snapshot that a page belongs to, and the serial of the project's last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) last_serial: Serial,
    pub(crate) snapshot: Label,
}

/// Something that can be sent, whole or in part.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) data: Data,
    /// The entity tag, with its quotes.
    pub(crate) tag: String,
    pub(crate) media_type: &'static str,
    pub(crate) freshness: Freshness,
    /// For pages only: they are negotiated, files are not.
    pub(crate) marks: Option<Marks>,
}

/// The bytes of an answer.
#[derive(Debug)]
pub(crate) enum Data {
    /// In memory.
    Bytes(Bytes),
    /// In a file of this many bytes.
    File(File, u64),
}

impl Data {
    fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, length) => *length,
        }
    }

    fn body(self, part: Range<u64>) -> Body {
        match self {
            Self::Bytes(bytes) => {
                let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                Body::from(bytes.slice(index(part.start)..index(part.end)))
            }
            Self::File(file, _) => Body::from_stream(chunks(file, part)),
        }
    }
}

/// A part of a file, a chunk at a time, each read into the memory that it is sent from. A file that ends too early is an error.
fn chunks(file: File, part: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> {
    let file = Arc::new(file);
    stream::try_unfold(part, move |Range { start, end }| {
        let file = file.clone();
        async move {
            let size = usize::try_from(end.saturating_sub(start)).unwrap_or(CHUNK).min(CHUNK);
            if size == 0 {
                return Ok(None);
            }
            let mut bytes = vec![0; size];
            let in_memory = preadv2(&file, &mut [IoSliceMut::new(&mut bytes)], start, ReadWriteFlags::NOWAIT);
            match in_memory.unwrap_or(0) {
                // The system has nothing in memory, or this file system cannot tell, or the file ends: a thread that
                // may wait finds out.
                0 => {
                    let read = move || file.read_exact_at(&mut bytes, start).map(|()| bytes);
                    bytes = tokio::task::spawn_blocking(read).await??;
                }
                read => bytes.truncate(read),
            }
            let next = start + bytes.len() as u64;
            Ok(Some((Bytes::from(bytes), next..end)))
        }
    })
}

/// Sends `content`, or as much of it as `headers` ask for.
pub(crate) fn content(method: &Method, headers: &HeaderMap, content: Content) -> Response<Body> {
    let Content { data, tag, media_type, freshness, marks } = content;
    let length = data.length();
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());

    let mut answer = Response::new(Body::empty());
    let out = answer.headers_mut();
    out.insert(ETAG, header(&tag));
    out.insert(CACHE_CONTROL, freshness.header());
    if let Some(Marks { last_serial, snapshot }) = marks {
        out.insert(VARY, HeaderValue::from_static("Accept"));
        out.insert(HeaderName::from_static("x-pypi-last-serial"), header(&last_serial.to_string()));
        out.insert(HeaderName::from_static("x-strandline-serial"), header(&snapshot.to_string()));
    }
    if headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .any(|value| value.to_str().is_ok_and(|list| conditional::names(list, &tag)))
    {
        if *method == Method::HEAD {
            // Else hyper says 0, and clients may take that for the length of their copy.
            out.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        return answer;
    }
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));

    // Ranges have no meaning with methods other than GET (RFC 9110, section 14.2).
    let asked = text(RANGE).filter(|_| *method == Method::GET);
    let asked = asked.filter(|_| match headers.get(IF_RANGE) {
        Some(value) => value.to_str().is_ok_and(|value| conditional::allows_part(value, &tag)),
        None => true,
    });
    let part = match asked.map_or(Wanted::Whole, |asked| range::wanted(asked, length)) {
        Wanted::Whole => 0..length,
        Wanted::Part(part) => {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {}-{}/{length}", part.start, part.end - 1);
            answer.headers_mut().insert(CONTENT_RANGE, header(&range));
            part
        }
        Wanted::Nothing => {
            let mut answer = plain(StatusCode::RANGE_NOT_SATISFIABLE, "there are no such bytes");
            answer.headers_mut().insert(CONTENT_RANGE, header(&format!("bytes */{length}")));
            return answer;
        }
    };
    let out = answer.headers_mut();
    out.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    out.insert(CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
    if *method != Method::HEAD {
        *answer.body_mut() = data.body(part);
    }
    answer
}

/// An answer in words, for a person who reads a program's output.
pub(crate) fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let text = format!("{text}\n");
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    let out = answer.headers_mut();
    out.insert(CONTENT_TYPE, HeaderValue::from_static(PLAIN));
    out.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    out.insert(CACHE_CONTROL, Freshness::Ask.header());
    *answer.body_mut() = Body::from(text);
    answer
}

/// Sends the client to the proper path of a page.
pub(crate) fn moved(path: &str, query: Option<&str>) -> Response<Body> {
    let to = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut answer = plain(StatusCode::MOVED_PERMANENTLY, &format!("moved to {path}"));
    let out = answer.headers_mut();
    out.insert(LOCATION, header(&to));
    out.insert(VARY, HeaderValue::from_static("Accept"));
    out.remove(CACHE_CONTROL);
    answer
}

/// The client takes no form of a page that there is.
pub(crate) fn not_acceptable() -> Response<Body> {
    let text = "the Accept header takes none of application/vnd.pypi.simple.v1+json, \
                application/vnd.pypi.simple.v1+html and text/html";
    let mut answer = plain(StatusCode::NOT_ACCEPTABLE, text);
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    answer
}

/// The method does not only read.
pub(crate) fn method_not_allowed() -> Response<Body> {
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "this is read with GET and HEAD");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    answer
}

/// A header's value that is made here.
fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("names, numbers and what came in a request have no line breaks")
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;

    async fn read(file: File, part: Range<u64>) -> io::Result<Vec<u8>> {
        let chunks: Vec<Bytes> = chunks(file, part).try_collect().await?;
        assert!(chunks.iter().all(|chunk| (1..=CHUNK).contains(&chunk.len())));
        Ok(chunks.concat())
    }

    #[tokio::test]
    async fn a_part_is_read_chunk_by_chunk() {
        let bytes: Vec<u8> = (0..=250).cycle().take(2 * CHUNK + 5).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file.as_file(), &bytes).unwrap();
        let end = bytes.len() as u64;
        for part in [0..end, 0..0, 3..end, 7..8, end - 1..end, 1..CHUNK as u64 + 1] {
            let at = |at: u64| usize::try_from(at).unwrap();
            let wanted = &bytes[at(part.start)..at(part.end)];
            assert!(read(file.reopen().unwrap(), part.clone()).await.unwrap() == wanted, "{part:?}");
        }
        let error = read(file.reopen().unwrap(), 0..end + 1).await.unwrap_err();
        assert_eq!(
            error.kind(),
            io::ErrorKind::UnexpectedEof,
            "what was cut off meanwhile is not sent as if it were whole"
        );
    }

    /// Such a file cannot be read without waiting, even where the system has it in memory.
    #[tokio::test]
    async fn what_may_have_to_be_waited_for_is_read_elsewhere() {
        let file = File::open("/proc/version").unwrap();
        let refused = preadv2(&file, &mut [IoSliceMut::new(&mut [0; 5])], 0, ReadWriteFlags::NOWAIT);
        assert_eq!(refused, Err(rustix::io::Errno::OPNOTSUPP));
        assert_eq!(read(file, 0..5).await.unwrap(), b"Linux");
    }
}
