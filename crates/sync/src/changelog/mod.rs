//! Following an index by its changelog: the loop around the [rule of the cut](crate::cut).
//!
//! The target is the log's head at the sync's start. Rounds of: pages and their files, *then* the log, then the cut; as
//! long as the cut is short of the target, the pages that stand in the way are asked for again, with growing pauses,
//! until the settings' patience ends. Then the sync takes the part that is determined beyond the base. It also takes
//! such a part after `part_after` of waiting, and goes on from there to the same target.
//!
//! What always holds:
//!
//! 1. The log that the cut sees was read after the last byte of the last page arrived.
//! 2. A project that has stood in the way for longer than `hold_after` is held: carried at its last good state, without
//!    what the log has removed since. It comes back only with a page that has the serial it needs. Where only files cannot be
//!    had, the tree has the newest state, and what readers get waits (`lacking.rs`).
//! 3. A page that changes without an event (a project was archived, say) is found by a slow sweep of conditional requests
//!    over all projects; what the sweep asks for never stands in the way.
//! 4. The pages of a project that has events after the cut are remembered for the next sync: replaying the log may need
//!    them.
//! 5. An event that came to light late is noticed when the last `overlap` serials are read again, by its serial, which the
//!    log had not shown before: its project is fetched, unless the event is about people, and the snapshots that claimed a
//!    serial past it are marked.
//! 6. A project's serial is that of its last event of any kind. An event about people moves it without a request for the
//!    project's page.

mod begin;
mod conclude;
mod first;
mod hold;
mod missing;
mod pages;
mod reading;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use strandline_model::{DisplayName, Held, Leaf, Method, ProjectName, Serial, Timestamp};
use strandline_store::{Recorded, Subject};
use tokio::time::Instant;

use self::reading::Budget;
use crate::cut::{self, Base, Change, Log, Project, Rule};
use crate::fetch::LackingFiles;
use crate::shrunk::Loss;
use crate::upstream::{Validator, Way};
use crate::{FetchError, Fetcher, OnBroken, Proposal, Stored, SyncError};

/// The longest pause between two rounds.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The aim of one sync. The sync may reach it in several parts, each published.
#[derive(Debug, Default)]
pub struct Aim {
    /// The serial that it set out for: the log's head at its beginning, or where the target had to move on to since.
    head: Option<Serial>,
    /// When its patience ends.
    deadline: Option<Instant>,
    /// Whether the last cut was a part of the way only, and the rest is still waited for.
    pub unfinished: bool,
    /// Whether files were left because their project took too long, and others came: the sync goes on with them.
    pub goes_on: bool,
}

/// A project that is followed in this sync.
struct Followed {
    project: Project<Stored>,
    leaf: Option<Leaf>,
    /// Its name as its owner writes it, where the log does not say it.
    display: DisplayName,
    /// With what to ask whether the newest page is still the same.
    validator: Option<Validator>,
    /// Whether that validator came with the base's page, and none was fetched yet.
    validates_base: bool,
    /// How it is held, if it was at the base.
    held: Option<Held>,
    /// Why the last attempt to get its page or one of its files failed.
    failure: Option<FetchError>,
    /// The files of its pages that could not be had.
    lacking: LackingFiles,
    /// Whether it is looked at because it is its turn in the sweep, and not because the log has something of it.
    swept: bool,
    /// What its newest page has lost without an event; `None` before that was looked at.
    loss: Option<Loss>,
    /// Where upstream's last answer is that there is no page: since when the mirror has seen that.
    missing: Option<Timestamp>,
    /// Whether it is believed to be gone although no event says so.
    gone: bool,
}

impl Followed {
    /// Whether only the log tells of it, or its pages do, too: no page is asked for because of events about people alone.
    fn needs_page(&self, changes: &[Change]) -> bool {
        matches!(self.project.base, Base::Unknown(_)) || !changes.is_empty()
    }
}

/// What a first sync has of a project that it has parked.
struct Parked {
    /// How the snapshot will list it, unless its serial there is another.
    leaf: Leaf,
    /// Its serial in upstream's list.
    listed: Serial,
}

