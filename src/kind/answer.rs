//! What came back of a call, and why it may be worth nothing.

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::json::{TOO_MANY_ITEMS, begin_document, without_huge_numbers, without_lone_surrogates};

/// Why a poll or one of its calls failed: the closed set of the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Nothing has been polled yet.
    Pending,
    /// `spec.suspend` is true.
    Suspended,
    /// The target's own declaration cannot be used: a Secret is missing, an address is denied, …
    Config,
    /// The host's name has no address.
    Dns,
    /// No TCP connection, or it broke before there was an answer.
    Connect,
    /// No TLS session: certificate, name, protocol.
    Tls,
    /// `spec.timeout` or the scrape's own timeout passed.
    Timeout,
    /// An answer with another status than the call wants.
    HttpStatus,
    /// 401 or 403.
    Auth,
    /// The body ended early, broke off, or was badly compressed.
    Body,
    /// The body is not what it should be: HTML, truncated JSON, text that is no exposition.
    Parse,
    /// Well-formed, but not the document that this kind speaks.
    Schema,
    /// Larger than `--max-body-bytes`, deeper than JSON may be, or more series than `spec.sampleLimit`.
    Limit,
    /// A fault of the exporter's own.
    Internal,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub const ALL: &[Self] = &[
        Self::Pending,
        Self::Suspended,
        Self::Config,
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::HttpStatus,
        Self::Auth,
        Self::Body,
        Self::Parse,
        Self::Schema,
        Self::Limit,
        Self::Internal,
    ];

    /// The value of the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Suspended => "suspended",
            Self::Config => "config",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::HttpStatus => "http_status",
            Self::Auth => "auth",
            Self::Body => "body",
            Self::Parse => "parse",
            Self::Schema => "schema",
            Self::Limit => "limit",
            Self::Internal => "internal",
        }
    }

    /// The same word as the reason of a condition: CamelCase.
    pub const fn condition(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Suspended => "Suspended",
            Self::Config => "Config",
            Self::Dns => "Dns",
            Self::Connect => "Connect",
            Self::Tls => "Tls",
            Self::Timeout => "Timeout",
            Self::HttpStatus => "HttpStatus",
            Self::Auth => "Auth",
            Self::Body => "Body",
            Self::Parse => "Parse",
            Self::Schema => "Schema",
            Self::Limit => "Limit",
            Self::Internal => "Internal",
        }
    }
}

/// A call that gave nothing usable. The message is for the person who must act; it never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// The kind of failure.
    pub reason: Reason,
    /// What happened, in a sentence without its end.
    pub message: String,
}

impl CallError {
    /// A failure with its reason.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// A complete HTTP response, whatever its status.
#[derive(Clone, Debug)]
pub struct Response {
    /// The HTTP status code.
    pub status: u16,
    /// The body, decompressed, at most `--max-body-bytes` long.
    pub body: Bytes,
}

/// What one call of a poll brought: a whole response, or the reason why there is none.
#[derive(Clone, Debug)]
pub struct Answer(pub Result<Response, CallError>);

impl Answer {
    /// The body of an answer with a 2xx status; otherwise why not, 401 and 403 told apart.
    pub fn success(&self) -> Result<&Bytes, CallError> {
        let response = self.0.as_ref().map_err(Clone::clone)?;
        match response.status {
            200..=299 => Ok(&response.body),
            status @ (401 | 403) => {
                Err(CallError::new(Reason::Auth, format!("answered {status}{}", response.excerpt())))
            }
            status @ 300..=399 => Err(CallError::new(
                Reason::HttpStatus,
                format!("answered {status}; redirects are not followed, write the final url"),
            )),
            status => Err(CallError::new(Reason::HttpStatus, format!("answered {status}{}", response.excerpt()))),
        }
    }

    /// The text of an answer with a 2xx status. Bytes that are no UTF-8 become U+FFFD, which is longer: a large body that is full of them is
    /// no text.
    pub fn text(&self) -> Result<Cow<'_, str>, CallError> {
        const SMALL: usize = 64 << 10;
        let body = self.success()?;
        let text = String::from_utf8_lossy(body);
        if text.len() > SMALL && text.len() > body.len() + body.len() / 8 {
            return Err(CallError::new(Reason::Parse, "the body is not UTF-8"));
        }
        Ok(text)
    }

