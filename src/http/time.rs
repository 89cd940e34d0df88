//! Times and durations as the pages show them.

use std::time::{Duration, SystemTime};

use crate::time;
pub(super) use crate::time::rfc3339_millis;

/// `2026-11-21 06:53:01 UTC`.
pub(super) fn utc(at: SystemTime) -> String {
    time::utc(at, "%Y-%m-%d %H:%M:%S UTC")
}

/// `06:53:01 UTC`; with the date unless it is today's.
pub(super) fn utc_short(at: SystemTime, now: SystemTime) -> String {
    let day = "%Y-%m-%d";
    if time::utc(at, day) == time::utc(now, day) { time::utc(at, "%H:%M:%S UTC") } else { utc(at) }
}

/// `3 min ago`, in the largest unit that gives at least one.
pub(super) fn ago(at: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(at).unwrap_or_default().as_secs();
    match seconds {
        0 => "just now".to_owned(),
        1..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h {} min ago", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h ago", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// `2026-11-21 06:53:01 UTC (3 min ago)`.
pub(super) fn utc_and_ago(at: SystemTime, now: SystemTime) -> String {
    format!("{} ({})", utc(at), ago(at, now))
}

/// A measured duration in about three digits: `0.42 ms`, `12 ms`, `1.53 s`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 0.000_995 {
        format!("{:.2} ms", seconds * 1e3)
    } else if seconds < 0.009_95 {
        format!("{:.1} ms", seconds * 1e3)
    } else if seconds < 0.999_5 {
        format!("{:.0} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{ago, duration, utc, utc_short};

    #[test]
    fn measured_durations_have_few_digits() {
        for (microseconds, text) in [
            (4, "0.00 ms"),
            (420, "0.42 ms"),
            (1_234, "1.2 ms"),
            (12_345, "12 ms"),
            (999_400, "999 ms"),
            (1_534_000, "1.53 s"),
        ] {
            assert_eq!(duration(Duration::from_micros(microseconds)), text);
        }
    }

    #[test]
    fn times_are_utc() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_780_000_000_123);
        assert_eq!(utc(at), "2026-05-28 20:26:40 UTC");
        let later = |hours| at + Duration::from_hours(hours);
        assert_eq!(utc_short(at, later(3)), "20:26:40 UTC");
        assert_eq!(utc_short(at, later(4)), "2026-05-28 20:26:40 UTC");
    }

    #[test]
    fn how_long_ago_is_said_in_one_or_two_units() {
        let at = SystemTime::UNIX_EPOCH;
        for (seconds, text) in
            [(0, "just now"), (59, "59 s ago"), (60, "1 min ago"), (3_660, "1 h 1 min ago"), (90_000, "1 d 1 h ago")]
        {
            assert_eq!(ago(at, at + Duration::from_secs(seconds)), text);
        }
        assert_eq!(ago(at + Duration::from_secs(9), at), "just now", "a clock that was set back");
    }
}
