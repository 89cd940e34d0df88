//! What Go's standard library reads, and this crate otherwise does not: durations, sizes, base64 in YAML.

use std::time::Duration;

/// The longest duration that is read: more than any probe or interval may take.
const LONGEST: f64 = 1e9;

/// A duration as `time.ParseDuration` reads it, not negative: `300ms`, `1.5s`, `2h45m`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(|byte| !byte.is_ascii_digit() && *byte != b'.').count();
        let (unit, next) = tail.split_at(letters);
        let worth = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        if !number.bytes().any(|byte| byte.is_ascii_digit()) {
            return None;
        }
        if number.matches('.').count() > 1 {
            return None;
        }
        // `5.` and `.5` are numbers in Go.
        let number = format!("0{}", number.strip_suffix('.').unwrap_or(number)).parse::<f64>().ok()?;
        seconds += number * worth;
        rest = next;
    }
    let span = Some(seconds).filter(|seconds| *seconds < LONGEST)?;
    // Whole nanoseconds, so that 0.1 + 0.2 is 0.3.
    Duration::try_from_secs_f64(span).ok().map(|span| Duration::from_nanos(round(span.as_nanos())))
}

fn round(nanos: u128) -> u64 {
    u64::try_from((nanos + 500) / 1000 * 1000).unwrap_or(u64::MAX)
}

/// A size in the units of the blackbox exporter, all of them powers of 1024: `10MB`, `512KiB`, `1.5GB`.
pub(super) fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "KB" | "KiB" => 10,
        "MB" | "MiB" => 20,
        "GB" | "GiB" => 30,
        "TB" | "TiB" => 40,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    let worth = f64::from(1_u32 << (shift / 2)) * f64::from(1_u32 << (shift / 2));
    let bytes = number.parse::<f64>().ok()? * worth;
    // Below 2^53 every whole number is exact.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
    (0.0..9e15).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, millis) in [
            ("5s", 5_000),
            ("1.5s", 1_500),
            ("300ms", 300),
            ("2h45m", 9_900_000),
            ("0", 0),
            (".5s", 500),
            ("5.s", 5_000),
            ("9.9s", 9_900),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1d", "5 s", "1..5s", "1.2.3s", ".s", "99999999999999h", "5s!"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [("0", 0), ("10MB", 10 << 20), ("512KiB", 512 << 10), ("1.5GB", 3 << 29), ("7B", 7)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "-1", "10 MB", "10mb", "MB", "99999999999TB", "1e3"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
