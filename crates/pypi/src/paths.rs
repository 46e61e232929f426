//! Where a file stands in the mirror's tree.
//!
//! What always holds: a path ends in the file's own name, and a path of the second choice names the bytes, so
//! that no other bytes ever need it. Tested below.

use strandline_model::{ClaimedSha256, FileName, TreePath};
use url::Url;

use crate::url_check::percent_decode;

/// Upstream's own path if it has the form `packages/xx/yy/REST/FILENAME`, and one made from the digest.
pub(crate) fn file_paths(name: &FileName, sha256: ClaimedSha256, url: &str) -> [TreePath; 2] {
    let digest = sha256.to_string();
    let (first, rest) = digest.split_at(2);
    let (second, rest) = rest.split_at(2);
    let made = format!("packages/{first}/{second}/{rest}/{}", name.as_str());
    let made: TreePath = made.parse().expect("digits and a checked file name are valid segments");
    [own(name.as_str(), url).unwrap_or_else(|| made.clone()), made]
}

fn own(filename: &str, url: &str) -> Option<TreePath> {
    let url: Url = url.parse().ok()?;
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
    use super::*;

    fn paths(url: &str) -> [String; 2] {
        let filename = FileName::of(&"torch".parse().unwrap(), "torch-1.0+cu.tar.gz").unwrap();
        let sha256 = "0123".repeat(16).parse().unwrap();
        file_paths(&filename, sha256, url).map(|path| path.to_string())
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
