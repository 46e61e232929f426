//! A disk that loses power: what it may have afterwards.
//!
//! A [`Power`] watches a [`Disk`](strandline_durable::Disk) and replays what it saw in a model, by the rules that POSIX
//! leaves a program:
//!
//! 1. A file's bytes, mode and time are durable when the file, or the file system, was synced after they were set.
//! 2. A name is durable when its directory, or the file system, was synced after it was given or taken. The directory's
//!    own name is its parent's affair.
//! 3. A rename within a directory is there as a whole or not at all; one from another directory is two changes, of which
//!    the loss of the old name is durable at the latest when the new name is: every file system with a journal has that.
//! 4. What SQLite has committed is durable (`synchronous=FULL`), and it syncs nothing else.
//!
//! What is not durable may be there all the same, any part of it: a seed says which.
#![expect(clippy::disallowed_methods, reason = "what is left of a disk is made behind the program's back")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use strandline_durable::{Step, Watch};

/// What was done on a disk, and what it was like before.
#[derive(Debug)]
pub struct Power {
    top: PathBuf,
    before: Model,
    log: Mutex<Vec<Done>>,
}

/// What a disk has after a power failure, or without one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Left {
    names: BTreeMap<PathBuf, Kept>,
    catalog: BTreeMap<PathBuf, Arc<[u8]>>,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    Directory,
    Link(PathBuf),
    File(Content),
    /// The same file as at this path, which comes first.
    Same(PathBuf),
}

