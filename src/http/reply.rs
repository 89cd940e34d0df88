//! Answers that are made for one request: text for people, documents for programs.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::task::AbortHandle;

use crate::metric::{Encoding, Format, gzip, negotiate_encoding, negotiate_format};

use super::peer::Peer;
use super::turns::{Full, Turn, Turns};

/// Said wherever an answer needs the targets before they are known.
pub(super) fn unknown_yet(why: &str) -> String {
    format!("the targets are not known yet: {why}")
}

/// Nothing that a stranger's server wrote is ever taken for a page.
pub(super) const NO_SNIFFING: (HeaderName, HeaderValue) =
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
const NO_STORE: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
const TEXT: (HeaderName, HeaderValue) = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));

/// Plain text.
pub(super) fn text(status: StatusCode, text: impl Into<Body>) -> Response {
    (status, [TEXT, NO_SNIFFING, NO_STORE], text.into()).into_response()
}

/// A refusal: its status, and a sentence that says what to write instead.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) StatusCode, pub(super) String);

impl Refusal {
    /// The request itself is wrong.
    pub(super) fn bad_request(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    /// The targets are not known yet.
    pub(super) fn unknown_yet(why: &str) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, unknown_yet(why))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        text(self.0, self.1 + "\n")
    }
}

thread_local! {
    /// The last `Accept` and what it asks for: a Prometheus sends the same one with every scrape.
    static LAST_ACCEPT: RefCell<(Box<str>, Format)> = RefCell::new((Box::default(), Format::Text));
}

/// The format that the request asks for.
pub(super) fn format(request: &HeaderMap) -> Format {
    let Some(accept) = header_text(request, &header::ACCEPT) else { return Format::Text };
    LAST_ACCEPT.with_borrow_mut(|(last, format)| {
        if **last != *accept {
            (*last, *format) = (Box::from(accept), negotiate_format(accept));
        }
        *format
    })
}

/// The encoding that the request asks for.
pub(super) fn encoding(request: &HeaderMap) -> Encoding {
    match header_text(request, &header::ACCEPT_ENCODING) {
        None => Encoding::Identity,
        Some("gzip") => Encoding::Gzip,
        Some(accept_encoding) => negotiate_encoding(accept_encoding),
    }
}

/// The text of a header; `None` where it is absent or no text.
pub(super) fn header_text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// A document made for this request, compressed where `request` asks for it.
pub(super) fn document(
    request: &HeaderMap,
    audience: &Audience,
    content_type: &'static str,
    body: Vec<u8>,
) -> Response {
    const VARY: HeaderValue = HeaderValue::from_static("Accept-Encoding");
    let encoding = if audience.is_there() { encoding(request) } else { Encoding::Identity };
    let body = if encoding == Encoding::Gzip { gzip(&body) } else { body };
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let mut response = ([content_type, NO_SNIFFING, NO_STORE, (header::VARY, VARY)], body).into_response();
    if encoding == Encoding::Gzip {
        response.headers_mut().insert(header::CONTENT_ENCODING, GZIP);
    }
    response
}

/// The value of `Content-Encoding`.
pub(super) const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// Who asks; in the extensions of every request that came over a socket.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) peer: Peer,
    pub(super) documents: Arc<Turns>,
    pub(super) streams: Arc<Turns>,
}

/// In the extensions of an answer that holds a turn until it is sent.
#[derive(Clone, Debug)]
pub(super) enum HoldsTurn {
    /// It is in memory as a whole.
    Document,
    /// It is made piece by piece as the client reads, and is whole when this turn has ended.
    Stream(Weak<Turn>),
}

