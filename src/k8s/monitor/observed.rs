//! The ServiceMonitors of this release as the API server shows them, and whether each is as desired.
//!
//! Others may add labels, annotations and fields to our monitors, and the API server may add defaults. These are never compared.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, OwnerReference};
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::desired::{DesiredMonitor, MonitorRef, hash};
use super::policy::violates_policy;
use super::{GROUP, KIND, PLURAL, VERSION, labels};
use crate::k8s::Settings;
use crate::target::TargetId;

/// A ServiceMonitor, without the metadata that is not used. See [`RawTarget`](crate::k8s::observed::RawTarget) for why nothing else of it is parsed.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::k8s) struct ServiceMonitor {
    /// Of `managedFields`, only the entry of our own server-side apply.
    #[serde(deserialize_with = "metadata")]
    pub(in crate::k8s) metadata: ObjectMeta,
    /// As text, which takes a tenth of the memory of a tree: any user who may write ServiceMonitors decides how large it is.
    #[serde(default)]
    spec: Option<Box<RawValue>>,
}

impl Resource for ServiceMonitor {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct MonitorMetadata {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<BTreeMap<String, String>>,
        owner_references: Option<Vec<OwnerReference>>,
        managed_fields: Option<Vec<ManagerEntry>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ManagerEntry {
        manager: Option<String>,
        operation: Option<String>,
        // Parsed for our own entry only: in others there may be anything, at any depth.
        fields_v1: Option<Box<RawValue>>,
    }
    let found = MonitorMetadata::deserialize(deserializer)?;
    let ours = found.managed_fields.into_iter().flatten().filter(|entry| {
        entry.manager.as_deref() == Some(labels::MANAGER) && entry.operation.as_deref() == Some("Apply")
    });
    let ours = ours.map(|ManagerEntry { manager, operation, fields_v1 }| {
        let fields_v1 = fields_v1.and_then(|fields| serde_json::from_str(fields.get()).ok()).map(FieldsV1);
        ManagedFieldsEntry { manager, operation, fields_v1, ..ManagedFieldsEntry::default() }
    });
    Ok(ObjectMeta {
        name: found.name,
        namespace: found.namespace,
        uid: found.uid,
        resource_version: found.resource_version,
        labels: found.labels,
        annotations: found.annotations,
        owner_references: found.owner_references,
        managed_fields: Some(ours.collect()),
        ..ObjectMeta::default()
    })
}

/// The part of a ServiceMonitor in the cluster that can be compared with a [`DesiredMonitor`].
#[derive(Debug)]
pub(super) struct ObservedMonitor {
    pub(super) monitor: MonitorRef,
    pub(super) uid: String,
    /// The namespace of its target, from its label: the monitor's own namespace may be another.
    pub(super) target_namespace: Option<Arc<str>>,
    /// In the shape of [`DesiredMonitor::fields`].
    fields: Value,
    /// The fields that our field manager owns, in the format of `managedFields`; `None` if we never applied it.
    owned: Option<Value>,
}

impl From<ServiceMonitor> for ObservedMonitor {
    fn from(ServiceMonitor { metadata, spec }: ServiceMonitor) -> Self {
        let spec: Value = spec.and_then(|spec| serde_json::from_str(spec.get()).ok()).unwrap_or_default();
        let ObjectMeta { name, namespace, uid, labels, annotations, owner_references, managed_fields, .. } = metadata;
        let target_namespace = labels.as_ref().and_then(|labels| labels.get(labels::TARGET_NAMESPACE));
        let ours = managed_fields.into_iter().flatten().next();
        Self {
            target_namespace: target_namespace.map(|name| Arc::from(name.as_str())),
            monitor: MonitorRef {
                namespace: namespace.unwrap_or_default().into(),
                name: name.unwrap_or_default().into(),
            },
            uid: uid.unwrap_or_default(),
            fields: json!({
                "metadata": { "labels": labels, "annotations": annotations, "ownerReferences": owner_references },
                "spec": spec,
            }),
            owned: ours.map(|entry| entry.fields_v1.map_or(Value::Null, |fields| fields.0)),
        }
    }
}

impl ObservedMonitor {
    /// Equal to [`DesiredMonitor::hash`] if all that we apply is as desired, and nothing that we applied before is left over.
    pub(super) fn hash(&self, desired: &DesiredMonitor) -> u64 {
        let common = json!({
            "metadata": common_fields(&self.fields["metadata"], &desired.fields["metadata"]),
            // A field of the spec is ours as a whole, at any depth.
            "spec": fields_of(&self.fields["spec"], &desired.fields["spec"], |observed, _| observed.clone()),
        });
        // A field that we applied and do not desire any more still exists, and is not among the common fields.
        if self.owned.as_ref().is_some_and(|owned| owns_more(owned, &desired.fields)) {
            hash(&json!([common, "and more"]))
        } else {
            hash(&common)
        }
    }

