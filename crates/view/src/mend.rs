//! Putting right what a check finds: a lost page, a link to something else, a list, `live` itself.
//!
//! Readers may be in the tree meanwhile: everything is put in its place by a rename. A mended link leads to a blob that
//! the store has; where the store lacks the blob, the link is left as it is and reported.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use strandline_durable::DiskError;
use strandline_model::{Blake3, Format, Snapshot, TreePath};
use strandline_store::{Locked, Mirror, StoreError, Twin};

use crate::ViewError;
use crate::check::{Broken, What, look, look_at_tree, published};
use crate::files::{Touched, stamp, sync_all};
use crate::pool::POOL;
use crate::publisher::{Publisher, repair};
use crate::tree::write_lists;

/// Where lists are written before they are put in their places.
const SCRATCH: &str = "mending";

/// The result of mending.
#[derive(Debug, Default)]
pub struct Mended {
    /// The things that are right again, each with what was wrong.
    pub mended: Vec<Broken>,
    /// The things that could not be put right, and why.
    pub left: Vec<Broken>,
    /// How many links of the pool are there again that only snapshots name which are not published.
    pub earlier: u64,
    /// Whether the tree that is not live was damaged, too: the next switch makes it anew.
    pub standby: bool,
}

impl Publisher {
    /// Puts right what of a view is not as the catalog says. With `data`, files that are copies of blobs are read.
    ///
    /// Where another renderer wrote the lists that the published snapshot names, and one is damaged, a revision of the snapshot
    /// takes its place, which is the same but for its lists, and readers see that.
    pub async fn mend(&self, mirror: &Locked, data: bool) -> Result<Mended, ViewError> {
        let (mut done, outdated) = mend(mirror, self.format(), data)?;
        if outdated {
            self.revise_published(mirror).await?;
            let is_list = |broken: &Broken| broken.should_be == What::List;
            done.mended.extend(done.left.extract_if(.., |broken| is_list(broken)));
        }
        Ok(done)
    }
}

/// Puts right what it can; returns that, and whether another renderer wrote the lists that it could not write.
fn mend(mirror: &Locked, format: &dyn Format, data: bool) -> Result<(Mended, bool), ViewError> {
    let (store, mut done) = (mirror.store(), Mended::default());
    let Some(state) = mirror.view_state()? else { return Ok((done, false)) };
    let broken = look(mirror, data)?;
    let snapshot = published(store, state)?;
    if broken.iter().any(|broken| broken.should_be == What::Live) {
        repair(mirror)?;
    }
    let lost_lists = broken.iter().any(|broken| broken.should_be == What::List);
    let written = match &snapshot {
        Some(snapshot) if lost_lists => mend_lists(mirror, &state.slot.to_string(), snapshot, format),
        _ => Ok(()),
    };
    let outdated = matches!(written, Err(ViewError::List { .. }));
    let mut touched = Touched::default();
    for broken in broken {
        let put_right = match broken.should_be {
            What::Live => Ok(()),
            What::List => written.as_ref().map_err(ToString::to_string).copied(),
            What::Nothing => store.disk().remove_tree(&broken.path).map_err(|error| in_words(&error)),
            What::Pool => {
                store.disk().switch_link(&broken.path, &Path::new("..").join(POOL)).map_err(|error| in_words(&error))
            }
            What::Blob(blob) => relink(mirror, blob, &broken.path, &mut touched).map_err(|error| in_words(&error)),
        };
        touched.extend(broken.path.parent().map(Path::to_owned));
        match put_right {
            Ok(()) => done.mended.push(broken),
            Err(why) => {
                done.left.push(Broken { problem: format!("{}, and stays so: {why}", broken.problem), ..broken });
            }
        }
    }
    sync_all(store, &mirror.view_directory(), touched)?;
    if let Some(snapshot) = &snapshot {
        done.earlier = restock_earlier(mirror, snapshot)?;
    }

    // The standby is changed by differences only, so a page that is lost in it would be missing after the next switch.
    let standby = state.slot.other();
    let twin = mirror.twin(standby)?;
    let base = twin.base.map(|base| store.recorded(base)).transpose();
    done.standby = match base {
        Ok(None) => false,
        Ok(Some(base)) if twin.target.is_none() => {
            let mut damaged = false;
            // The lists do not count: a switch writes them anew, or reads them before it takes them as they are.
            look_at_tree(mirror, standby, &base.snapshot, data, &mut |broken| {
                damaged |= broken.should_be != What::List;
            })?;
            damaged
        }
        Ok(Some(_)) | Err(_) => true,
    };
    if done.standby {
        mirror.record_twin(standby, Twin::default())?;
    }
    Ok((done, outdated))
}

