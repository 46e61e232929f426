//! The pages of a project, made from its record, and the record read back from them.
//!
//! What always holds:
//!
//! 1. A page is a pure function of what the record says: the order in which it lists files or versions does not
//!    matter, and nothing else goes in.
//! 2. [`read`] reads from a page what [`render`] made it of, also one of an earlier number, as far as a page keeps it: sizes
//!    and digests as they were measured, the normalised name, no URLs.
//! 3. The HTML page and the JSON page name the same files.
//!
//! `tests/render.rs` has one test per number, and the pages as they are.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use maud::{DOCTYPE, PreEscaped, html};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use strandline_model::{
    BadRecord, ClaimedSha256, CoreMetadata, FileName, Form, Json, Mirrored, Placed, Preamble, ProjectName, Record,
    Rendered, Seen, SeenFile, Serial, Sha256, Told, ToldFile, TreePath, UnknownKeys, Yanked,
};

use crate::filename::Order;
use crate::listing::{check_api_version, status, status_text};
use crate::url_check::{percent_decode, percent_encode};

/// The version of the Simple API that pages and lists in JSON follow. They have PEP 752's `namespaces` where upstream gives it, and
/// are none of 1.5 for that: 1.5 promises resources `namespaces` and `namespace/NAME` beside the list, and a mirror has none.
pub(crate) const JSON_API_VERSION: &str = "1.4";

/// That of pages and lists in HTML, to which nothing is added any more (PEP 833).
pub(crate) const HTML_API_VERSION: &str = "1.4";

/// The page that is read back.
pub(crate) const JSON: &str = "index.v1_json";

/// Where a page of a project stands.
pub(crate) fn page_path(project: &ProjectName, file: &str) -> TreePath {
    format!("simple/{project}/{file}").parse().expect("a project's name is a valid segment")
}

/// From a project's page to the mirror's root.
const UP: &str = "../../";

/// A project in the order of its pages: files by version and name, and versions, each once.
struct Sorted<'a> {
    project: &'a Mirrored,
    versions: Vec<&'a str>,
    files: Vec<(&'a FileName, &'a ToldFile, &'a SeenFile, &'a Placed)>,
}

impl<'a> Sorted<'a> {
    fn of(project: &'a Mirrored) -> Self {
        let mut files: Vec<_> = project.files().collect();
        files.sort_by_cached_key(|(name, ..)| Order::of_file(project.record().name(), name.as_str()));
        let mut versions: Vec<_> = project.record().seen().versions.iter().map(String::as_str).collect();
        versions.sort_by_cached_key(|version| Order::of_version(version));
        versions.dedup();
        Self { project, versions, files }
    }
}

/// The pages: `index.html`, `index.v1_html` and `index.v1_json`.
pub(crate) fn render(project: &Mirrored) -> Vec<Rendered> {
    let sorted = Sorted::of(project);
    let page = |file: &str, bytes: Bytes| Rendered { path: page_path(project.record().name(), file), bytes };
    let html = Bytes::from(render_html(&sorted));
    let json = Bytes::from(render_json(&sorted));
    vec![page("index.html", html.clone()), page("index.v1_html", html), page(JSON, json)]
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonPage<'a> {
    #[serde(borrow)]
    meta: JsonMeta<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow, rename = "project-status")]
    project_status: JsonStatus<'a>,
    #[serde(borrow, default, deserialize_with = "even_null", skip_serializing_if = "Option::is_none")]
    namespaces: Option<&'a RawValue>,
    versions: Vec<Text<'a>>,
    files: Vec<JsonFile<'a>>,
}

/// Takes `null` for a value: upstream says by it that a project is in no namespace.
fn even_null<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

type Text<'a> = std::borrow::Cow<'a, str>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonMeta<'a> {
    #[serde(borrow, rename = "api-version")]
    api_version: Text<'a>,
    #[serde(rename = "_last-serial")]
    last_serial: Serial,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonStatus<'a> {
    #[serde(borrow)]
    status: Text<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reason: Option<Text<'a>>,
}

