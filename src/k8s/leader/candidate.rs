//! Takes, renews and gives back the Lease, by the crate that knows how. When to try is not decided here, nor what follows.

use std::convert::Infallible;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response};
use k8s_openapi::api::coordination::v1::Lease;
use kube::client::Body;
use kube::core::Status;
use kube::{Api, Client};
use kube_lease_manager::{LeaseCreateMode, LeaseManager, LeaseManagerError, LeaseParams};
use tokio::time::timeout;

use super::super::access::{ApiError, Cluster, Rule};
use super::super::settings::{Election, Settings};
use super::lease::Timing;

/// No single request takes longer: there must be time for another before the Lease ends.
const CALL: Duration = Duration::from_secs(4);
/// Giving back takes no longer: the process is about to end.
const GIVE_BACK: Duration = Duration::from_secs(3);

/// Why the Lease is not ours, or ours no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Of whoever installed us; it has been logged.
    #[error("not permitted")]
    Denied,
    /// Of the API server or the way to it, or of a Lease that is not as it should be; it may pass.
    #[error("{0}")]
    Failed(String),
}

/// One who wants to hold the Lease.
#[derive(Clone)]
pub(super) struct Candidate {
    client: Client,
    namespace: String,
    election: Election,
}

impl Candidate {
    pub(super) fn new(cluster: &Cluster, settings: &Settings) -> Self {
        let Settings { namespace, election, .. } = settings;
        let client = bounded(cluster.clone(), Arc::from(namespace.as_str()));
        Self { client, namespace: namespace.clone(), election: election.clone() }
    }

    /// Takes the Lease if it is free or has ended, and renews it in time, until something goes wrong.
    pub(super) async fn compete(&self) -> Result<Infallible, Failure> {
        let manager = self.manager().await?;
        // An error may mean that the manager's idea of the Lease is wrong; a new one begins with a look at it.
        loop {
            manager.changed().await?;
        }
    }

    /// Gives the Lease back if it is ours.
    pub(super) async fn give_back(&self) -> Result<(), Failure> {
        let work = async {
            let lease = Api::<Lease>::namespaced(self.client.clone(), &self.namespace).get(&self.election.lease).await;
            let lease = lease.map_err(LeaseManagerError::from)?;
            let holder = lease.spec.and_then(|spec| spec.holder_identity);
            // The crate would clear a Lease that has ended whoever held it, also while another is just taking it.
            if holder.as_deref() == Some(&*self.election.identity) {
                self.manager().await?.release().await?;
            }
            Ok(())
        };
        timeout(GIVE_BACK, work)
            .await
            .unwrap_or_else(|_| Err(Failure::Failed(format!("no answer within {GIVE_BACK:?}"))))
    }

    async fn manager(&self) -> Result<LeaseManager, LeaseManagerError> {
        let Election { lease, identity, duration } = &self.election;
        let timing = Timing::new(*duration);
        let params =
            LeaseParams::new(identity, timing.duration, timing.grace).with_field_manager(manager_name(identity));
        LeaseManager::new(self.client.clone(), lease, &self.namespace, params, LeaseCreateMode::AutoCreate).await
    }
}

/// The name under which a replica applies the Lease: conflicts between these are what keeps two from taking it at once. The API server
/// takes 128 characters, and a pod's name may be longer.
fn manager_name(identity: &str) -> String {
    let name = format!("scrapetarget-exporter-{identity}");
    if name.len() <= 128 {
        name
    } else {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(identity);
        format!("scrapetarget-exporter-{hash:016x}")
    }
}

/// The crate waits for answers for ever, and does not tell which permission is missing. This client does not, and does.
fn bounded(cluster: Cluster, namespace: Arc<str>) -> Client {
    let default_namespace = namespace.to_string();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (cluster, namespace) = (cluster.clone(), Arc::clone(&namespace));
        async move {
            let verb = match *request.method() {
                Method::GET => "get",
                Method::POST => "create",
                _ => "patch",
            };
            let rule = Rule::new(verb, "coordination.k8s.io", "leases", Some(&namespace));
            let answer = async {
                let late = |_| Err(kube::Error::Service(format!("no answer within {CALL:?}").into()));
                timeout(CALL, ask(cluster.client(), request)).await.unwrap_or_else(late)
            };
            cluster.call(rule, answer).await
        }
    });
    Client::new(service, default_namespace)
}

/// A whole answer, in memory. A denial is an error, other refusals are for the crate to understand.
async fn ask(client: Client, request: Request<Body>) -> kube::Result<Response<Body>> {
    let (head, body) = client.send(request).await?.into_parts();
    let body = body.collect_bytes().await?;
    if head.status == 403 {
        let denied = || Status::failure("", "Forbidden").with_code(403);
        let status = serde_json::from_slice(&body).unwrap_or_else(|_| denied());
        return Err(kube::Error::Api(Box::new(status)));
    }
    Ok(Response::from_parts(head, Body::from(body)))
}

impl From<LeaseManagerError> for Failure {
    fn from(error: LeaseManagerError) -> Self {
        let api = match &error {
            LeaseManagerError::KubeError(kube::Error::Service(error)) => error.downcast_ref(),
            _ => None,
        };
        match api {
            Some(ApiError::Forbidden(_)) => Self::Denied,
            Some(error) => Self::Failed(error.to_string()),
            None => Self::Failed(error.to_string().replace('\n', " ")),
        }
    }
}
