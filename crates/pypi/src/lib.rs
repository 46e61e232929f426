//! A Python package index as a source for a mirror, and the pages of the mirror of it.
//!
//! [`Index`] asks: the Simple API for pages and files, XML-RPC for the changelog where there is one. Its answers are
//! claims, each checked for its form ([`Upstream`]). [`Pypi`] writes what the mirror serves; it depends on nothing but
//! what it is given. [`default_upstream`] finds the index that pip uses.
//!
//! What always holds:
//!
//! 1. Names, URLs, digests and sizes that upstream says are checked before anything is made of them
//!    (`listing.rs`, `url_check.rs`).
//! 2. No address in a private network is asked unless upstream is at one (`guard.rs`).
//! 3. Upstream's credentials go to upstream only, and none are ever shown (`credentials.rs`).
//! 4. Pages are a pure function of the record (`render.rs`).

mod client;
mod credentials;
mod decoding;
mod download;
mod filename;
mod format;
mod guard;
mod html;
mod json;
mod listing;
mod lists;
mod markup;
mod pace;
mod paths;
mod program;
mod reach;
mod render;
mod root;
mod tree;
mod upstream;
mod url_check;
mod wheel;
mod xmlrpc;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::StatusCode;
use strandline_model::{DisplayName, ProjectName, Serial, UpstreamUrl, with_causes};
use strandline_sync::upstream::{Answer, Body, Event, Page, Problem, Upstream, UpstreamError, Validator, Way};
use tokio::sync::OnceCell;
use url::Url;

pub use crate::format::Pypi;
pub use crate::tree::{NoTree, WebTree};
pub use crate::upstream::{NoDefault, PipEnvironment, default_upstream, default_upstream_in};
pub use crate::url_check::without_secrets;

use crate::client::{Client, Fetched, Limits, What};
use crate::credentials::Logins;
use crate::guard::Guard;
use crate::listing::Context;
use crate::url_check::shown;

/// The largest page that is taken unless told otherwise, in bytes.
pub const MAX_PAGE_SIZE: u64 = 64 << 20;

/// How an index is asked.
#[derive(Clone)]
pub struct Settings {
    /// The URL below which the projects' pages are, such as `https://index.example/simple/`; the last slash may be
    /// missing. A URL with nothing but a host means `simple/` on it, or its root where there is no `simple/`. It may
    /// hold credentials; `${NAME}` in them stands for a variable of the environment.
    pub upstream: Url,
    /// A command of the shell that writes upstream's user and password, in a line each. [`Index::new`] runs it.
    pub credential_command: Option<String>,
    /// Largest page that is taken, in bytes, unpacked. A list of projects, and what the changelog says at once, may be four times
    /// as large.
    pub max_page_size: u64,
    /// Largest file that is taken, in bytes.
    pub max_file_size: Option<u64>,
    /// `HOST:PORT` to connect to for pages that caches show too old ([`Way::Origin`]); the name for Host and TLS stays
    /// upstream's.
    pub connect_to: Option<String>,
    /// How many idle connections are kept. The sync bounds how many are used at a time.
    pub connections: usize,
    /// In what time an answer has to begin, and then to bring 1 KiB for each second of this time, again and again. A page or a list
    /// has to be there as a whole after ten times as long.
    pub idle_timeout: Duration,
}

impl Settings {
    /// The defaults for an upstream.
    pub fn new(upstream: Url) -> Self {
        Self {
            upstream,
            credential_command: None,
            max_page_size: MAX_PAGE_SIZE,
            max_file_size: None,
            connect_to: None,
            connections: 16,
            idle_timeout: Duration::from_secs(30),
        }
    }
}

impl std::fmt::Debug for Settings {
    /// The upstream and the command are left out: they may hold credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            upstream: _,
            credential_command: _,
            max_page_size,
            max_file_size,
            connect_to,
            connections,
            idle_timeout,
        } = self;
        f.debug_struct("Settings")
            .field("max_page_size", max_page_size)
            .field("max_file_size", max_file_size)
            .field("connect_to", connect_to)
            .field("connections", connections)
            .field("idle_timeout", idle_timeout)
            .finish_non_exhaustive()
    }
}

/// An index cannot be asked in this way. Nothing was asked.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The URL is not that of an index.
    #[error("upstream: {0}")]
    Upstream(&'static str),
    /// Where to connect to instead makes no sense.
    #[error("connect-to: `{found}`: {rule}")]
    ConnectTo {
        /// What was set.
        found: String,
        /// What it has to be.
        rule: &'static str,
    },
    /// Upstream's URL names a variable that is not set.
    #[error("upstream: the environment has no variable `{0}`")]
    NoVariable(String),
    /// The command that says user and password did not.
    #[error("credential-command: {0}")]
    CredentialCommand(String),
    /// There is no client for HTTPS; most often, the system has no root certificates.
    #[error(
        "cannot set up HTTPS ({0}); is `ca-certificates` installed, or does SSL_CERT_FILE name a file of certificates?"
    )]
    Client(String),
}

