//! EndpointSlices as the API server shows them, and the parts of each that are kept.
//!
//! Only these parts are parsed. Whoever may write EndpointSlices decides what is in them, so that each text that is kept has a longest length.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use crate::k8s::watch::WatchedObject;

/// The longest uid that is kept. Those of the API server have 36 bytes.
const LONGEST_UID: usize = 64;
/// The longest name of an object.
const LONGEST_NAME: usize = 253;
/// The longest value of a label, which the name of a zone is, and the longest name of a port.
const LONGEST_LABEL: usize = 63;

/// An EndpointSlice of the watch.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawSlice {
    pub(super) metadata: SliceMetadata,
    address_type: String,
    endpoints: Option<Vec<RawEndpoint>>,
    ports: Option<Vec<RawPort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct SliceMetadata {
    pub(super) name: String,
    pub(super) namespace: String,
    resource_version: Option<String>,
    labels: Option<SliceLabels>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct SliceLabels {
    #[serde(rename = "kubernetes.io/service-name")]
    service: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawEndpoint {
    addresses: Option<Vec<String>>,
    conditions: Option<RawConditions>,
    target_ref: Option<RawReference>,
    node_name: Option<String>,
    zone: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RawReference {
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RawPort {
    name: Option<String>,
    port: Option<i64>,
    protocol: Option<String>,
}

impl WatchedObject for RawSlice {
    fn resource_version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }
}

impl RawSlice {
    /// The name of the Service that it belongs to, if it belongs to one.
    pub(super) fn service(&self) -> Option<&str> {
        self.metadata.labels.as_ref()?.service.as_deref()
    }
}

/// What is kept of an EndpointSlice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KeptSlice {
    /// Its resource version, by which the newer one of two slices is found.
    pub(super) version: u64,
    /// Its TCP ports.
    pub(super) ports: Box<[SlicePort]>,
    /// It lists no port of any protocol.
    pub(super) has_no_ports: bool,
    pub(super) endpoints: Box<[SliceEndpoint]>,
    /// Endpoints that are not kept, since there are too many.
    pub(super) dropped: usize,
}

/// A TCP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlicePort {
    /// That of the Service's port; empty if that has none.
    pub(super) name: Arc<str>,
    /// The number in the pods; `None`: any.
    pub(super) number: Option<u16>,
}

/// An endpoint with an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SliceEndpoint {
    /// The name of its pod.
    pub(super) pod: Option<Arc<str>>,
    /// The uid of its pod; empty if that is not known.
    pub(super) uid: Arc<str>,
    pub(super) placement: Arc<Placement>,
    pub(super) address: IpAddr,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
}

/// Where an endpoint runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Placement {
    pub(super) node: Option<Arc<str>>,
    pub(super) zone: Option<Arc<str>>,
}

/// Texts that many slices have in common, each in memory once.
#[derive(Debug, Default)]
pub(super) struct SharedTexts {
    ports: Interner<str>,
    placements: Interner<Placement>,
}

/// Values in memory once, as long as anything else uses them.
#[derive(Debug)]
struct Interner<T: ?Sized> {
    values: HashSet<Arc<T>>,
    /// The number of values at which unused ones are removed.
    clean_at: usize,
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self { values: HashSet::new(), clean_at: 64 }
    }
}

impl<T: ?Sized + Eq + Hash> Interner<T> {
    fn intern(&mut self, value: &T, new: impl FnOnce() -> Arc<T>) -> Arc<T> {
        if let Some(known) = self.values.get(value) {
            return Arc::clone(known);
        }
        if self.values.len() >= self.clean_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.clean_at = (self.values.len() * 2).max(64);
        }
        let new = new();
        self.values.insert(Arc::clone(&new));
        new
    }
}

impl KeptSlice {
    /// What `raw` says, with `most` endpoints and ports. Names that `before`, the same slice as it was, has as well are not allocated again.
    pub(super) fn new(raw: &RawSlice, most: usize, before: Option<&Self>, texts: &mut SharedTexts) -> Self {
        let raw_ports = raw.ports.as_deref().unwrap_or_default();
        let ports: Box<[SlicePort]> =
            raw_ports.iter().filter_map(|port| tcp_port(port, &mut texts.ports)).take(most).collect();
        let raw_endpoints = raw.endpoints.as_deref().unwrap_or_default();
        let known = before.into_iter().flat_map(|before| before.endpoints.iter());
        let known = known.flat_map(|known| known.pod.iter().chain([&known.uid]));
        let known: HashMap<&str, &Arc<str>> = known.map(|text| (&**text, text)).collect();
        let text = |text: &str| known.get(text).map_or_else(|| Arc::from(text), |known| Arc::clone(known));
        let namespace = &raw.metadata.namespace;
        let mut usable = raw_endpoints.iter().filter_map(|endpoint| {
            let address = endpoint.addresses.as_ref()?.first()?.parse().ok()?;
            is_of_family(address, &raw.address_type).then_some((endpoint, address))
        });
        let room = most.saturating_sub(ports.len());
        let endpoints = usable.by_ref().take(room).map(|(endpoint, address)| {
            let conditions = endpoint.conditions.unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            let (pod, uid) = endpoint.pod(namespace).unzip();
            SliceEndpoint {
                pod: pod.map(text),
                uid: uid.map(text).unwrap_or_default(),
                placement: endpoint.placement(&mut texts.placements),
                address,
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or(false),
            }
        });
        Self {
            version: raw.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0),
            has_no_ports: raw_ports.is_empty(),
            endpoints: endpoints.collect(),
            dropped: usable.count(),
            ports,
        }
    }

    /// Its part of the bounds: the entries that are kept, and the slice itself.
    pub(super) fn entries(&self) -> usize {
        self.endpoints.len() + self.ports.len() + 1
    }
}

