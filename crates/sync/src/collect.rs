//! The cut of an index without a changelog: a double collect.
//!
//! All selected pages are read, and read again, conditionally, until a whole pass brings no change: then there was a
//! moment between the two passes at which all of them were true at once. It is weaker than the cut by changelog,
//! because a cache in between can answer the same twice.
//!
//! A project whose page cannot be had, or stays older than is known, is held as it was, and the others go on. A file that cannot
//! be had stops nothing, unless a broken project is to stop everything: what readers get of its project waits
//! for it (`lacking.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use strandline_model::{
    FileName, Held, HoldReason, Leaf, Method, ProjectName, Serial, Snapshot, Timestamp, with_causes,
};
use strandline_store::{Recorded, StoreError, Subject};
use tokio::time::Instant;

use crate::fetch::{Fetched, each};
use crate::progress::Progress;
use crate::shrunk::Loss;
use crate::upstream::{Answer, Page, Validator, Way};
use crate::{FetchError, Fetcher, Logged, OnBroken, Proposal, Selection, SyncError, Whole};

/// What is known of a selected project.
#[derive(Debug, Clone)]
enum Known {
    /// What the base says.
    Base(Leaf),
    /// Upstream's page, what was made of it, and why one of its files cannot be had, if so.
    Page(Arc<Page>, Arc<Whole>, Option<HoldReason>),
    /// Upstream has no such project.
    Absent,
    /// Its page cannot be had, or not the one that is needed, of at least this serial: the others do not wait for it.
    Broken(HoldReason, Serial),
    /// Nothing yet.
    Nothing,
}

/// What one look at a project brought.
enum Look {
    Same,
    Changed(Known),
    /// Its page is older than one of this serial, which is known to be: a cache answers. Waiting may help where no other way of
    /// asking was left to be tried.
    Stale {
        why: String,
        needs: Serial,
        waits: bool,
    },
    /// Its page cannot be had.
    Failed(Box<FetchError>),
}

/// Reads all selected projects until a whole pass brings no change, or the settings' patience ends.
pub async fn collect(fetcher: &Arc<Fetcher>, base: Option<&Recorded>) -> Result<Proposal, SyncError> {
    let mut known = BTreeMap::new();
    // A project with a file that was let back lacks it in the base.
    let reread = fetcher.mirror.to_reread()?;
    let listed = listed(fetcher).await?;
    let selected: BTreeSet<_> = listed.keys().cloned().collect();
    for project in selected.iter().cloned().chain(unlisted(fetcher, base, &selected)?) {
        let leaf = fetcher.base_leaf(&project)?.filter(|_| base.is_some() && !reread.contains(&project));
        let known_before = leaf.map_or(Known::Nothing, Known::Base);
        known.insert(project, known_before);
    }
    fetcher.progress.projects.store(known.len() as u64, Ordering::Relaxed);
    pass(fetcher, &mut known, &listed).await?;
    if base.is_some_and(|base| base.counted) && tells_serials(&known) {
        // The mirror leaves its own count, and all projects get upstream's serials.
        for known in known.values_mut().filter(|known| matches!(known, Known::Base(_))) {
            *known = Known::Nothing;
        }
        pass(fetcher, &mut known, &listed).await?;
    }
    let doubted = doubted(fetcher, &selected, &known).await?;
    conclude(fetcher, base, &selected, known, &doubted)
}

/// Whether all pages that came have a serial.
fn tells_serials(known: &BTreeMap<ProjectName, Known>) -> bool {
    let mut pages = known.values().filter_map(|known| match known {
        Known::Page(page, ..) => Some(page.serial),
        _ => None,
    });
    pages.next().is_some_and(|first| first.is_some()) && pages.all(|serial| serial.is_some())
}

