//! Objects of the Prometheus Operator: `Probe`, and `ServiceMonitor` as the chart of the blackbox exporter writes it.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::AskedTargets;
use super::blackbox::DEFAULT_MODULE;
use super::block::{Block, BlockField};
use super::limits::limits;
use super::relabel::{Labels, RelabelStep, Spelling, steps};
use super::report::{Reporter, quoted};
use super::scrape_config::{DEFAULT_TIMEOUT, NO_JOB, parameters};
use crate::crd::{is_dns_label, is_label_key, is_label_value};
use crate::yaml::{Data, Node};

/// What the Operator writes into the configuration of Prometheus where an object has no interval.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);

/// How Prometheus reaches the blackbox exporter.
const CONNECTION: &str = "scheme tlsConfig bearerTokenFile bearerTokenSecret basicAuth oauth2 authorization proxyUrl noProxy \
    proxyFromEnvironment proxyConnectHeader enableHttp2";

/// How Prometheus treats what it has scraped.
const SCRAPING: &str = "keepDroppedTargets nativeHistogramBucketLimit nativeHistogramMinBucketFactor convertClassicHistogramsToNHCB \
    scrapeClassicHistograms scrapeNativeHistograms scrapeProtocols fallbackScrapeProtocol honorTimestamps \
    trackTimestampsStaleness filterRunning";

/// Labels by which tools find the objects that they have written.
const LABELS_OF_TOOLS: [&str; 8] = [
    "app.kubernetes.io/",
    "helm.sh/",
    "argocd.argoproj.io/",
    "kustomize.toolkit.fluxcd.io/",
    "helm.toolkit.fluxcd.io/",
    "chart",
    "heritage",
    "pod-template-hash",
];

/// Reads one document.
pub(super) fn read(node: &Node, path: &str, requests: &mut AskedTargets, reporter: &mut Reporter) {
    let text = |key: &str| node.get(key).and_then(Node::scalar).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if !matches!(node.data, Data::Map(_)) || kind.is_empty() {
        reporter.fault(node.line, path, "is no object of Kubernetes: write apiVersion, kind, metadata and spec");
        return;
    }
    if kind.ends_with("List") && node.get("items").is_some() {
        let Some(items) = node.get("items") else { return };
        for (index, item) in items.items().iter().enumerate() {
            read(
                item,
                &format!("{}items[{index}]", if path.is_empty() { String::new() } else { format!("{path}.") }),
                requests,
                reporter,
            );
        }
        return;
    }
    let name =
        node.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Node::scalar).unwrap_or_default();
    let place = format!("{kind} {}", name.chars().take(253).collect::<String>());
    let is_operator = version.starts_with("monitoring.coreos.com/");
    match kind {
        "Probe" if is_operator => probe(node, &place, requests, reporter),
        "ServiceMonitor" if is_operator => service_monitor(node, &place, requests, reporter),
        "ScrapeConfig" | "PodMonitor" if is_operator => {
            let message = "is not converted: write the targets that it names as ScrapeTargets";
            reporter.remark(node.line, &place, message);
        }
        "Ingress" => {
            let message = "is not converted: write a ScrapeTarget for each of its hosts";
            reporter.remark(node.line, &place, message);
        }
        _ => {
            let shown = if version.is_empty() { kind.to_owned() } else { format!("{version} {kind}") };
            let message = format!("is left alone: targets are in Probe and ServiceMonitor, not in {}", quoted(&shown));
            reporter.remark(node.line, &place, message);
        }
    }
}

/// What both kinds of objects say about themselves.
struct ObjectOrigin {
    name: String,
    namespace: String,
    monitor: Map<String, Value>,
}

