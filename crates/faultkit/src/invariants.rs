//! The invariants of the store and the view (`docs/design/009-crashes.md`), checked from the outside, each by its number.
//!
//! And no two files have the same time of modification unless they have the same bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use strandline_durable::{Disk, LockError};
use strandline_model::{Blake3, Entry, Leaf, MirrorName, Serial, Sha256, Snapshot, Unit};
use strandline_store::{Recorded, Store, StoreError, Wait, verify};

use crate::{mirror, now};

/// Everything below a directory, by path: `→ TARGET` for a link, the BLAKE3 of a file's bytes, `/` for a directory.
pub fn everything(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for child in fs::read_dir(&directory).unwrap() {
            let path = child.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let what = if kind.is_symlink() {
                format!("→ {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_dir() {
                waiting.push(path);
                "/".to_owned()
            } else {
                Blake3::of(&fs::read(&path).unwrap()).to_string()
            };
            found.insert(name, what);
        }
    }
    found
}

/// What a store is to its readers: blobs, views, and what the catalog says. Two stores with the same are equal.
pub fn essence(root: &Path) -> BTreeMap<String, String> {
    let mut found = everything(root);
    found.retain(|path, _| path.starts_with("blobs/") || path.starts_with("views/") || path.starts_with("incoming/"));
    let store = Store::open(root, Disk::new()).unwrap();
    for mirror in store.mirrors().unwrap() {
        let name = mirror.name();
        found.insert(format!("{name} view"), format!("{:?}", mirror.view_state().unwrap()));
        for slot in [strandline_store::Slot::A, strandline_store::Slot::B] {
            found.insert(format!("{name} twin {slot}"), format!("{:?}", mirror.twin(slot).unwrap()));
        }
        for recorded in mirror.snapshots().unwrap() {
            let label = recorded.snapshot.label;
            found.insert(format!("{name}@{label}"), format!("{} {}", recorded.id, recorded.verified));
        }
    }
    found
}

/// Says where two stores differ, if they do.
pub fn assert_equal(is: &BTreeMap<String, String>, should: &BTreeMap<String, String>, when: &str) {
    let extra: Vec<_> = is.iter().filter(|pair| should.get(pair.0) != Some(pair.1)).collect();
    let lacking: Vec<_> = should.iter().filter(|pair| is.get(pair.0) != Some(pair.1)).collect();
    assert!(extra.is_empty() && lacking.is_empty(), "{when}: has {extra:#?}, should have {lacking:#?}");
}

/// Checks all of them; returns the serial that readers of the mirror see, if they see any.
pub fn check(root: &Path, store: &Arc<Store>, mirror: &MirrorName) -> Option<u64> {
    let all = everything(root);
    blobs_are_their_names(root, &all);
    let whole = snapshots_are_whole(root, store, mirror);
    nothing_named_is_on_its_way_out(store, mirror);
    let again = opening_leaves_nothing_to_do(root, &all);
    names_are_ours(&all);
    one_process_at_a_time([store, &again], mirror);
    let shown = live_is_one_snapshot(root, mirror, &whole)?;
    files_are_fetchable(root, store, mirror, &whole, shown);
    check_times(root, mirror, &all);
    Some(shown)
}

/// The serial that readers of [`mirror()`] have to see, as the catalog says: `live` is made to say the same (invariant 6).
pub fn published(store: &Arc<Store>) -> Option<u64> {
    let state = store.mirror(&mirror()).unwrap()?.view_state().unwrap()?;
    Some(store.recorded(state.snapshot).unwrap().snapshot.label.serial.get())
}

/// A verified snapshot, and its paths with their digests.
type Whole = (Snapshot, BTreeMap<String, Sha256>);

/// 1. A blob's name is the BLAKE3 of its bytes; nothing is renamed to that name before its bytes are durable.
pub fn blobs_are_their_names(root: &Path, all: &BTreeMap<String, String>) {
    for (path, digest) in all.iter().filter(|(path, what)| path.starts_with("blobs/") && *what != "/") {
        let name = path["blobs/".len()..].replace('/', "");
        assert_eq!(name, *digest, "invariant 1: a blob's name is the BLAKE3 of its bytes");
        let mode = fs::metadata(root.join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444, "invariant 1: {path} can be written to");
    }
}

