//! The targets as JSON: `/api/v1/targets` for scripts, in the manner of Prometheus' own API, and `/sd` for Prometheus' `http_sd_configs`,
//! with the same labels that a ServiceMonitor would set.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use reqwest::Url;
use serde::Serialize;

use super::host::RequestHost;
use super::members::bounded;
use super::response::{self, DocumentRequest, ErrorResponse};
use super::targets::TargetView;
use super::{AppState, path_prefix, time};
use crate::kind::Type;
use crate::poll::{self, MemberReport, MemberReports};
use crate::target::{Target, TargetId};
use crate::time::PromDuration;

/// A filter of targets. Several values of `namespace`, `type` or `state` match any of them, several of `label` must all match.
#[derive(Debug, Default)]
struct TargetFilter {
    namespaces: Vec<String>,
    kinds: Vec<Type>,
    states: Vec<poll::TargetState>,
    labels: Vec<(String, String)>,
    /// `honorLabels` of `/sd`: Prometheus has this option for a whole scrape configuration, so each configuration asks for its own targets.
    honors_labels: Option<bool>,
    /// `honorLabelsDefault` of `/sd`: what counts for targets that do not say.
    honors_labels_by_default: bool,
}

impl TargetFilter {
    /// Parses a query. The error says what to write instead. An unknown parameter is an error, so that a misspelt filter does not return all
    /// targets. `state` is for scripts only, `honorLabels` for discovery only.
    fn parse(uri: &Uri, is_discovery: bool) -> Result<Self, String> {
        /// Every target is compared with every parameter.
        const MAX_PARAMETERS: usize = 100;
        let mut filter = Self::default();
        for (at, (key, value)) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).enumerate() {
            if at >= MAX_PARAMETERS {
                return Err(format!("more than {MAX_PARAMETERS} parameters: write fewer, or send two requests"));
            }
            match &*key {
                "namespace" => filter.namespaces.push(value.into_owned()),
                "type" => filter.kinds.push(value.parse()?),
                "label" => match value.split_once('=') {
                    Some((name, value)) if !name.is_empty() => {
                        filter.labels.push((name.to_owned(), value.to_owned()));
                    }
                    _ => return Err(format!("label={value:?} is not of the form name=value")),
                },
                "state" if !is_discovery => filter.states.push(parse_state(&value)?),
                "honorLabels" if is_discovery => filter.honors_labels = Some(parse_flag(&key, &value)?),
                "honorLabelsDefault" if is_discovery => filter.honors_labels_by_default = parse_flag(&key, &value)?,
                other => {
                    let known = if is_discovery {
                        "namespace, type, label, honorLabels and honorLabelsDefault"
                    } else {
                        "namespace, type, state and label"
                    };
                    return Err(format!("unknown parameter {other:?}, known are {known}"));
                }
            }
        }
        Ok(filter)
    }

    fn matches<'l>(
        &self,
        id: &TargetId,
        kind: Option<Type>,
        labels: &(impl Iterator<Item = (&'l str, &'l str)> + Clone),
        state: poll::TargetState,
    ) -> bool {
        (self.namespaces.is_empty() || self.namespaces.iter().any(|namespace| **namespace == *id.namespace))
            && (self.kinds.is_empty() || kind.is_some_and(|kind| self.kinds.contains(&kind)))
            && (self.states.is_empty() || self.states.contains(&state))
            && self
                .labels
                .iter()
                .all(|wanted| labels.clone().any(|(name, value)| name == wanted.0 && value == wanted.1))
    }
}

fn parse_flag(key: &str, text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{key}={text:?} is unknown: write true or false"))
}

fn parse_state(text: &str) -> Result<poll::TargetState, String> {
    poll::TargetState::ALL.iter().find(|state| state.as_str() == text).copied().ok_or_else(|| {
        let known: Vec<&str> = poll::TargetState::ALL.iter().map(|state| state.as_str()).collect();
        format!("state={text:?} is unknown: write one of {}", known.join(", "))
    })
}

#[derive(Serialize)]
struct TargetsResponse<'a> {
    status: &'static str,
    data: TargetsData<'a>,
}

#[derive(Serialize)]
struct TargetsData<'a> {
    targets: Vec<TargetEntry<'a>>,
    /// Problems of declarations, in addition to those of the targets. The log has all of them.
    mistakes: &'a [String],
}

/// Absent values are `null`, so that every entry has the same keys; only those about members are absent where there are none.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TargetEntry<'a> {
    namespace: &'a str,
    name: &'a str,
    r#type: &'static str,
    url: &'a str,
    state: &'static str,
    reason: Option<&'static str>,
    message: Option<&'a str>,
    since: String,
    last_poll: Option<String>,
    last_success: Option<String>,
    duration_seconds: Option<f64>,
    samples: Option<usize>,
    interval_seconds: Option<f64>,
    labels: BTreeMap<&'a str, &'a str>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    members: Option<MemberEntries<'a>>,
}

