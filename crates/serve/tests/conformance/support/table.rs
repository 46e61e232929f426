//! The requests, and what has to come back.

use std::fmt;

use crate::support::http::Answer;
use crate::support::world::{Outcome, World, file_path, project};

const JSON: &str = "application/vnd.pypi.simple.v1+json";
const VERSIONED: &str = "application/vnd.pypi.simple.v1+html";
const HTML: &str = "text/html; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const BYTES: &str = "application/octet-stream";
const IMMUTABLE: &str = "public, max-age=31536000, immutable";
const PIP: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01";

pub(crate) const WHEEL: (&str, &[u8]) = ("six-1.16.0-py2.py3-none-any.whl", b"PK the wheel of six");
const METADATA: (&str, &[u8]) = ("six-1.16.0-py2.py3-none-any.whl.metadata", b"Metadata-Version: 2.1\nName: six\n");
const SPACED: (&str, &[u8]) = ("Zope.Interface-5.0+a b.tar.gz", b"an sdist");

/// Larger than what is sent at once.
pub(crate) fn big() -> Vec<u8> {
    (0..700_000_u32).map(|n| n.to_le_bytes()[usize::from(n % 3 == 0)]).collect()
}

pub(crate) fn world() -> Outcome<World> {
    let world = World::new()?;
    world.publish(
        10,
        vec![
            ("six", Some(project("six", "1.16.0", &[WHEEL, METADATA, ("six-1.16.0-big.zip", &big())]))),
            ("Zope.Interface", Some(project("zope-interface", "5.0", &[SPACED]))),
            ("a__b", Some(project("a-b", "", &[("a__b-1.zip", b"")]))),
        ],
    )?;
    Ok(world)
}

/// One request.
pub(crate) struct Case {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) expected: Expected,
    /// Why nginx differs, and what it answers.
    pub(crate) nginx: Option<(&'static str, Expected)>,
}

/// What an answer has to be.
#[derive(Clone)]
pub(crate) struct Expected {
    status: u16,
    /// `None`: it must not be there.
    headers: Vec<(&'static str, Option<String>)>,
    body: Option<Vec<u8>>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.method, self.path, self.headers)?;
        self.nginx.as_ref().map_or(Ok(()), |(why, _)| write!(f, " (nginx: {why})"))
    }
}

fn get(path: impl Into<String>) -> Case {
    let expected = Expected { status: 0, headers: Vec::new(), body: None };
    Case { method: "GET", path: path.into(), headers: Vec::new(), expected, nginx: None }
}

impl Case {
    fn sending(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    fn accepting(self, value: &'static str) -> Self {
        self.sending("Accept", value)
    }

    fn gives(mut self, expected: Expected) -> Self {
        self.expected = expected;
        self
    }

    fn but_nginx(mut self, why: &'static str, expected: Expected) -> Self {
        self.nginx = Some((why, expected));
        self
    }
}

fn status(status: u16) -> Expected {
    Expected { status, headers: Vec::new(), body: None }
}

impl Expected {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, Some(value.into())));
        self
    }

    fn without(mut self, name: &'static str) -> Self {
        self.headers.push((name, None));
        self
    }

    fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = Some(body.as_ref().to_vec());
        self
    }

    pub(crate) fn differences(&self, answer: &Answer) -> Vec<String> {
        let mut out = Vec::new();
        if answer.status != self.status {
            out.push(format!("expected {}, got {answer:?}", self.status));
        }
        for (name, expected) in &self.headers {
            let got = answer.header(name);
            if got != expected.as_deref() {
                out.push(format!("expected {name}: {expected:?}, got {got:?}"));
            }
        }
        if let Some(body) = &self.body
            && answer.body != *body
        {
            let start = &answer.body[..answer.body.len().min(200)];
            out.push(format!("got {} bytes: {}", answer.body.len(), String::from_utf8_lossy(start)));
        }
        out
    }
}

fn page(media_type: &str, body: &str) -> Expected {
    status(200)
        .with("content-type", media_type)
        .with("vary", "Accept")
        .with("cache-control", "no-cache")
        .with("accept-ranges", "bytes")
        .without("last-modified")
        .without("content-encoding")
        .body(body)
}

fn file(media_type: &str, body: &[u8]) -> Expected {
    status(200)
        .with("content-type", media_type)
        .with("cache-control", IMMUTABLE)
        .with("accept-ranges", "bytes")
        .without("vary")
        .without("last-modified")
        .body(body)
}

