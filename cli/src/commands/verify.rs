//! `verify` and `rebuild`: finding damage, and repairing it.

use std::collections::BTreeSet;
use std::sync::Arc;

use indicatif::HumanBytes;
use strandline_durable::Disk;
use strandline_model::{MirrorName, with_causes};
use strandline_pypi::{Index, Pypi};
use strandline_store::verify::{Damage, Data, Report, damaged_pages, verify as store_verify};
use strandline_store::{Access, Limiter, Rebuild, Store};
use strandline_sync::repair::{BytesFrom, Left, Repaired};
use strandline_sync::{Context, Progress, Settings};

use super::{clock, open, say};
use crate::config::{Bytes, Config, Mirror, Seconds, Share};
use crate::exit::Exit;
use crate::report::{During as _, Failure};

/// How many rounds of looking and repairing there are, because one repair may bring other damage to light.
const ROUNDS: usize = 3;

/// Which data is read, and how fast.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Which {
    pub(crate) max_age: Option<Seconds>,
    pub(crate) sample: Option<Share>,
    pub(crate) limit: Option<Bytes>,
    pub(crate) restart: bool,
}

/// Checks manifests, blobs and links, and names what is damaged; repairs it if asked to.
pub(crate) async fn verify(
    config: &Config,
    mirror: Option<&MirrorName>,
    which: Option<Which>,
    repair: bool,
) -> Result<Exit, Failure> {
    let named: Vec<_> = mirror.cloned().into_iter().collect();
    let configured = config.mirrors(&named)?;
    let (store, mut mirrors) = opened(config)?;
    if let Some(name) = mirror {
        mirrors.retain(|mirror| mirror.name() == name);
    }

    let limiter = which.and_then(|which| which.limit).map(|Bytes(limit)| Limiter::new(limit));
    let data = which.map(|Which { max_age, sample, restart, .. }| Data {
        now: Some(clock()()),
        max_age: max_age.map(|Seconds(age)| age),
        share: sample.map(|Share(share)| share),
        restart,
        limiter: limiter.as_ref(),
        ..Data::default()
    });
    let report = tokio::task::block_in_place(|| store_verify(&store, &mirrors, data.as_ref(), &|_| {}))?;
    let mut wrong = report.damage.len();
    for damage in &report.damage {
        say!("{damage}");
    }
    for mirror in &mirrors {
        for broken in strandline_view::look(mirror, which.is_some())? {
            wrong += 1;
            say!("{broken}");
        }
    }
    tell(&report, which.is_some());
    if wrong == 0 {
        return Ok(Exit::Done);
    }
    if !repair {
        return Err(Failure::found(format!(
            "{wrong} things are not as the catalog says; nothing was changed, and `strandline verify --repair` puts right what it can"
        )));
    }
    put_right(&store, &configured, &mirrors, report.damage, which.is_some()).await
}

/// Opens the store and looks which mirrors it has; where SQLite finds the catalog damaged, says which of its pages are.
fn opened(config: &Config) -> Result<(Arc<Store>, Vec<strandline_store::Mirror>), Failure> {
    let opened = open(&config.store).and_then(|store| Ok((store.clone(), store.mirrors()?)));
    if let Err(error) = &opened
        && error.is_corruption()
    {
        for problem in damaged_pages(&config.store)? {
            say!("{}", Damage::Catalog { problem });
        }
    }
    opened
}

fn tell(report: &Report, data: bool) {
    let Report { snapshots, bodies, blobs, bytes, rehashed, rehashed_bytes, resumed, .. } = report;
    if let Some(began) = resumed {
        tracing::info!(
            "went on with the check that began at {began} and was interrupted; `--restart` begins anew instead"
        );
    }
    let bytes = HumanBytes(*bytes);
    if data {
        tracing::info!(
            "{snapshots} snapshots, {bodies} records, nodes and units re-hashed; {rehashed} of {blobs} blobs ({} of {bytes}) re-hashed",
            HumanBytes(*rehashed_bytes)
        );
    } else {
        tracing::info!(
            "{snapshots} snapshots, {bodies} records, nodes and units re-hashed; {blobs} blobs ({bytes}) present"
        );
    }
}

