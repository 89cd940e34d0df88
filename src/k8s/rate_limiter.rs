//! Limits the rate of our writes.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// Permits a fixed number of writes a second, evenly spaced and without bursts, first come first served.
#[derive(Debug)]
pub(super) struct RateLimiter {
    gap: Duration,
    last: Mutex<Option<Instant>>,
}

impl RateLimiter {
    pub(super) fn new(per_second: u32) -> Self {
        Self { gap: Duration::from_secs(1) / per_second.max(1), last: Mutex::new(None) }
    }

    /// Waits until the caller may write. The gap counts from when the previous caller really went on, so that there is no burst after the
    /// process was suspended.
    pub(super) async fn acquire(&self) {
        let mut last = self.last.lock().await;
        if let Some(last) = *last {
            sleep_until(last + self.gap).await;
        }
        *last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hundred_writes_at_fifty_a_second_take_two_seconds_and_the_first_does_not_wait() {
        let (limiter, started) = (RateLimiter::new(50), Instant::now());
        limiter.acquire().await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        for _ in 0..100 {
            limiter.acquire().await;
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_millis(2200), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn writes_after_a_suspension_are_no_burst() {
        let limiter = RateLimiter::new(50);
        let started = Instant::now();
        let turns = futures::future::join_all((0..5).map(|_| async {
            limiter.acquire().await;
            started.elapsed()
        }));
        let (went, ()) = tokio::join!(turns, async {
            tokio::task::yield_now().await;
            tokio::time::advance(Duration::from_millis(100)).await; // as if nothing ran for so long
        });
        assert!(went.windows(2).all(|pair| pair[0] + Duration::from_millis(20) <= pair[1]), "{went:?}");
    }
}
