//! URLs with queries, such as signed ones, which are others at every request: a file is fetched from the URL of the page at
//! hand, and no record and no message has the query.
#![expect(clippy::disallowed_methods, reason = "a test loses files of a store")]

use std::fs;
use std::sync::Arc;

use strandline_faultkit::{World, now};
use strandline_model::{Blake3, FileName, RecordId};
use strandline_sync::repair::repair;
use strandline_sync::upstream::Page;
use strandline_sync::{OnBroken, Settings};

use crate::support::script::{Body, Reply, Script, changed, name, page, status, url};
use crate::support::{Syncs as _, context, damage, settings};

const FILE: &str = "alpha-1.tar.gz";
const BYTES: &[u8] = b"the bytes of alpha 1";

/// Alpha's page, whose file has a URL with this query.
fn signed(query: &str) -> Page {
    let file = FileName::of(&name("alpha"), FILE).unwrap();
    let with_mark = changed(page("Alpha", Some(5), "1", &[(FILE, BYTES)]), |_, seen| {
        seen.files.get_mut(&file).unwrap().query = true;
    });
    Page { queries: [(file, query.to_owned())].into(), ..with_mark }
}

fn signed_url(query: &str) -> String {
    format!("{}?{query}", url(FILE))
}

/// An upstream that signs its URLs with these, one after another, and gives the file to the first alone.
fn upstream(queries: &[&'static str]) -> Arc<Script> {
    let script = Script::new();
    script.pages("Alpha", queries.iter().map(|query| Reply::Page(signed(query), None)));
    script.files(&signed_url(queries[0]), [Body::Bytes(BYTES)]);
    Arc::new(script)
}

fn record(world: &World) -> RecordId {
    world.leaf("alpha").unwrap().record.unwrap()
}

#[test]
fn two_mirrors_with_different_signatures_have_equal_records() {
    let records = ["sig=1", "sig=2"].map(|query| {
        let (world, script) = (World::new(), upstream(&[query]));
        world.sync(&script, &settings(&["Alpha"])).unwrap();
        assert_eq!(Script::count(&script.asked(), &format!("file {}", signed_url(query))), 1);
        let record = world.open().record(record(&world)).unwrap();
        let file = record.seen().files.values().next().unwrap();
        assert_eq!((file.url.as_deref(), file.query), (Some(&*url(FILE)), true));
        record.to_bodies().id()
    });
    assert_eq!(records[0], records[1]);
}

#[test]
fn another_signature_at_every_request_is_no_change() {
    let (world, script) = (World::new(), upstream(&["sig=1", "sig=2", "sig=3"]));
    let first = world.sync(&script, &settings(&["Alpha"])).unwrap();
    let before = record(&world);
    let second = world.sync(&script, &settings(&["Alpha"])).unwrap();
    assert_eq!((second.label, second.changed), (first.label, 0));
    assert_eq!(record(&world), before);
}

#[test]
fn a_repair_asks_for_the_page_anew() {
    let (world, script) = (World::new(), upstream(&["sig=1"]));
    world.sync(&script, &settings(&["Alpha"])).unwrap();
    let store = world.open();
    fs::remove_file(store.blob_path(Blake3::of(BYTES))).unwrap();
    fs::remove_file(world.root().join("views/pypi/packages/aa/bb/cc").join(FILE)).unwrap();
    script.files(&signed_url("sig=1"), [Body::Fail(status(403))]);
    script.files(&signed_url("sig=4"), [Body::Bytes(BYTES)]);
    script.pages("Alpha", [Reply::Page(signed("sig=4"), None)]);
    let contexts = [context(&store, &script, &settings(&["Alpha"]), now())];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let done = runtime.block_on(repair(&contexts, damage(&store), false)).unwrap();
    assert!(done.left.is_empty() && done.views.is_empty(), "{done:?}");
    assert_eq!(damage(&store), []);
}

#[test]
fn no_message_has_a_signature() {
    let (world, script) = (World::new(), upstream(&["sig=1"]));
    script.files(&signed_url("sig=1"), [Body::Bytes(b"other bytes of alpha")]);
    // Elsewhere a file that cannot be had stops no sync, and no failure is recorded.
    let stopping = Settings { on_broken: OnBroken::Freeze, ..settings(&["Alpha"]) };
    let error = world.sync(&script, &stopping).unwrap_err();
    let failure = world.mirror().last_sync().unwrap().unwrap().failure.unwrap();
    for said in [error.to_string(), failure] {
        assert!(said.contains(&url(FILE)) && !said.contains("sig="), "{said}");
    }
}
