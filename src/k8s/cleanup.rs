//! Removes the objects that a release wrote, before it is uninstalled or where it may not write any more. Garbage collection does not:
//! monitors are owned by targets, which survive the release.

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

/// The duration of the Lease: long enough to be renewed between two [`CHUNK`]s, and not longer, since a release that is installed right
/// afterwards waits for it.
const DURATION: Duration = Duration::from_secs(60);

/// The duration of the Lease after its last renewal: until the pods of the release are gone.
const LAST_DURATION: Duration = Duration::from_secs(30);

/// The prefix of the holder identity of a cleanup.
const IDENTITY_PREFIX: &str = "cleanup-";

/// Deletions between two renewals of the Lease, which take ten seconds.
const CHUNK: usize = 500;

/// A new Role takes effect within this time.
const ROLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The cleanup fails when pods of the release have acquired the Lease more often than this.
const MOST_LOSSES: u32 = 3;

/// Deletions in flight.
const IN_FLIGHT: usize = 8;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// ServiceMonitors.
    pub monitors: usize,
    /// Endpoints, with the slice of the same name.
    pub endpoints: usize,
}

/// Why not everything was removed. It may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// A permission is missing.
    #[error("{0}")]
    Forbidden(String),
    /// The API server or the network does not work.
    #[error("cannot {what}: {why}")]
    Unfinished {
        /// The step that failed.
        what: &'static str,
        /// The cause.
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

    fn lease_lost() -> Self {
        let why = "a pod of the release acquires it again: stop the pods first".to_owned();
        Self::Unfinished { what: "keep the Lease", why }
    }
}

/// Removes every ServiceMonitor, the Endpoints and the slice that the release of `settings` wrote.
///
/// It acquires the Lease first, so that the pods that still run do not write everything again.
pub async fn cleanup(client: &ApiClient, settings: &Settings) -> Result<Removed, CleanupError> {
    let lease = ReleaseLease { client, settings, api: Api::namespaced(client.kube(), &settings.namespace) };
    lease.acquire().await?;
    // Without the permission for monitors the Endpoints are removed all the same.
    let monitors = delete_monitors(client, settings, &lease).await;
    let endpoints = delete_endpoints::<Endpoints>(client, settings, "read the Endpoints", "delete the Endpoints").await;
    let slice =
        delete_endpoints::<EndpointSlice>(client, settings, "read the EndpointSlice", "delete the EndpointSlice").await;
    let removed = Removed { monitors: monitors?, endpoints: usize::from(endpoints? | slice?) };
    lease.write(LAST_DURATION).await?;
    Ok(removed)
}

/// Removes the ServiceMonitors that the release of `settings` wrote in the watched namespaces, but for those in `kept`. The release goes on:
/// this is for namespaces where it may write none any more, so that its pods need not be stopped. The Endpoints and the Lease are left
/// alone.
pub async fn cleanup_monitors(
    client: &ApiClient,
    settings: &Settings,
    kept: &[String],
) -> Result<Removed, CleanupError> {
    let begun = Instant::now();
    let mut found = loop {
        match find(client, settings, &settings.watched(), true).await {
            Err(CleanupError::Forbidden(_)) if begun.elapsed() < ROLE_TIMEOUT => {
                tokio::time::sleep(ROLE_TIMEOUT / 10).await;
            }
            found => break found?,
        }
    };
    found.retain(|ours| !kept.iter().any(|namespace| **namespace == *ours.monitor.namespace));
    let monitors = delete_found(client, &RateLimiter::new(WRITES_PER_SECOND), &found).await?;
    Ok(Removed { monitors, endpoints: 0 })
}

/// The Lease of the release, held by the cleanup.
struct ReleaseLease<'a> {
    client: &'a ApiClient,
    settings: &'a Settings,
    api: Api<Lease>,
}

impl ReleaseLease<'_> {
    /// Acquires the Lease, and renews it until no pod of the release can still consider itself the leader.
    async fn acquire(&self) -> Result<(), CleanupError> {
        let mut losses = 0;
        let mut wait = self.write(DURATION).await?;
        if !wait.is_zero() {
            tracing::info!(seconds = wait.as_secs(), "the leader may write until its Lease expires, waiting");
        }
        while !wait.is_zero() {
            let interval = wait.min(DURATION / 2);
            tokio::time::sleep(interval).await;
            let new_holder = self.write(DURATION).await?;
            if !new_holder.is_zero() {
                losses += 1;
                if losses > MOST_LOSSES {
                    return Err(CleanupError::lease_lost());
                }
            }
            wait = wait.saturating_sub(interval).max(new_holder);
        }
        Ok(())
    }

    /// Renews the Lease. It fails if a pod has acquired it in the meantime, which may have written monitors that were not found.
    async fn renew(&self) -> Result<(), CleanupError> {
        if self.write(DURATION).await?.is_zero() { Ok(()) } else { Err(CleanupError::lease_lost()) }
    }

    /// Acquires or renews the Lease, also while another replica holds it. Returns how long the former holder may still consider itself the
    /// leader.
    async fn write(&self, duration: Duration) -> Result<Duration, CleanupError> {
        let name = &self.settings.election.lease;
        let holder = format!("{IDENTITY_PREFIX}{}", self.settings.election.identity);
        let before = match self.client.call(self.rule("get"), self.api.get(name)).await {
            Ok(lease) => Some(lease.spec.unwrap_or_default()),
            Err(ApiError::NotFound) => None,
            Err(error) => return Err(CleanupError::new("read the Lease")(error)),
        };
        let now = Timestamp::now();
        let ours = LeaseSpec {
            holder_identity: Some(holder),
            lease_duration_seconds: i32::try_from(duration.as_secs()).ok(),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        };
        let Some(before) = before else {
            let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(ours) };
            let params = PostParams::default();
            let created = self.client.call(self.rule("create"), self.api.create(&params, &lease)).await;
            created.map_err(CleanupError::new("make the Lease"))?;
            return Ok(Duration::ZERO);
        };
        let patch = Patch::Merge(json!({ "spec": ours }));
        let params = PatchParams::default();
        let patched = self.client.call(self.rule("patch"), self.api.patch(name, &params, &patch)).await;
        patched.map_err(CleanupError::new("take the Lease"))?;
        Ok(remaining(&before))
    }

    fn rule(&self, verb: &'static str) -> PolicyRule {
        PolicyRule::new(verb, "coordination.k8s.io", "leases", Some(&self.settings.namespace))
    }
}

