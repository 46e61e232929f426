//! Trees of bandersnatch and shadowmire: what is read of them, and what a hostile one is told to be.
#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "the tests are the program that made the tree")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use strandline_model::{ProjectName, TreePath};
use strandline_pypi::{NoTree, WebTree};
use strandline_sync::adopt::{Finding, Opened, Tree as _, Visited};
use tempfile::TempDir;

const DIGEST: &str = "9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e";
const OTHER: &str = "0f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e";
/// Larger than every page that should be read.
const MOST: u64 = 2_000;

struct Made {
    directory: TempDir,
}

impl Made {
    fn new() -> Self {
        let made = Self { directory: tempfile::tempdir().unwrap() };
        for name in ["simple", "packages"] {
            fs::create_dir_all(made.path(name)).unwrap();
        }
        made
    }

    /// A path below `web`.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("web").join(name)
    }

    fn write(&self, name: &str, text: &str) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn link(&self, name: &str, target: impl AsRef<Path>) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    fn open(&self) -> WebTree {
        WebTree::open(self.directory.path(), MOST).unwrap()
    }

    /// Everything that the pages say, a line each, with what could not be read; then what no page could name.
    fn read(&self) -> Vec<String> {
        let tree = self.open();
        let mut lines = Vec::new();
        let mut problems = Vec::new();
        let projects = tree.projects(&mut |finding| problems.push(finding)).unwrap();
        for (project, places) in projects {
            let listed = tree.listed(&project, &places);
            problems.extend(listed.problems);
            for (path, named) in listed.files {
                let claims: Vec<_> = named
                    .claims
                    .iter()
                    .map(|claim| format!("{}/{}", &claim.sha256.to_string()[..2], claim.size.map_or(0, |size| size)))
                    .collect();
                let there = match tree.open(&path) {
                    Opened::File(_) => "there",
                    Opened::Missing => "missing",
                    Opened::Unfit(_) => "unfit",
                };
                let expected = if named.expected { "" } else { " if there" };
                lines.push(format!("{path} {}{expected}: {there}", claims.join(" or ")));
            }
        }
        for problem in problems {
            let Finding::Unreadable { path, problem } = problem else { unreachable!("{problem:?}") };
            lines.push(format!("{path} {problem}").replace(self.directory.path().to_str().unwrap(), "DIR"));
        }
        lines
    }

    fn walk(&self) -> BTreeMap<String, &'static str> {
        let mut found = BTreeMap::new();
        self.open()
            .walk(&mut |visited| {
                let (path, what) = match visited {
                    Visited::File(path) => (path.to_string(), "file"),
                    Visited::Odd(path) => (path, "odd"),
                    Visited::Unreadable(path, _) => (path, "unreadable"),
                };
                found.insert(path, what);
            })
            .unwrap();
        found
    }
}

const FILE: &str = "packages/aa/bb/cc/six-1.0.tar.gz";

fn json(digest: &str, url: &str) -> String {
    format!(
        r#"{{"files":[{{"filename":"six-1.0.tar.gz","hashes":{{"sha256":"{digest}"}},"requires-python":null,"size":7,
        "upload-time":"2023-11-14T22:13:20Z","url":"{url}","yanked":false}}],
        "meta":{{"api-version":"1.1","_last-serial":"4"}},"name":"six","versions":["1.0"]}}"#
    )
}

fn html(digest: &str, url: &str) -> String {
    format!("<!DOCTYPE html><body><a href=\"{url}#sha256={digest}\">six-1.0.tar.gz</a></body><!--SERIAL 4-->")
}

