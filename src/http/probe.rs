//! `/probe`: the newest data of one target. The usual response is one lookup, and shares the bytes of the snapshot. `debug=true` shows how
//! the data came about.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use super::debug::{debug_page, member_text};
use super::fair_semaphore::{FairPermit, QueueFull};
use super::members::MemberParameter;
use super::response::{self, ErrorResponse, RequestClient, ResponsePermit, exposition};
use super::{AppState, targets};
use crate::kind::Reason;
use crate::metric::{Encoding, Format};
use crate::poll::{Pieces, Poller, Snapshot};
use crate::target::{MemberLabel, Target};

/// The header with the scrape timeout of Prometheus, in seconds.
const SCRAPE_TIMEOUT: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");

/// Subtracted from it, so that the response arrives in time.
const TIMEOUT_OFFSET: Duration = Duration::from_millis(500);

/// The shortest wait for a poll, however little time the scrape leaves.
const MIN_WAIT: Duration = Duration::from_millis(100);

/// The parameters of a request.
#[derive(Debug, Default)]
struct ProbeQuery<'q> {
    target: Option<Cow<'q, str>>,
    module: Option<Cow<'q, str>>,
    member: Option<MemberParameter>,
    debug: bool,
}

/// A valid request, parsed.
struct ProbeRequest {
    poller: Arc<Poller>,
    wait: Duration,
    debug: bool,
    member: Option<MemberParameter>,
    format: Format,
    encoding: Encoding,
}

pub(super) async fn probe(State(app): State<Arc<AppState>>, mut request: Request) -> Response {
    let start = Instant::now();
    let response = match ProbeRequest::parse(&app, &request) {
        Ok(probe) => {
            let client = request.extensions_mut().remove();
            drop(request); // thousands may wait for polls: keep as little as possible
            probe.respond(client).await
        }
        Err(error) => error.into_response(),
    };
    app.self_metrics.probes.end(response.status().as_u16(), start.elapsed());
    response
}

impl ProbeRequest {
    fn parse(app: &AppState, request: &Request) -> Result<Self, ErrorResponse> {
        let query = ProbeQuery::parse(request.uri().query().unwrap_or_default())?;
        let Some(text) = query.target else {
            return Err(ErrorResponse::bad_request("no target is named: write /probe?target=namespace/name"));
        };
        let poller = targets::find_poller(app, &text)?;
        if let Some(module) = query.module {
            check_module(&module, &poller.target())?;
        }
        if let Some(member) = &query.member {
            check_member(member, query.debug, &poller.target())?;
        }
        let headers = request.headers();
        let wait = max_wait(headers, &poller)?;
        Ok(Self {
            poller,
            wait,
            debug: query.debug,
            member: query.member,
            format: response::format(headers),
            encoding: response::encoding(headers),
        })
    }

    async fn respond(self, client: Option<RequestClient>) -> Response {
        let Self { poller, wait, debug, member, format, encoding } = self;
        if debug {
            // Not `answer`: a view of this page must not count as a scrape, or it would hide that no Prometheus scrapes the target.
            let snapshot = poller.show(wait).await;
            let render = move |_| match member {
                None => response::text(StatusCode::OK, debug_page(&poller, &snapshot)),
                Some(member) => {
                    let target = poller.target();
                    match member.find(&target, &snapshot) {
                        Ok(report) => response::text(StatusCode::OK, member_text(&target, &snapshot, report)),
                        Err(error) => error.into_response(),
                    }
                }
            };
            return response::render_in_background(client, render).await;
        }
        poller.prefer(format);
        let snapshot = poller.answer(wait).await;
        let status = status(&poller.target(), &snapshot);
        if !snapshot.is_costly(format, encoding) {
            let mut response = exposition(snapshot.body(format, encoding), format, encoding);
            *response.status_mut() = status;
            return response;
        }
        let permit = match client {
            None => None,
            Some(client) => match client.streams.acquire(client.network).await {
                Ok(permit) => Some(Arc::new(permit)),
                Err(QueueFull) => return response::too_many_responses(),
            },
        };
        let held = permit.as_ref().map(|permit| ResponsePermit::Stream(Arc::downgrade(permit)));
        let mut response = exposition(stream(snapshot.pieces(format, encoding), permit), format, encoding);
        *response.status_mut() = status;
        if let Some(held) = held {
            response.extensions_mut().insert(held);
        }
        response
    }
}

