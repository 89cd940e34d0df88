//! HTTP clients. Targets over TLS or through a proxy share one if their settings are equal: a client of its own costs 110 KiB. Polls over
//! plain TCP need none, see [`plain`](super::plain). Where a target points is judged for each target, since targets of several namespaces
//! share a client.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{self, HOST, HeaderMap, HeaderValue};
use reqwest::{StatusCode, Url};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use url::Host;

use super::attempts::{AttemptLayer, AttemptResolver, ConnectAttempts, ConnectFailure, ConnectFailures};
use super::certificate::{CurrentCall, ExpiryCache, Handshakes, trusting, verifying};
use super::error::{self, handshake_alert};
use super::plain::{PlainConnection, PlainResponse};
use super::proxied::{ProxiedClient, ProxiedInfo, ProxyTlsSettings};
use super::renewal::{RenewalPeriod, RenewalSchedule};
use super::sessions::SessionCache;
use super::{Request, USER_AGENT};
use crate::dial::{AddressRules, AllowedBy, ClientError, Connection, Dialers, Resolver, TargetProxy, TlsSettings};
use crate::failure::{CallError, Reason};
use crate::tls::{self, Expiry, Peer};

/// The clients in use.
#[derive(Debug)]
pub struct Clients {
    dialers: Arc<Dialers>,
    shared: Mutex<HashMap<ClientKey, Weak<SharedClient>>>,
    tls: Mutex<HashMap<TlsKey, Weak<rustls::ClientConfig>>>,
}

/// What must be equal for TLS settings, trusted authorities and all, to be in memory once: whether they are used, the settings without a
/// name, and the address that the certificate must name.
type TlsKey = (bool, TlsSettings, Option<IpAddr>);

/// What must be equal for a client to be shared.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ClientKey {
    connection: Connection,
    /// Whether certificates are verified: one client serves all targets without any.
    secure: bool,
    /// The url's host; only where it stands behind another name.
    host: Option<String>,
    /// A connection that was opened to an allowed host must not be used by a target for which only addresses are allowed.
    grant: AllowedBy,
}

impl Clients {
    /// No client yet; all will obey `rules`.
    pub fn new(rules: AddressRules) -> Self {
        Self::with(Dialers::new(rules))
    }

    /// No client yet; all will use the rules and the names of these dialers.
    pub fn with(dialers: Dialers) -> Self {
        Self { dialers: Arc::new(dialers), shared: Mutex::default(), tls: Mutex::default() }
    }

    /// What opens the sockets of probes.
    pub const fn dialers(&self) -> &Arc<Dialers> {
        &self.dialers
    }

    /// The client for a target of `namespace` at `url` with these settings. It has connections and TLS settings in common with all targets
    /// of equal settings.
    pub fn client(&self, url: &Url, connection: &Connection, namespace: &Arc<str>) -> Result<Client, ClientError> {
        self.client_of(["url", "proxyUrl"], Peer::TARGET, url, connection, namespace)
    }

    /// The same for the token endpoint of a target: it obeys the same rules as the target itself.
    pub fn token_client(
        &self,
        url: &Url,
        connection: &Connection,
        namespace: &Arc<str>,
    ) -> Result<Client, ClientError> {
        let fields = ["oauth2.tokenUrl", "oauth2.proxyUrl"];
        self.client_of(fields, Peer::Server("oauth2.tlsConfig"), url, connection, namespace)
    }

