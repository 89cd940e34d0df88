//! Values of the Helm chart of the blackbox exporter: its modules, and the targets for which it writes ServiceMonitors.

use std::time::Duration;

use serde_json::{Map, Value};

use super::AskedTargets;
use super::blackbox::DEFAULT_MODULE;
use super::block::{Block, BlockField};
use super::operator::monitor_labels;
use super::relabel::{Labels, RelabelStep, Spelling, steps};
use super::report::Reporter;
use crate::yaml::Node;

/// What the chart writes where nothing is written.
const DEFAULT_TIMES: Duration = Duration::from_secs(30);

/// The name of the chart, below which an umbrella chart has its values.
const CHART: &str = "prometheus-blackbox-exporter";

/// The values of the chart itself, also if they are a part of those of an umbrella chart; and the path of that part.
pub(super) fn own_values(root: &Node) -> (&Node, &'static str) {
    let has_own = ["config", "serviceMonitor"].iter().any(|key| root.get(key).is_some());
    match root.get(CHART) {
        Some(inner) if !has_own => (inner, CHART),
        _ => (root, ""),
    }
}

/// What a target has unless it says otherwise.
#[derive(Default)]
struct Defaults<'n> {
    module: Option<String>,
    interval: Option<Duration>,
    scrape_timeout: Option<Duration>,
    labels: Vec<(String, BlockField<'n, String>)>,
    metric_labels: Vec<(String, BlockField<'n, String>)>,
    relabelings: Vec<RelabelStep>,
}

/// Reads the targets. Modules are read as a configuration of their own, at the path `config`.
pub(super) fn read(root: &Node, path: &str, requests: &mut AskedTargets, reporter: &mut Reporter) {
    let Some(mut values) = Block::open(root, path, reporter) else { return };
    values.node("config");
    if let Some(secret) = values.filled("configExistingSecretName", reporter) {
        let message = "the modules are in a Secret in the cluster: save its configuration, and name the file as well";
        reporter.remark(secret.line(), &secret.path, message);
    }
    let monitors = values.block("serviceMonitor", reporter);
    if let Some(mut pods) = values.block("podMonitoring", reporter)
        && pods.flag("enabled", reporter).is_some_and(|flag| flag.value)
    {
        let message = "is not converted: write its targets under serviceMonitor.targets, and convert again";
        reporter.remark(pods.line, &pods.path, message);
    }
    let others: Vec<&str> = values.rest().iter().map(|entry| entry.key.as_str()).collect();
    if !others.is_empty() {
        let others: Vec<String> = others.iter().take(60).map(|key| key.chars().take(60).collect()).collect();
        let message =
            format!("left alone, since they are about the deployment of the blackbox exporter: {}", others.join(", "));
        reporter.remark(values.line, path, message);
    }
    let Some(mut monitors) = monitors else { return };
    let enabled = monitors.flag("enabled", reporter);
    for field in monitors.any_of("scheme tlsConfig bearerTokenFile path apiVersion") {
        // Those are the chart's own defaults, which a file of all values repeats.
        let is_default = field.node.entries().is_empty()
            && matches!(field.node.scalar(), None | Some("http" | "/probe" | "monitoring.coreos.com/v1"));
        if !is_default {
            let message = "is left out: it is about the connection to the blackbox exporter";
            reporter.remark(field.line(), &field.path, message);
        }
    }
    monitors.node("selfMonitor");
    let defaults = defaults(&mut monitors, reporter);
    let targets = monitors.list("targets", reporter);
    let line = monitors.line;
    let monitor_path = monitors.path.clone();
    monitors.close(reporter);
    if !targets.is_empty() && enabled.is_none_or(|flag| !flag.value) {
        let message =
            "its targets are converted although serviceMonitor.enabled is not true: nothing has scraped them until now";
        reporter.remark(line, &monitor_path, message);
    }
    for target in targets {
        read_target(&target, &defaults, requests, reporter);
    }
}

fn defaults<'n>(monitors: &mut Block<'n>, reporter: &mut Reporter) -> Defaults<'n> {
    let Some(mut block) = monitors.block("defaults", reporter) else { return Defaults::default() };
    let relabelings = block.list("additionalRelabeling", reporter);
    let defaults = Defaults {
        module: block.filled("module", reporter).map(|field| field.value),
        interval: block.prometheus_duration("interval", reporter).map(|field| field.value),
        scrape_timeout: block.prometheus_duration("scrapeTimeout", reporter).map(|field| field.value),
        labels: block.text_map("labels", reporter),
        metric_labels: block.text_map("additionalMetricsRelabels", reporter),
        relabelings: steps(relabelings, Spelling::Camel, reporter).unwrap_or_default(),
    };
    // It makes no difference: the exporter gives no timestamps.
    block.flag("honorTimestamps", reporter);
    block.close(reporter);
    defaults
}

