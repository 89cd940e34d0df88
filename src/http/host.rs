//! Which host names requests may be for: `--web.allowed-hosts`, against DNS rebinding, where a browser reaches us under a name that
//! somebody else controls, whose pages could then read ours.
//!
//! IP addresses are always allowed: a page that was requested by address has that address as its origin, which no name can take over.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::is_health;
use super::response::{self, ErrorResponse};

/// A DNS name has at most 253 characters, and a port 5.
const MAX_AUTHORITY_BYTES: usize = 261;

/// A name, or a suffix of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// `*`.
    Any,
    /// This one.
    Name(String),
    /// What ends with this, which begins with a dot.
    Suffix(String),
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let suffix = text.strip_prefix("*.");
        let name = suffix.unwrap_or(text);
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_host_byte);
        let normal = normal(name);
        if text == "*" {
            Ok(Self::Any)
        } else if let (Ok(address), None) = (address, suffix) {
            Ok(Self::Name(address.to_canonical().to_string()))
        } else if name.len() <= 253 && normal.split('.').all(is_label) {
            Ok(if suffix.is_some() { Self::Suffix(format!(".{normal}")) } else { Self::Name(normal) })
        } else {
            Err("write a host name without scheme and port, for instance exporter.example.com or *.example.com, or * for any"
                .to_owned())
        }
    }
}

impl HostPattern {
    /// Whether it means `host`, which is [`normal`].
    fn fits(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Name(name) => name == host,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        }
    }
}

/// The host names that requests may be for; by default any.
#[derive(Clone, Debug, Default)]
pub struct HostAllowlist(Option<Vec<HostPattern>>);

impl HostAllowlist {
    /// Allows `allowed`, `own` (the host of our own URL) and localhost. If `allowed` is empty and a listener is not on loopback, any name
    /// is allowed, since nobody knows by which names Prometheus reaches us.
    pub fn new(allowed: Vec<HostPattern>, own: Option<&str>, only_loopback: bool) -> Self {
        if allowed.is_empty() && !only_loopback {
            return Self(None);
        }
        let local = [HostPattern::Name("localhost".to_owned()), HostPattern::Suffix(".localhost".to_owned())];
        let own = own.map(|host| HostPattern::Name(normal(host)));
        Self(Some(allowed.into_iter().chain(own).chain(local).collect()))
    }

    fn allows(&self, host: &str) -> bool {
        let Some(allowed) = &self.0 else { return true };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().is_ok() || {
            let host = normal(host);
            allowed.iter().any(|pattern| pattern.fits(&host))
        }
    }
}

/// A name as it is compared: in small letters, without the dot of the root.
fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// What the request was sent to, as `HOST` or `HOST:PORT`; in the extensions of every request that tells it.
#[derive(Clone, Debug)]
pub(super) struct RequestHost(pub(super) Authority);

/// Middleware that refuses requests for other hosts, and those whose host is ambiguous. Health checks may name any host: they come by
/// address or by whatever name is configured, and their answer tells nothing. Every response gets `nosniff`.
pub(super) async fn check_host(State(hosts): State<Arc<HostAllowlist>>, mut request: Request, next: Next) -> Response {
    let mut response = match request_host(request.version(), request.uri(), request.headers()) {
        Err(text) => ErrorResponse::bad_request(text).into_response(),
        Ok(host) => {
            let name = host.as_ref().map_or("", |host| host.host());
            if hosts.allows(name) || is_health(request.uri().path()) {
                if let Some(host) = host {
                    request.extensions_mut().insert(RequestHost(host));
                }
                next.run(request).await
            } else {
                misdirected(name).into_response()
            }
        }
    };
    let (name, value) = response::NO_SNIFFING;
    response.headers_mut().insert(name, value);
    response
}

fn misdirected(name: &str) -> ErrorResponse {
    let text = if name.is_empty() {
        "the request does not say for which host it is: send a Host header".to_owned()
    } else {
        format!(
            "this service does not answer for the host {name:?}: if it should, start it with --web.allowed-hosts={name}"
        )
    };
    ErrorResponse(StatusCode::MISDIRECTED_REQUEST, text)
}

/// The host that the request is for. That of an absolute request target counts before the header (RFC 9112, section 3.2.2).
fn request_host(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<Option<Authority>, &'static str> {
    let mut values = headers.get_all(header::HOST).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err("the request has several Host headers: send one");
    }
    if first.is_none() && version >= Version::HTTP_11 {
        return Err("the request has no Host header: send one");
    }
    let header = first
        .map(|value| value.to_str().ok().and_then(parse_authority))
        .map(|host| host.ok_or("the Host header is no host with an optional port"))
        .transpose()?;
    match uri.authority() {
        Some(target) => parse_authority(target.as_str()).map(Some).ok_or("the request target's host is none"),
        None => Ok(header),
    }
}

/// Parses a host with an optional port, as strictly as Prometheus does: `/sd` repeats it, and one bad address makes Prometheus refuse the
/// whole document.
fn parse_authority(text: &str) -> Option<Authority> {
    let authority =
        text.parse::<Authority>().ok().filter(|authority| authority.as_str().len() <= MAX_AUTHORITY_BYTES)?;
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match address {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_host_byte),
    };
    // The parser also accepts `host:`, `host:99999` and a user before the host.
    let port = text.strip_prefix(host)?;
    (is_host && (port.is_empty() || authority.port_u16().is_some())).then_some(authority)
}

/// Host names of some Services and containers have an underscore.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(allowed: &[&str], own: Option<&str>, only_loopback: bool) -> HostAllowlist {
        HostAllowlist::new(allowed.iter().map(|text| text.parse().unwrap()).collect(), own, only_loopback)
    }

    #[test]
    fn only_the_names_that_are_meant_are_allowed() {
        let some = hosts(&["Exporter.example.com", "*.svc"], Some("own.example"), false);
        for good in [
            "exporter.example.com",
            "EXPORTER.example.com.",
            "a.svc",
            "a.b.svc",
            "own.example",
            "localhost",
            "a.localhost",
            "127.0.0.1",
            "10.0.0.1",
            "[::1]",
        ] {
            assert!(some.allows(good), "{good}");
        }
        for bad in [
            "",
            "example.com",
            "x.exporter.example.com",
            "svc",
            "xsvc",
            "a.svc.evil.test",
            "localhost.evil.test",
            "10.0.0.1.evil.test",
        ] {
            assert!(!some.allows(bad), "{bad}");
        }
        assert!(hosts(&[], None, false).allows("anything.test"));
        assert!(!hosts(&[], None, true).allows("anything.test"));
        assert!(hosts(&["*"], None, true).allows("anything.test"));
    }

    #[test]
    fn what_is_no_name_is_no_pattern() {
        for bad in ["", "http://a", "a:80", "a/b", "*a", "*.", "a.*", "a..b", ".a", "[::1]:80", "a b"] {
            let error = bad.parse::<HostPattern>().unwrap_err();
            assert!(error.contains("exporter.example.com"), "{bad}");
        }
    }

    #[test]
    fn a_host_is_a_host_with_at_most_a_port() {
        for (text, good) in [
            ("a", true),
            ("a:1", true),
            ("[::1]:9850", true),
            ("10.0.0.1", true),
            ("", false),
            (":80", false),
            ("a:", false),
            ("a:99999", false),
            ("u@a", false),
            ("a b", false),
            ("a/b", false),
            ("a,b", false),
        ] {
            assert_eq!(parse_authority(text).is_some(), good, "{text:?}");
        }
    }
}
