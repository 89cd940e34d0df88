//! Which hosts and addresses targets may point to. Addresses are checked after name resolution, so that no name can bypass the rules.
//! It does not resolve names, and knows nothing of requests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use super::host::AllowedHost;

/// The operator's rules for the destinations of targets.
#[derive(Clone, Debug, Default)]
pub struct AddressRules {
    denied: Vec<IpNet>,
    allowed: Vec<IpNet>,
    hosts: Vec<AllowedHost>,
}

impl AddressRules {
    /// Denies `ranges` beside those that are always denied: link-local ones and where clouds hand out credentials.
    pub fn denying(ranges: impl IntoIterator<Item = IpNet>) -> Self {
        Self { denied: ranges.into_iter().map(canonical_range).collect(), ..Self::default() }
    }

    /// Allows only `hosts` and the addresses in `ranges`; if both are empty, everything that is not denied.
    #[must_use]
    pub fn allowing(mut self, ranges: Vec<IpNet>, hosts: Vec<AllowedHost>) -> Self {
        (self.allowed, self.hosts) = (ranges.into_iter().map(canonical_range).collect(), hosts);
        self
    }

    /// Whether the operator denies any range.
    pub(crate) fn denies(&self) -> bool {
        !self.denied.is_empty()
    }

    /// What allows a target of `namespace` to point to `name`, or to an address where there is no name; `None` if nothing does.
    pub(crate) fn allowed_by(&self, name: Option<&str>, namespace: &str) -> Option<AllowedBy> {
        let restricted = !(self.allowed.is_empty() && self.hosts.is_empty());
        let named = || name.is_some_and(|name| self.hosts.iter().any(|host| host.covers(name, namespace)));
        if !restricted || named() {
            Some(AllowedBy::Host)
        } else if self.allowed.is_empty() {
            None
        } else {
            Some(AllowedBy::Address)
        }
    }

    /// Why `address` may not be contacted by a target that is `allowed` in this way; `None` if it may.
    pub(crate) fn refusal(&self, address: IpAddr, allowed: AllowedBy) -> Option<DenyReason> {
        let address = address.to_canonical(); // ::ffff:169.254.169.254 is 169.254.169.254
        let denied = forms(address).find_map(|form| {
            let in_range = |form| self.denied.iter().any(|range| range.contains(&form));
            always_denied(form).or_else(|| {
                // 0.0.0.0 and :: lead to this host, so a rule that denies loopback denies them as well.
                let denied = in_range(form) || (form.is_unspecified() && loopbacks().into_iter().any(in_range));
                let loopback = form.is_loopback() || form.is_unspecified();
                denied.then_some(if loopback { DenyReason::Loopback } else { DenyReason::Denied })
            })
        });
        denied
            .or_else(|| (allowed == AllowedBy::Address && !self.is_allowed(address)).then_some(DenyReason::NotAllowed))
    }

    /// An address that a gateway translates counts as the IPv4 address in it. One that is only tunnelled counts as itself.
    fn is_allowed(&self, address: IpAddr) -> bool {
        let translated = match address {
            IpAddr::V6(v6) => translated(v6).map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        let addresses = std::iter::once(address).chain(translated);
        addresses.into_iter().any(|address| self.allowed.iter().any(|range| range.contains(&address)))
    }
}

/// What allows a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AllowedBy {
    /// By its name, or because there are no rules about it: at any address that is not denied.
    Host,
    /// Only at the addresses of `--target-allow-cidr`.
    Address,
}

/// Why an address may not be contacted, with the flags that change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyReason {
    /// Of this machine or its network segment only.
    LinkLocal,
    /// Where a cloud hands out credentials.
    Metadata,
    /// Multicast or broadcast.
    Multicast,
    /// 0.0.0.0/8, which is no destination.
    ThisNetwork,
    /// This host.
    Loopback,
    /// In a range that the operator denies.
    Denied,
    /// In none of the ranges that the operator allows.
    NotAllowed,
}

impl std::fmt::Display for DenyReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::LinkLocal => "link-local, which is always denied",
            Self::Metadata => "the metadata service of a cloud, which is always denied",
            Self::Multicast => "multicast or broadcast, which is always denied",
            Self::ThisNetwork => "no destination, which is always denied",
            Self::Loopback => "loopback: in Kubernetes it needs --target-allow-loopback; or --target-deny-cidr",
            Self::Denied => "--target-deny-cidr",
            Self::NotAllowed => "not in --target-allow-cidr, nor is its host in --target-allow-host",
        })
    }
}

fn always_denied(address: IpAddr) -> Option<DenyReason> {
    let metadata = match address {
        IpAddr::V4(v4) => METADATA_V4.contains(&v4),
        IpAddr::V6(v6) => METADATA_V6.contains(&v6) || v6.segments().starts_with(&METADATA_AWS),
    };
    let (link_local, many) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.is_multicast() || v4.is_broadcast()),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.is_multicast()),
    };
    [(metadata, DenyReason::Metadata), (link_local, DenyReason::LinkLocal), (many, DenyReason::Multicast)]
        .into_iter()
        .find_map(|(is, ground)| is.then_some(ground))
}

