//! ScrapeTargets as the API server shows them, and the parts of each that are kept. Parsing never fails: an object that cannot be used has a
//! problem in place of its declaration.

use std::sync::Arc;

use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::watch::WatchedObject;
use crate::crd::{self, FieldError, ParsedTarget, ScrapeTarget, ScrapeTargetStatus};
use crate::kind::Type;
use crate::target::{Problem, TargetId};

/// A ScrapeTarget before it is checked.
///
/// Only the metadata that is needed is parsed. Any user who may write one object decides its metadata: a time that cannot be parsed would make
/// the whole list unreadable, and annotations may be a hundred times larger than the object.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "ScrapeTarget")]
pub(super) struct RawTarget {
    /// Name, namespace, uid, generation and resource version.
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
    struct IdentityFields {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        generation: Option<i64>,
        resource_version: Option<String>,
    }
    let IdentityFields { name, namespace, uid, generation, resource_version } =
        IdentityFields::deserialize(deserializer)?;
    Ok(ObjectMeta { name, namespace, uid, generation, resource_version, ..ObjectMeta::default() })
}

/// A ScrapeTarget of the cluster.
#[derive(Clone, Debug)]
pub(super) struct ObservedTarget {
    pub(super) id: TargetId,
    pub(super) uid: Arc<str>,
    pub(super) generation: i64,
    pub(super) resource_version: String,
    /// The declaration of the user; or, where an older schema accepted one that cannot be used, why not.
    pub(super) declaration: Result<Arc<ParsedTarget>, Problem>,
    /// The status as it is in the cluster.
    pub(super) status: ScrapeTargetStatus,
}

/// A ScrapeTarget that was parsed and checked.
#[derive(Clone, Debug)]
pub(super) struct ConvertedTarget {
    pub(super) target: ObservedTarget,
    /// For a target that cannot be used as it is declared: the part of it that a poller needs to report that. `None` if not even its type and
    /// url can be read.
    pub(super) stand_in: Option<Arc<ParsedTarget>>,
    /// A field that was left out since we do not know it: the CRD in the cluster is newer, and may even have set the field by default.
    pub(super) unknown_field: Option<String>,
}

/// An object of the watch, checked while it is parsed, so that a page of a list is never in memory as JSON values. `None` for an object
/// without a name, which no API server sends.
#[derive(Clone, Debug)]
pub(super) struct WatchedTarget(pub(super) Option<ConvertedTarget>);

impl<'de> Deserialize<'de> for WatchedTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RawTarget::deserialize(deserializer).map(parse).map(Self)
    }
}

impl WatchedObject for WatchedTarget {
    fn resource_version(&self) -> Option<&str> {
        self.0.as_ref().map(|parsed| parsed.target.resource_version.as_str())
    }
}

/// Checks an object by every rule: the schema that accepted it may have been an older one.
fn parse(raw: RawTarget) -> Option<ConvertedTarget> {
    let RawTarget { metadata, spec, status } = raw;
    let (name, namespace) = (metadata.name?, metadata.namespace?);
    let id = TargetId::new(&namespace, &name);
    let mut manifest = json!({
        "apiVersion": crd::API_VERSION,
        "kind": "ScrapeTarget",
        "metadata": { "name": name, "namespace": namespace },
        "spec": spec,
    });
    let unknown_field = crd::prune(&mut manifest);
    let (declaration, stand_in) = match crd::judge(&manifest) {
        Ok(declaration) => (Ok(Arc::new(declaration)), None),
        Err(problems) => (Err(Problem::invalid_spec(one_line(&problems))), stand_in(&manifest, &name).map(Arc::new)),
    };
    let target = ObservedTarget {
        id,
        uid: metadata.uid.unwrap_or_default().into(),
        generation: metadata.generation.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        declaration,
        // A status that we cannot read counts as none, and is replaced by ours.
        status: serde_json::from_value(status).unwrap_or_default(),
    };
    Some(ConvertedTarget { target, stand_in, unknown_field })
}

/// The most problems in one message; the others are counted.
const MOST_PROBLEMS: usize = 10;

/// All problems in one line.
fn one_line(problems: &[FieldError]) -> String {
    let mut messages: Vec<String> = problems.iter().take(MOST_PROBLEMS).map(ToString::to_string).collect();
    if problems.len() > MOST_PROBLEMS {
        messages.push(format!("and {} more", problems.len() - MOST_PROBLEMS));
    }
    messages.join("; ")
}

/// A target with the same type and url and nothing else. It is never polled, but scrapes of it are answered.
fn stand_in(manifest: &Value, name: &str) -> Option<ParsedTarget> {
    let spec = manifest.get("spec")?;
    let kind = Type::deserialize(spec.get("type")?).ok()?;
    Some(ParsedTarget::stand_in(name, kind, spec.get("url")?.as_str()?))
}

#[cfg(test)]
mod tests {
    use kube::api::ObjectList;

    use super::*;
    use crate::crd::{ConditionStatus, ScrapeTargetSpec};

