//! A web server, probed with HTTP requests: what the blackbox exporter's module `http` does, with its families.

mod body;
mod connection;
mod cookies;
mod decompress;
mod judge;
mod parts;
mod redirects;
mod request;
mod stream;

use std::sync::Arc;

use ::http::Method;
use futures::future::BoxFuture;
use regex::Regex;
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::probe::{FAILED_DUE_TO_REGEX, Pattern, phases};
use super::{CallError, Field, Probe, Prober, Recorder, SecretKeyRef, SharedFamilies, UrlForm, UrlQuery, UrlSeparator};
use crate::metric::Desc;
use crate::rule::{FieldError, Rule, host, patterns, port};
use judge::HeaderTest;
pub use parts::{AnswerPart, HOME, read_part};
use request::RequestTemplate;

/// The request to a web server, and what its answer must be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// The status codes of a good answer. Empty: 200 to 299.
    #[schemars(length(max = 64), inner(range(min = 100, max = 599)))]
    pub valid_status_codes: Vec<u16>,
    /// The versions of HTTP that a good answer may have. Empty: any.
    #[schemars(length(max = 8))]
    pub valid_http_versions: Vec<HttpVersion>,
    /// The method of the request, in capital letters.
    #[schemars(length(max = 32))]
    pub method: String,
    /// The body of the request. Write a `Content-Type` into `headers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub body: Option<String>,
    /// The body of the request, from a Secret. It is not sent to a server that the probed one redirects to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_secret_ref: Option<SecretKeyRef>,
    /// The most bytes that the body of a good answer may have, after decompression: a whole number of bytes, or one with K, M or G, which
    /// may be followed by `B`, `i` or `iB`. `10M`, `10MB`, `10Mi` and `10MiB` are 10 × 1024 × 1024. 0: only `--max-body-bytes` limits it.
    #[schemars(length(max = 16))]
    pub body_size_limit: String,
    /// How the body of a good answer must be compressed; it is decompressed before it is compared. No header asks for it: write
    /// `Accept-Encoding` into `headers`. Without this option, nothing is decompressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Whether redirects are followed, up to 10. Credentials, and headers other than `Accept*`, `Content-*` and `User-Agent`, are sent only
    /// to the scheme, host and port in `url`.
    pub follow_redirects: bool,
    /// The probe fails if the last answer came over TLS.
    pub fail_if_ssl: bool,
    /// The probe fails if the last answer did not come over TLS.
    pub fail_if_not_ssl: bool,
    /// The probe fails if the body matches one of these regular expressions. They are not anchored.
    #[schemars(length(max = 16), inner(length(max = 512)))]
    pub fail_if_body_matches_regexp: Vec<String>,
    /// The probe fails if the body does not match all of these regular expressions.
    #[schemars(length(max = 16), inner(length(max = 512)))]
    pub fail_if_body_not_matches_regexp: Vec<String>,
    /// The probe fails if a header of the answer matches: any value of it is enough.
    #[schemars(length(max = 8))]
    pub fail_if_header_matches: Vec<HeaderRule>,
    /// The probe fails if a header of the answer does not match: one of its values must.
    #[schemars(length(max = 8))]
    pub fail_if_header_not_matches: Vec<HeaderRule>,
    /// Whether HTTP/2 is offered to servers over TLS.
    pub enable_http2: bool,
    /// With `proxyUrl`, whether only the proxy resolves the host in `url`. Otherwise a host that cannot be resolved here makes the probe fail.
    pub skip_resolve_phase_with_proxy: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            valid_status_codes: Vec::new(),
            valid_http_versions: Vec::new(),
            method: "GET".to_owned(),
            body: None,
            body_secret_ref: None,
            body_size_limit: "0".to_owned(),
            compression: None,
            follow_redirects: true,
            fail_if_ssl: false,
            fail_if_not_ssl: false,
            fail_if_body_matches_regexp: Vec::new(),
            fail_if_body_not_matches_regexp: Vec::new(),
            fail_if_header_matches: Vec::new(),
            fail_if_header_not_matches: Vec::new(),
            enable_http2: true,
            skip_resolve_phase_with_proxy: false,
        }
    }
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum HttpVersion {
    /// HTTP/1.0.
    #[serde(rename = "HTTP/1.0")]
    Http10,
    /// HTTP/1.1.
    #[serde(rename = "HTTP/1.1")]
    Http11,
    /// HTTP/2.
    #[serde(rename = "HTTP/2.0")]
    Http20,
    /// HTTP/2.
    #[serde(rename = "HTTP/2")]
    Http2,
}

/// A compression of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// None.
    Identity,
    /// gzip.
    Gzip,
    /// Brotli.
    Br,
    /// DEFLATE without a header around it.
    Deflate,
}

