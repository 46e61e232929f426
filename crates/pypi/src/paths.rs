//! Where a file stands in the mirror's tree.
//!
//! What always holds: a path ends in the file's own name, and a path of the second choice names the bytes, so
//! that no other bytes ever need it. Tested below.

use strandline_model::TreePath;
use strandline_sync::record::ListedFile;
use url::Url;

use crate::url_check::percent_decode;

/// Upstream's own path if it has the form `packages/xx/yy/REST/FILENAME`, and one made from the digest.
pub(crate) fn file_paths(file: &ListedFile) -> [TreePath; 2] {
    let digest = file.sha256.to_string();
    let (first, rest) = digest.split_at(2);
    let (second, rest) = rest.split_at(2);
    let made = format!("packages/{first}/{second}/{rest}/{}", file.details.filename.as_str());
    let made: TreePath = made.parse().expect("digits and a checked file name are valid segments");
    [own(file).unwrap_or_else(|| made.clone()), made]
}

fn own(file: &ListedFile) -> Option<TreePath> {
    let url: Url = file.url.parse().ok()?;
    let filename = file.details.filename.as_str();
    let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut segments = url.path().rsplit('/');
    let last = segments.next().and_then(percent_decode)?;
    let (rest, second, first) = (segments.next()?, segments.next()?, segments.next()?);
    let form = last == filename
        && segments.next() == Some("packages")
        && first.len() == 2
        && second.len() == 2
        && !rest.is_empty()
        && hex(first)
        && hex(second)
        && hex(rest);
    if form { format!("packages/{first}/{second}/{rest}/{filename}").parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use strandline_sync::record::{CoreMetadata, Details, FileName, Yanked};

    use super::*;

    fn paths(url: &str) -> [String; 2] {
        let filename = FileName::of(&"torch".parse().unwrap(), "torch-1.0+cu.tar.gz").unwrap();
        let details =
            Details { filename, requires_python: None, upload_time: None, yanked: Yanked::No, provenance: None };
        let sha256 = "0123".repeat(16).parse().unwrap();
        let file = ListedFile { details, url: url.to_owned(), sha256, size: None, core_metadata: CoreMetadata::Absent };
        file_paths(&file).map(|path| path.to_string())
    }

    #[test]
    fn upstreams_own_path_where_it_has_the_form() {
        let made = format!("packages/01/23/{}/torch-1.0+cu.tar.gz", "0123".repeat(15));
        for (url, own) in [
            (
                "https://f.example/packages/ab/cd/ef01/torch-1.0%2Bcu.tar.gz",
                Some("packages/ab/cd/ef01/torch-1.0+cu.tar.gz"),
            ),
            (
                "https://f.example/x/packages/ab/cd/ef/torch-1.0+cu.tar.gz",
                Some("packages/ab/cd/ef/torch-1.0+cu.tar.gz"),
            ),
            ("https://f.example/packages/ab/cd/ef/torch-2.0.tar.gz", None),
            ("https://f.example/packages/AB/cd/ef/torch-1.0+cu.tar.gz", None),
            ("https://f.example/packages/abc/cd/ef/torch-1.0+cu.tar.gz", None),
            ("https://f.example/packages/ab/cd//torch-1.0+cu.tar.gz", None),
            ("https://f.example/packages/ab/cd/x-y/torch-1.0+cu.tar.gz", None),
            ("https://f.example/files/ab/cd/ef/torch-1.0+cu.tar.gz", None),
            ("https://f.example/torch-1.0+cu.tar.gz", None),
        ] {
            assert_eq!(paths(url), [own.map_or(made.clone(), str::to_owned), made.clone()], "{url}");
        }
    }
}
