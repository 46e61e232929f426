//! Taking over the files of a tree that another program has mirrored.
//!
//! What always holds:
//!
//! 1. A file is taken only if its bytes, read through the name that they have in the store, are what the tree's own
//!    pages say. Every other file is reported, and left as it is.
//! 2. The tree's pages are believed in nothing else. The next sync finds out upstream's state; it finds the adopted
//!    files in the store by their SHA-256, and fetches the others.
//! 3. Files that were taken stay until a snapshot of the mirror has been made
//!    ([`Conclusion::held`](strandline_store::Conclusion::held)).
//! 4. An adoption that was interrupted at any point can be repeated: it does not read again what the store has already.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rayon::prelude::*;
use strandline_durable::DiskError;
use strandline_model::{Blake3, ClaimedSha256, Entry, ProjectName, TreePath, Unit};
use strandline_store::{Blob, Intake, Locked, Manner, ReceiveError, Staged, Store, StoreError};

use crate::progress::Progress;
use crate::room::require_room;
use crate::{Clock, Settings, SyncError};

/// How many projects' pages are read before their files are.
const PROJECTS: usize = 64;
/// How many staged blobs are made durable together. Each has an open file.
const BATCH: usize = 256;

/// A tree of files that another program has mirrored. Nothing outside of it is ever read.
pub trait Tree: Sync {
    /// Where it is.
    fn root(&self) -> &Path;

    /// Its projects, each with the places where it says something of them; what is no project is told.
    fn projects(&self, tell: &mut dyn FnMut(Finding)) -> Result<BTreeMap<ProjectName, Vec<TreePath>>, DiskError>;

    /// What it says at these places of a project's files.
    fn listed(&self, project: &ProjectName, places: &[TreePath]) -> Listed;

    /// Opens a file.
    fn open(&self, path: &TreePath) -> Opened;

    /// Visits all files that pages could name, except those that an interrupted program left.
    fn walk(&self, visit: &mut dyn FnMut(Visited)) -> Result<(), DiskError>;
}

/// What a tree's pages say of a project.
#[derive(Debug, Default)]
pub struct Listed {
    /// Its files, by where they should be.
    pub files: BTreeMap<TreePath, Named>,
    /// What could not be read.
    pub problems: Vec<Finding>,
}

/// A file that a tree's pages name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Named {
    /// What it may be: pages of different age can say different things. Empty where no page says what it is.
    pub claims: Vec<Claim>,
    /// Whether the tree should have it.
    pub expected: bool,
}

/// What a page says that a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Its digest.
    pub sha256: ClaimedSha256,
    /// Its size in bytes, if the page says it.
    pub size: Option<u64>,
}

/// What is at a path of a tree.
#[derive(Debug)]
pub enum Opened {
    /// A file.
    File(File),
    /// Nothing.
    Missing,
    /// Something that is not opened, and why.
    Unfit(String),
}

/// One thing that a walk over a tree meets.
#[derive(Debug)]
pub enum Visited {
    /// A file.
    File(TreePath),
    /// Something with a name that no page can give it, escaped; or that is no file.
    Odd(String),
    /// A directory that cannot be read, and why.
    Unreadable(String, String),
}

/// Something in a tree that was not taken. It is as it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// A file that is not what the pages say.
    Wrong {
        /// The file.
        path: String,
        /// What it should be and what it is.
        problem: String,
    },
    /// A file that a page names and that is not there.
    Missing {
        /// The file.
        path: String,
    },
    /// A file that no page names.
    Unknown {
        /// The file.
        path: String,
    },
    /// A page or directory that cannot be read, so that what it says is not known.
    Unreadable {
        /// Where it is.
        path: String,
        /// Why.
        problem: String,
    },
}

/// What an adoption came to. All but `bytes` count files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Adopted {
    /// Taken as clones, which share room with the originals.
    pub cloned: u64,
    /// Taken as further names of the same files.
    pub linked: u64,
    /// Taken as copies.
    pub copied: u64,
    /// Here already.
    pub present: u64,
    /// The bytes of what was taken now.
    pub bytes: u64,
    /// Not what the pages say.
    pub wrong: u64,
    /// Named by a page, and not there.
    pub missing: u64,
    /// Named by no page.
    pub unknown: u64,
    /// Pages and directories that cannot be read.
    pub unreadable: u64,
    /// Of projects that the mirror does not have.
    pub unselected: u64,
}

