//! A lenient reader of the servers' JSON: a wrong value affects as little else as possible, and memory is bounded.
//!
//! * A missing field and `null` are [`Absent`](JsonField::Absent), a value of a wrong type is [`Invalid`](JsonField::Invalid) and counted.
//! * An unknown field is skipped; of a field that comes twice the last one counts.
//! * An item of a list that is not an object is skipped, and the others are read.
//! * A number that no double can hold, and half of a surrogate pair, make their value invalid, not the document.
//! * What is kept of lists and of objects with arbitrary keys is counted, and limited per document.
//!
//! Wire types are declared with [`json_objects!`]; their fields are the types of [`field`].

pub(super) mod field;

use std::cell::Cell;
use std::sync::LazyLock;

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::answer::looks_like_html;
use super::{CallError, Reason};
pub(crate) use field::json_objects;
pub use field::{Flag, FromJson, JsonEntries, JsonField, JsonList, Number, Text};

/// What the items of one document may take in memory: 32 MiB. `{},` takes three bytes of a body and may become an item of a kilobyte, so
/// the limit of the body alone does not bound memory.
const MAX_ITEMS_BYTES: usize = 32 << 20;

const TOO_MANY_ITEMS: &str = "more items than fit into 32 MiB of memory";

thread_local! {
    /// The bytes that the items of the document that this thread reads may still take; `None` once they exceed the limit. A `Deserializer`
    /// has no other place for state of the whole document.
    static ITEMS_BYTES_LEFT: Cell<Option<usize>> = const { Cell::new(Some(MAX_ITEMS_BYTES)) };
}

/// To be called for each item of a list that is kept, with the bytes it takes; an error once they are too many.
pub(super) fn keep_item<E: serde::de::Error>(bytes: usize) -> Result<(), E> {
    let left = ITEMS_BYTES_LEFT.get().and_then(|left| left.checked_sub(bytes));
    ITEMS_BYTES_LEFT.set(left);
    left.map(drop).ok_or_else(|| E::custom(TOO_MANY_ITEMS))
}

/// Reads a document.
///
/// `parse` when it is not JSON, `schema` when it is JSON of another shape, `limit` when it is nested too deep or has too many items.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, CallError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    read(text)
        .or_else(|error| match repair(text) {
            Some(repaired) if error.is_syntax() => read(&repaired),
            _ => Err(error),
        })
        .map_err(|error| call_error(text, &error))
}

fn read<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    ITEMS_BYTES_LEFT.set(Some(MAX_ITEMS_BYTES));
    serde_json::from_str(text)
}

/// Replaces what `serde_json` refuses although it costs one value only; none if there is nothing of the kind.
///
/// A number that no double can hold becomes `true`, which is as wrong where a number is expected. An escaped half of a surrogate pair, as
/// JavaScript writes it where an emoji was cut in two, becomes U+FFFD.
fn repair(json: &str) -> Option<String> {
    let mut out = String::with_capacity(json.len());
    let mut is_changed = false;
    let mut rest = json;
    while let Some(at) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        let (before, token) = rest.split_at(at);
        out.push_str(before);
        let is_string = token.starts_with('"');
        let (token, after) = token.split_at(if is_string { string_end(token) } else { number_end(token) });
        if is_string {
            is_changed |= push_without_lone_surrogates(token, &mut out);
        } else if token.parse::<f64>().is_ok_and(f64::is_infinite) {
            is_changed = true;
            out.push_str("true");
        } else {
            out.push_str(token);
        }
        rest = after;
    }
    out.push_str(rest);
    is_changed.then_some(out)
}

