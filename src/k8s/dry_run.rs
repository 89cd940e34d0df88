//! Checks by a dry run whether the API server would accept a manifest, and returns its message. Nothing is stored.
//!
//! It is a dry run of `create`, also where the target exists already: the schema, the rules and the admission webhooks come before the check
//! whether the name is taken. A dry run of `apply` would check the manifest merged with the fields that others own in the cluster, and so
//! refuse a target for a block that is no longer in the file.

use std::time::Duration;

use kube::api::{PostParams, Request};
use kube::core::Status;
use serde_json::Value;

use super::ApiClient;
use super::client::PolicyRule;
use super::proxy::TunnelError;
use crate::crd::{API_VERSION, ScrapeTarget};
use crate::error_chain;

/// The deadline of the API server, admission webhooks included, which have 10 s by default.
const DEADLINE: Duration = Duration::from_secs(15);

/// The answer of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DryRunOutcome {
    /// It would accept the manifest.
    Accepted,
    /// It would not; its message.
    Refused(String),
}

/// Why there is no answer about the manifest, by whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DryRunError {
    /// The cluster does not have the CRD.
    #[error(
        "the cluster has no CustomResourceDefinition of ScrapeTarget in version {API_VERSION}: install it by \
         `scrapetarget-exporter crd | kubectl apply --server-side -f -`"
    )]
    NoDefinition,
    /// The credentials may not create a ScrapeTarget in this namespace.
    #[error("{0}")]
    Forbidden(String),
    /// The credentials of the kubeconfig are not valid.
    #[error("the API server does not accept the credentials of the kubeconfig: {0}")]
    Unauthorized(String),
    /// The API server or the network does not work.
    #[error("the API server {0}")]
    Unreachable(String),
    /// The proxy in front of it does not work.
    #[error("{0}")]
    Proxy(String),
}

/// Whether the API server would create the ScrapeTarget `manifest`. Without a namespace, it is the one that kubectl would use. Its names must
/// be well-formed: they become a part of the URL.
pub async fn dry_run(client: &ApiClient, manifest: &Value) -> Result<DryRunOutcome, DryRunError> {
    let namespace = manifest.pointer("/metadata/namespace").and_then(Value::as_str).filter(|name| !name.is_empty());
    let namespace = namespace.unwrap_or_else(|| client.namespace());
    match tokio::time::timeout(DEADLINE, create(client, namespace, manifest)).await {
        Err(_) => Err(DryRunError::Unreachable(format!("does not answer within {DEADLINE:?}"))),
        Ok(Ok(())) => Ok(DryRunOutcome::Accepted),
        Ok(Err(kube::Error::Api(status))) => interpret(&status, namespace),
        Ok(Err(error)) => Err(match TunnelError::behind(&error) {
            Some(error) => DryRunError::Proxy(error.to_string()),
            None => DryRunError::Unreachable(format!("cannot be reached: {}", error_chain::one_line(&error))),
        }),
    }
}

async fn create(client: &ApiClient, namespace: &str, manifest: &Value) -> kube::Result<()> {
    let params = PostParams { dry_run: true, field_manager: Some("scrapetarget-exporter-check".to_owned()) };
    let path = <ScrapeTarget as kube::Resource>::url_path(&(), Some(namespace));
    let body = serde_json::to_vec(manifest).map_err(kube::Error::SerdeError)?;
    let mut request = Request::new(path).create(&params, body).map_err(kube::Error::BuildRequest)?;
    // As kubectl does: an unknown field is an error, and not dropped silently.
    let strict = format!("{}&fieldValidation=Strict", request.uri());
    *request.uri_mut() = strict.parse().map_err(|error| kube::Error::Service(Box::new(error)))?;
    client.kube().request_text(request).await.map(drop)
}

/// The meaning of an answer other than success.
fn interpret(status: &Status, namespace: &str) -> Result<DryRunOutcome, DryRunError> {
    let message = status.message.clone();
    match status.code {
        // The manifest was checked before its name.
        409 if status.reason == "AlreadyExists" => Ok(DryRunOutcome::Accepted),
        401 => Err(DryRunError::Unauthorized(message)),
        // Quotas, policies and a namespace that is being deleted answer 403 as well, and their messages are about the manifest.
        403 if message.contains(" cannot create resource ") => {
            let rule = PolicyRule::new("create", "scrapetarget.dev", "scrapetargets", Some(namespace));
            Err(DryRunError::Forbidden(rule.to_string()))
        }
        // Where it is the namespace that does not exist, the answer names it.
        404 if status.details.as_ref().is_none_or(|details| details.kind != "namespaces") => {
            Err(DryRunError::NoDefinition)
        }
        400..=499 if !matches!(status.code, 408 | 429) => Ok(DryRunOutcome::Refused(message)),
        code => Err(DryRunError::Unreachable(format!("cannot judge: status {code}: {message}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn outcome(status: Value) -> Result<DryRunOutcome, DryRunError> {
        interpret(&serde_json::from_value(status).unwrap(), "media")
    }

    #[test]
    fn a_refusal_is_distinguished_from_an_error_of_the_server() {
        let refused = |message: &str| Ok(DryRunOutcome::Refused(message.to_owned()));
        let taken = json!({ "code": 409, "reason": "AlreadyExists", "message": "\"a\" already exists" });
        assert_eq!(outcome(taken), Ok(DryRunOutcome::Accepted));
        let invalid = json!({ "code": 422, "reason": "Invalid", "message": "spec.url: Invalid value" });
        assert_eq!(outcome(invalid), refused("spec.url: Invalid value"));
        let quota = json!({ "code": 403, "reason": "Forbidden", "message": "exceeded quota" });
        assert_eq!(outcome(quota), refused("exceeded quota"));
        let namespace = json!({ "code": 404, "reason": "NotFound", "message": "namespaces \"media\" not found",
            "details": { "kind": "namespaces", "name": "media" } });
        assert_eq!(outcome(namespace), refused("namespaces \"media\" not found"));
        let webhook = json!({ "code": 500, "reason": "InternalError", "message": "failed calling webhook" });
        assert_eq!(
            outcome(webhook),
            Err(DryRunError::Unreachable("cannot judge: status 500: failed calling webhook".to_owned()))
        );
        let nothing = json!({ "code": 404, "reason": "Failed to parse error data", "message": "404 page not found" });
        assert_eq!(outcome(nothing), Err(DryRunError::NoDefinition));
        let version = json!({ "code": 404, "reason": "NotFound", "message": "not found", "details": {} });
        assert_eq!(outcome(version), Err(DryRunError::NoDefinition));
    }

    #[test]
    fn a_missing_permission_is_reported_as_the_rule_that_is_missing() {
        let message = "scrapetargets.scrapetarget.dev is forbidden: User \"u\" cannot create resource \"scrapetargets\" in API group";
        let Err(DryRunError::Forbidden(rule)) =
            outcome(json!({ "code": 403, "reason": "Forbidden", "message": message }))
        else {
            panic!("it is forbidden");
        };
        assert!(rule.contains("namespace media") && rule.contains("verbs: [\"create\"]"), "{rule}");
    }
}
