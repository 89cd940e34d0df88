//! Makes the ServiceMonitors in the cluster agree with the targets, for as long as this replica leads. A steady fleet costs one watch
//! for each scope and one small request every half a minute.
//!
//! When a monitor may be written, and when again after a failure, is decided by the [`WorkQueue`], and by [`FieldConflicts`] where somebody
//! else changes what we write.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use tokio::time::{Instant, MissedTickBehavior};

use super::client::{MonitorClient, MonitorError, MonitorEvent, scopes, watch_monitors};
use super::condition::{self, WRITTEN};
use super::conflict::FieldConflicts;
use super::desired::{DesiredMonitor, MonitorRef};
use super::observed::{MonitorStore, ObservedMonitor, ServiceMonitor, SyncStatus};
use super::operator::{OperatorCrd, OperatorFeatures, watch_crd};
use crate::k8s::client::{ApiError, PolicyRule};
use crate::k8s::settings::Scope;
use crate::k8s::target_store::MonitorState;
use crate::k8s::watch::WatchEvent;
use crate::k8s::workqueue::{Deferred, QueueLimits, WorkItem, WorkKey, WorkQueue};
use crate::k8s::{MonitorNamespace, Settings, Shared, WRITES_PER_SECOND};
use crate::target::TargetId;

/// How often every target is reconciled. That costs no request unless something differs.
pub(super) const RESYNC: Duration = Duration::from_mins(1);

/// The delay before a write is tried again that was refused, or whose name is taken. Only people can change that.
const REFUSED_RETRY: Duration = Duration::from_mins(1);

/// The delay before a monitor is reconciled that is being written under another key.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// Above this number of targets, one object and one scrape job for each is a burden to Prometheus and the Operator.
const MANY_TARGETS: usize = 300;

/// Used as the hash of the desired monitor where none is desired.
const DELETION: u64 = 0;

/// What is reconciled: a monitor, for the target that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::k8s) struct MonitorKey {
    monitor: MonitorRef,
    /// `None`: a monitor of ours without a target.
    target: Option<TargetId>,
}

impl MonitorKey {
    pub(in crate::k8s) fn of_target(id: &TargetId, settings: &Settings) -> Self {
        Self { monitor: MonitorRef::of_target(id, settings), target: Some(id.clone()) }
    }

    pub(in crate::k8s) const fn target(&self) -> Option<&TargetId> {
        self.target.as_ref()
    }
}

impl WorkKey for MonitorKey {
    fn namespace(&self) -> &Arc<str> {
        &self.monitor.namespace
    }
}

/// The queue of monitors that may differ from what is desired.
pub(in crate::k8s) fn work_queue() -> WorkQueue<MonitorKey> {
    WorkQueue::new(QueueLimits { in_flight: 8, writes_per_second: WRITES_PER_SECOND, refused_retry: REFUSED_RETRY })
}

/// The reconciler, for as long as this replica leads.
pub(super) struct MonitorReconciler {
    client: MonitorClient,
    queue: WorkQueue<MonitorKey>,
    /// `None`: not known yet.
    crd: Option<OperatorCrd>,
    /// The namespaces that are watched, one watch for each.
    scopes: Vec<Scope>,
    watches: SelectAll<BoxStream<'static, MonitorEvent>>,
    /// The scopes that we may not watch, and the rule that is missing.
    denied: HashMap<usize, PolicyRule>,
    store: MonitorStore,
    /// The targets of monitors in our namespace, whose names are hashed.
    targets_by_monitor: HashMap<MonitorRef, TargetId>,
    conflicts: FieldConflicts,
    writes: FuturesUnordered<BoxFuture<'static, FinishedWrite>>,
    in_flight: HashMap<MonitorRef, InFlightWrite>,
    warned_of_many: bool,
}

/// A write whose answer is awaited.
struct InFlightWrite {
    item: WorkItem<MonitorKey>,
    /// The watch has shown the monitor since, so that the answer may be out of date.
    observed_since: bool,
}

struct FinishedWrite {
    monitor: MonitorRef,
    outcome: WriteOutcome,
}

enum WriteOutcome {
    Applied(DesiredMonitor, Result<ObservedMonitor, MonitorError>),
    /// With the condition of its target if it was deleted.
    Deleted(Option<MonitorState>, Result<(), MonitorError>),
}