/// Reads all projects until a whole pass brings no change. A project whose page stays broken is left as it was, unless such a
/// project is to stop everything, or no page can be had; it is not asked for again.
async fn pass(
    fetcher: &Arc<Fetcher>,
    known: &mut BTreeMap<ProjectName, Known>,
    listed: &BTreeMap<ProjectName, Serial>,
) -> Result<(), SyncError> {
    let freezes = fetcher.settings.on_broken == OnBroken::Freeze;
    let (mut first_failure, mut stale) = (None, Vec::new());
    // The settings' patience is for pages that change. It begins after the first pass, and the time at which a pass
    // began decides whether it is late, because the time that its files took says nothing about upstream.
    let mut deadline = None;
    loop {
        let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let asked = known.iter().filter(|(_, known)| !matches!(known, Known::Broken(..)));
        let looks = asked.map(|(project, known)| {
            let listed = listed.get(project).copied().unwrap_or(Serial::ZERO);
            look(fetcher.clone(), project.clone(), known.clone(), listed)
        });
        let looks = each(fetcher.settings.connections, looks).await?;
        let mut in_the_way = Vec::new();
        let mut changed = false;
        for (project, look) in looks {
            match look {
                Look::Same => {}
                Look::Failed(error) if freezes => return Err(SyncError::Fetch(error)),
                Look::Failed(error) => {
                    tracing::warn!("{}", with_causes(&*error));
                    known.insert(project, Known::Broken(error.hold_reason(), Serial::ZERO));
                    first_failure.get_or_insert(error);
                }
                Look::Stale { why, needs, waits } if !freezes && (late || !waits) => {
                    tracing::warn!("{project}: {why}");
                    known.insert(project.clone(), Known::Broken(HoldReason::StalePage, needs));
                    stale.push((project, why));
                }
                Look::Stale { why, .. } => in_the_way.push((project, why)),
                Look::Changed(_) if late && !freezes => {
                    let why = "its page keeps changing".to_owned();
                    tracing::warn!("{project}: {why}");
                    known.insert(project.clone(), Known::Broken(HoldReason::StalePage, Serial::ZERO));
                    stale.push((project, why));
                }
                Look::Changed(now) => {
                    changed = true;
                    if late {
                        in_the_way.push((project.clone(), "its page keeps changing".to_owned()));
                    }
                    known.insert(project, now);
                }
            }
        }
        // Where no page is good, it is upstream that is broken, and no project.
        if !known.values().any(|known| matches!(known, Known::Base(_) | Known::Page(..))) {
            if let Some(error) = first_failure {
                return Err(SyncError::Fetch(error));
            }
            if !stale.is_empty() {
                return Err(SyncError::Inconsistent { in_the_way: stale, cut: None });
            }
        }
        if in_the_way.is_empty() {
            if !changed {
                return Ok(());
            }
        } else if late {
            in_the_way.sort();
            return Err(SyncError::Inconsistent { in_the_way, cut: None });
        } else {
            tokio::time::sleep(fetcher.settings.backoff).await;
        }
        deadline.get_or_insert_with(|| Instant::now() + fetcher.settings.cut_timeout);
    }
}

/// The projects of the base that have no page now and are not believed to be gone, because the index lists them or its list cannot
/// be had; with the time since when the mirror has seen no page.
async fn doubted(
    fetcher: &Fetcher,
    selected: &BTreeSet<ProjectName>,
    known: &BTreeMap<ProjectName, Known>,
) -> Result<BTreeMap<ProjectName, Timestamp>, SyncError> {
    let mut missing = BTreeMap::new();
    let now = (fetcher.clock)();
    for (project, _) in known.iter().filter(|(_, known)| matches!(known, Known::Absent)) {
        if fetcher.base_leaf(project)?.is_some() {
            let since = fetcher.sights().look_whether(Subject::MissingPage(project.clone()), now);
            missing.insert(project.clone(), since);
        }
    }
    let is_there = |name: &ProjectName| !matches!(known.get(name), Some(Known::Absent | Known::Broken(..)));
    fetcher.sights().retain(|seen| !matches!(seen, Subject::MissingPage(name) if is_there(name)));
    if fetcher.settings.selection == Selection::Everything {
        missing.retain(|project, _| selected.contains(project));
    } else if missing.values().any(|since| fetcher.asks_list(*since, now)) {
        match fetcher.patient.projects().await {
            Ok(list) => {
                let listed: BTreeSet<_> = list.into_iter().map(|(display, _)| display.normalise()).collect();
                missing.retain(|project, _| listed.contains(project));
                for project in missing.keys() {
                    // It is asked again after as long a time.
                    let subject = Subject::MissingPage(project.clone());
                    fetcher.sights().forget(&subject);
                    fetcher.sights().look_whether(subject, now);
                }
            }
            Err(error) => {
                tracing::warn!("whether projects without a page are gone is not known: {}", with_causes(&error));
            }
        }
    }
    if let Some(project) = missing.keys().next()
        && fetcher.settings.on_broken == OnBroken::Freeze
    {
        let why = "upstream has no page for it, and does not say that it is gone".to_owned();
        return Err(SyncError::Inconsistent { in_the_way: vec![(project.clone(), why)], cut: None });
    }
    Ok(missing)
}

