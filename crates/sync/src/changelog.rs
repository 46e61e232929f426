//! Following an index by its changelog: the loop around the [rule of the cut](crate::cut).
//!
//! The target is the log's head at the sync's start. Rounds of: pages and their files, *then* the log, then the cut; as
//! long as the cut is short of the target, the pages that stand in the way are asked for again, with growing pauses,
//! until the settings' patience ends. What is determined beyond the base by then is taken; also after a moment of waiting,
//! and then the sync goes on from there to the same target.
//!
//! What always holds:
//!
//! 1. The log that the cut sees was read after the last byte of the last page arrived.
//! 2. A project that has stood in the way for longer than `hold_after` is held: carried at its last good state, without
//!    what the log has removed since. It comes back only with a page that has the serial it needs.
//! 3. A page that changes without an event (a project was archived, say) is found by a slow sweep of conditional requests
//!    over all projects; what the sweep asks for never stands in the way.
//! 4. What pages showed of a project that has events after the cut is remembered for the next sync: the log may need it.
//! 5. An event that came to light late is noticed when the last `overlap` serials are read again, by its serial, which the
//!    log had not shown before: its project is fetched, and the snapshots that claimed a serial past it are marked.

mod first;
mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use strandline_model::{DisplayName, Held, HoldReason, Leaf, ProjectName, Serial, Timestamp};
use strandline_store::{CutReport, Recorded, SeenPage};
use tokio::time::Instant;

use crate::cut::{self, Base, Log, Project, Rule, Seen, State};
use crate::source::{Event, Source, Validator, Way};
use crate::{Clock, Cut, FetchError, Fetcher, OnBroken, Selection, Stored, SyncError, Whole};

/// How far the log is read back for projects that no snapshot of ours has: longer than any cache keeps a page.
const READ_BACK: u64 = 50_000;
/// How many rows of the log a Warehouse gives at once, at the most. Only whether nothing is new is told from it: an index
/// that gives fewer is read to the end all the same as soon as something is.
const LOG_PAGE: usize = 50_000;
/// Of which part of all pages it is the turn in one sweep at the most, and how many pages it may be in any case.
const SWEEP_SHARE: u64 = 7;
const SWEEP_AT_ONCE: usize = 1_000;
/// The longest pause between two rounds.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What one sync is after. It may get there in several parts, each published.
#[derive(Debug, Default)]
pub struct Aim {
    /// The serial that it set out for: the log's head at its beginning, or where the target had to move on to since.
    head: Option<Serial>,
    /// When its patience ends.
    deadline: Option<Instant>,
    /// Whether the last cut was a part of the way only, and the rest is still waited for.
    pub unfinished: bool,
}

/// A project that is followed in this sync.
struct Followed {
    project: Project<Stored>,
    leaf: Option<Leaf>,
    display: DisplayName,
    /// With what to ask whether the newest page is still the same.
    validator: Option<Validator>,
    /// Whether that validator came with the base's page, and none was fetched yet.
    validates_base: bool,
    /// How it is held, if it was at the base.
    held: Option<Held>,
    /// Why the last attempt to get its page or one of its files failed.
    failure: Option<FetchError>,
    /// Whether it is looked at because it is its turn in the sweep, and not because the log has something of it.
    swept: bool,
}

/// One sync of a mirror by the changelog.
struct Following<'a, S> {
    fetcher: &'a Arc<Fetcher<S>>,
    base: Option<&'a Recorded>,
    from: Serial,
    /// The log was read from after this serial on.
    read_since: Serial,
    log: Log,
    /// Up to here the log has shown all that is waited for: no serial is missing, or it was taken for a hole when the sync
    /// began.
    sure: Serial,
    projects: BTreeMap<ProjectName, Followed>,
    /// What a first sync has not asked for yet, with the serial that upstream's list has for it: of its last event or a later
    /// one.
    waiting: BTreeMap<ProjectName, (DisplayName, Serial)>,
    /// What a first sync has: how the snapshot will list it.
    parked: BTreeMap<ProjectName, Leaf>,
    dropped: Vec<ProjectName>,
    absent: Vec<ProjectName>,
}