/// The members of a target.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberEntries<'a> {
    /// In the order of their names.
    members: Vec<MemberEntry<'a>>,
    /// Further ones, which are not polled.
    members_omitted: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberEntry<'a> {
    /// `pod` or `member`: the label of its series.
    label: &'static str,
    name: Cow<'a, str>,
    state: &'static str,
    address: SocketAddr,
    node: Option<Cow<'a, str>>,
    zone: Option<Cow<'a, str>>,
    reason: Option<&'static str>,
    message: Option<&'a str>,
    last_poll: Option<String>,
    duration_seconds: Option<f64>,
    samples: Option<usize>,
}

impl<'a> MemberEntries<'a> {
    fn new(members: &'a MemberReports) -> Self {
        let members_omitted = members.counts().found - members.len();
        Self { members: members.iter().map(MemberEntry::new).collect(), members_omitted }
    }
}

impl<'a> MemberEntry<'a> {
    fn new(report: &'a MemberReport) -> Self {
        let MemberReport { member, state, failure, poll } = report;
        Self {
            label: member.label.as_str(),
            name: bounded(&member.name),
            state: state.as_str(),
            address: member.address,
            node: member.node.as_deref().map(bounded),
            zone: member.zone.as_deref().map(bounded),
            reason: failure.as_ref().map(|failure| failure.reason.as_str()),
            message: failure.as_ref().map(|failure| &*failure.message),
            last_poll: poll.as_ref().map(|poll| time::rfc3339_millis(poll.ended_at)),
            duration_seconds: poll.as_ref().map(|poll| poll.duration.as_secs_f64()),
            samples: poll.as_ref().map(|poll| poll.samples),
        }
    }
}

/// `/api/v1/targets`.
pub(super) async fn targets(State(app): State<Arc<AppState>>, request: Request) -> Response {
    let filter = match TargetFilter::parse(request.uri(), false) {
        Ok(filter) => filter,
        Err(error) => return api_error(StatusCode::BAD_REQUEST, "bad_data", &error),
    };
    if let Some(why) = app.pollers.unknown() {
        return api_error(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &response::targets_unknown(&why));
    }
    response::render_document(request, move |document| targets_response(&app, &filter, document)).await
}

fn targets_response(app: &AppState, filter: &TargetFilter, document: &DocumentRequest) -> Response {
    let (views, mistakes) = (TargetView::all(&app.pollers, &document.cancelled), app.pollers.mistakes());
    let views = views.iter().take_while(|_| !document.cancelled.is_cancelled());
    let matching = views.filter(|view| filter.matches(&view.id, view.kind(), &view.labels(), view.status.state));
    let data = TargetsData { targets: matching.map(TargetEntry::new).collect(), mistakes: &mistakes.sentences };
    document.respond_json(&TargetsResponse { status: "success", data })
}

fn api_error(status: StatusCode, kind: &str, error: &str) -> Response {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    let body = serde_json::json!({ "status": "error", "errorType": kind, "error": error });
    (status, [(header::CONTENT_TYPE, JSON)], body.to_string()).into_response()
}

impl<'a> TargetEntry<'a> {
    fn new(view: &'a TargetView) -> Self {
        let (status, poll) = (&view.status, view.last_poll());
        let failure = status.failure.as_ref();
        Self {
            namespace: &view.id.namespace,
            name: &view.id.name,
            r#type: view.kind_name(),
            url: view.url(),
            state: status.state.as_str(),
            reason: failure.map(|failure| failure.reason.as_str()),
            message: failure.map(|failure| &*failure.message),
            since: time::rfc3339_millis(status.since),
            last_poll: view.last_poll_at().map(time::rfc3339_millis),
            last_success: status.last_success.map(time::rfc3339_millis),
            duration_seconds: poll.map(|poll| poll.duration().as_secs_f64()),
            samples: poll.map(|poll| poll.samples),
            interval_seconds: view.target().map(|target| target.interval.as_secs_f64()),
            labels: view.labels().collect(),
            members: view.members().map(MemberEntries::new),
        }
    }
}

/// One group per target: Prometheus identifies the groups of a document by their position.
#[derive(Serialize)]
struct SdGroup<'g> {
    targets: [&'g str; 1],
    labels: BTreeMap<&'g str, Cow<'g, str>>,
}

/// The address for Prometheus to scrape.
struct ScrapeAddress {
    host: String,
    scheme: Option<String>,
    path: String,
}

/// `/sd`.
pub(super) async fn service_discovery(State(app): State<Arc<AppState>>, request: Request) -> Response {
    // Without `state`: it may change with every poll, and targets would appear and disappear in Prometheus.
    let parsed = TargetFilter::parse(request.uri(), true)
        .map_err(ErrorResponse::bad_request)
        .and_then(|filter| Ok((filter, ScrapeAddress::new(app.options.external_url.as_ref(), &request)?)));
    let (filter, address) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return error.into_response(),
    };
    if let Some(why) = app.pollers.unknown() {
        return ErrorResponse::targets_unknown(&why).into_response();
    }
    response::render_document(request, move |document| sd_response(&app, &filter, &address, document)).await
}