    /// A client for what stands in these fields: the url, and that of the proxy; `peer` names the one with the settings of TLS.
    fn client_of(
        &self,
        [url_field, proxy_field]: [&'static str; 2],
        peer: Peer,
        url: &Url,
        connection: &Connection,
        namespace: &Arc<str>,
    ) -> Result<Client, ClientError> {
        let connection = &*connection.towards(url);
        let of_url = self.grant(url_field, url, connection.proxy.is_some(), namespace)?;
        let (contacted, port, grant) = match &connection.proxy {
            None => (url, url.port_or_known_default().unwrap_or_default(), of_url),
            Some(proxy) => (&proxy.url, proxy.port(), self.grant(proxy_field, &proxy.url, false, namespace)?),
        };
        let contacted = match literal_address(contacted) {
            Some(address) => ContactedHost::Address(address),
            None => ContactedHost::Name(contacted.host_str().unwrap_or_default().into()),
        };
        Ok(Client {
            transport: if connection.proxy.is_none() && !is_secure(url, connection) {
                Transport::Plain
            } else {
                Transport::Pooled(self.shared(url, connection, grant)?)
            },
            rules: Arc::clone(self.dialers.rules()),
            resolver: Arc::clone(self.dialers.resolver()),
            namespace: Arc::clone(namespace),
            peer,
            contacted,
            port,
            grant,
            renewal: https_authority(url).map(|authority| RenewalSchedule::of(&authority)),
            last_good: Mutex::default(),
        })
    }

    /// What allows a target to use this url. Everything that can be checked before a name is resolved is checked here.
    fn grant(
        &self,
        field: &'static str,
        url: &Url,
        behind_proxy: bool,
        namespace: &str,
    ) -> Result<AllowedBy, ClientError> {
        let literal = literal_address(url);
        let host = url.host_str().unwrap_or_default();
        let name = if literal.is_some() { None } else { Some(host) };
        let refused = || ClientError::HostNotAllowed { field, host: host.to_owned() };
        let grant = self.dialers.rules().allowed_by(name, namespace).ok_or_else(refused)?;
        let known = match name {
            // The proxy's own localhost.
            Some(name) if behind_proxy && is_localhost(name) => {
                vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            }
            Some(_) if behind_proxy && grant == AllowedBy::Address => {
                return Err(ClientError::ResolvedByProxy { field, host: host.to_owned() });
            }
            _ => literal.into_iter().collect(),
        };
        for address in known {
            if let Some(ground) = self.dialers.rules().refusal(address, grant) {
                return Err(ClientError::Denied { address, ground });
            }
        }
        Ok(grant)
    }

    fn shared(&self, url: &Url, connection: &Connection, grant: AllowedBy) -> Result<Arc<SharedClient>, ClientError> {
        let mut connection = connection.clone();
        let secure = is_secure(url, &connection);
        if !secure {
            connection = Connection { proxy: connection.proxy, ..Connection::default() };
        }
        let named = matches!(server_identity(&connection.tls)?, Some(ServerIdentity::Name(_)));
        let host = url.host_str().filter(|_| named).map(str::to_owned);
        let key = ClientKey { connection, secure, host, grant };
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = shared.get(&key).and_then(Weak::upgrade) {
            return Ok(client);
        }
        let client = Arc::new(self.build(&key)?);
        shared.retain(|_, client| client.strong_count() > 0);
        shared.insert(key, Arc::downgrade(&client));
        Ok(client)
    }

    fn build(
        &self,
        ClientKey { connection, secure, host: _, grant: _ }: &ClientKey,
    ) -> Result<SharedClient, ClientError> {
        let identity = server_identity(&connection.tls)?;
        if identity.is_some() && connection.proxy.is_some() {
            return Err(ClientError::ProxiedServerName);
        }
        let (server_name, address) = match identity {
            Some(ServerIdentity::Name(name)) => (Some(name), None),
            Some(ServerIdentity::Address(address)) => (None, Some(address)),
            None => (None, None),
        };
        let tls = self.shared_tls(*secure, &connection.tls, address)?;
        let idle = if *secure { IDLE_TLS } else { IDLE_PLAIN };
        let proxy = connection.proxy.clone().map(Arc::new);
        let proxy_tls = connection.proxy.as_ref().filter(|proxy| proxy.is_tls());
        let proxy_tls = proxy_tls.map(|proxy| proxy_tls_settings(proxy, connection)).transpose();
        let proxy_tls = proxy_tls.map_err(|error| connection.proxy_error(error))?.map(Arc::new);
        let http = if let Some(proxy) = &proxy {
            HttpClient::Proxied(ProxiedClient::new(proxy, proxy_tls.as_ref(), &tls, idle))
        } else {
            HttpClient::Direct(http(&tls).pool_idle_timeout(idle).build().map_err(ClientError::Build)?)
        };
        Ok(SharedClient {
            http,
            unpooled: OnceLock::new(),
            tls,
            server_name,
            proxy,
            proxy_tls,
            verifies: !connection.tls.insecure_skip_verify,
            expiries: ExpiryCache::default(),
        })
    }

    /// Clients that differ in nothing but the host behind `serverName` or the proxy have their TLS settings in common.
    fn shared_tls(
        &self,
        used: bool,
        settings: &TlsSettings,
        address: Option<IpAddr>,
    ) -> Result<Arc<rustls::ClientConfig>, ClientError> {
        let key = (used, TlsSettings { server_name: None, ..settings.clone() }, address);
        let mut shared = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tls) = shared.get(&key).and_then(Weak::upgrade) {
            return Ok(tls);
        }
        let tls = Arc::new(Self::tls(used, settings, address)?);
        shared.retain(|_, tls| tls.strong_count() > 0);
        shared.insert(key, Arc::downgrade(&tls));
        Ok(tls)
    }

