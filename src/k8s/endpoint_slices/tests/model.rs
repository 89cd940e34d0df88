//! Random histories of a Service: pods appear, become ready, drain, vanish and are replaced; the control plane moves them between slices;
//! watches break and lists are read again. In the end, the members must be the pods that there are.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::k8s::endpoint_slices::slice::{RawSlice, SharedTexts};
use crate::k8s::endpoint_slices::store::{MOST, ServiceRef};

#[derive(Clone, Debug)]
enum Step {
    /// A pod of this name, at this address, in this slice. A pod of that name is replaced, and one at that address has lost it.
    Start {
        pod: u8,
        address: u8,
        slice: u8,
    },
    Ready(u8),
    NotReady(u8),
    Drain(u8),
    Vanish(u8),
    /// The control plane puts the pod into another slice. `late`: the first slice still shows it, as it was.
    Move {
        pod: u8,
        slice: u8,
        late: bool,
    },
    /// The slices are given to the watch as far as it works.
    Sync,
    /// The watch breaks: what happens until the next list is not shown.
    Break,
    /// Everything is listed, with other Services' slices.
    List,
    /// Another target comes or goes, so that the watch begins again.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (pod, address, slice) = (0..6_u8, 1..5_u8, 0..3_u8);
    let step = prop_oneof![
        4 => (pod.clone(), address, slice.clone()).prop_map(|(pod, address, slice)| Step::Start { pod, address, slice }),
        3 => pod.clone().prop_map(Step::Ready),
        1 => pod.clone().prop_map(Step::NotReady),
        2 => pod.clone().prop_map(Step::Drain),
        2 => pod.clone().prop_map(Step::Vanish),
        2 => (pod, slice, any::<bool>()).prop_map(|(pod, slice, late)| Step::Move { pod, slice, late }),
        6 => Just(Step::Sync),
        1 => Just(Step::Break),
        1 => Just(Step::List),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

#[derive(Clone, Debug, PartialEq)]
struct Pod {
    uid: u32,
    address: u8,
    ready: bool,
    terminating: bool,
    slice: u8,
    /// The slice in which the control plane has left it behind, in its state of then.
    left_in: Option<(u8, bool, bool)>,
}

/// The cluster, without any of the rules of the join.
#[derive(Default)]
struct Cluster {
    pods: BTreeMap<u8, Pod>,
    uids: u32,
    version: u64,
    /// The contents of each slice when it was last written, and the version of then.
    written: BTreeMap<u8, (Value, u64)>,
}

impl Cluster {
    fn contents(&self, slice: u8) -> Value {
        let endpoint = |(name, pod): (&u8, &Pod)| {
            let (_, ready, terminating) = pod
                .left_in
                .filter(|(left, ..)| *left == slice && pod.slice != slice)
                .unwrap_or((slice, pod.ready, pod.terminating));
            json!({
                "addresses": [format!("10.0.0.{}", pod.address)],
                "conditions": { "ready": ready && !terminating, "serving": ready, "terminating": terminating },
                "targetRef": { "kind": "Pod", "name": format!("pod-{name}"), "uid": pod.uid.to_string() },
            })
        };
        let is_in = |pod: &Pod| pod.slice == slice || pod.left_in.is_some_and(|(left, ..)| left == slice);
        self.pods.iter().filter(|(_, pod)| is_in(pod)).map(endpoint).collect()
    }

    /// Writes the slices that have changed; slice 0 is the empty placeholder, and the others are deleted when they are empty.
    fn write(&mut self) -> Vec<(&'static str, Value)> {
        let mut events = Vec::new();
        for slice in 0..3 {
            let contents = self.contents(slice);
            let is_gone = slice > 0 && contents.as_array().is_some_and(Vec::is_empty);
            let before = self.written.get(&slice).map(|(before, _)| before.clone());
            if is_gone {
                if self.written.remove(&slice).is_some() {
                    events.push(("DELETED", object(slice, &json!([]), self.version)));
                }
            } else if before.as_ref() != Some(&contents) {
                self.version += 1;
                self.written.insert(slice, (contents.clone(), self.version));
                events.push(("MODIFIED", object(slice, &contents, self.version)));
            }
        }
        events
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Start { pod, address, slice } => {
                self.uids += 1;
                self.pods.retain(|_, other| other.address != address);
                let new = Pod { uid: self.uids, address, ready: false, terminating: false, slice, left_in: None };
                self.pods.insert(pod, new);
            }
            Step::Ready(pod) | Step::NotReady(pod) => {
                if let Some(pod) = self.pods.get_mut(&pod) {
                    pod.ready = matches!(step, Step::Ready(_));
                }
            }
            Step::Drain(pod) => {
                if let Some(pod) = self.pods.get_mut(&pod) {
                    pod.terminating = true;
                }
            }
            Step::Vanish(pod) => {
                self.pods.remove(&pod);
            }
            Step::Move { pod, slice, late } => {
                if let Some(pod) = self.pods.get_mut(&pod)
                    && pod.slice != slice
                {
                    pod.left_in = late.then_some((pod.slice, pod.ready, pod.terminating));
                    pod.slice = slice;
                }
            }
            Step::Sync | Step::Break | Step::List | Step::Restart => {}
        }
    }

    /// Name, uid, address, serving and terminating of each pod.
    fn expected(&self) -> Vec<(String, String, String, bool, bool)> {
        let pod = |(name, pod): (&u8, &Pod)| {
            let address = format!("10.0.0.{}:80", pod.address);
            (format!("pod-{name}"), pod.uid.to_string(), address, pod.ready, pod.terminating)
        };
        self.pods.iter().map(pod).collect()
    }
}

fn object(slice: u8, endpoints: &Value, version: u64) -> Value {
    let mut object = slice_of("rooms", &format!("rooms-{slice}"), &[]);
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    object["endpoints"] = endpoints.clone();
    object
}

struct Watcher {
    scope: ScopeState,
    texts: SharedTexts,
    works: bool,
}

impl Watcher {
    fn list(&mut self, cluster: &Cluster) {
        self.scope.list_started();
        let mut slices: Vec<Value> =
            cluster.written.iter().map(|(slice, (contents, version))| object(*slice, contents, *version)).collect();
        slices.push(slice_of("unwanted", "unwanted-1", &[200]));
        for slice in slices {
            self.scope.listed(&raw(slice), 0, &mut self.texts);
        }
        self.scope.list_finished(Instant::now());
        self.works = true;
    }

