//! One line of an exposition. Borrows from the line wherever nothing was escaped.

use std::borrow::Cow;

use crate::metric::{is_label_name, is_metric_name};

/// A sample, without its timestamp and exemplar. Its labels are where [`sample`] has put them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SampleLine<'t> {
    pub(super) name: &'t str,
    pub(super) value: f64,
    pub(super) has_exemplar: bool,
}

/// Labels in the order of the line.
pub(super) type LabelPairs<'t> = Vec<(&'t str, Cow<'t, str>)>;

/// How strictly the end of a sample is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grammar {
    /// Any number may be a timestamp, and anything that begins like an exemplar is one.
    Any,
    /// Text 0.0.4: a timestamp is a whole number of milliseconds.
    Text,
    /// OpenMetrics: a timestamp is a number of seconds.
    OpenMetrics,
}

/// Why a line cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// It does not begin as a sample does, or it has no value.
    #[error("it is neither a comment nor a sample")]
    NoSample,
    /// Braces, quotes, commas.
    #[error("its labels are not well-formed")]
    Labels,
    /// A name in quotes, which only some Prometheus servers read. It is no mistake of the server.
    #[error("it has a name in quotes")]
    QuotedName,
    /// More labels than a sample may have.
    #[error("it has too many labels")]
    TooManyLabels,
    /// The value.
    #[error("its value is not a number")]
    Value,
    /// What follows the value.
    #[error("what follows its value is no timestamp")]
    Timestamp,
    /// What follows the value and the timestamp.
    #[error("what follows its value is no exemplar")]
    Exemplar,
    /// Not UTF-8, or with a NUL.
    #[error("it is not UTF-8 text")]
    Encoding,
    /// Longer than a line may be.
    #[error("it is too long")]
    TooLong,
    /// The name of a metric or of a label.
    #[error("a name in it is not valid, or too long")]
    Name,
    /// An unknown word in a `# TYPE`.
    #[error("it has a type that is unknown")]
    Type,
    /// A bucket or a quantile without its bound.
    #[error("it has no valid le or quantile")]
    Bound,
    /// A count below 0, of which promtool and others say that the whole answer is wrong.
    #[error("it is a negative count")]
    Count,
    /// Something empty where nothing may be.
    #[error("it is empty")]
    Blank,
}

/// Splits a comment, after its `#`, into keyword, name and remainder; `None` if it is none of these comments.
pub(super) fn comment(rest: &str) -> Option<(&str, &str, &str)> {
    let (keyword, rest) = word(rest.trim_start_matches(BLANK))?;
    let (name, rest) = word(rest)?;
    matches!(keyword, "HELP" | "TYPE" | "UNIT").then_some((keyword, name, rest))
}

/// Blanks between the parts of a line.
const BLANK: [char; 2] = [' ', '\t'];

/// The first word, and what follows the blanks after it.
fn word(text: &str) -> Option<(&str, &str)> {
    let (word, rest) = text.split_once(BLANK).unwrap_or((text, ""));
    (!word.is_empty()).then(|| (word, rest.trim_start_matches(BLANK)))
}

/// Reads `name{label="value",…} value [timestamp] [# exemplar]`, and puts its labels into `labels`, which is emptied first.
pub(super) fn sample<'t>(
    line: &'t str,
    grammar: Grammar,
    max_labels: usize,
    labels: &mut LabelPairs<'t>,
) -> Result<SampleLine<'t>, LineFault> {
    labels.clear();
    let end = line.bytes().position(|byte| matches!(byte, b'{' | b' ' | b'\t')).ok_or(LineFault::NoSample)?;
    let (mut name, rest) = line.split_at_checked(end).ok_or(LineFault::NoSample)?;
    let mut rest = rest.trim_start_matches(BLANK);
    if let Some(inside) = rest.strip_prefix('{') {
        let inside = inside.trim_start_matches(BLANK);
        let quoted = inside.strip_prefix('"').filter(|_| name.is_empty() && grammar != Grammar::Any);
        let inside = match quoted {
            None => inside,
            // `{"name", label="value"}`, for names that others cannot be.
            Some(quoted) => {
                let end = closing_quote(quoted).ok_or(LineFault::Labels)?;
                let (in_quotes, after) = quoted.split_at_checked(end).ok_or(LineFault::Labels)?;
                name = in_quotes;
                let after = after.strip_prefix('"').unwrap_or_default().trim_start_matches(BLANK);
                match after.strip_prefix(',') {
                    Some(after) => after,
                    None if after.starts_with('}') => after,
                    None => return Err(LineFault::Labels),
                }
            }
        };
        rest = read_labels(inside, grammar, max_labels, labels)?;
        if quoted.is_some() && !is_metric_name(name) {
            return Err(LineFault::QuotedName);
        }
    }
    if name.is_empty() {
        return Err(LineFault::NoSample);
    }
    let (value, rest) = word(rest.trim_start_matches(BLANK)).ok_or(LineFault::NoSample)?;
    let value = number(value).ok_or(LineFault::Value)?;
    if rest.is_empty() {
        return Ok(SampleLine { name, value, has_exemplar: false }); // nearly always
    }
    let (timestamp, exemplar) = rest.split_once('#').map_or((rest, None), |(before, after)| (before, Some(after)));
    let timestamp = timestamp.trim();
    let is_timestamp = match grammar {
        Grammar::Text => timestamp.parse::<i64>().is_ok(),
        Grammar::Any | Grammar::OpenMetrics => number(timestamp).is_some(),
    };
    if !(timestamp.is_empty() || is_timestamp) {
        return Err(LineFault::Timestamp);
    }
    if exemplar.is_some_and(|exemplar| !is_exemplar(exemplar, grammar)) {
        return Err(LineFault::Exemplar);
    }
    Ok(SampleLine { name, value, has_exemplar: exemplar.is_some() })
}

