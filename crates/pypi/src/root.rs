//! Reading an index's own list of projects, for indexes without a changelog.
//!
//! What always holds: a name that no project can have is left out with a warning, because nothing could be mirrored by
//! it; a link of an HTML list counts only if it leads to a page directly below the list. Tested below.

use html5gum::{Token, Tokenizer};
use serde::Deserialize;
use serde_json::value::RawValue;
use strandline_model::{DisplayName, Serial};
use strandline_sync::upstream::Problem;
use url::Url;

use crate::json::{Raw, object, required, serial};
use crate::listing::{check_api_version, malformed};
use crate::url_check::resolve;

#[derive(Deserialize)]
struct RawList<'a> {
    #[serde(borrow, default)]
    meta: Raw<'a>,
    #[serde(borrow, default)]
    projects: Raw<'a>,
}

#[derive(Deserialize)]
struct RawMeta<'a> {
    #[serde(borrow, default, rename = "api-version")]
    api_version: Raw<'a>,
    #[serde(borrow, default, rename = "_last-serial")]
    last_serial: Raw<'a>,
}

#[derive(Deserialize)]
struct RawProject<'a> {
    #[serde(borrow, default)]
    name: Raw<'a>,
    #[serde(borrow, default, rename = "_last-serial")]
    last_serial: Raw<'a>,
}

/// Reads the JSON list; a project without a serial has serial 0.
pub(crate) fn parse_json(bytes: &[u8]) -> Result<Vec<(DisplayName, Serial)>, Problem> {
    parse_with_serial(bytes).map(|(_, projects)| projects)
}

/// Reads the JSON list with its own serial, if it has one.
pub(crate) fn parse_with_serial(bytes: &[u8]) -> Result<(Option<Serial>, Vec<(DisplayName, Serial)>), Problem> {
    let list = serde_json::from_slice(bytes).map_err(|error| malformed(format!("the list is not JSON: {error}")))?;
    let list: RawList<'_> = object("the list", Some(list))?.ok_or_else(|| malformed("the list is `null`"))?;
    let meta: RawMeta<'_> =
        object("meta", list.meta)?.ok_or_else(|| malformed("meta is missing; expected an object"))?;
    check_api_version(&required::<String>("meta.api-version", "a text such as `1.4`", meta.api_version)?)?;
    // Upstream's is of no use, so it may be what it likes.
    let last = serial("meta._last-serial", meta.last_serial).unwrap_or_default();
    let raw: Vec<&RawValue> = required("projects", "a list of objects", list.projects)?;
    let mut projects = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let field = |name: &str| format!("projects[{index}]{name}");
        let project: RawProject<'_> =
            object(&field(""), Some(raw))?.ok_or_else(|| malformed(format!("{} is `null`", field(""))))?;
        let name: String = required(&field(".name"), "a text", project.name)?;
        let serial = serial(&field("._last-serial"), project.last_serial)?.unwrap_or(Serial::ZERO);
        take(&mut projects, &name, serial);
    }
    Ok((last, projects))
}

/// Reads the HTML list, which has no serials: each project has serial 0.
pub(crate) fn parse_html(bytes: &[u8], list: &Url) -> Result<Vec<(DisplayName, Serial)>, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| malformed(format!("the list is not UTF-8: {error}")))?;
    let mut projects = Vec::new();
    // The directory of the link that is open, and its text so far.
    let mut link: Option<(String, String)> = None;
    for token in Tokenizer::new(text) {
        let Ok(token) = token;
        match token {
            Token::StartTag(tag) if tag.name.as_slice() == b"a" => {
                let href =
                    tag.attributes.get(b"href".as_slice()).map(|href| String::from_utf8_lossy(href).into_owned());
                link = href.and_then(|href| directory(list, href.trim())).map(|directory| (directory, String::new()));
            }
            Token::StartTag(tag) if tag.name.as_slice() == b"meta" => {
                let attribute = |name: &[u8]| tag.attributes.get(name).map(|value| String::from_utf8_lossy(value));
                if let (Some("pypi:repository-version"), Some(version)) =
                    (attribute(b"name").as_deref(), attribute(b"content"))
                {
                    check_api_version(&version)?;
                }
            }
            Token::String(more) => {
                if let Some((_, text)) = &mut link {
                    text.push_str(&String::from_utf8_lossy(&more));
                }
            }
            Token::EndTag(tag) if tag.name.as_slice() == b"a" => {
                if let Some((directory, text)) = link.take() {
                    let same = |text: &str| {
                        let (text, directory): (Result<DisplayName, _>, Result<DisplayName, _>) =
                            (text.parse(), directory.parse());
                        matches!((text, directory), (Ok(text), Ok(directory)) if text.normalise() == directory.normalise())
                    };
                    let name = if same(text.trim()) { text.trim() } else { &directory };
                    take(&mut projects, name, Serial::ZERO);
                }
            }
            _ => {}
        }
    }
    Ok(projects)
}

/// The name of a directory directly below the list.
fn directory(list: &Url, href: &str) -> Option<String> {
    let (url, _) = resolve(list, href).ok()?;
    let below = url.path().strip_prefix(list.path())?;
    let name = below.strip_suffix('/').unwrap_or(below);
    (url.origin() == list.origin() && !name.is_empty() && !name.contains('/')).then(|| name.to_owned())
}

fn take(projects: &mut Vec<(DisplayName, Serial)>, name: &str, serial: Serial) {
    match name.parse() {
        Ok(name) => projects.push((name, serial)),
        Err(error) => tracing::warn!(%error, "a project is left out"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(projects: Result<Vec<(DisplayName, Serial)>, Problem>) -> String {
        match projects {
            Ok(projects) => {
                let lines: Vec<_> = projects.iter().map(|(name, serial)| format!("{name} {serial}")).collect();
                lines.join("\n")
            }
            Err(problem) => problem.to_string(),
        }
    }

    fn html(text: &str) -> String {
        shown(parse_html(text.as_bytes(), &"https://index.example/simple/".parse().unwrap()))
    }

    #[test]
    fn json_lists() {
        let of = |text: &str| shown(parse_json(text.as_bytes()));
        let meta = r#"{"meta":{"api-version":"1.4"},"projects":"#;
        let list = r#"[{"name":"Zope.Interface","_last-serial":7,"x":1},{"name":"six"},{"name":"no name"}]}"#;
        assert_eq!(of(&format!("{meta}{list}")), "Zope.Interface 7\nsix 0");
        let said = ["[]", "{}", &format!("{meta}7}}"), &format!("{meta}[7]}}"), &format!("{meta}[{{}}]}}")].map(of);
        insta::assert_snapshot!(said.join("\n"), @r#"
        the list is `[]`; expected an object
        meta is missing; expected an object
        projects is `7`; expected a list of objects
        projects[0] is `7`; expected an object
        projects[0].name is missing; expected a text
        "#);
    }

    #[test]
    fn html_lists() {
        let list = "<a href=zope-interface/>Zope.<b>Interface</b></a> <a href='/simple/six/'>  six </a> <a href=x/>The x</a>\
            <a href=../>up</a> <a href=https://other.example/simple/y/>y</a> <a href=a/b/>c</a> <a name=z>z</a> <a href=open/>";
        assert_eq!(html(list), "Zope.Interface 0\nsix 0\nx 0");
        assert!(html("<meta name=pypi:repository-version content=2.0>").contains("reads version 1"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(<a |href=|x/|>|</a>|\\PC){0,30}|\\{?\"?(meta|projects)?\\PC{0,20}") {
            html(&text);
            drop(parse_json(text.as_bytes()));
        }
    }
}
