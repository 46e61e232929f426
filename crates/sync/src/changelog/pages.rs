//! The pages of projects: asked for, with their files, taken as what is known of the project, and remembered for a later sync.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use strandline_model::{Leaf, Method, ProjectName, Serial};
use strandline_store::Subject;

use super::{Followed, Following};
use crate::cut::Seen;
use crate::fetch::{Fetched, LackingFiles, each};
use crate::progress::Progress;
use crate::upstream::{Answer, Validator, Way};
use crate::{FetchError, Fetcher, Logged, Stored, SyncError, Whole};

impl Following<'_> {
    /// Asks for the pages of held projects in all other ways, where the usual one does not lead to the page that is
    /// needed: the sync does not wait for them, so there may be no other round. Where no answer came in time there is none.
    pub(super) async fn ask_otherwise_for_held(&mut self) -> Result<(), SyncError> {
        for way in [Way::Uncompressed, Way::Origin] {
            let lacks = |followed: &Followed| {
                let needs = followed.held.as_ref().map(|held| held.needs);
                let seen = followed.project.pages.iter().map(|page| page.serial).max();
                let slow = followed.failure.as_ref().is_some_and(FetchError::is_slow);
                !slow && needs.is_some_and(|needs| seen.is_none_or(|seen| seen < needs))
            };
            let names = self.projects.iter().filter(|(_, followed)| lacks(followed)).map(|(name, _)| name.clone());
            self.fetch(names.collect(), way).await?;
        }
        Ok(())
    }

    /// Asks for the pages of these projects, and brings their files into the store.
    pub(super) async fn fetch(&mut self, wanted: BTreeSet<ProjectName>, way: Way) -> Result<(), SyncError> {
        self.fetcher.progress.projects.fetch_add(wanted.len() as u64, Ordering::Relaxed);
        let asking: Vec<_> = wanted.into_iter().map(|name| self.asking(name, way)).collect();
        for (name, asked) in each(self.fetcher.settings.connections, asking).await? {
            self.take(&name, asked)?;
        }
        Ok(())
    }

    /// Asks for a project's page, unless the log says that the project is gone or quarantined: a page that still shows files
    /// is older than that.
    pub(super) fn asking(
        &self,
        name: ProjectName,
        way: Way,
    ) -> impl Future<Output = Result<(ProjectName, Asked), SyncError>> + Send + use<> {
        let fetcher = self.fetcher.clone();
        let is_empty = self.log.of(&name).last().is_some_and(|change| change.action.needs_no_page());
        let validator = self.projects.get(&name).and_then(|followed| followed.validator.clone());
        async move {
            if is_empty {
                Progress::add(&fetcher.progress.projects_done, 1);
                return Ok((name, Asked::Nothing));
            }
            ask(fetcher, name, validator, way).await
        }
    }

    /// Takes an answer; returns the page if one came whole.
    pub(super) fn take(&mut self, name: &ProjectName, asked: Asked) -> Result<Option<&Seen<Stored>>, SyncError> {
        let followed = self.projects.get_mut(name).expect("only projects that are followed are asked for");
        if !matches!(asked, Asked::Nothing) {
            followed.failure = None;
        }
        match asked {
            Asked::Page { .. } | Asked::NotModified => {
                followed.missing = None;
                self.fetcher.sights().forget(&Subject::MissingPage(name.clone()));
            }
            Asked::Missing => {
                let since = self.look_at_missing(name)?;
                self.projects.entry(name.clone()).and_modify(|followed| followed.missing = since);
            }
            Asked::Failed(_) | Asked::Nothing => followed.missing = None,
        }
        let followed = self.projects.get_mut(name).expect("it was there a moment ago");
        let before = followed.project.pages.len();
        match asked {
            Asked::Page { seen, validator, failure, lacking } => {
                followed.failure = failure;
                followed.lacking.extend(lacking);
                followed.project.pages.push(*seen);
                followed.validator = validator;
                followed.validates_base = false;
            }
            Asked::NotModified if followed.validates_base => {
                if let Some(leaf) = &followed.leaf {
                    let content = self.fetcher.base_content(leaf)?;
                    followed.project.pages.push(Seen { serial: leaf.serial, content });
                }
            }
            Asked::NotModified => {
                let same = followed.project.pages.last().cloned();
                followed.project.pages.extend(same);
            }
            Asked::Missing | Asked::Nothing => {}
            Asked::Failed(error) => followed.failure = Some(error),
        }
        if followed.project.pages.len() > before {
            followed.loss = None;
        }
        let whole = followed.failure.is_none() && followed.project.pages.len() > before;
        Ok(followed.project.pages.last().filter(|_| whole))
    }

    /// Remembers the newest `most` pages of these projects for a later sync, as far as all of their files came, or, where there is
    /// a base that can say which are lacking, all that can be had.
    /// Returns how a snapshot would list them.
    pub(super) fn remember(&self, names: &BTreeSet<ProjectName>, most: usize) -> Result<Vec<Leaf>, SyncError> {
        let mut pages = Vec::new();
        for name in names {
            let Some(followed) = self.projects.get(name) else { continue };
            let Followed { project, validator, .. } = followed;
            for (age, Seen { serial, content }) in project.pages.iter().rev().take(most).enumerate() {
                let is_known = |stored: &Stored| self.base.is_some() || !stored.is_lacking();
                if content.files.values().all(|file| file.content.as_ref().is_ok_and(is_known)) {
                    let validator = validator.clone().filter(|_| age == 0);
                    let (display, content) = (self.display_name(name, self.head()), content.clone());
                    let serial = Some(*serial);
                    pages.push((
                        name.clone(),
                        Whole { display, serial, content, validator, logged: Logged::Yes, earlier: None },
                    ));
                }
            }
        }
        pages.reverse();
        self.fetcher.remember(pages)
    }

    /// Remembers all pages of the projects that have events after a serial; returns those projects.
    pub(super) fn remember_after(&self, serial: Serial) -> Result<BTreeSet<ProjectName>, SyncError> {
        let moves = |name: &&ProjectName| self.log.of(name).last().is_some_and(|change| change.serial > serial);
        let later = self.log.projects().filter(moves).cloned().collect();
        self.remember(&later, usize::MAX)?;
        Ok(later)
    }
}