fn missing() -> Expected {
    status(404).with("content-type", PLAIN).with("cache-control", "no-cache")
}

fn moved(to: &str) -> Expected {
    status(301).with("location", to).with("vary", "Accept")
}

fn not_modified() -> Expected {
    status(304).with("vary", "Accept").with("cache-control", "no-cache").without("content-type").body("")
}

pub(crate) fn cases() -> Vec<Case> {
    let mut all = negotiation();
    all.extend(redirects());
    all.extend(files());
    all.extend(conditions());
    all.extend(ranges());
    all.extend(hostile());
    all
}

fn negotiation() -> Vec<Case> {
    let six = || get("/pypi/simple/six/");
    let (json, html) = ("json six 1.16.0", "html six 1.16.0");
    let mut all = vec![
        six().gives(page(HTML, html)),
        // nginx does not know serials: the headers that name them are the embedded server's alone.
        six()
            .accepting(PIP)
            .gives(page(JSON, json).with("x-pypi-last-serial", "10").with("x-strandline-serial", "10"))
            .but_nginx("no serials", page(JSON, json).without("x-pypi-last-serial")),
        get("/pypi/simple/").gives(page(HTML, "html 10 a__b:10 six:10 Zope.Interface:10")),
        get("/pypi/simple/").accepting(PIP).gives(page(JSON, "json 10 a__b:10 six:10 Zope.Interface:10")),
        get("/pypi/simple/").accepting(VERSIONED).gives(page(VERSIONED, "html 10 a__b:10 six:10 Zope.Interface:10")),
        get("/pypi/simple/zope-interface/").accepting(JSON).gives(page(JSON, "json zope-interface 5.0")),
        get("/pypi/simple/a-b/?format=json").gives(page(HTML, "html a-b ")),
        get("/pypi/simple/%73ix/").accepting(JSON).gives(page(JSON, json)),
    ];
    for accept in ["", "*/*", "text/*", "text/html", "TEXT/HTML ;q=0.3, */* ; q=0.2", "*/*;q=0.1,application/x;q=1"] {
        all.push(six().accepting(accept).gives(page(HTML, html)));
    }
    for accept in [
        "application/vnd.pypi.simple.latest+json",
        "application/*",
        "text/html;q=0, */*",
        "*/*, Application/vnd.pypi.simple.v1+JSON",
    ] {
        all.push(six().accepting(accept).gives(page(JSON, json)));
    }
    for accept in [
        "application/vnd.pypi.simple.latest+html",
        "text/html;q=0.09, application/vnd.pypi.simple.v1+html;q=0.1",
        "text/html;q=0.10, application/vnd.pypi.simple.v1+html;q=0.1",
    ] {
        all.push(six().accepting(accept).gives(page(VERSIONED, html)));
    }
    let refused = || status(406).with("content-type", PLAIN).with("vary", "Accept");
    for accept in [
        "application/json",
        "application/vnd.pypi.simple.v2+json",
        "*/*;q=0",
        "text/html;q=0.0",
        "text/html;q=2",
        "text/htmlx",
        "xtext/html",
    ] {
        all.push(six().accepting(accept).gives(refused()));
        all.push(get("/pypi/simple/").accepting(accept).gives(refused()));
    }
    all
}

fn redirects() -> Vec<Case> {
    [
        ("/pypi/simple", "/pypi/simple/"),
        ("/pypi/simple?a=b&c", "/pypi/simple/?a=b&c"),
        ("/pypi/simple/six", "/pypi/simple/six/"),
        ("/pypi/simple/six?x=%0a", "/pypi/simple/six/?x=%0a"),
        ("/pypi/simple/Six/", "/pypi/simple/six/"),
        ("/pypi/simple/Zope.Interface", "/pypi/simple/zope-interface/"),
        ("/pypi/simple/Zope.Interface/?x", "/pypi/simple/zope-interface/?x"),
        ("/pypi/simple/a__b/", "/pypi/simple/a-b/"),
        ("/pypi/simple/a--b/", "/pypi/simple/a-b/"),
        ("/pypi/simple/A_.-B.c-d__E/", "/pypi/simple/a-b-c-d-e/"),
        ("/pypi/simple/THEQUICKBROWNF_X.JMPSVLAZYDG", "/pypi/simple/thequickbrownf-x-jmpsvlazydg/"),
        ("/pypi/simple/index.html", "/pypi/simple/index-html/"),
        ("/pypi/simple/No.Such.Thing/", "/pypi/simple/no-such-thing/"),
    ]
    .into_iter()
    .map(|(from, to)| get(from).gives(moved(to)))
    .chain([get("/pypi/simple/AABBA/")
        .gives(moved("/pypi/simple/aabba/"))
        .but_nginx("each redirect makes one of the same capitals small; from the right", moved("/pypi/simple/AABba/"))])
    .collect()
}

