//! Whether the Prometheus Operator's ServiceMonitor CRD is installed, and which optional fields it knows: the API server refuses to apply
//! a field that the CRD does not have.
//!
//! It is read from the documents under `/openapi/v3`, which every account may read, so that no right on CRDs is needed.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use futures::stream::{self, Stream};
use kube::api::{GetParams, ListParams};
use kube::core::Request;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{GROUP, PLURAL, monitors};
use crate::k8s::client::{ApiClient, ApiError, PolicyRule};

/// Fields of a ServiceMonitor's spec that are used where the CRD knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OperatorFeatures {
    /// `spec.scrapeClass`.
    pub(super) scrape_class: bool,
    /// `spec.keepDroppedTargets`.
    pub(super) keep_dropped_targets: bool,
    /// `spec.selectorMechanism`.
    pub(super) selector_mechanism: bool,
}

impl OperatorFeatures {
    /// Of the oldest Operator that we support.
    pub(super) const OLDEST: Self = Self { scrape_class: true, keep_dropped_targets: true, selector_mechanism: false };
}

impl fmt::Display for OperatorFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scrape_class, keep_dropped_targets, selector_mechanism } = *self;
        let fields = [
            (scrape_class, "scrapeClass"),
            (keep_dropped_targets, "keepDroppedTargets"),
            (selector_mechanism, "selectorMechanism"),
        ];
        let known: Vec<&str> = fields.into_iter().filter_map(|(known, name)| known.then_some(name)).collect();
        f.write_str(&known.join(","))
    }
}

/// The state of the ServiceMonitor CRD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OperatorCrd {
    Missing,
    Installed(OperatorFeatures),
}

/// The interval between checks.
const PERIOD: Duration = Duration::from_secs(30);

/// The delay before the first check is repeated if the API server does not answer: nothing is written before it does.
const FIRST_RETRY: Duration = Duration::from_secs(2);

/// The delay before a missing CRD is checked again: an API server that has just started does not serve all of its APIs at once.
const CONFIRMATION: Duration = Duration::from_secs(5);

/// The most reads of the document in one check, which is read again if it changes in the meantime.
const ATTEMPTS: u32 = 3;

/// The deadline for one document. It has megabytes, but is read only when it has changed.
const DEADLINE: Duration = Duration::from_secs(20);

/// Yields the state of the CRD, and again whenever it changes.
pub(super) fn watch_crd(client: ApiClient) -> impl Stream<Item = OperatorCrd> + Send {
    stream::unfold(CrdChecker::new(client), |mut checker| async {
        let crd = checker.changed().await;
        Some((crd, checker))
    })
}

struct CrdChecker {
    client: ApiClient,
    known: Option<OperatorCrd>,
    /// The revision of the document that `known` was read from.
    revision: Option<String>,
    /// Whether the document was read twice at this revision. The index can lag behind the document, so that one reading alone may be of
    /// a later revision than the index says.
    confirmed: bool,
    /// The last check found no schema. That counts only if the next check agrees.
    absent_once: bool,
    delay: Duration,
}

impl CrdChecker {
    const fn new(client: ApiClient) -> Self {
        Self { client, known: None, revision: None, confirmed: false, absent_once: false, delay: Duration::ZERO }
    }

    /// Waits until the state differs from the one before.
    async fn changed(&mut self) -> OperatorCrd {
        loop {
            tokio::time::sleep(self.delay).await;
            let found = self.check().await;
            self.delay = match found {
                None if self.absent_once => CONFIRMATION,
                None if self.known.is_none() => FIRST_RETRY,
                _ => PERIOD,
            };
            if let Some(crd) = found
                && self.known.replace(crd) != found
            {
                return crd;
            }
        }
    }

    /// `None`: the state is uncertain, so the known one is kept.
    async fn check(&mut self) -> Option<OperatorCrd> {
        let no_schema = match self.schema().await {
            Err(SchemaError::Unavailable) => return None,
            Ok(crd) if matches!(crd, OperatorCrd::Installed(_)) || self.known == Some(crd) => {
                self.absent_once = false;
                return Some(crd);
            }
            Ok(_) => NoSchema::NotServed,
            Err(SchemaError::Unreadable) => NoSchema::Unreadable,
        };
        let list = self.list().await?;
        self.without_schema(no_schema, list)
    }