/// What asking for a page brought.
pub(super) enum Asked {
    Page {
        seen: Box<Seen<Stored>>,
        validator: Option<Validator>,
        failure: Option<FetchError>,
        lacking: LackingFiles,
    },
    NotModified,
    Missing,
    Failed(FetchError),
    /// It was not asked for.
    Nothing,
}

/// Fetches a page and its files. A fault of upstream is an answer; only a fault of this machine is an error.
async fn ask(
    fetcher: Arc<Fetcher>,
    name: ProjectName,
    validator: Option<Validator>,
    way: Way,
) -> Result<(ProjectName, Asked), SyncError> {
    let asked = match fetcher.page(&name, validator.as_ref(), way, Method::Changelog).await {
        Ok(Answer::NotModified) => Asked::NotModified,
        Ok(Answer::Missing) => Asked::Missing,
        Err(SyncError::Fetch(error)) if error.is_upstreams() => Asked::Failed(*error),
        Err(error) => return Err(error),
        Ok(Answer::Page { page, validator }) => {
            let Fetched { content, whole, failures, lacking } = fetcher.content_of_page(&page).await?;
            // A page that could not be used whole is asked for again whole.
            let validator = validator.filter(|_| whole);
            let (serial, failure) = (page.serial.unwrap_or(Serial::ZERO), failures.into_iter().last());
            Asked::Page { seen: Box::new(Seen { serial, content }), validator, failure, lacking }
        }
    };
    Progress::add(&fetcher.progress.projects_done, 1);
    Ok((name, asked))
}
