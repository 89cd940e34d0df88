//! A work queue of keys: each key is the name of an object that must be compared with the cluster and, where it differs, written.
//!
//! A queue holds names, not work: whoever takes a key looks at the newest state. It decides *when* that happens, and everything that is
//! said anywhere about trying again later is a rule of this file:
//!
//! * A key waits at most once, for the earliest of its times. One that is added while it is processed comes again afterwards.
//! * Taking a key and finding nothing to write costs nothing. Before a write, [`WorkItem::attempt`] asks whether this *version* of the
//!   object may be tried now; another version of it need not wait for what went wrong with the one before.
//! * What follows from the answer to a write is in [`WorkItem::finish`]: per-object backoff, a namespace that is left alone, or, while the
//!   API server does not answer at all, a pause of the whole queue.
//! * Objects that the API server fails at are retried with a share of the writes only, so that they cannot keep others waiting.
//! * At most [`QueueLimits::in_flight`] keys are processed at a time, and [`WorkQueue::may_log`] bounds what is logged one by one.
//!
//! It knows nothing of what is written, and writes nothing itself. Writes a second are bounded by the
//! [`RateLimiter`](super::rate_limiter::RateLimiter) that all parts share.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::WRITES_PER_SECOND;
use super::backoff::{Backoff, exponential};
use super::client::ApiError;
use crate::target::TargetId;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

/// An object that the API server fails at is tried again after the shortest, then twice as long each time, up to the longest.
const SHORTEST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// After a conflict the watch is about to deliver the newer object. It may be interrupted, so the wait grows nevertheless.
const LONGEST_CONFLICT: Duration = Duration::from_secs(30);

/// People grant a missing permission and install a missing kind: it need not be noticed at once.
const MISSING: Duration = Duration::from_secs(60);

/// Longest pause of the whole queue while the API server does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Retries of failing objects get one write in this many.
const RETRY_SHARE: u32 = 4;

/// A webhook may take seconds to fail: at most this many retries are in flight, the other places belong to objects that do not fail.
const MAX_RETRIES_IN_FLIGHT: usize = 2;

/// As many failing objects in a namespace without any success mean that the namespace fails: untried objects then wait among the retries.
const FAILING_NAMESPACE: usize = 8;

/// Failures that are logged one by one in [`LOG_WINDOW`]; the rest is only counted.
const LOGGED: usize = 10;
const LOG_WINDOW: Duration = Duration::from_secs(3600);

/// The name of an object.
pub(super) trait QueueKey: Clone + Eq + Hash {
    /// Failures are counted by namespace: a webhook, a quota or a role usually covers one.
    fn namespace(&self) -> &Arc<str>;
}

impl QueueKey for TargetId {
    fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }
}

/// What a queue may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    /// Keys that are processed at the same time.
    pub(super) in_flight: usize,
    /// Of all parts together; retries get a share of it.
    pub(super) writes_per_second: u32,
    /// How long a version that was refused is not tried again. Only an admission webhook or the CRD can change the answer.
    pub(super) refused: Duration,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { in_flight: 8, writes_per_second: WRITES_PER_SECOND, refused: MISSING }
    }
}

/// A keyed, delayed, paced work queue. Cheap to clone; all clones are the same queue.
pub(super) struct WorkQueue<K> {
    shared: Arc<SharedQueue<K>>,
}

struct SharedQueue<K> {
    schedule: Mutex<Schedule<K>>,
    /// There may be something to take earlier than was known.
    changed: Notify,
}

/// Why a version may not be tried now. The key comes again by itself when it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deferred {
    /// This version did not work a moment ago.
    Waiting,
    /// Nothing is tried in the namespace, because of this answer.
    Namespace(ApiError),
    /// The API server failed at this object, and it waits for its turn among the retries.
    Retry,
    /// The same, and the API server fails at everything in the namespace: with these words.
    FailingNamespace(String),
}

/// What is worth telling of a write that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WriteFailure {
    /// It has not failed in this way before: the first failure in a row, or the first refusal of this version.
    pub(super) is_new: bool,
    /// It failed more than once in a row, or everything in its namespace fails.
    pub(super) is_lasting: bool,
}

impl<K: QueueKey> WorkQueue<K> {
    /// An empty queue.
    pub(super) fn new(limits: QueueLimits) -> Self {
        Self { shared: Arc::new(SharedQueue { schedule: Mutex::new(Schedule::new(limits)), changed: Notify::new() }) }
    }

