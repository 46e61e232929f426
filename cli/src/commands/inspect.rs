//! `status`, `log`, `diff` and `show`.

use std::collections::BTreeSet;

use indicatif::HumanBytes;
use serde::Serialize;
use serde_json::json;
use strandline_model::trie::Change;
use strandline_model::{Blake3, DisplayName, Leaf, MirrorName, Snapshot, Timestamp, Unit};
use strandline_store::{MirrorUsage, Recorded, SelectError, Store, StoreError};

use super::{clock, open, purge, say};
use crate::config::Config;
use crate::exit::Exit;
use crate::report::in_words;

/// How every mirror stands, and the store.
#[expect(clippy::too_many_lines, reason = "a line for each fact")]
pub(crate) fn status(config: &Config, json: bool) -> anyhow::Result<Exit> {
    let store = open(&config.store)?;
    let now = clock()();
    let mut exit = Exit::Done;
    let mut all = Vec::new();
    let usage = store.usage()?;
    let size_of = |name| usage.as_ref().and_then(|usage| usage.mirrors.get(name).copied());
    for (name, _) in config.mirrors(&[])? {
        let latest = store.latest_verified(name)?;
        let state = store.view_state(name)?;
        let published = state.map(|state| store.recorded(state.snapshot)).transpose()?;
        let last = store.last_sync(name)?;
        let kept = store.snapshots(name)?;
        let missed = kept.iter().filter(|kept| kept.missed).count();
        let withdrawn = purge::in_force(&store, name)?;
        let undone_yet = store.purging()?.contains(name);
        let held = latest.as_ref().map_or(&[][..], |latest| &latest.snapshot.held);
        if !held.is_empty() {
            exit = Exit::Held;
        }
        let cut = last.as_ref().and_then(|last| last.cut);
        // As of the last sync: the log is not asked here.
        let lag = cut.zip(latest.as_ref()).map(|(cut, latest)| {
            let serials = cut.head.get().saturating_sub(latest.snapshot.label.serial.get());
            let end = last.as_ref().map_or(now, |last| last.time);
            (serials, cut.behind.map_or(0, |behind| end.since(behind).as_secs()))
        });
        if json {
            all.push(json!({
                "mirror": name,
                "upstream": latest.as_ref().map(|latest| latest.snapshot.upstream.as_str()),
                "published": published.as_ref().map(|recorded| recorded.snapshot.label),
                "published_since": state.map(|state| state.switched),
                "recorded": latest.as_ref().map(|latest| latest.snapshot.label),
                "projects": latest.as_ref().map(|latest| latest.snapshot.units),
                "snapshots": kept.len(),
                "missed_late_event": missed,
                "rolled_back": state.is_some_and(|state| state.frozen),
                "withdrawn": withdrawn.iter().map(purge::as_json).collect::<Vec<_>>(),
                "withdrawal_unfinished": undone_yet,
                "last_sync": last.as_ref().map(|last| json!({
                    "time": last.time, "failure": last.failure, "rounds": last.cut.map(|cut| cut.rounds),
                })),
                "lag": lag.map(|(serials, seconds)| json!({ "serials": serials, "seconds": seconds })),
                "held": held,
                "size": size_of(name).map(|size| json!({ "bytes": size.bytes, "own_bytes": size.own })),
            }));
            continue;
        }
        say!("{name}");
        let Some(latest) = &latest else {
            say!("  never synced; `strandline sync {name}` begins");
            continue;
        };
        say!("  upstream   {}", latest.snapshot.upstream);
        match (&published, state) {
            (Some(published), Some(state)) => {
                say!("  published  serial {} since {}", published.snapshot.label, state.switched);
                if state.frozen {
                    say!(
                        "  ROLLED BACK: syncs record and do not publish; newest is serial {}; `strandline rollback {name} --resume` ends this",
                        latest.snapshot.label
                    );
                }
            }
            _ => say!("  published  nothing yet"),
        }
        say!("  projects   {}", latest.snapshot.units);
        match missed {
            0 => say!("  kept       {} snapshots", kept.len()),
            1 => say!("  kept       {} snapshots; 1 of them lacks an event that came to light late", kept.len()),
            _ => say!("  kept       {} snapshots; {missed} of them lack an event that came to light late", kept.len()),
        }
        for withdrawal in &withdrawn {
            say!("  withdrawn  {}", purge::in_words(withdrawal));
        }
        if undone_yet {
            say!("  WITHDRAWAL UNFINISHED: whoever is at work on the mirror finishes it, or the next command");
        }
        if let Some(MirrorUsage { bytes, own }) = size_of(name) {
            say!("  size       {}, of which {} are in no other mirror", HumanBytes(bytes), HumanBytes(own));
        }
        match &last {
            Some(last) => match &last.failure {
                Some(failure) => say!("  last sync  {} FAILED: {failure}", last.time),
                None => say!("  last sync  {} ({} s ago), in order", last.time, now.since(last.time).as_secs()),
            },
            None => say!("  last sync  unknown"),
        }
        if let (Some((serials, seconds)), Some(cut)) = (lag, cut) {
            say!("  behind     {serials} serials, {seconds} s, after {} rounds", cut.rounds);
        }
        for held in held {
            say!(
                "  held       {}: {} ({}), at serial {}, needs {}, since {}",
                held.name,
                in_words(held.reason),
                held.reason,
                held.at,
                held.needs,
                held.since
            );
        }
    }
    if json {
        say!("{}", serde_json::to_string_pretty(&json!({ "mirrors": all, "store": store_status(&store)? }))?);
        return Ok(exit);
    }
    let StoreStatus { free_bytes, size, .. } = store_status(&store)?;
    say!("store {}", store.root().display());
    match size {
        Some(size) => say!(
            "  size       {} as of {}; it would be {} more if mirrors shared nothing",
            HumanBytes(size.bytes),
            size.as_of,
            HumanBytes(size.saved_bytes)
        ),
        None => say!("  size       `strandline gc` finds out"),
    }
    say!("  free       {}", HumanBytes(free_bytes));
    Ok(exit)
}

