//! What a mirror has seen and does not act on before it has seen the same for some time, or at all: since when it has.
//!
//! Each time is of this machine's clock, so no clock of upstream's decides how long something is waited for. A remembered time
//! that lies in the future, because this clock was ahead once, counts as now.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use strandline_model::{Blake3, FileName, ProjectName, Serial, Timestamp};

use crate::rows::{blake3, execute_each, time};
use crate::{Locked, Mirror, StoreError};

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A project stands in the way of a sync.
    Trouble(ProjectName),
    /// The page of a project lacks most of the files that it had, and no row of the log says why.
    ShrunkPage(ProjectName),
    /// A project has no page, and upstream's list does not have it.
    MissingPage(ProjectName),
    /// Upstream says that it has no changelog.
    MissingChangelog,
    /// The log does not show a serial, although it shows a later one.
    MissingSerial(Serial),
    /// The URL of a file has other bytes than it had, and upstream says no digest.
    OtherBytes(ProjectName, FileName),
}

impl Subject {
    /// The number that the catalog knows the kind by, and which of its kind it is. No project's name and no filename has a `/`.
    fn to_row(&self) -> (i64, String) {
        match self {
            Self::Trouble(project) => (0, project.to_string()),
            Self::ShrunkPage(project) => (1, project.to_string()),
            Self::MissingPage(project) => (2, project.to_string()),
            Self::MissingChangelog => (3, String::new()),
            Self::MissingSerial(serial) => (4, serial.to_string()),
            Self::OtherBytes(project, file) => (5, format!("{project}/{}", file.as_str())),
        }
    }

    /// `None` for what only a later program knows.
    fn from_row(kind: i64, key: &str) -> Option<Self> {
        Some(match kind {
            0 => Self::Trouble(key.parse().ok()?),
            1 => Self::ShrunkPage(key.parse().ok()?),
            2 => Self::MissingPage(key.parse().ok()?),
            3 => Self::MissingChangelog,
            4 => Self::MissingSerial(key.parse().ok()?),
            5 => {
                let (project, file) = key.split_once('/')?;
                let project: ProjectName = project.parse().ok()?;
                let file = FileName::of(&project, file).ok()?;
                Self::OtherBytes(project, file)
            }
            _ => return None,
        })
    }
}

/// Since when a mirror has seen the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// A digest of what it saw; that of no bytes where there is only one thing to see.
    pub what: Blake3,
    /// When it saw that first.
    pub first: Timestamp,
    /// When it saw that last.
    pub last: Timestamp,
}

/// All sights of a mirror. What changes here is remembered by [`Locked::record_sights`].
#[derive(Debug, Clone, Default)]
pub struct Sights {
    known: BTreeMap<Subject, Sight>,
    changed: BTreeSet<Subject>,
}

impl Sights {
    /// Looks: the mirror sees `what` now. Returns since when it has seen this without having seen anything else in between; `now`
    /// where it sees this for the first time.
    pub fn look(&mut self, subject: Subject, what: Blake3, now: Timestamp) -> Timestamp {
        let before = self.known.get(&subject).copied().filter(|sight| sight.what == what);
        let first = before.map_or(now, |sight| sight.first.min(now));
        let sight = Sight { what, first, last: now };
        if before != Some(sight) {
            self.known.insert(subject.clone(), sight);
            self.changed.insert(subject);
        }
        first
    }

    /// Looks where there is only one thing to see.
    pub fn look_whether(&mut self, subject: Subject, now: Timestamp) -> Timestamp {
        self.look(subject, Blake3::of(b""), now)
    }

    /// The mirror sees nothing of that kind any more, or has acted on it.
    pub fn forget(&mut self, subject: &Subject) {
        if self.known.remove(subject).is_some() {
            self.changed.insert(subject.clone());
        }
    }

