//! A work queue of keys: each key is the name of an object that must be compared with the cluster and, where it differs, written.
//!
//! A queue holds names only: the consumer of a key looks up the newest state of its object. The queue decides *when* that happens. The
//! rules and their numbers are in `scheduler`, including those for trying a write again; only the delay after a refusal is set by each
//! consumer (`REFUSED_RETRY`), since it depends on who can help:
//!
//! * A key waits at most once, for the earliest of its times. One that is added while it is processed is processed again afterwards.
//! * Taking a key and finding nothing to write costs nothing. Before a write, [`WorkItem::attempt`] asks whether this *version* of the
//!   object may be tried now; another version of it does not wait for the failures of the one before.
//! * What follows from the answer to a write is in [`WorkItem::finish`]: per-object backoff, a pause of the namespace, or, while the API
//!   server does not answer at all, a pause of the whole queue.
//! * Retries of objects that the API server fails at get only a share of the writes, so that other objects do not wait for them.
//! * At most [`QueueLimits::in_flight`] keys are processed at a time, and [`WorkQueue::may_log`] bounds what is logged one by one.
//!
//! It knows nothing of what is written, and writes nothing itself. The rate of writes is bounded by the
//! [`RateLimiter`](super::rate_limiter::RateLimiter) that all parts share.

use std::fmt;
use std::hash::Hash;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::client::ApiError;
use crate::target::TargetId;
use scheduler::{Cause, Scheduler};

#[cfg(test)]
mod model;
mod scheduler;
#[cfg(test)]
mod tests;

/// The name of an object.
pub(super) trait WorkKey: Clone + Eq + Hash {
    /// Failures are counted by namespace: a webhook, a quota or a role usually covers one.
    fn namespace(&self) -> &Arc<str>;
}

impl WorkKey for TargetId {
    fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }
}

/// The limits of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    /// Keys that are processed at the same time.
    pub(super) in_flight: usize,
    /// The rate of all parts together, of which retries get a share.
    pub(super) writes_per_second: u32,
    /// The delay before a version is tried again that was refused: only a change of an admission webhook, a quota or the CRD can help.
    pub(super) refused_retry: Duration,
}

/// A keyed, delayed, paced work queue. Cheap to clone; all clones are the same queue.
pub(super) struct WorkQueue<K> {
    shared: Arc<SharedQueue<K>>,
}

struct SharedQueue<K> {
    scheduler: Mutex<Scheduler<K>>,
    /// Notified when a key may be taken earlier than was known.
    changed: Notify,
}

/// Why a version may not be tried now. The key is queued again for when it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deferred {
    /// An attempt with this version has failed, and its delay has not passed.
    Waiting,
    /// The namespace is paused, because of this answer.
    NamespacePaused(ApiError),
    /// The API server failed at this object, and it waits for its turn among the retries.
    Retry,
    /// The same, and the API server fails at every object of the namespace, with this message.
    FailingNamespace(String),
}

/// What the caller needs to know to report a failed write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WriteFailure {
    /// It has not failed in this way before: the first failure in a row, or the first refusal of this version.
    pub(super) is_new: bool,
    /// It failed more than once in a row, or everything in its namespace fails.
    pub(super) is_lasting: bool,
}

impl<K: WorkKey> WorkQueue<K> {
    /// An empty queue.
    pub(super) fn new(limits: QueueLimits) -> Self {
        Self { shared: Arc::new(SharedQueue { scheduler: Mutex::new(Scheduler::new(limits)), changed: Notify::new() }) }
    }

    /// Adds a key to be processed as soon as there is a place. A key that waits already keeps its turn.
    pub(super) fn add(&self, key: K) {
        self.add_all([key]);
    }

    /// The same for many.
    pub(super) fn add_all(&self, keys: impl IntoIterator<Item = K>) {
        self.change(|scheduler, now| keys.into_iter().for_each(|key| scheduler.add(key, now, now)));
    }

    /// Adds a key to be processed at `at`, unless it waits for an earlier time. (Production code delays keys by [`WorkItem::defer`] only.)
    #[cfg(test)]
    pub(super) fn add_at(&self, key: K, at: Instant) {
        self.change(|scheduler, now| scheduler.add(key, at, now));
    }

