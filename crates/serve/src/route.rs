//! From a request's path to a [`Route`], without looking anything up.
//!
//! What always holds: a path is decoded once, by segments, so that an encoded `/` or `..` is a name with such characters,
//! and no file or project has such a name; a route is made of checked names only. Tested below.

use strandline_model::{At, MirrorName, ProjectName, TreePath};

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// The page for people.
    Home,
    /// A project's page, or the list of all projects.
    Page(Place, Option<ProjectName>),
    /// A file.
    File(Place, TreePath),
    /// The same under its proper path, which is absolute.
    Moved(String),
    /// Nothing, and the words to say so.
    Nothing(&'static str),
}

/// A mirror, and which of its snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The mirror.
    pub(crate) mirror: MirrorName,
    /// The snapshot; `None` is the published one.
    pub(crate) at: Option<At>,
}

impl Place {
    fn path(&self) -> String {
        match &self.at {
            Some(at) => format!("/{}/@{at}", self.mirror),
            None => format!("/{}", self.mirror),
        }
    }
}

const NO_PATH: &str = "not a path that anything here has";
const NO_PAGE: &str = "nothing here: indexes are at /MIRROR/simple/, files at /MIRROR/packages/";

/// Reads the path of a request as it came.
pub(crate) fn route(path: &str) -> Route {
    let Some(segments) =
        path.strip_prefix('/').and_then(|rest| rest.split('/').map(decode).collect::<Option<Vec<_>>>())
    else {
        return Route::Nothing(NO_PATH);
    };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (mirror, mut rest) = match &segments[..] {
        [""] => return Route::Home,
        [mirror, rest @ ..] => (mirror, rest),
        [] => return Route::Nothing(NO_PATH),
    };
    let Ok(mirror) = mirror.parse::<MirrorName>() else { return Route::Nothing(NO_PAGE) };
    let mut at = None;
    if let [first, more @ ..] = rest
        && let Some(wanted) = first.strip_prefix('@')
    {
        // These characters are in serials and times, and stand in a path as they are.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".:+-".contains(&byte);
        match wanted.parse() {
            Ok(wanted_at) if wanted.len() <= 40 && wanted.bytes().all(plain) => (at, rest) = (Some(wanted_at), more),
            _ => return Route::Nothing("after `@` stands a serial (31234567, 31234567.2) or a date (2026-11-23)"),
        }
    }
    let place = Place { mirror, at };
    match rest {
        ["simple"] => Route::Moved(format!("{}/simple/", place.path())),
        ["simple", ""] => Route::Page(place, None),
        ["simple", name, end @ ..] if matches!(end, [] | [""]) => match ProjectName::normalise(name) {
            Ok(project) if project.as_str() == *name && end == [""] => Route::Page(place, Some(project)),
            Ok(project) => Route::Moved(format!("{}/simple/{project}/", place.path())),
            Err(_) => Route::Nothing("not a project's name: letters, digits, `.`, `-` and `_`"),
        },
        // A name that begins with a dot is a temporary file of the pool.
        ["packages", names @ ..] if !names.is_empty() && !names.iter().any(|name| name.starts_with('.')) => {
            match rest.join("/").parse() {
                Ok(path) => Route::File(place, path),
                Err(_) => Route::Nothing(NO_PATH),
            }
        }
        _ => Route::Nothing(NO_PAGE),
    }
}

/// Decodes one segment; `None` if it is not UTF-8 or holds a character that no name has.
fn decode(segment: &str) -> Option<String> {
    let mut out = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => digit(bytes.next())? << 4 | digit(bytes.next())?,
            other => other,
        });
    }
    let text = String::from_utf8(out).ok()?;
    let bad = text.len() > 255 || text.contains(|c: char| c.is_control() || c == '/' || c == '\\');
    (!bad && text != "." && text != "..").then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn short(path: &str) -> String {
        match route(path) {
            Route::Home => "home".to_owned(),
            Route::Page(place, project) => {
                format!("page {} {}", place.path(), project.map_or(String::new(), |p| p.to_string()))
            }
            Route::File(place, path) => format!("file {} {path}", place.path()),
            Route::Moved(to) => format!("moved {to}"),
            Route::Nothing(_) => "-".to_owned(),
        }
    }

    #[test]
    fn table() {
        for (path, expected) in [
            ("/", "home"),
            ("/m/simple/", "page /m "),
            ("/m/simple", "moved /m/simple/"),
            ("/m/simple/six/", "page /m six"),
            ("/m/simple/six", "moved /m/simple/six/"),
            ("/m/simple/Zope.Interface/", "moved /m/simple/zope-interface/"),
            ("/m/simple/a__b", "moved /m/simple/a-b/"),
            ("/m/simple/%53ix/", "moved /m/simple/six/"),
            ("/m/simple/%73ix/", "page /m six"),
            ("/m/simple/-six/", "-"),
            ("/m/simple/six/index.html", "-"),
            ("/m/simple//", "-"),
            ("/m//simple/", "-"),
            ("//m/simple/", "-"),
            ("/m/@12/simple/six/", "page /m/@12 six"),
            ("/m/@12.2/simple/Six", "moved /m/@12.2/simple/six/"),
            ("/m/@2026-11-23/simple/", "page /m/@2026-11-23 "),
            ("/m/@2026-11-23T10:00:00Z/simple/", "page /m/@2026-11-23T10:00:00Z "),
            ("/m/@/simple/", "-"),
            ("/m/@1%0d%0aX/simple", "-"),
            ("/m/@1/@2/simple/", "-"),
            ("/m/@12/packages/aa/f.whl", "file /m/@12 packages/aa/f.whl"),
            ("/m/packages/aa/bb/c/f%2B1.whl.metadata", "file /m packages/aa/bb/c/f+1.whl.metadata"),
            ("/m/packages/aa/%C3%A9.zip", "file /m packages/aa/é.zip"),
            ("/m/packages/", "-"),
            ("/m/packages", "-"),
            ("/m/packages/aa/", "-"),
            ("/m/packages/aa//f", "-"),
            ("/m/packages/../simple/index.html", "-"),
            ("/m/packages/%2e%2e/x", "-"),
            ("/m/packages/%2E%2E%2Fx", "-"),
            ("/m/packages/a%2fb", "-"),
            ("/m/packages/a%5Cb", "-"),
            ("/m/packages/a%00b", "-"),
            ("/m/packages/%252e%252e/x", "file /m packages/%2e%2e/x"),
            ("/m/packages/%ff", "-"),
            ("/m/packages/%f", "-"),
            ("/m/packages/%zz", "-"),
            ("/m/packages/aa/.copy-1", "-"),
            ("/M/simple/", "-"),
            ("/../simple/", "-"),
            ("/m", "-"),
            ("/m/", "-"),
            ("*", "-"),
            ("", "-"),
        ] {
            assert_eq!(short(path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn nothing_escapes(path in "(/|%2e|%2f|%00|\\.|%|[a-zA-Z@]|packages/|m/|simple/|\\PC){0,30}") {
            match route(&path) {
                Route::File(_, path) => {
                    prop_assert!(path.as_str().starts_with("packages/"));
                    prop_assert!(path.as_str().split('/').all(|segment| !segment.is_empty() && !segment.starts_with('.')));
                }
                // A Location with two slashes at its start would name another host.
                Route::Moved(to) => prop_assert!(to.starts_with('/') && !to.starts_with("//") && to.is_ascii()),
                Route::Home | Route::Page(..) | Route::Nothing(_) => {}
            }
        }
    }
}
