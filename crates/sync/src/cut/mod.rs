//! The rule of the cut: which serial all projects can be shown at, and how each of them stands there.
//!
//! [`cut`] is a pure function of three things: what the last snapshot M says, the pages fetched since M, and the
//! changelog from M to its head H, *read after the last byte of the last page arrived*. It returns the largest N up to
//! the target at which the state of every project is determined, those states, and the projects that stand in the way
//! of a larger N. Events about people change no page, so they do not count as events here; but they move their project's
//! serial, which is that of its last event of any kind up to N ([`Log::serial_at`]).
//!
//! A project's state at N is determined in one of five ways:
//!
//! | way | when | the state |
//! |---|---|---|
//! | untouched | no event in (M, N] | M's |
//! | quiet | its newest page's body has at least the serial of its last event ≤ N, and it has no event in (N, H] | the page |
//! | replayed | M's state is known, the log is clear, and the pages fetched since M, whatever their age, show every file that the log adds | M's with the log applied |
//! | gone | its last event ≤ N removes it | none |
//! | quarantined | its last event ≤ N quarantines it, or it was quarantined before, and the log says nothing else since | no files |
//!
//! Why each part is needed:
//!
//! - *The body's serial*: a header, or the time of the answer, says when a cache was filled, not from what.
//! - *The later read of the log*: a page may hold more than its serial says. All that a page holds was committed before
//!   the page was made, so a log that is read afterwards has the events, and a project with such events is not quiet.
//! - *Replaying*: a project that uploads sixty files behind a stale cache is never quiet, and would stop all others.
//!
//! | events of the project (M = 10, N = 20) | newest page | determined |
//! |---|---|---|
//! | none | any | untouched |
//! | 15 add | serial 15 | quiet |
//! | 15 add | serial 12 | not: stale, unless an older page showed the file |
//! | 15 add, 25 add | serial 15, with or without the file of 25 | not quiet; replayed, because the page shows the file of 15 |
//! | 15 yank, 25 unyank | serial 25 | not: no page shows the reason of 15 |
//! | 15 add, 18 remove the same | serial 18 | quiet |
//! | 15 add, 18 remove the same | none | replayed: the file is not in the result, so the cut need not know it |
//! | 15 add, 25 release quarantine cleared | serial 25 | not: the release was hidden before, so page 25 is not what 20 showed |
//! | 15 remove project | any, or none | gone |
//! | 15 project quarantined | any, or none | quarantined |
//! | 15 project quarantined, 18 whatever but cleared, removed or created | any, or none | quarantined |
//! | 15 project quarantined, 18 cleared | serial 12, or none | replayed: what it hid is what M has |
//! | 18 quarantine cleared, and it was quarantined at M | serial 12, or none | not: no snapshot has what it hid |
//! | 15 release quarantine cleared, 25 project quarantined | serial 12, or none | not, and no later page can tell: the project has moved on |
//! | 15 something unknown | serial 15 | quiet |
//! | 15 something unknown | serial 12 | not: stale, and the log is not clear |
//! | 25 add | any | untouched |
//!
//! As a check, a quiet page has to have the files and yanks that replaying gives, where replaying is possible; if it
//! does not have them, it is read again, and believed when it says the same twice.
//!
//! `crates/simulation/tests/cut.rs` runs this against a simulated upstream and shows what goes wrong without each part.

mod log;
mod replay;

use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;

use strandline_model::{Form, HoldReason, Preamble, ProjectName, Releases, Serial, Status, Yanked};

pub use log::{Action, Change, Log};

/// A file as the cut sees it; `F` is everything else that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File<F> {
    /// Whether it is yanked.
    pub yanked: Yanked,
    /// The rest, or why it cannot be had.
    pub content: Result<F, HoldReason>,
}

/// A project's files and status at some serial; as a page shows them, or as a snapshot has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content<F> {
    /// The status. It is not in the log.
    pub status: Status,
    /// Why it has that status.
    pub status_reason: Option<String>,
    /// What the page says besides, as it came.
    pub preamble: Preamble,
    /// The versions that the page lists.
    pub versions: Vec<String>,
    /// The files by their names.
    pub files: BTreeMap<String, File<F>>,
}

