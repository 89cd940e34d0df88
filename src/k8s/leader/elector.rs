//! Carries out the steps that the [state](super::state) of the election returns, and publishes the role and the permit that follow.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::lease::{LeaseRecord, LeaseTiming, LeaseView, renewed};
use super::state::{ElectionState, ElectionStep, Moment};
use super::{LeaderStatus, Role};
use crate::k8s::client::{ApiClient, ApiError, PolicyRule};
use crate::k8s::{Election, Settings, Shared, labels};

/// Failures in a row after which one is logged, if the API server can be reached otherwise.
const LOGGED_FAILURES: u32 = 5;
/// The deadline of a release: the process is about to end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// One replica's part in the election.
pub(super) struct LeaderElector {
    shared: Arc<Shared>,
    client: LeaseClient,
    views: watch::Receiver<LeaseView>,
    statuses: watch::Sender<LeaderStatus>,
    state: ElectionState,
    request: Option<LeaseRequest>,
    has_resigned: bool,
    /// The role that was logged last, and the holder of the Lease.
    logged: Option<(Role, Option<Arc<str>>)>,
}

/// The request in flight, of which there is never more than one. Dropping it cancels it.
struct LeaseRequest {
    sent: Moment,
    outcome: Pin<Box<dyn Future<Output = LeaseOutcome> + Send>>,
}

impl LeaderElector {
    pub(super) fn new(
        shared: &Arc<Shared>,
        views: watch::Receiver<LeaseView>,
        statuses: watch::Sender<LeaderStatus>,
    ) -> Self {
        let election = &shared.settings.election;
        Self {
            client: LeaseClient::new(&shared.client, &shared.settings),
            state: ElectionState::new(&election.identity, LeaseTiming::new(election.duration)),
            shared: Arc::clone(shared),
            views,
            statuses,
            request: None,
            has_resigned: false,
            logged: None,
        }
    }

    /// Takes part until `stop`. After `resign` it releases the Lease, before it stops.
    pub(super) async fn run(mut self, stop: CancellationToken, resign: CancellationToken) -> &'static str {
        let shared = Arc::clone(&self.shared);
        let mut knows_targets = false;
        loop {
            self.publish();
            let wake_at = self.send_next();
            tokio::select! {
                // Writing must stop before another replica may start.
                biased;
                () = resign.cancelled(), if !self.has_resigned => {
                    self.has_resigned = true;
                    self.state.resign();
                    self.request = None;
                }
                () = stop.cancelled() => break,
                () = shared.pollers.until_known(), if !knows_targets => {
                    knows_targets = true;
                    self.state.targets_known();
                }
                changed = self.views.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let view = self.views.borrow_and_update().clone();
                    self.state.watched(view);
                }
                (sent, outcome) = finished(&mut self.request) => self.finished(sent, outcome),
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
            }
        }
        if self.has_resigned && self.state.is_holder() {
            let _ = self.client.release().await;
        }
        "the election"
    }

    /// Sends the request that is due, unless one is in flight. Returns when the next one is due.
    fn send_next(&mut self) -> Option<Instant> {
        if self.request.is_some() {
            return None;
        }
        let client = self.client.clone();
        let outcome: Pin<Box<dyn Future<Output = LeaseOutcome> + Send>> = match self.state.step(Instant::now()) {
            ElectionStep::Wait(wake_at) => return wake_at,
            ElectionStep::Observe => Box::pin(async move { client.observe().await }),
            ElectionStep::Acquire(observed) => Box::pin(async move { client.acquire(observed).await }),
            ElectionStep::Release => Box::pin(async move { client.release().await }),
        };
        self.request = Some(LeaseRequest { sent: Moment::now(), outcome });
        None
    }

    fn finished(&mut self, sent: Moment, outcome: LeaseOutcome) {
        match &outcome {
            LeaseOutcome::Released if self.has_resigned => tracing::info!("the Lease is released"),
            LeaseOutcome::Released => {
                tracing::info!(
                    "the Lease is released: the targets are not known yet, and another replica may know them"
                );
            }
            LeaseOutcome::Failed(error) => tracing::debug!(error, "a request about the Lease failed"),
            _ => {}
        }
        let error = if let LeaseOutcome::Failed(error) = &outcome { Some(error.clone()) } else { None };
        self.state.finished(outcome, sent, Instant::now());
        if let Some(error) = error.filter(|_| self.state.failures() == LOGGED_FAILURES) {
            tracing::warn!(error, "the Lease can neither be acquired nor renewed");
        }
    }

    /// Publishes the role and the permit as they are now.
    fn publish(&mut self) {
        let before = self.statuses.borrow().role;
        let status = self.state.status(Instant::now());
        if status.role != before {
            let leads = status.role == Role::Leader;
            self.shared.pollers.set_background(leads);
            self.shared.metrics.leader.set(if leads { 1.0 } else { 0.0 });
        }
        self.log(status.role);
        self.statuses.send_if_modified(|now| std::mem::replace(now, status) != status);
    }

    fn log(&mut self, role: Role) {
        let holder = self.state.lease().held().and_then(LeaseRecord::holder).map(Arc::<str>::from);
        let current = match role {
            Role::Leader => (role, holder.filter(|_| self.state.is_holder())),
            // It leads in a moment, or releases the Lease.
            Role::Standby if self.state.is_holder() => return,
            Role::Standby if holder.is_none() => return,
            Role::Standby => (role, holder),
        };
        // A leader without a Lease for a moment is not logged.
        let misses_lease = |logged: &(Role, _)| logged.0 == Role::Leader && current == (Role::Leader, None);
        if self.logged.as_ref().is_some_and(|logged| *logged == current || misses_lease(logged)) {
            return;
        }
        let identity = &self.shared.settings.election.identity;
        match &current {
            (Role::Leader, Some(_)) => tracing::info!(identity, "leading"),
            (Role::Leader, None) => {
                tracing::warn!("polling without leader election: nothing is written to the cluster");
            }
            (Role::Standby, leader) => tracing::info!(identity, leader = leader.as_deref(), "standing by"),
        }
        self.logged = Some(current);
    }
}

