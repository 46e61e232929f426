//! The pages of a project, made from its record, and the record read back from them.
//!
//! What always holds:
//!
//! 1. A page is a pure function of what the record says: the order in which it lists files or versions does not
//!    matter, and nothing else goes in.
//! 2. [`read_record`] of what [`render`] made is the record, in [`normal`] order.
//! 3. The HTML page and the JSON page name the same files.
//!
//! `tests/render.rs` has one test per number, and the pages as they are.

use bytes::Bytes;
use maud::{DOCTYPE, PreEscaped, html};
use serde::{Deserialize, Serialize};
use strandline_model::{ProjectName, Serial, Sha256, TreePath};
use strandline_sync::record::{Details, FileName, MirroredFile, Record, Yanked};
use strandline_sync::source::{BadRecord, Rendered};

use crate::filename::Order;
use crate::listing::{status, status_text};
use crate::url_check::{percent_decode, percent_encode};

/// The version of the Simple API that pages follow.
pub(crate) const API_VERSION: &str = "1.4";

/// From a project's page to the mirror's root.
const UP: &str = "../../";

/// The record with its files sorted by version and name, and its versions sorted, each once.
pub(crate) fn normal(record: &Record) -> Record {
    let mut record = record.clone();
    record.files.sort_by_cached_key(|file| Order::of_file(&record.name, file.details.filename.as_str()));
    record.versions.sort_by_cached_key(|version| Order::of_version(version));
    record.versions.dedup();
    record
}

/// The pages: `index.html`, `index.v1_html` and `index.v1_json`.
pub(crate) fn render(record: &Record) -> Vec<Rendered> {
    let record = normal(record);
    let page = |file: &str, bytes: Bytes| {
        let path = format!("simple/{}/{file}", record.name);
        Rendered { path: path.parse().expect("a project's name is a valid segment"), bytes }
    };
    let html = Bytes::from(render_html(&record));
    let json = Bytes::from(render_json(&record));
    vec![page("index.html", html.clone()), page("index.v1_html", html), page("index.v1_json", json)]
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
    versions: Vec<Text<'a>>,
    files: Vec<JsonFile<'a>>,
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

/// `record` is in normal order.
fn render_json(record: &Record) -> Vec<u8> {
    let files = record.files.iter().map(|file| JsonFile {
        filename: file.details.filename.as_str().into(),
        url: relative(&file.path).into(),
        hashes: JsonHashes::of(&file.sha256),
        requires_python: file.details.requires_python.as_deref().map(Into::into),
        size: file.size,
        upload_time: file.details.upload_time.as_deref().map(Into::into),
        yanked: match &file.details.yanked {
            Yanked::No => JsonYanked::Flag(false),
            Yanked::Yes(reason) if reason.is_empty() => JsonYanked::Flag(true),
            Yanked::Yes(reason) => JsonYanked::Reason(reason.into()),
        },
        core_metadata: file.core_metadata.as_ref().map(JsonHashes::of),
        provenance: file.details.provenance.as_deref().map(Into::into),
    });
    let page = JsonPage {
        meta: JsonMeta { api_version: API_VERSION.into(), last_serial: record.serial },
        name: record.name.as_str().into(),
        project_status: JsonStatus {
            status: status_text(record.status).into(),
            reason: record.status_reason.as_deref().map(Into::into),
        },
        versions: record.versions.iter().map(Into::into).collect(),
        files: files.collect(),
    };
    serde_json::to_vec(&page).expect("texts and numbers with text keys are always JSON")
}

/// Reads what [`render_json`] wrote; an error for anything else.
pub(crate) fn read_record(bytes: &[u8]) -> Result<Record, BadRecord> {
    let page: JsonPage<'_> = serde_json::from_slice(bytes).map_err(bad)?;
    if page.meta.api_version != API_VERSION {
        return Err(bad(format!("its API version is `{}`, not {API_VERSION}", page.meta.api_version)));
    }
    let name: ProjectName = page.name.parse().map_err(bad)?;
    let read_status = status(&page.project_status.status);
    if status_text(read_status) != page.project_status.status {
        return Err(bad(format!("unknown status `{}`", page.project_status.status)));
    }
    let files = page.files.into_iter().map(|file| read_file(&name, file)).collect::<Result<_, _>>()?;
    Ok(Record {
        serial: page.meta.last_serial,
        status: read_status,
        status_reason: page.project_status.reason.map(Into::into),
        versions: page.versions.into_iter().map(Into::into).collect(),
        files,
        name,
    })
}

fn read_file(project: &ProjectName, file: JsonFile<'_>) -> Result<MirroredFile, BadRecord> {
    let path = file.url.strip_prefix(UP).and_then(percent_decode);
    let path = path.ok_or_else(|| bad(format!("`{}` does not lead to the mirror's packages", file.url)))?;
    Ok(MirroredFile {
        path: path.parse().map_err(bad)?,
        sha256: file.hashes.read()?,
        size: file.size,
        core_metadata: file.core_metadata.map(|hashes| hashes.read()).transpose()?,
        details: Details {
            filename: FileName::of(project, &file.filename).map_err(bad)?,
            requires_python: file.requires_python.map(Into::into),
            upload_time: file.upload_time.map(Into::into),
            yanked: match file.yanked {
                JsonYanked::Flag(false) => Yanked::No,
                JsonYanked::Flag(true) => Yanked::Yes(String::new()),
                JsonYanked::Reason(reason) => Yanked::Yes(reason.into()),
            },
            provenance: file.provenance.map(Into::into),
        },
    })
}

fn bad(error: impl std::fmt::Display) -> BadRecord {
    BadRecord(error.to_string())
}

/// The URL of a path of the mirror, from a project's page.
fn relative(path: &TreePath) -> String {
    format!("{UP}{}", percent_encode(path.as_str()))
}

/// `record` is in normal order.
fn render_html(record: &Record) -> String {
    let page = html! {
        (DOCTYPE)
        html {
            head {
                meta charset="utf-8";
                meta name="pypi:repository-version" content=(API_VERSION);
                meta name="pypi:project-status" content=(status_text(record.status));
                @if let Some(reason) = &record.status_reason {
                    meta name="pypi:project-status-reason" content=(reason);
                }
                title { "Links for " (record.name) }
            }
            (PreEscaped("\n"))
            body {
                h1 { "Links for " (record.name) }
                (PreEscaped("\n"))
                @for file in &record.files {
                    (link(file))
                    (PreEscaped("\n"))
                }
            }
        }
        (PreEscaped(format!("\n<!--SERIAL {}-->\n", record.serial)))
    };
    page.into_string()
}

fn link(file: &MirroredFile) -> maud::Markup {
    let Details { filename, requires_python, yanked, provenance, .. } = &file.details;
    let yanked = match yanked {
        Yanked::No => None,
        Yanked::Yes(reason) => Some(reason),
    };
    let metadata = file.core_metadata.map(|digest| format!("sha256={digest}"));
    html! {
        a href={ (relative(&file.path)) "#sha256=" (file.sha256) }
            data-requires-python=[requires_python.as_deref()]
            data-yanked=[yanked]
            data-core-metadata=[metadata.as_deref()]
            data-dist-info-metadata=[metadata.as_deref()]
            data-provenance=[provenance.as_deref()]
            { (filename.as_str()) }
        br;
    }
}