    /// Forgets all but some.
    pub fn retain(&mut self, keep: impl Fn(&Subject) -> bool) {
        let others: Vec<_> = self.known.keys().filter(|subject| !keep(subject)).cloned().collect();
        for subject in others {
            self.forget(&subject);
        }
    }

    /// What was seen last, and since when.
    pub fn of(&self, subject: &Subject) -> Option<Sight> {
        self.known.get(subject).copied()
    }

    /// All of them, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&Subject, Sight)> {
        self.known.iter().map(|(subject, sight)| (subject, *sight))
    }
}

impl Mirror {
    /// What the mirror has seen and since when.
    pub fn sights(&self) -> Result<Sights, StoreError> {
        let query = "SELECT kind, key, what, first, last FROM sight WHERE mirror = ?1";
        let found = self.store.rows(query, [self.number], |row| {
            let subject = Subject::from_row(row.get(0)?, row.get_ref(1)?.as_str()?);
            Ok(subject.zip(Some(Sight { what: blake3(row, 2)?, first: time(row, 3)?, last: time(row, 4)? })))
        });
        Ok(Sights { known: found?.into_iter().flatten().collect(), changed: BTreeSet::new() })
    }
}

impl Locked {
    /// Remembers what has changed in these sights since they were read or recorded.
    pub fn record_sights(&self, sights: &mut Sights) -> Result<(), StoreError> {
        if sights.changed.is_empty() {
            return Ok(());
        }
        self.store.transaction(|transaction| self.write_sights(transaction, sights))?;
        sights.changed.clear();
        Ok(())
    }

    fn write_sights(&self, connection: &Connection, sights: &Sights) -> Result<(), StoreError> {
        let forgotten = sights.changed.iter().filter(|subject| !sights.known.contains_key(*subject));
        self.forget_sights(connection, forgotten)?;
        let remember = "INSERT INTO sight (mirror, kind, key, what, first, last) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT (mirror, kind, key) DO UPDATE
              SET what = excluded.what, first = excluded.first, last = excluded.last";
        let seen = sights.changed.iter().filter_map(|subject| Some((subject, sights.known.get(subject)?)));
        let row = |(subject, Sight { what, first, last }): (&Subject, &Sight)| {
            let (kind, key) = subject.to_row();
            (self.number, kind, key, *what.as_bytes(), first.seconds(), last.seconds())
        };
        execute_each(connection, remember, seen, row).map(drop).map_err(self.store.sql())
    }

    /// The part of a transaction that forgets what the mirror has acted on.
    pub(crate) fn forget_sights<'s>(
        &self,
        connection: &Connection,
        subjects: impl IntoIterator<Item = &'s Subject>,
    ) -> Result<(), StoreError> {
        let forget = "DELETE FROM sight WHERE mirror = ?1 AND kind = ?2 AND key = ?3";
        let row = |subject: &Subject| {
            let (kind, key) = subject.to_row();
            (self.number, kind, key)
        };
        execute_each(connection, forget, subjects, row).map(drop).map_err(self.store.sql())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_is_read_back_as_it_was_written() {
        let six: ProjectName = "six".parse().unwrap();
        let file = FileName::of(&six, "six-1.0 (copy).tar.gz").unwrap();
        let subjects = [
            Subject::Trouble(six.clone()),
            Subject::ShrunkPage(six.clone()),
            Subject::MissingPage(six.clone()),
            Subject::MissingChangelog,
            Subject::MissingSerial(7.try_into().unwrap()),
            Subject::OtherBytes(six, file),
        ];
        let mut kinds = BTreeSet::new();
        for subject in subjects {
            let (kind, key) = subject.to_row();
            assert_eq!(Subject::from_row(kind, &key), Some(subject));
            assert!(kinds.insert(kind));
        }
        for (kind, key) in [(7, "six"), (5, "six"), (4, "-1"), (0, "")] {
            assert_eq!(Subject::from_row(kind, key), None, "{kind} {key}");
        }
    }
}
