//! The end of a sync: the cut as the difference from the base, or why there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use strandline_model::{Held, Method, ProjectName, Serial, Status, Timestamp, with_causes};
use strandline_store::{CutReport, Subject};

use super::{Followed, Following, Holding, back};
use crate::cut::{self, Base, Content, State};
use crate::shrunk::Loss;
use crate::{Logged, Proposal, Stored, SyncError, Whole};

/// How long after a change without an event an event has to come for the project to be logged again: mirrors that have not seen the
/// change by then have it from the page of that event, or from their sweeps.
const UNLOGGED_FOR: Duration = Duration::from_secs(30 * 86_400);

impl Following<'_> {
    /// Takes a cut that was found; if it is not complete, returns also the error that says why. Fails with that error
    /// if nothing is new in the cut.
    pub(super) fn take_found(
        self,
        found: cut::Cut<Stored>,
        holding: &Holding,
        round: u32,
        swept: Option<&ProjectName>,
        nothing_in_the_way: bool,
    ) -> Result<(Proposal, Option<SyncError>), SyncError> {
        let (fetcher, base, leap) = (self.fetcher, self.base, self.leap);
        if nothing_in_the_way {
            fetcher.sights().retain(|seen| !matches!(seen, Subject::Trouble(_)));
        }
        let later = self.remember_after(found.serial.unwrap_or(self.from))?;
        let inconsistent = self.inconsistent(&found.in_the_way, round);
        let Some(serial) = found.serial else { return Err(inconsistent) };
        let cut = Proposal { later, ..self.conclude(serial, found.states, holding, round)? };
        if let Some(last) = swept {
            fetcher.mirror.record_sweep(last.as_str(), (fetcher.clock)())?;
        }
        let unchanged = base.is_some_and(|base| {
            cut.changes.is_empty() && base.snapshot.label.serial == serial && base.snapshot.held == cut.held
        });
        if let Some((before, after)) = leap {
            let error = SyncError::LogLeaps { mirror: fetcher.settings.mirror.clone(), before, after };
            if unchanged {
                return Err(error);
            }
            tracing::warn!("{error}");
        }
        if nothing_in_the_way {
            return Ok((cut, None));
        }
        if unchanged { Err(inconsistent) } else { Ok((cut, Some(inconsistent))) }
    }

    pub(super) fn inconsistent(&self, in_the_way: &BTreeMap<ProjectName, cut::Obstacle>, rounds: u32) -> SyncError {
        let words = |(name, obstacle): (&ProjectName, &cut::Obstacle)| {
            let failure = self.projects.get(name).and_then(|followed| followed.failure.as_ref());
            let words = match failure {
                // The failure says more than its consequence, that the project is not determined.
                Some(failure) => format!("{}; {}", with_causes(failure), obstacle.serials()),
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
        mut self,
        serial: Serial,
        mut states: BTreeMap<ProjectName, State<Stored>>,
        holding: &Holding,
        rounds: u32,
    ) -> Result<Proposal, SyncError> {
        let (mut due, mut held) = (Vec::new(), Holding::new());
        for (name, hold) in holding {
            // The event that it is held for may come after this serial, and the project be determined here. Where the log says
            // that it is gone or quarantined, no page is needed any more.
            let Followed { project, held, .. } = &self.projects[name];
            let is_new = held.as_ref().is_none_or(|held| held.reason.is_of_files());
            let early = is_new && hold.needs > serial;
            match cut::state_at(project, &self.log, serial, self.fetcher.releases_of(name)) {
                Ok(state) if early || matches!(state, State::Gone | State::Quarantined(_)) => {
                    states.insert(name.clone(), state);
                }
                _ => due.push((name, hold)),
            }
        }
        let mut vanished: BTreeSet<_> = self.dropped.iter().cloned().collect();
        let mut changes: BTreeMap<_, _> = self.dropped.iter().map(|name| (name.clone(), None)).collect();
        let gone = self.gone(serial);
        self.fetcher.sights().retain(|seen| !matches!(seen, Subject::MissingSerial(hole) if *hole <= serial));
        for (name, followed) in self.projects.iter().filter(|(_, followed)| followed.gone) {
            vanished.extend(followed.leaf.as_ref().map(|_| name.clone()));
            changes.insert(name.clone(), None);
        }
        for (name, state) in states {
            let (at, content) = match state {
                State::Untouched => {
                    let before = self.projects[&name].held.clone();
                    held.extend(before.map(|before| (name, before)));
                    continue;
                }
                State::Gone => {
                    if self.log.last(&name, serial).is_none() && self.projects[&name].leaf.is_some() {
                        vanished.insert(name.clone());
                    }
                    changes.insert(name, None);
                    continue;
                }
                State::Quarantined(at) if self.stays_quarantined(&name, at) => continue,
                State::Quarantined(at) => (at, self.quarantined(&name)?),
                State::At(at, content) => (at, content),
            };
            let followed = &self.projects[&name];
            let mut earlier = None;
            if let Some(hold) = self.held_for_files(&name, serial, &content) {
                let shown = self.fetcher.earlier(followed.leaf.as_ref(), self.log.of(&name), serial)?;
                held.insert(name.clone(), Held { at: shown.serial(), ..hold });
                earlier = Some(shown);
            }
            // Only a page that is the state as it stands says whether the state is still the same. The base's is, where only
            // the serial moved.
            let shown = match &followed.project.base {
                Base::Known(base) if followed.validates_base => *base == content,
                _ if followed.validates_base => false,
                _ => followed.project.pages.last().is_some_and(|page| page.content == content),
            };
            let validator = followed.validator.clone().filter(|_| shown);
            let display = self.display_name(&name, serial);
            let logged = self.logged(&name, serial)?;
            let whole = Whole { display, serial: Some(at), content, validator, logged, earlier };
            changes.insert(name, Some(Arc::new(whole)));
        }
        for (name, hold) in due {
            let last = self.log.of(name).iter().rfind(|change| change.serial <= serial);
            let kept = self.carry(name, serial, &mut changes)?;
            if let Some(failure) = &self.projects[name].failure {
                tracing::warn!("{}", with_causes(failure));
            }
            // The event that it was held for may come after this serial; then it needs its last event up to this serial.
            let known = if hold.needs <= serial { hold.needs } else { Serial::ZERO };
            let needs = last.map_or(hold.needs, |last| last.serial.max(known));
            held.insert(name.clone(), Held { at: kept, needs, ..hold.clone() });
        }
        let renumbered = self.take_renumbered(serial)?;
        changes.extend(renumbered.into_iter().map(|(name, whole)| (name, Some(Arc::new(whole)))));
        let report = Some(self.report(serial, rounds));
        let overlap = self.fetcher.settings.overlap;
        let missing = self.log.missing(self.read_since.max(back(serial, overlap)), serial);
        let (absent, later, held) = (self.absent, BTreeSet::new(), held.into_values().collect());
        let believed = self.projects.iter().filter(|(_, followed)| followed.loss == Some(Loss::Believed));
        let believed = believed.map(|(name, _)| Subject::ShrunkPage(name.clone()));
        let acted_on = believed.chain(gone.iter().map(|gone| Subject::MissingPage(gone.name.clone()))).collect();
        let stored = self.parked.into_values().map(|parked| parked.leaf).collect();
        let method = Method::Changelog;
        Ok(Proposal {
            method,
            serial,
            counted: false,
            changes,
            stored,
            held,
            absent,
            begun_anew: self.base.is_none(),
            vanished,
            report,
            later,
            missing,
            acted_on,
            gone,
        })
    }

    /// Whether the log tells how a project came to be what it is at `at`. An unlogged one is so until its first event that changes
    /// pages and is late enough; one that a rebuild read back, until its page was read as a first sync reads it.
    fn logged(&self, name: &ProjectName, at: Serial) -> Result<Logged, SyncError> {
        let Followed { project, leaf: Some(leaf), swept, loss, .. } = &self.projects[name] else {
            return Ok(Logged::Yes);
        };
        if self.base.is_none() {
            return Ok(Logged::Yes);
        }
        if *loss == Some(Loss::Believed) {
            return Ok(Logged::IfSame);
        }
        let changes = self.log.of(name).iter().filter(|change| change.serial > self.from && change.serial <= at);
        let changes: Vec<_> = changes.collect();
        // The page alone was believed: that of the sweep, or of a project that was to be read again.
        let by_page = changes.is_empty() && (*swept || matches!(project.base, Base::Unknown(Serial::ZERO)));
        let since = if leaf.logged { None } else { self.fetcher.mirror.unlogged_since(name)? };
        let ends =
            |since: Timestamp| changes.iter().any(|change| self.fetcher.past(change.time).since(since) >= UNLOGGED_FOR);
        Ok(match (leaf.logged, since) {
            (true, _) if by_page => Logged::IfSame,
            (true, _) => Logged::Yes,
            (false, None) if matches!(project.base, Base::Unknown(_)) => Logged::Yes,
            (false, Some(since)) if ends(since) => Logged::Yes,
            (false, Some(_)) if by_page => Logged::IfSame,
            (false, _) => Logged::No,
        })
    }

    /// Whether a project that is quarantined at `at` was so at the base, and nothing else is known of it since.
    fn stays_quarantined(&self, name: &ProjectName, at: Serial) -> bool {
        let Followed { project, leaf, .. } = &self.projects[name];
        let says_so = project.pages.last().is_some_and(|page| page.content.status == Status::Quarantined);
        let same = matches!(project.base, Base::Quarantined) && leaf.as_ref().is_some_and(|leaf| leaf.serial == at);
        same && !says_so
    }

    /// A quarantined project. What pages alone tell of it, such as the reason, is as its newest page says if that shows the
    /// quarantine, else as in the base.
    fn quarantined(&self, name: &ProjectName) -> Result<Content<Stored>, SyncError> {
        let Followed { project, leaf, .. } = &self.projects[name];
        let base = leaf.as_ref().map(|leaf| self.fetcher.base_content(leaf)).transpose()?;
        let page = project.pages.last().map(|page| page.content.clone());
        let told = page.into_iter().chain(base).find(|content| content.status == Status::Quarantined);
        Ok(told.unwrap_or_else(Content::quarantined))
    }
}
