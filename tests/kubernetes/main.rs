//! Everything that needs a real Kubernetes API server: one binary, so that one server does for all.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../exporters/comparison.rs"]
mod comparison;
#[path = "../exporters/dashboards.rs"]
mod dashboards;
#[path = "../exporters/exposition.rs"]
mod exposition;

mod access;
mod chart;
mod check;
mod cluster;
mod examples;
mod exporter;
mod faults;
mod leader;
mod manifests;
mod members;
mod model;
mod monitor;
mod operator;
mod proxy;
mod schema;
mod secrets;
mod states;
mod status;
mod watch;
