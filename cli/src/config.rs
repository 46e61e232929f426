//! The configuration file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use strandline_durable::{Disk, DiskError};
use strandline_model::{DisplayName, MirrorName};
use strandline_store::Access;
use strandline_store::gc::Keep;
use strandline_sync::{Method, OnBroken, Selection, Settings};
use toml::Spanned;
use url::Url;

use crate::report::{Failure, Judged, NO_CONFIGURATION, USAGE, Verdict};

/// The configuration's name in the working directory.
const HERE: &str = "strandline.toml";
/// The configuration of the whole machine.
const SYSTEM: &str = "/etc/strandline/strandline.toml";

/// The configuration cannot be used. Nothing was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// There is none.
    #[error("there is no configuration: neither ./{HERE} nor {SYSTEM}")]
    Missing,
    /// There is none, and nothing to write one from.
    #[error("there is no configuration yet: name the projects to mirror, as in `strandline up six idna`")]
    NoProjects,
    /// It cannot be read.
    #[error("cannot read the configuration `{}`", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// It says something that makes no sense.
    #[error("the configuration `{}` cannot be used: {problem}", path.display())]
    Invalid { path: PathBuf, problem: String },
    /// It is there, and would have been written.
    #[error("`{}` exists already, and is left as it is", path.display())]
    Exists { path: PathBuf },
    /// A mirror was named that it does not have.
    #[error("the configuration `{}` has no mirror `{mirror}`; it has {known}", path.display())]
    UnknownMirror { path: PathBuf, mirror: MirrorName, known: String },
    /// `up` was told projects that the configuration does not have.
    #[error(
        "`{}` exists, and mirror `{mirror}` in it does not have {projects}: add them to `projects` there", path.display()
    )]
    OtherProjects { path: PathBuf, mirror: MirrorName, projects: String },
}

impl Judged for ConfigError {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Missing => NO_CONFIGURATION,
            Self::NoProjects
            | Self::Unreadable { .. }
            | Self::Invalid { .. }
            | Self::Exists { .. }
            | Self::UnknownMirror { .. }
            | Self::OtherProjects { .. } => USAGE,
        }
    }
}

/// What a configuration file says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    store: PathBuf,
    #[serde(default = "default_grace")]
    grace: Seconds,
    #[serde(default = "default_min_free")]
    min_free: Bytes,
    mirror: BTreeMap<MirrorName, Mirror>,
}

fn default_grace() -> Seconds {
    Seconds(Duration::from_hours(24))
}

fn default_min_free() -> Bytes {
    Bytes(1 << 30)
}

/// What is configured for one mirror.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Mirror {
    upstream: Option<HttpUrl>,
    #[serde(default)]
    source: SourceKind,
    projects: Option<Projects>,
    credential_command: Option<String>,
    connect_to: Option<Spanned<ConnectTo>>,
    connections: Option<std::num::NonZeroUsize>,
    max_file_size: Option<Bytes>,
    max_page_size: Option<Bytes>,
    cut_timeout: Option<Seconds>,
    settle: Option<Seconds>,
    overlap: Option<u64>,
    recheck: Option<Seconds>,
    hold_after: Option<Seconds>,
    #[serde(default)]
    on_broken: OnBrokenKind,
    drain: Option<Seconds>,
    #[serde(default)]
    private: bool,
    #[serde(default)]
    keep: KeepTable,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SourceKind {
    #[default]
    Auto,
    Simple,
    Warehouse,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OnBrokenKind {
    #[default]
    Hold,
    Freeze,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct KeepTable {
    last: Option<usize>,
    daily: Option<usize>,
    weekly: Option<usize>,
}

/// A length of time, written `60s`, `10m`, `24h`, `7d`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seconds(pub(crate) Duration);

impl FromStr for Seconds {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("`{text}` is not a length of time such as `60s`, `10m`, `24h` or `7d`");
        let span: jiff::Span = text.parse().map_err(|_| invalid())?;
        let seconds =
            span.total((jiff::Unit::Second, jiff::SpanRelativeTo::days_are_24_hours())).map_err(|_| invalid())?;
        Ok(Self(Duration::try_from_secs_f64(seconds).map_err(|_| invalid())?))
    }
}

/// A size, written `500MB` or `1GiB`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes(pub(crate) u64);

/// A share, written `5%` or `0.5%`: between 0 and 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share(pub(crate) f64);

impl FromStr for Share {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        match number {
            Some(percent) if percent > 0.0 && percent <= 100.0 => Ok(Self(percent / 100.0)),
            _ => Err(format!("`{text}` is not a share such as `5%`, above 0% and up to 100%")),
        }
    }
}

