//! How many writes a second the API server gets from us.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// Lets a bounded number of writes a second pass: evenly spaced, without bursts, first come first served.
#[derive(Debug)]
pub(super) struct RateLimiter {
    gap: Duration,
    last: Mutex<Option<Instant>>,
}

impl RateLimiter {
    pub(super) fn new(per_second: u32) -> Self {
        Self { gap: Duration::from_secs(1) / per_second.max(1), last: Mutex::new(None) }
    }

    /// Waits for the turn of this write. The gap counts from the moment when the previous write really went: after the process was held up
    /// there is no burst.
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
    async fn a_hundred_writes_at_fifty_a_second_take_two_seconds_and_the_first_waits_for_none() {
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
    async fn writes_that_were_held_up_do_not_go_all_at_once() {
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
