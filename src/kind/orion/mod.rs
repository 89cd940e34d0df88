//! FIWARE Orion Context Broker, by the four documents of its monitoring API.
//!
//! `admin_metrics` is the primary call. A broker started with `-disableMetrics` answers it with 400 and a special message. Such a broker
//! works, so the call counts as successful, `orion_up` is 1 and `orion_metrics_enabled` is 0. Any other 400, as for a wrong URL, is a
//! failure.
//!
//! The exporter's requests have a `fiware-service` of their own, so that Orion counts them separately from those of users. They never have
//! a `content-type`, with which Orion rejects a GET, and never request a reset, which would affect other users of the statistics.

mod api;
mod broker;
mod metrics;
mod service_time;
mod traffic;

use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::api::{AdminMetrics, ErrorBody};
use self::service_time::ServiceTimes;
use super::{Answer, Call, CallError, Context, JsonField, Kind, Method, Number, Reason};
use crate::metric::{Desc, Families, Filter};

/// What is asked of an Orion broker, and how finely its traffic is told apart.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// Series per subservice, per service, or for the whole broker.
    pub level: Level,
    /// Request `/statistics`.
    pub statistics: bool,
    /// Request `/cache/statistics`.
    pub cache_statistics: bool,
    /// Request `/version`.
    pub version: bool,
    /// The `Fiware-Service` of the exporter's own requests, so that Orion counts them separately.
    #[schemars(regex(pattern = r"^[a-z0-9_]{1,50}$"))]
    pub fiware_service: String,
    /// Export the exporter's own requests as well.
    pub include_own_traffic: bool,
}

/// How finely traffic is told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Level {
    /// Labels `service` and `subservice`.
    #[default]
    Subservice,
    /// Label `service`.
    Service,
    /// No label.
    Total,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            level: Level::default(),
            statistics: true,
            cache_statistics: true,
            version: true,
            fiware_service: "scrapetarget_exporter".to_owned(),
            include_own_traffic: false,
        }
    }
}

impl super::Options for Options {
    const URL_USAGE: &'static str = "admin/metrics, statistics, cache/statistics and version are appended to its path";
    const OWN_HEADERS: &'static [(&'static str, &'static str)] =
        &[(SERVICE_HEADER, "write orion.fiwareService instead")];
}

impl super::CallOptions for Options {
    fn build(&self, url: &Url) -> Box<dyn Kind> {
        Box::new(Orion { options: self.clone(), url: url.clone(), service_times: ServiceTimes::default() })
    }
}

/// Every family of this kind.
pub fn families() -> Vec<&'static Desc> {
    metrics::FAMILIES.to_vec()
}

/// The header under whose value Orion counts a request.
const SERVICE_HEADER: &str = "fiware-service";

/// An endpoint of the monitoring API: one call.
#[derive(Clone, Copy, PartialEq)]
enum Endpoint {
    AdminMetrics,
    Statistics,
    CacheStatistics,
    Version,
}

impl Endpoint {
    const fn name(self) -> &'static str {
        match self {
            Self::AdminMetrics => "admin_metrics",
            Self::Statistics => "statistics",
            Self::CacheStatistics => "cache_statistics",
            Self::Version => "version",
        }
    }

    const fn path(self) -> &'static [&'static str] {
        match self {
            Self::AdminMetrics => &["admin", "metrics"],
            Self::Statistics => &["statistics"],
            Self::CacheStatistics => &["cache", "statistics"],
            Self::Version => &["version"],
        }
    }
}

impl Options {
    /// The calls in their order.
    fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        [
            (Endpoint::AdminMetrics, true),
            (Endpoint::Statistics, self.statistics),
            (Endpoint::CacheStatistics, self.cache_statistics),
            (Endpoint::Version, self.version),
        ]
        .into_iter()
        .filter_map(|(endpoint, is_wanted)| is_wanted.then_some(endpoint))
    }
}

struct Orion {
    options: Options,
    url: Url,
    service_times: ServiceTimes,
}

impl Kind for Orion {
    fn calls(&self, _: Option<&Filter>) -> Vec<Call> {
        self.options.endpoints().map(|endpoint| self.call(endpoint)).collect()
    }

