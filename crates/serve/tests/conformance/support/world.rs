//! A small store, and the tree that a view of it is.
#![expect(clippy::disallowed_methods, reason = "the tree is made by hand, so that it does not depend on the view")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use strandline_durable::Disk;
use strandline_faultkit::{draft, draft_unit};
use strandline_model::{Blake3, DisplayName, Format, ListedProject, MirrorName, Serial, Timestamp};
use strandline_store::{Access, Intake, Slot, Store, ViewState, Wait};
use strandline_testkit::Plain;
use tempfile::TempDir;

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// A path in the mirror and its bytes.
pub(crate) type Content = (String, Vec<u8>);

/// Serial 10 was published at this time, and each serial after it a day later.
const FIRST: i64 = 1_767_268_800;

pub(crate) struct World {
    directory: TempDir,
    store: Arc<Store>,
    mirror: MirrorName,
}

/// How lists are written.
pub(crate) const FORMAT: Plain = Plain::WHOLE;

/// A project's pages and files. `files` are file names with their bytes.
pub(crate) fn project(name: &str, text: &str, files: &[(&str, &[u8])]) -> Vec<Content> {
    let mut content: Vec<Content> =
        files.iter().map(|(file, bytes)| (file_path(file, bytes), bytes.to_vec())).collect();
    for (ending, form) in [("v1_json", "json"), ("v1_html", "html"), ("html", "html")] {
        content.push((format!("simple/{name}/index.{ending}"), format!("{form} {name} {text}").into_bytes()));
    }
    content
}

/// Where a file with these bytes stands.
pub(crate) fn file_path(file: &str, bytes: &[u8]) -> String {
    let digest = Blake3::of(bytes).to_string();
    format!("packages/{}/{}/{}/{file}", &digest[..2], &digest[2..4], &digest[4..16])
}

impl World {
    /// A store whose path has what a configuration needs to quote.
    pub(crate) fn new() -> Outcome<Self> {
        let directory = tempfile::Builder::new().prefix("store $of \"a\\ ").tempdir()?;
        let store = Store::open(directory.path(), Disk::new())?;
        Ok(Self { directory, store, mirror: "pypi".parse()? })
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn mirror(&self) -> &MirrorName {
        &self.mirror
    }

    fn view(&self) -> PathBuf {
        self.store.view_directory(&self.mirror)
    }

    /// Takes a file out of the pool.
    pub(crate) fn unpool(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.view().join(path))
    }

    /// Commits the changes as a snapshot and switches to it. `None` removes a project.
    pub(crate) fn publish(&self, serial: u64, changes: Vec<(&str, Option<Vec<Content>>)>) -> Outcome<()> {
        self.publish_in(&self.mirror, &FORMAT, serial, changes)
    }

    /// The same in a mirror of the store that has a format of its own.
    pub(crate) fn publish_in(
        &self,
        mirror: &MirrorName,
        format: &dyn Format,
        serial: u64,
        changes: Vec<(&str, Option<Vec<Content>>)>,
    ) -> Outcome<()> {
        let serial = Serial::try_from(serial)?;
        let time = Timestamp::from_seconds(FIRST + 86_400 * i64::try_from(serial.get() - 10)?)?;
        let locked = self.store.lock(mirror, Wait::Never, time)?;
        let intake = Intake::open(&locked, Access::Public)?;
        let mut units = BTreeMap::new();
        for (name, content) in changes {
            let display: DisplayName = name.parse()?;
            let unit = match content {
                Some(content) => {
                    let (paths, bytes): (Vec<_>, Vec<_>) = content.into_iter().unzip();
                    let staged = bytes.iter().map(|bytes| intake.stage(bytes)).collect::<Result<_, _>>()?;
                    let blobs = intake.land(staged)?;
                    let entries = blobs.iter().zip(paths).map(|(blob, path)| Ok(blob.at(path.parse()?)));
                    Some(draft_unit(display.clone(), serial, entries.collect::<Outcome<_>>()?))
                }
                None => None,
            };
            units.insert(display.normalise(), unit);
        }
        let base = locked.latest_verified()?;
        let draft = draft(base, serial, time, units);
        let committed =
            locked.commit(draft, |serial, projects| strandline_view::root_lists(format, serial, projects))?;
        let verified = locked.verify(committed)?;

        let before = locked.view_state()?;
        let slot = before.map_or(Slot::A, |state| state.slot.other());
        self.build(slot, verified.snapshot(), format)?;
        let previous = before.map(|state| state.snapshot);
        let state = ViewState { slot, snapshot: verified.id(), previous, switched: time, frozen: false };
        locked.record_switch(state)?;
        let view = self.store.view_directory(mirror);
        let next = view.join("live.next");
        symlink(slot.as_str(), &next)?;
        Ok(fs::rename(next, view.join("live"))?)
    }

    /// Makes the whole tree of a snapshot, and adds its files to the pool.
    fn build(&self, slot: Slot, snapshot: &strandline_model::Snapshot, format: &dyn Format) -> Outcome<()> {
        let view = self.store.view_directory(&snapshot.mirror);
        let tree = view.join(slot.as_str());
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        fs::create_dir_all(tree.join("simple"))?;
        symlink("../packages", tree.join("packages"))?;
        let leaves = self.store.leaves(snapshot)?;
        for unit in leaves.iter().filter_map(|leaf| leaf.unit) {
            for entry in self.store.unit(unit)?.entries() {
                let top = if entry.path.first_segment() == "packages" { view.clone() } else { tree.clone() };
                let to = top.join(entry.path.as_str());
                fs::create_dir_all(to.parent().ok_or("a path with a parent")?)?;
                if !to.exists() {
                    fs::hard_link(self.store.blob_path(entry.blob), to)?;
                }
            }
        }
        // What a copy that was cut off leaves; no reader may see it.
        fs::create_dir_all(view.join("packages/aa"))?;
        fs::write(view.join("packages/aa/.copy-1"), "half")?;
        let projects: Vec<_> = leaves.into_iter().filter_map(ListedProject::of).collect();
        for list in &snapshot.lists {
            let mut file = fs::File::create(tree.join(list.path.as_str()))?;
            format.write_list(&list.path, snapshot.label.serial, &projects, &mut file)?;
            let mtime = self.store.allocate_mtimes(1)?;
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(mtime))?;
        }
        Ok(())
    }
}
