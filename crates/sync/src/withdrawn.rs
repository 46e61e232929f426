//! Withdrawn files in a sync: they are left out of what upstream shows, as if it did not list them.

use strandline_model::{Formats, Mirrored, ProjectName};
use strandline_store::Locked;
use tokio::task::block_in_place;

use crate::purge::{Purge, versions_left};
use crate::upstream::Page;
use crate::{Context, Fetcher, SyncError};

/// Carries out the withdrawals from the mirror that were not carried out yet. Returns whether there were any.
pub(crate) fn finish(context: &Context, mirror: &Locked) -> Result<bool, SyncError> {
    let Context { store, format, .. } = context;
    if !store.purging()?.contains(mirror.name()) {
        // The process that went through the last mirror may have died before the bytes went.
        if store.is_purging()? {
            block_in_place(|| store.delete_withdrawn(context.now()))?;
        }
        return Ok(false);
    }
    let formats = Formats::usual(format.clone());
    let purge = Purge { store, formats: &formats, now: context.now() };
    block_in_place(|| {
        purge.mirror(mirror)?;
        store.delete_withdrawn(context.now())?;
        tracing::warn!(mirror = %mirror.name(), "carried out a withdrawal that was recorded and not done yet");
        Ok(true)
    })
}

impl Fetcher {
    /// A page without what is withdrawn from the mirror.
    pub(crate) fn shown(&self, project: &ProjectName, page: Page) -> Result<Page, SyncError> {
        let withdrawn = block_in_place(|| self.mirror.withdrawn())?;
        let goes: Vec<_> = page.record.files().filter(|(_, told, _)| withdrawn.contains(&told.sha256)).collect();
        if goes.is_empty() {
            return Ok(page);
        }
        let removed = goes.iter().map(|(_, told, _)| told.sha256).collect();
        let names = goes.iter().map(|(name, ..)| (*name).clone()).collect();
        let versions = versions_left(&page.record, &names, &*self.format);
        block_in_place(|| self.mirror.note_left_out(project, &removed))?;
        Ok(Page { record: page.record.without(&names, versions), serial: page.serial })
    }

    /// A project without what was withdrawn from the mirror since it was fetched.
    pub(crate) fn unwithdrawn(&self, project: Mirrored) -> Result<Mirrored, SyncError> {
        let withdrawn = self.mirror.withdrawn()?;
        let goes: Vec<_> = project.files().filter(|(_, told, ..)| withdrawn.contains(&told.sha256)).collect();
        if goes.is_empty() {
            return Ok(project);
        }
        let removed = goes.iter().map(|(_, told, ..)| told.sha256).collect();
        let names = goes.iter().map(|(name, ..)| (*name).clone()).collect();
        let name = project.record().name();
        let versions = versions_left(project.record(), &names, &*self.format);
        self.mirror.note_left_out(name, &removed)?;
        Ok(project.without(&names, versions))
    }
}
