//! The policy for ServiceMonitors. No ServiceMonitor may make Prometheus send its credentials elsewhere, give series the identity of another
//! target, or break the configuration of Prometheus.
//!
//! The Operator applies our ServiceMonitors with rights that the author of a ScrapeTarget may not have. The CRD refuses the same; these
//! checks catch what an older CRD let in and what an older version of ours wrote.

use serde_json::{Value, json};

use super::condition;
use super::desired::is_own_step;
use crate::crd::rules::relabeling_problem;
use crate::crd::{InstanceLabel, Monitor, Relabeling, ScrapeTargetSpec};
use crate::k8s::target_store::MonitorState;
use crate::k8s::{Discovery, Settings};
use crate::target::TargetId;

/// Refuses `$(…)`, which the Operator's config reloader expands as an environment variable; an unknown one breaks the configuration for
/// every target.
pub(super) fn check_variables(spec: &ScrapeTargetSpec) -> Result<(), MonitorState> {
    let label = spec.labels.iter().find(|(_, value)| value.contains("$("));
    let path = label.map(|(label, _)| format!("spec.labels.{label}")).or_else(|| {
        let monitor = spec.monitor.as_ref()?;
        let has_variable = |text: &str| text.contains("$(");
        if monitor.job.as_deref().is_some_and(has_variable) {
            return Some("spec.monitor.job".to_owned());
        }
        if monitor.instance == InstanceLabel::Url && has_variable(&spec.url) {
            return Some("spec.url".to_owned());
        }
        variable_path(&json!(monitor.relabelings), "spec.monitor.relabelings")
            .or_else(|| variable_path(&json!(monitor.metric_relabelings), "spec.monitor.metricRelabelings"))
    });
    path.map_or(Ok(()), |path| {
        Err(condition::unsupported(format!(
            "{path} holds \"$(\", which the config reloader of Prometheus would expand as an environment variable: write it differently"
        )))
    })
}

/// The path of the first text with a variable.
pub(super) fn variable_path(value: &Value, path: &str) -> Option<String> {
    match value {
        Value::String(text) => text.contains("$(").then(|| path.to_owned()),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| variable_path(item, &format!("{path}[{index}]")))
        }
        Value::Object(fields) => {
            fields.iter().find_map(|(field, item)| variable_path(item, &format!("{path}.{field}")))
        }
        _ => None,
    }
}

/// Refuses steps that write labels which identify a target or choose what is scraped.
pub(super) fn check_relabelings(monitor: &Monitor) -> Result<(), MonitorState> {
    let lists = [("relabelings", &monitor.relabelings), ("metricRelabelings", &monitor.metric_relabelings)];
    let problem = |(list, steps): (&str, &Vec<Relabeling>)| {
        steps.iter().enumerate().find_map(|(index, step)| {
            let (field, why) = relabeling_problem(&json!(step))?;
            Some(condition::unsupported(format!("spec.monitor.{list}[{index}].{field}: {why}")))
        })
    };
    lists.into_iter().find_map(problem).map_or(Ok(()), Err)
}

/// The scrape class of a target's monitor. A class can hold a token, so the installation says which ones targets may name.
pub(super) fn scrape_class<'s>(
    monitor: &'s Monitor,
    discovery: &'s Discovery,
) -> Result<Option<&'s str>, MonitorState> {
    match monitor.scrape_class.as_deref().filter(|class| !class.is_empty()) {
        Some(class) if !is_class_allowed(class, discovery) => Err(condition::scrape_class_not_allowed(format!(
            "spec.monitor.scrapeClass: targets may not name the class {class:?}, which could contain a token: remove it, or have the \
             administrator of the exporter allow it with --discovery.allowed-scrape-class"
        ))),
        class => Ok(class.or(discovery.scrape_class.as_deref())),
    }
}

/// The class of the installation is in every monitor anyway.
fn is_class_allowed(class: &str, discovery: &Discovery) -> bool {
    discovery.allowed_scrape_classes.contains(class) || discovery.scrape_class.as_deref() == Some(class)
}

