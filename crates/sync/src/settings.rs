//! What a mirror is configured to be.

use std::collections::BTreeMap;
use std::time::Duration;

use strandline_model::{DisplayName, Follow, Method, MirrorName, ProjectName, Snapshot};
use strandline_store::{Access, Wait};

use crate::MaxDrop;

/// Up to how many named projects are collected where the method is not given: two small requests for each are less
/// than a log of everything.
const COLLECT_UP_TO: usize = 100;
/// A selection that comes to be larger than this is followed by the changelog from then on. The distance between the two keeps a
/// selection that grows and shrinks a little from being followed anew each time.
const FOLLOW_ABOVE: usize = 200;

/// Which mirror, and how to sync it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name.
    pub mirror: MirrorName,
    /// What to mirror.
    pub selection: Selection,
    /// How to find out what changed. `None`: the first sync collects up to 100 named projects, and reads the changelog for
    /// more if upstream has one; later syncs do as the first one did.
    pub method: Option<Method>,
    /// The largest file to take, in bytes.
    pub max_file_size: u64,
    /// How many requests may be under way at once.
    pub connections: usize,
    /// How long a sync tries to find a consistent state before it gives up.
    pub cut_timeout: Duration,
    /// After this long, the part that is determined is published, and the sync goes on to the log's head.
    pub part_after: Duration,
    /// How old the row after a missing serial has to be before the serial is believed to be a hole.
    pub settle: Duration,
    /// How many serials are read again at each sync, for events that came to light late.
    pub overlap: u64,
    /// The time in which the sweep asks for every page once, because some changes are not in the changelog.
    pub recheck: Duration,
    /// How long the files of one project may keep the others of a sync waiting.
    pub longest: Duration,
    /// How long a project may be broken before it is carried at its last good state.
    pub hold_after: Duration,
    /// What a sync does with it then.
    pub on_broken: OnBroken,
    /// How many projects may vanish in one sync without the changelog saying so.
    pub max_drop: MaxDrop,
    /// Whether the operator has said that what vanishes in this sync may go, however much it is.
    pub accept_drop: bool,
    /// How long a reader of the view may be in the tree that was live before.
    pub drain: Duration,
    /// What a sync leaves free on the store's disk, in bytes.
    pub min_free: u64,
    /// What a sync does while another process has the mirror.
    pub wait: Wait,
    /// Which mirrors may use the blobs that this one brings.
    pub access: Access,
    /// How many pages of a first sync are fetched before they are parked.
    pub park_every: usize,
    /// How many projects one revision changes when all pages are made anew: their units are in memory.
    pub render_at_once: usize,
    /// The pause before the first repetition of a request that failed; the next ones are longer.
    pub backoff: Duration,
}

impl Settings {
    /// The defaults for a mirror of this selection.
    pub fn new(mirror: MirrorName, selection: Selection) -> Self {
        Self {
            mirror,
            selection,
            method: None,
            max_file_size: u64::MAX,
            connections: 16,
            cut_timeout: Duration::from_secs(60),
            part_after: Duration::from_secs(2),
            settle: Duration::from_secs(10),
            overlap: 5_000,
            recheck: Duration::from_hours(7 * 24),
            longest: Duration::from_secs(120),
            hold_after: Duration::from_secs(600),
            on_broken: OnBroken::Hold,
            max_drop: MaxDrop::default(),
            accept_drop: false,
            drain: Duration::from_secs(5),
            min_free: 0,
            wait: Wait::Never,
            access: Access::Public,
            park_every: 1_000,
            render_at_once: 16_384,
            backoff: Duration::from_millis(500),
        }
    }

    /// How to find out what changed: as the configuration says, else as `base` was found, because what an upstream, or a proxy
    /// before it, answers today says nothing about what it is. Only a selection that outgrows the double collect is followed
    /// otherwise from then on, if upstream has a changelog.
    pub(crate) fn method(&self, base: Option<&Snapshot>) -> Method {
        let named = match &self.selection {
            Selection::Projects(names) => names.len(),
            Selection::Everything => usize::MAX,
        };
        match (self.method, base) {
            (Some(configured), _) => configured,
            (None, None) if named <= COLLECT_UP_TO => Method::Collect,
            (None, None) => Method::Changelog,
            (None, Some(base)) => {
                let outgrown = base.projects <= FOLLOW_ABOVE as u64 && named > FOLLOW_ABOVE;
                if outgrown { Method::Changelog } else { base.method }
            }
        }
    }

    /// Whether the index may be collected where it turns out to have no changelog: not if it was followed by one before.
    pub(crate) fn may_collect(&self, base: Option<&Snapshot>) -> bool {
        self.method.is_none() && base.is_none_or(|base| base.method == Method::Collect)
    }
}

/// What to do about a project that stays broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBroken {
    /// Carry it at its last good state, and say so.
    Hold,
    /// Publish nothing until it is whole again.
    Freeze,
}

/// Which projects of upstream a mirror has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    Everything,
    /// These, as the configuration spells them.
    Projects(BTreeMap<ProjectName, DisplayName>),
}

impl Selection {
    /// These projects.
    pub fn of(names: impl IntoIterator<Item = DisplayName>) -> Self {
        Self::Projects(names.into_iter().map(|name| (name.normalise(), name)).collect())
    }

    /// Whether a project belongs to it.
    pub fn has(&self, project: &ProjectName) -> bool {
        match self {
            Self::Everything => true,
            Self::Projects(names) => names.contains_key(project),
        }
    }

    /// What a mirror follows by it.
    pub fn follow(&self) -> Follow {
        match self {
            Self::Everything => Follow::Everything,
            Self::Projects(names) => Follow::Projects(names.keys().cloned().collect()),
        }
    }
}
