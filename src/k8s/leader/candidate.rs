//! The requests that look at the Lease, take, renew and give it back. When to make them is not decided here, nor what follows.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::timeout;

use super::super::client::{ApiClient, ApiError, PolicyRule};
use super::super::labels;
use super::super::settings::{Election, Settings};
use super::lease::{Record, Timing, renewed};

/// Giving back takes no longer: the process is about to end.
const GIVE_BACK: Duration = Duration::from_secs(3);

/// What came of a request.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// The Lease as it is now.
    Shown(Option<Box<Lease>>),
    /// It was taken or renewed, and says this.
    Written(LeaseSpec),
    /// It is ours no longer.
    GivenBack,
    /// Somebody else was faster.
    Outrun,
    /// We may not. Whoever installed us reads it in the log.
    Denied,
    /// Of the API server or the way to it; it may pass.
    Failed(String),
}

/// One who wants to hold the Lease.
#[derive(Clone)]
pub(super) struct Candidate {
    cluster: ApiClient,
    namespace: String,
    election: Election,
    timing: Timing,
}

impl Candidate {
    pub(super) fn new(cluster: &ApiClient, settings: &Settings) -> Self {
        let Settings { namespace, election, .. } = settings;
        let timing = Timing::new(election.duration);
        Self { cluster: cluster.clone(), namespace: namespace.clone(), election: election.clone(), timing }
    }

    /// Looks at the Lease.
    pub(super) async fn look(&self) -> Answer {
        let shown = self.call("get", self.api().get_opt(&self.election.lease)).await;
        shown.map_or_else(Self::failed, |lease| Answer::Shown(lease.map(Box::new)))
    }

    /// Takes or renews the Lease, if it is still as `seen`; makes it if there was none.
    pub(super) async fn hold(&self, seen: Option<Record>) -> Answer {
        let (api, name) = (self.api(), &self.election.lease);
        let before = seen.as_ref().map(|record| &record.spec);
        let spec = renewed(before, &self.election.identity, &self.timing);
        let written = if let Some(record) = &seen {
            let patch = json!({ "metadata": { "resourceVersion": record.version }, "spec": spec });
            self.call("patch", api.patch(name, &manager(), &Patch::Merge(patch))).await
        } else {
            let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
            let how = PostParams { field_manager: Some(labels::MANAGER.to_owned()), ..PostParams::default() };
            let lease = Lease { metadata, spec: Some(spec) };
            self.call("create", api.create(&how, &lease)).await
        };
        written.map_or_else(Self::failed, |lease| Answer::Written(lease.spec.unwrap_or_default()))
    }

    /// Gives the Lease back if it is ours.
    pub(super) async fn give_back(&self) -> Answer {
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
            self.call("patch", api.patch(name, &manager(), &Patch::Merge(patch))).await.map(|_| ())
        };
        match timeout(GIVE_BACK, work).await {
            Ok(Ok(())) => Answer::GivenBack,
            Ok(Err(error)) => Self::failed(error),
            Err(_) => Answer::Failed(format!("no answer within {GIVE_BACK:?}")),
        }
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.cluster.client(), &self.namespace)
    }

    async fn call<T>(&self, verb: &'static str, request: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
        let rule = PolicyRule::new(verb, "coordination.k8s.io", "leases", Some(&self.namespace));
        let call = timeout(self.timing.call, self.cluster.call(rule, request));
        call.await.unwrap_or_else(|_| Err(ApiError::silent(format_args!("none within {:?}", self.timing.call))))
    }

    fn failed(error: ApiError) -> Answer {
        match error {
            ApiError::Forbidden(_) => Answer::Denied,
            // A Lease that was deleted meanwhile is not as it was seen either.
            ApiError::Conflict(_) | ApiError::NotFound => Answer::Outrun,
            error => Answer::Failed(error.to_string()),
        }
    }
}

fn manager() -> PatchParams {
    PatchParams { field_manager: Some(labels::MANAGER.to_owned()), ..PatchParams::default() }
}
