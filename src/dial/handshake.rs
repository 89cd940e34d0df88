//! TLS of a probe: every handshake is a full one, and what the server sent is known also if it was refused.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CipherSuite, ProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{ClientError, Connection, Dialer, TlsSettings, TlsVersions};
use crate::error_chain::chain;
use crate::failure::{CallError, Reason};
use crate::tls::{self, HandshakeObserver, Peer, ServerVerifier, TrustStore};

/// A handshake takes no longer than this, whatever the timeout of the target, as with the blackbox exporter.
const LONGEST: Duration = Duration::from_secs(10);

/// [`TlsSettings`] as handshakes take them.
#[derive(Debug)]
pub(super) struct LoadedTls {
    trust: Trust,
    identity: Option<Arc<CertifiedKey>>,
    /// The name that is wanted, where it is not the host.
    name: Option<ServerName<'static>>,
    versions: TlsVersions,
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
        let trust = |pem: &Arc<[u8]>| TrustStore::of_pem(pem).ok_or(ClientError::Ca);
        LoadedTls::new(&self.tls, trust)?;
        LoadedTls::of_proxy(self, trust).map(drop)
    }
}

impl LoadedTls {
    pub(super) fn new(
        settings: &TlsSettings,
        trust: impl Fn(&Arc<[u8]>) -> Result<Arc<TrustStore>, ClientError>,
    ) -> Result<Self, ClientError> {
        let TlsSettings { ca, identity, server_name, insecure_skip_verify, versions } = settings;
        let trust = match ca {
            _ if *insecure_skip_verify => Trust::Anything,
            Some(pem) => Trust::Configured(trust(pem)?),
            None => Trust::System,
        };
        let identity = identity.as_ref().map(|identity| identity.certified().map(Arc::new)).transpose()?;
        let name = server_name.as_deref().map(|name| ServerName::try_from(name.to_owned()));
        let name = name.transpose().map_err(|_| ClientError::ServerName)?;
        Ok(Self { trust, identity, name, versions: *versions })
    }

    /// The settings for the proxy, if it has its own.
    pub(super) fn of_proxy(
        settings: &Connection,
        trust: impl Fn(&Arc<[u8]>) -> Result<Arc<TrustStore>, ClientError>,
    ) -> Result<Option<Self>, ClientError> {
        if settings.proxy.as_ref().is_none_or(|proxy| proxy.tls.is_none()) {
            return Ok(None);
        }
        Self::new(&settings.proxy_tls(), trust).map(Some).map_err(|error| settings.proxy_error(error))
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
    /// The proxy: `proxyTlsConfig` is meant for it and, without that, the authorities in `tlsConfig`.
    Proxy,
    /// One that the target does not name, such as one that it redirects to. They are not meant for it.
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
    ) -> (Result<EncryptedStream<S>, CallError>, Option<TlsPeer>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (tls, is_own) = match (server, &self.proxy_tls) {
            (ServerRole::Proxy, Some(tls)) => (tls, true),
            (ServerRole::Target, _) => (&self.tls, true),
            (ServerRole::Proxy | ServerRole::Other, _) => (&self.tls, false),
        };
        let (name, identity) = if is_own { (tls.name.as_ref(), tls.identity.as_ref()) } else { (None, None) };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = host.strip_suffix('.').filter(|host| !host.is_empty()).unwrap_or(host);
        let name = name.cloned().map_or_else(|| ServerName::try_from(host.to_owned()), Ok);
        let settings = if server == ServerRole::Proxy { "proxyTlsConfig" } else { "tlsConfig" };
        let Ok(name) = name else {
            let message = format!("{host} is no name that a certificate can contain: write {settings}.serverName");
            return (Err(CallError::new(Reason::Tls, message)), None);
        };
        let sni = matches!(name, ServerName::DnsName(_));
        let verifier = Arc::new(ServerVerifier::new(tls.trust.store(), SentCertificates::default()));
        let config = Arc::new(tls.config(Arc::clone(&verifier), identity, alpn, sni));
        let deadline = deadline.min(Instant::now() + LONGEST);
        let connecting = TlsConnector::from(config).connect(name, stream);
        let result = match timeout_at(deadline, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(failed(&error, alpn, Peer::Server(settings))),
            Err(_) => Err(CallError::new(Reason::Timeout, "the TLS handshake did not end in time")),
        };
        let mut peer = verifier.observer().take();
        if let (Ok(stream), Some(peer)) = (&result, &mut peer) {
            let (_, session) = TlsStream::get_ref(stream);
            peer.version = session.protocol_version();
            peer.cipher = session.negotiated_cipher_suite().map(|suite| suite.suite());
            peer.alpn = session.alpn_protocol().map(<[u8]>::to_vec);
        }
        (result.map(EncryptedStream::new), peer)
    }
}

