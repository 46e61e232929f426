//! Adopting a tree that says what the test has written down: what is taken, what is told, what the next sync still
//! fetches, and a crash at every step.
#![expect(clippy::disallowed_methods, reason = "the tests are the program that made the tree")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use strandline_durable::{Disk, DiskError};
use strandline_faultkit::{Outcome, World, at_every_step, invariants, known, lock, mirror, now, temporary_directory};
use strandline_model::{Blake3, ProjectName, Sha256, TreePath};
use strandline_store::gc::{Keep, collect};
use strandline_store::{Order, Store, StoreError, WithdrawnFile};
use strandline_sync::adopt::{AdoptError, Adopted, Claim, Finding, Listed, Named, Opened, Tree, Visited, adopt};
use strandline_sync::{Progress, Settings, SyncError};
use tempfile::TempDir;

use crate::support::script::{Script, name, url};
use crate::support::{Syncs as _, settings, sync_store};

/// A tree with some files in it, and what its pages say.
struct Written {
    directory: TempDir,
    projects: BTreeMap<ProjectName, BTreeMap<TreePath, Named>>,
}

fn path(file: &str) -> TreePath {
    format!("packages/aa/bb/cc/{file}").parse().unwrap()
}

impl Written {
    /// In the file system of the stores, so that links can be had.
    fn new() -> Self {
        let directory = temporary_directory();
        fs::create_dir_all(directory.path().join("packages/aa/bb/cc")).unwrap();
        Self { directory, projects: BTreeMap::new() }
    }

    fn has(&self, file: &str, bytes: &[u8]) {
        fs::write(self.directory.path().join(path(file).as_str()), bytes).unwrap();
    }

    /// A page says that a file is this.
    fn says(&mut self, project: &str, file: &str, bytes: &[u8], size: Option<u64>) {
        let named = self.projects.entry(name(project)).or_default().entry(path(file)).or_default();
        named.claims.push(Claim { sha256: Sha256::of(bytes).into(), size });
        named.expected = true;
    }

    fn is(&mut self, project: &str, file: &str, bytes: &[u8]) {
        self.has(file, bytes);
        self.says(project, file, bytes, Some(bytes.len() as u64));
    }
}

impl Tree for Written {
    fn root(&self) -> &Path {
        self.directory.path()
    }

    fn projects(&self, _: &mut dyn FnMut(Finding)) -> Result<BTreeMap<ProjectName, Vec<TreePath>>, DiskError> {
        Ok(self.projects.keys().map(|name| (name.clone(), Vec::new())).collect())
    }

    fn listed(&self, project: &ProjectName, _: &[TreePath]) -> Listed {
        Listed { files: self.projects[project].clone(), problems: Vec::new() }
    }

    fn open(&self, path: &TreePath) -> Opened {
        File::open(self.root().join(path.as_str())).map_or(Opened::Missing, Opened::File)
    }

    fn walk(&self, visit: &mut dyn FnMut(Visited)) -> Result<(), DiskError> {
        let below = invariants::everything(self.root());
        let files = below.into_iter().filter(|(_, what)| what != "/").map(|(path, _)| path);
        files.for_each(|path| visit(Visited::File(path.parse().unwrap())));
        Ok(())
    }
}

fn adopt_with(store: &Arc<Store>, settings: &Settings, tree: &Written) -> Result<(Adopted, Vec<Finding>), AdoptError> {
    let mut told = Vec::new();
    let clock: strandline_sync::Clock = Arc::new(now);
    let mut tell = |finding: &Finding| told.push(finding.clone());
    let adopted = adopt(store, settings, tree, true, &Progress::default(), &clock, &mut tell)?;
    Ok((adopted, told))
}

const NAMES: &[&str] = &["Alpha", "beta"];
const ONE: &[u8] = b"alpha 1";
const TWO: &[u8] = b"alpha 2";
const ZIP: &[u8] = b"alpha zip";

/// Upstream has what the tree should have, and more.
fn upstream() -> Arc<Script> {
    let script = Script::new();
    let alpha = [("alpha-1.tar.gz", ONE), ("alpha-2.tar.gz", TWO), ("alpha-1.zip", ZIP)];
    script.publish("Alpha", Some(3), "1", &alpha);
    script.publish("beta", Some(5), "1", &[("beta-1.tar.gz", b"beta 1"), ("beta-1.zip", ONE)]);
    Arc::new(script)
}

