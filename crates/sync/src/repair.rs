//! Getting back what a check found damaged.
//!
//! A repair looks for the bytes of a blob in this order: in its own file, where only its row is wrong; in the views,
//! where a page or file may be a copy or the last name of the whole file; for a page, in the project's record, of which
//! it is a function; and at an upstream. Bytes count only if they have the blob's own digests. A unit is made again
//! from the project's record in the view. Then the views are put right.
//!
//! Nothing is deleted: a file that stands in the place of a blob is moved aside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use strandline_model::{
    Blake3, CoreMetadata, Entry, FileName, Format, Label, Leaf, MirrorName, Mirrored, ProjectName, Record, RecordId,
    Rendered, Sha256, Source, TreePath, Unit, UpstreamUrl,
};
use strandline_store::verify::{Damage, Naming};
use strandline_store::{Access, Intake, Locked, Mirror, ReceiveError, Staged, Store, StoreError, Wait};
use strandline_view::Broken;
use tokio::task::block_in_place;

use crate::fetch::{FetchError, Fetcher, Patience, metadata_url};
use crate::stored::{self, RecordError, is_page};
use crate::upstream::{Answer, Page, Way};
use crate::{Context, SyncError};

/// The result of a repair.
#[derive(Debug, Default)]
pub struct Repair {
    /// What is right again, and how.
    pub repaired: Vec<Repaired>,
    /// What is damaged yet.
    pub left: Vec<Left>,
    /// The damage that is left in the views because a blob is lacking, which a further repair may have.
    pub views: Vec<Broken>,
}

/// Something that is right again.
#[derive(Debug)]
pub enum Repaired {
    /// A body was made again: a unit from what the view shows of its project, a part of a record from upstream's page.
    Body {
        /// The body.
        id: Blake3,
        /// The project.
        project: ProjectName,
    },
    /// A blob has its bytes and its row again, or is needed no more.
    Blob {
        /// The blob.
        blob: Blake3,
        /// What was wrong with it.
        problem: String,
        /// Where its bytes are from.
        from: BytesFrom,
        /// Where what stood in its place is now.
        aside: Option<PathBuf>,
    },
    /// Something of a view.
    View(Broken),
    /// Links of a mirror's pool that only snapshots name which are not published.
    Pool {
        /// The mirror.
        mirror: MirrorName,
        /// How many.
        links: u64,
    },
    /// The tree of a mirror that is not live was damaged; the next switch makes it anew.
    Standby {
        /// The mirror.
        mirror: MirrorName,
    },
}

/// Where the bytes of a blob are from.
#[derive(Debug)]
pub enum BytesFrom {
    /// Nowhere: it was withdrawn since the check, and is not needed.
    Withdrawn,
    /// From its own file, which is whole and lacked only its row.
    Itself,
    /// From a copy in a view.
    Copy(PathBuf),
    /// It is a page, and was made again from the record of this project.
    Record(ProjectName),
    /// From upstream.
    Upstream(UpstreamUrl),
    /// It is metadata, and was taken out of this file again.
    Inside(TreePath),
}

/// Something that is damaged yet.
#[derive(Debug)]
pub enum Left {
    /// A body or the catalog: only a backup or a rebuild helps.
    Catalog(Damage),
    /// A page that another renderer made: the record makes it no more, and no upstream has it. A revision of the newest snapshot
    /// needs it no more ([`render`](crate::render)).
    Page {
        /// The blob.
        blob: Blake3,
        /// What is wrong with it.
        problem: String,
        /// What names it.
        named_by: Vec<Naming>,
    },
    /// Another blob whose bytes cannot be had.
    Blob {
        /// The blob.
        blob: Blake3,
        /// What is wrong with it.
        problem: String,
        /// What each upstream did that was asked; empty where no mirror of the configuration has the blob, so that it was not
        /// looked for.
        asked: Vec<(UpstreamUrl, FetchError)>,
        /// What names it.
        named_by: Vec<Naming>,
    },
}

/// A blob without its bytes.
struct Lost {
    blob: Blake3,
    sha256: Sha256,
    size: u64,
    problem: String,
    named_by: Vec<Naming>,
}

