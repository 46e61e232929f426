//! What does not go together is no record, and what a record does not claim is not mirrored (`record.rs`, by its numbers).

#![cfg(test)]

use std::collections::BTreeMap;

use strandline_model::{
    FileName, Form, Maintenance, Mirrored, Placed, ProjectName, Record, Seen, SeenFile, Serial, Sha256, Status, Told,
    ToldFile,
};

const FILE: &str = "six-1.0.tar.gz";

fn six() -> ProjectName {
    "six".parse().expect("a name")
}

fn file(name: &str) -> FileName {
    FileName::of(&name.split('-').next().expect("a part").parse().expect("a name"), name).expect("a file name")
}

fn parts(files: &[&str]) -> (Told, Seen) {
    let told = |name: &&str| (file(name), ToldFile::of(Sha256::of(name.as_bytes()).into()));
    let seen = |name: &&str| (file(name), SeenFile::at(None));
    let (maintenance, versions) = (Maintenance::Archived, vec!["1.0".to_owned()]);
    let nothing = Seen::of("Six".parse().expect("a name"), Form::Json);
    (
        Told { name: six(), quarantined: false, files: files.iter().map(told).collect() },
        Seen { maintenance, versions, files: files.iter().map(seen).collect(), ..nothing },
    )
}

fn record() -> Record {
    let (told, seen) = parts(&[FILE, "six-1.0.zip"]);
    Record::new(told, seen).expect("its parts go together")
}

fn placed(name: &str, bytes: &[u8]) -> (FileName, Placed) {
    let path = format!("packages/aa/bb/cc/{name}").parse().expect("a path");
    (file(name), Placed { path, sha256: Sha256::of(bytes), size: bytes.len() as u64, metadata: None })
}

fn problem(change: impl FnOnce(&mut Told, &mut Seen)) -> String {
    let (mut told, mut seen) = parts(&[FILE]);
    change(&mut told, &mut seen);
    Record::new(told, seen).expect_err("its parts do not go together").to_string()
}

#[test]
fn parts_that_do_not_go_together() {
    assert_eq!(problem(|_, seen| seen.display = "seven".parse().expect("a name")), "six: its display name is `seven`");
    assert_eq!(problem(|_, seen| seen.files.clear()), "six: its parts name different files");
    assert_eq!(problem(|told, _| told.files.clear()), "six: its parts name different files");
    let foreign = problem(|told, seen| {
        (*told, *seen) = {
            let (of_other, seen_of_other) = parts(&["seven-1.0.zip"]);
            (of_other, seen_of_other)
        }
    });
    assert_eq!(foreign, "six: `seven-1.0.zip` is another project's");
    assert_eq!(problem(|told, _| told.quarantined = true), "six: it is quarantined and has files");
}

#[test]
fn the_status_has_two_parts() {
    for status in [Status::Active, Status::Archived, Status::Quarantined, Status::Deprecated] {
        let (mut told, mut seen) = parts(&[]);
        (told.quarantined, seen.maintenance) = status.parts();
        assert_eq!(Record::new(told, seen).expect("it has no files").status(), status);
    }
}

#[test]
fn files_are_what_the_record_claims() {
    let serial = Serial::ZERO;
    let whole = || BTreeMap::from([placed(FILE, FILE.as_bytes()), placed("six-1.0.zip", b"six-1.0.zip")]);
    let mirrored = Mirrored::new(record(), serial, whole()).expect("they are");
    let names: Vec<_> = mirrored.files().map(|(name, .., placed)| (name.as_str(), placed.path.file_name())).collect();
    assert_eq!(names, [(FILE, FILE), ("six-1.0.zip", "six-1.0.zip")]);

    let mut lacking = whole();
    lacking.pop_last();
    assert!(Mirrored::new(record(), serial, lacking).is_err(), "a file has no place");
    let mut more = whole();
    more.extend([placed("six-2.0.zip", b"six-2.0.zip")]);
    assert!(Mirrored::new(record(), serial, more).is_err(), "a file is in no record");
    let mut other = whole();
    other.extend([placed(FILE, b"other bytes")]);
    let error = Mirrored::new(record(), serial, other).expect_err("other bytes").to_string();
    assert!(error.starts_with(&format!("six: `{FILE}`: expected sha256 ")), "{error}");
}

#[test]
fn what_is_left_without_some_files() {
    let files = BTreeMap::from([placed(FILE, FILE.as_bytes()), placed("six-1.0.zip", b"six-1.0.zip")]);
    let mirrored = Mirrored::new(record(), Serial::ZERO, files).expect("they are");
    let left = mirrored.without(&[file(FILE)].into(), Vec::new());
    assert_eq!(left.files().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["six-1.0.zip"]);
    assert_eq!(left.record().files().len(), 1);
    assert!(left.record().seen().versions.is_empty());
}
