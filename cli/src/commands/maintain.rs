//! `rollback`, `render`, `pin`, `mirror …` and `gc`.

use std::sync::Arc;

use indicatif::HumanBytes;
use strandline_durable::Disk;
use strandline_model::MirrorName;
use strandline_pypi::{Index, Pypi};
use strandline_store::gc::{self, Collected};
use strandline_store::{SelectError, Wait, reserve};
use strandline_sync::render::Made;
use strandline_sync::upstream::Upstream as _;
use strandline_sync::{Context, Progress};

use strandline_view::{Freeze, Publisher};
use url::Url;

use super::{clock, keep_reserve, known, open, say};
use crate::config::Config;
use crate::exit::Exit;
use crate::report::Failure;

/// Publishes an earlier snapshot and lets syncs only record; without a serial, publishes the newest again.
pub(crate) async fn rollback(config: &Config, mirror: &MirrorName, serial: Option<&str>) -> Result<Exit, Failure> {
    let (_, configured) = config.mirrors(std::slice::from_ref(mirror))?[0];
    let (store, now) = (open(&config.store)?, clock());
    known(&store, mirror)?;
    let locked = store.lock(mirror, Wait::Never, now())?;
    let recorded = match serial {
        Some("previous") => {
            let previous = locked.view_state()?.and_then(|state| state.previous);
            let nothing = || SelectError::NothingBefore { mirror: mirror.clone() };
            store.recorded(previous.ok_or_else(nothing)?)?
        }
        Some(serial) => locked.select_served(serial.parse()?)?,
        None => locked.latest_verified()?.ok_or_else(|| SelectError::NoSnapshot { mirror: mirror.clone() })?,
    };
    let state = locked.view_state()?;
    let present = state.map(|state| store.recorded(state.snapshot)).transpose()?;
    let verified = locked.verified(recorded, present.as_ref().map(|present| &present.snapshot))?;
    let publisher = Publisher::new(Arc::new(Pypi), configured.settings(mirror).drain, now);
    let freeze = if serial.is_some() { Freeze::Set } else { Freeze::Lift };
    let sealed = publisher.seal(verified);
    let published = publisher.publish(&locked, &sealed, freeze).await?;
    let label = published.map_or(sealed.snapshot().label, |published| published.label());
    if serial.is_some() {
        tracing::warn!(
            "{mirror}: published serial {label}; syncs record and do not publish until `strandline rollback {mirror} --resume`"
        );
    } else {
        tracing::info!("{mirror}: published serial {label}; syncs publish again");
    }
    Ok(Exit::Done)
}

/// Makes all pages of the newest snapshot anew.
pub(crate) async fn render(config: &Config, mirror: &MirrorName) -> Result<Exit, Failure> {
    let (_, configured) = config.mirrors(std::slice::from_ref(mirror))?[0];
    let store = open(&config.store)?;
    let newest = known(&store, mirror)?.latest_verified()?;
    let newest = newest.ok_or_else(|| SelectError::NoSnapshot { mirror: mirror.clone() })?.snapshot.label;
    let context = Context {
        store,
        upstream: Arc::new(Index::new(configured.index(configured.upstream()?))?),
        format: Arc::new(Pypi),
        settings: Arc::new(configured.settings(mirror)),
        clock: clock(),
        progress: Arc::new(Progress::default()),
    };
    let Some(made) = strandline_sync::render::render(&context).await? else {
        say!("{mirror}: nothing to do: this version of the program made all pages of serial {newest}");
        return Ok(Exit::Done);
    };
    let Made { before, label, projects, published } = made;
    say!("{mirror}: made the pages of {projects} projects anew: serial {label} takes the place of {before}");
    if !published {
        tracing::warn!(
            "{mirror} is rolled back, so serial {label} is recorded and not published; `strandline rollback {mirror} --resume` publishes it"
        );
    }
    Ok(Exit::Done)
}

/// Keeps a snapshot, also where retention would drop it.
pub(crate) fn pin(config: &Config, mirror: &MirrorName, serial: &str) -> Result<Exit, Failure> {
    let store = open(&config.store)?;
    let kept = known(&store, mirror)?;
    let recorded = kept.select_served(serial.parse()?)?;
    let label = recorded.snapshot.label;
    if kept.pin(recorded.id, clock()())? {
        tracing::info!("{mirror}: serial {label} is kept until `strandline unpin {mirror} {label}`");
    } else {
        tracing::info!("{mirror}: serial {label} is pinned already");
    }
    Ok(Exit::Done)
}

