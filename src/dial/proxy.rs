//! The proxy of a target: which urls go through it, what it is told of itself, and how a tunnel through it is opened. It opens no connection.
//!
//! What is secret of a proxy is sent to the proxy alone: in the request for a tunnel or, where the proxy gets whole requests, in their header.

use std::fmt;
use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper_util::client::legacy::connect::proxy::SocksV5;
use hyper_util::rt::TokioIo;
use reqwest::Url;
use reqwest::header::HeaderValue;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tower::{Service, service_fn};

use super::{ClientError, Connection, NoProxy, TlsSettings, broken};
use crate::error_chain::chain;
use crate::failure::{CallError, Reason};
use crate::tls::{self, Peer};

/// The most bytes of a proxy's answer to CONNECT, with the interim responses before it.
const MAX_TUNNEL_HEADER: usize = 16 * 1024;

/// What requests for tunnels call themselves.
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// The proxy of a target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TargetProxy {
    /// `http://`, `https://`, `socks5://` or `socks5h://`, host and port.
    pub url: Url,
    /// Who asks, if the proxy wants to know.
    pub credentials: Option<ProxyCredentials>,
    /// Which urls are reached without it; `None`: none.
    pub no_proxy: Option<NoProxy>,
    /// TLS of the proxy itself; `None`: as for the target, but for what is the target's own: its name and the client certificate.
    pub tls: Option<TlsSettings>,
    /// Where all this is written, for messages.
    pub fields: ProxyFields,
}

/// The fields in which a proxy is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyFields {
    /// Those of the target.
    Target,
    /// Those of its token endpoint, which have neither credentials nor TLS settings for the proxy alone.
    TokenEndpoint,
}

impl ProxyFields {
    const fn url(self) -> &'static str {
        match self {
            Self::Target => "proxyUrl",
            Self::TokenEndpoint => "oauth2.proxyUrl",
        }
    }

    /// The other end of a TLS connection with the proxy.
    const fn peer(self) -> Peer {
        match self {
            Self::Target => Peer::Server("proxyTlsConfig"),
            Self::TokenEndpoint => Peer::Server("oauth2.tlsConfig"),
        }
    }
}

/// User name and password for a proxy: never printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ProxyCredentials {
    username: Arc<[u8]>,
    password: Arc<[u8]>,
}

impl fmt::Debug for ProxyCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyCredentials(<secret>)")
    }
}

impl ProxyCredentials {
    /// SOCKS writes the lengths of both into a byte each, and the library has room for 262 bytes of all that is sent, of which a host may
    /// take as many as it likes.
    const MAX_FOR_SOCKS: usize = 128;

    /// With a user name that has no colon.
    pub fn new(username: &[u8], password: &[u8]) -> Self {
        Self { username: username.into(), password: password.into() }
    }

    /// Why these credentials cannot be sent to a proxy with this url.
    pub fn problem(&self, proxy: &Url) -> Option<String> {
        if self.username.contains(&b':') {
            return Some("the user name has a colon, which would end it: no proxy can be told it".to_owned());
        }
        if !is_socks(proxy) {
            return None;
        }
        let (length, most) = (self.username.len() + self.password.len(), Self::MAX_FOR_SOCKS);
        if length > most {
            return Some(format!(
                "user name and password have {length} bytes, for SOCKS they may have {most} together"
            ));
        }
        self.texts().is_none().then(|| "user name and password must be UTF-8 for SOCKS".to_owned())
    }

    /// The value of `Proxy-Authorization`.
    pub fn header(&self) -> HeaderValue {
        let pair = STANDARD.encode([&self.username[..], b":", &self.password[..]].concat());
        // Base64 is always a good value.
        let mut value = HeaderValue::from_str(&format!("Basic {pair}")).unwrap_or(HeaderValue::from_static("Basic"));
        value.set_sensitive(true);
        value
    }

    fn texts(&self) -> Option<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        Some((text(&self.username)?, text(&self.password)?))
    }
}

/// A proxy with nothing but a url.
impl From<Url> for TargetProxy {
    fn from(url: Url) -> Self {
        Self { url, credentials: None, no_proxy: None, tls: None, fields: ProxyFields::Target }
    }
}

fn is_socks(url: &Url) -> bool {
    url.scheme().starts_with("socks5")
}