    fn show(&mut self, events: Vec<(&'static str, Value)>) {
        for (kind, slice) in events.into_iter().filter(|_| self.works) {
            if kind == "DELETED" {
                self.scope.deleted(&raw(slice), Instant::now());
            } else {
                self.scope.applied(&raw(slice), 0, &mut self.texts, Instant::now());
            }
        }
    }

    fn members(&mut self) -> Vec<Member> {
        let service = ServiceRef { namespace: "team".into(), name: "rooms".into() };
        let port = WantedPort { name: None, number: 80 };
        self.scope.members(&service, &port, false).map(|members| members.to_vec()).unwrap_or_default()
    }
}

fn raw(slice: Value) -> RawSlice {
    serde_json::from_value(slice).unwrap()
}

fn check(steps: &[Step]) {
    let mut cluster = Cluster::default();
    let mut watcher = Watcher { scope: ScopeState::default(), texts: SharedTexts::default(), works: false };
    let service = ServiceRef { namespace: "team".into(), name: "rooms".into() };
    watcher.scope.want(&service, &id("a"), Instant::now());
    let _ = watcher.scope.begin(Instant::now());
    for step in steps {
        cluster.apply(step);
        match step {
            Step::Sync => {
                let events = cluster.write();
                watcher.show(events);
            }
            Step::Break => watcher.works = false,
            Step::List => watcher.list(&cluster),
            Step::Restart => {
                let other = ServiceRef { namespace: "team".into(), name: "other".into() };
                if watcher.scope.want(&other, &id("b"), Instant::now()) {
                    let _ = watcher.scope.begin(Instant::now());
                    watcher.works = false;
                }
                watcher.scope.unwant(&other, &id("b"), Instant::now());
            }
            _ => {}
        }
        let members = watcher.members();
        assert!(members.is_sorted_by(|a, b| a.name < b.name), "a name is there twice: {members:?}");
        let mut addresses: Vec<_> = members.iter().map(|member| member.address).collect();
        addresses.sort_unstable();
        assert!(addresses.is_sorted_by(|a, b| a < b), "an address is there twice: {members:?}");
        assert!(members.iter().all(|member| member.label == crate::target::MemberLabel::Pod));
        assert!(watcher.scope.entries() <= MOST);
    }
    let events = cluster.write();
    watcher.show(events);
    if !watcher.works {
        watcher.list(&cluster);
    }
    let members = watcher.members();
    let shown = members.iter().map(|Member { name, uid, address, serving, terminating, ready, .. }| {
        assert_eq!(*ready, *serving && !terminating);
        (name.to_string(), uid.to_string(), address.to_string(), *serving, *terminating)
    });
    // Pods that are in two slices in different states are left out: they have no state in the end.
    let settled = |name: &str| {
        let pod = cluster.pods.iter().find(|(pod, _)| format!("pod-{pod}") == name);
        pod.is_some_and(|(_, pod)| pod.left_in.is_none_or(|left| left == (left.0, pod.ready, pod.terminating)))
    };
    let shown: Vec<_> = shown.filter(|(name, ..)| settled(name)).collect();
    let expected: Vec<_> = cluster.expected().into_iter().filter(|(name, ..)| settled(name)).collect();
    assert_eq!(shown, expected);
    assert_eq!(members.len(), cluster.pods.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn in_the_end_the_members_are_the_pods_that_there_are(steps in steps()) {
        check(&steps);
    }
}
