//! Blobs from files that are on this machine already, without their bytes being copied.
//!
//! What always holds: the digests are computed from the bytes as they are read through the name that they have here. A
//! file that was linked and turns out not to be wanted is as it was; one that has landed has become the blob, with the
//! blob's mode and time of modification, under all its names.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Incoming, Intake, ReceiveError, Staged, Temporary};
use strandline_model::Hasher;

/// How many bytes are read at once.
const CHUNK: usize = 256 << 10;

/// How the bytes of a file came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As a clone, which shares room with the original, and is a file of its own.
    Cloned,
    /// As another name of the same file.
    Linked,
    /// As a copy.
    Copied,
}

impl Intake {
    /// Stages a file of this machine without copying it: as a clone, or else, with `link`, under another name. `original`
    /// is open, and at `from`. Returns `None` where neither can be had.
    ///
    /// Only a file with no other name is linked: with one more, another program may rely on its time of modification.
    pub fn share(&self, original: &File, from: &Path, link: bool) -> Result<Option<(Staged, Manner)>, ReceiveError> {
        let disk = &self.store().disk;
        let clones = *self.clones.get_or_init(|| {
            let path = self.next_name();
            let probe = disk.clone_file(original, &path).ok().flatten();
            probe.map(|_| Temporary { path, disk: disk.clone(), renamed: false }).is_some()
        });
        let name = self.next_name();
        let cloned = if clones { disk.clone_file(original, &name)? } else { None };
        let shared = match cloned {
            Some(file) => Some((file, Manner::Cloned)),
            None if link && original.metadata().is_ok_and(|metadata| metadata.nlink() == 1) => {
                disk.link_file(original, from, &name)?.map(|file| (file, Manner::Linked))
            }
            None => None,
        };
        let Some((open, manner)) = shared else { return Ok(None) };
        let file = Temporary { path: name, disk: disk.clone(), renamed: false };
        let mut incoming = Incoming { open, file, hasher: Hasher::default(), claim: None, size: None, most: u64::MAX };
        incoming.read_back()?;
        // A file of the tree that only got another name stays as it is until it lands.
        let Incoming { file, hasher, .. } = incoming;
        let (blake3, sha256, size) = hasher.finish();
        Ok(Some((Staged { file, blake3, sha256, size, protected: false }, manner)))
    }
}

impl Incoming {
    /// Hashes the bytes that the file has already.
    fn read_back(&mut self) -> Result<(), ReceiveError> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = self.open.read_at(&mut buffer, self.hasher.size()).map_err(ReceiveError::Unreadable)?;
            match buffer.get(..read) {
                Some(bytes) if read > 0 => self.hasher.update(bytes),
                _ => return Ok(()),
            }
        }
    }
}