    /// The JSON document of an answer with a 2xx status.
    ///
    /// `parse` when it is no JSON, `schema` when it is JSON of another shape, `limit` when it is nested too deep or has too many
    /// items. Bytes that
    /// are no UTF-8 become U+FFFD, as do halves of surrogate pairs, and numbers that no double can hold cost their field, not the
    /// document. A byte order mark is passed over.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        let body = self.success()?;
        let text = self.text()?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        begin_document();
        match serde_json::from_str(text) {
            Err(error) if is_repairable(&error.to_string()) => {
                begin_document();
                serde_json::from_str(&without_lone_surrogates(&without_huge_numbers(text)))
            }
            result => result,
        }
        .map_err(|error| json_error(body, &error))
    }
}

impl Response {
    /// The start of the body on one line, as ` (…)`, to be appended to an error; empty for an empty body.
    pub fn excerpt(&self) -> String {
        const LENGTH: usize = 120;
        let start = &self.body[..self.body.len().min(4 * LENGTH)];
        let line: String = String::from_utf8_lossy(start)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .chars()
            .filter(|c| !c.is_control())
            .take(LENGTH)
            .collect();
        if line.is_empty() { String::new() } else { format!(" ({line})") }
    }
}

/// Whether a document fails for something that costs one value of it, by what `serde_json` says.
fn is_repairable(error: &str) -> bool {
    ["number out of range", "lone leading surrogate", "unexpected end of hex escape"]
        .iter()
        .any(|e| error.starts_with(e))
}

fn json_error(body: &[u8], error: &serde_json::Error) -> CallError {
    use serde_json::error::Category;
    let text = error.to_string();
    if text.starts_with("recursion limit exceeded") {
        return CallError::new(Reason::Limit, "the JSON is nested deeper than 128 levels");
    }
    if text.starts_with(TOO_MANY_ITEMS) {
        return CallError::new(Reason::Limit, format!("the JSON has {TOO_MANY_ITEMS}"));
    }
    match error.classify() {
        _ if body.is_empty() => CallError::new(Reason::Parse, "the body is empty"),
        _ if looks_like_html(body) => CallError::new(Reason::Parse, "the body is HTML, not JSON; is the url right?"),
        Category::Data => CallError::new(Reason::Schema, format!("the JSON has another shape: {text}")),
        Category::Eof => CallError::new(Reason::Parse, format!("the JSON ends too early: {text}")),
        Category::Syntax | Category::Io => CallError::new(Reason::Parse, format!("the body is not JSON: {text}")),
    }
}

fn looks_like_html(body: &[u8]) -> bool {
    let start = body[..body.len().min(256)].trim_ascii_start();
    let begins = |tag: &[u8]| start.len() >= tag.len() && start[..tag.len()].eq_ignore_ascii_case(tag);
    begins(b"<!doctype html") || begins(b"<html") || begins(b"<head") || begins(b"<body")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(body: &str) -> Result<Value, CallError> {
        Answer(Ok(Response { status: 200, body: Bytes::from(body.to_owned()) })).json()
    }

    #[test]
    fn half_an_emoji_costs_its_character_and_not_the_document() {
        for half in [r"\ud83d", r"\ude00", r"\ud83d\u0041", r"\ud83dx", r"\ud83d\n"] {
            let document = read(&format!(r#"{{"name":"{half}","huge":1e999,"one":1}}"#)).unwrap();
            assert_eq!(document["one"], 1, "{half}");
            assert!(document["name"].as_str().unwrap().starts_with('\u{fffd}'), "{half}");
        }
        assert_eq!(read(r#"["\ud83d\ude00"]"#).unwrap(), json!(["\u{1f600}"]));
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        assert_eq!(read("\u{feff}[1]").unwrap(), json!([1]));
    }
}
