//! How long one project may keep the others of a sync waiting.
//!
//! What always holds: where there is a snapshot that readers get meanwhile, no file of a project is begun later than `longest` after
//! its first one, and a file that comes slowly is broken off then; after a few files of a project were too slow, no other one is begun.
//! A project of which some were left is held and not taken for one that upstream does not give: the next sync goes on with it, and so do a few further parts of this one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use strandline_model::ProjectName;
use tokio::time::Instant;

use super::error::Failure;
use super::receive::Wanted;
use crate::upstream::{Problem, UpstreamError, without_query};

/// After so many files that were too slow no other one of the project is begun.
const SLOW: u32 = 3;
/// The average speed at which a file may come for longer than `longest`, in bytes a second.
const STEADY: u64 = 16 << 10;

/// What is fetched of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    File,
    /// It is small, and what stands inside its file takes its place.
    Metadata,
}

/// The projects whose files this sync fetches.
#[derive(Debug)]
pub(super) struct Turns {
    /// `None`: no reader waits, because there is no snapshot yet.
    longest: Option<Duration>,
    turns: Mutex<BTreeMap<(ProjectName, Kind), Turn>>,
}

/// What came of a project's files so far.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// When its first file was begun.
    begun: Option<Instant>,
    slow: u32,
    left: bool,
}

impl Turns {
    pub(super) fn new(longest: Option<Duration>) -> Self {
        Self { longest, turns: Mutex::default() }
    }

    fn turn<T>(&self, wanted: Wanted<'_>, act: impl FnOnce(&mut Turn) -> T) -> T {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = Turn { begun: None, slow: 0, left: false };
        act(turns.entry((wanted.project.clone(), wanted.kind)).or_insert(turn))
    }

    /// Begins a file of a project; an error where it is left for the next sync.
    pub(super) fn begin(&self, wanted: Wanted<'_>) -> Result<(), Failure> {
        let why = self.turn(wanted, |turn| {
            let longest = self.longest.filter(|_| wanted.kind == Kind::File);
            let late = longest.is_some_and(|longest| turn.begun.is_some_and(|begun| begun.elapsed() >= longest));
            turn.begun.get_or_insert_with(Instant::now);
            turn.left |= late;
            match (late, turn.slow >= SLOW) {
                (true, _) => Some("the files of the project take too long, and the next sync goes on with them"),
                (_, true) => Some("others of the project were too slow"),
                _ => None,
            }
        });
        why.map_or(Ok(()), |why| Err(left(wanted, why.to_owned())))
    }

    /// An error where a file that was begun at `begun`, and of which so many bytes came, is broken off.
    pub(super) fn check(&self, begun: Instant, came: u64, wanted: Wanted<'_>) -> Result<(), Failure> {
        let took = begun.elapsed();
        if self.longest.is_none_or(|longest| took < longest) || came / STEADY >= took.as_secs() {
            return Ok(());
        }
        let seconds = took.as_secs();
        let why =
            format!("it comes too slowly: {came} bytes in {seconds} s, and {STEADY} are waited for in each second");
        Err(left(wanted, why))
    }

    /// Counts a file of a project that was too slow.
    pub(super) fn was_slow(&self, wanted: Wanted<'_>) {
        self.turn(wanted, |turn| turn.slow += 1);
    }

    /// Whether files of any project were left.
    pub(super) fn have_left(&self) -> bool {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).values().any(|turn| turn.left)
    }

    /// Whether files of a project were left for the next sync.
    pub(super) fn has_left(&self, project: &ProjectName) -> bool {
        let turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.get(&(project.clone(), Kind::File)).is_some_and(|turn| turn.left)
    }
}

fn left(wanted: Wanted<'_>, why: String) -> Failure {
    Failure::Left(UpstreamError::new(without_query(wanted.url), Problem::TooSlow(why)))
}
