//! From what was fetched to the units of a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use rayon::prelude::*;
use strandline_model::{
    ClaimedSha256, DisplayName, Entry, Inputs, Leaf, Mirrored, ProjectName, Record, RecordBodies, RecordId, Rendered,
    Serial, Sha256, Shown, Source, Unit, show,
};
use strandline_store::{DraftUnit, Remarks, StoreError, Validation};
use tokio::task::block_in_place;

use super::error::unusable;
use super::{FetchError, Fetcher};
use crate::cut::Content;
use crate::stored::{self, Earlier, Logged, Stored, Whole};
use crate::upstream::Validator;
use crate::{Selection, SyncError};

/// The units that a draft changes; `None` for those that go.
type Units = BTreeMap<ProjectName, Option<DraftUnit>>;

/// What was fetched, as a draft of a snapshot has it.
pub(crate) struct Finished {
    pub(crate) units: Units,
    /// What decides what of the records is shown.
    pub(crate) inputs: Inputs,
    pub(crate) validations: Vec<Validation>,
    /// The projects whose told part changed without an event.
    pub(crate) unlogged: BTreeSet<ProjectName>,
}

impl Fetcher {
    /// Renders the pages of what was fetched, makes everything durable, and returns the units that are not the base's.
    /// `serial` is the cut's: the serial of projects whose pages have none.
    pub(crate) fn finish(
        &self,
        serial: Serial,
        changes: BTreeMap<ProjectName, Option<Arc<Whole>>>,
    ) -> Result<Finished, SyncError> {
        block_in_place(|| {
            let inputs = self.inputs(&changes)?;
            let one = |(project, change): (ProjectName, Option<Arc<Whole>>)| {
                let base = self.base_leaf(&project)?;
                let Some(whole) = change else {
                    self.remark(&project, Remarks::default());
                    return Ok((base.map(|_| (project, None)), None, None));
                };
                let unit = self.unit(&project, serial, &whole, base.as_ref(), &inputs)?;
                let leaf = unit.leaf();
                let validation = whole.validator.clone().zip(leaf.unit);
                let validation =
                    validation.map(|(Validator(tag), unit)| Validation { project: project.clone(), unit, tag });
                let unlogged = whole.logged == Logged::IfSame && !is_told_as(base.as_ref(), unit.record);
                let unlogged = unlogged.then(|| project.clone());
                let same = base.is_some_and(|base| base == leaf);
                Ok::<_, SyncError>(((!same).then_some((project, Some(unit))), validation, unlogged))
            };
            let (mut units, mut validations, mut unlogged) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
            for (unit, validation, name) in changes.into_par_iter().map(one).collect::<Result<Vec<_>, _>>()? {
                units.extend(unit);
                validations.extend(validation);
                unlogged.extend(name);
            }
            self.land()?;
            Ok(Finished { units, inputs, validations, unlogged })
        })
    }

    /// What decides what of the records is shown, where these projects change.
    fn inputs(&self, changes: &BTreeMap<ProjectName, Option<Arc<Whole>>>) -> Result<Inputs, SyncError> {
        let mut inputs = Inputs { withdrawn: self.mirror.withdrawn()?, ..self.base_inputs.clone() };
        inputs.lacking.retain(|(project, _), _| !changes.contains_key(project));
        for (project, whole) in changes {
            match whole.as_deref() {
                None | Some(Whole { earlier: Some(Earlier::Nothing), .. }) => {}
                Some(
                    Whole { content, earlier: None, .. } | Whole { earlier: Some(Earlier::State(.., content)), .. },
                ) => {
                    add_lacking(&mut inputs, project, content);
                }
            }
        }
        Ok(inputs)
    }