    fn translate(&mut self, answers: &[Answer], cx: &Context, out: &mut Families) -> Vec<Result<(), CallError>> {
        let answer = |wanted| self.options.endpoints().zip(answers).find(|(endpoint, _)| *endpoint == wanted).map(|(_, answer)| answer);
        let statistics = answer(Endpoint::Statistics).map(|answer| broker::write_statistics(answer, out));
        let cache = answer(Endpoint::CacheStatistics).map(|answer| broker::write_cache(answer, out));
        let version = answer(Endpoint::Version).map(|answer| broker::write_version(answer, out));
        let uptimes = [&statistics, &version].map(|call| call.as_ref().and_then(|call| call.as_ref().ok()).copied());
        write_uptime(uptimes, out);
        let metrics = answer(Endpoint::AdminMetrics).map(|answer| self.write_metrics(answer, cx, out));
        [metrics, statistics.map(|call| call.map(drop)), cache, version.map(|call| call.map(drop))]
            .into_iter()
            .flatten()
            .collect()
    }
}

impl Orion {
    fn call(&self, endpoint: Endpoint) -> Call {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(endpoint.path());
        }
        url.set_query(None);
        let headers = vec![
            ("accept", "application/json".to_owned()),
            (SERVICE_HEADER, self.options.fiware_service.clone()),
            ("fiware-servicepath", "/".to_owned()),
        ];
        Call { name: endpoint.name(), method: Method::Get, url, headers, timeout_header: None }
    }

    fn write_metrics(&mut self, answer: &Answer, cx: &Context, out: &mut Families) -> Result<(), CallError> {
        let metrics = read_metrics(answer);
        out.set(&metrics::UP, &[], if metrics.is_ok() { 1.0 } else { 0.0 });
        if let Some(metrics) = metrics? {
            out.set(&metrics::METRICS_ENABLED, &[], 1.0);
            traffic::write(&metrics, &self.options, &mut self.service_times, cx.sample_limit, out);
        } else {
            out.set(&metrics::METRICS_ENABLED, &[], 0.0);
            self.service_times.forget();
        }
        Ok(())
    }
}

/// Two documents report the uptime. It is exported once, from the first valid one.
fn write_uptime(uptimes: [Option<Number>; 2], out: &mut Families) {
    let mut uptimes = uptimes.into_iter().flatten().filter(|uptime| *uptime != Number::Absent);
    for uptime in uptimes.by_ref() {
        out.number(&metrics::UPTIME, &[], uptime);
        if uptime != Number::Invalid {
            return;
        }
    }
}

/// The document of `/admin/metrics`; `None` if the broker was started without metrics, which is not an error.
fn read_metrics(answer: &Answer) -> Result<Option<AdminMetrics>, CallError> {
    if let Answer(Ok(response)) = answer
        && response.status == 400
    {
        let body: JsonField<ErrorBody> = serde_json::from_slice(&response.body).unwrap_or_default();
        match body.as_ref().and_then(|body| body.description.value()) {
            Some("metrics desactivated" | "metrics deactivated") => return Ok(None), // the first is what brokers write
            Some(description) if description.starts_with("Service not found") => {
                let message = "answered 400, service not found: the url is not that of an Orion of 1.7.0 or newer";
                return Err(CallError::new(Reason::HttpStatus, message));
            }
            _ => {}
        }
    }
    let metrics: AdminMetrics = require(answer.json()?, "the document")?;
    match metrics.services {
        JsonField::Value(_) => Ok(Some(metrics)),
        JsonField::Absent => {
            Err(CallError::new(Reason::Schema, "the JSON has no \"services\": it is not Orion's /admin/metrics"))
        }
        JsonField::Invalid => Err(CallError::new(Reason::Schema, "\"services\" is not an object")),
    }
}

/// The object, for parts that every valid document has.
fn require<T>(object: JsonField<T>, what: &str) -> Result<T, CallError> {
    match object {
        JsonField::Value(object) => Ok(object),
        JsonField::Absent => Err(CallError::new(Reason::Schema, format!("{what} is missing"))),
        JsonField::Invalid => Err(CallError::new(Reason::Schema, format!("{what} is not an object"))),
    }
}
