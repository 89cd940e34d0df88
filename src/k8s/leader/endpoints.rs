//! The Endpoints and the slice that make the leader the only endpoint of the Service that Prometheus scrapes.
//!
//! Both are written, since the Prometheus Operator still reads the Endpoints by default, and kube-proxy and newer discovery read the slice.
//! Where the slice cannot be written, Kubernetes mirrors the Endpoints, so that there is always exactly one slice. Neither is removed when
//! the leadership is lost: the next leader overwrites our address with its own, so that every scrape finds an endpoint.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice};
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Leadership;
use crate::k8s::client::{ApiError, BELIEVED_DENIALS, PolicyRule};
use crate::k8s::watch::{DENIED_RETRY, ObjectEvent, WatchedObject, watch_object};
use crate::k8s::{Settings, Shared, labels};

/// The name of the port, to which ServiceMonitors refer.
const PORT: &str = "http";
/// The label of Endpoints that Kubernetes must not mirror, since we write the slice.
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// The label of a slice with the name of its Service.
const SERVICE: &str = "kubernetes.io/service-name";
/// The label of a slice with the name of its writer. The controllers of Kubernetes only change slices with their own names.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// The object is read again when the watch has shown nothing for this long. It rarely changes, so that silence is normal.
const SILENCE: Duration = Duration::from_mins(5);
/// The interval between two writes, which doubles while another writer changes the object too.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_INTERVAL: Duration = Duration::from_secs(30);
/// At this interval it is logged that another writer changes the object too.
const CONFLICT_INTERVAL: Duration = Duration::from_secs(8);
/// The delay after a write that failed but may succeed next time.
const RETRY: Duration = Duration::from_secs(2);

/// Writes `address` into the Endpoints while this replica leads, until `stop`. `has_slice`: whether the slice is written.
pub(super) async fn keep_endpoints(
    shared: Arc<Shared>,
    address: SocketAddr,
    mut leadership: Leadership,
    mut has_slice: watch::Receiver<bool>,
    stop: CancellationToken,
) -> &'static str {
    let mut writer = EndpointsWriter::new(&shared, leadership.clone(), &|_| {});
    let work = async {
        loop {
            let desired = desired_endpoints(&shared.settings, address, *has_slice.borrow_and_update());
            leadership.granted().await;
            tokio::select! {
                () = leadership.lost() => {}
                () = writer.keep(&desired) => {}
                Ok(()) = has_slice.changed() => {}
            }
        }
    };
    stop.run_until_cancelled(work).await;
    "the writer of Endpoints"
}

/// Writes `address` into the slice while this replica leads, until `stop`, and publishes in `written` whether it is there.
pub(super) async fn keep_slice(
    shared: Arc<Shared>,
    address: SocketAddr,
    mut leadership: Leadership,
    written: watch::Sender<bool>,
    stop: CancellationToken,
) -> &'static str {
    let report = |is_written: bool| {
        written.send_if_modified(|before| std::mem::replace(before, is_written) != is_written);
    };
    let mut writer = EndpointsWriter::new(&shared, leadership.clone(), &report);
    let desired = desired_slice(&shared.settings, address);
    let work = async {
        loop {
            leadership.granted().await;
            tokio::select! {
                () = leadership.lost() => {}
                () = writer.keep(&desired) => {}
            }
        }
    };
    stop.run_until_cancelled(work).await;
    "the writer of the EndpointSlice"
}

/// The labels of both objects.
fn common_labels(settings: &Settings) -> BTreeMap<String, String> {
    let labels = labels::of_release(settings).into_iter().chain([(labels::PROBE, settings.release.as_str())]);
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn desired_endpoints(settings: &Settings, address: SocketAddr, has_slice: bool) -> Endpoints {
    let mut labels = common_labels(settings);
    if has_slice {
        labels.insert(SKIP_MIRROR.to_owned(), "true".to_owned());
    }
    let port = EndpointPort {
        name: Some(PORT.to_owned()),
        port: address.port().into(),
        protocol: Some("TCP".to_owned()),
        ..EndpointPort::default()
    };
    let address = EndpointAddress { ip: address.ip().to_string(), ..EndpointAddress::default() };
    let subset =
        EndpointSubset { addresses: Some(vec![address]), ports: Some(vec![port]), ..EndpointSubset::default() };
    Endpoints { metadata: metadata(settings, labels), subsets: Some(vec![subset]) }
}

fn desired_slice(settings: &Settings, address: SocketAddr) -> EndpointSlice {
    let mut labels = common_labels(settings);
    labels.insert(SERVICE.to_owned(), settings.discovery.service.clone());
    labels.insert(MANAGED_BY.to_owned(), labels::MANAGER.to_owned());
    let conditions = EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) };
    let port = SlicePort {
        name: Some(PORT.to_owned()),
        port: Some(address.port().into()),
        protocol: Some("TCP".to_owned()),
        ..SlicePort::default()
    };
    EndpointSlice {
        metadata: metadata(settings, labels),
        address_type: if address.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
        endpoints: vec![Endpoint {
            addresses: vec![address.ip().to_string()],
            conditions: Some(conditions),
            ..Endpoint::default()
        }],
        ports: Some(vec![port]),
    }
}

