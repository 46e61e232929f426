//! Which files of a page the store has already, and where the rest goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use strandline_model::{
    ClaimedSha256, CoreMetadata, Entry, FileName, ProjectName, Record, SeenFile, ToldFile, TreePath, Unit,
};
use strandline_store::{Blob, StoreError};
use tokio::sync::OnceCell;

use super::Fetcher;
use crate::SyncError;
use crate::room::require_room;

/// What is to be done for a file of a page.
pub(super) enum Plan {
    /// It is to be here, and its metadata file if it has one.
    Have {
        /// The file.
        own: Part,
        /// Its metadata file, as far as upstream has one or the base does.
        metadata: Option<Part>,
        /// Whether the base has that metadata file there.
        in_base: bool,
    },
    /// Nothing: it is withdrawn from the mirror, or upstream does not say what it should be.
    LeaveOut,
}

/// Something of a project's that has a path in the tree.
pub(super) enum Part {
    Here(Entry),
    Lacking(Lacking),
}

/// Something that is to be fetched to a path, and to be what is claimed.
pub(super) struct Lacking {
    pub(super) path: TreePath,
    pub(super) claim: Option<ClaimedSha256>,
    /// The entry, once it came for any of the paths that are to have the same bytes: the first of them that is asked
    /// for fetches it; if that fails, the next one does, from its own URL.
    pub(super) entry: Arc<OnceCell<Entry>>,
}

impl Part {
    fn path(&self) -> &TreePath {
        match self {
            Self::Here(Entry { path, .. }) | Self::Lacking(Lacking { path, .. }) => path,
        }
    }
}

/// A file as a record names it.
type Listed<'a> = (&'a FileName, &'a ToldFile, &'a SeenFile);

/// The entries and blobs that the base and the store have of a record's files.
struct Known {
    /// The project as the base has it, and what upstream said of it then, where the project has files without metadata.
    base: Option<Unit>,
    record: Option<Record>,
    /// Blobs of the store, by what they are claimed to be.
    blobs: BTreeMap<ClaimedSha256, Option<Blob>>,
    /// What is lacking, by claim and size: the wheels of a release mostly have one and the same metadata file.
    lacking: BTreeMap<(ClaimedSha256, Option<u64>), Arc<OnceCell<Entry>>>,
}

impl Known {
    fn blob(&self, claim: ClaimedSha256) -> Option<Blob> {
        self.blobs.get(&claim).copied().flatten()
    }

    fn is_in_base(&self, part: &Part) -> bool {
        let Part::Here(entry) = part else { return false };
        self.base.as_ref().and_then(|base| base.entry(entry.path.as_str())) == Some(entry)
    }

    /// Whether upstream had no metadata of a file when the base was made.
    fn had_no_metadata(&self, name: &FileName) -> bool {
        let seen = self.record.as_ref().and_then(|record| record.seen().files.get(name));
        seen.is_some_and(|seen| seen.core_metadata == CoreMetadata::Absent)
    }

    fn lacking(&mut self, path: TreePath, claim: Option<ClaimedSha256>, size: Option<u64>) -> Part {
        let entry = claim.map(|claim| Arc::clone(self.lacking.entry((claim, size)).or_default())).unwrap_or_default();
        Part::Lacking(Lacking { path, claim, entry })
    }
}

