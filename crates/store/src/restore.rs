//! Putting blobs and bodies right, from bytes that were found again.
//!
//! A broken file is moved aside, never deleted: to `damaged/` in the store, under the name of what it should have been.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use strandline_durable::DiskError;
use strandline_model::{Blake3, ClaimedSha256, Hasher, Sha256, read_chunks};

use crate::bodies::Bodies;
use crate::{Blob, Intake, Locked, ReceiveError, Staged, StoreError};

/// How many bytes are read at once.
const CHUNK: usize = 256 << 10;

/// The BLAKE3 of a file; `None` where there is none.
fn name_of(path: &Path) -> Result<Option<Blake3>, DiskError> {
    match File::open(path).and_then(Hasher::of_reader) {
        Ok((blake3, ..)) => Ok(Some(blake3)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DiskError::new("read", path, error)),
    }
}

impl Intake {
    /// Stages a copy of a file, if its bytes are those of a blob.
    pub fn stage_copy(&self, path: &Path, blob: Blake3, sha256: Sha256) -> Result<Option<Staged>, ReceiveError> {
        // First it is read only: most copies are links to what is broken. One that cannot be read is no copy.
        if !name_of(path).is_ok_and(|found| found == Some(blob)) {
            return Ok(None);
        }
        Ok(self.stage_file(path, sha256)?.filter(|staged| staged.is(blob, sha256)))
    }

    /// Stages a copy of a file, if it can be read and has this SHA-256.
    pub fn stage_file(&self, path: &Path, sha256: Sha256) -> Result<Option<Staged>, ReceiveError> {
        let Ok(file) = File::open(path) else { return Ok(None) };
        match self.copy(&file, path, Some(sha256.into())) {
            Ok(staged) => Ok(Some(staged)),
            Err(ReceiveError::Unreadable(_) | ReceiveError::Digest(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stages a copy of an open file, which has this path and, if it is known, this SHA-256.
    pub fn copy(&self, file: &File, path: &Path, claim: Option<ClaimedSha256>) -> Result<Staged, ReceiveError> {
        let mut incoming = self.receive(claim, None, u64::MAX)?;
        let read = read_chunks(file, &mut vec![0; CHUNK], |bytes| incoming.write(bytes).map_err(Stopped::Receive));
        match read {
            Ok(()) => incoming.finish(),
            Err(Stopped::Read(error)) => Err(ReceiveError::Unreadable(DiskError::new("read", path, error))),
            Err(Stopped::Receive(error)) => Err(error),
        }
    }

    /// Puts a blob in its place again, with its row. A file with other bytes in that place is moved aside; returns
    /// where it is.
    ///
    /// A crash leaves the blob missing at worst, and what was broken aside.
    pub fn restore(&self, staged: Staged) -> Result<(Blob, Option<PathBuf>), StoreError> {
        let store = self.store();
        let path = store.blob_path(staged.blake3());
        let aside = {
            let _placing = store.hold_deletions()?;
            // One that cannot be read is not right either.
            let is_right = name_of(&path).is_ok_and(|found| found == Some(staged.blake3()));
            if is_right || std::fs::symlink_metadata(&path).is_err() { None } else { Some(store.set_aside(&path)?) }
        };
        let blob = self.land(vec![staged])?[0];
        Ok((blob, aside))
    }
}

/// Why the bytes of a file were not staged.
enum Stopped {
    /// It could not be read to its end.
    Read(io::Error),
    Receive(ReceiveError),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl Locked {
    /// Stores bodies of a project again that were lost or damaged: those of one pack together, so that what is packed against it
    /// can be read again, too. Returns whether each is the one with its id; if not, nothing is changed.
    pub fn restore_bodies(&self, lost: Vec<(Blake3, Vec<u8>)>) -> Result<bool, StoreError> {
        if lost.is_empty() || lost.iter().any(|(id, bytes)| Blake3::of(bytes) != *id) {
            return Ok(false);
        }
        let store = &self.store;
        store.transaction(|transaction| Bodies { store, connection: transaction }.restore(lost))?;
        Ok(true)
    }
}
