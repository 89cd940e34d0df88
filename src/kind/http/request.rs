//! One request: to which address, through which proxy, with which headers. What is secret goes only to the server in the url of the target.

use std::net::SocketAddr;
use std::str::FromStr;

use ::http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST,
    HeaderName, HeaderValue, PRAGMA, PROXY_AUTHORIZATION, REFERER, USER_AGENT,
};
use ::http::uri::{Authority, PathAndQuery, Scheme};
use ::http::{HeaderMap, Method, Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::Full;
use reqwest::Url;
use tokio::time::{Instant, timeout_at};

use super::connection::RequestConnection;
use super::cookies::CookieJar;
use super::{Options, Phase};
use crate::dial::{Dialer, JudgedAddress, TargetProxy, ServerRole};
use crate::failure::{CallError, Reason};
use crate::kind::Probe;
use crate::kind::probe::{BoxedStream, USER_AGENT as OWN_USER_AGENT, authority};

/// Headers that another server is sent as well. All others may be secret.
const HARMLESS: [HeaderName; 7] =
    [ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_TYPE, PRAGMA, USER_AGENT];

/// What the target says about the request.
#[derive(Debug)]
pub(super) struct RequestTemplate {
    url: Url,
    method: Method,
    body: Bytes,
    has_secret_body: bool,
    enable_http2: bool,
    pub(super) follow_redirects: bool,
    skip_resolve_phase_with_proxy: bool,
}

impl RequestTemplate {
    pub(super) fn new(url: &Url, method: Method, options: &Options) -> Self {
        Self {
            url: url.clone(),
            method,
            body: options.body.clone().unwrap_or_default().into(),
            has_secret_body: options.body_secret_ref.is_some(),
            enable_http2: options.enable_http2,
            follow_redirects: options.follow_redirects,
            skip_resolve_phase_with_proxy: options.skip_resolve_phase_with_proxy,
        }
    }

    fn body(&self, probe: &Probe<'_>) -> Bytes {
        match probe.secrets.first() {
            Some(secret) if self.has_secret_body => Bytes::copy_from_slice(secret.unwrap_or_default()),
            _ => self.body.clone(),
        }
    }
}

/// One request of a chain of redirects.
pub(super) struct Hop {
    pub(super) url: Url,
    pub(super) method: Method,
    has_body: bool,
    /// The chain has never left the scheme, host and port in the url of the target.
    pub(super) is_at_home: bool,
    /// All redirects so far were to a path: then a header `Host` of the target still holds.
    keeps_host: bool,
    referer: Option<HeaderValue>,
    number: usize,
}

impl Hop {
    pub(super) fn first(template: &RequestTemplate) -> Self {
        Self {
            url: template.url.clone(),
            method: template.method.clone(),
            has_body: true,
            is_at_home: true,
            keeps_host: true,
            referer: None,
            number: 0,
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The next request, after an answer with this status.
    pub(super) fn next(
        self,
        template: &RequestTemplate,
        status: StatusCode,
        location: &HeaderValue,
    ) -> Result<Self, CallError> {
        let status = status.as_u16();
        let text = String::from_utf8_lossy(location.as_bytes());
        let unusable = |what: &str| {
            CallError::new(Reason::Response, format!("the server answered {status} with a Location that is {what}"))
        };
        let mut url = self.url.join(&text).map_err(|_| unusable("no url"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(unusable("neither http nor https"));
        }
        // Credentials that a server makes up are not sent.
        let _ = (url.set_username(""), url.set_password(None));
        url.set_fragment(None);
        let stays = url.origin() == self.url.origin();
        let keeps_method = matches!(status, 307 | 308);
        let is_at_home = self.is_at_home && url.origin() == template.url.origin();
        let has_body = self.has_body && keeps_method;
        if has_body && template.has_secret_body && !is_at_home {
            let message = format!(
                "the server answered {status} with a redirect to another server, which does not get the body of bodySecretRef: write its url"
            );
            return Err(CallError::new(Reason::Response, message));
        }
        let method = match self.method {
            method if keeps_method => method,
            Method::HEAD => Method::HEAD,
            _ => Method::GET,
        };
        Ok(Self {
            referer: referer(&self.url, &url, stays),
            keeps_host: self.keeps_host && stays && Url::parse(&text).is_err() && !text.starts_with("//"),
            url,
            method,
            has_body,
            is_at_home,
            number: self.number + 1,
        })
    }

    /// Says after which redirect an error happened.
    pub(super) fn explain(&self, error: CallError) -> CallError {
        if self.number == 0 {
            return error;
        }
        let message = format!("after the redirect to {}: {}", super::redirects::shown(&self.url), error.message);
        CallError::new(error.reason, message)
    }

    /// The `Host` that the target wants, instead of the host in its url.
    fn host_override<'p>(&self, probe: &'p Probe<'_>) -> Option<&'p HeaderValue> {
        probe.headers.get(HOST).filter(|_| self.keeps_host)
    }

    fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(80)
    }

    /// `HOST` or `HOST:PORT`: what the server is called.
    fn authority(&self, probe: &Probe<'_>) -> Result<Authority, CallError> {
        match self.host_override(probe) {
            Some(host) => Authority::try_from(host.as_bytes()).map_err(|_| {
                CallError::new(Reason::Config, "the header Host is no host name: write HOST or HOST:PORT")
            }),
            None => self.own_authority(),
        }
    }

    /// The same, of its url and whatever header `Host` the target wants.
    fn own_authority(&self) -> Result<Authority, CallError> {
        Authority::try_from(authority(&self.url)).map_err(|_| CallError::new(Reason::Response, "the url to request has no usable host"))
    }

    /// What a proxy for plain HTTP is asked for: the name, which it looks up again. Where only addresses are allowed it is the one that was
    /// judged, so that the proxy cannot find another one.
    fn destination(&self, address: Option<JudgedAddress>, dialer: &Dialer) -> Result<Authority, CallError> {
        match address.filter(|_| dialer.allows_only_addresses(self.host())) {
            Some(address) => Authority::try_from(SocketAddr::new(address.ip(), self.port()).to_string())
                .map_err(|_| CallError::new(Reason::Internal, "an address cannot be written: please report this")),
            None => self.own_authority(),
        }
    }

    /// The request over `connection`.
    pub(super) fn request(
        &self,
        template: &RequestTemplate,
        connection: &Connected,
        probe: &Probe<'_>,
        jar: &CookieJar,
    ) -> Result<Request<Full<Bytes>>, CallError> {
        let authority = self.authority(probe)?;
        let body = if self.has_body { template.body(probe) } else { Bytes::new() };
        let mut headers = HeaderMap::with_capacity(probe.headers.len() + 6);
        let is_http2 = connection.connection.is_http2();
        if !is_http2 {
            let host = HeaderValue::from_str(authority.as_str());
            headers.insert(HOST, host.unwrap_or_else(|_| HeaderValue::from_static("")));
        }
        headers.insert(USER_AGENT, HeaderValue::from_static(OWN_USER_AGENT));
        for (name, value) in probe.headers {
            let is_sent = self.is_at_home || HARMLESS.contains(name);
            let is_about_body = name.as_str().starts_with("content-") && self.number > 0 && !self.has_body;
            if *name != HOST && is_sent && !is_about_body {
                headers.insert(name, value.clone());
            }
        }
        if let Some(cookies) = jar.header(&self.url) {
            let cookies = match headers.get(COOKIE).and_then(|own| own.to_str().ok()) {
                Some(own) => format!("{own}; {cookies}"),
                None => cookies,
            };
            if let Ok(value) = HeaderValue::from_str(&cookies) {
                headers.insert(COOKIE, value);
            }
        }
        if let Some(value) = connection.destination.as_ref().and_then(|_| probe.proxy?.header()) {
            headers.insert(PROXY_AUTHORIZATION, value);
        }
        if let Some(referer) = &self.referer {
            headers.entry(REFERER).or_insert_with(|| referer.clone());
        }
        if !is_http2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if body.is_empty() && matches!(self.method, Method::POST | Method::PUT | Method::PATCH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let wrong = || CallError::new(Reason::Response, "the url to request has characters that no request may have");
        let path = match self.url.query() {
            None => PathAndQuery::from_str(self.url.path()),
            Some(query) => PathAndQuery::try_from(format!("{}?{query}", self.url.path())),
        };
        let mut uri = ::http::uri::Parts::default();
        uri.path_and_query = Some(path.map_err(|_| wrong())?);
        if is_http2 || connection.destination.is_some() {
            uri.scheme = Some(if self.is_tls() { Scheme::HTTPS } else { Scheme::HTTP });
            uri.authority = Some(connection.destination.clone().unwrap_or(authority));
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| wrong())?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// The page that a redirect comes from. Another server learns only the origin of it, and over plain HTTP nothing of one over HTTPS.
fn referer(from: &Url, to: &Url, stays: bool) -> Option<HeaderValue> {
    if from.scheme() == "https" && to.scheme() == "http" {
        return None;
    }
    let text = if stays { from.as_str().to_owned() } else { format!("{}/", from.origin().ascii_serialization()) };
    HeaderValue::from_str(&text).ok()
}

/// A connection, and how requests over it name their url.
pub(super) struct Connected {
    connection: RequestConnection,
    /// Where the proxy at the other end has to connect: it gets whole urls. None for a server, also at the end of a tunnel.
    destination: Option<Authority>,
}

impl Connected {
    /// Whether the proxy at the other end answers itself.
    pub(super) const fn is_of_proxy(&self) -> bool {
        self.destination.is_some()
    }

    pub(super) async fn send(self, request: Request<Full<Bytes>>) -> Result<super::connection::UnreadAnswer, CallError> {
        self.connection.send(request).await
    }
}

/// The addresses that one probe has found.
#[derive(Default)]
pub(super) struct Route {
    /// The last host, whether it was reached through the proxy, and its address: a redirect on the same host stays at that address.
    last: Option<(String, bool, Option<JudgedAddress>)>,
    proxy: Option<JudgedAddress>,
}

impl Route {
    /// The address of the hop's host; `None` if only the proxy resolves it.
    async fn resolve(
        &mut self,
        template: &RequestTemplate,
        hop: &Hop,
        probe: &mut Probe<'_>,
    ) -> Result<Option<JudgedAddress>, CallError> {
        let host = hop.host();
        let is_proxied = probe.proxy_for(&hop.url).is_some();
        if let Some((.., address)) = self.last.as_ref().filter(|(known, by, _)| known == host && *by == is_proxied) {
            return Ok(*address);
        }
        let address = if is_proxied && template.skip_resolve_phase_with_proxy {
            probe.dialer.judge_unresolved(host, probe.deadline).await?;
            for phase in Phase::AFTER_RESOLVE {
                phase.took(probe.record, std::time::Duration::ZERO);
            }
            None
        } else if hop.number == 0 {
            let (resolved, took) = probe.resolve(host).await;
            Phase::Resolve.took(probe.record, took);
            let address = resolved?;
            for phase in Phase::AFTER_RESOLVE {
                phase.took(probe.record, std::time::Duration::ZERO);
            }
            Some(address)
        } else {
            let start = Instant::now();
            let resolved = probe.dialer.resolve(host, probe.deadline).await;
            Phase::Resolve.took(probe.record, start.elapsed());
            probe.note_resolved(host, &resolved);
            let address = resolved?;
            probe.record.address(address);
            probe.admit(address).await?;
            Some(address)
        };
        self.last = Some((host.to_owned(), is_proxied, address));
        Ok(address)
    }

    /// Opens the connection for a hop.
    pub(super) async fn connect(
        &mut self,
        template: &RequestTemplate,
        hop: &Hop,
        probe: &mut Probe<'_>,
    ) -> Result<Connected, CallError> {
        if hop.number > 0 {
            probe.record.forget_tls(); // it was of a server that is not judged
        }
        let address = self.resolve(template, hop, probe).await?;
        let start = Instant::now();
        let proxy = probe.proxy_for(&hop.url);
        let stream: BoxedStream = match (proxy, address) {
            (Some(proxy), _) => self.through(proxy, hop, address, probe).await?,
            (None, Some(address)) => {
                let stream = probe.dialer.connect(address, hop.port(), probe.deadline).await?;
                probe.record.event(format!("connected to {}", SocketAddr::new(address.ip(), hop.port())));
                Box::new(stream)
            }
            (None, None) => return Err(CallError::new(Reason::Internal, "no address: please report this")),
        };
        Phase::Connect.took(probe.record, start.elapsed());
        if !hop.is_tls() {
            let gets_requests = proxy.is_some_and(|proxy| !proxy.tunnels_http());
            let destination = if gets_requests { Some(hop.destination(address, probe.dialer)?) } else { None };
            let connection = RequestConnection::http1(stream).await?;
            return Ok(Connected { connection, destination });
        }
        let alpn: &[&[u8]] = if template.enable_http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
        let start = Instant::now();
        let (stream, peer) = if hop.is_at_home {
            let wanted = hop.host_override(probe).and_then(|host| Authority::try_from(host.as_bytes()).ok());
            let host = wanted.as_ref().map_or_else(|| hop.host(), Authority::host);
            probe.dialer.handshake(stream, ServerRole::Target, host, alpn, probe.deadline).await
        } else {
            probe.dialer.handshake(stream, ServerRole::Other, hop.host(), alpn, probe.deadline).await
        };
        if let Some(peer) = &peer {
            probe.record.tls(peer, true);
        }
        let stream = stream?;
        Phase::Tls.took(probe.record, start.elapsed());
        let speaks_http2 = peer.and_then(|peer| peer.alpn).is_some_and(|protocol| protocol == b"h2");
        let stream: BoxedStream = Box::new(stream);
        let connection = if speaks_http2 {
            let opening = timeout_at(probe.deadline, RequestConnection::http2(stream));
            opening.await.map_err(|_| CallError::new(Reason::Timeout, "HTTP/2 did not begin in time"))??
        } else {
            RequestConnection::http1(stream).await?
        };
        Ok(Connected { connection, destination: None })
    }

    /// A stream through the proxy: to the proxy itself where it gets whole requests, else a tunnel.
    async fn through(
        &mut self,
        proxy: &TargetProxy,
        hop: &Hop,
        address: Option<JudgedAddress>,
        probe: &mut Probe<'_>,
    ) -> Result<BoxedStream, CallError> {
        let at = match self.proxy {
            Some(at) => at,
            None => probe.resolve_proxy(proxy, address.is_none()).await?,
        };
        self.proxy = Some(at);
        let resolved = address.map(|address| address.ip().to_string());
        let tunnel = (resolved.as_deref().unwrap_or_else(|| hop.host()), hop.port());
        let is_tunnel = hop.is_tls() || proxy.tunnels_http();
        probe.connect_through(proxy, at, is_tunnel.then_some(tunnel)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(url: &str) -> RequestTemplate {
        RequestTemplate::new(&Url::parse(url).unwrap(), Method::GET, &Options::default())
    }

    fn next(hop: Hop, template: &RequestTemplate, location: &str) -> Result<Hop, CallError> {
        hop.next(template, StatusCode::FOUND, &HeaderValue::from_bytes(location.as_bytes()).unwrap())
    }

    #[test]
    fn who_was_away_once_gets_no_secrets_again() {
        let template = template("http://web.test/a");
        let here = next(Hop::first(&template), &template, "/b").unwrap();
        assert!(here.is_at_home && here.keeps_host);
        for away in ["https://web.test/b", "http://web.test:81/b", "http://other.test/b", "//other.test/b"] {
            let away = next(Hop::first(&template), &template, away).unwrap();
            assert!(!away.is_at_home && !away.keeps_host);
            let back = next(away, &template, "http://web.test/a").unwrap();
            assert!(!back.is_at_home && !back.keeps_host);
        }
        let same = next(Hop::first(&template), &template, "http://web.test:80/b").unwrap();
        assert!(same.is_at_home && !same.keeps_host, "a whole url names its host itself");
    }

    #[test]
    fn a_referer_tells_no_secret_to_another_server() {
        let template = template("https://web.test/a?token=1");
        let referer = |location: &str| next(Hop::first(&template), &template, location).unwrap().referer;
        assert_eq!(referer("/b").unwrap(), "https://web.test/a?token=1");
        assert_eq!(referer("https://other.test/").unwrap(), "https://web.test/");
        assert_eq!(referer("http://web.test/"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_location_makes_it_panic(location in "[ -~\u{80}-\u{ff}]{0,80}|https?:/{0,3}[a-z0-9.:@\\[\\]/?#-]{0,40}") {
            let template = template("http://web.test/a");
            if let Ok(value) = HeaderValue::from_bytes(location.as_bytes())
                && let Ok(hop) = Hop::first(&template).next(&template, StatusCode::TEMPORARY_REDIRECT, &value)
            {
                assert!(matches!(hop.url.scheme(), "http" | "https") && hop.url.username().is_empty());
                assert!(hop.url.password().is_none() && hop.url.fragment().is_none());
            }
        }
    }
}
