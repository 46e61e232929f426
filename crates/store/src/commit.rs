//! Committing a manifest, and reading it back.
//!
//! [`Store::commit`] writes a snapshot and the bodies that its tree has and its parent's does not, in one
//! transaction. [`Store::verify`] then reads the new rows again, re-hashes them, and looks whether every blob that
//! they name is there; only what it returns can be built into a view. What was not verified is never the base of
//! another snapshot.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use rayon::prelude::*;
use rusqlite::OptionalExtension as _;
use strandline_durable::{DiskError, wide};
use strandline_model::{
    Blake3, DisplayName, Entry, Held, Label, Leaf, MirrorName, ProjectName, RootList, Serial, Snapshot, Timestamp,
    Unit, UpstreamUrl, trie,
};

use crate::bodies::{Bodies, Remembered};
use crate::{Blob, MirrorLock, Recorded, Store, StoreError};

/// What is to become a snapshot.
#[derive(Debug)]
pub struct Draft {
    /// Of which mirror.
    pub mirror: MirrorName,
    /// The verified snapshot that it starts from.
    pub base: Option<Recorded>,
    /// Upstream's serial.
    pub serial: Serial,
    /// When.
    pub time: Timestamp,
    /// What it is a copy of.
    pub upstream: UpstreamUrl,
    /// The digest of what the configuration asks for.
    pub selection: Blake3,
    /// The projects that changed since `base`; `None` for those that are gone.
    pub changes: BTreeMap<ProjectName, Option<DraftUnit>>,
    /// Projects whose units are in the catalog already, as they are to be listed.
    pub stored: Vec<Leaf>,
    /// The projects that are held, sorted by name.
    pub held: Vec<Held>,
    /// Serials up to `serial` that upstream's log did not show, as far back as an event is believed to come to light late;
    /// `None` where the log was not read: then what was recorded stays.
    pub missing: Option<Vec<Serial>>,
}

/// A project of a draft.
#[derive(Debug)]
pub struct DraftUnit {
    /// Its entries.
    pub unit: Unit,
    /// The serial of its last change.
    pub serial: Serial,
    /// Its name as its owner writes it.
    pub display: DisplayName,
}

/// A snapshot that is in the catalog and was not read back yet.
#[derive(Debug)]
#[must_use = "a committed snapshot is not verified, and not published"]
pub struct Committed(Recorded);

/// A snapshot whose new rows were read back and whose blobs are all there. Only [`Store::verify`] and
/// [`Store::verified`] make one.
#[derive(Debug, Clone)]
pub struct Verified(Recorded);

impl Verified {
    /// The BLAKE3 of its canonical bytes.
    pub fn id(&self) -> Blake3 {
        self.0.id
    }

    /// Its content.
    pub fn snapshot(&self) -> &Snapshot {
        &self.0.snapshot
    }
}

