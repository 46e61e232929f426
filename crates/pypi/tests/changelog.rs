//! The changelog, asked of a server.

#![cfg(test)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use strandline_model::Serial;
use strandline_sync::cut::Action;
use strandline_sync::upstream::{Problem, Upstream as _};
use support::{Server, answer};

const XML: &str = "content-type: text/xml; charset=utf-8";

fn response(value: &str) -> String {
    format!("<?xml version='1.0'?>\n<methodResponse><params><param>{value}</param></params></methodResponse>\n")
}

fn row(project: &str, version: &str, action: &str, serial: u64) -> String {
    format!(
        "<value><array><data><value><string>{project}</string></value><value>{version}</value>\
         <value><int>1763910600</int></value><value><string>{action}</string></value>\
         <value><int>{serial}</int></value></data></array></value>"
    )
}

fn array(rows: &[String]) -> String {
    format!("<value><array><data>{}</data></array></value>", rows.concat())
}

fn serial(number: u64) -> Serial {
    number.try_into().expect("in range")
}

#[tokio::test]
async fn events_serials_and_projects() {
    let server = Server::start(|request| {
        let body = if request.contains("changelog_last_serial") {
            response("<value><int>9</int></value>")
        } else if request.contains("changelog_since_serial") {
            response(&array(&[
                row("Zope.Interface", "<string>1.0</string>", "add source file a &amp; b.tar.gz", 8),
                row("six", "<string>1.0</string>", "new release", 9),
            ]))
        } else {
            response(
                "<value><struct><member><name>Six</name><value><int>9</int></value></member>\
                 <member><name>bad name</name><value><int>9</int></value></member></struct></value>",
            )
        };
        answer("200 OK", &[XML], body.as_bytes())
    });
    let index = server.index();
    assert_eq!(index.last_serial().await.unwrap(), serial(9));
    let events = index.events_since(serial(7)).await.unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0].display.as_str(), "Zope.Interface");
    assert_eq!(events[0].project.as_str(), "zope-interface");
    assert_eq!(events[0].change, Some(Action::AddFile("1.0".to_owned(), "a & b.tar.gz".to_owned())));
    assert_eq!(events[0].time.to_string(), "2025-11-23T15:10:00Z");
    assert_eq!(events[1].change, Some(Action::NewRelease("1.0".to_owned())));
    let projects = index.projects().await.unwrap();
    assert_eq!(projects, [("Six".parse().unwrap(), serial(9))]);
    let request = server.requests().remove(1);
    assert!(request.starts_with("POST /pypi HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("<int>7</int>"), "{request}");
}

#[tokio::test]
async fn rows_that_cannot_be_mirrored_do_not_end_the_log() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        let rows = match asked.fetch_add(1, Ordering::Relaxed) {
            0 => array(&[row("not a name", "<nil/>", "create", 8)]),
            _ => array(&[row("six", "<nil/>", "create", 9)]),
        };
        answer("200 OK", &[XML], response(&rows).as_bytes())
    });
    let events = server.index().events_since(serial(7)).await.unwrap();
    assert_eq!(events[0].serial, serial(9));
    assert!(server.requests()[1].contains("<int>8</int>"));
}

#[tokio::test]
async fn an_index_without_a_changelog() {
    for (status, kind) in [
        ("403 Forbidden", "content-type: text/html"),
        ("404 Not Found", "content-type: text/plain"),
        ("405 Method Not Allowed", XML),
        ("410 Gone", XML),
        ("501 Not Implemented", XML),
    ] {
        let server = Server::start(move |_| answer(status, &[kind], b"<html></html>"));
        assert_eq!(server.index().last_serial().await.unwrap_err().problem, Problem::NoChangelog, "{status}");
    }
}

#[tokio::test]
async fn an_index_that_does_not_answer_now() {
    let fault = "<methodResponse><fault><value><struct>\
        <member><name>faultCode</name><value><int>-32500</int></value></member>\
        <member><name>faultString</name><value><string>HTTPTooManyRequests</string></value></member>\
        </struct></value></fault></methodResponse>";
    for headers in [[XML, "retry-after: 12"], [XML, "ratelimit: \"default\";r=0;t=12"]] {
        let server = Server::start(move |_| answer("200 OK", &headers, fault.as_bytes()));
        let error = server.index().last_serial().await.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(12)));
        assert!(error.is_transient());
    }
    for (status, kind) in [
        ("200 OK", "content-type: text/html"),
        ("200 OK", "content-type: application/json"),
        ("204 No Content", XML),
        ("401 Unauthorized", XML),
        ("302 Found", "content-type: text/html"),
    ] {
        let server = Server::start(move |_| answer(status, &[kind], b"<html></html>"));
        let error = server.index().last_serial().await.unwrap_err();
        assert_ne!(error.problem, Problem::NoChangelog, "{status} {kind}");
        assert!(!error.is_transient(), "{error}");
    }
    let server = Server::start(|_| answer("503 Service Unavailable", &[XML], b""));
    assert!(server.index().last_serial().await.unwrap_err().is_transient());
    let server = Server::start(|_| answer("200 OK", &[XML], b"<methodResponse><params>"));
    let error = server.index().last_serial().await.unwrap_err();
    assert!(matches!(error.problem, Problem::Malformed(_)), "{error}");
}

#[tokio::test]
async fn without_a_changelog_the_index_lists_its_projects() {
    let server = Server::start(|request| {
        if request.starts_with("POST") {
            return answer("404 Not Found", &["content-type: text/plain"], b"none");
        }
        let body = r#"{"meta":{"api-version":"1.4"},"projects":[{"name":"Six","_last-serial":3}]}"#;
        answer("200 OK", &["content-type: application/vnd.pypi.simple.v1+json"], body.as_bytes())
    });
    assert_eq!(server.index().projects().await.unwrap(), [("Six".parse().unwrap(), serial(3))]);
    assert!(server.requests()[1].starts_with("GET /simple/ HTTP/1.1\r\n"));
}