    fn tls(secure: bool, settings: &TlsSettings, address: Option<IpAddr>) -> Result<rustls::ClientConfig, ClientError> {
        let verifier = match (secure, settings.insecure_skip_verify) {
            (true, false) => verifying(settings.ca.as_deref(), address, CurrentCall)?,
            // A client for plain http verifies no certificate; loading the system's authorities for it would cost megabytes.
            (false, _) | (_, true) => trusting(CurrentCall),
        };
        let mut config = tls_config(verifier, settings)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.enable_sni = address.is_none(); // SNI cannot hold an address, and the url's host is not the configured name
        Ok(config)
    }
}

/// TLS with these settings and this verification of certificates.
fn tls_config(
    verifier: Arc<dyn ServerCertVerifier>,
    settings: &TlsSettings,
) -> Result<rustls::ClientConfig, ClientError> {
    let builder = rustls::ClientConfig::builder_with_protocol_versions(settings.versions.list());
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified()?))),
    };
    config.resumption = Resumption::store(Arc::<SessionCache>::default());
    Ok(config)
}

/// TLS with a proxy. Its handshakes are not recorded: certificates are told of the target.
fn proxy_tls_settings(proxy: &TargetProxy, connection: &Connection) -> Result<ProxyTlsSettings, ClientError> {
    let own = connection.proxy_tls();
    let name = match server_identity(&own)? {
        Some(ServerIdentity::Name(name)) => ServerName::try_from(name).map_err(|_| ClientError::ServerName)?,
        Some(ServerIdentity::Address(address)) => ServerName::IpAddress(address.into()),
        None => {
            let host = proxy.host().trim_matches(['[', ']']).to_owned();
            ServerName::try_from(host).map_err(|_| ClientError::ServerName)?
        }
    };
    let verifier = if own.insecure_skip_verify { trusting(()) } else { verifying(own.ca.as_deref(), None, ())? };
    Ok(ProxyTlsSettings { config: Arc::new(tls_config(verifier, &own)?), name })
}

/// What all our HTTP clients without a proxy have in common.
fn http(tls: &rustls::ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never()) // this module decides what is sent again
        .http1_only()
        .referer(false)
        .no_proxy()
        .dns_resolver(Arc::new(AttemptResolver))
        .connector_layer(AttemptLayer)
        .tls_backend_preconfigured(tls.clone())
        .tls_info(true)
}

impl Connection {
    /// Whether [`Clients::client`] could make a client of these settings for this url. It checks neither the system's authorities nor the
    /// rules for addresses: when files are checked, both may be those of another machine.
    pub fn check(&self, url: &Url) -> Result<(), ClientError> {
        let connection = &*self.towards(url);
        if !is_secure(url, connection) {
            return Ok(());
        }
        if server_identity(&connection.tls)?.is_some() && connection.proxy.is_some() {
            return Err(ClientError::ProxiedServerName);
        }
        connection.tls.check_certificates()?;
        if connection.has_tls_proxy() {
            let own = connection.proxy_tls();
            let checked = server_identity(&own).and_then(|_| own.check_certificates());
            checked.map_err(|error| connection.proxy_error(error))?;
        }
        Ok(())
    }

    /// The settings for this url alone: without the proxy if it is reached without, and without the list that says so.
    fn towards(&self, url: &Url) -> Cow<'_, Self> {
        match &self.proxy {
            Some(proxy) if !proxy.serves(url) => Cow::Owned(Self { proxy: None, ..self.clone() }),
            Some(proxy) if proxy.no_proxy.is_some() => {
                let proxy = TargetProxy { no_proxy: None, ..proxy.clone() };
                Cow::Owned(Self { proxy: Some(proxy), ..self.clone() })
            }
            _ => Cow::Borrowed(self),
        }
    }
}

