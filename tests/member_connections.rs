//! The connections to the members of a target: each leads to its own address and port, and says and wants what the url says.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderMap;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use reqwest::Url;
use rustls_pki_types::PrivateKeyDer;
use scrapetarget_exporter::dial::{
    AddressRules, ClientError, Connection, DenyReason, Dialers, KnownHosts, TlsSettings,
};
use scrapetarget_exporter::fetch::{Client, Clients, Fetched, Limits, fetch};
use scrapetarget_exporter::kind::{Call, Method, Reason};
use support::choose_tls_provider;
use support::dns::Dns;
use support::namespaces::{hosts, inside};
use support::scripted::{Scripted, Then};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

const PATIENCE: Duration = Duration::from_secs(60);

/// What a TLS server has seen.
#[derive(Debug, Default)]
struct Seen {
    /// Of each connection: the address to which it was made, SNI, whether it resumed a session, and the heads of its requests.
    connections: Vec<(SocketAddr, Option<String>, bool, Vec<String>)>,
}

/// A TLS server at all addresses of loopback. Each of its addresses has a certificate of its own.
struct Server {
    port: u16,
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An authority, and the certificates that it has signed.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "members");
        params.not_after = date_time_ymd(2045, 1, 1);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> Arc<[u8]> {
        self.0.pem().into_bytes().into()
    }

    fn config(&self, name: &str, until: i32) -> Arc<rustls::ServerConfig> {
        choose_tls_provider();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
        let key = KeyPair::generate().unwrap();
        let issuer: &Issuer<'_, KeyPair> = &self.0;
        let certificate = params.signed_by(&key, issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        Arc::new(config)
    }

    /// A server with one certificate for all addresses.
    async fn server(&self, name: &str) -> Server {
        let config = self.config(name, 2040);
        Server::start(move |_| Arc::clone(&config)).await
    }
}

impl Server {
    /// With a configuration for each address.
    async fn start(config: impl Fn(IpAddr) -> Arc<rustls::ServerConfig> + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::<Mutex<Seen>>::default();
        let all = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(config(stream.local_addr().unwrap().ip()));
                tokio::spawn(serve(stream, acceptor, Arc::clone(&all)));
            }
        });
        Self { port, seen, task }
    }

    fn at(&self, address: [u8; 4]) -> SocketAddr {
        (address, self.port).into()
    }

    /// Each connection: its address, SNI, the values of `Host`, and the number of requests.
    fn connections(&self) -> Vec<(SocketAddr, Option<String>, BTreeSet<String>, usize)> {
        let seen = self.seen.lock().unwrap();
        let host = |head: &String| {
            let line =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("host: ").map(str::to_owned));
            line.unwrap()
        };
        let hosts = |heads: &[String]| heads.iter().map(host).collect();
        let connections = seen.connections.iter();
        connections.map(|(address, sni, _, heads)| (*address, sni.clone(), hosts(heads), heads.len())).collect()
    }

    fn resumed(&self) -> usize {
        self.seen.lock().unwrap().connections.iter().filter(|(_, _, resumed, _)| *resumed).count()
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, seen: Arc<Mutex<Seen>>) -> std::io::Result<()> {
    let address = stream.local_addr()?;
    let mut stream = acceptor.accept(stream).await?;
    let tls = stream.get_ref().1;
    let (sni, resumed) =
        (tls.server_name().map(str::to_owned), tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed));
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.connections.push((address, sni, resumed, Vec::new()));
        seen.connections.len() - 1
    };
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let last = head.to_ascii_lowercase().contains("connection: close");
        seen.lock().unwrap().connections[number].3.push(head);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await?;
        if last {
            return stream.shutdown().await;
        }
    }
}

fn clients(rules: AddressRules) -> Clients {
    choose_tls_provider();
    Clients::new(rules)
}

fn client_of(clients: &Clients, url: &str, connection: &Connection) -> Client {
    clients.client(&url.parse().unwrap(), connection, &"team-a".into()).unwrap()
}

fn trusting(ca: Arc<[u8]>) -> Connection {
    Connection { tls: TlsSettings { ca: Some(ca), ..TlsSettings::default() }, ..Connection::default() }
}

fn named(server_name: &str, connection: Connection) -> Connection {
    Connection { tls: TlsSettings { server_name: Some(server_name.to_owned()), ..connection.tls }, ..connection }
}

