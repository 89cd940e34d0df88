//! WebRTC SFU Sora, polled through its HTTP API.
//!
//! The same port has operations that disconnect clients and purge nodes. So the operations of all calls are constants in this file, and all
//! of them only read.

pub mod api;
mod cluster;
mod erlang;
mod license;
mod report;

use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Answer, Call, CallError, Context, FromJson, JsonField, JsonList, Kind, Method, Number, Reason, Text};
use crate::metric::{Desc, Families, Filter};
use api::{ClusterNode, License, ServerMode, StatsReport};

/// What is asked of a Sora server beyond its base statistics and its licence.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// Cluster nodes (one more request), Raft state and relay traffic: `sora_cluster_*`.
    pub cluster_metrics: bool,
    /// Connections by client software: `sora_client_type_total`.
    pub client_metrics: bool,
    /// Connection errors by reason: `sora_connection_error_total`.
    pub connection_error_metrics: bool,
    /// The Erlang virtual machine: `sora_erlang_vm_*`.
    #[serde(rename = "erlangVMMetrics")]
    pub erlang_vm_metrics: bool,
    /// Whether the server accepts new sessions and connections (one more request): `sora_server_mode`. Sora before 2021.2 does not
    /// support this request; there only this request fails.
    pub server_mode: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cluster_metrics: false,
            client_metrics: false,
            connection_error_metrics: false,
            erlang_vm_metrics: false,
            server_mode: true,
        }
    }
}

impl super::Options for Options {
    const URL_USAGE: &'static str = "all calls are sent to it";
    const COMMAND_HEADERS: &'static [(&'static str, &'static str)] = &[(
        TARGET_HEADER,
        "names an operation of Sora's API, and some of them end connections or change the licence: a poll would be a command; remove it",
    )];
}

impl super::CallOptions for Options {
    fn build(&self, url: &Url) -> Box<dyn Kind> {
        Box::new(Sora { options: self.clone(), url: url.clone() })
    }
}

crate::descs! {
    UP = gauge "sora_up" [] "Whether GetStatsReport and GetLicense both succeeded in the last poll.";
    TIME = gauge "sora_time_seconds" [] "Unix time by the clock of the exporter when the poll ended; absent if GetStatsReport failed.";
    MODE = gauge "sora_server_mode" ["mode"] "Whether the server accepts new sessions and connections, in the label. Always 1.";
}

/// Every family of this kind.
pub fn families() -> Vec<&'static Desc> {
    [FAMILIES, report::FAMILIES, erlang::FAMILIES, license::FAMILIES, cluster::FAMILIES].concat()
}