/// Whether this is an exemplar, after its `#`.
fn is_exemplar(text: &str, grammar: Grammar) -> bool {
    const MAX_LABELS: usize = 64;
    let Some(inside) = text.trim_start_matches(BLANK).strip_prefix('{') else { return false };
    if grammar == Grammar::Any {
        return true;
    }
    let Ok(rest) = read_labels(inside, Grammar::Any, MAX_LABELS, &mut Vec::new()) else { return false };
    let mut numbers = rest.split(BLANK).filter(|word| !word.is_empty());
    let is_number = |text: Option<&str>| text.is_none_or(|text| number(text).is_some());
    let value = numbers.next();
    value.is_some() && is_number(value) && is_number(numbers.next()) && numbers.next().is_none()
}

/// A number as Go reads it, without underscores: also `NaN`, `+Inf`, `-infinity`, `0x1p-2`. One that no double can hold is none.
pub(super) fn number(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned.as_bytes() {
        [b'0', b'x' | b'X', digits @ ..] => {
            let value = hexadecimal(digits)?;
            Some(if text.starts_with('-') { -value } else { value })
        }
        [b'0'..=b'9' | b'.', ..] => text.parse().ok().filter(|value: &f64| value.is_finite()),
        [b'n' | b'N', ..] => text.eq_ignore_ascii_case("nan").then_some(f64::NAN),
        _ if unsigned.eq_ignore_ascii_case("inf") || unsigned.eq_ignore_ascii_case("infinity") => {
            Some(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY })
        }
        _ => None,
    }
}

/// A hexadecimal number after its `0x`, rounded to the nearest double, half to even. It must have an exponent.
fn hexadecimal(digits: &[u8]) -> Option<f64> {
    /// Beyond it, every number is 0 or too large, whatever its digits: there are not as many.
    const LARGEST_EXPONENT: i64 = 1 << 40;
    let at = digits.iter().position(|byte| matches!(byte, b'p' | b'P'))?;
    let (mantissa, exponent) = digits.split_at_checked(at)?;
    let exponent = exponent.get(1..)?;
    let (is_negative, exponent) = match exponent {
        [sign @ (b'-' | b'+'), rest @ ..] => (*sign == b'-', rest),
        rest => (false, rest),
    };
    if exponent.is_empty() || !exponent.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let exponent = exponent.iter().fold(0_i64, |sum, digit| (sum * 10 + i64::from(digit - b'0')).min(LARGEST_EXPONENT));
    let mut power = if is_negative { -exponent } else { exponent };
    // The first digits, and whether there is more after them.
    let (mut bits, mut more) = (0_u64, false);
    let (mut has_digits, mut after_point) = (false, false);
    for byte in mantissa {
        if *byte == b'.' && !after_point {
            after_point = true;
            continue;
        }
        let digit = u64::from(char::from(*byte).to_digit(16)?);
        has_digits = true;
        let is_full = bits >> 60 != 0;
        if is_full {
            more |= digit != 0;
        } else {
            bits = bits << 4 | digit;
        }
        power += match (is_full, after_point) {
            (true, false) => 4,
            (false, true) => -4,
            _ => 0,
        };
    }
    if !has_digits {
        return None;
    }
    if bits == 0 {
        return Some(0.0);
    }
    let zeros = bits.leading_zeros();
    // Of 1.… × 2^exponent.
    let exponent = power - i64::from(zeros) + 63;
    if exponent > 1023 {
        return None;
    }
    let bits = u128::from(bits << zeros) << 1 | u128::from(more);
    // A double has 52 bits after the point, and fewer below its least normal exponent.
    let cut = 12 + u32::try_from((-1022 - exponent).clamp(0, 100)).unwrap_or(100);
    let (kept, rest, half) = (bits >> cut, bits & ((1 << cut) - 1), 1 << (cut - 1));
    let rounds_up = rest > half || (rest == half && kept & 1 == 1);
    let kept = u64::try_from(kept).ok()? + u64::from(rounds_up);
    let double = match u64::try_from(exponent + 1022) {
        // The bit before the point makes the exponent one more.
        Ok(exponent) => (exponent << 52) + kept,
        Err(_) => kept,
    };
    Some(f64::from_bits(double)).filter(|value| value.is_finite())
}

