//! Whatever is packed in whatever order comes back, and what is damaged is an error.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proptest::prelude::*;
use rusqlite::Connection;
use strandline_durable::Disk;

use super::*;
use crate::gc::packs::Bodies as Going;
use crate::{Store, StoreError};

struct Opened {
    store: Arc<Store>,
    _directory: tempfile::TempDir,
}

fn opened() -> Opened {
    let directory = tempfile::tempdir().unwrap();
    Opened { store: Store::open(directory.path(), Disk::new()).unwrap(), _directory: directory }
}

impl Opened {
    /// Work that is committed.
    fn write(&self, work: impl FnOnce(&Bodies<'_>) -> Result<(), StoreError>) {
        self.store.transaction(|transaction| work(&Bodies { store: &self.store, connection: transaction })).unwrap();
    }

    fn put(&self, bodies: &[&[u8]], like: Option<Blake3>) -> Vec<Blake3> {
        let bodies: Vec<_> = bodies.iter().map(|bytes| (Blake3::of(bytes), bytes.to_vec())).collect();
        let ids = bodies.iter().map(|(id, _)| *id).collect();
        self.write(|all| all.write_packs([NewPack { bodies, like }]));
        ids
    }

    fn number(&self, query: &str) -> i64 {
        self.store.connection().query_row(query, [], |row| row.get(0)).unwrap()
    }

    /// The pack of a body.
    fn pack(&self, id: Blake3) -> i64 {
        self.store.reading(|bodies| bodies.place(id)).unwrap().pack
    }

    fn reference(&self, id: Blake3) -> Option<i64> {
        let query = "SELECT reference FROM pack WHERE number = ?1";
        let pack = self.pack(id);
        self.store.connection().query_row(query, [pack], |row| row.get(0)).unwrap()
    }

    fn spoil(&self, id: Blake3, how: &str) {
        let pack = self.pack(id);
        let connection = self.store.connection();
        connection.execute_batch("DROP TRIGGER IF EXISTS pack_is_immutable").unwrap();
        assert_eq!(connection.execute(&format!("UPDATE pack SET {how} WHERE number = ?1"), [pack]).unwrap(), 1);
    }

    fn is_damaged(&self, id: Blake3) -> bool {
        match self.store.body(id) {
            Ok(bytes) => {
                assert_eq!(Blake3::of(&bytes), id);
                false
            }
            Err(StoreError::Damaged { id: named, .. }) => {
                assert_eq!(named, id);
                true
            }
            Err(error) => unreachable!("{error}"),
        }
    }
}

/// Lines of digests, as a unit or a leaf has them, of which a version changes one.
fn digests(family: u8, lines: usize, version: u8) -> Vec<u8> {
    let line = |number: usize| {
        let version = if number == usize::from(version) % lines.max(1) { version } else { 0 };
        format!("{} {number} of {family}\n", Blake3::of(&[family, version, number.to_le_bytes()[0]]))
    };
    (0..lines).map(line).collect::<String>().into_bytes()
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => (0_u8..3, 0_usize..60, 0_u8..20).prop_map(|(family, lines, version)| digests(family, lines, version)),
        1 => (0_usize..400_000, any::<u8>()).prop_map(|(size, byte)| vec![byte; size]),
        1 => prop::collection::vec(any::<u8>(), 0..2_000),
        // What zstd would take for a dictionary in its own form.
        1 => prop::collection::vec(any::<u8>(), 0..2_000)
            .prop_map(|rest| [&0xec30_a437_u32.to_le_bytes()[..], &rest[..]].concat()),
    ]
}

/// A pack: its bodies, and which of all that were written it is like (one that is not there for a great number).
fn packs() -> impl Strategy<Value = Vec<(Vec<Vec<u8>>, Option<prop::sample::Index>)>> {
    let pack = (prop::collection::vec(bytes(), 0..4), prop::option::weighted(0.8, any::<prop::sample::Index>()));
    prop::collection::vec(pack, 1..40)
}

