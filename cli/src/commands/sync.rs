//! `sync`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use indicatif::HumanBytes;
use strandline_model::{Hidden, MirrorName};
use strandline_pypi::{Index, Pypi};
use strandline_store::{Store, Wait};
use strandline_sync::{Context, Outcome, Progress, Settings};

use super::{clock, keep_reserve, open};
use crate::config::{Config, Mirror};
use crate::console::Shown;
use crate::exit::Exit;
use crate::report::{Failure, in_words};

/// What was asked for on the command line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    /// What to do while another process has a mirror.
    pub(crate) wait: Wait,
    /// Whether what vanished may go.
    pub(crate) accept_drop: bool,
}

/// Syncs the mirrors one after the other; one that fails does not stop the others.
pub(crate) async fn sync(config: &Config, mirrors: &[MirrorName], asked: Asked) -> Result<Exit, Failure> {
    let mirrors = config.mirrors(mirrors)?;
    let store = open(&config.store)?;
    keep_reserve(&store);
    Ok(sync_all(config, &store, &mirrors, asked).await)
}

/// Syncs these mirrors of an open store; returns the worst of their exits.
pub(crate) async fn sync_all(
    config: &Config,
    store: &Arc<Store>,
    mirrors: &[(&MirrorName, &Mirror)],
    asked: Asked,
) -> Exit {
    let Asked { wait, accept_drop } = asked;
    let mut worst = Exit::Done;
    for (name, mirror) in mirrors {
        let settings = Settings { wait, accept_drop, min_free: config.min_free, ..mirror.settings(name) };
        let exit = match sync_one(store, name, mirror, settings).await {
            Ok(outcome) if outcome.held.is_empty() && outcome.lacking.is_empty() => Exit::Done,
            Ok(_) => Exit::Held,
            Err(failure) => failure.during(format!("mirror `{name}` was not synced")).report(),
        };
        worst = worst.max(exit);
    }
    worst
}

async fn sync_one(
    store: &Arc<Store>,
    name: &MirrorName,
    mirror: &Mirror,
    settings: Settings,
) -> Result<Outcome, Failure> {
    let index = Index::new(mirror.index(mirror.upstream()?))?;
    let progress = Arc::new(Progress::default());
    let context = Context {
        store: store.clone(),
        upstream: Arc::new(index),
        format: Arc::new(Pypi),
        settings: Arc::new(settings),
        clock: clock(),
        progress: progress.clone(),
    };
    let shown = Shown::new(name, progress.clone());
    let outcome = strandline_sync::sync(&context).await;
    drop(shown);
    let outcome = outcome?;
    tell(name, &outcome, &progress);
    Ok(outcome)
}

/// Says what a sync did.
fn tell(mirror: &MirrorName, outcome: &Outcome, progress: &Progress) {
    let Outcome { label, before, changed, projects, published, held, lacking, absent, .. } = outcome;
    let files = progress.files_done.load(Ordering::Relaxed);
    let bytes = HumanBytes(progress.bytes.load(Ordering::Relaxed));
    match before {
        Some(before) if before == label => tracing::info!("{mirror}: nothing new, at serial {label}"),
        Some(before) => tracing::info!(
            "{mirror}: from serial {before} to {label}, {changed} of {projects} projects changed, {files} files fetched ({bytes})"
        ),
        None => tracing::info!("{mirror}: first sync, at serial {label}, {projects} projects, {files} files ({bytes})"),
    }
    for project in absent {
        tracing::warn!("{mirror}: upstream has no project `{project}`");
    }
    for held in held {
        tracing::warn!(
            "{mirror}: `{}` is held at serial {} and needs {}, since {}: {} ({})",
            held.name,
            held.at,
            held.needs,
            held.since,
            in_words(held.reason),
            held.reason
        );
    }
    for (project, filename) in lacking {
        tracing::warn!("{mirror}: `{}` of `{project}` is not shown: {}", filename.as_str(), Hidden::Lacking);
    }
    if !published {
        tracing::warn!(
            "{mirror}: rolled back, so serial {label} is recorded and not published; `strandline rollback {mirror} --resume` publishes it"
        );
    }
}
