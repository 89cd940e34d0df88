//! JSON values as servers really write them: a number may be `12`, `12.0` or `1.2e1`; a wrong type must not cost the whole document.

use std::cell::Cell;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What the items of a document's lists may take in memory once they are read: 32 MiB. `{},` takes three bytes of a body and may stand
/// for an item of a kilobyte, so that the size of a body alone bounds nothing.
const MAX_ITEMS_BYTES: usize = 32 << 20;

/// How the error of a document begins whose items take more.
pub(super) const TOO_MANY_ITEMS: &str = "more items than fit into 32 MiB of memory";

thread_local! {
    /// What the document that is being read may still take. Deserializers have no other place for what goes with a whole document.
    static ITEMS_BYTES_LEFT: Cell<usize> = const { Cell::new(MAX_ITEMS_BYTES) };
}

/// Begins another document.
pub(super) fn begin_document() {
    ITEMS_BYTES_LEFT.set(MAX_ITEMS_BYTES);
}

/// To be asked before each item of a list that is kept, with the bytes it takes; an error once they are too many.
pub(super) fn keep_item<E: serde::de::Error>(bytes: usize) -> Result<(), E> {
    let left = ITEMS_BYTES_LEFT.get().checked_sub(bytes).ok_or_else(|| E::custom(TOO_MANY_ITEMS))?;
    ITEMS_BYTES_LEFT.set(left);
    Ok(())
}

/// A field that should be a number. Missing fields: `#[serde(default)]`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Number {
    /// The field is missing or `null`: this version of the server does not report it.
    #[default]
    Absent,
    /// A JSON number of any spelling, finite.
    Value(f64),
    /// Something else: a string, a boolean, an object, a number too large for a double.
    Invalid,
}

impl Number {
    /// The value, if it is one.
    pub const fn value(self) -> Option<f64> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Invalid => None,
        }
    }

    /// The same field in another unit.
    #[must_use]
    pub fn map(self, convert: impl FnOnce(f64) -> f64) -> Self {
        match self {
            Self::Value(value) => Self::Value(convert(value)),
            other => other,
        }
    }
}

impl crate::metric::Families {
    /// Adds a sample for a field: nothing if it is absent, a skipped field if it is no number.
    pub fn number(&mut self, desc: &'static crate::metric::Desc, labels: &[&str], number: Number) {
        match number {
            Number::Value(value) => self.set(desc, labels, value),
            Number::Absent => {}
            Number::Invalid => self.skip(),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl<'de> Visitor<'de> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus values are doubles")]
    fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
        Ok(Number::Value(value as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus values are doubles")]
    fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
        Ok(Number::Value(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
        Ok(if value.is_finite() { Number::Value(value) } else { Number::Invalid })
    }

    fn visit_unit<E>(self) -> Result<Number, E> {
        Ok(Number::Absent)
    }

    fn visit_none<E>(self) -> Result<Number, E> {
        Ok(Number::Absent)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Number, E> {
        Ok(Number::Invalid)
    }

    fn visit_str<E>(self, _: &str) -> Result<Number, E> {
        Ok(Number::Invalid)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Number, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Number::Invalid)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Number, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Number::Invalid)
    }
}

/// A field that should be a string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Text {
    /// The field is missing or `null`.
    #[default]
    Absent,
    /// A string.
    Value(String),
    /// Something else.
    Invalid,
}

impl Text {
    /// The string, if it is one.
    pub fn value(&self) -> Option<&str> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Invalid => None,
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, value: &str) -> Result<Text, E> {
        Ok(Text::Value(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text::Absent)
    }

    fn visit_none<E>(self) -> Result<Text, E> {
        Ok(Text::Absent)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
        Ok(Text::Invalid)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
        Ok(Text::Invalid)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
        Ok(Text::Invalid)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
        Ok(Text::Invalid)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text::Invalid)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::Invalid)
    }
}

/// The document with `true` in place of every number that no double can hold: where a number is wanted, both are wrong.
///
/// `serde_json` gives up the whole document at such a number.
pub(super) fn without_huge_numbers(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        let (before, token) = rest.split_at(at);
        out.push_str(before);
        let (token, after) = token.split_at(if token.starts_with('"') { string_end(token) } else { number_end(token) });
        out.push_str(if token.parse::<f64>().is_ok_and(f64::is_infinite) { "true" } else { token });
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The document with U+FFFD in place of every escaped half of a surrogate pair that stands alone.
///
/// JavaScript writes them where an emoji was cut in two; `serde_json` gives up the whole document at one.
pub(super) fn without_lone_surrogates(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some((before, escape)) = rest.find('\\').map(|at| rest.split_at(at)) {
        out.push_str(before);
        let length = match (code_unit(escape), escape.get(6..).and_then(code_unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                out.push('\u{fffd}');
                rest = escape.get(6..).unwrap_or_default();
                continue;
            }
            _ => 1 + escape.chars().nth(1).map_or(0, char::len_utf8), // also an escaped backslash, whose second one begins nothing
        };
        let (escape, after) = escape.split_at(length);
        out.push_str(escape);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The number of the `\uXXXX` that `json` begins with.
fn code_unit(json: &str) -> Option<u16> {
    let digits = json.strip_prefix("\\u")?.get(..4)?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok()).flatten()
}

/// The length of the string that `json` begins with, its quotes included.
fn string_end(json: &str) -> usize {
    let mut escaped = true; // the quote that opens it
    let end = json.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    });
    end.map_or(json.len(), |end| end + 1)
}

/// The length of the number that `json` begins with.
fn number_end(json: &str) -> usize {
    json.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(json.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_in_any_spelling() {
        for (json, value) in [
            ("12", 12.0),
            ("-3", -3.0),
            ("1.50", 1.5),
            ("1e3", 1000.0),
            ("18446744073709551616", 1.844_674_407_370_955_2e19),
        ] {
            assert_eq!(serde_json::from_str::<Number>(json).unwrap(), Number::Value(value), "{json}");
        }
    }

    #[test]
    fn what_is_no_number_costs_only_its_field() {
        for json in ["\"12\"", "true", "[1]", "{\"a\":[{}]}"] {
            assert_eq!(serde_json::from_str::<Number>(json).unwrap(), Number::Invalid, "{json}");
        }
        assert_eq!(serde_json::from_str::<Number>("null").unwrap(), Number::Absent);
    }

    #[test]
    fn lone_surrogates_are_replaced_and_pairs_are_kept() {
        let replaced = without_lone_surrogates(r#"{"\ud83d\ude00":"\ud83d","\\ud83d":"\ude00\ud83dx\u00e9","é\n\uD8"#);
        assert_eq!(replaced, "{\"\\ud83d\\ude00\":\"\u{fffd}\",\"\\\\ud83d\":\"\u{fffd}\u{fffd}x\\u00e9\",\"é\\n\\uD8");
        assert_eq!(without_lone_surrogates("\\"), "\\");
    }

    #[test]
    fn numbers_too_large_for_a_double_are_replaced_outside_of_strings_only() {
        assert_eq!(
            without_huge_numbers(r#"{"a 1e999 \" 1e999":1e999,"b":[-1E+400,12.5e1],"c":"1e999"}"#),
            r#"{"a 1e999 \" 1e999":true,"b":[true,12.5e1],"c":"1e999"}"#
        );
        assert_eq!(without_huge_numbers(r#"{"cut off: 1e999"#), r#"{"cut off: 1e999"#);
    }
}