fn origin(object: &mut Block<'_>, place: &str, reporter: &mut Reporter) -> Option<ObjectOrigin> {
    object.any_of("apiVersion kind status");
    let Some(metadata) = object.node("metadata") else {
        reporter.fault(object.line, place, "has no metadata.name, write it");
        return None;
    };
    let mut metadata = Block::open(metadata.node, &format!("{place}: metadata"), reporter)?;
    let name = metadata.filled("name", reporter);
    let namespace = metadata.filled("namespace", reporter);
    let labels = metadata.text_map("labels", reporter);
    if name.is_none() {
        reporter.fault(metadata.line, place, "has no metadata.name, write it");
    }
    let mut monitor = Map::new();
    let labels = monitor_labels(labels, place, object.line, reporter);
    if !labels.is_empty() {
        monitor.insert("labels".to_owned(), Value::Object(labels));
    }
    let namespace = namespace.map(|namespace| namespace.value).unwrap_or_default();
    if !namespace.is_empty() && !is_dns_label(&namespace) {
        reporter.fault(object.line, place, format!("{} is no name of a namespace", quoted(&namespace)));
    }
    Some(ObjectOrigin { name: name?.value, namespace, monitor })
}

/// Labels by which a Prometheus selects what it scrapes. Those of the tool that wrote the object would make the tool take ours for its own.
pub(super) fn monitor_labels(
    labels: Vec<(String, BlockField<'_, String>)>,
    place: &str,
    line: usize,
    reporter: &mut Reporter,
) -> Map<String, Value> {
    let mut kept = Map::new();
    let mut left = Vec::new();
    for (label, value) in labels {
        let is_of_tool =
            LABELS_OF_TOOLS.iter().any(|own| label == *own || own.ends_with('/') && label.starts_with(own));
        if !is_of_tool && is_label_key(&label) && is_label_value(&value.value) && kept.len() < 32 {
            kept.insert(label, json!(value.value));
        } else {
            left.push(label.chars().take(80).collect::<String>());
        }
    }
    if !left.is_empty() {
        let message = format!(
            "its labels {} are left out of the monitor: they are those of the tool that wrote it",
            left.join(", ")
        );
        reporter.remark(line, place, message);
    }
    kept
}

/// A request as far as the two kinds of objects say it in the same way.
fn times(block: &mut Block<'_>, place: &str, reporter: &mut Reporter) -> (Duration, Duration) {
    let interval = block.prometheus_duration("interval", reporter);
    let timeout = block.prometheus_duration("scrapeTimeout", reporter);
    if interval.is_none() {
        let message = "has no interval, and the one of your Prometheus is not known here: 30s is written, the default of the Operator";
        reporter.remark(block.line, place, message);
    }
    let interval = interval.map_or(DEFAULT_INTERVAL, |interval| interval.value);
    (interval, timeout.map_or_else(|| DEFAULT_TIMEOUT.min(interval), |timeout| timeout.value))
}

fn left_out(block: &mut Block<'_>, place: &str, reporter: &mut Reporter) {
    for field in block.any_of(CONNECTION) {
        if field.node.scalar() == Some("http") {
            continue; // the default scheme
        }
        let message = format!("{} is left out: it is about the connection to the blackbox exporter", field.value);
        reporter.remark(field.line(), place, message);
    }
    for field in block.any_of(SCRAPING) {
        let message = format!(
            "{} is left out: it is about how Prometheus scrapes, and the monitors of targets do not set it",
            field.value
        );
        reporter.remark(field.line(), place, message);
    }
}

/// Steps whose labels are known here. What reads the labels of discovered objects cannot be carried out.
fn known_steps(steps: Vec<RelabelStep>, reporter: &mut Reporter) -> Vec<RelabelStep> {
    let reads_unknown =
        |step: &RelabelStep| step.source_labels.iter().any(|label| label.starts_with("__meta_kubernetes"));
    let (unknown, known): (Vec<_>, Vec<_>) = steps.into_iter().partition(reads_unknown);
    for step in unknown {
        let message = "is left out: it reads labels of objects in the cluster; write the label into the targets";
        reporter.remark(step.line, &step.path, message);
    }
    known
}

fn probe(node: &Node, place: &str, requests: &mut AskedTargets, reporter: &mut Reporter) {
    let Some(mut object) = Block::open(node, place, reporter) else { return };
    let Some(origin) = origin(&mut object, place, reporter) else { return };
    let Some(mut spec) = object.block("spec", reporter) else {
        reporter.fault(node.line, place, "has no spec");
        return;
    };
    object.close(reporter);
    let job = spec.filled("jobName", reporter).map(|job| job.value);
    let module = spec.filled("module", reporter).map_or_else(|| DEFAULT_MODULE.to_owned(), |module| module.value);
    let times = times(&mut spec, place, reporter);
    left_out(&mut spec, place, reporter);
    let limits = limits(&mut spec, Spelling::Camel, reporter);
    let metric_steps = spec.list("metricRelabelings", reporter);
    let metric_steps = steps(metric_steps, Spelling::Camel, reporter).unwrap_or_default();
    let scrape_class = spec.filled("scrapeClass", reporter);
    let parameters = probe_parameters(&mut spec, reporter);
    let mut prober_path = "/probe".to_owned();
    if let Some(mut prober) = spec.block("prober", reporter) {
        prober.any_of("url");
        prober.any_of(CONNECTION);
        if let Some(path) = prober.filled("path", reporter) {
            prober_path = path.value;
        }
        prober.close(reporter);
    }
    let targets = spec.block("targets", reporter);
    spec.close(reporter);
    if !prober_path.ends_with("/probe") {
        reporter.remark(
            node.line,
            place,
            format!("is not converted: its prober's path {} is not that of a blackbox exporter", quoted(&prober_path)),
        );
        return;
    }
    let Some(mut targets) = targets else {
        reporter.remark(node.line, place, "has no targets");
        return;
    };
    if let Some(ingress) = targets.node("ingress") {
        let message = "targets.ingress is not converted: the hosts of Ingresses change in the cluster; write a ScrapeTarget for each host";
        reporter.remark(ingress.line(), place, message);
    }
    let static_config = targets.block("staticConfig", reporter);
    targets.close(reporter);
    let Some(mut static_config) = static_config else { return };
    let addresses = static_config.texts("static", reporter);
    let labels = static_config.text_map("labels", reporter);
    let relabelings = static_config.list("relabelingConfigs", reporter);
    static_config.close(reporter);
    let Some(relabelings) = steps(relabelings, Spelling::Camel, reporter) else {
        reporter.remark(node.line, place, "its targets are not converted, since its relabelings cannot be carried out");
        return;
    };
    let relabelings = known_steps(relabelings, reporter);
    let mut monitor = origin.monitor;
    monitor.extend(limits);
    if let Some(class) = scrape_class {
        let message = "scrapeClass is kept: the installation must allow it by discovery.allowed-scrape-class";
        reporter.remark(class.line(), place, message);
        monitor.insert("scrapeClass".to_owned(), json!(class.value));
    }
    let Some(parameters) = parameters else { return };
    let namespace = requests.namespace_of(&origin.namespace);
    for address in addresses {
        let mut all = Labels::new();
        let job = job.clone().unwrap_or_else(|| format!("probe/{}/{}", origin.namespace, origin.name));
        all.insert("job".to_owned(), job);
        all.insert("__address__".to_owned(), address.value.clone());
        all.insert("__param_target".to_owned(), address.value.clone());
        all.insert("__param_module".to_owned(), module.clone());
        all.insert("instance".to_owned(), address.value);
        all.extend(parameters.clone());
        if !origin.namespace.is_empty() {
            all.insert("namespace".to_owned(), origin.namespace.clone());
        }
        all.extend(labels.iter().map(|(label, value)| (label.clone(), value.value.clone())));
        if !relabelings.iter().all(|step| step.apply(&mut all)) {
            let message = format!(
                "{} is not converted: relabelingConfigs drops it, as in Prometheus",
                quoted(all.get("__param_target").map_or("", String::as_str))
            );
            reporter.remark(address.node.line, place, message);
            continue;
        }
        requests.add_labelled(all, times, (address.node.line, place), reporter, |request, reporter| {
            request.namespace.clone_from(&namespace);
            request.monitor.extend(monitor.clone());
            request.metric_relabelings(&metric_steps, reporter);
            if request.job.is_none() {
                reporter.remark(address.node.line, place, NO_JOB);
            }
        });
    }
}

/// `params` of a Probe, as labels; `None` if nothing can be converted.
fn probe_parameters(spec: &mut Block<'_>, reporter: &mut Reporter) -> Option<Labels> {
    let mut all = Vec::new();
    for item in spec.list("params", reporter) {
        let Some(mut inner) = Block::open(item.node, &item.path, reporter) else { continue };
        let name = inner.filled("name", reporter);
        let values = inner.texts("values", reporter);
        inner.close(reporter);
        if let Some(name) = name {
            all.push((name.value, item.with(values.into_iter().map(|value| value.value).collect())));
        }
    }
    parameters(all, reporter)
}

fn service_monitor(node: &Node, place: &str, requests: &mut AskedTargets, reporter: &mut Reporter) {
    let endpoints = node.get("spec").and_then(|spec| spec.get("endpoints")).map(Node::items).unwrap_or_default();
    let asks = |endpoint: &Node| {
        let path = endpoint.get("path").and_then(Node::scalar).unwrap_or_default();
        path.trim_end_matches('/').ends_with("/probe") && endpoint.get("params").is_some()
    };
    if !endpoints.iter().any(asks) {
        reporter.remark(node.line, place, "is left alone: it does not ask a blackbox exporter for a target");
        return;
    }
    let Some(mut object) = Block::open(node, place, reporter) else { return };
    let Some(origin) = origin(&mut object, place, reporter) else { return };
    let Some(mut spec) = object.block("spec", reporter) else { return };
    object.close(reporter);
    spec.any_of("selector namespaceSelector selectorMechanism serviceDiscoveryRole");
    for field in spec.any_of("jobLabel targetLabels podTargetLabels attachMetadata") {
        let message = format!("{} is left out: it names labels of the blackbox exporter's own objects", field.value);
        reporter.remark(field.line(), place, message);
    }
    left_out(&mut spec, place, reporter);
    let mut monitor = origin.monitor;
    monitor.extend(limits(&mut spec, Spelling::Camel, reporter));
    if let Some(class) = spec.filled("scrapeClass", reporter) {
        let message = "scrapeClass is kept: the installation must allow it by discovery.allowed-scrape-class";
        reporter.remark(class.line(), place, message);
        monitor.insert("scrapeClass".to_owned(), json!(class.value));
    }
    let endpoints = spec.list("endpoints", reporter);
    spec.close(reporter);
    let namespace = requests.namespace_of(&origin.namespace);
    for item in endpoints {
        if !asks(item.node) {
            reporter.remark(item.line(), &item.path, "is left alone: it does not ask a blackbox exporter for a target");
            continue;
        }
        let Some(mut endpoint) = Block::open(item.node, &item.path, reporter) else { continue };
        endpoint.any_of("path port targetPort");
        let times = times(&mut endpoint, place, reporter);
        let parameters = parameters(endpoint.list_map("params", reporter), reporter);
        left_out(&mut endpoint, place, reporter);
        let limits = limits(&mut endpoint, Spelling::Camel, reporter);
        endpoint.any_of("followRedirects metricNameValidationScheme");
        let honors_labels = endpoint.flag("honorLabels", reporter).is_some_and(|flag| flag.value);
        let relabelings = endpoint.list("relabelings", reporter);
        let metric_relabelings = endpoint.list("metricRelabelings", reporter);
        endpoint.close(reporter);
        let Some(relabelings) = steps(relabelings, Spelling::Camel, reporter) else {
            reporter.remark(item.line(), place, "is not converted, since its relabelings cannot be carried out");
            continue;
        };
        let relabelings = known_steps(relabelings, reporter);
        let metric_steps = steps(metric_relabelings, Spelling::Camel, reporter).unwrap_or_default();
        let Some(mut all) = parameters else { continue };
        if !relabelings.iter().all(|step| step.apply(&mut all)) {
            reporter.remark(item.line(), place, "is not converted: its relabelings drop it, as in Prometheus");
            continue;
        }
        requests.add_labelled(all, times, (item.line(), place), reporter, |request, reporter| {
            request.namespace.clone_from(&namespace);
            request.monitor.extend(monitor.clone());
            request.monitor.extend(limits);
            if honors_labels {
                request.monitor.insert("honorLabels".to_owned(), json!(true));
            }
            request.metric_relabelings(&metric_steps, reporter);
            if request.job.is_none() {
                let message = "the label job was the name of the Service of the blackbox exporter, which is not known here: write monitor.job";
                reporter.remark(item.line(), place, message);
            }
        });
    }
}
