//! What the first polls of many targets brought: after a start or a takeover, targets that are down are one event.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::snapshot::Failure;
use crate::kind::{Reason, Type};
use crate::target::TargetId;

/// Targets that are named in the line; of the others there is a number.
const NAMED: usize = 3;

/// After the first result, the others are waited for as long as this: more than the default interval, over which first polls are spread,
/// and the default timeout. What comes later is told in another line.
const PATIENCE: Duration = Duration::from_secs(30);

/// First results, of which one line tells.
#[derive(Clone, Debug)]
pub(super) struct FirstResults {
    results: Arc<Mutex<Results>>,
    /// Whoever stops learns nothing by it.
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Results {
    expected: usize,
    /// Results have come, and the line about them is due.
    begun: bool,
    up: usize,
    down: BTreeMap<TargetId, (Type, Failure)>,
}

/// The first result of a target. Dropped, it is expected no more.
#[derive(Debug)]
pub(super) struct Expected(FirstResults);

impl FirstResults {
    /// None are expected yet. Nothing is told any more after `stop`.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { results: Arc::default(), stop }
    }

    /// One more target was there when polls began.
    pub(super) fn expect(&self) -> Expected {
        self.lock().expected += 1;
        Expected(self.clone())
    }

    /// Whether a target that is up now was down at first, and that has not been told.
    pub(super) fn has_recovered(&self, target: &TargetId) -> bool {
        let mut results = self.lock();
        let untold = results.down.remove(target).is_some();
        results.up += usize::from(untold);
        untold
    }

    /// Sees to it that the line comes, however long the others take.
    fn begin(&self) {
        if std::mem::replace(&mut self.lock().begun, true) {
            return;
        }
        let first = self.clone();
        tokio::spawn(async move {
            first.stop.run_until_cancelled(tokio::time::sleep(PATIENCE)).await;
            first.tell();
        });
    }

    fn tell(&self) {
        let results = {
            let mut results = self.lock();
            let expected = results.expected;
            std::mem::replace(&mut *results, Results { expected, ..Results::default() })
        };
        if !self.stop.is_cancelled() {
            results.tell();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Results> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Expected {
    pub(super) fn up(self) {
        self.0.begin();
        self.0.lock().up += 1;
    }

    pub(super) fn down(self, target: &TargetId, kind: Type, failure: &Failure) {
        tracing::debug!(%target, %kind, reason = failure.reason.as_str(), error = %failure.message, "target is down");
        self.0.begin();
        self.0.lock().down.insert(target.clone(), (kind, failure.clone()));
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let last = {
            let mut results = self.0.lock();
            results.expected -= 1;
            results.expected == 0
        };
        if last {
            self.0.tell();
        }
    }
}

impl Results {
    fn tell(&self) {
        let mut all = self.down.iter();
        match (all.next(), all.next()) {
            (None, _) => return,
            (Some((target, (kind, failure))), None) => return tell_down(target, *kind, failure),
            _ => {}
        }
        let mut counts = BTreeMap::<&str, usize>::new();
        for (_, failure) in self.down.values() {
            *counts.entry(failure.reason.as_str()).or_default() += 1;
        }
        let mut reasons = String::new();
        for (reason, count) in counts {
            let comma = if reasons.is_empty() { "" } else { ", " };
            let _ = write!(reasons, "{comma}{reason} {count}"); // a String takes everything
        }
        let down = self.down.len();
        let named: Vec<String> = self.down.keys().take(NAMED).map(ToString::to_string).collect();
        let more = if down > named.len() { format!(" and {} more", down - named.len()) } else { String::new() };
        let named = named.join(", ") + &more;
        tracing::warn!(down, up = self.up, reasons, targets = named, "targets are down, as their first polls show");
    }
}

/// One line about one target: whether it is its server, or how it is declared.
pub(super) fn tell_down(target: &TargetId, kind: Type, failure: &Failure) {
    if failure.reason == Reason::Config {
        tracing::warn!(%target, %kind, error = %failure.message, "target is invalid: it is not polled as it is declared");
    } else {
        tracing::warn!(%target, %kind, reason = failure.reason.as_str(), error = %failure.message, "target is down");
    }
}
