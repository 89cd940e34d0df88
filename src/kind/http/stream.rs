//! The stream under a connection: what is read from it is counted, and it is noted when the first byte came and what TLS failed with.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use crate::dial::{StreamObserver, YieldingStream, broken};
use crate::failure::{CallError, Reason};
use crate::kind::probe::BoxedStream;

/// A stream with a meter.
pub(super) type MeteredStream = YieldingStream<BoxedStream, Arc<Meter>>;

/// The most bytes until the header of the answer is complete: interim responses, or frames of HTTP/2, could go on for ever.
const MAX_BEFORE_HEADER: usize = 1 << 20;

/// What was read from a stream.
#[derive(Debug, Default)]
pub(super) struct Meter {
    read: AtomicUsize,
    has_header: AtomicBool,
    first_byte: OnceLock<Instant>,
    rejection: OnceLock<CallError>,
}

impl Meter {
    /// When the first byte came.
    pub(super) fn first_byte(&self) -> Option<Instant> {
        self.first_byte.get().copied()
    }

    /// Whether too much came before the header was complete. Reading has failed then, and HTTP/2 does not pass on why.
    pub(super) fn flood(&self) -> Option<NoHeaderError> {
        let is_flood = self.read.load(Ordering::Relaxed) > MAX_BEFORE_HEADER && !self.has_header.load(Ordering::Relaxed);
        is_flood.then_some(NoHeaderError)
    }

    /// What TLS failed with, as when the server rejects our certificate. HTTP/2 does not pass on that either.
    pub(super) fn rejection(&self) -> Option<CallError> {
        self.rejection.get().cloned()
    }

    /// The header of the answer is complete.
    pub(super) fn has_header(&self) {
        self.has_header.store(true, Ordering::Relaxed);
    }
}

impl StreamObserver for Arc<Meter> {
    fn read(&self, bytes: &[u8]) -> io::Result<()> {
        if !bytes.is_empty() {
            self.first_byte.get_or_init(Instant::now);
        }
        self.read.fetch_add(bytes.len(), Ordering::Relaxed);
        self.flood().map_or(Ok(()), |flood| Err(io::Error::other(flood)))
    }

    fn failed(&self, error: &io::Error) {
        let error = broken(error);
        if error.reason == Reason::Tls {
            self.rejection.get_or_init(|| error);
        }
    }
}

/// A server sent much, and no header.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server sent more than {} KiB, and its answer had not begun", MAX_BEFORE_HEADER >> 10)]
pub(super) struct NoHeaderError;
