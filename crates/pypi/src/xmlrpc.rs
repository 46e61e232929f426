//! The changelog, over XML-RPC.
//!
//! What always holds: an index that has no changelog is not confused with one that does not answer now; rows come in
//! the order of their serials, each after the one that was asked from; rows of names that no project can have are left
//! out with a warning, because nothing could be mirrored by them, and a bounded number of them is read. Tested below and in `tests/changelog.rs`.

mod action;
mod value;

use std::time::Duration;

use reqwest::StatusCode;
use strandline_model::{DisplayName, Serial, Timestamp};
use strandline_sync::cut::Action;
use strandline_sync::upstream::{Event, Problem, UpstreamError};
use url::Url;

use self::value::{Reply, Value};
use crate::client::{Client, Fetched};
use crate::listing::{LeftOut, malformed};
use crate::url_check::shown;

/// The fault of a server that is asked too much.
const TOO_MANY: i64 = -32500;
/// The fault of a server that lacks the method.
const NO_METHOD: i64 = -32601;
/// How many answers without a row that can be used are read.
const USELESS: usize = 1_000;

/// `changelog_last_serial`.
pub(crate) async fn last_serial(client: &Client, index: &Url) -> Result<Serial, UpstreamError> {
    let url = endpoint(index)?;
    let value = call(client, &url, "changelog_last_serial", None).await?;
    serial(&value, "the last serial").map_err(|problem| UpstreamError::new(&url, problem))
}

/// `changelog_since_serial`, asked again where a whole answer held nothing that can be mirrored.
pub(crate) async fn events_since(client: &Client, index: &Url, since: Serial) -> Result<Vec<Event>, UpstreamError> {
    let url = endpoint(index)?;
    let mut since = since;
    let mut left_out = LeftOut::default();
    for _ in 0..USELESS {
        let value = call(client, &url, "changelog_since_serial", Some(since)).await?;
        let rows = rows(value, since, &mut left_out).map_err(|problem| UpstreamError::new(&url, problem))?;
        match rows.last {
            Some(last) if rows.events.is_empty() => since = last,
            _ => return Ok(rows.events),
        }
    }
    tracing::warn!(
        "{USELESS} answers of the changelog, up to serial {since}, have no row that can be used: it is read no further"
    );
    Ok(Vec::new())
}

/// `list_packages_with_serial`.
pub(crate) async fn projects(client: &Client, index: &Url) -> Result<Vec<(DisplayName, Serial)>, UpstreamError> {
    let url = endpoint(index)?;
    let value = call(client, &url, "list_packages_with_serial", None).await?;
    list(value).map_err(|problem| UpstreamError::new(&url, problem))
}

/// Where the index takes calls: `pypi` beside its `simple/`.
fn endpoint(index: &Url) -> Result<Url, UpstreamError> {
    let mut url = index.clone();
    match index.path().strip_suffix("/simple/") {
        Some(above) => {
            url.set_path(&format!("{above}/pypi"));
            Ok(url)
        }
        None => Err(UpstreamError::new(index, Problem::NoChangelog)),
    }
}

async fn call(client: &Client, url: &Url, method: &str, parameter: Option<Serial>) -> Result<Value, UpstreamError> {
    let fetched = client.post(url, request(method, parameter)).await?;
    reply(method, &fetched).map_err(|problem| UpstreamError::new(url, problem))
}

fn request(method: &str, parameter: Option<Serial>) -> String {
    let parameter = parameter.map_or_else(String::new, |serial| {
        // `int` is for numbers of 32 bits; larger ones are an extension that servers have.
        let kind = if i32::try_from(serial.get()).is_ok() { "int" } else { "i8" };
        format!("<param><value><{kind}>{serial}</{kind}></value></param>")
    });
    format!(
        "<?xml version=\"1.0\"?>\n<methodCall><methodName>{method}</methodName><params>{parameter}</params></methodCall>\n"
    )
}

fn reply(method: &str, fetched: &Fetched) -> Result<Value, Problem> {
    match fetched.status {
        StatusCode::OK => {}
        StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::GONE
        | StatusCode::NOT_IMPLEMENTED => return Err(Problem::NoChangelog),
        _ => return Err(fetched.status_problem()),
    }
    // A page for people, such as a proxy's or one about maintenance, says nothing about the index.
    let kind = fetched.media_type();
    if !matches!(kind.as_str(), "text/xml" | "application/xml") {
        let why = "if the index has no changelog, `source = \"simple\"` says so";
        return Err(malformed(format!("the answer to {method} is `{}`, not XML; {why}", shown(&kind))));
    }
    let text = std::str::from_utf8(&fetched.body)
        .map_err(|error| malformed(format!("the answer to {method} is not UTF-8: {error}")))?;
    match value::parse(text).map_err(|error| malformed(format!("the answer to {method} is no XML-RPC: {error}")))? {
        Reply::Value(value) => Ok(value),
        Reply::Fault { code, text } => Err(fault(method, code, &text, fetched.pause)),
    }
}

