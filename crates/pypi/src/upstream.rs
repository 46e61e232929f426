//! The index that pip is configured to use.
//!
//! `PIP_INDEX_URL` says it; else the installed pip does: the help text of `pip install` shows the default of
//! `--index-url` with pip's configuration applied, so that this module need not find pip's configuration itself. What
//! always holds: it ends within seconds, even if a program hangs, and no credentials are shown. Tested below with
//! programs that play pip.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use url::Url;

use crate::program::answer;

/// Longest wait for an answer of pip.
const PATIENCE: Duration = Duration::from_secs(10);

/// How pip may be called: as a module first, because that finds the pip that belongs to `python3`.
const PIPS: [(&str, &[&str]); 4] =
    [("python3", &["-m", "pip"]), ("pip3", &[]), ("pip", &[]), ("python", &["-m", "pip"])];

/// It is not known which index is meant. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum NoDefault {
    /// `PIP_INDEX_URL` holds something else.
    #[error("PIP_INDEX_URL is not a URL of http or https: {0}")]
    Variable(String),
    /// There is no pip, or none that says what its index is.
    #[error("no pip was found that says which index it uses (tried {tried}); set `upstream` to the URL of the index")]
    NoPip {
        /// What was tried, and what came of it.
        tried: String,
    },
}

/// The part of the environment that matters to pip's choice.
#[derive(Debug, Clone, Default)]
pub struct PipEnvironment {
    /// `PIP_INDEX_URL`.
    pub index_url: Option<String>,
    /// `PATH`, in which pip is looked for.
    pub path: OsString,
}

impl PipEnvironment {
    /// That of this process.
    pub fn of_process() -> Self {
        Self { index_url: std::env::var("PIP_INDEX_URL").ok(), path: std::env::var_os("PATH").unwrap_or_default() }
    }
}

/// The index that pip is configured to use. It may hold credentials if `PIP_INDEX_URL` does.
pub fn default_upstream() -> Result<Url, NoDefault> {
    default_upstream_in(&PipEnvironment::of_process())
}

/// As [`default_upstream`], in another environment.
pub fn default_upstream_in(environment: &PipEnvironment) -> Result<Url, NoDefault> {
    if let Some(text) = environment.index_url.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
        return match text.parse::<Url>() {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(url),
            Ok(url) => Err(NoDefault::Variable(format!("its scheme is `{}`", url.scheme()))),
            Err(error) => Err(NoDefault::Variable(error.to_string())),
        };
    }
    let mut tried = Vec::new();
    for (program, arguments) in PIPS {
        let Some(found) = find(&environment.path, program) else { continue };
        let mut command = Command::new(&found);
        command.args(arguments).args(["install", "--help"]).env("COLUMNS", "1000").stderr(Stdio::null());
        match answer(command, PATIENCE) {
            Err(why) => tried.push(format!("{}: {why}", found.display())),
            Ok((text, _)) => match index_in_help(&text) {
                Some(url) => return Ok(url),
                None => tried.push(format!("{}: its help names no index", found.display())),
            },
        }
    }
    let tried = if tried.is_empty() { "python3, pip3, pip and python in PATH".to_owned() } else { tried.join("; ") };
    Err(NoDefault::NoPip { tried })
}

fn find(path: &OsStr, program: &str) -> Option<PathBuf> {
    std::env::split_paths(path).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// The default of `--index-url` in pip's help, without the credentials, of which pip shows only a part.
fn index_in_help(text: &str) -> Option<Url> {
    let at = text.find("--index-url")?;
    let rest = text.get(at..)?;
    let (_, rest) = rest.split_once("(default")?;
    let (found, _) = rest.split_once(')')?;
    // pip may break its help text into lines, however wide it was told to make it: never inside a URL's words, but
    // possibly after a dash.
    let found: String = found.split_whitespace().collect();
    let mut url: Url = found.trim_start_matches(':').parse().ok()?;
    (matches!(url.scheme(), "http" | "https") && url.set_username("").is_ok() && url.set_password(None).is_ok())
        .then_some(url)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A directory for `PATH` with programs that print a text.
    fn with(programs: &[(&str, &str)]) -> (tempfile::TempDir, PipEnvironment) {
        let directory = tempfile::tempdir().unwrap();
        for (name, body) in programs {
            let file = tempfile::Builder::new()
                .permissions(std::fs::Permissions::from_mode(0o755))
                .tempfile_in(directory.path())
                .unwrap();
            std::io::Write::write_all(&mut file.as_file(), format!("#!/bin/sh\n{body}\n").as_bytes()).unwrap();
            let closed = file.into_temp_path();
            closed.persist(directory.path().join(name)).unwrap();
        }
        let path = directory.path().as_os_str().to_owned();
        (directory, PipEnvironment { index_url: None, path })
    }

    fn found(programs: &[(&str, &str)]) -> Result<String, String> {
        let (_directory, environment) = with(programs);
        match default_upstream_in(&environment) {
            Ok(url) => Ok(url.to_string()),
            Err(error) => {
                let directory = environment.path.to_string_lossy().into_owned();
                Err(error.to_string().replace(&directory, "DIR"))
            }
        }
    }

    const HELP: &str = "echo 'Package Index Options:'; echo '  -i, --index-url <url>  Base URL of the Python Package Index (default https://index.example/simple). This should point to a repository.'";

    #[test]
    fn what_pip_says() {
        let asked = format!("test \"$*\" = '-m pip install --help' && test $COLUMNS = 1000 && {HELP}");
        assert_eq!(found(&[("python3", &asked)]).unwrap(), "https://index.example/simple");
        let narrow =
            "printf -- '-i, --index-url <url>\\n    Base (default\\n    https://index.example/\\n    simple). This'";
        assert_eq!(found(&[("pip", narrow)]).unwrap(), "https://index.example/simple");
        let secret = HELP.replace("https://", "https://user:****@");
        assert_eq!(found(&[("pip3", &secret)]).unwrap(), "https://index.example/simple");
        let second = [("python3", "echo no module named pip >&2; exit 1"), ("pip", HELP)];
        assert_eq!(found(&second).unwrap(), "https://index.example/simple");
    }

    #[test]
    fn the_variable_comes_first() {
        let of = |text: &str| {
            let index_url = Some(text.to_owned());
            default_upstream_in(&PipEnvironment { index_url, path: OsString::new() })
        };
        assert_eq!(of("https://me:secret@index.example/simple").unwrap().password(), Some("secret"));
        let error = of("ftp://me:secret@index.example/").unwrap_err().to_string();
        assert!(error.contains("ftp") && !error.contains("secret"), "{error}");
        assert!(matches!(of("index.example"), Err(NoDefault::Variable(_))));
        assert!(matches!(of(" "), Err(NoDefault::NoPip { .. })));
    }

    #[test]
    fn no_pip_that_says() {
        insta::assert_snapshot!(found(&[]).unwrap_err(), @"no pip was found that says which index it uses (tried python3, pip3, pip and python in PATH); set `upstream` to the URL of the index");
        insta::assert_snapshot!(found(&[("python3", "exit 1"), ("pip", "echo --index-url 'default'")]).unwrap_err(), @"no pip was found that says which index it uses (tried DIR/python3: its help names no index; DIR/pip: its help names no index); set `upstream` to the URL of the index");
    }

    #[test]
    fn an_endless_answer_ends() {
        let endless = "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done";
        assert!(found(&[("pip", endless)]).unwrap_err().contains("its help names no index"));
    }
}
