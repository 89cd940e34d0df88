//! The network side of a poll: makes the calls of a kind, one after the other over one connection, and returns complete answers.
//!
//! It enforces all limits: time by the poll's deadline, bytes by [`Limits`], addresses by [`AddressRules`](crate::dial::AddressRules). It knows neither what an answer
//! means nor when to poll again.

mod attempts;
mod body;
mod certificate;
mod client;
mod error;
mod mask;
mod plain;
mod proxied;
mod renewal;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{PathAndQuery, Uri};
use http_body_util::Full;
use reqwest::Url;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use url::Position;

use attempts::ConnectFailures;
use body::ReadBytes;
use certificate::Handshakes;
pub use client::{Client, Clients};
pub use error::handshake_alert;
pub use mask::Redactor;
use plain::PlainConnection;
use renewal::RenewalPeriod;

use crate::budget::{Budget, HeldMemory, MemoryShare, eviction_error};
use crate::failure::{CallError, Reason};
use crate::kind::{Answer, Call, Method, Response};
use crate::oauth2::TokenRequest;
use crate::tls::Expiry;

/// How many bytes of answers may be in memory.
#[derive(Debug)]
pub struct Limits {
    /// Of one body, decompressed.
    pub max_body_bytes: usize,
    /// The flag that says so, if one does.
    setting: Option<&'static str>,
    inflight: Arc<Budget>,
}

impl Limits {
    /// Limits for one body, and for all bodies in flight together.
    pub fn new(max_body_bytes: usize, max_inflight_bytes: usize) -> Self {
        let setting = Some("--max-body-bytes");
        Self { max_body_bytes, setting, inflight: Budget::new(max_inflight_bytes) }
    }

    /// The limits for answers that hold a token: they share the memory of all others.
    fn of_tokens(&self) -> Self {
        Self { max_body_bytes: MAX_TOKEN_BODY, setting: None, inflight: Arc::clone(&self.inflight) }
    }

    /// The share of one poll of a target in `namespace`: nothing at first.
    pub fn share(&self, namespace: &Arc<str>) -> MemoryShare {
        self.inflight.share(namespace)
    }
}

/// The largest answer of a token endpoint.
const MAX_TOKEN_BODY: usize = 64 << 10;

/// What a server is to know its client by, in headers of every call.
pub trait Credentials: Send {
    /// The headers, beside those of a call itself.
    fn headers(&self) -> &HeaderMap;

    /// The server has answered 401 to these headers. Whether there are others now, with which the call should be made once more; the error
    /// is why there are none, where that says more than the answer.
    fn renew(&mut self, deadline: Instant) -> impl Future<Output = Result<bool, CallError>> + Send;
}

/// Headers that never change.
impl Credentials for &HeaderMap {
    fn headers(&self) -> &HeaderMap {
        self
    }

    async fn renew(&mut self, _: Instant) -> Result<bool, CallError> {
        Ok(false)
    }
}

impl<C: Credentials> Credentials for &mut C {
    fn headers(&self) -> &HeaderMap {
        C::headers(self)
    }

    fn renew(&mut self, deadline: Instant) -> impl Future<Output = Result<bool, CallError>> + Send {
        C::renew(self, deadline)
    }
}

/// The outcome of one call, for the families `probe_call_*` and the debug page.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The call's name.
    pub call: &'static str,
    /// From the start of the call to the end of its body.
    pub duration: Duration,
    /// The status, where there was an answer, even if its body was not good.
    pub status: Option<u16>,
    /// Decompressed bytes of the body that arrived.
    pub bytes: usize,
    /// What the kind translates.
    pub answer: Answer,
}

/// The outcome of the calls of one poll.
#[derive(Debug)]
pub struct Fetched {
    /// One for each call, in order.
    pub exchanges: Vec<Exchange>,
    /// When the server's certificates expire; https only. Also of those that were refused.
    pub certificate_expiry: Option<Expiry>,
    /// Keeps the bodies' share of the budget until they are translated.
    pub memory: Option<HeldMemory>,
}

