//! Asking an index over HTTP, and saying exactly what went wrong.
//!
//! What always holds:
//!
//! 1. Nothing is asked that the [`Guard`] refuses, redirects included.
//! 2. A body that ends early or comes too slowly is an error, and a page is never larger than the limit, packed or unpacked. Of
//!    large pages only one is in memory at a time.
//! 3. Errors and logs show no credentials and no query of a URL; which credentials go where, [`Logins`] says, anew at
//!    each redirect.
//! 4. Nothing is asked twice: the caller decides, by the error's kind, whether to try again. Of a file that breaks off, [`download`]
//!    asks for the rest.
//!
//! Tested in `tests/client.rs`.
//!
//! [`download`]: crate::download

use std::error::Error as _;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, LOCATION,
    RETRY_AFTER,
};
use reqwest::redirect::Policy;
use reqwest::{Method, Request, RequestBuilder, Response, StatusCode};
use strandline_sync::upstream::{Problem, UpstreamError, Validator, Way};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use url::Url;

use crate::credentials::Logins;
use crate::decoding::{Unpacker, utf8};
use crate::guard::{Guard, Refused, Resolver};
use crate::pace::Pace;
use crate::url_check::shown;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How many redirects are followed.
const REDIRECTS: usize = 10;
/// Longest pause that an answer can ask for: a day.
const LONGEST_PAUSE: u64 = 86_400;

/// Longest wait for the end of a quota's window before the next call.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A page of more than so many bytes, unpacked, is large.
const LARGE: usize = 2 << 20;
/// How many times as large as a page a list or a part of the log may be: the greatest index has more projects than any project has
/// files.
const LISTS: u64 = 4;

/// No encoding.
const AS_IT_IS: HeaderValue = HeaderValue::from_static("identity");
/// The encoding that is asked for; [`Unpacker`] reads more.
const PACKED: HeaderValue = HeaderValue::from_static("gzip");

const ACCEPTED_PAGES: HeaderValue = HeaderValue::from_static(
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01",
);

/// Two ways of asking: pages share one HTTP/2 connection and come packed; files come as they are, each on a connection
/// of its own, because one connection shared by large files is as slow as its slowest moment.
#[derive(Debug)]
pub(crate) struct Client {
    pages: reqwest::Client,
    /// Set up for the first of them: a client reads all of the system's root certificates, and a sync without anything new
    /// needs no second one.
    files: LazyLock<Result<reqwest::Client, Problem>, SetUp>,
    guard: Arc<Guard>,
    /// For [`Way::Origin`], where the settings name an address.
    origin: Option<(reqwest::Client, Arc<Guard>)>,
    logins: Logins,
    pub(crate) limits: Limits,
    /// Until when no call is made, because the last one was the last of its quota.
    quiet: Mutex<Option<Instant>>,
    /// The right to have a large page in memory.
    large: Arc<Semaphore>,
}

type SetUp = Box<dyn FnOnce() -> Result<reqwest::Client, Problem> + Send>;

/// How much is taken, and how long is waited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) page: u64,
    pub(crate) file: Option<u64>,
    pub(crate) connections: usize,
    /// In what time an answer has to begin, and the window of [`Pace`].
    pub(crate) idle: Duration,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Page,
    /// A list or a part of the log.
    List,
}

impl Limits {
    /// The largest answer, in bytes, unpacked.
    fn of(&self, what: What) -> u64 {
        match what {
            What::Page => self.page,
            What::List => self.page.saturating_mul(LISTS),
        }
    }
}

/// An answer that came whole.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Where it came from, after redirects.
    pub(crate) url: Url,
    pub(crate) status: StatusCode,
    pub(crate) content_type: String,
    pub(crate) validator: Option<Validator>,
    /// How long it asks to be left alone.
    pub(crate) pause: Option<Duration>,
    pub(crate) body: Vec<u8>,
    /// As long as this is there, no other large page is read.
    _large: Option<OwnedSemaphorePermit>,
}

