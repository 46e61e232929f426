//! Users and passwords: of upstream from a command, its URL and the environment, and of every host from a netrc file.
//!
//! What always holds: what was configured for upstream goes to its own origin only, and to the same host where a redirect
//! or a page leads from http to https; another host gets what netrc has for it by name, and never the `default` of netrc;
//! where upstream is asked over https, nothing goes out over http; no error or log shows any of them. Tested below and
//! in `tests/client.rs`.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use url::Url;

use crate::SettingsError;
use crate::program::answer;
use crate::url_check::percent_decode;

/// Longest wait for the command that says user and password.
const PATIENCE: Duration = Duration::from_secs(30);

/// A user and a password.
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

/// What is sent to which host.
pub(crate) struct Logins {
    /// Without credentials.
    upstream: Url,
    /// The user that upstream's URL names.
    user: Option<String>,
    of_upstream: Option<Credentials>,
    netrc: String,
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Logins(…)")
    }
}

impl Logins {
    /// Takes the credentials out of upstream's URL, with `${NAME}` in them replaced by what `variable` says of `NAME`;
    /// looks into `netrc` for what they lack. What a command said comes before all of them.
    pub(crate) fn take(
        upstream: &mut Url,
        said: Option<Credentials>,
        netrc: Option<String>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let netrc = netrc.unwrap_or_default();
        let (user, password) = take(upstream);
        let user = user.map(|user| expand(&user, &variable)).transpose()?.filter(|user| !user.is_empty());
        let password = password.map(|password| expand(&password, &variable)).transpose()?;
        let host = upstream.host_str().unwrap_or_default();
        let of_upstream = said.or_else(|| match (user.clone(), password) {
            (user, Some(password)) => Some(Credentials { user: user.unwrap_or_default(), password }),
            (user, None) => find(&netrc, host, user.as_deref(), true)
                .or_else(|| user.map(|user| Credentials { user, password: String::new() })),
        });
        Ok(Self { upstream: upstream.clone(), user, of_upstream, netrc })
    }

    /// What goes with a request; takes the credentials out of the URL where it holds some, as that of a redirect may.
    pub(crate) fn of(&self, url: &mut Url) -> Option<Credentials> {
        let (user, password) = take(url);
        if let Some(password) = password {
            return Some(Credentials { user: user.unwrap_or_default(), password });
        }
        let host = url.host_str()?;
        let at_upstream = Some(host) == self.upstream.host_str();
        let (from, to) = (self.upstream.scheme(), url.scheme());
        // The certificate of https shows that it is the same host, whatever the port.
        if user.is_none() && (url.origin() == self.upstream.origin() || at_upstream && (from, to) == ("http", "https"))
        {
            return self.of_upstream.clone();
        }
        if (from, to) == ("https", "http") {
            return None;
        }
        let same = self.user.as_deref().filter(|_| at_upstream);
        find(&self.netrc, host, user.as_deref().or(same), at_upstream)
            .or_else(|| user.map(|user| Credentials { user, password: String::new() }))
    }
}

/// Takes user and password out of a URL.
fn take(url: &mut Url) -> (Option<String>, Option<String>) {
    let user = percent_decode(url.username()).filter(|user| !user.is_empty());
    let password = url.password().and_then(percent_decode);
    // These fail only where there is no host, and then there are no credentials either.
    if url.set_username("").is_err() || url.set_password(None).is_err() {
        return (None, None);
    }
    (user, password)
}

