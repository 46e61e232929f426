//! Which URLs of a page may be asked.
//!
//! What always holds: a URL that came out of [`resolve`] is http(s), has no credentials and no fragment, and its path
//! holds neither an escape upwards nor an encoded separator. The text is looked at *before* it is parsed, because
//! parsing folds `..` away. Tested below.

use url::{Host, Url};

use crate::reach::is_globally_reachable;

/// Resolves a URL of a page against the page's own URL; the error says what is wrong with it.
///
/// A relative one may begin with `../`, as mirrors write them; `..` behind anything else is refused.
pub(crate) fn resolve(base: &Url, text: &str) -> Result<(Url, Option<String>), String> {
    let refuse = |rule: &str| Err(format!("the URL `{}` {rule}", shown_url(text)));
    if text.is_empty() {
        return refuse("is empty");
    }
    if text.len() > 8192 {
        return refuse("is longer than 8,192 bytes");
    }
    if text.chars().any(|c| c.is_control() || c == '\\') {
        return refuse("holds a control character or `\\`");
    }
    let before_query = text.split(['?', '#']).next().unwrap_or_default();
    let lower = before_query.to_ascii_lowercase();
    for encoded in ["%2e", "%2f", "%5c", "%00"] {
        if lower.contains(encoded) {
            return refuse(&format!("holds `{encoded}`"));
        }
    }
    let mut path = before_query;
    while let Some(rest) = path.strip_prefix("../") {
        path = rest;
    }
    if path.split('/').any(|segment| segment == "..") {
        return refuse("escapes upwards by `..`");
    }
    let mut url = match base.join(text) {
        Ok(url) => url,
        Err(error) => return refuse(&format!("is not a URL: {error}")),
    };
    if !matches!(url.scheme(), "http" | "https") {
        return refuse("is neither http nor https");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("a URL on {} holds credentials", url.host_str().unwrap_or_default()));
    }
    if percent_decode(url.path()).is_none_or(|path| path.chars().any(char::is_control)) {
        return refuse("has a path that is not UTF-8 or holds control characters");
    }
    let fragment = url.fragment().map(str::to_owned);
    url.set_fragment(None);
    Ok((url, fragment))
}

/// Text from outside as an error shows it: short, escaped, and without the secrets of the URLs in it.
pub(crate) fn shown(text: &str) -> String {
    escaped(&without_secrets(text))
}

/// A URL from outside as an error shows it: short, escaped, and without credentials and query, whatever its form.
pub(crate) fn shown_url(text: &str) -> String {
    let (before, rest) = match text.find([':', '/', '?', '#', '\\']) {
        Some(end) if text[end..].starts_with(':') => text.split_at(end + 1),
        _ => ("", text),
    };
    let slashes = rest.len() - rest.trim_start_matches(['/', '\\']).len();
    // Without a scheme, two slashes begin a host and fewer do not.
    if before.is_empty() && slashes < 2 {
        return escaped(&without_query(text));
    }
    let (slashes, rest) = rest.split_at(slashes);
    let bare = without_user_and_query(rest);
    if bare.contains('@') && text.parse::<Url>().is_err() {
        // Perhaps a password with a slash in it.
        return escaped(&format!("{before}{slashes}…"));
    }
    escaped(&format!("{before}{slashes}{bare}"))
}

/// A text with each URL in it, such as `https://index.example/`, without its credentials, and without its query, which
/// may be a signature.
pub fn without_secrets(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let slashes = rest[at + 3..].len() - rest[at + 3..].trim_start_matches(['/', '\\']).len();
        let (before, after) = rest.split_at(at + 3 + slashes);
        let end = after.find(|c: char| c.is_whitespace() || "\"'`<>".contains(c)).unwrap_or(after.len());
        let (url, more) = after.split_at(end);
        out.push_str(before);
        out.push_str(&without_user_and_query(url));
        rest = more;
    }
    out.push_str(rest);
    out
}

/// Of a URL without its scheme.
fn without_user_and_query(text: &str) -> String {
    let end = text.find(['/', '\\', '?', '#']).unwrap_or(text.len());
    let (authority, rest) = text.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{host}{}", without_query(rest))
}

fn without_query(text: &str) -> String {
    let (rest, fragment) = text.find('#').map_or((text, ""), |at| text.split_at(at));
    match rest.split_once('?') {
        Some((path, _)) => format!("{path}?…{fragment}"),
        None => text.to_owned(),
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(300));
    for c in text.chars().take(300) {
        match c {
            ' '..='~' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out
}

/// The last segment of a URL's path, decoded; empty for a directory.
pub(crate) fn last_segment(url: &Url) -> Option<String> {
    percent_decode(url.path().rsplit('/').next().unwrap_or_default())
}

/// Decodes `%41` and the like; `None` if what comes out is not UTF-8. A `%` without two digits is itself.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let digit =
        |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16)).map(|digit| digit.to_le_bytes()[0]);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if let (b'%', Some(high), Some(low)) = (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            out.push(high << 4 | low);
            at += 3;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

/// Encodes everything but unreserved characters and `/` (RFC 3986, section 2.3).
pub(crate) fn percent_encode(path: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a string takes everything");
        }
    }
    out
}

