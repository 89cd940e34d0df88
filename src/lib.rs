//! A multi-target Prometheus exporter for real-time media servers and context brokers, and for probes of anything else.
//!
//! The flow of data, and the only direction in which modules depend on each other:
//!
//! ```text
//! crd, file, k8s ──► target ──► poll ──► fetch ──► kind ──► metric
//!                                 └────► http
//! ```

pub mod app;
mod backoff;
pub mod budget;
pub mod cli;
pub mod convert;
pub mod crd;
pub mod dial;
pub mod error_chain;
pub mod failure;
pub mod fetch;
pub mod file;
pub mod host_pattern;
pub mod http;
pub mod k8s;
pub mod kind;
pub mod metric;
pub mod oauth2;
pub mod poll;
pub mod rule;
pub mod self_metrics;
pub mod stun;
pub mod target;
pub mod telemetry;
pub mod time;
pub mod tls;
pub mod yaml;

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The source revision of this build; `unknown` if `SCRAPETARGET_BUILD_REVISION` was not set.
pub const REVISION: &str = match option_env!("SCRAPETARGET_BUILD_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The compiler of this build.
pub const RUST_VERSION: &str = env!("SCRAPETARGET_BUILD_RUSTC");
