//! The sweep: all pages are asked for in turn, slowly, for changes that are not in the log.

use strandline_model::{Leaf, ProjectName, Timestamp};
use strandline_store::Subject;

use super::Following;
use crate::SyncError;
use crate::cut::Base;
use crate::upstream::Way;

/// One sync sweeps at most one in `SWEEP_SHARE` of all pages, or `SWEEP_AT_ONCE` pages if that is more.
const SWEEP_SHARE: u64 = 7;
const SWEEP_AT_ONCE: usize = 1_000;
/// Where more pages than this are missing at once, and more than half of those that were asked for, it is upstream that is broken.
const MISSING_AT_ONCE: usize = 10;

impl Following<'_> {
    /// Asks for the pages whose turn it is in the sweep, and follows the projects whose page is not the base's although
    /// they have no event. Returns the last project of the turn; `None` if it was no project's turn.
    pub(super) async fn sweep(&mut self, now: Timestamp) -> Result<Option<ProjectName>, SyncError> {
        let (Some(base), settings) = (self.base, &self.fetcher.settings) else { return Ok(None) };
        let (last, since) = self.fetcher.mirror.sweep(now)?;
        let part = now.since(since).as_secs_f64() / settings.recheck.as_secs_f64().max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a count"
        )]
        let count = (base.snapshot.projects as f64 * part.min(1.0)) as usize;
        // After a long rest the sweep does not ask for everything at once, because readers wait for what has happened
        // since.
        let count =
            count.min(usize::try_from(base.snapshot.projects / SWEEP_SHARE).unwrap_or(usize::MAX).max(SWEEP_AT_ONCE));
        let mut turn =
            if count == 0 { Vec::new() } else { self.fetcher.store.leaves_after(&base.snapshot, &last, count)? };
        let last = turn.last().map(|leaf| leaf.name.clone());
        let mut in_doubt = self.in_doubt()?;
        in_doubt.truncate(SWEEP_AT_ONCE);
        turn.retain(|leaf| in_doubt.iter().all(|doubted| doubted.name != leaf.name));
        turn.extend(in_doubt);
        let asked =
            |leaf: &Leaf| self.projects.get(&leaf.name).is_some_and(|of| of.needs_page(self.log.of(&leaf.name)));
        // A project that the selection does not have any more is dropped, whatever its page says.
        let selected = |leaf: &Leaf| settings.selection.has(&leaf.name);
        let quiet: Vec<_> = turn.into_iter().filter(|leaf| selected(leaf) && !asked(leaf)).collect();
        for leaf in &quiet {
            self.follow_project(leaf.name.clone(), Some(leaf.serial), &[])?.swept = true;
        }
        self.fetch(quiet.iter().map(|leaf| leaf.name.clone()).collect(), Way::Usual).await?;
        self.doubt_upstream(&quiet);
        for leaf in quiet {
            // A page that is older, missing or broken says nothing that the changelog does not. After events about people
            // a page may say an older serial for as long as a cache keeps it, a day or so, and be none: what is new in it is
            // found at the next turn. That there is none is looked at again in the next sync, and after a while believed.
            let followed = &self.projects[&leaf.name];
            if followed.missing.is_some() {
                continue;
            }
            let usable = followed.project.pages.last().is_some_and(|page| page.serial >= leaf.serial);
            if !usable || followed.validates_base || followed.failure.is_some() {
                self.leave_to_log(leaf.name)?;
            }
        }
        Ok(last)
    }

    /// Lets missing pages say nothing about their projects where they say something about upstream.
    fn doubt_upstream(&mut self, asked: &[Leaf]) {
        let is_missing = |leaf: &&Leaf| self.projects.get(&leaf.name).is_some_and(|of| of.missing.is_some());
        let missing: Vec<_> = asked.iter().filter(is_missing).map(|leaf| leaf.name.clone()).collect();
        if missing.len() <= MISSING_AT_ONCE || missing.len() * 2 <= asked.len() {
            return;
        }
        tracing::warn!(
            "upstream has no page for {} of {} projects, which says nothing about them",
            missing.len(),
            asked.len()
        );
        for name in missing {
            self.fetcher.sights().forget(&Subject::MissingPage(name.clone()));
            self.projects.entry(name).and_modify(|followed| followed.missing = None);
        }
    }

    /// Follows a project of the sweep by the log alone, if that has something of it.
    pub(super) fn leave_to_log(&mut self, name: ProjectName) -> Result<(), SyncError> {
        match self.log.last(&name, self.head()) {
            Some(_) => drop(self.follow_project(name, None, &[])?),
            None => drop(self.projects.remove(&name)),
        }
        Ok(())
    }

    /// A swept project that the log has an event of is followed by the log, from what the base has, so that its page
    /// does not stand in the way.
    pub(super) fn follow_swept_by_log(&mut self) -> Result<(), SyncError> {
        for (name, followed) in &mut self.projects {
            if followed.swept && self.log.of(name).last().is_some_and(|change| change.serial > self.from) {
                followed.swept = false;
                let leaf = followed.leaf.as_ref().expect("the sweep goes over what the base has");
                followed.project.base = Base::of(self.fetcher.base_content(leaf)?);
                followed.project.since = self.from;
            }
        }
        Ok(())
    }
}