/// The key `dist-info-metadata` must never be here: old installers take it for something else (PEP 714). Null
/// values are left out: some clients refuse them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct JsonFile<'a> {
    #[serde(borrow)]
    filename: Text<'a>,
    #[serde(borrow)]
    url: Text<'a>,
    #[serde(borrow)]
    hashes: JsonHashes<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    requires_python: Option<Text<'a>>,
    size: u64,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    upload_time: Option<Text<'a>>,
    yanked: JsonYanked<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    core_metadata: Option<JsonHashes<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    provenance: Option<Text<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonHashes<'a> {
    #[serde(borrow)]
    sha256: Text<'a>,
}

impl JsonHashes<'_> {
    fn of(digest: &Sha256) -> Self {
        Self { sha256: digest.to_string().into() }
    }

    fn read(&self) -> Result<Sha256, BadRecord> {
        self.sha256.parse().map_err(bad)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum JsonYanked<'a> {
    Flag(bool),
    Reason(Text<'a>),
}

fn render_json(Sorted { project, versions, files }: &Sorted<'_>) -> Vec<u8> {
    let record = project.record();
    let files = files.iter().map(|(name, told, seen, placed)| JsonFile {
        filename: name.as_str().into(),
        url: relative(&placed.path).into(),
        hashes: JsonHashes::of(&placed.sha256),
        requires_python: seen.requires_python.as_deref().map(Into::into),
        size: placed.size,
        upload_time: told.upload_time.map(|time| time.to_string().into()),
        yanked: match &told.yanked {
            Yanked::No => JsonYanked::Flag(false),
            Yanked::Yes(reason) if reason.is_empty() => JsonYanked::Flag(true),
            Yanked::Yes(reason) => JsonYanked::Reason(reason.into()),
        },
        core_metadata: placed.metadata.as_ref().map(JsonHashes::of),
        provenance: seen.provenance.as_deref().map(Into::into),
    });
    let page = JsonPage {
        meta: JsonMeta { api_version: JSON_API_VERSION.into(), last_serial: project.serial() },
        name: record.name().as_str().into(),
        project_status: JsonStatus {
            status: status_text(record.status()).into(),
            reason: record.seen().status_reason.as_deref().map(Into::into),
        },
        namespaces: record.seen().preamble.namespaces.as_ref().map(Json::raw),
        versions: versions.iter().map(|version| (*version).into()).collect(),
        files: files.collect(),
    };
    serde_json::to_vec(&page).expect("texts and numbers with text keys are always JSON")
}

/// Reads what [`render_json`] of any number wrote; an error for anything else. Where the page does not keep a value, the nearest that
/// it tells stands in: the display name is the normalised one, what upstream says of sizes and metadata is what was
/// measured, and URLs are lacking.
pub(crate) fn read(bytes: &[u8]) -> Result<Mirrored, BadRecord> {
    let page: JsonPage<'_> = serde_json::from_slice(bytes).map_err(bad)?;
    check_api_version(&page.meta.api_version).map_err(bad)?;
    let name: ProjectName = page.name.parse().map_err(bad)?;
    let read_status = status(&page.project_status.status);
    if status_text(read_status) != page.project_status.status {
        return Err(bad(format!("unknown status `{}`", page.project_status.status)));
    }
    let (mut told, mut seen, mut placed) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for file in page.files {
        let filename = FileName::of(&name, &file.filename).map_err(bad)?;
        let (told_file, seen_file, placed_file) = read_file(file)?;
        match told.entry(filename.clone()) {
            Entry::Vacant(free) => free.insert(told_file),
            Entry::Occupied(_) => return Err(bad(format!("`{}` stands there twice", filename.as_str()))),
        };
        seen.insert(filename.clone(), seen_file);
        placed.insert(filename, placed_file);
    }
    let (quarantined, maintenance) = read_status.parts();
    let seen = Seen {
        display: name.as_str().parse().map_err(bad)?,
        preamble: Preamble { namespaces: page.namespaces.map(Into::into), ..Preamble::of(Form::Json) },
        maintenance,
        status_reason: page.project_status.reason.map(Into::into),
        versions: page.versions.into_iter().map(Into::into).collect(),
        files: seen,
    };
    let record = Record::new(Told { name, quarantined, files: told }, seen).map_err(bad)?;
    Mirrored::new(record, page.meta.last_serial, placed).map_err(bad)
}

fn read_file(file: JsonFile<'_>) -> Result<(ToldFile, SeenFile, Placed), BadRecord> {
    let path = file.url.strip_prefix(UP).and_then(percent_decode);
    let path = path.ok_or_else(|| bad(format!("`{}` does not lead to the mirror's packages", file.url)))?;
    let (sha256, size) = (file.hashes.read()?, file.size);
    let metadata = file.core_metadata.map(|hashes| hashes.read()).transpose()?;
    let told = ToldFile {
        sha256: Some(sha256.into()),
        size: Some(size),
        upload_time: file.upload_time.map(|time| time.parse()).transpose().map_err(bad)?,
        yanked: match file.yanked {
            JsonYanked::Flag(false) => Yanked::No,
            JsonYanked::Flag(true) => Yanked::Yes(String::new()),
            JsonYanked::Reason(reason) => Yanked::Yes(reason.into()),
        },
    };
    let seen = SeenFile {
        url: None,
        query: false,
        requires_python: file.requires_python.map(Into::into),
        core_metadata: metadata
            .map_or(CoreMetadata::Absent, |sha256| CoreMetadata::Hashed(ClaimedSha256::from(sha256))),
        provenance: file.provenance.map(Into::into),
        unknown: UnknownKeys::new(),
    };
    Ok((told, seen, Placed { path: path.parse().map_err(bad)?, sha256, size, metadata }))
}

fn bad(error: impl std::fmt::Display) -> BadRecord {
    BadRecord(error.to_string())
}

/// The URL of a path of the mirror, from a project's page.
fn relative(path: &TreePath) -> String {
    format!("{UP}{}", percent_encode(path.as_str()))
}

fn render_html(Sorted { project, files, .. }: &Sorted<'_>) -> String {
    let record = project.record();
    let page = html! {
        (DOCTYPE)
        html {
            head {
                meta charset="utf-8";
                meta name="pypi:repository-version" content=(HTML_API_VERSION);
                meta name="pypi:project-status" content=(status_text(record.status()));
                @if let Some(reason) = &record.seen().status_reason {
                    meta name="pypi:project-status-reason" content=(reason);
                }
                title { "Links for " (record.name()) }
            }
            (PreEscaped("\n"))
            body {
                h1 { "Links for " (record.name()) }
                (PreEscaped("\n"))
                @for (name, told, seen, placed) in files {
                    (link(name, told, seen, placed))
                    (PreEscaped("\n"))
                }
            }
        }
        (PreEscaped(format!("\n<!--SERIAL {}-->\n", project.serial())))
    };
    page.into_string()
}

fn link(name: &FileName, told: &ToldFile, seen: &SeenFile, placed: &Placed) -> maud::Markup {
    let yanked = match &told.yanked {
        Yanked::No => None,
        Yanked::Yes(reason) => Some(reason),
    };
    let metadata = placed.metadata.map(|digest| format!("sha256={digest}"));
    html! {
        a href={ (relative(&placed.path)) "#sha256=" (placed.sha256) }
            data-requires-python=[seen.requires_python.as_deref()]
            data-yanked=[yanked]
            data-core-metadata=[metadata.as_deref()]
            data-dist-info-metadata=[metadata.as_deref()]
            data-provenance=[seen.provenance.as_deref()]
            { (name.as_str()) }
        br;
    }
}
