//! Reading a list of projects in HTML.
//!
//! What always holds: a link counts only if it leads to a page directly below the list, or below the one other place
//! that the list means by itself; what stands in a script or style is no link; no input panics. Tested here and in
//! `root.rs`.

use std::collections::BTreeSet;

use strandline_model::{DisplayName, Serial};
use strandline_sync::upstream::Problem;
use url::Url;

use super::{MOST_PROJECTS, take};
use crate::listing::{LeftOut, check_api_version, malformed};
use crate::markup::{self, Part, Scripts};
use crate::url_check::resolve;

/// What a list in HTML says.
#[derive(Debug)]
pub(crate) struct HtmlList {
    /// It has no serials: each project has serial 0.
    pub(crate) projects: Vec<(DisplayName, Serial)>,
    /// Its links lead to files `index.html`: a server that finds no page at a directory has such lists.
    pub(crate) names_files: bool,
    /// It says that it is a list of the Simple API, or has nothing but projects.
    pub(crate) is_list: bool,
}

/// A link to what may be a project's page.
struct Link {
    /// The directory that the page is in, as a URL.
    place: Url,
    directory: String,
    text: String,
    is_file: bool,
}

impl Link {
    /// What a link leads to; `None` if that is no page in a directory.
    fn new(base: &Url, href: &str) -> Option<Self> {
        let (url, _) = resolve(base, href).ok()?;
        let (path, is_file) = match url.path().strip_suffix("/index.html") {
            Some(path) => (path, true),
            None => (url.path().strip_suffix('/').unwrap_or(url.path()), false),
        };
        let (above, directory) = path.rsplit_once('/')?;
        let mut place = url.clone();
        place.set_query(None);
        place.set_path(&format!("{above}/"));
        (!directory.is_empty()).then(|| Self { place, directory: directory.to_owned(), text: String::new(), is_file })
    }

    /// Whether its text names the same project.
    fn is_named(&self) -> bool {
        let name = |text: &str| text.parse::<DisplayName>().map(|name| name.normalise());
        matches!((name(self.name()), name(&self.directory)), (Ok(text), Ok(directory)) if text == directory)
    }

    /// Its text; a web server's own lists write a slash after it.
    fn name(&self) -> &str {
        self.text.trim().trim_end_matches('/')
    }
}

/// Reads a list that was found at `list`.
pub(crate) fn parse(bytes: &[u8], list: &Url) -> Result<HtmlList, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| malformed(format!("the list is not UTF-8: {error}")))?;
    let mut base: Option<Url> = None;
    let (mut links, mut says_so, mut leads_elsewhere) = (Vec::new(), false, false);
    let mut open: Option<Link> = None;
    for part in markup::parts(text, Scripts::Opaque) {
        match part {
            Part::Start(tag) => match tag.name.as_str() {
                "a" => {
                    let from = base.as_ref().unwrap_or(list);
                    if let Some(href) = tag.get("href") {
                        open = Link::new(from, href.trim());
                        leads_elsewhere |= open.is_none() && !is_above(from, href.trim());
                    }
                }
                "base" if base.is_none() => {
                    base = tag.get("href").and_then(|href| Some(resolve(list, href.trim()).ok()?.0));
                }
                "meta" => {
                    if let (Some("pypi:repository-version"), Some(version)) = (tag.get("name"), tag.get("content")) {
                        check_api_version(version)?;
                        says_so = true;
                    }
                }
                _ => {}
            },
            Part::Text(more) => {
                if let Some(link) = &mut open {
                    link.text.push_str(&more);
                }
            }
            Part::End(name) if name == "a" => {
                links.extend(open.take());
                if links.len() > MOST_PROJECTS {
                    return Err(malformed(format!("the list has more than {MOST_PROJECTS} links")));
                }
            }
            _ => {}
        }
    }
    let from = base.unwrap_or_else(|| list.clone());
    let own = from.join(".").unwrap_or(from);
    let place = place(&links, &own);
    let mut left_out = LeftOut::default();
    let mut found = HtmlList { projects: Vec::new(), names_files: false, is_list: false };
    for link in links {
        if link.place == place {
            found.names_files |= link.is_file;
            leads_elsewhere |= !link.is_named();
            let name = if link.is_named() { link.name() } else { &link.directory };
            take(&mut found.projects, name, Serial::ZERO, &mut left_out);
        } else {
            leads_elsewhere |= !is_above(&own, &format!("{}{}/", link.place, link.directory));
        }
    }
    found.is_list = says_so || !found.projects.is_empty() && !leads_elsewhere;
    Ok(found)
}

