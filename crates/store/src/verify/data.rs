//! Re-hashing blobs: least recently checked first, on all cores, and resumed where it was interrupted.
//!
//! Blobs that were read and found right are recorded in batches (`checked`), with the number that the check has in the
//! store's sequence. A check that is to read everything leaves a row (`data_check`) until it has come to its end; the
//! next one of the same mirrors goes on under its number, and skips the blobs recorded under it or later. Damaged blobs
//! are not recorded: the next check finds them again.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use rayon::prelude::*;
use strandline_model::{Blake3, Timestamp};

use super::{Broken, Named, PRESENT, Report, Row};
use crate::rows::{blake3, execute_each, sha256, time};
use crate::{Limiter, Mirror, Store, StoreError};

/// How many bytes are read before it is recorded that they were.
const BATCH_BYTES: u64 = 256 << 20;
/// How many bytes of a file are read at a time.
const BUFFER: usize = 64 << 10;
/// The number of a check that leaves no trace: later than every other.
const NOT_RECORDED: i64 = i64::MAX;

/// Which blobs are to be read, and how.
#[derive(Debug, Clone, Copy)]
pub struct Data<'a> {
    /// The time now. Without it everything is read, and nothing is recorded.
    pub now: Option<Timestamp>,
    /// Blobs that were checked later than so long ago are passed by.
    pub max_age: Option<Duration>,
    /// Only this share of the blobs is read, between 0 and 1: those whose check is the longest ago.
    pub share: Option<f64>,
    /// Whether a check that was interrupted is begun anew instead of resumed.
    pub restart: bool,
    /// How fast is read at most.
    pub limiter: Option<&'a Limiter>,
    /// How many blobs are read at most before it is recorded that they were.
    pub batch: usize,
}

impl Default for Data<'_> {
    /// Reads everything, and records nothing.
    fn default() -> Self {
        Self { now: None, max_age: None, share: None, restart: false, limiter: None, batch: 4_096 }
    }
}

/// Where a check stands in its order: first what was never checked, by name, then by the number of the last check and name.
enum Place {
    Never(Option<Blake3>),
    Checked(i64, Option<Blake3>),
}

