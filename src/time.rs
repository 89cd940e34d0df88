//! Durations and timestamps as text, in manifests, flags, statuses and responses.

use std::fmt::{self, Write as _};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration that is written as Prometheus writes it: `15s`, `1m30s`, `500ms`.
///
/// Stricter than Go's format: whole numbers, the units h, m, s and ms in this order, each at most once. CEL's `duration()` and the CRD of
/// ServiceMonitor accept all of these and read them in the same way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PromDuration(Duration);

/// What the text of a duration must match, and it must not be empty.
pub(crate) const DURATION_PATTERN: &str = "^(0s|([0-9]{1,4}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?([0-9]{1,8}ms)?)$";

/// The longest text of a duration, in characters.
pub(crate) const MAX_LENGTH: usize = 16;

/// Units in the order in which they must appear: text, milliseconds, most digits.
const UNITS: [(&str, u64, usize); 4] = [("h", 3_600_000, 4), ("m", 60_000, 5), ("s", 1_000, 6), ("ms", 1, 8)];

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration, write for instance 15s, 1m30s or 500ms")]
pub struct DurationError(String);

impl PromDuration {
    /// A number of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The duration as the standard library has it.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for PromDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<PromDuration> for Duration {
    fn from(duration: PromDuration) -> Self {
        duration.0
    }
}

impl FromStr for PromDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let error = || DurationError(text.to_owned());
        let mut rest = text;
        let mut millis = 0;
        for (unit, worth, most) in UNITS {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            // `5ms` must not be read as five minutes and an `s`.
            let follows = tail.strip_prefix(unit).filter(|tail| unit != "m" || !tail.starts_with('s'));
            if let Some(tail) = follows {
                if digits == 0 || digits > most {
                    return Err(error());
                }
                millis += number.parse::<u64>().map_err(|_| error())? * worth;
                rest = tail;
            }
        }
        if text.is_empty() || !rest.is_empty() {
            return Err(error());
        }
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for PromDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 {
            return f.write_str("0s");
        }
        let mut text = String::new();
        for (unit, worth, _) in UNITS {
            if millis >= worth {
                write!(text, "{}{unit}", millis / worth)?;
                millis %= worth;
            }
        }
        f.pad(&text)
    }
}

impl fmt::Debug for PromDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PromDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PromDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for PromDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    // The pattern is a CEL rule and not a `pattern`, because only a rule can have its own message.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": MAX_LENGTH })
    }
}

/// `2026-11-21T06:53:01Z`: whole seconds, as `metav1.Time` has them.
pub fn rfc3339(at: SystemTime) -> String {
    utc(at, "%Y-%m-%dT%H:%M:%SZ")
}

/// `2026-11-21T06:53:01.123Z`.
pub fn rfc3339_millis(at: SystemTime) -> String {
    utc(at, "%Y-%m-%dT%H:%M:%S.%3fZ")
}

/// A timestamp in UTC, in a format of `strftime`.
pub fn utc(at: SystemTime, format: &str) -> String {
    // A time outside jiff's range, the years -9999 to 9999, comes from a wrong clock: it becomes 1970.
    Timestamp::try_from(at).unwrap_or_default().to_zoned(TimeZone::UTC).strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_add_up() {
        let read = |text: &str| text.parse::<PromDuration>().unwrap().get().as_millis();
        assert_eq!(read("1h2m3s4ms"), 3_723_004);
        assert_eq!(read("90m"), 5_400_000);
        assert_eq!(read("5ms"), 5);
        assert_eq!(read("2m5ms"), 120_005);
        assert_eq!(read("0s"), 0);
    }

    #[test]
    fn a_duration_is_written_as_prometheus_reads_it() {
        for (milliseconds, text) in
            [(15_000, "15s"), (90_000, "1m30s"), (500, "500ms"), (3_600_000, "1h"), (0, "0s"), (3_661_001, "1h1m1s1ms")]
        {
            assert_eq!(PromDuration(Duration::from_millis(milliseconds)).to_string(), text);
        }
    }

    #[test]
    fn times_are_utc_in_seconds_or_milliseconds() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_780_000_000_123);
        assert_eq!(rfc3339(at), "2026-05-28T20:26:40Z");
        assert_eq!(rfc3339_millis(at), "2026-05-28T20:26:40.123Z");
    }

    proptest! {
        #[test]
        fn what_the_pattern_matches_is_what_is_read(text in "([0-9]{0,9}(h|m|s|ms|d|us|)){0,5}|[ -~]{0,6}") {
            let matches = !text.is_empty() && regex::Regex::new(DURATION_PATTERN).unwrap().is_match(&text);
            prop_assert_eq!(text.parse::<PromDuration>().is_ok(), matches);
        }

        #[test]
        fn writing_and_reading_gives_the_same_span(millis in 0_u64..9_999 * 3_600_000) {
            let span = PromDuration(Duration::from_millis(millis));
            prop_assert_eq!(span.to_string().parse::<PromDuration>().unwrap(), span);
        }
    }
}
