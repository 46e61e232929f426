//! The files of a store as they stand on the disk, without asking the catalog; and where a file goes that is not what
//! it should be.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use strandline_durable::{Disk, DiskError, children};

use crate::{Store, StoreError};

/// Where in the store what is broken goes.
const ASIDE: &str = "damaged";

/// The names in a directory; none where there is none. Those that are not text are not ours.
pub(crate) fn names(directory: &Path) -> Result<impl Iterator<Item = String>, DiskError> {
    Ok(children(directory)?.into_iter().filter_map(|child| child.file_name().into_string().ok()))
}

/// The latest time of modification of the files right in the trees of views: lists.
pub(crate) fn latest_list(views: &Path) -> Result<u64, DiskError> {
    let mut latest = 0;
    for path in names(views)?.flat_map(|mirror| ["a", "b"].map(|tree| views.join(&mirror).join(tree).join("simple"))) {
        for name in names(&path)? {
            if let Ok(metadata) = std::fs::symlink_metadata(path.join(name))
                && metadata.is_file()
            {
                latest = latest.max(u64::try_from(metadata.mtime()).unwrap_or(0));
            }
        }
    }
    Ok(latest)
}

/// Moves a file that is not what it should be to where no process takes it for that; returns where it is. The caller
/// syncs where it was.
pub(crate) fn move_aside(root: &Path, disk: &Disk, path: &Path) -> Result<PathBuf, DiskError> {
    let directory = root.join(ASIDE);
    disk.create_directory(&directory)?;
    let below = path.strip_prefix(root.join("blobs")).unwrap_or(path);
    let name = match below.parent().and_then(Path::file_name).filter(|_| below != path) {
        // A blob's name is cut in two on the disk.
        Some(first) => format!("{}{}", first.display(), below.file_name().unwrap_or_default().display()),
        None => path.file_name().unwrap_or_default().display().to_string(),
    };
    for number in 1_u32.. {
        let to = directory.join(if number == 1 { name.clone() } else { format!("{name}.{number}") });
        if disk.rename_new(path, &to)? {
            disk.sync_directory(&directory)?;
            disk.sync_directory(root)?;
            return Ok(to);
        }
    }
    unreachable!("there is always another number")
}

impl Store {
    /// Moves a file of the store that is not what it should be to where no process takes it for that; returns where it is.
    pub fn set_aside(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let aside = move_aside(&self.root, &self.disk, path)?;
        self.disk.sync_directory(path.parent().unwrap_or(&self.root))?;
        Ok(aside)
    }

    /// Gives files from now on later times than those that the views show already: the catalog may be an older one, from a
    /// backup, that does not know of them.
    pub fn outrun_views(&self) -> Result<(), StoreError> {
        let latest = latest_list(&self.root.join("views"))?;
        self.execute("UPDATE next_mtime SET value = ?1 WHERE value < ?1", [latest.saturating_add(1)]).map(drop)
    }
}
