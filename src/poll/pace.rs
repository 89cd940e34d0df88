//! How fast polls may begin, so that the process stays below its limit of CPU: the kernel stops one that exceeds it, all threads at once,
//! and nothing is served until its next period. Arithmetic alone; it neither waits nor measures.

use std::time::Duration;

/// The part of the limit that is used for everything together. What is left takes what comes in bursts.
const SHARE: f64 = 0.85;

/// The part of that which polls have at least, whatever else takes the CPU: none of them waits for ever.
const LEAST: f64 = 0.15;

/// The period for which the kernel grants CPU, unless it was told otherwise.
const PERIOD: f64 = 0.1;

/// What has been measured counts half after this time, in seconds.
const HALF_LIFE: f64 = 4.0;

/// What a poll is believed to cost, in seconds of CPU, and how many polls that were measured outweigh this belief.
const EXPECTED: (f64, f64) = (0.001, 4.0);

/// A bucket of CPU time: it fills at the rate that is left for polls, and each that begins takes out what they have cost of late.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// Cores; `None`: as many polls may begin as want to.
    limit: Option<f64>,
    /// Seconds of CPU in the bucket.
    credit: f64,
    lately: Measured,
}

/// What was measured, all of it in seconds but the count.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    /// For so long.
    pub(super) time: f64,
    /// CPU that polls used.
    pub(super) polls: f64,
    /// CPU that everything else used.
    pub(super) others: f64,
    /// Polls that ended.
    pub(super) ended: f64,
}

impl Pace {
    pub(super) fn new(limit: Option<f64>) -> Self {
        Self { limit, credit: 0.0, lately: Measured::default() }
    }

    /// From now on, so many cores are the limit.
    pub(super) fn limit(&mut self, limit: Option<f64>) {
        self.limit = limit;
    }

    /// What has come to pass since the last time; what was before counts the less, the longer ago it is.
    pub(super) fn measured(&mut self, new: Measured) {
        let left = 0.5_f64.powf(new.time / HALF_LIFE);
        let Measured { time, polls, others, ended } = &mut self.lately;
        *time = *time * left + new.time;
        *polls = *polls * left + new.polls;
        *others = *others * left + new.others;
        *ended = *ended * left + new.ended;
    }

    /// So much time has passed.
    pub(super) fn pass(&mut self, time: Duration) {
        let Some(limit) = self.limit else { return };
        // No more at once than fits into the part of a period that is left free; but always one poll.
        let most = ((1.0 - SHARE) * limit * PERIOD).max(self.cost());
        self.credit = (self.credit + self.rate(limit) * time.as_secs_f64()).min(most);
    }

    /// How long the next poll has to wait; `None`: it begins now, and is paid for.
    pub(super) fn wait(&mut self) -> Option<Duration> {
        let limit = self.limit?;
        let lacks = self.cost() - self.credit;
        if lacks > 0.0 {
            return Some(Duration::try_from_secs_f64(lacks / self.rate(limit)).unwrap_or(Duration::MAX));
        }
        self.credit -= self.cost();
        None
    }

    /// Cores for polls.
    fn rate(&self, limit: f64) -> f64 {
        let Measured { time, others, .. } = self.lately;
        let others = if time > 0.0 { others / time } else { 0.0 };
        (SHARE * limit - others).max(SHARE * limit * LEAST)
    }

    /// What a poll costs, in seconds of CPU.
    fn cost(&self) -> f64 {
        let (expected, weight) = EXPECTED;
        (self.lately.polls + expected * weight) / (self.lately.ended + weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process with so many cores, in which a poll costs so many seconds of CPU and everything else so many cores: polls that begin in the
    /// last of `seconds`, if as many want to as may.
    fn begun(pace: &mut Pace, seconds: u32, cost: f64, others: f64) -> f64 {
        let step = Duration::from_millis(1);
        let mut begun = 0.0;
        for _ in 0..seconds {
            begun = 0.0;
            for _ in 0..1000 {
                pace.pass(step);
                while pace.wait().is_none() {
                    begun += 1.0;
                }
            }
            pace.measured(Measured { time: 1.0, polls: begun * cost, others, ended: begun });
        }
        begun
    }

    #[test]
    fn polls_and_all_else_stay_below_the_limit_whatever_they_cost() {
        for cost in [0.0001, 0.001, 0.01] {
            for others in [0.0, 0.05, 0.1] {
                let used = begun(&mut Pace::new(Some(0.2)), 60, cost, others) * cost + others;
                assert!((0.15..0.19).contains(&used), "{used} cores at {cost} s and {others} cores");
            }
        }
    }

    #[test]
    fn polls_have_their_part_even_if_all_else_takes_more_than_there_is() {
        let used = begun(&mut Pace::new(Some(0.2)), 60, 0.001, 5.0) * 0.001;
        assert!(used > 0.02, "{used} cores");
    }

    #[test]
    fn few_begin_at_once_however_long_none_did() {
        let mut pace = Pace::new(Some(1.0));
        pace.pass(Duration::from_secs(3600));
        let begun = (0..1000).take_while(|_| pace.wait().is_none()).count();
        assert!((10..=15).contains(&begun), "{begun}");
    }

    #[test]
    fn polls_that_cost_nothing_because_their_servers_hang_are_not_held_up() {
        let mut pace = Pace::new(Some(0.2));
        assert!(begun(&mut pace, 30, 0.00001, 0.0) > 10_000.0);
    }

    #[test]
    fn without_a_limit_none_waits_and_a_limit_that_is_lifted_is_felt_at_once() {
        let mut pace = Pace::new(Some(0.01));
        assert!((0..1000).any(|_| pace.wait().is_some()));
        pace.limit(None);
        assert!((0..1000).all(|_| pace.wait().is_none()));
    }
}
