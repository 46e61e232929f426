//! A catalog of any size, with nothing on the disk beside it: for what looks at the catalog alone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use rusqlite::Connection;
use strandline_durable::Disk;
use strandline_model::{
    Blake3, DisplayName, Entry, FileName, Follow, Form, Inputs, Method, ProjectName, Record, Seen, SeenFile, Serial,
    Sha256, Source, Timestamp, Told, ToldFile, Unit,
};
use strandline_store::{Conclusion, Draft, DraftUnit, Locked, Recorded, Store, Wait};

use crate::bare::Failure;

/// How many units are written in one transaction.
const AT_ONCE: u64 = 1_000;
/// The size of every file, in bytes.
const SIZE: u64 = 1_000;
/// How many units the second snapshot changes.
const CHANGED: u64 = 3_000;

/// What one file is.
fn entry(unit: u64, file: u64) -> Result<Entry, Failure> {
    let name = format!("{unit} {file}");
    let (blob, sha256) = (Blake3::of(name.as_bytes()), Sha256::of(name.as_bytes()));
    let hex = blob.to_string();
    let path = format!("packages/{}/{}/{}/project_{unit:07}-1.{file}.tar.gz", &hex[..2], &hex[2..4], &hex[4..]);
    Ok(Entry { path: path.parse()?, blob, sha256, size: SIZE })
}

fn unit(number: u64, files: Range<u64>) -> Result<DraftUnit, Failure> {
    let display: DisplayName = format!("project-{number:07}").parse()?;
    let (name, serial) = (display.normalise(), Serial::try_from(number + 1)?);
    let entries = files.map(|file| entry(number, file)).collect::<Result<Vec<_>, _>>()?;
    let bodies = record(&display, &entries)?.to_bodies();
    let record = bodies.id();
    let unit = Some(Unit::new(name, Source { record, serial, renderer: 1 }, entries)?);
    Ok(DraftUnit { unit, record, bodies: vec![bodies], serial, display, listed: true, logged: true })
}

/// What upstream says of a project of these files.
fn record(display: &DisplayName, entries: &[Entry]) -> Result<Record, Failure> {
    let name = display.normalise();
    let (mut told, mut seen) = (BTreeMap::new(), BTreeMap::new());
    for Entry { path, sha256, size, .. } in entries {
        let file = FileName::of(&name, path.file_name())?;
        let upload_time = Some("2026-01-01T12:00:00.123456Z".parse()?);
        let sha256 = (*sha256).into();
        told.insert(file.clone(), ToldFile { size: Some(*size), upload_time, ..ToldFile::of(sha256) });
        let url = Some(format!("http://127.0.0.1:1/{path}"));
        let requires_python = Some(">=3.9".to_owned());
        seen.insert(file, SeenFile { requires_python, ..SeenFile::at(url) });
    }
    let versions = vec!["1".to_owned()];
    let seen = Seen { versions, files: seen, ..Seen::of(display.clone(), Form::Json) };
    Ok(Record::new(Told { name, quarantined: false, files: told }, seen)?)
}

/// Fills a new store with two snapshots of so many units of so many files, each of which has its row and no bytes. The second
/// one lacks the first file of 3,000 units, or of all if there are fewer, which lie apart.
pub fn fill(directory: &Path, units: u64, files: u64) -> Result<(), Failure> {
    let now = Timestamp::from_seconds(1_767_268_800)?;
    let store = Store::open(directory, Disk::new())?;
    let mirror = store.lock(&"pypi".parse()?, Wait::Never, now)?;
    let mut leaves = Vec::new();
    let mut blobs: Vec<(Blake3, Sha256)> = Vec::new();
    for begin in (0..units).step_by(usize::try_from(AT_ONCE)?) {
        let mut pages = Vec::new();
        for number in begin..units.min(begin + AT_ONCE) {
            let draft = unit(number, 0..files)?;
            let entries = draft.unit.iter().flat_map(Unit::entries);
            blobs.extend(entries.map(|entry| (entry.blob, entry.sha256)));
            leaves.push(draft.leaf());
            pages.push((draft, None));
        }
        mirror.record_seen(pages)?;
    }
    blobs.sort_unstable();
    insert(&directory.join("catalog.db"), &blobs)?;
    drop(blobs);
    let first = Draft { stored: leaves, ..draft(None, Serial::try_from(units)?, now, BTreeMap::new())? };
    commit(&mirror, directory, first)?;
    mirror.conclude(&Conclusion::default())?;

    let apart = usize::try_from((units / CHANGED).max(1))?;
    let changed = (0..units).step_by(apart).zip(1..=CHANGED);
    let changes = changed.map(|(number, after)| {
        let lesser = DraftUnit { serial: Serial::try_from(units + after)?, ..unit(number, 1..files)? };
        Ok((lesser.display.normalise(), Some(lesser)))
    });
    let changes: BTreeMap<_, _> = changes.collect::<Result<_, Failure>>()?;
    let serial = Serial::try_from(units + u64::try_from(changes.len())?)?;
    let base = mirror.latest_verified()?;
    commit(&mirror, directory, draft(base, serial, now, changes)?)
}

/// A draft with these changes, and with nothing beside them.
fn draft(
    base: Option<Recorded>,
    serial: Serial,
    time: Timestamp,
    changes: BTreeMap<ProjectName, Option<DraftUnit>>,
) -> Result<Draft, Failure> {
    Ok(Draft {
        base,
        serial,
        counted: false,
        time,
        upstream: "http://127.0.0.1:1/simple/".parse()?,
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
    })
}

/// Commits a snapshot and notes that it is verified: its files are not there, so it cannot pass as that in the usual way.
fn commit(mirror: &Locked, directory: &Path, draft: Draft) -> Result<(), Failure> {
    drop(mirror.commit(draft, |_, _| Vec::new())?);
    Connection::open(directory.join("catalog.db"))?.execute("UPDATE snapshot SET verified = 1", [])?;
    Ok(())
}

/// Adds the rows of blobs, which are sorted: the index is made when all of them are there.
fn insert(catalog: &Path, blobs: &[(Blake3, Sha256)]) -> Result<(), Failure> {
    let mut connection = Connection::open(catalog)?;
    let index: String =
        connection.query_row("SELECT sql FROM sqlite_schema WHERE name = 'blob_sha256'", [], |row| row.get(0))?;
    let transaction = connection.transaction()?;
    transaction.execute_batch("DROP INDEX blob_sha256")?;
    {
        let mut statement =
            transaction.prepare("INSERT INTO blob (blake3, sha256, size, mtime, public) VALUES (?1, ?2, ?3, ?4, 1)")?;
        for (number, (blake3, sha256)) in (1_000_000_000_u64..).zip(blobs) {
            statement.execute((blake3.as_bytes(), sha256.as_bytes(), SIZE, number))?;
        }
    }
    transaction.execute_batch(&index)?;
    transaction.commit()?;
    Ok(())
}

/// Notes that the file of every blob may be gone: a check of such a catalog looks for none.
pub fn expect_no_files(directory: &Path) -> Result<(), Failure> {
    Connection::open(directory.join("catalog.db"))?.execute("UPDATE blob SET deleting = 1", [])?;
    Ok(())
}