/// One sync of a mirror by the changelog.
struct Following<'a> {
    fetcher: &'a Arc<Fetcher>,
    base: Option<&'a Recorded>,
    from: Serial,
    /// The log was read from after this serial on.
    read_since: Serial,
    /// Where the log goes from one serial to one that is too far away to be believed.
    leap: Option<(Serial, Serial)>,
    /// Whether it was read further back, for the serials of projects that are not held any more.
    looked_back: bool,
    /// Whether upstream's list was asked for, because of projects without a page.
    asked_list: bool,
    log: Log,
    budget: Budget,
    /// Whether the log goes on where this sync has stopped to read it.
    is_cut_off: bool,
    /// Up to this serial the sync waits for no more rows of the log: no serial is missing, or it was taken for a hole
    /// when the sync began.
    sure: Serial,
    projects: BTreeMap<ProjectName, Followed>,
    /// What a first sync has not asked for yet, with the serial that upstream's list has for it: of its last event or a later
    /// one.
    waiting: BTreeMap<ProjectName, (DisplayName, Serial)>,
    parked: BTreeMap<ProjectName, Parked>,
    dropped: Vec<ProjectName>,
    absent: Vec<ProjectName>,
}

/// What is held in a cut, by its name.
type Holding = BTreeMap<ProjectName, Held>;

