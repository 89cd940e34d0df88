//! The round-trip times of one probe.

use std::time::Duration;

/// The times of the requests that were answered.
#[derive(Clone, Debug, Default)]
pub(super) struct RoundTrips(Vec<Duration>);

impl RoundTrips {
    pub(super) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(super) const fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn longest(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    pub(super) fn average(&self) -> Duration {
        let count = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.iter().sum::<Duration>().checked_div(count).unwrap_or_default()
    }

    /// The least, the average, the greatest and the standard deviation, in seconds.
    pub(super) fn stats(&self) -> [(&'static str, f64); 4] {
        let least = self.0.iter().min().copied().unwrap_or_default();
        let average = self.average().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "at most 10")]
        let count = self.0.len().max(1) as f64;
        let variance = self.0.iter().map(|time| (time.as_secs_f64() - average).powi(2)).sum::<f64>() / count;
        [
            ("min", least.as_secs_f64()),
            ("avg", average),
            ("max", self.longest().as_secs_f64()),
            ("stddev", variance.sqrt()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_known_times() {
        let mut times = RoundTrips::default();
        assert_eq!(times.stats().map(|(_, value)| value), [0.0; 4]);
        for millis in [20, 40, 60] {
            times.add(Duration::from_millis(millis));
        }
        let [min, avg, max, deviation] = times.stats().map(|(_, value)| value);
        assert_eq!((min, avg, max), (0.02, 0.04, 0.06));
        assert!((deviation - 0.016_329_931).abs() < 1e-9, "{deviation}");
    }
}
