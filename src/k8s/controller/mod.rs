//! Reconciles the pollers with the ScrapeTargets of the cluster. A single task makes every decision, so that changes have one order.
//!
//! It writes nothing into the cluster: it enqueues the targets whose status or ServiceMonitor may have to be written.

mod change_log;
mod readiness;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::Resource;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::endpoint_slices::EndpointCache;
use super::observed::{ConvertedTarget, WatchedTarget};
use super::secrets::SecretCache;
use super::settings::Scope;
use super::watch::{Collection, WatchConfig, WatchEvent, watch};
use crate::crd::{ParsedTarget, ScrapeTarget};
use crate::target::{MemberSource, Problem, Target, TargetId};
use change_log::{ChangeLog, TargetChange};
use readiness::{Readiness, WatchHealth};

/// Events that may wait for the reconciler. A page of a list is one event, so this bounds memory as well.
const EVENTS: usize = 64;
/// The most events that are taken, and targets that are declared, before other tasks get a turn.
const BATCH: usize = 500;
/// A target whose Secrets or endpoints are not read after this is declared without them, and reports them as unread.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// The same, of endpoints that will be listed soon: a watch of EndpointSlices that has just begun is not replaced at once. Until then the
/// target is as it was before, which is better than refused.
const LISTED_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest delay while the CRD is missing: somebody is probably installing it.
const CRD_RETRY: Duration = Duration::from_secs(4);

/// Starts the watch of each scope, the reader of Secrets, the watches of EndpointSlices, and the reconciler that turns their results into targets.
pub(super) fn start(
    shared: &Arc<Shared>,
    rejected: mpsc::Receiver<TargetId>,
    tasks: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) {
    let secrets = SecretCache::new(shared.client.clone(), shared.settings.secret_label.clone());
    let scopes = shared.settings.watched();
    let (sender, events) = mpsc::channel(EVENTS);
    for (index, scope) in scopes.iter().enumerate() {
        let (watch, stop) = (forward(shared, index, scope.clone(), sender.clone()), stop.clone());
        tasks.spawn(async move {
            stop.run_until_cancelled(watch).await;
            "the watch of ScrapeTargets"
        });
    }
    tasks.spawn(Arc::clone(&secrets).run(stop.clone()));
    let endpoints = EndpointCache::new(Arc::clone(shared), &scopes);
    tasks.spawn(Arc::clone(&endpoints).run(stop.clone()));
    let reconciler = Reconciler::new(Arc::clone(shared), secrets, endpoints, scopes);
    let stop = stop.clone();
    tasks.spawn(async move {
        stop.run_until_cancelled(reconciler.run(events, rejected)).await;
        "the controller"
    });
}

/// An event of the watch of a scope, by its index.
type TargetEvent = (usize, WatchEvent<WatchedTarget>);

/// Sends the events of a scope until the reconciler has ended.
fn forward(
    shared: &Shared,
    index: usize,
    scope: Scope,
    events: mpsc::Sender<TargetEvent>,
) -> impl Future<Output = ()> + use<> {
    let collection = Collection { group: "scrapetarget.dev", version: "v1alpha1", resource: "scrapetargets", scope };
    debug_assert_eq!(collection.path(), ScrapeTarget::url_path(&(), collection.scope.as_deref()));
    let config = WatchConfig {
        label_selector: shared.settings.target_selector.as_ref().map(|selector| selector.as_str().to_owned()),
        longest_missing_backoff: CRD_RETRY,
        ..WatchConfig::default()
    };
    let mut watch = watch(&shared.client, collection, config);
    async move {
        while let Some(event) = watch.next().await {
            if events.send((index, event)).await.is_err() {
                return;
            }
        }
    }
}

struct Reconciler {
    shared: Arc<Shared>,
    secrets: Arc<SecretCache>,
    endpoints: Arc<EndpointCache>,
    scopes: Vec<ListedScope>,
    /// What must be done about each target, at the end of the batch.
    pending: BTreeMap<TargetId, PendingAction>,
    /// Targets whose Secrets or endpoints are being read.
    awaiting: BTreeMap<TargetId, AwaitedObjects>,
    readiness: Readiness,
    health: WatchHealth,
    change_log: ChangeLog,
    /// Whether it was logged that the CRD has fields that we do not know.
    unknown_field_logged: bool,
}

struct ListedScope {
    scope: Scope,
    /// The targets that a list has shown so far, while it is read.
    listing: Option<HashSet<TargetId>>,
}

