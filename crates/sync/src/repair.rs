//! Getting back what a check found damaged.
//!
//! The bytes of a blob are looked for, in this order: in its own file, where only its row is wrong; in the views, where a
//! page or file may be a copy or the last name of what was whole; for a page, in the project's record, of which it is a
//! function; and at an upstream. Whatever is found counts only if it has the blob's own digests. A unit is made again from
//! the project's record in the view. Then the views are put right.
//!
//! Nothing is deleted: what was in the place of a blob is moved aside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use strandline_model::{
    Blake3, CoreMetadata, Entry, Label, MirrorName, Mirrored, Placed, ProjectName, Sha256, TreePath, Unit,
};
use strandline_store::verify::{Damage, Naming};
use strandline_store::{Access, Intake, Locked, Mirror, ReceiveError, Staged, Store, StoreError, Wait};
use strandline_view::RootLists;
use tokio::task::block_in_place;

use crate::fetch::{FetchError, Fetcher, metadata_url};
use crate::source::{Answer, Page, Source, Way};
use crate::{Clock, Context, SyncError};

/// What became of what was damaged, in words.
#[derive(Debug, Default)]
pub struct Repair {
    /// What is right again, and how.
    pub repaired: Vec<String>,
    /// What is damaged yet, and what to do.
    pub left: Vec<String>,
    /// What of the views is damaged yet: for want of a blob, which a further repair may have.
    pub views: Vec<String>,
}

/// A blob without its bytes.
struct Lost {
    blob: Blake3,
    sha256: Sha256,
    size: u64,
    problem: String,
    named_by: Vec<Naming>,
}

/// A mirror at work on its repair.
struct Worker<'a, S> {
    context: &'a Context<S>,
    fetcher: Arc<Fetcher<S>>,
    mirror: Arc<Locked>,
}

/// Repairs what it can of what a check found, and the views of the mirrors. Waits for syncs that are running. With `data`,
/// pages and files of the views that are copies are read.
pub async fn repair<S: Source>(
    contexts: &[Context<S>],
    lists: &dyn RootLists,
    damage: Vec<Damage>,
    data: bool,
    clock: &Clock,
) -> Result<Repair, SyncError> {
    let mut done = Repair::default();
    let mut workers = Vec::new();
    for context in contexts {
        let Context { store, settings, .. } = context;
        let mirror = Arc::new(block_in_place(|| store.lock(&settings.mirror, Wait::UntilFree, clock()))?);
        let fetcher = block_in_place(|| Fetcher::open(context, &mirror, None))?;
        workers.push(Worker { context, fetcher, mirror });
    }
    let mut lost = Vec::new();
    for damage in damage {
        match damage {
            Damage::Body { id, project: Some(ref project), ref needed_by, .. } => {
                let restored = block_in_place(|| restore_unit(&workers, id, project, needed_by))?;
                if restored {
                    done.repaired.push(format!("body {id}: made again from the record of {project} in the view"));
                } else {
                    done.left.push(format!("{damage}; {RESTORE}"));
                }
            }
            Damage::Catalog { .. } | Damage::Body { .. } => done.left.push(format!("{damage}; {RESTORE}")),
            Damage::Blob { blob, sha256, size, problem, mut named_by } => {
                block_in_place(|| leave_withdrawn(&workers, sha256, &mut named_by))?;
                if named_by.is_empty() {
                    done.repaired.push(format!("blob {blob} {problem}: it was withdrawn since, so nobody needs it"));
                } else {
                    lost.push(Lost { blob, sha256, size, problem, named_by });
                }
            }
        }
    }
    // Records first: pages are made from them.
    lost.sort_by_key(|lost| !lost.named_by.iter().any(|naming| naming.path.file_name() == RECORD));
    for lost in lost {
        let Lost { blob, problem, named_by, .. } = &lost;
        match restore(&workers, &lost).await? {
            Ok(how) => done.repaired.push(format!("blob {blob} {problem}: {how}")),
            Err(why) => {
                let names: Vec<_> = named_by.iter().map(ToString::to_string).collect();
                done.left.push(format!("blob {blob} {problem}; {why}; named by {}", names.join(", ")));
            }
        }
    }
    for Worker { context: Context { store, settings, .. }, mirror, .. } in &workers {
        block_in_place(|| store.outrun_views())?;
        let mended = block_in_place(|| strandline_view::mend(mirror, lists, data))?;
        done.repaired.extend(mended.mended.iter().map(|broken| format!("{broken}: put right")));
        done.views.extend(mended.left.iter().map(ToString::to_string));
        if mended.earlier > 0 {
            done.repaired
                .push(format!("{}: {} links of the pool for earlier serials", settings.mirror, mended.earlier));
        }
        if mended.standby {
            let standby =
                format!("{}: the tree that is not live was damaged; the next switch makes it anew", settings.mirror);
            done.repaired.push(standby);
        }
    }
    Ok(done)
}

