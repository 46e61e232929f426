//! The log lines and the progress that a person sees on stderr while the program works.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use strandline_model::MirrorName;
use strandline_sync::Progress;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// All bars, so that log lines are written above them and not through them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// How often a line about progress is written where there is no terminal to draw on.
static LINE_EVERY: OnceLock<Duration> = OnceLock::new();

/// How often a bar is drawn anew.
const REDRAWN_EVERY: Duration = Duration::from_millis(200);
/// The time over which a rate is taken; the time between two looks where that is longer.
const RATE_OVER: Duration = Duration::from_secs(2);

/// Starts logging to stderr; a line about progress comes every `line_every` where stderr is no terminal.
///
/// Libraries are heard only where something is wrong, however much is to be said: what they write of requests holds
/// passwords and signed URLs, and people paste such lines into reports.
pub(crate) fn start(quiet: bool, verbose: u8, line_every: Duration) {
    LINE_EVERY.get_or_init(|| line_every);
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::INFO,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let terminal = io::stderr().is_terminal();
    let heard = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("strandline", level);
    let lines =
        tracing_subscriber::fmt::layer().with_writer(AboveBars).with_ansi(terminal).with_target(verbose > 0).compact();
    tracing_subscriber::registry().with(lines.with_filter(heard)).init();
    if quiet {
        BARS.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
}

struct AboveBars;

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write_all(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Shows how far a sync is until it is dropped: a bar on a terminal, else a line now and then.
pub(crate) struct Shown {
    bar: ProgressBar,
    ticker: JoinHandle<()>,
}

impl Shown {
    /// Begins to show.
    pub(crate) fn new(mirror: &MirrorName, progress: Arc<Progress>) -> Self {
        let bar = BARS.add(ProgressBar::new(1));
        let style = ProgressStyle::with_template("{prefix} [{bar:20}] {wide_msg}").expect("the template is right");
        bar.set_style(style.progress_chars("=>-"));
        bar.set_prefix(mirror.to_string());
        let terminal = io::stderr().is_terminal();
        let (shown, mirror) = (bar.clone(), mirror.clone());
        let ticker = tokio::spawn(async move {
            let every = if terminal { REDRAWN_EVERY } else { LINE_EVERY.get().copied().unwrap_or(REDRAWN_EVERY) };
            let mut interval = tokio::time::interval(every);
            let mut rate = Rate::new(interval.tick().await);
            loop {
                let now = interval.tick().await;
                let State { done, all, message } = state(&progress, &mut rate, now);
                if terminal {
                    shown.set_length(all.max(1));
                    shown.set_position(done);
                    shown.set_message(message);
                } else {
                    tracing::info!("{mirror}: {message}");
                }
            }
        });
        Self { bar, ticker }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.ticker.abort();
        self.bar.finish_and_clear();
        BARS.remove(&self.bar);
    }
}

/// How far a sync is at one moment.
struct State {
    /// Projects and files that are there.
    done: u64,
    /// Projects and files that are wanted, as far as is known.
    all: u64,
    message: String,
}

fn state(progress: &Progress, rate: &mut Rate, now: Instant) -> State {
    let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (projects, files, bytes) = (get(&progress.projects), get(&progress.files), get(&progress.bytes));
    // The sync counts a project twice whose page changed in between.
    let (projects_done, files_done) =
        (get(&progress.projects_done).min(projects), get(&progress.files_done).min(files));
    let message = format!(
        "{projects_done} of {projects} projects, {files_done} of {files} files, {} ({}/s)",
        HumanBytes(bytes),
        HumanBytes(rate.at(now, bytes)),
    );
    State { done: projects_done + files_done, all: projects + files, message }
}

/// Bytes per second over the last moments: a figure from one redrawing to the next would only flicker.
struct Rate {
    /// When how many bytes were there, the oldest first.
    seen: VecDeque<(Instant, u64)>,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self { seen: VecDeque::from([(now, 0)]) }
    }

    fn at(&mut self, now: Instant, bytes: u64) -> u64 {
        self.seen.push_back((now, bytes));
        while self.seen.len() > 2 && now - self.seen[1].0 >= RATE_OVER {
            self.seen.pop_front();
        }
        let (since, before) = self.seen[0];
        let passed = (now - since).as_millis().max(1);
        u64::try_from(u128::from(bytes - before) * 1000 / passed).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_moments() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let second = Duration::from_secs(1);
        assert_eq!(rate.at(start + second, 100), 100);
        assert_eq!(rate.at(start + 2 * second, 100), 50);
        assert_eq!(rate.at(start + 4 * second, 1100), 500, "what came before is forgotten");
        assert_eq!(rate.at(start + 20 * second, 1100), 0);
        assert_eq!(Rate::new(start).at(start, 5), 5000, "no time has passed, and nothing breaks");
    }
}
