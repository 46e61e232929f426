//! A first snapshot for each mirror of a store whose catalog had to be made anew, of what its view shows.
//!
//! The root list says which projects there are and at which serial; each project's record says the rest. A project counts if
//! its record is what the list says, and all its files are there with the digests that the record names; what only the view
//! has becomes a blob again. A project that no list names counts if its page says that it is quarantined. A snapshot that lacks
//! a project says that it is of another selection: so the next sync looks for what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use strandline_model::{Blake3, Follow, Format, Inputs, Label, ListedProject, Mirrored, ProjectName, Serial, Source};
use strandline_store::{
    Access, Draft, DraftUnit, Intake, Locked, Mirror, Rebuild, ReceiveError, Recorded, Staged, Store, StoreError,
};
use strandline_view::Freeze;

use crate::repair::{ShownRecord, shown_records, unit_of};
use crate::stored::PAGES;
use crate::{Context, SyncError};

/// What a mirror has again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// Its snapshot.
    pub label: Label,
    /// How many projects that has.
    pub projects: u64,
    /// The projects that could not be made out, each with the reason.
    pub lost: Vec<(ProjectName, String)>,
}

/// Makes a snapshot of what a mirror's view shows, and publishes it; `None` where the view shows no list that can be read. The
/// context's store is the one that is rebuilt.
pub async fn rebuild(rebuild: &Rebuild, context: &Context, mirror: &Locked) -> Result<Option<Rebuilt>, SyncError> {
    let Context { store, upstream, settings, .. } = context;
    let format = &*context.format;
    let Some((serial, listed)) = list(mirror, format) else { return Ok(None) };
    let (mut units, mut lost, mut claimed) = (BTreeMap::new(), Vec::new(), Vec::new());
    let mut taking = Taking { intake: Intake::open(mirror, settings.access)?, staged: Vec::new() };
    let quarantined = quarantined(mirror, format, &listed).into_iter().map(|project| (project, false));
    for (ListedProject { name, display, serial }, listed) in
        listed.into_iter().map(|project| (project, true)).chain(quarantined)
    {
        let unit = match project(&mut taking, format, mirror, &name, serial)? {
            Ok(mirrored) => {
                taking.land()?;
                let bodies = mirrored.record().to_bodies();
                let source = Source { record: bodies.id(), serial, renderer: format.number() };
                let unit = unit_of(store, &format.render(&mirrored), &mirrored, source)?;
                unit.map(|unit| (unit, bodies)).ok_or_else(|| "its record is not usable".to_owned())
            }
            Err(why) => Err(why),
        };
        match unit {
            Ok((unit, bodies)) => {
                let blobs = unit.entries().iter().map(|entry| entry.blob);
                claimed.extend(blobs.filter(|_| rebuild.access() == Access::Private));
                // A page keeps not all that was said, and no log tells how it came to be.
                let (record, bodies, logged) = (bodies.id(), vec![bodies], false);
                let unit = Some(unit);
                units.insert(name, Some(DraftUnit { unit, record, bodies, serial, display, listed, logged }));
            }
            Err(why) => lost.push((name, why)),
        }
    }
    rebuild.claim(mirror, settings.access, claimed)?;
    let follow =
        if lost.is_empty() { settings.selection.follow() } else { Follow::Projects(units.keys().cloned().collect()) };
    let (now, found) = (context.now(), units.keys().cloned().collect::<Vec<_>>());
    let draft = Draft {
        base: None,
        serial,
        counted: false,
        time: now,
        upstream: upstream.url().clone(),
        follow,
        inputs: Inputs { withdrawn: mirror.withdrawn()?, ..Inputs::default() },
        cutoff: now,
        method: settings.method(None),
        changes: units,
        stored: Vec::new(),
        held: Vec::new(),
        gone: Vec::new(),
        missing: None,
        conclusion: None,
    };
    let committed = mirror.commit(draft, |serial, projects| strandline_view::root_lists(format, serial, projects))?;
    let verified = mirror.verify(committed)?;
    mirror.note_reread(&found)?;
    let snapshot = verified.snapshot();
    for unit in store.leaves(snapshot)?.into_iter().filter_map(|leaf| leaf.unit) {
        // The files of the pool at these paths may be the damaged ones.
        let unit = store.unit(unit)?;
        let paths = unit.entries().iter().map(|entry| (entry.path.clone(), entry.blob));
        strandline_view::restock(mirror, paths)?;
    }
    let (publisher, label, projects) = (context.publisher(), snapshot.label, snapshot.listed);
    publisher.publish(mirror, &publisher.seal(verified), Freeze::Lift).await?;
    Ok(Some(Rebuilt { label, projects, lost }))
}

