//! ScrapeTarget: its types, its schema with every rule, and the validation of a manifest without an API server.
//!
//! The Rust types are the only source of the schema. Nothing here reads files, Secrets or the cluster.

mod access;
mod advice;
mod members;
mod metadata;
mod monitor;
mod oauth2;
mod parsed;
mod pattern;
mod regex_syntax;
pub mod rules;
mod schema;
mod url_advice;
mod v1alpha1;

use kube::CustomResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::yaml;

pub use crate::rule::FieldError;
pub use access::{
    Authorization, BasicAuth, ConfigMapKeyRef, Header, ObjectKind, Reference, SecretKeyRef, SecretOrConfigMap,
    TlsConfig, TlsProtocol,
};
pub(crate) use advice::nearest;
pub use members::{Include, Members, MembersDns, MembersService};
pub(crate) use metadata::check_names;
pub use monitor::{Action, InstanceLabel, Monitor, Relabeling};
pub use oauth2::{ClientAuthentication, OAuth2, OAuth2User};
pub use parsed::{HeaderSource, ParsedHeader, ParsedOAuth2, ParsedTarget};
pub use pattern::{body_size, is_dns_label, is_label_key, is_label_value, is_proxy_url};
pub use regex_syntax::regex_problem;
pub use v1alpha1::{
    Condition, ConditionStatus, IpProtocol, MembersStatus, Metrics, ScrapeTarget, ScrapeTargetSpec, ScrapeTargetStatus,
};

/// The API group of ScrapeTarget.
pub const GROUP: &str = "scrapetarget.dev";

/// The `apiVersion` of a ScrapeTarget.
pub const API_VERSION: &str = "scrapetarget.dev/v1alpha1";

/// Validates a manifest as the API server does, applies the defaults, and reports all errors and not only the first.
///
/// A status in the manifest is ignored, as the API server ignores it.
pub fn judge(manifest: &Value) -> Result<ParsedTarget, Vec<FieldError>> {
    let mut value = manifest.clone();
    let mut errors = Vec::new();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    metadata::check_type(&value, &mut errors);
    check_names(&value, &mut errors);
    schema::SchemaNode::of_target().check(&mut value, "", &mut errors);
    rules::check(&value, &mut errors);
    match ScrapeTarget::deserialize(&value).map(ParsedTarget::parse) {
        Ok(Ok(target)) if errors.is_empty() => return Ok(target),
        Ok(Err(mut more)) => {
            let is_at_or_below = |at: &str, path: &str| {
                at.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            more.retain(|error| !errors.iter().any(|known| is_at_or_below(&known.path, &error.path)));
            errors.extend(more);
        }
        Err(error) if errors.is_empty() => errors.push(FieldError::new("", error.to_string())),
        Ok(Ok(_)) | Err(_) => {}
    }
    Err(errors)
}

/// Where relabelings stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelabelingList {
    /// Of the labels of targets: `relabelings`.
    Targets,
    /// Of samples: `metricRelabelings`.
    Samples,
}

/// Parses relabelings that are added to those of every target. What no target may do in its own, they may not either, nor what a target with
/// members may not. The paths of errors begin with the index of the relabeling.
pub fn judge_relabelings(list: RelabelingList, steps: &Value) -> Result<Vec<Relabeling>, Vec<FieldError>> {
    let field = match list {
        RelabelingList::Targets => "relabelings",
        RelabelingList::Samples => "metricRelabelings",
    };
    let place = format!("spec.monitor.{field}");
    let mut target = json!({ "spec": { "members": {}, "monitor": { (field): steps } } });
    let mut errors = Vec::new();
    let schema = schema::SchemaNode::of_target();
    let schema = ["spec", "monitor", field].iter().try_fold(schema, |node, name| node.properties.get(*name));
    if let (Some(schema), Some(steps)) = (schema, target.pointer_mut(&format!("/spec/monitor/{field}"))) {
        schema.check(steps, &place, &mut errors);
    }
    rules::check(&target, &mut errors);
    let mut errors: Vec<FieldError> = errors
        .into_iter()
        .filter_map(|error| {
            let path = error.path.strip_prefix(&place)?.to_owned();
            Some(FieldError { message: error.message.replace(&format!("{place}["), "["), path })
        })
        .collect();
    let steps = target.pointer_mut(&format!("/spec/monitor/{field}")).map(Value::take).unwrap_or_default();
    match Vec::deserialize(steps) {
        Ok(steps) if errors.is_empty() => return Ok(steps),
        Err(error) if errors.is_empty() => errors.push(FieldError::new("", error.to_string())),
        _ => {}
    }
    Err(errors)
}

/// Removes the fields of a cluster's object that the schema of this version does not have, and returns one of them. The API server stores
/// only the fields of its CRD, so that CRD is newer: its new fields must not stop targets that were valid before.
pub fn prune(manifest: &mut Value) -> Option<String> {
    schema::SchemaNode::of_target().prune(manifest, "")
}

/// The fields of a manifest that people write before the others, in this order.
pub const FIELD_ORDER: [&str; 12] = [
    "apiVersion",
    "kind",
    "metadata",
    "name",
    "namespace",
    "spec",
    "type",
    "url",
    "interval",
    "timeout",
    "labels",
    "monitor",
];

/// The CRD as YAML, the same on every call: what the command `crd` prints and what `crds/` holds.
pub fn print() -> Result<String, serde_json::Error> {
    Ok(yaml::to_string(&serde_json::to_value(ScrapeTarget::crd())?, &[]))
}

/// The schema of the whole object, as JSON.
pub fn openapi() -> Value {
    let crd = serde_json::to_value(ScrapeTarget::crd()).unwrap_or_default();
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap_or_default()
}
