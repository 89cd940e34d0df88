//! How long to wait before what failed is tried again. Every such wait in `k8s` is counted here.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);

/// The pause after so many failures before this one: `shortest`, then twice as long each time, up to `longest`.
pub(super) fn exponential(shortest: Duration, longest: Duration, failures: u32) -> Duration {
    shortest.saturating_mul(2_u32.saturating_pow(failures)).min(longest)
}

/// Exponential backoff with jitter: each pause is cut by chance by up to a half, so that replicas that failed together do not come back
/// together.
#[derive(Debug)]
pub(super) struct Backoff {
    failures: u32,
    longest: Duration,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Self::up_to(LONGEST)
    }

    /// With pauses that do not grow beyond this one.
    pub(super) const fn up_to(longest: Duration) -> Self {
        Self { failures: 0, longest }
    }

    /// The next pause.
    pub(super) fn next(&mut self) -> Duration {
        let whole = exponential(SHORTEST, self.longest, self.failures);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(1.0 - chance() / 2.0)
    }

    /// It worked: the next pause is a short one.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A number from 0 to 1. Each new hasher of the standard library has other keys, which is all the randomness that this needs.
#[expect(clippy::cast_precision_loss, reason = "chance needs no 64 bits")]
pub(super) fn chance() -> f64 {
    (RandomState::new().hash_one(()) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_fifteen_seconds_and_begin_anew_after_success() {
        let mut backoff = Backoff::new();
        for whole in [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0] {
            let pause = backoff.next().as_secs_f64();
            assert!(pause > whole / 2.0 - 1e-6 && pause <= whole, "{pause} for {whole}");
        }
        backoff.reset();
        assert!(backoff.next() <= SHORTEST);
    }
}
