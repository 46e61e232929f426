//! Reading an index's own list of projects, for indexes without a changelog.
//!
//! What always holds: a name that no project can have is left out with a warning, because nothing could be mirrored by
//! it. Tested below; `root/html.rs` says which links of an HTML list count.

pub(crate) mod html;

use serde::Deserialize;
use serde_json::value::RawValue;
use strandline_model::{DisplayName, Serial};
use strandline_sync::upstream::Problem;

use crate::json::{List, Raw, object, required, serial};
use crate::listing::{LeftOut, check_api_version, malformed};

/// How many projects a list may have: some three times as many as the largest index.
const MOST_PROJECTS: usize = 2_000_000;

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
    let List(raw): List<&RawValue, MOST_PROJECTS> = required("projects", "a list of objects", list.projects)?;
    let (mut projects, mut left_out) = (Vec::with_capacity(raw.len()), LeftOut::default());
    for (index, raw) in raw.into_iter().enumerate() {
        let field = |name: &str| format!("projects[{index}]{name}");
        let project: RawProject<'_> =
            object(&field(""), Some(raw))?.ok_or_else(|| malformed(format!("{} is `null`", field(""))))?;
        let name: String = required(&field(".name"), "a text", project.name)?;
        let serial = serial(&field("._last-serial"), project.last_serial)?.unwrap_or(Serial::ZERO);
        take(&mut projects, &name, serial, &mut left_out);
    }
    Ok((last, projects))
}

fn take(projects: &mut Vec<(DisplayName, Serial)>, name: &str, serial: Serial, left_out: &mut LeftOut) {
    match name.parse() {
        Ok(name) => projects.push((name, serial)),
        Err(error) => left_out.add(|| format!("a project: {error}")),
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

    fn in_html(text: &str) -> String {
        let list = html::parse(text.as_bytes(), &"https://index.example/simple/".parse().unwrap());
        shown(list.map(|list| list.projects))
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
        assert_eq!(in_html(list), "Zope.Interface 0\nsix 0\nx 0");
        assert!(in_html("<meta name=pypi:repository-version content=2.0>").contains("reads version 1"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(<a |href=|x/|>|</a>|\\PC){0,30}|\\{?\"?(meta|projects)?\\PC{0,20}") {
            in_html(&text);
            drop(parse_json(text.as_bytes()));
        }
    }
}
