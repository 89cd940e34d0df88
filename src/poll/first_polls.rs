//! The results of the first polls after a start or a takeover: many targets that are down are reported in one log line.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::snapshot::Failure;
use super::state_log::{count_by_reason, first_names, log_down};
use crate::kind::Type;
use crate::target::TargetId;

/// How long after the first result the line is written, if other results are missing. It is more than the default interval, over which
/// first polls are spread, and the default timeout. Later results are reported in another line.
const REPORT_AFTER: Duration = Duration::from_secs(30);

/// Collects the first results of targets.
#[derive(Clone, Debug)]
pub(super) struct FirstPolls {
    results: Arc<Mutex<FirstResults>>,
    /// Nothing is reported while the process stops.
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct FirstResults {
    expected: usize,
    /// A result has arrived, so the line has been scheduled.
    is_scheduled: bool,
    up: usize,
    down: BTreeMap<TargetId, (Type, Failure)>,
}

/// The first result of a target that is still missing. Dropping it says that it will not come.
#[derive(Debug)]
pub(super) struct PendingFirstPoll(FirstPolls);

impl FirstPolls {
    /// No results are expected yet. Nothing is reported after `stop`.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { results: Arc::default(), stop }
    }

    /// Expects the result of one more target.
    pub(super) fn expect(&self) -> PendingFirstPoll {
        self.lock().expected += 1;
        PendingFirstPoll(self.clone())
    }

    /// Whether a target that is up now was down in its first poll, and this has not been reported yet. It is then reported as up.
    pub(super) fn recover(&self, target: &TargetId) -> bool {
        let mut results = self.lock();
        let unreported = results.down.remove(target).is_some();
        results.up += usize::from(unreported);
        unreported
    }

    /// Makes sure that the line is written, however long the other results take.
    fn schedule(&self) {
        if std::mem::replace(&mut self.lock().is_scheduled, true) {
            return;
        }
        let first = self.clone();
        tokio::spawn(async move {
            first.stop.run_until_cancelled(tokio::time::sleep(REPORT_AFTER)).await;
            first.report();
        });
    }

    fn report(&self) {
        let results = {
            let mut results = self.lock();
            let expected = results.expected;
            std::mem::replace(&mut *results, FirstResults { expected, ..FirstResults::default() })
        };
        if !self.stop.is_cancelled() {
            results.log();
        }
    }

    fn lock(&self) -> MutexGuard<'_, FirstResults> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingFirstPoll {
    pub(super) fn up(self) {
        self.0.schedule();
        self.0.lock().up += 1;
    }

    pub(super) fn down(self, target: &TargetId, kind: Type, failure: &Failure) {
        tracing::debug!(%target, %kind, reason = failure.reason.as_str(), error = %failure.message, "target is down");
        self.0.schedule();
        self.0.lock().down.insert(target.clone(), (kind, failure.clone()));
    }
}

impl Drop for PendingFirstPoll {
    fn drop(&mut self) {
        let last = {
            let mut results = self.0.lock();
            results.expected -= 1;
            results.expected == 0
        };
        if last {
            self.0.report();
        }
    }
}

impl FirstResults {
    fn log(&self) {
        let mut all = self.down.iter();
        match (all.next(), all.next()) {
            (None, _) => return,
            (Some((target, (kind, failure))), None) => return log_down(target, *kind, failure),
            _ => {}
        }
        let reasons = count_by_reason(self.down.values().map(|(_, failure)| failure.reason));
        let (down, targets) = (self.down.len(), first_names(self.down.keys()));
        tracing::warn!(down, up = self.up, reasons, targets, "targets are down, as their first polls show");
    }
}