fn files() -> Vec<Case> {
    let path = |(name, bytes): (&str, &[u8])| format!("/pypi/{}", file_path(name, bytes));
    let spaced = path(SPACED).replace(' ', "%20");
    vec![
        get(path(WHEEL)).gives(file(BYTES, WHEEL.1)),
        get(path(WHEEL)).accepting("application/json").gives(file(BYTES, WHEEL.1)),
        get(path(METADATA)).gives(file(PLAIN, METADATA.1)),
        get(&spaced).gives(file(BYTES, SPACED.1)),
        get(spaced.replace('+', "%2B")).gives(file(BYTES, SPACED.1)),
        get(path(("a__b-1.zip", b""))).gives(file(BYTES, b"")),
        get(path(("six-1.16.0-big.zip", &big()))).gives(file(BYTES, &big())),
        get(path(("six-1.16.0-big.zip", &big()))).sending("Accept-Encoding", "gzip").gives(file(BYTES, &big())),
    ]
}

fn conditions() -> Vec<Case> {
    let six = || get("/pypi/simple/six/").accepting(PIP);
    let wheel = || get(format!("/pypi/{}", file_path(WHEEL.0, WHEEL.1)));
    let fresh = || page(JSON, "json six 1.16.0");
    vec![
        six().sending("If-None-Match", "{tag}").gives(not_modified()),
        six().sending("If-None-Match", "W/{tag}").gives(not_modified()),
        six().sending("If-None-Match", "\"x\", {tag}").gives(not_modified()),
        six().sending("If-None-Match", "*").gives(not_modified()),
        six().sending("If-None-Match", "\"x\"").gives(fresh()),
        six().sending("If-None-Match", "{tag}").sending("Range", "bytes=0-0").gives(not_modified()),
        six().sending("If-Modified-Since", "Sun, 09 Sep 2001 01:46:40 GMT").gives(fresh()),
        six().sending("If-Modified-Since", "Fri, 31 Dec 9999 00:00:00 GMT").gives(fresh()),
        get("/pypi/simple/").sending("If-None-Match", "{tag}").gives(not_modified()),
        wheel()
            .sending("If-None-Match", "{tag}")
            .gives(status(304).with("cache-control", IMMUTABLE).without("vary").body("")),
    ]
}

fn ranges() -> Vec<Case> {
    let all = big();
    let length = all.len();
    let big_file = || get(format!("/pypi/{}", file_path("six-1.16.0-big.zip", &all)));
    let empty = || get(format!("/pypi/{}", file_path("a__b-1.zip", b"")));
    let part = |first: usize, last: usize| {
        status(206)
            .with("content-range", format!("bytes {first}-{last}/{length}"))
            .with("content-type", BYTES)
            .with("cache-control", IMMUTABLE)
            .body(&all[first..=last])
    };
    let nothing = || status(416).with("content-range", format!("bytes */{length}"));
    let whole = || file(BYTES, &all).without("content-range");
    vec![
        big_file().sending("Range", "bytes=0-0").gives(part(0, 0)),
        big_file().sending("Range", "bytes=1-600000").gives(part(1, 600_000)),
        big_file().sending("Range", "bytes=699990-").gives(part(699_990, length - 1)),
        big_file().sending("Range", "bytes=-5").gives(part(length - 5, length - 1)),
        big_file().sending("Range", "bytes=-99999999").gives(part(0, length - 1)),
        big_file().sending("Range", "bytes=10-99999999").gives(part(10, length - 1)),
        big_file().sending("Range", "bytes=99999999-").gives(nothing()),
        big_file().sending("Range", "bytes=-0").gives(nothing()),
        empty()
            .sending("Range", "bytes=0-")
            .gives(status(416).with("content-range", "bytes */0"))
            .but_nginx("it ignores ranges of nothing", file(BYTES, b"")),
        big_file().sending("Range", "bytes=0-1,5-6").gives(whole()),
        big_file().sending("Range", "items=0-1").gives(whole()),
        big_file()
            .sending("Range", "bytes=5-2")
            .gives(whole())
            .but_nginx("it takes what is malformed for what cannot be satisfied", nothing()),
        big_file().sending("Range", "bytes=2-5").sending("If-Range", "{tag}").gives(part(2, 5)),
        big_file().sending("Range", "bytes=2-5").sending("If-Range", "W/{tag}").gives(whole()),
        big_file().sending("Range", "bytes=2-5").sending("If-Range", "\"x\"").gives(whole()),
        big_file().sending("Range", "bytes=2-5").sending("If-Range", "Sun, 09 Sep 2001 01:46:40 GMT").gives(whole()),
        get("/pypi/simple/six/").sending("Range", "bytes=0-3").gives(status(206).with("vary", "Accept").body("html")),
    ]
}

