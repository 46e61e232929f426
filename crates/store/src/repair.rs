//! Putting blobs and bodies right, from bytes that somebody has found again.
//!
//! What is broken is moved aside, never deleted: to `damaged/` in the store, under the name that it should have had.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rusqlite::OptionalExtension as _;
use strandline_model::{Blake3, Hasher, Sha256, Unit};

use crate::bodies::Bodies;
use crate::rebuild::{hash, latest_list, move_aside};
use crate::{Blob, Intake, MirrorLock, ReceiveError, Staged, Store, StoreError};

/// Where in the store what is broken goes.
pub(crate) const ASIDE: &str = "damaged";
/// How many bytes are read at once.
const CHUNK: usize = 256 << 10;

impl Staged {
    /// What the bytes turned out to be.
    pub fn is(&self, blob: Blake3, sha256: Sha256) -> bool {
        let entry = self.at("x".parse().expect("a path of one letter"));
        entry.blob == blob && entry.sha256 == sha256
    }
}

impl Intake {
    /// Stages a copy of a file, if its bytes are those of a blob.
    pub fn stage_copy(&self, path: &Path, blob: Blake3, sha256: Sha256) -> Result<Option<Staged>, ReceiveError> {
        // First it is read only: most copies are links to what is broken.
        let mut hasher = Hasher::default();
        if hash(path, &mut hasher).is_err() || hasher.finish().0 != blob {
            return Ok(None);
        }
        Ok(self.stage_file(path, sha256)?.filter(|staged| staged.is(blob, sha256)))
    }

    /// Stages a copy of a file, if it can be read and has this SHA-256.
    pub fn stage_file(&self, path: &Path, sha256: Sha256) -> Result<Option<Staged>, ReceiveError> {
        let Ok(mut file) = File::open(path) else { return Ok(None) };
        let mut incoming = self.receive(Some(sha256.into()), None, u64::MAX)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => incoming.write(&chunk[..count])?,
                Err(_) => return Ok(None),
            }
        }
        match incoming.finish() {
            Ok(staged) => Ok(Some(staged)),
            Err(ReceiveError::Digest(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a blob in its place again, with its row. What is there and has other bytes is moved aside; returns where it is.
    ///
    /// A crash leaves the blob missing at worst, and what was broken aside.
    pub fn restore(&self, staged: Staged) -> Result<(Blob, Option<PathBuf>), StoreError> {
        let store = self.store();
        let entry = staged.at("x".parse().expect("a path of one letter"));
        let path = store.blob_path(entry.blob);
        let aside = {
            let _placing = store.hold_deletions()?;
            let mut hasher = Hasher::default();
            let is_right = hash(&path, &mut hasher).is_ok() && hasher.finish().0 == entry.blob;
            if is_right || std::fs::symlink_metadata(&path).is_err() { None } else { Some(store.set_aside(&path)?) }
        };
        let blob = self.settle(vec![staged])?[0];
        Ok((blob, aside))
    }
}

impl Store {
    /// The blob with this SHA-256, if the catalog has it, whoever brought it: to tell what was there, not to hand it on.
    pub fn blob_of(&self, sha256: Sha256) -> Result<Option<Blob>, StoreError> {
        self.connection()
            .prepare_cached("SELECT blake3, sha256, size, mtime FROM blob WHERE sha256 = ?1 AND deleting = 0")
            .and_then(|mut statement| statement.query_row([sha256.as_bytes()], crate::blobs::blob).optional())
            .map_err(self.sql())
    }

    /// Gives files from now on later times than those that the views show already: the catalog may be an older one, from a
    /// backup, that does not know of them.
    pub fn outrun_views(&self) -> Result<(), StoreError> {
        let latest = latest_list(&self.root.join("views"))?;
        self.transaction(|transaction| {
            transaction
                .execute("UPDATE next_mtime SET value = ?1 WHERE value < ?1", [latest.saturating_add(1)])
                .map_err(self.sql())
        })?;
        Ok(())
    }

    /// Moves a file of the store that is not what it should be to where nobody takes it for that; returns where it is.
    pub fn set_aside(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let aside = move_aside(&self.root, &self.disk, path)?;
        self.disk.sync_directory(path.parent().unwrap_or(&self.root))?;
        Ok(aside)
    }

    /// Stores a unit again whose body was lost or damaged. Returns whether it is the one with this id; if not, nothing is
    /// changed.
    pub fn restore_unit(&self, id: Blake3, unit: &Unit, _lock: &MirrorLock) -> Result<bool, StoreError> {
        let bytes = unit.to_bytes();
        if Blake3::of(&bytes) != id {
            return Ok(false);
        }
        self.transaction(|transaction| {
            transaction.execute("DELETE FROM body WHERE id = ?1", [id.as_bytes()]).map_err(self.sql())?;
            Bodies { store: self, connection: transaction }.write(id, &bytes)
        })?;
        Ok(true)
    }
}
