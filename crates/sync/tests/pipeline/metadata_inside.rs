//! Metadata that upstream has not, or has wrong: readers get what stands inside the file, and a file whose metadata cannot be had is
//! shown without.
#![expect(clippy::disallowed_methods, reason = "a test loses files of a store")]

use std::fs;
use std::sync::Arc;

use strandline_faultkit::{World, now};
use strandline_model::{Blake3, CoreMetadata, Sha256};
use strandline_sync::repair::{self, BytesFrom, Repaired};
use strandline_sync::upstream::{Page, Problem};
use strandline_sync::{Method, OnBroken, Settings, SyncError};

use crate::support::script::{Body, Reply, Script, add, changed, event, page, status, url};
use crate::support::{Syncs as _, context, damage, settings};

const WHEEL: (&str, &[u8]) = ("alpha-2.whl", b"with Name: alpha");
const INSIDE: &[u8] = b"Name: alpha";
/// A wheel of which no metadata can be taken out.
const SHUT: (&str, &[u8]) = ("alpha-2.whl", b"Name: alpha");

fn hashed(bytes: &[u8]) -> CoreMetadata {
    CoreMetadata::Hashed(Sha256::of(bytes).into())
}

/// A page with one file whose metadata upstream says is this.
fn with(number: u64, file: (&str, &[u8]), core_metadata: CoreMetadata) -> Page {
    changed(page("alpha", Some(number), "2", &[file]), |_, seen| {
        seen.files.values_mut().for_each(|file| file.core_metadata = core_metadata);
    })
}

