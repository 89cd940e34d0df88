//! Advice about a url that is not written as its type wants it: slips that are easily made, each found by mending it.

use std::net::Ipv6Addr;

use super::pattern::HOST;
use crate::kind::{Type, UrlForm, UrlSeparator};

/// The parts of a url by its punctuation: scheme, authority, and the rest with the character that it begins with.
struct UrlParts<'u> {
    scheme: &'u str,
    separator: &'static str,
    authority: &'u str,
    rest: &'u str,
}

impl<'u> UrlParts<'u> {
    fn of(form: &UrlForm, url: &'u str) -> Option<Self> {
        let separator = form.separator.as_str();
        let (scheme, after) = url.split_once(separator)?;
        let end = after.find(['/', '?', '#']).unwrap_or(after.len());
        let (authority, rest) = after.split_at(end);
        Some(Self { scheme, separator, authority, rest })
    }

    /// The port, as it is written.
    fn port(&self) -> Option<(&'u str, &'u str)> {
        let (host, port) = self.authority.rsplit_once(':')?;
        (!port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())).then_some((host, port))
    }

    fn with_authority(&self, authority: &str) -> String {
        let Self { scheme, separator, rest, .. } = self;
        format!("{scheme}{separator}{authority}{rest}")
    }
}

/// What a slip is mended to, and what is said of it.
type Mended = Option<(String, String)>;

/// Slips in the order in which they are looked for. Those at the end are none for types whose urls have a path or need no port, but then
/// the url has its form before their turn.
const SLIPS: [fn(&UrlForm, &str) -> Mended; 11] = [
    whitespace,
    capitals,
    fragment,
    brackets,
    odd_port,
    odd_host,
    empty_port,
    odd_character,
    path,
    missing_port,
    needless_port,
];

/// What to change in `url`, so that it has this form; none if that cannot be told. It repeats no more of the url than one character.
pub(super) fn advice(form: UrlForm, takes_credentials: bool, url: &str) -> Option<String> {
    let fitting: Vec<&str> = Type::with_url(url).map(Type::as_str).collect();
    match fitting.split_last() {
        None => {}
        Some((only, [])) => return Some(format!("it is the url of a target of type {only}")),
        Some((last, others)) => {
            return Some(format!("it is the url of a target of type {} or {last}", others.join(", ")));
        }
    }
    let mut said = Vec::new();
    let mut mended = url.to_owned();
    if let Some((better, advice)) = slashes(&form, &mended) {
        mended = better;
        said.push(advice);
    }
    if let Some(without) = without_user(&form, &mended) {
        mended = without;
        let instead =
            if takes_credentials { "write basicAuth instead of the user" } else { "remove the user, with its @" };
        said.push(instead.to_owned());
    }
    for slip in SLIPS {
        if form.pattern.is_match(&mended) {
            break;
        }
        if let Some((better, advice)) = slip(&form, &mended) {
            mended = better;
            said.push(advice);
        }
    }
    (form.pattern.is_match(&mended) && !said.is_empty()).then(|| said.join(", "))
}

fn without_user(form: &UrlForm, url: &str) -> Option<String> {
    let parts = UrlParts::of(form, url)?;
    let (_, authority) = parts.authority.rsplit_once('@')?;
    Some(parts.with_authority(authority))
}

fn whitespace(_: &UrlForm, url: &str) -> Mended {
    let trimmed = url.trim();
    (trimmed != url).then(|| (trimmed.to_owned(), "remove the whitespace around it".to_owned()))
}

/// Slashes where there are none: `stun://host`.
fn slashes(form: &UrlForm, url: &str) -> Mended {
    let (scheme, rest) = url.split_once("://").filter(|_| form.separator == UrlSeparator::Colon)?;
    Some((format!("{scheme}:{rest}"), format!("remove the // after {}:", scheme.to_ascii_lowercase())))
}

fn capitals(form: &UrlForm, url: &str) -> Mended {
    let separator = form.separator.as_str();
    let (scheme, rest) = url.split_once(separator)?;
    let lower = scheme.to_ascii_lowercase();
    (lower != scheme).then(|| (format!("{lower}{separator}{rest}"), "write the scheme in small letters".to_owned()))
}

fn fragment(_: &UrlForm, url: &str) -> Mended {
    let (before, _) = url.split_once('#')?;
    Some((before.to_owned(), "remove # and what follows it".to_owned()))
}

fn brackets(form: &UrlForm, url: &str) -> Mended {
    let parts = UrlParts::of(form, url)?;
    let address: Ipv6Addr = parts.authority.parse().ok()?;
    let advice = "write the IPv6 address in brackets, as in [2001:db8::1]";
    Some((parts.with_authority(&format!("[{address}]")), advice.to_owned()))
}

