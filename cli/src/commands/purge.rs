//! `purge`, and the parts of other commands that are about withdrawals.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Value, json};
use strandline_durable::LockError;
use strandline_model::{ClaimedSha256, DisplayName, MirrorName, ProjectName, Releases as _};
use strandline_pypi::Pypi;
use strandline_store::{Locked, Mirror, Order, Store, Wait, Withdrawal, WithdrawnFile};
use strandline_sync::purge::{Busy, Done, Purge};

use super::{clock, formats, open, say};
use crate::config::Config;
use crate::exit::Exit;
use crate::report::{Failure, Judged, NOTHING_DONE, Verdict};

/// The files that an operator asks to withdraw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// One file.
    File(ClaimedSha256),
    /// All files of a release.
    Release(ProjectName, String),
}

/// Text that names neither a file nor a release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("neither a SHA-256 of 64 hexadecimal digits nor PROJECT==VERSION")]
pub(crate) struct InvalidWhat;

impl FromStr for What {
    type Err = InvalidWhat;
    fn from_str(text: &str) -> Result<Self, InvalidWhat> {
        if let Some((project, version)) = text.split_once("==") {
            let project = project.trim().parse::<DisplayName>().map_err(|_| InvalidWhat)?.normalise();
            let version = version.trim();
            let plain = !version.is_empty() && version.len() <= 200 && version.chars().all(|c| c.is_ascii_graphic());
            return if plain { Ok(Self::Release(project, version.to_owned())) } else { Err(InvalidWhat) };
        }
        // As `show` prints it.
        text.strip_prefix("sha256:").unwrap_or(text).parse().map(Self::File).map_err(|_| InvalidWhat)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(sha256) => write!(f, "sha256:{sha256}"),
            Self::Release(project, version) => write!(f, "{project}=={version}"),
        }
    }
}

/// There is nothing that could be withdrawn or let back. Nothing was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NothingToWithdraw {
    /// No snapshot lists a file of the release.
    #[error("no kept snapshot lists a file of `{0}`{1}")]
    NoFile(What, String),
    /// It is not withdrawn.
    #[error("`{0}` is not withdrawn; `strandline purge --list` says what is")]
    NotWithdrawn(What),
    /// There is no such mirror.
    #[error("the store has no mirror `{0}`, and neither has the configuration")]
    NoMirror(MirrorName),
}

impl Judged for NothingToWithdraw {
    fn verdict(&self) -> Verdict {
        NOTHING_DONE
    }
}

/// Withdraws a file or the files of a release.
pub(crate) fn purge(
    config: &Config,
    what: &What,
    scope: Option<MirrorName>,
    reason: Option<String>,
) -> Result<Exit, Failure> {
    let store = open(&config.store)?;
    let mirrors = in_scope(config, &store, scope.as_ref())?;
    let purge = Purge { store: &store, formats: &formats(), now: clock()() };
    let mut plan = match what {
        What::File(sha256) => purge.plan_file(&known_in(&store, &mirrors)?, *sha256)?,
        What::Release(project, version) => purge.plan_release(&known_in(&store, &mirrors)?, project, version)?,
    };
    for known in withdrawn_files(&store, what, &mirrors)? {
        plan.files.entry(known.sha256).or_insert(known);
    }
    let unclear = plan.unclear.iter().map(String::as_str).collect::<Vec<_>>().join("`, `");
    let unclear = match unclear.as_str() {
        "" => unclear,
        names => format!("; name these by their SHA-256 if they belong to it: `{names}`"),
    };
    match what {
        What::File(sha256) if plan.files.is_empty() => {
            tracing::warn!("no kept snapshot lists {what}: from now on, no sync brings it");
            plan.files.insert(*sha256, WithdrawnFile { sha256: *sha256, name: None });
        }
        What::Release(..) if plan.files.is_empty() => {
            return Err(NothingToWithdraw::NoFile(what.clone(), unclear).into());
        }
        _ if !unclear.is_empty() => tracing::warn!("not every name of a file says its version{unclear}"),
        _ => {}
    }
    let order = Order { scope, time: clock()(), who: who(), reason };
    if purge.execute(&plan, &order)? == 0 {
        tracing::info!("{what} is withdrawn already; looking whether anything is left of it");
    }
    let Done { mirrors, busy, deleted } = purge.finish(Busy::Wait(&|mirror: &MirrorName, error: &LockError| {
        tracing::warn!("{mirror}: its files are gone, and its pages go when another process has ended: {error}");
    }))?;
    for file in plan.files.values() {
        say!("withdrawn {}", of_file(file));
    }
    for purged in &mirrors {
        for (old, new) in &purged.revisions {
            say!("{}@{old} is {new} now", purged.mirror);
        }
    }
    for mirror in busy {
        tracing::warn!("{mirror}: its first sync is running, and leaves it out");
    }
    let undo = order.scope.map_or_else(String::new, |mirror| format!(" --mirror {mirror}"));
    tracing::info!(
        "{what}: {deleted} blobs deleted; it is not fetched again until `strandline purge {what}{undo} --undo`"
    );
    Ok(Exit::Done)
}

