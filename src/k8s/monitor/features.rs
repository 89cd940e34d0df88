//! Whether the Prometheus Operator's ServiceMonitor is there, and which of its newer fields it knows: an API server refuses to apply a
//! field that it does not know.
//!
//! It is asked by what everybody may read, so that no right on CRDs is needed.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use futures::stream::{self, Stream};
use kube::api::{GetParams, ListParams};
use kube::core::Request;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::access::{ApiError, Cluster, Rule};
use super::{GROUP, PLURAL, monitors};

/// Optional fields that help where they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features {
    /// `spec.scrapeClass`.
    pub(super) scrape_class: bool,
    /// `spec.keepDroppedTargets`.
    pub(super) keep_dropped_targets: bool,
    /// `spec.selectorMechanism`.
    pub(super) selector_mechanism: bool,
}

impl fmt::Display for Features {
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

impl Features {
    /// What every Operator that we support knows.
    pub(super) const OLDEST: Self = Self { scrape_class: true, keep_dropped_targets: true, selector_mechanism: false };
}

/// What is known of the Operator's ServiceMonitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Installed {
    /// It is not there.
    No,
    /// It is there.
    Yes(Features),
}

/// How often we look.
const PERIOD: Duration = Duration::from_secs(30);

/// How long until the next try when nobody answered the first time: until then nothing can be written.
const RETRY: Duration = Duration::from_secs(2);

/// How long until the second look at what is said to be away: an API server that has just started does not know all of itself yet.
const SECOND_LOOK: Duration = Duration::from_secs(5);

/// How often a document is read again that changes while it is read.
const ATTEMPTS: u32 = 3;

/// The document has megabytes, and is read only when it is another.
const DEADLINE: Duration = Duration::from_secs(20);

/// Yields what is installed, and again whenever that changes.
pub(super) fn follow(cluster: Cluster) -> impl Stream<Item = Installed> + Send {
    let start = Follow { cluster, revision: None, sure: false, known: None, doubt: false, wait: Duration::ZERO };
    stream::unfold(start, |mut follow| async {
        let news = follow.change().await;
        Some((news, follow))
    })
}

struct Follow {
    cluster: Cluster,
    /// Of the document that [`known`](Self::known) was read from, as the index says.
    revision: Option<String>,
    /// Whether the document has been read twice at this revision. The index may lag behind the document, which then is a newer one than it
    /// seems, and is not read again if it becomes what it was.
    sure: bool,
    known: Option<Installed>,
    /// The last answer did not show the kind, and does not count before the next one agrees.
    doubt: bool,
    wait: Duration,
}

impl Follow {
    async fn change(&mut self) -> Installed {
        loop {
            tokio::time::sleep(self.wait).await;
            let asked = self.ask().await;
            self.wait = match asked {
                None if self.doubt => SECOND_LOOK,
                None if self.known.is_none() => RETRY,
                _ => PERIOD,
            };
            if let Some(installed) = asked
                && self.known != Some(installed)
            {
                self.known = Some(installed);
                return installed;
            }
        }
    }

    /// `None`: nobody answered, so what was known stays.
    async fn ask(&mut self) -> Option<Installed> {
        let schema = match self.ask_for_schema().await {
            Err(Silence::Away) => return None,
            Ok(installed) if matches!(installed, Installed::Yes(_)) || self.known == Some(installed) => {
                self.doubt = false;
                return Some(installed);
            }
            Ok(_) => Schema::Lacking,
            Err(Silence::Withheld) => Schema::Withheld,
        };
        let list = self.ask_for_list().await?;
        self.weigh(schema, list)
    }

