//! What a release file's name says: its version, and where it stands among the others.
//!
//! What always holds: [`Order`] is total and depends on the text alone, so that pages of the same files are the same
//! bytes, in whatever order upstream lists the files. Tested below.

use std::cmp::Ordering;

use pep440_rs::Version;
use strandline_model::ProjectName;

/// Endings of release files, longest first where one ends another.
const ENDINGS: [&str; 14] = [
    ".tar.bz2", ".tar.gz", ".tar.xz", ".tar.Z", ".whl", ".zip", ".tgz", ".tbz", ".tar", ".egg", ".exe", ".msi", ".rpm",
    ".dmg",
];

/// Where a platform begins in the name of a built distribution of the old kinds: `six-1.0.win32-py2.7.exe`.
const PLATFORMS: [&str; 6] = [".win32", ".win-", ".linux-", ".macosx-", ".noarch", ".freebsd-"];

/// Whether the name ends as release files do.
pub(crate) fn is_release_file(filename: &str) -> bool {
    stem(filename).is_some()
}

/// The name without the ending of a release file, and the ending.
fn stem(filename: &str) -> Option<(&str, &'static str)> {
    ENDINGS.iter().find_map(|ending| filename.strip_suffix(ending).map(|stem| (stem, *ending)))
}

/// The version that a file's name says, in normal form where there is one (PEP 440).
pub(crate) fn version_of(project: &ProjectName, filename: &str) -> Option<String> {
    let (stem, ending) = stem(filename)?;
    let text = match ending {
        ".whl" => {
            let parts: Vec<_> = stem.split('-').collect();
            // NAME-VERSION-PYTHON-ABI-PLATFORM, with an optional build number after the version.
            (matches!(parts.len(), 5 | 6)).then(|| parts.get(1).copied()).flatten()?
        }
        ".egg" => stem.split('-').nth(1)?,
        _ => {
            let rest = after_name(project, stem)?;
            let end = PLATFORMS.iter().filter_map(|platform| rest.find(platform)).min().unwrap_or(rest.len());
            let rest = rest.get(..end)?;
            if ending == ".rpm" { rest.rsplit_once('-').map_or(rest, |(version, _)| version) } else { rest }
        }
    };
    (!text.is_empty()).then(|| normal(text))
}

/// Whether a file belongs to a release, by its name and the version as the changelog writes it. Filenames spell versions
/// with other separators, and often in normal form: two versions are compared as such. `None` where one of them is none
/// and they are not plainly the same.
pub(crate) fn is_of_release(project: &ProjectName, filename: &str, version: &str) -> Option<bool> {
    let own = version_of(project, filename)?;
    let plain = |text: &str| text.to_lowercase().replace(['-', '_', '.', '+'], "");
    match (own.parse::<Version>(), version.parse::<Version>()) {
        (Ok(own), Ok(version)) => Some(own == version),
        _ => (plain(&own) == plain(version)).then_some(true),
    }
}

/// A version's normal form; the text itself where it has none.
fn normal(text: &str) -> String {
    text.parse::<Version>().map_or_else(|_| text.to_owned(), |version| version.to_string())
}

/// What follows a project's name and one separator.
fn after_name<'a>(project: &ProjectName, stem: &'a str) -> Option<&'a str> {
    let separator = ['-', '_', '.'];
    let mut rest = stem;
    for (index, part) in project.as_str().split('-').enumerate() {
        if index > 0 {
            rest = rest.trim_start_matches(separator);
        }
        let head = rest.get(..part.len())?;
        if !head.eq_ignore_ascii_case(part) {
            return None;
        }
        rest = rest.get(part.len()..)?;
    }
    rest.strip_prefix(separator)
}

/// Where a version stands among others: what is no version comes first, by its bytes; equal versions that are
/// written differently are told apart by their text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    version: Option<Version>,
    text: String,
}

impl Order {
    /// The place of a version.
    pub(crate) fn of_version(text: &str) -> Self {
        Self { version: text.parse().ok(), text: text.to_owned() }
    }

    /// The place of a file: by its version, then by its name.
    pub(crate) fn of_file(project: &ProjectName, filename: &str) -> Self {
        let version = version_of(project, filename).and_then(|text| text.parse().ok());
        Self { version, text: filename.to_owned() }
    }
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        self.version.cmp(&other.version).then_with(|| self.text.cmp(&other.text))
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> ProjectName {
        text.parse().unwrap()
    }

