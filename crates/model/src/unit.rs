//! Units: the paths of one project, which change together and are listed together, and what they show.

use std::fmt::Write as _;

use crate::text::Lines;
use crate::{BadBody, Blake3, ProjectName, RecordId, Serial, Sha256, TreePath};

const FORMAT: &str = "strandline-unit 2";
const KIND: &str = "unit";

/// A path of a mirror, and the bytes that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands in the tree.
    pub path: TreePath,
    /// The blob with its bytes.
    pub blob: Blake3,
    /// The SHA-256 of the bytes, computed.
    pub sha256: Sha256,
    /// In bytes.
    pub size: u64,
}

/// What a unit shows, and which program wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// What upstream says of the project.
    pub record: RecordId,
    /// The serial that stands on the pages.
    pub serial: Serial,
    /// The number of the [`Format`](crate::Format) that wrote the pages.
    pub renderer: u32,
}

/// One project of a mirror at one serial: its pages and files, sorted by path, each path once.
///
/// Canonical bytes: `strandline-unit 2 NAME`, then `from TOLD-ID SEEN-ID SERIAL RENDERER`, then a line
/// `shown BLAKE3 SHA256 SIZE PATH` for each entry. A unit that shows no record has no line `from`: it has files that were taken
/// over from another program's tree, and no snapshot names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    name: ProjectName,
    source: Option<Source>,
    entries: Vec<Entry>,
}

/// Two entries of a unit have the same path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` is listed twice in {unit}")]
pub struct DuplicatePath {
    /// The unit.
    pub unit: ProjectName,
    /// The path.
    pub path: TreePath,
}

impl Unit {
    /// Sorts the entries by path; an error where two of them have the same path.
    pub fn new(name: ProjectName, source: Source, entries: Vec<Entry>) -> Result<Self, DuplicatePath> {
        Self::sorted(name, Some(source), entries)
    }

    /// Files alone, of which no record says anything yet; an error as in [`new`](Self::new).
    pub fn of_files(name: ProjectName, entries: Vec<Entry>) -> Result<Self, DuplicatePath> {
        Self::sorted(name, None, entries)
    }

    fn sorted(name: ProjectName, source: Option<Source>, mut entries: Vec<Entry>) -> Result<Self, DuplicatePath> {
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        match entries.windows(2).find(|pair| pair[0].path == pair[1].path) {
            Some(pair) => Err(DuplicatePath { unit: name, path: pair[0].path.clone() }),
            None => Ok(Self { name, source, entries }),
        }
    }

    /// The project.
    pub fn name(&self) -> &ProjectName {
        &self.name
    }

    /// What it shows; `None` for files alone.
    pub fn source(&self) -> Option<Source> {
        self.source
    }

    /// All entries, sorted by path.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry at `path`, if the unit has one.
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        let index = self.entries.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok()?;
        self.entries.get(index)
    }

    /// The entry of the metadata file of the release file at `path`, if the unit has one.
    pub fn metadata_of(&self, path: &TreePath) -> Option<&Entry> {
        self.entry(path.metadata().ok()?.as_str())
    }

    /// The canonical bytes; their BLAKE3 is the unit's id.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = String::with_capacity(64 + self.entries.len() * 260);
        line(&mut out, format_args!("{FORMAT} {}", self.name));
        if let Some(Source { record: RecordId { told, seen }, serial, renderer }) = self.source {
            line(&mut out, format_args!("from {told} {seen} {serial} {renderer}"));
        }
        for Entry { path, blob, sha256, size } in &self.entries {
            line(&mut out, format_args!("shown {blob} {sha256} {size} {path}"));
        }
        out.into_bytes()
    }

    /// Reads canonical bytes; an error for any others.
    ///
    /// Every word is read in its one form, so nothing has to be written again to be compared.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadBody> {
        let mut lines = Lines::of(KIND, bytes)?;
        let name = lines.value(FORMAT)?;
        let name = lines.parse(name)?;
        let (mut source, mut entries) = (None, Vec::<Entry>::new());
        while let Some(line) = lines.next() {
            let mut words = line.splitn(5, ' ');
            let mut word = || words.next().ok_or_else(|| lines.bad("expected `shown BLAKE3 SHA256 SIZE PATH`"));
            match word()? {
                "from" if source.is_none() && entries.is_empty() => {
                    let record = RecordId { told: lines.digest(word()?)?, seen: lines.digest(word()?)? };
                    let (serial, renderer) = (lines.parse(word()?)?, lines.number(word()?)?);
                    let renderer = renderer.try_into().map_err(|_| lines.bad("the renderer is out of range"))?;
                    source = Some(Source { record, serial, renderer });
                }
                "shown" => {
                    let (blob, sha256) = (lines.digest(word()?)?, lines.digest(word()?)?);
                    let (size, path) = (lines.number(word()?)?, lines.parse(word()?)?);
                    if entries.last().is_some_and(|last| last.path >= path) {
                        return Err(lines.bad("not sorted by path, or a path twice"));
                    }
                    entries.push(Entry { path, blob, sha256, size });
                }
                _ => return Err(lines.bad("expected `from …` or `shown …`")),
            }
        }
        Ok(Self { name, source, entries })
    }
}

/// Appends a line; writing to a string cannot fail.
pub(crate) fn line(out: &mut String, words: std::fmt::Arguments<'_>) {
    out.write_fmt(words).expect("a string takes everything");
    out.push('\n');
}
