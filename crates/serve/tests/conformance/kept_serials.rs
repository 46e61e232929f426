//! Pages and files at a serial or date, which only the embedded server has.

use std::sync::Arc;

use strandline_durable::Disk;
use strandline_model::{Formats, MirrorName, Sha256, Timestamp};
use strandline_store::{Order, Store, WithdrawnFile};
use strandline_testkit::{Plain, Raised};

use crate::support::http::ask;
use crate::support::servers::Embedded;
use crate::support::table::WHEEL;
use crate::support::world::{FORMAT, Outcome, World, file_path, project};

const NEWER: (&str, &[u8]) = ("six-1.17.0-py3-none-any.whl", b"another wheel");

#[test]
fn every_snapshot_that_is_kept() -> Outcome<()> {
    let world = World::new()?;
    world.publish(10, vec![("six", Some(project("six", "old", &[WHEEL])))])?;
    world
        .publish(12, vec![("six", Some(project("six", "new", &[NEWER]))), ("idna", Some(project("idna", "1", &[])))])?;
    world.publish(12, vec![("six", Some(project("six", "newer", &[NEWER])))])?;
    let server = Embedded::start(&world)?;
    let text = |path: &str| -> Outcome<(u16, String)> {
        let answer = ask(server.at, "GET", path, &[("Accept", "application/vnd.pypi.simple.v1+json")])?;
        Ok((answer.status, String::from_utf8(answer.body)?))
    };
    for (path, body) in [
        ("/pypi/simple/six/", "json six newer"),
        ("/pypi/@10/simple/six/", "json six old"),
        ("/pypi/@12/simple/six/", "json six newer"),
        ("/pypi/@12.2/simple/six/", "json six newer"),
        ("/pypi/@10/simple/", "json 10 six:10"),
        ("/pypi/@12/simple/", "json 12 idna:12 six:12"),
        // Serial 10 was published on 2026-01-01, 12 on 2026-01-03.
        ("/pypi/@2026-01-01/simple/six/", "json six old"),
        ("/pypi/@2026-01-02/simple/six/", "json six old"),
        ("/pypi/@2026-01-03/simple/six/", "json six newer"),
        ("/pypi/@2026-01-02T00:00:00Z/simple/six/", "json six old"),
    ] {
        assert_eq!(text(path)?, (200, body.to_owned()), "{path}");
    }
    for path in [
        "/pypi/@11/simple/six/",
        "/pypi/@10.2/simple/six/",
        "/pypi/@10/simple/idna/",
        "/pypi/@2025-12-31/simple/six/",
        "/pypi/@nonsense/simple/six/",
        "/other/@10/simple/six/",
    ] {
        assert_eq!(text(path)?.0, 404, "{path}");
    }

    // Only what the snapshot names, under its own path.
    let (old, new) = (file_path(WHEEL.0, WHEEL.1), file_path(NEWER.0, NEWER.1));
    for (at, file, status) in [("@10", &old, 200), ("@10", &new, 404), ("@12", &old, 404), ("@12", &new, 200)] {
        let answer = ask(server.at, "GET", &format!("/pypi/{at}/{file}"), &[])?;
        assert_eq!(answer.status, status, "{at} {file}");
    }
    // A client's relative links from a page at a serial lead to files at that serial, and redirects stay there.
    let answer = ask(server.at, "GET", "/pypi/@10/simple/Six", &[])?;
    assert_eq!((answer.status, answer.header("location")), (301, Some("/pypi/@10/simple/six/")));

    for (path, freshness, snapshot, serial) in [
        ("/pypi/simple/six/", "no-cache", "12.2", "12"),
        ("/pypi/simple/idna/", "no-cache", "12.2", "12"),
        ("/pypi/@10/simple/six/", "public, max-age=60", "10", "10"),
        ("/pypi/@12.2/simple/", "public, max-age=60", "12.2", "12"),
        ("/pypi/@2026-01-03/simple/", "no-cache", "12.2", "12"),
    ] {
        let answer = ask(server.at, "GET", path, &[])?;
        let header = |name| answer.header(name).unwrap_or_default().to_owned();
        assert_eq!(header("cache-control"), freshness, "{path}");
        assert_eq!(header("x-strandline-serial"), snapshot, "{path}");
        assert_eq!(header("x-pypi-last-serial"), serial, "{path}");
    }

    let home = String::from_utf8(ask(server.at, "GET", "/", &[])?.body)?;
    assert!(home.contains("pip install --index-url http://mirror.example:8080/pypi/simple/"), "{home}");
    assert!(home.contains("2 projects at serial 12.2"), "{home}");
    Ok(())
}

