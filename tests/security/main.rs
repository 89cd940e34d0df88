//! Attacks on the real program, by a tenant, a hostile server, or anybody who reaches the port; each with honest targets beside it that
//! must not notice. docs/security.md says which promise each of them tries to break.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod certificates;
mod connections;
mod credentials;
mod demo;
mod destinations;
mod documents;
mod families;
mod floods;
mod hosts;
mod memory;
mod names;
mod passwords;
mod patterns;
mod probes;
mod rates;
