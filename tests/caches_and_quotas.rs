//! What upstream's servers do on the way between a project's event and its page: old nodes that another address passes by,
//! files that come late, quotas, and pages that change without an event.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::json;
use strandline_testkit::{
    Age, Endpoint, Fault, On, RateLimit, Rule, Status, Upstream, Weights, World as Index, history,
};

use crate::support::truth::{equals_upstream, live, wanted_fields};
use crate::support::world::{World, text, wheel};

fn index(projects: &[&str]) -> Index {
    let mut index = Index::new();
    for project in projects {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    index
}

/// Takes connections at `from` and passes their bytes on to `to` and back.
fn forward(from: TcpListener, to: std::net::SocketAddr) {
    thread::spawn(move || {
        for client in from.incoming().flatten() {
            let server = TcpStream::connect(to).unwrap();
            let ends = [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))];
            for (reads, writes) in ends {
                let (mut reads, mut writes) = (reads.unwrap(), writes.unwrap());
                thread::spawn(move || {
                    // Either end may close first.
                    drop(io::copy(&mut reads, &mut writes));
                    drop(writes.shutdown(std::net::Shutdown::Write));
                });
            }
        }
    });
}

#[test]
fn a_page_that_every_cache_has_too_old_comes_from_the_address_that_is_configured() {
    let world = World::patient(index(&["good", "victim"]), "3s", "source = \"warehouse\"");
    let port = world.upstream.address().port();
    let named = |connect_to: &str| {
        let lines = format!(
            "store = \"store\"\n[mirror.pypi]\nupstream = \"http://localhost:{port}/simple/\"\nsource = \"warehouse\"\n\
             drain = \"0s\"\ncut-timeout = \"3s\"\nhold-after = \"0s\"\n{connect_to}"
        );
        std::fs::write(world.path("strandline.toml"), lines).unwrap();
    };
    named("");
    world.done(&["sync"]);

    // Another server has the same, and no cache before it.
    let mut same = index(&["good", "victim"]);
    let stuck = Fault::Stale { age: Age::StuckAt(world.upstream.now_ms()), not_found: true, flapping: false };
    world.upstream.fault(Rule::new(On::Path("/simple/victim/".to_owned()), stuck));
    let second = wheel("victim", "2.0", 1);
    thread::sleep(Duration::from_millis(2));
    let serial = world.upstream.world().upload("victim", &second);
    assert_eq!(same.upload("victim", &second), serial);
    let origin = Upstream::start(same).unwrap();
    forward(TcpListener::bind(("127.0.0.2", port)).unwrap(), origin.address());

    world.run(&["sync"]).ended(4).says(&["`victim` is held"]);
    // A project that is held is asked for there, too.
    named(&format!("connect-to = \"127.0.0.2:{port}\"\n"));
    world.run(&["sync"]).ended(0);
    assert_eq!(live(&world, "victim").unwrap().0, serial);
    assert_eq!(origin.requests("/simple/victim/"), 1);
    assert!(origin.counts().xmlrpc.is_empty(), "the log comes from where it always does");
}

#[test]
fn a_file_that_comes_later_than_its_page_is_waited_for() {
    let world = World::new(index(&["good", "late"]), "source = \"warehouse\"");
    world.done(&["sync"]);
    let late = Fault::Late(Duration::from_millis(1_500));
    world.upstream.fault(Rule::new(On::Kind(Endpoint::File), late));
    world.upstream.fault(Rule::new(On::Kind(Endpoint::Metadata), late));
    world.upstream.world().upload("late", &wheel("late", "2.0", 1));
    world.run(&["sync"]).ended(0);
    assert_eq!(world.log()[0]["held"], json!([]));
    equals_upstream(&world);
}

#[test]
fn a_quota_of_calls_is_kept() {
    let world = World::new(index(&["good", "other"]), "source = \"warehouse\"");
    world.upstream.rate_limit(Some(RateLimit { calls: 2, window: Duration::from_secs(1) }));
    world.run(&["sync"]).ended(0);
    for version in ["2.0", "3.0", "4.0"] {
        world.upstream.world().upload("good", &wheel("good", version, 1));
        world.run(&["sync"]).ended(0);
        equals_upstream(&world);
    }
}

#[test]
fn a_project_that_is_archived_without_an_event_is_found_in_its_turn() {
    let world = World::new(index(&["good", "old"]), "source = \"warehouse\"\nrecheck = \"1s\"");
    world.done(&["sync"]);
    let first = world.newest();
    world.upstream.world().archive("old");
    // A turn is a share of `recheck`, so that it takes a second until everything had its turn.
    let found = (0..10_000).find(|_| {
        world.done(&["sync"]);
        live(&world, "old").unwrap().1 == Status::Archived.as_str()
    });
    assert!(found.is_some(), "nobody looked");
    assert_eq!(world.newest(), format!("{first}.2"), "the same serial in another revision");
    equals_upstream(&world);
    assert_eq!(world.log().iter().map(|line| text(&line["serial"])).collect::<Vec<_>>(), [format!("{first}.2"), first]);
}

#[test]
fn a_first_sync_of_an_index_that_moves_is_of_one_serial() {
    let (index, generator) = history(21, 120, 400, Weights::journaled());
    let world = World::patient(index, "60s", "source = \"warehouse\"");
    let stale = Fault::Stale { age: Age::UpTo(Duration::from_secs(2)), not_found: true, flapping: false };
    world.upstream.fault(Rule::new(On::Kind(Endpoint::Page), stale));
    world.upstream.run_at(10.0, generator).unwrap();
    world.done(&["sync"]);
    drop(world.upstream.stop_moving());
    let serial: u64 = world.newest().parse().unwrap();
    let truth = world.upstream.world().state_at(serial);
    for (name, state) in &truth {
        assert_eq!(live(&world, name), Some(wanted_fields(state)), "{name} at {serial}");
    }
    world.upstream.clear_faults();
    world.done(&["sync"]);
    equals_upstream(&world);
}