/// Metadata services that are not link-local: Alibaba, Azure, Oracle.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];

/// Unique local addresses of metadata services: Google, Scaleway.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)];

/// `fd00:ec2::/32`: everything that AWS serves to an instance alone.
const METADATA_AWS: [u16; 2] = [0xfd00, 0x0ec2];

fn loopbacks() -> [IpAddr; 2] {
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
}

/// `address` and every IPv4 address that is embedded in it: a relay may send to any of them.
fn forms(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let inside = match address {
        IpAddr::V4(_) => Vec::new(),
        IpAddr::V6(v6) => translated(v6).into_iter().chain(tunnelled(v6)).collect(),
    };
    std::iter::once(address).chain(inside.into_iter().map(IpAddr::V4))
}

/// The host that `address` leads to, as far as that can be seen: the IPv4 address in it, if there is one.
pub(super) fn destination(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => translated(v6).or_else(|| tunnelled(v6).last().copied()).map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The IPv4 address that `v6` is translated to: IPv4-compatible, IPv4-translated (SIIT) and NAT64 addresses.
fn translated(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None, // the unspecified address and loopback
        [0, 0, 0, 0, 0 | 0xffff, 0, a, b] | [0x64, 0xff9b, 0, 0, 0, 0, a, b] => Some(v4(a, b)),
        _ => None,
    }
}

/// The IPv4 addresses that `v6` may travel to, or through.
fn tunnelled(v6: Ipv6Addr) -> Vec<Ipv4Addr> {
    let mut inside = Vec::new();
    match v6.segments() {
        [0x2002, a, b, ..] => inside.push(v4(a, b)), // 6to4
        [0x2001, 0, a, b, _, _, c, d] => inside.extend([v4(a, b), v4(!c, !d)]), // Teredo: the server, and the client, obfuscated
        [0x64, 0xff9b, 1, ..] => inside.extend(local_nat64(v6)),
        _ => {}
    }
    if let [_, _, _, _, 0 | 0x200, 0x5efe, a, b] = v6.segments() {
        inside.push(v4(a, b)); // ISATAP
    }
    inside
}

/// NAT64 of local use (RFC 8215) has a prefix of 48, 56, 64 or 96 bits, and the address does not show which. If it is not the last, the
/// octet from bit 64 on is empty (RFC 6052).
fn local_nat64(v6: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let [.., o6, o7, _, o9, o10, o11, o12, o13, o14, o15] = v6.octets();
    let by_prefix = [[o6, o7, o9, o10], [o7, o9, o10, o11], [o9, o10, o11, o12], [o12, o13, o14, o15]];
    // An address of zeros belongs to another length of the prefix.
    by_prefix.into_iter().filter(|[first, ..]| *first != 0).map(Ipv4Addr::from)
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
}

