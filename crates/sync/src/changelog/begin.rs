//! The beginning of a sync: the log since the base, and the projects that the log and the configuration are about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use strandline_model::{DisplayName, ProjectName, Serial};
use strandline_store::{Recorded, SeenPage};

use super::{Following, back, read_log};
use crate::cut::{Log, Seen};
use crate::upstream::{Event, Validator};
use crate::{Fetcher, Selection, SyncError};

/// How far the log is read back for projects that no snapshot of ours has: longer than any cache keeps a page.
pub(super) const READ_BACK: u64 = 50_000;
/// How many rows of the log a Warehouse gives at once, at the most. It only serves to see that nothing is new: the log
/// of an index that gives fewer is still read to the end as soon as something is.
const LOG_PAGE: usize = 50_000;
impl<'a> Following<'a> {
    /// Reads the log since the base, and finds out which projects it and the configuration are about.
    pub(super) async fn begin(fetcher: &'a Arc<Fetcher>, base: Option<&'a Recorded>) -> Result<Self, SyncError> {
        let from = base.map_or(Serial::ZERO, |base| base.snapshot.label.serial);
        let (dropped, absent) = (Vec::new(), Vec::new());
        let mut following = Self {
            fetcher,
            base,
            from,
            read_since: from,
            log: Log::default(),
            sure: from,
            projects: BTreeMap::new(),
            waiting: BTreeMap::new(),
            parked: BTreeMap::new(),
            dropped,
            absent,
        };
        match base {
            Some(base) => following.begin_from(base).await?,
            None => following.begin_anew().await?,
        }
        following.recall()?;
        Ok(following)
    }

    async fn begin_from(&mut self, base: &Recorded) -> Result<(), SyncError> {
        let Self { fetcher, from, .. } = *self;
        let settings = &fetcher.settings;
        let reselected = base.snapshot.follow != settings.selection.follow().id();
        let back = if reselected { READ_BACK.max(settings.overlap) } else { settings.overlap };
        let events = self.read_from(back).await?;

        // A project that is held, is new to the selection, or has an event that the base does not show is known by
        // pages alone.
        let mut unknown: BTreeMap<ProjectName, Serial> = BTreeMap::new();
        for held in &base.snapshot.held {
            unknown.insert(held.name.clone(), held.needs);
        }
        // A file that was let back is missing from the base, and no event tells of it.
        let mut unlisted = Vec::new();
        for name in fetcher.mirror.to_reread()? {
            match fetcher.base_leaf(&name)? {
                Some(leaf) => {
                    unknown.entry(name).or_insert(leaf.serial);
                }
                None if settings.selection.has(&name) => unlisted.extend(name.as_str().parse::<DisplayName>()),
                None => {}
            }
        }
        if !unlisted.is_empty() {
            self.add_selected(unlisted, &events, &mut unknown).await?;
        }
        if reselected {
            for leaf in fetcher.store.leaves(&base.snapshot)? {
                if !settings.selection.has(&leaf.name) {
                    self.dropped.push(leaf.name);
                }
            }
            let wanted = match &settings.selection {
                Selection::Projects(names) => names.values().cloned().collect(),
                Selection::Everything => Vec::new(),
            };
            self.add_selected(wanted, &events, &mut unknown).await?;
        }
        for (name, late) in self.came_late(&events)? {
            let needs = unknown.entry(name.clone()).or_insert(late);
            *needs = late.max(*needs);
            let marked = fetcher.mirror.mark_missed(late)?;
            if marked > 0 {
                tracing::warn!(
                    "an event of `{name}` came to light late, with serial {late}: {marked} snapshots from {late} on lack it and are marked"
                );
            }
        }
        for event in &events {
            let name = &event.project;
            if settings.selection.has(name) && (event.serial > from || unknown.contains_key(name)) {
                self.log.add(event);
            } else {
                self.log.add_other(event);
            }
        }
        let names: BTreeSet<_> = self.log.projects().cloned().chain(unknown.keys().cloned()).collect();
        for name in names.into_iter().filter(|name| settings.selection.has(name)) {
            let needs = unknown.get(&name).copied();
            self.follow_project(name, needs, &base.snapshot.held)?;
        }
        Ok(())
    }

