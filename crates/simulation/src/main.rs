//! How far a mirror lags behind upstream, simulated: the table of `docs/liveness.md`, as `scripts/liveness` makes it.

use std::time::Duration;

use strandline_simulation::{Weather, run};

const RATES: [f64; 4] = [0.2, 1.0, 10.0, 100.0];
const CACHES: [u64; 4] = [0, 5, 60, 300];
const PAGES: [u32; 2] = [200, 20];
const PROJECTS: usize = 20_000;

/// What a mirror of everything meets: more projects where more happens, bursts among the rest, one cache.
fn weather(events_per_second: f64, stale: u64, pages_per_second: u32) -> Weather {
    Weather {
        events_per_second,
        stale: Duration::from_secs(stale),
        pages_per_second,
        projects: PROJECTS,
        past: 1,
        one_cache: true,
        seconds: if events_per_second > 10.0 { 900 } else { 1_800 },
        patience: Duration::from_secs(60),
        check_every: 50,
        ..Weather::default()
    }
}

#[expect(clippy::print_stdout, reason = "the table is what it is run for")]
fn row(name: &str, weather: Weather) {
    let mut cells = Vec::new();
    for pages in PAGES {
        let ran = run(1, Weather { pages_per_second: pages, ..weather });
        assert!(ran.wrong.is_empty(), "{} wrong, the first: {}", ran.wrong.len(), ran.wrong[0]);
        // Not from a beginning at which nothing was missing.
        let mut lags = ran.lags[ran.lags.len() / 3..].to_vec();
        let (early, late) = lags.split_at(lags.len() / 2);
        let median = |lags: &[f64]| {
            let mut lags = lags.to_vec();
            lags.sort_by(f64::total_cmp);
            lags[lags.len() / 2]
        };
        let grows = median(late) > 1.5 * median(early) + 10.0;
        let middle = median(&lags);
        lags.sort_by(f64::total_cmp);
        let grows = if grows { ", growing" } else { "" };
        cells.push(format!("{} | {middle:.0} / {:.0}{grows}", ran.published, lags[lags.len() - 1]));
    }
    println!("| {name} | {} | {} |", weather.stale.as_secs(), cells.join(" | "));
}

#[expect(clippy::print_stdout, reason = "the table is what it is run for")]
fn main() {
    // Only the rows of these names, if there are any.
    let only: Vec<String> = std::env::args().skip(1).collect();
    let row = |name: &str, weather: Weather| {
        if only.is_empty() || only.iter().any(|only| only == name) {
            row(name, weather);
        }
    };
    println!("| events/s | cache, s | serials, 200 pages/s | lag, s | serials, 20 pages/s | lag, s |");
    println!("|---|---|---|---|---|---|");
    for rate in RATES {
        for stale in CACHES {
            row(&rate.to_string(), weather(rate, stale, 0));
        }
    }
    // Most of what happens is an owner who uploads sixty files to one project.
    for rate in [1.0, 10.0] {
        for stale in CACHES {
            row(&format!("{rate}, in bursts"), Weather { bursts: 100, ..weather(rate, stale, 0) });
        }
    }
}
