//! A client of a few lines, which sees what came and hides nothing.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use strandline_testkit::Upstream;

/// The type of JSON pages.
pub(crate) const JSON: (&str, &str) = ("Accept", "application/vnd.pypi.simple.v1+json");

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether all that was announced came.
    pub(crate) fn whole(&self) -> bool {
        self.header("content-length").and_then(|length| length.parse().ok()) == Some(self.body.len())
    }
}

/// One request on a connection of its own.
pub(crate) fn ask(
    upstream: &Upstream,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(upstream.address())?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    send(&mut stream, method, path, headers, body)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&bytes)
}

/// Sends a request and asks for the connection to be closed.
pub(crate) fn send(
    stream: &mut TcpStream,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<()> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: fake\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(name);
        head.push_str(": ");
        head.push_str(value);
        head.push_str("\r\n");
    }
    let length = body.len();
    stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes())
}

fn parse(bytes: &[u8]) -> io::Result<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": "));
    Ok(Answer {
        status: status.ok_or(io::ErrorKind::InvalidData)?,
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        body: bytes[end + 4..].to_vec(),
    })
}

pub(crate) fn get(upstream: &Upstream, path: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
    ask(upstream, "GET", path, headers, "")
}

/// The JSON page of a project: its serial and its versions.
pub(crate) fn page(upstream: &Upstream, project: &str) -> io::Result<Option<(u64, Vec<String>)>> {
    let answer = get(upstream, &format!("/simple/{project}/"), &[JSON])?;
    let page = answer.json();
    let versions = page["versions"].as_array().map(|versions| {
        let texts = versions.iter().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    });
    Ok(page["meta"]["_last-serial"].as_u64().zip(versions))
}

/// An XML-RPC call with at most one number.
pub(crate) fn call(upstream: &Upstream, method: &str, argument: Option<u64>) -> io::Result<Answer> {
    let parameter =
        argument.map_or_else(String::new, |number| format!("<param><value><int>{number}</int></value></param>"));
    let body = format!(
        "<?xml version='1.0'?><methodCall><methodName>{method}</methodName><params>{parameter}</params></methodCall>"
    );
    ask(upstream, "POST", "/pypi", &[("Content-Type", "text/xml")], &body)
}

/// All numbers of an XML-RPC answer.
pub(crate) fn numbers(answer: &Answer) -> Vec<u64> {
    let text = answer.text();
    let tagged = text.split("<int>").skip(1);
    tagged.filter_map(|rest| rest.split('<').next()?.parse().ok()).collect()
}