/// Repairs what is damaged, and says what became of it.
async fn put_right(
    store: &Arc<Store>,
    configured: &[(&MirrorName, &Mirror)],
    mirrors: &[strandline_store::Mirror],
    mut damage: Vec<Damage>,
    data: bool,
) -> Result<Exit, Failure> {
    let mut contexts = Vec::new();
    for (name, mirror) in configured {
        // A mirror that was never synced has nothing to repair.
        if mirrors.iter().any(|known| known.name() == *name) {
            contexts.push(Context {
                store: store.clone(),
                upstream: Arc::new(Index::new(mirror.index(mirror.upstream()?))?),
                format: Arc::new(Pypi),
                settings: Arc::new(mirror.settings(name)),
                clock: clock(),
                progress: Arc::new(Progress::default()),
            });
        }
    }
    let (mut seen, mut repaired, mut left, mut views) = (Vec::new(), 0, Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        seen.extend(damage.iter().cloned());
        let done = strandline_sync::repair::repair(&contexts, damage, data).await?;
        for thing in &done.repaired {
            say!("repaired: {}", repaired_in_words(thing));
        }
        repaired += done.repaired.len();
        left.extend(done.left.iter().map(left_in_words));
        views = done.views;
        let again = tokio::task::block_in_place(|| store_verify(store, mirrors, None, &|_| {}))?;
        damage = again.damage.into_iter().filter(|damage| !seen.contains(damage)).collect();
        if damage.is_empty() {
            break;
        }
    }
    left.extend(damage.iter().map(ToString::to_string).chain(views.iter().map(ToString::to_string)));
    for mirror in mirrors.iter().filter(|mirror| !contexts.iter().any(|known| known.settings.mirror == *mirror.name()))
    {
        left.extend(strandline_view::look(mirror, data)?.iter().map(ToString::to_string));
    }
    for line in &left {
        say!("not repaired: {line}");
    }
    if !left.is_empty() {
        return Err(Failure::found(format!("{} things are damaged yet; {repaired} were repaired", left.len())));
    }
    tracing::info!("everything that was damaged is repaired: {repaired} things");
    Ok(Exit::Done)
}

fn repaired_in_words(repaired: &Repaired) -> String {
    match repaired {
        Repaired::Body { id, project } => format!("body {id} of {project}: made again"),
        Repaired::Blob { blob, problem, from, aside } => {
            let from = match from {
                BytesFrom::Withdrawn => "it was withdrawn since, so nothing needs it".to_owned(),
                BytesFrom::Itself => "its file is whole, and has its row again".to_owned(),
                BytesFrom::Copy(path) => format!("taken from `{}`", path.display()),
                BytesFrom::Record(project) => format!("made again from the record of {project}"),
                BytesFrom::Inside(path) => format!("taken out of `{path}` again"),
                BytesFrom::Upstream(upstream) => format!("fetched again from {upstream}"),
            };
            let aside = aside.as_ref().map(|path| format!("; what was there is `{}` now", path.display()));
            format!("blob {blob} {problem}: {from}{}", aside.unwrap_or_default())
        }
        Repaired::View(broken) => format!("{broken}: put right"),
        Repaired::Pool { mirror, links } => format!("{mirror}: {links} links of the pool for earlier serials"),
        Repaired::Standby { mirror } => {
            format!("{mirror}: the tree that is not live was damaged; the next switch makes it anew")
        }
    }
}

