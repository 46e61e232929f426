//! Drafts of snapshots, made of entries alone.

use std::collections::BTreeMap;

use strandline_model::{
    DisplayName, Entry, FileName, Follow, Form, Inputs, Method, ProjectName, Record, Seen, SeenFile, Serial, Source,
    Timestamp, Told, ToldFile, Unit,
};
use strandline_store::{Draft, DraftUnit, Recorded};

/// A project that shows these entries: its record has the release files among them.
///
/// # Panics
///
/// If two entries have one path.
pub fn draft_unit(display: DisplayName, serial: Serial, entries: Vec<Entry>) -> DraftUnit {
    let name = display.normalise();
    let (mut told, mut seen) = (BTreeMap::new(), BTreeMap::new());
    for entry in entries.iter().filter(|entry| entry.path.first_segment() == "packages") {
        let Ok(file) = FileName::of(&name, entry.path.file_name()) else { continue };
        let (sha256, size) = (entry.sha256.into(), Some(entry.size));
        told.insert(file.clone(), ToldFile { size, ..ToldFile::of(sha256) });
        seen.insert(file, SeenFile::at(None));
    }
    let seen = Seen { files: seen, ..Seen::of(display.clone(), Form::Json) };
    let record = Record::new(Told { name: name.clone(), quarantined: false, files: told }, seen);
    let bodies = record.expect("both parts name the same files").to_bodies();
    let id = bodies.id();
    let unit = Unit::new(name, Source { record: id, serial, renderer: 1 }, entries).expect("each path is there once");
    DraftUnit { unit: Some(unit), record: id, bodies: vec![bodies], serial, display, listed: true, logged: true }
}

/// A draft with these changes, and with nothing beside them.
///
/// # Panics
///
/// Never.
pub fn draft(
    base: Option<Recorded>,
    serial: Serial,
    time: Timestamp,
    changes: BTreeMap<ProjectName, Option<DraftUnit>>,
) -> Draft {
    Draft {
        base,
        serial,
        counted: false,
        time,
        upstream: "https://index.example/simple/".parse().expect("a URL"),
        follow: Follow::Everything,
        inputs: Inputs::default(),
        cutoff: time,
        method: Method::Changelog,
        changes,
        stored: Vec::new(),
        held: Vec::new(),
        gone: Vec::new(),
        missing: None,
        conclusion: None,
    }
}
