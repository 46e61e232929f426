//! A directory with a configuration and a store, the fake upstream that it mirrors, and the program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use strandline_testkit::{Upload, Upstream, WheelSpec, World as Index};
use tempfile::TempDir;

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// See the module's documentation.
pub(crate) struct World {
    directory: TempDir,
    pub(crate) upstream: Upstream,
}

/// How the program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Requires the exit code.
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Requires that stderr says all of this.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "stderr does not say `{word}`:\n{}", self.err);
        }
        self
    }

    /// The JSON objects on stdout, one a line.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl World {
    /// Serves `index`, with a configuration of one mirror `pypi` to which `lines` are added.
    pub(crate) fn new(index: Index, lines: &str) -> Self {
        let world = Self { directory: tempfile::tempdir().unwrap(), upstream: Upstream::start(index).unwrap() };
        world.configure("", lines);
        world
    }

    /// As [`World::new`], with another `cut-timeout`.
    pub(crate) fn patient(index: Index, patience: &str, lines: &str) -> Self {
        let world = Self::new(index, "");
        world.write_configuration("", patience, lines);
        world
    }

    /// Writes the configuration: `top` above the mirror, `lines` in it.
    pub(crate) fn configure(&self, top: &str, lines: &str) {
        self.write_configuration(top, "5s", lines);
    }

    fn write_configuration(&self, top: &str, patience: &str, lines: &str) {
        let upstream = self.upstream.simple_url();
        let text = format!(
            "store = \"store\"\n{top}\n\
             [mirror.pypi]\nupstream = \"{upstream}\"\ndrain = \"0s\"\ncut-timeout = \"{patience}\"\n{lines}\n"
        );
        fs::write(self.path("strandline.toml"), text).unwrap();
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The program, to be run in the directory and in an environment of its own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strandline"));
        command.args(arguments).current_dir(self.directory.path()).stdin(Stdio::null()).env_clear();
        // Where roots of trust are is a property of the machine.
        for name in ["PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("HOME", self.directory.path());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Self::run_command(&mut self.command(arguments))
    }

    /// Runs a [`command`](Self::command) to its end.
    pub(crate) fn run_command(command: &mut Command) -> Run {
        let output = command.output().unwrap();
        Run {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs the program and requires that it succeeds; its stdout.
    #[track_caller]
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        self.run(arguments).ended(0).out
    }

    /// Starts the program.
    pub(crate) fn start(&self, arguments: &[&str]) -> Process {
        self.start_with(arguments, &[])
    }

    /// Starts the program with more variables in its environment.
    pub(crate) fn start_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Process {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        Process::start(command, &self.directory)
    }

    /// The snapshots of the mirror, the newest first, as `log --json` says them.
    #[track_caller]
    pub(crate) fn log(&self) -> Vec<Value> {
        self.run(&["log", "pypi", "--json"]).ended(0).json_lines()
    }

    /// The label of the newest snapshot.
    #[track_caller]
    pub(crate) fn newest(&self) -> String {
        text(&self.log()[0]["serial"])
    }

    /// The id of the published snapshot's tree.
    #[track_caller]
    pub(crate) fn tree(&self) -> String {
        tree_of(&self.done(&["show", "pypi"]))
    }

    /// Everything that the live view shows, with `live` itself: what readers can see.
    pub(crate) fn live(&self) -> BTreeMap<String, Vec<u8>> {
        let live = self.path("store/views/pypi/live");
        let mut found = BTreeMap::new();
        if let Ok(target) = fs::read_link(&live) {
            found.insert("live".to_owned(), target.into_os_string().into_encoded_bytes());
            for (name, path) in files(&live) {
                found.insert(name, fs::read(path).unwrap());
            }
        }
        found
    }

    /// The temporary files of syncs.
    pub(crate) fn incoming(&self) -> Vec<String> {
        files(&self.path("store/incoming")).into_keys().collect()
    }

    /// The files of the store's blobs, by name.
    pub(crate) fn blobs(&self) -> BTreeMap<String, PathBuf> {
        files(&self.path("store/blobs")).into_iter().map(|(name, path)| (name.replace('/', ""), path)).collect()
    }
}

/// The tree's id in what `show` says of a snapshot.
#[track_caller]
pub(crate) fn tree_of(snapshot: &str) -> String {
    snapshot.lines().find_map(|line| line.strip_prefix("tree ")).unwrap().to_owned()
}

/// All files below a directory by their relative paths, links followed.
pub(crate) fn files(top: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![(String::new(), top.to_owned())];
    while let Some((name, path)) = waiting.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                let below = entry.file_name().into_string().unwrap();
                let below = if name.is_empty() { below } else { format!("{name}/{below}") };
                waiting.push((below, entry.path()));
            }
        } else if path.exists() {
            found.insert(name, path);
        }
    }
    found
}

/// The text of a JSON value that is one.
#[track_caller]
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| unreachable!("{value} is not a text")).to_owned()
}

/// A synthetic wheel as it is uploaded, whose bytes `seed` decides.
pub(crate) fn wheel(project: &str, version: &str, seed: u64) -> Upload {
    Upload::wheel(&WheelSpec::new(project, version).payload(64, seed))
}

/// Looks again and again until there is something, but not forever.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The program while it runs; killed at the latest with the value.
pub(crate) struct Process {
    child: Child,
    out: tempfile::NamedTempFile,
    err: tempfile::NamedTempFile,
}

impl Process {
    fn start(mut command: Command, directory: &TempDir) -> Self {
        // Files, because a pipe that no process reads would stop the program.
        let file = || tempfile::Builder::new().prefix("said-").tempfile_in(directory.path()).unwrap();
        let (out, err) = (file(), file());
        let child = command.stdout(out.reopen().unwrap()).stderr(err.reopen().unwrap()).spawn().unwrap();
        Self { child, out, err }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on stdout so far.
    pub(crate) fn out(&self) -> String {
        fs::read_to_string(self.out.path()).unwrap()
    }

    /// What it has said on stderr so far.
    pub(crate) fn err(&self) -> String {
        fs::read_to_string(self.err.path()).unwrap()
    }

    /// Waits until it has come to something. That it ends before is an error.
    #[track_caller]
    pub(crate) fn until<T>(&mut self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        eventually(what, || {
            let ended = self.child.try_wait().unwrap();
            let found = look(self);
            assert!(found.is_some() || ended.is_none(), "{what}: it ended with {ended:?}:\n{}", self.err());
            found
        })
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(&mut self) -> Run {
        let status = eventually("the end of the program", || self.child.try_wait().unwrap());
        Run { code: status.code(), out: self.out(), err: self.err() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        assert!(ended.is_ok() || std::thread::panicking(), "the program does not end");
    }
}