/// One poll of one call.
async fn poll(client: &Client, url: &str) -> Fetched {
    let url: Url = url.parse().unwrap();
    let calls = [Call { name: "stats", method: Method::Get, url, headers: Vec::new(), timeout_header: None }];
    let limits = Limits::new(1 << 20, 8 << 20);
    fetch(client, &calls, &HeaderMap::new(), &limits, Instant::now() + PATIENCE).await
}

/// The status of its answer, or its reason and sentence.
fn outcome(fetched: &Fetched) -> Result<u16, (Reason, String)> {
    let answer = fetched.exchanges[0].answer.0.as_ref();
    answer.map(|response| response.status).map_err(|error| (error.reason, error.message.clone()))
}

fn hosts_of(host: &str) -> BTreeSet<String> {
    BTreeSet::from([host.to_owned()])
}

#[tokio::test]
async fn over_http_a_member_is_dialled_at_its_own_address_and_port_and_gets_the_host_of_the_url() {
    let clients = clients(AddressRules::default());
    let servers = [Scripted::start(|_, _| Then::Answer).await, Scripted::start(|_, _| Then::Answer).await];
    // Nobody has this name, and nobody listens at this port.
    let url = "http://rooms.test:1/metrics?x=1";
    let client = client_of(&clients, url, &Connection::default());
    for server in &servers {
        let member = client.member(server.address, None).unwrap();
        assert_eq!(outcome(&poll(&member, url).await), Ok(200));
        let connections = server.connections();
        assert_eq!(connections.len(), 1);
        let head = &connections[0].requests[0].1;
        assert!(head.starts_with("GET /metrics?x=1 HTTP/1.1\r\n") && head.contains("host: rooms.test:1\r\n"), "{head}");
    }
}

#[tokio::test]
async fn over_https_a_member_is_dialled_at_its_own_address_and_everything_else_is_of_the_url() {
    let authority = Authority::new();
    let server = authority.server("rooms.test").await;
    let clients = clients(AddressRules::default());
    for (url, host) in [
        ("https://rooms.test:1/", "rooms.test:1"),
        ("https://rooms.test/", "rooms.test"),
        ("https://ROOMS.test:443/", "rooms.test"),
    ] {
        server.seen.lock().unwrap().connections.clear();
        let client = client_of(&clients, url, &trusting(authority.pem()));
        let members = [server.at([127, 0, 0, 1]), server.at([127, 0, 7, 2])];
        for address in members {
            let member = client.member(address, None).unwrap();
            for _ in 0..2 {
                assert_eq!(outcome(&poll(&member, url).await), Ok(200), "{url}");
            }
        }
        let expected = members.map(|address| (address, Some("rooms.test".to_owned()), hosts_of(host), 2));
        assert_eq!(server.connections(), expected, "{url}: one connection for each");
        let heads: Vec<String> = server.seen.lock().unwrap().connections.iter().flat_map(|c| c.3.clone()).collect();
        assert!(heads.iter().all(|head| head.starts_with("GET / HTTP/1.1\r\n") && !head.contains('@')), "{heads:?}");
    }
}

#[tokio::test]
async fn server_name_is_the_name_in_tls_of_members_and_the_url_is_in_host() {
    let authority = Authority::new();
    let server = authority.server("certified.test").await;
    let clients = clients(AddressRules::default());
    // Also where the url has an address, which is not that of any member.
    for (url, host) in [("https://rooms.test:1/", "rooms.test:1"), ("https://192.0.2.1:1/", "192.0.2.1:1")] {
        server.seen.lock().unwrap().connections.clear();
        let connection = named("certified.test", trusting(authority.pem()));
        let address = server.at([127, 0, 0, 1]);
        let member = client_of(&clients, url, &connection).member(address, None).unwrap();
        assert_eq!(outcome(&poll(&member, url).await), Ok(200), "{url}");
        assert_eq!(server.connections(), [(address, Some("certified.test".to_owned()), hosts_of(host), 1)]);
    }
}

#[tokio::test]
async fn an_address_as_server_name_is_what_the_certificates_of_members_must_contain() {
    let authority = Authority::new();
    let server = authority.server("192.0.2.7").await;
    let clients = clients(AddressRules::default());
    let url = "https://rooms.test:1/";
    let address = server.at([127, 0, 0, 1]);
    for (name, good) in [("192.0.2.7", true), ("127.0.0.1", false)] {
        let connection = named(name, trusting(authority.pem()));
        let member = client_of(&clients, url, &connection).member(address, None).unwrap();
        assert_eq!(outcome(&poll(&member, url).await).is_ok(), good, "{name}");
    }
    assert_eq!(server.connections(), [(address, None, hosts_of("rooms.test:1"), 1)]);
}