/// As `json/PROJECT` has it, with another file that a filter keeps away.
fn older(digest: &str) -> String {
    let file = |name: &str, digest: &str| {
        format!(
            r#"{{"filename":"{name}","url":"https://files.example/packages/aa/bb/cc/{name}","size":7,"digests":{{"sha256":"{digest}"}}}}"#
        )
    };
    let (own, filtered) = (file("six-1.0.tar.gz", digest), file("six-0.9.tar.gz", OTHER));
    format!(r#"{{"info":{{}},"last_serial":4,"releases":{{"1.0":[{own}],"0.9":[{filtered}]}}}}"#)
}

#[test]
fn all_forms_of_pages_say_the_same() {
    let url = "../../packages/aa/bb/cc/six-1.0.tar.gz";
    for (form, text, size) in [
        ("index.v1_json", json(DIGEST, url), 7),
        ("index.v1_json", json(DIGEST, "https://files.example/packages/aa/bb/cc/six-1.0.tar.gz"), 7),
        ("index.v1_json", json(DIGEST, "http://127.0.0.1/pypi/packages/aa/bb/cc/six-1.0.tar.gz"), 7),
        ("index.v1_html", html(DIGEST, url), 0),
        ("index.html", html(DIGEST, url), 0),
    ] {
        for place in ["simple/six", "simple/s/six"] {
            let made = Made::new();
            made.write(&format!("{place}/{form}"), &text).write(FILE, "some bytes");
            assert_eq!(made.read(), [format!("{FILE} 9f/{size}: there")], "{place}/{form}");
        }
    }
    let made = Made::new();
    made.write("json/six", &older(DIGEST));
    assert_eq!(made.read(), ["packages/aa/bb/cc/six-0.9.tar.gz 0f/7: missing", &format!("{FILE} 9f/7: missing")]);
    let made = Made::new();
    made.write("pypi/six/json", &older(DIGEST));
    assert_eq!(made.read().len(), 2, "the copy will do where there is nothing else");
}

#[test]
fn the_page_says_what_should_be_there_and_the_older_json_what_may_be() {
    let made = Made::new();
    let url = "../../packages/aa/bb/cc/six-1.0.tar.gz";
    let page =
        json(DIGEST, url).replace("\"yanked\"", &format!("\"core-metadata\":{{\"sha256\":\"{OTHER}\"}},\"yanked\""));
    made.write("simple/six/index.v1_json", &page)
        .write("simple/six/index.html", "unused")
        .write("json/six", &older(OTHER));
    let expected = [
        "packages/aa/bb/cc/six-0.9.tar.gz 0f/7 if there: missing",
        "packages/aa/bb/cc/six-1.0.tar.gz 9f/7 or 0f/7: missing",
        "packages/aa/bb/cc/six-1.0.tar.gz.metadata 0f/0: missing",
    ];
    assert_eq!(made.read(), expected);
    // That there is metadata says nothing that could be checked.
    made.write("simple/six/index.v1_json", &page.replace(&format!("{{\"sha256\":\"{OTHER}\"}}"), "true"));
    assert_eq!(made.read()[2], "packages/aa/bb/cc/six-1.0.tar.gz.metadata  if there: missing");
}

#[test]
fn a_directory_of_one_letter_is_a_project_or_has_projects() {
    let made = Made::new();
    let page = |name: &str| json(DIGEST, &format!("/packages/aa/bb/cc/{name}-1.0.tar.gz")).replace("six", name);
    for (place, name) in [("s/six", "six"), ("s/s", "s"), ("x", "x"), ("y", "y"), ("y/yes", "yes")] {
        made.write(&format!("simple/{place}/index.v1_json"), &page(name));
    }
    made.write("simple/x/versions/index_3.v1_json", "old").write("simple/index.html", "<a href=x/>x</a>");
    let projects: Vec<ProjectName> = made.open().projects(&mut |_| unreachable!()).unwrap().into_keys().collect();
    assert_eq!(projects.iter().map(ProjectName::as_str).collect::<Vec<_>>(), ["s", "six", "x", "y", "yes"]);
    assert_eq!(made.read().len(), 5);
}

/// Kept versions are absolute links (so made by bandersnatch), and shadowmire's pages lead to one another. The tree may have
/// been moved since.
#[test]
fn a_page_that_is_a_link_is_read_beside_it_or_in_versions() {
    let url = "../../packages/aa/bb/cc/six-1.0.tar.gz";
    let name = "index_4_2026-11-25T003417.619009Z.v1_json";
    let made = Made::new();
    made.write(&format!("simple/six/versions/{name}"), &json(DIGEST, url));
    for target in [
        made.path("simple/six/versions").join(name),
        Path::new("/elsewhere/web/simple/six/versions").join(name),
        Path::new("versions").join(name),
    ] {
        made.link("simple/six/index.v1_json", target);
        assert_eq!(made.read(), [format!("{FILE} 9f/7: missing")]);
        fs::remove_file(made.path("simple/six/index.v1_json")).unwrap();
    }
    let made = Made::new();
    made.link("simple/six/index.html", "index.v1_html").write("simple/six/index.v1_html", &html(DIGEST, url));
    assert_eq!(made.read(), [format!("{FILE} 9f/0: missing")]);
}

/// A directory beside a tree, with a file that would do as a page.
fn outside() -> (tempfile::TempDir, std::path::PathBuf) {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, json(DIGEST, "../../packages/aa/bb/cc/six-1.0.tar.gz")).unwrap();
    (outside, secret)
}

