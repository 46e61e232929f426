//! What can happen to a world: a method for each kind of change.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Pair, ReplacedUrl, World};
use crate::project::{Change, Project, Status, normalise};
use crate::wheel::{Upload, WheelSpec};

impl World {
    /// `create`: a project without releases. One that was removed before is created anew, with this spelling.
    pub fn create_project(&mut self, display_name: &str) -> u64 {
        self.transact(display_name, vec![(None, "create".to_owned(), Change::Create)])
    }

    /// `add … file …`, with `create` and `new release` before it where the project or the release is new.
    pub fn upload(&mut self, project: &str, upload: &Upload) -> u64 {
        let existing = self.current(project);
        let mut rows = Vec::new();
        if existing.is_none() {
            rows.push((None, "create".to_owned(), Change::Create));
        }
        let version = &upload.version;
        if !existing.is_some_and(|known| known.has_release(version)) {
            rows.push((Some(version.clone()), "new release".to_owned(), Change::NewRelease(version.clone())));
        }
        let file = self.store(upload, None, self.now_ms);
        rows.push((
            Some(version.clone()),
            format!("add {} file {}", upload.python_version(), upload.filename),
            Change::AddFile(file),
        ));
        self.transact(project, rows)
    }

    /// Uploads a small synthetic wheel of `project` at `version`.
    pub fn release(&mut self, project: &str, version: &str) -> u64 {
        self.upload(project, &Upload::wheel(&WheelSpec::new(project, version)))
    }

    /// `new release` without a file.
    pub fn new_release(&mut self, project: &str, version: &str) -> u64 {
        self.about_release(project, version, "new release", Change::NewRelease)
    }

    /// Uploads every wheel and sdist of a directory, by filename; returns their paths on the index.
    pub fn add_wheels_from(&mut self, directory: &Path) -> io::Result<Vec<String>> {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        paths.sort();
        let mut stored = Vec::new();
        for path in paths.iter().filter(|path| path.is_file()) {
            let (project, upload) = Upload::from_path(path)?;
            self.upload(&project, &upload);
            let file = self.current(&project).and_then(|project| project.file(&upload.filename));
            stored.extend(file.map(|file| file.url_path.clone()));
        }
        Ok(stored)
    }

    /// Uploads `version` of `base`, and directly after it `version` of `dependent`, which requires exactly that.
    pub fn release_pair(&mut self, base: &str, dependent: &str, version: &str) -> Pair {
        // The dependent's release is announced first, so that only one serial separates the two files.
        if self.current(dependent).is_none() {
            self.create_project(dependent);
        }
        self.new_release(dependent, version);
        let base_serial = self.release(base, version);
        let requirement = format!("{}=={version}", normalise(base));
        let wheel = WheelSpec::new(dependent, version).requires(&requirement);
        let dependent_serial = self.upload(dependent, &Upload::wheel(&wheel));
        let pair = Pair {
            base: normalise(base),
            dependent: normalise(dependent),
            version: version.to_owned(),
            base_serial,
            dependent_serial,
        };
        self.pairs.push(pair.clone());
        pair
    }

    /// `remove file …`.
    pub fn remove_file(&mut self, project: &str, filename: &str) -> u64 {
        let version = self.current(project).and_then(|project| project.file(filename)).map(|file| file.version.clone());
        let change = Change::RemoveFile(filename.to_owned());
        self.transact(project, vec![(version, format!("remove file {filename}"), change)])
    }

    /// `remove release`: its files go without rows of their own.
    pub fn remove_release(&mut self, project: &str, version: &str) -> u64 {
        self.about_release(project, version, "remove release", Change::RemoveRelease)
    }

    /// `remove project`: everything in it goes without rows of its own.
    pub fn remove_project(&mut self, project: &str) -> u64 {
        self.about_project(project, "remove project", Change::RemoveProject)
    }

    /// `yank release`: marks all files of the release. The reason is not in the log.
    pub fn yank(&mut self, project: &str, version: &str, reason: Option<&str>) -> u64 {
        let reason = reason.unwrap_or_default().to_owned();
        self.about_release(project, version, "yank release", |version| Change::Yank(version, reason))
    }

    /// `unyank release`.
    pub fn unyank(&mut self, project: &str, version: &str) -> u64 {
        self.about_release(project, version, "unyank release", Change::Unyank)
    }

    /// `project quarantined`.
    pub fn quarantine(&mut self, project: &str) -> u64 {
        self.about_project(project, "project quarantined", Change::Quarantine)
    }