    /// The state of the CRD by a list of ServiceMonitors, where no schema shows the CRD.
    fn without_schema(&mut self, schema: NoSchema, list: ListAnswer) -> Option<OperatorCrd> {
        let absent_before = std::mem::take(&mut self.absent_once);
        match (schema, list, self.known) {
            (_, ListAnswer::NotFound, _) => Some(OperatorCrd::Missing),
            _ if !absent_before => {
                self.absent_once = true;
                None
            }
            (NoSchema::NotServed, ListAnswer::Denied, _) => Some(OperatorCrd::Missing),
            // That we cannot read the schema does not change the fields.
            (_, _, known @ Some(OperatorCrd::Installed(_))) => known,
            // If we may not list ServiceMonitors, their watch says which rule is missing.
            _ => Some(OperatorCrd::Installed(OperatorFeatures::OLDEST)),
        }
    }

    /// The state of the CRD by its document.
    async fn schema(&mut self) -> Result<OperatorCrd, SchemaError> {
        let mut revision = self.read_revision().await?;
        // The index and the document do not change at the same moment. Only between two equal revisions it is clear what was read.
        for _ in 0..ATTEMPTS {
            let Some(before) = revision else {
                self.revision = None;
                return Ok(OperatorCrd::Missing);
            };
            let unchanged = self.revision.as_ref() == Some(&before);
            if let Some(known) = self.known
                && unchanged
                && self.confirmed
            {
                return Ok(known);
            }
            let document = read_document(&format!("/openapi/v3/apis/{GROUP}"), "v1", &self.client).await?;
            let crd = features_in(&document)?.map_or(OperatorCrd::Missing, OperatorCrd::Installed);
            revision = self.read_revision().await?;
            if revision.as_ref() == Some(&before) {
                self.revision = revision;
                self.confirmed = unchanged;
                return Ok(crd);
            }
        }
        Err(SchemaError::Unavailable)
    }

    async fn read_revision(&self) -> Result<Option<String>, SchemaError> {
        revision_in(&read_document("/openapi", "v3", &self.client).await?)
    }

    /// `None`: the API server does not answer.
    async fn list(&self) -> Option<ListAnswer> {
        let rule = PolicyRule::new("list", GROUP, PLURAL, None);
        let one = ListParams::default().limit(1);
        match self.client.call(rule, monitors(&self.client, None).list(&one)).await {
            Ok(_) => Some(ListAnswer::Listed),
            Err(ApiError::NotFound) => Some(ListAnswer::NotFound),
            Err(ApiError::Forbidden(_)) => Some(ListAnswer::Denied),
            Err(_) => None,
        }
    }
}

/// Why no schema shows the CRD.
#[derive(Clone, Copy, Debug)]
enum NoSchema {
    /// The API server serves schemas, but none of ServiceMonitors.
    NotServed,
    /// We may not read it, or cannot parse it.
    Unreadable,
}

/// The answer to a list of ServiceMonitors.
#[derive(Clone, Copy, Debug)]
enum ListAnswer {
    Listed,
    NotFound,
    Denied,
}

/// Why a document was not read.
#[derive(Debug, PartialEq)]
enum SchemaError {
    /// The API server does not answer; this passes.
    Unavailable,
    /// It was denied, or cannot be parsed.
    Unreadable,
}

impl From<serde_json::Error> for SchemaError {
    fn from(_: serde_json::Error) -> Self {
        Self::Unreadable
    }
}

/// Reads a document of the API server. It is not a resource, so there is no RBAC rule to report if it is denied.
async fn read_document(folder: &str, name: &str, client: &ApiClient) -> Result<String, SchemaError> {
    let request = Request::new(folder).get(name, &GetParams::default()).map_err(|_| SchemaError::Unreadable)?;
    match tokio::time::timeout(DEADLINE, client.kube().request_text(request)).await {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(kube::Error::Api(status))) if status.code < 500 && status.code != 429 => Err(SchemaError::Unreadable),
        Ok(Err(_)) | Err(_) => Err(SchemaError::Unavailable),
    }
}

/// The revision of the Operator's document according to the index; `None` if there is no such document.
fn revision_in(index: &str) -> Result<Option<String>, SchemaError> {
    let index: Value = serde_json::from_str(index)?;
    let paths = index["paths"].as_object().ok_or(SchemaError::Unreadable)?;
    let Some(document) = paths.get(&format!("apis/{GROUP}/v1")) else { return Ok(None) };
    // The URL ends in a hash of the document.
    let url = document["serverRelativeURL"].as_str().ok_or(SchemaError::Unreadable)?;
    Ok(Some(url.to_owned()))
}

/// The fields that the CRD in a document knows; `None` if it has no ServiceMonitors.
fn features_in(document: &str) -> Result<Option<OperatorFeatures>, SchemaError> {
    let document = serde_json::from_str(document)?;
    let schemas = value_at(document, &["components", "schemas"])?.ok_or(SchemaError::Unreadable)?;
    let Some(schema) = value_at(schemas, &["com.coreos.monitoring.v1.ServiceMonitor"])? else { return Ok(None) };
    let spec = value_at(schema, &["properties", "spec", "properties"])?;
    let has = |field| spec.map_or(Ok(false), |spec| value_at(spec, &[field]).map(|field| field.is_some()));
    Ok(Some(OperatorFeatures {
        scrape_class: has("scrapeClass")?,
        keep_dropped_targets: has("keepDroppedTargets")?,
        selector_mechanism: has("selectorMechanism")?,
    }))
}

