//! Removes what a release wrote, before it is uninstalled or where it may not write any more. Monitors are owned by targets, and targets
//! survive the release.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use super::client::{ApiError, PolicyRule};
use super::labels;
use super::leader::LONGEST_LEASE;
use super::monitor::{GROUP, OwnedMonitor, PLURAL, list_page, monitors, scopes, with_uid};
use super::rate_limiter::RateLimiter;
use super::settings::Scope;
use super::{ApiClient, DiscoveryMode, Settings, WRITES_PER_SECOND};

/// How long the Lease is ours at a time: long enough to be renewed between two [`CHUNK`]s, and a release that is installed right
/// afterwards does not wait longer for it.
const TERM: Duration = Duration::from_secs(60);

/// How long it stays ours in the end: until the pods of the release are gone.
const LAST_TERM: Duration = Duration::from_secs(30);

/// Our name in the Lease begins like this.
const CLEANUP: &str = "cleanup-";

/// Deletions between two renewals of the Lease: ten seconds' worth.
const CHUNK: usize = 500;

/// A permission that was given a moment ago is not known to the API server at once.
const NEW_ROLE: Duration = Duration::from_secs(10);

/// So many others may take the Lease while we wait for it.
const MOST_RIVALS: u32 = 3;

/// Deletions under way at the same time.
const IN_FLIGHT: usize = 8;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// ServiceMonitors.
    pub monitors: usize,
    /// Endpoints, with the slice of the same name.
    pub endpoints: usize,
}

/// Why not all was removed. It may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// Of whoever installed us: a permission is missing.
    #[error("{0}")]
    Forbidden(String),
    /// Of the API server, or of the way to it.
    #[error("cannot {what}: {why}")]
    Unfinished {
        /// What was tried.
        what: &'static str,
        /// What came of it.
        why: String,
    },
}

impl CleanupError {
    fn new(what: &'static str) -> impl Fn(ApiError) -> Self {
        move |error| match error {
            ApiError::Forbidden(rule) => Self::Forbidden(rule.to_string()),
            error => Self::Unfinished { what, why: error.to_string() },
        }
    }

    fn outrun() -> Self {
        let why = "a pod of the release takes it again: stop the pods first".to_owned();
        Self::Unfinished { what: "keep the Lease", why }
    }
}

/// Removes every ServiceMonitor, the Endpoints and the slice that the release of `settings` wrote.
///
/// It takes the Lease first, so that the pods that still run do not write it all again.
pub async fn cleanup(cluster: &ApiClient, settings: &Settings) -> Result<Removed, CleanupError> {
    let lock = Lock { cluster, settings, api: Api::namespaced(cluster.client(), &settings.namespace) };
    lock.win().await?;
    // A permission on monitors that is missing keeps nobody from the Endpoints.
    let monitors = delete_monitors(cluster, settings, &lock).await;
    let endpoints = delete_behind::<Endpoints>(cluster, settings, "read the Endpoints", "delete the Endpoints").await;
    let slice =
        delete_behind::<EndpointSlice>(cluster, settings, "read the EndpointSlice", "delete the EndpointSlice").await;
    let removed = Removed { monitors: monitors?, endpoints: usize::from(endpoints? | slice?) };
    lock.take(LAST_TERM).await?;
    Ok(removed)
}

/// Removes the ServiceMonitors that the release of `settings` wrote in the watched namespaces, but for those in `kept`. The release goes on:
/// this is for namespaces where it may write none any more, so that its pods need not be stopped. The Endpoints and the Lease are left
/// alone.
pub async fn cleanup_monitors(
    cluster: &ApiClient,
    settings: &Settings,
    kept: &[String],
) -> Result<Removed, CleanupError> {
    let begun = Instant::now();
    let mut found = loop {
        match find(cluster, settings, &settings.watched(), true).await {
            Err(CleanupError::Forbidden(_)) if begun.elapsed() < NEW_ROLE => tokio::time::sleep(NEW_ROLE / 10).await,
            found => break found?,
        }
    };
    found.retain(|ours| !kept.iter().any(|namespace| **namespace == *ours.monitor.namespace));
    let monitors = delete(cluster, &RateLimiter::new(WRITES_PER_SECOND), &found).await?;
    Ok(Removed { monitors, endpoints: 0 })
}

