//! `/api/v1/targets`: the targets as JSON, or those that the query asks for, in the manner of Prometheus' own API, for scripts.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::filter::{Filter, States};
use super::reply::Audience;
use super::view::{self, View};
use super::{App, reply, time};

#[derive(Serialize)]
struct Answer<'a> {
    status: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    targets: Vec<Entry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    namespace: &'a str,
    name: &'a str,
    r#type: &'static str,
    url: &'a str,
    state: &'static str,
    /// Absent values are `null`, so that every entry has the same keys.
    reason: Option<&'static str>,
    message: Option<&'a str>,
    since: String,
    last_poll: Option<String>,
    last_success: Option<String>,
    duration_seconds: Option<f64>,
    samples: Option<usize>,
    interval_seconds: f64,
    labels: BTreeMap<&'a str, &'a str>,
}

pub(super) async fn targets(State(app): State<Arc<App>>, request: Request) -> Response {
    let filter = match Filter::parse(request.uri(), States::Wanted) {
        Ok(filter) => filter,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, "bad_data", &error),
    };
    if !app.pollers.known() {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reply::UNKNOWN_YET.trim_end());
    }
    let (mut parts, _) = request.into_parts();
    let (client, headers) = (parts.extensions.remove(), parts.headers);
    reply::aside(client, move |audience| document(&app, &filter, &headers, audience)).await
}

fn document(app: &App, filter: &Filter, headers: &HeaderMap, audience: &Audience) -> Response {
    let views = view::all(&app.pollers, audience);
    let views = views.iter().take_while(|_| audience.is_there());
    let wanted = views.filter(|view| filter.wants(&view.target, view.status.state));
    let answer = Answer { status: "success", data: Data { targets: wanted.map(Entry::new).collect() } };
    match serde_json::to_vec(&answer) {
        Ok(body) => reply::document(headers, audience, "application/json", body),
        Err(error) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn refusal(status: StatusCode, kind: &str, error: &str) -> Response {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    let body = serde_json::json!({ "status": "error", "errorType": kind, "error": error });
    (status, [(header::CONTENT_TYPE, JSON)], body.to_string()).into_response()
}

impl<'a> Entry<'a> {
    fn new(view: &'a View) -> Self {
        let (target, status, poll) = (&view.target, &view.status, view.last_poll());
        let failure = status.failure.as_ref();
        Self {
            namespace: &target.id.namespace,
            name: &target.id.name,
            r#type: target.source.kind.as_str(),
            url: target.source.url.as_str(),
            state: status.state.as_str(),
            reason: failure.map(|failure| failure.reason.as_str()),
            message: failure.map(|failure| &*failure.message),
            since: time::rfc3339(status.since),
            last_poll: view.last_poll_at().map(time::rfc3339),
            last_success: status.last_success.map(time::rfc3339),
            duration_seconds: poll.map(|poll| poll.duration().as_secs_f64()),
            samples: poll.map(|poll| poll.samples),
            interval_seconds: target.interval.as_secs_f64(),
            labels: target.labels().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        }
    }
}
