//! What a first sync does differently.
//!
//! A first sync can take days, because it fetches everything that upstream has. So it remembers projects in parts, and
//! one that was interrupted goes on where it was. A remembered project is *parked*: the unit that the snapshot will
//! list is in the catalog already, and only its name, id and serial stay in memory. A project is taken out again only
//! if its page is not its state as it stands: it has moved since, the log tells it from its beginning, or its page says an
//! older serial.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use strandline_model::{Leaf, ProjectName, Serial};
use strandline_store::SeenRow;
use tokio::task::JoinSet;

use super::begin::READ_BACK;
use super::pages::Asked;
use super::reading::FAR;
use super::{Following, Parked, back};
use crate::cut::{self, Action, Base, Seen};
use crate::upstream::{Validator, Way};
use crate::{Logged, Selection, SyncError, Whole};

/// As soon as the fetched projects have this many files, they are parked, however few projects they are.
const PARKED_FILES: usize = 4_096;

impl Following<'_> {
    /// The first sync of a mirror: upstream's list says which projects there are.
    pub(super) async fn begin_anew(&mut self) -> Result<(), SyncError> {
        let selection = &self.fetcher.settings.selection;
        let list = self.fetcher.patient.projects().await?;
        let serials = || list.iter().map(|(_, serial)| *serial);
        let greatest = |at_most| serials().filter(|serial| *serial <= at_most).max();
        self.from = serials().max().unwrap_or(Serial::ZERO);
        let mut events = self.read_from(READ_BACK).await?;
        if events.last().is_none_or(|last| last.serial < self.from) {
            // The list has a number that the log, read after it, does not have: it is not used.
            let last = self.fetcher.patient.last_serial().await?;
            self.from = greatest(last).unwrap_or(Serial::ZERO);
            events = self.read_from(READ_BACK).await?;
        }
        if let [alone] = &events[..]
            && let Some(next) = greatest(back(alone.serial, FAR))
            && !serials().any(|serial| serial > next && serial < alone.serial)
        {
            // One row is far beyond all others, and nothing but its own project is there.
            self.from = next;
            events = self.read_from(READ_BACK).await?;
        }
        for event in events {
            if selection.has(&event.project) {
                self.log.add(&event);
            } else {
                self.log.add_other(&event);
            }
        }
        let mut names: BTreeMap<_, _> = list
            .into_iter()
            .map(|(display, serial)| (display.normalise(), (display, serial)))
            .filter(|(name, _)| selection.has(name))
            .collect();
        if let Selection::Projects(selected) = selection {
            self.absent = selected.keys().filter(|name| !names.contains_key(*name)).cloned().collect();
        }
        for name in self.log.projects() {
            if let Some((_, display)) = self.log.last(name, self.head())
                && !self.log.of(name).is_empty()
            {
                names.entry(name.clone()).or_insert_with(|| (display.clone(), Serial::ZERO));
            }
        }
        self.absent.retain(|name| !names.contains_key(name));
        // The list does not have what is quarantined. Other projects that it does not have are gone.
        for leaf in self.fetcher.base_leaves()?.into_iter().filter(|leaf| !leaf.listed && selection.has(&leaf.name)) {
            names.entry(leaf.name).or_insert((leaf.display, Serial::ZERO));
        }
        self.waiting = names;
        self.recall_parked()
    }

    /// Parks the pages that an interrupted first sync has remembered, unless something has happened since. The list alone says
    /// that where the log does not go back so far.
    fn recall_parked(&mut self) -> Result<(), SyncError> {
        let mut rows: BTreeMap<ProjectName, (SeenRow, bool)> = BTreeMap::new();
        for row in self.fetcher.mirror.seen_rows()? {
            rows.entry(row.project.clone()).and_modify(|(_, alone)| *alone = false).or_insert((row, true));
        }
        for (name, (row, alone)) in rows {
            let Some((display, listed)) = self.waiting.get(&name) else { continue };
            let changed = || self.log.of(&name).last().is_some_and(|change| change.serial > row.serial);
            // Several pages of one project were remembered because it was moving.
            if !alone {
                self.follow_project(name, Some(Serial::ZERO), &[])?;
            } else if row.serial >= *listed || (row.serial >= self.read_since && !changed()) {
                let SeenRow { unit, record, listed: is_listed, serial, .. } = row;
                let (unit, record, display) = (Some(unit), Some(record), display.clone());
                let leaf = Leaf { name: name.clone(), listed: is_listed, logged: true, unit, record, serial, display };
                self.parked.insert(name.clone(), Parked { leaf, listed: *listed });
                self.waiting.remove(&name);
            }
        }
        Ok(())
    }

    /// Fetches what is not there yet, and parks it as it comes.
    pub(super) async fn gather(&mut self) -> Result<(), SyncError> {
        let mut running = JoinSet::new();
        let gathered = self.gather_in(&mut running).await;
        // No task goes on writing after the sync.
        running.shutdown().await;
        gathered
    }

    async fn gather_in(
        &mut self,
        running: &mut JoinSet<Result<(ProjectName, Asked), SyncError>>,
    ) -> Result<(), SyncError> {
        let every = self.fetcher.settings.park_every.max(1);
        self.fetcher.progress.projects.fetch_add(self.waiting.len() as u64, Ordering::Relaxed);
        let (mut whole, mut files) = (BTreeSet::new(), 0);
        loop {
            while running.len() < self.fetcher.settings.connections
                && let Some((name, (display, listed))) = self.waiting.pop_first()
            {
                if !self.projects.contains_key(&name) {
                    let needs = self.needs_by_list(&name, listed);
                    self.follow_project(name.clone(), Some(needs), &[])?;
                }
                let followed = self.projects.get_mut(&name).expect("it is followed");
                (followed.display, followed.project.serial) = (display, listed);
                running.spawn(self.asking(name, Way::Usual));
            }
            let Some(asked) = running.join_next().await else { break };
            let (name, asked) = asked.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
            let needs = self.projects.get(&name).map_or(Serial::ZERO, |followed| followed.project.base.needs());
            // A page that is too old stands in the way, and is asked for again; so does one that lost most of its files.
            let came = self.take(&name, asked)?.filter(|page| page.serial >= needs);
            if let Some(count) = came.map(|page| page.content.files.len())
                && !self.look_for_loss(&name)?
            {
                files += count;
                whole.insert(name);
            }
            if whole.len() >= every || files >= PARKED_FILES {
                self.park(&std::mem::take(&mut whole))?;
                files = 0;
            }
        }
        self.park(&whole)
    }

    /// The serial that a project's page has to reach because upstream's list has it. Where the log goes back to the project's last
    /// event, the log says that better: after an event about people upstream goes on showing an older page, for a day, and the
    /// log is read further back than that.
    pub(super) fn needs_by_list(&self, name: &ProjectName, listed: Serial) -> Serial {
        if listed <= self.from && self.log.first(name).is_none() { listed } else { Serial::ZERO }
    }

    /// Remembers the newest pages of these projects, and keeps no more of them than that.
    fn park(&mut self, names: &BTreeSet<ProjectName>) -> Result<(), SyncError> {
        for leaf in self.remember(names, 1)? {
            let listed = self.projects.remove(&leaf.name).map_or(Serial::ZERO, |followed| followed.project.serial);
            self.parked.insert(leaf.name.clone(), Parked { leaf, listed });
        }
        Ok(())
    }

    /// Takes out the projects of which the log says more than their pages show, or has an event after `target`.
    pub(super) fn unpark(&mut self, target: Serial) -> Result<(), SyncError> {
        let moved = |Parked { leaf, .. }: &Parked| {
            let changes = self.log.of(&leaf.name);
            let Some(last) = changes.last() else { return false };
            // A project that has not changed since upstream was listed stands as parked at every serial that may be the
            // target. Of the others, a project that the log tells from its beginning can be determined at any serial.
            let begins = changes.first().is_some_and(|change| change.action == Action::Create);
            last.serial > leaf.serial || last.serial > target || begins && last.serial > self.from
        };
        let names: Vec<_> =
            self.log.projects().filter(|name| self.parked.get(*name).is_some_and(moved)).cloned().collect();
        for name in names {
            let Some(Parked { leaf, listed }) = self.parked.remove(&name) else { continue };
            let content = self.fetcher.base_content(&leaf)?;
            let followed = self.follow_project(name, Some(Serial::ZERO), &[])?;
            followed.display = leaf.display;
            followed.project.serial = listed;
            followed.project.pages.push(Seen { serial: leaf.serial, content });
            followed.validates_base = false;
        }
        Ok(())
    }

    /// The serial from which on all parked projects stand as they are parked.
    pub(super) fn parked_since(&self) -> Serial {
        let parked = self.log.projects().filter(|name| self.parked.contains_key(*name));
        parked.filter_map(|name| self.log.of(name).last()).map(|change| change.serial).max().unwrap_or(Serial::ZERO)
    }

    /// Takes the parked projects out whose serial or name at `at` is not the one on their pages, which are made anew: upstream
    /// goes on showing a page after an event about people, so there are as many as have such events in a day.
    pub(super) fn take_renumbered(&mut self, at: Serial) -> Result<Vec<(ProjectName, Whole)>, SyncError> {
        let mut renumbered = Vec::new();
        for (name, Parked { leaf, listed }) in &self.parked {
            let serial = self.log.serial_at(name, at, *listed, [leaf.serial]);
            let display = self.log.last(name, at).map(|(_, display)| display);
            // A name that is written as it is normalised says nothing that the configuration may not know better.
            let display = display.filter(|display| display.as_str() != name.as_str()).unwrap_or(&leaf.display);
            if (serial, display) != (leaf.serial, &leaf.display) {
                let content = self.fetcher.base_content(leaf)?;
                let tag = self.fetcher.mirror.seen_of(name)?.pop().and_then(|seen| seen.tag);
                let (serial, validator) = (Some(serial), tag.map(Validator));
                let display = display.clone();
                renumbered.push((
                    name.clone(),
                    Whole { display, serial, content, validator, logged: Logged::Yes, earlier: None },
                ));
            }
        }
        for (name, _) in &renumbered {
            self.parked.remove(name);
        }
        Ok(renumbered)
    }

    /// Makes the states that a first sync knows at a serial the bases of their projects: the log is applied to these
    /// when a project moves before all the others are known.
    pub(super) fn promote(&mut self, at: Serial) {
        for (name, followed) in &mut self.projects {
            if matches!(followed.project.base, Base::Unknown(_) | Base::Found(..)) {
                let releases = self.fetcher.releases_of(name);
                if let Some(known) = cut::promoted(&followed.project, self.log.of(name), at, releases) {
                    followed.project = known;
                }
            }
        }
    }
}
