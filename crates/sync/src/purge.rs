//! Withdrawing a file: malware has to go at once, from every snapshot that is served.
//!
//! A withdrawal is recorded first ([`Store::withdraw`]); everything else follows from the record. If a crash interrupts
//! it, the process that next opens the store or syncs finishes it. A mirror is gone through in this order
//! ([`Purge::mirror`]): the links to the file leave the pool; each snapshot that lists the file gets a revision without
//! it, the published one first; the revision takes the snapshot's place, also as a pin, as the one published before,
//! and in both trees of the view. After the last mirror the bytes go.
//!
//! What always holds:
//!
//! 1. The revisions are those that a sync would have recorded with these withdrawals: their units are what
//!    [`show`] gives of the same records. So the next sync changes nothing.
//! 2. The newest revision of a serial stays the newest state of it: where it did not list the file and an older one did, it
//!    gets a revision too, equal to it.
//! 3. A page that cannot be read does not keep malware alive: its project is left out, and the next sync reads it
//!    again.
//!
//! `tests/pipeline/` has a crash at every step, and a sequence of anything against a model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use strandline_durable::LockError;
use strandline_model::{
    Blake3, ClaimedSha256, Entry, Format, Formats, Inputs, Label, Leaf, MirrorName, Mirrored, ProjectName, Rendered,
    Serial, Shown, Snapshot, Source, Timestamp, TreePath, Unit, show,
};
use strandline_store::{
    Access, DraftUnit, Intake, Locked, Mirror, Naming, Order, Recorded, Staged, Store, StoreError, Verified,
    VerifyError, Wait, WithdrawnFile, is_release_file,
};
use strandline_view::{Publisher, ViewError};

use crate::stored::{self, RecordError};

/// A withdrawal is recorded, but not done everywhere. The same command, any other and the next sync go on from there.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A new revision was not what it should be when it was read back.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The view could not be switched.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// What was done to one mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purged {
    /// The mirror.
    pub mirror: MirrorName,
    /// The snapshots that are not served any more, each with what took its place, the oldest first.
    pub revisions: Vec<(Label, Label)>,
}

/// What is withdrawn from everything that it is to be withdrawn from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Done {
    /// The mirrors that were gone through.
    pub mirrors: Vec<Purged>,
    /// The mirrors that another process has locked: that process goes through them.
    pub busy: Vec<MirrorName>,
    /// How many blobs were deleted.
    pub deleted: usize,
}

/// What a withdrawal is to withdraw. Nothing is changed by making one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The files, each with a name that it has. More can be added: files that no snapshot lists are not fetched any more, either.
    pub files: BTreeMap<ClaimedSha256, WithdrawnFile>,
    /// Files of the project whose names do not tell to which release they belong.
    pub unclear: BTreeSet<String>,
    /// Where they are in the mirrors, with their metadata.
    paths: BTreeMap<MirrorName, BTreeSet<TreePath>>,
}

impl Plan {
    fn add(&mut self, mirror: &MirrorName, unit: &Unit, sha256: ClaimedSha256) {
        let paths = withdrawn_paths(unit, &BTreeSet::from([sha256]));
        let of_file = |path: &&TreePath| unit.entry(path.as_str()).is_some_and(|entry| is_release_file(unit, entry));
        if let Some(path) = paths.iter().find(of_file) {
            let name = Some((unit.name().clone(), path.file_name().to_owned()));
            self.files.entry(sha256).or_insert(WithdrawnFile { sha256, name });
        }
        self.paths.entry(mirror.clone()).or_default().extend(paths);
    }
}

/// What to do about a mirror that another process has locked.
#[derive(Clone, Copy)]
pub enum Busy<'a> {
    /// Leave it to that process.
    Leave,
    /// Say so, and wait for that process, if readers see anything of the mirror.
    Wait(&'a dyn Fn(&MirrorName, &LockError)),
}

impl std::fmt::Debug for Busy<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Leave => "Leave",
            Self::Wait(_) => "Wait",
        })
    }
}

/// Carries withdrawals out.
pub struct Purge<'a> {
    /// Where.
    pub store: &'a Arc<Store>,
    /// How the pages and lists of each mirror are written.
    pub formats: &'a Formats,
    /// When it is.
    pub now: Timestamp,
}

