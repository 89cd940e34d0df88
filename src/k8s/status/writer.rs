//! When each status is written: at once after a change, rarely where a target flaps, and never twice. It knows nothing of the content of a
//! status.
//!
//! Workers take targets from the work queue, which decides when a write that failed is tried again. This file decides when a status that
//! *differs* is written.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, MissedTickBehavior};

use super::conditions::{
    Difference, difference, exceeds_limit, fingerprint, is_pending, is_up_to_date, resolves_pending, with_message_of,
};
use crate::backoff::exponential;
use crate::crd::ScrapeTargetStatus;
use crate::k8s::WRITES_PER_SECOND;
use crate::k8s::client::ApiError;
use crate::k8s::observed::ObservedTarget;
use crate::k8s::rate_limiter::RateLimiter;
use crate::k8s::target_store::{TargetRecord, TargetStore};
use crate::k8s::workqueue::{QueueLimits, WorkItem, WorkQueue};
use crate::target::TargetId;

/// The interval at which every target is compared, whether or not it was enqueued. Scrapes that start or stop are noticed only by this.
pub(super) const RESYNC: Duration = Duration::from_secs(30);

/// Targets that are compared before other tasks get a turn, which takes well below a millisecond.
const CHUNK: usize = 64;

/// The delay before a status is tried again that was refused. Nothing that the user writes into the ScrapeTarget can help, unlike with a
/// refused ServiceMonitor, which is tried again sooner.
const REFUSED_RETRY: Duration = Duration::from_mins(5);

/// More writes at a time do not help, since the writes a second are bounded.
pub(in crate::k8s) const LIMITS: QueueLimits =
    QueueLimits { in_flight: 8, writes_per_second: WRITES_PER_SECOND, refused_retry: REFUSED_RETRY };

/// A flapping target is written once in this time.
const FLAPPING: Duration = Duration::from_secs(10);

/// The interval where a user waits for the result: after a change of the spec, and for conditions that were still pending.
const AWAITED: Duration = Duration::from_secs(1);

/// Numbers of members alone are written once in this time. They are compared by the resync, as messages are, so that no target waits in the
/// queue for it.
const NUMBERS: Duration = Duration::from_mins(1);

/// Where another writer overwrites a status, the delay before it is written again doubles each time, up to this. So does the delay before
/// another message is written, where a server finds other words for the same failure again and again.
const LONGEST_REWRITE: Duration = Duration::from_secs(600);

/// So many other messages are not delayed: a user who looks for the cause of a failure corrects one after another.
const PROMPT_MESSAGES: u32 = 3;

/// A status that had to be written again this often is overwritten by another exporter, not by a person who edits it once or twice.
const CONTESTED: u32 = 3;

/// The most targets for which another writer is logged: if two exporters have the same targets, some of them are enough to show it.
const MAX_CONTESTED_LOGGED: usize = 10;

/// A new status waits this long for the first poll and the first ServiceMonitor, so that one write is enough; longer where many targets
/// appear together, since each waits for the two writes of all others. The limit lets the user see that the target is being processed.
const SETTLE: Duration = Duration::from_secs(1);
const SETTLE_PER_TARGET: Duration = Duration::from_millis(2_000 / WRITES_PER_SECOND as u64);
const LONGEST_SETTLE: Duration = Duration::from_secs(240);

/// The targets, the desired status of each, and the API server that the statuses are written to.
pub(super) trait StatusBackend: Send + Sync + 'static {
    fn store(&self) -> &TargetStore;

    /// The targets whose status may differ.
    fn queue(&self) -> &WorkQueue<TargetId>;

    fn write_limiter(&self) -> &RateLimiter;

    fn may_write(&self) -> bool;

    /// Waits until nothing may be written any more.
    fn lost(&self) -> impl Future<Output = ()> + Send;

    /// The status that `record` should have. `watched_for`: how long this replica has led and known this generation.
    fn desired(&self, record: &TargetRecord, watched_for: Duration) -> ScrapeTargetStatus;

    /// Writes the status, and stores the one that the cluster has then.
    fn write(
        &self,
        object: &ObservedTarget,
        status: &ScrapeTargetStatus,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;
}

/// The writer, for as long as this replica leads.
pub(super) struct StatusWriter<B> {
    backend: Arc<B>,
    history: Mutex<History>,
}

impl<B: StatusBackend> StatusWriter<B> {
    pub(super) fn new(backend: Arc<B>) -> Self {
        Self { backend, history: Mutex::default() }
    }

    /// Writes until that is not permitted any more. What is in flight then is dropped.
    pub(super) async fn run(&self) {
        tokio::select! {
            () = self.backend.lost() => {}
            () = self.resync() => {}
            _ = join_all((0..LIMITS.in_flight).map(|_| self.work())) => {}
        }
    }

