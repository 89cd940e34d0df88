//! Secrets and ConfigMaps that targets refer to: each is read by name, in the target's own namespace, and again from time to time.
//!
//! Nothing is listed or watched, so that whoever grants us one Secret grants no other. Nothing that was read is in a log, an error or a
//! Debug; only the keys that some target names are kept.

mod book;
mod read;
mod schedule;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::workqueue::WorkQueue;
use super::{ApiClient, Label};
use crate::crd::ScrapeTargetSpec;
use crate::target::{Lookup, LookupError, ObjectKind, TargetId};
use book::Book;
use read::{ApiReader, Reader};
use schedule::{Schedule, Ticket};

/// Names a Secret or ConfigMap. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ObjectId {
    kind: ObjectKind,
    namespace: Arc<str>,
    name: Arc<str>,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// The values that targets refer to, kept up to date by [`run`](Self::run).
pub(super) struct Secrets<R = ApiReader> {
    reader: R,
    /// What a Secret must have to be used, in words; empty: nothing.
    condition: String,
    desk: Mutex<Desk>,
    changed: WorkQueue<TargetId>,
    /// Something is due earlier than was known.
    woken: Notify,
}

/// What belongs together: an object stands in the schedule as long as it stands in the book.
#[derive(Debug, Default)]
struct Desk {
    book: Book,
    schedule: Schedule,
}

/// What to read, and of it which keys.
type Errand = (Vec<Arc<str>>, Ticket);

impl<R> fmt::Debug for Secrets<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    /// Nothing is wanted yet. With a label, only Secrets that have it may be used; ConfigMaps are no secrets.
    pub(super) fn new(cluster: ApiClient, label: Option<Label>) -> Arc<Self> {
        let condition = label.as_ref().map(|label| format!(" and the label {label}")).unwrap_or_default();
        Self::with(ApiReader::new(cluster, label), condition)
    }
}

impl<R: Reader> Secrets<R> {
    fn with(reader: R, condition: String) -> Arc<Self> {
        Arc::new(Self {
            reader,
            condition,
            desk: Mutex::default(),
            changed: WorkQueue::default(),
            woken: Notify::new(),
        })
    }

    /// Notes what a target refers to, instead of what it referred to before. What was never read is read at once.
    pub(super) fn want(&self, id: &TargetId, spec: &ScrapeTargetSpec) {
        let now = Instant::now();
        let Desk { book, schedule } = &mut *self.desk();
        let difference = book.want(id, &spec.references());
        for object in &difference.gone {
            schedule.remove(object);
        }
        for object in &difference.unread {
            schedule.read_first(object, now);
        }
        if !difference.unread.is_empty() {
            self.woken.notify_one();
        }
    }

    /// The target is gone. What no other target refers to is forgotten with it.
    pub(super) fn forget(&self, id: &TargetId) {
        let Desk { book, schedule } = &mut *self.desk();
        for object in &book.want(id, &[]).gone {
            schedule.remove(object);
        }
    }

    /// Whether everything that the target refers to has been read, or cannot be read.
    pub(super) fn settled(&self, id: &TargetId) -> bool {
        self.desk().book.settled(id)
    }

    /// The server did not take what the target sent: reads again what it refers to, but each object at most every 30 s.
    pub(super) fn refused(&self, id: &TargetId) {
        let now = Instant::now();
        let Desk { book, schedule } = &mut *self.desk();
        for object in book.objects_of(id) {
            schedule.read_refused(object, now);
        }
        self.woken.notify_one();
    }

    /// The targets whose values changed, or of which all has been read now.
    pub(super) fn changed(&self) -> &WorkQueue<TargetId> {
        &self.changed
    }

    /// Reads what is due until told to stop.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) -> &'static str {
        let this = &*self;
        let mut reads = FuturesUnordered::new();
        loop {
            let (due, wake) = this.due();
            reads.extend(due.into_iter().map(|(keys, ticket)| async move {
                let outcome = this.reader.read(&ticket.object, &keys).await;
                (ticket, keys, outcome)
            }));
            let next_due = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return "the reader of Secrets",
                () = this.woken.notified() => {}
                () = next_due => {}
                Some((ticket, keys, outcome)) = reads.next() => this.take(&ticket, &keys, outcome),
            }
        }
    }

    /// What must be read now, and when to ask again at the latest.
    fn due(&self) -> (Vec<Errand>, Option<Instant>) {
        let now = Instant::now();
        let Desk { book, schedule } = &mut *self.desk();
        let tickets = std::iter::from_fn(|| schedule.next(now));
        let due = tickets.map(|ticket| (book.keys(&ticket.object), ticket)).collect();
        (due, schedule.wake())
    }

    /// Takes what a read has brought. What was forgotten meanwhile is dropped.
    fn take(&self, ticket: &Ticket, keys: &[Arc<str>], outcome: read::Outcome) {
        let Desk { book, schedule } = &mut *self.desk();
        if !schedule.ends(ticket) {
            return;
        }
        let (verdict, changed) = book.note(&ticket.object, keys, outcome);
        schedule.again(ticket, verdict, Instant::now());
        if !changed.is_empty() {
            tracing::debug!(object = %ticket.object, targets = changed.len(), "what was read is news");
            self.changed.add_all(changed);
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Reader> Lookup for Secrets<R> {
    fn value(&self, kind: ObjectKind, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, LookupError> {
        let object = ObjectId { kind, namespace: namespace.into(), name: name.into() };
        let condition = if kind == ObjectKind::Secret { self.condition.as_str() } else { "" };
        self.desk().book.value(&object, key, condition)
    }
}

#[cfg(test)]
mod tests;
