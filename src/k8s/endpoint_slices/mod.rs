//! The endpoints of Services that targets name as their members, kept up to date by one watch of EndpointSlices for each scope.
//!
//! The watch begins with the first target that names a Service, and ends with the last. Of Services that no target names, nothing is kept.
//! While the API server is away, the endpoints that were last known stay in use.

mod join;
mod problem;
mod scope;
mod slice;
mod store;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt as _;
use futures::future::join_all;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::changed_targets::ChangedTargets;
use super::client::ApiError;
use super::outage::Part;
use super::settings::Scope;
use super::watch::{Collection, WatchConfig, WatchEvent, watch};
use crate::crd::ParsedTarget;
use crate::target::{Member, Problem, TargetId};
use join::WantedPort;
use problem::EndpointsError;
use scope::{MembersError, ScopeState, SliceAccess};
use slice::{RawSlice, SharedTexts, is_service_name};
use store::{MOST, ServiceRef};

/// Slices in one page: each may have 35 kB, and the ones that no target needs are dropped only when it was read.
const PAGE_SIZE: u32 = 100;

/// The most Services of which it is logged that not all of their endpoints are kept.
const MOST_TRUNCATED_LOGGED: usize = 10;

/// The endpoints of Services, kept up to date by [`run`](Self::run).
pub(super) struct EndpointCache {
    shared: Arc<Shared>,
    scopes: Vec<SliceScope>,
    state: Mutex<EndpointState>,
    /// The targets whose endpoints have changed, or were all read for the first time.
    pub(super) changed: ChangedTargets,
}

struct SliceScope {
    scope: Scope,
    /// Wakes its watch when it should begin, be replaced or end.
    rescheduled: Notify,
}

#[derive(Default)]
struct EndpointState {
    scopes: Vec<ScopeState>,
    /// The Service that each target names.
    services: HashMap<TargetId, ServiceRef>,
    texts: SharedTexts,
    /// Services of which it was logged that not all of their endpoints are kept.
    truncated_logged: HashSet<ServiceRef>,
}

impl EndpointCache {
    pub(super) fn new(shared: Arc<Shared>, scopes: &[Scope]) -> Arc<Self> {
        let state = EndpointState {
            scopes: scopes.iter().map(|_| ScopeState::default()).collect(),
            ..EndpointState::default()
        };
        let watched = |scope: &Scope| SliceScope { scope: scope.clone(), rescheduled: Notify::new() };
        let scopes = scopes.iter().map(watched).collect();
        Arc::new(Self { shared, scopes, state: Mutex::new(state), changed: ChangedTargets::default() })
    }

    /// Replaces the Service that a target names.
    pub(super) fn set_service(&self, id: &TargetId, declaration: &ParsedTarget) {
        let service = declaration.members_service().filter(|name| is_service_name(name));
        let mut state = self.state();
        let before = state.services.get(id);
        if before.map(|service| &*service.name) == service {
            return;
        }
        let Some(index) = self.scope_of(&id.namespace) else { return };
        let Some(rescheduled) = self.scopes.get(index).map(|scope| &scope.rescheduled) else { return };
        let EndpointState { scopes, services, .. } = &mut *state;
        let Some(scope) = scopes.get_mut(index) else { return };
        let before = services.remove(id);
        // The new one first, so that the watch does not end in between.
        let mut must_wake = false;
        if let Some(name) = service {
            let service = ServiceRef { namespace: Arc::clone(&id.namespace), name: name.into() };
            must_wake |= scope.want(&service, id, Instant::now());
            services.insert(id.clone(), service);
        }
        if let Some(before) = before {
            must_wake |= scope.unwant(&before, id, Instant::now());
        }
        if must_wake {
            rescheduled.notify_one();
        }
    }

    /// Removes a target, and in a while everything of its Service if no other target names that.
    pub(super) fn remove_target(&self, id: &TargetId) {
        let mut state = self.state();
        let Some(service) = state.services.remove(id) else { return };
        self.changed.remove(id);
        if let Some(index) = self.scope_of(&id.namespace)
            && let Some(scope) = state.scopes.get_mut(index)
            && scope.unwant(&service, id, Instant::now())
            && let Some(SliceScope { rescheduled, .. }) = self.scopes.get(index)
        {
            rescheduled.notify_one();
        }
    }

    /// Whether the endpoints of a target are known, or that they may not be read. A target that names no Service has none.
    pub(super) fn is_read(&self, id: &TargetId) -> bool {
        let state = self.state();
        let Some(service) = state.services.get(id) else { return true };
        let scope = self.scope_of(&id.namespace).and_then(|index| state.scopes.get(index));
        scope.is_none_or(|scope| scope.access == SliceAccess::Denied || scope.is_listed(service))
    }

