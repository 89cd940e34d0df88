//! Caches the keys of Secrets and ConfigMaps that targets refer to. Each object is read by name, in the target's own namespace, and read again
//! at an interval.
//!
//! Nothing is listed or watched, so that a permission for one Secret suffices to use it. No value is in a log, an error or a `Debug`, and
//! only the keys that some target refers to are kept.

mod read;
mod schedule;
mod values;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::changed_targets::ChangedTargets;
use super::{ApiClient, RequiredLabel};
use crate::crd::ScrapeTargetSpec;
use crate::target::{Lookup, LookupError, ObjectKind, TargetId};
use read::{ApiReader, ReadResult, SecretReader};
use schedule::{ReadTicket, RefreshSchedule};
use values::ValueStore;

/// Names a Secret or ConfigMap. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SecretRef {
    kind: ObjectKind,
    namespace: Arc<str>,
    name: Arc<str>,
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// The values that targets refer to, kept up to date by [`run`](Self::run).
pub(super) struct SecretCache<R = ApiReader> {
    reader: R,
    /// The condition for the use of a Secret, for messages: ` and the label …`, or empty.
    condition: String,
    state: Mutex<CacheState>,
    /// The targets whose values have changed, or were all read for the first time.
    pub(super) changed: ChangedTargets,
    /// Wakes [`run`](Self::run) when a read is due earlier than it was.
    rescheduled: Notify,
}

/// An object is in the schedule as long as it is in the store.
#[derive(Debug, Default)]
struct CacheState {
    values: ValueStore,
    schedule: RefreshSchedule,
}

/// The keys to read, and the ticket that names the object.
type DueRead = (Vec<Arc<str>>, ReadTicket);

impl<R> fmt::Debug for SecretCache<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretCache").finish_non_exhaustive()
    }
}

impl SecretCache {
    /// An empty cache. With a label, only Secrets that have it may be used; ConfigMaps need none.
    pub(super) fn new(client: ApiClient, label: Option<RequiredLabel>) -> Arc<Self> {
        let condition = label.as_ref().map(|label| format!(" and the label {label}")).unwrap_or_default();
        Self::with_reader(ApiReader::new(client, label), condition)
    }
}

impl<R: SecretReader> SecretCache<R> {
    fn with_reader(reader: R, condition: String) -> Arc<Self> {
        Arc::new(Self {
            reader,
            condition,
            state: Mutex::default(),
            changed: ChangedTargets::default(),
            rescheduled: Notify::new(),
        })
    }

    /// Replaces the references of a target. Keys that were never read are read at once.
    pub(super) fn set_references(&self, id: &TargetId, spec: &ScrapeTargetSpec) {
        let now = Instant::now();
        let CacheState { values, schedule } = &mut *self.state();
        let changes = values.set_references(id, &spec.references());
        for object in &changes.removed {
            schedule.remove(object);
        }
        for object in &changes.unread {
            schedule.schedule_first(object, now);
        }
        if !changes.unread.is_empty() {
            self.rescheduled.notify_one();
        }
    }

    /// Removes the references of a target, and the objects to which no other target refers.
    pub(super) fn remove_target(&self, id: &TargetId) {
        let CacheState { values, schedule } = &mut *self.state();
        for object in &values.set_references(id, &[]).removed {
            schedule.remove(object);
        }
    }

    /// Whether every reference of the target was read, with or without success.
    pub(super) fn is_read(&self, id: &TargetId) -> bool {
        self.state().values.is_read(id)
    }

    /// The target's server did not accept its credentials: its objects are read again soon, but each at most every 30 s.
    pub(super) fn credentials_rejected(&self, id: &TargetId) {
        let now = Instant::now();
        let CacheState { values, schedule } = &mut *self.state();
        for object in values.objects_of(id) {
            schedule.schedule_rejected(object, now);
        }
        self.rescheduled.notify_one();
    }

    /// Reads what is due until `stop`.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) -> &'static str {
        let this = &*self;
        let mut reads = FuturesUnordered::new();
        loop {
            let (due, wake_at) = this.due();
            reads.extend(due.into_iter().map(|(keys, ticket)| async move {
                let result = this.reader.read(&ticket.object, &keys).await;
                (ticket, keys, result)
            }));
            let next_due = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return "the reader of Secrets",
                () = this.rescheduled.notified() => {}
                () = next_due => {}
                Some((ticket, keys, result)) = reads.next() => this.finish(&ticket, &keys, result),
            }
        }
    }

    /// The reads that are due now, and when the next one is due.
    fn due(&self) -> (Vec<DueRead>, Option<Instant>) {
        let now = Instant::now();
        let CacheState { values, schedule } = &mut *self.state();
        let tickets = std::iter::from_fn(|| schedule.next(now));
        let due = tickets.map(|ticket| (values.keys(&ticket.object), ticket)).collect();
        (due, schedule.wake_at())
    }

    /// Takes the result of a read, unless its object was removed meanwhile.
    fn finish(&self, ticket: &ReadTicket, keys: &[Arc<str>], result: ReadResult) {
        let CacheState { values, schedule } = &mut *self.state();
        if !schedule.finish(ticket) {
            return;
        }
        let (outcome, targets) = values.store(&ticket.object, keys, result);
        schedule.reschedule(ticket, outcome, Instant::now());
        if !targets.is_empty() {
            tracing::debug!(object = %ticket.object, targets = targets.len(), "values have changed");
            self.changed.add_all(targets);
        }
    }

    fn state(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: SecretReader> Lookup for SecretCache<R> {
    fn value(&self, kind: ObjectKind, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, LookupError> {
        let object = SecretRef { kind, namespace: namespace.into(), name: name.into() };
        let condition = if kind == ObjectKind::Secret { self.condition.as_str() } else { "" };
        self.state().values.value(&object, key, condition)
    }
}

#[cfg(test)]
mod tests;
