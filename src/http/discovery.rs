//! `/sd`: the targets as Prometheus' HTTP service discovery reads them, with the same labels that a ServiceMonitor would set.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use reqwest::Url;
use serde::Serialize;

use super::filter::{Filter, States};
use super::hosts::RequestHost;
use super::reply::{self, Audience, Refusal};
use super::{App, path_prefix};
use crate::target::Target;
use crate::time::PromDuration;

/// One group of one target: Prometheus tells groups apart by their place in the list.
#[derive(Serialize)]
struct Group<'g> {
    targets: [&'g str; 1],
    labels: BTreeMap<&'g str, Cow<'g, str>>,
}

/// Where Prometheus is to scrape.
struct Exporter {
    host: String,
    scheme: Option<String>,
    path: String,
}

pub(super) async fn discovery(State(app): State<Arc<App>>, request: Request) -> Response {
    let prepared = Filter::parse(request.uri(), States::Unknown)
        .map_err(Refusal::bad_request)
        .and_then(|filter| Ok((filter, Exporter::new(app.settings.external_url.as_ref(), &request)?)));
    let (filter, exporter) = match prepared {
        Ok(prepared) => prepared,
        Err(refusal) => return refusal.into_response(),
    };
    if let Some(why) = app.pollers.unknown() {
        return Refusal::unknown_yet(&why).into_response();
    }
    let (mut parts, _) = request.into_parts();
    let (client, headers) = (parts.extensions.remove(), parts.headers);
    reply::aside(client, move |audience| document(&app, &filter, &exporter, &headers, audience)).await
}

fn document(app: &App, filter: &Filter, exporter: &Exporter, headers: &HeaderMap, audience: &Audience) -> Response {
    let all = app.pollers.list();
    let targets = all.iter().map(|poller| (poller.target(), poller.status().state));
    let wanted = targets.filter(|(target, state)| {
        let labels = target.labels().iter().map(|(name, value)| (name.as_str(), value.as_str()));
        !target.suspend && filter.wants(&target.id, Some(target.source.kind), &labels, *state)
    });
    let targets: Vec<Arc<Target>> = wanted.map(|(target, _)| target).collect();
    let groups: Vec<Group<'_>> =
        targets.iter().take_while(|_| audience.is_there()).map(|target| exporter.group(target)).collect();
    match serde_json::to_vec(&groups) {
        Ok(body) => reply::document(headers, audience, "application/json", body),
        Err(error) => reply::text(axum::http::StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

impl Exporter {
    fn new(external_url: Option<&Url>, request: &Request) -> Result<Self, Refusal> {
        let path = path_prefix(external_url) + "/probe";
        if let Some(url) = external_url {
            let host = url.host_str().unwrap_or_default();
            let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
            return Ok(Self { host, scheme: Some(url.scheme().to_owned()), path });
        }
        match request.extensions().get::<RequestHost>() {
            Some(RequestHost(host)) => Ok(Self { host: host.to_string(), scheme: None, path }),
            None => Err(Refusal::bad_request("the request has no Host header, and --web.external-url is not set")),
        }
    }

    fn group<'g>(&'g self, target: &'g Target) -> Group<'g> {
        let id = target.id.to_string();
        let mut labels: BTreeMap<&str, Cow<'_, str>> =
            target.labels().iter().map(|(name, value)| (name.as_str(), Cow::from(value))).collect();
        labels.extend([
            ("__metrics_path__", Cow::from(&self.path)),
            ("__param_target", Cow::from(id.clone())),
            ("__scrape_interval__", Cow::from(PromDuration::from(target.scrape.interval).to_string())),
            ("__scrape_timeout__", Cow::from(PromDuration::from(target.scrape.timeout).to_string())),
            // All targets have one address: without a hash of their own they would all be on one shard.
            ("__tmp_hash", Cow::from(id.clone())),
            ("instance", Cow::from(id)),
            ("namespace", Cow::from(&*target.id.namespace)),
            ("target_namespace", Cow::from(&*target.id.namespace)),
            ("target_name", Cow::from(&*target.id.name)),
        ]);
        if let Some(scheme) = &self.scheme {
            labels.insert("__scheme__", Cow::from(scheme));
        }
        Group { targets: [&self.host], labels }
    }
}
