//! Reading inside one directory, and nowhere else.
//!
//! What always holds: the kernel resolves each path below the directory and follows no symbolic link on the way
//! (openat2(2), Linux 5.6); what is opened without waiting is looked at before it is read.
//!
//! A walk by paths, as the crate `walkdir` makes it, cannot promise this: it looks at a directory and opens it in two
//! steps, and a directory that becomes a link between the two leads out of the tree.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat, statat};
use rustix::io::Errno;
use strandline_sync::adopt::Opened;

/// A directory that is read in.
#[derive(Debug)]
pub(crate) struct Confined {
    top: File,
}

/// What an entry of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else, or something with a name that is not text.
    Other,
}

/// What is read of a file.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// All of it.
    Whole(Vec<u8>),
    /// There is none.
    Missing,
    /// It is a symbolic link, to this.
    Link(String),
}

impl Confined {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        Ok(Self { top: File::open(root)? })
    }

    fn open_below(&self, path: &str, flags: OFlags) -> Result<File, Errno> {
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(&self.top, path, flags, Mode::empty(), resolve)?.into())
    }

    /// Opens a regular file.
    pub(crate) fn open_file(&self, path: &str) -> Opened {
        match self.open_below(path, OFlags::empty()) {
            Ok(file) => match file.metadata() {
                Ok(metadata) if metadata.is_file() => Opened::File(file),
                Ok(_) => Opened::Unfit("is no regular file".to_owned()),
                Err(error) => Opened::Unfit(format!("cannot be read: {error}")),
            },
            Err(Errno::NOENT | Errno::NOTDIR) => Opened::Missing,
            Err(Errno::LOOP | Errno::XDEV) => {
                Opened::Unfit("is behind a symbolic link, and none is followed".to_owned())
            }
            Err(error) => Opened::Unfit(format!("cannot be read: {error}")),
        }
    }

    /// Reads a file of at most `most` bytes.
    pub(crate) fn bytes(&self, path: &str, most: u64) -> Result<Bytes, String> {
        let file = match self.open_file(path) {
            Opened::File(file) => file,
            Opened::Missing => return Ok(Bytes::Missing),
            // Of a link only the target's name is looked at.
            Opened::Unfit(problem) => {
                let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
                let directory = self.open_below(directory, OFlags::DIRECTORY).map_err(|_| problem.clone())?;
                let target = readlinkat(&directory, name, Vec::new()).map_err(|_| problem)?;
                return Ok(Bytes::Link(target.to_string_lossy().into_owned()));
            }
        };
        let mut bytes = Vec::new();
        file.take(most.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| format!("cannot be read: {error}"))?;
        if bytes.len() as u64 > most {
            return Err(format!("is larger than the limit of {most} bytes (`max-page-size`)"));
        }
        Ok(Bytes::Whole(bytes))
    }

    /// What is in a directory, sorted by name; nothing if it is not there.
    pub(crate) fn children(&self, path: &str) -> io::Result<Vec<(String, Kind)>> {
        let directory = match self.open_below(path, OFlags::DIRECTORY) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut found = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                found.push((entry.file_name().to_string_lossy().into_owned(), Kind::Other));
                continue;
            };
            if matches!(name, "." | "..") {
                continue;
            }
            let mut kind = entry.file_type();
            // Not every file system says it with the name.
            if kind == FileType::Unknown {
                let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                kind = FileType::from_raw_mode(stat.st_mode);
            }
            let kind = match kind {
                FileType::RegularFile => Kind::File,
                FileType::Directory => Kind::Directory,
                _ => Kind::Other,
            };
            found.push((name.to_owned(), kind));
        }
        found.sort();
        Ok(found)
    }
}