#[tokio::test]
async fn a_certificate_for_another_name_or_for_the_address_alone_is_refused() {
    let authority = Authority::new();
    let clients = clients(AddressRules::default());
    for name in ["other.test", "127.0.0.1"] {
        let server = authority.server(name).await;
        let client = client_of(&clients, "https://rooms.test:1/", &trusting(authority.pem()));
        let member = client.member(server.at([127, 0, 0, 1]), None).unwrap();
        let (reason, sentence) = outcome(&poll(&member, "https://rooms.test:1/").await).unwrap_err();
        assert_eq!(reason, Reason::Tls, "{name}: {sentence}");
        assert_eq!(server.connections(), [], "{name}: nothing was sent");
    }
}

#[tokio::test]
async fn members_at_one_address_and_targets_with_the_same_members_have_connections_that_lead_where_they_should() {
    let authority = Authority::new();
    let servers = [authority.server("rooms.test").await, authority.server("rooms.test").await];
    let clients = clients(AddressRules::default());
    let rooms = "https://rooms.test:1/";
    let client = client_of(&clients, rooms, &trusting(authority.pem()));
    let members = servers.each_ref().map(|server| client.member(server.at([127, 0, 0, 1]), None).unwrap());
    for _ in 0..3 {
        for member in &members {
            assert_eq!(outcome(&poll(member, rooms).await), Ok(200));
        }
    }
    for server in &servers {
        assert_eq!(server.connections().iter().map(|(.., requests)| *requests).collect::<Vec<_>>(), [3]);
    }
    // Another host at the same address: its certificate is not verified for that host yet.
    let other = "https://other.test:1/";
    let stranger = client_of(&clients, other, &trusting(authority.pem())).member(servers[0].at([127, 0, 0, 1]), None);
    let (reason, _) = outcome(&poll(&stranger.unwrap(), other).await).unwrap_err();
    assert_eq!(reason, Reason::Tls);
    // Other settings, here trust in nobody who has signed it.
    let foreign = trusting(Authority::new().pem());
    let stranger = client_of(&clients, rooms, &foreign).member(servers[0].at([127, 0, 0, 1]), None);
    let (reason, _) = outcome(&poll(&stranger.unwrap(), rooms).await).unwrap_err();
    assert_eq!(reason, Reason::Tls);
    // The same server of another target with equal settings: one connection serves both.
    let twin = client_of(&clients, rooms, &trusting(authority.pem()));
    assert_eq!(outcome(&poll(&twin.member(servers[0].at([127, 0, 0, 1]), None).unwrap(), rooms).await), Ok(200));
    assert_eq!(servers[0].connections().iter().map(|(.., requests)| *requests).collect::<Vec<_>>(), [4]);
}

#[tokio::test]
async fn the_certificates_of_members_are_not_confused_and_each_is_verified() {
    let authority = Authority::new();
    // The third has a ticket key in common with the second, and a certificate for another name.
    let first = authority.config("rooms.test", 2030);
    let second = authority.config("rooms.test", 2039);
    let mut third = (*authority.config("other.test", 2039)).clone();
    third.ticketer = Arc::clone(&second.ticketer);
    let configs = [first, second, Arc::new(third)];
    let server = Server::start(move |address| match address {
        IpAddr::V4(v4) => Arc::clone(&configs[usize::from(v4.octets()[3]) - 1]),
        IpAddr::V6(_) => unreachable!(),
    })
    .await;
    let clients = clients(AddressRules::default());
    let url = "https://rooms.test:1/";
    let client = client_of(&clients, url, &trusting(authority.pem()));
    let members = [1, 2, 3].map(|last| client.member(server.at([127, 0, 0, last]), None).unwrap());
    let year = |year| Some(date_time_ymd(year, 1, 1).unix_timestamp());
    for round in 0..3 {
        let mut ends = Vec::new();
        for member in &members {
            let fetched = poll(member, url).await;
            let expiry = fetched.certificate_expiry;
            ends.push((
                outcome(&fetched).is_ok(),
                expiry.map(|expiry| expiry.earliest),
                expiry.and_then(|e| e.last_chain),
            ));
        }
        let expected = [(true, year(2030), year(2030)), (true, year(2039), year(2039)), (false, year(2039), None)];
        assert_eq!(ends, expected, "round {round}");
    }
    assert_eq!(server.resumed(), 0, "the session of one member is none of another");
}