/// The value at `path`. All else is skipped rather than parsed: as a tree, the document would take many times its megabytes.
fn value_at<'d>(document: &'d RawValue, path: &[&str]) -> serde_json::Result<Option<&'d RawValue>> {
    let mut value = Some(document);
    for field in path {
        let Some(object) = value else { break };
        let fields: Option<HashMap<String, &RawValue>> = serde_json::from_str(object.get())?;
        value = fields.and_then(|mut fields| fields.remove(*field));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(spec: &Value) -> String {
        let schema = json!({ "type": "object", "properties": { "metadata": {}, "spec": { "properties": spec } } });
        let schemas =
            json!({ "com.coreos.monitoring.v1.ServiceMonitor": schema, "com.coreos.monitoring.v1.Prometheus": {} });
        json!({ "openapi": "3.0.0", "components": { "schemas": schemas } }).to_string()
    }

    #[test]
    fn a_field_is_known_if_the_schema_has_it() {
        let fields = json!({ "endpoints": {}, "scrapeClass": {}, "keepDroppedTargets": { "type": "integer" } });
        assert_eq!(features_in(&document(&fields)).unwrap(), Some(OperatorFeatures::OLDEST));
        let fields = json!({ "selectorMechanism": {} });
        let only = OperatorFeatures { scrape_class: false, keep_dropped_targets: false, selector_mechanism: true };
        assert_eq!(features_in(&document(&fields)).unwrap(), Some(only));
    }

    #[test]
    fn a_document_of_other_kinds_has_no_service_monitor() {
        let others = r#"{ "components": { "schemas": { "com.coreos.monitoring.v1.PodMonitor": {} } } }"#;
        assert_eq!(features_in(others).unwrap(), None);
        for unreadable in ["<html>", "{}"] {
            assert_eq!(features_in(unreadable), Err(SchemaError::Unreadable), "{unreadable}");
        }
    }

    fn checker(known: Option<OperatorCrd>) -> CrdChecker {
        CrdChecker { known, ..CrdChecker::new(ApiClient::unreachable()) }
    }

    #[tokio::test]
    async fn the_known_state_stays_while_an_api_server_does_not_serve_all_of_its_apis() {
        let newest = OperatorFeatures { selector_mechanism: true, ..OperatorFeatures::OLDEST };
        let known = Some(OperatorCrd::Installed(newest));
        for list in [ListAnswer::Listed, ListAnswer::Denied] {
            let mut checker = checker(known);
            for _ in 0..4 {
                let found = checker.without_schema(NoSchema::Unreadable, list);
                assert!(found.is_none() || found == known, "{found:?}");
            }
        }
        let mut checker = checker(known);
        assert_eq!(checker.without_schema(NoSchema::NotServed, ListAnswer::Denied), None, "not at the first check");
        assert!(checker.absent_once, "so the second one comes soon");
        assert_eq!(checker.without_schema(NoSchema::NotServed, ListAnswer::Denied), Some(OperatorCrd::Missing));
        let missing = checker.without_schema(NoSchema::NotServed, ListAnswer::NotFound);
        assert_eq!(missing, Some(OperatorCrd::Missing), "a list is enough");
    }

    #[tokio::test]
    async fn without_a_schema_the_oldest_fields_count_after_a_second_check() {
        for list in [ListAnswer::Listed, ListAnswer::Denied] {
            let mut checker = checker(None);
            assert_eq!(checker.without_schema(NoSchema::Unreadable, list), None);
            let oldest = Some(OperatorCrd::Installed(OperatorFeatures::OLDEST));
            assert_eq!(checker.without_schema(NoSchema::Unreadable, list), oldest);
        }
    }

    #[test]
    fn the_index_has_another_revision_when_the_document_changes() {
        let path = "/openapi/v3/apis/monitoring.coreos.com/v1?hash=A1";
        let index = json!({ "paths": {
            "api/v1": { "serverRelativeURL": "/openapi/v3/api/v1?hash=B2" },
            "apis/monitoring.coreos.com/v1": { "serverRelativeURL": path },
        } });
        assert_eq!(revision_in(&index.to_string()).unwrap().as_deref(), Some(path));
        assert_eq!(revision_in(r#"{ "paths": {} }"#).unwrap(), None);
    }
}
