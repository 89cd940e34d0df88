//! Builds responses: content negotiation, error texts, and documents that are rendered within limits.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::fair_semaphore::{ClientNetwork, FairPermit, FairSemaphore, QueueFull};
use crate::metric::{Encoding, Format, gzip, negotiate_encoding, negotiate_format};

/// Prevents browsers from rendering the data of a target's server as a page.
pub(super) const NO_SNIFFING: (HeaderName, HeaderValue) =
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
const NO_STORE: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
const TEXT: (HeaderName, HeaderValue) = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));

/// The value of `Content-Encoding`.
const GZIP: HeaderValue = HeaderValue::from_static("gzip");

/// Plain text.
pub(super) fn text(status: StatusCode, text: impl Into<Body>) -> Response {
    (status, [TEXT, NO_SNIFFING, NO_STORE], text.into()).into_response()
}

/// An overload status with `Retry-After`: the same request may succeed in a moment.
pub(super) fn retry_later(status: StatusCode, why: &'static str) -> Response {
    const SECONDS: HeaderValue = HeaderValue::from_static("1");
    ([(header::RETRY_AFTER, SECONDS)], text(status, why)).into_response()
}

pub(super) fn too_many_responses() -> Response {
    retry_later(StatusCode::SERVICE_UNAVAILABLE, "too many responses are being created, try again later\n")
}

/// The text of a response that needs the targets before they are known.
pub(super) fn targets_unknown(why: &str) -> String {
    format!("the targets are not known yet: {why}")
}

/// An error status with a message that says what to write instead.
#[derive(Debug)]
pub(super) struct ErrorResponse(pub(super) StatusCode, pub(super) String);

impl ErrorResponse {
    pub(super) fn bad_request(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    pub(super) fn targets_unknown(why: &str) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, targets_unknown(why))
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        text(self.0, self.1 + "\n")
    }
}

