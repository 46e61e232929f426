//! Projects that are broken, and carried at their last good state.

use std::collections::BTreeMap;
use std::sync::Arc;

use strandline_model::{Held, HoldReason, ProjectName, Serial};

use super::{Followed, Following, Holding};
use crate::cut::{self, File};
use crate::{Fetcher, Stored, SyncError, Whole};

impl Following<'_> {
    /// The projects that were held at the base and still lack the page that they need: the sync does not wait for them
    /// again.
    pub(super) fn still_held(&mut self, target: Serial) -> Holding {
        let held = self.projects.iter().filter_map(|(name, followed)| Some((name.clone(), followed.held.clone()?)));
        let held: Holding = held.collect();
        if held.is_empty() {
            return held;
        }
        for name in held.keys() {
            self.go_on_without_files(name);
        }
        let found = self.cut(target, &Holding::new());
        held.into_iter().filter(|(name, _)| found.in_the_way.contains_key(name)).collect()
    }

    /// Leaves out the files of a project that could not be had, unless none could.
    pub(super) fn go_on_without_files(&mut self, name: &ProjectName) {
        let Some(Followed { project, lacking, .. }) = self.projects.get_mut(name) else { return };
        let is_here = |file: &File<Stored>| file.content.as_ref().is_ok_and(|stored| stored.placed().is_some());
        let newest = project.pages.last().map(|page| &page.content);
        if lacking.is_empty() || !newest.is_some_and(|newest| newest.files.values().any(is_here)) {
            return;
        }
        for (name, file) in project.pages.iter_mut().flat_map(|page| &mut page.content.files) {
            if file.content.as_ref().is_err_and(|reason| reason.is_of_files())
                && let Some(stored) = lacking.get(name)
            {
                file.content = Ok(stored.clone());
            }
        }
    }

    /// The projects that have stood in the way for longer than `hold_after`.
    pub(super) fn broken(&self, in_the_way: &BTreeMap<ProjectName, cut::Obstacle>) -> Result<Holding, SyncError> {
        let Fetcher { mirror, settings, clock, .. } = &**self.fetcher;
        let now = clock();
        let names = in_the_way.keys().cloned().collect();
        let noted = mirror.note_trouble(&names, now)?;
        let mut broken = Holding::new();
        for (name, obstacle) in in_the_way {
            let event = self.log.of(name).iter().find(|change| change.serial >= obstacle.since);
            let since = event.map_or(noted[name], |change| change.time);
            if now.since(since) >= settings.hold_after {
                let followed = &self.projects[name];
                let reason = match (&followed.failure, obstacle.hold_reason()) {
                    (Some(failure), HoldReason::PageMissing) => failure.hold_reason(),
                    (_, reason) => reason,
                };
                let at = followed.leaf.as_ref().map_or(Serial::ZERO, |leaf| leaf.serial);
                broken.insert(name.clone(), Held { name: name.clone(), reason, at, needs: obstacle.needs, since });
            }
        }
        Ok(broken)
    }

    /// Carries a held project at its last good state; returns that state's serial, or zero if there is none.
    pub(super) fn carry(
        &self,
        name: &ProjectName,
        serial: Serial,
        changes: &mut BTreeMap<ProjectName, Option<Arc<Whole>>>,
    ) -> Result<Serial, SyncError> {
        let followed = &self.projects[name];
        let Some(leaf) = &followed.leaf else { return Ok(Serial::ZERO) };
        let good = self.fetcher.base_content(leaf)?;
        let content = cut::carried(&good, leaf.serial, self.log.of(name), serial, self.fetcher.releases_of(name));
        let kept = if content.is_some() { leaf.serial } else { Serial::ZERO };
        if content.as_ref() != Some(&good) {
            let display = followed.display.clone();
            let whole =
                content.map(|content| Arc::new(Whole { display, serial: Some(leaf.serial), content, validator: None }));
            changes.insert(name.clone(), whole);
        }
        Ok(kept)
    }
}
