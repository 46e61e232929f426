//! A disk that is really full: no blocks, or no inodes. Nothing that is published is harmed, `gc` works and frees, and the
//! next sync completes. Mounting a small file system needs root.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use strandline_testkit::{Upload, WheelSpec, World as Index};

use crate::support::server::{Nginx, get};
use crate::support::tools::program;
use crate::support::world::World;

const LINES: &str = "projects = [\"six\"]\nkeep = { last = 1, daily = 0, weekly = 0 }";

/// A file system in memory under the store, until the value is dropped.
struct Small {
    at: PathBuf,
}

impl Small {
    fn mount(world: &World, options: &str) -> Self {
        let at = world.path("store");
        fs::create_dir(&at).unwrap();
        let mounted = Command::new(program("mount")).args(["-t", "tmpfs", "-o", options, "none"]).arg(&at).output();
        let mounted = mounted.unwrap();
        let said = String::from_utf8_lossy(&mounted.stderr);
        assert!(mounted.status.success(), "a small file system cannot be mounted (it takes root): {said}");
        Self { at }
    }

    /// How many blocks and inodes are free.
    fn free(&self) -> (u64, u64) {
        let found = rustix::fs::statvfs(&self.at).unwrap();
        (found.f_bavail * found.f_frsize, found.f_favail)
    }

    /// Fills it until so much is left.
    fn fill(&self, bytes: u64, inodes: u64) {
        let ballast = self.at.join("ballast");
        fs::create_dir(&ballast).unwrap();
        let free = self.free();
        for number in 0..free.1.saturating_sub(inodes.saturating_add(1)) {
            fs::write(ballast.join(number.to_string()), "").unwrap();
        }
        let room = self.free().0.saturating_sub(bytes);
        if room > 0 {
            let zeros = vec![0; usize::try_from(room).unwrap()];
            // Whatever does not fit any more: then it is full.
            fs::write(ballast.join("zeros"), zeros).unwrap_or_default();
        }
    }

