//! What is said of a target's ServiceMonitor.

use super::super::super::access::Rule;
use super::super::super::catalog::MonitorState;
use super::super::place::Place;
use crate::crd::ConditionStatus;

pub(super) const WRITTEN: &str = "Written";

pub(super) fn written(place: &Place) -> MonitorState {
    MonitorState {
        status: ConditionStatus::True,
        reason: WRITTEN,
        message: format!("ServiceMonitor {place} is as it should be"),
    }
}

/// It is said for as long as the fight lasts, not in turns with its opposite: that would be a write of the status for each round.
pub(super) fn fought_for(place: &Place) -> MonitorState {
    MonitorState {
        status: ConditionStatus::Unknown,
        reason: "Pending",
        message: format!(
            "somebody else changes or removes the ServiceMonitor {place} again and again: it is put back ever more seldom, at last once a \
             minute"
        ),
    }
}

/// What cannot be read keeps the monitor that it has, unless that one does what none may do.
pub(super) fn not_understood() -> MonitorState {
    let message = "the spec is not understood, see Accepted; its ServiceMonitor is left as it is, and removed if it breaks a rule";
    not("InvalidSpec", message.to_owned())
}

pub(super) fn forbidden(rule: &Rule) -> MonitorState {
    not("Forbidden", rule.to_string())
}

pub(super) fn failed(why: &str) -> MonitorState {
    not("Failed", why.to_owned())
}

pub(super) fn crd_missing() -> MonitorState {
    let message = "the API server knows no ServiceMonitors (monitoring.coreos.com/v1), so Prometheus does not find the target; polls and \
         /probe go on: install the Prometheus Operator's CRDs, or set discovery.mode to httpSD or none";
    not("CRDMissing", message.to_owned())
}

pub(super) fn not(reason: &'static str, message: String) -> MonitorState {
    MonitorState { status: ConditionStatus::False, reason, message }
}