/// Whether the host of a URL is an address that is not on the public internet, or a name that always means this
/// machine. Other names are judged by the addresses that they resolve to.
pub(crate) fn is_local_host(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => !is_globally_reachable(address.into()),
        Some(Host::Ipv6(address)) => !is_globally_reachable(address.into()),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn base() -> Url {
        "https://index.example/simple/six/".parse().unwrap()
    }

    #[test]
    fn good_urls() {
        for (text, expected) in [
            ("https://files.example/a/six-1.0.tar.gz#sha256=00", "https://files.example/a/six-1.0.tar.gz"),
            ("../../packages/aa/six-1.0.tar.gz", "https://index.example/packages/aa/six-1.0.tar.gz"),
            ("six-1.0.tar.gz?sig=..%2f", "https://index.example/simple/six/six-1.0.tar.gz?sig=..%2f"),
            ("/p/six-1.0%2Bcu.whl", "https://index.example/p/six-1.0%2Bcu.whl"),
            ("//files.example/six..1.tar.gz", "https://files.example/six..1.tar.gz"),
        ] {
            assert_eq!(resolve(&base(), text).unwrap().0.as_str(), expected);
        }
    }

    #[test]
    fn refused_urls() {
        for text in [
            "",
            "ftp://files.example/six-1.0.tar.gz",
            "file:///etc/passwd",
            "data:,x",
            "javascript:alert(1)",
            "https://files.example/a/../six-1.0.tar.gz",
            "https://files.example/..",
            "a/../six-1.0.tar.gz",
            "/../six-1.0.tar.gz",
            "..",
            "%2e%2e/six-1.0.tar.gz",
            "https://files.example/a%2Fb",
            "https://files.example/a%5cb",
            "https://files.example/a%00b",
            "https://files.example/a%0ab",
            "https://files.example/a\\b",
            "https://files.example/a\nb",
            "https://files.example/%ff",
            "https://",
            "https://user:secret@files.example/six-1.0.tar.gz",
        ] {
            let error = resolve(&base(), text).expect_err(text);
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn local_addresses() {
        for text in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0/",
            "http://10.1.2.3/",
            "http://172.31.0.1/",
            "http://192.168.0.1/",
            "http://169.254.169.254/",
            "http://100.64.0.1/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://[::]/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://[::10.0.0.1]/",
            "http://[64:ff9b::127.0.0.1]/",
            "http://[2002:7f00:1::]/",
            "http://[fe80::1]/",
            "http://[fd00::1]/",
            "http://[fec0::1]/",
            "http://[ff02::1]/",
            "http://localhost/",
            "http://LOCALHOST./",
            "http://a.localhost/",
        ] {
            assert!(is_local_host(&text.parse().unwrap()), "{text}");
        }
        for text in [
            "http://8.8.8.8/",
            "http://100.128.0.1/",
            "http://172.32.0.1/",
            "http://198.20.0.1/",
            "http://[2606:4700::1]/",
            "http://[::ffff:8.8.8.8]/",
            "http://index.example/",
            "http://localhost.example/",
        ] {
            assert!(!is_local_host(&text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn errors_show_no_credentials() {
        assert_eq!(shown("https://user:secret@index.example/a@b"), "https://index.example/a@b");
        assert_eq!(shown("https://index.example/a@b"), "https://index.example/a@b");
    }

    #[test]
    fn errors_show_no_secrets_of_urls() {
        for (text, expected) in [
            ("https://user:p@ss@index.example/a?X-Signature=secret#x", "https://index.example/a?…#x"),
            ("//user:secret@files.example/a", "//files.example/a"),
            ("https:user:secret@files.example/a", "https:files.example/a"),
            ("https:\\\\user:secret@files.example", "https:\\\\files.example"),
            ("https://user:se/cret@files.example/a", "https://…"),
            ("six-1.0.tar.gz?token=secret&a=b", "six-1.0.tar.gz?…"),
            ("/a@b/six-1.0.tar.gz?token=secret", "/a@b/six-1.0.tar.gz?…"),
            ("https://files.example/a@b", "https://files.example/a@b"),
        ] {
            assert_eq!(shown_url(text), expected);
        }
        let text = "from `http://u:secret@a.example/x?sig=secret` to (https://secret@b.example) at a@b?";
        assert_eq!(shown(text), "from `http://a.example/x?…` to (https://b.example) at a@b?");
        let refused = resolve(&base(), "a/../six-1.0.tar.gz?sig=secret").unwrap_err();
        assert!(!refused.contains("secret"), "{refused}");
    }

    proptest! {
        #[test]
        fn encoding_is_undone_by_decoding(text in "\\PC{0,60}") {
            prop_assert_eq!(percent_decode(&percent_encode(&text)), Some(text));
        }

        #[test]
        fn no_text_shows_a_secret(before in "[a-z/:?#@]{0,8}", after in "[a-z/:?#@]{0,8}") {
            for text in [format!("https://{before}:s3cr3t@{after}"), format!("https://h/{before}?s3cr3t={after}")] {
                let has_it = |url: Url| {
                    url.password() == Some("s3cr3t") || url.query().is_some_and(|query| query.contains("s3cr3t"))
                };
                if text.parse().is_ok_and(has_it) {
                    prop_assert!(!shown(&text).contains("s3cr3t") && !shown_url(&text).contains("s3cr3t"), "{}", text);
                }
            }
        }

        #[test]
        fn what_is_resolved_stays_below_its_host(text in "(https?://)?[a-z.%/25eEfF#?@:\\\\-]{0,40}") {
            if let Ok((url, _)) = resolve(&base(), &text) {
                prop_assert!(matches!(url.scheme(), "http" | "https"));
                prop_assert!(!url.path().split('/').any(|segment| segment == ".."));
                prop_assert!(url.fragment().is_none() && url.username().is_empty());
            }
        }
    }
}