impl MonitorReconciler {
    pub(super) fn new(client: MonitorClient) -> Self {
        let Shared { targets, settings, monitors, .. } = &*client.shared;
        let in_release = settings.discovery.monitor_namespace == MonitorNamespace::Release;
        let ids = if in_release { targets.ids() } else { Vec::new() };
        Self {
            queue: monitors.clone(),
            crd: None,
            scopes: scopes(settings),
            watches: SelectAll::new(),
            denied: HashMap::new(),
            store: MonitorStore::default(),
            targets_by_monitor: ids.into_iter().map(|id| (MonitorRef::of_target(&id, settings), id)).collect(),
            conflicts: FieldConflicts::default(),
            writes: FuturesUnordered::new(),
            in_flight: HashMap::new(),
            warned_of_many: false,
            client,
        }
    }

    /// Runs until another replica leads. Writes in flight are dropped then.
    pub(super) async fn run(mut self) {
        let queue = self.queue.clone();
        let mut crd = pin!(watch_crd(self.shared().client.clone()));
        let mut leadership = self.client.leadership.clone();
        let mut resync = tokio::time::interval_at(Instant::now() + RESYNC, RESYNC);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = leadership.lost() => return,
                _ = resync.tick() => self.resync(),
                Some(crd) = crd.next() => self.set_crd(crd),
                Some((scope, event)) = self.watches.next() => self.handle_event(scope, event),
                Some(write) = self.writes.next() => self.finish(write),
                item = queue.next(), if self.crd.is_some() => self.reconcile(item),
            }
        }
    }

    fn shared(&self) -> &Shared {
        &self.client.shared
    }

    // Events: the state of the CRD, the watches, and the resync once a minute.

    fn set_crd(&mut self, crd: OperatorCrd) {
        let before = self.crd.replace(crd);
        match (before, crd) {
            (_, OperatorCrd::Missing) => {
                tracing::warn!("{}", condition::crd_missing().message);
                self.queue.clear();
                self.watches = SelectAll::new();
                self.denied.clear();
                self.store = MonitorStore::default();
                self.conflicts = FieldConflicts::default();
            }
            (Some(OperatorCrd::Installed(_)), OperatorCrd::Installed(features)) => {
                tracing::info!(%features, "the fields of ServiceMonitors have changed");
            }
            (_, OperatorCrd::Installed(features)) => {
                tracing::info!(%features, "the Prometheus Operator is installed, ServiceMonitors are written");
                self.watches = watch_monitors(&self.shared().client, &self.shared().settings, &self.scopes);
            }
        }
        self.enqueue_all();
    }

    fn handle_event(&mut self, scope: usize, event: WatchEvent<ServiceMonitor>) {
        match event {
            WatchEvent::ListStarted => self.store.begin_list(scope),
            WatchEvent::ListPage(page) => {
                for object in page {
                    self.observe(scope, object);
                }
            }
            WatchEvent::ListFinished => {
                let covered = self.scopes[scope].clone();
                let covers = |monitor: &MonitorRef| covered.as_ref().is_none_or(|name| *name == monitor.namespace);
                for monitor in self.store.end_list(scope, covers) {
                    self.note_observed(&monitor);
                }
                self.denied.remove(&scope);
                self.enqueue_scope(scope);
                self.enqueue_orphans();
            }
            WatchEvent::Applied(object) => {
                self.count("applied");
                let target = self.observe(scope, object);
                self.shared().enqueue_monitors(target);
            }
            WatchEvent::Deleted(object) => {
                self.count("deleted");
                let monitor = ObservedMonitor::from(object).monitor;
                self.store.remove(&monitor);
                self.note_observed(&monitor);
                self.shared().enqueue_monitors(self.target_of(&monitor));
            }
            WatchEvent::Failed(ApiError::Forbidden(rule)) => {
                if self.denied.insert(scope, rule).is_none() {
                    self.enqueue_scope(scope);
                }
            }
            WatchEvent::Failed(error) => tracing::debug!(%error, "the watch of ServiceMonitors is interrupted"),
            WatchEvent::Denied | WatchEvent::Recovered => {}
        }
    }

    fn count(&self, event: &str) {
        self.shared().metrics.events.with_label_values(&["ServiceMonitor", event]).inc();
    }

    /// Stores what a watch shows, and returns its target.
    fn observe(&mut self, scope: usize, object: ServiceMonitor) -> Option<TargetId> {
        let found = ObservedMonitor::from(object);
        self.note_observed(&found.monitor);
        let target = self.target_of(&found.monitor);
        let desired = target.as_ref().and_then(|id| self.desired(id)?.ok());
        let violates_policy = target.as_ref().is_some_and(|id| found.violates_policy(id, &self.shared().settings));
        self.store.observe(scope, found, desired.as_ref(), violates_policy);
        target
    }

    /// Notes that a watch has shown `monitor`. If it is being written, it is reconciled once more afterwards.
    fn note_observed(&mut self, monitor: &MonitorRef) {
        if let Some(write) = self.in_flight.get_mut(monitor) {
            write.observed_since = true;
            self.queue.add(write.item.key().clone());
        }
    }

    fn resync(&mut self) {
        self.conflicts.remove_ended();
        self.queue.retain(|MonitorKey { monitor, target }| {
            let has_target = target.as_ref().is_some_and(|id| self.shared().targets.get(id).is_some());
            has_target || self.store.uid(monitor).is_some()
        });
        if let Some(monitors) = self.queue.not_logged() {
            tracing::warn!(monitors, "more ServiceMonitors cannot be written");
        }
        if self.crd.is_none() {
            self.queue.clear(); // nothing is taken from it yet
        }
        self.enqueue_all();
        self.enqueue_orphans();
    }

    fn enqueue_all(&mut self) {
        let ids = self.shared().targets.ids();
        if ids.len() > MANY_TARGETS && !self.warned_of_many && matches!(self.crd, Some(OperatorCrd::Installed(_))) {
            self.warned_of_many = true;
            tracing::info!(
                targets = ids.len(),
                "each ServiceMonitor is a separate job in Prometheus; discovery.mode=httpSD is intended for this number of targets"
            );
        }
        self.shared().enqueue_monitors(ids);
    }

    /// Enqueues the targets whose monitors the watch `scope` covers.
    fn enqueue_scope(&self, scope: usize) {
        let Shared { targets, settings, .. } = self.shared();
        let keys = targets.ids().into_iter().map(|id| MonitorKey::of_target(&id, settings));
        self.queue.add_all(keys.filter(|key| self.scope_of(&key.monitor) == Some(scope)));
    }

    /// Enqueues monitors that an earlier mode left, and those of targets that were deleted while no replica led.
    fn enqueue_orphans(&self) {
        let orphans = self.store.iter().filter(|monitor| self.is_orphan(monitor));
        self.queue.add_all(orphans.map(|monitor| MonitorKey { monitor: monitor.clone(), target: None }));
    }

    /// Whether `monitor` is ours and its target is known not to exist.
    fn is_orphan(&self, monitor: &MonitorRef) -> bool {
        let Shared { targets, settings, .. } = self.shared();
        let has_target = self.target_of(monitor).is_some_and(|id| targets.get(&id).is_some());
        if self.store.uid(monitor).is_none() || has_target {
            return false;
        }
        // A namespace whose targets we may not list appears to have none.
        let namespace = self.target_namespace(monitor);
        let watched = &settings.watch_namespaces;
        let is_watched = watched.is_empty() || watched.iter().any(|name| **name == *namespace);
        targets.is_listed(&namespace) || !is_watched
    }

    /// The namespace of the target of `monitor`, whether or not the target exists.
    fn target_namespace(&self, monitor: &MonitorRef) -> Arc<str> {
        if let Some(labelled) = self.store.target_namespace(monitor) {
            return Arc::clone(labelled);
        }
        match monitor.name.split_once('.') {
            Some((namespace, _)) if self.in_release() && *monitor.namespace == *self.shared().settings.namespace => {
                namespace.into()
            }
            _ => Arc::clone(&monitor.namespace),
        }
    }

    /// Whether monitors are in our namespace rather than beside their targets.
    fn in_release(&self) -> bool {
        self.shared().settings.discovery.monitor_namespace == MonitorNamespace::Release
    }

    /// The target that a monitor of this name would have.
    fn target_of(&self, monitor: &MonitorRef) -> Option<TargetId> {
        if self.in_release() {
            self.targets_by_monitor.get(monitor).cloned()
        } else {
            Some(TargetId { namespace: Arc::clone(&monitor.namespace), name: Arc::clone(&monitor.name) })
        }
    }

    fn scope_of(&self, monitor: &MonitorRef) -> Option<usize> {
        self.scopes.iter().position(|scope| scope.as_ref().is_none_or(|name| *name == monitor.namespace))
    }

    // Decisions: whether a monitor is written, deleted or left alone.

    fn reconcile(&mut self, item: WorkItem<MonitorKey>) {
        let MonitorKey { monitor, target } = item.key().clone();
        if self.in_flight.contains_key(&monitor) {
            return item.defer(Instant::now() + BUSY_RETRY);
        }
        let Some(id) = target else { return self.reconcile_orphan(item, &monitor) };
        if self.shared().targets.get(&id).is_none() {
            // Beside its target it is garbage-collected. If it is not, the next resync finds it.
            if self.targets_by_monitor.remove(&monitor).is_some() {
                self.reconcile_orphan(item, &monitor);
            }
            return;
        }
        if self.in_release() {
            self.targets_by_monitor.insert(monitor.clone(), id.clone());
        }
        let desired = match self.desired(&id) {
            Some(desired) => desired,
            None if self.store.violates_policy(&monitor) => Err(condition::invalid_spec()),
            None => return self.set_condition(&id, condition::invalid_spec()),
        };
        if self.crd == Some(OperatorCrd::Missing) {
            return self.set_condition(&id, desired.err().unwrap_or_else(condition::crd_missing));
        }
        let Some(scope) = self.scope_of(&monitor) else { return };
        if !self.store.has_synced(scope) {
            // The end of the list enqueues all targets again.
            if let Some(rule) = self.denied.get(&scope) {
                self.set_condition(&id, condition::forbidden(rule));
            }
            return;
        }
        match desired {
            Ok(desired) => {
                let uid = match self.store.sync_status(&monitor, desired.hash) {
                    SyncStatus::InSync => {
                        self.queue.forget(item.key());
                        return self.set_condition(&id, self.condition_in_sync(&monitor, &desired));
                    }
                    SyncStatus::OutOfSync { uid } => Some(uid),
                    SyncStatus::Missing => None,
                };
                if let Some(item) = self.attempt(item, &id, desired.hash) {
                    self.apply(item, desired, uid);
                }
            }
            Err(state) => {
                let Some(uid) = self.store.uid(&monitor).map(str::to_owned) else {
                    self.conflicts.forget(&monitor);
                    self.queue.forget(item.key());
                    return self.set_condition(&id, state);
                };
                if let Some(item) = self.attempt(item, &id, DELETION) {
                    self.delete(item, uid, Some(state));
                }
            }
        }
    }

    fn reconcile_orphan(&mut self, item: WorkItem<MonitorKey>, monitor: &MonitorRef) {
        if self.is_orphan(monitor)
            && let Some(uid) = self.store.uid(monitor).map(str::to_owned)
            && item.attempt(DELETION).is_ok()
        {
            self.delete(item, uid, None);
        }
    }

    /// The monitor that `id` should have, or the condition that says why it should have none; `None` if its spec is not understood.
    fn desired(&self, id: &TargetId) -> Option<Result<DesiredMonitor, MonitorState>> {
        let record = self.shared().targets.get(id)?;
        let declaration = record.object.declaration.as_ref().ok()?;
        let features = match self.crd {
            Some(OperatorCrd::Installed(features)) => features,
            _ => OperatorFeatures::OLDEST,
        };
        Some(DesiredMonitor::new(&record.object, &declaration.spec, &self.shared().settings, features))
    }

    /// Returns the item if `desired` may be written now. Otherwise it is queued again for when it may, and the condition says why it waits.
    fn attempt(&self, item: WorkItem<MonitorKey>, id: &TargetId, desired: u64) -> Option<WorkItem<MonitorKey>> {
        let monitor = &item.key().monitor;
        if let Some(retry_at) = self.conflicts.retry_at(monitor, desired) {
            // A single change is reverted within seconds, and is not worth two writes of the status.
            if self.conflicts.is_lasting(monitor, desired) || !self.is_written(id) {
                self.set_condition(id, condition::contested(monitor));
            }
            item.defer(retry_at);
            return None;
        }
        match item.attempt(desired) {
            Ok(()) => return Some(item),
            Err(Deferred::NamespacePaused(ApiError::Forbidden(rule))) => {
                self.set_condition(id, condition::forbidden(&rule));
            }
            Err(Deferred::FailingNamespace(why)) => self.set_condition(id, condition::failed(&why)),
            Err(Deferred::Waiting | Deferred::Retry | Deferred::NamespacePaused(_)) => {}
        }
        None
    }

    /// Whether the condition of `id` says that its monitor is written.
    fn is_written(&self, id: &TargetId) -> bool {
        let monitor = self.shared().targets.get(id).and_then(|record| record.monitor);
        monitor.is_some_and(|monitor| monitor.reason == WRITTEN)
    }

    fn condition_in_sync(&self, monitor: &MonitorRef, desired: &DesiredMonitor) -> MonitorState {
        if self.conflicts.is_lasting(monitor, desired.hash) {
            condition::contested(monitor)
        } else {
            condition::written(monitor, &desired.ignored)
        }
    }

    fn set_condition(&self, id: &TargetId, state: MonitorState) {
        if self.shared().targets.put_monitor(id, Some(state)) {
            self.shared().statuses.add(id.clone());
        }
    }

    // Writes, and their results.

    fn apply(&mut self, item: WorkItem<MonitorKey>, desired: DesiredMonitor, uid: Option<String>) {
        let (client, monitor) = (self.client.clone(), item.key().monitor.clone());
        self.in_flight.insert(monitor.clone(), InFlightWrite { item, observed_since: false });
        self.writes.push(Box::pin(async move {
            let result = client.apply(&monitor, &desired, uid).await;
            FinishedWrite { monitor, outcome: WriteOutcome::Applied(desired, result) }
        }));
    }

    /// Deletes a monitor, and then sets the condition of its target to `state`.
    fn delete(&mut self, item: WorkItem<MonitorKey>, uid: String, state: Option<MonitorState>) {
        let (client, monitor) = (self.client.clone(), item.key().monitor.clone());
        self.in_flight.insert(monitor.clone(), InFlightWrite { item, observed_since: false });
        self.writes.push(Box::pin(async move {
            let result = client.delete(&monitor, uid).await;
            FinishedWrite { monitor, outcome: WriteOutcome::Deleted(state, result) }
        }));
    }

    fn finish(&mut self, FinishedWrite { monitor, outcome }: FinishedWrite) {
        let Some(InFlightWrite { item, observed_since }) = self.in_flight.remove(&monitor) else { return };
        let result = match outcome {
            WriteOutcome::Applied(desired, Ok(found)) => {
                self.conflicts.wrote(&monitor, desired.hash);
                self.store.wrote(found, &desired, observed_since);
                Ok(Some(self.condition_in_sync(&monitor, &desired)))
            }
            WriteOutcome::Deleted(state, Ok(())) => {
                self.conflicts.forget(&monitor);
                if !observed_since {
                    self.store.remove(&monitor);
                }
                Ok(state)
            }
            WriteOutcome::Applied(_, Err(error)) | WriteOutcome::Deleted(_, Err(error)) => Err(error),
        };
        let target = item.key().target.clone();
        let state = match result {
            Ok(state) => {
                item.finish(Ok(()));
                state
            }
            Err(error) => self.handle_error(item, error),
        };
        if let (Some(id), Some(state)) = (target, state) {
            self.set_condition(&id, state);
        }
    }

    /// Schedules another attempt where that makes sense, and returns the condition if it changes.
    fn handle_error(&mut self, item: WorkItem<MonitorKey>, error: MonitorError) -> Option<MonitorState> {
        let monitor = item.key().monitor.clone();
        let error = match error {
            MonitorError::NameTaken { owner } => {
                item.retry_in(REFUSED_RETRY);
                return Some(condition::name_taken(&monitor, &owner));
            }
            MonitorError::NotLeader => {
                item.retry_in(Duration::ZERO);
                return None;
            }
            MonitorError::Api(error) => error,
        };
        if let ApiError::NotFound | ApiError::Conflict(_) = error {
            self.store.remove(&monitor);
        }
        // The CRD or the namespace is gone. The CRD is checked regularly; with the namespace, the target is deleted too.
        if error == ApiError::NotFound {
            item.pause_namespace(&error);
        }
        let failure = item.finish(Err(&error));
        match error {
            ApiError::Forbidden(rule) => Some(condition::forbidden(&rule)),
            ApiError::Refused(why) => Some(condition::refused(&why)),
            ApiError::Failed(why) => {
                if failure.is_new && self.queue.may_log() {
                    tracing::warn!(%monitor, error = why, "a ServiceMonitor cannot be written");
                }
                // A webhook that restarts is unavailable for a moment: one failure is not reported.
                failure.is_lasting.then(|| condition::failed(&why))
            }
            ApiError::NotFound | ApiError::Conflict(_) | ApiError::Unreachable(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
