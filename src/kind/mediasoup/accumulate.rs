//! Counters that never decrease, from the counters of streams and transports, which disappear with them.
//!
//! A sum over live objects drops whenever one closes, and Prometheus would read that as a restart. So the increase of each object between
//! two polls is added up. Only a hash and the last values of an object are kept, since there may be many.

use std::collections::BTreeMap;

use crate::kind::Number;

/// Most pairs of labels that totals are kept for; a server can name codecs as it likes, and totals stay until the end.
const MAX_TOTALS: usize = 64;
/// Most objects of one sort that are remembered, 100 bytes each; a server may have new ones at every poll. A large application has some
/// thousands.
const MAX_OBJECTS: usize = 50_000;
/// How many polls an object may be missing, because its statistics failed, before it is forgotten.
const MAX_MISSED: u8 = 3;

/// How a total follows its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrowthRule {
    /// A smaller value is a new counter that began at 0.
    Counter,
    /// A smaller value is a correction: an estimate that went too high adds nothing.
    Estimate,
}

#[derive(Clone, Debug)]
struct TrackedObject<const N: usize> {
    key: u64,
    last: [f64; N],
    missed: u8,
}

/// The last values of each object, in the order of their keys: nothing is smaller, and a poll looks each up once.
#[derive(Clone, Debug, Default)]
pub(super) struct LastValues<const N: usize> {
    entries: Box<[TrackedObject<N>]>,
    /// Whether the last poll had more objects than are remembered: one that is new now may have been there before.
    overflowed: bool,
}

impl<const N: usize> LastValues<N> {
    /// Begins to take the values of one poll.
    pub(super) fn begin_poll(&mut self) -> PollValues<'_, N> {
        PollValues { next: Vec::with_capacity(self.entries.len()), overflows: false, last: self }
    }

    /// Whether every object of the last poll is remembered.
    pub(super) fn is_complete(&self) -> bool {
        !self.overflowed
    }

    /// Forgets every object.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The values of one poll; objects that are missing in it are forgotten after some polls.
#[derive(Debug)]
pub(super) struct PollValues<'l, const N: usize> {
    last: &'l mut LastValues<N>,
    next: Vec<TrackedObject<N>>,
    overflows: bool,
}

impl<const N: usize> PollValues<'_, N> {
    /// How far the counters of an object grew. One that is new grew by all it has if `newcomer_counts`, else by nothing.
    pub(super) fn growth(
        &mut self,
        key: u64,
        values: [Number; N],
        rules: [GrowthRule; N],
        newcomer_counts: bool,
    ) -> [f64; N] {
        if self.next.len() >= MAX_OBJECTS {
            self.overflows = true;
            return [0.0; N];
        }
        let known = self.last.entries.binary_search_by_key(&key, |entry| entry.key).ok();
        let old = known.and_then(|at| self.last.entries.get_mut(at));
        let before = old.as_ref().map(|entry| entry.last);
        if let Some(old) = old {
            old.missed = u8::MAX; // seen in this poll: its old values are not kept
        }
        let mut latest = before.unwrap_or([0.0; N]);
        let mut growth = [0.0; N];
        for (((value, rule), last), growth) in values.iter().zip(rules).zip(&mut latest).zip(&mut growth) {
            let Some(value) = value.value() else { continue };
            *growth = match rule {
                _ if before.is_none() && !newcomer_counts => 0.0,
                _ if value >= *last => value - *last,
                GrowthRule::Counter => value,
                GrowthRule::Estimate => 0.0,
            };
            *last = value;
        }
        self.next.push(TrackedObject { key, last: latest, missed: 0 });
        growth
    }

    /// Ends the poll.
    pub(super) fn finish(mut self) {
        let room = MAX_OBJECTS.saturating_sub(self.next.len());
        let missing = self.last.entries.iter().filter(|entry| entry.missed < MAX_MISSED).take(room);
        self.next.extend(missing.map(|entry| TrackedObject { missed: entry.missed + 1, ..entry.clone() }));
        self.next.sort_unstable_by_key(|entry| entry.key);
        self.last.entries = self.next.into_boxed_slice();
        self.last.overflowed = self.overflows;
    }
}

/// Totals by a pair of labels.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals<const N: usize>(BTreeMap<(Box<str>, Box<str>), TotalGrowth<N>>);

/// Totals that increase together.
#[derive(Clone, Copy, Debug)]
pub(super) struct TotalGrowth<const N: usize> {
    sums: [f64; N],
    reported: [bool; N],
}

impl<const N: usize> Totals<N> {
    /// Adds the increase of one object; `values` say which counters the object has.
    pub(super) fn add(&mut self, labels: (&str, &str), values: &[Number; N], growth: &[f64; N]) {
        let full = self.0.len() >= MAX_TOTALS;
        let mut key: (Box<str>, Box<str>) = (labels.0.into(), labels.1.into());
        if full && !self.0.contains_key(&key) {
            key = ("other".into(), "other".into());
        }
        let total = self.0.entry(key).or_insert(TotalGrowth { sums: [0.0; N], reported: [false; N] });
        for (i, (sum, reported)) in total.sums.iter_mut().zip(&mut total.reported).enumerate() {
            *sum += growth.get(i).copied().unwrap_or_default();
            *reported |= values.get(i).is_some_and(|value| value.value().is_some());
        }
    }