    /// Whether the endpoints of a target, which are not read, will be soon, since the API server answers.
    pub(super) fn is_being_read(&self, id: &TargetId) -> bool {
        let state = self.state();
        let scope = self.scope_of(&id.namespace).and_then(|index| state.scopes.get(index));
        state.services.contains_key(id) && scope.is_some_and(|scope| scope.access == SliceAccess::Granted)
    }

    /// The endpoints of the Service that a target names.
    pub(super) fn endpoints(&self, id: &TargetId, declaration: &ParsedTarget) -> Result<Arc<[Member]>, Problem> {
        let found = self.find(id, declaration);
        found.map_err(|error| error.problem())
    }

    fn find(&self, id: &TargetId, declaration: &ParsedTarget) -> Result<Arc<[Member]>, EndpointsError> {
        let state = &mut *self.state();
        let Some(service) = state.services.get(id) else { return Err(EndpointsError::no_service(id, declaration)) };
        let scope = self.scope_of(&id.namespace).and_then(|index| Some((index, state.scopes.get_mut(index)?)));
        let Some((index, scope)) = scope else { return Err(EndpointsError::no_service(id, declaration)) };
        match &scope.access {
            SliceAccess::Denied => return Err(EndpointsError::Forbidden(service.clone(), self.collection(index))),
            SliceAccess::Failed(why) if !scope.is_listed(service) => {
                return Err(EndpointsError::Unread(service.clone(), Arc::clone(why)));
            }
            SliceAccess::Granted if !scope.is_listed(service) => {
                return Err(EndpointsError::Unread(service.clone(), "they are being listed".into()));
            }
            SliceAccess::Granted | SliceAccess::Failed(_) => {}
        }
        let members = declaration.spec.members.as_ref().and_then(|members| members.service.as_ref());
        let port = WantedPort {
            name: members.and_then(|service| service.port.as_deref()).map(Arc::from),
            number: declaration.url().port_or_known_default().unwrap_or(80),
        };
        let prefers_ipv6 = self.shared.settings.advertise.is_some_and(|address| address.is_ipv6());
        let is_truncated = scope.is_truncated(service);
        match scope.members(service, &port, prefers_ipv6) {
            // Else the target would be told that there are no pods.
            Ok(members) if members.is_empty() && is_truncated => Err(EndpointsError::NotKept(service.clone())),
            Err(MembersError::NoSlice) if is_truncated => Err(EndpointsError::NotKept(service.clone())),
            Ok(members) => Ok(members),
            Err(MembersError::NoSlice) => Err(EndpointsError::no_service(id, declaration)),
            Err(MembersError::Port(found)) => Err(EndpointsError::Port(service.clone(), port, found)),
            Err(MembersError::TooManyPorts) => Err(EndpointsError::TooManyPorts(service.clone())),
        }
    }