    /// What follows where no schema shows the kind.
    fn weigh(&mut self, schema: Schema, list: List) -> Option<Installed> {
        let second = std::mem::replace(&mut self.doubt, false);
        match (schema, list, self.known) {
            (_, List::Missing, _) => Some(Installed::No),
            _ if !second => {
                self.doubt = true;
                None
            }
            (Schema::Lacking, List::Denied, _) => Some(Installed::No),
            // Its fields do not change by being kept from us.
            (_, _, known @ Some(Installed::Yes(_))) => known,
            // Without the right to list them, the watch says what is missing.
            _ => Some(Installed::Yes(Features::OLDEST)),
        }
    }

    async fn ask_for_schema(&mut self) -> Result<Installed, Silence> {
        let mut revision = self.ask_for_revision().await?;
        // The index and the document change one after the other: what was read between is the one or the other.
        for _ in 0..ATTEMPTS {
            let Some(before) = revision else {
                self.revision = None;
                return Ok(Installed::No);
            };
            let same = self.revision.as_ref() == Some(&before);
            if let Some(known) = self.known
                && same
                && self.sure
            {
                return Ok(known);
            }
            let document = read(&format!("/openapi/v3/apis/{GROUP}"), "v1", &self.cluster).await?;
            let installed = features(&document)?.map_or(Installed::No, Installed::Yes);
            revision = self.ask_for_revision().await?;
            if revision.as_ref() == Some(&before) {
                self.revision = revision;
                self.sure = same;
                return Ok(installed);
            }
        }
        Err(Silence::Away)
    }

    async fn ask_for_revision(&self) -> Result<Option<String>, Silence> {
        Ok(revision(&read("/openapi", "v3", &self.cluster).await?)?)
    }

    /// Where no schema shows the kind, a list still tells whether it is there; `None`: nobody answered.
    async fn ask_for_list(&self) -> Option<List> {
        let rule = Rule::new("list", GROUP, PLURAL, None);
        let one = ListParams::default().limit(1);
        match self.cluster.call(rule, monitors(&self.cluster, None).list(&one)).await {
            Ok(_) => Some(List::There),
            Err(ApiError::NotFound) => Some(List::Missing),
            Err(ApiError::Forbidden(_)) => Some(List::Denied),
            Err(_) => None,
        }
    }
}

/// What the schema says where it does not show the kind.
#[derive(Clone, Copy, Debug)]
enum Schema {
    /// There are schemas, and none of it.
    Lacking,
    /// We may not read it, or it is nonsense.
    Withheld,
}

/// What a list of the kind says.
#[derive(Clone, Copy, Debug)]
enum List {
    There,
    Missing,
    Denied,
}

/// Why there is no document.
#[derive(Debug, PartialEq)]
enum Silence {
    /// Nobody answers; this passes.
    Away,
    /// The answer was no, or nonsense.
    Withheld,
}

impl From<serde_json::Error> for Silence {
    fn from(_: serde_json::Error) -> Self {
        Self::Withheld
    }
}

/// Reads a document of the API server that is no resource, so that there is no rule to tell where it is denied.
async fn read(folder: &str, name: &str, cluster: &Cluster) -> Result<String, Silence> {
    let request = Request::new(folder).get(name, &GetParams::default()).map_err(|_| Silence::Withheld)?;
    match tokio::time::timeout(DEADLINE, cluster.client().request_text(request)).await {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(kube::Error::Api(status))) if status.code < 500 && status.code != 429 => Err(Silence::Withheld),
        Ok(Err(_)) | Err(_) => Err(Silence::Away),
    }
}

/// The revision of the document about the Operator's kinds; `None`: there are none.
fn revision(index: &str) -> Result<Option<String>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Index {
        paths: HashMap<String, Path>,
    }
    #[derive(Deserialize)]
    struct Path {
        #[serde(rename = "serverRelativeURL")]
        url: String,
    }
    let mut index: Index = serde_json::from_str(index)?;
    Ok(index.paths.remove(&format!("apis/{GROUP}/v1")).map(|path| path.url))
}