    /// Each pair of labels with its totals; a counter that no object ever had is `None`.
    pub(super) fn iter(&self) -> impl Iterator<Item = ((&str, &str), [Option<f64>; N])> {
        self.0.iter().map(|((a, b), total)| {
            let mut sums = [None; N];
            for (shown, (sum, reported)) in sums.iter_mut().zip(total.sums.iter().zip(total.reported)) {
                *shown = reported.then_some(*sum);
            }
            ((&**a, &**b), sums)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use GrowthRule::{Counter, Estimate};

    const BOTH: [GrowthRule; 2] = [Counter, Estimate];

    fn poll(values: &mut LastValues<2>, newcomer_counts: bool, objects: &[(u64, f64, f64)]) -> Vec<[f64; 2]> {
        let mut poll = values.begin_poll();
        let growth = objects
            .iter()
            .map(|&(key, a, b)| poll.growth(key, [Number::Value(a), Number::Value(b)], BOTH, newcomer_counts))
            .collect();
        poll.finish();
        growth
    }

    #[test]
    fn an_object_counts_from_where_it_was_first_seen_or_from_nothing() {
        let mut values = LastValues::default();
        assert_eq!(poll(&mut values, false, &[(1, 100.0, 3.0)]), [[0.0, 0.0]]);
        assert_eq!(poll(&mut values, true, &[(2, 7.0, 1.0), (1, 150.0, 4.0)]), [[7.0, 1.0], [50.0, 1.0]]);
        assert_eq!(poll(&mut values, true, &[(1, 150.0, 4.0), (2, 8.0, 1.0)]), [[0.0, 0.0], [1.0, 0.0]]);
    }

    #[test]
    fn a_counter_that_falls_began_anew_and_an_estimate_that_falls_was_corrected() {
        let mut values = LastValues::default();
        poll(&mut values, false, &[(1, 100.0, 10.0)]);
        assert_eq!(poll(&mut values, false, &[(1, 30.0, 8.0)]), [[30.0, 0.0]]);
        assert_eq!(poll(&mut values, false, &[(1, 31.0, 9.0)]), [[1.0, 1.0]]);
    }

    #[test]
    fn an_object_that_is_missing_for_a_moment_goes_on_where_it_was() {
        let mut values = LastValues::default();
        poll(&mut values, false, &[(1, 100.0, 0.0), (2, 5.0, 0.0)]);
        for _ in 0..3 {
            poll(&mut values, true, &[(2, 5.0, 0.0)]);
        }
        assert_eq!(poll(&mut values, true, &[(1, 101.0, 0.0), (2, 5.0, 0.0)]), [[1.0, 0.0], [0.0, 0.0]]);
    }

    #[test]
    fn an_object_that_stays_away_is_forgotten() {
        let mut values = LastValues::default();
        poll(&mut values, false, &[(1, 100.0, 0.0)]);
        for _ in 0..4 {
            poll(&mut values, true, &[]);
        }
        assert!(values.entries.is_empty());
    }

    #[test]
    fn of_too_many_objects_some_are_remembered_and_the_others_add_nothing() {
        let mut values = LastValues::default();
        let objects = |value: f64| (0..2 * MAX_OBJECTS as u64).map(|key| (key, value, 0.0)).collect::<Vec<_>>();
        poll(&mut values, false, &objects(1.0));
        assert!(values.entries.len() == MAX_OBJECTS && !values.is_complete());
        let complete = values.is_complete();
        let growth: f64 = poll(&mut values, complete, &objects(2.0)).iter().map(|[a, _]| a).sum();
        assert_eq!(growth, 50_000.0);
        for start in 1..4 {
            let others: Vec<_> = (0..40_000).map(|key| (start * 1_000_000 + key, 1.0, 0.0)).collect();
            poll(&mut values, false, &others);
            assert!(values.entries.len() <= MAX_OBJECTS && values.is_complete());
        }
    }

    #[test]
    fn totals_show_what_was_reported_and_stay_few() {
        let mut totals = Totals::<2>::default();
        totals.add(("video", "VP8"), &[Number::Value(4.0), Number::Absent], &[4.0, 0.0]);
        totals.add(("video", "VP8"), &[Number::Value(5.0), Number::Absent], &[1.0, 0.0]);
        assert_eq!(totals.iter().collect::<Vec<_>>(), [(("video", "VP8"), [Some(5.0), None])]);
        for i in 0..1000 {
            totals.add(("video", &i.to_string()), &[Number::Value(1.0); 2], &[1.0; 2]);
        }
        assert_eq!(totals.iter().count(), MAX_TOTALS + 1);
        let other = totals.iter().find(|(labels, _)| *labels == ("other", "other")).unwrap().1[0];
        assert_eq!(other, Some(1000.0 - 63.0));
    }
}
