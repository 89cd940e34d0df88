//! What a user may say about the processes of a target that is not one process.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The processes of an application that runs as several pods. Every member is polled with the scheme, path and query of url, but at its own
/// address; the header Host and the name that its certificate must have remain those of url. Exactly one of service and dns must be set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Members {
    /// The members are the endpoints of a Service in the namespace of the target. Not for targets in files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<MembersService>,
    /// The members are all addresses of the host in url, at the port of url. The name is resolved again every interval, but at most every
    /// 10s. Write {}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<MembersDns>,
    /// Which endpoints of the Service are polled. Serving: those that pass their readiness probe, terminating or not. Ready: those that are
    /// ready and not terminating. All: every endpoint that has an address. Not with dns.
    #[serde(default)]
    pub include: Include,
    /// Maximum number of members that are polled. If there are more, the first ones by name are polled, and the others are only counted.
    #[serde(default = "limit")]
    #[schemars(range(min = 1, max = 500))]
    pub limit: u32,
    /// Maximum number of series of all members together. Each member may have an equal share of it, and no more than spec.sampleLimit.
    #[serde(default = "sample_limit")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub sample_limit: u32,
}

/// A Service whose endpoints are the members of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MembersService {
    /// The name of the Service, which must be in the namespace of the target. Defaults to the first label of the host in url: rooms in
    /// `http://rooms.webrtc.svc:9851/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// The name of its port. Members are polled at the number that this port has in their pods. Defaults to the only port; if there are
    /// several, to the one whose number in the pods (targetPort) is the port in url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub port: Option<String>,
}

/// The members of a target are the addresses of the host in its url.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct MembersDns {}

/// Which endpoints of a Service are polled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Include {
    /// Endpoints that pass their readiness probe, terminating or not.
    #[default]
    Serving,
    /// Endpoints that are ready, which terminating ones never are.
    Ready,
    /// Every endpoint that has an address.
    All,
}

const fn limit() -> u32 {
    100
}

const fn sample_limit() -> u32 {
    50_000
}

impl Default for Members {
    fn default() -> Self {
        Self { service: None, dns: None, include: Include::default(), limit: limit(), sample_limit: sample_limit() }
    }
}