/// The selected projects. Where everything is selected, the index's own list of projects says what there is, and their serials if
/// it has any.
async fn listed(fetcher: &Fetcher) -> Result<BTreeMap<ProjectName, Serial>, SyncError> {
    Ok(match &fetcher.settings.selection {
        Selection::Projects(names) => names.keys().map(|name| (name.clone(), Serial::ZERO)).collect(),
        Selection::Everything => {
            let list = fetcher.patient.projects().await?;
            list.into_iter().map(|(name, serial)| (name.normalise(), serial)).collect()
        }
    })
}

/// The projects of the base that the index does not list any more. An index leaves out what is quarantined, too, so their pages
/// are asked for before they are believed to be gone.
fn unlisted(
    fetcher: &Fetcher,
    base: Option<&Recorded>,
    listed: &BTreeSet<ProjectName>,
) -> Result<Vec<ProjectName>, SyncError> {
    match (base, &fetcher.settings.selection) {
        (Some(base), Selection::Everything) => {
            let leaves = fetcher.store.leaves(&base.snapshot)?.into_iter().map(|leaf| leaf.name);
            Ok(leaves.filter(|name| !listed.contains(name)).collect())
        }
        _ => Ok(Vec::new()),
    }
}

/// Asks for a project's page, in other ways as well where it is older than upstream's list says; returns also the serial of what
/// upstream shows, if it is older still.
async fn ask(
    fetcher: &Fetcher,
    project: &ProjectName,
    validator: Option<&Validator>,
    had: Option<Serial>,
    listed: Serial,
) -> Result<(Answer, Option<Serial>), SyncError> {
    let older = |answer: &Answer| {
        let shows = match answer {
            Answer::NotModified => had,
            Answer::Page { page, .. } => page.serial,
            Answer::Missing => None,
        };
        shows.filter(|shows| *shows < listed)
    };
    for way in [Way::Usual, Way::Uncompressed] {
        let answer = fetcher.page(project, validator, way, Method::Collect).await?;
        if older(&answer).is_none() {
            return Ok((answer, None));
        }
    }
    let answer = fetcher.page(project, validator, Way::Origin, Method::Collect).await?;
    let older = older(&answer);
    Ok((answer, older))
}