/// The snapshots of a mirror that are served. What was withdrawn from is kept as a record only.
fn served(store: &Arc<Store>, mirror: &MirrorName) -> Vec<Recorded> {
    let Some(mirror) = store.mirror(mirror).unwrap() else { return Vec::new() };
    let superseded = mirror.superseded().unwrap();
    let mut snapshots = mirror.snapshots().unwrap();
    snapshots.retain(|recorded| !superseded.contains_key(&recorded.id));
    snapshots
}

/// 2. A committed snapshot names only durable blobs, and never changes: what is in it is what its id says, and its blobs
///    are there, whole.
fn snapshots_are_whole(root: &Path, store: &Arc<Store>, mirror: &MirrorName) -> Vec<Whole> {
    let mut whole = Vec::new();
    for recorded in served(store, mirror) {
        assert_eq!(Blake3::of(&recorded.snapshot.to_bytes()), recorded.id, "invariant 2: a snapshot changed");
        let files = check_snapshot(root, store, &recorded.snapshot);
        if recorded.verified {
            whole.push((recorded.snapshot, files));
        }
    }
    whole
}

/// 4. A page that a client got from `live` names only files that stay fetchable. Readers have the page of what is shown
///    now, and may still have one of what was shown before.
fn files_are_fetchable(root: &Path, store: &Arc<Store>, mirror: &MirrorName, whole: &[Whole], shown: u64) {
    let live = root.join("views").join(mirror.as_str()).join("live");
    let state = store.mirror(mirror).unwrap().and_then(|mirror| mirror.view_state().unwrap());
    for (snapshot, files) in whole {
        let id = Blake3::of(&snapshot.to_bytes());
        let published = state.is_some_and(|state| id == state.snapshot || Some(id) == state.previous);
        if published || snapshot.label.serial.get() == shown {
            for (path, digest) in files.iter().filter(|(path, _)| path.starts_with("packages/")) {
                let bytes = fs::read(live.join(path));
                let found = bytes.ok().map(|bytes| Sha256::of(&bytes));
                assert_eq!(found, Some(*digest), "invariant 4: {path} of {}", snapshot.label);
            }
        }
    }
}

/// 5. A blob is deleted only after no retained snapshot names it, or it is withdrawn: it has its row, and the row does not say
///    that it goes.
fn nothing_named_is_on_its_way_out(store: &Arc<Store>, mirror: &MirrorName) {
    for recorded in served(store, mirror) {
        for leaf in store.leaves(&recorded.snapshot).unwrap() {
            let unit = leaf.unit.map(|unit| store.unit(unit).unwrap());
            for entry in unit.iter().flat_map(Unit::entries) {
                let row = store.find_blob_row(entry.blob).unwrap().map(|blob| (blob.sha256, blob.size));
                assert_eq!(row, Some((entry.sha256, entry.size)), "invariant 5: the row of {}", entry.path);
            }
        }
    }
}

/// 6. After any crash, opening the store finishes or undoes what was under way: the process that opens it
///    next has nothing left to do, and nothing is coming in.
fn opening_leaves_nothing_to_do(root: &Path, all: &BTreeMap<String, String>) -> Arc<Store> {
    let counting = Disk::counting();
    let again = Store::open(root, counting.clone()).unwrap();
    again.finish().unwrap();
    assert_eq!(counting.steps(), 0, "invariant 6: opening the store once more does something");
    for (path, what) in all.iter().filter(|(path, _)| path.starts_with("incoming/")) {
        assert_eq!(what, "/", "invariant 6: `{path}` is left over");
    }
    for path in all.keys().filter(|path| path.starts_with("blobs/")) {
        let name = path["blobs/".len()..].replace('/', "");
        let known = name.len() < 64 || again.find_blob_row(name.parse().unwrap()).unwrap().is_some();
        assert!(known, "invariant 6: `{path}` is a blob that nothing knows of");
    }
    again
}