/// How the store as a whole stands.
#[derive(Serialize)]
struct StoreStatus {
    free_bytes: u64,
    free_inodes: Option<u64>,
    size: Option<StoreSize>,
}

#[derive(Serialize)]
struct StoreSize {
    bytes: u64,
    saved_bytes: u64,
    as_of: Timestamp,
}

fn store_status(store: &Store) -> anyhow::Result<StoreStatus> {
    let free = store.disk().free(store.root())?;
    let size = store.usage()?.map(|usage| {
        let named: u64 = usage.mirrors.values().map(|mirror| mirror.bytes).sum();
        StoreSize { bytes: usage.bytes, saved_bytes: named.saturating_sub(usage.bytes), as_of: usage.time }
    });
    Ok(StoreStatus { free_bytes: free.bytes, free_inodes: free.inodes, size })
}

/// The snapshots of a mirror that are kept, the newest first.
pub(crate) fn log(config: &Config, mirror: &MirrorName, json: bool) -> anyhow::Result<Exit> {
    config.mirrors(std::slice::from_ref(mirror))?;
    let store = open(&config.store)?;
    let live = store.view_state(mirror)?.map(|state| state.snapshot);
    let pins = store.pins()?;
    let superseded = store.superseded(mirror)?;
    for Recorded { id, snapshot, verified, missed } in store.snapshots(mirror)? {
        let (published, pinned) = (live == Some(id), pins.contains(&id));
        let Snapshot { label, time, units, held, .. } = &snapshot;
        let instead = superseded.get(&id).map(|new| store.recorded(*new)).transpose()?;
        let instead = instead.map(|new| new.snapshot.label);
        if json {
            let parent = snapshot.parent;
            say!(
                "{}",
                json!({
                    "serial": label, "id": id, "time": time, "projects": units, "parent": parent,
                    "verified": verified, "published": published, "pinned": pinned, "missed_late_event": missed, "held": held,
                    "superseded_by": instead,
                })
            );
        } else {
            let mark = if published { " published" } else { "" };
            let pinned = if pinned { " pinned" } else { "" };
            let unverified = if verified { "" } else { " not verified" };
            let missed = if missed { " lacks an event that came to light late" } else { "" };
            let held = if held.is_empty() { String::new() } else { format!(" {} held", held.len()) };
            let instead =
                instead.map_or_else(String::new, |instead| format!(" withdrawn from: {instead} is served instead"));
            say!("{label}\t{time}\t{units} projects\t{id}{mark}{pinned}{unverified}{missed}{held}{instead}");
        }
    }
    if !json {
        for withdrawal in purge::in_force(&store, mirror)? {
            say!("withdrawn\t{}", purge::in_words(&withdrawal));
        }
    }
    Ok(Exit::Done)
}

