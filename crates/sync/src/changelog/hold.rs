//! Projects that are broken: carried at their last good state, or shown so until their files can be had.

use std::collections::BTreeMap;
use std::sync::Arc;

use strandline_model::{Blake3, Held, HoldReason, Method, ProjectName, Serial};
use strandline_store::Subject;

use super::{Followed, Following, Holding};
use crate::cut::{self, Base, Content};
use crate::fetch::go_on_without;
use crate::shrunk::Loss;
use crate::stored::Earlier;
use crate::{FetchError, Fetcher, Logged, Stored, SyncError, Whole};

/// In so many rounds a page is asked for in all ways.
const WAYS: u32 = 3;

impl Following<'_> {
    /// The projects that were held for their pages at the base and still lack the page that they need: the sync does not wait for
    /// them again. One that was held for its files waits for none of them either, and is followed by the log where its page says
    /// nothing new.
    pub(super) fn still_held(&mut self, target: Serial) -> Result<Holding, SyncError> {
        let held = self.projects.iter().filter_map(|(name, followed)| Some((name.clone(), followed.held.clone()?)));
        let held: Holding = held.collect();
        if held.is_empty() {
            return Ok(held);
        }
        for name in held.keys() {
            self.go_on_without_files(name);
        }
        let found = self.cut(target, &Holding::new());
        let still = held.into_iter().filter(|(name, _)| found.in_the_way.contains_key(name));
        let (of_files, of_pages): (Holding, Holding) = still.partition(|(_, held)| held.reason.is_of_files());
        for (name, held) in of_files {
            self.follow_from_leaf(&name, held.needs)?;
        }
        Ok(of_pages)
    }

    /// Looks at what new pages have lost, and again at what is doubted: an event that came to light may explain it.
    pub(super) fn look_for_losses(&mut self) -> Result<(), SyncError> {
        let names: Vec<_> = self.projects.keys().cloned().collect();
        names.iter().try_for_each(|name| self.look_for_loss(name).map(drop))
    }

    /// The same for one project; returns whether its newest page is doubted.
    pub(super) fn look_for_loss(&mut self, name: &ProjectName) -> Result<bool, SyncError> {
        let Some(followed) = self.projects.get_mut(name) else { return Ok(false) };
        let Followed { project, leaf: Some(leaf), validates_base: false, .. } = followed else { return Ok(false) };
        let Some(page) = project.pages.last() else { return Ok(false) };
        if matches!(followed.loss, None | Some(Loss::Doubted(_))) && leaf.record.is_some() {
            let loaded;
            let known = if let Base::Known(known) = &project.base {
                known
            } else {
                loaded = self.fetcher.base_content(leaf)?;
                &loaded
            };
            let mut changes = self.log.of(name);
            if self.base.is_none() {
                // The log was read from long before what the mirror has.
                changes = &changes[changes.partition_point(|change| change.serial <= leaf.serial)..];
            }
            let loss = self.fetcher.loss(name, known, changes, &page.content);
            followed.loss = Some(loss);
            project.shrunk = matches!(loss, Loss::Doubted(_));
        }
        Ok(project.shrunk)
    }

    /// How the projects are held whose pages are not believed because of what they have lost, without the serials of what readers
    /// get. Where an event may still explain it, the page is asked for again first.
    pub(super) fn shrunk(&self) -> Holding {
        let hold = |(name, followed): (&ProjectName, &Followed)| {
            let Followed { project, held, loss: Some(Loss::Doubted(since)), .. } = followed else { return None };
            let (last, mut newest) = (self.log.of(name).last().map(|change| change.serial), project.pages.iter().rev());
            let (page, earlier) = (newest.next()?, newest.next());
            if last.is_some_and(|last| last > self.from) && earlier != Some(page) {
                return None;
            }
            let before = held.as_ref().filter(|held| !held.reason.is_of_files());
            let since = before.map_or(*since, |held| held.since);
            let needs = Some(page.serial).max(last).max(before.map(|held| held.needs))?;
            Some((
                name.clone(),
                Held { name: name.clone(), reason: HoldReason::PageShrunk, at: Serial::ZERO, needs, since },
            ))
        };
        self.projects.iter().filter_map(hold).collect()
    }

    /// Follows a project that was held for its files by the log, from what the base's leaf says; not where it needs a later page
    /// than it was held for.
    fn follow_from_leaf(&mut self, name: &ProjectName, needed: Serial) -> Result<(), SyncError> {
        let Followed { project, leaf: Some(leaf), .. } = &self.projects[name] else { return Ok(()) };
        let by_log = self.base.is_some_and(|base| base.snapshot.method == Method::Changelog);
        if !by_log || !matches!(project.base, Base::Unknown(needs) if needs <= needed) {
            return Ok(());
        }
        let mut content = self.fetcher.base_content(leaf)?;
        for (file, known) in &mut content.files {
            let came = project.pages.iter().filter_map(|page| page.content.files.get(file)?.content.as_ref().ok());
            let came = came.filter(|came| came.placed().is_some());
            if let Ok(known) = &mut known.content
                && known.is_lacking()
                && let Some(came) = came.rev().find(|came| came.told().sha256 == known.told().sha256)
            {
                *known = came.clone();
            }
        }
        let from = self.from;
        if let Some(Followed { project, .. }) = self.projects.get_mut(name) {
            (project.base, project.since) = (Base::of(content), from);
        }
        Ok(())
    }

    /// Lets the files of a project that could not be had stand in nothing's way.
    pub(super) fn go_on_without_files(&mut self, name: &ProjectName) {
        let Some(Followed { project, lacking, .. }) = self.projects.get_mut(name) else { return };
        for page in &mut project.pages {
            go_on_without(&mut page.content, lacking);
        }
    }

    /// How a project is held for its files that stands so at `at`; `None` where it is not. Without the serial of what readers get.
    pub(super) fn held_for_files(&self, name: &ProjectName, at: Serial, content: &Content<Stored>) -> Option<Held> {
        let Followed { project, held, lacking, .. } = &self.projects[name];
        let last = self.log.of(name).iter().rfind(|change| change.serial <= at);
        let since = held.as_ref().map(|held| held.since).or(last.map(|change| change.time));
        let since = since.map_or_else(|| (self.fetcher.clock)(), |since| self.fetcher.past(since));
        if !self.fetcher.holds_for_files(name, content, since) {
            return None;
        }
        let before = held.as_ref().map(|held| held.reason).filter(|reason| reason.is_of_files());
        let reason = content.files.keys().find_map(|file| Some(lacking.get(file)?.1)).or(before);
        let (reason, held) = (reason.unwrap_or(HoldReason::FileMissing), held.as_ref().map(|held| held.needs));
        let needs = last.map(|change| change.serial).max(held);
        let needs = needs.or(project.pages.last().map(|page| page.serial)).unwrap_or(Serial::ZERO);
        Some(Held { name: name.clone(), reason, at: Serial::ZERO, needs, since })
    }

    /// The projects that have stood in the way for longer than `hold_after`, without the serials of what readers get; all of them,
    /// if it is to be `at_once`.
    pub(super) fn broken(&self, in_the_way: &BTreeMap<ProjectName, cut::Obstacle>, at_once: bool) -> Holding {
        let Fetcher { settings, clock, .. } = &**self.fetcher;
        let (now, mut sights) = (clock(), self.fetcher.sights());
        sights.retain(|seen| !matches!(seen, Subject::Trouble(name) if !in_the_way.contains_key(name)));
        let mut broken = Holding::new();
        for (name, obstacle) in in_the_way {
            let what = Blake3::of(obstacle.since.to_string().as_bytes());
            let noted = sights.look(Subject::Trouble(name.clone()), what, now);
            let event = self.log.of(name).iter().find(|change| change.serial >= obstacle.since);
            // Of a project that the log does not have, the last event was before all that was read.
            let before_all = || noted.min(self.log.begins().unwrap_or(noted));
            let old = matches!(self.projects[name].project.base, Base::Unknown(_)) && self.log.first(name).is_none();
            let since = event.map_or_else(|| if old { before_all() } else { noted }, |change| change.time);
            // Upstream's clock may be ahead, and this mirror slow to ask.
            let since = since.min(noted);
            let followed = &self.projects[name];
            // What a mirror has that begins anew goes on being shown, from the beginning on.
            let had = self.base.is_none() && followed.leaf.is_some();
            if at_once || had || now.since(since) >= settings.hold_after {
                let reason = match (&followed.failure, obstacle.hold_reason()) {
                    (Some(failure), HoldReason::PageMissing) => failure.hold_reason(),
                    (_, reason) => reason,
                };
                let (at, needs) = (Serial::ZERO, obstacle.needs);
                broken.insert(name.clone(), Held { name: name.clone(), reason, at, needs, since });
            }
        }
        broken
    }

    /// Whether no project that stands in the way will get out of it in this sync: it was asked for in all ways, upstream's answer is
    /// none, and the change that it is wanted for is as old as `hold_after`, or nothing is published yet that could wait.
    pub(super) fn waits_in_vain(&self, in_the_way: &BTreeMap<ProjectName, cut::Obstacle>, round: u32) -> bool {
        let answered = |(name, obstacle): (&ProjectName, &cut::Obstacle)| match &self.projects[name].failure {
            Some(failure) => failure.is_definite(),
            None => obstacle.hold_reason() == HoldReason::PageMissing,
        };
        if in_the_way.is_empty() || round < WAYS || !in_the_way.iter().all(answered) {
            return false;
        }
        let old = self.broken(in_the_way, false);
        // What is not there yet may come.
        let may_come = |name: &ProjectName| self.projects[name].failure.as_ref().is_none_or(FetchError::is_missing);
        let waits = |name: &ProjectName| !old.contains_key(name) && (self.base.is_some() || may_come(name));
        !in_the_way.keys().any(waits)
    }

    /// Carries a held project at its last good state; returns the serial of what readers get, or zero if they get nothing.
    pub(super) fn carry(
        &self,
        name: &ProjectName,
        serial: Serial,
        changes: &mut BTreeMap<ProjectName, Option<Arc<Whole>>>,
    ) -> Result<Serial, SyncError> {
        let followed = &self.projects[name];
        let Some(leaf) = &followed.leaf else { return Ok(Serial::ZERO) };
        let (good, events) = (self.fetcher.base_content(leaf)?, self.log.of(name));
        let Some(content) = cut::carried(&good, leaf.serial, events, serial, self.fetcher.releases_of(name)) else {
            changes.insert(name.clone(), None);
            return Ok(Serial::ZERO);
        };
        // It may have been held for its files before.
        let earlier = match &followed.held {
            Some(held) if held.reason.is_of_files() || held.at != leaf.serial => {
                Some(self.fetcher.earlier(Some(leaf), events, serial)?)
            }
            _ => None,
        };
        let kept = earlier.as_ref().map_or(leaf.serial, Earlier::serial);
        if content != good || earlier.is_some() {
            let (display, serial) = (followed.display.clone(), Some(leaf.serial));
            let logged = if leaf.logged { Logged::Yes } else { Logged::No };
            let whole = Whole { display, serial, content, validator: None, logged, earlier };
            changes.insert(name.clone(), Some(Arc::new(whole)));
        }
        Ok(kept)
    }
}
