//! The rules for pages of both kinds: each file is checked, each filename is there once.
//!
//! What always holds: a [`Page`] that [`Listing::finish`] made names only files of the project itself, each with
//! a digest, at URLs that [`resolve`] let through; queries of URLs stand beside its record. Tested in `json.rs` and `html.rs`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use strandline_model::{
    ClaimedSha256, CoreMetadata, DisplayName, FileName, Preamble, ProjectName, Record, Seen, SeenFile, Serial, Status,
    Told, ToldFile, UnknownKeys, UploadTime, Yanked,
};
use strandline_sync::upstream::{Page, Problem};
use url::Url;

use crate::filename;
use crate::url_check::{is_local_host, resolve, shown};

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
    preamble: Preamble,
    files: BTreeMap<FileName, (ToldFile, SeenFile)>,
    queries: BTreeMap<FileName, String>,
}

/// A file as a page names it, before it is checked.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) filename: String,
    pub(crate) url: Url,
    pub(crate) sha256: ClaimedSha256,
    pub(crate) size: Option<u64>,
    pub(crate) requires_python: Option<String>,
    /// Left out where it is no time.
    pub(crate) upload_time: Option<UploadTime>,
    pub(crate) yanked: Yanked,
    pub(crate) core_metadata: CoreMetadata,
    pub(crate) provenance: Option<String>,
    pub(crate) unknown: UnknownKeys,
}

/// An error about the form of a page.
pub(crate) fn malformed(text: impl Into<String>) -> Problem {
    Problem::Malformed(text.into())
}

impl<'a> Listing<'a> {
    pub(crate) fn new(context: Context<'a>, preamble: Preamble) -> Self {
        Self { context, preamble, files: BTreeMap::new(), queries: BTreeMap::new() }
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

    /// Takes a file; an error if it cannot be one of the project, or if the page names other bytes for it too.
    pub(crate) fn add(&mut self, claim: Claim) -> Result<(), Problem> {
        let filename = FileName::of(self.context.project, &claim.filename).map_err(|e| malformed(e.to_string()))?;
        if claim.filename.ends_with(".metadata") || claim.filename.ends_with(".provenance") {
            // It would stand where another file's metadata stands.
            return Err(malformed(format!("`{}` cannot be a release file: its ending is taken", claim.filename)));
        }
        let provenance = match &claim.provenance {
            None => None,
            Some(text) => {
                let what = format!("provenance of `{}`", claim.filename);
                let url = self.url(self.context.url, &what, text)?.0;
                // Without its query it leads elsewhere, and with it, it may be a secret.
                url.query().is_none().then(|| url.to_string())
            }
        };
        let mut url = claim.url;
        let query = url.query().map(str::to_owned);
        url.set_query(None);
        let told =
            ToldFile { sha256: claim.sha256, size: claim.size, upload_time: claim.upload_time, yanked: claim.yanked };
        let seen = SeenFile {
            url: Some(url.to_string()),
            query: query.is_some(),
            requires_python: claim.requires_python.filter(|text| !text.is_empty()),
            core_metadata: claim.core_metadata,
            provenance,
            unknown: claim.unknown,
        };
        match self.files.entry(filename) {
            Entry::Vacant(free) => {
                self.queries.extend(query.map(|query| (free.key().clone(), query)));
                free.insert((told, seen));
                Ok(())
            }
            Entry::Occupied(known) if known.get().0.sha256 == told.sha256 => Ok(()),
            Entry::Occupied(known) => Err(malformed(format!(
                "`{}` stands on the page twice, with sha256 {} and {}",
                known.key().as_str(),
                known.get().0.sha256,
                told.sha256
            ))),
        }
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
        Ok(Page { record, serial, queries: self.queries })
    }
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