fn odd_port(form: &UrlForm, url: &str) -> Mended {
    let parts = UrlParts::of(form, url)?;
    let Some((host, port)) = parts.port() else {
        let (host, name) = parts.authority.rsplit_once(':').filter(|(host, _)| !host.contains([':', '[']))?;
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        return is_name
            .then(|| (parts.with_authority(&format!("{host}:1")), "write the number of the port".to_owned()));
    };
    let is_odd = port.starts_with('0') || port.parse::<u16>().is_err();
    is_odd.then(|| (parts.with_authority(&format!("{host}:1")), "write a port from 1 to 65535".to_owned()))
}

/// A host that is neither a name nor an address.
fn odd_host(form: &UrlForm, url: &str) -> Mended {
    let parts = UrlParts::of(form, url)?;
    let (host, port) = parts.authority.split_once(':').unwrap_or((parts.authority, ""));
    if parts.authority.contains(['[', ']', '@']) || port.contains(':') || HOST.is_match(host) {
        return None;
    }
    let colon = if parts.authority.contains(':') { ":" } else { "" };
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let advice = if host.is_empty() {
        "add the host"
    } else if !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()) {
        "write as host an IPv4 address of four numbers up to 255 without leading zeros, or a name that does not end with a number after a dot"
    } else {
        "write as host an IP address, or a name of letters, digits, - and _, with single dots, that neither begins nor ends with -"
    };
    Some((parts.with_authority(&format!("host{colon}{port}")), advice.to_owned()))
}

/// A colon without a port, where none is needed.
fn empty_port(form: &UrlForm, url: &str) -> Mended {
    let parts = UrlParts::of(form, url)?;
    let host = parts.authority.strip_suffix(':')?;
    let takes_no_port = form.pattern.is_match(&format!("{}{}{host}", parts.scheme, parts.separator));
    takes_no_port.then(|| (parts.with_authority(host), "remove the : after the host".to_owned()))
}

/// A character that must be percent-encoded after the authority.
fn odd_character(form: &UrlForm, url: &str) -> Mended {
    let parts = UrlParts::of(form, url)?;
    let query = parts.rest.find('?').unwrap_or(parts.rest.len());
    let is_odd = |(at, character): &(usize, char)| {
        let is_of_query = matches!(character, '[' | ']') && *at > query;
        !(character.is_ascii_alphanumeric() || "._~!$&'()*+,;=:@/?%-".contains(*character) || is_of_query)
    };
    let (_, odd) = parts.rest.char_indices().find(is_odd)?;
    let encoded = |character: char| format!("%{:02X}", u32::from(character));
    let rest =
        parts.rest.char_indices().map(|found| if is_odd(&found) { encoded(found.1) } else { found.1.to_string() });
    let mended = format!("{}{}{}{}", parts.scheme, parts.separator, parts.authority, rest.collect::<String>());
    Some((mended, format!("write {} instead of {odd:?}", encoded(odd))))
}

fn path(form: &UrlForm, url: &str) -> Mended {
    let parts = UrlParts::of(form, url)?;
    let without = url.strip_suffix(parts.rest).filter(|_| !parts.rest.is_empty())?;
    if let Some(shorter) = url.strip_suffix('/').filter(|shorter| form.pattern.is_match(shorter)) {
        return Some((shorter.to_owned(), "remove the / at its end".to_owned()));
    }
    if form.pattern.is_match(&format!("{without}/a")) {
        return None; // It may have a path, only not this one.
    }
    let advice = if parts.rest == "/" { "remove the / at its end" } else { "remove the path or query" };
    Some((without.to_owned(), advice.to_owned()))
}

fn missing_port(form: &UrlForm, url: &str) -> Mended {
    let parts = UrlParts::of(form, url)?;
    let authority = parts.authority.strip_suffix(':').unwrap_or(parts.authority);
    parts.port().is_none().then(|| (parts.with_authority(&format!("{authority}:1")), "add the port".to_owned()))
}

