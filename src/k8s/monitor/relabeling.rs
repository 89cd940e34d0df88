//! The relabelings that put the same labels on a target's series as `/sd` does.

use serde_json::{Value, json};

use super::unwritten::Unwritten;
use crate::crd::{Action, Relabeling, ScrapeTargetSpec};
use crate::target::TargetId;

/// What the Operator adds of the pod that answers. It would make new series of all targets whenever another pod leads, and Orion's
/// families have a label `service` of their own.
const OF_THE_POD: &str = "service|pod|container|endpoint";

/// Where the labels of a target's series come from: ours, then those that the user wrote.
///
/// They are relabelings of the target, not of its samples, so that `up` and the other series of Prometheus itself have them too.
pub(super) fn relabelings(id: &TargetId, spec: &ScrapeTargetSpec) -> Vec<Value> {
    // First, so that it does not drop a label of that name that the user sets.
    let mut steps = vec![json!({ "action": "labeldrop", "regex": OF_THE_POD })];
    steps.extend(spec.labels.iter().map(|(label, value)| constant(label, value)));
    steps.extend([
        // All targets have one address: without a hash of their own they would all be on one shard.
        json!({ "action": "replace", "sourceLabels": ["__param_target"], "targetLabel": "__tmp_hash" }),
        json!({ "action": "replace", "sourceLabels": ["__param_target"], "targetLabel": "instance" }),
        constant("namespace", &id.namespace),
        constant("target_namespace", &id.namespace),
        constant("target_name", &id.name),
    ]);
    let written = spec.monitor.iter().flat_map(|monitor| &monitor.relabelings);
    steps.extend(written.map(|step| json!(step)));
    steps
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

/// Refuses steps by which whoever declares a target could send the password of our listener to an address of her own: the ServiceMonitor
/// that holds it is ours, the steps are hers.
pub(super) fn refuse_detours(spec: &ScrapeTargetSpec) -> Result<(), Unwritten> {
    let steps = spec.monitor.iter().flat_map(|monitor| &monitor.relabelings);
    let leads_away = |step: &Relabeling| {
        // It writes labels whose names are made of those that are there.
        step.action == Action::LabelMap
            || step.target_label.as_ref().is_some_and(|label| label.starts_with("__") || label.contains('$'))
    };
    match steps.enumerate().find(|(_, step)| leads_away(step)) {
        Some((index, _)) => Err(Unwritten::Unsupported(format!(
            "spec.monitor.relabelings[{index}] can change the address that Prometheus sends discovery.basicAuth to: write no \
             labelmap, and no targetLabel that begins with __ or holds a $"
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