    /// Has a key processed as soon as there is a place. A key that waits already keeps its turn.
    pub(super) fn add(&self, key: K) {
        self.add_all([key]);
    }

    /// The same for many.
    pub(super) fn add_all(&self, keys: impl IntoIterator<Item = K>) {
        self.change(|schedule, now| keys.into_iter().for_each(|key| schedule.add(key, now, now)));
    }

    /// Has a key processed at `at`, unless it comes earlier anyway. (Others put a key off by [`WorkItem::defer`].)
    #[cfg(test)]
    pub(super) fn add_at(&self, key: K, at: Instant) {
        self.change(|schedule, now| schedule.add(key, at, now));
    }

    /// Waits for the next key. Any number of tasks may wait.
    pub(super) async fn next(&self) -> WorkItem<K> {
        // A long queue must not keep other tasks of this thread from their turn.
        tokio::task::coop::consume_budget().await;
        loop {
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            match self.take() {
                Ok(item) => return item,
                Err(None) => changed.await,
                Err(Some(at)) => {
                    let _ = tokio::time::timeout_at(at, changed).await;
                }
            }
        }
    }

    /// The next key, if there is one now.
    pub(super) fn try_next(&self) -> Option<WorkItem<K>> {
        self.take().ok()
    }

    /// Takes a key, or tells when that may work if nothing happens before.
    fn take(&self) -> Result<WorkItem<K>, Option<Instant>> {
        let (key, ticket) = self.lock().take(Instant::now())?;
        Ok(WorkItem { queue: self.clone(), key, ticket })
    }

    /// Keys that were put off to a later time. A key that merely waits for a place does not count.
    pub(super) fn delayed(&self) -> usize {
        let schedule = self.lock();
        schedule.delayed + schedule.retries.len()
    }

    /// Whether the queue pauses because the API server does not answer.
    #[cfg(test)]
    pub(super) fn is_paused(&self) -> bool {
        self.lock().paused(Instant::now()).is_some()
    }

    /// Whether another failure may be logged by itself; if not, it is counted.
    pub(super) fn may_log(&self) -> bool {
        self.lock().log.note(Instant::now())
    }

    /// How many failures were not logged since this was asked for the last time; `None`: none.
    pub(super) fn not_logged(&self) -> Option<usize> {
        self.lock().log.not_logged()
    }

    /// Forgets what went wrong with a key: it need not wait any more.
    pub(super) fn forget(&self, key: &K) {
        self.change(|schedule, _| schedule.forget(key));
    }

    /// Forgets what went wrong with objects that are gone, and what is over.
    pub(super) fn retain(&self, exists: impl FnMut(&K) -> bool) {
        self.change(|schedule, now| schedule.retain(exists, now));
    }

    /// Forgets everything. Items that were taken before are worth nothing any more.
    pub(super) fn clear(&self) {
        self.change(|schedule, _| {
            *schedule = Schedule { serial: schedule.serial, ..Schedule::new(schedule.limits) };
        });
    }

    /// Whether no key waits or is processed.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let schedule = self.lock();
        schedule.queued.is_empty() && schedule.retries.is_empty() && schedule.processing == 0
    }

    /// The keys that are due, in their order. None of them waits any more.
    #[cfg(test)]
    pub(super) fn drain(&self) -> Vec<K> {
        std::iter::from_fn(|| self.try_next()).map(|item| item.key.clone()).collect()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Schedule<K>, Instant) -> T) -> T {
        let result = change(&mut self.lock(), Instant::now());
        self.shared.changed.notify_waiters();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Schedule<K>> {
        self.shared.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: QueueKey> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new(QueueLimits::default())
    }
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K> fmt::Debug for WorkQueue<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkQueue").finish_non_exhaustive()
    }
}

/// A key that is being processed, until this is dropped.
#[derive(Debug)]
pub(super) struct WorkItem<K: QueueKey> {
    queue: WorkQueue<K>,
    key: K,
    ticket: u64,
}

impl<K: QueueKey> WorkItem<K> {
    /// What is to be looked at.
    pub(super) fn key(&self) -> &K {
        &self.key
    }

    /// Puts the key off to `at`: there is something to write, but not yet.
    pub(super) fn defer(self, at: Instant) {
        self.queue.change(|schedule, _| schedule.defer(&self.key, self.ticket, at));
    }

