//! The projects of a first sync that nothing is left to find out about.
//!
//! A first sync knows every project at once. Most of them are determined by their page as soon as it and its files are here,
//! and stay so unless the log shows more of them. Those are remembered in the catalog like any page that waits, and all that
//! stays in memory is the line that the tree will have of them; it does not matter how many files they have. Where the log has
//! something to say of one after all, it is brought back as it was.

use std::collections::{BTreeMap, BTreeSet};

use strandline_model::{Blake3, DisplayName, Leaf, ProjectName, Serial};
use strandline_store::SeenPage;

use super::{Followed, Following};
use crate::SyncError;
use crate::cut::{self, Base, Seen};
use crate::record::Status;
use crate::source::{Source, Validator};

/// A project whose unit is in the catalog as the snapshot will have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Aside {
    /// Its unit.
    pub(crate) unit: Blake3,
    /// Its serial.
    pub(crate) serial: Serial,
    /// Its name as its owner writes it.
    pub(crate) display: DisplayName,
}

impl Aside {
    /// Its line in the tree.
    pub(crate) fn leaf(self, name: ProjectName) -> Leaf {
        Leaf { unit: self.unit, serial: self.serial, name, display: self.display }
    }
}

impl<S: Source> Following<'_, S> {
    /// Follows the next `most` of the projects that nobody has asked for yet, if there are more than those; `None` for the
    /// last part.
    pub(super) fn next_part(&mut self, most: usize) -> Result<Option<BTreeSet<ProjectName>>, SyncError> {
        match self.unread.keys().nth(most.max(1)).cloned() {
            None => Ok(None),
            Some(beyond) => {
                let rest = self.unread.split_off(&beyond);
                let part = std::mem::replace(&mut self.unread, rest);
                self.follow_unread(part).map(Some)
            }
        }
    }

    /// Follows all of the projects that nobody has asked for yet.
    pub(super) fn last_part(&mut self) -> Result<BTreeSet<ProjectName>, SyncError> {
        let part = std::mem::take(&mut self.unread);
        self.follow_unread(part)
    }

    fn follow_unread(&mut self, part: BTreeMap<ProjectName, DisplayName>) -> Result<BTreeSet<ProjectName>, SyncError> {
        let mut names = BTreeSet::new();
        for (name, display) in part {
            self.follow_project(name.clone(), Some(Serial::ZERO), &[])?;
            if let Some(followed) = self.projects.get_mut(&name) {
                followed.display = display;
            }
            names.insert(name);
        }
        Ok(names)
    }

    /// Remembers the newest pages of these projects, and sets those aside that are determined by them.
    pub(super) fn set_aside(&mut self, names: &BTreeSet<ProjectName>) -> Result<(), SyncError> {
        for (name, unit, display) in self.remember(names, 1)? {
            if let Some(serial) = self.projects.get(&name).and_then(|followed| self.settled_at(&name, followed)) {
                self.projects.remove(&name);
                self.aside.insert(name, Aside { unit, serial, display });
            }
        }
        Ok(())
    }

    /// The serial that a project has for good, unless the log shows more of it: its page has it, and no event is after that.
    fn settled_at(&self, name: &ProjectName, followed: &Followed) -> Option<Serial> {
        let [page] = &followed.project.pages[..] else { return None };
        let shown = page.content.status != Status::Quarantined && page.serial > Serial::ZERO;
        if !shown || followed.failure.is_some() || !matches!(followed.project.base, Base::Unknown(Serial::ZERO)) {
            return None;
        }
        let events = self.log.of(name);
        if events.is_empty() {
            return Some(page.serial);
        }
        let source = &self.fetcher.source;
        let of_release = |file: &str, version: &str| source.is_of_release(name, file, version);
        match cut::promoted(&followed.project, events, page.serial, &of_release)?.base {
            Base::Found(serial, content) if serial == page.serial && content == page.content => Some(serial),
            _ => None,
        }
    }

    /// Follows a project again that was set aside, with the pages that were seen of it; returns whether it was.
    pub(super) fn bring_back(&mut self, name: &ProjectName) -> Result<bool, SyncError> {
        let Some(aside) = self.aside.remove(name) else { return Ok(false) };
        self.follow_project(name.clone(), Some(Serial::ZERO), &[])?;
        if let Some(followed) = self.projects.get_mut(name) {
            followed.display = aside.display;
        }
        self.recall_project(name)?;
        Ok(true)
    }

    /// Brings those back that the log has events of after a serial.
    pub(super) fn bring_back_after(&mut self, serial: Serial) -> Result<(), SyncError> {
        let moves = |name: &&ProjectName| self.log.of(name).last().is_some_and(|change| change.serial > serial);
        let names: Vec<_> =
            self.log.projects().filter(|name| self.aside.contains_key(*name)).filter(moves).cloned().collect();
        names.iter().try_for_each(|name| self.bring_back(name).map(drop))
    }

    /// Takes what an interrupted first sync has seen: what is determined by it is set aside at once.
    pub(super) fn recall_unread(&mut self) -> Result<(), SyncError> {
        let store = &self.fetcher.store;
        let mut seen: BTreeMap<ProjectName, Vec<(Blake3, Serial)>> = BTreeMap::new();
        for (name, unit, serial) in store.seen_units(&self.fetcher.settings.mirror)? {
            seen.entry(name).or_default().push((unit, serial));
        }
        for (name, units) in seen {
            let Some(display) = self.unread.remove(&name) else { continue };
            if let [(unit, serial)] = units[..]
                && self.log.of(&name).is_empty()
                && serial > Serial::ZERO
                // A page that is quarantined shows no file.
                && store.unit(unit)?.entries().iter().any(|entry| entry.path.first_segment() == "packages")
            {
                self.aside.insert(name, Aside { unit, serial, display });
                continue;
            }
            self.follow_unread(BTreeMap::from([(name.clone(), display)]))?;
            self.recall_project(&name)?;
        }
        Ok(())
    }

    /// Takes the pages into account that earlier syncs saw of a project that is followed.
    fn recall_project(&mut self, name: &ProjectName) -> Result<(), SyncError> {
        for SeenPage { unit, serial, tag } in self.fetcher.store.seen_of(&self.fetcher.settings.mirror, name)? {
            let content = self.fetcher.content(&unit)?;
            if let Some(followed) = self.projects.get_mut(name) {
                followed.project.pages.push(Seen { serial, content });
                followed.validator = tag.map(Validator);
                followed.validates_base = false;
            }
        }
        Ok(())
    }
}
