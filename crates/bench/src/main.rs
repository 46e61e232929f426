//! What `scripts/bench` runs.
//!
//! ```text
//! strandline-bench sync STORE UPSTREAM PROJECTS FILES BYTES EVENTS    a sync, after so many more events
//! strandline-bench log UPSTREAM PROJECTS FILES BYTES EVENTS SINCE     the log, as an XML-RPC answer
//! strandline-bench catalog STORE UNITS FILES                           a catalog of one snapshot, without any file
//! strandline-bench absent STORE                                       notes that the files of that catalog may be gone
//! strandline-bench bare DIRECTORY PROJECTS BYTES                      the least that publishing takes
//! ```

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use strandline_bench::bare::{self, Failure};
use strandline_bench::{ScaleWorld, catalog};
use strandline_durable::{Disk, Step, Watch};
use strandline_model::{MirrorName, Serial, Snapshot, Timestamp};
use strandline_pypi::Pypi;
use strandline_store::{Mirror, Store};
use strandline_sync::cut::Action;
use strandline_sync::upstream::Upstream as _;
use strandline_sync::{Context, Method, Progress, Selection, Settings};

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["sync", store, upstream, projects, files, size, events] => {
            let world = |later| {
                Ok::<_, Failure>(ScaleWorld::new(
                    upstream.parse()?,
                    projects.parse()?,
                    files.parse()?,
                    size.parse()?,
                    later,
                )?)
            };
            sync(Path::new(store), &world, projects.parse()?, events.parse()?)
        }
        ["log", upstream, projects, files, size, events, since] => {
            let world =
                ScaleWorld::new(upstream.parse()?, projects.parse()?, files.parse()?, size.parse()?, events.parse()?)?;
            log(&world, since.parse()?)
        }
        ["catalog", store, units, files] => catalog::fill(Path::new(store), units.parse()?, files.parse()?),
        ["absent", store] => catalog::expect_no_files(Path::new(store)),
        ["bare", directory, projects, size] => {
            let took = bare::publish(Path::new(directory), projects.parse()?, size.parse()?)?;
            Ok(bare::say(&serde_json::json!({ "publish": took.as_secs_f64() }).to_string())?)
        }
        _ => Err("usage: strandline-bench sync|log|catalog|absent|bare …".into()),
    }
}

#[expect(clippy::disallowed_methods, reason = "the program's one clock")]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_seconds(i64::try_from(since.as_secs()).unwrap_or(0)).unwrap_or_else(|_| unreachable!("it is now"))
}

fn sync(
    directory: &Path,
    world: &dyn Fn(u64) -> Result<ScaleWorld, Failure>,
    projects: u64,
    events: u64,
) -> Result<(), Failure> {
    let mirror: MirrorName = "pypi".parse()?;
    let switch = Arc::new(Switch::default());
    let store = Store::open(directory, Disk::new().watched_by(switch.clone()))?;
    let stands = match store.mirror(&mirror)? {
        Some(mirror) => mirror.latest_verified()?.map(|base| base.snapshot.label.serial.get()),
        None => None,
    };
    let world = Arc::new(world(stands.map_or(0, |serial| serial - projects) + events)?);
    let settings = Settings {
        method: Some(Method::Changelog),
        drain: Duration::ZERO,
        recheck: Duration::from_hours(24 * 36_500),
        ..Settings::new(mirror, Selection::Everything)
    };
    let context = Context {
        store,
        upstream: world.clone(),
        format: Arc::new(Pypi),
        settings: Arc::new(settings),
        clock: Arc::new(now),
        progress: Arc::new(Progress::default()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    bare::settle(directory)?;
    let (begin, cpu) = (Instant::now(), bare::cpu()?);
    let outcome = runtime.block_on(strandline_sync::sync(&context))?;
    let (wall, cpu) = (begin.elapsed(), bare::cpu()? - cpu);
    let behind = switch.time().ok_or("nothing was published")?.duration_since(world.last_byte());
    let base = stands.and_then(|serial| Serial::try_from(serial).ok());
    let mirror = context.store.mirror(&context.settings.mirror)?.expect("it was synced");
    let base = base.map(|serial| mirror.at_serial(serial)).transpose()?.flatten();
    let snapshot = mirror.latest_verified()?.expect("it was synced").snapshot;
    let mut entries = 0;
    if let Some(base) = base {
        for leaf in
            context.store.diff(Some(&base.snapshot), Some(&snapshot))?.into_iter().filter_map(|change| change.after)
        {
            let unit = leaf.unit.map(|unit| context.store.unit(unit)).transpose()?;
            entries += unit.map_or(0, |unit| unit.entries().len());
        }
    }
    let memory = bare::peak_memory()?;
    let lists = lists(&mirror, &snapshot, directory)?;
    let answer = serde_json::json!({
        "serial": outcome.label.to_string(),
        "projects": outcome.projects,
        "changed": outcome.changed,
        "files": context.progress.files_done.load(Ordering::Relaxed),
        "upstream": world.url().as_str(),
        "wall": wall.as_secs_f64(),
        "cpu": cpu,
        "publish": behind.as_secs_f64(),
        "lists_bytes": snapshot.lists.iter().map(|list| list.size).sum::<u64>(),
        "lists": lists.as_secs_f64(),
        "entries": entries,
        "memory": memory,
    });
    Ok(bare::say(&answer.to_string())?)
}

/// Notes when the view was switched.
#[derive(Debug, Default)]
struct Switch(Mutex<Option<Instant>>);

impl Switch {
    fn time(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Switch {
    fn done(&self, step: Step<'_>) {
        if matches!(step, Step::Rename { to, .. } if to.ends_with("live")) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }
}

/// How long the root lists of a snapshot take: from the catalog to files that are synced.
fn lists(mirror: &Mirror, snapshot: &Snapshot, directory: &Path) -> Result<Duration, Failure> {
    let bytes: u64 = snapshot.lists.iter().map(|list| list.size).sum();
    let begin = Instant::now();
    let projects = mirror.listed(snapshot)?;
    drop(strandline_view::root_lists(&Pypi, snapshot.label.serial, &projects));
    // The lists are two, one of them with two names.
    let place = directory.join("incoming/measured");
    let mut file = mirror.store().disk().create_file(&place)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..(bytes * 2 / 3).div_ceil(1 << 20) {
        file.write(&zeros)?;
    }
    file.sync()?;
    let took = begin.elapsed();
    mirror.store().disk().remove_file(&place)?;
    Ok(took)
}

fn log(world: &ScaleWorld, since: u64) -> Result<(), Failure> {
    let mut rows = String::new();
    for event in world.log(since) {
        let Some(Action::AddFile(version, file)) = event.change else { continue };
        writeln!(
            rows,
            "<value><array><data><value><string>{}</string></value><value><string>{version}</string></value><value><int>{}</int></value>\
             <value><string>add py3 file {file}</string></value><value><int>{}</int></value></data></array></value>",
            event.display,
            event.time.seconds(),
            event.serial
        )?;
    }
    Ok(bare::say(&format!(
        "<?xml version='1.0'?>\n<methodResponse><params><param><value><array><data>\n{rows}</data></array></value></param></params></methodResponse>"
    ))?)
}
