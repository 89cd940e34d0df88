//! How long nothing is sent to an API server that does not answer.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;

const LONGEST: Duration = Duration::from_secs(30);

/// One pause for everything that a part writes: each longer than the one before, until an answer comes.
#[derive(Debug)]
pub(super) struct Pause {
    backoff: Backoff,
    until: Option<Instant>,
}

impl Pause {
    pub(super) const fn new() -> Self {
        Self { backoff: Backoff::up_to(LONGEST), until: None }
    }

    /// When the pause ends; `None`: there is none.
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|&until| now < until)
    }

    /// No answer.
    pub(super) fn fail(&mut self, now: Instant) {
        // One that was sent before the pause began does not make it longer.
        if self.until(now).is_none() {
            self.until = Some(now + self.backoff.next());
        }
    }

    /// An answer.
    pub(super) const fn succeed(&mut self) {
        self.backoff.reset();
        self.until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_half_a_minute_and_an_answer_ends_them() {
        let mut pause = Pause::new();
        let mut now = Instant::now();
        for longest in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            pause.fail(now);
            let until = pause.until(now).unwrap();
            pause.fail(now);
            assert_eq!(pause.until(now), Some(until), "what was in flight does not make it longer");
            let longest = Duration::from_secs_f64(longest);
            assert!(until - now >= longest / 2 && until - now <= longest);
            now = until;
            assert_eq!(pause.until(now), None);
        }
        pause.fail(now);
        pause.succeed();
        assert_eq!(pause.until(now), None);
    }
}
