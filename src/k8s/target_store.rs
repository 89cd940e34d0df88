//! Every ScrapeTarget as the API server last showed it, with its state in this process. The store computes nothing and writes nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use super::observed::ObservedTarget;
use super::settings::Scope;
use crate::crd::{ConditionStatus, ScrapeTargetStatus};
use crate::target::{Problem, TargetId};

/// One ScrapeTarget and its state.
#[derive(Clone, Debug)]
pub(super) struct TargetRecord {
    pub(super) object: Arc<ObservedTarget>,
    /// Whether it can be polled as it is declared; `None`: its Secrets are not read yet.
    pub(super) accepted: Option<Result<(), Problem>>,
    /// The state of its ServiceMonitor; `None`: not known yet, or written by another replica.
    pub(super) monitor: Option<MonitorState>,
}

/// The condition `MonitorReady`, but for its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MonitorState {
    pub(super) status: ConditionStatus,
    /// In CamelCase.
    pub(super) reason: &'static str,
    /// One sentence.
    pub(super) message: String,
}

impl MonitorState {
    /// Whether the message quotes the API server or a webhook, whose words may differ each time.
    pub(super) fn is_quoted(&self) -> bool {
        matches!(self.reason, "Refused" | "Failed")
    }
}

/// All ScrapeTargets, by name.
#[derive(Debug, Default)]
pub(super) struct TargetStore {
    records: RwLock<BTreeMap<TargetId, TargetRecord>>,
    /// The scopes that were listed completely. In other namespaces there may be targets that are not known here.
    listed: RwLock<HashSet<Scope>>,
}

impl TargetStore {
    /// Stores an object as the API server shows it now. Its state is kept while the uid is the same.
    pub(super) fn put(&self, object: Arc<ObservedTarget>) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        match records.get_mut(&object.id) {
            Some(record) if record.object.uid == object.uid => record.object = object,
            _ => {
                records.insert(object.id.clone(), TargetRecord { object, accepted: None, monitor: None });
            }
        }
    }

    /// Stores the status that the API server has after our own write, unless a newer object was observed in the meantime.
    pub(super) fn put_status(&self, before: &ObservedTarget, resource_version: String, status: ScrapeTargetStatus) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get_mut(&before.id)
            && record.object.uid == before.uid
            && record.object.resource_version == before.resource_version
        {
            record.object = Arc::new(ObservedTarget { resource_version, status, ..(*record.object).clone() });
        }
    }

    /// Stores whether a target can be polled. Returns whether that has changed.
    pub(super) fn put_accepted(&self, id: &TargetId, accepted: Result<(), Problem>) -> bool {
        self.update(id, |record| replace(&mut record.accepted, Some(accepted)))
    }

    /// Stores the state of a target's ServiceMonitor. Returns whether it has changed.
    pub(super) fn put_monitor(&self, id: &TargetId, monitor: Option<MonitorState>) -> bool {
        self.update(id, |record| replace(&mut record.monitor, monitor))
    }

    fn update(&self, id: &TargetId, change: impl FnOnce(&mut TargetRecord) -> bool) -> bool {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        records.get_mut(id).is_some_and(change)
    }

    pub(super) fn remove(&self, id: &TargetId) -> Option<TargetRecord> {
        self.records.write().unwrap_or_else(PoisonError::into_inner).remove(id)
    }

    pub(super) fn get(&self, id: &TargetId) -> Option<TargetRecord> {
        self.records.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Marks a scope as listed: a target in it that is not here does not exist.
    pub(super) fn set_listed(&self, scope: Scope) {
        self.listed.write().unwrap_or_else(PoisonError::into_inner).insert(scope);
    }

    /// Whether every target of `namespace` is here.
    pub(super) fn is_listed(&self, namespace: &Arc<str>) -> bool {
        let listed = self.listed.read().unwrap_or_else(PoisonError::into_inner);
        listed.contains(&None) || listed.contains(&Some(Arc::clone(namespace)))
    }

    /// Every name, in order.
    pub(super) fn ids(&self) -> Vec<TargetId> {
        self.records.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

fn replace<T: PartialEq>(current: &mut T, value: T) -> bool {
    let changed = *current != value;
    *current = value;
    changed
}
