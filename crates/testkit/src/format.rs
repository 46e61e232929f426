//! A format that is short to write by hand and to read in a failed test.

use std::collections::BTreeMap;
use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};
use strandline_model::{
    BadRecord, ClaimedSha256, CoreMetadata, DisplayName, FileName, Form, Format, ListedProject, Mirrored, Placed,
    ProjectName, ReadSeek, Record, Releases, Rendered, Seen, SeenFile, Serial, Sha256, Told, ToldFile, TreePath,
    Yanked,
};

/// Pages and lists as plain lines.
///
/// A page has the project's name, its serial, its versions with spaces between them, and a line for each file: name, path,
/// SHA-256, size, whether it is yanked, and the SHA-256 of its metadata or `-`. A list has `json` or `html`, with `-NUMBER` where the format's number is not 1, the serial, and
/// `DISPLAY-NAME:SERIAL` for each project, with spaces between them; any list is read back. File names look like `NAME-VERSION.ENDING`.
/// A wheel that begins with `with ` has the rest of its bytes as its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain {
    /// The number of the format.
    pub number: u32,
    /// The file name of the page that is read back; the other page is `index.html`.
    pub record: &'static str,
    /// The file names of the lists, sorted.
    pub lists: &'static [&'static str],
}

impl Plain {
    /// With the lists that an index has, of which the two in HTML are the same.
    pub const WHOLE: Self =
        Self { number: 1, record: "index.v1_json", lists: &["index.html", "index.v1_html", "index.v1_json"] };
    /// With one list.
    pub const ONE_LIST: Self = Self { lists: &["index.html"], ..Self::WHOLE };
}

fn simple(path: &str) -> TreePath {
    format!("simple/{path}").parse().expect("names are valid segments")
}

impl Releases for Plain {
    fn is_of_release(&self, _: &ProjectName, filename: &str, version: &str) -> Option<bool> {
        Some(filename.contains(&format!("-{version}.")))
    }
}

impl Format for Plain {
    fn number(&self) -> u32 {
        self.number
    }

    fn record_path(&self, project: &ProjectName) -> TreePath {
        simple(&format!("{project}/{}", self.record))
    }

    fn render(&self, project: &Mirrored) -> Vec<Rendered> {
        let name = project.record().name();
        let versions = project.record().seen().versions.join(" ");
        let mut text = format!("{name}\n{}\n{versions}\n", project.serial());
        for (file, told, _, Placed { path, sha256, size, metadata }) in project.files() {
            let metadata = metadata.map_or("-".to_owned(), |sha256| sha256.to_string());
            let yanked = matches!(told.yanked, Yanked::Yes(_));
            text.push_str(&format!("{} {path} {sha256} {size} {yanked} {metadata}\n", file.as_str()));
        }
        let html = Bytes::from(format!("<!--\n{text}-->"));
        let html = Rendered { path: simple(&format!("{name}/index.html")), bytes: html };
        vec![html, Rendered { path: self.record_path(name), bytes: text.into() }]
    }

    fn read(&self, bytes: &[u8]) -> Result<Mirrored, BadRecord> {
        let text = std::str::from_utf8(bytes).map_err(bad)?;
        let mut lines = text.lines();
        let mut line = || lines.next().ok_or_else(|| BadRecord("too short".to_owned()));
        let (name, serial): (ProjectName, Serial) = (line()?.parse().map_err(bad)?, line()?.parse().map_err(bad)?);
        let versions = line()?.split(' ').map(str::to_owned).collect();
        let (mut told, mut seen, mut placed) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for line in lines {
            let (file, (told_file, seen_file, placed_file)) = read_file(&name, line)?;
            told.insert(file.clone(), told_file);
            seen.insert(file.clone(), seen_file);
            placed.insert(file, placed_file);
        }
        let display = name.as_str().parse().map_err(bad)?;
        let seen = Seen { versions, files: seen, ..Seen::of(display, Form::Json) };
        let record = Record::new(Told { name, quarantined: false, files: told }, seen).map_err(bad)?;
        Mirrored::new(record, serial, placed).map_err(bad)
    }

    fn file_paths(&self, name: &FileName, sha256: ClaimedSha256, url: &str) -> [TreePath; 2] {
        let made: TreePath =
            format!("packages/00/00/{sha256}/{}", name.as_str()).parse().expect("digits and names are valid segments");
        let own = url.find("packages/").and_then(|at| url[at..].parse().ok());
        [own.unwrap_or_else(|| made.clone()), made]
    }

