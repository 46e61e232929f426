//! The changelog as the cut reads it.

use std::collections::BTreeMap;

use strandline_model::{DisplayName, ProjectName, Serial, Timestamp};

use crate::upstream::Event;

/// What an event does to its project's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The project begins, empty.
    Create,
    /// A release begins, empty and not yanked.
    NewRelease(String),
    /// A file is added to a release: the version, and the filename as the log writes it.
    AddFile(String, String),
    /// A file is removed.
    RemoveFile(String),
    /// A release is removed with its files.
    RemoveRelease(String),
    /// The project is removed with everything.
    RemoveProject,
    /// All files of a release are yanked; the reason is not in the log.
    YankRelease(String),
    /// All files of a release are not yanked any more.
    UnyankRelease(String),
    /// The project shows nothing until it is cleared.
    QuarantineProject,
    /// The project shows what it has again.
    ClearProject,
    /// A release's files are not shown until it is cleared.
    QuarantineRelease(String),
    /// A release's files are shown again.
    ClearRelease(String),
    /// Nothing that is known: it may have changed anything.
    Unknown,
}

impl Action {
    /// Whether it alone says how the project stands after it: without files, whatever pages show.
    pub fn needs_no_page(&self) -> bool {
        matches!(self, Self::RemoveProject | Self::QuarantineProject)
    }
}

/// An event that may have changed its project's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its serial.
    pub serial: Serial,
    /// When it happened, by upstream's clock.
    pub time: Timestamp,
    /// What happened.
    pub action: Action,
}

/// The events from M to the head of the log, by project.
#[derive(Debug, Clone, Default)]
pub struct Log {
    changes: BTreeMap<ProjectName, Vec<Change>>,
    /// All events of a project, also those about people, each with the project's name as it was written then.
    names: BTreeMap<ProjectName, BTreeMap<Serial, DisplayName>>,
    /// Every serial that was seen, with its event's time: also those of projects that are not selected.
    serials: BTreeMap<Serial, Timestamp>,
}

impl Log {
    /// Adds an event; one that is there already changes nothing. Returns whether it is new. A serial may be that of several rows.
    pub fn add(&mut self, event: &Event) -> bool {
        self.serials.insert(event.serial, event.time);
        self.add_known(event)
    }

    /// Adds an event of a project whose serial was seen before, as [`add_other`](Self::add_other) does; one that is there
    /// already changes nothing. Returns whether it is new.
    pub fn add_known(&mut self, event: &Event) -> bool {
        let names = self.names.entry(event.project.clone()).or_default();
        let is_new = names.insert(event.serial, event.display.clone()).is_none();
        let Some(action) = event.change.clone() else { return is_new };
        let changes = self.changes.entry(event.project.clone()).or_default();
        let change = Change { serial: event.serial, time: event.time, action };
        let position = changes.partition_point(|earlier| earlier.serial <= change.serial);
        if changes[..position]
            .iter()
            .rev()
            .take_while(|earlier| earlier.serial == change.serial)
            .any(|one| *one == change)
        {
            return false;
        }
        changes.insert(position, change);
        true
    }

    /// Adds an event of a project that is not selected: it only shows that its serial is not missing.
    pub fn add_other(&mut self, event: &Event) {
        self.serials.insert(event.serial, event.time);
    }

    /// Takes the last event of a project for its removal.
    pub(crate) fn take_for_removal(&mut self, project: &ProjectName) {
        if let Some(last) = self.changes.get_mut(project).and_then(|changes| changes.last_mut()) {
            last.action = Action::RemoveProject;
        }
    }

    /// The events of a project that may have changed its page, by serial.
    pub fn of(&self, project: &ProjectName) -> &[Change] {
        self.changes.get(project).map_or(&[], Vec::as_slice)
    }

    /// The projects that have events, of any kind.
    pub fn projects(&self) -> impl Iterator<Item = &ProjectName> {
        self.names.keys()
    }

    /// The serial of a project's last event of any kind up to `at`, and how its owner wrote its name then.
    pub fn last(&self, project: &ProjectName, at: Serial) -> Option<(Serial, &DisplayName)> {
        self.names.get(project)?.range(..=at).next_back().map(|(serial, name)| (*serial, name))
    }

    /// The serial of a project's first event of any kind.
    pub fn first(&self, project: &ProjectName) -> Option<Serial> {
        self.names.get(project)?.first_key_value().map(|(serial, _)| *serial)
    }

    /// A project's serial at `at`, which is that of its last event of any kind. Where the log does not go back to it, it is
    /// the greatest of the numbers that tell of it and are not after `at`: `known`, which the mirror or upstream's list has,
    /// and those of `pages`, any of which may be an older one.
    pub fn serial_at(
        &self,
        project: &ProjectName,
        at: Serial,
        known: Serial,
        pages: impl IntoIterator<Item = Serial>,
    ) -> Serial {
        let fits = |serial: &Serial| *serial <= at;
        let last = self.last(project, at).map(|(serial, _)| serial);
        let last = last.or_else(|| pages.into_iter().filter(fits).max());
        last.max(Some(known).filter(fits)).unwrap_or(Serial::ZERO)
    }

    /// The greatest serial that was seen.
    pub fn head(&self) -> Option<Serial> {
        self.serials.last_key_value().map(|(serial, _)| *serial)
    }

    /// When the first event that was read happened.
    pub fn begins(&self) -> Option<Timestamp> {
        self.serials.first_key_value().map(|(_, time)| *time)
    }

    /// When the first event after a serial happened, if there is one.
    pub fn first_after(&self, serial: Serial) -> Option<Timestamp> {
        self.serials.range(serial.next()..).next().map(|(_, time)| *time)
    }

    /// The serials after one and up to another that were not seen.
    pub fn missing(&self, after: Serial, up_to: Serial) -> Vec<Serial> {
        let mut missing = Vec::new();
        let mut next = after.next();
        let seen = self.serials.range(next..).map(|(serial, _)| *serial).take_while(|serial| *serial <= up_to);
        for seen in seen.chain([up_to.next()]) {
            while next < seen {
                missing.push(next);
                next = next.next();
            }
            next = seen.next();
        }
        missing
    }

    /// The greatest serial with no missing one before it that may still come to light. Serials have holes, and a row may become
    /// visible late: `is_hole` says, of the first of some serials that are missing and of the time of the row after them, whether
    /// they are believed to be one. It is asked about all of them, also about those after the first that is not.
    pub fn without_holes(&self, from: Serial, mut is_hole: impl FnMut(Serial, Timestamp) -> bool) -> Serial {
        let (mut sure, mut next, mut settled) = (from, from.next(), true);
        for (serial, time) in self.serials.range(next..) {
            if *serial != next {
                settled &= is_hole(next, *time);
            }
            if settled {
                sure = *serial;
            }
            next = serial.next();
        }
        sure
    }
}