impl FromStr for Bytes {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let size: Result<bytesize::ByteSize, _> = text.parse();
        size.map(|size| Self(size.as_u64())).map_err(|_| format!("`{text}` is not a size such as `500MB` or `1GiB`"))
    }
}

/// Where an index can be.
#[derive(Debug, Clone)]
pub(crate) struct HttpUrl(pub(crate) Url);

impl FromStr for HttpUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<Url>() {
            Ok(url) => strandline_pypi::check_upstream(&url).map(|()| Self(url)).map_err(|error| error.to_string()),
            Err(error) => Err(format!("not a URL: {error}")),
        }
    }
}

/// `HOST:PORT`.
#[derive(Debug, Clone)]
struct ConnectTo(String);

impl FromStr for ConnectTo {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        strandline_pypi::check_connect_to(None, text).map_err(|error| error.to_string())?;
        Ok(Self(text.to_owned()))
    }
}

/// The names of projects, at least one.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Vec<DisplayName>")]
struct Projects(Vec<DisplayName>);

impl TryFrom<Vec<DisplayName>> for Projects {
    type Error = &'static str;
    fn try_from(names: Vec<DisplayName>) -> Result<Self, Self::Error> {
        if names.is_empty() {
            return Err("`projects` names none: leave it out to mirror everything");
        }
        Ok(Self(names))
    }
}

macro_rules! deserialize_from_str {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
deserialize_from_str!(Seconds, Bytes, HttpUrl, ConnectTo);

/// A configuration that was read.
#[derive(Debug)]
pub(crate) struct Config {
    /// The file that it was read from.
    pub(crate) path: PathBuf,
    /// The store.
    pub(crate) store: PathBuf,
    /// How long gc waits before it deletes a file, because a client may still use a page that it has read.
    pub(crate) grace: Duration,
    /// What a sync leaves free on the store's disk, in bytes.
    pub(crate) min_free: u64,
    mirrors: BTreeMap<MirrorName, Mirror>,
}

impl Config {
    /// Reads the configuration at `path`, or the first of the usual ones that is there.
    pub(crate) fn read(path: Option<&Path>, store: Option<&Path>) -> Result<Self, ConfigError> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => Self::usual().ok_or(ConfigError::Missing)?,
        };
        let text =
            std::fs::read_to_string(&path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
        let invalid = |problem: String| ConfigError::Invalid { path: path.clone(), problem };
        // toml's own message names the line and shows it, with what is secret in it.
        let file: File = toml::from_str(&text)
            .map_err(|error| invalid(strandline_pypi::without_secrets(error.to_string().trim_end())))?;
        if file.mirror.is_empty() {
            return Err(invalid("it has no mirror: add a table `[mirror.NAME]`".to_owned()));
        }
        for mirror in file.mirror.values() {
            if let (Some(HttpUrl(upstream)), Some(to)) = (&mirror.upstream, &mirror.connect_to) {
                strandline_pypi::check_connect_to(Some(upstream), &to.get_ref().0).map_err(|error| {
                    let line = text[..to.span().start].lines().count();
                    invalid(format!("line {line}: {error}"))
                })?;
            }
        }
        let beside = path.parent().unwrap_or(Path::new("")).join(&file.store);
        let (grace, Bytes(min_free)) = (file.grace.0, file.min_free);
        Ok(Self { store: store.map_or(beside, Path::to_owned), grace, min_free, mirrors: file.mirror, path })
    }

    /// The usual configuration that is there, if any is.
    pub(crate) fn usual() -> Option<PathBuf> {
        [HERE, SYSTEM].into_iter().map(PathBuf::from).find(|path| path.exists())
    }

    /// Where `init` and `up` write one.
    pub(crate) fn new_path(path: Option<&Path>) -> PathBuf {
        path.unwrap_or(Path::new(HERE)).to_owned()
    }

    /// The mirrors of these names, or all of them.
    pub(crate) fn mirrors(&self, named: &[MirrorName]) -> Result<Vec<(&MirrorName, &Mirror)>, ConfigError> {
        if named.is_empty() {
            return Ok(self.mirrors.iter().collect());
        }
        named
            .iter()
            .map(|name| {
                self.mirrors.get_key_value(name).ok_or_else(|| ConfigError::UnknownMirror {
                    path: self.path.clone(),
                    mirror: name.clone(),
                    known: self.mirrors.keys().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", "),
                })
            })
            .collect()
    }

    /// Checks that the first mirror has these projects.
    pub(crate) fn require_projects(&self, projects: &[DisplayName]) -> Result<(), ConfigError> {
        let Some((name, mirror)) = self.mirrors.first_key_value() else { return Ok(()) };
        let selection = mirror.selection();
        let missing: Vec<_> =
            projects.iter().filter(|project| !selection.has(&project.normalise())).map(DisplayName::as_str).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(ConfigError::OtherProjects { path: self.path.clone(), mirror: name.clone(), projects: missing.join(", ") })
    }

    /// Which snapshots of a mirror are kept; the default for a mirror that is in the store only.
    pub(crate) fn keep(&self, mirror: &MirrorName) -> Keep {
        let default = Keep::default();
        self.mirrors.get(mirror).map_or(default, |mirror| Keep {
            last: mirror.keep.last.unwrap_or(default.last),
            daily: mirror.keep.daily.unwrap_or(default.daily),
            weekly: mirror.keep.weekly.unwrap_or(default.weekly),
        })
    }
}

