//! The poller of one target as seen by the rest of the program: its target, newest snapshot and state, and how to wait for fresh data.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::members::MemberCounts;
use super::render::{self, ScrapeWait};
use super::snapshot::{Failure, Snapshot};
use super::tokens::{SharedToken, TokenReport};
use crate::kind::Reason;
use crate::metric::Format;
use crate::target::{Target, TargetId};

/// The state of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TargetState {
    /// The last poll succeeded.
    Up,
    /// The last poll failed.
    Down,
    /// Not polled yet.
    Pending,
    /// `spec.suspend`.
    Suspended,
    /// It cannot be polled as it is declared.
    Invalid,
}

impl TargetState {
    /// Every state.
    pub const ALL: &[Self] = &[Self::Up, Self::Down, Self::Pending, Self::Suspended, Self::Invalid];

    /// The name on pages and in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Pending => "pending",
            Self::Suspended => "suspended",
            Self::Invalid => "invalid",
        }
    }
}

/// The state of a target, since when, and why.
#[derive(Clone, Debug)]
pub struct TargetStatus {
    /// In one word.
    pub state: TargetState,
    /// Why it is not up; `None` while it is up.
    pub failure: Option<Failure>,
    /// Since when it has been in this state, for whatever reasons.
    pub since: SystemTime,
    /// When a poll last succeeded.
    pub last_success: Option<SystemTime>,
    /// How many members it has; `None`: it has no `spec.members`, or was not polled yet.
    pub members: Option<MemberCounts>,
    /// Which members do not answer, in a target that is up: `11 of 12 answered; rooms-7d9f-x2: connect`. It stays the same while the target
    /// stays in this state.
    pub partial: Option<Arc<str>>,
}

impl TargetStatus {
    fn pending() -> Self {
        let failure = Some(Failure { reason: Reason::Pending, message: Arc::from("not polled yet") });
        Self {
            state: TargetState::Pending,
            failure,
            since: SystemTime::now(),
            last_success: None,
            members: None,
            partial: None,
        }
    }

    /// Whether both have the same state for the same reason.
    pub(super) fn has_same_state(&self, other: &Self) -> bool {
        let reason = |status: &Self| status.failure.as_ref().map(|failure| failure.reason);
        let is_partial = |status: &Self| status.partial.is_some();
        self.state == other.state && reason(self) == reason(other) && is_partial(self) == is_partial(other)
    }
}

/// One target's poller.
#[derive(Debug)]
pub struct Poller {
    id: TargetId,
    target: Mutex<Arc<Target>>,
    newest: watch::Sender<Option<Arc<Snapshot>>>,
    status: Mutex<TargetStatus>,
    pub(super) changed: Notify,
    pub(super) demand: Notify,
    /// When a scrape last requested data that was not available, and when the last scrape came, both as [`ticks`].
    requested: AtomicU64,
    scraped: AtomicU64,
    /// A poll is due, but has not begun.
    is_queued: AtomicBool,
    /// The last scrape requested text 0.0.4.
    prefers_text: AtomicBool,
    /// When a scrape last requested OpenMetrics; as [`ticks`].
    openmetrics_scraped: AtomicU64,
    pub(super) stop: CancellationToken,
    /// The token that its polls need.
    token: Mutex<Weak<SharedToken>>,
}

/// How long after a scrape that asked for OpenMetrics another one is expected. Longer than most scrape intervals.
const OPENMETRICS_TIME: Duration = Duration::from_mins(5);

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// An instant as a number that an atomic can hold; 0 is never.
fn ticks(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(*EPOCH).as_nanos()).unwrap_or(u64::MAX).max(1)
}

impl Poller {
    pub(super) fn new(target: Target, stop: CancellationToken) -> Self {
        LazyLock::force(&EPOCH);
        Self {
            id: target.id.clone(),
            target: Mutex::new(Arc::new(target)),
            newest: watch::Sender::new(None),
            status: Mutex::new(TargetStatus::pending()),
            changed: Notify::new(),
            demand: Notify::new(),
            requested: AtomicU64::new(0),
            scraped: AtomicU64::new(0),
            is_queued: AtomicBool::new(false),
            prefers_text: AtomicBool::new(false),
            openmetrics_scraped: AtomicU64::new(0),
            stop,
            token: Mutex::default(),
        }
    }

    /// Remembers which token its polls need, if any.
    pub(super) fn set_token(&self, token: Option<&Arc<SharedToken>>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token.map(Arc::downgrade).unwrap_or_default();
    }

    /// What is known of the token that its polls need; `None`: they need none.
    pub fn token(&self) -> Option<TokenReport> {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        token.map(|token| token.report())
    }

    /// The target's name.
    pub fn id(&self) -> &TargetId {
        &self.id
    }

    /// The target as it is declared now.
    pub fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest result, however old; `None` before the first.
    pub fn newest(&self) -> Option<Arc<Snapshot>> {
        self.newest.borrow().clone()
    }