/// Leaves a snapshot to retention again.
pub(crate) fn unpin(config: &Config, mirror: &MirrorName, serial: &str) -> Result<Exit, Failure> {
    let store = open(&config.store)?;
    let kept = known(&store, mirror)?;
    let recorded = kept.select(serial.parse()?)?;
    let label = recorded.snapshot.label;
    if kept.unpin(recorded.id)? {
        tracing::info!("{mirror}: retention decides about serial {label} again");
    } else {
        tracing::info!("{mirror}: serial {label} is not pinned");
    }
    Ok(Exit::Done)
}

/// Has the next sync of a mirror begin as a first one does.
pub(crate) fn reset_mirror(config: &Config, mirror: &MirrorName) -> Result<Exit, Failure> {
    let store = open(&config.store)?;
    known(&store, mirror)?;
    store.lock(mirror, Wait::Never, clock()())?.reset()?;
    tracing::info!(
        "the next sync of `{mirror}` asks upstream for every project anew, and takes its serials; until then readers see what they see now"
    );
    Ok(Exit::Done)
}

/// Notes that a mirror's upstream has another address from now on.
pub(crate) fn move_mirror(config: &Config, mirror: &MirrorName, upstream: &Url) -> Result<Exit, Failure> {
    let (_, configured) = config.mirrors(std::slice::from_ref(mirror))?[0];
    let index = Index::new(configured.index(upstream.clone()))?;
    let store = open(&config.store)?;
    known(&store, mirror)?;
    let locked = store.lock(mirror, Wait::Never, clock()())?;
    let before = locked.upstream()?.ok_or_else(|| SelectError::NoSnapshot { mirror: mirror.clone() })?;
    locked.move_to(index.url())?;
    tracing::info!("`{mirror}` is a copy of {} from now on, and was one of {before}", index.url());
    let says = Index::new(configured.index(configured.upstream()?))?;
    if says.url() != index.url() {
        tracing::warn!(
            "`{}` still says {}: set `upstream` of `{mirror}` to {}, or its syncs refuse to run",
            config.path.display(),
            says.url(),
            index.url()
        );
    }
    Ok(Exit::Done)
}

/// Removes a mirror from the store.
pub(crate) fn remove_mirror(config: &Config, mirror: &MirrorName) -> Result<Exit, Failure> {
    let store = open(&config.store)?;
    known(&store, mirror)?;
    store.lock(mirror, Wait::Never, clock()())?.remove()?;
    tracing::info!("removed mirror `{mirror}`; `strandline gc` frees what no other mirror has");
    if config.mirrors(std::slice::from_ref(mirror)).is_ok() {
        tracing::warn!("`{}` still has it: the next sync begins it anew", config.path.display());
    }
    Ok(Exit::Done)
}

/// Drops the snapshots that retention does not keep and deletes the blobs without a name, or only says which.
pub(crate) fn gc(config: &Config, dry: bool) -> Result<Exit, Failure> {
    if !dry && config.store.is_dir() && reserve::release_if_full(&config.store, &Disk::new())? {
        tracing::info!("the disk is full: room that was kept back for this is used");
    }
    let store = open(&config.store)?;
    let keep = |mirror: &MirrorName| config.keep(mirror);
    let collected = if dry {
        gc::plan(&store, keep, config.grace, clock()())?.outcome()
    } else {
        let collected = gc::collect(&store, keep, config.grace, clock()())?;
        keep_reserve(&store);
        collected
    };
    let Collected { snapshots, bodies, condemned, condemned_bytes, deleted, deleted_bytes, in_use, links } = collected;
    let (drop, delete) = if dry { ("would drop", "would delete") } else { ("dropped", "deleted") };
    for (mirror, label) in &snapshots {
        say!("{drop} {mirror}@{label}");
    }
    say!(
        "{drop} {} snapshots and {bodies} bodies; {condemned} more blobs ({}) have no name and go after {} s",
        snapshots.len(),
        HumanBytes(condemned_bytes),
        config.grace.as_secs()
    );
    say!("{delete} {deleted} blobs ({}) and {links} links", HumanBytes(deleted_bytes));
    if in_use > 0 {
        say!("{in_use} more blobs stay until the syncs that are running have ended");
    }
    Ok(Exit::Done)
}
