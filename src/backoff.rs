//! The delay before a failed attempt is repeated. Every growing delay is computed here. Pure.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);

/// The delay after a failure that was preceded by `failures` others: `shortest`, then twice as long each time, up to `longest`.
pub(crate) fn exponential(shortest: Duration, longest: Duration, failures: u32) -> Duration {
    shortest.saturating_mul(2_u32.saturating_pow(failures)).min(longest)
}

/// Exponential backoff with jitter: each delay is shortened at random by up to a half, so that replicas that failed together do not try
/// again together.
#[derive(Debug)]
pub(crate) struct Backoff {
    failures: u32,
    shortest: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self::up_to(LONGEST)
    }

    /// With delays that do not grow beyond `longest`.
    pub(crate) const fn up_to(longest: Duration) -> Self {
        Self::between(SHORTEST, longest)
    }

    /// With delays that begin at `shortest`, and do not grow beyond `longest`.
    pub(crate) const fn between(shortest: Duration, longest: Duration) -> Self {
        Self { failures: 0, shortest, longest }
    }

    /// The next delay.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = exponential(self.shortest, self.longest, self.failures);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(1.0 - random() / 2.0)
    }

    /// An attempt succeeded: the next delay is the shortest one.
    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A random number from 0 to 1. Each new hasher of the standard library has other keys, which is random enough for jitter.
#[expect(clippy::cast_precision_loss, reason = "jitter needs no 64 bits")]
pub(crate) fn random() -> f64 {
    (RandomState::new().hash_one(()) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_fifteen_seconds_and_start_again_after_success() {
        let mut backoff = Backoff::new();
        for whole in [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0] {
            let delay = backoff.next().as_secs_f64();
            assert!(delay > whole / 2.0 - 1e-6 && delay <= whole, "{delay} for {whole}");
        }
        backoff.reset();
        assert!(backoff.next() <= SHORTEST);
    }
}