    fn metadata_inside(&self, name: &FileName, file: &mut dyn ReadSeek) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        name.as_str().strip_suffix(".whl")?;
        bytes.strip_prefix(b"with ").map(<[u8]>::to_vec)
    }

    fn list_paths(&self) -> Vec<TreePath> {
        self.lists.iter().map(|name| simple(name)).collect()
    }

    fn write_list(
        &self,
        path: &TreePath,
        serial: Serial,
        projects: &[ListedProject],
        out: &mut dyn io::Write,
    ) -> io::Result<()> {
        let form = if path.file_name().ends_with("json") { "json" } else { "html" };
        match self.number {
            1 => write!(out, "{form} {serial}")?,
            number => write!(out, "{form}-{number} {serial}")?,
        }
        projects.iter().try_for_each(|project| write!(out, " {}:{}", project.display, project.serial))
    }

    fn read_list(&self, bytes: &[u8]) -> io::Result<(Serial, Vec<ListedProject>)> {
        let bad = || io::Error::other("not a list");
        let mut words = std::str::from_utf8(bytes).map_err(io::Error::other)?.split(' ').skip(1);
        let serial = words.next().and_then(|serial| serial.parse().ok()).ok_or_else(bad)?;
        let listed = words.map(|word| {
            let (display, serial) = word.split_once(':')?;
            let display: DisplayName = display.parse().ok()?;
            Some(ListedProject { name: display.normalise(), display, serial: serial.parse().ok()? })
        });
        Ok((serial, listed.collect::<Option<_>>().ok_or_else(bad)?))
    }
}

/// The next renderer of a format: its number is one more, and each page and each list has a space more at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raised<F>(pub F);

impl<F: Format> Releases for Raised<F> {
    fn is_of_release(&self, project: &ProjectName, filename: &str, version: &str) -> Option<bool> {
        self.0.is_of_release(project, filename, version)
    }
}

impl<F: Format> Format for Raised<F> {
    fn number(&self) -> u32 {
        self.0.number() + 1
    }

    fn record_path(&self, project: &ProjectName) -> TreePath {
        self.0.record_path(project)
    }

    fn render(&self, project: &Mirrored) -> Vec<Rendered> {
        let one_more = |Rendered { path, bytes }| {
            let mut longer = BytesMut::from(&*bytes);
            longer.put_u8(b' ');
            Rendered { path, bytes: longer.freeze() }
        };
        self.0.render(project).into_iter().map(one_more).collect()
    }

    fn read(&self, bytes: &[u8]) -> Result<Mirrored, BadRecord> {
        self.0.read(bytes.strip_suffix(b" ").unwrap_or(bytes))
    }

    fn file_paths(&self, name: &FileName, sha256: ClaimedSha256, url: &str) -> [TreePath; 2] {
        self.0.file_paths(name, sha256, url)
    }

    fn metadata_inside(&self, name: &FileName, file: &mut dyn ReadSeek) -> Option<Vec<u8>> {
        self.0.metadata_inside(name, file)
    }

    fn list_paths(&self) -> Vec<TreePath> {
        self.0.list_paths()
    }

    fn same_as(&self, path: &TreePath) -> Option<TreePath> {
        self.0.same_as(path)
    }

    fn write_list(
        &self,
        path: &TreePath,
        serial: Serial,
        projects: &[ListedProject],
        out: &mut dyn io::Write,
    ) -> io::Result<()> {
        self.0.write_list(path, serial, projects, out)?;
        out.write_all(b" ")
    }

    fn read_list(&self, bytes: &[u8]) -> io::Result<(Serial, Vec<ListedProject>)> {
        self.0.read_list(bytes.strip_suffix(b" ").unwrap_or(bytes))
    }
}

fn read_file(project: &ProjectName, line: &str) -> Result<(FileName, (ToldFile, SeenFile, Placed)), BadRecord> {
    let words: Vec<_> = line.split(' ').collect();
    let [file, path, sha256, size, yanked, metadata] = words[..] else { return Err(BadRecord(line.to_owned())) };
    let digest = |text: &str| text.parse::<Sha256>().map_err(bad);
    let metadata = if metadata == "-" { None } else { Some(digest(metadata)?) };
    let (sha256, size) = (digest(sha256)?, size.parse().map_err(bad)?);
    let yanked = if yanked == "true" { Yanked::Yes(String::new()) } else { Yanked::No };
    let told = ToldFile { size: Some(size), yanked, ..ToldFile::of(sha256.into()) };
    let core_metadata = metadata.map_or(CoreMetadata::Absent, |sha256| CoreMetadata::Hashed(sha256.into()));
    let seen = SeenFile { core_metadata, ..SeenFile::at(None) };
    let placed = Placed { path: path.parse().map_err(bad)?, sha256, size, metadata };
    Ok((FileName::of(project, file).map_err(bad)?, (told, seen, placed)))
}

fn bad(error: impl std::fmt::Display) -> BadRecord {
    BadRecord(error.to_string())
}