    /// `project quarantine cleared`.
    pub fn clear_quarantine(&mut self, project: &str) -> u64 {
        self.about_project(project, "project quarantine cleared", Change::ClearQuarantine)
    }

    /// `release quarantined`.
    pub fn quarantine_release(&mut self, project: &str, version: &str) -> u64 {
        self.about_release(project, version, "release quarantined", Change::QuarantineRelease)
    }

    /// `release quarantine cleared`.
    pub fn clear_release_quarantine(&mut self, project: &str, version: &str) -> u64 {
        self.about_release(project, version, "release quarantine cleared", Change::ClearReleaseQuarantine)
    }

    /// A role event, such as `add Owner bob`. It moves the serial in the log and in the list, and nothing else: the page
    /// says the serial that it said before until it is purged, or as old as [`World::set_page_age`] says.
    pub fn role(&mut self, project: &str, action: &str) -> u64 {
        self.about_project(project, action, Change::Nothing { role: true })
    }

    /// An unknown action. It moves the serial and nothing else.
    pub fn unknown_action(&mut self, project: &str, version: Option<&str>, action: &str) -> u64 {
        let change = Change::Nothing { role: false };
        self.transact(project, vec![(version.map(str::to_owned), action.to_owned(), change)])
    }

    /// Archives the project. Not journaled: the page changes and no serial moves.
    pub fn archive(&mut self, project: &str) -> u64 {
        self.set_status(project, Status::Archived)
    }

    /// Undoes [`World::archive`], as quietly.
    pub fn unarchive(&mut self, project: &str) -> u64 {
        self.set_status(project, Status::Active)
    }

    /// Sets the status without a row in the journal.
    pub fn set_status(&mut self, project: &str, status: Status) -> u64 {
        self.quietly(project, Change::Status(status))
    }

    /// Puts other bytes under the name of a file that is there. Warehouse never does this; plain indexes do. Not
    /// journaled. Does nothing where there is no such file.
    pub fn replace_file(&mut self, project: &str, filename: &str, bytes: impl Into<Bytes>, url: ReplacedUrl) -> u64 {
        let Some(old) = self.current(project).and_then(|project| project.file(filename)) else {
            return self.serial();
        };
        let path = (url == ReplacedUrl::Same).then(|| old.url_path.clone());
        let bytes = bytes.into();
        let upload = Upload {
            filename: filename.to_owned(),
            version: old.version.clone(),
            metadata: crate::wheel::metadata_of(&bytes).map(Bytes::from),
            requires_python: old.requires_python.clone(),
            bytes,
        };
        let file = self.store(&upload, path, self.now_ms);
        self.quietly(project, Change::Replace(file))
    }

    /// Puts the METADATA that is in a wheel beside it, for each wheel of the project that has none there, as Warehouse did in
    /// 2024 with the files from before. Not journaled: pages change and no serial moves.
    pub fn backfill_metadata(&mut self, project: &str) -> u64 {
        let files = self.current(project).into_iter().flat_map(Project::files);
        let bare: Vec<_> = files.filter(|file| file.metadata.is_none()).cloned().collect();
        for old in bare {
            let Some(metadata) = crate::wheel::metadata_of(&old.bytes) else { continue };
            let upload = Upload {
                filename: old.filename.clone(),
                version: old.version.clone(),
                bytes: old.bytes.clone(),
                metadata: Some(metadata.into()),
                requires_python: old.requires_python.clone(),
            };
            let file = self.store(&upload, Some(old.url_path.clone()), old.uploaded_ms);
            self.quietly(project, Change::Replace(file));
        }
        self.serial()
    }

    /// Spells the display name of a project so. Not journaled: Warehouse has no such action, but its operators have a database.
    /// Later rows have the new spelling.
    pub fn respell_project(&mut self, display_name: &str) -> u64 {
        self.quietly(display_name, Change::Respell(display_name.to_owned()))
    }

    /// Moves all files: from now on, `base` stands before `/packages/…` on every page, as in `https://files.example`. Not
    /// journaled. The files go on being where they were, too.
    pub fn move_files(&mut self, base: &str) {
        self.file_hosts.push((self.now_ms, base.to_owned()));
    }

    fn about_project(&mut self, project: &str, action: &str, change: Change) -> u64 {
        self.transact(project, vec![(None, action.to_owned(), change)])
    }

    fn about_release(
        &mut self,
        project: &str,
        version: &str,
        action: &str,
        change: impl FnOnce(String) -> Change,
    ) -> u64 {
        let change = change(version.to_owned());
        self.transact(project, vec![(Some(version.to_owned()), action.to_owned(), change)])
    }
}