/// Finds the best serial beyond the base at which every selected project is determined.
pub async fn follow(fetcher: &Arc<Fetcher>, base: Option<&Recorded>, aim: &mut Aim) -> Result<Proposal, SyncError> {
    let Fetcher { settings, clock, .. } = &**fetcher;
    aim.unfinished = false;
    let begun = before(clock(), settings.settle);
    let mut following = Following::begin(fetcher, base).await?;
    following.sure = following.without_holes(begun);
    following.gather().await?;
    // A first sync asks again for a page that it has asked for already only if the project stands in the way.
    let mut wanted = BTreeSet::new();
    if base.is_some() {
        let asked = following.projects.iter().filter(|(name, followed)| followed.needs_page(following.log.of(name)));
        wanted.extend(asked.map(|(name, _)| name.clone()));
    }
    let swept = following.sweep(clock()).await?;
    let mut head = *aim.head.get_or_insert(following.head());
    let mut waiting_since = None;
    let mut pause = settings.backoff;
    let mut round = 0_u32;
    loop {
        round += 1;
        let target = following.round(round, std::mem::take(&mut wanted), &mut head).await?;
        // Patience begins when everything was fetched once: it is for projects that stand in the way, not for the
        // amount of data.
        let waiting_since = *waiting_since.get_or_insert_with(Instant::now);
        let deadline = *aim.deadline.get_or_insert(waiting_since + settings.cut_timeout);
        let late = Instant::now() >= deadline;
        let (mut found, mut holding, mut late) = following.look(target, late, round)?;
        if following.look_back(&found).await? {
            (found, holding, late) = following.look(target, late, round)?;
        }

        // A first snapshot may be of any serial; the second sync goes on from there.
        let known_before = |name: &ProjectName| following.projects[name].leaf.is_some();
        let nothing_in_the_way = found.in_the_way.is_empty()
            || (base.is_none() && found.serial.is_some() && !found.in_the_way.keys().any(known_before));
        // Projects that have moved on past the target, in a way that the log does not tell whole, are not determined by
        // asking again. So the sync takes the part that is determined now; if there is none, the target moves on, too.
        let moved_on = base.is_some() && found.in_the_way.values().all(|obstacle| obstacle.why == cut::Why::Moving);
        let progress = found.serial.is_some_and(|serial| serial > following.from);
        // The serial right after the base is missing and has not settled, so nothing can be published yet.
        let waits_for_hole = target == following.from && head > following.from && following.dropped.is_empty();
        let is_part = base.is_some() && progress && waiting_since.elapsed() >= settings.part_after;
        if late || (nothing_in_the_way && !waits_for_hole) || (moved_on && progress) || is_part {
            let (cut, rest) = following.take_found(found, &holding, round, swept.as_ref(), nothing_in_the_way)?;
            if let Some(rest) = rest {
                aim.unfinished = is_part && !late && !moved_on;
                if aim.unfinished || moved_on {
                    tracing::info!("taking serial {} on the way to {head}: {rest}", cut.serial);
                } else {
                    tracing::warn!("taking serial {}, because {head} is not complete yet: {rest}", cut.serial);
                }
            }
            return Ok(cut);
        }
        wanted.extend(found.in_the_way.into_keys());
        if moved_on && !nothing_in_the_way {
            head = following.head();
            // Later parts keep this aim: the old one is before their base, and the target would have to move on for
            // every part.
            aim.head = Some(head);
            wanted.append(&mut following.follow_up_to(head)?);
        }
        tokio::time::sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn back(serial: Serial, by: u64) -> Serial {
    Serial::try_from(serial.get().saturating_sub(by)).unwrap_or(Serial::ZERO)
}

fn before(now: Timestamp, by: Duration) -> Timestamp {
    let seconds = now.seconds().saturating_sub(i64::try_from(by.as_secs()).unwrap_or(i64::MAX));
    Timestamp::from_seconds(seconds.max(0)).unwrap_or(now)
}

impl Following<'_> {
    /// The greatest serial that the log has shown.
    fn head(&self) -> Serial {
        self.log.head().unwrap_or(self.from).max(self.from)
    }

    /// One round: pages and their files, *then* the log. Returns the target, up to which the log has no holes.
    async fn round(
        &mut self,
        round: u32,
        wanted: BTreeSet<ProjectName>,
        head: &mut Serial,
    ) -> Result<Serial, SyncError> {
        let way = Way::of_attempt(usize::try_from(round - 1).unwrap_or(0));
        self.fetch(wanted, way).await?;
        if round == 1 {
            self.ask_otherwise_for_held().await?;
        }
        // The time is taken before the log is read: a missing serial has settled only if it is still missing in rows
        // read after that.
        let settled = before((self.fetcher.clock)(), self.fetcher.settings.settle);
        // If no page was fetched and no row is waited for, the rest of the log would change nothing.
        if self.base.is_none() || !self.projects.is_empty() || self.sure < *head {
            self.read_on(*head).await?;
            self.drop_later_pages();
            self.follow_swept_by_log()?;
        }
        self.look_for_gone().await?;
        if self.base.is_none() {
            // Upstream has moved on while everything was fetched, so a first sync aims at the log's head as it is now.
            *head = self.head();
        }
        Ok(self.without_holes(settled).min(*head))
    }

    /// The greatest serial with no missing one before it that may still come to light, as of the log that is read. A missing serial
    /// is believed to be a hole where the row after it is older than `settled`, by upstream's clock, or this mirror has seen it
    /// missing since before then, by its own: upstream's may be ahead. Times are whole seconds, rounded down: a row of that
    /// very second may be younger.
    fn without_holes(&self, settled: Timestamp) -> Serial {
        let (now, mut sights) = ((self.fetcher.clock)(), self.fetcher.sights());
        self.log.without_holes(self.from, |missing, time| {
            time < settled || sights.look_whether(Subject::MissingSerial(missing), now) < settled
        })
    }

    /// The cut of what is known, and what is held for it. An error where a broken project stops everything.
    /// Returns also whether the sync goes on waiting: not where it is late, nor where nothing that it waits for can come.
    fn look(&mut self, target: Serial, late: bool, round: u32) -> Result<(cut::Cut<Stored>, Holding, bool), SyncError> {
        if self.base.is_none() {
            self.unpark(target)?;
            self.promote(target);
        }
        let freezes = self.fetcher.settings.on_broken == OnBroken::Freeze;
        self.look_for_losses()?;
        let mut holding = if freezes { Holding::new() } else { self.still_held(target)? };
        if freezes {
            // What the sweep asks for stops nothing.
            self.projects.retain(|_, followed| !(followed.swept && followed.project.shrunk));
        } else {
            holding.extend(self.shrunk());
        }
        holding.append(&mut self.hold_missing(freezes)?);
        holding.retain(|name, _| !self.projects[name].gone);
        let mut found = self.cut(target, &holding);
        let late = late || self.waits_in_vain(&found.in_the_way, round);
        // Files alone stop no serial any more: what readers get waits for them, and not what upstream says.
        if late && !freezes && !found.in_the_way.is_empty() {
            for name in found.in_the_way.keys() {
                self.go_on_without_files(name);
            }
            found = self.cut(target, &holding);
        }
        // No project is held before patience has ended; but where a broken project is to stop everything, it stops a
        // part, too.
        if (late || freezes) && !found.in_the_way.is_empty() {
            // A first sync shows the others and does without these, as no reader misses them. Where there are no others, it is upstream
            // that is broken.
            let others =
                !self.parked.is_empty() || self.projects.keys().any(|name| !found.in_the_way.contains_key(name));
            let at_once = self.base.is_none() && found.serial.is_none() && others && !freezes;
            let broken = self.broken(&found.in_the_way, at_once);
            if freezes && !broken.is_empty() && (late || found.serial.is_some_and(|serial| serial > self.from)) {
                self.remember_after(self.from)?;
                return Err(self.inconsistent(&found.in_the_way, round));
            }
            if late && !broken.is_empty() {
                holding.extend(broken);
                found = self.cut(target, &holding);
            }
        }
        Ok((found, holding, late))
    }

    /// Reads what the log shows now and did not show before: at its end, and where serials are missing. An event up to
    /// `head` that came to light counts for the cut, because a page that was fetched may show it.
    async fn read_on(&mut self, head: Serial) -> Result<(), SyncError> {
        for event in self.read_log(self.sure).await? {
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
                // A project that appears while a first sync runs is not in the list that upstream gave.
                if event.change.is_some() {
                    self.follow_project(event.project, Some(Serial::ZERO), &[])?;
                }
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
            .filter(|name| self.log.first(name).is_some_and(|first| first <= head))
            .cloned()
            .collect();
        for name in &new {
            self.follow_project(name.clone(), None, &[])?;
        }
        Ok(new)
    }

    /// Follows a project from what the base has of it, or, if `needs` is given, from its pages alone, which have to
    /// reach that serial.
    pub(super) fn follow_project(
        &mut self,
        name: ProjectName,
        needs: Option<Serial>,
        held: &[Held],
    ) -> Result<&mut Followed, SyncError> {
        let leaf = self.fetcher.base_leaf(&name)?;
        let base = match (needs, &leaf) {
            (Some(needs), _) => Base::Unknown(needs),
            (None, Some(leaf)) => Base::of(self.fetcher.base_content(leaf)?),
            (None, None) => Base::Absent,
        };
        let display = match &leaf {
            Some(leaf) => leaf.display.clone(),
            None => name.as_str().parse().expect("a normalised name is a name"),
        };
        let validator = self.fetcher.base_validator(&name, leaf.as_ref(), Method::Changelog)?;
        let held = held.iter().find(|held| held.name == name).cloned();
        let since = if matches!(base, Base::Unknown(_)) { Serial::ZERO } else { self.from };
        let serial = leaf.as_ref().map(|leaf| leaf.serial).max(needs).unwrap_or(Serial::ZERO);
        let project = Project { base, serial, since, pages: Vec::new(), shrunk: false };
        let followed = Followed {
            project,
            leaf,
            display,
            validator,
            validates_base: true,
            held,
            failure: None,
            lacking: BTreeMap::new(),
            swept: false,
            loss: None,
            missing: None,
            gone: false,
        };
        self.projects.remove(&name);
        Ok(self.projects.entry(name).or_insert(followed))
    }

    /// Reads the log further back where a project is not held any more and the log that was read does not go back to its last
    /// event: its page may have an older number than that event, because upstream goes on showing it after an event about
    /// people. Returns whether that brought anything.
    async fn look_back(&mut self, found: &cut::Cut<Stored>) -> Result<bool, SyncError> {
        let since = back(self.from, begin::READ_BACK);
        let Some(at) = found.serial.filter(|_| !self.looked_back && since < self.read_since) else { return Ok(false) };
        let back: BTreeSet<_> = found
            .states
            .keys()
            .filter(|name| {
                // Of a project that was held for its files alone, the base has the serial.
                let held = self.projects[*name].held.as_ref().is_some_and(|held| !held.reason.is_of_files());
                held && self.log.last(name, at).is_none()
            })
            .cloned()
            .collect();
        if back.is_empty() {
            return Ok(false);
        }
        self.looked_back = true;
        for event in self.read_log(since).await? {
            if back.contains(&event.project) {
                self.log.add_known(&event);
            }
        }
        Ok(back.iter().any(|name| self.log.last(name, at).is_some()))
    }

    /// How the owner of a project wrote its name at `at`: as the log says, else as the base or upstream's list does.
    fn display_name(&self, name: &ProjectName, at: Serial) -> DisplayName {
        self.log.last(name, at).map_or_else(|| self.projects[name].display.clone(), |(_, display)| display.clone())
    }

    fn cut(&self, target: Serial, holding: &Holding) -> cut::Cut<Stored> {
        let projects = self
            .projects
            .iter()
            .filter(|(name, followed)| !holding.contains_key(*name) && !followed.gone)
            .map(|(name, followed)| (name, &followed.project))
            .collect();
        let found = cut::cut(Rule::WHOLE, self.from, target, &self.log, &projects, &*self.fetcher.format);
        let since = self.parked_since();
        cut::Cut { serial: found.serial.filter(|serial| *serial >= since), ..found }
    }
}
