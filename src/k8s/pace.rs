//! How fast we write.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lets a bounded number of writes a second pass, evenly spaced, in the order in which they came.
#[derive(Debug)]
pub(super) struct Pace {
    gap: Duration,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(per_second: u32) -> Self {
        Self { gap: Duration::from_secs(1) / per_second.max(1), next: Mutex::new(None) }
    }

    /// Waits for this write's turn. A turn that is given up is lost, not handed on.
    pub(super) async fn turn(&self) {
        let now = Instant::now();
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let at = next.map_or(now, |next| next.max(now));
            *next = Some(at + self.gap);
            at
        };
        tokio::time::sleep_until(at).await;
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
}