#[tokio::test]
async fn the_chain_of_a_kept_connection_is_known_however_many_members_there_are() {
    let authority = Authority::new();
    let configs: Vec<_> = (0..20).map(|_| authority.config("rooms.test", 2050)).collect();
    let server = Server::start(move |address| match address {
        IpAddr::V4(v4) => Arc::clone(&configs[usize::from(v4.octets()[3])]),
        IpAddr::V6(_) => unreachable!(),
    })
    .await;
    let clients = clients(AddressRules::default());
    let url = "https://rooms.test:1/";
    let client = client_of(&clients, url, &trusting(authority.pem()));
    let members: Vec<Client> = (1..20).map(|last| client.member(server.at([127, 0, 0, last]), None).unwrap()).collect();
    for round in 0..2 {
        for member in &members {
            let last_chain = poll(member, url).await.certificate_expiry.and_then(|expiry| expiry.last_chain);
            assert_eq!(
                last_chain,
                Some(date_time_ymd(2045, 1, 1).unix_timestamp()),
                "round {round}: its authority ends first"
            );
        }
    }
}

#[tokio::test]
async fn many_members_keep_one_connection_each() {
    let authority = Authority::new();
    let server = authority.server("rooms.test").await;
    let clients = clients(AddressRules::default());
    let url = "https://rooms.test:1/";
    let client = client_of(&clients, url, &trusting(authority.pem()));
    let addresses = (0..500_u16).map(|number| {
        let [high, low] = number.to_be_bytes();
        server.at([127, 1, high, low])
    });
    let members: Vec<Client> = addresses.map(|address| client.member(address, None).unwrap()).collect();
    for _ in 0..2 {
        for answers in members.chunks(50) {
            let polls = futures::future::join_all(answers.iter().map(|member| poll(member, url))).await;
            assert!(polls.iter().all(|fetched| outcome(fetched) == Ok(200)));
        }
    }
    let mut by_address = BTreeMap::new();
    for (address, _, _, requests) in server.connections() {
        by_address.entry(address).or_insert_with(Vec::new).push(requests);
    }
    assert_eq!(by_address.len(), 500);
    // Those whose term has ended between the two polls made another one.
    let renewed = by_address.values().filter(|requests| **requests != [2]).count();
    assert!(by_address.values().all(|requests| requests.len() <= 2 && requests.iter().sum::<usize>() == 2));
    assert!(renewed <= 500 * 30 / 50, "{renewed} of 500 within far less than a term");
}

#[test]
fn members_are_not_reached_through_a_proxy() {
    let clients = clients(AddressRules::default());
    let proxied =
        Connection { proxy: Some("http://proxy.test:3128".parse::<Url>().unwrap().into()), ..Connection::default() };
    for url in ["http://rooms.test/", "https://rooms.test/"] {
        let error = client_of(&clients, url, &proxied).member(([192, 0, 2, 1], 80).into(), None).unwrap_err();
        assert!(matches!(error, ClientError::ProxiedMembers), "{url}: {error}");
        assert_eq!(error.field(), Some("members"));
    }
}

#[test]
fn over_https_the_url_must_have_a_name_that_members_can_prove() {
    let clients = clients(AddressRules::default());
    let address = ([192, 0, 2, 1], 443).into();
    let with_address = named("192.0.2.9", Connection::default());
    for connection in [Connection::default(), with_address] {
        let error = client_of(&clients, "https://192.0.2.9/", &connection).member(address, None).unwrap_err();
        assert!(matches!(error, ClientError::UnnamedMembers), "{error}");
        assert_eq!(error.field(), Some("url"));
    }
    assert!(client_of(&clients, "http://192.0.2.9/", &Connection::default()).member(address, None).is_ok());
}

/// Rules as the flags make them.
fn rules(denied: &[&str], allowed: &[&str], allowed_hosts: &[&str]) -> AddressRules {
    let ranges = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<ipnet::IpNet>>();
    let allowed_hosts = allowed_hosts.iter().map(|text| text.parse().unwrap()).collect();
    AddressRules::denying(ranges(denied)).allowing(ranges(allowed), allowed_hosts)
}

/// Why a member at `address` is refused; nothing if it is not.
fn refusal(rules: AddressRules, url: &str, address: &str, service: Option<&str>) -> Option<ClientError> {
    let clients = clients(rules);
    let client = client_of(&clients, url, &Connection::default());
    client.member(SocketAddr::new(address.parse().unwrap(), 80), service).err()
}