/// Whether a link leads to the page that it is on, or to a directory above.
fn is_above(page: &Url, href: &str) -> bool {
    let above = |url: Url| page.path().starts_with(url.path().trim_end_matches("index.html"));
    page.join(href).is_ok_and(|url| url.origin() == page.origin() && above(url))
}

/// The directory of the projects' pages: the list's own; or if no link below it is named as a project, the only other
/// one that has such links and that is called the same. An index behind a proxy that writes whole URLs means itself by
/// another name.
fn place(links: &[Link], own: &Url) -> Url {
    let named = || links.iter().filter(|link| link.is_named());
    let called = |url: &Url| url.path().trim_end_matches('/').rsplit('/').next().map(str::to_owned);
    if named().any(|link| link.place == *own) {
        return own.clone();
    }
    let others: BTreeSet<&Url> = named().map(|link| &link.place).filter(|place| called(place) == called(own)).collect();
    match others.first() {
        Some(other) if others.len() == 1 => (*other).clone(),
        _ => own.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &str, text: &str) -> String {
        let found = parse(text.as_bytes(), &list.parse().unwrap()).unwrap();
        let names: Vec<_> = found.projects.iter().map(|(name, _)| name.as_str()).collect();
        let said = [(found.names_files, "files"), (found.is_list, "list")];
        let said = said.into_iter().filter(|(is, _)| *is).map(|(_, name)| name);
        names.into_iter().chain(said).collect::<Vec<_>>().join(" ")
    }

    const LIST: &str = "https://index.example/simple/";

    #[test]
    fn links_to_files() {
        assert_eq!(read(LIST, "<a href=six/index.html>six</a><a href=/simple/A/index.html>a</a>"), "six a files list");
        assert_eq!(read(&format!("{LIST}index.html"), "<a href=six/index.html>six</a>"), "six files list");
        assert_eq!(
            read("https://h.example/", "<a href=six/index.html>six</a><a href=index.html>x</a>"),
            "six files list"
        );
    }

    #[test]
    fn whole_urls_of_another_name() {
        let of = |list: &str| read(LIST, list);
        let inside = "<a href=http://10.0.0.1:3141/simple/six/>six</a><a href=http://10.0.0.1:3141/simple/A/>a</a>";
        assert_eq!(of(inside), "six a list");
        assert_eq!(of("<a href=http://index.example/simple/six/index.html>six</a>"), "six files list");
        assert_eq!(of("<a href=https://pypi.example/root/simple/six/>six</a><a href=/>Home</a>"), "six list");
        assert_eq!(read("https://a.example/", "<a href=https://b.example/six/>six</a>"), "six list");
        // Not where it is said otherwise, or where it would be a guess.
        assert_eq!(of(&format!("{inside}<a href=own/>own</a>")), "own");
        assert_eq!(of(&format!("{inside}<a href=https://other.example/simple/b/>b</a>")), "");
        assert_eq!(of("<a href=https://other.example/project/six/>six</a>"), "");
        assert_eq!(of("<a href=https://other.example/simple/six/>Homepage</a>"), "");
    }

    #[test]
    fn what_is_a_list_by_its_form() {
        let of = |text: &str| read("https://index.example/", text);
        assert_eq!(of("<h1>Index of /</h1><a href=../>../</a><a href=six/>six/</a><a href=?C=N>Name</a>"), "six list");
        assert_eq!(of("<meta name=pypi:repository-version content=1.0><a href=/other/x/y>z</a>"), "list");
        assert_eq!(of("<a href=/help/>Help</a><a href=/account/login/>Log in</a>"), "Help");
        assert_eq!(of("<a href=/help/>Help</a><a href=https://status.example/>Status</a>"), "Help");
        assert_eq!(of("<p>It works!"), "");
    }

    #[test]
    fn a_base_and_what_is_no_link() {
        let text =
            "<script>'<a href=x/>x</a>'</script><style><a href=y/>y</a></style><base href=/other/><a href=six/>six</a>";
        assert_eq!(read(LIST, text), "six list");
        assert_eq!(read(LIST, "<base href=/simple/><a href=./six/>six</a>"), "six list");
    }
}
