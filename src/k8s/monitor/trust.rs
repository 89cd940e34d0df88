//! What no ServiceMonitor of ours may do, whoever declared its target: have Prometheus send its credentials elsewhere, or make series look
//! like another target's. The Operator does for our ServiceMonitors what it would not do for whoever declares a ScrapeTarget.

use serde_json::{Value, json};

use super::super::{Discovery, Settings};
use super::relabeling::is_own;
use super::unwritten::Unwritten;
use crate::crd::{self, Monitor, Relabeling};
use crate::target::TargetId;

/// Refuses what only an older schema can have let through.
pub(super) fn refuse_forgery(monitor: &Monitor) -> Result<(), Unwritten> {
    let lists = [("relabelings", &monitor.relabelings), ("metricRelabelings", &monitor.metric_relabelings)];
    let problem = |(list, steps): (&str, &Vec<Relabeling>)| {
        steps.iter().enumerate().find_map(|(index, step)| {
            let (field, why) = crd::rules::relabeling_problem(&json!(step))?;
            Some(Unwritten::Unsupported(format!("spec.monitor.{list}[{index}].{field}: {why}")))
        })
    };
    lists.into_iter().find_map(problem).map_or(Ok(()), Err)
}

/// The scrape class of a target's monitor. A class can hold a token, so it is for the operator of the exporter to say which of them
/// targets may name.
pub(super) fn scrape_class<'s>(monitor: &'s Monitor, discovery: &'s Discovery) -> Result<Option<&'s str>, Unwritten> {
    match monitor.scrape_class.as_deref().filter(|class| !class.is_empty()) {
        Some(class) if !may_be_named(class, discovery) => Err(Unwritten::ScrapeClassNotAllowed(format!(
            "spec.monitor.scrapeClass: targets may not name the class {class:?}, which could hold a token: leave it out, or let whoever \
             runs the exporter allow it by --discovery.allowed-scrape-class"
        ))),
        named => Ok(named.or(discovery.scrape_class.as_deref())),
    }
}

/// The class of the installation is everybody's anyway.
fn may_be_named(class: &str, discovery: &Discovery) -> bool {
    discovery.allowed_scrape_classes.contains(class) || discovery.scrape_class.as_deref() == Some(class)
}

/// Whether the monitor of `id` that is there, of which this is the spec, does what none may do: an earlier version wrote it.
pub(super) fn is_forgery(spec: &Value, id: &TargetId, settings: &Settings) -> bool {
    let class = spec["scrapeClass"].as_str().filter(|class| !class.is_empty());
    let endpoints = || spec["endpoints"].as_array().into_iter().flatten();
    let steps =
        |list: &'static str| endpoints().flat_map(move |endpoint| endpoint[list].as_array().into_iter().flatten());
    let breaks = |step: &Value| crd::rules::relabeling_problem(step).is_some();
    class.is_some_and(|class| !may_be_named(class, &settings.discovery))
        || steps("relabelings").any(|step| breaks(step) && !is_own(step, id, settings))
        || steps("metricRelabelings").any(breaks)
}

#[cfg(test)]
mod tests {
    use super::super::desired::tests::{ALL, made, settings};
    use super::*;

    fn spec(monitor: &Value) -> Value {
        let spec =
            json!({ "type": "Sora", "url": "http://sora:3000/", "labels": { "region": "tokyo" }, "monitor": monitor });
        let discovery = Discovery { allowed_scrape_classes: ["video".to_owned()].into(), ..Discovery::default() };
        made(spec, discovery, ALL).unwrap().part["spec"].take()
    }

    /// Whether it is a forgery of the target that [`made`] makes monitors of.
    fn judged(spec: &Value, discovery: Discovery) -> bool {
        is_forgery(spec, &TargetId::new("webrtc", "sora-tokyo"), &settings(discovery))
    }

    #[test]
    fn what_we_write_is_none_until_the_class_is_not_allowed_any_more() {
        let step = json!({ "sourceLabels": ["target_name"], "targetLabel": "group" });
        let classed = spec(&json!({ "relabelings": [step], "metricRelabelings": [step], "scrapeClass": "video" }));
        let allowed = Discovery { allowed_scrape_classes: ["video".to_owned()].into(), ..Discovery::default() };
        let of_all = Discovery { scrape_class: Some("video".to_owned()), ..Discovery::default() };
        assert!(!judged(&classed, allowed) && !judged(&classed, of_all));
        assert!(judged(&classed, Discovery::default()));
        assert!(!judged(&spec(&json!({})), Discovery::default()));
        assert!(!judged(&Value::Null, Discovery::default()));
    }

    #[test]
    fn what_an_earlier_version_wrote_is_judged_step_by_step() {
        let good = spec(&json!({}));
        for (list, step) in [
            (
                "relabelings",
                json!({ "action": "replace", "targetLabel": "__address__", "replacement": "elsewhere:80" }),
            ),
            ("relabelings", json!({ "action": "replace", "targetLabel": "target_name", "replacement": "victim" })),
            ("relabelings", json!({ "targetLabel": "namespace", "replacement": "victims" })),
            ("relabelings", json!({ "action": "labelmap", "regex": "a(.*)" })),
            ("metricRelabelings", json!({ "action": "replace", "targetLabel": "job", "replacement": "api" })),
            // Ours, but in the other list we write nothing.
            ("metricRelabelings", json!({ "action": "replace", "targetLabel": "namespace", "replacement": "webrtc" })),
        ] {
            let mut spec = good.clone();
            let before = spec["endpoints"][0][list].as_array().cloned().unwrap_or_default();
            spec["endpoints"][0][list] = before.into_iter().chain([step]).collect();
            assert!(judged(&spec, Discovery::default()), "{spec}");
        }
    }
}
