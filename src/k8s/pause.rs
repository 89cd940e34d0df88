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

    /// No answer. Returns whether this is the first one that is missed.
    pub(super) fn fail(&mut self, now: Instant) -> bool {
        if self.until(now).is_some() {
            return false; // it was sent before the pause began
        }
        self.until.replace(now + self.backoff.next()).is_none()
    }

    /// An answer. Returns whether some were missed before.
    pub(super) const fn succeed(&mut self) -> bool {
        self.backoff.reset();
        self.until.take().is_some()
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
            assert_eq!(pause.fail(now), longest == 0.5);
            assert!(!pause.fail(now), "what was in flight does not make it longer");
            let until = pause.until(now).unwrap();
            let longest = Duration::from_secs_f64(longest);
            assert!(until - now >= longest / 2 && until - now <= longest);
            now = until;
            assert_eq!(pause.until(now), None);
        }
        assert!(pause.succeed() && !pause.succeed());
    }
}
