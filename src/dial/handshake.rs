//! TLS of a probe: every handshake is a full one, and what the server sent is known also if it was refused.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CipherSuite, ProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{ClientError, Connection, Dialer};
use crate::error_chain::chain;
use crate::failure::{CallError, Reason};
use crate::tls::{self, HandshakeObserver, Peer, ServerVerifier, TrustStore};

/// A handshake takes no longer than this, whatever the timeout of the target, as with the blackbox exporter.
const LONGEST: Duration = Duration::from_secs(10);

/// The TLS settings of one target.
#[derive(Debug)]
pub(super) struct TlsSettings {
    trust: Trust,
    identity: Option<Arc<CertifiedKey>>,
    /// The name that is wanted, where it is not the host.
    name: Option<ServerName<'static>>,
    versions: super::TlsVersions,
}

/// What certificates are verified with.
#[derive(Debug)]
enum Trust {
    /// They are not verified.
    Anything,
    /// The system's authorities, which are loaded when they are first needed.
    System,
    /// Those in `tlsConfig.ca`.
    Configured(Arc<TrustStore>),
}

impl Trust {
    fn store(&self) -> Option<Arc<TrustStore>> {
        match self {
            Self::Anything => None,
            Self::System => Some(tls::system_authorities()),
            Self::Configured(store) => Some(Arc::clone(store)),
        }
    }
}

impl Connection {
    /// Whether a [`Dialer`] could be made with these settings, but for the addresses in them. When files are checked, the rules may be those of
    /// another machine.
    pub fn check_for_probes(&self) -> Result<(), ClientError> {
        TlsSettings::new(self, |pem| TrustStore::of_pem(pem).ok_or(ClientError::Ca)).map(drop)
    }
}

impl TlsSettings {
    pub(super) fn new(
        settings: &Connection,
        trust: impl Fn(&Arc<[u8]>) -> Result<Arc<TrustStore>, ClientError>,
    ) -> Result<Self, ClientError> {
        let Connection { ca, identity, server_name, insecure_skip_verify, tls_versions, .. } = settings;
        let trust = match ca {
            _ if *insecure_skip_verify => Trust::Anything,
            Some(pem) => Trust::Configured(trust(pem)?),
            None => Trust::System,
        };
        let identity = identity.as_ref().map(|identity| identity.certified().map(Arc::new)).transpose()?;
        let name = server_name.as_deref().map(|name| ServerName::try_from(name.to_owned()));
        let name = name.transpose().map_err(|_| ClientError::ServerName)?;
        Ok(Self { trust, identity, name, versions: *tls_versions })
    }

    fn config(
        &self,
        verifier: Arc<ServerVerifier<SentCertificates>>,
        identity: Option<&Arc<CertifiedKey>>,
        alpn: &[&[u8]],
        sni: bool,
    ) -> rustls::ClientConfig {
        let builder = rustls::ClientConfig::builder_with_protocol_versions(self.versions.list());
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from((**identity).clone()))),
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.enable_sni = sni;
        config
    }
}

/// The other end of a TLS connection, as far as the handshake came.
#[derive(Clone, Debug, Default)]
pub struct TlsPeer {
    /// The certificates that were sent, the server's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// When the verified chain that is valid longest expires, as Unix time; `None` if none was verified, or the server has not proven that
    /// the certificate is its own.
    pub last_chain: Option<i64>,
    /// The version that was agreed on; `None` if the handshake failed.
    pub version: Option<ProtocolVersion>,
    /// The same for the cipher suite.
    pub cipher: Option<CipherSuite>,
    /// The protocol that the server chose by ALPN.
    pub alpn: Option<Vec<u8>>,
}

/// Whose server it is that a handshake is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerRole {
    /// The target's own: `tlsConfig.serverName` and the client certificate are meant for it.
    Target,
    /// One that the target does not name, such as a proxy or one that it redirects to. They are not meant for it.
    Other,
}

