//! The beginning of a sync: the log since the base, and the projects that the log and the configuration are about.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use strandline_model::{DisplayName, ProjectName, Serial};
use strandline_store::{Recorded, SeenPage};

use super::reading::Budget;
use super::{Following, back};
use crate::cut::{Log, Seen};
use crate::upstream::{Event, Validator};
use crate::{Fetcher, Selection, SyncError};

/// How far the log is read back for projects that no snapshot of ours has: longer than any cache keeps a page.
pub(super) const READ_BACK: u64 = 50_000;
/// The number of rows that an index gives at once is a multiple of this, whatever it is: an answer of another length was not cut
/// off, but ends where the log does.
const ROUND: usize = 100;
/// A base that is older than this is believed to be upstream's head only if upstream says so.
const RECENT: Duration = Duration::from_secs(600);
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
            leap: None,
            looked_back: false,
            asked_list: false,
            log: Log::default(),
            budget: Budget::default(),
            is_cut_off: false,
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
        let reread = fetcher.mirror.to_reread()?;
        // What a page has to reach where no snapshot tells the state: its project's last event that changes pages, which the
        // log has if it is read back far enough.
        let back = if reselected || !reread.is_empty() { READ_BACK.max(settings.overlap) } else { settings.overlap };
        let events = self.read_from(back).await?;
        // A project that is held, is new to the selection, or has an event that the base does not show is known by
        // pages alone.
        let mut unknown: BTreeMap<ProjectName, Serial> = BTreeMap::new();
        for held in &base.snapshot.held {
            unknown.insert(held.name.clone(), held.needs);
        }
        // A file that was let back is missing from the base, and no event tells of it.
        let mut unlisted = Vec::new();
        for name in reread {
            match fetcher.base_leaf(&name)? {
                Some(_) => {
                    unknown.entry(name).or_insert(Serial::ZERO);
                }
                None if settings.selection.has(&name) => unlisted.extend(name.as_str().parse::<DisplayName>()),
                None => {}
            }
        }
        let mut listed = BTreeMap::new();
        if !unlisted.is_empty() {
            listed.append(&mut self.add_selected(unlisted, &events, &mut unknown).await?);
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
            listed.append(&mut self.add_selected(wanted, &events, &mut unknown).await?);
        }
        let late = self.mark_late(&events, &mut unknown)?;
        for event in &events {
            let name = &event.project;
            let is_new = event.serial > from || late.contains(&event.serial);
            if settings.selection.has(name) && (is_new || unknown.contains_key(name)) {
                self.log.add(event);
            } else {
                self.log.add_other(event);
            }
        }
        for (name, (_, serial)) in &listed {
            let needs = self.needs_by_list(name, *serial);
            unknown.entry(name.clone()).and_modify(|known| *known = needs.max(*known));
        }
        let names: BTreeSet<_> = self.log.projects().cloned().chain(unknown.keys().cloned()).collect();
        for name in names.into_iter().filter(|name| settings.selection.has(name)) {
            let needs = unknown.get(&name).copied();
            let listed = listed.remove(&name);
            let followed = self.follow_project(name, needs, &base.snapshot.held)?;
            if let Some((display, serial)) = listed {
                (followed.display, followed.project.serial) = (display, serial);
            }
            // That the base's page is still the same says nothing of its number, which may be older than the base's serial
            // of the project: where a page is to reach a serial that the base claims, it is asked for whole.
            if let (Some(needs), Some(leaf)) = (needs, &followed.leaf)
                && needs <= leaf.serial
            {
                followed.validator = None;
            }
        }
        Ok(())
    }

    /// Marks the snapshots that lack an event which came to light late, and says which page each of its projects needs now; returns
    /// the serials of such events.
    fn mark_late(
        &self,
        events: &[Event],
        unknown: &mut BTreeMap<ProjectName, Serial>,
    ) -> Result<BTreeSet<Serial>, SyncError> {
        let late = self.came_late(events)?;
        // The last first: of several late events, each is named only if more snapshots lack it than those after it.
        for event in late.iter().rev() {
            if event.change.is_some() {
                let needs = unknown.entry(event.project.clone()).or_insert(event.serial);
                *needs = event.serial.max(*needs);
            }
            let marked = self.fetcher.mirror.mark_missed(event.serial)?;
            if marked > 0 {
                let Event { project, serial, .. } = event;
                tracing::warn!(
                    "an event of `{project}` came to light late, with serial {serial}: {marked} snapshots from {serial} on lack it and are marked"
                );
            }
        }
        Ok(late.iter().map(|event| event.serial).collect())
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

    /// The log from `further` serials before the base on, to its end.
    ///
    /// An answer that ends with the base's own serial shows in one request that nothing is new, unless upstream may have cut it
    /// off there: then upstream's word about the log's head decides.
    pub(super) async fn read_from(&mut self, further: u64) -> Result<Vec<Event>, SyncError> {
        // One more, because serials without holes would give a round number of rows.
        let since = back(self.from, further.saturating_add(1));
        self.read_since = since;
        let events = self.fetcher.patient.events_since(since).await?;
        let mut events = self.without_leap(since, events);
        let last = events.last().map(|event| event.serial);
        if last == Some(self.from) {
            let (now, base) = ((self.fetcher.clock)(), self.base.map(|base| base.snapshot.time));
            let recent = base.is_some_and(|base| base <= now && now.since(base) < RECENT);
            if recent && !events.len().is_multiple_of(ROUND) {
                return Ok(events);
            }
        } else if let Some(last) = last {
            events.extend(self.read_log(last).await?);
        }
        let end = events.last().map_or(Serial::ZERO, |event| event.serial);
        if self.base.is_some() && end <= self.from && self.leap.is_none() {
            // Nothing is new, or the rows end too early.
            let found = self.fetcher.patient.last_serial().await?;
            let (mirror, recorded) = (self.fetcher.settings.mirror.clone(), self.from);
            if found < recorded {
                return Err(SyncError::SerialWentBack { mirror, recorded, found });
            }
            if found > recorded {
                let more = self.read_log(end).await?;
                if more.is_empty() {
                    return Err(SyncError::LogEndsEarly { mirror, recorded, end, found });
                }
                events.extend(more);
            }
        }
        Ok(events)
    }

    /// Takes projects into account that the configuration names and the base does not have; returns how upstream's list has
    /// them.
    async fn add_selected(
        &mut self,
        wanted: Vec<DisplayName>,
        events: &[Event],
        unknown: &mut BTreeMap<ProjectName, Serial>,
    ) -> Result<BTreeMap<ProjectName, (DisplayName, Serial)>, SyncError> {
        let list = self.fetcher.patient.projects().await?;
        let mut listed: BTreeMap<_, _> =
            list.into_iter().map(|(display, serial)| (display.normalise(), (display, serial))).collect();
        // The list comes from a cache: what has happened since is in the log.
        for event in events {
            listed.entry(event.project.clone()).or_insert_with(|| (event.display.clone(), Serial::ZERO));
        }
        let selected: BTreeSet<_> = if wanted.is_empty() {
            listed.keys().cloned().collect()
        } else {
            wanted.iter().map(DisplayName::normalise).collect()
        };
        let mut added = BTreeMap::new();
        for name in selected {
            if self.fetcher.base_leaf(&name)?.is_some() || unknown.contains_key(&name) {
                continue;
            }
            match listed.remove(&name) {
                Some(listed) => {
                    unknown.insert(name.clone(), Serial::ZERO);
                    added.insert(name, listed);
                }
                None => self.absent.push(name),
            }
        }
        Ok(added)
    }

    /// The events of selected projects that the log had not shown when the base was made, although the base claims their
    /// serials.
    fn came_late<'e>(&self, events: &'e [Event]) -> Result<Vec<&'e Event>, SyncError> {
        let Fetcher { mirror, settings, .. } = &**self.fetcher;
        let missing = mirror.missing_serials()?;
        let late = events.iter().filter(|event| event.serial <= self.from && missing.contains(&event.serial));
        Ok(late.filter(|event| settings.selection.has(&event.project)).collect())
    }
}