impl TlsSettings {
    fn check_certificates(&self) -> Result<(), ClientError> {
        if let Some(ca) = self.ca.as_deref().filter(|_| !self.insecure_skip_verify) {
            verifying(Some(ca), None, ())?;
        }
        self.identity.as_ref().map_or(Ok(()), |identity| identity.certified().map(drop))
    }
}

/// Whether a connection may use TLS, to the target or to the proxy.
fn is_secure(url: &Url, connection: &Connection) -> bool {
    url.scheme() == "https" || connection.has_tls_proxy()
}

/// The name or address that the server's certificate must contain instead of the url's host.
enum ServerIdentity {
    Name(String),
    /// Never put into the url: it would be contacted there.
    Address(IpAddr),
}

fn server_identity(tls: &TlsSettings) -> Result<Option<ServerIdentity>, ClientError> {
    let Some(text) = &tls.server_name else { return Ok(None) };
    if let Ok(address) = text.parse() {
        return Ok(Some(ServerIdentity::Address(address)));
    }
    // A url parser reads names such as 0x7f.1 as addresses, and no certificate can contain them.
    match url::Host::parse(text) {
        Ok(url::Host::Domain(_)) => Ok(Some(ServerIdentity::Name(text.clone()))),
        _ => Err(ClientError::ServerName),
    }
}

/// Connections over TLS are kept between polls, since a handshake costs a hundred times as much as a call. None is used after its period.
const IDLE_TLS: Duration = RenewalPeriod::LENGTH;

/// The time limit for a server's TLS alert: a server that rejects our certificate sends it at once.
const ALERT_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections through a proxy without TLS are closed by the poll's last call; this is for polls that were cut off.
const IDLE_PLAIN: Duration = Duration::from_secs(2);

/// The address that is the url's host, in any spelling.
fn literal_address(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(v4) => Some(v4.into()),
        Host::Ipv6(v6) => Some(v6.into()),
        Host::Domain(name) => name.parse().ok(),
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case("localhost"))
}

/// What is connected to.
#[derive(Debug)]
enum ContactedHost {
    /// The url's host, or the proxy's.
    Address(IpAddr),
    /// The same.
    Name(Arc<str>),
    /// One process behind the url, at a port of its own.
    Member(IpAddr),
}

/// The most addresses of one IP version that are tried.
const MAX_TRIED: usize = 16;

/// A client that targets share.
#[derive(Debug)]
struct SharedClient {
    http: HttpClient,
    /// For requests that need a new connection: it keeps none. Made when it is first needed.
    unpooled: OnceLock<Option<HttpClient>>,
    tls: Arc<rustls::ClientConfig>,
    server_name: Option<String>,
    proxy: Option<Arc<TargetProxy>>,
    /// For a proxy that is spoken to by TLS.
    proxy_tls: Option<Arc<ProxyTlsSettings>>,
    /// Certificates are verified.
    verifies: bool,
    expiries: ExpiryCache,
}

/// What has the connections.
#[derive(Clone, Debug)]
enum HttpClient {
    Direct(reqwest::Client),
    Proxied(ProxiedClient),
}

impl HttpClient {
    async fn execute(&self, request: reqwest::Request) -> Result<reqwest::Response, Box<dyn Error + Send + Sync>> {
        match self {
            Self::Direct(client) => Ok(client.execute(request).await?),
            Self::Proxied(client) => client.execute(request).await,
        }
    }
}

impl SharedClient {
    /// The client that keeps no connection.
    fn unpooled(&self) -> Option<&HttpClient> {
        let build = || match &self.proxy {
            None => http(&self.tls).pool_max_idle_per_host(0).build().ok().map(HttpClient::Direct),
            Some(proxy) => {
                let client = ProxiedClient::new(proxy, self.proxy_tls.as_ref(), &self.tls, Duration::ZERO);
                Some(HttpClient::Proxied(client))
            }
        };
        self.unpooled.get_or_init(build).as_ref()
    }

