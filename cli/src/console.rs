//! What a person sees while the program works: log lines and progress, on stderr.

use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use strandline_model::MirrorName;
use strandline_sync::Progress;
use tokio::task::JoinHandle;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// All bars, so that log lines are written above them and not through them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// How often progress is said where there is no terminal to draw on.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Starts logging to stderr.
pub(crate) fn start(quiet: bool, verbose: u8) {
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::INFO,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let terminal = io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(AboveBars)
        .with_ansi(terminal)
        .with_target(verbose > 0)
        .compact()
        .init();
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
        let bar = BARS.add(ProgressBar::new_spinner());
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("the template is right");
        bar.set_style(style);
        let terminal = io::stderr().is_terminal();
        let (shown, mirror) = (bar.clone(), mirror.clone());
        let ticker = tokio::spawn(async move {
            let mut last = 0;
            let every = if terminal { Duration::from_millis(200) } else { LINE_EVERY };
            let mut interval = tokio::time::interval(every);
            interval.tick().await;
            loop {
                interval.tick().await;
                let get = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
                let bytes = get(&progress.bytes);
                // Bytes in the time of a tick, as bytes per second.
                let rate = u128::from(bytes - last) * 1000 / every.as_millis();
                last = bytes;
                let message = format!(
                    "{mirror}: {} of {} projects, {} of {} files, {} ({}/s)",
                    get(&progress.projects_done),
                    get(&progress.projects),
                    get(&progress.files_done),
                    get(&progress.files),
                    HumanBytes(bytes),
                    HumanBytes(u64::try_from(rate).unwrap_or(u64::MAX)),
                );
                if terminal {
                    shown.set_message(message);
                    shown.tick();
                } else {
                    tracing::info!("{message}");
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
