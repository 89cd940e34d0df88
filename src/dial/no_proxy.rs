//! Which hosts are reached without the proxy: `noProxy`, read as Go's `httpproxy` reads `NO_PROXY`, since that is what Prometheus does. It
//! compares what is written in a url and resolves no names.

use std::net::IpAddr;

use ipnet::IpNet;
use reqwest::Url;

use super::address::canonical_range;
use super::literal_address;

/// A list of hosts that are reached without the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NoProxy(Vec<NoProxyEntry>);

/// One entry of the list. A port is compared as text, and its absence matches every port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum NoProxyEntry {
    /// `*`.
    Everything,
    /// A range of addresses. It has no port.
    Range(IpNet),
    Address(IpAddr, Option<String>),
    /// A domain, with the dot before it.
    Domain {
        suffix: String,
        /// The domain itself, in addition to the names below it.
        itself: bool,
        port: Option<String>,
    },
}

impl NoProxy {
    /// The most entries of a list: every redirect of a probe is compared with all of them.
    pub const MAX_ENTRIES: usize = 128;

    /// Reads a list. What is no entry is passed over, as Go does: the rules of the spec have refused it.
    pub fn parse(list: &str) -> Self {
        Self(list.split(',').take(Self::MAX_ENTRIES).filter_map(NoProxyEntry::parse).collect())
    }

    /// Whether this url is reached without the proxy. This machine always is, as in Go.
    pub fn covers(&self, url: &Url) -> bool {
        let host =
            url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = url.port_or_known_default().map(|port| port.to_string()).unwrap_or_default();
        let address = literal_address(&host).map(|address| address.to_canonical());
        let is_own = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        is_own || self.0.iter().any(|entry| entry.covers(&host, address, &port))
    }
}

impl NoProxyEntry {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text == "*" {
            return Some(Self::Everything);
        }
        if let Ok(range) = text.parse::<IpNet>() {
            return Some(Self::Range(canonical_range(range)));
        }
        let (host, port) = split_port(&text);
        let port = port.filter(|port| !port.is_empty()).map(str::to_owned);
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some(Self::Address(address.to_canonical(), port));
        }
        let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        match host.chars().next()? {
            '.' => Some(Self::Domain { suffix: host.to_owned(), itself: false, port }),
            _ => Some(Self::Domain { suffix: format!(".{host}"), itself: true, port }),
        }
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, port: &str) -> bool {
        let at_port = |wanted: &Option<String>| wanted.as_ref().is_none_or(|wanted| wanted == port);
        match self {
            Self::Everything => true,
            Self::Range(range) => address.is_some_and(|address| range.contains(&address)),
            Self::Address(listed, wanted) => address == Some(*listed) && at_port(wanted),
            Self::Domain { suffix, itself, port: wanted } => {
                let is_named = host.ends_with(suffix.as_str()) || *itself && suffix.get(1..) == Some(host);
                address.is_none() && is_named && at_port(wanted)
            }
        }
    }
}

/// `HOST:PORT` or `[ADDRESS]:PORT`; anything else has no port.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains([':', '[', ']']) => (host, Some(port)),
        Some((bracketed, port)) => match bracketed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(host) if !host.contains(['[', ']']) => (host, Some(port)),
            _ => (text, None),
        },
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(list: &str, url: &str) -> bool {
        NoProxy::parse(list).covers(&Url::parse(url).unwrap())
    }

    #[test]
    fn a_list_is_read_as_go_reads_it() {
        const NAME: &str = "https://api.example.com:6443/";
        for list in [
            "*",
            "x.test,*",
            "api.example.com",
            "example.com",
            "com",
            ".example.com",
            "*.example.com",
            "API.Example.COM",
            "api.example.com:6443",
            "example.com:6443",
            "example.com:",
            "x.test, api.example.com ,y.test",
            "localhost,,example.com,",
            "http://nonsense/path,example.com",
        ] {
            assert!(covers(list, NAME), "{list}");
        }
        for list in [
            "",
            ",",
            "ample.com",
            ".api.example.com",
            "*.api.example.com",
            "api.example.com:443",
            "example",
            "*:6443",
            ":6443",
            "10.0.0.0/8",
            "0.0.0.0/0,::/0",
            "api.example.com.",
            "https://api.example.com",
        ] {
            assert!(!covers(list, NAME), "{list}");
        }
        assert!(covers("a.test:80", "http://a.test/") && covers("a.test:443", "https://a.test/"));
        assert!(!covers("a.test:080", "http://a.test/"));
    }

    #[test]
    fn addresses_are_compared_as_addresses() {
        for (list, url) in [
            ("10.0.0.1", "https://10.0.0.1/"),
            ("10.0.0.0/8", "https://10.0.0.1/"),
            ("10.9.9.9/8", "https://10.0.0.1/"),
            ("10.0.0.1:443", "https://10.0.0.1/"),
            ("0.0.0.0/0", "https://10.0.0.1/"),
            ("10.0.0.1", "http://167772161/"),
            ("10.0.0.1", "http://[::ffff:10.0.0.1]/"),
            ("::ffff:10.0.0.0/104", "http://10.0.0.1/"),
            ("fd00::1", "https://[fd00::1]:6443/"),
            ("fd00:0::1", "https://[fd00::1]:6443/"),
            ("fd00::/8", "https://[fd00::1]:6443/"),
            ("[fd00::1]:6443", "https://[fd00::1]:6443/"),
        ] {
            assert!(covers(list, url), "{list} {url}");
        }
        for (list, url) in [
            ("10.0.0.2", "https://10.0.0.1/"),
            ("10.1.0.0/16", "https://10.0.0.1/"),
            ("10.0.0.1:6443", "https://10.0.0.1/"),
            (".0.0.1", "https://10.0.0.1/"),
            ("1", "https://10.0.0.1/"),
            ("fd00::/8", "https://10.0.0.1/"),
            ("[fd00::1]:443", "https://[fd00::1]:6443/"),
            ("[fd00::1]", "https://[fd00::1]:6443/"),
        ] {
            assert!(!covers(list, url), "{list} {url}");
        }
    }

    #[test]
    fn this_machine_is_never_behind_the_proxy() {
        for own in [
            "http://localhost:1/",
            "http://127.0.0.1/",
            "http://127.9.9.9/",
            "https://[::1]/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert!(covers("x.test", own), "{own}");
        }
        assert!(!covers("x.test", "http://localhost.test/"));
    }

    proptest::proptest! {
        #[test]
        fn no_list_makes_it_panic(list in "\\PC{0,60}|[a-z0-9.:/*,\\[\\] -]{0,60}", host in "[a-z0-9.-]{1,20}") {
            if let Ok(url) = Url::parse(&format!("http://{host}/")) {
                NoProxy::parse(&list).covers(&url);
                let everything = [list.as_str(), "*"].join(",");
                proptest::prop_assert!(NoProxy::parse(&everything).covers(&url));
                let itself = url.host_str().unwrap();
                proptest::prop_assert!(NoProxy::parse(itself).covers(&url));
            }
        }
    }
}
