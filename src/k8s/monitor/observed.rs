//! What of a ServiceMonitor in the cluster is ours, and whether it is as it should be. Pure.
//!
//! Others may add labels, annotations and fields to our monitors, and the API server may add defaults: these are never looked at.

use std::sync::Arc;

use kube::core::metadata::ObjectMeta;
use serde_json::{Map, Value, json};

use super::super::Settings;
use super::desired::{Desired, mark};
use super::labels;
use super::object::Shown;
use super::place::Place;
use super::trust;
use crate::target::TargetId;

/// A ServiceMonitor as the API server shows it.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) place: Place,
    pub(super) uid: String,
    /// The namespace of its target, if a label says so: that of the monitor itself may be another.
    pub(super) target_namespace: Option<Arc<str>>,
    /// In the same shape as [`Desired::part`].
    part: Value,
    /// The fields that our field manager owns, as `managedFields` writes them; `None`: none.
    owned: Option<Value>,
}

impl Observed {
    pub(super) fn new(shown: Shown) -> Self {
        let spec = shown.spec();
        let metadata = shown.metadata;
        let ObjectMeta { name, namespace, uid, labels, annotations, owner_references, managed_fields, .. } = metadata;
        let ours = managed_fields.into_iter().flatten().next();
        let target_namespace = labels.as_ref().and_then(|labels| labels.get(labels::TARGET_NAMESPACE));
        Self {
            target_namespace: target_namespace.map(|name| Arc::from(name.as_str())),
            place: Place {
                namespace: Arc::from(namespace.unwrap_or_default()),
                name: Arc::from(name.unwrap_or_default()),
            },
            uid: uid.unwrap_or_default(),
            part: json!({
                "metadata": { "labels": labels, "annotations": annotations, "ownerReferences": owner_references },
                "spec": spec,
            }),
            owned: ours.map(|entry| entry.fields_v1.map_or(Value::Null, |fields| fields.0)),
        }
    }

    /// Equal to [`Desired::mark`] if it is exactly what should be there. It says nothing about fields that are not ours.
    pub(super) fn mark(&self, desired: &Desired) -> u64 {
        let part = json!({
            "metadata": projection(&self.part["metadata"], &desired.part["metadata"]),
            "spec": shallow(&self.part["spec"], &desired.part["spec"], |observed, _| observed.clone()),
        });
        // What we applied once and do not want any more still stands there, and is not in the projection.
        if self.owned.as_ref().is_some_and(|owned| owns_more(owned, &desired.part)) {
            mark(&json!([part, "and more"]))
        } else {
            mark(&part)
        }
    }

    /// Whether it does what no monitor of the target `id` may do.
    pub(super) fn is_forgery(&self, id: &TargetId, settings: &Settings) -> bool {
        trust::is_forgery(&self.part["spec"], id, settings)
    }

    /// Whether this release wrote it. Labels decide; one that somebody else changed or removed is ours to put back.
    pub(super) fn is_ours(&self, settings: &Settings) -> bool {
        let labels = &self.part["metadata"]["labels"];
        let owned = self.owned.as_ref().map(|owned| &owned["f:metadata"]["f:labels"]);
        [(labels::RELEASE, &settings.release), (labels::RELEASE_NAMESPACE, &settings.namespace)].iter().all(
            |(label, value)| {
                labels[*label] == value.as_str() || owned.is_some_and(|owned| owned.get(format!("f:{label}")).is_none())
            },
        )
    }

    /// Whose it is, for people.
    pub(super) fn owner(&self) -> String {
        let labels = &self.part["metadata"]["labels"];
        match (labels[labels::RELEASE].as_str(), labels[labels::RELEASE_NAMESPACE].as_str()) {
            (Some(release), Some(namespace)) => format!("the release {release} in namespace {namespace}"),
            _ => labels[labels::MANAGED_BY].as_str().unwrap_or("somebody else").to_owned(),
        }
    }
}

/// What `observed` has in the fields that `desired` has.
fn shallow(observed: &Value, desired: &Value, below: impl Fn(&Value, &Value) -> Value) -> Value {
    let fields = desired.as_object().into_iter().flatten();
    let found = fields.filter_map(|(field, desired)| Some((field.clone(), below(observed.get(field)?, desired))));
    Value::Object(found.collect::<Map<_, _>>())
}

/// The same at any depth. Owners are told apart by their uid.
fn projection(observed: &Value, desired: &Value) -> Value {
    match (observed, desired) {
        (Value::Object(_), Value::Object(_)) => shallow(observed, desired, projection),
        (Value::Array(observed), Value::Array(desired)) => {
            let same = |wanted: &Value| observed.iter().find(|item| item.get("uid") == wanted.get("uid"));
            desired.iter().filter_map(|wanted| Some(projection(same(wanted)?, wanted))).collect()
        }
        _ => observed.clone(),
    }
}

/// Whether a set of fields, as `managedFields` writes it, holds one that `desired` lacks.
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

#[cfg(test)]
mod tests;
