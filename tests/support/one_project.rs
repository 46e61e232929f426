//! A mirror of one project, its only wheel, and bytes that change behind the program's back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use strandline_testkit::World as Index;

use crate::support::world::{World, wheel};

/// A mirror of one project with some serials.
pub(crate) fn mirror(serials: u64, top: &str, lines: &str) -> World {
    let mut index = Index::new();
    index.upload("six", &wheel("six", "0.0", 1));
    let world = World::new(index, "");
    world.configure(top, &format!("projects = [\"six\"]\n{lines}"));
    world.done(&["sync"]);
    for number in 1..serials {
        {
            let mut index = world.upstream.world();
            index.remove_release("six", &format!("{}.0", number - 1));
            index.upload("six", &wheel("six", &format!("{number}.0"), 1));
        }
        world.done(&["sync"]);
    }
    world
}

/// The path of the only wheel that the newest snapshot has, and its blob.
pub(crate) fn newest_wheel(world: &World) -> (String, PathBuf) {
    let shown = world.done(&["show", &format!("pypi@{}", world.newest()), "six"]);
    let line = shown.lines().find(|line| line.contains(".whl\t")).unwrap();
    let path = line.trim().split('\t').next().unwrap().to_owned();
    let pooled = world.path("store/views/pypi").join(&path);
    let bytes = fs::read(&pooled).unwrap();
    let blob = world.blobs().into_values().find(|blob| fs::read(blob).unwrap() == bytes).unwrap();
    (path, blob)
}

/// Changes the bytes of a file in place, which a program that respects its mode would not.
pub(crate) fn overwrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    change(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
    fs::File::options().append(true).open(path).unwrap().set_modified(modified).unwrap();
}
