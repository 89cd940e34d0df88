//! How much of the server its clients may take, with the defaults.

use std::time::Duration;

/// Bounds on what clients may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections; one more closes another.
    pub connections: usize,
    /// Connections above these while all are being answered: for health checks, and for whatever else is answered at once.
    pub reserve: usize,
    /// From the first byte of a request to the end of its header; also for the TLS handshake, and for the first byte after it.
    pub header: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// Without any progress of an answer.
    pub stall: Duration,
    /// For a whole answer, however steadily it is read.
    pub answer: Duration,
    /// That a request waits for a place among those that wait for a poll; and for how long each of these keeps its own while others want
    /// it.
    pub patience: Duration,
    /// For the requests in flight when the server stops.
    pub drain: Duration,
}

impl Limits {
    /// Requests of one address that may wait for polls: one that scrapes thousands of targets at once has enough of
    /// them, and the others always have a quarter.
    pub(super) fn requests_per_peer(&self) -> usize {
        (self.connections - self.connections / 4).max(1)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            reserve: 32,
            header: Duration::from_secs(5),
            idle: Duration::from_mins(5),
            stall: Duration::from_secs(30),
            answer: Duration::from_mins(2),
            patience: Duration::from_secs(5),
            drain: Duration::from_secs(15),
        }
    }
}