/// Looks at a project, which has the serial `listed` in upstream's list, or a later one.
async fn look(
    fetcher: Arc<Fetcher>,
    project: ProjectName,
    known: Known,
    listed: Serial,
) -> Result<(ProjectName, Look), SyncError> {
    let (validator, serial) = match &known {
        Known::Base(leaf) => {
            let serial = Some(known_serial(&fetcher, leaf)).filter(|_| fetcher.base_count().is_none());
            (fetcher.base_validator(&project, Some(leaf), Method::Collect)?, serial)
        }
        Known::Page(page, whole, _) => (whole.validator.clone(), page.serial),
        Known::Absent | Known::Nothing | Known::Broken(..) => (None, None),
    };
    let answer = match ask(&fetcher, &project, validator.as_ref(), serial, listed).await {
        Ok((_, Some(older))) => {
            let why = format!("its page has serial {older}, and upstream's list says {listed}: a cache is stale");
            return Ok((project, Look::Stale { why, needs: listed, waits: false }));
        }
        Ok((answer, None)) => answer,
        Err(SyncError::Fetch(error)) if error.is_upstreams() => return Ok((project, Look::Failed(error))),
        Err(error) => return Err(error),
    };
    let look = match answer {
        Answer::NotModified => Look::Same,
        Answer::Missing if matches!(known, Known::Absent) => Look::Same,
        Answer::Missing => Look::Changed(Known::Absent),
        Answer::Page { page, validator } => match (page.serial, serial, &known) {
            (Some(found), Some(had), Known::Base(leaf)) if found < had && is_base(&fetcher, leaf, &page).await? => {
                Look::Same
            }
            (Some(found), Some(had), _) if found < had => {
                let mirror = &fetcher.settings.mirror;
                let why = format!(
                    "its page has serial {found}, and {had} was seen before: a cache may be stale. If the index counts anew, `strandline mirror reset {mirror}` follows it anew"
                );
                Look::Stale { why, needs: had, waits: fetcher.base_held(&project).is_none() }
            }
            (_, _, Known::Page(had, ..)) if (&had.record, had.serial) == (&page.record, page.serial) => Look::Same,
            _ => {
                let (whole, fault) = whole(&fetcher, &page, validator).await?;
                Progress::add(&fetcher.progress.projects_done, 1);
                Look::Changed(Known::Page(page.into(), Arc::new(whole), fault))
            }
        },
    };
    if matches!(look, Look::Same) && matches!(known, Known::Base(_)) {
        Progress::add(&fetcher.progress.projects_done, 1);
    }
    Ok((project, look))
}

/// Whether a page that says an older serial than the base has of its project shows what the base has: where the base was made
/// by a changelog, its serial may be that of an event about people, for which upstream purges no page.
async fn is_base(fetcher: &Arc<Fetcher>, leaf: &Leaf, page: &Page) -> Result<bool, SyncError> {
    let base = fetcher.base_content(leaf)?;
    let names = page.record.told().files.keys();
    if !names.map(FileName::as_str).eq(base.files.keys()) {
        return Ok(false);
    }
    let mut fetched = fetcher.content_of_page(page).await?;
    fetched.go_on_without_files();
    Ok(fetched.content == base)
}

/// Brings all files of a page into the store; returns also why one of them cannot be had, if so.
async fn whole(
    fetcher: &Arc<Fetcher>,
    page: &Page,
    validator: Option<Validator>,
) -> Result<(Whole, Option<HoldReason>), SyncError> {
    let mut fetched = fetcher.content_of_page(page).await?;
    let mut fault = None;
    for failure in std::mem::take(&mut fetched.failures) {
        let reason = failure.hold_reason();
        if !reason.is_of_files() || fetcher.settings.on_broken == OnBroken::Freeze {
            return Err(failure.into());
        }
        tracing::warn!("{}", with_causes(&failure));
        fault.get_or_insert(reason);
    }
    fetched.go_on_without_files();
    let Fetched { content, whole, .. } = fetched;
    let (display, serial) = (page.record.seen().display.clone(), page.serial);
    let (validator, logged) = (validator.filter(|_| whole), Logged::Yes);
    Ok((Whole { display, serial, content, validator, logged, earlier: None }, fault))
}

/// A project as the snapshot has it: where files of it cannot be had, it may be held, and readers get what they got before.
fn or_held(
    fetcher: &Fetcher,
    project: &ProjectName,
    whole: Arc<Whole>,
    fault: Option<HoldReason>,
) -> Result<(Arc<Whole>, Option<Held>), SyncError> {
    let before = fetcher.base_held(project).filter(|held| held.reason.is_of_files());
    let since = before.map_or_else(|| (fetcher.clock)(), |held| fetcher.past(held.since));
    if !fetcher.holds_for_files(project, &whole.content, since) {
        return Ok((whole, None));
    }
    let earlier = fetcher.earlier(fetcher.base_leaf(project)?.as_ref(), &[], Serial::ZERO)?;
    let (name, reason) = (project.clone(), fault.or(before.map(|held| held.reason)));
    let (reason, needs) = (reason.unwrap_or(HoldReason::FileMissing), whole.serial.unwrap_or(Serial::ZERO));
    let held = Held { name, reason, at: earlier.serial(), needs, since };
    Ok((Arc::new(Whole { earlier: Some(earlier), ..Whole::clone(&whole) }), Some(held)))
}