    /// Enqueues every target whose status differs, at once and then regularly.
    async fn resync(&self) {
        let (store, queue) = (self.backend.store(), self.backend.queue());
        let mut interval = tokio::time::interval(RESYNC);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let ids = store.ids();
            self.history().retain(&ids);
            queue.retain(|id| ids.binary_search(id).is_ok());
            if let Some(targets) = queue.not_logged() {
                tracing::warn!(targets, "the statuses of more targets cannot be written");
            }
            for chunk in ids.chunks(CHUNK) {
                let now = Instant::now();
                let differs = |id: &&TargetId| store.get(id).is_some_and(|record| self.due(&record, now).is_some());
                let differing: Vec<TargetId> = chunk.iter().filter(differs).cloned().collect();
                queue.add_all(differing);
                tokio::task::yield_now().await;
            }
        }
    }

    async fn work(&self) {
        loop {
            let item = self.backend.queue().next().await;
            self.reconcile(item).await;
        }
    }

    /// Writes the status of one target if it differs and may be written now.
    async fn reconcile(&self, item: WorkItem<TargetId>) {
        let (store, queue, now) = (self.backend.store(), self.backend.queue(), Instant::now());
        let Some(record) = store.get(item.key()) else {
            self.history().remove(item.key());
            return queue.forget(item.key());
        };
        let Some((desired, _)) = self.due(&record, now) else { return };
        let at = self.history().not_before(&record.object, &desired, queue.delayed(), now);
        if at > now {
            return item.defer(at);
        }
        if item.attempt(version(&record.object)).is_err() {
            return;
        }
        self.backend.write_limiter().acquire().await;
        // The object may have changed in the meantime.
        let same = |object: &ObservedTarget| version(object) == version(&record.object);
        let Some(record) = store.get(item.key()).filter(|record| same(&record.object)) else {
            return queue.add(item.key().clone());
        };
        let Some((desired, difference)) = self.due(&record, Instant::now()) else { return };
        if !self.backend.may_write() {
            return;
        }
        let result = self.backend.write(&record.object, &desired).await;
        self.finish(item, difference, fingerprint(&desired), &result);
    }

    /// The status that `record` should have, if it has another that may be replaced now or soon, and what they differ in.
    fn due(&self, record: &TargetRecord, now: Instant) -> Option<(ScrapeTargetStatus, Difference)> {
        let (since, sent, may_reword) = {
            let mut history = self.history();
            let history = history.of(&record.object, now);
            (history.since, history.sent, history.may_reword(now))
        };
        let (observed, desired) =
            (&record.object.status, self.backend.desired(record, now.saturating_duration_since(since)));
        if is_up_to_date(observed, &desired) {
            return None;
        }
        // Another replica may have written them shortly before this one has taken over.
        let may_count = now.saturating_duration_since(sent.unwrap_or(since)) >= NUMBERS;
        match difference(observed, &desired) {
            Difference::Message if !may_reword => {
                let counted = with_message_of(observed, desired);
                (may_count && !is_up_to_date(observed, &counted)).then_some((counted, Difference::Numbers))
            }
            Difference::Numbers if !may_count => None,
            difference => Some((desired, difference)),
        }
    }

    fn finish(&self, item: WorkItem<TargetId>, written: Difference, fingerprint: u64, result: &Result<(), ApiError>) {
        let target = item.key().clone();
        let contested = self.history().sent(&target, written, fingerprint, result.is_ok(), Instant::now());
        if result.is_ok() {
            self.backend.queue().add(target.clone()); // it may have changed during the write
        }
        let failure = item.finish(result.as_ref().map(|&()| ()));
        match result {
            Ok(()) if contested => tracing::warn!(
                %target,
                "another client writes the status of this target, perhaps another release of the exporter: give each release its own \
                 targets with --watch-namespace or --target-selector"
            ),
            Ok(()) | Err(ApiError::Unreachable(_)) => {}
            Err(error @ (ApiError::Refused(_) | ApiError::Failed(_))) if failure.is_new => {
                if self.backend.queue().may_log() {
                    self.log(&target, error);
                }
            }
            Err(error) => tracing::debug!(%target, %error, "a status was not written"),
        }
    }

    fn log(&self, target: &TargetId, error: &ApiError) {
        let exceeds = self.backend.store().get(target).is_some_and(|record| {
            let desired = self.backend.desired(&record, Duration::ZERO);
            exceeds_limit(&record.object.status, &desired)
        });
        if exceeds {
            tracing::warn!(
                %target,
                %error,
                "the status of a target cannot be written: other clients have added so many conditions that ours do not fit, remove some"
            );
        } else {
            tracing::warn!(%target, %error, "the status of a target cannot be written");
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The version for the work queue: a failed write does not delay another generation, nor another object of the same name.
fn version(object: &ObservedTarget) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&object.uid, object.generation).hash(&mut hasher);
    hasher.finish()
}

