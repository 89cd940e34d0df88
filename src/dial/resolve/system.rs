//! Name resolution by the configuration of the host or pod: `/etc/hosts`, and the name servers and search domains of `/etc/resolv.conf`. It
//! has neither a cache nor limits.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt};
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};

use super::{NameError, NameErrorCause};

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The next name server is asked as well when one has not answered for this long.
const NEXT_SERVER: Duration = Duration::from_millis(300);

/// How long addresses of one IP version wait for those of the other: some servers answer for one only.
const OTHER_VERSION: Duration = Duration::from_millis(500);

/// The files of the configuration, as they were when they were last checked.
#[derive(Debug, Default)]
pub(super) struct ConfigFiles {
    seen: Option<[Option<Fingerprint>; 2]>,
    looked: Option<Instant>,
}

/// Device, inode, length, and both times: different after any change.
type Fingerprint = (u64, u64, u64, (i64, i64), (i64, i64));

impl ConfigFiles {
    /// How often they are checked.
    const EVERY: Duration = Duration::from_secs(2);

    /// Whether they have changed since the last call that returned true. True at first.
    pub(super) fn have_changed(&mut self) -> bool {
        if self.looked.is_some_and(|looked| looked.elapsed() < Self::EVERY) {
            return false;
        }
        self.looked = Some(Instant::now());
        let now = Some([HOSTS, RESOLV_CONF].map(fingerprint));
        std::mem::replace(&mut self.seen, now) != now
    }
}

fn fingerprint(path: &str) -> Option<Fingerprint> {
    let data = fs::metadata(path).ok()?;
    Some((data.dev(), data.ino(), data.len(), (data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec())))
}

/// The configuration as it was read.
#[derive(Debug)]
pub(super) struct SystemConfig {
    hosts: Hosts,
    /// One resolver for each name server: they are asked in order, as by libc, so that the answer of the first counts.
    servers: Vec<TokioResolver>,
    names_of_servers: Arc<str>,
    search: Vec<Name>,
    ndots: usize,
}

/// Addresses, and how long they are valid according to the name server.
pub(super) struct FoundAddresses {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) until: Option<Instant>,
    /// Both questions were answered.
    pub(super) is_complete: bool,
}

impl SystemConfig {
    /// Reads both files. If `resolv.conf` cannot be used, the name servers of `before` are kept.
    pub(super) fn read(before: Option<&Self>) -> Self {
        let mut hosts = Hosts::default();
        if let Ok(file) = fs::File::open(HOSTS) {
            let _ = hosts.read_hosts_conf(file); // what can be read of it counts
        }
        match hickory_resolver::system_conf::read_system_conf() {
            Ok((config, options)) => Self::new(hosts, &config, &options),
            Err(error) => {
                tracing::warn!(file = RESOLV_CONF, error = &error as &dyn std::error::Error, "it cannot be used");
                if let Some(Self { servers, names_of_servers, search, ndots, .. }) = before {
                    let (servers, search) = (servers.clone(), search.clone());
                    return Self {
                        hosts,
                        servers,
                        names_of_servers: Arc::clone(names_of_servers),
                        search,
                        ndots: *ndots,
                    };
                }
                // As libc does where there is no such file.
                let local = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
                Self::new(hosts, &ResolverConfig::from_name_servers(vec![local]), &ResolverOpts::default())
            }
        }
    }

    fn new(hosts: Hosts, config: &ResolverConfig, options: &ResolverOpts) -> Self {
        /// As many as libc takes.
        const MAX_SERVERS: usize = 3;
        let mut each = options.clone();
        each.attempts = options.attempts.saturating_sub(1); // libc counts the first one
        each.cache_size = 0;
        each.use_hosts_file = ResolveHosts::Never;
        each.max_active_requests = usize::from(u16::MAX); // the caller bounds it
        let servers = config.name_servers().iter().take(MAX_SERVERS);
        let names: Vec<String> = servers.clone().map(|server| server.ip.to_string()).collect();
        let servers = servers.filter_map(|server| {
            let only = ResolverConfig::from_name_servers(vec![server.clone()]);
            let builder = TokioResolver::builder_with_config(only, TokioRuntimeProvider::default());
            builder.with_options(each.clone()).build().ok()
        });
        // The domain of the host's own name is searched only if the file has no search list.
        let search = match config.search() {
            [] => config.domain().cloned().into_iter().collect(),
            search => search.to_vec(),
        };
        Self {
            hosts,
            servers: servers.collect(),
            names_of_servers: names.join(", ").into(),
            search,
            ndots: options.ndots,
        }
    }