fn needless_port(form: &UrlForm, url: &str) -> Mended {
    let parts = UrlParts::of(form, url)?;
    let (host, _) = parts.port()?;
    Some((parts.with_authority(host), "remove the port".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBER: &str = "write as host an IPv4 address of four numbers up to 255 without leading zeros, or a name that does not end with a \
                          number after a dot";
    const NAME: &str = "write as host an IP address, or a name of letters, digits, - and _, with single dots, that neither begins nor ends \
                        with -";

    #[test]
    fn a_slip_is_told_with_what_to_change() {
        for (kind, url, wanted) in [
            ("Http", "http://user:hunter2@web/", "write basicAuth instead of the user"),
            ("Tcp", "tcp://user@web:25", "remove the user, with its @"),
            ("Http", "HTTPS://web/", "write the scheme in small letters"),
            ("Http", " http://web/", "remove the whitespace around it"),
            ("Http", "http://web/a#top", "remove # and what follows it"),
            ("Http", "http://web/a b", "write %20 instead of ' '"),
            ("Http", "http://web/a[0]?b[]=c|d", "write %5B instead of '['"),
            ("Http", "http://web:70000/", "write a port from 1 to 65535"),
            ("Http", "http://2001:db8::1/", "write the IPv6 address in brackets, as in [2001:db8::1]"),
            ("Http", "tcp://web:25", "it is the url of a target of type Tcp"),
            ("Http", "wss://sfu/signaling", "it is the url of a target of type WebSocket"),
            (
                "WebSocket",
                "https://sfu/signaling",
                "it is the url of a target of type Sora, Orion, Mediasoup, Http or Prometheus",
            ),
            ("WebSocket", "WSS://sfu:5000/signaling", "write the scheme in small letters"),
            ("Tcp", "http://web/", "it is the url of a target of type Sora, Orion, Mediasoup, Http or Prometheus"),
            ("Tcp", "tcp://web:22/", "remove the / at its end"),
            ("Tcp", "tcp://web", "add the port"),
            ("Tcp", "tcp://web:", "add the port"),
            ("Http", "http://web:", "remove the : after the host"),
            ("Http", "http://web:/a", "remove the : after the host"),
            (
                "Grpc",
                "GRPC://api:/",
                "write the scheme in small letters, remove the : after the host, remove the / at its end",
            ),
            ("Icmp", "icmp://[2001:db8::1]:", "remove the : after the host"),
            ("Tcp", "TCP://web/", "write the scheme in small letters, remove the / at its end, add the port"),
            ("Grpc", "grpc://api:50051/grpc.health.v1.Health", "remove the path or query"),
            ("Icmp", "icmp://host:80", "remove the port"),
            ("Icmp", "icmp://host/?count=3", "remove the path or query"),
            ("Icmp", "icmp://::1", "write the IPv6 address in brackets, as in [2001:db8::1]"),
            ("Dns", "dns://[2001:db8::1]:0/a.test", "write a port from 1 to 65535"),
            ("Dns", "dns://192.0.2.53/a.test/", "remove the / at its end"),
            ("Dns", "dns://192.0.2.53/a.test/more", ""),
            ("Tcp", "tcp://web:smtp", "write the number of the port"),
            ("Http", "web", ""),
            ("Http", "http://we b/", NAME),
            ("Http", "http://-a/", NAME),
            ("Tcp", "tcp://a..b:25/", &format!("{NAME}, remove the / at its end")),
            ("Icmp", "icmp://a-.b", NAME),
            ("Http", "http://2130706433/", NUMBER),
            ("Tcp", "tcp://1.2.3:25", NUMBER),
            ("Http", "http://01.2.3.4:80/", NUMBER),
            ("Dns", "dns://host.123/a.test", NUMBER),
            ("Grpc", "grpc://1.2.3.256:80", NUMBER),
            ("Sora", "http://:3000/", "add the host"),
            ("Stun", "stun://stun.example.com", "remove the // after stun:"),
            (
                "Stun",
                "STUNS://user@host:70000/",
                "remove the // after stuns:, remove the user, with its @, write the scheme in small letters, write a port from 1 to 65535, \
                 remove the / at its end",
            ),
            ("Stun", "stun:[2001:db8::1]:", "remove the : after the host"),
            ("Stun", "stun:a..b", NAME),
            ("Stun", "stun:", "add the host"),
            ("Stun", "http://web/", "it is the url of a target of type Sora, Orion, Mediasoup, Http or Prometheus"),
            ("Tcp", "stun:host", "it is the url of a target of type Stun"),
            ("Stun", "host:3478", ""),
        ] {
            let kind: Type = kind.parse().unwrap();
            let takes_credentials = kind.as_str() == "Http";
            assert_eq!(advice(kind.url(), takes_credentials, url).unwrap_or_default(), wanted, "{url}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_url_makes_it_panic(url in "\\PC{0,40}|[a-z]{0,5}:/{0,3}[a-z0-9.:@\\[\\]/?#%{}é -]{0,40}") {
            for kind in Type::ALL {
                let said = advice(kind.url(), false, &url).unwrap_or_default();
                proptest::prop_assert!(said.len() < 512, "{said}");
            }
        }
    }
}
