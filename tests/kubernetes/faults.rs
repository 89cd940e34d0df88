//! What goes wrong between the exporter and its API server, made for real: what was known is polled on, and what happened meanwhile is
//! noticed afterwards.

mod away;
mod busy;
mod large;
mod malformed;
mod missing;
