//! The bytes of a file, which go on where they broke off.
//!
//! What always holds: bytes of two answers are put together only where upstream says, by a strong validator (RFC 9110, section
//! 8.8.1), that both are of one representation; the stream ends with an error otherwise, and then nothing is left out. The rest is
//! asked for again as long as each answer brings something, and a few times where one does not; of a small file nothing is. Tested in `tests/downloads.rs`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Method, Request, Response, StatusCode};
use strandline_sync::upstream::{Body, Problem, UpstreamError};
use url::Url;

use crate::client::{Client, cut_short, problem, status_problem};
use crate::pace::Pace;
use crate::url_check::{shown, shown_url};

/// How often the rest of a file is asked for without anything more coming.
const ATTEMPTS: u32 = 3;
/// The pause before the first of these is so small a part of the time that an answer has to begin: half a second.
const PAUSE: u32 = 60;
/// Below so many bytes the whole is asked for again instead, by the caller.
const WORTH_IT: u64 = 16 << 10;
/// How much has to come for an answer to count as one that brought something, in bytes.
const SOMETHING: u64 = 1 << 20;

/// A file on its way.
struct Download {
    client: Arc<Client>,
    url: Url,
    response: Response,
    pace: Pace,
    /// How many bytes came, and how many there are.
    taken: u64,
    length: Option<u64>,
    /// What tells that the rest is of the same file.
    validator: Option<HeaderValue>,
    /// How many bytes had come, and how often the rest was asked for since.
    attempts: (u64, u32),
}

/// Asks for a file's bytes.
pub(crate) async fn file(client: &Arc<Client>, text: &str) -> Result<Body, UpstreamError> {
    let url: Url = text.parse().map_err(|error| {
        UpstreamError::new(shown_url(text), Problem::Forbidden(format!("it is not a URL: {error}")))
    })?;
    let mut pace = Pace::of_part(client.limits.idle);
    let response = client.send_for_file(request(&url), &mut pace).await?;
    if response.status() != StatusCode::OK {
        return Err(UpstreamError::new(shown(text), status_problem(response.status(), response.headers())));
    }
    let (limit, length) = (client.limits.file.unwrap_or(u64::MAX), response.content_length());
    if length.is_some_and(|length| length > limit) {
        return Err(UpstreamError::new(shown(text), Problem::TooLarge { limit }));
    }
    let validator = strong_validator(response.headers());
    let (client, attempts) = (Arc::clone(client), (0, 0));
    let download = Download { client, url, response, pace, taken: 0, length, validator, attempts };
    let chunks = stream::try_unfold(download, move |mut download| async move {
        let Some(chunk) = download.next().await? else { return Ok(None) };
        download.taken += chunk.len() as u64;
        if download.taken > limit {
            return Err(download.failed(Problem::TooLarge { limit }));
        }
        Ok(Some((chunk, download)))
    });
    Ok(chunks.boxed())
}

fn request(url: &Url) -> Request {
    let mut request = Request::new(Method::GET, url.clone());
    request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    request
}

impl Download {
    fn failed(&self, problem: Problem) -> UpstreamError {
        UpstreamError::new(shown(self.url.as_str()), cut_short(problem, self.length, self.taken))
    }

    /// The next bytes.
    async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            let chunk = match self.pace.next(self.response.chunk()).await {
                Ok(Ok(chunk)) => {
                    self.pace.took(chunk.as_ref().map_or(0, Bytes::len));
                    return Ok(chunk);
                }
                Ok(Err(error)) => problem(error),
                Err(slow) => slow,
            };
            let failed = self.failed(chunk);
            if !failed.is_transient() || !self.go_on(&failed).await {
                return Err(failed);
            }
        }
    }

    /// Asks for the rest, and returns whether it comes now.
    async fn go_on(&mut self, why: &UpstreamError) -> bool {
        let Some(validator) = self.validator.clone().filter(|_| self.taken >= WORTH_IT) else { return false };
        let (before, attempts) = &mut self.attempts;
        if self.taken >= *before + SOMETHING {
            (*before, *attempts) = (self.taken, 0);
        } else if matches!(why.problem, Problem::TooSlow(_)) {
            return false;
        }
        while *attempts < ATTEMPTS {
            tracing::info!("going on at byte {}: {why}", self.taken);
            tokio::time::sleep(self.client.limits.idle / PAUSE * 2_u32.pow(*attempts)).await;
            *attempts += 1;
            let mut request = request(&self.url);
            request.headers_mut().insert(IF_RANGE, validator.clone());
            let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", self.taken)) else { return false };
            request.headers_mut().insert(RANGE, range);
            let mut pace = Pace::of_part(self.client.limits.idle);
            match self.client.send_for_file(request, &mut pace).await {
                Ok(response) if response.status() == StatusCode::PARTIAL_CONTENT => {
                    let begins = response.headers().get(CONTENT_RANGE).and_then(begin_of);
                    (self.response, self.pace) = (response, pace);
                    return begins == Some(self.taken);
                }
                // The whole of it: it has changed, or there are no parts of it.
                Ok(response) if !response.status().is_server_error() => return false,
                Err(error) if !error.is_transient() => return false,
                _ => {}
            }
        }
        false
    }
}

/// Where the bytes of an answer begin: `bytes 7-9/10`.
fn begin_of(range: &HeaderValue) -> Option<u64> {
    range.to_str().ok()?.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// What tells that another answer is of the same bytes: an entity tag that is not weak, else the time of the last change, if it was at
/// least a minute before the answer (RFC 9110, section 8.8.2.2).
fn strong_validator(headers: &HeaderMap) -> Option<HeaderValue> {
    if let Some(tag) = headers.get(ETAG) {
        return (tag.as_bytes().first() == Some(&b'"')).then(|| tag.clone());
    }
    let time = |name| -> Option<SystemTime> { httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok() };
    let changed = time(LAST_MODIFIED)?;
    let age = time(DATE)?.duration_since(changed).ok()?;
    headers.get(LAST_MODIFIED).filter(|_| age >= Duration::from_secs(60)).cloned()
}
