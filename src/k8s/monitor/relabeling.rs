//! The relabelings that put the same labels on a target's series as `/sd` does.

use serde_json::{Value, json};

use super::super::Settings;
use super::unwritten::Unwritten;
use crate::crd::ScrapeTargetSpec;
use crate::target::TargetId;

/// What the Operator adds of the pod that answers. It would make new series of all targets whenever another pod leads, and families of
/// targets may have a label `service` of their own.
const OF_THE_POD: &str = "service|pod|container|endpoint";

/// Where the labels of a target's series come from: ours, then those that the user wrote, then ours that say whose series these are once
/// more. So a step of the user may read them, and what she writes cannot stand in their place.
///
/// They are relabelings of the target, not of its samples, so that `up` and the other series of Prometheus itself have them too.
pub(super) fn relabelings(id: &TargetId, spec: &ScrapeTargetSpec, settings: &Settings) -> Vec<Value> {
    let mut steps = scraped(settings).to_vec();
    steps.extend(spec.labels.iter().map(|(label, value)| constant(label, value)));
    steps.extend(identity(id));
    let written = spec.monitor.as_ref().map(|monitor| monitor.relabelings.as_slice()).unwrap_or_default();
    if !written.is_empty() {
        steps.extend(written.iter().map(|step| json!(step)));
        steps.extend(identity(id));
    }
    steps
}

/// What is scraped, and what is not said of it.
fn scraped(settings: &Settings) -> [Value; 2] {
    [
        // Whoever may create a Service can give it our label, in our namespace, or in her own where Prometheus ignores namespace
        // selectors: it must not be sent what is meant for us.
        json!({
            "action": "keep",
            "sourceLabels": ["__meta_kubernetes_namespace", "__meta_kubernetes_service_name"],
            "regex": format!("{};{}", settings.namespace, settings.discovery.service),
        }),
        // Before the user's labels, so that it drops none of them.
        json!({ "action": "labeldrop", "regex": OF_THE_POD }),
    ]
}

/// Whose series these are, and which shard they belong to.
fn identity(id: &TargetId) -> [Value; 5] {
    [
        // All targets have one address: without a hash of their own they would all be on one shard.
        json!({ "action": "replace", "sourceLabels": ["__param_target"], "targetLabel": "__tmp_hash" }),
        json!({ "action": "replace", "sourceLabels": ["__param_target"], "targetLabel": "instance" }),
        constant("namespace", &id.namespace),
        constant("target_namespace", &id.namespace),
        constant("target_name", &id.name),
    ]
}

/// Whether a step is one that we write for every target, and for no other than `id`.
pub(super) fn is_own(step: &Value, id: &TargetId, settings: &Settings) -> bool {
    scraped(settings).contains(step) || identity(id).contains(step)
}

fn constant(label: &str, value: &str) -> Value {
    // A dollar would stand for a group of the regular expression.
    json!({ "action": "replace", "targetLabel": label, "replacement": value.replace('$', "$$") })
}

/// Refuses what the Operator's config reloader would take for a variable of its environment: there it breaks the configuration of every
/// target. The schema refuses it as well, but an older one may have let it through.
pub(super) fn refuse_variables(spec: &ScrapeTargetSpec) -> Result<(), Unwritten> {
    let labels = spec.labels.iter().find(|(_, value)| value.contains("$("));
    let steps = spec.monitor.as_ref().and_then(|monitor| {
        variable(&json!(monitor.relabelings), "spec.monitor.relabelings")
            .or_else(|| variable(&json!(monitor.metric_relabelings), "spec.monitor.metricRelabelings"))
    });
    match labels.map(|(label, _)| format!("spec.labels.{label}")).or(steps) {
        Some(path) => Err(Unwritten::Unsupported(format!(
            "{path} holds \"$(\", which the Prometheus Operator would replace by a variable of its environment: write it another way"
        ))),
        None => Ok(()),
    }
}

/// The path of the first text that holds a variable.
fn variable(value: &Value, path: &str) -> Option<String> {
    match value {
        Value::String(text) => text.contains("$(").then(|| path.to_owned()),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| variable(item, &format!("{path}[{index}]")))
        }
        Value::Object(fields) => fields.iter().find_map(|(field, item)| variable(item, &format!("{path}.{field}"))),
        _ => None,
    }
}
