//! What a client meets: every kind of answer becomes the right kind of error, and nothing leaks.

#![cfg(test)]

mod support;

use std::time::Duration;

use futures_util::StreamExt as _;
use strandline_model::ProjectName;
use strandline_pypi::{Index, Settings, SettingsError};
use strandline_sync::upstream::{Answer, Page, Problem, Upstream as _, UpstreamError, Validator, Way};
use support::{Server, answer};

const JSON: &str = "content-type: application/vnd.pypi.simple.v1+json";
const PAGE: &str = r#"{"meta":{"api-version":"1.4","_last-serial":7},"name":"six","files":[]}"#;

fn six() -> ProjectName {
    "six".parse().expect("a name")
}

async fn page(index: &Index) -> Result<Page, UpstreamError> {
    match index.page(&six(), None, Way::Usual).await? {
        Answer::Page { page, .. } => Ok(*page),
        other => unreachable!("not a page: {other:?}"),
    }
}

/// Where the one file of a page is.
fn url_of_the_file(page: &Page) -> String {
    let (.., seen) = page.record.files().next().expect("the page has a file");
    seen.url.clone().expect("pages of an index have URLs")
}

async fn problem(server: &Server) -> Problem {
    page(&server.index()).await.expect_err("this server has no pages").problem
}

async fn bytes(index: &Index, url: &str) -> Result<Vec<u8>, UpstreamError> {
    let mut stream = index.file(url).await?;
    let mut out = Vec::new();
    while let Some(chunk) = stream.next().await {
        out.extend_from_slice(&chunk?);
    }
    Ok(out)
}

#[tokio::test]
async fn a_page_and_its_validator() {
    let server = Server::start(|request| {
        if request.to_ascii_lowercase().contains("if-none-match: \"one\"") {
            answer("304 Not Modified", &["etag: \"one\""], b"")
        } else {
            answer("200 OK", &[JSON, "etag: \"one\""], PAGE.as_bytes())
        }
    });
    let index = server.index();
    let Answer::Page { page, validator } = index.page(&six(), None, Way::Usual).await.unwrap() else {
        unreachable!("no page")
    };
    assert_eq!(page.serial.map(strandline_model::Serial::get), Some(7));
    assert_eq!(validator, Some(Validator("\"one\"".to_owned())));
    assert!(matches!(index.page(&six(), validator.as_ref(), Way::Usual).await.unwrap(), Answer::NotModified));
    let request = server.requests().remove(0).to_ascii_lowercase();
    assert!(request.starts_with("get /simple/six/ http/1.1\r\n"), "{request}");
    assert!(request.contains("user-agent: strandline/"), "{request}");
    assert!(request.contains("accept: application/vnd.pypi.simple.v1+json, "), "{request}");
    assert!(request.contains("accept-encoding: gzip"), "{request}");
}

#[tokio::test]
async fn html_where_there_is_no_json() {
    let digest = "00".repeat(32);
    let body = format!("<a href=../../p/six-1.0.tar.gz#sha256={digest}>six</a><!--SERIAL 3-->");
    let server = Server::start(move |_| answer("200 OK", &["content-type: text/html; charset=utf-8"], body.as_bytes()));
    let page = page(&server.index()).await.unwrap();
    assert_eq!(url_of_the_file(&page), server.url("/p/six-1.0.tar.gz"));
}