/// How long a target waits for what it refers to.
#[derive(Clone, Copy, Debug)]
struct AwaitedObjects {
    since: Instant,
    deadline: Instant,
}

/// What must be done about a target.
enum PendingAction {
    /// Declare it as it is in the store.
    Declare,
    /// Declare it with the endpoints that its Service has now. Nothing else has changed.
    UpdateEndpoints,
    /// It cannot be used as it is declared. Scrapes of it are answered by this stand-in, if there is one.
    Refuse(Option<Arc<ParsedTarget>>),
}

impl Reconciler {
    fn new(shared: Arc<Shared>, secrets: Arc<SecretCache>, endpoints: Arc<EndpointCache>, scopes: Vec<Scope>) -> Self {
        let (readiness, health) = (Readiness::new(scopes.len()), WatchHealth::new(scopes.len()));
        Self {
            shared,
            secrets,
            endpoints,
            scopes: scopes.into_iter().map(|scope| ListedScope { scope, listing: None }).collect(),
            pending: BTreeMap::new(),
            awaiting: BTreeMap::new(),
            readiness,
            health,
            change_log: ChangeLog::default(),
            unknown_field_logged: false,
        }
    }

    /// Runs until it is dropped. `rejected` are the targets whose server did not accept their credentials.
    async fn run(mut self, mut events: mpsc::Receiver<TargetEvent>, mut rejected: mpsc::Receiver<TargetId>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let wake_at = self.wake_at();
            tokio::select! {
                count = events.recv_many(&mut batch, BATCH) => if count == 0 {
                    return std::future::pending().await; // the watches have stopped, and this task is about to be cancelled
                },
                () = self.secrets.changed.wait() => self.declare_changed_secrets(),
                () = self.endpoints.changed.wait() => self.update_changed_endpoints(),
                Some(id) = rejected.recv() => self.secrets.credentials_rejected(&id),
                () = tokio::time::sleep_until(wake_at) => {}
            }
            for (scope, event) in batch.drain(..) {
                self.handle(scope, event);
            }
            self.declare_overdue();
            while self.reconcile_batch() {
                tokio::task::yield_now().await; // scrapes come first
            }
            if self.readiness.becomes_known(self.awaiting.is_empty()) {
                self.shared.pollers.set_known();
                tracing::info!(targets = self.shared.targets.ids().len(), "targets are known");
            }
            self.change_log.close(|| self.shared.targets.ids().len());
        }
    }

    /// When the next deadline is, if nothing happens before.
    fn wake_at(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        let secrets = self.awaiting.values().map(|awaited| awaited.deadline).min();
        [secrets, self.readiness.deadline(), self.change_log.closes()].into_iter().flatten().fold(far, Instant::min)
    }

    fn handle(&mut self, scope: usize, event: WatchEvent<WatchedTarget>) {
        match event {
            WatchEvent::ListStarted => {
                if let Some(scope) = self.scopes.get_mut(scope) {
                    scope.listing = Some(HashSet::new());
                }
            }
            WatchEvent::ListPage(page) => {
                page.into_iter()
                    .filter_map(|WatchedTarget(parsed)| parsed)
                    .for_each(|parsed| self.applied(scope, parsed));
            }
            WatchEvent::ListFinished => self.list_finished(scope),
            WatchEvent::Applied(WatchedTarget(Some(parsed))) => self.applied(scope, parsed),
            WatchEvent::Deleted(WatchedTarget(Some(parsed))) => self.deleted(&parsed.target.id),
            WatchEvent::Applied(WatchedTarget(None)) | WatchEvent::Deleted(WatchedTarget(None)) => {}
            WatchEvent::Denied => {
                self.readiness.denied(scope);
                self.health.works(scope, &self.shared.outage);
            }
            WatchEvent::Failed(error) => {
                self.health.failed(scope, &error, &self.shared.outage, self.shared.pollers.known());
            }
            WatchEvent::Recovered => self.health.works(scope, &self.shared.outage),
        }
    }

    /// Removes the targets that the list did not show.
    fn list_finished(&mut self, index: usize) {
        let Some(ListedScope { scope, listing }) = self.scopes.get_mut(index) else { return };
        let Some(listed) = listing.take() else { return };
        let covers = |id: &TargetId| scope.as_ref().is_none_or(|namespace| *namespace == id.namespace);
        let mut deleted = self.shared.targets.ids();
        deleted.retain(|id| covers(id) && !listed.contains(id));
        self.shared.targets.set_listed(scope.clone());
        for id in &deleted {
            self.deleted(id);
        }
        if self.readiness.listed(index) {
            self.count("relisted");
        }
        tracing::debug!(listed = listed.len(), deleted = deleted.len(), "ScrapeTargets are listed");
    }

    /// An object exists or has changed. The change decides what must be done about it.
    fn applied(&mut self, scope: usize, parsed: ConvertedTarget) {
        let ConvertedTarget { mut target, stand_in, unknown_field } = parsed;
        let id = target.id.clone();
        if let Some(field) = unknown_field.filter(|_| !std::mem::replace(&mut self.unknown_field_logged, true)) {
            tracing::warn!(target = %id, field, "the CRD in the cluster is newer than this program: fields that it does not know are ignored");
        }
        if let Some(listed) = self.scopes.get_mut(scope).and_then(|scope| scope.listing.as_mut()) {
            listed.insert(id.clone());
        }
        let mut before = self.shared.targets.get(&id).map(|record| record.object);
        if before.as_ref().is_some_and(|before| before.uid != target.uid) {
            self.deleted(&id); // another object of the same name: the state of the first does not apply to it
            before = None;
        }
        if let Some(before) = &before
            && before.declaration == target.declaration
        {
            if before.resource_version == target.resource_version {
                return;
            }
            // The pollers share this allocation already.
            target.declaration.clone_from(&before.declaration);
            let has_changed = before.generation != target.generation || before.status != target.status;
            self.shared.targets.put(Arc::new(target));
            self.count_event("status", &id);
            if has_changed {
                self.shared.statuses.add(id);
            }
            return;
        }
        let action = if let Ok(declaration) = &target.declaration {
            self.secrets.set_references(&id, &declaration.spec);
            self.endpoints.set_service(&id, declaration);
            self.count_event("applied", &id);
            PendingAction::Declare
        } else {
            self.secrets.remove_target(&id);
            self.endpoints.remove_target(&id);
            self.awaiting.remove(&id);
            self.count_event("malformed", &id);
            PendingAction::Refuse(stand_in)
        };
        if self.readiness.is_known() {
            let change = if before.is_none() { TargetChange::Added } else { TargetChange::Changed };
            self.change_log.note(&id, change);
        }
        self.shared.targets.put(Arc::new(target));
        self.pending.insert(id, action);
    }

    /// An object does not exist any more: its poller is removed at once.
    fn deleted(&mut self, id: &TargetId) {
        self.pending.remove(id);
        self.awaiting.remove(id);
        self.secrets.remove_target(id);
        self.endpoints.remove_target(id);
        if self.shared.targets.remove(id).is_some() {
            self.shared.pollers.remove(id);
            self.shared.statuses.add(id.clone());
            self.shared.enqueue_monitors([id.clone()]);
            self.change_log.note(id, TargetChange::Removed);
            self.count_event("deleted", id);
        }
    }

    /// Declares targets whose Secrets were read for the first time, or have changed.
    fn declare_changed_secrets(&mut self) {
        for id in self.secrets.changed.take() {
            self.declare(id);
        }
    }

    /// Declares targets whose endpoints were read for the first time, or have changed.
    fn update_changed_endpoints(&mut self) {
        for id in self.endpoints.changed.take() {
            self.pending.entry(id).or_insert(PendingAction::UpdateEndpoints);
        }
    }

    fn declare(&mut self, id: TargetId) {
        let action = self.pending.entry(id).or_insert(PendingAction::Declare);
        if matches!(action, PendingAction::UpdateEndpoints) {
            *action = PendingAction::Declare;
        }
    }

    /// Declares targets that have waited for their Secrets and endpoints long enough.
    fn declare_overdue(&mut self) {
        let now = Instant::now();
        let overdue = self.awaiting.iter().filter(|(_, awaited)| awaited.deadline <= now);
        let overdue: Vec<TargetId> = overdue.map(|(id, _)| id.clone()).collect();
        for id in overdue {
            self.declare(id);
        }
    }

    /// Takes a batch of pending actions, and hands their targets to the pollers in one step. Returns whether more are pending.
    fn reconcile_batch(&mut self) -> bool {
        let mut targets = Vec::new();
        let mut reconciled = Vec::new();
        for _ in 0..BATCH {
            let Some((id, action)) = self.pending.pop_first() else { break };
            let Some(record) = self.shared.targets.get(&id) else { continue };
            let problem = match (&record.object.declaration, action) {
                (Ok(declaration), action @ (PendingAction::Declare | PendingAction::UpdateEndpoints)) => {
                    if self.must_wait(&id) {
                        continue;
                    }
                    let target = self.resolve(&id, declaration);
                    let problem = target.problem.clone();
                    if matches!(action, PendingAction::UpdateEndpoints)
                        && is_accepted_as(record.accepted.as_ref(), problem.as_ref())
                    {
                        let poller = self.shared.pollers.get(&id);
                        if poller.is_none_or(|poller| *poller.target() != target) {
                            targets.push(target);
                        }
                        continue;
                    }
                    targets.push(target);
                    problem
                }
                (Err(problem), PendingAction::Refuse(stand_in)) => {
                    if let Some(stand_in) = stand_in {
                        let target = Target::resolve(id.clone(), stand_in, &*self.secrets);
                        targets.push(Target { problem: Some(problem.clone()), ..target });
                    } else {
                        self.shared.pollers.remove(&id);
                        self.change_log.note(&id, TargetChange::Refused(problem));
                    }
                    Some(problem.clone())
                }
                _ => continue, // a Secret was read for a target that cannot be used any more
            };
            reconciled.push((id, problem));
        }
        if !targets.is_empty() {
            self.shared.pollers.apply(targets);
        }
        if !reconciled.is_empty() {
            self.publish(reconciled);
        }
        !self.pending.is_empty()
    }

    /// The target of a declaration, with the endpoints that its Service has now.
    fn resolve(&self, id: &TargetId, declaration: &Arc<ParsedTarget>) -> Target {
        let target = Target::resolve(id.clone(), Arc::clone(declaration), &*self.secrets);
        let mut target = target.allowed_by(&self.shared.settings.probers);
        if let Some(members) = &mut target.members
            && let MemberSource::Service { endpoints, .. } = &mut members.source
        {
            match self.endpoints.endpoints(id, declaration) {
                Ok(found) => *endpoints = found,
                Err(problem) => target.problem = target.problem.or(Some(problem)),
            }
        }
        target
    }

    fn must_wait(&mut self, id: &TargetId) -> bool {
        let now = Instant::now();
        let (has_secrets, has_endpoints) = (self.secrets.is_read(id), self.endpoints.is_read(id));
        if has_secrets && has_endpoints {
            self.awaiting.remove(id);
            return false;
        }
        let is_listed_soon = has_secrets && self.endpoints.is_being_read(id);
        let timeout = if is_listed_soon { LISTED_TIMEOUT } else { READ_TIMEOUT };
        let waits = self.awaiting.entry(id.clone()).or_insert(AwaitedObjects { since: now, deadline: now });
        waits.deadline = waits.since + timeout;
        let must_wait = waits.deadline > now;
        if !must_wait {
            self.awaiting.remove(id);
        }
        must_wait
    }

    /// Stores whether the targets were accepted, and enqueues their statuses and ServiceMonitors.
    fn publish(&self, reconciled: Vec<(TargetId, Option<Problem>)>) {
        let mut ids = Vec::with_capacity(reconciled.len());
        for (id, problem) in reconciled {
            let outcome = if problem.is_none() { "success" } else { "failure" };
            self.shared.metrics.reconciles.with_label_values(&[outcome]).inc();
            let error = problem.as_ref().map(|problem| problem.message.as_str());
            tracing::debug!(target = %id, outcome, error, "reconciled");
            self.shared.targets.put_accepted(&id, problem.map_or(Ok(()), Err));
            ids.push(id);
        }
        self.shared.statuses.add_all(ids.iter().cloned());
        self.shared.enqueue_monitors(ids);
    }

    fn count_event(&self, event: &str, id: &TargetId) {
        self.count(event);
        tracing::debug!(target = %id, event, "watch event of a ScrapeTarget");
    }

    fn count(&self, event: &str) {
        self.shared.metrics.events.with_label_values(&["ScrapeTarget", event]).inc();
    }
}

/// Whether a target was declared before, and accepted or refused for the same reason as now.
fn is_accepted_as(accepted: Option<&Result<(), Problem>>, problem: Option<&Problem>) -> bool {
    accepted.is_some_and(|accepted| accepted.as_ref().err() == problem)
}
