//! The answer to a call, or the reason why there is none.

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::json;
use crate::failure::{CallError, Reason};

/// A complete HTTP response, whatever its status.
#[derive(Clone, Debug)]
pub struct Response {
    /// The HTTP status code.
    pub status: u16,
    /// The header `Content-Type`, if there is one that is text and not longer than a few hundred bytes.
    pub content_type: Option<Box<str>>,
    /// The body, decompressed, at most `--max-body-bytes` long.
    pub body: Bytes,
}

/// The result of one call: a complete response, or why there is none.
#[derive(Clone, Debug)]
pub struct Answer(pub Result<Response, CallError>);

impl Answer {
    /// The body of an answer with a 2xx status; otherwise the reason: `auth` for 401 and 403, else `http_status`.
    pub fn success(&self) -> Result<&Bytes, CallError> {
        let response = self.0.as_ref().map_err(Clone::clone)?;
        match response.status {
            200..=299 => Ok(&response.body),
            401 | 403 => Err(CallError::new(Reason::Auth, format!("answered {}", response.summary()))),
            300..=399 => Err(CallError::new(
                Reason::HttpStatus,
                format!("answered {}; redirects are not followed, write the final url", named(response.status)),
            )),
            _ => Err(CallError::new(Reason::HttpStatus, format!("answered {}", response.summary()))),
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
    /// `parse` when it is not JSON, `schema` when it is JSON of another shape, `limit` when it is nested too deep or has too many
    /// items. Bytes that are not UTF-8 become U+FFFD, as do halves of surrogate pairs, and numbers that no double can hold make their
    /// field invalid, not the document. A byte order mark is skipped.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        json::parse(&self.text()?)
    }
}

impl Response {
    /// A description of the response without its content: `403 Forbidden, 42 bytes of JSON`. The content may be confidential or repeat the
    /// credentials of the request, and everyone who can see the target can see this.
    fn summary(&self) -> String {
        let status = named(self.status);
        let class = match self.body.trim_ascii_start().first() {
            None if self.body.is_empty() => return format!("{status}, without a body"),
            _ if looks_like_html(&self.body) => "HTML",
            Some(b'{' | b'[') => "JSON",
            Some(b'<') => "XML",
            _ if std::str::from_utf8(&self.body).is_ok() => "text",
            _ => return format!("{status}, {} bytes", self.body.len()),
        };
        format!("{status}, {} bytes of {class}", self.body.len())
    }
}

/// A status with its standard reason phrase, whatever the server sent.
fn named(status: u16) -> String {
    let name = reqwest::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    name.map_or_else(|| status.to_string(), |name| format!("{status} {name}"))
}

pub(super) fn looks_like_html(body: &[u8]) -> bool {
    let start = body[..body.len().min(256)].trim_ascii_start();
    let begins = |tag: &[u8]| start.len() >= tag.len() && start[..tag.len()].eq_ignore_ascii_case(tag);
    begins(b"<!doctype html") || begins(b"<html") || begins(b"<head") || begins(b"<body")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_described_without_the_content_of_the_server() {
        let message = |status, body: &'static [u8]| {
            Answer(Ok(Response { status, content_type: None, body: Bytes::from_static(body) }))
                .success()
                .unwrap_err()
                .message
        };
        assert_eq!(message(403, b" {\"token\":\"hunter2\"}"), "answered 403 Forbidden, 20 bytes of JSON");
        assert_eq!(message(401, b"hunter2"), "answered 401 Unauthorized, 7 bytes of text");
        assert_eq!(message(502, b"<!DOCTYPE html>hunter2"), "answered 502 Bad Gateway, 22 bytes of HTML");
        assert_eq!(message(500, b"<?xml?>"), "answered 500 Internal Server Error, 7 bytes of XML");
        assert_eq!(message(500, b"\xff\xfe"), "answered 500 Internal Server Error, 2 bytes");
        assert_eq!(message(599, b""), "answered 599, without a body");
        let redirect = "answered 302 Found; redirects are not followed, write the final url";
        assert_eq!(message(302, b"hunter2"), redirect);
    }
}
