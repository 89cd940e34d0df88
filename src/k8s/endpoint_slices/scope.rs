//! The Services of one scope that targets name, and their slices. It decides when the watch begins, when it is replaced by one with another
//! selector, and which Services have changed; it does not watch.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::join::{PortNotFound, WantedPort, join};
use super::slice::{RawSlice, SharedTexts};
use super::store::{ServiceRef, SliceStore};
use crate::target::{Member, TargetId};

/// The most different lists of members of one Service: its slices may admit any port, and each target ask for another one.
const MOST_PORTS: usize = 16;
/// The most questions about the members of one Service that are remembered.
const MOST_JOINED: usize = 64;
/// The label of a slice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Up to so many names are in the selector. With more, all slices are watched, and those of other Services are dropped.
const MOST_SELECTED: usize = 50;

/// The time without a new Service after which the watch begins, so that targets which appear together need one watch; and how long that may
/// last.
const SETTLE: Duration = Duration::from_millis(200);
const LONGEST_SETTLE: Duration = Duration::from_secs(1);

/// A watch that is replaced because of new Services has run at least ten times as long as its list took, within these limits.
const LIST_SHARE: u32 = 10;
const SHORTEST_GAP: Duration = Duration::from_secs(1);
const LONGEST_GAP: Duration = Duration::from_secs(10);

/// A Service that no target names any more stays watched for this long, so that a target which is deleted and created again needs no other
/// list. That many Services at most, and that many entries of all of them, which is a quarter of what a namespace may have.
const KEPT_UNWANTED: Duration = Duration::from_secs(30);
const MOST_UNWANTED: usize = 25;
const MOST_ENTRIES_UNWANTED: usize = 5_000;

/// After this time, a watch of more than is needed is replaced, and left out slices are read again.
const REFRESH: Duration = Duration::from_mins(10);

/// Changes of a Service are collected for this long before its targets are told: a rollout changes its slices several times a second.
const BATCHING: Duration = Duration::from_millis(200);
/// Longer for each endpoint of each target, so that a Service that has very many of both takes no CPU time from others.
const BATCHING_PER_MEMBER: Duration = Duration::from_nanos(500);
const LONGEST_BATCHING: Duration = Duration::from_secs(10);

/// The Services of a scope.
#[derive(Debug, Default)]
pub(super) struct ScopeState {
    services: BTreeMap<ServiceRef, WantedService>,
    /// Those of `services` that no target names any more, and since when, the oldest first.
    unwanted: VecDeque<(ServiceRef, Instant)>,
    store: SliceStore,
    /// What a list has shown so far, while it is read.
    listing: Option<SliceStore>,
    /// When the first and the last Service appeared that the watch does not cover.
    uncovered: Option<(Instant, Instant)>,
    watch: Option<RunningWatch>,
    pub(super) access: SliceAccess,
    /// When the targets of a changed Service are told.
    dirty: BTreeMap<ServiceRef, Instant>,
}

/// A running watch.
#[derive(Debug)]
struct RunningWatch {
    begun: Instant,
    /// How long its list took.
    listed_within: Duration,
    /// Whether it watches the slices of every Service.
    is_of_all: bool,
}

/// Whether slices can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SliceAccess {
    Granted,
    /// The permission is missing.
    Denied,
    /// The API server has not shown any yet, for this reason.
    Failed(Arc<str>),
}

impl Default for SliceAccess {
    fn default() -> Self {
        Self::Failed("the API server has not answered yet".into())
    }
}

/// A Service that targets name.
#[derive(Debug, Default)]
struct WantedService {
    targets: BTreeSet<TargetId>,
    coverage: WatchCoverage,
    /// What was joined for its targets since its slices have changed.
    joined: HashMap<WantedPort, Arc<[Member]>>,
}

/// How much is known of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum WatchCoverage {
    /// The watch has begun before it was wanted, so that its slices may have been dropped.
    #[default]
    None,
    /// Its slices are being listed.
    Watched,
    /// Its slices were listed, and what has changed since then was shown.
    Listed,
}

impl ScopeState {
    /// A target names the Service. Returns whether the watch must be begun or replaced.
    pub(super) fn want(&mut self, service: &ServiceRef, target: &TargetId, now: Instant) -> bool {
        let wanted = self.services.entry(service.clone()).or_default();
        if wanted.targets.is_empty() {
            self.unwanted.retain(|(unwanted, _)| unwanted != service);
        }
        wanted.targets.insert(target.clone());
        if wanted.coverage != WatchCoverage::None {
            return false;
        }
        let (first, _) = self.uncovered.unwrap_or((now, now));
        self.uncovered = Some((first, now));
        true
    }

    /// A target does not name the Service any more. Returns whether no target names any Service now.
    pub(super) fn unwant(&mut self, service: &ServiceRef, target: &TargetId, now: Instant) -> bool {
        let Some(wanted) = self.services.get_mut(service) else { return false };
        if wanted.targets.remove(target) && wanted.targets.is_empty() {
            if wanted.coverage == WatchCoverage::None {
                self.forget(service);
            } else {
                self.unwanted.push_back((service.clone(), now));
                self.forget_unwanted(now);
            }
        }
        !self.is_wanted()
    }