/// Names have no meaning in FQDN slices: Kubernetes itself does not use them.
fn is_of_family(address: IpAddr, address_type: &str) -> bool {
    match address {
        IpAddr::V4(_) => address_type == "IPv4",
        IpAddr::V6(_) => address_type == "IPv6",
    }
}

fn tcp_port(port: &RawPort, names: &mut Interner<str>) -> Option<SlicePort> {
    let name = port.name.as_deref().unwrap_or_default();
    if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") || name.len() > LONGEST_LABEL {
        return None;
    }
    let number = port.port.map(|number| u16::try_from(number).ok().filter(|number| *number > 0));
    if number == Some(None) {
        return None;
    }
    Some(SlicePort { name: names.intern(name, || Arc::from(name)), number: number.flatten() })
}

impl RawEndpoint {
    /// The name and uid of its pod, if it has one in `namespace`. The uid is empty if it is not given.
    fn pod(&self, namespace: &str) -> Option<(&str, &str)> {
        let reference = self.target_ref.as_ref()?;
        let name = reference.name.as_deref()?;
        let uid = reference.uid.as_deref().unwrap_or_default();
        let is_here = reference.namespace.as_deref().is_none_or(|other| other.is_empty() || other == namespace);
        let is_pod = reference.kind.as_deref() == Some("Pod") && is_here;
        (is_pod && is_pod_name(name) && uid.len() <= LONGEST_UID).then_some((name, uid))
    }

    fn placement(&self, placements: &mut Interner<Placement>) -> Arc<Placement> {
        let text = |text: &Option<String>, longest| {
            text.as_deref().filter(|text| !text.is_empty() && text.len() <= longest).map(Arc::from)
        };
        let placement = Placement { node: text(&self.node_name, LONGEST_NAME), zone: text(&self.zone, LONGEST_LABEL) };
        placements.intern(&placement, || Arc::new(placement.clone()))
    }
}

/// Whether a pod can have this name: a DNS subdomain.
fn is_pod_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME && name.split('.').all(is_dns_label)
}

/// Whether it consists of lower-case letters, digits and inner hyphens.
fn is_dns_label(label: &str) -> bool {
    let is_inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !label.is_empty() && label.bytes().all(is_inner) && !label.starts_with('-') && !label.ends_with('-')
}

