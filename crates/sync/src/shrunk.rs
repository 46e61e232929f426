//! Pages that lack most of the files that their projects had, although no row of a log says that these went.
//!
//! A cache, or an index that is broken, answers so as well as one that has deleted files. So such a page is believed only when
//! looks `hold_after` apart agree which files are lost; until then its project is held.

use strandline_model::{Blake3, ProjectName, Serial, Status, Timestamp};
use strandline_store::Subject;

use crate::Fetcher;
use crate::cut::{Action, Change, Content, carried};
use crate::stored::Stored;

/// What a page has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// At most half of the files: it is a page as all others are.
    Small,
    /// More than half, and the mirror has not seen this for long enough. It sees it since then.
    Doubted(Timestamp),
    /// More than half, and the looks agree.
    Believed,
}

impl Fetcher {
    /// Looks at how a project's page differs from what the mirror has of the project; `changes` are the rows of the log about it
    /// that the mirror's state may lack.
    pub(crate) fn loss(
        &self,
        project: &ProjectName,
        known: &Content<Stored>,
        changes: &[Change],
        page: &Content<Stored>,
    ) -> Loss {
        let subject = Subject::ShrunkPage(project.clone());
        let Some(lost) = self.lost(project, known, changes, page) else {
            self.sights().forget(&subject);
            return Loss::Small;
        };
        let now = (self.clock)();
        let since = self.sights().look(subject, lost, now);
        let agreed = since < now && now.since(since) >= self.settings.hold_after;
        if agreed || self.settings.accept_drop { Loss::Believed } else { Loss::Doubted(since) }
    }

    /// A digest of the names of the files that a page lacks and no row removed; `None` where it has at least half as many files as
    /// there should be.
    fn lost(
        &self,
        project: &ProjectName,
        known: &Content<Stored>,
        changes: &[Change],
        page: &Content<Stored>,
    ) -> Option<Blake3> {
        // An index that keeps only its newest files shows others each time, and as many.
        let is_less = |content: &Content<Stored>| page.files.len().saturating_mul(2) < content.files.len();
        // A row that is not understood may have removed them. A page of a quarantined project shows no file.
        let explained = || changes.iter().any(|change| change.action == Action::Unknown);
        if !is_less(known) || page.status == Status::Quarantined || explained() {
            return None;
        }
        let last = changes.last().map_or(Serial::ZERO, |change| change.serial);
        let left = carried(known, Serial::ZERO, changes, last, self.releases_of(project)).filter(is_less)?;
        let lost: Vec<_> =
            left.files.keys().map(String::as_str).filter(|name| !page.files.contains_key(*name)).collect();
        Some(Blake3::of(lost.join("\n").as_bytes()))
    }
}
