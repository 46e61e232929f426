//! The rules for pages of both kinds: each file is checked, each filename is there once.
//!
//! What always holds: a [`Page`] that [`Listing::finish`] made names only files of the project itself. Each has a digest, at
//! a URL that [`resolve`] let through, or it stands there by its name alone. What cannot be used is counted and named; it makes
//! no page bad, unless no file of it has a name that a file of the project can have: then it is another project's page.
//! Queries of URLs stand beside its record. Tested in `json.rs` and `html.rs`.

use std::collections::BTreeMap;

use strandline_model::{
    ClaimedSha256, CoreMetadata, DisplayName, FileName, Preamble, ProjectName, Record, Seen, SeenFile, Serial, Status,
    Told, ToldFile, UnknownKeys, UploadTime, Yanked,
};
use strandline_sync::upstream::{Page, Problem, Skipped};
use url::Url;

use crate::filename;
use crate::url_check::{is_local_host, resolve, shown};

/// How many files a page may have: several times as many as the largest page of the largest index.
pub(crate) const MOST_FILES: usize = 100_000;

/// Against what a page is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    /// The project that was asked for.
    pub(crate) project: &'a ProjectName,
    /// The page's URL, after all redirects.
    pub(crate) url: &'a Url,
    /// Whether URLs may lead to addresses that are not on the public internet.
    pub(crate) local_allowed: bool,
}

/// The parts of a page while it is read.
#[derive(Debug)]
pub(crate) struct Listing<'a> {
    context: Context<'a>,
    pub(crate) preamble: Preamble,
    files: BTreeMap<FileName, (ToldFile, SeenFile)>,
    queries: BTreeMap<FileName, String>,
    skipped: Skipped,
    /// Why the first file that has no usable name has none.
    nameless: Option<String>,
}

/// A file as a page names it, before it is checked.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) filename: String,
    /// Where it is and what it is, or why the file cannot be had.
    pub(crate) needed: Result<(Url, ClaimedSha256), Problem>,
    pub(crate) size: Option<u64>,
    pub(crate) requires_python: Option<String>,
    /// Left out where it is no time.
    pub(crate) upload_time: Option<UploadTime>,
    pub(crate) yanked: Yanked,
    pub(crate) core_metadata: CoreMetadata,
    pub(crate) provenance: Option<String>,
    pub(crate) unknown: UnknownKeys,
}

/// What a list or log has that nothing could be mirrored by. Dropping it says how much that is, and what the first was: there may
/// be a million.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    count: u64,
    first: String,
}

impl LeftOut {
    /// Adds one; `what` says what it is, and why it is left out.
    pub(crate) fn add(&mut self, what: impl FnOnce() -> String) {
        if self.count == 0 {
            self.first = what();
        }
        self.count += 1;
    }
}

impl Drop for LeftOut {
    fn drop(&mut self) {
        match self.count {
            0 => {}
            1 => tracing::warn!("left out: {}", self.first),
            count => tracing::warn!("left out: {}; and {} more", self.first, count - 1),
        }
    }
}

/// An error about the form of a page.
pub(crate) fn malformed(text: impl Into<String>) -> Problem {
    Problem::Malformed(text.into())
}

impl<'a> Listing<'a> {
    pub(crate) fn new(context: Context<'a>, preamble: Preamble) -> Self {
        let (files, queries) = (BTreeMap::new(), BTreeMap::new());
        Self { context, preamble, files, queries, skipped: Skipped::default(), nameless: None }
    }

    /// Skips a file that no record can name.
    pub(crate) fn skip_nameless(&mut self, why: String) {
        self.nameless.get_or_insert_with(|| why.clone());
        self.skipped.add(why);
    }

    /// A field of a file, left out where it is bad.
    pub(crate) fn usable<T: Default>(&mut self, field: Result<T, Problem>) -> T {
        field.unwrap_or_else(|problem| {
            self.skipped.add(problem.to_string());
            T::default()
        })
    }

    /// Resolves a URL that the page names for `what`; also its fragment.
    pub(crate) fn url(&self, base: &Url, what: &str, text: &str) -> Result<(Url, Option<String>), Problem> {
        let (url, fragment) = resolve(base, text).map_err(|error| Problem::Forbidden(format!("{what}: {error}")))?;
        if !self.context.local_allowed && is_local_host(&url) {
            return Err(Problem::Forbidden(format!(
                "{what}: the URL `{}` leads into a private network, where upstream itself is not",
                shown(url.as_str())
            )));
        }
        Ok((url, fragment))
    }