    /// Whether it violates the policy for monitors of the target `id`.
    pub(super) fn violates_policy(&self, id: &TargetId, settings: &Settings) -> bool {
        violates_policy(&self.fields["spec"], id, settings)
    }

    /// Whether this release wrote it, by its labels. A label that we wrote and another field manager has changed or removed counts as ours.
    pub(super) fn is_ours(&self, settings: &Settings) -> bool {
        let labels = &self.fields["metadata"]["labels"];
        let owned = self.owned.as_ref().map(|owned| &owned["f:metadata"]["f:labels"]);
        [(labels::RELEASE, &settings.release), (labels::RELEASE_NAMESPACE, &settings.namespace)].iter().all(
            |(label, value)| {
                let taken_from_us = owned.is_some_and(|owned| owned.get(format!("f:{label}")).is_none());
                labels[*label] == value.as_str() || taken_from_us
            },
        )
    }

    /// Who wrote it, for messages.
    pub(super) fn owner(&self) -> String {
        let labels = &self.fields["metadata"]["labels"];
        match (labels[labels::RELEASE].as_str(), labels[labels::RELEASE_NAMESPACE].as_str()) {
            (Some(release), Some(namespace)) => format!("the release {release} in namespace {namespace}"),
            _ => labels[labels::MANAGED_BY].as_str().unwrap_or("somebody else").to_owned(),
        }
    }
}

/// The fields of `observed` that `desired` has as well, each mapped by `value`.
fn fields_of(observed: &Value, desired: &Value, value: impl Fn(&Value, &Value) -> Value) -> Value {
    let fields = desired.as_object().into_iter().flatten();
    let common = fields.filter_map(|(field, desired)| Some((field.clone(), value(observed.get(field)?, desired))));
    Value::Object(common.collect::<Map<_, _>>())
}

/// The same at any depth. Items of a list, which are owner references, are matched by uid.
fn common_fields(observed: &Value, desired: &Value) -> Value {
    match (observed, desired) {
        (Value::Object(_), Value::Object(_)) => fields_of(observed, desired, common_fields),
        (Value::Array(observed), Value::Array(desired)) => {
            let same = |desired: &Value| observed.iter().find(|item| item.get("uid") == desired.get("uid"));
            desired.iter().filter_map(|desired| Some(common_fields(same(desired)?, desired))).collect()
        }
        _ => observed.clone(),
    }
}

/// Whether a set of fields in the format of `managedFields` has one that `desired` lacks.
fn owns_more(owned: &Value, desired: &Value) -> bool {
    let Value::Object(owned) = owned else { return false };
    owned.iter().any(|(key, below)| {
        let desired = match key.split_once(':') {
            Some(("f", field)) => desired.get(field),
            Some(("k", keys)) => serde_json::from_str::<Map<String, Value>>(keys).ok().and_then(|keys| {
                let matches = |item: &&Value| keys.iter().all(|(key, value)| item.get(key) == Some(value));
                desired.as_array()?.iter().find(matches)
            }),
            // `.` is the field itself.
            _ => return false,
        };
        desired.is_none_or(|desired| owns_more(below, desired))
    })
}

/// All monitors of this release: for each a few hashes, not the object.
#[derive(Debug, Default)]
pub(super) struct MonitorStore {
    monitors: HashMap<MonitorRef, StoredMonitor>,
    /// The monitors that each list in progress has shown.
    listing: HashMap<usize, HashSet<MonitorRef>>,
    /// The watches that have listed everything once.
    synced: HashSet<usize>,
}

#[derive(Debug)]
struct StoredMonitor {
    uid: String,
    /// From its label.
    target_namespace: Option<Arc<str>>,
    /// At the time of the last event.
    observed: Option<SyncHashes>,
    /// After our own last write. Where the API server or a webhook changes what we write, writing it again would not help.
    written: Option<SyncHashes>,
    violates_policy: bool,
}

/// The hashes of what was desired and of what was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SyncHashes {
    desired: u64,
    observed: u64,
}

