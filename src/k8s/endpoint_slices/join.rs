//! Joins the EndpointSlices of one Service to the members of a target. Pure.
//!
//! A pod is in several slices if it has addresses of both families, and for a moment while the control plane moves it from one slice to
//! another. Two pods have one name after a StatefulSet has replaced one, and one address after it was taken over. Each becomes one member.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::Arc;

use super::slice::{KeptSlice, SliceEndpoint, SlicePort};
use crate::target::{Member, MemberLabel};

/// Which port of the endpoints is polled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct WantedPort {
    /// The name of the Service's port; `None`: the only one, or the one that has the number of the url in the pods. Slices do not have the
    /// number that it has in the Service.
    pub(super) name: Option<Arc<str>>,
    /// The number in the url.
    pub(super) number: u16,
}

/// No endpoint has the wanted port; these are the ports that there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortNotFound(pub(super) BTreeSet<(Arc<str>, Option<u16>)>);

/// An endpoint, and the slice's part of it.
#[derive(Clone, Copy, Debug)]
struct Candidate<'s> {
    endpoint: &'s SliceEndpoint,
    address: SocketAddr,
    version: u64,
    is_preferred_family: bool,
}

/// What makes two endpoints the same process.
#[derive(PartialEq, Eq, Hash)]
enum ProcessKey<'s> {
    Uid(&'s str),
    Pod(&'s str),
    Address(SocketAddr),
}

/// The members that the slices of a Service show, in the order of their names.
pub(super) fn join<'s>(
    slices: impl Iterator<Item = &'s KeptSlice>,
    wanted: &WantedPort,
    prefers_ipv6: bool,
) -> Result<Vec<Member>, PortNotFound> {
    let mut candidates = Vec::new();
    let mut ports = BTreeSet::new();
    let mut has_endpoints = false;
    for slice in slices.filter(|slice| !slice.endpoints.is_empty()) {
        has_endpoints = true;
        let Some(port) = wanted.number_in(slice) else {
            ports.extend(slice.ports.iter().map(|port| (Arc::clone(&port.name), port.number)));
            continue;
        };
        candidates.extend(slice.endpoints.iter().map(|endpoint| Candidate {
            endpoint,
            address: SocketAddr::new(endpoint.address, port),
            version: slice.version,
            is_preferred_family: endpoint.address.is_ipv6() == prefers_ipv6,
        }));
    }
    if candidates.is_empty() && has_endpoints {
        return Err(PortNotFound(ports));
    }
    // Of one process, the newest state. A pod does not stop terminating, so that counts where the versions say nothing.
    let processes = best_of_each(candidates, Candidate::process, |it| {
        let SliceEndpoint { ready, serving, terminating, .. } = it.endpoint;
        (it.is_preferred_family, it.version, *terminating, *ready, *serving, Reverse(it.address))
    });
    // Of several processes, the one that stays.
    let stays = |it: &Candidate<'_>| {
        let SliceEndpoint { ready, serving, terminating, .. } = it.endpoint;
        (!terminating, *ready, *serving, it.version)
    };
    let names = best_of_each(processes, Candidate::name, |it| (stays(it), Reverse(Arc::clone(&it.endpoint.uid))));
    let members = best_of_each(names, |it| it.address, |it| (stays(it), Reverse(it.endpoint.pod.clone())));
    let mut members: Vec<Member> = members.into_iter().map(Candidate::into_member).collect();
    members.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(members)
}

/// Of the candidates with the same key, the one with the greatest rank.
fn best_of_each<'s, K: Eq + Hash, R: Ord>(
    candidates: Vec<Candidate<'s>>,
    key: impl Fn(&Candidate<'s>) -> K,
    rank: impl Fn(&Candidate<'s>) -> R,
) -> Vec<Candidate<'s>> {
    let mut best: HashMap<K, Candidate<'s>> = HashMap::with_capacity(candidates.len());
    for candidate in candidates {
        match best.entry(key(&candidate)) {
            Entry::Vacant(entry) => {
                entry.insert(candidate);
            }
            Entry::Occupied(mut entry) => {
                if rank(&candidate) > rank(entry.get()) {
                    entry.insert(candidate);
                }
            }
        }
    }
    best.into_values().collect()
}

impl WantedPort {
    /// Its number in the pods of a slice; `None`: the slice does not have it.
    fn number_in(&self, slice: &KeptSlice) -> Option<u16> {
        let number = |port: &SlicePort| port.number.unwrap_or(self.number);
        match (&self.name, &*slice.ports) {
            (Some(name), ports) => ports.iter().find(|port| port.name == *name).map(number),
            (None, []) => slice.has_no_ports.then_some(self.number),
            (None, [only]) => Some(number(only)),
            (None, ports) => ports.iter().map(number).find(|number| *number == self.number),
        }
    }
}

impl<'s> Candidate<'s> {
    fn process(&self) -> ProcessKey<'s> {
        match (&self.endpoint.pod, &*self.endpoint.uid) {
            (Some(pod), "") => ProcessKey::Pod(pod),
            (Some(_), uid) => ProcessKey::Uid(uid),
            (None, _) => ProcessKey::Address(self.address),
        }
    }

    /// Its name, by which it is one member.
    fn name(&self) -> ProcessKey<'s> {
        self.endpoint.pod.as_deref().map_or(ProcessKey::Address(self.address), ProcessKey::Pod)
    }

    fn into_member(self) -> Member {
        let SliceEndpoint { pod, uid, placement, ready, serving, terminating, .. } = self.endpoint;
        let (name, label) = match pod {
            Some(pod) => (Arc::clone(pod), MemberLabel::Pod),
            None => (self.address.to_string().into(), MemberLabel::Member),
        };
        Member {
            name,
            label,
            uid: Arc::clone(uid),
            address: self.address,
            node: placement.node.clone(),
            zone: placement.zone.clone(),
            ready: *ready && !terminating,
            serving: *serving,
            terminating: *terminating,
        }
    }
}

#[cfg(test)]
mod tests;
