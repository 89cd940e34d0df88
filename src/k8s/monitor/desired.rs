//! The ServiceMonitor that a target should have. Pure: the same target always gives the same object.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use super::super::catalog::Object;
use super::super::{MonitorNamespace, Settings};
use super::features::Features;
use super::place::Place;
use super::relabeling::{refuse_variables, relabelings};
use super::security::{Security, security};
use super::trust::{refuse_forgery, scrape_class};
use super::unwritten::Unwritten;
use super::{API_VERSION, KIND, labels};
use crate::crd::{self, Monitor, ScrapeTargetSpec};
use crate::time::PromDuration;

/// The part of a ServiceMonitor that is ours: `metadata.labels`, `.annotations`, `.ownerReferences`, and `spec`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Desired {
    pub(super) part: Value,
    /// Of [`part`](Self::part).
    pub(super) mark: u64,
}

impl Desired {
    /// What is applied at `place`. With the `uid` of an object that was seen, it is applied to that one or not at all.
    pub(super) fn manifest(&self, place: &Place, uid: Option<&str>) -> Value {
        let mut manifest = self.part.clone();
        manifest["apiVersion"] = json!(API_VERSION);
        manifest["kind"] = json!(KIND);
        manifest["metadata"]["name"] = json!(place.name);
        manifest["metadata"]["namespace"] = json!(place.namespace);
        if let Some(uid) = uid {
            manifest["metadata"]["uid"] = json!(uid);
        }
        manifest
    }
}

/// A number that differs where the values differ. Good for as long as this process lives.
pub(super) fn mark(part: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    part.hash(&mut hasher);
    hasher.finish()
}

/// The ServiceMonitor that `object`, declared by `spec`, should have, without fields that the installed Operator does not know.
pub(super) fn desired(
    object: &Object,
    spec: &ScrapeTargetSpec,
    settings: &Settings,
    features: Features,
) -> Result<Desired, Unwritten> {
    let default = Monitor::default();
    let monitor = spec.monitor.as_ref().unwrap_or(&default);
    wanted(spec, monitor)?;
    refuse_variables(spec)?;
    refuse_forgery(monitor)?;
    let part = json!({
        "metadata": metadata(object, monitor, settings),
        "spec": spec_of(object, spec, monitor, settings, features)?,
    });
    Ok(Desired { mark: mark(&part), part })
}

fn wanted(spec: &ScrapeTargetSpec, monitor: &Monitor) -> Result<(), Unwritten> {
    if !monitor.enabled {
        Err(Unwritten::Disabled("spec.monitor.enabled is false".to_owned()))
    } else if spec.suspend {
        Err(Unwritten::Disabled("spec.suspend is true".to_owned()))
    } else {
        Ok(())
    }
}

/// Nothing of the ScrapeTarget's own labels and annotations: tools that track by them would take the monitor for one
/// of their objects, and delete it.
fn metadata(object: &Object, monitor: &Monitor, settings: &Settings) -> Value {
    let (id, discovery) = (&object.id, &settings.discovery);
    let mut labels: BTreeMap<&str, &str> = BTreeMap::new();
    let mut annotations: BTreeMap<&str, &str> = BTreeMap::new();
    // By the labels of our domain we know our monitors and their targets: they are not the user's to write. Nor is what would make a
    // monitor in our namespace look like a part of what a GitOps tool looks after there.
    let in_release = discovery.monitor_namespace == MonitorNamespace::Release;
    let reserved = |key: &str| key.starts_with(labels::DOMAIN) || in_release && labels::is_tracking(key);
    let written = |texts| pairs(texts).filter(|(key, _)| !reserved(key));
    labels.extend(pairs(&discovery.monitor_labels).chain(written(&monitor.labels)));
    annotations.extend(pairs(&discovery.monitor_annotations).chain(written(&monitor.annotations)));
    labels.extend(labels::of_release(settings));
    let mut metadata = Map::new();
    match discovery.monitor_namespace {
        MonitorNamespace::Target => {
            // No blockOwnerDeletion: it asks for the right to set finalizers, and nobody waits for a monitor.
            let owner = json!({
                "apiVersion": crd::API_VERSION,
                "kind": "ScrapeTarget",
                "name": id.name,
                "uid": object.uid,
                "controller": true,
            });
            metadata.insert("ownerReferences".to_owned(), json!([owner]));
        }
        // An owner must be in the same namespace.
        MonitorNamespace::Release => {
            labels.insert(labels::TARGET_NAMESPACE, &id.namespace);
            let fits = id.name.len() <= 63;
            let place = if fits { &mut labels } else { &mut annotations };
            place.insert(labels::TARGET_NAME, &id.name);
        }
    }
    if !annotations.is_empty() {
        metadata.insert("annotations".to_owned(), json!(annotations));
    }
    metadata.insert("labels".to_owned(), json!(labels));
    Value::Object(metadata)
}

fn pairs(texts: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    texts.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

fn spec_of(
    object: &Object,
    spec: &ScrapeTargetSpec,
    monitor: &Monitor,
    settings: &Settings,
    features: Features,
) -> Result<Value, Unwritten> {
    let class = scrape_class(monitor, &settings.discovery)?.filter(|_| features.scrape_class);
    let Security { tls, basic_auth } = security(&settings.discovery, class.is_some())?;
    let mut endpoint = json!({
        "port": "http",
        "path": "/probe",
        "params": { "target": [object.id.to_string()] },
        "interval": PromDuration::from(spec.effective_scrape_interval()),
        "scrapeTimeout": PromDuration::from(spec.effective_scrape_timeout()),
        "scheme": settings.discovery.scheme.as_str(),
        "relabelings": relabelings(&object.id, spec, settings),
    });
    if !monitor.metric_relabelings.is_empty() {
        endpoint["metricRelabelings"] = json!(monitor.metric_relabelings);
    }
    if let Some(tls) = tls {
        endpoint["tlsConfig"] = tls.into();
    }
    if let Some(basic_auth) = basic_auth {
        endpoint["basicAuth"] = basic_auth.into();
    }
    let mut made = json!({
        "selector": { "matchLabels": { (labels::PROBE): settings.release } },
        "namespaceSelector": { "matchNames": [settings.namespace] },
        "endpoints": [endpoint],
    });
    if let Some(class) = class {
        made["scrapeClass"] = json!(class);
    }
    // Each monitor is a job of its own, and each job would look at every endpoint of our namespace and keep those it drops.
    if features.selector_mechanism {
        made["selectorMechanism"] = json!("RoleSelector");
    }
    if features.keep_dropped_targets {
        made["keepDroppedTargets"] = json!(1);
    }
    Ok(made)
}

#[cfg(test)]
pub(super) mod tests;
