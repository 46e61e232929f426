//! Why a page or file could not be had.

use std::time::Duration;

use strandline_model::{BadRecord, HoldReason, ProjectName};
use strandline_store::ReceiveError;

use super::patience::Passing;
use super::receive::Wanted;
use crate::upstream::{Problem, UpstreamError, without_query};

/// A project's page or file could not be had. Nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The page.
    #[error("cannot read the page of project `{project}`")]
    Page {
        /// The project.
        project: ProjectName,
        /// Why.
        source: UpstreamError,
    },
    /// A file: upstream did not give it.
    #[error("cannot fetch `{filename}` of project `{project}`")]
    File {
        /// The project.
        project: ProjectName,
        /// The file.
        filename: String,
        /// Why.
        source: UpstreamError,
    },
    /// A file: what came is not what the page says.
    #[error("`{filename}` of project `{project}` is not what its page says: {url}")]
    Wrong {
        /// The project.
        project: ProjectName,
        /// The file.
        filename: String,
        /// Where it came from.
        url: String,
        /// What was expected, and what came.
        source: ReceiveError,
    },
    /// The record that an earlier snapshot has of the project cannot be read.
    #[error("the stored record of project `{project}` is damaged: run `strandline verify`")]
    Record {
        /// The project.
        project: ProjectName,
        /// Why.
        source: BadRecord,
    },
    /// A blob could not be stored.
    #[error("cannot store `{filename}` of project `{project}`")]
    Store {
        /// The project.
        project: ProjectName,
        /// The file.
        filename: String,
        /// Why.
        source: ReceiveError,
    },
    /// Two of a project's files would stand at one path.
    #[error("upstream's page of `{project}` is not usable: {problem}")]
    Unusable {
        /// The project.
        project: ProjectName,
        /// Why.
        problem: String,
    },
}

impl FetchError {
    /// Whether it is upstream that failed, and not this machine.
    pub fn is_upstreams(&self) -> bool {
        match self {
            Self::Page { .. } | Self::File { .. } | Self::Wrong { .. } | Self::Unusable { .. } => true,
            Self::Record { .. } | Self::Store { .. } => false,
        }
    }

    /// Whether upstream was waited for until it was too slow.
    pub(crate) fn is_slow(&self) -> bool {
        self.upstream().is_some_and(UpstreamError::is_slow)
    }

    /// Whether asking again soon is of no use: upstream has answered, and what it said is wrong.
    pub(crate) fn is_definite(&self) -> bool {
        match self {
            Self::Page { source, .. } | Self::File { source, .. } => !source.is_transient(),
            Self::Wrong { .. } | Self::Unusable { .. } => true,
            Self::Record { .. } | Self::Store { .. } => false,
        }
    }

    /// Whether upstream says that it is not there.
    pub(crate) fn is_missing(&self) -> bool {
        self.upstream().is_some_and(|error| matches!(error.problem, Problem::Status { status: 404 | 410, .. }))
    }

    /// What upstream answered in place of a page or file.
    fn upstream(&self) -> Option<&UpstreamError> {
        match self {
            Self::Page { source, .. } | Self::File { source, .. } => Some(source),
            _ => None,
        }
    }

    /// The reason for which a project with this failure would be held.
    pub fn hold_reason(&self) -> HoldReason {
        match self {
            Self::Page { .. } | Self::Unusable { .. } | Self::Record { .. } => HoldReason::BadPage,
            Self::File { .. } | Self::Store { .. } => HoldReason::FileMissing,
            Self::Wrong { .. } => HoldReason::FileWrong,
        }
    }
}

pub(crate) fn unusable(project: &ProjectName, problem: String) -> FetchError {
    FetchError::Unusable { project: project.clone(), problem }
}

/// Why one attempt to fetch a blob failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("{0}")]
    Receive(#[from] ReceiveError),
    /// It is left for the next sync.
    #[error("{0}")]
    Left(UpstreamError),
}

impl Passing for Failure {
    /// Wrong bytes may pass too: a broken cache often has a whole neighbour.
    fn may_pass(&self) -> bool {
        match self {
            Self::Upstream(error) => error.is_transient(),
            Self::Receive(ReceiveError::Digest(_) | ReceiveError::TooShort { .. }) => true,
            Self::Receive(_) | Self::Left(_) => false,
        }
    }

    fn is_slow(&self) -> bool {
        matches!(self, Self::Upstream(error) if error.is_slow())
    }

    fn asked_pause(&self) -> Option<Duration> {
        match self {
            Self::Upstream(error) => error.retry_after(),
            Self::Receive(_) | Self::Left(_) => None,
        }
    }
}

impl Failure {
    pub(super) fn of(self, wanted: Wanted<'_>) -> FetchError {
        let (project, filename) = (wanted.project.clone(), wanted.name.to_owned());
        match self {
            Self::Upstream(source) | Self::Left(source) => FetchError::File { project, filename, source },
            Self::Receive(source @ ReceiveError::Disk(_)) => FetchError::Store { project, filename, source },
            Self::Receive(source) => {
                FetchError::Wrong { project, filename, url: without_query(wanted.url).to_owned(), source }
            }
        }
    }
}