/// Whether the `spec` of the observed monitor of `id` violates the policy. An earlier version of this program wrote it.
pub(super) fn violates_policy(spec: &Value, id: &TargetId, settings: &Settings) -> bool {
    let class = spec["scrapeClass"].as_str().filter(|class| !class.is_empty());
    let endpoints = || spec["endpoints"].as_array().into_iter().flatten();
    let steps =
        |list: &'static str| endpoints().flat_map(move |endpoint| endpoint[list].as_array().into_iter().flatten());
    let is_refused = |step: &Value| relabeling_problem(step).is_some();
    class.is_some_and(|class| !is_class_allowed(class, &settings.discovery))
        || steps("relabelings").any(|step| is_refused(step) && !is_own_step(step, id, settings))
        || steps("metricRelabelings").any(is_refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::monitor::desired::tests::{ALL, monitor_of, settings};

    fn spec(monitor: &Value) -> Value {
        let spec =
            json!({ "type": "Sora", "url": "http://sora:3000/", "labels": { "region": "tokyo" }, "monitor": monitor });
        let discovery = Discovery { allowed_scrape_classes: ["video".to_owned()].into(), ..Discovery::default() };
        monitor_of(spec, discovery, ALL).unwrap().fields["spec"].take()
    }

    /// Checks `spec` as that of the target whose monitors [`monitor_of`] returns.
    fn violates(spec: &Value, discovery: Discovery) -> bool {
        violates_policy(spec, &TargetId::new("webrtc", "sora-tokyo"), &settings(discovery))
    }

    #[test]
    fn a_monitor_that_we_write_is_allowed_until_its_class_is_not_allowed_any_more() {
        let step = json!({ "sourceLabels": ["target_name"], "targetLabel": "group" });
        let classed = spec(&json!({ "relabelings": [step], "metricRelabelings": [step], "scrapeClass": "video" }));
        let allowed = Discovery { allowed_scrape_classes: ["video".to_owned()].into(), ..Discovery::default() };
        let of_all = Discovery { scrape_class: Some("video".to_owned()), ..Discovery::default() };
        assert!(!violates(&classed, allowed) && !violates(&classed, of_all));
        assert!(violates(&classed, Discovery::default()));
        assert!(!violates(&spec(&json!({})), Discovery::default()));
        assert!(!violates(&spec(&json!({ "job": "a $1", "instance": "Url" })), Discovery::default()));
        assert!(!violates(&Value::Null, Discovery::default()));
    }

    #[test]
    fn a_monitor_of_an_earlier_version_is_checked_step_by_step() {
        let good = spec(&json!({}));
        for (list, step) in [
            (
                "relabelings",
                json!({ "action": "replace", "targetLabel": "__address__", "replacement": "elsewhere:80" }),
            ),
            ("relabelings", json!({ "action": "replace", "targetLabel": "target_name", "replacement": "victim" })),
            ("relabelings", json!({ "targetLabel": "namespace", "replacement": "victims" })),
            ("relabelings", json!({ "action": "labelmap", "regex": "a(.*)" })),
            ("relabelings", json!({ "action": "replace", "targetLabel": "job", "replacement": "$1" })),
            (
                "relabelings",
                json!({ "action": "replace", "sourceLabels": ["a"], "targetLabel": "instance", "replacement": "b" }),
            ),
            ("metricRelabelings", json!({ "action": "replace", "targetLabel": "job", "replacement": "api" })),
            // One of our own steps, but we write none into this list.
            ("metricRelabelings", json!({ "action": "replace", "targetLabel": "namespace", "replacement": "webrtc" })),
        ] {
            let mut spec = good.clone();
            let before = spec["endpoints"][0][list].as_array().cloned().unwrap_or_default();
            spec["endpoints"][0][list] = before.into_iter().chain([step]).collect();
            assert!(violates(&spec, Discovery::default()), "{spec}");
        }
    }
}
