//! What comes to the writer's knowledge: about the Operator, and about the monitors of this release.

use std::collections::HashSet;
use std::sync::Arc;

use futures::stream::SelectAll;
use kube::runtime::watcher::Event;

use super::super::super::access::ApiError;
use super::super::super::failing::Failing;
use super::super::super::{MonitorNamespace, Shared};
use super::super::features::Installed;
use super::super::ledger::Ledger;
use super::super::object::Shown;
use super::super::observed::Observed;
use super::super::patience::Patience;
use super::super::place::Place;
use super::super::sight;
use super::words::crd_missing;
use super::{Busy, Writer};
use crate::target::TargetId;

impl Writer {
    pub(super) fn install(&mut self, installed: Installed) {
        let before = self.installed.replace(installed);
        match (before, installed) {
            (_, Installed::No) => {
                tracing::warn!("{}", crd_missing().message);
                self.watches = SelectAll::new();
                self.ledger = Ledger::default();
                self.patience = Patience::default();
                self.failing = Failing::default();
                self.denied.clear();
            }
            (Some(Installed::Yes(_)), Installed::Yes(features)) => {
                tracing::info!(%features, "the fields of ServiceMonitors have changed");
            }
            (_, Installed::Yes(features)) => {
                tracing::info!(%features, "the Prometheus Operator is installed, ServiceMonitors are written");
                self.watches = sight::watch(&self.shared().cluster, &self.shared().settings, &self.scopes);
            }
        }
        self.look_at_all();
    }

    pub(super) fn sight(&mut self, scope: usize, event: Result<Event<Shown>, ApiError>) {
        match event {
            Ok(Event::Init) => self.ledger.begin(scope),
            Ok(Event::InitApply(object)) => {
                self.see(scope, object);
            }
            Ok(Event::Apply(object)) => {
                self.count("applied");
                let id = self.see(scope, object);
                self.shared().monitors.mark(id);
            }
            Ok(Event::Delete(object)) => {
                self.count("deleted");
                let place = Observed::new(object).place;
                self.ledger.forget(&place);
                self.overtake(&place);
                self.shared().monitors.mark(self.target_of(&place));
            }
            Ok(Event::InitDone) => {
                let covered = self.scopes[scope].clone();
                let gone = self.ledger.end(scope, |place| covered.as_ref().is_none_or(|name| *name == place.namespace));
                for place in gone {
                    self.overtake(&place);
                }
                self.denied.remove(&scope);
                self.look_at_scope(scope);
                self.sweep();
            }
            Err(ApiError::Forbidden(rule)) => {
                if self.denied.insert(scope, rule).is_none() {
                    self.look_at_scope(scope);
                }
            }
            Err(error) => tracing::debug!(%error, "the watch of ServiceMonitors is interrupted"),
        }
    }

    fn count(&self, event: &str) {
        self.shared().metrics.events.with_label_values(&["ServiceMonitor", event]).inc();
    }

    fn see(&mut self, scope: usize, object: Shown) -> Option<TargetId> {
        let found = Observed::new(object);
        self.overtake(&found.place);
        let id = self.target_of(&found.place);
        let desired = id.as_ref().and_then(|id| self.desired(id)?.ok());
        let forgery = id.as_ref().is_some_and(|id| found.is_forgery(id, &self.shared().settings));
        self.ledger.see(scope, found, desired.as_ref(), forgery);
        id
    }

    fn overtake(&mut self, place: &Place) {
        if let Some(busy) = self.busy.get_mut(place) {
            *busy = Busy { again: true, overtaken: true };
        }
    }

    /// Finds what an earlier mode left, and what belonged to a target that went while nobody led.
    pub(super) fn sweep(&mut self) {
        let unwanted: HashSet<Place> = self.ledger.places().filter(|place| self.is_unwanted(place)).cloned().collect();
        self.unwanted = unwanted.into_iter().collect();
    }

    pub(super) fn is_unwanted(&self, place: &Place) -> bool {
        !self.busy.contains_key(place)
            && self.ledger.uid(place).is_some()
            && self.target_of(place).is_none_or(|id| self.shared().catalog.get(&id).is_none())
            && self.is_listed(&self.target_namespace(place))
    }

    /// Whether a target of `namespace` that we do not know is none: a namespace that may not be listed looks empty, too.
    fn is_listed(&self, namespace: &Arc<str>) -> bool {
        let Shared { catalog, settings, .. } = self.shared();
        let watched = &settings.watch_namespaces;
        catalog.is_listed(namespace) || !watched.is_empty() && !watched.iter().any(|name| **name == **namespace)
    }

    /// Where the target of our monitor at `place` is, or was.
    fn target_namespace(&self, place: &Place) -> Arc<str> {
        let settings = &self.shared().settings;
        let in_release = settings.discovery.monitor_namespace == MonitorNamespace::Release;
        let by_name = || match place.name.split_once('.') {
            Some((namespace, _)) if in_release && *place.namespace == *settings.namespace => Arc::from(namespace),
            _ => Arc::clone(&place.namespace),
        };
        self.ledger.target_namespace(place).cloned().unwrap_or_else(by_name)
    }
}
