//! The content to serve: look-ups in the store, and a memory of their results.
//!
//! What always holds: the site asks the catalog for each request which snapshot is published, and keeps in memory only
//! values that are named by a digest, so they are never old.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use strandline_durable::{Disk, DiskError};
use strandline_model::{
    At, Blake3, Entry, Formats, ListedProject, MirrorName, ProjectName, RootList, Serial, TreePath, Unit,
};
use strandline_store::{Mirror, Recorded, SelectError, Store, StoreError, ViewState};

use crate::accept::Form;
use crate::cache::Cache;
use crate::reply::{Content, Data, Freshness, Marks};
use crate::route::Place;
use crate::{files, home};

/// How many connections to the catalog only tell which snapshot is published, for requests whose rest is in memory.
const WATCHERS: usize = 8;
/// How many connections answer the other requests.
const READERS: usize = 4;
/// The largest page, and the largest other file, that is kept in memory. Larger ones are read in chunks as they are sent.
const SMALL_PAGE: u64 = 4 << 20;
const SMALL_FILE: u64 = 64 << 10;
/// How many bytes are kept of snapshots, of projects, of small blobs and of the lists of all projects.
const SNAPSHOTS: usize = 16 << 20;
const PROJECTS: usize = 64 << 20;
const BLOBS: usize = 64 << 20;
const LISTS: usize = 256 << 20;

/// What is served: the mirrors of one store.
pub struct Site {
    /// For the one question that each request asks. The catalog answers it in microseconds, so it is asked on the thread of
    /// the request.
    watchers: Vec<Watcher>,
    readers: Vec<Arc<Store>>,
    next: AtomicUsize,
    /// For lists, which take long to make: requests for anything else do not wait for them.
    list_reader: Mutex<Arc<Store>>,
    formats: Formats,
    snapshots: Cache<Blake3, Arc<Recorded>>,
    projects: Cache<(Blake3, ProjectName), Arc<Project>>,
    blobs: Cache<Blake3, Bytes>,
    /// By the digest that the snapshot says.
    rendered: Cache<Blake3, List>,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site").field("store", &self.readers.first()).finish_non_exhaustive()
    }
}

/// What a request asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// The page for people; `host` is what the request was sent to.
    Home { host: Option<String> },
    /// A project's page, or the list of all projects.
    Page(Place, Option<ProjectName>, Form),
    /// A file.
    File(Place, TreePath),
}

/// What was found, or why there is nothing.
pub(crate) type Found = Result<Content, Missing>;

/// There is no such thing, and the words to say so.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) String);

/// A project in one snapshot.
#[derive(Debug)]
struct Project {
    serial: Serial,
    unit: Unit,
}

/// A list of all projects, and the digest of its bytes.
#[derive(Debug, Clone)]
struct List {
    bytes: Bytes,
    blake3: Blake3,
}

/// How far a look-up may go for a value that is not in memory.
#[derive(Clone, Copy)]
enum Reach<'a> {
    Memory,
    Store(&'a Arc<Store>),
}

impl<'a> Reach<'a> {
    fn store(self) -> Result<&'a Arc<Store>, Stopped> {
        match self {
            Self::Memory => Err(Stopped::NotInMemory),
            Self::Store(store) => Ok(store),
        }
    }
}

/// A look-up did not come to an end.
enum Stopped {
    NotInMemory,
    Failed(StoreError),
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// A connection that tells what mirrors publish.
struct Watcher {
    store: Arc<Store>,
    /// The mirrors that were asked for, so that not each request looks for their rows.
    mirrors: Mutex<HashMap<MirrorName, Mirror>>,
}

impl Watcher {
    fn new(store: Arc<Store>) -> Self {
        Self { store, mirrors: Mutex::default() }
    }

    /// What a mirror publishes; `None` if nothing.
    fn view_state(&self, name: &MirrorName) -> Result<Option<ViewState>, StoreError> {
        let mirrors = || self.mirrors.lock().unwrap_or_else(PoisonError::into_inner);
        let known = mirrors().get(name).cloned();
        if let Some(state) = known.map(|mirror| mirror.view_state()).transpose()?.flatten() {
            return Ok(Some(state));
        }
        // It may have been removed and be another one by now.
        let Some(mirror) = self.store.mirror(name)? else {
            mirrors().remove(name);
            return Ok(None);
        };
        let state = mirror.view_state()?;
        mirrors().insert(name.clone(), mirror);
        Ok(state)
    }
}

impl Site {
    /// Opens the store at `root`, several times over. `formats` says how the lists of each mirror are written.
    pub fn open(root: &Path, formats: Formats) -> Result<Self, StoreError> {
        let open = || Store::open(root, Disk::new());
        Ok(Self {
            watchers: (0..WATCHERS).map(|_| open().map(Watcher::new)).collect::<Result<_, _>>()?,
            readers: (0..READERS).map(|_| open()).collect::<Result<_, _>>()?,
            next: AtomicUsize::new(0),
            list_reader: Mutex::new(open()?),
            formats,
            snapshots: Cache::of_bytes(SNAPSHOTS),
            projects: Cache::of_bytes(PROJECTS),
            blobs: Cache::of_bytes(BLOBS),
            rendered: Cache::of_bytes(LISTS),
        })
    }

