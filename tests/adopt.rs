//! `strandline adopt`: trees as bandersnatch and shadowmire leave them, in several forms, and what a sync still downloads
//! afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};
use strandline_testkit::{Fault, FileState, On, ProjectState, Rule, World as Index, metadata_of};

use crate::support::world::{World, files, wheel};

const PROJECTS: [&str; 4] = ["idna", "six", "s", "Zope.Interface"];
const SELECTED: &str = "projects = [\"idna\", \"six\", \"s\", \"zope-interface\"]\n";
/// The serial that the tree's pages claim, and that upstream has not reached: nobody may believe it.
const SERIAL: u64 = 999;

fn world(lines: &str) -> World {
    let mut index = Index::new();
    for (seed, project) in (0..).zip(PROJECTS) {
        index.upload(project, &wheel(project, "1.0", seed));
        index.upload(project, &wheel(project, "2.0", 10 + seed));
    }
    let world = World::new(index, "");
    world.configure("", &format!("{SELECTED}{lines}"));
    world
}

/// How a tree is laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    /// `json = true`.
    json: bool,
    /// Which pages there are.
    pages: &'static [&'static str],
    /// `hash-index`.
    hash_index: bool,
    kind: Kind,
}

/// Whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bandersnatch,
    /// With `keep_index_versions`: pages are links.
    Versions,
    /// No `web`, and `index.html` leads to `index.v1_html`.
    Shadowmire,
}

pub(crate) const PLAIN: Form = Form {
    json: false,
    pages: &["index.html", "index.v1_html", "index.v1_json"],
    hash_index: false,
    kind: Kind::Bandersnatch,
};

/// A tree of everything that upstream has, in the world's directory.
pub(crate) struct Tree {
    web: PathBuf,
    pub(crate) directory: PathBuf,
    projects: BTreeMap<String, ProjectState>,
}

fn page(project: &ProjectState, form: &str) -> String {
    let url = |file: &FileState| format!("../..{}", file.url_path);
    if form == "index.v1_json" {
        let files = project.files.iter().map(|file| {
            let metadata = file.core_metadata.as_ref().map_or(json!(false), |digest| json!({ "sha256": digest }));
            json!({
                "filename": file.filename, "hashes": { "sha256": file.sha256 }, "requires-python": null,
                "size": file.size, "upload-time": file.upload_time, "url": url(file), "yanked": false,
                "core-metadata": metadata,
            })
        });
        let files: Vec<Value> = files.collect();
        let meta = json!({ "api-version": "1.1", "_last-serial": SERIAL.to_string() });
        return json!({ "files": files, "meta": meta, "name": project.name, "versions": project.versions }).to_string();
    }
    let mut text =
        "<!DOCTYPE html>\n<html><head><meta name=\"pypi:repository-version\" content=\"1.0\"></head><body>\n"
            .to_owned();
    for file in &project.files {
        let metadata = file.core_metadata.as_ref();
        let metadata = metadata.map_or_else(String::new, |digest| format!(" data-core-metadata=\"sha256={digest}\""));
        writeln!(text, "<a href=\"{}#sha256={}\"{metadata}>{}</a><br/>", url(file), file.sha256, file.filename)
            .unwrap();
    }
    format!("{text}</body></html>\n<!--SERIAL {SERIAL}-->")
}

fn older_json(project: &ProjectState) -> String {
    let mut releases: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for file in &project.files {
        releases.entry(file.version.clone()).or_default().push(json!({
            "filename": file.filename, "digests": { "md5": "x", "sha256": file.sha256 }, "size": file.size,
            "url": format!("https://files.example{}", file.url_path),
        }));
    }
    json!({ "info": { "name": project.display_name }, "last_serial": SERIAL, "releases": releases }).to_string()
}