    /// Up or down, since when and why.
    pub fn status(&self) -> TargetStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long ago the last scrape asked for data; `None`: never.
    pub fn since_last_scrape(&self) -> Option<Duration> {
        match self.scraped.load(Ordering::Relaxed) {
            0 => None,
            at => Some(Duration::from_nanos(ticks(Instant::now()).saturating_sub(at))),
        }
    }

    /// Records the format that a scrape requested. Results are kept in it from the next poll on, so that they need not be converted.
    ///
    /// While some scrapes request OpenMetrics, results stay in it: a client that requests text must not make the scrapes of Prometheus wait
    /// for a conversion.
    pub fn prefer(&self, format: Format) {
        match format {
            Format::Text => self.prefers_text.store(true, Ordering::Relaxed),
            Format::OpenMetrics => {
                self.openmetrics_scraped.store(ticks(Instant::now()), Ordering::Relaxed);
                self.prefers_text.store(false, Ordering::Relaxed);
            }
        }
    }

    /// The format in which the next result is kept.
    pub(super) fn format(&self) -> Format {
        let at = self.openmetrics_scraped.load(Ordering::Relaxed);
        let since = Duration::from_nanos(ticks(Instant::now()).saturating_sub(at));
        let wants_openmetrics = at > 0 && since < OPENMETRICS_TIME;
        if self.prefers_text.load(Ordering::Relaxed) && !wants_openmetrics { Format::Text } else { Format::OpenMetrics }
    }

    /// The answer to a scrape: the newest result if it is young enough, else the one of a poll that is started or joined now.
    ///
    /// A poll that does not end within `wait` gives an answer of its own, with reason `timeout` and nothing of the target.
    pub async fn answer(&self, wait: Duration) -> Arc<Snapshot> {
        self.scraped.store(ticks(Instant::now()), Ordering::Relaxed);
        self.show(wait).await
    }

    /// The same for the debug page: it does not count as a scrape.
    pub async fn show(&self, wait: Duration) -> Arc<Snapshot> {
        let asked = Instant::now();
        if let Some(snapshot) = self.usable(self.newest(), asked) {
            return snapshot; // the path of nearly every scrape: no timer, no subscription
        }
        let mut newest = self.newest.subscribe();
        let ended = tokio::time::timeout_at(asked + wait, async {
            loop {
                if self.stop.is_cancelled() {
                    return Arc::new(render::unpolled(Reason::Config, "the target is no longer declared"));
                }
                let latest = newest.borrow_and_update().clone();
                if let Some(snapshot) = self.usable(latest, asked) {
                    return snapshot;
                }
                self.requested.fetch_max(ticks(asked), Ordering::AcqRel);
                self.demand.notify_one();
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    // The sender is a part of this poller.
                    _ = newest.changed() => {}
                }
            }
        });
        ended.await.unwrap_or_else(|_| {
            let message = if self.is_queued.load(Ordering::Relaxed) {
                format!(
                    "the poll did not start within {wait:?}, the time that the scrape allows: the exporter has more to poll than its CPU \
                     can handle"
                )
            } else {
                format!("the poll did not end within {wait:?}, the time that the scrape allows")
            };
            let wait = ScrapeWait { waited: asked.elapsed(), allowed: wait };
            Arc::new(render::unpolled_target(&self.target(), Reason::Timeout, &message, Some(wait)))
        })
    }

    /// Takes the snapshot itself, not a borrow of `newest`, which is a lock: [`publish`](Self::publish) locks the target first.
    fn usable(&self, newest: Option<Arc<Snapshot>>, asked: Instant) -> Option<Arc<Snapshot>> {
        let snapshot = newest?;
        let joined = snapshot.ended >= asked;
        let max_age = self.target().max_age;
        let fresh = !max_age.is_zero() && asked.saturating_duration_since(snapshot.ended) <= max_age;
        let held = snapshot.held_until.is_some_and(|until| asked < until);
        (snapshot.is_permanent || joined || fresh || held).then_some(snapshot)
    }

    /// Whether a scrape has requested data newer than the poll that ended at `last`.
    pub(super) fn is_requested_since(&self, last: Option<Instant>) -> bool {
        self.requested.load(Ordering::Acquire) > last.map_or(0, ticks)
    }

    /// Notes that a poll is due and waits to begin, until the guard is dropped.
    pub(super) fn mark_queued(&self) -> QueuedGuard<'_> {
        self.is_queued.store(true, Ordering::Relaxed);
        QueuedGuard(self)
    }

    /// Replaces the target. Returns whether it differs from the one before.
    pub(super) fn change(&self, target: Target) -> bool {
        let mut current = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let (same, same_data) = (**current == target, current.gives_same_data(&target));
        *current = Arc::new(target);
        if !same_data {
            self.newest.send_replace(None); // data of another server must not be served as this one's
        }
        drop(current);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if !same_data && matches!(status.state, TargetState::Suspended | TargetState::Invalid) {
            *status = TargetStatus { last_success: status.last_success, ..TargetStatus::pending() };
        }
        drop(status);
        if !same {
            self.changed.notify_one();
        }
        !same
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Makes `snapshot`, the result of a poll of `target`, the newest one, unless the target has changed meanwhile.
    ///
    /// Returns the status before and after if its state or reason or the number of its members has changed, or if this is the first result of the target as it is
    /// declared now.
    pub(super) fn publish(&self, target: &Target, snapshot: Snapshot) -> Option<(TargetStatus, TargetStatus)> {
        // Locked to the end, so that a change comes either before, and this snapshot is discarded, or after, and it is removed.
        let current = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        if !current.gives_same_data(target) {
            return None;
        }
        let state = match snapshot.failure.as_ref().map(|failure| failure.reason) {
            None => TargetState::Up,
            Some(Reason::Pending) => TargetState::Pending,
            Some(Reason::Suspended) => TargetState::Suspended,
            Some(Reason::Config) if snapshot.is_permanent => TargetState::Invalid,
            Some(_) => TargetState::Down,
        };
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let before = status.clone();
        status.state = state;
        status.failure.clone_from(&snapshot.failure);
        status.members = snapshot.member_counts();
        // The first sentence stays, since another one at each poll would be news each time; but not after a change of the target.
        let before_partial = before.partial.clone().filter(|_| self.newest.borrow().is_some());
        status.partial = snapshot.partial().map(|new| before_partial.unwrap_or(new));
        if state == TargetState::Up {
            status.last_success = Some(snapshot.ended_at);
        }
        if before.state != state {
            status.since = snapshot.ended_at; // a server that is down for changing reasons has been down all the time
        }
        let after = status.clone();
        drop(status);
        let first = self.newest.send_replace(Some(Arc::new(snapshot))).is_none();
        drop(current);
        let is_news = first || !before.has_same_state(&after) || before.members != after.members;
        is_news.then_some((before, after))
    }
}