impl SyncHashes {
    fn new(observed: &ObservedMonitor, desired: &DesiredMonitor) -> Self {
        Self { desired: desired.hash, observed: observed.hash(desired) }
    }
}

/// How a monitor in the cluster compares with what is desired.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SyncStatus {
    /// There is none of this release; there may be one of somebody else.
    Missing,
    InSync,
    /// The monitor with this uid differs, or was not compared with what is desired now.
    OutOfSync {
        uid: String,
    },
}

impl MonitorStore {
    /// The watch `scope` starts to list.
    pub(super) fn begin_list(&mut self, scope: usize) {
        self.listing.insert(scope, HashSet::new());
    }

    /// The watch `scope` has listed everything that it `covers`. Returns the monitors that are gone.
    pub(super) fn end_list(&mut self, scope: usize, covers: impl Fn(&MonitorRef) -> bool) -> Vec<MonitorRef> {
        self.synced.insert(scope);
        let listed = self.listing.remove(&scope).unwrap_or_default();
        let is_gone = |monitor: &MonitorRef| covers(monitor) && !listed.contains(monitor);
        self.monitors.extract_if(|monitor, _| is_gone(monitor)).map(|(monitor, _)| monitor).collect()
    }

    /// Whether the watch `scope` has listed everything once. Before that, a monitor that is not here may exist.
    pub(super) fn has_synced(&self, scope: usize) -> bool {
        self.synced.contains(&scope)
    }

    /// Stores what the watch `scope` shows. `desired` is what should be there.
    pub(super) fn observe(
        &mut self,
        scope: usize,
        found: ObservedMonitor,
        desired: Option<&DesiredMonitor>,
        violates_policy: bool,
    ) {
        if let Some(listed) = self.listing.get_mut(&scope) {
            listed.insert(found.monitor.clone());
        }
        let observed = desired.map(|desired| SyncHashes::new(&found, desired));
        let stored = self.entry(found);
        stored.observed = observed;
        stored.violates_policy = violates_policy;
    }

    /// Stores the answer to our own write. `observed_since`: the watch has shown the monitor since the write began, and may have shown a newer
    /// state.
    pub(super) fn wrote(&mut self, found: ObservedMonitor, desired: &DesiredMonitor, observed_since: bool) {
        let hashes = SyncHashes::new(&found, desired);
        let is_known = self.uid(&found.monitor) == Some(found.uid.as_str());
        if observed_since && !is_known {
            return;
        }
        let stored = self.entry(found);
        stored.written = Some(hashes);
        if !observed_since {
            stored.observed = Some(hashes);
            stored.violates_policy = false;
        }
    }

    /// The entry of a monitor, a new one if it was deleted and created again.
    fn entry(&mut self, found: ObservedMonitor) -> &mut StoredMonitor {
        let ObservedMonitor { monitor, uid, target_namespace, .. } = found;
        let new =
            |uid| StoredMonitor { uid, target_namespace: None, observed: None, written: None, violates_policy: false };
        let stored = self.monitors.entry(monitor).or_insert_with(|| new(uid.clone()));
        if stored.uid != uid {
            *stored = new(uid);
        }
        stored.target_namespace = target_namespace;
        stored
    }

    pub(super) fn remove(&mut self, monitor: &MonitorRef) {
        self.monitors.remove(monitor);
    }

    /// How `monitor` compares with the hash of what is desired.
    pub(super) fn sync_status(&self, monitor: &MonitorRef, desired: u64) -> SyncStatus {
        let Some(stored) = self.monitors.get(monitor) else { return SyncStatus::Missing };
        let in_sync = stored.observed.is_some_and(|hashes| {
            hashes.desired == desired && (hashes.observed == desired || stored.written == Some(hashes))
        });
        if in_sync { SyncStatus::InSync } else { SyncStatus::OutOfSync { uid: stored.uid.clone() } }
    }

    pub(super) fn violates_policy(&self, monitor: &MonitorRef) -> bool {
        self.monitors.get(monitor).is_some_and(|stored| stored.violates_policy)
    }

    pub(super) fn uid(&self, monitor: &MonitorRef) -> Option<&str> {
        self.monitors.get(monitor).map(|stored| stored.uid.as_str())
    }

    /// The namespace of the target of `monitor`, if its label says it.
    pub(super) fn target_namespace(&self, monitor: &MonitorRef) -> Option<&Arc<str>> {
        self.monitors.get(monitor)?.target_namespace.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &MonitorRef> {
        self.monitors.keys()
    }
}

#[cfg(test)]
mod tests;
