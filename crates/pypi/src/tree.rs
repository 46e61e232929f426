//! A tree that another program has mirrored: bandersnatch's, or shadowmire's, which is the same below `web/`.
//!
//! Its project pages are `simple/PROJECT/index.v1_json`, `index.v1_html` and `index.html`, or with a letter between
//! (`simple/P/PROJECT/`); they can be links to a file beside them or in `versions/`. Its JSON, which lists also the files
//! that a filter kept away, is `json/PROJECT` or `pypi/PROJECT/json`. Files stand where the path of their URL says, below
//! `packages/`.
//!
//! What always holds:
//!
//! 1. Nothing outside of the tree is opened, and no symbolic link is followed: of a page that is one, only the name that
//!    it leads to is used, and only beside it or in `versions/` (`confined.rs`).
//! 2. Nothing but regular files is opened, and no page that is larger than pages may be.
//! 3. Pages and names that make no sense are findings, which name the place; no input panics. Tested below and in
//!    `legacy.rs`.

mod confined;
mod legacy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use strandline_durable::DiskError;
use strandline_model::{CoreMetadata, FileName, ProjectName, SeenFile, ToldFile, TreePath, is_skipped};
use strandline_sync::adopt::{Claim, Finding, Listed, Named, Opened, Tree, Visited};
use strandline_sync::upstream::Problem;
use url::Url;

use crate::listing::Context;
use crate::tree::confined::{Bytes, Confined, Kind};
use crate::url_check::{percent_decode, shown};
use crate::{html, json};

/// The forms of a project's page, the one that says most first.
const FORMS: [&str; 3] = ["index.v1_json", "index.v1_html", "index.html"];
/// Stands for the tree where a URL is read; no address is ever asked.
const BASE: &str = "https://tree.invalid";
/// Where earlier versions of pages are kept.
const VERSIONS: &str = "versions";
/// Where files are.
const PACKAGES: &str = "packages";

/// Why an entry is left out that stands where a project could be.
const NOT_READ: &str = "is a link or no file, and is not read";

/// The directory is not such a tree. Nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum NoTree {
    /// It does not look like one.
    #[error(
        "`{}` is no tree of bandersnatch or shadowmire: expected directories `simple` and `packages`, there or below `web`",
        path.display()
    )]
    Unknown {
        /// The directory.
        path: PathBuf,
    },
    /// One of its directories leads elsewhere.
    #[error(
        "`{}` is a symbolic link, and links are not followed out of a tree: mount its target there (`mount --bind`), or name the directory itself",
        path.display()
    )]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// See the module's documentation.
#[derive(Debug)]
pub struct WebTree {
    root: PathBuf,
    confined: Confined,
    max_page_size: u64,
}

impl WebTree {
    /// Opens the tree in a directory, or below `web` in it. Pages of more than `max_page_size` bytes are not read.
    pub fn open(directory: &Path, max_page_size: u64) -> Result<Self, NoTree> {
        let is_tree = |path: &Path| ["simple", PACKAGES].iter().all(|name| path.join(name).is_dir());
        let web = directory.join("web");
        let found = [web.as_path(), directory].into_iter().find(|path| is_tree(path));
        let found = found.ok_or_else(|| NoTree::Unknown { path: directory.to_owned() })?;
        let fail = |source| DiskError::new("read", found, source);
        let root = found.canonicalize().map_err(fail)?;
        for name in ["simple", PACKAGES, "json", "pypi"] {
            if root.join(name).is_symlink() {
                return Err(NoTree::Link { path: root.join(name) });
            }
        }
        Ok(Self { confined: Confined::open(&root).map_err(fail)?, root, max_page_size })
    }

    /// What is in a directory, sorted; nothing if it is not there.
    fn children(&self, directory: &str) -> Result<Vec<(String, Kind)>, DiskError> {
        self.confined
            .children(directory)
            .map_err(|source| DiskError::new("read the directory", &self.root.join(directory), source))
    }