/// Lets a file or the files of a release back.
pub(crate) fn undo(
    config: &Config,
    what: &What,
    scope: Option<MirrorName>,
    reason: Option<String>,
) -> Result<Exit, Failure> {
    let store = open(&config.store)?;
    let mirrors = in_scope(config, &store, scope.as_ref())?;
    let files: Vec<_> = withdrawn_files(&store, what, &mirrors)?.into_iter().collect();
    if files.is_empty() {
        return Err(NothingToWithdraw::NotWithdrawn(what.clone()).into());
    }
    // A withdrawal that was interrupted is finished before it is undone, because links may be gone that pages still name.
    let tell = |mirror: &MirrorName, error: &LockError| {
        tracing::warn!("{mirror}: waiting until another process has ended: {error}");
    };
    Purge { store: &store, formats: &formats(), now: clock()() }.finish(Busy::Wait(&tell))?;
    let locked: Vec<Locked> =
        mirrors.iter().map(|mirror| store.lock(mirror, Wait::UntilFree, clock()())).collect::<Result<_, _>>()?;
    let order = Order { scope, time: clock()(), who: who(), reason };
    store.let_back(&order, &files, &locked)?;
    for file in &files {
        say!("let back {}", of_file(file));
    }
    tracing::info!("the next sync brings {what} back, if upstream still has it");
    Ok(Exit::Done)
}

/// The record of what was withdrawn and let back, the oldest first.
pub(crate) fn list(config: &Config, json: bool) -> Result<Exit, Failure> {
    for withdrawal in open(&config.store)?.withdrawals()? {
        if json {
            say!("{}", as_json(&withdrawal));
        } else {
            let done = if withdrawal.undone { "let back" } else { "withdrawn" };
            let scope = withdrawal.order.scope.as_ref().map_or("all mirrors", MirrorName::as_str);
            say!("{done}\t{scope}\t{}", in_words(&withdrawal));
        }
    }
    Ok(Exit::Done)
}

/// The withdrawals that are in force for a mirror, the newest order for each file.
pub(crate) fn in_force(store: &Store, mirror: &MirrorName) -> Result<Vec<Withdrawal>, Failure> {
    let mut now = store.withdrawn_from(mirror)?;
    let mut found = Vec::new();
    for withdrawal in store.withdrawals()?.into_iter().rev() {
        let about = withdrawal.order.scope.as_ref().is_none_or(|scope| scope == mirror);
        if about && now.remove(&withdrawal.file.sha256) {
            found.push(withdrawal);
        }
    }
    found.reverse();
    Ok(found)
}