/// Makes `calls` one after the other, each with the headers of `credentials` besides its own, until `deadline`. A call that is answered by
/// 401 is made once more if the credentials can be renewed.
///
/// A call that fails does not keep the next one from being tried; once the deadline has passed, all that are left fail at once. Memory
/// for the answers is shared with the other polls of the client's namespace first.
pub async fn fetch(
    client: &Client,
    calls: &[Call],
    mut credentials: impl Credentials,
    limits: &Limits,
    deadline: Instant,
) -> Fetched {
    let mut fetched = Fetched { exchanges: Vec::with_capacity(calls.len()), certificate_expiry: None, memory: None };
    let mut context = CallContext::new(client, limits, deadline);
    for (i, call) in calls.iter().enumerate() {
        let last = i + 1 == calls.len();
        let start = Instant::now();
        let mut progress = Progress::default();
        let mut is_renewed = false;
        let result = loop {
            if Instant::now() >= deadline {
                // Not even tried: a timeout would poll it once, and that opens a connection.
                break Err(CallError::new(Reason::Timeout, "not sent, the previous calls used up the time"));
            }
            let request = Request::new(call, credentials.headers(), last, context.period, deadline);
            progress = Progress::default();
            let result = context.call(request, &mut progress).await;
            if is_renewed || progress.status != Some(UNAUTHORIZED) {
                break result;
            }
            match credentials.renew(deadline).await {
                Ok(true) => is_renewed = true,
                Ok(false) => break result,
                Err(error) => break Err(error),
            }
        };
        let expiry = progress.certificate_expiry.or_else(|| client.shown_expiry(&call.url, &progress.handshakes));
        fetched.certificate_expiry = expiry.or(fetched.certificate_expiry);
        fetched.exchanges.push(progress.exchange(call.name, start, result));
    }
    fetched.memory = context.share.keep(context.read.kept);
    if fetched.memory.is_none() {
        // The poll was evicted: its complete answers are dropped as well.
        for exchange in &mut fetched.exchanges {
            if exchange.bytes > 0 {
                exchange.answer = Answer(Err(eviction_error()));
            }
        }
    }
    fetched
}

/// Sends a form to a token endpoint, on a connection of its own, and returns its answer whatever the status.
pub async fn token(client: &Client, url: &Url, request: TokenRequest, limits: &Limits, deadline: Instant) -> Exchange {
    let limits = limits.of_tokens();
    let start = Instant::now();
    let mut progress = Progress::default();
    let mut context = CallContext::new(client, &limits, deadline);
    let result = context.call(Request::of_form(url, request), &mut progress).await;
    progress.exchange(TOKEN_CALL, start, result)
}

/// What the request for a token is called among the calls of a poll. No kind has a call of this name.
pub const TOKEN_CALL: &str = "token";

/// 401.
const UNAUTHORIZED: u16 = 401;

/// What the calls of one poll have in common, and what each leaves for the next one.
struct CallContext<'p> {
    client: &'p Client,
    limits: &'p Limits,
    deadline: Instant,
    period: Option<RenewalPeriod>,
    /// The connection of the last call, over plain TCP.
    connection: Option<PlainConnection>,
    read: ReadBytes,
    share: MemoryShare,
}

impl<'p> CallContext<'p> {
    /// For the calls of a poll that begins now.
    fn new(client: &'p Client, limits: &'p Limits, deadline: Instant) -> Self {
        Self {
            client,
            limits,
            deadline,
            period: client.begin_poll(),
            connection: None,
            read: ReadBytes::default(),
            share: limits.share(client.namespace()),
        }
    }

    /// Makes one call. It ends at the deadline, or when the poll's memory is needed for others.
    async fn call(&mut self, request: Request<'_>, progress: &mut Progress) -> Result<Response, CallError> {
        let (client, deadline) = (self.client, self.deadline);
        let (evicted, handshakes) = (self.share.evicted(), progress.handshakes.clone());
        let outcome = {
            let exchange = self.exchange(request, progress);
            tokio::select! {
                biased;
                () = evicted.cancelled() => Ok(Err(eviction_error())),
                outcome = tokio::time::timeout_at(deadline, handshakes.during(exchange)) => outcome,
            }
        };
        outcome.unwrap_or_else(|_| Err(progress.on_deadline(client)))
    }

    async fn exchange(&mut self, request: Request<'_>, progress: &mut Progress) -> Result<Response, CallError> {
        let Self { client, limits, deadline, period, connection, read, share } = self;
        progress.resolving = true;
        let addresses = client.addresses().await?;
        progress.resolving = false;
        let url = request.url;
        let failures = &mut progress.connect_failures;
        let mut response = client.send(request, connection, &addresses, *period, *deadline, failures).await?;
        let status = response.status().as_u16();
        progress.status = Some(status);
        if status == 407
            && let Some(error) = client.proxy_rejection(url)
        {
            return Err(error);
        }
        progress.certificate_expiry = client.certificate_expiry(url, &response, &progress.handshakes);
        let content_type = content_type(response.headers());
        let body = body::read(&mut response, limits, progress, read, share).await?;
        *connection = response.into_connection();
        if url.scheme() == "http"
            && let Some(error) = error::speaks_https(status, &body)
        {
            return Err(error);
        }
        Ok(Response { status, content_type, body })
    }
}