    /// Answers from memory, once the catalog has said which snapshot is published; `None` means that
    /// [`look_up`](Self::look_up) is needed. Does not wait for disks, so it need not run on another thread: to hand over so
    /// short a task costs several times what the task takes.
    pub(crate) fn remember(&self, asked: &Asked) -> Option<Result<Found, StoreError>> {
        match self.find(asked, Reach::Memory) {
            Ok(found) => Some(Ok(found)),
            Err(Stopped::Failed(error)) => Some(Err(error)),
            Err(Stopped::NotInMemory) => None,
        }
    }

    /// Looks something up. This may take long.
    pub(crate) fn look_up(&self, asked: &Asked) -> Result<Found, StoreError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        match self.find(asked, Reach::Store(&self.readers[turn % self.readers.len()])) {
            Ok(found) => Ok(found),
            Err(Stopped::Failed(error)) => Err(error),
            Err(Stopped::NotInMemory) => unreachable!("nothing but `Reach::Memory` stops there"),
        }
    }

    /// A connection that is not likely to be in use.
    fn watcher(&self) -> &Watcher {
        &self.watchers[self.next.fetch_add(1, Ordering::Relaxed) % self.watchers.len()]
    }

    fn find(&self, asked: &Asked, reach: Reach<'_>) -> Result<Found, Stopped> {
        match asked {
            Asked::Home { host } => self.home(host.as_deref(), reach),
            Asked::Page(place, Some(project), form) => self.page(place, project, *form, reach),
            Asked::Page(place, None, form) => self.list(place, *form, reach),
            Asked::File(place, path) => self.file(place, path, reach),
        }
    }

    fn home(&self, host: Option<&str>, reach: Reach<'_>) -> Result<Found, Stopped> {
        let mut lines = Vec::new();
        for mirror in reach.store()?.mirrors()? {
            if let Some(published) = self.published(mirror.name(), reach)? {
                let (label, projects) = (published.snapshot.label.to_string(), published.snapshot.listed);
                lines.push(home::Line { mirror: mirror.name().clone(), projects, label });
            }
        }
        let page = home::page(&lines, host);
        Ok(Ok(Content {
            tag: tag(Blake3::of(page.as_bytes()), ""),
            data: Data::Bytes(page.into()),
            media_type: Form::Html.media_type(),
            freshness: Freshness::Ask,
            marks: None,
        }))
    }

    fn page(&self, place: &Place, project: &ProjectName, form: Form, reach: Reach<'_>) -> Result<Found, Stopped> {
        let recorded = match self.snapshot(place, reach)? {
            Ok(recorded) => recorded,
            Err(missing) => return Ok(Err(missing)),
        };
        let found = self.project(&recorded, project, reach)?;
        let path = format!("simple/{project}/{}", form.file_name());
        let Some((serial, entry)) = found.as_ref().and_then(|found| Some((found.serial, found.unit.entry(&path)?)))
        else {
            return Ok(Err(Missing(format!("mirror `{}` has no project `{project}`", place.mirror))));
        };
        Ok(Ok(Content {
            data: self.data(entry, SMALL_PAGE, reach)?,
            tag: page_tag(entry.blob, form),
            media_type: form.media_type(),
            freshness: page_freshness(place),
            marks: Some(Marks { last_serial: serial, snapshot: recorded.snapshot.label }),
        }))
    }

    fn list(&self, place: &Place, form: Form, reach: Reach<'_>) -> Result<Found, Stopped> {
        let recorded = match self.snapshot(place, reach)? {
            Ok(recorded) => recorded,
            Err(missing) => return Ok(Err(missing)),
        };
        let path = format!("simple/{}", form.file_name());
        let Some(list) = recorded.snapshot.lists.iter().find(|list| list.path.as_str() == path) else {
            return Ok(Err(Missing(format!("mirror `{}` has no such list of projects", place.mirror))));
        };
        let List { bytes, blake3 } = self.rendered(&recorded, list, reach)?;
        let label = recorded.snapshot.label;
        Ok(Ok(Content {
            data: Data::Bytes(bytes),
            tag: page_tag(blake3, form),
            media_type: form.media_type(),
            freshness: page_freshness(place),
            marks: Some(Marks { last_serial: label.serial, snapshot: label }),
        }))
    }

