//! The counter that Orion does not have: seconds spent on requests, from the lifetime mean that it reports.
//!
//! T = serviceTime × incomingTransactions is that time, but as a product of a 32-bit float it is noisy: it may fall by some parts
//! in ten million between two polls, which Prometheus would take for a reset and add all of T. So a little is remembered of each series:
//!
//! * Seen in the first good poll: its counter begins at 0, and T is the point it counts from. A new process or replica remembers nothing,
//!   so Prometheus sees a plain reset and no invented increase.
//! * Seen first in a later poll: its counter begins with T. The poll before knew of no such traffic, so T is what was spent since
//!   then, for the same requests as the incomingTransactions that appear with it.
//! * Seen again with no fewer transactions: T counts on from the highest T so far. A fall is noise and never shown.
//! * Seen again with fewer transactions: Orion was reset, and has spent the new T since. All of it is added.
//! * Gone from a good answer: forgotten. What comes back later was reset, and counts as new.
//! * A failed poll changes nothing: what was spent in the meantime is added afterwards, as Prometheus does with Orion's own counters.
//! * Another level (the sample limit was reached, or no longer is): everything begins at 0 again. The series of that level may
//!   have been exported before with other values, and a lifetime T would look like a burst.

use std::borrow::Cow;
use std::collections::HashMap;

use super::Level;

/// Bytes of a series' name, at most: Orion's own take 562. Longer ones are not remembered, so that a broken server cannot fill memory.
pub(super) const MAX_NAME: usize = 1024;

/// What a poll says of T, the time spent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TimeSpent {
    /// Transactions, and the seconds they took.
    Seconds { transactions: f64, seconds: f64 },
    /// Transactions without their time: right after a reset, one is counted a moment before the other.
    Unknown { transactions: f64 },
    /// The document is wrong here.
    Invalid,
}

/// What is remembered of one series.
#[derive(Clone, Copy, Debug, PartialEq)]
struct SeriesState {
    transactions: f64,
    /// The highest T since the last reset.
    seconds: f64,
    /// What is exported is this much above `seconds`: minus the T of the first poll, plus the last T of each reset.
    offset: f64,
}

/// The next state of a series and the value to export; made for every series before it is known which level will be exported.
#[derive(Clone, Copy, Debug)]
pub(super) struct CounterStep(Option<SeriesState>);

impl CounterStep {
    /// Of a series that is not remembered.
    pub(super) const NONE: Self = Self(None);

    /// The counter's value; none where the document is wrong.
    pub(super) fn value(self) -> Option<f64> {
        self.0.map(|state| state.offset + state.seconds)
    }
}

/// The counters of one target.
#[derive(Debug, Default)]
pub(super) struct ServiceTimes {
    /// The level of the last good poll; none before the first.
    level: Option<Level>,
    series: HashMap<Box<str>, (SeriesState, u32)>,
    poll: u32,
}

impl ServiceTimes {
    /// The next state of the series `name` at `level`; nothing is remembered yet.
    pub(super) fn step(&self, level: Level, name: &str, spent: TimeSpent) -> CounterStep {
        let before = if self.level == Some(level) { self.series.get(name) } else { None };
        let (transactions, seconds) = match spent {
            TimeSpent::Seconds { transactions, seconds } => (transactions, Some(seconds)),
            TimeSpent::Unknown { transactions } => (transactions, None),
            TimeSpent::Invalid => return CounterStep(None),
        };
        if name.len() > MAX_NAME {
            return CounterStep(None);
        }
        CounterStep(Some(match before {
            None => {
                let seconds = seconds.unwrap_or(0.0);
                let offset = if self.level == Some(level) { 0.0 } else { -seconds };
                SeriesState { transactions, seconds, offset }
            }
            Some((before, _)) if transactions < before.transactions => SeriesState {
                transactions,
                seconds: seconds.unwrap_or(0.0),
                offset: before.offset + before.seconds,
            },
            Some((before, _)) => SeriesState {
                transactions,
                seconds: seconds.map_or(before.seconds, |seconds| seconds.max(before.seconds)),
                offset: before.offset,
            },
        }))
    }