const ROOMS: &str = "http://rooms.example.com/";

#[test]
fn no_member_is_at_an_address_that_no_url_may_have() {
    for service in [None, Some("rooms.team-a.svc")] {
        for (address, reason) in [
            ("169.254.169.254", DenyReason::Metadata),
            ("100.100.100.200", DenyReason::Metadata),
            ("fd00:ec2::254", DenyReason::Metadata),
            ("169.254.1.1", DenyReason::LinkLocal),
            ("fe80::1", DenyReason::LinkLocal),
            ("224.0.0.1", DenyReason::Multicast),
            ("127.0.0.1", DenyReason::Loopback),
            ("::1", DenyReason::Loopback),
            ("0.0.0.0", DenyReason::Loopback),
            ("::ffff:127.0.0.1", DenyReason::Loopback),
            ("64:ff9b::127.0.0.1", DenyReason::Loopback),
            ("10.1.2.3", DenyReason::Denied),
        ] {
            let denying = ["127.0.0.0/8", "::1/128", "10.1.2.0/24"];
            // Whatever is allowed beside it.
            for rules in
                [rules(&denying, &[], &[]), rules(&denying, &["0.0.0.0/0", "::/0"], &["*.example.com", "*.svc"])]
            {
                match refusal(rules, ROOMS, address, service) {
                    Some(ClientError::Denied { address: refused, ground }) => {
                        assert_eq!(refused, address.parse::<IpAddr>().unwrap());
                        let metadata_or_local = address.starts_with("169.254");
                        assert!(ground == reason || metadata_or_local, "{address}: {ground:?}");
                    }
                    other => panic!("{address}, {service:?}: {other:?}"),
                }
            }
        }
        assert!(refusal(rules(&["127.0.0.0/8"], &[], &[]), ROOMS, "10.1.2.3", service).is_none());
    }
}

#[test]
fn the_members_of_a_service_are_judged_by_its_name_and_not_by_that_of_the_url() {
    // Whoever writes the slices of a Service must not reach with them what the url's name was allowed for.
    let only_url = || rules(&[], &[], &["rooms.example.com"]);
    let error = refusal(only_url(), ROOMS, "10.1.2.3", Some("rooms.team-a.svc")).unwrap();
    assert!(
        matches!(&error, ClientError::HostNotAllowed { field: "members.service", host } if host == "rooms.team-a.svc")
    );
    assert_eq!(error.field(), Some("members.service"));
    assert!(error.to_string().starts_with("spec.members.service: "), "{error}");
    assert!(refusal(only_url(), ROOMS, "10.1.2.3", None).is_none(), "an address of the url's host");

    let both = || rules(&[], &[], &["rooms.example.com", "*.{namespace}.svc"]);
    assert!(refusal(both(), ROOMS, "10.1.2.3", Some("rooms.team-a.svc")).is_none());
    assert!(refusal(both(), ROOMS, "10.1.2.3", Some("rooms.team-b.svc")).is_some());

    // Where ranges are allowed, they hold for members of what is not allowed by its name.
    let ranges = || rules(&[], &["10.1.0.0/16"], &["rooms.example.com"]);
    for (address, service, allowed) in [
        ("10.1.2.3", Some("rooms.team-a.svc"), true),
        ("10.2.2.3", Some("rooms.team-a.svc"), false),
        ("10.2.2.3", None, true),
        ("10.2.2.3", Some("rooms.example.com"), true),
    ] {
        let error = refusal(ranges(), ROOMS, address, service);
        assert_eq!(error.is_none(), allowed, "{address}, {service:?}");
        if let Some(error) = error {
            assert!(matches!(error, ClientError::Denied { ground: DenyReason::NotAllowed, .. }), "{error}");
        }
    }
    let by_range = || rules(&[], &["10.1.0.0/16"], &[]);
    assert!(refusal(by_range(), ROOMS, "10.1.2.3", None).is_none());
    assert!(refusal(by_range(), ROOMS, "10.2.2.3", None).is_some());
}

/// The addresses of the host, without their port, in their order as text.
async fn found(client: &Client) -> Result<Vec<String>, (Reason, String)> {
    let addresses = client.host_addresses().await.map_err(|error| (error.reason, error.message))?;
    assert!(addresses.iter().all(|address| address.port() == 9851));
    let mut addresses: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    addresses.sort();
    Ok(addresses)
}

