//! ScrapeTarget as users write it. The doc comments of the fields are what `kubectl explain` prints, so they speak to users.
//!
//! Constant defaults are in the schema. Defaults that depend on other fields are methods of [`ScrapeTargetSpec`], and nowhere else.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::access::{Authorization, BasicAuth, Header, TlsConfig};
use super::members::Members;
use super::monitor::Monitor;
use super::oauth2::OAuth2;
use super::{rules, schema};
use crate::kind::{self, MaxAge};
use crate::time::PromDuration;

/// Which server is polled, how often, and how the exporter connects to it.
#[expect(clippy::duplicated_attributes, reason = "several columns have the same type")]
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "scrapetarget.dev",
    version = "v1alpha1",
    kind = "ScrapeTarget",
    plural = "scrapetargets",
    shortname = "st",
    category = "monitoring",
    namespaced,
    status = "ScrapeTargetStatus",
    derive = "PartialEq",
    doc = "ScrapeTarget declares a server that the exporter polls and Prometheus discovers.",
    selectable = ".spec.type",
    selectable = ".spec.url",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url"),
    printcolumn(name = "Up", type_ = "string", json_path = ".status.conditions[?(@.type=='Up')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Up')].reason"),
    printcolumn(name = "Interval", type_ = "string", json_path = ".spec.interval", priority = 1),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status",
        priority = 1
    ),
    printcolumn(
        name = "Scraped",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Scraped')].status",
        priority = 1
    ),
    printcolumn(name = "Members", type_ = "string", json_path = ".status.members", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = schema::tidy, transform = rules::attach)]
pub struct ScrapeTargetSpec {
    /// The type of the server. It determines which of the type-specific blocks may be set.
    #[serde(rename = "type")]
    pub kind: kind::Type,
    /// The URL of the server. The description in the schema also says how each type uses it.
    #[schemars(length(min = 1, max = 2048), description = url_description())]
    pub url: String,
    /// The processes of an application that runs as several pods. If not set, url must lead to one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Members>,
    /// How often the target is polled, from 1s to 1h.
    #[serde(default = "interval")]
    pub interval: PromDuration,
    /// The timeout of a poll, including all its calls; at most interval. Defaults to the smaller of 10s and interval. With members, it is the
    /// timeout of each member, which is shortened if less time remains of interval after the members were started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<PromDuration>,
    /// The maximum age of the data that a scrape returns without a new poll. The description in the schema also names the types with another
    /// default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(description = max_age_description())]
    pub max_age: Option<PromDuration>,
    /// Suspend polling. A suspended target stays declared, but has no ServiceMonitor and no entry in /sd.
    #[serde(default)]
    pub suspend: bool,
    /// Labels that discovery adds to every series of this target. With members, not pod and member.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::texts::<32, 256>")]
    pub labels: BTreeMap<String, String>,
    /// Headers that are sent with every request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub headers: Vec<Header>,
    /// HTTP basic authentication for the target. Mutually exclusive with authorization and oauth2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
    /// Authentication for the target with the header Authorization. Mutually exclusive with basicAuth and oauth2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Authorization>,
    /// Authentication for the target with a token that is obtained by OAuth 2.0. Mutually exclusive with basicAuth and authorization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth2: Option<Box<OAuth2>>,
    /// TLS settings of a target with TLS: verification of its certificate, and the client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_config: Option<TlsConfig>,
    /// Proxy for the requests to the target, for instance `http://proxy:3128`, `https://proxy:3129` or `socks5h://proxy:1080`. `socks5://`
    /// means the same as `socks5h://`, as in Prometheus. If not set, no proxy is used; proxy variables in the environment of the exporter are
    /// ignored. Not with members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub proxy_url: Option<String>,
    /// User name and password for the proxy in proxyUrl. They are sent to the proxy only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_auth: Option<BasicAuth>,
    /// TLS settings of a proxy with `https://` in proxyUrl. If not set, its certificate is verified as tlsConfig says for the target, and it
    /// gets no client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_tls_config: Option<TlsConfig>,
    /// Which hosts are reached without the proxy, as Prometheus reads its `no_proxy`: host names with all names below them, `.domain` for the names
    /// below alone, addresses, CIDR ranges, or `*`, with commas between them. A name or an address may have a port. If set, localhost and
    /// loopback addresses are always reached without the proxy. It is compared with the host in url and, with type Http, in redirects; no
    /// name is resolved for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub no_proxy: Option<String>,
    /// Which address of the host is probed if it has IPv4 and IPv6 addresses: ip4 (the default) or ip6. Only with types that probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_ip_protocol: Option<IpProtocol>,
    /// Whether an address of the other IP version is probed if the host has none of the preferred one. Defaults to true. Only with types that
    /// probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_protocol_fallback: Option<bool>,
    /// The address of the exporter's own from which probes are sent. Only with types that probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 39))]
    pub source_ip_address: Option<String>,
    /// Maximum number of series of one poll; with members, of each member. If it is exceeded, detailed series are dropped first; the poll
    /// fails only if that is not sufficient. The administrator of the exporter may set a lower limit.
    #[serde(default = "sample_limit")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub sample_limit: u32,
    /// Which families are exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
    /// The ServiceMonitor that the exporter creates for this target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Monitor>,
    /// The block of the target's type.
    #[serde(flatten)]
    pub blocks: kind::Blocks,
}