/// Reads the blobs among `named` that are to be read; adds the damaged ones to `broken`.
pub(super) fn check(
    store: &Store,
    mirrors: &[Mirror],
    named: &Named,
    data: &Data<'_>,
    read: &(dyn Fn(u64) + Sync),
    report: &mut Report,
    broken: &mut Broken,
) -> Result<(), StoreError> {
    let whole = data.share.is_none() && data.max_age.is_none();
    let number = begin(store, mirrors, data, whole, report)?;
    let oldest = match (data.now, data.max_age) {
        (Some(now), Some(age)) => now.seconds().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX)),
        _ => i64::MAX,
    };
    let mut most = data.share.map_or(u64::MAX, |share| share_of(named.len(), share));
    let mut place = Place::Never(None);
    let mut recording = number != NOT_RECORDED;
    let mut right = Vec::new();
    loop {
        let batch = if most > 0 { next(store, named, &mut place, (number, oldest), data)? } else { None };
        let mut batch = batch.unwrap_or_default();
        batch.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        most -= batch.len() as u64;
        // A blob that is known to be broken is not read: its row, or the catalog, is wrong.
        let look = |buffer: &mut Vec<u8>, row: &Row| {
            if broken.contains(row.blake3) { None } else { problem(store, row, data.limiter, read, buffer) }
        };
        // The blobs that were read before are recorded meanwhile.
        let (wrong, recorded) = rayon::join(
            || batch.par_iter().map_init(|| vec![0; BUFFER], look).collect::<Vec<_>>(),
            || {
                data.now
                    .filter(|_| recording && !right.is_empty())
                    .map_or(Ok(()), |now| record(store, &right, number, now))
            },
        );
        if let Err(error) = recorded {
            // A check on a full disk is to find the damage all the same.
            tracing::warn!(%error, "the blobs that were re-hashed are not recorded, so the next check reads them again");
            recording = false;
        }
        if batch.is_empty() {
            break;
        }
        right.clear();
        for (row, wrong) in batch.iter().zip(wrong) {
            report.rehashed += 1;
            report.rehashed_bytes += row.size;
            match wrong {
                Some(problem) => broken.add(row.blake3, row.sha256, row.size, problem),
                None => right.push(row.blake3),
            }
        }
    }
    if whole && recording {
        store.execute("DELETE FROM data_check WHERE number = ?1", [number])?;
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share")]
fn share_of(count: u64, share: f64) -> u64 {
    (count as f64 * share.clamp(0.0, 1.0)).ceil() as u64
}

/// The number of this check: that of the one that it resumes, or a new one.
fn begin(
    store: &Store,
    mirrors: &[Mirror],
    data: &Data<'_>,
    whole: bool,
    report: &mut Report,
) -> Result<i64, StoreError> {
    let Some(now) = data.now else { return Ok(NOT_RECORDED) };
    store.settle_checks(now)?;
    let interrupted = if whole { unfinished(store, mirrors)? } else { None };
    if let Some((number, began)) = interrupted.filter(|_| !data.restart) {
        report.resumed = Some(began);
        return Ok(number);
    }
    let begun = store.transaction(|transaction| {
        let number = store.next_in_sequence(transaction)?;
        if whole {
            let record = || {
                // The interrupted one is not resumed any more.
                let forget = "DELETE FROM data_check WHERE number = ?1";
                execute_each(transaction, forget, interrupted, |(number, _)| [number])?;
                transaction.execute("INSERT INTO data_check VALUES (?1, ?2)", (number, now.seconds()))?;
                let of = "INSERT INTO data_check_mirror VALUES (?1, ?2)";
                execute_each(transaction, of, mirrors, |mirror| (number, mirror.number))
            };
            record().map_err(store.sql())?;
        }
        Ok::<_, StoreError>(number)
    });
    match begun {
        Err(StoreError::Catalog { source, .. })
            if matches!(source.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull)) =>
        {
            tracing::warn!("the disk is full: this check is not recorded, and cannot be resumed");
            Ok(NOT_RECORDED)
        }
        begun => begun,
    }
}

/// The check of exactly these mirrors that was interrupted, and when it began.
fn unfinished(store: &Store, mirrors: &[Mirror]) -> Result<Option<(i64, Timestamp)>, StoreError> {
    let wanted: BTreeSet<i64> = mirrors.iter().map(|mirror| mirror.number).collect();
    let checks = store.rows("SELECT number, began FROM data_check ORDER BY number DESC", [], |row| {
        Ok((row.get(0)?, time(row, 1)?))
    })?;
    for (number, began) in checks {
        let of = "SELECT mirror FROM data_check_mirror WHERE number = ?1";
        if store.rows(of, [number], |row| row.get(0))?.into_iter().collect::<BTreeSet<i64>>() == wanted {
            return Ok(Some((number, began)));
        }
    }
    Ok(None)
}