/// The projects and files that differ between two snapshots.
pub(crate) fn diff(
    config: &Config,
    mirror: &MirrorName,
    before: &str,
    after: &str,
    json: bool,
) -> anyhow::Result<Exit> {
    config.mirrors(std::slice::from_ref(mirror))?;
    let store = open(&config.store)?;
    let (before, after) = (store.select(mirror, before)?, store.select(mirror, after)?);
    for changes in store.diff(Some(&before.snapshot), Some(&after.snapshot))?.chunks(TOGETHER) {
        tell_differences(&store, changes, json)?;
    }
    Ok(Exit::Done)
}

/// How many changes are told of together: their units are in memory.
const TOGETHER: usize = 256;

fn tell_differences(store: &Store, changes: &[Change], json: bool) -> anyhow::Result<()> {
    let units = |of: fn(&Change) -> Option<&Leaf>| {
        let ids: Vec<_> = changes.iter().filter_map(|change| Some(of(change)?.unit)).collect();
        Ok::<_, StoreError>(store.units(&ids)?.into_iter())
    };
    let (mut before, mut after) = (units(|change| change.before.as_ref())?, units(|change| change.after.as_ref())?);
    for change in changes {
        let had = files(change.before.as_ref().and_then(|_| before.next()).as_ref());
        let has = files(change.after.as_ref().and_then(|_| after.next()).as_ref());
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
pub(crate) fn show(config: &Config, mirror: &str, project: Option<&DisplayName>) -> anyhow::Result<Exit> {
    let (mirror, wanted) = match mirror.split_once('@') {
        Some((mirror, wanted)) => (mirror.parse::<MirrorName>()?, Some(wanted)),
        None => (mirror.parse()?, None),
    };
    config.mirrors(std::slice::from_ref(&mirror))?;
    let store = open(&config.store)?;
    let recorded = match wanted {
        Some(wanted) => store.select(&mirror, wanted)?,
        None => match store.view_state(&mirror)? {
            Some(state) => store.recorded(state.snapshot)?,
            None => return Err(SelectError::Unknown { mirror, wanted: "that is published".to_owned() }.into()),
        },
    };
    let Recorded { id, snapshot, .. } = recorded;
    let Some(project) = project.map(DisplayName::normalise) else {
        say!("id {id}");
        say!("{}", String::from_utf8_lossy(&snapshot.to_bytes()).trim_end());
        return Ok(Exit::Done);
    };
    let Some(leaf) = store.find(&snapshot, &project)? else {
        anyhow::bail!("serial {} of mirror `{mirror}` has no project `{project}`", snapshot.label);
    };
    say!("{} at serial {} (its own last change: {}), unit {}", leaf.display, snapshot.label, leaf.serial, leaf.unit);
    for entry in store.unit(leaf.unit)?.entries() {
        say!("  {}\t{}\tsha256:{}", entry.path, HumanBytes(entry.size), entry.sha256);
    }
    Ok(Exit::Done)
}

/// The canonical bytes of a snapshot, node or unit, as they are: for b3sum.
pub(crate) fn raw(config: &Config, id: Blake3) -> anyhow::Result<Exit> {
    use std::io::Write as _;
    let body = open(&config.store)?.body(id)?;
    let mut out = std::io::stdout().lock();
    out.write_all(&body)?;
    out.flush()?;
    Ok(Exit::Done)
}
