//! An upstream that moves to another address, or is set up anew: what an operator says then, and what readers see meanwhile.

use std::fs;

use strandline_testkit::{Upstream, World as Index};

use crate::support::server::{Serve, get};
use crate::support::world::{World, text, wheel};

const JSON: &str = "application/vnd.pypi.simple.v1+json";

/// A mirror by the changelog with one file, at a serial that is pinned.
fn world(skipped: u64) -> (World, String) {
    let mut index = Index::new();
    index.skip_serials(skipped);
    index.upload("six", &wheel("six", "1.0", 1));
    let world = World::new(index, "source = \"warehouse\"\nsettle = \"0s\"");
    world.done(&["sync"]);
    let serial = world.newest();
    world.done(&["pin", "pypi", &serial]);
    (world, serial)
}

fn configure(world: &World, upstream: &str) {
    let path = world.path("strandline.toml");
    let lines = fs::read_to_string(&path).unwrap();
    let lines = lines.lines().map(|line| match line.split_once(" = ") {
        Some(("upstream", _)) => format!("upstream = \"{upstream}\"\n"),
        _ => format!("{line}\n"),
    });
    fs::write(path, lines.collect::<String>()).unwrap();
}

/// The versions of `six` that readers get.
fn versions(serve: &Serve, serial: &str) -> String {
    let page = get(serve.at, &format!("/pypi{serial}/simple/six/"), &[&format!("Accept: {JSON}")]);
    assert_eq!(page.status, 200, "{serial}");
    let page: serde_json::Value = serde_json::from_str(page.text()).unwrap();
    page["versions"].as_array().unwrap().iter().map(text).collect::<Vec<_>>().join(" ")
}

#[test]
fn an_index_at_another_address_is_followed_on_and_every_serial_stays() {
    let (world, first) = world(0);
    let serve = Serve::start(&world);
    let moved = world.upstream.simple_url().replace("127.0.0.1", "localhost");
    world.upstream.world().upload("six", &wheel("six", "2.0", 2));
    configure(&world, &moved);
    let command = format!("strandline mirror move pypi {moved}");
    world.run(&["sync"]).ended(2).says(&["is a copy of", &command]);
    world.run(&["mirror", "move", "pypi", &moved]).ended(0).says(&["is a copy of", &moved]);
    assert_eq!(versions(&serve, ""), "1.0", "nothing was asked for yet");
    world.done(&["sync"]);
    assert_eq!(versions(&serve, ""), "1.0 2.0");
    assert_eq!(versions(&serve, &format!("/@{first}")), "1.0");
    assert_eq!(world.log().len(), 2);
    // The configuration is another matter, and the command says so.
    let back = world.upstream.simple_url();
    world.run(&["mirror", "move", "pypi", &back]).ended(0).says(&["still says", "set `upstream`"]);
    world.run(&["mirror", "move", "pypi", "ftp://index.example/"]).ended(2);
    world.run(&["mirror", "move", "other", &back]).ended(2);
    world.done(&["verify"]);
}

#[test]
fn an_index_that_was_set_up_anew_is_followed_anew_and_every_serial_stays() {
    let (world, first) = world(5_000);
    let serve = Serve::start(&world);
    let mut index = Index::new();
    index.upload("six", &wheel("six", "1.0", 1));
    index.upload("six", &wheel("six", "3.0", 3));
    let anew = Upstream::start(index).unwrap();
    configure(&world, &anew.simple_url());
    world.run(&["mirror", "move", "pypi", &anew.simple_url()]).ended(0);
    world.run(&["sync"]).ended(1).says(&["went back", "strandline mirror reset pypi"]);
    assert_eq!(versions(&serve, ""), "1.0");
    world.run(&["mirror", "reset", "pypi"]).ended(0).says(&["anew"]);
    world.done(&["sync"]);
    assert_eq!(versions(&serve, ""), "1.0 3.0");
    assert_eq!(versions(&serve, &format!("/@{first}")), "1.0");
    assert_eq!(anew.counts().file, 1, "the file that the store has is not fetched again");
    let log: Vec<_> = world.log().iter().map(|entry| text(&entry["serial"])).collect();
    assert_eq!(log, [anew.world().serial().to_string(), first.clone()], "the newest is the one that was recorded last");
    // Retention goes by that, too, and what is pinned stays.
    anew.world().upload("six", &wheel("six", "4.0", 4));
    world.done(&["sync"]);
    let path = world.path("strandline.toml");
    let keep = format!("{}keep = {{ last = 1, daily = 0, weekly = 0 }}\n", fs::read_to_string(&path).unwrap());
    fs::write(path, keep).unwrap();
    world.done(&["gc"]);
    assert_eq!(world.newest(), anew.world().serial().to_string());
    assert_eq!(versions(&serve, &format!("/@{first}")), "1.0");
    world.done(&["verify"]);
}
