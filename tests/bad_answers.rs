//! Upstream answers badly, in one way at a time: the sync says so, readers see what they saw, nothing is left behind,
//! and when upstream is right again the mirror is what it would have been. A broken project is to stop everything here, so that a
//! file does, too; `held_projects.rs` has what becomes of a file otherwise.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use strandline_model::Sha256;
use strandline_testkit::{Age, Fault, On, Response, Rule, Upstream, World as Index};

use crate::recomputed_ids::{SHOW, check};
use crate::support::world::{World, files, text, tree_of, wheel};

const PAGE: &str = "/simple/victim/";
const JSON: &str = "application/vnd.pypi.simple.v1+json";
/// The limits of the mirror: what is good stays well below.
const LIMITS: &str = "max-page-size = \"100KB\"\nmax-file-size = \"10KB\"";

/// How upstream is to be asked.
#[derive(Clone, Copy)]
enum Asked {
    Simple,
    Warehouse,
}

impl Asked {
    /// The lines of a configuration.
    fn lines(self) -> String {
        let source = match self {
            Self::Simple => "simple",
            Self::Warehouse => "warehouse",
        };
        format!("source = \"{source}\"\nprojects = [\"good\", \"victim\"]\n{LIMITS}")
    }
}

/// One way of being bad, from the moment that upstream has a second release.
struct Bad {
    asked: Asked,
    /// Makes upstream bad.
    break_it: fn(&Upstream),
    code: i32,
    /// What the program's last words have to say, beside the project's name. [`words`] says what stands for something.
    says: Vec<&'static str>,
}

/// Where the file of the new release is.
fn next_path(upstream: &Upstream) -> String {
    let state = upstream.world().project("victim").unwrap();
    state.files.iter().find(|file| file.version == "2.0").unwrap().url_path.clone()
}

