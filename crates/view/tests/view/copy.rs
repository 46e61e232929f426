//! Copies of stores.
#![expect(clippy::disallowed_methods, reason = "a copy is made behind the program's back")]

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

/// Copies everything below a directory: hard links, symbolic links and times of modification as they are. `copied` is
/// what was copied so far, by inode.
pub(crate) fn copy_tree(from: &Path, to: &Path, copied: &mut HashMap<u64, PathBuf>) -> io::Result<()> {
    fs::create_dir(to)?;
    for child in fs::read_dir(from)? {
        let child = child?;
        let (kind, to) = (child.file_type()?, to.join(child.file_name()));
        if kind.is_dir() {
            copy_tree(&child.path(), &to, copied)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(child.path())?, to)?;
        } else if let Some(first) = copied.get(&child.metadata()?.ino()) {
            fs::hard_link(first, to)?;
        } else {
            let metadata = child.metadata()?;
            fs::copy(child.path(), &to)?;
            // Opened for reading: who may write does not matter for setting a time, and blobs are read-only.
            fs::File::open(&to)?.set_modified(metadata.modified()?)?;
            copied.insert(metadata.ino(), to);
        }
    }
    Ok(())
}
