//! Names and versions are spelt as upstream spells them, however the mirror came to know of them.

use std::time::Duration;

use serde_json::Value;
use strandline_testkit::{Age, Fault, On, Rule, World as Index};

use crate::support::truth::equals_upstream;
use crate::support::world::{World, text, wheel};

/// The names in the live list of projects.
fn names(world: &World) -> Vec<String> {
    let list = std::fs::read(world.path("store/views/pypi/live/simple/index.v1_json")).unwrap();
    let list: Value = serde_json::from_slice(&list).unwrap();
    list["projects"].as_array().unwrap().iter().map(|project| text(&project["name"])).collect()
}

#[test]
fn a_release_that_is_made_again_in_another_spelling_is_listed_in_that_one() {
    let mut index = Index::new();
    for version in ["1.0", "2.0"] {
        index.upload("six", &wheel("six", version, 1));
    }
    let world = World::new(index, "source = \"warehouse\"");
    world.done(&["sync"]);
    {
        let mut upstream = world.upstream.world();
        upstream.remove_release("six", "1.0");
        upstream.upload("six", &wheel("six", "1.0.0", 2));
    }
    // From here on the page is old, so the changelog tells the rest.
    std::thread::sleep(Duration::from_millis(2));
    let age = Age::StuckAt(world.upstream.now_ms());
    std::thread::sleep(Duration::from_millis(2));
    let fault = Fault::Stale { age, not_found: true, flapping: false };
    world.upstream.fault(Rule::new(On::Path("/simple/six/".to_owned()), fault));
    world.upstream.world().remove_file("six", &wheel("six", "2.0", 1).filename);
    world.done(&["sync"]);
    equals_upstream(&world);
    assert_eq!(world.upstream.world().project("six").unwrap().versions, ["1.0.0"]);
}

#[test]
fn a_project_that_enters_the_selection_has_the_name_that_upstream_lists() {
    let mut index = Index::new();
    for project in ["Alpha", "Zope.Interface", "Old_Name"] {
        index.upload(project, &wheel(project, "1.0", 1));
    }
    // Longer ago than the changelog is read back.
    index.skip_serials(60_000);
    index.upload("Alpha", &wheel("Alpha", "2.0", 1));
    let select = |world: &World, names: &str| {
        world.configure("", &format!("source = \"warehouse\"\nprojects = [{names}]"));
        world.done(&["sync"]);
    };
    let world = World::new(index, "");
    select(&world, "\"alpha\"");
    assert_eq!(names(&world), ["Alpha"]);
    select(&world, "\"alpha\", \"zope-interface\", \"OLD.NAME\"");
    assert_eq!(names(&world), ["Alpha", "Old_Name", "Zope.Interface"]);
    equals_upstream(&world);

    // A project that is made anew in another spelling has that one.
    world.upstream.world().remove_project("Old_Name");
    world.upstream.world().upload("Old-Name", &wheel("Old-Name", "2.0", 1));
    world.done(&["sync"]);
    assert_eq!(names(&world), ["Alpha", "Old-Name", "Zope.Interface"]);
    equals_upstream(&world);
}
