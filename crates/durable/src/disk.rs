#![expect(clippy::disallowed_methods, reason = "this is the one place where the program writes")]

use std::fmt;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// The disk refused a step. All steps before it were done.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", path.display())]
pub struct DiskError {
    /// What was to be done, in words that stand before the path.
    pub action: &'static str,
    /// The path.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

impl DiskError {
    /// An error of the operating system about a path.
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.to_owned(), source }
    }

    /// Whether there is no room left: no blocks, no inodes, or no quota.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// The disk as the program may change it. Cheap to clone; clones share their count of steps.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    fault: Option<Arc<Fault>>,
    watch: Option<Arc<dyn Watch>>,
}

#[derive(Debug)]
struct Fault {
    done: AtomicU64,
    /// Which steps fail, from the first to the last.
    fails: (u64, u64),
}

/// A step of a disk: one change, or one fsync or syncfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the method of the same name")]
pub enum Step<'a> {
    CreateDirectory { path: &'a Path },
    CreateFile { path: &'a Path },
    Write { path: &'a Path, bytes: &'a [u8] },
    Seal { path: &'a Path, modified: u64 },
    Sync { path: &'a Path },
    Rename { from: &'a Path, to: &'a Path },
    RenameNew { from: &'a Path, to: &'a Path },
    Link { from: &'a Path, to: &'a Path },
    Copy { from: &'a Path, to: &'a Path },
    CreateLink { path: &'a Path, target: &'a Path },
    RemoveFile { path: &'a Path },
    RemoveEmptyDirectory { path: &'a Path },
    RemoveTree { path: &'a Path },
    SyncDirectory { path: &'a Path },
    SyncFileSystem { path: &'a Path },
    Commit { catalog: &'a Path },
    Committed { catalog: &'a Path },
}

/// Sees what a disk does, for tests and measurements.
pub trait Watch: fmt::Debug + Send + Sync {
    /// A step was done, even if it found nothing to do (`RemoveFile`, `RenameNew`).
    fn done(&self, step: Step<'_>);
}

/// What is free on a file system, for this user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// In bytes.
    pub bytes: u64,
    /// How many more files and directories fit; `None` where the file system does not count them.
    pub inodes: Option<u64>,
}

impl Disk {
    /// The real disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that counts its steps and never fails, for tests.
    pub fn counting() -> Self {
        Self::failing_at(u64::MAX)
    }

    /// A disk whose `n`-th step (from 1) and all after it fail without effect, for tests.
    pub fn failing_at(n: u64) -> Self {
        Self::failing((n, u64::MAX))
    }

    /// A disk whose `n`-th step (from 1) alone fails without effect, for tests: an error that the program survives.
    pub fn failing_once_at(n: u64) -> Self {
        Self::failing((n, n))
    }

    fn failing(fails: (u64, u64)) -> Self {
        Self { fault: Some(Arc::new(Fault { done: AtomicU64::new(0), fails })), watch: None }
    }

    /// The same disk, and `watch` sees what it does.
    #[must_use]
    pub fn watched_by(self, watch: Arc<dyn Watch>) -> Self {
        Self { watch: Some(watch), ..self }
    }

    /// How many steps were asked for so far; 0 on the real disk, which does not count.
    pub fn steps(&self) -> u64 {
        self.fault.as_ref().map_or(0, |fault| fault.done.load(Ordering::SeqCst))
    }

    /// What is free on the file system of `path`.
    pub fn free(&self, path: &Path) -> Result<Free, DiskError> {
        let found = rustix::fs::statvfs(path)
            .map_err(|error| DiskError::new("ask for the free space of", path, error.into()))?;
        let inodes = (found.f_files > 0).then_some(found.f_favail);
        Ok(Free { bytes: found.f_bavail.saturating_mul(found.f_frsize), inodes })
    }

    fn step(&self) -> io::Result<()> {
        let Some(fault) = &self.fault else { return Ok(()) };
        let number = fault.done.fetch_add(1, Ordering::SeqCst) + 1;
        if (fault.fails.0..=fault.fails.1).contains(&number) {
            return Err(io::Error::other("the disk is set to fail here"));
        }
        Ok(())
    }

    fn run<T>(
        &self,
        action: &'static str,
        path: &Path,
        step: Step<'_>,
        act: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, DiskError> {
        let done = self.step().and_then(|()| act()).map_err(|source| DiskError::new(action, path, source))?;
        if let Some(watch) = &self.watch {
            watch.done(step);
        }
        Ok(done)
    }

    /// Stands for the moment in which a transaction of SQLite becomes durable: call it right before COMMIT.
    pub fn commit_point(&self, catalog: &Path) -> Result<(), DiskError> {
        self.run("commit to", catalog, Step::Commit { catalog }, || Ok(()))
    }

    /// Stands for the moment after that: call it right after COMMIT. An error here means that the transaction is durable all
    /// the same; SQLite can give such errors, too.
    pub fn commit_done(&self, catalog: &Path) -> Result<(), DiskError> {
        self.run("finish the commit to", catalog, Step::Committed { catalog }, || Ok(()))
    }

    /// Creates a directory and its parents; one that is there already is fine. The caller makes the parent durable.
    pub fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        if path.is_dir() {
            return Ok(());
        }
        self.run("create the directory", path, Step::CreateDirectory { path }, || fs::create_dir_all(path))
    }

    /// Creates a file that must not exist yet, to be written by one writer.
    pub fn create_file(&self, path: &Path) -> Result<NewFile, DiskError> {
        let file = self.run("create", path, Step::CreateFile { path }, || File::create_new(path))?;
        Ok(NewFile { file, path: path.to_owned(), disk: self.clone() })
    }

    /// Creates a file of so many bytes that are set aside for it on the disk, without content. An error leaves none.
    pub fn allocate(&self, path: &Path, bytes: u64) -> Result<(), DiskError> {
        self.run("set room aside at", path, Step::CreateFile { path }, || {
            let file = File::create_new(path)?;
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).map_err(|error| {
                // The error is what the caller has to know; an empty file takes no room.
                fs::remove_file(path).err().unwrap_or_else(|| error.into())
            })
        })
    }

    /// Opens a file that [`create_file`](Self::create_file) made and that is not sealed yet, to seal it.
    pub fn reopen(&self, path: &Path) -> Result<NewFile, DiskError> {
        let open = File::options().append(true).open(path);
        let file = open.map_err(|source| DiskError::new("open", path, source))?;
        Ok(NewFile { file, path: path.to_owned(), disk: self.clone() })
    }

    /// Makes a file read-only for all users. Nothing is made durable.
    pub fn protect(&self, path: &Path) -> Result<(), DiskError> {
        // There is no step for modes: a watch sees a write of no bytes.
        let step = Step::Write { path, bytes: &[] };
        self.run("set the mode of", path, step, || fs::set_permissions(path, Permissions::from_mode(0o444)))
    }

    /// Sets a file's time of modification, in seconds since 1970. Nothing is made durable.
    pub fn set_time(&self, path: &Path, modified: u64) -> Result<(), DiskError> {
        use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
        self.run("set the time of", path, Step::Seal { path, modified }, || {
            let seconds = i64::try_from(modified).map_err(io::Error::other)?;
            let times = Timestamps {
                last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
            };
            Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
        })
    }

    /// Makes a file's bytes and time durable, but not its name.
    pub fn sync_file(&self, path: &Path) -> Result<(), DiskError> {
        self.run("sync", path, Step::Sync { path }, || File::open(path)?.sync_all())
    }

    /// Renames a file, replacing what is at `to`. Both are in one file system.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.run("rename to", to, Step::Rename { from, to }, || fs::rename(from, to))
    }

    /// Renames a file to a name that must be free. Returns whether it was; if not, nothing changed.
    pub fn rename_new(&self, from: &Path, to: &Path) -> Result<bool, DiskError> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        let step = Step::RenameNew { from, to };
        self.run("rename to", to, step, || match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        })
    }

    /// Makes `to` another name of the file `from`; where the file system cannot (another device, too many
    /// links), makes a durable copy with the same time of modification. `to` must not exist.
    pub fn link_or_copy(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        match self.run("link", to, Step::Link { from, to }, || fs::hard_link(from, to)) {
            Err(error)
                if matches!(error.source.kind(), io::ErrorKind::TooManyLinks | io::ErrorKind::CrossesDevices) =>
            {
                self.copy(from, to)
            }
            done => done,
        }
    }

    /// Copies by way of a temporary name, so that `to` is never half a file.
    fn copy(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let directory = to.parent().unwrap_or(Path::new("."));
        self.run("copy to", to, Step::Copy { from, to }, || {
            let mut copy = tempfile::Builder::new().prefix(".copy-").tempfile_in(directory)?;
            let mut original = File::open(from)?;
            let metadata = original.metadata()?;
            io::copy(&mut original, copy.as_file_mut())?;
            copy.as_file().set_permissions(metadata.permissions())?;
            copy.as_file().set_times(FileTimes::new().set_modified(metadata.modified()?))?;
            copy.as_file().sync_all()?;
            copy.persist_noclobber(to).map_err(|error| error.error)?;
            Ok(())
        })
    }

    /// Makes `to` a clone of an open file: a file of its own, whose bytes share room with the other's until one of the two
    /// is changed. Returns `None`, with nothing at `to`, where the file system cannot. `to` must not exist.
    pub fn clone_file(&self, original: &File, to: &Path) -> Result<Option<NewFile>, DiskError> {
        use rustix::io::Errno;
        let file = self.run("clone to", to, Step::CreateFile { path: to }, || {
            let file = File::create_new(to)?;
            let cloned = rustix::fs::ioctl_ficlone(&file, original);
            if cloned.is_err() {
                fs::remove_file(to)?;
            }
            match cloned {
                Ok(()) => Ok(Some(file)),
                Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::XDEV | Errno::INVAL | Errno::PERM) => {
                    Ok(None)
                }
                Err(error) => Err(error.into()),
            }
        })?;
        Ok(file.map(|file| NewFile { file, path: to.to_owned(), disk: self.clone() }))
    }

    /// Makes `to` another name of an open file, which is at `from`. Returns `None`, with nothing at `to`, where that cannot
    /// be had: on another file system, without the right to link or to [`seal`](NewFile::seal) the file, or where `from`
    /// means another file by now. `to` must not exist.
    pub fn link_file(&self, original: &File, from: &Path, to: &Path) -> Result<Option<NewFile>, DiskError> {
        use rustix::fs::{Mode, OFlags, open};
        let file = self.run("link", to, Step::Link { from, to }, || {
            let wanted = original.metadata()?;
            let user = rustix::process::geteuid();
            if !user.is_root() && wanted.uid() != user.as_raw() {
                return Ok(None);
            }
            match fs::hard_link(from, to) {
                Ok(()) => {}
                Err(error) => {
                    return match error.kind() {
                        io::ErrorKind::CrossesDevices
                        | io::ErrorKind::TooManyLinks
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::Unsupported
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::NotFound => Ok(None),
                        _ => Err(error),
                    };
                }
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let linked = open(to, flags, Mode::empty()).map(File::from).ok();
            let found = linked.as_ref().map(File::metadata).transpose()?;
            if found.is_some_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino())) {
                return Ok(linked);
            }
            fs::remove_file(to)?;
            Ok(None)
        })?;
        Ok(file.map(|file| NewFile { file, path: to.to_owned(), disk: self.clone() }))
    }

    /// Points the symbolic link `link` to `target` in one step: a reader sees the old target or the new.
    pub fn switch_link(&self, link: &Path, target: &Path) -> Result<(), DiskError> {
        let mut next = link.as_os_str().to_owned();
        next.push(".next");
        let next = PathBuf::from(next);
        self.remove_file(&next)?;
        let step = Step::CreateLink { path: &next, target };
        self.run("create the link", &next, step, || std::os::unix::fs::symlink(target, &next))?;
        self.rename(&next, link)
    }

    /// Removes a file or link; one that is not there is fine. Returns whether it was there.
    pub fn remove_file(&self, path: &Path) -> Result<bool, DiskError> {
        self.run("remove", path, Step::RemoveFile { path }, || match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        })
    }

    /// Removes an empty directory; one that is not there or not empty is fine. Returns whether it is gone.
    pub fn remove_empty_directory(&self, path: &Path) -> Result<bool, DiskError> {
        self.run("remove the directory", path, Step::RemoveEmptyDirectory { path }, || match fs::remove_dir(path) {
            Ok(()) => Ok(true),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => Ok(true),
                io::ErrorKind::DirectoryNotEmpty => Ok(false),
                _ => Err(error),
            },
        })
    }

    /// Removes a directory with everything below it; one that is not there is fine.
    pub fn remove_tree(&self, path: &Path) -> Result<(), DiskError> {
        self.run("remove the tree", path, Step::RemoveTree { path }, || match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
    }

    /// Makes the names in a directory durable.
    pub fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.run("sync the directory", path, Step::SyncDirectory { path }, || File::open(path)?.sync_all())
    }

    /// Makes everything durable that was written to the file system of `path` (syncfs(2)): one call for a
    /// whole batch.
    pub fn sync_file_system(&self, path: &Path) -> Result<(), DiskError> {
        let step = Step::SyncFileSystem { path };
        self.run("sync the file system of", path, step, || Ok(rustix::fs::syncfs(File::open(path)?)?))
    }
}

/// A file that is being written. Dropping it leaves it where it is.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
    disk: Disk,
}

impl NewFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends all of `bytes`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DiskError> {
        let Self { file, path, disk } = self;
        disk.run("write to", path, Step::Write { path, bytes }, || file.write_all(bytes))
    }

    /// Makes it read-only for all users. Nothing is made durable.
    pub fn protect(&mut self) -> Result<(), DiskError> {
        let Self { file, path, disk } = self;
        // There is no step for modes: a watch sees a write of no bytes.
        let step = Step::Write { path, bytes: &[] };
        disk.run("set the mode of", path, step, || file.set_permissions(Permissions::from_mode(0o444)))
    }

    /// Makes it read-only for all users and sets its time of modification, in seconds since 1970. Nothing is
    /// made durable.
    pub fn seal(&mut self, modified: u64) -> Result<(), DiskError> {
        let Self { file, path, disk } = self;
        disk.run("set the time of", path, Step::Seal { path, modified }, || {
            file.set_permissions(Permissions::from_mode(0o444))?;
            file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(modified)))
        })
    }

    /// Reads bytes of it from `offset` on; 0 at its end. Changes nothing.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        loop {
            match self.file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(|source| DiskError::new("read", &self.path, source)),
            }
        }
    }

    /// Makes its bytes durable, but not yet its name.
    pub fn sync(&mut self) -> Result<(), DiskError> {
        let Self { file, path, disk } = self;
        disk.run("sync", path, Step::Sync { path }, || file.sync_all())
    }
}