#[tokio::test]
async fn an_index_at_the_root_of_its_host() {
    let list = "<a href=six/>six/</a><a href=idna/>idna/</a>";
    let serve = |top: &'static str, simple: &'static str| {
        Server::start(move |request| match request.split(' ').nth(1) {
            Some("/six/") => answer("200 OK", &[JSON], PAGE.as_bytes()),
            Some("/") => answer(top, &["content-type: text/html"], list.as_bytes()),
            Some("/simple/") => answer(simple, &["content-type: text/html"], b""),
            _ => answer("404 Not Found", &[], b""),
        })
    };
    let at = |server: &Server| Index::new(Settings::new(server.url("/").parse().unwrap())).unwrap();
    let server = serve("200 OK", "404 Not Found");
    let index = at(&server);
    assert_eq!(page(&index).await.unwrap().serial.map(strandline_model::Serial::get), Some(7));
    let names: Vec<_> = index.projects().await.unwrap().iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["six", "idna"]);
    let other = "other".parse().unwrap();
    assert!(matches!(index.page(&other, None, Way::Usual).await.unwrap(), Answer::Missing));
    // Where it is, is found out once.
    assert_eq!(server.requests().iter().filter(|request| request.starts_with("GET /simple/ ")).count(), 1);

    let server = serve("200 OK", "200 OK");
    assert!(matches!(at(&server).page(&six(), None, Way::Usual).await.unwrap(), Answer::Missing));
    let server = serve("200 OK", "503 Service Unavailable");
    assert!(at(&server).page(&six(), None, Way::Usual).await.unwrap_err().is_transient(), "it is not known");
    let server = serve("503 Service Unavailable", "404 Not Found");
    assert!(at(&server).page(&six(), None, Way::Usual).await.unwrap_err().is_transient(), "it is not known");
    // A URL with a path says where it is.
    assert!(matches!(server.index().page(&six(), None, Way::Usual).await.unwrap(), Answer::Missing));
}

#[tokio::test]
async fn a_list_that_links_to_files_says_where_the_pages_are() {
    let server = Server::start(|request| match request.split(' ').nth(1) {
        Some("/simple/") => {
            answer("200 OK", &["content-type: text/html"], b"<a href=http://h.example/simple/six/index.html>six</a>")
        }
        Some("/simple/six/index.html") => answer("200 OK", &[JSON], PAGE.as_bytes()),
        _ => answer("404 Not Found", &[], b""),
    });
    let index = server.index();
    assert_eq!(index.projects().await.unwrap().len(), 1);
    assert!(page(&index).await.is_ok());
}

