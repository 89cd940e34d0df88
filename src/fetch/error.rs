//! From an error of the HTTP client to the reason that a user can act on.

use std::error::Error;
use std::fmt::Write;
use std::io;

use super::dial::{Silent, Why};
use crate::kind::{CallError, Reason};
use crate::tls::{Peer, sentence};

/// Why no connection came about, where another address of the host may do better. Nothing if the server was reached and it was found, by its
/// certificate or its answer, that it is not to be spoken with.
pub(super) fn no_connection(error: &(dyn Error + 'static)) -> Option<Why> {
    let links: Vec<&(dyn Error + 'static)> = chain(error).collect();
    if links.iter().any(|link| link.is::<Silent>()) {
        return Some(Why::Silent);
    }
    let of_system = |link: &&(dyn Error + 'static)| {
        link.downcast_ref::<io::Error>().filter(|error| error.raw_os_error().is_some()).map(ToString::to_string)
    };
    links.iter().find_map(of_system).map(Why::Said)
}

/// Whether the server closed the connection in the middle of the TLS handshake.
pub(super) fn ended_in_handshake(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|link| link.is::<io::Error>() && link.to_string() == HANDSHAKE_EOF)
}

/// Whether the server closed the connection instead of answering a request.
///
/// Of an answer that broke off within its header the client says the same: it does not tell how many bytes came.
pub(super) fn is_closed(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    chain(error).any(|link| {
        let hyper = link.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message);
        let closed = [BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof];
        hyper || link.downcast_ref::<io::Error>().is_some_and(|error| closed.contains(&error.kind()))
    })
}

/// Whether a connection ended without a word about why, before the request was sent or while it was.
pub(super) fn is_unexplained(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    chain(error).any(|link| {
        let gone = [BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected];
        link.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
            || link.downcast_ref::<io::Error>().is_some_and(|error| gone.contains(&error.kind()))
    })
}

/// An error before the answer's header was complete; `plain`: of a call over http, not https.
pub(super) fn call_error(error: &(dyn Error + 'static), plain: bool) -> CallError {
    let links: Vec<&(dyn Error + 'static)> = chain(error).collect();
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
    CallError::new(reason, describe(&links, "no answer"))
}

/// An error while the body was read.
pub(super) fn body_error(error: &(dyn Error + 'static)) -> CallError {
    let links: Vec<&(dyn Error + 'static)> = chain(error).collect();
    CallError::new(Reason::Body, describe(&links, "the body broke off"))
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

/// What came does not begin as an answer does. Of servers that speak TLS it is an alert.
fn is_no_http(link: &(dyn Error + 'static)) -> bool {
    link.downcast_ref::<hyper::Error>().is_some_and(|error| error.is_parse() && error.to_string().contains("version"))
}

/// How servers answer, with status 400, to http where they speak https: Go's, nginx, Apache, Tomcat, and our own.
const SPEAKS_HTTPS: [&str; 5] = [
    "HTTP request to an HTTPS server",
    "plain HTTP request was sent to HTTPS port",
    "plain HTTP to an SSL-enabled server port",
    "combination of host and port requires TLS",
    crate::tls::SPEAKS_HTTPS,
];

/// So much of a body is looked at for that.
const BEGINNING: usize = 1024;

/// An answer to http that says that https is spoken there.
pub(super) fn speaks_https(status: u16, body: &[u8]) -> Option<CallError> {
    let beginning = String::from_utf8_lossy(body.get(..BEGINNING).unwrap_or(body));
    let is_said = status == 400 && SPEAKS_HTTPS.iter().any(|said| beginning.contains(said));
    let message = "answered 400: the server speaks https, write https:// instead of http://";
    is_said.then(|| CallError::new(Reason::HttpStatus, message))
}

/// The links of an error's chain, also those that an `io::Error` hides inside.
fn chain<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), next_link)
}

fn next_link<'e>(link: &&'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    let link: &'e (dyn Error + 'static) = *link;
    match link.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => link.source(),
    }
}

/// What the TLS library says of a server that closes the connection in the middle of the handshake.
const HANDSHAKE_EOF: &str = "tls handshake eof";

/// The same for people.
const CLOSED: &str = "the server closes the connection instead of answering by TLS: if it speaks http, write http:// instead of https://";

/// The causes, from the general to the particular, each said once. The client's own first words name the url, which may hold a
/// secret in its path: they are left out.
fn describe(links: &[&(dyn Error + 'static)], otherwise: &str) -> String {
    let mut text = String::new();
    // An `io::Error` around another error says what that says.
    let repeats =
        |link: &(dyn Error + 'static)| link.downcast_ref::<io::Error>().is_some_and(|error| error.get_ref().is_some());
    for link in links.iter().filter(|link| !link.is::<reqwest::Error>() && !repeats(**link)) {
        let words = match link.downcast_ref::<rustls::Error>() {
            Some(error) => sentence(error, Peer::Server),
            None => link.to_string(),
        };
        let words = if words == HANDSHAKE_EOF { CLOSED.to_owned() } else { words };
        if words.is_empty()
            || text.contains(&words)
            || words == "client error (Connect)"
            || words == "client error (SendRequest)"
        {
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
