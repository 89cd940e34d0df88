//! What a blackbox exporter reads as a target, as the URL of a ScrapeTarget.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::blackbox::ModuleProber;
use super::report::quoted;

/// An address of a target.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ProbeAddress {
    /// The `spec.url`.
    pub(super) url: String,
    /// Its host, without brackets.
    pub(super) host: String,
    /// User name and password in the target.
    pub(super) login: Option<(String, String)>,
    /// What of the target is not in the URL.
    pub(super) losses: Vec<&'static str>,
}

impl ProbeAddress {
    /// Whether the host needs no resolution.
    pub(super) fn is_literal(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }

    pub(super) fn is_https(&self) -> bool {
        self.url.starts_with("https://")
    }

    /// Whether its scheme is that of WebSocket without TLS.
    pub(super) fn is_plain_websocket(&self) -> bool {
        self.url.starts_with("ws://")
    }
}

/// Reads a target. The error says why there can be no URL for it.
pub(super) fn address(target: &str, prober: &ModuleProber, forces_https: bool) -> Result<ProbeAddress, String> {
    match prober {
        ModuleProber::Http => http(target, forces_https),
        ModuleProber::Tcp { tls } => {
            let (host, port) = split_port(target)
                .ok_or("a target of tcp is HOST:PORT, and the blackbox exporter refuses it as well")?;
            plain(if *tls { "tls" } else { "tcp" }, host, Some(port))
        }
        ModuleProber::Dns => match split_port(target) {
            Some((host, port)) => plain("dns", host, Some(port)),
            None => plain("dns", target, None),
        },
        ModuleProber::Icmp => plain("icmp", target, None),
        ModuleProber::Grpc { tls } => {
            let lower = target.to_ascii_lowercase();
            let skip = ["http://", "https://"]
                .iter()
                .find(|scheme| lower.starts_with(**scheme))
                .map_or(0, |scheme| scheme.len());
            let authority = target.get(skip..).unwrap_or_default();
            let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
            let scheme = if *tls { "grpcs" } else { "grpc" };
            match split_port(authority) {
                Some((host, port)) => plain(scheme, host, Some(port)),
                None => plain(scheme, authority, None),
            }
        }
        ModuleProber::WebSocket => websocket(target),
        ModuleProber::Missing(why) => Err((*why).to_owned()),
    }
}

/// `HOST:PORT`, `[ADDRESS]:PORT`. An address with colons and without brackets has no port.
fn split_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    (is_bracketed || !host.contains(':')).then_some((host, port))
}

fn plain(scheme: &str, host: &str, port: Option<&str>) -> Result<ProbeAddress, String> {
    let host = host_of(host)?;
    let mut url = format!("{scheme}://{}", in_url(&host));
    if let Some(port) = port {
        let _ = write!(url, ":{}", port_of(port)?);
    }
    Ok(ProbeAddress { url, host, login: None, losses: Vec::new() })
}

fn port_of(text: &str) -> Result<u16, String> {
    let port = text.parse::<u16>().ok().filter(|port| *port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()));
    port.ok_or_else(|| format!("{} is no number of a port, write one from 1 to 65535", quoted(text)))
}

/// A host without brackets, in ASCII.
fn host_of(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let refusal = || format!("{} is no name of a host and no IP address", quoted(text));
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    if is_name(bare) {
        return Ok(bare.to_owned());
    }
    if bare.is_ascii() {
        return Err(refusal());
    }
    let parsed = reqwest::Url::parse(&format!("http://{bare}/")).ok();
    parsed.as_ref().and_then(reqwest::Url::host_str).filter(|name| is_name(name)).map(str::to_owned).ok_or_else(refusal)
}

