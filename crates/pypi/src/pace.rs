//! How fast an answer has to come.
//!
//! What always holds: an answer that has begun brings [`SLOWEST`] bytes a second in each window of time, or is broken off at the
//! window's end; a page, list or log is there as a whole after [`WINDOWS`] windows. Time in which nothing is asked of upstream does
//! not count. Tested in `tests/slow_answers.rs`.

use std::time::Duration;

use strandline_sync::upstream::Problem;
use tokio::time::{Instant, timeout_at};

/// The slowest speed that is waited for, in bytes a second, over a whole window.
const SLOWEST: u128 = 1024;
/// In so many windows an answer has to come that is read as a whole.
const WINDOWS: u32 = 10;

/// The time that one request has.
#[derive(Debug)]
pub(crate) struct Pace {
    window: Duration,
    /// When the window ends, and what came in it, in bytes.
    end: Instant,
    came: u64,
    /// When the whole has to be there.
    until: Option<Instant>,
}

impl Pace {
    /// For an answer that can be as large as a file.
    pub(crate) fn of_part(window: Duration) -> Self {
        Self { window, end: Instant::now() + window, came: 0, until: None }
    }

    /// For an answer that is read as a whole.
    pub(crate) fn of_whole(window: Duration) -> Self {
        Self { until: Some(Instant::now() + window * WINDOWS), ..Self::of_part(window) }
    }

    /// Waits for the beginning of an answer.
    pub(crate) async fn begin<T>(&mut self, answer: impl Future<Output = T>) -> Result<T, Problem> {
        self.begin_window();
        let begun = self.next(answer).await?;
        self.begin_window();
        Ok(begun)
    }

    /// Waits for the next part of the answer.
    pub(crate) async fn next<T>(&mut self, part: impl Future<Output = T>) -> Result<T, Problem> {
        tokio::pin!(part);
        if Instant::now() >= self.end {
            // What came is still being worked on, and upstream was not asked for more.
            self.begin_window();
        }
        loop {
            let end = self.until.map_or(self.end, |until| until.min(self.end));
            if let Ok(part) = timeout_at(end, &mut part).await {
                return Ok(part);
            }
            let seconds = self.window.as_secs_f32();
            if self.until.is_some_and(|until| until <= Instant::now()) {
                let all = (self.window * WINDOWS).as_secs_f32();
                return Err(Problem::TooSlow(format!("it did not come whole in time: in {all} s")));
            }
            if self.came == 0 {
                return Err(Problem::TooSlow(format!("nothing came in time: in {seconds} s")));
            }
            if u128::from(self.came) * 1000 < SLOWEST * self.window.as_millis() {
                return Err(Problem::TooSlow(format!(
                    "it comes too slowly: {} bytes in {seconds} s, and {SLOWEST} are waited for in each second",
                    self.came
                )));
            }
            self.begin_window();
        }
    }

    /// So many bytes came.
    pub(crate) fn took(&mut self, bytes: usize) {
        self.came += bytes as u64;
    }

    /// Does something else in between, whose time does not count.
    pub(crate) async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let done = other.await;
        self.until = self.until.map(|until| until + begun.elapsed());
        self.begin_window();
        done
    }

    fn begin_window(&mut self) {
        (self.end, self.came) = (Instant::now() + self.window, 0);
    }
}
