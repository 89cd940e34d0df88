//! A simulated Orion Context Broker 4.7: its monitoring API, with the rules, bugs and messages of the real one, and tenants that use it.
//!
//! The context management API itself is not simulated. As in the real broker, every request is counted under the service that it names, and
//! appears in the next response.

mod books;
mod load;
mod statistics;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use self::books::{Books, Traffic};
use self::load::Load;
use self::statistics::{Cache, Statistics};
use super::{Noise, Switch, Uptime};

/// The broker. Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Broker {
    inside: Arc<Mutex<Inside>>,
    switch: Switch,
}

#[derive(Debug)]
struct Inside {
    clock: Uptime,
    /// The time by which the simulation was advanced.
    skipped: Duration,
    /// The uptime up to which the tenants have acted.
    reached: Duration,
    noise: Noise,
    load: Load,
    books: Books,
    statistics: Statistics,
    cache: Cache,
    metrics_disabled: bool,
    blocks: bool,
}

impl Broker {
    /// A broker that starts now. Brokers of the same seed have the same users.
    pub fn new(seed: u64) -> Self {
        let inside = Inside {
            clock: Uptime::default(),
            skipped: Duration::ZERO,
            reached: Duration::ZERO,
            noise: Noise::new(seed),
            load: Load::default(),
            books: Books::default(),
            statistics: Statistics::default(),
            cache: Cache::default(),
            metrics_disabled: false,
            blocks: true,
        };
        Self { inside: Arc::new(Mutex::new(inside)), switch: Switch::default() }
    }

    /// Its routes.
    pub fn routes(&self) -> Router {
        self.switch.guard(Router::new().fallback(answer).with_state(self.clone()))
    }

    /// The switch of its mode.
    pub fn switch(&self) -> Switch {
        self.switch.clone()
    }

    /// As if started with `-disableMetrics`, or not.
    pub fn disable_metrics(&self, disabled: bool) {
        self.inside().metrics_disabled = disabled;
    }

    /// Whether `/statistics` has the blocks of the flags `-statCounters`, `-statSemWait`, `-statTiming` and `-statNotifQueue`.
    pub fn statistics_blocks(&self, shown: bool) {
        self.inside().blocks = shown;
    }

    /// Sets the traffic counters to 0, as a `DELETE /admin/metrics` by another client does.
    pub fn reset(&self) {
        let mut inside = self.inside();
        inside.catch_up();
        inside.books.reset();
    }

    /// Advances the simulation, without waiting.
    pub fn pass(&self, time: Duration) {
        self.inside().skipped += time;
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(State(broker): State<Broker>, request: Request) -> Response {
    let mut inside = broker.inside();
    inside.catch_up();
    let reply = inside.handle(request.method(), request.uri(), request.headers());
    let [a, b] = [inside.noise.number(), inside.noise.number()];
    let correlator = format!("{:08x}-{:04x}-11f1-{:04x}-{:012x}", a >> 32, a & 0xffff, (a >> 16) & 0xffff, b >> 16);
    let mut response =
        (reply.status, [("fiware-correlator", correlator.as_str()), ("content-type", reply.content_type)], reply.body)
            .into_response();
    if let Some(allow) = reply.allow {
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allow));
    }
    response
}

/// A response that is being built.
struct Reply {
    status: StatusCode,
    content_type: &'static str,
    allow: Option<&'static str>,
    body: String,
}

impl Reply {
    const fn json(body: String) -> Self {
        Self { status: StatusCode::OK, content_type: "application/json", allow: None, body }
    }

    fn error(status: StatusCode, name: &str, description: &str) -> Self {
        let body = format!(r#"{{"error":"{name}","description":"{description}"}}"#);
        Self { status, ..Self::json(body) }
    }

    fn bad_request(description: &str) -> Self {
        Self::error(StatusCode::BAD_REQUEST, "BadRequest", description)
    }
}

/// The parts of the API that are simulated.
#[derive(Clone, Copy, PartialEq)]
enum Endpoint {
    Metrics,
    Statistics,
    CacheStatistics,
    Version,
    Log,
}

impl Endpoint {
    fn find(path: &str) -> Option<(Self, &'static str)> {
        match path.strip_suffix('/').unwrap_or(path) {
            "/admin/metrics" => Some((Self::Metrics, "/admin/metrics")),
            "/statistics" => Some((Self::Statistics, "/statistics")),
            "/cache/statistics" => Some((Self::CacheStatistics, "/cache/statistics")),
            "/version" => Some((Self::Version, "/version")),
            "/admin/log" => Some((Self::Log, "/admin/log")),
            _ => None,
        }
    }

    const fn allow(self) -> &'static str {
        match self {
            Self::Metrics | Self::Statistics | Self::CacheStatistics => "GET, DELETE",
            Self::Version | Self::Log => "GET", // the PUT of /admin/log changes the broker: not simulated
        }
    }
}

impl Inside {
    fn uptime(&self) -> Duration {
        self.clock.elapsed() + self.skipped
    }

    /// Lets the tenants do what they did since the last request.
    fn catch_up(&mut self) {
        let millis = u64::try_from(self.uptime().saturating_sub(self.reached).as_millis()).unwrap_or(0);
        self.reached += Duration::from_millis(millis);
        self.load.advance(millis, &mut self.noise, &mut self.books, &mut self.statistics);
    }