impl<F> Content<F> {
    /// A quarantined project of which nothing else is known. The log says so, and an index that has the log has JSON.
    pub fn quarantined() -> Self {
        let (status_reason, versions, files) = Default::default();
        let (status, preamble) = (Status::Quarantined, Preamble::of(Form::Json));
        Self { status, status_reason, preamble, versions, files }
    }
}

/// A page that was fetched since M.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<F> {
    /// The serial in its body.
    pub serial: Serial,
    /// What it shows.
    pub content: Content<F>,
}

/// What is known of a project at M.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base<F> {
    /// The project was not there.
    Absent,
    /// It was so.
    Known(Content<F>),
    /// It was so at `since`; no snapshot has this state yet.
    Found(Content<F>),
    /// It was quarantined. What that hides is not known.
    Quarantined,
    /// Not known: no snapshot has the project, or the one that has it holds it at an older state. Only a page can tell,
    /// if it has at least this serial and the serials of the events that are known.
    Unknown(Serial),
}

impl<F> Base<F> {
    /// The serial that its page has to reach, whatever the log has of it.
    pub fn needs(&self) -> Serial {
        if let Self::Unknown(needs) = self { *needs } else { Serial::ZERO }
    }

    /// What a snapshot has.
    pub fn of(content: Content<F>) -> Self {
        if content.status == Status::Quarantined { Self::Quarantined } else { Self::Known(content) }
    }
}

/// Everything that is known of one project that may differ from M.
#[derive(Debug, Clone)]
pub struct Project<F> {
    /// At `since`.
    pub base: Base<F>,
    /// The greatest serial of it that is told elsewhere than in the log and by its pages: M's of the project, that of
    /// upstream's list, or the one that it is held for. A page may have a lower one, because upstream goes on showing it
    /// after an event about people.
    pub serial: Serial,
    /// The serial that `base` is of: M, or a later one at which the project was determined by itself. Events up to it are
    /// in it, and nothing is known from before. For [`Base::Unknown`], all events count.
    pub since: Serial,
    /// The pages fetched since M, in the order in which they came.
    pub pages: Vec<Seen<F>>,
    /// Whether the newest of them has lost so much without an event that it is not believed yet.
    pub shrunk: bool,
}

/// How a project stands at the cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State<F> {
    /// As in M.
    Untouched,
    /// So, with this serial: that of its last event of any kind.
    At(Serial, Content<F>),
    /// Quarantined, with this serial: it has no files.
    Quarantined(Serial),
    /// Not there.
    Gone,
}

/// As [`State`], without the serial.
enum Standing<F> {
    Untouched,
    So(Content<F>),
    Quarantined,
    Gone,
}

/// Why a project is not determined at a serial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The first event that could not be followed.
    pub since: Serial,
    /// The serial that its page has to reach.
    pub needs: Serial,
    /// The serial of the newest page, if there was one.
    pub seen: Option<Serial>,
    /// What is wrong.
    pub why: Why,
}

/// What is wrong with what is known of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There is no page.
    NoPage,
    /// The newest page is older than the project's last event.
    Stale,
    /// It had more events after its page, and the log alone does not say how it stood; or it has been removed or
    /// quarantined since, so no page will ever show this state. To ask again does not help; a later serial may.
    Moving,
    /// The page and the log say different things.
    Disagrees,
    /// The page lacks most of the files, and no event says that they went.
    Shrunk,
    /// A file that it lists cannot be had.
    File(HoldReason),
}

impl Obstacle {
    /// The serial that is wanted and the one that was seen, in words.
    pub fn serials(&self) -> String {
        let seen = self.seen.map_or_else(|| "none".to_owned(), |seen| format!("one of serial {seen}"));
        format!("a page of serial {} is wanted, {seen} was seen", self.needs)
    }