impl Adopted {
    /// How many of the tree's files the store has now.
    pub fn adopted(&self) -> u64 {
        self.cloned + self.linked + self.copied + self.present
    }

    fn count(&mut self, manner: Manner, size: u64) {
        match manner {
            Manner::Cloned => self.cloned += 1,
            Manner::Linked => self.linked += 1,
            Manner::Copied => self.copied += 1,
        }
        self.bytes += size;
    }
}

/// An adoption did not come to its end. The files that it took are in the store, and a repetition does not read them
/// again.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The tree cannot be read.
    #[error("cannot read the tree")]
    Tree(#[source] DiskError),
    /// A file could not be taken in.
    #[error("cannot take in `{}`", path.display())]
    Take {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ReceiveError,
    },
    /// There is no room for copies.
    #[error("files of `{}` have to be copied, and there is no room", tree.display())]
    Room {
        /// The tree.
        tree: PathBuf,
        /// How much there is, and how much there has to be.
        source: Box<SyncError>,
    },
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes over the files of a tree that a mirror may need, and tells about the others. `link` says whether the tree's files
/// may become the store's own where they cannot be cloned: then they get another mode and time of modification.
pub fn adopt(
    store: &Arc<Store>,
    settings: &Settings,
    tree: &impl Tree,
    link: bool,
    progress: &Progress,
    clock: &Clock,
    tell: &mut dyn FnMut(&Finding),
) -> Result<Adopted, AdoptError> {
    let mirror = store.lock(&settings.mirror, settings.wait, clock())?;
    let intake = Intake::open(&mirror, settings.access)?;
    let withdrawn = mirror.withdrawn()?;
    let (done, named) = (Adopted::default(), Vec::new());
    let mut adoption = Adoption { store, settings, tree, link, progress, intake, mirror, done, withdrawn, named };
    let mut odd = Vec::new();
    let projects = tree.projects(&mut |finding| odd.push(finding)).map_err(AdoptError::Tree)?;
    for finding in &odd {
        adoption.tell(finding, tell);
    }
    progress.projects.store(projects.len() as u64, Ordering::Relaxed);
    let projects: Vec<_> = projects.into_iter().collect();
    for some in projects.chunks(PROJECTS) {
        let wanted = adoption.plan(some, tell);
        adoption.execute(some, &wanted, tell)?;
        Progress::add(&progress.projects_done, some.len() as u64);
    }
    adoption.tell_unknown(tell)?;
    Ok(adoption.done)
}

struct Adoption<'a, T> {
    store: &'a Arc<Store>,
    settings: &'a Settings,
    tree: &'a T,
    link: bool,
    progress: &'a Progress,
    intake: Intake,
    mirror: Locked,
    done: Adopted,
    /// The files that are withdrawn from the mirror: an adoption does not bring them back.
    withdrawn: BTreeSet<ClaimedSha256>,
    /// The paths that pages name: eight bytes of a digest of each, because there can be many millions.
    named: Vec<u64>,
}

/// A file to be taken.
struct Wanted {
    /// The place of its project among those of the plan.
    project: usize,
    path: TreePath,
    named: Named,
}

/// What became of one.
enum Taken {
    Present(Blob),
    Staged(Staged, Manner),
    Not(Finding),
    /// It is not there, and does not have to be.
    Nothing,
}

