//! One dialer for each target that is probed: the only way from the host of its url to a socket.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

use super::address::destination;
use super::error::reason_of;
use super::handshake::LoadedTls;
use super::rate::AddressRate;
use super::{
    AddressRules, AllowedBy, ClientError, Connection, DenyReason, IpPreference, IpVersion, KnownHosts, Resolver,
};
use crate::failure::{CallError, Reason};
use crate::tls::TrustStore;

/// Probes of one address in a second, unless the operator sets another limit.
pub const DEFAULT_PROBES_PER_ADDRESS: u32 = 20;

/// Bytes of the payload of an ICMP echo request, unless the operator allows more: what a packet of Ethernet takes.
pub const DEFAULT_MAX_ECHO_PAYLOAD: u16 = 1472;

/// What all dialers share: rules, names, the rate of each address, and trusted authorities.
#[derive(Debug)]
pub struct Dialers {
    rules: Arc<AddressRules>,
    resolver: Arc<Resolver>,
    rate: AddressRate,
    max_echo_payload: u16,
    trust: Mutex<HashMap<Arc<[u8]>, Weak<TrustStore>>>,
}

impl Dialers {
    /// All dialers will obey `rules`.
    pub fn new(rules: AddressRules) -> Self {
        Self {
            rules: Arc::new(rules),
            resolver: Arc::default(),
            rate: AddressRate::new(DEFAULT_PROBES_PER_ADDRESS),
            max_echo_payload: DEFAULT_MAX_ECHO_PAYLOAD,
            trust: Mutex::default(),
        }
    }

    /// The same with names whose addresses are known without a name server.
    #[must_use]
    pub fn knowing(mut self, hosts: KnownHosts) -> Self {
        self.resolver = Arc::new(Resolver::knowing(hosts));
        self
    }

    /// The same with another limit of probes of one address in a second; 0: none.
    #[must_use]
    pub fn limiting(mut self, probes_per_second: u32) -> Self {
        self.rate = AddressRate::new(probes_per_second);
        self
    }

    /// The same with another limit of the payload of ICMP echo requests, in bytes.
    #[must_use]
    pub const fn echoing_up_to(mut self, bytes: u16) -> Self {
        self.max_echo_payload = bytes;
        self
    }

    pub(crate) const fn rules(&self) -> &Arc<AddressRules> {
        &self.rules
    }

    pub(crate) const fn resolver(&self) -> &Arc<Resolver> {
        &self.resolver
    }

    /// The dialer for a target of `namespace` with these settings.
    pub fn dialer(self: &Arc<Self>, settings: &Connection, namespace: &Arc<str>) -> Result<Dialer, ClientError> {
        let trust = |pem: &Arc<[u8]>| self.trust(pem);
        // From an address that is denied, a probe would reach what the rule protects.
        if let Some(address) = settings.source_address
            && let Some(ground) = self.rules.refusal(address, AllowedBy::Host)
        {
            return Err(ClientError::DeniedSource { address, ground });
        }
        Ok(Dialer {
            dialers: Arc::clone(self),
            namespace: Arc::clone(namespace),
            ip: settings.ip,
            source: settings.source_address,
            tls: LoadedTls::new(&settings.tls, trust)?,
            proxy_tls: LoadedTls::of_proxy(settings, trust)?,
        })
    }

    /// The authorities in `pem`, in memory once.
    fn trust(&self, pem: &Arc<[u8]>) -> Result<Arc<TrustStore>, ClientError> {
        let mut shared = self.trust.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = shared.get(pem).and_then(Weak::upgrade) {
            return Ok(store);
        }
        let store = TrustStore::of_pem(pem).ok_or(ClientError::Ca)?;
        shared.retain(|_, store| store.strong_count() > 0);
        shared.insert(Arc::clone(pem), Arc::downgrade(&store));
        Ok(store)
    }
}

/// An address that the target may contact. Only a [`Dialer`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgedAddress(IpAddr);

impl JudgedAddress {
    /// The address itself.
    pub const fn ip(self) -> IpAddr {
        self.0
    }
}

/// Opens the sockets of one target's probes.
#[derive(Debug)]
pub struct Dialer {
    dialers: Arc<Dialers>,
    namespace: Arc<str>,
    ip: IpPreference,
    source: Option<IpAddr>,
    pub(super) tls: LoadedTls,
    /// For a proxy with settings of its own.
    pub(super) proxy_tls: Option<LoadedTls>,
}