/// The repairs that are possible.
#[derive(Default)]
struct Plan {
    /// Records and units to be made again, by their projects, each with the damage that it is.
    bodies: BTreeMap<ProjectName, BTreeMap<Blake3, Damage>>,
    /// Blobs that only withdrawn files needed.
    withdrawn: Vec<Lost>,
    /// Blobs whose bytes are to be had again, in this order.
    blobs: Vec<Lost>,
    /// What only a backup or a rebuild helps against.
    beyond_repair: Vec<Damage>,
}

/// A mirror whose repair is under way.
struct Worker<'a> {
    context: &'a Context,
    fetcher: Arc<Fetcher>,
    mirror: Arc<Locked>,
}

/// Repairs what it can of what a check found, and the views of the mirrors. Waits for syncs that are running. With `data`,
/// pages and files of the views that are copies are read.
pub async fn repair(contexts: &[Context], damage: Vec<Damage>, data: bool) -> Result<Repair, SyncError> {
    let mut workers = Vec::new();
    for context in contexts {
        let Context { store, settings, .. } = context;
        let mirror = Arc::new(block_in_place(|| store.lock(&settings.mirror, Wait::UntilFree, context.now()))?);
        let fetcher = block_in_place(|| Fetcher::open(context, &mirror, None))?;
        workers.push(Worker { context, fetcher, mirror });
    }
    let plan = block_in_place(|| plan(&workers, damage))?;
    execute(&workers, plan, data).await
}

