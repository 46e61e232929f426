//! Packs: bodies that are written together and read together, packed as one.
//!
//! A pack may have another one as its reference, against whose bytes it is packed. A reference has none itself, so at most
//! two rows are read for a body.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use rayon::prelude::*;
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Row};
use strandline_model::Blake3;

use crate::StoreError;
use crate::bodies::Bodies;
use crate::packing::{Packer, Reference, unpack};
use crate::readers::TOGETHER;
use crate::rows::{blake3, execute_each, row, rows};

/// How many packs are made at a time, on all cores.
const PACKS: usize = 256;

/// Bodies that are to be stored in one pack.
pub(crate) struct NewPack {
    /// Their ids and bytes, in their order in the pack.
    pub(crate) bodies: Vec<(Blake3, Vec<u8>)>,
    /// A body of the catalog that is in a pack which resembles this one.
    pub(crate) like: Option<Blake3>,
}

impl NewPack {
    /// A pack of one body.
    pub(crate) fn of(id: Blake3, bytes: Vec<u8>, like: Option<Blake3>) -> Self {
        Self { bodies: vec![(id, bytes)], like }
    }
}

/// Where a body is.
#[derive(Clone, Copy)]
struct Place {
    pack: i64,
    position: usize,
}

/// A pack that was unpacked.
struct Unpacked {
    bytes: Vec<u8>,
    /// Where in the bytes the bodies are.
    ranges: Vec<Range<usize>>,
}

/// Why a body cannot be read.
type Problem = &'static str;

const PLACE: &str = "SELECT pack, position FROM body WHERE id = ?1";
/// One query, because each takes locks of files where no transaction is open.
const BODY: &str = "SELECT p.sizes, p.packed, p.reference, r.sizes, r.packed, b.position
    FROM body b LEFT JOIN pack p ON p.number = b.pack LEFT JOIN pack r ON r.number = p.reference WHERE b.id = ?1";
const PACK: &str = "SELECT p.sizes, p.packed, p.reference, r.sizes, r.packed
    FROM pack p LEFT JOIN pack r ON r.number = p.reference WHERE p.number = ?1";
const REFERENCE: &str = "SELECT r.number, p.reference IS NULL, r.sizes, r.packed
    FROM body b JOIN pack p ON p.number = b.pack JOIN pack r ON r.number = coalesce(p.reference, p.number)
    WHERE b.id = ?1";

fn place_of_row(row: &Row<'_>) -> rusqlite::Result<Place> {
    Ok(Place { pack: row.get(0)?, position: position(row, 1)? })
}

/// A number that is no position is that of no body.
fn position(row: &Row<'_>, column: usize) -> rusqlite::Result<usize> {
    Ok(row.get::<_, i64>(column)?.try_into().unwrap_or(usize::MAX))
}

/// The pack of a row with sizes and packed bytes, of which the first is in this column.
fn unpacked(row: &Row<'_>, column: usize, reference: &[u8]) -> rusqlite::Result<Result<Unpacked, Problem>> {
    let (sizes, packed) = (row.get_ref(column)?.as_blob()?, row.get_ref(column + 1)?.as_blob()?);
    let Some(ranges) = ranges(sizes) else { return Ok(Err("is damaged: its pack has bad sizes")) };
    let size = ranges.last().map_or(0, |range| range.end);
    let unpacked = unpack(packed, size, reference).map(|bytes| Unpacked { bytes, ranges });
    Ok(unpacked.ok_or("is damaged: its pack does not unpack"))
}

fn pack_of_row(row: &Row<'_>) -> rusqlite::Result<Result<Unpacked, Problem>> {
    if row.get_ref(1)?.as_blob_or_null()?.is_none() {
        return Ok(Err("is damaged: its pack is missing"));
    }
    if row.get::<_, Option<i64>>(2)?.is_none() {
        return unpacked(row, 0, &[]);
    }
    if row.get_ref(4)?.as_blob_or_null()?.is_none() {
        return Ok(Err("is damaged: the reference of its pack is missing"));
    }
    match unpacked(row, 3, &[])? {
        Ok(reference) => unpacked(row, 0, &reference.bytes),
        Err(_) => Ok(Err("is damaged: the reference of its pack is damaged")),
    }
}

