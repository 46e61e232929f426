//! What the tests use of the machine: pip, uv, real wheels, b3sum. `scripts/test` brings it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use strandline_testkit::{Upload, World as Index};

use crate::support::world::{World, files};

/// A path below the tools, which has to be there.
#[track_caller]
pub(crate) fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-tools").join(name);
    assert!(path.exists(), "`{}` is missing: run scripts/test, which brings what the tests need", path.display());
    path
}

/// The program of this name, in PATH or where Debian has what only root's PATH names.
#[track_caller]
pub(crate) fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(usual).map(|directory| directory.join(name)).find(|p| p.is_file());
    assert!(found.is_some(), "there is no {name}: run scripts/test, which brings what the tests need");
    found.unwrap_or_default()
}

/// Uploads the real wheels; their versions by project.
#[track_caller]
pub(crate) fn upload_real(index: &mut Index) -> BTreeMap<String, String> {
    tool("wheels/complete");
    let mut versions = BTreeMap::new();
    for path in files(&tool("wheels")).into_values() {
        if path.extension().is_some_and(|extension| extension == "whl") {
            let (project, upload) = Upload::from_path(&path).unwrap();
            index.upload(&project, &upload);
            versions.insert(project.to_ascii_lowercase().replace('_', "-"), upload.version);
        }
    }
    assert!(versions.contains_key("requests") && versions.contains_key("six"), "run scripts/test: {versions:?}");
    versions
}

/// The BLAKE3 of a file, as b3sum says it.
#[track_caller]
pub(crate) fn b3sum(path: &Path) -> String {
    let output = Command::new(program("b3sum")).arg("--no-names").arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Who installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Pip,
    Uv,
}

impl Client {
    pub(crate) const ALL: [Self; 2] = [Self::Pip, Self::Uv];
}

/// What came of an installation.
#[derive(Debug)]
pub(crate) struct Installed {
    pub(crate) succeeded: bool,
    pub(crate) said: String,
    site: PathBuf,
}

impl Installed {
    /// The versions of what was installed, by normalised name.
    pub(crate) fn versions(&self) -> BTreeMap<String, String> {
        let names = fs::read_dir(&self.site).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let infos = names.filter_map(|name| Some(name.strip_suffix(".dist-info")?.to_owned()));
        infos
            .map(|info| {
                let (name, version) = info.split_once('-').unwrap();
                (name.to_ascii_lowercase().replace(['_', '.'], "-"), version.to_owned())
            })
            .collect()
    }

    /// The payload of a synthetic wheel that was installed.
    pub(crate) fn payload(&self, module: &str) -> Vec<u8> {
        fs::read(self.site.join(module).join("payload.bin")).unwrap()
    }
}

/// A fresh virtual environment without anything in it, in a directory of the world.
#[track_caller]
fn environment(world: &World) -> PathBuf {
    let path = tempfile::Builder::new().prefix("venv-").tempdir_in(world.path("")).unwrap().keep();
    let made = Command::new(tool("venv/bin/python")).args(["-m", "venv", "--without-pip"]).arg(&path).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    path
}

/// Makes a fresh virtual environment with pip in it.
#[track_caller]
pub(crate) fn environment_with_pip(world: &World, name: &str) -> PathBuf {
    let path = world.path(name);
    let made = Command::new(tool("venv/bin/python")).args(["-m", "venv"]).arg(&path).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    path
}

/// Installs into a fresh environment, with nothing but `index` to install from.
#[track_caller]
pub(crate) fn install(world: &World, client: Client, index: &str, requirements: &[&str]) -> Installed {
    let environment = environment(world);
    let python = environment.join("bin/python");
    let mut command = match client {
        Client::Pip => {
            let mut command = Command::new(tool("venv/bin/pip"));
            let python = python.to_str().unwrap();
            command.args(["--python", python, "install", "--no-cache-dir", "--no-input", "--index-url", index]);
            command
        }
        Client::Uv => {
            let mut command = Command::new(tool("venv/bin/uv"));
            let python = python.to_str().unwrap();
            command.args(["pip", "install", "--no-cache", "--python", python, "--default-index", index]);
            command
        }
    };
    isolate(&mut command, world);
    let output = command.args(requirements).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let lib = fs::read_dir(environment.join("lib")).unwrap().next().unwrap().unwrap().path();
    Installed { succeeded: output.status.success(), said, site: lib.join("site-packages") }
}

/// Lets pip and uv know nothing but what they are told on the command line.
pub(crate) fn isolate(command: &mut Command, world: &World) {
    command
        .stdin(Stdio::null())
        .current_dir(world.path(""))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", world.path(""))
        .env("PIP_CONFIG_FILE", "/dev/null")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("UV_NO_CONFIG", "1")
        .env("UV_PYTHON_DOWNLOADS", "never");
}
