//! The lists of all projects.
//!
//! What always holds: a list is a function of the tree's leaves and the serial, and it is written as it is made,
//! because there are 700,000 lines. Tested in `tests/lists.rs`.

use std::io;

use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};
use strandline_model::{DisplayName, ListedProject, Serial, TreePath};

use crate::render::{HTML_API_VERSION, JSON_API_VERSION};
use crate::root::parse_with_serial;

const PATHS: [&str; 3] = ["simple/index.html", "simple/index.v1_html", "simple/index.v1_json"];

/// Where the lists stand, sorted.
pub(crate) fn paths() -> Vec<TreePath> {
    PATHS.iter().map(|path| path.parse().expect("written above as valid paths")).collect()
}

/// Which list before it has the same bytes, where one has.
pub(crate) fn same_as(path: &TreePath) -> Option<TreePath> {
    (path.as_str() == PATHS[1]).then(|| PATHS[0].parse().expect("written above as a valid path"))
}

/// Writes the list that stands at `path`.
pub(crate) fn write(
    path: &TreePath,
    serial: Serial,
    projects: &[ListedProject],
    out: &mut dyn io::Write,
) -> io::Result<()> {
    match path.as_str() {
        "simple/index.v1_json" => write_json(serial, projects, out),
        "simple/index.html" | "simple/index.v1_html" => write_html(serial, projects, out),
        other => Err(io::Error::other(format!("`{other}` is not a list of projects"))),
    }
}

/// Reads the list in JSON; the one in HTML lacks the projects' serials.
pub(crate) fn read(bytes: &[u8]) -> io::Result<(Serial, Vec<ListedProject>)> {
    let (serial, projects) = parse_with_serial(bytes).map_err(io::Error::other)?;
    let serial = serial.ok_or_else(|| io::Error::other("the list has no serial"))?;
    let listed = |(display, serial): (DisplayName, Serial)| {
        let name = display.normalise();
        ListedProject { name, display, serial }
    };
    Ok((serial, projects.into_iter().map(listed).collect()))
}

#[derive(Serialize)]
struct Meta {
    #[serde(rename = "api-version")]
    api_version: &'static str,
    #[serde(rename = "_last-serial")]
    last_serial: Serial,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a DisplayName,
    #[serde(rename = "_last-serial")]
    last_serial: Serial,
}

#[derive(Serialize)]
struct List<'a> {
    meta: Meta,
    #[serde(serialize_with = "lines")]
    projects: &'a [ListedProject],
}

fn lines<S: Serializer>(projects: &[ListedProject], serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(projects.len()))?;
    for project in projects {
        list.serialize_element(&Line { name: &project.display, last_serial: project.serial })?;
    }
    list.end()
}

fn write_json(serial: Serial, projects: &[ListedProject], out: &mut dyn io::Write) -> io::Result<()> {
    let list = List { meta: Meta { api_version: JSON_API_VERSION, last_serial: serial }, projects };
    Ok(list.serialize(&mut serde_json::Serializer::new(out))?)
}

fn write_html(serial: Serial, projects: &[ListedProject], out: &mut dyn io::Write) -> io::Result<()> {
    writeln!(
        out,
        "<!DOCTYPE html><html><head><meta charset=\"utf-8\">\
         <meta name=\"pypi:repository-version\" content=\"{HTML_API_VERSION}\"><title>Simple index</title></head>\n<body>"
    )?;
    // Both names are letters, digits, `.`, `-` and `_`: there is nothing to escape in them.
    for ListedProject { name, display, .. } in projects {
        writeln!(out, "<a href=\"{name}/\">{display}</a><br>")?;
    }
    writeln!(out, "</body></html>\n<!--SERIAL {serial}-->")
}