/// 7. Nothing upstream says reaches the file system unchecked: every name is one that the layout of the store has, every
///    link stays in it.
fn names_are_ours(all: &BTreeMap<String, String>) {
    for (path, what) in all {
        let parts: Vec<_> = path.split('/').collect();
        let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let ours = match (&parts[..], what.strip_prefix("→ ")) {
            (["views", _, "live" | "live.next"], Some(target)) => ["a", "b"].contains(&target),
            (["views", _, "a" | "b", "packages" | "packages.next"], Some(target)) => target == "../packages",
            (_, Some(_)) => false,
            (["blobs" | "incoming" | "locks" | "views"] | ["views", _, "a" | "b"], _) => what == "/",
            ([name], _) => name.starts_with("catalog.db"),
            (["blobs", first], _) => first.len() == 2 && hex(first),
            (["blobs", first, rest], _) => (first.len(), rest.len()) == (2, 62) && hex(rest),
            _ => matches!(
                parts[..],
                ["views", _, "a" | "b", "simple" | "packages", ..]
                    | ["views", _, "packages", ..]
                    | ["views" | "incoming" | "locks", _]
                    | ["incoming", _, _]
            ),
        };
        assert!(ours, "invariant 7: `{path}` is {what}");
        assert!(parts.iter().all(|part| !["", ".", ".."].contains(part)), "invariant 7: `{path}`");
    }
}

/// 8. Two processes on one store never corrupt it: the second says which process has the mirror; and a lock
///    that no process holds is free.
fn one_process_at_a_time(stores: [&Arc<Store>; 2], mirror: &MirrorName) {
    // The process that checks may have the lock.
    let [first, second] = stores.map(|store| match store.lock(mirror, Wait::Never, now()) {
        Ok(lock) => Ok(lock),
        Err(StoreError::Lock(LockError::Held { holder, .. })) => Err((holder.process, holder.since)),
        Err(error) => unreachable!("invariant 8: {error}"),
    });
    let here = Err((std::process::id().to_string(), now().to_string()));
    assert_eq!(second.map(drop), here, "invariant 8: the second says which process has the mirror");
    assert!(first.is_ok() || first.map(drop) == here, "invariant 8: a process that is gone has nothing");
}

/// Checks that what a snapshot names is there; returns its paths with their digests, those of the lists too.
fn check_snapshot(root: &Path, store: &Arc<Store>, snapshot: &Snapshot) -> BTreeMap<String, Sha256> {
    let mut files: BTreeMap<_, _> = snapshot.lists.iter().map(|list| (list.path.to_string(), list.sha256)).collect();
    let leaves = store.leaves(snapshot).unwrap();
    assert_eq!(leaves.len() as u64, snapshot.projects);
    assert_eq!(leaves.iter().filter(|leaf| leaf.listed).count() as u64, snapshot.listed);
    for leaf in leaves {
        leaf.record.map(|record| store.record(record).unwrap());
        let unit = leaf.unit.map(|unit| store.unit(unit).unwrap());
        shows_its_record(store, snapshot, &leaf, unit.as_ref());
        for entry in unit.iter().flat_map(Unit::entries) {
            let name = entry.blob.to_string();
            let blob = root.join("blobs").join(&name[..2]).join(&name[2..]);
            let bytes = fs::read(&blob).unwrap_or_else(|error| {
                unreachable!(
                    "invariant 2: {} names `{}` and its blob {}: {error}",
                    snapshot.label,
                    entry.path,
                    blob.display()
                )
            });
            assert_eq!(
                (Sha256::of(&bytes), bytes.len() as u64),
                (entry.sha256, entry.size),
                "invariant 2: {}",
                entry.path
            );
            files.insert(entry.path.to_string(), entry.sha256);
        }
    }
    files
}

/// A unit shows its record by the snapshot's inputs: that of the leaf, or of a held project perhaps an earlier one, whose serial
/// the line `held` has. Both records are there, whole.
fn shows_its_record(store: &Arc<Store>, snapshot: &Snapshot, leaf: &Leaf, unit: Option<&Unit>) {
    let (name, source) = (&leaf.name, unit.map(|unit| unit.source().unwrap()));
    let (shown, of_leaf) =
        (source.map(|source| (source.record, source.serial)), leaf.record.map(|of| (of, leaf.serial)));
    match snapshot.held.iter().find(|held| held.name == *name) {
        Some(held) => {
            assert_eq!(source.map_or(Serial::ZERO, |source| source.serial), held.at, "invariant 2: {name} is held");
            let is_free = held.reason.is_of_files() || held.at != leaf.serial;
            assert!(is_free || shown == of_leaf, "invariant 2: {name} is held for its page");
        }
        None => assert_eq!(shown, of_leaf, "invariant 2: {name}"),
    }
    let (Some(unit), Some(source)) = (unit, source) else { return };
    let (record, inputs) = (store.record(source.record).unwrap(), store.inputs(snapshot).unwrap());
    for of_record in record.files() {
        let (file, told, _) = of_record;
        let is = |entry: &Entry| {
            entry.path.file_name() == file.as_str()
                && told.sha256.is_none_or(|sha256| sha256.confirm(entry.sha256).is_ok())
        };
        let hidden = inputs.hides(name, of_record);
        assert_eq!(
            unit.entries().iter().any(is),
            hidden.is_none(),
            "invariant 2: {} of {name}: {hidden:?}",
            file.as_str()
        );
    }
}

