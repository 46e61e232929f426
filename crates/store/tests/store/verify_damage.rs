//! `verify` names every damage, where it is, and who needs it; and nothing that is whole.
#![expect(clippy::disallowed_methods, reason = "the tests damage stores")]

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use strandline_model::{Blake3, RecordId, Sha256};
use strandline_store::verify::{Damage, Data, Report, verify};
use strandline_store::{StoreError, Verified};

use crate::support::{Opened, content, project};

/// Two snapshots: six and idna, then six anew. Both have idna's file.
fn whole() -> (Opened, Verified) {
    let world = Opened::new();
    world.record(
        "pypi",
        1,
        &[
            ("six", Some(content("six", "one", &["six-1.tar.gz"]))),
            ("idna", Some(content("idna", "one", &["idna-1.tar.gz"]))),
        ],
    );
    let second = world.record("pypi", 2, &[("six", Some(content("six", "two", &["six-2.tar.gz"])))]);
    (world, second)
}

fn report(world: &Opened, data: bool) -> Report {
    verify(&world.store, &[world.mirror("pypi")], data.then(Data::default).as_ref(), &|_| {}).unwrap()
}

/// The damage, as it is shown.
fn shown(world: &Opened, data: bool) -> Vec<String> {
    report(world, data).damage.iter().map(ToString::to_string).collect()
}

fn blob_of(file: &str) -> Blake3 {
    Blake3::of(format!("bytes of {file}").as_bytes())
}

fn replace(world: &Opened, blob: Blake3, bytes: &[u8]) {
    let path = world.store.blob_path(blob);
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
}

/// Overwrites a body as a broken disk might.
fn spoil(world: &Opened, id: Blake3, how: &str) {
    let sql = world.sql();
    sql.execute_batch("DROP TRIGGER pack_is_immutable").unwrap();
    let pack = "number = (SELECT pack FROM body WHERE id = ?1)";
    assert_eq!(sql.execute(&format!("UPDATE pack SET {how} WHERE {pack}"), [id.as_bytes()]).unwrap(), 1);
}

#[test]
fn a_whole_store_has_nothing_to_report() {
    let (world, _) = whole();
    for data in [false, true] {
        let hashed = AtomicU64::new(0);
        let count = |bytes| {
            hashed.fetch_add(bytes, Ordering::Relaxed);
        };
        let report = verify(&world.store, &[world.mirror("pypi")], data.then(Data::default).as_ref(), &count).unwrap();
        assert_eq!(report.damage, []);
        // Two snapshots, three units with records of two parts, a node for each tree, what both follow, and their inputs; three
        // pages and three files.
        assert_eq!((report.snapshots, report.bodies, report.blobs), (2, 13, 6));
        assert_eq!(hashed.into_inner(), if data { report.bytes } else { 0 });
    }
}

#[test]
fn a_missing_blob() {
    let (world, _) = whole();
    let blob = blob_of("idna-1.tar.gz");
    fs::remove_file(world.store.blob_path(blob)).unwrap();
    let path = "packages/00/11/idna-1.tar.gz";
    let named = format!("blob {blob} is missing; named by pypi@1 {path}, pypi@2 {path}");
    for data in [false, true] {
        assert_eq!(shown(&world, data), [named.as_str()]);
    }
}

#[test]
fn a_truncated_blob() {
    let (world, _) = whole();
    let blob = blob_of("six-2.tar.gz");
    replace(&world, blob, b"bytes");
    let named = format!("blob {blob} has 5 bytes instead of 21; named by pypi@2 packages/00/11/six-2.tar.gz");
    assert_eq!(shown(&world, false), [named]);
}

#[test]
fn a_flipped_bit_in_a_blob_is_found_by_reading_it() {
    let (world, _) = whole();
    let blob = blob_of("six-1.tar.gz");
    let mut bytes = world.store.read_blob(blob).unwrap();
    bytes[3] ^= 1;
    replace(&world, blob, &bytes);
    assert_eq!(shown(&world, false), [""; 0], "the size is right");
    let named = format!("blob {blob} has other bytes than its name says; named by pypi@1 packages/00/11/six-1.tar.gz");
    assert_eq!(shown(&world, true), [named]);
    assert!(world.store.read_blob(blob).unwrap_err().to_string().contains("cannot use the damaged blob"));
}

#[test]
fn a_blob_whose_row_is_gone_or_another() {
    let (world, _) = whole();
    let blob = blob_of("six-1.tar.gz");
    world.sql().execute("DELETE FROM blob WHERE blake3 = ?1", [blob.as_bytes()]).unwrap();
    let named = "named by pypi@1 packages/00/11/six-1.tar.gz";
    assert_eq!(shown(&world, false), [format!("blob {blob} is not in the catalog; {named}")]);

    let row = "INSERT INTO blob (blake3, sha256, size, mtime, public) VALUES (?1, ?2, 21, 7, 1)";
    world.sql().execute(row, (blob.as_bytes(), Sha256::of(b"other").as_bytes())).unwrap();
    assert_eq!(shown(&world, false), [format!("blob {blob} has another SHA-256 or size in the catalog; {named}")]);
}

