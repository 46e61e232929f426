//! A healthy index.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use flate2::read::GzDecoder;
use serde_json::json;
use strandline_testkit::{
    Age, Fault, Generator, On, RateLimit, Response, Rule, Status, Upload, Upstream, Weights, WheelSpec, World, history,
};

use crate::client::{JSON, ask, call, get, numbers};

#[test]
fn a_json_page_has_exactly_these_fields() {
    let mut world = World::new();
    let wheel = WheelSpec::new("Zope.Interface", "1.0").requires_python(">=3.8");
    world.upload("Zope.Interface", &Upload::wheel(&wheel));
    world.upload("Zope.Interface", &Upload::raw("zope.interface-2.0.tar.gz", "2.0", "sdist"));
    world.yank("Zope.Interface", "1.0", None);
    let serial = world.yank("Zope.Interface", "2.0", Some("why <&>"));
    let files = world.project("zope-interface").unwrap().files;
    let upstream = Upstream::start(world).unwrap();
    let answer = get(&upstream, "/simple/zope-interface/", &[JSON]).unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/vnd.pypi.simple.v1+json"));
    assert_eq!(answer.header("x-pypi-last-serial"), Some(serial.to_string().as_str()));
    assert_eq!(answer.header("cache-control"), Some("max-age=600, public"));
    let url = |n: usize| format!("http://{}{}", upstream.address(), files[n].url_path);
    let metadata = json!({ "sha256": files[0].core_metadata });
    assert_eq!(
        answer.json(),
        json!({
            "meta": { "api-version": "1.4", "_last-serial": serial },
            "name": "zope-interface",
            "project-status": { "status": "active" },
            "versions": ["1.0", "2.0"],
            "files": [{
                "filename": "zope_interface-1.0-py3-none-any.whl",
                "url": url(0),
                "hashes": { "sha256": files[0].sha256 },
                "requires-python": ">=3.8",
                "size": files[0].size,
                "upload-time": "2023-11-14T22:13:20.000000Z",
                "yanked": true,
                "core-metadata": metadata,
                "data-dist-info-metadata": metadata,
                "provenance": null,
            }, {
                "filename": "zope.interface-2.0.tar.gz",
                "url": url(1),
                "hashes": { "sha256": files[1].sha256 },
                "requires-python": null,
                "size": 5,
                "upload-time": "2023-11-14T22:13:21.000000Z",
                "yanked": "why <&>",
                "core-metadata": false,
                "data-dist-info-metadata": false,
                "provenance": null,
            }],
        })
    );
}

#[test]
fn an_html_page_says_the_same_and_escapes() {
    let mut world = World::new();
    let wheel = WheelSpec::new("six", "1.0").requires_python(">=3.8");
    world.upload("six", &Upload::wheel(&wheel));
    let serial = world.yank("six", "1.0", Some("\"<&>"));
    let file = world.project("six").unwrap().files.remove(0);
    let upstream = Upstream::start(world).unwrap();
    let text = get(&upstream, "/simple/six/", &[]).unwrap().text();
    let metadata = file.core_metadata.unwrap();
    let anchor = format!(
        "<a href=\"http://{}{}#sha256={}\" data-requires-python=\"&gt;=3.8\" data-dist-info-metadata=\"sha256={metadata}\" \
         data-core-metadata=\"sha256={metadata}\" data-yanked=\"&#34;&lt;&amp;&gt;\">six-1.0-py3-none-any.whl</a>",
        upstream.address(),
        file.url_path,
        file.sha256
    );
    assert!(text.contains(&anchor), "{text}");
    assert!(text.contains("name=\"pypi:repository-version\" content=\"1.4\""));
    assert!(text.ends_with(&format!("<!--SERIAL {serial}-->\n")));
}

#[test]
fn the_form_is_negotiated_by_quality() {
    let mut world = World::new();
    world.release("six", "1.0");
    let upstream = Upstream::start(world).unwrap();
    let json = "application/vnd.pypi.simple.v1+json";
    let html = "application/vnd.pypi.simple.v1+html";
    let plain = "text/html; charset=UTF-8";
    for (accept, form) in [
        (format!("{json}, {html};q=0.1, text/html;q=0.01"), json),
        (format!("{json};q=0.2, {html};q=0.3"), html),
        ("application/vnd.pypi.simple.latest+json".to_owned(), json),
        (format!("{json};q=0, */*;q=0.1"), plain),
        (format!("{json}, */*;q=0.1"), json),
        ("*/*".to_owned(), plain),
        ("image/png".to_owned(), plain),
    ] {
        for path in ["/simple/", "/simple/six/"] {
            let answer = get(&upstream, path, &[("Accept", &accept)]).unwrap();
            assert_eq!((answer.status, answer.header("content-type")), (200, Some(form)), "{accept}");
            assert!(answer.header("vary").unwrap().starts_with("Accept"));
        }
    }
    upstream.json(false);
    let answer = get(&upstream, "/simple/six/", &[JSON]).unwrap();
    assert_eq!(answer.header("content-type"), Some(plain));
}