/// How long bodies are, each in as many bytes as it needs: seven bits in each, the lowest first, and the eighth bit where
/// more follow.
fn sizes<'a>(bodies: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut sizes = Vec::new();
    for body in bodies {
        let mut rest = body.len();
        loop {
            let [lowest, ..] = rest.to_le_bytes();
            rest >>= 7;
            if rest == 0 {
                sizes.push(lowest);
                break;
            }
            sizes.push(lowest | 0x80);
        }
    }
    sizes
}

/// Where bodies of these sizes are.
fn ranges(sizes: &[u8]) -> Option<Vec<Range<usize>>> {
    let (mut ranges, mut start) = (Vec::new(), 0_usize);
    for size in sizes.split_inclusive(|byte| byte & 0x80 == 0) {
        if size.last()? & 0x80 != 0 || size.len() > 9 {
            return None;
        }
        let size = size.iter().rev().fold(0_u64, |size, byte| size << 7 | u64::from(byte & 0x7f));
        let end = start.checked_add(size.try_into().ok()?)?;
        ranges.push(start..end);
        start = end;
    }
    Some(ranges)
}

impl Unpacked {
    /// The body at this position, if it is the one that has this id.
    fn body(&self, id: Blake3, position: usize) -> Result<&[u8], StoreError> {
        let body = self.ranges.get(position).and_then(|range| self.bytes.get(range.clone()));
        let body = body.ok_or_else(|| damaged(id, "is damaged: its pack has no such body"))?;
        if Blake3::of(body) != id {
            return Err(damaged(id, "is damaged: its bytes have another hash"));
        }
        Ok(body)
    }
}

/// What is made of each body that is asked for; `None` where a connection does not see it.
type Seen<T> = Vec<Option<Result<T, StoreError>>>;

/// Reads, unpacks, checks and parses bodies over a connection. A pack is unpacked once, however many of its bodies are asked for.
fn together<K: Copy + Into<Blake3>, T>(
    connection: &Connection,
    ids: &[K],
    parse: impl Fn(K, &[u8]) -> Result<T, StoreError>,
) -> rusqlite::Result<Seen<T>> {
    let mut places = connection.prepare_cached(PLACE)?;
    let mut packs: BTreeMap<i64, Vec<(usize, K, usize)>> = BTreeMap::new();
    for (index, id) in ids.iter().enumerate() {
        let whole: Blake3 = (*id).into();
        if let Some(Place { pack, position }) = places.query_row([whole.as_bytes()], place_of_row).optional()? {
            packs.entry(pack).or_default().push((index, *id, position));
        }
    }
    let mut unpacking = connection.prepare_cached(PACK)?;
    let mut seen: Seen<T> = ids.iter().map(|_| None).collect();
    for (pack, wanted) in packs {
        let Some(unpacked) = unpacking.query_row([pack], pack_of_row).optional()? else { continue };
        for (index, id, position) in wanted {
            let unpacked = unpacked.as_ref().map_err(|problem| damaged(id.into(), problem));
            let body = unpacked.and_then(|unpacked| unpacked.body(id.into(), position));
            seen[index] = Some(body.and_then(|bytes| parse(id, bytes)));
        }
    }
    Ok(seen)
}

fn damaged(id: Blake3, problem: &str) -> StoreError {
    StoreError::Damaged { id, problem: problem.to_owned() }
}