    /// Asks whether `version` of the object may be written now. Whoever gets it tells how that ended, by [`finish`](Self::finish); an item
    /// that is dropped instead tells that nothing was sent.
    pub(super) fn attempt(&self, version: u64) -> Result<(), Deferred> {
        self.queue.change(|schedule, now| schedule.attempt(&self.key, self.ticket, version, now))
    }

    /// Draws the conclusions from the answer to the attempt. After a failure, the key comes again when it may be tried.
    pub(super) fn finish(self, result: Result<(), &ApiError>) -> WriteFailure {
        self.queue.change(|schedule, now| schedule.finish(&self.key, self.ticket, result, now))
    }

    /// The attempt did not work for a reason of the caller's: the same version is not tried again for `pause`.
    pub(super) fn retry_in(self, pause: Duration) {
        self.queue.change(|schedule, now| {
            let version = schedule.attempted(&self.key, self.ticket);
            schedule.hold(&self.key, version, Cause::Caller, pause, now);
        });
    }

    /// Leaves the whole namespace of the key alone for a minute, because of this answer. [`finish`](Self::finish) does so by itself where
    /// a permission is missing.
    pub(super) fn rest_namespace(&self, error: &ApiError) {
        self.queue.change(|schedule, now| schedule.rest(self.key.namespace(), error, now));
    }
}

impl<K: QueueKey> Drop for WorkItem<K> {
    fn drop(&mut self) {
        self.queue.change(|schedule, now| schedule.release(&self.key, self.ticket, now));
    }
}

/// When something is due, and its number among those that are due at the same time.
type Slot = (Instant, u64);

/// Everything that a queue knows. It has no clock.
struct Schedule<K> {
    limits: QueueLimits,
    /// Each key that waits, is processed, or did not work.
    keys: HashMap<K, KeyState>,
    /// Keys that wait to be looked at.
    queued: BTreeMap<Slot, K>,
    /// How many of them were put off.
    delayed: usize,
    /// Keys that wait to be retried, those apart that are processed.
    retries: BTreeMap<Slot, K>,
    /// Before this, no retry starts.
    next_retry: Option<Instant>,
    processing: usize,
    /// How many of them are retries.
    retrying: usize,
    /// Namespaces in which the API server fails, since something was last written there.
    failing: HashMap<Arc<str>, NamespaceFailures>,
    /// Namespaces that are left alone, until when, and why.
    resting: HashMap<Arc<str>, (Instant, ApiError)>,
    /// Of the whole queue.
    backoff: Backoff,
    paused_until: Option<Instant>,
    log: LogLimit,
    /// The last number given to a slot or ticket.
    serial: u64,
}

#[derive(Debug, Default)]
struct KeyState {
    /// Where the key stands in [`Schedule::queued`], and whether it was put off.
    queued: Option<(Slot, bool)>,
    processing: Option<Processing>,
    hold: Option<Hold>,
}

#[derive(Debug)]
struct Processing {
    ticket: u64,
    /// It came as a retry, which uses a place and a turn of these.
    is_retry: bool,
    /// The version for which an attempt was permitted.
    attempted: Option<u64>,
    /// There is something to write, but not yet.
    deferred: bool,
    /// When it must be looked at again.
    again: Option<Instant>,
}

impl Processing {
    fn look_again(&mut self, at: Instant) {
        self.again = Some(self.again.map_or(at, |again| again.min(at)));
    }

    /// Puts the key off. One that waits among the retries goes on doing so, with its backoff, but its turn does not come earlier.
    fn defer(&mut self, hold: Option<&mut Hold>, slot: Slot) {
        self.deferred = true;
        self.look_again(slot.0);
        if let Some(hold) = hold.filter(|hold| hold.cause.is_retry()) {
            hold.slot = hold.slot.max(slot);
        }
    }
}

/// A version that is not tried for a while.
#[derive(Debug)]
struct Hold {
    version: u64,
    cause: Cause,
    /// For this cause in a row.
    failures: u32,
    until: Instant,
    /// For retries: the place among them.
    slot: Slot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The API server failed at it.
    Failed,
    /// It failed at all others in the namespace.
    Untried,
    Conflict,
    Refused,
    NotFound,
    Caller,
}

impl Cause {
    /// Whether such a key waits among the retries.
    const fn is_retry(self) -> bool {
        matches!(self, Self::Failed | Self::Untried)
    }
}