    /// Takes a file. One that no record can name is skipped, and one that cannot be had, or that the page has twice with other
    /// digests, stands there by its name alone.
    pub(crate) fn add(&mut self, claim: Claim) {
        let filename = match FileName::of(self.context.project, &claim.filename) {
            Ok(filename) => filename,
            Err(error) => return self.skip_nameless(error.to_string()),
        };
        if claim.filename.ends_with(".metadata") || claim.filename.ends_with(".provenance") {
            // It would stand where another file's metadata stands.
            return self.skip_nameless(format!("`{}` cannot be a release file: its ending is taken", claim.filename));
        }
        let size = claim.size.map_or(Ok(None), |size| check_size(&claim.filename, size));
        let size = self.usable(size);
        let provenance = claim.provenance.map_or(Ok(None), |text| self.provenance(&claim.filename, &text));
        let provenance = self.usable(provenance);
        let (mut url, sha256) = match claim.needed {
            Ok(needed) => needed,
            Err(problem) => return self.add_named(filename, problem.to_string()),
        };
        let query = url.query().map(str::to_owned);
        url.set_query(None);
        let (upload_time, yanked) = (claim.upload_time, claim.yanked);
        let told = ToldFile { sha256: Some(sha256), size, upload_time, yanked };
        let seen = SeenFile {
            url: Some(url.to_string()),
            query: query.is_some(),
            requires_python: claim.requires_python.filter(|text| !text.is_empty()),
            core_metadata: claim.core_metadata,
            provenance,
            unknown: claim.unknown,
        };
        match self.files.get(&filename).map(|(known, _)| known.sha256) {
            None => {
                self.queries.extend(query.map(|query| (filename.clone(), query)));
                self.files.insert(filename, (told, seen));
            }
            Some(known) if known == Some(sha256) => {}
            Some(known) => {
                let known = known.map_or_else(String::new, |known| format!(": {known} and {sha256}"));
                let why = format!("`{}` stands on the page twice, and not with one digest{known}", filename.as_str());
                self.add_named(filename, why);
            }
        }
    }

    /// Takes a file by its name alone.
    fn add_named(&mut self, filename: FileName, why: String) {
        self.skipped.add(why);
        self.queries.remove(&filename);
        self.files.insert(filename, (ToldFile::named(), SeenFile::at(None)));
    }

    fn provenance(&self, filename: &str, text: &str) -> Result<Option<String>, Problem> {
        let what = format!("provenance of `{}`", shown(filename));
        let (url, _) = self.url(self.context.url, &what, text)?;
        if url.query().is_some() {
            // Without its query it leads elsewhere, and with it, it may be a secret.
            return Err(malformed(format!("{what} has a query")));
        }
        Ok(Some(url.to_string()))
    }

    /// The page, with versions from the files' names where it does not say its versions.
    pub(crate) fn finish(
        self,
        name: &str,
        serial: Option<Serial>,
        (status, status_reason): (Status, Option<String>),
        versions: Option<Vec<String>>,
    ) -> Result<Page, Problem> {
        let project = self.context.project;
        let display: DisplayName = name.parse().map_err(|error| malformed(format!("name: {error}")))?;
        if !display.is_of(project) {
            return Err(malformed(format!("the page is that of `{display}`, not of `{project}`")));
        }
        if let (true, Some(why)) = (self.files.is_empty(), self.nameless) {
            return Err(malformed(why));
        }
        // A quarantined project offers no files, even if its page lists some (PEP 792).
        let files = if status == Status::Quarantined { BTreeMap::new() } else { self.files };
        let mut versions = versions
            .unwrap_or_else(|| files.keys().filter_map(|file| filename::version_of(project, file.as_str())).collect());
        versions.sort_by_cached_key(|version| filename::Order::of_version(version));
        versions.dedup();
        let (quarantined, maintenance) = status.parts();
        let (mut told, mut seen) = (BTreeMap::new(), BTreeMap::new());
        for (name, (told_file, seen_file)) in files {
            told.insert(name.clone(), told_file);
            seen.insert(name, seen_file);
        }
        let told = Told { name: project.clone(), quarantined, files: told };
        let preamble = self.preamble;
        let seen = Seen { display, preamble, maintenance, status_reason, versions, files: seen }.bounded();
        let record = Record::new(told, seen).map_err(|error| malformed(error.to_string()))?;
        Ok(Page { record, serial, queries: self.queries, skipped: self.skipped })
    }
}

/// A size, if a record can say it (RFC 8785, section 3.2.2.3).
fn check_size(filename: &str, size: u64) -> Result<Option<u64>, Problem> {
    if size >= 1 << 53 {
        return Err(malformed(format!("size of `{}` is `{size}`, which is no size of a file", shown(filename))));
    }
    Ok(Some(size))
}

/// Reads a project's status. A status that a later PEP may add counts as active, as PEP 792 says of an absent one.
pub(crate) fn status(text: &str) -> Status {
    match text {
        "archived" => Status::Archived,
        "quarantined" => Status::Quarantined,
        "deprecated" => Status::Deprecated,
        _ => Status::Active,
    }
}

/// How a status is written.
pub(crate) fn status_text(status: Status) -> &'static str {
    match status {
        Status::Active => "active",
        Status::Archived => "archived",
        Status::Quarantined => "quarantined",
        Status::Deprecated => "deprecated",
    }
}

/// Takes version 1 of the Simple API, with any minor one.
pub(crate) fn check_api_version(text: &str) -> Result<(), Problem> {
    let major = text.split('.').next().unwrap_or_default();
    if major == "1" && text.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())) {
        Ok(())
    } else {
        Err(malformed(format!("the page is of Simple API version `{}`; this program reads version 1", shown(text))))
    }
}