/// The range itself, or the one of IPv4 addresses that is written as one of IPv6: an address is compared in its IPv4 form.
pub(super) fn canonical_range(range: IpNet) -> IpNet {
    if let IpNet::V6(v6) = range
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(Ok(range)) = v6.prefix_len().checked_sub(96).map(|length| Ipv4Net::new(v4, length))
    {
        return IpNet::V4(range);
    }
    range
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(denied: &[&str], allowed: &[&str], hosts: &[&str]) -> AddressRules {
        let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        AddressRules::denying(ranges(denied))
            .allowing(ranges(allowed), hosts.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn refusal(rules: &AddressRules, address: &str, grant: AllowedBy) -> Option<DenyReason> {
        rules.refusal(address.parse().unwrap(), grant)
    }

    /// The forms of 10.1.2.3 that some relay on the way may turn into it.
    const TEN_1_2_3: [&str; 15] = [
        "10.1.2.3",
        "::ffff:10.1.2.3",
        "::10.1.2.3",
        "::ffff:0:10.1.2.3",
        "64:ff9b::10.1.2.3",
        "64:ff9b:1:a01:2:300::",
        "64:ff9b:1:a:1:203::",
        "64:ff9b:1:0:a:102:300::",
        "64:ff9b:1::10.1.2.3",
        "64:ff9b:1:1:1:1:10.1.2.3",
        "2002:a01:203::1",
        "2001:0:a01:203:0:0:8080:8080",
        "2001:0:808:808:0:0:f5fe:fdfc",
        "2001:db8::5efe:10.1.2.3",
        "2001:db8::200:5efe:10.1.2.3",
    ];

    #[test]
    fn a_denied_address_is_denied_in_every_form_that_holds_it() {
        let rules = rules(&["10.1.2.0/24"], &[], &[]);
        for form in TEN_1_2_3 {
            assert_eq!(refusal(&rules, form, AllowedBy::Host), Some(DenyReason::Denied), "{form}");
        }
        for other in ["10.1.3.3", "64:ff9b::10.1.3.3", "2002:a01:303::1", "2001:db8::10.1.2.3"] {
            assert_eq!(refusal(&rules, other, AllowedBy::Host), None, "{other}");
        }
    }

    #[test]
    fn a_range_of_ipv4_that_is_written_as_one_of_ipv6_is_that_range() {
        let deny = rules(&["::ffff:10.0.0.0/104"], &[], &[]);
        assert_eq!(refusal(&deny, "10.1.2.3", AllowedBy::Host), Some(DenyReason::Denied));
        assert_eq!(refusal(&deny, "11.1.2.3", AllowedBy::Host), None);
        let allow = rules(&[], &["::ffff:10.0.0.0/104"], &[]);
        assert_eq!(refusal(&allow, "10.1.2.3", AllowedBy::Address), None);
        assert!(refusal(&allow, "11.1.2.3", AllowedBy::Address).is_some());
    }

    #[test]
    fn what_clouds_hand_out_is_denied_always_and_in_every_form() {
        let none = AddressRules::default();
        for address in [
            "169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "fd00:ec2:1::23",
            "fd20:ce::254",
            "fd00:42::42",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::100.100.100.200",
            "2002:a9fe:a9fe::1",
            "2001:0:a9fe:a9fe::1",
            "2001:0:808:808:0:0:5601:5601",
            "::ffff:0:168.63.129.16",
            "::192.0.0.192",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
        ] {
            assert!(refusal(&none, address, AllowedBy::Host).is_some(), "{address}");
            let all = rules(&[], &["0.0.0.0/0", "::/0"], &["*.example.com"]);
            assert!(refusal(&all, address, AllowedBy::Host).is_some(), "{address} is allowed by a name");
            assert!(refusal(&all, address, AllowedBy::Address).is_some(), "{address} is allowed by a range");
        }
        for address in ["10.0.0.1", "2001:db8::1", "127.0.0.1", "::1", "fd20:ce::255", "100.100.100.201"] {
            assert_eq!(refusal(&none, address, AllowedBy::Host), None, "{address}");
        }
    }

    #[test]
    fn an_address_leads_to_the_same_host_in_every_form() {
        for form in
            ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "2002:a01:203::1", "2001:0:808:808:0:0:f5fe:fdfc"]
        {
            assert_eq!(destination(form.parse().unwrap()), IpAddr::from([10, 1, 2, 3]), "{form}");
        }
        let plain: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(destination(plain), plain);
    }

    #[test]
    fn whoever_denies_loopback_denies_every_way_to_write_this_host() {
        let rules = rules(&["127.0.0.0/8", "::1/128"], &[], &[]);
        for address in
            ["127.1.2.3", "::1", "0.0.0.0", "::", "::ffff:0.0.0.0", "::127.0.0.1", "64:ff9b::", "2002:7f00:1::1"]
        {
            assert_eq!(refusal(&rules, address, AllowedBy::Host), Some(DenyReason::Loopback), "{address}");
        }
    }

    #[test]
    fn where_ranges_are_allowed_only_what_is_in_them_may_be_contacted() {
        let rules = rules(&["10.1.2.9/32"], &["10.1.2.0/24", "2001:db8::/32"], &[]);
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "2001:db8::1"] {
            assert_eq!(refusal(&rules, address, AllowedBy::Address), None, "{address}");
        }
        // The address of a tunnel does not say which hosts are behind it.
        for address in ["10.1.3.3", "64:ff9b::10.1.3.3", "2002:a01:203::1", "64:ff9b:1::10.1.2.3"] {
            assert_eq!(refusal(&rules, address, AllowedBy::Address), Some(DenyReason::NotAllowed), "{address}");
        }
        assert_eq!(refusal(&rules, "10.1.2.9", AllowedBy::Address), Some(DenyReason::Denied), "denied wins");
        assert_eq!(
            refusal(&rules, "10.1.2.9", AllowedBy::Host),
            Some(DenyReason::Denied),
            "denied wins over a name, too"
        );
        assert_eq!(refusal(&rules, "10.1.3.3", AllowedBy::Host), None, "its name is allowed");
    }

    #[test]
    fn a_destination_is_granted_by_its_name_or_by_its_addresses() {
        let grant = |rules: &AddressRules, name| rules.allowed_by(name, "team-a");
        let both = rules(&[], &["10.0.0.0/8"], &["*.{namespace}.svc"]);
        assert_eq!(grant(&both, Some("sora.team-a.svc")), Some(AllowedBy::Host));
        assert_eq!(grant(&both, Some("sora.team-b.svc")), Some(AllowedBy::Address));
        assert_eq!(grant(&both, None), Some(AllowedBy::Address));
        let names = rules(&[], &[], &["*.{namespace}.svc"]);
        assert_eq!(grant(&names, Some("sora.team-b.svc")), None);
        assert_eq!(grant(&names, None), None, "an address has no name");
        assert_eq!(grant(&AddressRules::default(), None), Some(AllowedBy::Host));
    }
}
