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
    let filter = match Filter::parse(request.uri(), States::Wanted) {
        Ok(filter) => filter,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, "bad_data", &error),
    };
    if let Some(why) = app.pollers.unknown() {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &reply::unknown_yet(&why));
    }
    let (mut parts, _) = request.into_parts();
    let (client, headers) = (parts.extensions.remove(), parts.headers);
    reply::aside(client, move |audience| document(&app, &filter, &headers, audience)).await
}

fn document(app: &App, filter: &Filter, headers: &HeaderMap, audience: &Audience) -> Response {
    let (views, mistakes) = (view::all(&app.pollers, audience), app.pollers.mistakes());
    let views = views.iter().take_while(|_| audience.is_there());
    let wanted = views.filter(|view| filter.wants(&view.id, view.kind(), &view.labels(), view.status.state));
    let data = Data { targets: wanted.map(Entry::new).collect(), mistakes: &mistakes.sentences };
    let answer = Answer { status: "success", data };
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
