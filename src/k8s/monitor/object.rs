//! ServiceMonitors as the API server shows them, without what is not read of them: see [`Shown`](super::super::object::Shown).

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, OwnerReference};
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::labels;
use super::{GROUP, KIND, PLURAL, VERSION};

/// A ServiceMonitor.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::k8s) struct Shown {
    /// Name, namespace, uid, version, labels, annotations, owners, and of the managed fields what we applied ourselves.
    #[serde(deserialize_with = "metadata")]
    pub(in crate::k8s) metadata: ObjectMeta,
    /// As text, which is a tenth of what it takes as a tree: whoever may write ServiceMonitors can give it any size.
    #[serde(default)]
    spec: Option<Box<RawValue>>,
}

impl Shown {
    /// What the API server holds; nothing where there is no spec.
    pub(super) fn spec(&self) -> Value {
        let spec = self.spec.as_ref().and_then(|spec| serde_json::from_str(spec.get()).ok());
        spec.unwrap_or_default()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    managed_fields: Option<Vec<Managed>>,
}

/// What somebody manages. Only of our own entry it is parsed what that is: others may write anything there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Managed {
    manager: Option<String>,
    operation: Option<String>,
    fields_v1: Option<Box<RawValue>>,
}

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let Metadata { name, namespace, uid, resource_version, labels, annotations, owner_references, managed_fields } =
        Metadata::deserialize(deserializer)?;
    let managed_fields = managed_fields.into_iter().flatten().filter(|entry| {
        entry.manager.as_deref() == Some(labels::MANAGER) && entry.operation.as_deref() == Some("Apply")
    });
    let managed_fields = managed_fields.map(|Managed { manager, operation, fields_v1 }| {
        let fields = fields_v1.and_then(|fields| serde_json::from_str(fields.get()).ok());
        ManagedFieldsEntry { manager, operation, fields_v1: fields.map(FieldsV1), ..ManagedFieldsEntry::default() }
    });
    let managed_fields = Some(managed_fields.collect());
    Ok(ObjectMeta {
        name,
        namespace,
        uid,
        resource_version,
        labels,
        annotations,
        owner_references,
        managed_fields,
        ..ObjectMeta::default()
    })
}

impl Resource for Shown {
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

#[cfg(test)]
mod tests {
    use kube::api::{ObjectList, WatchEvent};
    use serde_json::json;

    use super::*;

    fn object(name: &str, time: &str, fields: &str) -> String {
        let managed = |manager: &str| {
            format!(r#"{{ "manager": "{manager}", "operation": "Apply", "time": "{time}", "fieldsV1": {fields} }}"#)
        };
        format!(
            r#"{{ "metadata": {{ "name": "{name}", "namespace": "team", "creationTimestamp": "{time}",
            "labels": {{ "a": "b" }}, "managedFields": [{}, {}] }}, "spec": {{ "sampleLimit": 1 }} }}"#,
            managed("somebody"),
            managed(labels::MANAGER)
        )
    }

    #[test]
    fn nothing_that_others_can_write_into_the_metadata_hides_a_monitor() {
        let deep = format!("{}{}", r#"{"f:a":"#.repeat(500), format_args!("1{}", "}".repeat(500)));
        let objects =
            [object("a", "9999-12-31T23:59:59Z", r#"{ "f:spec": {} }"#), object("b", "2026-01-01T00:00:00Z", &deep)];
        let list = format!(
            r#"{{ "kind": "ServiceMonitorList", "apiVersion": "v1", "metadata": {{}}, "items": [{}] }}"#,
            objects.join(",")
        );
        let list: ObjectList<Shown> = serde_json::from_str(&list).unwrap();
        let [a, b] = list.items.as_slice() else { panic!("{list:?}") };
        let owned = |shown: &Shown| shown.metadata.managed_fields.as_ref().unwrap()[0].fields_v1.clone();
        assert_eq!(owned(a), Some(FieldsV1(json!({ "f:spec": {} }))));
        assert_eq!(owned(b), None);
        assert_eq!(a.metadata.managed_fields.as_ref().unwrap().len(), 1, "the others' are left out");
        for object in objects {
            let event = format!(r#"{{ "type": "MODIFIED", "object": {object} }}"#);
            let event: WatchEvent<Shown> = serde_json::from_str(&event).unwrap();
            assert!(matches!(event, WatchEvent::Modified(shown) if shown.spec() == json!({ "sampleLimit": 1 })));
        }
    }
}
