//! The EndpointSlices of the Services that some target names, and how many endpoints of them are kept.
//!
//! Whoever may write EndpointSlices in one namespace must not take memory from the others, so that each Service and each namespace has a
//! bound, besides that of all together.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use super::slice::{KeptSlice, RawSlice, SharedTexts};

/// Entries of one Service: endpoints, and for each slice its ports and itself. This is room for 5,000 endpoints in slices of 100.
const MOST_OF_SERVICE: usize = 5_500;
/// Entries of all Services of one namespace.
const MOST_OF_NAMESPACE: usize = 20_000;
/// Entries of everything, of which an endpoint takes 200 bytes.
pub(super) const MOST: usize = 200_000;

/// Names a Service. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ServiceRef {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service {}/{}", self.namespace, self.name)
    }
}

/// The slices of a scope.
#[derive(Debug, Default)]
pub(super) struct SliceStore {
    services: HashMap<ServiceRef, ServiceSlices>,
    /// The Service of each slice, by namespace and name. A slice may be given to another one.
    owners: HashMap<(Arc<str>, Arc<str>), ServiceRef>,
    /// Entries of each namespace.
    namespaces: HashMap<Arc<str>, usize>,
    entries: usize,
}

/// The slices of a Service.
#[derive(Debug, Default)]
struct ServiceSlices {
    slices: BTreeMap<Arc<str>, KeptSlice>,
    entries: usize,
    /// Slices were left out.
    is_truncated: bool,
}

impl SliceStore {
    /// Stores the slice of a Service in place of an older state of it. `known` is that state in another store, `elsewhere` are the entries
    /// of other stores.
    ///
    /// Returns the Services that have changed.
    pub(super) fn put(
        &mut self,
        service: &ServiceRef,
        raw: &RawSlice,
        known: Option<&KeptSlice>,
        elsewhere: usize,
        texts: &mut SharedTexts,
    ) -> Vec<ServiceRef> {
        let before = self.take(&service.namespace, &raw.metadata.name);
        let of_service = self.entries_of(service);
        let of_namespace = self.namespaces.get(&service.namespace).copied().unwrap_or(0);
        let room = MOST_OF_SERVICE
            .saturating_sub(of_service)
            .min(MOST_OF_NAMESPACE.saturating_sub(of_namespace))
            .min(MOST.saturating_sub(self.entries.saturating_add(elsewhere)));
        let mut changed = vec![service.clone()];
        let name = match &before {
            Some((owner, name, _)) => {
                if owner != service {
                    changed.push(owner.clone());
                }
                Arc::clone(name)
            }
            None => raw.metadata.name.as_str().into(),
        };
        let known = before.as_ref().map(|(_, _, slice)| slice).or(known);
        let slice = KeptSlice::new(raw, room.saturating_sub(1), known, texts);
        let slices = self.services.entry(service.clone()).or_default();
        slices.is_truncated |= slice.dropped > 0;
        // The first slice is kept without room as well, since it shows that the Service has one.
        if room == 0 && !slices.slices.is_empty() {
            slices.is_truncated = true;
            return changed;
        }
        let entries = slice.entries();
        slices.entries += entries;
        slices.slices.insert(Arc::clone(&name), slice);
        *self.namespaces.entry(Arc::clone(&service.namespace)).or_default() += entries;
        self.entries += entries;
        self.owners.insert((Arc::clone(&service.namespace), name), service.clone());
        changed
    }

    /// Removes a slice. Returns the Service to which it belonged.
    pub(super) fn remove(&mut self, namespace: &str, name: &str) -> Option<ServiceRef> {
        self.take(namespace, name).map(|(owner, _, _)| owner)
    }

    fn take(&mut self, namespace: &str, name: &str) -> Option<(ServiceRef, Arc<str>, KeptSlice)> {
        let ((namespace, name), owner) = self.owners.remove_entry(&(Arc::from(namespace), Arc::from(name)))?;
        let slices = self.services.get_mut(&owner)?;
        let slice = slices.slices.remove(&name)?;
        let entries = slice.entries();
        slices.entries -= entries;
        if slices.slices.is_empty() {
            self.services.remove(&owner);
        }
        self.forget(&namespace, entries);
        Some((owner, name, slice))
    }

    /// What is kept of a Service.
    pub(super) fn entries_of(&self, service: &ServiceRef) -> usize {
        self.services.get(service).map_or(0, |service| service.entries)
    }

    /// Removes all slices of a Service.
    pub(super) fn remove_service(&mut self, service: &ServiceRef) {
        let Some(slices) = self.services.remove(service) else { return };
        for name in slices.slices.into_keys() {
            self.owners.remove(&(Arc::clone(&service.namespace), name));
        }
        self.forget(&service.namespace, slices.entries);
    }

    fn forget(&mut self, namespace: &Arc<str>, entries: usize) {
        self.entries -= entries;
        if let Some(of_namespace) = self.namespaces.get_mut(namespace) {
            *of_namespace -= entries;
            if *of_namespace == 0 {
                self.namespaces.remove(namespace);
            }
        }
    }

    /// A slice of a Service.
    pub(super) fn slice(&self, service: &ServiceRef, name: &str) -> Option<&KeptSlice> {
        self.services.get(service)?.slices.get(name)
    }

    /// The slices of a Service, in the order of their names.
    pub(super) fn slices(&self, service: &ServiceRef) -> impl ExactSizeIterator<Item = &KeptSlice> + Clone {
        static NONE: BTreeMap<Arc<str>, KeptSlice> = BTreeMap::new();
        self.services.get(service).map_or(&NONE, |service| &service.slices).values()
    }

    /// Whether some endpoints of a Service were left out since the last list, because there are too many.
    pub(super) fn is_truncated(&self, service: &ServiceRef) -> bool {
        self.services.get(service).is_some_and(|service| service.is_truncated)
    }

    /// Whether that is so of any Service.
    pub(super) fn has_truncated(&self) -> bool {
        self.services.values().any(|service| service.is_truncated)
    }

    /// Whether a Service has the same slices in another store.
    pub(super) fn has_same(&self, service: &ServiceRef, other: &Self) -> bool {
        match (self.services.get(service), other.services.get(service)) {
            (None, None) => true,
            (Some(one), Some(other)) => one.slices == other.slices,
            _ => false,
        }
    }

    /// Everything that is kept.
    pub(super) const fn entries(&self) -> usize {
        self.entries
    }
}