/// What the rows' words in capitals stand for: upstream's address, and what there is to say of the new file when it is
/// right, cut in the middle, or broken there.
fn words(upstream: &Upstream) -> [(&'static str, String); 7] {
    let path = next_path(upstream);
    let stored = |path: &str| upstream.world().stored(path).unwrap().to_vec();
    let right = stored(&path);
    let mut broken = right.clone();
    broken[right.len() / 2] ^= 1;
    [
        ("URL", upstream.url().trim_end_matches('/').to_owned()),
        ("SHA256", Sha256::of(&right).to_string()),
        ("BROKEN", Sha256::of(&broken).to_string()),
        ("METADATA", Sha256::of(&stored(&format!("{path}.metadata"))).to_string()),
        ("SIZE", right.len().to_string()),
        ("HALF", (right.len() / 2).to_string()),
        ("PATH", path),
    ]
}

fn bad(asked: Asked, code: i32, says: &[&'static str], break_it: fn(&Upstream)) -> Bad {
    Bad { asked, break_it, code, says: says.to_vec() }
}

impl Bad {
    fn run(self) {
        let mut index = Index::new();
        for project in ["good", "victim"] {
            index.upload(project, &wheel(project, "1.0", 1));
        }
        // So that the file alone is the next event of the log: before it, there is nothing new to publish.
        index.new_release("victim", "2.0");
        let world = World::new(index, &format!("{}\non-broken = \"freeze\"", self.asked.lines()));
        world.done(&["sync"]);
        let (live, pooled, log) = (world.live(), pool(&world), world.log());

        for project in ["victim", "good"] {
            world.upstream.world().upload(project, &wheel(project, "2.0", 1));
        }
        let words = words(&world.upstream);
        (self.break_it)(&world.upstream);
        let run = world.run(&["sync"]).ended(self.code).says(&["victim"]);
        // The last words have to do: what was said of attempts before is above them, or not seen at all with `-q`.
        let (before, error) = run.err.split_once("ERROR").unwrap();
        let fill = |text: &&str| words.iter().fold((*text).to_owned(), |text, (word, value)| text.replace(word, value));
        let said: Vec<_> = self.says.iter().map(fill).collect();
        for text in &said {
            let place = if text == "trying again" { before } else { error };
            assert!(place.contains(text), "it does not say `{text}`:\n{}", run.err);
        }
        assert!(
            !run.err.chars().any(|c| c.is_control() && c != '\n'),
            "a control character came through: {:?}",
            run.err
        );
        assert_eq!(run.out, "");

        assert_eq!(world.live(), live, "readers see something else");
        assert_eq!((pool(&world), world.log()), (pooled, log));
        assert_eq!(world.incoming(), <[String; 0]>::default(), "temporary files are left");
        let status: Value = serde_json::from_str(&world.done(&["status", "--json"])).unwrap();
        let failure = text(&status["mirrors"][0]["last_sync"]["failure"]);
        for text in said.iter().filter(|text| *text != "trying again") {
            assert!(failure.contains(text), "status does not say `{text}`: {failure}");
        }
        world.done(&["verify", "--data"]);

        world.upstream.clear_faults();
        world.upstream.remove_override(PAGE);
        world.upstream.remove_override(&next_path(&world.upstream));
        world.done(&["sync"]);
        world.done(&["sync", "--store", "fresh"]);
        assert_eq!(world.tree(), tree_of(&world.done(&["show", "pypi", "--store", "fresh"])));
        assert_eq!(world.incoming(), <[String; 0]>::default());
        world.done(&["verify", "--data"]);
    }
}

/// The files of the pool.
fn pool(world: &World) -> BTreeMap<String, std::path::PathBuf> {
    files(&world.path("store/views/pypi/packages"))
}

/// Answers with the page that is right but for a change.
fn change_page(upstream: &Upstream, change: impl FnOnce(&mut Value)) {
    let state = upstream.world().project("victim").unwrap();
    let address = upstream.url();
    let file = |file: &strandline_testkit::FileState| {
        json!({
            "filename": file.filename, "url": format!("{}{}", address.trim_end_matches('/'), file.url_path),
            "hashes": { "sha256": file.sha256 }, "size": file.size, "upload-time": file.upload_time,
            "yanked": false, "core-metadata": { "sha256": file.core_metadata },
        })
    };
    let mut page = json!({
        "meta": { "api-version": "1.4", "_last-serial": state.serial }, "name": state.name,
        "versions": state.versions, "files": state.files.iter().map(file).collect::<Vec<_>>(),
    });
    change(&mut page);
    answer(upstream, Response::new(200).body(page.to_string()));
}

/// Answers with a page.
fn answer(upstream: &Upstream, response: Response) {
    upstream.override_path(PAGE, response.header("Content-Type", JSON));
}

/// Changes a field of the new file.
fn change_file(upstream: &Upstream, field: &str, value: impl Into<Value>) {
    let value = value.into();
    change_page(upstream, |page| page["files"][1][field] = value);
}

/// Answers with something else in place of the new file.
fn answer_file(upstream: &Upstream, response: Response) {
    upstream.override_path(&next_path(upstream), response);
}

fn on_file(upstream: &Upstream, fault: Fault) {
    let path = next_path(upstream);
    upstream.fault(Rule::new(On::Path(path), fault));
}

fn on_page(upstream: &Upstream, fault: Fault) {
    upstream.fault(Rule::new(On::Path(PAGE.to_owned()), fault));
}

/// A small body that unpacks to a very large one.
fn bomb() -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![b' '; 1 << 20];
    for _ in 0..64 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap()
}

macro_rules! table {
    ($($name:ident: $asked:ident, $code:literal, $says:expr, $break_it:expr;)*) => {$(
        #[test]
        fn $name() {
            bad(Asked::$asked, $code, &$says, $break_it).run();
        }
    )*};
}

table! {
    // Names.
    all_filenames_of_another_project: Simple, 1,
        ["URL/simple/victim/", "`good-2.0-py3-none-any.whl`", "another project's"],
        |upstream| change_page(upstream, |page| {
            for file in page["files"].as_array_mut().unwrap() {
                file["filename"] = "good-2.0-py3-none-any.whl".into();
            }
        });
    page_of_another_project: Simple, 1, ["URL/simple/victim/", "`good`, not of `victim`"],
        |upstream| change_page(upstream, |page| page["name"] = json!("good"));

    // URLs.
    page_redirected_to_a_local_file: Simple, 1, ["URL/simple/victim/", "upstream answered 302"],
        |upstream| answer(upstream, Response::new(302).header("Location", "file:///etc/passwd"));
    file_redirected_to_ftp: Simple, 1,
        ["URLPATH", "victim-2.0-py3-none-any.whl", "`ftp://127.0.0.1/victim`", "neither http nor https"],
        |upstream| answer_file(upstream, Response::new(302).header("Location", "ftp://127.0.0.1/victim"));
    redirects_without_end: Simple, 1, ["URL/simple/victim/", "more than 10 redirects"],
        |upstream| answer(upstream, Response::new(302).header("Location", PAGE));

    // Too much.
    page_over_the_limit: Simple, 1, ["URL/simple/victim/", "larger than the limit of 100000 bytes"],
        |upstream| answer(upstream, Response::new(200).body(vec![b' '; 1000]).repeated(101));
    page_over_the_limit_without_a_length: Simple, 1, ["URL/simple/victim/", "larger than the limit of 100000 bytes"],
        |upstream| answer(upstream, Response::new(200).body(vec![b' '; 1000]).repeated(1 << 20).chunked());
    gzip_bomb: Simple, 1, ["URL/simple/victim/", "larger than the limit of 100000 bytes"],
        |upstream| answer(upstream, Response::new(200).header("Content-Encoding", "gzip").body(bomb()));
    file_over_the_limit: Simple, 1, ["URLPATH", "victim-2.0-py3-none-any.whl", "limit of 10000 bytes"],
        |upstream| change_file(upstream, "size", 20_000);
    file_over_the_limit_without_a_size: Simple, 1,
        ["URLPATH", "victim-2.0-py3-none-any.whl", "limit of 10000 bytes"],
        |upstream| {
            change_file(upstream, "size", Value::Null);
            answer_file(upstream, Response::new(200).body(vec![b' '; 1000]).repeated(1 << 20).chunked());
        };

    // Shapes.
    no_json: Simple, 1, ["URL/simple/victim/", "the page is not JSON"],
        |upstream| answer(upstream, Response::new(200).body("<html>down for maintenance</html>"));
    no_page: Simple, 1, ["URL/simple/victim/", "`image/png`"],
        |upstream| upstream.override_path(PAGE, Response::new(200).header("Content-Type", "image/png").body("x"));
    a_list_for_a_page: Simple, 1, ["URL/simple/victim/", "`[]`; expected an object"],
        |upstream| answer(upstream, Response::new(200).body("[]"));
    files_are_no_list: Warehouse, 3, ["URL/simple/victim/", "files is", "expected a list of objects"],
        |upstream| change_page(upstream, |page| page["files"] = json!({}));
    unknown_api_version: Simple, 1, ["URL/simple/victim/", "version `2.0`", "reads version 1"],
        |upstream| change_page(upstream, |page| page["meta"]["api-version"] = json!("2.0"));
    hash_missing: Simple, 1, ["URL/simple/victim/", "hashes.sha256 of `victim-2.0-py3-none-any.whl` is missing"],
        |upstream| change_file(upstream, "hashes", json!({ "md5": "d41d8cd98f00b204e9800998ecf8427e" }));

    // Bytes.
    wrong_size: Simple, 1, ["URL/packages/", "`victim-2.0-py3-none-any.whl`", "expected 7 bytes, got more"],
        |upstream| change_file(upstream, "size", 7);

    // Nothing.
    missing_file: Warehouse, 3, ["URL/packages/", "`victim-2.0-py3-none-any.whl`", "upstream answered 404"],
        |upstream| on_file(upstream, Fault::Gone);
    errors_for_a_file: Simple, 1, ["URL/packages/", "`victim-2.0-py3-none-any.whl`", "upstream answered 503"],
        |upstream| on_file(upstream, Fault::Status { status: 503, retry_after: Some(0) });
}

/// What is left of a file that upstream's page says something bad of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Nothing: no record can have its name.
    Nothing,
    /// Its name in the record; readers do not see it.
    Name,
    /// All but the field.
    File,
}

