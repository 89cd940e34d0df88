//! Detects that polls are delayed because there are more than the CPU can handle. Logs one line when that begins, and one when it ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A poll that begins later than this is delayed. The alert `ScrapeTargetPollsLate` uses the same threshold.
const DELAYED: Duration = Duration::from_secs(1);

/// A poll that begins within this is on time.
const ON_TIME: Duration = Duration::from_millis(250);

/// Delays are reported when they have lasted this long: a start of the process, or a short burst, is not worth a warning.
const REPORT_AFTER: Duration = Duration::from_secs(5);

/// Delays are over when polls have been on time for this long: a CPU limit that is just sufficient must not cause endless log lines.
const OVER_AFTER: Duration = Duration::from_secs(15);

/// Polls that are delayed.
#[derive(Clone, Debug)]
pub struct PollDelay {
    /// Since when.
    pub since: SystemTime,
    /// How late the last one began.
    pub by: Duration,
    /// How many are due and wait.
    pub waiting: usize,
    /// How many cores the process may use, where that is limited.
    pub cores: Option<f64>,
}

/// Delays, as shared by all polling threads.
#[derive(Debug, Default)]
pub(super) struct SharedDelays {
    pub(super) monitor: Mutex<DelayMonitor>,
    /// Polls that are due and wait.
    pub(super) waiting: AtomicUsize,
}

impl SharedDelays {
    /// The delay for the status page; `None` if polls are on time.
    pub(super) fn current(&self) -> Option<PollDelay> {
        let delay = self.monitor.lock().unwrap_or_else(PoisonError::into_inner).current()?;
        Some(PollDelay { waiting: self.waiting.load(Ordering::Relaxed), ..delay })
    }
}

#[derive(Debug, Default)]
pub(super) struct DelayMonitor {
    /// Since when polls have been delayed.
    since: Option<(Instant, SystemTime)>,
    /// When the last delayed poll began.
    last_delayed: Option<Instant>,
    by: Duration,
    cores: Option<f64>,
    max: Duration,
    is_reported: bool,
}

impl DelayMonitor {
    /// Notes that a poll began, `by` after its time, while `waiting` others wait.
    pub(super) fn on_begin(&mut self, by: Duration, waiting: usize, cores: Option<f64>) {
        let now = Instant::now();
        (self.by, self.cores) = (by, cores);
        if by > ON_TIME {
            self.last_delayed = Some(now);
        }
        if by > DELAYED {
            let (since, _) = *self.since.get_or_insert_with(|| (now, SystemTime::now()));
            self.max = self.max.max(by);
            if !self.is_reported && now - since >= REPORT_AFTER {
                self.is_reported = true;
                let cores = cores.map_or_else(|| "none".to_owned(), |cores| format!("{cores:.3}"));
                tracing::warn!(late = ?in_milliseconds(by), waiting, cpu_limit = cores, "polls start late: there is more to poll than \
                     the CPU can handle");
            }
        }
        self.end_if_over(now);
    }

    /// Notes that no poll waits.
    pub(super) fn on_idle(&mut self) {
        self.end_if_over(Instant::now());
    }

    fn end_if_over(&mut self, now: Instant) {
        let Some((since, _)) = self.since else { return };
        // A delay that was not reported is forgotten sooner.
        let quiet = if self.is_reported { OVER_AFTER } else { DELAYED };
        if self.last_delayed.is_some_and(|last| now - last < quiet) {
            return;
        }
        if self.is_reported {
            tracing::info!(after = ?in_milliseconds(now - since), most = ?in_milliseconds(self.max), "polls start on time again");
        }
        *self = Self::default();
    }

    /// The delay for the status page, from the moment on at which it is logged.
    pub(super) fn current(&self) -> Option<PollDelay> {
        let (_, since) = self.since.filter(|_| self.is_reported)?;
        Some(PollDelay { since, by: self.by, waiting: 0, cores: self.cores })
    }
}

fn in_milliseconds(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn polls(delays: &mut DelayMonitor, seconds: u32, by: Duration) {
        for _ in 0..seconds * 10 {
            tokio::time::advance(Duration::from_millis(100)).await;
            delays.on_begin(by, 7, Some(0.2));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn polls_are_late_from_the_fifth_second_until_they_have_been_in_time_for_a_while() {
        let mut delays = DelayMonitor::default();
        polls(&mut delays, 4, Duration::from_secs(3)).await;
        assert!(delays.current().is_none());
        polls(&mut delays, 2, Duration::from_secs(4)).await;
        assert_eq!(delays.current().unwrap().by, Duration::from_secs(4));
        polls(&mut delays, 10, Duration::from_millis(1)).await;
        polls(&mut delays, 1, Duration::from_millis(500)).await;
        polls(&mut delays, 10, Duration::from_millis(1)).await;
        assert!(delays.current().is_some(), "it just suffices");
        polls(&mut delays, 6, Duration::from_millis(1)).await;
        assert!(delays.current().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_is_no_news_and_neither_is_one_now_and_then() {
        let mut delays = DelayMonitor::default();
        for _ in 0..10 {
            polls(&mut delays, 1, Duration::from_secs(2)).await;
            polls(&mut delays, 3, Duration::from_millis(1)).await;
            assert!(delays.current().is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_over_as_well_when_there_is_nothing_left_to_poll() {
        let mut delays = DelayMonitor::default();
        polls(&mut delays, 6, Duration::from_secs(3)).await;
        assert!(delays.current().is_some());
        tokio::time::advance(OVER_AFTER).await;
        delays.on_idle();
        assert!(delays.current().is_none());
    }
}