impl std::fmt::Debug for Purge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Purge").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Purge<'_> {
    /// The files of a release, as the served snapshots of the mirrors list them.
    pub fn plan_release(&self, mirrors: &[Mirror], project: &ProjectName, version: &str) -> Result<Plan, PurgeError> {
        let mut plan = Plan::default();
        for mirror in mirrors {
            let superseded = mirror.superseded()?;
            for recorded in mirror.snapshots()? {
                if superseded.contains_key(&recorded.id) {
                    continue;
                }
                let Some(leaf) = self.store.find(&recorded.snapshot, project)? else { continue };
                let Some(unit) = leaf.unit.map(|unit| self.store.unit(unit)).transpose()? else { continue };
                for entry in unit.entries().iter().filter(|entry| is_release_file(&unit, entry)) {
                    let name = entry.path.file_name();
                    match self.formats.of(mirror.name()).is_of_release(project, name, version) {
                        Some(true) => plan.add(mirror.name(), &unit, entry.sha256.into()),
                        Some(false) => {}
                        None => {
                            plan.unclear.insert(name.to_owned());
                        }
                    }
                }
            }
        }
        Ok(plan)
    }

    /// The files with this SHA-256, as the served snapshots of the mirrors list them.
    pub fn plan_file(&self, mirrors: &[Mirror], sha256: ClaimedSha256) -> Result<Plan, PurgeError> {
        let mut plan = Plan::default();
        for mirror in mirrors {
            for naming in mirror.naming(&BTreeSet::from([sha256]))? {
                for unit in naming.projects.iter().filter_map(|leaf| leaf.unit) {
                    plan.add(mirror.name(), &self.store.unit(unit)?, sha256);
                }
            }
        }
        Ok(plan)
    }

    /// Records that the files of a plan are withdrawn, and removes them from the pools: no reader gets them any more,
    /// even while other processes have the mirrors locked. Returns how many were not withdrawn yet.
    /// [`finish`](Self::finish) does what is left to do.
    pub fn execute(&self, plan: &Plan, order: &Order) -> Result<usize, PurgeError> {
        let files: Vec<_> = plan.files.values().cloned().collect();
        let new = self.store.withdraw(order, &files)?;
        for (mirror, paths) in &plan.paths {
            if let Some(mirror) = self.store.mirror(mirror)? {
                mirror.remove_links(paths)?;
            }
        }
        Ok(new)
    }

    /// Does everything that the record still asks for.
    pub fn finish(&self, busy: Busy<'_>) -> Result<Done, PurgeError> {
        let mut done = Done::default();
        if !self.store.is_purging()? {
            return Ok(done);
        }
        for name in self.store.purging()? {
            let Some(mirror) = self.store.mirror(&name)? else { continue };
            let locked = match (self.store.lock(&name, Wait::Never, self.now), busy) {
                (Err(StoreError::Lock(error @ LockError::Held { .. })), Busy::Wait(tell))
                    if mirror.view_state()?.is_some() =>
                {
                    // From now on no reader gets the file, even while the other process works on.
                    remove_links(&mirror, &mirror.naming(&mirror.withdrawn()?)?)?;
                    tell(&name, &error);
                    self.store.lock(&name, Wait::UntilFree, self.now)?
                }
                (Err(StoreError::Lock(LockError::Held { .. })), _) => {
                    done.busy.push(name);
                    continue;
                }
                (locked, _) => locked?,
            };
            done.mirrors.push(self.mirror(&locked)?);
        }
        done.deleted = self.store.delete_withdrawn(self.now)?;
        Ok(done)
    }

    /// Goes through one mirror.
    pub fn mirror(&self, mirror: &Locked) -> Result<Purged, PurgeError> {
        mirror.forget_withdrawn_pages()?;
        let now = self.now;
        let format = Arc::clone(self.formats.of(mirror.name()));
        // Malware does not wait for readers.
        let publisher = Publisher::new(format, Duration::ZERO, Arc::new(move || now));
        let files = mirror.withdrawn()?;
        let naming = mirror.naming(&files)?;
        remove_links(mirror, &naming)?;
        let mut revisions = Vec::new();
        if !naming.is_empty() {
            // The pages of revisions are for this mirror alone, even if other mirrors may use the files that it brings.
            let intake = Intake::open(mirror, Access::Private)?;
            let published = match mirror.view_state()? {
                Some(state) => Some(self.store.recorded(state.snapshot)?.snapshot.label.serial),
                None => None,
            };
            let mut serials: Vec<Serial> = naming.iter().map(|naming| naming.recorded.snapshot.label.serial).collect();
            serials.dedup();
            // The serial that readers see comes first.
            serials.sort_by_key(|serial| (Some(*serial) != published, std::cmp::Reverse(*serial)));
            let revising = Revising { purge: self, mirror, files: &files, intake };
            for serial in serials {
                let pairs = revising.serial(serial, &naming)?;
                let ids: Vec<_> = pairs.iter().map(|(old, new)| (old.id, new.id())).collect();
                mirror.supersede(&ids)?;
                if Some(serial) == published {
                    publisher.follow_revisions(mirror)?;
                }
                revisions.extend(pairs.iter().map(|(old, new)| (old.snapshot.label, new.snapshot().label)));
            }
            revisions.sort_unstable();
        }
        publisher.follow_revisions(mirror)?;
        mirror.purged()?;
        Ok(Purged { mirror: mirror.name().clone(), revisions })
    }
}

