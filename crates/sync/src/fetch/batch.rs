//! Staged blobs on their way to being durable, many at once.

use std::sync::{Mutex, PoisonError};

use strandline_store::{Intake, Staged, StoreError};
use tokio::task::block_in_place;

/// How many staged blobs are made durable together, and from how many bytes on fewer are.
const BATCH: usize = 2_048;
const BATCH_BYTES: u64 = 256 << 20;

/// What comes into the store, in batches.
pub(crate) struct Batches {
    /// The staged blobs that wait for their batch, and how many bytes they are. Declared before `intake`, because fields are
    /// dropped in order, and dropping the intake checks that no staged blob is left.
    waiting: Mutex<(Vec<Staged>, u64)>,
    pub(crate) intake: Intake,
}

impl Batches {
    pub(super) fn new(intake: Intake) -> Self {
        Self { waiting: Mutex::default(), intake }
    }

    /// Keeps a staged blob for the next batch; makes the batch durable when it is full.
    pub(super) fn add(&self, staged: Staged) -> Result<(), StoreError> {
        let full = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let (blobs, bytes) = &mut *waiting;
            *bytes += staged.size();
            blobs.push(staged);
            if blobs.len() < BATCH && *bytes < BATCH_BYTES {
                return Ok(());
            }
            std::mem::take(&mut *waiting).0
        };
        block_in_place(|| self.intake.land(full))?;
        Ok(())
    }

    /// Makes everything durable that waits. With `look_ahead`, the rows of all of it are looked up in the catalog at
    /// once, because they lie apart where there is a base.
    pub(super) fn finish(&self, look_ahead: bool) -> Result<(), StoreError> {
        let (rest, _) = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if look_ahead {
            self.intake.look_ahead(&rest);
        }
        self.intake.land(rest).map(drop)
    }
}