/// The serial and the projects that the view shows.
/// Whether a snapshot is one that [`rebuild`] made: nothing before it is known, and no log told of its projects.
pub(crate) fn was_rebuilt(store: &Store, recorded: &Recorded) -> Result<bool, StoreError> {
    let Recorded { snapshot, .. } = recorded;
    if snapshot.parent.is_some() {
        return Ok(false);
    }
    Ok(store.leaves_after(snapshot, "", 1)?.first().is_some_and(|leaf| !leaf.logged))
}

fn list(mirror: &Mirror, format: &dyn Format) -> Option<(Serial, Vec<ListedProject>)> {
    let view = mirror.view_directory();
    // Where `live` is lost, it is not known which of the trees was: the later one is whole, or is about to be.
    let read = |tree: &str| {
        let mut paths = format.list_paths().into_iter();
        paths.find_map(|path| format.read_list(&std::fs::read(view.join(tree).join(path.as_str())).ok()?).ok())
    };
    read("live").or_else(|| ["a", "b"].into_iter().filter_map(read).max_by_key(|(serial, _)| *serial))
}

/// The projects that readers see and no list names, because they are quarantined. What cannot be read is not known of.
fn quarantined(mirror: &Mirror, format: &dyn Format, listed: &[ListedProject]) -> Vec<ListedProject> {
    let listed: BTreeSet<_> = listed.iter().map(|project| &project.name).collect();
    let live = mirror.view_directory().join("live");
    let names = std::fs::read_dir(live.join(PAGES)).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().to_str()?.parse::<ProjectName>().ok());
    let read = |name: ProjectName| {
        let page = std::fs::read(live.join(format.record_path(&name).as_str())).ok()?;
        let shown = format.read(&page).ok().filter(|shown| shown.record().told().quarantined)?;
        Some(ListedProject { name, display: shown.record().seen().display.clone(), serial: shown.serial() })
    };
    names.filter(|name| !listed.contains(name)).filter_map(read).collect()
}

/// Blobs that come in from the view.
struct Taking {
    intake: Intake,
    staged: Vec<Staged>,
}

impl Taking {
    fn land(&mut self) -> Result<(), StoreError> {
        self.intake.land(std::mem::take(&mut self.staged)).map(drop)
    }

    fn store(&self) -> &Arc<Store> {
        self.intake.store()
    }
}

/// The record of a project, all of whose blobs are in the store now; or why it cannot be had.
fn project(
    taking: &mut Taking,
    format: &dyn Format,
    mirror: &Mirror,
    name: &ProjectName,
    serial: Serial,
) -> Result<Result<Mirrored, String>, SyncError> {
    let store = taking.store().clone();
    let records = shown_records(mirror, format, name).into_iter();
    let mut records = records.filter(|found| found.shown.record().name() == name && found.shown.serial() == serial);
    let Some(ShownRecord { shown: record, page: read_from, .. }) = records.next() else {
        return Ok(Err(format!("the view has no record of it at serial {serial}")));
    };
    // One of two bytes that agree is enough: a blob that has its own digest, whichever renderer made it, or a page in HTML that
    // says the same.
    let pages = format.render(&record);
    let mut proven = store.find_blob_row(read_from)?.is_some();
    for page in &pages {
        let blob = Blake3::of(&page.bytes);
        proven |= store.find_blob_row(blob)?.is_some();
    }
    if !proven {
        let shown =
            |path| strandline_view::copies(mirror, path).into_iter().filter_map(|path| std::fs::read(path).ok());
        let html = pages.iter().filter(|page| !page.path.file_name().ends_with("json"));
        proven = html.into_iter().any(|page| shown(&page.path).any(|bytes| bytes == page.bytes));
    }
    if !proven {
        return Ok(Err("its record in the view is damaged".to_owned()));
    }
    for (.., placed) in record.files() {
        for (path, sha256) in placed.paths() {
            if store.blob_of(sha256)?.is_some() {
                continue;
            }
            let link = mirror.view_directory().join(path.as_str());
            match taking.intake.stage_file(&link, sha256).map_err(disk)? {
                Some(staged) => taking.staged.push(staged),
                None if link.exists() => {
                    // The path is free for what upstream has there.
                    let aside = store.set_aside(&link)?;
                    return Ok(Err(format!("`{path}` is damaged, and moved aside to {}", aside.display())));
                }
                None => return Ok(Err(format!("`{path}` is missing"))),
            }
        }
    }
    for page in pages {
        if store.find_blob_row(Blake3::of(&page.bytes))?.is_none() {
            let staged = taking.intake.stage(&page.bytes).map_err(StoreError::from)?;
            taking.staged.push(staged);
        }
    }
    Ok(Ok(record))
}

fn disk(error: ReceiveError) -> SyncError {
    match error {
        ReceiveError::Disk(error) => StoreError::from(error).into(),
        other => StoreError::from(strandline_durable::DiskError::new(
            "take in what the view has in",
            std::path::Path::new("incoming"),
            std::io::Error::other(other),
        ))
        .into(),
    }
}
