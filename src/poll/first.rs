//! What the first polls of many targets brought: after a start or a takeover, targets that are down are one event.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::snapshot::Failure;
use crate::kind::{Reason, Type};
use crate::target::TargetId;

/// Targets that are named in the line; of the others there is a number.
const NAMED: usize = 3;

/// First results, of which the last tells of all.
#[derive(Clone, Debug, Default)]
pub(super) struct FirstResults(Arc<Mutex<Results>>);

#[derive(Debug, Default)]
struct Results {
    expected: usize,
    up: usize,
    down: BTreeMap<&'static str, usize>,
    named: Vec<(TargetId, Type, Failure)>,
}

/// The first result of a target. Dropped, it is expected no more.
#[derive(Debug)]
pub(super) struct Expected(FirstResults);

impl FirstResults {
    /// One more target was there when polls began.
    pub(super) fn expect(&self) -> Expected {
        self.lock().expected += 1;
        Expected(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Results> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Expected {
    pub(super) fn up(self) {
        self.0.lock().up += 1;
    }

    pub(super) fn down(self, target: &TargetId, kind: Type, failure: &Failure) {
        tracing::debug!(%target, %kind, reason = failure.reason.as_str(), error = %failure.message, "target is down");
        let mut results = self.0.lock();
        *results.down.entry(failure.reason.as_str()).or_default() += 1;
        if results.named.len() < NAMED {
            results.named.push((target.clone(), kind, failure.clone()));
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut results = self.0.lock();
        results.expected -= 1;
        if results.expected == 0 {
            std::mem::take(&mut *results).tell();
        }
    }
}

impl Results {
    fn tell(&self) {
        let down: usize = self.down.values().sum();
        if let ([(target, kind, failure)], 1) = (&*self.named, down) {
            return tell_down(target, *kind, failure);
        }
        if down == 0 {
            return;
        }
        let mut reasons = String::new();
        for (reason, count) in &self.down {
            let comma = if reasons.is_empty() { "" } else { ", " };
            let _ = write!(reasons, "{comma}{reason} {count}");
        }
        let named: Vec<String> = self.named.iter().map(|(target, ..)| target.to_string()).collect();
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
