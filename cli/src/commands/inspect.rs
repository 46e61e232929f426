//! `log`, `diff` and `show`.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use indicatif::HumanBytes;
use serde_json::json;
use strandline_model::trie::Change;
use strandline_model::{
    Blake3, ClaimedSha256, DisplayName, Held, Leaf, MirrorName, ProjectName, RecordId, Snapshot, Unit,
};
use strandline_store::{Mirror, Recorded, SelectError, Store, StoreError};

use super::{known, open, purge, say};
use crate::config::Config;
use crate::exit::Exit;
use crate::report::Failure;

/// The snapshots of a mirror that are kept, the newest first.
pub(crate) fn log(config: &Config, mirror: &MirrorName, json: bool) -> Result<Exit, Failure> {
    config.mirrors(std::slice::from_ref(mirror))?;
    let store = open(&config.store)?;
    if let Some(kept) = store.mirror(mirror)? {
        say_snapshots(&store, &kept, json)?;
    }
    if !json {
        for withdrawal in purge::in_force(&store, mirror)? {
            say!("withdrawn\t{}", purge::in_words(&withdrawal));
        }
    }
    Ok(Exit::Done)
}

fn say_snapshots(store: &Store, kept: &Mirror, json: bool) -> Result<(), Failure> {
    let live = kept.view_state()?.map(|state| state.snapshot);
    let pins = store.pins()?;
    let superseded = kept.superseded()?;
    // Most snapshots have the inputs of the one before.
    let mut counted = HashMap::new();
    for Recorded { id, snapshot, verified, missed, .. } in kept.snapshots()? {
        let (published, pinned) = (live == Some(id), pins.contains(&id));
        let Snapshot { label, time, listed, held, .. } = &snapshot;
        let instead = superseded.get(&id).map(|new| store.recorded(*new)).transpose()?;
        let instead = instead.map(|new| new.snapshot.label);
        let lacking = match counted.entry(snapshot.inputs) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => *new.insert(store.inputs(&snapshot)?.lacking.len()),
        };
        if json {
            let Snapshot { tree, state, follow, inputs, cutoff, method, projects, parent, .. } = &snapshot;
            say!(
                "{}",
                json!({
                    "serial": label, "revision": label.revision, "id": id, "tree": tree, "state": state, "time": time,
                    "follow": follow, "inputs": inputs, "cutoff": cutoff, "method": method,
                    "projects": projects, "listed": listed, "parent": parent,
                    "verified": verified, "published": published, "pinned": pinned, "missed_late_event": missed, "held": held,
                    "lacking": lacking, "superseded_by": instead,
                })
            );
        } else {
            let mark = if published { " published" } else { "" };
            let pinned = if pinned { " pinned" } else { "" };
            let unverified = if verified { "" } else { " not verified" };
            let missed = if missed { " lacks an event that came to light late" } else { "" };
            let held = if held.is_empty() { String::new() } else { format!(" {} held", held.len()) };
            let lacking = if lacking == 0 { String::new() } else { format!(" {lacking} lacking") };
            let instead = instead.map_or_else(String::new, |instead| format!(" {instead} is served in its place"));
            say!("{label}\t{time}\t{listed} projects\t{id}{mark}{pinned}{unverified}{missed}{held}{lacking}{instead}");
        }
    }
    Ok(())
}

/// The projects and files that differ between two snapshots.
pub(crate) fn diff(
    config: &Config,
    mirror: &MirrorName,
    before: &str,
    after: &str,
    json: bool,
) -> Result<Exit, Failure> {
    config.mirrors(std::slice::from_ref(mirror))?;
    let store = open(&config.store)?;
    let kept = known(&store, mirror)?;
    let (before, after) = (kept.select(before.parse()?)?, kept.select(after.parse()?)?);
    for changes in store.diff(Some(&before.snapshot), Some(&after.snapshot))?.chunks(TOGETHER) {
        tell_differences(&store, changes, json)?;
    }
    Ok(Exit::Done)
}

/// How many changes are read and written together; their units are in memory.
const TOGETHER: usize = 256;

fn tell_differences(store: &Store, changes: &[Change], json: bool) -> Result<(), Failure> {
    let units = |of: fn(&Change) -> Option<&Leaf>| {
        let ids: Vec<_> = changes.iter().filter_map(|change| of(change)?.unit).collect();
        Ok::<_, StoreError>(store.units(&ids)?.into_iter())
    };
    let (mut before, mut after) = (units(|change| change.before.as_ref())?, units(|change| change.after.as_ref())?);
    for change in changes {
        let unit = |leaf: &Option<Leaf>| leaf.as_ref().and_then(|leaf| leaf.unit);
        let had = files(unit(&change.before).and_then(|_| before.next()).as_ref());
        let has = files(unit(&change.after).and_then(|_| after.next()).as_ref());
        let added: Vec<_> = has.difference(&had).collect();
        let removed: Vec<_> = had.difference(&has).collect();
        let kind = match (&change.before, &change.after) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        };
        if json {
            let serial = |leaf: &Option<Leaf>| leaf.as_ref().map(|leaf| leaf.serial);
            say!(
                "{}",
                json!({
                    "project": change.name, "change": kind, "files_added": added, "files_removed": removed,
                    "serial_before": serial(&change.before), "serial_after": serial(&change.after),
                })
            );
        } else {
            say!("{kind} {}", change.name);
            for path in added {
                say!("  + {path}");
            }
            for path in removed {
                say!("  - {path}");
            }
        }
    }
    Ok(())
}