/// The Lease of the release.
struct Lock<'a> {
    cluster: &'a ApiClient,
    settings: &'a Settings,
    api: Api<Lease>,
}

impl Lock<'_> {
    /// Takes the Lease, and keeps it until nobody else can believe to have it.
    async fn win(&self) -> Result<(), CleanupError> {
        let mut rivals = 0;
        let mut rest = self.take(TERM).await?;
        if !rest.is_zero() {
            tracing::info!(seconds = rest.as_secs(), "the leader may write until its Lease would have ended, waiting");
        }
        while !rest.is_zero() {
            let slice = rest.min(TERM / 2);
            tokio::time::sleep(slice).await;
            let rival = self.take(TERM).await?;
            if !rival.is_zero() {
                rivals += 1;
                if rivals > MOST_RIVALS {
                    return Err(CleanupError::outrun());
                }
            }
            rest = rest.saturating_sub(slice).max(rival);
        }
        Ok(())
    }

    /// Renews the Lease. Who took it meanwhile may have written what was not found.
    async fn renew(&self) -> Result<(), CleanupError> {
        if self.take(TERM).await?.is_zero() { Ok(()) } else { Err(CleanupError::outrun()) }
    }

    /// Takes the Lease, whoever holds it. Returns how long the one who held it may still believe so.
    async fn take(&self, term: Duration) -> Result<Duration, CleanupError> {
        let name = &self.settings.election.lease;
        let holder = format!("{CLEANUP}{}", self.settings.election.identity);
        let before = match self.cluster.call(self.rule("get"), self.api.get(name)).await {
            Ok(lease) => Some(lease.spec.unwrap_or_default()),
            Err(ApiError::NotFound) => None,
            Err(error) => return Err(CleanupError::new("read the Lease")(error)),
        };
        let now = Timestamp::now();
        let ours = LeaseSpec {
            holder_identity: Some(holder),
            lease_duration_seconds: i32::try_from(term.as_secs()).ok(),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        };
        let Some(before) = before else {
            let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(ours) };
            let how = PostParams::default();
            let created = self.cluster.call(self.rule("create"), self.api.create(&how, &lease)).await;
            created.map_err(CleanupError::new("make the Lease"))?;
            return Ok(Duration::ZERO);
        };
        let patch = Patch::Merge(json!({ "spec": ours }));
        let how = PatchParams::default();
        let patched = self.cluster.call(self.rule("patch"), self.api.patch(name, &how, &patch)).await;
        patched.map_err(CleanupError::new("take the Lease"))?;
        Ok(remaining(&before))
    }

    fn rule(&self, verb: &'static str) -> PolicyRule {
        PolicyRule::new(verb, "coordination.k8s.io", "leases", Some(&self.settings.namespace))
    }
}

/// How long the one who holds a Lease may write: as long as if it had renewed it this moment, since clocks differ.
fn remaining(lease: &LeaseSpec) -> Duration {
    // Nobody, or another cleanup: that writes nothing that would have to be removed.
    let holder = lease.holder_identity.as_ref().filter(|holder| !holder.starts_with(CLEANUP));
    let seconds = holder.and(lease.renew_time.as_ref()).and(lease.lease_duration_seconds);
    Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default()).min(LONGEST_LEASE)
}

/// Returns how many there were.
async fn delete_monitors(cluster: &ApiClient, settings: &Settings, lock: &Lock<'_>) -> Result<usize, CleanupError> {
    // The other modes need no permission on monitors, and write none.
    let must_list = settings.discovery.mode == DiscoveryMode::ServiceMonitor;
    let found = find(cluster, settings, &scopes(settings), must_list).await?;
    let limiter = RateLimiter::new(WRITES_PER_SECOND);
    let mut removed = 0;
    for chunk in found.chunks(CHUNK) {
        lock.renew().await?;
        removed += delete(cluster, &limiter, chunk).await?;
    }
    Ok(removed)
}