    /// The reason for which the project would be held.
    pub fn hold_reason(&self) -> HoldReason {
        match self.why {
            Why::NoPage => HoldReason::PageMissing,
            Why::Stale | Why::Moving => HoldReason::StalePage,
            Why::Disagrees => HoldReason::BadPage,
            Why::Shrunk => HoldReason::PageShrunk,
            Why::File(reason) => reason,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { since, why, .. } = self;
        match why {
            Why::NoPage => write!(f, "upstream has no page for it yet")?,
            Why::Stale => write!(f, "upstream shows an older page")?,
            Why::Moving => write!(f, "it keeps changing, and its changes since serial {since} cannot be followed")?,
            Why::Disagrees => write!(f, "its page and the changelog list different files")?,
            Why::Shrunk => write!(f, "its page lacks most of its files, and no event says why")?,
            Why::File(HoldReason::FileMissing) => write!(f, "a file that its page lists is not there")?,
            Why::File(_) => write!(f, "a file is not what its page says")?,
        }
        write!(f, "; {}", self.serials())
    }
}

/// The result of a cut.
#[derive(Debug, Clone)]
pub struct Cut<F> {
    /// The serial that all states belong to; `None` if there is none from M on.
    pub serial: Option<Serial>,
    /// How the projects stand there, those that are given.
    pub states: BTreeMap<ProjectName, State<F>>,
    /// The projects that stand in the way of the target.
    pub in_the_way: BTreeMap<ProjectName, Obstacle>,
}

/// Which files of one project belong to which release.
#[derive(Clone, Copy)]
pub struct ReleasesOf<'a> {
    /// The project.
    pub project: &'a ProjectName,
    /// What tells.
    pub releases: &'a dyn Releases,
}

impl ReleasesOf<'_> {
    /// Whether a file, by its name, belongs to a release, by its version as the log writes it: `None` where the name does not
    /// tell.
    pub fn has(self, filename: &str, version: &str) -> Option<bool> {
        self.releases.is_of_release(self.project, filename, version)
    }
}

impl fmt::Debug for ReleasesOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReleasesOf").field("project", &self.project).finish_non_exhaustive()
    }
}

/// Which parts of the rule are in force: all of them, except in tests that show what each is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// A quiet page's body has the serial of the last event.
    pub body_serial: bool,
    /// A quiet page's project has no events after the cut.
    pub quiet: bool,
    /// A held project needs the serial that it was held for.
    pub known_need: bool,
}

impl Rule {
    /// The rule.
    pub const WHOLE: Self = Self { body_serial: true, quiet: true, known_need: true };
}

/// Finds the largest serial from `from` (M) up to `target` at which all projects are determined.
///
/// `log` has every event of every given project in (M, H], and was read after the pages were fetched. Projects without
/// an event that are not given are untouched.
pub fn cut<F: Clone + PartialEq>(
    rule: Rule,
    from: Serial,
    target: Serial,
    log: &Log,
    projects: &BTreeMap<&ProjectName, &Project<F>>,
    releases: &dyn Releases,
) -> Cut<F> {
    let verdict = |name: &ProjectName, project: &Project<F>, at| {
        determine(rule, project, log.of(name), at, ReleasesOf { project: name, releases })
    };
    let mut serial = Some(target);
    let mut in_the_way = BTreeMap::new();
    // Between two events of a project nothing about it changes. So a project that is determined stays so down to its last
    // event, and one that is not is tried again right before that: each is looked at once for each of its events that is
    // passed, however many others there are.
    let mut states = BTreeMap::new();
    let mut standing = BinaryHeap::new();
    let mut look = |name: &ProjectName, project: &Project<F>, at: Serial, standing: &mut BinaryHeap<_>| {
        let last = log.of(name).iter().rfind(|change| change.serial <= at && change.serial > from);
        match verdict(name, project, at) {
            Ok(state) => {
                states.insert(name.clone(), state);
                let down_to = last.map_or(from, |change| change.serial).max(project.since.min(at));
                standing.push((down_to, name.clone()));
                Ok(())
            }
            Err(obstacle) => {
                let known = at >= project.since;
                let before =
                    last.filter(|_| known).and_then(|change| change.serial.get().checked_sub(1)?.try_into().ok());
                Err((obstacle, before.filter(|before| *before >= from)))
            }
        }
    };
    let mut open: Vec<_> = Vec::new();
    for (name, project) in projects {
        if let Err((obstacle, before)) = look(name, project, target, &mut standing) {
            in_the_way.insert((*name).clone(), obstacle);
            serial = serial.min(before);
            open.push((*name).clone());
        }
    }
    while let Some(at) = serial {
        while let Some((down_to, _)) = standing.peek()
            && *down_to > at
        {
            open.extend(standing.pop().map(|(_, name)| name));
        }
        let Some(name) = open.pop() else { break };
        if let Err((_, before)) = look(&name, projects[&name], at, &mut standing) {
            serial = before;
            open.push(name);
        }
    }
    let state = |at, name: ProjectName, standing| {
        let state = stated(standing, projects[&name], log, &name, at);
        (name, state)
    };
    let states = serial.map_or_else(BTreeMap::new, |at| {
        states.into_iter().map(|(name, standing)| state(at, name, standing)).collect()
    });
    Cut { serial, states, in_the_way }
}

