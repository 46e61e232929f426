//! What a mirror has seen, and since when, across processes.

use strandline_model::Blake3;
use strandline_store::{Conclusion, Sight, Subject};

use crate::support::{Opened, mirror, project, time};

fn shrunk(name: &str) -> Subject {
    Subject::ShrunkPage(project(name))
}

#[test]
fn the_same_is_seen_since_the_first_look_until_something_else_is_seen() {
    let world = Opened::new();
    let (one, other) = (Blake3::of(b"one"), Blake3::of(b"other"));
    for (name, at, what, since) in [
        ("pypi", 0, one, 0),
        ("pypi", 60, one, 0),
        ("other", 70, one, 70),
        ("pypi", 80, other, 80),
        ("pypi", 90, one, 90),
        ("pypi", 100, one, 90),
    ] {
        let locked = world.lock(name);
        let mut sights = locked.sights().unwrap();
        assert_eq!(sights.look(shrunk("six"), what, time(at)), time(since), "{name} at {at}");
        locked.record_sights(&mut sights).unwrap();
    }
    let seen = world.store.mirror(&mirror("pypi")).unwrap().unwrap().sights().unwrap();
    assert_eq!(seen.of(&shrunk("six")), Some(Sight { what: one, first: time(90), last: time(100) }));
    assert_eq!(seen.of(&shrunk("idna")), None);
}

/// This machine's clock was ahead when it looked first, and is right again.
#[test]
fn a_sight_in_the_future_counts_as_now() {
    let world = Opened::new();
    for (at, since) in [(1_000_000, 1_000_000), (0, 0), (10, 0)] {
        let locked = world.lock("pypi");
        let mut sights = locked.sights().unwrap();
        assert_eq!(sights.look_whether(Subject::MissingChangelog, time(at)), time(since));
        locked.record_sights(&mut sights).unwrap();
    }
}

#[test]
fn what_is_not_seen_any_more_or_was_acted_on_is_forgotten() {
    let world = Opened::new();
    let locked = world.lock("pypi");
    let mut sights = locked.sights().unwrap();
    for name in ["idna", "six", "zope"] {
        sights.look_whether(shrunk(name), time(0));
    }
    sights.look_whether(Subject::MissingChangelog, time(0));
    locked.record_sights(&mut sights).unwrap();

    sights.forget(&shrunk("idna"));
    sights.retain(|subject| *subject != Subject::MissingChangelog);
    locked.record_sights(&mut sights).unwrap();
    let left = |locked: &strandline_store::Locked| {
        let left = locked.sights().unwrap();
        left.iter().map(|(subject, _)| subject.clone()).collect::<Vec<_>>()
    };
    assert_eq!(left(&locked), [shrunk("six"), shrunk("zope")]);
    locked.conclude(&Conclusion { acted_on: [shrunk("six")].into(), ..Conclusion::default() }).unwrap();
    assert_eq!(left(&locked), [shrunk("zope")]);
    assert_eq!(left(&world.lock("other")), []);
}
