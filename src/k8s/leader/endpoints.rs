//! The Endpoints that make the leader the only one behind the Service that Prometheus scrapes: the older of two forms, which the
//! Prometheus Operator still reads by default. The newer one is in [`super::endpoint_slice`].
//!
//! They stay when the lead is lost: the next leader writes its own address over ours, and no scrape falls between the two.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::super::Shared;
use super::super::client::{ApiError, BELIEVED_DENIALS, PolicyRule};
use super::super::labels;
use super::super::settings::Settings;
use super::super::watch::{DENIED_RETRY, ObjectEvent, WatchedObject, watch_object};
use super::Leadership;

/// The port that ServiceMonitors name.
pub(super) const PORT: &str = "http";

/// On Endpoints that Kubernetes must not mirror, since the slice is there already.
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";

/// A watch is ended by the server, or given up by the client, before this: only one that died without a word is begun anew by a list.
const SILENCE: Duration = Duration::from_mins(5);
/// Between two writes. It doubles while somebody else writes them too, so that no fight is fast.
const GAP: Duration = Duration::from_secs(1);
const LONGEST_GAP: Duration = Duration::from_secs(30);
/// From this gap on it is a fight, which somebody must end.
const FIGHT: Duration = Duration::from_secs(8);
/// After a write that failed but may succeed next time.
const RETRY: Duration = Duration::from_secs(2);

