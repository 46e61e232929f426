//! A limit on bytes per second that all threads share.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Says how much time has passed, and lets time pass. Tests decide both.
pub trait Pace: Send + Sync {
    /// The time since some moment that does not change.
    fn now(&self) -> Duration;

    /// Waits.
    fn sleep(&self, time: Duration);
}

/// Real time.
#[derive(Debug)]
struct Real(Instant);

impl Pace for Real {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// Lets bytes pass at a rate: a thread that wants to read some waits until those before have had their time.
///
/// Bytes that no thread read in a pause are not made up for later.
pub struct Limiter {
    bytes_per_second: u64,
    pace: Box<dyn Pace>,
    /// When the bytes that were let through so far have had their time.
    free_at: Mutex<Duration>,
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limiter").field("bytes_per_second", &self.bytes_per_second).finish_non_exhaustive()
    }
}

impl Limiter {
    /// Lets so many bytes pass in a second; at least one.
    pub fn new(bytes_per_second: u64) -> Self {
        Self::paced(bytes_per_second, Box::new(Real(Instant::now())))
    }

    /// The same with another time than the real one.
    pub fn paced(bytes_per_second: u64, pace: Box<dyn Pace>) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), pace, free_at: Mutex::default() }
    }

    /// Waits until these bytes may pass.
    pub fn pass(&self, bytes: u64) {
        let wait = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.pace.now();
            let begin = now.max(*free_at);
            let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
            *free_at = begin.saturating_add(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)));
            begin.saturating_sub(now)
        };
        if !wait.is_zero() {
            self.pace.sleep(wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Duration>>);

    impl Pace for Told {
        fn now(&self) -> Duration {
            *self.0.lock().unwrap()
        }
        fn sleep(&self, time: Duration) {
            *self.0.lock().unwrap() += time;
        }
    }

    #[test]
    fn bytes_take_their_time() {
        let time = Told::default();
        let limiter = Limiter::paced(1000, Box::new(time.clone()));
        // The first may pass at once, each next one when the one before has had its time.
        let after: Vec<_> = [500, 2000, 1, 0]
            .into_iter()
            .map(|bytes| {
                limiter.pass(bytes);
                time.now().as_millis()
            })
            .collect();
        assert_eq!(after, [0, 500, 2500, 2501]);
        // A pause is not made up for.
        time.sleep(Duration::from_secs(100));
        limiter.pass(1000);
        limiter.pass(1000);
        assert_eq!(time.now().as_millis(), 103_501);
    }

    #[test]
    fn all_threads_share_one_limit() {
        let time = Told::default();
        let limiter = Limiter::paced(1000, Box::new(time.clone()));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..25).for_each(|_| limiter.pass(100)));
            }
        });
        // A hundred times a tenth of a second; the last one need not be over.
        assert!(time.now() >= Duration::from_millis(9_900), "{:?}", time.now());
        assert!(*limiter.free_at.lock().unwrap() >= Duration::from_secs(10));
    }
}
