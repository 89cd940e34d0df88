//! All states of the condition `MonitorReady` of a target, with their reasons and messages.

use std::iter;

use super::desired::MonitorRef;
use crate::crd::ConditionStatus;
use crate::k8s::DiscoveryMode;
use crate::k8s::client::PolicyRule;
use crate::k8s::target_store::MonitorState;

/// The reason of [`written`].
pub(super) const WRITTEN: &str = "Written";

/// `ignored`: what the target declares in vain, a sentence each.
pub(super) fn written(monitor: &MonitorRef, ignored: &[String]) -> MonitorState {
    let state = format!("ServiceMonitor {monitor} is up to date");
    let message = iter::once(&state).chain(ignored).map(String::as_str).collect::<Vec<_>>().join("; ");
    MonitorState { status: ConditionStatus::True, reason: WRITTEN, message }
}

/// Kept for as long as the conflict lasts. Alternating with [`written`] would cost a write of the status for each round.
pub(super) fn contested(monitor: &MonitorRef) -> MonitorState {
    let message = format!(
        "another client repeatedly changes or deletes the ServiceMonitor {monitor}: it is restored less and less often, at least once a \
         minute"
    );
    MonitorState { status: ConditionStatus::Unknown, reason: "Pending", message }
}

/// A target whose spec is not understood keeps the monitor that it has, unless that one violates the policy.
pub(super) fn invalid_spec() -> MonitorState {
    let message =
        "the spec is invalid, see Accepted; its ServiceMonitor is left unchanged, and deleted if it violates a rule";
    not_ready("InvalidSpec", message.to_owned())
}

pub(super) fn name_taken(monitor: &MonitorRef, owner: &str) -> MonitorState {
    let message =
        format!("a ServiceMonitor {monitor} of {owner} already exists: rename it or the target; it is not changed");
    not_ready("NameTaken", message)
}

pub(super) fn forbidden(rule: &PolicyRule) -> MonitorState {
    not_ready("Forbidden", rule.to_string())
}

/// The API server does not accept the ServiceMonitor, and would not accept it next time.
pub(super) fn refused(why: &str) -> MonitorState {
    not_ready("Refused", format!("the API server refused it: {why}"))
}

/// The API server, or a webhook that it calls, fails at the ServiceMonitor.
pub(super) fn failed(why: &str) -> MonitorState {
    not_ready("Failed", why.to_owned())
}

pub(super) fn crd_missing() -> MonitorState {
    let message = "the API server does not know ServiceMonitors (monitoring.coreos.com/v1), so Prometheus does not discover the target; \
                   polls and /probe continue: install the Prometheus Operator's CRDs, or set discovery.mode to httpSD or none";
    not_ready("CRDMissing", message.to_owned())
}

/// In a mode that writes no ServiceMonitors.
pub(super) fn disabled_by_mode(mode: DiscoveryMode) -> MonitorState {
    disabled(match mode {
        DiscoveryMode::HttpSd => "discovery.mode is httpSD: Prometheus discovers the target through /sd",
        _ => "discovery.mode is none: no ServiceMonitor is written",
    })
}

/// The target or the installation declares that there is no ServiceMonitor.
pub(super) fn disabled(message: &str) -> MonitorState {
    MonitorState { status: ConditionStatus::True, reason: "Disabled", message: message.to_owned() }
}

/// Prometheus could not authenticate to this exporter with the ServiceMonitor.
pub(super) fn not_portable(message: String) -> MonitorState {
    not_ready("NotPortable", message)
}

/// The ServiceMonitor would break the configuration of Prometheus, or affect other targets.
pub(super) fn unsupported(message: String) -> MonitorState {
    not_ready("Unsupported", message)
}

/// The target names a scrape class that targets may not name.
pub(super) fn scrape_class_not_allowed(message: String) -> MonitorState {
    not_ready("ScrapeClassNotAllowed", message)
}

fn not_ready(reason: &'static str, message: String) -> MonitorState {
    MonitorState { status: ConditionStatus::False, reason, message }
}
