//! The network side of a poll: makes the calls of a kind, one after the other over one connection, and brings back whole answers.
//!
//! Everything is bounded here: time by the poll's deadline, bytes by [`Limits`], addresses by [`AddressRules`]. It does not know
//! what an answer means, nor when to ask again.

mod address;
mod body;
mod budget;
mod certificate;
mod client;
mod connection;
mod dial;
mod error;
mod host;
mod mask;
mod refusal;
mod resolve;
mod sessions;
mod term;

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

pub use address::{AddressRules, Ground};
use body::Read;
pub use budget::Held;
use budget::{Budget, Share, driven_out};
pub use certificate::Expiry;
use certificate::Handshakes;
pub use certificate::RecordingVerifier;
pub use client::{Client, Clients};
pub use connection::{ClientError, Connection, Identity};
use dial::Unconnected;
pub use host::{AllowedHost, AllowedHostError};
pub use mask::Redactor;
pub use refusal::refusal;
use term::Term;

use crate::kind::{Answer, Call, CallError, Method, Reason, Response};

/// How many bytes of answers may be in memory.
#[derive(Debug)]
pub struct Limits {
    /// Of one body, decompressed.
    pub max_body_bytes: usize,
    inflight: Arc<Budget>,
}

impl Limits {
    /// Limits for one body, and for all bodies in flight together.
    pub fn new(max_body_bytes: usize, max_inflight_bytes: usize) -> Self {
        Self { max_body_bytes, inflight: Budget::new(max_inflight_bytes) }
    }
}

/// One call as it went, for the families `probe_call_*` and the debug page.
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
    /// What the kind gets to see.
    pub answer: Answer,
}

/// Everything that one poll brought.
#[derive(Debug)]
pub struct Fetched {
    /// One for each call, in order.
    pub exchanges: Vec<Exchange>,
    /// When the server's certificates end; https only. Also of those that were refused.
    pub certificate_expiry: Option<Expiry>,
    /// Keeps the bodies' share of the budget until they are translated.
    pub held: Option<Held>,
}

/// Makes `calls` one after the other, each with `headers` besides its own, until `deadline`.
///
/// A call that fails does not keep the next one from being tried; once the deadline has passed, all that are left fail at once. Memory
/// for the answers is shared with the other polls of the client's namespace first.
pub async fn fetch(
    client: &Client,
    calls: &[Call],
    headers: &HeaderMap,
    limits: &Limits,
    deadline: Instant,
) -> Fetched {
    let mut fetched = Fetched { exchanges: Vec::with_capacity(calls.len()), certificate_expiry: None, held: None };
    let mut share = limits.inflight.share(client.namespace());
    let mut read = Read::default();
    let evicted = share.evicted();
    let term = client.term();
    for (i, call) in calls.iter().enumerate() {
        let last = i + 1 == calls.len();
        let start = Instant::now();
        let handshakes = Handshakes::default();
        let mut progress = Progress { handshakes: handshakes.clone(), ..Progress::default() };
        let result = if start >= deadline {
            // Not even tried: a timeout would poll it once, and that opens a connection.
            Err(CallError::new(Reason::Timeout, "not sent, the calls before it took all the time"))
        } else {
            let request = request(client, call, headers, last, term);
            let exchange =
                exchange(client, call, request, term, limits, deadline, &mut progress, &mut read, &mut share);
            let exchange = handshakes.during(exchange);
            let outcome = tokio::select! {
                biased;
                () = evicted.cancelled() => Ok(Err(driven_out())),
                outcome = tokio::time::timeout_at(deadline, exchange) => outcome,
            };
            outcome.unwrap_or_else(|_| Err(progress.cut_off(client)))
        };
        let expiry = progress.certificate_expiry.or_else(|| client.shown_expiry(&call.url, &handshakes));
        fetched.certificate_expiry = expiry.or(fetched.certificate_expiry);
        fetched.exchanges.push(Exchange {
            call: call.name,
            duration: start.elapsed(),
            status: progress.status,
            bytes: progress.bytes,
            answer: Answer(result),
        });
    }
    fetched.held = share.keep(read.kept);
    if fetched.held.is_none() {
        // What came before must go as well: it is what others need the memory for.
        for exchange in &mut fetched.exchanges {
            if exchange.bytes > 0 {
                exchange.answer = Answer(Err(driven_out()));
            }
        }
    }
    fetched
}

/// How far a call has come: what is known of it even if it is cut off.
#[derive(Default)]
struct Progress {
    /// The host's name is being resolved.
    resolving: bool,
    status: Option<u16>,
    bytes: usize,
    waits_for_memory: bool,
    certificate_expiry: Option<Expiry>,
    handshakes: Handshakes,
    unconnected: Unconnected,
}

impl Progress {
    /// What is said of a call that did not end in time.
    fn cut_off(&mut self, client: &Client) -> CallError {
        if self.resolving {
            return client.unresolved();
        }
        if let Some(error) = std::mem::take(&mut self.unconnected).cut_off(client.is_proxied()) {
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
            Some(status) => format!("answered {status}, but its body did not end in time ({} bytes came)", self.bytes),
        };
        CallError::new(Reason::Timeout, message)
    }
}

#[expect(clippy::too_many_arguments, reason = "all that a call needs, and it is called once")]
async fn exchange(
    client: &Client,
    call: &Call,
    request: reqwest::Request,
    term: Option<Term>,
    limits: &Limits,
    deadline: Instant,
    progress: &mut Progress,
    read: &mut Read,
    share: &mut Share,
) -> Result<Response, CallError> {
    progress.resolving = true;
    let addresses = client.addresses().await?;
    progress.resolving = false;
    let response = client.send(request, &addresses, term, deadline, &mut progress.unconnected).await?;
    let status = response.status().as_u16();
    progress.status = Some(status);
    progress.certificate_expiry = client.certificate_expiry(&call.url, &response, &progress.handshakes);
    let body = body::read(response, limits, progress, read, share).await?;
    if call.url.scheme() == "http"
        && let Some(error) = error::speaks_https(status, &body)
    {
        return Err(error);
    }
    Ok(Response { status, body })
}

fn request(client: &Client, call: &Call, headers: &HeaderMap, last: bool, term: Option<Term>) -> reqwest::Request {
    let method = match call.method {
        Method::Get => reqwest::Method::GET,
        Method::Post => reqwest::Method::POST,
    };
    let mut request = reqwest::Request::new(method, call.url.clone());
    let own = request.headers_mut();
    for (name, value) in &call.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            own.insert(HeaderName::from_static(name), value);
        }
    }
    own.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    own.extend(headers.clone());
    if call.method == Method::Post {
        own.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    // An idle connection costs 20 to 45 KiB, a new one over plain TCP next to nothing: only TLS is worth keeping, for as long as it is used.
    if last && term.is_none_or(|term| term.ends) {
        own.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    client.address(&mut request);
    request
}
