//! `/sd`: the targets as Prometheus' HTTP service discovery reads them, with the same labels that a ServiceMonitor would set.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use reqwest::Url;
use serde::Serialize;

use super::hosts::RequestHost;
use super::reply::{self, Refusal};
use super::{App, path_prefix, time};
use crate::kind::Type;
use crate::target::Target;

/// One group of one target: Prometheus tells groups apart by their place in the list.
#[derive(Serialize)]
struct Group<'g> {
    targets: [&'g str; 1],
    labels: BTreeMap<&'g str, Cow<'g, str>>,
}

/// Which targets are wanted. Several of `namespace` or `type` mean any of them, several of `label` mean all of them.
#[derive(Debug, Default)]
struct Filter {
    namespaces: Vec<String>,
    kinds: Vec<Type>,
    labels: Vec<(String, String)>,
}

/// The most that a query may ask for: every target is held against every one of them.
const MOST_WANTED: usize = 100;

/// Where Prometheus is to scrape.
struct Exporter {
    host: String,
    scheme: Option<String>,
    path: String,
}

pub(super) async fn discovery(State(app): State<Arc<App>>, request: Request) -> Response {
    let prepared = Filter::parse(request.uri())
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
    reply::aside(client, move || document(&app, &filter, &exporter, &headers)).await
}

fn document(app: &App, filter: &Filter, exporter: &Exporter, headers: &HeaderMap) -> Response {
    let targets: Vec<Arc<Target>> = app.pollers.list().iter().map(|poller| poller.target()).collect();
    let groups: Vec<Group<'_>> = targets
        .iter()
        .filter(|target| !target.suspend && filter.wants(target))
        .map(|target| exporter.group(target))
        .collect();
    match serde_json::to_vec(&groups) {
        Ok(body) => reply::document(headers, "application/json", body),
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
            ("__scrape_interval__", Cow::from(time::prometheus(target.scrape.interval))),
            ("__scrape_timeout__", Cow::from(time::prometheus(target.scrape.timeout))),
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

impl Filter {
    fn parse(uri: &Uri) -> Result<Self, Refusal> {
        let mut filter = Self::default();
        for (at, (key, value)) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).enumerate() {
            if at >= MOST_WANTED {
                return Err(Refusal::bad_request(format!(
                    "more than {MOST_WANTED} parameters: write fewer, or ask twice"
                )));
            }
            match &*key {
                "namespace" => filter.namespaces.push(value.into_owned()),
                "type" => filter.kinds.push(value.parse().map_err(Refusal::bad_request)?),
                "label" => match value.split_once('=') {
                    Some((name, value)) if !name.is_empty() => {
                        filter.labels.push((name.to_owned(), value.to_owned()));
                    }
                    _ => return Err(Refusal::bad_request(format!("label={value:?} is not of the form name=value"))),
                },
                other => {
                    let text = format!("unknown parameter {other:?}: there are namespace, type and label");
                    return Err(Refusal::bad_request(text));
                }
            }
        }
        Ok(filter)
    }

    fn wants(&self, target: &Target) -> bool {
        (self.namespaces.is_empty() || self.namespaces.iter().any(|namespace| **namespace == *target.id.namespace))
            && (self.kinds.is_empty() || self.kinds.contains(&target.source.kind))
            && self.labels.iter().all(|wanted| target.labels().get(&wanted.0) == Some(&wanted.1))
    }
}