/// How one project stands at `at` by itself, or why that is not known. `log` is as [`cut`] wants it.
pub fn state_at<F: Clone + PartialEq>(
    project: &Project<F>,
    log: &Log,
    at: Serial,
    releases: ReleasesOf<'_>,
) -> Result<State<F>, Obstacle> {
    let standing = determine(Rule::WHOLE, project, log.of(releases.project), at, releases)?;
    Ok(stated(standing, project, log, releases.project, at))
}

/// A project as it stands at `at`, with its serial there.
fn stated<F: Clone>(
    standing: Standing<F>,
    project: &Project<F>,
    log: &Log,
    name: &ProjectName,
    at: Serial,
) -> State<F> {
    let serial = log.serial_at(name, at, project.serial, project.pages.iter().map(|page| page.serial));
    let moved = || log.last(name, at).is_some_and(|(last, _)| last > project.serial);
    match (standing, &project.base) {
        (Standing::Gone, _) => State::Gone,
        (Standing::So(content), _) => State::At(serial, content),
        (Standing::Quarantined, _) => State::Quarantined(serial),
        // Where only events about people came since, the serial alone moves.
        (Standing::Untouched, Base::Known(content)) if moved() => State::At(serial, content.clone()),
        (Standing::Untouched, _) => State::Untouched,
    }
}

/// How a project stands at `at`, or why that is not known.
fn determine<F: Clone + PartialEq>(
    rule: Rule,
    project: &Project<F>,
    events: &[Change],
    at: Serial,
    releases: ReleasesOf<'_>,
) -> Result<Standing<F>, Obstacle> {
    let events = &events[events.partition_point(|change| change.serial <= project.since)..];
    let (before, after) = events.split_at(events.partition_point(|change| change.serial <= at));
    let newest = project.pages.last();
    if at < project.since {
        let (since, seen) = (project.since, newest.map(|page| page.serial));
        return Err(Obstacle { since, needs: since, seen, why: Why::Moving });
    }
    let needed = match project.base {
        Base::Unknown(needed) if rule.known_need => needed,
        _ => Serial::ZERO,
    };
    let needs = match before.last() {
        Some(last) => last.serial.max(needed),
        None => match &project.base {
            Base::Unknown(_) => needed,
            Base::Found(content) => return Ok(Standing::So(content.clone())),
            Base::Quarantined => return Ok(Standing::Quarantined),
            Base::Known(_) | Base::Absent => return Ok(Standing::Untouched),
        },
    };
    match before.last().map(|last| &last.action) {
        Some(Action::RemoveProject) => return Ok(Standing::Gone),
        Some(Action::QuarantineProject) => return Ok(Standing::Quarantined),
        _ => {}
    }
    let replayed = replay::replay(project, before, events, releases);
    let seen = newest.map(|page| page.serial);
    let obstacle = |why| obstacle(why, before, events, needs, seen);
    let quiet = newest.filter(|page| (!rule.body_serial || page.serial >= needs) && (!rule.quiet || after.is_empty()));
    if let Some(page) = quiet {
        let agrees = match &replayed {
            Some(Standing::So(replayed)) => same_files(replayed, &page.content),
            Some(_) => page.content.status == Status::Quarantined || page.content.files.is_empty(),
            None => true,
        };
        let said_twice = || project.pages.iter().rev().nth(1).is_some_and(|earlier| earlier == page);
        if project.shrunk {
            return Err(obstacle(Why::Shrunk));
        }
        if agrees || said_twice() {
            return finished(Standing::So(page.content.clone())).map_err(|reason| obstacle(Why::File(reason)));
        }
        return Err(obstacle(Why::Disagrees));
    }
    if let Some(replayed) = replayed {
        return finished(replayed).map_err(|reason| obstacle(Why::File(reason)));
    }
    let is_empty = after.last().is_some_and(|change| change.action.needs_no_page());
    Err(obstacle(match newest {
        _ if is_empty => Why::Moving,
        None => Why::NoPage,
        Some(page) if page.serial < needs => Why::Stale,
        Some(_) => Why::Moving,
    }))
}