/// Divides what is damaged by what can be done about it. Nothing is changed by it.
fn plan(workers: &[Worker<'_>], damage: Vec<Damage>) -> Result<Plan, SyncError> {
    let mut plan = Plan::default();
    for damage in damage {
        match damage {
            Damage::Body { id, project: Some(ref project), .. } => {
                plan.bodies.entry(project.clone()).or_default().insert(id, damage);
            }
            Damage::Catalog { .. } | Damage::Body { .. } => plan.beyond_repair.push(damage),
            Damage::Blob { blob, sha256, size, problem, mut named_by } => {
                leave_withdrawn(workers, sha256, &mut named_by)?;
                let lost = Lost { blob, sha256, size, problem, named_by };
                if lost.named_by.is_empty() { plan.withdrawn.push(lost) } else { plan.blobs.push(lost) }
            }
        }
    }
    Ok(plan)
}

async fn execute(workers: &[Worker<'_>], plan: Plan, data: bool) -> Result<Repair, SyncError> {
    let mut done = Repair::default();
    done.left.extend(plan.beyond_repair.into_iter().map(Left::Catalog));
    for (project, lost) in plan.bodies {
        let restored = restore_bodies(workers, &project, &lost).await?;
        for (id, damage) in lost {
            if restored.contains(&id) {
                done.repaired.push(Repaired::Body { id, project: project.clone() });
            } else {
                done.left.push(Left::Catalog(damage));
            }
        }
    }
    for Lost { blob, problem, .. } in plan.withdrawn {
        done.repaired.push(Repaired::Blob { blob, problem, from: BytesFrom::Withdrawn, aside: None });
    }
    for lost in plan.blobs {
        let restored = restore(workers, &lost).await?;
        let Lost { blob, problem, named_by, .. } = lost;
        match restored {
            Ok((from, aside)) => done.repaired.push(Repaired::Blob { blob, problem, from, aside }),
            Err(asked) if asked.is_empty() && block_in_place(|| is_of_another_renderer(workers, &named_by))? => {
                done.left.push(Left::Page { blob, problem, named_by });
            }
            Err(asked) => done.left.push(Left::Blob { blob, problem, asked, named_by }),
        }
    }
    for worker in workers {
        mend(worker, data, &mut done).await?;
    }
    Ok(done)
}

/// Puts right what it can of a mirror's view.
async fn mend(worker: &Worker<'_>, data: bool, done: &mut Repair) -> Result<(), SyncError> {
    let Worker { context, mirror, .. } = worker;
    block_in_place(|| context.store.outrun_views())?;
    let mended = context.publisher().mend(mirror, data).await?;
    let mirror = mirror.name();
    done.repaired.extend(mended.mended.into_iter().map(Repaired::View));
    done.views.extend(mended.left);
    if mended.earlier > 0 {
        done.repaired.push(Repaired::Pool { mirror: mirror.clone(), links: mended.earlier });
    }
    if mended.standby {
        done.repaired.push(Repaired::Standby { mirror: mirror.clone() });
    }
    Ok(())
}

/// Makes bodies of a project again: units from what the trees of a view show, and parts of records from upstream's page, as far
/// as it still says the same. Returns which of them are in the catalog again.
async fn restore_bodies(
    workers: &[Worker<'_>],
    project: &ProjectName,
    lost: &BTreeMap<Blake3, Damage>,
) -> Result<BTreeSet<Blake3>, SyncError> {
    let mut made = BTreeMap::new();
    for worker in workers {
        let named_in = |damage: &Damage| match damage {
            Damage::Body { needed_by, .. } => needed_by.clone(),
            Damage::Catalog { .. } | Damage::Blob { .. } => Vec::new(),
        };
        let labels = lost.values().flat_map(named_in).filter(|(of, _)| of == worker.mirror.name());
        let leaves: BTreeSet<Leaf> = block_in_place(|| {
            let labels: BTreeSet<_> = labels.map(|(_, label)| label).collect();
            let leaves = labels.into_iter().filter_map(|label| leaf_at(&worker.mirror, label, project).transpose());
            leaves.collect::<Result<_, StoreError>>()
        })?;
        block_in_place(|| {
            // What readers get of a held project may be an earlier record than its snapshot's tree names.
            let labels = worker.mirror.labels()?.into_iter();
            let all =
                labels.map(|(label, _)| Ok(leaf_at(&worker.mirror, label, project)?.and_then(|leaf| leaf.record)));
            let records: BTreeSet<_> = all.collect::<Result<Vec<_>, StoreError>>()?.into_iter().flatten().collect();
            records.into_iter().try_for_each(|record| make_units(worker, project, record, &mut made))
        })?;
        let parts = leaves.iter().filter_map(|leaf| leaf.record).flat_map(|record| [record.told, record.seen]);
        if parts.into_iter().any(|part| lost.contains_key(&part))
            && let Ok(Answer::Page { page, .. }) =
                worker.fetcher.patient.page(project, None, Way::Usual, Patience::Again).await
        {
            for leaf in &leaves {
                let (told, mut seen) = page.record.clone().into_parts();
                seen.display = leaf.display.clone();
                made.extend(Record::new(told, seen).into_iter().flat_map(|record| record.to_bodies().into_parts()));
            }
        }
    }
    made.retain(|id, _| lost.contains_key(id));
    let restored = made.keys().copied().collect();
    if let (Some(worker), false) = (workers.first(), made.is_empty()) {
        block_in_place(|| worker.mirror.restore_bodies(made.into_iter().collect()))?;
    }
    Ok(restored)
}

/// How a snapshot lists a project, as far as the snapshot can be read.
fn leaf_at(mirror: &Mirror, label: Label, project: &ProjectName) -> Result<Option<Leaf>, StoreError> {
    let found = match mirror.at_label(label) {
        Ok(Some(recorded)) => mirror.store().find(&recorded.snapshot, project),
        other => other.map(|_| None),
    };
    match found {
        Err(StoreError::Damaged { .. }) => Ok(None),
        leaf => leaf,
    }
}

/// Adds the units that the trees of a view show of a project, as each renderer up to today's may have made them of a record.
fn make_units(
    worker: &Worker<'_>,
    project: &ProjectName,
    record: RecordId,
    made: &mut BTreeMap<Blake3, Vec<u8>>,
) -> Result<(), StoreError> {
    let Worker { context: Context { store, format, .. }, mirror, .. } = worker;
    for ShownRecord { shown, pages, .. } in shown_records(mirror, &**format, project) {
        // The other pages in the view may be damaged.
        let rendered = (format.number(), format.render(&shown));
        let in_view = (1..=format.number()).map(|renderer| (renderer, pages.clone()));
        for (renderer, pages) in in_view.chain([rendered]) {
            let source = Source { record, serial: shown.serial(), renderer };
            if let Some(unit) = unit_of(store, &pages, &shown, source)? {
                let bytes = unit.to_bytes();
                made.insert(Blake3::of(&bytes), bytes);
            }
        }
    }
    Ok(())
}

/// Leaves out the places that name a file which was withdrawn after the check, so that a repair does not bring it back.
/// A withdrawal that comes later is carried out when the mirror's lock is free, and finds the file that came back.
fn leave_withdrawn(workers: &[Worker<'_>], sha256: Sha256, named_by: &mut Vec<Naming>) -> Result<(), StoreError> {
    let Some(Worker { context: Context { store, .. }, .. }) = workers.first() else { return Ok(()) };
    for naming in std::mem::take(named_by) {
        if !store.is_withdrawn_from(&naming.mirror, sha256)? {
            named_by.push(naming);
        }
    }
    Ok(())
}

/// What a tree of a view shows of a project.
pub(crate) struct ShownRecord {
    /// What its pages say.
    pub(crate) shown: Mirrored,
    /// The page that this was read from.
    pub(crate) page: Blake3,
    /// All its pages, by the renderer that made them.
    pub(crate) pages: Vec<Rendered>,
}

/// The records of a project that the trees of a view show, as far as they can be read.
pub(crate) fn shown_records(mirror: &Mirror, format: &dyn Format, project: &ProjectName) -> Vec<ShownRecord> {
    let path = format.record_path(project);
    let read = |copy: PathBuf| {
        let bytes = std::fs::read(&copy).ok()?;
        let shown = format.read(&bytes).ok()?;
        let in_view = |page: Rendered| {
            let bytes = std::fs::read(copy.with_file_name(page.path.file_name())).map_or(page.bytes, Into::into);
            Rendered { bytes, ..page }
        };
        let pages = format.render(&shown).into_iter().map(in_view).collect();
        Some(ShownRecord { shown, page: Blake3::of(&bytes), pages })
    };
    strandline_view::copies(mirror, &path).into_iter().filter_map(read).collect()
}

/// The unit of a project that is shown so by these pages; `None` where the store has never had one of its files.
pub(crate) fn unit_of(
    store: &Store,
    pages: &[Rendered],
    shown: &Mirrored,
    source: Source,
) -> Result<Option<Unit>, StoreError> {
    let mut entries = Vec::new();
    for Rendered { path, bytes } in pages {
        let (blob, sha256, size) = (Blake3::of(bytes), Sha256::of(bytes), bytes.len() as u64);
        entries.push(Entry { path: path.clone(), blob, sha256, size });
    }
    for (.., placed) in shown.files() {
        for (path, sha256) in placed.paths() {
            let Some(blob) = store.blob_of(sha256)? else { return Ok(None) };
            entries.push(blob.at(path));
        }
    }
    Ok(Unit::new(shown.record().name().clone(), source, entries).ok())
}

/// Why a blob cannot be had: what each upstream did that was asked.
type Asked = Vec<(UpstreamUrl, FetchError)>;

/// Puts a blob in its place again; returns where it is from and where what stood there is now, or why not.
async fn restore(
    workers: &[Worker<'_>],
    lost: &Lost,
) -> Result<Result<(BytesFrom, Option<PathBuf>), Asked>, SyncError> {
    let Some(owner) = lost.named_by.iter().find_map(|naming| worker_of(workers, &naming.mirror)) else {
        return Ok(Err(Asked::new()));
    };
    let found = match block_in_place(|| at_hand(workers, owner, lost))? {
        Some(found) => found,
        None => match fetch(workers, owner, lost).await? {
            Ok(found) => found,
            Err(asked) => return Ok(Err(asked)),
        },
    };
    let (staged, from) = found;
    block_in_place(|| {
        let (_, aside) = owner.fetcher.batches.intake.restore(staged)?;
        for Worker { mirror, .. } in workers {
            let of_mirror = lost.named_by.iter().filter(|naming| naming.mirror == *mirror.name());
            let paths: BTreeMap<_, _> = of_mirror.map(|naming| (naming.path.clone(), lost.blob)).collect();
            strandline_view::restock(mirror, paths)?;
        }
        Ok(Ok((from, aside)))
    })
}

fn worker_of<'a, 'b>(workers: &'a [Worker<'b>], mirror: &MirrorName) -> Option<&'a Worker<'b>> {
    workers.iter().find(|worker| worker.context.settings.mirror == *mirror)
}

type Found = (Staged, BytesFrom);

/// The bytes of a blob from what is on this disk.
fn at_hand(workers: &[Worker<'_>], owner: &Worker<'_>, lost: &Lost) -> Result<Option<Found>, SyncError> {
    let store = &owner.context.store;
    let intake = &owner.fetcher.batches.intake;
    let copy =
        |path: &PathBuf| intake.stage_copy(path, lost.blob, lost.sha256).map_err(|error| not_stored(lost, error));
    if let Some(staged) = copy(&store.blob_path(lost.blob))? {
        return Ok(Some((staged, BytesFrom::Itself)));
    }
    let mut seen = BTreeSet::new();
    for naming in &lost.named_by {
        let Some(mirror) = store.mirror(&naming.mirror)? else { continue };
        for path in strandline_view::copies(&mirror, &naming.path) {
            if seen.insert(path.clone())
                && let Some(staged) = copy(&path)?
            {
                return Ok(Some((staged, BytesFrom::Copy(path))));
            }
        }
    }
    let mut units = BTreeSet::new();
    for naming in lost.named_by.iter().filter(|naming| is_page(&naming.path)) {
        let Some(worker) = worker_of(workers, &naming.mirror).filter(|_| units.insert(naming.unit)) else { continue };
        let format = &*worker.context.format;
        // A record that is damaged itself makes no page.
        let unit = store.unit(naming.unit).map_err(RecordError::from);
        let shown = unit.and_then(|unit| stored::shown_by(&unit, stored::record_of(store, &unit)?, format));
        if let Ok(shown) = shown
            && let Some(staged) = rendered(format, intake, &shown, lost)?
        {
            return Ok(Some((staged, BytesFrom::Record(naming.project.clone()))));
        }
    }
    Ok(None)
}

/// Whether each place that names a blob is a page of a mirror at hand that another renderer than today's made.
fn is_of_another_renderer(workers: &[Worker<'_>], named_by: &[Naming]) -> Result<bool, StoreError> {
    for Naming { mirror, unit, path, .. } in named_by {
        let Some(Worker { context: Context { store, format, .. }, .. }) = worker_of(workers, mirror) else {
            return Ok(false);
        };
        let source = store.undamaged_units(&[*unit])?.into_iter().flatten().find_map(|unit| unit.source());
        if !is_page(path) || source.is_none_or(|source| source.renderer == format.number()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The page of a record that has the blob's bytes, if one has.
fn rendered(format: &dyn Format, intake: &Intake, record: &Mirrored, lost: &Lost) -> Result<Option<Staged>, SyncError> {
    let page = format.render(record).into_iter().find(|page| Blake3::of(&page.bytes) == lost.blob);
    page.map(|page| intake.stage(&page.bytes).map_err(|error| StoreError::from(error).into())).transpose()
}

fn not_stored(lost: &Lost, source: ReceiveError) -> SyncError {
    let naming = lost.named_by.first();
    match (naming, source) {
        (_, ReceiveError::Disk(error)) => StoreError::from(error).into(),
        (Some(Naming { project, path, .. }), source) => {
            FetchError::Store { project: project.clone(), filename: path.file_name().to_owned(), source }.into()
        }
        // A check reports a blob as damaged only if a snapshot names it.
        (None, source) => StoreError::from(strandline_durable::DiskError::new(
            "restore the blob",
            std::path::Path::new(&lost.blob.to_string()),
            std::io::Error::other(source),
        ))
        .into(),
    }
}

/// The bytes of a blob from upstream: the mirror's own, then those of other mirrors; or why they cannot be had.
async fn fetch(workers: &[Worker<'_>], owner: &Worker<'_>, lost: &Lost) -> Result<Result<Found, Asked>, SyncError> {
    let mut refused = Asked::new();
    let others = workers.iter().filter(|worker| {
        // No other upstream is told what a private mirror has, not even the name of a file.
        worker.context.settings.mirror != owner.context.settings.mirror
            && owner.context.settings.access == Access::Public
    });
    let mut asked = BTreeSet::new();
    for worker in std::iter::once(owner).chain(others) {
        let upstream = worker.context.upstream.url();
        // No upstream has the pages of a mirror.
        for naming in lost.named_by.iter().filter(|naming| !is_page(&naming.path)) {
            if !asked.insert((upstream.as_str(), &naming.project)) {
                continue;
            }
            match fetch_from(worker, naming, lost).await {
                Ok(staged) => return Ok(Ok((staged, BytesFrom::Upstream(upstream.clone())))),
                Err(SyncError::Fetch(error)) if error.is_upstreams() => refused.push((upstream.clone(), *error)),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(match block_in_place(|| inside(workers, owner, lost))? {
        Some(found) => Ok(found),
        None => Err(refused),
    })
}

/// The metadata that is lost, out of the file that it is of.
fn inside(workers: &[Worker<'_>], owner: &Worker<'_>, lost: &Lost) -> Result<Option<Found>, SyncError> {
    let store = &owner.context.store;
    for naming in &lost.named_by {
        let (Some(path), Some(worker)) =
            (naming.path.as_str().strip_suffix(".metadata"), worker_of(workers, &naming.mirror))
        else {
            continue;
        };
        let unit = store.undamaged_units(&[naming.unit])?.into_iter().flatten().next();
        let Some(file) = unit.as_ref().and_then(|unit| unit.entry(path)) else { continue };
        let Ok(name) = FileName::of(&naming.project, file.path.file_name()) else { continue };
        let Ok(mut bytes) = store.open_blob(file.blob) else { continue };
        if let Some(found) = worker.context.format.metadata_inside(&name, &mut bytes)
            && Blake3::of(&found) == lost.blob
        {
            let staged = owner.fetcher.batches.intake.stage(&found).map_err(StoreError::from)?;
            return Ok(Some((staged, BytesFrom::Inside(file.path.clone()))));
        }
    }
    Ok(None)
}

async fn fetch_from(worker: &Worker<'_>, naming: &Naming, lost: &Lost) -> Result<Staged, SyncError> {
    let project = &naming.project;
    let gone =
        |problem: &str| SyncError::from(FetchError::Unusable { project: project.clone(), problem: problem.to_owned() });
    let Answer::Page { page, .. } = worker.fetcher.patient.page(project, None, Way::Usual, Patience::Again).await?
    else {
        return Err(gone("upstream has it no more"));
    };
    let url = url_of(naming, lost, &page).ok_or_else(|| gone("upstream lists the file no more"))?;
    Ok(worker.fetcher.refetch(project, naming.path.file_name(), &url, (lost.sha256, lost.size)).await?)
}

/// The URL at which upstream has a file: as its page says, or, if the file is not listed any more, beside those that
/// are.
fn url_of(naming: &Naming, lost: &Lost, page: &Page) -> Option<String> {
    let name = naming.path.file_name();
    if let Some((file, ..)) = page.record.files().find(|(_, told, _)| told.sha256 == Some(lost.sha256.into())) {
        return page.url(file);
    }
    if let Some(name) = name.strip_suffix(".metadata")
        && let Some((file, seen)) = page.record.seen().files.get_key_value(name)
        && seen.core_metadata != CoreMetadata::Absent
    {
        return page.url(file).as_deref().map(metadata_url);
    }
    let url = page.record.seen().files.values().next()?.url.as_ref()?;
    let top = url.find("/packages/")?;
    Some(format!("{}/{}", &url[..top], naming.path))
}
