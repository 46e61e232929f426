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
    let refuse = |rule: &str| Err(format!("the URL `{}` {rule}", shown(text)));
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

/// Text from outside as an error shows it: short, escaped, and without credentials.
pub(crate) fn shown(text: &str) -> String {
    let without = match (text.find("://"), text.find('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at && !text[scheme + 3..at].contains(['/', '?', '#']) => {
            format!("{}{}", &text[..scheme + 3], &text[at + 1..])
        }
        _ => text.to_owned(),
    };
    let mut out = String::with_capacity(without.len().min(300));
    for c in without.chars().take(300) {
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

    proptest! {
        #[test]
        fn encoding_is_undone_by_decoding(text in "\\PC{0,60}") {
            prop_assert_eq!(percent_decode(&percent_encode(&text)), Some(text));
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
