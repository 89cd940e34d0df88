//! How much of the server its clients may take, with the defaults.

use std::time::Duration;

/// Bounds on what clients may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections; one more closes the one that has been idle longest.
    pub connections: usize,
    /// From the first byte of a request to the end of its header; also for the TLS handshake, and for the first byte after it.
    pub header: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// Without any progress of an answer.
    pub stall: Duration,
    /// For the requests in flight when the server stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            header: Duration::from_secs(5),
            idle: Duration::from_mins(5),
            stall: Duration::from_secs(30),
            drain: Duration::from_secs(20),
        }
    }
}