fn sd_response(app: &AppState, filter: &TargetFilter, address: &ScrapeAddress, document: &DocumentRequest) -> Response {
    let pollers = app.pollers.list();
    let targets = pollers.iter().map(|poller| (poller.target(), poller.status().state));
    let matching = targets.filter(|(target, state)| {
        let labels = target.labels().iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let honors = target.honors_labels().unwrap_or(filter.honors_labels_by_default);
        let honors_as_asked = filter.honors_labels.is_none_or(|asked| asked == honors);
        !target.suspend && honors_as_asked && filter.matches(&target.id, Some(target.source.kind), &labels, *state)
    });
    let targets: Vec<Arc<Target>> = matching.map(|(target, _)| target).collect();
    let targets = targets.iter().take_while(|_| !document.cancelled.is_cancelled());
    document.respond_json(&targets.map(|target| address.group(target)).collect::<Vec<SdGroup<'_>>>())
}

impl ScrapeAddress {
    fn new(external_url: Option<&Url>, request: &Request) -> Result<Self, ErrorResponse> {
        let path = path_prefix(external_url) + "/probe";
        if let Some(url) = external_url {
            let host = url.host_str().unwrap_or_default();
            let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
            return Ok(Self { host, scheme: Some(url.scheme().to_owned()), path });
        }
        match request.extensions().get::<RequestHost>() {
            Some(RequestHost(host)) => Ok(Self { host: host.to_string(), scheme: None, path }),
            None => {
                Err(ErrorResponse::bad_request("the request has no Host header, and --web.external-url is not set"))
            }
        }
    }

    fn group<'g>(&'g self, target: &'g Target) -> SdGroup<'g> {
        let id = target.id.to_string();
        let mut labels: BTreeMap<&str, Cow<'_, str>> =
            target.labels().iter().map(|(name, value)| (name.as_str(), Cow::from(value))).collect();
        labels.extend([
            ("__metrics_path__", Cow::from(&self.path)),
            ("__param_target", Cow::from(id.clone())),
            ("__scrape_interval__", Cow::from(PromDuration::from(target.scrape.interval).to_string())),
            ("__scrape_timeout__", Cow::from(PromDuration::from(target.scrape.timeout).to_string())),
            // All targets have one address: without a hash of its own, each would be on the same shard of Prometheus.
            ("__tmp_hash", Cow::from(id)),
        ]);
        for (label, value) in target.identity_labels() {
            labels.insert(label, value);
        }
        if let Some(scheme) = &self.scheme {
            labels.insert("__scheme__", Cow::from(scheme));
        }
        SdGroup { targets: [&self.host], labels }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::http::members::tests::{pod, pods, snapshot, status, target};
    use crate::poll::MemberState;

    fn entry(members: Vec<MemberReport>) -> Value {
        let view = TargetView::of(target("rooms"), status(), Some(snapshot(members)));
        serde_json::to_value(TargetEntry::new(&view)).unwrap()
    }

    #[test]
    fn members_are_listed_by_name_with_what_is_known_of_each() {
        let mut members = pods(2);
        members.push(pod(3, MemberState::NotReady));
        let entry = entry(members);
        assert_eq!(entry["membersOmitted"], 0);
        let [up, down, unpolled] = &entry["members"].as_array().unwrap()[..] else { panic!("{entry}") };
        for (key, value) in [
            ("label", json!("pod")),
            ("name", json!("rooms-002")),
            ("state", json!("down")),
            ("address", json!("10.0.0.2:9851")),
            ("node", json!("node-a")),
            ("zone", json!("zone-1")),
            ("reason", json!("connect")),
            ("message", json!("stats: Connection refused")),
            ("durationSeconds", json!(0.012)),
            ("samples", json!(2)),
        ] {
            assert_eq!(down[key], value, "{key}");
        }
        assert!(down["lastPoll"].as_str().unwrap().ends_with('Z'));
        assert_eq!((&up["name"], &up["state"], &up["reason"]), (&json!("rooms-001"), &json!("up"), &Value::Null));
        assert_eq!((&unpolled["state"], &unpolled["lastPoll"]), (&json!("not_ready"), &Value::Null));
        assert_eq!(
            down.as_object().unwrap().len(),
            unpolled.as_object().unwrap().len(),
            "every entry has the same keys"
        );
    }

    #[test]
    fn members_that_are_not_listed_are_counted() {
        let unlisted = [(MemberState::NotReady, 3000), (MemberState::OverLimit, 900)].into();
        let reports = MemberReports::new(pods(200), unlisted);
        let entries = serde_json::to_value(MemberEntries::new(&reports)).unwrap();
        assert_eq!(entries["members"].as_array().unwrap().len(), 200);
        assert_eq!(entries["membersOmitted"], 3900);
    }

    #[test]
    fn a_target_that_is_one_process_has_no_key_about_members() {
        let declared = target("rooms");
        let keys = |target: Target| {
            let view = TargetView::of(target, status(), None);
            serde_json::to_value(TargetEntry::new(&view)).unwrap()
        };
        assert_eq!(keys(declared.clone())["members"], json!([]), "not polled yet");
        let single = keys(Target { members: None, ..declared });
        assert!(single.get("members").is_none() && single.get("membersOmitted").is_none(), "{single}");
    }
}
