//! The format of a mirror of a Python package index.

use std::io;

use strandline_model::{
    BadRecord, ClaimedSha256, FileName, Format, ListedProject, Mirrored, ProjectName, ReadSeek, Releases, Rendered,
    Serial, TreePath,
};

use crate::{filename, lists, paths, render, wheel};

/// Pages and lists as a Python package index has them (PEPs 503 and 691), in HTML and JSON. The JSON page of a project is the one
/// that is read back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pypi;

impl Releases for Pypi {
    fn is_of_release(&self, project: &ProjectName, filename: &str, version: &str) -> Option<bool> {
        filename::is_of_release(project, filename, version)
    }
}

impl Format for Pypi {
    fn number(&self) -> u32 {
        1
    }

    fn record_path(&self, project: &ProjectName) -> TreePath {
        render::page_path(project, render::JSON)
    }

    fn render(&self, project: &Mirrored) -> Vec<Rendered> {
        render::render(project)
    }

    fn read(&self, bytes: &[u8]) -> Result<Mirrored, BadRecord> {
        render::read(bytes)
    }

    /// The first choice is upstream's own path, if it has the form `packages/xx/yy/REST/FILENAME`.
    fn file_paths(&self, name: &FileName, sha256: ClaimedSha256, url: &str) -> [TreePath; 2] {
        paths::file_paths(name, sha256, url)
    }

    fn metadata_inside(&self, name: &FileName, file: &mut dyn ReadSeek) -> Option<Vec<u8>> {
        wheel::metadata(name.as_str(), file)
    }

    fn list_paths(&self) -> Vec<TreePath> {
        lists::paths()
    }

    fn same_as(&self, path: &TreePath) -> Option<TreePath> {
        lists::same_as(path)
    }

    fn write_list(
        &self,
        path: &TreePath,
        serial: Serial,
        projects: &[ListedProject],
        out: &mut dyn io::Write,
    ) -> io::Result<()> {
        lists::write(path, serial, projects, out)
    }

    fn read_list(&self, bytes: &[u8]) -> io::Result<(Serial, Vec<ListedProject>)> {
        lists::read(bytes)
    }
}