#[test]
fn an_etag_stands_for_the_body_and_gives_304() {
    let mut world = World::new();
    world.release("six", "1.0");
    let upstream = Upstream::start(world).unwrap();
    for (path, changed) in [("/simple/", true), ("/simple/six/", true), ("/simple/idna/", false)] {
        if !changed {
            upstream.world().release("idna", "1.0");
        }
        let first = get(&upstream, path, &[JSON]).unwrap();
        let etag = first.header("etag").unwrap().to_owned();
        assert!(etag.starts_with('"') && etag.ends_with('"'));
        let again = get(&upstream, path, &[JSON, ("If-None-Match", &etag)]).unwrap();
        assert_eq!((again.status, again.body.len()), (304, 0));
        assert_eq!(again.header("etag"), Some(etag.as_str()));
        let other_form = get(&upstream, path, &[("If-None-Match", &etag)]).unwrap();
        assert_eq!(other_form.status, 200);
        // A role event changes nothing but the serial, and that is in the body: of the list at once, of the page as soon
        // as it is rendered anew.
        upstream.world().role("six", "add Owner bob");
        let later = get(&upstream, path, &[JSON, ("If-None-Match", &etag)]).unwrap();
        assert_eq!(later.status, if path == "/simple/" { 200 } else { 304 });
        upstream.advance(Duration::from_secs(24 * 60 * 60));
        let a_day_later = get(&upstream, path, &[JSON, ("If-None-Match", &etag)]).unwrap();
        assert_eq!(a_day_later.status, if changed { 200 } else { 304 });
    }
    let counts = upstream.counts();
    assert_eq!((counts.root, counts.root_304, counts.page, counts.page_304), (5, 1, 10, 5));
}

#[test]
fn names_are_redirected_to_their_normal_form() {
    let mut world = World::new();
    world.release("a__b", "1.0");
    let upstream = Upstream::start(world).unwrap();
    for (path, to) in [
        ("/simple", "/simple/"),
        ("/simple/a-b", "/simple/a-b/"),
        ("/simple/a__b/", "/simple/a-b/"),
        ("/simple/A.B", "/simple/a-b/"),
        ("/simple/No_Such/", "/simple/no-such/"),
    ] {
        let answer = get(&upstream, path, &[]).unwrap();
        assert_eq!((answer.status, answer.header("location")), (301, Some(to)), "{path}");
    }
    for path in ["/simple/no-such/", "/simple/a-b/c/", "/", "/simplex/", "/packages/x"] {
        let answer = get(&upstream, path, &[]).unwrap();
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
    }
    assert_eq!(ask(&upstream, "PUT", "/simple/", &[], "").unwrap().status, 405);
}

#[test]
fn the_root_leaves_out_what_is_quarantined_and_its_page_is_empty() {
    let mut world = World::new();
    let six = world.release("six", "1.0");
    world.release("Evil", "1.0");
    let evil = world.quarantine("Evil");
    world.release("gone", "1.0");
    let last = world.remove_project("gone");
    let upstream = Upstream::start(world).unwrap();
    let root = get(&upstream, "/simple/", &[JSON]).unwrap().json();
    let projects = json!([{ "name": "six", "_last-serial": six }]);
    assert_eq!(root, json!({ "meta": { "api-version": "1.4", "_last-serial": last }, "projects": projects }));
    let page = get(&upstream, "/simple/evil/", &[JSON]).unwrap().json();
    assert_eq!(
        page,
        json!({
            "meta": { "api-version": "1.4", "_last-serial": evil },
            "name": "evil",
            "project-status": { "status": "quarantined" },
            "versions": [],
            "files": [],
        })
    );
    assert_eq!(get(&upstream, "/simple/gone/", &[JSON]).unwrap().status, 404);
    let list = call(&upstream, "list_packages_with_serial", None).unwrap();
    assert!(list.text().contains("<name>Evil</name>"));
    assert_eq!(numbers(&list), [evil, six]);
}

