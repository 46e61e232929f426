//! Format 2, byte by byte: `golden/format-2.txt` is what every program that reads or checks a manifest relies on.

#![cfg(test)]

use proptest::prelude::*;
use strandline_model::{
    Blake3, CoreMetadata, DisplayName, Entry, FileName, Follow, Form, Gone, Held, HoldReason, Inputs, Json, Label,
    Leaf, Maintenance, Method, Node, Preamble, ProjectName, RECORD, Record, RecordId, RootList, Seen, SeenFile, Serial,
    Sha256, Snapshot, Source, Timestamp, Told, ToldFile, TreePath, Unit, Yanked, trie,
};

fn entry(path: &str, bytes: &[u8]) -> Entry {
    Entry { path: path.parse().unwrap(), blob: Blake3::of(bytes), sha256: Sha256::of(bytes), size: bytes.len() as u64 }
}

fn serial(number: u64) -> Serial {
    Serial::try_from(number).unwrap()
}

fn unit() -> Unit {
    let entries = vec![
        entry("simple/zope-interface/index.html", b"<html>"),
        entry("simple/zope-interface/index.v1_json", b"{}"),
        entry("packages/aa/bb/cc/Zope.Interface-1.0 \u{e9}.zip", b""),
    ];
    let source = Source { record: record().to_bodies().id(), serial: serial(31_234_567), renderer: 1 };
    Unit::new("zope-interface".parse().unwrap(), source, entries).unwrap()
}

fn zope() -> ProjectName {
    "zope-interface".parse().unwrap()
}

fn file(name: &str) -> FileName {
    FileName::of(&zope(), name).unwrap()
}

fn json(text: &str) -> Json {
    Json::of(text).unwrap()
}