    /// The page at a path, or what it leads to; `None` if there is none.
    fn page(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        match self.confined.bytes(path, self.max_page_size)? {
            Bytes::Whole(bytes) => Ok(Some(bytes)),
            Bytes::Missing => Ok(None),
            Bytes::Link(target) => {
                let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
                let mut segments = target.rsplit('/');
                let name = segments.next().filter(|name| !matches!(*name, "" | "." | ".."));
                let name = name.ok_or_else(|| format!("is a link to `{}`", target.escape_debug()))?;
                let beside = match segments.next() {
                    Some(VERSIONS) => format!("{directory}/{VERSIONS}/{name}"),
                    _ => format!("{directory}/{name}"),
                };
                match self.confined.bytes(&beside, self.max_page_size)? {
                    Bytes::Whole(bytes) => Ok(Some(bytes)),
                    _ => Err(format!(
                        "is a link to `{}`, and `{}` is no file",
                        target.escape_debug(),
                        beside.escape_debug()
                    )),
                }
            }
        }
    }

    /// Reads the best page of a project's directory that can be read. Returns whether there was one.
    fn add_page(&self, project: &ProjectName, directory: &TreePath, listed: &mut Listed) -> bool {
        let Ok(url) = format!("{BASE}/{directory}/").parse::<Url>() else { return false };
        for form in FORMS {
            let path = format!("{directory}/{form}");
            // A mirror in a private network names its own address.
            let context = Context { project, url: &url, local_allowed: true };
            let read =
                |bytes: &[u8]| if form == FORMS[0] { json::parse(bytes, context) } else { html::parse(bytes, context) };
            let page = self.page(&path).and_then(|bytes| bytes.map(|bytes| read(&bytes).map_err(said)).transpose());
            match page {
                Ok(None) => {}
                Ok(Some(page)) => {
                    for file in page.record.files().filter(|(_, told, seen)| !is_skipped(told, seen)) {
                        add(&path, file, true, listed);
                    }
                    let unreadable =
                        |problem: &String| Finding::Unreadable { path: path.clone(), problem: problem.clone() };
                    listed.problems.extend(page.skipped.named().iter().map(unreadable));
                    return true;
                }
                Err(problem) => listed.problems.push(Finding::Unreadable { path, problem }),
            }
        }
        false
    }
}

#[expect(clippy::needless_pass_by_value, reason = "so that it can be passed to `map_err`")]
fn said(problem: Problem) -> String {
    problem.to_string()
}

/// Adds a file that a page names, and its metadata file.
fn add(page: &str, (name, told, seen): (&FileName, &ToldFile, &SeenFile), expected: bool, listed: &mut Listed) {
    let (name, url) = (name.as_str(), seen.url.as_deref().unwrap_or_default());
    let place = place(url, name);
    let beside = place.as_ref().and_then(|path| path.metadata().ok());
    let (Some(path), Some(beside)) = (place, beside) else {
        let url = shown(url.strip_prefix(BASE).unwrap_or(url));
        let problem = format!("says that `{name}` is at `{url}`, which is not a path of its own below `{PACKAGES}`");
        listed.problems.push(Finding::Unreadable { path: page.to_owned(), problem });
        return;
    };
    let mut claim = |path: TreePath, claim: Option<Claim>| {
        let named: &mut Named = listed.files.entry(path).or_default();
        named.expected |= expected && claim.is_some();
        named.claims.extend(claim.filter(|claim| !named.claims.contains(claim)));
    };
    claim(path, told.sha256.map(|sha256| Claim { sha256, size: told.size }));
    match seen.core_metadata {
        CoreMetadata::Absent => {}
        CoreMetadata::Unhashed => claim(beside, None),
        CoreMetadata::Hashed(sha256) => claim(beside, Some(Claim { sha256, size: None })),
    }
}

/// Where a file with this URL stands in a tree: its path from `packages/` on.
fn place(url: &str, filename: &str) -> Option<TreePath> {
    let url: Url = url.parse().ok()?;
    let segments: Vec<_> = url.path_segments()?.skip_while(|segment| *segment != PACKAGES).collect();
    let decoded: Vec<_> = segments.iter().map(|segment| percent_decode(segment)).collect::<Option<_>>()?;
    let path: TreePath = decoded.join("/").parse().ok()?;
    (decoded.len() > 1 && path.file_name() == filename).then_some(path)
}

impl Tree for WebTree {
    fn root(&self) -> &Path {
        &self.root
    }

