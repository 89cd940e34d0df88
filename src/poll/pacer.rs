//! How fast polls may begin, so that the process stays below its CPU limit: the kernel stops all threads of a process that exceeds it, and
//! nothing is served until the next period. It only computes: it neither waits nor measures.

use std::time::Duration;

/// The part of the limit that is used. The rest is a reserve for bursts.
const TARGET_UTILIZATION: f64 = 0.85;

/// The part of it that is always left for polls, however much CPU the rest of the process uses, so that no poll waits for ever.
const MIN_POLL_SHARE: f64 = 0.15;

/// The default period of the kernel's CPU quota, in seconds.
const QUOTA_PERIOD: f64 = 0.1;

/// The half-life of a measurement's weight, in seconds.
const HALF_LIFE: f64 = 4.0;

/// The assumed cost of a poll in seconds of CPU, and the number of measured polls that have the same weight.
const ASSUMED_COST: (f64, f64) = (0.001, 4.0);

/// A token bucket of CPU time: it fills at the rate that is left for polls, and each poll that begins takes out what polls have cost
/// lately.
#[derive(Clone, Debug)]
pub(super) struct CpuPacer {
    /// In cores; `None`: there is none, and polls begin at once.
    limit: Option<f64>,
    /// Seconds of CPU in the bucket.
    tokens: f64,
    recent: CpuSample,
}

/// The CPU usage in some time; all in seconds, except for the count.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CpuSample {
    /// The time.
    pub(super) time: f64,
    /// CPU that polls used.
    pub(super) polls: f64,
    /// CPU that everything else used.
    pub(super) others: f64,
    /// Polls that ended.
    pub(super) ended: f64,
}

impl CpuPacer {
    pub(super) fn new(limit: Option<f64>) -> Self {
        Self { limit, tokens: 0.0, recent: CpuSample::default() }
    }

    /// Changes the limit, in cores.
    pub(super) fn set_limit(&mut self, limit: Option<f64>) {
        self.limit = limit;
    }

    /// Adds a measurement. Older ones count less and less.
    pub(super) fn add_sample(&mut self, new: CpuSample) {
        let left = 0.5_f64.powf(new.time / HALF_LIFE);
        let CpuSample { time, polls, others, ended } = &mut self.recent;
        *time = *time * left + new.time;
        *polls = *polls * left + new.polls;
        *others = *others * left + new.others;
        *ended = *ended * left + new.ended;
    }

    /// Fills the bucket for the time that has passed.
    pub(super) fn refill(&mut self, time: Duration) {
        let Some(limit) = self.limit else { return };
        // A burst must fit into the reserve of one period, but at least one poll may always begin.
        let most = ((1.0 - TARGET_UTILIZATION) * limit * QUOTA_PERIOD).max(self.cost());
        self.tokens = (self.tokens + self.rate(limit) * time.as_secs_f64()).min(most);
    }

    /// Takes the tokens of one poll, or returns how long it has to wait for them.
    pub(super) fn take(&mut self) -> Option<Duration> {
        let limit = self.limit?;
        let missing = self.cost() - self.tokens;
        if missing > 0.0 {
            return Some(Duration::try_from_secs_f64(missing / self.rate(limit)).unwrap_or(Duration::MAX));
        }
        self.tokens -= self.cost();
        None
    }

    /// The cores that are left for polls.
    fn rate(&self, limit: f64) -> f64 {
        let CpuSample { time, others, .. } = self.recent;
        let others = if time > 0.0 { others / time } else { 0.0 };
        (TARGET_UTILIZATION * limit - others).max(TARGET_UTILIZATION * limit * MIN_POLL_SHARE)
    }

    /// The recent cost of a poll, in seconds of CPU.
    fn cost(&self) -> f64 {
        let (assumed, weight) = ASSUMED_COST;
        (self.recent.polls + assumed * weight) / (self.recent.ended + weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process with so many cores, in which a poll costs so many seconds of CPU and everything else so many cores: polls that begin in
    /// the last of `seconds`, if as many want to as may.
    fn begun(pacer: &mut CpuPacer, seconds: u32, cost: f64, others: f64) -> f64 {
        let step = Duration::from_millis(1);
        let mut begun = 0.0;
        for _ in 0..seconds {
            begun = 0.0;
            for _ in 0..1000 {
                pacer.refill(step);
                while pacer.take().is_none() {
                    begun += 1.0;
                }
            }
            pacer.add_sample(CpuSample { time: 1.0, polls: begun * cost, others, ended: begun });
        }
        begun
    }

    #[test]
    fn polls_and_all_else_stay_below_the_limit_whatever_they_cost() {
        for cost in [0.0001, 0.001, 0.01] {
            for others in [0.0, 0.05, 0.1] {
                let used = begun(&mut CpuPacer::new(Some(0.2)), 60, cost, others) * cost + others;
                assert!((0.15..0.19).contains(&used), "{used} cores at {cost} s and {others} cores");
            }
        }
    }

    #[test]
    fn polls_have_their_part_even_if_all_else_takes_more_than_there_is() {
        let used = begun(&mut CpuPacer::new(Some(0.2)), 60, 0.001, 5.0) * 0.001;
        assert!(used > 0.02, "{used} cores");
    }

    #[test]
    fn few_begin_at_once_however_long_none_did() {
        let mut pacer = CpuPacer::new(Some(1.0));
        pacer.refill(Duration::from_secs(3600));
        let begun = (0..1000).take_while(|_| pacer.take().is_none()).count();
        assert!((10..=15).contains(&begun), "{begun}");
    }

    #[test]
    fn polls_that_cost_nothing_because_their_servers_hang_are_not_held_up() {
        let mut pacer = CpuPacer::new(Some(0.2));
        assert!(begun(&mut pacer, 30, 0.00001, 0.0) > 10_000.0);
    }

    #[test]
    fn without_a_limit_none_waits_and_a_limit_that_is_lifted_is_felt_at_once() {
        let mut pacer = CpuPacer::new(Some(0.01));
        assert!((0..1000).any(|_| pacer.take().is_some()));
        pacer.set_limit(None);
        assert!((0..1000).all(|_| pacer.take().is_none()));
    }
}