/// Waits for the end of the request; for ever if there is none.
async fn finished(request: &mut Option<LeaseRequest>) -> (Moment, LeaseOutcome) {
    let Some(LeaseRequest { sent, outcome }) = request else { return std::future::pending().await };
    let (sent, outcome) = (*sent, outcome.as_mut().await);
    *request = None;
    (sent, outcome)
}

/// The outcome of a request.
#[derive(Clone, Debug)]
pub(super) enum LeaseOutcome {
    /// The Lease as it is now.
    Observed(Option<Box<Lease>>),
    /// It was acquired or renewed with this record.
    Written(LeaseSpec),
    /// This replica does not hold it any more.
    Released,
    /// Another replica was faster.
    Conflict,
    /// A permission is missing, which the client logs.
    Denied,
    /// The API server or the way to it failed.
    Failed(String),
}

/// The requests about the Lease. [`ElectionState`] decides when they are sent and what follows.
#[derive(Clone)]
struct LeaseClient {
    client: ApiClient,
    namespace: String,
    election: Election,
    timing: LeaseTiming,
}

impl LeaseClient {
    fn new(client: &ApiClient, settings: &Settings) -> Self {
        let Settings { namespace, election, .. } = settings;
        let timing = LeaseTiming::new(election.duration);
        Self { client: client.clone(), namespace: namespace.clone(), election: election.clone(), timing }
    }

    /// Reads the Lease.
    async fn observe(&self) -> LeaseOutcome {
        let lease = self.call("get", self.api().get_opt(&self.election.lease)).await;
        lease.map_or_else(Self::failed, |lease| LeaseOutcome::Observed(lease.map(Box::new)))
    }

    /// Acquires or renews the Lease if it is still as `observed`, or creates it if there was none.
    async fn acquire(&self, observed: Option<LeaseRecord>) -> LeaseOutcome {
        let (api, name) = (self.api(), &self.election.lease);
        let spec = renewed(observed.as_ref().map(|record| &record.spec), &self.election.identity, &self.timing);
        let written = if let Some(record) = &observed {
            let patch = json!({ "metadata": { "resourceVersion": record.version }, "spec": spec });
            self.call("patch", api.patch(name, &params(), &Patch::Merge(patch))).await
        } else {
            let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
            let params = PostParams { field_manager: Some(labels::MANAGER.to_owned()), ..PostParams::default() };
            let lease = Lease { metadata, spec: Some(spec) };
            self.call("create", api.create(&params, &lease)).await
        };
        written.map_or_else(Self::failed, |lease| LeaseOutcome::Written(lease.spec.unwrap_or_default()))
    }

    /// Releases the Lease if it is ours.
    async fn release(&self) -> LeaseOutcome {
        let work = async {
            let (api, name) = (self.api(), &self.election.lease);
            let lease = self.call("get", api.get_opt(name)).await?;
            let holder = |lease: &Lease| lease.spec.as_ref()?.holder_identity.clone();
            let Some(lease) = lease.filter(|lease| holder(lease).as_deref() == Some(&*self.election.identity)) else {
                return Ok(());
            };
            let patch = json!({
                "metadata": { "resourceVersion": lease.metadata.resource_version },
                "spec": { "holderIdentity": null, "acquireTime": null, "renewTime": null, "leaseDurationSeconds": null },
            });
            self.call("patch", api.patch(name, &params(), &Patch::Merge(patch))).await.map(drop)
        };
        match timeout(RELEASE_TIMEOUT, work).await {
            Ok(Ok(())) => LeaseOutcome::Released,
            Ok(Err(error)) => Self::failed(error),
            Err(_) => LeaseOutcome::Failed(format!("no answer within {RELEASE_TIMEOUT:?}")),
        }
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.kube(), &self.namespace)
    }

    async fn call<T>(&self, verb: &'static str, request: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
        let rule = PolicyRule::new(verb, "coordination.k8s.io", "leases", Some(&self.namespace));
        self.client.call_within(self.timing.request_timeout, rule, request).await
    }

    fn failed(error: ApiError) -> LeaseOutcome {
        match error {
            ApiError::Forbidden(_) => LeaseOutcome::Denied,
            // A Lease that was deleted meanwhile is not as it was observed either.
            ApiError::Conflict(_) | ApiError::NotFound => LeaseOutcome::Conflict,
            error => LeaseOutcome::Failed(error.to_string()),
        }
    }
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(labels::MANAGER.to_owned()), ..PatchParams::default() }
}