/// What is known of a call even if it does not end in time.
#[derive(Default)]
struct Progress {
    /// The host's name is being resolved.
    resolving: bool,
    status: Option<u16>,
    bytes: usize,
    waits_for_memory: bool,
    certificate_expiry: Option<Expiry>,
    handshakes: Handshakes,
    connect_failures: ConnectFailures,
}

impl Progress {
    /// What came of the call `name`, which began at `start`.
    fn exchange(&self, name: &'static str, start: Instant, result: Result<Response, CallError>) -> Exchange {
        Exchange {
            call: name,
            duration: start.elapsed(),
            status: self.status,
            bytes: self.bytes,
            answer: Answer(result),
        }
    }

    /// The error of a call that did not end in time.
    fn on_deadline(&mut self, client: &Client) -> CallError {
        if self.resolving {
            return client.unresolved();
        }
        if let Some(error) = std::mem::take(&mut self.connect_failures).on_deadline(client.is_proxied()) {
            return error;
        }
        if self.waits_for_memory {
            return CallError::new(
                Reason::Limit,
                "no memory for the body: --max-inflight-bytes is used up by other targets",
            );
        }
        let message = match self.status {
            None => "no answer in time".to_owned(),
            Some(status) => {
                format!("answered {status}, but its body did not end in time ({} bytes received)", self.bytes)
            }
        };
        CallError::new(Reason::Timeout, message)
    }
}

/// The header `Content-Type`.
fn content_type(headers: &HeaderMap) -> Option<Box<str>> {
    const LONGEST: usize = 256;
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    (text.len() <= LONGEST).then(|| text.into())
}

/// The `User-Agent` of all requests.
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// The request of a call.
struct Request<'c> {
    method: http::Method,
    url: &'c Url,
    headers: HeaderMap,
    body: Bytes,
}

impl<'c> Request<'c> {
    fn new(call: &'c Call, headers: &HeaderMap, last: bool, period: Option<RenewalPeriod>, deadline: Instant) -> Self {
        let method = match call.method {
            Method::Get => http::Method::GET,
            Method::Post => http::Method::POST,
        };
        let mut own = HeaderMap::with_capacity(16);
        for (name, value) in &call.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                own.insert(HeaderName::from_static(name), value);
            }
        }
        if let Some(name) = call.timeout_header {
            let left = deadline.saturating_duration_since(Instant::now()).as_secs_f64();
            if let Ok(seconds) = HeaderValue::from_str(&format!("{left:.3}")) {
                own.insert(HeaderName::from_static(name), seconds);
            }
        }
        own.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        own.extend(headers.clone());
        if call.method == Method::Post {
            own.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        // An idle connection costs 20 to 45 KiB, a new one over plain TCP next to nothing: only TLS is worth keeping, for as long as it is
        // used.
        if last && period.is_none_or(|period| period.is_last_poll) {
            own.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Self { method, url: &call.url, headers: own, body: Bytes::new() }
    }

    /// The request for a token.
    fn of_form(url: &'c Url, request: TokenRequest) -> Self {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.extend(request.authorization.map(|value| (header::AUTHORIZATION, value)));
        Self { method: http::Method::POST, url, headers, body: request.form }
    }

    /// For the HTTP client, which takes from the url where to connect to.
    fn in_absolute_form(self) -> reqwest::Request {
        let mut request = reqwest::Request::new(self.method, self.url.clone());
        *request.headers_mut() = self.headers;
        if !self.body.is_empty() {
            *request.body_mut() = Some(self.body.into());
        }
        request
    }

    /// For the server itself: the first line contains the path alone, and a header the server's name.
    fn in_origin_form(self) -> Result<http::Request<Full<Bytes>>, CallError> {
        let Self { method, url, mut headers, body } = self;
        let unfit = |error: &dyn std::fmt::Display| CallError::new(Reason::Connect, error.to_string());
        let path = PathAndQuery::try_from(&url[Position::BeforePath..Position::AfterQuery]);
        let host = HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort]);
        headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT));
        headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        headers.insert(header::HOST, host.map_err(|error| unfit(&error))?);
        let mut request = http::Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from(path.map_err(|error| unfit(&error))?);
        *request.headers_mut() = headers;
        Ok(request)
    }
}