#[test]
fn archiving_changes_the_page_and_no_serial() {
    let mut world = World::new();
    let serial = world.release("six", "1.0");
    let upstream = Upstream::start(world).unwrap();
    let before = get(&upstream, "/simple/six/", &[JSON]).unwrap();
    upstream.world().set_status("six", Status::Archived);
    let after = get(&upstream, "/simple/six/", &[JSON]).unwrap();
    assert_ne!(before.header("etag"), after.header("etag"));
    assert_eq!(after.json()["project-status"]["status"], "archived");
    assert_eq!(after.json()["meta"]["_last-serial"], serial);
    assert_eq!(numbers(&call(&upstream, "changelog_last_serial", None).unwrap()), [serial]);
}

#[test]
fn the_changelog_is_read_page_by_page() {
    let (world, _) = history(1, 10, 100, Weights::default());
    let serials: Vec<u64> = world.events().map(|event| event.serial).collect();
    let upstream = Upstream::start(world).unwrap();
    upstream.changelog_limit(40);
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let after = seen.last().copied().unwrap_or_default();
        let answer = call(&upstream, "changelog_since_serial", Some(after)).unwrap();
        // Each row has its time and its serial.
        let numbers = numbers(&answer);
        if numbers.is_empty() {
            break;
        }
        assert!(numbers.len() <= 80);
        seen.extend(numbers.iter().skip(1).step_by(2));
        pages += 1;
    }
    assert_eq!(seen, serials);
    assert_eq!(upstream.counts().xmlrpc["changelog_since_serial"], pages + 1);
}

#[test]
fn rows_are_cleaned_and_escaped() {
    let mut world = World::new();
    world.create_project("six");
    world.upload("six", &Upload::raw("six-\u{fc}\u{7}<&>.tar.gz", "1<2", "x"));
    let upstream = Upstream::start(world).unwrap();
    let text = call(&upstream, "changelog_since_serial", Some(0)).unwrap().text();
    assert!(text.contains(
        "<value><array><data>\n<value><string>six</string></value>\n<value><nil/></value>\n\
         <value><int>1700000000</int></value>\n<value><string>create</string></value>\n<value><int>1</int></value>\n"
    ));
    assert!(text.contains("<string>1&lt;2</string>"));
    assert!(text.contains("<string>add source file six-&amp;#252;&lt;&amp;&gt;.tar.gz</string>"));
}

#[test]
fn anything_else_by_xmlrpc_is_a_fault() {
    let upstream = Upstream::start(World::new()).unwrap();
    let answer = call(&upstream, "search", None).unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("<name>faultCode</name>\n<value><int>-32601</int></value>"));
    assert_eq!(get(&upstream, "/pypi", &[]).unwrap().status, 405);
    upstream.xmlrpc(false);
    assert_eq!(call(&upstream, "changelog_last_serial", None).unwrap().status, 404);
}

#[test]
fn calls_over_the_limit_are_faults_until_the_window_has_passed() {
    let upstream = Upstream::start(World::new()).unwrap();
    upstream.set_manual_clock(0);
    let window = Duration::from_secs(60);
    upstream.rate_limit(Some(RateLimit { calls: 2, window }));
    let refused = |rate_limit: &str| {
        let answer = call(&upstream, "changelog_last_serial", None).unwrap();
        assert_eq!(answer.header("ratelimit"), Some(rate_limit));
        assert_eq!(answer.header("ratelimit-policy"), Some("\"xmlrpc\";q=2;w=60"));
        answer.text().contains("<int>-32500</int>")
    };
    assert!(!refused("\"xmlrpc\";r=1;t=60"));
    upstream.advance(Duration::from_secs(20));
    assert!(!refused("\"xmlrpc\";r=0;t=40"));
    assert!(refused("\"xmlrpc\";r=0;t=40"));
    upstream.advance(Duration::from_secs(40));
    assert!(!refused("\"xmlrpc\";r=1;t=60"));
}

#[test]
fn a_plain_index_has_no_serials_anywhere() {
    let mut world = World::new();
    world.release("six", "1.0");
    let upstream = Upstream::start(world).unwrap();
    upstream.serials(false);
    for path in ["/simple/", "/simple/six/"] {
        for headers in [&[JSON][..], &[]] {
            let answer = get(&upstream, path, headers).unwrap();
            assert_eq!(answer.header("x-pypi-last-serial"), None);
            assert!(!answer.text().to_lowercase().contains("serial"), "{}", answer.text());
        }
    }
    assert_eq!(call(&upstream, "changelog_last_serial", None).unwrap().status, 404);
}