/// Reads labels up to and including the closing brace; returns what follows it.
fn read_labels<'t>(
    mut rest: &'t str,
    grammar: Grammar,
    max: usize,
    labels: &mut LabelPairs<'t>,
) -> Result<&'t str, LineFault> {
    let mut has_quoted_names = false;
    loop {
        rest = rest.trim_start_matches(BLANK);
        if let Some(after) = rest.strip_prefix('}') {
            return if has_quoted_names { Err(LineFault::QuotedName) } else { Ok(after) };
        }
        let in_quotes = rest.strip_prefix('"').filter(|_| grammar != Grammar::Any);
        let (name, after) = match in_quotes {
            None => rest.split_once('=').ok_or(LineFault::Labels)?,
            Some(quoted) => {
                let end = closing_quote(quoted).ok_or(LineFault::Labels)?;
                let (name, after) = quoted.split_at_checked(end).ok_or(LineFault::Labels)?;
                has_quoted_names |= !is_label_name(name);
                let after = after.strip_prefix('"').unwrap_or_default().trim_start_matches(BLANK);
                (name, after.strip_prefix('=').ok_or(LineFault::Labels)?)
            }
        };
        let quoted = after.trim_start_matches(BLANK).strip_prefix('"').ok_or(LineFault::Labels)?;
        let end = closing_quote(quoted).ok_or(LineFault::Labels)?;
        if labels.len() == max {
            return Err(LineFault::TooManyLabels);
        }
        let (value, after) = quoted.split_at_checked(end).ok_or(LineFault::Labels)?;
        labels.push((name.trim_end_matches(BLANK), unescape(value, true)));
        rest = after.strip_prefix('"').unwrap_or_default().trim_start_matches(BLANK);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.starts_with('}') => {}
            None => return Err(LineFault::Labels),
        }
    }
}

/// The position of the first quote that is not escaped.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

/// `\\`, `\n` and, where `quotes` are escaped, `\"` as the characters they stand for; any other backslash stays, as in Prometheus.
pub(in crate::metric) fn unescape(text: &str, quotes: bool) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => plain.push('\n'),
                Some('\\') | None => plain.push('\\'),
                Some('"') if quotes => plain.push('"'),
                Some(other) => plain.extend(['\\', other]),
            },
            c => plain.push(c),
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, labels and value.
    type Read<'t> = (&'t str, Vec<(&'t str, String)>, f64);

    fn read(line: &str) -> Option<Read<'_>> {
        let mut labels = Vec::new();
        let sample = sample(line, Grammar::Any, 3, &mut labels).ok()?;
        Some((sample.name, labels.into_iter().map(|(name, value)| (name, value.into_owned())).collect(), sample.value))
    }

    #[test]
    fn a_label_value_may_hold_what_separates_labels() {
        let labels = vec![("a", "x,y=\"z\"}".to_owned()), ("b", "\\ \n \\t".to_owned())];
        assert_eq!(read(r#"m{a="x,y=\"z\"}",b="\\ \n \t"} 1"#), Some(("m", labels, 1.0)));
    }

    #[test]
    fn blanks_and_a_trailing_comma_are_tolerated() {
        let labels = vec![("a", "1".to_owned()), ("b", String::new())];
        assert_eq!(read("m\t{ a = \"1\" , b=\"\" , }  -2.5e3"), Some(("m", labels, -2500.0)));
    }

    #[test]
    fn timestamp_and_exemplar_are_cut_off() {
        for line in ["m 1", "m 1 1395066363000", "m 1 1.5 # {trace_id=\"x\"} 0.5 1.2", "m{} 1 # {} 1"] {
            assert_eq!(read(line), Some(("m", vec![], 1.0)), "{line}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_read() {
        assert_eq!(read("m +Inf"), Some(("m", vec![], f64::INFINITY)));
        assert_eq!(read("m -Inf"), Some(("m", vec![], f64::NEG_INFINITY)));
        assert!(read("m NaN").unwrap().2.is_nan());
    }

    #[test]
    fn a_line_that_is_no_sample_gives_nothing() {
        for line in [
            "m",
            "m ",
            "m{",
            "m{}",
            "m{a} 1",
            "m{a=1} 1",
            "m{a=\"1} 1",
            "m{a=\"1\"",
            "m{a=\"1\" b=\"2\"} 1",
            "m one",
            "m 1 now",
            "m 1 2 3",
            "m 1 # exemplar",
            "{a=\"1\"} 1",
            "m{a=\"\",b=\"\",c=\"\",d=\"\"} 1",
            "m{a=\"\\",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