/// Whether it is a control character or changes the direction of text: a name from outside could use it to look like another.
pub(super) fn is_invisible(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The format that the request asks for.
pub(super) fn format(request: &HeaderMap) -> Format {
    thread_local! {
        /// The last `Accept` header and its format: Prometheus sends the same one with every scrape.
        static LAST_ACCEPT: RefCell<(Box<str>, Format)> = RefCell::new((Box::default(), Format::Text));
    }
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

fn header_text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// A body with the headers of an exposition.
pub(super) fn exposition(body: impl Into<Body>, format: Format, encoding: Encoding) -> Response {
    const TEXT_TYPE: HeaderValue = HeaderValue::from_static(Format::Text.content_type());
    const OPENMETRICS_TYPE: HeaderValue = HeaderValue::from_static(Format::OpenMetrics.content_type());
    const VARY: HeaderValue = HeaderValue::from_static("Accept, Accept-Encoding");
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, if format == Format::Text { TEXT_TYPE } else { OPENMETRICS_TYPE });
    headers.insert(header::VARY, VARY);
    if encoding == Encoding::Gzip {
        headers.insert(header::CONTENT_ENCODING, GZIP);
    }
    response
}

/// The client of a request; in the extensions of every request that came over a socket.
#[derive(Clone, Debug)]
pub(super) struct RequestClient {
    pub(super) network: ClientNetwork,
    pub(super) documents: Arc<FairSemaphore>,
    pub(super) streams: Arc<FairSemaphore>,
}

/// In the extensions of a response that holds a permit until it is sent.
#[derive(Clone, Debug)]
pub(super) enum ResponsePermit {
    /// The response is in memory as a whole.
    Document,
    /// The response is made piece by piece as the client reads, and is complete when this permit has been dropped.
    Stream(Weak<FairPermit>),
}

/// A request for a document, as far as its rendering needs it.
pub(super) struct DocumentRequest {
    pub(super) headers: HeaderMap,
    /// Cancelled when the client has gone, so that the document is no longer needed.
    pub(super) cancelled: CancellationToken,
}

impl DocumentRequest {
    /// A document, compressed where the request asks for it.
    pub(super) fn respond(&self, content_type: &'static str, body: Vec<u8>) -> Response {
        const VARY: HeaderValue = HeaderValue::from_static("Accept-Encoding");
        let encoding = if self.cancelled.is_cancelled() { Encoding::Identity } else { encoding(&self.headers) };
        let body = if encoding == Encoding::Gzip { gzip(&body) } else { body };
        let content_type = (header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        let mut response = ([content_type, NO_SNIFFING, NO_STORE, (header::VARY, VARY)], body).into_response();
        if encoding == Encoding::Gzip {
            response.headers_mut().insert(header::CONTENT_ENCODING, GZIP);
        }
        response
    }

    pub(super) fn respond_json(&self, value: &impl Serialize) -> Response {
        match serde_json::to_vec(value) {
            Ok(body) => self.respond("application/json", body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

/// Responds with the document that `render` makes of the request; see [`render_in_background`].
pub(super) async fn render_document(
    request: Request,
    render: impl FnOnce(&DocumentRequest) -> Response + Send + 'static,
) -> Response {
    let (mut parts, _) = request.into_parts();
    let (client, headers) = (parts.extensions.remove(), parts.headers);
    render_in_background(client, move |cancelled| render(&DocumentRequest { headers, cancelled })).await
}

/// Runs `render`, which may take milliseconds and megabytes with thousands of targets, where it delays no poll.
///
/// The number of such jobs is bounded, and each counts until its response is sent: a client that asks for many documents, or reads none,
/// cannot fill the memory with them. When the client goes away, a job that has not begun is dropped, and the token of one that has begun is cancelled.
pub(super) async fn render_in_background(
    client: Option<RequestClient>,
    render: impl FnOnce(CancellationToken) -> Response + Send + 'static,
) -> Response {
    let permit = match client {
        None => None,
        Some(client) => match client.documents.acquire(client.network).await {
            Ok(permit) => Some(permit),
            Err(QueueFull) => return too_many_responses(),
        },
    };
    let cancelled = CancellationToken::new();
    let _cancels = cancelled.clone().drop_guard();
    let job = AbortOnDropHandle::new(tokio::task::spawn_blocking(move || (render(cancelled), permit)));
    match job.await {
        Ok((response, Some(permit))) => hold_until_sent(response, permit).await,
        Ok((response, None)) => response,
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the response could not be created: please report this\n"),
    }
}

/// The response, whose bytes hold `permit` as long as they exist.
async fn hold_until_sent(response: Response, permit: FairPermit) -> Response {
    struct HeldBytes {
        bytes: Bytes,
        _permit: FairPermit,
    }
    impl AsRef<[u8]> for HeldBytes {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    let (mut parts, body) = response.into_parts();
    // It is in memory already, in one piece.
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else { return too_many_responses() };
    parts.extensions.insert(ResponsePermit::Document);
    Response::from_parts(parts, Body::from(Bytes::from_owner(HeldBytes { bytes, _permit: permit })))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::http::fair_semaphore::FairLimits;

    const LONG: Duration = Duration::from_secs(60);

    /// A client that may have one document at a time.
    fn client() -> RequestClient {
        let semaphore = || FairSemaphore::new(FairLimits { permits: 1, queued: 8, queued_per_client: 8 });
        let network = ClientNetwork::from(IpAddr::from(Ipv4Addr::LOCALHOST));
        RequestClient { network, documents: semaphore(), streams: semaphore() }
    }

    #[tokio::test]
    async fn rendering_for_a_client_that_goes_away_is_cancelled_and_gives_its_permit_back() {
        let client = client();
        let (began, begins) = mpsc::channel();
        let (ended, ends) = mpsc::channel();
        let request = tokio::spawn(render_in_background(Some(client.clone()), move |cancelled| {
            began.send(()).unwrap();
            let start = Instant::now();
            while !cancelled.is_cancelled() && start.elapsed() < LONG {
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
        let next = tokio::time::timeout(LONG, client.documents.acquire(client.network));
        assert!(next.await.expect("the permit is given back").is_ok());
    }

    #[test]
    fn rendering_that_has_not_begun_when_its_client_goes_away_never_begins() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (free, freed) = mpsc::channel::<()>();
        let (made, makes) = mpsc::channel();
        runtime.block_on(async {
            let busy = tokio::task::spawn_blocking(move || freed.recv_timeout(LONG).unwrap());
            let mut request = Box::pin(render_in_background(Some(client()), move |_| {
                made.send(()).unwrap();
                text(StatusCode::OK, "")
            }));
            assert!(futures::poll!(&mut request).is_pending(), "there is a thread for it");
            drop(request);
            free.send(()).unwrap();
            busy.await.unwrap();
            tokio::task::spawn_blocking(|| {}).await.unwrap(); // whatever was queued before it has run
        });
        assert!(makes.try_recv().is_err(), "it was made for nobody");
    }
}