/// 3. `live` only ever points to a complete tree of a verified snapshot: the serial of the one that the live tree is, file
///    for file, if there is a live tree.
fn live_is_one_snapshot(root: &Path, mirror: &MirrorName, whole: &[Whole]) -> Option<u64> {
    let view = root.join("views").join(mirror.as_str());
    let target = fs::read_link(view.join("live")).ok()?;
    assert!(
        [Path::new("a"), Path::new("b")].contains(&target.as_path()),
        "invariant 3: live points to {}",
        target.display()
    );
    let pool = fs::read_link(view.join("live/packages")).ok();
    assert_eq!(pool.as_deref(), Some(Path::new("../packages")), "invariant 3: the way to the pool");
    let tree: BTreeMap<_, _> = everything(&view.join("live/simple"))
        .into_iter()
        .filter(|(_, what)| what != "/")
        .map(|(path, _)| {
            let digest = Sha256::of(&fs::read(view.join("live/simple").join(&path)).unwrap());
            (format!("simple/{path}"), digest)
        })
        .collect();
    let directories: BTreeSet<_> = everything(&view.join("live/simple")).into_keys().collect();
    let found = whole.iter().rev().find(|(_, files)| {
        let pages = files.iter().filter(|(path, _)| path.starts_with("simple/"));
        pages.map(|(path, digest)| (path.clone(), *digest)).collect::<BTreeMap<_, _>>() == tree
    });
    let serial = found.map(|(snapshot, _)| snapshot.label.serial.get());
    assert!(serial.is_some(), "invariant 3: the live tree is that of no verified snapshot: {tree:#?}");
    for directory in directories {
        let named = tree.keys().any(|path| path.starts_with(&format!("simple/{directory}")));
        assert!(named, "invariant 3: `{directory}` is left over");
    }
    serial
}

/// Different files with one time of modification would give nginx one entity tag for two contents.
///
/// The standby may have a list that is not written to its end: no reader sees it.
fn check_times(root: &Path, mirror: &MirrorName, all: &BTreeMap<String, String>) {
    let mut seen: HashMap<i64, Blake3> = HashMap::new();
    let live = fs::read_link(root.join("views").join(mirror.as_str()).join("live")).unwrap();
    let [live, pool] = [live.to_str().unwrap(), "packages"].map(|name| format!("views/{mirror}/{name}/"));
    for (path, what) in all {
        let served = path.starts_with("blobs/") || path.starts_with(&live) || path.starts_with(&pool);
        if served && what != "/" && !what.starts_with('→') {
            let digest: Blake3 = what.parse().unwrap();
            let mtime = fs::metadata(root.join(path)).unwrap().mtime();
            assert_eq!(*seen.entry(mtime).or_insert(digest), digest, "{path} shares its time with other bytes");
        }
    }
}

/// Nothing is damaged, by the program's own word too, and nothing temporary is left.
pub fn check_at_rest(root: &Path, store: &Arc<Store>, mirror: &MirrorName) {
    if let Some(mirror) = store.mirror(mirror).unwrap() {
        let data = verify::Data::default();
        let report = verify::verify(store, std::slice::from_ref(&mirror), Some(&data), &|_| {}).unwrap();
        assert_eq!(report.damage, []);
        assert_eq!(strandline_view::check(&mirror).unwrap(), []);
    }
    for (path, what) in everything(root) {
        assert!(!path.contains("live.next") && !path.contains("/.copy-"), "`{path}` is left over");
        assert!(!path.starts_with("incoming/") || what == "/", "`{path}` is left over");
    }
}
