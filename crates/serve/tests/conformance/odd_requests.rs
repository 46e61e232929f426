//! Requests that nobody would write.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::http::{ask, exchange, parse};
use crate::support::servers::{Embedded, Nginx};
use crate::support::table;
use crate::support::world::Outcome;

/// Headers that are nearly like what clients send.
fn accept() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("application/vnd.pypi.simple.v1+json"),
        Just("application/vnd.pypi.simple.latest+json"),
        Just("application/vnd.pypi.simple.v1+html"),
        Just("application/vnd.pypi.simple.v2+html"),
        Just("text/html"),
        Just("Text/HTML"),
        Just("application/*"),
        Just("text/*"),
        Just("*/*"),
        Just("*"),
        Just(""),
    ];
    let quality = "(| ?; ?[qQ]=(0|1|2|0\\.[0-2]{0,4}|1\\.0?|0\\.50{0,2}|\\.5|)| ;level=1;q=0\\.[1-3]|;q=0\\.[1-3] ;x=y|; ?q =0\\.1|;x=é|;)";
    let range = (" ?", name, quality, " ?")
        .prop_map(|(before, name, quality, after)| format!("{before}{name}{quality}{after}"));
    prop::collection::vec(range, 0..6).prop_map(|ranges| ranges.join(","))
}

#[test]
fn both_servers_choose_the_same_form() -> Outcome<()> {
    let world = table::world()?;
    let (embedded, nginx) = (Embedded::start(&world)?, Nginx::start(&world)?);
    let mut runner = TestRunner::new(Config { cases: 1500, failure_persistence: None, ..Config::default() });
    runner.run(&accept(), |accept| {
        let chosen = |at| {
            let answer = ask(at, "GET", "/pypi/simple/six/", &[("Accept", &accept)]);
            let answer = answer.map_err(|error| TestCaseError::fail(error.to_string()))?;
            Ok::<_, TestCaseError>((answer.status, answer.header("content-type").map(str::to_owned)))
        };
        prop_assert_eq!(chosen(embedded.at)?, chosen(nginx.at)?);
        Ok(())
    })?;
    Ok(())
}

#[test]
fn both_servers_agree_on_names() -> Outcome<()> {
    let world = table::world()?;
    let (embedded, nginx) = (Embedded::start(&world)?, Nginx::start(&world)?);
    let mut runner = TestRunner::new(Config { cases: 500, failure_persistence: None, ..Config::default() });
    runner.run(&"[sixSIX._-]{1,9}|[a-dA-D._-]{0,12}|[a\n+ ]{0,3}/{0,2}", |name| {
        // nginx resolves these; the table has them.
        prop_assume!(!name.split('/').any(|segment| matches!(segment, "." | "..")));
        // Where a name leads in the end, by as many redirects as it takes.
        let end = |at| {
            let mut path = format!("/pypi/simple/{}/", name.replace(['\n', ' '], "%0a"));
            for _ in 0..30 {
                let answer = ask(at, "GET", &path, &[]).map_err(|error| TestCaseError::fail(error.to_string()))?;
                match answer.header("location") {
                    Some(to) if answer.status == 301 => to.clone_into(&mut path),
                    _ => return Ok((answer.status, path)),
                }
            }
            Err(TestCaseError::fail("there is no end to the redirects"))
        };
        prop_assert_eq!(end(embedded.at)?, end(nginx.at)?);
        Ok(())
    })?;
    Ok(())
}

#[test]
fn no_bytes_break_the_server() -> Outcome<()> {
    let world = table::world()?;
    let server = Embedded::start(&world)?;
    let bytes = || prop::collection::vec(any::<u8>(), 0..60);
    let path = prop_oneof![
        bytes(),
        "(/|pypi|simple|six|packages|@|10|\\.\\.|%2e|%2f|%00|%ff|-|\\.whl){0,12}".prop_map(String::into_bytes),
    ];
    let mut runner = TestRunner::new(Config { cases: 1000, failure_persistence: None, ..Config::default() });
    runner.run(&(path, bytes(), bytes(), bytes()), |(path, accept, range, tag)| {
        let mut request = b"GET /".to_vec();
        for (before, value) in [(&b""[..], path), (b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAccept: ", accept)] {
            request.extend([before, &value].concat());
        }
        request.extend([b"\r\nRange: bytes=", &range[..], b"\r\nIf-None-Match: ", &tag, b"\r\n\r\n\r\n\r\n"].concat());
        let answer = exchange(server.at, &request).map_err(|error| TestCaseError::fail(error.to_string()))?;
        // Some of it is no HTTP at all: then the answer may be none.
        if let Some(answer) = parse(&answer) {
            prop_assert!(answer.status < 500, "{:?}", answer);
        }
        Ok(())
    })?;
    let after = ask(server.at, "GET", "/pypi/simple/six/", &[])?;
    assert_eq!(after.status, 200);
    Ok(())
}