    /// Makes what was fetched durable and remembers it for a later sync; returns how a snapshot would list it.
    pub fn remember(&self, fetched: Vec<(ProjectName, Whole)>) -> Result<Vec<Leaf>, SyncError> {
        if fetched.is_empty() {
            return Ok(Vec::new());
        }
        block_in_place(|| {
            let withdrawn = self.mirror.withdrawn()?;
            let (mut pages, mut leaves) = (Vec::new(), Vec::new());
            for (project, whole) in fetched {
                let mut inputs = Inputs { withdrawn: withdrawn.clone(), ..Inputs::default() };
                add_lacking(&mut inputs, &project, &whole.content);
                let serial = whole.serial.unwrap_or(Serial::ZERO);
                let draft = match self.unit(&project, serial, &whole, None, &inputs) {
                    Ok(draft) => draft,
                    // What cannot be used stands in the way when its turn comes.
                    Err(SyncError::Fetch(error)) if error.is_upstreams() => continue,
                    Err(error) => return Err(error),
                };
                leaves.push(draft.leaf());
                pages.push((draft, whole.validator.map(|Validator(tag)| tag)));
            }
            self.land()?;
            self.mirror.record_seen(pages)?;
            Ok(leaves)
        })
    }

    /// Makes everything durable that was staged, and notes what the pages say that is not used.
    fn land(&self) -> Result<(), StoreError> {
        let remarks = std::mem::take(&mut *self.remarks.lock().unwrap_or_else(PoisonError::into_inner));
        self.mirror.note_remarks(&remarks)?;
        self.batches.finish(self.base.is_some())
    }

    /// A project as a draft has it: its pages rendered into the store, and everything listed that it shows.
    fn unit(
        &self,
        project: &ProjectName,
        cut: Serial,
        whole: &Whole,
        base: Option<&Leaf>,
        inputs: &Inputs,
    ) -> Result<DraftUnit, SyncError> {
        let display = self.display_name(project, &whole.display, base);
        let record = stored::record(project, &display, &whole.content)?;
        let serial = match (whole.serial, base) {
            (Some(serial), _) => serial,
            // Where the index has no serials, a record that did not change keeps its count, and its files may come later.
            (None, Some(base)) if self.base_held(project).is_some() && base.record == Some(record.to_bodies().id()) => {
                base.serial
            }
            (None, _) => cut,
        };
        let Some(earlier) = &whole.earlier else {
            let counted = base.filter(|_| whole.serial.is_none());
            let (unit, bodies, listed) = self.shown(&record, serial, &whole.content, counted, inputs)?;
            let serial = unit.source().map_or(serial, |source| source.serial);
            let (unit, record, bodies) = (Some(unit), bodies.id(), vec![bodies]);
            let logged = is_logged(whole.logged, base, record);
            return Ok(DraftUnit { unit, record, bodies, serial, display, listed, logged });
        };
        let newest = record.to_bodies();
        let (record, mut bodies, mut unit, mut listed) = (newest.id(), vec![newest], None, false);
        if let Earlier::State(display, serial, content) = earlier {
            let earlier = stored::record(project, display, content)?;
            let (shown, of_earlier, is_listed) = self.shown(&earlier, *serial, content, None, inputs)?;
            bodies.push(of_earlier);
            (unit, listed) = (Some(shown), is_listed);
        }
        let logged = is_logged(whole.logged, base, record);
        Ok(DraftUnit { unit, record, bodies, serial, display, listed, logged })
    }

    /// What readers get of a record, the record's bodies, and whether the root lists name it. `counted` is the base's line where the
    /// index has no serials.
    fn shown(
        &self,
        record: &Record,
        serial: Serial,
        content: &Content<Stored>,
        counted: Option<&Leaf>,
        inputs: &Inputs,
    ) -> Result<(Unit, RecordBodies, bool), SyncError> {
        let project = record.name();
        let Shown { record: shown, serial, hidden, listed } = show(record, serial, inputs, &*self.format);
        if !hidden.is_empty() {
            let withdrawn = record.files().filter_map(|(_, told, _)| told.sha256);
            let withdrawn = withdrawn.filter(|sha256| inputs.withdrawn.contains(sha256)).collect();
            self.mirror.note_left_out(project, &withdrawn)?;
        }
        let stored = content.files.values().filter_map(|file| file.content.as_ref().ok());
        let shown_files: Vec<_> = stored.filter(|stored| !hidden.contains_key(stored.name())).collect();
        let placed = shown_files.iter().filter_map(|stored| Some((stored.name().clone(), stored.placed()?)));
        let mut mirrored =
            Mirrored::new(shown, serial, placed.collect()).map_err(|error| unusable(project, error.to_string()))?;
        // Where the index has no serials, a project that did not change keeps the count at which it last changed.
        if let Some(base) = counted
            && let Some(unit) = self.base_unit(base)?
            && let Some(source) = unit.source()
        {
            let old = stored::shown_by(&unit, self.record(&unit)?, &*self.format);
            let same = mirrored.clone().at(source.serial);
            if old.is_ok_and(|old| self.format.render(&same) == self.format.render(&old)) {
                mirrored = same;
            }
        }
        let mut entries: Vec<Entry> = shown_files.into_iter().flat_map(Stored::entries).cloned().collect();
        entries.extend(self.pages(&mirrored)?);
        let bodies = record.to_bodies();
        let source = Source { record: bodies.id(), serial: mirrored.serial(), renderer: self.format.number() };
        let unit = Unit::new(project.clone(), source, entries).map_err(|error| unusable(project, error.to_string()))?;
        Ok((unit, bodies, listed))
    }

