//! An upstream that says that it has no changelog, to a mirror that follows it.
//!
//! For a moment that says nothing: a proxy, or maintenance, answers so. An index that gives its changelog up goes on saying so. After
//! three days a mirror whose configuration does not name a method reads every page twice instead, from then on, and reads all of them
//! anew.

use std::time::Duration;

use strandline_model::{Timestamp, with_causes};
use strandline_store::Subject;

use crate::upstream::UpstreamError;
use crate::{Fetcher, SyncError};

/// How long upstream has to say so.
const BELIEVED_AFTER: Duration = Duration::from_secs(3 * 86_400);
/// A look asks for upstream's list, which is long, so there are not more looks than this.
const BETWEEN_LOOKS: Duration = Duration::from_secs(3600);

/// From when on a mirror that follows the changelog does without, if upstream says until then that there is none, and has said it
/// first at `since`.
pub fn collects_from(since: Timestamp) -> Timestamp {
    since.later(BELIEVED_AFTER)
}

/// Looks, now that upstream has said so with `error`; an error of kind [`SyncError::ChangelogGone`] as long as it is not believed.
/// Only beside a list that is one does the answer say something about the index.
pub(crate) async fn believe(fetcher: &Fetcher, error: UpstreamError) -> Result<(), SyncError> {
    let (now, subject) = ((fetcher.clock)(), Subject::MissingChangelog);
    let (mirror, automatic) = (fetcher.settings.mirror.clone(), fetcher.settings.method.is_none());
    let before = fetcher.sights().of(&subject);
    let is_due = |first: Timestamp| automatic && first < now && now.since(first) >= BELIEVED_AFTER;
    let looks =
        before.is_none_or(|sight| sight.last > now || now.since(sight.last) >= BETWEEN_LOOKS || is_due(sight.first));
    let mut since = before.map(|sight| sight.first.min(now));
    if looks {
        match fetcher.patient.projects().await {
            Ok(_) => since = Some(fetcher.sights().look_whether(subject, now)),
            Err(list) => {
                tracing::warn!("whether upstream has no changelog any more is not known: {}", with_causes(&list));
                return Err(SyncError::ChangelogGone { mirror, since, collects_from: None, source: error });
            }
        }
    }
    if let Some(since) = since.filter(|since| is_due(*since)) {
        tracing::warn!("{mirror}: upstream has had no changelog since {since}; every page is read twice from now on");
        return Ok(());
    }
    let collects_from = since.filter(|_| automatic).map(collects_from);
    Err(SyncError::ChangelogGone { mirror, since, collects_from, source: error })
}
