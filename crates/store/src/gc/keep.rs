//! Retention: which snapshots are kept by the rule alone.

use std::collections::BTreeSet;

use strandline_model::Timestamp;

/// Which snapshots of a mirror are kept, besides what is pinned, is published, was published before, or is the newest.
/// Those that are superseded count with what took their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many.
    pub last: usize,
    /// The newest of each of the last so many days (UTC) that have any.
    pub daily: usize,
    /// The newest of each of the last so many weeks (from Monday, UTC) that have any.
    pub weekly: usize,
}

impl Default for Keep {
    fn default() -> Self {
        Self { last: 48, daily: 30, weekly: 12 }
    }
}

const DAY: i64 = 86_400;
/// 1970-01-01 was a Thursday: weeks from Monday begin three days later.
const MONDAY: i64 = 3 * DAY;

impl Keep {
    /// Which of the snapshots are kept by the rule alone. `times` are theirs, the newest first.
    pub fn select(&self, times: &[Timestamp]) -> Vec<bool> {
        let mut kept: Vec<_> = (0..times.len()).map(|index| index < self.last).collect();
        let periods: [(usize, fn(i64) -> i64); 2] =
            [(self.daily, |second| second / DAY), (self.weekly, |second| (second + MONDAY) / (7 * DAY))];
        for (most, period) in periods {
            let mut seen = BTreeSet::new();
            for (time, kept) in times.iter().zip(&mut kept) {
                if seen.len() < most && seen.insert(period(time.seconds())) {
                    *kept = true;
                }
            }
        }
        kept
    }
}
