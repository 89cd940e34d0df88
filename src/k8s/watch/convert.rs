//! From an object as the API server shows it to what is kept of it. It never fails: an object that cannot be used says why.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::super::catalog::Object;
use super::super::object::Shown;
use crate::crd::{self, ParsedTarget};
use crate::kind::Type;
use crate::target::{Problem, TargetId};

/// A ScrapeTarget as it was shown.
#[derive(Debug)]
pub(in crate::k8s) struct Observed {
    pub(in crate::k8s) object: Object,
    /// For one that cannot be used as it is: as much of it as a poller needs to say so. `None` if even type or url are not readable.
    pub(in crate::k8s) stand_in: Option<Arc<ParsedTarget>>,
    /// A field that we do not know, and have left out: the CRD is a newer one than ours, which may even have filled it in by itself.
    pub(in crate::k8s) unknown: Option<String>,
}

/// An object of a list, converted while the list is parsed: never are all of a page in memory as JSON.
#[derive(Debug)]
pub(super) struct Converted(pub(super) Option<Observed>);

impl<'de> Deserialize<'de> for Converted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Shown::deserialize(deserializer).map(convert).map(Self)
    }
}

/// Keeps of an object what is needed here, and judges it by every rule: the schema that let it in may have been an older one.
///
/// `None` for what no API server sends: an object without a name.
pub(super) fn convert(shown: Shown) -> Option<Observed> {
    let Shown { metadata, spec, status } = shown;
    let (name, namespace) = (metadata.name?, metadata.namespace?);
    let id = TargetId::new(&namespace, &name);
    let mut manifest = json!({
        "apiVersion": crd::API_VERSION,
        "kind": "ScrapeTarget",
        "metadata": { "name": name, "namespace": namespace },
        "spec": spec,
    });
    let unknown = crd::prune(&mut manifest);
    let (declaration, stand_in) = match crd::judge(&manifest) {
        Ok(declaration) => (Ok(Arc::new(declaration)), None),
        Err(problems) => (Err(Problem::invalid_spec(sentence(&problems))), stand_in(&manifest, &name).map(Arc::new)),
    };
    let object = Object {
        id,
        uid: metadata.uid.unwrap_or_default().into(),
        generation: metadata.generation.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        declaration,
        // What somebody else wrote there and we cannot read is as good as nothing: ours replaces it.
        status: serde_json::from_value(status).unwrap_or_default(),
    };
    Some(Observed { object, stand_in, unknown })
}

/// Of more problems than these nobody reads.
const TOLD: usize = 10;

/// All problems in one line.
fn sentence(problems: &[crd::FieldError]) -> String {
    let mut told: Vec<String> = problems.iter().take(TOLD).map(ToString::to_string).collect();
    if problems.len() > TOLD {
        told.push(format!("and {} more", problems.len() - TOLD));
    }
    told.join("; ")
}

/// A target of the same type and url, with nothing else: it is never polled, but its name answers.
fn stand_in(manifest: &Value, name: &str) -> Option<ParsedTarget> {
    let spec = manifest.get("spec")?;
    let kind = Type::deserialize(spec.get("type")?).ok()?;
    Some(ParsedTarget::stand_in(name, kind, spec.get("url")?.as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{ConditionStatus, ScrapeTargetSpec};

    fn shown(spec: &Value, status: &Value) -> Observed {
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
        convert(serde_json::from_value(object).unwrap()).unwrap()
    }

    fn why(observed: &Observed) -> &str {
        let problem = observed.object.declaration.as_ref().unwrap_err();
        assert_eq!(problem.reason, "InvalidSpec");
        &problem.message
    }

    #[test]
    fn of_a_good_object_the_spec_is_kept_with_its_defaults_and_none_of_the_metadata() {
        let Observed { object, stand_in, unknown } =
            shown(&json!({ "type": "Sora", "url": "http://s:3000/" }), &json!({}));
        assert_eq!(object.id, TargetId::new("team", "a"));
        assert_eq!((&*object.uid, object.generation, &*object.resource_version), ("1-2", 3, "77"));
        let declaration = object.declaration.unwrap();
        assert_eq!(declaration.spec, ScrapeTargetSpec::new(Type::Sora, "http://s:3000/"));
        let metadata = &declaration.metadata;
        assert!(metadata.labels.is_none() && metadata.annotations.is_none() && metadata.managed_fields.is_none());
        assert!(stand_in.is_none() && unknown.is_none());
    }

    #[test]
    fn a_field_that_only_a_newer_crd_knows_is_left_out_and_named() {
        let spec = json!({ "type": "Sora", "url": "http://s:3000/", "shinyNew": true, "sora": { "shiny": 1 },
            "headers": [{ "name": "a", "value": "b", "new": 1 }] });
        let Observed { object, unknown, .. } = shown(&spec, &json!({}));
        let spec = &object.declaration.unwrap().spec;
        assert!(spec.blocks.sora.is_some() && spec.headers.len() == 1);
        assert!(unknown.is_some_and(|field| field.starts_with("spec.")));
    }

    #[test]
    fn every_problem_is_told_and_a_stand_in_answers_for_the_target() {
        let spec = json!({ "type": "Sora", "url": "http://s:3000/", "interval": "1.5h", "labels": { "le": "1" } });
        let observed = shown(&spec, &json!({}));
        let message = why(&observed);
        for part in ["spec.interval: ", "spec.labels", "; "] {
            assert!(message.contains(part), "{part} is not in {message}");
        }
        let stand_in = observed.stand_in.unwrap();
        assert_eq!(stand_in.spec, ScrapeTargetSpec::new(Type::Sora, "http://s:3000/"));
    }

    #[test]
    fn without_a_readable_type_or_url_there_is_no_stand_in() {
        for spec in
            [json!({ "type": "Fax", "url": "http://s/" }), json!({ "type": "Sora", "url": 7 }), json!([]), Value::Null]
        {
            let observed = shown(&spec, &json!({}));
            assert!(!why(&observed).is_empty() && observed.stand_in.is_none(), "{observed:?}");
        }
    }

    #[test]
    fn of_many_problems_the_first_are_told_and_the_others_counted() {
        let labels: serde_json::Map<String, Value> = (0..30).map(|i| (format!("__{i}"), json!("x"))).collect();
        let observed = shown(&json!({ "type": "Sora", "url": "http://s/", "labels": labels }), &json!({}));
        assert!(why(&observed).ends_with("; and 20 more"), "{}", why(&observed));
    }

    #[test]
    fn a_status_that_cannot_be_read_counts_as_none() {
        let spec = json!({ "type": "Sora", "url": "http://s:3000/" });
        let condition = json!({
            "type": "Up", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "Succeeded", "message": "",
        });
        let read = shown(&spec, &json!({ "observedGeneration": 2, "conditions": [condition] })).object.status;
        assert_eq!((read.observed_generation, read.conditions[0].status), (Some(2), ConditionStatus::True));
        for status in [Value::Null, json!("x"), json!({ "conditions": [{ "type": 1 }] })] {
            assert_eq!(shown(&spec, &status).object.status, crd::ScrapeTargetStatus::default());
        }
    }
}