/// A step, with paths below the top.
#[derive(Debug, Clone)]
enum Done {
    CreateDirectory(PathBuf),
    CreateFile(PathBuf),
    Write(PathBuf, Vec<u8>),
    Seal(PathBuf, u64),
    Rename {
        from: PathBuf,
        to: PathBuf,
        replaces: bool,
    },
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    CreateLink(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncFile(PathBuf),
    SyncDirectory(PathBuf),
    SyncFileSystem,
    /// The files of the catalog, by their paths.
    Committed(BTreeMap<PathBuf, Arc<[u8]>>),
    /// Nothing that a disk notices.
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Content {
    bytes: Vec<u8>,
    /// The time of modification, once the file is sealed.
    sealed: Option<u64>,
}

#[derive(Debug, Clone)]
enum Inode {
    File { now: Content, durable: Content },
    Link(PathBuf),
    Directory { now: Names, durable: Names, changes: Vec<Vec<(OsString, Option<usize>)>> },
}

type Names = BTreeMap<OsString, usize>;

#[derive(Debug, Clone)]
struct Model {
    inodes: Vec<Inode>,
    /// What was renamed from one directory to another: the new directory, the old one, and the old name.
    moves: Vec<(usize, usize, OsString)>,
    catalog: BTreeMap<PathBuf, Arc<[u8]>>,
}

/// Names of the catalog's files, and of files that the disk's steps do not make.
fn is_apart(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("catalog.db") || path.parent().is_some_and(|parent| parent.ends_with("locks"))
}

impl Watch for Power {
    fn done(&self, step: Step<'_>) {
        let at = |path: &Path| path.strip_prefix(&self.top).unwrap().to_owned();
        let done = match step {
            Step::CreateDirectory { path } => Done::CreateDirectory(at(path)),
            Step::CreateFile { path } => Done::CreateFile(at(path)),
            Step::Write { path, bytes } => Done::Write(at(path), bytes.to_owned()),
            Step::Seal { path, modified } => Done::Seal(at(path), modified),
            Step::Rename { from, to } => Done::Rename { from: at(from), to: at(to), replaces: true },
            Step::RenameNew { from, to } => Done::Rename { from: at(from), to: at(to), replaces: false },
            Step::Link { from, to } => Done::Link { from: at(from), to: at(to) },
            Step::Copy { to, .. } => unreachable!("everything is in one file system: {}", to.display()),
            Step::CreateLink { path, target } => Done::CreateLink(at(path), target.to_owned()),
            // One that was not empty is still there.
            Step::RemoveEmptyDirectory { path } if path.exists() => Done::Nothing,
            Step::RemoveFile { path } | Step::RemoveTree { path } | Step::RemoveEmptyDirectory { path } => {
                Done::Remove(at(path))
            }
            Step::Sync { path } => Done::SyncFile(at(path)),
            Step::SyncDirectory { path } => Done::SyncDirectory(at(path)),
            Step::SyncFileSystem { .. } => Done::SyncFileSystem,
            Step::Commit { .. } => Done::Nothing,
            Step::Committed { catalog } => Done::Committed(catalog_files(&self.top, catalog)),
        };
        self.log.lock().unwrap().push(done);
    }
}

/// The database and its write-ahead log. The index of the log is made anew.
fn catalog_files(top: &Path, catalog: &Path) -> BTreeMap<PathBuf, Arc<[u8]>> {
    let mut log = catalog.as_os_str().to_owned();
    log.push("-wal");
    let files = [catalog.to_owned(), PathBuf::from(log)].into_iter();
    files.filter_map(|file| Some((file.strip_prefix(top).unwrap().to_owned(), fs::read(&file).ok()?.into()))).collect()
}

impl Power {
    /// Watches what is done below `top`. What is there now is durable, and no process has its catalog open.
    pub fn over(top: &Path) -> Arc<Self> {
        Arc::new(Self { top: top.to_owned(), before: Model::of(top), log: Mutex::default() })
    }

    /// Takes in a commit that no step told of, because the process died right after it.
    pub fn catch_up(&self, catalog: &Path) {
        self.done(Step::Committed { catalog });
    }

    /// How many steps it saw.
    pub fn steps(&self) -> usize {
        self.log.lock().unwrap().len()
    }

    /// After which steps more is durable than before.
    pub fn durable_steps(&self) -> Vec<usize> {
        let log = self.log.lock().unwrap();
        let is_sync = |done: &Done| {
            matches!(done, Done::SyncFile(_) | Done::SyncDirectory(_) | Done::SyncFileSystem | Done::Committed(_))
        };
        (1..=log.len()).filter(|steps| is_sync(&log[steps - 1])).collect()
    }

    /// All syncs that it saw: which step it was, and a word on what was synced. Digests and numbers are left out of that
    /// word.
    pub fn syncs(&self) -> Vec<(usize, String)> {
        let log = self.log.lock().unwrap();
        let mut found = Vec::new();
        // What came last in each directory: beside it, others may be at work.
        let mut last: BTreeMap<&Path, &str> = BTreeMap::new();
        let mut latest = "";
        for (index, done) in log.iter().enumerate() {
            let place = |path: &Path| {
                let digits = |part: &str| part.len() == 2 || part.len() > 10 || part.parse::<u64>().is_ok();
                let parts = path.iter().map(|part| part.to_string_lossy());
                parts.map(|part| if digits(&part) { "#".into() } else { part }).collect::<Vec<_>>().join("/")
            };
            match done {
                Done::SyncFile(path) => found.push((index, format!("file {}", place(path)))),
                Done::SyncDirectory(path) => {
                    let after = last.get(path.as_path()).copied().unwrap_or_default();
                    found.push((index, format!("directory {}{after}", place(path))));
                }
                Done::SyncFileSystem => found.push((index, format!("file system{latest}"))),
                Done::Remove(path)
                | Done::Seal(path, _)
                | Done::CreateDirectory(path)
                | Done::Rename { to: path, .. }
                | Done::Link { to: path, .. } => {
                    latest = match done {
                        Done::Remove(_) => " after a removal",
                        Done::Seal(..) => " after new bytes",
                        _ => "",
                    };
                    last.insert(path.parent().unwrap_or(path), latest);
                }
                _ => {}
            }
        }
        found
    }

    /// What is left when the power fails after so many steps: with a seed, also some of what was not synced. The syncs
    /// that are `ignored` did nothing.
    pub fn left(&self, steps: usize, seed: Option<u64>, ignored: &BTreeSet<usize>) -> Left {
        let mut model = self.before.clone();
        for (index, done) in self.log.lock().unwrap().iter().take(steps).enumerate() {
            if !ignored.contains(&index) {
                model.redo(done);
            }
        }
        model.left(&mut seed.map_or(Chance::Never, Chance::Random))
    }

    /// What is there while the power is on: a check of the model itself.
    pub fn on(&self) -> Left {
        let mut model = self.before.clone();
        self.log.lock().unwrap().iter().for_each(|done| model.redo(done));
        model.left(&mut Chance::Always)
    }
}

impl Left {
    /// Makes it in an empty directory.
    pub fn make(&self, top: &Path) {
        for (path, kept) in &self.names {
            let path = top.join(path);
            match kept {
                Kept::Directory => fs::create_dir(path).unwrap(),
                Kept::Link(target) => symlink(target, path).unwrap(),
                Kept::Same(first) => fs::hard_link(top.join(first), path).unwrap(),
                Kept::File(Content { bytes, sealed }) => {
                    fs::write(&path, bytes).unwrap();
                    if let Some(modified) = sealed {
                        fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
                        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(*modified);
                        fs::File::open(&path).unwrap().set_modified(time).unwrap();
                    }
                }
            }
        }
        for (path, bytes) in &self.catalog {
            fs::write(top.join(path), bytes).unwrap();
        }
    }
}

/// Decides whether a change that was not synced is there.
enum Chance {
    Never,
    Random(u64),
    Always,
}

impl Chance {
    /// One of so many possibilities, of which the first is that nothing is there and the last that everything is.
    fn one_of(&mut self, count: u64) -> u64 {
        match self {
            Self::Never => 0,
            Self::Always => count - 1,
            Self::Random(state) => {
                // SplitMix64.
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (mixed ^ (mixed >> 31)) % count
            }
        }
    }
}

impl Model {
    fn of(top: &Path) -> Self {
        let mut model = Self { inodes: vec![Inode::directory()], moves: Vec::new(), catalog: BTreeMap::new() };
        model.read(top, top, 0, &mut HashMap::new());
        model.sync_all();
        model
    }

    fn read(&mut self, top: &Path, directory: &Path, inode: usize, known: &mut HashMap<u64, usize>) {
        for child in fs::read_dir(directory).unwrap() {
            let path = child.unwrap().path();
            let (metadata, name) = (fs::symlink_metadata(&path).unwrap(), path.file_name().unwrap().to_owned());
            if is_apart(&path) {
                if name == "catalog.db" {
                    self.catalog = catalog_files(top, &path);
                }
                continue;
            }
            let child = if metadata.is_dir() {
                let child = self.add(Inode::directory());
                self.read(top, &path, child, known);
                child
            } else if metadata.is_symlink() {
                self.add(Inode::Link(fs::read_link(&path).unwrap()))
            } else {
                let sealed =
                    (metadata.permissions().mode() & 0o777 == 0o444).then(|| u64::try_from(metadata.mtime()).unwrap());
                let content = Content { bytes: fs::read(&path).unwrap(), sealed };
                *known
                    .entry(metadata.ino())
                    .or_insert_with(|| self.add(Inode::File { now: content.clone(), durable: content }))
            };
            self.change(inode, vec![(name, Some(child))]);
        }
    }

    fn add(&mut self, inode: Inode) -> usize {
        self.inodes.push(inode);
        self.inodes.len() - 1
    }

    /// What a path leads to now, if to anything.
    fn find(&self, path: &Path) -> Option<usize> {
        path.iter().try_fold(0, |inode, name| match &self.inodes[inode] {
            Inode::Directory { now, .. } => now.get(name).copied(),
            _ => None,
        })
    }

    fn parent(&self, path: &Path) -> (usize, OsString) {
        let parent = self.find(path.parent().unwrap());
        (
            parent.unwrap_or_else(|| unreachable!("{} has no parent", path.display())),
            path.file_name().unwrap().to_owned(),
        )
    }

    /// Changes names in a directory, all of these or none.
    fn change(&mut self, directory: usize, names: Vec<(OsString, Option<usize>)>) {
        let Inode::Directory { now, changes, .. } = &mut self.inodes[directory] else { unreachable!("no directory") };
        for (name, inode) in &names {
            match inode {
                Some(inode) => now.insert(name.clone(), *inode),
                None => now.remove(name),
            };
        }
        changes.push(names);
    }

    fn name(&mut self, path: &Path, inode: Option<usize>) {
        let (directory, name) = self.parent(path);
        self.change(directory, vec![(name, inode)]);
    }

    fn sync(&mut self, inode: usize) {
        match &mut self.inodes[inode] {
            Inode::File { now, durable } => durable.clone_from(now),
            Inode::Directory { now, durable, changes } => {
                durable.clone_from(now);
                changes.clear();
            }
            Inode::Link(_) => {}
        }
        let moves = std::mem::take(&mut self.moves);
        let (moved, rest): (Vec<_>, Vec<_>) = moves.into_iter().partition(|(new, ..)| *new == inode);
        self.moves = rest;
        for (_, old, name) in moved {
            if let Inode::Directory { durable, changes, .. } = &mut self.inodes[old] {
                durable.remove(&name);
                changes.retain(|change| change.len() > 1 || change[0].0 != name);
            }
        }
    }

    fn sync_all(&mut self) {
        (0..self.inodes.len()).for_each(|inode| self.sync(inode));
    }

    fn content(&mut self, path: &Path) -> &mut Content {
        let inode = self.find(path).unwrap_or_else(|| unreachable!("{} is not there", path.display()));
        match &mut self.inodes[inode] {
            Inode::File { now, .. } => now,
            _ => unreachable!("{} is no file", path.display()),
        }
    }

    fn redo(&mut self, done: &Done) {
        match done {
            Done::CreateDirectory(path) => {
                for directory in path.ancestors().collect::<Vec<_>>().into_iter().rev().skip(1) {
                    if self.find(directory).is_none() {
                        let inode = self.add(Inode::directory());
                        self.name(directory, Some(inode));
                    }
                }
            }
            Done::CreateFile(path) => {
                let inode = self.add(Inode::File { now: Content::default(), durable: Content::default() });
                self.name(path, Some(inode));
            }
            Done::Write(path, bytes) => self.content(path).bytes.extend_from_slice(bytes),
            Done::Seal(path, modified) => self.content(path).sealed = Some(*modified),
            Done::Rename { to, replaces: false, .. } if self.find(to).is_some() => {}
            Done::Rename { from, to, .. } => {
                let inode = self.find(from);
                let ((old, old_name), (new, new_name)) = (self.parent(from), self.parent(to));
                if old == new {
                    self.change(old, vec![(old_name, None), (new_name, inode)]);
                } else {
                    self.change(new, vec![(new_name, inode)]);
                    self.change(old, vec![(old_name.clone(), None)]);
                    self.moves.push((new, old, old_name));
                }
            }
            Done::Link { from, to } => {
                let inode = self.find(from);
                self.name(to, inode);
            }
            Done::CreateLink(path, target) => {
                let inode = self.add(Inode::Link(target.clone()));
                self.name(path, Some(inode));
            }
            Done::Remove(path) => self.remove(path),
            Done::SyncFile(path) | Done::SyncDirectory(path) => {
                let inode = self.find(path).unwrap_or_else(|| unreachable!("{} is synced", path.display()));
                self.sync(inode);
            }
            Done::SyncFileSystem => self.sync_all(),
            Done::Committed(catalog) => self.catalog.clone_from(catalog),
            Done::Nothing => {}
        }
    }

    fn remove(&mut self, path: &Path) {
        let Some(inode) = self.find(path) else { return };
        if let Inode::Directory { now, .. } = &self.inodes[inode] {
            let names: Vec<_> = now.keys().cloned().collect();
            for name in names {
                self.remove(&path.join(name));
            }
        }
        self.name(path, None);
    }

    fn left(&self, chance: &mut Chance) -> Left {
        let mut names = BTreeMap::new();
        self.keep(0, Path::new(""), chance, &mut names, &mut HashMap::new());
        // Without its directory the catalog is lost, too.
        let is_there = |path: &Path| {
            let directory = path.parent().unwrap();
            directory == Path::new("") || names.get(directory) == Some(&Kept::Directory)
        };
        let catalog = self.catalog.iter().filter(|(path, _)| is_there(path));
        let catalog = catalog.map(|(path, bytes)| (path.clone(), Arc::clone(bytes))).collect();
        Left { names, catalog }
    }

    /// Notes what is left below a directory. `first` is where a file stands already, by its inode.
    fn keep(
        &self,
        inode: usize,
        at: &Path,
        chance: &mut Chance,
        left: &mut BTreeMap<PathBuf, Kept>,
        first: &mut HashMap<usize, PathBuf>,
    ) {
        let Inode::Directory { durable, changes, .. } = &self.inodes[inode] else { unreachable!("no directory") };
        let mut names = durable.clone();
        for change in changes {
            if chance.one_of(2) == 0 {
                continue;
            }
            for (name, inode) in change {
                match inode {
                    Some(inode) => names.insert(name.clone(), *inode),
                    None => names.remove(name),
                };
            }
        }
        for (name, inode) in names {
            let path = at.join(name);
            let kept = match &self.inodes[inode] {
                Inode::Directory { .. } => Kept::Directory,
                Inode::Link(target) => Kept::Link(target.clone()),
                Inode::File { now, durable } => match first.get(&inode) {
                    Some(first) => Kept::Same(first.clone()),
                    None => {
                        first.insert(inode, path.clone());
                        Kept::File(kept_content(now, durable, chance))
                    }
                },
            };
            let is_directory = kept == Kept::Directory;
            left.insert(path.clone(), kept);
            if is_directory {
                self.keep(inode, &path, chance, left, first);
            }
        }
    }
}

/// What is left of a file that was not synced: what it had, all it has now, or its length with only a part of the bytes.
fn kept_content(now: &Content, durable: &Content, chance: &mut Chance) -> Content {
    let half = now.bytes.len() / 2;
    let bytes = match chance.one_of(if now.bytes == durable.bytes { 1 } else { 4 }) {
        0 => durable.bytes.clone(),
        1 => now.bytes[..half].to_owned(),
        2 => [&now.bytes[..half], &vec![0; now.bytes.len() - half]].concat(),
        _ => now.bytes.clone(),
    };
    let bytes = if matches!(chance, Chance::Always) { now.bytes.clone() } else { bytes };
    let sealed = if chance.one_of(2) == 0 { durable.sealed } else { now.sealed };
    Content { bytes, sealed }
}

impl Inode {
    fn directory() -> Self {
        Self::Directory { now: Names::new(), durable: Names::new(), changes: Vec::new() }
    }
}
