//! The regular expressions of the rules.

use std::net::Ipv6Addr;

use reqwest::Url;

use crate::rule::{host, patterns, port};

/// The name of a label that does not begin with `__`, or the beginning of one.
macro_rules! label {
    () => {
        r"_?[a-zA-Z0-9][a-zA-Z0-9_]*(\.[*+])?"
    };
}

patterns! {
    /// The URL of a proxy.
    pub(super) PROXY = concat!("^(https?|socks5h?)://", host!(), port!(), "/?$");
    /// The size of a response: 63 bits hold the largest.
    pub(super) BODY_SIZE = "^[1-9][0-9]{0,8}([KMG]i?)?B$";
    /// The entries of `noProxy`, of which some may be empty.
    pub(super) NO_PROXY = r"^ *([a-zA-Z0-9_.:*/\[\]-]+)? *(, *([a-zA-Z0-9_.:*/\[\]-]+)? *)*$";
    /// A host, and a port if it is not the usual one: the value of `Host`.
    pub(super) AUTHORITY = concat!("^", host!(), port!(), "$");
    /// The host in a url.
    pub(super) HOST = concat!("^", host!(), "$");
    /// A host without port, as in a certificate.
    pub(super) SERVER_NAME = r"^([a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_])?|[0-9a-fA-F:]{2,39})$";
    /// The name of a Prometheus label, in the character set that all versions accept.
    pub(super) LABEL_NAME = "^[a-zA-Z_][a-zA-Z0-9_]{0,255}$";
    /// A regular expression of names of labels, or prefixes of names. None of them can begin with `__`.
    pub(super) LABELS_BY_NAME = concat!(
        "^(", label!(), r"(\|", label!(), r")*|\(", label!(), r"(\|", label!(), r")*\))$"
    );
    /// The value of a header, without line breaks.
    pub(super) PRINTABLE = "^[\\t -~]*$";
    /// A token of RFC 9110: the name of a header, the scheme of an Authorization.
    pub(super) TOKEN = "^[a-zA-Z0-9!#$%&'*+.^_`|~-]+$";
    /// A scope of OAuth 2.0 (RFC 6749, 3.3).
    pub(super) SCOPE = r"^[!#-\[\]-~]+$";
    /// The key of a label or annotation of Kubernetes.
    pub(super) K8S_KEY = concat!(
        r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?",
        "[a-zA-Z0-9]([-a-zA-Z0-9_.]{0,61}[a-zA-Z0-9])?$"
    );
    /// The value of a label of Kubernetes.
    pub(super) K8S_VALUE = "^([a-zA-Z0-9]([-a-zA-Z0-9_.]*[a-zA-Z0-9])?)?$";
    /// A name of Kubernetes: RFC 1123 subdomain.
    pub(super) K8S_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
    /// The name of a namespace, a Service or a port of a Service: RFC 1123 label. Its length has a limit of its own.
    pub(super) DNS_LABEL = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
    /// What has a host as a URL has, however it goes on: what does not has a message of its own.
    pub(super) URL_WITH_HOST = r"^https?://[a-zA-Z0-9_\[]";
    /// A URL whose host is an address.
    pub(super) URL_OF_ADDRESS = r"^https?://(\[|[0-9]+(\.[0-9]+){3}([:/?]|$))";
    /// A URL whose host begins with a label that can be the name of a Service. Addresses as well.
    pub(super) URL_OF_SERVICE = r"^https?://[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?([.:/?]|$)";
}

/// Whether it is the URL of a proxy, without user and path.
pub fn is_proxy_url(text: &str) -> bool {
    PROXY.is_match(text)
}

