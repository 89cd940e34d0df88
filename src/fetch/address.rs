//! Which addresses may be contacted, asked after name resolution, so that no name leads around it.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

/// Ranges that are never contacted.
#[derive(Clone, Debug, Default)]
pub struct AddressRules {
    denied: Vec<IpNet>,
}

impl AddressRules {
    /// Denies `ranges` beside the link-local ones, which are always denied: cloud providers answer with credentials there.
    pub fn denying(ranges: impl IntoIterator<Item = IpNet>) -> Self {
        Self { denied: ranges.into_iter().collect() }
    }

    /// Whether `address` may be contacted.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical(); // ::ffff:169.254.169.254 is 169.254.169.254
        let link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.segments() == AWS_METADATA_V6,
        };
        // 0.0.0.0 and :: are this very host: whoever denies loopback means them, too.
        let effective = if address.is_unspecified() { loopback_of(address) } else { address };
        !link_local && !self.denied.iter().any(|range| range.contains(&address) || range.contains(&effective))
    }
}

/// `fd00:ec2::254`, where AWS serves instance credentials over IPv6: a unique local address, not a link-local one.
const AWS_METADATA_V6: [u16; 8] = [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254];

fn loopback_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(_) => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]),
    }
}

/// What can have denied an address, by the flags that one would look for.
pub(super) fn grounds(address: &IpAddr) -> &'static str {
    let address = address.to_canonical();
    if address.is_loopback() || address.is_unspecified() {
        "loopback: in Kubernetes it needs --target-allow-loopback; or --target-deny-cidr"
    } else {
        "link-local, or --target-deny-cidr"
    }
}

/// A host that cannot be contacted, before any connection is tried.
#[derive(Debug, thiserror::Error)]
pub(super) enum AddressError {
    #[error("{host} has no address: {source}")]
    Unresolved { host: String, source: std::io::Error },
    #[error("{host} has no address")]
    Empty { host: String },
    #[error("{host} is at {address}, an address that may not be contacted ({grounds})", grounds = grounds(.address))]
    Denied { host: String, address: IpAddr },
}

/// Resolves names by the system, then drops the addresses that the rules deny.
#[derive(Clone, Debug)]
pub(super) struct RuledResolver {
    pub(super) rules: AddressRules,
    /// The real host, where the url's host was replaced by the name that the certificate must have.
    pub(super) instead_of: Option<(String, String)>,
}

impl Resolve for RuledResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = self.rules.clone();
        let host = match &self.instead_of {
            Some((alias, host)) if alias.eq_ignore_ascii_case(name.as_str()) => host.clone(),
            _ => name.as_str().to_owned(),
        };
        Box::pin(async move {
            let addresses = allowed_addresses(&rules, host).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Names that may be resolved at once. Each takes a thread until the system's resolver gives up, long after we did; the other
/// threads are for files and pages.
static LOOKUPS: Semaphore = Semaphore::const_new(64);

async fn look_up(host: String) -> std::io::Result<Vec<SocketAddr>> {
    let slot = LOOKUPS.acquire().await.map_err(std::io::Error::other)?;
    let lookup = tokio::task::spawn_blocking(move || {
        let _slot = slot; // held until the resolver is done, even if nobody waits for it any more
        Ok((host.as_str(), 0).to_socket_addrs()?.collect())
    });
    lookup.await.map_err(std::io::Error::other)?
}

async fn allowed_addresses(rules: &AddressRules, host: String) -> Result<Vec<SocketAddr>, AddressError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let found = match look_up(bare).await {
        Ok(found) => found,
        Err(source) => return Err(AddressError::Unresolved { host, source }),
    };
    let (allowed, denied): (Vec<_>, Vec<_>) = found.into_iter().partition(|address| rules.allows(address.ip()));
    match (allowed.is_empty(), denied.first()) {
        (false, _) => Ok(allowed),
        (true, Some(address)) => Err(AddressError::Denied { host, address: address.ip() }),
        (true, None) => Err(AddressError::Empty { host }),
    }
}