fn left_in_words(left: &Left) -> String {
    match left {
        Left::Catalog(damage) => format!(
            "{damage}; restore the catalog from a backup (docs/operations.md, \"Restoring\"), or move it aside and run `strandline rebuild`"
        ),
        Left::Page { blob, problem, named_by } => {
            let names: Vec<_> = named_by.iter().map(ToString::to_string).collect();
            let mirrors: BTreeSet<_> = named_by.iter().map(|naming| naming.mirror.as_str()).collect();
            let commands: Vec<_> = mirrors.into_iter().map(|mirror| format!("`strandline render {mirror}`")).collect();
            format!(
                "page {blob} {problem}; an earlier version of this program made it, and today's makes it otherwise: {} makes the pages of the newest serial anew, and `strandline gc` drops the earlier ones when retention no longer keeps them; named by {}",
                commands.join(" or "),
                names.join(", ")
            )
        }
        Left::Blob { blob, problem, asked, named_by } => {
            let asked: Vec<_> =
                asked.iter().map(|(upstream, error)| format!("{upstream}: {}", with_causes(error))).collect();
            let why = match &asked[..] {
                [] => "no mirror of the configuration has it, so it was not looked for".to_owned(),
                asked => asked.join("; "),
            };
            let names: Vec<_> = named_by.iter().map(ToString::to_string).collect();
            format!("blob {blob} {problem}; {why}; named by {}", names.join(", "))
        }
    }
}

/// Makes a new catalog of what the views show.
pub(crate) async fn rebuild(config: &Config) -> Result<Exit, Failure> {
    let configured = config.mirrors(&[])?;
    let mut sources: Vec<(&MirrorName, Settings, Arc<Index>)> = Vec::new();
    for (name, mirror) in &configured {
        sources.push((name, mirror.settings(name), Arc::new(Index::new(mirror.index(mirror.upstream()?))?)));
    }
    for name in Rebuild::views(&config.store)? {
        if !sources.iter().any(|(known, ..)| **known == name) {
            return Err(Failure::found(format!(
                "the store has a view of mirror `{name}`, and `{}` has no such mirror: add it there, or move `{}` out of the store; nothing was changed",
                config.path.display(),
                config.store.join("views").join(name.as_str()).display()
            )));
        }
    }
    let now = clock()();
    let is_public = sources.iter().all(|(_, settings, _)| settings.access == Access::Public);
    let access = if is_public { Access::Public } else { Access::Private };
    let (rebuild, found) = Rebuild::begin(&config.store, Disk::new(), access, now)
        .during(|| format!("cannot rebuild the catalog of the store `{}`", config.store.display()))?;
    for path in &found.aside {
        say!("moved aside to {}", path.display());
    }
    say!("{} blobs ({}) are what their names say", found.blobs, HumanBytes(found.bytes));
    let mut incomplete = false;
    for locked in rebuild.mirrors() {
        let mirror = locked.name();
        let Some((_, settings, index)) = sources.iter().find(|(name, ..)| *name == mirror) else { continue };
        let context = Context {
            store: locked.store().clone(),
            upstream: index.clone(),
            format: Arc::new(Pypi),
            settings: Arc::new(settings.clone()),
            clock: clock(),
            progress: Arc::new(Progress::default()),
        };
        let done = strandline_sync::rebuild::rebuild(&rebuild, &context, locked)
            .await
            .during(|| format!("mirror `{mirror}` was not rebuilt; `strandline rebuild` begins anew"))?;
        match done {
            Some(done) => {
                say!("{mirror}: serial {} with {} projects", done.label, done.projects);
                for (project, why) in &done.lost {
                    incomplete = true;
                    say!("{mirror}: lost {project}: {why}");
                }
            }
            None => {
                incomplete = true;
                say!("{mirror}: its view shows no list of projects that can be read: the next sync begins it anew");
            }
        }
    }
    rebuild.finish()?;
    tracing::warn!(
        "the catalog is new. Lost are: all earlier serials, pins, what was withdrawn (`strandline purge` it again before the next sync), which projects are held and since when, whether a mirror was rolled back, and what was known for asking upstream; blobs that only earlier serials named go with the next `strandline gc`, after `grace`"
    );
    if incomplete {
        tracing::warn!("the next sync fetches the projects that are lost");
    }
    Ok(Exit::Done)
}
