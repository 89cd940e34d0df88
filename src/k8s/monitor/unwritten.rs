//! What keeps a ServiceMonitor from being written, and what the condition `MonitorReady` says of it.

use super::super::catalog::MonitorState;
use crate::crd::ConditionStatus;

/// Why a target has no ServiceMonitor although it is declared well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unwritten {
    /// Somebody wants it so.
    Disabled(String),
    /// Prometheus could not scrape us by it.
    NotPortable(String),
    /// It would break the configuration of Prometheus.
    Unsupported(String),
}

impl Unwritten {
    pub(super) fn state(self) -> MonitorState {
        let (status, reason, message) = match self {
            Self::Disabled(why) => (ConditionStatus::True, "Disabled", why),
            Self::NotPortable(why) => (ConditionStatus::False, "NotPortable", why),
            Self::Unsupported(why) => (ConditionStatus::False, "Unsupported", why),
        };
        MonitorState { status, reason, message }
    }
}
