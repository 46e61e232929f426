//! The commands.

mod adopt;
mod compare;
mod inspect;
mod maintain;
mod mirror_status;
pub(crate) mod purge;
mod serve;
mod status;
mod sync;
mod up;
mod verify;

use std::path::Path;
use std::sync::Arc;

use strandline_durable::Disk;
use strandline_model::{Formats, MirrorName, Timestamp, with_causes};
use strandline_pypi::Pypi;
use strandline_store::{Mirror, SelectError, Store, Wait};
use strandline_sync::Clock;

use crate::arguments::{Arguments, Command, MirrorCommand};
use crate::config::{self, Config};
use crate::exit::Exit;
use crate::report::{During as _, Failure};

/// Runs the command that was given.
pub(crate) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { config, store, command, .. } = arguments;
    let read = || Config::read(config.as_deref(), store.as_deref());
    match command {
        Command::Up { projects, listen, every } => {
            if config.as_ref().map_or_else(|| Config::usual().is_none(), |path| !path.exists()) {
                if projects.is_empty() {
                    return Err(config::ConfigError::NoProjects.into());
                }
                let path = Config::new_path(config.as_deref());
                config::write(&Disk::new(), &path, &"pypi".parse()?, None, &projects)?;
                tracing::info!("wrote {}", path.display());
            }
            let config = read()?;
            config.require_projects(&projects)?;
            up::up(&config, listen, every).await
        }
        Command::Init { mirror, upstream, projects } => {
            let path = Config::new_path(config.as_deref());
            config::write(&Disk::new(), &path, &mirror, upstream.as_ref().map(|url| &url.0), &projects)?;
            tracing::info!("wrote {}; `strandline sync` syncs once, `strandline up` syncs and serves", path.display());
            Ok(Exit::Done)
        }
        Command::Sync { mirrors, wait, accept_drop } => {
            let wait = if wait { Wait::UntilFree } else { Wait::Never };
            sync::sync(&read()?, &mirrors, sync::Asked { wait, accept_drop }).await
        }
        Command::Serve { listen } => serve::serve(&read()?, listen).await,
        Command::Status { json } => status::status(&read()?, json),
        Command::Log { mirror, json } => inspect::log(&read()?, &mirror, json),
        Command::Diff { mirror, before, after: Some(after), json } => {
            inspect::diff(&read()?, &mirror.parse()?, &before, &after, json)
        }
        Command::Diff { mirror, before, after: None, json } => compare::compare(&read()?, &mirror, &before, json),
        Command::Show { raw: Some(id), .. } => inspect::raw(&read()?, id),
        Command::Show { mirror, project, .. } => {
            inspect::show(&read()?, mirror.as_deref().unwrap_or_default(), project.as_ref())
        }
        Command::Rollback { mirror, serial, .. } => maintain::rollback(&read()?, &mirror, serial.as_deref()).await,
        Command::Pin { mirror, serial } => maintain::pin(&read()?, &mirror, &serial),
        Command::Unpin { mirror, serial } => maintain::unpin(&read()?, &mirror, &serial),
        Command::Mirror(MirrorCommand::Remove { name }) => maintain::remove_mirror(&read()?, &name),
        Command::Mirror(MirrorCommand::Reset { name }) => maintain::reset_mirror(&read()?, &name),
        Command::Mirror(MirrorCommand::Move { name, upstream }) => maintain::move_mirror(&read()?, &name, &upstream.0),
        Command::Verify { mirror, data, max_age, sample, limit, restart, repair } => {
            let data = data.then_some(verify::Which { max_age, sample, limit, restart });
            verify::verify(&read()?, mirror.as_ref(), data, repair).await
        }
        Command::Render { mirror } => maintain::render(&read()?, &mirror).await,
        Command::Rebuild => verify::rebuild(&read()?).await,
        Command::Gc { dry_run } => maintain::gc(&read()?, dry_run),
        Command::Adopt { mirror, directory, copy, json } => {
            adopt::adopt(&read()?, &mirror, &directory, adopt::Options { copy, json })
        }
        Command::Purge { what: Some(what), mirror, reason, undo: false, .. } => {
            purge::purge(&read()?, &what, mirror, reason)
        }
        Command::Purge { what: Some(what), mirror, reason, .. } => purge::undo(&read()?, &what, mirror, reason),
        Command::Purge { json, .. } => purge::list(&read()?, json),
        Command::Nginx { listen } => serve::nginx(&read()?, &listen),
    }
}

/// The one place where the program reads the clock.
fn clock() -> Clock {
    #[expect(clippy::disallowed_methods, reason = "everything below takes the time from here")]
    Arc::new(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        // A clock that is far beyond every year that can be written is wrong, and no reason to end.
        Timestamp::from_seconds(since.as_secs().cast_signed()).unwrap_or(Timestamp::LAST)
    })
}

/// Opens the store, and finishes the work that an interrupted process left half done.
fn open(path: &Path) -> Result<Arc<Store>, Failure> {
    let opened = strandline_sync::open(path, Disk::new(), &formats(), clock()());
    opened.during(|| format!("cannot open the store `{}`", path.display()))
}

/// How the mirrors are written.
fn formats() -> Formats {
    Formats::usual(Arc::new(Pypi))
}

/// A mirror that the store has.
fn known(store: &Arc<Store>, name: &MirrorName) -> Result<Mirror, Failure> {
    Ok(store.mirror(name)?.ok_or_else(|| SelectError::NoSnapshot { mirror: name.clone() })?)
}

/// Sets some room aside for the `gc` that a full disk needs.
fn keep_reserve(store: &Store) {
    if let Err(error) = strandline_store::reserve::keep(store.root(), store.disk()) {
        // Some file systems cannot set room aside; the program works without.
        tracing::debug!("no room is kept back for a full disk: {}", with_causes(&error));
    }
}

/// Writes a line of the command's answer to stdout. The program ends quietly where no process reads it any more.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stdout(), $($words)*)?
    }};
}
pub(crate) use say;