    #[test]
    fn versions_of_names() {
        for (project, filename, version) in [
            ("six", "six-1.16.0-py2.py3-none-any.whl", Some("1.16.0")),
            ("six", "six-1.16.0-1-py2.py3-none-any.whl", Some("1.16.0")),
            ("six", "six-1.16.0.tar.gz", Some("1.16.0")),
            ("six", "six-1.0-RC1.zip", Some("1.0rc1")),
            ("zope-interface", "Zope.Interface-5.0.tar.gz", Some("5.0")),
            ("zope-interface", "zope__interface_5.0.tar.gz", Some("5.0")),
            ("zope-interface", "zope.interface-5.0-py2.7-win32.egg", Some("5.0")),
            ("torch", "torch-1.0+cu118-cp310-cp310-linux_x86_64.whl", Some("1.0+cu118")),
            ("numpy", "numpy-1.5.0.win32-py2.7.exe", Some("1.5.0")),
            ("numpy", "numpy-1.5.0.win-amd64-py2.7.msi", Some("1.5.0")),
            ("numpy", "numpy-1.5.0.linux-x86_64.tar.gz", Some("1.5.0")),
            ("numpy", "numpy-1.5.0-2.noarch.rpm", Some("1.5.0")),
            ("six", "six-notaversion!.tar.gz", Some("notaversion!")),
            ("six", "six-1.0.whl", None),
            ("six", "seven-1.0.tar.gz", None),
            ("six", "six.tar.gz", None),
            ("six", "six-1.0.txt", None),
            ("six", "", None),
        ] {
            assert_eq!(version_of(&name(project), filename).as_deref(), version, "{filename}");
        }
    }

    #[test]
    fn files_of_releases() {
        for (project, filename, version, belongs) in [
            ("six", "six-1.16.0-py2.py3-none-any.whl", "1.16.0", Some(true)),
            ("six", "six-1.16.0.tar.gz", "1.16", Some(true)),
            ("six", "six-1.16.0.tar.gz", "1.16.1", Some(false)),
            ("six", "six-0.3b2.tar.gz", "0.3-beta.2", Some(true)),
            ("six", "six-2!1.0-py3-none-any.whl", "2!1.0", Some(true)),
            ("six", "six-1.0-py3-none-any.whl", "2!1.0", Some(false)),
            ("torch", "torch-1.0+cu118-cp310-cp310-linux_x86_64.whl", "1.0+cu118", Some(true)),
            ("torch", "torch-1.0+cu118-cp310-cp310-linux_x86_64.whl", "1.0", Some(false)),
            ("numpy", "numpy-1.5.0.win32-py2.7.exe", "1.5.0", Some(true)),
            ("numpy", "numpy-1.5.0-py2.7-win32.egg", "1.5", Some(true)),
            ("numpy", "numpy-1.5.0-2.noarch.rpm", "1.5.0", Some(true)),
            ("six", "six-2004d.tar.gz", "2004D", Some(true)),
            // Neither is a version, and they are not plainly the same: the name does not tell.
            ("six", "six-2004d.tar.gz", "2004e-odd", None),
            ("six", "seven-1.0.tar.gz", "1.0", None),
            ("six", "six.txt", "1.0", None),
        ] {
            assert_eq!(is_of_release(&name(project), filename, version), belongs, "{filename} of {version}");
        }
    }

    #[test]
    fn order_is_by_version_and_then_by_name() {
        let mut files = [
            "six-1.10.tar.gz",
            "six-1.9.tar.gz",
            "six-1.9rc1.tar.gz",
            "six-1.9-py3-none-any.whl",
            "six-zzz.tar.gz",
            "six-odd.tar.gz",
        ];
        files.sort_by_key(|file| Order::of_file(&name("six"), file));
        let expected = [
            "six-odd.tar.gz",
            "six-zzz.tar.gz",
            "six-1.9rc1.tar.gz",
            "six-1.9-py3-none-any.whl",
            "six-1.9.tar.gz",
            "six-1.10.tar.gz",
        ];
        assert_eq!(files, expected);
    }

    proptest! {
        #[test]
        fn no_name_panics(filename in "(six|Six_|.)?[-_.]?\\PC{0,40}(\\.whl|\\.tar\\.gz|\\.rpm|\\.egg)?") {
            version_of(&name("six"), &filename);
            version_of(&name("s-x"), &filename);
            Order::of_version(&filename);
        }
    }
}
