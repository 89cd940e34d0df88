//! Whether polls begin late because there are more than the CPU carries, and what is said of it: a line when it begins and one when it ends.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// From here a poll is late: at which the alert `ScrapeTargetPollsLate` fires, too.
const LATE: Duration = Duration::from_secs(1);

/// Up to here it is in time.
const IN_TIME: Duration = Duration::from_millis(250);

/// For so long polls must have been late before it is told: a start, or a moment of somebody else's, is no news.
const TELL: Duration = Duration::from_secs(5);

/// For so long they must have been in time before it is over: else a limit that just suffices would bring lines without end.
const OVER: Duration = Duration::from_secs(15);

/// Polls begin late.
#[derive(Clone, Debug)]
pub struct Late {
    /// Since when.
    pub since: SystemTime,
    /// By how much the last one did.
    pub by: Duration,
    /// How many are due and wait.
    pub waiting: usize,
    /// How many cores the process may use, where that is limited.
    pub cores: Option<f64>,
}

#[derive(Debug, Default)]
pub(super) struct Lateness {
    /// Since when some begin late.
    since: Option<(Instant, SystemTime)>,
    /// When one last began not in time.
    last: Option<Instant>,
    by: Duration,
    cores: Option<f64>,
    most: Duration,
    told: bool,
}

impl Lateness {
    /// A poll has begun, `by` after its time, while `waiting` others wait.
    pub(super) fn begun(&mut self, by: Duration, waiting: usize, cores: Option<f64>) {
        let now = Instant::now();
        (self.by, self.cores) = (by, cores);
        if by > IN_TIME {
            self.last = Some(now);
        }
        if by > LATE {
            let (since, _) = *self.since.get_or_insert_with(|| (now, SystemTime::now()));
            self.most = self.most.max(by);
            if !self.told && now - since >= TELL {
                self.told = true;
                let cores = cores.map_or_else(|| "none".to_owned(), |cores| format!("{cores:.3}"));
                tracing::warn!(late = ?whole(by), waiting, cpu_limit = cores, "polls begin late: there is more to poll than the CPU carries");
            }
        }
        self.end(now);
    }

    /// No poll waits.
    pub(super) fn idle(&mut self) {
        self.end(Instant::now());
    }

    fn end(&mut self, now: Instant) {
        let Some((since, _)) = self.since else { return };
        // What has not been told yet is forgotten sooner.
        let long = if self.told { OVER } else { LATE };
        if self.last.is_some_and(|last| now - last < long) {
            return;
        }
        if self.told {
            tracing::info!(after = ?whole(now - since), most = ?whole(self.most), "polls begin in time again");
        }
        *self = Self::default();
    }

    /// What is told of it on pages, from the same moment on as in the log.
    pub(super) fn late(&self) -> Option<Late> {
        let (_, since) = self.since.filter(|_| self.told)?;
        Some(Late { since, by: self.by, waiting: 0, cores: self.cores })
    }
}

fn whole(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn polls(lateness: &mut Lateness, seconds: u32, by: Duration) {
        for _ in 0..seconds * 10 {
            tokio::time::advance(Duration::from_millis(100)).await;
            lateness.begun(by, 7, Some(0.2));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn polls_are_late_from_the_fifth_second_until_they_have_been_in_time_for_a_while() {
        let mut lateness = Lateness::default();
        polls(&mut lateness, 4, Duration::from_secs(3)).await;
        assert!(lateness.late().is_none());
        polls(&mut lateness, 2, Duration::from_secs(4)).await;
        assert_eq!(lateness.late().unwrap().by, Duration::from_secs(4));
        polls(&mut lateness, 10, Duration::from_millis(1)).await;
        polls(&mut lateness, 1, Duration::from_millis(500)).await;
        polls(&mut lateness, 10, Duration::from_millis(1)).await;
        assert!(lateness.late().is_some(), "it just suffices");
        polls(&mut lateness, 6, Duration::from_millis(1)).await;
        assert!(lateness.late().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_is_no_news_and_neither_is_one_now_and_then() {
        let mut lateness = Lateness::default();
        for _ in 0..10 {
            polls(&mut lateness, 1, Duration::from_secs(2)).await;
            polls(&mut lateness, 3, Duration::from_millis(1)).await;
            assert!(lateness.late().is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_over_as_well_when_there_is_nothing_left_to_poll() {
        let mut lateness = Lateness::default();
        polls(&mut lateness, 6, Duration::from_secs(3)).await;
        assert!(lateness.late().is_some());
        tokio::time::advance(OVER).await;
        lateness.idle();
        assert!(lateness.late().is_none());
    }
}