fn hostile() -> Vec<Case> {
    let wheel = file_path(WHEEL.0, WHEEL.1);
    let mut all: Vec<_> = [
        "/nosuch/simple/".to_owned(),
        "/other/simple/".to_owned(),
        "/pypi/simple/nosuch/".to_owned(),
        "/pypi/simple/-six/".to_owned(),
        "/pypi/simple/s%20x/".to_owned(),
        "/pypi/simple/six%0a/".to_owned(),
        "/pypi/simple/Six%0d%0aX:y".to_owned(),
        "/pypi/simple/six/index.html".to_owned(),
        "/pypi/simple//".to_owned(),
        "/pypi//simple/six/".to_owned(),
        "//pypi/simple/six".to_owned(),
        "/pypi".to_owned(),
        "/pypi/".to_owned(),
        "/PYPI/simple/".to_owned(),
        "/pypi/live/simple/six/".to_owned(),
        "/pypi/a/simple/six/index.html".to_owned(),
        "/catalog.db".to_owned(),
        "/pypi/packages".to_owned(),
        "/pypi/packages/".to_owned(),
        format!("/pypi/{}", wheel.rsplit_once('/').map_or("", |(directory, _)| directory)),
        format!("/pypi/{wheel}/"),
        format!("/pypi/{wheel}.metadata2"),
        format!("/pypi/{wheel}/x"),
        "/pypi/packages/.hidden".to_owned(),
        "/pypi/packages/aa/.copy-1".to_owned(),
        "/pypi/packages/%252e%252e/%252e%252e/catalog.db".to_owned(),
        "/pypi/packages/..%5c..%5ccatalog.db".to_owned(),
        format!("/pypi/packages/{}.whl", "x".repeat(300)),
        format!("/pypi/packages/{}", "x/".repeat(1500)),
        format!("/pypi/simple/{}/", "x".repeat(300)),
    ]
    .into_iter()
    .map(|path| get(path).gives(missing()))
    .collect();
    // nginx resolves dots itself, and refuses what would leave its root; here such names are names that nothing has.
    let resolves = "it resolves dots before it looks";
    all.push(get("/pypi/packages/%2e%2e/%2e%2e/%2e%2e/catalog.db").gives(missing()).but_nginx(resolves, status(400)));
    all.push(get("/pypi/packages/../../../../etc/passwd").gives(missing()).but_nginx(resolves, status(400)));
    all.push(get("/pypi/packages/../../catalog.db").gives(missing()));
    all.push(get("/pypi/packages/%2e%2e/live/simple/six/index.html").gives(missing()));
    all.push(get("/pypi/packages/a%00b").gives(missing()).but_nginx("it refuses such a path", status(400)));
    all.push(get("/pypi/packages/%zz").gives(missing()).but_nginx("it refuses such a path", status(400)));
    all.push(get("/pypi/@10/simple/six/").gives(status(200)).but_nginx("a view is of one snapshot", missing()));
    all.push(get("/").gives(status(200).with("content-type", HTML)).but_nginx("it has no page for people", missing()));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PURGE"] {
        for path in ["/pypi/simple/six/", "/pypi/simple/six", "/nosuch"] {
            let mut case = get(path).gives(status(405).with("allow", "GET, HEAD"));
            case.method = method;
            all.push(case);
        }
    }
    all
}
