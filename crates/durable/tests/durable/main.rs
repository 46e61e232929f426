//! The promises of `src/lib.rs`: the seam, what each step does, and the locks.

#![cfg(test)]

mod disk;
mod lock;
