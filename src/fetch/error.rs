//! Converts errors of the HTTP client to messages that a user can act on.

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::sync::Arc;

use hyper_util::client::legacy;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::attempts::{AttemptTimedOut, ConnectFailure};
use super::proxied::ProxyFailure;
use crate::error_chain::chain;
use crate::failure::{CallError, Reason};
use crate::tls::{self, Peer};

/// Why no connection was made, if another address of the host may work. `None` if the server was reached, and its certificate or answer
/// is the problem.
pub(super) fn no_connection(error: &(dyn Error + 'static)) -> Option<ConnectFailure> {
    let links: Vec<&(dyn Error + 'static)> = chain(error).collect();
    if links.iter().any(|link| link.is::<AttemptTimedOut>()) {
        return Some(ConnectFailure::TimedOut);
    }
    let of_system = |link: &&(dyn Error + 'static)| {
        link.downcast_ref::<io::Error>().filter(|error| error.raw_os_error().is_some()).map(ToString::to_string)
    };
    links.iter().find_map(of_system).map(ConnectFailure::Error)
}

/// Whether there is no connection, or it was never of use.
pub(super) fn is_connect(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|link| link.downcast_ref::<legacy::Error>().is_some_and(legacy::Error::is_connect))
}

/// Whether the server closed the connection in the middle of the TLS handshake.
pub(super) fn ended_in_handshake(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|link| link.is::<io::Error>() && link.to_string() == HANDSHAKE_EOF)
}

/// Whether the server closed the connection instead of answering a request.
///
/// The client reports the same for an answer that ends within its header: it does not say how many bytes came.
pub(super) fn is_closed(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    chain(error).any(|link| {
        let hyper = link.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message);
        let closed = [BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof];
        hyper || link.downcast_ref::<io::Error>().is_some_and(|error| closed.contains(&error.kind()))
    })
}

/// Whether a connection ended for no known reason, before or while the request was sent.
pub(super) fn is_unexplained(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    chain(error).any(|link| {
        let gone = [BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected];
        link.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
            || link.downcast_ref::<io::Error>().is_some_and(|error| gone.contains(&error.kind()))
    })
}

