//! Every ScrapeTarget as the API server last showed it, and what has become of it here. It computes nothing and writes nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use crate::crd::{ConditionStatus, ParsedTarget, ScrapeTargetStatus};
use crate::target::{Problem, TargetId};

/// A ScrapeTarget of the cluster.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) id: TargetId,
    pub(super) uid: Arc<str>,
    pub(super) generation: i64,
    pub(super) resource_version: String,
    /// What the user wrote; or, where an older schema let something through that we cannot use, why not.
    pub(super) declaration: Result<Arc<ParsedTarget>, Problem>,
    /// What is said of it in the cluster.
    pub(super) status: ScrapeTargetStatus,
}

/// What is known of one ScrapeTarget.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) object: Arc<Object>,
    /// Whether it can be polled as it is declared; `None`: its Secrets are not read yet.
    pub(super) accepted: Option<Result<(), Problem>>,
    /// What has become of its ServiceMonitor; `None`: nothing yet, or not our business.
    pub(super) monitor: Option<MonitorState>,
}

/// The condition `MonitorReady`, but for its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MonitorState {
    pub(super) status: ConditionStatus,
    /// One word in CamelCase.
    pub(super) reason: &'static str,
    /// The sentence.
    pub(super) message: String,
}

impl MonitorState {
    /// Whether the sentence has the words of somebody else in it, which may be others each time.
    pub(super) fn is_quoted(&self) -> bool {
        matches!(self.reason, "Refused" | "Failed")
    }
}

/// All of them, by name.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    records: RwLock<BTreeMap<TargetId, Record>>,
    /// The namespaces that were listed; `None`: all together. In others, what is not here may be there all the same.
    listed: RwLock<HashSet<Option<Arc<str>>>>,
}

impl Catalog {
    /// Takes what the API server shows now. What became of an object stays known while it is the same object.
    pub(super) fn put(&self, object: Arc<Object>) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        match records.get_mut(&object.id) {
            Some(record) if record.object.uid == object.uid => record.object = object,
            _ => {
                records.insert(object.id.clone(), Record { object, accepted: None, monitor: None });
            }
        }
    }

    /// Takes the status that the API server holds after our own write, unless something newer was seen meanwhile.
    pub(super) fn put_status(&self, before: &Object, resource_version: String, status: ScrapeTargetStatus) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get_mut(&before.id)
            && record.object.uid == before.uid
            && record.object.resource_version == before.resource_version
        {
            let object = &record.object;
            record.object = Arc::new(Object {
                id: object.id.clone(),
                uid: Arc::clone(&object.uid),
                generation: object.generation,
                resource_version,
                declaration: object.declaration.clone(),
                status,
            });
        }
    }

    /// Notes whether a target can be polled. Returns whether that is news.
    pub(super) fn put_accepted(&self, id: &TargetId, accepted: Result<(), Problem>) -> bool {
        self.update(id, |record| replace(&mut record.accepted, Some(accepted)))
    }

    /// Notes what became of a target's ServiceMonitor. Returns whether that is news.
    pub(super) fn put_monitor(&self, id: &TargetId, monitor: Option<MonitorState>) -> bool {
        self.update(id, |record| replace(&mut record.monitor, monitor))
    }

    fn update(&self, id: &TargetId, change: impl FnOnce(&mut Record) -> bool) -> bool {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        records.get_mut(id).is_some_and(change)
    }

    pub(super) fn remove(&self, id: &TargetId) -> Option<Record> {
        self.records.write().unwrap_or_else(PoisonError::into_inner).remove(id)
    }

    pub(super) fn get(&self, id: &TargetId) -> Option<Record> {
        self.records.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// A namespace was listed, or all (`None`): what of it is not here does not exist.
    pub(super) fn set_listed(&self, namespace: Option<Arc<str>>) {
        self.listed.write().unwrap_or_else(PoisonError::into_inner).insert(namespace);
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

fn replace<T: PartialEq>(place: &mut T, value: T) -> bool {
    let news = *place != value;
    *place = value;
    news
}