impl Mirror {
    /// The index to mirror; the one that pip uses if none is given.
    pub(crate) fn upstream(&self) -> Result<Url, strandline_pypi::NoDefault> {
        match &self.upstream {
            Some(HttpUrl(url)) => Ok(url.clone()),
            None => strandline_pypi::default_upstream(),
        }
    }

    /// How to ask the index.
    pub(crate) fn index(&self, upstream: Url) -> strandline_pypi::Settings {
        let mut settings = strandline_pypi::Settings::new(upstream);
        settings.credential_command.clone_from(&self.credential_command);
        settings.connect_to = self.connect_to.as_ref().map(|to| to.get_ref().0.clone());
        settings.max_file_size = self.max_file_size.map(|size| size.0);
        if let Some(Bytes(size)) = self.max_page_size {
            settings.max_page_size = size;
        }
        if let Some(connections) = self.connections {
            settings.connections = connections.get();
        }
        settings
    }

    /// The largest page that is taken, in bytes.
    pub(crate) fn max_page_size(&self) -> u64 {
        self.max_page_size.map_or(strandline_pypi::MAX_PAGE_SIZE, |size| size.0)
    }

    /// The first project that is named, if any is.
    pub(crate) fn first_project(&self) -> Option<&DisplayName> {
        self.projects.as_ref()?.0.first()
    }

    fn selection(&self) -> Selection {
        match &self.projects {
            Some(Projects(names)) => Selection::of(names.iter().cloned()),
            None => Selection::Everything,
        }
    }

    /// How to sync it.
    pub(crate) fn settings(&self, name: &MirrorName) -> Settings {
        let mut settings = Settings::new(name.clone(), self.selection());
        settings.method = match self.source {
            SourceKind::Auto => None,
            SourceKind::Simple => Some(Method::Collect),
            SourceKind::Warehouse => Some(Method::Changelog),
        };
        if let Some(Bytes(size)) = self.max_file_size {
            settings.max_file_size = size;
        }
        if let Some(connections) = self.connections {
            settings.connections = connections.get();
        }
        if let Some(Seconds(patience)) = self.cut_timeout {
            settings.cut_timeout = patience;
        }
        if let Some(Seconds(age)) = self.settle {
            settings.settle = age;
        }
        if let Some(serials) = self.overlap {
            settings.overlap = serials;
        }
        if let Some(Seconds(period)) = self.recheck {
            settings.recheck = period;
        }
        if let Some(Seconds(age)) = self.hold_after {
            settings.hold_after = age;
        }
        settings.on_broken = match self.on_broken {
            OnBrokenKind::Hold => OnBroken::Hold,
            OnBrokenKind::Freeze => OnBroken::Freeze,
        };
        if let Some(Seconds(drain)) = self.drain {
            settings.drain = drain;
        }
        if self.private {
            settings.access = Access::Private;
        }
        settings
    }
}

