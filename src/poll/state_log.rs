//! The log of targets that change state: one line per change while a namespace has few of them, one line for the rest once it has many. So a
//! server that fails half of its requests, or a thousand targets that go down together, cannot bury the lines of other namespaces.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{Display, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::poller::TargetState;
use super::snapshot::Failure;
use crate::kind::{Reason, Type};
use crate::target::TargetId;

/// The changes of one namespace that have a line of their own within a [`PERIOD`].
const MAX_LINES: usize = 10;

/// Begins with a change. The changes beyond [`MAX_LINES`] are logged at its end.
const PERIOD: Duration = Duration::from_secs(30);

/// Targets that are named in a line about several; the others are counted.
const MAX_NAMED: usize = 3;

/// Logs changes of state.
#[derive(Clone, Debug)]
pub(super) struct StateLog {
    periods: Arc<Mutex<HashMap<Arc<str>, Period>>>,
    /// Nothing is reported while the process stops.
    stop: CancellationToken,
}

/// What a namespace has logged lately.
#[derive(Debug)]
struct Period {
    since: Instant,
    lines: usize,
    more: MoreChanges,
}

/// Changes without a line of their own.
#[derive(Debug, Default)]
struct MoreChanges {
    count: usize,
    /// The last state of each target, and the reason if it is not up. There are no more of them than targets, and none keeps a message.
    targets: BTreeMap<Arc<str>, (TargetState, Option<Reason>)>,
}