#[test]
fn files_come_whole_or_in_ranges() {
    let mut world = World::new();
    world.upload("six", &Upload::raw("six-1.0.tar.gz", "1.0", "0123456789"));
    let path = world.project("six").unwrap().files.remove(0).url_path;
    let upstream = Upstream::start(world).unwrap();
    let whole = get(&upstream, &path, &[]).unwrap();
    assert_eq!((whole.status, whole.text().as_str()), (200, "0123456789"));
    assert_eq!(whole.header("cache-control"), Some("max-age=365000000, immutable, public"));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    for (range, status, part, said) in [
        ("bytes=2-4", 206, "234", Some("bytes 2-4/10")),
        ("bytes=7-", 206, "789", Some("bytes 7-9/10")),
        ("bytes=7-99", 206, "789", Some("bytes 7-9/10")),
        ("bytes=-3", 206, "789", Some("bytes 7-9/10")),
        ("bytes=-99", 206, "0123456789", Some("bytes 0-9/10")),
        ("bytes=10-", 416, "", Some("bytes */10")),
        ("bytes=-0", 416, "", Some("bytes */10")),
        ("bytes=4-2", 200, "0123456789", None),
        ("lines=1-2", 200, "0123456789", None),
    ] {
        let answer = get(&upstream, &path, &[("Range", range)]).unwrap();
        let got = (answer.status, answer.text(), answer.header("content-range"));
        assert_eq!(got, (status, part.to_owned(), said), "{range}");
    }
    let etag = whole.header("etag").unwrap();
    assert_eq!(get(&upstream, &path, &[("If-None-Match", etag)]).unwrap().status, 304);
    let mismatched = get(&upstream, &path, &[("Range", "bytes=0-1"), ("If-Range", "\"x\"")]).unwrap();
    assert_eq!(mismatched.status, 200);
    let head = ask(&upstream, "HEAD", &path, &[], "").unwrap();
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("10"), 0));
    assert_eq!(get(&upstream, &format!("{path}.metadata"), &[]).unwrap().status, 404);
    // Deleting a file leaves it in storage.
    upstream.world().remove_project("six");
    assert_eq!(get(&upstream, &path, &[]).unwrap().status, 200);
}

#[test]
fn a_wheel_has_its_metadata_beside_it_and_odd_filenames_are_encoded() {
    let mut world = World::new();
    let wheel = WheelSpec::new("six", "1.0+a b");
    world.upload("six", &Upload::wheel(&wheel));
    let upstream = Upstream::start(world).unwrap();
    upstream.file_base("../..");
    let page = get(&upstream, "/simple/six/", &[JSON]).unwrap().json();
    let url = page["files"][0]["url"].as_str().unwrap();
    assert!(url.starts_with("../../packages/") && url.ends_with("/six-1.0+a%20b-py3-none-any.whl"), "{url}");
    let path = &url[5..];
    assert_eq!(get(&upstream, path, &[]).unwrap().body, wheel.bytes());
    assert_eq!(get(&upstream, &format!("{path}.metadata"), &[]).unwrap().body, wheel.metadata());
    let counts = upstream.counts();
    assert_eq!((counts.page, counts.file, counts.metadata, counts.total()), (1, 1, 1, 3));
    assert_eq!(upstream.requests(&path.replace("%20", " ")), 1);
    assert_eq!(upstream.last_header("/simple/six/", "host").as_deref(), Some("fake"));
    upstream.reset_counters();
    assert_eq!(upstream.counts().total(), 0);
}

#[test]
fn files_that_move_are_where_they_were_on_older_pages() {
    let mut world = World::new();
    world.release("six", "1.0");
    let upstream = Upstream::start(world).unwrap();
    upstream.set_manual_clock(upstream.now_ms());
    let url =
        || get(&upstream, "/simple/six/", &[JSON]).unwrap().json()["files"][0]["url"].as_str().unwrap().to_owned();
    let before = url();
    assert!(before.starts_with(&format!("{}packages/", upstream.url())), "{before}");
    upstream.advance(Duration::from_secs(9));
    upstream.world().move_files("http://files.example");
    let after = url();
    assert_eq!(after.strip_prefix("http://files.example/"), before.strip_prefix(&upstream.url()));
    let age = Age::Exactly(Duration::from_secs(1));
    upstream.fault(Rule::new(On::Everything, Fault::Stale { age, not_found: false, flapping: false }));
    assert_eq!(url(), before);
}

