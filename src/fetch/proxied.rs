//! Connections through a proxy, for the pool of the HTTP client: to the proxy itself for http, else a tunnel. TLS with the proxy has settings
//! of its own, so that neither the client certificate nor the authorities of one are those of the other.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::header::{ACCEPT, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT as USER_AGENT_HEADER};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection as PooledConnection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use reqwest::{Body, Url};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tower::{Layer, Service};

use super::USER_AGENT;
use super::attempts::{AttemptConnector, AttemptLayer, BoxError, connect_any, current_addresses};
use super::error::alert_on;
use crate::dial::TargetProxy;
use crate::failure::{CallError, Reason};

/// A handshake with the proxy takes no longer than this, whatever the timeout of the target.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection with all that belongs to it takes no longer than this.
const LONGEST: Duration = Duration::from_mins(1);

/// An HTTP client whose connections lead through a proxy.
#[derive(Clone, Debug)]
pub(super) struct ProxiedClient {
    http: legacy::Client<AttemptConnector<ProxyConnector>, Body>,
    /// For connections that no request is sent on.
    connector: ProxyConnector,
    /// Sent with whole requests, which the proxy gets itself.
    authorization: Option<HeaderValue>,
    tunnels_http: bool,
}

/// What is known of the connection by which a response came.
#[derive(Clone)]
pub(super) struct ProxiedInfo {
    /// The address of the proxy.
    pub(super) address: Option<SocketAddr>,
    /// The certificate of the server at the end of the tunnel.
    pub(super) leaf: Option<Arc<[u8]>>,
}

impl ProxiedInfo {
    pub(super) fn of(response: &reqwest::Response) -> Option<&Self> {
        response.extensions().get()
    }
}

/// An error of the way to the server, in words for the user.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ProxyFailure(pub(super) CallError);

impl ProxiedClient {
    /// A client through `proxy`, which has TLS settings if it is spoken to by TLS; `target` are those of the servers. Connections are kept
    /// as long as nobody uses them for `idle`; with zero none is.
    pub(super) fn new(
        proxy: &Arc<TargetProxy>,
        proxy_tls: Option<&Arc<ProxyTlsSettings>>,
        target: &Arc<ClientConfig>,
        idle: Duration,
    ) -> Self {
        let connector =
            ProxyConnector { proxy: Arc::clone(proxy), proxy_tls: proxy_tls.cloned(), target: Arc::clone(target) };
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(idle)
            .pool_max_idle_per_host(if idle.is_zero() { 0 } else { usize::MAX })
            .retry_canceled_requests(false) // the caller decides what is sent again
            .build(AttemptLayer.layer(connector.clone()));
        let tunnels_http = proxy.tunnels_http();
        Self { http, connector, authorization: proxy.header().filter(|_| !tunnels_http), tunnels_http }
    }

    /// Sends a request, and waits for the header of the answer.
    pub(super) async fn execute(&self, request: reqwest::Request) -> Result<reqwest::Response, BoxError> {
        let mut request = http::Request::<Body>::try_from(request)?;
        let is_whole = !self.tunnels_http && request.uri().scheme_str() == Some("http");
        let headers = request.headers_mut();
        headers.entry(USER_AGENT_HEADER).or_insert(HeaderValue::from_static(USER_AGENT));
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        if let Some(value) = self.authorization.as_ref().filter(|_| is_whole) {
            headers.insert(PROXY_AUTHORIZATION, value.clone());
        }
        let response = self.http.request(request).await?;
        Ok(response.map(Body::wrap).into())
    }

    /// Why the server of this `https` url ends connections right after the handshake, as [`handshake_alert`](super::handshake_alert) finds
    /// out without a proxy.
    pub(super) async fn alert(&self, url: &Url, proxy: SocketAddr) -> Option<rustls::Error> {
        let connected = self.connector.clone().connect(url.as_str().parse().ok()?, vec![proxy]).await;
        match connected {
            Ok(connection) => alert_on(connection.stream.into_inner()).await,
            Err(error) => error.downcast::<io::Error>().ok()?.into_inner()?.downcast().ok().map(|error| *error),
        }
    }
}

