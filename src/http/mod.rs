//! The HTTP side: what pollers know, for Prometheus, for people and for scripts.
//!
//! It reads; it never polls by itself, contacts no server, and knows nothing of where targets come from.

mod api;
mod auth;
mod connection;
mod debug;
mod discovery;
mod filter;
mod handshake;
mod hosts;
mod limits;
mod lookup;
mod metrics;
mod page;
mod peer;
mod probe;
mod rate;
mod reply;
mod serve;
mod time;
mod tls;
mod turns;
mod view;
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
pub use hosts::{HostPattern, Hosts};
pub use limits::Limits;
pub use metrics::TARGET_FAMILIES;
pub use serve::serve;
pub use web_config::{WebConfig, WebConfigError};

use crate::poll::Pollers;
use crate::self_metrics::SelfMetrics;
use lookup::Index;
use web_config::Stranger;

/// What can be set about the answers.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where Prometheus reaches us, if it is not the host that it asks `/sd` at; its path is a prefix of every path.
    pub external_url: Option<Url>,
    /// Whether `/probe` also takes a name without its namespace, or the declared url, where it is unique.
    pub loose_targets: bool,
    /// The names under which it answers.
    pub hosts: Hosts,
    /// From its cancellation on, `/-/ready` says no; everything else is answered as before.
    pub draining: CancellationToken,
}

/// What every handler may use.
struct App {
    pollers: Arc<Pollers>,
    self_metrics: Arc<SelfMetrics>,
    settings: Settings,
    index: Index,
}

/// Every path, and what it is for: the answer to a path that does not exist.
const PATHS: &[(&str, &str)] = &[
    ("/", "the targets, for people"),
    ("/probe?target=NAMESPACE/NAME", "the metrics of one target; with &debug=true how they came about"),
    ("/metrics", "the metrics of the exporter itself"),
    ("/sd", "the targets, for Prometheus' http_sd_configs"),
    ("/api/v1/targets", "the targets, for scripts"),
    ("/-/healthy", "whether the process lives"),
    ("/-/ready", "whether the targets are known"),
];

/// All paths. Where the external url has a path, they are there as well: a proxy may cut it off or leave it.
pub fn router(pollers: Arc<Pollers>, self_metrics: Arc<SelfMetrics>, settings: Settings) -> Router {
    let external = path_prefix(settings.external_url.as_ref());
    let hosts = Arc::new(settings.hosts.clone());
    let app = Arc::new(App { pollers, self_metrics, settings, index: Index::default() });
    // Without the check that refuses paths of older routers: a prefix may begin with anything.
    let mut router = Router::new().without_v07_checks();
    let prefixes: &[&str] = if external.is_empty() { &[""] } else { &["", &external] };
    for prefix in prefixes {
        router = router
            .route(&format!("{prefix}/"), get(page::page))
            .route(&format!("{prefix}/probe"), get(probe::probe))
            .route(&format!("{prefix}/metrics"), get(metrics::metrics))
            .route(&format!("{prefix}/sd"), get(discovery::discovery))
            .route(&format!("{prefix}/api/v1/targets"), get(api::targets))
            .route(&format!("{prefix}/-/healthy"), get(healthy))
            .route(&format!("{prefix}/-/ready"), get(ready));
    }
    let router = router.method_not_allowed_fallback(wrong_method).fallback(unknown_path).with_state(app);
    router.layer(middleware::from_fn_with_state(hosts, hosts::check))
}

/// Whether a path is one of those that health checks ask for, behind whatever prefix.
fn is_health(path: &str) -> bool {
    path.ends_with("/-/healthy") || path.ends_with("/-/ready")
}

/// The path of the external url without its last slash; empty if there is none.
fn path_prefix(external_url: Option<&Url>) -> String {
    external_url.map(|url| url.path().trim_end_matches('/').to_owned()).unwrap_or_default()
}

async fn healthy() -> Response {
    reply::text(StatusCode::OK, "healthy\n")
}

async fn ready(State(app): State<Arc<App>>, request: Request) -> Response {
    let is_stranger = request.extensions().get::<Stranger>().is_some();
    if app.settings.draining.is_cancelled() {
        reply::text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n")
    } else if let Some(why) = app.pollers.unknown() {
        // The reason names files of ours.
        let text = if is_stranger { "the targets are not known yet".to_owned() } else { reply::unknown_yet(&why) };
        reply::text(StatusCode::SERVICE_UNAVAILABLE, text + "\n")
    } else {
        reply::text(StatusCode::OK, "ready\n")
    }
}

async fn wrong_method() -> Response {
    const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD");
    let text = "everything here is read by GET or HEAD\n";
    ([(header::ALLOW, ALLOWED)], reply::text(StatusCode::METHOD_NOT_ALLOWED, text)).into_response()
}

async fn unknown_path() -> Response {
    let mut text = "there is nothing at this path; there is\n".to_owned();
    for (path, what) in PATHS {
        let _ = writeln!(text, "  {path:<30} {what}"); // a String takes everything
    }
    reply::text(StatusCode::NOT_FOUND, text)
}
