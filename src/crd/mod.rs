//! ScrapeTarget: its types, its schema with every rule, and the judgement of a manifest without an API server.
//!
//! The Rust types are the only source of the schema. Nothing here reads files, Secrets or the cluster.

mod access;
mod advice;
mod metadata;
mod monitor;
mod nearest;
mod pattern;
mod reference;
mod regex_syntax;
pub mod rules;
mod schema;
mod shape;
mod v1alpha1;

use kube::CustomResourceExt;
use serde::Deserialize;
use serde_json::Value;

pub use access::{Authorization, BasicAuth, ConfigMapKeyRef, Header, SecretKeyRef, SecretOrConfigMap, TlsConfig};
pub(crate) use metadata::check_names;
pub use monitor::{Action, Monitor, Relabeling};
pub(crate) use nearest::nearest;
pub use pattern::{is_dns_label, is_label_key, is_label_value};
pub use reference::{ObjectKind, Reference};
pub use regex_syntax::regex_problem;
pub use v1alpha1::{Condition, ConditionStatus, Metrics, ScrapeTarget, ScrapeTargetSpec, ScrapeTargetStatus};

/// The API group of ScrapeTarget.
pub const GROUP: &str = "scrapetarget.dev";

/// The `apiVersion` of a ScrapeTarget.
pub const API_VERSION: &str = "scrapetarget.dev/v1alpha1";

/// One thing that is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field: `spec.headers[2].name`. Empty if it is the whole manifest.
    pub path: String,
    /// What is wrong, and what to write instead. It holds no value of a Secret.
    pub message: String,
}

impl Problem {
    /// A problem of the field at `path`.
    pub fn new(path: &str, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), message: message.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// Judges a manifest as the API server does, defaults included, and reports every problem and not only the first.
///
/// A status in the manifest is left out, as the API server leaves it out.
pub fn judge(manifest: &Value) -> Result<ScrapeTarget, Vec<Problem>> {
    let mut value = manifest.clone();
    let mut problems = Vec::new();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    metadata::check_type(&value, &mut problems);
    check_names(&value, &mut problems);
    schema::Node::of_target().check(&mut value, "", &mut problems);
    rules::check(&value, &mut problems);
    match ScrapeTarget::deserialize(&value) {
        Ok(target) => {
            let refused = |path: &str| problems.iter().any(|problem| problem.path == path);
            let more: Vec<Problem> = invalid(&target.spec).into_iter().filter(|more| !refused(&more.path)).collect();
            problems.extend(more);
            if problems.is_empty() { Ok(target) } else { Err(problems) }
        }
        Err(error) => {
            if problems.is_empty() {
                problems.push(Problem::new("", error.to_string()));
            }
            Err(problems)
        }
    }
}

/// Takes out of an object of the cluster what this version's schema does not know, and names one of these fields. The API server stores
/// only what its CRD knows, so that one is newer: what it added must not stop the targets that were good before.
pub fn prune(manifest: &mut Value) -> Option<String> {
    schema::Node::of_target().prune(manifest, "")
}

/// What neither schema nor CEL can see, so that the API server takes it: in Kubernetes the reason `InvalidSpec` of `Accepted=False`.
pub fn invalid(spec: &ScrapeTargetSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    let urls = [("spec.url", Some(&spec.url)), ("spec.proxyUrl", spec.proxy_url.as_ref())];
    for (path, url) in urls.into_iter().filter_map(|(path, url)| Some((path, url?))) {
        if let Err(error) = reqwest::Url::parse(url) {
            problems.push(Problem::new(path, format!("is no URL: {error}, correct it")));
        }
    }
    let metrics = spec.metrics.iter();
    for (list, name) in metrics.flat_map(|metrics| [(&metrics.keep, "keep"), (&metrics.drop, "drop")]) {
        for (index, pattern) in list.iter().enumerate() {
            if let Some(problem) = regex_problem(pattern) {
                problems.push(Problem::new(&format!("spec.metrics.{name}[{index}]"), problem));
            }
        }
    }
    problems
}

/// The CRD as YAML, the same on every call: what the command `crd` prints and what `crds/` holds.
pub fn print() -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(&ScrapeTarget::crd())
}

/// The schema of the whole object, as JSON.
pub fn openapi() -> Value {
    let crd = serde_json::to_value(ScrapeTarget::crd()).unwrap_or_default();
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap_or_default()
}
