//! The answer of a token endpoint, read leniently: whatever the content type, with an expiry as number or text, errors as object or bare text.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use super::error::{TokenError, TokenRefusal};
use super::settings::HiddenValue;

/// The longest token, in bytes: what a header may carry.
const LONGEST_TOKEN: usize = 16 * 1024;

/// The longest lifetime that is believed.
const LONGEST_LIFETIME: Duration = Duration::from_hours(365 * 24);

/// A token as it was issued.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// The token: `b64token` of RFC 6750.
    pub value: HiddenValue,
    /// How long it is valid from now on; `None`: until it is refused.
    pub lifetime: Option<Duration>,
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedToken").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// Reads an answer to a request of `grant` that was received at `now`, as time since 1970.
pub fn read(status: u16, body: &[u8], grant: &str, now: Duration) -> Result<IssuedToken, TokenError> {
    let document = serde_json::from_slice::<Value>(body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body)).ok();
    let refusal = document.as_ref().and_then(refusal);
    if !(200..=299).contains(&status) {
        return Err(TokenError::refused(status, refusal, grant));
    }
    // Some servers answer 200 to whatever they are asked.
    if refusal.is_some() {
        return Err(TokenError::refused(status, refusal, grant));
    }
    let Some(Value::Object(document)) = document else {
        return Err(TokenError::no_document());
    };
    let token = match document.get("access_token") {
        Some(Value::String(token)) if !token.is_empty() => token,
        _ => return Err(TokenError::unusable("the answer has no access_token: correct tokenUrl")),
    };
    if token.len() > LONGEST_TOKEN {
        return Err(TokenError::unusable("the token is longer than 16 KiB, so that no header could carry it"));
    }
    if !is_b64token(token) {
        return Err(TokenError::unusable("the token has characters that a bearer token may not have"));
    }
    let lifetime = document.get("expires_in").and_then(seconds).or_else(|| jwt_lifetime(token, now));
    Ok(IssuedToken {
        value: HiddenValue::new(token.as_bytes()),
        lifetime: lifetime.map(|life| life.min(LONGEST_LIFETIME)),
    })
}

/// The error of the RFC in an answer: in the field `error`, which may be an object with a text in turn, or as a bare text.
fn refusal(document: &Value) -> Option<TokenRefusal> {
    let text = match document {
        Value::String(text) => text,
        _ => match document.get("error")? {
            Value::String(text) => text,
            error => ["name", "message", "code"].iter().find_map(|field| error.get(field)?.as_str())?,
        },
    };
    TokenRefusal::of(text)
}

/// `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
fn is_b64token(text: &str) -> bool {
    let bare = text.trim_end_matches('=');
    let is_char = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    !bare.is_empty() && bare.bytes().all(is_char)
}

/// A lifetime, as number or text. What is no positive number says nothing.
fn seconds(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    let bounded = if seconds.is_nan() { 0.0 } else { seconds.min(LONGEST_LIFETIME.as_secs_f64()) };
    (bounded > 0.0).then(|| Duration::from_secs_f64(bounded))
}

/// The lifetime of a JWT by its `exp`. Nobody verifies it here: the target does. One that has passed already says more about our clock than
/// about a token that was issued this moment.
fn jwt_lifetime(token: &str, now: Duration) -> Option<Duration> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::URL_SAFE,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let claims: Value = serde_json::from_slice(&LENIENT.decode(claims).ok()?).ok()?;
    let end = seconds_since_1970(claims.get("exp")?)?;
    end.checked_sub(now).filter(|left| !left.is_zero())
}