/// Writes `address` into the Endpoints whenever this replica leads, until told to stop. `sliced`: whether the slice is written as well.
pub(super) async fn run(
    shared: Arc<Shared>,
    address: SocketAddr,
    mut leadership: Leadership,
    mut sliced: watch::Receiver<bool>,
    stop: CancellationToken,
) -> &'static str {
    let is_sliced = *sliced.borrow_and_update();
    let wanted = |is_sliced| wanted(&shared.settings, address, is_sliced);
    let mut writer = Writer::new(&shared, wanted(is_sliced), leadership.clone(), &|_| {});
    let work = async {
        loop {
            leadership.granted().await;
            tokio::select! {
                () = leadership.lost() => {}
                () = writer.keep() => {}
                Ok(()) = sliced.changed() => {}
            }
            let is_sliced = *sliced.borrow_and_update();
            writer.wanted = wanted(is_sliced);
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
    "the writer of Endpoints"
}

/// The labels of both forms.
pub(super) fn labelled(settings: &Settings) -> BTreeMap<String, String> {
    let labels = labels::of_release(settings).into_iter().chain([(labels::PROBE, settings.release.as_str())]);
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// What they must be.
fn wanted(settings: &Settings, address: SocketAddr, is_sliced: bool) -> Endpoints {
    let mut labels = labelled(settings);
    if is_sliced {
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
    Endpoints {
        metadata: ObjectMeta {
            name: Some(settings.discovery.service.clone()),
            namespace: Some(settings.namespace.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        subsets: Some(vec![subset]),
    }
}

/// One of the two forms in which Kubernetes is told what is behind a Service.
pub(super) trait Form:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + k8s_openapi::Resource
    + WatchedObject
    + Serialize
    + Sync
{
    /// Whether the same addresses are behind the Service.
    fn leads_where(&self, wanted: &Self) -> bool;
}

impl Form for Endpoints {
    fn leads_where(&self, wanted: &Self) -> bool {
        self.subsets == wanted.subsets
    }
}

/// Whether nothing of ours is missing or different. Others may add labels and annotations, but no address.
pub(super) fn is_as_wanted<K: Form>(seen: &K, wanted: &K) -> bool {
    let label = |of: &K, key: &str| of.meta().labels.as_ref().and_then(|labels| labels.get(key)).cloned();
    let ours = wanted.meta().labels.iter().flatten().map(|(key, _)| key.as_str()).chain([SKIP_MIRROR]);
    seen.leads_where(wanted) && ours.into_iter().all(|key| label(seen, key) == label(wanted, key))
}

/// What is known about the Endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Right,
    Wrong,
    /// We may not look. They are written blindly: an apply that changes nothing is no write.
    Unseen,
}

/// Keeps one form while we lead.
pub(super) struct Writer<'a, K> {
    shared: &'a Shared,
    wanted: K,
    leadership: Leadership,
    /// Told whether it is written, or why ever not taken.
    tell: &'a (dyn Fn(bool) + Send + Sync),
    gap: Duration,
    /// Denials in a row.
    denials: u32,
    /// Why the API server did not take them, once that is told.
    refused: Option<String>,
}

impl<'a, K: Form> Writer<'a, K> {
    pub(super) fn new(
        shared: &'a Shared,
        wanted: K,
        leadership: Leadership,
        tell: &'a (dyn Fn(bool) + Send + Sync),
    ) -> Self {
        Self { shared, wanted, leadership, tell, gap: GAP, denials: 0, refused: None }
    }

    /// Puts it right whenever it is not, until it is dropped.
    pub(super) async fn keep(&mut self) {
        // The write with which a term begins goes over the address of the one who led before, and is no fight.
        self.gap = GAP;
        let (found, looks) = watch::channel(Found::Right);
        let Settings { namespace, discovery, .. } = &self.shared.settings;
        let (wanted, tell) = (self.wanted.clone(), self.tell);
        let show = async |event| match event {
            ObjectEvent::Observed(seen) => {
                let right = seen.is_some_and(|seen: K| is_as_wanted(&seen, &wanted));
                if right {
                    tell(true);
                }
                found.send_replace(if right { Found::Right } else { Found::Wrong });
            }
            ObjectEvent::Denied => {
                found.send_replace(Found::Unseen);
            }
            // What was seen last holds until more is known.
            ObjectEvent::Failed(_) => {}
        };
        tokio::select! {
            () = watch_object(&self.shared.cluster, namespace, &discovery.service, SILENCE).for_each(show) => {}
            () = self.correct(looks) => {}
        }
    }

    async fn correct(&mut self, mut looks: watch::Receiver<Found>) {
        let mut quiet = Instant::now();
        loop {
            let found = *looks.borrow_and_update();
            if found == Found::Right {
                if looks.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if quiet.elapsed() > LONGEST_GAP {
                self.gap = GAP;
            }
            sleep(self.write(found).await).await;
            quiet = Instant::now();
        }
    }

    /// Writes once. Returns how long to wait before the next time.
    async fn write(&mut self, found: Found) -> Duration {
        let Settings { namespace, discovery, .. } = &self.shared.settings;
        let api = Api::<K>::namespaced(self.shared.cluster.client(), namespace);
        let (how, patch) = (PatchParams::apply(labels::MANAGER).force(), Patch::Apply(&self.wanted));
        self.shared.write_limiter.acquire().await;
        if !self.leadership.may_write() {
            return RETRY;
        }
        let rule = PolicyRule::new("patch", K::GROUP, K::URL_PATH_SEGMENT, Some(namespace));
        let written = api.patch(&discovery.service, &how, &patch);
        match self.shared.cluster.call(rule, written).await {
            Ok(_) => {
                tracing::debug!(endpoints = discovery.service, "{} written", K::KIND);
                (self.tell)(true);
                self.refused = None;
                self.denials = 0;
                if found == Found::Unseen {
                    return DENIED_RETRY;
                }
                let gap = self.gap;
                self.gap = (gap * 2).min(LONGEST_GAP);
                if gap == FIGHT {
                    tracing::warn!(
                        endpoints = discovery.service,
                        "somebody else writes the {} too: a Service of this name with a selector, or another release",
                        K::KIND
                    );
                }
                gap
            }
            Err(ApiError::Forbidden(_)) => {
                (self.tell)(false);
                self.denials += 1;
                if self.denials < BELIEVED_DENIALS { RETRY } else { DENIED_RETRY }
            }
            Err(ApiError::Refused(error)) => {
                (self.tell)(false);
                if self.refused.as_ref() != Some(&error) {
                    tracing::warn!(
                        endpoints = discovery.service,
                        error,
                        "the API server refuses the {}: --advertise-address must be an address where Prometheus reaches this \
                         replica, not loopback",
                        K::KIND
                    );
                    self.refused = Some(error);
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

    fn seen() -> Endpoints {
        let mut seen = desired();
        seen.metadata.resource_version = Some("7".to_owned());
        seen.metadata.labels.as_mut().unwrap().insert("team".to_owned(), "media".to_owned());
        seen
    }

    fn desired() -> Endpoints {
        let settings = crate::k8s::leader::tests::settings();
        wanted(&settings, "10.0.0.7:9850".parse().unwrap(), true)
    }

    #[test]
    fn what_others_add_beside_ours_is_left_alone() {
        assert!(is_as_wanted(&seen(), &desired()));
    }

    #[test]
    fn a_missing_label_and_any_other_address_are_put_right() {
        let mut unlabelled = seen();
        unlabelled.metadata.labels.as_mut().unwrap().remove(labels::PROBE);
        assert!(!is_as_wanted(&unlabelled, &desired()));

        let mut more = seen();
        let addresses = more.subsets.as_mut().unwrap()[0].addresses.as_mut().unwrap();
        addresses.push(EndpointAddress { ip: "10.0.0.8".to_owned(), ..EndpointAddress::default() });
        assert!(!is_as_wanted(&more, &desired()));

        let none = Endpoints { subsets: None, ..seen() };
        assert!(!is_as_wanted(&none, &desired()));
    }

    #[test]
    fn kubernetes_mirrors_them_exactly_where_there_is_no_slice_of_ours() {
        let settings = crate::k8s::leader::tests::settings();
        let alone = wanted(&settings, "10.0.0.7:9850".parse().unwrap(), false);
        assert!(!alone.metadata.labels.as_ref().unwrap().contains_key(SKIP_MIRROR));
        assert_eq!(desired().metadata.labels.unwrap()[SKIP_MIRROR], "true");
        assert!(!is_as_wanted(&alone, &desired()) && !is_as_wanted(&desired(), &alone));
    }
}