/// Replaces each `${NAME}`.
fn expand(text: &str, variable: &impl Fn(&str) -> Option<String>) -> Result<String, SettingsError> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        match after.split_once('}') {
            Some((name, more)) if is_name(name) => {
                out.push_str(&variable(name).ok_or_else(|| SettingsError::NoVariable(name.to_owned()))?);
                rest = more;
            }
            _ => {
                out.push_str("${");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Asks a command, which the shell runs: it writes two lines, the user and the password. The command's errors go where
/// this program's go.
pub(crate) fn ask(command: &str) -> Result<Credentials, SettingsError> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]);
    let fail = |why: String| Err(SettingsError::CredentialCommand(why));
    let (text, status) = match answer(shell, PATIENCE) {
        Ok(said) => said,
        Err(why) => return fail(why),
    };
    match status {
        Some(status) if status.success() => {}
        Some(status) => return fail(format!("it failed: {status}")),
        None => return fail(format!("it did not end within {} s", PATIENCE.as_secs())),
    }
    let lines: Vec<&str> = text.trim_end_matches(['\r', '\n']).lines().collect();
    match lines[..] {
        [user, password] => Ok(Credentials { user: user.to_owned(), password: password.to_owned() }),
        _ => fail(format!("expected two lines, the user and the password; it wrote {}", lines.len())),
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

/// What a netrc file says for a host, of this user if one is named; else, if wanted, what its `default` says. An entry
/// without a login has the password of any user, but one that names the user is better.
fn find(text: &str, host: &str, user: Option<&str>, or_default: bool) -> Option<Credentials> {
    let host = host.trim_matches(['[', ']']);
    let mut of_any = None;
    for Entry { machine, user: of, password } in entries(text) {
        let matches =
            machine.as_deref().map_or(or_default, |name| name.trim_matches(['[', ']']).eq_ignore_ascii_case(host));
        let Some(password) = password.filter(|_| matches) else { continue };
        match (of, user) {
            (Some(of), None) => return Some(Credentials { user: of, password }),
            (Some(of), Some(user)) if of == user => return Some(Credentials { user: of, password }),
            (Some(_), Some(_)) => {}
            (None, user) => {
                of_any.get_or_insert(Credentials { user: user.unwrap_or_default().to_owned(), password });
            }
        }
    }
    of_any
}

/// An entry of a netrc file.
#[derive(Default)]
struct Entry {
    /// `None` for `default`.
    machine: Option<String>,
    user: Option<String>,
    password: Option<String>,
}

fn entries(text: &str) -> Vec<Entry> {
    let text: String =
        text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(|l| [l, "\n"]).collect();
    let mut words = Words { rest: &text };
    let mut entries: Vec<Entry> = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "machine" => entries.push(Entry { machine: Some(words.next().unwrap_or_default()), ..Entry::default() }),
            "default" => entries.push(Entry::default()),
            "macdef" => words.skip_macro(),
            "login" | "user" | "password" | "account" => {
                let value = words.next();
                match (entries.last_mut(), word.as_str()) {
                    (Some(entry), "login" | "user") => entry.user = value,
                    (Some(entry), "password") => entry.password = value,
                    _ => {}
                }
            }
            _ => {}
        }
    }
    entries
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
        let found = Logins::take(&mut url, None, netrc.map(str::to_owned), |_| None).unwrap().of_upstream;
        let found = found.map(|found| (found.user, found.password));
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
    fn variables_of_the_environment() {
        let of = |url: &str| {
            let mut url: Url = url.parse().unwrap();
            let variable = |name: &str| match name {
                "TOKEN" => Some("a/b@c:${TOKEN}".to_owned()),
                "EMPTY" => Some(String::new()),
                _ => None,
            };
            let found = Logins::take(&mut url, None, None, variable).map(|logins| logins.of_upstream);
            assert!(!url.as_str().contains('@'), "{url}");
            found.map(|found| found.map(|found| (found.user, found.password))).map_err(|error| error.to_string())
        };
        let pair = |user: &str, password: &str| Ok(Some((user.to_owned(), password.to_owned())));
        assert_eq!(of("https://me:${TOKEN}@index.example/"), pair("me", "a/b@c:${TOKEN}"));
        assert_eq!(of("https://${TOKEN}@index.example/"), pair("a/b@c:${TOKEN}", ""));
        assert_eq!(of("https://$%7BEMPTY%7D:x${TOKEN}y@index.example/"), pair("", "xa/b@c:${TOKEN}y"));
        assert_eq!(of("https://me:$TOKEN$%7B-x}${@index.example/"), pair("me", "$TOKEN${-x}${"));
        let error = of("https://me:${NO_TOKEN}@index.example/").unwrap_err();
        assert_eq!(error, "upstream: the environment has no variable `NO_TOKEN`");
    }

    /// Only the configuration may name variables, never what upstream says.
    #[test]
    fn a_redirect_names_no_variable() {
        assert_eq!(sent("http://h.example/", "", "http://me:${HOME}@o.example/"), "me:${HOME}");
    }

    #[test]
    fn a_command_says_user_and_password() {
        let said = ask("echo 'a user'; echo 's e:cret'").unwrap();
        assert_eq!((said.user.as_str(), said.password.as_str()), ("a user", "s e:cret"));
        assert_eq!(ask("printf 'u\\r\\np\\r\\n\\n'").unwrap().password, "p");
        assert_eq!(ask("printf '\\np'").unwrap().user, "");
        let netrc = Some("default login d password d".to_owned());
        let mut upstream = "https://a:b@index.example/".parse().unwrap();
        let logins = Logins::take(&mut upstream, Some(said.clone()), netrc, |_| None).unwrap();
        assert_eq!((logins.of(&mut upstream), upstream.as_str()), (Some(said), "https://index.example/"));
        let errors = [
            "echo s3cr3t",
            "printf 'a\\ns3cr3t\\nc'",
            "true",
            "echo u; echo s3cr3t; exit 3",
            "exec no-such-program 2>&-",
        ];
        let errors = errors.map(|command| ask(command).unwrap_err().to_string());
        insta::assert_snapshot!(errors.join("\n"), @"
        credential-command: expected two lines, the user and the password; it wrote 1
        credential-command: expected two lines, the user and the password; it wrote 3
        credential-command: expected two lines, the user and the password; it wrote 0
        credential-command: it failed: exit status: 3
        credential-command: it failed: exit status: 127
        ");
    }

    #[test]
    fn never_printed() {
        let found = Credentials { user: "me".to_owned(), password: "secret".to_owned() };
        assert_eq!(format!("{found:?}"), "Credentials(…)");
    }

    /// What goes with a request to `url` where upstream is at `upstream`, as `user:password`.
    fn sent(upstream: &str, netrc: &str, url: &str) -> String {
        let logins = Logins::take(&mut upstream.parse().unwrap(), None, Some(netrc.to_owned()), |_| None).unwrap();
        let mut url = url.parse().unwrap();
        let found = logins.of(&mut url);
        assert!(!url.as_str().contains('@') && !format!("{logins:?}{found:?}").contains("pw"), "{url}");
        found.map_or_else(|| "none".to_owned(), |found| format!("{}:{}", found.user, found.password))
    }

    #[test]
    fn the_user_that_is_named_or_any() {
        let of = |user: &str, netrc: &str| sent(&format!("http://{user}@h.example/"), netrc, "http://h.example/x");
        let two = "machine h.example login one password pw1 machine h.example login two password pw2";
        assert_eq!(of("two", two), "two:pw2");
        assert_eq!(of("", two), "one:pw1");
        assert_eq!(of("three", two), "three:");
        let any =
            "machine H.example password pw0 machine h.example password pw1 login two default login x password pw3";
        assert_eq!([of("two", any), of("three", any), of("", any)], ["two:pw1", "three:pw0", "two:pw1"]);
        assert_eq!(of("two", "machine o.example password pw1 default password pw2"), "two:pw2");
        assert_eq!(of("two", "machine h.example login two machine h.example login two password pw2"), "two:pw2");
        assert_eq!(sent("http://[::1]:1/", "machine ::1 login a password pw", "http://[::1]:2/"), "a:pw");
    }

    #[test]
    fn each_host_gets_its_own() {
        let netrc = "machine files.example login f password pwf\nmachine index.example login i password pwi\n\
            default login d password pwd";
        let http = |url: &str| sent("http://u:pw@index.example/simple/", netrc, url);
        for (url, expected) in [
            ("http://index.example/f", "u:pw"),
            ("https://index.example/f", "u:pw"),
            ("https://index.example:8443/f", "u:pw"),
            ("http://files.example/f", "f:pwf"),
            ("http://www.index.example/f", "none"),
            ("http://other.example/f", "none"),
            ("http://me:own%20pw@other.example/f", "me:own pw"),
            ("http://me@other.example/f", "me:"),
        ] {
            assert_eq!(http(url), expected, "{url}");
        }
        let https = |url: &str| sent("https://u:pw@index.example/simple/", netrc, url);
        for (url, expected) in [
            ("https://index.example/f", "u:pw"),
            ("http://index.example/f", "none"),
            ("http://index.example:443/f", "none"),
            ("https://index.example:8443/f", "none"),
            ("https://files.example/f", "f:pwf"),
            ("http://files.example/f", "none"),
        ] {
            assert_eq!(https(url), expected, "{url}");
        }
        assert_eq!(sent("https://index.example/", netrc, "https://index.example:8443/f"), "i:pwi");
    }

    proptest! {
        #[test]
        fn no_file_panics(text in "((machine|default|login|password|macdef|index.example|\\PC{0,6})[ \n\"\\\\#]{0,3}){0,12}") {
            find(&text, "index.example", Some("a"), true);
        }
    }
}