#[derive(Debug, Default)]
struct NamespaceFailures {
    objects: usize,
    /// What was answered last.
    message: String,
}

impl NamespaceFailures {
    const fn is_everything(&self) -> bool {
        self.objects >= FAILING_NAMESPACE
    }
}

impl<K: QueueKey> Schedule<K> {
    fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            keys: HashMap::new(),
            queued: BTreeMap::new(),
            delayed: 0,
            retries: BTreeMap::new(),
            next_retry: None,
            processing: 0,
            retrying: 0,
            failing: HashMap::new(),
            resting: HashMap::new(),
            backoff: Backoff::up_to(LONGEST_PAUSE),
            paused_until: None,
            log: LogLimit::default(),
            serial: 0,
        }
    }

    fn add(&mut self, key: K, at: Instant, now: Instant) {
        let slot = self.slot(at.max(now));
        let state = self.keys.entry(key.clone()).or_default();
        if let Some(processing) = &mut state.processing {
            processing.look_again(at);
            return;
        }
        if let Some((earlier, was_delayed)) = state.queued {
            if earlier.0 <= slot.0 {
                return;
            }
            self.queued.remove(&earlier);
            self.delayed -= usize::from(was_delayed);
        }
        let is_delayed = at > now;
        state.queued = Some((slot, is_delayed));
        self.delayed += usize::from(is_delayed);
        self.queued.insert(slot, key);
    }

    fn slot(&mut self, at: Instant) -> Slot {
        self.serial += 1;
        (at, self.serial)
    }

    fn paused(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| now < *until)
    }

    /// Takes the next key, or tells when there may be one. Retries go first, since they come slowly.
    fn take(&mut self, now: Instant) -> Result<(K, u64), Option<Instant>> {
        if self.processing >= self.limits.in_flight {
            return Err(None);
        }
        if let Some(until) = self.paused(now) {
            return Err(Some(until));
        }
        let retry = self.retries.first_key_value().filter(|_| self.retrying < MAX_RETRIES_IN_FLIGHT);
        let retry_at = retry.map(|(&(at, _), _)| self.next_retry.map_or(at, |next| next.max(at)));
        let queued_at = self.queued.first_key_value().map(|(&(at, _), _)| at);
        let is_retry = retry_at.is_some_and(|at| at <= now);
        let key = match () {
            () if is_retry => self.retries.pop_first(),
            () if queued_at.is_some_and(|at| at <= now) => self.queued.pop_first(),
            () => None,
        };
        let Some((_, key)) = key else { return Err(retry_at.into_iter().chain(queued_at).min()) };
        self.serial += 1;
        let ticket = self.serial;
        let state = self.keys.entry(key.clone()).or_default();
        let mut again = None;
        if let Some((slot, was_delayed)) = state.queued.take() {
            self.queued.remove(&slot);
            self.delayed -= usize::from(was_delayed);
            again = Some(slot.0).filter(|at| *at > now);
        }
        if let Some(hold) = state.hold.as_ref().filter(|hold| hold.cause.is_retry()) {
            self.retries.remove(&hold.slot);
        }
        state.processing = Some(Processing { ticket, is_retry, attempted: None, deferred: false, again });
        self.processing += 1;
        if is_retry {
            self.retrying += 1;
            self.next_retry = Some(now + Duration::from_secs(1) * RETRY_SHARE / self.limits.writes_per_second.max(1));
        }
        Ok((key, ticket))
    }

    /// The state of a key that is processed under this ticket.
    fn processed(&mut self, key: &K, ticket: u64) -> Option<(&mut Processing, &mut Option<Hold>)> {
        let KeyState { processing, hold, .. } = self.keys.get_mut(key)?;
        Some((processing.as_mut().filter(|processing| processing.ticket == ticket)?, hold))
    }

    fn attempted(&mut self, key: &K, ticket: u64) -> Option<u64> {
        self.processed(key, ticket)?.0.attempted
    }

    fn defer(&mut self, key: &K, ticket: u64, at: Instant) {
        let slot = self.slot(at);
        let Some((processing, hold)) = self.processed(key, ticket) else { return };
        processing.defer(hold.as_mut(), slot);
    }

    fn attempt(&mut self, key: &K, ticket: u64, version: u64, now: Instant) -> Result<(), Deferred> {
        let resting = self.resting.get(key.namespace()).filter(|(until, _)| *until > now).cloned();
        let failing = self.failing.get(key.namespace()).filter(|failures| failures.is_everything());
        let failing = failing.map(|failures| failures.message.clone());
        let slot = self.slot(resting.as_ref().map_or(now, |(until, _)| *until));
        let Some((processing, hold)) = self.processed(key, ticket) else { return Err(Deferred::Waiting) };
        if let Some((_, error)) = resting {
            processing.defer(hold.as_mut(), slot);
            return Err(Deferred::Namespace(error));
        }
        match hold {
            Some(hold) if hold.cause == Cause::Untried || hold.cause == Cause::Failed && hold.version == version => {
                hold.version = version;
                if !processing.is_retry {
                    return Err(failing.map_or(Deferred::Retry, Deferred::FailingNamespace));
                }
            }
            Some(hold) if !hold.cause.is_retry() && hold.version == version && hold.until > now => {
                processing.look_again(hold.until);
                return Err(Deferred::Waiting);
            }
            _ => {
                if let Some(message) = failing.filter(|_| !processing.is_retry) {
                    let failures =
                        hold.as_ref().filter(|hold| hold.cause == Cause::Failed).map_or(0, |hold| hold.failures);
                    *hold = Some(Hold { version, cause: Cause::Untried, failures, until: now, slot });
                    return Err(Deferred::FailingNamespace(message));
                }
            }
        }
        processing.attempted = Some(version);
        Ok(())
    }

    fn finish(&mut self, key: &K, ticket: u64, result: Result<(), &ApiError>, now: Instant) -> WriteFailure {
        match result {
            Err(ApiError::Unreachable(_)) => {
                // What was sent before a pause began does not make it longer.
                if self.paused(now).is_none() {
                    self.paused_until = Some(now + self.backoff.next());
                }
            }
            // That it fails at one object does not tell that it can write others again.
            Err(ApiError::Failed(_)) => {}
            _ => {
                self.backoff.reset();
                self.paused_until = None;
            }
        }
        if let Err(error @ ApiError::Forbidden(_)) = result {
            self.rest(key.namespace(), error, now);
        }
        let Some(version) = self.attempted(key, ticket) else { return WriteFailure::default() };
        match result {
            Ok(()) => {
                self.succeed(key, now);
                WriteFailure::default()
            }
            Err(ApiError::Unreachable(_)) => {
                self.again(key, ticket, now);
                WriteFailure::default()
            }
            Err(ApiError::Forbidden(_)) => {
                self.forget(key);
                self.again(key, ticket, now + MISSING);
                WriteFailure::default()
            }
            Err(ApiError::NotFound) => self.hold(key, Some(version), Cause::NotFound, MISSING, now),
            Err(ApiError::Refused(_)) => self.hold(key, Some(version), Cause::Refused, self.limits.refused, now),
            Err(ApiError::Conflict(_)) => {
                let failures = self.failures(key, Cause::Conflict);
                let pause = exponential(SHORTEST_RETRY, LONGEST_CONFLICT, failures);
                self.hold(key, Some(version), Cause::Conflict, pause, now)
            }
            Err(ApiError::Failed(message)) => {
                let failures = self.failures(key, Cause::Failed);
                let namespace = self.failing.entry(Arc::clone(key.namespace())).or_default();
                message.clone_into(&mut namespace.message);
                namespace.objects += usize::from(failures == 0);
                let everything = namespace.is_everything();
                let pause = exponential(SHORTEST_RETRY, LONGEST_RETRY, failures);
                let failure = self.hold(key, Some(version), Cause::Failed, pause, now);
                WriteFailure { is_lasting: failures > 0 || everything, ..failure }
            }
        }
    }

    /// How often a key failed for this cause, in a row.
    fn failures(&self, key: &K, cause: Cause) -> u32 {
        let hold = self.keys.get(key).and_then(|state| state.hold.as_ref());
        let same = |held: Cause| held == cause || cause == Cause::Failed && held == Cause::Untried;
        hold.filter(|hold| same(hold.cause)).map_or(0, |hold| hold.failures)
    }

    /// Does not try `version` again for `pause`.
    fn hold(&mut self, key: &K, version: Option<u64>, cause: Cause, pause: Duration, now: Instant) -> WriteFailure {
        let (until, failures) = (now + pause, self.failures(key, cause));
        let slot = self.slot(until);
        let (Some(version), Some(state)) = (version, self.keys.get_mut(key)) else { return WriteFailure::default() };
        let same = state.hold.as_ref().is_some_and(|hold| hold.cause == cause && hold.version == version);
        let is_new = if cause == Cause::Failed { failures == 0 } else { !same };
        state.hold = Some(Hold { version, cause, failures: failures.saturating_add(1), until, slot });
        if let Some(processing) = state.processing.as_mut().filter(|_| !cause.is_retry()) {
            processing.look_again(until);
        }
        WriteFailure { is_new, is_lasting: !is_new }
    }

    fn again(&mut self, key: &K, ticket: u64, at: Instant) {
        if let Some((processing, _)) = self.processed(key, ticket) {
            processing.look_again(at);
        }
    }

    fn rest(&mut self, namespace: &Arc<str>, error: &ApiError, now: Instant) {
        self.resting.insert(Arc::clone(namespace), (now + MISSING, error.clone()));
    }

    /// It was written. What was not tried because of its namespace is tried now.
    fn succeed(&mut self, key: &K, now: Instant) {
        self.forget(key);
        let namespace = key.namespace();
        if !self.failing.remove(namespace).is_some_and(|failures| failures.is_everything()) {
            return;
        }
        let untried = |(key, state): &(&K, &KeyState)| {
            key.namespace() == namespace && state.hold.as_ref().is_some_and(|hold| hold.cause == Cause::Untried)
        };
        let mut freed: Vec<(Slot, K)> = self
            .keys
            .iter()
            .filter(untried)
            .map(|(key, state)| (state.hold.as_ref().map_or((now, 0), |hold| hold.slot), key.clone()))
            .collect();
        freed.sort_unstable_by_key(|(slot, _)| *slot);
        for (_, key) in freed {
            self.forget(&key);
            self.add(key, now, now);
        }
    }

    fn forget(&mut self, key: &K) {
        let Some(state) = self.keys.get_mut(key) else { return };
        if let Some(hold) = state.hold.take() {
            self.retries.remove(&hold.slot);
        }
        self.tidy(key);
    }

    fn tidy(&mut self, key: &K) {
        if self.keys.get(key).is_some_and(|KeyState { queued, processing, hold }| {
            queued.is_none() && processing.is_none() && hold.is_none()
        }) {
            self.keys.remove(key);
        }
    }

    fn release(&mut self, key: &K, ticket: u64, now: Instant) {
        let Some(state) = self.keys.get_mut(key) else { return };
        let Some(processing) = state.processing.take_if(|processing| processing.ticket == ticket) else { return };
        self.processing -= 1;
        self.retrying -= usize::from(processing.is_retry);
        if processing.is_retry && processing.attempted.is_none() && !processing.deferred {
            state.hold = None; // there was nothing to write any more
        }
        if let Some(hold) = state.hold.as_ref().filter(|hold| hold.cause.is_retry()) {
            self.retries.insert(hold.slot, key.clone());
        }
        match processing.again {
            Some(at) => self.add(key.clone(), at, now),
            None => self.tidy(key),
        }
    }

    fn retain(&mut self, mut exists: impl FnMut(&K) -> bool, now: Instant) {
        let gone: Vec<K> = self
            .keys
            .iter()
            .filter(|(key, state)| state.hold.is_some() && !exists(key))
            .map(|(key, _)| key.clone())
            .collect();
        gone.iter().for_each(|key| self.forget(key));
        self.resting.retain(|_, (until, _)| now < *until);
        let retried =
            self.keys.iter().filter(|(_, state)| state.hold.as_ref().is_some_and(|hold| hold.cause.is_retry()));
        let namespaces: std::collections::HashSet<&Arc<str>> = retried.map(|(key, _)| key.namespace()).collect();
        self.failing.retain(|namespace, _| namespaces.contains(namespace));
    }
}

/// What goes wrong with many objects for the same reason is logged for some of them.
#[derive(Debug, Default)]
struct LogLimit {
    /// When the first was logged.
    since: Option<Instant>,
    logged: usize,
    not_logged: usize,
}

impl LogLimit {
    fn note(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now - since >= LOG_WINDOW) {
            (self.since, self.logged) = (Some(now), 0);
        }
        let log = self.logged < LOGGED;
        *(if log { &mut self.logged } else { &mut self.not_logged }) += 1;
        log
    }

    fn not_logged(&mut self) -> Option<usize> {
        Some(std::mem::take(&mut self.not_logged)).filter(|count| *count > 0)
    }
}