#[tokio::test]
async fn urls_are_relative_to_where_the_page_was_found() {
    let server = Server::start(|request| {
        if request.starts_with("GET /simple/six/ ") {
            answer("301 Moved Permanently", &["location: /moved/here/six/"], b"")
        } else {
            let digest = "00".repeat(32);
            let file = format!(r#"{{"filename":"six-1.0.zip","url":"six-1.0.zip","hashes":{{"sha256":"{digest}"}}}}"#);
            answer("200 OK", &[JSON], PAGE.replace("[]", &format!("[{file}]")).as_bytes())
        }
    });
    let page = page(&server.index()).await.unwrap();
    assert_eq!(url_of_the_file(&page), server.url("/moved/here/six/six-1.0.zip"));
}

#[tokio::test]
async fn no_page() {
    for status in ["404 Not Found", "410 Gone"] {
        let server = Server::start(move |_| answer(status, &["content-type: text/plain"], b"none"));
        assert!(matches!(server.index().page(&six(), None, Way::Usual).await.unwrap(), Answer::Missing));
    }
}

#[tokio::test]
async fn statuses_and_how_long_to_wait() {
    let date = "date: Mon, 23 Nov 2026 15:10:00 GMT";
    for (status, headers, code, seconds) in [
        ("503 Service Unavailable", vec![], 503, None),
        ("429 Too Many Requests", vec!["retry-after: 17"], 429, Some(17)),
        ("429 Too Many Requests", vec![date, "retry-after: Mon, 23 Nov 2026 15:10:09 GMT"], 429, Some(9)),
        ("429 Too Many Requests", vec![date, "retry-after: Mon, 23 Nov 2026 15:09:00 GMT"], 429, Some(0)),
        ("429 Too Many Requests", vec!["retry-after: soon"], 429, None),
        ("429 Too Many Requests", vec!["retry-after: 99999999999999"], 429, Some(86_400)),
        ("429 Too Many Requests", vec!["ratelimit: \"default\";r=0;t=30"], 429, Some(30)),
        ("429 Too Many Requests", vec!["ratelimit: limit=10, remaining=0, reset=5"], 429, Some(5)),
        ("429 Too Many Requests", vec!["ratelimit: \"default\";r=5;t=30"], 429, None),
        ("304 Not Modified", vec![], 304, None),
        ("401 Unauthorized", vec![], 401, None),
    ] {
        let said = headers.clone();
        let server = Server::start(move |_| answer(status, &headers, b""));
        let expected = Problem::Status { status: code, retry_after: seconds.map(Duration::from_secs) };
        assert_eq!(problem(&server).await, expected, "{status} {said:?}");
        assert_eq!(bytes(&server.index(), &server.url("/f")).await.unwrap_err().problem, expected);
    }
}

#[tokio::test]
async fn other_types_are_refused() {
    for (kind, says) in [
        ("content-type: application/vnd.pypi.simple.v2+json", "reads version 1"),
        ("content-type: image/png", "expected a page"),
        ("x-none: 1", "expected a page"),
    ] {
        let server = Server::start(move |_| answer("200 OK", &[kind], PAGE.as_bytes()));
        let Problem::Malformed(why) = problem(&server).await else { unreachable!("{kind}") };
        assert!(why.contains(says), "{why}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_said_with_the_url() {
    let server = Server::start(|_| answer("200 OK", &[JSON], PAGE.replace("six", "seven").as_bytes()));
    let error = page(&server.index()).await.unwrap_err().to_string();
    assert_eq!(error, format!("{}: the page is that of `seven`, not of `six`", server.url("/simple/six/")));
}

#[tokio::test]
async fn bodies_that_end_early() {
    for head in ["HTTP/1.1 200 OK\r\ncontent-length: 100\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"] {
        let body = if head.contains("chunked") { "50\r\n{\"meta\"" } else { "{\"meta\"" };
        let short = format!("{head}{JSON}\r\n\r\n{body}");
        let server = Server::start(move |_| short.clone().into_bytes());
        let page = problem(&server).await;
        for problem in [page, bytes(&server.index(), &server.url("/f")).await.unwrap_err().problem] {
            let Problem::Transport(why) = problem else { unreachable!("{problem}") };
            assert_eq!(why.starts_with("expected 100 bytes, 7 came: "), head.contains("content-length"), "{why}");
        }
    }
    let server = Server::start(|_| Vec::new());
    assert!(matches!(problem(&server).await, Problem::Transport(_)));
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

#[tokio::test]
async fn packed_pages() {
    let whole = packed(PAGE.as_bytes());
    let short = whole[..whole.len() / 2].to_vec();
    let server = Server::start(move |_| answer("200 OK", &[JSON, "content-encoding: gzip"], &whole));
    assert!(page(&server.index()).await.is_ok());
    let server = Server::start(move |_| answer("200 OK", &[JSON, "content-encoding: gzip"], &short));
    assert!(matches!(problem(&server).await, Problem::Transport(_)));
}

#[tokio::test]
async fn pages_of_several_members_and_other_charsets() {
    let (first, second) = PAGE.split_at(20);
    let members = [packed(first.as_bytes()), packed(second.as_bytes())].concat();
    let digest = "00".repeat(32);
    let html = format!("<a href=six-1.0.zip#sha256={digest} data-yanked='caf\u{e9}'>six</a>");
    let latin: Vec<u8> = html.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    let server = Server::start(move |request| match request.split(' ').nth(1) {
        Some("/simple/six/") => answer("200 OK", &[JSON, "content-encoding: x-gzip"], &members),
        Some("/latin/six/") => answer("200 OK", &["content-type: text/html; charset=iso-8859-1"], &latin),
        Some("/mark/six/") => answer("200 OK", &[JSON], &[b"\xef\xbb\xbf", PAGE.as_bytes()].concat()),
        Some("/gone/six/") => answer("404 Not Found", &["content-encoding: br"], b"\x8b"),
        _ => answer("200 OK", &[JSON, "content-encoding: br"], b"\x8b"),
    });
    let at = |path: &str| Index::new(Settings::new(server.url(path).parse().unwrap())).unwrap();
    assert_eq!(page(&at("/simple/")).await.unwrap().serial.map(strandline_model::Serial::get), Some(7));
    assert!(page(&at("/mark/")).await.is_ok());
    let latin = page(&at("/latin/")).await.unwrap();
    let (_, told, _) = latin.record.files().next().unwrap();
    assert_eq!(told.yanked, strandline_model::Yanked::Yes("caf\u{e9}".to_owned()));
    // What is said about an answer's status needs no body.
    assert!(matches!(at("/gone/").page(&six(), None, Way::Usual).await.unwrap(), Answer::Missing));
    let error = page(&at("/other/")).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("content coding `br`"), "{error}");
}

#[tokio::test]
async fn pages_over_the_limit_packed_or_not() {
    let limit = 1 << 20;
    let too_much = vec![b' '; (1 << 20) + 1];
    let bomb = packed(&too_much);
    assert!(bomb.len() < 10_000);
    let server = Server::start(move |request| {
        if request.starts_with("GET /simple/six/") {
            answer("200 OK", &[JSON, "content-encoding: gzip"], &bomb)
        } else if request.starts_with("GET /unsaid") {
            [b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", &too_much[..]].concat()
        } else {
            answer("200 OK", &[JSON], &too_much)
        }
    });
    let index = Index::new(Settings { max_page_size: limit, max_file_size: Some(limit), ..server.settings() }).unwrap();
    for project in ["six", "seven"] {
        let problem = index.page(&project.parse().unwrap(), None, Way::Usual).await.unwrap_err().problem;
        assert_eq!(problem, Problem::TooLarge { limit });
    }
    for path in ["/f", "/unsaid"] {
        let problem = bytes(&index, &server.url(path)).await.unwrap_err().problem;
        assert_eq!(problem, Problem::TooLarge { limit });
    }
}

#[test]
fn limits_that_nobody_set() {
    let settings = Settings::new("https://index.example/".parse().expect("a URL"));
    assert_eq!((settings.max_page_size, settings.max_file_size), (64 * 1024 * 1024, None));
    assert_eq!((settings.connections, settings.connect_to), (16, None));
}

#[tokio::test]
async fn files_come_as_they_are() {
    let sent = packed(b"a file that is packed itself");
    let body = sent.clone();
    let server = Server::start(move |request| {
        if request.starts_with("GET /a ") {
            answer("302 Found", &["location: /b"], b"")
        } else {
            answer("200 OK", &["content-encoding: gzip"], &body)
        }
    });
    assert_eq!(bytes(&server.index(), &server.url("/a")).await.unwrap(), sent);
    assert!(server.requests()[0].to_ascii_lowercase().contains("accept-encoding: identity"));
}

#[tokio::test]
async fn redirects_have_an_end() {
    let server = Server::start(|_| answer("302 Found", &["location: /simple/again/"], b""));
    let Problem::Forbidden(why) = problem(&server).await else { unreachable!("followed for ever") };
    assert_eq!(why, "more than 10 redirects");
    let server = Server::start(|_| answer("302 Found", &["location: ftp://files.example/x"], b""));
    assert!(page(&server.index()).await.is_err());
}

#[tokio::test]
async fn a_public_upstream_cannot_lead_into_the_network() {
    let server = Server::start(|_| answer("200 OK", &[], b"secret of the network"));
    let index = Index::new(Settings::new("https://8.8.8.8/simple/".parse().unwrap())).unwrap();
    let local = format!("http://localhost:{}/", server.address.port());
    let others =
        ["http://[::ffff:127.0.0.1]/", "http://[64:ff9b:1::10.0.0.5]/", "http://192.0.2.1/", "file:///etc/passwd"];
    for url in [server.url("/f"), local].into_iter().chain(others.map(str::to_owned)) {
        let error = bytes(&index, &url).await.unwrap_err();
        assert!(matches!(error.problem, Problem::Forbidden(_)), "{error}");
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn credentials_go_to_upstream_only_and_are_never_shown() {
    let other = Server::start(|_| answer("200 OK", &[], b"bytes"));
    let elsewhere = format!("location: {}", other.url("/x"));
    let server = Server::start(move |request| match request.split(' ').nth(1) {
        Some("/moved") => answer("302 Found", &[&elsewhere], b""),
        Some("/file") => answer("200 OK", &[], b"bytes"),
        _ => answer("500 Internal Server Error", &[], b""),
    });
    let mut settings = server.settings();
    settings.upstream.set_username("me").unwrap();
    settings.upstream.set_password(Some("hunter2")).unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
    let index = Index::new(settings).unwrap();
    assert_eq!(index.url().as_str(), server.url("/simple/"));
    assert!(!format!("{index:?}").contains("hunter2"));
    let error = page(&index).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    for url in [server.url("/file"), server.url("/moved"), other.url("/y")] {
        bytes(&index, &url).await.unwrap();
    }
    let sent = "authorization: basic bwu6ahvudgvymg==";
    assert!(server.requests().iter().all(|request| request.to_ascii_lowercase().contains(sent)));
    assert!(other.requests().iter().all(|request| !request.to_ascii_lowercase().contains("authorization")));
    assert_eq!(other.requests().len(), 2);
}

#[tokio::test]
async fn a_redirect_has_its_own_login_and_no_secret_of_a_url_is_shown() {
    let private = Server::start(|request| match request.split(' ').nth(1) {
        Some("/simple/six/?sig=s3cr3t") => answer("200 OK", &[JSON], PAGE.as_bytes()),
        _ => answer("403 Forbidden", &[], b""),
    });
    let with_login = private.url("/simple/six/?sig=s3cr3t").replace("//", "//router:s3cr3t@");
    let location = format!("location: {with_login}");
    let refused = format!("location: {}", with_login.replace("six", "seven"));
    let server = Server::start(move |request| match request.split(' ').nth(1) {
        Some("/simple/six/") => answer("302 Found", &[&location], b""),
        Some("/simple/nowhere/") => answer("302 Found", &["location: http://u:s3cr3t@:x/?sig=s3cr3t"], b""),
        _ => answer("307 Temporary Redirect", &[&refused], b""),
    });
    let index = server.index();
    page(&index).await.unwrap();
    let sent = private.requests().pop().unwrap().to_ascii_lowercase();
    assert!(sent.contains("authorization: basic cm91dgvyonmzy3izda=="), "{sent}");
    let signed = format!("{}?sig=s3cr3t", server.url("/f"));
    let errors = [
        index.page(&"seven".parse().unwrap(), None, Way::Usual).await.unwrap_err(),
        index.page(&"nowhere".parse().unwrap(), None, Way::Usual).await.unwrap_err(),
        bytes(&index, &signed).await.unwrap_err(),
        bytes(&index, "ftp://u:s3cr3t@files.example/?sig=s3cr3t").await.unwrap_err(),
        bytes(&index, "http://u:s3cr3t@:x/?sig=s3cr3t").await.unwrap_err(),
        bytes(&index, "http://127.0.0.1:1/?sig=s3cr3t").await.unwrap_err(),
    ];
    for error in errors {
        assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error}");
    }
}

#[tokio::test]
async fn a_call_that_is_moved_for_good_is_made_there() {
    let answer_to = |request: &str| {
        let body = "<?xml version='1.0'?>\n<methodResponse><params><param><value><int>9</int></value></param></params></methodResponse>";
        match request.lines().next() {
            Some("POST /pypi HTTP/1.1") => answer("308 Permanent Redirect", &["location: /xml"], b""),
            Some("POST /xml HTTP/1.1") if request.contains("changelog_last_serial") => {
                answer("200 OK", &["content-type: text/xml"], body.as_bytes())
            }
            _ => answer("500 Internal Server Error", &[], b""),
        }
    };
    assert_eq!(Server::start(answer_to).index().last_serial().await.unwrap().get(), 9);
}

#[tokio::test]
async fn connect_to_keeps_the_name_and_is_for_the_origin_alone() {
    let server = Server::start(|_| answer("200 OK", &[JSON], PAGE.as_bytes()));
    // A label longer than DNS has: the name is nowhere, and no server is asked for it.
    let name = format!("{}.example", "x".repeat(64));
    let upstream = format!("http://{name}/simple").parse().unwrap();
    let settings = Settings { connect_to: Some(server.address.to_string()), ..Settings::new(upstream) };
    let index = Index::new(settings).unwrap();
    index.page(&six(), None, Way::Origin).await.unwrap();
    assert!(server.requests()[0].to_ascii_lowercase().contains(&format!("host: {name}\r\n")));
    for way in [Way::Usual, Way::Uncompressed] {
        index.page(&six(), None, way).await.unwrap_err();
    }
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn an_uncompressed_page_is_asked_for_in_so_many_words() {
    let server = Server::start(|_| answer("200 OK", &[JSON], PAGE.as_bytes()));
    for (way, encoding) in [(Way::Usual, "accept-encoding: gzip"), (Way::Uncompressed, "accept-encoding: identity")] {
        server.index().page(&six(), None, way).await.unwrap();
        let last = server.requests().pop().unwrap().to_ascii_lowercase();
        assert!(last.contains(encoding), "{last}");
    }
}

#[tokio::test]
async fn silence_is_not_waited_out_for_ever() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    // Connections are taken, and nothing is ever said on them: before an answer, and in the middle of one.
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().flatten() {
            if open.len() == 1 {
                std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx").unwrap();
            }
            open.push(stream);
        }
    });
    let settings = Settings { idle_timeout: Duration::from_millis(200), ..Settings::new(url.parse().unwrap()) };
    let index = Index::new(settings).unwrap();
    let error = page(&index).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("time"), "{error}");
    let error = bytes(&index, &url).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_waited_for() {
    let body = "<?xml version='1.0'?>\n<methodResponse><params><param><value><int>9</int></value></param></params></methodResponse>";
    let server = Server::start(move |_| {
        answer("200 OK", &["content-type: text/xml", "ratelimit: \"default\";r=0;t=1"], body.as_bytes())
    });
    let index = server.index();
    let begin = std::time::Instant::now();
    for _ in 0..2 {
        assert_eq!(index.last_serial().await.unwrap().get(), 9);
    }
    assert!(begin.elapsed() >= Duration::from_millis(990), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn nobody_there() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let index = Index::new(Settings::new(format!("http://127.0.0.1:{port}/").parse().unwrap())).unwrap();
    assert_eq!(index.url().as_str(), format!("http://127.0.0.1:{port}/simple/"));
    let error = page(&index).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("refused"), "{error}");
}

#[test]
fn settings_that_make_no_sense() {
    let of = |upstream: &str, connect_to: Option<&str>| {
        let settings =
            Settings { connect_to: connect_to.map(str::to_owned), ..Settings::new(upstream.parse().expect("a URL")) };
        Index::new(settings).expect_err("this makes no sense").to_string()
    };
    let said = [
        of("ftp://index.example/", None),
        of("https://index.example/simple/?a", None),
        of("https://index.example/", Some("origin.example")),
        of("https://index.example/", Some(":1")),
        of("https://127.0.0.1/", Some("origin.example:1")),
        of("https://index.example:8443/", Some("origin.example:1")),
    ];
    insta::assert_snapshot!(said.join("\n"), @"
    upstream: expected a URL that begins with https:// or http://
    upstream: expected a URL without `?` and `#`
    connect-to: `origin.example`: expected HOST:PORT
    connect-to: `:1`: expected HOST:PORT
    connect-to: `origin.example:1`: upstream is an address already; write this one there instead
    connect-to: `origin.example:1`: its port has to be the one that upstream's URL names
    ");
    assert!(matches!(Index::new(Settings::new("data:x".parse().unwrap())), Err(SettingsError::Upstream(_))));
}

#[tokio::test]
async fn large_pages_come_one_after_the_other() {
    let versions = vec!["\"1\""; 3 << 20].join(",");
    let large = PAGE.replacen("\"files\"", &format!("\"x\":[{versions}],\"files\""), 1);
    let server = Server::start(move |request| {
        let body = if request.starts_with("GET /simple/six/") { large.as_bytes() } else { PAGE.as_bytes() };
        answer("200 OK", &[JSON], body)
    });
    let index = server.index();
    let six = six();
    let ask = || index.page(&six, None, Way::Usual);
    let (one, two, three) = tokio::join!(ask(), ask(), ask());
    for page in [one, two, three] {
        assert!(matches!(page.unwrap(), Answer::Page { .. }));
    }
}
