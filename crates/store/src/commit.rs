//! Committing a manifest, and reading it back.
//!
//! [`Locked::commit`] writes a snapshot and the bodies that its tree has and its parent's does not, in one transaction.
//! [`Locked::verify`] then reads the new rows again, re-hashes them, and looks whether every blob that they name is
//! there; only what it returns can be built into a view. A snapshot that was not verified is never the base of another.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;

use rayon::prelude::*;
use rusqlite::{Connection, Transaction};
use strandline_durable::{DiskError, wide};
use strandline_model::{
    Blake3, DisplayName, Entry, Follow, Gone, Held, Inputs, Label, Leaf, ListedProject, Method, MirrorName,
    ProjectName, RECORD, RecordBodies, RecordId, RootList, Serial, Snapshot, Timestamp, Unit, UpstreamUrl, trie,
};

use crate::bodies::{Bodies, Remembered};
use crate::packs::NewPack;
use crate::rows::blake3;
use crate::{Blob, Conclusion, Locked, Recorded, Store, StoreError};

/// What is to become a snapshot.
#[derive(Debug)]
pub struct Draft {
    /// The verified snapshot that it starts from.
    pub base: Option<Recorded>,
    /// Upstream's serial, or the mirror's own count.
    pub serial: Serial,
    /// Whether it is the mirror's own count.
    pub counted: bool,
    /// When.
    pub time: Timestamp,
    /// What it is a copy of.
    pub upstream: UpstreamUrl,
    /// Which projects it follows.
    pub follow: Follow,
    /// What decides what of the records is shown.
    pub inputs: Inputs,
    /// Up to when uploads are shown.
    pub cutoff: Timestamp,
    /// How upstream's state was found.
    pub method: Method,
    /// The projects that changed since `base`; `None` for those that are gone.
    pub changes: BTreeMap<ProjectName, Option<DraftUnit>>,
    /// Projects whose units are in the catalog already, as they are to be listed.
    pub stored: Vec<Leaf>,
    /// The projects that are held, sorted by name.
    pub held: Vec<Held>,
    /// The projects that went without a row of the log, sorted by name.
    pub gone: Vec<Gone>,
    /// Serials up to `serial` that upstream's log did not show, as far back as an event is believed to come to light
    /// late; `None` where the log was not read: then the recorded serials stay.
    pub missing: Option<Vec<Serial>>,
    /// What becomes of what a sync remembered on the way; `None` where no sync made this.
    pub conclusion: Option<Conclusion>,
}

/// A project of a draft.
#[derive(Debug, Clone)]
pub struct DraftUnit {
    /// What readers get; `None` where the project has never been good.
    pub unit: Option<Unit>,
    /// What upstream says of it. Of a project that is held, the unit may show an earlier record.
    pub record: RecordId,
    /// That record, and the one that the unit shows, unless the catalog has them already.
    pub bodies: Vec<RecordBodies>,
    /// The serial of the last row of the log about it.
    pub serial: Serial,
    /// Its name as its owner writes it.
    pub display: DisplayName,
    /// Whether the root lists name it.
    pub listed: bool,
    /// Whether the log tells all that changed upstream.
    pub logged: bool,
}

impl DraftUnit {
    /// How a tree lists it.
    pub fn leaf(&self) -> Leaf {
        Leaf {
            name: self.display.normalise(),
            listed: self.listed,
            logged: self.logged,
            unit: self.unit.as_ref().map(|unit| Blake3::of(&unit.to_bytes())),
            record: Some(self.record),
            serial: self.serial,
            display: self.display.clone(),
        }
    }
}

/// A snapshot that is in the catalog and was not read back yet.
#[derive(Debug)]
#[must_use = "a committed snapshot is not verified, and not published"]
pub struct Committed {
    recorded: Recorded,
    /// Made when the snapshot is verified: one that is not can be dropped, and what was remembered has to be there then.
    conclusion: Option<Conclusion>,
}

/// A snapshot whose new rows were read back and whose blobs are all there. Only [`Locked::verify`] and
/// [`Locked::verified`] make one.
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

/// A manifest names something that is not there. The manifest stays in the catalog, unverified, and nothing is built
/// from it.
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