/// A sample that is one field: its family, the values of its labels, and where the field is.
type FieldSample<T> = (&'static Desc, &'static [&'static str], fn(&T) -> Number);

fn write_rows<T>(rows: &[FieldSample<T>], from: &T, out: &mut Families) {
    for (desc, labels, field) in rows {
        out.number(desc, labels, field(from));
    }
}

struct Sora {
    options: Options,
    url: Url,
}

/// The header that names the operation of the API.
const TARGET_HEADER: &str = "x-sora-target";

const STATS_REPORT: (&str, &str) = ("GetStatsReport", "Sora_20171010.GetStatsReport");
const LICENSE: (&str, &str) = ("GetLicense", "Sora_20171218.GetLicense");
const CLUSTER_NODES: (&str, &str) = ("ListClusterNodes", "Sora_20211215.ListClusterNodes");
const SERVER_MODE: (&str, &str) = ("GetMode", "Sora_20211215.GetMode");

impl Sora {
    /// Each call as (name, target), in order; [`Kind::translate`] takes the answers in the same one.
    fn targets(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        [
            Some(STATS_REPORT),
            Some(LICENSE),
            self.options.cluster_metrics.then_some(CLUSTER_NODES),
            self.options.server_mode.then_some(SERVER_MODE),
        ]
        .into_iter()
        .flatten()
    }
}

impl Kind for Sora {
    fn calls(&self, _: Option<&Filter>) -> Vec<Call> {
        self.targets()
            .map(|(name, target)| Call {
                name,
                method: Method::Post,
                url: self.url.clone(),
                headers: vec![(TARGET_HEADER, target.to_owned())],
                timeout_header: None,
            })
            .collect()
    }

    fn translate(&mut self, answers: &[Answer], cx: &Context, out: &mut Families) -> Vec<Result<(), CallError>> {
        let mut answers = answers.iter();
        let report = report(answers.next());
        let license = license(answers.next());
        let nodes = self.options.cluster_metrics.then(|| nodes(answers.next()));
        let mode = self.options.server_mode.then(|| mode(answers.next()));

        out.set(&UP, &[], flag(report.is_ok() && license.is_ok()));
        if let Ok(report) = &report {
            out.set(&TIME, &[], cx.now);
            self.write_report(report, out);
        }
        if let Ok(license) = &license {
            license::write(license, out);
        }
        if let Some(Ok(mode)) = &mode {
            out.set(&MODE, &[mode], 1.0);
        }
        if let Some(nodes) = &nodes {
            out.set(&cluster::UP, &[], flag(nodes.is_ok()));
            write_cluster(report.as_ref().ok(), nodes.as_ref().ok(), cx, out);
        }

        let mut results = vec![report.map(drop), license.map(drop)];
        results.extend(nodes.map(|nodes| nodes.map(drop)));
        results.extend(mode.map(|mode| mode.map(drop)));
        results
    }
}

impl Sora {
    fn write_report(&self, report: &StatsReport, out: &mut Families) {
        report::write(report, out);
        if self.options.client_metrics {
            report::write_clients(report, out);
        }
        if self.options.connection_error_metrics {
            report::write_errors(report, out);
        }
        if self.options.erlang_vm_metrics {
            erlang::write(report, out);
        }
    }
}

/// Writes the cluster's families, those that grow with it last: above the limit, the relays are dropped first, then the nodes.
fn write_cluster(report: Option<&StatsReport>, nodes: Option<&JsonList<ClusterNode>>, cx: &Context, out: &mut Families) {
    if let Some(report) = report {
        cluster::write_raft(report, out);
    }
    let before_nodes = out.mark();
    if let Some(nodes) = nodes {
        cluster::write_nodes(nodes, out);
    }
    let before_relays = out.mark();
    if let Some(report) = report {
        cluster::write_relays(&report.cluster_relay, out);
    }
    for mark in [before_relays, before_nodes] {
        if out.exceeds(cx.sample_limit) {
            let shed = out.rewind(mark);
            out.drop_series(shed);
        }
    }
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn answer(answer: Option<&Answer>) -> Result<&Answer, CallError> {
    answer.ok_or_else(|| CallError::new(Reason::Internal, "the call was not made"))
}

/// An object with at least one known field: the JSON of another server has none of them, and must not look like an idle Sora.
fn object<T>(from: Option<&Answer>, what: &str) -> Result<T, CallError>
where
    T: Default + FromJson + PartialEq,
{
    match answer(from)?.json()? {
        JsonField::Value(value) if value != T::default() => Ok(value),
        JsonField::Value(_) => Err(CallError::new(Reason::Schema, format!("the JSON has no field of {what}"))),
        JsonField::Absent | JsonField::Invalid => {
            Err(CallError::new(Reason::Schema, format!("the JSON is not an object, so it is not {what}")))
        }
    }
}

fn report(from: Option<&Answer>) -> Result<StatsReport, CallError> {
    object(from, "a stats report")
}

fn license(from: Option<&Answer>) -> Result<License, CallError> {
    object(from, "a licence")
}

fn nodes(from: Option<&Answer>) -> Result<JsonList<ClusterNode>, CallError> {
    let nodes: JsonList<_> = answer(from)?.json()?;
    if !nodes.is_given {
        return Err(CallError::new(Reason::Schema, "the JSON is not an array, so it is not a list of nodes"));
    }
    Ok(nodes)
}

fn mode(from: Option<&Answer>) -> Result<String, CallError> {
    match object::<ServerMode>(from, "a server's mode")?.mode {
        Text::Value(mode) if !mode.is_empty() => Ok(mode),
        _ => Err(CallError::new(Reason::Schema, "the mode is not a word")),
    }
}
