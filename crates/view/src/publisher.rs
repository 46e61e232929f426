//! From a verified snapshot to what readers see: one stage with one owner.
//!
//! A [`Publisher`] alone waits for readers to leave the standby, stocks the pool, changes the twins and switches
//! `live`. Types say how far a snapshot has come: `Verified` (the store made it) → [`Sealed`] → [`Published`]. The
//! order, each step durable before the next:
//!
//! 1. The catalog says that the standby is being changed, from what to what.
//! 2. The standby is changed, by the difference only. Meanwhile the pool gets the files that the new snapshot names. Both are
//!    synced.
//! 3. The catalog says that the standby is the live tree now ([`Locked::record_switch`]).
//! 4. `live` is renamed; its directory is synced.
//!
//! Where the standby has the snapshot already, only the pool is changed before 3.
//!
//! A crash after 3 leaves `live` one step behind the catalog; [`repair`] makes that step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use strandline_durable::{DiskError, LockError};
use strandline_model::{Blake3, Format, Label, ListedProject, MirrorName, Snapshot, Timestamp, TreePath};
use strandline_store::{Locked, Mirror, Slot, Store, StoreError, Verified, VerifyError, ViewState, Wait};

use crate::files::sync_all;
use crate::pool::link_files;
use crate::staging::root_lists;
use crate::tree;

/// Says what time it is. Tests decide it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Shows snapshots of mirrors to their readers.
#[derive(Clone)]
pub struct Publisher {
    format: Arc<dyn Format>,
    drain: Duration,
    clock: Clock,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("format", &self.format).field("drain", &self.drain).finish_non_exhaustive()
    }
}

/// A verified snapshot with all that is shown together with it. A signature or an entry of a ledger belongs here: it is of
/// the snapshot's id, lies beside the snapshot and never in its bytes, and is switched with it. Only [`Publisher::seal`] makes
/// one.
#[derive(Debug)]
pub struct Sealed(Verified);

impl Sealed {
    /// The BLAKE3 of the snapshot's canonical bytes.
    pub fn id(&self) -> Blake3 {
        self.0.id()
    }

    /// The snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        self.0.snapshot()
    }
}

/// A snapshot that readers see. Only a [`Publisher`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    label: Label,
    slot: Slot,
    projects: usize,
}

impl Published {
    /// The snapshot that readers see: the one that was to be published, or the revision in its place.
    pub fn label(&self) -> Label {
        self.label
    }

    /// The tree that is live now.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// How many projects the standby needed to have changed.
    pub fn projects(&self) -> usize {
        self.projects
    }
}

/// What a publication means for the syncs after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// Nothing: where an operator went back, readers keep what they see, and the snapshot is only made ready.
    Keep,
    /// They record and do not publish, until it is lifted: an operator goes back.
    Set,
    /// They publish again.
    Lift,
}

/// The view was not switched: readers see what they saw.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The file system said no. The standby may be half changed; the catalog knows.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The catalog said no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The revision that takes the place of a snapshot is not what it should be.
    #[error(transparent)]
    Verify(Box<VerifyError>),
    /// The pool has other bytes at a path that the snapshot names.
    #[error(
        "`{path}` of mirror `{mirror}` has other bytes already: either two projects of the upstream list different files under it, or the file in the pool is damaged (`strandline verify {mirror} --data` tells)"
    )]
    Taken {
        /// The mirror.
        mirror: MirrorName,
        /// The path.
        path: TreePath,
    },
    /// A list came out differently from how the snapshot says: another renderer wrote it. A publisher makes a revision of the
    /// snapshot then ([`Publisher::publish`]).
    #[error(
        "the list `{path}` of mirror `{mirror}` is not the one that its snapshot names: another renderer wrote that"
    )]
    List {
        /// The mirror.
        mirror: MirrorName,
        /// The list.
        path: TreePath,
    },
}

impl From<VerifyError> for ViewError {
    fn from(error: VerifyError) -> Self {
        Self::Verify(Box::new(error))
    }
}

impl Publisher {
    /// A publisher of mirrors of this format. `drain` is how long a request of a reader may take: for so long no tree is changed
    /// that was live.
    pub fn new(format: Arc<dyn Format>, drain: Duration, clock: Clock) -> Self {
        Self { format, drain, clock }
    }

    pub(crate) fn format(&self) -> &dyn Format {
        &*self.format
    }

    /// Adds to a verified snapshot what is shown together with it.
    pub fn seal(&self, verified: Verified) -> Sealed {
        Sealed(verified)
    }

