//! Invariant 1: a blob's name is the BLAKE3 of its bytes, nothing else gets that name, and what is not what was
//! claimed leaves nothing behind. And no two blobs ever have the same time of modification.
#![expect(clippy::disallowed_methods, reason = "the tests make what a crash leaves")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;

use proptest::prelude::*;
use strandline_durable::Disk;
use strandline_model::{Blake3, ClaimedSha256, Sha256};
use strandline_store::{Access, Blob, Intake, ReceiveError, Staged, Store, Wait};

use crate::support::{Opened, mirror, time};

fn claim(bytes: &[u8]) -> ClaimedSha256 {
    Sha256::of(bytes).into()
}

/// Streams `bytes` in two pieces.
fn receive(
    intake: &Intake,
    bytes: &[u8],
    claim: Option<ClaimedSha256>,
    size: Option<u64>,
    most: u64,
) -> Result<Staged, ReceiveError> {
    let mut incoming = intake.receive(claim, size, most)?;
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    incoming.write(first)?;
    incoming.write(rest)?;
    incoming.finish()
}

#[test]
fn bytes_become_a_blob_under_their_own_name() {
    let world = Opened::new();
    let intake = world.intake("pypi");
    let staged = receive(&intake, b"some bytes", Some(claim(b"some bytes")), Some(10), 10).unwrap();
    assert_eq!(world.blobs(), BTreeSet::new(), "not before it is durable");
    let blob = intake.land(vec![staged]).unwrap()[0];
    assert_eq!((blob.blake3, blob.sha256, blob.size), (Blake3::of(b"some bytes"), Sha256::of(b"some bytes"), 10));

    let path = world.store.blob_path(blob.blake3);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"some bytes");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o444);
    assert_eq!(u64::try_from(metadata.mtime()).unwrap(), blob.mtime);
    assert_eq!(world.store.read_blob(blob.blake3).unwrap(), b"some bytes");
    drop(intake);
    assert_eq!(world.intake("pypi").find(claim(b"some bytes")).unwrap(), Some(blob));
    assert_eq!(world.intake("pypi").find(claim(b"other")).unwrap(), None);
    assert_eq!(world.incoming(), 0);
}

#[test]
fn what_is_not_what_was_claimed_leaves_nothing() {
    let world = Opened::new();
    let intake = world.intake("pypi");
    let refused = |bytes: &[u8], claim: Option<ClaimedSha256>, size, most| {
        let error = receive(&intake, bytes, claim, size, most).unwrap_err().to_string();
        assert_eq!((world.incoming(), world.blobs().len()), (0, 0), "{error}");
        error
    };
    assert_eq!(refused(b"12345", None, Some(4), 100), "expected 4 bytes, got more");
    assert_eq!(refused(b"12345", None, Some(6), 100), "expected 6 bytes, got 5");
    assert_eq!(refused(b"", None, Some(1), 100), "expected 1 bytes, got 0");
    let over = "it is larger than the limit of 4 bytes (`max-file-size`, or what is free beside `min-free`)";
    assert_eq!(refused(b"12345", None, None, 4), over);
    assert_eq!(refused(b"12345", Some(claim(b"12345")), Some(5), 4), over);
    let wrong = refused(b"12345", Some(claim(b"54321")), Some(5), 100);
    assert_eq!(wrong, format!("expected sha256 {}, got {}", Sha256::of(b"54321"), Sha256::of(b"12345")));
    // None of it stands in the way of the right bytes.
    let staged = receive(&intake, b"12345", Some(claim(b"12345")), Some(5), 5).unwrap();
    assert_eq!(intake.land(vec![staged]).unwrap()[0].size, 5);
}

#[test]
fn too_much_is_noticed_while_it_comes() {
    let world = Opened::new();
    let intake = world.intake("pypi");
    let mut incoming = intake.receive(None, Some(4), 100).unwrap();
    incoming.write(b"1234").unwrap();
    assert!(matches!(incoming.write(b"5"), Err(ReceiveError::TooLong { expected: 4 })));
    assert_eq!(world.incoming(), 1);
    drop(incoming);
    assert_eq!(world.incoming(), 0, "an abandoned stream leaves nothing");
    assert!(matches!(intake.receive(None, Some(101), 100), Err(ReceiveError::OverLimit { limit: 100 })));
    assert_eq!(world.incoming(), 0, "refused by what is claimed, before the first byte");
}

#[test]
fn the_same_bytes_are_stored_once() {
    let world = Opened::new();
    let intake = world.intake("pypi");
    let stage = |bytes: &[u8]| intake.stage(bytes).unwrap();
    let blobs = intake.land(vec![stage(b"one"), stage(b"two"), stage(b"one")]).unwrap();
    assert_eq!(blobs[0], blobs[2]);
    assert_ne!(blobs[0].mtime, blobs[1].mtime);
    let inode = fs::metadata(world.store.blob_path(blobs[0].blake3)).unwrap().ino();
    let again = intake.land(vec![stage(b"one")]).unwrap()[0];
    assert_eq!(again, blobs[0], "with the time that it had");
    assert_eq!(fs::metadata(world.store.blob_path(again.blake3)).unwrap().ino(), inode, "views may link to it");
    assert_eq!((world.blobs().len(), world.incoming()), (2, 0));
    // Another mirror's bytes are shared.
    let other = world.intake("other");
    let staged = other.stage(b"two").unwrap();
    assert_eq!(other.land(vec![staged]).unwrap()[0], blobs[1]);
}

