//! Requests about ServiceMonitors. A write waits for the limiter of all writes, and is not sent by a replica that does not lead any more.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll, select_all};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};

use super::desired::{DesiredMonitor, MonitorRef};
use super::observed::{ObservedMonitor, ServiceMonitor};
use super::{GROUP, PLURAL, VERSION, labels};
use crate::k8s::client::{ApiClient, ApiError, PolicyRule};
use crate::k8s::leader::Leadership;
use crate::k8s::settings::Scope;
use crate::k8s::watch::{Collection, WatchConfig, WatchEvent, watch};
use crate::k8s::{Settings, Shared};

/// Objects in one page of a list. Any user who may write ServiceMonitors may give them our labels, and 1.5 MiB each.
const PAGE: u32 = 25;

/// Why a monitor was not written or deleted.
#[derive(Debug, PartialEq)]
pub(super) enum MonitorError {
    /// There is one of this name that somebody else wrote.
    NameTaken {
        owner: String,
    },
    /// Another replica leads.
    NotLeader,
    Api(ApiError),
}

impl From<ApiError> for MonitorError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// Writes monitors for as long as this replica leads. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct MonitorClient {
    pub(super) shared: Arc<Shared>,
    pub(super) leadership: Leadership,
}

impl MonitorClient {
    /// Applies `desired`. `uid` is that of our monitor, if there is one; otherwise it is read first, since a monitor that is somebody
    /// else's must not be changed.
    pub(super) async fn apply(
        &self,
        monitor: &MonitorRef,
        desired: &DesiredMonitor,
        mut uid: Option<String>,
    ) -> Result<ObservedMonitor, MonitorError> {
        self.shared.write_limiter.acquire().await;
        if uid.is_none() {
            match self.get(monitor).await {
                Ok(found) if !found.is_ours(&self.shared.settings) => {
                    return Err(MonitorError::NameTaken { owner: found.owner() });
                }
                Ok(found) if found.hash(desired) == desired.hash => return Ok(found),
                Ok(found) => uid = Some(found.uid),
                Err(ApiError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !self.leadership.may_write() {
            return Err(MonitorError::NotLeader);
        }
        let mut params = PatchParams::apply(labels::MANAGER);
        // Forced only for our own monitor: one that somebody else has created since the read must not be overwritten.
        params.force = uid.is_some();
        let manifest = Patch::Apply(desired.manifest(monitor, uid.as_deref()));
        let (api, rule) = self.api(monitor, "patch");
        let written = self.shared.client.call(rule, api.patch(&monitor.name, &params, &manifest)).await?;
        tracing::debug!(%monitor, "wrote the ServiceMonitor");
        Ok(written.into())
    }

    /// Deletes the monitor with this `uid`. It succeeds also if there is none, or another one of the same name.
    pub(super) async fn delete(&self, monitor: &MonitorRef, uid: String) -> Result<(), MonitorError> {
        self.shared.write_limiter.acquire().await;
        if !self.leadership.may_write() {
            return Err(MonitorError::NotLeader);
        }
        let (api, rule) = self.api(monitor, "delete");
        match self.shared.client.call(rule, api.delete(&monitor.name, &with_uid(uid))).await {
            Ok(_) => {
                tracing::debug!(%monitor, "removed the ServiceMonitor");
                Ok(())
            }
            Err(ApiError::NotFound | ApiError::Conflict(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn get(&self, monitor: &MonitorRef) -> Result<ObservedMonitor, ApiError> {
        let (api, rule) = self.api(monitor, "get");
        Ok(self.shared.client.call(rule, api.get(&monitor.name)).await?.into())
    }

    fn api(&self, monitor: &MonitorRef, verb: &'static str) -> (Api<ServiceMonitor>, PolicyRule) {
        let namespace = Some(&*monitor.namespace);
        (monitors(&self.shared.client, namespace), PolicyRule::new(verb, GROUP, PLURAL, namespace))
    }
}

/// The ServiceMonitors of one namespace, or of all.
pub(in crate::k8s) fn monitors(client: &ApiClient, namespace: Option<&str>) -> Api<ServiceMonitor> {
    match namespace {
        Some(namespace) => Api::namespaced(client.kube(), namespace),
        None => Api::all(client.kube()),
    }
}

/// Where monitors of ours can be: everywhere, or in each watched namespace and in our own.
pub(in crate::k8s) fn scopes(settings: &Settings) -> Vec<Scope> {
    let mut scopes = settings.watched();
    let own = Some(Arc::from(settings.namespace.as_str()));
    if !scopes.contains(&None) && !scopes.contains(&own) {
        scopes.push(own);
    }
    scopes
}

/// What the watch of one scope shows, with the index of the scope.
pub(super) type MonitorEvent = (usize, WatchEvent<ServiceMonitor>);

/// Watches the monitors of this release in `scopes`.
///
/// A monitor that was changed or deleted is seen within a minute, whatever the API server answers to the watch, as long as it lists.
pub(super) fn watch_monitors(
    client: &ApiClient,
    settings: &Settings,
    scopes: &[Scope],
) -> SelectAll<BoxStream<'static, MonitorEvent>> {
    let config = WatchConfig {
        label_selector: Some(labels::selector(settings)),
        page_size: PAGE,
        watch_timeout: Duration::from_secs(50),
        relist_after_silent_watch: true,
        failures_before_relist: 2,
        list_instead_of_watch: Duration::from_secs(30),
        longest_denied_backoff: Duration::from_mins(1),
        ..WatchConfig::default()
    };
    select_all(scopes.iter().enumerate().map(|(index, scope)| {
        let collection = Collection { group: GROUP, version: VERSION, resource: PLURAL, scope: scope.clone() };
        watch(client, collection, config.clone()).map(move |event| (index, event)).boxed()
    }))
}

/// Deletes the object with this `uid` and no other.
pub(in crate::k8s) fn with_uid(uid: String) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
        ..DeleteParams::default()
    }
}

/// A monitor that this release wrote.
#[derive(Debug)]
pub(in crate::k8s) struct OwnedMonitor {
    pub(in crate::k8s) monitor: MonitorRef,
    pub(in crate::k8s) uid: String,
}

/// Lists one page of the monitors that this release wrote, and returns the token of the next page.
pub(in crate::k8s) async fn list_page(
    client: &ApiClient,
    scope: &Scope,
    settings: &Settings,
    token: Option<String>,
) -> kube::Result<(Vec<OwnedMonitor>, Option<String>)> {
    let mut params = ListParams::default().labels(&labels::selector(settings)).limit(PAGE);
    params.continue_token = token;
    let page = monitors(client, scope.as_deref()).list(&params).await?;
    let next = page.metadata.continue_.filter(|token| !token.is_empty());
    let owned = page.items.into_iter().map(|ServiceMonitor { metadata, .. }| OwnedMonitor {
        monitor: MonitorRef {
            namespace: metadata.namespace.unwrap_or_default().into(),
            name: metadata.name.unwrap_or_default().into(),
        },
        uid: metadata.uid.unwrap_or_default(),
    });
    Ok((owned.collect(), next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::leader::tests::settings;
    use crate::k8s::watch::tests::{Requests, ScriptedAnswer, bookmark, scripted};

    /// The requests of the watch in ten minutes, if lists and watches are answered in this way.
    async fn in_ten_minutes(list: fn() -> ScriptedAnswer, watch: fn() -> ScriptedAnswer) -> Requests {
        let (client, requests) = scripted(move |_, request| if request.is_list() { list() } else { watch() });
        let events = watch_monitors(&client, &settings(), &[None]);
        let all = events.for_each(|_| std::future::ready(()));
        assert!(tokio::time::timeout(Duration::from_mins(10), all).await.is_err());
        requests
    }

    fn empty() -> ScriptedAnswer {
        ScriptedAnswer::Page(Vec::new(), "7", None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_watch_is_trusted_if_it_ends_with_a_bookmark() {
        let quiet = || ScriptedAnswer::Later(Duration::from_secs(50), vec![bookmark("8")]);
        let requests = in_ten_minutes(empty, quiet).await;
        assert_eq!((requests.lists(), requests.watches()), (1, 12));
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_not_be_listed_or_watched_is_requested_about_once_a_minute() {
        let denied = || ScriptedAnswer::Status(403);
        let listed = in_ten_minutes(denied, denied).await.lists();
        assert!((8..=24).contains(&listed), "{listed}");
        let watched = in_ten_minutes(empty, denied).await.watches();
        assert!((8..=24).contains(&watched), "{watched}");
        let failed = in_ten_minutes(|| ScriptedAnswer::Status(500), denied).await.lists();
        assert!((30..=90).contains(&failed), "{failed}");
    }
}