#[test]
fn an_edge_has_the_same_index_and_faults_of_its_own() {
    let mut world = World::new();
    world.release("six", "1.0");
    let upstream = Upstream::start(world).unwrap();
    let edge = upstream.edge().unwrap();
    assert_ne!(edge.url(), upstream.url());
    edge.fault(Rule::new(On::Path("/simple/idna/".into()), Fault::Gone));
    upstream.world().release("idna", "1.0");
    assert_eq!(get(&upstream, "/simple/idna/", &[]).unwrap().status, 200);
    assert_eq!(get(&edge, "/simple/idna/", &[]).unwrap().status, 404);
    let [one, other] = [&upstream, &edge].map(|index| get(index, "/simple/six/", &[JSON]).unwrap().body);
    assert_eq!(one, other, "also where the files are");
    assert_eq!((upstream.counts().page, edge.counts().page), (2, 2));
    drop(upstream);
    assert_eq!(get(&edge, "/simple/six/", &[]).unwrap().status, 200, "it goes on by itself");
}

#[test]
fn pages_are_compressed_for_those_who_accept_it() {
    let mut world = World::new();
    world.release("six", "1.0");
    let upstream = Upstream::start(world).unwrap();
    let plain = get(&upstream, "/simple/six/", &[JSON]).unwrap();
    let accepts = ("Accept-Encoding", "br, gzip;q=0.9");
    let packed = get(&upstream, "/simple/six/", &[JSON, accepts]).unwrap();
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    let mut body = Vec::new();
    GzDecoder::new(&packed.body[..]).read_to_end(&mut body).unwrap();
    assert_eq!(body, plain.body);
    upstream.gzip(false);
    assert_eq!(get(&upstream, "/simple/six/", &[JSON, accepts]).unwrap().body, plain.body);
}

#[test]
fn one_connection_serves_many_requests() {
    let mut world = World::new();
    world.upload("six", &Upload::raw("six-1.0.tar.gz", "1.0", "first"));
    let path = world.project("six").unwrap().files.remove(0).url_path;
    let upstream = Upstream::start(world).unwrap();
    let mut stream = TcpStream::connect(upstream.address()).unwrap();
    let request = format!("GET {path}?x=1 HTTP/1.1\r\nHost: fake\r\n\r\n");
    stream.write_all(format!("{request}{request}").as_bytes()).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3);
    assert_eq!(upstream.requests(&path), 3);
}

#[test]
fn an_override_replaces_the_answer_to_the_byte() {
    let mut world = World::new();
    world.release("six", "1.0");
    let upstream = Upstream::start(world).unwrap();
    let moved = Response::new(302).header("Location", "http://10.0.0.1/").body("away");
    upstream.override_path("/simple/six/", moved);
    let answer = get(&upstream, "/simple/six/", &[JSON]).unwrap();
    assert_eq!((answer.status, answer.header("location")), (302, Some("http://10.0.0.1/")));
    assert!(answer.whole());
    upstream.override_path("/simple/six/", Response::new(200).body("ab").repeated(3));
    assert_eq!(get(&upstream, "/simple/six/", &[]).unwrap().text(), "ababab");
    upstream.override_path("/simple/six/", Response::new(200).body("ab").repeated(2).chunked());
    assert_eq!(get(&upstream, "/simple/six/", &[]).unwrap().text(), "2\r\nab\r\n2\r\nab\r\n0\r\n\r\n");
    upstream.override_path("/simple/six/", Response::new(200).header("Content-Length", "9").body("ab"));
    assert!(!get(&upstream, "/simple/six/", &[]).unwrap().whole());
    upstream.remove_override("/simple/six/");
    assert_eq!(get(&upstream, "/simple/six/", &[]).unwrap().status, 200);
}

#[test]
fn it_moves_by_itself_until_it_is_stopped() {
    let (world, generator) = history(1, 10, 0, Weights::default());
    let before = world.serial();
    let upstream = Upstream::start(world).unwrap();
    upstream.run_at(500.0, generator).unwrap();
    while upstream.world().serial() < before + 50 {
        std::thread::yield_now();
    }
    let mut generator: Generator = upstream.stop_moving().unwrap();
    let stopped = upstream.world().serial();
    assert!(upstream.stop_moving().is_none());
    assert_eq!(upstream.world().serial(), stopped);
    let serials = generator.step(&mut upstream.world());
    assert!(serials.iter().all(|serial| *serial > stopped));
    let world = upstream.world();
    let times: Vec<u64> = world.events().map(|event| event.at_ms).collect();
    assert!(times.is_sorted());
}

#[test]
fn a_dropped_index_is_gone() {
    let upstream = Upstream::start(World::new()).unwrap();
    let address = upstream.address();
    drop(upstream);
    assert!(TcpStream::connect(address).is_err());
}