/// The statuses that this replica has written since it leads.
#[derive(Debug, Default)]
struct History {
    targets: HashMap<TargetId, StatusHistory>,
    /// Targets of which it was logged that somebody else writes their status.
    contested: HashSet<TargetId>,
}

#[derive(Debug)]
struct StatusHistory {
    uid: Arc<str>,
    generation: i64,
    /// Since when this generation is known.
    since: Instant,
    /// Since when something is pending that should be known soon.
    pending_since: Option<Instant>,
    /// When a status was last sent, and the fingerprint of the one that was last written.
    sent: Option<Instant>,
    written: Option<u64>,
    /// How often that had to be written again, in a row.
    rewrites: u32,
    /// When nothing but a message was last written, and how often since the conditions were.
    reworded: Option<Instant>,
    rewordings: u32,
}

impl StatusHistory {
    /// Whether another message may be written for the same conditions.
    fn may_reword(&self, now: Instant) -> bool {
        let delay = exponential(FLAPPING, LONGEST_REWRITE, self.rewordings.saturating_sub(PROMPT_MESSAGES));
        now.saturating_duration_since(self.reworded.unwrap_or(self.since)) >= delay
    }

    fn reword(&mut self, now: Instant) {
        let rested = has_rested(self.reworded.replace(now), now);
        self.rewordings = if rested { 1 } else { self.rewordings.saturating_add(1) };
    }
}

/// Whether so much time has passed that the delays begin anew.
fn has_rested(before: Option<Instant>, now: Instant) -> bool {
    before.is_none_or(|before| now - before > 2 * LONGEST_REWRITE)
}

impl History {
    /// The history of an object; a new one after a change of its spec.
    fn of(&mut self, object: &ObservedTarget, now: Instant) -> &mut StatusHistory {
        let new = |sent| StatusHistory {
            uid: Arc::clone(&object.uid),
            generation: object.generation,
            since: now,
            pending_since: None,
            sent,
            written: None,
            rewrites: 0,
            reworded: None,
            rewordings: 0,
        };
        let entry = self.targets.entry(object.id.clone()).or_insert_with(|| new(None));
        if entry.uid != object.uid || entry.generation != object.generation {
            *entry = new(entry.sent);
        }
        entry
    }

    /// The earliest time to write `desired`, while `others` other targets wait.
    fn not_before(
        &mut self,
        object: &ObservedTarget,
        desired: &ScrapeTargetStatus,
        others: usize,
        now: Instant,
    ) -> Instant {
        let observed = &object.status;
        let entry = self.of(object, now);
        let gap = if entry.written == Some(fingerprint(desired)) {
            exponential(FLAPPING, LONGEST_REWRITE, entry.rewrites)
        } else if observed.observed_generation != desired.observed_generation || resolves_pending(desired, observed) {
            AWAITED
        } else {
            FLAPPING
        };
        entry.pending_since = is_pending(desired).then(|| entry.pending_since.unwrap_or(now));
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        let settle = SETTLE_PER_TARGET.saturating_mul(others).saturating_add(SETTLE).min(LONGEST_SETTLE);
        let settled = entry.pending_since.map(|since| since + settle);
        [entry.sent.map(|sent| sent + gap), settled].into_iter().flatten().fold(now, Instant::max)
    }

    /// Notes that a status was sent. Returns whether somebody else seems to write it as well, once for each of some targets.
    fn sent(&mut self, id: &TargetId, written: Difference, fingerprint: u64, is_written: bool, now: Instant) -> bool {
        let Some(entry) = self.targets.get_mut(id) else { return false };
        let before = entry.sent.replace(now);
        if !is_written {
            return false;
        }
        match written {
            Difference::Numbers => return false,
            Difference::Message => {
                entry.reword(now);
                return false;
            }
            Difference::Conditions => entry.rewordings = 0,
        }
        let rested = has_rested(before, now);
        if entry.written.replace(fingerprint) == Some(fingerprint) {
            entry.rewrites = if rested { 1 } else { entry.rewrites.saturating_add(1) };
        } else if rested {
            entry.rewrites = 0;
        }
        entry.rewrites >= CONTESTED && self.contested.len() < MAX_CONTESTED_LOGGED && self.contested.insert(id.clone())
    }

    fn remove(&mut self, id: &TargetId) {
        self.targets.remove(id);
    }

    /// Forgets the targets that are not among `ids`, which are in order.
    fn retain(&mut self, ids: &[TargetId]) {
        self.targets.retain(|id, _| ids.binary_search(id).is_ok());
    }
}

#[cfg(test)]
mod tests;
