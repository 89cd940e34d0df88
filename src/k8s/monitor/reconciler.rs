//! Makes the ServiceMonitors in the cluster agree with the targets, for as long as this replica leads. A steady fleet costs one watch
//! for each scope and one small request every half a minute.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use kube::runtime::watcher::Event;
use tokio::time::{Instant, MissedTickBehavior};

use super::client::{MonitorClient, MonitorError};
use super::condition::{self, WRITTEN};
use super::conflict::FieldConflicts;
use super::desired::{DesiredMonitor, MonitorRef};
use super::observed::{MonitorStore, ObservedMonitor, ServiceMonitor, SyncStatus};
use super::operator::{OperatorCrd, OperatorFeatures, watch_crd};
use super::patience::{Patience, REST};
use super::watch::{Scope, ScopeEvent, scopes, watch};
use crate::k8s::access::{ApiError, Rule};
use crate::k8s::catalog::MonitorState;
use crate::k8s::failing::Failing;
use crate::k8s::pause::Pause;
use crate::k8s::tally::Tally;
use crate::k8s::{MonitorNamespace, Shared};
use crate::target::TargetId;

/// How often every target is reconciled. That costs no request unless something differs.
pub(super) const RESYNC: Duration = Duration::from_mins(1);

/// How often what had to wait is looked at.
const DUE_CHECK: Duration = Duration::from_secs(1);

/// Writes in flight.
const IN_FLIGHT: usize = 8;

/// Targets that are reconciled before other tasks get a turn.
const BATCH: usize = 64;

/// How soon a monitor is reconciled again that somebody else changed in the same moment.
const CONFLICT_RETRY: Duration = Duration::from_secs(1);

/// From this number of targets on, one object and one scrape job for each is a burden to Prometheus and the Operator.
const MANY_TARGETS: usize = 300;

/// Stands for the hash of what is desired where no monitor is.
const DELETION: u64 = 0;

/// One term as the leader.
pub(super) struct MonitorReconciler {
    client: MonitorClient,
    /// `None`: not known yet.
    crd: Option<OperatorCrd>,
    /// The namespaces that are watched, one watch for each.
    scopes: Vec<Scope>,
    watches: SelectAll<BoxStream<'static, ScopeEvent>>,
    /// The scopes that we may not watch, and the rule that is missing.
    denied: HashMap<usize, Rule>,
    store: MonitorStore,
    /// The targets of monitors in our namespace, whose names do not say it.
    targets: HashMap<MonitorRef, TargetId>,
    /// Monitors of this release without a target.
    orphans: VecDeque<MonitorRef>,
    writes: FuturesUnordered<BoxFuture<'static, FinishedWrite>>,
    in_flight: HashMap<MonitorRef, InFlightWrite>,
    patience: Patience,
    conflicts: FieldConflicts,
    failing: Failing<MonitorRef>,
    pause: Pause,
    failures: Tally,
    warned_of_many: bool,
}

/// What has happened to a monitor since a write to it began.
#[derive(Debug, Default)]
struct InFlightWrite {
    /// Its target must be reconciled again.
    dirty: bool,
    /// The watch has shown it, so that the answer to the write may be out of date.
    seen: bool,
}

struct FinishedWrite {
    monitor: MonitorRef,
    /// `None` for an orphan.
    target: Option<TargetId>,
    outcome: WriteOutcome,
}

enum WriteOutcome {
    Applied(DesiredMonitor, Result<ObservedMonitor, MonitorError>),
    /// With the condition of its target if it was deleted.
    Deleted(Option<MonitorState>, Result<(), MonitorError>),
}

impl MonitorReconciler {
    pub(super) fn new(client: MonitorClient) -> Self {
        let Shared { catalog, settings, .. } = &*client.shared;
        let in_release = settings.discovery.monitor_namespace == MonitorNamespace::Release;
        let ids = if in_release { catalog.ids() } else { Vec::new() };
        Self {
            crd: None,
            scopes: scopes(settings),
            watches: SelectAll::new(),
            denied: HashMap::new(),
            store: MonitorStore::default(),
            targets: ids.into_iter().map(|id| (MonitorRef::of_target(&id, settings), id)).collect(),
            orphans: VecDeque::new(),
            writes: FuturesUnordered::new(),
            in_flight: HashMap::new(),
            patience: Patience::default(),
            conflicts: FieldConflicts::default(),
            failing: Failing::default(),
            pause: Pause::new(),
            failures: Tally::default(),
            warned_of_many: false,
            client,
        }
    }