impl Fetcher {
    /// For each file of a page: whether the store has it, or where it goes, or why it cannot stand anywhere. Refuses a
    /// page whose files would fill the disk before any of them is fetched.
    pub(super) fn plan(
        &self,
        project: &ProjectName,
        record: &Record,
    ) -> Result<Vec<Result<Plan, SyncError>>, SyncError> {
        let base = self.base_leaf(project)?.map(|leaf| self.base_unit(&leaf)).transpose()?.flatten();
        let withdrawn = self.mirror.withdrawn()?;
        let goes: BTreeSet<_> =
            record.files().filter_map(|(_, told, _)| told.sha256).filter(|sha256| withdrawn.contains(sha256)).collect();
        self.mirror.note_left_out(project, &goes)?;
        let in_base: Vec<_> = record.files().map(|file| self.entry_in(base.as_ref(), file)).collect();
        // The store may have it under another path, or from another mirror.
        let wanted = |sha256: ClaimedSha256| Some(sha256).filter(|sha256| !goes.contains(sha256));
        let claims = record.files().zip(&in_base).flat_map(|((_, told, seen), in_base)| {
            let Some(sha256) = told.sha256.and_then(wanted) else { return [None, None] };
            let file_itself = in_base.is_none().then_some(sha256);
            let CoreMetadata::Hashed(metadata) = seen.core_metadata else { return [file_itself, None] };
            [file_itself, Some(metadata)]
        });
        let claims: Vec<_> = claims.flatten().collect();
        let blobs = claims.iter().copied().zip(self.batches.intake.find_all(&claims)?).collect();
        let without = record.seen().files.values().any(|seen| seen.core_metadata == CoreMetadata::Absent);
        let before = base.as_ref().filter(|_| without).map(|base| self.record(base)).transpose()?;
        let mut known = Known { base, record: before, blobs, lacking: BTreeMap::new() };

        let mut plans = Vec::with_capacity(in_base.len());
        for (file, in_base) in record.files().zip(in_base) {
            let Some(sha256) = file.1.sha256.and_then(wanted) else {
                plans.push(Ok(Plan::LeaveOut));
                continue;
            };
            let is_in_base = in_base.is_some();
            let own = match in_base {
                Some(entry) => Part::Here(entry),
                None => self.plan_file(&mut known, file, sha256)?,
            };
            let metadata = plan_metadata(&mut known, file, own.path(), is_in_base);
            let in_base = metadata.as_ref().is_some_and(|metadata| known.is_in_base(metadata));
            plans.push(Ok(Plan::Have { own, metadata, in_base }));
        }
        let is_lacking = |plan: &Result<Plan, _>| matches!(plan, Ok(Plan::Have { own: Part::Lacking(..), .. }));
        let to_come = record.files().zip(&plans).filter(|(_, plan)| is_lacking(plan));
        let (count, bytes) = to_come.fold((0, 0_u64), |(count, bytes), ((_, told, _), _)| {
            (count + 1, bytes.saturating_add(told.size.unwrap_or(0)))
        });
        // If no file is to come, no room is needed, however little is free.
        if count > 0 {
            require_room(&self.store, &self.settings, bytes, count)?;
        }
        Ok(plans)
    }

    /// Where a file may stand: the second place is for where the pool has other bytes at the first.
    pub(super) fn paths_of(&self, (name, _, seen): Listed<'_>, sha256: ClaimedSha256) -> [TreePath; 2] {
        self.format.file_paths(name, sha256, seen.url.as_deref().unwrap_or_default())
    }

    /// What a unit has at one of the paths of a file, if it is the file.
    fn entry_in(&self, unit: Option<&Unit>, file: Listed<'_>) -> Option<Entry> {
        let sha256 = file.1.sha256?;
        let paths = self.paths_of(file, sha256);
        let mut entries = paths.iter().filter_map(|path| unit?.entry(path.as_str()));
        entries.find(|entry| sha256 == entry.sha256.into()).cloned()
    }

    /// A file that the base does not have.
    fn plan_file(&self, known: &mut Known, file: Listed<'_>, sha256: ClaimedSha256) -> Result<Part, StoreError> {
        let (_, told, _) = file;
        let blob = known.blob(sha256).filter(|blob| told.size.is_none_or(|size| size == blob.size));
        let [preferred, other] = self.paths_of(file, sha256);
        let there = strandline_view::pool_file(&self.mirror, &preferred)?;
        let free = there.is_none_or(|there| blob.is_some_and(|blob| (blob.size, blob.mtime) == there));
        let path = if free { preferred } else { other };
        Ok(match blob {
            Some(blob) => Part::Here(blob.at(path)),
            None => known.lacking(path, Some(sha256), told.size),
        })
    }
}

/// The metadata file of a file that stands at `own`, if it has one and its path has room for that; `in_base` says whether the base has
/// the file.
fn plan_metadata(known: &mut Known, (name, _, seen): Listed<'_>, own: &TreePath, in_base: bool) -> Option<Part> {
    let path = own.metadata().ok()?;
    let entry = known.base.as_ref().filter(|_| in_base).and_then(|base| base.entry(path.as_str()));
    let claim = match seen.core_metadata {
        // What the base shows was taken out of the file then, too.
        CoreMetadata::Absent if known.had_no_metadata(name) => return entry.cloned().map(Part::Here),
        CoreMetadata::Absent => return None,
        CoreMetadata::Unhashed => None,
        CoreMetadata::Hashed(claim) => Some(claim),
    };
    if let Some(entry) = entry.filter(|entry| claim.is_none_or(|claim| claim == entry.sha256.into())) {
        return Some(Part::Here(entry.clone()));
    }
    Some(match claim.and_then(|claim| known.blob(claim)) {
        Some(blob) => Part::Here(blob.at(path)),
        None => known.lacking(path, claim, None),
    })
}