/// Every body reads back, one by one, all at once, and in the middle of a transaction.
fn assert_whole(opened: &Opened, all: &BTreeMap<Blake3, Vec<u8>>) {
    let ids: Vec<_> = all.keys().copied().collect();
    for (id, bytes) in all {
        assert_eq!(opened.store.body(*id).unwrap(), *bytes);
    }
    for some in [&ids[..], &ids[..ids.len().min(9)]] {
        let read = opened.store.reading(|bodies| Ok(bodies.each(some, |_, bytes| Ok(bytes.to_vec())))).unwrap();
        assert!(read.into_iter().map(Result::unwrap).eq(some.iter().map(|id| all[id].clone())));
    }
    let deep = "SELECT count(*) FROM pack p JOIN pack r ON r.number = p.reference WHERE r.reference IS NOT NULL";
    assert_eq!(opened.number(deep), 0, "a reference has none");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_back_also_when_others_are_gone(
        packs in packs(), at_once in 1_usize..40, stay in prop::collection::vec(any::<bool>(), 64),
    ) {
        let opened = opened();
        let mut all: BTreeMap<Blake3, Vec<u8>> = BTreeMap::new();
        let mut written = vec![Blake3::of(b"a body that is not there")];
        for some in packs.chunks(at_once) {
            let some: Vec<_> = some.iter().map(|(bodies, like)| NewPack {
                bodies: bodies.iter().map(|bytes| (Blake3::of(bytes), bytes.clone())).collect(),
                like: like.as_ref().map(|index| *index.get(&written)),
            }).collect();
            let new: Vec<_> = some.iter().flat_map(|pack| pack.bodies.clone()).collect();
            opened.write(|bodies| bodies.write_packs(some));
            written.extend(new.iter().map(|(id, _)| *id));
            all.extend(new);
        }
        assert_whole(&opened, &all);
        prop_assert_eq!(opened.number("SELECT count(*) FROM body"), i64::try_from(all.len()).unwrap(), "each is stored once");
        let with_bodies = opened.number("SELECT count(DISTINCT pack) FROM body");
        prop_assert_eq!(opened.number("SELECT count(*) FROM pack"), with_bodies, "no pack is without bodies");

        // gc plans; then comes one more, and one that was to go is needed again.
        let stays: HashMap<_, _> = all.keys().copied().zip(stay.into_iter().cycle()).collect();
        let mut going = Going::find(&opened.store.connection(), |id| stays[id]).unwrap();
        let again = all.keys().find(|id| !stays[id]).copied();
        let like = all.keys().last().copied();
        let late = opened.put(&[&digests(1, 50, 99)], like)[0];
        opened.write(|bodies| {
            let marked = |id: &Blake3| stays.get(id) == Some(&true) || Some(*id) == again;
            going.keep_marked(bodies.connection, marked).and_then(|()| going.delete(bodies.connection)).unwrap();
            Ok(())
        });
        all.retain(|id, _| stays[id] || Some(*id) == again);
        all.insert(late, digests(1, 50, 99));
        assert_whole(&opened, &all);
        prop_assert_eq!(opened.number("SELECT count(*) FROM body"), i64::try_from(all.len()).unwrap());

        // The next collection finds what was needed for what came between.
        let going = Going::find(&opened.store.connection(), |id| all.contains_key(id)).unwrap();
        opened.write(|bodies| {
            going.delete(bodies.connection).unwrap();
            Ok(())
        });
        assert_whole(&opened, &all);
        let needless = "SELECT count(*) FROM pack p WHERE NOT EXISTS (SELECT 1 FROM body WHERE pack = p.number)
            AND NOT EXISTS (SELECT 1 FROM pack WHERE reference = p.number)";
        prop_assert_eq!(opened.number(needless), 0);
    }
}

#[test]
fn what_resembles_an_earlier_body_takes_what_differs() {
    let opened = opened();
    let size = |id| {
        let query = "SELECT length(packed) FROM pack WHERE number = ?1";
        let pack = opened.pack(id);
        opened.store.connection().query_row(query, [pack], |row| row.get::<_, i64>(0)).unwrap()
    };
    let three = |version| [0, 1, 2].map(|family| digests(family, 200, version));
    let put = |version, like| {
        let three = three(version);
        opened.put(&three.each_ref().map(|bytes| &bytes[..]), like)
    };
    let first = put(0, None);
    let second = put(1, Some(first[2]));
    let third = put(2, Some(second[0]));
    let number = opened.pack(first[0]);
    assert!(first.iter().all(|id| opened.pack(*id) == number && opened.reference(*id).is_none()));
    for later in [&second, &third] {
        assert!(later.iter().all(|id| opened.reference(*id) == Some(number)), "the reference of what it is like");
        assert!(size(later[0]) < 400 && size(first[0]) > 15_000, "{} and {}", size(later[0]), size(first[0]));
    }
    // A body that is there stays where it is, and the others are stored without it.
    let bodies = [digests(0, 200, 1), digests(7, 30, 0)];
    let mixed = opened.put(&[&bodies[0], &bodies[1], &bodies[1]], Some(third[0]));
    assert_eq!(opened.pack(mixed[0]), opened.pack(second[0]));
    assert_eq!((opened.store.body(mixed[1]).unwrap(), opened.reference(mixed[1])), (bodies[1].clone(), None));
    assert_eq!(opened.number("SELECT count(*) FROM pack"), 4);
}

