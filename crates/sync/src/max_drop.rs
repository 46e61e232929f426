//! A bound on what one sync takes away without upstream's changelog saying so.
//!
//! A list that is cut short, an index that answers 404 for a while, or a slip in the configuration looks as if projects were
//! gone. What the log reports, a quarantine and a withdrawal are never counted.

use std::fmt;

use strandline_model::ProjectName;
use strandline_store::Recorded;

use crate::{Proposal, Settings, SyncError};

/// How many projects may vanish in one sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxDrop {
    /// So many of a hundred listed ones, and at least [`MaxDrop::LEAST`].
    Percent(u8),
    /// So many.
    Projects(u64),
}

impl MaxDrop {
    /// Below this a share is not looked at: a small mirror may lose some of its projects.
    pub const LEAST: u64 = 10;

    /// The bound for a mirror that lists so many projects.
    fn of(self, listed: u64) -> u64 {
        match self {
            Self::Percent(percent) => {
                (listed / 100 * u64::from(percent) + listed % 100 * u64::from(percent) / 100).max(Self::LEAST)
            }
            Self::Projects(most) => most,
        }
    }
}

impl Default for MaxDrop {
    fn default() -> Self {
        Self::Percent(10)
    }
}

impl fmt::Display for MaxDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Projects(most) => most.fmt(f),
        }
    }
}

/// Refuses a proposal that takes away more than the settings allow, or everything.
pub(crate) fn check(settings: &Settings, base: Option<&Recorded>, proposal: &Proposal) -> Result<(), SyncError> {
    let Some(base) = base.filter(|_| !settings.accept_drop) else { return Ok(()) };
    let (vanished, listed) = (&proposal.vanished, base.snapshot.listed);
    let count = vanished.len() as u64;
    let something_stays = count < listed || proposal.changes.values().any(Option::is_some);
    if count == 0 || count <= settings.max_drop.of(listed) && something_stays {
        return Ok(());
    }
    Err(SyncError::Drop {
        mirror: settings.mirror.clone(),
        vanished: count,
        listed,
        some: vanished.iter().take(10).cloned().collect(),
        max_drop: settings.max_drop,
    })
}

/// Some names, and how many more there are.
pub(crate) fn names(some: &[ProjectName], all: u64) -> String {
    let more = all.saturating_sub(some.len() as u64);
    let names = some.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if more == 0 { names } else { format!("{names} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_but_at_least_ten() {
        for (listed, bound) in [(0, 10), (3, 10), (100, 10), (119, 11), (1_000_009, 100_000), (u64::MAX, u64::MAX / 10)]
        {
            assert_eq!(MaxDrop::default().of(listed), bound, "{listed}");
        }
        assert_eq!(MaxDrop::Projects(3).of(1_000_000), 3);
        assert_eq!(MaxDrop::Percent(100).of(u64::MAX), u64::MAX);
    }
}
