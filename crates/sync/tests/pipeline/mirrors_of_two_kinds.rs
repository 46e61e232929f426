//! Mirrors of different kinds side by side: another way to ask, and another format.
#![expect(clippy::disallowed_methods, reason = "the tests lose files of a store")]

use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use strandline_faultkit::{World, invariants, mirror, now};
use strandline_model::{Blake3, DisplayName, MirrorName, ProjectName, Serial, UpstreamUrl};
use strandline_store::{Access, Store};
use strandline_sync::upstream::{self, Answer, Event, Page, Problem, Upstream, UpstreamError, Validator, Way};
use strandline_sync::{Context, Settings, repair};
use strandline_testkit::Plain;

use crate::support::script::{Script, page, status};
use crate::support::{context, damage, settings};

/// An upstream of one page, whose files are all the same.
#[derive(Debug)]
struct OnePage {
    url: UpstreamUrl,
    page: Page,
    bytes: &'static [u8],
}

impl OnePage {
    fn without_changelog(&self) -> UpstreamError {
        UpstreamError::new(&self.url, Problem::NoChangelog)
    }
}

impl Upstream for OnePage {
    fn url(&self) -> &UpstreamUrl {
        &self.url
    }

    fn page<'a>(
        &'a self,
        project: &'a ProjectName,
        _: Option<&'a Validator>,
        _: Way,
    ) -> BoxFuture<'a, Result<Answer, UpstreamError>> {
        let is_it = self.page.record.name() == project;
        let page = Answer::Page { page: Box::new(self.page.clone()), validator: None };
        ready(Ok(if is_it { page } else { Answer::Missing })).boxed()
    }

    fn file<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<upstream::Body, UpstreamError>> {
        let known = self.page.record.files().any(|(.., seen)| seen.url.as_deref() == Some(url));
        let bytes = known.then(|| stream::iter([Ok(Bytes::from_static(self.bytes))]).boxed());
        ready(bytes.ok_or_else(|| UpstreamError::new(url, status(404)))).boxed()
    }

    fn last_serial(&self) -> BoxFuture<'_, Result<Serial, UpstreamError>> {
        ready(Err(self.without_changelog())).boxed()
    }

    fn events_since(&self, _: Serial) -> BoxFuture<'_, Result<Vec<Event>, UpstreamError>> {
        ready(Err(self.without_changelog())).boxed()
    }

    fn projects(&self) -> BoxFuture<'_, Result<Vec<(DisplayName, Serial)>, UpstreamError>> {
        ready(Ok(vec![(self.page.record.seen().display.clone(), Serial::ZERO)])).boxed()
    }
}

const OTHER: Plain = Plain { number: 2, record: "record", lists: &["all"] };

fn lose(store: &Store, bytes: &[u8], links: &[std::path::PathBuf]) {
    fs::remove_file(store.blob_path(Blake3::of(bytes))).unwrap();
    for link in links {
        fs::remove_file(link).unwrap();
    }
}

#[test]
fn mirrors_of_different_kinds_are_synced_and_repaired_together() {
    let world = World::new();
    let script = Arc::new(Script::new());
    script.publish("Alpha", Some(5), "1", &[("alpha-1.tar.gz", b"alpha 1")]);
    let other: MirrorName = "other".parse().unwrap();
    let one_page = OnePage {
        url: "https://other.example/simple/".parse().unwrap(),
        page: page("beta", Some(3), "2", &[("beta-2.tar.gz", b"beta 2")]),
        bytes: b"beta 2",
    };
    let store = world.open();
    let contexts = [
        context(&store, &script, &settings(&["Alpha"]), now()),
        Context {
            upstream: Arc::new(one_page),
            format: Arc::new(OTHER),
            ..context(
                &store,
                &script,
                &Settings { mirror: other.clone(), access: Access::Private, ..settings(&["beta"]) },
                now(),
            )
        },
    ];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for context in &contexts {
        runtime.block_on(strandline_sync::sync(context)).unwrap();
    }
    let views = world.root().join("views");
    let read = |path: &str| fs::read_to_string(views.join(path)).unwrap();
    assert_eq!(read("pypi/live/simple/index.html"), "html 5 Alpha:5");
    assert_eq!(read("other/live/simple/all"), "html-2 3 beta:3");
    let record = read("other/live/simple/beta/record");
    assert!(record.starts_with("beta\n3\n2\nbeta-2.tar.gz packages/aa/bb/cc/beta-2.tar.gz "), "{record}");

    // A file of one comes from its upstream again; a page of the other is made of its record, in its own format.
    let file = views.join("pypi/packages/aa/bb/cc/alpha-1.tar.gz");
    lose(&store, b"alpha 1", std::slice::from_ref(&file));
    let html = views.join("other/live/simple/beta/index.html");
    lose(&store, &fs::read(&html).unwrap(), std::slice::from_ref(&html));
    // And so does a file of the other, from the other upstream.
    lose(&store, b"beta 2", &[views.join("other/packages/aa/bb/cc/beta-2.tar.gz")]);
    let found = damage(&store);
    assert_eq!(found.len(), 3);
    let done = runtime.block_on(repair::repair(&contexts, found, false)).unwrap();
    assert!(done.left.is_empty() && done.views.is_empty(), "{done:?}");
    assert_eq!(damage(&store), []);
    assert_eq!(fs::read(file).unwrap(), b"alpha 1");
    assert_eq!(read("other/live/simple/beta/index.html"), format!("<!--\n{record}-->"));
    assert_eq!(read("other/live/packages/aa/bb/cc/beta-2.tar.gz"), "beta 2");
    for mirror in [mirror(), other] {
        invariants::check(&world.root(), &store, &mirror);
    }
}