fn in_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn http(target: &str, forces_https: bool) -> Result<ProbeAddress, String> {
    let decoded = decode_doubled(target);
    let target = decoded.as_str();
    let lower = target.to_ascii_lowercase();
    let (scheme, rest) = if lower.starts_with("https://") {
        ("https", target.get(8..).unwrap_or_default())
    } else if lower.starts_with("http://") {
        ("http", target.get(7..).unwrap_or_default())
    } else if let Some((scheme, _)) = target.split_once("://").filter(|(scheme, _)| !scheme.contains(['/', '?', '#'])) {
        return Err(format!(
            "the scheme {} is not of type Http, and the blackbox exporter refuses it as well",
            quoted(scheme)
        ));
    } else {
        ("http", target)
    };
    located(if forces_https { "https" } else { scheme }, rest)
}

fn websocket(target: &str) -> Result<ProbeAddress, String> {
    let decoded = decode_doubled(target);
    match decoded.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("ws") => located("ws", rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("wss") => located("wss", rest),
        _ => Err("a target of websocket begins with ws:// or wss://, and the blackbox exporter refuses it as well"
            .to_owned()),
    }
}

/// A url of this scheme, by what follows `://`: host, port, path and query.
fn located(scheme: &str, rest: &str) -> Result<ProbeAddress, String> {
    let mut losses = Vec::new();
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    if !fragment.is_empty() {
        losses.push("the part of the URL after # is left out: no client sends it");
    }
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (userinfo, place) = match authority.rsplit_once('@') {
        Some((userinfo, place)) => (Some(userinfo), place),
        None => (None, authority),
    };
    let (host, port) = match split_port(place) {
        // `http://host:/` has no port.
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port)),
        None => (place, None),
    };
    let host = host_of(host)?;
    let mut url = format!("{scheme}://{}", in_url(&host));
    if let Some(port) = port {
        let _ = write!(url, ":{}", port_of(port)?);
    }
    let (path, query) = tail.split_once('?').map_or((tail, None), |(path, query)| (path, Some(query)));
    encode(&mut url, path, "._~!$&'()*+,;=:@/-");
    if let Some(query) = query {
        if path.is_empty() {
            url.push('/');
        }
        url.push('?');
        encode(&mut url, query, "._~!$&'()*+,;=:@/?[]-");
    }
    let login = userinfo.map(|userinfo| {
        let (name, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        (decode(name), decode(password))
    });
    Ok(ProbeAddress { url, host, login, losses })
}

/// Appends a part of a URL; what may not stand there is percent-encoded, what is encoded stays as it is.
fn encode(url: &mut String, part: &str, marks: &str) {
    let bytes = part.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        let is_escape = *byte == b'%'
            && bytes.get(index + 1..index + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        if byte.is_ascii_alphanumeric() || marks.as_bytes().contains(byte) || is_escape {
            url.push(char::from(*byte));
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
    }
}

/// The exporter decodes a target once more than others do, so that its users write `%252F` for `%2F`.
fn decode_doubled(target: &str) -> String {
    let mut out = String::with_capacity(target.len());
    let mut rest = target;
    while let Some(at) = rest.find("%25") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let is_doubled = from.as_bytes().get(3..5).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        out.push_str(if is_doubled { "%" } else { "%25" });
        rest = from.get(3..).unwrap_or_default();
    }
    out + rest
}

fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn url(target: &str, prober: &ModuleProber) -> Result<String, String> {
        address(target, prober, false).map(|address| address.url)
    }

    #[test]
    fn targets_of_http_are_urls_or_become_urls() {
        for (target, wanted) in [
            ("https://example.com", "https://example.com"),
            ("example.com", "http://example.com"),
            ("example.com/a?b=c", "http://example.com/a?b=c"),
            ("HTTPS://Example.com/", "https://Example.com/"),
            ("http://[2001:db8::1]:8080/x", "http://[2001:db8::1]:8080/x"),
            ("example.com:8443", "http://example.com:8443"),
            ("http://example.com:/", "http://example.com/"),
            ("http://example.com?q={a b}", "http://example.com/?q=%7Ba%20b%7D"),
            ("http://example.com/%2f%zz", "http://example.com/%2f%25zz"),
            ("http://example.com/a%252Fb", "http://example.com/a%2Fb"),
            ("http://example.com/a#top", "http://example.com/a"),
            ("http://日本.jp/あ", "http://xn--wgv71a.jp/%E3%81%82"),
            ("http://example.com/?next=http://b/", "http://example.com/?next=http://b/"),
        ] {
            assert_eq!(url(target, &ModuleProber::Http).as_deref(), Ok(wanted), "{target}");
        }
        for target in
            ["ftp://example.com", "http://", "http://a b/", "http://a:b/", "http://a:99999/", "http://{{ host }}/"]
        {
            assert!(url(target, &ModuleProber::Http).is_err(), "{target}");
        }
        let with_login = address("https://al%40ice:s%3Acret@example.com/", &ModuleProber::Http, false).unwrap();
        assert_eq!(with_login.login, Some(("al@ice".to_owned(), "s:cret".to_owned())));
        assert_eq!(with_login.url, "https://example.com/");
        assert!(address("http://a/", &ModuleProber::Http, true).unwrap().is_https());
    }

    #[test]
    fn targets_of_other_probers_get_the_scheme_of_their_type() {
        let (tcp, tls) = (ModuleProber::Tcp { tls: false }, ModuleProber::Tcp { tls: true });
        for (target, prober, wanted) in [
            ("example.com:22", &tcp, "tcp://example.com:22"),
            ("[::1]:22", &tcp, "tcp://[::1]:22"),
            ("example.com:443", &tls, "tls://example.com:443"),
            ("8.8.8.8", &ModuleProber::Dns, "dns://8.8.8.8"),
            ("8.8.8.8:5353", &ModuleProber::Dns, "dns://8.8.8.8:5353"),
            ("2001:4860:4860::8888", &ModuleProber::Dns, "dns://[2001:4860:4860::8888]"),
            ("example.com", &ModuleProber::Icmp, "icmp://example.com"),
            ("::1", &ModuleProber::Icmp, "icmp://[::1]"),
            ("example.com", &ModuleProber::Grpc { tls: false }, "grpc://example.com"),
            ("example.com:50051", &ModuleProber::Grpc { tls: true }, "grpcs://example.com:50051"),
            ("https://example.com:50051/x", &ModuleProber::Grpc { tls: false }, "grpc://example.com:50051"),
            ("WSS://example.com/signaling?a={b}", &ModuleProber::WebSocket, "wss://example.com/signaling?a=%7Bb%7D"),
            ("ws://[::1]:8188", &ModuleProber::WebSocket, "ws://[::1]:8188"),
        ] {
            assert_eq!(url(target, prober).as_deref(), Ok(wanted), "{target}");
        }
        for (target, prober) in [
            ("example.com", &tcp),
            ("tcp://example.com:22", &tcp),
            ("example.com:ssh", &tcp),
            ("http://example.com", &ModuleProber::Icmp),
            ("example.com:53", &ModuleProber::Icmp),
            ("", &ModuleProber::Dns),
            ("https://example.com/", &ModuleProber::WebSocket),
            ("example.com", &ModuleProber::WebSocket),
        ] {
            assert!(url(target, prober).is_err(), "{target}");
        }
    }

    proptest! {
        #[test]
        fn no_target_makes_it_panic(target in "\\PC{0,40}|(http://|https://|[a-z.:@/?#%\\[\\]0-9]){0,24}") {
            for prober in [ModuleProber::Http, ModuleProber::Tcp { tls: false }, ModuleProber::Dns, ModuleProber::Icmp, ModuleProber::Grpc { tls: true }, ModuleProber::WebSocket] {
                if let Ok(address) = address(&target, &prober, false) {
                    prop_assert!(address.url.is_ascii());
                }
            }
        }
    }
}