/// The next blobs to read; `None` when there are no more.
fn next(
    store: &Store,
    named: &Named,
    place: &mut Place,
    (number, oldest): (i64, i64),
    data: &Data<'_>,
) -> Result<Option<Vec<Row>>, StoreError> {
    let connection = store.connection();
    loop {
        let after = |last: &Option<Blake3>| last.map_or_else(Vec::new, |blob| blob.as_bytes().to_vec());
        // A check that records nothing takes no notice of earlier ones either: one order, by name.
        let everything = data.now.is_none();
        let (query, values): (String, Vec<rusqlite::types::Value>) = match &*place {
            Place::Never(last) => {
                let unchecked =
                    if everything { "" } else { "AND NOT EXISTS (SELECT 1 FROM checked c WHERE c.blake3 = b.blake3)" };
                let query = format!(
                    "SELECT b.blake3, b.sha256, b.size, 0 FROM blob b WHERE b.blake3 > ?1 AND {PRESENT} {unchecked}
                     ORDER BY b.blake3"
                );
                (query, vec![after(last).into()])
            }
            Place::Checked(of, last) => {
                let query = format!(
                    "SELECT b.blake3, b.sha256, b.size, c.number FROM checked c JOIN blob b ON b.blake3 = c.blake3
                     WHERE (c.number, c.blake3) > (?1, ?2) AND c.number < ?3 AND c.time <= ?4 AND {PRESENT}
                     ORDER BY c.number, c.blake3"
                );
                (query, vec![(*of).into(), after(last).into(), number.into(), oldest.into()])
            }
        };
        let mut batch = Vec::new();
        let mut bytes = 0;
        let gather = || {
            let mut statement = connection.prepare_cached(&query)?;
            let mut rows = statement.query(rusqlite::params_from_iter(values))?;
            while batch.len() < data.batch && bytes < BATCH_BYTES {
                let Some(row) = rows.next()? else { return Ok(true) };
                let blake3 = blake3(row, 0)?;
                *place = match place {
                    Place::Never(_) => Place::Never(Some(blake3)),
                    Place::Checked(..) => Place::Checked(row.get(3)?, Some(blake3)),
                };
                let row = Row { blake3, sha256: sha256(row, 1)?, size: row.get(2)? };
                if named.has(row) {
                    bytes += row.size;
                    batch.push(row);
                }
            }
            Ok(false)
        };
        let ended = gather().map_err(store.sql())?;
        if !batch.is_empty() {
            return Ok(Some(batch));
        }
        match place {
            Place::Never(_) if ended && !everything => *place = Place::Checked(i64::MIN, None),
            _ if ended => return Ok(None),
            _ => {}
        }
    }
}

/// Remembers that these blobs were read and are what they should be.
fn record(store: &Store, right: &[Blake3], number: i64, now: Timestamp) -> Result<(), StoreError> {
    store.transaction(|transaction| {
        // One that was deleted meanwhile has no row.
        let record = "INSERT INTO checked (blake3, number, time) SELECT blake3, ?2, ?3 FROM blob WHERE blake3 = ?1
            ON CONFLICT (blake3) DO UPDATE SET number = excluded.number, time = excluded.time";
        execute_each(transaction, record, right, |blob| (*blob.as_bytes(), number, now.seconds()))
            .map(drop)
            .map_err(store.sql())
    })
}

/// What is wrong with the bytes of a blob, if anything.
///
/// The BLAKE3 alone is computed: it says that these are the bytes that came in, and their SHA-256 was computed in the
/// same pass then. The check of the structure compares the SHA-256 in the catalog and in the manifests, without the
/// bytes.
fn problem(
    store: &Store,
    row: &Row,
    limiter: Option<&Limiter>,
    read: &(dyn Fn(u64) + Sync),
    buffer: &mut [u8],
) -> Option<String> {
    let path = store.blob_path(row.blake3);
    let mut look = || -> io::Result<Option<String>> {
        let mut passing = Passing { file: std::fs::File::open(&path)?, limiter, read, size: 0 };
        let blake3 = Blake3::of_reader(&mut passing, buffer)?;
        if passing.size != row.size {
            return Ok(Some(super::length(passing.size, row.size)));
        }
        Ok((blake3 != row.blake3).then(|| "has other bytes than its name says".to_owned()))
    };
    super::in_words(look())
}

/// A file whose bytes are counted, and let through as fast as the limiter says.
struct Passing<'a> {
    file: std::fs::File,
    limiter: Option<&'a Limiter>,
    read: &'a (dyn Fn(u64) + Sync),
    size: u64,
}

impl io::Read for Passing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = io::Read::read(&mut self.file, buffer)?;
        let bytes = count as u64;
        if bytes == 0 {
            return Ok(0);
        }
        if let Some(limiter) = self.limiter {
            limiter.pass(bytes);
        }
        (self.read)(bytes);
        self.size += bytes;
        Ok(count)
    }
}
