//! Format 1, byte by byte: `golden/format-1.txt` is what every program that reads or checks a manifest relies on.

#![cfg(test)]

use proptest::prelude::*;
use strandline_model::{
    Blake3, DisplayName, Entry, Held, HoldReason, Label, Leaf, Node, ProjectName, RootList, Serial, Sha256, Snapshot,
    Timestamp, TreePath, Unit, trie,
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
        entry("packages/aa/bb/cc/Zope.Interface 1.0 \u{e9}.zip", b""),
    ];
    Unit::new("zope-interface".parse().unwrap(), entries).unwrap()
}

fn leaf(display: &str) -> Leaf {
    let display: DisplayName = display.parse().unwrap();
    Leaf { unit: Blake3::of(&unit().to_bytes()), serial: serial(31_234_567), name: display.normalise(), display }
}

struct NoNodes;
impl trie::Nodes for NoNodes {
    type Error = std::convert::Infallible;
    fn node(&self, _: Blake3) -> Result<Node, Self::Error> {
        unreachable!("an empty tree reads no nodes")
    }
}

fn snapshot(tree: Blake3) -> Snapshot {
    Snapshot {
        mirror: "pypi".parse().unwrap(),
        label: Label { serial: serial(31_234_567), revision: 2 },
        tree,
        units: 41,
        parent: Some(Blake3::of(b"parent")),
        time: "2026-11-23T15:10:00Z".parse().unwrap(),
        upstream: "https://index.example/simple/".parse().unwrap(),
        selection: Blake3::of(b"selection"),
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
    }
}

/// Every body of the example with its id before it.
fn example() -> String {
    let mut bodies =
        vec![unit().to_bytes(), Node::EMPTY.to_bytes(), Node::Leaf(vec![leaf("Zope.Interface")]).to_bytes()];
    let many = (0..40).map(|number| leaf(&format!("p{number}"))).chain([leaf("Zope.Interface")]);
    let updated = trie::update(&NoNodes, None, many.map(|leaf| (leaf.name.clone(), Some(leaf))).collect()).unwrap();
    assert_eq!(updated.count, 41);
    bodies.extend(updated.nodes.into_values().map(|node| node.bytes));
    bodies.push(snapshot(updated.root).to_bytes());
    bodies
        .push(Snapshot { parent: None, lists: Vec::new(), held: Vec::new(), ..snapshot(Node::EMPTY.id()) }.to_bytes());
    let with_id = |body: Vec<u8>| format!("== {}\n{}", Blake3::of(&body), String::from_utf8(body).unwrap());
    bodies.into_iter().map(with_id).collect::<Vec<_>>().concat()
}

#[test]
fn format_1_is_pinned() {
    let golden = include_str!("golden/format-1.txt");
    assert_eq!(example(), golden, "format 1 has changed: that breaks every store; a new format needs a new number");
}

#[test]
fn every_body_reads_back() {
    for body in example().split("== ").skip(1).map(|body| body.split_once('\n').unwrap().1) {
        let bytes = body.as_bytes();
        let again = match body.split([' ', '\n']).next().unwrap() {
            "strandline-unit" => Unit::from_bytes(bytes).unwrap().to_bytes(),
            "strandline-leaf" | "strandline-branch" => Node::from_bytes(bytes).unwrap().to_bytes(),
            _ => Snapshot::from_bytes(bytes).unwrap().to_bytes(),
        };
        assert_eq!(again, bytes);
    }
}

#[test]
fn bodies_that_are_not_canonical_are_refused() {
    let unit = String::from_utf8(unit().to_bytes()).unwrap();
    let lines: Vec<_> = unit.lines().collect();
    let swapped = format!("{}\n{}\n{}\n{}\n", lines[0], lines[2], lines[1], lines[3]);
    let twice = format!("{unit}{}\n", lines[3]);
    let refused: [(&str, &str); 8] = [
        ("unsorted", &swapped),
        ("a path twice", &twice),
        ("no last newline", unit.trim_end()),
        ("a leading zero", &unit.replace(" 2 simple", " 02 simple")),
        ("upper-case hexadecimal", &unit.to_uppercase().replace("STRANDLINE-UNIT 1 ZOPE-INTERFACE", lines[0])),
        ("another format", &unit.replace("unit 1", "unit 2")),
        ("a path that leaves", &unit.replace("simple/zope", "../zope")),
        ("a name that is not normal", &unit.replace("1 zope-interface", "1 Zope-Interface")),
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
    ] {
        assert_ne!(text, node, "{what}: the case changes nothing");
        assert!(Node::from_bytes(text.as_bytes()).is_err(), "{what}");
    }
    let snapshot = String::from_utf8(snapshot(Node::EMPTY.id()).to_bytes()).unwrap();
    for (what, text) in [
        ("fractions of a second", snapshot.replace("15:10:00Z", "15:10:00.5Z")),
        ("another zone", snapshot.replace("15:10:00Z", "15:10:00+00:00")),
        ("credentials", snapshot.replace("https://", "https://user:password@")),
        ("an unknown reason", snapshot.replace("stale-page", "bad-luck")),
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
        for bytes in [&bytes[..], text.as_bytes(), &[&b"strandline-unit 1 a\n"[..], &bytes].concat(), &[&b"strandline-snapshot 1\n"[..], &bytes].concat()] {
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
            let unit = Unit::new("a".parse().unwrap(), entries).unwrap();
            prop_assert_eq!(Unit::from_bytes(&unit.to_bytes()).unwrap(), unit);
        }
    }
}