/// Finds the best serial beyond the base at which every selected project is determined.
pub async fn follow<S: Source>(
    fetcher: &Arc<Fetcher<S>>,
    base: Option<&Recorded>,
    clock: &Clock,
    aim: &mut Aim,
) -> Result<Cut, SyncError> {
    let settings = &fetcher.settings;
    aim.unfinished = false;
    let begun = before(clock(), settings.settle);
    let mut following = Following::begin(fetcher, base).await?;
    following.sure = following.log.without_holes(following.from, begun);
    following.gather().await?;
    // What a first sync has asked for already is asked for again only where it stands in the way.
    let mut wanted = BTreeSet::new();
    if base.is_some() {
        wanted.extend(following.projects.keys().cloned());
    }
    let swept = following.sweep(clock()).await?;
    let mut head = *aim.head.get_or_insert(following.head());
    let mut waiting_since = None;
    let mut pause = settings.backoff;
    for round in 1_u32.. {
        let way = Way::of_attempt(usize::try_from(round - 1).unwrap_or(0));
        following.fetch(std::mem::take(&mut wanted), way).await?;
        if round == 1 {
            following.ask_otherwise_for_held().await?;
        }
        // The time of a row that is missing is up only if it is missing in what is read afterwards.
        let settled = before(clock(), settings.settle);
        // Without a page that was fetched, or a row that is waited for, there is nothing that the log could say more of.
        if base.is_none() || !following.projects.is_empty() || following.sure < head {
            following.read_on(head).await?;
            following.follow_swept_by_log()?;
        }
        if base.is_none() {
            // Upstream has moved on while everything was fetched: what the first snapshot is of is found on the way.
            head = following.head();
        }
        // Patience is for what stands in the way, not for what there is to fetch.
        let waiting_since = *waiting_since.get_or_insert_with(Instant::now);
        let deadline = *aim.deadline.get_or_insert(waiting_since + settings.cut_timeout);

        let late = Instant::now() >= deadline;
        let target = following.log.without_holes(following.from, settled).min(head);
        if base.is_none() {
            following.unpark(target)?;
            following.promote(target);
        }
        let freezes = settings.on_broken == OnBroken::Freeze;
        let mut holding = if freezes { BTreeMap::new() } else { following.still_held(target) };
        let mut found = following.cut(target, &holding);
        // Nobody is held before patience has ended; but where a broken project stops everything, it stops a part, too.
        if (late || freezes) && !found.in_the_way.is_empty() {
            let broken = following.broken(&found.in_the_way, clock())?;
            if freezes && !broken.is_empty() && (late || found.serial.is_some_and(|serial| serial > following.from)) {
                following.remember_after(following.from)?;
                return Err(following.inconsistent(&found.in_the_way, round));
            }
            if late && !broken.is_empty() {
                holding.extend(broken);
                found = following.cut(target, &holding);
            }
        }
        // Any serial will do for a first snapshot; the second sync goes on from there.
        let nothing_in_the_way = found.in_the_way.is_empty() || (base.is_none() && found.serial.is_some());
        // Projects that have moved on past the target, in a way that the log does not tell whole, are not determined by asking
        // again: what can be taken is taken now, and where that is nothing, the target moves on too.
        let moved_on = base.is_some() && found.in_the_way.values().all(|obstacle| obstacle.why == cut::Why::Moving);
        let progress = found.serial.is_some_and(|serial| serial > following.from);
        // A hole right after the base: nothing is settled yet that could be published.
        let waits_for_hole = target == following.from && head > following.from && following.dropped.is_empty();
        let is_part = base.is_some() && progress && waiting_since.elapsed() >= settings.part_after;
        if late || (nothing_in_the_way && !waits_for_hole) || (moved_on && progress) || is_part {
            if nothing_in_the_way {
                fetcher.mirror.note_trouble(&BTreeSet::new(), clock())?;
            }
            let later = following.remember_after(found.serial.unwrap_or(following.from))?;
            let Some(serial) = found.serial else { return Err(following.inconsistent(&found.in_the_way, round)) };
            let inconsistent = following.inconsistent(&found.in_the_way, round);
            let cut = Cut { later, ..following.conclude(serial, found.states, &holding, round)? };
            if let Some(last) = swept {
                fetcher.mirror.record_sweep(last.as_str(), clock())?;
            }
            if !nothing_in_the_way {
                let unchanged = base.is_some_and(|base| {
                    cut.changes.is_empty() && base.snapshot.label.serial == serial && base.snapshot.held == cut.held
                });
                if unchanged {
                    return Err(inconsistent);
                }
                aim.unfinished = is_part && !late && !moved_on;
                if aim.unfinished || moved_on {
                    tracing::info!("taking serial {serial} on the way to {head}: {inconsistent}");
                } else {
                    tracing::warn!("taking serial {serial}, for {head} is not complete yet: {inconsistent}");
                }
            }
            return Ok(cut);
        }
        wanted.extend(found.in_the_way.into_keys());
        if moved_on && !nothing_in_the_way {
            head = following.head();
            // Later parts go there too: a target before their base would have to move on again, as long as upstream does.
            aim.head = Some(head);
            wanted.append(&mut following.follow_up_to(head)?);
        }
        tokio::time::sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    unreachable!("the attempts end with the settings' patience")
}

fn back(serial: Serial, by: u64) -> Serial {
    Serial::try_from(serial.get().saturating_sub(by)).unwrap_or(Serial::ZERO)
}

fn before(now: Timestamp, by: Duration) -> Timestamp {
    let seconds = now.seconds().saturating_sub(i64::try_from(by.as_secs()).unwrap_or(i64::MAX));
    Timestamp::from_seconds(seconds.max(0)).unwrap_or(now)
}

/// Everything after `since`, as far as the log goes.
async fn read_log<S: Source>(fetcher: &Fetcher<S>, mut since: Serial) -> Result<Vec<Event>, SyncError> {
    let mut events = Vec::new();
    loop {
        let mut more = fetcher.events_since(since).await?;
        match more.last() {
            Some(last) => since = last.serial,
            None => return Ok(events),
        }
        events.append(&mut more);
    }
}

impl<'a, S: Source> Following<'a, S> {
    /// The greatest serial that the log has shown.
    fn head(&self) -> Serial {
        self.log.head().unwrap_or(self.from).max(self.from)
    }

    /// Reads what the log shows now and did not show before: at its end, and where serials are missing. What came to light
    /// there, up to `head`, counts for the cut: a page that was fetched may show it.
    async fn read_on(&mut self, head: Serial) -> Result<(), SyncError> {
        for event in read_log(self.fetcher, self.sure).await? {
            let name = &event.project;
            if !self.fetcher.settings.selection.has(name) {
                self.log.add_other(&event);
                continue;
            }
            let known = self.projects.contains_key(name) || self.parked.contains_key(name);
            if !self.log.add(&event) || known {
                continue;
            }
            if self.base.is_none() {
                // What appears while a first sync runs is in no list.
                self.follow_project(event.project, Some(Serial::ZERO), &[])?;
            } else if event.serial <= head {
                self.follow_project(event.project, None, &[])?;
            }
        }
        Ok(())
    }

    /// Follows the projects that have their first event since the base at or before `head`; returns those that are new.
    fn follow_up_to(&mut self, head: Serial) -> Result<BTreeSet<ProjectName>, SyncError> {
        let new: BTreeSet<_> = self
            .log
            .projects()
            .filter(|name| !self.projects.contains_key(*name))
            .filter(|name| self.log.of(name).first().is_some_and(|change| change.serial <= head))
            .cloned()
            .collect();
        for name in &new {
            self.follow_project(name.clone(), None, &[])?;
        }
        Ok(new)
    }

    /// Reads the log since the base, and finds out which projects it and the configuration are about.
    async fn begin(fetcher: &'a Arc<Fetcher<S>>, base: Option<&'a Recorded>) -> Result<Self, SyncError> {
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
        let reselected = base.snapshot.selection != settings.selection.digest();
        let back = if reselected { READ_BACK.max(settings.overlap) } else { settings.overlap };
        let events = self.read_from(back).await?;

        // Whoever is held, new to the selection, or has an event that the base does not show, is known by pages alone.
        let mut unknown: BTreeMap<ProjectName, Serial> = BTreeMap::new();
        for held in &base.snapshot.held {
            unknown.insert(held.name.clone(), held.needs);
        }
        // What was let back is not in the base, and no event says so.
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
    async fn read_from(&mut self, further: u64) -> Result<Vec<Event>, SyncError> {
        let since = back(self.from, further);
        self.read_since = since;
        let mut events = self.fetcher.events_since(since).await?;
        let last = events.last().map(|event| event.serial);
        // A short answer that ends where the base stands: nothing is new, and one request is enough to know it.
        let nothing_new = last == Some(self.from) && events.len() < LOG_PAGE;
        if let Some(last) = last.filter(|_| !nothing_new) {
            events.extend(read_log(self.fetcher, last).await?);
        }
        if self.base.is_some() && events.last().is_none_or(|last| last.serial < self.from) {
            // The log ends before the base: what upstream says of its head is more than that.
            let found = self.fetcher.last_serial().await?;
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
            self.fetcher.projects().await?.into_iter().map(|(display, _)| display.normalise()).collect();
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

    /// Asks for the pages whose turn it is in the sweep, and follows the projects whose page is not the base's although
    /// they have no event. Returns the last project of the turn, if it was anybody's.
    async fn sweep(&mut self, now: Timestamp) -> Result<Option<ProjectName>, SyncError> {
        let (Some(base), settings) = (self.base, &self.fetcher.settings) else { return Ok(None) };
        let (last, since) = self.fetcher.mirror.sweep(now)?;
        let part = now.since(since).as_secs_f64() / settings.recheck.as_secs_f64().max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a count"
        )]
        let count = (base.snapshot.units as f64 * part.min(1.0)) as usize;
        // After a long rest not everything is asked for at once: readers wait for what has happened since.
        let count =
            count.min(usize::try_from(base.snapshot.units / SWEEP_SHARE).unwrap_or(usize::MAX).max(SWEEP_AT_ONCE));
        if count == 0 {
            return Ok(None);
        }
        let turn = self.fetcher.store.leaves_after(&base.snapshot, &last, count)?;
        let last = turn.last().map(|leaf| leaf.name.clone());
        let quiet = turn.into_iter().filter(|leaf| !self.projects.contains_key(&leaf.name));
        let quiet: BTreeMap<_, _> = quiet.map(|leaf| (leaf.name, leaf.serial)).collect();
        for (name, serial) in &quiet {
            self.follow_project(name.clone(), Some(*serial), &[])?;
            self.projects.get_mut(name).expect("it was put there").swept = true;
        }
        self.fetch(quiet.keys().cloned().collect(), Way::Usual).await?;
        for (name, serial) in quiet {
            // A page that is older, missing or broken says nothing that the changelog does not.
            let followed = &self.projects[&name];
            let usable = followed.project.pages.last().is_some_and(|page| page.serial >= serial);
            if !usable || followed.validates_base || followed.failure.is_some() {
                self.projects.remove(&name);
            }
        }
        Ok(last)
    }

    /// What the sweep looks at and the log has something of is followed by the log, from what the base has: its page stands in
    /// nobody's way then.
    fn follow_swept_by_log(&mut self) -> Result<(), SyncError> {
        for (name, followed) in &mut self.projects {
            if followed.swept && self.log.of(name).last().is_some_and(|change| change.serial > self.from) {
                followed.swept = false;
                let leaf = followed.leaf.as_ref().expect("the sweep goes over what the base has");
                followed.project.base = Base::Known(self.fetcher.base_content(leaf)?);
                followed.project.since = self.from;
            }
        }
        Ok(())
    }

    fn follow_project(&mut self, name: ProjectName, needs: Option<Serial>, held: &[Held]) -> Result<(), SyncError> {
        let leaf = self.fetcher.base_leaf(&name)?;
        let base = match (needs, &leaf) {
            (Some(needs), _) => Base::Unknown(needs),
            (None, Some(leaf)) => Base::Known(self.fetcher.base_content(leaf)?),
            (None, None) => Base::Absent,
        };
        let display = self
            .log
            .display_name(&name)
            .cloned()
            .or_else(|| leaf.as_ref().map(|leaf| leaf.display.clone()))
            .or_else(|| name.as_str().parse().ok())
            .expect("a normalised name is a name");
        let validator = self.fetcher.base_validator(&name, leaf.as_ref())?;
        let held = held.iter().find(|held| held.name == name).cloned();
        let since = if matches!(base, Base::Unknown(_)) { Serial::ZERO } else { self.from };
        let project = Project { base, since, pages: Vec::new() };
        let (failure, swept) = (None, false);
        let followed = Followed { project, leaf, display, validator, validates_base: true, held, failure, swept };
        self.projects.insert(name, followed);
        Ok(())
    }

    fn cut(&self, target: Serial, holding: &BTreeMap<ProjectName, Held>) -> cut::Cut<Stored> {
        let projects = self
            .projects
            .iter()
            .filter(|(name, _)| !holding.contains_key(*name))
            .map(|(name, followed)| (name, &followed.project))
            .collect();
        let source = &self.fetcher.source;
        let found = cut::cut(Rule::WHOLE, self.from, target, &self.log, &projects, &|project, file, version| {
            source.is_of_release(project, file, version)
        });
        let since = self.parked_since();
        cut::Cut { serial: found.serial.filter(|serial| *serial >= since), ..found }
    }

    /// The projects that were held at the base and still have no page that will do: nobody waits for them again.
    fn still_held(&self, target: Serial) -> BTreeMap<ProjectName, Held> {
        let held: Vec<_> =
            self.projects.iter().filter_map(|(name, followed)| Some((name, followed.held.as_ref()?))).collect();
        if held.is_empty() {
            return BTreeMap::new();
        }
        let found = self.cut(target, &BTreeMap::new());
        held.into_iter()
            .filter(|(name, _)| found.in_the_way.contains_key(*name))
            .map(|(name, held)| (name.clone(), held.clone()))
            .collect()
    }

    /// The projects that have stood in the way for longer than `hold_after`.
    fn broken(
        &self,
        in_the_way: &BTreeMap<ProjectName, cut::Obstacle>,
        now: Timestamp,
    ) -> Result<BTreeMap<ProjectName, Held>, SyncError> {
        let settings = &self.fetcher.settings;
        let names = in_the_way.keys().cloned().collect();
        let noted = self.fetcher.mirror.note_trouble(&names, now)?;
        let mut broken = BTreeMap::new();
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

    fn inconsistent(&self, in_the_way: &BTreeMap<ProjectName, cut::Obstacle>, rounds: u32) -> SyncError {
        let words = |(name, obstacle): (&ProjectName, &cut::Obstacle)| {
            let failure = self.projects.get(name).and_then(|followed| followed.failure.as_ref());
            let words = match failure {
                // What upstream did says more than that the project is not determined because of it.
                Some(failure) => {
                    let cause =
                        std::error::Error::source(failure).map_or_else(String::new, |cause| format!(": {cause}"));
                    format!("{failure}{cause}; {}", obstacle.serials())
                }
                None => obstacle.to_string(),
            };
            (name.clone(), words)
        };
        let in_the_way = in_the_way.iter().map(words).collect();
        SyncError::Inconsistent { in_the_way, cut: Some(self.report(self.from, rounds)) }
    }

    /// How far a cut at `serial` got.
    fn report(&self, serial: Serial, rounds: u32) -> CutReport {
        CutReport { head: self.head().max(serial), behind: self.log.first_after(serial), rounds }
    }

    /// The cut as the difference from the base.
    fn conclude(
        self,
        serial: Serial,
        states: BTreeMap<ProjectName, State<Stored>>,
        holding: &BTreeMap<ProjectName, Held>,
        rounds: u32,
    ) -> Result<Cut, SyncError> {
        let mut changes: BTreeMap<_, _> = self.dropped.iter().map(|name| (name.clone(), None)).collect();
        for (name, state) in states {
            match state {
                State::Untouched => {}
                State::Gone => {
                    changes.insert(name, None);
                }
                State::At(at, content) => {
                    let followed = &self.projects[&name];
                    // Only a page that is the state as it stands says whether the state is still the same.
                    let shown = followed.project.pages.last().is_some_and(|page| page.content == content);
                    let validator = followed.validator.clone().filter(|_| shown && !followed.validates_base);
                    let display = followed.display.clone();
                    changes.insert(name, Some(Arc::new(Whole { display, serial: Some(at), content, validator })));
                }
            }
        }
        let mut held = Vec::new();
        for (name, hold) in holding {
            let events = self.log.of(name);
            let last = events.iter().rfind(|change| change.serial <= serial);
            if last.is_none() && self.projects[name].held.is_none() && hold.needs > serial {
                // What it is held for comes after this serial.
                continue;
            }
            if let Some(kept) = self.carry(name, serial, &mut changes)? {
                // What it was held for may come after this serial; then its last event here is what it needs.
                let known = if hold.needs <= serial { hold.needs } else { Serial::ZERO };
                let needs = last.map_or(hold.needs, |last| last.serial.max(known));
                held.push(Held { at: kept, needs, ..hold.clone() });
            }
        }
        let report = Some(self.report(serial, rounds));
        let overlap = self.fetcher.settings.overlap;
        let missing = self.log.missing(self.read_since.max(back(serial, overlap)), serial);
        let (absent, later) = (self.absent, BTreeSet::new());
        let stored = self.parked.into_values().collect();
        Ok(Cut { serial, counted: false, changes, stored, held, absent, report, later, missing })
    }

    /// Carries a held project at its last good state; returns that state's serial, or `None` if the log has removed it.
    fn carry(
        &self,
        name: &ProjectName,
        serial: Serial,
        changes: &mut BTreeMap<ProjectName, Option<Arc<Whole>>>,
    ) -> Result<Option<Serial>, SyncError> {
        let followed = &self.projects[name];
        let events = self.log.of(name);
        if events.iter().rfind(|change| change.serial <= serial).is_some_and(|last| last.action.removes_project()) {
            changes.insert(name.clone(), None);
            return Ok(None);
        }
        let Some(leaf) = &followed.leaf else { return Ok(Some(Serial::ZERO)) };
        let good = self.fetcher.base_content(leaf)?;
        let source = &self.fetcher.source;
        let of_release = |file: &str, version: &str| source.is_of_release(name, file, version);
        let content = cut::carried(&good, leaf.serial, events, serial, &of_release);
        let kept = if content.is_some() { leaf.serial } else { Serial::ZERO };
        if content.as_ref() != Some(&good) {
            let display = followed.display.clone();
            let whole =
                content.map(|content| Arc::new(Whole { display, serial: Some(leaf.serial), content, validator: None }));
            changes.insert(name.clone(), whole);
        }
        Ok(Some(kept))
    }
}