/// Both objects have the name of the Service. The slices that Kubernetes creates have a suffix.
fn metadata(settings: &Settings, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(settings.discovery.service.clone()),
        namespace: Some(settings.namespace.clone()),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

/// One of the two objects.
trait ServiceEndpoints:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + k8s_openapi::Resource
    + WatchedObject
    + Serialize
    + Sync
{
    /// Whether the Service has the same endpoints.
    fn has_same_endpoints(&self, desired: &Self) -> bool;
}

impl ServiceEndpoints for Endpoints {
    fn has_same_endpoints(&self, desired: &Self) -> bool {
        self.subsets == desired.subsets
    }
}

impl ServiceEndpoints for EndpointSlice {
    fn has_same_endpoints(&self, desired: &Self) -> bool {
        (&self.address_type, &self.endpoints, &self.ports)
            == (&desired.address_type, &desired.endpoints, &desired.ports)
    }
}

/// Whether nothing of ours is missing or different. Others may add labels and annotations, but no address.
fn is_as_desired<K: ServiceEndpoints>(observed: &K, desired: &K) -> bool {
    let label = |of: &K, key: &str| of.meta().labels.as_ref().and_then(|labels| labels.get(key)).cloned();
    let ours = desired.meta().labels.iter().flatten().map(|(key, _)| key.as_str()).chain([SKIP_MIRROR]);
    observed.has_same_endpoints(desired) && ours.into_iter().all(|key| label(observed, key) == label(desired, key))
}

/// The state of the object, from its watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndpointsState {
    Correct,
    Wrong,
    /// The permission to read it is missing. It is applied nevertheless: an apply that changes nothing is no write.
    Unreadable,
}

/// Keeps one of the two objects as desired while we lead.
struct EndpointsWriter<'a> {
    shared: &'a Shared,
    leadership: Leadership,
    /// Called with `true` when the object is as desired, with `false` when it cannot be written.
    report: &'a (dyn Fn(bool) + Send + Sync),
    interval: Duration,
    /// Denials in a row.
    denials: u32,
    /// The last refusal of the API server that was logged.
    refusal: Option<String>,
}

impl<'a> EndpointsWriter<'a> {
    fn new(shared: &'a Shared, leadership: Leadership, report: &'a (dyn Fn(bool) + Send + Sync)) -> Self {
        Self { shared, leadership, report, interval: SHORTEST_INTERVAL, denials: 0, refusal: None }
    }

    /// Writes the object whenever it is not as desired, until it is dropped.
    async fn keep<K: ServiceEndpoints>(&mut self, desired: &K) {
        // The first write after this replica has become the leader replaces the address of the former leader, which is no conflict.
        self.interval = SHORTEST_INTERVAL;
        let (state, states) = watch::channel(EndpointsState::Correct);
        let Settings { namespace, discovery, .. } = &self.shared.settings;
        let report = self.report;
        let observe = async |event| match event {
            ObjectEvent::Observed(observed) => {
                let is_correct = observed.is_some_and(|observed: K| is_as_desired(&observed, desired));
                if is_correct {
                    report(true);
                }
                state.send_replace(if is_correct { EndpointsState::Correct } else { EndpointsState::Wrong });
            }
            ObjectEvent::Denied => {
                state.send_replace(EndpointsState::Unreadable);
            }
            // The last observed state is kept.
            ObjectEvent::Failed(_) => {}
        };
        tokio::select! {
            () = watch_object(&self.shared.client, namespace, &discovery.service, SILENCE).for_each(observe) => {}
            () = self.correct(desired, states) => {}
        }
    }