/// What a manifest names is not there. It stays in the catalog, unverified, and nothing is built from it.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A blob is missing or has another size.
    #[error("snapshot {label} of mirror `{mirror}` names `{path}`, and its blob {blob} {problem}")]
    Blob {
        /// The mirror.
        mirror: MirrorName,
        /// The snapshot.
        label: Label,
        /// A path that has the blob.
        path: strandline_model::TreePath,
        /// The blob.
        blob: Blake3,
        /// What is wrong with it.
        problem: String,
    },
    /// The store could not be read, or a body in it is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Commits a snapshot: everything of it or, on an error, nothing. `lists` derives the digests of the root lists
    /// from all projects, sorted by name. Its label is the serial, with the next free revision.
    pub fn commit(
        &self,
        draft: Draft,
        _lock: &MirrorLock,
        lists: impl FnOnce(Serial, Vec<Leaf>) -> Vec<RootList>,
    ) -> Result<Committed, StoreError> {
        let Draft { mirror, base, serial, time, upstream, selection, changes, stored, held, missing } = draft;
        self.transaction(|transaction| {
            let bodies = Bodies { store: self, connection: transaction };
            let mut leaves: BTreeMap<_, _> = stored.into_iter().map(|leaf| (leaf.name.clone(), Some(leaf))).collect();
            let mut units = BTreeMap::new();
            for (name, change) in changes {
                let leaf = change.map(|DraftUnit { unit, serial, display }| {
                    let bytes = unit.to_bytes();
                    let id = Blake3::of(&bytes);
                    units.insert(id, bytes);
                    Leaf { unit: id, serial, name: name.clone(), display }
                });
                leaves.insert(name, leaf);
            }
            let root = base.as_ref().map(|base| base.snapshot.tree);
            let write = |new: BTreeMap<Blake3, Vec<u8>>| {
                if root.is_some() {
                    self.look_ahead_at_bodies(&new.keys().copied().collect::<Vec<_>>());
                }
                bodies.write_all(&new.into_iter().collect::<Vec<_>>())
            };
            write(units)?;
            // A first snapshot's list is read from its tree: there can be a million lines.
            let changed = if root.is_some() { leaves.clone() } else { BTreeMap::new() };
            let trie::Updated { root: new_root, count, nodes } = trie::update(&Remembered(&bodies), root, leaves)?;
            write(nodes)?;
            let mirror_row: i64 = transaction
                .query_row(
                    "INSERT INTO mirror (name, upstream) VALUES (?1, ?2)
                     ON CONFLICT (name) DO UPDATE SET upstream = upstream RETURNING id",
                    (mirror.as_str(), upstream.as_str()),
                    |row| row.get(0),
                )
                .map_err(self.sql())?;
            if let Some(missing) = missing {
                self.replace_missing(transaction, &mirror, &missing)?;
            }
            let all = self.update_listing(transaction, &mirror, root, new_root, &changed)?;
            let revision: u32 = transaction
                .query_row(
                    "SELECT coalesce(max(revision), 0) + 1 FROM snapshot WHERE mirror = ?1 AND serial = ?2",
                    (mirror_row, serial.get()),
                    |row| row.get(0),
                )
                .map_err(self.sql())?;
            let snapshot = Snapshot {
                mirror,
                label: Label { serial, revision },
                tree: new_root,
                units: count,
                parent: base.map(|base| base.id),
                time,
                upstream,
                selection,
                lists: lists(serial, all),
                held,
            };
            let bytes = snapshot.to_bytes();
            let id = Blake3::of(&bytes);
            bodies.write(id, &bytes)?;
            transaction
                .execute(
                    "INSERT INTO snapshot (id, mirror, serial, revision, time) VALUES (?1, ?2, ?3, ?4, ?5)",
                    (id.as_bytes(), mirror_row, serial.get(), revision, time.seconds()),
                )
                .map_err(self.sql())?;
            Ok(Committed(Recorded { id, snapshot, verified: false, missed: false }))
        })
    }

    /// Reads back what is new since the snapshot's parent: every node and unit is re-hashed, and every blob that a
    /// new unit names is looked at. Then the snapshot counts as verified.
    pub fn verify(&self, committed: Committed) -> Result<Verified, VerifyError> {
        let Recorded { id, snapshot, .. } = committed.0;
        let snapshot = {
            let connection = self.connection();
            let bodies = Bodies { store: self, connection: &connection };
            let reread = bodies.snapshot(id)?;
            debug_assert_eq!(reread, snapshot, "the body has the id of the bytes that were committed");
            reread
        };
        let parent = match snapshot.parent {
            // A parent that retention dropped meanwhile cannot be compared with: then everything is read.
            Some(parent) => self.recorded(parent).ok().filter(|parent| parent.verified),
            None => None,
        };
        self.check_difference(parent.as_ref().map(|parent| &parent.snapshot), &snapshot)?;
        self.transaction(|transaction| {
            transaction.execute("UPDATE snapshot SET verified = 1 WHERE id = ?1", [id.as_bytes()]).map_err(self.sql())
        })?;
        Ok(Verified(Recorded { id, snapshot, verified: true, missed: false }))
    }

    /// Verifies what a crash left between a commit and its verification; what does not pass is dropped.
    pub(crate) fn finish_commits(&self, mirror: &MirrorName, _lock: &MirrorLock) -> Result<(), StoreError> {
        for id in self.unverified(mirror)? {
            let checked = self.recorded(id).map_err(VerifyError::from).and_then(|found| self.verify(Committed(found)));
            match checked {
                Ok(verified) => {
                    tracing::info!("serial {} of mirror `{mirror}` is verified now", verified.snapshot().label);
                }
                Err(VerifyError::Store(error)) if !matches!(error, StoreError::Damaged { .. }) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "a snapshot that was never published is dropped");
                    self.transaction(|transaction| {
                        transaction
                            .execute("DELETE FROM snapshot WHERE id = ?1 AND verified = 0", [id.as_bytes()])
                            .map_err(self.sql())
                    })?;
                }
            }
        }
        Ok(())
    }

    fn unverified(&self, mirror: &MirrorName) -> Result<Vec<Blake3>, StoreError> {
        let ids: Vec<[u8; 32]> = self
            .connection()
            .prepare_cached(
                "SELECT s.id FROM snapshot s JOIN mirror m ON m.id = s.mirror
                 WHERE m.name = ?1 AND s.verified = 0 ORDER BY s.serial, s.revision",
            )
            .and_then(|mut statement| statement.query_map([mirror.as_str()], |row| row.get(0))?.collect())
            .map_err(self.sql())?;
        Ok(ids.into_iter().map(Blake3::from_stored).collect())
    }

    /// A retained snapshot that was verified once, if what it has and `present` has not is still there.
    pub fn verified(&self, recorded: Recorded, present: Option<&Snapshot>) -> Result<Verified, VerifyError> {
        if !recorded.verified {
            return self.verify(Committed(recorded));
        }
        self.check_difference(present, &recorded.snapshot)?;
        Ok(Verified(recorded))
    }

    /// Checks every unit that a snapshot has and another one has not.
    fn check_difference(&self, present: Option<&Snapshot>, snapshot: &Snapshot) -> Result<(), VerifyError> {
        let mut differences = self.differences(present, Some(snapshot));
        loop {
            let part = differences.next_part()?;
            if part.is_empty() {
                return Ok(());
            }
            self.check_units(snapshot, &part.into_iter().filter_map(|(_, unit)| unit).collect::<Vec<_>>())?;
        }
    }

    /// Looks whether the blobs of units are in the catalog and on the disk, with the right sizes.
    fn check_units(&self, snapshot: &Snapshot, units: &[Unit]) -> Result<(), VerifyError> {
        let entries: Vec<_> = units.iter().flat_map(Unit::entries).collect();
        let rows = self.blob_rows(&entries.iter().map(|entry| entry.blob).collect::<Vec<_>>())?;
        let look = |(entry, row): (&Entry, Option<Blob>)| {
            let wrong = |problem: String| VerifyError::Blob {
                mirror: snapshot.mirror.clone(),
                label: snapshot.label,
                path: entry.path.clone(),
                blob: entry.blob,
                problem,
            };
            match row {
                Some(blob) if blob.sha256 == entry.sha256 && blob.size == entry.size => {}
                Some(_) => return Err(wrong("is another one in the catalog".to_owned())),
                None => return Err(wrong("is not in the catalog".to_owned())),
            }
            let path = self.blob_path(entry.blob);
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.size() == entry.size => Ok(()),
                Ok(metadata) => Err(wrong(format!("has {} bytes instead of {}", metadata.size(), entry.size))),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(wrong("is missing".to_owned())),
                Err(error) => Err(StoreError::from(DiskError::new("look at", &path, error)).into()),
            }
        };
        wide(|| entries.into_par_iter().zip(rows).try_for_each(look))
    }

    /// The number of a mirror's row.
    pub(crate) fn mirror_id(&self, connection: &rusqlite::Connection, mirror: &MirrorName) -> Result<i64, StoreError> {
        connection
            .query_row("SELECT id FROM mirror WHERE name = ?1", [mirror.as_str()], |row| row.get(0))
            .optional()
            .map_err(self.sql())?
            .ok_or_else(|| StoreError::Foreign {
                path: self.root.join(crate::CATALOG),
                problem: format!("has no mirror `{mirror}`"),
            })
    }
}
