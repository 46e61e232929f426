//! What does not go together is no record, and what a record does not claim is not mirrored (`record.rs`, by its numbers).

#![cfg(test)]

use std::collections::BTreeMap;

use strandline_model::{
    FileName, Form, Json, Maintenance, Mirrored, Placed, ProjectName, Record, Seen, SeenFile, Serial, Sha256, Status,
    Told, ToldFile,
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
    let more = problem(|told, _| {
        for file in told.files.values_mut() {
            *file = ToldFile { size: Some(7), ..ToldFile::named() };
        }
    });
    assert_eq!(more, format!("six: `{FILE}` has neither digest nor URL, and more than its name is said of it"));
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

/// The bytes of a key and its value, which is a text of so many bytes with its quotation marks.
fn unknown(key: &str, size: usize) -> (String, Json) {
    (key.to_owned(), Json::of(&format!("\"{}\"", "x".repeat(size - 2))).expect("a text"))
}

fn keys(seen: &Seen) -> Vec<&str> {
    let of_files = seen.files.values().flat_map(|file| file.unknown.keys());
    seen.preamble.unknown.keys().chain(of_files).map(String::as_str).collect()
}

#[test]
fn what_is_not_known_is_kept_up_to_64_kib() {
    let most = 64 << 10;
    let (_, mut seen) = parts(&[FILE, "six-1.0.zip"]);
    seen.preamble.namespaces = Json::of("null");
    // With the 15 bytes of the namespaces, 2 of each key and 3 of a file's key, all of it is 64 KiB.
    seen.preamble.unknown = [unknown("/a", 100), unknown("/b", most - 15 - 2 - 100 - 2 - 3 - 100)].into();
    seen.files.get_mut(&file(FILE)).expect("a file").unknown = [unknown("/cc", 100)].into();
    assert_eq!(seen.clone().bounded(), seen, "all of it fits");
    assert_eq!(seen.unknown_keys().into_iter().collect::<Vec<_>>(), ["/a", "/b", "/files/*/cc"]);

    let mut more = seen.clone();
    more.files.get_mut(&file(FILE)).expect("a file").unknown = [unknown("/cc", 101)].into();
    more.files.get_mut(&file("six-1.0.zip")).expect("a file").unknown = [unknown("/d", 101)].into();
    let bounded = more.bounded();
    assert_eq!(
        keys(&bounded),
        ["/a", "/b", "/d"],
        "what does not fit into what is left is dropped, and what fits stays"
    );
    assert_eq!((bounded.preamble.dropped, bounded.clone().bounded()), (1, bounded.clone()), "once is enough");

    let mut first = seen;
    first.preamble.unknown.insert("/aa".to_owned(), Json::of("[]").expect("a list"));
    let bounded = first.bounded();
    assert_eq!(keys(&bounded), ["/a", "/aa", "/b"], "the keys of the page come first, sorted");
}