    /// Renders the pages of a project into the store, each once.
    fn pages(&self, project: &Mirrored) -> Result<Vec<Entry>, SyncError> {
        let name = project.record().name();
        let rendered = self.format.render(project);
        let mut entries = Vec::with_capacity(rendered.len());
        let digests: Vec<_> = rendered.iter().map(|rendered| Sha256::of(&rendered.bytes)).collect();
        let claims: Vec<_> = digests.iter().map(|sha256| ClaimedSha256::from(*sha256)).collect();
        let mut stored: BTreeMap<Sha256, Entry> = BTreeMap::new();
        for ((Rendered { path, bytes }, sha256), found) in
            rendered.into_iter().zip(digests).zip(self.batches.intake.find_all(&claims)?)
        {
            let entry = match (stored.get(&sha256), found) {
                (Some(entry), _) => Entry { path, ..entry.clone() },
                (None, Some(blob)) => blob.at(path),
                (None, None) => {
                    let staged = self.batches.intake.stage(&bytes).map_err(|source| FetchError::Store {
                        project: name.clone(),
                        filename: path.to_string(),
                        source: source.into(),
                    })?;
                    let entry = staged.at(path);
                    self.batches.add(staged)?;
                    entry
                }
            };
            entries.push(entry.clone());
            stored.insert(sha256, entry);
        }
        Ok(entries)
    }

    /// How the owner writes the name: as upstream says, unless that is the normalised form only, as in pages in JSON. Then it stays as
    /// it was in the base, and is as the configuration writes it in a project's first snapshot.
    fn display_name(&self, project: &ProjectName, display: &DisplayName, base: Option<&Leaf>) -> DisplayName {
        let configured = match &self.settings.selection {
            Selection::Projects(names) => names.get(project),
            Selection::Everything => None,
        };
        if display.as_str() != project.as_str() {
            return display.clone();
        }
        base.map(|leaf| &leaf.display).or(configured).unwrap_or(display).clone()
    }
}

/// Whether upstream tells of a project what the base says that it told.
fn is_told_as(base: Option<&Leaf>, record: RecordId) -> bool {
    base.is_none_or(|leaf| leaf.record.is_some_and(|known| known.told == record.told))
}

fn is_logged(logged: Logged, base: Option<&Leaf>, record: RecordId) -> bool {
    match logged {
        Logged::Yes => true,
        Logged::IfSame => base.is_none_or(|leaf| leaf.logged) && is_told_as(base, record),
        Logged::No => false,
    }
}

/// Adds the files of a project that are to be here and are not.
fn add_lacking(inputs: &mut Inputs, project: &ProjectName, content: &Content<Stored>) {
    let stored = content.files.values().filter_map(|file| file.content.as_ref().ok());
    for stored in stored.filter(|stored| stored.placed().is_none() && !stored.is_skipped()) {
        let sha256 = stored.told().sha256;
        if sha256.is_none_or(|sha256| !inputs.withdrawn.contains(&sha256)) {
            inputs.lacking.insert((project.clone(), stored.name().clone()), sha256);
        }
    }
}