    /// The addresses of `host`, however long it takes.
    pub(super) async fn look_up(&self, host: &str) -> Result<FoundAddresses, NameError> {
        let Ok(name) = Name::from_ascii(host) else { return Err(self.error(host, NameErrorCause::Malformed)) };
        let mut why = NameErrorCause::NotFound;
        for candidate in self.candidates(&name) {
            match self.ask(&candidate).await {
                Ok(found) => return Ok(found),
                // Another name from the search list could be another host.
                Err(NameErrorCause::NoAnswer) => return Err(self.error(host, NameErrorCause::NoAnswer)),
                Err(other) => why = why.max(other),
            }
        }
        Err(self.error(host, why))
    }

    pub(super) fn error(&self, host: &str, cause: NameErrorCause) -> NameError {
        NameError { host: host.into(), servers: Arc::clone(&self.names_of_servers), cause }
    }

    /// All addresses of a name that is in `/etc/hosts` or means this host, without a query.
    pub(super) fn without_query(&self, host: &str) -> Option<Vec<IpAddr>> {
        let name = Name::from_ascii(host).ok()?;
        let of = |record_type| self.hosts.lookup_static_host(&Query::query(name.clone(), record_type));
        let lookups = [RecordType::A, RecordType::AAAA].into_iter().filter_map(of);
        let in_hosts: Vec<IpAddr> = lookups.flat_map(|lookup| addresses(&lookup)).collect();
        if in_hosts.is_empty() && name.is_localhost() {
            return Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        (!in_hosts.is_empty()).then_some(in_hosts)
    }

    /// The names for which `name` may be an abbreviation, in the order in which they are tried.
    fn candidates(&self, name: &Name) -> Vec<Name> {
        let mut as_it_stands = name.clone();
        as_it_stands.set_fqdn(true);
        if name.is_fqdn() {
            return vec![as_it_stands];
        }
        let searched = self.search.iter().filter_map(|domain| {
            let mut candidate = name.clone().append_domain(domain).ok()?;
            candidate.set_fqdn(true);
            Some(candidate)
        });
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        if dots >= self.ndots {
            std::iter::once(as_it_stands).chain(searched).collect()
        } else {
            searched.chain(std::iter::once(as_it_stands)).collect()
        }
    }

    /// Asks the name servers for one name, in their order.
    async fn ask(&self, name: &Name) -> Result<FoundAddresses, NameErrorCause> {
        let mut left = self.servers.iter();
        let mut asked = FuturesUnordered::new();
        let mut why = NameErrorCause::NoAnswer;
        loop {
            asked.extend(left.next().map(|server| both_versions(server, name)));
            let next = async {
                if left.len() == 0 {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(NEXT_SERVER).await;
            };
            tokio::select! {
                biased;
                result = asked.next() => match result {
                    Some(Ok(found)) => return Ok(found),
                    Some(Err(verdict @ (NameErrorCause::NotFound | NameErrorCause::NoAddress))) => return Err(verdict),
                    Some(Err(other)) => {
                        why = other;
                        if asked.is_empty() && left.len() == 0 {
                            return Err(why);
                        }
                    }
                    None => return Err(why),
                },
                () = next => {}
            }
        }
    }
}

/// Asks one server for both kinds of addresses at once.
async fn both_versions(server: &TokioResolver, name: &Name) -> Result<FoundAddresses, NameErrorCause> {
    let v4 = std::pin::pin!(server.lookup(name.clone(), RecordType::A));
    let v6 = std::pin::pin!(server.lookup(name.clone(), RecordType::AAAA));
    let (v4, v6) = match select(v4, v6).await {
        Either::Left((v4, rest)) => {
            let v6 = rest_of(&v4, rest).await;
            (Some(v4), v6)
        }
        Either::Right((v6, rest)) => {
            let v4 = rest_of(&v6, rest).await;
            (v4, Some(v6))
        }
    };
    let mut found = FoundAddresses { addresses: Vec::new(), until: None, is_complete: true };
    let mut whys = Vec::new();
    for lookup in [v4, v6] {
        let Some(lookup) = lookup else {
            found.is_complete = false;
            continue;
        };
        match lookup {
            Ok(lookup) => {
                found.addresses.extend(addresses(&lookup));
                let until = lookup.valid_until();
                found.until = Some(found.until.map_or(until, |earlier| earlier.min(until)));
            }
            Err(error) => {
                let why = why(&error);
                found.is_complete &= matches!(why, NameErrorCause::NotFound | NameErrorCause::NoAddress);
                whys.push(why);
            }
        }
    }
    if found.addresses.is_empty() {
        Err(whys.into_iter().max().unwrap_or(NameErrorCause::NoAddress))
    } else {
        Ok(found)
    }
}

/// The answer for the other version: not waited for if the first says that the name does not exist, and not for long if it has addresses.
async fn rest_of(
    first: &Result<Lookup, NetError>,
    rest: impl Future<Output = Result<Lookup, NetError>>,
) -> Option<Result<Lookup, NetError>> {
    match first {
        Err(error) if why(error) == NameErrorCause::NotFound => None,
        Ok(lookup) if !addresses(lookup).is_empty() => tokio::time::timeout(OTHER_VERSION, rest).await.ok(),
        _ => Some(rest.await),
    }
}

/// The most addresses of one version that are taken: as many as one answer of a name server has room for. Fewer would be another choice each
/// time, since name servers rotate them.
const MOST_ADDRESSES: usize = 4096;

fn addresses(lookup: &Lookup) -> Vec<IpAddr> {
    lookup.answers().iter().filter_map(|record| record.data.ip_addr()).take(MOST_ADDRESSES).collect()
}

fn why(error: &NetError) -> NameErrorCause {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. })) => match response_code {
            ResponseCode::NXDomain => NameErrorCause::NotFound,
            _ => NameErrorCause::NoAddress,
        },
        NetError::Dns(_) | NetError::Proto(_) | NetError::Truncated => NameErrorCause::ServerFailed,
        _ => NameErrorCause::NoAnswer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(ndots: usize, search: &[&str], hosts: &str) -> SystemConfig {
        let mut known = Hosts::default();
        known.read_hosts_conf(hosts.as_bytes()).unwrap();
        let search = search.iter().map(|domain| Name::from_ascii(domain).unwrap()).collect();
        let config = ResolverConfig::from_parts(None, search, Vec::new());
        let mut options = ResolverOpts::default();
        options.ndots = ndots;
        SystemConfig::new(known, &config, &options)
    }

    fn candidates(system: &SystemConfig, name: &str) -> Vec<String> {
        system.candidates(&Name::from_ascii(name).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn short_names_are_searched_as_a_pod_does() {
        let pod = system(5, &["team.svc.cluster.local", "svc.cluster.local"], "");
        let of_sora = ["sora.team.svc.cluster.local.", "sora.svc.cluster.local.", "sora."];
        assert_eq!(candidates(&pod, "sora"), of_sora);
        let of_two = ["sora.other.team.svc.cluster.local.", "sora.other.svc.cluster.local.", "sora.other."];
        assert_eq!(candidates(&pod, "sora.other"), of_two);
        assert_eq!(candidates(&pod, "sora.other.svc.cluster.local."), ["sora.other.svc.cluster.local."]);
        assert_eq!(candidates(&pod, "a.b.c.d.e.f").first().unwrap(), "a.b.c.d.e.f.", "five dots");
    }

    #[test]
    fn the_file_of_hosts_and_this_host_need_no_name_server() {
        let system = system(5, &["example.com"], "192.0.2.7 Sora my_sora.lan # ours\n2001:db8::7 sora\nbroken\n");
        for (name, addresses) in [
            ("sora", "192.0.2.7 2001:db8::7"),
            ("SORA.", "192.0.2.7 2001:db8::7"),
            ("my_sora.lan", "192.0.2.7"),
            ("localhost", "127.0.0.1 ::1"),
            ("a.localhost.", "127.0.0.1 ::1"),
        ] {
            let expected: Vec<IpAddr> = addresses.split(' ').map(|address| address.parse().unwrap()).collect();
            assert_eq!(system.without_query(name), Some(expected), "{name}");
        }
        assert_eq!(system.without_query("sora.example.com"), None);
    }
}
