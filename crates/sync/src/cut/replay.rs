//! Applying the log to what a snapshot says of a project.
//!
//! The log says which files, releases and yanks there are; pages say what the files are, and for what reason a release
//! is yanked. A file's hash, size and time never change, so a page of any age can tell them. The log names a release by
//! its version and a file by its name with odd characters escaped: where the two do not match to the letter, the cut
//! does not guess.

use std::collections::{BTreeMap, BTreeSet};

use strandline_model::{Form, Preamble, Status, Yanked};

use super::{Action, Base, Change, Content, File, Project, ReleasesOf, Standing};

/// What is known of a release's yank: as the files show it that were there at M, or by the log.
#[derive(Clone)]
enum Yank {
    Known(Yanked),
    /// The log says that it is yanked, and no page says why.
    NoReason,
}

/// A file that the log has put into a project.
struct Present {
    /// The release, where the log says it.
    version: Option<String>,
    /// What it was at M; `None` if it came later.
    yanked: Option<Yanked>,
}

/// How the project stands after `before`, the events of it in (M, N]; `None` if the log and the pages do not say. `all` are
/// its events up to the head of the log.
pub(super) fn replay<F: Clone + PartialEq>(
    project: &Project<F>,
    before: &[Change],
    all: &[Change],
    releases_of: ReleasesOf<'_>,
) -> Option<Standing<F>> {
    let shown = match &project.base {
        Base::Known(content) | Base::Found(content) => Some(content),
        Base::Absent | Base::Quarantined => None,
        // From its beginning on, the log says everything.
        Base::Unknown(_) => match before.first() {
            Some(Change { action: Action::Create, .. }) => None,
            _ => return None,
        },
    };
    let was_quarantined = matches!(project.base, Base::Quarantined);
    let present = |file: &File<F>| Present { version: None, yanked: Some(file.yanked.clone()) };
    let files = shown.iter().flat_map(|content| &content.files);
    let mut replaying = Replaying {
        project,
        all,
        releases_of,
        exists: shown.is_some() || was_quarantined,
        quarantined: was_quarantined,
        unknown: was_quarantined,
        hidden: BTreeSet::new(),
        releases: BTreeMap::new(),
        files: files.map(|(name, file)| (name.clone(), present(file))).collect(),
        shown,
    };
    before.iter().try_for_each(|change| replaying.follow(change))?;
    replaying.show()
}

/// A project while the log is applied to it.
struct Replaying<'a, F> {
    project: &'a Project<F>,
    all: &'a [Change],
    releases_of: ReleasesOf<'a>,
    /// What M says of it, unless it began anew since.
    shown: Option<&'a Content<F>>,
    exists: bool,
    quarantined: bool,
    /// Whether it is not known what its quarantine hides.
    unknown: bool,
    /// The releases whose files are quarantined.
    hidden: BTreeSet<String>,
    /// The releases whose yank the log has told.
    releases: BTreeMap<String, Yank>,
    files: BTreeMap<String, Present>,
}

