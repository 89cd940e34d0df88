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
    /// It would break the configuration of Prometheus, or reach what is not the target's own.
    Unsupported(String),
    /// It names a scrape class that targets may not name.
    ScrapeClassNotAllowed(String),
}

impl Unwritten {
    pub(super) fn state(self) -> MonitorState {
        let (status, reason, message) = match self {
            Self::Disabled(why) => (ConditionStatus::True, "Disabled", why),
            Self::NotPortable(why) => (ConditionStatus::False, "NotPortable", why),
            Self::Unsupported(why) => (ConditionStatus::False, "Unsupported", why),
            Self::ScrapeClassNotAllowed(why) => (ConditionStatus::False, "ScrapeClassNotAllowed", why),
        };
        MonitorState { status, reason, message }
    }
}