/// A record of two files of which everything is said or nothing, one that is no distribution, one without a digest, and two that are
/// skipped.
fn record() -> Record {
    let all = ToldFile {
        sha256: Some(Sha256::of(b"").into()),
        size: Some(0),
        upload_time: "2026-11-23T16:10:00.5+01:00".parse().ok(),
        yanked: Yanked::Yes("broken \"\u{e9}\" \u{7}".to_owned()),
    };
    let nothing = ToldFile::of(Sha256::of(b"").into());
    let shown = SeenFile {
        url: Some("https://files.example/packages/aa/bb/cc/Zope.Interface-1.0%20%C3%A9.zip".to_owned()),
        query: true,
        requires_python: Some(">=3.9".to_owned()),
        core_metadata: CoreMetadata::Hashed(Sha256::of(b"metadata").into()),
        provenance: Some("https://index.example/provenance".to_owned()),
        unknown: [("/gpg-sig".to_owned(), json("true"))].into(),
    };
    let hidden = SeenFile::at(None);
    let unhashed = SeenFile { core_metadata: CoreMetadata::Unhashed, ..hidden.clone() };
    let names = [
        "Zope.Interface-1.0 \u{e9}.zip",
        "zope.interface-1.0-variants.json",
        "zope.interface-2.0-variants.json",
        "zope_interface-2.0.tar.gz",
        "zope_interface-3.0.tar.gz",
        "zope_interface-4.0.tar.gz",
    ]
    .map(file);
    // Upstream says no digest of the one before the last, and of two files what cannot be used.
    let undigested = ToldFile { size: Some(7), ..ToldFile::named() };
    let somewhere = SeenFile::at(Some("https://files.example/zope_interface-3.0.tar.gz".to_owned()));
    let yanked = ToldFile { yanked: Yanked::Yes(String::new()), ..nothing.clone() };
    let told = Told {
        name: zope(),
        quarantined: false,
        files: names
            .clone()
            .into_iter()
            .zip([all, nothing, ToldFile::named(), yanked, undigested, ToldFile::named()])
            .collect(),
    };
    let seen = Seen {
        display: "Zope.Interface".parse().unwrap(),
        preamble: Preamble {
            form: Form::Json,
            namespaces: Some(json(r#"[{"name": "zope", "owned": true}]"#)),
            // RFC 8785 sorts these by their UTF-16.
            unknown: ["/meta/tracks", "/\u{e000}", "/\u{1f600}"].map(|key| (key.to_owned(), json("[1e999]"))).into(),
            dropped: 2,
        },
        maintenance: Maintenance::Archived,
        status_reason: Some("gone elsewhere".to_owned()),
        versions: vec!["2.0".to_owned(), "1.0".to_owned()],
        files: names.into_iter().zip([shown, unhashed, hidden.clone(), hidden.clone(), somewhere, hidden]).collect(),
    };
    Record::new(told, seen).unwrap()
}

/// A quarantined project of which nothing else is said.
fn quarantined() -> Record {
    let told = Told { name: zope(), quarantined: true, files: [].into() };
    Record::new(told, Seen::of("zope-interface".parse().unwrap(), Form::Html)).unwrap()
}

fn inputs() -> Inputs {
    Inputs {
        lacking: [
            ((zope(), file("Zope.Interface-1.0 \u{e9}.zip")), Some(Sha256::of(b"lacking").into())),
            ((zope(), file("zope_interface-3.0.tar.gz")), None),
        ]
        .into(),
        withdrawn: [b"one", b"two"].map(|bytes| Sha256::of(bytes).into()).into(),
    }
}

fn leaf(display: &str) -> Leaf {
    let display: DisplayName = display.parse().unwrap();
    Leaf {
        name: display.normalise(),
        listed: true,
        logged: true,
        unit: Some(Blake3::of(&unit().to_bytes())),
        record: Some(record().to_bodies().id()),
        serial: serial(31_234_567),
        display,
    }
}

struct NoNodes;
impl trie::Nodes for NoNodes {
    type Error = std::convert::Infallible;
    fn node(&self, _: Blake3) -> Result<Node, Self::Error> {
        unreachable!("an empty tree reads no nodes")
    }
}

/// A project that is not listed, one that was read without the log, and one that was never good.
fn other_leaves() -> Vec<Leaf> {
    let record = quarantined().to_bodies().id();
    let hidden = Leaf { listed: false, record: Some(record), ..leaf("a1") };
    let unlogged = Leaf { logged: false, ..leaf("a2") };
    let never = Leaf { listed: false, unit: None, record: None, serial: Serial::ZERO, ..leaf("a3") };
    vec![hidden, unlogged, never]
}

fn snapshot(tree: Blake3, state: Blake3) -> Snapshot {
    Snapshot {
        mirror: "pypi".parse().unwrap(),
        label: Label { serial: serial(31_234_567), revision: 2 },
        tree,
        state,
        follow: Follow::Everything.id(),
        inputs: inputs().id(),
        cutoff: "2026-11-23T15:09:00Z".parse().unwrap(),
        record: RECORD,
        method: Method::Changelog,
        projects: 41,
        listed: 41,
        parent: Some(Blake3::of(b"parent")),
        time: "2026-11-23T15:10:00Z".parse().unwrap(),
        upstream: "https://index.example/simple/".parse().unwrap(),
        lists: vec![RootList {
            path: "simple/index.html".parse().unwrap(),
            blake3: Blake3::of(b"list"),
            sha256: Sha256::of(b"list"),
            size: 4,
        }],
        held: vec![Held {
            name: "six".parse().unwrap(),
            reason: HoldReason::StalePage,
            at: serial(31_000_000),
            needs: serial(31_234_560),
            since: "2026-11-23T14:00:00Z".parse().unwrap(),
        }],
        gone: vec![Gone { name: "six".parse().unwrap(), serial: serial(31_000_000) }],
    }
}

/// Every body of the example with its id before it; the parts of records have no newline at their end.
fn example() -> String {
    let records = [record(), quarantined()].into_iter().flat_map(|record| record.to_bodies().into_parts());
    let mut bodies: Vec<_> = records.map(|(_, bytes)| bytes).collect();
    bodies.extend([unit().to_bytes(), Unit::of_files(zope(), unit().entries().to_vec()).unwrap().to_bytes()]);
    bodies.extend([Node::EMPTY.to_bytes(), Node::Leaf(vec![leaf("Zope.Interface")]).to_bytes()]);
    bodies.push(Node::Leaf(other_leaves()).to_bytes());
    let many = (0..40).map(|number| leaf(&format!("p{number}"))).chain([leaf("Zope.Interface")]);
    let updated = trie::update(&NoNodes, None, many.map(|leaf| (leaf.name.clone(), Some(leaf))).collect()).unwrap();
    assert_eq!(updated.count, 41);
    bodies.extend(updated.nodes.into_values().map(|node| node.bytes));
    bodies.push(snapshot(updated.root, updated.state).to_bytes());
    let empty = snapshot(Node::EMPTY.id(), Node::EMPTY.state());
    let (lists, held, gone) = (Vec::new(), Vec::new(), Vec::new());
    bodies.push(Snapshot { parent: None, method: Method::Collect, lists, held, gone, ..empty }.to_bytes());
    let names = ["everything", "six"].map(|name| name.parse().unwrap());
    bodies.extend([Follow::Everything.to_bytes(), Follow::Projects(names.into()).to_bytes()]);
    bodies.extend([inputs().to_bytes(), Inputs::default().to_bytes()]);
    let with_id =
        |body: Vec<u8>| format!("== {}\n{}\n", Blake3::of(&body), String::from_utf8(body).unwrap().trim_end());
    bodies.into_iter().map(with_id).collect::<Vec<_>>().concat()
}

#[test]
fn format_2_is_pinned() {
    let golden = include_str!("golden/format-2.txt");
    assert_eq!(example(), golden, "format 2 has changed: that breaks every store; a new format needs a new number");
}

#[test]
fn every_body_reads_back() {
    for body in example().split("== ").skip(1).map(|body| body.split_once('\n').unwrap().1) {
        let bytes = body.as_bytes();
        let again = match body.split([' ', '\n']).next().unwrap() {
            "strandline-unit" => Unit::from_bytes(bytes).unwrap().to_bytes(),
            "strandline-leaf" | "strandline-branch" => Node::from_bytes(bytes).unwrap().to_bytes(),
            "strandline-follow" => Follow::from_bytes(bytes).unwrap().to_bytes(),
            "strandline-inputs" => Inputs::from_bytes(bytes).unwrap().to_bytes(),
            "strandline-snapshot" => Snapshot::from_bytes(bytes).unwrap().to_bytes(),
            // A part of a record, which is read with the other one.
            _ => continue,
        };
        assert_eq!(again, bytes);
    }
}

/// Both parts of a record, as texts.
fn parts(record: &Record) -> [String; 2] {
    record.to_bodies().into_parts().map(|(_, bytes)| String::from_utf8(bytes).unwrap())
}

#[test]
fn a_record_reads_back() {
    for record in [record(), quarantined()] {
        let [told, seen] = parts(&record);
        let again = Record::from_bodies(told.as_bytes(), seen.as_bytes()).unwrap();
        assert_eq!(again.to_bodies(), record.to_bodies());
        assert_eq!(again.told(), record.told());
    }
}

#[test]
fn what_changes_without_the_log_is_in_the_seen_part() {
    let id = |change: &dyn Fn(&mut Told, &mut Seen)| {
        let (mut told, mut seen) = record().into_parts();
        change(&mut told, &mut seen);
        Record::new(told, seen).unwrap().to_bodies().id()
    };
    let (first, other) = (file("Zope.Interface-1.0 \u{e9}.zip"), file("zope.interface-1.0-variants.json"));
    let same = id(&|_, _| {});
    let seen_alone: [&dyn Fn(&mut Told, &mut Seen); 12] = [
        &|_, seen| seen.files.get_mut(&first).unwrap().query = false,
        &|_, seen| seen.preamble.namespaces = Some(json("null")),
        &|_, seen| drop(seen.preamble.unknown.insert("/new".to_owned(), json("[ ]"))),
        &|_, seen| seen.preamble.dropped = 0,
        &|_, seen| seen.files.get_mut(&first).unwrap().unknown.clear(),
        &|_, seen| seen.preamble.form = Form::Html,
        &|_, seen| seen.maintenance = Maintenance::Deprecated,
        &|_, seen| seen.status_reason = None,
        &|_, seen| seen.display = "zope.interface".parse().unwrap(),
        &|_, seen| seen.versions.push("3.0".to_owned()),
        &|_, seen| seen.files.get_mut(&first).unwrap().url = None,
        // It is no distribution by its name, so the log is not asked about it.
        &|told, _| told.files.get_mut(&other).unwrap().size = Some(7),
    ];
    for (number, change) in seen_alone.into_iter().enumerate() {
        let RecordId { told, seen } = id(change);
        assert!(told == same.told && seen != same.seen, "change {number}");
    }
    let told_alone: [&dyn Fn(&mut Told, &mut Seen); 3] = [
        &|told, _| told.files.get_mut(&first).unwrap().size = Some(7),
        &|told, _| told.files.get_mut(&first).unwrap().yanked = Yanked::No,
        &|told, _| told.files.get_mut(&first).unwrap().upload_time = None,
    ];
    for (number, change) in told_alone.into_iter().enumerate() {
        let RecordId { told, seen } = id(change);
        assert!(told != same.told && seen == same.seen, "change {number}");
    }
    assert_eq!(id(&|_, seen| seen.versions.reverse()), same, "versions have no order");
}

#[test]
fn records_that_are_not_canonical_are_refused() {
    let [told, seen] = parts(&record());
    let refused: [(&str, String, String); 17] = [
        (
            "more of a skipped file",
            told.replace("3.0.tar.gz\",\"size\":7", "3.0.tar.gz\""),
            seen.replace(
                "zope_interface-3.0.tar.gz\",\"url\":\"https://files.example/zope_interface-3.0.tar.gz",
                "zope_interface-3.0.tar.gz\",\"requires-python\":\">=3.9",
            ),
        ),
        ("a query that is none", told.clone(), seen.replace("\"query\":true", "\"query\":false")),
        ("an unknown key's value that is no JSON", told.clone(), seen.replace("[1e999]", "[1e999")),
        ("white space around it", told.clone(), seen.replace("\"true\"", "\" true\"")),
        ("nothing that is not known", told.clone(), seen.replace("{\"/gpg-sig\":\"true\"}", "{}")),
        ("nothing dropped", told.clone(), seen.replace("\"dropped\":2", "\"dropped\":0")),
        ("white space", told.replace("{\"files", "{ \"files"), seen.clone()),
        ("a key more", told.replace("\"name\":", "\"colour\":1,\"name\":"), seen.clone()),
        ("null", told.replace("\"size\":0,", "\"size\":null,"), seen.clone()),
        ("another zone", told.replace("15:10:00.500000Z", "16:10:00.500000+01:00"), seen.clone()),
        ("upper-case digits", told.replace("e3b0c4", "E3B0C4"), seen.clone()),
        ("another form", told.replace("\"told\":2", "\"told\":3"), seen.clone()),
        ("a file less", told.clone(), parts(&quarantined())[1].clone()),
        ("an unknown form", told.clone(), seen.replace("\"form\":\"json\"", "\"form\":\"xml\"")),
        ("no form", told.clone(), seen.replace("\"form\":\"json\",", "")),
        ("an unknown status", told.clone(), seen.replace("archived", "happy")),
        (
            "keys in another order",
            told.clone(),
            seen.replace("\"seen\":2,\"status\":\"archived\"", "\"status\":\"archived\",\"seen\":2"),
        ),
    ];
    for (what, one, other) in refused {
        assert!(one != told || other != seen, "{what}: the case changes nothing");
        assert!(Record::from_bodies(one.as_bytes(), other.as_bytes()).is_err(), "{what}");
    }
}

#[test]
fn bodies_that_are_not_canonical_are_refused() {
    let unit = String::from_utf8(unit().to_bytes()).unwrap();
    let lines: Vec<_> = unit.lines().collect();
    let swapped = format!("{}\n{}\n{}\n{}\n{}\n", lines[0], lines[1], lines[3], lines[2], lines[4]);
    let twice = format!("{unit}{}\n", lines[4]);
    let refused: [(&str, &str); 10] = [
        ("unsorted", &swapped),
        ("a path twice", &twice),
        ("no last newline", unit.trim_end()),
        ("a leading zero", &unit.replace(" 2 simple", " 02 simple")),
        (
            "upper-case hexadecimal",
            &unit
                .to_uppercase()
                .replace("STRANDLINE-UNIT 2 ZOPE-INTERFACE", lines[0])
                .replace("FROM", "from")
                .replace("SHOWN", "shown"),
        ),
        ("another format", &unit.replace("unit 2", "unit 1")),
        ("two lines that say what it shows", &unit.replacen(lines[1], &format!("{}\n{}", lines[1], lines[1]), 1)),
        (
            "what it shows after what stands where",
            &format!("{}\n{}\n{}\n{}\n{}\n", lines[0], lines[2], lines[1], lines[3], lines[4]),
        ),
        ("a path that leaves", &unit.replace("simple/zope", "../zope")),
        ("a name that is not normal", &unit.replace("2 zope-interface", "2 Zope-Interface")),
    ];
    for (what, text) in refused {
        assert_ne!(text, unit, "{what}: the case changes nothing");
        assert!(Unit::from_bytes(text.as_bytes()).is_err(), "{what}");
    }
    let node = String::from_utf8(Node::Leaf(vec![leaf("Zope.Interface")]).to_bytes()).unwrap();
    for (what, text) in [
        ("another project's display name", node.replace("Zope.Interface", "Zope.Interfaces")),
        ("a word too few", node.replace(" Zope.Interface", "")),
        ("a word more", node.replace("Zope.Interface", "Zope.Interface x")),
        ("two spaces", node.replace(" Zope.Interface", "  Zope.Interface")),
        ("a name that is not normal", node.replace("zope-interface", "zope--interface")),
        ("neither listed nor unlisted", node.replace("listed ", "notlisted ")),
        ("half a record", node.replace(&record().to_bodies().id().seen.to_string(), "-")),
        ("listed without a unit", node.replace(&Blake3::of(unit.as_bytes()).to_string(), "-")),
    ] {
        assert_ne!(text, node, "{what}: the case changes nothing");
        assert!(Node::from_bytes(text.as_bytes()).is_err(), "{what}");
    }
    let snapshot = String::from_utf8(snapshot(Node::EMPTY.id(), Node::EMPTY.state()).to_bytes()).unwrap();
    for (what, text) in [
        ("fractions of a second", snapshot.replace("15:10:00Z", "15:10:00.5Z")),
        ("another zone", snapshot.replace("15:10:00Z", "15:10:00+00:00")),
        ("credentials", snapshot.replace("https://", "https://user:password@")),
        ("an unknown reason", snapshot.replace("stale-page", "bad-luck")),
        ("an unknown method", snapshot.replace("method changelog", "method guess")),
        ("revision 0 is written as 00", snapshot.replace("revision 2", "revision 02")),
        ("a line more", format!("{snapshot}colour blue\n")),
    ] {
        assert_ne!(text, snapshot, "{what}: the case changes nothing");
        assert!(Snapshot::from_bytes(text.as_bytes()).is_err(), "{what}");
    }
}

#[test]
fn paths_names_and_serials_are_checked() {
    for bad in [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "a/./b",
        "a\nb",
        "a\0b",
        "a\\b",
        &"x".repeat(256),
        &"a/".repeat(3000),
    ] {
        assert!(bad.parse::<TreePath>().is_err(), "{bad:?}");
    }
    assert!("packages/aa/..b/é x".parse::<TreePath>().is_ok());
    for (name, normal) in [("Zope.Interface", "zope-interface"), ("a__b", "a-b"), ("A.-_b", "a-b"), ("x", "x")] {
        assert_eq!(name.parse::<DisplayName>().unwrap().normalise().as_str(), normal);
    }
    for bad in ["", "-a", "a-", "a b", "a/b", "é", "a\n", ".."] {
        assert!(bad.parse::<DisplayName>().is_err(), "{bad:?}");
    }
    for bad in ["", "01", "+1", "-1", "9223372036854775808", "1.0", "1."] {
        assert!(bad.parse::<Label>().is_err(), "{bad:?}");
    }
    assert_eq!("31234567.2".parse::<Label>().unwrap().to_string(), "31234567.2");
    assert_eq!("31234567.1".parse::<Label>().unwrap().to_string(), "31234567");
    assert_eq!("2026-11-23T15:10:00.9+01:00".parse::<Timestamp>().unwrap().to_string(), "2026-11-23T14:10:00Z");
}

#[test]
fn a_time_goes_up_to_the_last_that_can_be_written() {
    use std::time::Duration;
    assert_eq!(Timestamp::LAST.to_string(), "9999-12-29T23:59:59Z");
    assert_eq!(Timestamp::LAST.to_string().parse(), Ok(Timestamp::LAST));
    let day = Duration::from_secs(86_400);
    let time: Timestamp = "2028-02-28T12:00:00Z".parse().unwrap();
    assert_eq!(time.later(day).to_string(), "2028-02-29T12:00:00Z");
    for by in [day, Duration::from_secs(u64::MAX), Duration::from_secs(i64::MAX.unsigned_abs())] {
        assert_eq!(Timestamp::LAST.later(by), Timestamp::LAST, "{by:?}");
    }
}

proptest! {
    /// Names are compared without being normalised first: that has to come to the same.
    #[test]
    fn a_display_name_is_of_the_project_whose_name_it_normalises_to(one in "[aB1._-]{1,6}", other in "[aB1._-]{1,6}") {
        if let (Ok(one), Ok(other)) = (one.parse::<DisplayName>(), other.parse::<DisplayName>()) {
            prop_assert!(one.is_of(&one.normalise()));
            prop_assert_eq!(one.is_of(&other.normalise()), one.normalise() == other.normalise());
            let parsed = one.as_str().parse::<ProjectName>();
            prop_assert_eq!(parsed.ok(), Some(one.normalise()).filter(|name| name.as_str() == one.as_str()));
        }
    }

    #[test]
    fn nothing_panics_and_what_is_read_is_what_was_written(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,60}") {
        for bytes in [&bytes[..], text.as_bytes(), &[&b"strandline-unit 2 a\n"[..], &bytes].concat(), &[&b"strandline-snapshot 2\n"[..], &bytes].concat()] {
            if let Ok(unit) = Unit::from_bytes(bytes) {
                prop_assert_eq!(unit.to_bytes(), bytes);
            }
            if let Ok(node) = Node::from_bytes(bytes) {
                prop_assert_eq!(node.to_bytes(), bytes);
            }
            if let Ok(snapshot) = Snapshot::from_bytes(bytes) {
                prop_assert_eq!(snapshot.to_bytes(), bytes);
            }
        }
        if let Ok(path) = text.parse::<TreePath>() {
            let entries = vec![Entry { path, ..entry("a", b"") }];
            let unit = Unit::of_files("a".parse().unwrap(), entries).unwrap();
            prop_assert_eq!(Unit::from_bytes(&unit.to_bytes()).unwrap(), unit);
        }
    }
}