/// A withdrawal in words: the file, the time, the user and the reason.
pub(crate) fn in_words(withdrawal: &Withdrawal) -> String {
    let Withdrawal { order, file, .. } = withdrawal;
    let reason = order.reason.as_ref().map_or_else(String::new, |reason| format!(": {}", reason.escape_debug()));
    format!("{} {} by {}{reason}", of_file(file), order.time, order.who.escape_debug())
}

pub(crate) fn as_json(withdrawal: &Withdrawal) -> Value {
    let Withdrawal { order, file, undone } = withdrawal;
    json!({
        "mirror": order.scope, "sha256": file.sha256, "undone": undone,
        "project": file.name.as_ref().map(|(project, _)| project), "file": file.name.as_ref().map(|(_, file)| file),
        "time": order.time, "who": order.who, "reason": order.reason,
    })
}

fn of_file(file: &WithdrawnFile) -> String {
    let name = file.name.as_ref().map_or_else(String::new, |(_, name)| format!("{} ", name.escape_debug()));
    format!("{name}sha256:{}", file.sha256)
}

/// The mirrors that an order is for: `scope`, or all of the store and of the configuration.
fn in_scope(config: &Config, store: &Arc<Store>, scope: Option<&MirrorName>) -> Result<Vec<MirrorName>, Failure> {
    let mut all: BTreeSet<_> = store.mirrors()?.iter().map(|mirror| mirror.name().clone()).collect();
    all.extend(config.mirrors(&[])?.into_iter().map(|(name, _)| name.clone()));
    match scope {
        None => Ok(all.into_iter().collect()),
        Some(scope) if all.contains(scope) => Ok(vec![scope.clone()]),
        Some(scope) => Err(NothingToWithdraw::NoMirror(scope.clone()).into()),
    }
}

/// Those of the mirrors that the store has.
fn known_in(store: &Arc<Store>, names: &[MirrorName]) -> Result<Vec<Mirror>, Failure> {
    let mut mirrors = store.mirrors()?;
    mirrors.retain(|mirror| names.contains(mirror.name()));
    Ok(mirrors)
}

/// The files that `what` names and that are withdrawn from at least one of the mirrors.
fn withdrawn_files(store: &Store, what: &What, mirrors: &[MirrorName]) -> Result<BTreeSet<WithdrawnFile>, Failure> {
    let mut now = BTreeSet::new();
    for mirror in mirrors {
        now.append(&mut store.withdrawn_from(mirror)?);
    }
    let mut found = BTreeSet::new();
    for withdrawal in store.withdrawals()? {
        let file = withdrawal.file;
        let is_meant = match (what, &file.name) {
            (What::File(sha256), _) => file.sha256 == *sha256,
            (What::Release(project, version), Some((of, name))) => {
                of == project && Pypi.is_of_release(project, name, version) == Some(true)
            }
            (What::Release(..), None) => false,
        };
        if is_meant && now.contains(&file.sha256) {
            found.insert(file);
        }
    }
    Ok(found)
}

/// The user who runs the program, as the system and the environment name them.
fn who() -> String {
    let name = ["SUDO_USER", "LOGNAME", "USER"]
        .into_iter()
        .filter_map(|variable| std::env::var(variable).ok())
        .find(|name| !name.is_empty());
    let uid = rustix::process::getuid().as_raw();
    name.map_or_else(|| format!("uid {uid}"), |name| format!("{name} (uid {uid})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_named() {
        let digest = "0f".repeat(32);
        for (text, what) in [
            (digest.clone(), format!("sha256:{digest}")),
            (format!("sha256:{digest}"), format!("sha256:{digest}")),
            ("Six==1.0".to_owned(), "six==1.0".to_owned()),
            ("a_b == 1.0+local".to_owned(), "a-b==1.0+local".to_owned()),
        ] {
            assert_eq!(text.parse::<What>().unwrap().to_string(), what);
        }
        for text in ["", "six", "six==", "==1.0", "six==1 0", "0f", "six=1.0"] {
            assert_eq!(text.parse::<What>(), Err(InvalidWhat), "{text}");
        }
    }
}