fn read_target(
    field: &BlockField<'_, ()>,
    defaults: &Defaults<'_>,
    requests: &mut AskedTargets,
    reporter: &mut Reporter,
) {
    let Some(mut block) = Block::open(field.node, &field.path, reporter) else { return };
    let name = block.filled("name", reporter);
    let url = block.filled("url", reporter);
    let hostname = block.filled("hostname", reporter);
    let module = block.filled("module", reporter).map(|field| field.value);
    let interval = block.prometheus_duration("interval", reporter).map(|field| field.value);
    let scrape_timeout = block.prometheus_duration("scrapeTimeout", reporter).map(|field| field.value);
    let labels = block.text_map("labels", reporter);
    let metric_labels = block.text_map("additionalMetricsRelabels", reporter);
    let relabelings = block.list("additionalRelabeling", reporter);
    block.flag("honorTimestamps", reporter);
    let (line, path) = (block.line, block.path.clone());
    block.close(reporter);
    let (Some(name), Some(url)) = (name, url) else {
        reporter.fault(line, &path, "a target needs a name and a url");
        return;
    };
    let path = format!("{path} ({})", name.value.chars().take(80).collect::<String>());
    // As in the chart: what a target says takes the place of all that the defaults say.
    let metric_labels = if metric_labels.is_empty() { &defaults.metric_labels } else { &metric_labels };
    let labels = if labels.is_empty() { defaults.labels.clone() } else { labels };
    let Some(mut relabelings) = steps(relabelings, Spelling::Camel, reporter) else {
        reporter.remark(line, &path, "is not converted, since its relabelings cannot be carried out");
        return;
    };
    relabelings.extend(defaults.relabelings.iter().cloned());
    let mut all = Labels::new();
    all.insert("__param_target".to_owned(), url.value.clone());
    let module = module.or_else(|| defaults.module.clone()).unwrap_or_else(|| DEFAULT_MODULE.to_owned());
    all.insert("__param_module".to_owned(), module);
    if let Some(hostname) = hostname {
        all.insert("__param_hostname".to_owned(), hostname.value);
    }
    if !relabelings.iter().all(|step| step.apply(&mut all)) {
        reporter.remark(line, &path, "is not converted: additionalRelabeling drops it, as in Prometheus");
        return;
    }
    all.insert("instance".to_owned(), url.value);
    all.insert("target".to_owned(), name.value);
    all.extend(metric_labels.iter().map(|(label, value)| (label.clone(), value.value.clone())));
    let interval = interval.or(defaults.interval).unwrap_or(DEFAULT_TIMES);
    let timeout = scrape_timeout.or(defaults.scrape_timeout).unwrap_or(DEFAULT_TIMES);
    let labels = monitor_labels(labels, &path, line, reporter);
    requests.add_labelled(all, (interval, timeout), (line, &path), reporter, |request, reporter| {
        if !labels.is_empty() {
            let mut monitor = Map::new();
            monitor.insert("labels".to_owned(), Value::Object(labels));
            request.monitor = monitor;
        }
        if request.job.is_none() {
            let message = "the label job was the name of the Service of the blackbox exporter, which is not known here: write monitor.job";
            reporter.remark(line, &path, message);
        }
    });
}