impl Bodies<'_> {
    pub(crate) fn read(&self, id: Blake3) -> Result<Vec<u8>, StoreError> {
        let read = |row: &Row<'_>| Ok((pack_of_row(row)?, position(row, 5)?));
        let found = row(self.connection, BODY, [id.as_bytes()], read).map_err(self.store.sql())?;
        let (unpacked, position) = found.ok_or_else(|| damaged(id, "is missing"))?;
        unpacked.map_err(|problem| damaged(id, problem))?.body(id, position).map(<[u8]>::to_vec)
    }

    fn place(&self, id: Blake3) -> Result<Place, StoreError> {
        let found = row(self.connection, PLACE, [id.as_bytes()], place_of_row).map_err(self.store.sql())?;
        found.ok_or_else(|| damaged(id, "is missing"))
    }

    /// Reads, unpacks, checks and parses bodies, many of them at once; one damaged body does not spoil the others. Bodies of one pack
    /// are best asked for side by side.
    pub(crate) fn each<K: Copy + Into<Blake3> + Sync, T: Send>(
        &self,
        ids: &[K],
        parse: impl Fn(K, &[u8]) -> Result<T, StoreError> + Sync,
    ) -> Vec<Result<T, StoreError>> {
        let none = |ids: &[K]| ids.iter().map(|_| None).collect();
        let aside = ids.len() > TOGETHER;
        let look =
            || self.store.look_aside(ids, |reader, ids| together(reader, ids, &parse)).unwrap_or_else(|_| none(ids));
        let seen: Seen<T> = if aside { look() } else { none(ids) };
        // A body that other connections do not see may be of this transaction, or gone since it began.
        let own: Vec<_> = ids.iter().zip(&seen).filter(|(_, seen)| seen.is_none()).map(|(id, _)| *id).collect();
        let mut own = together(self.connection, &own, &parse).unwrap_or_else(|_| none(&own)).into_iter();
        // Each that is still not seen says itself why it cannot be read.
        let alone = |id: K| self.read(id.into()).and_then(|bytes| parse(id, &bytes));
        let mut next = || own.next().flatten();
        ids.iter().zip(seen).map(|(id, seen)| seen.or_else(&mut next).unwrap_or_else(|| alone(*id))).collect()
    }

    pub(crate) fn has(&self, id: Blake3) -> Result<bool, StoreError> {
        self.connection
            .prepare_cached("SELECT 1 FROM body WHERE id = ?1")
            .and_then(|mut statement| statement.exists([id.as_bytes()]))
            .map_err(self.store.sql())
    }

    /// Stores a body in a pack of its own, unless it is there.
    pub(crate) fn write(&self, id: Blake3, bytes: Vec<u8>, like: Option<Blake3>) -> Result<(), StoreError> {
        self.write_packs([NewPack::of(id, bytes, like)])
    }

    /// Stores bodies, except those that are there, some hundred packs at a time, which are packed on all cores.
    ///
    /// A pack is packed against the one that has the body `like`, or against that one's reference, if it has one. Where that
    /// does not make it clearly smaller, or that one is missing or damaged, it is packed alone.
    pub(crate) fn write_packs(&self, new: impl IntoIterator<Item = NewPack>) -> Result<(), StoreError> {
        let mut new = new.into_iter();
        loop {
            let mut some: Vec<_> = new.by_ref().take(PACKS).collect();
            if some.is_empty() {
                return Ok(());
            }
            let mut seen = HashSet::new();
            for pack in &mut some {
                let mut bodies = Vec::with_capacity(pack.bodies.len());
                for (id, bytes) in pack.bodies.drain(..) {
                    if seen.insert(id) && !self.has(id)? {
                        bodies.push((id, bytes));
                    }
                }
                pack.bodies = bodies;
            }
            some.retain(|pack| !pack.bodies.is_empty());
            let references = self.references(some.iter().filter_map(|pack| pack.like).collect())?;
            let reference = |new: &NewPack| new.like.and_then(|like| references.get(&like));
            let packed = some.par_iter().map_init(Packer::new, |packer, new| {
                let bytes = || new.bodies.iter().map(|(_, bytes)| &bytes[..]);
                let whole = bytes().collect::<Vec<_>>().concat();
                (sizes(bytes()), packer.pack(&whole, reference(new).map(|(_, reference)| reference)))
            });
            let packed: Vec<_> = packed.collect();
            for (new, (sizes, packed)) in some.iter().zip(packed) {
                let reference = reference(new).filter(|_| packed.against).map(|(number, _)| *number);
                self.insert(new, reference, &sizes, &packed.bytes).map_err(self.store.sql())?;
            }
        }
    }

    /// Stores bodies again that were lost or damaged.
    pub(crate) fn restore(&self, lost: Vec<(Blake3, Vec<u8>)>) -> Result<(), StoreError> {
        let mut packs: BTreeMap<Option<i64>, Vec<_>> = BTreeMap::new();
        for (id, bytes) in lost {
            let pack = match self.place(id) {
                Ok(place) => Some(place.pack),
                Err(StoreError::Damaged { .. }) => None,
                Err(error) => return Err(error),
            };
            packs.entry(pack).or_default().push((id, bytes));
        }
        packs.into_values().try_for_each(|lost| self.restore_together(lost))
    }

    /// Stores bodies again that were written together.
    ///
    /// If everything else that is in their pack can be read, the pack is made again, alone and in its place, so that what is packed
    /// against it can be read again, too. If not, they get a new pack.
    fn restore_together(&self, lost: Vec<(Blake3, Vec<u8>)>) -> Result<(), StoreError> {
        if let Some((number, whole)) = self.pack_with(&lost)? {
            let sizes = sizes(whole.iter().map(|bytes| &bytes[..]));
            let packed = Packer::new().pack(&whole.concat(), None);
            let replace = || {
                self.connection.execute("DELETE FROM pack WHERE number = ?1", [number])?;
                let insert = "INSERT INTO pack (number, sizes, packed) VALUES (?1, ?2, ?3)";
                self.connection.execute(insert, (number, sizes, packed.bytes))
            };
            return replace().map(drop).map_err(self.store.sql());
        }
        execute_each(self.connection, "DELETE FROM body WHERE id = ?1", &lost, |(id, _)| [*id.as_bytes()])
            .map_err(self.store.sql())?;
        self.write_packs([NewPack { bodies: lost, like: None }])
    }

    /// The pack that has these bodies, with the bytes of all that it has; `None` where that is not known for sure.
    fn pack_with(&self, lost: &[(Blake3, Vec<u8>)]) -> Result<Option<(i64, Vec<Vec<u8>>)>, StoreError> {
        let first = lost.first().map(|(id, _)| self.place(*id));
        let number = match first {
            Some(Ok(place)) => place.pack,
            None | Some(Err(StoreError::Damaged { .. })) => return Ok(None),
            Some(Err(error)) => return Err(error),
        };
        let said = row(self.connection, "SELECT sizes FROM pack WHERE number = ?1", [number], |row| row.get(0));
        let said: Option<Vec<u8>> = said.map_err(self.store.sql())?;
        // This looks through all rows, which only a repair does.
        let query = "SELECT id, position FROM body WHERE pack = ?1 ORDER BY position";
        let bodies = rows(self.connection, query, [number], |row| Ok((blake3(row, 0)?, row.get::<_, i64>(1)?)));
        let mut whole: Vec<Vec<u8>> = Vec::new();
        for (id, position) in bodies.map_err(self.store.sql())? {
            let found = lost.iter().find(|(lost, _)| *lost == id).map(|(_, bytes)| Ok(bytes.clone()));
            match found.unwrap_or_else(|| self.read(id)) {
                Ok(bytes) if usize::try_from(position) == Ok(whole.len()) => whole.push(bytes),
                Ok(_) | Err(StoreError::Damaged { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        // Other bodies may be packed against one that it had after these, and that was dropped.
        let sure = said == Some(sizes(whole.iter().map(|bytes| &bytes[..])));
        Ok(sure.then_some((number, whole)))
    }

    fn insert(&self, new: &NewPack, reference: Option<i64>, sizes: &[u8], packed: &[u8]) -> rusqlite::Result<()> {
        let pack = "INSERT INTO pack (reference, sizes, packed) VALUES (?1, ?2, ?3)";
        let number = self.connection.prepare_cached(pack)?.insert((reference, sizes, packed))?;
        let body = "INSERT INTO body (id, pack, position) VALUES (?1, ?2, ?3)";
        let mut body = self.connection.prepare_cached(body)?;
        for ((id, _), position) in new.bodies.iter().zip(0_i64..) {
            body.execute((id.as_bytes(), number, position))?;
        }
        Ok(())
    }

    /// For each of these bodies that is there, the pack that can be the reference of one like its own, if that can be read.
    fn references(&self, like: HashSet<Blake3>) -> Result<HashMap<Blake3, (i64, Reference)>, StoreError> {
        let like: Vec<_> = like.into_iter().collect();
        let one = |statement: &mut CachedStatement<'_>, id: &Blake3| {
            statement.query_row([id.as_bytes()], reference_of_row).optional()
        };
        let aside = (like.len() > TOGETHER).then(|| self.store.look_up_aside(REFERENCE, &like, one).ok()).flatten();
        let aside = aside.unwrap_or_else(|| like.iter().map(|_| None).collect());
        let mut references = HashMap::with_capacity(like.len());
        for (id, found) in like.into_iter().zip(aside) {
            let own = || row(self.connection, REFERENCE, [id.as_bytes()], reference_of_row).map_err(self.store.sql());
            let found = found.map_or_else(own, |found| Ok(Some(found)))?;
            references.extend(found.flatten().map(|reference| (id, reference)));
        }
        Ok(references)
    }
}

/// A pack that can be a reference, with its number; `None` if it is damaged.
fn reference_of_row(row: &Row<'_>) -> rusqlite::Result<Option<(i64, Reference)>> {
    let (number, nearest) = (row.get(0)?, row.get(1)?);
    Ok(unpacked(row, 2, &[])?.ok().map(|Unpacked { bytes, .. }| (number, Reference { bytes, nearest })))
}