async fn delete(cluster: &ApiClient, limiter: &RateLimiter, found: &[OwnedMonitor]) -> Result<usize, CleanupError> {
    let deletions = futures::stream::iter(found).map(|ours| delete_monitor(cluster, limiter, ours));
    let deleted: Vec<bool> = deletions.buffer_unordered(IN_FLIGHT).try_collect().await?;
    Ok(deleted.into_iter().filter(|deleted| *deleted).count())
}

/// Lists what the release wrote in `scopes`. Where it may not, that is an error only if it must.
async fn find(
    cluster: &ApiClient,
    settings: &Settings,
    scopes: &[Scope],
    must_list: bool,
) -> Result<Vec<OwnedMonitor>, CleanupError> {
    let mut found = Vec::new();
    for scope in scopes {
        let mut token = None;
        loop {
            let rule = PolicyRule::new("list", GROUP, PLURAL, scope.as_deref());
            match cluster.call(rule, list_page(cluster, scope, settings, token.take())).await {
                Ok((ours, next)) => {
                    found.extend(ours);
                    token = next;
                }
                // Without the Operator there are no monitors.
                Err(ApiError::NotFound) => {}
                Err(ApiError::Forbidden(_)) if !must_list => {
                    tracing::info!("ServiceMonitors of another --discovery.mode, if there are any, stay");
                }
                Err(error) => return Err(CleanupError::new("list ServiceMonitors")(error)),
            }
            if token.is_none() {
                break;
            }
        }
    }
    Ok(found)
}

/// Returns whether it was there.
async fn delete_monitor(cluster: &ApiClient, limiter: &RateLimiter, ours: &OwnedMonitor) -> Result<bool, CleanupError> {
    limiter.acquire().await;
    let namespace = Some(&*ours.monitor.namespace);
    let rule = PolicyRule::new("delete", GROUP, PLURAL, namespace);
    let api = monitors(cluster, namespace);
    match cluster.call(rule, api.delete(&ours.monitor.name, &with_uid(ours.uid.clone()))).await {
        Ok(_) => Ok(true),
        // Another one of that name is not the one that was found.
        Err(ApiError::NotFound | ApiError::Conflict(_)) => Ok(false),
        Err(error) => Err(CleanupError::new("delete a ServiceMonitor")(error)),
    }
}

/// Deletes what says that a replica is behind the Service. Returns whether it was there, and ours.
async fn delete_behind<K>(
    cluster: &ApiClient,
    settings: &Settings,
    read: &'static str,
    remove: &'static str,
) -> Result<bool, CleanupError>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + k8s_openapi::Resource,
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(cluster.client(), &settings.namespace);
    let name = &settings.discovery.service;
    let rule = |verb| PolicyRule::new(verb, K::GROUP, K::URL_PATH_SEGMENT, Some(&settings.namespace));
    let found = match cluster.call(rule("get"), api.get(name)).await {
        Ok(found) => found.meta().clone(),
        Err(ApiError::NotFound) => return Ok(false),
        Err(error) => return Err(CleanupError::new(read)(error)),
    };
    let labels = found.labels.unwrap_or_default();
    let ours =
        labels::of_release(settings).into_iter().all(|(key, value)| labels.get(key).is_some_and(|is| is == value));
    let Some(uid) = found.uid.filter(|_| ours) else { return Ok(false) };
    match cluster.call(rule("delete"), api.delete(name, &with_uid(uid))).await {
        Ok(_) => Ok(true),
        Err(ApiError::NotFound | ApiError::Conflict(_)) => Ok(false),
        Err(error) => Err(CleanupError::new(remove)(error)),
    }
}

#[cfg(test)]
mod tests;