    /// Watches the slices of every scope until `stop`.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) -> &'static str {
        let watches = join_all((0..self.scopes.len()).map(|index| self.run_scope(index)));
        stop.run_until_cancelled(watches).await;
        "the watches of EndpointSlices"
    }

    async fn run_scope(&self, index: usize) {
        let Some(SliceScope { rescheduled, .. }) = self.scopes.get(index) else { return };
        loop {
            match self.begins_at(index) {
                Some(at) if at <= Instant::now() => self.watch(index, rescheduled).await,
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = rescheduled.notified() => {}
                },
                None => rescheduled.notified().await,
            }
        }
    }

    /// When a watch of the scope should begin. If no target names a Service, everything is dropped instead, so that it is `None`: a watch
    /// that returned at once would be begun over and over.
    fn begins_at(&self, index: usize) -> Option<Instant> {
        let begins_at = self.with_scope(index, |scope| {
            if scope.is_wanted() {
                return scope.begins_at();
            }
            scope.end();
            None
        });
        begins_at.flatten().or_else(|| {
            self.shared.outage.works(Part::EndpointSlices(index));
            None
        })
    }

    /// Watches the slices of a scope until another selector is needed, or none.
    async fn watch(&self, index: usize, rescheduled: &Notify) {
        let selector = self.with_scope(index, |scope| scope.is_wanted().then(|| scope.begin(Instant::now())));
        let Some(selector) = selector.flatten() else { return };
        tracing::debug!(selector, "EndpointSlices are watched");
        let config = WatchConfig { label_selector: Some(selector), page_size: PAGE_SIZE, ..WatchConfig::default() };
        let mut events = watch::<RawSlice>(&self.shared.client, self.collection(index), config);
        loop {
            let deadlines = self.with_scope(index, |scope| {
                if scope.is_wanted() {
                    scope.forget_unwanted(Instant::now());
                    return Some((scope.changes_at(), scope.begins_at(), scope.forgets_at()));
                }
                scope.end();
                None
            });
            let Some((changes_at, begins_at, forgets_at)) = deadlines.flatten() else {
                tracing::debug!("EndpointSlices are not needed any more");
                return self.shared.outage.works(Part::EndpointSlices(index));
            };
            if begins_at.is_some_and(|at| at <= Instant::now()) {
                return;
            }
            let wake_at = [changes_at, begins_at, forgets_at].into_iter().flatten().min();
            let due = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.handle(index, event),
                    None => return,
                },
                () = due => {}
                () = rescheduled.notified() => {}
            }
            self.publish(index);
        }
    }

    fn handle(&self, index: usize, event: WatchEvent<RawSlice>) {
        let (now, mut state) = (Instant::now(), self.state());
        let entries: usize = state.scopes.iter().map(ScopeState::entries).sum();
        let EndpointState { scopes, texts, .. } = &mut *state;
        let Some(scope) = scopes.get_mut(index) else { return };
        let elsewhere = entries - scope.entries();
        match event {
            WatchEvent::ListStarted => scope.list_started(),
            WatchEvent::ListPage(page) => page.iter().for_each(|slice| scope.listed(slice, elsewhere, texts)),
            WatchEvent::ListFinished => {
                scope.list_finished(now);
                self.shared.outage.works(Part::EndpointSlices(index));
                self.count("listed");
            }
            WatchEvent::Applied(slice) => {
                scope.applied(&slice, elsewhere, texts, now);
                self.count("applied");
            }
            WatchEvent::Deleted(slice) => {
                scope.deleted(&slice, now);
                self.count("deleted");
            }
            WatchEvent::Denied => {
                scope.set_access(SliceAccess::Denied, now);
                self.shared.outage.works(Part::EndpointSlices(index)); // the missing permission is logged by the client
            }
            WatchEvent::Failed(ApiError::Forbidden(_)) => self.shared.outage.works(Part::EndpointSlices(index)),
            WatchEvent::Failed(error) => {
                // What was listed before stays in use, and a permission that was taken away is no less missing.
                if matches!(scope.access, SliceAccess::Failed(_)) {
                    scope.set_access(SliceAccess::Failed(error.to_string().into()), now);
                }
                self.shared.outage.failed(Part::EndpointSlices(index), &error, self.shared.pollers.known());
            }
            WatchEvent::Recovered => {
                scope.set_access(SliceAccess::Granted, now);
                self.shared.outage.works(Part::EndpointSlices(index));
            }
        }
    }

    /// Tells the targets whose endpoints have changed.
    fn publish(&self, index: usize) {
        let mut state = self.state();
        let EndpointState { scopes, services, truncated_logged, .. } = &mut *state;
        let Some(scope) = scopes.get_mut(index) else { return };
        let targets = scope.take_changed(Instant::now());
        for service in targets.iter().filter_map(|id| services.get(id)) {
            if scope.is_truncated(service)
                && truncated_logged.len() < MOST_TRUNCATED_LOGGED
                && truncated_logged.insert(service.clone())
            {
                tracing::warn!(
                    namespace = &*service.namespace,
                    service = &*service.name,
                    "the Service, or all Services of its namespace, or those of all targets ({MOST}) have more endpoints than are kept, so \
                     that some of them are not polled"
                );
            }
        }
        self.changed.add_all(targets);
    }

    fn with_scope<T>(&self, index: usize, change: impl FnOnce(&mut ScopeState) -> T) -> Option<T> {
        self.state().scopes.get_mut(index).map(change)
    }

    /// The scope in which the slices of a namespace are watched.
    fn scope_of(&self, namespace: &Arc<str>) -> Option<usize> {
        self.scopes.iter().position(|SliceScope { scope, .. }| scope.as_ref().is_none_or(|scope| scope == namespace))
    }

    fn collection(&self, index: usize) -> Collection {
        let scope = self.scopes.get(index).and_then(|scope| scope.scope.clone());
        Collection { group: "discovery.k8s.io", version: "v1", resource: "endpointslices", scope }
    }

    fn count(&self, event: &str) {
        self.shared.metrics.events.with_label_values(&["EndpointSlice", event]).inc();
    }

    /// As if every scope had been listed before its targets were declared.
    #[cfg(test)]
    pub(super) fn grant(&self) {
        self.state().scopes.iter_mut().for_each(|scope| scope.set_access(SliceAccess::Granted, Instant::now()));
    }

    fn state(&self) -> MutexGuard<'_, EndpointState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
