//! `/probe`: the newest data of one target. Everything here runs once a scrape, so it looks up, and copies a pointer to the bytes.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use super::reply::{self, Client, HoldsTurn, Refusal};
use super::turns::{Full, Turn};
use super::{App, debug, lookup};
use crate::metric::{Encoding, Format};
use crate::poll::{Pieces, Poller};
use crate::target::Target;

/// How long Prometheus waits for this scrape, in seconds.
const SCRAPE_TIMEOUT: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");

/// Kept for the way of the answer.
const OFFSET: Duration = Duration::from_millis(500);

/// The shortest wait, however little time the scrape leaves.
const SHORTEST: Duration = Duration::from_millis(100);

/// What a request asks for.
#[derive(Debug, Default)]
struct Query<'q> {
    target: Option<Cow<'q, str>>,
    module: Option<Cow<'q, str>>,
    debug: bool,
}

/// A request that is understood.
struct Order {
    poller: Arc<Poller>,
    wait: Duration,
    debug: bool,
    format: Format,
    encoding: Encoding,
}

pub(super) async fn probe(State(app): State<Arc<App>>, mut request: Request) -> Response {
    let start = Instant::now();
    // The request is gone before the wait: nothing of it has to be kept.
    let response = match Order::new(&app, &request) {
        Ok(order) => {
            let client = request.extensions_mut().remove();
            drop(request);
            order.answer(client).await
        }
        Err(refusal) => refusal.into_response(),
    };
    app.self_metrics.probes.end(response.status().as_u16(), start.elapsed());
    response
}

impl Order {
    fn new(app: &App, request: &Request) -> Result<Self, Refusal> {
        let query = Query::parse(request.uri().query().unwrap_or_default())?;
        let Some(text) = query.target else {
            return Err(Refusal::bad_request("no target is named: write /probe?target=namespace/name"));
        };
        let poller = lookup::find(app, &text)?;
        if let Some(module) = query.module {
            fits(&module, &poller.target())?;
        }
        let headers = request.headers();
        let wait = wait(headers, &poller)?;
        Ok(Self {
            poller,
            wait,
            debug: query.debug,
            format: reply::format(headers),
            encoding: reply::encoding(headers),
        })
    }

    async fn answer(self, client: Option<Client>) -> Response {
        if self.debug {
            // People look at this: it must not hide that no Prometheus scrapes the target.
            let snapshot = self.poller.show(self.wait).await;
            let poller = self.poller;
            return reply::aside(client, move |_| reply::text(StatusCode::OK, debug::debug_text(&poller, &snapshot)))
                .await;
        }
        self.poller.prefer(self.format);
        let snapshot = self.poller.answer(self.wait).await;
        let (format, encoding) = (self.format, self.encoding);
        if !snapshot.is_costly(format, encoding) {
            return exposition(snapshot.body(format, encoding), format, encoding);
        }
        let turn = match client {
            None => None,
            Some(client) => match client.streams.take(client.peer).await {
                Ok(turn) => Some(Arc::new(turn)),
                Err(Full) => return reply::busy(),
            },
        };
        let sent = turn.as_ref().map(|turn| HoldsTurn::Stream(Arc::downgrade(turn)));
        let mut response = exposition(in_pieces(snapshot.pieces(format, encoding), turn), format, encoding);
        if let Some(sent) = sent {
            response.extensions_mut().insert(sent);
        }
        response
    }
}

/// The body that `pieces` are together; it holds `turn`, so that few are on their way at once, however many clients do not read. Each piece
/// is made when the client has taken those before it: elsewhere, so that nobody waits for it, and few at a time.
fn in_pieces(pieces: Pieces, turn: Option<Arc<Turn>>) -> Body {
    const AT_A_TIME: usize = 2;
    static WORKING: Semaphore = Semaphore::const_new(AT_A_TIME);
    Body::from_stream(futures::stream::unfold((Some(pieces), turn), |(pieces, turn)| async {
        let mut pieces = pieces?;
        let working = WORKING.acquire().await;
        let made = tokio::task::spawn_blocking(move || {
            let _working = working;
            pieces.next().map(|piece| (Ok(piece), (Some(pieces), turn)))
        });
        let made = made.await;
        // An answer that just ended would look whole.
        made.unwrap_or_else(|error| Some((Err(std::io::Error::other(error)), (None, None))))
    }))
}

/// An answer with the headers of an exposition.
pub(super) fn exposition(body: impl Into<Body>, format: Format, encoding: Encoding) -> Response {
    const TEXT: HeaderValue = HeaderValue::from_static(Format::Text.content_type());
    const OPENMETRICS: HeaderValue = HeaderValue::from_static(Format::OpenMetrics.content_type());
    const VARY: HeaderValue = HeaderValue::from_static("Accept, Accept-Encoding");
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    let content_type = if format == Format::Text { TEXT } else { OPENMETRICS };
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::VARY, VARY);
    if encoding == Encoding::Gzip {
        headers.insert(header::CONTENT_ENCODING, reply::GZIP);
    }
    response
}

impl<'q> Query<'q> {
    /// Reads a query. What is not ours is passed over: a job's `params` may hold more.
    fn parse(query: &'q str) -> Result<Self, Refusal> {
        let mut parsed = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "target" if parsed.target.is_some() => {
                    return Err(Refusal::bad_request("several targets are named: write one"));
                }
                "target" if !value.is_empty() => parsed.target = Some(value),
                // A template whose value is empty writes it like this.
                "module" if !value.is_empty() => parsed.module = Some(value),
                "debug" => parsed.debug = value == "true",
                _ => {}
            }
        }
        Ok(parsed)
    }
}

/// Whether `module` is the target's type; a scrape that expects another kind of metrics must fail.
fn fits(module: &str, target: &Target) -> Result<(), Refusal> {
    let kind = target.source.kind.as_str();
    if module.eq_ignore_ascii_case(kind) {
        return Ok(());
    }
    let id = &target.id;
    Err(Refusal::bad_request(format!(
        "target {id} is of type {kind}: write module={kind} or no module, not {module:?}"
    )))
}

/// How long the answer may take: what the scrape leaves, but no longer than one poll may take, whatever the client claims.
fn wait(headers: &HeaderMap, poller: &Poller) -> Result<Duration, Refusal> {
    let longest = poller.target().timeout + Duration::from_secs(1);
    let Some(value) = headers.get(SCRAPE_TIMEOUT) else {
        return Ok(longest);
    };
    let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
    match seconds {
        Some(seconds) if seconds.is_finite() && seconds >= 0.0 => {
            let left = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).saturating_sub(OFFSET);
            Ok(left.clamp(SHORTEST, longest))
        }
        _ => {
            let text = String::from_utf8_lossy(value.as_bytes());
            let name = "X-Prometheus-Scrape-Timeout-Seconds";
            Err(Refusal::bad_request(format!("the header {name} must be a number of seconds such as 10, not {text:?}")))
        }
    }
}
