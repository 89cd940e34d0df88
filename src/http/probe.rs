//! `/probe`: the newest data of one target. The usual response is one lookup, and shares the bytes of the snapshot. `debug=true` shows how
//! the data came about.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use super::fair_semaphore::{FairPermit, QueueFull};
use super::response::{self, ErrorResponse, RequestClient, ResponsePermit, exposition};
use super::{AppState, targets, time};
use crate::metric::{Encoding, Format};
use crate::poll::{Pieces, Poller, Snapshot, TargetStatus};
use crate::target::Target;

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
    debug: bool,
}

/// A valid request, parsed.
struct ProbeRequest {
    poller: Arc<Poller>,
    wait: Duration,
    debug: bool,
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
        let headers = request.headers();
        let wait = max_wait(headers, &poller)?;
        Ok(Self {
            poller,
            wait,
            debug: query.debug,
            format: response::format(headers),
            encoding: response::encoding(headers),
        })
    }

    async fn respond(self, client: Option<RequestClient>) -> Response {
        let Self { poller, wait, debug, format, encoding } = self;
        if debug {
            // Not `answer`: a view of this page must not count as a scrape, or it would hide that no Prometheus scrapes the target.
            let snapshot = poller.show(wait).await;
            let render = move |_| response::text(StatusCode::OK, debug_text(&poller, &snapshot));
            return response::render_in_background(client, render).await;
        }
        poller.prefer(format);
        let snapshot = poller.answer(wait).await;
        if !snapshot.is_costly(format, encoding) {
            return exposition(snapshot.body(format, encoding), format, encoding);
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
        if let Some(held) = held {
            response.extensions_mut().insert(held);
        }
        response
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

/// The text of `debug=true` about `snapshot`, a result of `poller`.
///
/// It contains no values of Secrets, as far as they can be recognized in what a server returns, and nothing from a server except series,
/// unless `--debug-bodies` is set.
pub fn debug_text(poller: &Poller, snapshot: &Snapshot) -> String {
    /// Why samples are left out although they can be read.
    const WITHHELD: &str = "Their names are reserved for Prometheus, this exporter, another type, or recording rules; or they contain a \
                            credential of this target.";
    let target = poller.target();
    let mut out = String::with_capacity(16 * 1024);
    // Writing to a String cannot fail.
    let _ = write_summary(&mut out, &target, &poller.status(), snapshot);
    let _ = write_calls(&mut out, &target, snapshot);
    if snapshot.withheld > 0 {
        let _ = writeln!(out, "\nSamples left out: {}. {WITHHELD}", snapshot.withheld);
    }
    let samples = snapshot.samples;
    let _ = write!(out, "\nThe metrics of this answer ({samples} samples, text 0.0.4)\n\n");
    write_metrics(&mut out, snapshot);
    let _ = write!(out, "\nThe effective configuration (secrets masked)\n\n{}\n", target.effective().trim_end());
    out
}

fn write_summary(out: &mut String, target: &Target, status: &TargetStatus, snapshot: &Snapshot) -> fmt::Result {
    let now = SystemTime::now();
    writeln!(out, "Target {}\n", target.id)?;
    writeln!(out, "  type          {}", target.source.kind)?;
    writeln!(out, "  url           {}", target.source.url)?;
    let state = status.state.as_str();
    writeln!(out, "  state         {state} since {}", time::utc_and_ago(status.since, now))?;
    if let Some(failure) = &status.failure {
        writeln!(out, "  reason        {}: {}", failure.reason.as_str(), failure.message)?;
    }
    match status.last_success {
        Some(at) => writeln!(out, "  last success  {}", time::utc_and_ago(at, now))?,
        None => writeln!(out, "  last success  never")?,
    }
    if snapshot.calls.is_empty() {
        match &snapshot.failure {
            Some(failure) => writeln!(out, "  this answer   no poll: {}: {}", failure.reason.as_str(), failure.message),
            None => writeln!(out, "  this answer   no poll"),
        }
    } else {
        let ended = time::utc_and_ago(snapshot.ended_at, now);
        writeln!(out, "  last poll     ended {ended}, took {}", time::duration(snapshot.duration()))
    }
}

fn write_calls(out: &mut String, target: &Target, snapshot: &Snapshot) -> fmt::Result {
    writeln!(out, "\nThe calls of the poll\n")?;
    if snapshot.calls.is_empty() {
        return writeln!(out, "  none");
    }
    let source = &target.source;
    let requests = &snapshot.requests;
    for (i, record) in snapshot.calls.iter().enumerate() {
        writeln!(out, "  {}. {}", i + 1, record.call)?;
        if let Some(request) = requests.iter().find(|request| request.name == record.call) {
            writeln!(out, "     {} {}", request.method.as_str(), request.url)?;
            for (name, value) in &request.headers {
                writeln!(out, "     {name}: {value}")?;
            }
        }
        for (name, value) in &source.headers {
            let value =
                if value.is_sensitive() { "<secret>".into() } else { String::from_utf8_lossy(value.as_bytes()) };
            writeln!(out, "     {name}: {value}")?;
        }
        let took = time::duration(record.duration);
        match record.status {
            Some(status) => writeln!(out, "     → {status}, {} bytes, {took}", record.bytes)?,
            None => writeln!(out, "     → no answer, {took}")?,
        }
        if let Some(error) = &record.error {
            writeln!(out, "     error: {error}")?;
            match &record.beginning {
                Some(beginning) if beginning.is_empty() => writeln!(out, "     body:  empty")?,
                Some(beginning) => writeln!(out, "     body:  {beginning}")?,
                None if record.bytes > 0 => writeln!(out, "     body:  not shown, --debug-bodies shows its beginning")?,
                None => {}
            }
        }
    }
    Ok(())
}

/// The exposition; of a large one only the beginning.
fn write_metrics(out: &mut String, snapshot: &Snapshot) {
    const MAX_BYTES: usize = 256 << 10;
    let end = out.len() + MAX_BYTES;
    let mut pieces = snapshot.pieces(Format::Text, Encoding::Identity);
    while out.len() < end {
        let Some(piece) = pieces.next() else { return };
        out.push_str(&String::from_utf8_lossy(&piece));
    }
    if pieces.next().is_some() {
        out.push_str("\nThe rest is omitted here: send the request without debug=true\n");
    }
}