/// A reference stands further back than zstd's window reaches that it has without one.
#[test]
fn a_digest_anywhere_in_a_large_reference_costs_a_few_bytes() {
    let opened = opened();
    let lines = |swapped: usize| {
        let line = |number: usize| format!("{}\n", Blake3::of(&((number + swapped) % 60_000).to_le_bytes()));
        (0..60_000).map(line).collect::<String>().into_bytes()
    };
    let (before, after) = (lines(0), lines(59_000));
    let before = opened.put(&[&before], None)[0];
    let id = opened.put(&[&after], Some(before))[0];
    assert_eq!(opened.reference(id), Some(opened.pack(before)));
    let packed = opened.number("SELECT sum(length(packed)) FROM pack WHERE reference IS NOT NULL");
    assert!(packed < 40_000, "{packed} of {}", after.len());
    assert_eq!(opened.store.body(id).unwrap(), after);
}

#[test]
fn a_damaged_pack_damages_what_is_packed_against_it_until_it_is_restored() {
    let unit = |version| digests(1, 100, version);
    for how in ["packed = x'00'", "packed = CAST(substr(packed, 1, 99) AS BLOB)"] {
        let opened = opened();
        let first = opened.put(&[&unit(0)], None)[0];
        let later: Vec<_> = (1..30).map(|version| opened.put(&[&unit(version)], Some(first))[0]).collect();
        let other = opened.put(&[b"another"], None)[0];
        opened.spoil(first, how);
        let all: Vec<_> = later.iter().copied().chain([first, other]).collect();
        let read = opened.store.reading(|bodies| Ok(bodies.each(&all, |_, _| Ok(())))).unwrap();
        let damaged = |read: &Result<(), StoreError>| matches!(read, Err(StoreError::Damaged { .. }));
        assert_eq!(read.iter().map(damaged).collect::<Vec<_>>(), [vec![true; 30], vec![false]].concat(), "{how}");
        // What comes now is not packed against it.
        let next = opened.put(&[&unit(40)], Some(later[0]))[0];
        assert!(opened.reference(next).is_none() && !opened.is_damaged(next), "{how}");

        // One of those that are packed against it: the others stay as they are.
        opened.write(|bodies| bodies.restore(vec![(later[3], unit(4))]));
        assert!(!opened.is_damaged(later[3]) && opened.is_damaged(later[4]), "{how}");
        opened.write(|bodies| bodies.restore(vec![(first, unit(0))]));
        assert!(all.iter().all(|id| !opened.is_damaged(*id)), "{how}");
    }
}

#[test]
fn a_pack_that_cannot_be_made_again_as_it_was_stays_and_what_was_restored_gets_another() {
    let three = |version| [0, 1, 2].map(|family| digests(family, 60, version));
    let bytes = three(0);
    for (lost, dropped, in_place) in [(3, 0, true), (2, 0, false), (3, 1, false), (1, 0, false)] {
        let opened = opened();
        let ids = opened.put(&bytes.each_ref().map(|bytes| &bytes[..]), None);
        let like = opened.put(&three(1).each_ref().map(|bytes| &bytes[..]), Some(ids[0]));
        assert!(opened.reference(like[0]).is_some());
        let number = opened.pack(ids[0]);
        opened.spoil(ids[0], "packed = x'28b52ffd00'");
        let drop = "DELETE FROM body WHERE id = ?1";
        for id in ids.iter().rev().take(dropped) {
            assert_eq!(opened.store.connection().execute(drop, [id.as_bytes()]).unwrap(), 1);
        }
        let found: Vec<_> = ids.iter().copied().zip(bytes.clone()).take(lost - dropped).collect();
        opened.write(|bodies| bodies.restore(found.clone()));
        assert!(found.iter().all(|(id, _)| !opened.is_damaged(*id)));
        assert_eq!(opened.pack(ids[0]) == number, in_place);
        assert!(like.iter().all(|id| opened.is_damaged(*id) != in_place));
    }
    // A body that is there without the others of its pack is enough, if they can be read.
    let opened = opened();
    let ids = opened.put(&bytes.each_ref().map(|bytes| &bytes[..]), None);
    opened.write(|all| all.restore(vec![(ids[1], bytes[1].clone())]));
    assert!(ids.iter().all(|id| !opened.is_damaged(*id)));
    // A pack that says other sizes is damaged as a whole, and how many bodies it had is not known any more.
    opened.spoil(ids[0], "sizes = x'00'");
    assert!(ids.iter().all(|id| opened.is_damaged(*id)));
    let number = opened.pack(ids[0]);
    opened.write(|all| all.restore(ids.iter().copied().zip(bytes.clone()).collect()));
    assert!(ids.iter().all(|id| !opened.is_damaged(*id) && opened.pack(*id) != number));
    // One whose row is gone.
    opened.store.connection().execute("DELETE FROM body WHERE id = ?1", [ids[1].as_bytes()]).unwrap();
    assert!(opened.is_damaged(ids[1]));
    opened.write(|all| all.restore(vec![(ids[1], bytes[1].clone())]));
    assert!(ids.iter().all(|id| !opened.is_damaged(*id)));
}

fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Flips and other numbers in every column that says what a pack is.
#[test]
fn thousands_of_damages_are_errors_or_nothing() {
    let opened = opened();
    let mut ids = opened.put(&[&digests(0, 40, 0), &digests(1, 40, 0), &digests(2, 9, 0)], None);
    ids.extend(opened.put(&[&digests(0, 40, 1), &digests(1, 40, 1), &digests(2, 9, 1)], Some(ids[0])));
    ids.extend(opened.put(&[&vec![7; 300_000]], None));
    let packs = [ids[0], ids[3], ids[6]].map(|id| opened.pack(id));
    assert_eq!(opened.reference(ids[3]), Some(packs[0]));
    let before = peak();
    let (mut random, mut errors) = (0_u64, 0);
    let mut next = |below: usize| {
        random += 1;
        let drawn = Blake3::of(&random.to_le_bytes());
        usize::from_le_bytes(*drawn.as_bytes().first_chunk().unwrap()) % below
    };
    let spoil = |connection: &Connection, next: &mut dyn FnMut(usize) -> usize| {
        let pack = packs[next(3)];
        let column = ["sizes", "packed", "packed", "packed"][next(4)];
        let query = format!("SELECT {column} FROM pack WHERE number = ?1");
        let mut bytes: Vec<u8> = connection.query_row(&query, [pack], |row| row.get(0)).unwrap();
        let place = next(bytes.len());
        match next(8) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place, next(256).to_le_bytes()[0]),
            // The first bytes say what the rest is.
            2 | 3 => bytes[place.min(next(9))] = next(256).to_le_bytes()[0],
            _ => bytes[place] ^= 1 << next(8),
        }
        connection.execute(&format!("UPDATE pack SET {column} = ?2 WHERE number = ?1"), (pack, bytes)).unwrap();
        match next(16) {
            0 => {
                connection.execute("UPDATE pack SET reference = ?2 WHERE number = ?1", (pack, packs[next(3)])).unwrap()
            }
            1 => connection.execute("UPDATE body SET position = ?1 - 5", [i64::try_from(next(16)).unwrap()]).unwrap(),
            2 => connection.execute("UPDATE body SET pack = ?1", [i64::try_from(next(5)).unwrap()]).unwrap(),
            _ => 0,
        }
    };
    for _ in 0..4_000 {
        let undone: Result<(), StoreError> = opened.store.transaction(|transaction| {
            transaction.execute_batch("DROP TRIGGER pack_is_immutable; DROP TRIGGER body_is_immutable").unwrap();
            spoil(transaction, &mut next);
            let bodies = Bodies { store: &opened.store, connection: transaction };
            for id in &ids {
                match bodies.read(*id) {
                    Ok(bytes) => assert_eq!(Blake3::of(&bytes), *id),
                    Err(StoreError::Damaged { .. }) => errors += 1,
                    Err(error) => unreachable!("{error}"),
                }
            }
            drop(bodies.each(&ids, |_, _| Ok(())));
            bodies.write(Blake3::of(b"new"), b"new".to_vec(), Some(ids[3])).unwrap();
            assert_eq!(bodies.read(Blake3::of(b"new")).unwrap(), b"new");
            Err(StoreError::Damaged { id: ids[0], problem: "is to be undone".to_owned() })
        });
        undone.unwrap_err();
    }
    assert!(errors > 4_000, "{errors} of 28,000 are errors");
    assert!(peak() - before < 256 << 20, "{} bytes", peak() - before);
    assert!(ids.iter().all(|id| !opened.is_damaged(*id)));
}

#[test]
fn sizes_are_read_as_they_are_written() {
    for lengths in [&[][..], &[0], &[127, 128, 0, 16_383, 16_384, 3_000_000]] {
        let bytes: Vec<_> = lengths.iter().map(|length| vec![0; *length]).collect();
        let found = ranges(&sizes(bytes.iter().map(|bytes| &bytes[..]))).unwrap();
        assert_eq!(found.iter().map(Range::len).collect::<Vec<_>>(), lengths);
    }
    // No end; more than there can be, alone and together.
    for bad in [&[0x80][..], &[5, 0xff], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]] {
        assert_eq!(ranges(bad), None, "{bad:?}");
    }
    let most = [&[0xff; 8][..], &[0x7f]].concat();
    assert_eq!(ranges(&most.repeat(2)).map(|ranges| ranges.len()), Some(2));
    assert_eq!(ranges(&most.repeat(3)), None);
}
