//! A file that breaks off goes on where it was, if upstream says that it is the same file still.

#![cfg(test)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use strandline_pypi::{Index, Settings};
use strandline_sync::upstream::{Problem, Upstream as _, UpstreamError};

/// One part of the file, of sixteen.
const PART: usize = 16 << 10;

/// The bytes of the file, up to a part.
fn bytes(to: usize) -> String {
    (0..to).map(|part| format!("{part:x}").repeat(PART)).collect()
}

/// An upstream that answers one connection after the other with these bytes, and closes each; and what it was asked.
fn upstream(answers: Vec<String>) -> (Index, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/simple/", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    let answer = move |mut stream: TcpStream, answer: &str| {
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap();
        heard.lock().unwrap().push(String::from_utf8_lossy(&request[..length]).to_ascii_lowercase());
        stream.write_all(answer.as_bytes()).unwrap();
    };
    std::thread::spawn(move || {
        for (stream, said) in listener.incoming().flatten().zip(answers) {
            answer(stream, &said);
        }
    });
    let settings = Settings { idle_timeout: Duration::from_secs(1), ..Settings::new(url.parse().unwrap()) };
    (Index::new(settings).unwrap(), asked)
}

async fn file(index: &Index) -> Result<Vec<u8>, UpstreamError> {
    let chunks: Vec<_> = index.file(&format!("{}six-1.tar.gz", index.url())).await?.collect().await;
    Ok(chunks.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
}

/// An answer with these headers that has the parts up to `to`, and says that it has all of them.
fn whole(headers: &str, to: usize) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{headers}\r\n{}", 16 * PART, bytes(to))
}

/// An answer with the parts from `from` on, up to `to`.
fn part(from: usize, to: usize) -> String {
    let (length, text) = ((16 - from) * PART, &bytes(to)[from * PART..]);
    let range = format!("content-range: bytes {}-{}/{}", from * PART, 16 * PART - 1, 16 * PART);
    format!("HTTP/1.1 206 Partial Content\r\ncontent-length: {length}\r\n{range}\r\n\r\n{text}")
}

const TAG: &str = "etag: \"one\"\r\n";
const DATED: &str = "date: Mon, 30 Nov 2026 12:01:00 GMT\r\nlast-modified: Mon, 30 Nov 2026 12:00:00 GMT\r\n";

#[tokio::test]
async fn it_goes_on_where_it_broke_off() {
    for (headers, condition) in [(TAG, "if-range: \"one\""), (DATED, "if-range: mon, 30 nov 2026 12:00:00 gmt")] {
        // Once, twice, and after an answer that says that upstream is busy.
        let busy = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned();
        for (answers, from) in [
            (vec![whole(headers, 4), part(4, 16)], vec![4]),
            (vec![whole(headers, 4), part(4, 9), part(9, 16)], vec![4, 9]),
            (vec![whole(headers, 15), busy, part(15, 16)], vec![15, 15]),
        ] {
            let (index, asked) = upstream(answers);
            assert_eq!(file(&index).await.unwrap(), bytes(16).as_bytes());
            let asked = asked.lock().unwrap();
            for (asked, from) in asked[1..].iter().zip(from) {
                assert!(
                    asked.contains(&format!("range: bytes={}-\r\n", from * PART)) && asked.contains(condition),
                    "{asked}"
                );
            }
        }
    }
}

#[tokio::test]
async fn what_may_be_another_file_is_not_put_together() {
    let young = DATED.replace("12:01:00", "12:00:59");
    let others = [whole("etag: \"two\"\r\n", 16), part(3, 16), part(5, 16), part(4, 16).replace("content-range", "x")];
    let refused = "HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\n\r\n".to_owned();
    let answered = others.into_iter().chain([refused]).map(|other| vec![whole(TAG, 4), other]);
    // What has no strong validator is not asked for again.
    let weak = ["", "etag: W/\"one\"\r\n", &young, "last-modified: Mon, 30 Nov 2026 12:00:00 GMT\r\n"];
    let weak = weak.map(|headers| vec![whole(headers, 4)]);
    for answers in answered.chain(weak) {
        let count = answers.len();
        let (index, asked) = upstream(answers);
        let error = file(&index).await.unwrap_err();
        assert!(
            matches!(&error.problem, Problem::Transport(why) if why.contains("expected 262144 bytes, 65536 came")),
            "{error}"
        );
        assert_eq!(asked.lock().unwrap().len(), count);
    }
}

#[tokio::test]
async fn a_file_that_gets_no_further_ends() {
    let (index, asked) = upstream([vec![whole(TAG, 4)], vec![part(4, 4); 9]].concat());
    let error = file(&index).await.unwrap_err();
    assert!(error.is_transient() && asked.lock().unwrap().len() == 4, "{error}");
}
