//! What `verify` finds: changed, short and missing blobs, and a broken view.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::one_project::{mirror, newest_wheel, overwrite};
use crate::support::world::{Run, World, text};

fn verify(world: &World, data: bool) -> Run {
    if data { world.run(&["verify", "pypi", "--data"]) } else { world.run(&["verify"]) }
}

/// Requires that what is wrong is found, by name.
#[track_caller]
fn finds(world: &World, data: bool, words: &[&str]) {
    let run = verify(world, data).ended(1).says(&["not as the catalog says"]);
    for word in words {
        assert!(run.out.contains(word), "stdout does not say `{word}`:\n{}", run.out);
    }
}

#[test]
fn a_flipped_bit_is_found_by_reading_all_data() {
    let world = mirror(2, "", "");
    verify(&world, true).ended(0).says(&["2 snapshots", "re-hashed"]);
    let (path, blob) = newest_wheel(&world);
    overwrite(&blob, |bytes| bytes[100] ^= 1);
    // The structure is as it was.
    verify(&world, false).ended(0);
    let name =
        format!("{}{}", blob.parent().unwrap().file_name().unwrap().display(), blob.file_name().unwrap().display());
    let newest = world.newest();
    finds(&world, true, &[&format!("blob {name} has other bytes"), &format!("named by pypi@{newest} {path}")]);
    let first = text(&world.log()[1]["serial"]);
    assert!(!verify(&world, true).out.contains(&format!("pypi@{first} ")), "the other serial does not name it");
}

#[test]
fn a_short_or_missing_blob_is_found_without_reading_data() {
    let world = mirror(1, "", "");
    let (path, blob) = newest_wheel(&world);
    let serial = world.newest();
    overwrite(&blob, |bytes| bytes.truncate(10));
    finds(&world, false, &["has 10 bytes instead of", &format!("pypi@{serial} {path}")]);
    fs::remove_file(&blob).unwrap();
    finds(&world, false, &["is missing", &format!("pypi@{serial} {path}")]);
    finds(&world, true, &["is missing", &format!("pypi@{serial} {path}")]);
}

#[test]
fn a_broken_view_is_found_and_the_link_is_put_right() {
    let world = mirror(2, "", "");
    let view = world.path("store/views/pypi");
    let live = view.join("live");
    let page = fs::canonicalize(&live).unwrap().join("simple/six/index.html");
    let shown = page.strip_prefix(fs::canonicalize(world.path("")).unwrap()).unwrap().display().to_string();
    let kept = fs::read(&page).unwrap();
    fs::remove_file(&page).unwrap();
    finds(&world, false, &[&format!("{shown} is missing")]);
    fs::write(&page, kept).unwrap();
    finds(&world, false, &[&format!("{shown} is not blob")]);

    let list = live.join("simple/index.v1_json");
    fs::remove_file(&list).unwrap();
    finds(&world, false, &["simple/index.v1_json is missing"]);

    let (path, _) = newest_wheel(&world);
    fs::remove_file(view.join(&path)).unwrap();
    finds(&world, false, &[&format!("{path} is missing")]);

    let target = fs::read_link(&live).unwrap();
    fs::remove_file(&live).unwrap();
    symlink(if target == Path::new("a") { "b" } else { "a" }, &live).unwrap();
    world.run(&["status"]).ended(0).says(&["pypi: `live` did not point to what the catalog says, and does now"]);
    assert_eq!(fs::read_link(&live).unwrap(), target);
    let again = world.run(&["status"]).ended(0);
    assert!(!again.err.contains("live"), "{}", again.err);
}