/// The status of the answer: 200, unless the target is to look down to Prometheus itself when it is. One that is suspended is not down.
fn status(target: &Target, snapshot: &Snapshot) -> StatusCode {
    match &snapshot.failure {
        Some(failure) if failure.reason != Reason::Suspended => {
            StatusCode::from_u16(target.source.options.fail_status(target.source.kind)).unwrap_or(StatusCode::OK)
        }
        _ => StatusCode::OK,
    }
}

/// A body of `pieces`, each made on a blocking thread once the client has taken those before it. It holds `permit`, so that few responses are
/// in progress at once, however many clients do not read.
fn stream(pieces: Pieces, permit: Option<Arc<FairPermit>>) -> Body {
    /// Pieces that are made at the same time, of all responses.
    const CONCURRENT_PIECES: usize = 2;
    static WORKING: Semaphore = Semaphore::const_new(CONCURRENT_PIECES);
    Body::from_stream(futures::stream::unfold((Some(pieces), permit), |(pieces, permit)| async {
        let mut pieces = pieces?;
        let working = WORKING.acquire().await;
        let made = tokio::task::spawn_blocking(move || {
            let _working = working;
            pieces.next().map(|piece| (Ok(piece), (Some(pieces), permit)))
        });
        let made = made.await;
        // Without an error, a response that ends early would look complete.
        made.unwrap_or_else(|error| Some((Err(std::io::Error::other(error)), (None, None))))
    }))
}

impl<'q> ProbeQuery<'q> {
    /// Parses a query. Other parameters are ignored: a job's `params` may hold more.
    fn parse(query: &'q str) -> Result<Self, ErrorResponse> {
        let mut parsed = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "target" if parsed.target.is_some() => {
                    return Err(ErrorResponse::bad_request("several targets are named: write one"));
                }
                "target" if !value.is_empty() => parsed.target = Some(value),
                // Templates write an empty value for none.
                "module" if !value.is_empty() => parsed.module = Some(value),
                "pod" | "member" if value.is_empty() => {}
                "pod" | "member" if parsed.member.is_some() => {
                    return Err(ErrorResponse::bad_request("several members are named: write one"));
                }
                "pod" => parsed.member = Some(MemberParameter { label: MemberLabel::Pod, name: value.into() }),
                "member" => parsed.member = Some(MemberParameter { label: MemberLabel::Member, name: value.into() }),
                "debug" => parsed.debug = value == "true",
                _ => {}
            }
        }
        Ok(parsed)
    }
}

/// Rejects a `module` that is not the target's type: a scrape that expects another kind of metrics must fail.
fn check_module(module: &str, target: &Target) -> Result<(), ErrorResponse> {
    let kind = target.source.kind.as_str();
    if module.eq_ignore_ascii_case(kind) {
        return Ok(());
    }
    let id = &target.id;
    Err(ErrorResponse::bad_request(format!(
        "target {id} is of type {kind}: write module={kind} or no module, not {module:?}"
    )))
}

/// Rejects a `pod` or `member` of a target that has none, and in a scrape: it would be a second source of the same series.
fn check_member(member: &MemberParameter, debug: bool, target: &Target) -> Result<(), ErrorResponse> {
    let (id, label) = (&target.id, member.label.as_str());
    if target.members.is_none() {
        return Err(ErrorResponse::bad_request(format!(
            "target {id} is one process, since it has no spec.members: leave out {label}="
        )));
    }
    if debug {
        return Ok(());
    }
    Err(ErrorResponse::bad_request(format!(
        "{label}= is no parameter of a scrape, which always gets all members of target {id}: write debug=true&{label}=… to look at one, \
         or leave it out"
    )))
}

/// How long the response may wait for a poll: what the scrape leaves, but no longer than one poll may take, whatever the client says.
fn max_wait(headers: &HeaderMap, poller: &Poller) -> Result<Duration, ErrorResponse> {
    let target = poller.target();
    let longest = target.timeout + target.spread + Duration::from_secs(1);
    let Some(value) = headers.get(SCRAPE_TIMEOUT) else {
        return Ok(longest);
    };
    let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
    match seconds {
        Some(seconds) if seconds.is_finite() && seconds >= 0.0 => {
            let left = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).saturating_sub(TIMEOUT_OFFSET);
            Ok(left.clamp(MIN_WAIT, longest))
        }
        _ => {
            let text = String::from_utf8_lossy(value.as_bytes());
            let name = "X-Prometheus-Scrape-Timeout-Seconds";
            Err(ErrorResponse::bad_request(format!(
                "the header {name} must be a number of seconds such as 10, not {text:?}"
            )))
        }
    }
}