#[test]
fn an_empty_batch_is_nothing() {
    let world = Opened::new();
    assert_eq!(world.intake("pypi").land(Vec::new()).unwrap(), []);
    assert_eq!(world.ingest(b"").size, 0);
}

/// A crash at every step of landing leaves no blob with a wrong name, and once the store is opened again, no file without
/// a row and no row without a file.
#[test]
fn a_crash_at_every_step_of_a_batch() {
    for many in [3_u8, 20] {
        let land = |store: &Arc<Store>| -> Result<Vec<Blob>, Box<dyn std::error::Error>> {
            let lock = store.lock(&mirror("pypi"), Wait::Never, time(0))?;
            let intake = Intake::open(&lock, Access::Public)?;
            let staged = (0..many).map(|number| intake.stage(&[number; 100])).collect::<Result<_, _>>()?;
            Ok(intake.land(staged)?)
        };
        let counting = Disk::counting();
        let world = Opened::new();
        land(&world.open_on(counting.clone()).unwrap()).unwrap();
        for n in 1..=counting.steps() {
            let world = Opened::new();
            let crashed = world.open_on(Disk::failing_at(n));
            let landed = crashed.and_then(|store| land(&store)).is_ok();
            // The last two are the COMMIT that says that the intake is closed.
            assert_eq!(landed, n + 1 >= counting.steps(), "step {n}");
            for name in world.blobs() {
                let blob: Blake3 = name.parse().unwrap();
                assert_eq!(Blake3::of(&fs::read(world.store.blob_path(blob)).unwrap()), blob, "step {n}");
            }
            drop(world.open());
            let rows: u64 = world.sql().query_row("SELECT count(*) FROM blob", [], |row| row.get(0)).unwrap();
            assert_eq!((world.blobs().len() as u64, world.incoming()), (rows, 0), "step {n}");
            let blobs = land(&world.store).unwrap();
            assert_eq!((world.blobs().len(), world.incoming()), (usize::from(many), 0), "step {n}");
            let times: BTreeSet<_> = blobs.iter().map(|blob| blob.mtime).collect();
            assert_eq!(times.len(), usize::from(many), "step {n}");
            for blob in blobs {
                let metadata = fs::metadata(world.store.blob_path(blob.blake3)).unwrap();
                assert_eq!(u64::try_from(metadata.mtime()).unwrap(), blob.mtime, "step {n}");
            }
        }
    }
}

#[test]
fn a_file_of_another_size_under_the_name_is_not_adopted() {
    let world = Opened::new();
    let path = world.store.blob_path(Blake3::of(b"whole"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"who").unwrap();
    let intake = world.intake("pypi");
    let staged = intake.stage(b"whole").unwrap();
    let error = intake.land(vec![staged]).unwrap_err();
    assert!(error.to_string().contains("cannot use the blob"), "{error}");
    drop(intake);
    assert_eq!(world.intake("pypi").find(claim(b"whole")).unwrap(), None);
    assert!(world.store.read_blob(Blake3::of(b"whole")).is_err());
}

#[test]
fn opening_the_intake_removes_what_an_earlier_sync_left() {
    let world = Opened::new();
    drop(world.intake("pypi"));
    fs::write(world.root().join("incoming/pypi/0"), "half").unwrap();
    fs::create_dir(world.root().join("incoming/other")).unwrap();
    fs::write(world.root().join("incoming/other/0"), "another mirror's").unwrap();
    drop(world.intake("pypi"));
    assert_eq!(world.incoming(), 1, "what another mirror's sync receives is not touched");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    /// However blobs come in, and whatever else takes times of modification, no two have the same one.
    #[test]
    fn no_two_blobs_share_a_time(batches in prop::collection::vec(
        (prop::collection::vec(0_u16..200, 0..30), 0_u64..5), 1..12,
    )) {
        let world = Opened::new();
        let intake = world.intake("pypi");
        let mut seen = std::collections::BTreeMap::new();
        let mut taken = BTreeSet::new();
        for (batch, others) in batches {
            let staged = batch.iter().map(|number| intake.stage(&number.to_be_bytes()).unwrap()).collect();
            for (number, blob) in batch.iter().zip(intake.land(staged).unwrap()) {
                prop_assert_eq!(*seen.entry(*number).or_insert(blob), blob, "a blob never changes");
            }
            let first = world.store.allocate_mtimes(others).unwrap();
            for mtime in first..first + others {
                prop_assert!(taken.insert(mtime), "given out twice");
            }
        }
        for blob in seen.values() {
            prop_assert!(taken.insert(blob.mtime), "given out twice");
        }
    }
}
