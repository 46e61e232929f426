//! A mirror together with the right to change it.

use std::ops::Deref;
use std::sync::Arc;

use strandline_durable::Lock;
use strandline_model::{MirrorName, Timestamp};

use crate::{Mirror, Store, StoreError};

/// A mirror that this process alone may change, until this is dropped or the process ends, however it ends. It reads as
/// the [`Mirror`] that it is. A change of what a mirror has is a method of it, or of an [`Intake`](crate::Intake), which
/// keeps the lock as long as it is open. So it cannot be changed without the lock, or with that of another mirror. Pins and
/// withdrawals alone need no lock, because they hold whichever process has the mirror.
///
/// ```
/// use strandline_model::Timestamp;
/// use strandline_store::{Locked, StoreError};
///
/// fn resume(mirror: &Locked) -> Result<(), StoreError> {
///     mirror.freeze(false)
/// }
/// ```
///
/// ```compile_fail
/// use strandline_model::Timestamp;
/// use strandline_store::{Mirror, StoreError};
///
/// fn resume(mirror: &Mirror) -> Result<(), StoreError> {
///     mirror.freeze(false)
/// }
/// ```
#[derive(Debug)]
pub struct Locked {
    mirror: Mirror,
    pub(crate) lock: Arc<Lock>,
}

impl Deref for Locked {
    type Target = Mirror;

    fn deref(&self) -> &Mirror {
        &self.mirror
    }
}

/// What to do while another process has a mirror's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Say which process has it: an error of kind [`LockError::Held`](strandline_durable::LockError::Held).
    Never,
    /// Wait until it is free.
    UntilFree,
}

impl Store {
    /// Takes the right to change a mirror, and finishes what the last process that had the mirror left half done. A
    /// mirror that the catalog does not know has its row from now on. `now` is what other processes are told when they
    /// find the lock taken.
    pub fn lock(self: &Arc<Self>, name: &MirrorName, wait: Wait, now: Timestamp) -> Result<Locked, StoreError> {
        let (path, since) = (self.mirror_lock(name), now.to_string());
        let lock = match wait {
            Wait::Never => Lock::take(&path, &format!("mirror `{name}`"), &since),
            Wait::UntilFree => Lock::wait(&path, &since),
        }?;
        let locked = self.locked(name, lock)?;
        locked.finish_commits()?;
        Ok(locked)
    }

    /// The mirror whose lock this is, without what the process that had it before may have left of a removal.
    pub(crate) fn locked(self: &Arc<Self>, name: &MirrorName, lock: Lock) -> Result<Locked, StoreError> {
        self.finish_removal(name)?;
        let number = self.ensure_mirror(name)?;
        Ok(Locked { mirror: Mirror { store: Arc::clone(self), name: name.clone(), number }, lock: Arc::new(lock) })
    }

    pub(crate) fn mirror_lock(&self, name: &MirrorName) -> std::path::PathBuf {
        self.root().join("locks").join(format!("mirror-{name}"))
    }
}
