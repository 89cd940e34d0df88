//! Takes our own secrets out of what a server answers: error pages like to quote the request that they refuse.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, HeaderMap};

/// What stands in a secret's place, the same word as in the effective configuration.
const MASK: &[u8] = b"<masked>";

/// Shorter ones cannot be told from ordinary text, and keep nobody out.
const SHORTEST: usize = 4;

/// Only the beginning of a refusal is ever shown, and much less than this of it.
const SHOWN: usize = 8 * 1024;

/// `body` without the values of `headers`, as they were sent or as they read inside (the token, the password).
pub(super) fn mask(body: Bytes, headers: &HeaderMap) -> Bytes {
    let shown = body.len().min(SHOWN);
    let mut head = Cow::Borrowed(&body[..shown]);
    for secret in secrets(headers) {
        if let Some(masked) = replace(&head, &secret) {
            head = Cow::Owned(masked);
        }
    }
    let Cow::Owned(head) = head else { return body };
    let mut masked = BytesMut::from(head.as_slice());
    masked.extend_from_slice(&body[shown..]);
    masked.freeze()
}

/// The texts to hide, the longest first, so that no part of one is left beside the mask of another.
fn secrets(headers: &HeaderMap) -> Vec<Vec<u8>> {
    let mut secrets: Vec<Vec<u8>> = headers.values().map(|value| value.as_bytes().to_vec()).collect();
    for value in headers.get_all(AUTHORIZATION) {
        let Some(space) = value.as_bytes().iter().position(|byte| *byte == b' ') else { continue };
        let credentials = value.as_bytes()[space..].trim_ascii();
        secrets.push(credentials.to_vec());
        if let Ok(pair) = STANDARD.decode(credentials) {
            secrets.extend(pair.iter().position(|byte| *byte == b':').map(|colon| pair[colon + 1..].to_vec()));
        }
    }
    secrets.retain(|secret| secret.len() >= SHORTEST);
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
}

/// `text` with a mask wherever `secret` is; `None` where it is not.
fn replace(text: &[u8], secret: &[u8]) -> Option<Vec<u8>> {
    let find = |text: &[u8]| text.windows(secret.len()).position(|window| window == secret);
    let mut at = find(text)?;
    let (mut rest, mut out) = (text, Vec::with_capacity(text.len() + MASK.len()));
    loop {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(MASK);
        rest = &rest[at + secret.len()..];
        match find(rest) {
            Some(next) => at = next,
            None => break,
        }
    }
    out.extend_from_slice(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn tokens_keys_and_passwords_are_hidden_in_every_form() {
        let sent = headers(&[("authorization", "Basic dXNlcjpodW50ZXIy"), ("x-api-key", "hunter3"), ("x-short", "a")]);
        let body = Bytes::from_static(b"a: Basic dXNlcjpodW50ZXIy, dXNlcjpodW50ZXIy, hunter2hunter3 a");
        assert_eq!(mask(body, &sent), "a: <masked>, <masked>, <masked><masked> a");
        let bearer = headers(&[("authorization", "Bearer hunter2-token")]);
        assert_eq!(mask(Bytes::from_static(b"no token hunter2-token!"), &bearer), "no token <masked>!");
    }

    #[test]
    fn what_holds_no_secret_stays_as_it_is() {
        let sent = headers(&[("x-api-key", "hunter3")]);
        let body = Bytes::from(vec![b'x'; 3 * SHOWN]);
        assert_eq!(mask(body.clone(), &sent), body);
        assert_eq!(mask(Bytes::new(), &sent), "");
    }
}