/// From the moment on in which it is recorded, although every page lists it yet and the pool has it.
#[test]
fn what_is_withdrawn_is_not_there() -> Outcome<()> {
    let world = World::new()?;
    world.publish(10, vec![("six", Some(project("six", "old", &[WHEEL])))])?;
    world.publish(12, vec![("six", Some(project("six", "new", &[WHEEL, NEWER])))])?;
    let server = Embedded::start(&world)?;
    let [old, new] = [WHEEL, NEWER].map(|(name, bytes)| file_path(name, bytes));
    let status = |path: String| -> Outcome<u16> { Ok(ask(server.at, "GET", &path, &[])?.status) };
    for place in ["", "/@10", "/@12"] {
        assert_eq!(status(format!("/pypi{place}/{old}"))?, 200, "{place}");
    }
    let store = Store::open(world.root(), Disk::new())?;
    let order = Order { scope: None, time: Timestamp::from_seconds(0)?, who: "me".to_owned(), reason: None };
    store.withdraw(&order, &[WithdrawnFile { sha256: Sha256::of(WHEEL.1).into(), name: None }])?;
    for place in ["", "/@10", "/@12"] {
        assert_eq!(status(format!("/pypi{place}/{old}"))?, 404, "{place}");
    }
    assert_eq!(status(format!("/pypi/{new}"))?, 200);
    Ok(())
}

#[test]
fn tags_of_forms_differ_although_their_bytes_are_the_same() -> Outcome<()> {
    let world = World::new()?;
    world.publish(10, vec![("six", Some(project("six", "old", &[WHEEL])))])?;
    let server = Embedded::start(&world)?;
    for path in ["/pypi/simple/six/", "/pypi/simple/"] {
        let mut tags = Vec::new();
        for accept in ["text/html", "application/vnd.pypi.simple.v1+html", "application/vnd.pypi.simple.v1+json"] {
            let answer = ask(server.at, "GET", path, &[("Accept", accept)])?;
            tags.extend(answer.header("etag").map(str::to_owned));
        }
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), 3, "{path}: {tags:?}");
    }
    Ok(())
}

#[test]
fn mirrors_of_different_formats_are_served_by_one_site() -> Outcome<()> {
    let world = World::new()?;
    let other: MirrorName = "other".parse()?;
    let format = Plain { number: 2, ..FORMAT };
    world.publish(10, vec![("six", Some(project("six", "old", &[WHEEL])))])?;
    world.publish(11, vec![("six", None)])?;
    world.publish_in(&other, &format, 10, vec![("idna", Some(project("idna", "1", &[])))])?;
    world.publish_in(&other, &format, 12, vec![("idna", None)])?;
    let formats = Formats::usual(Arc::new(FORMAT)).with(other, Arc::new(format));
    let server = Embedded::start_with(&world, formats)?;
    // The lists of serials that are not published are written when they are asked for.
    for (path, body) in [
        ("/pypi/simple/", "json 11"),
        ("/pypi/@10/simple/", "json 10 six:10"),
        ("/other/simple/", "json-2 12"),
        ("/other/@10/simple/", "json-2 10 idna:10"),
        ("/other/@10/simple/idna/", "json idna 1"),
    ] {
        let answer = ask(server.at, "GET", path, &[("Accept", "application/vnd.pypi.simple.v1+json")])?;
        assert_eq!((answer.status, String::from_utf8(answer.body)?), (200, body.to_owned()), "{path}");
    }
    Ok(())
}

#[test]
fn what_another_renderer_made_is_served() -> Outcome<()> {
    let world = World::new()?;
    world.publish(10, vec![("six", Some(project("six", "old", &[WHEEL])))])?;
    world.publish(12, vec![("six", Some(project("six", "new", &[NEWER])))])?;
    let server = Embedded::start_with(&world, Formats::usual(Arc::new(Raised(FORMAT))))?;
    for (path, body) in [
        ("/pypi/simple/six/", "json six new"),
        ("/pypi/@10/simple/six/", "json six old"),
        // The list that is published is there; the others are written when they are asked for.
        ("/pypi/simple/", "json 12 six:12"),
        ("/pypi/@12/simple/", "json 12 six:12"),
        ("/pypi/@10/simple/", "json 10 six:10 "),
    ] {
        let answer = ask(server.at, "GET", path, &[("Accept", "application/vnd.pypi.simple.v1+json")])?;
        assert_eq!((answer.status, String::from_utf8(answer.body)?), (200, body.to_owned()), "{path}");
    }
    Ok(())
}