impl<T: Tree> Adoption<'_, T> {
    fn tell(&mut self, finding: &Finding, tell: &mut dyn FnMut(&Finding)) {
        let count = match finding {
            Finding::Wrong { .. } => &mut self.done.wrong,
            Finding::Missing { .. } => &mut self.done.missing,
            Finding::Unknown { .. } => &mut self.done.unknown,
            Finding::Unreadable { .. } => &mut self.done.unreadable,
        };
        *count += 1;
        tell(finding);
    }

    /// Reads the pages of some projects, and says which of their files are to be taken. No file is opened by it.
    fn plan(&mut self, projects: &[(ProjectName, Vec<TreePath>)], tell: &mut dyn FnMut(&Finding)) -> Vec<Wanted> {
        let tree = self.tree;
        let listed: Vec<_> = projects.par_iter().map(|(project, places)| tree.listed(project, places)).collect();
        let mut wanted = Vec::new();
        for (project, (listed, (name, _))) in listed.into_iter().zip(projects).enumerate() {
            for problem in &listed.problems {
                self.tell(problem, tell);
            }
            self.named.extend(listed.files.keys().map(mark));
            let files = listed.files.into_iter().filter(|(_, named)| !named.claims.is_empty());
            if self.settings.selection.has(name) {
                wanted.extend(files.map(|(path, named)| Wanted { project, path, named }));
            } else {
                self.done.unselected += files.count() as u64;
            }
        }
        wanted
    }

    /// Takes the files of a plan, and remembers what was taken.
    fn execute(
        &mut self,
        projects: &[(ProjectName, Vec<TreePath>)],
        wanted: &[Wanted],
        tell: &mut dyn FnMut(&Finding),
    ) -> Result<(), AdoptError> {
        Progress::add(&self.progress.files, wanted.len() as u64);
        let mut entries: Vec<Vec<Entry>> = projects.iter().map(|_| Vec::new()).collect();
        let mut findings: Vec<(usize, Finding)> = Vec::new();
        let mut waiting: Vec<usize> = (0..wanted.len()).collect();
        while !waiting.is_empty() {
            let (now, later) = batch(wanted, waiting);
            for (index, taken) in self.take_batch(wanted, &now)? {
                let Wanted { project, path, .. } = &wanted[index];
                match taken {
                    Ok(blob) => entries[*project].push(blob.at(path.clone())),
                    Err(finding) => findings.extend(finding.map(|finding| (index, finding))),
                }
            }
            waiting = later;
        }
        findings.sort();
        for (_, finding) in &findings {
            self.tell(finding, tell);
        }
        let units: Vec<_> = projects
            .iter()
            .zip(entries)
            .filter(|(_, entries)| !entries.is_empty())
            .map(|((name, _), entries)| Unit::of_files(name.clone(), entries).expect("each path was wanted once"))
            .collect();
        Ok(self.mirror.record_adopted(&units)?)
    }

    /// Takes files on all cores and makes them durable.
    fn take_batch(
        &mut self,
        wanted: &[Wanted],
        now: &[usize],
    ) -> Result<Vec<(usize, Result<Blob, Option<Finding>>)>, AdoptError> {
        let taken: Vec<Taken> = now.par_iter().map(|index| self.take(&wanted[*index])).collect::<Result<_, _>>()?;
        let (mut done, mut staged, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (index, taken) in now.iter().zip(taken) {
            match taken {
                Taken::Present(blob) => {
                    self.done.present += 1;
                    done.push((*index, Ok(blob)));
                }
                Taken::Staged(file, manner) => {
                    places.push((*index, manner));
                    staged.push(file);
                }
                Taken::Not(finding) => done.push((*index, Err(Some(finding)))),
                Taken::Nothing => done.push((*index, Err(None))),
            }
        }
        for ((index, manner), blob) in places.into_iter().zip(self.intake.land(staged)?) {
            self.done.count(manner, blob.size);
            done.push((index, Ok(blob)));
        }
        Progress::add(&self.progress.files_done, now.len() as u64);
        Ok(done)
    }

    fn take(&self, wanted: &Wanted) -> Result<Taken, AdoptError> {
        let Wanted { path, named: Named { claims, expected }, .. } = wanted;
        let wrong = |problem: String| Ok(Taken::Not(Finding::Wrong { path: path.to_string(), problem }));
        if claims.iter().any(|claim| self.withdrawn.contains(&claim.sha256)) {
            return wrong("is withdrawn from the mirror".to_owned());
        }
        for Claim { sha256, size } in claims {
            if let Some(blob) = self.intake.find(*sha256)?.filter(|blob| size.is_none_or(|size| size == blob.size)) {
                return Ok(Taken::Present(blob));
            }
        }
        let file = match self.tree.open(path) {
            Opened::File(file) => file,
            Opened::Missing if *expected => return Ok(Taken::Not(Finding::Missing { path: path.to_string() })),
            Opened::Missing => return Ok(Taken::Nothing),
            Opened::Unfit(problem) => return wrong(problem),
        };
        let found = match file.metadata() {
            Ok(metadata) => metadata.len(),
            Err(error) => return wrong(format!("cannot be read: {error}")),
        };
        if let Some(expected) = claims.iter().map(|claim| claim.size).collect::<Option<Vec<_>>>()
            && !expected.contains(&found)
        {
            return wrong(format!("expected {} bytes, got {found}", expected[0]));
        }
        let (staged, manner) = match self.stage(path, &file, found) {
            Err(AdoptError::Take { source: ReceiveError::Unreadable(error), .. }) => {
                return wrong(format!("cannot be read: {}", error.source));
            }
            staged => staged?,
        };
        Progress::add(&self.progress.bytes, found);
        let Entry { sha256, size, .. } = staged.at(path.clone());
        let fits = |claim: &&Claim| claim.size.is_none_or(|expected| expected == size);
        let mut mismatch = None;
        for Claim { sha256: claim, .. } in claims.iter().filter(fits) {
            match claim.confirm(sha256) {
                Ok(_) => return Ok(Taken::Staged(staged, manner)),
                Err(error) => mismatch = mismatch.or(Some(error)),
            }
        }
        // Another size than a moment ago: a process is writing to it.
        wrong(mismatch.map_or_else(|| "it changed while it was read".to_owned(), |mismatch| mismatch.to_string()))
    }

    fn stage(&self, path: &TreePath, file: &File, size: u64) -> Result<(Staged, Manner), AdoptError> {
        let from = self.tree.root().join(path.as_str());
        let fail = |source| AdoptError::Take { path: from.clone(), source };
        if let Some(shared) = self.intake.share(file, &from, self.link).map_err(fail)? {
            return Ok(shared);
        }
        require_room(self.store, self.settings, size, 1)
            .map_err(|error| AdoptError::Room { tree: self.tree.root().to_owned(), source: Box::new(error) })?;
        Ok((self.intake.copy(file, &from, None).map_err(fail)?, Manner::Copied))
    }

    /// Tells which files of the tree no page names.
    fn tell_unknown(&mut self, tell: &mut dyn FnMut(&Finding)) -> Result<(), AdoptError> {
        let mut named = std::mem::take(&mut self.named);
        named.sort_unstable();
        let tree = self.tree;
        tree.walk(&mut |visited| {
            let finding = match visited {
                Visited::File(path) if named.binary_search(&mark(&path)).is_ok() => return,
                Visited::File(path) => Finding::Unknown { path: path.to_string() },
                Visited::Odd(path) => Finding::Unknown { path },
                Visited::Unreadable(path, problem) => Finding::Unreadable { path, problem },
            };
            self.tell(&finding, tell);
        })
        .map_err(AdoptError::Tree)
    }
}

/// What stands for a path among those that are named.
fn mark(path: &TreePath) -> u64 {
    let digest = Blake3::of(path.as_str().as_bytes());
    let [first, ..] = digest.as_bytes().as_chunks().0 else { return 0 };
    u64::from_le_bytes(*first)
}

/// Divides what waits into a batch and the rest. No two of a batch can have the same bytes: the second is found in the
/// store when its turn comes.
fn batch(wanted: &[Wanted], waiting: Vec<usize>) -> (Vec<usize>, Vec<usize>) {
    let mut claimed = HashSet::new();
    waiting.into_iter().partition(|index| {
        let claims = &wanted[*index].named.claims;
        let free = claimed.len() < BATCH && claims.iter().all(|claim| !claimed.contains(&claim.sha256));
        if free {
            claimed.extend(claims.iter().map(|claim| claim.sha256));
        }
        free
    })
}
