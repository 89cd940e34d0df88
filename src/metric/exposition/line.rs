//! One line of an exposition. Borrows from the line wherever nothing was escaped.

use std::borrow::Cow;

/// A sample, without its timestamp and exemplar.
#[derive(Debug, PartialEq)]
pub(super) struct SampleLine<'t> {
    pub(super) name: &'t str,
    pub(super) labels: Vec<(&'t str, Cow<'t, str>)>,
    pub(super) value: f64,
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

/// Reads `name{label="value",…} value [timestamp] [# exemplar]`; none if it is anything else or has too many labels.
pub(super) fn sample(line: &str, max_labels: usize) -> Option<SampleLine<'_>> {
    let end = line.find(|c: char| c == '{' || BLANK.contains(&c))?;
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start_matches(BLANK);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside, max_labels)?,
        None => (Vec::new(), rest),
    };
    let (value, rest) = word(rest.trim_start_matches(BLANK))?;
    let value = number(value)?;
    let (timestamp, exemplar) = rest.split_once('#').map_or((rest, None), |(before, after)| (before, Some(after)));
    let timestamp = timestamp.trim();
    let ends = (timestamp.is_empty() || number(timestamp).is_some())
        && exemplar.is_none_or(|exemplar| exemplar.trim_start_matches(BLANK).starts_with('{'));
    (!name.is_empty() && ends).then_some(SampleLine { name, labels, value })
}

/// A number as Prometheus writes it: also `NaN`, `+Inf`, `-Inf`.
fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

type LabelPairs<'t> = Vec<(&'t str, Cow<'t, str>)>;

/// Reads labels up to and including the closing brace; returns what follows it.
fn labels(mut rest: &str, max: usize) -> Option<(LabelPairs<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches(BLANK);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, after) = rest.split_once('=')?;
        let quoted = after.trim_start_matches(BLANK).strip_prefix('"')?;
        let end = closing_quote(quoted)?;
        if labels.len() == max {
            return None;
        }
        labels.push((name.trim_end_matches(BLANK), unescape(quoted.get(..end)?, true)));
        rest = quoted.get(end + 1..)?.trim_start_matches(BLANK);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.starts_with('}') => {}
            None => return None,
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
        let sample = sample(line, 3)?;
        Some((
            sample.name,
            sample.labels.into_iter().map(|(name, value)| (name, value.into_owned())).collect(),
            sample.value,
        ))
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