    /// Takes the pages into account that earlier syncs saw and no snapshot shows.
    fn recall(&mut self) -> Result<(), SyncError> {
        let mirror = &self.fetcher.mirror;
        let mut seen = Vec::new();
        if self.base.is_some() {
            seen = mirror.seen()?;
        } else {
            // Most of what a first sync remembers is parked.
            for name in self.projects.keys() {
                seen.append(&mut mirror.seen_of(name)?);
            }
        }
        for SeenPage { unit, serial, tag } in seen {
            if let Some(followed) = self.projects.get_mut(unit.name()) {
                followed.project.pages.push(Seen { serial, content: self.fetcher.content(&unit)? });
                followed.validator = tag.map(Validator);
                followed.validates_base = false;
            }
        }
        Ok(())
    }

    /// The log from `further` serials before the base on, to its end: an answer that ends with the base's own serial may be
    /// one that upstream has cut off there.
    pub(super) async fn read_from(&mut self, further: u64) -> Result<Vec<Event>, SyncError> {
        let since = back(self.from, further);
        self.read_since = since;
        let mut events = self.fetcher.patient.events_since(since).await?;
        let last = events.last().map(|event| event.serial);
        // A short answer that ends with the base's serial shows in one request that nothing is new.
        let nothing_new = last == Some(self.from) && events.len() < LOG_PAGE;
        if let Some(last) = last.filter(|_| !nothing_new) {
            events.extend(read_log(self.fetcher, last).await?);
        }
        if self.base.is_some() && events.last().is_none_or(|last| last.serial < self.from) {
            // The rows end before the base: upstream's answer about the log's head decides whether its serials went
            // back.
            let found = self.fetcher.patient.last_serial().await?;
            if found < self.from {
                let mirror = self.fetcher.settings.mirror.clone();
                return Err(SyncError::SerialWentBack { mirror, recorded: self.from, found });
            }
        }
        Ok(events)
    }

    /// Takes projects into account that the configuration names and the base does not have.
    async fn add_selected(
        &mut self,
        wanted: Vec<DisplayName>,
        events: &[Event],
        unknown: &mut BTreeMap<ProjectName, Serial>,
    ) -> Result<(), SyncError> {
        let mut listed: BTreeSet<_> =
            self.fetcher.patient.projects().await?.into_iter().map(|(display, _)| display.normalise()).collect();
        // The list comes from a cache: what has happened since is in the log.
        listed.extend(events.iter().map(|event| event.project.clone()));
        let selected: BTreeSet<_> =
            if wanted.is_empty() { listed.clone() } else { wanted.iter().map(DisplayName::normalise).collect() };
        for name in selected {
            if self.fetcher.base_leaf(&name)?.is_some() || unknown.contains_key(&name) {
                continue;
            }
            if listed.contains(&name) {
                unknown.insert(name, Serial::ZERO);
            } else {
                self.absent.push(name);
            }
        }
        Ok(())
    }

    /// Projects with an event that the log had not shown when the base was made, although its serial is one that the base
    /// claims; each with the greatest such serial.
    fn came_late(&self, events: &[Event]) -> Result<BTreeMap<ProjectName, Serial>, SyncError> {
        let Fetcher { mirror, settings, .. } = &**self.fetcher;
        let missing = mirror.missing_serials()?;
        let mut late = BTreeMap::new();
        for event in events.iter().filter(|event| event.serial <= self.from && missing.contains(&event.serial)) {
            if event.change.is_some() && settings.selection.has(&event.project) {
                late.insert(event.project.clone(), event.serial);
            }
        }
        Ok(late)
    }
}
