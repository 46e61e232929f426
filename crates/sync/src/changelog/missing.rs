//! Projects without a page: which of them are gone, although no row of the log says so.
//!
//! A 404 may be a fault of an index or of a cache as well. It is believed when all looks of three days agree and upstream's list of
//! projects does not have the project; at once, where the last row about the project is one that is not understood, such as
//! the `remove` of old logs, because then upstream has told twice that something happened. Until then the project is held.

use std::collections::BTreeSet;
use std::time::Duration;

use strandline_model::{Blake3, Gone, Held, HoldReason, Leaf, ProjectName, Serial, Status, Timestamp, with_causes};
use strandline_store::Subject;

use super::{Followed, Following, Holding};
use crate::cut::Action;
use crate::{Fetcher, SyncError};

/// For how long all looks have to find no page.
const GONE_AFTER: Duration = Duration::from_secs(3 * 86_400);

impl Following<'_> {
    /// Looks at a project that upstream says it has no page of. Returns since when the mirror has seen that, without a row about
    /// the project in between; `None` where the project is quarantined: an index may show nothing of it then.
    pub(super) fn look_at_missing(&self, name: &ProjectName) -> Result<Option<Timestamp>, SyncError> {
        let leaf = self.projects[name].leaf.as_ref();
        if let Some(leaf) = leaf.filter(|leaf| leaf.record.is_some())
            && self.fetcher.base_content(leaf)?.status == Status::Quarantined
        {
            return Ok(None);
        }
        let last = self.log.of(name).last().map(|change| change.serial).max(leaf.map(|leaf| leaf.serial));
        let what = Blake3::of(last.unwrap_or(Serial::ZERO).to_string().as_bytes());
        let subject = Subject::MissingPage(name.clone());
        Ok(Some(self.fetcher.sights().look(subject, what, (self.fetcher.clock)())))
    }

    /// The projects of the base that an earlier look found in doubt: they are asked for in each sync. What is in doubt and not
    /// followed any more is forgotten.
    pub(super) fn in_doubt(&self) -> Result<Vec<Leaf>, SyncError> {
        let mut doubted = BTreeSet::new();
        for (subject, _) in self.fetcher.sights().iter() {
            if let Subject::MissingPage(name) | Subject::ShrunkPage(name) = subject {
                doubted.insert(name.clone());
            }
        }
        doubted.retain(|name| !self.projects.contains_key(name));
        let mut leaves = Vec::new();
        for name in doubted {
            match self.fetcher.base_leaf(&name)?.filter(|_| self.fetcher.settings.selection.has(&name)) {
                Some(leaf) => leaves.push(leaf),
                None => self.fetcher.sights().retain(
                    |subject| !matches!(subject, Subject::MissingPage(of) | Subject::ShrunkPage(of) if *of == name),
                ),
            }
        }
        Ok(leaves)
    }

    /// Finds out which projects without a page are gone. Upstream's list is asked for only where a project may be; a list that does
    /// not come says nothing.
    pub(super) async fn look_for_gone(&mut self) -> Result<(), SyncError> {
        let now = (self.fetcher.clock)();
        let due = |(name, followed): (&ProjectName, &Followed)| {
            let (since, leaf) = (followed.missing?, followed.leaf.as_ref());
            let last = self.log.of(name).last().filter(|last| leaf.is_none_or(|leaf| leaf.serial < last.serial));
            let is_removed = last.is_some_and(|last| last.action == Action::Unknown);
            let long = since < now && now.since(since) >= GONE_AFTER;
            (long || is_removed && self.fetcher.asks_list(since, now)).then(|| (name.clone(), is_removed))
        };
        let due: Vec<_> = self.projects.iter().filter_map(due).collect();
        if self.asked_list || due.is_empty() {
            return Ok(());
        }
        self.asked_list = true;
        let listed: BTreeSet<_> = match self.fetcher.patient.projects().await {
            Ok(list) => list.into_iter().map(|(display, _)| display.normalise()).collect(),
            Err(error) => {
                tracing::warn!("whether projects without a page are gone is not known: {}", with_causes(&error));
                return Ok(());
            }
        };
        for (name, is_removed) in due {
            if listed.contains(&name) {
                // It is asked again after as long a time.
                self.fetcher.sights().forget(&Subject::MissingPage(name.clone()));
                let since = self.look_at_missing(&name)?;
                self.projects.entry(name).and_modify(|followed| followed.missing = since);
            } else if is_removed {
                self.log.take_for_removal(&name);
            } else {
                let since = self.projects[&name].missing.unwrap_or(now);
                tracing::warn!(
                    "`{name}` is gone: upstream has had no page of it since {since}, and its list does not have it, although no event says so"
                );
                self.projects.entry(name).and_modify(|followed| followed.gone = true);
            }
        }
        Ok(())
    }

    /// How the projects are held that have had no page for `hold_after`, without an event that would say why; without the serials
    /// of what readers get. The others stand in nothing's way: they are asked for again in the next sync.
    pub(super) fn hold_missing(&mut self, freezes: bool) -> Result<Holding, SyncError> {
        let (now, mut holding, mut left) = ((self.fetcher.clock)(), Holding::new(), Vec::new());
        for (name, followed) in &self.projects {
            let Followed { leaf: Some(leaf), missing: Some(since), swept: true, gone: false, .. } = followed else {
                continue;
            };
            if freezes || now.since(*since) < self.fetcher.settings.hold_after {
                left.push(name.clone());
                continue;
            }
            let (reason, at, needs, since) = (HoldReason::PageMissing, Serial::ZERO, leaf.serial, *since);
            holding.insert(name.clone(), Held { name: name.clone(), reason, at, needs, since });
        }
        for name in left {
            self.leave_to_log(name)?;
        }
        Ok(holding)
    }

    /// The projects that went without an event, as of `serial`: those that go now, and those of the base about whose pages nothing
    /// has happened since.
    pub(super) fn gone(&self, serial: Serial) -> Vec<Gone> {
        let last = |name: &ProjectName| self.log.last(name, serial).map(|(last, _)| last);
        let now = self.projects.iter().filter(|(_, followed)| self.base.is_some() && followed.gone);
        let now = now.map(|(name, followed)| {
            let known = followed.leaf.as_ref().map(|leaf| leaf.serial);
            Gone { name: name.clone(), serial: known.max(last(name)).unwrap_or(Serial::ZERO) }
        });
        let is_new = |name: &ProjectName| self.log.of(name).iter().any(|change| change.serial > self.from);
        let before = self.base.map(|base| &base.snapshot.gone[..]).unwrap_or_default().iter();
        let before = before.filter(|gone| self.fetcher.settings.selection.has(&gone.name) && !is_new(&gone.name));
        let mut all: Vec<_> = before.cloned().chain(now).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all.dedup_by(|one, other| one.name == other.name);
        all
    }
}

impl Fetcher {
    /// Whether upstream's list is asked about a project that the mirror has seen no page of since then: at the first look, and
    /// again each time that `hold_after` has passed.
    pub(crate) fn asks_list(&self, since: Timestamp, now: Timestamp) -> bool {
        since >= now || now.since(since) >= self.settings.hold_after
    }
}
