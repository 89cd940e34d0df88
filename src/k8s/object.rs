//! ScrapeTargets as the API server shows them: what we read of an object, and nothing else of it.
//!
//! The remainder is not even parsed. Whoever may write one object decides about its metadata, and a time there that no clock knows would
//! else keep a whole list from being read; annotations may be a hundred times larger than the object.

use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::crd::ScrapeTarget;

/// A ScrapeTarget, good or bad.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "ScrapeTarget")]
pub(super) struct Shown {
    /// Name, namespace, uid, generation and version.
    #[serde(deserialize_with = "identity")]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: Value,
    #[serde(default)]
    pub(super) status: Value,
}

fn identity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Identity {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        generation: Option<i64>,
        resource_version: Option<String>,
    }
    let Identity { name, namespace, uid, generation, resource_version } = Identity::deserialize(deserializer)?;
    Ok(ObjectMeta { name, namespace, uid, generation, resource_version, ..ObjectMeta::default() })
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectList;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_time_that_no_clock_knows_hides_no_object() {
        let object = |name: &str, time: &str| {
            json!({
                "metadata": {
                    "name": name, "namespace": "team", "generation": 2, "creationTimestamp": time, "deletionTimestamp": time,
                    "managedFields": [{ "manager": "x", "operation": "Update", "time": time }],
                },
                "spec": { "type": "Sora" },
            })
        };
        let list = json!({ "kind": "ScrapeTargetList", "apiVersion": "scrapetarget.dev/v1alpha1", "metadata": {}, "items":
            [object("a", "9999-12-31T23:59:59Z"), object("b", "2026-01-01T00:00:00Z"), object("c", "never")] });
        let list: ObjectList<Shown> = serde_json::from_str(&list.to_string()).unwrap();
        let names: Vec<_> = list.items.iter().map(|shown| shown.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(list.items[0].metadata.generation, Some(2));
        assert_eq!((&list.items[0].spec, &list.items[0].status), (&json!({ "type": "Sora" }), &Value::Null));
    }
}
