//! An answer that comes too slowly, or not at all, ends: its beginning, a page, a list, a part of the log, a file.

#![cfg(test)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use strandline_model::Serial;
use strandline_pypi::{Index, Settings};
use strandline_sync::upstream::{Answer, Problem, Upstream as _, UpstreamError, Way};

/// The window of the tests.
const WINDOW: Duration = Duration::from_millis(100);

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 9000\r\n\r\n";

/// An upstream on loopback that writes these pieces on each connection, one after the other, and the last one for ever, with a
/// pause before each.
fn upstream(pieces: Vec<Vec<u8>>, pause: Duration) -> Index {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/simple/", listener.local_addr().unwrap());
    let say = move |mut stream: TcpStream, pieces: Vec<Vec<u8>>| {
        let last = pieces.last().cloned().into_iter().cycle();
        let mut said = pieces.into_iter().chain(last);
        drop(stream.read(&mut [0; 4096]));
        while let Some(piece) = said.next()
            && stream.write_all(&piece).is_ok()
        {
            std::thread::sleep(pause);
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let pieces = pieces.clone();
            std::thread::spawn(move || say(stream, pieces));
        }
    });
    let settings = Settings { idle_timeout: WINDOW, ..Settings::new(url.parse().unwrap()) };
    Index::new(settings).unwrap()
}

async fn page(index: &Index) -> Result<Answer, UpstreamError> {
    index.page(&"six".parse().unwrap(), None, Way::Usual).await
}

async fn file(index: &Index) -> Result<Vec<u8>, UpstreamError> {
    let url = format!("{}six-1.tar.gz", index.url());
    let chunks: Vec<_> = index.file(&url).await?.collect().await;
    let chunks: Result<Vec<_>, _> = chunks.into_iter().collect();
    Ok(chunks?.concat())
}

/// What each kind of request says of an upstream; that all end in the time of some windows, and may pass.
#[track_caller]
fn said(pieces: &[&str], pause: Duration) -> Vec<String> {
    let index = upstream(pieces.iter().map(|piece| piece.as_bytes().to_vec()).collect(), pause);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begin = Instant::now();
    let errors = runtime.block_on(async {
        let (page, file, events, last) =
            tokio::join!(page(&index), file(&index), index.events_since(Serial::ZERO), index.last_serial());
        [page.unwrap_err(), file.unwrap_err(), events.unwrap_err(), last.unwrap_err()]
    });
    assert!(begin.elapsed() < WINDOW * 20, "{:?}", begin.elapsed());
    for error in &errors {
        assert!(error.is_transient() && matches!(error.problem, Problem::TooSlow(_)), "{error}");
    }
    errors.map(|error| error.problem.to_string()).to_vec()
}

#[test]
fn one_that_does_not_begin() {
    for pieces in [&[""][..], &["HTTP/1.1 200 OK\r\nx: ", "x"], &["", "HTTP/1.1 103 Early Hints\r\n\r\n"]] {
        for why in said(pieces, Duration::from_millis(10)) {
            assert_eq!(why, "nothing came in time: in 0.1 s");
        }
    }
}

#[test]
fn one_that_comes_in_drops() {
    for (piece, pause) in [("x", 10), ("x", 60), ("xxxxx", 20)] {
        for why in said(&[HEAD, piece], Duration::from_millis(pause)) {
            assert!(why.starts_with("it comes too slowly: ") || why.starts_with("nothing came"), "{why}");
        }
    }
    // And one that stops.
    for why in said(&[HEAD, "x", ""], Duration::from_millis(10)) {
        assert!(why.starts_with("it comes too slowly: 1 bytes in 0.1 s") || why.starts_with("nothing came"), "{why}");
    }
}

#[tokio::test]
async fn what_is_read_as_a_whole_has_to_be_there_in_time_and_a_file_has_not() {
    // Fast enough, and endless.
    let endless = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("80\r\n{}\r\n", "x".repeat(128));
    let index = upstream(vec![endless.into(), chunk.into()], Duration::from_millis(5));
    let begin = Instant::now();
    let error = page(&index).await.unwrap_err();
    assert!(begin.elapsed() >= WINDOW * 10, "{:?}", begin.elapsed());
    assert_eq!(error.problem, Problem::TooSlow("it did not come whole in time: in 1 s".to_owned()));
    // A file of a size takes as long as it takes.
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 32000\r\n\r\n";
    let index = upstream(vec![head.into(), vec![b'x'; 128]], Duration::from_millis(5));
    let begin = Instant::now();
    assert_eq!(file(&index).await.unwrap().len(), 32_000);
    assert!(begin.elapsed() >= WINDOW * 10, "{:?}", begin.elapsed());
}
