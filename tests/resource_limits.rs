//! What a sync takes at most: requests at once, memory.

use std::fs;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use strandline_testkit::{Fault, On, Response, Rule, Upload, World as Index};

use crate::support::world::World;

#[test]
fn requests_at_once() {
    for (line, most) in [("", 16), ("connections = 3", 3)] {
        let mut index = Index::new();
        for number in 0..60 {
            let name = format!("six-{number}.0.tar.gz");
            index.upload("six", &Upload::raw(&name, &format!("{number}.0"), name.clone().into_bytes()));
        }
        let world = World::new(index, &format!("projects = [\"six\"]\n{line}"));
        let files = || On::Prefix("/packages/".to_owned());
        // Never more …
        let rule = world.upstream.fault(Rule::new(files(), Fault::Latency(Duration::from_millis(50))));
        world.done(&["sync", "--store", "whole"]);
        let (asked, waited) = (world.upstream.counts().file, world.upstream.most_waiting());
        assert!(asked == 60 && waited <= most, "{waited} at once, of {asked}: {line}");
        // … and no fewer, if none is answered.
        world.upstream.remove_fault(rule);
        world.upstream.reset_counters();
        world.upstream.fault(Rule::new(files(), Fault::Latency(Duration::from_secs(600))));
        let mut process = world.start(&["sync"]);
        process.until("as many as may be", |_| (world.upstream.most_waiting() == most).then_some(()));
    }
}

/// The most memory that a process has had, in bytes.
fn peak_memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_large_file_takes_little_memory() {
    let pattern: Vec<u8> = (0..1_u32 << 20).map(|n| (n % 251) as u8).collect();
    let times = 512_u64;
    let mut hasher = Sha256::new();
    for _ in 0..times {
        hasher.update(&pattern);
    }
    let sha256: String = hasher.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let size = times << 20;

    let mut index = Index::new();
    index.upload("six", &Upload::raw("six-1.0.tar.gz", "1.0", "in its place comes a large one"));
    let path = index.project("six").unwrap().files[0].url_path.clone();
    let world = World::new(index, "projects = [\"six\"]");
    let page = json!({
        "meta": { "api-version": "1.4", "_last-serial": 3 }, "name": "six", "versions": ["1.0"],
        "files": [{ "filename": "six-1.0.tar.gz", "url": path, "hashes": { "sha256": sha256 }, "size": size }],
    });
    let json = "application/vnd.pypi.simple.v1+json";
    let page = Response::new(200).header("Content-Type", json).body(page.to_string());
    world.upstream.override_path("/simple/six/", page);
    world.upstream.override_path(&path, Response::new(200).body(pattern).repeated(times));

    // It stays after the sync, so that it can be looked at.
    let mut process = world.start(&["up", "--listen", "127.0.0.1:0", "--every", "1h"]);
    process.until("the end of the sync", |process| process.out().contains("pip install").then_some(()));
    let peak = peak_memory(process.id());
    assert!(peak < 150 << 20, "{} MiB at the peak", peak >> 20);
    let stored = world.blobs().into_values().map(|path| fs::metadata(path).unwrap().len()).max();
    assert_eq!(stored, Some(size));
}