/// Writes a commented configuration for one mirror; refuses to replace one. An error or a crash on the way leaves either
/// none or the whole of it.
pub(crate) fn write(
    disk: &Disk,
    path: &Path,
    mirror: &MirrorName,
    upstream: Option<&Url>,
    projects: &[DisplayName],
) -> Result<(), Failure> {
    let exists = || ConfigError::Exists { path: path.to_owned() };
    if path.exists() {
        return Err(exists().into());
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let text = Template { mirror, upstream, projects }.to_string();
    let written = write_as(disk, &temporary, path, &text);
    if !matches!(written, Ok(true))
        && let Err(error) = disk.remove_file(&temporary)
    {
        tracing::debug!("{error}: {}", error.source);
    }
    if written? { Ok(()) } else { Err(exists().into()) }
}

/// Returns whether the name was still free.
fn write_as(disk: &Disk, temporary: &Path, path: &Path, text: &str) -> Result<bool, DiskError> {
    // A process with the same number may have died and left it.
    disk.remove_file(temporary)?;
    let mut file = disk.create_file(temporary)?;
    file.write(text.as_bytes())?;
    file.sync()?;
    if !disk.rename_new(temporary, path)? {
        return Ok(false);
    }
    let beside = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    disk.sync_directory(beside.unwrap_or(Path::new(".")))?;
    Ok(true)
}

struct Template<'a> {
    mirror: &'a MirrorName,
    upstream: Option<&'a Url>,
    projects: &'a [DisplayName],
}

impl fmt::Display for Template<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mirror, upstream, projects } = self;
        let upstream = match upstream {
            Some(url) => format!("upstream = {:?}", url.as_str()),
            None => "# upstream = \"https://INDEX/simple/\"".to_owned(),
        };
        let projects = if projects.is_empty() {
            "# projects = [\"six\"]".to_owned()
        } else {
            let names: Vec<_> = projects.iter().map(|name| format!("{:?}", name.as_str())).collect();
            format!("projects = [{}]", names.join(", "))
        };
        write!(
            f,
            r#"# Strandline: which indexes are mirrored, and where the mirrors are kept. Relative paths start at this file.

# Where everything is kept: blobs, catalog, and the directories that a web server serves.
store = "strandline-store"

# A client may still use a page that was replaced, so files that only such pages name are deleted this much
# later.
# grace = "24h"

# A sync leaves this much of the disk free, and says so before it begins when it cannot.
# min-free = "1GiB"

# One table for each mirror; its name is the first part of its URLs.
[mirror.{mirror}]

# The index to mirror. Left out, it is the one that pip is configured to use. Credentials do not belong here:
# they are taken from ~/.netrc, from the environment where the URL says so (https://USER:${{TOKEN}}@INDEX/simple/), or from
# a command that writes two lines, the user and the password.
{upstream}
# credential-command = "printf 'USER\\n'; cat /run/secrets/token"

# The projects to mirror. Left out, everything.
{projects}

# How to find out what changed: "warehouse" reads the index's changelog, "simple" reads all pages twice;
# "auto" takes "simple" for up to 100 projects, and for more the changelog if the index has one.
# source = "auto"

# Which snapshots are kept: the newest so many, and the newest of each day and week.
# keep = {{ last = 48, daily = 30, weekly = 12 }}

# How many requests are under way at once, and the largest file that is taken.
# connections = 16
# max-file-size = "10GiB"
"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disk: &Disk, path: &Path) -> Result<(), Failure> {
        write(disk, path, &"pypi".parse().unwrap(), None, &["six".parse().unwrap()])
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_configuration_is_never_half_written() {
        let counting = Disk::counting();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("strandline.toml");
        written(&counting, &path).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        assert_eq!(names(directory.path()), ["strandline.toml"]);
        assert!(counting.steps() >= 5, "create, write, sync, rename, sync the directory");

        for n in 1..=counting.steps() {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("strandline.toml");
            assert!(written(&Disk::failing_at(n), &path).is_err(), "step {n}");
            let there = path.exists();
            assert!(!there || std::fs::read_to_string(&path).unwrap() == whole, "step {n} leaves a half");
            // Nothing that is left stands in the way of a second try.
            assert_eq!(written(&Disk::new(), &path).is_ok(), !there, "step {n}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
            assert_eq!(names(directory.path()), ["strandline.toml"], "step {n}");
        }
    }

    #[test]
    fn a_configuration_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("strandline.toml");
        written(&Disk::new(), &path).unwrap();
        let error = written(&Disk::new(), &path).unwrap_err();
        assert!(error.to_string().ends_with("exists already, and is left as it is"), "{error}");
        assert!(!write_as(&Disk::new(), &directory.path().join("other"), &path, "x").unwrap(), "one came in between");
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("# Strandline"));
    }
}