    /// A file. At a given snapshot, only a file that it names. Else also a file that the snapshot published before named, or
    /// that is still in the pool, because a client that read a page before a switch comes for its files after it.
    fn file(&self, place: &Place, path: &TreePath, reach: Reach<'_>) -> Result<Found, Stopped> {
        let missing = || Missing(format!("mirror `{}` has no such file", place.mirror));
        if place.at.is_some() {
            return match self.snapshot(place, reach)? {
                Ok(recorded) => Ok(self.named(&recorded, path, reach)?.unwrap_or_else(|| Err(missing()))),
                Err(missing) => Ok(Err(missing)),
            };
        }
        let Some(state) = self.watcher().view_state(&place.mirror)? else { return Ok(Err(missing())) };
        if let Some(found) = self.named(&*self.recorded(state.snapshot, reach)?, path, reach)? {
            return Ok(found);
        }
        let store = reach.store()?;
        // From a blob rather than from the pool, so that a download that was cut off by the switch goes on under the
        // same tag. Retention may have dropped that snapshot, and a withdrawal may have replaced it.
        if let Some(before) = state.previous.and_then(|id| store.recorded(id).ok())
            && let Some(mirror) = store.mirror(&place.mirror)?
            && let Some(before) = mirror.at_serial(before.snapshot.label.serial)?
            && let Some(found) = self.named(&before, path, reach)?
        {
            return Ok(found);
        }
        Ok(files::pooled(store, &place.mirror, path)?.ok_or_else(missing))
    }

    /// The file that a snapshot has at `path`, which ends in the file's name; a withdrawn file is not found.
    fn named(&self, recorded: &Recorded, path: &TreePath, reach: Reach<'_>) -> Result<Option<Found>, Stopped> {
        for name in files::owners(path.file_name()) {
            let project = match self.project(recorded, &name, reach) {
                // Another owner may be in memory, and a path has the same content, no matter which project names it.
                Err(Stopped::NotInMemory) => continue,
                project => project?,
            };
            if let Some(entry) = project.as_ref().and_then(|project| project.unit.entry(path.as_str())) {
                // It is refused from the moment the withdrawal is recorded, also where a page still lists it.
                if self.watcher().store.is_withdrawn_from(&recorded.snapshot.mirror, entry.sha256)? {
                    return Ok(Some(Err(Missing(format!(
                        "`{}` was withdrawn from mirror `{}`",
                        path.file_name(),
                        recorded.snapshot.mirror
                    )))));
                }
                return Ok(Some(Ok(Content {
                    data: self.data(entry, SMALL_FILE, reach)?,
                    tag: tag(entry.blob, ""),
                    media_type: files::media_type(path),
                    freshness: Freshness::Forever,
                    marks: None,
                })));
            }
        }
        Ok(None)
    }

    /// The snapshot that a client means.
    fn snapshot(&self, place: &Place, reach: Reach<'_>) -> Result<Result<Arc<Recorded>, Missing>, Stopped> {
        let Place { mirror, at } = place;
        let unknown = || Missing(format!("there is no mirror `{mirror}`, or it has published nothing yet"));
        let Some(at) = at else { return Ok(self.published(mirror, reach)?.ok_or_else(unknown)) };
        let Some(mirror) = reach.store()?.mirror(mirror)? else { return Ok(Err(unknown())) };
        match mirror.select_served(*at) {
            Ok(recorded) => Ok(Ok(Arc::new(recorded))),
            Err(SelectError::Store(error)) => Err(error.into()),
            Err(unknown) => Ok(Err(Missing(unknown.to_string()))),
        }
    }

    fn published(&self, mirror: &MirrorName, reach: Reach<'_>) -> Result<Option<Arc<Recorded>>, Stopped> {
        let state = self.watcher().view_state(mirror)?;
        state.map(|state| self.recorded(state.snapshot, reach)).transpose()
    }

    fn recorded(&self, id: Blake3, reach: Reach<'_>) -> Result<Arc<Recorded>, Stopped> {
        if let Some(known) = self.snapshots.get(&id) {
            return Ok(known);
        }
        let recorded = Arc::new(reach.store()?.recorded(id)?);
        let bytes = 2048 + 256 * recorded.snapshot.held.len();
        self.snapshots.put(id, Arc::clone(&recorded), bytes);
        Ok(recorded)
    }