/// The bytes that the text of a size means; `None` if it is not one.
pub fn body_size(text: &str) -> Option<u64> {
    if !BODY_SIZE.is_match(text) {
        return None;
    }
    let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let shift = match unit.bytes().next() {
        Some(b'K') => 10,
        Some(b'M') => 20,
        Some(b'G') => 30,
        _ => 0,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Whether it can be the key of a label or annotation of Kubernetes: `NAME`, or `DOMAIN/NAME`.
pub fn is_label_key(text: &str) -> bool {
    let domain = text.split_once('/').map_or("", |(domain, _)| domain);
    domain.len() <= 253 && K8S_KEY.is_match(text)
}

/// Whether it can be the value of a label of Kubernetes.
pub fn is_label_value(text: &str) -> bool {
    text.len() <= 63 && K8S_VALUE.is_match(text)
}

/// Whether it can be the name of a namespace or a Service: a label of the DNS (RFC 1123).
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && DNS_LABEL.is_match(text)
}

/// Whether the host in brackets of a URL is an IPv6 address; true where there are no brackets. IPv4-mapped addresses are refused, as
/// Kubernetes' `isIP` refuses them.
pub(super) fn ipv6_host_is_address(url: &str) -> bool {
    let is_scheme = |scheme: &str| !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_lowercase());
    let Some((_, rest)) = url.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else { return true };
    let Some(rest) = rest.strip_prefix("//").unwrap_or(rest).strip_prefix('[') else { return true };
    let Some((host, _)) = rest.split_once(']') else { return true };
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':') {
        return true; // the pattern of the URL rejects it
    }
    host.parse::<Ipv6Addr>().is_ok_and(|address| address.to_ipv4_mapped().is_none())
}

/// The host of a URL as it is written in the DNS, if that differs.
pub(super) fn host_in_ascii(url: &str) -> Option<String> {
    let parsed = Url::parse(url).ok()?;
    let host = parsed.host_str().filter(|host| !url.contains(host))?;
    host.contains("xn--").then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::rules;
    use crate::kind::UrlForm;

    #[test]
    fn every_pattern_fits_into_a_raw_text_of_cel() {
        for rule in rules::all() {
            let expression = rule.expression();
            let parts: Vec<&str> = expression.split('"').collect();
            let begins = parts.iter().step_by(2).take(parts.len() / 2).all(|before| before.ends_with('r'));
            assert!(parts.len() % 2 == 1 && begins, "{expression}");
        }
    }

    #[test]
    fn a_host_beyond_ascii_is_told_as_it_stands_in_the_dns() {
        for (url, host) in [
            ("http://b\u{fc}cher.example:3128/", Some("xn--bcher-kva.example")),
            ("http://\u{65e5}\u{672c}.example", Some("xn--wgv71a.example")),
            ("http://sora.example/\u{fc}", None),
            ("http://xn--bcher-kva.example", None),
        ] {
            assert_eq!(host_in_ascii(url).as_deref(), host, "{url}");
        }
    }

    #[test]
    fn ports_end_at_65535() {
        for (port, good) in [
            ("1", true),
            ("0", false),
            ("080", false),
            ("9999", true),
            ("65535", true),
            ("65536", false),
            ("70000", false),
        ] {
            assert_eq!(UrlForm::HTTP.pattern.is_match(&format!("http://sora:{port}/")), good, "{port}");
        }
    }

    #[test]
    fn a_host_that_the_pattern_takes_is_a_host_for_the_url_parser() {
        for host in ["a", "a.b.c", "sora_1", "10.0.0.1", "[::1]", "a.", "3scale", "node.0ns", "1-2.x", "1-2"] {
            let url = format!("http://{host}/");
            assert!(UrlForm::HTTP.pattern.is_match(&url) && reqwest::Url::parse(&url).is_ok(), "{host}");
        }
        for host in
            ["1.2.3", "1.2.3.4.5", "256.1.1.1", "-a", "a..b", "", "user@a", "a b", "a\\b", "[fe80::1%25eth0]", "日本"]
        {
            assert!(!UrlForm::HTTP.pattern.is_match(&format!("http://{host}/")), "{host}");
        }
    }
}