/// Removes the links to what is withdrawn, and to its metadata, from a mirror's pool.
fn remove_links(mirror: &Mirror, naming: &[Naming]) -> Result<(), PurgeError> {
    let files = mirror.withdrawn()?;
    let units: BTreeSet<Blake3> =
        naming.iter().flat_map(|naming| &naming.projects).filter_map(|leaf| leaf.unit).collect();
    let mut paths = BTreeSet::new();
    for unit in units {
        paths.extend(withdrawn_paths(&mirror.store().unit(unit)?, &files));
    }
    if !paths.is_empty() {
        mirror.remove_links(&paths)?;
    }
    Ok(())
}

/// The paths of a unit that go: withdrawn files, and their metadata.
fn withdrawn_paths(unit: &Unit, files: &BTreeSet<ClaimedSha256>) -> BTreeSet<TreePath> {
    let mut paths = BTreeSet::new();
    for entry in unit.entries() {
        if files.contains(&entry.sha256.into()) && is_release_file(unit, entry) {
            let metadata = unit.metadata_of(&entry.path);
            paths.extend(metadata.map(|metadata| metadata.path.clone()));
            paths.insert(entry.path.clone());
        }
    }
    paths
}

/// Makes revisions of a mirror's snapshots.
struct Revising<'a> {
    purge: &'a Purge<'a>,
    mirror: &'a Locked,
    files: &'a BTreeSet<ClaimedSha256>,
    intake: Intake,
}

/// What a revision changes; `None` for a project that is left out.
type Changes = BTreeMap<ProjectName, Option<DraftUnit>>;

