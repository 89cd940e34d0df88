//! The slice that makes the leader the only one behind the Service that Prometheus scrapes: what kube-proxy and newer discovery read. We
//! write it beside the Endpoints, which are deprecated, instead of leaving it to Kubernetes to mirror them.
//!
//! Where it cannot be written, Kubernetes mirrors the Endpoints as ever, so that there is always exactly one slice.

use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::api::ObjectMeta;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::Shared;
use super::super::labels;
use super::super::settings::Settings;
use super::Leadership;
use super::endpoints::{Form, PORT, Writer, labelled};

/// Whose slice it is, by its name.
const SERVICE: &str = "kubernetes.io/service-name";
/// Who writes it: the controllers of Kubernetes look after those with their own names.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// Writes `address` into the slice whenever this replica leads, until told to stop. `sliced` is told whether it is written.
pub(super) async fn run(
    shared: Arc<Shared>,
    address: SocketAddr,
    mut leadership: Leadership,
    sliced: watch::Sender<bool>,
    stop: CancellationToken,
) -> &'static str {
    let tell = |now: bool| {
        sliced.send_if_modified(|was| std::mem::replace(was, now) != now);
    };
    let mut writer = Writer::new(&shared, wanted(&shared.settings, address), leadership.clone(), &tell);
    let work = async {
        loop {
            leadership.granted().await;
            tokio::select! {
                () = leadership.lost() => {}
                () = writer.keep() => {}
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
    "the writer of the EndpointSlice"
}

/// What it must be. It has the name of the Service, since those that Kubernetes makes have more behind it.
fn wanted(settings: &Settings, address: SocketAddr) -> EndpointSlice {
    let service = &settings.discovery.service;
    let mut all = labelled(settings);
    all.insert(SERVICE.to_owned(), service.clone());
    all.insert(MANAGED_BY.to_owned(), labels::MANAGER.to_owned());
    let conditions = EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) };
    let port = EndpointPort {
        name: Some(PORT.to_owned()),
        port: Some(address.port().into()),
        protocol: Some("TCP".to_owned()),
        ..EndpointPort::default()
    };
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(service.clone()),
            namespace: Some(settings.namespace.clone()),
            labels: Some(all),
            ..ObjectMeta::default()
        },
        address_type: if address.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
        endpoints: vec![Endpoint {
            addresses: vec![address.ip().to_string()],
            conditions: Some(conditions),
            ..Endpoint::default()
        }],
        ports: Some(vec![port]),
    }
}

impl Form for EndpointSlice {
    fn leads_where(&self, wanted: &Self) -> bool {
        (&self.address_type, &self.endpoints, &self.ports) == (&wanted.address_type, &wanted.endpoints, &wanted.ports)
    }
}

#[cfg(test)]
mod tests {
    use super::super::endpoints::is_as_wanted;
    use super::*;

    fn desired(address: &str) -> EndpointSlice {
        wanted(&crate::k8s::leader::tests::settings(), address.parse().unwrap())
    }

    #[test]
    fn it_belongs_to_the_service_and_to_no_controller_of_kubernetes() {
        let slice = desired("[fd00::7]:9850");
        let labels = slice.metadata.labels.as_ref().unwrap();
        assert_eq!([&labels[SERVICE], &labels[MANAGED_BY]], ["st-probe", "scrapetarget-exporter"]);
        assert_eq!((slice.address_type.as_str(), &*slice.endpoints[0].addresses[0]), ("IPv6", "fd00::7"));
    }

    #[test]
    fn another_address_or_owner_is_put_right_and_what_others_add_is_left_alone() {
        let wanted = desired("10.0.0.7:9850");
        let mut seen = wanted.clone();
        seen.metadata.labels.as_mut().unwrap().insert("team".to_owned(), "media".to_owned());
        assert!(is_as_wanted(&seen, &wanted));
        assert!(!is_as_wanted(&desired("10.0.0.8:9850"), &wanted));
        seen.metadata.labels.as_mut().unwrap().insert(MANAGED_BY.to_owned(), "somebody".to_owned());
        assert!(!is_as_wanted(&seen, &wanted));
    }
}
