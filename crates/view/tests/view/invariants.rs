//! The invariants of the store and the view, checked from the outside, and the enumeration of crashes.
//!
//! 1. A blob's name is the BLAKE3 of its bytes.
//! 2. A committed snapshot names only blobs that are there, whole, unless something was withdrawn from it.
//! 3. `live` points to a complete tree of one verified snapshot.
//! 4. Every file that a retained, published snapshot names can be fetched through `live`.
//! 5. What retained snapshots name was not deleted.
//! 6. After the repair, `live` is what the catalog says; before it, that or what readers saw before.
//!
//! And no two files have the same time of modification unless they have the same bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use strandline_durable::Disk;
use strandline_model::{Blake3, MirrorName, Sha256, Snapshot};
use strandline_store::{Store, verify};

/// Everything below a directory, by path: `→ TARGET` for a link, the BLAKE3 of a file's bytes, `/` for a directory.
pub(crate) fn everything(root: &Path) -> BTreeMap<String, String> {
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
pub(crate) fn essence(root: &Path) -> BTreeMap<String, String> {
    let mut found = everything(root);
    found.retain(|path, _| path.starts_with("blobs/") || path.starts_with("views/") || path.starts_with("incoming/"));
    let store = Store::open(root, Disk::new()).unwrap();
    for mirror in store.mirrors().unwrap() {
        let name = &mirror.name;
        found.insert(format!("{name} view"), format!("{:?}", store.view_state(name).unwrap()));
        for slot in [strandline_store::Slot::A, strandline_store::Slot::B] {
            found.insert(format!("{name} twin {slot}"), format!("{:?}", store.twin(name, slot).unwrap()));
        }
        for recorded in store.snapshots(name).unwrap() {
            let label = recorded.snapshot.label;
            found.insert(format!("{name}@{label}"), format!("{} {}", recorded.id, recorded.verified));
        }
    }
    found
}

/// Says where two stores differ, if they do.
pub(crate) fn assert_equal(is: &BTreeMap<String, String>, should: &BTreeMap<String, String>, step: u64) {
    let extra: Vec<_> = is.iter().filter(|pair| should.get(pair.0) != Some(pair.1)).collect();
    let lacking: Vec<_> = should.iter().filter(|pair| is.get(pair.0) != Some(pair.1)).collect();
    assert!(extra.is_empty() && lacking.is_empty(), "step {step}: has {extra:#?}, should have {lacking:#?}");
}

/// Checks all of them; returns the serial that readers of the mirror see, if they see any.
pub(crate) fn check(root: &Path, store: &Store, mirror: &MirrorName) -> Option<u64> {
    check_blobs(root);
    let mut whole = Vec::new();
    // What was withdrawn from is kept as a record only.
    let superseded = store.superseded(mirror).unwrap();
    let snapshots = store.snapshots(mirror).unwrap();
    for recorded in snapshots.into_iter().filter(|recorded| !superseded.contains_key(&recorded.id)) {
        let files = check_snapshot(root, store, &recorded.snapshot);
        if recorded.verified {
            whole.push((recorded.snapshot, files));
        }
    }
    let shown = shown(root, mirror, &whole)?;
    let live = root.join("views").join(mirror.as_str()).join("live");
    // Readers have the page of what is shown now, and may still have one of what was shown before.
    let state = store.view_state(mirror).unwrap();
    for (snapshot, files) in &whole {
        let id = Blake3::of(&snapshot.to_bytes());
        let published = state.is_some_and(|state| id == state.snapshot || Some(id) == state.previous);
        if published || snapshot.label.serial.get() == shown {
            for (path, digest) in files.iter().filter(|(path, _)| path.starts_with("packages/")) {
                assert_eq!(Sha256::of(&fs::read(live.join(path)).unwrap()), *digest, "{path}");
            }
        }
    }
    check_times(root, mirror);
    Some(shown)
}

fn check_blobs(root: &Path) {
    for (path, digest) in everything(&root.join("blobs")).into_iter().filter(|(_, what)| what != "/") {
        assert_eq!(path.replace('/', ""), digest, "a blob's name is the BLAKE3 of its bytes");
        let mode = fs::metadata(root.join("blobs").join(&path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444, "{path}");
    }
}

/// Checks that what a snapshot names is there; returns its paths with their digests, those of the lists too.
fn check_snapshot(root: &Path, store: &Store, snapshot: &Snapshot) -> BTreeMap<String, Sha256> {
    let mut files: BTreeMap<_, _> = snapshot.lists.iter().map(|list| (list.path.to_string(), list.sha256)).collect();
    let leaves = store.leaves(snapshot).unwrap();
    assert_eq!(leaves.len() as u64, snapshot.units);
    for leaf in leaves {
        for entry in store.unit(leaf.unit).unwrap().entries() {
            let name = entry.blob.to_string();
            let blob = root.join("blobs").join(&name[..2]).join(&name[2..]);
            let bytes = fs::read(&blob).unwrap_or_else(|error| {
                unreachable!("{} names `{}` and its blob {}: {error}", snapshot.label, entry.path, blob.display())
            });
            assert_eq!((Sha256::of(&bytes), bytes.len() as u64), (entry.sha256, entry.size), "{}", entry.path);
            files.insert(entry.path.to_string(), entry.sha256);
        }
    }
    files
}

/// The serial of the snapshot that the live tree is, file for file, if there is a live tree.
fn shown(root: &Path, mirror: &MirrorName, whole: &[(Snapshot, BTreeMap<String, Sha256>)]) -> Option<u64> {
    let view = root.join("views").join(mirror.as_str());
    let target = fs::read_link(view.join("live")).ok()?;
    assert!([Path::new("a"), Path::new("b")].contains(&target.as_path()), "live is relative: {}", target.display());
    assert_eq!(fs::read_link(view.join("live/packages")).unwrap(), Path::new("../packages"));
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
    assert!(serial.is_some(), "the live tree is that of no verified snapshot: {tree:#?}");
    for directory in directories {
        let named = tree.keys().any(|path| path.starts_with(&format!("simple/{directory}")));
        assert!(named, "`{directory}` is left over");
    }
    serial
}

/// Different files with one time of modification would give nginx one entity tag for two contents.
///
/// The standby may have a list that is not written to its end: nobody reads it.
fn check_times(root: &Path, mirror: &MirrorName) {
    let mut seen: HashMap<i64, Blake3> = HashMap::new();
    let live = fs::read_link(root.join("views").join(mirror.as_str()).join("live")).unwrap();
    let [live, pool] = [live.to_str().unwrap(), "packages"].map(|name| format!("views/{mirror}/{name}/"));
    for (path, what) in everything(root) {
        let served = path.starts_with("blobs/") || path.starts_with(&live) || path.starts_with(&pool);
        if served && what != "/" && !what.starts_with('→') {
            let digest: Blake3 = what.parse().unwrap();
            let mtime = fs::metadata(root.join(&path)).unwrap().mtime();
            assert_eq!(*seen.entry(mtime).or_insert(digest), digest, "{path} shares its time with other bytes");
        }
    }
}

/// Nothing is damaged, by the program's own word too, and nothing temporary is left.
pub(crate) fn check_at_rest(root: &Path, store: &Store, mirror: &MirrorName) {
    let report = verify::verify(store, std::slice::from_ref(mirror), true, &|_| {}).unwrap();
    assert_eq!(report.damage, []);
    assert_eq!(strandline_view::check(store, mirror).unwrap(), []);
    for (path, what) in everything(root) {
        assert!(!path.contains("live.next") && !path.contains("/.copy-"), "`{path}` is left over");
        assert!(!path.starts_with("incoming/") || what == "/", "`{path}` is left over");
    }
}
