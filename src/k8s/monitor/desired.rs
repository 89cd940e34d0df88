//! The ServiceMonitor that a target should have: its name, its metadata and its spec. Pure: the same target always results in the same
//! object.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::condition;
use super::defaults::EffectiveSettings;
use super::operator::OperatorFeatures;
use super::policy::{check_relabelings, check_variables, scrape_class};
use super::{API_VERSION, KIND, labels};
use crate::crd::{self, Monitor, ScrapeTargetSpec};
use crate::k8s::observed::ObservedTarget;
use crate::k8s::target_store::MonitorState;
use crate::k8s::{Discovery, MonitorNamespace, Scheme, Settings};
use crate::target::{TargetId, identity_labels};
use crate::time::PromDuration;

/// Namespace and name of a ServiceMonitor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::k8s) struct MonitorRef {
    pub(in crate::k8s) namespace: Arc<str>,
    pub(in crate::k8s) name: Arc<str>,
}

impl MonitorRef {
    /// The monitor of the target `id`: beside it under the same name, or in our namespace under a name made from both parts of `id`.
    pub(super) fn of_target(id: &TargetId, settings: &Settings) -> Self {
        match settings.discovery.monitor_namespace {
            MonitorNamespace::Target => Self { namespace: Arc::clone(&id.namespace), name: Arc::clone(&id.name) },
            MonitorNamespace::Release => {
                Self { namespace: settings.namespace.as_str().into(), name: name_in_release(id).into() }
            }
        }
    }
}

impl fmt::Display for MonitorRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The longest part of a target's name that becomes a part of its monitor's name.
const NAME_PREFIX: usize = 40;

/// A name that survives restarts and upgrades and is different for every target.
///
/// The whole namespace stands before the first dot, and a namespace cannot contain one: even a target name chosen to collide with the
/// hash of another cannot reach the monitor of another namespace.
fn name_in_release(id: &TargetId) -> String {
    let prefix = id.name.get(..NAME_PREFIX).unwrap_or(&id.name).trim_end_matches(['.', '-']);
    format!("{}.{prefix}-{:016x}", id.namespace, fnv1a(&id.to_string()))
}

/// 64-bit FNV-1a. The hasher of the standard library may change with any version of Rust.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The fields that we apply: `metadata.labels`, `.annotations`, `.ownerReferences`, and `spec`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DesiredMonitor {
    pub(super) fields: Value,
    /// What the target declares in vain, a sentence each.
    pub(super) ignored: Vec<String>,
    /// [`hash`] of the fields.
    pub(super) hash: u64,
}

impl DesiredMonitor {
    /// The ServiceMonitor of the target `object` with the spec `spec`, without fields that the installed Operator does not know; or the
    /// condition that says why it has none.
    pub(super) fn new(
        object: &ObservedTarget,
        spec: &ScrapeTargetSpec,
        settings: &Settings,
        features: OperatorFeatures,
    ) -> Result<Self, MonitorState> {
        let default = Monitor::default();
        let monitor = spec.monitor.as_ref().unwrap_or(&default);
        if !monitor.enabled {
            return Err(condition::disabled("spec.monitor.enabled is false"));
        }
        if spec.suspend {
            return Err(condition::disabled("spec.suspend is true"));
        }
        check_variables(spec)?;
        check_relabelings(monitor)?;
        let effective = settings.discovery.monitor_defaults.narrowed_by(monitor);
        let fields = json!({
            "metadata": metadata(object, monitor, settings),
            "spec": monitor_spec(&object.id, spec, monitor, &effective, settings, features)?,
        });
        Ok(Self { hash: hash(&fields), fields, ignored: effective.ignored })
    }