/// What a write reads at most after it failed.
const MAX_LAST_WORDS: usize = 64 * 1024;

/// An encrypted connection whose writes fail with what the server said last.
///
/// In TLS 1.3 the handshake is over for us before the server has looked at our certificate. If it rejects that, it sends an alert and ends the
/// connection, and a write may meet the end first. Whoever writes reads no more then, so that a write that failed reads what has come. The
/// system may tell of it later than of the end: a read that is pending is waited for, and on a connection that was ended it does not last.
pub struct EncryptedStream<S> {
    stream: TlsStream<S>,
    /// What a write failed with, while it is read why.
    failed_write: Option<io::Error>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> EncryptedStream<S> {
    const fn new(stream: TlsStream<S>) -> Self {
        Self { stream, failed_write: None }
    }

    fn write_or_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TlsStream<S>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        if self.failed_write.is_none() {
            match write(Pin::new(&mut self.stream), cx) {
                Poll::Ready(Err(error)) if matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset) => {
                    self.failed_write = Some(error);
                }
                polled => return polled,
            }
        }
        let read = ready!(self.read_last_words(cx));
        let failed = self.failed_write.take().unwrap_or_else(|| BrokenPipe.into());
        Poll::Ready(Err(read.err().filter(is_of_tls).unwrap_or(failed)))
    }

    fn read_last_words(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ignored = [0; 1024];
        for _ in 0..MAX_LAST_WORDS / ignored.len() {
            let mut buffer = ReadBuf::new(&mut ignored);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn is_of_tls(error: &io::Error) -> bool {
    chain(error).any(<dyn std::error::Error>::is::<rustls::Error>)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for EncryptedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for EncryptedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write_or_read(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write_or_read(cx, |stream, cx| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_or_read(cx, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The failure of a handshake. Whatever ends it, it is one of TLS: there was a connection.
fn failed(error: &io::Error, alpn: &[&[u8]], peer: Peer) -> CallError {
    use rustls::{AlertDescription, Error, InvalidMessage};
    let message = match chain(error).find_map(|link| link.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "the answer is not TLS: if the server does not encrypt, write a url without TLS, for instance http:// or tcp://".to_owned()
        }
        Some(Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            let names: Vec<_> = alpn.iter().map(|name| String::from_utf8_lossy(name)).collect();
            format!("the server does not speak {} over TLS (ALPN)", names.join(" or "))
        }
        Some(error) => tls::describe(error, peer),
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustls::server::WebPkiClientVerifier;
    use rustls::{AlertDescription, RootCertStore};
    use rustls_pki_types::PrivateKeyDer;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A socket whose server has ended the connection: what the server sent before is told of one poll later.
    struct EndedSocket {
        stream: DuplexStream,
        has_ended: Arc<AtomicBool>,
        was_read: bool,
    }

    impl AsyncRead for EndedSocket {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if self.has_ended.load(Ordering::Relaxed) && !std::mem::replace(&mut self.was_read, true) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Pin::new(&mut self.stream).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for EndedSocket {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            if self.has_ended.load(Ordering::Relaxed) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            Pin::new(&mut self.stream).poll_write(cx, bytes)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_write_fails_with_the_alert_that_came_before_the_end() {
        tls::install_provider();
        let certified = rcgen::generate_simple_self_signed(["server.test".to_owned()]).unwrap();
        let certificate = certified.cert.der().clone();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder(Arc::clone(&roots)).build().unwrap();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let builder = rustls::ServerConfig::builder().with_client_cert_verifier(verifier);
        let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![certificate], key).unwrap()));
        let connector = TlsConnector::from(Arc::new(
            rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth(),
        ));

        let (near, far) = duplex(64 * 1024);
        let has_ended = Arc::<AtomicBool>::default();
        let socket = EndedSocket { stream: near, has_ended: Arc::clone(&has_ended), was_read: false };
        let name = ServerName::try_from("server.test").unwrap();
        let (connected, accepted) = tokio::join!(connector.connect(name, socket), acceptor.accept(far));
        accepted.map(drop).unwrap_err();
        has_ended.store(true, Ordering::Relaxed);
        let error = EncryptedStream::new(connected.unwrap()).write_all(b"x").await.unwrap_err();
        let alert = chain(&error).find_map(|link| link.downcast_ref::<rustls::Error>());
        assert_eq!(alert, Some(&rustls::Error::AlertReceived(AlertDescription::CertificateRequired)));
    }
}
