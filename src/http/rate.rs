//! `rate_limit` of exporter-toolkit: a bucket for all requests together.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// The block as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RateBlock {
    interval: String,
    burst: u32,
}

/// A bucket that holds `burst` requests and gains one each `interval`.
#[derive(Debug)]
pub(super) struct RateLimit {
    interval: Duration,
    burst: u32,
    /// When the bucket would be empty if no request came from then on: it fills from there.
    empty_at: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// `None` for an interval of 0: no limit.
    pub(super) fn new(block: &RateBlock) -> Result<Option<Self>, String> {
        let interval = go_duration(&block.interval)
            .ok_or_else(|| format!("rate_limit.interval {:?} is no duration such as 100ms or 1s", block.interval))?;
        if interval.is_zero() {
            return Ok(None);
        }
        if block.burst == 0 {
            return Err("rate_limit.burst must be at least 1, or nothing would ever be answered".to_owned());
        }
        Ok(Some(Self { interval, burst: block.burst, empty_at: Mutex::new(None) }))
    }

    pub(super) fn allows(&self, now: Instant) -> bool {
        let mut empty_at = self.empty_at.lock().unwrap_or_else(PoisonError::into_inner);
        let full = now.checked_sub(self.interval.saturating_mul(self.burst)).unwrap_or(now);
        let level = empty_at.unwrap_or(full).max(full) + self.interval;
        let allowed = level <= now;
        if allowed {
            *empty_at = Some(level);
        }
        allowed
    }
}

/// A duration as Go writes it, in whole units: `1m30s`, `100ms`; the empty text is 0.
fn go_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest == "0" {
        return Some(total);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let number: u64 = number.parse().ok()?;
        total = total.checked_add(match unit {
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        })?;
        rest = after;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{RateBlock, RateLimit, go_duration};

    #[test]
    fn durations_of_go_are_read() {
        assert_eq!(go_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(go_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(go_duration(""), Some(Duration::ZERO));
        for bad in ["5", "s", "1x", "-1s", "99999999999999999999s"] {
            assert_eq!(go_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_one_each_interval() {
        let block = RateBlock { interval: "1s".to_owned(), burst: 2 };
        let rate = RateLimit::new(&block).unwrap().unwrap();
        let start = Instant::now() + Duration::from_mins(1);
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(
            [0, 0, 0, 900, 1000, 1000, 9000, 9000, 9000].map(|ms| rate.allows(at(ms))),
            [true, true, false, false, true, false, true, true, false]
        );
    }
}
