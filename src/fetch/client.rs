//! HTTP clients, one for all targets of equal TLS and proxy settings: a client of its own costs 110 KiB.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HOST, HeaderValue};
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::address::RuledResolver;
use super::certificate::{Expiries, Handshakes, RecordingVerifier, certificates};
use super::{AddressRules, ClientError, Connection, Identity};

/// The clients in use.
#[derive(Debug)]
pub struct Clients {
    rules: AddressRules,
    shared: Mutex<HashMap<Key, Weak<Client>>>,
    tls: Mutex<HashMap<TlsKey, Weak<rustls::ClientConfig>>>,
}

/// What must be equal for TLS settings, trusted authorities and all, to be in memory once: authorities, identity, verification, and the
/// address that the certificate must name.
type TlsKey = (bool, Option<Arc<[u8]>>, Option<Identity>, bool, Option<IpAddr>);

/// What must be equal for a client to be shared.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    connection: Connection,
    /// Whether a certificate is ever met: the client for the others verifies none.
    secure: bool,
    /// The url's host; only where it stands behind another name.
    host: Option<String>,
}

impl Clients {
    /// No client yet; all will obey `rules`.
    pub fn new(rules: AddressRules) -> Self {
        Self { rules, shared: Mutex::default(), tls: Mutex::default() }
    }

    /// The client for targets at `url` with these settings: a new one only if no other target has equal settings.
    pub fn client(&self, url: &Url, connection: &Connection) -> Result<Arc<Client>, ClientError> {
        for contacted in std::iter::once(url).chain(&connection.proxy) {
            self.check_literal(contacted)?;
        }
        let mut connection = connection.clone();
        let secure = url.scheme() == "https" || has_tls_proxy(&connection);
        if !secure {
            connection = Connection { proxy: connection.proxy, ..Connection::default() };
        }
        let named = matches!(server_identity(&connection)?, Some(ServerIdentity::Name(_)));
        let host = url.host_str().filter(|_| named).map(str::to_owned);
        let key = Key { connection, secure, host };
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = shared.get(&key).and_then(Weak::upgrade) {
            return Ok(client);
        }
        let client = Arc::new(self.build(&key)?);
        shared.retain(|_, client| client.strong_count() > 0);
        shared.insert(key, Arc::downgrade(&client));
        Ok(client)
    }

    /// An address in the url never meets the resolver: it is checked here.
    fn check_literal(&self, url: &Url) -> Result<(), ClientError> {
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        match host.parse() {
            Ok(address) if !self.rules.allows(address) => Err(ClientError::Denied(address)),
            _ => Ok(()),
        }
    }

    fn build(&self, Key { connection, secure, host }: &Key) -> Result<Client, ClientError> {
        let identity = server_identity(connection)?;
        if identity.is_some() && connection.proxy.is_some() {
            return Err(ClientError::ProxiedServerName);
        }
        let (server_name, address) = match identity {
            Some(ServerIdentity::Name(name)) => (Some(name), None),
            Some(ServerIdentity::Address(address)) => (None, Some(address)),
            None => (None, None),
        };
        let instead_of = server_name.clone().zip(host.clone());
        let tls = self.shared_tls(*secure, connection, address)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .referer(false)
            .no_proxy()
            .dns_resolver(Arc::new(RuledResolver { rules: self.rules.clone(), instead_of }))
            .pool_idle_timeout(if *secure { IDLE_TLS } else { IDLE_PLAIN })
            .tls_backend_preconfigured(rustls::ClientConfig::clone(&tls))
            .tls_info(true);
        if let Some(proxy) = &connection.proxy {
            builder = builder.proxy(reqwest::Proxy::all(proxy.clone()).map_err(ClientError::Build)?);
        }
        let http = builder.build().map_err(ClientError::Build)?;
        let tls_proxy = connection.proxy.as_ref().filter(|_| has_tls_proxy(connection)).and_then(Url::host_str);
        let tls_proxy = tls_proxy.map(|host| host.trim_matches(['[', ']']).into());
        Ok(Client { http, _tls: tls, server_name, tls_proxy, expiries: Expiries::default() })
    }

