//! Errors as text.

/// An error with all its causes, the nearest first: `cannot sync: cannot write: no space`.
///
/// The last cause is often the one that an operator needs.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