/// An upstream with one file, what it says of the metadata of that, and what it gives.
fn upstream(file: (&str, &'static [u8]), claim: CoreMetadata, metadata: Option<Body>) -> Arc<Script> {
    let script = Script::new();
    script.pages("alpha", [Reply::Page(with(5, file, claim), None)]);
    script.files(&url(file.0), [Body::Bytes(file.1)]);
    script.files(&format!("{}.metadata", url(file.0)), metadata);
    script.log([event(5, "alpha", add(file.0))]);
    Arc::new(script)
}

fn following() -> Settings {
    Settings { method: Some(Method::Changelog), ..settings(&["alpha"]) }
}

/// The metadata that readers get of the file, checked against the digest on its page; `None` where the page says none.
fn metadata(world: &World) -> Option<String> {
    let page = world.served("simple/alpha/index.v1_json").unwrap();
    let words: Vec<_> = page.lines().nth(3).unwrap().split(' ').collect();
    let served = world.served(&format!("{}.metadata", words[1])).filter(|_| words[5] != "-");
    assert_eq!(served.as_ref().map_or("-".to_owned(), |text| Sha256::of(text.as_bytes()).to_string()), words[5]);
    served
}

fn skipped(world: &World) -> Vec<String> {
    world.mirror().skipped_of(&"alpha".parse().unwrap()).unwrap().named
}

/// What upstream may say of metadata that it has not, with what it gives.
fn not_there() -> Vec<(CoreMetadata, Option<Body>)> {
    vec![
        (hashed(INSIDE), Some(Body::Fail(status(404)))),
        (hashed(b"another"), Some(Body::Fail(status(404)))),
        (hashed(INSIDE), Some(Body::Bytes(b"other bytes"))),
        (hashed(INSIDE), Some(Body::Torn(b"Name"))),
        (CoreMetadata::Unhashed, Some(Body::Fail(Problem::TooLarge { limit: 7 }))),
        (CoreMetadata::Unhashed, None),
        (CoreMetadata::Absent, None),
    ]
}

#[test]
fn what_stands_in_the_file_is_shown_and_is_no_part_of_what_upstream_says() {
    for method in [Method::Changelog, Method::Collect] {
        let settings = Settings { method: Some(method), ..following() };
        for (claim, body) in not_there() {
            let world = World::new();
            let script = upstream(WHEEL, claim, body.clone());
            let done = world.sync(&script, &settings).unwrap();
            assert_eq!((done.held.len(), done.lacking.len()), (0, 0), "{body:?}");
            assert_eq!(metadata(&world).unwrap().as_bytes(), INSIDE, "{body:?}");
            // A mirror that could have it has the same record.
            let (other, has) = (World::new(), upstream(SHUT, claim, Some(Body::Bytes(INSIDE))));
            has.pages("alpha", [Reply::Page(with(5, WHEEL, claim), None)]);
            has.files(&url(WHEEL.0), [Body::Bytes(WHEEL.1)]);
            other.sync(&has, &settings).unwrap();
            assert_eq!(world.leaf("alpha").unwrap().record, other.leaf("alpha").unwrap().record);
            assert_eq!(world.latest().snapshot.state, other.latest().snapshot.state);
            // The file is not fetched again, whatever else changes.
            script.pages("alpha", [Reply::Page(with(6, WHEEL, claim), None)]);
            script.log([event(6, "alpha", add(WHEEL.0))]);
            world.sync(&script, &settings).unwrap();
            assert_eq!(metadata(&world).unwrap().as_bytes(), INSIDE, "{body:?}");
            assert_eq!(Script::count(&script.asked(), &format!("file {}", url(WHEEL.0))), 1);
        }
    }
}

#[test]
fn a_file_of_which_none_can_be_had_is_shown_without() {
    for (claim, body) in not_there() {
        let world = World::new();
        let script = upstream(SHUT, claim, body.clone());
        let done = world.sync(&script, &following()).unwrap();
        assert_eq!((done.held.len(), done.lacking.len(), metadata(&world)), (0, 0, None), "{body:?}");
        assert_eq!(skipped(&world).len(), usize::from(claim != CoreMetadata::Absent), "{body:?}");
        // It comes with a later reading of the page.
        script.files(&format!("{}.metadata", url(SHUT.0)), [Body::Bytes(INSIDE)]);
        script.pages("alpha", [Reply::Page(with(6, SHUT, CoreMetadata::Unhashed), None)]);
        script.log([event(6, "alpha", add(SHUT.0))]);
        world.sync(&script, &following()).unwrap();
        assert_eq!((metadata(&world).unwrap().as_bytes(), skipped(&world).len()), (INSIDE, 0), "{body:?}");
    }
    // Where nothing that is broken is to be published, it is not.
    for file in [SHUT, WHEEL] {
        let script = upstream(file, hashed(INSIDE), None);
        let refused = World::new().sync(&script, &Settings { on_broken: OnBroken::Freeze, ..settings(&["alpha"]) });
        assert!(matches!(refused, Err(SyncError::Fetch(_))), "{refused:?}");
    }
}

#[test]
fn metadata_that_differs_is_upstreams_and_is_named() {
    for claim in [hashed(b"Name: Alpha"), CoreMetadata::Unhashed] {
        let world = World::new();
        let script = upstream(WHEEL, claim, Some(Body::Bytes(b"Name: Alpha")));
        // It stays named when the page is read again, and is not compared again.
        for number in 6..9 {
            world.sync(&script, &following()).unwrap();
            assert_eq!(metadata(&world).as_deref(), Some("Name: Alpha"));
            let skipped = skipped(&world);
            assert!(skipped.len() == 1 && skipped[0].contains("alpha-2.whl"), "{skipped:?}");
            script.pages("alpha", [Reply::Page(with(number, WHEEL, claim), None)]);
            script.log([event(number, "alpha", add(WHEEL.0))]);
        }
        assert_eq!(Script::count(&script.asked(), &format!("file {}", url(WHEEL.0))), 1);
        // Metadata that upstream says later takes the place of what stands in the file.
        let world = World::new();
        let script = upstream(WHEEL, CoreMetadata::Absent, None);
        world.sync(&script, &following()).unwrap();
        assert_eq!(metadata(&world).unwrap().as_bytes(), INSIDE);
        script.files(&format!("{}.metadata", url(WHEEL.0)), [Body::Bytes(b"Name: Alpha")]);
        script.pages("alpha", [Reply::Page(with(6, WHEEL, hashed(b"Name: Alpha")), None)]);
        script.log([event(6, "alpha", add(WHEEL.0))]);
        world.sync(&script, &following()).unwrap();
        assert_eq!(metadata(&world).as_deref(), Some("Name: Alpha"));
        // And goes with it again.
        script.pages("alpha", [Reply::Page(with(7, WHEEL, CoreMetadata::Absent), None)]);
        script.log([event(7, "alpha", add(WHEEL.0))]);
        world.sync(&script, &following()).unwrap();
        assert_eq!(metadata(&world).unwrap().as_bytes(), INSIDE);
    }
}

#[test]
fn a_repair_takes_it_out_again() {
    for (claim, body) in not_there() {
        let world = World::new();
        let script = upstream(WHEEL, claim, body.clone());
        world.sync(&script, &following()).unwrap();
        let store = world.open();
        fs::remove_file(store.blob_path(Blake3::of(INSIDE))).unwrap();
        fs::remove_file(world.view().join(format!("packages/aa/bb/cc/{}.metadata", WHEEL.0))).unwrap();
        let contexts = [context(&store, &script, &following(), now())];
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let done = runtime.block_on(repair::repair(&contexts, damage(&store), false)).unwrap();
        let taken = |repaired: &Repaired| matches!(repaired, Repaired::Blob { from: BytesFrom::Inside(_), .. });
        assert!(done.left.is_empty() && done.repaired.iter().any(taken), "{body:?} {done:?}");
        assert_eq!(metadata(&world).unwrap().as_bytes(), INSIDE);
    }
}
