//! Asks the API server what it would say to a manifest, and repeats its words. Nothing is stored.
//!
//! The question is a dry run of `create`, also where the target is there already: the schema, the rules and the admission webhooks
//! judge before anybody looks whether the name is taken. A dry run of `apply` would judge the manifest merged with what others own in
//! the cluster, and so refuse a target for a block that is no longer in the file.

use std::time::Duration;

use kube::api::{PostParams, Request};
use kube::core::Status;
use serde_json::Value;

use super::ApiClient;
use super::client::{PolicyRule, chain};
use super::proxy::WayError;
use crate::crd::{API_VERSION, ScrapeTarget};

/// How long the API server may take, its admission webhooks included: these have 10 s by default.
const DEADLINE: Duration = Duration::from_secs(15);

/// What the API server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It would take the manifest.
    Taken,
    /// It would not, in its own words.
    Refused(String),
}

/// Why there is no verdict, by whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoVerdict {
    /// Of whoever installed the cluster: it does not know the kind.
    #[error(
        "the cluster has no CustomResourceDefinition of ScrapeTarget in version {API_VERSION}: install it by \
         `scrapetarget-exporter crd | kubectl apply --server-side -f -`"
    )]
    NoDefinition,
    /// Of whoever gave us the credentials: they may not make a ScrapeTarget in this namespace.
    #[error("{0}")]
    Forbidden(String),
    /// Of the kubeconfig: the credentials are not those of anybody.
    #[error("the API server does not accept the credentials of the kubeconfig: {0}")]
    Unauthorized(String),
    /// Of the API server, or of the way to it.
    #[error("the API server {0}")]
    Away(String),
    /// Of the proxy before it.
    #[error("{0}")]
    Barred(String),
}

/// Asks the API server what it would say if the ScrapeTarget `manifest` were created. Without a namespace it goes where kubectl would
/// put it. Its names must be well-formed: they become a part of the URL.
pub async fn dry_run(cluster: &ApiClient, manifest: &Value) -> Result<Verdict, NoVerdict> {
    let namespace = manifest.pointer("/metadata/namespace").and_then(Value::as_str).filter(|name| !name.is_empty());
    let namespace = namespace.unwrap_or_else(|| cluster.namespace());
    let asked = tokio::time::timeout(DEADLINE, ask(cluster, namespace, manifest)).await;
    match asked {
        Err(_) => Err(NoVerdict::Away(format!("does not answer within {DEADLINE:?}"))),
        Ok(Ok(())) => Ok(Verdict::Taken),
        Ok(Err(kube::Error::Api(status))) => understand(&status, namespace),
        Ok(Err(error)) => Err(match WayError::behind(&error) {
            Some(error) => NoVerdict::Barred(error.to_string()),
            None => NoVerdict::Away(format!("cannot be reached: {}", chain(&error))),
        }),
    }
}

async fn ask(cluster: &ApiClient, namespace: &str, manifest: &Value) -> kube::Result<()> {
    let how = PostParams { dry_run: true, field_manager: Some("scrapetarget-exporter-check".to_owned()) };
    let path = <ScrapeTarget as kube::Resource>::url_path(&(), Some(namespace));
    let body = serde_json::to_vec(manifest).map_err(kube::Error::SerdeError)?;
    let mut request = Request::new(path).create(&how, body).map_err(kube::Error::BuildRequest)?;
    // As kubectl does: a misspelt field is an error, and not silently left out.
    let strict = format!("{}&fieldValidation=Strict", request.uri());
    *request.uri_mut() = strict.parse().map_err(|error| kube::Error::Service(Box::new(error)))?;
    cluster.client().request_text(request).await.map(drop)
}

/// What an answer that is no success means.
fn understand(status: &Status, namespace: &str) -> Result<Verdict, NoVerdict> {
    let words = status.message.clone();
    match status.code {
        // It was judged before its name was found to be taken.
        409 if status.reason == "AlreadyExists" => Ok(Verdict::Taken),
        401 => Err(NoVerdict::Unauthorized(words)),
        // Quotas, policies and a namespace that is being deleted answer 403 as well, and those speak of the manifest.
        403 if words.contains(" cannot create resource ") => {
            let rule = PolicyRule::new("create", "scrapetarget.dev", "scrapetargets", Some(namespace));
            Err(NoVerdict::Forbidden(rule.to_string()))
        }
        // It may also be the namespace that is not there, and then the answer names it.
        404 if status.details.as_ref().is_none_or(|details| details.kind != "namespaces") => {
            Err(NoVerdict::NoDefinition)
        }
        400..=499 if !matches!(status.code, 408 | 429) => Ok(Verdict::Refused(words)),
        code => Err(NoVerdict::Away(format!("cannot judge: status {code}: {words}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn understood(status: Value) -> Result<Verdict, NoVerdict> {
        understand(&serde_json::from_value(status).unwrap(), "media")
    }

    #[test]
    fn a_refusal_is_told_from_a_question_that_was_not_heard() {
        let refused = |words: &str| Ok(Verdict::Refused(words.to_owned()));
        let taken = json!({ "code": 409, "reason": "AlreadyExists", "message": "\"a\" already exists" });
        assert_eq!(understood(taken), Ok(Verdict::Taken));
        let invalid = json!({ "code": 422, "reason": "Invalid", "message": "spec.url: Invalid value" });
        assert_eq!(understood(invalid), refused("spec.url: Invalid value"));
        let quota = json!({ "code": 403, "reason": "Forbidden", "message": "exceeded quota" });
        assert_eq!(understood(quota), refused("exceeded quota"));
        let namespace = json!({ "code": 404, "reason": "NotFound", "message": "namespaces \"media\" not found",
            "details": { "kind": "namespaces", "name": "media" } });
        assert_eq!(understood(namespace), refused("namespaces \"media\" not found"));
        let webhook = json!({ "code": 500, "reason": "InternalError", "message": "failed calling webhook" });
        assert_eq!(
            understood(webhook),
            Err(NoVerdict::Away("cannot judge: status 500: failed calling webhook".to_owned()))
        );
        let nothing = json!({ "code": 404, "reason": "Failed to parse error data", "message": "404 page not found" });
        assert_eq!(understood(nothing), Err(NoVerdict::NoDefinition));
        let version = json!({ "code": 404, "reason": "NotFound", "message": "not found", "details": {} });
        assert_eq!(understood(version), Err(NoVerdict::NoDefinition));
    }

    #[test]
    fn a_missing_permission_is_told_as_the_rule_that_is_missing() {
        let words = "scrapetargets.scrapetarget.dev is forbidden: User \"u\" cannot create resource \"scrapetargets\" in API group";
        let Err(NoVerdict::Forbidden(rule)) =
            understood(json!({ "code": 403, "reason": "Forbidden", "message": words }))
        else {
            panic!("it is forbidden");
        };
        assert!(rule.contains("namespace media") && rule.contains("verbs: [\"create\"]"), "{rule}");
    }
}