/// Whether a Service can have this name. Another one must not get into a label selector.
pub(super) fn is_service_name(name: &str) -> bool {
    name.len() <= LONGEST_LABEL && is_dns_label(name)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What is kept of a slice in the namespace `team`.
    pub(in crate::k8s::endpoint_slices) fn slice(value: &Value) -> KeptSlice {
        KeptSlice::new(&raw(value), 1000, None, &mut SharedTexts::default())
    }

    fn raw(value: &Value) -> RawSlice {
        let mut value = value.clone();
        value["metadata"]["namespace"] = json!("team");
        serde_json::from_value(value).unwrap()
    }

    fn endpoint(address: &str) -> Value {
        json!({ "addresses": [address] })
    }

    #[test]
    fn conditions_that_are_not_given_have_their_defaults() {
        for (conditions, wanted) in [
            (json!(null), (true, true, false)),
            (json!({}), (true, true, false)),
            (json!({ "ready": false }), (false, false, false)),
            (json!({ "ready": false, "serving": true, "terminating": true }), (false, true, true)),
            (json!({ "ready": null, "serving": false }), (true, false, false)),
        ] {
            let endpoints = json!([{ "addresses": ["10.0.0.1"], "conditions": conditions }]);
            let kept = slice(&json!({ "addressType": "IPv4", "endpoints": endpoints }));
            let [SliceEndpoint { ready, serving, terminating, .. }] = &*kept.endpoints else { panic!("{kept:?}") };
            assert_eq!((*ready, *serving, *terminating), wanted, "{conditions}");
        }
    }

    #[test]
    fn endpoints_without_a_usable_address_are_skipped_and_of_several_addresses_the_first_is_taken() {
        let none = ["", "10.0.0", "10.0.0.1:80", "fe80::1%eth0", "fd00::1", "host"].map(endpoint);
        let more = [json!({}), json!({ "addresses": [] }), json!({ "addresses": ["10.0.0.1", "10.0.0.2"] })];
        let endpoints = [none.to_vec(), more.to_vec()].concat();
        let kept = slice(&json!({ "addressType": "IPv4", "endpoints": endpoints }));
        let addresses: Vec<String> = kept.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1"]);
        for (kind, count) in [("FQDN", 0), ("IPv6", 1), ("", 0)] {
            let endpoints = json!([endpoint("fd00::1"), endpoint("10.0.0.1"), endpoint("a.example")]);
            assert_eq!(slice(&json!({ "addressType": kind, "endpoints": endpoints })).endpoints.len(), count, "{kind}");
        }
    }

    #[test]
    fn a_reference_counts_if_it_is_to_a_pod_of_the_namespace() {
        let long = "a".repeat(254);
        for (reference, wanted) in [
            (json!({ "kind": "Pod", "name": "a", "uid": "1" }), Some(("a", "1"))),
            (json!({ "kind": "Pod", "name": "a.b-c", "namespace": "team" }), Some(("a.b-c", ""))),
            (json!({ "kind": "Pod", "name": "a", "namespace": "other" }), None),
            (json!({ "kind": "Node", "name": "a" }), None),
            (json!({ "kind": "Pod", "name": "A" }), None),
            (json!({ "kind": "Pod", "name": "a:1" }), None),
            (json!({ "kind": "Pod", "name": "" }), None),
            (json!({ "kind": "Pod", "name": long }), None),
            (json!({ "kind": "Pod", "name": "a", "uid": long }), None),
            (json!({ "name": "a" }), None),
        ] {
            let endpoints = json!([{ "addresses": ["10.0.0.1"], "targetRef": reference }]);
            let kept = slice(&json!({ "addressType": "IPv4", "endpoints": endpoints }));
            let [endpoint] = &*kept.endpoints else { panic!("{kept:?}") };
            assert_eq!(endpoint.pod.as_deref().map(|pod| (pod, &*endpoint.uid)), wanted, "{reference}");
        }
    }

    #[test]
    fn only_tcp_ports_are_kept() {
        let ports = json!([
            { "name": "a", "port": 80, "protocol": "TCP" }, { "name": "b", "port": 81 }, { "port": null },
            { "name": "media", "port": 82, "protocol": "UDP" }, { "name": "c", "port": 0 }, { "name": "d", "port": 65536 },
        ]);
        let kept = slice(&json!({ "addressType": "IPv4", "ports": ports }));
        let ports: Vec<_> = kept.ports.iter().map(|port| (&*port.name, port.number)).collect();
        assert_eq!(ports, [("a", Some(80)), ("b", Some(81)), ("", None)]);
        assert!(!kept.has_no_ports && slice(&json!({ "addressType": "IPv4", "ports": null })).has_no_ports);
    }

    #[test]
    fn the_names_of_nodes_are_in_memory_once_and_so_are_the_names_that_a_slice_keeps() {
        let endpoints: Vec<Value> = (0..50)
            .map(|i| {
                let reference = json!({ "kind": "Pod", "name": format!("pod-{i}"), "uid": format!("uid-{i}") });
                json!({ "addresses": ["10.0.0.1"], "nodeName": "node", "zone": "z", "targetRef": reference })
            })
            .collect();
        let raw = raw(&json!({ "addressType": "IPv4", "endpoints": endpoints }));
        let mut texts = SharedTexts::default();
        let before = KeptSlice::new(&raw, 1000, None, &mut texts);
        let after = KeptSlice::new(&raw, 1000, Some(&before), &mut texts);
        assert_eq!(before, after);
        for (before, after) in before.endpoints.iter().zip(&after.endpoints) {
            assert!(Arc::ptr_eq(&before.placement, &after.placement) && Arc::ptr_eq(&before.uid, &after.uid));
            assert!(Arc::ptr_eq(before.pod.as_ref().unwrap(), after.pod.as_ref().unwrap()));
        }
        assert_eq!(texts.placements.values.len(), 1);
        assert!(size_of::<SliceEndpoint>() <= 64, "{} bytes for each pod", size_of::<SliceEndpoint>());
    }

    #[test]
    fn of_too_many_endpoints_the_others_are_counted() {
        let endpoints: Vec<Value> = (0..50).map(|i| endpoint(&format!("10.0.0.{i}"))).collect();
        let raw = raw(&json!({ "addressType": "IPv4", "endpoints": endpoints, "ports": [{ "port": 80 }] }));
        let kept = KeptSlice::new(&raw, 11, None, &mut SharedTexts::default());
        assert_eq!((kept.endpoints.len(), kept.dropped, kept.entries()), (10, 40, 12));
    }

    #[test]
    fn nothing_but_a_name_of_a_service_is_one() {
        for good in ["a", "rooms-2", "0a"] {
            assert!(is_service_name(good), "{good}");
        }
        for bad in ["", "a.b", "-a", "a-", "A", "a),b", "a,b", "a b", "[", &"a".repeat(64)] {
            assert!(!is_service_name(bad), "{bad}");
        }
    }

    #[test]
    fn unused_texts_are_removed() {
        let mut interner = Interner::<str>::default();
        for i in 0..1000 {
            let text = i.to_string();
            interner.intern(&text, || text.as_str().into());
        }
        assert!(interner.values.len() <= 64, "{}", interner.values.len());
    }
}