impl TargetProxy {
    /// Whether this url is reached through it.
    pub fn serves(&self, url: &Url) -> bool {
        !self.no_proxy.as_ref().is_some_and(|list| list.covers(url))
    }

    /// Its host.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        let default = if is_socks(&self.url) { Some(1080) } else { self.url.port_or_known_default() };
        self.url.port().or(default).unwrap_or_default()
    }

    /// Whether it is spoken to by TLS.
    pub fn is_tls(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Whether it is asked for a tunnel also where a url is of http. Otherwise it gets whole requests, and asks the server itself.
    pub fn tunnels_http(&self) -> bool {
        is_socks(&self.url)
    }

    /// The value of `Proxy-Authorization`, if it wants one.
    pub fn header(&self) -> Option<HeaderValue> {
        self.credentials.as_ref().map(ProxyCredentials::header)
    }

    /// The error for an answer of the proxy that demands credentials.
    pub fn unauthorized(&self) -> CallError {
        self.error(&self.rejection())
    }

    fn rejection(&self) -> CallError {
        let message = match (&self.credentials, self.fields) {
            (_, ProxyFields::TokenEndpoint) => {
                "the proxy wants credentials, and none are sent to the proxy of a token endpoint: name one that wants none"
            }
            (None, ProxyFields::Target) => "the proxy wants credentials: write proxyAuth",
            (Some(_), ProxyFields::Target) => {
                "the proxy does not accept the credentials of proxyAuth: correct the Secret"
            }
        };
        CallError::new(Reason::Auth, message)
    }

    /// An error of the connection to the proxy.
    pub fn error(&self, error: &CallError) -> CallError {
        CallError::new(error.reason, format!("{}: {}", self.fields.url(), error.message))
    }

    /// An error of TLS with the proxy.
    pub fn tls_error(&self, error: &rustls::Error) -> CallError {
        self.error(&self.tls_failure(error))
    }

    fn tls_failure(&self, error: &rustls::Error) -> CallError {
        let message = if self.fields == ProxyFields::TokenEndpoint && tls::concerns_names_or_our_certificate(error) {
            "no TLS with the proxy: its certificate must contain the host in proxyUrl, and it must want none of its clients"
                .to_owned()
        } else {
            tls::describe(error, self.fields.peer())
        };
        CallError::new(Reason::Tls, message)
    }

    /// An error of the connection to the proxy while it is asked for a tunnel.
    fn closed(&self, error: &io::Error) -> CallError {
        let tls = chain(error).find_map(|link| link.downcast_ref::<rustls::Error>());
        let error = tls.map_or_else(|| broken(error), |error| self.tls_failure(error));
        CallError::new(error.reason, error.message.replace("the server ", "the proxy "))
    }

    /// Asks the proxy at the other end of `stream` for a tunnel. The host may be an address, and one of IPv6 needs no brackets. The caller must
    /// bound the time.
    ///
    /// Reasons: `auth`, `connect`, `limit`, `protocol`.
    pub async fn open_tunnel<S>(&self, mut stream: S, host: &str, port: u16) -> Result<S, CallError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if is_socks(&self.url) {
            return self.open_socks_tunnel(stream, host, port).await.map_err(|error| self.error(&error));
        }
        let to = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        match self.connect(&mut stream, &to).await.map_err(|error| self.error(&error))? {
            200..=299 => Ok(stream),
            407 => Err(self.unauthorized()),
            status => {
                let message = format!("the proxy refused the tunnel with {status}");
                Err(self.error(&CallError::new(Reason::Connect, message)))
            }
        }
    }

    /// The status of the answer to CONNECT.
    async fn connect<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S, to: &str) -> Result<u16, CallError> {
        let failed = |error: io::Error| self.closed(&error);
        let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: {USER_AGENT}\r\n").into_bytes();
        if let Some(value) = self.header() {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(value.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        stream.write_all(&request).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        let (mut header, mut read) = (Vec::with_capacity(256), 0);
        loop {
            header.clear();
            while !(header.ends_with(b"\n\r\n") || header.ends_with(b"\n\n")) {
                if read >= MAX_TUNNEL_HEADER {
                    let message =
                        format!("the proxy answers with a header of more than {} KiB", MAX_TUNNEL_HEADER >> 10);
                    return Err(CallError::new(Reason::Limit, message));
                }
                // Byte by byte: what follows belongs to the tunnel. In practice the answer is short.
                header.push(stream.read_u8().await.map_err(failed)?);
                read += 1;
            }
            return match tunnel_status(&header) {
                // Interim responses. After 101, no other would follow.
                Some(100 | 102..=199) => continue,
                Some(status) => Ok(status),
                None => Err(CallError::new(Reason::Protocol, "the proxy did not answer in HTTP")),
            };
        }
    }

    async fn open_socks_tunnel<S>(&self, stream: S, host: &str, port: u16) -> Result<S, CallError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let internal = || CallError::new(Reason::Internal, "the destination cannot be written: please report this");
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let to = http::Uri::builder().scheme("http").authority(authority).path_and_query("/").build();
        let to = to.map_err(|_| internal())?;
        let mut stream = Some(TokioIo::new(stream));
        let connected = service_fn(move |_: http::Uri| {
            std::future::ready(stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
        });
        let mut socks = SocksV5::new(http::Uri::from_static("socks5://proxy"), connected);
        if let Some((username, password)) = self.credentials.as_ref().and_then(ProxyCredentials::texts) {
            socks = socks.with_auth(username, password);
        }
        match socks.call(to).await {
            Ok(stream) => Ok(stream.into_inner()),
            Err(error) => Err(self.socks_error(&error.to_string())),
        }
    }

    /// The error of a SOCKS proxy. It is read from the text of the library's, whose type is private.
    fn socks_error(&self, text: &str) -> CallError {
        let connect = |message: String| CallError::new(Reason::Connect, message);
        match text.strip_prefix("SOCKS error: ").unwrap_or(text) {
            // The library says this as well where no credentials were offered.
            "server does not support user/pass authentication" if self.credentials.is_some() => {
                CallError::new(Reason::Auth, "the proxy takes no user name and password: remove proxyAuth")
            }
            "server does not support user/pass authentication" | "credentials not accepted" => self.rejection(),
            "server implements authentication incorrectly" | "failed parsing server response" => CallError::new(
                Reason::Protocol,
                "the proxy did not answer in SOCKS 5: correct scheme, host and port in proxyUrl",
            ),
            "failed serialize request" => CallError::new(Reason::Config, "the host in url is too long for SOCKS"),
            "io error during SOCKS handshake" => {
                connect("the proxy ended the connection before it had answered".to_owned())
            }
            why => connect(format!("the proxy refused the tunnel: {why}")),
        }
    }
}

/// The status in the answer of a proxy to CONNECT; none if that is no answer in HTTP.
pub(crate) fn tunnel_status(header: &[u8]) -> Option<u16> {
    let line = header.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let (version, rest) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let status = rest.get(..3).filter(|_| version.starts_with("HTTP/1."))?;
    status.parse().ok()
}

impl Connection {
    /// The settings for the proxy's own TLS.
    pub(crate) fn proxy_tls(&self) -> TlsSettings {
        let own = self.proxy.as_ref().and_then(|proxy| proxy.tls.clone());
        own.unwrap_or_else(|| TlsSettings { identity: None, server_name: None, ..self.tls.clone() })
    }

    /// The error of these settings for the proxy.
    pub(crate) fn proxy_error(&self, error: ClientError) -> ClientError {
        let has_own = self.proxy.as_ref().is_some_and(|proxy| proxy.tls.is_some());
        if has_own { ClientError::OfProxy(Box::new(error)) } else { error }
    }

    /// Whether the connection to the proxy uses TLS, so that certificates matter even for a target over http.
    pub(crate) fn has_tls_proxy(&self) -> bool {
        self.proxy.as_ref().is_some_and(TargetProxy::is_tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(url: &str, credentials: Option<(&str, &str)>) -> TargetProxy {
        let credentials =
            credentials.map(|(user, password)| ProxyCredentials::new(user.as_bytes(), password.as_bytes()));
        TargetProxy { credentials, ..TargetProxy::from(Url::parse(url).unwrap()) }
    }

    #[test]
    fn messages_name_the_fields_in_which_the_proxy_is_described() {
        use rustls::{AlertDescription, CertificateError, Error};
        let of_target = proxy("https://proxy.test:3129", None);
        let of_token_endpoint = TargetProxy { fields: ProxyFields::TokenEndpoint, ..of_target.clone() };
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let demand = Error::AlertReceived(AlertDescription::CertificateRequired);
        for (proxy, error, beginning, field) in [
            (&of_target, &unknown, "proxyUrl: ", "to proxyTlsConfig.ca"),
            (&of_target, &demand, "proxyUrl: ", "write proxyTlsConfig.cert and proxyTlsConfig.keySecret"),
            (&of_token_endpoint, &unknown, "oauth2.proxyUrl: ", "to oauth2.tlsConfig.ca"),
            (&of_token_endpoint, &demand, "oauth2.proxyUrl: ", "it must want none of its clients"),
        ] {
            let message = proxy.tls_error(error).message;
            assert!(message.starts_with(beginning) && message.contains(field), "{message}");
        }
        assert!(of_token_endpoint.unauthorized().message.contains("none are sent"));
    }

    /// What the proxy was asked, and what became of the tunnel, when it answers this.
    async fn opened(proxy: &TargetProxy, host: &str, answers: &[&[u8]]) -> (Vec<u8>, Result<Vec<u8>, CallError>) {
        let (client, mut server) = tokio::io::duplex(1 << 20);
        let serving = async {
            let (mut asked, mut piece) = (Vec::new(), [0; 4096]);
            for answer in answers {
                let read = server.read(&mut piece).await.unwrap();
                asked.extend_from_slice(&piece[..read]);
                let _ = server.write_all(answer).await; // it may have been given up
            }
            let _ = server.shutdown().await;
            asked
        };
        let opening = async {
            let mut tunnel = proxy.open_tunnel(client, host, 443).await?;
            let mut rest = Vec::new();
            let _ = tunnel.read_to_end(&mut rest).await;
            Ok(rest)
        };
        tokio::join!(serving, opening)
    }

    #[test]
    fn a_tunnel_is_open_only_if_the_proxy_says_so() {
        for (header, status) in [
            ("HTTP/1.1 200 Connection established\r\n\r\n", Some(200)),
            ("HTTP/1.0 407\r\n\r\n", Some(407)),
            ("HTTP/1.1 200\n\n", Some(200)),
            ("HTTP/1.1 20\r\n\r\n", None),
            ("HTTP/2 200\r\n\r\n", None),
            ("SSH-2.0\r\n\r\n", None),
            ("\r\n\r\n", None),
        ] {
            assert_eq!(tunnel_status(header.as_bytes()), status, "{header}");
        }
    }

    #[tokio::test]
    async fn credentials_are_sent_with_connect_and_what_follows_the_answer_is_the_tunnel_s() {
        let http = proxy("http://proxy:3128", Some(("ann", "s3cret:x")));
        let answer = b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.0 200 OK\r\nvia: x\r\n\r\nhello";
        let (asked, tunnel) = opened(&http, "web.test", &[answer]).await;
        let asked = String::from_utf8(asked).unwrap();
        assert!(asked.starts_with("CONNECT web.test:443 HTTP/1.1\r\nHost: web.test:443\r\n"), "{asked}");
        assert!(asked.contains("\r\nProxy-Authorization: Basic YW5uOnMzY3JldDp4\r\n"), "{asked}");
        assert_eq!(tunnel.unwrap(), b"hello");
        let (asked, _) = opened(&proxy("http://proxy:3128", None), "[2001:db8::1]", &[answer]).await;
        let asked = String::from_utf8(asked).unwrap();
        assert!(asked.starts_with("CONNECT [2001:db8::1]:443 HTTP/1.1\r\n"), "{asked}");
        assert!(!asked.contains("Authorization"), "{asked}");
        assert!(!format!("{http:?}").contains("s3cret"));
    }

    #[tokio::test]
    async fn a_proxy_that_opens_no_tunnel_is_told_apart() {
        let endless = [b"HTTP/1.1 200 OK\r\na: ", &vec![b'a'; 10 << 20][..]].concat();
        let interim = b"HTTP/1.1 102 Processing\r\n\r\n".repeat(4096);
        for (credentials, answer, reason, says) in [
            (None, &b"HTTP/1.1 407 No\r\n\r\n"[..], Reason::Auth, "write proxyAuth"),
            (Some(("a", "b")), b"HTTP/1.1 407 No\r\n\r\n", Reason::Auth, "correct the Secret"),
            (None, b"HTTP/1.1 403 Forbidden\r\n\r\n", Reason::Connect, "refused the tunnel with 403"),
            (None, b"HTTP/1.1 302 Found\r\nlocation: http://evil/\r\n\r\n", Reason::Connect, "with 302"),
            (None, b"", Reason::Connect, "the proxy ended the connection"),
            (None, b"HTTP/1.1 200 OK\r\nvia", Reason::Connect, "the proxy ended the connection"),
            (None, b"SSH-2.0-OpenSSH\r\n\r\n", Reason::Protocol, "did not answer in HTTP"),
            (None, &endless, Reason::Limit, "16 KiB"),
            (None, &interim, Reason::Limit, "16 KiB"),
        ] {
            let (_, tunnel) = opened(&proxy("http://proxy:3128", credentials), "web.test", &[answer]).await;
            let error = tunnel.unwrap_err();
            assert_eq!(error.reason, reason, "{error}");
            assert!(error.message.starts_with("proxyUrl: ") && error.message.contains(says), "{error}");
        }
    }

    #[tokio::test]
    async fn a_socks_proxy_gets_the_name_or_the_address_and_the_credentials() {
        let granted = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00";
        let plain = proxy("socks5://proxy", None);
        assert_eq!(plain.port(), 1080);
        let (asked, tunnel) = opened(&plain, "web.test", &[b"\x05\x00", granted]).await;
        assert_eq!(asked, b"\x05\x01\x00\x05\x01\x00\x03\x08web.test\x01\xbb");
        assert_eq!(tunnel.unwrap(), b"");
        let (asked, _) = opened(&plain, "2001:db8::1", &[b"\x05\x00", granted]).await;
        assert!(asked.ends_with(b"\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x01\xbb"), "{asked:?}");
        let known = proxy("socks5h://proxy:1", Some(("ann", "pw")));
        let (asked, tunnel) = opened(&known, "10.0.0.1", &[b"\x05\x02", b"\x01\x00", granted]).await;
        assert_eq!(asked, b"\x05\x01\x02\x01\x03ann\x02pw\x05\x01\x00\x01\x0a\x00\x00\x01\x01\xbb");
        assert_eq!(tunnel.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_socks_proxy_that_opens_no_tunnel_is_told_apart() {
        let known = Some(("ann", "pw"));
        let flood = vec![5; 10 << 20];
        for (credentials, answers, reason, says) in [
            (None, &[&b"\x05\xff"[..]][..], Reason::Auth, "write proxyAuth"),
            (known, &[b"\x05\xff"], Reason::Auth, "remove proxyAuth"),
            (known, &[b"\x05\x02", b"\x01\x01"], Reason::Auth, "correct the Secret"),
            (None, &[b"\x05\x02"], Reason::Protocol, "did not answer in SOCKS 5"),
            (None, &[b"HTTP/1.1 400 Bad Request\r\n\r\n"], Reason::Protocol, "did not answer in SOCKS 5"),
            (None, &[&flood], Reason::Protocol, "did not answer in SOCKS 5"),
            (None, &[b"\x05"], Reason::Connect, "ended the connection"),
            (None, &[b"\x05\x00", b"\x05\x02\x00\x01\0\0\0\0\0\0"], Reason::Connect, "connection not allowed"),
            (None, &[b"\x05\x00", b"\x05\x05\x00\x01\0\0\0\0\0\0"], Reason::Connect, "connection refused"),
        ] {
            let (_, tunnel) = opened(&proxy("socks5://proxy", credentials), "web.test", answers).await;
            let error = tunnel.unwrap_err();
            assert_eq!(error.reason, reason, "{error}");
            assert!(error.message.starts_with("proxyUrl: ") && error.message.contains(says), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_too_long_for_socks_is_said() {
        let (_, tunnel) = opened(&proxy("socks5://proxy", None), &"a".repeat(253), &[b"\x05\x00"]).await;
        let error = tunnel.unwrap_err();
        assert!(error.reason == Reason::Config && error.message.contains("too long"), "{error}");
        let long = ProxyCredentials::new(&[b'a'; 100], &[b'b'; 100]);
        let problem = |url: &str| long.problem(&Url::parse(url).unwrap());
        assert!(problem("socks5://p").unwrap().contains("200 bytes") && problem("http://p").is_none());
        let url = Url::parse("http://p").unwrap();
        assert!(ProxyCredentials::new(b"a:b", b"").problem(&url).unwrap().contains("colon"));
    }
}
