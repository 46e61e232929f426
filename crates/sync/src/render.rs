//! Making all pages of a mirror anew, by today's renderer.
//!
//! The newest snapshot gets a revision: the same state of upstream at the same time, with pages made of the same records,
//! files and inputs. Nothing is asked of upstream. A large mirror takes several revisions, each of which is a whole
//! snapshot: so memory is bounded, and a process that dies has the work of the earlier ones behind it.

use std::collections::BTreeMap;

use rayon::prelude::*;
use strandline_model::{
    Blake3, Label, Leaf, ProjectName, Record, RecordId, Rendered, RootList, Source, TreePath, Unit,
};
use strandline_store::{DraftUnit, Intake, Locked, Recorded, Staged, StoreError, Verified};
use strandline_view::Freeze;
use tokio::task::block_in_place;

use crate::fetch::unusable;
use crate::stored::{self, RecordError};
use crate::{Context, SyncError, withdrawn};

/// How many projects' pages become durable together.
const BATCH: usize = 512;

/// What was made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// The snapshot whose place was taken.
    pub before: Label,
    /// The revision that took it.
    pub label: Label,
    /// How many projects have other pages, or pages by another renderer, than before.
    pub projects: usize,
    /// Whether readers see it: not if an operator went back to an earlier serial.
    pub published: bool,
}

/// Makes the pages of a mirror's newest snapshot anew and publishes them; `None` where there is nothing to do. Needs a
/// multi-threaded runtime: disk work is done in place.
pub async fn render(context: &Context) -> Result<Option<Made>, SyncError> {
    let Context { store, settings, .. } = context;
    let mirror = block_in_place(|| store.lock(&settings.mirror, settings.wait, context.now()))?;
    strandline_view::repair(&mirror)?;
    withdrawn::finish(context, &mirror)?;
    let Some(base) = mirror.latest_verified()? else { return Ok(None) };
    let _until_published = store.postpone_log_copy()?;
    let revised = block_in_place(|| {
        let intake = Intake::open(&mirror, settings.access)?;
        Rendering { context, mirror: &mirror, intake }.revise(&base)
    })?;
    let Some((revision, projects)) = revised else { return Ok(None) };
    let publisher = context.publisher();
    let sealed = publisher.seal(revision);
    let mut published = publisher.publish(&mirror, &sealed, Freeze::Keep).await?.is_some();
    if !published {
        // An operator went back, perhaps to this serial: what readers see is of no snapshot that is superseded.
        block_in_place(|| publisher.follow_revisions(&mirror))?;
        published = mirror.view_state()?.is_some_and(|state| state.snapshot == sealed.id());
    }
    Ok(Some(Made { before: base.snapshot.label, label: sealed.snapshot().label, projects, published }))
}

struct Rendering<'a> {
    context: &'a Context,
    mirror: &'a Locked,
    intake: Intake,
}