    /// Makes a snapshot of the mirror what readers see, after they have left the standby; returns `None` where an operator went
    /// back and syncs leave it so ([`Freeze::Keep`]): then the pool has the files that the snapshot names, and nothing
    /// else has changed.
    ///
    /// Where another renderer wrote the lists that the snapshot names, and the standby has them no more, a revision of the
    /// snapshot takes its place, which is the same but for its lists, and readers see that.
    ///
    /// After an error readers see what they saw. The standby may be half changed; the catalog says so.
    ///
    /// # Panics
    ///
    /// If it is a snapshot of another mirror.
    pub async fn publish(
        &self,
        mirror: &Locked,
        sealed: &Sealed,
        freeze: Freeze,
    ) -> Result<Option<Published>, ViewError> {
        let state = mirror.view_state()?;
        let is_frozen = state.is_some_and(|state| state.frozen);
        if is_frozen && freeze == Freeze::Keep {
            let touched = link_files(mirror, &sealed.0)?;
            sync_all(mirror.store(), &mirror.view_directory(), touched)?;
            return Ok(None);
        }
        if state.is_none_or(|state| state.snapshot != sealed.id()) {
            let left = self.undrained(state);
            if !left.is_zero() {
                tokio::time::sleep(left).await;
            }
        }
        self.show_or_revise(mirror, sealed, freeze == Freeze::Set).map(Some)
    }

    /// Switches to a snapshot, or to a revision of it where another renderer wrote the lists that it names.
    fn show_or_revise(&self, mirror: &Locked, sealed: &Sealed, frozen: bool) -> Result<Published, ViewError> {
        match self.show(mirror, sealed, frozen) {
            Err(ViewError::List { .. }) => self.show(mirror, &self.with_lists_made_anew(mirror, sealed)?, frozen),
            done => done,
        }
    }

    /// A revision that takes the place of a snapshot, and is the same but for its lists, which are as the format writes them.
    fn with_lists_made_anew(&self, mirror: &Locked, sealed: &Sealed) -> Result<Sealed, ViewError> {
        let store = mirror.store();
        let old = store.recorded(store.served(sealed.id())?)?;
        let inputs = store.inputs(&old.snapshot)?;
        let lists = |serial, projects: &[ListedProject]| root_lists(&*self.format, serial, projects);
        let revision = mirror.revise(&old, inputs, BTreeMap::new(), lists)?;
        mirror.supersede(&[(old.id, revision.id())])?;
        tracing::info!(
            mirror = %mirror.name(), serial = %revision.snapshot().label,
            "takes the place of serial {}, because another renderer wrote the lists of that", old.snapshot.label
        );
        Ok(self.seal(revision))
    }

    /// Publishes a revision of what is published, because its lists are damaged and cannot be written again; syncs publish or
    /// do not, as before.
    pub(crate) async fn revise_published(&self, mirror: &Locked) -> Result<(), ViewError> {
        let Some(state) = mirror.view_state()? else { return Ok(()) };
        let recorded = mirror.store().recorded(state.snapshot)?;
        let shown = recorded.snapshot.clone();
        let sealed = self.seal(mirror.verified(recorded, Some(&shown))?);
        let sealed = self.with_lists_made_anew(mirror, &sealed)?;
        tokio::time::sleep(self.undrained(Some(state))).await;
        self.show(mirror, &sealed, state.frozen).map(drop)
    }

    /// How much longer no process may touch the standby: readers may be in it who came before the last switch.
    fn undrained(&self, state: Option<ViewState>) -> Duration {
        if self.drain.is_zero() {
            return self.drain;
        }
        // Both times are whole seconds: the switch can have come up to one second later than it says.
        let whole = self.drain + Duration::from_secs(1);
        state.map_or(Duration::ZERO, |state| whole.saturating_sub((self.clock)().since(state.switched)))
    }

    /// Whether no reader can be in the standby any more.
    pub fn is_drained(&self, mirror: &Mirror) -> Result<bool, StoreError> {
        Ok(self.undrained(mirror.view_state()?).is_zero())
    }

    /// Brings the pages of the standby to what readers see, so that the next publication has less to change. The caller
    /// has found that the standby [is drained](Self::is_drained). An error has no consequence: the next publication
    /// does what is left.
    pub fn catch_up(&self, mirror: &Locked) -> Result<(), ViewError> {
        tree::catch_up(mirror)
    }

