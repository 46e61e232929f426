//! Stores on disks that crash, fail or lose power, and what has to hold afterwards; for tests.
//!
//! A [`World`] is a store in a temporary directory. [`at_every_step`] disturbs an operation on it by a crash and by an
//! error at each step, [`Outage`] by a power failure at each step, which [`Power`] models by POSIX's rules.
//! [`invariants`] looks at the result from outside, as `docs/design/009-crashes.md` numbers them.
//!
//! The mirror that is looked at is always [`mirror()`]. Where something does not hold, the functions panic: each caller is
//! a test.
//!
//! ```
//! use strandline_faultkit::{World, invariants, lock, mirror};
//!
//! let world = World::new();
//! drop(lock(&world.open()).unwrap());
//! let again = world.copy();
//! assert_eq!(invariants::check(&again.root(), &again.open(), &mirror()), None, "nothing is published");
//! ```
#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

mod crash;
mod damage;
mod drafts;
pub mod invariants;
mod outage;
mod power;
mod world;

pub use crash::at_every_step;
pub use damage::lose_body;
pub use drafts::{draft, draft_unit};
pub use outage::Outage;
pub use power::{Left, Power};
pub use world::{Outcome, World, known, lock, mirror, now, temporary_directory};
