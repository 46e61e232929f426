//! From upstream through the mirror into a virtual environment, while upstream moves, and back.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use strandline_testkit::{ReplacedUrl, World as Index};

use crate::support::server::{Nginx, Serve, get};
use crate::support::tools::{Client, Installed, install, upload_real};
use crate::support::world::{World, text, wheel};

/// Projects of which each has one kind of change ahead. `Zope.Interface` and `a__b` have names to be normalised.
const SYNTHETIC: [&str; 8] = ["Zope.Interface", "a__b", "moving", "fading", "losing", "leaving", "twice", "anew"];

/// What is installed at each step, with all that comes with it.
const WANTED: [&str; 8] = ["requests", "zope.interface", "a-b", "moving", "fading", "losing", "twice", "anew"];

fn selection(real: &BTreeMap<String, String>) -> String {
    let names: Vec<_> = real.keys().map(String::as_str).chain(SYNTHETIC).map(|name| format!("{name:?}")).collect();
    format!("projects = [{}]", names.join(", "))
}

/// The index as it is first.
fn index() -> (Index, BTreeMap<String, String>) {
    let mut index = Index::new();
    let real = upload_real(&mut index);
    for project in SYNTHETIC {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    for project in ["fading", "losing"] {
        index.upload(project, &wheel(project, "2.0", 1));
    }
    (index, real)
}

/// One change of each kind.
fn move_on(index: &mut Index) {
    index.upload("moving", &wheel("moving", "2.0", 1));
    index.yank("fading", "2.0", Some("it was wrong"));
    index.remove_file("losing", &wheel("losing", "2.0", 1).filename);
    index.remove_project("leaving");
    for (project, url) in [("twice", ReplacedUrl::Same), ("anew", ReplacedUrl::New)] {
        let other = wheel(project, "1.0", 2);
        index.replace_file(project, &other.filename, other.bytes, url);
        // What is replaced has no event of its own; a changelog tells of the project when something else happens to it.
        index.new_release(project, "0.1");
    }
}

/// What an installation from the mirror brings in one of its states.
struct State {
    /// Beside what real projects need.
    synthetic: [(&'static str, &'static str); 7],
    /// Which bytes `twice` and `anew` have.
    seed: u64,
    leaving: bool,
}

const FIRST: State = State {
    synthetic: [
        ("zope-interface", "1.0"),
        ("a-b", "1.0"),
        ("moving", "1.0"),
        ("fading", "2.0"),
        ("losing", "2.0"),
        ("twice", "1.0"),
        ("anew", "1.0"),
    ],
    seed: 1,
    leaving: true,
};

const MOVED: State = State {
    synthetic: [
        ("zope-interface", "1.0"),
        ("a-b", "1.0"),
        ("moving", "2.0"),
        ("fading", "1.0"),
        ("losing", "1.0"),
        ("twice", "1.0"),
        ("anew", "1.0"),
    ],
    seed: 2,
    leaving: false,
};

impl State {
    /// Installs from an index, and requires that what comes is this state.
    #[track_caller]
    fn installs(&self, world: &World, real: &BTreeMap<String, String>, client: Client, index: &str) {
        let installed = install(world, client, index, &WANTED);
        assert!(installed.succeeded, "{client:?} from {index}: {}", installed.said);
        let mut expected: BTreeMap<_, _> = ["requests", "certifi", "charset-normalizer", "idna", "urllib3"]
            .map(|name| (name.to_owned(), real[name].clone()))
            .into();
        expected.extend(self.synthetic.map(|(name, version)| (name.to_owned(), version.to_owned())));
        assert_eq!(installed.versions(), expected, "{client:?} from {index}");
        for project in ["twice", "anew"] {
            assert!(has_payload(&installed, project, self.seed), "{client:?} from {index}: other bytes of {project}");
        }
    }

    #[track_caller]
    fn installs_everywhere(&self, world: &World, real: &BTreeMap<String, String>, servers: [SocketAddr; 2]) {
        for at in servers {
            for client in Client::ALL {
                self.installs(world, real, client, &format!("http://{at}/pypi/simple/"));
            }
            let page = get(at, "/pypi/simple/leaving/", &[]);
            assert_eq!(page.status, if self.leaving { 200 } else { 404 });
        }
    }
}

fn has_payload(installed: &Installed, project: &str, seed: u64) -> bool {
    let (bytes, payload) = (wheel(project, "1.0", seed).bytes, installed.payload(project));
    payload.len() == 64 && bytes.windows(payload.len()).any(|window| window == payload)
}

/// The paths of a project's files as a page of the mirror names them, absolute.
#[track_caller]
fn file_paths(at: SocketAddr, mirror: &str, project: &str) -> BTreeMap<String, String> {
    let json = "Accept: application/vnd.pypi.simple.v1+json";
    let page: serde_json::Value =
        serde_json::from_str(get(at, &format!("{mirror}/simple/{project}/"), &[json]).text()).unwrap();
    let files = page["files"].as_array().unwrap();
    let path = |url: &str| format!("{mirror}/{}", url.trim_start_matches("../"));
    files.iter().map(|file| (text(&file["filename"]), path(&text(&file["url"])))).collect()
}

/// Everything that a mirror is for, in one story.
fn story(source: &str) {
    let (index, real) = index();
    let world = World::new(index, &format!("source = \"{source}\"\n{}", selection(&real)));
    world.done(&["sync"]);
    let (nginx, serve) = (Nginx::start(&world), Serve::start(&world));
    let servers = [nginx.at, serve.at];
    FIRST.installs_everywhere(&world, &real, servers);
    let first = world.newest();
    let replaced: Vec<_> = ["twice", "anew"].map(|project| file_paths(serve.at, "/pypi", project)).into();

    // Upstream moves, and nothing shows before the sync.
    move_on(&mut world.upstream.world());
    FIRST.installs(&world, &real, Client::Uv, &format!("http://{}/pypi/simple/", nginx.at));
    world.done(&["sync"]);
    MOVED.installs_everywhere(&world, &real, servers);
    let gone = install(&world, Client::Uv, &format!("http://{}/pypi/simple/", nginx.at), &["leaving"]);
    assert!(!gone.succeeded, "{}", gone.said);
    let second = world.newest();
    assert_ne!(first, second);
    let same = world.run(&["sync"]).ended(0);
    assert_eq!(world.newest(), second, "{}", same.err);

    // Every kept serial is there for who asks for it, with the files that it had.
    for client in Client::ALL {
        FIRST.installs(&world, &real, client, &format!("http://{}/pypi/@{first}/simple/", serve.at));
        MOVED.installs(&world, &real, client, &format!("http://{}/pypi/@{second}/simple/", serve.at));
    }
    for (project, before) in ["twice", "anew"].into_iter().zip(&replaced) {
        let now = file_paths(serve.at, "/pypi", project);
        for at in servers {
            for (seed, paths) in [(1, before), (2, &now)] {
                let upload = wheel(project, "1.0", seed);
                assert_eq!(get(at, &paths[&upload.filename], &[]).body, upload.bytes, "{project} {seed}");
            }
        }
        assert_eq!(file_paths(serve.at, &format!("/pypi/@{first}"), project).len(), 1);
    }

    // Back to the first serial, and on from there.
    world.run(&["rollback", "pypi", &first]).ended(0).says(&["--resume"]);
    FIRST.installs_everywhere(&world, &real, servers);
    world.upstream.world().upload("moving", &wheel("moving", "3.0", 1));
    world.run(&["sync"]).ended(0).says(&["rolled back", "--resume"]);
    FIRST.installs_everywhere(&world, &real, servers);
    let third = world.newest();
    assert_ne!(third, second);
    assert!(world.done(&["status"]).contains("ROLLED BACK"));
    let moving = format!("http://{}/pypi/@{third}/simple/", serve.at);
    assert_eq!(install(&world, Client::Uv, &moving, &["moving"]).versions()["moving"], "3.0");

    world.done(&["rollback", "pypi", "--resume"]);
    for at in servers {
        for client in Client::ALL {
            let installed = install(&world, client, &format!("http://{at}/pypi/simple/"), &["moving", "fading"]);
            let expected = [("moving", "3.0"), ("fading", "1.0")].map(|(name, v)| (name.to_owned(), v.to_owned()));
            assert_eq!(installed.versions(), expected.into(), "{}", installed.said);
        }
    }
    world.done(&["verify", "--data"]);
    assert_eq!(world.incoming(), <[String; 0]>::default());
}

#[test]
fn an_index_without_changelog_is_mirrored_from_end_to_end() {
    story("simple");
}

#[test]
fn an_index_with_changelog_is_mirrored_from_end_to_end() {
    story("warehouse");
}

/// An index that has neither JSON nor serials nor a changelog, such as a directory of static files.
#[test]
fn an_index_of_html_without_serials_is_mirrored() {
    let mut index = Index::new();
    let real = upload_real(&mut index);
    index.upload("a__b", &wheel("a__b", "1.0", 1));
    index.upload("moving", &wheel("moving", "1.0", 1));
    let world = World::new(
        index,
        "projects = [\"requests\", \"urllib3\", \"idna\", \"certifi\", \"charset-normalizer\", \"a__b\", \"moving\"]",
    );
    for knob in [strandline_testkit::Upstream::json, strandline_testkit::Upstream::serials] {
        knob(&world.upstream, false);
    }
    world.done(&["sync"]);
    let (nginx, serve) = (Nginx::start(&world), Serve::start(&world));
    let first = world.newest();
    world.done(&["sync"]);
    assert_eq!(world.newest(), first, "nothing has changed");

    let moved = wheel("moving", "2.0", 1);
    world.upstream.world().upload("moving", &moved);
    world.done(&["sync"]);
    assert_ne!(world.newest(), first);
    for (place, moving) in [
        (format!("http://{}/pypi/simple/", nginx.at), "2.0"),
        (format!("http://{}/pypi/simple/", serve.at), "2.0"),
        (format!("http://{}/pypi/@{first}/simple/", serve.at), "1.0"),
    ] {
        for client in Client::ALL {
            let installed = install(&world, client, &place, &["requests", "A_B", "moving"]);
            assert!(installed.succeeded, "{}", installed.said);
            let versions = installed.versions();
            assert_eq!((versions["requests"].as_str(), versions["a-b"].as_str()), (real["requests"].as_str(), "1.0"));
            assert_eq!(versions["moving"], moving, "{client:?} from {place}");
        }
    }
}

/// Any spelling of a name leads to the project, for clients that normalise names and for those that do not.
#[test]
fn awkward_names_are_found_by_every_spelling() {
    let mut index = Index::new();
    index.upload("Zope.Interface", &wheel("Zope.Interface", "1.0", 1));
    index.upload("a__b", &wheel("a__b", "1.0", 1));
    let world = World::new(index, "projects = [\"zope-interface\", \"A.b\"]");
    // Both servers may be there before there is anything to serve.
    let (nginx, serve) = (Nginx::start(&world), Serve::start(&world));
    for at in [nginx.at, serve.at] {
        assert_eq!(get(at, "/pypi/simple/a-b/", &[]).status, 404);
    }
    world.done(&["sync"]);
    for at in [nginx.at, serve.at] {
        for spellings in [["Zope.Interface", "a__b"], ["zope-interface", "a-b"], ["ZOPE__interface", "A.B"]] {
            for client in Client::ALL {
                let installed = install(&world, client, &format!("http://{at}/pypi/simple/"), &spellings);
                let expected = [("zope-interface", "1.0"), ("a-b", "1.0")];
                let expected = expected.map(|(name, version)| (name.to_owned(), version.to_owned()));
                assert_eq!(installed.versions(), expected.into(), "{client:?} {spellings:?}: {}", installed.said);
            }
            for (spelling, normal) in spellings.iter().zip(["zope-interface", "a-b"]) {
                let page = found(at, &format!("/pypi/simple/{spelling}"));
                assert!(page.contains(&format!("{}-1.0-py3-none-any.whl", normal.replace('-', "_"))), "{page}");
            }
        }
    }
}

/// The page that is there after all redirects.
#[track_caller]
fn found(at: SocketAddr, path: &str) -> String {
    let mut path = path.to_owned();
    for _ in 0..10 {
        let answer = get(at, &path, &[]);
        if answer.status == 200 {
            return answer.text().to_owned();
        }
        assert_eq!(answer.status, 301, "{path}");
        path.clone_from(&answer.headers["location"]);
    }
    unreachable!("too many redirects: {path}")
}

/// A page that a client kept is never taken for what is there now: pages are of one size again and again here, in
/// each form and from one sync to the next.
#[test]
fn a_304_never_hides_a_change() {
    const FORMS: [&str; 3] =
        ["text/html", "application/vnd.pypi.simple.v1+html", "application/vnd.pypi.simple.v1+json"];
    let mut index = Index::new();
    index.upload("moving", &wheel("moving", "1.0", 1));
    let world = World::new(index, "projects = [\"moving\"]");
    world.upstream.set_manual_clock(0);
    world.done(&["sync"]);
    let (nginx, serve) = (Nginx::start(&world), Serve::start(&world));
    for at in [nginx.at, serve.at] {
        let mut kept: Vec<(&str, String, Vec<u8>)> = Vec::new();
        for round in 1..5 {
            for form in FORMS {
                let accept = format!("Accept: {form}");
                let page = get(at, "/pypi/simple/moving/", &[&accept]);
                for (kept_form, tag, body) in &kept {
                    let again = get(at, "/pypi/simple/moving/", &[&accept, &format!("If-None-Match: {tag}")]);
                    if again.status == 304 {
                        assert_eq!(*body, page.body, "round {round}: a 304 for other bytes, {kept_form} and {form}");
                    } else {
                        assert_eq!((again.status, &again.body), (200, &page.body));
                    }
                }
                let tag = page.headers["etag"].clone();
                let again = get(at, "/pypi/simple/moving/", &[&accept, &format!("If-None-Match: {tag}")]);
                assert_eq!(again.status, 304, "{form}");
                kept.push((form, tag, page.body));
            }
            let other = wheel("moving", "1.0", round + 1);
            world.upstream.world().replace_file("moving", &other.filename, other.bytes, ReplacedUrl::New);
            world.done(&["sync"]);
        }
        let sizes: Vec<_> = kept.iter().filter(|page| page.0 == FORMS[2]).map(|page| page.2.len()).collect();
        assert!(sizes.windows(2).all(|pair| pair[0] == pair[1]), "the pages should have one size: {sizes:?}");
        let other = wheel("moving", "1.0", 1);
        world.upstream.world().replace_file("moving", &other.filename, other.bytes, ReplacedUrl::New);
        world.done(&["sync"]);
    }
}
