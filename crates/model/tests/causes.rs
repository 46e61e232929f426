//! Errors as text.

use strandline_model::with_causes;

#[derive(Debug, thiserror::Error)]
#[error("cannot sync")]
struct Outer(#[source] Middle);

#[derive(Debug, thiserror::Error)]
#[error("cannot write `x`")]
struct Middle(#[source] std::io::Error);

#[test]
fn every_cause_is_named_in_order() {
    let innermost = || std::io::Error::other("no space");
    assert_eq!(with_causes(&innermost()), "no space");
    assert_eq!(with_causes(&Outer(Middle(innermost()))), "cannot sync: cannot write `x`: no space");
}