/// A Python package index.
#[derive(Debug)]
pub struct Index {
    upstream: UpstreamUrl,
    url: Url,
    client: Arc<Client>,
    /// Its URL names nothing but a host.
    may_be_at_root: bool,
    /// Whether it is at the root of its host and not at `simple/`, once that is known.
    at_root: OnceCell<bool>,
    /// Whether its list links to files `index.html`.
    names_files: AtomicBool,
}

impl Index {
    /// Prepares to ask an index; asks nothing yet. Reads netrc and the environment and runs the command of the settings,
    /// which can take its time; the credentials stay the same from then on.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let Settings {
            upstream,
            credential_command,
            max_page_size,
            max_file_size,
            connect_to,
            connections,
            idle_timeout,
        } = settings;
        let may_be_at_root = upstream.path() == "/";
        let mut url = index_url(upstream)?;
        let said = credential_command.as_deref().map(credentials::ask).transpose()?;
        let logins = Logins::take(&mut url, said, credentials::read_netrc(), |name| std::env::var(name).ok())?;
        let upstream = url.as_str().parse().map_err(|_| SettingsError::Upstream(TOO_LONG))?;
        let connect_to = connect_to.map(|text| parse_connect_to(Some(&url), &text)).transpose()?;
        let proxies = guard::proxy_hosts(|name| std::env::var(name).ok());
        let guard = Guard::new(&url, None, proxies.clone()).ok_or(SettingsError::Upstream(NO_HOST))?;
        let origin = connect_to.and_then(|address| Guard::new(&url, Some(address), proxies));
        let limits = Limits { page: max_page_size, file: max_file_size, connections, idle: idle_timeout };
        let client =
            Client::new(logins, guard, origin, limits).map_err(|error| SettingsError::Client(with_causes(&error)))?;
        let (names_files, at_root) = (AtomicBool::new(false), OnceCell::new());
        Ok(Self { upstream, url, client: Arc::new(client), may_be_at_root, at_root, names_files })
    }
}

/// Whether an index can be at this URL.
pub fn check_upstream(upstream: &Url) -> Result<(), SettingsError> {
    index_url(upstream.clone()).map(drop)
}

/// Whether `connect-to` can say this, for this upstream as far as it is known.
pub fn check_connect_to(upstream: Option<&Url>, text: &str) -> Result<(), SettingsError> {
    parse_connect_to(upstream, text).map(drop)
}

const NO_HOST: &str = "expected a URL with a host";
const TOO_LONG: &str = "expected a URL of at most 2,048 bytes";

/// The URL below which the projects' pages are, from the one that an operator gave. It still has its credentials.
fn index_url(mut url: Url) -> Result<Url, SettingsError> {
    let wrong = |rule| Err(SettingsError::Upstream(rule));
    if !matches!(url.scheme(), "http" | "https") {
        return wrong("expected a URL that begins with https:// or http://");
    }
    if url.host().is_none() {
        return wrong(NO_HOST);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong("expected a URL without `?` and `#`");
    }
    if url.path() == "/" {
        url.set_path("/simple/");
    } else if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    let mut bare = url.clone();
    let nameless = bare.set_username("").and_then(|()| bare.set_password(None));
    if nameless.is_err() || bare.as_str().parse::<UpstreamUrl>().is_err() {
        return wrong(TOO_LONG);
    }
    Ok(url)
}

fn parse_connect_to(upstream: Option<&Url>, text: &str) -> Result<(String, u16), SettingsError> {
    let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let rule = match (parts, upstream.and_then(Url::host), upstream.and_then(Url::port)) {
        (None | Some(("", _)), ..) => "expected HOST:PORT",
        (_, Some(url::Host::Ipv4(_) | url::Host::Ipv6(_)), _) => {
            "upstream is an address already; write this one there instead"
        }
        // The port of a URL that names one is always the one that is connected to.
        (Some((_, port)), _, Some(explicit)) if port != explicit => {
            "its port has to be the one that upstream's URL names"
        }
        (Some((host, port)), ..) => return Ok((host.trim_matches(['[', ']']).to_owned(), port)),
    };
    Err(SettingsError::ConnectTo { found: text.to_owned(), rule })
}

impl Index {
    /// Where a project's page is, and the list if none is named.
    fn page_url(&self, project: Option<&ProjectName>) -> Url {
        let mut url = self.url.clone();
        let above = if self.at_root.get() == Some(&true) { "/" } else { url.path() };
        let file = if self.names_files.load(Ordering::Relaxed) { "index.html" } else { "" };
        url.set_path(&project.map_or_else(|| above.to_owned(), |project| format!("{above}{project}/{file}")));
        url
    }

    /// Asks for a project's page, or for the list if none is named, where it is.
    async fn find(
        &self,
        project: Option<&ProjectName>,
        validator: Option<&Validator>,
        way: Way,
    ) -> Result<(Url, Fetched), UpstreamError> {
        let url = self.page_url(project);
        let what = if project.is_some() { What::Page } else { What::List };
        let fetched = self.client.page(what, &url, validator, way).await?;
        if !is_missing(fetched.status) || !self.may_be_at_root || !self.is_at_root().await? {
            return Ok((url, fetched));
        }
        match self.page_url(project) {
            same if same == url => Ok((url, fetched)),
            url => Ok((url.clone(), self.client.page(what, &url, validator, way).await?)),
        }
    }