#[test]
fn pages_outside_are_not_read_and_hostile_ones_not_believed() {
    let (outside, secret) = outside();
    let made = Made::new();
    let fifo = |name: &str| {
        fs::create_dir_all(made.path(name).parent().unwrap()).unwrap();
        mknodat(CWD, made.path(name), FileType::Fifo, Mode::RUSR, 0).unwrap();
    };
    made.link("simple/away/index.v1_json", &secret);
    made.link("simple/away2", outside.path());
    made.link("simple/loop/index.html", "index.html").link("simple/up/index.html", "../..");
    made.link("json/six", &secret);
    fifo("simple/fifo/index.html");
    fs::create_dir_all(made.path("simple/directory/index.html")).unwrap();
    made.write("simple/broken/index.v1_json", "{\"files\":[").write("json/broken", "[");
    made.write("simple/huge/index.html", &" ".repeat(2_001));
    made.write("simple/binary/index.html", "x");
    fs::write(made.path("simple/binary/index.html"), b"\xff\xfe").unwrap();
    made.write("simple/other/index.v1_json", &json(DIGEST, "/packages/aa/six-1.0.tar.gz"));
    made.write("simple/no name/index.html", "").write("json/.temporary", "{}").write("simple/empty/x", "");
    for (name, url) in [
        ("escape", "../../packages/../../secret/NAME"),
        ("encoded", "../../packages/%2e%2e/NAME"),
        ("elsewhere", "../../files/NAME"),
        ("renamed", "../../packages/aa/other-1.0.tar.gz"),
    ] {
        let file = format!("{name}-1.0.tar.gz");
        let page = json(DIGEST, &url.replace("NAME", &file)).replace("six", name);
        made.write(&format!("simple/{name}/index.v1_json"), &page);
    }
    let said = made.read().join("\n").replace(outside.path().to_str().unwrap(), "OUTSIDE");
    insta::assert_snapshot!(said, @"
    simple/away2 is a link or no file, and is not read
    simple/no name no project can have this name
    json/six is a link or no file, and is not read
    simple/away/index.v1_json is a link to `OUTSIDE/secret`, and `simple/away/secret` is no file
    simple/binary/index.html the page is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0
    simple/broken/index.v1_json the page is not JSON: EOF while parsing a list at line 1 column 10
    json/broken it is not JSON: EOF while parsing a list at line 1 column 1
    simple/directory/index.html is no regular file
    simple/elsewhere/index.v1_json says that `elsewhere-1.0.tar.gz` is at `/files/elsewhere-1.0.tar.gz`, which is not a path of its own below `packages`
    simple/encoded/index.v1_json url of `encoded-1.0.tar.gz`: the URL `../../packages/%2e%2e/encoded-1.0.tar.gz` holds `%2e`
    simple/escape/index.v1_json url of `escape-1.0.tar.gz`: the URL `../../packages/../../secret/escape-1.0.tar.gz` escapes upwards by `..`
    simple/fifo/index.html is no regular file
    simple/huge/index.html is larger than the limit of 2000 bytes (`max-page-size`)
    simple/loop/index.html is a link to `index.html`, and `simple/loop/index.html` is no file
    simple/other/index.v1_json the page is that of `six`, not of `other`
    simple/renamed/index.v1_json says that `renamed-1.0.tar.gz` is at `/packages/aa/other-1.0.tar.gz`, which is not a path of its own below `packages`
    simple/up/index.html is a link to `../..`
    ");
}

#[test]
fn files_outside_are_not_opened() {
    let (outside, secret) = outside();
    let made = Made::new();
    let opened = |path: &str| match made.open().open(&path.parse::<TreePath>().unwrap()) {
        Opened::File(_) => "opened".to_owned(),
        Opened::Missing => "missing".to_owned(),
        Opened::Unfit(problem) => problem,
    };
    made.link("packages/aa/link", &secret).link("packages/bb", outside.path()).write("packages/cc/file", "x");
    fs::create_dir_all(made.path("packages/cc/directory")).unwrap();
    mknodat(CWD, made.path("packages/cc/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    made.link("packages/cc/inside", "file").write("packages/cc/.file.x7", "temporary").write("packages/cc/a\nb", "x");
    fs::write(made.path("packages/cc").join(OsStr::from_bytes(b"\xff")), "x").unwrap();
    let said: Vec<_> =
        ["aa/link", "bb/secret", "cc/file", "cc/directory", "cc/fifo", "cc/inside", "cc/none", "cc/file/x"]
            .map(|path| format!("{path}: {}", opened(&format!("packages/{path}"))))
            .into();
    insta::assert_snapshot!(said.join("\n"), @"
    aa/link: is behind a symbolic link, and none is followed
    bb/secret: is behind a symbolic link, and none is followed
    cc/file: opened
    cc/directory: is no regular file
    cc/fifo: is no regular file
    cc/inside: is behind a symbolic link, and none is followed
    cc/none: missing
    cc/file/x: missing
    ");
    let found: Vec<_> = made.walk().into_iter().map(|(path, what)| format!("{what} {path}")).collect();
    insta::assert_snapshot!(found.join("\n"), @r"
    odd packages/aa/link
    odd packages/bb
    odd packages/cc/a\nb
    odd packages/cc/fifo
    file packages/cc/file
    odd packages/cc/inside
    odd packages/cc/�
    ");
}

#[test]
fn what_is_no_tree_is_refused() {
    let said = |path: &Path| WebTree::open(path, MOST).unwrap_err();
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(said(empty.path()), NoTree::Unknown { .. }));
    assert!(matches!(said(Path::new("/nowhere")), NoTree::Unknown { .. }));
    // Below `web`, and `web` itself; the directory may be named through a link.
    let made = Made::new();
    let link = empty.path().join("link");
    symlink(made.path(""), &link).unwrap();
    for path in [made.directory.path().to_owned(), made.path(""), link] {
        WebTree::open(&path, MOST).unwrap();
    }
    fs::remove_dir(made.path("packages")).unwrap();
    made.link("packages", empty.path());
    let error = said(made.directory.path());
    assert!(matches!(error, NoTree::Link { .. }), "{error}");
}