    fn projects(&self, tell: &mut dyn FnMut(Finding)) -> Result<BTreeMap<ProjectName, Vec<TreePath>>, DiskError> {
        let mut found: BTreeMap<ProjectName, Vec<TreePath>> = BTreeMap::new();
        let mut add = |name: &str, path: String| match (ProjectName::normalise(name), path.parse()) {
            (Ok(project), Ok(place)) => {
                found.entry(project).or_default().push(place);
                None
            }
            _ => Some((path, "no project can have this name")),
        };
        let mut problems = Vec::new();
        for (name, kind) in self.children("simple")? {
            let path = format!("simple/{name}");
            match kind {
                Kind::File => {}
                // The list of projects, which can be a link, too.
                Kind::Other if name.starts_with("index.") => {}
                Kind::Other => problems.push((path, NOT_READ)),
                Kind::Directory => {
                    // With `hash-index`, a directory of one letter has the projects that begin with it.
                    let letter = name.chars().count() == 1;
                    let inside = if letter { self.confined.children(&path) } else { Ok(Vec::new()) };
                    let inside = inside.unwrap_or_else(|_| {
                        problems.push((path.clone(), "cannot be read"));
                        Vec::new()
                    });
                    let is_project = |(below, kind): &&(String, Kind)| *kind == Kind::Directory && below != VERSIONS;
                    let below: Vec<_> = inside.iter().filter(is_project).collect();
                    if below.is_empty() || inside.iter().any(|(child, _)| FORMS.contains(&child.as_str())) {
                        problems.extend(add(&name, path.clone()));
                    }
                    problems.extend(below.iter().filter_map(|(below, _)| add(below, format!("{path}/{below}"))));
                }
            }
        }
        let json = self.children("json")?;
        let copies = if json.is_empty() { self.children("pypi")? } else { Vec::new() };
        for (name, kind) in json {
            let path = format!("json/{name}");
            match kind {
                Kind::File if name.starts_with('.') => {}
                Kind::File => problems.extend(add(&name, path)),
                _ => problems.push((path, NOT_READ)),
            }
        }
        for (name, _) in copies.into_iter().filter(|(_, kind)| *kind == Kind::Directory) {
            problems.extend(add(&name, format!("pypi/{name}/json")));
        }
        for (path, problem) in problems {
            tell(Finding::Unreadable { path: path.escape_debug().to_string(), problem: problem.to_owned() });
        }
        Ok(found)
    }

    fn listed(&self, project: &ProjectName, places: &[TreePath]) -> Listed {
        let mut listed = Listed::default();
        let mut any = false;
        for directory in places.iter().filter(|place| place.first_segment() == "simple") {
            any |= self.add_page(project, directory, &mut listed);
        }
        for path in places.iter().filter(|place| place.first_segment() != "simple") {
            let files = self.page(path.as_str()).and_then(|bytes| match bytes {
                Some(bytes) => legacy::parse(&bytes, project).map_err(said),
                None => Ok(Vec::new()),
            });
            match files {
                // Where there is a page, it says what the tree should have: JSON names also what a filter keeps away.
                Ok(files) => {
                    for (name, told, seen) in &files {
                        add(path.as_str(), (name, told, seen), !any, &mut listed);
                    }
                }
                Err(problem) => listed.problems.push(Finding::Unreadable { path: path.to_string(), problem }),
            }
        }
        listed
    }

    fn open(&self, path: &TreePath) -> Opened {
        self.confined.open_file(path.as_str())
    }

    fn walk(&self, visit: &mut dyn FnMut(Visited)) -> Result<(), DiskError> {
        let mut waiting = vec![PACKAGES.to_owned()];
        while let Some(directory) = waiting.pop() {
            let children = match self.confined.children(&directory) {
                Ok(children) => children,
                Err(error) => {
                    visit(Visited::Unreadable(
                        directory.escape_debug().to_string(),
                        format!("cannot be read: {error}"),
                    ));
                    continue;
                }
            };
            let mut below = Vec::new();
            for (name, kind) in children {
                let path = format!("{directory}/{name}");
                let temporary = name.starts_with('.');
                match (kind, path.parse::<TreePath>()) {
                    (Kind::File, _) if temporary => {}
                    (Kind::File, Ok(path)) => visit(Visited::File(path)),
                    (Kind::Directory, Ok(_)) => below.push(path),
                    _ => visit(Visited::Odd(path.escape_debug().to_string())),
                }
            }
            waiting.extend(below.into_iter().rev());
        }
        Ok(())
    }
}