impl Locked {
    /// Commits a snapshot: everything of it or, on an error, nothing. `lists` derives the digests of the root lists
    /// from all projects, sorted by name. Its label is the serial, with the next free revision.
    pub fn commit(
        &self,
        draft: Draft,
        lists: impl FnOnce(Serial, &[ListedProject]) -> Vec<RootList>,
    ) -> Result<Committed, StoreError> {
        let Draft { base, serial, time, upstream, follow, inputs, cutoff, method, .. } = draft;
        let Draft { counted, changes, stored, held, gone, missing, conclusion, .. } = draft;
        self.store.transaction(|transaction| {
            let bodies = Bodies { store: &self.store, connection: transaction };
            let (root, new) = (base.as_ref().map(|base| base.snapshot.tree), New::of(changes, stored));
            // A first snapshot's list is read from its tree: there can be a million lines.
            let changed = if root.is_some() { new.leaves.clone() } else { BTreeMap::new() };
            let updated = trie::update(&Remembered(&bodies), root, new.leaves)?;
            let trie::Updated { root: tree, state, count, nodes, replaced } = updated;
            let like = |project: &ProjectName| replaced.get(project)?.unit;
            let projects = new.bodies.into_iter().map(|(project, bodies)| NewPack { bodies, like: like(&project) });
            write_new(&bodies, root.is_some(), projects.collect())?;
            let nodes = nodes.into_iter().map(|(id, new)| NewPack::of(id, new.bytes, new.replaces));
            write_new(&bodies, root.is_some(), nodes.collect())?;
            self.record_upstream(transaction, &upstream)?;
            if let Some(missing) = missing {
                self.replace_missing(transaction, &missing)?;
            }
            let named = |bytes: Vec<u8>| (Blake3::of(&bytes), bytes);
            let (follow, inputs) = (named(follow.to_bytes()), named(inputs.to_bytes()));
            let (follow_id, inputs_id) = (follow.0, inputs.0);
            bodies.write(follow.0, follow.1, base.as_ref().map(|base| base.snapshot.follow))?;
            bodies.write(inputs.0, inputs.1, base.as_ref().map(|base| base.snapshot.inputs))?;
            let mut listed = self.update_listing(transaction, root, tree, changed)?;
            ListedProject::hold(&mut listed, &held);
            let snapshot = Snapshot {
                mirror: self.name.clone(),
                label: Label { serial, revision: self.next_revision(transaction, serial)? },
                tree,
                state,
                follow: follow_id,
                inputs: inputs_id,
                cutoff,
                record: RECORD,
                method,
                projects: count,
                listed: listed.len() as u64,
                parent: base.map(|base| base.id),
                time,
                upstream,
                lists: lists(serial, &listed),
                held,
                gone,
            };
            let id = self.insert_snapshot(&bodies, &snapshot, counted)?;
            Ok(Committed { recorded: Recorded { id, snapshot, verified: false, missed: false, counted }, conclusion })
        })
    }

    fn record_upstream(&self, transaction: &Transaction<'_>, upstream: &UpstreamUrl) -> Result<(), StoreError> {
        let first = "UPDATE mirror SET upstream = ?2 WHERE id = ?1 AND upstream IS NULL";
        transaction.execute(first, (self.number, upstream.as_str())).map(drop).map_err(self.store.sql())
    }

    fn next_revision(&self, connection: &Connection, serial: Serial) -> Result<u32, StoreError> {
        let next = "SELECT coalesce(max(revision), 0) + 1 FROM snapshot WHERE mirror = ?1 AND serial = ?2";
        connection.query_row(next, (self.number, serial.get()), |row| row.get(0)).map_err(self.store.sql())
    }