fn fault(method: &str, code: i64, text: &str, pause: Option<Duration>) -> Problem {
    let lower = text.to_ascii_lowercase();
    if code == NO_METHOD || lower.contains("no longer support") {
        return Problem::NoChangelog;
    }
    if code == TOO_MANY {
        tracing::debug!(method, fault = shown(text), "upstream refuses a call for now");
        return Problem::Status { status: 429, retry_after: pause.or_else(|| seconds_in(&lower)) };
    }
    malformed(format!("{method} failed with fault {code}: {}", shown(text)))
}

/// How long the text of a fault says that its limit lasts: `… may reset in 30 seconds.`
fn seconds_in(text: &str) -> Option<Duration> {
    let words: Vec<_> = text.split_whitespace().collect();
    let number = words.windows(2).find(|pair| pair[1].starts_with("second")).map(|pair| pair[0])?;
    number.parse::<u64>().ok().map(|seconds| Duration::from_secs(seconds.min(86_400)))
}

fn serial(value: &Value, what: &str) -> Result<Serial, Problem> {
    match value {
        Value::Int(number) => u64::try_from(*number)
            .ok()
            .and_then(|number| Serial::try_from(number).ok())
            .ok_or_else(|| malformed(format!("{what} is {number}, not a serial"))),
        other => Err(malformed(format!("{what} is {}; expected a number", other.kind()))),
    }
}

/// What the log says after a serial.
#[derive(Debug)]
struct Rows {
    /// What can be mirrored.
    events: Vec<Event>,
    /// The greatest serial of all rows.
    last: Option<Serial>,
}

fn rows(value: Value, since: Serial, left_out: &mut LeftOut) -> Result<Rows, Problem> {
    let Value::Array(values) = value else {
        return Err(malformed(format!("the changelog is {}; expected an array", value.kind())));
    };
    let mut rows = Rows { events: Vec::with_capacity(values.len()), last: None };
    for (index, value) in values.into_iter().enumerate() {
        let row = match value {
            Value::Array(row) => <[Value; 5]>::try_from(row)
                .map_err(|row| malformed(format!("row {index} of the changelog has {} fields, not 5", row.len())))?,
            other => {
                return Err(malformed(format!("row {index} of the changelog is {}; expected an array", other.kind())));
            }
        };
        let [project, version, time, action, number] = row;
        let serial = serial(&number, &format!("row {index} of the changelog: its serial"))?;
        if serial <= since {
            return Err(malformed(format!(
                "row {index} of the changelog has serial {serial}, though those after {since} were asked for"
            )));
        }
        rows.last = rows.last.max(Some(serial));
        let Value::Text(project) = project else {
            left_out.add(|| format!("an event, with serial {serial}: its project is {}", project.kind()));
            continue;
        };
        // Whatever a row says that cannot be read: something happened to its project, and the project's page shows it.
        let change = match (action, version) {
            (Value::Text(action), Value::Nil) => action::read(action, None),
            (Value::Text(action), Value::Text(text)) => {
                action::read(action, Some(text).filter(|text| !text.is_empty()))
            }
            _ => Some(Action::Unknown),
        };
        match DisplayName::try_from(project) {
            Ok(display) => {
                // Times are upstream's clock and only ever a measure of age: one out of range is clamped.
                let time = if let Value::Int(time) = time { time.clamp(0, Timestamp::LAST.seconds()) } else { 0 };
                let time = Timestamp::from_seconds(time).expect("clamped into the range");
                rows.events.push(Event { serial, project: display.normalise(), display, time, change });
            }
            Err(error) => left_out.add(|| format!("an event, with serial {serial}: {error}")),
        }
    }
    rows.events.sort_by_key(|event| event.serial);
    Ok(rows)
}