/// The tree has one file that is right, one that is wrong, one that is missing, one that has the bytes of another, one that
/// nobody knows, and one of a project that the mirror does not have.
fn tree() -> Written {
    let mut tree = Written::new();
    tree.is("Alpha", "alpha-1.tar.gz", ONE);
    tree.has("alpha-2.tar.gz", b"ALPHA 2");
    tree.says("Alpha", "alpha-2.tar.gz", TWO, None);
    tree.says("Alpha", "alpha-1.zip", ZIP, Some(ZIP.len() as u64));
    tree.is("beta", "beta-1.zip", ONE);
    tree.is("gamma", "gamma-1.zip", b"gamma 1");
    tree.has("left-over.zip", b"?");
    tree
}

fn told() -> Vec<Finding> {
    let problem = format!("expected sha256 {}, got {}", Sha256::of(TWO), Sha256::of(b"ALPHA 2"));
    vec![
        Finding::Missing { path: path("alpha-1.zip").to_string() },
        Finding::Wrong { path: path("alpha-2.tar.gz").to_string(), problem },
        Finding::Unknown { path: path("left-over.zip").to_string() },
    ]
}

#[test]
fn what_is_right_is_taken_and_the_next_sync_fetches_the_rest() {
    let (world, tree, script) = (World::new(), tree(), upstream());
    let wrong = tree.directory.path().join(path("alpha-2.tar.gz").as_str());
    let before = fs::metadata(&wrong).unwrap();
    let (adopted, findings) = adopt_with(&world.open(), &settings(NAMES), &tree).unwrap();
    assert_eq!(findings, told());
    assert_eq!(adopted.linked + adopted.cloned, 1, "{adopted:?}");
    let expected = Adopted {
        linked: adopted.linked,
        cloned: adopted.cloned,
        present: 1,
        bytes: ONE.len() as u64,
        wrong: 1,
        missing: 1,
        unknown: 1,
        unselected: 1,
        ..Adopted::default()
    };
    assert_eq!((adopted, adopted.adopted()), (expected, 2));
    let after = fs::metadata(&wrong).unwrap();
    assert_eq!((before.modified().unwrap(), before.permissions()), (after.modified().unwrap(), after.permissions()));

    // Nothing is published by it, nothing asked, and gc leaves it alone.
    assert_eq!((world.labels().len(), world.incoming(), script.asked()), (0, 0, Vec::new()));
    let gc = || collect(&world.open(), |_| Keep::default(), Duration::ZERO, now()).unwrap().deleted;
    assert_eq!(gc(), 0);

    // Done again, it finds the same and changes nothing.
    let blobs = invariants::everything(&world.root().join("blobs"));
    let (again, findings) = adopt_with(&world.open(), &settings(NAMES), &tree).unwrap();
    let expected = Adopted { linked: 0, cloned: 0, present: 2, bytes: 0, ..expected };
    assert_eq!((again, findings), (expected, told()));
    assert_eq!(invariants::everything(&world.root().join("blobs")), blobs);

    world.sync(&script, &settings(NAMES)).unwrap();
    let fetched: BTreeSet<_> = script.asked().into_iter().filter(|asked| asked.starts_with("file ")).collect();
    let expected = ["alpha-2.tar.gz", "alpha-1.zip", "beta-1.tar.gz"].map(|file| format!("file {}", url(file)));
    assert_eq!(fetched, BTreeSet::from(expected));
    assert_eq!(world.served(path("beta-1.zip").as_str()).unwrap().as_bytes(), ONE);
    assert_eq!(world.mirror().adopted().unwrap(), BTreeSet::new(), "the snapshot says now what is needed");
    invariants::check(&world.root(), &world.open(), &mirror());
    invariants::check_at_rest(&world.root(), &world.open(), &mirror());
}

#[test]
fn pages_of_different_age_may_say_different_things() {
    let world = World::new();
    let mut tree = Written::new();
    tree.is("Alpha", "alpha-1.zip", ONE);
    tree.says("Alpha", "alpha-1.zip", b"what it was before", None);
    tree.says("Alpha", "alpha-2.zip", b"what it was before", None);
    tree.says("Alpha", "alpha-2.zip", TWO, Some(7));
    tree.has("alpha-2.zip", TWO);
    tree.has("alpha-3.zip", b"longer");
    tree.says("Alpha", "alpha-3.zip", b"short", Some(5));
    // Of a metadata file, no page may say more than that it is there.
    tree.has("alpha-1.zip.metadata", b"metadata");
    tree.projects.get_mut(&name("Alpha")).unwrap().insert(path("alpha-1.zip.metadata"), Named::default());
    let (adopted, findings) = adopt_with(&world.open(), &settings(NAMES), &tree).unwrap();
    let problem = "expected 5 bytes, got 6".to_owned();
    assert_eq!(findings, [Finding::Wrong { path: path("alpha-3.zip").to_string(), problem }]);
    assert_eq!((adopted.adopted(), adopted.unknown), (2, 0));
}

