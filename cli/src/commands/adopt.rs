//! `adopt`: takes over the files that another program has mirrored.

use std::path::Path;
use std::sync::Arc;

use indicatif::HumanBytes;
use serde_json::{Value, json};
use strandline_model::MirrorName;
use strandline_pypi::WebTree;
use strandline_sync::adopt::{Adopted, Finding};
use strandline_sync::{Progress, Settings};

use super::{clock, open, say};
use crate::config::Config;
use crate::console::Shown;
use crate::exit::Exit;
use crate::report::{During as _, Failure};

/// What `adopt` was told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Whether the tree is to stay as it is: nothing is linked.
    pub(crate) copy: bool,
    /// Whether to say it as JSON.
    pub(crate) json: bool,
}

/// Takes over the files of a tree that a mirror may need.
pub(crate) fn adopt(config: &Config, name: &MirrorName, directory: &Path, options: Options) -> Result<Exit, Failure> {
    let (_, mirror) = config.mirrors(std::slice::from_ref(name))?[0];
    let settings = Settings { min_free: config.min_free, ..mirror.settings(name) };
    let tree = WebTree::open(directory, mirror.max_page_size())?;
    let store = open(&config.store)?;
    let progress = Arc::new(Progress::default());
    let shown = Shown::new(name, progress.clone());
    // The work goes on even if no process reads stdout any more; the last line then fails in the same way.
    let mut tell = |finding: &Finding| drop(say_finding(finding, options.json));
    let adopted = tokio::task::block_in_place(|| {
        strandline_sync::adopt::adopt(&store, &settings, &tree, !options.copy, &progress, &clock(), &mut tell)
    });
    drop(shown);
    let adopted = adopted.during(|| format!("`{}` was not adopted to its end", directory.display()))?;
    say_adopted(&adopted, options.json)?;
    tracing::info!("`strandline sync {name}` asks upstream for the pages, and fetches the files that are not here");
    Ok(Exit::Done)
}

fn say_finding(finding: &Finding, as_json: bool) -> Result<(), Failure> {
    let (kind, path, problem) = match finding {
        Finding::Wrong { path, problem } => ("wrong", path, Some(problem)),
        Finding::Missing { path } => ("missing", path, None),
        Finding::Unknown { path } => ("unknown", path, None),
        Finding::Unreadable { path, problem } => ("unreadable", path, Some(problem)),
    };
    if as_json {
        let mut line = json!({ "finding": kind, "path": path });
        if let (Some(problem), Value::Object(line)) = (problem, &mut line) {
            line.insert("problem".to_owned(), json!(problem));
        }
        say!("{line}");
    } else {
        match problem {
            Some(problem) => say!("{kind} {path}: {problem}"),
            None => say!("{kind} {path}"),
        }
    }
    Ok(())
}

fn say_adopted(adopted: &Adopted, as_json: bool) -> Result<(), Failure> {
    let Adopted { cloned, linked, copied, present, bytes, wrong, missing, unknown, unreadable, unselected } = *adopted;
    let all = adopted.adopted();
    if as_json {
        let summary = json!({
            "adopted": all, "cloned": cloned, "linked": linked, "copied": copied, "present": present, "bytes": bytes,
            "wrong": wrong, "missing": missing, "unknown": unknown, "unreadable": unreadable, "unselected": unselected,
        });
        say!("{summary}");
        return Ok(());
    }
    say!(
        "adopted {all} files: {cloned} cloned, {linked} linked and {copied} copied ({}), {present} here already",
        HumanBytes(bytes)
    );
    say!("left alone: {wrong} wrong, {unknown} unknown, {unselected} of projects that the mirror does not have");
    say!("{missing} missing; {unreadable} pages or directories cannot be read");
    Ok(())
}
