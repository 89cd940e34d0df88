//! How fast we write.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// Lets a bounded number of writes a second pass, evenly spaced, in the order in which they came.
#[derive(Debug)]
pub(super) struct Pace {
    gap: Duration,
    last: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(per_second: u32) -> Self {
        Self { gap: Duration::from_secs(1) / per_second.max(1), last: Mutex::new(None) }
    }

    /// Waits for this write's turn. The gap counts from the moment in which the one before really went, so that those who were kept
    /// waiting by a busy machine do not go all at once.
    pub(super) async fn turn(&self) {
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
        let (pace, started) = (Pace::new(50), Instant::now());
        pace.turn().await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        for _ in 0..100 {
            pace.turn().await;
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_millis(2200), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_were_kept_waiting_do_not_go_all_at_once() {
        let pace = Pace::new(50);
        let started = Instant::now();
        let turns = futures::future::join_all((0..5).map(|_| async {
            pace.turn().await;
            started.elapsed()
        }));
        let (went, ()) = tokio::join!(turns, async {
            tokio::task::yield_now().await;
            tokio::time::advance(Duration::from_millis(100)).await; // as if nothing ran for so long
        });
        assert!(went.windows(2).all(|pair| pair[0] + Duration::from_millis(20) <= pair[1]), "{went:?}");
    }
}
