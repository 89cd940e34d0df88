//! The types of scalars.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granit_parser::{ScalarStyle, Tag};
use serde_json::Number;

use super::{Data, Dialect};

/// The namespace of the tags that YAML itself has.
const CORE: &str = "tag:yaml.org,2002:";

/// What a scalar is found to be.
enum ScalarValue {
    Null,
    Bool(bool),
    Integer(Number),
    /// Also one that is infinite or none.
    Float(f64),
    Text,
    /// In base64.
    Binary,
}

/// The value of a scalar, or why its tag does not fit.
pub(super) fn value(text: String, style: ScalarStyle, tag: Option<&Tag>, dialect: Dialect) -> Result<Data, String> {
    Ok(match resolve(&text, style, tag, dialect)? {
        ScalarValue::Null => Data::Null,
        ScalarValue::Bool(value) => Data::Bool(value, text),
        ScalarValue::Integer(number) => Data::Number(number, text),
        ScalarValue::Float(value) => {
            let whole = if dialect == Dialect::Kubernetes { whole(value) } else { None };
            match (whole.or_else(|| Number::from_f64(value)), dialect) {
                (Some(number), _) => Data::Number(number, text),
                // JSON has no number that is infinite or none. A field with a type takes its text.
                (None, Dialect::Typed) => Data::Text(text),
                (None, Dialect::Kubernetes) => {
                    return Err("a number is not finite: write another, or put it in quotes".to_owned());
                }
            }
        }
        ScalarValue::Text => Data::Text(text),
        ScalarValue::Binary => match dialect {
            Dialect::Typed => Data::Binary(text),
            Dialect::Kubernetes => Data::Text(binary_text(&text)?),
        },
    })
}

/// The text of a scalar that is a key, or why it cannot be one. kubectl knows the types of keys as it knows those of values, and JSON has
/// only texts.
pub(super) fn key(text: &str, style: ScalarStyle, tag: Option<&Tag>, dialect: Dialect) -> Result<String, String> {
    if dialect == Dialect::Typed {
        return Ok(text.to_owned());
    }
    match resolve(text, style, tag, dialect)? {
        ScalarValue::Null => Err("a key is nothing: write a text, or put it in quotes".to_owned()),
        ScalarValue::Bool(value) => Ok(value.to_string()),
        ScalarValue::Integer(number) if number.is_i64() => Ok(number.to_string()),
        ScalarValue::Integer(_) => Err("a key is a number of more than 63 bits: put it in quotes".to_owned()),
        ScalarValue::Float(value) => Ok(float_key(value)),
        ScalarValue::Text => Ok(text.to_owned()),
        ScalarValue::Binary => binary_text(text),
    }
}

/// The key for which an alias stands.
pub(super) fn repeated_key(data: &Data, dialect: Dialect) -> Result<String, String> {
    match (data, dialect) {
        (Data::Text(text), _) | (Data::Bool(_, text) | Data::Number(_, text), Dialect::Typed) => Ok(text.clone()),
        (Data::Bool(value, _), Dialect::Kubernetes) => Ok(value.to_string()),
        (Data::Number(_, text), Dialect::Kubernetes) => key(text, ScalarStyle::Plain, None, dialect),
        _ => Err("a key is no text: write a text".to_owned()),
    }
}

/// What a scalar is by its tag; without one, a plain scalar is what it looks like. A tag that YAML does not have makes a text.
fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>, dialect: Dialect) -> Result<ScalarValue, String> {
    let Some(tag) = tag else {
        return Ok(if style == ScalarStyle::Plain { plain(text, dialect) } else { ScalarValue::Text });
    };
    let core = tag.suffix_in_namespace(CORE);
    let (wanted, found) = match core.as_deref() {
        Some("binary") => return Ok(ScalarValue::Binary),
        Some("null") => ("nothing", plain(text, dialect)),
        Some("bool") => ("a boolean", plain(text, Dialect::Kubernetes)),
        Some("int") => ("a whole number", plain(text, dialect)),
        Some("float") => ("a number", plain(text, dialect)),
        _ => return Ok(ScalarValue::Text),
    };
    let fits = match (&found, wanted) {
        (ScalarValue::Null, wanted) => wanted == "nothing",
        (ScalarValue::Bool(_), wanted) => wanted == "a boolean",
        (ScalarValue::Integer(_), wanted) => matches!(wanted, "a whole number" | "a number"),
        (ScalarValue::Float(_), wanted) => wanted == "a number",
        (ScalarValue::Text | ScalarValue::Binary, _) => false,
    };
    if fits { Ok(found) } else { Err(format!("a scalar with a tag is not {wanted}")) }
}

/// What a plain scalar without a tag is. Words have three spellings each, as in Go.
fn plain(text: &str, dialect: Dialect) -> ScalarValue {
    match (text, text.as_bytes().first()) {
        ("" | "~" | "null" | "Null" | "NULL", _) => ScalarValue::Null,
        ("true" | "True" | "TRUE", _) => ScalarValue::Bool(true),
        ("false" | "False" | "FALSE", _) => ScalarValue::Bool(false),
        (".nan" | ".NaN" | ".NAN", _) => ScalarValue::Float(f64::NAN),
        (".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF", _) => ScalarValue::Float(f64::INFINITY),
        ("-.inf" | "-.Inf" | "-.INF", _) => ScalarValue::Float(f64::NEG_INFINITY),
        (_, Some(b'0'..=b'9' | b'+' | b'-')) => {
            let digits = text.replace('_', "");
            match integer(&digits) {
                Some(number) => ScalarValue::Integer(number),
                None => float(&digits).map_or(ScalarValue::Text, ScalarValue::Float),
            }
        }
        // Go counts digits only where a number begins with one, or with a sign.
        (_, Some(b'.')) if separates_digits(text) => {
            float(&text.replace('_', "")).map_or(ScalarValue::Text, ScalarValue::Float)
        }
        _ if dialect == Dialect::Kubernetes => boolean_word(text).map_or(ScalarValue::Text, ScalarValue::Bool),
        _ => ScalarValue::Text,
    }
}