/// One file of a page is bad: the rest of the page is shown, `status` and `show` name what is skipped, and when upstream is right
/// again the mirror is what it would have been.
fn skipped(asked: Asked, left: Left, says: &[&str], break_it: fn(&Upstream)) {
    let mut index = Index::new();
    for project in ["good", "victim"] {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    let world = World::new(index, &asked.lines());
    world.done(&["sync"]);
    for project in ["victim", "good"] {
        world.upstream.world().upload(project, &wheel(project, "2.0", 1));
    }
    break_it(&world.upstream);
    let run = world.run(&["sync"]).ended(0);
    assert!(!run.err.chars().any(|c| c.is_control() && c != '\n'), "a control character came through: {:?}", run.err);
    let live = world.live();
    let page: Value = serde_json::from_slice(&live["simple/victim/index.v1_json"]).unwrap();
    let files: Vec<_> = page["files"].as_array().unwrap().iter().map(|file| text(&file["filename"])).collect();
    assert_eq!(files[0], "victim-1.0-py3-none-any.whl");
    assert_eq!(files.len(), if left == Left::File { 2 } else { 1 }, "{files:?}");
    let (status, shown) = (world.done(&["status"]), world.done(&["show", "pypi", "victim"]));
    for said in [&status, &shown] {
        assert!(says.iter().all(|text| said.contains(text)), "it does not say {says:?}:\n{said}");
    }
    let is_told =
        shown.contains("victim-2.0-py3-none-any.whl\tnot shown: its digest or its URL cannot be used\tsha256:-");
    assert_eq!(is_told, left == Left::Name, "{shown}");
    check(&world, &["--store", "store"], &text(&world.log()[0]["id"]), &SHOW).ended(0);

    world.upstream.remove_override(PAGE);
    // With a changelog, a page is read again at its project's next event, or when the sweep comes by.
    world.upstream.world().upload("victim", &wheel("victim", "3.0", 1));
    world.done(&["sync"]);
    assert!(!world.done(&["status"]).contains("skipped"));
    world.done(&["sync", "--store", "fresh"]);
    assert_eq!(world.tree(), tree_of(&world.done(&["show", "pypi", "--store", "fresh"])));
}

macro_rules! skipped {
    ($($name:ident: $asked:ident, $left:ident, $says:expr, $field:literal: $value:expr;)*) => {$(
        #[test]
        fn $name() {
            skipped(Asked::$asked, Left::$left, &$says, |upstream| change_file(upstream, $field, $value));
        }
    )*};
}

skipped! {
    filename_with_dots: Simple, Nothing, ["`../victim-2.0.tar.gz`", "not a plain file name"],
        "filename": "../victim-2.0.tar.gz";
    filename_with_slash: Simple, Nothing, ["`victim-2.0/../../x.whl`", "not a plain file name"],
        "filename": "victim-2.0/../../x.whl";
    filename_with_nul: Simple, Nothing, [r"`victim-2.0\0.tar.gz`", "not a plain file name"],
        "filename": "victim-2.0\0.tar.gz";
    filename_with_control_characters: Simple, Nothing, [r"`victim-2.0\u{1b}[2J\r.tar.gz`"],
        "filename": "victim-2.0\u{1b}[2J\r.tar.gz";
    filename_of_another_project: Warehouse, Nothing, ["`good-2.0-py3-none-any.whl`", "another project's"],
        "filename": "good-2.0-py3-none-any.whl";
    filename_of_a_metadata_file: Simple, Nothing, ["victim-1.0-py3-none-any.whl.metadata"],
        "filename": "victim-1.0-py3-none-any.whl.metadata";
    url_of_a_local_file: Simple, Name, ["`file:///etc/passwd`", "neither http nor https"],
        "url": "file:///etc/passwd";
    url_with_dots: Simple, Name, ["escapes upwards by `..`"],
        "url": "/packages/aa/../../victim-2.0-py3-none-any.whl";
    url_with_encoded_dots: Simple, Name, ["holds `%2e`"],
        "url": "/packages/%2E%2e/victim-2.0-py3-none-any.whl";
    url_with_encoded_slash: Simple, Name, ["holds `%2f`"],
        "url": "/packages/..%2Fvictim-2.0-py3-none-any.whl";
    hash_too_short: Warehouse, Name, ["`victim-2.0-py3-none-any.whl`", "64 hexadecimal digits"],
        "hashes": json!({ "sha256": "abcd" });
    size_is_a_text: Simple, File, ["size of `victim-2.0-py3-none-any.whl`", "expected a number of bytes"],
        "size": "many";
}

/// What may pass is asked for again before it counts, which takes a while: these rows wait together.
#[test]
fn what_may_pass_is_tried_again_before_it_counts() {
    let (file, address) = ("`victim-2.0-py3-none-any.whl`", "URLPATH");
    let stuck = |upstream: &Upstream| {
        let age = Age::StuckAt(strandline_testkit::START_MS + 60_000);
        on_page(upstream, Fault::Stale { age, not_found: false, flapping: false });
    };
    let rows = [
        bad(Asked::Simple, 1, &[address, file, "expected sha256 SHA256, got BROKEN", "trying again"], |upstream| {
            on_file(upstream, Fault::Corrupt);
        }),
        bad(
            Asked::Simple,
            1,
            &[address, "`victim-2.0-py3-none-any.whl.metadata`", "expected sha256 0000", ", got METADATA"],
            |upstream| {
                change_file(upstream, "core-metadata", json!({ "sha256": "0".repeat(64) }));
            },
        ),
        bad(Asked::Warehouse, 3, &[address, file, "expected SIZE bytes, HALF came", "trying again"], |upstream| {
            on_file(upstream, Fault::Truncate);
        }),
        bad(Asked::Simple, 1, &["URL/simple/victim/", "expected 1000 bytes, 500 came", "trying again"], |upstream| {
            answer(upstream, Response::new(200).body(vec![b' '; 1000]));
            on_page(upstream, Fault::Truncate);
        }),
        bad(Asked::Simple, 1, &["URL/simple/victim/", "trying again"], |upstream| on_page(upstream, Fault::Reset)),
        bad(Asked::Simple, 1, &["URL/simple/victim/", "upstream answered 500", "trying again"], |upstream| {
            on_page(upstream, Fault::Status { status: 500, retry_after: None });
        }),
        // A page that the changelog tells to be old, and one that it tells to be there.
        bad(Asked::Warehouse, 3, &["not consistent", "upstream shows an older page"], stuck),
        bad(Asked::Warehouse, 3, &["not consistent", "upstream has no page for it yet"], |upstream| {
            on_page(upstream, Fault::Gone);
        }),
    ];
    let threads = rows.map(|row| {
        let name = row.says.join(", ");
        (name.clone(), std::thread::Builder::new().name(name).spawn(|| row.run()).unwrap())
    });
    let failed: Vec<_> =
        threads.into_iter().filter_map(|(name, thread)| thread.join().is_err().then_some(name)).collect();
    assert!(failed.is_empty(), "{failed:?}: see above");
}

/// What passes by itself is waited out, and asked for in vain no longer than upstream wants.
#[test]
fn passing_trouble_stops_nothing() {
    for source in ["simple", "warehouse"] {
        let mut index = Index::new();
        for project in ["good", "victim"] {
            index.upload(project, &wheel(project, "1.0", 1));
        }
        let world = World::new(index, &format!("source = \"{source}\"\nprojects = [\"good\", \"victim\"]\n{LIMITS}"));
        let unavailable = Fault::Status { status: 503, retry_after: Some(0) };
        let slow = Fault::Latency(Duration::from_millis(20));
        for (on, fault) in [
            ("/pypi", unavailable),
            ("/simple/good/", unavailable),
            ("/simple/victim/", Fault::Truncate),
            ("/packages/", Fault::Reset),
            ("/packages/", slow),
        ] {
            world.upstream.fault(Rule::new(On::Prefix(on.to_owned()), fault).times(1));
        }
        world.run(&["sync"]).ended(0).says(&["trying again"]);
        world.done(&["verify", "--data"]);
    }
}