impl Dialer {
    /// The namespace of the target that it is for.
    pub const fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }

    /// The largest payload of an ICMP echo request that the operator allows, in bytes.
    pub fn max_echo_payload(&self) -> u16 {
        self.dialers.max_echo_payload
    }

    /// The address of `host` that is contacted: a name, an IPv4 address, or an IPv6 address with or without brackets. A name is looked up
    /// anew, so that the time that this takes is that of a lookup and not of a cache. All its addresses are judged. Of those that may be
    /// contacted it is the first one of the preferred IP version, else the last one of the other, as with the blackbox exporter.
    ///
    /// Reasons: `config` if the operator's rules refuse it, `dns` if there is no address.
    pub async fn resolve(&self, host: &str, deadline: Instant) -> Result<JudgedAddress, CallError> {
        let literal = literal_address(host);
        let rules = &self.dialers.rules;
        let name = if literal.is_some() { None } else { Some(host) };
        let refused = |error: ClientError| CallError::new(Reason::Config, error.to_string());
        let grant = rules
            .allowed_by(name, &self.namespace)
            .ok_or_else(|| refused(ClientError::HostNotAllowed { field: "url", host: host.to_owned() }))?;
        let found: Arc<[IpAddr]> = match literal {
            Some(address) => Arc::from([address]),
            None => self.look_up(host, deadline).await?,
        };
        let mut denied = None;
        let allowed = found.iter().map(IpAddr::to_canonical).filter(|address| {
            let ground = rules.refusal(*address, grant).or_else(|| unusable(*address));
            denied = denied.or_else(|| ground.map(|ground| (*address, ground)));
            ground.is_none()
        });
        let allowed: Vec<IpAddr> = allowed.collect();
        if let Some(address) = self.ip.choose(&allowed) {
            return Ok(JudgedAddress(address));
        }
        Err(match (denied, literal) {
            (Some((address, ground)), Some(_)) => refused(ClientError::Denied { address, ground }),
            (Some((address, ground)), None) => {
                let message = format!("{host} is at {address}, an address that may not be contacted ({ground})");
                CallError::new(Reason::Config, message)
            }
            (None, _) => {
                let version = self.ip.preferred.as_str();
                CallError::new(Reason::Dns, format!("{host} has no {version} address, and ipProtocolFallback is false"))
            }
        })
    }

    /// Whether `host` is a name that the operator's rules do not allow, so that only its addresses may be.
    pub fn allows_only_addresses(&self, host: &str) -> bool {
        literal_address(host).is_none()
            && self.dialers.rules.allowed_by(Some(host), &self.namespace) == Some(AllowedBy::Address)
    }

    /// Whether a host may be contacted that a proxy resolves. If its name has addresses here as well, they are judged, although the proxy may
    /// find others.
    ///
    /// Reasons: `config`.
    pub async fn judge_unresolved(&self, host: &str, deadline: Instant) -> Result<(), CallError> {
        let rules = &self.dialers.rules;
        let refused = |error: ClientError| CallError::new(Reason::Config, error.to_string());
        let literal = literal_address(host);
        let name = if literal.is_some() { None } else { Some(host) };
        let grant = rules
            .allowed_by(name, &self.namespace)
            .ok_or_else(|| refused(ClientError::HostNotAllowed { field: "url", host: host.to_owned() }))?;
        let is_localhost = |name: &str| {
            name.trim_end_matches('.').rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"))
        };
        let known: Vec<IpAddr> = match name {
            // The proxy's own.
            Some(name) if is_localhost(name) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Some(_) if grant == AllowedBy::Address => {
                return Err(refused(ClientError::ResolvedByProxy { field: "url", host: host.to_owned() }));
            }
            // What has no address here may have one where the proxy is.
            Some(name) if rules.denies() => {
                self.look_up(name, deadline).await.map(|found| found.to_vec()).unwrap_or_default()
            }
            _ => literal.into_iter().collect(),
        };
        match known.into_iter().find_map(|address| Some((address, rules.refusal(address, grant)?))) {
            Some((address, ground)) => Err(refused(ClientError::Denied { address, ground })),
            None => Ok(()),
        }
    }

    /// Whether a server may be made to send to the address at which it says that it relays. That is its own business, so rules that allow only
    /// some destinations do not apply; but what nobody may contact, it is not asked to contact either.
    ///
    /// Reason: `config`.
    pub fn judge_relayed(&self, address: IpAddr) -> Result<(), CallError> {
        let ground = self.dialers.rules.refusal(address, AllowedBy::Host).or_else(|| unusable(address.to_canonical()));
        ground.map_or(Ok(()), |ground| {
            let message = format!("the server relays at {address}, an address that may not be contacted ({ground})");
            Err(CallError::new(Reason::Config, message))
        })
    }

    async fn look_up(&self, host: &str, deadline: Instant) -> Result<Arc<[IpAddr]>, CallError> {
        let name: Arc<str> = host.into();
        let resolver = &self.dialers.resolver;
        let found = match timeout_at(deadline, resolver.look_up_anew(&self.namespace, &name)).await {
            Ok(found) => found,
            Err(_) => Err(resolver.timeout_error(host)),
        };
        found.map(|found| found.addresses).map_err(|error| CallError::new(Reason::Dns, error.to_string()))
    }

    /// Connects over TCP.
    ///
    /// Reasons: `connect`, `unreachable`, `timeout`; `config` for a source address that this machine does not have.
    pub async fn connect(&self, address: JudgedAddress, port: u16, deadline: Instant) -> Result<TcpStream, CallError> {
        let to = SocketAddr::new(address.ip(), port);
        let failed = |error: &io::Error| CallError::new(reason_of(error), format!("no connection to {to}: {error}"));
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(|error| failed(&error))?;
        if let Some(from) = self.source_for(address)? {
            socket.bind(SocketAddr::new(from, 0)).map_err(|error| self.unbound(from, &error))?;
        }
        let connecting = timeout_at(deadline, socket.connect(to)).await;
        let connected =
            connecting.map_err(|_| CallError::new(Reason::Timeout, format!("no connection to {to} in time")))?;
        let stream = connected.map_err(|error| failed(&error))?;
        let _ = stream.set_nodelay(true); // only a matter of speed
        Ok(stream)
    }

    /// A UDP socket that sends to this address alone, and gets datagrams from nowhere else.
    pub async fn udp(&self, address: JudgedAddress, port: u16) -> Result<UdpSocket, CallError> {
        let to = SocketAddr::new(address.ip(), port);
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let from = self.source_for(address)?;
        let socket = UdpSocket::bind(SocketAddr::new(from.unwrap_or(any), 0)).await;
        let socket = socket.map_err(|error| self.unbound(from.unwrap_or(any), &error))?;
        let failed = |error: io::Error| CallError::new(reason_of(&error), format!("no way to {to}: {error}"));
        socket.connect(to).await.map_err(failed)?;
        Ok(socket)
    }

    /// The address from which sockets to `address` are bound, if the target has one.
    pub(super) fn source_for(&self, address: JudgedAddress) -> Result<Option<IpAddr>, CallError> {
        let Some(from) = self.source else { return Ok(None) };
        if from.is_ipv4() != address.ip().is_ipv4() {
            let to = address.ip();
            let message =
                format!("spec.sourceIpAddress: {from} is of another IP version than {to}, write one of the same");
            return Err(CallError::new(Reason::Config, message));
        }
        Ok(Some(from))
    }

    pub(super) fn unbound(&self, from: IpAddr, error: &io::Error) -> CallError {
        if self.source.is_some() && error.kind() == io::ErrorKind::AddrNotAvailable {
            let message = format!("spec.sourceIpAddress: {from} is no address of this machine, write one of its own");
            return CallError::new(Reason::Config, message);
        }
        CallError::new(reason_of(error), format!("no socket at {from}: {error}"))
    }

    /// Waits until the address may be probed once more, a moment at most. It is asked once for each address of a probe, before the first
    /// connection: a probe may need several, and what it measures must not contain the wait.
    ///
    /// Reason: `limit` if it has been probed too often.
    pub async fn admit(&self, address: JudgedAddress, deadline: Instant) -> Result<(), CallError> {
        let rate = &self.dialers.rate;
        let patience = deadline.saturating_duration_since(Instant::now()) / 4;
        if let Some(wait) = rate.request(destination(address.ip()), &self.namespace, patience) {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            return Ok(());
        }
        let (ip, most) = (address.ip(), rate.per_second());
        let message = format!(
            "not probed: the targets of all namespaces may probe {ip} {most} times a second, and want to do so more often; write a longer \
             interval, or let the operator of the exporter raise --max-probes-per-address"
        );
        Err(CallError::new(Reason::Limit, message))
    }
}