impl StateLog {
    /// Nothing is reported after `stop`.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { periods: Arc::default(), stop }
    }

    /// Logs that the state of a target, or the reason for it, has changed.
    pub(super) fn log(&self, target: &TargetId, kind: Type, state: TargetState, failure: Option<&Failure>) {
        if self.takes_a_line(target, state, failure.map(|failure| failure.reason)) {
            return log_change(target, kind, state, failure);
        }
        let (state, error) = (state.as_str(), failure.map(|failure| &*failure.message));
        tracing::debug!(%target, %kind, state, error, "the state of the target has changed");
    }

    /// Whether a change has a line of its own. Otherwise it is in the line at the end of the period.
    fn takes_a_line(&self, target: &TargetId, state: TargetState, reason: Option<Reason>) -> bool {
        let namespace = &target.namespace;
        let mut periods = self.lock();
        if !periods.contains_key(namespace) {
            periods.retain(|_, period| !period.is_over());
        }
        let period = periods.entry(Arc::clone(namespace)).or_insert_with(Period::new);
        if period.is_over() {
            *period = Period::new();
        }
        if period.lines < MAX_LINES {
            period.lines += 1;
            return true;
        }
        if period.more.count == 0 {
            self.report_at(period.since + PERIOD, Arc::clone(namespace));
        }
        period.more.count += 1;
        period.more.targets.insert(Arc::clone(&target.name), (state, reason));
        false
    }

    fn report_at(&self, end: Instant, namespace: Arc<str>) {
        let log = self.clone();
        tokio::spawn(async move {
            log.stop.run_until_cancelled(tokio::time::sleep_until(end)).await;
            let period = log.lock().remove(&namespace);
            if let Some(period) = period.filter(|_| !log.stop.is_cancelled()) {
                period.more.log(&namespace);
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Period>> {
        self.periods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Period {
    fn new() -> Self {
        Self { since: Instant::now(), lines: 0, more: MoreChanges::default() }
    }

    /// Whether it has ended, and nothing is left to report.
    fn is_over(&self) -> bool {
        self.more.count == 0 && self.since.elapsed() >= PERIOD
    }
}

impl MoreChanges {
    fn log(&self, namespace: &str) {
        let changes = self.count;
        let up = self.targets.values().filter(|(state, _)| *state == TargetState::Up).count();
        let down: Vec<Reason> = self.targets.values().filter_map(|(_, reason)| *reason).collect();
        let targets = first_names(self.targets.keys());
        if down.is_empty() {
            tracing::info!(namespace, changes, up, targets, "targets have changed state, too many for a line each");
        } else {
            let reasons = count_by_reason(down.iter().copied());
            let down = down.len();
            tracing::warn!(
                namespace,
                changes,
                down,
                up,
                reasons,
                targets,
                "targets have changed state, too many for a line each"
            );
        }
    }
}

fn log_change(target: &TargetId, kind: Type, state: TargetState, failure: Option<&Failure>) {
    match (state, failure) {
        (TargetState::Up, _) => tracing::info!(%target, %kind, "target is up again"),
        (TargetState::Suspended, _) => tracing::info!(%target, %kind, "target is suspended"),
        (_, Some(failure)) => log_down(target, kind, failure),
        (_, None) => {}
    }
}

/// Logs that one target is down or invalid.
pub(super) fn log_down(target: &TargetId, kind: Type, failure: &Failure) {
    if failure.reason == Reason::Config {
        tracing::warn!(%target, %kind, error = %failure.message, "target is invalid: it is not polled as it is declared");
    } else {
        tracing::warn!(%target, %kind, reason = failure.reason.as_str(), error = %failure.message, "target is down");
    }
}

/// How often each reason occurs: `connect 2, timeout 1`.
pub(super) fn count_by_reason(reasons: impl Iterator<Item = Reason>) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    for reason in reasons {
        *counts.entry(reason.as_str()).or_default() += 1;
    }
    let counts: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    counts.join(", ")
}

/// The first few names, and how many more there are.
pub(super) fn first_names(names: impl ExactSizeIterator<Item = impl Display>) -> String {
    let more = names.len().saturating_sub(MAX_NAMED);
    let named: Vec<String> = names.take(MAX_NAMED).map(|name| name.to_string()).collect();
    let mut text = named.join(", ");
    if more > 0 {
        let _ = write!(text, " and {more} more"); // a String takes everything
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes_down(log: &StateLog, namespace: &str, name: &str) -> bool {
        log.takes_a_line(&TargetId::new(namespace, name), TargetState::Down, Some(Reason::Connect))
    }

    /// How many of a hundred changes of a namespace have a line.
    fn lines(log: &StateLog, namespace: &str) -> usize {
        (0..100).filter(|number| goes_down(log, namespace, &format!("target-{}", number % 40))).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_has_a_few_lines_in_a_period_and_others_have_theirs() {
        let log = StateLog::new(CancellationToken::new());
        assert_eq!(lines(&log, "flapping"), MAX_LINES);
        assert!(goes_down(&log, "honest", "rooms"));
        let (changes, targets) = {
            let periods = log.lock();
            let more = &periods["flapping"].more;
            (more.count, more.targets.len())
        };
        assert_eq!((changes, targets), (90, 40));
        tokio::time::sleep(PERIOD / 2).await;
        assert_eq!(lines(&log, "flapping"), 0);
        assert!(goes_down(&log, "honest", "rooms"));
        tokio::time::sleep(PERIOD / 2 + Duration::from_millis(1)).await;
        assert!(!log.lock().contains_key("flapping"), "it was reported");
        assert_eq!(lines(&log, "flapping"), MAX_LINES);
    }

    #[tokio::test(start_paused = true)]
    async fn namespaces_that_are_quiet_again_are_forgotten() {
        let log = StateLog::new(CancellationToken::new());
        for number in 0..50 {
            assert!(goes_down(&log, &format!("namespace-{number}"), "rooms"));
        }
        assert_eq!(log.lock().len(), 50);
        tokio::time::sleep(PERIOD).await;
        assert!(goes_down(&log, "honest", "rooms"));
        assert_eq!(log.lock().len(), 1);
    }

    #[test]
    fn reasons_are_counted_and_few_targets_are_named() {
        let reasons = [Reason::Timeout, Reason::Connect, Reason::Timeout];
        assert_eq!(count_by_reason(reasons.into_iter()), "connect 1, timeout 2");
        assert_eq!(first_names(["a", "b", "c"].iter()), "a, b, c");
        assert_eq!(first_names(["a", "b", "c", "d", "e"].iter()), "a, b, c and 2 more");
    }
}
