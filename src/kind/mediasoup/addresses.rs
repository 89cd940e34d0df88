//! Replaces client addresses before they become labels. It does not resolve names, since a name server would learn who is connected.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;

use super::Addresses;

impl Addresses {
    /// The label value for an address, with or without a port.
    pub(super) fn label(self, address: Cow<'_, str>) -> Cow<'_, str> {
        match self {
            _ if address.is_empty() => address,
            Self::Drop => Cow::Borrowed(""),
            Self::Plain => address,
            Self::Deidentify => Cow::Owned(rebuilt(&address, deidentified)),
            Self::Hash => Cow::Owned(rebuilt(&address, hashed)),
        }
    }
}

/// Whether a label called `name` holds an address: one of its words is `addr`, `address`, `ip` or the like, as in `remoteAddr`.
pub(super) fn is_address_label(name: &str) -> bool {
    const WORDS: [&str; 9] =
        ["addr", "addrs", "address", "addresses", "ip", "ips", "ipaddr", "localaddr", "remoteaddr"];
    let mut start = 0;
    let mut boundaries: Vec<usize> = Vec::new();
    let bytes = name.as_bytes();
    for (i, pair) in bytes.windows(2).enumerate() {
        if pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase() {
            boundaries.push(i + 1);
        }
    }
    boundaries.push(name.len());
    boundaries.into_iter().any(|end| {
        let part = name.get(start..end).unwrap_or_default();
        start = end;
        part.split(|c: char| !c.is_ascii_alphabetic()).any(|word| {
            WORDS.iter().any(|known| word.eq_ignore_ascii_case(known))
        })
    })
}

/// A host, classified for masking.
enum Host<'a> {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    Name(&'a str),
}

/// The address with its host replaced and its port kept.
fn rebuilt(address: &str, replace: fn(&Host<'_>) -> String) -> String {
    let (host, port) = split(address);
    let mut text = replace(&parse(host));
    if let Some(port) = port {
        text.push(':');
        text.push_str(port);
    }
    text
}

/// Splits `host:port`. IPv6 comes with brackets and, from edumeet, without.
fn split(address: &str) -> (&str, Option<&str>) {
    let is_port = |text: &str| (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if let Some((host, rest)) = address.strip_prefix('[').and_then(|inside| inside.split_once(']')) {
        return (host, rest.strip_prefix(':').filter(|port| is_port(port)));
    }
    match address.rsplit_once(':') {
        Some((host, port)) if is_port(port) && (!host.contains(':') || !matches!(parse(host), Host::Name(_))) => {
            (host, Some(port))
        }
        _ => (address, None),
    }
}

fn parse(host: &str) -> Host<'_> {
    let without_zone = host.split('%').next().unwrap_or(host);
    if let Ok(v4) = host.parse() {
        Host::V4(v4)
    } else if let Ok(v6) = without_zone.parse::<Ipv6Addr>() {
        v6.to_ipv4_mapped().map_or(Host::V6(v6), Host::V4)
    } else {
        Host::Name(host)
    }
}

/// Masks addresses as edumeet does, so that its dashboards continue to work; also IPv6 addresses, which edumeet does not mask.
fn deidentified(host: &Host<'_>) -> String {
    match host {
        Host::V4(v4) => {
            let [_, _, c, d] = v4.octets();
            format!("xx.xx.{c}.{d}")
        }
        Host::V6(v6) => format!("xx::{:x}", v6.segments()[7]),
        // A host with a colon is a malformed address, not a name.
        Host::Name(name) if name.contains(':') => "xx".to_owned(),
        Host::Name(name) => {
            let labels: Vec<&str> = name.split('.').collect();
            let masked = labels.len().saturating_sub(2);
            let shown = labels.iter().enumerate().map(|(i, label)| if i < masked { "xx" } else { label });
            shown.collect::<Vec<_>>().join(".")
        }
    }
}

/// Sixteen hexadecimal digits, the same for the same host until the process ends. The key never leaves it: an IPv4 address
/// hashed without one is found by trying them all.
fn hashed(host: &Host<'_>) -> String {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    let key = KEY.get_or_init(RandomState::new);
    let hash = match host {
        Host::V4(v4) => key.hash_one(v4),
        Host::V6(v6) => key.hash_one(v6),
        Host::Name(name) => key.hash_one(name),
    };
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(mode: Addresses, address: &str) -> String {
        mode.label(Cow::Borrowed(address)).into_owned()
    }

    #[test]
    fn dropped_addresses_leave_nothing_and_plain_ones_stay() {
        for address in ["203.0.113.7:33781", "[2001:db8::1]:4000", "a.example.org", ""] {
            assert_eq!(label(Addresses::Drop, address), "");
            assert_eq!(label(Addresses::Plain, address), address);
        }
    }

    #[test]
    fn deidentified_addresses_keep_their_end_and_their_port() {
        for (address, expected) in [
            ("203.0.113.7:33781", "xx.xx.113.7:33781"),
            ("203.0.113.7", "xx.xx.113.7"),
            ("xx.xx.113.7:33781", "xx.xx.113.7:33781"),
            ("2001:db8::1:ab:33781", "xx::ab:33781"),
            ("[2001:db8::ab]:33781", "xx::ab:33781"),
            ("[2001:db8::ab]", "xx::ab"),
            ("2001:db8::ab", "xx::ab"),
            ("fe80::1%eth0", "xx::1"),
            ("::ffff:203.0.113.7:33781", "xx.xx.113.7:33781"),
            ("a.b.example.org:5", "xx.xx.example.org:5"),
            ("localhost:5", "localhost:5"),
            ("2001:db8:nonsense:1", "xx"),
            ("", ""),
        ] {
            assert_eq!(label(Addresses::Deidentify, address), expected, "{address}");
        }
    }

    #[test]
    fn hashed_addresses_are_equal_where_the_host_is_and_do_not_hold_it() {
        let one = label(Addresses::Hash, "203.0.113.7:33781");
        let other = label(Addresses::Hash, "203.0.113.7:1");
        let (hash, port) = one.split_once(':').unwrap();
        assert_eq!((hash.len(), port), (16, "33781"));
        assert_eq!(other, format!("{hash}:1"));
        assert_eq!(label(Addresses::Hash, "::ffff:203.0.113.7:1"), other);
        assert_ne!(label(Addresses::Hash, "203.0.113.8:1"), other);
    }

    #[test]
    fn labels_that_hold_addresses_are_known_by_their_words() {
        for name in ["local_addr", "remote_addr", "remoteAddr", "remote_address", "clientIp", "ip", "peer_ip_2", "remoteIP"] {
            assert!(is_address_label(name), "{name}");
        }
        for name in ["pid", "recipe", "type", "room_id", "description", "address_family_count"] {
            assert_eq!(is_address_label(name), name.starts_with("address"), "{name}");
        }
    }
}
