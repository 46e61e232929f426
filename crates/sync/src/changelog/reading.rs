//! Reading the log, which is no longer than upstream says that it is, and of which one sync reads no more than it can hold.

use strandline_model::Serial;

use super::Following;
use crate::SyncError;
use crate::upstream::Event;

/// How many rows after the base one sync reads, and in how many requests: a week of the largest index.
const ROWS: usize = 1_000_000;
const REQUESTS: usize = 1_000;
/// No index counts so far between two rows that follow each other: PyPI has given some thirty million serials in all its years.
pub(super) const FAR: u64 = 1_000_000;
/// After so many answers upstream is asked where the log ends.
const ANSWERS: usize = 10;

/// How much of the log this sync still reads.
#[derive(Debug)]
pub(super) struct Budget {
    rows: usize,
    requests: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { rows: ROWS, requests: REQUESTS }
    }
}

impl Budget {
    /// Whether this sync reads no more of the log.
    fn is_used_up(&self) -> bool {
        self.rows == 0 || self.requests == 0
    }
}

impl Following<'_> {
    /// Everything after `since`, as far as the log goes, or this sync reads it: the rest is for the next sync.
    pub(super) async fn read_log(&mut self, mut since: Serial) -> Result<Vec<Event>, SyncError> {
        let (mut events, mut end) = (Vec::new(), None);
        for answer in 1.. {
            if self.budget.is_used_up() {
                self.cut_off_log()?;
                break;
            }
            let more = self.fetcher.patient.events_since(since).await?;
            let mut more = self.without_leap(since, more);
            let Some(last) = more.last() else { break };
            since = last.serial;
            // What the mirror has been through already is as long as the settings say.
            if since > self.from {
                self.budget.requests -= 1;
                self.budget.rows = self.budget.rows.saturating_sub(more.len());
            }
            events.append(&mut more);
            if answer == ANSWERS {
                end = Some(self.fetcher.patient.last_serial().await?);
            }
            // A log may go on for ever, but not beyond the last serial that upstream says it has.
            if end.is_some_and(|end| since >= end) {
                break;
            }
        }
        Ok(events)
    }

    /// The rows after `since` up to where they go on so far away that one of both serials is none of this index: a mirror that
    /// believed such a row once would stand there for good.
    pub(super) fn without_leap(&mut self, since: Serial, mut events: Vec<Event>) -> Vec<Event> {
        let mut before = since.max(self.from);
        let far = |event: &Event| {
            let is_far = event.serial.get().saturating_sub(before.get()) > FAR;
            before = if is_far { before } else { before.max(event.serial) };
            is_far
        };
        if let Some(far) = events.iter().position(far) {
            self.leap = Some((before, events[far].serial));
            events.truncate(far);
        }
        events
    }

    /// Takes the log to end where this sync does not read on. What pages show of later events cannot be told apart.
    fn cut_off_log(&mut self) -> Result<(), SyncError> {
        let mirror = self.fetcher.settings.mirror.clone();
        if self.base.is_none() {
            return Err(SyncError::EndlessLog { mirror, rows: ROWS });
        }
        if !self.is_cut_off {
            tracing::warn!(
                "{mirror}: the changelog is read no further in this sync, after {ROWS} rows or {REQUESTS} requests"
            );
        }
        self.is_cut_off = true;
        Ok(())
    }

    /// Drops the pages that show events which were not read.
    pub(super) fn drop_later_pages(&mut self) {
        if self.is_cut_off {
            let head = self.head();
            for followed in self.projects.values_mut() {
                followed.project.pages.retain(|page| page.serial <= head);
            }
        }
    }
}
