//! From what was fetched to the units of a snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;
use strandline_model::{
    Blake3, ClaimedSha256, DisplayName, Entry, Leaf, Mirrored, ProjectName, Rendered, Serial, Sha256, Unit,
};
use strandline_store::{DraftUnit, SeenPage, StoreError, Validation};
use tokio::task::block_in_place;

use super::error::unusable;
use super::{FetchError, Fetcher};
use crate::stored::{self, Stored, Whole};
use crate::upstream::Validator;
use crate::{Selection, SyncError};

/// The units that a draft changes; `None` for those that go.
type Units = BTreeMap<ProjectName, Option<DraftUnit>>;

impl Fetcher {
    /// Renders the pages of what was fetched, makes everything durable, and returns the units that are not the base's.
    /// `serial` is the cut's: the serial of projects whose pages have none.
    pub fn finish(
        &self,
        serial: Serial,
        changes: BTreeMap<ProjectName, Option<Arc<Whole>>>,
    ) -> Result<(Units, Vec<Validation>), SyncError> {
        let one = |(project, change): (ProjectName, Option<Arc<Whole>>)| {
            let base = self.base_leaf(&project)?;
            let Some(whole) = change else { return Ok((base.map(|_| (project, None)), None)) };
            let unit = self.unit(&project, serial, &whole, base.as_ref())?;
            let id = Blake3::of(&unit.unit.to_bytes());
            let validation =
                whole.validator.clone().map(|Validator(tag)| Validation { project: project.clone(), unit: id, tag });
            let same = base.is_some_and(|base| base.unit == id && base.serial == unit.serial);
            Ok::<_, SyncError>(((!same).then_some((project, Some(unit))), validation))
        };
        block_in_place(|| {
            let (mut units, mut validations) = (BTreeMap::new(), Vec::new());
            for (unit, validation) in changes.into_par_iter().map(one).collect::<Result<Vec<_>, _>>()? {
                units.extend(unit);
                validations.extend(validation);
            }
            self.land()?;
            Ok((units, validations))
        })
    }

    /// Makes what was fetched durable and remembers it for a later sync; returns how a snapshot would list it.
    pub fn remember(&self, fetched: Vec<(ProjectName, Whole)>) -> Result<Vec<Leaf>, SyncError> {
        if fetched.is_empty() {
            return Ok(Vec::new());
        }
        block_in_place(|| {
            let (mut pages, mut leaves) = (Vec::new(), Vec::new());
            for (project, whole) in fetched {
                let serial = whole.serial.unwrap_or(Serial::ZERO);
                let DraftUnit { unit, serial, display } = match self.unit(&project, serial, &whole, None) {
                    Ok(draft) => draft,
                    // What cannot be used stands in the way when its turn comes.
                    Err(SyncError::Fetch(error)) if error.is_upstreams() => continue,
                    Err(error) => return Err(error),
                };
                let id = Blake3::of(&unit.to_bytes());
                leaves.push(Leaf { unit: id, serial, name: project, display });
                pages.push(SeenPage { unit, serial, tag: whole.validator.map(|Validator(tag)| tag) });
            }
            self.land()?;
            self.mirror.record_seen(&pages)?;
            Ok(leaves)
        })
    }

    /// Makes everything durable that was staged.
    fn land(&self) -> Result<(), StoreError> {
        self.batches.finish(self.base.is_some())
    }

    /// Renders a project's pages into the store and lists everything it has.
    fn unit(
        &self,
        project: &ProjectName,
        cut: Serial,
        whole: &Whole,
        base: Option<&Leaf>,
    ) -> Result<DraftUnit, SyncError> {
        let display = self.display_name(project, &whole.display);
        let mut new = stored::mirrored(project, &display, whole.serial.unwrap_or(cut), &whole.content)?;
        new = self.unwithdrawn(new)?;
        // Where the index has no serials, a project that did not change keeps the count at which it last changed.
        if let (None, Some(base)) = (whole.serial, base)
            && let Some(old) = self.record(&self.store.unit(base.unit)?)?
        {
            let same = new.clone().at(old.serial());
            if self.format.render(&same) == self.format.render(&old) {
                new = same;
            }
        }
        let stored = whole.content.files.values().filter_map(|file| file.content.as_ref().ok());
        let stays = |stored: &&Stored| new.record().told().files.contains_key(stored.name());
        let mut entries: Vec<Entry> = stored.filter(stays).flat_map(Stored::entries).cloned().collect();
        entries.extend(self.pages(&new)?);
        let unit = Unit::new(project.clone(), entries).map_err(|error| unusable(project, error.to_string()))?;
        Ok(DraftUnit { unit, serial: new.serial(), display })
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

    /// How the owner writes the name: as upstream says, unless that is the normalised form only and the configuration
    /// knows better.
    fn display_name(&self, project: &ProjectName, display: &DisplayName) -> DisplayName {
        match &self.settings.selection {
            Selection::Projects(names) if display.as_str() == project.as_str() => {
                names.get(project).unwrap_or(display).clone()
            }
            _ => display.clone(),
        }
    }
}
