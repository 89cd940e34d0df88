//! The rules of the work queue, without a clock and without tasks: what is due, what comes next, and what follows from the answer to a
//! write.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Deferred, QueueLimits, WorkKey, WriteFailure};
use crate::backoff::{Backoff, exponential};
use crate::k8s::client::ApiError;

/// Backoff of an object that the API server fails at.
const SHORTEST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The longest backoff after conflicts. The watch is about to deliver the newer object; but it may be interrupted, so the backoff grows
/// nevertheless.
const LONGEST_CONFLICT_RETRY: Duration = Duration::from_secs(30);

/// The delay after a missing permission or a missing kind. People grant and install these, which need not be noticed at once.
const MISSING_RETRY: Duration = Duration::from_secs(60);

/// The longest pause of the whole queue while the API server does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// One write in this many of [`QueueLimits::writes_per_second`] is for retries of objects that fail, in each queue.
const RETRY_SHARE: u32 = 4;

/// A webhook may take seconds to fail: at most this many retries are in flight, the other places belong to objects that do not fail.
pub(super) const MAX_RETRIES_IN_FLIGHT: usize = 2;

/// A namespace with this many failing objects and no success counts as failing: objects that were not tried yet then wait among the retries.
const FAILING_NAMESPACE: usize = 8;

/// Failures that are logged one by one in [`LOG_WINDOW`]; the rest is only counted.
const LOGGED: usize = 10;
pub(super) const LOG_WINDOW: Duration = Duration::from_secs(3600);

/// When something is due, and its number among those that are due at the same time.
pub(super) type Slot = (Instant, u64);

/// The state of a queue. The time is an argument of every method.
pub(super) struct Scheduler<K> {
    limits: QueueLimits,
    /// Each key that waits, is processed, or failed.
    pub(super) keys: HashMap<K, KeyState>,
    /// Keys that wait to be processed.
    pub(super) queued: BTreeMap<Slot, K>,
    /// How many of them were delayed when they were added.
    pub(super) delayed: usize,
    /// Keys that wait to be retried, without those that are being processed.
    pub(super) retries: BTreeMap<Slot, K>,
    /// When the next retry may start.
    next_retry: Option<Instant>,
    pub(super) processing: usize,
    /// How many of them are retries.
    pub(super) retrying: usize,
    /// The failures in a namespace since something was last written there.
    pub(super) failing: HashMap<Arc<str>, NamespaceFailures>,
    /// Namespaces in which nothing is tried, until when, and because of which answer.
    paused_namespaces: HashMap<Arc<str>, (Instant, ApiError)>,
    /// Gives the pauses of the whole queue.
    backoff: Backoff,
    paused_until: Option<Instant>,
    pub(super) log: LogLimit,
    /// The last number given to a slot or ticket.
    serial: u64,
}

#[derive(Debug, Default)]
pub(super) struct KeyState {
    /// The slot of the key in [`Scheduler::queued`], and whether it was delayed when it was added.
    pub(super) queued: Option<(Slot, bool)>,
    pub(super) processing: Option<Processing>,
    pub(super) hold: Option<Hold>,
}

#[derive(Debug)]
pub(super) struct Processing {
    ticket: u64,
    /// It was taken as a retry, with one of their places and turns.
    is_retry: bool,
    /// The version for which an attempt was permitted.
    attempted: Option<u64>,
    /// There is something to write, but not yet.
    deferred: bool,
    /// When it must be processed again.
    requeue_at: Option<Instant>,
}

