#![expect(clippy::disallowed_methods, reason = "lock files are written here")]

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::DiskError;

/// A lock on a file, held until it is dropped or the process ends, however it ends: the kernel holds it, so a
/// stale lock cannot exist. The file itself stays.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// The process that holds a lock, as it wrote itself into the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The process id.
    pub process: String,
    /// Since when, as text.
    pub since: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} since {}", self.process, self.since)
    }
}

/// The lock was not taken. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{what} is held by {holder}")]
    Held {
        /// What the lock is for.
        what: String,
        /// The process that has it.
        holder: Holder,
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl Lock {
    /// Takes the lock for this process alone, or says which process has it. `what` names the lock in that error; `since` is
    /// the time now, for the errors of other processes.
    pub fn take(path: &Path, what: &str, since: &str) -> Result<Self, LockError> {
        Self::free(path)?.ok_or_else(|| held(path, what))?.signed(path, since)
    }

    /// As [`take`](Self::take), but waits until it can be had.
    pub fn wait(path: &Path, since: &str) -> Result<Self, LockError> {
        Self::alone(path)?.signed(path, since)
    }

    /// Takes the lock together with other processes that share it; waits while a process has it alone.
    pub fn share(path: &Path) -> Result<Self, LockError> {
        let waited = Self::open(path, |file| file.lock_shared().map_err(TryLockError::Error))?;
        Ok(waited.expect("it was waited for"))
    }

    /// Takes the lock for this process alone; waits while other processes have or share it.
    pub fn alone(path: &Path) -> Result<Self, LockError> {
        let waited = Self::open(path, |file| file.lock().map_err(TryLockError::Error))?;
        Ok(waited.expect("it was waited for"))
    }

    /// Takes the lock for this process alone, if no process has or shares it; else returns `None`.
    pub fn free(path: &Path) -> Result<Option<Self>, LockError> {
        Self::open(path, File::try_lock)
    }

    fn open(path: &Path, lock: fn(&File) -> Result<(), TryLockError>) -> Result<Option<Self>, LockError> {
        let open = || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            match lock(&file) {
                Ok(()) => Ok(Some(Self { file })),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
            }
        };
        open().map_err(|source| DiskError::new("lock", path, source).into())
    }

    fn signed(mut self, path: &Path, since: &str) -> Result<Self, LockError> {
        let mut sign = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            writeln!(self.file, "{} {since}", std::process::id())
        };
        sign().map_err(|source| DiskError::new("write to", path, source))?;
        Ok(self)
    }
}

fn held(path: &Path, what: &str) -> LockError {
    let mut text = String::new();
    // A process that has just taken it may not have signed yet: then the error says less.
    if File::open(path).and_then(|file| file.take(200).read_to_string(&mut text)).is_err() {
        text.clear();
    }
    let (process, since) = text.trim().split_once(' ').unwrap_or(("(unknown)", "just now"));
    let holder = Holder { process: process.to_owned(), since: since.to_owned() };
    LockError::Held { what: what.to_owned(), holder, path: path.to_owned() }
}
