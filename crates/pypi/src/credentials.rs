//! The name and password for a private upstream: from its URL, or from a netrc file.
//!
//! What always holds: they go to upstream's own origin only (redirects elsewhere lose them), and no error or log
//! shows them. Tested below and in `tests/client.rs`.

use std::fmt;
use std::path::PathBuf;

use url::Url;

use crate::url_check::percent_decode;

/// Who we are at upstream.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// Takes the credentials out of the URL; looks into `netrc` for what it lacks.
    pub(crate) fn take(url: &mut Url, netrc: Option<&str>) -> Option<Self> {
        let user = percent_decode(url.username()).filter(|user| !user.is_empty());
        let password = url.password().and_then(percent_decode);
        // These fail only where there is no host, and then there are no credentials either.
        if url.set_username("").is_err() || url.set_password(None).is_err() {
            return None;
        }
        let host = url.host_str()?;
        match (user, password) {
            (Some(user), Some(password)) => Some(Self { user, password }),
            (None, Some(password)) => Some(Self { user: String::new(), password }),
            (Some(user), None) => {
                let found = netrc.and_then(|text| find(text, host)).filter(|found| found.user == user);
                Some(found.unwrap_or(Self { user, password: String::new() }))
            }
            (None, None) => netrc.and_then(|text| find(text, host)),
        }
    }
}

/// The netrc file of the user who runs this program: `NETRC`, else `.netrc` at home. `None` if there is none.
pub(crate) fn read_netrc() -> Option<String> {
    let path = match std::env::var_os("NETRC") {
        Some(path) => PathBuf::from(path),
        None => std::env::home_dir()?.join(".netrc"),
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!("cannot read `{}`: {error}; going on without it", path.display());
            None
        }
    }
}

/// What a netrc file says for a host; its `default` where it does not name the host.
fn find(text: &str, host: &str) -> Option<Credentials> {
    let text: String =
        text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(|l| [l, "\n"]).collect();
    let mut words = Words { rest: &text };
    // The entry that is being read, if it is one for this host.
    let mut entry: Option<(Option<String>, Option<String>)> = None;
    while let Some(word) = words.next() {
        match word.as_str() {
            "machine" | "default" => {
                if let Some(found) = entry.take().and_then(complete) {
                    return Some(found);
                }
                let matches = word == "default" || words.next().is_some_and(|name| name.eq_ignore_ascii_case(host));
                entry = matches.then_some((None, None));
            }
            "macdef" => words.skip_macro(),
            "login" | "user" | "password" | "account" => {
                let value = words.next();
                match (&mut entry, word.as_str()) {
                    (Some((user, _)), "login" | "user") => *user = value,
                    (Some((_, password)), "password") => *password = value,
                    _ => {}
                }
            }
            _ => {}
        }
    }
    entry.and_then(complete)
}

fn complete((user, password): (Option<String>, Option<String>)) -> Option<Credentials> {
    Some(Credentials { user: user.unwrap_or_default(), password: password? })
}

/// The words of a netrc file: separated by white space, some in quotes.
struct Words<'a> {
    rest: &'a str,
}

impl Words<'_> {
    fn next(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        if self.rest.is_empty() {
            return None;
        }
        let quoted = self.rest.starts_with('"');
        let mut chars = self.rest.char_indices().skip(usize::from(quoted));
        let mut word = String::new();
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => word.extend(chars.next().map(|(_, escaped)| escaped)),
                '"' if quoted => {
                    end = at + 1;
                    break;
                }
                c if !quoted && c.is_whitespace() => {
                    end = at;
                    break;
                }
                c => word.push(c),
            }
        }
        self.rest = self.rest.get(end..).unwrap_or_default();
        Some(word)
    }

    /// A macro goes to the next empty line.
    fn skip_macro(&mut self) {
        self.rest = self.rest.split_once("\n\n").map_or("", |(_, rest)| rest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NETRC: &str = r#"
# a comment with machine index.example login wrong password wrong
machine other.example login o password p
macdef init
machine index.example password macro

machine index.example
    login "me too"
    account x password s\"ecret
machine nopassword.example login n
default login anyone password guess
"#;

    fn of(url: &str, netrc: Option<&str>) -> (String, Option<(String, String)>) {
        let mut url = url.parse().unwrap();
        let found = Credentials::take(&mut url, netrc).map(|found| (found.user, found.password));
        (url.to_string(), found)
    }

    #[test]
    fn from_the_url_or_netrc() {
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        for (url, netrc, expected) in [
            ("https://a%40b:c%3A@index.example/", None, pair("a@b", "c:")),
            ("https://token@index.example/", None, pair("token", "")),
            ("https://token@index.example/", Some(NETRC), pair("token", "")),
            ("https://me%20too@index.example/", Some(NETRC), pair("me too", "s\"ecret")),
            ("https://index.example/", Some(NETRC), pair("me too", "s\"ecret")),
            ("https://other.example/", Some(NETRC), pair("o", "p")),
            ("https://third.example/", Some(NETRC), pair("anyone", "guess")),
            ("https://third.example/", Some("machine third.example login x"), None),
            ("https://index.example/", None, None),
        ] {
            let (shown, found) = of(url, netrc);
            assert_eq!(found, expected, "{url}");
            assert!(!shown.contains('@'), "{shown}");
        }
    }

    #[test]
    fn never_printed() {
        let found = Credentials { user: "me".to_owned(), password: "secret".to_owned() };
        assert_eq!(format!("{found:?}"), "Credentials(…)");
    }

    proptest! {
        #[test]
        fn no_file_panics(text in "((machine|default|login|password|macdef|index.example|\\PC{0,6})[ \n\"\\\\#]{0,3}){0,12}") {
            find(&text, "index.example");
        }
    }
}
