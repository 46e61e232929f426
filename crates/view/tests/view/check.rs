//! `check` names what is not as the catalog says, and nothing else.
#![expect(clippy::disallowed_methods, reason = "the tests damage views")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use strandline_faultkit::{World, known, lock, mirror};
use strandline_view::{check, repair};

use crate::support::{record, state, sync};

fn published() -> World {
    let world = World::new();
    let store = world.open();
    sync(&store, 1, &state(&[("gone", "one", &[]), ("Alpha", "one", &[])])).unwrap();
    sync(&store, 2, &state(&[("Alpha", "two", &[("alpha-1.tar.gz", "alpha 1")]), ("beta", "one", &[])])).unwrap();
    world
}

/// Damages a view and returns what `check` says, as `PATH PROBLEM` with paths in the view.
fn found(damage: impl Fn(PathBuf)) -> Vec<String> {
    let world = published();
    damage(world.view());
    let store = world.open();
    let found = check(&known(&store, &mirror())).unwrap();
    let prefix = format!("{}/", world.view().display());
    found.iter().map(|broken| broken.to_string().replacen(&prefix, "", 1)).collect()
}

fn pooled(view: &std::path::Path) -> PathBuf {
    let (_, content) = crate::support::project("Alpha", "two", &[("alpha-1.tar.gz", "alpha 1")]);
    view.join(content.keys().find(|path| path.starts_with("packages/")).unwrap())
}

#[test]
fn a_whole_view_has_nothing_to_report() {
    assert_eq!(found(drop), [""; 0]);
    let world = World::new();
    record(&world.open(), 1, &state(&[("Alpha", "one", &[])])).unwrap();
    assert_eq!(check(&lock(&world.open()).unwrap()).unwrap(), [], "nothing is published yet");
}

#[test]
fn a_lost_page() {
    let lost = |view: PathBuf| fs::remove_file(view.join("b/simple/alpha/index.html")).unwrap();
    assert_eq!(found(lost), ["b/simple/alpha/index.html is missing"]);
    let lost = |view: PathBuf| fs::remove_dir_all(view.join("b/simple/beta")).unwrap();
    assert_eq!(found(lost).len(), 3);
}

#[test]
fn the_standby_is_nobodys_business() {
    assert_eq!(found(|view| fs::remove_dir_all(view.join("a")).unwrap()), [""; 0]);
}

#[test]
fn a_page_that_is_another() {
    let other = |view: PathBuf| {
        fs::remove_file(view.join("b/simple/alpha/index.v1_json")).unwrap();
        fs::hard_link(view.join("b/simple/beta/index.v1_json"), view.join("b/simple/alpha/index.v1_json")).unwrap();
    };
    let found = found(other);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("b/simple/alpha/index.v1_json is not blob "), "{found:?}");
}

#[test]
fn a_file_that_is_not_in_the_pool() {
    let lost = |view: PathBuf| fs::remove_file(pooled(&view)).unwrap();
    assert!(found(lost)[0].ends_with("alpha-1.tar.gz is missing"));
    let dangling = |view: PathBuf| {
        fs::remove_file(pooled(&view)).unwrap();
        symlink("nowhere", pooled(&view)).unwrap();
    };
    assert!(found(dangling)[0].contains("alpha-1.tar.gz is not blob "));
}

#[test]
fn a_list_of_another_length() {
    let short = |view: PathBuf| {
        fs::remove_file(view.join("b/simple/index.v1_json")).unwrap();
        fs::write(view.join("b/simple/index.v1_json"), "json").unwrap();
    };
    let found = found(short);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("b/simple/index.v1_json has 4 bytes instead of "), "{found:?}");
}

#[test]
fn live_points_elsewhere_and_the_repair_puts_it_right() {
    let wrong = |view: PathBuf| {
        fs::remove_file(view.join("live")).unwrap();
        symlink("a", view.join("live")).unwrap();
    };
    assert_eq!(found(wrong), ["live does not point to `b`; the next sync puts it right"]);
    assert_eq!(found(|view| fs::remove_file(view.join("live")).unwrap()).len(), 1);

    let world = published();
    wrong(world.view());
    let store = world.open();
    assert!(repair(&lock(&store).unwrap()).unwrap());
    assert_eq!(check(&known(&store, &mirror())).unwrap(), []);
}
