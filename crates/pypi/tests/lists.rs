//! The lists of all projects, as they are.

#![cfg(test)]

use strandline_model::{DisplayName, Format as _, ListedProject, Serial};
use strandline_pypi::Pypi;

fn written(path: &str, projects: &[(&str, u64)]) -> String {
    let projects: Vec<_> = projects
        .iter()
        .map(|(name, serial)| {
            let display: DisplayName = name.parse().expect("a name");
            ListedProject { name: display.normalise(), display, serial: Serial::try_from(*serial).expect("in range") }
        })
        .collect();
    let mut out = Vec::new();
    let serial = Serial::try_from(12).expect("in range");
    Pypi.write_list(&path.parse().expect("a path"), serial, &projects, &mut out).expect("memory takes everything");
    String::from_utf8(out).expect("text")
}

#[test]
fn lists() {
    let projects = [("six", 7), ("Zope.Interface", 12)];
    insta::assert_snapshot!(written("simple/index.v1_json", &projects), @r#"{"meta":{"api-version":"1.4","_last-serial":12},"projects":[{"name":"six","_last-serial":7},{"name":"Zope.Interface","_last-serial":12}]}"#);
    insta::assert_snapshot!(written("simple/index.html", &projects), @r#"
    <!DOCTYPE html><html><head><meta charset="utf-8"><meta name="pypi:repository-version" content="1.4"><title>Simple index</title></head>
    <body>
    <a href="six/">six</a><br>
    <a href="zope-interface/">Zope.Interface</a><br>
    </body></html>
    <!--SERIAL 12-->
    "#);
    insta::assert_snapshot!(written("simple/index.v1_json", &[]), @r#"{"meta":{"api-version":"1.4","_last-serial":12},"projects":[]}"#);
}

#[test]
fn both_html_lists_are_the_same_and_paths_are_sorted() {
    let projects = [("six", 7)];
    assert_eq!(written("simple/index.html", &projects), written("simple/index.v1_html", &projects));
    assert!(Pypi.list_paths().is_sorted());
    for path in Pypi.list_paths() {
        assert!(!written(path.as_str(), &projects).is_empty());
    }
}

#[test]
fn any_other_path_is_an_error() {
    let path = "simple/other".parse().unwrap();
    assert!(Pypi.write_list(&path, Serial::ZERO, &[], &mut Vec::new()).is_err());
}