    /// Runs until another replica leads. Writes in flight are dropped then.
    pub(super) async fn run(mut self) {
        let mut crd = pin!(watch_crd(self.shared().cluster.clone()));
        let mut leadership = self.client.leadership.clone();
        let mut due_check = tokio::time::interval(DUE_CHECK);
        let mut resync = tokio::time::interval_at(Instant::now() + RESYNC, RESYNC);
        for interval in [&mut due_check, &mut resync] {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let may_start = self.may_start_writes();
            tokio::select! {
                () = leadership.lost() => return,
                _ = due_check.tick() => self.check_due(),
                _ = resync.tick() => self.resync(),
                Some(crd) = crd.next() => self.set_crd(crd),
                Some((scope, event)) = self.watches.next() => self.handle_event(scope, event),
                Some(write) = self.writes.next() => self.finish(write),
                () = self.client.shared.monitors.marked(), if may_start => {}
            }
            if self.may_start_writes() {
                self.reconcile_batch();
                tokio::task::yield_now().await;
            }
        }
    }

    fn shared(&self) -> &Shared {
        &self.client.shared
    }

    fn may_start_writes(&self) -> bool {
        self.crd.is_some() && self.writes.len() < IN_FLIGHT && self.pause.until(Instant::now()).is_none()
    }

    // What is learned: from the CRD, from the watches, and by looking at everything once a minute.

    fn set_crd(&mut self, crd: OperatorCrd) {
        let before = self.crd.replace(crd);
        match (before, crd) {
            (_, OperatorCrd::Missing) => {
                tracing::warn!("{}", condition::crd_missing().message);
                self.watches = SelectAll::new();
                self.denied.clear();
                self.store = MonitorStore::default();
                self.patience = Patience::default();
                self.conflicts = FieldConflicts::default();
                self.failing = Failing::default();
            }
            (Some(OperatorCrd::Installed(_)), OperatorCrd::Installed(features)) => {
                tracing::info!(%features, "the fields of ServiceMonitors have changed");
            }
            (_, OperatorCrd::Installed(features)) => {
                tracing::info!(%features, "the Prometheus Operator is installed, ServiceMonitors are written");
                self.watches = watch(&self.shared().cluster, &self.shared().settings, &self.scopes);
            }
        }
        self.enqueue_all();
    }

    fn handle_event(&mut self, scope: usize, event: Result<Event<ServiceMonitor>, ApiError>) {
        match event {
            Ok(Event::Init) => self.store.begin_list(scope),
            Ok(Event::InitApply(object)) => drop(self.observe(scope, object)),
            Ok(Event::InitDone) => {
                let covered = self.scopes[scope].clone();
                let covers = |monitor: &MonitorRef| covered.as_ref().is_none_or(|name| *name == monitor.namespace);
                for monitor in self.store.end_list(scope, covers) {
                    self.note_seen(&monitor);
                }
                self.denied.remove(&scope);
                self.enqueue_scope(scope);
                self.find_orphans();
            }
            Ok(Event::Apply(object)) => {
                self.count("applied");
                let target = self.observe(scope, object);
                self.shared().monitors.mark(target);
            }
            Ok(Event::Delete(object)) => {
                self.count("deleted");
                let monitor = ObservedMonitor::from(object).monitor;
                self.store.remove(&monitor);
                self.note_seen(&monitor);
                self.shared().monitors.mark(self.target_of(&monitor));
            }
            Err(ApiError::Forbidden(rule)) => {
                if self.denied.insert(scope, rule).is_none() {
                    self.enqueue_scope(scope);
                }
            }
            Err(error) => tracing::debug!(%error, "the watch of ServiceMonitors is interrupted"),
        }
    }

    fn count(&self, event: &str) {
        self.shared().metrics.events.with_label_values(&["ServiceMonitor", event]).inc();
    }

    /// Stores what a watch shows, and returns its target.
    fn observe(&mut self, scope: usize, object: ServiceMonitor) -> Option<TargetId> {
        let found = ObservedMonitor::from(object);
        self.note_seen(&found.monitor);
        let target = self.target_of(&found.monitor);
        let desired = target.as_ref().and_then(|id| self.desired(id)?.ok());
        let violates_policy = target.as_ref().is_some_and(|id| found.violates_policy(id, &self.shared().settings));
        self.store.observe(scope, found, desired.as_ref(), violates_policy);
        target
    }

    fn note_seen(&mut self, monitor: &MonitorRef) {
        if let Some(write) = self.in_flight.get_mut(monitor) {
            *write = InFlightWrite { dirty: true, seen: true };
        }
    }

