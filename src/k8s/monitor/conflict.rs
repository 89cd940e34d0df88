//! Conflicts with another field manager: somebody else changes or deletes a monitor each time we have written it. Writing it again at once
//! would go on for ever, so each time the delay grows.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::desired::MonitorRef;
use crate::backoff::exponential;

/// The longest delay before a monitor is written again.
const LONGEST: Duration = Duration::from_mins(1);

/// A conflict without a write for this long has ended.
const ENDED_AFTER: Duration = Duration::from_mins(5);

/// After this many rounds it is no accident, and is reported.
const LASTING: u32 = 3;

/// Our recent writes.
#[derive(Debug, Default)]
pub(super) struct FieldConflicts {
    monitors: HashMap<MonitorRef, WriteHistory>,
}

#[derive(Debug)]
struct WriteHistory {
    /// The hash of the desired monitor that was written.
    desired: u64,
    /// How often it was written again.
    rounds: u32,
    last: Instant,
}

impl FieldConflicts {
    /// `desired` was written. Writing the same again is a round of a conflict.
    pub(super) fn wrote(&mut self, monitor: &MonitorRef, desired: u64) {
        let now = Instant::now();
        let rounds = match self.monitors.get(monitor) {
            Some(before) if before.desired == desired && now.duration_since(before.last) < ENDED_AFTER => {
                before.rounds + 1
            }
            _ => 0,
        };
        self.monitors.insert(monitor.clone(), WriteHistory { desired, rounds, last: now });
    }

    /// When `desired` may be written again; `None`: now. The first change of somebody else is reverted at once.
    pub(super) fn retry_at(&self, monitor: &MonitorRef, desired: u64) -> Option<Instant> {
        let conflict =
            self.monitors.get(monitor).filter(|conflict| conflict.desired == desired && conflict.rounds > 0)?;
        let delay = exponential(Duration::from_secs(1), LONGEST, conflict.rounds);
        Some(conflict.last + delay).filter(|retry_at| *retry_at > Instant::now())
    }

    /// Whether there were enough rounds about `desired` for the conflict to be reported.
    pub(super) fn is_lasting(&self, monitor: &MonitorRef, desired: u64) -> bool {
        self.monitors.get(monitor).is_some_and(|conflict| conflict.desired == desired && conflict.rounds >= LASTING)
    }

    /// The monitor is not desired any more, so that writing it again later is no conflict.
    pub(super) fn forget(&mut self, monitor: &MonitorRef) {
        self.monitors.remove(monitor);
    }

    pub(super) fn remove_ended(&mut self) {
        let now = Instant::now();
        self.monitors.retain(|_, conflict| now.duration_since(conflict.last) < ENDED_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor() -> MonitorRef {
        MonitorRef { namespace: "a".into(), name: "b".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_change_of_somebody_else_is_reverted_at_once_and_further_ones_after_growing_delays() {
        let mut conflicts = FieldConflicts::default();
        conflicts.wrote(&monitor(), 7);
        assert_eq!(conflicts.retry_at(&monitor(), 7), None);
        let mut delays = Vec::new();
        for _ in 0..7 {
            conflicts.wrote(&monitor(), 7);
            let retry_at = conflicts.retry_at(&monitor(), 7).unwrap();
            delays.push((retry_at - Instant::now()).as_secs());
            tokio::time::sleep_until(retry_at).await;
            assert_eq!(conflicts.retry_at(&monitor(), 7), None);
        }
        assert_eq!(delays, [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(conflicts.retry_at(&monitor(), 8), None, "what the user changes is written at once");
        tokio::time::sleep(ENDED_AFTER).await;
        conflicts.wrote(&monitor(), 7);
        assert_eq!(conflicts.retry_at(&monitor(), 7), None, "the conflict had ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_conflict_is_lasting_after_some_rounds_and_until_it_has_ended() {
        let mut conflicts = FieldConflicts::default();
        for _ in 0..3 {
            conflicts.wrote(&monitor(), 7);
            assert!(!conflicts.is_lasting(&monitor(), 7));
        }
        conflicts.wrote(&monitor(), 7);
        assert!(conflicts.is_lasting(&monitor(), 7) && !conflicts.is_lasting(&monitor(), 8));
        tokio::time::sleep(ENDED_AFTER).await;
        conflicts.remove_ended();
        assert!(!conflicts.is_lasting(&monitor(), 7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_who_enables_and_disables_the_monitor_five_times_has_no_conflict_with_us() {
        let mut conflicts = FieldConflicts::default();
        for _ in 0..5 {
            assert_eq!(conflicts.retry_at(&monitor(), 7), None);
            conflicts.wrote(&monitor(), 7);
            conflicts.forget(&monitor());
        }
    }
}