impl Rendering<'_> {
    /// The revision that takes the place of `base`, and how many projects it has differently; `None` if it has none.
    fn revise(&self, base: &Recorded) -> Result<Option<(Verified, usize)>, SyncError> {
        let Context { store, format, settings, .. } = self.context;
        let inputs = store.inputs(&base.snapshot)?;
        let (mut newest, mut lists) = (None::<Verified>, None::<Vec<RootList>>);
        let (mut after, mut projects) = (String::new(), 0);
        let mut left = usize::try_from(base.snapshot.projects).unwrap_or(usize::MAX);
        while left > 0 {
            let leaves = store.leaves_after(&base.snapshot, &after, left.min(settings.render_at_once.max(1)))?;
            let Some(last) = leaves.last() else { break };
            last.name.as_str().clone_into(&mut after);
            left -= leaves.len();
            let mut changes = BTreeMap::new();
            for batch in leaves.chunks(BATCH) {
                changes.extend(self.batch(batch)?);
            }
            if changes.is_empty() {
                continue;
            }
            projects += changes.len();
            let anew = leaves.iter().filter_map(|leaf| {
                let draft = changes.get(&leaf.name)?.as_ref()?;
                Some((leaf.name.clone(), leaf.unit?, draft.leaf().unit?))
            });
            let anew: Vec<_> = anew.collect();
            let before = newest.as_ref().map_or_else(|| Ok(base.clone()), |newest| store.recorded(newest.id()))?;
            // All revisions list the same projects at the same serials.
            let lists = |serial, all: &[_]| {
                lists.get_or_insert_with(|| strandline_view::root_lists(&**format, serial, all)).clone()
            };
            let revision = self.mirror.revise(&before, inputs.clone(), changes, lists)?;
            self.mirror.supersede(&[(before.id, revision.id())])?;
            // Upstream may go on saying that nothing changed.
            self.mirror.carry_validators(&anew)?;
            newest = Some(revision);
        }
        Ok(newest.map(|newest| (newest, projects)))
    }

    /// Those of some projects whose pages today's renderer makes otherwise, or did not make, with the pages that it makes. The
    /// blobs of these are in the store.
    fn batch(&self, leaves: &[Leaf]) -> Result<BTreeMap<ProjectName, Option<DraftUnit>>, SyncError> {
        let store = &self.context.store;
        let leaves: Vec<_> = leaves.iter().filter_map(|leaf| Some((leaf, leaf.unit?, leaf.record?))).collect();
        let units = store.units(&leaves.iter().map(|(_, unit, _)| *unit).collect::<Vec<_>>())?;
        // What a unit shows may be an earlier record than the leaf's.
        let of_unit = |(unit, (.., record)): (&Unit, &(_, _, _))| unit.source().map_or(*record, |source| source.record);
        let records = store.records(&units.iter().zip(&leaves).map(of_unit).collect::<Vec<_>>())?;
        let work: Vec<_> = leaves.into_iter().zip(units).zip(records).collect();
        let made = work.into_par_iter().map(|(((leaf, _, id), unit), record)| self.project((leaf, id), unit, record));
        let (mut drafts, mut staged) = (Vec::new(), Vec::new());
        for Anew { leaf, record, source, files, pages } in made.collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
            let (paths, of_pages): (Vec<_>, Vec<_>) = pages.into_iter().unzip();
            staged.extend(of_pages);
            drafts.push((leaf, record, source, files, paths));
        }
        let mut blobs = self.intake.land(staged)?.into_iter();
        let drafts = drafts.into_iter().map(|(leaf, record, source, files, paths)| {
            let mut entries: Vec<_> =
                files.entries().iter().filter(|entry| !stored::is_page(&entry.path)).cloned().collect();
            entries.extend(paths.into_iter().zip(&mut blobs).map(|(path, blob)| blob.at(path)));
            let unit = Unit::new(leaf.name.clone(), source, entries).expect("pages and files stand at different paths");
            let Leaf { name, listed, logged, serial, display, .. } = leaf.clone();
            let (unit, bodies) = (Some(unit), Vec::new());
            (name, Some(DraftUnit { unit, record, bodies, serial, display, listed, logged }))
        });
        Ok(drafts.collect())
    }

    /// A project with the pages that today's renderer makes; `None` where it has these already.
    fn project<'a>(
        &self,
        (leaf, id): (&'a Leaf, RecordId),
        unit: Unit,
        record: Record,
    ) -> Result<Option<Anew<'a>>, SyncError> {
        let format = &*self.context.format;
        let shown = stored::shown_by(&unit, record, format).map_err(|error| match error {
            RecordError::Store(error) => error.into(),
            error => SyncError::from(unusable(&leaf.name, error.to_string())),
        })?;
        let Some(source) = unit.source() else { return Ok(None) };
        let pages = format.render(&shown);
        let there = unit.entries().iter().filter(|entry| stored::is_page(&entry.path));
        let is_there = |page: &Rendered| {
            let entry = unit.entry(page.path.as_str());
            entry.is_some_and(|entry| entry.blob == Blake3::of(&page.bytes))
        };
        if source.renderer == format.number() && there.count() == pages.len() && pages.iter().all(is_there) {
            return Ok(None);
        }
        let stage = |page: Rendered| Ok::<_, StoreError>((page.path, self.intake.stage(&page.bytes)?));
        let pages = pages.into_iter().map(stage).collect::<Result<_, _>>()?;
        let source = Source { renderer: format.number(), ..source };
        Ok(Some(Anew { leaf, record: id, source, files: unit, pages }))
    }
}

/// A project whose pages were made anew.
struct Anew<'a> {
    leaf: &'a Leaf,
    /// The record that the leaf names.
    record: RecordId,
    source: Source,
    /// The unit that has its files.
    files: Unit,
    pages: Vec<(TreePath, Staged)>,
}