    /// Waits for the next key. Any number of tasks may wait.
    pub(super) async fn next(&self) -> WorkItem<K> {
        // While the queue is long, the other tasks of this thread get their turn.
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
    #[cfg(test)]
    pub(super) fn try_next(&self) -> Option<WorkItem<K>> {
        self.take().ok()
    }

    /// Takes a key, or returns when there may be one if nothing is added before.
    fn take(&self) -> Result<WorkItem<K>, Option<Instant>> {
        let (key, ticket) = self.lock().take(Instant::now())?;
        Ok(WorkItem { queue: self.clone(), key, ticket })
    }

    /// The number of keys that were deferred to a later time. A key that only waits for a place does not count.
    pub(super) fn delayed(&self) -> usize {
        let scheduler = self.lock();
        scheduler.delayed + scheduler.retries.len()
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

    /// The number of failures that were not logged since the last call; `None`: none.
    pub(super) fn not_logged(&self) -> Option<usize> {
        self.lock().log.not_logged()
    }

    /// Forgets the failures of a key: it need not wait any more.
    pub(super) fn forget(&self, key: &K) {
        self.change(|scheduler, _| scheduler.forget(key));
    }

    /// Forgets the failures of objects that are gone, and pauses of namespaces that have ended.
    pub(super) fn retain(&self, exists: impl FnMut(&K) -> bool) {
        self.change(|scheduler, now| scheduler.retain(exists, now));
    }

    /// Forgets everything. Items that were taken before have no effect any more.
    pub(super) fn clear(&self) {
        self.change(|scheduler, _| scheduler.clear());
    }

    /// Whether no key waits or is processed.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let scheduler = self.lock();
        scheduler.queued.is_empty() && scheduler.retries.is_empty() && scheduler.processing == 0
    }

    /// The keys that are due, in their order. None of them waits any more.
    #[cfg(test)]
    pub(super) fn drain(&self) -> Vec<K> {
        std::iter::from_fn(|| self.try_next()).map(|item| item.key.clone()).collect()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Scheduler<K>, Instant) -> T) -> T {
        let result = change(&mut self.lock(), Instant::now());
        self.shared.changed.notify_waiters();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Scheduler<K>> {
        self.shared.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
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
pub(super) struct WorkItem<K: WorkKey> {
    queue: WorkQueue<K>,
    key: K,
    ticket: u64,
}

impl<K: WorkKey> WorkItem<K> {
    /// The key that is processed.
    pub(super) fn key(&self) -> &K {
        &self.key
    }

    /// Defers the key to `at`: there is something to write, but not yet.
    pub(super) fn defer(self, at: Instant) {
        self.queue.change(|scheduler, _| scheduler.defer(&self.key, self.ticket, at));
    }

    /// Whether `version` of the object may be written now. If so, the caller reports the result by [`finish`](Self::finish), or drops the
    /// item if nothing was sent.
    pub(super) fn attempt(&self, version: u64) -> Result<(), Deferred> {
        self.queue.change(|scheduler, now| scheduler.attempt(&self.key, self.ticket, version, now))
    }

    /// Takes the answer to the attempt. After a failure, the key is queued again for when it may be tried.
    pub(super) fn finish(self, result: Result<(), &ApiError>) -> WriteFailure {
        self.queue.change(|scheduler, now| scheduler.finish(&self.key, self.ticket, result, now))
    }

    /// The attempt failed for a reason of the caller's: the same version is not tried again before `delay` has passed.
    pub(super) fn retry_in(self, delay: Duration) {
        self.queue.change(|scheduler, now| {
            let version = scheduler.attempted(&self.key, self.ticket);
            scheduler.hold(&self.key, version, Cause::Caller, delay, now);
        });
    }

    /// Pauses the namespace of the key for a minute, because of this answer. [`finish`](Self::finish) does so by itself where a permission
    /// is missing.
    pub(super) fn pause_namespace(&self, error: &ApiError) {
        self.queue.change(|scheduler, now| scheduler.pause_namespace(self.key.namespace(), error, now));
    }
}

impl<K: WorkKey> Drop for WorkItem<K> {
    fn drop(&mut self) {
        self.queue.change(|scheduler, now| scheduler.release(&self.key, self.ticket, now));
    }
}
