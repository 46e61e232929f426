//! The form of a page that a client wants: the Accept header (RFC 9110, section 12.5.1) as PEP 691 uses it.
//!
//! Only the grammar that clients use is read: parameters other than `q` are ignored, a range with a malformed `q` is
//! ignored as a whole, and if a type is named twice, the first range with a `q` counts. [`crate::nginx`] follows the
//! same rules, and `tests/conformance` compares the two.

use std::cmp::Reverse;

/// A form of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// PEP 691's JSON.
    Json,
    /// HTML under PEP 691's name.
    VersionedHtml,
    /// HTML.
    Html,
}

impl Form {
    /// The file name of a page in this form.
    pub(crate) fn file_name(self) -> &'static str {
        match self {
            Self::Json => "index.v1_json",
            Self::VersionedHtml => "index.v1_html",
            Self::Html => "index.html",
        }
    }

    /// The Content-Type of an answer in this form. A request for `latest` is answered with `v1` too.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/vnd.pypi.simple.v1+json",
            Self::VersionedHtml => "application/vnd.pypi.simple.v1+html",
            Self::Html => "text/html; charset=utf-8",
        }
    }
}

/// Chooses the form that a client wants most; `None` if it wants none of them.
///
/// Without a header, a client gets HTML, as such clients always have. Of forms that are wanted equally, one that the client
/// names goes before one that only a wildcard covers, and the richer before the poorer; a wildcard alone means HTML.
///
/// `None` becomes 406 and not HTML: a program that asks for a type by name would only fail later, and less clearly, on
/// another one. No installer is affected: they all accept HTML in the end.
pub(crate) fn choose(accept: Option<&str>) -> Option<Form> {
    let accept = accept.map(str::trim).filter(|accept| !accept.is_empty());
    let Some(accept) = accept else { return Some(Form::Html) };
    let wish = |names: &[&str], family: &str| {
        quality(accept, names)
            .map(|quality| (quality, true))
            .or_else(|| quality(accept, &[family]).map(|quality| (quality, false)))
            .or_else(|| quality(accept, &["*/*"]).map(|quality| (quality, false)))
            .filter(|(quality, _)| *quality != "0")
    };
    let json = ["application/vnd.pypi.simple.v1+json", "application/vnd.pypi.simple.latest+json"];
    let html = ["application/vnd.pypi.simple.v1+html", "application/vnd.pypi.simple.latest+html"];
    // The last column orders forms that are wanted equally: greater is better.
    let wishes = [
        (wish(&json, "application/*"), Form::Json, [1, 2]),
        (wish(&html, "application/*"), Form::VersionedHtml, [0, 1]),
        (wish(&["text/html"], "text/*"), Form::Html, [2, 0]),
    ];
    wishes
        .into_iter()
        .filter_map(|(wish, form, rank)| wish.map(|(quality, named)| (quality, named, rank[usize::from(named)], form)))
        .min_by_key(|(quality, named, rank, _)| Reverse((quality.clone(), *named, *rank)))
        .map(|(.., form)| form)
}

/// How much the client wants a type that has one of these names: as the first range with a `q` says, or else any range.
fn quality(accept: &str, names: &[&str]) -> Option<String> {
    let mut found = None;
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        if !parts.next().is_some_and(|name| names.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))) {
            continue;
        }
        let quality = parts.find_map(|parameter| parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q=")));
        match quality.map(digits) {
            Some(Some(quality)) => return Some(quality),
            Some(None) => {}
            None => found = Some("1".to_owned()),
        }
    }
    found
}

/// A quality as its digits without the point and without zeros at the end, so that comparing text compares numbers;
/// `None` if it is none.
fn digits(text: &str) -> Option<String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction_is_fine = fraction.bytes().all(|byte| byte.is_ascii_digit());
    let fraction = fraction.trim_end_matches('0');
    match whole {
        "0" if fraction_is_fine => Some(format!("0{fraction}")),
        "1" if fraction_is_fine && fraction.is_empty() => Some("1".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Form::{Html, Json, VersionedHtml};
    use super::*;

    #[test]
    fn table() {
        const JSON: &str = "application/vnd.pypi.simple.v1+json";
        for (accept, form) in [
            ("", Some(Html)),
            ("*/*", Some(Html)),
            ("text/*", Some(Html)),
            ("text/html", Some(Html)),
            ("TEXT/HTML", Some(Html)),
            (JSON, Some(Json)),
            ("application/vnd.pypi.simple.latest+json", Some(Json)),
            ("application/vnd.pypi.simple.latest+html", Some(VersionedHtml)),
            ("application/*", Some(Json)),
            ("application/*, */*", Some(Html)),
            ("application/*, text/html", Some(Html)),
            ("*/*, application/vnd.pypi.simple.v1+json", Some(Json)),
            ("application/vnd.pypi.simple.v1+json;q=0.5, */*", Some(Html)),
            ("application/vnd.pypi.simple.v1+json, */*;q=0.1", Some(Json)),
            // Pip sends the first, uv the second.
            (
                "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01",
                Some(Json),
            ),
            (
                "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01",
                Some(Json),
            ),
            // Browsers send this.
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Some(Html)),
            ("text/html, application/vnd.pypi.simple.v1+html", Some(VersionedHtml)),
            ("text/html;q=0.09, application/vnd.pypi.simple.v1+html;q=0.1", Some(VersionedHtml)),
            ("text/html;q=0.10, application/vnd.pypi.simple.v1+html;q=0.1", Some(VersionedHtml)),
            ("text/html;q=0.11, application/vnd.pypi.simple.v1+html;q=0.1", Some(Html)),
            ("text/html ; level=1 ; q=0.3, application/*;q=0.2", Some(Html)),
            ("text/html;q=1.000, application/vnd.pypi.simple.v1+json;q=0.999", Some(Html)),
            ("*/*, text/html;q=0", Some(Json)),
            ("*/*, text/html;q=0, application/vnd.pypi.simple.v1+json;q=0.0", Some(VersionedHtml)),
            ("text/html;q=0", None),
            ("*/*;q=0", None),
            ("application/json", None),
            ("application/vnd.pypi.simple.v2+json", None),
            ("xtext/html, text/htmlx", None),
            ("nonsense", None),
            ("text/html;q=2", None),
            ("text/html;q=1.5", None),
            ("text/html;q=", None),
            ("text/html;q=.5", None),
            ("text/html;q=2, text/*;q=0.1", Some(Html)),
            ("text/html;q=0.1, text/html;q=0.9, application/*;q=0.5", Some(Json)),
            (",,;q=1,text/html", Some(Html)),
        ] {
            assert_eq!(choose(Some(accept)), form, "{accept}");
        }
        assert_eq!(choose(None), Some(Html));
    }

    proptest! {
        #[test]
        fn no_text_panics(accept in "(text/html|\\*/\\*|application/\\*|[a-z/*]{0,9}|;|,| |q=|[01.]|\\PC){0,20}") {
            choose(Some(&accept));
        }
    }
}
