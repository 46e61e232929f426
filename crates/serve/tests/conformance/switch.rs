//! What a client meets that reads before and after a switch.

use std::net::SocketAddr;

use crate::support::http::{Answer, ask};
use crate::support::servers::{Embedded, Nginx};
use crate::support::table::WHEEL;
use crate::support::world::{Outcome, World, file_path, project};

const JSON: &str = "application/vnd.pypi.simple.v1+json";
const NEWER: (&str, &[u8]) = ("six-1.17.0-py3-none-any.whl", b"another wheel");

/// The page of `six`, which has the same size whatever stands in it.
fn publish(world: &World, serial: u64, text: &str, files: &[(&str, &[u8])]) -> Outcome<()> {
    world.publish(serial, vec![("six", Some(project("six", text, files)))])
}

fn tag(answer: &Answer) -> Outcome<String> {
    let tag = answer.header("etag").ok_or("no entity tag")?;
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 2, "{tag} is not a strong tag");
    Ok(tag.to_owned())
}

/// nginx makes tags from times and sizes: pages of equal size must have other times, or a change looks like none.
fn a_304_never_hides_a_change(world: &World, at: SocketAddr) -> Outcome<()> {
    let accepts = ["text/html", "application/vnd.pypi.simple.v1+html", JSON];
    let paths = ["/pypi/simple/six/", "/pypi/simple/"];
    for serial in 11..15 {
        let before = all(at, &paths, &accepts)?;
        let text = format!("state {serial}");
        publish(world, serial, &text, &[WHEEL])?;
        for (path, accept, tag, body) in before {
            let answer = ask(at, "GET", path, &[("Accept", accept), ("If-None-Match", &tag)])?;
            assert_eq!(answer.status, 200, "{path} as {accept}");
            assert_eq!(answer.body.len(), body.len(), "the trap needs equal sizes");
            assert_ne!(answer.body, body, "{path} as {accept}");
            assert_ne!(self::tag(&answer)?, tag, "{path} as {accept}");
        }
    }
    // Nor does a tag of one form stand for another that has other bytes. The sizes are equal here too.
    for path in paths {
        let json = ask(at, "GET", path, &[("Accept", JSON)])?;
        let html = ask(at, "GET", path, &[("Accept", "text/html"), ("If-None-Match", &tag(&json)?)])?;
        assert_eq!(html.status, 200, "{path}");
        assert_eq!(html.body.len(), json.body.len(), "the trap needs equal sizes");
    }
    Ok(())
}

type Seen<'a> = (&'a str, &'a str, String, Vec<u8>);

fn all<'a>(at: SocketAddr, paths: &[&'a str], accepts: &[&'a str]) -> Outcome<Vec<Seen<'a>>> {
    let mut seen = Vec::new();
    for path in paths {
        for accept in accepts {
            let answer = ask(at, "GET", path, &[("Accept", accept)])?;
            assert_eq!(answer.status, 200, "{path} as {accept}");
            seen.push((*path, *accept, tag(&answer)?, answer.body));
        }
    }
    Ok(seen)
}

#[test]
fn a_304_of_the_embedded_server_never_hides_a_change() -> Outcome<()> {
    let world = World::new()?;
    publish(&world, 10, "state 10", &[WHEEL])?;
    let server = Embedded::start(&world)?;
    a_304_never_hides_a_change(&world, server.at)
}

#[test]
fn a_304_of_nginx_never_hides_a_change() -> Outcome<()> {
    let world = World::new()?;
    publish(&world, 10, "state 10", &[WHEEL])?;
    let server = Nginx::start(&world)?;
    a_304_never_hides_a_change(&world, server.at)
}

#[test]
fn a_page_from_before_a_switch_names_files_that_still_come() -> Outcome<()> {
    let world = World::new()?;
    publish(&world, 10, "old", &[WHEEL])?;
    let embedded = Embedded::start(&world)?;
    let nginx = Nginx::start(&world)?;
    let old = format!("/pypi/{}", file_path(WHEEL.0, WHEEL.1));
    let first = ask(embedded.at, "GET", &old, &[])?;
    // After one switch, the snapshot before names it; after two, only the pool has it.
    for serial in [11, 12] {
        publish(&world, serial, "new", &[NEWER])?;
        for at in [embedded.at, nginx.at] {
            let answer = ask(at, "GET", &old, &[])?;
            assert_eq!((answer.status, &answer.body[..]), (200, WHEEL.1), "after serial {serial}");
            let range = ask(at, "GET", &old, &[("Range", "bytes=-3"), ("If-Range", &tag(&answer)?)])?;
            assert_eq!((range.status, &range.body[..]), (206, &b"six"[..]));
        }
        if serial == 11 {
            let again = ask(embedded.at, "GET", &old, &[("If-None-Match", &tag(&first)?)])?;
            assert_eq!(again.status, 304, "a download goes on over a switch");
        }
    }
    // Where the pool has let go of it, it is gone.
    world.unpool(&file_path(WHEEL.0, WHEEL.1))?;
    for at in [embedded.at, nginx.at] {
        assert_eq!(ask(at, "GET", &old, &[])?.status, 404);
    }
    // What is published comes from its blob.
    world.unpool(&file_path(NEWER.0, NEWER.1))?;
    let answer = ask(embedded.at, "GET", &format!("/pypi/{}", file_path(NEWER.0, NEWER.1)), &[])?;
    assert_eq!((answer.status, &answer.body[..]), (200, NEWER.1));
    Ok(())
}

#[test]
fn a_project_that_is_gone_is_gone() -> Outcome<()> {
    let world = World::new()?;
    publish(&world, 10, "old", &[WHEEL])?;
    let embedded = Embedded::start(&world)?;
    let nginx = Nginx::start(&world)?;
    for at in [embedded.at, nginx.at] {
        assert_eq!(ask(at, "GET", "/pypi/simple/six/", &[])?.status, 200);
    }
    world.publish(11, vec![("six", None)])?;
    for at in [embedded.at, nginx.at] {
        assert_eq!(ask(at, "GET", "/pypi/simple/six/", &[])?.status, 404);
        assert_eq!(ask(at, "GET", "/pypi/simple/", &[])?.body, b"html 11");
    }
    Ok(())
}

#[test]
fn a_stop_lets_requests_end_and_does_not_wait_for_idle_connections() -> Outcome<()> {
    let world = World::new()?;
    publish(&world, 10, "old", &[WHEEL])?;
    let mut server = Embedded::start(&world)?;
    let idle = std::net::TcpStream::connect(server.at)?;
    assert_eq!(ask(server.at, "GET", "/", &[])?.status, 200);
    let began = std::time::Instant::now();
    server.stop()?;
    assert!(began.elapsed() < std::time::Duration::from_secs(20));
    assert!(ask(server.at, "GET", "/", &[]).is_err(), "nobody listens any more");
    drop(idle);
    Ok(())
}