#[test]
fn a_unit_that_is_gone() {
    let (world, second) = whole();
    let unit = world.store.find(second.snapshot(), &project("idna")).unwrap().unwrap().unit.unwrap();
    world.sql().execute("DELETE FROM body WHERE id = ?1", [unit.as_bytes()]).unwrap();
    assert_eq!(shown(&world, false), [format!("body {unit} is missing; it is idna; named by pypi@1, pypi@2")]);
    assert!(matches!(world.store.unit(unit), Err(StoreError::Damaged { id, .. }) if id == unit));
}

#[test]
fn a_flipped_byte_in_a_body() {
    let (world, second) = whole();
    let unit = world.store.find(second.snapshot(), &project("six")).unwrap().unwrap().unit.unwrap();
    // The last byte belongs to the end of the compressed stream or its last block; either way it is another body.
    spoil(&world, unit, "packed = CAST(substr(packed, 1, 20) || x'55' || substr(packed, 22) AS BLOB)");
    let damage = report(&world, false).damage;
    assert_eq!(damage.len(), 3, "the unit and both parts of its record are one pack: {damage:?}");
    assert!(damage.iter().any(|damage| matches!(damage, Damage::Body { id, .. } if *id == unit)), "{damage:?}");
    for damage in damage {
        assert!(
            matches!(&damage, Damage::Body { problem, .. } if problem.starts_with("is damaged"))
                && damage.to_string().ends_with("; it is six; named by pypi@2"),
            "{damage}"
        );
    }
}

#[test]
fn a_body_that_claims_to_be_what_it_is_not() {
    // Sizes are in bytes of seven bits, the lowest first: one more, none, 2^63 - 1, 2^64 - 1, no end, no body, two bodies.
    let sizes = [
        "CAST(sizes || x'01' AS BLOB)",
        "x'00'",
        "x'ffffffffffffffff7f'",
        "x'ffffffffffffffffff01'",
        "x'ff'",
        "x''",
        "x'0101'",
    ];
    let sizes = sizes.map(|sizes| format!("sizes = {sizes}"));
    for how in sizes.iter().map(String::as_str).chain(["packed = x''", "packed = x'ff'", "reference = 4711"]) {
        let (world, second) = whole();
        let tree = second.snapshot().tree;
        spoil(&world, tree, how);
        let shown = shown(&world, false);
        assert_eq!(shown.len(), 1, "{how}: {shown:?}");
        assert!(shown[0].starts_with(&format!("body {tree} is damaged: ")), "{how}: {shown:?}");
        assert!(shown[0].ends_with("; named by pypi@2"), "{how}: {shown:?}");
    }
}

/// Later bodies are packed against earlier ones, so a damaged one damages those, too. The unit is of many files, so that one of
/// another version resembles it.
#[test]
fn a_body_that_others_are_packed_against() {
    let world = Opened::new();
    let files: Vec<_> = (0..40).map(|number| format!("six-{number}.tar.gz")).collect();
    let version = |count: usize| {
        let files: Vec<_> = files[..count].iter().map(String::as_str).collect();
        [
            ("six", Some(content("six", &count.to_string(), &files))),
            ("idna", Some(content("idna", &count.to_string(), &[]))),
        ]
    };
    // Of each version the unit and both parts of its record, which are one pack.
    let packs: Vec<_> = (0_u64..3)
        .map(|serial| {
            let recorded = world.record("pypi", serial + 1, &version(36 + usize::try_from(serial).unwrap()));
            let leaf = world.store.find(recorded.snapshot(), &project("six")).unwrap().unwrap();
            let RecordId { told, seen } = leaf.record.unwrap();
            [told, seen, leaf.unit.unwrap()]
        })
        .collect();
    assert_eq!(shown(&world, true), [""; 0]);
    let whole: Vec<_> = packs[0].map(|id| (id, world.store.body(id).unwrap())).into();
    spoil(&world, packs[0][2], "packed = x'00'");
    let problems =
        ["its pack does not unpack", "the reference of its pack is damaged", "the reference of its pack is damaged"];
    let mut expected = Vec::new();
    for ((ids, problem), serial) in packs.iter().zip(problems).zip(1..) {
        expected
            .extend(ids.iter().map(|id| format!("body {id} is damaged: {problem}; it is six; named by pypi@{serial}")));
    }
    let mut found = shown(&world, false);
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    let restore = |lost: Vec<(Blake3, Vec<u8>)>| world.lock("pypi").restore_bodies(lost).unwrap();
    assert!(!restore(vec![(packs[1][2], whole[2].1.clone())]), "it is another one");
    assert!(restore(whole));
    assert_eq!(shown(&world, true), [""; 0], "what is packed against it can be read again");
}

#[test]
fn a_snapshot_that_is_damaged_does_not_hide_the_others() {
    let (world, second) = whole();
    spoil(&world, second.id(), "packed = x'00'");
    let blob = blob_of("six-1.tar.gz");
    fs::remove_file(world.store.blob_path(blob)).unwrap();
    let shown = shown(&world, true);
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown[0].starts_with(&format!("body {} is damaged", second.id())), "{shown:?}");
    assert!(shown[0].ends_with("named by pypi@2"), "{shown:?}");
    assert_eq!(shown[1], format!("blob {blob} is missing; named by pypi@1 packages/00/11/six-1.tar.gz"));
}
