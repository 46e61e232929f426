//! The page for people.

use std::fmt::Write as _;

use strandline_model::MirrorName;

/// A mirror on that page.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) mirror: MirrorName,
    /// How many projects it has.
    pub(crate) projects: u64,
    /// The published snapshot.
    pub(crate) label: String,
}

/// Writes the page. `host` is the host that the request was sent to; it is shown only if it looks like one.
pub(crate) fn page(lines: &[Line], host: Option<&str>) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    let host = host.filter(|host| !host.is_empty() && host.bytes().all(plain)).unwrap_or("HOST:PORT");
    let mut out = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Strandline</title></head>\n\
                   <body><h1>Strandline</h1>\n"
        .to_owned();
    if lines.is_empty() {
        out.push_str("<p>No mirror has published anything yet.</p>\n");
    }
    // Nothing needs escaping: names of mirrors, numbers and hosts hold no character that means anything in HTML.
    for Line { mirror, projects, label } in lines {
        let counted = if *projects == 1 { "project" } else { "projects" };
        writeln!(
            out,
            "<h2><a href=\"{mirror}/simple/\">{mirror}</a></h2>\n<p>{projects} {counted} at serial {label}.</p>\n\
             <pre>pip install --index-url http://{host}/{mirror}/simple/ PROJECT</pre>"
        )
        .expect("a string takes everything");
    }
    out.push_str("</body></html>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_shown_if_it_is_one() {
        let line = || Line { mirror: "m".parse().unwrap(), projects: 2, label: "7.2".to_owned() };
        for (host, shown) in [
            (Some("127.0.0.1:8080"), "http://127.0.0.1:8080/m/simple/"),
            (Some("[::1]:8080"), "http://[::1]:8080/m/simple/"),
            (Some("x\"><script>"), "http://HOST:PORT/m/simple/"),
            (None, "http://HOST:PORT/m/simple/"),
        ] {
            let page = page(&[line()], host);
            assert!(page.contains(shown) && page.contains("2 projects at serial 7.2"), "{page}");
        }
        assert!(page(&[], None).contains("No mirror"));
    }
}