/// Bytes that hold a turn as long as they exist.
struct Held {
    bytes: Bytes,
    _turn: Turn,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Whether the one who asked is still there: what nobody waits for any more is not made to its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Audience {
    gone: Arc<AtomicBool>,
}

impl Audience {
    pub(super) fn is_there(&self) -> bool {
        !self.gone.load(Ordering::Relaxed)
    }
}

/// Ends a job that has not begun, and tells one that has, when the request is dropped.
struct EndsWithRequest {
    audience: Audience,
    job: AbortHandle,
}

impl Drop for EndsWithRequest {
    fn drop(&mut self) {
        self.audience.gone.store(true, Ordering::Relaxed);
        self.job.abort();
    }
}

/// Makes a document with `make`, which may take milliseconds and megabytes with thousands of targets, where it delays no poll.
///
/// Few are made at once, and each counts until it is sent: whoever asks for many, or reads none, must not fill memory with them. Once the
/// client has gone, what `make` still does is for nobody.
pub(super) async fn aside(
    client: Option<Client>,
    make: impl FnOnce(&Audience) -> Response + Send + 'static,
) -> Response {
    let turn = match client {
        None => None,
        Some(client) => match client.documents.take(client.peer).await {
            Ok(turn) => Some(turn),
            Err(Full) => return busy(),
        },
    };
    let audience = Audience::default();
    let job = tokio::task::spawn_blocking({
        let audience = audience.clone();
        move || (make(&audience), turn)
    });
    let _ends = EndsWithRequest { audience, job: job.abort_handle() };
    let Ok((response, turn)) = job.await else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made: please report this\n");
    };
    match turn {
        Some(turn) => holding(response, turn).await,
        None => response,
    }
}

/// The answer whose bytes hold `turn`.
async fn holding(response: Response, turn: Turn) -> Response {
    let (mut parts, body) = response.into_parts();
    // It is in memory already, in one piece.
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else { return busy() };
    parts.extensions.insert(HoldsTurn::Document);
    Response::from_parts(parts, Body::from(Bytes::from_owner(Held { bytes, _turn: turn })))
}

pub(super) fn busy() -> Response {
    come_again(StatusCode::SERVICE_UNAVAILABLE, "too many answers are being made, come again\n")
}

/// What is told where there is too much to do: it may be otherwise in a moment.
pub(super) fn come_again(status: StatusCode, why: &'static str) -> Response {
    const SOON: HeaderValue = HeaderValue::from_static("1");
    ([(header::RETRY_AFTER, SOON)], text(status, why)).into_response()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// One that may have one document at a time.
    fn client() -> Client {
        let turns = || Turns::new(1, 8, 8);
        Client { peer: Peer::from(IpAddr::from(Ipv4Addr::LOCALHOST)), documents: turns(), streams: turns() }
    }

    #[tokio::test]
    async fn what_is_made_for_a_client_that_goes_away_is_not_made_to_its_end_and_gives_its_turn_back() {
        let client = client();
        let (began, begins) = mpsc::channel();
        let (ended, ends) = mpsc::channel();
        let request = tokio::spawn(aside(Some(client.clone()), move |audience| {
            began.send(()).unwrap();
            let start = Instant::now();
            while audience.is_there() && start.elapsed() < LONG {
                std::thread::sleep(Duration::from_millis(1));
            }
            ended.send(start.elapsed() < LONG).unwrap();
            text(StatusCode::OK, "")
        }));
        while begins.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        assert!(ends.recv_timeout(LONG).unwrap(), "it went on");
        let next = tokio::time::timeout(LONG, client.documents.take(client.peer));
        assert!(next.await.expect("the turn is given back").is_ok());
    }

    #[test]
    fn what_has_not_begun_when_its_client_goes_away_never_begins() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (free, freed) = mpsc::channel::<()>();
        let (made, makes) = mpsc::channel();
        runtime.block_on(async {
            let busy = tokio::task::spawn_blocking(move || freed.recv_timeout(LONG).unwrap());
            let mut request = Box::pin(aside(Some(client()), move |_| {
                made.send(()).unwrap();
                text(StatusCode::OK, "")
            }));
            assert!(futures::poll!(&mut request).is_pending(), "there is a thread for it");
            drop(request);
            free.send(()).unwrap();
            busy.await.unwrap();
            tokio::task::spawn_blocking(|| {}).await.unwrap(); // whatever waited before it has had its turn
        });
        assert!(makes.try_recv().is_err(), "it was made for nobody");
    }
}