/// How a project is held whose page is not believed because of what it has lost; and what the mirror has seen for long enough, if
/// the page is believed although it has lost that.
fn held_as_shrunk(
    fetcher: &Fetcher,
    project: &ProjectName,
    page: &Whole,
) -> Result<(Option<Held>, Option<Subject>), SyncError> {
    let subject = Subject::ShrunkPage(project.clone());
    let Some(leaf) = fetcher.base_leaf(project)?.filter(|leaf| leaf.record.is_some()) else { return Ok((None, None)) };
    match fetcher.loss(project, &fetcher.base_content(&leaf)?, &[], &page.content) {
        Loss::Small => Ok((None, None)),
        Loss::Believed => Ok((None, Some(subject))),
        Loss::Doubted(_) if fetcher.settings.on_broken == OnBroken::Freeze => {
            let why = "its page lacks most of its files, and may be a cache's".to_owned();
            Err(SyncError::Inconsistent { in_the_way: vec![(project.clone(), why)], cut: None })
        }
        Loss::Doubted(since) => {
            let needs = page.serial.unwrap_or(leaf.serial);
            Ok((Some(as_before(fetcher, &leaf, HoldReason::PageShrunk, needs, since)), None))
        }
    }
}

/// The serial that a project's page has at least, as the base knows it. Of a project that is held for its page, the line may have one
/// of another count, from before a reset.
fn known_serial(fetcher: &Fetcher, leaf: &Leaf) -> Serial {
    let held = fetcher.base_held(&leaf.name).filter(|held| !held.reason.is_of_files());
    held.map_or(leaf.serial, |held| held.needs)
}

/// A project that is held as the base has it.
fn as_before(fetcher: &Fetcher, leaf: &Leaf, reason: HoldReason, needs: Serial, since: Timestamp) -> Held {
    let before = fetcher.base_held(&leaf.name);
    let (at, since) = before.map_or((leaf.serial, since), |held| (held.at, held.since.min(since)));
    Held { name: leaf.name.clone(), reason, at, needs, since }
}

/// How a project is held whose page cannot be had; `known_serial` says what a page of it has at least.
fn broken(
    fetcher: &Fetcher,
    project: ProjectName,
    reason: HoldReason,
    needs: Serial,
    known_serial: &dyn Fn(&Leaf) -> Serial,
) -> Result<Held, SyncError> {
    let (now, before) = ((fetcher.clock)(), fetcher.base_held(&project));
    // What it is held for is what it still lacks.
    if let Some(held) = before.filter(|held| held.reason.is_of_files()) {
        return Ok(held.clone());
    }
    Ok(match fetcher.base_leaf(&project)? {
        Some(leaf) => as_before(fetcher, &leaf, reason, needs.max(known_serial(&leaf)), now),
        None => {
            let since = before.map_or(now, |held| held.since);
            Held { name: project, reason, at: Serial::ZERO, needs, since }
        }
    })
}

/// The projects of the base that are not selected any more. If the base's selection was of the same names, there are none.
fn unselected(
    fetcher: &Fetcher,
    before: Option<&Snapshot>,
    selected: &BTreeSet<ProjectName>,
) -> Result<Vec<ProjectName>, StoreError> {
    let (Some(before), Selection::Projects(_)) = (before, &fetcher.settings.selection) else { return Ok(Vec::new()) };
    if before.follow == fetcher.settings.selection.follow().id() {
        return Ok(Vec::new());
    }
    let names = fetcher.store.leaves(before)?.into_iter().map(|leaf| leaf.name);
    Ok(names.filter(|name| !selected.contains(name)).collect())
}