/// Why a project is not determined: `before` are its events up to the cut, `events` all of them.
fn obstacle(why: Why, before: &[Change], events: &[Change], needs: Serial, seen: Option<Serial>) -> Obstacle {
    let since = match why {
        // The first event that the page does not show yet.
        Why::NoPage | Why::Stale => before.iter().find(|change| Some(change.serial) > seen),
        // As above, but the event may also come after the cut.
        Why::Moving => events.iter().find(|change| Some(change.serial) > seen).or(before.last()),
        Why::Disagrees | Why::Shrunk | Why::File(_) => before.last(),
    };
    Obstacle { since: since.map_or(needs, |change| change.serial), needs, seen, why }
}

/// How a project stands whose files are all there; else why one of them is not.
fn finished<F>(standing: Standing<F>) -> Result<Standing<F>, HoldReason> {
    match standing {
        Standing::So(content) if content.status == Status::Quarantined => Ok(Standing::Quarantined),
        Standing::So(content) => match content.files.values().find_map(|file| file.content.as_ref().err()) {
            Some(reason) => Err(*reason),
            None => Ok(Standing::So(content)),
        },
        standing => Ok(standing),
    }
}

fn same_files<F>(one: &Content<F>, other: &Content<F>) -> bool {
    one.files.len() == other.files.len()
        && one.files.iter().zip(&other.files).all(|((a, one), (b, other))| a == b && one.yanked == other.yanked)
}

/// The project with its state at a serial as its base, if it is determined there by itself and has no base yet to which
/// the log can be applied. From its last event on, it can then be followed like a project that a snapshot has.
pub fn promoted<F: Clone + PartialEq>(
    project: &Project<F>,
    events: &[Change],
    at: Serial,
    releases: ReleasesOf<'_>,
) -> Option<Project<F>> {
    if matches!(project.base, Base::Found(..)) {
        // As long as the log can be applied to this base, it determines the project at more serials than a later base
        // would.
        let later = &events[events.partition_point(|change| change.serial <= project.since)..];
        let before = &later[..later.partition_point(|change| change.serial <= at)];
        if at < project.since || replay::replay(project, before, later, releases).is_some() {
            return None;
        }
    }
    let base = match determine(Rule::WHOLE, project, events, at, releases).ok()? {
        Standing::Untouched => return None,
        Standing::Gone => Base::Absent,
        Standing::Quarantined => Base::Quarantined,
        Standing::So(content) => Base::Found(content),
    };
    // It has stood so since its last event: the first snapshot may be of any serial from there on.
    let last = events.iter().rfind(|change| change.serial <= at);
    let since = last.map_or(Serial::ZERO, |change| change.serial);
    Some(Project { base, serial: project.serial, since, pages: project.pages.clone(), shrunk: project.shrunk })
}

/// What is left of a held project at `at`: its last good state, which is that of the serial `since`, without what the log
/// has removed after that; `None` if it has removed the project. What a quarantine hid is shown again when it is cleared, if it
/// began after `since`.
pub fn carried<F: Clone>(
    good: &Content<F>,
    since: Serial,
    events: &[Change],
    at: Serial,
    releases: ReleasesOf<'_>,
) -> Option<Content<F>> {
    let (mut content, mut quarantined) = (good.clone(), false);
    for change in events.iter().filter(|change| change.serial > since && change.serial <= at) {
        match &change.action {
            Action::RemoveProject => return None,
            Action::QuarantineProject => quarantined = true,
            Action::ClearProject => quarantined = false,
            Action::RemoveFile(name) => {
                content.files.remove(name);
            }
            Action::RemoveRelease(version) | Action::QuarantineRelease(version) => {
                content.files.retain(|name, _| releases.has(name, version) == Some(false));
            }
            _ => {}
        }
    }
    if good.status == Status::Quarantined {
        return Some(good.clone());
    }
    if quarantined {
        return Some(Content::quarantined());
    }
    if content.files.len() < good.files.len() {
        content.versions.retain(|version| content.files.keys().any(|name| releases.has(name, version) != Some(false)));
    }
    Some(content)
}
