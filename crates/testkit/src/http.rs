//! HTTP/1.1 by hand, because a fake must be able to break it: bodies shorter than announced, resets, silence.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Larger heads and bodies than these end the connection.
const MAX_HEAD: usize = 64 << 10;
const MAX_BODY: usize = 16 << 20;

/// An answer, byte for byte as a test wants it.
///
/// `Content-Length` is added unless a header says it, or the body is chunked. Where a header says a length that is not
/// the body's, the connection is closed after the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names and values, sent in this order and as they are.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// How many times the body is sent one after the other: a huge body without the memory.
    pub repeat: u64,
    /// Whether the body is sent in chunks, without a length.
    pub chunked: bool,
}

impl Response {
    /// An empty answer.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new(), repeat: 1, chunked: false }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends the body `times` times over.
    #[must_use]
    pub fn repeated(mut self, times: u64) -> Self {
        self.repeat = times;
        self
    }

    /// Sends the body in chunks, without a length.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// A page of text.
    pub(crate) fn text(status: u16, text: &str) -> Self {
        Self::new(status).header("Content-Type", "text/plain; charset=UTF-8").body(text.to_owned())
    }

    fn says(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

/// How many requests wait for an answer, and the most that ever did at once.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    now: AtomicU64,
    most: AtomicU64,
}

impl Waiting {
    /// Counts one more, until the value is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> OneWaiting {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        OneWaiting(Arc::clone(self))
    }

    pub(crate) fn most(&self) -> u64 {
        self.most.load(Ordering::SeqCst)
    }

    /// Starts anew with those that wait now.
    pub(crate) fn reset(&self) {
        self.most.store(self.now.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct OneWaiting(Arc<Waiting>);

impl Drop for OneWaiting {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How an answer travels.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    pub(crate) waiting: Option<OneWaiting>,
    pub(crate) latency: Duration,
    pub(crate) hang: bool,
    pub(crate) reset: bool,
    pub(crate) truncate: bool,
    pub(crate) drip: Option<(usize, Duration)>,
}

/// What a client asked for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Decoded, without the query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    keep_alive: bool,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut found = headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.as_str())
}

/// Answers the requests of one connection until it ends.
pub(crate) async fn connection<A>(mut stream: TcpStream, answer: Arc<A>) -> io::Result<()>
where
    A: Fn(&Request) -> (Response, Delivery) + Send + Sync,
{
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::new();
    while let Some(request) = read(&mut stream, &mut buffer).await? {
        let (response, mut delivery) = answer(&request);
        tokio::time::sleep(delivery.latency).await;
        if delivery.hang {
            // Until the client gives up.
            while stream.read_buf(&mut buffer).await? > 0 {
                buffer.clear();
            }
            return Ok(());
        }
        if delivery.reset {
            return stream.set_zero_linger();
        }
        // Before the client can have the answer, because with it, it may ask for the next thing.
        drop(delivery.waiting.take());
        if !write(&mut stream, &request, &response, &delivery).await? {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

async fn read(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Option<Request>> {
    let head = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = buffer.split_to(end);
            buffer.advance(4);
            break head;
        }
        if buffer.len() > MAX_HEAD || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version)) = (first.next(), first.next(), first.next()) else {
        return Ok(None);
    };
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = find(&headers, "content-length").map_or(Some(0), |length| length.parse().ok());
    let Some(length) = length.filter(|length| *length <= MAX_BODY) else {
        return Ok(None);
    };
    if find(&headers, "expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let keep_alive = match find(&headers, "connection").map(str::to_ascii_lowercase) {
        Some(value) if value.contains("close") => false,
        Some(value) if value.contains("keep-alive") => true,
        _ => version == "HTTP/1.1",
    };
    // A proxy may ask with the whole URL.
    let target = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    let path = target.split(['?', '#']).next().unwrap_or_default();
    Ok(Some(Request {
        method: method.to_owned(),
        path: crate::render::percent_decode(path),
        headers,
        body: buffer.split_to(length).freeze(),
        keep_alive,
    }))
}

/// Sends the answer; false when the connection cannot be used any more.
async fn write(
    stream: &mut TcpStream,
    request: &Request,
    response: &Response,
    delivery: &Delivery,
) -> io::Result<bool> {
    let bodiless = matches!(response.status, 204 | 304);
    let length = response.body.len() as u64 * response.repeat;
    let mut usable = request.keep_alive && !delivery.truncate;
    let mut head = format!("HTTP/1.1 {} {}\r\n", response.status, reason(response.status));
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if response.chunked {
        head.push_str("Transfer-Encoding: chunked\r\n");
    } else if let Some(said) = response.says("content-length") {
        usable &= said.parse() == Ok(length);
    } else if !bodiless {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    if !usable {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    if request.method == "HEAD" || bodiless {
        stream.write_all(head.as_bytes()).await?;
        return Ok(usable);
    }
    if let Some((size, pause)) = delivery.drip {
        stream.write_all(head.as_bytes()).await?;
        for piece in response.body.chunks(size) {
            tokio::time::sleep(pause).await;
            stream.write_all(&framed(piece, response.chunked)).await?;
        }
    } else {
        let keep = if delivery.truncate { response.body.len() / 2 } else { response.body.len() };
        let body = framed(&response.body[..keep], response.chunked);
        let mut first = head.into_bytes();
        first.extend_from_slice(&body);
        stream.write_all(&first).await?;
        let more = if delivery.truncate { 0 } else { response.repeat.saturating_sub(1) };
        for _ in 0..more {
            stream.write_all(&body).await?;
        }
    }
    if response.chunked && !delivery.truncate {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    Ok(usable)
}

/// A piece of a body as it goes over the wire.
fn framed(piece: &[u8], chunked: bool) -> Vec<u8> {
    if !chunked || piece.is_empty() {
        return piece.to_vec();
    }
    let mut out = format!("{:x}\r\n", piece.len()).into_bytes();
    out.extend_from_slice(piece);
    out.extend_from_slice(b"\r\n");
    out
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        304 => "Not Modified",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => "Status",
    }
}