    fn parsed(spec: &Value, status: &Value) -> ConvertedTarget {
        let object = json!({
            "apiVersion": "scrapetarget.dev/v1alpha1",
            "kind": "ScrapeTarget",
            "metadata": {
                "name": "a", "namespace": "team", "uid": "1-2", "generation": 3, "resourceVersion": "77",
                "labels": { "x": "y" }, "annotations": { "z": "long" },
                "managedFields": [{ "manager": "kubectl", "operation": "Apply", "fieldsV1": { "f:spec": {} } }],
                "finalizers": ["example.com/x"], "deletionTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": spec,
            "status": status,
        });
        serde_json::from_value::<WatchedTarget>(object).unwrap().0.unwrap()
    }

    fn message(parsed: &ConvertedTarget) -> &str {
        let problem = parsed.target.declaration.as_ref().unwrap_err();
        assert_eq!(problem.reason, "InvalidSpec");
        &problem.message
    }

    #[test]
    fn of_a_good_object_the_spec_is_kept_with_its_defaults_and_none_of_the_metadata() {
        let ConvertedTarget { target, stand_in, unknown_field } =
            parsed(&json!({ "type": "Sora", "url": "http://s:3000/" }), &json!({}));
        assert_eq!(target.id, TargetId::new("team", "a"));
        assert_eq!((&*target.uid, target.generation, &*target.resource_version), ("1-2", 3, "77"));
        let declaration = target.declaration.unwrap();
        assert_eq!(declaration.spec, ScrapeTargetSpec::new(Type::Sora, "http://s:3000/"));
        let metadata = &declaration.metadata;
        assert!(metadata.labels.is_none() && metadata.annotations.is_none() && metadata.managed_fields.is_none());
        assert!(stand_in.is_none() && unknown_field.is_none());
    }

    #[test]
    fn a_field_that_only_a_newer_crd_knows_is_left_out_and_named() {
        let spec = json!({ "type": "Sora", "url": "http://s:3000/", "shinyNew": true, "sora": { "shiny": 1 },
            "headers": [{ "name": "a", "value": "b", "new": 1 }] });
        let ConvertedTarget { target, unknown_field, .. } = parsed(&spec, &json!({}));
        let spec = &target.declaration.unwrap().spec;
        assert!(spec.blocks.sora.is_some() && spec.headers.len() == 1);
        assert!(unknown_field.is_some_and(|field| field.starts_with("spec.")));
    }

    #[test]
    fn every_problem_is_reported_and_a_stand_in_answers_for_the_target() {
        let spec = json!({ "type": "Sora", "url": "http://s:3000/", "interval": "1.5h", "labels": { "le": "1" } });
        let parsed = parsed(&spec, &json!({}));
        let message = message(&parsed);
        for part in ["spec.interval: ", "spec.labels", "; "] {
            assert!(message.contains(part), "{part} is not in {message}");
        }
        let stand_in = parsed.stand_in.unwrap();
        assert_eq!(stand_in.spec, ScrapeTargetSpec::new(Type::Sora, "http://s:3000/"));
    }

    #[test]
    fn without_a_readable_type_or_url_there_is_no_stand_in() {
        for spec in
            [json!({ "type": "Fax", "url": "http://s/" }), json!({ "type": "Sora", "url": 7 }), json!([]), Value::Null]
        {
            let parsed = parsed(&spec, &json!({}));
            assert!(!message(&parsed).is_empty() && parsed.stand_in.is_none(), "{parsed:?}");
        }
    }

    #[test]
    fn of_many_problems_the_first_are_reported_and_the_others_counted() {
        let labels: serde_json::Map<String, Value> = (0..30).map(|i| (format!("__{i}"), json!("x"))).collect();
        let parsed = parsed(&json!({ "type": "Sora", "url": "http://s/", "labels": labels }), &json!({}));
        assert!(message(&parsed).ends_with("; and 20 more"), "{}", message(&parsed));
    }

    #[test]
    fn a_status_that_cannot_be_read_counts_as_none() {
        let spec = json!({ "type": "Sora", "url": "http://s:3000/" });
        let condition = json!({
            "type": "Up", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "Succeeded", "message": "",
        });
        let read = parsed(&spec, &json!({ "observedGeneration": 2, "conditions": [condition] })).target.status;
        assert_eq!((read.observed_generation, read.conditions[0].status), (Some(2), ConditionStatus::True));
        for status in [Value::Null, json!("x"), json!({ "conditions": [{ "type": 1 }] })] {
            assert_eq!(parsed(&spec, &status).target.status, crd::ScrapeTargetStatus::default());
        }
    }

    #[test]
    fn a_time_that_cannot_be_parsed_hides_no_object() {
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
        let list: ObjectList<RawTarget> = serde_json::from_str(&list.to_string()).unwrap();
        let names: Vec<_> = list.items.iter().map(|raw| raw.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(list.items[0].metadata.generation, Some(2));
        assert_eq!((&list.items[0].spec, &list.items[0].status), (&json!({ "type": "Sora" }), &Value::Null));
    }
}