    async fn correct<K: ServiceEndpoints>(&mut self, desired: &K, mut states: watch::Receiver<EndpointsState>) {
        let mut last_write = Instant::now();
        loop {
            let state = *states.borrow_and_update();
            if state == EndpointsState::Correct {
                if states.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if last_write.elapsed() > LONGEST_INTERVAL {
                self.interval = SHORTEST_INTERVAL;
            }
            sleep(self.write(desired, state).await).await;
            last_write = Instant::now();
        }
    }

    /// Writes once. Returns how long to wait before the next write.
    async fn write<K: ServiceEndpoints>(&mut self, desired: &K, state: EndpointsState) -> Duration {
        let Settings { namespace, discovery, .. } = &self.shared.settings;
        let api = Api::<K>::namespaced(self.shared.client.kube(), namespace);
        let (params, patch) = (PatchParams::apply(labels::MANAGER).force(), Patch::Apply(desired));
        self.shared.write_limiter.acquire().await;
        if !self.leadership.may_write() {
            return RETRY;
        }
        let rule = PolicyRule::new("patch", K::GROUP, K::URL_PATH_SEGMENT, Some(namespace));
        let written = api.patch(&discovery.service, &params, &patch);
        match self.shared.client.call(rule, written).await {
            Ok(_) => {
                tracing::debug!(endpoints = discovery.service, "{} written", K::KIND);
                (self.report)(true);
                self.refusal = None;
                self.denials = 0;
                if state == EndpointsState::Unreadable {
                    return DENIED_RETRY;
                }
                let interval = self.interval;
                self.interval = (interval * 2).min(LONGEST_INTERVAL);
                if interval == CONFLICT_INTERVAL {
                    tracing::warn!(
                        endpoints = discovery.service,
                        "another client also writes the {}: a Service of this name with a selector, or another release",
                        K::KIND
                    );
                }
                interval
            }
            Err(ApiError::Forbidden(_)) => {
                (self.report)(false);
                self.denials += 1;
                if self.denials < BELIEVED_DENIALS { RETRY } else { DENIED_RETRY }
            }
            Err(ApiError::Refused(error)) => {
                (self.report)(false);
                if self.refusal.as_ref() != Some(&error) {
                    tracing::warn!(
                        endpoints = discovery.service,
                        error,
                        "the API server rejects the {}: --advertise-address must be an address at which Prometheus reaches this replica, \
                         not loopback",
                        K::KIND
                    );
                    self.refusal = Some(error);
                }
                DENIED_RETRY
            }
            Err(error) => {
                tracing::debug!(endpoints = discovery.service, %error, "{} not written", K::KIND);
                RETRY
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed() -> Endpoints {
        let mut observed = desired();
        observed.metadata.resource_version = Some("7".to_owned());
        observed.metadata.labels.as_mut().unwrap().insert("team".to_owned(), "media".to_owned());
        observed
    }

    fn desired() -> Endpoints {
        let settings = crate::k8s::leader::tests::settings();
        desired_endpoints(&settings, "10.0.0.7:9850".parse().unwrap(), true)
    }

    #[test]
    fn what_others_add_to_ours_is_left_alone() {
        assert!(is_as_desired(&observed(), &desired()));
    }

    #[test]
    fn a_missing_label_and_any_other_address_are_corrected() {
        let mut unlabelled = observed();
        unlabelled.metadata.labels.as_mut().unwrap().remove(labels::PROBE);
        assert!(!is_as_desired(&unlabelled, &desired()));

        let mut more = observed();
        let addresses = more.subsets.as_mut().unwrap()[0].addresses.as_mut().unwrap();
        addresses.push(EndpointAddress { ip: "10.0.0.8".to_owned(), ..EndpointAddress::default() });
        assert!(!is_as_desired(&more, &desired()));

        let none = Endpoints { subsets: None, ..observed() };
        assert!(!is_as_desired(&none, &desired()));
    }

    #[test]
    fn kubernetes_mirrors_them_exactly_where_there_is_no_slice_of_ours() {
        let settings = crate::k8s::leader::tests::settings();
        let alone = desired_endpoints(&settings, "10.0.0.7:9850".parse().unwrap(), false);
        assert!(!alone.metadata.labels.as_ref().unwrap().contains_key(SKIP_MIRROR));
        assert_eq!(desired().metadata.labels.unwrap()[SKIP_MIRROR], "true");
        assert!(!is_as_desired(&alone, &desired()) && !is_as_desired(&desired(), &alone));
    }

    fn slice(address: &str) -> EndpointSlice {
        desired_slice(&crate::k8s::leader::tests::settings(), address.parse().unwrap())
    }

    #[test]
    fn the_slice_belongs_to_the_service_and_to_no_controller_of_kubernetes() {
        let slice = slice("[fd00::7]:9850");
        let labels = slice.metadata.labels.as_ref().unwrap();
        assert_eq!([&labels[SERVICE], &labels[MANAGED_BY]], ["st-probe", "scrapetarget-exporter"]);
        assert_eq!((slice.address_type.as_str(), &*slice.endpoints[0].addresses[0]), ("IPv6", "fd00::7"));
    }

    #[test]
    fn another_address_or_owner_of_the_slice_is_corrected_and_what_others_add_is_left_alone() {
        let desired = slice("10.0.0.7:9850");
        let mut observed = desired.clone();
        observed.metadata.labels.as_mut().unwrap().insert("team".to_owned(), "media".to_owned());
        assert!(is_as_desired(&observed, &desired));
        assert!(!is_as_desired(&slice("10.0.0.8:9850"), &desired));
        observed.metadata.labels.as_mut().unwrap().insert(MANAGED_BY.to_owned(), "somebody".to_owned());
        assert!(!is_as_desired(&observed, &desired));
    }
}