    /// Reconciles again what had to wait until now.
    fn check_due(&mut self) {
        let waited = self.patience.due();
        let failed: Vec<TargetId> =
            self.failing.due(Instant::now()).filter_map(|monitor| self.target_of(monitor)).collect();
        self.shared().monitors.mark(waited.into_iter().chain(failed));
    }

    fn resync(&mut self) {
        self.patience.tidy();
        self.conflicts.remove_ended();
        let mut failing = std::mem::take(&mut self.failing);
        failing.retain(|monitor| self.store.uid(monitor).is_some() || self.has_target(monitor));
        self.failing = failing;
        if let Some(monitors) = self.failures.more() {
            tracing::warn!(monitors, "more ServiceMonitors cannot be written");
        }
        if self.crd.is_none() {
            self.shared().monitors.clear(); // nothing takes from it yet
        }
        self.enqueue_all();
        self.find_orphans();
    }

    fn enqueue_all(&mut self) {
        let ids = self.shared().catalog.ids();
        if ids.len() > MANY_TARGETS && !self.warned_of_many && matches!(self.crd, Some(OperatorCrd::Installed(_))) {
            self.warned_of_many = true;
            tracing::info!(
                targets = ids.len(),
                "each ServiceMonitor is a job of its own in Prometheus; for so many targets discovery.mode=httpSD is made"
            );
        }
        self.shared().monitors.mark(ids);
    }

    /// Reconciles the targets whose monitors the watch `scope` covers.
    fn enqueue_scope(&self, scope: usize) {
        let Shared { catalog, monitors, settings, .. } = self.shared();
        let mut ids = catalog.ids();
        ids.retain(|id| self.scope_of(&MonitorRef::of_target(id, settings)) == Some(scope));
        monitors.mark(ids);
    }

    /// Finds monitors that an earlier mode left, and those of targets that were deleted while no replica led.
    fn find_orphans(&mut self) {
        self.orphans = self.store.iter().filter(|monitor| self.is_orphan(monitor)).cloned().collect();
    }

    /// Whether `monitor` is ours and its target certainly does not exist.
    fn is_orphan(&self, monitor: &MonitorRef) -> bool {
        let Shared { catalog, settings, .. } = self.shared();
        if self.in_flight.contains_key(monitor) || self.store.uid(monitor).is_none() || self.has_target(monitor) {
            return false;
        }
        // A namespace whose targets we may not list looks as if it had none.
        let namespace = self.target_namespace(monitor);
        let watched = &settings.watch_namespaces;
        let is_watched = watched.is_empty() || watched.iter().any(|name| **name == *namespace);
        catalog.is_listed(&namespace) || !is_watched
    }

    /// The namespace of the target of `monitor`, whether or not the target exists.
    fn target_namespace(&self, monitor: &MonitorRef) -> Arc<str> {
        if let Some(labelled) = self.store.target_namespace(monitor) {
            return Arc::clone(labelled);
        }
        let settings = &self.shared().settings;
        let in_release = settings.discovery.monitor_namespace == MonitorNamespace::Release;
        match monitor.name.split_once('.') {
            Some((namespace, _)) if in_release && *monitor.namespace == *settings.namespace => namespace.into(),
            _ => Arc::clone(&monitor.namespace),
        }
    }

    /// The target that a monitor of this name would have.
    fn target_of(&self, monitor: &MonitorRef) -> Option<TargetId> {
        match self.shared().settings.discovery.monitor_namespace {
            MonitorNamespace::Target => {
                Some(TargetId { namespace: Arc::clone(&monitor.namespace), name: Arc::clone(&monitor.name) })
            }
            MonitorNamespace::Release => self.targets.get(monitor).cloned(),
        }
    }

    fn has_target(&self, monitor: &MonitorRef) -> bool {
        self.target_of(monitor).is_some_and(|id| self.shared().catalog.get(&id).is_some())
    }

    fn scope_of(&self, monitor: &MonitorRef) -> Option<usize> {
        self.scopes.iter().position(|scope| scope.as_ref().is_none_or(|name| *name == monitor.namespace))
    }

    // What is decided: for each target, whether its monitor is written, deleted or left.

    fn reconcile_batch(&mut self) {
        while self.writes.len() < IN_FLIGHT
            && let Some(monitor) = self.orphans.pop_front()
        {
            if self.is_orphan(&monitor)
                && self.patience.resting(&monitor.namespace).is_none()
                && self.failing.until(&monitor, &monitor.namespace, DELETION, Instant::now()).is_none()
            {
                self.delete(monitor, None, None);
            }
        }
        for _ in 0..BATCH {
            if self.writes.len() == IN_FLIGHT {
                break;
            }
            let Some(id) = self.shared().monitors.take(1).pop() else { break };
            self.reconcile(id);
        }
    }

