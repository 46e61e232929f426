//! What upstream says of projects, and what the mirror says of them, to be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use strandline_testkit::{ProjectState, Status, normalise};

use crate::support::world::{World, text};

/// What a page has to say, and says: serial, status, versions, and the fields of each file by its name.
pub(crate) type Fields = (u64, String, BTreeSet<String>, BTreeMap<String, Vec<Value>>);

pub(crate) fn wanted_fields(state: &ProjectState) -> Fields {
    let files = state.files.iter().map(|file| {
        let yanked = match file.yanked.as_deref() {
            None => Value::Bool(false),
            Some("") => Value::Bool(true),
            Some(reason) => reason.into(),
        };
        let optional = |text: &Option<String>| text.as_deref().map_or(Value::Null, Value::from);
        let fields = vec![
            file.sha256.as_str().into(),
            file.size.into(),
            file.upload_time.as_str().into(),
            optional(&file.requires_python),
            yanked,
            optional(&file.core_metadata),
        ];
        (file.filename.clone(), fields)
    });
    (state.serial, state.status.as_str().to_owned(), state.versions.iter().cloned().collect(), files.collect())
}

pub(crate) fn shown_fields(page: &Value) -> Fields {
    let files = page["files"].as_array().unwrap().iter().map(|file| {
        let of = |pointer: &str| file.pointer(pointer).cloned().unwrap_or_default();
        let fields =
            ["/hashes/sha256", "/size", "/upload-time", "/requires-python", "/yanked", "/core-metadata/sha256"].map(of);
        (text(&file["filename"]), fields.to_vec())
    });
    (
        page["meta"]["_last-serial"].as_u64().unwrap(),
        text(&page["project-status"]["status"]),
        page["versions"].as_array().unwrap().iter().map(text).collect(),
        files.collect(),
    )
}

/// A project as the live view shows it; `None` if it does not.
pub(crate) fn live(world: &World, project: &str) -> Option<Fields> {
    let page = world.path("store/views/pypi/live/simple").join(normalise(project)).join("index.v1_json");
    let body = fs::read(page).ok()?;
    Some(shown_fields(&serde_json::from_slice(&body).unwrap()))
}

/// A project as a mirror of upstream's present state shows it.
pub(crate) fn upstreams(world: &World, project: &str) -> Option<Fields> {
    world.upstream.world().project(project).as_ref().map(wanted_fields)
}

/// Requires that the live view shows exactly what upstream has now.
#[track_caller]
pub(crate) fn equals_upstream(world: &World) {
    let (state, serial) = {
        let upstream = world.upstream.world();
        (upstream.state(), upstream.serial())
    };
    let wanted: BTreeMap<_, _> = state.iter().map(|(name, state)| (name.clone(), wanted_fields(state))).collect();
    // What is quarantined has a page, and no list names it.
    let listed = state.iter().filter(|(_, state)| state.status != Status::Quarantined);
    let listed: BTreeMap<_, _> = listed.map(|(name, state)| (name.clone(), state.serial)).collect();
    let list = fs::read(world.path("store/views/pypi/live/simple/index.v1_json")).unwrap();
    let list: Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list["meta"]["_last-serial"], serial);
    let lines = list["projects"].as_array().unwrap().iter();
    let lines: BTreeMap<_, _> =
        lines.map(|line| (normalise(&text(&line["name"])), line["_last-serial"].as_u64().unwrap())).collect();
    assert_eq!(lines, listed);
    let pages = fs::read_dir(world.path("store/views/pypi/live/simple")).unwrap();
    let pages = pages.map(|entry| entry.unwrap()).filter(|entry| entry.path().is_dir());
    let pages: BTreeSet<_> = pages.map(|entry| entry.file_name().into_string().unwrap()).collect();
    let shown: BTreeMap<_, _> = pages.iter().map(|name| (name.clone(), live(world, name).unwrap())).collect();
    assert_eq!(shown, wanted);
}
