//! A content has one body: of everything that is close to a canonical body, each reader takes only what it would write itself.

#![cfg(test)]

use proptest::prelude::*;
use strandline_model::{Follow, Inputs, Node, Record, Snapshot, Unit};

/// The bodies of the golden file that consist of lines.
fn bodies() -> Vec<&'static str> {
    let golden = include_str!("golden/format-2.txt");
    let bodies = golden.split("== ").filter_map(|body| body.split_once('\n')).map(|(_, body)| body);
    bodies.filter(|body| body.starts_with("strandline-")).collect()
}

/// The two parts of the first record of the golden file.
fn parts() -> [&'static str; 2] {
    let golden = include_str!("golden/format-2.txt");
    let mut parts = golden.lines().filter(|line| line.starts_with('{'));
    std::array::from_fn(|_| parts.next().expect("a record has two parts"))
}

/// Where a change is made, and which.
#[derive(Debug, Clone)]
enum Change {
    Remove(prop::sample::Index),
    Insert(prop::sample::Index, u8),
    Replace(prop::sample::Index, u8),
    OtherCase(prop::sample::Index),
    SwapLines(prop::sample::Index, prop::sample::Index),
    RepeatLine(prop::sample::Index),
    SwapWords(prop::sample::Index, prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    let byte = || prop::sample::select(&b"0123456789abcdefAF-+ \n\t.{}[]:,\"\\z"[..]);
    prop_oneof![
        at().prop_map(Change::Remove),
        (at(), byte()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        (at(), byte()).prop_map(|(at, byte)| Change::Replace(at, byte)),
        at().prop_map(Change::OtherCase),
        (at(), at()).prop_map(|(one, other)| Change::SwapLines(one, other)),
        at().prop_map(Change::RepeatLine),
        (at(), at()).prop_map(|(one, other)| Change::SwapWords(one, other)),
    ]
}

/// The pieces of a text, of which two change places or one is repeated.
fn pieces(bytes: &[u8], separator: u8, edit: impl FnOnce(&mut Vec<&[u8]>)) -> Vec<u8> {
    let mut pieces: Vec<_> = bytes.split_inclusive(|byte| *byte == separator).collect();
    edit(&mut pieces);
    pieces.concat()
}

impl Change {
    fn of(&self, bytes: &[u8]) -> Vec<u8> {
        let mut changed = bytes.to_vec();
        match self {
            Self::Remove(at) => drop(changed.remove(at.index(bytes.len()))),
            Self::Insert(at, byte) => changed.insert(at.index(bytes.len()), *byte),
            Self::Replace(at, byte) => changed[at.index(bytes.len())] = *byte,
            Self::OtherCase(at) => {
                let letters: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at].is_ascii_alphabetic()).collect();
                changed[letters[at.index(letters.len())]] ^= 0x20;
            }
            Self::SwapLines(one, other) => {
                return pieces(bytes, b'\n', |lines| {
                    let count = lines.len();
                    lines.swap(one.index(count), other.index(count));
                });
            }
            Self::RepeatLine(at) => {
                return pieces(bytes, b'\n', |lines| {
                    let at = at.index(lines.len());
                    lines.insert(at, lines[at]);
                });
            }
            Self::SwapWords(one, other) => {
                return pieces(bytes, b' ', |words| {
                    let count = words.len();
                    words.swap(one.index(count), other.index(count));
                });
            }
        }
        changed
    }
}

/// The bytes that the reader of this kind of body writes of what it has read; `None` where it refuses the bytes.
fn rewritten(body: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    match body.split(' ').next().unwrap_or_default() {
        "strandline-unit" => Unit::from_bytes(bytes).ok().map(|unit| unit.to_bytes()),
        "strandline-leaf" | "strandline-branch" => Node::from_bytes(bytes).ok().map(|node| node.to_bytes()),
        "strandline-follow" => Follow::from_bytes(bytes).ok().map(|follow| follow.to_bytes()),
        "strandline-inputs" => Inputs::from_bytes(bytes).ok().map(|inputs| inputs.to_bytes()),
        "strandline-snapshot" => Snapshot::from_bytes(bytes).ok().map(|snapshot| snapshot.to_bytes()),
        other => unreachable!("no reader reads {other}"),
    }
}

/// The golden file's bodies are read, so the next test begins with what is right.
#[test]
fn the_golden_bodies_are_read() {
    let bodies = bodies();
    // The bodies of states are not kept, so nothing reads them.
    let kept = bodies.iter().filter(|body| !body.starts_with("strandline-state-"));
    let read = kept.clone().filter(|body| rewritten(body, body.as_bytes()).as_deref() == Some(body.as_bytes()));
    assert!(kept.clone().count() >= 8 && read.count() == kept.count());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn what_is_read_is_what_would_be_written(which in any::<prop::sample::Index>(), changes in prop::collection::vec(change(), 1..3)) {
        let bodies: Vec<_> = bodies().into_iter().filter(|body| !body.starts_with("strandline-state-")).collect();
        let body = which.get(&bodies);
        let changed = changes.iter().fold(body.as_bytes().to_vec(), |bytes, change| change.of(&bytes));
        if let Some(written) = rewritten(body, &changed) {
            prop_assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&changed));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_record_that_is_read_is_the_one_that_would_be_written(seen in any::<bool>(), change in change()) {
        let [told, of_pages] = parts().map(|part| part.as_bytes().to_vec());
        let changed = if seen { (told, change.of(&of_pages)) } else { (change.of(&told), of_pages) };
        if let Ok(record) = Record::from_bodies(&changed.0, &changed.1) {
            let written = record.to_bodies().into_parts().map(|(_, bytes)| bytes);
            prop_assert_eq!(written, [changed.0, changed.1]);
        }
    }
}