    /// Clients that differ in nothing but the host behind `serverName` or the proxy have their TLS settings in common.
    fn shared_tls(
        &self,
        used: bool,
        connection: &Connection,
        address: Option<IpAddr>,
    ) -> Result<Arc<rustls::ClientConfig>, ClientError> {
        let Connection { ca, identity, insecure_skip_verify, server_name: _, proxy: _ } = connection;
        let key = (used, ca.clone(), identity.clone(), *insecure_skip_verify, address);
        let mut shared = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tls) = shared.get(&key).and_then(Weak::upgrade) {
            return Ok(tls);
        }
        let tls = Arc::new(Self::tls(used, connection, address)?);
        shared.retain(|_, tls| tls.strong_count() > 0);
        shared.insert(key, Arc::downgrade(&tls));
        Ok(tls)
    }

    fn tls(
        secure: bool,
        connection: &Connection,
        address: Option<IpAddr>,
    ) -> Result<rustls::ClientConfig, ClientError> {
        let verifier: Arc<dyn ServerCertVerifier> = match (secure, connection.insecure_skip_verify) {
            (true, false) => RecordingVerifier::verifying(connection.ca.as_deref(), address)?,
            // A client for plain http never meets a certificate; loading the system's authorities for it would cost megabytes.
            (false, _) | (_, true) => RecordingVerifier::trusting(),
        };
        let builder = rustls::ClientConfig::builder().dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &connection.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = certificates(&identity.certificates).ok_or(ClientError::Certificate)?;
                let key = PrivateKeyDer::from_pem_slice(&identity.key).map_err(|_| ClientError::Key)?;
                builder.with_client_auth_cert(chain, key).map_err(ClientError::Identity)?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.enable_sni = address.is_none(); // SNI has no addresses, and the url's host is not what was asked for
        Ok(config)
    }
}

/// Whether TLS is spoken with the proxy, however the target is spoken with: then certificates matter.
fn has_tls_proxy(connection: &Connection) -> bool {
    connection.proxy.as_ref().is_some_and(|proxy| proxy.scheme() == "https")
}

/// Who the server shall prove to be, instead of the url's host.
enum ServerIdentity {
    Name(String),
    /// Never put into the url: it would be contacted there.
    Address(IpAddr),
}

fn server_identity(connection: &Connection) -> Result<Option<ServerIdentity>, ClientError> {
    let Some(text) = &connection.server_name else { return Ok(None) };
    if let Ok(address) = text.parse() {
        return Ok(Some(ServerIdentity::Address(address)));
    }
    // What a url would take for an address in disguise, such as 0x7f.1, is none that a certificate could be made out to.
    match url::Host::parse(text) {
        Ok(url::Host::Domain(_)) => Ok(Some(ServerIdentity::Name(text.clone()))),
        _ => Err(ClientError::ServerName),
    }
}

/// Kept between polls: a handshake costs a hundred times what a call costs. Longer than the usual intervals.
const IDLE_TLS: Duration = Duration::from_secs(90);

/// Plain connections are closed by the poll's last call; this is for polls that were cut off.
const IDLE_PLAIN: Duration = Duration::from_secs(2);

/// A client that targets share.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    /// Keeps the shared settings alive, for the next client that has them.
    _tls: Arc<rustls::ClientConfig>,
    server_name: Option<String>,
    /// The host of a proxy that has a certificate, too.
    tls_proxy: Option<Box<str>>,
    expiries: Expiries,
}

impl Client {
    pub(super) async fn send(&self, request: reqwest::Request) -> Result<reqwest::Response, reqwest::Error> {
        self.http.execute(request).await
    }

    /// Puts the certificate's name in the place of the host where `serverName` is set: TLS takes its name from there, and the
    /// resolver knows which host is meant. The server still reads its own name in `Host`.
    pub(super) fn address(&self, request: &mut reqwest::Request) {
        let Some(server_name) = self.server_name.as_deref() else { return };
        let url = request.url();
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => return,
        };
        if let Ok(value) = HeaderValue::from_str(&host) {
            request.headers_mut().insert(HOST, value);
        }
        // A name that no url can hold was refused when the target was declared.
        let _ = request.url_mut().set_host(Some(server_name));
    }

    /// When the first certificate of the chain ends that stands behind an answer to a call of `url`, as Unix time.
    pub(super) fn certificate_expiry(
        &self,
        url: &Url,
        response: &reqwest::Response,
        handshakes: &Handshakes,
    ) -> Option<i64> {
        let authority = https_authority(url)?;
        let leaf =
            response.extensions().get::<reqwest::tls::TlsInfo>().and_then(reqwest::tls::TlsInfo::peer_certificate);
        self.expiries.of(&authority, leaf, handshakes, self.tls_proxy.as_deref())
    }

    /// The same for a call that was not answered, if the server came as far as to show its certificates.
    pub(super) fn shown_expiry(&self, url: &Url, handshakes: &Handshakes) -> Option<i64> {
        https_authority(url)?;
        handshakes.last(self.tls_proxy.as_deref())
    }
}

/// `host:port`; nothing for plain http: a certificate met on the way there is a proxy's.
fn https_authority(url: &Url) -> Option<String> {
    let host = url.host_str().filter(|_| url.scheme() == "https")?;
    Some(format!("{host}:{}", url.port_or_known_default()?))
}