/// Makes paths of a mirror's pool lead to their blobs again. Paths whose blob is not there are left as they are.
pub fn restock(mirror: &Locked, paths: impl IntoIterator<Item = (TreePath, Blake3)>) -> Result<u64, ViewError> {
    let (store, view) = (mirror.store(), mirror.view_directory());
    let mut touched = Touched::default();
    let mut changed = 0;
    for (path, blob) in paths {
        let link = view.join(path.as_str());
        let found = stamp(&store.blob_path(blob))?;
        if path.first_segment() == POOL && found.is_some() && stamp(&link)? != found {
            relink(mirror, blob, &link, &mut touched)?;
            touched.extend(link.parent().map(Path::to_owned));
            changed += 1;
        }
    }
    sync_all(store, &view, touched)?;
    Ok(changed)
}

/// Does the same for all snapshots of a mirror that are not published.
fn restock_earlier(mirror: &Locked, published: &Snapshot) -> Result<u64, ViewError> {
    let store = mirror.store();
    let damaged = |error: &StoreError| matches!(error, StoreError::Damaged { .. });
    let mut units = HashSet::new();
    // The store's own check names damaged bodies; the links that lie behind them cannot be known.
    let snapshots = match mirror.snapshots() {
        Err(error) if damaged(&error) => return Ok(0),
        snapshots => snapshots?,
    };
    for recorded in snapshots.into_iter().filter(|recorded| recorded.verified) {
        match store.diff(Some(published), Some(&recorded.snapshot)) {
            Err(error) if damaged(&error) => {}
            changes => units.extend(changes?.into_iter().filter_map(|change| change.after?.unit)),
        }
    }
    let mut changed = 0;
    for unit in units {
        match store.unit(unit) {
            Err(error) if damaged(&error) => {}
            unit => {
                let unit = unit?;
                let paths = unit.entries().iter().map(|entry| (entry.path.clone(), entry.blob));
                changed += restock(mirror, paths)?;
            }
        }
    }
    Ok(changed)
}

/// Where in a mirror's view a path of a snapshot may stand: any of these that is there may have the right bytes.
pub fn copies(mirror: &Mirror, path: &TreePath) -> Vec<PathBuf> {
    let view = mirror.view_directory();
    if path.first_segment() == POOL {
        vec![view.join(path.as_str())]
    } else {
        ["a", "b"].map(|tree| view.join(tree).join(path.as_str())).into()
    }
}

/// Puts a link to a blob in its place.
fn relink(mirror: &Locked, blob: Blake3, link: &Path, touched: &mut Touched) -> Result<(), DiskError> {
    let store = mirror.store();
    let disk = store.disk();
    if let Some(directory) = link.parent() {
        disk.create_directory(directory)?;
        // Also a directory that is there already: a process that died may have made it and not have synced it.
        let view = mirror.view_directory();
        touched.extend(directory.ancestors().take_while(|above| above.starts_with(&view)).map(Path::to_owned));
    }
    let mut next = link.as_os_str().to_owned();
    next.push(".mending");
    let next = PathBuf::from(next);
    disk.remove_file(&next)?;
    disk.link_or_copy(&store.blob_path(blob), &next)?;
    disk.rename(&next, link)?;
    // Where both names were of one file, the rename does nothing.
    disk.remove_file(&next)?;
    Ok(())
}

/// Writes all root lists anew and puts them in their places.
fn mend_lists(mirror: &Locked, tree: &str, snapshot: &Snapshot, format: &dyn Format) -> Result<(), ViewError> {
    let disk = mirror.store().disk();
    let view = mirror.view_directory();
    let scratch = view.join(SCRATCH);
    disk.remove_tree(&scratch)?;
    for list in &snapshot.lists {
        for tree in [&scratch, &view.join(tree)] {
            disk.create_directory(tree.join(list.path.as_str()).parent().unwrap_or(tree))?;
        }
    }
    let written = write_lists(mirror, &scratch, snapshot, format);
    for list in snapshot.lists.iter().filter(|_| written.is_ok()) {
        disk.rename(&scratch.join(list.path.as_str()), &view.join(tree).join(list.path.as_str()))?;
    }
    disk.remove_tree(&scratch)?;
    written
}

fn in_words(error: &DiskError) -> String {
    format!("{error}: {}", error.source)
}
