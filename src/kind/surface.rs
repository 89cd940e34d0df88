//! What the schema of the spec must know of a kind: how its url is written, and which common fields mean something for it.

use std::sync::LazyLock;

use reqwest::Url;
use serde_json::Value;
use url::ParseError;

use crate::rule::{Rule, RulePattern, host, patterns, port};

/// How the url of a kind is written.
#[derive(Clone, Copy, Debug)]
pub struct UrlForm {
    /// What it must match.
    pub pattern: &'static LazyLock<RulePattern>,
    /// What is said if it does not: what to write.
    pub message: &'static str,
    /// What stands between scheme and host.
    pub separator: UrlSeparator,
}

/// What stands between the scheme and the host of a url.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UrlSeparator {
    /// `://`, as in most urls.
    Slashes,
    /// `:` alone, as in `stun:host` (RFC 7064).
    Colon,
}

impl UrlSeparator {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Slashes, Self::Colon];

    /// Its characters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slashes => "://",
            Self::Colon => ":",
        }
    }

    /// The parts of a url. One without slashes would have no host by the standard of browsers, so it is read as if it had them: all that
    /// needs the host of a url, rules above all, finds it then. People are shown the url as it was written.
    pub fn parse(self, url: &str) -> Result<Url, ParseError> {
        match (self, url.split_once(':')) {
            (Self::Colon, Some((scheme, rest))) => Url::parse(&format!("{scheme}://{rest}")),
            _ => Url::parse(url),
        }
    }
}

/// A path, and a query, with what RFC 3986 allows in them.
macro_rules! path_and_query {
    () => {
        concat!(
            r"(/([a-zA-Z0-9._~!$&'()*+,;=:@/-]|%[0-9a-fA-F]{2})*)?",
            r"(\?([a-zA-Z0-9._~!$&'()*+,;=:@/?\[\]-]|%[0-9a-fA-F]{2})*)?"
        )
    };
}
pub(super) use path_and_query;

patterns! {
    /// A url of http or https.
    HTTP = concat!("^https?://", host!(), port!(), path_and_query!(), "$");
}

impl UrlForm {
    /// `http://` or `https://` with host, port, path and query.
    pub const HTTP: Self = Self {
        pattern: &HTTP,
        message: "url must be http://HOST:PORT/PATH or https://HOST:PORT/PATH, with a port from 1 to 65535 if any, and without user, \
                  password, fragment, backslash or whitespace",
        separator: UrlSeparator::Slashes,
    };
}

/// Whether a url may have a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlQuery {
    /// It may not.
    Never,
    /// The form of the url says whether.
    AsWritten,
    /// Only if this option has this value.
    With(&'static str, &'static str),
}

/// Fields of the spec that not every kind has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `members`.
    Members,
    /// `headers`, of which those that HTTP clients choose themselves are the exporter's: `Host`, `Accept*`, `Content-*`.
    Headers,
    /// `headers`, these included.
    AnyHeaders,
    /// `basicAuth`, `authorization` and `oauth2`.
    Credentials,
    /// `tlsConfig`.
    Tls,
    /// `proxyUrl`, and what belongs to it: `proxyAuth`, `proxyTlsConfig` and `noProxy`.
    Proxy,
    /// `preferredIpProtocol`, `ipProtocolFallback` and `sourceIpAddress`.
    Addresses,
}

impl Field {
    /// Every field.
    pub const ALL: &[Self] =
        &[Self::Members, Self::Headers, Self::AnyHeaders, Self::Credentials, Self::Tls, Self::Proxy, Self::Addresses];

    /// What they are called in the spec.
    pub const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Members => &["members"],
            Self::Headers | Self::AnyHeaders => &["headers"],
            Self::Credentials => &["basicAuth", "authorization", "oauth2"],
            Self::Tls => &["tlsConfig"],
            Self::Proxy => &["proxyUrl", "proxyAuth", "proxyTlsConfig", "noProxy"],
            Self::Addresses => &["preferredIpProtocol", "ipProtocolFallback", "sourceIpAddress"],
        }
    }

    /// What the kinds have that are polled with HTTP calls.
    pub const OF_CALLS: &[Self] = &[Self::Members, Self::Headers, Self::Credentials, Self::Tls, Self::Proxy];
}

/// The rule that `tlsConfig` needs TLS. `cel` says whether there can be some, and so does `has_tls`.
pub(super) fn tls_config_needs_tls(
    cel: &str,
    message: &str,
    has_tls: impl Fn(&Value) -> bool + Send + Sync + 'static,
) -> Rule {
    Rule::new("spec", format!("!has(self.tlsConfig) || {cel}"), message)
        .field("tlsConfig")
        .holds_if(move |spec| spec.get("tlsConfig").is_none() || has_tls(spec))
}

/// Whether `spec.headers` has one with such a name, which is in lower case.
pub(crate) fn has_header(spec: &Value, is_meant: impl Fn(&str) -> bool) -> bool {
    let headers = spec.get("headers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut names = headers.iter().filter_map(|header| header.get("name").and_then(Value::as_str));
    names.any(|name| is_meant(&name.to_ascii_lowercase()))
}

/// Whether `spec.url` begins like this.
pub(super) fn url_begins_with(spec: &Value, scheme: &str) -> bool {
    spec.get("url").and_then(Value::as_str).is_some_and(|url| url.starts_with(scheme))
}