/// A test of one header of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderRule {
    /// The name of the header.
    #[schemars(length(min = 1, max = 128))]
    pub header: String,
    /// A regular expression, not anchored.
    #[schemars(length(max = 512))]
    pub regexp: String,
    /// Whether an answer without this header passes the test.
    #[serde(default)]
    pub allow_missing: bool,
}

patterns! {
    /// A url of http or https with a query.
    URL = concat!("^https?://", host!(), port!(), super::surface::path_and_query!(), "$");
    METHOD = "^[A-Z][A-Z_-]*$";
    SIZE = "^(0|[1-9][0-9]{0,8})([KMG]i?)?B?$";
    HEADER_NAME = "^[a-zA-Z0-9!#$%&'*+.^_`|~-]+$";
}

impl super::Options for Options {
    const URL: UrlForm = UrlForm {
        pattern: &URL,
        message: "url must be http://HOST:PORT/PATH?QUERY or https://HOST:PORT/PATH?QUERY, with a port from 1 to 65535 if any, and without \
                  user, password, fragment, backslash or whitespace",
        separator: UrlSeparator::Slashes,
    };
    const URL_USAGE: &'static str = "it is requested as it stands";
    const URL_QUERY: UrlQuery = UrlQuery::AsWritten;
    const FIELDS: &'static [Field] =
        &[Field::AnyHeaders, Field::Credentials, Field::Tls, Field::Proxy, Field::Addresses];
    const REGEXES: &'static [&'static str] = &[
        "spec.http.failIfBodyMatchesRegexp[]",
        "spec.http.failIfBodyNotMatchesRegexp[]",
        "spec.http.failIfHeaderMatches[].regexp",
        "spec.http.failIfHeaderNotMatches[].regexp",
    ];
    const CONFIDENTIAL: &'static [&'static str] = &["spec.http.body"];
    const TYPE_HINTS: &'static [(&'static str, &'static str)] = &[
        (
            "spec.http.validStatusCodes",
            "write a list of numbers, for instance [200, 204, 404]; without this field, 200 to 299 are good",
        ),
        ("spec.http.bodySizeLimit", "write a text, for instance 512KB or 10MB"),
    ];
    const RESERVED: &'static [(&'static str, &'static str)] = &[
        ("failIfBodyJsonMatchesCel", "CEL expressions are not supported, write failIfBodyMatchesRegexp instead"),
        ("failIfBodyJsonNotMatchesCel", "CEL expressions are not supported, write failIfBodyNotMatchesRegexp instead"),
        ("enableHttp3", "HTTP/3 is not supported, remove it"),
        ("noFollowRedirects", "write followRedirects: false instead of true, and the other way round"),
        ("bodyFile", "write the text itself into body, or its place in a Secret into bodySecretRef"),
    ];

    fn rules() -> Vec<Rule> {
        vec![
            Rule::new(
                "spec.http",
                "!has(self.body) || !has(self.bodySecretRef)",
                "body and bodySecretRef are mutually exclusive, remove one of them",
            )
            .field("body")
            .holds_if(|http| http.get("body").is_none() || http.get("bodySecretRef").is_none()),
            Rule::matches(
                "spec.http.method",
                &METHOD,
                "must be a method of HTTP in capital letters, for instance GET, HEAD or POST",
            )
            .more_of_text(|method| {
                let method = method.trim().to_ascii_uppercase();
                METHOD.is_match(&method).then(|| format!("write {method}"))
            }),
            Rule::matches(
                "spec.http.bodySizeLimit",
                &SIZE,
                "must be a whole number of bytes, or of KB, MB, GB, KiB, MiB or GiB, where 1 KB is 1024 bytes, for instance 512KB or 10MB; 0 is no limit",
            ),
            Rule::matches(
                "spec.http.failIfHeaderMatches[].header",
                &HEADER_NAME,
                "must be the name of a header, of letters, digits and the characters !#$%&'*+-.^_`|~, without colon",
            )
            .also(&["spec.http.failIfHeaderNotMatches[].header"]),
            Rule::new(
                "spec.http",
                "!(self.failIfSsl && self.failIfNotSsl)",
                "with failIfSsl and failIfNotSsl together every answer fails, remove one of them",
            )
            .field("failIfSsl")
            .holds_if(|http| {
                let is_set = |field: &str| http.get(field) == Some(&Value::Bool(true));
                !(is_set("failIfSsl") && is_set("failIfNotSsl"))
            }),
            Rule::new(
                "spec",
                "self.type != 'Http' || !has(self.headers) || \
                 !self.headers.exists(h, h.name.lowerAscii().startsWith('sec-websocket-'))",
                "Sec-WebSocket-* are headers of a WebSocket handshake, which type Http does not make, remove them",
            )
            .field("headers")
            .holds_if(|spec| {
                spec.get("type").and_then(Value::as_str) != Some("Http")
                    || !super::has_header(spec, |name| name.starts_with("sec-websocket-"))
            }),
            Rule::new(
                "spec.http.method",
                "!(self in ['CONNECT', 'TRACE'])",
                "CONNECT and TRACE are no requests for a page, write another method",
            )
            .holds_if_text(|method| !matches!(method, "CONNECT" | "TRACE")),
            Rule::new(
                "spec",
                format!(
                    "!has(self.http) || !has(self.http.compression) || !has(self.headers) || self.headers.all(h, \
                     h.name.lowerAscii() != 'accept-encoding' || !has(h.value) || h.value.matches(r'{BEFORE}' + \
                     self.http.compression + r'{AFTER}'))"
                ),
                "the header Accept-Encoding does not accept http.compression, add it to the header or remove one of them",
            )
            .field("http.compression")
            .holds_if(|spec| {
                let Some(compression) = spec.pointer("/http/compression").and_then(Value::as_str) else { return true };
                let text = |header: &Value, field: &str| header.get(field).and_then(Value::as_str).map(str::to_owned);
                let headers = spec.get("headers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                let accepting = headers.iter().filter_map(|header| {
                    let name = text(header, "name")?;
                    if name.eq_ignore_ascii_case("accept-encoding") { text(header, "value") } else { None }
                });
                accepting.into_iter().all(|value| accepts(&value, compression))
            }),
        ]
    }

    fn secrets(&self) -> Vec<(String, &SecretKeyRef)> {
        self.body_secret_ref.iter().map(|key| ("bodySecretRef".to_owned(), key)).collect()
    }
}

