//! What a mirror has to be after a sync with wrong answers.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::Value;
use strandline_model::ProjectName;
use strandline_sync::{Outcome, SyncError};

use crate::world::{Lie, Run, Two, files, files_of, shown};

/// A round: everything moved, and answers are wrong.
pub(crate) struct Round<'a> {
    pub(crate) run: Run,
    pub(crate) number: u64,
    pub(crate) two: &'a Two,
    /// What is wrong about a project.
    pub(crate) touched: &'a dyn Fn(&str) -> Option<Lie>,
}

/// What a round came to, where it came to nothing that is forbidden.
pub(crate) struct Judged {
    /// Whether the sync after `hold-after` published something.
    pub(crate) published: bool,
    /// How many files have other bytes than upstream has under their names, because a page gave their digest.
    pub(crate) believed: u64,
}

impl Round<'_> {
    /// Judges the mirror after the two syncs of the round.
    pub(crate) fn judge(&self, first: &Result<Outcome, SyncError>, second: &Result<Outcome, SyncError>) -> Judged {
        let (mirror, twin) = (self.two.mirror.units(), self.two.twin.units());
        let (mut wrong, mut believed) = (Vec::new(), 0);
        let served = self.two.served.pages.lock().unwrap();
        let bodies = |project: &str| served.get(project).map(Vec::as_slice).unwrap_or_default();
        let says = |project: &str, texts: [&str; 2]| {
            let body = |body: &Bytes| String::from_utf8_lossy(body).into_owned();
            bodies(project).iter().map(body).any(|body| texts.iter().all(|text| body.contains(text)))
        };
        let named = self.named(second);
        for (name, right) in &twin {
            let (ours, right) = (shown(mirror.get(name)), shown(Some(right)));
            if ours != right {
                wrong.push(format!("{name}, whose answers are right, is\n{ours:?}\nand not\n{right:?}"));
            }
        }
        let upstream = self.two.upstream.world().state();
        let ours: BTreeSet<_> = mirror.keys().map(ProjectName::as_str).collect();
        for name in ours.into_iter().chain(upstream.keys().map(String::as_str)).collect::<BTreeSet<_>>() {
            let (ours, right) = (files(mirror.get(name)), files_of(upstream.get(name)));
            let Some(lie) = (self.touched)(name) else {
                if ours != right {
                    wrong.push(format!("{name}, whose answers are right now, has\n{ours:?}\nand not\n{right:?}"));
                }
                continue;
            };
            for (file, sha256) in &ours {
                let own = file.strip_suffix(".metadata").unwrap_or(file);
                match self.two.files.get(file) {
                    Some(known) if known == sha256 => {}
                    // A page that names another digest or another name is believed, where such bytes are there.
                    _ if says(name, [own, sha256]) => {
                        believed += 1;
                        self.two.believed.lock().unwrap().insert((file.clone(), sha256.clone()));
                    }
                    // A project that is held stays as it was.
                    _ if self.two.believed.lock().unwrap().contains(&(file.clone(), sha256.clone())) => {}
                    known => wrong.push(format!("{file} has the bytes {sha256}, and upstream {known:?} ({lie:?})")),
                }
            }
            for (file, _) in right.difference(&ours) {
                if !file.ends_with(".metadata")
                    && !named.contains(name)
                    && bodies(name).iter().all(|body| lists(body, file))
                {
                    let page = bodies(name).last().map(|body| String::from_utf8_lossy(body));
                    wrong.push(format!("{file} is missing, and nothing is said of {name} ({lie:?}): {page:?}"));
                }
            }
        }
        drop(served);
        let Run { seed, .. } = self.run;
        assert!(
            wrong.is_empty(),
            "seed {seed}, round {}: {} faults\n{}\nfirst sync: {first:?}\nsecond sync: {second:?}",
            self.number,
            wrong.len(),
            wrong.join("\n")
        );
        let published = second.as_ref().is_ok_and(|done| done.published && done.before != Some(done.label));
        let before = first.as_ref().is_ok_and(|done| done.published && done.before != Some(done.label));
        Judged { published: published || before, believed }
    }

    /// The projects of which the sync says that something is not as it should be; all, if it is behind or failed.
    fn named(&self, done: &Result<Outcome, SyncError>) -> Named {
        let Ok(done) = done else { return Named::All };
        if done.cut.is_some_and(|cut| cut.behind.is_some()) {
            return Named::All;
        }
        let held = done.held.iter().map(|held| held.name.to_string());
        let lacking = done.lacking.iter().map(|(name, _)| name.to_string());
        let skipped = self.two.mirror.recorded().skipped().unwrap().into_keys().map(|name| name.to_string());
        Named::These(held.chain(lacking).chain(skipped).collect())
    }
}

/// Whether a page has a file.
fn lists(body: &[u8], file: &str) -> bool {
    if let Ok(page) = serde_json::from_slice::<Value>(body) {
        return page["files"].as_array().is_some_and(|files| files.iter().any(|known| known["filename"] == file));
    }
    let Ok(body) = std::str::from_utf8(body) else { return false };
    // What stands in a comment or a script is no link.
    let hidden = body.matches("<!--").count() > body.matches("<!--SERIAL").count() || body.contains("<script");
    // Behind a tag that is broken, readers differ about what is a link.
    let is_whole = |line: &str| {
        line.trim().starts_with("<a href=\"")
            && line.ends_with("</a><br>")
            && line.matches('"').count().is_multiple_of(2)
    };
    let mut lines = body.lines().take_while(|line| !line.contains(".whl") || is_whole(line));
    !hidden && lines.any(|line| line.contains(&format!("/{file}#sha256=")))
}

enum Named {
    All,
    These(BTreeSet<String>),
}

impl Named {
    fn contains(&self, project: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(project),
        }
    }
}
