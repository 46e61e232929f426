//! Upstream's answers are mutated, many in each sync, and the mirror is judged at the first sync after `hold-after`.
//!
//! What always holds, whatever is answered:
//!
//! 1. A file that is published has the bytes that upstream has under its name; fewer than 1 in 100 wrong answers make a page
//!    that gives another name or digest, which no mirror can know to be wrong.
//! 2. A project whose answers are right is, to the byte, what it is in a mirror that got no wrong answer, at its newest.
//! 3. In nine of ten syncs something is published.
//! 4. A file that a right or wrong page lists and that readers do not get is named: as held, lacking, skipped or behind.
//! 5. When the answers are right again, so is the mirror, by itself.
//!
//! The changelog and the list of projects are mutated in runs of their own, because a wrong one may stop everything: there, 1
//! and 5 hold, and at most `max-drop` projects vanish in a sync.
//!
//! Which answers are wrong, and how, follows from the seed of a run, the round and what is asked for; a failure names seed and
//! round. `STRANDLINE_MUTATED_ANSWERS` says how many answers are mutated in all. It is 6,000 unless it is set, so that the usual
//! tests stay short, and 20,000 with `scripts/test --full`. A million takes about an hour and a half of one core, by hand:
//!
//! ```sh
//! STRANDLINE_MUTATED_ANSWERS=1000000 cargo test --test mutated_answers
//! ```

#![expect(clippy::unwrap_used, reason = "a test, and what it is made from, ends where something is not as expected")]

mod judge;
mod mutate;
mod world;

use strandline_sync::Method;

use crate::world::Run;

/// How many answers are mutated in all, unless told otherwise.
const ANSWERS: u64 = 6_000;

/// A part of all answers.
fn share(percent: u64) -> u64 {
    let all = std::env::var("STRANDLINE_MUTATED_ANSWERS").map_or(ANSWERS, |text| text.parse().unwrap());
    all * percent / 100
}

fn run(seed: u64, method: Method, json: bool) -> Run {
    // The double collect reads every page twice, and so it has fewer of them.
    let (projects, touched) = if method == Method::Changelog { (600, 500) } else { (240, 200) };
    Run { seed, projects, touched, method, json, everything: false }
}

#[test]
fn pages_in_json_with_a_changelog() {
    run(1, Method::Changelog, true).pages(share(60));
}

#[test]
fn pages_in_json_read_twice() {
    run(2, Method::Collect, true).pages(share(19));
}

#[test]
fn pages_in_html_read_twice() {
    run(3, Method::Collect, false).pages(share(19));
}

#[test]
fn the_changelog() {
    Run { projects: 40, touched: 40, ..run(4, Method::Changelog, true) }.log(share(1));
}

#[test]
fn the_list() {
    Run { projects: 40, touched: 40, everything: true, ..run(5, Method::Collect, true) }.list(share(1));
}