/// What stands before and after the name of an encoding that an `Accept-Encoding` accepts. `*` accepts every one.
const BEFORE: &str = "(^|,)[ \\t]*([*]|";
const AFTER: &str = ")[ \\t]*(;[ \\t]*q=[0-9.]*[1-9][0-9.]*)?[ \\t]*(,|$)";

fn accepts(accept_encoding: &str, compression: &str) -> bool {
    Regex::new(&format!("{BEFORE}{compression}{AFTER}")).is_ok_and(|accepting| accepting.is_match(accept_encoding))
}

impl super::ProbeOptions for Options {
    fn prober(&self, url: &Url) -> Result<Arc<dyn Prober>, Vec<FieldError>> {
        let mut errors = Vec::new();
        let method = Method::from_bytes(self.method.as_bytes());
        if method.is_err() {
            errors.push(FieldError::new("spec.http.method", "is no method of HTTP, write for instance GET"));
        }
        let prober = HttpProber {
            request: RequestTemplate::new(url, method.unwrap_or_default(), self),
            answer: AnswerRules {
                valid_status_codes: self.valid_status_codes.clone().into(),
                valid_http_versions: self.valid_http_versions.clone().into(),
                body_size_limit: size(&self.body_size_limit),
                compression: self.compression,
                fail_if_ssl: self.fail_if_ssl,
                fail_if_not_ssl: self.fail_if_not_ssl,
                body_matches: Pattern::list(
                    "spec.http.failIfBodyMatchesRegexp",
                    &self.fail_if_body_matches_regexp,
                    &mut errors,
                ),
                body_not_matches: Pattern::list(
                    "spec.http.failIfBodyNotMatchesRegexp",
                    &self.fail_if_body_not_matches_regexp,
                    &mut errors,
                ),
                header_tests: {
                    let (bad, good) = (&self.fail_if_header_matches, &self.fail_if_header_not_matches);
                    let mut tests = Vec::with_capacity(bad.len() + good.len());
                    HeaderTest::add(&mut tests, "spec.http.failIfHeaderMatches", bad, true, &mut errors);
                    HeaderTest::add(&mut tests, "spec.http.failIfHeaderNotMatches", good, false, &mut errors);
                    tests.into()
                },
            },
        };
        if errors.is_empty() { Ok(Arc::new(prober)) } else { Err(errors) }
    }
}

/// The bytes that a size means; none for 0.
fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let shift = match unit.chars().next() {
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        _ => 0,
    };
    digits.parse::<u64>().ok().filter(|bytes| *bytes > 0).map(|bytes| bytes.saturating_mul(1 << shift))
}

