//! Asking upstream with patience: what fails in a way that may pass is asked for again, with growing pauses.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use strandline_model::{DisplayName, ProjectName, Serial};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::FetchError;
use crate::Settings;
use crate::upstream::{Answer, Event, Problem, Upstream, UpstreamError, Validator, Way};

/// How often a request is made before its failure counts.
const ATTEMPTS: usize = 5;
/// For how long a request is made again, in first pauses (half a second each): what is slow is not waited for five times.
const REPEATED: u32 = 90;
/// The longest pause that is made because upstream asks for it. An upstream that asks for a longer one is not asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long the page of a project that is held is waited for, and the beginning of one of its files, in first pauses (half a
/// second each): the other projects have to wait as long.
const HELD: u32 = 10;

/// How often something is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Again, while its failure may pass.
    Again,
    /// Once: it could not be had for so long that the sync does not wait for it.
    Once,
}

/// A failure that may pass.
pub(super) trait Passing: fmt::Display {
    /// Whether asking again may help.
    fn may_pass(&self) -> bool;

    /// Whether waiting was what it cost.
    fn is_slow(&self) -> bool;

    /// How long upstream wants us to wait before asking again.
    fn asked_pause(&self) -> Option<Duration>;
}

impl Passing for UpstreamError {
    fn may_pass(&self) -> bool {
        self.is_transient()
    }

    fn is_slow(&self) -> bool {
        self.is_slow()
    }

    fn asked_pause(&self) -> Option<Duration> {
        self.retry_after()
    }
}

/// An upstream that is asked with patience, and for so many pages and files at once.
pub(crate) struct Patient {
    upstream: Arc<dyn Upstream>,
    requests: Semaphore,
    /// The pause before the first repetition.
    backoff: Duration,
}

impl Patient {
    pub(super) fn new(upstream: Arc<dyn Upstream>, settings: &Settings) -> Self {
        Self { upstream, requests: Semaphore::new(settings.connections), backoff: settings.backoff }
    }

    /// Upstream, to be asked once.
    pub(crate) fn upstream(&self) -> &dyn Upstream {
        &*self.upstream
    }

    /// Waits until one more page or file may be asked for.
    pub(super) async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.requests.acquire().await.ok()
    }

    /// A project's page as upstream shows it now.
    pub(crate) async fn page(
        &self,
        project: &ProjectName,
        validator: Option<&Validator>,
        way: Way,
        patience: Patience,
    ) -> Result<Answer, FetchError> {
        let ask = || async {
            let _permit = self.permit().await;
            let (page, url) = (self.upstream.page(project, validator, way), self.upstream.url());
            soon(self.deadline(patience), page, || format!("{url}{project}/")).await
        };
        let answer = self.patiently(project, patience, ask).await;
        answer.map_err(|source| FetchError::Page { project: project.clone(), source })
    }

    /// The oldest events after `since`, as [`Upstream::events_since`] gives them.
    pub(crate) async fn events_since(&self, since: Serial) -> Result<Vec<Event>, UpstreamError> {
        self.patiently("the changelog", Patience::Again, || self.upstream.events_since(since)).await
    }

    /// The greatest serial of the log.
    pub(crate) async fn last_serial(&self) -> Result<Serial, UpstreamError> {
        self.patiently("the last serial", Patience::Again, || self.upstream.last_serial()).await
    }

    /// All projects of upstream.
    pub(crate) async fn projects(&self) -> Result<Vec<(DisplayName, Serial)>, UpstreamError> {
        self.patiently("the list of projects", Patience::Again, || self.upstream.projects()).await
    }

    /// Until when an answer has to begin that is asked for now; `None` where it has the time that every answer has.
    pub(super) fn deadline(&self, patience: Patience) -> Option<Instant> {
        (patience == Patience::Once).then(|| Instant::now() + self.backoff * HELD)
    }

    /// Does something again, with growing pauses, while it fails in a way that may pass.
    pub(super) async fn patiently<T, E: Passing, F: Future<Output = Result<T, E>>>(
        &self,
        what: impl fmt::Display,
        patience: Patience,
        act: impl FnMut() -> F,
    ) -> Result<T, E> {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(self.backoff)
            .with_max_delay(LONGEST_PAUSE)
            .with_max_times(if patience == Patience::Again { ATTEMPTS - 1 } else { 0 })
            .with_jitter();
        let begun = Instant::now();
        let may_pass = |error: &E| {
            let slow = error.is_slow() && begun.elapsed() >= self.backoff * REPEATED;
            !slow && error.may_pass() && error.asked_pause().is_none_or(|asked| asked <= LONGEST_PAUSE)
        };
        act.retry(pauses)
            .when(may_pass)
            .adjust(|error, pause| pause.map(|pause| error.asked_pause().unwrap_or(pause)))
            .notify(|error, pause| tracing::info!("trying again in {} ms: {what}: {error}", pause.as_millis()))
            .await
    }
}

/// What is asked for, if it comes in time; `url` says what it is.
pub(super) async fn soon<T>(
    deadline: Option<Instant>,
    asked: impl Future<Output = Result<T, UpstreamError>>,
    url: impl FnOnce() -> String,
) -> Result<T, UpstreamError> {
    let Some(deadline) = deadline else { return asked.await };
    tokio::time::timeout_at(deadline, asked).await.unwrap_or_else(|_| {
        let why = "it does not come at once, and what could not be had before is not waited for";
        Err(UpstreamError::new(url(), Problem::TooSlow(why.to_owned())))
    })
}