    /// Whether the index is at the root of its host: there is no list at `simple/`, and there is one at the root. Asked
    /// for once, when something is not below `simple/`.
    async fn is_at_root(&self) -> Result<bool, UpstreamError> {
        let find_out = || async {
            let list = self.client.page(What::List, &self.url, None, Way::Usual).await?;
            if !is_missing(list.status) {
                let unknown = list.status.is_server_error() || list.status == StatusCode::TOO_MANY_REQUESTS;
                return if unknown { Err(UpstreamError::new(&self.url, list.status_problem())) } else { Ok(false) };
            }
            let mut root = self.url.clone();
            root.set_path("/");
            let top = self.client.page(What::List, &root, None, Way::Usual).await?;
            match top.status {
                StatusCode::OK => Ok(match kind(&top) {
                    Ok(Kind::Json) => root::parse_json(&top.body).is_ok(),
                    Ok(Kind::Html) => root::html::parse(&top.body, &top.url).is_ok_and(|list| list.is_list),
                    Err(_) => false,
                }),
                status if is_missing(status) => Ok(false),
                _ => Err(UpstreamError::new(&root, top.status_problem())),
            }
        };
        self.at_root.get_or_try_init(find_out).await.copied()
    }

    /// The index's own list of projects, for an index without a changelog.
    async fn listed_projects(&self) -> Result<Vec<(DisplayName, Serial)>, UpstreamError> {
        let (url, fetched) = self.find(None, None, Way::Usual).await?;
        let fail = |problem| UpstreamError::new(&url, problem);
        if fetched.status != StatusCode::OK {
            return Err(fail(fetched.status_problem()));
        }
        match kind(&fetched).map_err(fail)? {
            Kind::Json => root::parse_json(&fetched.body).map_err(fail),
            Kind::Html => {
                let list = root::html::parse(&fetched.body, &fetched.url).map_err(fail)?;
                self.names_files.store(list.names_files, Ordering::Relaxed);
                Ok(list.projects)
            }
        }
    }

    fn read_page(&self, project: &ProjectName, fetched: &Fetched) -> Result<Page, Problem> {
        let context = Context { project, url: &fetched.url, local_allowed: self.client.local_allowed() };
        match kind(fetched)? {
            Kind::Json => json::parse(&fetched.body, context),
            Kind::Html => html::parse(&fetched.body, context),
        }
    }
}

fn is_missing(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}

/// What an answer is written in.
enum Kind {
    Json,
    Html,
}

fn kind(fetched: &Fetched) -> Result<Kind, Problem> {
    match fetched.media_type().as_str() {
        "application/vnd.pypi.simple.v1+json" | "application/json" => Ok(Kind::Json),
        "application/vnd.pypi.simple.v1+html" | "text/html" => Ok(Kind::Html),
        other if other.starts_with("application/vnd.pypi.simple.") => Err(Problem::Malformed(format!(
            "the page is of type `{}`; this program reads version 1 of the Simple API",
            shown(other)
        ))),
        other => Err(Problem::Malformed(format!(
            "the page is of type `{}`; expected a page of the Simple API, JSON or HTML",
            shown(other)
        ))),
    }
}

impl Upstream for Index {
    fn url(&self) -> &UpstreamUrl {
        &self.upstream
    }

    fn page<'a>(
        &'a self,
        project: &'a ProjectName,
        validator: Option<&'a Validator>,
        way: Way,
    ) -> BoxFuture<'a, Result<Answer, UpstreamError>> {
        async move {
            let (url, fetched) = self.find(Some(project), validator, way).await?;
            let fail = |problem| UpstreamError::new(&url, problem);
            match fetched.status {
                StatusCode::OK => {
                    let page = self.read_page(project, &fetched).map_err(fail)?;
                    Ok(Answer::Page { page: Box::new(page), validator: fetched.validator })
                }
                StatusCode::NOT_MODIFIED if validator.is_some() => Ok(Answer::NotModified),
                status if is_missing(status) => Ok(Answer::Missing),
                _ => Err(fail(fetched.status_problem())),
            }
        }
        .boxed()
    }

    fn file<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Body, UpstreamError>> {
        download::file(&self.client, url).boxed()
    }

    fn last_serial(&self) -> BoxFuture<'_, Result<Serial, UpstreamError>> {
        xmlrpc::last_serial(&self.client, &self.url).boxed()
    }

    fn events_since(&self, since: Serial) -> BoxFuture<'_, Result<Vec<Event>, UpstreamError>> {
        xmlrpc::events_since(&self.client, &self.url, since).boxed()
    }

    fn projects(&self) -> BoxFuture<'_, Result<Vec<(DisplayName, Serial)>, UpstreamError>> {
        async move {
            match xmlrpc::projects(&self.client, &self.url).await {
                Err(UpstreamError { problem: Problem::NoChangelog | Problem::Malformed(_), .. }) => {
                    self.listed_projects().await
                }
                other => other,
            }
        }
        .boxed()
    }
}
