//! The text of a duration, as a user writes it: `15s`, `1m30s`, `500ms`.
//!
//! Narrower than Go's: whole numbers, the units h, m, s and ms in this order, each at most once. Both CEL's `duration()` and the
//! ServiceMonitor CRD read all of these alike.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A time span that reads and writes itself as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

/// What a duration must match; it must besides not be empty.
pub(crate) const PATTERN: &str = "^(0s|([0-9]{1,4}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?([0-9]{1,8}ms)?)$";

/// The longest text of a duration, in characters.
pub(crate) const MAX_LENGTH: usize = 16;

/// Units in the order in which they must appear: text, milliseconds, most digits.
const UNITS: [(&str, u64, usize); 4] = [("h", 3_600_000, 4), ("m", 60_000, 5), ("s", 1_000, 6), ("ms", 1, 8)];

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no duration, write for instance 15s, 1m30s or 500ms")]
pub struct DurationError(String);

impl Duration {
    /// A number of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// The span as the standard library has it.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl From<std::time::Duration> for Duration {
    fn from(span: std::time::Duration) -> Self {
        Self(span)
    }
}

impl From<Duration> for std::time::Duration {
    fn from(span: Duration) -> Self {
        span.0
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let error = || DurationError(text.to_owned());
        let mut rest = text;
        let mut millis = 0;
        for (unit, worth, most) in UNITS {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            // `5ms` must not be taken for five minutes and an `s`.
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
        Ok(Self(std::time::Duration::from_millis(millis)))
    }
}

impl fmt::Display for Duration {
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

impl fmt::Debug for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    // The pattern is a CEL rule, not a `pattern`: only a rule can carry a sentence of ours.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": MAX_LENGTH })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_add_up() {
        let read = |text: &str| text.parse::<Duration>().unwrap().get().as_millis();
        assert_eq!(read("1h2m3s4ms"), 3_723_004);
        assert_eq!(read("90m"), 5_400_000);
        assert_eq!(read("5ms"), 5);
        assert_eq!(read("2m5ms"), 120_005);
        assert_eq!(read("0s"), 0);
    }

    proptest! {
        #[test]
        fn what_the_pattern_matches_is_what_is_read(text in "([0-9]{0,9}(h|m|s|ms|d|us|)){0,5}|[ -~]{0,6}") {
            let matches = !text.is_empty() && regex::Regex::new(PATTERN).unwrap().is_match(&text);
            prop_assert_eq!(text.parse::<Duration>().is_ok(), matches);
        }

        #[test]
        fn writing_and_reading_gives_the_same_span(millis in 0_u64..9_999 * 3_600_000) {
            let span = Duration(std::time::Duration::from_millis(millis));
            prop_assert_eq!(span.to_string().parse::<Duration>().unwrap(), span);
        }
    }
}