    /// Opens another connection to learn why the server has closed the last one: it requires a certificate, or rejects ours.
    async fn alert(&self, url: &Url, address: Option<SocketAddr>, peer: Peer, deadline: Instant) -> Option<CallError> {
        let host = url.host_str().filter(|_| url.scheme() == "https")?;
        let name = ServerName::try_from(host.trim_matches(['[', ']'])).ok()?.to_owned();
        let alert = async {
            match &self.http {
                HttpClient::Direct(_) => {
                    let stream = TcpStream::connect(address?).await.ok()?;
                    handshake_alert(stream, Arc::clone(&self.tls), name).await
                }
                HttpClient::Proxied(client) => client.alert(url, address?).await,
            }
        };
        let error = timeout_at(deadline.min(Instant::now() + ALERT_TIMEOUT), alert).await.ok().flatten()?;
        Some(CallError::new(Reason::Tls, tls::describe(&error, peer)))
    }

    /// Replaces the host in the url by `serverName`, if that is set, and its port by that of a member: TLS takes the name from there, and the
    /// connector the port; the resolver knows the addresses. The server still gets what the user wrote in `Host`.
    fn address(&self, request: &mut reqwest::Request, member: Option<SocketAddr>) {
        let server_name = self.server_name.as_deref();
        if server_name.is_none() && member.is_none() {
            return;
        }
        let url = request.url();
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => return,
        };
        if let Ok(value) = HeaderValue::from_str(&host) {
            request.headers_mut().insert(HOST, value);
        }
        if server_name.is_some() {
            // A name that is not valid in a url was rejected with the declaration.
            let _ = request.url_mut().set_host(server_name);
        }
        if let Some(member) = member {
            // A url of https always takes one.
            let _ = request.url_mut().set_port(Some(member.port()));
        }
    }
}

/// Why a request has no answer.
enum SendError {
    /// The server closed a connection that was reused.
    ReusedClosed(CallError),
    Call(CallError),
}

impl From<SendError> for CallError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::ReusedClosed(error) | SendError::Call(error) => error,
        }
    }
}

impl From<CallError> for SendError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// How requests travel.
#[derive(Clone, Debug)]
enum Transport {
    /// Over TCP, to the server itself.
    Plain,
    /// Over TLS, or through a proxy.
    Pooled(Arc<SharedClient>),
}

/// An answer whose body has not been read.
pub(super) enum UnreadResponse {
    Plain(Box<PlainResponse>),
    /// With the server, as messages name it.
    Pooled(reqwest::Response, Peer),
}

impl UnreadResponse {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Plain(response) => response.head.status,
            Self::Pooled(response, _) => response.status(),
        }
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        match self {
            Self::Plain(response) => &response.head.headers,
            Self::Pooled(response, _) => response.headers(),
        }
    }

    /// The length of the body, where it is known.
    pub(super) fn content_length(&self) -> Option<u64> {
        match self {
            Self::Plain(response) => response.content_length(),
            Self::Pooled(response, _) => response.content_length(),
        }
    }

    /// The next piece of the body; none at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, CallError> {
        match self {
            Self::Plain(response) => response.chunk().await.map_err(|error| error::body_error(&error, Peer::TARGET)),
            Self::Pooled(response, peer) => response.chunk().await.map_err(|error| error::body_error(&error, *peer)),
        }
    }

    /// The connection, for the next request of the poll; none where a pool keeps it. The body must have been read to its end.
    pub(super) fn into_connection(self) -> Option<PlainConnection> {
        match self {
            Self::Plain(response) => Some(response.into_connection()),
            Self::Pooled(..) => None,
        }
    }
}

/// The client of one target.
#[derive(Debug)]
pub struct Client {
    transport: Transport,
    rules: Arc<AddressRules>,
    resolver: Arc<Resolver>,
    namespace: Arc<str>,
    /// The server, as messages about TLS name its settings.
    peer: Peer,
    contacted: ContactedHost,
    port: u16,
    grant: AllowedBy,
    /// Of https only: other connections are not kept.
    renewal: Option<RenewalSchedule>,
    /// The address that answered last. It is tried first, so that not every poll waits for one that does not answer.
    last_good: Mutex<Option<IpAddr>>,
}