    fn handle(&mut self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Reply {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let service = text("fiware-service").to_ascii_lowercase();
        if let Err(why) = check_service(&service) {
            return Reply::bad_request(why);
        }
        let subservice = match subservice(text("fiware-servicepath")) {
            Ok(subservice) => subservice.to_owned(),
            Err(why) => return Reply::bad_request(why),
        };
        let reply = self.dispatch(method, uri, headers);
        let micros = 180 + self.noise.below(120);
        let traffic = Traffic {
            incoming: 1,
            incoming_errors: u64::from(reply.status.as_u16() >= 400),
            incoming_response_bytes: reply.body.len() as u64,
            service_micros: micros,
            ..Traffic::default()
        };
        self.books.count(&service, &subservice, &traffic);
        self.statistics.served(1, micros);
        reply
    }

    fn dispatch(&mut self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Reply {
        let Some((endpoint, url)) = Endpoint::find(uri.path()) else {
            self.statistics.invalid();
            return Reply::bad_request("Service not found. Check your URL as probably it is wrong.");
        };
        let method = match *method {
            Method::GET => "GET",
            Method::DELETE if endpoint.allow().ends_with("DELETE") => "DELETE",
            _ => {
                let reply = Reply::error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "method not allowed");
                return Reply { allow: Some(endpoint.allow()), ..reply };
            }
        };
        if headers.contains_key(header::CONTENT_TYPE) {
            return Reply::bad_request(
                "Orion accepts no payload for GET/DELETE requests. HTTP header Content-Type is thus forbidden",
            );
        }
        if let Err(reply) = check_accept(headers) {
            return reply;
        }
        let parameters = || uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        if let Some((name, _)) = parameters().find(|(_, value)| value.is_empty()) {
            return Reply::bad_request(&format!("Empty right-hand-side for URI param /{name}/"));
        }
        self.statistics.asked(method, url);
        let reset = method == "DELETE" || parameters().any(|pair| pair == ("reset", "true"));
        self.perform(endpoint, method == "DELETE", reset)
    }

    fn perform(&mut self, endpoint: Endpoint, delete: bool, reset: bool) -> Reply {
        let uptime = self.uptime();
        let all_reset = || Reply::json(r#"{"message":"All statistics counter reset"}"#.to_owned());
        match endpoint {
            Endpoint::Metrics if self.metrics_disabled => Reply::bad_request("metrics desactivated"),
            Endpoint::Metrics => {
                let tree = self.books.json();
                if reset {
                    self.books.reset();
                }
                if delete {
                    Reply { status: StatusCode::NO_CONTENT, ..Reply::json(String::new()) }
                } else {
                    Reply::json(tree)
                }
            }
            Endpoint::Statistics if delete => {
                self.statistics.reset(uptime);
                all_reset()
            }
            Endpoint::Statistics => Reply::json(self.statistics.json(uptime, self.blocks)),
            Endpoint::CacheStatistics if delete => {
                self.cache.reset(uptime);
                all_reset()
            }
            Endpoint::CacheStatistics => Reply::json(self.cache.json(uptime)),
            Endpoint::Version => Reply::json(version(uptime)),
            Endpoint::Log => Reply::json(
                r#"{"level":"WARN",      "infoPayloadMaxSize":5120,      "lineMaxSize":32768,      "deprecate":false}"#
                    .to_owned(),
            ),
        }
    }
}

fn check_service(service: &str) -> Result<(), &'static str> {
    if service.len() > 50 {
        return Err("bad length - a tenant name can be max 50 characters long");
    }
    if service.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        Ok(())
    } else {
        Err("bad character in tenant name - only underscore and alphanumeric characters are allowed")
    }
}

/// The raw name of the first path of a `Fiware-ServicePath`.
fn subservice(header: &str) -> Result<&str, &'static str> {
    let path = header.split(',').next().unwrap_or_default().trim();
    if !path.is_empty() && !path.starts_with('/') {
        return Err("Only /absolute/ Service Paths allowed [a service path must begin with /]");
    }
    let path = path.strip_suffix("/#").unwrap_or(path);
    Ok(path.strip_suffix('/').unwrap_or(path).trim_start_matches('/'))
}

fn check_accept(headers: &HeaderMap) -> Result<(), Reply> {
    let Some(accept) = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()) else { return Ok(()) };
    let ranges = || accept.split(',').map(|range| range.split(';').next().unwrap_or_default().trim());
    if ranges().any(|range| matches!(range, "application/json" | "application/*" | "*/*")) {
        return Ok(());
    }
    let refuse = |why| Reply::error(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", why);
    Err(if ranges().any(|range| matches!(range, "text/plain" | "text/*")) {
        Reply { content_type: "text/plain", ..refuse("acceptable MIME types: application/json") }
    } else {
        refuse("no acceptable mime-type in accept header")
    })
}

fn version(uptime: Duration) -> String {
    let seconds = uptime.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    format!(
        r#"{{
"orion" : {{
  "version" : "4.7.0",
  "uptime" : "{days} d, {hours} h, {minutes} m, {} s",
  "git_hash" : "nogitversion",
  "compile_time" : "Sat Nov 21 00:00:46 UTC 2026",
  "compiled_by" : "root",
  "compiled_in" : "vm",
  "release_date" : "Sat Nov 21 00:00:46 UTC 2026",
  "machine" : "x86_64",
  "doc" : "https://fiware-orion.rtfd.io/"
}}
}}
"#,
        seconds % 60
    )
}

#[cfg(test)]
mod tests;
