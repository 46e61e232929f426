//! Bytes that are packed for the catalog, with zstd: alone, or against other bytes, their reference.
//!
//! What the reference has, too, costs next to nothing, wherever in it that stands. Nothing here trusts what it unpacks.

use std::cell::RefCell;

use zstd_safe::{CCtx, CParameter, DCtx};

/// zstd's own default: above it, packing takes many times as long for a few hundredths of the bytes.
const LEVEL: i32 = 3;
/// What is packed against a reference is at most this share of what is packed alone.
///
/// The nearest is the best that there is, so anything that it saves is welcome. With another one, what has changed since is
/// stored again each time, and what is packed alone now is a nearer reference for all that come later.
const SHARE_WITH_NEAREST: (usize, usize) = (3, 4);
const SHARE_WITH_OTHER: (usize, usize) = (2, 5);
/// What has shrunk to so small a part is not packed alone as well to see what that would take.
const PALTRY: usize = 32;
/// Bytes unpack to so many times as many at most: a block of zstd has 128 KiB at most, and takes four bytes at least.
const DENSEST: usize = (128 << 10) / 4;
/// Bytes with this beginning are a dictionary in a form of zstd's own, and no reference.
const DICTIONARY: [u8; 4] = 0xec30_a437_u32.to_le_bytes();

thread_local! {
    // It has tables of a hundred kilobytes: setting them up takes longer than unpacking does.
    static UNPACK: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// Earlier bytes to pack against.
pub(crate) struct Reference {
    pub(crate) bytes: Vec<u8>,
    /// Whether no bytes are known that resemble what is packed more than these.
    pub(crate) nearest: bool,
}

/// Bytes as the catalog has them.
pub(crate) struct Packed {
    pub(crate) bytes: Vec<u8>,
    /// Whether they can only be unpacked with the reference.
    pub(crate) against: bool,
}

/// What packs. It has tables of hundreds of kilobytes, and setting them up takes longer than a pack does.
pub(crate) struct Packer<'a>(CCtx<'a>);

impl<'a> Packer<'a> {
    pub(crate) fn new() -> Self {
        Self(CCtx::create())
    }

    /// Packs bytes: against the reference, if there is one and that makes them clearly smaller.
    pub(crate) fn pack(&mut self, bytes: &[u8], reference: Option<&'a Reference>) -> Packed {
        let Some(reference) = reference.filter(|reference| !reference.bytes.starts_with(&DICTIONARY)) else {
            return Packed { bytes: self.compress(bytes, 0), against: false };
        };
        // It is one for the next pack alone.
        self.0.ref_prefix(&reference.bytes).expect("any bytes can be a prefix");
        let against = self.compress(bytes, reference.bytes.len());
        if against.len() <= bytes.len() / PALTRY {
            return Packed { bytes: against, against: true };
        }
        let alone = self.compress(bytes, 0);
        let (part, whole) = if reference.nearest { SHARE_WITH_NEAREST } else { SHARE_WITH_OTHER };
        if against.len() * whole <= alone.len() * part {
            Packed { bytes: against, against: true }
        } else {
            Packed { bytes: alone, against: false }
        }
    }

    /// `before` is how many bytes there are as a prefix: all of them can be referred to from everywhere.
    fn compress(&mut self, bytes: &[u8], before: usize) -> Vec<u8> {
        let reach = before.saturating_add(bytes.len()).max(1).next_power_of_two().ilog2().clamp(10, 27);
        // Of a prefix, zstd finds again what is in the last eight bytes for each place in its table. Zero is its own choice.
        let table = if before > 1 << 20 { reach - 3 } else { 0 };
        let mut packed = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
        [CParameter::CompressionLevel(LEVEL), CParameter::WindowLog(reach), CParameter::HashLog(table)]
            .into_iter()
            .try_for_each(|parameter| self.0.set_parameter(parameter).map(drop))
            .and_then(|()| self.0.compress2(&mut packed, bytes))
            .expect("packing cannot fail where there is room");
        packed.shrink_to_fit();
        packed
    }
}

/// The bytes, if they are `size` many. Takes no more room than that, and none where `packed` says another size or is too
/// short for it.
pub(crate) fn unpack(packed: &[u8], size: usize, reference: &[u8]) -> Option<Vec<u8>> {
    let said = zstd_safe::get_frame_content_size(packed).ok()??;
    if said != size as u64 || size > packed.len().saturating_mul(DENSEST) || reference.starts_with(&DICTIONARY) {
        return None;
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).ok()?;
    UNPACK
        .with_borrow_mut(|context| context.decompress_using_dict(&mut bytes, packed, reference))
        .ok()
        .filter(|unpacked| *unpacked == size)
        .map(|_| bytes)
}
