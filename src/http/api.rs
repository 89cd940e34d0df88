//! `/api/v1/targets`: the targets as JSON, in the manner of Prometheus' own API, for scripts.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

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
    /// What is wrong where targets are declared, beside what the targets themselves say; the log has it all.
    mistakes: &'a [String],
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
    interval_seconds: Option<f64>,
    labels: BTreeMap<&'a str, &'a str>,
}

pub(super) async fn targets(State(app): State<Arc<App>>, request: Request) -> Response {
    if let Some(why) = app.pollers.unknown() {
        return unavailable(&why);
    }
    let (mut parts, _) = request.into_parts();
    let (client, headers) = (parts.extensions.remove(), parts.headers);
    reply::aside(client, move || document(&app, &headers)).await
}

fn document(app: &App, headers: &HeaderMap) -> Response {
    let (views, mistakes) = (view::all(&app.pollers), app.pollers.mistakes());
    let targets = views.iter().map(Entry::new).collect();
    let answer = Answer { status: "success", data: Data { targets, mistakes: &mistakes.sentences } };
    match serde_json::to_vec(&answer) {
        Ok(body) => reply::document(headers, "application/json", body),
        Err(error) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn unavailable(why: &str) -> Response {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    let error = reply::unknown_yet(why);
    let body = serde_json::json!({ "status": "error", "errorType": "unavailable", "error": error });
    (StatusCode::SERVICE_UNAVAILABLE, [(header::CONTENT_TYPE, JSON)], body.to_string()).into_response()
}

impl<'a> Entry<'a> {
    fn new(view: &'a View) -> Self {
        let (status, poll) = (&view.status, view.last_poll());
        let failure = status.failure.as_ref();
        Self {
            namespace: &view.id.namespace,
            name: &view.id.name,
            r#type: view.kind_word(),
            url: view.url(),
            state: status.state.as_str(),
            reason: failure.map(|failure| failure.reason.as_str()),
            message: failure.map(|failure| &*failure.message),
            since: time::rfc3339(status.since),
            last_poll: view.last_poll_at().map(time::rfc3339),
            last_success: status.last_success.map(time::rfc3339),
            duration_seconds: poll.map(|poll| poll.duration().as_secs_f64()),
            samples: poll.map(|poll| poll.samples),
            interval_seconds: view.target().map(|target| target.interval.as_secs_f64()),
            labels: view.labels().collect(),
        }
    }
}