impl Client {
    /// The client for one member of the target, at `address`. Everything but the address and its port stays as it is for the url: the header
    /// `Host`, the name in TLS and in the certificate. Connections are not shared with other members.
    ///
    /// `service` is the Service that has named the address, as `NAME.NAMESPACE.svc`; `None` if it is an address of the url's host. Whoever
    /// may write an EndpointSlice of it must not reach more with that than with a url of that name.
    pub fn member(&self, address: SocketAddr, service: Option<&str>) -> Result<Self, ClientError> {
        if self.is_proxied() {
            return Err(ClientError::ProxiedMembers);
        }
        if let Transport::Pooled(shared) = &self.transport
            && shared.server_name.is_none()
            && matches!(self.contacted, ContactedHost::Address(_))
        {
            return Err(ClientError::UnnamedMembers);
        }
        let grant = match service {
            None => self.grant,
            Some(host) => self
                .rules
                .allowed_by(Some(host), &self.namespace)
                .ok_or_else(|| ClientError::HostNotAllowed { field: "members.service", host: host.to_owned() })?,
        };
        if let Some(ground) = self.rules.refusal(address.ip(), grant) {
            return Err(ClientError::Denied { address: address.ip(), ground });
        }
        Ok(Self {
            transport: self.transport.clone(),
            rules: Arc::clone(&self.rules),
            resolver: Arc::clone(&self.resolver),
            namespace: Arc::clone(&self.namespace),
            peer: self.peer,
            contacted: ContactedHost::Member(address.ip()),
            port: address.port(),
            grant,
            renewal: self.renewal.as_ref().map(|_| RenewalSchedule::of(&address)),
            last_good: Mutex::default(),
        })
    }

    /// Every address of the url's host, those that may not be contacted as well: [`member`](Self::member) refuses them one by one. They are
    /// of one IP version, IPv4 if there are any, since a process that has both would be found twice. None for a name that exists and has no
    /// address: an error is only what does not say which addresses there are.
    pub async fn host_addresses(&self) -> Result<Arc<[SocketAddr]>, CallError> {
        let name = match &self.contacted {
            ContactedHost::Address(address) | ContactedHost::Member(address) => {
                return Ok(Arc::from([SocketAddr::new(*address, self.port)]));
            }
            ContactedHost::Name(name) => name,
        };
        let found = match self.resolver.look_up(&self.namespace, name).await {
            Ok(found) => found,
            Err(error) if error.says_that_there_is_no_address() => return Ok(Arc::default()),
            Err(error) => return Err(CallError::new(Reason::Dns, error.to_string())),
        };
        let has_v4 = found.addresses.iter().any(IpAddr::is_ipv4);
        if !has_v4 && !found.is_complete {
            // Else every member would get another name until the question about IPv4 is answered.
            return Err(self.unresolved());
        }
        let mut once = HashSet::new();
        let of_version = found.addresses.iter().filter(|address| address.is_ipv4() == has_v4 && once.insert(**address));
        Ok(of_version.map(|address| SocketAddr::new(*address, self.port)).collect())
    }