    /// The object to apply. With `uid`, the API server applies it to the object with that uid or not at all.
    pub(super) fn manifest(&self, monitor: &MonitorRef, uid: Option<&str>) -> Value {
        let mut manifest = self.fields.clone();
        manifest["apiVersion"] = json!(API_VERSION);
        manifest["kind"] = json!(KIND);
        manifest["metadata"]["name"] = json!(monitor.name);
        manifest["metadata"]["namespace"] = json!(monitor.namespace);
        if let Some(uid) = uid {
            manifest["metadata"]["uid"] = json!(uid);
        }
        manifest
    }
}

/// Compared instead of whole objects. It is not stable across versions of Rust, so it must not leave the process.
pub(super) fn hash(fields: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    fields.hash(&mut hasher);
    hasher.finish()
}

/// Labels and annotations of the ScrapeTarget itself are not copied: tools such as Argo CD track objects by them, and would take the monitor
/// for one of theirs and prune it.
fn metadata(object: &ObservedTarget, monitor: &Monitor, settings: &Settings) -> Value {
    let (id, discovery) = (&object.id, &settings.discovery);
    let in_release = discovery.monitor_namespace == MonitorNamespace::Release;
    // Our own labels say which monitors are ours and whose targets they are, so users cannot set them. In our namespace they cannot set
    // either what such a tool would take for a part of our installation.
    let reserved = |key: &str| key.starts_with(labels::DOMAIN) || in_release && labels::is_tracking(key);
    let from_user = |texts| pairs(texts).filter(|(key, _)| !reserved(key));
    let mut labels: BTreeMap<&str, &str> = BTreeMap::new();
    let mut annotations: BTreeMap<&str, &str> = BTreeMap::new();
    labels.extend(pairs(&discovery.monitor_labels).chain(from_user(&monitor.labels)));
    annotations.extend(pairs(&discovery.monitor_annotations).chain(from_user(&monitor.annotations)));
    labels.extend(labels::of_release(settings));
    let mut metadata = Map::new();
    if in_release {
        // An owner must be in the namespace of what it owns, so labels name the target instead.
        labels.insert(labels::TARGET_NAMESPACE, &id.namespace);
        let fits_label = id.name.len() <= 63;
        let names = if fits_label { &mut labels } else { &mut annotations };
        names.insert(labels::TARGET_NAME, &id.name);
    } else {
        // Without blockOwnerDeletion, which needs the right to set finalizers.
        let owner = json!({
            "apiVersion": crd::API_VERSION,
            "kind": "ScrapeTarget",
            "name": id.name,
            "uid": object.uid,
            "controller": true,
        });
        metadata.insert("ownerReferences".to_owned(), json!([owner]));
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

fn monitor_spec(
    id: &TargetId,
    spec: &ScrapeTargetSpec,
    monitor: &Monitor,
    effective: &EffectiveSettings,
    settings: &Settings,
    features: OperatorFeatures,
) -> Result<Value, MonitorState> {
    let defaults = &settings.discovery.monitor_defaults;
    let class = scrape_class(monitor, &settings.discovery)?.filter(|_| features.scrape_class);
    let EndpointAuth { tls, basic_auth } = EndpointAuth::new(&settings.discovery, class.is_some())?;
    let mut endpoint = json!({
        "port": "http",
        "path": "/probe",
        "params": { "target": [id.to_string()] },
        "interval": PromDuration::from(spec.effective_scrape_interval()),
        "scrapeTimeout": PromDuration::from(spec.effective_scrape_timeout()),
        "scheme": settings.discovery.scheme.as_str(),
        "relabelings": relabelings(id, spec, monitor, settings),
    });
    if effective.honor_labels {
        endpoint["honorLabels"] = json!(true);
    }
    let of_samples: Vec<_> = monitor.metric_relabelings.iter().chain(&defaults.metric_relabelings).collect();
    if !of_samples.is_empty() {
        endpoint["metricRelabelings"] = json!(of_samples);
    }
    if let Some(proxy) = &defaults.proxy_url {
        endpoint["proxyUrl"] = json!(proxy.as_str());
    }
    if let Some(tls) = tls {
        endpoint["tlsConfig"] = tls.into();
    }
    if let Some(basic_auth) = basic_auth {
        endpoint["basicAuth"] = basic_auth.into();
    }
    let mut fields = json!({
        "selector": { "matchLabels": { (labels::PROBE): settings.release } },
        "namespaceSelector": { "matchNames": [settings.namespace] },
        "endpoints": [endpoint],
    });
    for (limit, value) in &effective.limits {
        fields[limit] = value.clone();
    }
    if let Some(class) = class {
        fields["scrapeClass"] = json!(class);
    }
    // Each monitor is a scrape job of its own. Without these two fields, each job would discover every endpoint of our namespace and
    // keep a record of those that it drops.
    if features.selector_mechanism {
        fields["selectorMechanism"] = json!("RoleSelector");
    }
    if features.keep_dropped_targets {
        fields["keepDroppedTargets"] = json!(1);
    }
    Ok(fields)
}

/// Labels that the Operator takes from the pod that is scraped. They would start new series for all targets whenever another replica
/// leads, and families of targets may have a label `service` of their own.
const POD_LABELS: &str = "service|pod|container|endpoint";

/// The steps that give a target's series the same labels as `/sd` does: ours, then the user's, then those of the installation, which the user
/// thus cannot undo, then the target's identity once more, so that the steps before may read it but not replace it.
///
/// They are relabelings of the target rather than of its samples, so that `up` and the other series of Prometheus have these labels too.
fn relabelings(id: &TargetId, spec: &ScrapeTargetSpec, monitor: &Monitor, settings: &Settings) -> Vec<Value> {
    let mut steps = endpoint_steps(settings).to_vec();
    steps.extend(spec.labels.iter().map(|(label, value)| constant(label, value)));
    steps.extend(identity_steps(id, spec));
    let mut further = monitor.relabelings.iter().chain(&settings.discovery.monitor_defaults.relabelings).peekable();
    if further.peek().is_some() {
        steps.extend(further.map(|step| json!(step)));
        steps.extend(identity_steps(id, spec));
    }
    steps
}

/// Which endpoint is scraped, and which of its labels are dropped.
fn endpoint_steps(settings: &Settings) -> [Value; 2] {
    [
        // Anybody who may create a Service can give it the label that monitors select, in our namespace or, where Prometheus ignores
        // namespaceSelectors, in any other. It must not be scraped with our credentials.
        json!({
            "action": "keep",
            "sourceLabels": ["__meta_kubernetes_namespace", "__meta_kubernetes_service_name"],
            "regex": format!("{};{}", settings.namespace, settings.discovery.service),
        }),
        // Before the user's labels, so that none of those is dropped.
        json!({ "action": "labeldrop", "regex": POD_LABELS }),
    ]
}

/// The labels that identify the target, and the shard it belongs to.
fn identity_steps(id: &TargetId, spec: &ScrapeTargetSpec) -> Vec<Value> {
    // All targets have the same address: without a hash of their own, all would be on one shard of Prometheus.
    let mut steps = vec![name_of_target("__tmp_hash")];
    let name = id.to_string();
    steps
        .extend(identity_labels(id, spec).map(|(label, value)| {
            if value == name.as_str() { name_of_target(label) } else { constant(label, &value) }
        }));
    steps
}

/// Writes `namespace/name` of the target into a label.
fn name_of_target(label: &str) -> Value {
    json!({ "action": "replace", "sourceLabels": ["__param_target"], "targetLabel": label })
}

/// Whether `step` is one of those that we write into a monitor of `id`, whatever relabelings its user declares. She chooses the values of
/// `job` and `instance` by other fields, and may have chosen another one since.
pub(super) fn is_own_step(step: &Value, id: &TargetId, settings: &Settings) -> bool {
    let is_chosen = || {
        let (label, value) = (step["targetLabel"].as_str(), step["replacement"].as_str());
        label.zip(value).is_some_and(|(label, value)| {
            // As instance she may choose her own url, and nothing that looks like the name of another target.
            let may_be = label == "job" || label == "instance" && value.contains("://");
            may_be && *step == constant(label, &value.replace("$$", "$"))
        })
    };
    let fixed = [
        name_of_target("__tmp_hash"),
        name_of_target("instance"),
        name_of_target("job"),
        constant("namespace", &id.namespace),
        constant("target_namespace", &id.namespace),
        constant("target_name", &id.name),
    ];
    endpoint_steps(settings).contains(step) || fixed.contains(step) || is_chosen()
}

fn constant(label: &str, value: &str) -> Value {
    // A single dollar would refer to a group of the regular expression.
    json!({ "action": "replace", "targetLabel": label, "replacement": value.replace('$', "$$") })
}

/// Fields of `tlsConfig` that refer to Secrets and ConfigMaps.
const TLS_REFERENCES: [&str; 3] = ["ca", "cert", "keySecret"];

/// How Prometheus authenticates our listener and itself, as far as an endpoint of a ServiceMonitor can express it.
///
/// The Operator reads Secrets and ConfigMaps in the monitor's own namespace, and those of the installation are in ours.
#[derive(Debug, Default, PartialEq)]
struct EndpointAuth {
    tls: Option<Map<String, Value>>,
    basic_auth: Option<Map<String, Value>>,
}

impl EndpointAuth {
    /// `has_class`: a scrape class of the Operator may add what the endpoint cannot express.
    fn new(discovery: &Discovery, has_class: bool) -> Result<Self, MonitorState> {
        let Discovery { monitor_namespace, scheme, tls, basic_auth, listener, .. } = discovery;
        let tls = tls.as_ref().filter(|_| *scheme == Scheme::Https);
        let has_tls = |fields: &[&str]| tls.is_some_and(|tls| fields.iter().any(|field| tls.contains_key(*field)));
        let needs_password = listener.users || basic_auth.is_some();
        let mut missing = Vec::new();
        // A scrape class can hold certificates and a token, but no user and password.
        match monitor_namespace {
            MonitorNamespace::Release => {
                if listener.client_certificates && !has_tls(&["cert", "certFile"]) {
                    missing.push("a client certificate, which discovery.tls does not name");
                }
                if listener.users && basic_auth.is_none() {
                    missing.push("a user and password, which discovery.basicAuth does not name");
                }
                if missing.is_empty() || has_class && (!needs_password || basic_auth.is_some()) {
                    return Ok(Self { tls: tls.cloned(), basic_auth: basic_auth.clone() });
                }
                let needs = missing.join("; ");
                Err(condition::not_portable(format!(
                    "our listener requires {needs}: set it, or for certificates discovery.scrapeClass"
                )))
            }
            MonitorNamespace::Target => {
                if has_tls(&TLS_REFERENCES) {
                    missing.push("the Secrets or ConfigMaps of discovery.tls");
                } else if listener.client_certificates && !has_tls(&["certFile"]) {
                    missing.push("a client certificate");
                }
                if needs_password {
                    missing.push("a user and password, which no scrape class can hold");
                }
                if missing.is_empty() || has_class && !needs_password {
                    let mut tls = tls.cloned().unwrap_or_default();
                    tls.retain(|field, _| !TLS_REFERENCES.contains(&field.as_str()));
                    return Ok(Self { tls: Some(tls).filter(|tls| !tls.is_empty()), basic_auth: None });
                }
                Err(condition::not_portable(format!(
                    "Prometheus needs {} to scrape us, and a ServiceMonitor in the namespace of its target cannot refer to Secrets and \
                     ConfigMaps of \
                     another namespace: set discovery.monitorNamespace to release, or for certificates discovery.scrapeClass to a \
                     scrape class of Prometheus that has them",
                    missing.join(" and ")
                )))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
