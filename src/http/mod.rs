//! The HTTP server: the results of polls for Prometheus, for users and for scripts.
//!
//! It only reads: it does not poll, contacts no server, and does not know where targets come from.

mod api;
mod connection;
mod connection_limiter;
mod debug;
mod fair_semaphore;
mod handshake;
mod host;
mod members;
mod metrics;
mod page;
mod probe;
mod response;
mod server;
mod targets;
mod time;
mod web_config;

use std::fmt::Write;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use reqwest::Url;
use tokio_util::sync::CancellationToken;

pub use debug::debug_text;
pub use host::{AllowedWebHost, HostAllowlist};
pub use metrics::TARGET_FAMILIES;
pub use server::{ServerLimits, serve};
pub use web_config::{WebConfig, WebConfigError};

use crate::poll::Pollers;
use crate::self_metrics::SelfMetrics;
use targets::TargetIndex;
use web_config::Unauthenticated;

/// Settings of the router.
#[derive(Clone, Debug, Default)]
pub struct RouterOptions {
    /// The URL under which Prometheus reaches us, if it is not the host of its request to `/sd`. Its path is a prefix of all paths.
    pub external_url: Option<Url>,
    /// Whether `/probe` also accepts a name without namespace, or the declared url, if it is unique.
    pub loose_targets: bool,
    /// The host names that requests may be for.
    pub hosts: HostAllowlist,
    /// Once cancelled, `/-/ready` answers 503; all other paths are served as before.
    pub draining: CancellationToken,
}

/// The state of all handlers.
struct AppState {
    pollers: Arc<Pollers>,
    self_metrics: Arc<SelfMetrics>,
    options: RouterOptions,
    index: TargetIndex,
}

/// All paths and their purpose, listed in the response to an unknown path.
const PATHS: &[(&str, &str)] = &[
    ("/", "the targets, for people"),
    (
        "/probe?target=NAMESPACE/NAME",
        "the metrics of one target; with &debug=true the details of the poll, with &debug=true&pod=NAME those of one of its pods",
    ),
    ("/metrics", "the metrics of the exporter itself"),
    ("/sd", "the targets, for Prometheus' http_sd_configs"),
    ("/api/v1/targets", "the targets, for scripts"),
    ("/-/healthy", "whether the process is running"),
    ("/-/ready", "whether the targets are known"),
];

/// All paths. If the external URL has a path, they are served below it as well: a proxy may strip it or leave it.
pub fn router(pollers: Arc<Pollers>, self_metrics: Arc<SelfMetrics>, options: RouterOptions) -> Router {
    let external = path_prefix(options.external_url.as_ref());
    let hosts = Arc::new(options.hosts.clone());
    let app = Arc::new(AppState { pollers, self_metrics, options, index: TargetIndex::default() });
    // The check refuses the path syntax of older versions of axum, but a prefix may begin with anything.
    let mut router = Router::new().without_v07_checks();
    let prefixes: &[&str] = if external.is_empty() { &[""] } else { &["", &external] };
    for prefix in prefixes {
        router = router
            .route(&format!("{prefix}/"), get(page::page))
            .route(&format!("{prefix}/probe"), get(probe::probe))
            .route(&format!("{prefix}/metrics"), get(metrics::metrics))
            .route(&format!("{prefix}/sd"), get(api::service_discovery))
            .route(&format!("{prefix}/api/v1/targets"), get(api::targets))
            .route(&format!("{prefix}/-/healthy"), get(healthy))
            .route(&format!("{prefix}/-/ready"), get(ready));
    }
    let router = router.method_not_allowed_fallback(wrong_method).fallback(unknown_path).with_state(app);
    router.layer(middleware::from_fn_with_state(hosts, host::check_host))
}

/// Whether a path is one of the health checks, behind whatever prefix.
fn is_health(path: &str) -> bool {
    path.ends_with("/-/healthy") || path.ends_with("/-/ready")
}

/// The path of the external URL without its last slash; empty if there is none.
fn path_prefix(external_url: Option<&Url>) -> String {
    external_url.map(|url| url.path().trim_end_matches('/').to_owned()).unwrap_or_default()
}

async fn healthy() -> Response {
    response::text(StatusCode::OK, "healthy\n")
}

async fn ready(State(app): State<Arc<AppState>>, request: Request) -> Response {
    let is_unauthenticated = request.extensions().get::<Unauthenticated>().is_some();
    if app.options.draining.is_cancelled() {
        response::text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n")
    } else if let Some(why) = app.pollers.unknown() {
        // The reason may name files, which not every client may know.
        let text = if is_unauthenticated {
            "the targets are not known yet".to_owned()
        } else {
            response::targets_unknown(&why)
        };
        response::text(StatusCode::SERVICE_UNAVAILABLE, text + "\n")
    } else {
        response::text(StatusCode::OK, "ready\n")
    }
}

async fn wrong_method() -> Response {
    const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD");
    let text = "everything here is read by GET or HEAD\n";
    ([(header::ALLOW, ALLOWED)], response::text(StatusCode::METHOD_NOT_ALLOWED, text)).into_response()
}

async fn unknown_path() -> Response {
    let mut text = "there is nothing at this path; there is\n".to_owned();
    for (path, what) in PATHS {
        let _ = writeln!(text, "  {path:<30} {what}"); // writing to a String cannot fail
    }
    response::text(StatusCode::NOT_FOUND, text)
}