impl<F: Clone + PartialEq> Replaying<'_, F> {
    fn of_release(&self, name: &str, file: &Present, version: &str) -> Option<bool> {
        match &file.version {
            Some(own) if own == version => Some(true),
            _ => self.releases_of.has(name, version),
        }
    }

    /// Whether a release was quarantined at M. M shows nothing of it then; the log tells, because its first event about
    /// the quarantine is the clearing.
    fn was_hidden(&self, version: &str) -> bool {
        let first = self.all.iter().find_map(|change| match &change.action {
            Action::QuarantineRelease(of) if of == version => Some(false),
            Action::ClearRelease(of) if of == version => Some(true),
            _ => None,
        });
        first == Some(true)
    }

    /// Applies an event; `None` if it is not clear what the project shows then. As long as it is quarantined, that is clear.
    fn follow(&mut self, change: &Change) -> Option<()> {
        let was_quarantined = self.exists && self.quarantined;
        if self.apply(change).is_none() {
            if !was_quarantined || matches!(change.action, Action::ClearProject) {
                return None;
            }
            self.unknown = true;
        }
        Some(())
    }

    /// Applies an event; `None` if it is not clear what it does.
    fn apply(&mut self, change: &Change) -> Option<()> {
        match &change.action {
            Action::Create => {
                (self.exists, self.quarantined, self.unknown, self.shown) = (true, false, false, None);
                self.hidden.clear();
                self.releases.clear();
                self.files.clear();
            }
            Action::RemoveProject => self.exists = false,
            _ if !self.exists => return None,
            Action::QuarantineProject => self.quarantined = true,
            _ if self.unknown => return None,
            Action::ClearProject if self.quarantined => self.quarantined = false,
            Action::NewRelease(version) | Action::UnyankRelease(version) => {
                self.releases.insert(version.clone(), Yank::Known(Yanked::No));
            }
            // Its release was hidden at M: the file is not shown, and no snapshot tells.
            Action::AddFile(version, _) if self.was_hidden(version) => return None,
            Action::AddFile(version, name) => {
                self.files.insert(name.clone(), Present { version: Some(version.clone()), yanked: None });
            }
            Action::RemoveFile(name) => {
                // A name that the log escapes is not the name of any file.
                self.files.remove(name)?;
            }
            Action::RemoveRelease(version) => {
                let mut stay = BTreeMap::new();
                for (name, file) in std::mem::take(&mut self.files) {
                    if !self.of_release(&name, &file, version)? {
                        stay.insert(name, file);
                    }
                }
                self.files = stay;
                self.releases.remove(version);
                self.hidden.remove(version);
            }
            Action::YankRelease(version) => {
                let reason = reason(self.project, self.all, change, version, self.releases_of);
                let yank = reason.map_or(Yank::NoReason, |reason| Yank::Known(Yanked::Yes(reason)));
                self.releases.insert(version.clone(), yank);
            }
            Action::QuarantineRelease(version) => {
                self.hidden.insert(version.clone());
            }
            // Only a release that was hidden after M can be shown again: no snapshot has the files of one that was
            // hidden before.
            Action::ClearRelease(version) if self.hidden.contains(version) => {
                self.hidden.remove(version);
            }
            Action::ClearProject | Action::ClearRelease(_) | Action::Unknown => return None,
        }
        Some(())
    }

    /// What M shows, if the project has not begun anew since, and the pages fetched since, the newest first.
    fn contents(&self) -> impl Iterator<Item = &Content<F>> {
        self.shown.into_iter().chain(self.project.pages.iter().rev().map(|page| &page.content))
    }

    /// How the project stands now.
    fn show(self) -> Option<Standing<F>> {
        if !self.exists {
            return Some(Standing::Gone);
        }
        if self.quarantined {
            return Some(Standing::Quarantined);
        }
        let mut files = BTreeMap::new();
        for (name, present) in &self.files {
            let mut is_hidden = false;
            for version in &self.hidden {
                is_hidden |= self.of_release(name, present, version)?;
            }
            if !is_hidden {
                let mut file = self.contents().find_map(|content| content.files.get(name))?.clone();
                file.yanked = self.yank(name, present, &file.yanked)?;
                files.insert(name.clone(), file);
            }
        }

        let mut versions = BTreeSet::new();
        // Pages of some forms list no versions at all.
        if self.contents().any(|content| !content.versions.is_empty()) {
            for name in files.keys() {
                self.add_version(name, &self.files[name], &mut versions)?;
            }
        }
        // The log does not have the status and the preamble: the newest page says them, whenever that came, else M does.
        let pages = self.project.pages.iter().filter(|page| page.content.status != Status::Quarantined);
        let latest = pages.max_by_key(|page| page.serial).map(|page| &page.content).or(self.shown);
        Some(Standing::So(Content {
            status: latest.map_or(Status::Active, |latest| latest.status),
            status_reason: latest.and_then(|latest| latest.status_reason.clone()),
            preamble: latest.map_or_else(|| Preamble::of(Form::Json), |latest| latest.preamble.clone()),
            versions: versions.into_iter().collect(),
            files,
        }))
    }

    /// Adds the version of a file as the log spells it, else as the page does that shows the file: M's, or the newest. A release
    /// that was removed may have been made again in another spelling, so no other page tells. `None` if the file's name does
    /// not tell.
    fn add_version(&self, name: &str, present: &Present, versions: &mut BTreeSet<String>) -> Option<()> {
        if let Some(version) = &present.version {
            versions.insert(version.clone());
            return Some(());
        }
        for content in self.contents().filter(|content| content.files.contains_key(name)) {
            for version in &content.versions {
                if self.of_release(name, present, version)? {
                    versions.insert(version.clone());
                    return Some(());
                }
            }
        }
        Some(())
    }

    /// Whether a file is yanked, by what is known of its release; `None` if that does not say.
    fn yank(&self, name: &str, present: &Present, on_page: &Yanked) -> Option<Yanked> {
        for (version, yank) in &self.releases {
            if self.of_release(name, present, version)? {
                return match yank {
                    Yank::Known(yanked) => Some(yanked.clone()),
                    Yank::NoReason => None,
                };
            }
        }
        if let Some(yanked) = &present.yanked {
            return Some(yanked.clone());
        }
        // The file came into a release that was there before: it is yanked as the other files of the release are.
        let version = present.version.as_deref()?;
        for (name, other) in &self.files {
            if let Some(yanked) = &other.yanked
                && self.of_release(name, other, version)?
            {
                return Some(yanked.clone());
            }
        }
        // The release has no other files. Where the log never yanks it, the file has always been as a page shows it.
        let yanks = self.all.iter().any(|change| match &change.action {
            Action::YankRelease(of) | Action::UnyankRelease(of) => of == version,
            _ => false,
        });
        (!yanks).then(|| on_page.clone())
    }
}

/// Why the event `yank` yanked a release: the reason on the pages that are at least as new as the event, if they show
/// only one and the log has no other yank of the release.
fn reason<F>(
    project: &Project<F>,
    all: &[Change],
    yank: &Change,
    version: &str,
    releases_of: ReleasesOf<'_>,
) -> Option<String> {
    let others = all.iter().any(|change| {
        change.serial != yank.serial && matches!(&change.action, Action::YankRelease(of) if of == version)
    });
    if others {
        return None;
    }
    let mut reasons = BTreeSet::new();
    for page in project.pages.iter().filter(|page| page.serial >= yank.serial) {
        for (name, file) in &page.content.files {
            if let Yanked::Yes(reason) = &file.yanked
                && releases_of.has(name, version)?
            {
                reasons.insert(reason.clone());
            }
        }
    }
    let first = reasons.pop_first();
    first.filter(|_| reasons.is_empty())
}