impl Tree {
    pub(crate) fn make(world: &World, form: Form) -> Self {
        let directory = world.path("old");
        let web = if form.kind == Kind::Shadowmire { directory.clone() } else { directory.join("web") };
        let tree = Self { web, directory, projects: world.upstream.world().state() };
        let pages = |name: &str| {
            let letter = if form.hash_index { format!("{}/", &name[..1]) } else { String::new() };
            format!("simple/{letter}{name}")
        };
        for (name, project) in &tree.projects {
            for page_form in form.pages {
                let path = format!("{}/{page_form}", pages(name));
                if form.kind == Kind::Versions {
                    let kept = format!("{}/versions/index_{SERIAL}_2026-01-01.{page_form}", pages(name));
                    tree.write(&kept, page(project, page_form).as_bytes());
                    // Absolute, as bandersnatch makes them.
                    symlink(tree.web.join(kept).canonicalize().unwrap(), tree.web.join(path)).unwrap();
                } else {
                    tree.write(&path, page(project, page_form).as_bytes());
                }
            }
            if form.kind == Kind::Shadowmire {
                symlink("index.v1_html", tree.web.join(pages(name)).join("index.html")).unwrap();
            }
            if form.json {
                tree.write(&format!("json/{name}"), older_json(project).as_bytes());
                tree.write(&format!("pypi/{name}/json"), older_json(project).as_bytes());
            }
            for file in &project.files {
                let bytes = world.upstream.world().stored(&file.url_path).unwrap();
                tree.write(&file.url_path[1..], &bytes);
                if let Some(metadata) = metadata_of(&bytes).filter(|_| file.core_metadata.is_some()) {
                    tree.write(&format!("{}.metadata", &file.url_path[1..]), &metadata);
                }
            }
        }
        fs::create_dir_all(tree.web.join("simple")).unwrap();
        tree.write("simple/index.html", b"<a href=six/>six</a>");
        tree.write("last-modified", b"20260101T00:00:00");
        tree
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.web.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// The paths of a project's files in the tree, the oldest first.
    fn files_of(&self, project: &str) -> Vec<String> {
        self.projects[project].files.iter().map(|file| file.url_path[1..].to_owned()).collect()
    }

    fn count(&self) -> usize {
        files(&self.web.join("packages")).len()
    }
}

/// Adopts the tree; the findings, and the last line.
#[track_caller]
fn adopt(world: &World, tree: &Tree, more: &[&str]) -> (BTreeSet<(String, String)>, Value) {
    let mut arguments = vec!["adopt", "pypi", tree.directory.to_str().unwrap(), "--json"];
    arguments.extend(more);
    let mut lines = world.run(&arguments).ended(0).json_lines();
    let summary = lines.pop().unwrap();
    let word = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
    (lines.iter().map(|line| (word(line, "finding"), word(line, "path"))).collect(), summary)
}

/// What upstream was asked for since the counters began, of files and of their metadata.
fn downloads(world: &World) -> BTreeSet<String> {
    let asked = world.upstream.requested().into_keys();
    asked
        .filter_map(|path| path.strip_prefix('/').filter(|path| path.starts_with("packages/")).map(str::to_owned))
        .collect()
}

/// What readers see of a mirror that was never anything else.
fn fresh(lines: &str) -> BTreeMap<String, Vec<u8>> {
    let fresh = world(lines);
    fresh.done(&["sync"]);
    fresh.live()
}

#[test]
fn every_form_of_a_tree_is_taken_over_whole() {
    let forms = [
        PLAIN,
        Form { json: true, ..PLAIN },
        Form { pages: &["index.v1_json"], ..PLAIN },
        Form { pages: &["index.v1_html"], ..PLAIN },
        Form { pages: &["index.html"], hash_index: true, ..PLAIN },
        Form { hash_index: true, kind: Kind::Versions, ..PLAIN },
        Form { pages: &["index.v1_html", "index.v1_json"], json: true, kind: Kind::Shadowmire, ..PLAIN },
    ];
    let expected = fresh("source = \"warehouse\"");
    for form in forms {
        let world = world("source = \"warehouse\"");
        let tree = Tree::make(&world, form);
        let (findings, summary) = adopt(&world, &tree, &[]);
        assert_eq!(findings, BTreeSet::new(), "{form:?}");
        assert_eq!(summary["adopted"], tree.count(), "{form:?}: {summary}");
        assert_eq!(world.upstream.counts().total(), 0, "nobody is asked");

        world.done(&["gc"]);
        world.done(&["sync"]);
        assert_eq!(downloads(&world), BTreeSet::new(), "{form:?}");
        assert_eq!(world.live().keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{form:?}");
        world.done(&["verify", "--data"]);
    }
    // The older JSON alone does not say what the metadata files should be.
    let world = world("source = \"warehouse\"");
    let tree = Tree::make(&world, Form { json: true, pages: &[], ..PLAIN });
    let (findings, summary) = adopt(&world, &tree, &[]);
    assert!(findings.iter().all(|(kind, path)| kind == "unknown" && path.ends_with(".metadata")), "{findings:?}");
    assert_eq!(summary["adopted"], tree.count() / 2);
    world.done(&["sync"]);
    assert!(downloads(&world).iter().all(|path| path.ends_with(".metadata")));
}

/// Makes some of the tree's files what they should not be; what a sync has to fetch because of it, and what is found.
fn damage(tree: &Tree) -> (BTreeSet<String>, BTreeSet<(String, String)>) {
    let [six, idna, zope] = ["six", "idna", "zope-interface"].map(|project| tree.files_of(project));
    let whole = fs::read(tree.web.join(&six[0])).unwrap();
    let flipped: Vec<u8> = whole.iter().enumerate().map(|(at, byte)| if at == 9 { !byte } else { *byte }).collect();
    tree.write(&six[0], &flipped);
    tree.write(&six[1], b"");
    fs::remove_file(tree.web.join(&idna[0])).unwrap();
    let metadata = format!("{}.metadata", zope[1]);
    tree.write(&metadata, b"Metadata-Version: 1.0");
    let directory = idna[0].rsplit_once('/').unwrap().0;
    tree.write(&format!("{directory}/.idna-1.0-py3-none-any.whl.x7f2"), b"half a fi");
    tree.write("packages/00/11/22/nobody-1.0.tar.gz", b"?");
    tree.write("packages/00/11/22/nobody-1.0\n.tar.gz", b"?");
    symlink("/etc/passwd", tree.web.join("packages/00/11/22/passwd")).unwrap();
    tree.write("simple/broken/index.html", b"\xff");
    let found = [
        ("wrong", six[0].as_str()),
        ("wrong", &six[1]),
        ("wrong", &metadata),
        ("missing", &idna[0]),
        ("unknown", "packages/00/11/22/nobody-1.0.tar.gz"),
        ("unknown", "packages/00/11/22/nobody-1.0\\n.tar.gz"),
        ("unknown", "packages/00/11/22/passwd"),
        ("unreadable", "simple/broken/index.html"),
    ];
    let fetched = [&six[0], &six[1], &metadata, &idna[0]].map(String::clone);
    (fetched.into(), found.map(|(kind, path)| (kind.to_owned(), path.to_owned())).into())
}

#[test]
fn what_is_wrong_or_missing_is_told_and_fetched_by_the_next_sync() {
    let world = world("");
    let tree = Tree::make(&world, Form { json: true, ..PLAIN });
    let (fetched, found) = damage(&tree);
    let (findings, summary) = adopt(&world, &tree, &[]);
    assert_eq!(findings, found);
    let taken = tree.count() - 3 - 4;
    assert_eq!(summary["adopted"], taken);
    assert_eq!((&summary["wrong"], &summary["missing"], &summary["unknown"]), (&json!(3), &json!(1), &json!(3)));

    // Again, as after an interruption: the same, and nothing changes.
    let blobs = world.blobs();
    let (findings, summary) = adopt(&world, &tree, &[]);
    assert_eq!((findings, &summary["present"], &summary["bytes"]), (found, &json!(taken), &json!(0)));
    assert_eq!(world.blobs(), blobs);
    let said = world.done(&["adopt", "pypi", tree.web.to_str().unwrap()]);
    assert!(said.contains(&format!("wrong {}: expected sha256", tree.files_of("six")[0])), "{said}");
    assert!(said.contains(&format!("missing {}\n", tree.files_of("idna")[0])), "{said}");
    assert!(said.contains(&format!("adopted {taken} files")) && said.contains("3 wrong, 3 unknown"), "{said}");

    // gc leaves it alone until a snapshot says what is needed.
    world.configure("grace = \"0s\"", SELECTED);
    world.done(&["gc"]);
    assert_eq!(world.blobs(), blobs);
    world.done(&["sync"]);
    assert_ne!(world.newest(), SERIAL.to_string(), "the tree's serial is nobody's");
    assert_eq!(downloads(&world), fetched);
    world.done(&["verify", "--data"]);
    world.done(&["gc"]);
    // The tree is not needed any more.
    fs::remove_dir_all(&tree.directory).unwrap();
    world.done(&["verify", "--data"]);
    assert!(world.live().contains_key("simple/zope-interface/index.html"));
}

#[test]
fn only_what_the_mirror_may_have_is_taken_and_what_is_private_stays_so() {
    let world = world("");
    let tree = Tree::make(&world, PLAIN);
    world.configure("grace = \"0s\"", "projects = [\"six\"]\nprivate = true");
    let (findings, summary) = adopt(&world, &tree, &[]);
    let of_six = 2 * tree.files_of("six").len();
    assert_eq!((findings, &summary["adopted"]), (BTreeSet::new(), &json!(of_six)));
    assert_eq!(summary["unselected"], tree.count() - of_six);
    let configuration = fs::read_to_string(world.path("strandline.toml")).unwrap();
    let upstream = world.upstream.simple_url();
    let second = format!("[mirror.second]\nupstream = \"{upstream}\"\ndrain = \"0s\"\nprojects = [\"six\"]\n");
    fs::write(world.path("strandline.toml"), format!("{configuration}\n{second}")).unwrap();
    world.done(&["sync", "second"]);
    assert_eq!(downloads(&world).len(), of_six, "another mirror has to bring it itself");
    world.upstream.reset_counters();
    world.done(&["sync", "pypi"]);
    assert_eq!(downloads(&world), BTreeSet::new());
    world.done(&["verify", "--data"]);
}

#[test]
fn the_tree_stays_as_it_is_where_that_is_asked_for() {
    let world = world("");
    let tree = Tree::make(&world, PLAIN);
    let stamps = || {
        let stamp = |path: PathBuf| {
            let metadata = fs::metadata(path).unwrap();
            (metadata.ino(), metadata.mode(), metadata.mtime(), metadata.nlink())
        };
        files(&tree.directory).into_iter().map(|(name, path)| (name, stamp(path))).collect::<BTreeMap<_, _>>()
    };
    let before = stamps();
    let (_, summary) = adopt(&world, &tree, &["--copy"]);
    assert_eq!((&summary["linked"], stamps()), (&json!(0), before));
    world.done(&["sync"]);
    assert_eq!(downloads(&world), BTreeSet::new());
}

#[test]
fn what_is_no_tree_and_a_mirror_that_is_not_configured_are_refused() {
    let world = world("");
    let tree = Tree::make(&world, PLAIN);
    let directory = tree.directory.to_str().unwrap();
    world.run(&["adopt", "pypi", "/nowhere"]).ended(2).says(&["`/nowhere`", "`simple`", "Nothing was done"]);
    world.run(&["adopt", "other", directory]).ended(2).says(&["no mirror `other`"]);
    fs::rename(tree.web.join("packages"), world.path("elsewhere")).unwrap();
    symlink(world.path("elsewhere"), tree.web.join("packages")).unwrap();
    world.run(&["adopt", "pypi", directory]).ended(2).says(&["symbolic link", "mount"]);
    assert_eq!(world.blobs().len(), 0);
}

/// While a sync has the mirror, an adoption is told so; a sync that is killed leaves no harm to either.
#[test]
fn beside_a_sync_that_is_killed() {
    let world = world("");
    let tree = Tree::make(&world, PLAIN);
    let rule = world.upstream.fault(Rule::new(On::Prefix("/packages/".to_owned()), Fault::Hang));
    let mut sync = world.start(&["sync"]);
    sync.until("requests for files", |_| (world.upstream.counts().file > 0).then_some(()));
    world.run(&["adopt", "pypi", tree.directory.to_str().unwrap()]).ended(1).says(&["held by process"]);
    sync.signal(Signal::KILL);
    sync.end();
    world.upstream.remove_fault(rule);
    let (findings, summary) = adopt(&world, &tree, &[]);
    assert_eq!((findings, &summary["adopted"]), (BTreeSet::new(), &json!(tree.count())));
    world.upstream.reset_counters();
    world.done(&["sync"]);
    assert_eq!(downloads(&world), BTreeSet::new());
    world.done(&["verify", "--data"]);
}

/// Killed while it takes files in, it leaves nothing that its repetition does not put right.
#[test]
fn an_adoption_that_is_killed_can_be_repeated() {
    let world = world("");
    let tree = Tree::make(&world, PLAIN);
    let mut adoption = world.start(&["adopt", "pypi", tree.directory.to_str().unwrap()]);
    adoption.until("a temporary file or a blob", |_| {
        let begun = world.path("store/incoming").exists() && !(world.incoming().is_empty() && world.blobs().is_empty());
        begun.then_some(())
    });
    // It is killed, unless it has ended meanwhile.
    drop(adoption);
    let (findings, summary) = adopt(&world, &tree, &[]);
    assert_eq!((findings, &summary["adopted"]), (BTreeSet::new(), &json!(tree.count())));
    assert_eq!(world.incoming(), <[String; 0]>::default());
    world.done(&["sync"]);
    assert_eq!(downloads(&world), BTreeSet::new());
    world.done(&["verify", "--data"]);
}
