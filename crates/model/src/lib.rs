//! The vocabulary of a mirror as types, and their canonical bytes.
//!
//! What always holds:
//!
//! 1. A value of these types is valid: every constructor that takes text checks it.
//! 2. The same content has the same bytes, whatever the history, so it has the same id
//!    (`tests/trie.rs`); the bytes are plain text that `b3sum` can check (`tests/format.rs`).
//! 3. A digest that upstream *claims* is another type than one that was *computed*.
//!
//! A [`Record`] has what upstream says of a project; a [`Format`] makes pages and lists of it.
//!
//! This crate has no I/O, no clock and no async. `docs/format.md` describes the format, `docs/glossary.md` the words.

mod at;
mod causes;
mod digest;
mod follow;
mod format;
mod json;
mod name;
mod path;
mod record;
mod record_body;
mod serial;
mod show;
mod snapshot;
mod text;
mod time;
pub mod trie;
mod unit;

pub use at::{At, InvalidAt};
pub use causes::with_causes;
pub use digest::{Blake3, ClaimedSha256, DigestMismatch, Hasher, InvalidDigest, Sha256, read_chunks};
pub use follow::Follow;
pub use format::{BadRecord, Format, Formats, ListedProject, ReadSeek, Releases, Rendered};
pub use json::Json;
pub use name::{DisplayName, InvalidName, MirrorName, ProjectName};
pub use path::{InvalidPath, TreePath};
pub use record::{
    CoreMetadata, FileName, Form, InvalidFileName, InvalidRecord, Maintenance, Mirrored, Placed, Preamble, Record,
    RecordId, Seen, SeenFile, Status, Told, ToldFile, UnknownKeys, Yanked, is_skipped,
};
pub use record_body::{RECORD, RecordBodies, is_distribution};
pub use serial::{InvalidSerial, Label, Serial};
pub use show::{Hidden, Inputs, Shown, show, versions_left};
pub use snapshot::{Gone, Held, HoldReason, InvalidUpstreamUrl, Method, RootList, Snapshot, UpstreamUrl};
pub use text::BadBody;
pub use time::{InvalidTimestamp, Timestamp, UploadTime};
pub use trie::{Leaf, Node};
pub use unit::{DuplicatePath, Entry, Source, Unit};
