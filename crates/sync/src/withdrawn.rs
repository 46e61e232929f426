//! Withdrawn files in a sync: they are left out of what upstream shows, as if it did not list them.

use std::borrow::Cow;

use strandline_model::ProjectName;
use strandline_store::Locked;
use strandline_view::RootLists;
use tokio::task::block_in_place;

use crate::cut::Content;
use crate::purge::{Purge, versions_left};
use crate::record::Page;
use crate::source::Source;
use crate::{Clock, Context, Fetcher, Stored, SyncError};

/// Carries out what is withdrawn from the mirror and was not carried out yet. Returns whether there was something.
pub(crate) fn finish<S: Source>(
    context: &Context<S>,
    lists: &dyn RootLists,
    clock: &Clock,
    mirror: &Locked,
) -> Result<bool, SyncError> {
    let Context { store, source, .. } = context;
    if !store.purging()?.contains(mirror.name()) {
        // The process that went through the last mirror may have died before the bytes went.
        if store.is_purging()? {
            block_in_place(|| store.delete_withdrawn(clock()))?;
        }
        return Ok(false);
    }
    let purge = Purge { store, pages: &**source, lists, now: clock() };
    block_in_place(|| {
        purge.mirror(mirror)?;
        store.delete_withdrawn(clock())?;
        tracing::warn!(mirror = %mirror.name(), "carried out a withdrawal that was recorded and not done yet");
        Ok(true)
    })
}

impl<S: Source> Fetcher<S> {
    /// A page without what is withdrawn from the mirror.
    pub(crate) fn shown(&self, project: &ProjectName, mut page: Page) -> Result<Page, SyncError> {
        let withdrawn = block_in_place(|| self.mirror.withdrawn())?;
        if !page.files.iter().any(|file| withdrawn.contains(&file.sha256)) {
            return Ok(page);
        }
        let (removed, left): (Vec<_>, Vec<_>) =
            page.files.into_iter().partition(|file| withdrawn.contains(&file.sha256));
        let names = |files: &[crate::record::ListedFile]| -> Vec<String> {
            files.iter().map(|file| file.details.filename.as_str().to_owned()).collect()
        };
        page.versions = self.versions_left(project, &page.versions, &names(&removed), &names(&left));
        page.files = left;
        let removed = removed.iter().map(|file| file.sha256).collect();
        block_in_place(|| self.mirror.note_left_out(project, &removed))?;
        Ok(page)
    }

    /// What a project is to be without what was withdrawn from the mirror since it was fetched.
    pub(crate) fn unwithdrawn<'a>(
        &self,
        project: &ProjectName,
        content: &'a Content<Stored>,
    ) -> Result<Cow<'a, Content<Stored>>, SyncError> {
        let withdrawn = self.mirror.withdrawn()?;
        let goes = |file: &crate::cut::File<Stored>| {
            file.content.as_ref().ok().map(Stored::sha256).filter(|sha256| withdrawn.contains(sha256))
        };
        let removed: std::collections::BTreeSet<_> = content.files.values().filter_map(goes).collect();
        if removed.is_empty() {
            return Ok(Cow::Borrowed(content));
        }
        let mut content = content.clone();
        let (mut gone, mut left) = (Vec::new(), Vec::new());
        content.files.retain(|name, file| {
            let stays = goes(file).is_none();
            if stays {
                left.push(name.clone());
            } else {
                gone.push(name.clone());
            }
            stays
        });
        content.versions = self.versions_left(project, &content.versions, &gone, &left);
        self.mirror.note_left_out(project, &removed)?;
        Ok(Cow::Owned(content))
    }

    fn versions_left(
        &self,
        project: &ProjectName,
        versions: &[String],
        removed: &[String],
        left: &[String],
    ) -> Vec<String> {
        let [removed, left] = [removed, left].map(|names| names.iter().map(String::as_str).collect::<Vec<_>>());
        let is_of_release = |file: &str, version: &str| self.source.is_of_release(project, file, version);
        versions_left(versions, &removed, &left, &is_of_release)
    }
}