    fn insert_snapshot(&self, bodies: &Bodies<'_>, snapshot: &Snapshot, counted: bool) -> Result<Blake3, StoreError> {
        let bytes = snapshot.to_bytes();
        let id = Blake3::of(&bytes);
        bodies.write(id, bytes, snapshot.parent)?;
        let Label { serial, revision } = snapshot.label;
        // A revision of an earlier snapshot is not newer than the snapshots after that.
        let insert = "INSERT INTO snapshot (id, mirror, serial, revision, time, counted, number)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, coalesce(
                (SELECT number FROM snapshot WHERE id = ?7 AND serial = ?3),
                (SELECT max(number) + 1 FROM snapshot WHERE mirror = ?2), 1))";
        let parent = snapshot.parent.map(|parent| *parent.as_bytes());
        let row = (id.as_bytes(), self.number, serial.get(), revision, snapshot.time.seconds(), counted, parent);
        bodies.connection.execute(insert, row).map_err(self.store.sql())?;
        Ok(id)
    }

    /// Reads back what is new since the snapshot's parent: every node and unit is re-hashed, and every blob that a
    /// new unit names is looked at. Then the snapshot counts as verified, and what the sync remembered is
    /// concluded, in one transaction.
    ///
    /// # Panics
    ///
    /// If it is a snapshot of another mirror.
    pub fn verify(&self, committed: Committed) -> Result<Verified, VerifyError> {
        let Committed { recorded: Recorded { id, snapshot, counted, .. }, conclusion } = committed;
        assert_eq!(snapshot.mirror, self.name, "it was committed under this lock");
        let store = &self.store;
        let snapshot = {
            let connection = store.connection();
            let bodies = Bodies { store, connection: &connection };
            let reread = bodies.snapshot(id)?;
            debug_assert_eq!(reread, snapshot, "the body has the id of the bytes that were committed");
            reread
        };
        let parent = match snapshot.parent {
            // A parent that retention dropped meanwhile cannot be compared with: then everything is read.
            Some(parent) => store.recorded(parent).ok().filter(|parent| parent.verified),
            None => None,
        };
        store.check_difference(parent.as_ref().map(|parent| &parent.snapshot), &snapshot)?;
        store.transaction(|transaction| {
            let verified = "UPDATE snapshot SET verified = 1 WHERE id = ?1";
            transaction.execute(verified, [id.as_bytes()]).map_err(store.sql())?;
            conclusion.map_or(Ok(()), |conclusion| self.write_conclusion(transaction, &conclusion))
        })?;
        Ok(Verified(Recorded { id, snapshot, verified: true, missed: false, counted }))
    }

    /// Commits and verifies a revision of a snapshot: the same state of upstream at the same time, shown by other `inputs` and
    /// with `changes`; `lists` as in [`commit`](Self::commit). What takes the old one's place is for the caller to say
    /// ([`supersede`](Self::supersede)).
    pub fn revise(
        &self,
        old: &Recorded,
        inputs: Inputs,
        changes: BTreeMap<ProjectName, Option<DraftUnit>>,
        lists: impl FnOnce(Serial, &[ListedProject]) -> Vec<RootList>,
    ) -> Result<Verified, VerifyError> {
        let snapshot = &old.snapshot;
        let draft = Draft {
            base: Some(old.clone()),
            serial: snapshot.label.serial,
            counted: old.counted,
            // Retention and look-ups by date take it for the old one.
            time: snapshot.time,
            upstream: snapshot.upstream.clone(),
            follow: self.store.follow(snapshot)?,
            inputs,
            cutoff: snapshot.cutoff,
            method: snapshot.method,
            changes,
            stored: Vec::new(),
            held: snapshot.held.clone(),
            gone: snapshot.gone.clone(),
            missing: None,
            conclusion: None,
        };
        self.verify(self.commit(draft, lists)?)
    }

    /// Verifies the snapshots that a crash left committed but not verified, and drops those that do not pass.
    pub(crate) fn finish_commits(&self) -> Result<(), StoreError> {
        let unverified = "SELECT id FROM snapshot WHERE mirror = ?1 AND verified = 0 ORDER BY number, revision";
        for id in self.store.rows(unverified, [self.number], |row| blake3(row, 0))? {
            let found = self.store.recorded(id).map_err(VerifyError::from);
            match found.and_then(|found| self.verify(Committed { recorded: found, conclusion: None })) {
                Ok(verified) => {
                    tracing::info!("serial {} of mirror `{}` is verified now", verified.snapshot().label, self.name);
                }
                Err(VerifyError::Store(error)) if !matches!(error, StoreError::Damaged { .. }) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "a snapshot that was never published is dropped");
                    self.store.execute("DELETE FROM snapshot WHERE id = ?1 AND verified = 0", [id.as_bytes()])?;
                }
            }
        }
        Ok(())
    }

    /// A retained snapshot of this mirror that was verified once, if everything that it has and `present` does not have
    /// is still there.
    pub fn verified(&self, recorded: Recorded, present: Option<&Snapshot>) -> Result<Verified, VerifyError> {
        if !recorded.verified {
            return self.verify(Committed { recorded, conclusion: None });
        }
        self.store.check_difference(present, &recorded.snapshot)?;
        Ok(Verified(recorded))
    }
}

/// What a draft brings: how its projects are to be listed, and the bytes of records and units, by project: those of one are
/// packed and read together.
struct New {
    leaves: BTreeMap<ProjectName, Option<Leaf>>,
    bodies: Vec<(ProjectName, Vec<(Blake3, Vec<u8>)>)>,
}

impl New {
    fn of(changes: BTreeMap<ProjectName, Option<DraftUnit>>, stored: Vec<Leaf>) -> Self {
        let mut leaves: BTreeMap<_, _> = stored.into_iter().map(|leaf| (leaf.name.clone(), Some(leaf))).collect();
        let mut bodies = Vec::new();
        for (name, change) in changes {
            let leaf = change.map(|draft| {
                let leaf = draft.leaf();
                let mut own: Vec<_> = draft.bodies.into_iter().flat_map(RecordBodies::into_parts).collect();
                own.extend(leaf.unit.zip(draft.unit).map(|(id, unit)| (id, unit.to_bytes())));
                bodies.push((name.clone(), own));
                leaf
            });
            leaves.insert(name, leaf);
        }
        Self { leaves, bodies }
    }
}

/// Stores packs. In a catalog that has next to nothing yet, there is nothing to look up ahead.
fn write_new(bodies: &Bodies<'_>, look_ahead: bool, new: Vec<NewPack>) -> Result<(), StoreError> {
    if look_ahead {
        let ids = new.iter().flat_map(|pack| &pack.bodies).map(|(id, _)| *id);
        bodies.store.look_ahead_at_bodies(&ids.collect::<Vec<_>>());
    }
    bodies.write_packs(new)
}

impl Store {
    /// Re-hashes the record and the unit of every project that a snapshot has otherwise than another one, and looks at their files.
    fn check_difference(&self, present: Option<&Snapshot>, snapshot: &Snapshot) -> Result<(), VerifyError> {
        let mut differences = self.differences(present, Some(snapshot));
        while let Some(units) = differences.next_hashed()? {
            self.check_files(snapshot, &units)?;
        }
        Ok(())
    }

    /// Looks whether the blobs of units are in the catalog and on the disk, with the right sizes.
    fn check_files(&self, snapshot: &Snapshot, units: &[Unit]) -> Result<(), VerifyError> {
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
}