/// The files of a project, without its pages.
fn files(unit: Option<&Unit>) -> BTreeSet<String> {
    let entries = unit.into_iter().flat_map(Unit::entries);
    entries.filter(|entry| entry.path.first_segment() == "packages").map(|entry| entry.path.to_string()).collect()
}

/// What a mirror has of a project, or what a snapshot says of itself.
pub(crate) fn show(config: &Config, mirror: &str, project: Option<&DisplayName>) -> Result<Exit, Failure> {
    let (mirror, wanted) = place(config, mirror)?;
    let store = open(&config.store)?;
    let recorded = selected(&store, &mirror, wanted)?;
    let Recorded { id, snapshot, .. } = recorded;
    let Some(project) = project.map(DisplayName::normalise) else {
        say!("id {id}");
        say!("{}", String::from_utf8_lossy(&snapshot.to_bytes()).trim_end());
        return Ok(Exit::Done);
    };
    let Some(leaf) = store.find(&snapshot, &project)? else {
        let what = format!("serial {} of mirror `{mirror}` has no project `{project}`", snapshot.label);
        return Err(Failure::found(what));
    };
    let Leaf { name, listed, logged, unit, record, serial, display } = leaf;
    let unit_id = unit.map_or_else(|| "-".to_owned(), |unit| unit.to_string());
    say!("{display} at serial {} (its own last change: {serial}), unit {unit_id}", snapshot.label);
    if let Some(RecordId { told, seen }) = record {
        say!("  record: told {told}, seen {seen}");
    }
    if !listed {
        say!("  no list names it");
    }
    if !logged {
        say!("  it was read without the log, so it may differ from another mirror's");
    }
    let held = snapshot.held.iter().find(|held| held.name == name);
    if let Some(Held { reason, at, .. }) = held {
        say!("  held ({reason}): readers get what it was at serial {at}");
    }
    let unit = unit.map(|unit| store.unit(unit)).transpose()?;
    for entry in unit.iter().flat_map(Unit::entries) {
        say!("  {}\t{}\tsha256:{}", entry.path, HumanBytes(entry.size), entry.sha256);
    }
    say_hidden(&store, &snapshot, (&name, record), unit.as_ref())?;
    let skipped = store.mirror(&mirror)?.map(|mirror| mirror.skipped_of(&name)).transpose()?.unwrap_or_default();
    if skipped.count > 0 {
        say!("  {} of its page cannot be used, as it was read last:", skipped.count);
        for what in skipped.named {
            say!("    {what}");
        }
    }
    Ok(Exit::Done)
}

/// The files of a project that readers do not get, each with the reason: those of the record that they get, and those of the newest.
fn say_hidden(
    store: &Store,
    snapshot: &Snapshot,
    (name, newest): (&ProjectName, Option<RecordId>),
    unit: Option<&Unit>,
) -> Result<(), Failure> {
    let inputs = store.inputs(snapshot)?;
    let shown = unit.and_then(Unit::source).map(|source| source.record);
    let records: BTreeSet<_> = newest.into_iter().chain(shown).collect();
    let entries = unit.into_iter().flat_map(Unit::entries);
    let here: BTreeSet<(_, ClaimedSha256)> =
        entries.map(|entry| (entry.path.file_name(), entry.sha256.into())).collect();
    let mut files = BTreeMap::new();
    for record in records {
        let record = store.record(record)?;
        for file in record.files() {
            let (filename, told, _) = file;
            let is_shown = told.sha256.is_some_and(|sha256| here.contains(&(filename.as_str(), sha256)));
            let why = inputs.hides(name, file).map(|why| why.to_string());
            let why = why.or((!is_shown).then(|| "its project is held".to_owned()));
            files.extend(why.map(|why| ((filename.as_str().to_owned(), told.sha256), why)));
        }
    }
    for ((file, sha256), why) in files {
        let sha256 = sha256.map_or_else(|| "-".to_owned(), |sha256| sha256.to_string());
        say!("  {file}\tnot shown: {why}\tsha256:{sha256}");
    }
    Ok(())
}

/// A mirror of the configuration and what was asked of it: `MIRROR@SERIAL`, or `MIRROR` alone.
pub(super) fn place<'a>(config: &Config, text: &'a str) -> Result<(MirrorName, Option<&'a str>), Failure> {
    let (mirror, wanted) = match text.split_once('@') {
        Some((mirror, wanted)) => (mirror.parse::<MirrorName>()?, Some(wanted)),
        None => (text.parse()?, None),
    };
    config.mirrors(std::slice::from_ref(&mirror))?;
    Ok((mirror, wanted))
}

/// The snapshot of a mirror that is meant; what it publishes where none is said.
pub(super) fn selected(store: &Arc<Store>, mirror: &MirrorName, wanted: Option<&str>) -> Result<Recorded, Failure> {
    let kept = known(store, mirror)?;
    match (wanted, kept.view_state()?) {
        (Some(wanted), _) => Ok(kept.select(wanted.parse()?)?),
        (None, Some(state)) => Ok(store.recorded(state.snapshot)?),
        (None, None) => Err(SelectError::NothingPublished { mirror: mirror.clone() }.into()),
    }
}

/// The canonical bytes of a snapshot, node, unit or part of a record, as they are: for b3sum.
pub(crate) fn raw(config: &Config, id: Blake3) -> Result<Exit, Failure> {
    use std::io::Write as _;
    let body = open(&config.store)?.body(id)?;
    let mut out = std::io::stdout().lock();
    out.write_all(&body)?;
    out.flush()?;
    Ok(Exit::Done)
}
