//! Applications that use mediasoup. It is a library without an API, so the application must serve its statistics: with our agent, or with
//! its own exporter.

mod accumulate;
mod addresses;
mod agent;
mod aggregated;
mod compatibility;
mod document;
mod normalize;
mod objects;
mod passthrough;
mod summary;
mod traffic;

use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Answer, CallError, Kind, Reason, UrlQuery};
use crate::metric::Desc;
use document::ShortText;

/// The source of the statistics of a mediasoup application, and which series are exported.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// `Agent`: the document `mediasoup-stats/v1` of the agent; `Prometheus`: the metrics of an exporter that is part of the application.
    pub source: StatsSource,
    /// The kinds of objects for which one series per object is exported.
    #[schemars(length(max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub per_object: Vec<PerObject>,
    /// Add the labels `room_id` and `peer_id` to per-object series: the `roomId` and `peerId` that the application sets in `appData`. The
    /// agent reports them only if it is started with `SCRAPETARGET_AGENT_APP_DATA=roomId,peerId`.
    pub room_labels: bool,
    /// How client addresses in labels are treated. Only the families of `compatibility` and those of source `Prometheus` have such
    /// labels.
    pub addresses: Addresses,
    /// Additional families with the names of an older exporter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compatibility: Option<Compatibility>,
}

/// Where the statistics come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum StatsSource {
    /// The agent of this project.
    #[default]
    Agent,
    /// An exporter of the application's own, as edumeet has it.
    Prometheus,
}

/// A kind of object for which one series per object can be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum PerObject {
    /// Streams that the server receives.
    Producers,
    /// Streams that the server sends.
    Consumers,
    /// Transports.
    Transports,
}

/// What becomes of client addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Addresses {
    /// Empty.
    #[default]
    Drop,
    /// The last two octets of an IPv4 address, the last group of an IPv6 address.
    Deidentify,
    /// A keyed hash that changes with each start of the exporter.
    Hash,
    /// As they are.
    Plain,
}

/// Families with the names of an older exporter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Compatibility {
    /// The prefix of `<prefix>_rooms` and `<prefix>_peers`: `edumeet`, `Ejtimaa`, …
    #[schemars(regex(pattern = r"^[a-zA-Z_][a-zA-Z0-9_]{0,63}$"))]
    #[serde(default = "edumeet")]
    pub prefix: String,
    /// Also export the 64 aggregated families of edumeet's `/metrics`.
    #[serde(default)]
    pub aggregated: bool,
}

fn edumeet() -> String {
    "edumeet".to_owned()
}

impl Default for Options {
    fn default() -> Self {
        Self {
            source: StatsSource::Agent,
            per_object: vec![PerObject::Producers],
            room_labels: false,
            addresses: Addresses::Drop,
            compatibility: None,
        }
    }
}

impl super::Options for Options {
    const URL_USAGE: &'static str = "stats is appended to its path for source Agent; it is used unchanged and may have a query for source \
                                     Prometheus";
    const URL_QUERY: UrlQuery = UrlQuery::With("source", "Prometheus");
}

impl super::CallOptions for Options {
    fn build(&self, url: &Url) -> Box<dyn Kind> {
        match self.source {
            StatsSource::Agent => Box::new(agent::Agent::new(url, self)),
            StatsSource::Prometheus => {
                Box::new(passthrough::Passthrough { url: url.clone(), addresses: self.addresses })
            }
        }
    }
}

crate::descs! {
    UP = gauge "mediasoup_up" [] "Whether the last poll returned readable statistics.";
}

/// Every family of this kind that is known beforehand. Source `Prometheus` passes on whatever there is.
pub fn families() -> Vec<&'static Desc> {
    [
        FAMILIES,
        summary::FAMILIES,
        traffic::FAMILIES,
        objects::FAMILIES,
        compatibility::FAMILIES,
        &aggregated::families(),
    ]
    .concat()
}

/// The answer of the one call that a poll makes.
fn only(answers: &[Answer]) -> Result<&Answer, CallError> {
    answers.first().ok_or_else(|| CallError::new(Reason::Internal, "the call was not made"))
}

/// The value of a label that should be one of a few, cut to a length that bounds what a server can make of it.
fn short(value: &str) -> &str {
    const LONGEST: usize = 64;
    &value[..value.floor_char_boundary(LONGEST)]
}

/// Codecs that mediasoup knows, as it writes them.
const CODECS: [&str; 16] = [
    "opus",
    "multiopus",
    "PCMU",
    "PCMA",
    "ISAC",
    "G722",
    "iLBC",
    "SILK",
    "CN",
    "telephone-event",
    "VP8",
    "VP9",
    "H264",
    "H264-SVC",
    "H265",
    "AV1",
];

/// `VP8` of `video/VP8`, and of `video/vp8`: clients write it as they like.
fn codec(mime_type: &ShortText) -> &str {
    let name = mime_type.as_str().rsplit('/').next().unwrap_or_default();
    CODECS.into_iter().find(|known| known.eq_ignore_ascii_case(name)).unwrap_or_else(|| short(name))
}