fn seconds_since_1970(value: &Value) -> Option<Duration> {
    /// Beyond it no date is meant.
    const LAST: f64 = 1e12;
    let seconds = value.as_f64().filter(|seconds| *seconds > 0.0)?;
    Some(Duration::from_secs_f64(seconds.min(LAST)))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn good(body: &str) -> IssuedToken {
        read(200, body.as_bytes(), "client_credentials", NOW).unwrap()
    }

    fn message(status: u16, body: &str) -> String {
        read(status, body.as_bytes(), "client_credentials", NOW).unwrap_err().call_error().message
    }

    fn lifetime(fields: &str) -> Option<u64> {
        good(&format!(r#"{{"access_token":"abc"{fields}}}"#)).lifetime.map(|life| life.as_secs())
    }

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn an_expiry_is_read_as_number_and_text_and_what_makes_no_sense_says_nothing() {
        for (fields, wanted) in [
            (r#","expires_in":3599"#, Some(3599)),
            (r#","expires_in":"3599""#, Some(3599)),
            (r#","expires_in":" 60.9 ""#, Some(60)),
            (r#","expires_in":1e300"#, Some(365 * 24 * 3600)),
            (r#","expires_in":"99999999999999999999999""#, Some(365 * 24 * 3600)),
            (r#","expires_in":"inf""#, Some(365 * 24 * 3600)),
            (r#","expires_in":-1"#, None),
            (r#","expires_in":0"#, None),
            (r#","expires_in":"NaN""#, None),
            (r#","expires_in":"soon""#, None),
            (r#","expires_in":null"#, None),
            (r#","expires_in":[3600]"#, None),
            ("", None),
        ] {
            assert_eq!(lifetime(fields), wanted, "{fields}");
        }
    }

    #[test]
    fn the_end_of_a_jwt_counts_where_the_answer_does_not_say_one() {
        let of = |claims: &str| {
            let body = format!(r#"{{"access_token":"{}","token_type":"jwt","scope":["jwt"]}}"#, jwt(claims));
            good(&body).lifetime.map(|life| life.as_secs())
        };
        assert_eq!(of(r#"{"exp":1800003600}"#), Some(3600));
        assert_eq!(of(r#"{"exp":1800003600.5}"#), Some(3600));
        assert_eq!(of(r#"{"exp":1e300}"#), Some(365 * 24 * 3600));
        for claims in [r#"{"exp":1799999999}"#, r#"{"exp":"1800003600"}"#, r#"{"exp":-1}"#, "{}", "[]", "x"] {
            assert_eq!(of(claims), None, "{claims}");
        }
        let both = format!(r#"{{"access_token":"{}","expires_in":60}}"#, jwt(r#"{"exp":1800003600}"#));
        assert_eq!(good(&both).lifetime, Some(Duration::from_secs(60)));
    }

    #[test]
    fn a_token_is_what_a_header_can_carry() {
        assert_eq!(good(r#"{"access_token":"a-._~+/Z9=="}"#).value.expose(), b"a-._~+/Z9==");
        assert_eq!(good("\u{feff}{\"access_token\":\"a\"}").value.expose(), b"a");
        for token in [r"a\r\nX-Evil: 1", r"a\nb", "a b", "=", "a=b", "é", r"a\u0000"] {
            let message = message(200, &format!(r#"{{"access_token":"{token}"}}"#));
            assert_eq!(message, "token: parse: the token has characters that a bearer token may not have", "{token}");
        }
        let long = |length: usize| format!(r#"{{"access_token":"{}"}}"#, "a".repeat(length));
        assert_eq!(good(&long(LONGEST_TOKEN)).value.expose().len(), LONGEST_TOKEN);
        assert!(message(200, &long(LONGEST_TOKEN + 1)).contains("longer than 16 KiB"));
        for body in ["{}", r#"{"access_token":""}"#, r#"{"access_token":7}"#, r#"{"access_token":null}"#] {
            assert_eq!(message(200, body), "token: parse: the answer has no access_token: correct tokenUrl");
        }
        for body in ["", "<html>hunter2</html>", "[1]", "\"abc\"", "{", "\u{fffd}"] {
            assert_eq!(message(200, body), "token: parse: the answer is no JSON object: correct tokenUrl", "{body}");
        }
    }

    #[test]
    fn every_error_of_the_rfc_has_its_sentence() {
        for (word, advice) in [
            ("invalid_request", "correct endpointParams and scopes"),
            ("invalid_client", "correct clientId and clientSecret"),
            ("invalid_grant", "issues no token to this client alone"),
            ("unauthorized_client", "the grant is not enabled for this application: enable client_credentials"),
            ("unsupported_grant_type", "does not offer the grant client_credentials"),
            ("invalid_scope", "correct scopes"),
        ] {
            let message = message(400, &format!(r#"{{"error":"{word}","error_description":"hunter2"}}"#));
            assert!(message.starts_with(&format!("token: answered 400 {word}: ")), "{message}");
            assert!(message.contains(advice) && !message.contains("hunter2"), "{message}");
            let error = read(400, format!(r#"{{"error":"{word}"}}"#).as_bytes(), "password", NOW).unwrap_err();
            assert!(word != "invalid_grant" || error.message().contains("correct the values of user"), "{error:?}");
            assert!(error.outcome == word && !error.is_outage && error.may_be_style);
        }
    }

    #[test]
    fn errors_are_also_read_as_bare_text_in_words_and_in_an_answer_of_200() {
        for body in [
            r#""invalid_client""#,
            r#""Invalid client: client is invalid""#,
            r#"{"error":"INVALID_CLIENT"}"#,
            r#"{"error":{"code":401,"message":"invalid_client","title":"Unauthorized"}}"#,
        ] {
            assert!(message(401, body).starts_with("token: answered 401 invalid_client: "), "{body}");
        }
        assert!(message(200, r#"{"error":"invalid_grant"}"#).contains("answered 200 invalid_grant"));
    }

    #[test]
    fn an_answer_of_another_server_is_not_quoted() {
        for (status, body) in [
            (403, "hunter2"),
            (404, "<html>hunter2</html>"),
            (500, r#"{"error":"hunter2"}"#),
            (302, "hunter2"),
            (418, r#"{"error":{"message":"hunter2"}}"#),
            (400, r#""hunter2: invalid_client""#),
        ] {
            let message = message(status, body);
            assert!(
                message.starts_with(&format!("token: answered {status}")) && !message.contains("hunter2"),
                "{message}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_it_panic(status in 100_u16..600, body in ".{0,80}", token in "[a-z.=]{0,20}", life in ".{0,12}") {
            let _ = read(status, body.as_bytes(), "password", NOW);
            let body = serde_json::json!({ "access_token": token, "expires_in": life });
            let _ = read(status, body.to_string().as_bytes(), "password", NOW);
        }
    }
}
