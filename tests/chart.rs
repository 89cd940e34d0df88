//! The Helm chart without a cluster: which values it takes, what it makes of them, and that nothing in it drifts from the program.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

#[path = "chart/adopted.rs"]
mod adopted;
#[path = "chart/alerts.rs"]
mod alerts;
#[path = "chart/generated.rs"]
mod generated;
#[path = "chart/notes.rs"]
mod notes;
#[path = "chart/objects.rs"]
mod objects;
#[path = "chart/pods.rs"]
mod pods;
#[path = "chart/rights.rs"]
mod rights;
#[path = "support/mod.rs"]
mod support;
#[path = "chart/values.rs"]
mod values;