/// What was found, as the difference from the base. One match decides for each kind of what is known, so it is long.
fn conclude(
    fetcher: &Fetcher,
    base: Option<&Recorded>,
    selected: &BTreeSet<ProjectName>,
    known: BTreeMap<ProjectName, Known>,
    doubted: &BTreeMap<ProjectName, Timestamp>,
) -> Result<Proposal, SyncError> {
    let before = base.map(|base| &base.snapshot);
    let own_count = fetcher.base_count();
    let counted = known.values().any(|known| match known {
        Known::Page(page, ..) => page.serial.is_none(),
        Known::Base(_) => own_count.is_some(),
        Known::Absent | Known::Nothing | Known::Broken(..) => false,
    });
    // Upstream's serials may be lower than the mirror's own.
    let before_this = before.map(|before| before.label.serial).filter(|_| own_count.is_none());
    let mut greatest = before_this.max(own_count.filter(|_| counted)).unwrap_or(Serial::ZERO);
    let (mut changes, mut absent, mut vanished) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
    let mut held = Vec::new();
    let any = known.values().any(|known| !matches!(known, Known::Absent | Known::Broken(..)));
    if !any && !known.is_empty() {
        return Err(SyncError::NothingFound {
            upstream: fetcher.patient.upstream().url().clone(),
            projects: known.keys().map(ProjectName::as_str).collect::<Vec<_>>().join(", "),
        });
    }
    // Where upstream counts otherwise from now on, what the base has says nothing of what a page needs.
    let counts_otherwise = base.is_none() || own_count.is_some() && !counted;
    let known_serial = |leaf: &Leaf| if counts_otherwise { Serial::ZERO } else { known_serial(fetcher, leaf) };
    let mut acted_on = BTreeSet::new();
    for (project, known) in known {
        let (hold, believed) = match &known {
            Known::Page(_, whole, _) => held_as_shrunk(fetcher, &project, whole)?,
            // What is no answer says nothing either way.
            Known::Broken(..) => (None, None),
            _ => {
                fetcher.sights().forget(&Subject::ShrunkPage(project.clone()));
                (None, None)
            }
        };
        acted_on.extend(believed);
        if let Some(hold) = hold {
            held.push(hold);
            continue;
        }
        match known {
            Known::Page(_, whole, fault) => {
                greatest = greatest.max(whole.serial.unwrap_or(Serial::ZERO));
                let (whole, hold) = or_held(fetcher, &project, whole, fault)?;
                held.extend(hold);
                changes.insert(project, Some(whole));
            }
            Known::Absent => {
                if let Some(leaf) = fetcher.base_leaf(&project)? {
                    if let Some(since) = doubted.get(&project) {
                        held.push(as_before(fetcher, &leaf, HoldReason::PageMissing, known_serial(&leaf), *since));
                        continue;
                    }
                    acted_on.insert(Subject::MissingPage(project.clone()));
                    vanished.insert(project.clone());
                }
                changes.insert(project.clone(), None);
                absent.extend(selected.contains(&project).then_some(project));
            }
            Known::Base(leaf) => {
                held.extend(fetcher.base_held(&leaf.name).filter(|held| held.reason.is_of_files()).cloned());
            }
            Known::Broken(reason, needs) => held.push(broken(fetcher, project, reason, needs, &known_serial)?),
            Known::Nothing => {}
        }
    }
    for name in unselected(fetcher, before, selected)? {
        vanished.insert(name.clone());
        changes.insert(name, None);
    }
    let serial = if counted { greatest.next() } else { greatest };
    let (stored, later, missing) = Default::default();
    let method = Method::Collect;
    Ok(Proposal {
        method,
        serial,
        counted,
        changes,
        stored,
        held,
        absent,
        begun_anew: base.is_none(),
        vanished,
        report: None,
        later,
        missing,
        acted_on,
        gone: Vec::new(),
    })
}