impl IpPreference {
    /// The address to contact.
    fn choose(self, addresses: &[IpAddr]) -> Option<IpAddr> {
        let is_preferred = |address: &&IpAddr| address.is_ipv4() == (self.preferred == IpVersion::V4);
        let preferred = addresses.iter().find(is_preferred);
        preferred.or_else(|| addresses.last().filter(|_| self.fallback)).copied()
    }
}

/// The address that is written in the place of a host, as it is in a url; none if that is a name.
pub fn literal_address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// No probe is sent to "this network": it leads to this host, or nowhere.
fn unusable(address: IpAddr) -> Option<DenyReason> {
    let is_this_network = match address {
        IpAddr::V4(v4) => v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unspecified(),
    };
    is_this_network.then_some(DenyReason::ThisNetwork)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NAME: &str = "a.example.com";

    fn addresses(list: &[&str]) -> Arc<[IpAddr]> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// A dialer that knows one name.
    fn dialer(rules: AddressRules, known: &[&str], change: impl FnOnce(&mut Connection)) -> Dialer {
        let hosts = KnownHosts::from([(NAME.into(), addresses(known))]);
        let mut settings = Connection::default();
        change(&mut settings);
        Arc::new(Dialers::new(rules).knowing(hosts)).dialer(&settings, &"team-a".into()).unwrap()
    }

    async fn resolved(dialer: &Dialer, host: &str) -> Result<String, (Reason, String)> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let found = dialer.resolve(host, deadline).await;
        found.map(|address| address.ip().to_string()).map_err(|error| (error.reason, error.message))
    }

    fn denying(range: &str) -> AddressRules {
        AddressRules::denying([range.parse().unwrap()])
    }

    #[tokio::test]
    async fn the_first_address_of_the_preferred_version_is_chosen_or_the_last_of_the_other() {
        let both = ["10.0.0.1", "2001:db8::1", "10.0.0.2", "2001:db8::2"];
        let only_v6 = ["2001:db8::1", "2001:db8::2"];
        let prefer =
            |preferred, fallback| move |settings: &mut Connection| settings.ip = IpPreference { preferred, fallback };
        for (known, preferred, fallback, expected) in [
            (&both[..], IpVersion::V4, true, Some("10.0.0.1")),
            (&both[..], IpVersion::V6, true, Some("2001:db8::1")),
            (&both[..], IpVersion::V6, false, Some("2001:db8::1")),
            (&both[..1], IpVersion::V6, true, Some("10.0.0.1")),
            (&only_v6[..], IpVersion::V4, true, Some("2001:db8::2")),
            (&only_v6[..], IpVersion::V4, false, None),
        ] {
            let dialer = dialer(AddressRules::default(), known, prefer(preferred, fallback));
            let found = resolved(&dialer, NAME).await;
            if let Some(address) = expected {
                assert_eq!(found.unwrap(), address, "{known:?}");
            } else {
                let (reason, message) = found.unwrap_err();
                assert!(reason == Reason::Dns && message.contains("ipProtocolFallback"), "{message}");
            }
        }
        let v6 = dialer(AddressRules::default(), &both, prefer(IpVersion::V6, false));
        assert_eq!(resolved(&v6, "10.9.9.9").await.unwrap_err().0, Reason::Dns, "also of an address itself");
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_judged_and_only_an_allowed_one_is_chosen() {
        let some = dialer(denying("10.0.0.0/24"), &["10.0.0.1", "10.0.1.1", "2001:db8::1"], |_| ());
        assert_eq!(resolved(&some, NAME).await.unwrap(), "10.0.1.1");
        for hidden in ["::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::1"] {
            let none = dialer(denying("10.0.0.0/24"), &["10.0.0.1", hidden], |_| ());
            let (reason, message) = resolved(&none, NAME).await.unwrap_err();
            assert_eq!(reason, Reason::Config, "{hidden}");
            assert!(message.contains(NAME) && message.contains("--target-deny-cidr"), "{message}");
        }
        for literal in ["10.0.0.7", "[::ffff:10.0.0.7]", "::ffff:a00:7"] {
            assert_eq!(resolved(&some, literal).await.unwrap_err().0, Reason::Config, "{literal}");
        }
    }

    #[tokio::test]
    async fn what_is_no_destination_is_never_probed() {
        let free = dialer(AddressRules::default(), &["169.254.169.254", "0.0.0.1", "ff02::1"], |_| ());
        assert_eq!(resolved(&free, NAME).await.unwrap_err().0, Reason::Config);
        for literal in ["0.0.0.0", "[::]", "0.1.2.3", "224.0.0.1", "255.255.255.255", "[fe80::1]", "169.254.169.254"] {
            assert_eq!(resolved(&free, literal).await.unwrap_err().0, Reason::Config, "{literal}");
        }
        assert_eq!(resolved(&free, "[::1]").await.unwrap(), "::1");
        assert_eq!(resolved(&free, "::ffff:127.0.0.1").await.unwrap(), "127.0.0.1");
    }

    #[tokio::test]
    async fn what_other_programs_read_as_an_address_is_a_name_here() {
        let dialer = dialer(AddressRules::default(), &["10.0.0.1"], |_| ());
        for host in ["0x7f.1", "2130706433", "127.1", "0177.0.0.1", "127.0.0.1."] {
            assert_eq!(resolved(&dialer, host).await.unwrap_err().0, Reason::Dns, "{host}");
        }
    }

    #[tokio::test]
    async fn a_name_must_be_allowed_where_names_are_restricted() {
        let hosts = vec!["*.{namespace}.svc".parse().unwrap()];
        let rules = AddressRules::default().allowing(Vec::new(), hosts);
        let dialer = dialer(rules, &["10.0.0.1"], |_| ());
        for host in [NAME, "10.0.0.1"] {
            let (reason, message) = resolved(&dialer, host).await.unwrap_err();
            assert!(reason == Reason::Config && message.contains("--target-allow-host"), "{message}");
        }
    }

    #[tokio::test]
    async fn a_lookup_ends_with_the_deadline_of_the_probe() {
        let dialer = dialer(AddressRules::default(), &["10.0.0.1"], |_| ());
        let past = Instant::now();
        let error = dialer.resolve("slow.example.invalid", past).await.unwrap_err();
        assert_eq!(error.reason, Reason::Dns);
    }

    #[tokio::test]
    async fn a_source_address_is_one_of_this_machine_and_of_the_same_version() {
        let free = AddressRules::default;
        let deadline = Instant::now() + Duration::from_secs(60);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let from = |address: &str| {
            let source = address.parse().unwrap();
            dialer(free(), &["127.0.0.1"], |settings: &mut Connection| settings.source_address = Some(source))
        };
        let own = from("127.0.0.3");
        let to = own.resolve(NAME, deadline).await.unwrap();
        let stream = own.connect(to, port, deadline).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip().to_string(), "127.0.0.3");
        assert_eq!(own.udp(to, port).await.unwrap().local_addr().unwrap().ip().to_string(), "127.0.0.3");
        for (address, says) in [("192.0.2.1", "no address of this machine"), ("::1", "another IP version")] {
            let dialer = from(address);
            let to = dialer.resolve(NAME, deadline).await.unwrap();
            let errors =
                [dialer.connect(to, port, deadline).await.unwrap_err(), dialer.udp(to, port).await.unwrap_err()];
            for error in errors {
                assert!(error.reason == Reason::Config && error.message.contains(says), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn a_source_address_that_is_denied_is_refused() {
        let dialers = Arc::new(Dialers::new(denying("127.0.0.0/8")));
        let settings = Connection { source_address: Some("127.0.0.1".parse().unwrap()), ..Connection::default() };
        let error = dialers.dialer(&settings, &"team-a".into()).unwrap_err();
        assert_eq!(error.field(), Some("sourceIpAddress"));
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn probes_of_one_address_are_limited_over_all_namespaces() {
        let dialers = Arc::new(Dialers::new(AddressRules::default()).limiting(3));
        let mut refused = 0;
        for namespace in ["a", "b", "a", "b", "c"] {
            let dialer = dialers.dialer(&Connection::default(), &namespace.into()).unwrap();
            let address = dialer.resolve("127.0.0.1", Instant::now()).await.unwrap();
            if let Err(error) = dialer.admit(address, Instant::now()).await {
                assert!(error.reason == Reason::Limit && error.message.contains("127.0.0.1"), "{error}");
                refused += 1;
            }
        }
        assert_eq!(refused, 2);
    }

    #[tokio::test]
    async fn a_port_without_a_server_is_refused_and_a_silent_one_ends_with_the_deadline() {
        let dialer = dialer(AddressRules::default(), &["127.0.0.1"], |_| ());
        let deadline = Instant::now() + Duration::from_secs(60);
        let to = dialer.resolve(NAME, deadline).await.unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert_eq!(dialer.connect(to, closed, deadline).await.unwrap_err().reason, Reason::Connect);
        // A full queue of a listener that nobody accepts from lets connections wait.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut waiting = Vec::new();
        let error = loop {
            match dialer.connect(to, port, Instant::now() + Duration::from_millis(300)).await {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.reason, Reason::Timeout);
    }
}
