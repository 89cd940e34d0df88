//! The types of scalars.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granit_parser::{ScalarStyle, Tag};
use serde_json::Number;

use super::{Data, Dialect};

/// The namespace of the tags that YAML itself has.
const CORE: &str = "tag:yaml.org,2002:";

/// The value of a scalar, or why its tag does not fit.
pub(super) fn scalar(text: String, style: ScalarStyle, tag: Option<&Tag>, dialect: Dialect) -> Result<Data, String> {
    let core = tag.and_then(|tag| tag.suffix_in_namespace(CORE));
    let refusal = |what: &str| Err(format!("a scalar with a tag is not {what}"));
    match core.as_deref() {
        Some("null") => Ok(Data::Null),
        Some("bool") => boolean(&text, Dialect::Kubernetes)
            .map_or_else(|| refusal("a boolean"), |value| Ok(Data::Bool(value, text))),
        Some("int") => {
            integer(text.trim()).map_or_else(|| refusal("a whole number"), |number| Ok(Data::Number(number, text)))
        }
        Some("float") => match float(text.trim()) {
            Some(value) => finite(value, text, dialect),
            None => refusal("a number"),
        },
        Some("binary") => match dialect {
            Dialect::Typed => Ok(Data::Binary(text)),
            Dialect::Kubernetes => decode_binary(&text)
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .map_or_else(|| refusal("base64 of a text"), |text| Ok(Data::Text(text))),
        },
        Some("str" | "timestamp") => Ok(Data::Text(text)),
        _ if style != ScalarStyle::Plain || tag.is_some_and(is_not_specific) => Ok(Data::Text(text)),
        _ => plain(text, dialect),
    }
}

/// The tag `!`, which makes any scalar a text.
fn is_not_specific(tag: &Tag) -> bool {
    let (handle, suffix) = tag.parts();
    matches!((handle, suffix), ("", "!") | ("!", ""))
}

/// A plain scalar without a tag.
fn plain(text: String, dialect: Dialect) -> Result<Data, String> {
    if text.is_empty() || text == "~" || text.eq_ignore_ascii_case("null") {
        return Ok(Data::Null);
    }
    if let Some(value) = boolean(&text, dialect) {
        return Ok(Data::Bool(value, text));
    }
    if let Some(number) = integer(&text) {
        return Ok(Data::Number(number, text));
    }
    match float(&text) {
        Some(value) => finite(value, text, dialect),
        None => Ok(Data::Text(text)),
    }
}

/// JSON has no number that is infinite or none. A field with a type takes its text.
fn finite(value: f64, text: String, dialect: Dialect) -> Result<Data, String> {
    match (Number::from_f64(value), dialect) {
        (Some(number), _) => Ok(Data::Number(number, text)),
        (None, Dialect::Typed) => Ok(Data::Text(text)),
        (None, Dialect::Kubernetes) => Err("a number is not finite: write another, or put it in quotes".to_owned()),
    }
}

fn boolean(text: &str, dialect: Dialect) -> Option<bool> {
    let is_one_of = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    let (is_true, is_false) = match dialect {
        Dialect::Kubernetes => (is_one_of(&["true", "yes", "y", "on"]), is_one_of(&["false", "no", "n", "off"])),
        Dialect::Typed => (is_one_of(&["true"]), is_one_of(&["false"])),
    };
    (is_true || is_false).then_some(is_true)
}

/// A whole number of 64 bits, as YAML 1.1 writes it: also `0x1f`, `0b101`, `0o17`, `017` and `1_000`.
fn integer(text: &str) -> Option<Number> {
    let (is_negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let prefixed = |prefix: [&str; 2]| prefix.into_iter().find_map(|prefix| rest.strip_prefix(prefix));
    let (radix, digits) = if let Some(digits) = prefixed(["0x", "0X"]) {
        (16, digits.strip_prefix('_').unwrap_or(digits))
    } else if let Some(digits) = prefixed(["0b", "0B"]) {
        (2, digits.strip_prefix('_').unwrap_or(digits))
    } else if let Some(digits) = prefixed(["0o", "0O"]) {
        (8, digits.strip_prefix('_').unwrap_or(digits))
    } else if let Some(digits) = rest.strip_prefix('0').filter(|digits| !digits.is_empty()) {
        (8, digits.strip_prefix('_').unwrap_or(digits))
    } else {
        (10, rest)
    };
    let is_number =
        digits.split('_').all(|group| !group.is_empty() && group.chars().all(|digit| digit.is_digit(radix)));
    let magnitude = if is_number { u64::from_str_radix(&digits.replace('_', ""), radix).ok()? } else { return None };
    if is_negative { 0_i64.checked_sub_unsigned(magnitude).map(Number::from) } else { Some(Number::from(magnitude)) }
}

/// A number with a fraction or an exponent, or one that has no end.
fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match unsigned.to_ascii_lowercase().as_str() {
        ".nan" => return Some(f64::NAN),
        ".inf" => return Some(f64::INFINITY),
        _ => {}
    }
    // The words that Rust reads as numbers are texts in YAML.
    let is_number =
        unsigned.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    if is_number { text.parse().ok() } else { None }
}

/// The bytes of a scalar with the tag `!!binary`.
pub fn decode_binary(encoded: &str) -> Option<Vec<u8>> {
    let text: String = encoded.chars().filter(|character| !character.is_whitespace()).collect();
    STANDARD.decode(text).ok()
}