#[test]
fn what_is_withdrawn_does_not_come_back_by_a_tree() {
    let (world, tree) = (World::new(), tree());
    let store = world.open();
    let order = Order { scope: None, time: now(), who: "somebody".to_owned(), reason: None };
    let evil = WithdrawnFile { sha256: Sha256::of(ONE).into(), name: None };
    assert_eq!(store.withdraw(&order, &[evil]).unwrap(), 1);
    let (adopted, findings) = adopt_with(&store, &settings(NAMES), &tree).unwrap();
    let problem = "is withdrawn from the mirror".to_owned();
    assert!(findings.contains(&Finding::Wrong { path: path("alpha-1.tar.gz").to_string(), problem }), "{findings:?}");
    assert_eq!(adopted.linked + adopted.cloned, 0, "{adopted:?}");
    assert!(!store.blob_path(Blake3::of(ONE)).exists());
}

#[test]
fn a_second_process_is_told_who_has_the_mirror() {
    let world = World::new();
    let store = world.open();
    let locked = lock(&store).unwrap();
    let error = adopt_with(&world.open(), &settings(NAMES), &tree()).unwrap_err();
    assert!(matches!(error, AdoptError::Store(StoreError::Lock(_))), "{error:?}");
    drop(locked);
    adopt_with(&world.open(), &settings(NAMES), &tree()).unwrap();
}

#[test]
fn copies_leave_free_what_is_to_stay_free() {
    let (world, tree) = (World::new(), tree());
    let original: PathBuf = tree.directory.path().join(path("alpha-1.tar.gz").as_str());
    fs::hard_link(&original, tree.directory.path().join("another name")).unwrap();
    let full = Settings { min_free: u64::MAX, ..settings(NAMES) };
    match adopt_with(&world.open(), &full, &tree) {
        Err(AdoptError::Room { source, .. }) => assert!(matches!(*source, SyncError::NoRoom { .. }), "{source:?}"),
        Ok((adopted, _)) => assert!(adopted.cloned > 0, "only what is cloned needs no room: {adopted:?}"),
        Err(error) => unreachable!("{error}"),
    }
    assert_eq!(world.incoming(), 0);
    let (adopted, _) = adopt_with(&world.open(), &settings(NAMES), &tree).unwrap();
    assert_eq!(adopted.linked, 0, "somebody else may rely on it: {adopted:?}");
    assert!(adopted.adopted() > 0);
}

/// What was taken and waits, or what readers see once a sync was made.
fn essence(root: &Path) -> BTreeMap<String, String> {
    let mut found = invariants::everything(&root.join("blobs"));
    let store = Store::open(root, Disk::new()).unwrap();
    found.insert("adopted".to_owned(), format!("{:?}", known(&store, &mirror()).adopted().unwrap()));
    if let Some(latest) = known(&store, &mirror()).latest_verified().unwrap() {
        found.insert("tree".to_owned(), latest.snapshot.tree.to_string());
        found.extend(invariants::everything(&root.join("views/pypi/live").canonicalize().unwrap()));
        found.extend(invariants::everything(&root.join("views/pypi/packages")));
    }
    found
}

#[test]
fn a_crash_at_every_step_of_an_adoption() {
    let tree = tree();
    let adopt = |store: &Arc<Store>| -> Outcome<()> {
        let (_, findings) = adopt_with(store, &settings(NAMES), &tree)?;
        assert_eq!(findings, told());
        Ok(())
    };
    at_every_step(&World::new(), &[None], adopt, adopt, essence);
    let next = |store: &Arc<Store>| -> Outcome<()> {
        adopt(store)?;
        Ok(sync_store(store, &upstream(), &settings(NAMES)).map(drop)?)
    };
    at_every_step(&World::new(), &[None], adopt, next, essence);
    // Beside a mirror that is published.
    let (old, before) = (World::new(), Arc::new(Script::new()));
    before.publish("beta", Some(4), "0", &[("beta-0.tar.gz", b"beta 0")]);
    old.sync(&before, &settings(&["beta"])).unwrap();
    at_every_step(&old, &[Some(4)], adopt, next, essence);
    // And the sync that comes after it.
    let adopted = World::new();
    adopt(&adopted.open()).unwrap();
    let sync = |store: &Arc<Store>| -> Outcome<()> { Ok(sync_store(store, &upstream(), &settings(NAMES)).map(drop)?) };
    at_every_step(&adopted, &[None, Some(5)], sync, sync, essence);
}