/// The page that is the record itself.
const RECORD: &str = "index.v1_json";
const RESTORE: &str = "restore the catalog from a backup (docs/operations.md, \"Restoring\"), or move it aside and run `strandline rebuild`";

/// Makes a unit again, from the record that one of the trees of a view shows.
fn restore_unit<S: Source>(
    workers: &[Worker<'_, S>],
    id: Blake3,
    project: &ProjectName,
    needed_by: &[(MirrorName, Label)],
) -> Result<bool, SyncError> {
    for Worker { context: Context { store, source, .. }, mirror, .. } in workers {
        if !needed_by.iter().any(|(of, _)| of == mirror.name()) {
            continue;
        }
        for record in shown_records(mirror, &**source, project) {
            if let Some(unit) = unit_of(store, &**source, &record)?
                && mirror.restore_unit(id, &unit)?
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Leaves out where a file was named that was withdrawn after the check: it is not to come back. A withdrawal that comes later
/// is carried out when the mirror's lock is free, and finds what came back.
fn leave_withdrawn<S: Source>(
    workers: &[Worker<'_, S>],
    sha256: Sha256,
    named_by: &mut Vec<Naming>,
) -> Result<(), StoreError> {
    let Some(Worker { context: Context { store, .. }, .. }) = workers.first() else { return Ok(()) };
    for naming in std::mem::take(named_by) {
        if !store.is_withdrawn_from(&naming.mirror, sha256)? {
            named_by.push(naming);
        }
    }
    Ok(())
}

/// The records of a project that the trees of a view show, as far as they can be read.
pub(crate) fn shown_records<S: Source>(mirror: &Mirror, source: &S, project: &ProjectName) -> Vec<Mirrored> {
    let Ok(path) = format!("simple/{project}/{RECORD}").parse() else { return Vec::new() };
    let copies = strandline_view::copies(mirror, &path).into_iter();
    copies.filter_map(|path| source.read_record(&std::fs::read(path).ok()?).ok()).collect()
}

/// The unit of a project with this record; `None` where the store has never had one of its files.
pub(crate) fn unit_of<S: Source>(store: &Store, source: &S, record: &Mirrored) -> Result<Option<Unit>, StoreError> {
    let mut entries = Vec::new();
    for page in source.render(record) {
        let (blob, sha256, size) = (Blake3::of(&page.bytes), Sha256::of(&page.bytes), page.bytes.len() as u64);
        entries.push(Entry { path: page.path, blob, sha256, size });
    }
    for (.., placed) in record.files() {
        for (path, sha256) in placed.paths() {
            let Some(blob) = store.blob_of(sha256)? else { return Ok(None) };
            entries.push(blob.at(path));
        }
    }
    Ok(Unit::new(record.record().name().clone(), entries).ok())
}

/// Puts a blob in its place again; returns how, or why not.
async fn restore<S: Source>(workers: &[Worker<'_, S>], lost: &Lost) -> Result<Result<String, String>, SyncError> {
    let is_of =
        |worker: &&Worker<'_, S>| lost.named_by.iter().any(|naming| naming.mirror == worker.context.settings.mirror);
    let Some(owner) = workers.iter().find(is_of) else {
        return Ok(Err("no mirror of the configuration has it, so it was not looked for".to_owned()));
    };
    let found = match block_in_place(|| at_hand(owner, lost))? {
        Some(found) => found,
        None => match fetch(workers, owner, lost).await? {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        },
    };
    let (staged, how) = found;
    block_in_place(|| {
        let (_, aside) = owner.fetcher.intake.restore(staged)?;
        for Worker { mirror, .. } in workers {
            let of_mirror = lost.named_by.iter().filter(|naming| naming.mirror == *mirror.name());
            let paths: BTreeMap<_, _> = of_mirror.map(|naming| (naming.path.clone(), lost.blob)).collect();
            strandline_view::restock(mirror, paths)?;
        }
        let aside = aside.map_or_else(String::new, |path| format!("; what was there is `{}` now", path.display()));
        Ok(Ok(format!("{how}{aside}")))
    })
}

type Found = (Staged, String);

/// The bytes of a blob from what is on this disk.
fn at_hand<S: Source>(owner: &Worker<'_, S>, lost: &Lost) -> Result<Option<Found>, SyncError> {
    let Context { store, source, .. } = owner.context;
    let intake = &owner.fetcher.intake;
    let copy =
        |path: &PathBuf| intake.stage_copy(path, lost.blob, lost.sha256).map_err(|error| not_stored(lost, error));
    if let Some(staged) = copy(&store.blob_path(lost.blob))? {
        return Ok(Some((staged, "its file is whole, and has its row again".to_owned())));
    }
    let mut seen = BTreeSet::new();
    for naming in &lost.named_by {
        let Some(mirror) = store.mirror(&naming.mirror)? else { continue };
        for path in strandline_view::copies(&mirror, &naming.path) {
            if seen.insert(path.clone())
                && let Some(staged) = copy(&path)?
            {
                return Ok(Some((staged, format!("taken from `{}`", path.display()))));
            }
        }
    }
    let mut units = BTreeSet::new();
    for naming in lost.named_by.iter().filter(|naming| is_page(&naming.path) && naming.path.file_name() != RECORD) {
        if !units.insert(naming.unit) {
            continue;
        }
        // A record that is damaged itself makes no page.
        let Ok(Some(record)) =
            store.unit(naming.unit).map_err(SyncError::from).and_then(|unit| owner.fetcher.record(&unit))
        else {
            continue;
        };
        if let Some(staged) = rendered(&**source, intake, &record, lost)? {
            return Ok(Some((staged, format!("made again from the record of {}", naming.project))));
        }
    }
    Ok(None)
}

fn is_page(path: &TreePath) -> bool {
    path.first_segment() == "simple"
}

/// The page of a record that has the blob's bytes, if one has.
fn rendered<S: Source>(
    source: &S,
    intake: &Intake,
    record: &Mirrored,
    lost: &Lost,
) -> Result<Option<Staged>, SyncError> {
    let page = source.render(record).into_iter().find(|page| Blake3::of(&page.bytes) == lost.blob);
    page.map(|page| intake.stage(&page.bytes).map_err(|error| StoreError::from(error).into())).transpose()
}

fn not_stored(lost: &Lost, source: ReceiveError) -> SyncError {
    let naming = lost.named_by.first();
    match (naming, source) {
        (_, ReceiveError::Disk(error)) => StoreError::from(error).into(),
        (Some(Naming { project, path, .. }), source) => {
            FetchError::Store { project: project.clone(), filename: path.file_name().to_owned(), source }.into()
        }
        // What is damaged is named by something, or it would be nobody's damage.
        (None, source) => StoreError::from(strandline_durable::DiskError::new(
            "restore the blob",
            std::path::Path::new(&lost.blob.to_string()),
            std::io::Error::other(source),
        ))
        .into(),
    }
}

/// The bytes of a blob from upstream: the mirror's own, then those of other mirrors; or why they cannot be had.
async fn fetch<S: Source>(
    workers: &[Worker<'_, S>],
    owner: &Worker<'_, S>,
    lost: &Lost,
) -> Result<Result<Found, String>, SyncError> {
    let mut why = Vec::new();
    let others = workers.iter().filter(|worker| {
        // What a private mirror has, not even its name, is told to no other upstream.
        worker.context.settings.mirror != owner.context.settings.mirror
            && owner.context.settings.access == Access::Public
    });
    let mut asked = BTreeSet::new();
    for worker in std::iter::once(owner).chain(others) {
        let upstream = worker.context.source.upstream();
        for naming in &lost.named_by {
            if !asked.insert((upstream.as_str(), &naming.project, is_page(&naming.path))) {
                continue;
            }
            match fetch_from(worker, owner, naming, lost).await {
                Ok(staged) => return Ok(Ok((staged, format!("fetched again from {upstream}")))),
                Err(SyncError::Fetch(error)) if error.is_upstreams() => {
                    let cause =
                        std::error::Error::source(&*error).map_or_else(String::new, |cause| format!(": {cause}"));
                    why.push(format!("{upstream}: {error}{cause}"));
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Err(why.join("; ")))
}

async fn fetch_from<S: Source>(
    worker: &Worker<'_, S>,
    owner: &Worker<'_, S>,
    naming: &Naming,
    lost: &Lost,
) -> Result<Staged, SyncError> {
    let project = &naming.project;
    let gone =
        |problem: &str| SyncError::from(FetchError::Unusable { project: project.clone(), problem: problem.to_owned() });
    let Answer::Page { page, .. } = worker.fetcher.page(project, None, Way::Usual).await? else {
        return Err(gone("upstream has it no more"));
    };
    let source = &*owner.context.source;
    if is_page(&naming.path) {
        let record = block_in_place(|| record_of(&owner.context.store, naming, &page))?;
        let staged = record.map(|record| block_in_place(|| rendered(source, &owner.fetcher.intake, &record, lost)));
        return staged
            .transpose()?
            .flatten()
            .ok_or_else(|| gone("it has changed since, so the lost page cannot be made of it"));
    }
    let url = url_of(naming, lost, &page).ok_or_else(|| gone("upstream lists the file no more"))?;
    Ok(worker.fetcher.refetch(project, naming.path.file_name(), &url, (lost.sha256, lost.size)).await?)
}

/// Where upstream has a file: where its page says, or, for one that is not listed any more, beside those that are.
fn url_of(naming: &Naming, lost: &Lost, page: &Page) -> Option<String> {
    let name = naming.path.file_name();
    if let Some((.., seen)) = page.record.files().find(|(_, told, _)| told.sha256 == lost.sha256.into()) {
        return seen.url.clone();
    }
    if let Some(name) = name.strip_suffix(".metadata")
        && let Some(seen) = page.record.seen().files.get(name)
        && seen.core_metadata != CoreMetadata::Absent
    {
        return seen.url.as_deref().map(metadata_url);
    }
    let url = page.record.seen().files.values().next()?.url.as_ref()?;
    let top = url.find("/packages/")?;
    Some(format!("{}/{}", &url[..top], naming.path))
}

/// What a mirror made of upstream's page, if the page says yet what it said then: the digests tell.
fn record_of(store: &Arc<Store>, naming: &Naming, page: &Page) -> Result<Option<Mirrored>, SyncError> {
    let unit = store.unit(naming.unit)?;
    let Some(mirror) = store.mirror(&naming.mirror)? else { return Ok(None) };
    let Some(recorded) = mirror.at_label(naming.label)? else { return Ok(None) };
    let Some(leaf) = store.find(&recorded.snapshot, &naming.project)? else { return Ok(None) };
    let (mut files, mut others) = (BTreeMap::new(), BTreeSet::new());
    for (name, told, _) in page.record.files() {
        let entry = unit.entries().iter().find(|entry| {
            !is_page(&entry.path) && entry.path.file_name() == name.as_str() && told.sha256 == entry.sha256.into()
        });
        let Some(entry) = entry else {
            others.insert(name.clone());
            continue;
        };
        let metadata = unit.metadata_of(&entry.path).map(|entry| entry.sha256);
        files.insert(
            name.clone(),
            Placed { path: entry.path.clone(), sha256: entry.sha256, size: entry.size, metadata },
        );
    }
    let record = page.record.clone().without(&others, page.record.seen().versions.clone());
    Ok(Mirrored::new(record, leaf.serial, files).ok())
}