    fn reconcile(&mut self, id: TargetId) {
        let monitor = MonitorRef::of_target(&id, &self.shared().settings);
        if let Some(write) = self.in_flight.get_mut(&monitor) {
            write.dirty = true;
            return;
        }
        if self.shared().catalog.get(&id).is_none() {
            self.patience.forget(&id);
            // In the namespace of its target it is garbage-collected. If it is not, it is found as an orphan.
            if self.targets.remove(&monitor).is_some() && self.store.uid(&monitor).is_some() {
                self.delete(monitor, None, None);
            }
            return;
        }
        if self.shared().settings.discovery.monitor_namespace == MonitorNamespace::Release {
            self.targets.insert(monitor.clone(), id.clone());
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
                        self.patience.forget(&id);
                        self.failing.forget(&monitor);
                        let state = self.condition_in_sync(&monitor, desired.hash);
                        return self.set_condition(&id, state);
                    }
                    SyncStatus::OutOfSync { uid } => Some(uid),
                    SyncStatus::Missing => None,
                };
                if self.may_write(&id, &monitor, desired.hash) {
                    self.apply(id, monitor, desired, uid);
                }
            }
            Err(state) if self.store.uid(&monitor).is_none() => {
                self.patience.forget(&id);
                self.conflicts.forget(&monitor);
                self.failing.forget(&monitor);
                self.set_condition(&id, state);
            }
            Err(state) => {
                if self.may_write(&id, &monitor, DELETION) {
                    self.delete(monitor, Some(id), Some(state));
                }
            }
        }
    }

    /// What `id` should have, or why it should have none; `None` if its spec is not understood.
    fn desired(&self, id: &TargetId) -> Option<Result<DesiredMonitor, MonitorState>> {
        let record = self.shared().catalog.get(id)?;
        let declaration = record.object.declaration.as_ref().ok()?;
        let features = match self.crd {
            Some(OperatorCrd::Installed(features)) => features,
            _ => OperatorFeatures::OLDEST,
        };
        let desired = DesiredMonitor::new(&record.object, &declaration.spec, &self.shared().settings, features);
        Some(desired.map_err(MonitorState::from))
    }

    /// Whether `desired` may be written now. If not, the target is reconciled again when it may.
    fn may_write(&mut self, id: &TargetId, monitor: &MonitorRef, desired: u64) -> bool {
        if self.patience.is_waiting(id, desired) {
            return false;
        }
        if let Some((until, state)) = self.patience.resting(&monitor.namespace) {
            if let Some(state) = state {
                self.set_condition(id, state);
            }
            self.patience.wait(id.clone(), desired, until);
            return false;
        }
        if let Some(until) = self.conflicts.retry_at(monitor, desired) {
            // One change is put back within seconds, and is not worth two writes of the status.
            if self.conflicts.is_lasting(monitor, desired) || !self.is_written(id) {
                self.set_condition(id, condition::contested(monitor));
            }
            self.patience.wait(id.clone(), desired, until);
            return false;
        }
        let failing = self.failing.until(monitor, &monitor.namespace, desired, Instant::now());
        if failing.is_some()
            && let Some(why) = self.failing.why(&monitor.namespace)
        {
            self.set_condition(id, condition::failed(why));
        }
        failing.is_none()
    }

    /// Whether the condition of `id` says that its monitor is written.
    fn is_written(&self, id: &TargetId) -> bool {
        let monitor = self.shared().catalog.get(id).and_then(|record| record.monitor);
        monitor.is_some_and(|monitor| monitor.reason == WRITTEN)
    }

    fn condition_in_sync(&self, monitor: &MonitorRef, desired: u64) -> MonitorState {
        if self.conflicts.is_lasting(monitor, desired) {
            condition::contested(monitor)
        } else {
            condition::written(monitor)
        }
    }

    fn set_condition(&self, id: &TargetId, state: MonitorState) {
        if self.shared().catalog.put_monitor(id, Some(state)) {
            self.shared().statuses.mark([id.clone()]);
        }
    }

    // What is done, and what follows from how it ended.

    fn apply(&mut self, target: TargetId, monitor: MonitorRef, desired: DesiredMonitor, uid: Option<String>) {
        self.in_flight.insert(monitor.clone(), InFlightWrite::default());
        self.failing.begin(&monitor);
        let client = self.client.clone();
        self.writes.push(Box::pin(async move {
            let result = client.apply(&monitor, &desired, uid).await;
            FinishedWrite { monitor, target: Some(target), outcome: WriteOutcome::Applied(desired, result) }
        }));
    }

    /// Deletes our monitor, and then sets the condition of its target to `state`.
    fn delete(&mut self, monitor: MonitorRef, target: Option<TargetId>, state: Option<MonitorState>) {
        let Some(uid) = self.store.uid(&monitor).map(str::to_owned) else { return };
        self.in_flight.insert(monitor.clone(), InFlightWrite::default());
        self.failing.begin(&monitor);
        let client = self.client.clone();
        self.writes.push(Box::pin(async move {
            let result = client.delete(&monitor, uid).await;
            FinishedWrite { monitor, target, outcome: WriteOutcome::Deleted(state, result) }
        }));
    }

    fn finish(&mut self, FinishedWrite { monitor, target, outcome }: FinishedWrite) {
        let in_flight = self.in_flight.remove(&monitor).unwrap_or_default();
        let (desired, result) = match outcome {
            WriteOutcome::Applied(desired, result) => {
                let result = result.map(|found| {
                    self.conflicts.wrote(&monitor, desired.hash);
                    self.store.wrote(found, &desired, in_flight.seen);
                    Some(self.condition_in_sync(&monitor, desired.hash))
                });
                (desired.hash, result)
            }
            WriteOutcome::Deleted(state, result) => {
                let result = result.map(|()| {
                    self.conflicts.forget(&monitor);
                    if !in_flight.seen {
                        self.store.remove(&monitor);
                    }
                    state
                });
                (DELETION, result)
            }
        };
        match result {
            Ok(state) => {
                self.pause.succeed();
                self.failing.succeed(&monitor, &monitor.namespace);
                if let Some(id) = &target {
                    self.patience.forget(id);
                    if let Some(state) = state {
                        self.set_condition(id, state);
                    }
                }
            }
            Err(error) => self.handle_error(error, &monitor, target.as_ref(), desired),
        }
        if in_flight.dirty {
            let target = target.or_else(|| self.target_of(&monitor));
            self.shared().monitors.mark(target);
        }
    }

    fn handle_error(&mut self, error: MonitorError, monitor: &MonitorRef, target: Option<&TargetId>, desired: u64) {
        if matches!(error, MonitorError::Api(ApiError::Unreachable(_)) | MonitorError::NotLeader) {
            self.failing.give_up(monitor);
        } else if !matches!(error, MonitorError::Api(ApiError::Failed(_))) {
            self.failing.forget(monitor);
        }
        let (state, delay) = match error {
            MonitorError::NameTaken { owner } => (Some(condition::name_taken(monitor, &owner)), REST),
            MonitorError::Api(ApiError::Forbidden(rule)) => {
                let state = condition::forbidden(&rule);
                self.patience.rest(&monitor.namespace, Some(state.clone()));
                (Some(state), REST)
            }
            MonitorError::Api(ApiError::Refused(why)) => (Some(condition::refused(&why)), REST),
            // The CRD or the namespace is gone. The CRD is checked for; with the namespace, the target goes too.
            MonitorError::Api(ApiError::NotFound) => {
                self.store.remove(monitor);
                self.patience.rest(&monitor.namespace, None);
                (None, REST)
            }
            MonitorError::Api(ApiError::Conflict(_)) => {
                self.store.remove(monitor);
                (None, CONFLICT_RETRY)
            }
            MonitorError::Api(ApiError::Failed(why)) => return self.handle_failure(&why, monitor, target, desired),
            MonitorError::Api(ApiError::Unreachable(_)) => {
                self.pause.fail(Instant::now());
                (None, Duration::ZERO)
            }
            MonitorError::NotLeader => (None, Duration::ZERO),
        };
        let Some(id) = target else { return };
        if let Some(state) = state {
            self.set_condition(id, state);
        }
        self.patience.wait(id.clone(), desired, Instant::now() + delay);
    }

    /// The API server, or a webhook that it calls, fails at this monitor.
    fn handle_failure(&mut self, why: &str, monitor: &MonitorRef, target: Option<&TargetId>, desired: u64) {
        let (failures, _) = self.failing.fail(monitor, &monitor.namespace, desired, why, Instant::now());
        if failures == 1 && self.failures.note(Instant::now()) {
            tracing::warn!(%monitor, error = why, "a ServiceMonitor cannot be written");
        }
        // A webhook that restarts is away for a moment: one failure is not reported.
        if let Some(id) = target
            && (failures > 1 || self.failing.why(&monitor.namespace).is_some())
        {
            self.set_condition(id, condition::failed(why));
        }
    }
}

#[cfg(test)]
mod tests;