impl Revising<'_> {
    /// Makes the revisions that one serial needs; returns which snapshots they take the place of.
    fn serial(&self, serial: Serial, naming: &[Naming]) -> Result<Vec<(Recorded, Verified)>, PurgeError> {
        let superseded = self.mirror.superseded()?;
        let mut all = self.mirror.snapshots()?;
        all.retain(|recorded| {
            recorded.snapshot.label.serial == serial && recorded.verified && !superseded.contains_key(&recorded.id)
        });
        all.reverse();
        let mut wanted = Vec::new();
        let mut made = BTreeSet::new();
        for old in &all {
            if made.contains(&old.id) {
                continue;
            }
            let named = naming.iter().find(|naming| naming.recorded.id == old.id);
            let changes = named.map(|named| self.changes(named)).transpose()?;
            // An interrupted run may have made this revision already.
            let found = self.find(old, changes.as_ref().unwrap_or(&Changes::new()), &all)?.cloned();
            made.extend(found.iter().map(|found| found.id));
            wanted.push((old, changes, found));
        }
        let mut pairs = Vec::new();
        let last = wanted.len().saturating_sub(1);
        for (position, (old, changes, found)) in wanted.into_iter().enumerate() {
            let changes = match changes {
                Some(changes) => changes,
                None if position == last && !pairs.is_empty() => Changes::new(),
                None => continue,
            };
            let new = match found {
                Some(found) => self.mirror.verified(found, Some(&old.snapshot))?,
                None => self.revise(old, changes)?,
            };
            pairs.push((old.clone(), new));
        }
        Ok(pairs)
    }

    /// The revision of a snapshot that has exactly these changes, if there is one.
    fn find<'a>(
        &self,
        old: &Recorded,
        changes: &Changes,
        all: &'a [Recorded],
    ) -> Result<Option<&'a Recorded>, PurgeError> {
        for new in all.iter().filter(|new| new.snapshot.parent == Some(old.id)) {
            let (before, after) = (&old.snapshot, &new.snapshot);
            let same = before.time == after.time && before.follow == after.follow && before.held == after.held;
            if !same {
                continue;
            }
            let differs = self.purge.store.diff(Some(before), Some(after))?;
            let as_wanted = |change: &strandline_model::trie::Change| {
                changes.get(&change.name).is_some_and(|wanted| wanted.as_ref().map(DraftUnit::leaf) == change.after)
            };
            if differs.len() == changes.len() && differs.iter().all(as_wanted) {
                return Ok(Some(new));
            }
        }
        Ok(None)
    }

    /// Commits and verifies a revision.
    fn revise(&self, old: &Recorded, changes: Changes) -> Result<Verified, PurgeError> {
        let projects: Vec<_> = changes.keys().cloned().collect();
        match self.commit(old, changes) {
            // Another file of the project is missing. The withdrawn file goes all the same, with the whole project.
            Err(PurgeError::Verify(error @ VerifyError::Blob { .. })) if !projects.is_empty() => {
                for project in &projects {
                    self.leave_out(old.snapshot.label, project, &error)?;
                }
                self.commit(old, projects.into_iter().map(|project| (project, None)).collect())
            }
            done => done,
        }
    }

    fn commit(&self, old: &Recorded, changes: Changes) -> Result<Verified, PurgeError> {
        let (inputs, format) = (self.inputs(&old.snapshot)?, self.format());
        let lists = |serial, projects: &[_]| strandline_view::root_lists(format, serial, projects);
        Ok(self.mirror.revise(old, inputs, changes, lists)?)
    }

    /// What decides what a revision of a snapshot shows: what decided it before, and the withdrawals that are in force now.
    fn inputs(&self, snapshot: &Snapshot) -> Result<Inputs, PurgeError> {
        Ok(Inputs { withdrawn: self.files.clone(), ..self.purge.store.inputs(snapshot)? })
    }

    /// The projects of a snapshot as they are without what is withdrawn.
    fn changes(&self, naming: &Naming) -> Result<Changes, PurgeError> {
        let inputs = self.inputs(&naming.recorded.snapshot)?;
        let mut changes = Changes::new();
        for leaf in &naming.projects {
            let Some(unit) = leaf.unit.map(|unit| self.purge.store.unit(unit)).transpose()? else { continue };
            let removed = unit.entries().iter().filter(|entry| is_release_file(&unit, entry));
            let removed = removed.map(|entry| entry.sha256.into()).filter(|sha256| self.files.contains(sha256));
            self.mirror.note_left_out(&leaf.name, &removed.collect())?;
            let draft = match self.revised(&unit, leaf, &inputs) {
                Ok(draft) => Some(draft?),
                Err(error) => {
                    self.leave_out(naming.recorded.snapshot.label, &leaf.name, &error)?;
                    None
                }
            };
            changes.insert(leaf.name.clone(), draft);
        }
        Ok(changes)
    }

    /// A project with its pages made anew by other inputs; an error where it cannot be read how it is.
    fn revised(&self, unit: &Unit, leaf: &Leaf, inputs: &Inputs) -> Result<Result<DraftUnit, PurgeError>, RecordError> {
        let record = stored::record_of(self.purge.store, unit)?;
        let source = unit.source().ok_or_else(|| RecordError::None(leaf.name.clone()))?;
        let Shown { hidden, listed, .. } = show(&record, source.serial, inputs, self.format());
        let goes = |entry: &Entry| {
            let file = entry.path.file_name();
            let file = file.strip_suffix(".metadata").filter(|_| !is_release_file(unit, entry)).unwrap_or(file);
            entry.path.first_segment() == stored::PAGES || hidden.contains_key(file)
        };
        let entries: Vec<_> = unit.entries().iter().filter(|entry| !goes(entry)).cloned().collect();
        let files = Unit::new(leaf.name.clone(), source, entries.clone()).expect("they are of a unit");
        let shown = stored::shown_by(&files, record, self.format())?;
        Ok(self.with_pages(&shown, source, entries).map(|unit| DraftUnit {
            unit: Some(unit),
            record: leaf.record.unwrap_or(source.record),
            bodies: Vec::new(),
            serial: leaf.serial,
            display: leaf.display.clone(),
            listed,
            logged: leaf.logged,
        }))
    }

    /// A unit of these files, with the pages of a project.
    fn with_pages(&self, shown: &Mirrored, source: Source, mut entries: Vec<Entry>) -> Result<Unit, PurgeError> {
        let pages = self.format().render(shown);
        let stage = |page: &Rendered| self.intake.stage(&page.bytes).map_err(StoreError::from);
        let staged = pages.iter().map(stage).collect::<Result<Vec<Staged>, _>>()?;
        let blobs = self.intake.land(staged)?;
        entries.extend(pages.iter().zip(blobs).map(|(page, blob)| blob.at(page.path.clone())));
        let source = Source { renderer: self.format().number(), ..source };
        Ok(Unit::new(shown.record().name().clone(), source, entries).expect("pages and files stand at different paths"))
    }

    fn format(&self) -> &dyn Format {
        &**self.purge.formats.of(self.mirror.name())
    }

    fn leave_out(&self, label: Label, project: &ProjectName, error: &dyn std::error::Error) -> Result<(), PurgeError> {
        let mirror = self.mirror.name();
        tracing::warn!(
            "{mirror}: the whole project `{project}` is left out of serial {label}, because it cannot be shown without what is withdrawn: {error}; the next sync reads it again"
        );
        Ok(self.mirror.note_reread(std::slice::from_ref(project))?)
    }
}