    /// Some other program frees what it took.
    fn empty(&self) {
        fs::remove_dir_all(self.at.join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let ended = Command::new(program("umount")).arg("--lazy").arg(&self.at).status();
        assert!(ended.is_ok_and(|ended| ended.success()) || std::thread::panicking(), "it stays mounted");
    }
}

fn upload(world: &World, version: u64, kilobytes: usize) {
    let mut index = world.upstream.world();
    for build in 1..=4 {
        let wheel = WheelSpec::new("six", &format!("{version}.0")).build(build).payload(kilobytes << 10, version);
        index.upload("six", &Upload::wheel(&wheel));
    }
}

/// A mirror on a small file system that has been synced three times: there is something to collect.
fn mirror(options: &str) -> (World, Small) {
    let world = World::new(Index::new(), "");
    world.configure("grace = \"0s\"\nmin-free = \"0B\"", LINES);
    let small = Small::mount(&world, options);
    for version in 1..=3 {
        upload(&world, version, 100);
        if version > 1 {
            world.upstream.world().remove_release("six", &format!("{}.0", version - 1));
        }
        world.done(&["sync"]);
    }
    world.upstream.world().remove_release("six", "3.0");
    upload(&world, 4, 100);
    (world, small)
}

/// The pages among what readers see. Of the files, those go that no page has named since before the last.
fn pages(live: &BTreeMap<String, Vec<u8>>) -> Vec<(&String, &Vec<u8>)> {
    live.iter().filter(|(path, _)| !path.starts_with("packages/")).collect()
}

/// What a run of the program may end with when there is no room: it has said so, and readers see what they saw.
#[track_caller]
fn fails_for_want_of_room(world: &World, nginx: &Nginx, live: &BTreeMap<String, Vec<u8>>, when: &str) -> bool {
    let run = world.run(&["sync"]);
    let answer = get(nginx.at, "/pypi/simple/six/", &["Accept: application/vnd.pypi.simple.v1+json"]);
    assert_eq!(answer.status, 200, "{when}");
    if run.code == Some(0) {
        return false;
    }
    assert_eq!(run.code, Some(1), "{when}: {}", run.err);
    let says_why = ["disk is full", "inodes left", " free, and "].iter().any(|words| run.err.contains(words));
    assert!(says_why, "{when}: {}", run.err);
    assert!(run.err.contains("strandline gc"), "{when}: {}", run.err);
    assert_eq!(answer.body, live["simple/six/index.v1_json"], "{when}");
    // Files may be there already that no page names yet.
    let after = world.live();
    assert!(pages(&after) == pages(live), "{when}: what readers see has changed");
    assert!(live.iter().all(|(path, bytes)| after.get(path) == Some(bytes)), "{when}: a file is not what it was");
    true
}

#[test]
fn running_full_in_the_middle_of_a_sync() {
    let mut failed = 0;
    for kilobytes in [0, 40, 100, 180, 300, 430] {
        let when = format!("with {kilobytes} KiB left");
        let (world, small) = mirror("size=24m");
        let nginx = Nginx::start(&world);
        let live = world.live();
        small.fill(kilobytes << 10, u64::MAX);
        if !fails_for_want_of_room(&world, &nginx, &live, &when) {
            continue;
        }
        failed += 1;
        // While it is as full as it can be.
        let rest = small.free().0;
        fs::write(small.at.join("ballast/rest"), vec![0; usize::try_from(rest).unwrap()]).unwrap_or_default();
        let before = small.free().0;
        let collected = world.run(&["gc"]).ended(0);
        assert!(collected.out.contains("dropped pypi@"), "{when}: {}", collected.out);
        assert!(small.free().0 > before + (300 << 10), "{when}: gc has freed {} and {before}", small.free().0);
        assert!(pages(&world.live()) == pages(&live), "{when}: gc has changed what readers see");
        small.empty();
        world.done(&["sync"]);
        world.done(&["verify", "--data"]);
        assert_eq!(world.incoming(), [""; 0], "{when}");
    }
    assert!(failed >= 4, "only {failed} ran full");
}

#[test]
fn running_out_of_inodes() {
    let mut failed = 0;
    for inodes in [0, 2, 5, 9, 14, 20] {
        let when = format!("with {inodes} inodes left");
        let (world, small) = mirror("size=24m,nr_inodes=600");
        let nginx = Nginx::start(&world);
        let live = world.live();
        small.fill(u64::MAX, inodes);
        if !fails_for_want_of_room(&world, &nginx, &live, &when) {
            continue;
        }
        failed += 1;
        let before = small.free().1;
        world.done(&["gc"]);
        assert!(small.free().1 > before, "{when}: gc has freed no inode");
        assert!(pages(&world.live()) == pages(&live), "{when}: gc has changed what readers see");
        small.empty();
        world.done(&["sync"]);
        world.done(&["verify", "--data"]);
    }
    assert!(failed >= 4, "only {failed} ran out");
}

/// What is asked for before any work: a sync that would leave less than `min-free` says so, with numbers.
#[test]
fn too_little_is_free_before_work() {
    let (world, small) = mirror("size=24m,nr_inodes=900");
    let live = world.live();
    // The default is more than there is at all.
    world.configure("grace = \"0s\"", LINES);
    world.run(&["sync"]).ended(1).says(&["MB free", "1.1 GB (`min-free`)", "strandline gc"]);
    // Of the first page: two for each of its four files.
    world.configure("grace = \"0s\"\nmin-free = \"1MB\"", LINES);
    world.run(&["sync"]).ended(1).says(&["inodes left", "needs 1008"]);
    assert!(world.live() == live);
    assert_eq!(world.incoming(), [""; 0]);
    world.configure("grace = \"0s\"\nmin-free = \"0B\"", LINES);
    world.done(&["sync"]);
    drop(small);
}