fn list(value: Value) -> Result<Vec<(DisplayName, Serial)>, Problem> {
    let Value::Struct(members) = value else {
        return Err(malformed(format!("the list of projects is {}; expected a struct", value.kind())));
    };
    let (mut projects, mut left_out) = (Vec::with_capacity(members.len()), LeftOut::default());
    let (mut wrong, mut is_list) = (None, false);
    for (name, value) in members {
        match DisplayName::try_from(name) {
            Ok(name) => {
                let serial = serial(&value, &format!("the serial of `{name}`"));
                wrong = wrong.or_else(|| serial.as_ref().err().cloned());
                is_list |= serial.is_ok();
                // A project without a usable serial is there all the same: its page tells the serial.
                projects.push((name, serial.unwrap_or(Serial::ZERO)));
            }
            Err(error) => left_out.add(|| format!("a project: {error}")),
        }
    }
    // Where no member has a serial, it is a struct of something else.
    wrong.filter(|_| !is_list).map_or(Ok(projects), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn row(project: &str, version: Value, time: i64, action: &str, serial: i64) -> Value {
        Value::Array(vec![text(project), version, Value::Int(time), text(action), Value::Int(serial)])
    }

    #[test]
    fn rows_in_order_and_in_range() {
        let log = Value::Array(vec![
            row("six", text("1.0"), i64::MAX, "new release", 12),
            row("not a name!", Value::Nil, 1, "create", 13),
            row("Zope.Interface", Value::Nil, -5, "create", 11),
        ]);
        let rows = rows(log, Serial::try_from(10).unwrap(), &mut LeftOut::default()).unwrap();
        let seen: Vec<_> = rows
            .events
            .iter()
            .map(|event| (event.serial.get(), event.display.as_str(), event.change.clone(), event.time.seconds()))
            .collect();
        let released = Some(Action::NewRelease("1.0".to_owned()));
        assert_eq!(
            seen,
            [(11, "Zope.Interface", Some(Action::Create), 0), (12, "six", released, Timestamp::LAST.seconds())]
        );
        assert_eq!(rows.events[0].project.as_str(), "zope-interface");
        assert_eq!(rows.last, Serial::try_from(13).ok());
    }

    #[test]
    fn rows_of_another_shape_are_named() {
        let since = Serial::try_from(10).unwrap();
        let said = [
            Value::Nil,
            Value::Array(vec![text("x")]),
            Value::Array(vec![Value::Array(vec![text("x")])]),
            Value::Array(vec![row("six", Value::Nil, 1, "create", 10)]),
            Value::Array(vec![row("six", Value::Nil, 1, "create", -1)]),
        ]
        .map(|value| rows(value, since, &mut LeftOut::default()).unwrap_err().to_string());
        insta::assert_snapshot!(said.join("\n"), @"
        the changelog is nil; expected an array
        row 0 of the changelog is a text; expected an array
        row 0 of the changelog has 1 fields, not 5
        row 0 of the changelog has serial 10, though those after 10 were asked for
        row 0 of the changelog: its serial is -1, not a serial
        ");
    }

    #[test]
    fn a_field_that_cannot_be_read_costs_that_field() {
        let since = Serial::try_from(10).unwrap();
        let of = |fields: [Value; 5]| Value::Array(fields.into());
        let log = Value::Array(vec![
            row("six", Value::Int(1), 1, "create", 11),
            of([text("six"), Value::Nil, text("noon"), text("create"), Value::Int(12)]),
            of([text("six"), Value::Nil, Value::Int(1), Value::Nil, Value::Int(13)]),
            of([Value::Nil, Value::Nil, Value::Int(1), text("create"), Value::Int(14)]),
        ]);
        let mut left_out = LeftOut::default();
        let rows = rows(log, since, &mut left_out).unwrap();
        let seen: Vec<_> =
            rows.events.iter().map(|event| (event.serial.get(), event.time.seconds(), event.change.clone())).collect();
        assert_eq!(
            seen,
            [(11, 1, Some(Action::Unknown)), (12, 0, Some(Action::Create)), (13, 1, Some(Action::Unknown))]
        );
        assert_eq!(rows.last.map(Serial::get), Some(14), "a row of no project is no hole");

        let members = [("six", Value::Int(5)), ("idna", Value::Int(-5)), ("attrs", Value::Nil)];
        let of = |members: &[(&str, Value)]| {
            list(Value::Struct(members.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()))
        };
        let listed: Vec<_> =
            of(&members).unwrap().into_iter().map(|(name, serial)| (name.to_string(), serial.get())).collect();
        assert_eq!(listed.len(), 3);
        assert!(listed.contains(&("six".to_owned(), 5)) && listed.contains(&("idna".to_owned(), 0)), "{listed:?}");
        assert!(of(&members[1..]).is_err(), "a struct in which nothing has a serial is no list");
        assert!(of(&[]).unwrap().is_empty());
    }

    #[test]
    fn faults() {
        let limited =
            |seconds: Option<u64>| Problem::Status { status: 429, retry_after: seconds.map(Duration::from_secs) };
        for (code, text, pause, expected) in [
            (-32500, "HTTPTooManyRequests: Limit may reset in 30 seconds.", None, limited(Some(30))),
            (-32500, "HTTPTooManyRequests: Limit may reset in 30 seconds.", Some(7), limited(Some(7))),
            (-32500, "HTTPTooManyRequests", None, limited(None)),
            (-32601, "server error; requested method not found", None, Problem::NoChangelog),
            (-32500, "RuntimeError: This index no longer supports this", None, Problem::NoChangelog),
            (1, "odd", None, malformed("m failed with fault 1: odd")),
        ] {
            assert_eq!(fault("m", code, text, pause.map(Duration::from_secs)), expected);
        }
    }

    #[test]
    fn calls() {
        let url = |text: &str| endpoint(&text.parse().unwrap()).map(|url| url.to_string());
        assert_eq!(url("https://index.example/simple/").unwrap(), "https://index.example/pypi");
        assert_eq!(url("https://index.example/a/simple/").unwrap(), "https://index.example/a/pypi");
        assert_eq!(url("https://index.example/a/").unwrap_err().problem, Problem::NoChangelog);
        let since = Serial::try_from(7).unwrap();
        insta::assert_snapshot!(request("changelog_since_serial", Some(since)), @r#"
        <?xml version="1.0"?>
        <methodCall><methodName>changelog_since_serial</methodName><params><param><value><int>7</int></value></param></params></methodCall>
        "#);
        assert!(request("m", Serial::try_from(1 << 40).ok()).contains("<i8>1099511627776</i8>"));
    }
}