    /// The namespace of the target that it is for.
    pub(super) const fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }

    /// The addresses that may be contacted now: those of the host, or of the proxy, that no rule forbids.
    pub(super) async fn addresses(&self) -> Result<Arc<[SocketAddr]>, CallError> {
        let name = match &self.contacted {
            // Judged with the url, or when the member was found.
            ContactedHost::Address(address) | ContactedHost::Member(address) => {
                return Ok(Arc::from([SocketAddr::new(*address, self.port)]));
            }
            ContactedHost::Name(name) => name,
        };
        let found = self.resolver.look_up(&self.namespace, name).await;
        let found = found.map_err(|error| CallError::new(Reason::Dns, error.to_string()))?;
        let mut refused = None;
        let allowed = found.first_of_each_version(MAX_TRIED).filter(|address| {
            let ground = self.rules.refusal(**address, self.grant);
            refused = refused.or_else(|| ground.map(|ground| (**address, ground)));
            ground.is_none()
        });
        let mut once = HashSet::new();
        let allowed = allowed.filter(|address| once.insert(**address)); // /etc/hosts may list one again and again
        let allowed: Arc<[SocketAddr]> = allowed.map(|address| SocketAddr::new(*address, self.port)).collect();
        match refused {
            Some((address, ground)) if allowed.is_empty() => Err(CallError::new(
                Reason::Config,
                format!("{name} is at {address}, an address that may not be contacted ({ground})"),
            )),
            _ => Ok(allowed),
        }
    }

    /// The error of a call whose deadline passed within [`addresses`](Self::addresses).
    pub(super) fn unresolved(&self) -> CallError {
        let message = match &self.contacted {
            ContactedHost::Address(_) | ContactedHost::Member(_) => "no answer in time".to_owned(),
            ContactedHost::Name(name) => self.resolver.timeout_error(name).to_string(),
        };
        CallError::new(Reason::Dns, message)
    }

    /// The [`RenewalPeriod`] of a poll that begins now; `None` for plain http.
    pub(super) fn begin_poll(&self) -> Option<RenewalPeriod> {
        self.renewal.as_ref().map(RenewalSchedule::begin_poll)
    }

    /// Sends a request to one of these addresses. It reuses a connection if there is one: `kept` over plain TCP, else one of the pool. If
    /// the server closes that instead of answering, since it was about to close it anyway, the request is sent once more over a new
    /// connection.
    pub(super) async fn send(
        &self,
        request: Request<'_>,
        kept: &mut Option<PlainConnection>,
        addresses: &[SocketAddr],
        period: Option<RenewalPeriod>,
        deadline: Instant,
        failures: &mut ConnectFailures,
    ) -> Result<UnreadResponse, CallError> {
        let shared = match &self.transport {
            Transport::Plain => {
                let response = self.send_plain(request, kept, addresses, deadline, failures).await?;
                return Ok(UnreadResponse::Plain(Box::new(response)));
            }
            Transport::Pooled(shared) => shared,
        };
        let mut request = request.in_absolute_form();
        shared.address(&mut request, self.member_address());
        let again = request.try_clone();
        let mut sent = self.send_by(shared, &shared.http, request, addresses, period, deadline, failures).await;
        if matches!(sent, Err(SendError::ReusedClosed(_)))
            && let (Some(mut again), Some(unpooled)) = (again, shared.unpooled())
        {
            again.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            *failures = ConnectFailures::default();
            sent = self.send_by(shared, unpooled, again, addresses, None, deadline, failures).await;
        }
        Ok(UnreadResponse::Pooled(sent?, self.peer))
    }

    /// Sends a request over plain TCP.
    async fn send_plain(
        &self,
        request: Request<'_>,
        kept: &mut Option<PlainConnection>,
        addresses: &[SocketAddr],
        deadline: Instant,
        failures: &mut ConnectFailures,
    ) -> Result<PlainResponse, CallError> {
        let failed = |error: hyper::Error| error::call_error(&error, true, self.peer);
        let mut request = request.in_origin_form()?;
        if let Some(mut connection) = kept.take()
            && connection.is_ready().await
        {
            match connection.send(request.clone()).await {
                Ok(response) => return Ok(response),
                Err(error) if error.is_canceled() || error::is_closed(&error) => {
                    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let (stream, address) = self.connect(addresses, deadline, failures).await?;
        let connection = PlainConnection::over(stream).await.map_err(failed)?;
        let response = connection.send(request).await.map_err(failed)?;
        *self.last_good() = address;
        Ok(response)
    }

    /// Connects over TCP to one of these addresses, and says to which one if there are several.
    async fn connect(
        &self,
        addresses: &[SocketAddr],
        deadline: Instant,
        failures: &mut ConnectFailures,
    ) -> Result<(TcpStream, Option<IpAddr>), CallError> {
        let attempts = ConnectAttempts::new(addresses, *self.last_good(), deadline);
        for attempt in attempts {
            failures.begin(&attempt);
            match attempt.connect().await {
                Ok(stream) => {
                    let address = if addresses.len() > 1 { stream.peer_addr().ok() } else { None };
                    return Ok((stream, address.map(|address| address.ip())));
                }
                Err(why) => failures.add(&why),
            }
        }
        Err(failures.call_error(false))
    }

    /// Sends a request to the first of these addresses that can be connected to.
    #[expect(clippy::too_many_arguments, reason = "all that a request needs")]
    async fn send_by(
        &self,
        shared: &SharedClient,
        http: &HttpClient,
        request: reqwest::Request,
        addresses: &[SocketAddr],
        period: Option<RenewalPeriod>,
        deadline: Instant,
        failures: &mut ConnectFailures,
    ) -> Result<reqwest::Response, SendError> {
        let url = request.url();
        let mut attempts = ConnectAttempts::new(addresses, *self.last_good(), deadline);
        while let Some(attempt) = attempts.next() {
            let Some(mut request) = request.try_clone() else { break };
            let first = attempt.first_address();
            if let (Some(period), Some(address)) = (period, first) {
                period.tag_url(request.url_mut(), address.ip());
            }
            failures.begin(&attempt);
            let resumes = self.member_address().is_none();
            match attempt.during(http.execute(request), resumes).await {
                Ok(response) => {
                    let proxied = ProxiedInfo::of(&response).and_then(|info| info.address);
                    *self.last_good() = response.remote_addr().or(proxied).map(|address| address.ip());
                    return Ok(response);
                }
                Err(error) if error::is_connect(&*error) => match error::no_connection(&*error) {
                    Some(why) => failures.add(&why),
                    // A load balancer without a backend does this. Another address may work; if none does, the last error is reported.
                    None if !attempts.is_last() && error::ended_in_handshake(&*error) => {
                        failures.add(&ConnectFailure::Error(
                            "the server closes the connection in the handshake".to_owned(),
                        ));
                    }
                    None => return Err(error::call_error(&*error, is_plain(url), self.peer).into()),
                },
                Err(error) if !attempt.is_connected() && error::is_closed(&*error) => {
                    return Err(SendError::ReusedClosed(error::call_error(&*error, is_plain(url), self.peer)));
                }
                Err(error) => {
                    let unexplained = error::is_unexplained(&*error);
                    let alert = if unexplained { shared.alert(url, first, self.peer, deadline).await } else { None };
                    return Err(alert.unwrap_or_else(|| error::call_error(&*error, is_plain(url), self.peer)).into());
                }
            }
        }
        Err(failures.call_error(self.is_proxied()).into())
    }

    /// The address of the member that it is for.
    const fn member_address(&self) -> Option<SocketAddr> {
        match self.contacted {
            ContactedHost::Member(address) => Some(SocketAddr::new(address, self.port)),
            ContactedHost::Address(_) | ContactedHost::Name(_) => None,
        }
    }

    fn last_good(&self) -> MutexGuard<'_, Option<IpAddr>> {
        self.last_good.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether connections lead to a proxy.
    pub(super) fn is_proxied(&self) -> bool {
        matches!(&self.transport, Transport::Pooled(shared) if shared.proxy.is_some())
    }

    /// The error for an answer to a call of `url` with the status 407, if it is the proxy's own.
    pub(super) fn proxy_rejection(&self, url: &Url) -> Option<CallError> {
        let Transport::Pooled(shared) = &self.transport else { return None };
        let proxy = shared.proxy.as_ref().filter(|proxy| is_plain(url) && !proxy.tunnels_http())?;
        Some(proxy.unauthorized())
    }

    /// When the certificates expire of the server that answered a call of `url`.
    pub(super) fn certificate_expiry(
        &self,
        url: &Url,
        response: &UnreadResponse,
        handshakes: &Handshakes,
    ) -> Option<Expiry> {
        let (Transport::Pooled(shared), UnreadResponse::Pooled(response, _)) = (&self.transport, response) else {
            return None;
        };
        let mut authority = https_authority(url)?;
        if let Some(member) = self.member_address() {
            // Its certificate is its own, whatever the names that all of them have in common.
            authority = format!("{member} as {authority}");
        }
        let direct =
            response.extensions().get::<reqwest::tls::TlsInfo>().and_then(reqwest::tls::TlsInfo::peer_certificate);
        let leaf = direct.or_else(|| ProxiedInfo::of(response)?.leaf.as_deref());
        shared.expiries.of(&authority, leaf, handshakes, shared.verifies)
    }

    /// The same for a call without an answer, if the server has sent its certificates.
    pub(super) fn shown_expiry(&self, url: &Url, handshakes: &Handshakes) -> Option<Expiry> {
        let Transport::Pooled(_) = &self.transport else { return None };
        https_authority(url)?;
        handshakes.last()
    }
}

fn is_plain(url: &Url) -> bool {
    url.scheme() == "http"
}

/// `host:port`; `None` for plain http, where only a proxy can have a certificate.
fn https_authority(url: &Url) -> Option<String> {
    let host = url.host_str().filter(|_| url.scheme() == "https")?;
    Some(format!("{host}:{}", url.port_or_known_default()?))
}