    /// Drops the Services that no target has named for a while, and the oldest of them while they are too many.
    pub(super) fn forget_unwanted(&mut self, now: Instant) {
        while let Some((service, since)) = self.unwanted.front() {
            let is_due = *since + KEPT_UNWANTED <= now;
            if !is_due && self.unwanted.len() <= MOST_UNWANTED && self.entries_unwanted() <= MOST_ENTRIES_UNWANTED {
                return;
            }
            let service = service.clone();
            self.unwanted.pop_front();
            self.forget(&service);
        }
    }

    fn entries_unwanted(&self) -> usize {
        self.unwanted.iter().map(|(service, _)| self.store.entries_of(service)).sum()
    }

    /// When [`forget_unwanted`](Self::forget_unwanted) has something to drop.
    pub(super) fn forgets_at(&self) -> Option<Instant> {
        self.unwanted.front().map(|(_, since)| *since + KEPT_UNWANTED)
    }

    fn forget(&mut self, service: &ServiceRef) {
        self.services.remove(service);
        self.dirty.remove(service);
        self.store.remove_service(service);
        if let Some(listing) = &mut self.listing {
            listing.remove_service(service);
        }
        let is_uncovered = |wanted: &WantedService| wanted.coverage == WatchCoverage::None;
        self.uncovered = self.uncovered.filter(|_| self.services.values().any(is_uncovered));
    }

    /// Whether any target names a Service.
    pub(super) fn is_wanted(&self) -> bool {
        self.services.len() > self.unwanted.len()
    }

    /// Whether the slices of a Service were listed.
    pub(super) fn is_listed(&self, service: &ServiceRef) -> bool {
        self.services.get(service).is_some_and(|wanted| wanted.coverage == WatchCoverage::Listed)
    }

    /// When a watch should begin that covers every Service; `None`: the running one does.
    pub(super) fn begins_at(&self) -> Option<Instant> {
        if let Some((first, last)) = self.uncovered {
            let settled = (last + SETTLE).min(first + LONGEST_SETTLE);
            let rested = self.watch.as_ref().map(|watch| {
                let gap = watch.listed_within.saturating_mul(LIST_SHARE).clamp(SHORTEST_GAP, LONGEST_GAP);
                watch.begun + gap
            });
            return Some(rested.map_or(settled, |rested| rested.max(settled)));
        }
        let watch = self.watch.as_ref()?;
        // Half as many, or it would be replaced all the time.
        let is_too_wide = watch.is_of_all && self.services.len() - self.unwanted.len() < MOST_SELECTED / 2;
        (is_too_wide || self.store.has_truncated()).then(|| watch.begun + REFRESH)
    }

    /// Begins a watch of every Service that is wanted, or was a moment ago. Returns the label selector.
    pub(super) fn begin(&mut self, now: Instant) -> String {
        if self.services.len() >= MOST_SELECTED {
            // They must not make the watch one of all.
            for (service, _) in std::mem::take(&mut self.unwanted) {
                self.forget(&service);
            }
        }
        self.uncovered = None;
        self.listing = None;
        for wanted in self.services.values_mut().filter(|wanted| wanted.coverage == WatchCoverage::None) {
            wanted.coverage = WatchCoverage::Watched;
        }
        let names: BTreeSet<&str> = self.services.keys().map(|service| &*service.name).collect();
        let is_of_all = names.len() >= MOST_SELECTED;
        self.watch = Some(RunningWatch { begun: now, listed_within: Duration::ZERO, is_of_all });
        if is_of_all {
            return SERVICE_NAME.to_owned();
        }
        let names: Vec<&str> = names.into_iter().collect();
        format!("{SERVICE_NAME} in ({})", names.join(","))
    }

    /// The watch has ended, since no target names a Service: nothing is kept.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// A list begins.
    pub(super) fn list_started(&mut self) {
        self.listing = Some(SliceStore::default());
    }

    /// A slice of the list. `elsewhere` are the entries of other scopes.
    pub(super) fn listed(&mut self, slice: &RawSlice, elsewhere: usize, texts: &mut SharedTexts) {
        if let Some(service) = self.covered(slice)
            && let Some(listing) = &mut self.listing
        {
            let known = self.store.slice(&service, &slice.metadata.name);
            listing.put(&service, slice, known, elsewhere, texts);
        }
    }

    /// The list is complete.
    pub(super) fn list_finished(&mut self, now: Instant) {
        let Some(listed) = self.listing.take() else { return };
        let before = std::mem::replace(&mut self.store, listed);
        if let Some(watch) = self.watch.as_mut().filter(|watch| watch.listed_within.is_zero()) {
            watch.listed_within = now - watch.begun;
        }
        // Where slices may be listed and not watched, that is found out in a moment.
        let at = if self.access == SliceAccess::Denied { now + BATCHING } else { now };
        for (service, wanted) in &mut self.services {
            let is_first = wanted.coverage == WatchCoverage::Watched;
            if is_first {
                wanted.coverage = WatchCoverage::Listed;
            }
            if is_first || !self.store.has_same(service, &before) {
                wanted.joined.clear();
                self.dirty.insert(service.clone(), at);
            }
        }
        self.set_access(SliceAccess::Granted, now);
    }