/// As `demo` gives them. A name that is known stands above no rule.
#[tokio::test]
async fn the_addresses_of_a_known_host_are_judged_as_those_of_any_other() {
    let known = [("rooms.test".into(), ["127.0.0.1", "127.0.0.2"].map(|address| address.parse().unwrap()).into())];
    choose_tls_provider();
    let dialers = Dialers::new(rules(&["127.0.0.2/32"], &[], &[])).knowing(KnownHosts::from(known));
    let clients = Clients::with(dialers);
    let client = client_of(&clients, "http://rooms.test:9851/", &Connection::default());
    assert_eq!(found(&client).await.unwrap(), ["127.0.0.1", "127.0.0.2"]);
    let member = |address: &str| client.member(format!("{address}:9851").parse().unwrap(), None);
    assert!(member("127.0.0.1").is_ok());
    let refused = member("127.0.0.2").unwrap_err();
    assert!(matches!(&refused, ClientError::Denied { ground: DenyReason::Loopback, .. }), "{refused}");
}

#[tokio::test]
async fn the_addresses_of_a_host_are_all_it_has_of_one_ip_version_refused_ones_as_well() {
    if !inside("the_addresses_of_a_host_are_all_it_has_of_one_ip_version_refused_ones_as_well", &[]) {
        return;
    }
    hosts("10.0.0.1 twice.test\n10.0.0.3 twice.test\n10.0.0.1 twice.test\n::1 twice.test\n");
    let dns = Dns::start().await;
    let clients = clients(rules(&["10.0.0.2/32"], &[], &[]));
    let client = |name: &str| client_of(&clients, &format!("http://{name}:9851/"), &Connection::default());
    dns.name("both.test", &["2001:db8::1", "10.0.0.1", "2001:db8::2", "10.0.0.2"]);
    assert_eq!(found(&client("both.test")).await.unwrap(), ["10.0.0.1", "10.0.0.2"]);
    dns.name("v6.test", &["2001:db8::2", "2001:db8::1"]);
    assert_eq!(found(&client("v6.test")).await.unwrap(), ["2001:db8::1", "2001:db8::2"]);
    assert_eq!(found(&client("twice.test")).await.unwrap(), ["10.0.0.1", "10.0.0.3"]);
    assert_eq!(found(&client("192.0.2.1")).await.unwrap(), ["192.0.2.1"]);

    dns.name("empty.test", &[]);
    assert_eq!(found(&client("empty.test")).await.unwrap(), [""; 0], "an empty answer is an answer");
    let (reason, sentence) = found(&client("missing.test")).await.unwrap_err();
    assert_eq!(reason, Reason::Dns);
    assert!(sentence.starts_with("missing.test does not exist"), "{sentence}");
}

#[tokio::test]
async fn a_host_with_hundreds_of_addresses_has_them_all_as_members_and_sixteen_are_tried_without() {
    if !inside("a_host_with_hundreds_of_addresses_has_them_all_as_members_and_sixteen_are_tried_without", &[]) {
        return;
    }
    let dns = Dns::start().await;
    let many: Vec<String> = (0..600).map(|number| format!("127.0.{}.{}", 100 + number / 200, number % 200)).collect();
    let mut sorted = many.clone();
    sorted.sort();
    dns.name("many.test", &many.iter().map(String::as_str).collect::<Vec<_>>());
    let clients = clients(AddressRules::default());
    let url = "http://many.test:9851/";
    let client = client_of(&clients, url, &Connection::default());
    assert_eq!(found(&client).await.unwrap(), sorted);
    // Nobody listens at any of them.
    let (reason, sentence) = outcome(&poll(&client, url).await).unwrap_err();
    assert_eq!(reason, Reason::Connect);
    assert!(sentence.contains(" and 13 more: "), "{sentence}");
}

#[tokio::test]
async fn members_do_not_change_to_ipv6_because_the_question_about_ipv4_is_open() {
    if !inside("members_do_not_change_to_ipv6_because_the_question_about_ipv4_is_open", &[]) {
        return;
    }
    let dns = Dns::start().await;
    dns.name("both.test", &["2001:db8::1", "10.0.0.1"]);
    dns.silent_about_ipv4();
    let clients = clients(AddressRules::default());
    let client = client_of(&clients, "http://both.test:9851/", &Connection::default());
    let (reason, sentence) = found(&client).await.unwrap_err();
    assert_eq!(reason, Reason::Dns, "{sentence}");
    assert!(sentence.contains("both.test"), "{sentence}");
}