/// The fields that a document knows; `None`: it does not know ServiceMonitors. All else in it is skipped, not kept: it has megabytes.
fn features(document: &str) -> Result<Option<Features>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Document {
        components: Components,
    }
    #[derive(Deserialize)]
    struct Components {
        schemas: Schemas,
    }
    #[derive(Deserialize)]
    struct Schemas {
        #[serde(rename = "com.coreos.monitoring.v1.ServiceMonitor")]
        service_monitor: Option<Schema<Kind>>,
    }
    #[derive(Deserialize)]
    struct Kind {
        spec: Option<Schema<Fields>>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Fields {
        scrape_class: Option<IgnoredAny>,
        keep_dropped_targets: Option<IgnoredAny>,
        selector_mechanism: Option<IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct Schema<P> {
        properties: Option<P>,
    }
    let document: Document = serde_json::from_str(document)?;
    Ok(document.components.schemas.service_monitor.map(|kind| {
        let spec = kind.properties.and_then(|kind| kind.spec);
        let fields = spec.and_then(|spec| spec.properties).unwrap_or_default();
        Features {
            scrape_class: fields.scrape_class.is_some(),
            keep_dropped_targets: fields.keep_dropped_targets.is_some(),
            selector_mechanism: fields.selector_mechanism.is_some(),
        }
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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
        assert_eq!(features(&document(&fields)).unwrap(), Some(Features::OLDEST));
        let fields = json!({ "selectorMechanism": {} });
        let only = Features { scrape_class: false, keep_dropped_targets: false, selector_mechanism: true };
        assert_eq!(features(&document(&fields)).unwrap(), Some(only));
    }

    #[test]
    fn a_document_of_other_kinds_has_no_service_monitor() {
        let others = r#"{ "components": { "schemas": { "com.coreos.monitoring.v1.PodMonitor": {} } } }"#;
        assert_eq!(features(others).unwrap(), None);
        assert!(features("<html>").is_err(), "that says nothing");
    }

    fn follow(known: Option<Installed>) -> Follow {
        Follow {
            cluster: Cluster::unreachable(),
            revision: None,
            sure: false,
            known,
            doubt: false,
            wait: Duration::ZERO,
        }
    }

    #[tokio::test]
    async fn what_is_known_stays_while_an_api_server_does_not_know_all_of_itself() {
        let newest = Features { selector_mechanism: true, ..Features::OLDEST };
        let known = Some(Installed::Yes(newest));
        for list in [List::There, List::Denied] {
            let mut follow = follow(known);
            for _ in 0..4 {
                let told = follow.weigh(Schema::Withheld, list);
                assert!(told.is_none() || told == known, "{told:?}");
            }
        }
        let mut follow = follow(known);
        assert_eq!(follow.weigh(Schema::Lacking, List::Denied), None, "not at the first look");
        assert!(follow.doubt, "so the second one comes soon");
        assert_eq!(follow.weigh(Schema::Lacking, List::Denied), Some(Installed::No));
        assert_eq!(follow.weigh(Schema::Lacking, List::Missing), Some(Installed::No), "a list is enough");
    }

    #[tokio::test]
    async fn without_a_schema_the_oldest_fields_count_after_a_second_look() {
        for list in [List::There, List::Denied] {
            let mut follow = follow(None);
            assert_eq!(follow.weigh(Schema::Withheld, list), None);
            assert_eq!(follow.weigh(Schema::Withheld, list), Some(Installed::Yes(Features::OLDEST)));
        }
    }

    #[test]
    fn the_index_tells_when_the_document_is_another() {
        let path = "/openapi/v3/apis/monitoring.coreos.com/v1?hash=A1";
        let index = json!({ "paths": {
            "api/v1": { "serverRelativeURL": "/openapi/v3/api/v1?hash=B2" },
            "apis/monitoring.coreos.com/v1": { "serverRelativeURL": path },
        } });
        assert_eq!(revision(&index.to_string()).unwrap().as_deref(), Some(path));
        assert_eq!(revision(r#"{ "paths": {} }"#).unwrap(), None);
    }
}