impl Dialer {
    /// Makes a handshake with `host`, which certificates are verified for unless `tlsConfig.serverName` is meant for it. The peer is returned
    /// also if the handshake fails, once the server has sent certificates.
    ///
    /// Reasons: `tls`, `timeout`.
    pub async fn handshake<S>(
        &self,
        stream: S,
        server: ServerRole,
        host: &str,
        alpn: &[&[u8]],
        deadline: Instant,
    ) -> (Result<TlsStream<S>, CallError>, Option<TlsPeer>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (name, identity) = match server {
            ServerRole::Target => (self.tls.name.as_ref(), self.tls.identity.as_ref()),
            ServerRole::Other => (None, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = host.strip_suffix('.').filter(|host| !host.is_empty()).unwrap_or(host);
        let name = name.cloned().map_or_else(|| ServerName::try_from(host.to_owned()), Ok);
        let Ok(name) = name else {
            let message = format!("{host} is no name that a certificate can contain: write tlsConfig.serverName");
            return (Err(CallError::new(Reason::Tls, message)), None);
        };
        let sni = matches!(name, ServerName::DnsName(_));
        let verifier = Arc::new(ServerVerifier::new(self.tls.trust.store(), SentCertificates::default()));
        let config = Arc::new(self.tls.config(Arc::clone(&verifier), identity, alpn, sni));
        let deadline = deadline.min(Instant::now() + LONGEST);
        let connecting = TlsConnector::from(config).connect(name, stream);
        let result = match timeout_at(deadline, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(failed(&error, alpn)),
            Err(_) => Err(CallError::new(Reason::Timeout, "the TLS handshake did not end in time")),
        };
        let mut peer = verifier.observer().take();
        if let (Ok(stream), Some(peer)) = (&result, &mut peer) {
            let (_, session) = stream.get_ref();
            peer.version = session.protocol_version();
            peer.cipher = session.negotiated_cipher_suite().map(|suite| suite.suite());
            peer.alpn = session.alpn_protocol().map(<[u8]>::to_vec);
        }
        (result, peer)
    }
}

/// The failure of a handshake. Whatever ends it, it is one of TLS: there was a connection.
fn failed(error: &io::Error, alpn: &[&[u8]]) -> CallError {
    use rustls::{AlertDescription, Error, InvalidMessage};
    let message = match chain(error).find_map(|link| link.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "the answer is not TLS: if the server does not encrypt, write a url without TLS, for instance http:// or tcp://".to_owned()
        }
        Some(Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            let names: Vec<_> = alpn.iter().map(|name| String::from_utf8_lossy(name)).collect();
            format!("the server does not speak {} over TLS (ALPN)", names.join(" or "))
        }
        Some(error) => tls::describe(error, Peer::Server),
        None => format!("the connection ended in the TLS handshake: {error}"),
    };
    CallError::new(Reason::Tls, message)
}

/// Keeps the certificates of one handshake.
#[derive(Debug, Default)]
struct SentCertificates(Mutex<Option<SentChain>>);

#[derive(Debug)]
struct SentChain {
    peer: TlsPeer,
    /// When the verified chain expires, if the server proves that the certificate is its own.
    last_chain: Option<i64>,
}

impl SentCertificates {
    fn take(&self) -> Option<TlsPeer> {
        self.lock().take().map(|sent| sent.peer)
    }

    fn lock(&self) -> MutexGuard<'_, Option<SentChain>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HandshakeObserver for SentCertificates {
    fn sent(&self, _: &ServerName<'_>, chain: &[&CertificateDer<'_>], last_chain: Option<i64>) {
        let chain = chain.iter().map(|certificate| (*certificate).clone().into_owned()).collect();
        *self.lock() = Some(SentChain { peer: TlsPeer { chain, ..TlsPeer::default() }, last_chain });
    }

    fn proven(&self, _: &CertificateDer<'_>) {
        if let Some(sent) = &mut *self.lock() {
            sent.peer.last_chain = sent.last_chain;
        }
    }
}
