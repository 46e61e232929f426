//! Three mirrors that share content are synced at once, gc collects in a loop, and readers fetch through nginx.
//!
//! 1. No read fails: what a page names can be fetched, with the bytes that the page says.
//! 2. The list of all projects never goes back.
//! 3. At the end, nothing that a retained snapshot names is missing.
//!
//! `STRANDLINE_RACE_SECONDS` says how long (10).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use strandline_testkit::{Upload, Upstream, WheelSpec, World as Index};

use crate::support::server::{Nginx, get};
use crate::support::world::{World, text};

const MIRRORS: [&str; 3] = ["pypi", "second", "third"];
const PROJECTS: usize = 6;
const JSON: &str = "Accept: application/vnd.pypi.simple.v1+json";

fn project(number: usize) -> String {
    format!("project-{number}")
}

/// Uploads a release whose wheel all three upstreams have, and takes away the one before the last.
fn move_on(upstreams: [&Upstream; 3], round: u64) {
    for number in 0..PROJECTS {
        let name = project(number);
        let wheel = WheelSpec::new(&name, &format!("{round}.0")).payload(3000, round);
        for upstream in upstreams {
            let mut index = upstream.world();
            index.upload(&name, &Upload::wheel(&wheel));
            if round > 2 {
                index.remove_release(&name, &format!("{}.0", round - 2));
            }
        }
    }
}

/// Reads a page of a mirror and fetches what it names, as an installer does.
fn read(nginx: &Nginx, mirror: &str, number: usize, newest: &mut u64) {
    let page = get(nginx.at, &format!("/{mirror}/simple/{}/", project(number)), &[JSON]);
    assert_eq!(page.status, 200, "{mirror}: the page of {}", project(number));
    let page: Value = serde_json::from_slice(&page.body).unwrap();
    for file in page["files"].as_array().unwrap() {
        let url = text(&file["url"]).replacen("../..", &format!("/{mirror}"), 1);
        let answer = get(nginx.at, &url, &[]);
        assert_eq!(answer.status, 200, "{mirror}: {url}");
        let digest: Vec<_> = Sha256::digest(&answer.body).iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = digest.concat();
        assert_eq!(text(&file["hashes"]["sha256"]), digest, "{mirror}: {url}");
    }
    let list = get(nginx.at, &format!("/{mirror}/simple/"), &[JSON]);
    let list: Value = serde_json::from_slice(&list.body).unwrap();
    let serial = list["meta"]["_last-serial"].as_u64().unwrap();
    assert!(serial >= *newest, "{mirror} went back from {newest} to {serial}");
    *newest = serial;
}

/// Whatever goes wrong in one, the others have to end.
fn guarded(stopped: &AtomicBool, work: impl FnOnce()) {
    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        stopped.store(true, Ordering::Relaxed);
        std::panic::resume_unwind(panic);
    }
}

/// Configures the mirrors, and keeps hardly anything, so that there is always something to delete.
fn configure(world: &World, upstreams: [&Upstream; 3]) {
    let names: Vec<_> = (0..PROJECTS).map(|number| format!("{:?}", project(number))).collect();
    // Who has read a page still fetches its files: a moment is enough here.
    let tables = MIRRORS.iter().zip(upstreams).map(|(mirror, upstream)| {
        format!(
            "[mirror.{mirror}]\nupstream = \"{}\"\nprojects = [{}]\ndrain = \"1s\"\n\
             keep = {{ last = 1, daily = 0, weekly = 0 }}\n",
            upstream.simple_url(),
            names.join(", ")
        )
    });
    let tables: Vec<_> = tables.collect();
    let configuration = format!("store = \"store\"\ngrace = \"3s\"\nmin-free = \"0B\"\n{}", tables.concat());
    std::fs::write(world.path("strandline.toml"), configuration).unwrap();
}

#[test]
fn syncs_of_three_mirrors_gc_and_readers() {
    let world = World::new(Index::new(), "");
    let others = [(), ()].map(|()| Upstream::start(Index::new()).unwrap());
    let upstreams = [&world.upstream, &others[0], &others[1]];
    configure(&world, upstreams);
    move_on(upstreams, 1);
    world.done(&["sync"]);
    let nginx = Nginx::start(&world);

    let seconds = std::env::var("STRANDLINE_RACE_SECONDS").map_or(10, |text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let stopped = AtomicBool::new(false);
    let [syncs, collections, reads] = [(), (), ()].map(|()| AtomicUsize::new(0));
    let goes_on = || Instant::now() < end && !stopped.load(Ordering::Relaxed);
    let deleted = std::thread::scope(|scope| {
        let (stopped, goes_on, world, nginx) = (&stopped, &goes_on, &world, &nginx);
        let (syncs, collections, reads) = (&syncs, &collections, &reads);
        for mirror in MIRRORS {
            scope.spawn(move || {
                guarded(stopped, || {
                    while goes_on() {
                        world.run(&["sync", mirror]).ended(0);
                        syncs.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
            scope.spawn(move || {
                guarded(stopped, || {
                    let mut newest = 0;
                    for number in (0..PROJECTS).cycle().take_while(|_| goes_on()) {
                        read(nginx, mirror, number, &mut newest);
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        let collecting = scope.spawn(move || {
            let mut deleted = 0;
            while goes_on() {
                let said = world.run(&["gc"]).ended(0).out;
                collections.fetch_add(1, Ordering::Relaxed);
                deleted += usize::from(!said.contains("deleted 0 blobs"));
            }
            deleted
        });
        let mut round = 2;
        while goes_on() {
            move_on(upstreams, round);
            round += 1;
            std::thread::sleep(Duration::from_millis(700));
        }
        collecting.join().unwrap()
    });
    world.done(&["verify", "--data"]);
    let [syncs, collections, reads] = [syncs, collections, reads].map(AtomicUsize::into_inner);
    assert!(
        syncs > 3 && collections > 1 && reads > PROJECTS,
        "{syncs} syncs, {collections} collections, {reads} reads"
    );
    assert!(deleted > 0, "nothing was deleted in {collections} collections: that was no race");
    world.done(&["sync"]);
    world.done(&["gc"]);
    world.done(&["verify", "--data"]);
}
