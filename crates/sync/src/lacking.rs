//! Projects of which a file cannot be had.
//!
//! What upstream says of such a project goes into the tree all the same. What readers get depends on the time: until
//! `hold_after` they get what they got before, and the project is held. From then on they get everything but that file, which
//! is lacking by the snapshot's inputs. Where no file at all can be had the project stays held, because an empty page is worse
//! than an old one.

use strandline_model::{Leaf, ProjectName, Serial, Timestamp};

use crate::cut::{self, Change, Content};
use crate::stored::Earlier;
use crate::{Fetcher, Stored, SyncError};

impl Fetcher {
    /// Whether a project is held because of its files, where the first change that readers do not see happened at `since`.
    pub(crate) fn holds_for_files(&self, project: &ProjectName, content: &Content<Stored>, since: Timestamp) -> bool {
        let stored = || content.files.values().filter_map(|file| file.content.as_ref().ok());
        let is_known = |stored: &Stored| self.base_inputs.lacks(project, stored.name(), stored.told().sha256);
        let waits = |stored: &Stored| {
            stored.is_lacking() && !is_known(stored) && (self.clock)().since(since) < self.settings.hold_after
        };
        let none_is_here = || stored().all(|stored| stored.placed().is_none());
        let waits = |stored: &Stored| waits(stored) || stored.is_lacking() && self.has_left_files(project);
        stored().any(waits) || (stored().any(Stored::is_lacking) && none_is_here())
    }

    /// What readers get of a project that is held: what they get of it in the base, without what `events` up to `at` have removed.
    pub(crate) fn earlier(&self, leaf: Option<&Leaf>, events: &[Change], at: Serial) -> Result<Earlier, SyncError> {
        let Some((leaf, unit)) = leaf.map(|leaf| Ok::<_, SyncError>((leaf, self.base_unit(leaf)?))).transpose()? else {
            return Ok(Earlier::Nothing);
        };
        let Some((unit, source)) = unit.and_then(|unit| unit.source().map(|source| (unit, source))) else {
            return Ok(Earlier::Nothing);
        };
        let (display, good) = (self.record(&unit)?.seen().display.clone(), self.content(&unit)?);
        let carried = cut::carried(&good, source.serial, events, at, self.releases_of(&leaf.name));
        Ok(carried.map_or(Earlier::Nothing, |content| Earlier::State(display, source.serial, content)))
    }
}