/// The booleans of YAML 1.1.
pub(super) fn boolean_word(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => Some(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => Some(false),
        _ => None,
    }
}

/// A whole number of 64 bits without `_`: also `0x1f`, `0b101`, `0o17` and `017`.
fn integer(text: &str) -> Option<Number> {
    let (sign, rest) = match text.as_bytes().first()? {
        sign @ (b'-' | b'+') => (Some(*sign), text.get(1..)?),
        _ => (None, text),
    };
    let prefixed = |prefix: [&str; 2]| prefix.into_iter().find_map(|prefix| rest.strip_prefix(prefix));
    let (radix, digits) = if let Some(digits) = prefixed(["0x", "0X"]) {
        (16, digits)
    } else if let Some(digits) = prefixed(["0b", "0B"]) {
        (2, digits)
    } else if let Some(digits) = prefixed(["0o", "0O"]) {
        (8, digits)
    } else if let Some(digits) = rest.strip_prefix('0').filter(|digits| !digits.is_empty()) {
        (8, digits)
    } else {
        (10, rest)
    };
    if !digits.chars().all(|digit| digit.is_digit(radix)) {
        // A sign may also stand behind `0b`.
        return text.strip_prefix("0b").and_then(|digits| i64::from_str_radix(digits, 2).ok()).map(Number::from);
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    match sign {
        Some(b'-') => 0_i64.checked_sub_unsigned(magnitude).map(Number::from),
        Some(_) => i64::try_from(magnitude).ok().map(Number::from),
        None => Some(Number::from(magnitude)),
    }
}

/// A finite number with a fraction or an exponent, or one that is too large for a whole one.
fn float(text: &str) -> Option<f64> {
    // The words that Rust reads as numbers are texts in YAML.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    let value = if is_number { text.parse().ok() } else { None };
    value.filter(|value: &f64| value.is_finite())
}

/// Whether each `_` stands between two digits.
fn separates_digits(text: &str) -> bool {
    let ends_with_digit = |part: &str| part.ends_with(|last: char| last.is_ascii_digit());
    let begins_with_digit = |part: &str| part.starts_with(|first: char| first.is_ascii_digit());
    let parts: Vec<&str> = text.split('_').collect();
    parts.windows(2).all(|pair| matches!(pair, [before, after] if ends_with_digit(before) && begins_with_digit(after)))
}

/// A number without a fraction. Go writes such a one into JSON without a point, and then it is good for a field of whole numbers.
fn whole(value: f64) -> Option<Number> {
    let text = value.to_string();
    text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from)).ok()
}

/// A number as kubectl writes it where it is a key: with the precision of 32 bits.
fn float_key(value: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "this is what the reader of kubectl does")]
    let value = value as f32;
    if value.is_nan() {
        return ".nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { ".inf" } else { "-.inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => value.to_string(),
    }
}

/// The text that a scalar with the tag `!!binary` encodes.
fn binary_text(encoded: &str) -> Result<String, String> {
    let text = decode_binary(encoded).and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or_else(|| "a scalar with a tag is not base64 of a text".to_owned())
}

/// The bytes of a scalar with the tag `!!binary`.
pub fn decode_binary(encoded: &str) -> Option<Vec<u8>> {
    let text: String = encoded.chars().filter(|character| !character.is_whitespace()).collect();
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::read;
    use serde_json::Value;

    /// Whether they arrive at the API server as the same: numbers that are no `int64` arrive as floats.
    fn is_same(own: &Value, other: &Value) -> bool {
        match (own, other) {
            (Value::Number(own), Value::Number(other)) => {
                let is_zero = other.as_f64() == Some(0.0);
                own.as_f64() == other.as_f64() && (own.is_i64() == other.is_i64() || is_zero)
            }
            _ => own == other,
        }
    }

    #[test]
    fn scalars_are_read_as_kubectl_reads_them_as_values_and_as_keys() {
        let mut different = Vec::new();
        let mut rows = 0;
        for row in crate::yaml::KUBECTL_SCALARS.lines().filter(|row| !row.starts_with("# ")) {
            rows += 1;
            let [text, value, key] = row.split('\t').collect::<Vec<_>>()[..] else { panic!("{row}") };
            let wanted = |column: &str| serde_json::from_str::<Value>(column).ok();
            let own = read(&format!("v: {text}\n"), 1, Dialect::Kubernetes).ok();
            let own = own.and_then(|node| node.get("v").map(crate::yaml::Node::to_value));
            let own_key = read(&format!("? {text}\n: 0\n"), 1, Dialect::Kubernetes).ok();
            let own_key = own_key.and_then(|node| node.entries().first().map(|entry| Value::from(entry.key.as_str())));
            let is_equal = match (&own, &wanted(value)) {
                (Some(own), Some(other)) => is_same(own, other),
                (None, None) => true,
                _ => false,
            };
            if !is_equal || own_key != wanted(key) {
                different.push(format!("{row:?}: {own:?} {own_key:?}"));
            }
        }
        assert!(rows > 700, "{rows}");
        assert!(different.is_empty(), "{}", different.join("\n"));
    }
}
