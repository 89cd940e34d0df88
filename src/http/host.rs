//! The host names that requests may have: `--web.allowed-hosts`. It protects against DNS rebinding, where a browser reaches us under a name
//! that an attacker controls, so that the attacker's page can read ours.
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
use crate::host_pattern::HostPattern;

/// A DNS name has at most 253 characters, and a port 5.
const MAX_AUTHORITY_BYTES: usize = 261;

/// A value of `--web.allowed-hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedWebHost {
    /// `*`.
    Any,
    /// An IP address; all of them are allowed anyway.
    Address,
    /// A name or `*.SUFFIX`.
    Name(HostPattern),
}

impl FromStr for AllowedWebHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "*" => Ok(Self::Any),
            text if is_address(text) => Ok(Self::Address),
            text => host_pattern(text).map(Self::Name).ok_or_else(|| {
                "write a host name without scheme and port, for instance exporter.example.com or *.example.com, or * for any"
                    .to_owned()
            }),
        }
    }
}

fn host_pattern(text: &str) -> Option<HostPattern> {
    HostPattern::parse(text, |label| label.bytes().all(is_host_byte))
}

fn is_address(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

/// The host names that requests may be for; by default any.
#[derive(Clone, Debug, Default)]
pub struct HostAllowlist(Option<Vec<HostPattern>>);

impl HostAllowlist {
    /// Allows `allowed`, `own` (the host of our own URL) and localhost. If `allowed` is empty and a listener is not on loopback, any name
    /// is allowed, since it is not known by which names Prometheus reaches us.
    pub fn new(allowed: Vec<AllowedWebHost>, own: Option<&str>, only_loopback: bool) -> Self {
        if allowed.contains(&AllowedWebHost::Any) || (allowed.is_empty() && !only_loopback) {
            return Self(None);
        }
        let ours = own.into_iter().chain(["localhost", "*.localhost"]).filter_map(host_pattern);
        let names = allowed.into_iter().filter_map(|host| match host {
            AllowedWebHost::Name(pattern) => Some(pattern),
            AllowedWebHost::Any | AllowedWebHost::Address => None,
        });
        Self(Some(names.chain(ours).collect()))
    }

    fn allows(&self, host: &str) -> bool {
        self.0.as_ref().is_none_or(|allowed| is_address(host) || allowed.iter().any(|pattern| pattern.matches(host)))
    }
}

/// What the request was sent to, as `HOST` or `HOST:PORT`; in the extensions of every request that has it.
#[derive(Clone, Debug)]
pub(super) struct RequestHost(pub(super) Authority);

/// Middleware that refuses requests for other hosts, and those whose host is ambiguous. Health checks may name any host: they come by
/// address or by whatever name is configured, and their response contains no data. Every response gets `nosniff`.
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
        format!("this service does not serve the host {name:?}: to allow it, start it with --web.allowed-hosts={name}")
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
        .map(|host| host.ok_or("the Host header is not a host with an optional port"))
        .transpose()?;
    match uri.authority() {
        Some(target) => parse_authority(target.as_str()).map(Some).ok_or("the host of the request target is invalid"),
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
            let error = bad.parse::<AllowedWebHost>().unwrap_err();
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