/// How long the holder of a Lease may still write: its whole duration, since the clocks of two machines cannot be compared.
fn remaining(lease: &LeaseSpec) -> Duration {
    // Another cleanup writes no objects, so it need not be waited for.
    let holder = lease.holder_identity.as_ref().filter(|holder| !holder.starts_with(IDENTITY_PREFIX));
    let seconds = holder.and(lease.renew_time.as_ref()).and(lease.lease_duration_seconds);
    Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default()).min(LONGEST_LEASE)
}

/// Deletes the monitors of the release, and returns their number.
async fn delete_monitors(
    client: &ApiClient,
    settings: &Settings,
    lease: &ReleaseLease<'_>,
) -> Result<usize, CleanupError> {
    // The other modes have no permission for monitors, and write none.
    let must_list = settings.discovery.mode == DiscoveryMode::ServiceMonitor;
    let found = find(client, settings, &scopes(settings), must_list).await?;
    let limiter = RateLimiter::new(WRITES_PER_SECOND);
    let mut removed = 0;
    for chunk in found.chunks(CHUNK) {
        lease.renew().await?;
        removed += delete_found(client, &limiter, chunk).await?;
    }
    Ok(removed)
}

async fn delete_found(
    client: &ApiClient,
    limiter: &RateLimiter,
    found: &[OwnedMonitor],
) -> Result<usize, CleanupError> {
    let deletions = futures::stream::iter(found).map(|ours| delete_monitor(client, limiter, ours));
    let deleted: Vec<bool> = deletions.buffer_unordered(IN_FLIGHT).try_collect().await?;
    Ok(deleted.into_iter().filter(|deleted| *deleted).count())
}

/// Lists the monitors of the release in `scopes`. A missing permission is an error only with `must_list`.
async fn find(
    client: &ApiClient,
    settings: &Settings,
    scopes: &[Scope],
    must_list: bool,
) -> Result<Vec<OwnedMonitor>, CleanupError> {
    let mut found = Vec::new();
    for scope in scopes {
        let mut token = None;
        loop {
            let rule = PolicyRule::new("list", GROUP, PLURAL, scope.as_deref());
            match client.call(rule, list_page(client, scope, settings, token.take())).await {
                Ok((ours, next)) => {
                    found.extend(ours);
                    token = next;
                }
                // Without the Operator there are no monitors.
                Err(ApiError::NotFound) => {}
                Err(ApiError::Forbidden(_)) if !must_list => {
                    tracing::info!("ServiceMonitors of another --discovery.mode, if any, are kept");
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

/// Deletes one monitor. Returns whether it existed.
async fn delete_monitor(client: &ApiClient, limiter: &RateLimiter, ours: &OwnedMonitor) -> Result<bool, CleanupError> {
    limiter.acquire().await;
    let namespace = Some(&*ours.monitor.namespace);
    let rule = PolicyRule::new("delete", GROUP, PLURAL, namespace);
    let api = monitors(client, namespace);
    match client.call(rule, api.delete(&ours.monitor.name, &with_uid(ours.uid.clone()))).await {
        Ok(_) => Ok(true),
        // An object with another uid was created after the list.
        Err(ApiError::NotFound | ApiError::Conflict(_)) => Ok(false),
        Err(error) => Err(CleanupError::new("delete a ServiceMonitor")(error)),
    }
}

/// Deletes the Endpoints or the slice of the Service. Returns whether it existed and was ours.
async fn delete_endpoints<K>(
    client: &ApiClient,
    settings: &Settings,
    read: &'static str,
    remove: &'static str,
) -> Result<bool, CleanupError>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + k8s_openapi::Resource,
    K: Clone + std::fmt::Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.kube(), &settings.namespace);
    let name = &settings.discovery.service;
    let rule = |verb| PolicyRule::new(verb, K::GROUP, K::URL_PATH_SEGMENT, Some(&settings.namespace));
    let found = match client.call(rule("get"), api.get(name)).await {
        Ok(found) => found.meta().clone(),
        Err(ApiError::NotFound) => return Ok(false),
        Err(error) => return Err(CleanupError::new(read)(error)),
    };
    let labels = found.labels.unwrap_or_default();
    let ours =
        labels::of_release(settings).into_iter().all(|(key, value)| labels.get(key).is_some_and(|is| is == value));
    let Some(uid) = found.uid.filter(|_| ours) else { return Ok(false) };
    match client.call(rule("delete"), api.delete(name, &with_uid(uid))).await {
        Ok(_) => Ok(true),
        Err(ApiError::NotFound | ApiError::Conflict(_)) => Ok(false),
        Err(error) => Err(CleanupError::new(remove)(error)),
    }
}

#[cfg(test)]
mod tests;
