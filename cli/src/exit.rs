//! Exit codes.

use std::process::ExitCode;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// Published, with held projects.
    Held,
    /// Nothing published: upstream was not consistent.
    Inconsistent,
    /// Usage or configuration.
    Usage,
    /// Failed.
    Failed,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Inconsistent => 3,
            Exit::Held => 4,
        })
    }
}