    fn project(
        &self,
        recorded: &Recorded,
        name: &ProjectName,
        reach: Reach<'_>,
    ) -> Result<Option<Arc<Project>>, Stopped> {
        let key = (recorded.id, name.clone());
        if let Some(known) = self.projects.get(&key) {
            return Ok(Some(known));
        }
        let store = reach.store()?;
        let leaf = store.find(&recorded.snapshot, name)?;
        let Some((serial, unit)) = leaf.and_then(|leaf| Some((leaf.serial, leaf.unit?))) else { return Ok(None) };
        let unit = store.unit(unit)?;
        // The page may be of an earlier state than the tree's line, where files of the newest cannot be had.
        let serial = unit.source().map_or(serial, |source| source.serial);
        let project = Arc::new(Project { serial, unit });
        let paths: usize = project.unit.entries().iter().map(|entry| entry.path.as_str().len()).sum();
        let bytes = 512 + paths + size_of_val(project.unit.entries());
        self.projects.put(key, Arc::clone(&project), bytes);
        Ok(Some(project))
    }

    /// The bytes of an entry; kept if there are at most `small`.
    fn data(&self, entry: &Entry, small: u64, reach: Reach<'_>) -> Result<Data, Stopped> {
        if let Some(known) = self.blobs.get(&entry.blob) {
            return Ok(Data::Bytes(known));
        }
        let store = reach.store()?;
        if entry.size > small {
            return Ok(files::open_blob(store, entry)?);
        }
        let bytes = Bytes::from(store.read_blob(entry.blob)?);
        self.blobs.put(entry.blob, bytes.clone(), bytes.len());
        Ok(Data::Bytes(bytes))
    }

    /// The list that the snapshot names, where it is published, else as this program writes it. Requests for it at the same time
    /// wait for one of them to make it.
    fn rendered(&self, recorded: &Recorded, list: &RootList, reach: Reach<'_>) -> Result<List, Stopped> {
        if let Some(known) = self.rendered.get(&list.blake3) {
            return Ok(known);
        }
        reach.store()?;
        let store = self.list_reader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = self.rendered.get(&list.blake3) {
            return Ok(known);
        }
        let view = store.mirror(&recorded.snapshot.mirror)?.map(|mirror| mirror.view_directory());
        let live = view.and_then(|view| std::fs::read(view.join("live").join(list.path.as_str())).ok());
        // Another renderer may have written it; what readers of the directory see is what the snapshot names.
        if let Some(bytes) = live.filter(|bytes| Blake3::of(bytes) == list.blake3) {
            let live = List { blake3: list.blake3, bytes: bytes.into() };
            self.rendered.put(list.blake3, live.clone(), live.bytes.len());
            return Ok(live);
        }
        let leaves = store.leaves(&recorded.snapshot)?.into_iter();
        let mut projects: Vec<_> = leaves.filter_map(ListedProject::of).collect();
        ListedProject::hold(&mut projects, &recorded.snapshot.held);
        let mut bytes = Vec::new();
        let format = self.formats.of(&recorded.snapshot.mirror);
        format.write_list(&list.path, recorded.snapshot.label.serial, &projects, &mut bytes).map_err(|source| {
            StoreError::from(DiskError::new("write the list", Path::new(list.path.as_str()), source))
        })?;
        let made = List { blake3: Blake3::of(&bytes), bytes: bytes.into() };
        if made.blake3 != list.blake3 {
            // It is made from the tree all the same, so it is right to send it, under a tag made from the bytes that are sent.
            tracing::warn!(
                snapshot = %recorded.id, path = %list.path,
                "the list differs from the one that was recorded: another renderer wrote that"
            );
        }
        self.rendered.put(list.blake3, made.clone(), made.bytes.len());
        Ok(made)
    }
}

fn page_freshness(place: &Place) -> Freshness {
    match place.at {
        Some(At::Serial(_) | At::Label(_)) => Freshness::Minute,
        // A date means another snapshot as soon as there is a newer one on that day.
        Some(At::Time(_) | At::Day(_)) | None => Freshness::Ask,
    }
}

/// Entity tags name bytes. The two forms of HTML are the same bytes with another type, at one URL, so one of them gets
/// a suffix.
fn page_tag(blake3: Blake3, form: Form) -> String {
    tag(blake3, if form == Form::VersionedHtml { "-v1" } else { "" })
}

fn tag(blake3: Blake3, suffix: &str) -> String {
    format!("\"{blake3}{suffix}\"")
}