    /// Switches to a snapshot. `frozen` says whether syncs leave it so.
    fn show(&self, mirror: &Locked, sealed: &Sealed, frozen: bool) -> Result<Published, ViewError> {
        assert_eq!(sealed.snapshot().mirror, *mirror.name(), "a snapshot is shown by its own mirror");
        repair(mirror)?;
        let before = mirror.view_state()?;
        let (view, label) = (mirror.view_directory(), sealed.snapshot().label);
        if let Some(before) = before.filter(|before| before.snapshot == sealed.id()) {
            if before.frozen != frozen {
                mirror.freeze(frozen)?;
            }
            // The process that switched to it may have died right after the rename.
            mirror.store().disk().sync_directory(&view)?;
            return Ok(Published { label, slot: before.slot, projects: 0 });
        }
        let standby = match before {
            Some(state) => state.slot.other(),
            // After a rebuild, the catalog knows nothing of the tree that readers are in.
            None if std::fs::read_link(view.join("live")).is_ok_and(|target| target == Path::new("a")) => Slot::B,
            None => Slot::A,
        };
        let pool = || link_files(mirror, &sealed.0);
        let projects = tree::bring_up(mirror, &sealed.0, standby, pool, &*self.format)?;
        let state = ViewState {
            slot: standby,
            snapshot: sealed.id(),
            previous: before.map(|before| gone_back_to(mirror, before, sealed.id())).transpose()?.flatten(),
            switched: (self.clock)(),
            frozen,
        };
        mirror.record_switch(state)?;
        switch(mirror, standby)?;
        Ok(Published { label, slot: standby, projects })
    }

    /// If the snapshot that the view shows was superseded, switches the view to the revision in its place, frozen or
    /// not as it was; brings the pages of the other tree there, too, if it has some that are not served any more.
    ///
    /// When this has returned, neither tree has the pages of a snapshot that was superseded, and which serial readers
    /// see has not changed. This does not wait for readers who may be in the standby: to remove malware at once is
    /// worth more than to let a request end in the tree in which it began.
    pub fn follow_revisions(&self, mirror: &Locked) -> Result<(), ViewError> {
        repair(mirror)?;
        let store = mirror.store();
        let Some(state) = mirror.view_state()? else { return Ok(()) };
        let shown = store.recorded(state.snapshot)?;
        let recorded = store.recorded(store.served(state.snapshot)?)?;
        let sealed = self.seal(mirror.verified(recorded, Some(&shown.snapshot))?);
        self.show_or_revise(mirror, &sealed, state.frozen)?;

        let Some(state) = mirror.view_state()? else { return Ok(()) };
        let twin = mirror.twin(state.slot.other())?;
        for held in [twin.base, twin.target].into_iter().flatten() {
            if store.served(held)? != held {
                return tree::follow(mirror, state);
            }
        }
        Ok(())
    }
}

/// Makes `live` what the catalog says it is, if a crash came between the two. Returns whether it had to.
pub fn repair(mirror: &Locked) -> Result<bool, ViewError> {
    match misdirected(mirror)? {
        Some(slot) => switch(mirror, slot).map(|()| true),
        None => Ok(false),
    }
}

/// Makes `live` what the catalog says it is, of all mirrors that no process has locked; returns those where it had to.
pub fn recover(store: &Arc<Store>, now: Timestamp) -> Result<Vec<MirrorName>, ViewError> {
    let mut recovered = Vec::new();
    for mirror in store.mirrors()? {
        if misdirected(&mirror)?.is_none() {
            continue;
        }
        match store.lock(mirror.name(), Wait::Never, now) {
            Ok(locked) if repair(&locked)? => recovered.push(mirror.name().clone()),
            // The process that has it is about to make that step.
            Ok(_) | Err(StoreError::Lock(LockError::Held { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(recovered)
}

/// The tree that `live` should point to and does not.
fn misdirected(mirror: &Mirror) -> Result<Option<Slot>, ViewError> {
    let Some(state) = mirror.view_state()? else { return Ok(None) };
    let live = mirror.view_directory().join("live");
    let points = std::fs::read_link(&live).is_ok_and(|target| target == Path::new(state.slot.as_str()));
    Ok((!points).then_some(state.slot))
}

fn switch(mirror: &Locked, slot: Slot) -> Result<(), ViewError> {
    let (store, view) = (mirror.store(), mirror.view_directory());
    store.disk().switch_link(&view.join("live"), Path::new(slot.as_str()))?;
    Ok(store.disk().sync_directory(&view)?)
}

/// The snapshot to which `previous` leads an operator: the one published before, but not one that a withdrawal has just
/// replaced.
fn gone_back_to(mirror: &Mirror, before: ViewState, now: Blake3) -> Result<Option<Blake3>, ViewError> {
    let served = mirror.store().served(before.snapshot)?;
    Ok(if served == now { before.previous } else { Some(served) })
}
