//! What a sync asks an upstream for. A [`Format`](strandline_model::Format) says how pages are written and read back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use strandline_model::{DisplayName, FileName, ProjectName, Record, Serial, Timestamp, UpstreamUrl};

use crate::cut::Action;

/// A package index, to be asked.
pub trait Upstream: fmt::Debug + Send + Sync {
    /// What it is, as snapshots name it.
    fn url(&self) -> &UpstreamUrl;

    /// A project's page as upstream shows it now. With a `validator` that came with an earlier answer, upstream may say that
    /// nothing changed since.
    fn page<'a>(
        &'a self,
        project: &'a ProjectName,
        validator: Option<&'a Validator>,
        way: Way,
    ) -> BoxFuture<'a, Result<Answer, UpstreamError>>;

    /// The bytes at a URL that a page named.
    fn file<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Body, UpstreamError>>;

    /// The greatest serial of the changelog; an error of kind [`Problem::NoChangelog`] if there is no log.
    fn last_serial(&self) -> BoxFuture<'_, Result<Serial, UpstreamError>>;

    /// The oldest events after `since`, sorted by serial: as many as upstream gives at once. An empty answer means that
    /// there are no more.
    fn events_since(&self, since: Serial) -> BoxFuture<'_, Result<Vec<Event>, UpstreamError>>;

    /// All projects, each with the serial of its last event or a later one.
    fn projects(&self) -> BoxFuture<'_, Result<Vec<(DisplayName, Serial)>, UpstreamError>>;
}

/// The bytes of a file as they come.
pub type Body = BoxStream<'static, Result<Bytes, UpstreamError>>;

/// How to ask for a page: when a cache in between answers with an old one, another way may lead past it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As every client asks.
    Usual,
    /// For the page as it is, not compressed: caches keep the two apart.
    Uncompressed,
    /// At the address that the configuration names for this (`connect-to`); as usual if it names none.
    Origin,
}

impl Way {
    /// The way for the `n`-th attempt, from 0.
    pub fn of_attempt(n: usize) -> Self {
        match n % 3 {
            0 => Self::Usual,
            1 => Self::Uncompressed,
            _ => Self::Origin,
        }
    }
}

/// What tells upstream which answer we have: an entity tag with its quotes (RFC 9110, section 8.8.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validator(pub String);

/// A project's page: what upstream says of the project, and when.
#[derive(Debug, Clone)]
pub struct Page {
    /// What it says.
    pub record: Record,
    /// The page's serial, if the index has serials.
    pub serial: Option<Serial>,
    /// The queries of the files' URLs, which are no part of the record.
    pub queries: BTreeMap<FileName, String>,
    /// What could not be used of it.
    pub skipped: Skipped,
}

/// What a page has that cannot be used: fields of files, and files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Skipped {
    named: BTreeSet<String>,
    count: u64,
}

impl Skipped {
    /// How many are named; all are counted.
    const NAMED: usize = 32;

    /// Adds one, in words.
    pub fn add(&mut self, what: String) {
        self.count += 1;
        if self.named.len() < Self::NAMED {
            self.named.insert(what);
        }
    }

    /// What is skipped, and why; of many, the first ones.
    pub fn named(&self) -> &BTreeSet<String> {
        &self.named
    }

    /// How much is.
    pub fn count(&self) -> u64 {
        self.count
    }
}

impl Page {
    /// A page all of which can be used, and whose files' URLs have no queries.
    pub fn of(record: Record, serial: Option<Serial>) -> Self {
        Self { record, serial, queries: BTreeMap::new(), skipped: Skipped::default() }
    }

    /// The URL at which a file is asked for; `None` where the page names none.
    pub fn url(&self, file: &FileName) -> Option<String> {
        let url = self.record.seen().files.get(file)?.url.clone()?;
        Some(match self.queries.get(file) {
            Some(query) => format!("{url}?{query}"),
            None => url,
        })
    }
}

/// What upstream says about a page.
#[derive(Debug, Clone)]
pub enum Answer {
    /// This is it.
    Page {
        /// The content.
        page: Box<Page>,
        /// With what to ask whether it is still the same.
        validator: Option<Validator>,
    },
    /// It is the one that the validator came with.
    NotModified,
    /// There is none (404 or 410).
    Missing,
}

/// One row of the changelog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its serial.
    pub serial: Serial,
    /// The project.
    pub project: ProjectName,
    /// Its name as its owner wrote it at that time.
    pub display: DisplayName,
    /// When it happened, by upstream's clock; not monotone in the serial.
    pub time: Timestamp,
    /// What happened to the project's page; `None` for a row about people, which changes no page.
    pub change: Option<Action>,
}

/// Upstream did not give what was asked for. Nothing was stored or changed.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {problem}")]
pub struct UpstreamError {
    /// What was asked for; without credentials.
    pub url: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with an answer, or why there was none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not an answer of success.
    #[error("upstream answered {status}")]
    Status {
        /// The status code.
        status: u16,
        /// How long upstream wants us to wait (Retry-After).
        retry_after: Option<Duration>,
    },
    /// No connection, a reset, a time-out, a body that ended early.
    #[error("{0}")]
    Transport(String),
    /// The answer, or its next part, did not come in the time that is waited for it.
    #[error("{0}")]
    TooSlow(String),
    /// Too much.
    #[error("the answer is larger than the limit of {limit} bytes")]
    TooLarge {
        /// In bytes, after decompression.
        limit: u64,
    },
    /// The answer is not of the form that it should have.
    #[error("{0}")]
    Malformed(String),
    /// A URL that may not be asked.
    #[error("{0}")]
    Forbidden(String),
    /// The index has no changelog.
    #[error("the index has no changelog")]
    NoChangelog,
}

/// The URL of a file as errors and logs show it: without its query, which may be a signature.
pub(crate) fn without_query(url: &str) -> &str {
    url.split_once('?').map_or(url, |(path, _)| path)
}

impl UpstreamError {
    /// An error about `url`.
    pub fn new(url: impl fmt::Display, problem: Problem) -> Self {
        Self { url: url.to_string(), problem }
    }

    /// Whether asking again may help.
    pub fn is_transient(&self) -> bool {
        match self.problem {
            Problem::Status { status, .. } => status >= 500 || status == 429 || status == 408,
            Problem::Transport(_) | Problem::TooSlow(_) => true,
            _ => false,
        }
    }

    /// Whether waiting was what it cost.
    pub(crate) fn is_slow(&self) -> bool {
        matches!(self.problem, Problem::TooSlow(_))
    }

    /// How long upstream wants us to wait before asking again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.problem {
            Problem::Status { retry_after, .. } => retry_after,
            _ => None,
        }
    }
}