crate::descs! {
    DURATION = gauge "probe_http_duration_seconds" ["phase"] "Time that each phase of the probe took in seconds, summed over redirects: resolve, connect, tls, processing (until the first byte of the answer), transfer (of the last answer).";
    STATUS_CODE = gauge "probe_http_status_code" [] "Status code of the last answer; 0 if there is none.";
    CONTENT_LENGTH = gauge "probe_http_content_length" [] "Length of the body as the header of the last answer declares it; -1 if it does not, 0 if there is no answer.";
    BODY_LENGTH = gauge "probe_http_uncompressed_body_length" [] "Bytes of the body that were read, after decompression.";
    REDIRECTS = gauge "probe_http_redirects" [] "Redirects that were answered, including one that was not followed.";
    SSL = gauge "probe_http_ssl" [] "Whether the last answer came over TLS.";
    VERSION = gauge "probe_http_version" [] "HTTP version of the last answer: 1.1, 2; 0 if there is none.";
    LAST_MODIFIED = gauge "probe_http_last_modified_timestamp_seconds" [] "Unix time in the header Last-Modified of the last answer, if it has one.";
}

/// Every family of this kind.
pub fn families() -> Vec<&'static Desc> {
    use SharedFamilies as Shared;
    [FAMILIES, Shared::ADDRESS, Shared::TLS, Shared::CIPHER, Shared::PATTERNS].concat()
}

phases! {
    Phase of DURATION:
    Resolve => "resolve",
    Connect => "connect",
    Tls => "tls",
    Processing => "processing",
    Transfer => "transfer",
}

impl Phase {
    /// Those that follow the lookup of the name.
    const AFTER_RESOLVE: &[Self] = Self::ALL.split_at(1).1;
}

/// The prober of one target.
#[derive(Debug)]
struct HttpProber {
    request: RequestTemplate,
    answer: AnswerRules,
}

/// What a good answer must be.
#[derive(Debug)]
struct AnswerRules {
    valid_status_codes: Box<[u16]>,
    valid_http_versions: Box<[HttpVersion]>,
    body_size_limit: Option<u64>,
    compression: Option<Compression>,
    fail_if_ssl: bool,
    fail_if_not_ssl: bool,
    body_matches: Arc<[Pattern]>,
    body_not_matches: Arc<[Pattern]>,
    header_tests: Arc<[HeaderTest]>,
}

impl Prober for HttpProber {
    fn call(&self) -> &'static str {
        "request"
    }

    fn begin(&self, record: &mut Recorder) {
        for desc in [&STATUS_CODE, &CONTENT_LENGTH, &BODY_LENGTH, &REDIRECTS, &SSL, &VERSION, &FAILED_DUE_TO_REGEX] {
            record.set(desc, &[], 0.0);
        }
    }

    fn probe<'p>(&'p self, probe: &'p mut Probe<'_>) -> BoxFuture<'p, Result<(), CallError>> {
        Box::pin(async move {
            let answer = redirects::follow(&self.request, probe).await?;
            judge::judge(&self.answer, answer, probe).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_units_of_1024() {
        for (text, bytes) in [
            ("0", None),
            ("0MB", None),
            ("1", Some(1)),
            ("512B", Some(512)),
            ("10KB", Some(10 << 10)),
            ("10KiB", Some(10 << 10)),
            ("10MB", Some(10 << 20)),
            ("2M", Some(2 << 20)),
            ("1Gi", Some(1 << 30)),
            ("999999999GiB", Some(999_999_999 << 30)),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn an_encoding_is_accepted_as_the_blackbox_exporter_reads_the_header() {
        for (header, encoding, is_accepted) in [
            ("gzip", "gzip", true),
            ("br, gzip", "gzip", true),
            ("gzip, br", "br", true),
            ("br;q=1.0, gzip;q=0.5", "gzip", true),
            ("gzip;q=0", "gzip", false),
            ("gzip;q=0.0, *", "br", true),
            ("*", "gzip", true),
            ("*;q=0", "gzip", false),
            ("br", "gzip", false),
            ("identity", "gzip", false),
            ("x-gzip", "gzip", false),
            ("gzip ; q=0.1", "gzip", true),
            ("", "gzip", false),
        ] {
            assert_eq!(accepts(header, encoding), is_accepted, "{header:?} {encoding}");
        }
    }

    #[test]
    fn the_form_of_the_url_is_one_that_both_dialects_read() {
        for (url, is_good) in [
            ("http://web", true),
            ("https://web.example.com:8443/a%20b/~c?d=e&f[]=g", true),
            ("http://[::1]:80/", true),
            ("http://user@web/", false),
            ("http://web/#fragment", false),
            ("ftp://web/", false),
            ("HTTP://web/", false),
            ("http://web/a b", false),
        ] {
            assert_eq!(URL.is_match(url), is_good, "{url}");
        }
    }
}