/// An error before the answer's header was complete; `plain`: of a call over http, not https.
pub(super) fn call_error(error: &(dyn Error + 'static), plain: bool, peer: Peer) -> CallError {
    let links: Vec<&(dyn Error + 'static)> = chain(error).collect();
    if let Some(ProxyFailure(error)) = links.iter().find_map(|link| link.downcast_ref()) {
        return error.clone();
    }
    let reason = links.iter().find_map(|link| reason_of(*link)).unwrap_or(Reason::Connect);
    if plain && links.iter().any(|link| is_no_http(*link)) {
        return CallError::new(
            reason,
            "what answers is no HTTP/1.1: if the server speaks https, write https:// instead of http://",
        );
    }
    if plain && is_closed(error) {
        return CallError::new(
            reason,
            "the server closes the connection without an answer: if it speaks https, write https:// instead of http://",
        );
    }
    CallError::new(reason, describe(&links, "no answer", peer))
}

/// An error while the body was read.
pub(super) fn body_error(error: &(dyn Error + 'static), peer: Peer) -> CallError {
    let links: Vec<&(dyn Error + 'static)> = chain(error).collect();
    CallError::new(Reason::Body, describe(&links, "the body is incomplete", peer))
}

fn reason_of(link: &(dyn Error + 'static)) -> Option<Reason> {
    if link.is::<rustls::Error>() || link.is::<rustls_pki_types::InvalidDnsNameError>() {
        return Some(Reason::Tls);
    }
    let hyper = link.downcast_ref::<hyper::Error>()?;
    // What answers is no HTTP/1.1 server, or its header is too large to be one.
    if hyper.is_parse_too_large() {
        Some(Reason::Limit)
    } else if hyper.is_parse() {
        Some(Reason::Parse)
    } else {
        None
    }
}

/// The response is not HTTP. Servers that speak TLS respond with an alert.
fn is_no_http(link: &(dyn Error + 'static)) -> bool {
    link.downcast_ref::<hyper::Error>().is_some_and(|error| error.is_parse() && error.to_string().contains("version"))
}

/// The responses of TLS ports to plain http, with status 400: those of Go, nginx, Apache, Tomcat, and our own.
const SPEAKS_HTTPS: [&str; 5] = [
    "HTTP request to an HTTPS server",
    "plain HTTP request was sent to HTTPS port",
    "plain HTTP to an SSL-enabled server port",
    "combination of host and port requires TLS",
    tls::SPEAKS_HTTPS,
];

/// How much of a body is searched for that, in bytes.
const SEARCHED_BYTES: usize = 1024;

/// The error for a response that says that the port speaks https.
pub(super) fn speaks_https(status: u16, body: &[u8]) -> Option<CallError> {
    let beginning = String::from_utf8_lossy(body.get(..SEARCHED_BYTES).unwrap_or(body));
    let is_said = status == 400 && SPEAKS_HTTPS.iter().any(|said| beginning.contains(said));
    let message = "answered 400: the server speaks https, write https:// instead of http://";
    is_said.then(|| CallError::new(Reason::HttpStatus, message))
}

/// Why a server ends a connection right after the handshake. In TLS 1.3 it verifies our certificate when the handshake is over for us, and
/// an HTTP client that has not sent its request by then reports only that the connection is gone. So this makes a handshake on a new
/// connection, sends nothing, and waits for the alert.
///
/// The caller must bound the time: a server that has no objection waits for a request.
pub async fn handshake_alert<S>(
    stream: S,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Option<rustls::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => alert_on(stream).await,
        Err(error) => error.into_inner()?.downcast().ok().map(|error| *error),
    }
}

/// The same on a connection whose handshake is over.
pub(super) async fn alert_on(mut stream: impl AsyncRead + Unpin) -> Option<rustls::Error> {
    let ended = stream.read(&mut [0]).await.err()?;
    ended.into_inner()?.downcast().ok().map(|error| *error)
}

/// The message of the TLS library for a server that closes the connection during the handshake.
const HANDSHAKE_EOF: &str = "tls handshake eof";

/// The message for users.
const CLOSED: &str = "the server closes the connection instead of answering by TLS: if it speaks http, write http:// instead of https://";

/// Messages of the HTTP library that only say that there is a cause.
const SAY_NOTHING: [&str; 6] = [
    "client error (Connect)",
    "client error (SendRequest)",
    "client error (Canceled)",
    "connection error",
    "operation was canceled",
    "connection was not ready",
];

/// The causes of an error, from the general to the particular, each once. The message of the HTTP client itself is left out: it contains
/// the url, which may hold a secret in its path.
fn describe(links: &[&(dyn Error + 'static)], otherwise: &str, peer: Peer) -> String {
    let mut text = String::new();
    // An `io::Error` that wraps another error has the same message.
    let repeats =
        |link: &(dyn Error + 'static)| link.downcast_ref::<io::Error>().is_some_and(|error| error.get_ref().is_some());
    for link in links.iter().filter(|link| !link.is::<reqwest::Error>() && !repeats(**link)) {
        let words = match link.downcast_ref::<rustls::Error>() {
            Some(error) => tls::describe(error, peer),
            None => link.to_string(),
        };
        let words = if words == HANDSHAKE_EOF { CLOSED.to_owned() } else { words };
        if words.is_empty() || text.contains(&words) || SAY_NOTHING.contains(&words.as_str()) {
            continue;
        }
        if words.contains(&text) {
            text.clear();
        }
        let separator = if text.is_empty() { "" } else { ": " };
        let _ = write!(text, "{separator}{words}");
    }
    if text.is_empty() { otherwise.to_owned() } else { text }
}
