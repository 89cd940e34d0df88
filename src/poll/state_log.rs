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

/// Those of one target: that it goes down, and comes back. A target that flaps leaves lines to its neighbours.
const MAX_LINES_OF_TARGET: usize = 2;

/// Begins with a change. The changes beyond [`MAX_LINES`] are logged at its end.
const PERIOD: Duration = Duration::from_secs(30);

/// Targets that are named in a line about several; the others are counted.
const MAX_NAMED: usize = 3;

/// Logs changes of state.
#[derive(Clone, Debug)]
pub(super) struct StateLog {
    periods: Arc<Mutex<Periods>>,
    /// Nothing is reported while the process stops.
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Periods {
    by_namespace: HashMap<Arc<str>, Period>,
    /// When those that are over were last removed.
    cleaned: Option<Instant>,
}

/// What a namespace has logged lately.
#[derive(Debug)]
struct Period {
    since: Instant,
    /// The names of the targets, each once for every line.
    lines: Vec<Arc<str>>,
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
        let (namespace, name) = (&target.namespace, &target.name);
        let mut periods = self.lock();
        periods.clean();
        let period = periods.by_namespace.entry(Arc::clone(namespace)).or_insert_with(Period::new);
        if period.is_over() {
            *period = Period::new();
        }
        let of_target = period.lines.iter().filter(|line| *line == name).count();
        if period.lines.len() < MAX_LINES && of_target < MAX_LINES_OF_TARGET {
            period.lines.push(Arc::clone(name));
            return true;
        }
        if period.more.count == 0 {
            self.report_at(period.since + PERIOD, Arc::clone(namespace));
        }
        period.more.count += 1;
        period.more.targets.insert(Arc::clone(name), (state, reason));
        false
    }

    fn report_at(&self, end: Instant, namespace: Arc<str>) {
        let log = self.clone();
        tokio::spawn(async move {
            log.stop.run_until_cancelled(tokio::time::sleep_until(end)).await;
            let period = log.lock().by_namespace.remove(&namespace);
            if let Some(period) = period.filter(|_| !log.stop.is_cancelled()) {
                period.more.log(&namespace);
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Periods> {
        self.periods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Periods {
    /// Removes what is over, but not for every change.
    fn clean(&mut self) {
        if self.cleaned.is_none_or(|cleaned| cleaned.elapsed() >= PERIOD) {
            self.by_namespace.retain(|_, period| !period.is_over());
            self.cleaned = Some(Instant::now());
        }
    }
}

impl Period {
    fn new() -> Self {
        Self { since: Instant::now(), lines: Vec::new(), more: MoreChanges::default() }
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
    let first: Vec<String> = names.take(MAX_NAMED).map(|name| name.to_string()).collect();
    let mut text = first.join(", ");
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
            let more = &periods.by_namespace["flapping"].more;
            (more.count, more.targets.len())
        };
        assert_eq!((changes, targets), (90, 40));
        tokio::time::sleep(PERIOD / 2).await;
        assert_eq!(lines(&log, "flapping"), 0);
        assert!(goes_down(&log, "honest", "rooms"));
        tokio::time::sleep(PERIOD / 2 + Duration::from_millis(1)).await;
        assert!(!log.lock().by_namespace.contains_key("flapping"), "it was reported");
        assert_eq!(lines(&log, "flapping"), MAX_LINES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_flaps_leaves_lines_to_its_neighbours() {
        let log = StateLog::new(CancellationToken::new());
        let flaps = (0..100).filter(|_| goes_down(&log, "media", "flapping")).count();
        assert_eq!(flaps, MAX_LINES_OF_TARGET);
        assert!(goes_down(&log, "media", "rooms"));
    }

    #[tokio::test(start_paused = true)]
    async fn namespaces_that_are_quiet_again_are_forgotten() {
        let log = StateLog::new(CancellationToken::new());
        for number in 0..50 {
            assert!(goes_down(&log, &format!("namespace-{number}"), "rooms"));
        }
        assert_eq!(log.lock().by_namespace.len(), 50);
        tokio::time::sleep(PERIOD).await;
        assert!(goes_down(&log, "honest", "rooms"));
        assert_eq!(log.lock().by_namespace.len(), 1);
    }

    #[test]
    fn reasons_are_counted_and_few_targets_are_named() {
        let reasons = [Reason::Timeout, Reason::Connect, Reason::Timeout];
        assert_eq!(count_by_reason(reasons.into_iter()), "connect 1, timeout 2");
        assert_eq!(first_names(["a", "b", "c"].iter()), "a, b, c");
        assert_eq!(first_names(["a", "b", "c", "d", "e"].iter()), "a, b, c and 2 more");
    }
}
