//! `rate_limit` of exporter-toolkit: one token bucket for all requests.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::fields::ConfigFields;

/// The block of the file.
#[derive(Debug, Default)]
pub(super) struct RateLimitConfig {
    interval: String,
    burst: u32,
}

impl RateLimitConfig {
    pub(super) fn read(mut block: ConfigFields<'_>) -> Result<Self, String> {
        let interval = block.text("interval")?.unwrap_or_default();
        let burst = block.count("burst")?.unwrap_or_default();
        block.close()?;
        Ok(Self { interval, burst })
    }
}

/// A bucket that holds `burst` tokens and gains one each `interval`; a request takes one.
#[derive(Debug)]
pub(super) struct RequestRateLimiter {
    interval: Duration,
    burst: u32,
    /// The time at which the bucket counts as empty; its tokens are the intervals that have passed since.
    empty_at: Mutex<Option<Instant>>,
}

impl RequestRateLimiter {
    /// `None` for an interval of 0: no limit.
    pub(super) fn new(block: &RateLimitConfig) -> Result<Option<Self>, String> {
        let interval = go_duration(&block.interval).ok_or_else(|| {
            format!("rate_limit.interval {:?} is not a duration such as 500us, 100ms or 0.5s", block.interval)
        })?;
        if interval.is_zero() {
            return Ok(None);
        }
        if block.burst == 0 {
            return Err("rate_limit.burst must be at least 1, otherwise no request would be answered".to_owned());
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

/// Parses a duration as Go does: `1m30s`, `0.5s`, `500us`; the empty text is 0.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    rest = rest.strip_prefix('+').unwrap_or(rest);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let unit: u128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let number =
            |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u64>().ok().map(u128::from) };
        let fraction = fraction.get(..MAX_FRACTION_DIGITS.min(fraction.len()))?;
        let parts = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        nanoseconds += number(whole)? * unit + number(fraction)? * unit / parts;
        rest = after;
    }
    u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
}

/// Digits after the point that can matter: so many digits has an hour in nanoseconds.
const MAX_FRACTION_DIGITS: usize = 13;

/// Splits off the digits that a text begins with.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{RateLimitConfig, RequestRateLimiter, go_duration};

    #[test]
    fn durations_are_parsed_as_in_go() {
        assert_eq!(go_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(go_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(go_duration(""), Some(Duration::ZERO));
        assert_eq!(go_duration("0.5s"), Some(Duration::from_millis(500)));
        assert_eq!(go_duration("500us"), Some(Duration::from_micros(500)));
        assert_eq!(go_duration("1.5h.5m2\u{b5}s7ns"), Some(Duration::new(5430, 2007)));
        assert_eq!(go_duration("+1.s"), Some(Duration::from_secs(1)));
        assert_eq!(go_duration("0.00000000000000000001h"), Some(Duration::ZERO));
        for bad in ["5", "s", "1x", "-1s", "99999999999999999999s", ".s", ".", "1.2.3s", "1 s", "99999999999h"] {
            assert_eq!(go_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_one_each_interval() {
        let block = RateLimitConfig { interval: "1s".to_owned(), burst: 2 };
        let limiter = RequestRateLimiter::new(&block).unwrap().unwrap();
        let start = Instant::now() + Duration::from_mins(1);
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(
            [0, 0, 0, 900, 1000, 1000, 9000, 9000, 9000].map(|ms| limiter.allows(at(ms))),
            [true, true, false, false, true, false, true, true, false]
        );
    }
}