/// A version of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IpProtocol {
    /// IPv4.
    Ip4,
    /// IPv6.
    Ip6,
}

/// Which families are exported, by regular expressions on their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct Metrics {
    /// Export only families whose full name matches one of these regular expressions. If empty, all are exported. A name over 128 bytes
    /// matches none. Each expression may take 8 KiB when compiled: write several instead of one with many alternatives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256)))]
    pub keep: Vec<String>,
    /// Do not export families whose full name matches one of these regular expressions. A name over 128 bytes matches none. Each expression
    /// may take 8 KiB when compiled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256)))]
    pub drop: Vec<String>,
}

const fn interval() -> PromDuration {
    PromDuration::from_secs(15)
}

const fn sample_limit() -> u32 {
    10_000
}

/// The description of `spec.url`, with a sentence of each kind.
fn url_description() -> String {
    let usages: Vec<_> = kind::Type::ALL.iter().map(|kind| format!("{kind}: {}.", kind.url_usage())).collect();
    format!(
        "The URL of the server. Without members, it must lead to one process. How it is written depends on the type. {}",
        usages.join(" ")
    )
}

/// The description of `spec.maxAge`, with the types whose default is another one.
fn max_age_description() -> String {
    let zero: Vec<_> =
        kind::Type::ALL.iter().filter(|kind| kind.max_age() == MaxAge::Zero).map(|kind| kind.as_str()).collect();
    format!(
        "The maximum age of the data that a scrape returns without a new poll; at most interval. Defaults to 0.9 of interval, and to 0s with \
         type {}. With 0s, every scrape polls the target.",
        zero.join(", ")
    )
}

impl ScrapeTargetSpec {
    /// The spec with nothing but what must be there; all else has its default.
    pub fn new(kind: kind::Type, url: impl Into<String>) -> Self {
        Self {
            kind,
            url: url.into(),
            members: None,
            interval: interval(),
            timeout: None,
            max_age: None,
            suspend: false,
            labels: BTreeMap::new(),
            headers: Vec::new(),
            basic_auth: None,
            authorization: None,
            oauth2: None,
            tls_config: None,
            proxy_url: None,
            proxy_auth: None,
            proxy_tls_config: None,
            no_proxy: None,
            preferred_ip_protocol: None,
            ip_protocol_fallback: None,
            source_ip_address: None,
            sample_limit: sample_limit(),
            metrics: None,
            monitor: None,
            blocks: kind::Blocks::default(),
        }
    }

    /// The time between polls.
    pub fn effective_interval(&self) -> Duration {
        self.interval.get()
    }

    /// `timeout`, or the smaller of 10 s and the interval.
    pub fn effective_timeout(&self) -> Duration {
        self.timeout.map_or_else(|| self.effective_interval().min(Duration::from_secs(10)), PromDuration::get)
    }

    /// `maxAge`, or what it is by default for the type: nine tenths of the interval, or zero.
    pub fn effective_max_age(&self) -> Duration {
        let default = || match self.kind.max_age() {
            MaxAge::OfInterval => self.effective_interval() * 9 / 10,
            MaxAge::Zero => Duration::ZERO,
        };
        self.max_age.map_or_else(default, PromDuration::get)
    }

    /// The time within which all members begin to be polled: a tenth of the interval, at most 1 s; zero without `members`.
    pub fn effective_spread(&self) -> Duration {
        self.members.as_ref().map_or(Duration::ZERO, |_| (self.effective_interval() / 10).min(Duration::from_secs(1)))
    }

    /// `monitor.interval`, or the smaller of the interval and two minutes: Prometheus forgets a series after five.
    pub fn effective_scrape_interval(&self) -> Duration {
        let written = self.monitor.as_ref().and_then(|monitor| monitor.interval);
        written.map_or_else(|| self.effective_interval().min(Duration::from_mins(2)), PromDuration::get)
    }

    /// `monitor.scrapeTimeout`, or the smaller of the scrape interval and the timeout plus a second, plus the time in which members begin.
    pub fn effective_scrape_timeout(&self) -> Duration {
        let written = self.monitor.as_ref().and_then(|monitor| monitor.scrape_timeout);
        let most = self.effective_scrape_interval();
        written.map_or_else(
            || most.min(self.effective_timeout() + self.effective_spread() + Duration::from_secs(1)),
            PromDuration::get,
        )
    }
}

/// The state of a target, as reported by the exporter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = schema::tidy)]
pub struct ScrapeTargetStatus {
    /// The generation of the spec that the conditions describe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Accepted`, `MonitorReady`, `Up` and `Scraped`. They change only when the state changes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// How many members a target with `spec.members` has. Written at most once a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<MembersStatus>,
}

/// How many members a target has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MembersStatus {
    /// Members that were found, whether they are polled or not.
    pub found: u32,
    /// Members whose last poll was successful.
    pub up: u32,
}

/// One aspect of the state of a target, in the format of `metav1.Condition`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// The type of the condition.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 316))]
    pub kind: String,
    /// True, False or Unknown.
    pub status: ConditionStatus,
    /// The generation of the spec that the condition describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the status last changed.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// The reason of the status, one word in CamelCase.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// A message for humans.
    #[schemars(length(max = 32768))]
    pub message: String,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told.
    Unknown,
}