    /// A slice was created or changed.
    pub(super) fn applied(&mut self, slice: &RawSlice, elsewhere: usize, texts: &mut SharedTexts, now: Instant) {
        let changed = match self.covered(slice) {
            Some(service) => self.store.put(&service, slice, None, elsewhere, texts),
            None => self.store.remove(&slice.metadata.namespace, &slice.metadata.name).into_iter().collect(),
        };
        for service in &changed {
            self.changed(service, now);
        }
    }

    /// A slice was deleted.
    pub(super) fn deleted(&mut self, slice: &RawSlice, now: Instant) {
        if let Some(service) = self.store.remove(&slice.metadata.namespace, &slice.metadata.name) {
            self.changed(&service, now);
        }
    }

    /// The Service of a slice, if it is wanted and the watch covers it.
    fn covered(&self, slice: &RawSlice) -> Option<ServiceRef> {
        let namespace = slice.metadata.namespace.as_str().into();
        let service = ServiceRef { namespace, name: slice.service()?.into() };
        let (service, wanted) = self.services.get_key_value(&service)?;
        (wanted.coverage != WatchCoverage::None).then(|| service.clone())
    }

    fn changed(&mut self, service: &ServiceRef, now: Instant) {
        let Some(wanted) = self.services.get_mut(service) else { return };
        wanted.joined.clear();
        if wanted.targets.is_empty() {
            return;
        }
        let endpoints: usize = self.store.slices(service).map(|slice| slice.endpoints.len()).sum();
        let members = u32::try_from(endpoints.saturating_mul(wanted.targets.len())).unwrap_or(u32::MAX);
        let delay = (BATCHING + BATCHING_PER_MEMBER.saturating_mul(members)).min(LONGEST_BATCHING);
        self.dirty.entry(service.clone()).or_insert(now + delay);
    }

    /// Sets whether slices can be read. If that has changed, all targets are told, not at once: it may change back.
    pub(super) fn set_access(&mut self, access: SliceAccess, now: Instant) {
        if self.access == access {
            return;
        }
        self.access = access;
        for service in self.services.keys() {
            self.dirty.entry(service.clone()).or_insert(now + BATCHING);
        }
    }

    /// When [`take_changed`](Self::take_changed) has something.
    pub(super) fn changes_at(&self) -> Option<Instant> {
        self.dirty.values().min().copied()
    }

    /// The targets of Services that have changed, if they are to be told now. Targets whose Service is not known yet are not told.
    pub(super) fn take_changed(&mut self, now: Instant) -> Vec<TargetId> {
        let is_denied = self.access == SliceAccess::Denied;
        let mut targets = Vec::new();
        self.dirty.retain(|service, at| {
            let is_due = *at <= now;
            if let Some(wanted) = self.services.get(service).filter(|_| is_due)
                && (is_denied || wanted.coverage == WatchCoverage::Listed)
            {
                targets.extend(wanted.targets.iter().cloned());
            }
            !is_due
        });
        targets
    }

    /// The members of a Service that was listed. Targets with equal members share them.
    pub(super) fn members(
        &mut self,
        service: &ServiceRef,
        port: &WantedPort,
        prefers_ipv6: bool,
    ) -> Result<Arc<[Member]>, MembersError> {
        let slices = self.store.slices(service);
        if slices.len() == 0 {
            return Err(MembersError::NoSlice);
        }
        let Some(wanted) = self.services.get_mut(service) else { return Err(MembersError::NoSlice) };
        if let Some(known) = wanted.joined.get(port) {
            return Ok(Arc::clone(known));
        }
        let members = match join(slices, port, prefers_ipv6) {
            Ok(members) => members,
            Err(error) => return Err(MembersError::Port(error)),
        };
        let mut known = wanted.joined.values();
        let members = match known.find(|known| known[..] == members[..]) {
            Some(equal) => Arc::clone(equal),
            None if wanted.joined.len() >= MOST_PORTS => return Err(MembersError::TooManyPorts),
            None => members.into(),
        };
        if wanted.joined.len() < MOST_JOINED {
            wanted.joined.insert(port.clone(), Arc::clone(&members));
        }
        Ok(members)
    }

    /// Everything that is kept.
    pub(super) const fn entries(&self) -> usize {
        self.store.entries()
    }

    /// Whether some endpoints of a Service are not kept.
    pub(super) fn is_truncated(&self, service: &ServiceRef) -> bool {
        self.store.is_truncated(service)
    }
}

/// Why a Service has no members, not even none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MembersError {
    /// No slice has its name.
    NoSlice,
    /// No endpoint has the port.
    Port(PortNotFound),
    /// Its targets ask for too many different ports of slices that admit any.
    TooManyPorts,
}