    /// Remembers a good poll: `level` was exported, with these series and no others.
    pub(super) fn remember<'n>(&mut self, level: Level, series: impl Iterator<Item = (Cow<'n, str>, CounterStep)>) {
        if self.level != Some(level) {
            self.series.clear();
            self.level = Some(level);
        }
        self.poll = self.poll.wrapping_add(1);
        for (name, step) in series {
            match (self.series.get_mut(&*name), step.0) {
                (Some(kept), Some(state)) => *kept = (state, self.poll),
                (Some(kept), None) => kept.1 = self.poll,
                (None, Some(state)) => drop(self.series.insert(name.into_owned().into_boxed_str(), (state, self.poll))),
                (None, None) => {}
            }
        }
        self.series.retain(|_, (_, poll)| *poll == self.poll);
    }

    /// The broker said that it counts nothing: whatever it reports one day will have begun at 0.
    pub(super) fn forget(&mut self) {
        self.series.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A poll of one series at level Subservice; returns what is exported.
    fn poll(times: &mut ServiceTimes, name: &str, spent: TimeSpent) -> Option<f64> {
        poll_at(times, Level::Subservice, name, spent)
    }

    fn poll_at(times: &mut ServiceTimes, level: Level, name: &str, spent: TimeSpent) -> Option<f64> {
        let step = times.step(level, name, spent);
        times.remember(level, std::iter::once((Cow::Borrowed(name), step)));
        step.value()
    }

    fn spent(transactions: f64, seconds: f64) -> TimeSpent {
        TimeSpent::Seconds { transactions, seconds }
    }

    fn started() -> ServiceTimes {
        let mut times = ServiceTimes::default();
        times.remember(Level::Subservice, std::iter::empty());
        times
    }

    #[test]
    fn the_first_poll_is_0_and_increases_follow() {
        let mut times = ServiceTimes::default();
        assert_eq!(poll(&mut times, "a", spent(1000.0, 50.0)), Some(0.0));
        assert_eq!(poll(&mut times, "a", spent(1100.0, 58.0)), Some(8.0));
        assert_eq!(poll(&mut times, "a", spent(1100.0, 58.0)), Some(8.0));
    }

    #[test]
    fn a_fall_without_a_reset_is_noise_and_not_shown() {
        let mut times = ServiceTimes::default();
        poll(&mut times, "a", spent(10.0, 5.0));
        assert_eq!(poll(&mut times, "a", spent(11.0, 5.5)), Some(0.5));
        assert_eq!(poll(&mut times, "a", spent(12.0, 5.25)), Some(0.5));
        assert_eq!(poll(&mut times, "a", spent(13.0, 5.75)), Some(0.75), "the fall is not added a second time");
    }

    #[test]
    fn a_reset_adds_what_was_spent_since() {
        let mut times = ServiceTimes::default();
        poll(&mut times, "a", spent(10.0, 5.0));
        poll(&mut times, "a", spent(20.0, 8.0));
        assert_eq!(poll(&mut times, "a", spent(2.0, 0.5)), Some(3.5));
        assert_eq!(poll(&mut times, "a", spent(3.0, 0.75)), Some(3.75));
    }

    #[test]
    fn a_series_of_a_later_poll_begins_with_what_it_has() {
        let mut times = started();
        assert_eq!(poll(&mut times, "new", spent(4.0, 2.0)), Some(2.0));
        assert_eq!(poll(&mut times, "new", spent(5.0, 3.0)), Some(3.0));
    }

    #[test]
    fn a_vanished_series_is_forgotten() {
        let mut times = started();
        poll(&mut times, "a", spent(100.0, 9.0));
        times.remember(Level::Subservice, std::iter::empty());
        assert!(times.series.is_empty());
        assert_eq!(poll(&mut times, "a", spent(200.0, 0.5)), Some(0.5));
    }

    #[test]
    fn a_time_that_is_late_keeps_the_value_and_comes_later() {
        let mut times = ServiceTimes::default();
        poll(&mut times, "a", spent(10.0, 5.0));
        poll(&mut times, "a", spent(20.0, 6.0));
        assert_eq!(poll(&mut times, "a", TimeSpent::Unknown { transactions: 20.0 }), Some(1.0));
        assert_eq!(poll(&mut times, "a", TimeSpent::Unknown { transactions: 1.0 }), Some(1.0), "reset, its time not known yet");
        assert_eq!(poll(&mut times, "a", spent(2.0, 0.25)), Some(1.25));
    }

    #[test]
    fn a_wrong_document_gives_no_sample_and_harms_no_later_one() {
        let mut times = ServiceTimes::default();
        poll(&mut times, "a", spent(10.0, 5.0));
        assert_eq!(poll(&mut times, "a", TimeSpent::Invalid), None);
        assert_eq!(poll(&mut times, "a", spent(12.0, 6.0)), Some(1.0));
    }

    #[test]
    fn another_level_begins_at_0() {
        let mut times = ServiceTimes::default();
        poll(&mut times, "a", spent(10.0, 5.0));
        assert_eq!(poll_at(&mut times, Level::Service, "a", spent(11.0, 6.0)), Some(0.0));
        assert_eq!(poll_at(&mut times, Level::Service, "a", spent(12.0, 6.5)), Some(0.5));
        assert_eq!(poll(&mut times, "a", spent(13.0, 7.0)), Some(0.0));
    }

    #[test]
    fn a_step_that_is_not_remembered_changes_nothing() {
        let mut times = ServiceTimes::default();
        poll(&mut times, "a", spent(10.0, 5.0));
        times.step(Level::Subservice, "a", spent(1.0, 1.0));
        assert_eq!(poll(&mut times, "a", spent(11.0, 5.5)), Some(0.5));
    }

    #[test]
    fn an_endless_name_is_not_remembered() {
        let mut times = started();
        assert_eq!(poll(&mut times, &"x".repeat(MAX_NAME + 1), spent(1.0, 1.0)), None);
        assert!(times.series.is_empty());
    }
}