/// Dropped when a poll no longer waits to begin.
pub(super) struct QueuedGuard<'p>(&'p Poller);

impl Drop for QueuedGuard<'_> {
    fn drop(&mut self) {
        self.0.is_queued.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{Lookup, LookupError, ObjectKind, ParsedTarget};

    struct Nothing;

    impl Lookup for Nothing {
        fn value(&self, kind: ObjectKind, namespace: &str, name: &str, _: &str) -> Result<Vec<u8>, LookupError> {
            Err(LookupError::NoObject { kind, namespace: namespace.to_owned(), name: name.to_owned() })
        }
    }

    fn target(url: &str) -> Target {
        let declaration = serde_json::json!({
            "apiVersion": "scrapetarget.dev/v1alpha1",
            "kind": "ScrapeTarget",
            "metadata": { "name": "a" },
            "spec": { "type": "Sora", "url": url },
        });
        let declaration = ParsedTarget::parse(serde_json::from_value(declaration).unwrap()).unwrap();
        Target::resolve(TargetId::new("team", "a"), Arc::new(declaration), &Nothing)
    }

    fn failed() -> Snapshot {
        render::unpolled(Reason::Connect, "refused")
    }

    #[tokio::test]
    async fn the_first_result_after_a_change_is_news_although_the_state_stays() {
        let (before, after) = (target("http://127.0.0.1:9/"), target("http://127.0.0.1:10/"));
        let poller = Poller::new(before.clone(), CancellationToken::new());
        assert!(poller.publish(&before, failed()).is_some());
        assert!(poller.publish(&before, failed()).is_none());
        poller.change(after.clone());
        let (was, is) = poller.publish(&after, failed()).unwrap();
        assert!(was.state == TargetState::Down && was.has_same_state(&is), "which is not worth a line in the log");
        assert!(poller.publish(&after, failed()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_counts_as_no_scrape() {
        let poller = Poller::new(target("http://127.0.0.1:9/"), CancellationToken::new());
        poller.show(Duration::from_secs(1)).await;
        assert_eq!(poller.since_last_scrape(), None);
        poller.answer(Duration::from_secs(1)).await;
        assert!(poller.since_last_scrape().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_scrape_in_vain_is_told_whether_the_poll_took_too_long_or_did_not_begin() {
        let poller = Poller::new(target("http://127.0.0.1:9/"), CancellationToken::new());
        let said = async || {
            let failure = poller.answer(Duration::from_secs(1)).await.failure.clone().unwrap();
            assert_eq!(failure.reason, Reason::Timeout);
            failure.message
        };
        let queued = poller.mark_queued();
        assert!(said().await.contains("the poll did not start within 1s"));
        drop(queued);
        assert!(said().await.contains("the poll did not end within 1s"));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_for_text_does_not_change_what_is_kept_for_scrapes_of_openmetrics() {
        let poller = Poller::new(target("http://sora.test/"), CancellationToken::new());
        assert_eq!(poller.format(), Format::OpenMetrics, "at first");
        poller.prefer(Format::Text);
        assert_eq!(poller.format(), Format::Text, "where nobody asks for another");
        poller.prefer(Format::OpenMetrics);
        for _ in 0..4 {
            poller.prefer(Format::Text);
            assert_eq!(poller.format(), Format::OpenMetrics);
            tokio::time::advance(OPENMETRICS_TIME / 4).await;
        }
        assert_eq!(poller.format(), Format::Text, "nobody has asked for OpenMetrics for minutes");
    }
}