impl Processing {
    fn requeue(&mut self, at: Instant) {
        self.requeue_at = Some(self.requeue_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Defers the key. One that waits among the retries stays there with its backoff, but its turn does not come earlier.
    pub(super) fn defer(&mut self, hold: Option<&mut Hold>, slot: Slot) {
        self.deferred = true;
        self.requeue(slot.0);
        if let Some(hold) = hold.filter(|hold| hold.cause.is_retry()) {
            hold.slot = hold.slot.max(slot);
        }
    }
}

/// A version that is not tried before `until`.
#[derive(Debug)]
pub(super) struct Hold {
    version: u64,
    pub(super) cause: Cause,
    /// Failures in a row, for this cause.
    failures: u32,
    until: Instant,
    /// For retries: the place in [`Scheduler::retries`].
    slot: Slot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The API server failed at this object.
    Failed,
    /// The API server failed at all objects of the namespace that were tried, so this one waits as well.
    Untried,
    Conflict,
    Refused,
    NotFound,
    Caller,
}

impl Cause {
    /// Whether such a key waits among the retries.
    pub(super) const fn is_retry(self) -> bool {
        matches!(self, Self::Failed | Self::Untried)
    }
}

#[derive(Debug, Default)]
pub(super) struct NamespaceFailures {
    objects: usize,
    /// The last answer.
    message: String,
}

impl NamespaceFailures {
    /// Whether the namespace counts as failing.
    const fn is_failing(&self) -> bool {
        self.objects >= FAILING_NAMESPACE
    }
}

impl<K: WorkKey> Scheduler<K> {
    pub(super) fn new(limits: QueueLimits) -> Self {
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
            paused_namespaces: HashMap::new(),
            backoff: Backoff::up_to(LONGEST_PAUSE),
            paused_until: None,
            log: LogLimit::default(),
            serial: 0,
        }
    }

    /// Forgets everything. Earlier tickets stay different from later ones.
    pub(super) fn clear(&mut self) {
        *self = Self { serial: self.serial, ..Self::new(self.limits) };
    }

    /// Adds a key that is processed not before `at`. A key that waits already keeps the earlier of its times, and its place among equals.
    pub(super) fn add(&mut self, key: K, at: Instant, now: Instant) {
        let slot = self.slot(at.max(now));
        let state = self.keys.entry(key.clone()).or_default();
        if let Some(processing) = &mut state.processing {
            processing.requeue(at);
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

    /// Until when nothing is taken, because the API server does not answer.
    pub(super) fn paused(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| now < *until)
    }

    /// Takes the next key, or returns when there may be one. Retries go first, since they come slowly.
    pub(super) fn take(&mut self, now: Instant) -> Result<(K, u64), Option<Instant>> {
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
        let key = if is_retry {
            self.retries.pop_first()
        } else if queued_at.is_some_and(|at| at <= now) {
            self.queued.pop_first()
        } else {
            None
        };
        let Some((_, key)) = key else { return Err(retry_at.into_iter().chain(queued_at).min()) };
        self.serial += 1;
        let ticket = self.serial;
        let state = self.keys.entry(key.clone()).or_default();
        let mut requeue_at = None;
        if let Some((slot, was_delayed)) = state.queued.take() {
            self.queued.remove(&slot);
            self.delayed -= usize::from(was_delayed);
            requeue_at = Some(slot.0).filter(|at| *at > now);
        }
        if let Some(hold) = state.hold.as_ref().filter(|hold| hold.cause.is_retry()) {
            self.retries.remove(&hold.slot);
        }
        state.processing = Some(Processing { ticket, is_retry, attempted: None, deferred: false, requeue_at });
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

    /// The version for which this ticket got an attempt. `None` also where the queue was cleared since.
    pub(super) fn attempted(&mut self, key: &K, ticket: u64) -> Option<u64> {
        self.processed(key, ticket)?.0.attempted
    }

    /// There is something to write, but not before `at`.
    pub(super) fn defer(&mut self, key: &K, ticket: u64, at: Instant) {
        let slot = self.slot(at);
        let Some((processing, hold)) = self.processed(key, ticket) else { return };
        processing.defer(hold.as_mut(), slot);
    }

    /// Whether `version` may be tried now. If not, the key is queued again for when it may.
    pub(super) fn attempt(&mut self, key: &K, ticket: u64, version: u64, now: Instant) -> Result<(), Deferred> {
        let paused = self.paused_namespaces.get(key.namespace()).filter(|(until, _)| *until > now).cloned();
        let failing = self.failing.get(key.namespace()).filter(|failures| failures.is_failing());
        let failing = failing.map(|failures| failures.message.clone());
        let slot = self.slot(paused.as_ref().map_or(now, |(until, _)| *until));
        let Some((processing, hold)) = self.processed(key, ticket) else { return Err(Deferred::Waiting) };
        if let Some((_, error)) = paused {
            processing.defer(hold.as_mut(), slot);
            return Err(Deferred::NamespacePaused(error));
        }
        match hold {
            Some(hold) if hold.cause == Cause::Untried || (hold.cause == Cause::Failed && hold.version == version) => {
                hold.version = version;
                if !processing.is_retry {
                    return Err(failing.map_or(Deferred::Retry, Deferred::FailingNamespace));
                }
            }
            Some(hold) if !hold.cause.is_retry() && hold.version == version && hold.until > now => {
                processing.requeue(hold.until);
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

    /// Decides by the answer to a write when it is tried again, and which other keys must wait.
    pub(super) fn finish(&mut self, key: &K, ticket: u64, result: Result<(), &ApiError>, now: Instant) -> WriteFailure {
        match result {
            Err(ApiError::Unreachable(_)) => {
                // A request that was sent before the pause began does not make it longer.
                if self.paused(now).is_none() {
                    self.paused_until = Some(now + self.backoff.next());
                }
            }
            // A failure at one object does not prove that the API server can write others again.
            Err(ApiError::Failed(_)) => {}
            _ => {
                self.backoff.reset();
                self.paused_until = None;
            }
        }
        if let Err(error @ ApiError::Forbidden(_)) = result {
            self.pause_namespace(key.namespace(), error, now);
        }
        let Some(version) = self.attempted(key, ticket) else { return WriteFailure::default() };
        match result {
            Ok(()) => {
                self.succeed(key, now);
                WriteFailure::default()
            }
            Err(ApiError::Unreachable(_)) => {
                self.requeue(key, ticket, now);
                WriteFailure::default()
            }
            Err(ApiError::Forbidden(_)) => {
                self.forget(key);
                self.requeue(key, ticket, now + MISSING_RETRY);
                WriteFailure::default()
            }
            Err(ApiError::NotFound) => self.hold(key, Some(version), Cause::NotFound, MISSING_RETRY, now),
            Err(ApiError::Refused(_)) => self.hold(key, Some(version), Cause::Refused, self.limits.refused_retry, now),
            Err(ApiError::Conflict(_)) => {
                let failures = self.failures(key, Cause::Conflict);
                let delay = exponential(SHORTEST_RETRY, LONGEST_CONFLICT_RETRY, failures);
                self.hold(key, Some(version), Cause::Conflict, delay, now)
            }
            Err(ApiError::Failed(message)) => {
                let failures = self.failures(key, Cause::Failed);
                let namespace = self.failing.entry(Arc::clone(key.namespace())).or_default();
                message.clone_into(&mut namespace.message);
                namespace.objects += usize::from(failures == 0);
                let namespace_fails = namespace.is_failing();
                let delay = exponential(SHORTEST_RETRY, LONGEST_RETRY, failures);
                let failure = self.hold(key, Some(version), Cause::Failed, delay, now);
                WriteFailure { is_lasting: failures > 0 || namespace_fails, ..failure }
            }
        }
    }

    /// How often a key failed for this cause, in a row.
    fn failures(&self, key: &K, cause: Cause) -> u32 {
        let hold = self.keys.get(key).and_then(|state| state.hold.as_ref());
        let same = |held: Cause| held == cause || cause == Cause::Failed && held == Cause::Untried;
        hold.filter(|hold| same(hold.cause)).map_or(0, |hold| hold.failures)
    }

    /// Does not try `version` again before `delay` has passed.
    pub(super) fn hold(
        &mut self,
        key: &K,
        version: Option<u64>,
        cause: Cause,
        delay: Duration,
        now: Instant,
    ) -> WriteFailure {
        let (until, failures) = (now + delay, self.failures(key, cause));
        let slot = self.slot(until);
        let (Some(version), Some(state)) = (version, self.keys.get_mut(key)) else { return WriteFailure::default() };
        let same = state.hold.as_ref().is_some_and(|hold| hold.cause == cause && hold.version == version);
        let is_new = if cause == Cause::Failed { failures == 0 } else { !same };
        state.hold = Some(Hold { version, cause, failures: failures.saturating_add(1), until, slot });
        if let Some(processing) = state.processing.as_mut().filter(|_| !cause.is_retry()) {
            processing.requeue(until);
        }
        WriteFailure { is_new, is_lasting: !is_new }
    }

    fn requeue(&mut self, key: &K, ticket: u64, at: Instant) {
        if let Some((processing, _)) = self.processed(key, ticket) {
            processing.requeue(at);
        }
    }

    /// Tries nothing in a namespace for a minute, because of this answer.
    pub(super) fn pause_namespace(&mut self, namespace: &Arc<str>, error: &ApiError, now: Instant) {
        self.paused_namespaces.insert(Arc::clone(namespace), (now + MISSING_RETRY, error.clone()));
    }

    /// The key was written. Keys that were not tried because of its namespace are tried now.
    fn succeed(&mut self, key: &K, now: Instant) {
        self.forget(key);
        let namespace = key.namespace();
        if !self.failing.remove(namespace).is_some_and(|failures| failures.is_failing()) {
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

    /// Forgets the failures of a key.
    pub(super) fn forget(&mut self, key: &K) {
        let Some(state) = self.keys.get_mut(key) else { return };
        if let Some(hold) = state.hold.take() {
            self.retries.remove(&hold.slot);
        }
        self.remove_if_idle(key);
    }

    /// Removes the state of a key that neither waits, nor is processed, nor has failed.
    fn remove_if_idle(&mut self, key: &K) {
        if self.keys.get(key).is_some_and(|KeyState { queued, processing, hold }| {
            queued.is_none() && processing.is_none() && hold.is_none()
        }) {
            self.keys.remove(key);
        }
    }

    /// Ends the processing of a key.
    pub(super) fn release(&mut self, key: &K, ticket: u64, now: Instant) {
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
        match processing.requeue_at {
            Some(at) => self.add(key.clone(), at, now),
            None => self.remove_if_idle(key),
        }
    }

    /// Forgets the failures of keys that do not exist any more, and pauses of namespaces that have ended.
    pub(super) fn retain(&mut self, mut exists: impl FnMut(&K) -> bool, now: Instant) {
        let gone: Vec<K> = self
            .keys
            .iter()
            .filter(|(key, state)| state.hold.is_some() && !exists(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &gone {
            self.forget(key);
        }
        self.paused_namespaces.retain(|_, (until, _)| now < *until);
        let retried =
            self.keys.iter().filter(|(_, state)| state.hold.as_ref().is_some_and(|hold| hold.cause.is_retry()));
        let namespaces: HashSet<&Arc<str>> = retried.map(|(key, _)| key.namespace()).collect();
        self.failing.retain(|namespace, _| namespaces.contains(namespace));
    }
}

/// Bounds the number of failures that are logged one by one, where many objects fail for the same reason.
#[derive(Debug, Default)]
pub(super) struct LogLimit {
    /// When the first was logged.
    since: Option<Instant>,
    logged: usize,
    not_logged: usize,
}

impl LogLimit {
    /// Notes a failure. Returns whether it is logged by itself.
    pub(super) fn note(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now - since >= LOG_WINDOW) {
            (self.since, self.logged) = (Some(now), 0);
        }
        let log = self.logged < LOGGED;
        *(if log { &mut self.logged } else { &mut self.not_logged }) += 1;
        log
    }

    /// The number of failures that were not logged since the last call; `None`: none.
    pub(super) fn not_logged(&mut self) -> Option<usize> {
        Some(std::mem::take(&mut self.not_logged)).filter(|count| *count > 0)
    }
}