/// Appends a string, and says whether it had a lone surrogate.
fn push_without_lone_surrogates(string: &str, out: &mut String) -> bool {
    let mut is_changed = false;
    let mut rest = string;
    while let Some((before, escape)) = rest.find('\\').map(|at| rest.split_at(at)) {
        out.push_str(before);
        let length = match (code_unit(escape), escape.get(6..).and_then(code_unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                is_changed = true;
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
    is_changed
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

/// What `serde_json` says of a document that is nested too deep: it has no code for this error, so one is made to compare with.
static TOO_DEEP: LazyLock<String> = LazyLock::new(|| {
    let error = serde_json::from_str::<serde_json::Value>(&"[".repeat(1024)).err();
    error.map_or_else(String::new, |error| without_position(&error.to_string()).to_owned())
});

/// Says where the document is wrong, and what was expected, but never what the server has written.
fn call_error(text: &str, error: &serde_json::Error) -> CallError {
    let problem = error.to_string();
    if ITEMS_BYTES_LEFT.get().is_none() {
        return CallError::new(Reason::Limit, format!("the JSON has {TOO_MANY_ITEMS}"));
    }
    if without_position(&problem) == *TOO_DEEP {
        return CallError::new(Reason::Limit, "the JSON is nested deeper than 128 levels");
    }
    let (line, column) = (error.line(), error.column());
    match error.classify() {
        _ if text.is_empty() => CallError::new(Reason::Parse, "the body is empty"),
        _ if looks_like_html(text.as_bytes()) => {
            CallError::new(Reason::Parse, "the body is HTML, not JSON; is the url right?")
        }
        Category::Data => {
            let message = format!("the JSON has another shape: {} at line {line} column {column}", mismatch(&problem));
            CallError::new(Reason::Schema, message)
        }
        // `serde_json` has a fixed sentence for each syntax error.
        Category::Eof => CallError::new(Reason::Parse, format!("the JSON ends too early: {problem}")),
        Category::Syntax | Category::Io => CallError::new(Reason::Parse, format!("the body is not JSON: {problem}")),
    }
}

/// The error without its ` at line 1 column 2`.
fn without_position(error: &str) -> &str {
    error.get(..error.rfind(" at line ").unwrap_or(error.len())).unwrap_or_default()
}

/// What serde says of a value that does not fit, without the value: `invalid type: string "…", expected a number` becomes
/// `invalid type: string, expected a number`.
fn mismatch(error: &str) -> String {
    const FAULTS: [&str; 6] =
        ["invalid type", "invalid value", "invalid length", "unknown variant", "unknown field", "duplicate field"];
    const TYPES: [&str; 8] = ["null", "boolean", "integer", "floating point", "string", "character", "sequence", "map"];
    let error = without_position(error);
    if error.starts_with("missing field `") {
        return error.to_owned(); // it contains only a name of ours
    }
    let fault = FAULTS.into_iter().find(|fault| error.starts_with(fault)).unwrap_or("a value that does not fit");
    let found = error.split_once(": ").and_then(|(_, rest)| TYPES.into_iter().find(|name| rest.starts_with(name)));
    // What is expected is said last, and by our own types.
    let expected = error.rsplit_once(", expected ").map(|(_, expected)| format!(", expected {expected}"));
    format!("{fault}{}{}", found.map(|name| format!(": {name}")).unwrap_or_default(), expected.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::IgnoredAny;
    use serde_json::{Value, json};

    #[test]
    fn half_an_emoji_costs_its_character_and_not_the_document() {
        for half in [r"\ud83d", r"\ude00", r"\ud83d\u0041", r"\ud83dx", r"\ud83d\n"] {
            let document: Value = parse(&format!(r#"{{"name":"{half}","huge":1e999,"one":1}}"#)).unwrap();
            assert_eq!(document["one"], 1, "{half}");
            assert!(document["name"].as_str().unwrap().starts_with('\u{fffd}'), "{half}");
        }
        assert_eq!(parse::<Value>(r#"["\ud83d\ude00"]"#).unwrap(), json!(["\u{1f600}"]));
    }

    #[test]
    fn an_error_tells_the_position_and_what_is_expected_but_not_what_was_written() {
        #[derive(Debug, serde::Deserialize)]
        #[expect(dead_code, reason = "only read")]
        struct Shape {
            number: u8,
            choice: Choice,
        }
        #[derive(Debug, serde::Deserialize)]
        enum Choice {
            One,
        }
        let message = |body: &str| parse::<Shape>(body).unwrap_err().message;
        for (body, sentence) in [
            (
                r#"{"number":"hunter2, expected hunter2 at line 7"}"#,
                "invalid type: string, expected u8 at line 1 column 47",
            ),
            (r#"{"number":1234567}"#, "invalid value: integer, expected u8 at line 1 column 17"),
            (r#"{"number":1,"choice":"hunter2"}"#, "unknown variant, expected `One` at line 1 column 30"),
            (r#"{"number":1}"#, "missing field `choice` at line 1 column 12"),
            (r#"["hunter2"]"#, "invalid type: string, expected u8 at line 1 column 10"),
        ] {
            assert_eq!(message(body), format!("the JSON has another shape: {sentence}"));
        }
        for body in [r#"{"number":hunter2}"#, r#"{"hunter2""#, "hunter2"] {
            assert!(!message(body).contains("hunter2"), "{body}");
        }
    }

    #[test]
    fn a_document_that_is_nested_too_deep_is_an_error_of_the_limit() {
        let nested = |levels: usize| parse::<Value>(&format!("{}{}", "[".repeat(levels), "]".repeat(levels)));
        assert!(nested(127).is_ok());
        assert_eq!(nested(128).unwrap_err().reason, Reason::Limit);
        assert_eq!(parse::<Value>(&"[".repeat(127)).unwrap_err().reason, Reason::Parse);
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        assert_eq!(parse::<Value>("\u{feff}[1]").unwrap(), json!([1]));
    }

    #[test]
    fn a_document_whose_items_take_too_much_memory_is_an_error_of_the_limit_and_the_next_is_read() {
        #[derive(Debug)]
        #[expect(dead_code, reason = "only its size matters")]
        struct Large([Number; 64]);
        impl FromJson for Large {
            fn object<'de, A: serde::de::MapAccess<'de>>(mut entries: A) -> Result<Option<Self>, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Some(Self([Number::Absent; 64])))
            }
        }
        let list = |items: usize| parse::<JsonList<Large>>(&format!("[{}{{}}]", "{},".repeat(items)));
        let error = list(MAX_ITEMS_BYTES / size_of::<Large>()).unwrap_err();
        assert_eq!((error.reason, error.message.contains("32 MiB")), (Reason::Limit, true));
        assert_eq!(list(10).unwrap().items.len(), 11);
    }

    #[test]
    fn lone_surrogates_are_replaced_and_pairs_are_kept() {
        let repaired = repair(r#"{"\ud83d\ude00":"\ud83d","\\ud83d":"\ude00\ud83dx\u00e9","é\n\uD8"#).unwrap();
        assert_eq!(repaired, "{\"\\ud83d\\ude00\":\"\u{fffd}\",\"\\\\ud83d\":\"\u{fffd}\u{fffd}x\\u00e9\",\"é\\n\\uD8");
        assert_eq!(repair("\\"), None);
        assert_eq!(repair("\"\\"), None);
    }

    #[test]
    fn numbers_too_large_for_a_double_are_replaced_outside_of_strings_only() {
        assert_eq!(
            repair(r#"{"a 1e999 \" 1e999":1e999,"b":[-1E+400,12.5e1],"c":"1e999"}"#).unwrap(),
            r#"{"a 1e999 \" 1e999":true,"b":[true,12.5e1],"c":"1e999"}"#
        );
        assert_eq!(repair(r#"{"cut off: 1e999"#), None);
    }
}
