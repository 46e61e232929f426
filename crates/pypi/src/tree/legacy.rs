//! Reading the index's older JSON of a project, as a mirror keeps it: `releases`, each a list of files.
//!
//! What always holds: a file that is not one of the project, or has no SHA-256, is an error that names it; no input
//! panics. Tested below.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use strandline_model::{CoreMetadata, FileName, ProjectName, SeenFile, ToldFile};
use strandline_sync::upstream::Problem;
use url::Url;

use crate::json::{Raw, digest, metadata, object, optional, required};
use crate::listing::malformed;
use crate::url_check::{resolve, shown};

#[derive(Deserialize)]
struct RawProject<'a> {
    #[serde(borrow, default)]
    releases: Raw<'a>,
}

#[derive(Deserialize)]
struct RawFile<'a> {
    #[serde(borrow, default)]
    filename: Raw<'a>,
    #[serde(borrow, default)]
    url: Raw<'a>,
    #[serde(borrow, default)]
    digests: Raw<'a>,
    #[serde(borrow, default)]
    size: Raw<'a>,
    #[serde(borrow, default, rename = "core-metadata")]
    core_metadata: Raw<'a>,
}

#[derive(Deserialize)]
struct RawDigests<'a> {
    #[serde(borrow, default)]
    sha256: Raw<'a>,
}

/// A file as the index's older JSON names it.
type File = (FileName, ToldFile, SeenFile);

/// The files of all releases.
pub(crate) fn parse(bytes: &[u8], project: &ProjectName) -> Result<Vec<File>, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| malformed(format!("it is not UTF-8: {error}")))?;
    let raw = serde_json::from_str(text).map_err(|error| malformed(format!("it is not JSON: {error}")))?;
    let raw: RawProject<'_> = object("it", Some(raw))?.ok_or_else(|| malformed("it is `null`"))?;
    let releases: BTreeMap<String, Vec<&RawValue>> = required("releases", "an object of lists", raw.releases)?;
    releases.into_values().flatten().map(|file| read(file, project)).collect()
}

fn read(raw: &RawValue, project: &ProjectName) -> Result<File, Problem> {
    let raw: RawFile<'_> = object("a file", Some(raw))?.ok_or_else(|| malformed("a file is `null`"))?;
    let filename: String = required("the filename of a file", "a text", raw.filename)?;
    let of = |name: &str| format!("{name} of `{}`", shown(&filename));
    let checked = FileName::of(project, &filename).map_err(|error| malformed(error.to_string()))?;
    let url: String = required(&of("url"), "a text", raw.url)?;
    let base: Url = super::BASE.parse().map_err(|_| malformed("no base"))?;
    let (url, _) = resolve(&base, &url).map_err(|error| Problem::Forbidden(format!("{}: {error}", of("url"))))?;
    let digests: Option<RawDigests<'_>> = object(&of("digests"), raw.digests)?;
    let sha256 = digest(&of("digests.sha256"), digests.and_then(|digests| digests.sha256))?
        .ok_or_else(|| malformed(format!("{} is missing", of("digests.sha256"))))?;
    let core_metadata = match raw.core_metadata {
        None => CoreMetadata::Absent,
        Some(raw) => metadata(&of("core-metadata"), raw)?,
    };
    let size = optional(&of("size"), "a number of bytes", raw.size)?;
    let told = ToldFile { size, ..ToldFile::of(sha256) };
    let seen = SeenFile { core_metadata, ..SeenFile::at(Some(url.to_string())) };
    Ok((checked, told, seen))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e9f1a3c5e7b9d0f2a4c6e8b0d1f3a5c7e";

    fn text(file: &str) -> String {
        format!(r#"{{"info":{{"name":"Six"}},"last_serial":7,"releases":{{"0.9":[],"1.0":[{file}]}},"urls":[]}}"#)
    }

    fn good() -> String {
        text(&format!(
            r#"{{"filename":"six-1.0.tar.gz","url":"https://f.example/packages/aa/bb/cc/six-1.0.tar.gz","size":7,
            "digests":{{"md5":"x","sha256":"{DIGEST}"}},"packagetype":"sdist","core-metadata":{{"sha256":"{DIGEST}"}}}}"#
        ))
    }

    fn said(text: &str) -> String {
        parse(text.as_bytes(), &"six".parse().unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn files_of_all_releases() {
        let files = parse(good().as_bytes(), &"six".parse().unwrap()).unwrap();
        let [(_, told, seen)] = &files[..] else { unreachable!("{files:?}") };
        assert_eq!(seen.url.as_deref(), Some("https://f.example/packages/aa/bb/cc/six-1.0.tar.gz"));
        assert_eq!((told.sha256, told.size), (Some(DIGEST.parse().unwrap()), Some(7)));
        assert_eq!(seen.core_metadata, CoreMetadata::Hashed(DIGEST.parse().unwrap()));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let cases = [
            String::new(),
            "[]".to_owned(),
            "{}".to_owned(),
            r#"{"releases":[]}"#.to_owned(),
            text("7"),
            text("{}"),
            text(r#"{"filename":"../six-1.0.tar.gz"}"#),
            text(r#"{"filename":"seven-1.0.tar.gz"}"#),
            text(r#"{"filename":"six-1.0.tar.gz","url":"https://f.example/a/../b"}"#),
            text(r#"{"filename":"six-1.0.tar.gz","url":"https://f.example/six-1.0.tar.gz","digests":{"md5":"x"}}"#),
            good().replace("\"size\":7", "\"size\":-7"),
        ];
        let said: Vec<_> = cases.iter().map(|text| said(text)).collect();
        insta::assert_snapshot!(said.join("\n"), @"
        it is not JSON: EOF while parsing a value at line 1 column 0
        it is `[]`; expected an object
        releases is missing; expected an object of lists
        releases is `[]`; expected an object of lists
        a file is `7`; expected an object
        the filename of a file is missing; expected a text
        `../six-1.0.tar.gz` cannot be a file of six: it is not a plain file name
        `seven-1.0.tar.gz` cannot be a file of six: its name is another project's
        url of `six-1.0.tar.gz`: the URL `https://f.example/a/../b` escapes upwards by `..`
        digests.sha256 of `six-1.0.tar.gz` is missing
        size of `six-1.0.tar.gz` is `-7`; expected a number of bytes
        ");
    }

    proptest! {
        #[test]
        fn no_changed_text_panics(at in 0_usize..500, len in 0_usize..20, with in "[\\[\\]{}\",:0-9a-z\\\\-]{0,8}") {
            let mut text = good();
            let at = at.min(text.len());
            let end = (at + len).min(text.len());
            text.replace_range(at..end, &with);
            drop(parse(text.as_bytes(), &"six".parse().unwrap()));
        }
    }
}