/// TLS with a proxy.
#[derive(Debug)]
pub(super) struct ProxyTlsSettings {
    pub(super) config: Arc<ClientConfig>,
    /// The name that is wanted.
    pub(super) name: ServerName<'static>,
}

/// Makes connections through a proxy.
#[derive(Clone, Debug)]
pub(super) struct ProxyConnector {
    proxy: Arc<TargetProxy>,
    proxy_tls: Option<Arc<ProxyTlsSettings>>,
    target: Arc<ClientConfig>,
}

impl ProxyConnector {
    async fn connect(self, to: Uri, addresses: Vec<SocketAddr>) -> Result<ProxiedStream, BoxError> {
        let stream = connect_any(&addresses).await?;
        let address = stream.peer_addr().ok();
        let mut stream: BoxedTunnel = Box::new(stream);
        if let Some(tls) = &self.proxy_tls {
            stream = Box::new(self.encrypted(tls, stream).await.map_err(ProxyFailure)?);
        }
        let is_tls = to.scheme_str() == Some("https");
        let is_tunnel = is_tls || self.proxy.tunnels_http();
        let host = to.host().unwrap_or_default();
        if is_tunnel {
            let port = to.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
            stream = self.proxy.open_tunnel(stream, host, port).await.map_err(ProxyFailure)?;
        }
        let mut leaf = None;
        if is_tls {
            let name = ServerName::try_from(host.trim_matches(['[', ']']))?.to_owned();
            let encrypted = TlsConnector::from(self.target).connect(name, stream).await?;
            let certificates = encrypted.get_ref().1.peer_certificates();
            leaf = certificates.and_then(<[_]>::first).map(|leaf| Arc::from(leaf.as_ref()));
            stream = Box::new(encrypted);
        }
        let info = ProxiedInfo { address, leaf };
        Ok(ProxiedStream { stream: TokioIo::new(stream), gets_whole_requests: !is_tunnel, info })
    }

    /// Makes a handshake with the proxy.
    async fn encrypted(
        &self,
        tls: &ProxyTlsSettings,
        stream: BoxedTunnel,
    ) -> Result<tokio_rustls::client::TlsStream<BoxedTunnel>, CallError> {
        let connecting = TlsConnector::from(Arc::clone(&tls.config)).connect(tls.name.clone(), stream);
        let error = match tokio::time::timeout(LONGEST_HANDSHAKE, connecting).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => return Err(self.handshake_error(&error)),
            Err(_) => CallError::new(Reason::Timeout, "the TLS handshake with the proxy did not end in time"),
        };
        Err(self.proxy.error(&error))
    }

    /// Why there is no TLS with the proxy.
    fn handshake_error(&self, error: &io::Error) -> CallError {
        if let Some(tls) = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
            return self.proxy.tls_error(tls);
        }
        let message = "the proxy closes the connection instead of answering by TLS: if it speaks http, write http:// instead of https://";
        self.proxy.error(&CallError::new(Reason::Connect, message))
    }
}

impl Service<Uri> for ProxyConnector {
    type Response = ProxiedStream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<ProxiedStream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = self.clone().connect(to, current_addresses());
        let proxy = Arc::clone(&self.proxy);
        Box::pin(async move {
            // Also of a connection that the client finishes in a task of its own, when no call waits for it any more.
            tokio::time::timeout(LONGEST, connecting).await.unwrap_or_else(|_| {
                let error = CallError::new(Reason::Timeout, "no way through the proxy in time");
                Err(ProxyFailure(proxy.error(&error)).into())
            })
        })
    }
}

/// Bytes in both directions.
trait TunnelBytes: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> TunnelBytes for S {}

type BoxedTunnel = Box<dyn TunnelBytes>;

/// A connection through a proxy.
pub(super) struct ProxiedStream {
    stream: TokioIo<BoxedTunnel>,
    /// The proxy reads the requests itself.
    gets_whole_requests: bool,
    info: ProxiedInfo,
}

impl PooledConnection for ProxiedStream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.gets_whole_requests).extra(self.info.clone())
    }
}

impl Read for ProxiedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for ProxiedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
