//! `status`.

use indicatif::HumanBytes;
use serde_json::json;
use strandline_model::{Gone, Method, Timestamp};
use strandline_store::Store;

use super::mirror_status::{LackingFile, Lag, MirrorSize, MirrorStatus, SkippedElements, StoreStatus};
use super::{clock, open, purge, say};
use crate::config::Config;
use crate::exit::Exit;
use crate::report::{Failure, in_words};

/// Of how many projects is told what is skipped of their pages.
const SKIPPED_TOLD: usize = 20;

/// How every mirror stands, and the store.
pub(crate) fn status(config: &Config, json: bool) -> Result<Exit, Failure> {
    let store = open(&config.store)?;
    let now = clock()();
    let usage = store.usage()?;
    let mut exit = Exit::Done;
    let mut mirrors = Vec::new();
    for (name, configured) in config.mirrors(&[])? {
        let mirror = MirrorStatus::of(&store, name, configured.settings(name).method.is_none(), usage.as_ref())?;
        if !mirror.held.is_empty() || !mirror.lacking.is_empty() {
            exit = Exit::Held;
        }
        if json {
            mirrors.push(mirror);
        } else {
            tell_mirror(&mirror, now)?;
        }
    }
    let whole = StoreStatus::of(&store, usage.as_ref())?;
    if json {
        say!("{}", serde_json::to_string_pretty(&json!({ "mirrors": mirrors, "store": whole }))?);
    } else {
        tell_store(&store, &whole)?;
    }
    Ok(exit)
}

/// A line for each fact that is worth one.
fn tell_mirror(status: &MirrorStatus, now: Timestamp) -> Result<(), Failure> {
    let MirrorStatus { mirror, snapshots, missed_late_event, .. } = status;
    say!("{mirror}");
    let (Some(upstream), Some(recorded), Some(projects)) = (&status.upstream, status.recorded, status.projects) else {
        say!("  never synced; `strandline sync {mirror}` begins");
        return Ok(());
    };
    let method = match status.method {
        Some(Method::Changelog) => ", followed by its changelog",
        Some(Method::Collect) => ", followed by its pages",
        None => "",
    };
    say!("  upstream   {upstream}{method}");
    if status.begins_anew {
        say!("  RESET      the next sync asks for every project anew");
    }
    match (status.no_changelog_since, status.collects_from) {
        (Some(since), Some(from)) => say!(
            "  NO CHANGELOG since {since}, says upstream; if it still says so at {from}, every page is read twice instead from then on"
        ),
        (Some(since), None) => {
            say!("  NO CHANGELOG since {since}, says upstream; `source = \"simple\"` reads every page twice instead");
        }
        (None, _) => {}
    }
    match (status.published, status.published_since) {
        (Some(published), Some(since)) => say!("  published  serial {published} since {since}"),
        _ => say!("  published  nothing yet"),
    }
    if status.rolled_back {
        say!(
            "  ROLLED BACK: syncs record and do not publish; newest is serial {recorded}; `strandline rollback {mirror} --resume` ends this"
        );
    }
    say!("  projects   {projects}");
    match missed_late_event {
        0 => say!("  kept       {snapshots} snapshots"),
        1 => say!("  kept       {snapshots} snapshots; 1 of them lacks an event that came to light late"),
        missed => say!("  kept       {snapshots} snapshots; {missed} of them lack an event that came to light late"),
    }
    for withdrawal in &status.withdrawn {
        say!("  withdrawn  {}", purge::in_words(withdrawal));
    }
    if status.withdrawal_unfinished {
        say!("  WITHDRAWAL UNFINISHED: the process that has locked the mirror finishes it, or the next command does");
    }
    if let Some(MirrorSize { bytes, own_bytes }) = status.size {
        say!("  size       {}, of which {} are in no other mirror", HumanBytes(bytes), HumanBytes(own_bytes));
    }
    tell_last_sync(status, now)?;
    for held in &status.held {
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
    for Gone { name, serial } in &status.gone {
        say!(
            "  gone       {name}: its page is missing, upstream does not list it, and no event says so; it was at serial {serial}"
        );
    }
    for LackingFile { project, filename, reason } in &status.lacking {
        say!("  lacking    {project}: {}: {reason}", filename.as_str());
    }
    for SkippedElements { project, count, named } in status.skipped.iter().take(SKIPPED_TOLD) {
        say!("  skipped    {project}: {count} of its page cannot be used: {}", named.join("; "));
    }
    if let Some(more) = status.skipped.len().checked_sub(SKIPPED_TOLD).filter(|more| *more > 0) {
        say!("  skipped    something of the pages of {more} more projects: `status --json` names all");
    }
    if !status.unknown_keys.is_empty() {
        // Upstream chose them.
        let named = status.unknown_keys.iter().map(|(key, projects)| format!("{} ({projects})", key.escape_debug()));
        let named = named.collect::<Vec<_>>().join(", ");
        say!("  unknown    keys of pages, kept and not shown, each with the number of projects: {named}");
    }
    Ok(())
}

fn tell_last_sync(status: &MirrorStatus, now: Timestamp) -> Result<(), Failure> {
    let Some(last) = &status.last_sync else {
        say!("  last sync  unknown");
        return Ok(());
    };
    match &last.failure {
        Some(failure) => say!("  last sync  {} FAILED: {failure}", last.time),
        None => say!("  last sync  {} ({} s ago), in order", last.time, now.since(last.time).as_secs()),
    }
    if let (Some(Lag { serials, seconds }), Some(rounds)) = (&status.lag, last.rounds) {
        say!("  behind     {serials} serials, {seconds} s, after {rounds} rounds");
    }
    Ok(())
}

fn tell_store(store: &Store, StoreStatus { free_bytes, size, .. }: &StoreStatus) -> Result<(), Failure> {
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
    say!("  free       {}", HumanBytes(*free_bytes));
    Ok(())
}
