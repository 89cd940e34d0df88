//! What a user may say about the ServiceMonitor of a target.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::schema::texts;
use crate::time::PromDuration;

/// The ServiceMonitor that the exporter creates for this target.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Monitor {
    /// Whether the exporter creates a ServiceMonitor for this target.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Labels of the ServiceMonitor, for the selectors of Prometheus.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts::<32, 63>")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the ServiceMonitor.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts::<32, 4096>")]
    pub annotations: BTreeMap<String, String>,
    /// How often Prometheus scrapes, from 1s to 1h. Defaults to the smaller of spec.interval and 2m, so that a long interval leaves no gaps
    /// in graphs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<PromDuration>,
    /// The timeout of a scrape, at most monitor.interval. Defaults to the smaller of monitor.interval and spec.timeout plus one second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrape_timeout: Option<PromDuration>,
    /// Relabelings of the target. They may read the labels that the exporter sets. They must not write labels that begin with __ or labels
    /// that identify the series of a target, such as instance, job and namespace; with members, not pod and member either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub relabelings: Vec<Relabeling>,
    /// Relabelings of the samples before ingestion. The same labels as in relabelings must not be written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub metric_relabelings: Vec<Relabeling>,
    /// The scrape class of the ServiceMonitor. The installation must allow it. If not set or empty, the default of the installation is
    /// used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub scrape_class: Option<String>,
    /// The label job of the series, for dashboards and rules that select by it. If not set, it is the name of the Service or of the scrape
    /// configuration by which Prometheus discovers the exporter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub job: Option<String>,
    /// The label instance of the series. Name: namespace and name of the target, as in web/shop. Url: url as it is written, which
    /// is what dashboards for the blackbox exporter select by; with type Prometheus, its host and port, as if Prometheus scraped the server.
    #[serde(default)]
    pub instance: InstanceLabel,
    /// Whether labels that the target itself gives its series win over those that discovery sets, such as namespace and instance: for
    /// servers whose series describe others. If not, Prometheus renames them, with the prefix exported. If not set, the installation
    /// decides, usually false; it may also forbid true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub honor_labels: Option<bool>,
    /// Maximum number of labels of a series, including those that discovery sets. A scrape with more fails as a whole. If the installation
    /// has a lower limit, that one is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 6, max = 1_000_000))]
    pub label_limit: Option<u32>,
    /// Maximum length of the name of a label, in the same way; the longest of discovery has 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 1_000_000))]
    pub label_name_length_limit: Option<u32>,
    /// Maximum length of the value of a label, in the same way. The name of a metric counts as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 64, max = 1_000_000))]
    pub label_value_length_limit: Option<u32>,
    /// Maximum size of a response to Prometheus before compression, in the same way: a whole number with one of the units B, KB, MB and GB,
    /// or KiB, MiB and GiB, which mean the same: 1 KB is 1024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 12))]
    pub body_size_limit: Option<String>,
}

/// What the label instance of a target's series is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum InstanceLabel {
    /// Namespace and name of the target.
    #[default]
    Name,
    /// The url as it is written, or its host and port.
    Url,
}

const fn yes() -> bool {
    true
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            enabled: true,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            interval: None,
            scrape_timeout: None,
            relabelings: Vec::new(),
            metric_relabelings: Vec::new(),
            scrape_class: None,
            job: None,
            instance: InstanceLabel::default(),
            honor_labels: None,
            label_limit: None,
            label_name_length_limit: None,
            label_value_length_limit: None,
            body_size_limit: None,
        }
    }
}

/// One relabeling step of Prometheus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Relabeling {
    /// The labels whose values are joined and matched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    pub source_labels: Vec<String>,
    /// The separator between the joined values. If not set, Prometheus uses a semicolon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub separator: Option<String>,
    /// The name of the label to which the result is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub target_label: Option<String>,
    /// The regular expression against which the joined values are matched. If not set, Prometheus matches everything. With labeldrop: label
    /// names, or prefixes of them followed by .*, separated by |.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub regex: Option<String>,
    /// The modulus of the action hashmod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modulus: Option<u64>,
    /// The replacement value; $1 refers to the first capture group of the regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub replacement: Option<String>,
    /// The action. The actions labelmap and labelkeep are rejected.
    #[serde(default)]
    pub action: Action,
}

/// What a relabeling does: a word of Prometheus, in small letters or as the Operator's Go constants are spelt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each variant is a word of Prometheus")]
pub enum Action {
    #[default]
    #[serde(alias = "Replace")]
    Replace,
    #[serde(alias = "Keep")]
    Keep,
    #[serde(alias = "Drop")]
    Drop,
    #[serde(alias = "HashMod")]
    HashMod,
    #[serde(alias = "LabelMap")]
    LabelMap,
    #[serde(alias = "LabelDrop")]
    LabelDrop,
    #[serde(alias = "LabelKeep")]
    LabelKeep,
    #[serde(alias = "Lowercase")]
    Lowercase,
    #[serde(alias = "Uppercase")]
    Uppercase,
    #[serde(alias = "KeepEqual")]
    KeepEqual,
    #[serde(alias = "DropEqual")]
    DropEqual,
}

impl JsonSchema for Action {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Action".into()
    }

    fn inline_schema() -> bool {
        true
    }

    // By hand, because a derived schema would leave the aliases out.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": [
            "replace", "keep", "drop", "hashmod", "labelmap", "labeldrop", "labelkeep", "lowercase", "uppercase", "keepequal",
            "dropequal", "Replace", "Keep", "Drop", "HashMod", "LabelMap", "LabelDrop", "LabelKeep", "Lowercase", "Uppercase",
            "KeepEqual", "DropEqual",
        ] })
    }
}
