//! Each request of the table has the answer that stands beside it, from both servers.

use std::net::SocketAddr;

use crate::support::http::{Answer, ask};
use crate::support::servers::{Embedded, Nginx};
use crate::support::table::{self, Case, Expected, cases};
use crate::support::world::Outcome;

#[test]
fn the_embedded_server() -> Outcome<()> {
    let world = table::world()?;
    let server = Embedded::start(&world)?;
    check(server.at, |case| &case.expected)
}

#[test]
fn nginx() -> Outcome<()> {
    let world = table::world()?;
    let server = Nginx::start(&world)?;
    check(server.at, |case| case.nginx.as_ref().map_or(&case.expected, |(_, expected)| expected))
}

/// Asks everything with GET and with HEAD.
fn check(at: SocketAddr, expected: impl Fn(&Case) -> &Expected) -> Outcome<()> {
    let mut wrong = Vec::new();
    for case in &cases() {
        let expected = expected(case);
        let answer = ask_case(at, case, case.method)?;
        wrong.extend(expected.differences(&answer).into_iter().map(|what| format!("{case}: {what}")));
        let length = answer.header("content-length").and_then(|length| length.parse().ok());
        if answer.status != 304 && (length != Some(answer.body.len()) || answer.header("transfer-encoding").is_some()) {
            wrong.push(format!("{case}: {} bytes came, and the length is {length:?}", answer.body.len()));
        }
        // What depends on a range is for GET only.
        if case.method == "GET" && !case.headers.iter().any(|(name, _)| *name == "Range") {
            let head = ask_case(at, case, "HEAD")?;
            let kept = ["content-length", "content-type", "etag", "vary", "cache-control", "location", "accept-ranges"];
            // A 304 may leave the length out.
            let kept = kept.iter().skip(usize::from(answer.status == 304));
            let same = kept.copied().all(|name| head.header(name) == answer.header(name));
            if head.status != answer.status || !same || !head.body.is_empty() {
                wrong.push(format!("{case}: HEAD differs: {head:?}\n  GET: {answer:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Asks for what a case is about; in its headers, `{tag}` is the entity tag of what they ask for without conditions.
fn ask_case(at: SocketAddr, case: &Case, method: &str) -> Outcome<Answer> {
    let accept: Vec<_> = case.headers.iter().copied().filter(|(name, _)| *name == "Accept").collect();
    let tag = if case.headers.iter().any(|(_, value)| value.contains("{tag}")) {
        let answer = ask(at, "GET", &case.path, &accept)?;
        answer.header("etag").ok_or("no entity tag")?.to_owned()
    } else {
        String::new()
    };
    let headers: Vec<_> = case.headers.iter().map(|(name, value)| (*name, value.replace("{tag}", &tag))).collect();
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Ok(ask(at, method, &case.path, &headers)?)
}