impl Client {
    pub(crate) fn new(
        logins: Logins,
        guard: Guard,
        origin: Option<Guard>,
        limits: Limits,
    ) -> Result<Self, reqwest::Error> {
        if rustls::crypto::CryptoProvider::get_default().is_none()
            && rustls::crypto::ring::default_provider().install_default().is_err()
        {
            tracing::trace!("another thread has chosen a provider of cryptography in the meantime");
        }
        let guard = Arc::new(guard);
        let builder = move |guard: &Arc<Guard>| {
            reqwest::Client::builder()
                .user_agent(concat!("strandline/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT)
                .pool_max_idle_per_host(limits.connections)
                .referer(false)
                .redirect(Policy::none())
                .dns_resolver(Arc::new(Resolver(Arc::clone(guard))))
        };
        let of_files = Arc::clone(&guard);
        Ok(Self {
            pages: builder(&guard).build()?,
            files: LazyLock::new(Box::new(move || builder(&of_files).http1_only().build().map_err(problem))),
            origin: match origin.map(Arc::new) {
                Some(origin) => Some((builder(&origin).build()?, origin)),
                None => None,
            },
            guard,
            logins,
            limits,
            quiet: Mutex::default(),
            large: Arc::new(Semaphore::new(1)),
        })
    }

    /// Whether URLs may lead to local addresses.
    pub(crate) fn local_allowed(&self) -> bool {
        self.guard.local_allowed()
    }

    /// Asks for a page or list, whatever the answer's status.
    pub(crate) async fn page(
        &self,
        what: What,
        url: &Url,
        validator: Option<&Validator>,
        way: Way,
    ) -> Result<Fetched, UpstreamError> {
        let (client, guard) = match (way, &self.origin) {
            (Way::Uncompressed, _) => (self.files(url.as_str())?, &self.guard),
            (Way::Origin, Some((client, guard))) => (client, guard),
            _ => (&self.pages, &self.guard),
        };
        let mut request = Request::new(Method::GET, url.clone());
        let headers = request.headers_mut();
        headers.insert(ACCEPT, ACCEPTED_PAGES);
        headers.insert(ACCEPT_ENCODING, if way == Way::Uncompressed { AS_IT_IS } else { PACKED });
        if let Some(Validator(tag)) = validator
            && let Ok(tag) = HeaderValue::from_str(tag)
        {
            headers.insert(IF_NONE_MATCH, tag);
        }
        let mut pace = Pace::of_whole(self.limits.idle);
        let response = self.send(client, guard, request, &mut pace).await?;
        self.whole(what, url, response, pace).await
    }

    /// Posts XML, whatever the answer's status. Waits first where an answer has said that the quota is used up, if the wait
    /// is short; where it is long, upstream may say so once more.
    pub(crate) async fn post(&self, url: &Url, body: String) -> Result<Fetched, UpstreamError> {
        let quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(until) = quiet.filter(|until| until.saturating_duration_since(Instant::now()) <= LONGEST_WAIT) {
            tokio::time::sleep_until(until).await;
        }
        let fetched = self.post_now(url, body).await?;
        let until = fetched.pause.map(|pause| Instant::now() + pause);
        *self.quiet.lock().unwrap_or_else(PoisonError::into_inner) = until;
        Ok(fetched)
    }

    async fn post_now(&self, url: &Url, body: String) -> Result<Fetched, UpstreamError> {
        let mut request = Request::new(Method::POST, url.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/xml"));
        request.headers_mut().insert(ACCEPT_ENCODING, PACKED);
        *request.body_mut() = Some(body.into());
        let mut pace = Pace::of_whole(self.limits.idle);
        let response = self.send(&self.pages, &self.guard, request, &mut pace).await?;
        self.whole(What::List, url, response, pace).await
    }

    /// The client for what comes as it is, which is about to be asked for `url`.
    fn files(&self, url: &str) -> Result<&reqwest::Client, UpstreamError> {
        self.files.as_ref().map_err(|problem| UpstreamError::new(shown(url), problem.clone()))
    }

    /// Asks for something as it is, and goes where redirects lead.
    pub(crate) async fn send_for_file(&self, request: Request, pace: &mut Pace) -> Result<Response, UpstreamError> {
        let client = self.files(request.url().as_str())?;
        self.send(client, &self.guard, request, pace).await
    }

    /// Asks, and goes where redirects lead: as a page could lead there, with the credentials of where each leads to.
    async fn send(
        &self,
        client: &reqwest::Client,
        guard: &Guard,
        mut request: Request,
        pace: &mut Pace,
    ) -> Result<Response, UpstreamError> {
        let asked = shown(request.url().as_str());
        let fail = |problem| UpstreamError::new(&asked, problem);
        pace.begin(guard.learn()).await.map_err(fail)?;
        for _ in 0..=REDIRECTS {
            guard.check(request.url()).map_err(|Refused(why)| fail(Problem::Forbidden(why)))?;
            let login = self.logins.of(request.url_mut());
            let next = request.try_clone();
            tracing::trace!("{} {}", request.method(), shown(request.url().as_str()));
            let mut builder = RequestBuilder::from_parts(client.clone(), request);
            if let Some(login) = login {
                builder = builder.basic_auth(login.user, Some(login.password));
            }
            let response = pace.begin(builder.send()).await.map_err(fail)?.map_err(|error| fail(problem(error)))?;
            tracing::trace!("{} from {}", response.status(), shown(response.url().as_str()));
            match next.and_then(|next| redirected(next, &response)) {
                Some(next) => request = next,
                None => return Ok(response),
            }
        }
        Err(fail(Problem::Forbidden(format!("more than {REDIRECTS} redirects"))))
    }

    /// Reads the body up to the limit. That of an answer without success stays as it came, because only its status counts.
    async fn whole(
        &self,
        what: What,
        url: &Url,
        mut response: Response,
        mut pace: Pace,
    ) -> Result<Fetched, UpstreamError> {
        let fail = |problem| UpstreamError::new(shown(url.as_str()), problem);
        let limit = self.limits.of(what);
        // Of a packed body this is the packed length, which is too much as well if it is over the limit.
        let length = response.content_length();
        if length.is_some_and(|length| length > limit) {
            return Err(fail(Problem::TooLarge { limit }));
        }
        let (status, final_url) = (response.status(), response.url().clone());
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let content_type = header(CONTENT_TYPE).unwrap_or_default();
        let validator = header(ETAG).map(Validator);
        let pause = pause(response.headers());
        let as_it_is = HeaderMap::new();
        let packed = if status == StatusCode::OK { response.headers() } else { &as_it_is };
        let mut body = Unpacker::new(packed, limit).map_err(fail)?;
        let (mut came, mut large) = (0, None);
        loop {
            let cut_short = |problem| fail(cut_short(problem, length, came));
            let chunk = pace.next(response.chunk()).await.map_err(cut_short)?;
            let Some(chunk) = chunk.map_err(|error| cut_short(problem(error)))? else { break };
            pace.took(chunk.len());
            came += chunk.len() as u64;
            body.push(&chunk).map_err(fail)?;
            if large.is_none() && body.size() > LARGE {
                // Until it is its turn, the rest stays where it is.
                large = pace.beside(Arc::clone(&self.large).acquire_owned()).await.ok();
            }
        }
        let mut body = body.finish().map_err(fail)?;
        if status == StatusCode::OK {
            body = utf8(body, &content_type, limit).map_err(fail)?;
        }
        Ok(Fetched { url: final_url, status, content_type, validator, pause, body, _large: large })
    }
}

impl Fetched {
    /// The media type alone, in lower case.
    pub(crate) fn media_type(&self) -> String {
        self.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// An error for the status that came.
    pub(crate) fn status_problem(&self) -> Problem {
        Problem::Status { status: self.status.as_u16(), retry_after: self.pause }
    }
}

pub(crate) fn status_problem(status: StatusCode, headers: &HeaderMap) -> Problem {
    Problem::Status { status: status.as_u16(), retry_after: pause(headers) }
}

/// The request that a redirect asks for; `None` where an answer is none, or leads nowhere.
fn redirected(mut request: Request, response: &Response) -> Option<Request> {
    match response.status() {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {}
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
            // As clients have always done.
            *request.method_mut() = Method::GET;
            *request.body_mut() = None;
            request.headers_mut().remove(CONTENT_TYPE);
            request.headers_mut().remove(CONTENT_LENGTH);
        }
        _ => return None,
    }
    let to = std::str::from_utf8(response.headers().get(LOCATION)?.as_bytes()).ok()?;
    *request.url_mut() = response.url().join(to).ok().filter(Url::has_host)?;
    Some(request)
}

/// What a failed request means: the guard's refusal, or trouble on the way.
pub(crate) fn problem(error: reqwest::Error) -> Problem {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(Refused(why)) = inner.downcast_ref() {
            return Problem::Forbidden(why.clone());
        }
        let why = inner.to_string();
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        source = inner.source();
    }
    Problem::Transport(shown(&text))
}

/// As `problem`, with how much of a body of known length had come.
pub(crate) fn cut_short(problem: Problem, length: Option<u64>, came: u64) -> Problem {
    match (problem, length) {
        (Problem::Transport(why), Some(length)) if came < length => {
            Problem::Transport(format!("expected {length} bytes, {came} came: {why}"))
        }
        (problem, _) => problem,
    }
}

/// How long an answer asks to be left alone: `Retry-After`, else what its `RateLimit` says is left of the window
/// (draft-ietf-httpapi-ratelimit-headers), if the quota is used up.
fn pause(headers: &HeaderMap) -> Option<Duration> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let seconds = |text: &str| text.parse::<u64>().ok().map(|seconds| Duration::from_secs(seconds.min(LONGEST_PAUSE)));
    if let Some(text) = header(RETRY_AFTER.as_str()) {
        return seconds(text).or_else(|| {
            // A point in time is one of upstream's clock, so it is compared with that.
            let then = httpdate::parse_http_date(text).ok()?;
            let now = httpdate::parse_http_date(header(DATE.as_str())?).ok()?;
            Some(then.duration_since(now).unwrap_or_default().min(Duration::from_secs(LONGEST_PAUSE)))
        });
    }
    let limit = header("ratelimit")?;
    let mut parameters = limit.split([';', ',']).map(str::trim);
    let value = |text: Option<&str>| text.and_then(|text| text.split_once('=')).map(|(_, value)| value.to_owned());
    let remaining = value(parameters.clone().find(|text| text.starts_with("r=") || text.starts_with("remaining=")));
    let reset = value(parameters.find(|text| text.starts_with("t=") || text.starts_with("reset=")));
    if remaining? == "0" { seconds(&reset?) } else { None }
}
